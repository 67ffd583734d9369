//! Taking what is at a swamp's desk to the disk: one leader at a time, in groups, in order.
//!
//! The order is the promise: frames are appended and synced, the file is checked, the state is
//! changed, and only then is anybody told. While one group is on its way the next one gathers, so
//! many writers share one sync without any timer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::apply::{Carried, Scene, Stage, carry_out};
use crate::compact::Capture;
use crate::directories::sync_nearest;
use crate::engine::CopyState;
use crate::error::{Applied, Error, ErrorCode, Result};
use crate::format::frame::{Frame, FrameRef, Frames};
use crate::format::record::{Record, StampCode, Write};
use crate::hydrate::{Watch, hydrate, read_on};
use crate::layout::{ChunkName, swamp_path};
use crate::locks::LockOp;
use crate::log::{AppendError, Log, check_vector};
use crate::policy::Policy;
use crate::snapshot::{self, SnapshotContent};
use crate::stamp::{Stamp, Timestamp};
use crate::state::State;
use crate::swamp::{Job, Limbo, Resident, read_only};
use crate::vector::VersionVector;
use crate::write::{Batch, Committed, Durability, MAX_BATCH_OPS, Op, Promise, Ticket};

/// A swamp whose disk failed tries a fresh chunk this often; tests are less patient.
const TRY_AGAIN: Duration = if cfg!(test) { Duration::from_millis(30) } else { Duration::from_secs(5) };
/// One that could open no file tries this often.
const FILES_AGAIN: Duration = Duration::from_millis(100);
/// At most so many requests share a group, so that the first are not kept waiting by the last.
const GROUP_MOST: usize = 1_024;

/// What a leader takes from the desk at once.
struct Round {
    policy: Arc<Policy>,
    buffer: Frames,
    waiting: Vec<(Promise<Committed>, Committed)>,
    adopt: Vec<Frame>,
    limbo: Option<Limbo>,
    writes: Vec<(Batch, Promise<Committed>)>,
    flushes: Vec<Promise<()>>,
    /// Done alone, after the buffer.
    special: Option<Job>,
}

/// Takes everything at the desk to the disk, and what comes meanwhile.
pub(crate) fn lead(resident: &Arc<Resident>) {
    while let Some(round) = next_round(resident) {
        resident.run(round);
    }
}

/// `None` ends the leadership.
fn next_round(resident: &Arc<Resident>) -> Option<Round> {
    let mut desk = resident.desk.lock();
    desk.refresh_settings(resident);
    desk.exclusive = false;
    desk.flushing = false;
    if let Some((until, reason)) = desk.refused.clone().filter(|(until, _)| *until > Instant::now()) {
        let refused: Vec<Job> = desk.queue.drain(..).collect();
        desk.leading = false;
        drop(desk);
        refused.into_iter().for_each(|job| refuse(job, &reason));
        resident.lead_at(until);
        return None;
    }
    // Writes that came while the last group was on its way wait for their own interval.
    let is_owed = desk.limbo.is_some() || desk.is_flush_due() || resident.log.lock().is_touched();
    let has_work = is_owed || !desk.queue.is_empty() || !desk.waiting.is_empty();
    let is_left_empty = || desk.buffer.is_empty() && removal_is_due(resident);
    if !(has_work || is_left_empty()) {
        desk.leading = false;
        return None;
    }
    // What is in limbo comes first and alone: what follows has to see what it changes.
    let (writes, flushes, special) =
        if desk.limbo.is_none() { take_jobs(&mut desk.queue) } else { (Vec::new(), Vec::new(), None) };
    let is_alone = special.as_ref().is_some_and(Job::is_alone);
    desk.exclusive = !writes.is_empty() || is_alone || desk.limbo.is_some() || !has_work;
    let needs_adoption = !writes.is_empty() || !desk.buffer.is_empty();
    desk.flushing = !desk.buffer.is_empty();
    Some(Round {
        policy: Arc::clone(&desk.settings.policy),
        buffer: desk.take_buffer(),
        waiting: std::mem::take(&mut desk.waiting),
        adopt: if needs_adoption { std::mem::take(&mut desk.adopt) } else { Vec::new() },
        limbo: desk.limbo.take(),
        writes,
        flushes,
        special,
    })
}

