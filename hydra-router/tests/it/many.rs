//! A hundred servers with a thousand folders in one process: batches, lists, a new map, the commands, and a restart of one
//! server after the other while clients count. What a client of so many costs is printed.
//!
//! `HYDRA_MANY=20000` takes so many swamps in place of 2 000.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hydra_core::{Engine, EngineOptions, FolderSet};
use hydra_sdk::{ClientMap, Hydra};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{Run, block_on, file, program, spawn};

const SERVERS: u32 = 100;
const FOLDERS: u32 = 1_000;
/// How many folders each has.
const EACH: u32 = FOLDERS / SERVERS;
/// Who counts while servers restart.
const COUNTERS: usize = 8;

fn swamps() -> usize {
    std::env::var("HYDRA_MANY").ok().and_then(|swamps| swamps.parse().ok()).unwrap_or(2_000)
}

/// One of the servers.
struct Node {
    number: u32,
    dir: PathBuf,
    address: SocketAddr,
    running: Option<(Engine, oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
}

fn id(number: u32) -> String {
    format!("s{number:02}")
}

/// The folders of a server.
fn part(number: u32) -> String {
    format!("{}-{}", number * EACH, (number + 1) * EACH - 1)
}

impl Node {
    fn new(number: u32, dir: &Path) -> Node {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Node { number, dir: dir.join(id(number)), address, running: None };
        node.start();
        node
    }

    /// Owns its part, and keeps copies of the one before it.
    fn start(&mut self) {
        let mut options = EngineOptions::new(&self.dir);
        options.server_id = Some(id(self.number));
        options.folders_total = FOLDERS.try_into().ok();
        options.owned = Some(part(self.number).parse().expect("folders"));
        options.standby = part((self.number + SERVERS - 1) % SERVERS).parse().expect("folders");
        options.copied = true;
        let engine = Engine::open(options).expect("opened");
        let (stop, stopped) = oneshot::channel();
        let listener = block_on(async { listen(self.address) });
        self.address = listener.local_addr().expect("an address");
        let serving = spawn({
            let engine = engine.clone();
            async move {
                let stopped = async { drop(stopped.await) };
                hydra_server::run(listener, engine, hydra_server::Config::default(), stopped).await
            }
        });
        self.running = Some((engine, stop, serving));
    }

    /// What was acknowledged is on disk, where copies find it.
    fn flush(&self) {
        let (engine, ..) = self.running.as_ref().expect("it runs");
        engine.flush(None).expect("flushed");
    }

    /// As SIGTERM would.
    fn stop(&mut self) {
        let (engine, stop, serving) = self.running.take().expect("it runs");
        drop(stop);
        block_on(serving).expect("no panic").expect("served");
        engine.close().expect("closed");
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("reuse");
    socket.bind(address).expect("the port");
    socket.listen(1024).expect("listens")
}

/// Brings what one server wrote in its own folders and in those it keeps copies of to its neighbour.
fn copy(from: &Node, to: &Node) {
    let shared = [from.number, to.number].map(|number| part(number).parse::<FolderSet>().expect("folders"));
    for folder in shared.iter().flat_map(FolderSet::iter) {
        let folder = format!("{:05}", folder.get());
        copy_own(&from.dir.join(&folder), &to.dir.join(&folder), &format!("{}-", id(from.number))).expect("copied");
    }
}

/// A union copy: what is longer there grows here, nothing shrinks or goes.
fn copy_own(from: &Path, to: &Path, prefix: &str) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_own(&entry.path(), &target, prefix)?;
        } else if name.to_string_lossy().starts_with(prefix) {
            fs::create_dir_all(to)?;
            let bytes = fs::read(entry.path())?;
            let known = fs::metadata(&target).map_or(0, |known| known.len() as usize);
            if known < bytes.len() {
                io::Write::write_all(
                    &mut fs::File::options().create(true).append(true).open(&target)?,
                    &bytes[known..],
                )?;
            }
        }
    }
    Ok(())
}

fn map_text(nodes: &[Node], epoch: u64) -> String {
    let mut text = format!("epoch = {epoch}\nfolders = {FOLDERS}\n[client]\nhold_down = \"100ms\"\n[servers]\n");
    for node in nodes {
        text.push_str(&format!("{} = {{ url = \"http://{}\" }}\n", id(node.number), node.address));
    }
    for node in nodes {
        let (folders, primary, fallback) = (part(node.number), id(node.number), id((node.number + 1) % SERVERS));
        text.push_str(&format!(
            "[[route]]\nfolders = \"{folders}\"\nprimary = \"{primary}\"\nfallbacks = [\"{fallback}\"]\n"
        ));
    }
    text
}

