//! Advisory locks: each has a name inside a swamp, so it has a folder and a server like everything else.
//!
//! A lock is a hidden treasure that expires: it is merged, copied and moved with its swamp. Whoever waits for one
//! waits in memory, in the order of coming. The fence of a grant is the clock value of its record: it grows with
//! every grant, also over restarts, so that whatever the lock protects can refuse a holder whose time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::apply::doubtful_absence;
use crate::engine::{Engine, Swamp};
use crate::error::{Error, ErrorCode, Result};
use crate::hidden::lock_key;
use crate::lines::{Line, Topic};
use crate::name::{SwampName, check_key};
use crate::shared::Shared;
use crate::slot::Slot;
use crate::stamp::Timestamp;
use crate::state::Known;
use crate::waiting::{Waiting, check_wait, swamp_with_room, until};
use crate::write::{Batch, Committed, Idempotency, Op, OpResult};

/// The longest name of a lock, in bytes; otherwise the rules of keys hold.
pub const MAX_LOCK_NAME_BYTES: usize = 255;
/// The longest text that says who holds a lock, in bytes.
pub const MAX_OWNER_BYTES: usize = 255;
/// The longest time a lock is held without being renewed: 24 h.
pub const MAX_LOCK_TTL: Duration = Duration::from_secs(86_400);

/// A lock that is asked for.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// How long it is held unless it is renewed, 1 ms to [`MAX_LOCK_TTL`].
    pub ttl: Duration,
    /// How long to wait while somebody else holds it, at most [`MAX_WAIT`](crate::MAX_WAIT). Who came first holds it
    /// first.
    pub wait: Duration,
    /// Who asks, for others to see; at most [`MAX_OWNER_BYTES`].
    pub owner: Option<String>,
    /// Recognises the request when it comes again: as long as the lock is held it is answered with the same grant.
    pub idempotency: Option<Idempotency>,
    /// Granted before this moment or not at all, see [`Batch::deadline`].
    pub deadline: Option<Instant>,
}

impl LockRequest {
    /// A request that does not wait.
    #[must_use]
    pub fn new(ttl: Duration) -> LockRequest {
        LockRequest { ttl, wait: Duration::ZERO, owner: None, idempotency: None, deadline: None }
    }
}

/// A lock that the caller holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// What proves that: needed to renew and to give it back. Nobody else is told.
    pub token: String,
    /// Greater than that of every grant before.
    pub fence: u64,
    /// Until when it is held.
    pub expires_at: Timestamp,
}

/// A lock as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// Who holds it, if that was said.
    pub owner: Option<String>,
    /// The fence of the grant.
    pub fence: u64,
    /// Until when it is held.
    pub expires_at: Timestamp,
}

/// The answer to a [`LockRequest`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Granted {
    /// The lock.
    pub lock: Lock,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// What is to become of a lock: an operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOp {
    /// The hidden key.
    pub(crate) key: String,
    pub(crate) step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Acquire {
        token: String,
        owner: Option<String>,
        ttl: Duration,
    },
    Renew {
        token: String,
        ttl: Duration,
    },
    Release {
        token: String,
    },
    /// Removes any hidden key.
    Forget,
}

impl LockOp {
    /// Takes a lock that nobody holds.
    ///
    /// # Errors
    /// `invalid-key`, `invalid-parameter` for what is out of its limits.
    pub fn acquire(name: &str, owner: Option<String>, ttl: Duration) -> Result<LockOp> {
        check_name(name)?;
        check_ttl(ttl)?;
        check_owner(owner.as_deref())?;
        let random =
            || getrandom::u64().map_err(|error| Error::new(ErrorCode::Internal, format!("no random bits: {error}")));
        let token = format!("{:016x}{:016x}", random()?, random()?);
        Ok(LockOp { key: lock_key(name), step: Step::Acquire { token, owner, ttl } })
    }