type TakenJobs = (Vec<(Batch, Promise<Committed>)>, Vec<Promise<()>>, Option<Job>);

/// The writes and flushes at the front, or one job of another kind.
fn take_jobs(queue: &mut std::collections::VecDeque<Job>) -> TakenJobs {
    let (mut writes, mut flushes, mut weight) = (Vec::new(), Vec::new(), 0);
    while let Some(job) = queue.pop_front() {
        match job {
            Job::Write(batch, promise) => {
                weight += batch.weight();
                writes.push((batch, promise));
            }
            Job::Flush(promise) => flushes.push(promise),
            other if writes.is_empty() && flushes.is_empty() => return (writes, flushes, Some(other)),
            other => {
                queue.push_front(other);
                break;
            }
        }
        if weight >= GROUP_MOST {
            break;
        }
    }
    (writes, flushes, None)
}

fn refuse(job: Job, reason: &Error) {
    let error = read_only(reason);
    match job {
        Job::Write(_, promise) => promise.fulfil(Err(error)),
        Job::Flush(promise) | Job::Refresh(promise) | Job::Seal(promise) => promise.fulfil(Err(error)),
        Job::Destroy(promise) | Job::Compact { promise, .. } => promise.fulfil(Err(error)),
    }
}

/// Whether the swamp is empty while files of it are left, all of this server: those of others are not removed,
/// so asking for that again and again would never end.
fn removal_is_due(resident: &Resident) -> bool {
    let shared = &resident.shared;
    let all_mine =
        |names: Vec<ChunkName>| names.iter().all(|name| shared.root.is_mine(name.incarnation)) && !names.is_empty();
    resident.is_removable() && resident.log.lock().list(shared).is_ok_and(all_mine)
}

impl Resident {
    fn run(self: &Arc<Self>, mut round: Round) {
        let policy = Arc::clone(&round.policy);
        let scene = self.scene(&policy);
        let mut stage = Stage::default();
        let carried = self.carry_out_all(scene, &mut stage, std::mem::take(&mut round.writes));
        let group = Group { stage, carried };
        match self.make_durable(&policy, &round, &group) {
            Ok(()) => self.acknowledge(round, group, scene.now),
            Err(failure) => self.fail(round, group, failure),
        }
    }

    /// Carries the queued writes out on a stage: readers see nothing yet.
    fn carry_out_all(
        &self,
        scene: Scene<'_>,
        stage: &mut Stage,
        writes: Vec<(Batch, Promise<Committed>)>,
    ) -> Vec<CarriedWrite> {
        if writes.is_empty() {
            return Vec::new();
        }
        let state = self.state.read();
        let mut carry = |(batch, promise): (Batch, Promise<Committed>)| {
            let mut payload = Vec::new();
            // It may have waited for a disk that hung.
            let in_time = batch.check_deadline();
            let result = in_time.and_then(|()| carry_out(scene, &state, stage, &batch, &mut payload));
            let result =
                result.map(|Carried { committed, frame }| (committed, frame.map(|head| Frame::of(payload, head))));
            CarriedWrite { result, promise }
        };
        writes.into_iter().map(&mut carry).collect()
    }

    /// Appends and syncs what the round owes, in order.
    fn make_durable(&self, policy: &Policy, round: &Round, group: &Group) -> Result<(), AppendError> {
        let limbo = round.limbo.iter().flat_map(|limbo| &limbo.frames);
        let before = limbo.chain(&round.adopt).map(Frame::as_ref);
        let frames: Vec<FrameRef<'_>> = before.chain(round.buffer.iter()).chain(group.frames()).collect();
        self.append(policy, &frames)
    }

