//! `Hydra-Deadline-Ms`: nothing is begun for a client that has left, and nothing waits for longer than it does.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Answer, Hydra};

const KEY: &str = "/v1/kv/users/profiles/alice/k";
const LOCK: &str = "/v1/swamps/users/profiles/alice/locks/l";
const SHIFT: &str = "/v1/swamps/users/profiles/alice/shift";

fn send(hydra: &Hydra, left: &str, method: &str, path: &str, body: &str) -> (Answer, Duration) {
    let begun = Instant::now();
    let answer = hydra.send(method, path, &[("Hydra-Deadline-Ms", left)], body);
    (answer, begun.elapsed())
}

#[test]
fn what_comes_when_there_is_no_time_left_is_refused_and_nothing_is_done() {
    let hydra = Hydra::start();
    for (method, path, body) in [
        ("PUT", KEY, "1"),
        ("POST", "/v1/kv/users/profiles/alice/n?incr=1", ""),
        ("DELETE", KEY, ""),
        ("GET", KEY, ""),
        ("POST", SHIFT, ""),
        ("POST", LOCK, r#"{"ttl":"10s"}"#),
        ("POST", "/v1/batch", r#"{"ops":[{"op":"put","swamp":"a/b/c","key":"k","value":1}]}"#),
    ] {
        let (late, _) = send(&hydra, "0", method, path, body);
        assert_eq!((late.status, late.code().as_str()), (504, "server-timeout"), "{method} {path}");
        assert_eq!(late.header("hydra-applied"), Some("no"), "{method} {path}");
    }
    assert_eq!(hydra.get("/v1/swamps").json()["swamps"], json!([]), "nothing was created");
    for left in ["1000", " 1000 ", "18446744073709551615"] {
        assert!(send(&hydra, left, "PUT", KEY, "1").0.status < 300, "{left}");
    }
    for left in ["", "-1", "1.5", "soon", "18446744073709551616"] {
        let (refused, _) = send(&hydra, left, "PUT", KEY, "2");
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-header"), "{left:?}");
    }
    assert_eq!(hydra.get(KEY).text(), "1");
    assert_eq!(send(&hydra, "0", "GET", "/health", "").0.status, 200, "service paths do not mind");
}

#[test]
fn nobody_waits_for_longer_than_the_client_does() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put(KEY, "1").status, 201);
    let known = hydra.get(KEY).etag();
    let begun = Instant::now();
    let headers = [("Hydra-Deadline-Ms", "300"), ("If-None-Match", known.as_str())];
    let poll = hydra.send("GET", &format!("{KEY}?wait=30s"), &headers, "");
    assert!(poll.status == 304 && begun.elapsed() < Duration::from_secs(5), "{poll:?} {:?}", begun.elapsed());

    assert_eq!(hydra.post(LOCK, r#"{"ttl":"60s"}"#).status, 201);
    let (held, took) = send(&hydra, "300", "POST", LOCK, r#"{"ttl":"10s","wait":"30s"}"#);
    assert!(held.code() == "lock-held" && took < Duration::from_secs(5), "{held:?} {took:?}");

    assert_eq!(hydra.delete(KEY).status, 204);
    let (empty, took) = send(&hydra, "300", "POST", &format!("{SHIFT}?wait=30s"), "");
    assert!(empty.text() == "{\"treasures\":[]}" && took < Duration::from_secs(5), "{empty:?} {took:?}");
    assert_eq!(hydra.put(KEY, "2").status, 201);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(hydra.get(KEY).text(), "2", "whoever has left takes nothing");
}

#[test]
fn room_in_memory_is_waited_for_no_longer_than_the_client_does() {
    let (hydra, _held) = Hydra::start_without_room();
    for (method, path) in [("PUT", "/v1/kv/a/b/c/l"), ("GET", "/v1/kv/a/b/other/k")] {
        let (refused, took) = send(&hydra, "200", method, path, if method == "PUT" { "1" } else { "" });
        assert!(matches!(refused.status, 503 | 504), "{refused:?}");
        assert!(refused.header("hydra-applied") == Some("no") && took < Duration::from_secs(1), "{took:?}");
    }
}
