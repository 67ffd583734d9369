//! Every limit from both sides, and peers that are slow or silent.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use hydra_core::wire::treasure_path;
use hydra_router::Config;

use crate::support::{Answer, Pair, name_in};

#[test]
fn a_request_target_may_have_8_kib() {
    let pair = Pair::start();
    let target = |length: usize| format!("/v1/kv/a/b/c?prefix={}", "x".repeat(length - "/v1/kv/a/b/c?prefix=".len()));
    assert!(pair.get(&target(8 << 10)).server().is_some(), "it is for the server to answer");
    let beyond = pair.get(&target((8 << 10) + 1));
    assert_eq!((beyond.status, beyond.code().as_str(), beyond.server()), (414, "uri-too-long", None));
}

#[test]
fn a_request_head_may_have_32_kib() {
    let pair = Pair::start();
    let send = |length: usize| pair.send("GET", "/health", &[("X-Filler", &"x".repeat(length))], "");
    assert_eq!(send(30 << 10).status, 200);
    assert_eq!((send(33 << 10).status, send(33 << 10).code().as_str()), (431, "headers-too-large"));
    let monstrous = send(300 << 10);
    assert_eq!((monstrous.status, monstrous.header("hydra-applied")), (431, Some("no")));
}

#[test]
fn bytes_that_are_no_request_are_told_so() {
    let pair = Pair::start();
    for bytes in ["nonsense\r\n\r\n", "GET /\u{1F409} HTTP/9.9\r\n\r\n", "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
    {
        let answer = pair.raw(bytes.as_bytes()).expect("an answer");
        assert_eq!((answer.status, answer.header("hydra-applied")), (400, Some("no")), "{bytes:?}");
        answer.check();
    }
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let refused = pair.send("PUT", &path, &[("Origin", "http://evil.example")], "1");
    assert_eq!((refused.status, refused.code().as_str(), refused.server()), (403, "origin-denied", None));
    assert_eq!(pair.send("GET", &path, &[("Origin", "http://evil.example")], "").status, 404);
}

#[test]
fn a_policy_body_is_bounded() {
    let pair = Pair::start();
    assert_eq!(pair.put("/v1/policies/a/*/*", &" ".repeat((64 << 10) + 1)).code(), "body-too-large");
}

#[test]
fn slow_and_silent_peers_are_closed_and_idle_ones_are_not() {
    let pair = Pair::start_with(Config {
        header_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_secs(20),
        ..Config::default()
    });
    let mut silent = pair.connect().expect("a connection");
    let mut slow = pair.connect().expect("a connection");
    let mut idle = pair.connect().expect("a connection");
    write!(slow, "GET /health HTT").expect("sent");
    write!(idle, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    assert_eq!(Answer::read(&mut idle).expect("an answer").status, 200);
    let begun = Instant::now();
    for stream in [&mut silent, &mut slow] {
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "it was closed");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    std::thread::sleep(Duration::from_millis(600).saturating_sub(begun.elapsed()));
    write!(idle, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    assert_eq!(Answer::read(&mut idle).expect("an answer").status, 200);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let pair = Pair::start_with(Config { max_connections: 1, ..Config::default() });
    let mut first = pair.connect().expect("a connection");
    write!(first, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    assert_eq!(Answer::read(&mut first).expect("an answer").status, 200);
    let mut second = pair.connect().expect("a connection");
    write!(second, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    second.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    assert!(Answer::read(&mut second).is_err(), "it waits");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    assert_eq!(Answer::read(&mut second).expect("an answer").status, 200);
}

#[test]
fn a_router_that_ends_finishes_what_has_begun_and_refuses_the_rest() {
    let mut pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let mut begun = pair.connect().expect("a connection");
    write!(begun, "PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\"").expect("sent");
    // The router has begun to read once a second request is answered behind it.
    assert_eq!(pair.get("/ready").status, 200);
    std::thread::sleep(Duration::from_millis(100));
    pair.router.begin_to_stop();
    let deadline = Instant::now() + Duration::from_secs(5);
    while pair.get("/ready").status == 200 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pair.get("/ready").json()["reasons"][0], "draining");
    let late = pair.put(&path, "2");
    assert_eq!((late.status, late.code().as_str(), late.header("hydra-applied")), (503, "draining", Some("no")));
    write!(begun, "x\"").expect("sent");
    assert_eq!(Answer::read(&mut begun).expect("an answer").status, 201);
    assert!(pair.router.stopped(), "it ends once nothing is left to do");
}
