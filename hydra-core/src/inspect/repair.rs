//! Mending damaged and incomplete swamps while no server is at work: bits that flipped are turned back, whole
//! files are taken from copies, and what cannot be mended is given up only when that was said.
//!
//! Nothing is deleted: what is replaced or removed is kept below `.hydra/damaged/`. Every step leaves a
//! directory that can be read: a good file takes the place of a bad one in one rename, and a bad file goes
//! only when what could be read of it is on disk again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk::{sync_all, sync_dir};
use crate::engine::CopyState;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderSet;
use crate::format::frame;
use crate::inspect::bits::turned_back;
use crate::inspect::directory::Directory;
use crate::inspect::losses::{losses, missing};
use crate::inspect::rewrite::{Plan, Rewritten, copy_state, is_complete, rewrite};
use crate::inspect::swamp::{Content, SwampFile, SwampOnDisk, content_of};
use crate::layout::{self, ChunkName};
use crate::merge::Chunk;
use crate::root::{add_incarnations, lock_directory, read_hydra_file, sync_parent};
use crate::stamp::Timestamp;
use crate::walk;

/// Below the local directory: where files that were replaced or removed are kept.
const ASIDE_DIR: &str = "damaged";
/// Below the local directory: where a good file is written before it takes its place.
const STAGING_DIR: &str = "repair";

/// What may be done to mend.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Copies, the best first: data directories of the same cluster, or directories named like one
    /// folder. They are only read. Default none.
    pub from: Vec<PathBuf>,
    /// Give up what no copy has. Default no.
    pub accept_loss: bool,
    /// Only these folders. Default all.
    pub folders: Option<FolderSet>,
    /// Only tell what would be done. Default no.
    pub dry_run: bool,
}

/// One file that was changed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RepairedFile {
    /// The file, below the data directory.
    pub path: String,
    /// What was done.
    pub action: String,
    /// The copy it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where the file that was here before is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Its length now; 0 for one that went.
    pub bytes: u64,
}

/// Bytes that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Loss {
    /// The file, below the data directory.
    pub path: String,
    /// The first byte that cannot be read.
    pub from: u64,
    /// The first byte behind them.
    pub to: u64,
    /// They were written after this, by their writer's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Timestamp>,
    /// They were written before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// What may have stood there.
    pub detail: String,
}

/// A swamp that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Unmended {
    /// Its directory, below the data directory.
    pub path: String,
    /// `degraded` or `incomplete`.
    pub copy: String,
    /// Why, and what helps.
    pub problem: String,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Repaired {
    /// Swamps looked at.
    pub swamps: u64,
    /// Swamps that were not whole and are now.
    pub mended: u64,
    /// Records that were written again in new files.
    pub records: u64,
    /// The files that were changed.
    pub files: Vec<RepairedFile>,
    /// What was given up.
    pub losses: Vec<Loss>,
    /// Swamps that are still not whole.
    pub unmended: Vec<Unmended>,
}

/// Mends what is damaged or missing in a data directory. `progress` is called with the number of swamps done so far.
///
/// # Errors
/// `data-dir-in-use` when a server is at work on the directory, `not-found` when it or a copy is none,
/// `invalid-parameter` when a copy is of another cluster, `io` from the disk. What was mended before stays mended.
pub fn repair(data_dir: &Path, options: &RepairOptions, progress: &mut dyn FnMut(u64)) -> Result<Repaired> {
    let directory = Directory::read(data_dir)?;
    let sources = options.from.iter().map(|path| Source::open(path, &directory)).collect::<Result<_>>()?;
    let _lock = if options.dry_run { None } else { Some(lock_directory(data_dir)?) };
    let day = Timestamp::now().to_string().replace(':', "-");
    let aside = PathBuf::from(layout::LOCAL_DIR).join(ASIDE_DIR).join(day);
    let mut mender =
        Mender { directory: &directory, options, sources, aside, incarnation: None, done: Repaired::default() };
    let mut dirs = Vec::new();
    directory.each_swamp(options.folders.as_ref(), &mut |_, dir| {
        dirs.push(dir.to_path_buf());
        Ok(())
    })?;
    for dir in dirs {
        mender.swamp(&dir)?;
        mender.done.swamps += 1;
        progress(mender.done.swamps);
    }
    // Empty by now, unless a crash left something there; nobody minds either.
    fs::remove_dir(directory.local(STAGING_DIR)).ok();
    Ok(mender.done)
}

