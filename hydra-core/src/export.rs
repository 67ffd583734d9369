//! Exporting: the treasures of one swamp, or of all swamps of some folders, part by part.
//!
//! Between two parts nothing is held: no lock, and no swamp in memory. So a reader may take all the time it
//! wants while others write and swamps are evicted.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::{CopyState, Engine, Swamp};
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, FolderSet};
use crate::layout;
use crate::name::SwampName;
use crate::pattern::Pattern;
use crate::query::{Expired, ListQuery};
use crate::stats::count;
use crate::swamp::Resident;
use crate::value::Treasure;
use crate::walk::{self, SwampDirs};

/// A part ends with the treasure that brings it to this many bytes, or this many treasures.
const PART_BYTES: usize = 256 << 10;
const PART_MOST: usize = 1_000;
/// How long a part may take to be put together before one without treasures is given out.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How long an export waits for memory.
const PATIENCE: Duration = Duration::from_secs(20);
/// A part of an export.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExportPart {
    /// The swamp they are of.
    pub swamp: SwampName,
    /// The treasures, in the order of their keys. None when many swamps were looked at and nothing was found yet.
    pub treasures: Vec<Treasure>,
}

/// An export under way: an iterator over its parts, each about 256 KiB or 1 000 treasures. Blocks on the disk.
///
/// Within a swamp the keys come in order, each at most once. A treasure that is there from the beginning to the
/// end comes exactly once, with a value it had meanwhile; one that is put, overwritten or deleted meanwhile comes
/// as it was or as it is, or not at all if there was a time without it. Of swamps that come or go meanwhile the
/// same holds. The swamps of a folder come in no order.
///
/// An error is about one swamp or one folder, which it names; what was given out of it is right, but may not be
/// all. The iterator goes on with the next.
#[derive(Debug)]
pub struct Export {
    engine: Engine,
    pattern: Option<Pattern>,
    expired: Expired,
    folders: VecDeque<FolderId>,
    walking: Option<(FolderId, SwampDirs)>,
    current: Option<Current>,
}

/// The swamp that is being given out.
#[derive(Debug)]
struct Current {
    name: SwampName,
    after: Option<String>,
    was_resident: bool,
}

impl Engine {
    /// Exports one swamp, from behind the key `after` on if one is given.
    #[must_use]
    pub fn export(&self, name: &SwampName, after: Option<String>, expired: Expired) -> Export {
        let mut export = self.export_folders(&FolderSet::new(), None, expired);
        export.current = Some(Current::new(self, name.clone(), after));
        export
    }

    /// Exports all swamps of some folders, or those of them that match a pattern. What was acknowledged before a
    /// folder is begun is in it.
    #[must_use]
    pub fn export_folders(&self, folders: &FolderSet, pattern: Option<Pattern>, expired: Expired) -> Export {
        Export {
            engine: self.clone(),
            pattern,
            expired,
            folders: folders.iter().collect(),
            walking: None,
            current: None,
        }
    }
}

impl Current {
    fn new(engine: &Engine, name: SwampName, after: Option<String>) -> Current {
        let was_resident = engine.shared().residents.get(&name).is_some();
        Current { name, after, was_resident }
    }
}

impl Iterator for Export {
    type Item = Result<ExportPart>;

