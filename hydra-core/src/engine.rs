//! The engine: one data directory, its swamps in memory, and the handle through which each is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::apply::doubtful_absence;
use crate::archive::Arrivals;
use crate::clock::{Clock, coarse_ms};
use crate::collect::Collector;
use crate::conflict::Conflict;
use crate::digests::Digests;
use crate::directories::Directories;
use crate::disk::{Disk, RealDisk};
use crate::error::{Applied, Error, ErrorCode, Result};
use crate::feed::{Changed, Feed, FeedOptions};
use crate::folder::{FolderCount, FolderId, FolderSet, folder_of};
use crate::folders::Folders;
use crate::handles::Handles;
use crate::handover::FolderState;
use crate::hold::Holds;
use crate::hub::Hub;
use crate::layout::{self, ChunkName};
use crate::memory::{Memory, PATIENCE, default_budget};
use crate::name::SwampName;
use crate::number::Number;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::pool::Pool;
use crate::residents::Residents;
use crate::root::{Expected, Root};
use crate::shared::{Policies, Shared};
use crate::space::{Ballast, SpaceWatch, largest_ballast};
use crate::stamp::Timestamp;
use crate::stats::{Stats, count, read};
use crate::strait::StraitDisk;
use crate::swamp::{Job, Resident};
use crate::sweep::Sweeper;
use crate::syncs::Syncs;
use crate::takeover::{self, MissingFile, Takeover, TakeoverFile, Takeovers};
use crate::timer::Timer;
use crate::value::{Treasure, Value};
use crate::write::{Batch, Committed, Condition, Expiry, Op, OpResult, Ticket};

/// The first sweep leaves a start at least this much time.
const SWEEP_WAITS: Duration = Duration::from_secs(60);
/// How long closing waits for swamps that are being read from disk.
const CLOSE_WAITS: Duration = Duration::from_secs(10);

/// How often and how long an eviction waits for whoever has just flushed the swamp.
const EVICTION_TRIES: u32 = 40;
const EVICTION_PAUSE: Duration = Duration::from_millis(5);

/// How to open a data directory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// The data directory; created when missing.
    pub data_dir: PathBuf,
    /// How many folders there are. Chosen when the directory is created, 100 unless said otherwise;
    /// later another number is an error. `None` takes what is on disk.
    pub folders_total: Option<FolderCount>,
    /// The id of this server, 1 to 32 of `a-z 0-9 _`. Chosen when the directory is created, the host's
    /// name and four random digits unless said otherwise; later another id is an error.
    pub server_id: Option<String>,
    /// The cluster the data belongs to. Chosen when the directory is created, `hydra` unless said
    /// otherwise; later another name is an error.
    pub cluster: Option<String>,
    /// The folders this server owns. `None`: all that are not in `standby`.
    pub owned: Option<FolderSet>,
    /// The folders this server keeps copies of. Default none.
    pub standby: FolderSet,
    /// Other machines hold copies of the folders here, so files that come from elsewhere are looked
    /// for and deletes leave their marks. Default no; a folder in which a file of another server is
    /// met counts as copied from then on.
    pub copied: bool,
    /// The settings of swamps for which no policy is registered and none stands in their files.
    pub default_policy: Policy,
    /// How often a swamp of a copied folder looks for files that came from elsewhere, when it is
    /// used. Default 1 s.
    pub foreign_poll: Duration,
    /// How many threads write and sync. They block on the disk, so this is more than the number of
    /// cores: 16 by default.
    pub commit_threads: usize,
    /// How many bytes the swamps in memory should take together. Above it, swamps that are not in use are
    /// evicted, those first that were not used lately; what is not on disk yet goes there before. A tenth
    /// above it further swamps and writes wait up to 2 s for room and are refused then (`busy`); reads of
    /// swamps in memory and deletes are not. One swamp counts for at most the whole budget, so a larger one
    /// can be used all the same. Default: half of the memory of the machine, or of the control group of this
    /// process where that is less.
    pub memory_budget: u64,
    /// How long a file stays after a snapshot superseded it, so that a copy under way still finds it. A
    /// copy tool's pass has to be shorter, or run under [`Engine::hold`]. Default 1 h.
    pub gc_delay: Duration,
    /// How often all folders are walked for swamps to compact, files to remove and expired treasures to
    /// drop; first one `gc_delay` after the engine was opened. Zero: never. Default 24 h.
    pub sweep: Duration,
}

