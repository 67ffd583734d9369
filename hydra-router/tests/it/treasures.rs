//! `get`, `put`, `delete`, `list`, `watch`, `policy` and `bench` over real servers, as programs.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Node, Run, file, nobody, pair_map, program};

/// Two servers and their map.
struct Ground {
    s1: Node,
    s2: Node,
    dir: TempDir,
    map: PathBuf,
}

impl Ground {
    fn start() -> Ground {
        let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
        let map = pair_map(s1.url(), s2.url()).build().expect("a map");
        let (dir, map) = file(&map.to_toml());
        Ground { s1, s2, dir, map }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(program().args(arguments).arg("--map").arg(&self.map).stdin(Stdio::null()))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        run.out
    }

    fn refused(&self, arguments: &[&str], code: i32, why: &str) {
        let run = self.run(arguments);
        assert!(run.code == Some(code) && run.err.contains(why) && run.out.is_empty(), "{arguments:?}: {run:?}");
    }
}

#[test]
fn treasures_are_put_got_listed_and_deleted_wherever_they_live() {
    let ground = Ground::start();
    for (swamp, server) in [("users/profiles/alice", &ground.s2), ("users/profiles/bob", &ground.s1)] {
        let version = ground.ok(&["put", swamp, "name", r#"{"first": "A"}"#, "--create"]);
        assert_eq!(ground.ok(&["get", swamp, "name"]), "{\"first\": \"A\"}\n", "as it was written");
        assert_eq!(ground.ok(&["get", swamp, "name", "--path", "/first"]), "\"A\"\n");
        let info: Value = serde_json::from_str(&ground.ok(&["get", swamp, "name", "--info"])).expect("JSON");
        assert_eq!((info["version"].as_str(), &info["value"]["first"]), (Some(version.trim()), &"A".into()));
        assert_eq!(server.ask("GET", &format!("/v1/kv/{swamp}/name"), "").status, 200, "{swamp} is there");

        ground.refused(&["put", swamp, "name", "1", "--create"], 4, "exists");
        ground.refused(&["put", swamp, "name", "so"], 2, "quotes of its own");
        let next = ground.ok(&["put", swamp, "name", "2", "--if-version", version.trim()]);
        ground.refused(&["put", swamp, "name", "3", "--if-version", version.trim()], 4, "version");
        ground.refused(&["get", swamp, "other"], 3, "has no treasure \"other\"");

        ground.refused(&["delete", swamp, "name"], 2, "--yes");
        assert!(ground.ok(&["delete", swamp, "name", "--dry-run"]).contains(next.trim()));
        ground.refused(&["delete", swamp, "name", "--yes", "--if-version", version.trim()], 4, "version");
        assert_eq!(ground.ok(&["delete", swamp, "name", "--yes"]), "");
        ground.refused(&["delete", swamp, "name", "--yes"], 3, "has no treasure");
    }
}

#[test]
fn values_come_from_stdin_and_files_and_need_not_be_json() {
    let ground = Ground::start();
    let (swamp, picture) = ("users/pictures/alice", ground.dir.path().join("picture"));
    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(&picture, &bytes).expect("written");
    let from = format!("@{}", picture.display());
    ground.ok(&["put", swamp, "face", &from, "--type", "image/png", "--ttl", "1h", "--sync"]);
    let got = program().args(["get", swamp, "face", "--map"]).arg(&ground.map).output().expect("runs");
    assert_eq!(got.stdout, bytes, "nothing is added");
    let info: Value = serde_json::from_str(&ground.ok(&["get", swamp, "face", "--info"])).expect("JSON");
    assert!(info["expiresAt"].is_string() && info["value"]["contentType"] == "image/png", "{info}");

    let mut put = program();
    put.args(["put", swamp, "note", "-", "--type", "text/plain", "--map"]).arg(&ground.map);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    put.stdin.take().expect("stdin").write_all(b"so it is").expect("written");
    assert!(put.wait_with_output().expect("ends").status.success());
    assert_eq!(ground.ok(&["get", swamp, "note"]), "so it is\n");

    for (key, value) in [("a1", "3"), ("a2", "1"), ("a3", "2")] {
        ground.ok(&["put", swamp, key, value]);
    }
    let listed = ground.ok(&["list", swamp, "--prefix", "a", "--by", "value:", "--desc", "--limit", "2"]);
    let keys: Vec<Value> = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect();
    assert_eq!([&keys[0]["key"], &keys[1]["key"]], ["a1", "a3"]);
    let keys = ground.ok(&["list", swamp, "--keys", "--output", "json"]);
    let keys: Vec<Value> = serde_json::from_str(&keys).expect("JSON");
    assert!(keys.len() == 5 && keys.iter().all(|key| key.get("value").is_none()), "{keys:?}");
    assert_eq!(ground.ok(&["list", "no/such/swamp"]), "");
    ground.refused(&["list", swamp, "--by", "size"], 2, "size");
    ground.refused(&["get", "two/parts", "k"], 2, "two/parts");
}

#[test]
fn a_server_that_is_away_is_exit_code_5() {
    let map = hydra_sdk::ClientMap::builder().folders(100).server("s1", nobody()).route("0-99", "s1", [""; 0]);
    let (_dir, map) = file(&map.build().expect("a map").to_toml());
    for arguments in [&["get", "a/b/c", "k"][..], &["put", "a/b/c", "k", "1"], &["list", "a/b/c"]] {
        let run = Run::of(program().args(arguments).arg("--map").arg(&map));
        assert!(run.code == Some(5) && run.err.contains("refused"), "{arguments:?}: {run:?}");
    }
}

#[test]
fn what_changes_is_printed_as_it_happens() {
    let ground = Ground::start();
    let swamp = "shop/carts/u17";
    ground.ok(&["put", swamp, "k1", "1"]);
    let mut watch = program();
    watch.args(["watch", swamp, "--snapshot", "--prefix", "k", "--map"]).arg(&ground.map).stdout(Stdio::piped());
    let mut watch = watch.spawn().expect("runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout")).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().expect("a line").expect("read")).expect("JSON");
    let mut told = next();
    if told["event"] == "reset" {
        told = next();
    }
    assert_eq!((&told["event"], &told["key"], &told["value"]), (&"put".into(), &"k1".into(), &1.into()));
    assert_eq!(next()["event"], "live");
    ground.ok(&["put", swamp, "other", "1"]);
    ground.ok(&["put", swamp, "k2", "[2]"]);
    let told = next();
    assert_eq!((&told["key"], told["value"].to_string()), (&"k2".into(), "[2]".to_owned()));
    assert!(told["id"].is_string(), "{told}");
    ground.ok(&["delete", swamp, "k1", "--yes"]);
    assert_eq!(next()["event"], "delete");
    watch.kill().expect("killed");
    watch.wait().expect("gone");
}

