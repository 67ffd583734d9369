//! The offline commands, through the built program: on whole, damaged, torn, foreign, misplaced, empty,
//! locked and read-only directories, and with arguments that make no sense.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use hydra_core::{Engine, EngineOptions, Policy, SwampName, Value, swamp_dir};
use serde_json::Value as Json;

use crate::support::{Process, program};

const S: &str = "users/profiles/alice";

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Json {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {:?} {:?}", self.out, self.err))
    }

    fn lines(&self) -> Vec<Json> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

/// Runs a command on a data directory.
fn on(data: &Path, arguments: &[&str]) -> Run {
    let Output { status, stdout, stderr } =
        program().arg(arguments[0]).arg("--data").arg(data).args(&arguments[1..]).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn name(text: &str) -> SwampName {
    text.parse().expect("a name")
}

fn engine(data: &Path, id: &str) -> Engine {
    let mut options = EngineOptions::new(data);
    options.server_id = Some(id.into());
    options.default_policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    Engine::open(options).expect("an engine")
}

/// Works on a directory as a server that is then closed.
fn work(data: &Path, id: &str, work: impl FnOnce(&Engine)) {
    let engine = engine(data, id);
    work(&engine);
    engine.close().expect("closed");
}

fn put(engine: &Engine, swamp: &str, key: &str, value: &str) {
    engine.put(&name(swamp), key, Value::json(value).expect("JSON")).expect("put");
}

fn get(data: &Path, swamp: &str, key: &str) -> Option<String> {
    let engine = engine(data, "s1");
    let found = engine.get(&name(swamp), key).expect("readable");
    found.map(|treasure| String::from_utf8(treasure.value.as_bytes().to_vec()).expect("UTF-8"))
}

fn ten(engine: &Engine) {
    (0..10).for_each(|key| put(engine, S, &format!("k{key}"), &format!("\"value {key}\"")));
    engine.increment(&name(S), "n", 5).expect("added");
}

fn home(data: &Path, swamp: &str) -> PathBuf {
    let count = hydra_core::FolderCount::DEFAULT;
    data.join(swamp_dir(hydra_core::folder_of(&name(swamp), count), &name(swamp)))
}

fn chunks(data: &Path, swamp: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(home(data, swamp)).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect();
    found.sort_by_key(|path| (fs::metadata(path).expect("facts").modified().expect("a time"), path.clone()));
    found
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("read");
    change(&mut bytes);
    fs::write(file, bytes).expect("written");
}

/// Spoils three bytes in the middle: more than a flipped bit, so nothing can turn it back.
fn spoil(file: &Path) {
    change(file, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 3].iter_mut().for_each(|byte| *byte ^= 0x5a);
    });
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn verify_tells_every_kind_of_thing_that_is_wrong() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", |e| {
        ten(e);
        put(e, "a/b/moved", "k", "1");
        put(e, "a/b/torn", "k", "1");
        put(e, "a/b/linked", "k", "1");
        put(e, "a/b/lacking", "first", "1");
    });
    work(data, "s1", |e| put(e, "a/b/lacking", "second", "1"));
    assert_eq!(on(data, &["verify"]).code, Some(0));

    spoil(&chunks(data, S)[0]);
    let moved = home(data, "a/b/elsewhere");
    fs::create_dir_all(moved.parent().expect("a parent")).expect("created");
    fs::rename(home(data, "a/b/moved"), &moved).expect("moved");
    let torn = chunks(data, "a/b/torn")[0].clone();
    change(&torn, |bytes| bytes.truncate(bytes.len() - 40));
    fs::write(torn.to_str().expect("UTF-8").replace("-0001.hyl", "-0002.hyl"), "").expect("written");
    let linked = chunks(data, "a/b/linked")[0].clone();
    fs::hard_link(&linked, data.join("backup")).expect("linked");
    let file = linked.file_name().expect("a name").to_str().expect("UTF-8");
    fs::write(linked.with_file_name(format!(".{file}.Xy12ab")), "part").expect("written");
    let conflict = file.replace(".hyl", ".sync-conflict-20261122-091041-76JARDR.hyl");
    fs::write(linked.with_file_name(&conflict), "part").expect("written");
    fs::remove_file(&chunks(data, "a/b/lacking")[0]).expect("removed");
    fs::create_dir_all(data.join("00777/a/b/c")).expect("created");

    let run = on(data, &["verify", "--output", "json"]);
    let report = run.json();
    assert_eq!(run.code, Some(1), "{}", run.err);
    let findings = report["findings"].as_array().expect("findings");
    let of = |kind: &str| findings.iter().filter(|finding| finding["kind"] == kind).collect::<Vec<_>>();
    for (kind, path, damage) in [
        ("damaged", "users/profiles/alice", true),
        ("misplaced", "elsewhere", true),
        ("misplaced", "00777", true),
        ("torn-tail", "a/b/torn", false),
        ("empty", "-0002.hyl", false),
        ("hard-link", "a/b/linked", false),
        ("stray", ".Xy12ab", false),
        ("stray", "sync-conflict", false),
        ("incomplete", "a/b/lacking", true),
    ] {
        let found =
            of(kind).into_iter().find(|finding| finding["path"].as_str().is_some_and(|text| text.contains(path)));
        assert_eq!(found.map(|finding| finding["damage"] == damage), Some(true), "{kind} {path}: {findings:?}");
    }
    assert!(of("damaged")[0]["offset"].as_u64().is_some_and(|offset| offset > 64), "{findings:?}");
    let counts = ["swamps", "complete", "incomplete", "degraded"].map(|count| report[count].as_u64());
    assert_eq!(counts, [Some(5), Some(2), Some(1), Some(2)], "{report}");
    let table = on(data, &["verify"]);
    assert!(table.out.contains("DAMAGE") && table.out.contains("note"), "{}", table.out);
    let lines = on(data, &["verify", "--output", "ndjson"]).lines();
    assert_eq!(lines.last().map(|total| &total["type"]), Some(&"total".into()));
}

