//! Loop devices, file systems and mounts that go away with their guards, and what a test needs to run.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Process, program};

/// A directory for data, that stays when `HYDRA_FAULTS_KEEP` is set.
pub(crate) fn data_dir() -> TempDir {
    let keep = std::env::var_os("HYDRA_FAULTS_KEEP").is_some();
    tempfile::Builder::new().disable_cleanup(keep).tempdir().expect("a directory")
}

/// Flags of a server that compacts and collects all the time, and looks for the files of others often.
pub(crate) const TIDY: [&str; 6] = ["--sweep", "200ms", "--gc-delay", "5s", "--foreign-poll", "200ms"];

/// Starts a server whose complaints about what is done to it are shown only with `HYDRA_FAULTS_LOG` set.
pub(crate) fn start(data: &Path, flags: &[&str]) -> Process {
    let shown = std::env::var_os("HYDRA_FAULTS_LOG").is_some();
    let log = if shown { Stdio::inherit() } else { Stdio::null() };
    Process::start_as(program().stderr(log), data, flags)
}

/// Whether the tools are here; else says so, and fails where all of them must be.
pub(crate) fn has(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| find(tool).is_none()).collect();
    missing.is_empty() || skipped(&format!("{missing:?} not found"))
}

/// Whether file systems can be made and mounted with these tools.
pub(crate) fn can_mount(tools: &[&str]) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !root {
        return skipped("only root can mount");
    }
    if !has(&["losetup", "mount", "umount"]) || !has(tools) {
        return false;
    }
    try_run("losetup", &["-f"]).status.success() || skipped("there are no loop devices")
}

/// Says that a test is skipped, which may not happen in CI.
pub(crate) fn skipped(why: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: {why}");
    eprintln!("skipped: {why}");
    false
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    places.map(|place| place.join(tool)).find(|file| file.is_file())
}

/// A command of the system, found also where only root looks.
pub(crate) fn command(tool: &str) -> Command {
    Command::new(find(tool).unwrap_or_else(|| PathBuf::from(tool)))
}

/// Runs a command to its end.
pub(crate) fn try_run(tool: &str, arguments: &[&str]) -> Output {
    let output = command(tool).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{tool} does not start: {error}"))
}

/// Runs a command that must succeed; answers what it printed.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> String {
    let output = try_run(tool, arguments);
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Calls until it works; other runs take the same devices.
fn persist<T>(what: &str, mut act: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..50 {
        match act() {
            Ok(done) => return done,
            Err(why) => last = why,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: {last}");
}

fn attempt(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let output = try_run(tool, arguments);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A directory for images, in memory where there is room for them: there a sync costs little, so that more
/// of them are tried.
pub(crate) fn quick_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |room| room.f_bavail * room.f_frsize);
    let dir = if free > 4 << 30 { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory for images")
}

/// A loop device over an image file.
#[derive(Debug)]
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    pub(crate) fn over(image: &Path) -> Loop {
        Loop(persist("losetup", || attempt("losetup", &["-f", "--show", text(image)])))
    }

    /// One that is asked for one page at a time, so that a page is stored or refused. Of a request that an
    /// image takes in part, a loop device says that all of it was stored (seen on Linux 6.18).
    fn over_pages(image: &Path) -> Loop {
        let flags = ["--sector-size", "4096", "-f", "--show", text(image)];
        let device = Loop(persist("losetup", || attempt("losetup", &flags)));
        let name = device.0.trim_start_matches("/dev/");
        std::fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "4").expect("requests of one page");
        device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["-d", &self.0]);
    }
}

/// A mounted file system. Dropping it unmounts, also from under those who still use it.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    _device: Option<Loop>,
}

impl Mount {
    /// Mounts an image; the directory is made.
    pub(crate) fn image(image: &Path, dir: &Path, options: &str) -> Mount {
        Mount::try_image(image, dir, options).unwrap_or_else(|why| panic!("mount {}: {why}", image.display()))
    }

    /// Mounts an image that may be too damaged for it.
    pub(crate) fn try_image(image: &Path, dir: &Path, options: &str) -> Result<Mount, String> {
        Mount::device(Loop::over(image), dir, options)
    }

    /// Mounts an image in a place that runs out of space.
    pub(crate) fn scant_image(image: &Path, dir: &Path) -> Mount {
        let mounted = Mount::device(Loop::over_pages(image), dir, "rw");
        mounted.unwrap_or_else(|why| panic!("mount {}: {why}", image.display()))
    }

    fn device(device: Loop, dir: &Path, options: &str) -> Result<Mount, String> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        attempt("mount", &["-o", options, &device.0, text(dir)])?;
        Ok(Mount { dir: dir.to_owned(), _device: Some(device) })
    }

    /// A file system in memory of so many MiB.
    pub(crate) fn tmpfs(dir: &Path, mebibytes: u64) -> Mount {
        std::fs::create_dir_all(dir).expect("a directory to mount on");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs", text(dir)]);
        Mount { dir: dir.to_owned(), _device: None }
    }

    /// Gives a file system in memory more room, or less.
    pub(crate) fn resize(&self, mebibytes: u64) {
        run("mount", &["-o", &format!("remount,size={mebibytes}m"), text(&self.dir)]);
    }

    /// Unmounts in order: nobody uses it any more.
    pub(crate) fn unmount(self) {
        persist("umount", || attempt("umount", &[text(&self.dir)]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !try_run("mountpoint", &["-q", text(&self.dir)]).status.success() {
            return;
        }
        for _ in 0..20 {
            if try_run("umount", &[text(&self.dir)]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = try_run("umount", &["-l", text(&self.dir)]);
    }
}

/// The file systems under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// Makes a sparse image of so many MiB with this file system on it.
    pub(crate) fn format(self, image: &Path, mebibytes: u64) {
        let file = File::create(image).expect("an image");
        file.set_len(mebibytes << 20).expect("a sparse image");
        match self {
            FileSystem::Ext4 => run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-E", "nodiscard", text(image)]),
            FileSystem::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", "-s", "size=4096", text(image)]),
            FileSystem::Btrfs => run("mkfs.btrfs", &["-q", "-f", "-K", "-m", "single", text(image)]),
        };
    }

    pub(crate) fn tool(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
            FileSystem::Btrfs => "mkfs.btrfs",
        }
    }

    /// How a second copy of an image that has been mounted before is mounted.
    pub(crate) fn clone_options(self) -> &'static str {
        if self == FileSystem::Xfs { "nouuid" } else { "rw" }
    }
}
