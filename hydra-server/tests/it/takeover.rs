//! Two servers and copied files: what the fallback took over is noted, asked for at the owner, and settled.

use std::path::{Path, PathBuf};

use hydra_core::{FolderCount, SwampName};
use hydra_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Hydra, Process, Target};

/// The flags of a server that keeps copies of 50-74 and owns 0-49.
const STANDBY: [&str; 6] = ["--id", "s2", "--folders", "0-49", "--standby", "50-74"];
const FALLBACK: [(&str, &str); 1] = [("Hydra-Fallback-For", "s1")];

/// Names in folder 60.
fn names() -> impl Iterator<Item = SwampName> {
    let base: SwampName = "users/profiles/u".parse().expect("a name");
    let names: Vec<SwampName> = base.in_folders(&"60".parse().expect("a set"), FolderCount::DEFAULT).take(3).collect();
    names.into_iter()
}

fn key_path(key: &str) -> String {
    format!("/v1/kv/{}/{key}", names().next().expect("a name"))
}

/// A server that owns 50-74.
fn owner() -> Hydra {
    let owned = |options: &mut hydra_core::EngineOptions| {
        options.owned = Some("50-74".parse().expect("a set"));
        options.copied = true;
    };
    Hydra::start_with(owned, Config::default())
}

fn take_over(standby: Target, key: &str, value: &str, sync: bool) -> Answer {
    let path = format!("{}{}", key_path(key), if sync { "?sync" } else { "" });
    let answer = standby.send("PUT", &path, &FALLBACK, value);
    assert!(answer.status < 300, "{answer:?}");
    answer
}

fn listed(standby: Target) -> Value {
    let answer = standby.get("/v1/folders/60/takeover");
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["count"].as_u64(), body["files"].as_array().map(|files| files.len() as u64));
    assert_eq!(answer.header("hydra-takeover").unwrap_or("0"), body["count"].to_string());
    body
}

fn missing(owner: Target, files: &Value) -> Vec<Value> {
    let answer = owner.post("/v1/folders/60/holds", &json!({"files": files}).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["missing"].as_array().expect("a list").clone()
}

fn settle(standby: Target, listed: &Value) -> Answer {
    standby.post("/v1/folders/60/takeover/settle", &json!({"version": listed["version"]}).to_string())
}

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.join("00060")];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found
}

/// A union copy: a file that is shorter there grows, nothing shrinks or goes.
fn copy(from: &Path, to: &Path) {
    for chunk in chunks(from) {
        let target = to.join(chunk.strip_prefix(from).expect("below"));
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        if length(&chunk) > length(&target) {
            std::fs::create_dir_all(target.parent().expect("a directory")).expect("created");
            std::fs::copy(&chunk, &target).expect("copied");
        }
    }
}

#[test]
fn a_failover_is_noted_before_it_is_acknowledged_and_settled_when_the_owner_holds_it() {
    let owner = owner();
    let dir = TempDir::new().expect("a directory");
    assert_eq!(owner.put(&key_path("before"), "1").status, 201);
    copy(owner.dir.path(), dir.path());

    let standby = Process::start(dir.path(), &STANDBY);
    let read = standby.target.get(&key_path("k"));
    assert_eq!((read.status, read.header("hydra-takeover")), (404, None), "nothing was taken over yet");
    let written = take_over(standby.target, "k", "1", true);
    assert_eq!(written.header("hydra-takeover"), Some("1"), "also on the first answer");
    standby.kill();

    let standby = Process::start(dir.path(), &STANDBY);
    let read = standby.target.get(&key_path("k"));
    assert_eq!((read.status, read.header("hydra-takeover")), (200, Some("1")), "it survived the kill");
    assert_eq!(standby.target.get(&key_path("other")).header("hydra-takeover"), Some("1"), "errors say so, too");
    take_over(standby.target, "l", "2", true);
    let first = listed(standby.target);
    assert_eq!(first["count"], 2, "one file of each process: {first}");

    let lacking = missing(owner.target, &first["files"]);
    assert_eq!((lacking.len(), &lacking[0]["held"]), (2, &Value::Null));
    copy(dir.path(), owner.dir.path());
    assert_eq!(missing(owner.target, &first["files"]), [Value::Null; 0]);

    take_over(standby.target, "k", "3", false);
    let refused = settle(standby.target, &first);
    assert_eq!((refused.status, refused.code().as_str()), (412, "version-mismatch"), "a write came in between");
    let second = listed(standby.target);
    let lacking = missing(owner.target, &second["files"]);
    assert_eq!(lacking.len(), 1, "the owner has the file, but not all of it: {lacking:?}");
    assert!(lacking[0]["held"].as_u64() < lacking[0]["bytes"].as_u64());

    copy(dir.path(), owner.dir.path());
    assert_eq!(missing(owner.target, &second["files"]), [Value::Null; 0]);
    let settled = settle(standby.target, &second);
    assert_eq!((settled.status, settled.header("hydra-takeover")), (204, None));
    assert_eq!(standby.target.get(&key_path("k")).header("hydra-takeover"), None);
    assert_eq!(listed(standby.target)["count"], 0);
    standby.kill();
    let standby = Process::start(dir.path(), &STANDBY);
    assert_eq!(listed(standby.target)["count"], 0, "settled for good");

    std::thread::sleep(std::time::Duration::from_millis(1_100)); // the owner looks for files of others once a second
    assert_eq!((owner.get(&key_path("k")).text().as_str(), owner.get(&key_path("l")).text().as_str()), ("3", "2"));
}

