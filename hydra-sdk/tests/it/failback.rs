//! Who is asked after a fallback took writes, and when calls return to the primary.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hydra_sdk::{ClientMap, ErrorKind, Failback, Fallback, Hydra, ServerState, Settings, Swamp};
use serde_json::{Value as Json, json};

use crate::fake::{Asked, Fake, Reply, answer, fine, refusal, until};

const HOLD_DOWN: Duration = Duration::from_millis(200);

/// A fallback that notes its writes, and a primary that says what it holds.
struct Pair {
    s1: Fake,
    s2: Fake,
    /// How many writes the fallback has taken and not settled.
    notes: Arc<AtomicUsize>,
    /// Whether the primary has them all.
    is_synced: Arc<AtomicBool>,
    hydra: Hydra,
    swamp: Swamp,
}

impl Pair {
    async fn start(failback: Failback) -> Pair {
        let (notes, is_synced) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let s1 = Fake::start(primary(Arc::clone(&is_synced))).await;
        let s2 = Fake::start(standby(Arc::clone(&notes))).await;
        let mut settings = Settings::default();
        (settings.failback, settings.hold_down) = (failback, HOLD_DOWN);
        settings.try_timeout = Duration::from_millis(700);
        let map = ClientMap::builder().folders(1).server("s1", s1.url()).server("s2", s2.url());
        let map = map.route("0", "s1", ["s2"]).settings(settings).build().expect("a map");
        let hydra = Hydra::with_map(map).expect("a client");
        let swamp = hydra.swamp("a/b/c").expect("a name");
        Pair { s1, s2, notes, is_synced, hydra, swamp }
    }

    /// The primary goes away, the fallback takes a write, the primary comes back and is trusted.
    async fn fail_over(&mut self) {
        self.s1.stop().await;
        self.swamp.put("k", &1.into()).await.expect("stored at the fallback");
        self.s1.restart().await;
        self.primary_is(ServerState::Up).await;
    }

    async fn primary_is(&self, state: ServerState) {
        until("the state of the primary", || self.hydra.servers()[0].1 == state).await;
    }

    /// Who answers a read.
    async fn reader(&self) -> Json {
        self.swamp.get("k").await.expect("read").expect("a value")
    }

    async fn returned(&self) {
        until("the folder returns", || self.hydra.staying().is_empty()).await;
    }
}

/// Adds the folder, and the notes where there are any.
fn with_folder(reply: Reply, notes: usize) -> Reply {
    let Reply::Answer(status, mut headers, body) = reply else { return reply };
    headers.push(("hydra-folder", "0".to_owned()));
    headers.extend((notes > 0).then(|| ("hydra-takeover", notes.to_string())));
    Reply::Answer(status, headers, body)
}

fn standby(notes: Arc<AtomicUsize>) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", "/v1/folders/0/takeover") => answer(200, "s2", &takeover(notes.load(Ordering::SeqCst))),
        ("POST", "/v1/folders/0/takeover/seal") => answer(200, "s2", SEALED),
        ("POST", "/v1/folders/0/takeover/unseal") => answer(204, "s2", ""),
        ("POST", "/v1/folders/0/takeover/settle") => {
            let wanted: Json = serde_json::from_slice(&asked.body).expect("JSON");
            let version = notes.load(Ordering::SeqCst).to_string();
            let is_same = wanted == json!({ "version": version, "seal": "s" });
            if is_same {
                notes.store(0, Ordering::SeqCst);
            }
            answer(if is_same { 204 } else { 412 }, "s2", "")
        }
        (method, _) => {
            notes.fetch_add(usize::from(method != "GET"), Ordering::SeqCst);
            with_folder(fine("s2")(asked), notes.load(Ordering::SeqCst))
        }
    }
}

const SEALED: &str = r#"{"folder":0,"seal":"s","leaseMs":1000}"#;