/// A copy to take files from.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// The copy is that of one folder, with this directory name.
    folder: Option<String>,
}

impl Source {
    fn open(path: &Path, directory: &Directory) -> Result<Source> {
        if !path.is_dir() {
            return Err(Error::new(ErrorCode::NotFound, format!("the copy {} is no directory", path.display())));
        }
        let same = |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
        if same(path, &directory.root) {
            return Err(Error::new(ErrorCode::InvalidParameter, "the copy is the data directory itself"));
        }
        if let Some((count, cluster)) = read_hydra_file(path)? {
            if (count, &cluster) == (directory.count, &directory.cluster) {
                return Ok(Source { path: path.to_path_buf(), folder: None });
            }
            let detail = format!(
                "{} counts {count} folders of the cluster {cluster:?}, {} counts {} of {:?}",
                path.display(),
                directory.root.display(),
                directory.count,
                directory.cluster
            );
            return Err(Error::new(ErrorCode::InvalidParameter, detail));
        }
        let is_folder = |name: &str| name.len() == 5 && name.bytes().all(|byte| byte.is_ascii_digit());
        let own = path.file_name().and_then(|name| name.to_str()).filter(|name| is_folder(name));
        let holds_folders = walk::subdirectories(path)?
            .iter()
            .any(|dir| dir.file_name().and_then(|name| name.to_str()).is_some_and(is_folder));
        match own {
            Some(folder) => Ok(Source { path: path.to_path_buf(), folder: Some(folder.to_owned()) }),
            None if holds_folders => Ok(Source { path: path.to_path_buf(), folder: None }),
            None => Err(Error::new(ErrorCode::NotFound, format!("{} is no copy of a data directory", path.display()))
                .with_hint(
                    "give a directory with a file HYDRA, one with numbered folders, or one folder, e.g. /copy/00017",
                )),
        }
    }

    /// Where a swamp is in the copy; `below` is where it is in the data directory.
    fn swamp(&self, below: &Path) -> Option<PathBuf> {
        match &self.folder {
            None => Some(self.path.join(below)),
            Some(folder) => below.strip_prefix(folder).ok().map(|rest| self.path.join(rest)),
        }
    }
}

/// A file of a copy that is whole.
struct Good {
    bytes: Vec<u8>,
    from: PathBuf,
}

struct Mender<'a> {
    directory: &'a Directory,
    options: &'a RepairOptions,
    sources: Vec<Source>,
    /// Where this run keeps what it replaces, below the root.
    aside: PathBuf,
    /// The writer of new files, drawn when the first is needed.
    incarnation: Option<u64>,
    done: Repaired,
}

