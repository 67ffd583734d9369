//! A thousand increments through a proxy that cuts every tenth answer after the server has read the request, while the
//! primary is killed again and again: when the copies have met, the sum is a thousand on both servers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientMap, Error, Hydra, ServerState, Settings, Swamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ground::{data_dir, has, start, text, try_run};
use crate::support::{Process, Target, block_on};

const INCREMENTS: usize = 1_000;
const CALLERS: usize = 4;
const KILLS: usize = 4;
const S1: [&str; 7] = ["--id", "s1", "--folders", "0-99", "--copied", "--foreign-poll", "200ms"];
const S2: [&str; 6] = ["--id", "s2", "--standby", "0-99", "--foreign-poll", "200ms"];

/// What stands between the client and a server.
struct Cutter {
    address: SocketAddr,
    /// Where the server listens now.
    server: Arc<Mutex<SocketAddr>>,
    cut: Arc<AtomicUsize>,
}

impl Cutter {
    async fn start(server: SocketAddr) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cutter = Cutter { address, server: Arc::new(Mutex::new(server)), cut: Arc::default() };
        let (server, cut, dice) = (Arc::clone(&cutter.server), Arc::clone(&cutter.cut), Arc::new(AtomicU64::new(42)));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = *server.lock().expect("lock");
                tokio::spawn(pass(client, server, Arc::clone(&cut), Arc::clone(&dice)));
            }
        });
        cutter
    }
}

/// One connection. Requests and answers of this test are so small that each comes as one piece.
async fn pass(mut client: TcpStream, server: SocketAddr, cut: Arc<AtomicUsize>, dice: Arc<AtomicU64>) -> Option<()> {
    let mut server = TcpStream::connect(server).await.ok()?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = client.read(&mut buffer).await.ok().filter(|&read| read > 0)?;
        let is_write = buffer.starts_with(b"POST");
        server.write_all(&buffer[..read]).await.ok()?;
        let read = server.read(&mut buffer).await.ok().filter(|&read| read > 0)?;
        let thrown = dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        if is_write && (thrown >> 32).is_multiple_of(10) {
            cut.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        client.write_all(&buffer[..read]).await.ok()?;
    }
}

/// Adds one, and asks again with the same key as long as nobody knows whether it was done.
async fn add_one(swamp: &Swamp, key: &str, doubts: &AtomicUsize) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match swamp.increment("sum", 1).sync().idempotency_key(key).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                doubts.fetch_add(usize::from(error.applied() == Applied::Unknown), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a copy tool does: the files that one server wrote, to the other.
fn sync(id: &str, from: &Path, to: &Path) {
    let own = format!("--include={id}-*.hy[ls]");
    let flags =
        ["-a", "--append-verify", "--prune-empty-dirs", "--exclude=/.hydra", "--include=*/", &own, "--exclude=*"];
    let (from, to) = (format!("{}/", text(from)), format!("{}/", text(to)));
    let output = try_run("rsync", &[&flags[..], &[&from, &to]].concat());
    assert!(matches!(output.status.code(), Some(0 | 23 | 24)), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sum_at(target: Target) -> String {
    let answer = target.get("/v1/kv/money/accounts/alice/sum");
    if answer.status == 200 { answer.text() } else { format!("{}", answer.status) }
}

#[test]
fn a_thousand_increments_are_a_thousand() {
    if !has(&["rsync"]) {
        return;
    }
    let (one, two) = (data_dir(), data_dir());
    let (mut s1, s2) = (start(one.path(), &S1), start(two.path(), &S2));
    let cutters = [&s1, &s2].map(|server| block_on(Cutter::start(server.target.0)));
    let mut settings = Settings::default();
    settings.hold_down = Duration::from_millis(400);
    let [one_url, two_url] = cutters.each_ref().map(|cutter| format!("http://{}", cutter.address));
    let map = ClientMap::builder().folders(100).settings(settings).server("s1", one_url).server("s2", two_url);
    let map = map.route("0-99", "s1", ["s2"]).build().expect("a map");
    let hydra = block_on(async { Hydra::with_map(map) }).expect("a client");

    let (done, doubts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let rests = Arc::new(AtomicBool::new(false));
    let callers = (0..CALLERS).map(|caller| {
        let (hydra, done, doubts) = (hydra.clone(), Arc::clone(&done), Arc::clone(&doubts));
        let rests = Arc::clone(&rests);
        async move {
            let swamp: Swamp = hydra.swamp("money/accounts/alice").expect("a name");
            for n in 0..INCREMENTS / CALLERS {
                add_one(&swamp, &format!("{caller}-{n}"), &doubts).await.expect("counted in the end");
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(15)).await;
                while rests.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
            }
        }
    });
    let callers: Vec<_> = block_on(async { callers.map(tokio::spawn).collect() });

    let is_over = Arc::new(AtomicBool::new(false));
    let copying = std::thread::spawn({
        let (is_over, one, two) = (Arc::clone(&is_over), one.path().to_owned(), two.path().to_owned());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                sync("s1", &one, &two);
                sync("s2", &two, &one);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    // The primary dies and returns; all the while the copies meet.
    for kill in 1..=KILLS {
        while done.load(Ordering::Relaxed) < INCREMENTS * kill / (KILLS + 1) {
            assert!(!callers.iter().any(tokio::task::JoinHandle::is_finished), "a caller gave up");
            std::thread::sleep(Duration::from_millis(5));
        }
        let at_death = done.load(Ordering::Relaxed);
        s1.kill();
        std::thread::sleep(Duration::from_millis(500));
        let deadline = Instant::now() + Duration::from_secs(10);
        while done.load(Ordering::Relaxed) <= at_death {
            assert!(Instant::now() < deadline, "the fallback counts on");
            std::thread::sleep(Duration::from_millis(5));
        }
        s1 = start(one.path(), &S1);
        *cutters[0].server.lock().expect("lock") = s1.target.0;
        // It is asked again before it dies again. Nothing returns while the fallback is written to all the time.
        rests.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !hydra.staying().is_empty() || hydra.servers()[0].1 != ServerState::Up {
            assert!(Instant::now() < deadline, "the folder returns");
            std::thread::sleep(Duration::from_millis(5));
        }
        rests.store(false, Ordering::Relaxed);
    }
    for caller in callers {
        block_on(caller).expect("a caller ends well");
    }
    is_over.store(true, Ordering::Relaxed);
    copying.join().expect("rsync goes well");

    sync("s1", one.path(), two.path());
    sync("s2", two.path(), one.path());
    let wanted = INCREMENTS.to_string();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut sums = [&s1, &s2].map(|server: &Process| sum_at(server.target));
    while sums != [wanted.clone(), wanted.clone()] && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        sums = [&s1, &s2].map(|server| sum_at(server.target));
    }
    let [at_primary, at_fallback] = cutters.map(|cutter| cutter.cut.load(Ordering::Relaxed));
    let doubts = doubts.load(Ordering::Relaxed);
    println!(
        "{INCREMENTS} increments, {at_primary} answers of the primary cut and {at_fallback} of the fallback, {KILLS} \
         kills, {doubts} calls in doubt: {sums:?}"
    );
    assert_eq!(sums, [wanted.clone(), wanted]);
    assert!(at_primary + at_fallback > INCREMENTS / 15 && at_primary > 0, "{at_primary}, {at_fallback} were cut");
}
