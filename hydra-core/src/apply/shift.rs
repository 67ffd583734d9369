//! Carrying out a shift: which treasures it is offered, what becomes of them, and what is kept of the answer.

use std::cmp::Ordering;
use std::ops::Bound;
use std::time::Duration;

use super::Run;
use crate::error::{Applied, Error, ErrorCode, Result};
use crate::format::varint::{Reader, put_bytes, put_u64};
use crate::hidden::{is_hidden, kept_key};
use crate::outcome::Done;
use crate::query::{Facts as Ranked, Order, Position, Rank};
use crate::shift::{MAX_SHIFT_BYTES, Shift};
use crate::slot::{Facts, Slot};
use crate::stamp::{Stamp, Timestamp, Version};
use crate::state::Known;
use crate::value::{Treasure, Value};
use crate::write::OpResult;

/// How long what a shift returned is kept for one that comes again.
const KEPT: Duration = Duration::from_secs(600);
/// Of what was kept for long enough at most so much goes with one shift.
const PURGED: usize = 16;
/// Before anything can have expired.
const NEVER: Timestamp = Timestamp::from_millis(0);

impl Run<'_> {
    pub(super) fn shift(&mut self, shift: &Shift) -> Result<OpResult> {
        shift.check()?;
        let offered = self.offered(shift);
        let (mut slots, mut taken) = (Vec::with_capacity(offered.len() + 1), Vec::with_capacity(offered.len()));
        for treasure in offered {
            let stamp = self.next_stamp()?;
            let (slot, treasure) = take(shift, treasure, stamp, self.scene.now);
            slots.push(slot);
            taken.push(treasure);
        }
        if !taken.is_empty() {
            self.keep_answer(shift, &taken, &mut slots)?;
            slots.into_iter().for_each(|slot| self.keep_slot(slot));
        }
        self.note(Done::Read);
        Ok(OpResult::Shifted(taken))
    }

    /// The first treasures that are offered, as far as requests before this one in the group left them.
    fn offered(&self, shift: &Shift) -> Vec<Treasure> {
        let now = self.scene.now;
        let is_touched = |key: &str| self.own.touched.get(key).or_else(|| self.below.touched.get(key)).is_some();
        let keep = |treasure: &Treasure| shift.offers(treasure.expires_at, now) && !is_touched(&treasure.key);
        let (mut found, is_sorted) = match self.first(shift, keep) {
            Some(first) => (first, true),
            None => (self.state.treasures(NEVER).filter(keep).collect(), false),
        };
        let before = found.len();
        let own = self.own.touched.iter();
        let below = self.below.touched.iter().filter(|held| self.own.touched.get(held.slot.key()).is_none());
        let touched = own.chain(below).filter(|held| !is_hidden(held.slot.key_bytes()));
        let touched = touched.filter_map(|held| held.as_known().treasure(NEVER));
        found.extend(touched.filter(|treasure| shift.offers(treasure.expires_at, now)));
        if !is_sorted || found.len() > before {
            found.sort_by_cached_key(|treasure| place(shift, treasure));
        }
        found.truncate(shift.take);
        cut(&mut found);
        found
    }

    /// The first of an order in memory; `None` while it is not built.
    fn first(&self, shift: &Shift, mut keep: impl FnMut(&Treasure) -> bool) -> Option<Vec<Treasure>> {
        if shift.order != Order::Expires {
            return self.state.first(&shift.order, shift.descending, shift.take, keep);
        }
        if !self.state.indexes().is_ready(&shift.order) {
            return None;
        }
        // What is to expire later need not be looked at: there may be much of it.
        let at = |rank| Position { rank, key: Vec::new() };
        let later = at(Rank::Time(self.scene.now.as_millis() + 1));
        let last = at(Rank::LAST);
        let mut parts = vec![(Bound::Unbounded, Bound::Excluded(&later))];
        if !shift.due {
            parts.push((Bound::Included(&last), Bound::Unbounded));
        }
        let mut first = Vec::new();
        for bounds in parts {
            self.state.scan(&shift.order, bounds, shift.descending, |_, treasure| {
                if first.len() < shift.take && keep(&treasure) {
                    first.push(treasure);
                }
                first.len() < shift.take
            });
        }
        Some(first)
    }

    /// Keeps what the shift returns, where it may come again, and forgets what was kept for long enough.
    fn keep_answer(&mut self, shift: &Shift, taken: &[Treasure], slots: &mut Vec<Slot>) -> Result<()> {
        let Some(request) = self.request else { return Ok(()) };
        let now = self.scene.now;
        let stamp = self.next_stamp()?;
        let facts = Facts { expires: Some(now.after(KEPT)), created: stamp.timestamp(), content_type: Some(BYTES) };
        slots.push(Slot::put(stamp, &kept_key(request.key), &encode(shift.lease.is_some(), taken), facts));
        let is_there = |key: &&str| self.known(key).is_live() && **key != *kept_key(request.key);
        let gone: Vec<String> =
            self.state.hidden_expired(now).take(4 * PURGED).filter(is_there).take(PURGED).map(str::to_owned).collect();
        for key in gone {
            slots.push(Slot::tombstone(self.next_stamp()?, &key));
        }
        Ok(())
    }
}

