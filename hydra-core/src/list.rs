//! Lists: the treasures of a swamp in an order, read in slices so that nobody else waits for a long one.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::engine::Swamp;
use crate::error::Result;
use crate::index::Entry;
use crate::query::{Expired, Keys, ListQuery, Order, Page, Position, Rank};
use crate::slot::Slot;
use crate::stamp::Timestamp;
use crate::state::{State, rank};
use crate::stats::count;
use crate::swamp::Resident;
use crate::value::Treasure;

/// How many treasures are looked at while the state is locked for reading.
const SLICE: usize = 1_024;

impl Swamp {
    /// One page of treasures. The first list in an order sorts all of them; from then on the order is kept with
    /// the swamp in memory, the four that were used last. A filter looks at every treasure until the page is full.
    ///
    /// Pages follow each other whatever is written meanwhile: a treasure that stays as it is comes exactly once,
    /// one that is written is seen where it was, where it is then, or both.
    ///
    /// # Errors
    /// `invalid-cursor` for a cursor of another query or swamp; `invalid-parameter` for a limit of 0 or bounds
    /// that are longer than any key.
    pub fn list(&self, query: &ListQuery) -> Result<Page> {
        count(&self.0.shared.stats.reads);
        let mut walk = Walk::new(&self.0, query)?;
        let mut treasures = Vec::new();
        let mut is_full = false;
        while !is_full && walk.is_under_way() {
            walk.slice(query.limit - treasures.len(), |treasure| {
                is_full = treasures.len() == query.limit;
                if !is_full {
                    treasures.push(treasure);
                }
                !is_full
            });
        }
        let last = treasures.last().filter(|_| is_full);
        let next = last.map(|treasure: &Treasure| query.cursor_behind(self.name(), treasure));
        Ok(Page { treasures, next })
    }

    /// Shows one treasure after the other, as [`Swamp::list`] would, until `visit` has enough.
    pub(crate) fn visit(&self, query: &ListQuery, mut visit: impl FnMut(Treasure) -> bool) -> Result<()> {
        count(&self.0.shared.stats.reads);
        let mut walk = Walk::new(&self.0, query)?;
        let mut goes_on = true;
        while goes_on && walk.is_under_way() {
            walk.slice(SLICE, |treasure| {
                goes_on = visit(treasure);
                goes_on
            });
        }
        Ok(())
    }

    /// Whether [`Swamp::list`] answers without sorting first.
    #[must_use]
    pub fn is_ordered(&self, order: &Order) -> bool {
        self.0.state.read().indexes().is_ready(order)
    }

    /// How many treasures there are, without expired ones.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.state.read().count(Timestamp::now())
    }

    /// How many treasures a list would have over all pages, from its cursor on. With conditions it looks at each.
    ///
    /// # Errors
    /// Those of [`Swamp::list`].
    pub fn count_matching(&self, query: &ListQuery) -> Result<u64> {
        if query.wants_all() && query.cursor.is_none() {
            return Ok(self.count());
        }
        count(&self.0.shared.stats.reads);
        // In which order they are counted makes no difference, but a cursor belongs to its own.
        let by_key = ListQuery { order: Order::Key, ..query.clone() };
        let mut walk = Walk::new(&self.0, if query.cursor.is_none() { &by_key } else { query })?;
        let mut counted = 0;
        while walk.is_under_way() {
            walk.slice(SLICE, |_| {
                counted += 1;
                true
            });
        }
        Ok(counted)
    }

    /// Those of the keys that have a treasure, in this order, and the others.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub fn pick(&self, keys: &[String], expired: Expired) -> Result<(Vec<Treasure>, Vec<String>)> {
        count(&self.0.shared.stats.reads);
        let now = Timestamp::now();
        let state = self.0.state.read();
        let (mut found, mut missing) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            let treasure = state.treasure(key, Timestamp::from_millis(0));
            match treasure.filter(|treasure| expired.wants(treasure.expires_at, now)) {
                Some(treasure) => found.push(treasure),
                None if state.knows(key) => missing.push(key.clone()),
                None => {
                    crate::apply::doubtful_absence(&state, key)?;
                    missing.push(key.clone());
                }
            }
        }
        Ok((found, missing))
    }
}

/// A way through an order, slice by slice. Nothing is locked between two slices.
struct Walk<'a> {
    resident: &'a Arc<Resident>,
    query: &'a ListQuery,
    keys: Keys,
    now: Timestamp,
    /// The parts of the order that are left, the next one first, as bounds from low to high.
    parts: Vec<(Bound<Position>, Bound<Position>)>,
}