impl Mender<'_> {
    fn swamp(&mut self, dir: &Path) -> Result<()> {
        let mut swamp = SwampOnDisk::read(Some(self.directory), dir)?;
        let before = copy_state(&swamp);
        self.mend_files(&mut swamp)?;
        if copy_state(&swamp) != CopyState::Complete {
            self.fetch_missing(&mut swamp)?;
        }
        if copy_state(&swamp) != CopyState::Complete && self.options.accept_loss {
            self.give_up(&mut swamp)?;
        }
        match copy_state(&swamp) {
            CopyState::Complete => self.done.mended += u64::from(before != CopyState::Complete),
            copy => self.done.unmended.push(self.unmended(&swamp, copy)),
        }
        Ok(())
    }

    fn unmended(&self, swamp: &SwampOnDisk, copy: CopyState) -> Unmended {
        let newer = Plan::of(swamp).is_none();
        let problem = match () {
            () if newer => "a newer version wrote some of it: use that version",
            () if self.sources.is_empty() => {
                "no copy was given: use --from COPY, or --accept-loss to keep what can be read"
            }
            () => "no copy has what is missing: give another one, or --accept-loss to keep what can be read",
        };
        Unmended {
            path: self.directory.printed(&swamp.dir),
            copy: copy.as_str().to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// Mends files one by one: bits that flipped, and files that are whole or longer in a copy.
    fn mend_files(&mut self, swamp: &mut SwampOnDisk) -> Result<()> {
        for at in 0..swamp.files.len() {
            let bits = if is_damaged(&swamp.files[at]) { self.turn_bits(swamp, at)? } else { false };
            if !bits {
                self.take_copy(swamp, at)?;
            }
        }
        Ok(())
    }

    fn turn_bits(&mut self, swamp: &mut SwampOnDisk, at: usize) -> Result<bool> {
        let file = &swamp.files[at];
        let Some((bytes, bits)) = turned_back(&file.name, &file.bytes) else { return Ok(false) };
        if !self.belongs(&swamp.dir, &file.name, &bytes) {
            return Ok(false);
        }
        let action = format!("turned back {} flipped bits, the first in byte {}", bits.len(), bits[0] / 8);
        self.replace(swamp, at, Good { bytes, from: PathBuf::new() }, &action)?;
        Ok(true)
    }

    fn take_copy(&mut self, swamp: &mut SwampOnDisk, at: usize) -> Result<()> {
        let file = &swamp.files[at];
        let Some(good) = self.better_copy(&swamp.dir, file)? else { return Ok(()) };
        let action = if is_damaged(file) {
            "replaced by a copy that is whole"
        } else {
            "replaced by a copy that has more of it"
        };
        self.replace(swamp, at, good, action)
    }

    /// A copy whose checksums all hold, that has everything readable here and more.
    fn better_copy(&self, dir: &Path, file: &SwampFile) -> Result<Option<Good>> {
        let damaged = is_damaged(file);
        for source in &self.sources {
            let Some(path) = self.place_in(source, dir, &file.name) else { continue };
            let length = fs::metadata(&path).map(|facts| facts.len()).unwrap_or(0);
            if !damaged && length <= file.bytes.len() as u64 {
                continue;
            }
            let Some(bytes) = read_regular(&path)? else { continue };
            if self.belongs(dir, &file.name, &bytes) && has_more(file, &bytes) {
                return Ok(Some(Good { bytes, from: path }));
            }
        }
        Ok(None)
    }

    fn place_in(&self, source: &Source, dir: &Path, name: &ChunkName) -> Option<PathBuf> {
        let below = dir.strip_prefix(&self.directory.root).ok()?;
        Some(source.swamp(below)?.join(name.file_name()))
    }

    /// Whether these bytes are a whole chunk of this swamp.
    fn belongs(&self, dir: &Path, name: &ChunkName, bytes: &[u8]) -> bool {
        let Content::Chunk(scan) = content_of(name, bytes) else { return false };
        let header = &scan.header;
        let at_home = self.directory.root.join(self.directory.home(&header.name)) == dir;
        let ours = header.cluster == self.directory.cluster_id();
        let understood = |chunk: Chunk<'_>| (0..chunk.frame_count()).all(|index| chunk.frame(index).2);
        at_home && ours && scan.damage.is_none() && Chunk::new(name, &scan, bytes).is_some_and(understood)
    }

    /// Takes files that are in a copy and not here, for a swamp that lacks something.
    fn fetch_missing(&mut self, swamp: &mut SwampOnDisk) -> Result<()> {
        for index in 0..self.sources.len() {
            let Some(there) =
                swamp.dir.strip_prefix(&self.directory.root).ok().and_then(|below| self.sources[index].swamp(below))
            else {
                continue;
            };
            for (name, _) in walk::chunks(&there)? {
                if swamp.files.iter().any(|file| file.name == name) {
                    continue;
                }
                let path = there.join(name.file_name());
                let Some(bytes) = read_regular(&path)? else { continue };
                if self.belongs(&swamp.dir, &name, &bytes) {
                    self.add(swamp, name, Good { bytes, from: path }, "taken from a copy: it was not here")?;
                }
            }
        }
        Ok(())
    }

    /// Writes again what can be read of the files that are not whole, and sets those aside.
    fn give_up(&mut self, swamp: &mut SwampOnDisk) -> Result<()> {
        let Some(plan) = Plan::of(swamp).filter(|plan| !plan.is_empty()) else { return Ok(()) };
        let server = self.server()?;
        let incarnation = self.incarnation()?;
        let rewritten = rewrite(swamp, &plan, &server, incarnation);
        if !is_complete(swamp, &plan, rewritten.as_ref()) {
            return Ok(());
        }
        self.tell_losses(swamp, &plan, rewritten.as_ref());
        if let Some(Rewritten { name, bytes, records, .. }) = rewritten {
            self.done.records += records;
            self.add(
                swamp,
                name,
                Good { bytes, from: PathBuf::new() },
                "new: what can be read of the files set aside",
            )?;
        }
        let going: Vec<ChunkName> =
            plan.rewrite.iter().chain(&plan.drop).map(|&at| swamp.files[at].name.clone()).collect();
        for name in &going {
            let path = swamp.dir.join(name.file_name());
            let kept = self.set_aside(&path)?;
            if !self.options.dry_run {
                fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            }
            self.tell(&path, "set aside", None, Some(kept), 0);
        }
        self.sync_dir(&swamp.dir)?;
        swamp.retain(|file| !going.contains(&file.name));
        Ok(())
    }

    fn server(&self) -> Result<String> {
        self.directory.server.clone().ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidConfig,
                "the directory belongs to no server yet, so no file can be written in its name",
            )
            .with_hint("start a server on it once, with --id")
        })
    }

    /// The writer of this run's files, known as this server's own before the first is written.
    fn incarnation(&mut self) -> Result<u64> {
        if let Some(incarnation) = self.incarnation {
            return Ok(incarnation);
        }
        let drawn =
            getrandom::u64().map_err(|error| Error::new(ErrorCode::Internal, format!("no random bits: {error}")))?;
        if !self.options.dry_run {
            add_incarnations(&self.directory.local(layout::INCARNATIONS_FILE), &[drawn])?;
        }
        self.incarnation = Some(drawn);
        Ok(drawn)
    }

    fn tell_losses(&mut self, swamp: &SwampOnDisk, plan: &Plan, rewritten: Option<&Rewritten>) {
        for &at in plan.rewrite.iter().chain(&plan.drop) {
            let dir = self.directory.printed(&swamp.dir);
            let mut losses = losses(&dir, &swamp.files[at]);
            losses.extend(missing(&dir, &swamp.files[at], plan));
            self.done.losses.extend(losses);
        }
        let Some(Rewritten { name, too_large, forgotten, .. }) = rewritten else { return };
        let path = self.directory.printed(&swamp.dir.join(name.file_name()));
        for (count, what) in [
            (*too_large, "sums of increments beyond 64 bits cannot be written again"),
            (*forgotten, "remembered requests are forgotten: if they come again they are carried out again"),
        ] {
            if count > 0 {
                let detail = format!("{count} {what}");
                self.done.losses.push(Loss { path: path.clone(), from: 0, to: 0, after: None, before: None, detail });
            }
        }
    }

    /// Puts a good file in the place of a bad one, which is kept.
    fn replace(&mut self, swamp: &mut SwampOnDisk, at: usize, good: Good, action: &str) -> Result<()> {
        let name = swamp.files[at].name.clone();
        let path = swamp.dir.join(name.file_name());
        let kept = self.set_aside(&path)?;
        self.put(&path, &good.bytes)?;
        self.tell(&path, action, Some(&good.from), Some(kept), good.bytes.len() as u64);
        swamp.files[at] = file_of(name, good.bytes);
        Ok(())
    }

    /// Puts a good file where none is.
    fn add(&mut self, swamp: &mut SwampOnDisk, name: ChunkName, good: Good, action: &str) -> Result<()> {
        let path = swamp.dir.join(name.file_name());
        self.put(&path, &good.bytes)?;
        self.tell(&path, action, Some(&good.from), None, good.bytes.len() as u64);
        swamp.files.push(file_of(name, good.bytes));
        Ok(())
    }

    fn tell(&mut self, path: &Path, action: &str, from: Option<&Path>, kept: Option<String>, bytes: u64) {
        let from = from.filter(|from| !from.as_os_str().is_empty()).map(|from| from.display().to_string());
        let path = self.directory.printed(path);
        self.done.files.push(RepairedFile { path, action: action.to_owned(), from, kept, bytes });
    }

    /// Gives the file a second name below the local directory, durably; answers that name.
    fn set_aside(&self, path: &Path) -> Result<String> {
        let below = self.aside.join(path.strip_prefix(&self.directory.root).unwrap_or(path));
        let kept = self.directory.root.join(&below);
        if self.options.dry_run {
            return Ok(below.display().to_string());
        }
        let parent = kept.parent().unwrap_or(&kept);
        fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
        // A second name costs nothing; where a file system knows no second names it is copied.
        if fs::hard_link(path, &kept).is_err() {
            let copy = || {
                fs::copy(path, &kept)?;
                sync_all(&File::open(&kept)?)
            };
            copy().map_err(|error| Error::io("keep a copy of", path, error))?;
        }
        sync_parent(&kept)?;
        Ok(below.display().to_string())
    }

    /// Writes a file outside the numbered folders and gives it its place in one step.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let staging = self.directory.local(STAGING_DIR);
        fs::create_dir_all(&staging).map_err(|error| Error::io("create", &staging, error))?;
        let new = staging.join(path.file_name().unwrap_or_default());
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            sync_all(&file)?;
            fs::rename(&new, path)
        };
        write().map_err(|error| Error::io("write", path, error))?;
        self.sync_dir(path.parent().unwrap_or(path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
    }
}

