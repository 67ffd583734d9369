//! Carrying out requests in memory: conditions, results, and the records that make them last. No I/O.

mod locks;
mod shift;

use std::borrow::Cow;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::clock::Clock;
use crate::compact::MARKS_KEPT;
use crate::counter::SingleAdd;
use crate::engine::CopyState;
use crate::error::{Error, ErrorCode, Result};
use crate::format::frame::{FrameHead, FrameKey, FrameWriter};
use crate::format::record::{Record, StampCode, Write};
use crate::hashing::ShortHash;
use crate::merge::{Positions, RememberedAdd};
use crate::name::check_key;
use crate::number::{Increment, Number};
use crate::outcome::{self, Done};
use crate::patch::Patch;
use crate::policy::Policy;
use crate::requests::KeyMemory;
use crate::slot::{Facts, Slot};
use crate::stamp::{Stamp, Timestamp, Version};
use crate::state::{KeyState, Known, Sight, State, integer};
use crate::value::{Treasure, Value};
use crate::write::{
    Batch, Committed, Condition, Durability, Expiry, Idempotency, MAX_BATCH_BYTES, MAX_BATCH_OPS, Op, OpResult,
};

/// What a request is carried out with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) policy: &'a Policy,
    pub(crate) incarnation: u64,
    /// The clock value that frames are written relative to.
    pub(crate) base_hlc: u64,
    pub(crate) now: Timestamp,
}

/// Key states by their keys, in the order in which these were first touched: so they lie in memory, and so they are
/// walked along. The first needs no table: most requests are about one key.
#[derive(Debug, Default)]
struct Touched {
    first: Option<KeyState>,
    more: Vec<KeyState>,
    /// Where in `more` each stands.
    places: HashTable<u32>,
}

impl Touched {
    fn get(&self, key: &str) -> Option<&KeyState> {
        let key = key.as_bytes();
        let is_key = |held: &KeyState| held.slot.key_bytes() == key;
        match self.first.as_ref().filter(|first| is_key(first)) {
            None if !self.more.is_empty() => {
                let place = self.places.find(ShortHash::of(key).wide(), |&at| is_key(&self.more[at as usize]));
                place.map(|&at| &self.more[at as usize])
            }
            first => first,
        }
    }

    fn set(&mut self, state: KeyState) {
        let Touched { first, more, places } = self;
        let key = state.slot.key_bytes();
        let is_key = |held: &KeyState| held.slot.key_bytes() == key;
        if first.as_ref().is_none_or(is_key) {
            *first = Some(state);
            return;
        }
        let place =
            places.entry(state.slot.hash(), |&at| is_key(&more[at as usize]), |&at| more[at as usize].slot.hash());
        match place {
            Entry::Occupied(at) => more[*at.get() as usize] = state,
            Entry::Vacant(free) => {
                free.insert(more.len() as u32);
                more.push(state);
            }
        }
    }

    /// Room for the keys of so many operations.
    fn for_ops(ops: usize) -> Touched {
        let more = ops.saturating_sub(1);
        Touched { first: None, more: Vec::with_capacity(more), places: HashTable::with_capacity(more) }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &KeyState> {
        self.first.iter().chain(&self.more)
    }

    fn into_iter(self) -> impl Iterator<Item = KeyState> {
        self.first.into_iter().chain(self.more)
    }
}

/// Changes that are made in memory and not published yet.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    touched: Touched,
    requests: Vec<(u128, KeyMemory)>,
    last: Stamp,
    /// Nothing is left behind it: those who listen are told so at once, and not key by key.
    pub(crate) destroys: bool,
}

impl Stage {
    fn for_ops(ops: usize) -> Stage {
        Stage { touched: Touched::for_ops(ops), ..Stage::default() }
    }

    fn known<'a>(&'a self, state: &'a State, key: &str) -> Known<'a> {
        self.touched.get(key).map_or_else(|| state.known(key), KeyState::as_known)
    }

