//! The orders of a swamp in memory: each built when it is first asked for, and kept right by every write since.
//!
//! An order holds what has a value, expired or not. While one is being built, writes are noted beside it and
//! played back at the end, so that neither readers nor writers wait for the sorting.

use std::borrow::Borrow;
use std::cmp::Ordering as Compared;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::query::{Order, Position, Rank};
use crate::slot::Slot;

/// How many orders beside that of the keys a swamp keeps; the one not used for longest makes room.
const MOST: usize = 4;
/// What an entry takes in its tree, which is rarely full.
const ENTRY_BYTES: usize = 48;

/// A treasure at its place in an order.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) rank: Rank,
    pub(crate) slot: Slot,
}

impl Entry {
    pub(crate) fn position(&self) -> Position {
        Position { rank: self.rank.clone(), key: self.slot.key_bytes().to_vec() }
    }
}

/// What has a place in an order.
trait Placed {
    fn place(&self) -> (&Rank, &[u8]);
}

impl Placed for Entry {
    fn place(&self) -> (&Rank, &[u8]) {
        (&self.rank, self.slot.key_bytes())
    }
}

impl Placed for Position {
    fn place(&self) -> (&Rank, &[u8]) {
        (&self.rank, &self.key)
    }
}

impl<'a> Borrow<dyn Placed + 'a> for Entry {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        self
    }
}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Placed + '_ {}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Compared> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Compared {
        self.place().cmp(&other.place())
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Compared> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Compared {
        self.place().cmp(&other.place())
    }
}

/// A write that came while an order was being built.
#[derive(Debug)]
enum Change {
    Add(Entry),
    Remove(Entry),
}

/// One order.
#[derive(Debug)]
struct Index {
    order: Order,
    entries: BTreeSet<Entry>,
    /// Writes since the building began; `None` once it is built.
    noted: Option<Vec<Change>>,
    /// Bytes of the ranks beside the entries.
    rank_bytes: usize,
    /// When it was last used, counted by [`Indexes::turn`].
    used: AtomicU64,
}

impl Index {
    fn change(&mut self, change: Change) {
        match &mut self.noted {
            Some(noted) => noted.push(change),
            None => self.carry_out(change),
        }
    }

    fn carry_out(&mut self, change: Change) {
        match change {
            Change::Add(entry) => {
                let bytes = entry.rank.footprint();
                // An entry at the same place has a rank of the same length.
                if self.entries.replace(entry).is_none() {
                    self.rank_bytes += bytes;
                }
            }
            Change::Remove(entry) => {
                if let Some(gone) = self.entries.take::<Entry>(&entry) {
                    self.rank_bytes -= gone.rank.footprint();
                }
            }
        }
    }

    fn footprint(&self) -> usize {
        let noted = self.noted.as_ref().map_or(0, Vec::len);
        ENTRY_BYTES * (self.entries.len() + noted) + self.rank_bytes + 200
    }
}

/// The orders of a swamp.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    held: Vec<Index>,
    turn: AtomicU64,
}

impl Indexes {
    /// Whether writes have to be noted anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether an order is built; counts as a use of it.
    pub(crate) fn is_ready(&self, order: &Order) -> bool {
        self.ready(order).is_some()
    }

    fn ready(&self, order: &Order) -> Option<&Index> {
        let index = self.held.iter().find(|index| index.order == *order && index.noted.is_none())?;
        index.used.store(self.turn.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(index)
    }

    /// From now on writes are noted for an order that is about to be built.
    pub(crate) fn begin(&mut self, order: &Order) {
        self.held.retain(|index| index.order != *order);
        let counted = |index: &&Index| index.order != Order::Key;
        if *order != Order::Key && self.held.iter().filter(counted).count() >= MOST {
            let used = |index: &&Index| index.used.load(Ordering::Relaxed);
            let oldest = self.held.iter().filter(counted).min_by_key(used).map(|index| index.order.clone());
            self.held.retain(|index| oldest.as_ref() != Some(&index.order));
        }
        self.held.push(Index {
            order: order.clone(),
            entries: BTreeSet::new(),
            noted: Some(Vec::new()),
            rank_bytes: 0,
            used: AtomicU64::new(self.turn.fetch_add(1, Ordering::Relaxed)),
        });
    }

    /// Puts in place what was built since [`Indexes::begin`]; answers whether it was still wanted.
    pub(crate) fn finish(&mut self, order: &Order, entries: BTreeSet<Entry>) -> bool {
        let Some(index) = self.held.iter_mut().find(|index| index.order == *order) else { return false };
        let Some(noted) = index.noted.take() else { return true };
        index.rank_bytes = entries.iter().map(|entry| entry.rank.footprint()).sum();
        index.entries = entries;
        noted.into_iter().for_each(|change| index.carry_out(change));
        true
    }

    /// A slot with a value comes; `rank` says where it belongs in an order.
    pub(crate) fn add(&mut self, slot: &Slot, rank: impl Fn(&Order) -> Rank) {
        for index in &mut self.held {
            index.change(Change::Add(Entry { rank: rank(&index.order), slot: slot.clone() }));
        }
    }

    /// A slot with a value goes; `rank` says where it was in an order.
    pub(crate) fn remove(&mut self, slot: &Slot, rank: impl Fn(&Order) -> Rank) {
        for index in &mut self.held {
            index.change(Change::Remove(Entry { rank: rank(&index.order), slot: slot.clone() }));
        }
    }

    /// The entries of an order in one direction; nothing while it is not built.
    pub(crate) fn range<'a>(
        &'a self,
        order: &Order,
        from: Bound<&Position>,
        to: Bound<&Position>,
        descending: bool,
    ) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let Some(index) = self.ready(order).filter(|_| !is_empty_range(from, to)) else {
            return Box::new(std::iter::empty());
        };
        let placed = |position| position as &dyn Placed;
        let range = index.entries.range::<dyn Placed, _>((from.map(placed), to.map(placed)));
        if descending { Box::new(range.rev()) } else { Box::new(range) }
    }

    /// About how many bytes of memory the orders take.
    pub(crate) fn footprint(&self) -> usize {
        self.held.iter().map(Index::footprint).sum()
    }
}

/// `BTreeSet::range` panics for these.
fn is_empty_range(from: Bound<&Position>, to: Bound<&Position>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a.place() > b.place(),
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a.place() >= b.place(),
        _ => false,
    }
}
