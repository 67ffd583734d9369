//! A server that answers what a test tells it to, byte by byte if need be, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a request was.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What a server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// An answer: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// Another reply, after a pause.
    Late(Duration, Box<Reply>),
    /// Nothing, for ever.
    Stall,
    /// These bytes, then nothing for ever.
    BytesThenStall(Vec<u8>),
}

type Behaviour = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A running fake server.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    /// What is answered to probes; nothing: whatever it answers to everything.
    probe: Arc<Mutex<Option<Reply>>>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Fake {
    /// A server with this id that behaves like this; its probe always works.
    pub(crate) async fn start(behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut fake = Fake {
            address,
            asked: Arc::default(),
            behaviour: Arc::new(Mutex::new(Arc::new(behaviour))),
            probe: Arc::new(Mutex::new(Some(answer(200, "probe", "{}")))),
            accepting: None,
            connections: Arc::default(),
        };
        fake.accept(listener);
        fake
    }

    fn accept(&mut self, listener: TcpListener) {
        let (asked, behaviour, connections) =
            (Arc::clone(&self.asked), Arc::clone(&self.behaviour), Arc::clone(&self.connections));
        let probe = Arc::clone(&self.probe);
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving =
                    tokio::spawn(serve(stream, Arc::clone(&asked), Arc::clone(&behaviour), Arc::clone(&probe)));
                connections.lock().expect("lock").push(serving);
            }
        }));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it behaves like this.
    pub(crate) fn behave(&self, behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *self.behaviour.lock().expect("lock") = Arc::new(behaviour);
    }

    /// From now on it answers this to probes; with nothing it treats them like all requests.
    pub(crate) fn probe(&self, said: Option<Reply>) {
        *self.probe.lock().expect("lock") = said;
    }

    /// Goes away: connections break, new ones are refused.
    pub(crate) async fn stop(&mut self) {
        let accepting = self.accepting.take().into_iter();
        let tasks: Vec<_> = accepting.chain(self.connections.lock().expect("lock").drain(..)).collect();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    /// Comes back at the same address.
    pub(crate) async fn restart(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("reuse");
        socket.bind(self.address).expect("the same port");
        let listener = socket.listen(64).expect("listens");
        self.accept(listener);
    }

    /// Every request so far but probes.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().expect("lock");
        asked.iter().filter(|asked| asked.target != "/v1/probe").cloned().collect()
    }

    /// How many probes came so far.
    pub(crate) fn probes(&self) -> usize {
        let all = self.asked.lock().expect("lock").len();
        all - self.asked().len()
    }
}

async fn serve(
    mut stream: TcpStream,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    probe: Arc<Mutex<Option<Reply>>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        asked.lock().expect("lock").push(request.clone());
        let behaviour = Arc::clone(&behaviour.lock().expect("lock"));
        let said = probe.lock().expect("lock").clone();
        let reply = match said {
            Some(said) if request.target == "/v1/probe" => said,
            _ => behaviour(&request),
        };
        let reply = match reply {
            Reply::Late(pause, reply) => {
                tokio::time::sleep(pause).await;
                *reply
            }
            reply => reply,
        };
        match reply {
            Reply::Answer(status, headers, body) => {
                let mut text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                text.push_str("\r\n");
                let mut bytes = text.into_bytes();
                bytes.extend_from_slice(if request.method == "HEAD" { &[] } else { &body });
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::Bytes(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Close => return,
            Reply::Stall | Reply::Late(..) => std::future::pending().await,
            Reply::BytesThenStall(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending().await
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut words = head.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Asked { method, target, head, body: Vec::new() };
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    // A chunked body is read to its end, which is all that these tests need of it.
    if request.header("transfer-encoding").is_some() {
        while !buffer.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        request.body = std::mem::take(buffer);
    }
    Some(request)
}

/// A version that the client can read.
pub(crate) const VERSION: &str = "0000000000001-0000000000002";

/// What a server says about itself.
pub(crate) fn probed(server: &str, cluster: &str, folders: u32, owned: &str) -> Reply {
    let body = serde_json::json!({
        "server": server, "cluster": cluster, "folders": folders, "pool": "default", "owned": owned, "standby": "",
        "writable": true, "copied": true,
    });
    answer(200, server, &body.to_string())
}

/// A JSON answer of a server with this id.
pub(crate) fn answer(status: u16, server: &str, body: &str) -> Reply {
    let mut headers = vec![("hydra-server", server.to_owned()), ("content-type", "application/json".to_owned())];
    let now = "2026-01-31T12:00:00.000Z".to_owned();
    headers.extend([("etag", format!("\"{VERSION}\"")), ("hydra-created-at", now.clone()), ("hydra-updated-at", now)]);
    Reply::Answer(status, headers, body.as_bytes().to_vec())
}

/// The answer to whatever single operation was asked, as if all went well.
pub(crate) fn fine(server: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + Clone + 'static {
    move |asked| match asked.method.as_str() {
        "GET" => answer(200, server, &format!("\"{server}\"")),
        "PUT" => answer(201, server, &format!(r#"{{"key":"k","version":"{VERSION}","created":true}}"#)),
        "POST" if asked.target.contains("incr=") => {
            answer(200, server, &format!(r#"{{"key":"k","value":7,"version":"{VERSION}"}}"#))
        }
        _ => answer(204, server, ""),
    }
}

/// A refusal that did nothing.
pub(crate) fn refusal(status: u16, server: &str, code: &str, more: &str) -> Reply {
    let body = format!(
        r#"{{"type":"/problems/{code}","title":"t","status":{status},"code":"{code}","detail":"because","applied":"no"{more}}}"#
    );
    let headers = vec![("hydra-server", server.to_owned()), ("hydra-applied", "no".to_owned())];
    Reply::Answer(status, headers, body.into_bytes())
}

/// Waits until something holds; fails after a few seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
