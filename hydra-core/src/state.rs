//! What a swamp holds in memory: its records, counters and remembered requests.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::conflict::Lost;
use crate::counter::{Counter, Sum};
use crate::engine::CopyState;
use crate::growth::Tails;
use crate::hashing::{KeyHashing, hash_key, hash_keys};
use crate::hidden::is_hidden;
use crate::hub::Audience;
use crate::index::{Entry as Indexed, Indexes};
use crate::merge::Merged;
use crate::news::News;
use crate::query::{Facts, Order, Position, Rank};
use crate::requests::{KeyMemory, Requests};
use crate::slot::{self, Slot, Slots};
use crate::stamp::{Stamp, Timestamp, Version};
use crate::value::{Treasure, Value};
use crate::vector::VersionVector;

/// About how many bytes fewer a record takes on disk than its slot in memory.
const RECORD_SAVES: usize = 24;

/// About how many bytes of memory a swamp takes beside its records, with its seat, its desk, its files and its alarms.
/// Of 30 000 swamps with one small treasure each took 2.5 KB once read, and 2.7 KB once written.
const SWAMP_BYTES: usize = 2_400;

/// Everything about a key of which something is known.
#[derive(Debug, Clone)]
pub(crate) struct KeyState {
    pub(crate) slot: Slot,
    /// In a box, because few have one and many are moved.
    pub(crate) counter: Option<Box<Counter>>,
}

impl KeyState {
    pub(crate) fn as_known(&self) -> Known<'_> {
        Known { slot: Some(&self.slot), counter: self.counter.as_deref() }
    }
}

/// What is known of one key, where it is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) slot: Option<&'a Slot>,
    pub(crate) counter: Option<&'a Counter>,
}

impl Known<'_> {
    /// The same, held by itself; `None` where nothing is known.
    pub(crate) fn cloned(&self) -> Option<KeyState> {
        Some(KeyState { slot: self.slot?.clone(), counter: self.own_counter() })
    }

    /// The counter, to be changed.
    pub(crate) fn own_counter(&self) -> Option<Box<Counter>> {
        self.counter.cloned().map(Box::new)
    }

    /// The clock value of the last write that counts.
    pub(crate) fn last_hlc(&self) -> u64 {
        let base = self.base();
        let added = self.counter.and_then(|counter| counter.span(base)).map_or(0, |(_, last)| last);
        base.hlc.max(added)
    }

    /// The stamp increments of this key name as their base.
    pub(crate) fn base(&self) -> Stamp {
        self.slot.map_or(Stamp::ZERO, Slot::stamp)
    }

    /// Whether there is a value, expired or not.
    pub(crate) fn is_live(&self) -> bool {
        let base = self.base();
        self.slot.is_some_and(|slot| !slot.is_tombstone()) || self.counter.is_some_and(|c| c.names(base))
    }

    /// What a condition asks of the treasure, unless there is none or it has expired at `now`.
    pub(crate) fn sight(&self, now: Timestamp) -> Option<Sight> {
        sight(self.slot?, self.counter, now)
    }

    /// The treasure, unless there is none or it has expired at `now`.
    pub(crate) fn treasure(&self, now: Timestamp) -> Option<Treasure> {
        visible(self.slot?, self.counter, now)
    }
}

/// What can be said of a treasure without touching its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) version: Version,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    /// The clock of the last write.
    written: u64,
    /// The value, where increments decide it.
    total: Option<i128>,
}

impl Sight {
    /// When it was last written.
    pub(crate) fn updated_at(&self) -> Timestamp {
        at(self.written)
    }
}

/// When the clock of a record was so far.
fn at(hlc: u64) -> Timestamp {
    Stamp { hlc, incarnation: 0 }.timestamp()
}

