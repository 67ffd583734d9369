//! One swamp in memory: its state, the desk where writes are taken in, and when it may leave.
//!
//! Writes with an interval are carried out at the desk and flushed later. Writes that are synced
//! queue at the desk; [`crate::commit`] carries them out in groups, and the state changes only after
//! the disk has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Mutex, RwLock};

use crate::apply::{Carried, Scene, Stage, carry_out};
use crate::collect;
use crate::commit;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, folder_of};
use crate::format::frame::{Frame, Frames};
use crate::hydrate::{Hydrated, Watch, hydrate};
use crate::log::{Log, Remembered};
use crate::memory::Held;
use crate::name::SwampName;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::shared::Shared;
use crate::stamp::{Stamp, Timestamp};
use crate::state::State;
use crate::stats::count;
use crate::timer::Alarm;
use crate::write::{Batch, Committed, Durability, Op, Promise, Ticket};

/// Buffered writes beyond this wait for the disk instead of being taken in.
const BUFFER_MOST: usize = 64 << 20;
/// Buffered writes beyond this are flushed before their interval is over: the disk works while more are taken in, what
/// gathers meanwhile goes together, and the buffer stays in the processor's cache. With 4 MiB a busy server took a tenth
/// fewer puts.
const BUFFER_EARLY: usize = 256 << 10;
/// How long a swamp that does not exist on disk stays in memory.
const ABSENT_STAYS: Duration = Duration::from_secs(1);
/// How long a swamp that could not be evicted is left alone.
const EVICT_AGAIN: Duration = Duration::from_secs(1);

/// A swamp in memory.
pub(crate) struct Resident {
    pub(crate) shared: Arc<Shared>,
    name: SwampName,
    folder: FolderId,
    /// What readers see.
    pub(crate) state: RwLock<State>,
    /// Where writes are taken in. Locked before `log` and `state`.
    pub(crate) desk: Mutex<Desk>,
    /// The files. Locked for as long as the disk takes, and only by the one who leads.
    pub(crate) log: Mutex<Log>,
    pub(crate) watch: Mutex<Watch>,
    /// Held by the one who builds an order.
    pub(crate) indexing: Mutex<()>,
    /// When it was last used and when files of others are looked for next; see [`Shared::uptime_ms`].
    used_ms: AtomicU64,
    poll_ms: AtomicU64,
    /// What is to be done later. Cancelled when it leaves memory: until then each holds on to its room there.
    alarms: Mutex<Vec<Alarm>>,
    /// What it is counted with against the memory budget.
    held: Held,
    /// Whether it was used since the eviction last came by: see [`NEW`] and the two below it.
    heat: AtomicU8,
}

/// Nobody has used it; its first use is what it was read for.
const NEW: u8 = 0;
/// Not used since.
const COLD: u8 = 1;
/// Used since.
const WARM: u8 = 2;

/// What is on its way to the disk.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) settings: Settings,
    /// Requests that wait for the leader.
    pub(crate) queue: VecDeque<Job>,
    /// Acknowledged, not on disk: in order.
    pub(crate) buffer: Frames,
    /// Room for the next frames while those in the buffer are on their way: see [`Desk::take_buffer`].
    pub(crate) spare: Frames,
    /// The leader is taking what was in the buffer to the disk.
    pub(crate) flushing: bool,
    /// When the oldest frame of the buffer has to be on its way.
    pub(crate) due: Instant,
    /// Carried out in the buffer, answered when it is on disk.
    pub(crate) waiting: Vec<(Promise<Committed>, Committed)>,
    /// Copies of others' records that go to disk before the next write.
    pub(crate) adopt: Vec<Frame>,
    /// Written but perhaps not on disk, with what they change: their callers were told so.
    pub(crate) limbo: Option<Limbo>,
    /// Somebody leads: takes what is here to the disk.
    pub(crate) leading: bool,
    /// What the leader has taken changes the state later; until then writes queue behind it.
    pub(crate) exclusive: bool,
    /// The disk failed: no writes until then, for this reason.
    pub(crate) refused: Option<(Instant, Error)>,
    /// A newer version wrote some of the files; nothing may be added.
    is_newer: bool,
}

/// The settings in force, and where they come from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) policy: Arc<Policy>,
    pub(crate) from: Option<Pattern>,
    /// The policy epoch they were looked up at.
    epoch: u64,
    /// What the newest chunk says, for when no policy is registered.
    in_files: Option<(Duration, Duration)>,
}