/// What becomes of a treasure that is taken, and what the caller is told of it.
fn take(shift: &Shift, treasure: Treasure, stamp: Stamp, now: Timestamp) -> (Slot, Treasure) {
    let Some(lease) = shift.lease else { return (Slot::tombstone(stamp, &treasure.key), treasure) };
    let expires = Some(now.after(lease));
    let facts = Facts { expires, created: treasure.created_at, content_type: treasure.value.content_type() };
    let slot = Slot::put(stamp, &treasure.key, treasure.value.as_bytes(), facts);
    let version = Version::of_record(stamp);
    (slot, Treasure { version, updated_at: stamp.timestamp(), expires_at: expires, written: stamp.hlc, ..treasure })
}

/// What sorts as the order says; what lacks that which it goes by comes last in either direction.
fn place(shift: &Shift, treasure: &Treasure) -> (bool, Directed<Rank>, Directed<String>) {
    let ranked = Ranked {
        created: treasure.created_at,
        written: treasure.written,
        expires: treasure.expires_at,
        json: treasure.value.is_json().then(|| treasure.value.as_bytes()),
    };
    let rank = Rank::of(&shift.order, &ranked);
    let is_reversed = shift.descending;
    (rank == Rank::LAST, Directed { of: rank, is_reversed }, Directed { of: treasure.key.clone(), is_reversed })
}

/// Compares forwards or backwards.
#[derive(PartialEq, Eq)]
struct Directed<T> {
    of: T,
    is_reversed: bool,
}

impl<T: Ord> PartialOrd for Directed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for Directed<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        let forwards = self.of.cmp(&other.of);
        if self.is_reversed { forwards.reverse() } else { forwards }
    }
}

/// Leaves as many as have no more bytes than one shift takes, and one in any case.
fn cut(found: &mut Vec<Treasure>) {
    let mut bytes = 0;
    let fits = |treasure: &Treasure| {
        bytes += treasure.value.len() + treasure.key.len();
        bytes <= MAX_SHIFT_BYTES
    };
    let fitting = found.iter().map(fits).take_while(|&fits| fits).count();
    found.truncate(fitting.max(1));
}

/// The content type of what is kept.
const BYTES: &str = "application/octet-stream";

