//! Looking at a data directory and what is around it, and saying what to do about each finding.
//!
//! Unlike [`verify`](crate::inspect::verify()) it reads no data, only names, facts and one header for each
//! swamp, so it is quick, and it never gives up: what cannot be read is a finding.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::folder::FolderSet;
use crate::format::header::{Header, cluster_of};
use crate::inspect::directory::Directory;
use crate::inspect::verify::stray_text;
use crate::layout::{self, ChunkName};
use crate::root::{read_hydra_file, read_incarnations, read_server_file};
use crate::space::TMPFS;
use crate::stamp::Timestamp;
use crate::walk::{self, Met};

/// Stamps so far ahead of this machine's clock are worth a word.
const AHEAD_MS: u64 = 5_000;
/// Stamps so far ahead are a fault: every new write gets a stamp beyond them.
const FAR_AHEAD_MS: u64 = 24 * 3_600_000;
/// A server keeps the clock file so far ahead while it runs.
const CLOCK_FILE_AHEAD_MS: u64 = 70_000;
/// A swamp is read into memory as a whole, so one beyond this is slow to come.
const HUGE_SWAMP: u64 = 1 << 30;
/// A swamp with more files than this was not compacted for long.
const MANY_FILES: usize = 64;
/// A list of incarnations beyond this means a server that restarts all the time.
const MANY_INCARNATIONS: usize = 10_000;
/// Of each kind of finding at most so many are listed one by one.
const LISTED: usize = 20;
/// No header is longer.
const HEADER_MOST: u64 = 2 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// Good to know.
    Note,
    /// To be looked at.
    Warn,
    /// To be mended: the server does not start, or data is at risk.
    Fail,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Check {
    /// What was checked: a short word, the same in every version.
    pub check: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What one server wrote in a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ServerFiles {
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of its processes have files here.
    pub incarnations: u64,
    /// How many of those are this server's own.
    pub mine: u64,
}

/// What a doctor says about a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Diagnosis {
    /// The directory.
    pub data: String,
    /// The server it belongs to.
    pub server: Option<String>,
    /// The cluster it belongs to.
    pub cluster: Option<String>,
    /// How many folders there are.
    pub folders: Option<u32>,
    /// How many processes have served it.
    pub incarnations: u64,
    /// Swamps with at least one chunk.
    pub swamps: u64,
    /// Chunks.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The servers that wrote them.
    pub servers: BTreeMap<String, ServerFiles>,
    /// What was checked, in order.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Whether nothing failed; warnings do not count.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.checks.iter().all(|check| check.level < Level::Fail)
    }

    fn say(&mut self, check: &'static str, level: Level, detail: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        self.checks.push(Check { check, level, detail: detail.into(), advice });
    }
}

/// Checks a data directory and its surroundings. A server may be at work on it. `progress` is called
/// with the number of files seen so far.
pub fn doctor(data_dir: &Path, progress: &mut dyn FnMut(u64)) -> Diagnosis {
    let mut says = Diagnosis { data: data_dir.display().to_string(), ..Diagnosis::default() };
    if !check_directory(data_dir, &mut says) {
        return says;
    }
    let hydra = check_hydra_file(data_dir, &mut says);
    check_identity(data_dir, &mut says);
    check_local_files(data_dir, &mut says);
    check_lock(data_dir, &mut says);
    check_clock_file(data_dir, &mut says);
    check_space(data_dir, &mut says);
    check_file_system(data_dir, &mut says);
    check_open_files(&mut says);
    if hydra {
        match Directory::read(data_dir) {
            Ok(directory) => check_folders(&directory, &mut says, progress),
            Err(error) => says.say("folders", Level::Fail, error.to_string(), "mend what failed above first"),
        }
    }
    says
}

