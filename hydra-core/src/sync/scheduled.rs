//! The locks of the scheduler, in the words of parking_lot.
//!
//! Nobody panics in a lock but where a test has failed, so that one is poisoned says nothing.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Instant;

use shuttle::sync;

fn unpoisoned<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// Holds a lock; empty only while a wait has given it up.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { lock: self, held: Some(unpoisoned(self.0.lock())) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(held) => Some(MutexGuard { lock: self, held: Some(held) }),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard { lock: self, held: Some(poisoned.into_inner()) }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Time stands still here.
    pub(crate) fn try_lock_until(&self, _: Instant) -> Option<MutexGuard<'_, T>> {
        Some(self.lock())
    }
}

impl<T> MutexGuard<'_, T> {
    /// Gives the lock up for as long as `run` takes.
    pub(crate) fn unlocked<R>(guard: &mut Self, run: impl FnOnce() -> R) -> R {
        drop(guard.held.take());
        let result = run();
        guard.held = Some(unpoisoned(guard.lock.0.lock()));
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_deref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_deref_mut().expect("held")
    }
}

/// Whether those who wait together are left waiting: a test wants to see that this is noticed.
pub(crate) static LOST_WAKE_UPS: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

/// No wait ends because its time is over.
#[derive(Debug)]
pub(crate) struct Waited;

impl Waited {
    pub(crate) fn timed_out(&self) -> bool {
        false
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held");
        guard.held = Some(unpoisoned(self.0.wait(held)));
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> Waited {
        self.wait(guard);
        Waited
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        if !LOST_WAKE_UPS.load(Ordering::Relaxed) {
            self.0.notify_all();
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }
}
