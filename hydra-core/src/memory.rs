//! The memory budget: what the swamps in memory take together, and who waits when that is too much.
//!
//! Above the budget swamps are evicted, see [`crate::residents`]. A tenth above it nobody comes in and nothing
//! is added until there is room. One swamp counts for at most the whole budget: however large it is, it can be
//! used, and the others are not refused for what evicting them would not change.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::error::{Error, ErrorCode, Result};
use crate::residents::Reclaimed;
use crate::shared::Shared;
use crate::stats::count;

/// How long a hydration or a blocking write waits for memory before it is refused.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// What a swamp is taken to need while nothing is known about any.
const GUESS: u64 = 4 << 10;
/// The next pass of the eviction comes so soon after one that got somewhere, and at most so late after one
/// that did not.
const AGAIN_SOON: Duration = Duration::from_millis(2);
const AGAIN_LATE: Duration = Duration::from_millis(500);

/// Counts the memory of all swamps.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: u64,
    used: AtomicU64,
    swamps: AtomicU64,
    /// A pass of the eviction is running, or one is due at a time.
    reclaiming: AtomicBool,
    scheduled: AtomicBool,
    /// How many passes in a row got nowhere.
    vain: AtomicU64,
    waiting: AtomicU64,
    gate: Mutex<()>,
    room: Condvar,
}

/// What one swamp is counted with; given back with [`Memory::leave`].
#[derive(Debug, Default)]
pub(crate) struct Held(AtomicU64);

/// Memory set aside for a swamp that is being read, until it is counted itself.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(budget: u64) -> Memory {
        Memory {
            budget: budget.max(1),
            used: AtomicU64::new(0),
            swamps: AtomicU64::new(0),
            reclaiming: AtomicBool::new(false),
            scheduled: AtomicBool::new(false),
            vain: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            gate: Mutex::new(()),
            room: Condvar::new(),
        }
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// What is counted now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// How much has to go.
    pub(crate) fn excess(&self) -> u64 {
        self.used().saturating_sub(self.budget)
    }

    /// Whether something may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.used() <= self.limit()
    }

    fn limit(&self) -> u64 {
        self.budget.saturating_add(self.budget / 10)
    }

    /// Counts a new swamp.
    pub(crate) fn enter(&self, held: &Held, bytes: usize) {
        self.swamps.fetch_add(1, Ordering::Relaxed);
        self.account(held, bytes);
    }

    /// Counts what a swamp takes now in place of what it took.
    pub(crate) fn account(&self, held: &Held, bytes: usize) {
        let bytes = (bytes as u64).min(self.budget);
        if held.bytes() == bytes {
            return;
        }
        let before = held.0.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.used.fetch_add(bytes - before, Ordering::SeqCst);
        } else {
            self.give_back(before - bytes);
        }
    }

    /// A swamp is gone.
    pub(crate) fn leave(&self, held: &Held) {
        self.swamps.fetch_sub(1, Ordering::Relaxed);
        self.account(held, 0);
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        // Whoever waits has said so before looking at what is used.
        if self.waiting.load(Ordering::SeqCst) > 0 && self.has_room() {
            drop(self.gate.lock());
            self.room.notify_all();
        }
    }

    /// Sets memory aside for one more swamp: as much as swamps take on average.
    pub(crate) fn reserve(&self) -> Option<Reserved<'_>> {
        let reserve = |used| (used <= self.limit()).then(|| used + self.usual());
        // What was added is what the same arithmetic gives on the value before.
        let mut used = self.used();
        loop {
            let next = reserve(used)?;
            match self.used.compare_exchange_weak(used, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(Reserved { memory: self, bytes: next - used }),
                Err(changed) => used = changed,
            }
        }
    }

    fn usual(&self) -> u64 {
        self.used().checked_div(self.swamps.load(Ordering::Relaxed)).unwrap_or(GUESS).clamp(1, self.budget)
    }

    /// Waits until something may be added; answers whether it may.
    pub(crate) fn wait_for_room(&self, until: Instant) -> bool {
        if self.has_room() {
            return true;
        }
        let mut gate = self.gate.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !self.has_room() && !self.room.wait_until(&mut gate, until).timed_out() {}
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(gate);
        self.has_room()
    }

    /// The answer to what would need more memory than there is.
    pub(crate) fn refusal(&self) -> Error {
        let (used, budget) = (self.used(), self.budget);
        let detail = format!("the swamps in memory take {used} bytes, the budget is {budget}; nothing was done");
        Error::new(ErrorCode::Busy, detail).with_hint("try again; if it stays so, the memory budget is too small")
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

impl Held {
    /// What the swamp is counted with.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Refuses what would take more memory while there is too little.
    pub(crate) fn check_memory(&self) -> Result<()> {
        if self.memory.has_room() {
            return Ok(());
        }
        count(&self.stats.memory_refusals);
        Err(self.memory.refusal())
    }

    /// Sees to it that swamps are evicted when they take too much. Never blocks.
    pub(crate) fn reclaim_soon(self: &Arc<Self>) {
        let memory = &self.memory;
        let idle = || !memory.scheduled.load(Ordering::Acquire) && !memory.reclaiming.swap(true, Ordering::AcqRel);
        if memory.excess() > 0 && self.check_open().is_ok() && idle() {
            let shared = Arc::clone(self);
            self.pool.run(move || shared.reclaim());
        }
    }

    fn reclaim(self: &Arc<Self>) {
        let reclaimed = self.residents.reclaim(self);
        let memory = &self.memory;
        memory.reclaiming.store(false, Ordering::Release);
        if memory.excess() > 0 {
            self.reclaim_again(reclaimed);
        } else {
            memory.vain.store(0, Ordering::Relaxed);
        }
    }

    /// What is in the way now, somebody's use or a flush, is soon over.
    fn reclaim_again(self: &Arc<Self>, reclaimed: Reclaimed) {
        let memory = &self.memory;
        let vain = match reclaimed {
            Reclaimed::Vain => memory.vain.fetch_add(1, Ordering::Relaxed).min(16) as u32,
            Reclaimed::Progress => {
                memory.vain.store(0, Ordering::Relaxed);
                0
            }
        };
        let most = if memory.waiting.load(Ordering::SeqCst) > 0 { AGAIN_LATE / 25 } else { AGAIN_LATE };
        let pause = AGAIN_SOON.saturating_mul(1 << vain).min(most);
        if memory.scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(self);
        self.timer.at(Instant::now() + pause, move || {
            if let Some(shared) = shared.upgrade() {
                shared.memory.scheduled.store(false, Ordering::Release);
                shared.reclaim_soon();
            }
        });
    }
}

/// Half of the memory that this machine, or the control group of this process, has; 1 GiB where nobody says.
pub(crate) fn default_budget() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = Some(info.totalram.saturating_mul(u64::from(info.mem_unit))).filter(|&bytes| bytes > 0);
    let most = [machine, group_limit()].into_iter().flatten().min();
    most.map_or(1 << 30, |bytes| bytes / 2)
}

