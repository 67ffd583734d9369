//! Moves under a load of writes, with source, target and tool killed (`kill -9`) at every step, as processes.
//!
//! The writers are clients with yesterday's map: they know only the source, follow its hints, and let the new owner
//! begin when they find a folder that nobody serves. Every write has an idempotency key and is sent until it is
//! acknowledged. At the end every acknowledged value is at the owner, and every counter is exact.
//! `HYDRA_MOVE_BATCH=100` lets every batch have so many writes, in place of 24.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydra_core::SwampName;
use hydra_core::wire::{list_path, swamp_path, treasure_path};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Line, Process};
use crate::support::{Answer, name_in, program};

const WRITERS: usize = 8;
/// A write that is not acknowledged for so long is lost, or the folder is stuck.
const STUCK: Duration = Duration::from_secs(20);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Target,
    Tool,
}

/// When: as soon as this is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Importing,
    Sealed,
    Ready,
    Moved,
    Owned,
}

impl Moment {
    const ALL: [Moment; 5] = [Moment::Importing, Moment::Sealed, Moment::Ready, Moment::Moved, Moment::Owned];

    fn is_here(self, source: Option<&Value>, target: Option<&Value>) -> bool {
        let says = |folder: Option<&Value>, state: &str| folder.is_some_and(|folder| folder["state"] == state);
        let is = |folder: Option<&Value>, what: &str| folder.is_some_and(|folder| folder[what] == true);
        match self {
            Moment::Importing => says(target, "importing"),
            Moment::Sealed => is(source, "sealed") || says(source, "moved"),
            Moment::Ready => is(target, "ready") || says(target, "owned"),
            Moment::Moved => says(source, "moved"),
            Moment::Owned => says(target, "owned"),
        }
    }
}

/// What was acknowledged: of each swamp the sum of its counter, and every value.
#[derive(Default)]
struct Ledger {
    sums: HashMap<SwampName, i64>,
    values: HashMap<SwampName, HashMap<String, String>>,
}