fn takeover(notes: usize) -> String {
    let files: Vec<Json> =
        (0..notes).map(|n| json!({"swamp": "a/b/c", "file": format!("s2-{n}"), "bytes": 9})).collect();
    json!({"folder": 0, "count": notes, "version": notes.to_string(), "files": files}).to_string()
}

fn primary(is_synced: Arc<AtomicBool>) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match asked.target.as_str() {
        "/v1/folders/0/holds" => {
            let body: Json = serde_json::from_slice(&asked.body).expect("JSON");
            assert_eq!(body["files"][0], json!({"swamp": "a/b/c", "file": "s2-0", "bytes": 9}));
            let lacks = json!([{"swamp": "a/b/c", "file": "s2-0", "bytes": 9, "held": null}]);
            let missing = if is_synced.load(Ordering::SeqCst) { json!([]) } else { lacks };
            answer(200, "s1", &json!({ "missing": missing }).to_string())
        }
        _ => with_folder(fine("s1")(asked), 0),
    }
}

/// How often something was asked for.
fn count(fake: &Fake, what: &str) -> usize {
    fake.asked().iter().filter(|asked| asked.target.ends_with(what)).count()
}

#[tokio::test]
async fn calls_stay_with_the_fallback_until_the_primary_has_what_it_wrote() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.fail_over().await;
    until("it is asked what it holds", || count(&pair.s1, "/holds") >= 2).await;
    assert_eq!(pair.reader().await, "s2", "the primary lacks a file");
    pair.swamp.increment("n", 1).await.expect("counted");
    assert_eq!(count(&pair.s1, "incr=1"), 0, "writes stay as well");
    let staying = pair.hydra.staying();
    assert_eq!((staying[0].folder.get(), staying[0].primary.as_str(), staying[0].fallback.as_str()), (0, "s1", "s2"));
    assert_eq!(count(&pair.s2, "/settle"), 0, "nothing is settled while something is missing");
    pair.is_synced.store(true, Ordering::SeqCst);
    pair.returned().await;
    assert_eq!(pair.reader().await, "s1");
    let (asked, settled) = (count(&pair.s2, "/takeover"), count(&pair.s2, "/settle"));
    assert_eq!((settled, pair.notes.load(Ordering::SeqCst)), (1, 0));
    tokio::time::sleep(HOLD_DOWN * 2).await;
    assert_eq!(count(&pair.s2, "/takeover"), asked, "nobody asks any more");
}

#[tokio::test]
async fn a_write_that_comes_meanwhile_keeps_the_folder() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.is_synced.store(true, Ordering::SeqCst);
    let (notes, s2) = (Arc::clone(&pair.notes), standby(Arc::clone(&pair.notes)));
    // Somebody else writes just before the first attempt to settle.
    let is_first = AtomicBool::new(true);
    pair.s2.behave(move |asked| {
        if asked.target.ends_with("/settle") && is_first.swap(false, Ordering::SeqCst) {
            notes.fetch_add(1, Ordering::SeqCst);
        }
        s2(asked)
    });
    pair.fail_over().await;
    pair.returned().await;
    assert_eq!(count(&pair.s2, "/settle"), 2, "the first was too late");
    assert_eq!(pair.reader().await, "s1");
}

#[tokio::test]
async fn one_question_is_under_way_at_a_time_and_calls_do_not_wait_for_it() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.s1.behave(
        |asked| if asked.target.ends_with("/holds") { Reply::Stall } else { with_folder(fine("s1")(asked), 0) },
    );
    pair.fail_over().await;
    until("the question is put", || count(&pair.s1, "/holds") == 1).await;
    for _ in 0..20 {
        let read = tokio::time::timeout(Duration::from_millis(200), pair.reader());
        assert_eq!(read.await.expect("at once"), "s2");
        tokio::time::sleep(HOLD_DOWN / 10).await;
    }
    assert_eq!(count(&pair.s1, "/holds"), 1);
}

