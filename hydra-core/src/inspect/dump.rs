//! Showing what stands in a chunk, and what the files of a swamp say together, as JSON objects.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::base32;
use crate::conflict::Lost;
use crate::engine::CopyState;
use crate::error::{Error, ErrorCode, Result};
use crate::format::record::{Record, Subtotal, Write};
use crate::format::scan::{Scan, scan};
use crate::inspect::directory::Directory;
use crate::inspect::swamp::{Content, SwampFile, SwampOnDisk, View, clock_time, unreadable_text, waiting_text};
use crate::layout::{ChunkKind, ChunkName};
use crate::merge::{Chunk, Merged};
use crate::slot::Slot;
use crate::stamp::{Stamp, Timestamp};
use crate::state::State;
use crate::vector::VersionVector;

/// What [`inspect_with`] tells of the directory of a swamp. A single file is always told in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectOptions {
    /// Every record of every file. Default yes.
    pub records: bool,
    /// For every key what decides it, and in which files that stands. Default no.
    pub keys: bool,
}

impl Default for InspectOptions {
    fn default() -> InspectOptions {
        InspectOptions { records: true, keys: false }
    }
}

impl InspectOptions {
    /// The merged picture without the single records.
    #[must_use]
    pub fn merged() -> InspectOptions {
        InspectOptions { records: false, keys: true }
    }
}

type Tell<'a> = dyn FnMut(Json) -> Result<()> + 'a;

/// [`inspect_with`] and the defaults.
///
/// # Errors
/// Those of [`inspect_with`].
pub fn inspect(path: &Path, each: &mut dyn FnMut(Json) -> io::Result<()>) -> Result<()> {
    inspect_with(path, InspectOptions::default(), each)
}

/// Calls `each` with JSON objects about a chunk, or about every chunk in the directory of a swamp.
///
/// Their member `type` is `header`, `record`, `damage` or `footer` for what stands in a file; for a
/// directory then `file` for what each file is to the swamp, `key` for each key if asked for, `conflict`
/// for writes that lost against others that had not seen them, and at last one `swamp`: what the files
/// say together.
///
/// # Errors
/// `not-found` when there is no chunk at the path, `io` when it cannot be read or `each` fails.
pub fn inspect_with(path: &Path, options: InspectOptions, each: &mut dyn FnMut(Json) -> io::Result<()>) -> Result<()> {
    let mut tell = |json: Json| each(json).map_err(|error| Error::io("report on", path, error));
    if !path.is_dir() {
        return inspect_file(path, &mut tell);
    }
    let directory = Directory::around(path)?;
    let path = path.canonicalize().map_err(|error| Error::io("resolve", path, error))?;
    let swamp = SwampOnDisk::read(directory.as_ref(), &path)?;
    if swamp.files.is_empty() {
        let detail = format!("there is no chunk in {}", path.display());
        return Err(Error::new(ErrorCode::NotFound, detail).with_hint("give a chunk, or the directory of one swamp"));
    }
    if options.records {
        swamp.files.iter().try_for_each(|file| tell_bytes(&file.name, &file.bytes, &mut tell))?;
    }
    swamp.merged(|view, merged| tell_picture(&swamp, directory.as_ref(), view, merged, options, &mut tell))
}

fn inspect_file(path: &Path, tell: &mut Tell<'_>) -> Result<()> {
    let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = ChunkName::parse(file_name).ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("{file_name:?} is no name of a chunk"))
            .with_hint("a chunk is named SERVER-INCARNATION-SEQ.hyl or .hys")
    })?;
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorCode::NotFound, format!("there is no file {}", path.display())),
        _ => Error::io("read", path, error),
    })?;
    tell_bytes(&name, &bytes, tell)
}

