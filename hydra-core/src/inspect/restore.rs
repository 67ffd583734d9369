//! Writing the values of another data directory as new ones: the way back from a snapshot.
//!
//! Putting old files back would not do where copies exist, since newer files of the copies would be
//! merged in again. New writes have newer stamps, so they win wherever they are copied to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::engine::{CopyState, Engine, Swamp};
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderSet, folder_of};
use crate::inspect::directory::Directory;
use crate::inspect::swamp::SwampOnDisk;
use crate::name::SwampName;
use crate::pattern::Pattern;
use crate::query::ListQuery;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::value::Treasure;
use crate::write::{Batch, Condition, Op};

/// A batch is written when it has so many operations.
const BATCH_OPS: usize = 1_000;
/// A batch is written when its values have so many bytes.
const BATCH_BYTES: usize = 4 << 20;

/// What to write back, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The directory to read: a data directory, in use or not. It is not changed.
    pub from: PathBuf,
    /// Only swamps of this name or pattern. Default all.
    pub swamps: Option<Pattern>,
    /// Only swamps of these folders, as the target counts them. Default all.
    pub folders: Option<FolderSet>,
    /// Only put back keys that are absent now; change and delete nothing. Default no: every swamp
    /// becomes exactly what it is in `from`.
    pub only_missing: bool,
    /// Also empty the swamps that are here and not in `from`. Default no.
    pub delete_absent_swamps: bool,
    /// Write back what can be read of swamps that are damaged or incomplete in `from`, and delete
    /// nothing in them. Default no: they are skipped.
    pub even_incomplete: bool,
    /// Read a directory of another cluster, too. Default no.
    pub any_cluster: bool,
    /// Only count what would be written. Default no.
    pub dry_run: bool,
}

impl RestoreOptions {
    /// The defaults for a directory to read.
    #[must_use]
    pub fn from_dir(from: impl Into<PathBuf>) -> RestoreOptions {
        RestoreOptions {
            from: from.into(),
            swamps: None,
            folders: None,
            only_missing: false,
            delete_absent_swamps: false,
            even_incomplete: false,
            any_cluster: false,
            dry_run: false,
        }
    }
}

/// A swamp, or a key of it, that was not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Skipped {
    /// The swamp, or where it is in the directory that was read.
    pub swamp: String,
    /// The key, when only that was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why.
    pub problem: String,
}

/// What was written back, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Restored {
    /// Swamps read.
    pub swamps: u64,
    /// Swamps of them in which something was written or deleted.
    pub changed: u64,
    /// Values written.
    pub written: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// Values that were the same already.
    pub unchanged: u64,
    /// Bytes of the values written.
    pub bytes: u64,
    /// Swamps that are here and not in the directory that was read. They were emptied if that was
    /// asked for, else left alone.
    pub absent_swamps: u64,
    /// What was not restored.
    pub skipped: Vec<Skipped>,
}

impl Restored {
    fn skip(&mut self, swamp: String, key: Option<String>, problem: String) {
        self.skipped.push(Skipped { swamp, key, problem });
    }
}

/// Writes the values of another directory to an engine as new writes: keys with another value are
/// overwritten, absent ones put back, and keys that are not there deleted. Sums of increments become
/// plain values; expiry and content types are kept; values that have expired stay away. Running it
/// again writes only what differs, so it can be stopped and begun again at any time. The engine
/// should be opened with [`copied`](crate::EngineOptions::copied), so that deletes leave their marks.
/// `progress` is called with the number of swamps done so far.
///
/// # Errors
/// `not-found` when there is no data directory to read, `invalid-parameter` when it is of another
/// cluster, and those of the engine. What was written before stays.
pub fn restore(engine: &Engine, options: &RestoreOptions, progress: &mut dyn FnMut(u64)) -> Result<Restored> {
    let from = Directory::read(&options.from)?;
    check_source(engine, &from, options)?;
    let mut restorer = Restorer { engine, options, from: &from, names: Vec::new(), done: Restored::default() };
    let mut dirs = Vec::new();
    from.each_swamp(None, &mut |_, dir| {
        dirs.push(dir.to_path_buf());
        Ok(())
    })?;
    for dir in dirs {
        if restorer.swamp_at(&dir)? {
            restorer.done.swamps += 1;
            progress(restorer.done.swamps);
        }
    }
    restorer.absent_swamps()?;
    engine.flush(None)?;
    Ok(restorer.done)
}

fn check_source(engine: &Engine, from: &Directory, options: &RestoreOptions) -> Result<()> {
    let same = from.root.canonicalize().is_ok_and(|root| root == engine.data_dir());
    if same {
        return Err(Error::new(ErrorCode::InvalidParameter, "the directory to read is the one to write"));
    }
    if let Some(folders) = &options.folders {
        folders.check(engine.folder_count())?;
    }
    if from.cluster != engine.cluster() && !options.any_cluster {
        let detail =
            format!("{} is of the cluster {:?}, not {:?}", from.root.display(), from.cluster, engine.cluster());
        return Err(Error::new(ErrorCode::InvalidParameter, detail).with_hint("--any-cluster reads it all the same"));
    }
    Ok(())
}

struct Restorer<'a> {
    engine: &'a Engine,
    options: &'a RestoreOptions,
    from: &'a Directory,
    /// Every swamp that was met in `from`.
    names: Vec<SwampName>,
    done: Restored,
}