    fn remembered<'a>(&'a self, state: &'a State, key: u128) -> Option<&'a KeyMemory> {
        let staged = self.requests.iter().find(|(held, _)| *held == key).map(|(_, memory)| memory);
        staged.or_else(|| state.requests().get(key))
    }

    /// Adds what another stage, made on top of this one, changed.
    fn absorb(&mut self, other: Stage) {
        if self.touched.is_empty() {
            self.touched = other.touched;
        } else {
            other.touched.into_iter().for_each(|state| self.touched.set(state));
        }
        self.requests.extend(other.requests);
        self.last = self.last.max(other.last);
    }

    /// Makes the changes visible, and tells those who listen.
    pub(crate) fn publish(self, state: &mut State, now: Timestamp) {
        state.take_in(self.touched.into_iter(), self.requests, self.destroys, now);
        if self.last != Stamp::ZERO {
            state.vector.learn(self.last);
            state.max_hlc = state.max_hlc.max(self.last.hlc);
        }
    }
}

/// A request that was carried out in memory.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) committed: Committed,
    /// The frame that makes it last; `None` when it changed nothing.
    pub(crate) frame: Option<FrameHead>,
}

/// Carries out a request on top of `stage`, which takes its changes, and appends the payload of its frame to `out`.
/// An error changes nothing.
pub(crate) fn carry_out(
    scene: Scene<'_>,
    state: &State,
    stage: &mut Stage,
    batch: &Batch,
    out: &mut Vec<u8>,
) -> Result<Carried> {
    if batch.ops.len() > MAX_BATCH_OPS {
        let detail = format!("the batch has {} operations, {MAX_BATCH_OPS} are allowed", batch.ops.len());
        return Err(Error::new(ErrorCode::BatchTooLarge, detail));
    }
    if let Some(replay) = replay(scene, state, stage, batch)? {
        return Ok(Carried { committed: replay, frame: None });
    }
    let code = StampCode::Log { incarnation: scene.incarnation };
    let mut own = Stage::for_ops(batch.ops.len());
    let mut run = Run {
        scene,
        state,
        below: stage,
        own: &mut own,
        frame: FrameWriter::new(out, code, scene.base_hlc),
        size: 0,
        done: batch.idempotency.map(|_| Vec::new()),
        adds: Vec::new(),
        positions: Positions::default(),
        request: batch.idempotency,
    };
    let results: Vec<Result<OpResult>> = batch.ops.iter().map(|op| run.one(op, batch.mark_deletes)).collect();
    let checked = if batch.atomic { refuse_partly_failed(&results) } else { Ok(()) };
    if let Err(refusal) = checked.and_then(|()| run.check_batch_size()) {
        run.frame.undo();
        return Err(refusal);
    }
    let frame = run.finish();
    stage.absorb(own);
    let committed = Committed { results, durability: Durability::Buffered, replayed: false };
    Ok(Carried { committed, frame })
}

fn refuse_partly_failed(results: &[Result<OpResult>]) -> Result<()> {
    let failed = results.iter().enumerate().find_map(|(at, result)| result.as_ref().err().map(|error| (at, error)));
    let Some((at, error)) = failed else { return Ok(()) };
    let detail = format!("operation {at} failed with {}: {}", error.code(), error.detail());
    Err(Error::new(ErrorCode::BatchAborted, detail).with_hint("nothing of the atomic batch was applied"))
}

