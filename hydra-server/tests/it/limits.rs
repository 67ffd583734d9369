//! Every limit from both sides, and peers that are slow or silent.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use hydra_server::Config;

use crate::support::{Answer, Hydra};

const KEY: &str = "/v1/kv/a/b/c/k";

/// A JSON string that is this long with its quotes.
fn json_of(length: usize) -> String {
    format!("\"{}\"", "x".repeat(length - 2))
}

#[test]
fn a_value_may_have_16_mib_and_not_a_byte_more() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put(KEY, &json_of(16 << 20)).status, 201);
    assert_eq!(hydra.get(KEY).body.len(), 16 << 20);
    let beyond = hydra.put(KEY, &json_of((16 << 20) + 1));
    assert_eq!((beyond.status, beyond.code().as_str()), (413, "value-too-large"));
    assert!(beyond.text().contains("16777216"), "the limit is stated: {}", beyond.text());
    assert_eq!(hydra.get(KEY).body.len(), 16 << 20);
}

#[test]
fn a_policy_sets_the_longest_value() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put("/v1/policies/a/*/*", r#"{"maxValueBytes":10}"#).status, 201);
    assert_eq!(hydra.put(KEY, &json_of(10)).status, 201);
    assert_eq!(hydra.put(KEY, &json_of(11)).code(), "value-too-large");
    let batch = hydra
        .post("/v1/swamps/a/b/c/batch", &format!(r#"{{"ops":[{{"op":"put","key":"k","value":{}}}]}}"#, json_of(11)));
    assert_eq!(batch.json()["results"][0]["code"], "value-too-large");
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_the_body_is_sent() {
    let hydra = Hydra::start();
    for (path, length, code) in [
        (format!("PUT {KEY}"), (24 << 20) + 1, "value-too-large"),
        ("POST /v1/swamps/a/b/c/batch".to_owned(), (64 << 20) + 1, "body-too-large"),
        ("PUT /v1/policies/a/*/*".to_owned(), (64 << 10) + 1, "body-too-large"),
    ] {
        let mut stream = hydra.connect().expect("a connection");
        write!(stream, "{path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n").expect("sent");
        let answer = Answer::read(&mut stream);
        assert_eq!((answer.status, answer.code().as_str()), (413, code), "{path}");
    }
}

#[test]
fn a_body_without_a_length_is_bounded_while_it_streams() {
    let hydra = Hydra::start();
    let mut stream = hydra.connect().expect("a connection");
    write!(stream, "PUT {KEY} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sent");
    let chunk = [b"100000\r\n".as_slice(), &vec![b'1'; 1 << 20], b"\r\n"].concat();
    // The server may stop reading once it has refused.
    for _ in 0..30 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let answer = Answer::read(&mut stream);
    assert_eq!((answer.status, answer.code().as_str()), (413, "value-too-large"));
    assert_eq!(hydra.get(KEY).status, 404);
}

#[test]
fn a_refused_sender_sees_the_answer_although_it_is_still_sending() {
    let hydra = Hydra::start();
    let body = vec![b'1'; 30 << 20];
    for _ in 0..3 {
        assert_eq!(hydra.send("PUT", KEY, &[], &body).code(), "value-too-large");
        assert_eq!(hydra.send("PUT", &format!("{KEY}?typo=1"), &[], &body).code(), "unknown-parameter");
    }
}

#[test]
fn nobody_is_asked_to_continue_with_a_body_that_is_refused() {
    let hydra = Hydra::start();
    let mut stream = hydra.connect().expect("a connection");
    write!(stream, "PUT {KEY}?typo=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        .expect("sent");
    assert_eq!(Answer::read(&mut stream).code(), "unknown-parameter");
}

#[test]
fn large_bodies_share_a_bounded_memory() {
    let hydra = Hydra::start_with(|_| {}, Config { max_body_memory: 1 << 20, ..Config::default() });
    let refused = hydra.put(KEY, &json_of(2 << 20));
    assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"));
    assert_eq!(hydra.put(KEY, &json_of(900 << 10)).status, 201);
    assert_eq!(hydra.put(KEY, &json_of(900 << 10)).status, 200, "what was held is given back");
}

#[test]
fn a_batch_may_have_ten_thousand_operations() {
    let hydra = Hydra::start();
    let batch =
        |count: usize| format!(r#"{{"ops":[{}]}}"#, vec![r#"{"op":"increment","key":"n","by":1}"#; count].join(","));
    assert_eq!(hydra.post("/v1/swamps/a/b/c/batch", &batch(10_000)).json()["ok"], 10_000);
    let beyond = hydra.post("/v1/swamps/a/b/c/batch", &batch(10_001));
    assert_eq!((beyond.status, beyond.code().as_str()), (413, "batch-too-large"));
    assert_eq!(hydra.get("/v1/kv/a/b/c/n").text(), "10000");
}

#[test]
fn json_may_be_nested_a_hundred_levels_and_not_two_hundred() {
    let hydra = Hydra::start();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(hydra.put(KEY, &nested(100)).status, 201);
    assert_eq!(hydra.put(KEY, &nested(200)).code(), "invalid-json");
    assert_eq!(hydra.put(KEY, &nested(1_000_000)).code(), "invalid-json");
}

#[test]
fn a_request_target_may_have_8_kib() {
    let hydra = Hydra::start();
    let head = "/v1/kv/a/b/c?where=/x+==+1";
    let padding = |length: usize| format!("{head}{}", "+".repeat(length - head.len()));
    assert_eq!(hydra.get(&padding(8192)).status, 200);
    let beyond = hydra.get(&padding(8193));
    assert_eq!((beyond.status, beyond.code().as_str()), (414, "uri-too-long"));
    let far = hydra.target.try_send("GET", &format!("/{}", "p".repeat(70_000)), &[], &[]).expect("an answer");
    assert_eq!((far.status, far.code().as_str(), far.header("hydra-applied")), (414, "uri-too-long", Some("no")));
}

#[test]
fn a_request_head_may_have_32_kib() {
    let hydra = Hydra::start();
    assert_eq!(hydra.send("GET", "/health", &[("X-Padding", &"p".repeat(31_000))], "").status, 200);
    let beyond = hydra.send("GET", "/health", &[("X-Padding", &"p".repeat(33_000))], "");
    assert_eq!((beyond.status, beyond.code().as_str()), (431, "headers-too-large"));
    let far = hydra.target.try_send("GET", "/health", &[("X-Padding", &"p".repeat(300_000))], &[]).expect("an answer");
    assert_eq!((far.status, far.code().as_str(), far.header("hydra-applied")), (431, "headers-too-large", Some("no")));
    let many = vec![("X-Line", "1"); 101];
    let many = hydra.target.try_send("GET", "/health", &many, &[]).expect("an answer");
    assert_eq!(
        (many.status, many.code().as_str(), many.header("hydra-server")),
        (431, "headers-too-large", Some("s1"))
    );
}

/// A server that loses its patience quickly.
fn impatient(max_connections: usize) -> Hydra {
    let config = Config {
        max_connections,
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(900),
        body_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    Hydra::start_with(|_| {}, config)
}

/// How long it takes until the server closes, and what it said before.
fn until_closed(mut stream: std::net::TcpStream) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    (begun.elapsed(), said)
}

#[test]
fn peers_that_are_silent_or_slow_lose_their_connection_and_nothing_else() {
    let hydra = impatient(1_000);
    let begin = |bytes: &str| {
        let mut stream = hydra.connect().expect("a connection");
        stream.write_all(bytes.as_bytes()).expect("sent");
        stream
    };
    let silent = begin("");
    let half_head = begin("GET /health HTTP/1.1\r\nHost:");
    let half_preface = begin("PRI * HTTP/2.0\r\n");
    let half_body = begin("PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1");
    assert_eq!(hydra.put(KEY, "1").status, 201);
    for (what, stream) in [("silent", silent), ("half a head", half_head), ("half a preface", half_preface)] {
        let (took, said) = until_closed(stream);
        assert!(took < Duration::from_secs(3) && said.is_empty(), "{what}: {took:?} {said:?}");
    }
    let (took, said) = until_closed(half_body);
    let answer = Answer::parse(&said).expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.header("hydra-applied")),
        (400, "invalid-body", Some("no"))
    );
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(hydra.get(KEY).text(), "1");
}

#[test]
fn an_idle_connection_is_kept_longer_than_a_head_may_take() {
    let hydra = impatient(1_000);
    let mut stream = hydra.connect().expect("a connection");
    for _ in 0..2 {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        assert_eq!(Answer::read(&mut stream).status, 200);
        std::thread::sleep(Duration::from_millis(500));
    }
    let (took, _) = until_closed(stream);
    assert!(took < Duration::from_secs(3), "and closed in the end: {took:?}");
}

#[test]
fn connections_beyond_the_limit_wait_for_room() {
    let hydra = impatient(2);
    let hogs = [hydra.connect().expect("a connection"), hydra.connect().expect("a connection")];
    let begun = Instant::now();
    assert_eq!(hydra.get("/health").status, 200);
    assert!(begun.elapsed() > Duration::from_millis(100), "it had to wait");
    drop(hogs);
}

#[test]
fn a_peer_that_never_reads_changes_nothing_for_others() {
    let hydra = impatient(1_000);
    hydra.put(KEY, &json_of(4 << 20));
    let mut deaf = hydra.connect().expect("a connection");
    for _ in 0..8 {
        deaf.write_all(format!("GET {KEY} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).expect("sent");
    }
    let begun = Instant::now();
    for number in 0..50 {
        assert_eq!(hydra.put("/v1/kv/a/b/c/other", &number.to_string()).status / 100, 2);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(deaf);
}
