//! What can be written: operations, their conditions, their results, and the ticket a caller waits on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::sync::{Condvar, Mutex};

use crate::error::{Applied, Error, ErrorCode, Result};
use crate::locks::{Lock, LockOp};
use crate::number::{Increment, Number};
use crate::patch::Patch;
use crate::shift::Shift;
use crate::stamp::{Timestamp, Version};
use crate::value::{Treasure, Value};

/// The most operations one batch may have.
pub const MAX_BATCH_OPS: usize = 10_000;
/// The longest encoded form of one swamp's part of a batch: 32 MiB.
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// One operation on one treasure.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// Stores a value under a key, in place of what was there.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Value,
        /// When the treasure expires.
        expiry: Expiry,
        /// What must hold for the write to be done.
        condition: Condition,
    },
    /// Changes a part of a JSON value; keeps its expiry. Reads what is stored and writes the whole value: a put
    /// that is made from it.
    Patch {
        /// The key.
        key: String,
        /// What to change.
        patch: Patch,
        /// Whether an absent or expired treasure counts as `{}`; else it is `treasure-not-found`.
        create: bool,
        /// What must hold for the write to be done.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        /// What must hold for the removal to be done.
        condition: Condition,
    },
    /// Adds to an integer; an absent or expired treasure counts as 0. Keeps an expiry. Its record merges with
    /// those of other servers.
    Increment {
        /// The key.
        key: String,
        /// What to add.
        by: i64,
    },
    /// Adds to a number inside of a value, within bounds, or with a fraction. Keeps an expiry. Reads what is
    /// stored and writes the whole value: of two made at the same time on two servers one is lost, and listed
    /// as a conflict.
    IncrementWith {
        /// The key.
        key: String,
        /// What to add, and where.
        increment: Increment,
    },
    /// Reads a key; sees the operations before it in the same batch.
    Get {
        /// The key.
        key: String,
    },
    /// Takes the first treasures of an order; which ones is known when it is done.
    Shift(Shift),
    /// Takes, renews or gives back a lock.
    Lock(LockOp),
}

impl Op {
    /// The key the operation is about; empty for one that is about no single key a client could name.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. }
            | Op::Patch { key, .. }
            | Op::Delete { key, .. }
            | Op::Increment { key, .. }
            | Op::IncrementWith { key, .. }
            | Op::Get { key } => key,
            Op::Shift(_) | Op::Lock(_) => "",
        }
    }

    /// An increment: one that merges, if this one can.
    #[must_use]
    pub fn increment(key: String, increment: Increment) -> Op {
        match increment.mergeable() {
            Some(by) => Op::Increment { key, by },
            None => Op::IncrementWith { key, increment },
        }
    }

    /// Bytes of what it brings along beside its key.
    fn size(&self) -> usize {
        match self {
            Op::Put { value, .. } => value.len(),
            Op::Patch { patch, .. } => patch.size(),
            _ => 0,
        }
    }

    /// Whether the operation can change anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Op::Get { .. })
    }
}

/// When a treasure that is put expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Never; clears what was set.
    #[default]
    Never,
    /// At this moment.
    At(Timestamp),
    /// When the treasure in whose place it is put would have. One that has expired already counts as absent,
    /// so that then this means never.
    Keep,
}

impl From<Option<Timestamp>> for Expiry {
    fn from(at: Option<Timestamp>) -> Expiry {
        at.map_or(Expiry::Never, Expiry::At)
    }
}

/// What must hold before a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The treasure must not exist (`If-None-Match: *`).
    Absent,
    /// The treasure must exist (`If-Match: *`).
    Present,
    /// The treasure must be at one of these versions (`If-Match: "v"`).
    Version(Vec<Version>),
    /// The treasure must not exist, or have been written last before this time.
    UpdatedBefore(Timestamp),
}

/// A request that is recognised when it comes again: retried writes count once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// The key: the 16 bytes of a UUID, or XXH3-128 of any other text.
    pub key: u128,
    /// A hash of the request, so that a key used for two different requests is noticed.
    pub fingerprint: u64,
}