/// The answer to a request that was carried out before.
fn replay(scene: Scene<'_>, state: &State, stage: &Stage, batch: &Batch) -> Result<Option<Committed>> {
    let Some(idempotency) = batch.idempotency else { return Ok(None) };
    let Some(memory) = stage.remembered(state, idempotency.key) else { return Ok(None) };
    let reused = || {
        Error::new(ErrorCode::IdempotencyReuse, "the idempotency key was used for another request on this swamp")
            .with_hint("make a new key for every request; repeat a request unchanged")
    };
    if memory.fingerprint != idempotency.fingerprint {
        return Err(reused());
    }
    let remembered =
        outcome::decode(memory.outcome(), memory.stamp).filter(|r| r.len() == batch.ops.len()).ok_or_else(reused)?;
    let known = |key: &str| stage.known(state, key);
    let read = |op: &Op| match op {
        Op::Shift(_) => shift::again(known, idempotency.key, scene.now),
        Op::Lock(lock) => locks::again(lock, known(&lock.key), idempotency.key, scene.now),
        op => Ok(OpResult::Got(known(op.key()).treasure(scene.now))),
    };
    let results =
        remembered.into_iter().zip(&batch.ops).map(|(result, op)| result.unwrap_or_else(|| read(op))).collect();
    Ok(Some(Committed { results, durability: Durability::Buffered, replayed: true }))
}

/// One request on its way.
struct Run<'a> {
    scene: Scene<'a>,
    state: &'a State,
    /// What earlier requests of the group changed.
    below: &'a Stage,
    own: &'a mut Stage,
    frame: FrameWriter<'a, 'a>,
    /// About how many bytes its records take.
    size: usize,
    /// For requests that are remembered.
    done: Option<Vec<Done>>,
    adds: Vec<RememberedAdd>,
    positions: Positions<'a>,
    /// What recognises the request when it comes again.
    request: Option<Idempotency>,
}

impl<'a> Run<'a> {
    fn one(&mut self, op: &'a Op, mark_deletes: bool) -> Result<OpResult> {
        let is_of_key = !matches!(op, Op::Shift(_) | Op::Lock(_));
        let checked = if is_of_key { check_key(op.key()) } else { Ok(()) };
        let result = checked.and_then(|()| match op {
            Op::Put { key, value, expiry, condition } => self.put(key, value, *expiry, condition),
            Op::Patch { key, patch, create, condition } => self.patch(key, patch, *create, condition),
            Op::Delete { key, condition } => self.delete(key, condition, mark_deletes),
            Op::Increment { key, by } => self.increment(key, *by),
            Op::IncrementWith { key, increment } => self.increment_with(key, increment),
            Op::Get { key } => self.get(key),
            Op::Shift(shift) => self.shift(shift),
            Op::Lock(lock) => self.lock(lock),
        });
        if let Err(error) = &result {
            self.note(Done::Failed(error.code()));
        }
        result
    }

    fn note(&mut self, done: Done) {
        if let Some(noted) = &mut self.done {
            noted.push(done);
        }
    }

