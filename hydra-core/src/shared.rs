//! What all swamps of an engine share: the data directory, the disk, the clock, policies, threads, counts.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::{Mutex, RwLock};

use crate::archive::Arrivals;
use crate::clock::{Clock, coarse_ms};
use crate::collect::Collector;
use crate::digests::Digests;
use crate::directories::Directories;
use crate::disk::Disk;
use crate::error::{Error, ErrorCode, Result};
use crate::folders::Folders;
use crate::handles::Handles;
use crate::hold::Holds;
use crate::hub::Hub;
use crate::layout;
use crate::lines::Lines;
use crate::memory::Memory;
use crate::name::SwampName;
use crate::pattern::Pattern;
use crate::policy::{Policy, PolicyTable};
use crate::pool::Pool;
use crate::residents::Residents;
use crate::root::{Root, replace_file};
use crate::space::SpaceWatch;
use crate::stats::Stats;
use crate::sweep::Sweeper;
use crate::syncs::Syncs;
use crate::takeover::Takeovers;
use crate::timer::Timer;

/// Shared by everything in one engine.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: Root,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Clock,
    /// The clock value that the records of this process are written relative to.
    pub(crate) base_hlc: u64,
    pub(crate) policies: Policies,
    pub(crate) folders: Folders,
    pub(crate) takeovers: Takeovers,
    /// Who listens to what.
    pub(crate) hub: Hub,
    /// Who waits for what, in the order of their coming.
    pub(crate) lines: Arc<Lines>,
    pub(crate) directories: Directories,
    pub(crate) syncs: Syncs,
    pub(crate) handles: Arc<Handles>,
    /// Snapshots that are on their way to the disk, or whose sync failed and that could not be removed: this process
    /// takes them for absent.
    pub(crate) doubtful: Mutex<HashSet<PathBuf>>,
    pub(crate) stats: Stats,
    pub(crate) memory: Memory,
    pub(crate) residents: Residents,
    pub(crate) pool: Pool,
    pub(crate) timer: Timer,
    pub(crate) foreign_poll: Duration,
    pub(crate) closing: AtomicBool,
    /// On the clock of [`coarse_ms`].
    pub(crate) started_ms: u64,
    pub(crate) space: SpaceWatch,
    pub(crate) holds: Holds,
    /// What is known of the content of files, while folders move.
    pub(crate) digests: Digests,
    /// The folders that archives are being unpacked into.
    pub(crate) arrivals: Arrivals,
    pub(crate) collector: Collector,
    pub(crate) sweeper: Sweeper,
    /// How long a superseded file stays for copies that are under way.
    pub(crate) gc_delay: Duration,
}

impl Shared {
    /// Milliseconds since the engine was opened: a cheap clock for idleness.
    pub(crate) fn uptime_ms(&self) -> u64 {
        coarse_ms().saturating_sub(self.started_ms)
    }

    /// Refuses what would have to be written while the engine is closing.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::new(ErrorCode::Draining, "the engine is closing"));
        }
        Ok(())
    }
}

/// The registered policies, durable and counted, so that a swamp notices a change by one number.
#[derive(Debug)]
pub(crate) struct Policies {
    table: RwLock<PolicyTable>,
    epoch: AtomicU64,
    pub(crate) default: Policy,
    file: std::path::PathBuf,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPolicy {
    pattern: Pattern,
    policy: Policy,
}

impl Policies {
    pub(crate) fn open(root: &Root, default: Policy) -> Result<Policies> {
        default.check()?;
        let file = root.local(layout::POLICIES_FILE);
        let stored: Vec<StoredPolicy> = read_json(&file)?.unwrap_or_default();
        let mut table = PolicyTable::default();
        for StoredPolicy { pattern, policy } in stored {
            policy.check()?;
            table.put(pattern, policy);
        }
        Ok(Policies { table: RwLock::new(table), epoch: AtomicU64::new(1), default, file })
    }

    /// Changes with every change of the table.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, name: &SwampName) -> Option<(Pattern, Policy)> {
        self.table.read().find(name).map(|(pattern, policy)| (pattern.clone(), policy.clone()))
    }

    pub(crate) fn all(&self) -> Vec<(Pattern, Policy)> {
        self.table.read().iter().map(|(pattern, policy)| (pattern.clone(), policy.clone())).collect()
    }

    /// Registers a policy; answers whether its pattern is new.
    pub(crate) fn put(&self, pattern: Pattern, policy: Policy) -> Result<bool> {
        policy.check()?;
        self.change(|table| table.put(pattern, policy).is_none())
    }

    /// Forgets a policy; answers whether there was one.
    pub(crate) fn delete(&self, pattern: &Pattern) -> Result<bool> {
        self.change(|table| table.delete(pattern).is_some())
    }

    fn change<T>(&self, change: impl FnOnce(&mut PolicyTable) -> T) -> Result<T> {
        let mut table = self.table.write();
        let mut changed = table.clone();
        let answer = change(&mut changed);
        if changed != *table {
            let stored: Vec<StoredPolicy> = changed
                .iter()
                .map(|(pattern, policy)| StoredPolicy { pattern: pattern.clone(), policy: policy.clone() })
                .collect();
            write_json(&self.file, &stored)?;
            *table = changed;
            self.epoch.fetch_add(1, Ordering::Release);
        }
        Ok(answer)
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(file: &std::path::Path) -> Result<Option<T>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", file, error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::new(ErrorCode::InvalidConfig, format!("{} cannot be read: {error}", file.display()))
            .with_hint("restore the file or, if its content is not needed, remove it")
    })
}

pub(crate) fn write_json<T: serde::Serialize>(file: &std::path::Path, content: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(content)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("{} cannot be written: {error}", file.display())))?;
    replace_file(file, &text)
}
