//! What an operator tells a server at work: to stand aside, what to log, to read its files again.

use tempfile::TempDir;

use crate::auth::{ask, new_token};
use crate::support::{Hydra, Process};

#[test]
fn a_server_that_was_set_aside_says_so_and_can_be_taken_back() {
    let hydra = Hydra::start();
    hydra.put("/v1/kv/a/b/c/k", "1");
    let drained = hydra.post("/v1/admin/drain", "");
    assert_eq!((drained.status, drained.json()["draining"].as_bool()), (200, Some(true)));
    assert_eq!(drained.header("hydra-durable"), Some("synced"));
    let ready = hydra.get("/ready");
    assert_eq!((ready.status, ready.json()["reasons"][0].as_str()), (503, Some("draining")));
    assert_eq!(hydra.get("/v1/kv/a/b/c/k").code(), "draining");
    assert_eq!((hydra.get("/health").status, hydra.get("/v1/probe").json()["writable"].as_bool()), (200, Some(false)));
    assert_eq!(hydra.post("/v1/admin/drain", "").status, 200, "twice is the same as once");
    assert_eq!(hydra.delete("/v1/admin/drain").json()["draining"], false);
    assert_eq!((hydra.get("/v1/kv/a/b/c/k").text().as_str(), hydra.get("/ready").status), ("1", 200));
}

#[test]
fn what_is_logged_changes_while_the_server_runs_and_a_misspelt_filter_changes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let log = dir.path().join("log");
    let mut server = Process::start_with_log(&log, &dir.path().join("data"), &[]);
    let hydra = server.target;
    let filter = || hydra.get("/v1/admin/log").json()["filter"].clone();
    // Written at level info.
    let lines = || {
        assert_eq!(hydra.post("/v1/admin/reload", "").status, 200);
        std::fs::read_to_string(&log).expect("a log").matches("had files read again").count()
    };
    assert_eq!((filter(), lines()), ("warn".into(), 0));
    let changed = hydra.put("/v1/admin/log", r#"{"filter":"hydra_server=debug,warn"}"#);
    assert_eq!((changed.status, &changed.json()["filter"]), (200, &"hydra_server=debug,warn".into()));
    assert_eq!((filter(), lines()), ("hydra_server=debug,warn".into(), 1));
    for (body, code) in [
        (r#"{"filter":"debgu"}"#, "invalid-parameter"),
        (r#"{"filter":"hydra_server=loud"}"#, "invalid-parameter"),
        (r#"{"filter":1}"#, "invalid-body"),
        (r#"{"level":"info"}"#, "invalid-body"),
        ("debug", "invalid-body"),
        ("", "invalid-body"),
    ] {
        let refused = hydra.put("/v1/admin/log", body);
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{body}");
        assert!(refused.text().contains("filter"), "{refused:?}");
    }
    assert_eq!((filter(), lines()), ("hydra_server=debug,warn".into(), 2));
    assert_eq!(hydra.delete("/v1/admin/log").json()["filter"], "warn");
    assert_eq!((filter(), lines()), ("warn".into(), 2));
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(log.contains("an operator changed what is logged"), "{log}");
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
}

#[test]
fn the_log_of_a_server_inside_of_a_program_belongs_to_the_program() {
    let hydra = Hydra::start();
    for method in ["GET", "PUT", "DELETE"] {
        let answer = hydra.send(method, "/v1/admin/log", &[], r#"{"filter":"debug"}"#);
        assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"));
    }
}

#[test]
fn tokens_count_at_once_when_an_operator_has_them_read_and_a_file_that_is_refused_says_why() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let admin = new_token(&file, "admin", "a", "*/*/*");
    let path = file.to_str().expect("UTF-8");
    let server = Process::start(&dir.path().join("data"), &["--tokens", path]);
    let reload = || ask(server.target, Some(&admin), "POST", "/v1/admin/reload", "");
    for round in 0..20 {
        let token = new_token(&file, &format!("reader{round}"), "r", "*/*/*");
        let read = reload();
        assert_eq!((read.status, &read.json()["read"][0]), (200, &path.into()));
        assert_eq!(ask(server.target, Some(&token), "GET", "/v1/kv/a/b/c", "").status, 200, "round {round}");
    }
    std::fs::write(&file, "[{").expect("written");
    let refused = reload();
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-config"));
    assert!(refused.text().contains("tokens.json"), "{refused:?}");
    assert_eq!(reload().status, 400, "what was good stays in force");
}
