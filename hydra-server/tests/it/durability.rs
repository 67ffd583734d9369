//! What was acknowledged survives: kill -9, SIGTERM under load, restarts.
//!
//! Each test keeps a ledger outside the server: what it sent, and what was acknowledged. With
//! `HYDRA_KILL_ROUNDS=300` the server is killed that often.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Process, Target};

/// What one writer knows about its swamp.
#[derive(Debug, Default)]
struct Ledger {
    /// Per key: the state after the last acknowledged write, and after one that was not answered.
    keys: Vec<(State, Option<State>)>,
    /// The sum of the acknowledged increments, and one that was not answered, with its idempotency key.
    sum: i64,
    pending: Option<String>,
    sent: u64,
    acknowledged: u64,
}

/// A key's value; `None` when it was deleted.
type State = Option<u64>;

const KEYS: usize = 20;

impl Ledger {
    fn new() -> Ledger {
        Ledger { keys: vec![(None, None); KEYS], ..Ledger::default() }
    }

    /// Writes until told to stop or a write is not answered.
    fn write(&mut self, target: Target, swamp: &str, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.sent += 1;
            let answered =
                if self.sent.is_multiple_of(3) { self.increment(target, swamp) } else { self.change(target, swamp) };
            if !answered {
                return;
            }
            self.acknowledged += 1;
        }
    }

    fn change(&mut self, target: Target, swamp: &str) -> bool {
        let index = (self.sent as usize * 7) % KEYS;
        let path = format!("/v1/kv/{swamp}/k{index}");
        let delete = self.sent.is_multiple_of(5) && self.keys[index].0.is_some();
        let (method, body, state) =
            if delete { ("DELETE", String::new(), None) } else { ("PUT", self.sent.to_string(), Some(self.sent)) };
        self.keys[index].1 = Some(state);
        match target.try_send(method, &path, &[], body.as_bytes()) {
            Ok(answer) if answer.status < 300 => self.keys[index] = (state, None),
            Ok(answer) if answer.header("hydra-applied") == Some("no") => {
                self.keys[index].1 = None;
                return false;
            }
            _ => return false,
        }
        true
    }

    fn increment(&mut self, target: Target, swamp: &str) -> bool {
        let key = self.pending.take().unwrap_or_else(|| format!("{swamp}-{}", self.sent));
        let headers = [("Idempotency-Key", key.as_str())];
        match target.try_send("POST", &format!("/v1/kv/{swamp}/sum?incr=1"), &headers, &[]) {
            Ok(answer) if answer.status == 200 => self.sum += 1,
            _ => {
                self.pending = Some(key);
                return false;
            }
        }
        true
    }

    /// Compares with what the server has; settles what was not answered.
    fn check(&mut self, target: Target, swamp: &str) {
        for (index, (acknowledged, pending)) in self.keys.iter_mut().enumerate() {
            let answer = target.get(&format!("/v1/kv/{swamp}/k{index}"));
            let found: State = (answer.status == 200).then(|| answer.text().parse().expect("a number"));
            let possible = found == *acknowledged || Some(found) == *pending;
            assert!(possible, "{swamp}/k{index}: found {found:?}, acknowledged {acknowledged:?}, sent {pending:?}");
            (*acknowledged, *pending) = (found, None);
        }
        if self.pending.is_some() {
            assert!(self.increment(target, swamp), "the lost increment can be sent again");
        }
        let answer = target.get(&format!("/v1/kv/{swamp}/sum"));
        let found = if answer.status == 200 { answer.text().parse().expect("a number") } else { 0 };
        assert_eq!(found, self.sum, "{swamp}: every increment counts exactly once");
    }
}

/// Runs writers on swamps of their own until `end` returns, then waits for them.
fn under_load(target: Target, ledgers: &mut [(String, Ledger)], end: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (swamp, ledger) in ledgers.iter_mut() {
            let stop = &stop;
            scope.spawn(move || ledger.write(target, swamp, stop));
        }
        end();
        stop.store(true, Ordering::Relaxed);
    });
}

fn ledgers(sanctuary: &str) -> Vec<(String, Ledger)> {
    (0..4).map(|writer| (format!("{sanctuary}/ledger/w{writer}"), Ledger::new())).collect()
}

