//! Another number of folders for a data directory: every swamp is renamed to where the new number puts it.
//!
//! What is done is written to `.hydra/refold.json` before anything moves, and as long as it stands there no server opens the
//! directory. A swamp has exactly one old and one new place, and a rename is done or not done; so whenever it is cut
//! short, it goes on from what it finds, to either number. The number in the file `HYDRA` changes when everything
//! is in its new place and on disk. No file changes: copies that are re-foldered alike still merge.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderCount, FolderId, FolderSet, folder_of};
use crate::folders::FoldersFile;
use crate::inspect::directory::Directory;
use crate::layout;
use crate::name::SwampName;
use crate::root::{lock_directory, sync_parent, write_hydra_file};
use crate::shared::{read_json, write_json};
use crate::walk::{self, Met};

/// How many paths a report names.
const NAMED_MOST: usize = 100;

/// How to re-folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefoldOptions {
    /// Only tell what would be done. Default no.
    pub dry_run: bool,
}

impl RefoldOptions {
    /// Tells what would be done, and changes nothing.
    #[must_use]
    pub fn dry_run() -> RefoldOptions {
        RefoldOptions { dry_run: true }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Refolded {
    /// How many folders there were.
    pub from: FolderCount,
    /// How many there are now.
    pub to: FolderCount,
    /// The swamps of the directory.
    pub swamps: u64,
    /// Their files.
    pub files: u64,
    /// The bytes of those.
    pub bytes: u64,
    /// Swamps whose directory was renamed in this run, or would be.
    pub renamed: u64,
    /// Whether an earlier run had begun and was finished, or turned back, by this one.
    pub resumed: bool,
    /// What is no swamp at its place and stays where it is: the first hundred paths.
    pub left_alone: Vec<String>,
}

/// What is under way, as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Task {
    from: FolderCount,
    to: FolderCount,
    /// Of which folders others have copies, by the old and by the new number.
    copied_from: Vec<FolderSet>,
    copied_to: Vec<FolderSet>,
}

impl Task {
    fn new(directory: &Directory, to: FolderCount) -> Result<Task> {
        let from = directory.count;
        let stored: Option<FoldersFile> = read_json(&directory.local(layout::FOLDERS_FILE))?;
        let copied_from = stored.map(|stored| stored.copied).unwrap_or_default();
        let copied_to = copied_from.iter().map(|copied| spread(copied, from, to)).collect();
        Ok(Task { from, to, copied_from, copied_to })
    }