impl<'a> Walk<'a> {
    fn new(resident: &'a Arc<Resident>, query: &'a ListQuery) -> Result<Walk<'a>> {
        let start = query.start(resident.name())?;
        let keys = query.keys();
        let mut parts = parts(query, &keys);
        if let Some(behind) = start {
            resume(&mut parts, &behind, query.descending);
        }
        Ok(Walk { resident, query, keys, now: Timestamp::now(), parts })
    }

    fn is_under_way(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Looks at the next treasures and calls `each` with those that are wanted, until it answers `false`. `wanted`
    /// says how many more are needed, so that no more are looked at where all are wanted.
    fn slice(&mut self, wanted: usize, mut each: impl FnMut(Treasure) -> bool) {
        let Some((from, to)) = self.parts.first().cloned() else { return };
        let is_plain = self.query.filter.is_none();
        let most = if is_plain { wanted.saturating_add(1).min(SLICE) } else { SLICE };
        let mut looked_at = Vec::with_capacity(most);
        let mut last = None;
        self.resident.with_index(&self.query.order, |state| {
            state.scan(&self.query.order, (from.as_ref(), to.as_ref()), self.query.descending, |entry, treasure| {
                looked_at.push(treasure);
                if looked_at.len() == most {
                    last = Some(entry.position());
                }
                last.is_none()
            });
        });
        match last {
            Some(behind) => resume(&mut self.parts, &behind, self.query.descending),
            None => drop(self.parts.remove(0)),
        }
        let is_wanted =
            |treasure: &Treasure| self.keys.contains(treasure.key.as_bytes()) && self.query.wants(treasure, self.now);
        let _ = looked_at.into_iter().filter(is_wanted).all(&mut each);
    }
}

/// The parts of an order that a list goes through, one after the other, each as bounds from low to high. What
/// lacks that which the order goes by is a part of its own: the last in either direction.
fn parts(query: &ListQuery, keys: &Keys) -> Vec<(Bound<Position>, Bound<Position>)> {
    let at = |rank: &Rank, key: &[u8]| Position { rank: rank.clone(), key: key.to_vec() };
    let of_rank = |rank: &Rank| {
        let to = keys.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(at(rank, to)));
        (Bound::Included(at(rank, &keys.from)), to)
    };
    match query.order {
        Order::Key => vec![of_rank(&Rank::Time(0))],
        Order::Created | Order::Updated => vec![(Bound::Unbounded, Bound::Unbounded)],
        Order::Expires | Order::Value(_) => {
            vec![(Bound::Unbounded, Bound::Excluded(at(&Rank::LAST, b""))), of_rank(&Rank::LAST)]
        }
    }
}

/// Leaves of the parts what comes behind a position.
fn resume(parts: &mut Vec<(Bound<Position>, Bound<Position>)>, behind: &Position, descending: bool) {
    if behind.rank == Rank::LAST && parts.len() > 1 {
        parts.remove(0);
    }
    let place = |position: &Position| (position.rank.clone(), position.key.clone());
    let Some((from, to)) = parts.first_mut() else { return };
    if descending {
        let is_beyond = |end: &Position| place(end) > place(behind);
        if !matches!(&*to, Bound::Excluded(end) | Bound::Included(end) if !is_beyond(end)) {
            *to = Bound::Excluded(behind.clone());
        }
    } else if !matches!(&*from, Bound::Excluded(start) | Bound::Included(start) if place(start) > place(behind)) {
        *from = Bound::Excluded(behind.clone());
    }
}

impl Resident {
    /// Reads with an order at hand: what was built may be gone again when the state was read anew meanwhile.
    pub(crate) fn with_index(&self, order: &Order, read: impl FnOnce(&State)) {
        loop {
            {
                let state = self.state.read();
                if state.indexes().is_ready(order) {
                    return read(&state);
                }
            }
            self.ensure_index(order);
        }
    }

    /// Builds an order unless it is there. Blocks while it sorts, and keeps nobody else waiting meanwhile but
    /// those who need an order that is not there either. [`State::scan`] reads it.
    pub(crate) fn ensure_index(&self, order: &Order) {
        let _alone = self.indexing.lock();
        if self.state.read().indexes().is_ready(order) {
            return;
        }
        self.state.write().indexes_mut().begin(order);
        // What is written from here on is noted, and played back on top of what is read now.
        let (placed, rest) = self.state.read().unordered(order);
        let ranked = rest.into_iter().map(|slot: Slot| Entry { rank: rank(order, &slot, None), slot });
        let entries: BTreeSet<Entry> = placed.into_iter().chain(ranked).collect();
        let mut state = self.state.write();
        state.indexes_mut().finish(order, entries);
        self.account(&state, 0);
    }
}