/// Frames of which nobody knows whether they are on disk.
#[derive(Debug)]
pub(crate) struct Limbo {
    pub(crate) frames: Vec<Frame>,
    pub(crate) stage: Stage,
}

/// What the leader is asked for.
#[derive(Debug)]
pub(crate) enum Job {
    Write(Batch, Promise<Committed>),
    Flush(Promise<()>),
    Destroy(Promise<bool>),
    /// Read the files again; others have written.
    Refresh(Promise<()>),
    /// Close the open chunk for good.
    Seal(Promise<()>),
    /// Write a snapshot; the answer is whether there was anything to gain.
    Compact {
        /// Nobody writes meanwhile.
        alone: bool,
        promise: Promise<bool>,
    },
}

impl Job {
    /// Writes a snapshot, beside other writes if that can be.
    pub(crate) fn compact(promise: Promise<bool>) -> Job {
        Job::Compact { alone: false, promise }
    }

    /// Whether buffered writes wait until it is done.
    pub(crate) fn is_alone(&self) -> bool {
        !matches!(self, Job::Flush(_) | Job::Compact { alone: false, .. })
    }
}

impl Settings {
    fn look_up(shared: &Shared, name: &SwampName, in_files: Option<(Duration, Duration)>) -> Settings {
        let epoch = shared.policies.epoch();
        let (from, policy) = match shared.policies.find(name) {
            Some((pattern, policy)) => (Some(pattern), policy),
            None => {
                let default = &shared.policies.default;
                let (write_interval, idle_evict) = in_files.unwrap_or((default.write_interval, default.idle_evict));
                (None, Policy { write_interval, idle_evict, ..default.clone() })
            }
        };
        Settings { policy: Arc::new(policy), from, epoch, in_files }
    }
}

impl Resident {
    /// Reads a swamp from disk.
    pub(crate) fn hydrate(
        shared: &Arc<Shared>,
        name: &SwampName,
        remembered: Option<Remembered>,
    ) -> Result<Arc<Resident>> {
        let folder = folder_of(name, shared.root.folders);
        shared.folders.search(&shared.root, folder)?;
        let Hydrated { mut state, names, pile, written, adopt, settings, has_foreign, has_torn_tail, is_newer, watch } =
            hydrate(shared, name, folder)?;
        if has_foreign {
            shared.folders.set_copied(folder)?;
            shared.hub.poll_soon(shared);
        }
        let mut log = Log::new(shared, name, folder);
        log.found(shared, &names, pile, written, remembered);
        let desk = Desk {
            settings: Settings::look_up(shared, name, settings),
            queue: VecDeque::new(),
            buffer: Frames::default(),
            spare: Frames::default(),
            flushing: false,
            due: Instant::now(),
            waiting: Vec::new(),
            adopt,
            limbo: None,
            leading: false,
            exclusive: false,
            refused: None,
            is_newer,
        };
        let now = shared.uptime_ms();
        let stays = if names.is_empty() {
            desk.settings.policy.idle_evict.min(ABSENT_STAYS)
        } else {
            desk.settings.policy.idle_evict
        };
        shared.hub.attach(shared, name, &mut state);
        let resident = Arc::new(Resident {
            shared: Arc::clone(shared),
            name: name.clone(),
            folder,
            state: RwLock::new(state),
            desk: Mutex::new(desk),
            log: Mutex::new(log),
            watch: Mutex::new(watch),
            indexing: Mutex::new(()),
            used_ms: AtomicU64::new(now),
            poll_ms: AtomicU64::new(now + millis(shared.foreign_poll)),
            alarms: Mutex::default(),
            held: Held::default(),
            heat: AtomicU8::new(NEW),
        });
        shared.memory.enter(&resident.held, resident.state.read().footprint());
        resident.schedule_eviction(stays);
        if !names.is_empty() && !has_torn_tail && resident.is_removable() {
            // A removal that a crash cut short is finished. Not where a tail was ignored: whatever it was,
            // nobody asked for it to go.
            resident.lead_soon(&mut resident.desk.lock());
        }
        Ok(resident)
    }

    pub(crate) fn name(&self) -> &SwampName {
        &self.name
    }

    pub(crate) fn folder(&self) -> FolderId {
        self.folder
    }

    /// The policy in force and the pattern it comes from.
    pub(crate) fn settings(&self) -> (Arc<Policy>, Option<Pattern>) {
        let mut desk = self.desk.lock();
        desk.refresh_settings(self);
        (Arc::clone(&desk.settings.policy), desk.settings.from.clone())
    }