fn check_directory(data_dir: &Path, says: &mut Diagnosis) -> bool {
    match fs::metadata(data_dir) {
        Ok(facts) if !facts.is_dir() => {
            says.say("directory", Level::Fail, "it is not a directory", "give the data directory with --data");
            false
        }
        Err(error) => {
            says.say(
                "directory",
                Level::Fail,
                format!("it cannot be looked at: {error}"),
                "check the path and its rights",
            );
            false
        }
        Ok(_) if !is_accessible(data_dir, Need::Write) => {
            let advice = "give the server's user the right to read, write and enter it";
            says.say("directory", Level::Fail, "it is not writable for this user", advice);
            true
        }
        Ok(_) => {
            says.say("directory", Level::Ok, "it is there and writable", "");
            true
        }
    }
}

fn check_hydra_file(data_dir: &Path, says: &mut Diagnosis) -> bool {
    match read_hydra_file(data_dir) {
        Ok(Some((count, cluster))) => {
            says.say("hydra-file", Level::Ok, format!("{count} folders, cluster {cluster:?}, checksum holds"), "");
            says.folders = Some(count.get());
            says.cluster = Some(cluster);
            true
        }
        Ok(None) => {
            let advice =
                "a server creates it in a new directory; in one with data copy it from another server of the cluster";
            says.say("hydra-file", Level::Fail, "there is no file HYDRA", advice);
            false
        }
        Err(error) => {
            let advice = "copy it from another server of the cluster: it is the same on all of them";
            says.say("hydra-file", Level::Fail, error.to_string(), advice);
            false
        }
    }
}

fn local(data_dir: &Path, file: &str) -> PathBuf {
    data_dir.join(layout::LOCAL_DIR).join(file)
}

fn check_identity(data_dir: &Path, says: &mut Diagnosis) {
    match read_server_file(&local(data_dir, layout::SERVER_FILE)) {
        Ok(Some(id)) => {
            says.say("identity", Level::Ok, format!("the directory belongs to the server {id:?}"), "");
            says.server = Some(id);
        }
        Ok(None) => {
            let advice = "fine for a copy; a server that starts here gets a new identity (give --id), and after \
                 `hydra-server adopt` the old files are its own again";
            says.say("identity", Level::Warn, "no server has used the directory, or .hydra/ was lost", advice);
        }
        Err(error) => {
            says.say("identity", Level::Fail, error.to_string(), "write the line  id = \"NAME\"  into it");
        }
    }
    match read_incarnations(&local(data_dir, layout::INCARNATIONS_FILE)) {
        Ok(list) => {
            says.incarnations = list.len() as u64;
            let distinct = list.iter().collect::<HashSet<_>>().len();
            let (level, advice) = match distinct {
                many if many > MANY_INCARNATIONS => {
                    (Level::Note, "a server that restarts often; harmless but for the file's length")
                }
                _ => (Level::Ok, ""),
            };
            says.say("incarnations", level, format!("{distinct} processes have served it"), advice);
        }
        Err(error) => says.say(
            "incarnations",
            Level::Fail,
            error.to_string(),
            "mend the file's rights; if it is lost, `hydra-server adopt`",
        ),
    }
}

fn check_local_files(data_dir: &Path, says: &mut Diagnosis) {
    for (check, file) in [("folders-file", layout::FOLDERS_FILE), ("policies", layout::POLICIES_FILE)] {
        let path = local(data_dir, file);
        match fs::read(&path).map(|text| serde_json::from_slice::<serde_json::Value>(&text)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => says.say(check, Level::Fail, format!("{}: {error}", path.display()), "mend its rights"),
            Ok(Err(error)) => {
                let advice =
                    "restore the file or, if its content is not needed, remove it; the server does not start with it";
                says.say(check, Level::Fail, format!("{} is damaged: {error}", path.display()), advice);
            }
            Ok(Ok(json)) => says.say(check, Level::Ok, local_file_text(file, &json), ""),
        }
    }
    check_rights(data_dir, says);
    check_takeover(data_dir, says);
    let damaged = count_files(&local(data_dir, "damaged"));
    if damaged > 0 {
        let advice = "remove .hydra/damaged when nothing of it is needed any more";
        says.say("set-aside", Level::Note, format!("{damaged} damaged files were set aside by `repair`"), advice);
    }
}

