//! Queries: which treasures of a swamp are wanted, in which order, and how many. Pure.

mod collation;
mod cursor;
mod filter;
mod rank;
mod scan;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorCode, Result};
use crate::name::{MAX_KEY_BYTES, SwampName};
use crate::pointer::Pointer;
use crate::stamp::Timestamp;
use crate::value::Treasure;

pub use filter::{Filter, MAX_FILTER_DEPTH, MAX_FILTER_TESTS, MAX_FILTER_VALUES};
pub(crate) use rank::{Facts, Position, Rank};

/// What treasures are ordered by. Where that is the same for two, their keys decide, compared as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Order {
    /// The key.
    #[default]
    Key,
    /// When the key came into being.
    Created,
    /// When it was last written.
    Updated,
    /// When it expires. Those that never do come last in either direction.
    Expires,
    /// What stands at a place in the value: null < false < true < numbers < strings < arrays < objects, numbers
    /// exactly. Treasures without it, and values that are no JSON, come last in either direction. Values that
    /// agree in their first 500 bytes or so count as the same.
    Value(Pointer),
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Key => f.write_str("key"),
            Order::Created => f.write_str("created"),
            Order::Updated => f.write_str("updated"),
            Order::Expires => f.write_str("expires"),
            Order::Value(pointer) => write!(f, "value:{pointer}"),
        }
    }
}

impl FromStr for Order {
    type Err = Error;

    /// `key`, `created`, `updated`, `expires` or `value:` and a [`Pointer`].
    fn from_str(text: &str) -> Result<Order> {
        match text {
            "key" => Ok(Order::Key),
            "created" => Ok(Order::Created),
            "updated" => Ok(Order::Updated),
            "expires" => Ok(Order::Expires),
            _ => match text.strip_prefix("value:") {
                Some(pointer) => pointer.parse().map(Order::Value),
                None => {
                    let shown: String = text.chars().take(80).collect();
                    let detail = format!(
                        "the order is {shown:?}; allowed are key, created, updated, expires and value:/pointer"
                    );
                    Err(Error::new(ErrorCode::InvalidParameter, detail))
                }
            },
        }
    }
}

/// Whether treasures that have expired, and are not dropped yet, are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expired {
    /// They are left out.
    #[default]
    Hidden,
    /// They are there like the others.
    Included,
    /// Nothing but them.
    Only,
}

impl Expired {
    /// Whether a treasure that expires then is wanted.
    pub(crate) fn wants(self, expires: Option<Timestamp>, now: Timestamp) -> bool {
        let is_expired = expires.is_some_and(|at| at <= now);
        match self {
            Expired::Hidden => !is_expired,
            Expired::Included => true,
            Expired::Only => is_expired,
        }
    }
}

/// What to list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListQuery {
    /// What the treasures are ordered by. Default the key.
    pub order: Order,
    /// From the last to the first. Default no.
    pub descending: bool,
    /// Only keys that start with this. Default all.
    pub prefix: Option<String>,
    /// Only keys from this one on, compared as bytes. Default from the first.
    pub from: Option<String>,
    /// Only keys before this one. Default to the last.
    pub to: Option<String>,
    /// Only treasures whose values pass. Default all.
    pub filter: Option<Filter>,
    /// Whether expired treasures are wanted. Default no.
    pub expired: Expired,
    /// Where the page before ended: [`Page::next`] of the same query on the same swamp. Default from the start.
    pub cursor: Option<String>,
    /// At most so many treasures. Default 100.
    pub limit: usize,
}

impl Default for ListQuery {
    fn default() -> ListQuery {
        ListQuery {
            order: Order::Key,
            descending: false,
            prefix: None,
            from: None,
            to: None,
            filter: None,
            expired: Expired::Hidden,
            cursor: None,
            limit: 100,
        }
    }
}

impl ListQuery {
    /// Where a list goes on behind a treasure that it has shown: a cursor for the same query on the same swamp.
    #[must_use]
    pub fn cursor_behind(&self, name: &SwampName, treasure: &Treasure) -> String {
        let facts = Facts {
            created: treasure.created_at,
            written: treasure.written,
            expires: treasure.expires_at,
            json: treasure.value.is_json().then(|| treasure.value.as_bytes()),
        };
        let position = Position { rank: Rank::of(&self.order, &facts), key: treasure.key.clone().into() };
        cursor::write(name, self, &position)
    }

    /// The position of the cursor, and everything else checked that can be wrong.
    pub(crate) fn start(&self, name: &SwampName) -> Result<Option<Position>> {
        for (what, text) in [("prefix", &self.prefix), ("from", &self.from), ("to", &self.to)] {
            if let Some(text) = text.as_ref().filter(|text| text.len() > MAX_KEY_BYTES) {
                let detail = format!("{what} has {} bytes; keys have at most {MAX_KEY_BYTES}", text.len());
                return Err(Error::new(ErrorCode::InvalidParameter, detail));
            }
        }
        if self.limit == 0 {
            return Err(Error::new(ErrorCode::InvalidParameter, "limit is 0; at least 1 is needed"));
        }
        self.cursor.as_deref().map(|text| cursor::read(name, self, text)).transpose()
    }

    /// The keys that are wanted: from the first of the pair on, before the second.
    pub(crate) fn keys(&self) -> Keys {
        let prefix = self.prefix.as_deref().unwrap_or_default().as_bytes();
        let from = self.from.as_deref().unwrap_or_default().as_bytes().max(prefix).to_vec();
        let to = self.to.as_ref().map(|to| to.clone().into_bytes());
        Keys { from, to: to.into_iter().chain(behind_prefix(prefix)).min() }
    }

    /// Whether a treasure is wanted, whatever its key.
    pub(crate) fn wants(&self, treasure: &Treasure, now: Timestamp) -> bool {
        let json = treasure.value.is_json().then(|| treasure.value.as_bytes());
        self.expired.wants(treasure.expires_at, now) && self.filter.as_ref().is_none_or(|filter| filter.passes(json))
    }

    /// Whether every treasure that has not expired is wanted.
    pub(crate) fn wants_all(&self) -> bool {
        let bounded = self.prefix.is_some() || self.from.is_some() || self.to.is_some();
        !bounded && self.filter.is_none() && self.expired == Expired::Hidden
    }
}

/// A range of keys, compared as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Option<Vec<u8>>,
}

impl Keys {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= self.from.as_slice() && self.to.as_deref().is_none_or(|to| key < to)
    }
}

/// The first key behind all that start with a prefix; `None` when there is none.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Page {
    /// The treasures, in order.
    pub treasures: Vec<Treasure>,
    /// Where the next page begins, for [`ListQuery::cursor`]; `None` on the last.
    pub next: Option<String>,
}
