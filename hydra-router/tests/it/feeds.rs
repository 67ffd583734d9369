//! Feeds and long polls pass through as they come, and end with the router.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hydra_core::wire::{events_path, treasure_path};

use crate::support::{Pair, name_in};

fn open(pair: &Pair, path: &str) -> TcpStream {
    let mut stream = pair.connect().expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    stream
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut seen, mut byte) = (String::new(), [0]);
    while !seen.contains(end) {
        assert!(stream.read(&mut byte).expect("more") > 0, "the end after {seen:?}");
        seen.push(char::from(byte[0]));
    }
    seen
}

#[test]
fn feeds_pass_piece_by_piece_and_end_with_the_router() {
    let mut pair = Pair::start();
    let name = name_in("0-49", "a/b/c");
    let mut feed = open(&pair, &events_path(&name));
    let head = read_until(&mut feed, "event: live");
    assert!(head.contains("200 OK") && head.contains("hydra-router: "), "{head}");
    for i in 0..3 {
        pair.put(&treasure_path(&name, "k"), &i.to_string());
        read_until(&mut feed, &format!("\"value\":{i},"));
    }
    let begun = Instant::now();
    pair.router.begin_to_stop();
    let mut rest = Vec::new();
    feed.read_to_end(&mut rest).expect("an end");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_feed_of_many_passes_when_one_server_answers_for_all() {
    let pair = Pair::start();
    let (here, also) = (name_in("0-49", "a/b/c"), name_in("0-49", "x/y/z"));
    let mut feed = open(&pair, &format!("/v1/events?swamp={here}&swamp={also}"));
    let head = read_until(&mut feed, "event: live");
    assert!(head.contains("hydra-server: s1"), "{head}");
    pair.put(&treasure_path(&also, "k"), "1");
    read_until(&mut feed, &format!("\"swamp\":\"{also}\""));
}

#[test]
fn feeds_of_several_servers_become_one() {
    let pair = Pair::start();
    let (here, there) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/c"));
    pair.put(&treasure_path(&there, "old"), "\"was there\"");
    let names = format!("swamp={here}&swamp={there}");
    for target in [format!("/v1/events?{names}&snapshot"), "/v1/events?pattern=a/b/*".to_owned()] {
        let mut feed = open(&pair, &target);
        let begin = read_until(&mut feed, "event: live");
        assert!(begin.contains("200 OK") && begin.contains("text/event-stream"), "{begin}");
        assert_eq!(begin.contains("was there"), target.contains("snapshot"), "{begin}");
        for i in 0..3 {
            for name in [&here, &there] {
                pair.put(&treasure_path(name, "k"), &format!("\"{target} {i}\""));
                let told = read_until(&mut feed, &format!("{target} {i}\""));
                read_until(&mut feed, &format!("\"swamp\":\"{name}\""));
                assert!(!told.contains("event: live"), "said once: {told}");
            }
        }
    }
    let mut lines = pair.connect().expect("it listens");
    let head = "HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\n\r\n";
    write!(lines, "GET /v1/events?{names} {head}").expect("sent");
    assert!(read_until(&mut lines, "{\"event\":\"live\"").contains("application/x-ndjson"));
    pair.put(&treasure_path(&there, "k"), "77");
    read_until(&mut lines, "\"value\":77");
    for (target, code) in [
        ("/v1/events", "invalid-parameter"),
        ("/v1/events?pattern=a/b", "invalid-pattern"),
        ("/v1/events?pattern=*/*/*&swamp=a/b/c", "invalid-parameter"),
        ("/v1/events?pattern=*/*/*&since=x", "invalid-parameter"),
        ("/v1/events?pattern=*/*/*&sinc=1.1", "unknown-parameter"),
    ] {
        let refused = pair.get(target);
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{target}");
        assert_eq!(pair.send("HEAD", target, &[], "").status, 400, "{target}");
    }
    assert_eq!(pair.send("HEAD", "/v1/events?pattern=*/*/*", &[], "").status, 200);
}

#[test]
fn a_merged_feed_goes_on_without_a_gap_when_a_server_starts_anew() {
    let mut pair = Pair::start();
    let (here, there) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/c"));
    let mut feed = open(&pair, "/v1/events?pattern=a/b/*");
    read_until(&mut feed, "event: live");
    pair.put(&treasure_path(&there, "k"), "1");
    let told = read_until(&mut feed, "\"value\":1");
    let id = told.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    pair.s2.stop();
    pair.s2.revive(|_| {});
    // What the other one tells is not held up, and the one that came back says that something may be missing.
    pair.put(&treasure_path(&here, "k"), "2");
    let (mut seen_other, mut seen_reset) = (false, false);
    while !(seen_other && seen_reset) {
        let record = read_until(&mut feed, "\n\n");
        seen_other |= record.contains("\"value\":2");
        seen_reset |= record.contains("event: reset");
    }
    pair.put(&treasure_path(&there, "k"), "3");
    read_until(&mut feed, "\"value\":3");
    // A reader that comes back goes on where it was, or is told that it cannot.
    let mut again = pair.connect().expect("it listens");
    let head = format!("HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
    write!(again, "GET /v1/events?pattern=a/b/* {head}").expect("sent");
    assert!(read_until(&mut again, "event: live").contains("event: reset"));
}

#[test]
fn a_long_poll_may_take_longer_than_a_try() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let begun = Instant::now();
    let answer = pair.send("GET", &format!("{path}?wait=6s"), &[("If-None-Match", "\"0\"")], "");
    assert_eq!(answer.status, 304, "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_secs(6));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pair.send("GET", &format!("{path}?wait=20s"), &[("If-None-Match", "\"0\"")], ""));
        std::thread::sleep(Duration::from_millis(200));
        pair.put(&path, "1");
        assert_eq!(waiting.join().expect("an answer").text(), "1");
    });
}