impl State {
    /// The first treasures of an order that `keep` takes, at most `most`, expired ones among them; those that lack
    /// what the order goes by come last. `None` while the order is not built: see [`Resident::ensure_index`].
    pub(crate) fn first(
        &self,
        order: &Order,
        descending: bool,
        most: usize,
        mut keep: impl FnMut(&Treasure) -> bool,
    ) -> Option<Vec<Treasure>> {
        if !self.indexes().is_ready(order) {
            return None;
        }
        let query = ListQuery { order: order.clone(), descending, ..ListQuery::default() };
        let mut first = Vec::new();
        for (from, to) in parts(&query, &query.keys()) {
            self.scan(order, (from.as_ref(), to.as_ref()), descending, |_, treasure| {
                if first.len() < most && keep(&treasure) {
                    first.push(treasure);
                }
                first.len() < most
            });
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Facts;
    use crate::stamp::Stamp;
    use crate::state::KeyState;

    fn put(state: &mut State, key: &str, value: &str, hlc: u64) {
        let slot = Slot::put(Stamp { hlc: hlc << 16, incarnation: 1 }, key, value.as_bytes(), Facts::default());
        state.set_key_state(KeyState { slot, counter: None });
    }

    fn build(state: &mut State, order: &Order, meanwhile: impl FnOnce(&mut State)) {
        state.indexes_mut().begin(order);
        let (_, rest) = state.unordered(order);
        meanwhile(state);
        let ranked = rest.into_iter().map(|slot| Entry { rank: rank(order, &slot, None), slot });
        assert!(state.indexes_mut().finish(order, ranked.collect()));
    }

    fn first(state: &State, order: &Order, descending: bool, most: usize) -> String {
        let first = state.first(order, descending, most, |treasure| treasure.key != "not").expect("built");
        first.into_iter().map(|treasure| treasure.key).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_first_of_an_order_follow_writes_also_those_that_came_while_it_was_built() {
        let order: Order = "value:/n".parse().expect("an order");
        let mut state = State::empty();
        for (at, key) in ["a", "b", "c", "d", "not"].into_iter().enumerate() {
            put(&mut state, key, &format!("{{\"n\":{at}}}"), 1);
        }
        assert_eq!(state.first(&order, false, 9, |_| true), None);
        build(&mut state, &order, |state| {
            put(state, "a", "{\"n\":9}", 2);
            put(state, "b", "{\"n\":8}", 2);
            put(state, "b", "{\"n\":1}", 3);
            put(state, "e", "{}", 2);
            put(state, "f", "{\"n\":-1}", 2);
            let slot = Slot::tombstone(Stamp { hlc: 5 << 16, incarnation: 1 }, "c");
            state.set_key_state(KeyState { slot, counter: None });
        });
        assert_eq!(first(&state, &order, false, 9), "f b d a e");
        assert_eq!(first(&state, &order, true, 9), "a d b f e", "what has no number comes last both ways");
        assert_eq!(first(&state, &order, false, 2), "f b");
        put(&mut state, "d", "{\"n\":-2}", 9);
        assert_eq!(first(&state, &order, false, 2), "d f");
    }

    #[test]
    fn orders_are_counted_and_only_the_last_used_are_kept() {
        let mut state = State::empty();
        (0..100).for_each(|n| put(&mut state, &format!("k{n}"), &format!("[{n}]"), n + 1));
        let bare = state.footprint();
        let orders: Vec<Order> = (0..6).map(|n| format!("value:/{n}").parse().expect("an order")).collect();
        for order in &orders {
            build(&mut state, order, |_| ());
            assert!(state.indexes().is_ready(&orders[0]), "it is used all the time");
        }
        let kept = orders.iter().filter(|order| state.indexes().is_ready(order)).count();
        assert_eq!((kept, state.indexes().is_ready(&orders[5])), (4, true));
        let full = state.footprint();
        assert!(full > bare + 4 * 100 * 48, "{full} {bare}");
        (0..100).for_each(|n| put(&mut state, &format!("k{n}"), &format!("[{n}]"), n + 1_000));
        assert_eq!(state.footprint(), full, "writes that change no place change no size");
    }
}
