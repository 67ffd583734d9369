//! The folders of this server: what it is to each, which of them others have copies of, and the gate of each for
//! writes. What a move decided is in `.hydra/folders.json` and wins over what the server was started with.
//!
//! A writer looks at the gate under the lock of its swamp's desk. So a gate that is closed, followed by a flush of
//! every swamp in memory, leaves no write under way: those let in before stand in front of the flush, and all
//! others see the gate. That costs a write one load, and no counter that all cores share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use crate::sync::{Mutex, MutexGuard, RwLock};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::folder::{FolderId, FolderSet};
use crate::handover::{FolderState, Ready, Refusal, Tenure, lulled, not_served, sealed};
use crate::layout;
use crate::root::Root;
use crate::shared::{read_json, write_json};

/// What this server is to its folders.
#[derive(Debug)]
pub(crate) struct Folders {
    /// What it was started with.
    owned: FolderSet,
    standby: FolderSet,
    /// What a move made of some of them.
    tenures: RwLock<BTreeMap<FolderId, Tenure>>,
    /// For each folder its state and whether its gate is closed: see [`Gate`].
    gates: Vec<Gate>,
    /// Every folder counts as copied.
    all_copied: bool,
    /// Folders of which another machine has or may have copies; never taken out again.
    copied: RwLock<FolderSet>,
    /// Whether there is any such folder: asked with every request, and mostly the answer is no.
    has_copied: AtomicBool,
    /// Folders that were searched for the marker of a sync tool.
    searched: Vec<AtomicBool>,
    /// Held while the file is written, until what it says is known here.
    file: Mutex<PathBuf>,
    /// Held while a step of a move is made. Locked before `file`, which flushes need that a step waits for.
    steps: Mutex<()>,
}

/// The state of a folder as one byte, with the highest bit set while no write may begin.
#[derive(Debug)]
struct Gate(AtomicU8);

const OWNED: u8 = 0;
const STANDBY: u8 = 1;
const FENCED: u8 = 2;
const ELSEWHERE: u8 = 3;
const ABSENT: u8 = 4;
const CLOSED: u8 = 0x80;

impl Gate {
    fn of(state: &FolderState) -> Gate {
        Gate(AtomicU8::new(kind(state)))
    }
}

fn kind(state: &FolderState) -> u8 {
    match state {
        FolderState::Owned { .. } => OWNED,
        FolderState::Standby { .. } => STANDBY,
        FolderState::Fenced { .. } => FENCED,
        FolderState::Importing { .. } | FolderState::Moved { .. } => ELSEWHERE,
        FolderState::Absent => ABSENT,
    }
}

/// What is noted of folders beside what the flags say.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FoldersFile {
    pub(crate) copied: Vec<FolderSet>,
    /// Absent where no folder ever moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) moves: Vec<StoredTenure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredTenure {
    pub(crate) folder: FolderId,
    #[serde(flatten)]
    state: FolderState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<FolderState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ready: Option<Ready>,
}

impl Folders {
    pub(crate) fn open(root: &Root, owned: FolderSet, standby: FolderSet, all_copied: bool) -> Result<Folders> {
        let file = root.local(layout::FOLDERS_FILE);
        let stored: FoldersFile = read_json(&file)?.unwrap_or_default();
        let copied = FolderSet::from_ranges(stored.copied.iter().flat_map(|set| set.ranges().to_vec()));
        let all_copied = all_copied || root.path.join(layout::SYNCTHING_MARKER).exists();
        let searched = (0..root.folders.get()).map(|_| AtomicBool::new(false)).collect();
        let has_copied = AtomicBool::new(!copied.is_empty());
        let tenures = stored.moves.into_iter().map(|StoredTenure { folder, state, before, ready }| {
            (folder, Tenure { before, ready, ..Tenure::new(state) })
        });
        let mut folders = Folders {
            owned,
            standby,
            tenures: RwLock::new(tenures.collect()),
            gates: Vec::new(),
            all_copied,
            copied: RwLock::new(copied),
            has_copied,
            searched,
            file: Mutex::new(file),
            steps: Mutex::new(()),
        };
        folders.gates = root.folders.all().iter().map(|folder| Gate::of(&folders.tenure(folder).state)).collect();
        Ok(folders)
    }