    /// Notes that somebody uses the swamp; answers whether files of others may have come unseen.
    pub(crate) fn touch(&self) -> bool {
        let now = self.shared.uptime_ms();
        self.used_ms.store(now, Ordering::Relaxed);
        match self.heat.load(Ordering::Relaxed) {
            NEW => self.heat.store(COLD, Ordering::Relaxed),
            COLD => self.heat.store(WARM, Ordering::Relaxed),
            _ => {}
        }
        self.shared.folders.is_copied(self.folder) && now >= self.poll_ms.load(Ordering::Relaxed)
    }

    /// Files of others are looked for when it is used next.
    pub(crate) fn look_soon(&self) {
        self.poll_ms.store(0, Ordering::Relaxed);
    }

    /// The eviction comes by; answers whether the swamp was used since it last did.
    pub(crate) fn cool(&self) -> bool {
        self.heat.fetch_min(COLD, Ordering::Relaxed) == WARM
    }

    /// Counts what the swamp takes now. `pending` is what its desk holds beside the state.
    pub(crate) fn account(&self, state: &State, pending: usize) {
        self.shared.memory.account(&self.held, state.footprint() + pending);
        self.shared.reclaim_soon();
    }

    /// What it is counted with against the memory budget.
    pub(crate) fn held(&self) -> u64 {
        self.held.bytes()
    }

    /// Looks for files of others and reads them in.
    pub(crate) fn refresh(self: &Arc<Self>) -> Result<()> {
        self.refresh_soon()?.wait()
    }

    /// Looks for files of others; those there are have been read in when the ticket is done.
    pub(crate) fn refresh_soon(self: &Arc<Self>) -> Result<Ticket<Result<()>>> {
        let watch = self.watch.lock().clone();
        let dir = crate::layout::swamp_path(&self.shared.root.path, self.folder, &self.name);
        self.poll_ms.store(self.shared.uptime_ms() + millis(self.shared.foreign_poll), Ordering::Relaxed);
        let (now, news) = watch.again(&self.shared, &dir, || self.log.lock().own.clone())?;
        if news {
            return Ok(self.ask(Job::Refresh));
        }
        *self.watch.lock() = now;
        Ok(Ticket::ready(Ok(())))
    }

    /// Takes a write in.
    pub(crate) fn write(self: &Arc<Self>, batch: Batch) -> Ticket<Result<Committed>> {
        match self.take_in(batch) {
            Ok(ticket) => ticket,
            Err(error) => Ticket::ready(Err(error)),
        }
    }

    fn take_in(self: &Arc<Self>, batch: Batch) -> Result<Ticket<Result<Committed>>> {
        self.shared.check_open()?;
        self.check_room(&batch)?;
        count(&self.shared.stats.writes);
        let mut desk = self.desk.lock();
        self.admit(&batch)?;
        batch.check_deadline()?;
        desk.check_writable(&batch)?;
        desk.refresh_settings(self);
        let queued = desk.exclusive || desk.limbo.is_some() || desk.queue.iter().any(Job::is_alone);
        if !desk.settings.policy.is_synced() && !queued && desk.buffer.bytes() < BUFFER_MOST {
            return self.buffer(&mut desk, &batch);
        }
        let (promise, ticket) = Ticket::pending();
        desk.queue.push_back(Job::Write(batch, promise));
        self.lead_soon(&mut desk);
        Ok(ticket)
    }

