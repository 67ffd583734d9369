//! Tests with bytes that are not what was written: every bit flipped, every length cut, frames and blocks that are
//! zeroed, doubled or swapped, chunks under a wrong name.
//!
//! Whatever stands in a file, no value is shown that was never written, a swamp that says it is complete is as it
//! was left or lacks only the end of an open log, and what is missing otherwise is reported and never reads as absent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::apply::doubtful_absence;
use crate::collect::collect;
use crate::crash::disk::{Lie, Random, RecordingDisk, Store};
use crate::engine::{CopyState, Engine, EngineOptions};
use crate::folder::folder_of;
use crate::format::scan::scan;
use crate::hydrate::hydrate;
use crate::layout::{ChunkKind, ChunkName};
use crate::name::SwampName;
use crate::policy::{Compression, Policy};
use crate::stamp::Timestamp;
use crate::value::Value;

type Content = BTreeMap<String, String>;

/// A swamp on a disk, and everything it ever held.
struct Bench {
    engine: Engine,
    disk: RecordingDisk,
    name: SwampName,
    store: Store,
    /// After each write.
    states: Vec<Content>,
    _dir: tempfile::TempDir,
}

/// How the files come to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// One log that was never closed.
    Open,
    /// One log with its footer.
    Closed,
    /// A snapshot, and a log that was begun after it.
    Snapshot,
}

fn options(dir: &std::path::Path, compression: Compression) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.server_id = Some("s1".into());
    options.commit_threads = 1;
    options.default_policy = Policy { write_interval: Duration::ZERO, compression, ..Policy::default() };
    options
}

impl Bench {
    /// Writes `count` times to the swamp, each write synced alone.
    fn new(name: &str, shape: Shape, count: usize, value_bytes: usize, compression: Compression) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RecordingDisk::new(dir.path(), Lie::None);
        let engine = Engine::open_on(options(dir.path(), compression), Arc::new(disk.clone())).expect("opened");
        let name: SwampName = name.parse().expect("a name");
        let mut states = vec![Content::new()];
        for n in 0..count {
            states.push(write(&engine, &name, n, value_bytes, states.last().expect("some").clone()));
            if shape == Shape::Snapshot && n == count / 2 {
                assert!(engine.hydrate(&name).expect("readable").compact().wait().expect("compacted"));
                collect(engine.shared(), &name, Duration::ZERO).expect("collected");
            }
        }
        if shape == Shape::Closed {
            engine.close().expect("closed");
        }
        let store = disk.store();
        engine.close().expect("closed");
        let engine = Engine::open_on(options(dir.path(), compression), Arc::new(disk.clone())).expect("opened");
        Bench { engine, disk, name, store, states, _dir: dir }
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.store.files()
    }

    /// Whether a crash could have left the file so: an open log in which nothing that was synced later stands, whole,
    /// behind the first byte that changed.
    fn may_be_torn(&self, file: &str, before: &[u8], after: &[u8]) -> bool {
        let name = ChunkName::parse(file).expect("a chunk");
        let scan = scan(&name, before).expect("readable");
        let first = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let is_intact = |from: usize, to: usize| after.get(from..to) == Some(&before[from..to]);
        let header = scan.frames[0].offset as usize;
        let footer = scan.frames.last().map_or(0, |span| span.end() as usize);
        let is_open = scan.footer.is_none() || !is_intact(footer, before.len());
        let behind = scan.frames.iter().map(|span| (span.offset as usize, span.end() as usize));
        let proven = behind.filter(|(from, _)| *from >= first).any(|(from, to)| is_intact(from, to));
        name.kind == ChunkKind::Log && is_open && first >= header && !proven
    }

    /// Reads the swamp with other bytes in one file, and judges what is found.
    fn judge(&self, file: &str, bytes: &[u8], what: &str, end_may_go: bool) -> CopyState {
        self.disk.load(self.store.with_file(file, bytes));
        let shared = self.engine.shared();
        let state = hydrate(shared, &self.name, folder_of(&self.name, shared.root.folders)).expect("readable").state;
        let text = |key: &String| {
            let treasure = state.treasure(key, Timestamp::now())?;
            Some((key.clone(), String::from_utf8_lossy(treasure.value.as_bytes()).into_owned()))
        };
        let found: Content = state.live_keys().iter().filter_map(text).collect();
        let left = self.states.last().expect("some");
        if state.copy == CopyState::Complete {
            let fine = found == *left || (end_may_go && self.states.contains(&found));
            assert!(fine, "{file} with {what} is complete: {found:?}");
            return state.copy;
        }
        for (key, value) in &found {
            let ever = self.states.iter().any(|state| state.get(key) == Some(value));
            // A sum lacks what stood in the damaged frame.
            assert!(ever || key == "sum", "{file} with {what}: {key} is {value}, which was never written");
        }
        for key in left.keys().filter(|key| !found.contains_key(*key) && !state.knows(key)) {
            assert!(doubtful_absence(&state, key).is_err(), "{file} with {what}: {key} reads as absent");
        }
        assert!(!state.findings.is_empty(), "{file} with {what}: nothing is reported");
        state.copy
    }
}

