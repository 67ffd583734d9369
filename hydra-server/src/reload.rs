//! Files that may be replaced while the server runs: looked at when they are used, so an idle server looks at nothing.
//!
//! A file that cannot be read or is refused leaves what was good in force, and the log says so once.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hydra_core::{Error, ErrorCode};

/// How long what was read is used without another look: a token that was taken away works no longer than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What some files say, read again when one of them changes.
pub(crate) struct Reloaded<T> {
    files: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, Error>,
    good: ArcSwap<T>,
    /// The files as they were when they were last read.
    seen: ArcSwap<Vec<Seen>>,
    opened: Instant,
    /// When to look again, in milliseconds after `opened`.
    due: AtomicU64,
}

/// A file as far as it can be told without reading it; `None` when it is not there.
type Seen = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl<T> Reloaded<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn open(files: Vec<PathBuf>, read: fn(&[PathBuf]) -> Result<T, Error>) -> Result<Reloaded<T>, Error> {
        let seen = look(&files);
        Ok(Reloaded {
            good: ArcSwap::from_pointee(read(&files)?),
            seen: ArcSwap::from_pointee(seen),
            opened: Instant::now(),
            due: AtomicU64::new(LOOK_AGAIN.as_millis() as u64),
            files,
            read,
        })
    }

    /// What the files say now, or what they said when they were last good.
    pub(crate) fn get(&self) -> Arc<T> {
        let now = self.opened.elapsed().as_millis() as u64;
        let due = self.due.load(Ordering::Acquire);
        let again = now + LOOK_AGAIN.as_millis() as u64;
        // One of all that come at the same moment looks; the others use what there is.
        if now >= due && self.due.compare_exchange(due, again, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.look_again();
        }
        self.good.load_full()
    }

    fn look_again(&self) {
        let seen = look(&self.files);
        if **self.seen.load() == seen {
            return;
        }
        self.seen.store(Arc::new(seen));
        match (self.read)(&self.files) {
            Ok(good) => {
                self.good.store(Arc::new(good));
                tracing::info!(files = ?self.files, "changed files were read again");
            }
            Err(error) => tracing::error!("{error}; what was read before stays in force"),
        }
    }

    /// Reads the files again, whether they seem changed or not. What they say counts when the caller says so.
    ///
    /// # Errors
    /// Those of `read`; what was read before stays in force.
    pub(crate) fn read_again(&self) -> Result<Fresh<'_, T>, Error> {
        let seen = look(&self.files);
        Ok(Fresh { of: self, good: (self.read)(&self.files)?, seen })
    }
}

/// What files say that were just read, before it is in force.
#[must_use]
pub(crate) struct Fresh<'r, T> {
    of: &'r Reloaded<T>,
    good: T,
    seen: Vec<Seen>,
}

impl<T> Fresh<'_, T> {
    /// From now on it counts. Gives the files.
    pub(crate) fn enforce(self) -> Vec<PathBuf> {
        self.of.seen.store(Arc::new(self.seen));
        self.of.good.store(Arc::new(self.good));
        self.of.files.clone()
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("files", &self.files).finish_non_exhaustive()
    }
}

fn look(files: &[PathBuf]) -> Vec<Seen> {
    let seen = |path: &PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
        Some((data.dev(), data.ino(), data.len(), modified, changed))
    };
    files.iter().map(seen).collect()
}

/// Reads a file of settings that must be small.
///
/// # Errors
/// `invalid-config` names the file and why.
pub(crate) fn read_small(path: &Path, what: &str) -> Result<Vec<u8>, Error> {
    const MOST: u64 = 16 << 20;
    let refuse = |why: String| {
        let detail = format!("the {what} {} cannot be used: {why}", path.display());
        Error::new(ErrorCode::InvalidConfig, detail)
    };
    let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if length > MOST {
        return Err(refuse(format!("it has {length} bytes; {MOST} are allowed")));
    }
    std::fs::read(path).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(files: &[PathBuf]) -> Result<u32, Error> {
        let bytes = read_small(&files[0], "number")?;
        let text = String::from_utf8_lossy(&bytes);
        text.trim().parse().map_err(|_| Error::new(ErrorCode::InvalidConfig, "no number"))
    }

    #[test]
    fn what_is_good_is_taken_and_what_is_not_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("number");
        std::fs::write(&file, "1").expect("written");
        let reloaded = Reloaded::open(vec![file.clone()], number).expect("a number");
        let now = || {
            reloaded.due.store(0, Ordering::Release);
            *reloaded.get()
        };
        assert_eq!(now(), 1);
        std::fs::write(&file, "22").expect("written");
        assert_eq!(now(), 22);
        std::fs::write(&file, "nonsense").expect("written");
        assert_eq!(now(), 22);
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(now(), 22);
        std::fs::write(&file, "3").expect("written");
        assert_eq!(now(), 3);
        std::fs::write(&file, "4").expect("written");
        assert_eq!(*reloaded.get(), 3, "nobody looks again within the second");
        assert_eq!(reloaded.read_again().expect("a number").enforce(), [file.as_path()]);
        assert_eq!(*reloaded.get(), 4, "unless somebody asks for it");
        std::fs::write(&file, "nonsense").expect("written");
        assert!(reloaded.read_again().is_err());
        assert_eq!(now(), 4);
        assert!(Reloaded::open(vec![dir.path().join("none")], number).is_err());
    }
}
