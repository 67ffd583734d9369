//! A small HTTP client that changes nothing of what it sends, and servers to send it to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hydra_core::{EngineOptions, Swamp};
use hydra_server::{Config, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Runs a future where the servers of the tests run.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// One answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Answer> {
        let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("no answer in {} bytes", bytes.len()));
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        Ok(Answer {
            status: status.ok_or_else(broken)?,
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: bytes[end + 4..].to_vec(),
        })
    }

    /// One answer from a connection that stays open.
    pub(crate) fn read(stream: &mut TcpStream) -> Answer {
        let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut buffer).expect("an answer");
            assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..count]);
            if let Ok(answer) = Answer::parse(&read) {
                let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                if answer.body.len() >= length {
                    return answer;
                }
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(sent, _)| sent == name).map(|(_, value)| value.as_str())
    }

    /// Every line of a header.
    pub(crate) fn header_lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(sent, _)| sent == name).map(|(_, value)| value.as_str())
    }

    /// The body without its chunks; what broke off has no last chunk.
    pub(crate) fn content(&self) -> Vec<u8> {
        if self.header("transfer-encoding") != Some("chunked") {
            return self.body.clone();
        }
        let (mut bytes, mut content) = (self.body.as_slice(), Vec::new());
        loop {
            let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a length");
            let length = std::str::from_utf8(&bytes[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            match length.expect("a length") {
                0 => return content,
                length => {
                    content.extend_from_slice(&bytes[end + 2..end + 2 + length]);
                    bytes = &bytes[end + 4 + length..];
                }
            }
        }
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

    /// What every answer of the server promises, whatever the request.
    fn check(&self) {
        assert!(self.header("hydra-server").is_some() && self.header("x-request-id").is_some(), "{self:?}");
        if self.status >= 400 && self.header("content-length") != Some("0") && !self.body.is_empty() {
            if self.header("content-type") == Some("application/json") {
                return; // /ready says why it is not
            }
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
            assert_eq!(self.header("hydra-applied"), self.json()["applied"].as_str(), "{self:?}");
            assert_eq!(self.json()["status"].as_u64(), Some(self.status.into()), "{self:?}");
        }
        // A server that pulls from another one is a client of that, and says so.
        let is_of_another = self.status == 502 && self.json()["code"] == "server-unreachable";
        // Only who says how long it waits is told that this was too short.
        let is_too_late = self.status == 504 && self.json()["code"] == "server-timeout";
        assert!(self.status < 500 || matches!(self.status, 503 | 507) || is_of_another || is_too_late, "{self:?}");
    }
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
        let answer = self.try_send(method, path, headers, body.as_ref()).expect("an answer");
        answer.check();
        answer
    }

    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: hydra\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        Answer::parse(&self.raw(&[request.as_bytes(), body].concat())?)
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        // A server that refuses a body may answer and close while it is still being sent.
        let sent = stream.write_all(bytes);
        let mut answer = Vec::new();
        let received = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            sent?;
            received?;
        }
        Ok(answer)
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }
}

/// A server in this process over a directory of its own.
#[derive(Debug)]
pub(crate) struct Hydra {
    server: Option<Server>,
    pub(crate) target: Target,
    pub(crate) dir: TempDir,
}

impl Hydra {
    pub(crate) fn start() -> Hydra {
        Hydra::start_with(|_| {}, Config::default())
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut EngineOptions), config: Config) -> Hydra {
        let dir = TempDir::new().expect("a directory");
        let mut options = EngineOptions::new(dir.path());
        options.server_id = Some("s1".into());
        change(&mut options);
        let server = block_on(Server::start_with(options, config)).expect("a server");
        let address = server.url().split("://").nth(1).and_then(|address| address.parse().ok());
        let target = Target(address.expect("an address"));
        Hydra { server: Some(server), target, dir }
    }

    /// A server whose memory is used up by two swamps, a/b/c and a/b/d, with a treasure k each; whoever holds a swamp keeps
    /// it in memory.
    pub(crate) fn start_without_room() -> (Hydra, [Swamp; 2]) {
        let hydra = Hydra::start_with(|options| options.memory_budget = 50_000, Config::default());
        let padding = format!("\"{}\"", "x".repeat(30_000));
        let held = ["a/b/c", "a/b/d"].map(|name| {
            assert_eq!(hydra.send("PUT", &format!("/v1/kv/{name}/k?sync"), &[], &padding).status, 201);
            hydra.server().engine().hydrate(&name.parse().expect("a name")).expect("there was room")
        });
        assert!(!hydra.server().engine().has_room());
        (hydra, held)
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    /// The server, to be ended by hand.
    pub(crate) fn take_server(&mut self) -> Server {
        self.server.take().expect("it runs")
    }

    /// The files below the data directory that hold data.
    pub(crate) fn data_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.retain(|path| !path.components().any(|part| part.as_os_str() == ".hydra"));
        found.retain(|path| path.file_name().is_some_and(|name| name != "HYDRA"));
        found
    }
}

impl std::ops::Deref for Hydra {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.target
    }
}

impl Drop for Hydra {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = block_on(server.shutdown());
        }
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        walk(&entry.path(), found);
    }
}

/// The program under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydra-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HYDRA_")) {
        command.env_remove(name);
    }
    command
}

/// A server that is a process of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) target: Target,
    /// Everything it printed until it was ready.
    pub(crate) greeting: String,
}

impl Process {
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Process {
        Process::start_as(&mut program(), data, flags)
    }

    /// A server that may open so many files.
    pub(crate) fn start_with_files(files: usize, data: &Path, flags: &[&str]) -> Process {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(program().get_program());
        Process::start_as(&mut shell, data, flags)
    }

    /// A server whose log goes to a file, as lines of JSON.
    pub(crate) fn start_with_log(log: &Path, data: &Path, flags: &[&str]) -> Process {
        let mut command = program();
        command.args(["--log-format", "json"]).stderr(File::create(log).expect("a log"));
        Process::start_as(&mut command, data, flags)
    }

    /// Starts the server by a command that may be wrapped or have its stderr elsewhere.
    pub(crate) fn start_as(command: &mut Command, data: &Path, flags: &[&str]) -> Process {
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--log", "warn", "--data"])
            .arg(data)
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout"));
        let mut greeting = String::new();
        // A server that owns no folder has nothing to try.
        let is_whole = |text: &str| text.contains("try: ") || text.contains("folders none of");
        while !is_whole(&greeting) && lines.read_line(&mut greeting).expect("a line") > 0 {}
        let address = greeting.split("listening on http").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|address| address.split("://").nth(1));
        let address = address.and_then(|text| text.parse().ok());
        Process { child, target: Target(address.unwrap_or_else(|| panic!("no address in {greeting:?}"))), greeting }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and nothing of it is left afterwards.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end; answers the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server did not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
