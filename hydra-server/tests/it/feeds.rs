//! Change feeds and long polls: nothing missed, nothing twice, nobody slowed down, over restarts.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hydra_sdk::{EventKind, Hydra as Client, Swamp, Waited};
use hydra_server::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Answer, Hydra, Process, Target, block_on};

const EVENTS: &str = "/v1/swamps/a/b/c/events";

/// A feed that is being read, as NDJSON.
struct Feed {
    stream: BufReader<TcpStream>,
    head: Answer,
}

impl Feed {
    fn open(target: Target, path: &str, headers: &str) -> Feed {
        let mut stream = target.connect().unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\n{headers}\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_until(b'\n', &mut head).unwrap() > 0, "{}", String::from_utf8_lossy(&head));
        }
        Feed { stream, head: Answer::parse(&head).unwrap() }
    }

    /// The next piece of the body, `None` at its end. One event may come in several.
    fn piece(&mut self) -> Option<Vec<u8>> {
        let mut length = String::new();
        self.stream.read_line(&mut length).ok()?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        let mut piece = vec![0; length + 2];
        self.stream.read_exact(&mut piece).ok()?;
        piece.truncate(length);
        Some(piece).filter(|piece| !piece.is_empty())
    }

    /// Events until there are so many, or the end.
    fn events(&mut self, count: usize) -> Vec<Value> {
        let mut text = Vec::new();
        let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        while (lines(&text) < count || !text.ends_with(b"\n"))
            && let Some(piece) = self.piece()
        {
            text.extend(piece);
        }
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}

fn word(event: &Value) -> String {
    match event["key"].as_str() {
        Some(key) => format!("{} {key}={}", event["event"].as_str().unwrap(), event["value"]),
        None => event["event"].as_str().unwrap().to_owned(),
    }
}

fn words(events: &[Value]) -> Vec<String> {
    events.iter().map(word).collect()
}

