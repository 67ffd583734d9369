//! Servers in trouble: what a client does to them, and what they cost it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientMap, ErrorKind, Hydra, MapBuilder, ServerState, Settings, Swamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::fake::{Fake, Reply, VERSION, fine, refusal, until};

fn alone(url: &str) -> MapBuilder {
    ClientMap::builder().folders(4).server("s1", url).route("0-3", "s1", [""; 0])
}

fn pair(s1: &str, s2: &str) -> MapBuilder {
    ClientMap::builder().folders(4).server("s1", s1).server("s2", s2).route("0-3", "s1", ["s2"])
}

fn client(map: MapBuilder) -> (Hydra, Swamp) {
    let hydra = Hydra::with_map(map.build().expect("a map")).expect("a client");
    let swamp = hydra.swamp("a/b/c").expect("a name");
    (hydra, swamp)
}

#[tokio::test]
async fn a_server_that_always_resets_is_not_asked_much_more_often_than_calls_are_made() {
    let s1 = Fake::start(|_| Reply::Close).await;
    let (_hydra, swamp) = client(alone(&s1.url()));
    let begun = Instant::now();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    let error = swamp.increment("n", 1).await.expect_err("it always resets");
                    assert!(error.is_network(), "{error}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let (tries, seconds) = (s1.asked().len(), begun.elapsed().as_secs_f64());
    println!("10 000 calls in {seconds:.1} s: {tries} tries");
    assert!(tries as f64 <= 11_000.0 + 2.0 * seconds, "{tries} in {seconds:.1} s");
}

#[tokio::test]
async fn overload_is_not_answered_with_more_of_it() {
    // Alive all the time, so no breaker helps: only the budget does.
    let s1 = Fake::start(|_| refusal(429, "s1", "overloaded", "")).await;
    let (hydra, swamp) = client(alone(&s1.url()));
    let begun = Instant::now();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let error = swamp.put("k", &1.into()).await.expect_err("overloaded");
                    assert_eq!((error.kind(), error.applied()), (ErrorKind::Overloaded, Applied::No), "{error}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let (tries, seconds) = (s1.asked().len(), begun.elapsed().as_secs_f64());
    println!("1 000 calls in {seconds:.1} s: {tries} tries");
    assert!(tries > 1_050 && tries as f64 <= 1_110.0 + 2.0 * seconds, "{tries} in {seconds:.1} s");
    assert_eq!(hydra.servers()[0].1, ServerState::Up, "it answers");
}

#[tokio::test]
async fn an_answer_that_takes_two_seconds_is_no_failover() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, swamp) = client(pair(&s1.url(), &s2.url()));
    swamp.get("k").await.expect("who it is, it has said with this");
    s1.behave(|asked| Reply::Late(Duration::from_secs(2), Box::new(fine("s1")(asked))));
    let (before, begun) = (s1.probes(), Instant::now());
    // Each call looks at times of its own whether the server lives.
    let mut calls = Vec::new();
    for _ in 0..100 {
        let swamp = swamp.clone();
        calls.push(tokio::spawn(async move {
            let asked = Instant::now();
            (swamp.get("k").await, asked.elapsed())
        }));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for call in calls {
        let (read, elapsed) = call.await.expect("no panic");
        assert_eq!(read.expect("read"), Some("s1".into()));
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    }
    let (probes, elapsed) = (s1.probes() - before, begun.elapsed());
    println!("100 calls, each answered after 2 s: {elapsed:?}, {probes} probes");
    assert_eq!((s1.asked().len(), s2.asked().len()), (101, 0));
    assert_eq!(hydra.servers()[0].1, ServerState::Up);
    let most = 1 + elapsed.as_millis() / 100;
    assert!((1..=most).contains(&(probes as u128)), "{probes} of {most}");
}

/// A server that answers until it is told to let every packet vanish: then its connections stay silent, and new ones
/// are neither taken nor refused.
struct Hole {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    opened: Arc<Notify>,
}

impl Hole {
    async fn start() -> Hole {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("an address");
        let hole = Hole { address, is_open: Arc::default(), opened: Arc::default() };
        let (is_open, opened) = (Arc::clone(&hole.is_open), Arc::clone(&hole.opened));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = opened.notified() => break,
                    Ok((stream, _)) = listener.accept() => {
                        tokio::spawn(serve(stream, Arc::clone(&is_open)));
                    }
                }
            }
            // Nobody accepts any more, and the system lets only so many wait.
            std::future::pending::<()>().await;
            drop(listener);
        });
        hole
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing comes back.
    async fn open(&self) -> Vec<TcpStream> {
        self.is_open.store(true, Ordering::SeqCst);
        self.opened.notify_one();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut fill = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(self.address)).await
        {
            fill.push(stream);
        }
        fill
    }
}