/// Header, records, damage and footer of one chunk.
fn tell_bytes(name: &ChunkName, bytes: &[u8], tell: &mut Tell<'_>) -> Result<()> {
    let file_name = name.file_name();
    let scan = match scan(name, bytes) {
        Ok(scan) => scan,
        Err(problem) => {
            return tell(json!({"type": "damage", "file": file_name, "problem": unreadable_text(&problem)}));
        }
    };
    tell(header_json(&file_name, name, &scan))?;
    match Chunk::new(name, &scan, bytes) {
        Some(chunk) => tell_records(&chunk, tell)?,
        None => tell(json!({"type": "damage", "file": file_name, "problem": "a frame cannot be decompressed"}))?,
    }
    if let Some((offset, problem)) = &scan.damage {
        tell(json!({"type": "damage", "file": file_name, "offset": offset, "problem": problem}))?;
    }
    if let Some(offset) = scan.torn_at {
        let problem = "the tail was never synced and is ignored";
        tell(json!({"type": "damage", "file": file_name, "offset": offset, "problem": problem, "harmless": true}))?;
    }
    match &scan.footer {
        Some(footer) => tell(
            json!({"type": "footer", "file": file_name, "records": footer.records, "lastClock": clock_json(footer.last_hlc)}),
        ),
        None => Ok(()),
    }
}

fn tell_records(chunk: &Chunk<'_>, tell: &mut dyn FnMut(Json) -> Result<()>) -> Result<()> {
    for (index, frame) in chunk.scan.frames.iter().enumerate() {
        let (key, records, understood) = chunk.frame(index);
        for record in &records {
            let mut json = record_json(record);
            json["type"] = "record".into();
            json["offset"] = frame.offset.into();
            if let Some(key) = key {
                json["idempotencyKey"] = format!("{:032x}", key.key).into();
            }
            tell(json)?;
        }
        if !understood {
            tell(
                json!({"type": "damage", "offset": frame.offset, "problem": "a record is not understood; a newer version may have written it"}),
            )?;
        }
    }
    Ok(())
}

fn header_json(file_name: &str, name: &ChunkName, scan: &Scan) -> Json {
    let header = &scan.header;
    json!({
        "type": "header",
        "file": file_name,
        "kind": match header.kind { ChunkKind::Log => "log", ChunkKind::Snap => "snap" },
        "swamp": header.name.as_str(),
        "server": name.server,
        "incarnation": incarnation_text(header.incarnation),
        "seq": header.seq,
        "folders": header.folders,
        "cluster": format!("{:08x}", header.cluster),
        "writeInterval": crate::duration::format_duration(header.write_interval),
        "idleEvict": crate::duration::format_duration(header.idle_evict),
        "knows": vector_json(&header.vector),
        "closed": scan.footer.is_some(),
        "bytes": scan.length,
    })
}

fn vector_json(vector: &VersionVector) -> Json {
    let entries: Map<String, Json> = vector.iter().map(|(by, hlc)| (incarnation_text(by), clock_json(hlc))).collect();
    entries.into()
}

pub(super) fn incarnation_text(incarnation: u64) -> String {
    base32::encode(incarnation.into(), base32::WIDTH_64)
}

fn clock_json(hlc: u64) -> Json {
    json!({"at": clock_time(hlc).to_string(), "count": hlc & 0xffff})
}

fn stamp_json(stamp: Stamp) -> Json {
    json!({"at": stamp.timestamp().to_string(), "count": stamp.hlc & 0xffff, "by": incarnation_text(stamp.incarnation)})
}

fn record_json(record: &Record<'_>) -> Json {
    match record {
        Record::Write { stamp, write } => write_json(*stamp, write),
        Record::Adopted { stamp, write } => {
            let mut json = write_json(*stamp, write);
            json["adopted"] = true.into();
            json
        }
        Record::Sync(vector) => {
            json!({"kind": "sync", "knows": vector_json(vector)})
        }
        Record::Counter(counter) => {
            let part = |sum: &Subtotal| json!({"by": incarnation_text(sum.incarnation), "sum": sum.total.to_string(), "last": clock_json(sum.last_hlc)});
            let sums: Vec<Json> = counter.sums.iter().map(part).collect();
            json!({"kind": "counter", "key": counter.key, "pointer": counter.pointer, "base": stamp_json(counter.base), "sums": sums})
        }
        Record::Key(key) => {
            json!({"kind": "key", "idempotencyKey": format!("{:032x}", key.key), "stamp": stamp_json(key.stamp), "increments": key.adds.len()})
        }
        Record::Conflict(conflict) => {
            let lost = conflict.write.as_ref().map(|write| write_json(conflict.stamp, write));
            let sums: i128 = conflict.sums.iter().map(|(_, sum)| sum.total).sum();
            let rivals: Vec<Json> = conflict.rivals.iter().map(|rival| stamp_json(*rival)).collect();
            json!({"kind": "conflict", "key": conflict.key, "stamp": stamp_json(conflict.stamp), "lost": lost, "increments": sums.to_string(), "above": rivals, "server": conflict.server})
        }
    }
}