fn write(engine: &Engine, name: &SwampName, n: usize, value_bytes: usize, mut content: Content) -> Content {
    let key = format!("k{}", n % 7);
    match n % 5 {
        3 if n > 5 => {
            engine.delete(name, &key).expect("deleted");
            content.remove(&key);
        }
        4 => {
            let sum = engine.increment(name, "sum", 1 + n as i64).expect("added");
            content.insert("sum".into(), sum.to_string());
        }
        _ => {
            let text = format!("\"{n}-{}\"", "v".repeat(value_bytes + n % 3));
            engine.put(name, &key, Value::json(&text).expect("JSON")).expect("written");
            content.insert(key, text);
        }
    }
    content
}

fn all_shapes() -> Vec<Bench> {
    let shapes = [Shape::Open, Shape::Closed, Shape::Snapshot];
    let none = shapes.map(|shape| Bench::new("users/profiles/alice", shape, 24, 20, Compression::None));
    let packed = shapes.map(|shape| Bench::new("users/profiles/alice", shape, 12, 600, Compression::Lz4));
    none.into_iter().chain(packed).collect()
}

#[test]
fn every_flipped_bit_is_reported_and_shows_no_wrong_value() {
    for bench in all_shapes() {
        for (file, bytes) in bench.files() {
            let frames = scan(&ChunkName::parse(&file).expect("a chunk"), &bytes).expect("readable").frames;
            let footer = frames.last().map_or(0, |span| span.end() as usize);
            let mut flipped = bytes.clone();
            for bit in 0..bytes.len() * 8 {
                flipped[bit / 8] ^= 1 << (bit % 8);
                let copy = bench.judge(&file, &flipped, &format!("bit {bit} flipped"), false);
                // A log whose footer does not hold is a log without one: nothing is missing.
                assert!(copy == CopyState::Degraded || bit >= footer * 8, "{file} with bit {bit} flipped is {copy:?}");
                flipped[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn every_cut_loses_only_the_end_of_an_open_log_or_is_reported() {
    for bench in all_shapes() {
        let files = bench.files();
        for (file, bytes) in &files {
            for length in 0..bytes.len() {
                // A file with nothing behind it that proves its length: a crash may have left it so.
                let is_last =
                    files.len() == 1 || (file.ends_with("hyl") && files.last().is_some_and(|(f, _)| f == file));
                bench.judge(file, &bytes[..length], &format!("{length} bytes left"), is_last);
            }
        }
    }
}

/// Every way of exchanging the pieces of a file between `cuts`.
fn rearranged(bytes: &[u8], cuts: &[usize]) -> Vec<(String, Vec<u8>)> {
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    let (head, tail) = (&bytes[..cuts[0]], &bytes[cuts[cuts.len() - 1]..]);
    let whole = |pieces: Vec<Vec<u8>>| [head.to_vec(), pieces.concat(), tail.to_vec()].concat();
    let owned = || pieces.iter().map(|piece| piece.to_vec()).collect::<Vec<_>>();
    let mut found = Vec::new();
    for at in 0..pieces.len() {
        let mut zeroed = owned();
        zeroed[at].fill(0);
        found.push((format!("piece {at} zeroed"), whole(zeroed)));
        let mut doubled = bytes.to_vec();
        let to = (cuts[at + 1] + pieces[at].len()).min(bytes.len());
        doubled[cuts[at + 1]..to].copy_from_slice(&pieces[at][..to - cuts[at + 1]]);
        found.push((format!("piece {at} written over what follows"), doubled));
        for other in at + 1..pieces.len() {
            if pieces[at].len() == pieces[other].len() {
                let mut swapped = owned();
                swapped.swap(at, other);
                found.push((format!("pieces {at} and {other} swapped"), whole(swapped)));
            }
        }
    }
    found
}

#[test]
fn frames_that_are_zeroed_doubled_or_swapped_show_no_wrong_value() {
    for bench in all_shapes() {
        for (file, bytes) in bench.files() {
            let name = ChunkName::parse(&file).expect("a chunk");
            let frames = scan(&name, &bytes).expect("readable").frames;
            let ends = frames.last().map(|span| span.end() as usize);
            let cuts: Vec<usize> = frames.iter().map(|span| span.offset as usize).chain(ends).collect();
            for (what, changed) in rearranged(&bytes, &cuts) {
                let end_may_go = bench.may_be_torn(&file, &bytes, &changed);
                bench.judge(&file, &changed, &what, end_may_go);
            }
        }
    }
}

#[test]
fn blocks_that_are_zeroed_doubled_or_swapped_show_no_wrong_value() {
    for shape in [Shape::Open, Shape::Closed, Shape::Snapshot] {
        for block in [512, 4_096] {
            let bench = Bench::new("users/profiles/alice", shape, 60, 1_000 * block / 4_096 + 200, Compression::None);
            for (file, bytes) in bench.files() {
                let cuts: Vec<usize> = (0..bytes.len()).step_by(block).chain([bytes.len()]).collect();
                for (what, changed) in rearranged(&bytes, &cuts) {
                    if changed != bytes {
                        let end_may_go = bench.may_be_torn(&file, &bytes, &changed);
                        bench.judge(&file, &changed, &format!("{block}: {what}"), end_may_go);
                    }
                }
            }
        }
    }
}

#[test]
fn a_chunk_under_a_name_that_is_not_its_own_is_reported() {
    let bench = Bench::new("users/profiles/alice", Shape::Snapshot, 24, 20, Compression::None);
    let other = Bench::new("users/profiles/bob", Shape::Snapshot, 24, 20, Compression::None);
    let mut strangers: HashSet<Vec<u8>> = other.files().into_iter().map(|(_, bytes)| bytes).collect();
    strangers.extend(bench.files().into_iter().map(|(_, bytes)| bytes));
    for (file, bytes) in bench.files() {
        for stranger in strangers.iter().filter(|stranger| **stranger != bytes) {
            let copy = bench.judge(&file, stranger, "the bytes of another chunk", false);
            assert_eq!(copy, CopyState::Degraded);
        }
    }
}

#[test]
fn random_damage_shows_no_wrong_value() {
    let rounds = std::env::var("HYDRA_CORRUPTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(6_000);
    let mut random = Random(7);
    let benches = all_shapes();
    for _ in 0..rounds {
        let bench = &benches[random.below(benches.len())];
        let files = bench.files();
        let (file, bytes) = &files[random.below(files.len())];
        let mut changed = bytes.clone();
        for _ in 0..1 + random.below(3) {
            let from = random.below(changed.len());
            let scale = random.below(8);
            let length = 1 + random.below(1 << scale);
            let to = (from + length).min(changed.len());
            changed[from..to].iter_mut().for_each(|byte| *byte = random.next() as u8);
        }
        let end_may_go = bench.may_be_torn(file, bytes, &changed);
        bench.judge(file, &changed, "random bytes", end_may_go);
    }
}
