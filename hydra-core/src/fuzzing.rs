//! Every parser of this crate behind one function, for fuzzing. No part of the public interface.
//!
//! `cargo test -p hydra-core --lib fuzzing` feeds each of them what is known to be interesting and changes that at
//! random for a moment (`HYDRA_FUZZ_SECONDS`, for each target); the package `fuzz` does so guided by coverage.

use crate::folder::{FolderCount, FolderSet};
use crate::format::frame::{self, MAGIC_RECORDS};
use crate::format::header::{Header, example};
use crate::format::scan::scan;
use crate::layout::{ChunkKind, ChunkName};
use crate::merge::{Chunk, merge};
use crate::name::{SwampName, check_key};
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::state::State;
use crate::value::Value;

/// What can be fuzzed.
pub const TARGETS: [&str; 6] = ["chunk", "frames", "header", "texts", "json", "paths"];

/// Gives bytes to a parser. Whatever they are, it must neither panic nor take much memory; what is read and written
/// again must read the same.
pub fn run(target: &str, data: &[u8]) {
    match target {
        "chunk" => chunk(data),
        "frames" => frames(data),
        "header" => header(data),
        "texts" => texts(data),
        "json" => json(data),
        "paths" => paths(data),
        other => panic!("there is no target {other:?}, only {TARGETS:?}"),
    }
}

fn name_of(header: &Header) -> ChunkName {
    ChunkName { incarnation: header.incarnation, seq: header.seq, kind: header.kind, server: "s1".to_owned() }
}

/// A whole file under the name its header has.
fn chunk(data: &[u8]) {
    let Ok((header, _)) = Header::decode(data) else { return };
    let name = name_of(&header);
    let Ok(scanned) = scan(&name, data) else { return };
    assert!(scanned.frames.iter().all(|span| span.end() as usize <= data.len()));
    if let Some(chunk) = Chunk::new(&name, &scanned, data) {
        let state = State::of_merged(merge(&[chunk]), crate::engine::CopyState::Complete, Vec::new());
        state.live_keys().iter().for_each(|key| drop(state.treasure(key, crate::stamp::Timestamp::now())));
    }
}

/// Payloads in frames whose checksums hold, so that what is behind the checksums is reached: a length of two bytes,
/// the flags, the payload, and so on.
fn frames(data: &[u8]) {
    let Some((kind, mut rest)) = data.split_first() else { return };
    let header = example(if kind % 2 == 0 { ChunkKind::Log } else { ChunkKind::Snap });
    let salt = frame::salt(header.incarnation, header.seq);
    let mut file = Vec::new();
    header.encode(&mut file);
    while let [low, high, flags, payload @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(payload.len());
        let (payload, behind) = payload.split_at(length);
        frame::place(MAGIC_RECORDS, *flags, payload, salt, 0, &mut file);
        rest = behind;
    }
    chunk(&file);
}

fn header(data: &[u8]) {
    if let Ok((header, length)) = Header::decode(data) {
        let mut again = Vec::new();
        header.encode(&mut again);
        assert_eq!(Header::decode(&again), Ok((header, again.len())));
        assert!(length <= data.len());
    }
}

fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<SwampName>() {
        assert_eq!(name.as_str(), text);
        let encoded = name.parts().map(crate::layout::encode_part);
        assert!(encoded.iter().all(|part| part.len() <= 200 && part.is_ascii()));
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        assert_eq!(pattern.to_string().parse::<Pattern>().ok(), Some(pattern));
    }
    if let Ok(duration) = crate::duration::parse_duration(text) {
        let printed = crate::duration::format_duration(duration);
        // Printed are whole milliseconds.
        let again = crate::duration::parse_duration(&printed).map(|again| again.as_millis());
        assert_eq!(again.ok(), Some(duration.as_millis()));
    }
    if let Some(name) = ChunkName::parse(text) {
        assert_eq!(name.file_name(), text);
    }
    if let Ok(set) = text.parse::<FolderSet>() {
        assert_eq!(set.to_string().parse::<FolderSet>().ok(), Some(set));
    }
    drop((text.parse::<crate::stamp::Timestamp>(), text.parse::<crate::stamp::Version>(), text.parse::<FolderCount>()));
    drop(check_key(text));
}