#[test]
fn policies_go_to_every_server_and_each_says_what_it_did() {
    let mut ground = Ground::start();
    let policies = ground.dir.path().join("policies.toml");
    let path = policies.to_str().expect("UTF-8").to_owned();
    let apply = |ground: &Ground, more: &[&str]| {
        ground.run(&[&["policy", "apply", &path, "--output", "ndjson"], more].concat())
    };
    std::fs::write(&policies, "[\"pay/*/*\"]\nwriteInterval = \"0\"\n[\"logs/*/*\"]\nidleEvict = \"10s\"\n")
        .expect("written");
    let outcomes = |run: &Run| -> Vec<String> {
        let lines = run.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .map(|line| format!("{} {} {}", line["server"], line["pattern"], line["outcome"]).replace('"', ""))
            .collect()
    };
    let all = |word: &str| {
        let each = ["s1", "s2"].into_iter().flat_map(|id| ["logs/*/*", "pay/*/*"].map(move |of| (id, of)));
        let mut all: Vec<String> = each.map(|(id, of)| format!("{id} {of} {word}")).collect();
        all.sort();
        all
    };
    let sorted = |run: &Run| {
        let mut outcomes = outcomes(run);
        outcomes.sort();
        outcomes
    };
    let dry = apply(&ground, &["--dry-run"]);
    assert_eq!((dry.code, sorted(&dry)), (Some(0), all("new")));
    assert_eq!(
        ground.s1.ask("GET", "/v1/policies", "").json()["policies"],
        Value::Array(Vec::new()),
        "nothing was done"
    );
    assert_eq!(sorted(&apply(&ground, &[])), all("new"));
    assert_eq!(sorted(&apply(&ground, &[])), all("unchanged"));
    for server in [&ground.s1, &ground.s2] {
        let known = server.ask("GET", "/v1/policies/pay/*/*", "").json();
        assert_eq!(known["policy"]["writeInterval"], "0s", "{known}");
    }
    let changed = server_with_another(&ground);
    assert!(changed.contains("not on s2") && changed.contains("not on s1"), "{changed}");

    ground.s2.stop();
    std::fs::write(&policies, "[\"pay/*/*\"]\nwriteInterval = \"1s\"\n").expect("written");
    let half = apply(&ground, &[]);
    assert_eq!(
        (half.code, outcomes(&half)),
        (Some(1), vec!["s1 pay/*/* changed".to_owned(), "s2 pay/*/* failed".to_owned()])
    );
    let refuse = |text: &str, why: &str| {
        std::fs::write(&policies, text).expect("written");
        ground.refused(&["policy", "apply", &path], 2, why);
    };
    refuse("", "no policy");
    refuse("[\"pay/*\"]\n", "pay/*");
    refuse("[\"pay/*/*\"]\nwriteIntervall = \"0\"\n", "writeIntervall");
    refuse("[\"pay/*/*\"]\nwriteInterval = \"2h\"\n", "0s to 1h");
}