impl Idempotency {
    /// The key of an `Idempotency-Key` text with the fingerprint of a request.
    #[must_use]
    pub fn new(key: &str, fingerprint: u64) -> Idempotency {
        Idempotency { key: uuid_bits(key).unwrap_or_else(|| xxhash_rust::xxh3::xxh3_128(key.as_bytes())), fingerprint }
    }
}

/// The 128 bits of a UUID in its usual form of 36 characters.
fn uuid_bits(text: &str) -> Option<u128> {
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut bits = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            (byte == b'-').then_some(())?;
        } else {
            bits = bits << 4 | u128::from(char::from(byte).to_digit(16)?);
        }
    }
    Some(bits)
}

/// Operations on one swamp that are carried out in order, written as one frame and synced as one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// The operations; at most [`MAX_BATCH_OPS`].
    pub ops: Vec<Op>,
    /// All or nothing: a failed operation undoes the others. Otherwise it is left out alone.
    pub atomic: bool,
    /// Recognises the batch when it comes again.
    pub idempotency: Option<Idempotency>,
    /// On disk before it is acknowledged, whatever the write interval.
    pub sync: bool,
    /// A delete leaves its mark even where nothing is found: for a copy that may lag behind.
    pub mark_deletes: bool,
    /// Carried out before this moment or not at all, because whoever asked waits no longer. Default whenever its turn
    /// comes.
    pub deadline: Option<Instant>,
}

impl Batch {
    /// A batch of one operation.
    #[must_use]
    pub fn of(op: Op) -> Batch {
        Batch { ops: vec![op], ..Batch::default() }
    }

    /// Bytes of its keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.ops.iter().map(|op| (op.key().len() + op.size()) as u64).sum()
    }

    /// Whether it needs room: reads do not, and deletes make some.
    #[must_use]
    pub fn adds(&self) -> bool {
        self.ops.iter().any(|op| match op {
            Op::Lock(lock) => lock.adds(),
            op => op.is_write() && !matches!(op, Op::Delete { .. }),
        })
    }

    /// Refuses what comes too late to be carried out.
    pub(crate) fn check_deadline(&self) -> Result<()> {
        let is_over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if is_over { Err(Error::too_late()) } else { Ok(()) }
    }

    /// How much of a group it takes up: a shift looks past what those before it in the group took.
    pub(crate) fn weight(&self) -> usize {
        const SHIFT: usize = 16;
        if self.ops.iter().any(|op| matches!(op, Op::Shift(_))) { SHIFT } else { 1 }
    }
}

/// What one operation did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum OpResult {
    /// The value is stored: by a put or a patch.
    Put {
        /// Its version.
        version: Version,
        /// Whether the key is new.
        created: bool,
    },
    /// The key is gone.
    Deleted {
        /// Whether there was something to remove.
        existed: bool,
    },
    /// The sum.
    Incremented {
        /// The number after the increment.
        value: Number,
        /// Its version.
        version: Version,
        /// Whether the key is new.
        created: bool,
    },
    /// The treasure, if there is one.
    Got(Option<Treasure>),
    /// What was taken, in order; nothing where there was nothing to take.
    Shifted(Vec<Treasure>),
    /// The lock is held by the caller.
    Locked(Lock),
    /// The lock is free.
    Released,
}

/// Where an acknowledged write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On disk.
    Synced,
    /// In memory; on disk within the write interval.
    Buffered,
}

impl Durability {
    /// `synced` or `buffered`, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Synced => "synced",
            Durability::Buffered => "buffered",
        }
    }
}

/// The outcome of a batch: one result per operation, in order.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What each operation did, or why it was not done.
    pub results: Vec<Result<OpResult>>,
    /// Where the batch is now.
    pub durability: Durability,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// A write on its way: wait for it ([`Ticket::wait`]) or await it as a future, on any runtime.
