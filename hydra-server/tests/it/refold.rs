//! Another number of folders for a data directory, through the built program: also when it is killed half-way.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use hydra_core::{Engine, EngineOptions, FolderSet, SwampName, Value};
use serde_json::Value as Json;

use crate::support::{Process, program};

fn refold(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().expect("it runs")
}

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("refold").arg("--data").arg(data).args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

fn engine(data: &Path) -> Engine {
    let mut options = EngineOptions::new(data);
    options.server_id = Some("s1".into());
    Engine::open(options).expect("an engine")
}

/// Names of all kinds: plain, encoded, and too long for a directory.
fn names(count: usize) -> Vec<SwampName> {
    let odd = ["a/b/Ünïcode ~ name".to_owned(), "A/.b/-c".to_owned(), format!("a/b/{}", "Ä".repeat(120))];
    let plain = (0..count).map(|n| format!("users/profiles/u{n}"));
    odd.into_iter().chain(plain).map(|name| name.parse().expect("a name")).collect()
}

fn fill(data: &Path, count: usize) {
    let engine = engine(data);
    for name in names(count) {
        engine.put(&name, "name", Value::json(format!("{:?}", name.as_str())).expect("JSON")).expect("stores");
    }
    engine.close().expect("closes");
}

/// Every swamp is found, in its folder of so many, and can be written.
fn check(data: &Path, count: usize, folders: u32) {
    let engine = engine(data);
    assert_eq!(engine.folder_count().get(), folders);
    for name in names(count) {
        let found = engine.get(&name, "name").expect("reads").unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!(found.value.as_bytes(), format!("{:?}", name.as_str()).as_bytes());
        assert!(data.join(hydra_core::swamp_dir(engine.folder_of(&name), &name)).is_dir());
    }
    engine.increment(&names(count)[0], "writes", 1).expect("writes go on");
    engine.close().expect("closes");
}

#[test]
fn every_swamp_is_found_by_another_number_and_by_the_old_one_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path();
    fill(data, 200);
    let dry = json(&refold(data, &["1000", "--dry-run", "--output", "json"]));
    assert_eq!((&dry["from"], &dry["to"], &dry["swamps"]), (&100.into(), &1000.into(), &203.into()));
    let renamed = dry["renamed"].as_u64().expect("a number");
    assert!((150..203).contains(&renamed), "nine in ten go elsewhere: {dry}");
    check(data, 200, 100);
    let unasked = refold(data, &["1000"]);
    assert!(unasked.status.code() == Some(2) && text(&unasked.stderr).contains("--yes"), "{unasked:?}");
    for folders in ["1000", "7", "65536", "100"] {
        let done = refold(data, &[folders, "--yes", "--output", "json"]);
        assert_eq!(json(&done)["swamps"], 203, "{done:?}");
        check(data, 200, folders.parse().expect("a number"));
    }
    let left: Vec<_> = fs::read_dir(data).expect("lists").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.len() <= 102, "folders that are empty are gone: {left:?}");
    assert_eq!(json(&refold(data, &["100", "--yes", "--output", "json"]))["renamed"], 0, "nothing is left to do");
}

#[test]
fn a_run_that_is_killed_goes_on_or_turns_back_and_no_server_starts_meanwhile() {
    const SWAMPS: usize = 2_000;
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path();
    fill(data, SWAMPS);
    let journal = data.join(".hydra/refold.json");
    let (mut interrupted, mut wanted) = (0, 1000);
    for round in 0..32 {
        let mut child = command(data, &[&wanted.to_string(), "--yes"]).spawn().expect("it starts");
        while !journal.exists() && child.try_wait().expect("it can be waited for").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(round % 12));
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
        if !journal.exists() {
            wanted = if wanted == 1000 { 100 } else { 1000 };
            continue;
        }
        interrupted += 1;
        let refused = Engine::open(EngineOptions::new(data)).expect_err("half of the swamps are elsewhere");
        assert!(refused.to_string().contains("another number of folders"), "{refused}");
        let third = refold(data, &["77", "--yes"]);
        assert!(text(&third.stderr).contains("on its way"), "{third:?}");
        // Now and then it turns back.
        if round % 4 == 0 {
            wanted = if wanted == 1000 { 100 } else { 1000 };
        }
    }
    assert!(interrupted >= 3, "only {interrupted} runs were cut short");
    let done = refold(data, &[&wanted.to_string(), "--yes"]);
    assert!(done.status.success() && !journal.exists(), "{done:?}");
    check(data, SWAMPS, wanted);
}

#[test]
fn what_speaks_of_folders_goes_along_or_stops_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path();
    fill(data, 20);
    {
        let engine = engine(data);
        engine.mark_copied(&"3-4".parse::<FolderSet>().expect("folders")).expect("noted");
        engine
            .hold("5".parse::<FolderSet>().expect("a folder").last().expect("one"), Duration::from_secs(600))
            .expect("held");
        engine.close().expect("closes");
    }
    let held = refold(data, &["200", "--yes"]);
    assert!(!held.status.success() && text(&held.stderr).contains("held for a backup"), "{held:?}");
    {
        let engine = engine(data);
        assert!(engine.release("5".parse::<FolderSet>().expect("a folder").last().expect("one")).expect("released"));
        engine.close().expect("closes");
    }
    fs::write(data.join("00003/notes.txt"), "mine")
        .or_else(|_| {
            fs::create_dir_all(data.join("00003"))?;
            fs::write(data.join("00003/notes.txt"), "mine")
        })
        .expect("written");
    let done = json(&refold(data, &["200", "--yes", "--output", "json"]));
    assert_eq!(done["leftAlone"], serde_json::json!(["00003/notes.txt"]));
    assert_eq!(fs::read_to_string(data.join("00003/notes.txt")).expect("read"), "mine");
    let engine = engine(data);
    let copied: Vec<u32> = engine
        .folder_count()
        .all()
        .iter()
        .filter(|folder| engine.is_copied(*folder))
        .map(|folder| folder.get())
        .collect();
    assert_eq!(copied, [3, 4, 103, 104]);
    engine.close().expect("closes");
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 5);
    let server = Process::start(dir.path(), &[]);
    let refused = refold(dir.path(), &["1000", "--yes"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("stop the server"), "{refused:?}");
    server.kill();
    assert_eq!(refold(dir.path(), &["0", "--yes"]).status.code(), Some(2), "no folders are too few");
    assert!(!refold(&dir.path().join("none"), &["10", "--yes"]).status.success());
    check(dir.path(), 5, 100);
}
