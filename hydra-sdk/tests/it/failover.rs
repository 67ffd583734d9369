//! Who is asked when somebody does not answer, by class of operation; and the way back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hydra_sdk::{
    Applied, ClientMap, ErrorKind, Failback, Fallback, FallbackMode, Hydra, MapBuilder, ReadFrom, ServerState,
    Settings, Swamp, TryOutcome,
};

use crate::fake::{Asked, Fake, Reply, answer, fine, refusal, until};

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.hold_down = Duration::from_millis(200);
    settings.try_timeout = Duration::from_millis(700);
    settings.deadline = Duration::from_secs(3);
    settings
}

/// A map in which s1 answers and s2 stands by.
fn map(s1: &Fake, s2: &Fake, settings: Settings) -> MapBuilder {
    let map = ClientMap::builder().folders(4).server("s1", s1.url()).server("s2", s2.url());
    map.route("0-3", "s1", ["s2"]).settings(settings)
}

fn swamp(map: MapBuilder) -> (Hydra, Swamp) {
    let hydra = Hydra::with_map(map.build().expect("a good map")).expect("a client");
    let swamp = hydra.swamp("a/b/c").expect("a name");
    (hydra, swamp)
}

fn keys(asked: &[Asked]) -> HashSet<String> {
    asked.iter().map(|asked| asked.header("idempotency-key").expect("a key").to_owned()).collect()
}

#[tokio::test]
async fn the_primary_alone_is_asked_while_it_answers() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    swamp.put("k", &1.into()).await.expect("stored");
    assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
    assert_eq!((s1.asked().len(), s2.asked().len()), (2, 0));
    let put = &s1.asked()[0];
    assert_eq!((put.header("hydra-folders"), put.header("hydra-pool")), (Some("4"), Some("default")));
    assert!(put.header("hydra-deadline-ms").is_some() && put.header("hydra-fallback-for").is_none());
    assert!(s1.asked()[1].header("idempotency-key").is_none(), "a read needs no key");
}

#[tokio::test]
async fn a_dead_primary_costs_next_to_nothing() {
    let (mut s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    for _ in 0..20 {
        swamp.put("k", &1.into()).await.expect("stored");
    }
    // The fallback's connection is opened as well, so that only the failover itself is timed.
    let warm = hydra.swamp::<serde_json::Value>("a/b/c").expect("a name");
    warm.get("k").await.expect("read");
    s1.stop().await;
    let begun = Instant::now();
    swamp.get("k").await.expect("read from the fallback");
    let first = begun.elapsed();
    println!("first call after the primary's death: {first:?}");
    assert!(first < Duration::from_millis(240), "{first:?}");
    assert_eq!(s2.asked()[0].header("hydra-fallback-for"), Some("s1; tried"));
    until("s1 is known to be down", || hydra.servers()[0].1 == ServerState::Down).await;
    let before = s2.asked().len();
    swamp.put("k", &1.into()).await.expect("stored at the fallback");
    swamp.increment("n", 1).await.expect("counted at the fallback");
    assert!(!swamp.put("k", &1.into()).await.expect("stored").synced);
    assert_eq!(s2.asked().len(), before + 3, "each asked once");
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_when_it_comes_up() {
    let (mut s1, mut s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    s1.stop().await;
    s2.stop().await;
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let error = swamp.put("k", &1.into()).await.expect_err("nobody is there");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Network, Applied::No), "{error}");
    let tried: HashSet<&str> = error.attempts().iter().map(|attempt| attempt.server.as_str()).collect();
    assert_eq!(tried, HashSet::from(["s1", "s2"]), "{error}");
    assert!(error.to_string().contains("a/b/c (folder "), "{error}");
    s1.restart().await;
    swamp.put("k", &1.into()).await.expect("s1 is there");
    assert_eq!(s1.asked().len(), 1);
}

#[tokio::test]
async fn calls_return_to_the_primary_after_the_hold_down() {
    let (mut s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    s1.stop().await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    s1.restart().await;
    until("s1 answers probes", || hydra.servers()[0].1 != ServerState::Down).await;
    if hydra.servers()[0].1 == ServerState::Back {
        assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()), "within the hold-down");
    }
    until("s1 is trusted again", || hydra.servers()[0].1 == ServerState::Up).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
    let probes = s1.probes();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(s1.probes(), probes, "a healthy server is not probed");
}