impl EngineOptions {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> EngineOptions {
        EngineOptions {
            data_dir: data_dir.into(),
            folders_total: None,
            server_id: None,
            cluster: None,
            owned: None,
            standby: FolderSet::new(),
            copied: false,
            default_policy: Policy::default(),
            foreign_poll: Duration::from_secs(1),
            commit_threads: 16,
            memory_budget: default_budget(),
            gc_delay: Duration::from_secs(3_600),
            sweep: Duration::from_secs(86_400),
        }
    }
}

/// A storage engine over one data directory. Cloning gives another handle to the same engine.
///
/// Swamps come into memory when first used and leave when they have been idle. Dropping the last
/// handle closes the engine; [`Engine::close`] does so with an answer.
///
/// ```
/// use hydra_core::{Engine, EngineOptions, Policy, SwampName, Value};
///
/// # let dir = std::env::temp_dir().join(format!("hydra-doc-{}", std::process::id()));
/// let engine = Engine::open(EngineOptions::new(&dir))?;
/// let alice: SwampName = "users/profiles/alice".parse()?;
///
/// engine.put(&alice, "name", Value::json(r#""Alice""#)?)?;
/// engine.increment(&alice, "visits", 1)?;
/// let name: String = engine.get(&alice, "name")?.expect("just put").value.decode()?;
/// assert_eq!(name, "Alice");
///
/// // On disk before it is acknowledged:
/// let synced = Policy { write_interval: std::time::Duration::ZERO, ..Policy::default() };
/// engine.set_policy("payments/*/*".parse()?, synced)?;
///
/// engine.close()?;
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok::<(), hydra_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

/// Closes the engine when the last handle goes.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    closed: crate::sync::Mutex<bool>,
}

impl Engine {
    /// Opens a data directory, creating it when missing, and locks it for this process.
    ///
    /// # Errors
    /// `data-dir-in-use` when another process holds it, `folder-count-mismatch` and `invalid-config`
    /// when it is not what the options say, `io` and `disk-full` from the disk.
    pub fn open(options: EngineOptions) -> Result<Engine> {
        Engine::open_on(options, Arc::new(RealDisk))
    }

    /// The same, on a disk of the caller's.
    pub(crate) fn open_on(options: EngineOptions, disk: Arc<dyn Disk>) -> Result<Engine> {
        let expected = Expected {
            folders: options.folders_total,
            cluster: options.cluster.as_deref(),
            server_id: options.server_id.as_deref(),
        };
        let root = Root::open(&options.data_dir, &expected)?;
        let (owned, standby) = divide_folders(&root, options.owned, options.standby)?;
        let handles = Arc::new(Handles::new());
        let ballast = Arc::new(Ballast::open(root.local(layout::BALLAST_FILE), largest_ballast(&root.path)));
        // A process that was killed leaves directories and records that can be read and are not durable. Whatever is
        // built upon them from here on must not lose its ground when the power goes.
        let file_system = disk.file_system(&root.path).map_err(|error| Error::io("open", &root.path, error))?;
        file_system.sync().map_err(|error| Error::io("sync", &root.path, error))?;
        let clock = Clock::open(root.local(layout::CLOCK_FILE), Arc::clone(&ballast));
        let shared = Shared {
            base_hlc: clock.next(Timestamp::now(), 0)?,
            clock,
            policies: Policies::open(&root, options.default_policy)?,
            folders: Folders::open(&root, owned, standby, options.copied)?,
            takeovers: Takeovers::open(&root)?,
            hub: Hub::new(),
            lines: Arc::default(),
            disk: Arc::new(StraitDisk { disk, handles: Arc::clone(&handles), ballast: Arc::clone(&ballast) }),
            directories: Directories::new(),
            syncs: Syncs::new(file_system),
            handles,
            doubtful: crate::sync::Mutex::default(),
            stats: Stats::default(),
            memory: Memory::new(options.memory_budget),
            residents: Residents::new(options.memory_budget),
            pool: Pool::new(options.commit_threads),
            timer: Timer::new(),
            foreign_poll: options.foreign_poll,
            closing: AtomicBool::new(false),
            started_ms: coarse_ms(),
            space: SpaceWatch::new(ballast),
            holds: Holds::open(&root)?,
            digests: Digests::default(),
            arrivals: Arrivals::default(),
            collector: Collector::default(),
            sweeper: Sweeper::default(),
            gc_delay: options.gc_delay,
            root,
        };
        let shared = Arc::new(shared);
        shared.space.attach(&shared);
        Sweeper::schedule(&shared, options.gc_delay.max(SWEEP_WAITS), options.sweep);
        Ok(Engine(Arc::new(Inner { shared, closed: crate::sync::Mutex::new(false) })))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The swamp, if it can be used without touching the disk. Never blocks longer than a lock.
    #[must_use]
    pub fn resident(&self, name: &SwampName) -> Option<Swamp> {
        let resident = self.shared().residents.get(name)?;
        let stale = resident.touch();
        (!stale).then_some(Swamp(resident))
    }

    /// The swamp, read from disk if it is not in memory. Blocks on the disk, and up to 2 s while the memory
    /// budget is used up. Creates nothing: a swamp that does not exist is an empty one.
    ///
    /// # Errors
    /// `io` when a file cannot be read, `busy` when memory or open files stay short, `draining` when the engine
    /// is closed.
    pub fn hydrate(&self, name: &SwampName) -> Result<Swamp> {
        self.shared().check_open()?;
        self.refreshed(name, self.shared().residents.get_or_hydrate(self.shared(), name)?)
    }

    /// [`Engine::hydrate`] without waiting for memory: for callers that wait in their own way.
    ///
    /// # Errors
    /// Those of [`Engine::hydrate`], `busy` at once.
    pub fn hydrate_now(&self, name: &SwampName) -> Result<Swamp> {
        self.shared().check_open()?;
        self.refreshed(name, self.shared().residents.hydrate_now(self.shared(), name)?)
    }

    /// Brings what the swamp still has to write to disk and drops it from memory; answers whether it is gone. It stays
    /// while somebody uses it. Blocks on the disk.
    ///
    /// # Errors
    /// Those of [`Engine::flush`].
    pub fn evict(&self, name: &SwampName) -> Result<bool> {
        let shared = self.shared();
        shared.check_open()?;
        let Some(resident) = shared.residents.get(name) else { return Ok(true) };
        resident.ask(Job::Flush).wait()?;
        for _ in 0..EVICTION_TRIES {
            if shared.residents.evict(&resident, Resident::leave) {
                count(&shared.stats.evictions);
                return Ok(true);
            }
            // Who has just flushed it may hold it a moment longer.
            std::thread::sleep(EVICTION_PAUSE);
        }
        Ok(false)
    }

    /// Whether the memory budget leaves room for another swamp or a write. Costs next to nothing.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared().memory.has_room()
    }

