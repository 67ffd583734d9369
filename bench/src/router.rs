//! The router beside a proxy that does nothing but pass requests through, in front of the same server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hydra_sdk::{ClientMap, Hydra};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

use crate::contest::{Contest, Contestant, Samples, Table};
use crate::docs;
use crate::http::{Served, gets, puts, send_all};
use crate::load::{Load, Measured, NUMBER, Requests};

/// Measures the server behind the router, behind the bare proxy and directly; prints it, and with `docs` writes the
/// table there.
pub(crate) fn run(load: Load, rounds: usize, docs: Option<&Path>) -> anyhow::Result<()> {
    let contest = Contest::new(load, rounds)?;
    println!("{}", contest.described());
    let server = Served::start(&["serve-hydra"])?;
    let router = Served::start(&["serve-router", &server.address])?;
    let proxy = Served::start(&["serve-proxy", &server.address])?;
    contest.runtime.block_on(send_all(&server.address, &puts("")))?;
    let ways = |requests: Requests| {
        [("router", &router), ("bare proxy", &proxy), ("direct", &server)].map(|(name, served)| Contestant {
            name,
            target: served.target(),
            requests: Arc::clone(&requests),
        })
    };
    let mut table = Table::new("the router");
    table.add("PUT", &contest.run(load, &ways(puts("")))?);
    table.add("PUT with a key", &contest.run(load, &ways(puts_with_keys()))?);
    table.add("GET", &contest.run(load, &ways(gets()))?);
    let one = contest.run(Load { connections: 1, ..load }, &ways(gets()))?;
    table.add("GET, one connection", &one);
    let added = |way: &Samples| docs::micros(way.against(&one[2], added_to_median));
    let remarks = format!(
        "To the median of one connection the router adds {}, the bare proxy {}.",
        added(&one[0]),
        added(&one[1])
    );
    println!("{remarks}");
    match docs {
        Some(docs) => table.write(docs, "router", &format!("{}\n{remarks}", contest.described())),
        None => Ok(()),
    }
}

/// PUTs with an idempotency key each, as clients of Hydra send them.
fn puts_with_keys() -> Requests {
    let with_key = |put: &Vec<u8>| {
        let text = String::from_utf8_lossy(put);
        text.replacen("Host:", &format!("Idempotency-Key: bench-{NUMBER}\r\nHost:"), 1).into_bytes()
    };
    puts("").iter().map(with_key).collect()
}

fn added_to_median(way: &Measured, direct: &Measured) -> f64 {
    way.p50.saturating_sub(direct.p50).as_secs_f64()
}

/// A proxy that only passes requests through.
pub(crate) fn serve_proxy(upstream: &str) -> anyhow::Result<()> {
    let upstream: Arc<str> = upstream.into();
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Client<HttpConnector, Incoming> =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(20)).build(connector);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (client, upstream) = (client.clone(), Arc::clone(&upstream));
            let service = service_fn(move |mut request: Request<Incoming>| {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                let target = format!("http://{upstream}{path}").parse::<Uri>();
                let (client, host) = (client.clone(), HeaderValue::from_str(&upstream));
                async move {
                    *request.uri_mut() = target?;
                    request.headers_mut().insert(HOST, host?);
                    anyhow::Ok(client.request(request).await?)
                }
            });
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                // A client that is gone ends its connection.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

/// The router.
pub(crate) fn serve_router(upstream: &str) -> anyhow::Result<()> {
    let map = ClientMap::builder().folders(100).server("s1", format!("http://{upstream}")).route("0-99", "s1", [""; 0]);
    let map = map.build()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let hydra = Hydra::with_map(map)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        // As the program does it.
        let threads = std::thread::available_parallelism()?.into();
        let config = hydra_router::Config { threads, ..hydra_router::Config::default() };
        hydra_router::run(listener, hydra, config, std::future::pending()).await?;
        anyhow::Ok(())
    })
}