fn write_json(stamp: Stamp, write: &Write<'_>) -> Json {
    match *write {
        Write::Put { key, value, expires, content_type, .. } => {
            let mut json = json!({"kind": "put", "key": key, "stamp": stamp_json(stamp), "bytes": value.len()});
            match (content_type, serde_json::from_slice::<Json>(value)) {
                (None, Ok(value)) => json["value"] = value,
                (content_type, _) => json["contentType"] = content_type.into(),
            }
            if let Some(millis) = expires {
                json["expiresAt"] = Timestamp::from_millis(millis).to_string().into();
            }
            json
        }
        Write::Del { key } => json!({"kind": "delete", "key": key, "stamp": stamp_json(stamp)}),
        Write::Add { key, pointer, base, delta } => {
            json!({"kind": "add", "key": key, "pointer": pointer, "by": delta, "base": stamp_json(base), "stamp": stamp_json(stamp)})
        }
    }
}

/// What each file is to the swamp, what decides each key, and the whole.
fn tell_picture(
    swamp: &SwampOnDisk,
    directory: Option<&Directory>,
    view: &View<'_>,
    merged: Merged<'_>,
    options: InspectOptions,
    tell: &mut Tell<'_>,
) -> Result<()> {
    let mut findings = Vec::new();
    for (at, file) in swamp.files.iter().enumerate() {
        let picture = FilePicture { directory, view, merged: &merged, file, at };
        let json = picture.json();
        if let Some(problem) = json["problem"].as_str() {
            findings.push(json!(format!("{}: {problem}", file.name.file_name())));
        }
        tell(json)?;
    }
    if options.keys {
        tell_keys(view, &merged, tell)?;
    }
    merged.conflicts.iter().try_for_each(|lost| tell(conflict_json(lost)))?;
    tell(swamp_json(swamp, directory, view, merged, findings))
}

/// One file among those of its swamp.
struct FilePicture<'a> {
    directory: Option<&'a Directory>,
    view: &'a View<'a>,
    merged: &'a Merged<'a>,
    file: &'a SwampFile,
    at: usize,
}