fn local_file_text(file: &str, json: &serde_json::Value) -> String {
    let copied = || {
        let sets: Option<Vec<FolderSet>> = serde_json::from_value(json["copied"].clone()).ok();
        let count: u64 = sets.unwrap_or_default().iter().map(|set| set.len() as u64).sum();
        format!("{count} folders count as copied: other machines have files of them")
    };
    match json.as_array() {
        Some(list) if file == layout::POLICIES_FILE => format!("{} policies are registered", list.len()),
        _ => copied(),
    }
}

/// The server replaces and appends to its local files.
fn check_rights(data_dir: &Path, says: &mut Diagnosis) {
    let Ok(entries) = fs::read_dir(data_dir.join(layout::LOCAL_DIR)) else { return };
    let paths = entries.flatten().map(|entry| entry.path());
    let refused = paths.filter(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err());
    let refused: Vec<String> = refused.map(|path| path.display().to_string()).collect();
    if !refused.is_empty() {
        let advice = "give the server's user the right to write them: they may have been made by a command run as root";
        says.say("rights", Level::Fail, format!("not writable for this user: {}", refused.join(", ")), advice);
    }
}

/// One line for each file that was written in place of a folder's owner.
fn check_takeover(data_dir: &Path, says: &mut Diagnosis) {
    let Ok(entries) = fs::read_dir(local(data_dir, "takeover")) else { return };
    let lines = |path: PathBuf| fs::read(path).map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count());
    let (mut folders, mut files) = (0, 0);
    for noted in entries.flatten().map(|entry| lines(entry.path())).filter(|&noted| noted > 0) {
        folders += 1;
        files += noted;
    }
    if files > 0 {
        let detail =
            format!("{files} files in {folders} folders were written in place of their owner and are not settled");
        says.say("takeover", Level::Warn, detail, "run `hydra-router sync` so that the owners get them");
    }
}

fn count_files(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_files(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count).sum()
}

fn check_lock(data_dir: &Path, says: &mut Diagnosis) {
    let Ok(file) = File::open(local(data_dir, layout::LOCK_FILE)) else { return };
    match file.try_lock_shared() {
        Ok(()) => says.say("lock", Level::Ok, "no process uses the directory", ""),
        Err(fs::TryLockError::WouldBlock) => says.say("lock", Level::Note, "a server is at work on the directory", ""),
        Err(fs::TryLockError::Error(error)) => {
            let advice = "the file system cannot lock files, so two servers could start here: use a local one";
            says.say("lock", Level::Fail, format!("the lock does not work: {error}"), advice);
        }
    }
}

fn check_clock_file(data_dir: &Path, says: &mut Diagnosis) {
    let path = local(data_dir, layout::CLOCK_FILE);
    let Ok(text) = fs::read_to_string(&path) else { return };
    let Ok(ceiling) = text.trim().parse::<u64>() else {
        let advice = "remove the file: the stamps in the chunks keep order, and a server writes it anew";
        return says.say("clock", Level::Warn, format!("{} is not readable", path.display()), advice);
    };
    let ahead = ceiling.saturating_sub(Timestamp::now().as_millis());
    say_ahead(says, "clock", "the clock file", ahead, CLOCK_FILE_AHEAD_MS);
}

fn say_ahead(says: &mut Diagnosis, check: &'static str, what: &str, ahead_ms: u64, allowed_ms: u64) {
    let advice = "set this machine's clock right (NTP). Stamps never go back: what is written meanwhile is stamped behind \
         these, and on copies with a right clock older writes may win until that time has come";
    let ahead = crate::duration::format_duration(std::time::Duration::from_millis(ahead_ms));
    match ahead_ms {
        ms if ms > FAR_AHEAD_MS => {
            says.say(check, Level::Fail, format!("{what} is {ahead} ahead of this machine's clock"), advice)
        }
        ms if ms > allowed_ms => {
            says.say(check, Level::Warn, format!("{what} is {ahead} ahead of this machine's clock"), advice)
        }
        _ => says.say(check, Level::Ok, format!("{what} is not ahead of this machine's clock"), ""),
    }
}