#[tokio::test]
async fn what_somebody_else_settled_is_over() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.fail_over().await;
    until("it is asked what it holds", || count(&pair.s1, "/holds") >= 1).await;
    pair.notes.store(0, Ordering::SeqCst);
    pair.returned().await;
    assert_eq!((pair.reader().await, count(&pair.s2, "/settle")), ("s1".into(), 0));
}

#[tokio::test]
async fn the_primary_is_asked_when_the_fallback_dies() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.fail_over().await;
    assert_eq!(pair.reader().await, "s2");
    pair.s2.stop().await;
    pair.swamp.put("k", &2.into()).await.expect("stored at the primary");
    assert_eq!(pair.reader().await, "s1");
    pair.s2.restart().await;
    until("s2 is up", || pair.hydra.servers()[1].1 == ServerState::Up).await;
    assert_eq!(pair.reader().await, "s1", "who has moved on does not go back and forth");
}

#[tokio::test]
async fn without_notes_nothing_is_asked() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.s1.stop().await;
    assert_eq!(pair.reader().await, "s2", "a read leaves no note");
    pair.s1.restart().await;
    pair.primary_is(ServerState::Up).await;
    assert_eq!(pair.reader().await, "s1");
    assert_eq!(count(&pair.s2, "/takeover"), 0);
}

#[tokio::test]
async fn a_slow_answer_that_led_to_a_write_elsewhere_keeps_the_folder_too() {
    let pair = Pair::start(Failback::WhenSynced).await;
    pair.s1.behave(|_| Reply::Stall);
    pair.swamp.put("k", &1.into()).await.expect("stored at the fallback");
    pair.s1.behave(primary(Arc::clone(&pair.is_synced)));
    assert_eq!(pair.hydra.servers()[0].1, ServerState::Up, "slow is not dead");
    assert_eq!(pair.reader().await, "s2", "the primary does not have the write");
    pair.is_synced.store(true, Ordering::SeqCst);
    pair.returned().await;
    assert_eq!(pair.reader().await, "s1");
}

#[tokio::test]
async fn after_the_hold_down_means_whatever_is_missing() {
    let mut pair = Pair::start(Failback::AfterHoldDown).await;
    pair.fail_over().await;
    assert_eq!(pair.reader().await, "s1");
    assert_eq!((count(&pair.s2, "/takeover"), count(&pair.s1, "/holds")), (0, 0));
}

#[tokio::test]
async fn by_hand_means_that_nobody_asks() {
    let mut pair = Pair::start(Failback::Manual).await;
    pair.is_synced.store(true, Ordering::SeqCst);
    pair.s1.stop().await;
    pair.swamp.put("k", &1.into()).await.expect("stored at the fallback");
    pair.s1.restart().await;
    pair.primary_is(ServerState::Back).await;
    tokio::time::sleep(HOLD_DOWN * 3).await;
    assert_eq!((pair.reader().await, pair.hydra.staying().len()), ("s2".into(), 1));
    assert_eq!((count(&pair.s2, "/takeover"), count(&pair.s1, "/holds")), (0, 0));
    assert!(pair.hydra.fail_back("s1").expect("a server of the map"));
    assert_eq!((pair.reader().await, pair.hydra.staying().len()), ("s1".into(), 0));
}

#[tokio::test]
async fn a_map_that_does_not_wait_ends_every_stay() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.fail_over().await;
    assert_eq!(pair.reader().await, "s2");
    let text = pair.hydra.map().expect("a map").to_toml();
    let next = text.replace("epoch = 1", "epoch = 2").replace("\"when_synced\"", "\"after_hold_down\"");
    pair.hydra.set_map(next.parse().expect("a map")).expect("in force");
    assert_eq!((pair.reader().await, pair.hydra.staying().len()), ("s1".into(), 0));
}

