//! Carrying out what is asked of a lock.

use std::time::Duration;

use super::Run;
use crate::error::{Applied, Error, ErrorCode, Result};
use crate::locks::{Held, LockOp, Step, held};
use crate::outcome::Done;
use crate::slot::{Facts, Slot};
use crate::stamp::Timestamp;
use crate::state::Known;
use crate::write::OpResult;

impl Run<'_> {
    pub(super) fn lock(&mut self, op: &LockOp) -> Result<OpResult> {
        let LockOp { key, step } = op;
        let now = self.scene.now;
        let known = self.known(key);
        let holder = Held::of(known, now);
        if holder.is_none() {
            self.refuse_doubtful_absence(key, known)?;
        }
        let (slot, result) = match (step, holder) {
            (Step::Acquire { .. }, Some((holder, until))) => return Err(held_by(&holder, until, now)),
            (Step::Acquire { token, owner, ttl }, None) => {
                let stamp = self.next_stamp()?;
                let request = self.request.map(|request| format!("{:032x}", request.key));
                let holder = Held { token: token.clone(), owner: owner.clone(), fence: stamp.hlc, request };
                let until = now.after(*ttl);
                let facts = Facts { expires: Some(until), created: stamp.timestamp(), content_type: None };
                (Slot::put(stamp, key, &written(&holder)?, facts), OpResult::Locked(holder.lock(until)))
            }
            (Step::Renew { token, ttl }, Some((holder, _))) if holder.token == *token => {
                let created = known.slot.map_or(now, Slot::created);
                let stamp = self.next_stamp()?;
                let until = now.after(*ttl);
                let facts = Facts { expires: Some(until), created, content_type: None };
                (Slot::put(stamp, key, &written(&holder)?, facts), OpResult::Locked(holder.lock(until)))
            }
            (Step::Release { token }, Some((holder, _))) if holder.token == *token => {
                (Slot::tombstone(self.next_stamp()?, key), OpResult::Released)
            }
            (Step::Renew { .. } | Step::Release { .. }, holder) => return Err(not_held(holder.is_some())),
            (Step::Forget, _) => (Slot::tombstone(self.next_stamp()?, key), OpResult::Released),
        };
        self.keep_slot(slot);
        self.note(Done::Read);
        Ok(result)
    }
}

fn written(holder: &Held) -> Result<Vec<u8>> {
    serde_json::to_vec(holder)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("a lock cannot be written: {error}")))
}

fn held_by(holder: &Held, until: Timestamp, now: Timestamp) -> Error {
    let owner = holder.owner.as_ref().map_or_else(|| "somebody".to_owned(), |owner| format!("{owner:?}"));
    let rest = Duration::from_millis(until.as_millis().saturating_sub(now.as_millis()));
    held(&format!("{owner} holds it until {until}"), Some(rest))
}

fn not_held(by_another: bool) -> Error {
    let why = if by_another { "somebody else holds it, or the token is wrong" } else { "nobody holds it any more" };
    Error::new(ErrorCode::LockTokenMismatch, format!("the lock is not held with this token: {why}"))
        .with_hint("what was done under the lock may overlap with what others did; ask for it again")
}

/// What is said to a request that comes again: a grant as long as it lasts.
pub(super) fn again(op: &LockOp, known: Known<'_>, request: u128, now: Timestamp) -> Result<OpResult> {
    let holder = Held::of(known, now);
    match (&op.step, holder) {
        (Step::Acquire { .. }, Some((holder, until))) if holder.request == Some(format!("{request:032x}")) => {
            Ok(OpResult::Locked(holder.lock(until)))
        }
        (Step::Acquire { .. }, _) => {
            let detail = "the lock was granted to this request before, and that grant is over";
            Err(Error::new(ErrorCode::IdempotencyReuse, detail)
                .with_applied(Applied::Yes)
                .with_hint("make a new key to ask for the lock again"))
        }
        (Step::Renew { token, .. }, Some((holder, until))) if holder.token == *token => {
            Ok(OpResult::Locked(holder.lock(until)))
        }
        (Step::Renew { .. }, holder) => Err(not_held(holder.is_some())),
        (Step::Release { .. } | Step::Forget, _) => Ok(OpResult::Released),
    }
}
