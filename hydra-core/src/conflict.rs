//! Conflicts: writes that lost against a write that had not seen them, kept for a while so that somebody can look.

use std::time::Duration;

use crate::base32;
use crate::counter::{Counter, Sum};
use crate::format::record::{ConflictRecord, Write};
use crate::slot::Slot;
use crate::stamp::{Stamp, Timestamp, Version};
use crate::state::integer;
use crate::value::Value;

/// How long a conflict is kept after it was found.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many conflicts a swamp keeps: those with the newest losers.
pub(crate) const KEPT_AT_MOST: usize = 1_000;

/// Two servers wrote to one key without knowing of each other, and this is the write that does not show.
///
/// The write with the greater stamp shows. Where both wrote the same there is no conflict, and a write
/// that its successor had seen was replaced on purpose. Increments add up and are in conflict only when
/// the value they were made on was replaced by somebody who had not seen them: then they are one conflict
/// together.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Conflict {
    /// The key both wrote to.
    pub key: String,
    /// What does not show.
    pub lost: LostWrite,
    /// The write that it lost against; others may have replaced that one since.
    pub won: WinningWrite,
    /// When it is forgotten: 7 days after it was found. A swamp keeps at most 1 000, the newest.
    pub until: Timestamp,
}

/// The loser of a [`Conflict`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LostWrite {
    /// Its version, as its server had answered it; with increments the version after the last of them.
    pub version: Version,
    /// When it was written; with increments when the last of them was.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it. Where no file tells any more, the 13 characters that name the
    /// process which wrote it; empty when only increments were lost and several servers made them.
    pub server: String,
    /// What was written.
    pub content: LostContent,
}

/// What a [`LostWrite`] had written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LostContent {
    /// A value, with the increments that went with it.
    Value(Value),
    /// The key was deleted.
    Deleted,
    /// So much was added to a value that its successor had seen without it, or to nothing. Where only a
    /// snapshot tells, it may include increments by the same process that the successor had seen.
    Increment(i128),
}

/// The winner of a [`Conflict`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WinningWrite {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it, or the name of its process as in [`LostWrite::server`].
    pub server: String,
}

/// A conflict as the merge finds it and a snapshot keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lost {
    pub(crate) key: Box<str>,
    /// The stamp of the write, or of the base that the increments name.
    pub(crate) stamp: Stamp,
    /// The PUT or DEL; `None` where only increments were lost.
    pub(crate) write: Option<Slot>,
    /// The increments.
    pub(crate) sums: Vec<Sum>,
    /// The first write of each incarnation above it, sorted. Whoever had seen any of them had not built on this one.
    pub(crate) rivals: Vec<Stamp>,
    /// `None` until a clock was at hand.
    pub(crate) found: Option<Timestamp>,
    pub(crate) server: Box<str>,
    pub(crate) winner: Box<str>,
}

impl Lost {
    pub(crate) fn record(&self) -> ConflictRecord<'_> {
        ConflictRecord {
            key: &self.key,
            stamp: self.stamp,
            write: self.write.as_ref().map(Slot::write),
            found: self.found.map_or(0, Timestamp::as_millis),
            server: &self.server,
            sums: self.sums.iter().map(|sum| (&*sum.pointer, sum.part)).collect(),
            rivals: self.rivals.clone(),
            winner: &self.winner,
        }
    }

    /// When it may be forgotten.
    pub(crate) fn until(&self, now: Timestamp) -> Timestamp {
        self.found.unwrap_or(now).after(KEPT_FOR)
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn footprint(&self) -> usize {
        let slot = self.write.as_ref().map_or(0, Slot::footprint);
        200 + self.key.len() + slot + 64 * self.sums.len() + 16 * self.rivals.len()
    }

    fn counter(&self) -> Counter {
        let mut counter = Counter::default();
        self.sums.iter().cloned().for_each(|sum| counter.add_sum(sum));
        counter
    }

    fn content(&self, counter: &Counter) -> LostContent {
        let added = counter.total(self.stamp);
        match &self.write {
            Some(slot) if slot.is_tombstone() && self.sums.is_empty() => LostContent::Deleted,
            Some(slot) if !slot.is_tombstone() => match integer(slot).filter(|_| !self.sums.is_empty()) {
                Some(number) => LostContent::Value(Value::from_checked((number + added).to_string().as_bytes())),
                None => LostContent::Value(slot.value()),
            },
            _ => LostContent::Increment(added),
        }
    }

    /// As the API shows it.
    pub(crate) fn conflict(&self, now: Timestamp) -> Conflict {
        let counter = self.counter();
        let (version, last) = match counter.span(self.stamp) {
            Some((_, last)) => (Version::of_counter(self.stamp.hlc, counter.digest(self.stamp)), last),
            None => (Version::of_record(self.stamp), self.stamp.hlc),
        };
        let won = self.rivals.iter().min().copied().unwrap_or_default();
        Conflict {
            key: self.key.to_string(),
            lost: LostWrite {
                version,
                updated_at: Stamp { hlc: last, incarnation: 0 }.timestamp(),
                server: self.server.to_string(),
                content: self.content(&counter),
            },
            won: WinningWrite {
                version: Version::of_record(won),
                updated_at: won.timestamp(),
                server: self.winner.to_string(),
            },
            until: self.until(now),
        }
    }
}

/// How a process is named where its server is not known.
pub(crate) fn process_name(incarnation: u64) -> String {
    base32::encode(incarnation.into(), base32::WIDTH_64)
}

/// Whether two writes to one key did the same, so that it does not matter which one shows.
pub(crate) fn did_the_same(a: &Write<'_>, b: &Write<'_>) -> bool {
    match (a, b) {
        (
            Write::Put { value, expires, content_type, .. },
            Write::Put { value: other, expires: others_expiry, content_type: others_type, .. },
        ) => value == other && expires == others_expiry && content_type == others_type,
        (Write::Del { .. }, Write::Del { .. }) => true,
        _ => false,
    }
}