#[test]
fn a_chunk_that_is_gone_on_with_after_it_was_settled_is_noted_again() {
    let dir = TempDir::new().expect("a directory");
    let standby = Process::start(dir.path(), &STANDBY);
    take_over(standby.target, "k", "1", true);
    assert_eq!(settle(standby.target, &listed(standby.target)).status, 204);
    assert_eq!(take_over(standby.target, "k", "2", true).header("hydra-takeover"), Some("1"));
    standby.kill();
    assert_eq!(chunks(dir.path()).len(), 1, "it is the same chunk");
    let standby = Process::start(dir.path(), &STANDBY);
    assert_eq!(listed(standby.target)["count"], 1);
}

#[test]
fn nothing_is_noted_in_folders_that_are_owned_and_settling_nothing_is_fine() {
    let owner = owner();
    assert_eq!(owner.send("PUT", &format!("{}?sync", key_path("k")), &FALLBACK, "1").header("hydra-takeover"), None);
    let empty = listed(owner.target);
    assert_eq!((&empty["folder"], &empty["count"], &empty["files"]), (&json!(60), &json!(0), &json!([])));
    assert_eq!(settle(owner.target, &empty).status, 204);
    assert_eq!(owner.post("/v1/folders/60/takeover/settle", r#"{"version":"x"}"#).status, 204);
    assert!(!owner.dir.path().join(".hydra/takeover").exists());
}

fn seal(standby: Target, lease_ms: u64) -> Answer {
    standby.post("/v1/folders/60/takeover/seal", &json!({ "leaseMs": lease_ms }).to_string())
}

fn put_for(standby: Target, owner: &str) -> Answer {
    standby.send("PUT", &key_path("k"), &[("Hydra-Fallback-For", owner)], "7")
}

#[test]
fn while_a_folder_returns_its_copy_takes_no_writes_and_then_sends_them_to_the_owner() {
    let dir = TempDir::new().expect("a directory");
    let standby = Process::start(dir.path(), &STANDBY);
    take_over(standby.target, "k", "1", false);
    let sealed = seal(standby.target, 20_000);
    assert_eq!(sealed.status, 200, "{sealed:?}");
    let waits = put_for(standby.target, "s1; tried");
    assert_eq!((waits.status, waits.code().as_str()), (503, "folder-sealed"), "whoever sends it");
    assert_eq!((waits.header("hydra-applied"), waits.header("retry-after")), (Some("no"), Some("1")));
    let delete = standby.target.send("DELETE", &key_path("k"), &FALLBACK, "");
    assert_eq!(delete.status, 503, "a delete is a write");
    assert_eq!(standby.target.get(&key_path("k")).text(), "1", "reads go on");
    assert_eq!(standby.target.get("/v1/folders/60").json()["folders"][0]["sealed"], true);
    let listed = listed(standby.target);
    assert_eq!(listed["count"], 1, "what was only buffered is listed, too");

    let again = seal(standby.target, 1_000);
    assert_eq!((again.status, again.code().as_str()), (409, "seal-mismatch"), "somebody is at it");
    let settle_with = |seal: &Value| {
        let body = json!({"version": listed["version"], "seal": seal}).to_string();
        standby.target.post("/v1/folders/60/takeover/settle", &body)
    };
    assert_eq!(settle_with(&json!("another")).code(), "seal-mismatch");
    assert_eq!(settle_with(&sealed.json()["seal"]).status, 204);

    let returned = put_for(standby.target, "s1");
    assert_eq!((returned.status, returned.code().as_str()), (421, "folder-returned"), "{returned:?}");
    assert_eq!((returned.header("hydra-applied"), returned.header("hydra-takeover")), (Some("no"), None));
    let tried = put_for(standby.target, "s1; tried");
    assert_eq!((tried.status, tried.header("hydra-fallback-for")), (200, None), "{tried:?}");
    assert_eq!(standby.target.send("PUT", &format!("{}?sync", key_path("k")), &[TRIED], "8").status, 200);
    assert_eq!(put_for(standby.target, "s1").status, 200, "who takes over again takes over for all");
}

const TRIED: (&str, &str) = ("Hydra-Fallback-For", "s1; tried");

#[test]
fn a_copy_takes_writes_again_when_nobody_settles_and_rests_before_the_next_time() {
    let dir = TempDir::new().expect("a directory");
    let standby = Process::start(dir.path(), &STANDBY);
    take_over(standby.target, "k", "1", true);
    let begun = std::time::Instant::now();
    let first = seal(standby.target, 300).json();
    assert_eq!(put_for(standby.target, "s1").code(), "folder-sealed");
    while put_for(standby.target, "s1").status != 200 {
        assert!(begun.elapsed().as_secs() < 5, "the seal does not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(begun.elapsed().as_millis() >= 300, "it ended early");
    let soon = seal(standby.target, 300);
    assert_eq!((soon.status, soon.code().as_str()), (409, "seal-mismatch"), "writes must not wait all the time");
    assert!(soon.header("retry-after").is_some());
    let late = json!({"version": listed(standby.target)["version"], "seal": first["seal"]}).to_string();
    assert_eq!(standby.target.post("/v1/folders/60/takeover/settle", &late).code(), "seal-mismatch");
    assert_eq!(listed(standby.target)["count"], 1, "nothing was settled");
    while seal(standby.target, 60_000).status != 200 {
        assert!(begun.elapsed().as_secs() < 8, "there is no next time");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    standby.kill();
    let standby = Process::start(dir.path(), &STANDBY);
    assert_eq!(put_for(standby.target, "s1").status, 200, "a seal does not outlive its process");
    let given_back = seal(standby.target, 60_000).json();
    assert_eq!(put_for(standby.target, "s1").status, 503);
    let body = json!({"seal": given_back["seal"]}).to_string();
    assert_eq!(standby.target.post("/v1/folders/60/takeover/unseal", &body).status, 204);
    assert_eq!(put_for(standby.target, "s1").status, 200);
    assert_eq!(standby.target.post("/v1/folders/60/takeover/unseal", &body).code(), "seal-mismatch", "it is gone");
    for lease in [0, 60_001, u64::MAX] {
        assert_eq!(seal(standby.target, lease).code(), "invalid-body", "{lease}");
    }
}

#[test]
fn a_fence_for_a_move_ends_what_writes_wait_for() {
    let dir = TempDir::new().expect("a directory");
    let standby = Process::start(dir.path(), &STANDBY);
    assert_eq!(seal(standby.target, 300).status, 200);
    let fenced = standby.target.post("/v1/folders/60/fence", r#"{"epoch":8,"to":"s9"}"#);
    assert_eq!(fenced.status, 200, "{fenced:?}");
    std::thread::sleep(std::time::Duration::from_millis(350));
    let refused = put_for(standby.target, "s1");
    assert_eq!((refused.status, refused.code().as_str()), (421, "not-owner"), "the end of one does not open the other");
    assert_eq!(seal(standby.target, 300).code(), "folder-state-mismatch");
}

#[test]
fn a_folder_that_is_not_here_is_421_and_one_that_does_not_exist_400() {
    let owner = owner();
    let verbs = [
        ("GET", "takeover", ""),
        ("POST", "holds", r#"{"files":[]}"#),
        ("POST", "takeover/settle", r#"{"version":""}"#),
        ("POST", "takeover/seal", r#"{"leaseMs":1000}"#),
        ("POST", "takeover/unseal", r#"{"seal":""}"#),
        ("POST", "hold", ""),
        ("DELETE", "hold", ""),
        ("POST", "gc", ""),
        ("POST", "compact", ""),
        ("POST", "verify", ""),
    ];
    for (method, verb, body) in verbs {
        let answer = owner.send(method, &format!("/v1/folders/7/{verb}"), &[], body);
        assert_eq!((answer.status, answer.code().as_str()), (421, "not-owner"), "{method} {verb}");
        assert_eq!((answer.header("cache-control"), answer.header("hydra-folder")), (Some("no-store"), Some("7")));
        let answer = owner.send(method, &format!("/v1/folders/100/{verb}"), &[], body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-parameter"), "{method} {verb}");
        let answer = owner.send(method, &format!("/v1/folders/60/{verb}"), &[("Hydra-Folders", "64")], body);
        assert_eq!(answer.status, 409, "{method} {verb}");
        let answer = owner.send(method, &format!("/v1/folders/60/{verb}?what"), &[], body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "unknown-parameter"), "{method} {verb}");
        let answer = owner.send("PUT", &format!("/v1/folders/60/{verb}"), &[], body);
        assert_eq!(answer.status, 405, "{verb}");
        assert!(answer.header("allow").expect("a list").contains(method), "{method} {verb}");
        let sent_by_a_page = owner.send(method, &format!("/v1/folders/60/{verb}"), &[("Origin", "http://x")], body);
        assert_eq!(sent_by_a_page.status, if method == "GET" { 200 } else { 403 }, "{method} {verb}");
    }
    assert_eq!(owner.data_files(), Vec::<PathBuf>::new());
}

#[test]
fn bodies_that_are_no_question_are_400_and_name_what_is_wrong() {
    let owner = owner();
    let name = names().next().expect("a name").to_string();
    let chunk = "s2-000000000002d-0001.hyl";
    let one = |swamp: &str, file: &str| json!({"files": [{"swamp": swamp, "file": file, "bytes": 1}]}).to_string();
    for (body, named) in [
        (String::new(), "body"),
        ("[]".into(), "body"),
        ("{}".into(), "files"),
        (r#"{"files":[{"swamp":"a/b/c","file":"x"}]}"#.into(), "bytes"),
        (r#"{"files":[],"more":1}"#.into(), "more"),
        (json!({"files": [{"swamp": name, "file": chunk, "bytes": -1}]}).to_string(), "-1"),
        (one("a/b", chunk), "files[0].swamp"),
        (one("../../etc", chunk), "files[0].swamp"),
        (one("a/b/elsewhere", chunk), "files[0].swamp"),
        (one(&name, "../../../../HYDRA"), "files[0].file"),
        (one(&name, "notes.txt"), "files[0].file"),
        (one(&name, &"x".repeat(100_000)), "files[0].file"),
    ] {
        let answer = owner.post("/v1/folders/60/holds", &body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-body"), "{body:.200}");
        assert!(answer.json()["detail"].as_str().expect("text").contains(named), "{named}: {:.300}", answer.text());
    }
    for body in ["", "{}", r#"{"version":1}"#, r#"{"version":"x","force":true}"#] {
        let answer = owner.post("/v1/folders/60/takeover/settle", body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-body"), "{body}");
    }
    let long = format!(r#"{{"version":"{}"}}"#, "x".repeat(64 << 10));
    assert_eq!(owner.post("/v1/folders/60/takeover/settle", &long).code(), "body-too-large");
    let long = vec![b' '; (24 << 20) + 1];
    assert_eq!(owner.send("POST", "/v1/folders/60/holds", &[], &long).code(), "body-too-large");
}

#[test]
fn ten_thousand_files_can_be_asked_about_at_once_and_no_more() {
    let owner = owner();
    let name = names().next().expect("a name").to_string();
    let files = |count: usize| vec![json!({"swamp": name, "file": "s2-000000000002d-0001.hyl", "bytes": 7}); count];
    assert_eq!(missing(owner.target, &files(10_000).into()).len(), 10_000);
    let answer = owner.post("/v1/folders/60/holds", &json!({"files": files(10_001)}).to_string());
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-body"));
    assert!(answer.text().contains("10001") && answer.text().contains("10000"), "{}", answer.text());
}

#[test]
fn a_hold_keeps_superseded_files_until_it_ends() {
    let owner = Hydra::start_with(|options| options.gc_delay = std::time::Duration::ZERO, Config::default());
    let swamp = names().next().expect("a name");
    let held = owner.post("/v1/folders/60/hold?ttl=1h", "");
    assert_eq!((held.status, held.header("hydra-folder")), (200, Some("60")));
    let until: hydra_core::Timestamp = serde_json::from_value(held.json()["until"].clone()).expect("a time");
    let seconds = (until.as_millis() - hydra_core::Timestamp::now().as_millis()) / 1_000;
    assert!((3_590..=3_600).contains(&seconds) && held.json()["folder"] == 60, "{}", held.text());

    for i in 0..3 {
        assert!(owner.put(&format!("/v1/kv/{swamp}/k?sync"), &i.to_string()).status < 300);
    }
    let compacted = owner.post("/v1/folders/60/compact", "").json();
    assert_eq!((&compacted["swamps"], &compacted["filesBefore"]), (&json!(1), &json!(1)), "{compacted}");
    assert!(compacted["bytesAfter"].as_u64() > Some(0) && compacted["filesAfter"].as_u64() > Some(0));
    let nothing = owner.post("/v1/folders/60/gc", "").json();
    assert_eq!((&nothing["filesRemoved"], chunks(owner.dir.path()).len()), (&json!(0), 2), "{nothing}");

    assert_eq!(owner.delete("/v1/folders/60/hold").status, 204);
    assert_eq!(owner.delete("/v1/folders/60/hold").status, 204, "ending it twice is the same as once");
    let removed = owner.post("/v1/folders/0-99/gc", "").json();
    assert_eq!((&removed["swamps"], &removed["filesRemoved"]), (&json!(1), &json!(1)), "{removed}");
    assert!(removed["bytesRemoved"].as_u64() > Some(0));
    assert_eq!((chunks(owner.dir.path()).len(), owner.get(&key_path("k")).text().as_str()), (1, "2"));
}

#[test]
fn a_hold_is_a_second_to_a_day_long() {
    let owner = owner();
    for ttl in ["1s", "24h", "86400", "90m"] {
        assert_eq!(owner.post(&format!("/v1/folders/60/hold?ttl={ttl}"), "").status, 200, "{ttl}");
    }
    for ttl in ["", "0", "999ms", "86401", "25h", "-1", "soon", "99999999999999999999"] {
        let answer = owner.post(&format!("/v1/folders/60/hold?ttl={ttl}"), "");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-parameter"), "{ttl}");
        assert!(answer.json()["detail"].as_str().expect("text").contains("ttl"), "{}", answer.text());
    }
    assert_eq!(owner.post("/v1/folders/60-61/hold", "").code(), "invalid-parameter", "one folder at a time");
}

#[test]
fn verify_tells_of_a_damaged_file_in_its_folder() {
    let owner = owner();
    for swamp in names() {
        assert_eq!(owner.put(&format!("/v1/kv/{swamp}/k?sync"), "1").status, 201);
    }
    let whole = owner.post("/v1/folders/60/verify", "").json();
    assert_eq!((&whole["swamps"], &whole["files"], &whole["findings"]), (&json!(3), &json!(3), &json!([])));
    let chunk = chunks(owner.dir.path()).pop().expect("a chunk");
    let mut bytes = std::fs::read(&chunk).expect("readable");
    bytes[70] ^= 1;
    std::fs::write(&chunk, bytes).expect("written");
    let findings = owner.post("/v1/folders/50-74/verify", "").json()["findings"].clone();
    assert_eq!((findings.as_array().map(Vec::len), &findings[0]["damage"]), (Some(1), &json!(true)), "{findings}");
    assert!(findings[0]["path"].as_str().expect("a path").starts_with("00060/"));
    assert_eq!(owner.post("/v1/folders/61/verify", "").json()["files"], 0);
}