async fn serve(mut stream: TcpStream, is_open: Arc<AtomicBool>) {
    let mut buffer = vec![0; 16 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        if is_open.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let now = "2026-01-31T12:00:00.000Z";
        let answer = format!(
            "HTTP/1.1 200 OK\r\nhydra-server: s1\r\netag: \"{VERSION}\"\r\nhydra-created-at: {now}\r\n\
             hydra-updated-at: {now}\r\ncontent-length: 4\r\n\r\n\"s1\""
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_black_hole_costs_calls_in_flight_two_connect_timeouts_once() {
    // One call has a connection that stands; of twenty, most need a new one, and tell the others.
    for at_once in [1, 20] {
        let (s1, s2) = (Hole::start().await, Fake::start(fine("s2")).await);
        // So long that a busy machine is not taken for a third one.
        let connect = Duration::from_millis(800);
        let mut settings = Settings::default();
        settings.connect_timeout = connect;
        let (hydra, swamp) = client(pair(&s1.url(), &s2.url()).settings(settings));
        assert_eq!(swamp.get("k").await.expect("read"), Some("s1".into()));
        let _fill = s1.open().await;
        let calls: Vec<_> = (0..at_once)
            .map(|n| {
                let swamp = swamp.clone();
                tokio::spawn(async move {
                    let begun = Instant::now();
                    match n % 2 {
                        0 => swamp.get("k").await.map(drop),
                        _ => swamp.put("k", &1.into()).await.map(drop),
                    }
                    .expect("a fallback takes it");
                    begun.elapsed()
                })
            })
            .collect();
        let mut longest = Duration::ZERO;
        for call in calls {
            longest = longest.max(call.await.expect("no panic"));
        }
        println!("{at_once} in flight: at most {longest:?}, with a connect timeout of {connect:?}");
        assert!(longest < connect * 3, "{longest:?}");
        assert_eq!(hydra.servers()[0].1, ServerState::Down);
        let begun = Instant::now();
        for _ in 0..20 {
            swamp.get("k").await.expect("read from the fallback");
            swamp.put("k", &1.into()).await.expect("stored at the fallback");
        }
        let each = begun.elapsed() / 40;
        println!("afterwards: {each:?} each");
        assert!(each < Duration::from_millis(20), "{each:?}");
    }
}

#[tokio::test]
async fn a_black_hole_from_the_start_costs_one_connect_timeout() {
    let (s1, s2) = (Hole::start().await, Fake::start(fine("s2")).await);
    let _fill = s1.open().await;
    let (hydra, swamp) = client(pair(&s1.url(), &s2.url()));
    let begun = Instant::now();
    swamp.put("k", &1.into()).await.expect("stored at the fallback");
    let first = begun.elapsed();
    let begun = Instant::now();
    swamp.put("k", &1.into()).await.expect("stored at the fallback");
    let second = begun.elapsed();
    println!("first {first:?}, second {second:?}");
    assert!(first < Duration::from_millis(490) && second < Duration::from_millis(240), "{first:?}, {second:?}");
    until("a probe agrees", || hydra.servers()[0].1 == ServerState::Down).await;
}

#[tokio::test]
async fn a_server_that_is_down_alone_is_tried_ten_times_a_second_and_used_at_once() {
    let mut s1 = Fake::start(fine("s1")).await;
    let (hydra, swamp) = client(alone(&s1.url()));
    swamp.put("k", &1.into()).await.expect("stored");
    s1.stop().await;
    let begun = Instant::now();
    let (mut calls, mut tries) = (0, 0);
    while begun.elapsed() < Duration::from_millis(1_500) {
        let error = swamp.put("k", &1.into()).fallback(hydra_sdk::Fallback::Never).await.expect_err("nobody");
        assert_eq!((error.applied(), error.is_network()), (Applied::No, true), "{error}");
        calls += 1;
        tries += usize::from(!error.to_string().contains("is asked again in"));
        tokio::task::yield_now().await;
    }
    println!("{calls} calls, {tries} of them tried");
    assert!(tries <= 25 && calls > tries, "{calls} calls, {tries} tries");
    assert_eq!(hydra.servers()[0].1, ServerState::Down);
    s1.restart().await;
    let begun = Instant::now();
    while swamp.put("k", &1.into()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(1), "it is there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let swamp = swamp.clone();
            tokio::spawn(async move { swamp.put("k", &1.into()).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("a crowd waits in line, it is not turned away");
    }
}

#[tokio::test]
async fn no_more_than_512_requests_are_under_way() {
    let s1 = Fake::start(|_| Reply::Stall).await;
    let mut settings = Settings::default();
    // All 512 connect at once, in one thread with the server. None may give up before, on however slow a machine.
    settings.connect_timeout = Duration::from_secs(5);
    (settings.try_timeout, settings.deadline, settings.attempts) =
        (Duration::from_secs(50), Duration::from_secs(60), 1);
    let (_hydra, swamp) = client(alone(&s1.url()).settings(settings));
    let mut calls = JoinSet::new();
    for _ in 0..600 {
        let swamp = swamp.clone();
        calls.spawn(async move { swamp.get("k").await.expect_err("silence") });
    }
    for _ in 512..600 {
        let error = calls.join_next().await.expect("a call").expect("no panic");
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        assert!(error.to_string().contains("512 requests to s1 are under way"), "{error}");
    }
    until("those that found room have asked", || s1.asked().len() >= 512).await;
    assert_eq!((s1.asked().len(), calls.len()), (512, 512));
}
