//! Servers that are not who the map says: never asked anything that counts, until the map changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientEvent, ClientMap, ErrorKind, Hydra, MapBuilder, ServerState, Swamp};

use crate::fake::{Fake, Reply, answer, fine, probed};

fn map(s1: &Fake, s2: &Fake) -> MapBuilder {
    let map = ClientMap::builder().cluster("eu").folders(4).server("s1", s1.url()).server("s2", s2.url());
    map.route("0-3", "s1", ["s2"])
}

async fn client(map: MapBuilder) -> (Hydra, Swamp, Arc<Mutex<Vec<ClientEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    let builder = Hydra::builder().map(map.build().expect("a map"));
    let builder = builder.on_event(move |event: &ClientEvent| told.lock().expect("lock").push(event.clone()));
    let hydra = builder.connect().await.expect("a client");
    let swamp = hydra.swamp("a/b/c").expect("a name");
    (hydra, swamp, events)
}

#[tokio::test]
async fn a_stranger_is_never_asked() {
    for (said, why) in [
        (probed("s2", "eu", 4, "0-3"), "says that it is \"s2\""),
        (probed("s1", "us", 4, "0-3"), "says that it is of cluster \"us\", the map is for \"eu\""),
        (probed("s1", "eu", 1000, "0-999"), "says that it has 1000 folders, the map has 4"),
    ] {
        let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
        s1.probe(Some(said));
        let (hydra, swamp, events) = client(map(&s1, &s2)).await;
        swamp.put("k", &1.into()).await.expect("stored at the fallback");
        assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
        assert_eq!((s1.asked().len(), s2.asked().len()), (0, 2), "{why}");
        assert_eq!(hydra.servers()[0].1, ServerState::Quarantined);
        // A write that only the primary may decide about is refused with the reason.
        let error = swamp.put("k", &1.into()).create_only().await.expect_err("nobody may be asked");
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Config, Applied::No), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(!hydra.fail_back("s1").expect("a server"), "no word of an operator makes it another server");
        let told = events.lock().expect("lock").iter().filter(|event| event.to_string().contains(why)).count();
        assert_eq!(told, 1, "{why}");
    }
}

#[tokio::test]
async fn one_asks_who_it_is_for_all_who_come_meanwhile() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    s1.probe(Some(Reply::Late(Duration::from_millis(100), Box::new(probed("s1", "eu", 4, "0-3")))));
    let (hydra, swamp, _) = client(map(&s1, &s2)).await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move { swamp.get("k").await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("read"), Some("s1".into()));
    }
    assert_eq!((s1.probes(), s1.asked().len(), s2.asked().len()), (1, 100, 0));

    // Whoever asked may have given up before the answer came.
    hydra.set_map(map(&s1, &s2).epoch(2).build().expect("a map")).expect("in force");
    let given_up = tokio::time::timeout(Duration::from_millis(20), swamp.get("k"));
    let (given_up, waited) = tokio::join!(given_up, swamp.get("k"));
    assert!(given_up.is_err() && waited.expect("read") == Some("s1".into()));
    assert_eq!((s1.probes(), s1.asked().len(), s2.asked().len()), (3, 101, 0));
}

#[tokio::test]
async fn the_deadline_holds_while_somebody_is_asked_who_it_is() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    for server in [&s1, &s2] {
        server.probe(Some(Reply::Stall));
    }
    let (_hydra, swamp, _) = client(map(&s1, &s2)).await;
    let begun = Instant::now();
    let error = swamp.put("k", &1.into()).deadline(Duration::from_millis(50)).await.expect_err("nobody says who it is");
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!((error.kind(), error.applied(), s1.asked().len()), (ErrorKind::Timeout, Applied::No, 0), "{error}");
}

#[tokio::test]
async fn a_changed_map_gives_it_another_chance() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    s1.probe(Some(probed("s2", "eu", 4, "0-3")));
    let (hydra, swamp, _) = client(map(&s1, &s2)).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    s1.probe(Some(probed("s1", "eu", 4, "0-3")));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()), "not before the map changes");
    hydra.set_map(map(&s1, &s2).epoch(2).build().expect("a map")).expect("in force");
    assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
    assert_eq!(hydra.servers()[0].1, ServerState::Up);
}

#[tokio::test]
async fn an_answer_of_another_server_is_not_believed() {
    // It does not say who it is when it is asked, and answers as somebody else.
    let s1 = Fake::start(|asked| match asked.method.as_str() {
        "GET" => answer(404, "s7", r#"{"type":"/problems/treasure-not-found","title":"t","status":404,"code":"treasure-not-found","detail":"d","applied":"no"}"#),
        _ => fine("s7")(asked),
    })
    .await;
    let s2 = Fake::start(fine("s2")).await;
    let (hydra, swamp, _) = client(map(&s1, &s2)).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()), "another server's absence is none");
    assert_eq!(hydra.servers()[0].1, ServerState::Quarantined);

    let (hydra, swamp, _) = client(map(&s1, &s2)).await;
    swamp.put("k", &1.into()).await.expect("stored where it belongs");
    let keys: Vec<_> = [s1.asked(), s2.asked()]
        .concat()
        .iter()
        .filter(|a| a.method == "PUT")
        .map(|a| a.header("idempotency-key").map(str::to_owned))
        .collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "it may have been done, so it has the same key: {keys:?}");
    assert_eq!(hydra.servers()[0].1, ServerState::Quarantined);
}

#[tokio::test]
async fn one_address_without_a_map_is_taken_as_it_is() {
    let s1 = Fake::start(fine("whoever")).await;
    s1.probe(Some(probed("whoever", "elsewhere", 7, "0-6")));
    let hydra = Hydra::connect(s1.url()).await.expect("a client");
    let swamp: Swamp = hydra.swamp("a/b/c").expect("a name");
    assert_eq!(swamp.get("k").await.expect("read"), Some("whoever".into()));
    assert_eq!(s1.probes(), 0);
}
