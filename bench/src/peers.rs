//! Other servers that answer over HTTP, where they are installed: webdis before redis, and etcd.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::http::KEYS;
use crate::load::{Requests, Target};

/// A server on a free port of this machine; gone when dropped.
pub(crate) struct Peer {
    address: String,
    /// A write of each key, with values of 100 bytes.
    pub(crate) puts: Requests,
    /// A read of each key.
    pub(crate) gets: Requests,
    children: Vec<Child>,
    dir: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Peer {
    /// webdis before a redis without persistence; `None` where one of them is not installed.
    pub(crate) fn webdis() -> anyhow::Result<Option<Peer>> {
        if !is_installed("webdis") || !is_installed("redis-server") {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let (redis, http) = (free_port()?, free_port()?);
        let mut peer = Peer {
            address: format!("127.0.0.1:{http}"),
            puts: requests(3 * KEYS + 1, |n| {
                let (key, value) = (n % KEYS, format!("{n:08}{}", "x".repeat(92)));
                format!("PUT /SET/key-{key:04} HTTP/1.1\r\nHost: bench\r\nContent-Length: 100\r\n\r\n{value}")
            }),
            gets: requests(KEYS, |key| format!("GET /GET/key-{key:04} HTTP/1.1\r\nHost: bench\r\n\r\n")),
            children: Vec::new(),
            dir,
        };
        let redis_port = redis.to_string();
        peer.start(
            "redis-server",
            &["--port", &redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        )?;
        await_listener(redis)?;
        let threads = std::thread::available_parallelism()?;
        let config = peer.dir.path().join("webdis.json");
        let text = format!(
            r#"{{"redis_host":"127.0.0.1","redis_port":{redis},"http_host":"127.0.0.1","http_port":{http},"threads":{threads},
            "pool_size":20,"daemonize":false,"verbosity":0,"logfile":"{}","acl":[{{"disabled":[]}}]}}"#,
            peer.dir.path().join("webdis.log").display()
        );
        std::fs::write(&config, text)?;
        peer.start("webdis", &[path_text(&config)?])?;
        await_listener(http)?;
        Ok(Some(peer))
    }

    /// etcd, one member, which has every write on disk before it answers; `None` where it is not installed.
    pub(crate) fn etcd() -> anyhow::Result<Option<Peer>> {
        if !is_installed("etcd") {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let (client, members) = (free_port()?, free_port()?);
        let (client_url, member_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{members}"));
        // Keys and values are base64 in its JSON: these texts are, and the value stands for 100 bytes.
        let request = |path: &str, body: &str| {
            let length = body.len();
            format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let mut peer = Peer {
            address: format!("127.0.0.1:{client}"),
            puts: requests(3 * KEYS + 1, |n| {
                let (key, value) = (n % KEYS, format!("{n:08}{}", "A".repeat(126)));
                request("/v3/kv/put", &format!(r#"{{"key":"key{key:05}","value":"{value}=="}}"#))
            }),
            gets: requests(KEYS, |key| request("/v3/kv/range", &format!(r#"{{"key":"key{key:05}"}}"#))),
            children: Vec::new(),
            dir,
        };
        let data = peer.dir.path().join("etcd");
        let cluster = format!("default={member_url}");
        let flags = [
            ["--data-dir", path_text(&data)?],
            ["--listen-client-urls", &client_url],
            ["--advertise-client-urls", &client_url],
            ["--listen-peer-urls", &member_url],
            ["--initial-advertise-peer-urls", &member_url],
            ["--initial-cluster", &cluster],
            ["--log-level", "error"],
        ];
        peer.start("etcd", &flags.concat())?;
        await_listener(client)?;
        Ok(Some(peer))
    }

    pub(crate) fn target(&self) -> Target {
        Target { address: self.address.clone(), processes: self.children.iter().map(Child::id).collect() }
    }

    fn start(&mut self, program: &str, flags: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.current_dir(self.dir.path()).spawn();
        self.children.push(child.with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }
}

fn requests(count: usize, request: impl Fn(usize) -> String) -> Requests {
    (0..count).map(|n| request(n).into_bytes()).collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn await_listener(port: u16) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            // etcd listens a moment before it has a leader.
            std::thread::sleep(Duration::from_secs(1));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("nothing listens on port {port}")
}

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the directory for temporary files has a name that is no UTF-8")
}
