//! Every endpoint, and everything that can be wrong with a request, as raw bytes: nobody else notices.
//!
//! The endpoints are those of `/openapi.json`. Whatever is sent, the process stays up, no answer is 5xx, no byte of
//! data changes, and somebody else with a connection of his own is answered at once, and as before.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Answer, Process, Target};

/// One endpoint with a method that it allows, and a path that is right.
struct Endpoint {
    method: String,
    path: String,
}

/// Requests that are wrong in one way: the name of the mistake, and the bytes.
fn mistakes(Endpoint { method, path }: &Endpoint) -> Vec<(&'static str, Vec<u8>)> {
    let host = "Host: hydra\r\nConnection: close\r\n";
    let with = |path: &str, headers: &str, body: &[u8]| {
        [format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n").as_bytes(), body].concat()
    };
    let sized = |kind: &str, body: &[u8]| {
        with(path, &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()), body)
    };
    let query = |text: &str| with(&format!("{path}?{text}"), "", b"");
    let json = |body: &[u8]| sized("application/json", body);
    let deep = "[".repeat(100_000);
    let many = "X-Many: 1\r\n".repeat(3_000);
    vec![
        ("a parameter that is not known", query("no-such-parameter=1")),
        ("a parameter twice", query("limit=1&limit=2&sync=true&sync=false")),
        ("a broken escape in the query", query("limit=%zz&path=%")),
        ("a NUL in the query", query("prefix=%00&wait=%00")),
        ("no UTF-8 in the query", query("prefix=%ff%fe")),
        ("numbers out of range in the query", query("limit=99999999999999999999&n=-1&incr=1e999")),
        ("a NUL in the path", with(&format!("{path}/%00"), "", b"")),
        ("a line break in the path", with(&format!("{path}%0d%0aX: y"), "", b"")),
        ("no UTF-8 in the path", with(&format!("{path}%ff"), "", b"")),
        ("a broken escape in the path", with(&format!("{path}%4"), "", b"")),
        ("path steps", with(&format!("{path}/../../../etc/passwd"), "", b"")),
        ("raw bytes in the path", [b"GET /v1/kv/a/b/\xff\xfe HTTP/1.1\r\n", host.as_bytes(), b"\r\n"].concat()),
        ("a path of 9 KiB", with(&format!("{path}{}", "x".repeat(9_000)), "", b"")),
        ("no JSON", json(b"{")),
        ("JSON nested 100 000 deep", json(deep.as_bytes())),
        ("half a surrogate", json(b"\"\\ud800\"")),
        ("a number beyond every range", json(b"{\"by\":1e999,\"limit\":1e999,\"ttl\":1e999}")),
        ("members twice", json(b"{\"ops\":[],\"ops\":[],\"ttl\":\"1s\",\"ttl\":\"2s\"}")),
        ("members of other types", json(b"{\"ops\":1,\"files\":\"x\",\"limit\":[],\"ttl\":{},\"version\":0}")),
        ("members that are not known", json(b"{\"nobody\":{\"knows\":[\"this\"]}}")),
        ("an array in place of an object", json(b"[[[]],{}]")),
        ("NUL bytes as a body", json(&[0; 100])),
        ("no UTF-8 as a body", json(b"\"\xff\xfe\"")),
        ("an unknown type", sized("application/x-nonsense; charset=\"", b"x")),
        ("a body that is encoded", with(path, "Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"\x1f\x8b\x08\x00")),
        ("a length that is no number", with(path, "Content-Length: ten\r\n", b"0123456789")),
        ("a negative length", with(path, "Content-Length: -1\r\n", b"")),
        ("two lengths", with(path, "Content-Length: 1\r\nContent-Length: 2\r\n", b"12")),
        ("a length and chunks", with(path, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
        ("a chunk without a size", with(path, "Transfer-Encoding: chunked\r\n", b"zz\r\nx\r\n0\r\n\r\n")),
        ("a chunk beyond its size", with(path, "Transfer-Encoding: chunked\r\n", b"1\r\nxxxx\r\n0\r\n\r\n")),
        ("chunks that end early", with(path, "Transfer-Encoding: chunked\r\n", b"5\r\nab")),
        ("an unknown coding", with(path, "Transfer-Encoding: gzip\r\n", b"x")),
        ("half a body", with(path, "Content-Length: 100\r\n", b"{\"half\":")),
        ("half a head", format!("{method} {path} HTTP/1.1\r\nHost: hy").into_bytes()),
        ("no version", format!("{method} {path}\r\n\r\n").into_bytes()),
        ("an unknown version", format!("{method} {path} HTTP/9.9\r\n{host}\r\n").into_bytes()),
        ("no host", format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n").into_bytes()),
        ("a header without a colon", with(path, "Nonsense\r\n", b"")),
        ("a header with a NUL", with(path, "X-Odd: a\0b\r\n", b"")),
        ("3 000 headers", with(path, &many, b"")),
        ("a header of 40 KiB", with(path, &format!("X-Long: {}\r\n", "x".repeat(40_000)), b"")),
        ("headers that are wrong", with(path, "Hydra-Folders: many\r\n", b"")),
        ("another folder count", with(path, "Hydra-Folders: 7\r\n", b"")),
        ("an empty condition", with(path, "If-Match:\r\nIf-None-Match: \"\r\n", b"")),
        ("an idempotency key with spaces", with(path, "Idempotency-Key: a b c\r\n", b"")),
        ("a token nobody asked for", with(path, "Authorization: Bearer \x01\r\n", b"")),
        ("an unknown method", format!("BREW {path} HTTP/1.1\r\n{host}\r\n").into_bytes()),
        ("a foreign origin", with(path, "Origin: https://evil.example\r\nContent-Length: 0\r\n", b"")),
        ("nothing but noise", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ("HTTP/2 that goes wrong", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense in place of frames".to_vec()),
    ]
}

/// The endpoints of the document, each with every method, with the names of the witness's data filled in.
fn endpoints(target: &Target) -> Vec<Endpoint> {
    let document = target.get("/openapi.json").json();
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        // It does what it says: nobody would be answered afterwards.
        if template == "/v1/admin/drain" {
            continue;
        }
        let filled = [
            ("{sanctuary}", "other"),
            ("{realm}", "one"),
            ("{swamp}", "here"),
            ("{key}", "k"),
            ("{lock}", "l"),
            ("{folders}", "7"),
            ("{folder}", "7"),
            ("{code}", "not-found"),
        ];
        let path = filled.iter().fold(template.clone(), |path, (name, value)| path.replace(name, value));
        for method in ["get", "head", "put", "post", "patch", "delete", "query"] {
            if item.get(method).is_some() {
                found.push(Endpoint { method: method.to_uppercase(), path: path.clone() });
            }
        }
    }
    found
}

/// Somebody else, with a connection that stays open.
struct Witness(TcpStream);

impl Witness {
    fn new(target: &Target) -> Witness {
        assert_eq!(target.put("/v1/kv/witness/data/all/k", "\"as it was\"").status, 201);
        Witness(target.connect().expect("a connection"))
    }

    /// Asks once more; how long the answer took.
    fn ask(&mut self) -> Duration {
        let begun = Instant::now();
        self.0
            .write_all(b"GET /v1/kv/witness/data/all/k HTTP/1.1\r\nHost: hydra\r\n\r\n")
            .expect("the connection stays");
        let answer = Answer::read(&mut self.0);
        assert_eq!((answer.status, answer.text().as_str()), (200, "\"as it was\""));
        begun.elapsed()
    }
}

/// Sends the bytes, ends the own side, and reads what comes, for a moment: a feed has no end.
fn send(target: &Target, bytes: &[u8]) -> Vec<u8> {
    let mut stream = target.connect().expect("the process is up");
    stream.set_read_timeout(Some(Duration::from_millis(400))).expect("set");
    // Whoever refuses may answer and close before everything was sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 << 10]);
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || answer.len() > 1 << 20 {
            break;
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    answer
}

#[test]
fn whatever_is_wrong_with_a_request_the_process_stays_and_nobody_else_notices() {
    let dir = TempDir::new().expect("a directory");
    let process = Process::start(dir.path(), &[]);
    let target = process.target;
    let mut witness = Witness::new(&target);
    let endpoints = endpoints(&target);
    assert!(endpoints.len() > 60, "{} endpoints were found", endpoints.len());
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    for endpoint in &endpoints {
        for (mistake, bytes) in mistakes(endpoint) {
            let answer = send(&target, &bytes);
            let place = format!("{} {}, {mistake}", endpoint.method, endpoint.path);
            // What came of half a request is nothing, or a refusal; also because the archive before is still under way.
            if let Ok(answer) = Answer::parse(&answer) {
                assert!(
                    answer.status < 500 || answer.text().contains("another archive is being unpacked"),
                    "{place}: {answer:?}"
                );
            } else {
                assert!(answer.is_empty() || answer.starts_with(&[0, 0]), "{place}: {answer:?}");
            }
            sent += 1;
            slowest = slowest.max(witness.ask());
        }
    }
    assert!(sent > 3_000, "{sent} requests were sent");
    assert!(slowest < Duration::from_secs(5), "somebody else waited for {slowest:?}");
    // Nothing was written by half, and the process that answers is the one that was started.
    assert_eq!(target.get("/v1/kv/witness/data/all").json()["treasures"].as_array().map(Vec::len), Some(1));
    assert_eq!(target.get("/ready").status, 200);
}