fn json(data: &[u8]) {
    // What is taken for JSON is JSON, and what is refused is none.
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    if let Ok(range) = crate::json::check(data) {
        assert!(is_json && range.end <= data.len());
    }
    drop(serde_json::from_slice::<Policy>(data).map(|policy| policy.check()));
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Value::json(text));
    }
}

fn paths(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(crate::wire::decode_segment(text));
    if let Ok((name, Some(key))) = crate::wire::split_name(text)
        && check_key(key).is_ok()
    {
        let path = crate::wire::treasure_path(&name, key);
        assert!(path.is_ascii(), "{path}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::crash::disk::Random;

    const TEXTS: [&str; 12] = [
        "users/profiles/alice",
        "users/prof*/*",
        "1h 30m",
        "250ms",
        "s1-000000000002d-0001.hyl",
        "0-49,51,60-99",
        "2026-11-22T09:10:41.123Z",
        "\"01JD0000000000000\"",
        "{\"writeInterval\":\"0s\",\"chunkBytes\":65536}",
        "[1,2.5e-3,\"\\u00e9\",null,{\"a\":{}}]",
        "users/profiles/alice/a%2Fb%20c",
        "%41%zz",
    ];

    /// What each target begins with.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let mut file = Vec::new();
        example(ChunkKind::Log).encode(&mut file);
        let mut seeds: Vec<Vec<u8>> = TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect();
        if matches!(target, "chunk" | "header") {
            seeds.push(file);
            seeds.extend(golden());
        }
        if target == "frames" {
            seeds.extend(golden().iter().filter_map(|file| payloads(file)));
        }
        seeds
    }

    /// The chunks that earlier versions wrote.
    fn golden() -> Vec<Vec<u8>> {
        let mut pending = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))];
        let mut found = Vec::new();
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.extension().is_some_and(|e| e == "hyl" || e == "hys") {
                    found.push(std::fs::read(path).expect("read"));
                }
            }
        }
        found
    }

    /// The payloads of a chunk, as `frames` takes them.
    fn payloads(file: &[u8]) -> Option<Vec<u8>> {
        let (header, _) = Header::decode(file).ok()?;
        let scanned = scan(&name_of(&header), file).ok()?;
        let mut data = vec![u8::from(header.kind == ChunkKind::Snap)];
        for span in &scanned.frames {
            let frame = &file[span.offset as usize..span.end() as usize];
            let payload = &frame[7.min(frame.len())..];
            data.extend_from_slice(&u16::try_from(payload.len()).ok()?.to_le_bytes());
            data.push(frame[1]);
            data.extend_from_slice(payload);
        }
        Some(data)
    }

    fn change(data: &mut Vec<u8>, random: &mut Random) {
        const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'%'];
        for _ in 0..1 + random.below(4) {
            let at = random.below(data.len() + 1);
            match random.below(6) {
                0 if at < data.len() => data[at] ^= 1 << random.below(8),
                1 if at < data.len() => data[at] = BYTES[random.below(BYTES.len())],
                2 => data.insert(at, random.next() as u8),
                3 if at < data.len() => drop(data.remove(at)),
                4 => data.truncate(at),
                _ => {
                    let to = at + random.below(data.len() - at + 1);
                    let copy = data[at..to].to_vec();
                    let into = random.below(data.len() + 1);
                    data.splice(into..into, copy.into_iter().take(64));
                }
            }
        }
    }

    #[test]
    fn whatever_is_parsed_nothing_panics() {
        let seconds = std::env::var("HYDRA_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        for target in TARGETS {
            let mut corpus = seeds(target);
            corpus.iter().for_each(|data| run(target, data));
            let mut random = Random(42);
            let (until, mut count) = (Instant::now() + Duration::from_secs(seconds), 0_u64);
            while Instant::now() < until {
                let mut data = corpus[random.below(corpus.len())].clone();
                change(&mut data, &mut random);
                run(target, &data);
                count += 1;
                // Some changes are changed again.
                if random.below(50) == 0 && data.len() < 4_096 {
                    let at = random.below(200.min(corpus.len() + 1));
                    if at < corpus.len() && corpus.len() >= 200 { corpus[at] = data } else { corpus.push(data) }
                }
            }
            println!("{target}: {count} inputs");
        }
    }
}