    /// Holds a lock for longer: from now on for `ttl`.
    ///
    /// # Errors
    /// Those of [`LockOp::acquire`].
    pub fn renew(name: &str, token: &str, ttl: Duration) -> Result<LockOp> {
        check_name(name)?;
        check_ttl(ttl)?;
        Ok(LockOp { key: lock_key(name), step: Step::Renew { token: token.to_owned(), ttl } })
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// `invalid-key` for a name that is not allowed.
    pub fn release(name: &str, token: &str) -> Result<LockOp> {
        check_name(name)?;
        Ok(LockOp { key: lock_key(name), step: Step::Release { token: token.to_owned() } })
    }

    /// Removes a hidden key with its swamp.
    pub(crate) fn forget(key: String) -> LockOp {
        LockOp { key, step: Step::Forget }
    }

    /// Whether it needs room.
    pub(crate) fn adds(&self) -> bool {
        matches!(self.step, Step::Acquire { .. } | Step::Renew { .. })
    }
}

fn check_name(name: &str) -> Result<()> {
    check_key(name)?;
    if name.len() <= MAX_LOCK_NAME_BYTES {
        return Ok(());
    }
    let detail = format!("the name of the lock has {} bytes, {MAX_LOCK_NAME_BYTES} are allowed", name.len());
    Err(Error::new(ErrorCode::InvalidKey, detail))
}

fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl >= Duration::from_millis(1) && ttl <= MAX_LOCK_TTL {
        return Ok(());
    }
    let detail = format!("the ttl of the lock is {ttl:?}; allowed are 1ms to 24h");
    Err(Error::new(ErrorCode::InvalidParameter, detail))
}

fn check_owner(owner: Option<&str>) -> Result<()> {
    match owner {
        Some(owner) if owner.len() > MAX_OWNER_BYTES => {
            let detail = format!("the owner has {} bytes, {MAX_OWNER_BYTES} are allowed", owner.len());
            Err(Error::new(ErrorCode::InvalidParameter, detail))
        }
        _ => Ok(()),
    }
}

/// What is stored under the hidden key of a lock.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    pub(crate) fence: u64,
    /// The idempotency key of the request that was granted, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
}

impl Held {
    /// Who holds a lock at `now`, and until when.
    pub(crate) fn of(known: Known<'_>, now: Timestamp) -> Option<(Held, Timestamp)> {
        let slot: &Slot = known.slot.filter(|slot| !slot.is_tombstone())?;
        let expires_at = slot.expires().filter(|at| *at > now)?;
        Some((serde_json::from_slice(slot.value_bytes()).ok()?, expires_at))
    }

    pub(crate) fn lock(self, expires_at: Timestamp) -> Lock {
        Lock { token: self.token, fence: self.fence, expires_at }
    }
}

impl Engine {
    /// Takes a lock, and waits for it while somebody else holds it. On disk before it is answered, whatever the write
    /// interval. A call whose future is dropped while it waits never holds the lock.
    ///
    /// Advisory: it stops nobody who does not ask for it. After a failover it holds only as far as the copy is
    /// current.
    ///
    /// # Errors
    /// `lock-held` when somebody holds it to the end of the wait, with how long that grant still lasts;
    /// `invalid-key` and `invalid-parameter` for limits; `idempotency-reuse` for a key of another request, and for
    /// one whose grant is over; those of [`Engine::hydrate`] and [`Swamp::write`].
    pub fn lock(&self, name: &SwampName, lock: &str, request: LockRequest) -> Waiting<Granted> {
        let (shared, name) = (Arc::clone(self.shared()), name.clone());
        let op = LockOp::acquire(lock, request.owner, request.ttl);
        let LockRequest { wait, idempotency, deadline, .. } = request;
        Waiting::new(async move {
            let op = op?;
            let line = Line { swamp: name, topic: Topic::Lock(op.key.clone()) };
            let batch = Batch { idempotency, sync: true, deadline, ..Batch::of(Op::Lock(op)) };
            acquire(&shared, line, batch, wait).await
        })
    }