#[test]
fn calls_return_to_the_primary_also_when_the_runtime_that_looked_out_for_it_has_ended() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (home, first, second) = (runtime(), runtime(), runtime());
    let (mut s1, s2) = home.block_on(async { (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await) });
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    home.block_on(s1.stop());
    first.block_on(async {
        assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
        until("s1 is known to be down", || hydra.servers()[0].1 == ServerState::Down).await;
    });
    drop(first);
    home.block_on(s1.restart());
    second.block_on(async {
        // Somebody has to ask, so that anybody looks out again.
        swamp.get("k").await.expect("read");
        until("s1 is trusted again", || hydra.servers()[0].1 == ServerState::Up).await;
        assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
    });
}

#[tokio::test]
async fn a_manual_way_back_waits_for_the_word() {
    let mut by_hand = settings();
    (by_hand.failback, by_hand.hold_down) = (Failback::Manual, Duration::from_millis(20));
    let (mut s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, by_hand));
    s1.stop().await;
    swamp.get("k").await.expect("read");
    assert!(!hydra.fail_back("s1").expect("a server of the map"), "it is still down");
    s1.restart().await;
    until("s1 is back", || hydra.servers()[0].1 == ServerState::Back).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    assert!(hydra.fail_back("s1").expect("a server of the map"));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
    assert_eq!(hydra.fail_back("s9").expect_err("no such server").kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    let s1 = Fake::start(move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        _ => fine("s1")(asked),
    })
    .await;
    let s2 = Fake::start(fine("s2")).await;
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    assert_eq!(swamp.increment("n", 1).await.expect("counted"), 7);
    assert_eq!((s1.asked().len(), s2.asked().len()), (2, 0), "the primary once more, before its copy");
    assert_eq!(keys(&s1.asked()).len(), 1, "one operation, one key");
}

