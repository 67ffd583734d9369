//! Two servers, real rsync both ways all the time, and clients who write, delete and count on both,
//! through partitions and kills.
//!
//! In the end both answer the same; every acknowledged write is shown, was replaced by somebody who
//! had seen it, or is listed as a conflict; sums are exact; nothing deleted comes back.
//! `HYDRA_SOAK_SECONDS=300` goes on for that long, `HYDRA_SEED` chooses another course,
//! `HYDRA_FAULTS_KEEP` keeps the directories.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Contents};
use crate::ground::{TIDY, data_dir, has, run, start, text};
use crate::ledger::{Dice, StopOnDrop, expect_nothing, synced, wanted};
use crate::support::{Answer, Process, Target};

const CLIENTS: usize = 3;
/// Keys of a swamp that one client on each side writes.
const SHARED_KEYS: u64 = 4;

/// A swamp lists so many conflicts and no more, so a longer run has more swamps.
fn swamp_names(time: Duration) -> Vec<String> {
    (0..6.max(time.as_secs() / 2)).map(|index| format!("two/way/s{index}")).collect()
}

/// One of the two servers, wherever it listens at the moment.
struct Site {
    id: &'static str,
    flags: Vec<&'static str>,
    dir: TempDir,
    process: Mutex<Option<Process>>,
    target: Mutex<Target>,
}

impl Site {
    fn new(id: &'static str, folders: [&'static str; 2]) -> Site {
        let dir = data_dir();
        let flags = [&["--copied", "--folders", folders[0], "--standby", folders[1]][..], &TIDY].concat();
        let process = start(dir.path(), &[&["--id", id], &flags[..]].concat());
        synced(process.target, "*/*/*");
        Site { id, flags, dir, target: Mutex::new(process.target), process: Mutex::new(Some(process)) }
    }

    fn target(&self) -> Target {
        *self.target.lock().expect("no panic")
    }

    fn kill(&self) {
        self.process.lock().expect("no panic").take().expect("it runs").kill();
    }

    fn revive(&self) {
        let process = start(self.dir.path(), &self.flags);
        *self.target.lock().expect("no panic") = process.target;
        *self.process.lock().expect("no panic") = Some(process);
    }

    /// A client as the fall-back makes them: it says who does not answer.
    fn client(&self, sites: &[Site; 2]) -> Client {
        let other = sites.iter().find(|site| site.id != self.id).expect("two sites");
        Client::new(self.target()).with_header("Hydra-Fallback-For", other.id)
    }
}

/// What the writer of one server wrote, to the other: one direction of the union.
fn sync(from: &Site, to: &Site) {
    let own = format!("--include={}-*.hy[ls]", from.id);
    let (source, target) = (format!("{}/", text(from.dir.path())), format!("{}/", text(to.dir.path())));
    let filter = ["--exclude=/.hydra", "--include=*/", &own, "--exclude=*"];
    let flags = ["-a", "--append-verify", "--prune-empty-dirs"];
    let output = crate::ground::try_run("rsync", &[&flags[..], &filter, &[&source, &target]].concat());
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 23 | 24)), "{code:?} {}", String::from_utf8_lossy(&output.stderr));
}

/// A write to a shared key. What it replaced is known exactly: it was conditional.
#[derive(Debug)]
struct Link {
    swamp: String,
    key: String,
    parent: Option<u64>,
    acknowledged: bool,
}

/// A key of one client, and the states it may be in: two after a write that was not answered.
#[derive(Debug)]
struct OwnKey {
    swamp: String,
    key: String,
    states: Vec<Option<u64>>,
    deleted_for_certain: bool,
}

/// An increment that has to arrive, whoever takes it.
struct Increment {
    path: String,
    key: String,
}

/// Everything known outside the servers.
#[derive(Default)]
struct Ledger {
    swamps: Vec<String>,
    links: Mutex<HashMap<u64, Link>>,
    /// Per counter: what was asked for.
    sums: Mutex<HashMap<String, i64>>,
    own: Mutex<Vec<OwnKey>>,
    acknowledged: AtomicU64,
    replaced_meanwhile: AtomicU64,
    tried_elsewhere: AtomicU64,
}

