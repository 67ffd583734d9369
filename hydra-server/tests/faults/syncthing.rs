//! Real Syncthing, twice, between the directories of two servers: through fail-over and fail-back, with a
//! chunk deleted under the server that writes it, and with the files Syncthing makes of conflicts.
//!
//! `HYDRA_SYNCTHING_CYCLES=100` falls over and back that often.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Client, Contents, metric};
use crate::ground::{TIDY, command, data_dir, has, run, start, text};
use crate::ledger::{Library, Pace, expect_nothing, names, synced, wanted};
use crate::support::{Process, Target};

const KEY: &str = "a-key-that-only-this-test-knows";
const PACE: Pace = Pace { writers: 2, rest: Duration::from_millis(5) };
/// Syncthing looks for changes once a second and for deletions less often.
const PATIENCE: Duration = Duration::from_secs(90);

/// One Syncthing over one directory.
struct Syncthing {
    home: TempDir,
    device: String,
    gui: u16,
    port: u16,
    process: Option<Child>,
}

impl Syncthing {
    fn new() -> Syncthing {
        let home = tempfile::tempdir().expect("a directory");
        run("syncthing", &["generate", "--no-default-folder", &format!("--home={}", text(home.path()))]);
        let device = run("syncthing", &["serve", "--device-id", &format!("--home={}", text(home.path()))]);
        Syncthing { home, device, gui: free_port(), port: free_port(), process: None }
    }

    /// Writes settings for a folder that is kept the same in both directions, on this machine and nowhere else.
    fn configure(&self, other: &Syncthing, data: &Path) {
        let device = |it: &Syncthing| {
            format!("<device id=\"{}\" name=\"x\"><address>tcp://127.0.0.1:{}</address></device>", it.device, it.port)
        };
        let member = |it: &Syncthing| format!("<device id=\"{}\"/>", it.device);
        let config = format!(
            "<configuration version=\"36\">\
             <folder id=\"data\" path=\"{}\" type=\"sendreceive\" rescanIntervalS=\"3600\" fsWatcherEnabled=\"true\" \
             fsWatcherDelayS=\"1\">{}{}<maxConflicts>-1</maxConflicts></folder>{}{}\
             <gui enabled=\"true\" tls=\"false\"><address>127.0.0.1:{}</address><apikey>{KEY}</apikey>\
             <insecureSkipHostcheck>true</insecureSkipHostcheck></gui>\
             <options><listenAddress>tcp://127.0.0.1:{}</listenAddress>\
             <globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>\
             <reconnectionIntervalS>1</reconnectionIntervalS><relaysEnabled>false</relaysEnabled>\
             <startBrowser>false</startBrowser><natEnabled>false</natEnabled><urAccepted>-1</urAccepted>\
             <autoUpgradeIntervalH>0</autoUpgradeIntervalH><crashReportingEnabled>false</crashReportingEnabled>\
             <setLowPriority>false</setLowPriority></options></configuration>",
            text(data),
            member(self),
            member(other),
            device(self),
            device(other),
            self.gui,
            self.port,
        );
        std::fs::write(self.home.path().join("config.xml"), config).expect("a configuration");
        std::fs::create_dir_all(data.join(".stfolder")).expect("the mark of a synced directory");
        std::fs::write(data.join(".stignore"), "/.hydra\n").expect("what is not synced");
    }