#[test]
fn inspect_explains_a_damaged_swamp() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    work(data, "s1", |e| put(e, S, "k0", "\"later\""));
    let later = chunks(data, S)[1].file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    spoil(&chunks(data, S)[0]);
    let swamp = home(data, S);
    let inspect = |path: &Path, flags: &[&str]| {
        let output = program().arg("inspect").args(flags).arg(path).output().expect("it runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let lines =
        |text: &str| -> Vec<Json> { text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect() };
    let all = lines(&inspect(&swamp, &[]));
    let of = |lines: &[Json], kind: &str| lines.iter().filter(|line| line["type"] == kind).cloned().collect::<Vec<_>>();
    assert_eq!((of(&all, "header").len(), of(&all, "file").len()), (2, 2));
    let picture = &of(&all, "swamp")[0];
    assert_eq!((&picture["copy"], &picture["swamp"]), (&"degraded".into(), &S.into()));
    assert!(picture["findings"][0].as_str().is_some_and(|text| text.contains("s1-")), "{picture}");
    let files = of(&all, "file");
    assert!(files.iter().any(|file| file["state"] == "damaged" && file["damagedAt"].is_u64()), "{files:?}");
    assert!(files.iter().all(|file| file["mine"] == true && file["sealed"].is_boolean()), "{files:?}");

    let merged = lines(&inspect(&swamp, &["--merged"]));
    assert!(of(&merged, "record").is_empty());
    let k0 = of(&merged, "key").into_iter().find(|key| key["key"] == "k0").expect("k0");
    assert_eq!((&k0["in"], &k0["value"]), (&serde_json::json!([later]), &"later".into()));

    // A copy of the directory anywhere is as good, without telling whose files they are.
    let elsewhere = temp();
    copy_all(&swamp, elsewhere.path());
    assert!(inspect(elsewhere.path(), &[]).contains("\"copy\":\"degraded\""));
    assert!(inspect(&swamp, &["--output", "table"]).contains("copy=\"degraded\""));
    assert!(serde_json::from_str::<Json>(&inspect(&swamp, &["--output", "json"])).is_ok_and(|json| json.is_array()));
}

#[test]
fn compact_and_gc_do_what_a_server_does() {
    let dir = temp();
    let data = dir.path();
    for round in 0..3 {
        work(data, "s1", |e| put(e, S, "k", &round.to_string()));
    }
    let run = on(data, &["compact", "--output", "json"]);
    assert_eq!((run.code, &run.json()["swamps"]), (Some(0), &1.into()), "{}", run.err);
    assert_eq!(chunks(data, S).len(), 4, "a snapshot beside the logs");
    assert_eq!(on(data, &["gc", "--output", "json"]).json()["filesRemoved"], 0, "the snapshot is young");
    let run = on(data, &["gc", "--gc-delay", "0s", "--folder", "0-99", "--output", "json"]);
    assert_eq!((run.code, &run.json()["filesRemoved"]), (Some(0), &3.into()), "{}", run.err);
    assert_eq!((chunks(data, S).len(), get(data, S, "k").as_deref()), (1, Some("2")));

    // What a crash left at the creation of a file of a process that is over.
    let empty = chunks(data, S)[0].to_str().expect("UTF-8").replace(".hys", ".hyl");
    fs::write(&empty, "").expect("written");
    assert_eq!(on(data, &["gc", "--output", "json"]).json()["filesRemoved"], 0, "a copy may have the rest of it");
    assert_eq!(on(data, &["gc", "--not-copied", "--output", "json"]).json()["filesRemoved"], 1);
    assert_eq!(on(data, &["gc", "--folder", "100"]).code, Some(2));
}

#[test]
fn doctor_says_what_to_do() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    let healthy = on(data, &["doctor", "--output", "json"]);
    assert_eq!(healthy.code, Some(0), "{}", healthy.out);
    let level = |report: &Json, check: &str| {
        let checks = report["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|found| found["check"] == check)
            .map(|found| found["level"].as_str().expect("a level").to_owned())
    };
    assert_eq!(level(&healthy.json(), "lock").as_deref(), Some("ok"));

    let far = hydra_core::Timestamp::now().as_millis() + 48 * 3_600_000;
    fs::write(data.join(".hydra/clock"), format!("{far}\n")).expect("written");
    fs::write(data.join(".hydra/policies.json"), "{").expect("written");
    fs::create_dir_all(data.join(".hydra/takeover")).expect("created");
    fs::write(data.join(".hydra/takeover/00017"), "one\ntwo\n").expect("written");
    fs::rename(home(data, S), home(data, S).with_file_name("bob")).expect("moved");
    change(&data.join("HYDRA"), |bytes| bytes[12] ^= 1);
    let report = on(data, &["doctor", "--output", "json"]);
    let json = report.json();
    assert_eq!(report.code, Some(1));
    for (check, expected) in [("hydra-file", "fail"), ("clock", "fail"), ("policies", "fail"), ("takeover", "warn")] {
        assert_eq!(level(&json, check).as_deref(), Some(expected), "{check}: {json}");
    }
    change(&data.join("HYDRA"), |bytes| bytes[12] ^= 1);
    let json = on(data, &["doctor", "--output", "json"]).json();
    assert_eq!(level(&json, "misplaced").as_deref(), Some("fail"), "{json}");
    let failing = json["checks"].as_array().expect("checks").iter().filter(|check| check["level"] == "fail");
    assert!(failing.into_iter().all(|check| check["advice"].is_string()), "each failure says what to do: {json}");
    let empty = temp();
    assert_eq!(on(empty.path(), &["doctor"]).code, Some(1), "no file HYDRA");
}

#[test]
fn adopt_takes_over_a_server_that_is_gone_and_refuses_one_that_may_live() {
    let (dir, other) = (temp(), temp());
    let (data, theirs) = (dir.path(), other.path());
    work(data, "s1", |e| put(e, S, "mine", "1"));
    work(theirs, "s2", |e| put(e, S, "theirs", "1"));
    copy_all(&home(theirs, S), &home(data, S));

    assert_eq!(on(data, &["adopt", "nobody", "--yes"]).code, Some(3));
    assert_eq!(on(data, &["adopt", "S-2", "--yes"]).code, Some(2));
    let alive = on(data, &["adopt", "s2", "--yes"]);
    assert!(alive.code == Some(4) && alive.err.contains("may be alive"), "{}", alive.err);
    let asked = on(data, &["adopt", "s2", "--force"]);
    assert!(
        asked.code == Some(2) && asked.err.contains("--yes") && asked.err.contains("gone for good"),
        "{}",
        asked.err
    );
    let before = fs::read(data.join(".hydra/incarnations")).expect("read");
    let dry = on(data, &["adopt", "s2", "--dry-run", "--output", "json"]);
    assert_eq!((dry.code, &dry.json()["files"]), (Some(0), &1.into()));
    assert_eq!(fs::read(data.join(".hydra/incarnations")).expect("read"), before, "nothing was changed");

    let taken = on(data, &["adopt", "s2", "--force", "--yes", "--output", "json"]);
    assert_eq!((taken.code, &taken.json()["files"]), (Some(0), &1.into()), "{}", taken.err);
    let again = on(data, &["adopt", "s2", "--yes", "--output", "json"]);
    assert_eq!((again.code, &again.json()["known"]), (Some(0), &1.into()), "it is no more than once");
    on(data, &["compact"]);
    on(data, &["gc", "--gc-delay", "0s"]);
    assert_eq!(chunks(data, S).len(), 1, "its files are collected like own ones");
    assert_eq!((get(data, S, "mine").as_deref(), get(data, S, "theirs").as_deref()), (Some("1"), Some("1")));
}

#[test]
fn adopt_is_the_way_back_when_the_local_files_were_lost() {
    let dir = temp();
    let data = dir.path();
    (0..3).for_each(|round| work(data, "s1", |e| put(e, S, "k", &round.to_string())));
    fs::remove_dir_all(data.join(".hydra")).expect("removed");
    assert_eq!(on(data, &["compact"]).code, Some(2), "nobody knows whose the directory is");
    assert_eq!(on(data, &["compact", "--id", "s1_new"]).code, Some(0));
    on(data, &["gc", "--gc-delay", "0s"]);
    assert_eq!(chunks(data, S).len(), 4, "the old files are those of a stranger");
    let taken = on(data, &["adopt", "s1", "--yes", "--force", "--output", "json"]);
    assert_eq!((taken.code, &taken.json()["files"]), (Some(0), &3.into()), "{}", taken.err);
    on(data, &["gc", "--gc-delay", "0s"]);
    assert_eq!(chunks(data, S).len(), 1);
    let engine = engine(data, "s1_new");
    assert_eq!(engine.get(&name(S), "k").expect("read").map(|found| found.value.len()), Some(1));
}

#[test]
fn repair_turns_a_flipped_bit_back_without_help() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    let file = chunks(data, S)[0].clone();
    let whole = fs::read(&file).expect("read");
    for byte in [20, 66, whole.len() / 2, whole.len() - 90] {
        change(&file, |bytes| bytes[byte] ^= 0x10);
        assert_eq!(on(data, &["verify"]).code, Some(1), "byte {byte}");
        let run = on(data, &["repair", "--output", "json"]);
        assert_eq!((run.code, &run.json()["mended"]), (Some(0), &1.into()), "byte {byte}: {} {}", run.out, run.err);
        assert_eq!(fs::read(&file).expect("read"), whole, "byte {byte}");
        let kept = data.join(run.json()["files"][0]["kept"].as_str().expect("kept"));
        assert_ne!(fs::read(kept).expect("the damaged file is kept"), whole);
    }
    assert_eq!(on(data, &["verify"]).code, Some(0));
}