fn check_space(data_dir: &Path, says: &mut Diagnosis) {
    let space = match rustix::fs::statvfs(data_dir) {
        Ok(space) => space,
        Err(error) => return says.say("space", Level::Warn, format!("free space is not known: {error}"), ""),
    };
    let (free, total) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
    let kept = (256 << 20).min(total / 100);
    let detail = format!("{} MiB of {} MiB are free", free >> 20, total >> 20);
    match () {
        () if free < kept => {
            says.say("space", Level::Fail, detail, "writes are refused until there is more room: free some")
        }
        () if free < total / 20 => says.say("space", Level::Warn, detail, "make room before writes are refused"),
        () => says.say("space", Level::Ok, detail, ""),
    }
    if space.f_files == 0 {
        return; // File systems without a fixed number of files.
    }
    let detail = format!("{} of {} inodes are free; a swamp needs two", space.f_favail, space.f_files);
    let advice = "a file system with more inodes (mkfs.ext4 -i 4096), or one without a limit (XFS, btrfs)";
    match () {
        () if space.f_favail < space.f_files / 100 => says.say("inodes", Level::Fail, detail, advice),
        () if space.f_favail < space.f_files / 20 => says.say("inodes", Level::Warn, detail, advice),
        () => says.say("inodes", Level::Ok, detail, ""),
    }
}

/// File systems by the number that the kernel gives them.
fn file_system(kind: u64) -> (&'static str, Level, &'static str) {
    let network = "locks, exclusive creation and syncs mean something else there: use a local disk or a block device";
    match kind & 0xffff_ffff {
        0xef53 => ("ext4", Level::Ok, ""),
        0x5846_5342 => ("XFS", Level::Ok, ""),
        0x9123_683e => ("btrfs", Level::Ok, ""),
        0x2fc1_2fc1 => ("ZFS", Level::Ok, ""),
        0xf2f5_2010 => ("F2FS", Level::Ok, ""),
        0xca45_1a4e => ("bcachefs", Level::Ok, ""),
        0x794c_7630 => ("overlayfs", Level::Warn, "the writable layer of a container goes with it: mount a volume"),
        TMPFS => ("tmpfs", Level::Warn, "it is memory and gone after a restart: for tests only"),
        0x6969 => ("NFS", Level::Warn, network),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => ("SMB", Level::Warn, network),
        0x6573_5546 => ("FUSE", Level::Warn, network),
        0x0102_1997 => ("9p", Level::Warn, network),
        0x00c3_6400 => ("Ceph", Level::Warn, network),
        0x5346_414f | 0x6b41_4653 => ("AFS", Level::Warn, network),
        0xf15f => ("eCryptfs", Level::Fail, "it allows names of 143 bytes only: use another one"),
        _ => ("a file system that is not known here", Level::Note, "it must keep what it has synced"),
    }
}

fn check_file_system(data_dir: &Path, says: &mut Diagnosis) {
    match rustix::fs::statfs(data_dir) {
        Ok(stat) => {
            let (name, level, advice) = file_system(stat.f_type as u64);
            says.say("file-system", level, format!("it is on {name}"), advice);
        }
        Err(error) => says.say("file-system", Level::Warn, format!("it cannot be asked: {error}"), ""),
    }
}

fn check_open_files(says: &mut Diagnosis) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let detail = limit.map_or("no limit".to_owned(), |limit| format!("{limit} at once"));
    let advice = "raise it for the server: ulimit -n 65536, or LimitNOFILE=65536 in its systemd unit";
    match limit {
        Some(few) if few < 256 => says.say("open-files", Level::Fail, detail, advice),
        Some(few) if few < 4_096 => says.say("open-files", Level::Warn, detail, advice),
        _ => says.say("open-files", Level::Ok, detail, ""),
    }
}

