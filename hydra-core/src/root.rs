//! The data directory: what it is, whose it is, and the small local files beside the folders.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::{sync_all, sync_dir};
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderCount;
use crate::layout::{self, is_server_id};

/// How long a lock that somebody holds is tried for. A program that is being started holds the locks of the process that
/// starts it until it has become itself, and a process that was killed a moment ago may not be gone yet.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// A data directory, held by this process until dropped.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) folders: FolderCount,
    pub(crate) cluster: String,
    pub(crate) server_id: String,
    /// This process.
    pub(crate) incarnation: u64,
    /// Every process that has served this directory under this identity, this one included.
    incarnations: HashSet<u64>,
    /// Released when the file is closed.
    lock: crate::sync::Mutex<Option<File>>,
}

/// What the caller knows of the directory; where that contradicts what is there, opening fails.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected<'a> {
    pub(crate) folders: Option<FolderCount>,
    pub(crate) cluster: Option<&'a str>,
    pub(crate) server_id: Option<&'a str>,
}

impl Root {
    /// Opens the directory, creating it when missing, and locks it.
    pub(crate) fn open(path: &Path, expected: &Expected<'_>) -> Result<Root> {
        let local = path.join(layout::LOCAL_DIR);
        fs::create_dir_all(&local).map_err(|error| Error::io("create", &local, error))?;
        let path = path.canonicalize().map_err(|error| Error::io("resolve", path, error))?;
        let local = path.join(layout::LOCAL_DIR);
        let lock = take_lock(&local.join(layout::LOCK_FILE))?;
        refuse_half_refolded(&local)?;
        let (folders, cluster) = open_hydra_file(&path, expected)?;
        let server_id = open_server_file(&local, expected.server_id)?;
        let incarnation =
            getrandom::u64().map_err(|error| Error::new(ErrorCode::Internal, format!("no random bits: {error}")))?;
        let incarnations = add_incarnation(&local.join(layout::INCARNATIONS_FILE), incarnation)?;
        Ok(Root {
            path,
            folders,
            cluster,
            server_id,
            incarnation,
            incarnations,
            lock: crate::sync::Mutex::new(Some(lock)),
        })
    }

    /// Whether a chunk of this incarnation was written by this server.
    pub(crate) fn is_mine(&self, incarnation: u64) -> bool {
        self.incarnations.contains(&incarnation)
    }

    /// A file of [`layout::LOCAL_DIR`].
    pub(crate) fn local(&self, file: &str) -> PathBuf {
        self.path.join(layout::LOCAL_DIR).join(file)
    }

    /// Lets another process use the directory.
    pub(crate) fn release(&self) {
        self.lock.lock().take();
    }
}

/// What `HYDRA` says of a directory that exists.
pub(crate) fn read_hydra_file(root: &Path) -> Result<Option<(FolderCount, String)>> {
    let path = root.join(layout::HYDRA_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse_hydra_file(&text).map(Some).ok_or_else(|| {
            Error::new(ErrorCode::InvalidConfig, format!("{} is damaged or of a newer version", path.display()))
                .with_hint("restore it from another server of the cluster; it is the same on all of them")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

/// Locks a data directory that exists, for a command that changes it while no server does; released when dropped.
pub(crate) fn lock_directory(root: &Path) -> Result<File> {
    let local = root.join(layout::LOCAL_DIR);
    fs::create_dir_all(&local).map_err(|error| Error::io("create", &local, error))?;
    take_lock(&local.join(layout::LOCK_FILE))
}

fn take_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| Error::io("open", path, error))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_AGAIN),
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorCode::DataDirInUse, format!("another process holds {}", path.display()))
                    .with_hint("one process serves a data directory; stop the other one first"));
            }
            Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", path, error)),
        }
    }
}