#[tokio::test]
async fn writes_go_on_to_the_fallback_with_the_same_key() {
    let (s1, s2) = (Fake::start(|_| Reply::Close).await, Fake::start(fine("s2")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    swamp.put("k", &1.into()).await.expect("stored");
    swamp.increment("n", 1).idempotency_key("order-17").await.expect("counted");
    assert_eq!((s1.asked().len(), s2.asked().len()), (4, 2));
    assert_eq!(keys(&[s1.asked()[..2].to_vec(), s2.asked()[..1].to_vec()].concat()).len(), 1);
    assert_eq!(
        keys(&[s1.asked()[2..].to_vec(), s2.asked()[1..].to_vec()].concat()),
        HashSet::from(["order-17".into()])
    );
}

#[tokio::test]
async fn a_write_in_flight_when_the_primary_dies_does_not_wait_for_it() {
    let (mut s1, s2) = (Fake::start(|_| Reply::Stall).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let writing = tokio::spawn(async move { (swamp.increment("n", 1).await, Instant::now()) });
    until("the request is there", || !s1.asked().is_empty()).await;
    s1.stop().await;
    let died = Instant::now();
    let (sum, done) = writing.await.expect("a task");
    assert_eq!(sum.expect("counted at the fallback"), 7);
    println!("in flight: {:?} after the death", done - died);
    assert!(done - died < Duration::from_millis(240), "{:?}", done - died);
    assert_eq!(hydra.servers()[0].1, ServerState::Down);
    assert_eq!(keys(&[s1.asked(), s2.asked()].concat()).len(), 1);
}

#[tokio::test]
async fn reads_go_to_the_fallback_at_once() {
    let (s1, s2) = (Fake::start(|_| Reply::Close).await, Fake::start(fine("s2")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    assert_eq!((s1.asked().len(), s2.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_slow_server_is_not_a_dead_one() {
    let (s1, s2) = (Fake::start(|_| Reply::Stall).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    swamp.put("k", &1.into()).await.expect("stored at the fallback after a full try");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(hydra.servers()[0].1, ServerState::Up, "it takes connections");
}

#[tokio::test]
async fn what_depends_on_stored_data_stays_with_the_primary() {
    let (mut s1, s2) = (Fake::start(|_| Reply::Close).await, Fake::start(fine("s2")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let error = swamp.put("k", &1.into()).create_only().await.expect_err("in doubt");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::Unknown, 0), "{error}");
    assert_eq!((s1.asked().len(), keys(&s1.asked()).len()), (3, 1), "the same server, the same key");
    let error = swamp.put("k", &1.into()).create_only().fallback(Fallback::Exclusive).await.expect_err("in doubt");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::Unknown, 0), "opted in, but somebody may have seen it");
    s1.stop().await;
    let error = swamp.put("k", &1.into()).create_only().await.expect_err("not sent");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::No, 0), "{error}");
    let error = swamp.shift().await.expect_err("not sent");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::No, 0), "{error}");
    let error = swamp.lock("l", Duration::from_secs(9)).await.expect_err("not sent");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::No, 0), "{error}");
    swamp.lock_info("l").await.expect_err("only who decides is asked");
    assert_eq!(s2.asked().len(), 0);
    swamp.put("k", &1.into()).create_only().fallback(Fallback::Exclusive).await.expect("opted in, nothing was sent");
    assert_eq!(s2.asked().len(), 1);
}

#[tokio::test]
async fn the_pool_and_the_call_say_what_a_fallback_may_be_asked() {
    let (mut s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    s1.stop().await;
    let mut read_only = settings();
    read_only.fallback_mode = FallbackMode::ReadOnly;
    let (_hydra, swamp) = swamp(map(&s1, &s2, read_only));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    assert!(swamp.put("k", &1.into()).await.expect_err("read only").is_network());
    swamp.put("k", &1.into()).fallback(Fallback::Writes).await.expect("this call may");
    let strict = swamp.clone().fallback(Fallback::Never);
    assert!(strict.get("k").await.expect_err("this handle may not").is_network());
    let mut off = settings();
    off.fallback_mode = FallbackMode::Off;
    let (_hydra, swamp) = self::swamp(map(&s1, &s2, off));
    assert!(swamp.get("k").await.expect_err("off").is_network());
    swamp.clone().fallback(Fallback::Reads).get("k").await.expect("this handle may");
}

#[tokio::test]
async fn an_error_answer_is_never_failed_over() {
    for (status, code) in [
        (404, "treasure-not-found"),
        (412, "version-mismatch"),
        (500, "internal"),
        (503, "swamp-read-only"),
        (507, "disk-full"),
    ] {
        let s1 = Fake::start(move |_| refusal(status, "s1", code, "")).await;
        let s2 = Fake::start(fine("s2")).await;
        let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
        let _ = swamp.get("k").await;
        let _ = swamp.put("k", &1.into()).await;
        assert_eq!((s1.asked().len(), s2.asked().len()), (2, 0), "{code}");
    }
}

#[tokio::test]
async fn a_server_that_leaves_is_left_at_once() {
    for code in ["draining", "starting"] {
        let s1 = Fake::start(move |_| refusal(503, "s1", code, "")).await;
        let s2 = Fake::start(fine("s2")).await;
        let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
        swamp.put("k", &1.into()).await.expect("stored at the fallback");
        assert_eq!((s1.asked().len(), s2.asked().len()), (1, 1), "{code}");
    }
}

#[tokio::test]
async fn an_overloaded_server_is_asked_again_later() {
    let times = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&times);
    let s1 = Fake::start(move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0 => refusal(429, "s1", "overloaded", ""),
        1 => refusal(409, "s1", "idempotency-in-progress", ""),
        _ => fine("s1")(asked),
    })
    .await;
    let s2 = Fake::start(fine("s2")).await;
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    swamp.put("k", &1.into()).await.expect("stored in the end");
    assert_eq!((s1.asked().len(), s2.asked().len(), keys(&s1.asked()).len()), (3, 0, 1));
    s1.behave(|_| refusal(429, "s1", "overloaded", ""));
    let error = swamp.put("k", &1.into()).await.expect_err("overloaded");
    assert_eq!((error.kind(), error.applied(), s2.asked().len()), (ErrorKind::Overloaded, Applied::No, 0), "{error}");
}

