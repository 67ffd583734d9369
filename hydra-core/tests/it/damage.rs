//! Cut, flipped and missing bytes: what is lost is what was damaged, and it is reported.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hydra_core::{CopyState, ErrorCode};

use crate::common::{chunks, copy_all, get, name, open, put, synced};

const S: &str = "users/profiles/alice";

/// A data directory with one chunk of ten keys, as a killed process leaves it.
fn ten_keys(dir: &Path) -> std::path::PathBuf {
    let source = tempfile::tempdir().unwrap();
    let engine = open(source.path(), "s1", Duration::ZERO);
    (0..10).for_each(|i| put(&engine, S, &format!("k{i}"), &i.to_string()));
    // The identity comes along, so the chunk stays this server's own.
    copy_all(source.path(), dir);
    chunks(dir).remove(0)
}

#[test]
fn a_cut_loses_only_the_records_in_it_and_later_writes_stay() {
    let template = tempfile::tempdir().unwrap();
    let bytes = fs::read(ten_keys(template.path())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for cut in (1..bytes.len() - 120).step_by(7) {
        let copy = dir.path().join(cut.to_string());
        copy_all(template.path(), &copy);
        fs::write(chunks(&copy).remove(0), &bytes[..bytes.len() - cut]).unwrap();
        let engine = synced(&copy);
        let present: Vec<bool> = (0..10).map(|i| get(&engine, S, &format!("k{i}")).is_some()).collect();
        let kept = present.iter().take_while(|there| **there).count();
        assert!(present[kept..].iter().all(|there| !there), "cut {cut}: a prefix stays, not {present:?}");
        put(&engine, S, "new", "1");
        engine.close().unwrap();
        let engine = synced(&copy);
        assert_eq!(get(&engine, S, "new").as_deref(), Some("1"), "cut {cut}");
        assert_eq!((0..10).filter(|i| get(&engine, S, &format!("k{i}")).is_some()).count(), kept);
    }
}

#[test]
fn a_flipped_bit_is_reported_and_never_reads_as_absence() {
    let template = tempfile::tempdir().unwrap();
    let bytes = fs::read(ten_keys(template.path())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for bit in (0..bytes.len() * 8).step_by(53) {
        let copy = dir.path().join(bit.to_string());
        copy_all(template.path(), &copy);
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(chunks(&copy).remove(0), &damaged).unwrap();
        let engine = synced(&copy);
        let swamp = engine.hydrate(&name(S)).unwrap();
        assert_eq!(swamp.copy_state(), CopyState::Degraded, "bit {bit}");
        let mut hidden = 0;
        for i in 0..10 {
            match swamp.get(&format!("k{i}")) {
                Ok(Some(treasure)) => assert_eq!(treasure.value.as_bytes(), i.to_string().as_bytes(), "bit {bit}"),
                Ok(None) => panic!("bit {bit}: k{i} reads as absent"),
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::CorruptSwamp);
                    hidden += 1;
                }
            }
        }
        assert!(hidden <= 1 || bit < 104 * 8, "bit {bit} hides {hidden} keys");
        assert!(!swamp.info().unwrap().unwrap().findings.is_empty());
        put(&engine, S, "k0", "\"again\"");
        engine.delete(&name(S), "k1").unwrap();
        assert_eq!(chunks(&copy).len(), 2, "nothing is removed, nothing is appended to what is damaged");
        drop(swamp);
        engine.close().unwrap();
        assert_eq!(get(&synced(&copy), S, "k0").as_deref(), Some("\"again\""));
    }
}

#[test]
fn a_chunk_that_someone_replaces_or_removes_is_noticed_before_the_answer() {
    for how in ["removed", "replaced", "cut", "linked"] {
        let dir = tempfile::tempdir().unwrap();
        let engine = synced(dir.path());
        (0..5).for_each(|i| put(&engine, S, &format!("k{i}"), "1"));
        engine.increment(&name(S), "n", 5).unwrap();
        let chunk = chunks(dir.path()).remove(0);
        let bytes = fs::read(&chunk).unwrap();
        match how {
            "removed" => fs::remove_file(&chunk).unwrap(),
            "replaced" => {
                fs::remove_file(&chunk).unwrap();
                fs::write(&chunk, &bytes[..150]).unwrap();
            }
            "cut" => fs::OpenOptions::new().write(true).open(&chunk).unwrap().set_len(150).unwrap(),
            _ => fs::hard_link(&chunk, dir.path().join("backup")).unwrap(),
        }
        put(&engine, S, "after", "2");
        assert!(engine.stats().external_interference >= 1, "{how}");
        engine.close().unwrap();
        let engine = synced(dir.path());
        assert!((0..5).all(|i| get(&engine, S, &format!("k{i}")).is_some()), "{how}: nothing acknowledged is lost");
        assert_eq!(
            (get(&engine, S, "n").as_deref(), get(&engine, S, "after").as_deref()),
            (Some("5"), Some("2")),
            "{how}"
        );
        assert_eq!(engine.increment(&name(S), "n", 1).unwrap(), 6);
    }
}

#[test]
fn a_chunk_of_another_swamp_count_or_cluster_is_refused_and_reported() {
    let source = tempfile::tempdir().unwrap();
    let engine = synced(source.path());
    put(&engine, "users/profiles/bob", "k", "1");
    engine.close().unwrap();
    let stranger = chunks(source.path()).remove(0);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s2", Duration::ZERO);
    put(&engine, S, "k", "2");
    let home = chunks(dir.path()).remove(0);
    fs::copy(&stranger, home.with_file_name(stranger.file_name().unwrap())).unwrap();
    engine.close().unwrap();
    let engine = open(dir.path(), "s2", Duration::ZERO);
    let swamp = engine.hydrate(&name(S)).unwrap();
    assert_eq!(swamp.copy_state(), CopyState::Degraded);
    assert!(swamp.info().unwrap().unwrap().findings[0].contains("users/profiles/bob"));
    assert_eq!(get(&engine, S, "k").as_deref(), Some("2"));
}