fn open_hydra_file(root: &Path, expected: &Expected<'_>) -> Result<(FolderCount, String)> {
    let Some((folders, cluster)) = read_hydra_file(root)? else {
        let folders = expected.folders.unwrap_or_default();
        let cluster = expected.cluster.unwrap_or("hydra").to_owned();
        check_cluster(&cluster)?;
        write_hydra_file(root, folders, &cluster)?;
        return Ok((folders, cluster));
    };
    if let Some(wanted) = expected.folders.filter(|&wanted| wanted != folders) {
        return Err(Error::new(
            ErrorCode::FolderCountMismatch,
            format!("{} was created with {folders} folders, not {wanted}", root.display()),
        )
        .with_hint("leave it out or give the number on disk; hydra-server refold changes it while no server runs"));
    }
    if let Some(wanted) = expected.cluster.filter(|&wanted| wanted != cluster) {
        return Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("{} belongs to the cluster {cluster:?}, not {wanted:?}", root.display()),
        ));
    }
    Ok((folders, cluster))
}

/// Says durably what the directory is, in place of what was said before.
pub(crate) fn write_hydra_file(root: &Path, folders: FolderCount, cluster: &str) -> Result<()> {
    replace_file(&root.join(layout::HYDRA_FILE), print_hydra_file(folders, cluster).as_bytes())
}

/// While swamps are renamed to other folders, half of them would not be found.
fn refuse_half_refolded(local: &Path) -> Result<()> {
    let journal = local.join(layout::REFOLD_FILE);
    if !journal.exists() {
        return Ok(());
    }
    let detail = format!("the directory is on its way to another number of folders: {}", journal.display());
    Err(Error::new(ErrorCode::InvalidConfig, detail)
        .with_hint("run hydra-server refold again with the number it names, or with the old one to turn back"))
}

fn check_cluster(name: &str) -> Result<()> {
    let fine =
        (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if fine {
        return Ok(());
    }
    Err(Error::new(ErrorCode::InvalidConfig, format!("the cluster name {name:?} is not 1 to 64 of a-z 0-9 _ -")))
}

fn print_hydra_file(folders: FolderCount, cluster: &str) -> String {
    let text = format!("hydra-data 1\nfolders {folders}\nhash xxh64\nnames pct1\ncluster {cluster}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {crc:08x}\n")
}

fn parse_hydra_file(text: &str) -> Option<(FolderCount, String)> {
    let mut lines = text.lines();
    (lines.next()? == "hydra-data 1").then_some(())?;
    let folders = lines.next()?.strip_prefix("folders ")?.parse().ok()?;
    (lines.next()? == "hash xxh64" && lines.next()? == "names pct1").then_some(())?;
    let cluster = lines.next()?.strip_prefix("cluster ")?.to_owned();
    (print_hydra_file(folders, &cluster) == text).then_some((folders, cluster))
}

/// The id of the server a directory belongs to; `None` when no server has used it yet.
pub(crate) fn read_server_file(path: &Path) -> Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let stored = text.strip_prefix("id = \"").and_then(|rest| rest.strip_suffix("\"\n")).filter(|id| is_server_id(id));
    let unreadable = || Error::new(ErrorCode::InvalidConfig, format!("{} is not readable: {text:?}", path.display()));
    stored.map(|id| Some(id.to_owned())).ok_or_else(unreadable)
}

fn open_server_file(local: &Path, wanted: Option<&str>) -> Result<String> {
    let path = local.join(layout::SERVER_FILE);
    if let Some(wanted) = wanted.filter(|id| !is_server_id(id)) {
        return Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("the server id {wanted:?} is not 1 to 32 of a-z 0-9 _"),
        ));
    }
    match (read_server_file(&path)?, wanted) {
        (Some(stored), Some(wanted)) if wanted != stored => Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("this data directory belongs to the server {stored:?}, not {wanted:?}"),
        )),
        (Some(stored), _) => Ok(stored),
        (None, wanted) => {
            let id = wanted.map_or_else(default_server_id, |id| Ok(id.to_owned()))?;
            replace_file(&path, format!("id = \"{id}\"\n").as_bytes())?;
            Ok(id)
        }
    }
}

