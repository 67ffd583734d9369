//! Repair, tried on every file of every golden directory: what is given up is what was damaged, sums stay
//! exact, and the original file may come back later.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hydra_core::{CopyState, Engine, ListQuery, SwampName, inspect};

use crate::common::{chunks, copy_all, options};

fn golden() -> Vec<PathBuf> {
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap();
    let mut cases: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

/// In memory where there is such a place: these tests are not about syncs, and there are thousands.
fn quick_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn reader(dir: &Path) -> Engine {
    let mut options = options(dir, "reader", Duration::ZERO);
    options.copied = true;
    crate::common::open_with(options)
}

type Values = Vec<(String, Vec<u8>)>;

/// Whether every swamp is whole, and its values.
fn values(dir: &Path, swamps: &[SwampName]) -> (bool, Vec<Values>) {
    let engine = reader(dir);
    let mut whole = true;
    let read = |name: &SwampName| {
        let swamp = engine.hydrate(name).unwrap();
        whole &= swamp.copy_state() == CopyState::Complete;
        let page = swamp.list(&ListQuery { limit: usize::MAX, ..ListQuery::default() }).unwrap();
        page.treasures.into_iter().map(|t| (t.key, t.value.as_bytes().to_vec())).collect()
    };
    let all = swamps.iter().map(read).collect();
    engine.close().unwrap();
    (whole, all)
}

fn repair(dir: &Path) -> inspect::Repaired {
    let mut options = inspect::RepairOptions::default();
    options.accept_loss = true;
    inspect::repair(dir, &options, &mut |_| ()).unwrap()
}

/// Damages the file, mends the directory, and puts the whole file back.
fn try_out(case: &Path, swamps: &[SwampName], expected: &(bool, Vec<Values>), at: usize, cut_end_only: bool) {
    let dir = quick_directory();
    copy_all(&case.join("data"), dir.path());
    reader(dir.path()).close().unwrap(); // Gives the directory a server, in whose name files can be written.
    let file = chunks(dir.path()).remove(at);
    let whole = fs::read(&file).unwrap();
    if whole.len() < 120 {
        return; // Its creation was cut short; there is nothing to damage.
    }
    let mut damaged = whole.clone();
    if cut_end_only {
        damaged.truncate(whole.len() - 20);
    } else {
        let middle = whole.len() / 2;
        damaged[middle..middle + 3].iter_mut().for_each(|byte| *byte ^= 0x5a);
    }
    fs::write(&file, &damaged).unwrap();
    let what = format!("{} {}", case.display(), file.file_name().unwrap().display());
    let is_log = file.extension().is_some_and(|extension| extension == "hyl");
    let before = (is_log && !cut_end_only).then(|| values(dir.path(), swamps));
    let repaired = repair(dir.path());
    assert!(repaired.unmended.is_empty(), "{what}: {repaired:?}");
    let after = values(dir.path(), swamps);
    assert!(after.0, "{what}: everything is complete");
    assert!(inspect::verify(dir.path(), None, &mut |_| ()).unwrap().is_sound(), "{what}");
    let is_closed = whole.ends_with(b"HYE1");
    if cut_end_only && is_closed {
        assert_eq!(after.1, expected.1, "{what}: only its end was lost, no record");
    }
    for (before, after) in before.iter().flat_map(|(_, before)| before.iter().zip(&after.1)) {
        assert!(before.iter().all(|value| after.contains(value)), "{what}: what was readable is");
    }
    assert_eq!(repair(dir.path()).mended, 0, "{what}: once is enough");
    fs::write(&file, &whole).unwrap();
    assert_eq!(values(dir.path(), swamps), *expected, "{what}: the whole file came back, and everything counts once");
}

#[test]
fn every_file_of_every_golden_directory_can_be_given_up_and_come_back() {
    let mut tried = 0;
    for case in golden() {
        let expected: serde_json::Value =
            serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        let swamps = expected["swamps"].as_object().unwrap();
        if swamps.values().any(|swamp| swamp["copy"] != "complete") {
            continue;
        }
        let swamps: Vec<SwampName> = swamps.keys().map(|text| text.parse().unwrap()).collect();
        let dir = quick_directory();
        copy_all(&case.join("data"), dir.path());
        let expected = values(dir.path(), &swamps);
        for at in 0..chunks(&case.join("data")).len() {
            for cut_end_only in [true, false] {
                try_out(&case, &swamps, &expected, at, cut_end_only);
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried} files");
}

#[test]
fn incomplete_and_degraded_directories_become_complete() {
    for case in golden() {
        let expected: serde_json::Value =
            serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        let swamps = expected["swamps"].as_object().unwrap();
        let swamps: Vec<SwampName> = swamps.keys().map(|text| text.parse().unwrap()).collect();
        let dir = quick_directory();
        copy_all(&case.join("data"), dir.path());
        let before = values(dir.path(), &swamps);
        let repaired = repair(dir.path());
        let after = values(dir.path(), &swamps);
        if case.ends_with("v1-newer") {
            assert!(!after.0 && repaired.files.is_empty(), "what a newer version wrote is left alone: {repaired:?}");
            continue;
        }
        assert_eq!(after, (true, before.1), "{}: {repaired:?}", case.display());
        assert!(before.0 || !repaired.losses.is_empty(), "{}: it says what is lost", case.display());
    }
}

#[test]
fn an_empty_swamp_of_anothers_files_is_neither_removed_nor_worked_on_for_ever() {
    let dir = quick_directory();
    let case = golden().into_iter().find(|case| case.ends_with("v1-batch")).unwrap();
    copy_all(&case.join("data"), dir.path());
    let file = chunks(dir.path()).remove(0);
    // Its only frame is torn, so the swamp is empty, and nothing says how old it is.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    let root = dir.path().to_path_buf();
    let (done, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let engine = reader(&root);
        engine.get(&"users/profiles/alice".parse().unwrap(), "a").unwrap();
        engine.close().unwrap();
        done.send(()).unwrap();
    });
    closed.recv_timeout(Duration::from_secs(30)).expect("the engine comes to an end");
    assert!(file.exists());
}