    fn refreshed(&self, name: &SwampName, resident: Arc<Resident>) -> Result<Swamp> {
        if resident.touch() {
            // What is in memory stays right without the news, so a failure here is no reason not to serve it.
            if let Err(error) = resident.refresh() {
                tracing::warn!(swamp = %name, %error, "files of others could not be read; what is known is served");
            }
        }
        Ok(Swamp(resident))
    }

    fn swamp(&self, name: &SwampName) -> Result<Swamp> {
        self.resident(name).map_or_else(|| self.hydrate(name), Ok)
    }

    /// Reads one treasure. Blocks while the swamp is read from disk.
    ///
    /// # Errors
    /// Those of [`Engine::hydrate`] and [`Swamp::get`].
    pub fn get(&self, name: &SwampName, key: &str) -> Result<Option<Treasure>> {
        self.swamp(name)?.get(key)
    }

    /// Stores a value under a key; whatever was there is replaced. Blocks until it is acknowledged.
    ///
    /// # Errors
    /// Those of [`Swamp::write`].
    pub fn put(&self, name: &SwampName, key: &str, value: Value) -> Result<OpResult> {
        self.one(name, Op::Put { key: key.to_owned(), value, expiry: Expiry::Never, condition: Condition::Always })
    }

    /// Removes a key; answers whether it was there. Blocks until it is acknowledged.
    ///
    /// # Errors
    /// Those of [`Swamp::write`].
    pub fn delete(&self, name: &SwampName, key: &str) -> Result<bool> {
        let result = self.one(name, Op::Delete { key: key.to_owned(), condition: Condition::Always })?;
        Ok(matches!(result, OpResult::Deleted { existed: true }))
    }

    /// Adds to an integer and answers the sum; an absent one counts as 0. Blocks until it is acknowledged.
    ///
    /// # Errors
    /// Those of [`Swamp::write`]; `not-a-number` and `out-of-bounds`.
    pub fn increment(&self, name: &SwampName, key: &str, by: i64) -> Result<i64> {
        match self.one(name, Op::Increment { key: key.to_owned(), by })? {
            OpResult::Incremented { value: Number::Integer(value), .. } => Ok(value),
            other => Err(Error::new(ErrorCode::Internal, format!("an increment answered {other:?}"))),
        }
    }

