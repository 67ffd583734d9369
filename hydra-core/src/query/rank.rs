//! Where a treasure stands in an order: what it is ordered by, and its key.

use crate::stamp::Timestamp;

use super::Order;
use super::collation::collate_first;
use super::scan::Json;

/// Values are ordered by so many bytes of their collated form, about as many of a string.
const RANK_MOST: usize = 512;

/// What a treasure is ordered by, of which an order uses one member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) created: Timestamp,
    /// The clock of its last write, which also tells apart those of one millisecond.
    pub(crate) written: u64,
    pub(crate) expires: Option<Timestamp>,
    /// `None` for bytes that are no JSON.
    pub(crate) json: Option<&'a [u8]>,
}

/// The place of a treasure among those with other ranks; where ranks are the same the keys decide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The beginning of a collated value.
    Value(Box<[u8]>),
    /// Milliseconds, or a clock finer than that. Behind all values, so that its last one can stand for none.
    Time(u64),
}

impl Rank {
    /// Of whatever lacks what it would be ordered by; the last in either direction.
    pub(crate) const LAST: Rank = Rank::Time(u64::MAX);

    pub(crate) fn of(order: &Order, facts: &Facts<'_>) -> Rank {
        match order {
            Order::Key => Rank::Time(0),
            Order::Created => Rank::Time(facts.created.as_millis()),
            Order::Updated => Rank::Time(facts.written),
            Order::Expires => facts.expires.map_or(Rank::LAST, |at| Rank::Time(at.as_millis())),
            Order::Value(pointer) => match facts.json.and_then(|json| Json::new(json).at(pointer)) {
                None => Rank::LAST,
                Some(found) => {
                    let mut bytes = collate_first(found, RANK_MOST);
                    bytes.truncate(RANK_MOST);
                    Rank::Value(bytes.into())
                }
            },
        }
    }

    /// Bytes it takes beside its own size.
    pub(crate) fn footprint(&self) -> usize {
        match self {
            Rank::Value(bytes) => bytes.len() + 8,
            Rank::Time(_) => 0,
        }
    }
}

/// A place in an order: a rank and a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) rank: Rank,
    pub(crate) key: Vec<u8>,
}