#[tokio::test]
async fn what_depends_on_stored_data_is_for_the_primary_also_then() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    pair.fail_over().await;
    pair.swamp.put("new", &1.into()).create_only().await.expect("decided by the primary");
    assert_eq!(count(&pair.s1, "/new"), 1);
    pair.swamp.put("new", &1.into()).create_only().fallback(Fallback::Exclusive).await.expect("opted in");
    assert_eq!((count(&pair.s1, "/new"), count(&pair.s2, "/new")), (1, 1));
}

#[tokio::test]
async fn a_take_over_can_be_settled_by_hand() {
    let mut pair = Pair::start(Failback::Manual).await;
    pair.s1.stop().await;
    pair.swamp.put("k", &1.into()).await.expect("stored at the fallback");
    let folder = pair.hydra.staying()[0].folder;
    let error = pair.hydra.settle(folder, "s1", "s2").await.expect_err("the primary is down");
    assert!(error.is_network(), "{error}");
    pair.s1.restart().await;
    let settled = |found: hydra_sdk::Settlement| (found.files, found.missing, found.settled);
    assert_eq!(settled(pair.hydra.settle(folder, "s1", "s2").await.expect("asked")), (1, 1, false));
    pair.is_synced.store(true, Ordering::SeqCst);
    assert_eq!(settled(pair.hydra.settle(folder, "s1", "s2").await.expect("asked")), (1, 0, true));
    assert_eq!(settled(pair.hydra.settle(folder, "s1", "s2").await.expect("asked")), (0, 0, true));
    assert_eq!(pair.hydra.settle(folder, "s9", "s2").await.expect_err("unknown").kind(), ErrorKind::Invalid);
}

/// A fallback whose writes wait while it is sealed, and which sends them to the primary once that was settled.
#[derive(Default)]
struct Copy {
    /// Each write is a file of its own.
    files: AtomicUsize,
    /// How many of them the primary has.
    synced: AtomicUsize,
    is_sealed: AtomicBool,
    has_returned: AtomicBool,
    seals: AtomicUsize,
}

impl Copy {
    fn standby(self: &Arc<Copy>) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
        let copy = Arc::clone(self);
        move |asked| {
            let files = copy.files.load(Ordering::SeqCst);
            match asked.target.as_str() {
                "/v1/folders/0/takeover" => answer(200, "s2", &takeover(files)),
                "/v1/folders/0/takeover/seal" => {
                    copy.seals.fetch_add(1, Ordering::SeqCst);
                    copy.is_sealed.store(true, Ordering::SeqCst);
                    answer(200, "s2", SEALED)
                }
                "/v1/folders/0/takeover/unseal" => {
                    copy.is_sealed.store(false, Ordering::SeqCst);
                    answer(204, "s2", "")
                }
                "/v1/folders/0/takeover/settle" => {
                    copy.files.store(0, Ordering::SeqCst);
                    copy.has_returned.store(true, Ordering::SeqCst);
                    copy.is_sealed.store(false, Ordering::SeqCst);
                    answer(204, "s2", "")
                }
                _ if asked.method == "GET" => with_folder(fine("s2")(asked), files),
                _ if copy.is_sealed.load(Ordering::SeqCst) => refusal(503, "s2", "folder-sealed", ""),
                _ if copy.has_returned.load(Ordering::SeqCst) && !says_tried(asked) => {
                    refusal(421, "s2", "folder-returned", "")
                }
                _ => with_folder(fine("s2")(asked), copy.files.fetch_add(1, Ordering::SeqCst) + 1),
            }
        }
    }

    /// A primary that gets what was written until then, every 30 ms.
    fn primary(self: &Arc<Copy>) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
        let copy = Arc::clone(self);
        move |asked| match asked.target.as_str() {
            "/v1/folders/0/holds" => {
                let body: Json = serde_json::from_slice(&asked.body).expect("JSON");
                let synced = copy.synced.load(Ordering::SeqCst);
                let files = body["files"].as_array().expect("files").iter();
                let number =
                    |file: &Json| file["file"].as_str().expect("a name")[3..].parse::<usize>().expect("a number");
                let missing: Vec<Json> = files.filter(|file| number(file) >= synced).cloned().collect();
                let missing = missing.into_iter().map(|mut file| {
                    file["held"] = Json::Null;
                    file
                });
                answer(200, "s1", &json!({ "missing": missing.collect::<Vec<_>>() }).to_string())
            }
            _ => with_folder(fine("s1")(asked), 0),
        }
    }

    fn keep_in_sync(self: &Arc<Copy>) -> tokio::task::JoinHandle<()> {
        let copy = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                copy.synced.store(copy.files.load(Ordering::SeqCst), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        })
    }
}