fn sight(slot: &Slot, counter: Option<&Counter>, now: Timestamp) -> Option<Sight> {
    if slot.expires().is_some_and(|at| at <= now) {
        return None;
    }
    let base = slot.stamp();
    let Some(counter) = counter.filter(|counter| counter.names(base)) else {
        return (!slot.is_tombstone()).then(|| Sight {
            version: Version::of_record(base),
            created_at: slot.created(),
            expires_at: slot.expires(),
            written: base.hlc,
            total: None,
        });
    };
    let (first, last) = counter.span(base)?;
    Some(Sight {
        version: Version::of_counter(base.hlc, counter.digest(base)),
        created_at: if slot.is_tombstone() { at(first) } else { slot.created() },
        expires_at: slot.expires(),
        written: last.max(base.hlc),
        total: Some(integer(slot).unwrap_or(0) + counter.total(base)),
    })
}

fn visible(slot: &Slot, counter: Option<&Counter>, now: Timestamp) -> Option<Treasure> {
    let Sight { version, created_at, expires_at, written, total } = sight(slot, counter, now)?;
    Some(Treasure {
        key: slot.key().to_owned(),
        value: total.map_or_else(|| slot.value(), |total| Value::from_checked(total.to_string().as_bytes())),
        version,
        created_at,
        updated_at: at(written),
        expires_at,
        written,
    })
}

/// Before anything can have expired.
const NEVER: Timestamp = Timestamp::from_millis(0);

/// Where a slot with a value belongs in an order.
pub(crate) fn rank(order: &Order, slot: &Slot, counter: Option<&Counter>) -> Rank {
    let Some(Sight { created_at, written, total, .. }) = sight(slot, counter, NEVER) else { return Rank::LAST };
    let total = total.map(|total| total.to_string());
    let json = match &total {
        Some(total) => Some(total.as_bytes()),
        None => slot.content_type().is_none().then(|| slot.value_bytes()),
    };
    Rank::of(order, &Facts { created: created_at, written, expires: slot.expires(), json })
}

/// The integer a value is; 0 for a tombstone, `None` for anything else.
pub(crate) fn integer(slot: &Slot) -> Option<i128> {
    if slot.is_tombstone() {
        return Some(0);
    }
    if slot.content_type().is_some() {
        return None;
    }
    std::str::from_utf8(slot.value_bytes()).ok()?.parse().ok()
}

type Counters = HashMap<Box<str>, Counter, KeyHashing>;

fn counter_of<'a>(counters: &'a Counters, key: &str) -> Option<&'a Counter> {
    if counters.is_empty() { None } else { counters.get(key) }
}

fn is_live(counters: &Counters, slot: &Slot) -> bool {
    !slot.is_tombstone() || counter_of(counters, slot.key()).is_some_and(|counter| counter.names(slot.stamp()))
}

/// A slot leaves the orders, as long as its counter is what it was when it came.
fn unindex(indexes: &mut Indexes, counters: &Counters, slot: &Slot) {
    if is_live(counters, slot) {
        indexes.remove(slot, |order| rank(order, slot, counter_of(counters, slot.key())));
    }
}

/// How many slots hold a value, how many of those an expiry, and how many bytes all take.
#[derive(Debug, Clone, Copy)]
struct Tally {
    live: usize,
    expiring: usize,
    bytes: usize,
}

impl Tally {
    /// Counts a slot in or out. Of hidden ones only the bytes count.
    fn count(&mut self, counters: &Counters, slot: &Slot, is_hidden: bool, sign: isize) {
        let live = !is_hidden && is_live(counters, slot);
        self.live = self.live.saturating_add_signed(if live { sign } else { 0 });
        self.expiring = self.expiring.saturating_add_signed(if live && slot.expires().is_some() { sign } else { 0 });
        self.bytes = self.bytes.saturating_add_signed(sign * slot.footprint() as isize);
    }
}

/// A hidden key by when it expires.
fn hidden_entry(slot: &Slot) -> (u64, Box<str>) {
    (slot.expires().map_or(u64::MAX, Timestamp::as_millis), slot.key().into())
}

/// About how many bytes of memory a hidden key takes beside its slot.
const HIDDEN_BYTES: usize = 128;

