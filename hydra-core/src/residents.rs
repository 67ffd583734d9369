//! The swamps in memory, and the one hydration at a time that each name gets.
//!
//! Which swamp leaves when memory is short is decided as SIEVE does: in the order of their coming a hand
//! passes them by; one that was used since it last came by is spared once, one that was not has to go.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::error::Result;
use crate::hashing::KeyHashing;
use crate::log::Remembered;
use crate::memory::PATIENCE;
use crate::name::SwampName;
use crate::shared::Shared;
use crate::stats::count;
use crate::swamp::{Job, Resident};

const SHARDS: usize = 64;
/// About how many bytes an evicted swamp takes that is remembered with the chunk it had open. Together they take at most
/// an eighth of the memory budget, beside it; one that is not remembered begins a new chunk when it is written to next.
const REMEMBERED_BYTES: u64 = 300;
/// How many are remembered in any case, and at most.
const REMEMBERED: std::ops::RangeInclusive<u64> = 256..=1 << 18;
/// How many that have left stay in a ring in any case, beside one for every eight that have not.
const GONE_KEPT: usize = 4;
/// How many swamps the hand passes by while it holds a shard.
const STEPS: usize = 16;

/// Every swamp in memory.
#[derive(Debug)]
pub(crate) struct Residents {
    shards: Vec<Shard>,
    /// How many evicted swamps a shard remembers.
    remembered_most: usize,
}

#[derive(Debug, Default)]
struct Shard {
    seats: Mutex<Seats>,
    /// Somebody finished a hydration.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Seats {
    seats: HashMap<SwampName, Seat, KeyHashing>,
    remembered: HashMap<SwampName, Remembered, KeyHashing>,
    /// Those in memory, and some that have left, in the order of their coming.
    ring: Vec<Weak<Resident>>,
    hand: usize,
}

/// Whether a pass of the eviction got nearer to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaimed {
    Progress,
    Vain,
}

#[derive(Debug)]
enum Seat {
    /// Somebody reads it from disk.
    Hydrating,
    Taken(Arc<Resident>),
}

impl Shard {
    fn taken(&self) -> Vec<Arc<Resident>> {
        let taken = |seat: &Seat| match seat {
            Seat::Taken(resident) => Some(Arc::clone(resident)),
            Seat::Hydrating => None,
        };
        self.seats.lock().seats.values().filter_map(taken).collect()
    }
}

impl Residents {
    pub(crate) fn new(memory_budget: u64) -> Residents {
        let remembered = (memory_budget / 8 / REMEMBERED_BYTES).clamp(*REMEMBERED.start(), *REMEMBERED.end());
        Residents {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            remembered_most: remembered as usize / SHARDS,
        }
    }

    fn shard(&self, name: &SwampName) -> &Shard {
        // The low bits choose the folder; these are independent of them.
        &self.shards[(name.hash() >> 58) as usize % SHARDS]
    }

    /// The swamp, if it is in memory.
    pub(crate) fn get(&self, name: &SwampName) -> Option<Arc<Resident>> {
        match self.shard(name).seats.lock().seats.get(name) {
            Some(Seat::Taken(resident)) => Some(Arc::clone(resident)),
            _ => None,
        }
    }