fn listeners(target: Target) -> u64 {
    let text = target.get("/metrics").text();
    let line = text.lines().find(|line| !line.starts_with('#') && line.contains("listeners ")).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_feed_begins_at_once_and_tells_what_happens() {
    let server = Hydra::start();
    let mut stream = server.connect().unwrap();
    write!(stream, "GET {EVENTS}?old=true&prefix=k HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut seen = String::new();
    let mut read_until = |end: &str| {
        let mut byte = [0];
        while !seen.contains(end) {
            stream.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        std::mem::take(&mut seen)
    };
    let head = read_until("event: live\ndata: ");
    for expected in ["200 OK", "content-type: text/event-stream", "hydra-folder: ", ": hydra stream, folder ", "id: "] {
        assert!(head.contains(expected), "{expected:?} in {head}");
    }
    server.put("/v1/kv/a/b/c/other", "1");
    server.put("/v1/kv/a/b/c/k", "{\"n\":\n1}");
    let put = read_until("event: put\ndata: ") + &read_until("\n\n");
    assert!(put.contains(r#"{"key":"k","value":{"n": 1},"version":""#) && !put.contains("other"), "{put}");
    server.delete("/v1/kv/a/b/c/k");
    let delete = read_until("event: delete\ndata: ") + &read_until("\n\n");
    assert!(delete.contains(r#""key":"k""#) && delete.contains(r#""old":{"key":"k","value":{"n": 1}"#), "{delete}");
}

#[test]
fn snapshots_keys_and_ids_are_as_asked_for() {
    let server = Hydra::start();
    server.put("/v1/kv/a/b/c/x", "1");
    server.put("/v1/kv/a/b/c/y", "2");
    let mut feed = Feed::open(server.target, &format!("{EVENTS}?snapshot=true&keys_only=true"), "");
    assert_eq!(feed.head.header("content-type"), Some("application/x-ndjson"));
    let events = feed.events(3);
    assert_eq!(words(&events), ["put x=null", "put y=null", "live"]);
    assert!(events[0].get("value").is_none() && events[0]["version"].is_string() && events[0].get("id").is_none());
    let live = events[2]["id"].as_str().unwrap().to_owned();
    server.put("/v1/kv/a/b/c/z", "3");
    drop(feed);
    for (query, header) in
        [(format!("?since={live}"), String::new()), (String::new(), format!("Last-Event-ID: {live}\r\n"))]
    {
        assert_eq!(
            words(&Feed::open(server.target, &format!("{EVENTS}{query}"), &header).events(2)),
            ["put z=3", "live"]
        );
    }
    for bad in ["?since=x", "?heartbeat=1h", "?heartbeat=0", "?snapshots", "?old=2", "?swamp=a/b/c", "?since=1.2"] {
        assert_eq!(server.get(&format!("{EVENTS}{bad}")).status, 400, "{bad}");
    }
    for bad in ["", "?swamp=a", "?swamp=a/b/c&pattern=a/b/*", "?pattern=*", "?pattern=a/b/*&snapshot=true"] {
        assert_eq!(server.get(&format!("/v1/events{bad}")).status, 400, "{bad}");
    }
    assert_eq!(server.send("HEAD", EVENTS, &[], "").header("content-type"), Some("text/event-stream"));
    assert_eq!(server.post(EVENTS, "").status, 405);
}

#[test]
fn feeds_of_many_name_the_swamp_of_each_event() {
    let server = Hydra::start();
    let mut named = Feed::open(server.target, "/v1/events?swamp=a/b/1&swamp=a/b/2", "");
    let mut matching = Feed::open(server.target, "/v1/events?pattern=a/b/*", "");
    named.events(1);
    matching.events(1);
    for swamp in ["a/b/1", "a/b/3", "x/b/1", "a/b/2"] {
        server.put(&format!("/v1/kv/{swamp}/k"), "1");
    }
    let swamps =
        |events: Vec<Value>| events.iter().map(|event| event["swamp"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(swamps(named.events(2)), ["a/b/1", "a/b/2"]);
    assert_eq!(swamps(matching.events(3)), ["a/b/1", "a/b/3", "a/b/2"]);
}

#[test]
fn streams_are_limited_and_a_peer_that_is_gone_is_noticed() {
    let server = Hydra::start_with(|_| {}, Config { max_streams: 2, ..Config::default() });
    let feeds = [(); 2].map(|()| Feed::open(server.target, EVENTS, ""));
    let refused = server.get(EVENTS);
    assert_eq!((refused.status, refused.code().as_str()), (429, "too-many-streams"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(listeners(server.target), 2);
    drop(feeds);
    eventually("both are noticed", || listeners(server.target) == 0);
    assert_eq!(Feed::open(server.target, EVENTS, "").head.status, 200);
}

#[test]
fn a_reader_that_never_reads_slows_no_writer_and_is_ended() {
    let config = Config { idle_timeout: Duration::from_secs(2), ..Config::default() };
    let server = Hydra::start_with(|options| options.default_policy.change_log = 10, config);
    let _silent = Feed::open(server.target, EVENTS, "");
    let value = format!("\"{}\"", "x".repeat(200_000));
    let begun = Instant::now();
    for _ in 0..300 {
        assert!(server.put("/v1/kv/a/b/c/k", &value).status < 300);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    eventually("it is ended", || listeners(server.target) == 0);
}

#[test]
fn a_long_poll_answers_when_the_treasure_changes() {
    let server = Hydra::start();
    let path = "/v1/kv/a/b/c/k";
    let poll =
        |tag: &str, wait: &str| server.send("GET", &format!("{path}?wait={wait}"), &[("If-None-Match", tag)], "");
    let after = |millis: u64, act: &dyn Fn()| {
        std::thread::sleep(Duration::from_millis(millis));
        act();
    };
    assert_eq!(server.get(&format!("{path}?wait=20s")).code(), "treasure-not-found", "nothing is known, so at once");
    assert_eq!(poll("\"0\"", "100ms").status, 304, "it was known that there is nothing");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| poll("\"0\"", "20s"));
        after(200, &|| drop(server.put(path, "1")));
        assert_eq!(waiting.join().unwrap().text(), "1");
    });
    let first = server.get(path).etag();
    let begun = Instant::now();
    assert_eq!((poll(&first, "300ms").status, begun.elapsed() >= Duration::from_millis(300)), (304, true));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&first, "20s"));
        after(200, &|| drop(server.put("/v1/kv/a/b/c/other", "1")));
        after(100, &|| drop(server.put(path, "2")));
        assert_eq!(waiting.join().unwrap().text(), "2");
        let any = scope.spawn(|| poll("*", "20s"));
        after(100, &|| drop(server.delete(path)));
        assert_eq!(any.join().unwrap().code(), "treasure-not-found");
    });
    assert_eq!(poll(&first, "20s").status, 404, "what was known is gone");
    for bad in ["61s", "-1", "soon"] {
        assert_eq!(poll(&first, bad).status, 400, "{bad}");
    }
    server.put(&format!("{path}?ttl=300ms"), "3");
    let expiring = server.get(path).etag();
    assert_eq!(poll(&expiring, "20s").status, 404, "it has expired");
    assert_eq!(listeners(server.target), 0);
}

#[test]
fn a_feed_resumes_under_writes_and_begins_anew_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(dir.path(), &[]);
    let target = server.target;
    let done = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..400 {
                assert!(target.put("/v1/kv/a/b/c/n", &i.to_string()).status < 300);
            }
            // Whoever waits for a few events more gets them.
            while !done.load(Ordering::Acquire) {
                target.put("/v1/kv/a/b/c/other", "1");
            }
        });
        let mut seen = -1;
        let mut since: Option<String> = None;
        while seen < 399 {
            let path =
                since.as_ref().map_or_else(|| format!("{EVENTS}?snapshot=true"), |id| format!("{EVENTS}?since={id}"));
            for event in Feed::open(target, &path, "").events(5) {
                if event["key"] == "n" {
                    let value = event["value"].as_i64().unwrap();
                    // The first may come from the snapshot; from there on each comes once.
                    assert!(value == seen + 1 || since.is_none(), "{value} behind {seen}");
                    seen = value;
                }
                since = event["id"].as_str().map(str::to_owned).or(since);
                assert_ne!(event["event"], "reset");
            }
        }
        done.store(true, Ordering::Release);
        since.unwrap()
    });
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let server = Process::start(dir.path(), &[]);
    let events = Feed::open(server.target, &format!("{EVENTS}?since={last}&prefix=n"), "").events(3);
    assert_eq!(words(&events), ["reset", "put n=399", "live"]);
}

