//! The router beside a proxy that does nothing but pass requests through, in front of the same server.

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

use crate::http::{KEYS, Served, get_one, put, put_one, show};
use crate::load::{self, Measured};

/// Measures the server directly, behind the bare proxy and behind the router, by turns.
pub(crate) fn run(connections: usize, seconds: u64) -> anyhow::Result<()> {
    let server = Served::start(&["serve-hydra"])?;
    let proxy = Served::start(&["serve-proxy", &server.address])?;
    let router = Served::start(&["serve-router", &server.address])?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        for key in 0..KEYS {
            put_one(&server.address, put(key, "")).await?;
        }
        anyhow::Ok(())
    })?;
    let ways = [("direct", &server), ("bare proxy", &proxy), ("router", &router)];
    let measure = |connections: usize| -> anyhow::Result<Vec<(Measured, Measured)>> {
        println!("{connections} connections, {seconds} s each, client, proxies and server on the same cores");
        let mut best: Vec<Option<(Measured, Measured)>> = vec![None, None, None];
        // By turns, so that a slow moment of the machine meets all of them; the better of two counts.
        for _ in 0..2 {
            for (at, (_, served)) in ways.iter().enumerate() {
                let puts = runtime.block_on(load::run(&served.address, connections, seconds, |i| put(i, "")))?;
                let gets = runtime.block_on(load::run(&served.address, connections, seconds, get_one))?;
                let is_better = best[at].as_ref().is_none_or(|(_, known)| known.per_second < gets.per_second);
                if is_better {
                    best[at] = Some((puts, gets));
                }
            }
        }
        let best: Vec<(Measured, Measured)> = best.into_iter().flatten().collect();
        for ((name, _), (puts, gets)) in ways.iter().zip(&best) {
            show(name, "PUT", puts);
            show(name, "GET", gets);
        }
        Ok(best)
    };
    let many = measure(connections)?;
    let percent = |of: fn(&(Measured, Measured)) -> f64| 100.0 * of(&many[2]) / of(&many[1]);
    println!("PUT: the router reaches {:.0} % of the bare proxy", percent(|way| way.0.per_second));
    println!("GET: the router reaches {:.0} % of the bare proxy", percent(|way| way.1.per_second));
    let one = measure(1)?;
    let added = |way: usize| one[way].1.p50.saturating_sub(one[0].1.p50);
    println!(
        "added to the median GET of one connection: {:?} by the router, {:?} by the bare proxy",
        added(2),
        added(1)
    );
    Ok(())
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
        hydra_router::run(listener, hydra, hydra_router::Config::default(), std::future::pending()).await?;
        anyhow::Ok(())
    })
}
