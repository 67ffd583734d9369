//! Writers that never pause, through a failover and back: the folders return although there is always something that the
//! primary lacks, nothing acknowledged is lost, every counter is exact, and nobody reads what is older than what it wrote.
//!
//! Servers and syncs are processes, the syncs with the real rsync. The primary is killed, also in the midst of a return.
//! `HYDRA_RETURNS=20` goes back and forth so often.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydra_core::SwampName;
use hydra_sdk::{ClientMap, Hydra};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::support::{Run, block_on, file, name_in, program, spawn};

/// How many clients there are, each with a memory of its own about servers.
const CLIENTS: usize = 3;
/// The folders they write in, one swamp of each client in each.
const FOLDERS: [u32; 4] = [10, 20, 30, 40];
const EVERY: &str = "200ms";

fn every() -> Duration {
    hydra_core::duration::parse_duration(EVERY).expect("a duration")
}

/// A folder that has not returned by then is stuck.
const STUCK: Duration = Duration::from_secs(40);

/// What all writers share.
#[derive(Default)]
struct Course {
    is_over: AtomicBool,
    /// The primary went just now: what it had not copied yet is not at the fallback.
    is_failing_over: AtomicBool,
    /// The longest call since it was last asked, in ms.
    longest: AtomicU64,
    calls: AtomicU64,
}

/// What one writer was promised: its last number, and the sum of its increments.
struct Promised {
    name: SwampName,
    number: u64,
    sum: i64,
}

/// Puts a growing number, counts, and reads both again. A call that fails ends the test.
async fn write(hydra: Hydra, name: SwampName, course: Arc<Course>) -> Promised {
    let swamp = hydra.swamp::<u64>(name.as_str()).expect("a name");
    let counter = hydra.swamp::<i64>(name.as_str()).expect("a name");
    let mut promised = Promised { name, number: 0, sum: 0 };
    while !course.is_over.load(Ordering::Relaxed) {
        let number = promised.number + 1;
        course.timed(async { swamp.put("number", &number).await.map(drop) }).await;
        promised.number = number;
        course.timed(async { counter.increment("sum", 1).await.map(drop) }).await;
        promised.sum += 1;
        let was_failing_over = course.is_failing_over.load(Ordering::SeqCst);
        let read = swamp.get("number").await.expect("read");
        if !was_failing_over && !course.is_failing_over.load(Ordering::SeqCst) {
            assert_eq!(read, Some(number), "{} does not read what it wrote", promised.name);
        }
    }
    promised
}

impl Course {
    async fn timed(&self, call: impl Future<Output = hydra_sdk::Result<()>>) {
        let begun = Instant::now();
        call.await.unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()));
        self.longest.fetch_max(u64::try_from(begun.elapsed().as_millis()).expect("short"), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn longest(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed)
    }
}

/// `hydra-router sync`, again and again, until it is dropped.
struct Sync(Child);

impl Sync {
    fn start(map: &Path, from: &str, to: &str, more: &[&str]) -> Sync {
        let mut command: Command = program();
        command.args(["sync", "--from", from, "--to", to, "--every", EVERY, "--map"]).arg(map).args(more);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Sync(child.expect("the program"))
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        // It ends with the test at the latest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Ground {
    s1: Process,
    s2: Process,
    map: PathBuf,
    course: Arc<Course>,
    clients: Vec<Hydra>,
    writers: Vec<JoinHandle<Promised>>,
    _syncs: [Sync; 2],
    _dirs: [TempDir; 2],
}

impl Ground {
    /// `client` are lines of `[client]`, `back` flags of the sync from the fallback to the primary.
    fn start(client: &str, back: &[&str]) -> Ground {
        let dir = TempDir::new().expect("a directory");
        let s1 = Process::start("s1", dir.path(), "0-99", "");
        let s2 = Process::start("s2", dir.path(), "", "0-99");
        let server =
            |server: &Process| format!("{{ url = \"{}\", sync = \"{}\" }}", server.url(), server.dir.display());
        let text = format!(
            "folders = 100\n[servers]\ns1 = {}\ns2 = {}\n[[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\n\
             fallbacks = [\"s2\"]\n[client]\nhold_down = \"500ms\"\n{client}",
            server(&s1),
            server(&s2)
        );
        let (map_dir, map) = file(&text);
        let syncs = [Sync::start(&map, "s1", "s2", &[]), Sync::start(&map, "s2", "s1", back)];
        let client = || block_on(async { Hydra::with_map(ClientMap::from_file(&map).expect("a map")) });
        let clients: Vec<Hydra> = (0..CLIENTS).map(|_| client().expect("a client")).collect();
        let course = Arc::new(Course::default());
        let mut writers = Vec::new();
        for (number, hydra) in clients.iter().enumerate() {
            for folder in FOLDERS {
                let name = name_in(&folder.to_string(), &format!("shop/orders/c{number}"));
                writers.push(spawn(write(hydra.clone(), name, Arc::clone(&course))));
            }
        }
        Ground { s1, s2, map, course, clients, writers, _syncs: syncs, _dirs: [dir, map_dir] }
    }