#[test]
fn repair_takes_whole_files_and_missing_tails_from_a_copy() {
    let (dir, copies) = (temp(), temp());
    let (data, copy) = (dir.path(), copies.path());
    work(data, "s1", |e| {
        ten(e);
        put(e, "a/b/short", "k", "1");
        put(e, "a/b/short", "l", "2");
        put(e, "a/b/lacking", "first", "1");
    });
    work(data, "s1", |e| put(e, "a/b/lacking", "second", "1"));
    copy_all(data, copy);
    let first = chunks(data, S)[0].clone();
    let whole = fs::read(&first).expect("read");
    spoil(&first);
    let short = chunks(data, "a/b/short")[0].clone();
    change(&short, |bytes| bytes.truncate(130));
    fs::remove_file(&chunks(data, "a/b/lacking")[0]).expect("removed");

    let alone = on(data, &["repair"]);
    assert!(alone.code == Some(1) && alone.out.contains("--from"), "{}", alone.out);
    let dry = on(data, &["repair", "--from", copy.to_str().expect("UTF-8"), "--dry-run", "--output", "json"]);
    assert_eq!((dry.code, &dry.json()["mended"]), (Some(0), &2.into()), "{}", dry.out);
    assert_ne!(fs::read(&first).expect("read"), whole, "a dry run changes nothing");
    let run = on(data, &["repair", "--from", copy.to_str().expect("UTF-8"), "--output", "json"]);
    assert_eq!((run.code, &run.json()["mended"]), (Some(0), &2.into()), "{} {}", run.out, run.err);
    assert_eq!(run.json()["files"].as_array().map(Vec::len), Some(3), "{}", run.out);
    assert_eq!(fs::read(&first).expect("read"), whole);
    assert_eq!(on(data, &["verify"]).code, Some(0));
    assert_eq!(get(data, "a/b/short", "l").as_deref(), Some("2"));
    assert_eq!(get(data, "a/b/lacking", "first").as_deref(), Some("1"));
}