    /// Looks at the gate of the folder. The desk is locked, so what is let in here stands before a flush that is asked
    /// for once the gate is closed.
    fn admit(&self, batch: &Batch) -> Result<()> {
        match self.shared.folders.admit_write(self.folder) {
            Err(refusal) if batch.ops.iter().any(Op::is_write) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Asks for the removal of everything, unless the folder takes no writes.
    pub(crate) fn destroy_soon(self: &Arc<Self>) -> Ticket<Result<bool>> {
        let (promise, ticket) = Ticket::pending();
        let mut desk = self.desk.lock();
        if let Err(refusal) = self.shared.folders.admit_write(self.folder) {
            return Ticket::ready(Err(refusal));
        }
        desk.queue.push_back(Job::Destroy(promise));
        self.lead_soon(&mut desk);
        ticket
    }

    /// Carries a write out now; it goes to disk later.
    fn buffer(self: &Arc<Self>, desk: &mut Desk, batch: &Batch) -> Result<Ticket<Result<Committed>>> {
        let policy = &*desk.settings.policy;
        let write_interval = policy.write_interval;
        let scene = self.scene(policy);
        let mut state = self.state.write();
        let mut stage = Stage::default();
        let (first, before) = (desk.buffer.is_empty(), desk.buffer.bytes());
        let Carried { committed, frame } = carry_out(scene, &state, &mut stage, batch, desk.buffer.end())?;
        stage.publish(&mut state, scene.now);
        if let Some(frame) = frame {
            desk.buffer.add(frame);
            self.shared.space.owe(desk.buffer.bytes() - before);
        }
        self.account(&state, desk.footprint());
        drop(state);
        if frame.is_some() {
            if desk.buffer.bytes() >= BUFFER_EARLY {
                self.lead_soon(desk);
            } else if first {
                desk.due = Instant::now() + write_interval;
                self.lead_at(desk.due);
            }
        }
        if !batch.sync || (desk.buffer.is_empty() && !desk.leading) {
            let durability = if batch.sync { Durability::Synced } else { Durability::Buffered };
            return Ok(Ticket::ready(Ok(Committed { durability, ..committed })));
        }
        let (promise, ticket) = Ticket::pending();
        desk.waiting.push((promise, committed));
        self.lead_soon(desk);
        Ok(ticket)
    }

    /// What a request is carried out with, now.
    pub(crate) fn scene<'a>(&'a self, policy: &'a Policy) -> Scene<'a> {
        Scene {
            clock: &self.shared.clock,
            policy,
            incarnation: self.shared.root.incarnation,
            base_hlc: self.shared.base_hlc,
            now: Timestamp::now(),
        }
    }

    /// Deletes make room, so they are taken also when the disk is nearly full and memory short.
    fn check_room(&self, batch: &Batch) -> Result<()> {
        if !batch.adds() {
            return Ok(());
        }
        self.shared.check_memory()?;
        self.shared.space.check(&self.shared.root, batch.bytes())
    }

    /// Asks the leader for something.
    pub(crate) fn ask<T: Unpin>(self: &Arc<Self>, job: impl FnOnce(Promise<T>) -> Job) -> Ticket<Result<T>> {
        let (promise, ticket) = Ticket::pending();
        let mut desk = self.desk.lock();
        desk.queue.push_back(job(promise));
        self.lead_soon(&mut desk);
        ticket
    }

    /// Sees to it that somebody takes what is at the desk to the disk.
    pub(crate) fn lead_soon(self: &Arc<Self>, desk: &mut Desk) {
        if !desk.leading {
            desk.leading = true;
            let resident = Arc::clone(self);
            self.shared.pool.run(move || commit::lead(&resident));
        }
    }

    /// The same, later.
    pub(crate) fn lead_at(self: &Arc<Self>, at: Instant) {
        self.act_at(at, |resident| resident.lead_soon(&mut resident.desk.lock()));
    }

    /// Acts at a time, unless the swamp has left memory by then.
    fn act_at(self: &Arc<Self>, at: Instant, act: impl FnOnce(Arc<Resident>) + Send + 'static) {
        let resident = Arc::downgrade(self);
        let alarm = self.shared.timer.at(at, move || {
            if let Some(resident) = resident.upgrade() {
                act(resident);
            }
        });
        let mut alarms = self.alarms.lock();
        alarms.retain(|alarm| !alarm.is_due());
        alarms.push(alarm);
    }

    /// Whether the swamp holds nothing and its files can go: nobody else may have copies of it, or
    /// whoever has would have heard of the removal long ago.
    pub(crate) fn is_removable(&self) -> bool {
        let state = self.state.read();
        let last = Stamp { hlc: state.max_hlc, incarnation: 0 }.timestamp();
        // Files without a record do not say how old they are.
        let is_old = || {
            let age = Timestamp::now().as_millis().saturating_sub(last.as_millis());
            state.max_hlc > 0 && age > millis(collect::REMNANT_KEPT)
        };
        state.is_empty()
            && state.copy == crate::engine::CopyState::Complete
            && (!self.shared.folders.is_copied(self.folder) || is_old())
            && !self.shared.holds.is_held(self.folder)
    }

    fn schedule_eviction(self: &Arc<Self>, after: Duration) {
        self.act_at(Instant::now() + after, Resident::evict_if_idle);
    }

    fn evict_if_idle(self: Arc<Self>) {
        let stays = self.desk.lock().settings.policy.idle_evict;
        let idle = Duration::from_millis(self.shared.uptime_ms().saturating_sub(self.used_ms.load(Ordering::Relaxed)));
        let stays = if self.state.read().is_empty() { stays.min(ABSENT_STAYS) } else { stays };
        let shared = Arc::clone(&self.shared);
        let again = stays.checked_sub(idle).filter(|left| !left.is_zero()).unwrap_or(EVICT_AGAIN);
        if idle >= stays && self.is_compaction_due(true) {
            drop(self.ask(Job::compact));
            self.schedule_eviction(EVICT_AGAIN);
        } else if idle >= stays && shared.residents.evict(&self, Resident::leave) {
            count(&shared.stats.evictions);
        } else {
            self.schedule_eviction(again);
        }
    }

    /// What to remember of the open chunk, if nothing is on its way to the disk.
    pub(crate) fn leave(&self) -> Option<Option<Remembered>> {
        let desk = self.desk.try_lock()?;
        if !desk.buffer.is_empty() || !desk.is_quiet() {
            return None;
        }
        let log = self.log.lock();
        if log.is_touched() {
            return None;
        }
        self.shared.hub.part(&self.name, &mut self.state.write(), || self.watch.lock().clone());
        Some(log.remember())
    }

    /// Whether a flush is all that is missing for it to leave.
    pub(crate) fn waits_for_flush(self: &Arc<Self>) -> bool {
        // One count is the seat's, one the caller's.
        Arc::strong_count(self) <= 2
            && self.desk.try_lock().is_some_and(|desk| !desk.buffer.is_empty() && desk.is_quiet())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.alarms.lock().iter().for_each(|alarm| self.shared.timer.cancel(alarm));
        self.shared.memory.leave(&self.held);
    }
}

impl std::fmt::Debug for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resident({:?} in folder {})", self.name, self.folder)
    }
}

