//! Hydra over HTTP: GET and PUT beside a bare axum handler of the same shape and webdis, synced PUT beside etcd, and
//! batches beside single requests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use hydra_core::{Engine, EngineOptions};
use tokio::net::TcpListener;

use crate::contest::{Contest, Contestant, Table};
use crate::load::{Connection, Load, Requests, Target};
use crate::peers::Peer;

pub(crate) const KEYS: usize = 1_000;
/// How many operations a batch has.
const BATCH: usize = 1_000;

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

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn target(&self) -> Target {
        Target { address: self.address.clone(), processes: vec![self.process()] }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A PUT of each key, with values of 100 bytes that differ from round to round; on disk before it is answered if
/// `query` says so.
pub(crate) fn puts(query: &str) -> Requests {
    let put = |n: usize| {
        let (key, value) = (n % KEYS, format!("{:?}", format!("{n:08}{}", "x".repeat(90))));
        format!(
            "PUT /v1/kv/bench/http/swamp/key-{key:04}{query} HTTP/1.1\r\nHost: bench\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{value}",
            value.len()
        )
    };
    (0..3 * KEYS + 1).map(|n| put(n).into_bytes()).collect()
}

/// A GET of each key.
pub(crate) fn gets() -> Requests {
    let get = |key: usize| format!("GET /v1/kv/bench/http/swamp/key-{key:04} HTTP/1.1\r\nHost: bench\r\n\r\n");
    (0..KEYS).map(|key| get(key).into_bytes()).collect()
}

/// The same PUTs, many in a request.
fn batches() -> Requests {
    let put = |n: usize| format!(r#"{{"op":"put","key":"key-{:04}","value":"{n:08}{}"}}"#, n % KEYS, "x".repeat(90));
    let batch = |batch: usize| {
        let ops: Vec<String> = (0..BATCH).map(|n| put(batch * BATCH + n)).collect();
        let body = format!(r#"{{"ops":[{}]}}"#, ops.join(","));
        let length = body.len();
        format!(
            "POST /v1/swamps/bench/http/swamp/batch HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    (0..64).map(|n| batch(n).into_bytes()).collect()
}

/// Sends all requests, one after the other.
pub(crate) async fn send_all(address: &str, requests: &Requests) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    for request in requests.iter() {
        connection.ask(request).await?;
    }
    Ok(())
}

/// Measures everything, prints it, and with `docs` writes the table there.
pub(crate) fn run(load: Load, rounds: usize, docs: Option<&Path>) -> anyhow::Result<()> {
    let contest = Contest::new(load, rounds)?;
    println!("{}", contest.described());
    let mut table = Table::new("Hydra");
    let remarks = [one_by_one(&contest, &mut table)?, synced(&contest, &mut table)?].concat();
    println!("{remarks}");
    match docs {
        Some(docs) => table.write(docs, "http", &format!("{}\n{remarks}", contest.described())),
        None => Ok(()),
    }
}

/// GET and PUT, and batches.
fn one_by_one(contest: &Contest, table: &mut Table) -> anyhow::Result<String> {
    let (hydra, bare) = (Served::start(&["serve-hydra"])?, Served::start(&["serve-bare"])?);
    // Every key is there before it is read.
    for served in [&hydra, &bare] {
        contest.runtime.block_on(send_all(&served.address, &puts("")))?;
    }
    let webdis = Peer::webdis()?;
    let contestants = |ours: Requests, theirs: fn(&Peer) -> Requests| {
        let of = |name, target, requests: &Requests| Contestant { name, target, requests: Arc::clone(requests) };
        let mut all = vec![of("Hydra", hydra.target(), &ours), of("bare axum", bare.target(), &ours)];
        all.extend(webdis.as_ref().map(|webdis| of("webdis", webdis.target(), &theirs(webdis))));
        all
    };
    let put = contest.run(contest.load, &contestants(puts(""), |peer| Arc::clone(&peer.puts)))?;
    table.add("PUT", &put);
    let got = contest.run(contest.load, &contestants(gets(), |peer| Arc::clone(&peer.gets)))?;
    table.add("GET", &got);
    let batched = Contestant { name: "Hydra", target: hydra.target(), requests: batches() };
    let batched = contest.run(contest.load, &[batched])?;
    table.line("PUT, 1 000 in a batch", &batched[0], BATCH as f64, "–");
    let times = batched[0].against(&put[0], |many, one| many.per_second * BATCH as f64 / one.per_second);
    let missing =
        if webdis.is_none() { "webdis or redis-server is not installed: nothing to compare with.\n" } else { "" };
    Ok(format!("In batches {times:.1}× as many values are put as one by one.\n{missing}"))
}

/// PUTs that are on disk before they are answered.
fn synced(contest: &Contest, table: &mut Table) -> anyhow::Result<String> {
    let (hydra, etcd) = (Served::start(&["serve-hydra"])?, Peer::etcd()?);
    let mut contestants = vec![Contestant { name: "Hydra", target: hydra.target(), requests: puts("?sync") }];
    contestants.extend(etcd.as_ref().map(|etcd| Contestant {
        name: "etcd",
        target: etcd.target(),
        requests: Arc::clone(&etcd.puts),
    }));
    table.add("synced PUT", &contest.run(contest.load, &contestants)?);
    Ok(if etcd.is_none() { "etcd is not installed: nothing to compare with.\n".to_owned() } else { String::new() })
}

/// The same shape without an engine: a path with four names, a body, an ETag, a map behind a lock.
pub(crate) fn serve_bare() -> anyhow::Result<()> {
    type Map = Arc<std::sync::RwLock<std::collections::HashMap<String, Bytes>>>;
    type Names = UrlPath<(String, String, String, String)>;
    async fn put_bare(
        State(map): State<Map>,
        UrlPath(names): Names,
        body: Bytes,
    ) -> (StatusCode, HeaderMap, &'static str) {
        map.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(names.3, body);
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, header::HeaderValue::from_static("\"0000000000000-0000000000000\""));
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        (StatusCode::OK, headers, r#"{"key":"key-0000","version":"0000000000000-0000000000000","created":false}"#)
    }
    async fn get_bare(State(map): State<Map>, UrlPath(names): Names) -> Result<(HeaderMap, Bytes), StatusCode> {
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

pub(crate) fn serve_hydra(streams: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut options = EngineOptions::new(dir.path());
    // Whom the router's map names.
    options.server_id = Some("s1".to_owned());
    let engine = Engine::open(options)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let config = hydra_server::Config {
            max_connections: streams.max(1_000) * 2,
            max_streams: streams,
            ..hydra_server::Config::default()
        };
        hydra_server::run(listener, engine, config, std::future::pending()).await?;
        anyhow::Ok(())
    })
}