#[test]
fn repair_refuses_copies_that_are_worse_or_strangers() {
    let (dir, copies) = (temp(), temp());
    let (data, copy) = (dir.path(), copies.path());
    work(data, "s1", ten);
    copy_all(data, copy);
    spoil(&chunks(data, S)[0]);
    // The copy is whole but ends before what is still readable here.
    change(&chunks(copy, S)[0], |bytes| bytes.truncate(140));
    let from = copy.to_str().expect("UTF-8");
    let run = on(data, &["repair", "--from", from]);
    assert_eq!(run.code, Some(1), "{}", run.out);
    let other = temp();
    let mut options = EngineOptions::new(other.path());
    options.cluster = Some("other".into());
    Engine::open(options).and_then(|engine| engine.close()).expect("made");
    assert_eq!(on(data, &["repair", "--from", other.path().to_str().expect("UTF-8")]).code, Some(2));
    assert_eq!(on(data, &["repair", "--from", data.to_str().expect("UTF-8")]).code, Some(2), "itself");
    assert_eq!(on(data, &["repair", "--from", "/nonexistent"]).code, Some(3));
    let nothing = temp();
    assert_eq!(on(data, &["repair", "--from", nothing.path().to_str().expect("UTF-8")]).code, Some(3));
}

#[test]
fn repair_gives_up_only_what_cannot_be_read_and_says_what_that_is() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    work(data, "s1", |e| {
        put(e, S, "later", "1");
        e.increment(&name(S), "n", 3).expect("added");
    });
    let damaged = chunks(data, S)[0].clone();
    let before = fs::read(&damaged).expect("read");
    spoil(&damaged);
    let run = on(data, &["repair", "--accept-loss", "--output", "json"]);
    let json = run.json();
    assert_eq!((run.code, &json["mended"]), (Some(0), &1.into()), "{} {}", run.out, run.err);
    let loss =
        json["losses"].as_array().expect("losses").iter().find(|loss| loss["to"].as_u64() > Some(0)).expect("a loss");
    let [from, to] = [&loss["from"], &loss["to"]].map(|at| at.as_u64().expect("an offset") as usize);
    let middle = before.len() / 2;
    assert!(from <= middle && middle < to && to - from < 100, "{loss}");
    assert!(loss["after"].is_string() && loss["before"].is_string(), "{loss}");
    assert_eq!(on(data, &["verify"]).code, Some(0));
    let engine = engine(data, "s1");
    let swamp = engine.hydrate(&name(S)).expect("readable");
    assert_eq!(swamp.copy_state(), hydra_core::CopyState::Complete);
    let present = (0..10).filter(|key| swamp.get(&format!("k{key}")).expect("certain").is_some()).count();
    assert_eq!(present, 9, "one frame was damaged");
    let n = swamp.get("n").expect("certain").expect("there");
    assert_eq!(n.value.as_bytes(), b"8", "increments count once");
    drop(swamp);
    engine.close().expect("closed");
    // The whole file comes back, from a copy that was out of reach: everything counts once.
    fs::write(&damaged, &before).expect("written");
    assert_eq!(on(data, &["verify"]).code, Some(0));
    assert_eq!(get(data, S, "n").as_deref(), Some("8"));
    assert!((0..10).all(|key| get(data, S, &format!("k{key}")).is_some()), "and the lost key is back");
}