impl Desk {
    /// Whether an acknowledged write is not on disk yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.flushing || !self.buffer.is_empty()
    }

    /// Takes what is in the buffer, and leaves the room of the frames before for the next ones.
    pub(crate) fn take_buffer(&mut self) -> Frames {
        std::mem::replace(&mut self.buffer, std::mem::take(&mut self.spare))
    }

    /// These frames are on disk: their room is used again while writes go on, and given up when there are none.
    pub(crate) fn reuse(&mut self, mut frames: Frames) {
        if self.buffer.is_empty() {
            self.buffer = Frames::default();
        } else {
            frames.clear();
            self.spare = frames;
        }
    }

    /// Bytes of memory that the frames at the desk take.
    pub(crate) fn footprint(&self) -> usize {
        self.buffer.footprint() + self.spare.footprint()
    }

    /// Whether the buffer has waited long enough, or is long enough.
    pub(crate) fn is_flush_due(&self) -> bool {
        !self.buffer.is_empty() && (self.buffer.bytes() >= BUFFER_EARLY || self.due <= Instant::now())
    }

    /// Whether nobody is at the desk and nothing but the buffer is owed. A disk that has just failed is waited for.
    fn is_quiet(&self) -> bool {
        self.queue.is_empty()
            && !self.leading
            && self.limbo.is_none()
            && self.waiting.is_empty()
            && self.refused.as_ref().is_none_or(|(until, _)| *until <= Instant::now())
    }

    /// Looks the policy up again when it may have changed.
    pub(crate) fn refresh_settings(&mut self, resident: &Resident) {
        if self.settings.epoch != resident.shared.policies.epoch() {
            self.settings = Settings::look_up(&resident.shared, &resident.name, self.settings.in_files);
        }
    }

    fn check_writable(&self, batch: &Batch) -> Result<()> {
        if !batch.ops.iter().any(crate::write::Op::is_write) {
            return Ok(());
        }
        if self.is_newer {
            let detail = "a newer version wrote some of this swamp; this one may only read it";
            return Err(Error::new(ErrorCode::SwampReadOnly, detail));
        }
        match &self.refused {
            Some((until, reason)) if *until > Instant::now() => Err(read_only(reason)),
            _ => Ok(()),
        }
    }
}

/// The answer to a write while the disk refuses.
pub(crate) fn read_only(reason: &Error) -> Error {
    let code = match reason.code() {
        code @ (ErrorCode::DiskFull | ErrorCode::Busy) => code,
        _ => ErrorCode::SwampReadOnly,
    };
    Error::new(code, format!("the swamp takes no writes for now: {}", reason.detail()))
        .with_hint("a fresh file is tried every 5 seconds")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
