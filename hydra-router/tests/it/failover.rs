//! Servers that are down, silent or not the owner.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use hydra_core::wire::treasure_path;
use hydra_router::Config;
use hydra_sdk::ClientMap;

use crate::support::{Node, Pair, Router, impatient, name_in, nobody, pair_map, silent};

#[test]
fn a_fallback_takes_over_when_the_primary_is_gone() {
    let mut pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    assert_eq!(pair.put(&path, "1").server(), Some("s1"));
    pair.s1.stop();
    let put = pair.put(&path, "2");
    assert_eq!((put.status, put.server()), (201, Some("s2")), "{put:?}");
    let got = pair.get(&path);
    assert_eq!((got.text().as_str(), got.header("hydra-served-by")), ("2", Some("fallback")));
    let counter = treasure_path(&name_in("0-49", "a/b/c"), "n");
    assert_eq!(pair.post(&format!("{counter}?incr=5"), "").json()["value"], 5);
    assert_eq!(pair.delete(&path).status, 204);
    let metrics = pair.get("/metrics").text();
    assert!(metrics.contains("hydra_router_server_up{server=\"s1\"} 0\n"), "{metrics}");
    assert!(metrics.contains("hydra_router_fallbacks_total 4\n"), "{metrics}");
    let other = treasure_path(&name_in("50-99", "a/b/c"), "k");
    assert_eq!(pair.put(&other, "1").header("hydra-served-by"), None, "the other half is not affected");
}

#[test]
fn a_long_body_falls_over_while_nothing_of_it_was_sent() {
    let mut pair = Pair::start();
    pair.s1.stop();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let value = format!("\"{}\"", "x".repeat(3 << 20));
    let put = pair.put(&path, &value);
    assert_eq!((put.status, put.server()), (201, Some("s2")), "{put:?}");
    assert_eq!(pair.get(&path).body.len(), value.len());
}

#[test]
fn a_write_with_a_condition_is_not_decided_by_a_copy() {
    let mut pair = Pair::start();
    pair.s1.stop();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let refused = pair.send("PUT", &path, &[("If-None-Match", "*")], "1");
    assert_eq!((refused.status, refused.code().as_str()), (502, "server-unreachable"), "{refused:?}");
    assert_eq!(refused.header("hydra-applied"), Some("no"));
    assert_eq!(pair.get(&path).status, 404);
}

#[test]
fn without_any_server_every_try_is_listed() {
    let mut pair = Pair::start();
    pair.s1.stop();
    pair.s2.stop();
    let name = name_in("0-49", "a/b/c");
    let path = treasure_path(&name, "k");
    let answer = pair.put(&path, "1");
    assert_eq!((answer.status, answer.code().as_str(), answer.server()), (502, "server-unreachable", None));
    assert_eq!(answer.header("hydra-applied"), Some("no"), "nobody can have seen it");
    let problem = answer.json();
    assert_eq!(problem["attempts"][0]["server"], "s1");
    assert_eq!(problem["attempts"][1]["server"], "s2");
    assert_eq!(problem["attempts"][0]["error"], "refused the connection");
    assert_eq!(answer.header("hydra-folder").map(str::to_owned), Some(problem["folder"].to_string()));
    assert_eq!(pair.get("/ready").status, 200, "the router itself is well");
}

#[test]
fn silence_is_a_timeout_and_what_became_of_a_write_is_not_known() {
    let (_listener, url) = silent();
    let map = ClientMap::builder().folders(100).server("s1", url).route("0-99", "s1", [""; 0]);
    let router = Router::start(map.settings(impatient()).build().expect("a map"), Config::default());
    let put = router.put("/v1/kv/a/b/c/k", "1");
    assert_eq!((put.status, put.code().as_str(), put.server()), (504, "server-timeout", None), "{put:?}");
    assert_eq!(put.header("hydra-applied"), Some("unknown"));
    let get = router.send("GET", "/v1/kv/a/b/c/k", &[("Hydra-Deadline-Ms", "300")], "");
    assert_eq!((get.status, get.header("hydra-applied")), (504, Some("no")), "a read does nothing");
}

