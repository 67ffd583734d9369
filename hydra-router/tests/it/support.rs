//! A small HTTP client that changes nothing of what it sends, servers, and a router in front of them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use hydra_core::{Engine, EngineOptions};
use hydra_router::Config;
use hydra_sdk::{ClientMap, Hydra, MapBuilder, Settings, SwampName};
use hydra_server::Server;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Runs a future where the servers and routers of the tests run.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Begins a future there, and goes on without it.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    RUNTIME.spawn(future)
}

/// One answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads one answer; the connection may stay open behind it.
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            more(stream, &mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end - 4]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let mut answer = Answer {
            status: status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?,
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: bytes.split_off(end),
        };
        answer.read_body(stream)?;
        Ok(answer)
    }

    fn read_body(&mut self, stream: &mut impl Read) -> io::Result<()> {
        let length = self.header("content-length").and_then(|length| length.parse().ok());
        if self.header("transfer-encoding") == Some("chunked") {
            while !self.body.ends_with(b"0\r\n\r\n") {
                more(stream, &mut self.body)?;
            }
            self.body = unchunked(&self.body);
        } else if let Some(length) = length {
            while self.body.len() < length {
                more(stream, &mut self.body)?;
            }
        }
        Ok(())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(sent, _)| sent == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn etag(&self) -> String {
        self.header("etag").expect("an ETag").to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().expect("a code").to_owned()
    }

    /// The server that answered; none for answers of the router itself.
    pub(crate) fn server(&self) -> Option<&str> {
        self.header("hydra-server")
    }

    /// What every answer of the router promises, whatever the request.
    pub(crate) fn check(&self) {
        assert_eq!(self.header("hydra-router"), Some("r1"), "{self:?}");
        assert!(self.server().is_some() || self.header("x-request-id").is_some() || self.status >= 400, "{self:?}");
        if self.status >= 400 && self.header("content-type") == Some("application/problem+json") {
            let applied = self.header("hydra-applied").expect("an error says whether it was applied");
            assert!(self.body.is_empty() || self.json()["applied"] == applied, "{self:?}");
        }
    }
}

fn more(stream: &mut impl Read, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    match stream.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            into.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.expect("the size of a chunk");
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    out
}

/// Somewhere requests can be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target(pub(crate) SocketAddr);

impl Target {
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, &[], body)
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[], body)
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "")
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        let answer = self.send_to_any(method, path, headers, body);
        answer.check();
        answer
    }

    /// The same, for something that need not be a router.
    pub(crate) fn send_to_any(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let body = body.as_ref();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: hydra\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), body].concat()).expect("an answer")
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        // Whoever refuses a body may answer while it is still being sent.
        let mut writer = stream.try_clone()?;
        let (head, is_head) = (bytes.to_vec(), bytes.starts_with(b"HEAD "));
        let sender = std::thread::spawn(move || writer.write_all(&head));
        let answer = if is_head { Answer::read(&mut HeadOnly(&mut stream)) } else { Answer::read(&mut stream) };
        drop(stream);
        let _ = sender.join();
        answer
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }
}

/// An answer to HEAD announces a body that does not come.
struct HeadOnly<'s>(&'s mut TcpStream);

impl Read for HeadOnly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && self.0.read(&mut byte)? > 0 {
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase().replace("\ncontent-length:", "\nannounced:");
        buffer[..text.len()].copy_from_slice(text.as_bytes());
        Ok(text.len())
    }
}

/// A server in this process, over a directory that outlives it.
#[derive(Debug)]
pub(crate) struct Node {
    id: &'static str,
    dir: TempDir,
    server: Option<Server>,
    /// The same, at the address it had before.
    revived: Option<(Engine, oneshot::Sender<()>, JoinHandle<io::Result<()>>)>,
    url: String,
}

impl Node {
    /// A server that owns some folders and keeps copies of others.
    pub(crate) fn start(id: &'static str, owned: &str, standby: &str) -> Node {
        Node::start_with(id, |options| {
            options.owned = Some(owned.parse().expect("folders"));
            options.standby = standby.parse().expect("folders");
            options.copied = true;
        })
    }

    /// A server that owns everything and knows of no copies.
    pub(crate) fn start_alone(id: &'static str) -> Node {
        Node::start_with(id, |_| {})
    }

    pub(crate) fn start_with(id: &'static str, change: impl FnOnce(&mut EngineOptions)) -> Node {
        Node::start_as(id, change, hydra_server::Config::default())
    }