fn says_tried(asked: &Asked) -> bool {
    asked.header("hydra-fallback-for") == Some("s1; tried")
}

#[tokio::test]
async fn writes_that_never_pause_wait_once_and_go_on_at_the_primary() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    let copy = Arc::new(Copy::default());
    pair.s1.behave(copy.primary());
    pair.s2.behave(copy.standby());
    pair.s1.stop().await;
    pair.swamp.put("k", &1.into()).await.expect("stored at the fallback");
    let swamp = pair.swamp.clone();
    let writing = tokio::spawn(async move {
        loop {
            swamp.increment("n", 1).await.expect("no call fails");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    pair.s1.restart().await;
    pair.primary_is(ServerState::Up).await;
    tokio::time::sleep(HOLD_DOWN * 3).await;
    assert_eq!(copy.seals.load(Ordering::SeqCst), 0, "nothing is copied, so nobody has to wait");
    let copying = copy.keep_in_sync();
    pair.returned().await;
    until("writes go on at the primary", || count(&pair.s1, "/n?incr=1") > 20).await;
    assert!(!writing.is_finished(), "a call failed");
    assert_eq!(pair.reader().await, "s1");
    assert!(copy.seals.load(Ordering::SeqCst) <= 3, "{} seals", copy.seals.load(Ordering::SeqCst));
    writing.abort();
    copying.abort();
}

#[tokio::test]
async fn who_does_not_know_that_the_primary_is_back_is_told_by_the_fallback() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    let copy = Arc::new(Copy::default());
    pair.s2.behave(copy.standby());
    pair.s1.stop().await;
    pair.swamp.put("k", &1.into()).await.expect("stored at the fallback");
    pair.primary_is(ServerState::Down).await;
    // Somebody else has led the folder back.
    copy.has_returned.store(true, Ordering::SeqCst);
    let stored = copy.files.load(Ordering::SeqCst);
    pair.swamp.put("k", &2.into()).await.expect("the primary is not there for this client");
    assert_eq!(copy.files.load(Ordering::SeqCst), stored + 1, "so the fallback takes the write");
    pair.s1.restart().await;
    pair.swamp.put("k", &3.into()).await.expect("stored at the primary");
    assert_eq!(copy.files.load(Ordering::SeqCst), stored + 1, "the first call that finds the primary stays there");
    assert_eq!((pair.hydra.servers()[0].1, pair.reader().await), (ServerState::Up, "s1".into()));
}

#[tokio::test]
async fn no_call_fails_while_servers_come_and_go() {
    let mut pair = Pair::start(Failback::WhenSynced).await;
    let failed = Arc::new(Mutex::new(Vec::new()));
    let (swamp, errors) = (pair.swamp.clone(), Arc::clone(&failed));
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = swamp.increment("n", 1).await {
                errors.lock().expect("lock").push(error.to_string());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    for _ in 0..2 {
        pair.s1.stop().await;
        until("a stay", || !pair.hydra.staying().is_empty()).await;
        pair.s1.restart().await;
        pair.primary_is(ServerState::Up).await;
        pair.s2.stop().await;
        until("calls are at the primary", || pair.hydra.staying().is_empty()).await;
        pair.s2.restart().await;
        until("s2 is up", || pair.hydra.servers()[1].1 == ServerState::Up).await;
    }
    writing.abort();
    assert_eq!(*failed.lock().expect("lock"), Vec::<String>::new());
}