    /// What the server was started with.
    fn given(&self, folder: FolderId) -> FolderState {
        match folder {
            _ if self.owned.contains(folder) => FolderState::Owned { epoch: 0 },
            _ if self.standby.contains(folder) => FolderState::Standby { of: None, epoch: 0 },
            _ => FolderState::Absent,
        }
    }

    /// All that is known of one folder.
    pub(crate) fn tenure(&self, folder: FolderId) -> Tenure {
        let known = self.tenures.read().get(&folder).cloned();
        known.unwrap_or_else(|| Tenure::new(self.given(folder)))
    }

    /// What this server is to a folder.
    pub(crate) fn state(&self, folder: FolderId) -> FolderState {
        let has_moved = self.tenures.read().get(&folder).map(|tenure| tenure.state.clone());
        has_moved.unwrap_or_else(|| self.given(folder))
    }

    fn gate(&self, folder: FolderId) -> u8 {
        self.gates.get(folder.get() as usize).map_or(ABSENT, |gate| gate.0.load(Ordering::Acquire))
    }

    /// Whether this server owns a folder. One load.
    pub(crate) fn is_owned(&self, folder: FolderId) -> bool {
        self.gate(folder) & !CLOSED == OWNED
    }

    /// Whether it keeps a copy of a folder, and may write in place of its owner. One load.
    pub(crate) fn is_standby(&self, folder: FolderId) -> bool {
        self.gate(folder) & !CLOSED == STANDBY
    }

    /// Whether the files of a folder are kept, and not read: it is coming or has gone. One load.
    pub(crate) fn is_elsewhere(&self, folder: FolderId) -> bool {
        self.gate(folder) & !CLOSED == ELSEWHERE
    }

    /// Whether writes of a folder wait for a move, or for its return.
    pub(crate) fn is_sealed(&self, folder: FolderId) -> bool {
        self.gate(folder) & CLOSED != 0 && !self.tenure(folder).has_run_out(Instant::now())
    }

    /// Whether a copy was found to have nothing that its owner lacks, a moment ago.
    pub(crate) fn has_returned(&self, folder: FolderId) -> bool {
        let until = self.tenures.read().get(&folder).and_then(|tenure| tenure.lull.as_ref()?.returned);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The folders this server owns, those it keeps copies of, and those that serve reads.
    pub(crate) fn sets(&self) -> (FolderSet, FolderSet) {
        let those = |of: u8, or: u8| {
            let kinds = self.gates.iter().map(|gate| gate.0.load(Ordering::Acquire) & !CLOSED);
            let folders = (0u32..).map(FolderId::new).zip(kinds).filter(move |(_, kind)| *kind == of || *kind == or);
            folders.map(|(folder, _)| folder).collect::<FolderSet>()
        };
        if self.tenures.read().is_empty() {
            return (self.owned.clone(), self.standby.clone());
        }
        (those(OWNED, OWNED), those(STANDBY, FENCED))
    }

    /// Lets a write to a folder begin. The caller holds the desk of the swamp until the write is queued or done.
    ///
    /// # Errors
    /// `folder-sealed` while the folder is about to move; `not-owner` and `folder-importing`, with a hint, where
    /// another server takes its writes.
    pub(crate) fn admit_write(&self, folder: FolderId) -> Result<()> {
        match self.gate(folder) {
            OWNED | STANDBY | ABSENT => Ok(()),
            shut => self.refuse_write(folder, shut),
        }
    }

    #[cold]
    fn refuse_write(&self, folder: FolderId, shut: u8) -> Result<()> {
        if shut & CLOSED == 0 {
            return Err(not_served(folder, &self.state(folder)));
        }
        let mut tenures = self.tenures.write();
        let now = Instant::now();
        match tenures.get_mut(&folder) {
            // Nobody renewed the seal: its token is lost with it, so nothing can be committed any more.
            Some(tenure) if tenure.has_run_out(now) => {
                tracing::warn!(%folder, "a seal ran out: the folder takes writes again");
                tenure.seal = None;
                tenure.lull.iter_mut().for_each(|lull| lull.end(now));
                self.open_gate(folder, &tenure.state);
                Ok(())
            }
            Some(tenure) if tenure.lull.as_ref().is_some_and(|lull| lull.is_on) => Err(lulled(folder)),
            _ => Err(sealed(folder)),
        }
    }

    fn open_gate(&self, folder: FolderId, state: &FolderState) {
        if let Some(gate) = self.gates.get(folder.get() as usize) {
            gate.0.store(kind(state), Ordering::Release);
        }
    }

    /// Begins a step of a move. One at a time.
    pub(crate) fn step(&self, folder: FolderId) -> Step<'_> {
        Step { _turn: self.steps.lock(), folders: self, folder }
    }

