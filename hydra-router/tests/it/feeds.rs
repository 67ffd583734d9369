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
    let (here, also, there) = (name_in("0-49", "a/b/c"), name_in("0-49", "x/y/z"), name_in("50-99", "a/b/c"));
    let mut feed = open(&pair, &format!("/v1/events?swamp={here}&swamp={also}"));
    read_until(&mut feed, "event: live");
    pair.put(&treasure_path(&also, "k"), "1");
    read_until(&mut feed, &format!("\"swamp\":\"{also}\""));
    for target in [format!("/v1/events?swamp={here}&swamp={there}"), "/v1/events?pattern=a/b/*".to_owned()] {
        let refused = pair.get(&target);
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-parameter"), "{target}");
    }
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
