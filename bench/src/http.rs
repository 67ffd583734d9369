//! HTTP GET and PUT against a bare axum handler of the same shape, and against webdis and etcd.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use hydra_core::{Engine, EngineOptions};
use tokio::net::TcpListener;

use crate::load::{self, Measured};
use crate::peers::Peer;

pub(crate) const KEYS: u64 = 1_000;

/// A server in a process of its own; ended when dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: String,
}

impl Served {
    /// Runs this program with these arguments; the first line it prints is its address.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Served> {
        let mut child = Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Served { child, address: line.trim().to_owned() })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The i-th PUT of a value of 100 bytes, on disk before it is answered if `query` says so.
pub(crate) fn put(i: u64, query: &str) -> Vec<u8> {
    let value = format!("\"{}\"", "x".repeat(98));
    let key = i % KEYS;
    format!(
        "PUT /v1/kv/bench/http/swamp/key-{key:04}{query} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{value}",
        value.len()
    )
    .into_bytes()
}

pub(crate) fn get_one(i: u64) -> Vec<u8> {
    format!("GET /v1/kv/bench/http/swamp/key-{:04} HTTP/1.1\r\nHost: bench\r\n\r\n", i % KEYS).into_bytes()
}

pub(crate) fn run(connections: usize, seconds: u64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{connections} connections, {seconds} s each, client and servers on the same cores");
    let mut rates = Vec::new();
    for (name, command) in
        [("bare axum", "serve-bare"), ("hydra", "serve-hydra"), ("bare axum", "serve-bare"), ("hydra", "serve-hydra")]
    {
        let served = Served::start(&[command])?;
        runtime.block_on(async {
            // Every key is there before it is read.
            for i in 0..KEYS {
                put_one(&served.address, put(i, "")).await?;
            }
            let puts = load::run(&served.address, connections, seconds, |i| put(i, "")).await?;
            let gets = load::run(&served.address, connections, seconds, get_one).await?;
            show(name, "PUT", &puts);
            show(name, "GET", &gets);
            rates.push((puts.per_second, gets.per_second));
            anyhow::Ok(())
        })?;
    }
    let best = |at: [usize; 2], of: fn(&(f64, f64)) -> f64| of(&rates[at[0]]).max(of(&rates[at[1]]));
    let (puts, gets) = (best([1, 3], |r| r.0), best([1, 3], |r| r.1));
    println!("PUT: {:.0} % of bare axum", 100.0 * puts / best([0, 2], |r| r.0));
    println!("GET: {:.0} % of bare axum", 100.0 * gets / best([0, 2], |r| r.1));
    let measure = |address: &str, request: fn(u64) -> Vec<u8>| {
        runtime.block_on(load::run(address, connections, seconds, request))
    };
    match Peer::webdis()? {
        Some(webdis) => {
            let theirs = [measure(&webdis.address, webdis.put)?, measure(&webdis.address, webdis.get)?];
            for ((what, ours), theirs) in [("PUT", puts), ("GET", gets)].into_iter().zip(&theirs) {
                show("webdis", what, theirs);
                println!("{what}: {:.2} x webdis", ours / theirs.per_second);
            }
        }
        None => println!("webdis or redis-server is not installed: nothing to compare with"),
    }
    let served = Served::start(&["serve-hydra"])?;
    let ours = measure(&served.address, |i| put(i, "?sync"))?;
    show("hydra", "synced PUT", &ours);
    drop(served);
    match Peer::etcd()? {
        Some(etcd) => {
            let theirs = measure(&etcd.address, etcd.put)?;
            show("etcd", "synced PUT", &theirs);
            println!("synced PUT: {:.2} x etcd", ours.per_second / theirs.per_second);
        }
        None => println!("etcd is not installed: nothing to compare with"),
    }
    Ok(())
}

pub(crate) fn show(name: &str, what: &str, measured: &Measured) {
    println!("{name:>10} {what}: {:>7.0} /s, p50 {:?}, p99 {:?}", measured.per_second, measured.p50, measured.p99);
}

pub(crate) async fn put_one(address: &str, request: Vec<u8>) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(&request).await?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 2"), "a put was refused");
    Ok(())
}

/// The same shape without an engine: a path with four names, a body, an ETag, a map behind a lock.
pub(crate) fn serve_bare() -> anyhow::Result<()> {
    type Map = Arc<std::sync::RwLock<std::collections::HashMap<String, Bytes>>>;
    type Names = Path<(String, String, String, String)>;
    async fn put_bare(
        State(map): State<Map>,
        Path(names): Names,
        body: Bytes,
    ) -> (StatusCode, HeaderMap, &'static str) {
        map.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(names.3, body);
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, header::HeaderValue::from_static("\"0000000000000-0000000000000\""));
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        (StatusCode::OK, headers, r#"{"key":"key-0000","version":"0000000000000-0000000000000","created":false}"#)
    }
    async fn get_bare(State(map): State<Map>, Path(names): Names) -> Result<(HeaderMap, Bytes), StatusCode> {
        let value = map.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&names.3).cloned();
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, header::HeaderValue::from_static("\"0000000000000-0000000000000\""));
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        value.map(|value| (headers, value)).ok_or(StatusCode::NOT_FOUND)
    }
    let app = Router::new().route("/v1/kv/{a}/{b}/{c}/{key}", get(get_bare).put(put_bare)).with_state(Map::default());
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        use axum::serve::ListenerExt;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        Ok(axum::serve(listener, app).await?)
    })
}

pub(crate) fn serve_hydra() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(EngineOptions::new(dir.path()))?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        hydra_server::run(listener, engine, hydra_server::Config::default(), std::future::pending()).await?;
        anyhow::Ok(())
    })
}
