//! Checking every byte of a data directory: each chunk by its checksums, each swamp by its merge.

use std::path::Path;

use serde::Serialize;

use crate::engine::CopyState;
use crate::error::Result;
use crate::folder::{FolderId, FolderSet};
use crate::inspect::directory::Directory;
use crate::inspect::swamp::{Content, Strange, SwampFile, SwampOnDisk, View, waiting_text};
use crate::layout::{self, ChunkKind};
use crate::merge::Merged;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::walk::{self, Met};

/// How often a swamp that is not complete is read before it is reported: files may be on their way.
const LOOKS: usize = 3;
/// How long between two looks.
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(50);

/// What is wrong with one file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// The file or directory, below the data directory.
    pub path: String,
    /// What kind of thing is wrong.
    pub kind: FindingKind,
    /// What is wrong, in one sentence.
    pub problem: String,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// False for what a crash or a copy tool may leave behind and nobody misses.
    pub damage: bool,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingKind {
    /// Bytes are not what was written. Damage.
    Damaged,
    /// A newer version wrote it; this one can only read the rest. Damage, for this version.
    Newer,
    /// It is of another swamp, or of a folder that does not exist. Damage: nobody reads it.
    Misplaced,
    /// It is of another cluster, or of a directory with another number of folders. Damage: it is not read.
    OtherCluster,
    /// It refers to records that are not here. Damage: something is missing.
    Incomplete,
    /// Its last bytes were never synced and are ignored.
    TornTail,
    /// It never held anything.
    Empty,
    /// It has several names: somebody linked it, and a change through another name would change it here.
    HardLink,
    /// It is not a chunk and is ignored.
    Stray,
}

impl FindingKind {
    fn is_damage(self) -> bool {
        use FindingKind::{Damaged, Incomplete, Misplaced, Newer, OtherCluster};
        matches!(self, Damaged | Newer | Misplaced | OtherCluster | Incomplete)
    }
}

/// What a verification saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verified {
    /// Swamps with at least one chunk.
    pub swamps: u64,
    /// Those of them whose files are all here and whole.
    pub complete: u64,
    /// Those of which records are missing.
    pub incomplete: u64,
    /// Those with a damaged file.
    pub degraded: u64,
    /// Treasures, without expired ones.
    pub treasures: u64,
    /// Chunks.
    pub files: u64,
    /// Those of them that are snapshots.
    pub snapshots: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their records.
    pub records: u64,
    /// What is wrong, in the order of paths.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing is damaged or missing; what a crash may leave behind is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|finding| finding.damage)
    }
}

/// Reads and checks every byte of every chunk in these folders, of all folders with `None`, and merges
/// every swamp. A server may be at work on the directory. `progress` is called with the number of
/// files done so far.
///
/// # Errors
/// `not-found` when there is no data directory at the path, `invalid-parameter` for folders it does not
/// have, `io` when a file cannot be read.
pub fn verify(data_dir: &Path, folders: Option<&FolderSet>, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
    let directory = Directory::read(data_dir)?;
    let mut verifier = Verifier { directory: &directory, seen: Verified::default(), progress };
    for (folder, dir) in directory.folders(folders)? {
        walk::everything(&dir, &mut |met| verifier.meet(folder, &met))?;
    }
    if folders.is_none() {
        verifier.folders_beyond()?;
    }
    let mut seen = verifier.seen;
    seen.findings.sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
    Ok(seen)
}

struct Verifier<'a> {
    directory: &'a Directory,
    seen: Verified,
    progress: &'a mut dyn FnMut(u64),
}