#[test]
fn a_server_that_ends_ends_its_streams_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(dir.path(), &[]);
    let mut feeds: Vec<Feed> = (0..20).map(|_| Feed::open(server.target, EVENTS, "")).collect();
    feeds.iter_mut().for_each(|feed| assert_eq!(words(&feed.events(1)), ["live"]));
    let target = server.target;
    let polling =
        std::thread::spawn(move || target.send("GET", "/v1/kv/a/b/c/k?wait=50s", &[("If-None-Match", "\"0\"")], ""));
    eventually("it polls", || listeners(target) == 21);
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(polling.join().unwrap().code(), "draining");
    feeds.iter_mut().for_each(|feed| assert!(feed.events(1).is_empty()));
}

/// What a client does with events, until it has seen all it waits for.
async fn follow(hydra: &Client, until: i64) -> (BTreeMap<String, i64>, usize) {
    let swamp: Swamp<i64> = hydra.swamp("a/b/c").unwrap();
    let mut events = swamp.subscribe().snapshot().stream();
    let (mut held, mut resets) = (BTreeMap::new(), 0);
    while held.get("end") != Some(&until) {
        match events.next().await.unwrap().unwrap().kind {
            EventKind::Put { treasure, .. } => drop(held.insert(treasure.key, treasure.value)),
            EventKind::Delete { key, .. } | EventKind::Expire { key, .. } => drop(held.remove(&key)),
            EventKind::Destroy => held.clear(),
            EventKind::Reset { .. } => {
                resets += 1;
                held.clear();
            }
            _ => {}
        }
    }
    (held, resets)
}