    fn one(&self, name: &SwampName, op: Op) -> Result<OpResult> {
        let committed = self.batch(name, Batch::of(op))?;
        committed
            .results
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "an operation has no result")))
    }

    /// Carries out a batch on one swamp. Blocks until it is acknowledged, and before up to 2 s while the
    /// memory budget is used up.
    ///
    /// # Errors
    /// Those of [`Swamp::write`]; failures of single operations stand in the results.
    pub fn batch(&self, name: &SwampName, batch: Batch) -> Result<Committed> {
        // The clock is asked only by those who have to wait.
        let mut until = None;
        loop {
            let swamp = self.swamp(name)?;
            if !batch.adds() || self.has_room() || until.is_some_and(|until| Instant::now() >= until) {
                return swamp.write(batch).wait();
            }
            // Whoever waits must not keep a swamp in memory.
            drop(swamp);
            self.shared().memory.wait_for_room(*until.get_or_insert_with(|| Instant::now() + PATIENCE));
        }
    }

    /// Subscribes to what changes in a swamp, see [`Swamp::subscribe`]. Blocks while the swamp is read from disk.
    ///
    /// # Errors
    /// Those of [`Engine::hydrate`].
    pub fn subscribe(&self, name: &SwampName, options: &FeedOptions) -> Result<Feed> {
        self.swamp(name)?.subscribe(options)
    }

    /// Subscribes to what changes through this engine in all swamps that match a pattern, also in those that come
    /// into being later. What copies change in a swamp that is not in memory, and what expires in one that was not
    /// since the feed began, is not told. A feed that nobody reads any more can be gone on with for a minute. Takes
    /// time with the number of swamps in memory.
    ///
    /// # Errors
    /// `invalid-parameter` for a snapshot, `draining` when the engine is closed.
    pub fn subscribe_pattern(&self, pattern: &Pattern, options: &FeedOptions) -> Result<Feed> {
        self.shared().check_open()?;
        Feed::open_pattern(self.shared(), pattern, options)
    }

    /// Everything acknowledged before is on disk when this returns. With a folder, only what is in it.
    ///
    /// # Errors
    /// The first failure; the other swamps are flushed all the same.
    pub fn flush(&self, folder: Option<FolderId>) -> Result<()> {
        let residents = self.shared().residents.all();
        let wanted = residents.iter().filter(|resident| folder.is_none_or(|folder| folder == resident.folder()));
        wait_all(wanted.map(|resident| resident.ask(Job::Flush)))
    }

    /// Refuses new work, puts everything on disk, closes the chunks and releases the directory. Calling it
    /// again does nothing.
    ///
    /// # Errors
    /// The first swamp that could not be flushed; what it still holds in memory is lost.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    /// Closes files that are only kept open to make writes quicker: for a process that can open no more.
    pub fn close_kept_files(&self) {
        self.shared().handles.close_kept();
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.shared().root.path
    }

    /// How many folders there are.
    #[must_use]
    pub fn folder_count(&self) -> FolderCount {
        self.shared().root.folders
    }

    /// The id of this server.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.shared().root.server_id
    }

    /// The cluster the data belongs to.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.shared().root.cluster
    }

    /// The folder of a name.
    #[must_use]
    pub fn folder_of(&self, name: &SwampName) -> FolderId {
        folder_of(name, self.folder_count())
    }

    /// What this server is to a folder.
    #[must_use]
    pub fn folder_state(&self, folder: FolderId) -> FolderState {
        self.shared().folders.state(folder)
    }

    /// Whether this server owns a folder. Costs next to nothing.
    #[must_use]
    pub fn owns(&self, folder: FolderId) -> bool {
        self.shared().folders.is_owned(folder)
    }

    /// The folders this server owns and those it keeps copies of, now.
    #[must_use]
    pub fn folders(&self) -> (FolderSet, FolderSet) {
        self.shared().folders.sets()
    }

    /// Whether another machine has or may have copies of a folder.
    #[must_use]
    pub fn is_copied(&self, folder: FolderId) -> bool {
        self.shared().folders.is_copied(folder)
    }

    /// Notes, durably, that another machine has or may have copies of these folders. Never taken back.
    ///
    /// # Errors
    /// `invalid-config` when there is no such folder; those of the disk.
    pub fn mark_copied(&self, folders: &FolderSet) -> Result<()> {
        folders.check(self.folder_count())?;
        self.shared().folders.mark_copied(folders)?;
        self.shared().hub.poll_soon(self.shared());
        Ok(())
    }

    /// Counts what a folder holds by walking it. Blocks on the disk; for operators.
    ///
    /// # Errors
    /// `io` when a directory cannot be read.
    pub fn folder_sizes(&self, folder: FolderId) -> Result<FolderSizes> {
        let dir = self.data_dir().join(layout::folder_dir(folder));
        let mut sizes = FolderSizes::default();
        crate::walk::swamps(&dir, &mut |_, chunks| {
            sizes.swamps += 1;
            sizes.files += chunks.len() as u64;
            sizes.bytes += chunks.iter().map(|(_, length)| length).sum::<u64>();
            Ok(())
        })?;
        Ok(sizes)
    }

    /// How many files this server has noted as written in place of the owner of a folder. A quick look at
    /// memory; files that are gone count until [`Engine::takeover`] is asked.
    #[must_use]
    pub fn takeover_count(&self, folder: FolderId) -> u64 {
        self.shared().takeovers.count(folder)
    }

    /// What this server wrote in a standby folder in place of its owner, and nobody has settled: every file
    /// with its length. What was acknowledged before is flushed, so that it counts. Blocks on the disk.
    ///
    /// # Errors
    /// `io` when a file cannot be looked at.
    pub fn takeover(&self, folder: FolderId) -> Result<Takeover> {
        if let Err(error) = self.flush(Some(folder)) {
            // It is noted as soon as it is on disk, and until then nothing can be settled.
            tracing::warn!(%folder, %error, "the list of what was taken over lacks what is not on disk yet");
        }
        self.shared().takeovers.list(self.shared(), folder)
    }

    /// Which of these files of a folder are not here, or not as long as they are elsewhere. What is here is
    /// seen by every request that begins after this. Blocks on the disk.
    ///
    /// # Errors
    /// `invalid-body` for more than [`MAX_HOLDS_FILES`](crate::MAX_HOLDS_FILES) files, and for one that is no
    /// chunk of a swamp of this folder; `io` when a file cannot be looked at.
    pub fn holds(&self, folder: FolderId, files: &[TakeoverFile]) -> Result<Vec<MissingFile>> {
        let missing = takeover::missing(self.shared(), folder, files)?;
        // Whoever asks sends its readers here next: they are not to wait until files are looked for anyway.
        self.shared().folders.set_copied(folder)?;
        self.shared().hub.poll_soon(self.shared());
        files
            .iter()
            .filter_map(|file| self.shared().residents.get(&file.swamp))
            .for_each(|resident| resident.look_soon());
        Ok(missing)
    }

    /// Forgets what was taken over in a folder, durably, if it is still what was listed with this version:
    /// the owner holds all of it. Where nothing is noted there is nothing to do, whatever the version.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// `version-mismatch` when something was written since; `io` when that cannot be found out, or when
    /// the notes cannot be removed for good.
    pub fn settle(&self, folder: FolderId, version: &str) -> Result<()> {
        self.flush(Some(folder))?;
        self.shared().takeovers.settle(self.shared(), folder, version)
    }

    /// Writes a snapshot of every swamp of a folder that consists of more than one, now. The files it
    /// supersedes are removed after [`EngineOptions::gc_delay`]. Damaged and incomplete swamps are left as
    /// they are. Blocks on the disk.
    ///
    /// # Errors
    /// `io` and `disk-full` from the disk; what was compacted before stays so.
    pub fn compact(&self, folder: FolderId) -> Result<Compacted> {
        self.shared().check_open()?;
        crate::sweep::compact_folder(self.shared(), folder)
    }

    /// Removes the files of a folder that snapshots of at least [`EngineOptions::gc_delay`] of age
    /// supersede, now. Does nothing while the folder is held. Blocks on the disk.
    ///
    /// # Errors
    /// `io` from the disk; what was removed before stays so.
    pub fn collect(&self, folder: FolderId) -> Result<Collected> {
        self.shared().check_open()?;
        crate::sweep::collect_folder(self.shared(), folder)
    }

    /// Walks all folders now, at full speed: what [`EngineOptions::sweep`] does from time to time. What
    /// cannot be tidied is logged and left. Blocks on the disk.
    pub fn sweep(&self) {
        crate::sweep::sweep(self.shared(), 0);
    }

    /// Keeps every file of a folder for a while, also those a snapshot supersedes: for a backup that takes
    /// longer than [`EngineOptions::gc_delay`]. Answers until when; a longer hold in force stays. It
    /// survives a restart.
    ///
    /// # Errors
    /// `io` from the disk.
    pub fn hold(&self, folder: FolderId, ttl: Duration) -> Result<Timestamp> {
        self.shared().holds.hold(folder, ttl)
    }

    /// Ends a hold; answers whether there was one.
    ///
    /// # Errors
    /// `io` from the disk.
    pub fn release(&self, folder: FolderId) -> Result<bool> {
        self.shared().holds.release(folder)
    }

    /// Registers a policy for the swamps that match a pattern, durably. It holds from the next write
    /// of each on. Answers whether the pattern is new.
    ///
    /// # Errors
    /// `invalid-body` when a member is out of its limits, `io` from the disk.
    pub fn set_policy(&self, pattern: Pattern, policy: Policy) -> Result<bool> {
        self.shared().policies.put(pattern, policy)
    }

    /// Forgets a policy, durably; data stays as it is. Answers whether there was one.
    ///
    /// # Errors
    /// `io` from the disk.
    pub fn delete_policy(&self, pattern: &Pattern) -> Result<bool> {
        self.shared().policies.delete(pattern)
    }

    /// Every registered policy, the most specific pattern first.
    #[must_use]
    pub fn policies(&self) -> Vec<(Pattern, Policy)> {
        self.shared().policies.all()
    }

    /// Numbers for metrics. Takes time with the number of swamps in memory.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let shared = self.shared();
        let residents = shared.residents.all();
        let (space, inodes) = shared.space.look().unzip();
        let mut stats = EngineStats {
            resident_swamps: residents.len() as u64,
            open_files: shared.handles.open(),
            hydrations: read(&shared.stats.hydrations),
            evictions: read(&shared.stats.evictions),
            memory_budget: shared.memory.budget(),
            memory_evictions: read(&shared.stats.memory_evictions),
            memory_refusals: read(&shared.stats.memory_refusals),
            syncs: read(&shared.stats.syncs),
            writes: read(&shared.stats.writes),
            reads: read(&shared.stats.reads),
            damaged_files: read(&shared.stats.damaged_files),
            external_interference: read(&shared.stats.external_interference),
            compactions: read(&shared.stats.compactions),
            collected_files: read(&shared.stats.collected_files),
            collected_bytes: read(&shared.stats.collected_bytes),
            sweeps: read(&shared.stats.sweeps),
            kept_files: shared.handles.kept(),
            listeners: shared.hub.listening(),
            free_bytes: space.map_or(0, |space| space.free),
            free_inodes: inodes.filter(|inodes| inodes.total > 0).map(|inodes| inodes.free),
            ballast: shared.space.ballast.is_present(),
            ..EngineStats::default()
        };
        for resident in residents {
            {
                let state = resident.state.read();
                stats.resident_bytes += state.footprint() as u64;
                stats.conflicts += state.conflicts(Timestamp::now()).count() as u64;
            }
            let desk = resident.desk.lock();
            stats.dirty_swamps += u64::from(desk.is_dirty());
            stats.read_only_swamps += u64::from(desk.refused.is_some());
        }
        stats
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        let mut closed = self.closed.lock();
        if std::mem::replace(&mut *closed, true) {
            return Ok(());
        }
        let shared = &self.shared;
        shared.closing.store(true, Ordering::Release);
        shared.hub.close();
        shared.lines.close();
        shared.residents.wait_for_hydrations(CLOSE_WAITS);
        let residents = shared.residents.all();
        let flushed = wait_all(residents.iter().map(|resident| resident.ask(Job::Flush)));
        let sealed = wait_all(residents.iter().map(|resident| resident.ask(Job::Seal)));
        drop(residents);
        shared.timer.close();
        shared.sweeper.close();
        shared.pool.close();
        shared.residents.clear();
        let clock = shared.clock.close();
        shared.root.release();
        flushed.and(sealed).and(clock)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the engine was dropped and could not be closed cleanly");
        }
    }
}