#[test]
fn repair_keeps_sums_exact_when_a_snapshot_is_damaged() {
    let dir = temp();
    let data = dir.path();
    (0..3).for_each(|_| work(data, "s1", |e| drop(e.increment(&name(S), "n", 5).map(|_| put(e, S, "k", "1")))));
    on(data, &["compact"]);
    on(data, &["gc", "--gc-delay", "0s"]);
    work(data, "s1", |e| drop(e.increment(&name(S), "n", 100).map(|_| ())));
    let snapshot = chunks(data, S).into_iter().find(|path| path.extension().is_some_and(|e| e == "hys")).expect("one");
    // Its end is gone, so it counts for nothing, and nothing else has what it knows.
    change(&snapshot, |bytes| bytes.truncate(bytes.len() - 20));
    assert_eq!(on(data, &["verify"]).code, Some(1));
    let run = on(data, &["repair", "--accept-loss", "--output", "json"]);
    assert_eq!(run.code, Some(0), "{} {}", run.out, run.err);
    assert_eq!((get(data, S, "n").as_deref(), get(data, S, "k").as_deref()), (Some("115"), Some("1")), "{}", run.out);
    assert_eq!(on(data, &["verify"]).code, Some(0));
}

#[test]
fn restore_makes_swamps_what_they_were_and_wins_over_copies() {
    let (dir, snap) = (temp(), temp());
    let (data, snapshot) = (dir.path(), snap.path().join("snap"));
    work(data, "s1", |e| {
        ten(e);
        put(e, "a/b/same", "k", "1");
        e.put(&name(S), "bytes", Value::binary("image/png", b"\x89PNG").expect("bytes")).expect("put");
    });
    copy_all(data, &snapshot);
    work(data, "s1", |e| {
        put(e, S, "k0", "\"ruined\"");
        put(e, S, "new", "1");
        e.delete(&name(S), "k1").expect("deleted");
        e.increment(&name(S), "n", 100).expect("added");
        put(e, "a/b/newer", "k", "1");
    });
    let from = snapshot.to_str().expect("UTF-8");
    let asked = on(data, &["restore", "--from", from]);
    assert!(asked.code == Some(2) && asked.err.contains("--yes"), "{}", asked.err);
    let dry = on(data, &["restore", "--from", from, "--dry-run", "--output", "json"]).json();
    assert_eq!((&dry["written"], &dry["deleted"], &dry["absentSwamps"]), (&3.into(), &1.into(), &1.into()), "{dry}");
    assert_eq!(get(data, S, "k0").as_deref(), Some("\"ruined\""), "a dry run changes nothing");

    let missing = on(data, &["restore", "--from", from, "--only-missing", "--output", "json"]).json();
    assert_eq!((&missing["written"], &missing["deleted"]), (&1.into(), &0.into()), "{missing}");
    assert_eq!(get(data, S, "k0").as_deref(), Some("\"ruined\""));

    let run = on(data, &["restore", "--from", from, "--yes", "--output", "json"]);
    assert_eq!(
        (run.code, &run.json()["written"], &run.json()["deleted"]),
        (Some(0), &2.into(), &1.into()),
        "{}",
        run.err
    );
    let again = on(data, &["restore", "--from", from, "--yes", "--output", "json"]).json();
    assert_eq!((&again["written"], &again["deleted"], &again["changed"]), (&0.into(), &0.into(), &0.into()));
    for (key, value) in [("k0", Some("\"value 0\"")), ("k1", Some("\"value 1\"")), ("n", Some("5")), ("new", None)] {
        assert_eq!(get(data, S, key).as_deref(), value, "{key}");
    }
    assert_eq!(get(data, "a/b/newer", "k").as_deref(), Some("1"), "not there, so left alone");
    let emptied = on(data, &["restore", "--from", from, "--yes", "--delete-absent-swamps", "--output", "json"]).json();
    assert_eq!((&emptied["absentSwamps"], &emptied["deleted"]), (&1.into(), &1.into()));
    assert_eq!(get(data, "a/b/newer", "k"), None);
    assert_eq!(on(data, &["verify"]).code, Some(0));

    let one = on(data, &["restore", "--from", from, "--yes", "--swamp", "a/b/same", "--output", "json"]).json();
    assert_eq!((&one["swamps"], &one["unchanged"]), (&1.into(), &1.into()));
    assert_eq!(on(data, &["restore", "--from", from, "--yes", "--swamp", "no/such/swamp"]).code, Some(3));
}