impl FilePicture<'_> {
    fn json(&self) -> Json {
        let SwampFile { name, bytes, links, modified, .. } = self.file;
        let mut json = json!({
            "type": "file",
            "file": name.file_name(),
            "kind": kind_text(name.kind),
            "server": name.server,
            "bytes": bytes.len(),
            "state": "whole",
        });
        if let Some(directory) = self.directory {
            json["mine"] = directory.is_mine(name.incarnation).into();
        }
        if let Some(modified) = modified {
            json["modified"] = Timestamp::from(*modified).to_string().into();
        }
        if *links > 1 {
            json["names"] = (*links).into();
        }
        match &self.file.content {
            Content::Chunk(scan) => self.add_scan(&mut json, scan),
            Content::Stranger { why, .. } => set_state(&mut json, "stranger", &why.text()),
            Content::Empty => set_state(&mut json, "empty", "its creation was cut short; it never held anything"),
            Content::Damaged(what) => set_state(&mut json, "unreadable", what),
            Content::Newer(version) => {
                set_state(&mut json, "newer", &format!("it was written by a newer version (format {version})"));
            }
        }
        json
    }

    fn add_scan(&self, json: &mut Json, scan: &Scan) {
        json["sealed"] = scan.footer.is_some().into();
        json["frames"] = scan.frames.len().into();
        if let Some(chunk) = self.view.at.iter().position(|&at| at == self.at) {
            self.add_chunk(json, chunk);
        }
        if let Some(offset) = scan.torn_at {
            json["tornAt"] = offset.into();
            json["state"] = "torn".into();
        }
        if self.view.packed.contains(&self.at) {
            set_state(json, "damaged", "a frame cannot be decompressed");
        }
        if let Some((offset, problem)) = &scan.damage {
            json["damagedAt"] = (*offset).into();
            set_state(json, "damaged", problem);
        }
    }

    fn add_chunk(&self, json: &mut Json, at: usize) {
        let chunk = &self.view.chunks[at];
        let own = own_stamps(chunk);
        json["records"] = record_count(chunk).into();
        if let Some((first, last)) = own.first().zip(own.last()) {
            json["from"] = first.timestamp().to_string().into();
            json["to"] = last.timestamp().to_string().into();
        }
        let covering = covered_by(self.view, at, own.last().copied());
        if !covering.is_empty() {
            json["coveredBy"] = covering.into();
        }
        let waits = self.merged.unattached.iter().any(|&(log, _)| log == at) || self.merged.unusable.contains(&at);
        if waits {
            json["waitsFor"] = vector_json(&needed(chunk).beyond(&self.merged.vector));
            set_state(json, "waiting", waiting_text(chunk.name.kind));
        } else if chunk.name.kind == ChunkKind::Snap && chunk.scan.footer.is_none() {
            json["state"] = "unfinished".into();
        }
        if self.merged.not_understood.contains(&at) {
            set_state(json, "newer", "a record is not understood; a newer version may have written it");
        }
    }
}

fn set_state(json: &mut Json, state: &str, problem: &str) {
    json["state"] = state.into();
    json["problem"] = problem.into();
}

fn kind_text(kind: ChunkKind) -> &'static str {
    match kind {
        ChunkKind::Log => "log",
        ChunkKind::Snap => "snap",
    }
}

/// The stamps of what a log's own writer wrote, or of what a snapshot holds; sorted.
fn own_stamps(chunk: &Chunk<'_>) -> Vec<Stamp> {
    let records = (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1);
    let mut stamps: Vec<Stamp> = records
        .filter_map(|record| match record {
            Record::Write { stamp, .. } => Some(stamp),
            _ => None,
        })
        .collect();
    stamps.sort_unstable();
    stamps
}

fn record_count(chunk: &Chunk<'_>) -> usize {
    (0..chunk.frame_count()).map(|index| chunk.frame(index).1.len()).sum()
}

/// Everything a chunk says its writer knew.
pub(super) fn needed(chunk: &Chunk<'_>) -> VersionVector {
    let mut needed = chunk.scan.header.vector.clone();
    for record in (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1) {
        if let Record::Sync(vector) = record {
            needed.join(&vector);
        }
    }
    needed
}

/// The valid snapshots that stand for everything a chunk holds.
fn covered_by(view: &View<'_>, at: usize, last: Option<Stamp>) -> Vec<String> {
    let chunk = &view.chunks[at];
    let covers = |other: &&Chunk<'_>| {
        let is_snapshot = other.name.kind == ChunkKind::Snap && other.scan.is_valid() && other.name != chunk.name;
        is_snapshot
            && match chunk.name.kind {
                ChunkKind::Log => last.is_some_and(|last| other.vector().saw(last)),
                ChunkKind::Snap => chunk.vector().is_within(other.vector()),
            }
    };
    view.chunks.iter().filter(covers).map(|other| other.name.file_name()).collect()
}