    /// The primary is killed, and calls go on at the fallback.
    fn fail_over(&mut self) {
        self.course.is_failing_over.store(true, Ordering::SeqCst);
        self.s1.kill();
        let until = Instant::now() + STUCK;
        while self.clients.iter().any(|hydra| hydra.staying().len() < FOLDERS.len()) {
            self.check_writers();
            assert!(Instant::now() < until, "not all folders stay with the fallback");
            std::thread::sleep(Duration::from_millis(10));
        }
        // What the primary wrote last comes with the next copies. Its clock may be ahead, as after every kill, and what
        // the fallback wrote until then is older by it.
        std::thread::sleep(5 * every());
        self.course.is_failing_over.store(false, Ordering::SeqCst);
    }

    /// Nothing stays anywhere, and nothing is left to be settled.
    fn has_returned(&self) -> bool {
        let stays = self.clients.iter().any(|hydra| !hydra.staying().is_empty());
        !stays && FOLDERS.iter().all(|folder| self.takeover(*folder) == 0)
    }

    fn takeover(&self, folder: u32) -> u64 {
        let mut line = crate::process::Line::new(self.s2.address);
        let answer = line.send("GET", &format!("/v1/folders/{folder}/takeover"), &[], "").expect("an answer");
        answer.json()["count"].as_u64().expect("a count")
    }

    fn wait_for_return(&self) -> Duration {
        let begun = Instant::now();
        // Not by chance, between two writes.
        while !(self.has_returned() && self.has_returned()) {
            self.check_writers();
            assert!(begun.elapsed() < STUCK, "the folders do not return");
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    }

    fn is_sealed(&self) -> bool {
        FOLDERS.iter().any(|folder| self.s2.folder(*folder).is_some_and(|folder| folder["sealed"] == true))
    }

    /// A writer that has ended has found something wrong.
    fn check_writers(&self) {
        assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer gave up; see above");
    }

    /// Ends the writers, lets the copies meet, and compares both servers with what was promised.
    fn check(mut self) {
        self.course.is_over.store(true, Ordering::Relaxed);
        let writers = std::mem::take(&mut self.writers);
        let promised: Vec<Promised> =
            writers.into_iter().map(|writer| block_on(writer).expect("a writer gave up")).collect();
        for (from, to) in [("s1", "s2"), ("s2", "s1")] {
            let run = Run::of(program().args(["sync", "--from", from, "--to", to, "--map"]).arg(&self.map));
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        // Servers look for files of others once a second.
        std::thread::sleep(Duration::from_millis(1_100));
        for server in [&self.s1, &self.s2] {
            for Promised { name, number, sum } in &promised {
                let mut line = crate::process::Line::new(server.address);
                let mut read = |key: &str| {
                    line.send("GET", &hydra_core::wire::treasure_path(name, key), &[], "").expect("an answer").text()
                };
                let found = (read("number"), read("sum"));
                assert_eq!(found, (number.to_string(), sum.to_string()), "{name} at {}", server.url());
            }
        }
        let sum: i64 = promised.iter().map(|promised| promised.sum).sum();
        println!(
            "{} calls, {} swamps, {sum} increments: all there on both",
            self.course.calls.load(Ordering::Relaxed),
            promised.len()
        );
    }
}

fn has_rsync() -> bool {
    let is_here = Command::new("rsync").arg("--version").output().is_ok();
    assert!(is_here || std::env::var_os("CI").is_none(), "rsync is not installed");
    is_here
}

fn rounds() -> usize {
    std::env::var("HYDRA_RETURNS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

#[test]
fn a_folder_that_is_written_without_pause_returns_to_its_primary() {
    if !has_rsync() {
        return;
    }
    let mut ground = Ground::start("", &[]);
    for round in 0..rounds() {
        std::thread::sleep(Duration::from_millis(500));
        let usual = ground.course.longest();
        ground.fail_over();
        std::thread::sleep(Duration::from_secs(1));
        let failing_over = ground.course.longest();
        ground.s1.restart();
        // Every other time the primary dies again when somebody has begun to lead a folder back.
        if round % 2 == 1 {
            let until = Instant::now() + STUCK;
            while !ground.is_sealed() {
                assert!(Instant::now() < until, "nobody leads the folders back");
                ground.check_writers();
            }
            ground.course.is_failing_over.store(true, Ordering::SeqCst);
            ground.s1.kill();
            std::thread::sleep(Duration::from_secs(1));
            ground.course.is_failing_over.store(false, Ordering::SeqCst);
            println!("killed in the midst of a return: the longest call took {} ms", ground.course.longest());
            ground.s1.restart();
        }
        let took = ground.wait_for_return();
        println!(
            "round {round}: returned after {took:.1?}; the longest call took {usual} ms before, {failing_over} ms in the \
             failover, {} ms in the return",
            ground.course.longest()
        );
    }
    ground.check();
}

#[test]
fn a_sync_that_settles_leads_such_a_folder_back_by_itself() {
    if !has_rsync() {
        return;
    }
    let mut ground = Ground::start("failback = \"manual\"\n", &["--settle"]);
    ground.fail_over();
    std::thread::sleep(Duration::from_millis(500));
    ground.course.longest();
    ground.s1.restart();
    let took = ground.wait_for_return();
    println!("returned after {took:.1?}; the longest call took {} ms", ground.course.longest());
    ground.check();
}