    /// A server with settings of its own.
    pub(crate) fn start_as(
        id: &'static str,
        change: impl FnOnce(&mut EngineOptions),
        config: hydra_server::Config,
    ) -> Node {
        let dir = TempDir::new().expect("a directory");
        let mut options = EngineOptions::new(dir.path());
        options.server_id = Some(id.into());
        change(&mut options);
        let server = block_on(Server::start_with(options, config)).expect("a server");
        Node { id, dir, url: server.url().to_owned(), server: Some(server), revived: None }
    }

    /// Comes back at the address it had.
    pub(crate) fn revive(&mut self, change: impl FnOnce(&mut EngineOptions)) {
        let mut options = EngineOptions::new(self.dir.path());
        change(&mut options);
        let engine = Engine::open(options).expect("opened");
        let (stop, stopped) = oneshot::channel();
        let address = self.target().0;
        let listener = block_on(tokio::net::TcpListener::bind(address)).expect("the same port");
        let serving =
            RUNTIME.spawn(hydra_server::run(listener, engine.clone(), hydra_server::Config::default(), async {
                let _ = stopped.await;
            }));
        self.revived = Some((engine, stop, serving));
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the server: its port refuses connections from now on.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            block_on(server.shutdown()).expect("it ends");
        }
        if let Some((engine, stop, serving)) = self.revived.take() {
            drop(stop);
            block_on(serving).expect("no panic").expect("it ends");
            engine.close().expect("closed");
        }
    }

    /// Asks the server itself, without the router.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.target().send_to_any(method, path, &[], body)
    }

    /// The server itself, without the router.
    pub(crate) fn target(&self) -> Target {
        Target(self.url.trim_start_matches("http://").parse().expect("an address"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        assert!(self.dir.path().exists(), "the data of {} was removed", self.id);
    }
}

/// Settings under which tests need not wait.
pub(crate) fn impatient() -> Settings {
    let mut settings = Settings::default();
    settings.try_timeout = Duration::from_millis(1500);
    settings.deadline = Duration::from_secs(3);
    settings
}

/// Two servers, each the other's fallback: s1 owns folders 0-49, s2 50-99.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) router: Router,
    pub(crate) s1: Node,
    pub(crate) s2: Node,
}

impl Pair {
    pub(crate) fn start() -> Pair {
        Pair::start_with(Config::default())
    }

    pub(crate) fn start_with(config: Config) -> Pair {
        let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
        let map = pair_map(s1.url(), s2.url()).settings(impatient()).build().expect("a map");
        Pair { router: Router::start(map, config), s1, s2 }
    }
}

impl std::ops::Deref for Pair {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.router.target
    }
}

/// The map of a [`Pair`].
pub(crate) fn pair_map(s1: &str, s2: &str) -> MapBuilder {
    ClientMap::builder().folders(100).server("s1", s1).server("s2", s2).route("0-49", "s1", ["s2"]).route(
        "50-99",
        "s2",
        ["s1"],
    )
}

/// The first name like `base` whose folder is one of these.
pub(crate) fn name_in(folders: &str, base: &str) -> SwampName {
    let base: SwampName = base.parse().expect("a name");
    let count = hydra_sdk::FolderCount::new(100).expect("a count");
    let folders = folders.parse().expect("folders");
    base.in_folders(&folders, count).next().expect("a name")
}

/// A router in this process.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) target: Target,
    pub(crate) hydra: Hydra,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<io::Result<()>>>,
}

impl Router {
    pub(crate) fn start(map: ClientMap, config: Config) -> Router {
        // Threads, as the program has them.
        let config = Config { id: "r1".into(), threads: 2, ..config };
        let (stop, stopped) = oneshot::channel();
        block_on(async {
            let hydra = Hydra::with_map(map).expect("a data set");
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let target = Target(listener.local_addr().expect("an address"));
            let serving = tokio::spawn(hydra_router::run(listener, hydra.clone(), config, async {
                let _ = stopped.await;
            }));
            Router { target, hydra, stop: Some(stop), serving: Some(serving) }
        })
    }

    /// Begins the end.
    pub(crate) fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end.
    pub(crate) fn stopped(&mut self) -> bool {
        let serving = self.serving.take().expect("it runs");
        block_on(async { tokio::time::timeout(Duration::from_secs(10), serving).await }).is_ok()
    }
}

impl std::ops::Deref for Router {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.target
    }
}

/// An address that refuses connections.
pub(crate) fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// An address that takes connections and never answers, while the listener lives.
pub(crate) fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

/// The program under test, free of the settings of whoever runs the tests.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydra-router"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HYDRA_")) {
        command.env_remove(name);
    }
    command
}

/// A file in a directory of its own.
pub(crate) fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("hydra.toml");
    std::fs::write(&path, text).expect("a file");
    (dir, path)
}

/// A run of a program that came to its end.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Run {
        Run::from(command.output().expect("the program runs"))
    }

    pub(crate) fn from(output: Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}