/// What is printed when two servers have different policies for a pattern.
fn server_with_another(ground: &Ground) -> String {
    let other = r#"{"writeInterval":"5s"}"#;
    let put = ground.s2.ask("PUT", "/v1/policies/pay/*/*", other);
    assert!(put.status < 300, "{put:?}");
    ground.ok(&["policy", "show"])
}

#[test]
fn a_bench_measures_and_leaves_nothing_behind() {
    let ground = Ground::start();
    let flags = ["--for", "300ms", "--callers", "4", "--swamps", "5", "--batch", "10", "--output", "json"];
    let run = ground.run(&[&["bench", "--do", "put,get,increment,batch", "--sync"][..], &flags].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let reports = run.json();
    for (report, what) in reports.as_array().expect("reports").iter().zip(["put", "get", "increment", "batch"]) {
        assert_eq!((&report["what"], &report["failed"]), (&what.into(), &0.into()), "{report}");
        let per_second = report["operationsPerSecond"].as_f64().expect("a number");
        assert!(per_second > 10.0 && report["p50Micros"].as_u64() <= report["maxMicros"].as_u64(), "{report}");
    }
    // Where others hold copies, what is destroyed leaves a mark for them, and nothing else.
    for line in ground.ok(&["scan", "bench/*/*"]).lines() {
        let swamp: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(ground.ok(&["list", swamp["name"].as_str().expect("a name")]), "", "{line}");
    }
    ground.ok(&[&["bench", "--do", "put", "--keep"][..], &flags].concat());
    let kept = ground.ok(&["scan", "bench/*/*"]);
    let kept = kept.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["name"].clone());
    let full = kept.filter(|name| !ground.ok(&["list", name.as_str().expect("a name"), "--limit", "1"]).is_empty());
    assert_eq!(full.count(), 5);
    ground.refused(&["bench", "--for", "0s"], 2, "--for");
}