    /// Looks, once per folder, for the marker that Syncthing leaves in a directory it keeps in sync.
    pub(crate) fn search(&self, root: &Root, folder: FolderId) -> Result<()> {
        let searched = self.searched.get(folder.get() as usize);
        if searched.is_none_or(|searched| searched.swap(true, Ordering::Relaxed)) {
            return Ok(());
        }
        let marker = root.path.join(layout::folder_dir(folder)).join(layout::SYNCTHING_MARKER);
        if marker.exists() { self.set_copied(folder) } else { Ok(()) }
    }

    pub(crate) fn is_copied(&self, folder: FolderId) -> bool {
        let is_noted = || self.has_copied.load(Ordering::Acquire) && self.copied.read().contains(folder);
        self.all_copied || self.standby.contains(folder) || is_noted()
    }

    /// Whether there is any folder of which another machine has or may have copies.
    pub(crate) fn has_any_copied(&self) -> bool {
        self.all_copied || !self.standby.is_empty() || self.has_copied.load(Ordering::Acquire)
    }

    /// Notes, durably, that another machine has or may have copies of a folder.
    pub(crate) fn set_copied(&self, folder: FolderId) -> Result<()> {
        if self.is_copied(folder) {
            return Ok(());
        }
        tracing::info!(%folder, "files of another server are here: the folder counts as copied from now on");
        self.mark_copied(&FolderSet::from_iter([folder]))
    }

    /// The same for many folders at once, also for those that count as copied without a note.
    pub(crate) fn mark_copied(&self, folders: &FolderSet) -> Result<()> {
        let file = self.file.lock();
        let known = self.copied.read().clone();
        let wider: FolderSet = known.iter().chain(folders.iter()).collect();
        if wider != known {
            self.store(&file, &wider, &self.tenures.read())?;
            *self.copied.write() = wider;
            self.has_copied.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the file. Nobody is kept from looking at the folders meanwhile.
    fn store(&self, file: &Path, copied: &FolderSet, tenures: &BTreeMap<FolderId, Tenure>) -> Result<()> {
        let moves = tenures.iter().filter(|(folder, tenure)| tenure.state != self.given(**folder));
        let moves = moves.map(|(folder, tenure)| StoredTenure {
            folder: *folder,
            state: tenure.state.clone(),
            before: tenure.before.clone(),
            ready: tenure.ready.clone(),
        });
        // An empty set cannot be read back.
        let copied = Some(copied.clone()).filter(|copied| !copied.is_empty());
        write_json(file, &FoldersFile { copied: copied.into_iter().collect(), moves: moves.collect() })
    }
}

/// A step of a move of one folder, while nobody makes another one.
pub(crate) struct Step<'f> {
    _turn: MutexGuard<'f, ()>,
    folders: &'f Folders,
    folder: FolderId,
}

impl Step<'_> {
    /// The folder as it is.
    pub(crate) fn tenure(&self) -> Tenure {
        self.folders.tenure(self.folder)
    }