    fn known(&self, key: &str) -> Known<'_> {
        self.own.touched.get(key).map_or_else(|| self.below.known(self.state, key), KeyState::as_known)
    }

    fn next_stamp(&mut self) -> Result<Stamp> {
        let floor = self.state.max_hlc.max(self.below.last.hlc).max(self.own.last.hlc);
        let stamp = Stamp { hlc: self.scene.clock.next(self.scene.now, floor)?, incarnation: self.scene.incarnation };
        self.own.last = stamp;
        Ok(stamp)
    }

    /// Writes a record. What is beyond the limit is only counted: the request is refused in the end.
    fn record(&mut self, stamp: Stamp, write: Write<'_>) {
        let record = Record::Write { stamp, write };
        self.size += record.size();
        if self.size <= MAX_BATCH_BYTES {
            self.frame.push(&record);
        }
    }

    fn check_batch_size(&self) -> Result<()> {
        if self.size <= MAX_BATCH_BYTES {
            return Ok(());
        }
        let detail = format!("the batch has {} bytes, {MAX_BATCH_BYTES} are allowed", self.size);
        Err(Error::new(ErrorCode::BatchTooLarge, detail))
    }

    /// The frame that makes it last, if it changed something; remembers its idempotency key.
    fn finish(self) -> Option<FrameHead> {
        let Run { scene, own, frame, done, adds, request, .. } = self;
        let first = frame.first()?;
        let compression = scene.policy.compression;
        let Some(Idempotency { key, fingerprint }) = request else {
            return Some(frame.finish(None, compression));
        };
        let outcome = outcome::encode(&done.unwrap_or_default(), first);
        let frame = frame.finish(Some(FrameKey { key, fingerprint, outcome: &outcome }), compression);
        own.requests.push((key, KeyMemory::new(fingerprint, first, &outcome, adds)));
        Some(frame)
    }

    /// Takes in what was made of a key, with the record that makes it last.
    fn keep_slot(&mut self, slot: Slot) {
        self.record(slot.stamp(), slot.write());
        self.own.touched.set(KeyState { slot, counter: None });
    }

    fn put(&mut self, key: &str, value: &Value, expiry: Expiry, condition: &Condition) -> Result<OpResult> {
        self.check_size(key, value)?;
        let before = self.known(key);
        let current = before.sight(self.scene.now);
        self.check_condition(key, before, current, condition)?;
        let expires_at = match (expiry, current) {
            (Expiry::At(at), _) => Some(at),
            (Expiry::Keep, Some(current)) => current.expires_at,
            (Expiry::Keep, None) | (Expiry::Never, _) => None,
        };
        self.store_as_put(key, value, expires_at, current.map(|current| current.created_at))
    }

    fn patch(&mut self, key: &str, patch: &Patch, create: bool, condition: &Condition) -> Result<OpResult> {
        let before = self.known(key);
        self.check_condition(key, before, before.sight(self.scene.now), condition)?;
        let current = before.treasure(self.scene.now);
        if current.is_none() {
            self.refuse_doubtful_absence(key, before)?;
            if !create {
                return Err(Error::new(ErrorCode::TreasureNotFound, format!("there is no treasure {key:?} to patch"))
                    .with_hint("ask for it to be created, or put a value first"));
            }
        }
        let limit = self.scene.policy.max_value_bytes;
        let value = patch.apply(current.as_ref().map(|current| &current.value), limit)?;
        self.check_size(key, &value)?;
        let (expires_at, created_at) = current.map(|current| (current.expires_at, current.created_at)).unzip();
        self.store_as_put(key, &value, expires_at.flatten(), created_at)
    }

    fn increment_with(&mut self, key: &str, increment: &Increment) -> Result<OpResult> {
        let before = self.known(key);
        let current = before.treasure(self.scene.now);
        if current.is_none() {
            self.refuse_doubtful_absence(key, before)?;
        }
        let (sum, value) = increment.apply(key, current.as_ref().map(|current| &current.value))?;
        self.check_size(key, &value)?;
        let (expires_at, created_at) = current.map(|current| (current.expires_at, current.created_at)).unzip();
        let stamp = self.store(key, &value, expires_at.flatten(), created_at)?;
        let created = created_at.is_none();
        self.note(Done::Rewritten { sum, stamp, created });
        Ok(OpResult::Incremented { value: sum, version: Version::of_record(stamp), created })
    }

    fn check_size(&self, key: &str, value: &Value) -> Result<()> {
        let limit = self.scene.policy.max_value_bytes;
        if value.len() as u64 <= limit {
            return Ok(());
        }
        let detail = format!("the value of {key:?} has {} bytes, {limit} are allowed", value.len());
        Err(Error::new(ErrorCode::ValueTooLarge, detail))
    }

    /// Stores a value and answers as a put does.
    fn store_as_put(
        &mut self,
        key: &str,
        value: &Value,
        expires_at: Option<Timestamp>,
        created_at: Option<Timestamp>,
    ) -> Result<OpResult> {
        let stamp = self.store(key, value, expires_at, created_at)?;
        let created = created_at.is_none();
        self.note(Done::Put { stamp, created });
        Ok(OpResult::Put { version: Version::of_record(stamp), created })
    }

    /// Writes the record of a value, and keeps it. A treasure that was there keeps its age.
    fn store(
        &mut self,
        key: &str,
        value: &Value,
        expires_at: Option<Timestamp>,
        created_at: Option<Timestamp>,
    ) -> Result<Stamp> {
        let stamp = self.next_stamp()?;
        let created = created_at.unwrap_or(stamp.timestamp());
        // In a record 0 stands for never.
        let expires = expires_at.map(|at| at.max(Timestamp::from_millis(1)));
        let age = stamp.timestamp().as_millis().saturating_sub(created.as_millis());
        let facts = Facts { expires, created, content_type: value.content_type() };
        let write = Write::Put {
            key,
            value: value.as_bytes(),
            expires: expires.map(Timestamp::as_millis),
            age: Some(age).filter(|&age| age > 0),
            content_type: value.content_type(),
        };
        self.record(stamp, write);
        let slot = Slot::put(stamp, key, value.as_bytes(), facts);
        self.own.touched.set(KeyState { slot, counter: None });
        Ok(stamp)
    }

    fn delete(&mut self, key: &str, condition: &Condition, mark_deletes: bool) -> Result<OpResult> {
        let before = self.known(key);
        let current = before.sight(self.scene.now);
        self.check_condition(key, before, current, condition)?;
        // Where a file is missing or damaged the key may be there all the same: the mark removes it.
        let mark = before.is_live() || mark_deletes || self.state.copy != CopyState::Complete;
        if mark {
            let stamp = self.next_stamp()?;
            self.record(stamp, Write::Del { key });
            self.own.touched.set(KeyState { slot: Slot::tombstone(stamp, key), counter: None });
        }
        self.note(Done::Deleted { existed: current.is_some() });
        Ok(OpResult::Deleted { existed: current.is_some() })
    }

    fn increment(&mut self, key: &'a str, by: i64) -> Result<OpResult> {
        let before = self.known(key);
        let current = before.treasure(self.scene.now);
        if current.is_none() {
            self.refuse_doubtful_absence(key, before)?;
        }
        let value = incremented(key, before, current.as_ref(), by)?;
        let needs_base = current.is_none() && (before.is_live() || self.may_be_forgotten(before));
        let slot = before.slot.map_or_else(|| Slot::tombstone(Stamp::ZERO, key), Slot::clone);
        let mut after = KeyState { slot, counter: before.own_counter() };
        if needs_base {
            // It counts as absent, and the increment needs a base that every copy keeps as long as it lasts.
            let stamp = self.next_stamp()?;
            self.record(stamp, Write::Del { key });
            after = KeyState { slot: Slot::tombstone(stamp, key), counter: None };
        }
        let base = after.slot.stamp();
        let stamp = self.next_stamp()?;
        self.adds.push(RememberedAdd {
            position: self.positions.next(key, ""),
            key: key.into(),
            add: SingleAdd { stamp, base, pointer: "".into(), delta: by },
        });
        self.record(stamp, Write::Add { key, pointer: "", base, delta: by });
        let counter = after.counter.get_or_insert_default();
        counter.add(stamp, base, "", by);
        let version = Version::of_counter(base.hlc, counter.digest(base));
        self.own.touched.set(after);
        self.note(Done::Incremented { value, version, created: current.is_none() });
        Ok(OpResult::Incremented { value: Number::Integer(value), version, created: current.is_none() })
    }

    /// Whether what would be the base is the mark of a delete that compaction elsewhere may leave out soon.
    fn may_be_forgotten(&self, before: Known<'_>) -> bool {
        let half = u64::try_from(MARKS_KEPT.as_millis() / 2).unwrap_or(u64::MAX);
        let age = |slot: &Slot| self.scene.now.as_millis().saturating_sub(slot.stamp().timestamp().as_millis());
        before.slot.is_some_and(|slot| slot.is_tombstone() && slot.stamp() != Stamp::ZERO && age(slot) > half)
    }

    fn get(&mut self, key: &str) -> Result<OpResult> {
        let known = self.known(key);
        let treasure = known.treasure(self.scene.now);
        if treasure.is_none() {
            self.refuse_doubtful_absence(key, known)?;
        }
        self.note(Done::Read);
        Ok(OpResult::Got(treasure))
    }

    fn check_condition(
        &self,
        key: &str,
        before: Known<'_>,
        current: Option<Sight>,
        condition: &Condition,
    ) -> Result<()> {
        if current.is_none() && *condition != Condition::Always {
            self.refuse_doubtful_absence(key, before)?;
        }
        let with_version = |error: Error| match current {
            Some(treasure) => error.with_current_version(treasure.version),
            None => error,
        };
        match (condition, current) {
            (Condition::Always, Some(_)) if self.scene.policy.require_version => Err(with_version(
                Error::new(
                    ErrorCode::VersionRequired,
                    format!("the policy demands a version to overwrite or delete {key:?}"),
                )
                .with_hint("send the version you read as If-Match"),
            )),
            (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
            (Condition::Version(versions), Some(treasure)) if versions.contains(&treasure.version) => Ok(()),
            (Condition::UpdatedBefore(_), None) => Ok(()),
            (Condition::UpdatedBefore(time), Some(treasure)) if treasure.updated_at() < *time => Ok(()),
            (Condition::UpdatedBefore(time), Some(treasure)) => {
                let detail =
                    format!("the treasure {key:?} was written at {}, not before {time}", treasure.updated_at());
                Err(with_version(Error::new(ErrorCode::VersionMismatch, detail)))
            }
            (Condition::Absent, Some(_)) => {
                Err(with_version(Error::new(ErrorCode::AlreadyExists, format!("the treasure {key:?} exists already"))))
            }
            (Condition::Present | Condition::Version(_), None) => {
                Err(Error::new(ErrorCode::VersionMismatch, format!("the treasure {key:?} does not exist")))
            }
            (Condition::Version(versions), Some(treasure)) => {
                let sent: Cow<'_, str> = versions.first().map_or("none".into(), |version| version.to_string().into());
                let detail = format!("the treasure {key:?} is at version {}, you sent {sent}", treasure.version);
                Err(with_version(Error::new(ErrorCode::VersionMismatch, detail).with_hint("read it again and retry")))
            }
        }
    }

    /// Where a file is damaged or missing, a key that is not found may be there all the same.
    fn refuse_doubtful_absence(&self, key: &str, before: Known<'_>) -> Result<()> {
        if before.slot.is_some() { Ok(()) } else { doubtful_absence(self.state, key) }
    }
}