#[test]
fn restore_skips_what_is_damaged_there_and_refuses_strangers() {
    let (dir, snap) = (temp(), temp());
    let data = dir.path();
    work(data, "s1", |e| put(e, S, "k0", "\"here\""));
    work(snap.path(), "s1", ten);
    spoil(&chunks(snap.path(), S)[0]);
    let from = snap.path().to_str().expect("UTF-8");
    let run = on(data, &["restore", "--from", from, "--yes"]);
    assert!(run.code == Some(1) && run.out.contains("SKIPPED"), "{}", run.out);
    assert_eq!(get(data, S, "k0").as_deref(), Some("\"here\""));
    assert_eq!(on(data, &["restore", "--from", from, "--yes", "--even-incomplete"]).code, Some(0));
    assert_eq!(get(data, S, "k0").as_deref(), Some("\"value 0\""));
    assert_eq!(on(data, &["restore", "--from", data.to_str().expect("UTF-8"), "--yes"]).code, Some(2), "itself");
    assert_eq!(on(data, &["restore", "--from", "/nonexistent", "--yes"]).code, Some(3));
    let other = temp();
    let mut options = EngineOptions::new(other.path());
    options.cluster = Some("other".into());
    options.folders_total = Some(hydra_core::FolderCount::new(7).expect("7"));
    let engine = Engine::open(options).expect("made");
    put(&engine, S, "k0", "\"other\"");
    engine.close().expect("closed");
    let from = other.path().to_str().expect("UTF-8");
    assert_eq!(on(data, &["restore", "--from", from, "--yes"]).code, Some(2));
    assert_eq!(on(data, &["restore", "--from", from, "--yes", "--any-cluster"]).code, Some(0));
    assert_eq!(get(data, S, "k0").as_deref(), Some("\"other\""), "whatever the number of folders there");
}