/// The content of a resident swamp.
#[derive(Debug)]
pub(crate) struct State {
    slots: HashTable<Slot>,
    /// What has a value, in the orders that were asked for.
    indexes: Indexes,
    counters: Counters,
    requests: Requests,
    pub(crate) vector: VersionVector,
    pub(crate) max_hlc: u64,
    tally: Tally,
    /// Hidden keys that have a value, by when they expire.
    hidden: BTreeSet<(u64, Box<str>)>,
    pub(crate) copy: CopyState,
    /// One sentence for each file that is damaged or missing.
    pub(crate) findings: Vec<String>,
    /// Writes that lost unseen, the newest first. Writes of this process add none: it has seen all that is here.
    conflicts: Vec<Lost>,
    /// The hashes of keys of which a file that is here holds a record that came loose.
    loose: HashSet<u64, KeyHashing>,
    /// Who has to be told what changes.
    pub(crate) audience: Option<Box<Audience>>,
    /// Where reading the logs of others stopped.
    pub(crate) tails: Tails,
}

impl State {
    /// A swamp without files.
    pub(crate) fn empty() -> State {
        State::of_merged(Merged::default(), CopyState::Complete, Vec::new())
    }

    /// The state that the files say.
    pub(crate) fn of_merged(merged: Merged<'_>, copy: CopyState, findings: Vec<String>) -> State {
        let Slots { table, values, expiring, bytes, has_hidden } = merged.winners;
        let mut state = State {
            slots: table,
            indexes: Indexes::default(),
            counters: HashMap::default(),
            requests: merged.requests,
            vector: merged.vector,
            max_hlc: merged.max_hlc,
            tally: Tally { live: values, expiring, bytes },
            hidden: BTreeSet::new(),
            copy,
            findings,
            conflicts: merged.conflicts,
            loose: hash_keys(&merged.loose),
            audience: None,
            tails: Tails::default(),
        };
        if has_hidden {
            state.set_hidden_apart();
        }
        state.counters.extend(merged.counters.into_iter().map(|(key, counter)| (key.into(), counter)));
        let counts_alone = |slot: &Slot| slot.is_tombstone() && state.is_live(slot) && !is_hidden(slot.key_bytes());
        let counted = state.counters.keys().filter(|key| state.slot(key).is_some_and(counts_alone)).count();
        state.tally.live += counted;
        let orphans: Vec<Box<str>> = state.counters.keys().filter(|key| state.slot(key).is_none()).cloned().collect();
        for key in orphans {
            state.insert_slot(Slot::tombstone(Stamp::ZERO, &key), |_, _| ());
        }
        state
    }

    /// Takes the hidden keys out of what was counted with the others.
    fn set_hidden_apart(&mut self) {
        let State { slots, tally, hidden, conflicts, .. } = self;
        for slot in slots.iter().filter(|slot| is_hidden(slot.key_bytes()) && !slot.is_tombstone()) {
            tally.live -= 1;
            tally.expiring -= usize::from(slot.expires().is_some());
            hidden.insert(hidden_entry(slot));
        }
        conflicts.retain(|lost| !is_hidden(lost.key.as_bytes()));
    }

    fn slot(&self, key: &str) -> Option<&Slot> {
        slot::find(&self.slots, key)
    }

    fn counter(&self, key: &str) -> Option<&Counter> {
        counter_of(&self.counters, key)
    }

    fn is_live(&self, slot: &Slot) -> bool {
        is_live(&self.counters, slot)
    }

    /// Puts a slot in the place of what its key had. The counters change between counting the two.
    fn insert_slot(&mut self, slot: Slot, change: impl FnOnce(&mut Counters, &Slot)) {
        let State { slots, indexes, counters, tally, hidden, .. } = self;
        let key = slot.key_bytes();
        let is_hidden = is_hidden(key);
        let entry = slots.entry(slot.hash(), |held| held.key_bytes() == key, Slot::hash);
        if let Entry::Occupied(held) = &entry {
            tally.count(counters, held.get(), is_hidden, -1);
            if is_hidden {
                hidden.remove(&hidden_entry(held.get()));
            } else if !indexes.is_empty() {
                unindex(indexes, counters, held.get());
            }
        }
        change(counters, &slot);
        tally.count(counters, &slot, is_hidden, 1);
        if is_hidden {
            if is_live(counters, &slot) {
                hidden.insert(hidden_entry(&slot));
            }
        } else if !indexes.is_empty() && is_live(counters, &slot) {
            indexes.add(&slot, |order| rank(order, &slot, counter_of(counters, slot.key())));
        }
        match entry {
            Entry::Occupied(mut held) => *held.get_mut() = slot,
            Entry::Vacant(free) => {
                free.insert(slot);
            }
        }
    }