fn wait_all(tickets: impl Iterator<Item = Ticket<Result<()>>>) -> Result<()> {
    // All are asked before the first is waited for, so that they share the threads.
    let tickets: Vec<_> = tickets.collect();
    let outcomes: Vec<Result<()>> = tickets.into_iter().map(Ticket::wait).collect();
    outcomes.into_iter().collect()
}

/// The folders a server owns and those it keeps copies of; they must exist and not overlap.
fn divide_folders(root: &Root, owned: Option<FolderSet>, standby: FolderSet) -> Result<(FolderSet, FolderSet)> {
    standby.check(root.folders)?;
    let Some(owned) = owned else {
        let rest = root.folders.all().iter().filter(|&folder| !standby.contains(folder)).collect();
        return Ok((rest, standby));
    };
    owned.check(root.folders)?;
    let both: FolderSet = owned.iter().filter(|&folder| standby.contains(folder)).collect();
    if both.is_empty() {
        return Ok((owned, standby));
    }
    Err(Error::new(
        ErrorCode::InvalidConfig,
        format!("folders {both} are both owned and standby; a folder is one of them"),
    ))
}

/// What a folder holds on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderSizes {
    /// Swamps.
    pub swamps: u64,
    /// Chunk files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a compaction did. The files it supersedes are still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Swamps of which a snapshot was written.
    pub swamps: u64,
    /// Their files before.
    pub files_before: u64,
    /// Their files after, with those that go later.
    pub files_after: u64,
    /// Bytes of their files before.
    pub bytes_before: u64,
    /// Bytes of their files after, with those that go later.
    pub bytes_after: u64,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Swamps of which files were removed.
    pub swamps: u64,
    /// Files that were removed.
    pub files_removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
}

