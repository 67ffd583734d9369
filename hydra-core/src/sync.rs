//! Locks and threads: the usual ones, or, with the feature `schedules`, those of a scheduler that runs one thread at a
//! time and tries one order of their steps after the other.

#[cfg(not(feature = "schedules"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(feature = "schedules"))]
pub(crate) use std::thread;

#[cfg(feature = "schedules")]
mod scheduled;
#[cfg(all(test, feature = "schedules"))]
pub(crate) use scheduled::LOST_WAKE_UPS;
#[cfg(feature = "schedules")]
pub(crate) use scheduled::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(feature = "schedules")]
pub(crate) use shuttle::thread;