    fn reversed(self) -> Task {
        let Task { from, to, copied_from, copied_to } = self;
        Task { from: to, to: from, copied_from: copied_to, copied_to: copied_from }
    }
}

/// Every folder in which a swamp of these folders may be when there are `to` of them.
fn spread(copied: &FolderSet, from: FolderCount, to: FolderCount) -> FolderSet {
    if to.get().is_multiple_of(from.get()) {
        return to.all().iter().filter(|folder| copied.contains(FolderId::new(folder.get() % from.get()))).collect();
    }
    if copied.is_empty() { FolderSet::default() } else { to.all() }
}

/// Takes a data directory from one number of folders to another, by renaming the directories of its swamps. Run it
/// again after it was cut short, with the new number or, to turn back, with the old one. `progress` is called
/// with the number of swamps that were looked at and that of all; the latter is 0 while they are counted.
///
/// # Errors
/// `not-found` when there is no data directory, `data-dir-in-use` when a server is at work on it; `invalid-config` when
/// it is on its way to a third number, when writes that were made in place of another server are not settled, when a hold is
/// in force, when the name of a swamp cannot be read from its files, or when two directories claim one place; `io`
/// from the disk. In all cases nothing is lost, and it can be run again.
pub fn refold(
    data_dir: &Path,
    to: FolderCount,
    options: RefoldOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Refolded> {
    let directory = Directory::read(data_dir)?;
    let _lock = if options.dry_run { None } else { Some(lock_directory(data_dir)?) };
    let journal = directory.local(layout::REFOLD_FILE);
    let begun: Option<Task> = read_json(&journal)?;
    let resumed = begun.is_some();
    let task = match begun {
        Some(task) if task.to == to => task,
        Some(task) if task.from == to => task.reversed(),
        Some(task) => return Err(to_another(&task)),
        None => {
            check_settled(&directory)?;
            Task::new(&directory, to)?
        }
    };
    let refolding = Refolding { root: &directory.root, task };
    let before = refolding.count(progress)?;
    let mut report = Refolded {
        from: refolding.task.from,
        to,
        swamps: before.swamps,
        files: before.files,
        bytes: before.bytes,
        renamed: before.away,
        resumed,
        left_alone: before.left_alone.clone(),
    };
    if options.dry_run || (directory.count == to && !resumed) {
        return Ok(report);
    }
    write_json(&journal, &refolding.task)?;
    report.renamed = refolding.rename_all(before.swamps, progress)?;
    let after = refolding.count(&mut |_, _| ())?;
    if (after.swamps, after.files, after.bytes, after.away) != (before.swamps, before.files, before.bytes, 0) {
        let detail = format!(
            "{} swamps in {} files ({} bytes) were there before, {} in {} ({}) are now, {} of them not in their place",
            before.swamps, before.files, before.bytes, after.swamps, after.files, after.bytes, after.away
        );
        return Err(
            Error::new(ErrorCode::InvalidConfig, detail).with_hint("stop what changes the files, and run it again")
        );
    }
    sync(&directory.root)?;
    let copied = refolding.task.copied_to.clone();
    if !(copied.is_empty() && refolding.task.copied_from.is_empty()) {
        write_json(&directory.local(layout::FOLDERS_FILE), &FoldersFile { copied, moves: Vec::new() })?;
    }
    write_hydra_file(&directory.root, to, &directory.cluster)?;
    fs::remove_file(&journal).map_err(|error| Error::io("remove", &journal, error))?;
    sync_parent(&journal)?;
    Ok(report)
}

fn to_another(task: &Task) -> Error {
    let Task { from, to, .. } = task;
    Error::new(ErrorCode::InvalidConfig, format!("the directory is on its way from {from} to {to} folders"))
        .with_hint(format!("finish with {to}, or turn back with {from}"))
}

/// Whether nothing is noted that speaks of folders by number and would be wrong afterwards.
fn check_settled(directory: &Directory) -> Result<()> {
    let refuse = |what: String, hint: &str| Err(Error::new(ErrorCode::InvalidConfig, what).with_hint(hint));
    let stored: FoldersFile = read_json(&directory.local(layout::FOLDERS_FILE))?.unwrap_or_default();
    if !stored.moves.is_empty() {
        let moved: FolderSet = stored.moves.iter().map(|moved| moved.folder).collect();
        return refuse(
            format!("folders {moved} have moved from or to this server, which is noted by their numbers"),
            "folder numbers mean the same on all servers; a directory of a cluster that has moved folders keeps them",
        );
    }
    let notes = directory.local(layout::TAKEOVER_DIR);
    let mut noted = fs::read_dir(&notes).into_iter().flatten().flatten();
    if let Some(note) = noted.find(|entry| entry.metadata().is_ok_and(|facts| facts.len() > 0)) {
        let what = format!("writes in place of another server are not settled: {}", note.path().display());
        return refuse(what, "let the copies meet and hydra-router sync settle them, then stop the server again");
    }
    if !crate::hold::in_force(&directory.local(layout::HOLDS_FILE))?.is_empty() {
        return refuse("a folder is held for a backup".to_owned(), "release the hold, or wait until it is over");
    }
    Ok(())
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    swamps: u64,
    files: u64,
    bytes: u64,
    /// Swamps at their old place.
    away: u64,
    left_alone: Vec<String>,
}

impl Found {
    fn leave(&mut self, root: &Path, path: &Path) {
        if self.left_alone.len() < NAMED_MOST {
            self.left_alone.push(path.strip_prefix(root).unwrap_or(path).display().to_string());
        }
    }
}

/// Where the directory of a swamp is.
enum Place {
    /// Where it belongs now.
    Home,
    /// Where it belonged before; it goes to this path.
    Away(PathBuf),
    /// Where it never belonged.
    Elsewhere,
}

struct Refolding<'a> {
    root: &'a Path,
    task: Task,
}

impl Refolding<'_> {
    fn folders(&self) -> impl Iterator<Item = (FolderId, PathBuf)> {
        let most = self.task.from.get().max(self.task.to.get());
        (0..most).map(FolderId::new).map(|folder| (folder, self.root.join(layout::folder_dir(folder))))
    }