impl Restorer<'_> {
    fn is_wanted(&self, name: &SwampName) -> bool {
        let folder = folder_of(name, self.engine.folder_count());
        self.options.swamps.as_ref().is_none_or(|pattern| pattern.matches(name))
            && self.options.folders.as_ref().is_none_or(|folders| folders.contains(folder))
    }

    /// Answers whether the swamp is one of those wanted.
    fn swamp_at(&mut self, dir: &Path) -> Result<bool> {
        let swamp = SwampOnDisk::read(Some(self.from), dir)?;
        let Some(name) = swamp.name.clone() else {
            if !swamp.files.iter().all(|file| file.bytes.is_empty()) {
                let problem = "none of its files can be read".to_owned();
                self.done.skip(self.from.printed(dir), None, problem);
            }
            return Ok(false);
        };
        if !self.is_wanted(&name) {
            return Ok(false);
        }
        self.names.push(name.clone());
        let state = swamp.state();
        drop(swamp);
        let whole = state.copy == CopyState::Complete;
        if !whole && !self.options.even_incomplete {
            let problem =
                format!("it is {} there; --even-incomplete writes back what can be read", state.copy.as_str());
            self.done.skip(name.to_string(), None, problem);
            return Ok(true);
        }
        self.restore(&name, state, whole && !self.options.only_missing)?;
        Ok(true)
    }

    fn restore(&mut self, name: &SwampName, state: State, exactly: bool) -> Result<()> {
        let target = self.engine.hydrate(name)?;
        let here = all_treasures(&target)?;
        let there = treasures_of(&state);
        let mut plan = Plan::new(&target, self.options, &mut self.done);
        let absent: Vec<&Treasure> = here.values().filter(|treasure| !there.contains_key(&treasure.key)).collect();
        if exactly {
            for treasure in absent {
                plan.delete(treasure)?;
            }
        }
        let mut keys: Vec<&String> = there.keys().collect();
        keys.sort_unstable();
        for key in keys {
            plan.put(&there[key], here.get(key))?;
        }
        plan.finish()
    }

    /// What is here and not in the directory that was read.
    fn absent_swamps(&mut self) -> Result<()> {
        let known: std::collections::HashSet<&SwampName> = self.names.iter().collect();
        let directory = Directory::read(self.engine.data_dir())?;
        let mut absent = Vec::new();
        directory.each_swamp(self.options.folders.as_ref(), &mut |_, dir| {
            let name = SwampOnDisk::read(Some(&directory), dir)?.name;
            absent.extend(name.filter(|name| self.is_wanted(name) && !known.contains(name)));
            Ok(())
        })?;
        for name in absent {
            let target = self.engine.hydrate(&name)?;
            let here = all_treasures(&target)?;
            self.done.absent_swamps += u64::from(!here.is_empty());
            if self.options.delete_absent_swamps && !self.options.only_missing {
                let mut plan = Plan::new(&target, self.options, &mut self.done);
                here.values().try_for_each(|treasure| plan.delete(treasure))?;
                plan.finish()?;
            }
        }
        Ok(())
    }
}

type ByKey = HashMap<String, Treasure>;

fn all_treasures(swamp: &Swamp) -> Result<ByKey> {
    let page = swamp.list(&ListQuery { limit: usize::MAX, ..ListQuery::default() })?;
    Ok(page.treasures.into_iter().map(|treasure| (treasure.key.clone(), treasure)).collect())
}

fn treasures_of(state: &State) -> ByKey {
    state.treasures(Timestamp::now()).map(|treasure| (treasure.key.clone(), treasure)).collect()
}

/// What is to be done in one swamp.
struct Plan<'a> {
    swamp: &'a Swamp,
    options: &'a RestoreOptions,
    done: &'a mut Restored,
    batch: Vec<Op>,
    bytes: usize,
    changed: bool,
}

impl<'a> Plan<'a> {
    fn new(swamp: &'a Swamp, options: &'a RestoreOptions, done: &'a mut Restored) -> Plan<'a> {
        Plan { swamp, options, done, batch: Vec::new(), bytes: 0, changed: false }
    }

    fn put(&mut self, there: &Treasure, here: Option<&Treasure>) -> Result<()> {
        let same = |here: &Treasure| here.value == there.value && here.expires_at == there.expires_at;
        if here.is_some_and(|here| same(here) || self.options.only_missing) {
            self.done.unchanged += 1;
            return Ok(());
        }
        self.done.written += 1;
        self.done.bytes += there.value.len() as u64;
        self.bytes += there.value.len();
        self.push(Op::Put {
            key: there.key.clone(),
            value: there.value.clone(),
            expiry: there.expires_at.into(),
            condition: condition(here),
        })
    }

    fn delete(&mut self, here: &Treasure) -> Result<()> {
        self.done.deleted += 1;
        self.push(Op::Delete { key: here.key.clone(), condition: condition(Some(here)) })
    }

    fn push(&mut self, op: Op) -> Result<()> {
        self.changed = true;
        self.batch.push(op);
        if self.batch.len() >= BATCH_OPS || self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.bytes = 0;
        let ops = std::mem::take(&mut self.batch);
        if ops.is_empty() || self.options.dry_run {
            return Ok(());
        }
        let keys: Vec<(String, bool)> =
            ops.iter().map(|op| (op.key().to_owned(), matches!(op, Op::Delete { .. }))).collect();
        let committed = self.swamp.write(Batch { ops, ..Batch::default() }).wait()?;
        for ((key, is_delete), result) in keys.into_iter().zip(committed.results) {
            if let Err(error) = result {
                let count = if is_delete { &mut self.done.deleted } else { &mut self.done.written };
                *count -= 1;
                self.done.skip(self.swamp.name().to_string(), Some(key), error.to_string());
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.write()?;
        self.done.changed += u64::from(self.changed);
        Ok(())
    }
}

/// Nobody else writes meanwhile, and a policy may demand that overwriting names a version.
fn condition(here: Option<&Treasure>) -> Condition {
    here.map_or(Condition::Always, |here| Condition::Version(vec![here.version]))
}
