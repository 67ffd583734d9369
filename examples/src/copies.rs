//! Copies of folders: by rsync while servers run, by a plain move while they do not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::story::Missing;

/// What rsync answers when a file went, or grew, while it was being copied. The next round has it.
const NEXT_ROUND: [i32; 2] = [23, 24];

/// Checks that rsync is there.
///
/// # Errors
/// [`Missing`] when it is not.
pub async fn require_rsync() -> Result<()> {
    let version = Command::new("rsync").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    match version {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Missing("this story copies with rsync, which is not installed here".to_owned()).into()),
    }
}

/// Copies what a server wrote itself to the directory of another one. Nothing is ever deleted and no
/// file gets shorter, so it may run at any time, also the other way round, while both servers work.
///
/// # Errors
/// When rsync failed.
pub async fn sync_own(id: &str, from: &Path, to: &Path) -> Result<()> {
    let own = format!("--include={id}-*.hy[ls]");
    let filters = ["--exclude=/.hydra", "--include=*/", &own, "--exclude=*"].map(str::to_owned);
    rsync(&filters, from, to).await
}

async fn rsync(filters: &[String], from: &Path, to: &Path) -> Result<()> {
    let with_slash = |path: &Path| format!("{}/", path.display());
    let output = Command::new("rsync")
        .args(["-a", "--append-verify", "--prune-empty-dirs"])
        .args(filters)
        .args([with_slash(from), with_slash(to)])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start rsync")?;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) if NEXT_ROUND.contains(&code) => Ok(()),
        _ => bail!("rsync: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// Keeps two servers' directories in step, both ways, again and again. Dropping it ends it.
#[derive(Debug)]
pub struct SyncLoop {
    task: JoinHandle<Result<()>>,
    rounds: Arc<AtomicUsize>,
    /// Held by a round.
    running: Arc<Mutex<()>>,
}

impl SyncLoop {
    /// Copies from each of the two to the other, then pauses, and so on.
    #[must_use]
    pub fn start(one: (&str, &Path), other: (&str, &Path), pause: Duration) -> SyncLoop {
        let [one, other] = [one, other].map(|(id, data)| (id.to_owned(), data.to_owned()));
        let (rounds, running) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<()>>::default());
        let (counted, held) = (Arc::clone(&rounds), Arc::clone(&running));
        let task = tokio::spawn(async move {
            loop {
                let round = held.lock().await;
                sync_own(&one.0, &one.1, &other.1).await?;
                sync_own(&other.0, &other.1, &one.1).await?;
                counted.fetch_add(1, Ordering::Relaxed);
                drop(round);
                tokio::time::sleep(pause).await;
            }
        });
        SyncLoop { task, rounds, running }
    }

    /// Ends after the round that runs. Answers how many rounds there were.
    ///
    /// # Errors
    /// When a round had failed.
    pub async fn stop(mut self) -> Result<usize> {
        let round = self.running.lock().await;
        if self.task.is_finished() {
            (&mut self.task).await??;
        }
        self.task.abort();
        drop(round);
        Ok(self.rounds.load(Ordering::Relaxed))
    }
}

impl Drop for SyncLoop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The directory of a folder.
#[must_use]
pub fn folder_dir(data: &Path, folder: u32) -> PathBuf {
    data.join(format!("{folder:05}"))
}

/// Moves the directory of a folder from one stopped server to another. A folder in which nothing was
/// ever stored has none.
///
/// # Errors
/// Those of the file system.
pub fn move_folder(folder: u32, from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (folder_dir(from, folder), folder_dir(to, folder));
    if !from.exists() {
        return Ok(());
    }
    copy_dir(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::remove_dir_all(&from).with_context(|| format!("cannot remove {}", from.display()))
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// How many swamps lie below a data directory: `FOLDER/sanctuary/realm/swamp` with a chunk in it.
///
/// # Errors
/// Those of the file system.
pub fn count_swamps(data: &Path) -> Result<usize> {
    let mut swamps = below(folders_in(data)?, 3)?;
    swamps.retain(|dir| list(dir).is_ok_and(|files| !files.is_empty()));
    Ok(swamps.len())
}

/// How many chunks below some folders of a data directory were written by one server.
///
/// # Errors
/// Those of the file system.
pub fn count_chunks(data: &Path, folders: impl Iterator<Item = u32>, writer: &str) -> Result<usize> {
    let folders = folders.map(|folder| folder_dir(data, folder)).filter(|dir| dir.exists()).collect();
    let is_own = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(writer).is_some_and(|rest| rest.starts_with('-'))
    };
    Ok(below(folders, 4)?.iter().filter(|path| is_own(path)).count())
}

/// The first parts of the names of all swamps below a data directory.
///
/// # Errors
/// Those of the file system.
pub fn sanctuaries(data: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for folder in folders_in(data)? {
        let names = list(&folder)?.into_iter().filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned));
        found.extend(names);
    }
    Ok(found)
}

/// The numbered folders.
fn folders_in(data: &Path) -> Result<Vec<PathBuf>> {
    let is_folder = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() == 5 && name.bytes().all(|byte| byte.is_ascii_digit())
    };
    Ok(list(data)?.into_iter().filter(is_folder).collect())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Everything so many levels below some directories.
fn below(directories: Vec<PathBuf>, levels: usize) -> Result<Vec<PathBuf>> {
    (0..levels)
        .try_fold(directories, |level, _| Ok(level.iter().map(|dir| list(dir)).collect::<Result<Vec<_>>>()?.concat()))
}
