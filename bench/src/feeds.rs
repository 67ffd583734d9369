//! What feeds cost on which nothing happens: over HTTP/1.1 one for each connection, over HTTP/2 many.

use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::http::Served;
use crate::load::busy;

/// Fewer than a server allows on one connection.
const STREAMS: usize = 200;
/// The allocator gives back what opening them took.
const SETTLES: Duration = Duration::from_secs(15);
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(20);

/// Opens so many feeds, each of a swamp of its own, and prints what one costs.
pub(crate) fn run(feeds: usize, over_h2: bool) -> anyhow::Result<()> {
    let server = Served::start(&["serve-hydra", "--streams", &feeds.to_string()])?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let before = resident_bytes(server.process())?;
        let mut open = Vec::with_capacity(feeds);
        for first in (0..feeds).step_by(if over_h2 { STREAMS } else { 1 }) {
            let stream = TcpStream::connect(&server.address).await.context("cannot connect")?;
            let last = if over_h2 { (first + STREAMS).min(feeds) } else { first + 1 };
            open.extend(open_feeds(stream, first..last, over_h2).await?);
        }
        tokio::time::sleep(SETTLES).await;
        let each = (resident_bytes(server.process())?.saturating_sub(before)) as f64 / feeds as f64 / 1024.0;
        let worked = busy(&[server.process()])?;
        tokio::time::sleep(IDLE).await;
        let worked = (busy(&[server.process()])? - worked).as_secs_f64() / IDLE.as_secs_f64();
        let protocol = if over_h2 { "HTTP/2" } else { "HTTP/1.1" };
        println!(
            "{} idle feeds over {protocol}: {each:.1} KiB each, {:.2} % of a core (a sign of life every 25 s)",
            open.len(),
            100.0 * worked
        );
        anyhow::Ok(())
    })
}

/// The bodies of feeds on one connection, with the first bytes of each read. Connections end with their bodies.
async fn open_feeds(
    stream: TcpStream,
    swamps: std::ops::Range<usize>,
    over_h2: bool,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let io = TokioIo::new(stream);
    let mut feeds = Vec::new();
    if over_h2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        for swamp in swamps {
            sender.ready().await?;
            feeds.push(opened(sender.send_request(feed_of(swamp)?).await?).await?);
        }
    } else {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        for swamp in swamps {
            feeds.push(opened(sender.send_request(feed_of(swamp)?).await?).await?);
        }
    }
    Ok(feeds)
}

fn feed_of(swamp: usize) -> anyhow::Result<Request<Empty<Bytes>>> {
    let uri = format!("http://bench/v1/swamps/bench/feeds/{swamp}/events?heartbeat=25s");
    Ok(Request::get(uri).header("host", "bench").body(Empty::new())?)
}

/// Waits for the greeting of a feed, and goes on reading it.
async fn opened(answer: hyper::Response<Incoming>) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    ensure!(answer.status().is_success(), "a feed was answered {}", answer.status());
    let mut body = answer.into_body();
    body.frame().await.context("a feed ended")??;
    Ok(tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} }))
}

fn resident_bytes(process: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024)
}