fn synced(target: Target) {
    let answer = target.put("/v1/policies/pay/*/*", r#"{"writeInterval":"0s"}"#);
    assert!(answer.status < 300, "{answer:?}");
}

#[test]
fn with_write_interval_0_whatever_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledgers = ledgers("pay");
    let rounds: u64 = std::env::var("HYDRA_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12);
    for round in 0..rounds {
        let server = Process::start(dir.path(), &["--id", "s1"]);
        let target = server.target;
        synced(target);
        ledgers.iter_mut().for_each(|(swamp, ledger)| ledger.check(target, swamp));
        under_load(target, &mut ledgers, || {
            std::thread::sleep(Duration::from_millis(40 + round * 13 % 160));
            server.kill();
        });
    }
    let server = Process::start(dir.path(), &[]);
    ledgers.iter_mut().for_each(|(swamp, ledger)| ledger.check(server.target, swamp));
    let acknowledged: u64 = ledgers.iter().map(|(_, ledger)| ledger.acknowledged).sum();
    assert!(acknowledged > 200, "only {acknowledged} writes were acknowledged: the test tried nothing");
}

#[test]
fn with_write_interval_1s_a_write_is_on_disk_within_2s() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Process::start(dir.path(), &[]);
    let put = server.target.put("/v1/kv/a/b/c/k", "\"kept\"");
    assert_eq!((put.status, put.header("hydra-durable")), (201, Some("buffered")));
    std::thread::sleep(Duration::from_millis(1_900));
    server.kill();
    let server = Process::start(dir.path(), &[]);
    let got = server.target.get("/v1/kv/a/b/c/k");
    assert_eq!((got.text().as_str(), got.etag()), ("\"kept\"", put.etag()));
}

#[test]
fn sigterm_under_load_loses_nothing_and_exits_0() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledgers = ledgers("analytics");
    for _ in 0..2 {
        let mut server = Process::start(dir.path(), &[]);
        let target = server.target;
        under_load(target, &mut ledgers, || {
            std::thread::sleep(Duration::from_millis(300));
            server.signal("TERM");
            assert_eq!(server.wait(), Some(0));
        });
        let mut server = Process::start(dir.path(), &[]);
        ledgers.iter_mut().for_each(|(swamp, ledger)| ledger.check(server.target, swamp));
        server.signal("INT");
        assert_eq!(server.wait(), Some(0));
    }
    assert!(ledgers.iter().all(|(_, ledger)| ledger.acknowledged > 0));
}

#[test]
fn a_second_signal_stops_waiting_but_still_flushes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path(), &["--shutdown-grace", "60s"]);
    assert_eq!(server.target.put("/v1/kv/a/b/c/k", "1").status, 201);
    let mut stuck = server.target.connect().expect("a connection");
    let half = b"PUT /v1/kv/a/b/c/l HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n12";
    std::io::Write::write_all(&mut stuck, half).expect("half a request");
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    server.signal("TERM");
    while server.target.get("/ready").status != 503 {
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let server = Process::start(dir.path(), &[]);
    assert_eq!(server.target.get("/v1/kv/a/b/c/k").text(), "1");
    assert_eq!(server.target.get("/v1/kv/a/b/c/l").status, 404);
}

#[test]
fn the_grace_ends_the_wait_for_requests() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path(), &["--shutdown-grace", "200ms"]);
    let mut stuck = server.target.connect().expect("a connection");
    std::io::Write::write_all(&mut stuck, b"PUT /v1/kv/a/b/c/l HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n12")
        .expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_restart_keeps_values_versions_expiry_and_policies() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path(), &["--id", "s1", "--folders-total", "64", "--pool", "eu"]);
    let target = server.target;
    synced(target);
    target.put("/v1/kv/a/b/c/plain?expires_at=4102444800000", "{\"a\": 1.0}");
    target.send("PUT", "/v1/kv/a/b/c/png", &[("Content-Type", "image/png")], [0, 255]);
    target.post("/v1/kv/a/b/c/n?incr=41", "");
    let before: Vec<_> = ["plain", "png", "n"].map(|key| target.get(&format!("/v1/kv/a/b/c/{key}"))).into();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let server = Process::start(dir.path(), &[]);
    for (key, before) in ["plain", "png", "n"].iter().zip(before) {
        let after = server.target.get(&format!("/v1/kv/a/b/c/{key}"));
        assert_eq!((after.body.clone(), after.etag()), (before.body.clone(), before.etag()), "{key}");
        for header in ["content-type", "hydra-created-at", "hydra-updated-at", "hydra-expires-at", "hydra-server"] {
            assert_eq!(after.header(header), before.header(header), "{header} of {key}");
        }
    }
    assert_eq!(server.target.get("/v1/policies").json()["policies"][0]["pattern"], "pay/*/*");
    assert_eq!(server.target.get("/").json()["folders"], 64);
}

#[test]
fn a_damaged_file_never_makes_a_swamp_read_as_empty() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path(), &[]);
    for key in 0..50 {
        assert_eq!(server.target.put(&format!("/v1/kv/a/b/c/k{key}"), "\"a value of some length\"").status, 201);
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let file = only_chunk(dir.path());
    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[20] ^= 1;
    std::fs::write(&file, &bytes).expect("writable");
    let server = Process::start(dir.path(), &[]);
    let answer = server.target.get("/v1/kv/a/b/c/k7");
    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    assert_eq!(answer.header("hydra-copy"), Some("degraded"));
    assert_eq!(server.target.get("/v1/swamps/a/b/c").json()["copy"], "degraded");
    assert!(file.exists(), "nothing is deleted");
}

fn only_chunk(data: &Path) -> std::path::PathBuf {
    fn find(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                find(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "hyl" || extension == "hys") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    find(data, &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}