/// Numbers about a running engine; counts are since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Swamps in memory.
    pub resident_swamps: u64,
    /// Those with writes that are not on disk yet.
    pub dirty_swamps: u64,
    /// About how many bytes of memory the swamps take.
    pub resident_bytes: u64,
    /// Open files of chunks.
    pub open_files: u64,
    /// Swamps read from disk.
    pub hydrations: u64,
    /// Swamps dropped from memory.
    pub evictions: u64,
    /// Bytes the swamps may take together, see [`EngineOptions::memory_budget`].
    pub memory_budget: u64,
    /// Those of the evictions that made room for others.
    pub memory_evictions: u64,
    /// Writes and hydrations refused because the budget was used up.
    pub memory_refusals: u64,
    /// Syncs of chunk files.
    pub syncs: u64,
    /// Batches taken in.
    pub writes: u64,
    /// Treasures and lists read.
    pub reads: u64,
    /// Damaged files met.
    pub damaged_files: u64,
    /// Chunks of this server that someone else replaced, removed, linked or shortened.
    pub external_interference: u64,
    /// Snapshots that were written to stand for other files.
    pub compactions: u64,
    /// Superseded files that were removed.
    pub collected_files: u64,
    /// Bytes of superseded files that were removed.
    pub collected_bytes: u64,
    /// Walks over all folders that were finished.
    pub sweeps: u64,
    /// Swamps that take no writes for now.
    pub read_only_swamps: u64,
    /// Those of the open files that are kept open between writes.
    pub kept_files: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Conflicts that the swamps in memory list; see [`Swamp::conflicts`].
    pub conflicts: u64,
    /// Free inodes of the file system; `None` where they are not counted.
    pub free_inodes: Option<u64>,
    /// Feeds and waits for changes that are open; a feed of many swamps counts for each.
    pub listeners: u64,
    /// Whether there is room enough for the reserve that lets a full disk take what it has to.
    pub ballast: bool,
}