#[tokio::test]
async fn a_hint_to_the_owner_is_followed_within_the_map() {
    let s1 = Fake::start(|_| refusal(421, "s1", "not-owner", r#","owner":"s3""#)).await;
    let (s2, s3) = (Fake::start(fine("s2")).await, Fake::start(fine("s3")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()).server("s3", s3.url()));
    assert_eq!(swamp.get("k").await.expect("read"), Some("s3".into()));
    assert_eq!(s3.asked()[0].header("hydra-fallback-for"), None, "an owner stands in for nobody");
    s1.behave(|_| refusal(421, "s1", "not-owner", r#","owner":"elsewhere""#));
    let error = swamp.put("k", &1.into()).await.expect_err("nobody in the map owns it");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::NotOwner, Applied::No), "{error}");
    assert_eq!(s2.asked().len(), 0, "the primary lives, so its copy is not written");
}

#[tokio::test]
async fn servers_that_name_each_other_end_in_an_error() {
    let s1 = Fake::start(|_| refusal(421, "s1", "folder-moved", r#","owner":"s2""#)).await;
    let s2 = Fake::start(|_| refusal(421, "s2", "folder-moved", r#","owner":"s1""#)).await;
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let error = swamp.get("k").await.expect_err("a circle");
    assert_eq!(error.kind(), ErrorKind::NotOwner, "{error}");
    assert!(s1.asked().len() + s2.asked().len() <= 4, "{error}");
}

#[tokio::test]
async fn a_copy_that_refuses_does_not_undo_what_the_primary_may_have_done() {
    let (s1, s2) =
        (Fake::start(|_| Reply::Close).await, Fake::start(|_| refusal(413, "s2", "value-too-large", "")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let error = swamp.put("k", &1.into()).await.expect_err("refused by the copy");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::TooLarge, Applied::Unknown), "{error}");
    let outcomes: Vec<TryOutcome> = error.attempts().iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [TryOutcome::Maybe, TryOutcome::Maybe, TryOutcome::Answered]);
}

#[tokio::test]
async fn every_listed_server_is_tried_before_giving_up() {
    let mut fakes = Vec::new();
    for _ in 0..5 {
        fakes.push(Fake::start(|_| Reply::Close).await);
    }
    let ids = ["s0", "s1", "s2", "s3", "s4"];
    let mut map = ClientMap::builder().folders(1).settings(settings());
    for (id, fake) in ids.iter().zip(&fakes) {
        map = map.server(*id, fake.url());
    }
    let (_hydra, swamp) = swamp(map.route("0", "s0", ids[1..].to_vec()));
    let error = swamp.get("k").await.expect_err("nobody answers");
    let tried: HashSet<&str> = error.attempts().iter().map(|attempt| attempt.server.as_str()).collect();
    assert_eq!(tried.len(), 5, "{error}");
    fakes[4].behave(fine("s4"));
    assert_eq!(swamp.get("k").await.expect("the last one"), Some("s4".into()));
}

#[tokio::test]
async fn a_server_that_is_back_unnoticed_is_tried_when_nobody_else_is_there() {
    let (mut s1, mut s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    s1.stop().await;
    until("s1 is known to be down", || {
        let swamp = swamp.clone();
        tokio::spawn(async move { swamp.get("k").await });
        hydra.servers()[0].1 == ServerState::Down
    })
    .await;
    // One server after the other restarts, faster than clients look.
    s1.restart().await;
    s2.stop().await;
    let writes = (0..20).map(|n| {
        let swamp = swamp.clone();
        tokio::spawn(async move { swamp.put("k", &n.into()).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.expect("no panic").expect("s1 is there");
    }
    s1.stop().await;
    let begun = Instant::now();
    swamp.put("k", &1.into()).await.expect_err("nobody is there");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_was_passed_over_is_tried_when_the_one_after_it_has_just_gone() {
    let (mut s1, mut s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let is = |server: usize, state: ServerState| hydra.servers()[server].1 == state;
    for round in 0..10 {
        s1.stop().await;
        while !is(0, ServerState::Down) {
            assert_eq!(swamp.get("k").await.expect("s2 is there"), Some("s2".into()));
        }
        s1.restart().await;
        s2.stop().await;
        // Whoever comes first finds s2 gone; the others know it then, and nothing has told them that s1 is back.
        let reads = (0..20).map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move { swamp.get("k").await })
        });
        for read in reads.collect::<Vec<_>>() {
            let read = read.await.expect("no panic");
            assert_eq!(read.unwrap_or_else(|error| panic!("round {round}: {error}")), Some("s1".into()));
        }
        s2.restart().await;
        until("both are back", || is(0, ServerState::Up) && is(1, ServerState::Up)).await;
    }
}

#[tokio::test]
async fn the_deadline_holds_over_everything() {
    let (s1, s2) = (Fake::start(|_| Reply::Stall).await, Fake::start(|_| Reply::Stall).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let begun = Instant::now();
    let error = swamp.put("k", &1.into()).deadline(Duration::from_millis(1_000)).await.expect_err("silence");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1_800), "{took:?}");
    assert_eq!(
        (error.kind(), error.applied(), error.attempts().len()),
        (ErrorKind::Timeout, Applied::Unknown, 2),
        "{error}"
    );
}

#[tokio::test]
async fn reads_can_come_from_everyone_in_turn() {
    let mut any = settings();
    any.read_from = ReadFrom::Any;
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (_hydra, swamp) = swamp(map(&s1, &s2, any));
    for _ in 0..4 {
        swamp.get("k").await.expect("read");
        swamp.put("k", &1.into()).await.expect("stored");
    }
    assert_eq!((s1.asked().len(), s2.asked().len()), (6, 2), "writes go to the primary");
}

#[tokio::test]
async fn a_stale_answer_says_so() {
    let (mut s1, s2) = (
        Fake::start(fine("s1")).await,
        Fake::start(|_| match answer(200, "s2", "1") {
            Reply::Answer(status, mut headers, body) => {
                headers.push(("hydra-served-by", "fallback".to_owned()));
                Reply::Answer(status, headers, body)
            }
            other => other,
        })
        .await,
    );
    let (_hydra, swamp) = swamp(map(&s1, &s2, settings()));
    assert!(!swamp.treasure("k").await.expect("read").expect("there").stale);
    s1.stop().await;
    assert!(swamp.treasure("k").await.expect("read").expect("there").stale);
}

#[tokio::test]
async fn another_map_takes_over_while_calls_run() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = swamp(map(&s1, &s2, settings()));
    let turned = |epoch| {
        let map = ClientMap::builder().epoch(epoch).folders(4).server("s1", s1.url()).server("s2", s2.url());
        map.route("0-3", "s2", ["s1"]).settings(settings()).build().expect("a good map")
    };
    let slow = Fake::start(fine("s1")).await;
    drop(slow);
    let writer = tokio::spawn({
        let swamp = swamp.clone();
        async move {
            for n in 0..300 {
                swamp.put("k", &n.into()).await.expect("no call fails");
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    hydra.set_map(turned(2)).expect("a younger map");
    writer.await.expect("the writer");
    assert_eq!(swamp.get("k").await.expect("read"), Some("s2".into()));
    assert_eq!(hydra.locate(swamp.name()).primary.id, "s2");
    let error = hydra.set_map(turned(1)).expect_err("an older map");
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("E005"), "{error}");
    assert_eq!(hydra.map().expect("a map").epoch(), 2, "the one in force stays");
}