///
/// Dropping a ticket does not undo the write.
#[must_use = "a write is acknowledged only when its ticket is done"]
pub struct Ticket<T>(State<T>);

enum State<T> {
    Ready(Option<T>),
    Pending(Arc<Shared<T>>),
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    done: Condvar,
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    abandoned: bool,
}

/// The other end of a [`Ticket`]. Dropped without a value it answers that the outcome is unknown.
pub(crate) struct Promise<T>(Option<Arc<Shared<Result<T>>>>);

impl<T> Ticket<T> {
    /// A ticket that is done.
    pub fn ready(value: T) -> Ticket<T> {
        Ticket(State::Ready(Some(value)))
    }
}

impl<T> Ticket<Result<T>> {
    /// A ticket and the promise that fulfils it.
    pub(crate) fn pending() -> (Promise<T>, Ticket<Result<T>>) {
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot { value: None, waker: None, abandoned: false }),
            done: Condvar::new(),
        });
        (Promise(Some(Arc::clone(&shared))), Ticket(State::Pending(shared)))
    }

    /// Blocks until the write is acknowledged or has failed.
    ///
    /// # Errors
    /// Those of the write.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            State::Ready(value) => value.unwrap_or_else(|| Err(abandoned())),
            State::Pending(shared) => {
                let mut slot = shared.slot.lock();
                loop {
                    match slot.value.take() {
                        Some(value) => return value,
                        None if slot.abandoned => return Err(abandoned()),
                        None => shared.done.wait(&mut slot),
                    }
                }
            }
        }
    }
}

impl<T: Unpin> Future for Ticket<Result<T>> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            State::Ready(value) => Poll::Ready(value.take().unwrap_or_else(|| Err(abandoned()))),
            State::Pending(shared) => {
                let mut slot = shared.slot.lock();
                match slot.value.take() {
                    Some(value) => Poll::Ready(value),
                    None if slot.abandoned => Poll::Ready(Err(abandoned())),
                    None => {
                        slot.waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            }
        }
    }
}

fn abandoned() -> Error {
    Error::new(ErrorCode::Internal, "the write was given up before it was answered").with_applied(Applied::Unknown)
}

impl<T> Promise<T> {
    /// Fulfils the ticket.
    pub(crate) fn fulfil(mut self, value: Result<T>) {
        if let Some(shared) = self.0.take() {
            shared.finish(Some(value));
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.finish(None);
        }
    }
}

impl<T> Shared<T> {
    fn finish(&self, value: Option<T>) {
        let mut slot = self.slot.lock();
        slot.abandoned = value.is_none();
        slot.value = value;
        let waker = slot.waker.take();
        drop(slot);
        self.done.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "Ticket(ready)",
            State::Pending(_) => "Ticket(pending)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_uuids_or_hashes() {
        let uuid = Idempotency::new("0192f0c1-2a3b-7c4d-8e5f-001122334455", 1);
        assert_eq!(uuid.key, 0x0192_f0c1_2a3b_7c4d_8e5f_0011_2233_4455);
        assert_ne!(Idempotency::new("order-17", 1).key, Idempotency::new("order-18", 1).key);
        for text in ["0192f0c12-a3b-7c4d-8e5f-001122334455", "+192f0c1-2a3b-7c4d-8e5f-001122334455", "0192f0c1", ""] {
            assert_eq!(uuid_bits(text), None, "{text}");
        }
    }

    #[test]
    fn a_promise_that_is_dropped_says_so() {
        let (promise, ticket) = Ticket::<Result<()>>::pending();
        drop(promise);
        assert_eq!(ticket.wait().expect_err("abandoned").applied(), Applied::Unknown);
    }

    #[test]
    fn a_ticket_wakes_its_waiter() {
        let (promise, ticket) = Ticket::<Result<u8>>::pending();
        let waiter = std::thread::spawn(move || ticket.wait());
        promise.fulfil(Ok(7));
        assert_eq!(waiter.join().expect("no panic").expect("a value"), 7);
    }
}