/// What this process has in memory, in KiB.
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// How many connections to these servers are open.
fn connections(nodes: &[Node]) -> usize {
    let ports: Vec<String> = nodes.iter().map(|node| format!(":{:04X}", node.address.port())).collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("readable");
    let is_theirs = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        let (remote, state) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        state == "01" && ports.iter().any(|port| remote.ends_with(port.as_str()))
    };
    table.lines().filter(is_theirs).count()
}

#[test]
fn a_hundred_servers_are_one_data_set_also_while_each_of_them_restarts() {
    // In memory where that can be: a hundred servers that open sync a hundred times what others write to the disk.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory");
    let begun = Instant::now();
    let mut nodes: Vec<Node> = (0..SERVERS).map(|number| Node::new(number, dir.path())).collect();
    println!("{SERVERS} servers with {FOLDERS} folders run after {:.1?}, {} MiB", begun.elapsed(), resident() / 1024);

    let begun = Instant::now();
    let map = ClientMap::from_toml(&map_text(&nodes, 1)).expect("a map");
    println!("the map has {} bytes and is read and checked in {:.1?}", map.to_toml().len(), begun.elapsed());
    first_answers(&nodes, &map);
    let hydra = block_on(async { Hydra::with_map(map.clone()) }).expect("a client");
    let names = batch_and_list(&hydra);
    commands(&nodes, names.len());
    new_map(&nodes, &hydra);
    rolling_restart(&mut nodes, &hydra);
    block_on(hydra.close()).expect("closed");
    nodes.iter_mut().for_each(Node::stop);
}

/// What a client costs that has just been made, and when it has talked to all.
fn first_answers(nodes: &[Node], map: &ClientMap) {
    const CLIENTS: i64 = 10;
    let before = resident();
    let begun = Instant::now();
    let clients: Vec<Hydra> =
        (0..CLIENTS).map(|_| block_on(async { Hydra::with_map(map.clone()) }).expect("a client")).collect();
    let (made, made_in) = (resident(), begun.elapsed());
    let swamp = clients[0].swamp::<u32>("first/answer/s").expect("a name");
    let begun = Instant::now();
    assert_eq!(block_on(swamp.get("k")).expect("read"), None);
    println!(
        "a client is made in {:.1?} and takes {} KiB; its first answer comes after {:.1?}",
        made_in / CLIENTS as u32,
        (made - before) / CLIENTS,
        begun.elapsed()
    );
    let before = connections(nodes);
    for client in &clients {
        block_on(async {
            let mut batch = client.batch();
            for number in 0..SERVERS {
                let name = in_folder(number * EACH, "touch/each/s");
                batch = batch.get(&client.swamp::<u32>(name).expect("a name"), "k");
            }
            batch.await.expect("read").into_iter().for_each(|got| drop(got.expect("answered")));
        });
    }
    println!(
        "a client that has talked to all takes {} KiB more and has {} connections open",
        (resident() - made) / CLIENTS,
        (connections(nodes) - before) / clients.len()
    );
}

fn in_folder(folder: u32, base: &str) -> hydra_sdk::SwampName {
    let base: hydra_sdk::SwampName = base.parse().expect("a name");
    let only = format!("{folder}").parse().expect("a folder");
    base.in_folders(&only, FOLDERS.try_into().expect("a count")).next().expect("a name")
}

/// Writes to all swamps in a few batches, reads them in one list, each once.
fn batch_and_list(hydra: &Hydra) -> Vec<String> {
    let names: Vec<String> = (0..swamps()).map(|number| format!("many/things/t{number:06}")).collect();
    let begun = Instant::now();
    block_on(async {
        for names in names.chunks(2_000) {
            let mut batch = hydra.batch();
            for name in names {
                batch = batch.write(hydra.swamp::<u32>(name.as_str()).expect("a name").put("k", &7));
            }
            batch.await.expect("sent").into_iter().for_each(|done| drop(done.expect("written")));
        }
    });
    println!("{} swamps on all servers are written in batches in {:.1?}", names.len(), begun.elapsed());
    let begun = Instant::now();
    let listed: Vec<String> = block_on(async {
        let listed = hydra.swamps().sanctuary("many").stream();
        listed.map(|swamp| swamp.expect("listed").name.to_string()).collect().await
    });
    println!("and listed in {:.1?}", begun.elapsed());
    let mut sorted = listed;
    sorted.sort();
    assert_eq!(sorted, names, "every swamp once");
    names
}