    /// Appends frames; what a chunk held that somebody else touched is written again before them.
    fn append(&self, policy: &Policy, frames: &[FrameRef<'_>]) -> Result<(), AppendError> {
        let known = self.state.read().vector.clone();
        let mut log = self.log.lock();
        let again = |log: &mut Log, maybe| {
            self.write_everything_again(policy, log).map_err(|error| AppendError::Failed { error, maybe })
        };
        if log.is_touched() {
            again(&mut log, 0)?;
        }
        match log.append(&self.shared, policy, &known, frames) {
            Err(AppendError::Interference(_)) => {
                again(&mut log, usize::MAX)?;
                log.append(&self.shared, policy, &known, frames)
            }
            result => result,
        }
    }

    /// Somebody replaced, removed or shortened the open chunk: what it held is in memory, and goes to a new file.
    pub(crate) fn write_everything_again(&self, policy: &Policy, log: &mut Log) -> Result<()> {
        let state = self.state.read();
        if state.copy != CopyState::Degraded {
            let shared = &self.shared;
            check_vector(&state.vector)?;
            let capture = Capture::of(&state, &[], Timestamp::now());
            log.write_snapshot(shared, |log, name| {
                let header = log.header(shared, name, policy, VersionVector::default());
                capture.encode(header, None, &VersionVector::default(), policy.compression)
            })?;
            log.mend();
            return Ok(());
        }
        // A snapshot would stand for what the damaged file still holds elsewhere, too, and so bury it there.
        // What this process wrote is written as records again.
        let frames = own_records(&self.shared, &state);
        log.durable_hlc = 0;
        let refs: Vec<FrameRef<'_>> = frames.iter().map(Frame::as_ref).collect();
        log.mend();
        log.append(&self.shared, policy, &state.vector, &refs).map_err(|failure| {
            log.touch();
            match failure {
                AppendError::Failed { error, .. } | AppendError::Interference(error) => error,
            }
        })
    }

    /// Makes a durable group visible and tells its callers.
    fn acknowledge(self: &Arc<Self>, round: Round, group: Group, now: Timestamp) {
        let Group { stage, carried } = group;
        self.shared.space.pay(round.buffer.bytes());
        {
            let mut state = self.state.write();
            if let Some(limbo) = round.limbo {
                limbo.stage.publish(&mut state, now);
            }
            stage.publish(&mut state, now);
        }
        let pending = {
            let mut desk = self.desk.lock();
            desk.refused = None;
            desk.flushing = false;
            desk.reuse(round.buffer);
            desk.footprint()
        };
        self.account(&self.state.read(), pending);
        for CarriedWrite { result, promise } in carried {
            promise.fulfil(result.map(|(committed, _)| Committed { durability: Durability::Synced, ..committed }));
        }
        for (promise, committed) in round.waiting {
            promise.fulfil(Ok(Committed { durability: Durability::Synced, ..committed }));
        }
        round.flushes.into_iter().for_each(|promise| promise.fulfil(Ok(())));
        match round.special {
            Some(special) => self.run_special(special, &round.policy),
            None => {
                self.remove_if_empty(&round.policy);
                self.compact_soon_if_due();
            }
        }
    }

    /// Asks for a snapshot when one is worth its while; everything at the desk goes to disk before it.
    fn compact_soon_if_due(&self) {
        if self.is_compaction_due(false) {
            let (promise, _) = Ticket::pending();
            self.desk.lock().queue.push_back(Job::compact(promise));
        }
    }

    /// Puts back what stays owed, tells what became of the rest, and tries again later.
    fn fail(self: &Arc<Self>, round: Round, group: Group, failure: AppendError) {
        let (error, maybe) = match failure {
            AppendError::Failed { error, maybe } => (error, maybe),
            AppendError::Interference(error) => (error, usize::MAX),
        };
        // No disk failed when only no file could be opened: whoever asks next may be luckier.
        let is_busy = error.code() == ErrorCode::Busy;
        if is_busy {
            tracing::warn!(swamp = %self.name(), %error, "no file can be opened; it is tried again");
        } else {
            tracing::error!(swamp = %self.name(), %error, "the swamp is read-only; a fresh chunk is tried in 5 s");
        }
        let owed_before =
            round.limbo.as_ref().map_or(0, |limbo| limbo.frames.len()) + round.adopt.len() + round.buffer.count();
        let may_be_written = maybe > owed_before && group.frames().next().is_some();
        let answer = if may_be_written { error.clone().with_applied(Applied::Unknown) } else { error.clone() };
        let Group { stage, carried } = group;
        let mut frames = Vec::new();
        let mut promises = Vec::new();
        for CarriedWrite { result, promise } in carried {
            match result {
                Ok((_, frame)) => {
                    frames.extend(frame);
                    promises.push((promise, answer.clone()));
                }
                Err(refusal) => promises.push((promise, refusal)),
            }
        }
        let until = Instant::now() + if is_busy { FILES_AGAIN } else { TRY_AGAIN };
        {
            let mut desk = self.desk.lock();
            let newer = std::mem::replace(&mut desk.buffer, round.buffer);
            desk.buffer.append(&newer);
            desk.due = until;
            desk.adopt = round.adopt;
            desk.limbo = match (round.limbo, may_be_written) {
                (None, true) => Some(Limbo { frames, stage }),
                (limbo, _) => limbo,
            };
            desk.refused = (!is_busy).then(|| (until, error.clone()));
        }
        if is_busy {
            self.lead_at(until);
        }
        promises.into_iter().for_each(|(promise, error)| promise.fulfil(Err(error)));
        let unknown = error.clone().with_applied(Applied::Unknown);
        round.waiting.into_iter().for_each(|(promise, _)| promise.fulfil(Err(unknown.clone())));
        round.flushes.into_iter().for_each(|promise| promise.fulfil(Err(error.clone())));
        round.special.into_iter().for_each(|job| refuse(job, &error));
    }

    fn run_special(self: &Arc<Self>, job: Job, policy: &Policy) {
        match job {
            Job::Refresh(promise) => promise.fulfil(self.read_again(policy)),
            Job::Destroy(promise) => promise.fulfil(self.destroy(policy)),
            Job::Compact { alone, promise } => match self.compact(policy, alone) {
                Ok(Some(gained)) => promise.fulfil(Ok(gained)),
                Ok(None) => self.desk.lock().queue.push_front(Job::Compact { alone: true, promise }),
                Err(error) => promise.fulfil(Err(error)),
            },
            Job::Seal(promise) => {
                let mut log = self.log.lock();
                log.seal(&self.shared);
                let mended = if log.is_touched() { self.write_everything_again(policy, &mut log) } else { Ok(()) };
                promise.fulfil(mended);
            }
            Job::Write(_, promise) => drop(promise),
            Job::Flush(promise) => promise.fulfil(Ok(())),
        }
    }

    /// Merges what others have written; what this process wrote is on disk by now. Where somebody removed files
    /// of this server, what they held is in memory only, and is written again before.
    fn read_again(&self, policy: &Policy) -> Result<()> {
        if self.read_on()? {
            return Ok(());
        }
        let mut hydrated = hydrate(&self.shared, self.name(), self.folder())?;
        if self.knows_more_than(&hydrated.state) {
            let dir = swamp_path(&self.shared.root.path, self.folder(), self.name());
            self.shared.stats.interference(&dir, "lost records");
            let mut log = self.log.lock();
            log.touch();
            self.write_everything_again(policy, &mut log)?;
            drop(log);
            hydrated = hydrate(&self.shared, self.name(), self.folder())?;
        }
        if hydrated.has_foreign {
            self.shared.folders.set_copied(self.folder())?;
        }
        self.log.lock().found(&self.shared, &hydrated.names, hydrated.pile, hydrated.written, None);
        self.desk.lock().adopt = hydrated.adopt;
        let mut state = self.state.write();
        let before = std::mem::replace(&mut *state, hydrated.state);
        state.take_audience_of(before, Timestamp::now());
        self.account(&state, 0);
        drop(state);
        self.seen(hydrated.watch);
        Ok(())
    }

    /// Takes down which files the state is made of. Only once everybody sees the state: whoever finds that these files
    /// are known answers without them otherwise.
    fn seen(&self, watch: Watch) {
        *self.watch.lock() = watch;
    }

    /// Reads what the logs of others grew by, and only that; answers `false` when all has to be read again.
    fn read_on(&self) -> Result<bool> {
        let dir = swamp_path(&self.shared.root.path, self.folder(), self.name());
        let mut log = self.log.lock();
        let before = self.watch.lock().clone();
        let tail_of = |name: &ChunkName| self.state.read().tails.find(name);
        let Some((watch, files)) = read_on(&self.shared, &dir, &before, &log.own, tail_of)? else { return Ok(false) };
        let grown = {
            let state = self.state.read();
            state.tails.grow(&state, &files)
        };
        let Some(growth) = grown else { return Ok(false) };
        let mut state = self.state.write();
        growth.count(&state.tails, &mut log.pile);
        growth.publish(&mut state, Timestamp::now());
        self.account(&state, 0);
        drop(state);
        self.seen(watch);
        Ok(true)
    }

    /// Whether records of this server are known here that a state read from the files lacks.
    fn knows_more_than(&self, read: &State) -> bool {
        let known = &self.state.read().vector;
        known
            .iter()
            .any(|(incarnation, hlc)| self.shared.root.is_mine(incarnation) && read.vector.get(incarnation) < hlc)
    }

    /// Removes every treasure; answers whether there was one.
    ///
    /// The marks of the deletes are on disk before any file goes: however the removal fails, what is in memory and
    /// what the files say stay the same. What cannot be removed now is removed like any emptied swamp, later.
    fn destroy(self: &Arc<Self>, policy: &Policy) -> Result<bool> {
        let (keys, hidden) = {
            let state = self.state.read();
            (state.live_keys(), state.hidden_keys())
        };
        let existed = !keys.is_empty();
        // Where there is nothing to destroy, locks stay.
        let hidden = if existed { hidden } else { Vec::new() };
        let delete = |key| Op::Delete { key, condition: Default::default() };
        let ops = hidden.into_iter().map(LockOp::forget).map(Op::Lock).chain(keys.into_iter().map(delete));
        self.delete_all(ops.collect(), policy)?;
        if removal_is_due(self)
            && let Err(error) = self.remove_durably(policy)
        {
            tracing::warn!(swamp = %self.name(), %error, "files of a destroyed swamp are still to be removed");
        }
        self.account(&self.state.read(), 0);
        Ok(existed)
    }

    fn remove_durably(&self, policy: &Policy) -> Result<()> {
        self.remove_all(policy)?;
        let dir = swamp_path(&self.shared.root.path, self.folder(), self.name());
        sync_nearest(&*self.shared.disk, &self.shared.root.path, &dir)
    }

    /// Deletes keys one by one: on a folder with copies only a mark in a file tells the others.
    fn delete_all(self: &Arc<Self>, ops: Vec<Op>, policy: &Policy) -> Result<()> {
        let scene = self.scene(policy);
        let mut left = ops.into_iter().peekable();
        while left.peek().is_some() {
            let ops = left.by_ref().take(MAX_BATCH_OPS).collect();
            let mut stage = Stage::default();
            let unconditional = Policy { require_version: false, ..policy.clone() };
            let scene = Scene { policy: &unconditional, ..scene };
            let (batch, mut payload) = (Batch { ops, ..Batch::default() }, Vec::new());
            let Carried { frame, .. } = carry_out(scene, &self.state.read(), &mut stage, &batch, &mut payload)?;
            let frame = frame.map(|head| Frame::of(payload, head));
            stage.destroys = left.peek().is_none();
            let frames: Vec<FrameRef<'_>> = frame.iter().map(Frame::as_ref).collect();
            match self.append(policy, &frames) {
                Ok(()) => stage.publish(&mut self.state.write(), scene.now),
                Err(AppendError::Failed { error, .. } | AppendError::Interference(error)) => {
                    self.owe(frame, stage, &error);
                    return Err(error.with_applied(Applied::Unknown));
                }
            }
        }
        Ok(())
    }

    /// Keeps what may be on disk or not, so that it is before anything else is done.
    fn owe(self: &Arc<Self>, frame: Option<Frame>, stage: Stage, error: &Error) {
        let mut desk = self.desk.lock();
        let until = Instant::now() + TRY_AGAIN;
        desk.limbo = Some(Limbo { frames: frame.into_iter().collect(), stage });
        desk.refused = Some((until, error.clone()));
    }

    fn remove_if_empty(self: &Arc<Self>, policy: &Policy) {
        if !removal_is_due(self) {
            self.remove_later();
            return;
        }
        {
            let mut desk = self.desk.lock();
            if !desk.queue.is_empty() || !desk.buffer.is_empty() {
                return;
            }
            desk.exclusive = true;
        }
        if let Err(error) = self.remove_all(policy) {
            tracing::warn!(swamp = %self.name(), %error, "files of an emptied swamp could not be removed");
            let mut desk = self.desk.lock();
            desk.refused = Some((Instant::now() + TRY_AGAIN, error));
        }
    }

    /// Where nothing but hidden keys is left, the files go when the last of those has expired.
    fn remove_later(self: &Arc<Self>) {
        let now = Timestamp::now();
        let from = self.state.read().empty_from().filter(|from| *from > now);
        let left = from.map(|from| Duration::from_millis(from.as_millis() - now.as_millis()));
        if let Some(at) = left.and_then(|left| Instant::now().checked_add(left)) {
            self.lead_at(at);
        }
    }

    /// Removes the files of the swamp and what its state says of them. Nobody writes meanwhile.
    fn remove_all(&self, policy: &Policy) -> Result<()> {
        let shared = &self.shared;
        let vector = self.state.read().vector.clone();
        check_vector(&vector)?;
        let all_gone = self.log.lock().remove_files(shared, |log, name| {
            let nothing = SnapshotContent {
                writes: Vec::new(),
                counters: Vec::new(),
                requests: Vec::new(),
                conflicts: Vec::new(),
                vector: &vector,
            };
            snapshot::encode(log.header(shared, name, policy, VersionVector::default()), nothing, policy.compression)
        })?;
        if !all_gone {
            return self.shared.folders.set_copied(self.folder());
        }
        let mut state = self.state.write();
        state.forget_files();
        self.account(&state, 0);
        Ok(())
    }
}

/// The queued writes of a round, carried out on a stage.
struct Group {
    stage: Stage,
    carried: Vec<CarriedWrite>,
}

struct CarriedWrite {
    result: Result<(Committed, Option<Frame>)>,
    promise: Promise<Committed>,
}

impl Group {
    fn frames(&self) -> impl Iterator<Item = FrameRef<'_>> {
        self.carried.iter().filter_map(|write| write.result.as_ref().ok()?.1.as_ref()).map(Frame::as_ref)
    }
}

/// What this process wrote and what still counts of it, as records with their own stamps.
fn own_records(shared: &crate::shared::Shared, state: &State) -> Vec<Frame> {
    let own = shared.root.incarnation;
    let mut records: Vec<(Stamp, Write<'_>)> =
        state.slots().map(|slot| (slot.stamp(), slot.write())).filter(|(stamp, _)| stamp.incarnation == own).collect();
    for (key, counter) in state.counters() {
        let sums = counter.sums().iter().filter(|sum| sum.part.incarnation == own);
        records.extend(sums.map(|sum| {
            let delta = i64::try_from(sum.part.total).unwrap_or(i64::MAX);
            let stamp = Stamp { hlc: sum.part.last_hlc, incarnation: own };
            (stamp, Write::Add { key, pointer: &sum.pointer, base: sum.base, delta })
        }));
    }
    records.sort_unstable_by_key(|(stamp, _)| *stamp);
    let code = StampCode::Log { incarnation: own };
    let frame = |(stamp, write)| Frame::new(None, [Record::Write { stamp, write }], code, shared.base_hlc);
    records.into_iter().map(frame).collect()
}
