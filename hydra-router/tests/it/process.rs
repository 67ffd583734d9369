//! Servers as processes that can be killed: this test binary once more, told to serve.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hydra_core::{Engine, EngineOptions, FolderSet};
use serde_json::{Value, json};

use crate::support::{Answer, Target, block_on};

/// What a process of this test binary serves: the body of [`Process::start`] as JSON.
const SERVES: &str = "HYDRA_TEST_SERVES";

/// A server as a process that can be killed.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    pub(crate) dir: PathBuf,
    serves: Value,
    child: Child,
}

impl Process {
    /// A server that owns some folders and keeps copies of others, in a directory named as it is.
    pub(crate) fn start(id: &str, dir: &Path, owned: &str, standby: &str) -> Process {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let dir = dir.join(id);
        let serves = json!({"id": id, "address": address, "dir": dir, "owned": owned, "standby": standby});
        let child = spawn(&serves, address);
        Process { address, dir, serves, child }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a process").is_none()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.serves, self.address);
    }

    /// What it is to a folder; `None` while it does not answer.
    pub(crate) fn folder(&self, folder: u32) -> Option<Value> {
        let mut line = Line::new(self.address);
        let answer = line.send("GET", &format!("/v1/folders/{folder}"), &[], "")?;
        Some(answer.json()["folders"][0].clone())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn spawn(serves: &Value, address: SocketAddr) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "process::a_server_that_can_be_killed", "--nocapture"])
        .env(SERVES, serves.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a server");
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "{serves} does not start");
        assert!(child.try_wait().expect("a process").is_none(), "{serves} ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already, or not: it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test: what the processes of other tests run.
#[test]
fn a_server_that_can_be_killed() {
    let Ok(serves) = std::env::var(SERVES) else { return };
    let serves: Value = serde_json::from_str(&serves).expect("JSON");
    let said = |member: &str| serves[member].as_str().expect("a text");
    let folders = |member: &str| match said(member) {
        "" => FolderSet::new(),
        folders => folders.parse().expect("folders"),
    };
    let mut options = EngineOptions::new(said("dir"));
    options.server_id = Some(said("id").to_owned());
    options.copied = true;
    options.owned = Some(folders("owned"));
    options.standby = folders("standby");
    // What is acknowledged is on disk: a killed process loses nothing of it.
    options.default_policy.write_interval = Duration::ZERO;
    let engine = Engine::open(options).expect("opened");
    block_on(async {
        let listener = tokio::net::TcpListener::bind(said("address")).await.expect("the port");
        let config = hydra_server::Config::default();
        hydra_server::run(listener, engine, config, std::future::pending()).await.expect("served");
    });
}

/// A connection that is made anew when it breaks.
pub(crate) struct Line {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Line {
    pub(crate) fn new(address: SocketAddr) -> Line {
        Line { address, stream: None }
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let answer = self.try_send(method, path, headers, body);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn try_send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = Target(self.address).connect().ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
                self.stream.insert(stream)
            }
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: hydra\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes()).ok()?;
        Answer::read(stream).ok()
    }
}