impl Verifier<'_> {
    fn meet(&mut self, folder: FolderId, met: &Met<'_>) -> Result<()> {
        match met {
            Met::Swamp(dir, []) => {
                let problem = "an empty directory; nobody needs it".to_owned();
                self.find(dir, FindingKind::Stray, problem, None);
            }
            Met::Swamp(dir, _) => self.check_swamp(folder, dir)?,
            Met::Stray(path) => {
                if let Some(problem) = stray_text(path) {
                    self.find(path, FindingKind::Stray, problem, None);
                }
            }
        }
        Ok(())
    }

    /// Folders are counted from 0; one with a higher number is read by nobody.
    fn folders_beyond(&mut self) -> Result<()> {
        let count = self.directory.count;
        let number = |name: &str| name.parse::<u32>().ok().filter(|_| name.len() == 5);
        for path in walk::subdirectories(&self.directory.root)? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(number);
            if name.is_some_and(|number| number >= count.get()) {
                let problem = format!("misplaced: there are {count} folders, counted from 0");
                self.find(&path, FindingKind::Misplaced, problem, None);
            }
        }
        Ok(())
    }

    fn check_swamp(&mut self, folder: FolderId, dir: &Path) -> Result<()> {
        let mut swamp = SwampOnDisk::read(Some(self.directory), dir)?;
        for _ in 1..LOOKS {
            if swamp.merged(|view, merged| swamp.copy_state(view, &merged)) != CopyState::Incomplete {
                break;
            }
            std::thread::sleep(BETWEEN);
            swamp = SwampOnDisk::read(Some(self.directory), dir)?;
        }
        if swamp.files.is_empty() {
            return Ok(()); // It went while it was read.
        }
        self.seen.swamps += 1;
        for file in &swamp.files {
            self.check_file(folder, &swamp, file);
            (self.progress)(self.seen.files);
        }
        swamp.merged(|view, merged| self.check_merge(&swamp, view, merged));
        Ok(())
    }

    fn check_file(&mut self, folder: FolderId, swamp: &SwampOnDisk, file: &SwampFile) {
        let path = swamp.dir.join(file.name.file_name());
        self.seen.files += 1;
        self.seen.bytes += file.bytes.len() as u64;
        self.seen.snapshots += u64::from(file.name.kind == ChunkKind::Snap);
        if file.links > 1 {
            let problem =
                format!("the file has {} names; a change through another one would change it here", file.links);
            self.find(&path, FindingKind::HardLink, problem, None);
        }
        let scan = match &file.content {
            Content::Chunk(scan) => scan,
            Content::Empty => {
                let problem = "its creation was cut short; it never held anything".to_owned();
                return self.find(&path, FindingKind::Empty, problem, None);
            }
            Content::Damaged(what) => return self.find(&path, FindingKind::Damaged, what.clone(), None),
            Content::Newer(version) => {
                let problem = format!("it was written by a newer version (format {version})");
                return self.find(&path, FindingKind::Newer, problem, None);
            }
            Content::Stranger { scan, why } => {
                self.find_stranger(folder, &path, why);
                scan
            }
        };
        if let Some((offset, problem)) = &scan.damage {
            self.find(&path, FindingKind::Damaged, problem.clone(), Some(*offset));
        }
        if let Some(offset) = scan.torn_at {
            let problem = format!("the last {} bytes were never synced and are ignored", scan.length - offset);
            self.find(&path, FindingKind::TornTail, problem, Some(offset));
        }
    }

    fn find_stranger(&mut self, folder: FolderId, path: &Path, why: &Strange) {
        let kind =
            if matches!(why, Strange::Misplaced(..)) { FindingKind::Misplaced } else { FindingKind::OtherCluster };
        let problem = match why {
            Strange::Misplaced(name, home) => {
                format!("misplaced in folder {folder}: it is of {name} and belongs in {}", home.display())
            }
            other => other.text(),
        };
        self.find(path, kind, problem, None);
    }

    fn check_merge(&mut self, swamp: &SwampOnDisk, view: &View<'_>, merged: Merged<'_>) {
        for &at in &view.packed {
            let path = swamp.dir.join(swamp.files[at].name.file_name());
            self.find(&path, FindingKind::Damaged, "a frame cannot be decompressed".to_owned(), None);
        }
        for chunk in &view.chunks {
            for index in 0..chunk.frame_count() {
                let (_, records, understood) = chunk.frame(index);
                self.seen.records += records.len() as u64;
                if !understood {
                    let path = swamp.dir.join(chunk.name.file_name());
                    let problem = "a record is not understood; a newer version may have written it".to_owned();
                    self.find(&path, FindingKind::Newer, problem, Some(chunk.scan.frames[index].offset));
                }
            }
        }
        let waiting = merged.unattached.iter().map(|&(at, _)| at).chain(merged.unusable.iter().copied());
        for at in waiting {
            let path = swamp.dir.join(view.chunks[at].name.file_name());
            self.find(&path, FindingKind::Incomplete, waiting_text(view.chunks[at].name.kind).to_owned(), None);
        }
        let copy = swamp.copy_state(view, &merged);
        match copy {
            CopyState::Complete => self.seen.complete += 1,
            CopyState::Incomplete => self.seen.incomplete += 1,
            CopyState::Degraded => self.seen.degraded += 1,
        }
        self.seen.treasures += State::of_merged(merged, copy, Vec::new()).count(Timestamp::now());
    }

    fn find(&mut self, path: &Path, kind: FindingKind, problem: String, offset: Option<u64>) {
        let path = self.directory.printed(path);
        self.seen.findings.push(Finding { path, kind, problem, offset, damage: kind.is_damage() });
    }
}

/// What an entry is that is not part of a swamp; `None` for what copy tools keep on purpose.
pub(super) fn stray_text(path: &Path) -> Option<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let markers = [layout::SYNCTHING_MARKER, ".stignore", ".stversions", ".zfs", ".snapshots"];
    let text = match &*name {
        marker if markers.contains(&marker) => return None,
        name if name.contains(".sync-conflict-") => conflict_text(path, name),
        name if is_temporary(name) => "a temporary file of a copy tool; it is ignored".to_owned(),
        _ => "it is not a chunk and is ignored".to_owned(),
    };
    Some(text)
}

/// A conflict copy is a part of the chunk it was made of, or all of it; if it is longer, something is amiss.
fn conflict_text(path: &Path, name: &str) -> String {
    let stem = name.split(".sync-conflict-").next().unwrap_or_default();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let length = |path: &Path| std::fs::metadata(path).map(|facts| facts.len()).unwrap_or(0);
    let original = length(&path.with_file_name(format!("{stem}.{extension}")));
    match length(path) {
        copy if copy > original => {
            format!("a conflict copy of a sync tool, {copy} bytes, longer than the chunk here ({original}): look at it")
        }
        _ => "a conflict copy of a sync tool; it is ignored and can be removed".to_owned(),
    }
}

/// The names that rsync, Syncthing and editors give to files under way.
fn is_temporary(name: &str) -> bool {
    let rsync = || {
        let original = name.strip_prefix('.').and_then(|rest| rest.rsplit_once('.')).map(|(original, _)| original);
        original.is_some_and(|original| layout::ChunkName::parse(original).is_some())
    };
    name.starts_with(".syncthing.")
        || name.starts_with("~syncthing~")
        || name == ".~tmp~"
        || name.ends_with(".tmp")
        || rsync()
}