/// What the writers share.
struct Load {
    addresses: [SocketAddr; 2],
    folder: AtomicU32,
    is_over: AtomicBool,
    written: AtomicU64,
    /// The longest time between sending a write and its acknowledgement since it was last asked, in ms.
    longest: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Load {
    fn writer(self: &Arc<Load>, number: usize) -> JoinHandle<()> {
        let load = Arc::clone(self);
        std::thread::spawn(move || {
            let mut lines = load.addresses.map(Line::new);
            let mut owners = HashMap::new();
            let mut names = HashMap::new();
            for count in 0.. {
                if load.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let folder = load.folder.load(Ordering::Relaxed);
                let swamp = names
                    .entry(folder)
                    .or_insert_with(|| name_in(&folder.to_string(), &format!("shop/orders/w{number}")))
                    .clone();
                let owner = owners.entry(folder).or_insert(0);
                let id = format!("{number}-{count}");
                // One by one, and many at once: a batch is one write to the disk, too.
                let (request, keys, sum) = match count % 3 {
                    0 => (Request::increment(&swamp), Vec::new(), 1),
                    1 => (Request::put(&swamp, &id), vec![id.clone()], 0),
                    _ => {
                        let keys: Vec<String> = (1..batch()).map(|at| format!("{id}-{at}")).collect();
                        (Request::batch(&swamp, &keys), keys, 1)
                    }
                };
                load.write(&mut lines, owner, folder, &id, &request);
                load.written.fetch_add(keys.len() as u64 + sum, Ordering::Relaxed);
                let mut ledger = load.ledger.lock().expect("the ledger");
                let values = keys.into_iter().map(|key| (key.clone(), format!("\"{key}\"")));
                ledger.values.entry(swamp.clone()).or_default().extend(values);
                *ledger.sums.entry(swamp).or_default() += sum as i64;
            }
        })
    }

    /// Sends a write until it is acknowledged.
    fn write(&self, lines: &mut [Line; 2], owner: &mut usize, folder: u32, id: &str, request: &Request) {
        let begun = Instant::now();
        let headers = [("Idempotency-Key", id), ("Content-Type", "application/json")];
        let Request { method, path, body } = request;
        loop {
            assert!(begun.elapsed() < STUCK, "{method} {path} is not acknowledged");
            match lines[*owner].send(method, path, &headers, body) {
                Some(answer) if answer.status < 300 => {
                    assert!(
                        answer.text().find("\"failed\":").is_none_or(|_| answer.json()["failed"] == 0),
                        "{answer:?}"
                    );
                    break;
                }
                Some(answer) if answer.status == 421 => follow(&answer, lines, owner, folder),
                Some(answer) => {
                    assert!(answer.status == 503, "{method} {path}: {}", answer.text());
                    std::thread::sleep(Duration::from_millis(2));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        self.longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// What a writer sends.
struct Request {
    method: &'static str,
    path: String,
    body: String,
}

impl Request {
    fn increment(swamp: &SwampName) -> Request {
        let path = format!("{}?incr=1", treasure_path(swamp, "sum"));
        Request { method: "POST", path, body: String::new() }
    }

    fn put(swamp: &SwampName, key: &str) -> Request {
        Request { method: "PUT", path: treasure_path(swamp, key), body: format!("\"{key}\"") }
    }

    /// Counts once, and stores every key.
    fn batch(swamp: &SwampName, keys: &[String]) -> Request {
        let puts = keys.iter().map(|key| json!({"op": "put", "key": key, "value": key}));
        let count = json!({"op": "increment", "key": "sum", "by": 1});
        let ops: Vec<Value> = std::iter::once(count).chain(puts).collect();
        Request {
            method: "POST",
            path: format!("{}/batch", swamp_path(swamp)),
            body: json!({ "ops": ops }).to_string(),
        }
    }
}

/// How many writes a batch has.
fn batch() -> usize {
    std::env::var("HYDRA_MOVE_BATCH").ok().and_then(|batch| batch.parse().ok()).unwrap_or(24)
}

/// Goes where a refusal points, and lets the server there begin if that takes a token.
fn follow(answer: &Answer, lines: &mut [Line; 2], owner: &mut usize, folder: u32) {
    let hint = answer.header("hydra-moved-to").unwrap_or_else(|| panic!("no hint in {}", answer.text()));
    let mut pieces = hint.split("; ");
    *owner = usize::from(pieces.next() == Some("s2"));
    let mut parameters = pieces.filter_map(|piece| piece.split_once('=')).collect::<HashMap<_, _>>();
    let Some(token) = parameters.remove("token") else { return std::thread::sleep(Duration::from_millis(2)) };
    let epoch: u64 = parameters["epoch"].parse().expect("an epoch");
    let body = json!({"epoch": epoch, "token": token}).to_string();
    lines[*owner].send("POST", &format!("/v1/folders/{folder}/activate"), &[], &body);
}

struct Ground {
    servers: [Process; 2],
    map: PathBuf,
    load: Arc<Load>,
    writers: Vec<JoinHandle<()>>,
    _dir: TempDir,
}

impl Ground {
    fn start() -> Ground {
        let dir = TempDir::new().expect("a directory");
        let servers = [Process::start("s1", dir.path(), "0-99", ""), Process::start("s2", dir.path(), "", "")];
        let map = dir.path().join("hydra.toml");
        let [s1, s2] = [servers[0].address, servers[1].address];
        let text = format!(
            "epoch = 7\nfolders = 100\n[servers]\ns1 = {{ url = \"http://{s1}\" }}\ns2 = {{ url = \"http://{s2}\" }}\n\
             [[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\n"
        );
        fs::write(&map, text).expect("a map");
        let load = Arc::new(Load {
            addresses: [s1, s2],
            folder: AtomicU32::new(10),
            is_over: AtomicBool::new(false),
            written: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            ledger: Mutex::default(),
        });
        let writers = (0..WRITERS).map(|number| load.writer(number)).collect();
        Ground { servers, map, load, writers, _dir: dir }
    }

    fn tool(&self, folder: u32, more: &[&str]) -> Child {
        let mut command = program();
        command.args(["move", &folder.to_string(), "--from", "s1", "--to", "s2", "--map"]).arg(&self.map).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the tool")
    }

    /// Runs the tool until it has done it.
    fn finish(&self, folder: u32, more: &[&str]) {
        let mut last = String::new();
        for _ in 0..20 {
            let output = self.tool(folder, more).wait_with_output().expect("it ends");
            if output.status.success() {
                return;
            }
            last = String::from_utf8_lossy(&output.stderr).into_owned();
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("folder {folder} {more:?}: {last}");
    }

    /// Looks at both until the moment is there. The target is asked first: if it owns the folder, the source must
    /// not say so a moment later.
    fn wait_for(&self, folder: u32, moment: Moment) {
        let until = Instant::now() + STUCK;
        loop {
            let (target, source) = (self.servers[1].folder(folder), self.servers[0].folder(folder));
            let owns = |folder: &Option<Value>| folder.as_ref().is_some_and(|folder| folder["state"] == "owned");
            assert!(!(owns(&target) && owns(&source)), "folder {folder} has two owners");
            if moment.is_here(source.as_ref(), target.as_ref()) {
                return;
            }
            assert!(Instant::now() < until, "folder {folder}: {moment:?} never came: {source:?} {target:?}");
        }
    }

    fn revive(&mut self) {
        for server in &mut self.servers {
            if !server.is_running() {
                server.restart();
            }
        }
    }

    /// Moves a folder, with somebody killed on the way.
    fn round(&mut self, folder: u32, kill: Option<(Victim, Moment)>, gives_up: bool) {
        self.load.folder.store(folder, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(150));
        let mut tool = self.tool(folder, &[]);
        if let Some((victim, moment)) = kill {
            self.wait_for(folder, moment);
            match victim {
                Victim::Tool => tool.kill().expect("killed"),
                Victim::Source => self.servers[0].kill(),
                Victim::Target => self.servers[1].kill(),
            }
        }
        // A server comes back at once, or when the tool has given it up.
        let comes_back_soon = folder.is_multiple_of(2);
        if comes_back_soon {
            self.revive();
        }
        // What it came to is not the question: somebody was killed.
        let _ = tool.wait_with_output();
        self.revive();
        if gives_up && self.servers[0].folder(folder).is_some_and(|folder| folder["state"] == "owned") {
            self.finish(folder, &["--abort"]);
        }
        self.finish(folder, &[]);
        self.wait_for(folder, Moment::Owned);
    }

    /// Ends the load and compares what it was told with what the owner holds.
    fn check(mut self) {
        self.load.is_over.store(true, Ordering::Relaxed);
        for writer in std::mem::take(&mut self.writers) {
            writer.join().expect("no writer gave up");
        }
        let ledger = self.load.ledger.lock().expect("the ledger");
        let mut line = Line::new(self.servers[1].address);
        for (swamp, sum) in &ledger.sums {
            let found = line.send("GET", &treasure_path(swamp, "sum"), &[], "").expect("an answer").text();
            assert_eq!(found, sum.to_string(), "the counter of {swamp}");
        }
        let mut values = 0;
        for (swamp, expected) in &ledger.values {
            let mut found = HashMap::new();
            let mut path = format!("{}?limit=1000", list_path(swamp));
            loop {
                let page = line.send("GET", &path, &[], "").expect("an answer").json();
                for treasure in page["treasures"].as_array().expect("treasures") {
                    found.insert(treasure["key"].as_str().expect("a key").to_owned(), treasure["value"].to_string());
                }
                match page["nextCursor"].as_str() {
                    Some(cursor) => path = format!("{}?limit=1000&cursor={cursor}", list_path(swamp)),
                    None => break,
                }
            }
            for (key, value) in expected {
                assert_eq!(found.get(key), Some(value), "{key} of {swamp}");
                values += 1;
            }
        }
        println!("{values} values and {} counters are whole", ledger.sums.len());
    }
}

#[test]
fn no_write_is_lost_whoever_is_killed_at_whatever_step_of_a_move() {
    let mut ground = Ground::start();
    let begun = Instant::now();
    let mut folder = 10;
    // Without a kill: what a move costs the writers.
    for _ in 0..3 {
        ground.load.longest.store(0, Ordering::Relaxed);
        let (before, round) = (ground.load.written.load(Ordering::Relaxed), Instant::now());
        ground.round(folder, None, false);
        let longest = ground.load.longest.load(Ordering::Relaxed);
        let rate = (ground.load.written.load(Ordering::Relaxed) - before) as f64 / round.elapsed().as_secs_f64();
        println!("folder {folder}: nobody is killed, {rate:.0} writes a second, the longest took {longest} ms");
        folder += 1;
    }
    for victim in [Victim::Tool, Victim::Source, Victim::Target] {
        for moment in Moment::ALL {
            ground.load.longest.store(0, Ordering::Relaxed);
            let round = Instant::now();
            ground.round(folder, Some((victim, moment)), victim == Victim::Tool && folder % 2 == 0);
            println!(
                "folder {folder}: {victim:?} killed at {moment:?}, the longest write took {} ms, the round {} ms",
                ground.load.longest.load(Ordering::Relaxed),
                round.elapsed().as_millis()
            );
            folder += 1;
        }
    }
    let written = ground.load.written.load(Ordering::Relaxed);
    println!(
        "{written} writes, {:.0} in a second over all, kills and restarts included",
        written as f64 / begun.elapsed().as_secs_f64()
    );
    assert!(written > 1_000, "only {written} writes");
    ground.check();
}