/// What is counted and found on the walk through all folders.
#[derive(Default)]
struct Walked {
    found: BTreeMap<(&'static str, Level), Found>,
    incarnations: BTreeMap<String, HashSet<u64>>,
    newest_ms: u64,
}

#[derive(Default)]
struct Found {
    count: u64,
    examples: Vec<String>,
}

impl Walked {
    fn find(&mut self, check: &'static str, level: Level, example: impl FnOnce() -> String) {
        let found = self.found.entry((check, level)).or_default();
        found.count += 1;
        if found.examples.len() < LISTED {
            found.examples.push(example());
        }
    }
}

fn check_folders(directory: &Directory, says: &mut Diagnosis, progress: &mut dyn FnMut(u64)) {
    let mut walked = Walked::default();
    if let Err(error) = walk_folders(directory, says, &mut walked, progress) {
        says.say("folders", Level::Fail, error.to_string(), "mend its rights; the server cannot read it either");
    }
    for (server, incarnations) in &walked.incarnations {
        let entry = says.servers.entry(server.clone()).or_default();
        entry.incarnations = incarnations.len() as u64;
        entry.mine = incarnations.iter().filter(|&&number| directory.is_mine(number)).count() as u64;
    }
    tell_walked(says, &walked);
}

fn walk_folders(
    directory: &Directory,
    says: &mut Diagnosis,
    walked: &mut Walked,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    for (_, dir) in directory.folders(None)? {
        walk::everything(&dir, &mut |met| {
            match met {
                Met::Swamp(dir, chunks) => check_swamp(directory, dir, chunks, says, walked),
                Met::Stray(path) => check_stray(directory, path, walked),
            }
            progress(says.files);
            Ok(())
        })?;
    }
    Ok(())
}

fn check_swamp(
    directory: &Directory,
    dir: &Path,
    chunks: &[(ChunkName, u64)],
    says: &mut Diagnosis,
    walked: &mut Walked,
) {
    if chunks.is_empty() {
        return;
    }
    let bytes: u64 = chunks.iter().map(|(_, length)| length).sum();
    says.swamps += 1;
    says.files += chunks.len() as u64;
    says.bytes += bytes;
    let printed = directory.printed(dir);
    if bytes > HUGE_SWAMP {
        walked.find("huge-swamps", Level::Warn, || format!("{printed} ({} MiB)", bytes >> 20));
    }
    if chunks.len() > MANY_FILES {
        walked.find("many-files", Level::Warn, || format!("{printed} ({} files)", chunks.len()));
    }
    if !is_accessible(dir, Need::Write) {
        walked.find("rights", Level::Fail, || format!("{printed} is not writable"));
    }
    for (name, length) in chunks {
        check_chunk(directory, &dir.join(name.file_name()), name, *length, says, walked);
    }
    check_header(directory, dir, &chunks[0].0, walked);
}

fn check_chunk(
    directory: &Directory,
    path: &Path,
    name: &ChunkName,
    length: u64,
    says: &mut Diagnosis,
    walked: &mut Walked,
) {
    let server = says.servers.entry(name.server.clone()).or_default();
    server.files += 1;
    server.bytes += length;
    walked.incarnations.entry(name.server.clone()).or_default().insert(name.incarnation);
    if length == 0 {
        walked.find("empty-files", Level::Note, || directory.printed(path));
    }
    if !is_accessible(path, Need::Read) {
        walked.find("rights", Level::Fail, || format!("{} is not readable", directory.printed(path)));
    }
    if fs::symlink_metadata(path).is_ok_and(|facts| facts.nlink() > 1) {
        walked.find("hard-links", Level::Note, || directory.printed(path));
    }
}

/// One header says where the swamp belongs, and how late its writer's clock was.
fn check_header(directory: &Directory, dir: &Path, name: &ChunkName, walked: &mut Walked) {
    let Some(header) = read_header(&dir.join(name.file_name())) else { return };
    let newest_ms = header.base_hlc.max(header.vector.max_hlc()) >> 16;
    walked.newest_ms = walked.newest_ms.max(newest_ms);
    let home = directory.home(&header.name);
    let path = || directory.printed(&dir.join(name.file_name()));
    if header.cluster != cluster_of(&directory.cluster) {
        walked.find("other-cluster", Level::Fail, path);
    } else if directory.root.join(&home) != dir {
        walked.find("misplaced", Level::Fail, || {
            format!("{} is of {} and belongs in {}", path(), header.name, home.display())
        });
    }
}

fn read_header(path: &Path) -> Option<Header> {
    // Opening a pipe would wait for somebody to write to it.
    let mut file = Some(path).filter(|path| path.is_file()).and_then(|path| File::open(path).ok())?;
    let mut front = vec![0; 64];
    file.read_exact(&mut front).ok()?;
    let length = u64::from(u32::from_le_bytes(front[12..16].try_into().ok()?));
    let rest = length.checked_sub(front.len() as u64).filter(|_| length <= HEADER_MOST)?;
    file.take(rest).read_to_end(&mut front).ok()?;
    Header::decode(&front).ok().map(|(header, _)| header)
}

fn check_stray(directory: &Directory, path: &Path, walked: &mut Walked) {
    if let Some(text) = stray_text(path) {
        let (check, level) = match () {
            () if text.contains("longer than the chunk") => ("conflict-copies", Level::Warn),
            () if text.contains("conflict copy") => ("conflict-copies", Level::Note),
            () if text.contains("temporary") => ("temporary-files", Level::Note),
            () => ("stray-files", Level::Note),
        };
        walked.find(check, level, || directory.printed(path));
    }
}

fn tell_walked(says: &mut Diagnosis, walked: &Walked) {
    let ahead = walked.newest_ms.saturating_sub(Timestamp::now().as_millis());
    say_ahead(says, "stamps", "the newest stamp in the headers of the files", ahead, AHEAD_MS);
    for (&(check, level), found) in &walked.found {
        let more = match found.count - found.examples.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let detail = format!("{}: {}{more}", found.count, found.examples.join(", "));
        says.say(check, level, detail, advice_for(check));
    }
    let foreign: Vec<String> =
        says.servers.iter().filter(|(_, files)| files.mine < files.incarnations).map(server_text).collect();
    if !foreign.is_empty() {
        let advice = "fine where other servers write copies; for a server that is gone for good, `hydra-server adopt`";
        says.say(
            "servers",
            Level::Note,
            format!("files that are not this server's own: {}", foreign.join(", ")),
            advice,
        );
    }
}

fn server_text((server, files): (&String, &ServerFiles)) -> String {
    let ServerFiles { files, incarnations, mine, .. } = files;
    format!("{server} ({files} files of {incarnations} processes, {mine} of them own)")
}

fn advice_for(check: &str) -> &'static str {
    match check {
        "huge-swamps" => "a swamp is read as a whole when it is first used: split it by user, day or topic",
        "many-files" => "`hydra-server compact`, or POST /v1/folders/{F}/compact on the running server",
        "rights" => "give the server's user the right to read files and to write directories",
        "empty-files" => "left by a crash at their creation; `hydra-server gc` removes those of this server",
        "hard-links" => {
            "backups by hard links share bytes with live files; the server begins new files instead. Use copies or reflinks"
        }
        "other-cluster" => "move it to where it belongs; nobody reads it here",
        "misplaced" => "move it to where it belongs; nobody reads it here",
        "conflict-copies" => {
            "a chunk has one writer, so its conflict copies are parts of it: remove them, or look at longer ones with `inspect`"
        }
        "temporary-files" => "remove them when no copy tool is at work",
        _ => "remove what does not belong there",
    }
}

#[derive(Clone, Copy)]
enum Need {
    Read,
    Write,
}

fn is_accessible(path: &Path, need: Need) -> bool {
    use rustix::fs::Access;
    let wanted = match need {
        Need::Read => Access::READ_OK,
        Need::Write => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
    };
    rustix::fs::access(path, wanted).is_ok()
}