/// One client: it prefers one side and never gives an increment up.
struct Worker<'a> {
    sites: &'a [Site; 2],
    ledger: &'a Ledger,
    side: usize,
    index: usize,
    dice: Dice,
    next: u64,
    clients: [Client; 2],
    own: Vec<OwnKey>,
}

impl<'a> Worker<'a> {
    fn new(sites: &'a [Site; 2], ledger: &'a Ledger, side: usize, index: usize, seed: u64) -> Worker<'a> {
        let number = (side * CLIENTS + index) as u64 + 1;
        Worker {
            sites,
            ledger,
            side,
            index,
            dice: Dice::new(seed + number),
            next: number * 1_000_000_000,
            clients: [sites[0].client(sites), sites[1].client(sites)],
            own: Vec::new(),
        }
    }

    fn work(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match self.dice.below(4) {
                0 => self.count(stop),
                1 => self.own_key(),
                _ => self.shared_key(),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ledger.own.lock().expect("no panic").extend(self.own);
    }

    /// One exchange with a site; `None` when nobody knows what became of it.
    fn send(&mut self, side: usize, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let answer = self.clients[side].send(method, path, headers, body).ok();
        if answer.is_none() {
            std::thread::sleep(Duration::from_millis(20));
            self.clients[side].move_to(self.sites[side].target());
        }
        answer.filter(|answer| answer.status < 500 || answer.header("hydra-applied") == Some("no"))
    }

    /// The number in a value and its version, or that there is none. `None` when the server does not say.
    fn look(&mut self, side: usize, path: &str) -> Option<Option<(u64, String)>> {
        let answer = self.send(side, "GET", path, &[], "")?;
        match answer.status {
            200 => Some(Some((answer.json().as_u64().expect("a number"), answer.etag()))),
            404 => Some(None),
            _ => None,
        }
    }

    fn swamp(&mut self) -> String {
        let swamps = &self.ledger.swamps;
        swamps[self.dice.below(swamps.len() as u64) as usize].clone()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Replaces exactly what is there: so it is known what was seen.
    fn shared_key(&mut self) {
        let (swamp, side, id) = (self.swamp(), self.side, self.number());
        let key = format!("k{}", self.dice.below(SHARED_KEYS) * CLIENTS as u64 + self.index as u64);
        let path = format!("/v1/kv/{swamp}/{key}");
        let Some(seen) = self.look(side, &path) else { return };
        let condition = match &seen {
            Some((_, version)) => ("If-Match", version.as_str()),
            None => ("If-None-Match", "*"),
        };
        let link = Link { swamp, key, parent: seen.as_ref().map(|(id, _)| *id), acknowledged: false };
        self.ledger.links.lock().expect("no panic").insert(id, link);
        let answer = self.send(side, "PUT", &path, &[condition], &id.to_string());
        let mut links = self.ledger.links.lock().expect("no panic");
        match answer.map(|answer| answer.status) {
            Some(200 | 201) => {
                links.get_mut(&id).expect("it was entered").acknowledged = true;
                self.ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(412) => {
                links.remove(&id);
                self.ledger.replaced_meanwhile.fetch_add(1, Ordering::Relaxed);
            }
            Some(503) => drop(links.remove(&id)),
            Some(other) => panic!("PUT {path}: {other}"),
            None => {}
        }
    }

    /// Counts, here or there, until somebody says that it was done.
    fn count(&mut self, stop: &AtomicBool) {
        let (swamp, by) = (self.swamp(), 1 + self.dice.below(5));
        let counter = format!("{swamp}/n{}", self.dice.below(2));
        let increment = Increment { path: format!("/v1/kv/{counter}?incr={by}"), key: format!("i{}", self.number()) };
        *self.ledger.sums.lock().expect("no panic").entry(counter).or_default() += by as i64;
        let (mut side, mut tries) = (self.side, 0);
        while !self.deliver(side, &increment) {
            tries += 1;
            assert!(tries < 2_000, "{} is never answered", increment.path);
            if self.dice.below(2) == 0 {
                side = 1 - side;
                self.ledger.tried_elsewhere.fetch_add(1, Ordering::Relaxed);
            }
            let patience = if stop.load(Ordering::Relaxed) { 50 } else { 10 };
            std::thread::sleep(Duration::from_millis(patience));
        }
        self.ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    fn deliver(&mut self, side: usize, increment: &Increment) -> bool {
        let headers = [("Idempotency-Key", increment.key.as_str())];
        match self.send(side, "POST", &increment.path, &headers, "").map(|answer| (answer.status, answer)) {
            Some((200, _)) => true,
            Some((503, _)) | None => false,
            Some((_, answer)) => panic!("{answer:?}"),
        }
    }

    /// Makes a key, or deletes one that is seen here or there, and perhaps makes it again.
    fn own_key(&mut self) {
        let settled: Vec<usize> = (0..self.own.len()).filter(|&at| self.own[at].is_alive()).collect();
        if settled.len() < 5 {
            return self.make_own();
        }
        let at = settled[self.dice.below(settled.len() as u64) as usize];
        let side = self.dice.below(2) as usize;
        let path = format!("/v1/kv/{}/{}", self.own[at].swamp, self.own[at].key);
        // Only what has arrived can be deleted there knowingly.
        match self.look(side, &path) {
            Some(Some((seen, _))) if self.own[at].states == [Some(seen)] => {}
            _ => return,
        }
        self.own[at].states.push(None);
        match self.send(side, "DELETE", &path, &[], "").map(|answer| answer.status) {
            Some(204) => {
                self.own[at].states = vec![None];
                self.own[at].deleted_for_certain = true;
                self.ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(503) => drop(self.own[at].states.pop()),
            Some(other) => panic!("DELETE {path}: {other}"),
            None => return,
        }
        if self.own[at].states == [None] && self.dice.below(3) == 0 {
            self.fill(at, side);
        }
    }

    fn make_own(&mut self) {
        let (swamp, key) = (self.swamp(), format!("d{}", self.number()));
        self.own.push(OwnKey { swamp, key, states: vec![None], deleted_for_certain: false });
        self.fill(self.own.len() - 1, self.side);
    }

    fn fill(&mut self, at: usize, side: usize) {
        let id = self.number();
        let path = format!("/v1/kv/{}/{}", self.own[at].swamp, self.own[at].key);
        self.own[at].states.push(Some(id));
        match self.send(side, "PUT", &path, &[], &id.to_string()).map(|answer| answer.status) {
            Some(201) => {
                self.own[at].states = vec![Some(id)];
                self.ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(503) => drop(self.own[at].states.pop()),
            Some(other) => panic!("PUT {path}: {other}"),
            None => {}
        }
    }
}

impl OwnKey {
    fn is_alive(&self) -> bool {
        matches!(self.states[..], [Some(_)])
    }
}

/// Syncs every 100 ms but for the partitions.
fn keep_in_sync(sites: &[Site; 2], seed: u64, stop: &AtomicBool) -> u64 {
    let (mut dice, mut rounds) = (Dice::new(seed + 100), 0);
    while !stop.load(Ordering::Relaxed) {
        if dice.below(12) == 0 {
            std::thread::sleep(Duration::from_millis(300 + dice.below(1_500)));
        }
        match dice.below(10) {
            // A partition need not be the same in both directions.
            0 => sync(&sites[0], &sites[1]),
            1 => sync(&sites[1], &sites[0]),
            _ => {
                sync(&sites[0], &sites[1]);
                sync(&sites[1], &sites[0]);
            }
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    rounds
}

fn kill_now_and_then(sites: &[Site; 2], seed: u64, stop: &AtomicBool) -> u64 {
    let (mut dice, mut kills) = (Dice::new(seed + 200), 0);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500 + dice.below(2_000)));
        let site = &sites[dice.below(2) as usize];
        site.kill();
        kills += 1;
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        site.revive();
    }
    kills
}

fn tidy_up(site: &Site, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for verb in ["compact", "gc"] {
            let _ = Client::new(site.target()).send("POST", &format!("/v1/folders/0-99/{verb}"), &[], "");
        }
        std::thread::sleep(Duration::from_millis(150));
    }
}

/// Runs everything for so long.
fn run_all(sites: &[Site; 2], ledger: &Ledger, seed: u64, time: Duration) {
    let (stop, settle) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _all = (StopOnDrop(&stop), StopOnDrop(&settle));
        let workers: Vec<_> = (0..2 * CLIENTS)
            .map(|number| {
                let stop = &stop;
                let worker = Worker::new(sites, ledger, number % 2, number / 2, seed);
                scope.spawn(move || worker.work(stop))
            })
            .collect();
        let syncing = scope.spawn(|| keep_in_sync(sites, seed, &settle));
        let killing = scope.spawn(|| kill_now_and_then(sites, seed, &stop));
        sites.iter().for_each(|site| drop(scope.spawn(|| tidy_up(site, &settle))));
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let kills = killing.join().expect("killing goes well");
        workers.into_iter().for_each(|worker| worker.join().expect("a client found something wrong"));
        settle.store(true, Ordering::Relaxed);
        let rounds = syncing.join().expect("rsync goes well");
        println!(
            "two_way: {:.0?}, seed {seed}: {} acknowledged, {kills} kills, {rounds} rounds of rsync, {} increments tried \
             elsewhere, {} writes found their key replaced",
            time,
            ledger.acknowledged.load(Ordering::Relaxed),
            ledger.tried_elsewhere.load(Ordering::Relaxed),
            ledger.replaced_meanwhile.load(Ordering::Relaxed)
        );
    });
}

/// What a server shows: every swamp, and the numbers of the values it lists as lost.
struct Shown {
    swamps: Vec<(String, Contents)>,
    lost: HashSet<u64>,
}

impl Shown {
    fn by(site: &Site, sites: &[Site; 2], names: &[String]) -> Shown {
        let mut client = site.client(sites);
        let swamps: Vec<_> = names.iter().map(|name| (name.clone(), Contents::read(&mut client, name))).collect();
        let mut lost = HashSet::new();
        for (name, _) in &swamps {
            let answer = client.get(&format!("/v1/swamps/{name}/conflicts"));
            assert_eq!(answer.status, 200, "{answer:?}");
            let conflicts = answer.json()["conflicts"].as_array().expect("conflicts").clone();
            lost.extend(conflicts.iter().filter_map(|conflict| conflict["lost"]["value"].as_u64()));
        }
        Shown { swamps, lost }
    }

    fn value(&self, swamp: &str, key: &str) -> Option<&Value> {
        self.swamps.iter().find(|(name, _)| name == swamp).and_then(|(_, contents)| contents.value(key))
    }
}

fn differences(left: &Shown, right: &Shown) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((name, left), (_, right)) in left.swamps.iter().zip(&right.swamps) {
        for (who, contents) in [("s1", left), ("s2", right)] {
            wrong.extend(contents.copy.iter().map(|copy| format!("{name} on {who} is {copy}")));
        }
        let of = |contents: &Contents| contents.treasures.iter().map(Value::to_string).collect::<HashSet<_>>();
        let (left, right) = (of(left), of(right));
        wrong.extend(left.difference(&right).map(|only| format!("{name}: only s1 has {only}")));
        wrong.extend(right.difference(&left).map(|only| format!("{name}: only s2 has {only}")));
    }
    wrong
}

