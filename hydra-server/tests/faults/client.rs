//! A client that keeps its connection and tells an answer from silence.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Answer, Target};

/// One caller of one server.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    headers: Vec<(String, String)>,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(target: Target) -> Client {
        Client { target, headers: Vec::new(), stream: None }
    }

    /// Sends a header with every request.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Client {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the server is from now on.
    pub(crate) fn move_to(&mut self, target: Target) {
        self.target = target;
        self.stream = None;
    }

    /// One exchange; after an error nobody knows whether it was carried out.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        let answer = self.exchange(&self.request(method, path, headers, body), method);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    /// A read, tried again while the server is busy, restarting or waiting for files.
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.send("GET", path, &[], "") {
                Ok(answer) if answer.status < 500 => return answer,
                other => assert!(Instant::now() < deadline, "GET {path}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends until it is done: a swamp whose disk failed tries again every 5 s.
    pub(crate) fn persist(&mut self, method: &str, path: &str) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.send(method, path, &[], "").expect("an answer");
            if answer.status < 300 {
                return answer;
            }
            assert!(Instant::now() < deadline, "{method} {path}: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: hydra\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in own.chain(headers.iter().copied()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text + "\r\n" + body
    }

    fn exchange(&mut self, request: &str, method: &str) -> io::Result<Answer> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::new(self.target.connect()?));
        }
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = read_answer(stream, method)?;
        if answer.header("connection") == Some("close") {
            self.stream = None;
        }
        Ok(answer)
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>, method: &str) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = Answer::parse(&bytes)?.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let start = bytes.len();
    bytes.resize(start + if method == "HEAD" { 0 } else { length }, 0);
    stream.read_exact(&mut bytes[start..])?;
    Answer::parse(&bytes)
}

/// Everything in a swamp: its treasures as the server lists them, and whether the copy is whole.
#[derive(Debug, PartialEq)]
pub(crate) struct Contents {
    pub(crate) treasures: Vec<Value>,
    /// `degraded` or `incomplete`, where the server says so.
    pub(crate) copy: Option<String>,
}

impl Contents {
    /// Lists a swamp to its end.
    pub(crate) fn read(client: &mut Client, swamp: &str) -> Contents {
        let mut contents = Contents { treasures: Vec::new(), copy: None };
        let mut cursor = String::new();
        loop {
            let answer = client.get(&format!("/v1/kv/{swamp}?limit=1000{cursor}"));
            assert_eq!(answer.status, 200, "{swamp}: {answer:?}");
            contents.copy = contents.copy.or(answer.header("hydra-copy").map(str::to_owned));
            let page = answer.json();
            contents.treasures.extend(page["treasures"].as_array().expect("treasures").iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return contents,
            }
        }
    }

    /// The value of a key.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.treasures.iter().find(|treasure| treasure["key"] == key).map(|treasure| &treasure["value"])
    }
}

/// A counter of `/metrics`.
pub(crate) fn metric(target: Target, name: &str) -> u64 {
    let text = Client::new(target).get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("no metric {name} in {text}")) as u64
}