    /// Holds a lock for longer: from now on for `ttl`. With an idempotency key a request that comes again is
    /// answered with what it did.
    ///
    /// # Errors
    /// `lock-token-mismatch` when it is not held with this token, or not any more; those of [`Engine::lock`].
    pub fn renew_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        ttl: Duration,
        idempotency: Option<Idempotency>,
    ) -> Waiting<Lock> {
        self.change_lock(name, LockOp::renew(lock, token, ttl), idempotency, |result| match result {
            OpResult::Locked(lock) => Some(lock),
            _ => None,
        })
    }

    /// Gives a lock back; whoever waits for it holds it next. With an idempotency key as with
    /// [`Engine::renew_lock`].
    ///
    /// # Errors
    /// `lock-token-mismatch` when it is not held with this token, or not any more; those of [`Engine::lock`].
    pub fn release_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        idempotency: Option<Idempotency>,
    ) -> Waiting<()> {
        let read = |result| matches!(result, OpResult::Released).then_some(());
        self.change_lock(name, LockOp::release(lock, token), idempotency, read)
    }

    fn change_lock<T: 'static>(
        &self,
        name: &SwampName,
        op: Result<LockOp>,
        idempotency: Option<Idempotency>,
        read: fn(OpResult) -> Option<T>,
    ) -> Waiting<T> {
        let (shared, name) = (Arc::clone(self.shared()), name.clone());
        Waiting::new(async move {
            let op = op?;
            let swamp = swamp_with_room(&shared, &name).await?;
            let batch = Batch { idempotency, sync: true, ..Batch::of(Op::Lock(op)) };
            let (result, _) = attempt(&swamp, batch).await?;
            read(result).ok_or_else(unexpected)
        })
    }
}

impl Swamp {
    /// Who holds a lock; `None` when nobody does.
    ///
    /// # Errors
    /// `invalid-key`; `corrupt-swamp` or `incomplete-copy` when the lock is not found and a damaged or missing file
    /// may hold it.
    pub fn lock_info(&self, lock: &str) -> Result<Option<LockInfo>> {
        check_name(lock)?;
        let key = lock_key(lock);
        let state = self.0.state.read();
        match Held::of(state.known(&key), Timestamp::now()) {
            Some((Held { owner, fence, .. }, expires_at)) => Ok(Some(LockInfo { owner, fence, expires_at })),
            None if state.knows(&key) => Ok(None),
            None => doubtful_absence(&state, lock).map(|()| None),
        }
    }
}

async fn acquire(shared: &Arc<Shared>, line: Line, batch: Batch, wait: Duration) -> Result<Granted> {
    check_wait(wait)?;
    let name = line.swamp.clone();
    if wait.is_zero() {
        let swamp = swamp_with_room(shared, &name).await?;
        // Whoever waits comes first; a request that comes again may hold it already.
        if shared.lines.is_waited_for(&line) && batch.idempotency.is_none_or(|request| !is_known(&swamp, request)) {
            return Err(held("others wait for it", None));
        }
        return grant(attempt(&swamp, batch).await?);
    }
    let place = shared.lines.step_in(line, until(wait, batch.deadline), &shared.timer);
    let mut refusal = held("others wait for it, too", None);
    while place.turn().await {
        let swamp = swamp_with_room(shared, &name).await?;
        // Whatever changes from here on is noticed.
        let changed = swamp.changed()?;
        match attempt(&swamp, batch.clone()).await {
            Err(error) if error.code() == ErrorCode::LockHeld => refusal = error,
            outcome => return grant(outcome?),
        }
        drop(swamp);
        if !place.news(changed).await {
            break;
        }
    }
    Err(refusal)
}

fn is_known(swamp: &Swamp, request: Idempotency) -> bool {
    swamp.0.state.read().requests().get(request.key).is_some()
}

fn grant((result, replayed): (OpResult, bool)) -> Result<Granted> {
    match result {
        OpResult::Locked(lock) => Ok(Granted { lock, replayed }),
        _ => Err(unexpected()),
    }
}

async fn attempt(swamp: &Swamp, batch: Batch) -> Result<(OpResult, bool)> {
    let Committed { results, replayed, .. } = swamp.write(batch).await?;
    let result = results.into_iter().next().unwrap_or_else(|| Err(unexpected()))?;
    Ok((result, replayed))
}

fn unexpected() -> Error {
    Error::new(ErrorCode::Internal, "a lock answered something else")
}

/// The refusal of a lock that is not free; `rest`: how long its grant still lasts.
pub(crate) fn held(why: &str, rest: Option<Duration>) -> Error {
    let error = Error::new(ErrorCode::LockHeld, format!("the lock is not free: {why}"))
        .with_hint("ask again later, or wait for it");
    error.with_retry_after(rest.unwrap_or(Duration::from_secs(1)))
}