#[test]
fn a_deadline_of_the_client_is_kept() {
    let (_listener, url) = silent();
    let map = ClientMap::builder().folders(100).server("s1", url).route("0-99", "s1", [""; 0]).build().expect("a map");
    let router = Router::start(map, Config::default());
    let begun = Instant::now();
    let answer = router.send("GET", "/v1/kv/a/b/c/k", &[("Hydra-Deadline-Ms", "200")], "");
    assert_eq!(answer.code(), "server-timeout");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(router.send("GET", "/v1/kv/a/b/c/k", &[("Hydra-Deadline-Ms", "soon")], "").code(), "invalid-header");
}

#[test]
fn a_read_goes_on_to_the_fallback_when_the_primary_is_silent() {
    let (_listener, url) = silent();
    let s2 = Node::start("s2", "50-99", "0-49");
    let map = pair_map(&url, s2.url()).settings(impatient()).build().expect("a map");
    let router = Router::start(map, Config::default());
    let answer = router.get(&treasure_path(&name_in("0-49", "a/b/c"), "k"));
    assert_eq!((answer.status, answer.server()), (404, Some("s2")), "{answer:?}");
}

#[test]
fn a_server_that_is_down_at_the_start_is_used_when_the_map_finds_it() {
    let s2 = Node::start("s2", "50-99", "0-49");
    let router = Router::start(pair_map(&nobody(), s2.url()).build().expect("a map"), Config::default());
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    assert_eq!(router.get(&path).server(), Some("s2"));
    let s1 = Node::start("s1", "0-49", "50-99");
    let next = pair_map(s1.url(), s2.url()).epoch(2).build().expect("a map");
    router.hydra.set_map(next).expect("in force");
    assert_eq!(router.get(&path).server(), Some("s1"));
}

/// A server that remembers the heads of requests for a key, and answers 204 to everything.
fn listening() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (heard, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, heard) = (stream.expect("a connection"), heard.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|count| count > 0) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&std::mem::take(&mut head)).to_lowercase();
                        if text.contains(" /v1/kv/") {
                            // Nobody listens when the test is over.
                            let _ = heard.send(text);
                        }
                        let _ = stream.write_all(b"HTTP/1.1 204 X\r\nHydra-Server: s1\r\n\r\n");
                    }
                }
            });
        }
    });
    (url, heads)
}

#[test]
fn a_server_is_told_how_much_of_the_clients_time_is_left() {
    let (url, heads) = listening();
    let map = ClientMap::builder().folders(100).server("s1", url).route("0-99", "s1", [""; 0]).build().expect("a map");
    let router = Router::start(map, Config::default());
    let left = |head: &str| -> u64 {
        let line = head.lines().find_map(|line| line.strip_prefix("hydra-deadline-ms: ")).expect("a deadline");
        line.trim().parse().expect("a number")
    };
    let told = |headers: &[(&str, &str)], path: &str| {
        router.send("GET", path, headers, "");
        left(&heads.recv_timeout(Duration::from_secs(5)).expect("asked"))
    };
    let near = |told: u64, given: u64| told <= given && told + 900 > given;
    assert!(near(told(&[], "/v1/kv/a/b/c/k"), 5_000), "the usual one of the map");
    assert!(near(told(&[("Hydra-Deadline-Ms", "2000")], "/v1/kv/a/b/c/k"), 2_000));
    assert!(near(told(&[], "/v1/kv/a/b/c/k?wait=20s"), 25_000), "a wait comes on top");
    let whole = told(&[("Hydra-Deadline-Ms", "22000")], "/v1/kv/a/b/c/k?wait=20s");
    assert!(near(whole, 22_000), "but not on top of what the client gives: {whole}");
    let late = router.send("GET", "/v1/kv/a/b/c/k", &[("Hydra-Deadline-Ms", "0")], "");
    assert_eq!((late.status, late.code().as_str()), (504, "server-timeout"));
    assert_eq!(late.header("hydra-applied"), Some("no"));

    // What goes by while the body comes is no time for the server.
    let mut stream = router.connect().expect("connects");
    write!(stream, "PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nHydra-Deadline-Ms: 3000\r\nContent-Length: 2\r\n\r\n1")
        .expect("sent");
    std::thread::sleep(Duration::from_millis(1_200));
    stream.write_all(b"2").expect("sent");
    let told = left(&heads.recv_timeout(Duration::from_secs(5)).expect("asked"));
    assert!(near(told, 1_800), "{told}");
}