    /// Refuses what a transition refuses, before anything is done for it.
    pub(crate) fn check(&self, transition: impl FnOnce(&Tenure) -> Result<Tenure, Refusal>) -> Result<()> {
        transition(&self.tenure()).map(drop).map_err(|refusal| refusal.of(self.folder))
    }

    /// No write begins from now on; those under way are on disk when `flush` has returned. Opens the gate again
    /// when that fails.
    pub(crate) fn drain(&self, flush: impl FnOnce() -> Result<()>) -> Result<Drained<'_>> {
        // The gate is closed for this from now on, and not to be opened because something else is over.
        if let Some(tenure) = self.folders.tenures.write().get_mut(&self.folder) {
            tenure.lull.iter_mut().for_each(|lull| lull.end(Instant::now()));
        }
        if let Some(gate) = self.folders.gates.get(self.folder.get() as usize) {
            gate.0.fetch_or(CLOSED, Ordering::AcqRel);
        }
        let drained = Drained(self);
        flush()?;
        Ok(drained)
    }

    /// Makes what a transition answers durable, and then the truth. Nothing is written where it changes nothing.
    ///
    /// # Errors
    /// The refusal of the transition; those of the disk, and then the folder is as it was, though the file may
    /// say otherwise.
    pub(crate) fn make(&self, transition: impl FnOnce(&Tenure) -> Result<Tenure, Refusal>) -> Result<Tenure> {
        let before = self.tenure();
        let after = transition(&before).map_err(|refusal| refusal.of(self.folder))?;
        let durable = |tenure: &Tenure| Tenure { seal: None, lull: None, ..tenure.clone() };
        let file = self.folders.file.lock();
        if durable(&before) != durable(&after) {
            self.write(&file, &after)?;
        }
        self.put(after.clone());
        Ok(after)
    }

    /// The same for what is in memory alone. Answers under the lock that a seal runs out under.
    pub(crate) fn mark(&self, transition: impl FnOnce(&Tenure) -> Result<Tenure, Refusal>) -> Result<Tenure> {
        let mut tenures = self.folders.tenures.write();
        let given = || Tenure::new(self.folders.given(self.folder));
        let before = tenures.get(&self.folder).cloned().unwrap_or_else(given);
        let after = transition(&before).map_err(|refusal| refusal.of(self.folder))?;
        tenures.insert(self.folder, after.clone());
        self.shut_or_open(&after);
        Ok(after)
    }

    /// Writes the file anew, as the folders are known.
    pub(crate) fn rewrite(&self) -> Result<()> {
        self.write(&self.folders.file.lock(), &self.tenure())
    }

    fn write(&self, file: &Path, after: &Tenure) -> Result<()> {
        let mut tenures = self.folders.tenures.read().clone();
        tenures.insert(self.folder, after.clone());
        let copied = self.folders.copied.read().clone();
        self.folders.store(file, &copied, &tenures)
    }

    fn put(&self, after: Tenure) {
        let mut tenures = self.folders.tenures.write();
        self.shut_or_open(&after);
        if after.seal.is_none() && after.lull.is_none() && after.state == self.folders.given(self.folder) {
            tenures.remove(&self.folder);
        } else {
            tenures.insert(self.folder, after);
        }
    }

    /// Lets the gate say what the folder is: closed for as long as there is a seal, or its writes wait.
    fn shut_or_open(&self, after: &Tenure) {
        if let Some(gate) = self.folders.gates.get(self.folder.get() as usize) {
            let waits = after.seal.is_some() || after.lull.as_ref().is_some_and(|lull| lull.is_on);
            let shut = if waits { CLOSED } else { 0 };
            gate.0.store(kind(&after.state) | shut, Ordering::Release);
        }
    }
}

/// A folder of which no write is under way, and none begins. The gate is as the folder's state says once dropped.
pub(crate) struct Drained<'s>(&'s Step<'s>);

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        let tenures = self.0.folders.tenures.write();
        let given = || Tenure::new(self.0.folders.given(self.0.folder));
        self.0.shut_or_open(&tenures.get(&self.0.folder).cloned().unwrap_or_else(given));
    }
}