/// The host's name and four random digits, so that no two servers share a default.
fn default_server_id() -> Result<String> {
    let random =
        getrandom::u32().map_err(|error| Error::new(ErrorCode::Internal, format!("no random bits: {error}")))?;
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(27).collect();
    let host = if host.is_empty() { "hydra" } else { &host };
    Ok(format!("{host}_{:04x}", random & 0xffff))
}

/// Adds this process to the list before it writes anything, and answers the whole list.
fn add_incarnation(path: &Path, incarnation: u64) -> Result<HashSet<u64>> {
    let earlier = read_incarnations(path)?;
    add_incarnations(path, &[incarnation])?;
    Ok(earlier.into_iter().chain([incarnation]).collect())
}

/// The incarnations in the list, in the order they were added; none when there is no list.
pub(crate) fn read_incarnations(path: &Path) -> Result<Vec<u64>> {
    let known = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let number = |line: &str| u64::from_str_radix(line, 16).ok();
    Ok(known.lines().filter(|line| line.len() == 16).filter_map(number).collect())
}

/// Adds incarnations to the list, durably.
pub(crate) fn add_incarnations(path: &Path, incarnations: &[u64]) -> Result<()> {
    let failed = |doing: &'static str| move |error| Error::io(doing, path, error);
    let known = fs::read(path).unwrap_or_default();
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed("open"))?;
    // A last line that a crash cut off is ended first; it named a process that had written nothing.
    let mut text = if known.is_empty() || known.ends_with(b"\n") { String::new() } else { "\n".to_owned() };
    text.extend(incarnations.iter().map(|incarnation| format!("{incarnation:016x}\n")));
    file.write_all(text.as_bytes()).map_err(failed("append to"))?;
    sync_all(&file).map_err(failed("sync"))?;
    if known.is_empty() { sync_parent(path) } else { Ok(()) }
}

/// Replaces a local file as a whole: write a new one, sync, rename, sync the directory.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        sync_all(&file)?;
        fs::rename(&new, path)
    };
    write().map_err(|error| Error::io("write", path, error))?;
    sync_parent(path)
}

pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    sync_dir(parent).map_err(|error| Error::io("sync", parent, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_identity_and_its_incarnations() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted =
            Expected { folders: Some(FolderCount::new(7).expect("7")), cluster: Some("eu"), server_id: Some("s1") };
        let first = Root::open(dir.path(), &wanted).expect("created");
        assert!(Root::open(dir.path(), &wanted).expect_err("locked").code() == ErrorCode::DataDirInUse);
        let before = first.incarnation;
        drop(first);
        let second = Root::open(dir.path(), &Expected::default()).expect("opened");
        assert_eq!((second.folders.get(), second.cluster.as_str(), second.server_id.as_str()), (7, "eu", "s1"));
        assert!(second.is_mine(before) && second.is_mine(second.incarnation) && before != second.incarnation);
    }

    #[test]
    fn what_contradicts_the_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Root::open(dir.path(), &Expected { server_id: Some("s1"), ..Expected::default() }).expect("created"));
        let other_count = Expected { folders: Some(FolderCount::new(101).expect("101")), ..Expected::default() };
        assert_eq!(Root::open(dir.path(), &other_count).expect_err("100").code(), ErrorCode::FolderCountMismatch);
        assert!(Root::open(dir.path(), &Expected { cluster: Some("us"), ..Expected::default() }).is_err());
        assert!(Root::open(dir.path(), &Expected { server_id: Some("s2"), ..Expected::default() }).is_err());
        assert!(Root::open(dir.path(), &Expected { server_id: Some("S-2"), ..Expected::default() }).is_err());
    }

    #[test]
    fn the_hydra_file_is_exact_and_checked() {
        let text = print_hydra_file(FolderCount::DEFAULT, "hydra");
        assert_eq!(text, "hydra-data 1\nfolders 100\nhash xxh64\nnames pct1\ncluster hydra\ncrc32c 6ea667e2\n");
        assert!(parse_hydra_file(&text).is_some());
        assert!(parse_hydra_file(&text.replace("100", "200")).is_none());
        assert!(parse_hydra_file(&text[..20]).is_none());
    }
}