#[test]
fn commands_that_change_anything_refuse_a_directory_in_use_and_name_the_request() {
    let dir = temp();
    work(dir.path(), "s1", ten);
    let snap = temp();
    copy_all(dir.path(), snap.path());
    let from = snap.path().to_str().expect("UTF-8");
    let server = Process::start(dir.path(), &[]);
    for (command, hint) in [
        (&["compact"][..], "POST /v1/folders/{F}/compact"),
        (&["gc"], "POST /v1/folders/{F}/gc"),
        (&["repair"], "stop the server"),
        (&["adopt", "s1", "--yes"], ""),
        (&["restore", "--from", from, "--yes"], "stop the server"),
    ] {
        let run = on(dir.path(), command);
        let refused = run.code == Some(5) && run.err.contains(hint);
        // Adopting what is known already changes nothing.
        assert!(refused || command[0] == "adopt", "{command:?}: {:?} {}", run.code, run.err);
    }
    for looking in ["verify", "doctor"] {
        let run = on(dir.path(), &[looking]);
        assert_eq!(run.code, Some(0), "{looking}: {} {}", run.out, run.err);
    }
    drop(server);
}

#[test]
fn what_makes_no_sense_is_told_apart_by_exit_codes() {
    let dir = temp();
    let data = dir.path().join("data");
    let missing = dir.path().join("missing");
    work(&data, "s1", ten);
    for command in [&["verify"][..], &["compact"], &["gc"], &["doctor"], &["repair"], &["adopt", "s1", "--yes"]] {
        let run = on(&missing, command);
        assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{command:?}: {}", run.err);
        assert!(!missing.exists(), "{command:?} creates nothing");
        // A directory that is none of ours stays as it is, too.
        let plain = temp();
        let run = on(plain.path(), command);
        assert!(matches!(run.code, Some(1 | 3)), "{command:?}: {:?} {}", run.code, run.err);
        assert_eq!(fs::read_dir(plain.path()).expect("listed").count(), 0, "{command:?} creates nothing");
    }
    for bad in [
        &["verify", "--folder", "9-1"][..],
        &["verify", "--folder", "100"],
        &["verify", "--output", "xml"],
        &["gc", "--gc-delay", "soon"],
        &["adopt"],
        &["adopt", "../../etc"],
        &["adopt", ""],
        &["restore"],
        &["restore", "--from", ".", "--swamp", "a/b"],
        &["restore", "--from", ".", "--only-missing", "--delete-absent-swamps"],
        &["repair", "--from"],
        &["doctor", "--rebase-everything"],
    ] {
        let run = on(&data, bad);
        assert_eq!(run.code, Some(2), "{bad:?}: {} {}", run.out, run.err);
    }
    for command in ["verify", "inspect", "compact", "gc", "doctor", "adopt", "repair", "restore", "resolve"] {
        let help = program().args([command, "--help"]).output().expect("it runs");
        let text = String::from_utf8(help.stdout).expect("UTF-8");
        assert!(help.status.success() && text.contains("--output") && text.len() > 300, "{command}: {text}");
    }
}