/// The error that answers for a key that is not found in a swamp with a damaged or missing file.
pub(crate) fn doubtful_absence(state: &State, key: &str) -> Result<()> {
    let (code, why) = match state.copy {
        CopyState::Complete => return Ok(()),
        CopyState::Incomplete => (ErrorCode::IncompleteCopy, "a file that is not here yet may hold it"),
        CopyState::Degraded => (ErrorCode::CorruptSwamp, "a damaged file may hold it"),
    };
    let detail = format!("{key:?} was not found, and {why}");
    let report = state.findings.first().cloned().unwrap_or_default();
    Err(Error::new(code, detail).with_hint(report))
}

/// The value after an increment.
fn incremented(key: &str, before: Known<'_>, current: Option<&Treasure>, by: i64) -> Result<i64> {
    let not_a_number =
        || Error::new(ErrorCode::NotANumber, format!("the value of {key:?} is no integer, so nothing can be added"));
    let start = match current {
        None => 0,
        Some(treasure) => {
            before.slot.and_then(integer).ok_or_else(not_a_number)?;
            std::str::from_utf8(treasure.value.as_bytes())
                .ok()
                .and_then(|text| text.parse::<i128>().ok())
                .ok_or_else(not_a_number)?
        }
    };
    i64::try_from(start + i128::from(by)).map_err(|_| {
        let detail = format!("{start} + {by} is outside of the range of a signed 64-bit integer");
        Error::new(ErrorCode::OutOfBounds, detail)
    })
}