    fn next(&mut self) -> Option<Result<ExportPart>> {
        let until = Instant::now() + SIGN_OF_LIFE;
        loop {
            if self.current.is_none() {
                match self.next_swamp()? {
                    Ok(name) => self.current = Some(Current::new(&self.engine, name, None)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let current = self.current.take()?;
            let name = current.name.clone();
            match self.part(current) {
                Ok(treasures) if treasures.is_empty() && Instant::now() < until => {}
                Ok(treasures) => return Some(Ok(ExportPart { swamp: name, treasures })),
                Err(error) => return Some(Err(about(&name, &error))),
            }
        }
    }
}

impl Export {
    /// The next part of a swamp; sets what comes after it.
    fn part(&mut self, current: Current) -> Result<Vec<Treasure>> {
        let swamp = self.hydrate(&current.name)?;
        let (treasures, more) = part_of(&swamp, current.after.as_deref(), self.expired)?;
        if more {
            let after = treasures.last().map(|treasure| treasure.key.clone());
            self.current = Some(Current { after, ..current });
            return Ok(treasures);
        }
        let copy = swamp.copy_state();
        if !current.was_resident {
            leave_memory(swamp);
        }
        if treasures.is_empty() {
            return whole(copy).map(|()| treasures);
        }
        if copy != CopyState::Complete {
            // What is there comes first, and then that it is not all.
            let after = treasures.last().map(|treasure| treasure.key.clone());
            self.current = Some(Current { after, ..current });
        }
        Ok(treasures)
    }

    /// The swamp; memory that is short is waited for.
    fn hydrate(&self, name: &SwampName) -> Result<Swamp> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.engine.hydrate(name) {
                Err(error) if error.code() == ErrorCode::Busy && Instant::now() < until => {}
                outcome => return outcome,
            }
        }
    }

    /// The next swamp of the folders.
    fn next_swamp(&mut self) -> Option<Result<SwampName>> {
        loop {
            if self.engine.shared().closing.load(Ordering::Acquire) {
                self.folders.clear();
                self.walking = None;
                return Some(Err(Error::new(ErrorCode::Draining, "the server is shutting down")));
            }
            if self.walking.is_none() {
                let folder = self.folders.pop_front()?;
                let dir = self.engine.data_dir().join(layout::folder_dir(folder));
                self.walking = Some((folder, SwampDirs::of(dir)));
                // A swamp that was just written to may not have a directory yet.
                if let Err(error) = self.engine.flush(Some(folder)) {
                    return Some(Err(error));
                }
            }
            let (folder, dirs) = self.walking.as_mut()?;
            let folder = *folder;
            let name = match dirs.next() {
                None => {
                    self.walking = None;
                    continue;
                }
                Some(found) => found.and_then(|dir| self.name_of(folder, &dir)),
            };
            let wanted = |name: &SwampName| self.pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
            match name {
                Ok(Some(name)) if wanted(&name) => return Some(Ok(name)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn name_of(&self, folder: FolderId, dir: &Path) -> Result<Option<SwampName>> {
        walk::name_of_dir(&self.engine.shared().root, folder, dir)
    }
}

/// The treasures behind a key, and whether there are more.
fn part_of(swamp: &Swamp, after: Option<&str>, expired: Expired) -> Result<(Vec<Treasure>, bool)> {
    let query = ListQuery { from: after.map(str::to_owned), expired, limit: PART_MOST, ..ListQuery::default() };
    let (mut treasures, mut bytes, mut more) = (Vec::new(), 0, false);
    swamp.visit(&query, |treasure: Treasure| {
        if after == Some(&*treasure.key) {
            return true;
        }
        more = bytes >= PART_BYTES || treasures.len() >= PART_MOST;
        if !more {
            bytes += treasure.key.len() + treasure.value.len();
            treasures.push(treasure);
        }
        !more
    })?;
    Ok((treasures, more))
}

/// A swamp that came into memory only to be exported leaves it again, unless somebody uses it by now.
fn leave_memory(swamp: Swamp) {
    let resident = swamp.0;
    if resident.shared.residents.evict(&resident, Resident::leave) {
        count(&resident.shared.stats.evictions);
    }
}

fn whole(copy: CopyState) -> Result<()> {
    match copy {
        CopyState::Complete => Ok(()),
        CopyState::Incomplete => {
            Err(Error::new(ErrorCode::IncompleteCopy, "a file is not here yet, so treasures may be missing"))
        }
        CopyState::Degraded => {
            Err(Error::new(ErrorCode::CorruptSwamp, "a file is damaged, so treasures may be missing"))
        }
    }
}

fn about(name: &SwampName, error: &Error) -> Error {
    let about = Error::new(error.code(), format!("{name}: {}", error.detail())).with_applied(error.applied());
    match error.hint() {
        Some(hint) => about.with_hint(hint),
        None => about,
    }
}