#[test]
fn odd_files_in_a_directory_stop_no_command() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    let swamp = home(data, S);
    let made = std::process::Command::new("mkfifo").arg(swamp.join("s1-000000000002d-0001.hyl")).status();
    let fifo = made.is_ok_and(|status| status.success());
    fs::create_dir(swamp.join("s1-000000000002d-0002.hyl")).expect("created");
    std::os::unix::fs::symlink("/nonexistent", swamp.join("link")).expect("linked");
    fs::write(data.join("00001"), "a file in place of a folder").expect("written");
    let run = on(data, &["verify", "--output", "json"]);
    assert!(matches!(run.code, Some(1)), "{} {}", run.out, run.err);
    assert!(!fifo || run.out.contains("regular file"), "{}", run.out);
    assert_eq!(on(data, &["doctor"]).code.map(|code| code <= 1), Some(true));
}

#[test]
fn a_read_only_directory_can_be_looked_at() {
    if std::process::Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n") {
        // Rights do not bind root, so only what needs no write can be tried.
        let dir = temp();
        work(dir.path(), "s1", ten);
        fs::remove_dir_all(dir.path().join(".hydra")).expect("removed");
        assert_eq!(on(dir.path(), &["verify"]).code, Some(0));
        assert!(!dir.path().join(".hydra").exists(), "looking creates nothing");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    let data = dir.path();
    work(data, "s1", ten);
    fs::set_permissions(home(data, S), fs::Permissions::from_mode(0o555)).expect("changed");
    assert_eq!(on(data, &["verify"]).code, Some(0));
    let report = on(data, &["doctor"]);
    assert!(report.code == Some(1) && report.out.contains("rights"), "{}", report.out);
    spoil(&chunks(data, S)[0]);
    assert_eq!(on(data, &["repair", "--accept-loss"]).code, Some(1), "it cannot write, and says so");
    fs::set_permissions(home(data, S), fs::Permissions::from_mode(0o755)).expect("changed");
}

#[test]
fn many_swamps_and_many_files_are_no_trouble() {
    let dir = temp();
    let data = dir.path();
    work(data, "s1", |e| (0..500).for_each(|at| put(e, &format!("many/swamps/s{at}"), "k", "1")));
    let engine_with_files = |round: i32| work(data, "s1", |e| put(e, S, "k", &round.to_string()));
    (0..70).for_each(engine_with_files);
    let report = on(data, &["verify", "--output", "json"]).json();
    assert_eq!((&report["swamps"], &report["complete"]), (&501.into(), &501.into()), "{report}");
    // The engine compacts now and then by itself; nothing goes before the collection delay.
    assert!(report["files"].as_u64() >= Some(570), "{report}");
    assert!(on(data, &["doctor"]).out.contains("many-files"));
    on(data, &["compact"]);
    on(data, &["gc", "--gc-delay", "0s"]);
    assert_eq!(on(data, &["verify", "--output", "json"]).json()["files"], 501);
}