/// A swamp in memory. While a handle lives the swamp stays there.
#[derive(Debug, Clone)]
pub struct Swamp(pub(crate) Arc<Resident>);

impl Swamp {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SwampName {
        self.0.name()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        self.0.folder()
    }

    /// Reads one treasure; `None` when there is none or it has expired.
    ///
    /// # Errors
    /// `corrupt-swamp` or `incomplete-copy` when the key is not found and a damaged or missing file may hold it.
    pub fn get(&self, key: &str) -> Result<Option<Treasure>> {
        self.get_at(key, Timestamp::now)
    }

    /// Reads one treasure, also one that has expired and was not dropped yet.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub fn get_with_expired(&self, key: &str) -> Result<Option<Treasure>> {
        // At the beginning of time nothing has expired.
        self.get_at(key, Timestamp::default)
    }

    fn get_at(&self, key: &str, now: fn() -> Timestamp) -> Result<Option<Treasure>> {
        count(&self.0.shared.stats.reads);
        let state = self.0.state.read();
        match state.treasure_at(key, now) {
            None if !state.knows(key) => doubtful_absence(&state, key).map(|()| None),
            found => Ok(found),
        }
    }

    /// Subscribes to what changes, in order and without a gap, also while the swamp is not in memory, and before it
    /// exists. As many events as its policy says ([`Policy::change_log`]), and at most 64 MiB of them, are kept for
    /// feeds that go on, from the first subscription until the swamp leaves memory.
    ///
    /// # Errors
    /// `draining` when the engine is closed.
    pub fn subscribe(&self, options: &FeedOptions) -> Result<Feed> {
        Feed::open(&self.0, options)
    }

    /// A future that is done when something changes from now on: see [`Changed`].
    ///
    /// # Errors
    /// `draining` when the engine is closed.
    pub fn changed(&self) -> Result<Changed> {
        Changed::of(&self.0)
    }

    /// Takes a batch in. Never blocks longer than a lock; the ticket is done when the batch is acknowledged:
    /// at once where there is a write interval, after the sync where there is none.
    ///
    /// # Errors
    /// In the ticket, when nothing of the batch was done: `batch-too-large`, `batch-aborted`,
    /// `idempotency-reuse`, `disk-full`, `busy`, `swamp-read-only`, `draining`. With `applied` unknown: the disk
    /// failed after the records may have reached it. Failures of single operations stand in the results.
    pub fn write(&self, batch: Batch) -> Ticket<Result<Committed>> {
        self.0.write(batch)
    }

    /// What is known about the swamp; `None` when it has no treasure and no file. Looks at the directory.
    ///
    /// # Errors
    /// `io` when the directory cannot be read.
    pub fn info(&self) -> Result<Option<SwampInfo>> {
        let shared = &self.0.shared;
        let dir = layout::swamp_path(&shared.root.path, self.folder(), self.name());
        let listed = shared.disk.list(&dir).map_err(|error| Error::io("list", &dir, error))?;
        let chunks: Vec<String> = listed.into_iter().filter(|name| ChunkName::parse(name).is_some()).collect();
        let bytes =
            chunks.iter().filter_map(|name| shared.disk.identity(&dir.join(name)).ok()).map(|found| found.length).sum();
        let (policy, policy_from) = self.0.settings();
        let dirty = {
            let desk = self.0.desk.lock();
            desk.is_dirty() || desk.limbo.is_some()
        };
        let state = self.0.state.read();
        if state.is_empty() && chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(SwampInfo {
            folder: self.folder(),
            count: state.count(Timestamp::now()),
            bytes,
            files: chunks.len() as u64,
            dirty,
            policy: (*policy).clone(),
            policy_from,
            created_at: state.oldest(),
            copy_state: state.copy,
            findings: state.findings.clone(),
        }))
    }

    /// Its effective policy, and the pattern it comes from; `None` for its own files or the default.
    #[must_use]
    pub fn policy(&self) -> (Policy, Option<Pattern>) {
        let (policy, from) = self.0.settings();
        ((*policy).clone(), from)
    }

    /// Everything acknowledged before is on disk when the ticket is done.
    pub fn flush(&self) -> Ticket<Result<()>> {
        self.0.ask(Job::Flush)
    }

    /// Writes a snapshot that stands for all files of the swamp so far; they are removed after
    /// [`EngineOptions::gc_delay`]. The ticket answers whether there was anything to gain.
    pub fn compact(&self) -> Ticket<Result<bool>> {
        match self.0.shared.check_open() {
            Ok(()) => self.0.ask(Job::compact),
            Err(error) => Ticket::ready(Err(error.with_applied(Applied::No))),
        }
    }

    /// Removes every treasure; the files too, where no other machine has copies of the folder. The
    /// ticket answers whether there was anything.
    pub fn destroy(&self) -> Ticket<Result<bool>> {
        match self.0.shared.check_open() {
            Ok(()) => self.0.destroy_soon(),
            Err(error) => Ticket::ready(Err(error.with_applied(Applied::No))),
        }
    }

    /// Writes that lost against a write that had not seen them, the newest first; see [`Conflict`].
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let now = Timestamp::now();
        self.0.state.read().conflicts(now).map(|lost| lost.conflict(now)).collect()
    }

    /// Whether all files of the swamp are here and whole.
    #[must_use]
    pub fn copy_state(&self) -> CopyState {
        self.0.state.read().copy
    }
}

/// Whether all files of a swamp are here and whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyState {
    /// Yes.
    Complete,
    /// A file refers to records that are not here, or not yet.
    Incomplete,
    /// A file is damaged.
    Degraded,
}

impl CopyState {
    /// `complete`, `incomplete` or `degraded`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CopyState::Complete => "complete",
            CopyState::Incomplete => "incomplete",
            CopyState::Degraded => "degraded",
        }
    }
}

/// What is known about a swamp.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SwampInfo {
    /// Its folder.
    pub folder: FolderId,
    /// How many treasures it has, without expired ones.
    pub count: u64,
    /// Bytes of its files on disk.
    pub bytes: u64,
    /// How many files it has.
    pub files: u64,
    /// Whether an acknowledged write is not on disk yet.
    pub dirty: bool,
    /// Its effective settings.
    pub policy: Policy,
    /// The pattern they come from; `None` for the swamp's own files or the default.
    pub policy_from: Option<Pattern>,
    /// When the oldest treasure came into being.
    pub created_at: Option<Timestamp>,
    /// Whether all its files are here and whole.
    pub copy_state: CopyState,
    /// One sentence for each file that is damaged or missing.
    pub findings: Vec<String>,
}
