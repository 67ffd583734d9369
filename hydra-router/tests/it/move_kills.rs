//! Moves under a load of writes, with source, target and tool killed (`kill -9`) at every step, as processes.
//!
//! The writers are clients with yesterday's map: they know only the source, follow its hints, and let the new owner
//! begin when they find a folder that nobody serves. Every write has an idempotency key and is sent until it is
//! acknowledged. At the end every acknowledged value is at the owner, and every counter is exact.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydra_core::wire::{list_path, treasure_path};
use hydra_core::{Engine, EngineOptions, FolderSet, SwampName};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Target, block_on, name_in, program};

/// What a process of this test binary serves: `id address directory`.
const SERVES: &str = "HYDRA_MOVE_TEST_SERVES";
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

/// A server as a process that can be killed.
struct Process {
    id: &'static str,
    address: SocketAddr,
    dir: PathBuf,
    child: Child,
}

impl Process {
    fn start(id: &'static str, dir: &Path) -> Process {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let dir = dir.join(id);
        let child = Process::spawn(id, address, &dir);
        Process { id, address, dir, child }
    }

    fn spawn(id: &str, address: SocketAddr, dir: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "move_kills::a_server_for_the_test_of_kills", "--nocapture"])
            .env(SERVES, format!("{id} {address} {}", dir.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server");
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "{id} does not start");
            assert!(child.try_wait().expect("a process").is_none(), "{id} ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    fn restart(&mut self) {
        self.child = Process::spawn(self.id, self.address, &self.dir);
    }

    /// What it is to a folder; `None` while it does not answer.
    fn folder(&self, folder: u32) -> Option<Value> {
        let mut line = Line::new(self.address);
        let answer = line.send("GET", &format!("/v1/folders/{folder}"), &[], "")?;
        Some(answer.json()["folders"][0].clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already, or not: it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test: what the processes of the test below run.
#[test]
fn a_server_for_the_test_of_kills() {
    let Ok(serves) = std::env::var(SERVES) else { return };
    let mut pieces = serves.splitn(3, ' ');
    let (id, address, dir) = (pieces.next(), pieces.next(), pieces.next());
    let mut options = EngineOptions::new(dir.expect("a directory"));
    options.server_id = id.map(str::to_owned);
    options.copied = true;
    options.owned = (id == Some("s2")).then(FolderSet::new);
    // What is acknowledged is on disk: a killed process loses nothing of it.
    options.default_policy.write_interval = Duration::ZERO;
    let engine = Engine::open(options).expect("opened");
    block_on(async {
        let listener = tokio::net::TcpListener::bind(address.expect("an address")).await.expect("the port");
        let config = hydra_server::Config::default();
        hydra_server::run(listener, engine, config, std::future::pending()).await.expect("served");
    });
}

/// A connection that is made anew when it breaks.
struct Line {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Line {
    fn new(address: SocketAddr) -> Line {
        Line { address, stream: None }
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let answer = self.try_send(method, path, headers, body);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn try_send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = Target(self.address).connect().ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
                self.stream.insert(stream)
            }
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: hydra\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes()).ok()?;
        Answer::read(stream).ok()
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
                if count % 2 == 0 {
                    let path = format!("{}?incr=1", treasure_path(&swamp, "sum"));
                    load.write(&mut lines, owner, folder, "POST", &path, &id, "");
                    *load.ledger.lock().expect("the ledger").sums.entry(swamp).or_default() += 1;
                } else {
                    let path = treasure_path(&swamp, &id);
                    load.write(&mut lines, owner, folder, "PUT", &path, &id, &format!("\"{id}\""));
                    let mut ledger = load.ledger.lock().expect("the ledger");
                    ledger.values.entry(swamp).or_default().insert(id.clone(), format!("\"{id}\""));
                }
            }
        })
    }

    /// Sends a write until it is acknowledged.
    #[allow(clippy::too_many_arguments)]
    fn write(
        &self,
        lines: &mut [Line; 2],
        owner: &mut usize,
        folder: u32,
        method: &str,
        path: &str,
        id: &str,
        body: &str,
    ) {
        let begun = Instant::now();
        let headers = [("Idempotency-Key", id), ("Content-Type", "application/json")];
        loop {
            assert!(begun.elapsed() < STUCK, "{method} {path} is not acknowledged");
            match lines[*owner].send(method, path, &headers, body) {
                Some(answer) if answer.status < 300 => break,
                Some(answer) if answer.status == 421 => follow(&answer, lines, owner, folder),
                Some(answer) => {
                    assert!(answer.status == 503, "{method} {path}: {}", answer.text());
                    std::thread::sleep(Duration::from_millis(2));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
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
        let servers = ["s1", "s2"].map(|id| Process::start(id, dir.path()));
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
        // What it came to is not the question: somebody was killed.
        let _ = tool.wait_with_output();
        for server in &mut self.servers {
            if server.child.try_wait().expect("a process").is_some() {
                server.restart();
            }
        }
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
        ground.round(folder, None, false);
        let longest = ground.load.longest.load(Ordering::Relaxed);
        println!("folder {folder}: nobody is killed, the longest write took {longest} ms");
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
    println!("{written} writes, {:.0} in a second", written as f64 / begun.elapsed().as_secs_f64());
    assert!(written > 1_000, "only {written} writes");
    ground.check();
}
