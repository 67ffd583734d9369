//! Queues: taking the first treasures of an order, for good or on lease, so that no two callers take the same.
//!
//! Offered is what has no expiry and what is past it. A treasure whose expiry is still to come is not offered: it is
//! a job for later, or one that somebody has on lease. A lease is nothing but an expiry that was moved forward: when
//! it is over, and the treasure was not removed, it is offered again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Swamp};
use crate::error::{Error, ErrorCode, Result};
use crate::lines::{Line, Topic};
use crate::name::SwampName;
use crate::query::Order;
use crate::shared::Shared;
use crate::stamp::Timestamp;
use crate::value::Treasure;
use crate::waiting::{Waiting, check_wait, on_pool, swamp_with_room, until};
use crate::write::{Batch, Committed, Durability, Idempotency, Op, OpResult};

/// The most treasures one shift takes.
pub const MAX_SHIFT: usize = 1_000;
/// The values one shift takes have at most so many bytes together, but for a single larger one: 16 MiB.
pub const MAX_SHIFT_BYTES: usize = 16 << 20;
/// The longest lease: 24 h.
pub const MAX_LEASE: Duration = Duration::from_secs(86_400);

/// What a shift takes.
///
/// Without `due` it is offered what has no expiry, and what is past it; what is to expire later is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// At most so many, 1 to [`MAX_SHIFT`]; fewer where their values have more than [`MAX_SHIFT_BYTES`]. Default 1.
    pub take: usize,
    /// The first by what. Default when they came into being.
    pub order: Order,
    /// From the last to the first. Default no.
    pub descending: bool,
    /// Only what is past its expiry. Default no.
    pub due: bool,
    /// They stay, and expire after this span; until then no other shift is offered them. Whoever is done with one
    /// deletes it under its version. At most [`MAX_LEASE`]. Default none: they are removed.
    pub lease: Option<Duration>,
}

impl Default for Shift {
    fn default() -> Shift {
        Shift { take: 1, order: Order::Created, descending: false, due: false, lease: None }
    }
}

impl Shift {
    /// Checks the limits.
    ///
    /// # Errors
    /// `invalid-parameter` names what is out of its limits.
    pub fn check(&self) -> Result<()> {
        let refuse = |detail: String| Err(Error::new(ErrorCode::InvalidParameter, detail));
        if !(1..=MAX_SHIFT).contains(&self.take) {
            return refuse(format!("a shift takes {} treasures; allowed are 1 to {MAX_SHIFT}", self.take));
        }
        match self.lease {
            Some(lease) if lease < Duration::from_millis(1) || lease > MAX_LEASE => {
                refuse(format!("the lease is {lease:?}; allowed are 1ms to 24h"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a treasure that expires then is offered.
    pub(crate) fn offers(&self, expires_at: Option<Timestamp>, now: Timestamp) -> bool {
        match expires_at {
            None => !self.due,
            Some(at) => at <= now,
        }
    }
}

/// A shift and how it is carried out.
#[derive(Debug, Clone, Default)]
pub struct ShiftRequest {
    /// What to take.
    pub shift: Shift,
    /// How long to wait where there is nothing to take, at most [`MAX_WAIT`](crate::MAX_WAIT). Who came first takes
    /// first. Default not at all.
    pub wait: Duration,
    /// Recognises the shift when it comes again: for 10 minutes it is answered with what it took the first time.
    pub idempotency: Option<Idempotency>,
    /// On disk before it is acknowledged, whatever the write interval.
    pub sync: bool,
    /// Takes something before this moment or nothing at all, see [`Batch::deadline`].
    pub deadline: Option<Instant>,
}

/// What a shift took.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shifted {
    /// The treasures, in order; on lease with the version and the expiry they have now.
    pub treasures: Vec<Treasure>,
    /// Where the shift is now; `None` when nothing was taken.
    pub durability: Option<Durability>,
    /// Whether this is the answer to an earlier request with the same idempotency key. What of a lease is over, or
    /// was removed, is left out.
    pub replayed: bool,
}

impl Engine {
    /// Takes the first treasures of an order, and waits for some if there are none. No two callers take the same.
    ///
    /// What a shift without a lease takes is removed; if its answer may get lost, send an idempotency key. The swamp
    /// may leave memory while a call waits. A call whose future is dropped while it waits takes nothing.
    ///
    /// # Errors
    /// `invalid-parameter` for limits; `idempotency-reuse` for a key of another request, and for one whose answer is
    /// not kept any more; those of [`Engine::hydrate`] and [`Swamp::write`].
    pub fn shift(&self, name: &SwampName, request: ShiftRequest) -> Waiting<Shifted> {
        let (shared, name) = (Arc::clone(self.shared()), name.clone());
        Waiting::new(async move { shift(&shared, &name, &request).await })
    }

    /// Answers every call that waits at once, as if its time were up, and lets none wait from now on: for a server
    /// that is about to end.
    pub fn end_waits(&self) {
        self.shared().lines.close();
    }
}

async fn shift(shared: &Arc<Shared>, name: &SwampName, request: &ShiftRequest) -> Result<Shifted> {
    request.shift.check()?;
    check_wait(request.wait)?;
    if request.wait.is_zero() {
        let swamp = swamp_with_room(shared, name).await?;
        return attempt(&swamp, request).await;
    }
    let line = Line { swamp: name.clone(), topic: Topic::Shift { due: request.shift.due } };
    let place = shared.lines.step_in(line, until(request.wait, request.deadline), &shared.timer);
    let mut nothing = Shifted { treasures: Vec::new(), durability: None, replayed: false };
    while place.turn().await {
        let swamp = swamp_with_room(shared, name).await?;
        nothing = attempt(&swamp, request).await?;
        if !nothing.treasures.is_empty() || nothing.replayed {
            return Ok(nothing);
        }
        // Whatever comes from here on is noticed, so it is tried once more before the wait begins.
        let changed = swamp.changed()?;
        let shifted = attempt(&swamp, request).await?;
        if !shifted.treasures.is_empty() || shifted.replayed {
            return Ok(shifted);
        }
        drop(swamp);
        if !place.news(changed).await {
            break;
        }
    }
    Ok(nothing)
}

async fn attempt(swamp: &Swamp, request: &ShiftRequest) -> Result<Shifted> {
    let order = &request.shift.order;
    if !swamp.is_ordered(order) {
        let (resident, order) = (Arc::clone(&swamp.0), order.clone());
        let sort = move || {
            resident.ensure_index(&order);
            Ok(())
        };
        on_pool(&swamp.0.shared, sort).await?;
    }
    let op = Op::Shift(request.shift.clone());
    let (idempotency, sync, deadline) = (request.idempotency, request.sync, request.deadline);
    let batch = Batch { idempotency, sync, deadline, ..Batch::of(op) };
    let Committed { results, durability, replayed } = swamp.write(batch).await?;
    match results.into_iter().next() {
        Some(Ok(OpResult::Shifted(treasures))) => {
            let durability = Some(durability).filter(|_| !treasures.is_empty());
            Ok(Shifted { treasures, durability, replayed })
        }
        Some(Err(error)) => Err(error),
        other => Err(Error::new(ErrorCode::Internal, format!("a shift answered {other:?}"))),
    }
}