fn file_of(name: ChunkName, bytes: Vec<u8>) -> SwampFile {
    let content = content_of(&name, &bytes);
    SwampFile { name, bytes, links: 1, modified: None, content }
}

/// Whether a file holds bytes that nobody wrote. A torn tail is no damage, and neither is a stranger.
fn is_damaged(file: &SwampFile) -> bool {
    match &file.content {
        Content::Chunk(scan) => scan.damage.is_some() || Chunk::new(&file.name, scan, &file.bytes).is_none(),
        Content::Damaged(_) => true,
        Content::Empty | Content::Newer(_) | Content::Stranger { .. } => false,
    }
}

/// Whether a whole chunk holds everything that can be read of a file here, and more. A file has one
/// writer, so both begin with the same frames; if not, neither is taken for the other.
fn has_more(file: &SwampFile, copy: &[u8]) -> bool {
    let Content::Chunk(good) = content_of(&file.name, copy) else { return false };
    let Some(scan) = file.scan() else { return !matches!(file.content, Content::Stranger { .. }) };
    let same = |span: &frame::FrameSpan| {
        let range = span.offset as usize..span.end() as usize;
        file.bytes.get(range.clone()) == copy.get(range)
    };
    let more = good.frames.len() > scan.frames.len() || (good.footer.is_some() && scan.footer.is_none());
    scan.frames.iter().all(same) && (more || (scan.damage.is_some() && good.frames.len() == scan.frames.len()))
}

/// The content of a file; `None` when there is none, or something else than a file.
fn read_regular(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_file() => fs::read(path).map(Some).map_err(|error| Error::io("read", path, error)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("stat", path, error)),
    }
}
