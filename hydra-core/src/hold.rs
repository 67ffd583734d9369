//! Holds: folders in which nothing superseded is removed for a while, so that a backup finds all it listed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::folder::FolderId;
use crate::layout;
use crate::root::Root;
use crate::shared::{read_json, write_json};
use crate::stamp::Timestamp;

/// The holds in force, kept on disk so that a restart in the middle of a backup does not end them.
#[derive(Debug)]
pub(crate) struct Holds {
    until: Mutex<HashMap<FolderId, Timestamp>>,
    file: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredHold {
    folder: FolderId,
    until: Timestamp,
}

/// The folders that a file of holds keeps as they are, now.
pub(crate) fn in_force(file: &Path) -> Result<Vec<FolderId>> {
    let stored: Vec<StoredHold> = read_json(file)?.unwrap_or_default();
    let now = Timestamp::now();
    Ok(stored.into_iter().filter(|hold| hold.until > now).map(|hold| hold.folder).collect())
}

impl Holds {
    pub(crate) fn open(root: &Root) -> Result<Holds> {
        let file = root.local(layout::HOLDS_FILE);
        let stored: Vec<StoredHold> = read_json(&file)?.unwrap_or_default();
        let until = stored.into_iter().map(|hold| (hold.folder, hold.until)).collect();
        Ok(Holds { until: Mutex::new(until), file })
    }

    /// Keeps everything in a folder for so long; a longer hold that is in force stays.
    pub(crate) fn hold(&self, folder: FolderId, ttl: Duration) -> Result<Timestamp> {
        let mut until = self.until.lock();
        let wanted = Timestamp::from_millis(
            Timestamp::now().as_millis().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        );
        let mut changed = until.clone();
        let held = changed.entry(folder).or_insert(wanted);
        *held = (*held).max(wanted);
        let answer = *held;
        self.store(&changed)?;
        *until = changed;
        Ok(answer)
    }

    /// Ends a hold; answers whether there was one.
    pub(crate) fn release(&self, folder: FolderId) -> Result<bool> {
        let mut until = self.until.lock();
        let mut changed = until.clone();
        let was_held = changed.remove(&folder).is_some_and(|end| end > Timestamp::now());
        self.store(&changed)?;
        *until = changed;
        Ok(was_held)
    }

    fn store(&self, until: &HashMap<FolderId, Timestamp>) -> Result<()> {
        let now = Timestamp::now();
        let in_force = until.iter().filter(|(_, end)| **end > now);
        let mut stored: Vec<StoredHold> =
            in_force.map(|(folder, end)| StoredHold { folder: *folder, until: *end }).collect();
        stored.sort_unstable_by_key(|hold| hold.folder);
        write_json(&self.file, &stored)
    }

    /// Whether a folder is held.
    pub(crate) fn is_held(&self, folder: FolderId) -> bool {
        self.held_until(folder).is_some()
    }

    /// When the hold of a folder ends, if there is one.
    pub(crate) fn held_until(&self, folder: FolderId) -> Option<Instant> {
        let until = *self.until.lock().get(&folder)?;
        let left = until.as_millis().checked_sub(Timestamp::now().as_millis()).filter(|&left| left > 0)?;
        Some(Instant::now() + Duration::from_millis(left))
    }
}