    /// What is known of one key.
    pub(crate) fn known(&self, key: &str) -> Known<'_> {
        Known { slot: self.slot(key), counter: self.counter(key) }
    }

    /// Forgets everything but the requests: the files are gone, and stamps go on from here.
    pub(crate) fn forget_files(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        let (max_hlc, audience) = (self.max_hlc, self.audience.take());
        *self = State { requests, max_hlc, audience, ..State::empty() };
    }

    /// Takes the place of another state; those who listened to that one are told what is different.
    pub(crate) fn take_audience_of(&mut self, mut before: State, now: Timestamp) {
        let Some(audience) = before.audience.take() else { return };
        if audience.listens() {
            audience.tell(News::between(&before, self, now));
        }
        self.audience = Some(audience);
    }

    /// Takes in what became of keys and the requests that made it so, and tells those who listen: what became of each
    /// key, or, if it `destroys`, that nothing is left.
    pub(crate) fn take_in(
        &mut self,
        touched: impl IntoIterator<Item = KeyState>,
        requests: impl IntoIterator<Item = (u128, KeyMemory)>,
        destroys: bool,
        now: Timestamp,
    ) {
        let mut news = self.audience.as_ref().filter(|audience| audience.listens()).map(|_| News::default());
        for key_state in touched {
            if let Some(news) = &mut news {
                news.note(self.known(key_state.slot.key()), key_state.as_known(), now);
            }
            self.set_key_state(key_state);
        }
        if let Some((news, audience)) = news.zip(self.audience.as_ref()) {
            if destroys { audience.tell_destroyed() } else { audience.tell(news) }
        }
        for (key, memory) in requests {
            self.requests_mut().remember(key, memory, now);
        }
    }

    /// Replaces everything about one key.
    pub(crate) fn set_key_state(&mut self, state: KeyState) {
        let KeyState { slot, counter } = state;
        self.insert_slot(slot, |counters, slot| match counter.filter(|counter| !counter.is_empty()) {
            Some(counter) => {
                counters.insert(slot.key().into(), *counter);
            }
            None if !counters.is_empty() => {
                counters.remove(slot.key());
            }
            None => {}
        });
    }

    /// The treasure, unless there is none or it has expired at `now`.
    pub(crate) fn treasure(&self, key: &str, now: Timestamp) -> Option<Treasure> {
        if is_hidden(key.as_bytes()) { None } else { self.known(key).treasure(now) }
    }

    /// The same; the clock is asked only where something can expire, since that takes a fifth of a read.
    pub(crate) fn treasure_at(&self, key: &str, now: fn() -> Timestamp) -> Option<Treasure> {
        self.treasure(key, if self.tally.expiring == 0 { NEVER } else { now() })
    }

    /// Whether anything at all is known of a key.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.slot(key).is_some()
    }

    /// Every treasure in no order, without those that have expired at `now`.
    pub(crate) fn treasures(&self, now: Timestamp) -> impl Iterator<Item = Treasure> {
        self.shown_slots().filter_map(move |slot| visible(slot, self.counter(slot.key()), now))
    }

    /// The orders, for building and reading them.
    pub(crate) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// The same, for changing which there are.
    pub(crate) fn indexes_mut(&mut self) -> &mut Indexes {
        &mut self.indexes
    }

    /// What belongs into an order now: with its place where increments decide it, else the slots alone.
    pub(crate) fn unordered(&self, order: &Order) -> (Vec<Indexed>, Vec<Slot>) {
        let (mut placed, mut rest) = (Vec::new(), Vec::with_capacity(self.tally.live));
        for slot in self.shown_slots() {
            match self.counter(slot.key()) {
                Some(counter) => placed.push(Indexed { rank: rank(order, slot, Some(counter)), slot: slot.clone() }),
                None => rest.push(slot.clone()),
            }
        }
        (placed, rest)
    }

    /// Calls `each` with the treasures at places of an order, expired ones too, until it answers `false`. Nothing
    /// while the order is not built: see [`crate::swamp::Resident::ensure_index`].
    pub(crate) fn scan(
        &self,
        order: &Order,
        (from, to): (Bound<&Position>, Bound<&Position>),
        descending: bool,
        mut each: impl FnMut(&Indexed, Treasure) -> bool,
    ) {
        for entry in self.indexes.range(order, from, to, descending) {
            let treasure = visible(&entry.slot, self.counter(entry.slot.key()), NEVER);
            if treasure.is_some_and(|treasure| !each(entry, treasure)) {
                return;
            }
        }
    }

    /// How many treasures there are at `now`, without expired ones.
    pub(crate) fn count(&self, now: Timestamp) -> u64 {
        if self.tally.expiring == 0 {
            return self.tally.live as u64;
        }
        let expired = |slot: &&Slot| slot.expires().is_some_and(|at| at <= now);
        (self.tally.live - self.shown_slots().filter(expired).count()) as u64
    }

    /// Whether no key has a value, not even an expired one. Hidden keys do not count once they have expired.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty_from().is_some_and(|at| at == NEVER || at <= Timestamp::now())
    }

    /// When the last hidden key expires, where there is nothing else; zero where there is nothing at all.
    pub(crate) fn empty_from(&self) -> Option<Timestamp> {
        let last = self.hidden.last().map_or(NEVER, |&(at, _)| Timestamp::from_millis(at));
        (self.tally.live == 0).then_some(last)
    }

    /// Hidden keys with a value that has expired, the earliest first.
    pub(crate) fn hidden_expired(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        self.hidden.iter().take_while(move |&&(at, _)| at <= now.as_millis()).map(|(_, key)| &**key)
    }

    /// Hidden keys with a value, expired or not.
    pub(crate) fn hidden_keys(&self) -> Vec<String> {
        self.hidden.iter().map(|(_, key)| key.to_string()).collect()
    }

    /// What has a value, expired or not, and can be shown.
    fn shown_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !is_hidden(slot.key_bytes()) && self.is_live(slot))
    }

    /// When the oldest treasure came into being.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        let created = |slot: &Slot| match self.counter(slot.key()).and_then(|counter| counter.span(slot.stamp())) {
            Some((first, _)) if slot.is_tombstone() => Stamp { hlc: first, incarnation: 0 }.timestamp(),
            _ => slot.created(),
        };
        self.shown_slots().map(created).min()
    }

    /// The keys that have a value, expired or not.
    pub(crate) fn live_keys(&self) -> Vec<String> {
        self.shown_slots().map(|slot| slot.key().to_owned()).collect()
    }

    /// Everything that has a value, expired or not, in the order of keys.
    pub(crate) fn live(&self) -> Arc<[KeyState]> {
        let held =
            |slot: &Slot| KeyState { slot: slot.clone(), counter: self.counter(slot.key()).cloned().map(Box::new) };
        let mut live: Vec<KeyState> = self.shown_slots().map(held).collect();
        live.sort_unstable_by(|a, b| a.slot.key_bytes().cmp(b.slot.key_bytes()));
        live.into()
    }

    /// Tells contents of this swamp apart that readers would see differently, but for what has expired.
    pub(crate) fn digest(&self) -> u64 {
        let of = |slot: &Slot| {
            let version = sight(slot, self.counter(slot.key()), Timestamp::default()).map(|sight| sight.version);
            KeyHashing.hash_one((slot.key_bytes(), version))
        };
        self.shown_slots().map(of).fold(0, u64::wrapping_add)
    }

    /// What has a value and a time when it expires, hidden keys too.
    pub(crate) fn expiring(&self) -> impl Iterator<Item = &Slot> {
        let none = self.tally.expiring == 0 && self.hidden.is_empty();
        let some = if none { None } else { Some(self.slots.iter()) };
        some.into_iter().flatten().filter(|slot| slot.expires().is_some() && self.is_live(slot))
    }

    /// Every key of which something is known.
    pub(crate) fn known_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Whether a file that was read holds a record of a key that came loose.
    pub(crate) fn has_loose(&self, key: &str) -> bool {
        self.loose.contains(&hash_key(key.as_bytes()))
    }

    /// Whether there are increments of a key.
    pub(crate) fn has_counter(&self, key: &str) -> bool {
        self.counter(key).is_some()
    }

    /// Forgets a record that a snapshot left out, unless another took its place.
    pub(crate) fn forget(&mut self, slot: &Slot) {
        let found = self.slots.find_entry(slot.hash(), |held| held.key_bytes() == slot.key_bytes());
        let Ok(entry) = found else { return };
        if entry.get().stamp() != slot.stamp() {
            return;
        }
        let (held, _) = entry.remove();
        self.tally.count(&self.counters, &held, is_hidden(held.key_bytes()), -1);
        if is_hidden(held.key_bytes()) {
            self.hidden.remove(&hidden_entry(&held));
        } else {
            unindex(&mut self.indexes, &self.counters, &held);
        }
    }

    /// What is remembered of requests.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(crate) fn requests_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }

    /// Every slot, for a snapshot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.stamp() != Stamp::ZERO)
    }

    /// Every counter, for a snapshot.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (&str, &Counter)> {
        self.counters.iter().map(|(key, counter)| (&**key, counter))
    }

    /// The incarnations that wrote something of what is held here, or that it refers to. Remembered requests do
    /// not count: an increment of theirs that is not in a counter has no effect.
    pub(crate) fn incarnations(&self) -> HashSet<u64, KeyHashing> {
        let mut found: HashSet<u64, KeyHashing> = self.slots.iter().map(|slot| slot.stamp().incarnation).collect();
        let of_sum = |sum: &Sum| [sum.base.incarnation, sum.part.incarnation];
        for counter in self.counters.values() {
            found.extend(counter.sums().iter().flat_map(of_sum));
            found.extend(counter.late().iter().flat_map(|add| [add.base.incarnation, add.stamp.incarnation]));
        }
        for lost in &self.conflicts {
            found.insert(lost.stamp.incarnation);
            found.extend(lost.sums.iter().flat_map(of_sum));
            found.extend(lost.rivals.iter().map(|rival| rival.incarnation));
        }
        found
    }

    /// About how many bytes the state takes in a snapshot without compression.
    pub(crate) fn encoded_estimate(&self) -> usize {
        let records = self.tally.bytes.saturating_sub(RECORD_SAVES * self.slots.len());
        records + 64 * self.counters.len() + self.requests.encoded_estimate()
    }

    /// Writes that lost against a write that had not seen them and are not to be forgotten yet, for lists and
    /// snapshots; the newest first.
    pub(crate) fn conflicts(&self, now: Timestamp) -> impl Iterator<Item = &Lost> {
        self.conflicts.iter().filter(move |lost| lost.until(now) > now)
    }

    /// Conflicts that no snapshot has recorded were found now.
    pub(crate) fn date_conflicts(&mut self, now: Timestamp) {
        for lost in &mut self.conflicts {
            lost.found.get_or_insert(now);
        }
    }

    /// About how many bytes of memory the swamp takes.
    pub(crate) fn footprint(&self) -> usize {
        let conflicts: usize = self.conflicts.iter().map(Lost::footprint).sum();
        self.tally.bytes
            + 20 * self.slots.capacity()
            + self.indexes.footprint()
            + HIDDEN_BYTES * self.hidden.len()
            + self.requests.footprint()
            + 200 * self.counters.len()
            + conflicts
            + 10 * self.loose.len()
            + self.tails.footprint()
            + SWAMP_BYTES
    }
}
