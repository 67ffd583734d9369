//! Folders that moved, or are about to: hints are followed, learned, and forgotten at the right time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientMap, ErrorKind, Hydra, MapBuilder, Settings, Swamp};

use crate::fake::{Asked, Fake, Reply, answer, fine, refusal};

fn map(epoch: u64, primary: &str, fakes: &[&Fake]) -> MapBuilder {
    let mut settings = Settings::default();
    (settings.deadline, settings.try_timeout) = (Duration::from_millis(1_500), Duration::from_millis(700));
    let mut map = ClientMap::builder().epoch(epoch).folders(4).settings(settings);
    for (index, fake) in fakes.iter().enumerate() {
        map = map.server(format!("s{}", index + 1), fake.url());
    }
    map.route("0-3", primary, [""; 0])
}

fn client(map: MapBuilder) -> (Hydra, Swamp) {
    let hydra = Hydra::with_map(map.build().expect("a map")).expect("a client");
    let swamp = hydra.swamp("a/b/c").expect("a name");
    (hydra, swamp)
}

/// A refusal that says where the folder is.
fn elsewhere(server: &str, code: &str, hint: &str) -> Reply {
    let Reply::Answer(status, mut headers, body) = refusal(421, server, code, "") else { unreachable!() };
    headers.push(("hydra-moved-to", hint.to_owned()));
    Reply::Answer(status, headers, body)
}

fn moved(server: &'static str, hint: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + Clone + 'static {
    move |_| elsewhere(server, "folder-moved", hint)
}

#[tokio::test]
async fn a_move_is_learned_until_a_map_is_as_young() {
    let (s1, s2) = (Fake::start(moved("s1", "s2; epoch=8; token=t")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    for _ in 0..3 {
        swamp.put("k", &1.into()).await.expect("stored at the owner");
    }
    assert_eq!((s1.asked().len(), s2.asked().len()), (1, 3), "one hop, once");
    assert!(s2.asked().iter().all(|asked| asked.header("hydra-fallback-for").is_none()));
    let redirect = hydra.locate(swamp.name()).redirect.expect("learned");
    assert_eq!((redirect.server.as_str(), redirect.epoch), ("s2", 8));

    // The other folders are not concerned.
    let other: Swamp = (0..)
        .map(|n| hydra.swamp(format!("a/b/{n}")).expect("a name"))
        .find(|other: &Swamp| hydra.locate(other.name()).folder != hydra.locate(swamp.name()).folder)
        .expect("a name");
    assert!(hydra.locate(other.name()).redirect.is_none());

    // A map between the two does not know of the move yet; one that is as young does.
    hydra.set_map(map(7, "s1", &[&s1, &s2]).build().expect("a map")).expect("the same again");
    assert!(hydra.locate(swamp.name()).redirect.is_some());
    hydra.set_map(map(8, "s2", &[&s1, &s2]).build().expect("a map")).expect("in force");
    assert!(hydra.locate(swamp.name()).redirect.is_none());
    swamp.put("k", &1.into()).await.expect("stored");
    assert_eq!((s1.asked().len(), s2.asked().len()), (1, 4));
}

#[tokio::test]
async fn a_map_that_came_too_early_leads_back_to_the_source() {
    let s1 = Fake::start(fine("s1")).await;
    let s2 = Fake::start(|_| elsewhere("s2", "folder-importing", "s1; epoch=7")).await;
    let (_hydra, swamp) = client(map(8, "s2", &[&s1, &s2]));
    swamp.put("k", &1.into()).await.expect("stored at the source");
    assert_eq!((s1.asked().len(), s2.asked().len()), (1, 1));
    swamp.put("k", &1.into()).await.expect("stored at the source");
    // Then the move ends, and what the source says is younger than what was learned.
    s1.behave(moved("s1", "s2; epoch=8; token=t"));
    s2.behave(fine("s2"));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    let asked = s1.asked().len();
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    assert_eq!(s1.asked().len(), asked);
}

#[tokio::test]
async fn old_news_and_unknown_servers_are_not_followed() {
    let s1 = Fake::start(moved("s1", "s2; epoch=9; token=t")).await;
    let (s2, s3) = (Fake::start(fine("s2")).await, Fake::start(fine("s3")).await);
    let (_hydra, swamp) = client(map(7, "s1", &[&s1, &s2, &s3]));
    swamp.get("k").await.expect("read");
    s2.behave(moved("s2", "s3; epoch=9; token=t"));
    let error = swamp.get("k").await.expect_err("as old as what is known");
    assert_eq!((error.kind(), s3.asked().len()), (ErrorKind::NotOwner, 0), "{error}");
    s2.behave(moved("s2", "s3; epoch=10; token=t"));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s3".into()));

    let s1 = Fake::start(moved("s1", "s9; epoch=9; token=t")).await;
    let (_hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    let error = swamp.put("k", &1.into()).await.expect_err("nobody in the map");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::NotOwner, Applied::No));
    assert!(error.to_string().contains("\"s9\", which the loaded map does not list"), "{error}");
}

#[tokio::test]
async fn three_hops_and_no_more() {
    let fakes = [
        Fake::start(moved("s1", "s2; epoch=11; token=t")).await,
        Fake::start(moved("s2", "s3; epoch=12; token=t")).await,
        Fake::start(moved("s3", "s4; epoch=13; token=t")).await,
        Fake::start(moved("s4", "s5; epoch=14; token=t")).await,
        Fake::start(fine("s5")).await,
    ];
    let all: Vec<&Fake> = fakes.iter().collect();
    let (_hydra, swamp) = client(map(7, "s1", &all));
    let error = swamp.put("k", &1.into()).await.expect_err("four hops");
    assert_eq!(
        (error.kind(), error.applied(), error.attempts().len()),
        (ErrorKind::NotOwner, Applied::No, 4),
        "{error}"
    );
    assert_eq!(fakes[4].asked().len(), 0);
    swamp.put("k", &1.into()).await.expect("what was learned makes the way shorter");
}

#[tokio::test]
async fn a_sealed_folder_is_waited_for_outside_of_the_attempts() {
    let sealed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sealed);
    let s1 = Fake::start(move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0..6 => refusal(503, "s1", "folder-sealed", ""),
        6 => moved("s1", "s2; epoch=8; token=t")(asked),
        _ => fine("s1")(asked),
    })
    .await;
    let s2 = Fake::start(fine("s2")).await;
    let (_hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    swamp.increment("n", 1).await.expect("counted at the new owner");
    let keys: std::collections::HashSet<_> = [s1.asked(), s2.asked()]
        .concat()
        .iter()
        .map(|asked| asked.header("idempotency-key").map(str::to_owned))
        .collect();
    assert_eq!((s1.asked().len(), s2.asked().len(), keys.len()), (7, 1, 1));

    // Whoever came in the last moment would get no answer in time, and not know whether it was refused.
    s1.behave(|asked| match asked.header("hydra-deadline-ms").and_then(|left| left.parse().ok()) {
        Some(25_u32..) => refusal(503, "s1", "folder-sealed", ""),
        _ => Reply::Stall,
    });
    let begun = Instant::now();
    let (_hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move { swamp.put("k", &1.into()).await.expect_err("sealed for ever") })
        })
        .collect();
    for call in calls {
        let error = call.await.expect("no panic");
        assert_eq!(
            (error.kind(), error.applied(), error.attempts().len()),
            (ErrorKind::Unavailable, Applied::No, 1),
            "{error}"
        );
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1_200) && took < Duration::from_millis(2_500), "{took:?}");
}