/// The write and everything it replaced, one behind the other.
fn ancestors(links: &HashMap<u64, Link>, id: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(id), |id| links.get(id).and_then(|link| link.parent))
}

fn check_shared_keys(ledger: &Ledger, shown: &Shown) -> Vec<String> {
    let links = ledger.links.lock().expect("no panic");
    let value = |link: &Link| shown.value(&link.swamp, &link.key).and_then(Value::as_u64);
    let winners: HashSet<u64> = links.values().filter_map(value).collect();
    let accounted: HashSet<u64> = winners.iter().chain(&shown.lost).flat_map(|&id| ancestors(&links, id)).collect();
    let mut wrong = Vec::new();
    for (id, link) in links.iter().filter(|(_, link)| link.acknowledged) {
        let Link { swamp, key, .. } = link;
        if !accounted.contains(id) {
            wrong.push(format!(
                "{swamp}/{key}: {id} is neither shown, replaced, nor a conflict; shown is {:?}",
                value(link)
            ));
        }
        if ancestors(&links, *id).skip(1).any(|older| winners.contains(&older)) {
            wrong.push(format!("{swamp}/{key}: shows {:?}, which {id} had replaced", value(link)));
        }
    }
    wrong
}

fn check_own_keys(ledger: &Ledger, shown: &Shown) -> Vec<String> {
    let own = ledger.own.lock().expect("no panic");
    let wrong = own.iter().filter_map(|key| {
        let found = shown.value(&key.swamp, &key.key).and_then(Value::as_u64);
        let what = if key.deleted_for_certain { " (deleted before)" } else { "" };
        (!key.states.contains(&found))
            .then(|| format!("{}/{}: shows {found:?}, not {:?}{what}", key.swamp, key.key, key.states))
    });
    wrong.collect()
}