/// The lowest limit of the control groups of this process, of either version.
fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().filter_map(|line| limit_of_line(line, Path::new("/sys/fs/cgroup"))).min()
}

/// A line is `hierarchy:controllers:path`; version 2 has no controllers there.
fn limit_of_line(line: &str, mounted: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (base, file) = match controllers {
        "" => (mounted.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|one| one == "memory") => (mounted.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let group = base.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|above| above.starts_with(&base));
    groups.filter_map(|group| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_swamp_counts_for_at_most_the_budget_and_gives_all_back() {
        let memory = Memory::new(1_000);
        let (huge, small) = (Held::default(), Held::default());
        memory.enter(&huge, 1 << 40);
        assert!(memory.has_room() && memory.excess() == 0, "alone it may be as large as it likes");
        memory.enter(&small, 101);
        assert!(!memory.has_room() && memory.reserve().is_none());
        memory.account(&small, 50);
        assert!(memory.has_room() && memory.excess() == 50);
        memory.leave(&huge);
        memory.leave(&small);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_reservation_keeps_others_out_until_it_is_given_back() {
        let memory = Memory::new(1_000);
        let held = Held::default();
        memory.enter(&held, 900);
        let first = memory.reserve().expect("there is room for one");
        assert!(memory.reserve().is_none(), "900 more are expected");
        assert!(!memory.wait_for_room(Instant::now() + Duration::from_millis(5)));
        drop(first);
        assert_eq!(memory.used(), 900);
        assert!(memory.reserve().is_some());
    }

    #[test]
    fn whoever_waits_is_woken_by_what_is_given_back() {
        let memory = Memory::new(1_000);
        let (one, two) = (Held::default(), Held::default());
        memory.enter(&one, 900);
        memory.enter(&two, 900);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| memory.wait_for_room(Instant::now() + Duration::from_secs(20)));
            std::thread::sleep(Duration::from_millis(20));
            let begun = Instant::now();
            memory.leave(&two);
            assert!(waiter.join().expect("no panic") && begun.elapsed() < Duration::from_secs(10));
        });
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "4096\n");
        write("memory/x/memory.limit_in_bytes", "100\n");
        assert_eq!(limit_of_line("0::/a/b", dir.path()), Some(4096));
        assert_eq!(limit_of_line("4:cpu,memory:/x", dir.path()), Some(100));
        assert_eq!(limit_of_line("3:cpuset:/x", dir.path()), None);
        assert!(default_budget() > 1 << 20);
    }
}