#[test]
fn the_client_hears_the_same_from_a_server_and_in_its_process() {
    let server = Hydra::start();
    for url in [server.server().url(), "mem://"] {
        block_on(async {
            let hydra = Client::connect(url).await.unwrap();
            let swamp: Swamp<i64> = hydra.swamp("a/b/c").unwrap();
            swamp.put("gone", &1).await.unwrap();
            let first = swamp.put("stays", &1).await.unwrap();
            let writes = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                swamp.delete("gone").await.unwrap();
                swamp.increment("stays", 4).await.unwrap();
                swamp.put("end", &1).await.unwrap();
            };
            let ((held, resets), ()) = tokio::join!(follow(&hydra, 1), writes);
            assert_eq!((held, resets), (BTreeMap::from([("end".into(), 1), ("stays".into(), 5)]), 0), "{url}");
            let mut keys = swamp.subscribe().snapshot().keys_only().stream();
            let event = keys.next().await.unwrap().unwrap();
            assert!(matches!(event.kind, EventKind::Put { treasure, .. } if treasure.key == "end"));

            let now = match swamp.wait("stays", Some(&first.version), Duration::from_secs(20)).await.unwrap() {
                Waited::Put(treasure) => treasure,
                other => panic!("{other:?}"),
            };
            assert_eq!(now.value, 5);
            let short = Duration::from_millis(50);
            assert_eq!(swamp.wait("stays", Some(&now.version), short).await.unwrap(), Waited::Unchanged);
            assert_eq!(swamp.wait("absent", None, short).await.unwrap(), Waited::Unchanged);
            let gone = async {
                tokio::time::sleep(short).await;
                swamp.delete("stays").await.unwrap();
            };
            let (waited, ()) = tokio::join!(swamp.wait("stays", Some(&now.version), Duration::from_secs(20)), gone);
            assert_eq!(waited.unwrap(), Waited::Gone, "{url}");
        });
    }
}

#[test]
fn the_client_goes_on_over_a_restart_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), &[]);
    let address = server.target.0;
    server.target.put("/v1/kv/a/b/c/before", "1");
    let following = std::thread::spawn(move || {
        block_on(async {
            let hydra = Client::connect(format!("http://{address}")).await.unwrap();
            follow(&hydra, 7).await
        })
    });
    eventually("it listens", || listeners(server.target) == 1);
    server.target.post("/v1/flush", "");
    server.kill();
    let mut program = crate::support::program();
    program.args(["--listen", &address.to_string(), "--log", "warn", "--data"]).arg(dir.path());
    let mut again = program.stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("it is back", || Target(address).try_send("GET", "/health", &[], b"").is_ok());
    Target(address).put("/v1/kv/a/b/c/end", "7");
    let (held, resets) = following.join().unwrap();
    again.kill().unwrap();
    again.wait().unwrap();
    assert_eq!((held, resets), (BTreeMap::from([("before".into(), 1), ("end".into(), 7)]), 1));
}

/// A number of /proc/PID/status in KiB.
fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    behind_name[11].parse::<u64>().unwrap() + behind_name[12].parse::<u64>().unwrap()
}

#[test]
#[ignore = "opens 10 000 connections, which needs 20 000 files; run by hand"]
fn ten_thousand_idle_feeds_cost_little() {
    const FEEDS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    // The server raises its own limit in the same way.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let server = Process::start(dir.path(), &[]);
    let pid = server.id();
    server.target.put("/v1/kv/a/b/0/k", "1");
    let before = resident_kib(pid);
    let feeds: Vec<TcpStream> = (0..FEEDS)
        .map(|i| {
            let mut stream = server.target.connect().unwrap();
            write!(stream, "GET /v1/swamps/a/b/{i}/events?heartbeat=25s HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            let mut some = [0; 64];
            assert!(stream.read(&mut some).unwrap() > 0);
            stream
        })
        .collect();
    eventually("all are open", || listeners(server.target) == FEEDS as u64);
    // The allocator gives back what opening them took.
    std::thread::sleep(Duration::from_secs(15));
    let (each, ticks) = ((resident_kib(pid) - before) as f64 / FEEDS as f64, processor_ticks(pid));
    // Each gives one sign of life meanwhile.
    std::thread::sleep(Duration::from_secs(25));
    let used = processor_ticks(pid) - ticks;
    println!("{each:.1} KiB for each idle feed, {used} ticks of 10 ms in 25 s");
    assert!(each < 24.0, "{each:.1} KiB each");
    assert!(used < 125, "{used} ticks in 25 s");
    drop(feeds);
    assert_eq!(json!(1), server.target.get("/v1/kv/a/b/0/k").json());
}