fn check_sums(ledger: &Ledger, shown: &Shown) -> Vec<String> {
    let sums = ledger.sums.lock().expect("no panic");
    let wrong = sums.iter().filter_map(|(counter, sum)| {
        let (swamp, key) = counter.rsplit_once('/').expect("a key");
        let found = shown.value(swamp, key).and_then(Value::as_i64);
        (found != Some(*sum)).then(|| format!("{counter}: counts {found:?}, asked for were {sum}"))
    });
    wrong.collect()
}

fn check_all(sites: &[Site; 2], ledger: &Ledger, when: &str) -> Vec<String> {
    let (left, right) = (Shown::by(&sites[0], sites, &ledger.swamps), Shown::by(&sites[1], sites, &ledger.swamps));
    let mut wrong = differences(&left, &right);
    for shown in [&left, &right] {
        wrong.extend(check_sums(ledger, shown));
        wrong.extend(check_own_keys(ledger, shown));
        wrong.extend(check_shared_keys(ledger, shown));
    }
    let own = ledger.own.lock().expect("no panic");
    let deleted = own.iter().filter(|key| key.deleted_for_certain).count();
    println!("two_way {when}: {} conflicts listed, {deleted} of {} keys were deleted", left.lost.len(), own.len());
    wrong.into_iter().map(|what| format!("{when}: {what}")).collect()
}

