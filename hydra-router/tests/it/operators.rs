//! `plan`, `status`, `scan`, `export` and `import` over real servers.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use hydra_core::wire::treasure_path;
use hydra_router::Config;
use hydra_sdk::{ClientMap, FolderSet};
use serde_json::{Value, json};

use crate::support::{Node, Pair, Router, Run, file, impatient, name_in, pair_map, program};

fn ran(arguments: &[&str], map: &Path) -> Run {
    Run::of(program().args(arguments).args(["--map", map.to_str().expect("UTF-8")]))
}

/// The map of a pair as a file.
fn map_of(pair: &Pair) -> (tempfile::TempDir, std::path::PathBuf) {
    file(&pair_map(pair.s1.url(), pair.s2.url()).settings(impatient()).build().expect("a map").to_toml())
}

const TWO: &str = "folders = 100\nepoch = 4\n[servers]\ns1 = { url = \"http://h:1\", zone = \"a\" }\n\
    s2 = { url = \"http://h:2\", zone = \"b\" }\n\
    [[route]]\nfolders = \"0-49\"\nprimary = \"s1\"\nfallbacks = [\"s2\"]\n\
    [[route]]\nfolders = \"50-99\"\nprimary = \"s2\"\nfallbacks = [\"s1\"]\n";

/// How many folders each server is the primary of.
fn primaries(map: &ClientMap) -> Vec<(String, usize)> {
    let count = |id: &str| {
        let routes = map.routes("default").filter(|(_, primary, _)| primary.id == id);
        routes.map(|(folders, ..)| folders.len()).sum()
    };
    map.servers().iter().map(|server| (server.id.clone(), count(&server.id))).collect()
}

#[test]
fn a_plan_for_a_third_server_moves_a_third() {
    let (_dir, map) = file(TWO);
    let run = ran(&["plan", "--add", "s3=http://h:3", "--offline", "--output", "json"], &map);
    assert_eq!(run.code, Some(0), "{run:?}");
    let plan = run.json();
    assert_eq!((&plan["foldersMoved"], &plan["bytesMoved"]), (&json!(33), &Value::Null));
    let moved: usize = plan["moves"]
        .as_array()
        .expect("moves")
        .iter()
        .map(|batch| {
            assert_eq!(batch["to"], "s3");
            batch["folders"].as_str().expect("a set").parse::<FolderSet>().expect("folders").len()
        })
        .sum();
    assert_eq!(moved, 33);
    let planned: ClientMap = plan["map"].as_str().expect("a map").parse().expect("it can be used");
    assert_eq!(planned.epoch(), 5);
    let of =
        |counts: Vec<(&str, usize)>| counts.into_iter().map(|(id, count)| (id.to_owned(), count)).collect::<Vec<_>>();
    assert_eq!(primaries(&planned), of(vec![("s1", 34), ("s2", 33), ("s3", 33)]));

    let table = ran(&["plan", "--add", "s3=http://h:3", "--offline"], &map);
    assert!(table.out.contains("33 folders of pool default would move"), "{}", table.out);
    assert!(table.out.contains("hydra-router move 34-49 --from s1 --to s3"), "{}", table.out);
    let written = ran(&["plan", "--add", "s3=http://h:3", "--offline", "--print-map"], &map);
    let (_dir2, next) = file(&written.out);
    let check = ran(&["map", "check"], &next);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_eq!(std::fs::read_to_string(&map).expect("still there"), TWO, "a plan writes nothing");
    let again = ran(&["plan", "--offline"], &next);
    assert!(again.out.starts_with("nothing has to move"), "{}", again.out);
}

