//! Reading chunks for operators: what stands in a file, and whether every byte of a directory holds.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::base32;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderCount, FolderId, FolderSet, folder_of};
use crate::format::header::cluster_of;
use crate::format::record::{Record, Write};
use crate::format::scan::{Scan, Unreadable, scan};
use crate::layout::{self, ChunkKind, ChunkName};
use crate::merge::Chunk;
use crate::root::read_hydra_file;
use crate::stamp::{Stamp, Timestamp};
use crate::walk;

/// Calls `each` with the header and every record of a chunk, or of every chunk in the directory of a
/// swamp, as JSON objects whose member `type` is `header`, `record`, `damage` or `footer`.
///
/// # Errors
/// `not-found` when there is no chunk at the path, `io` when it cannot be read or `each` fails.
pub fn inspect(path: &Path, each: &mut dyn FnMut(Json) -> io::Result<()>) -> Result<()> {
    if !path.is_dir() {
        return inspect_file(path, each);
    }
    let chunks = walk::chunks(path)?;
    if chunks.is_empty() {
        return Err(Error::new(ErrorCode::NotFound, format!("there is no chunk in {}", path.display())));
    }
    chunks.iter().try_for_each(|(name, _)| inspect_file(&path.join(name.file_name()), each))
}

fn inspect_file(path: &Path, each: &mut dyn FnMut(Json) -> io::Result<()>) -> Result<()> {
    let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = ChunkName::parse(file_name).ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("{file_name:?} is no name of a chunk"))
            .with_hint("a chunk is named SERVER-INCARNATION-SEQ.hyl or .hys")
    })?;
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorCode::NotFound, format!("there is no file {}", path.display())),
        _ => Error::io("read", path, error),
    })?;
    let mut tell = |json: Json| each(json).map_err(|error| Error::io("report on", path, error));
    let scan = match scan(&name, &bytes) {
        Ok(scan) => scan,
        Err(problem) => {
            return tell(json!({"type": "damage", "file": file_name, "problem": unreadable_text(&problem)}));
        }
    };
    tell(header_json(file_name, &name, &scan))?;
    match Chunk::new(&name, &scan, &bytes) {
        Some(chunk) => tell_records(&chunk, &mut tell)?,
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

fn unreadable_text(problem: &Unreadable) -> String {
    match problem {
        Unreadable::Torn => "its creation was cut short; it never held anything".to_owned(),
        Unreadable::Damaged(what) => what.clone(),
        Unreadable::Newer(version) => format!("it was written by a newer version (format {version})"),
    }
}

fn header_json(file_name: &str, name: &ChunkName, scan: &Scan) -> Json {
    let header = &scan.header;
    let vector: serde_json::Map<String, Json> =
        header.vector.iter().map(|(incarnation, hlc)| (incarnation_text(incarnation), clock_json(hlc))).collect();
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
        "knows": vector,
        "closed": scan.footer.is_some(),
        "bytes": scan.length,
    })
}

fn incarnation_text(incarnation: u64) -> String {
    base32::encode(incarnation.into(), base32::WIDTH_64)
}

fn clock_json(hlc: u64) -> Json {
    json!({"at": Timestamp::from_millis(hlc >> 16).to_string(), "count": hlc & 0xffff})
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
            let known: serde_json::Map<String, Json> =
                vector.iter().map(|(incarnation, hlc)| (incarnation_text(incarnation), clock_json(hlc))).collect();
            json!({"kind": "sync", "knows": known})
        }
        Record::Counter(counter) => {
            let part = |sum: &crate::format::record::Subtotal| json!({"by": incarnation_text(sum.incarnation), "sum": sum.total.to_string(), "last": clock_json(sum.last_hlc)});
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

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// The file, below the data directory.
    pub path: String,
    /// What is wrong, in one sentence.
    pub problem: String,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// False for what a crash may leave behind and nobody misses.
    pub damage: bool,
}