    /// The swamp, read from disk by the first who asks while the others wait. A failure is not kept.
    pub(crate) fn get_or_hydrate(&self, shared: &Arc<Shared>, name: &SwampName) -> Result<Arc<Resident>> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_get_or_hydrate(shared, name) {
                Some(outcome) => return outcome,
                // Whoever waits for memory uses no swamp meanwhile, and takes no seat.
                None if shared.memory.wait_for_room(until) => {}
                None => return shared.check_memory().and_then(|()| self.hydrate_now(shared, name)),
            }
        }
    }

    /// The same without waiting for memory.
    pub(crate) fn hydrate_now(&self, shared: &Arc<Shared>, name: &SwampName) -> Result<Arc<Resident>> {
        self.try_get_or_hydrate(shared, name).unwrap_or_else(|| {
            count(&shared.stats.memory_refusals);
            Err(shared.memory.refusal())
        })
    }

    /// `None` when there is no memory for one more.
    fn try_get_or_hydrate(&self, shared: &Arc<Shared>, name: &SwampName) -> Option<Result<Arc<Resident>>> {
        let shard = self.shard(name);
        let mut seats = shard.seats.lock();
        let _reserved = loop {
            match seats.seats.entry(name.clone()) {
                Entry::Occupied(entry) => match entry.get() {
                    Seat::Taken(resident) => return Some(Ok(Arc::clone(resident))),
                    Seat::Hydrating => shard.settled.wait(&mut seats),
                },
                Entry::Vacant(entry) => {
                    let Some(reserved) = shared.memory.reserve() else {
                        drop(seats);
                        shared.reclaim_soon();
                        return None;
                    };
                    entry.insert(Seat::Hydrating);
                    break reserved;
                }
            }
        };
        let remembered = seats.remembered.remove(name);
        drop(seats);
        let seat = HydratingSeat { shard, name };
        let hydrated = Resident::hydrate(shared, name, remembered);
        if let Ok(resident) = &hydrated {
            seat.take(resident);
            shared.reclaim_soon();
        }
        Some(hydrated)
    }

    /// One pass of the eviction: every swamp is looked at once, until enough are gone. Those that are cold and
    /// have nothing to write leave; of those that have, as many are flushed as the next pass needs.
    pub(crate) fn reclaim(&self, shared: &Shared) -> Reclaimed {
        let mut reclaimed = Reclaimed::Vain;
        let mut left: Vec<usize> = self.shards.iter().map(|shard| shard.seats.lock().ring.len()).collect();
        let mut all: usize = left.iter().sum();
        let mut dirty: Vec<Arc<Resident>> = Vec::new();
        for at in (0..SHARDS).cycle() {
            if all == 0 || shared.memory.excess() == 0 {
                break;
            }
            let Passed { steps, spared, cold } = self.shards[at].seats.lock().pass(left[at].min(STEPS));
            let steps = if steps == 0 { left[at] } else { steps };
            left[at] -= steps;
            all -= steps;
            let Some(resident) = cold else {
                reclaimed = if spared { Reclaimed::Progress } else { reclaimed };
                continue;
            };
            if self.evict(&resident, Resident::leave) {
                count(&shared.stats.evictions);
                count(&shared.stats.memory_evictions);
                reclaimed = Reclaimed::Progress;
            } else if resident.waits_for_flush() {
                dirty.push(resident);
            }
        }
        let mut excess = shared.memory.excess();
        for resident in dirty {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(resident.held());
            reclaimed = Reclaimed::Progress;
            drop(resident.ask(Job::Flush));
        }
        reclaimed
    }

    /// Drops a swamp from memory if nobody uses it and `is_clean` agrees; answers whether it is gone.
    pub(crate) fn evict(
        &self,
        resident: &Arc<Resident>,
        is_clean: impl FnOnce(&Resident) -> Option<Option<Remembered>>,
    ) -> bool {
        let name = resident.name().clone();
        let mut seats = self.shard(&name).seats.lock();
        // Somebody else may have evicted it, and another one may have its seat by now.
        if !matches!(seats.seats.get(&name), Some(Seat::Taken(seated)) if Arc::ptr_eq(seated, resident)) {
            return false;
        }
        // One count is the seat's, one the caller's. New users come only through the seat, which is locked.
        if Arc::strong_count(resident) > 2 {
            return false;
        }
        let Some(remembered) = is_clean(resident) else { return false };
        seats.seats.remove(&name);
        seats.tidy();
        if let Some(remembered) = remembered.filter(|_| seats.remembered.len() < self.remembered_most) {
            seats.remembered.insert(name, remembered);
        }
        true
    }

    /// Every swamp in memory.
    pub(crate) fn all(&self) -> Vec<Arc<Resident>> {
        self.shards.iter().flat_map(Shard::taken).collect()
    }

    /// Calls `each` with the swamps in memory, some at a time: nobody waits for all of them.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Resident>)) {
        for shard in &self.shards {
            shard.taken().iter().for_each(&mut each);
        }
    }

    /// Waits for the hydrations that are under way.
    pub(crate) fn wait_for_hydrations(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        for shard in &self.shards {
            let mut seats = shard.seats.lock();
            while seats.seats.values().any(|seat| matches!(seat, Seat::Hydrating)) {
                if shard.settled.wait_until(&mut seats, until).timed_out() {
                    return;
                }
            }
        }
    }

    /// Forgets every swamp.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut seats = shard.seats.lock();
            let gone = std::mem::take(&mut *seats);
            drop(seats);
            drop(gone);
        }
    }
}

/// What the hand met.
struct Passed {
    /// 0 when there is nobody.
    steps: usize,
    /// Some were spared that the next pass will not.
    spared: bool,
    /// One that was not used since the hand last came by.
    cold: Option<Arc<Resident>>,
}

impl Seats {
    /// Moves the hand on, at most so far, to the next swamp that was not used.
    fn pass(&mut self, most: usize) -> Passed {
        let mut passed = Passed { steps: 0, spared: false, cold: None };
        while passed.steps < most && passed.cold.is_none() && !self.ring.is_empty() {
            passed.steps += 1;
            self.hand %= self.ring.len();
            match self.ring[self.hand].upgrade() {
                None => {
                    self.ring.remove(self.hand);
                    continue;
                }
                Some(resident) if resident.cool() => passed.spared = true,
                Some(resident) => passed.cold = Some(resident),
            }
            self.hand += 1;
        }
        passed
    }

    fn seat(&mut self, name: &SwampName, resident: &Arc<Resident>) {
        self.seats.insert(name.clone(), Seat::Taken(Arc::clone(resident)));
        self.tidy();
        self.ring.push(Arc::downgrade(resident));
    }

    /// Takes those that have left out of the ring, once they are many: each keeps its memory as long as it is there.
    fn tidy(&mut self) {
        if self.ring.len() > self.seats.len() + self.seats.len() / 8 + GONE_KEPT {
            let gone_before_hand = self.ring.iter().take(self.hand).filter(|one| one.strong_count() == 0).count();
            self.hand = self.hand.min(self.ring.len()) - gone_before_hand;
            self.ring.retain(|one| one.strong_count() > 0);
        }
    }
}

/// The seat of a swamp that is being read; given back if that fails or panics.
struct HydratingSeat<'a> {
    shard: &'a Shard,
    name: &'a SwampName,
}

impl HydratingSeat<'_> {
    fn take(self, resident: &Arc<Resident>) {
        self.shard.seats.lock().seat(self.name, resident);
    }
}

impl Drop for HydratingSeat<'_> {
    fn drop(&mut self) {
        let mut seats = self.shard.seats.lock();
        if matches!(seats.seats.get(self.name), Some(Seat::Hydrating)) {
            seats.seats.remove(self.name);
        }
        drop(seats);
        self.shard.settled.notify_all();
    }
}
