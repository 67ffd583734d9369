//! The swamps in memory, and the one hydration at a time that each name gets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::hashing::KeyHashing;
use crate::log::Remembered;
use crate::name::SwampName;
use crate::shared::Shared;
use crate::swamp::Resident;

const SHARDS: usize = 64;
/// How many evicted swamps are remembered with the chunk they had open.
const REMEMBERED_MOST: usize = 1 << 18;

/// Every swamp in memory.
#[derive(Debug)]
pub(crate) struct Residents {
    shards: Vec<Shard>,
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
}

#[derive(Debug)]
enum Seat {
    /// Somebody reads it from disk.
    Hydrating,
    Taken(Arc<Resident>),
}

impl Residents {
    pub(crate) fn new() -> Residents {
        Residents { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
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
        let shard = self.shard(name);
        let mut seats = shard.seats.lock();
        loop {
            match seats.seats.entry(name.clone()) {
                Entry::Occupied(entry) => match entry.get() {
                    Seat::Taken(resident) => return Ok(Arc::clone(resident)),
                    Seat::Hydrating => shard.settled.wait(&mut seats),
                },
                Entry::Vacant(entry) => {
                    entry.insert(Seat::Hydrating);
                    break;
                }
            }
        }
        let remembered = seats.remembered.remove(name);
        drop(seats);
        let seat = HydratingSeat { shard, name };
        let resident = Resident::hydrate(shared, name, remembered)?;
        seat.take(&resident);
        Ok(resident)
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
        if let Some(remembered) = remembered.filter(|_| seats.remembered.len() < REMEMBERED_MOST / SHARDS) {
            seats.remembered.insert(name, remembered);
        }
        true
    }

    /// Every swamp in memory.
    pub(crate) fn all(&self) -> Vec<Arc<Resident>> {
        let taken = |shard: &Shard| -> Vec<Arc<Resident>> {
            let seats = shard.seats.lock();
            let taken = |seat: &Seat| match seat {
                Seat::Taken(resident) => Some(Arc::clone(resident)),
                Seat::Hydrating => None,
            };
            seats.seats.values().filter_map(taken).collect()
        };
        self.shards.iter().flat_map(taken).collect()
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
            let gone = (std::mem::take(&mut seats.seats), std::mem::take(&mut seats.remembered));
            drop(seats);
            drop(gone);
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
        self.shard.seats.lock().seats.insert(self.name.clone(), Seat::Taken(Arc::clone(resident)));
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