#[test]
fn two_servers_that_both_take_writes_agree_in_the_end_and_lose_nothing() {
    if !has(&["rsync"]) {
        return;
    }
    run("rsync", &["--version"]);
    let sites = [Site::new("s1", ["0-49", "50-99"]), Site::new("s2", ["50-99", "0-49"])];
    let time = Duration::from_secs(wanted("HYDRA_SOAK_SECONDS", 15));
    let ledger = Ledger { swamps: swamp_names(time), ..Ledger::default() };
    let begun = Instant::now();
    run_all(&sites, &ledger, wanted("HYDRA_SEED", 1), time);
    for _ in 0..2 {
        sync(&sites[0], &sites[1]);
        sync(&sites[1], &sites[0]);
    }
    std::thread::sleep(Duration::from_millis(1_200));
    let mut wrong = check_all(&sites, &ledger, "when the copies have met");
    sites.iter().for_each(|site| {
        site.kill();
        site.revive();
    });
    wrong.extend(check_all(&sites, &ledger, "after a restart"));
    expect_nothing(&wrong, &format!("in {:?}", [sites[0].dir.path(), sites[1].dir.path()]));
    println!("two_way: all in {:.1?}", begun.elapsed());
    assert!(ledger.acknowledged.load(Ordering::Relaxed) > 300, "the test tried too little");
}