    fn place(&self, folder: FolderId, dir: &Path, name: &SwampName) -> Place {
        let (old, new) = (folder_of(name, self.task.from), folder_of(name, self.task.to));
        let is_at = |home| layout::swamp_path(self.root, home, name) == dir;
        if folder == new && is_at(new) {
            Place::Home
        } else if folder == old && is_at(old) {
            Place::Away(layout::swamp_path(self.root, new, name))
        } else {
            Place::Elsewhere
        }
    }

    /// Everything there is. A swamp whose name nobody can read stops it: it would be lost at its old place.
    fn count(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Found> {
        let mut found = Found::default();
        for (folder, dir) in self.folders() {
            walk::everything(&dir, &mut |met| {
                match met {
                    Met::Stray(path) => found.leave(self.root, path),
                    Met::Swamp(dir, chunks) => match self.placed(folder, dir, chunks.len())? {
                        Place::Elsewhere if chunks.is_empty() => {}
                        Place::Elsewhere => found.leave(self.root, dir),
                        place => {
                            found.swamps += 1;
                            found.files += chunks.len() as u64;
                            found.bytes += chunks.iter().map(|(_, bytes)| bytes).sum::<u64>();
                            found.away += u64::from(matches!(place, Place::Away(_)));
                            progress(found.swamps, 0);
                        }
                    },
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn placed(&self, folder: FolderId, dir: &Path, chunks: usize) -> Result<Place> {
        match walk::name_at(dir)? {
            Some(name) => Ok(self.place(folder, dir, &name)),
            None if chunks == 0 => Ok(Place::Elsewhere),
            None => {
                let detail = format!("the name of the swamp in {} cannot be read from any of its files", dir.display());
                let hint = "hydra-server repair mends it, from a copy if need be; or move it out of the data directory";
                Err(Error::new(ErrorCode::InvalidConfig, detail).with_hint(hint))
            }
        }
    }

    /// Renames what is at its old place; answers how many that were.
    fn rename_all(&self, total: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<u64> {
        let (mut renamed, mut seen) = (0, 0);
        for (folder, dir) in self.folders() {
            let mut away = Vec::new();
            walk::everything(&dir, &mut |met| {
                if let Met::Swamp(dir, chunks) = met {
                    match self.placed(folder, dir, chunks.len())? {
                        Place::Away(home) => away.push((dir.to_path_buf(), home)),
                        Place::Home => seen += 1,
                        Place::Elsewhere => {}
                    }
                }
                Ok(())
            })?;
            for (dir, home) in away {
                rename(&dir, &home)?;
                remove_empty(self.root, &dir);
                renamed += 1;
                progress((renamed + seen).min(total), total);
            }
        }
        Ok(renamed)
    }
}

fn rename(dir: &Path, home: &Path) -> Result<()> {
    let above = home.parent().unwrap_or(home);
    fs::create_dir_all(above).map_err(|error| Error::io("create", above, error))?;
    match fs::rename(dir, home) {
        // One without files makes room; see rename(2).
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            let detail = format!("{} and {} are of the same swamp", dir.display(), home.display());
            let hint =
                "copy the files of the one into the other, which merges them, remove the first, and run it again";
            Err(Error::new(ErrorCode::InvalidConfig, detail).with_hint(hint))
        }
        result => result.map_err(|error| Error::io("rename", dir, error)),
    }
}

/// Removes what a renamed directory leaves empty above it. What is not empty stays.
fn remove_empty(root: &Path, dir: &Path) {
    let above = dir.ancestors().skip(1).take_while(|above| *above != root);
    for above in above {
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
}

/// All renames are on disk afterwards.
fn sync(root: &Path) -> Result<()> {
    let synced = RealDisk.file_system(root).and_then(|file_system| file_system.sync());
    synced.map_err(|error| Error::io("sync", root, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u32) -> FolderCount {
        FolderCount::new(count).expect("a count")
    }

    #[test]
    fn copies_are_noted_where_their_swamps_may_be_afterwards() {
        let copied: FolderSet = "2-3".parse().expect("folders");
        assert_eq!(spread(&copied, count(10), count(30)).to_string(), "2-3,12-13,22-23");
        assert_eq!(spread(&copied, count(10), count(7)).to_string(), "0-6", "any may hold one of them");
        assert!(spread(&FolderSet::default(), count(10), count(7)).is_empty());
    }
}