    fn start(&mut self) {
        let mut syncthing = command("syncthing");
        syncthing.args(["serve", "--no-browser", "--no-upgrade", "--no-restart", "--logfile=-"]);
        syncthing.arg(format!("--home={}", text(self.home.path()))).env("STNORESTART", "1");
        let log = std::fs::File::create(self.home.path().join("log")).expect("a log");
        let process = syncthing.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).process_group(0).spawn();
        self.process = Some(process.expect("syncthing starts"));
        let begun = Instant::now();
        while self.ask("GET", "system/ping").is_none() {
            assert!(begun.elapsed() < PATIENCE, "syncthing does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // It may be two processes: one that watches over the other.
        let group = format!("-{}", process.id());
        let _ = command("kill").args(["-KILL", "--", &group]).status();
        let _ = process.wait();
    }

    fn ask(&self, method: &str, path: &str) -> Option<String> {
        let gui = Target(([127, 0, 0, 1], self.gui).into());
        let answer = gui.try_send(method, &format!("/rest/{path}"), &[("X-API-Key", KEY)], &[]).ok()?;
        (answer.status == 200).then(|| answer.text())
    }

    /// Has it look for changes now.
    fn scan(&self) {
        let _ = self.ask("POST", "db/scan?folder=data");
    }
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Two servers, s1 for everything and s2 behind it, with Syncthing between their directories.
struct Pair {
    servers: [Option<Process>; 2],
    syncthings: [Syncthing; 2],
    dirs: [TempDir; 2],
}

const ROLES: [[&str; 4]; 2] = [["--id", "s1", "--folders", "0-99"], ["--id", "s2", "--standby", "0-99"]];

impl Pair {
    fn start() -> Pair {
        let syncthings = [Syncthing::new(), Syncthing::new()];
        let dirs = [data_dir(), data_dir()];
        for side in 0..2 {
            syncthings[side].configure(&syncthings[1 - side], dirs[side].path());
        }
        let mut pair = Pair { servers: [None, None], syncthings, dirs };
        for side in 0..2 {
            pair.start_server(side);
            synced(pair.target(side), "*/*/*");
            pair.syncthings[side].start();
        }
        pair
    }

    fn start_server(&mut self, side: usize) {
        let server = start(self.dirs[side].path(), &[&ROLES[side][..], &["--copied"], &TIDY].concat());
        self.servers[side] = Some(server);
    }

    fn kill_server(&mut self, side: usize) {
        self.servers[side].take().expect("it runs").kill();
    }

    fn target(&self, side: usize) -> Target {
        self.servers[side].as_ref().expect("it runs").target
    }

    fn contents(&self, side: usize, library: &Library) -> Vec<Contents> {
        let mut client = Client::new(self.target(side));
        let mut all = Vec::new();
        library.each(|book| all.push(Contents::read(&mut client, &book.swamp)));
        all
    }

    /// Waits until both servers show the same; answers how long that took.
    fn meet(&self, library: &Library, when: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let (left, right) = (self.contents(0, library), self.contents(1, library));
            let is_whole = left.iter().all(|contents| contents.copy.is_none());
            if left == right && is_whole {
                return begun.elapsed();
            }
            if begun.elapsed() > PATIENCE {
                let different = left.iter().zip(&right).filter(|(left, right)| left != right).count();
                panic!("{when}: {different} swamps still differ; whole: {is_whole}; {}", self.syncthings[0].log());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn write(&self, side: usize, library: &Library, time: u64) {
        library.under_load(self.target(side), PACE, || std::thread::sleep(Duration::from_millis(time)));
    }
}

/// What is written where. Two servers that have not met cannot tell which of their writes to one key came
/// last, so each has swamps of its own, and those that both write are handed over when both are the same.
struct Shelves {
    primary: Library,
    copy: Library,
    handed_over: Library,
}

impl Shelves {
    fn new() -> Shelves {
        let library = |name, seed| Library::new(names(name, 5), seed, 100);
        Shelves { primary: library("primary", 1), copy: library("copy", 2), handed_over: library("both", 3) }
    }

    fn all(&self) -> [&Library; 3] {
        [&self.primary, &self.copy, &self.handed_over]
    }
}

/// The primary dies with its Syncthing, the copy takes over, the primary comes back.
fn fall_over_and_back(pair: &mut Pair, shelves: &Shelves, cycle: u64) {
    pair.write(0, &shelves.handed_over, 500);
    pair.meet(&shelves.handed_over, "before the fail-over");
    let target = pair.target(0);
    shelves.primary.under_load(target, PACE, || {
        std::thread::sleep(Duration::from_millis(300 + 37 * cycle % 500));
        pair.kill_server(0);
    });
    pair.syncthings[0].stop();
    pair.write(1, &shelves.handed_over, 500);
    pair.write(1, &shelves.copy, 500);
    pair.syncthings[0].start();
    pair.start_server(0);
    std::thread::scope(|scope| {
        let pair = &*pair;
        scope.spawn(move || pair.write(0, &shelves.primary, 400));
        pair.write(1, &shelves.copy, 400);
    });
    let met: Vec<Duration> = shelves.all().iter().map(|library| pair.meet(library, "after the fail-back")).collect();
    println!("syncthing: cycle {cycle}: both the same {met:.1?} after the fail-back");
    let dirs = [pair.dirs[0].path(), pair.dirs[1].path()];
    for (library, side) in shelves.all().into_iter().zip([0, 1, 0]) {
        let when = format!("after the fail-back, on server {side} of {dirs:?}");
        expect_nothing(&library.check_exactly(pair.target(side)), &when);
        pair.meet(library, "after the last increments");
        expect_nothing(&library.check_exactly(pair.target(1 - side)), "after the fail-back, on the other server");
    }
}

/// The newest chunk of a server in a swamp.
fn open_chunk(data: &Path, swamp: &str, server: &str) -> PathBuf {
    let listed = run("find", &[text(data), "-path", &format!("*/{swamp}/{server}-*.hyl")]);
    let newest = listed.lines().map(PathBuf::from).max_by_key(|path| {
        std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("a file with a time")
    });
    newest.unwrap_or_else(|| panic!("{server} has no chunk of {swamp}"))
}

/// Somebody deletes the copy of a chunk that the primary is writing, and Syncthing carries that to the primary.
fn delete_an_open_chunk(pair: &mut Pair, library: &Library) {
    let before = metric(pair.target(0), "hydra_external_interference_total");
    let mut swamp = String::new();
    library.touch_all(pair.target(0));
    pair.meet(library, "before a chunk is deleted");
    library.each(|book| swamp.clone_from(&book.swamp));
    let open = open_chunk(pair.dirs[0].path(), &swamp, "s1");
    let copied = pair.dirs[1].path().join(open.strip_prefix(pair.dirs[0].path()).expect("below the directory"));
    std::fs::remove_file(&copied).expect("the copy of the chunk");
    let begun = Instant::now();
    while open.exists() {
        pair.syncthings[1].scan();
        assert!(begun.elapsed() < PATIENCE, "the deletion never came: {}", pair.syncthings[0].log());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("syncthing: the deletion of an open chunk came after {:.1?}", begun.elapsed());
    library.touch_all(pair.target(0));
    let after = metric(pair.target(0), "hydra_external_interference_total");
    assert!(after > before, "nobody noticed that the chunk was gone");
    pair.kill_server(0);
    pair.start_server(0);
    expect_nothing(&library.check_exactly(pair.target(0)), "after an open chunk was deleted");
    pair.meet(library, "after a chunk was deleted");
}

/// What Syncthing leaves of a conflict: an older piece of a chunk under a name of its own.
fn leave_a_conflict_file(pair: &mut Pair, library: &Library) {
    let mut swamp = String::new();
    library.each(|book| swamp.clone_from(&book.swamp));
    let chunk = open_chunk(pair.dirs[0].path(), &swamp, "s1");
    let name = text(&chunk).replace(".hyl", ".sync-conflict-20260102-030405-ABCDEFG.hyl");
    let bytes = std::fs::read(&chunk).expect("a chunk");
    std::fs::write(&name, &bytes[..bytes.len() / 2]).expect("a file beside it");
    let files = |target| Client::new(target).get(&format!("/v1/swamps/{swamp}")).json()["files"].clone();
    let before = files(pair.target(0));
    pair.kill_server(0);
    pair.start_server(0);
    assert_eq!(files(pair.target(0)), before, "a conflict file is not data");
    expect_nothing(&library.check_exactly(pair.target(0)), "beside a conflict file");
    assert!(Path::new(&name).exists(), "what is not ours is left alone");
}

#[test]
fn syncthing_carries_two_servers_through_fail_over_and_fail_back() {
    if !has(&["syncthing"]) {
        return;
    }
    let begun = Instant::now();
    let (shelves, mut pair) = (Shelves::new(), Pair::start());
    for cycle in 0..wanted("HYDRA_SYNCTHING_CYCLES", 1) {
        fall_over_and_back(&mut pair, &shelves, cycle);
    }
    delete_an_open_chunk(&mut pair, &shelves.primary);
    leave_a_conflict_file(&mut pair, &shelves.primary);
    let acknowledged: u64 = shelves.all().iter().map(|library| library.acknowledged()).sum();
    println!("syncthing: {acknowledged} acknowledged writes, {:.1?}", begun.elapsed());
}