/// What a verification saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verified {
    /// Swamps with at least one chunk.
    pub swamps: u64,
    /// Chunks.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their records.
    pub records: u64,
    /// What is wrong, in the order of paths.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing is damaged; what a crash may leave behind is not damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|finding| finding.damage)
    }
}

/// Reads and checks every byte of every chunk in these folders, of all folders with `None`. A server
/// may be at work on the directory. `progress` is called with the number of files done so far.
///
/// # Errors
/// `not-found` when there is no data directory at the path, `io` when a file cannot be read.
pub fn verify(data_dir: &Path, folders: Option<&FolderSet>, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
    let (count, cluster) = read_hydra_file(data_dir)?.ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("{} is no data directory: it has no file HYDRA", data_dir.display()))
    })?;
    let mut verifier = Verifier { root: data_dir, count, cluster: cluster_of(&cluster), seen: Verified::default() };
    let wanted = |folder: FolderId| folders.is_none_or(|folders| folders.contains(folder));
    for folder in count.all().iter().filter(|&folder| wanted(folder)) {
        let dir = data_dir.join(layout::folder_dir(folder));
        walk::swamps(&dir, &mut |swamp, chunks| {
            verifier.seen.swamps += 1;
            chunks.iter().try_for_each(|(name, _)| {
                verifier.check_file(folder, swamp, name)?;
                progress(verifier.seen.files);
                Ok(())
            })
        })?;
    }
    Ok(verifier.seen)
}

struct Verifier<'a> {
    root: &'a Path,
    count: FolderCount,
    cluster: u32,
    seen: Verified,
}

impl Verifier<'_> {
    fn check_file(&mut self, folder: FolderId, swamp: &Path, name: &ChunkName) -> Result<()> {
        let path = swamp.join(name.file_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        self.seen.files += 1;
        self.seen.bytes += bytes.len() as u64;
        match scan(name, &bytes) {
            Ok(scan) => self.check_scan(folder, swamp, &path, name, &scan, &bytes),
            Err(problem) => self.find(&path, unreadable_text(&problem), None, problem != Unreadable::Torn),
        }
        Ok(())
    }

    fn check_scan(&mut self, folder: FolderId, swamp: &Path, path: &Path, name: &ChunkName, scan: &Scan, bytes: &[u8]) {
        let header = &scan.header;
        let home = self.root.join(layout::swamp_dir(folder_of(&header.name, self.count), &header.name));
        if header.folders != self.count.get() {
            self.find(path, format!("it counts {} folders, this directory {}", header.folders, self.count), None, true);
        } else if home != swamp {
            let belongs = home.strip_prefix(self.root).unwrap_or(&home).display();
            self.find(
                path,
                format!("misplaced in folder {folder}: it is of {} and belongs in {belongs}", header.name),
                None,
                true,
            );
        }
        if header.cluster != self.cluster {
            self.find(path, "it is of another cluster".to_owned(), None, true);
        }
        if let Some((offset, problem)) = &scan.damage {
            self.find(path, problem.clone(), Some(*offset), true);
        }
        if let Some(offset) = scan.torn_at {
            self.find(path, "the tail was never synced and is ignored".to_owned(), Some(offset), false);
        }
        match Chunk::new(name, scan, bytes) {
            Some(chunk) => self.count_records(path, &chunk),
            None => self.find(path, "a frame cannot be decompressed".to_owned(), None, true),
        }
    }

    fn count_records(&mut self, path: &Path, chunk: &Chunk<'_>) {
        for (index, frame) in chunk.scan.frames.iter().enumerate() {
            let (_, records, understood) = chunk.frame(index);
            self.seen.records += records.len() as u64;
            if !understood {
                let problem = "a record is not understood; a newer version may have written it".to_owned();
                self.find(path, problem, Some(frame.offset), true);
            }
        }
    }

    fn find(&mut self, path: &Path, problem: String, offset: Option<u64>, damage: bool) {
        let path = path.strip_prefix(self.root).unwrap_or(path).display().to_string();
        self.seen.findings.push(Finding { path, problem, offset, damage });
    }
}