#[tokio::test]
async fn the_first_to_follow_brings_the_token() {
    let s1 = Fake::start(moved("s1", "s2; epoch=8; token=secret")).await;
    let is_active = Arc::new(AtomicUsize::new(0));
    let active = Arc::clone(&is_active);
    let s2 = Fake::start(move |asked| {
        if asked.target.ends_with("/activate") {
            let body: serde_json::Value = serde_json::from_slice(&asked.body).expect("JSON");
            assert_eq!(body, serde_json::json!({"epoch": 8, "token": "secret"}));
            active.fetch_add(1, Ordering::SeqCst);
            return answer(200, "s2", "{}");
        }
        match active.load(Ordering::SeqCst) {
            0 => elsewhere("s2", "folder-importing", "s1; epoch=7"),
            _ => fine("s2")(asked),
        }
    })
    .await;
    let (hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    swamp.put("k", &1.into()).await.expect("stored at the new owner");
    let folder = hydra.locate(swamp.name()).folder.expect("a folder");
    let targets: Vec<String> = s2.asked().iter().map(|asked| asked.target.clone()).collect();
    assert_eq!(
        targets,
        ["/v1/kv/a/b/c/k".to_owned(), format!("/v1/folders/{folder}/activate"), "/v1/kv/a/b/c/k".to_owned()]
    );
    assert_eq!(is_active.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_may_not_activate_waits_and_then_says_why() {
    let s1 = Fake::start(moved("s1", "s2; epoch=8; token=secret")).await;
    let s2 = Fake::start(|asked| match asked.target.ends_with("/activate") {
        true => refusal(403, "s2", "scope-denied", ""),
        false => elsewhere("s2", "folder-importing", "s1; epoch=7"),
    })
    .await;
    let (_hydra, swamp) = client(map(7, "s1", &[&s1, &s2]));
    let error = swamp.put("k", &1.into()).await.expect_err("nobody activates it");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Unavailable, Applied::No), "{error}");
    assert!(error.to_string().contains("s2 waits to be activated"), "{error}");
    // Meanwhile somebody did.
    s2.behave(fine("s2"));
    swamp.put("k", &1.into()).await.expect("stored");
}

#[tokio::test]
async fn a_fence_is_no_move_yet() {
    // The primary is away for a moment, and its fallback is fenced for a move that may still be given up.
    let mut s1 = Fake::start(fine("s1")).await;
    let s2 = Fake::start(|_| elsewhere("s2", "folder-fenced", "s3; epoch=8")).await;
    let s3 = Fake::start(|_| elsewhere("s3", "folder-importing", "s1; epoch=7")).await;
    let mut settings = Settings::default();
    (settings.deadline, settings.hold_down) = (Duration::from_millis(800), Duration::from_millis(50));
    let builder = ClientMap::builder().epoch(7).folders(4).settings(settings);
    let builder = builder.server("s1", s1.url()).server("s2", s2.url()).server("s3", s3.url());
    let (hydra, swamp) = client(builder.route("0-3", "s1", ["s2"]));
    s1.stop().await;
    let error = swamp.put("k", &1.into()).await.expect_err("nobody may take it");
    assert_eq!(error.applied(), Applied::No, "{error}");
    assert!(hydra.locate(swamp.name()).redirect.is_none(), "nothing was learned");
    s1.restart().await;
    crate::fake::until("s1 is trusted", || hydra.servers()[0].1 == hydra_sdk::ServerState::Up).await;
    swamp.put("k", &1.into()).await.expect("stored at the primary");
    assert_eq!(s1.asked().last().map(|asked| asked.method.clone()).as_deref(), Some("PUT"));
}