/// One object for each key, in the order of keys.
fn tell_keys(view: &View<'_>, merged: &Merged<'_>, tell: &mut Tell<'_>) -> Result<()> {
    let holders = Holders::of(view, merged);
    let mut keys: Vec<&str> = merged.winners.iter().map(Slot::key).chain(merged.counters.keys().copied()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().try_for_each(|key| tell(key_json(key, merged, &holders)))
}

fn key_json(key: &str, merged: &Merged<'_>, holders: &Holders<'_>) -> Json {
    let winner = merged.winners.get(key);
    let mut json = winner.map_or_else(
        || json!({"kind": "increments", "key": key}),
        |winner| write_json(winner.stamp(), &winner.write()),
    );
    json["type"] = "key".into();
    json["in"] = holders.files(&holders.winners, key);
    let base = winner.map_or(Stamp::ZERO, Slot::stamp);
    if let Some(counter) = merged.counters.get(key) {
        json["added"] = counter.total(base).to_string().into();
        json["incrementsIn"] = holders.files(&holders.increments, key);
    }
    json
}

type ByKeyFiles<'a> = std::collections::HashMap<&'a str, Vec<usize>>;

/// Which files hold what decides a key.
struct Holders<'a> {
    names: Vec<String>,
    winners: ByKeyFiles<'a>,
    increments: ByKeyFiles<'a>,
}

impl<'a> Holders<'a> {
    fn of(view: &'a View<'a>, merged: &Merged<'a>) -> Holders<'a> {
        let names = view.chunks.iter().map(|chunk| chunk.name.file_name()).collect();
        let mut holders = Holders { names, winners: ByKeyFiles::new(), increments: ByKeyFiles::new() };
        for (at, chunk) in view.chunks.iter().enumerate() {
            for record in (0..chunk.frame_count()).flat_map(|index| chunk.frame(index).1) {
                holders.take(at, &record, merged);
            }
        }
        holders
    }

    fn take(&mut self, at: usize, record: &Record<'a>, merged: &Merged<'a>) {
        let winner = |key: &str| merged.winners.get(key).map_or(Stamp::ZERO, Slot::stamp);
        match record {
            Record::Write { write: Write::Add { key, base, .. }, .. }
            | Record::Adopted { write: Write::Add { key, base, .. }, .. }
                if winner(key) == *base =>
            {
                add_holder(&mut self.increments, key, at);
            }
            Record::Counter(counter) if winner(counter.key) == counter.base => {
                add_holder(&mut self.increments, counter.key, at);
            }
            Record::Write { stamp, write } | Record::Adopted { stamp, write } if winner(write.key()) == *stamp => {
                add_holder(&mut self.winners, write.key(), at);
            }
            _ => {}
        }
    }

    fn files(&self, by_key: &ByKeyFiles<'a>, key: &str) -> Json {
        by_key.get(key).into_iter().flatten().map(|&at| self.names[at].clone()).collect::<Vec<_>>().into()
    }
}

fn add_holder<'a>(by_key: &mut ByKeyFiles<'a>, key: &'a str, at: usize) {
    let files = by_key.entry(key).or_default();
    if files.last() != Some(&at) {
        files.push(at);
    }
}

/// A write that lost against one that had not seen it.
fn conflict_json(lost: &Lost) -> Json {
    let mut json = record_json(&Record::Conflict(lost.record()));
    json["type"] = "conflict".into();
    json["wonBy"] = (&*lost.winner).into();
    json
}

/// What the files say together.
fn swamp_json(
    swamp: &SwampOnDisk,
    directory: Option<&Directory>,
    view: &View<'_>,
    merged: Merged<'_>,
    findings: Vec<Json>,
) -> Json {
    let copy: CopyState = swamp.copy_state(view, &merged);
    let mut json = json!({
        "type": "swamp",
        "swamp": swamp.name.as_ref().map(|name| name.as_str()),
        "path": directory.map_or_else(|| swamp.dir.display().to_string(), |known| known.printed(&swamp.dir)),
        "copy": copy.as_str(),
        "files": swamp.files.len(),
        "bytes": swamp.files.iter().map(|file| file.bytes.len()).sum::<usize>(),
        "tombstones": merged.winners.iter().filter(|winner| winner.is_tombstone()).count(),
        "idempotencyKeys": merged.requests.len(),
        "conflicts": merged.conflicts.len(),
        "knows": vector_json(&merged.vector),
        "newest": clock_json(merged.max_hlc),
        "findings": findings,
    });
    let state = State::of_merged(merged, copy, Vec::new());
    json["treasures"] = state.count(Timestamp::now()).into();
    json["expired"] = (state.count(Timestamp::from_millis(0)) - state.count(Timestamp::now())).into();
    json
}