/// The commands of an operator, as programs.
fn commands(nodes: &[Node], count: usize) {
    let (_dir, map) = file(&map_text(nodes, 1));
    let run = |arguments: &[&str]| {
        let begun = Instant::now();
        let run = Run::of(program().args(arguments).arg("--map").arg(&map));
        println!("hydra-router {}: {:.1?}", arguments[..arguments.len().min(2)].join(" "), begun.elapsed());
        run
    };
    let checked = run(&["map", "check", "--live"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let scanned = run(&["scan", "many/*/*"]);
    assert_eq!((scanned.code, scanned.out.lines().count()), (Some(0), count), "{}", scanned.err);
    let status = run(&["status", "--quick", "--output", "json"]);
    assert_eq!(
        (status.code, status.json()["servers"].as_array().map(Vec::len)),
        (Some(0), Some(100)),
        "{}",
        status.err
    );
    let plan = run(&["plan", "--add", "s99b=http://127.0.0.1:1", "--offline", "--output", "json"]).json();
    // A hundred and one servers: the new one gets its share, nothing else moves.
    assert_eq!(plan["foldersMoved"], FOLDERS / 101, "{}", plan["moves"]);
    let drained = run(&["plan", "--drain", "s50", "--offline", "--output", "json"]).json();
    assert_eq!(drained["foldersMoved"], EACH, "{}", drained["moves"]);
}

/// A younger map is taken while calls go on.
fn new_map(nodes: &[Node], hydra: &Hydra) {
    let swamp = hydra.swamp::<u32>("many/things/t000000").expect("a name");
    let next = ClientMap::from_toml(&map_text(nodes, 2)).expect("a map");
    let before = connections(nodes);
    let begun = Instant::now();
    hydra.set_map(next).expect("in force");
    let took = begun.elapsed();
    assert_eq!(block_on(swamp.get("k")).expect("read"), Some(7));
    let now = connections(nodes);
    println!("a younger map is in force after {took:.1?}; {before} connections before, {now} after");
    assert!(now + 5 >= before, "connections are kept");
}

/// One server after the other goes and comes back while clients count. No call fails, and no increment is lost.
fn rolling_restart(nodes: &mut [Node], hydra: &Hydra) {
    let (is_over, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let counters: Vec<_> = (0..COUNTERS)
        .map(|number| spawn(count(hydra.clone(), number, Arc::clone(&is_over), Arc::clone(&longest))))
        .collect();
    let begun = Instant::now();
    for number in 0..nodes.len() {
        let (before, after) = ((number + nodes.len() - 1) % nodes.len(), (number + 1) % nodes.len());
        nodes[number].stop();
        nodes[number].start();
        // What a copy tool does all the time.
        copy(&nodes[number], &nodes[after]);
        copy(&nodes[after], &nodes[number]);
        copy(&nodes[number], &nodes[before]);
        copy(&nodes[before], &nodes[number]);
    }
    let took = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for counter in counters {
        for (name, sum) in block_on(counter).expect("a call failed") {
            *expected.entry(name).or_default() += sum;
        }
    }
    let total: i64 = expected.values().sum();
    let longest = longest.load(Ordering::Relaxed);
    println!("all servers restarted in {took:.1?}, {total} increments meanwhile, the longest took {longest} ms");
    nodes.iter().for_each(Node::flush);
    for number in 0..nodes.len() {
        let after = (number + 1) % nodes.len();
        copy(&nodes[number], &nodes[after]);
        copy(&nodes[after], &nodes[number]);
    }
    // Servers look for files of others once a second.
    std::thread::sleep(Duration::from_millis(1_200));
    let fresh = block_on(async { Hydra::with_map((*hydra.map().expect("a map")).clone()) }).expect("a client");
    for (name, sum) in expected {
        let counter = fresh.swamp::<i64>(name.as_str()).expect("a name");
        assert_eq!(block_on(counter.get("n")).expect("read"), Some(sum), "{name}");
    }
}

/// Counts in one swamp after the other, over all servers.
async fn count(hydra: Hydra, number: usize, is_over: Arc<AtomicBool>, longest: Arc<AtomicU64>) -> Vec<(String, i64)> {
    let mut sums = vec![0; 50];
    let name = |at: usize| format!("count/c{number}/s{at}");
    let swamps: Vec<_> = (0..sums.len()).map(|at| hydra.swamp::<i64>(name(at)).expect("a name")).collect();
    for turn in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (at, begun) = (turn % sums.len(), Instant::now());
        swamps[at].increment("n", 1).await.unwrap_or_else(|error| panic!("{}: {error}", name(at)));
        longest.fetch_max(u64::try_from(begun.elapsed().as_millis()).expect("short"), Ordering::Relaxed);
        sums[at] += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    sums.into_iter().enumerate().map(|(at, sum)| (name(at), sum)).filter(|(_, sum)| *sum > 0).collect()
}