#[test]
fn a_plan_knows_capacities_and_takes_everything_from_a_server_that_goes() {
    let (_dir, map) = file(TWO);
    let run = ran(&["plan", "--add", "s3=http://h:3", "--drain", "s1", "--offline", "--output", "json"], &map);
    let plan = run.json();
    let planned: ClientMap = plan["map"].as_str().expect("a map").parse().expect("it can be used");
    assert!(planned.server("s1").is_none() && planned.folders().get() == 100);
    assert_eq!(primaries(&planned).iter().map(|(_, count)| count).sum::<usize>(), 100);
    for (_, primary, fallbacks) in planned.routes("default") {
        assert!(fallbacks.len() == 1 && fallbacks[0].id != primary.id, "every folder keeps a fallback");
    }
    assert!(plan["copies"].as_array().is_some_and(|copies| !copies.is_empty()), "{plan}");
    let weighed = ran(&["plan", "--capacity", "s1=3", "--offline", "--output", "json"], &map);
    let planned: ClientMap = weighed.json()["map"].as_str().expect("a map").parse().expect("it can be used");
    assert_eq!(primaries(&planned)[0].1, 75);
    for (wrong, why) in [
        (&["plan", "--drain", "s9"][..], "s9"),
        (&["plan", "--drain", "s1,s2"], "no server would be left"),
        (&["plan", "--add", "s3"], "http://"),
        (&["plan", "--add", "s1=http://h:9"], "already"),
        (&["plan", "--capacity", "s1=0"], "above 0"),
        (&["plan", "--pool", "chat"], "chat"),
        (&["plan", "--add", "s3=http://h:1"], "E202"),
    ] {
        let run = ran(&[wrong, &["--offline"]].concat(), &map);
        assert!(run.code == Some(2) && run.err.contains(why), "{wrong:?}: {run:?}");
    }
    let silent = ran(&["plan", "--drain", "s1", "--by", "bytes", "--offline"], &map);
    assert_eq!(silent.code, Some(5), "{silent:?}");
}

#[test]
fn a_plan_by_bytes_asks_the_servers() {
    let (s1, s2) = (Node::start_alone("s1"), Node::start_alone("s2"));
    let map = |routes: &[(&str, &str)]| {
        let builder = ClientMap::builder().folders(100).server("s1", s1.url()).server("s2", s2.url());
        routes.iter().fold(builder, |map, (folders, id)| map.route(*folders, *id, [""; 0])).build().expect("a map")
    };
    let all = map(&[("0-99", "s1")]);
    let router = Router::start(all.clone(), Config::default());
    let heavy = name_in("7", "big/one/x");
    let value = format!("\"{}\"", "x".repeat(200_000));
    assert_eq!(router.put(&format!("{}?sync", treasure_path(&heavy, "k")), &value).status, 201);
    for folder in ["1", "2", "3"] {
        let path = treasure_path(&name_in(folder, "small/one/x"), "k");
        assert_eq!(
            router.put(&format!("{path}?sync"), &value[..20_000].replace('\"', "").len().to_string()).status,
            201
        );
    }
    let (_dir, path) = file(&all.to_toml());
    let url = format!("s2={}", s2.url());
    let plan = ran(&["plan", "--add", &url, "--by", "bytes", "--output", "json"], &path).json();
    let folders: Vec<&str> =
        plan["moves"].as_array().expect("moves").iter().filter_map(|batch| batch["folders"].as_str()).collect();
    assert!(plan["bytesMoved"].as_u64().is_some_and(|bytes| bytes > 0) && !folders.is_empty(), "{plan}");
    let before: u64 = plan["servers"].as_array().expect("s").iter().filter_map(|s| s["bytesBefore"].as_u64()).sum();
    let after: u64 = plan["servers"].as_array().expect("s").iter().filter_map(|s| s["bytesAfter"].as_u64()).sum();
    assert_eq!(before, after, "totals are kept");
}