/// What a shift returned. `0`, and for each treasure key, content type (empty: none), value, version, times of
/// creation and update and expiry in ms (0: never); on lease `1`, and for each key and version.
fn encode(is_lease: bool, taken: &[Treasure]) -> Vec<u8> {
    let mut out = vec![u8::from(is_lease)];
    for treasure in taken {
        put_bytes(&mut out, treasure.key.as_bytes());
        let (hlc, rest, counter) = treasure.version.to_parts();
        out.push(u8::from(counter));
        out.extend_from_slice(&hlc.to_le_bytes());
        out.extend_from_slice(&rest.to_le_bytes());
        if !is_lease {
            put_bytes(&mut out, treasure.value.content_type().unwrap_or_default().as_bytes());
            put_bytes(&mut out, treasure.value.as_bytes());
            put_u64(&mut out, treasure.created_at.as_millis());
            put_u64(&mut out, treasure.updated_at.as_millis());
            put_u64(&mut out, treasure.expires_at.map_or(0, Timestamp::as_millis));
        }
    }
    out
}

/// The inverse of [`encode`]. What is on lease is looked up by `leased`.
fn decode(bytes: &[u8], leased: impl Fn(&str, Version) -> Option<Treasure>) -> Option<Vec<Treasure>> {
    let mut reader = Reader(bytes);
    let is_lease = reader.u8()? == 1;
    let mut taken = Vec::new();
    while !reader.is_empty() {
        let key = reader.text()?;
        let counter = reader.u8()? == 1;
        let version = Version::from_parts(reader.u64()?, reader.u128()?, counter);
        if is_lease {
            taken.extend(leased(key, version));
            continue;
        }
        let (content_type, value) = (reader.text()?, reader.bytes()?);
        let value = match content_type {
            "" => Value::from_checked(value),
            content_type => Value::binary(content_type, value).ok()?,
        };
        let (created_at, updated_at) = (reader.varint()?, reader.varint()?);
        // Increments after the version count only to the millisecond here.
        let written = version.to_parts().0.max(updated_at << 16);
        let expires_at = Some(reader.varint()?).filter(|&at| at > 0).map(Timestamp::from_millis);
        let (created_at, updated_at) = (Timestamp::from_millis(created_at), Timestamp::from_millis(updated_at));
        taken.push(Treasure { key: key.to_owned(), value, version, created_at, updated_at, expires_at, written });
    }
    Some(taken)
}

/// What a shift returned the first time; of a lease what still runs.
pub(super) fn again<'s>(known: impl Fn(&str) -> Known<'s>, request: u128, now: Timestamp) -> Result<OpResult> {
    let leased = |key: &str, version: Version| known(key).treasure(now).filter(|found| found.version == version);
    let kept = known(&kept_key(request));
    let slot = kept.slot.filter(|slot| !slot.is_tombstone() && slot.expires().is_some_and(|at| at > now));
    let taken = slot.and_then(|slot| decode(slot.value_bytes(), leased));
    taken.map(OpResult::Shifted).ok_or_else(|| {
        let detail = "this shift was carried out more than 10 minutes ago; what it returned is not kept any more";
        Error::new(ErrorCode::IdempotencyReuse, detail)
            .with_applied(Applied::Yes)
            .with_hint("make a new key for every shift")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back() {
        let at = Timestamp::from_millis(7_000);
        let treasure = |key: &str, value: Value, expires_at| Treasure {
            key: key.to_owned(),
            value,
            version: Version::of_record(Stamp { hlc: 5, incarnation: 6 }),
            created_at: at,
            updated_at: at,
            expires_at,
            written: at.as_millis() << 16,
        };
        let png = Value::binary("image/png", [0, 255]).expect("bytes");
        let taken = [
            treasure("a", Value::json("{\"n\":1.0}").expect("json"), None),
            treasure("b", png, Some(Timestamp::from_millis(9_000))),
        ];
        let nowhere = |_: &str, _: Version| None;
        assert_eq!(decode(&encode(false, &taken), nowhere).as_deref(), Some(&taken[..]));
        let here = |key: &str, version| (key == "b" && version == taken[1].version).then(|| taken[1].clone());
        assert_eq!(decode(&encode(true, &taken), here).as_deref(), Some(&taken[1..]), "those that still run");
        assert_eq!(decode(&[0, 200], nowhere), None);
    }
}