#[test]
fn status_says_who_is_there_and_what_copies_lack() {
    let mut pair = Pair::start();
    let (_dir, map) = map_of(&pair);
    let path = treasure_path(&name_in("0-49", "users/profiles/alice"), "k");
    assert_eq!(pair.put(&format!("{path}?sync"), "1").status, 201);
    let run = ran(&["status", "--output", "json"], &map);
    assert_eq!(run.code, Some(0), "{run:?}");
    let status = run.json();
    assert_eq!((&status["servers"][0]["reachable"], &status["servers"][1]["owned"]), (&json!(true), &json!("50-99")));
    assert_eq!(status["ok"], false, "a copy lacks a file");
    let folders = status["folders"].as_array().expect("folders");
    assert_eq!(folders.iter().filter_map(|folders| folders["count"].as_u64()).sum::<u64>(), 100, "{status}");
    let lacking: Vec<&Value> = folders.iter().filter(|folders| folders["copies"][0]["lacksFiles"] != 0).collect();
    assert_eq!(lacking.len(), 1, "{status}");
    assert_eq!(
        (&lacking[0]["count"], &lacking[0]["copies"][0]["server"], &lacking[0]["state"]),
        (&json!(1), &json!("s2"), &json!("owned"))
    );
    assert!(lacking[0]["copies"][0]["lacksBytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let table = ran(&["status"], &map);
    assert!(table.out.contains("s2 lacks 1 files") && table.out.contains("cluster hydra, epoch 1"), "{}", table.out);

    // The fallback takes writes in place of the primary.
    pair.s1.stop();
    assert_eq!(pair.put(&format!("{path}?sync"), "2").status, 201);
    let url = format!("http://{}", pair.router.target.0);
    let away = ran(&["status", "--output", "json", "--router", &format!("{url},http://127.0.0.1:1")], &map);
    assert_eq!(away.code, Some(5), "{away:?}");
    let status = away.json();
    // What that process thinks, not this one.
    let (said, silent) = (&status["routers"][0], &status["routers"][1]);
    assert_eq!((&said["router"], &said["breakers"][0]["server"]), (&json!("r1"), &json!("s1")), "{said}");
    assert_ne!(said["breakers"][0]["state"], "up", "{said}");
    assert_eq!((&said["breakers"][1]["state"], &said["stays"][0]["fallback"]), (&json!("up"), &json!("s2")), "{said}");
    assert_eq!(silent["error"], "refused the connection");
    let table = ran(&["status", "--router", &url], &map).out;
    assert!(table.contains("breaker s2           up") && table.contains("of s1 with s2"), "{table}");
    let explained = ran(&["explain", "users/profiles/alice", "--router", &url, "--output", "json"], &map).json();
    assert_eq!(explained["router"]["breakers"].as_array().map(Vec::len), Some(2), "{explained}");
    let here = name_in("0-49", "users/profiles/alice").to_string();
    let explained = ran(&["explain", &here, "--router", &url], &map).out;
    assert!(explained.contains("router    r1 at") && explained.contains("stays   folders"), "{explained}");
    assert_eq!(
        (&status["servers"][0]["reachable"], &status["servers"][0]["error"]),
        (&json!(false), &json!("refused the connection"))
    );
    let taken: Vec<&Value> = status["folders"]
        .as_array()
        .expect("folders")
        .iter()
        .filter(|f| f["copies"][0]["takenOverFiles"] != 0)
        .collect();
    assert_eq!(
        (taken.len(), &taken[0]["state"], &taken[0]["copies"][0]["primaryLacksFiles"]),
        (1, &json!("unreachable"), &json!(1))
    );
    assert!(ran(&["status"], &map).out.contains("took over 1 files, of which the primary lacks 1"), "{away:?}");
}

#[test]
fn a_router_with_yesterdays_map_finds_what_has_moved() {
    let s1 = Node::start_alone("s1");
    let s2 = Node::start_with("s2", |options| options.owned = Some(FolderSet::new()));
    let map = ClientMap::builder().folders(100).server("s1", s1.url()).server("s2", s2.url()).settings(impatient());
    let map = map.route("0-99", "s1", [""; 0]).build().expect("a map");
    let router = Router::start(map.clone(), Config::default());
    let line = |n: usize| format!("{{\"swamp\":\"users/p/u{n}\",\"key\":\"k\",\"value\":{n}}}\n");
    let lines: String = (0..300).map(line).collect();
    let done = |body: &str| -> Value {
        let answer = router.post("/v1/import?sync", body);
        serde_json::from_str::<Value>(answer.text().lines().last().expect("a line")).expect("JSON")["done"].clone()
    };
    assert_eq!(done(&lines)["written"], 300);
    let listed = router.get("/v1/swamps?limit=1000").text();
    let (_dir, path) = file(&map.to_toml());
    let moved = ran(&["move", "50-99", "--from", "s1", "--to", "s2"], &path);
    assert_eq!(moved.code, Some(0), "{moved:?}");

    // The router still has the map of before.
    let again = done(&lines);
    assert_eq!((&again["written"], &again["failed"]), (&json!(300), &json!(0)), "{again}");
    assert_eq!(router.get("/v1/swamps?limit=1000").text(), listed);
    assert_eq!(router.get("/v1/export").text().lines().count(), 300);
    let other = Router::start(map, Config::default());
    let ops: Vec<Value> =
        (0..300).map(|n| json!({"op": "incr", "swamp": format!("users/p/u{n}"), "key": "k", "by": 1000})).collect();
    let answer = other.send("POST", "/v1/batch", &[("Idempotency-Key", "once")], json!({"ops": ops}).to_string());
    assert_eq!((answer.status, &answer.json()["ok"]), (200, &json!(300)), "{answer:?}");
    let repeated = other.send("POST", "/v1/batch", &[("Idempotency-Key", "once")], json!({"ops": ops}).to_string());
    assert_eq!(repeated.json()["ok"], 300);
    let exported = other.get("/v1/export").text();
    let values = exported.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["value"].clone());
    let sum: u64 = values.map(|value| value.as_u64().expect("a number")).sum();
    assert_eq!(sum, (0..300).sum::<u64>() + 300_000, "each counted once");
    let status = ran(&["status", "--output", "json"], &path).json();
    let folders = status["folders"].as_array().expect("folders");
    let gone = folders.iter().find(|folders| folders["state"] == "moved").expect("the map is old");
    let note = gone["notes"][0].as_str().expect("a note");
    assert!(gone["folders"] == "50-99" && note.contains("moved to s2"), "{gone}");
}

#[test]
fn scan_export_and_import_go_over_all_servers() {
    let pair = Pair::start();
    let (dir, map) = map_of(&pair);
    let lines: String =
        (0..90).map(|n| format!("{{\"swamp\":\"users/p{}/u{n}\",\"key\":\"k\",\"value\":{n}}}\n", n % 3)).collect();
    let mut importing = program()
        .args(["import", "-", "--sync", "--map", map.to_str().expect("UTF-8")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    importing.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("sent");
    let imported = Run::from(importing.wait_with_output().expect("it ends"));
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert!(imported.out.contains("90 lines: 90 written (synced), 0 skipped, 0 failed"), "{imported:?}");

    let all = ran(&["scan", "--output", "table"], &map);
    let names: Vec<&str> = all.out.lines().collect();
    assert_eq!(names.len(), 90, "{all:?}");
    let some = ran(&["scan", "users/p1/*", "--info"], &map);
    let listed: Vec<Value> = some.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(listed.len() == 30 && listed.iter().all(|listed| listed["files"] == 1), "{some:?}");
    let mut paged = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let mut arguments = vec!["scan", "--limit", "40", "--output", "json"];
        arguments.extend(cursor.as_deref().map(|cursor| ["--cursor", cursor]).into_iter().flatten());
        let page = ran(&arguments, &map).json();
        let swamps = page["swamps"].as_array().expect("swamps").clone();
        paged.extend(swamps.iter().filter_map(|listed| listed["name"].as_str().map(str::to_owned)));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(paged, names);
    let treasures = ran(&["scan", "users/p2/*", "--treasures"], &map);
    assert_eq!(treasures.out.lines().filter(|line| line.contains("\"value\":")).count(), 30, "{treasures:?}");

    let to = dir.path().join("all.ndjson");
    let exported = ran(&["export", "users/*/*", "--to", to.to_str().expect("UTF-8")], &map);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert_eq!(ran(&["export", "--to", to.to_str().expect("UTF-8")], &map).code, Some(1), "no file is overwritten");
    let other = Pair::start();
    let (_dir, other_map) = map_of(&other);
    std::fs::write(dir.path().join("bad"), [std::fs::read(&to).expect("read"), b"nothing\n".to_vec()].concat())
        .expect("written");
    let again = ran(&["import", dir.path().join("bad").to_str().expect("UTF-8"), "--output", "json"], &other_map);
    assert_eq!(
        (again.code, &again.json()["written"], &again.json()["errors"][0]["line"]),
        (Some(1), &json!(90), &json!(91))
    );
    assert_eq!(ran(&["export"], &other_map).out.lines().count(), 90);
    assert_eq!(ran(&["import", "/nowhere"], &map).code, Some(2));
    assert_eq!(ran(&["scan", "a/b"], &map).code, Some(2));
    drop(other);
    let gone = ran(&["scan"], &other_map);
    assert_eq!(gone.code, Some(5), "{gone:?}");
    let gone = ran(&["export"], &other_map);
    assert!(gone.code == Some(1) && gone.err.contains("not whole"), "{gone:?}");
}
