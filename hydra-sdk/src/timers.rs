//! Timers that are used again and again.
//!
//! A try is watched by a timer that hardly ever ends. To set a new one takes the lock of all timers of the process, and
//! wakes the thread that waits for the network when no other timer ends before. To move a timer that is set to a later
//! moment costs neither (`tokio::time::Sleep::reset`), so timers are kept from one try to the next.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

/// So many timers are kept.
const KEPT: usize = 64;

/// A timer belongs to the runtime it was made in.
type Kept = (Id, Pin<Box<Sleep>>);

/// Timers that nobody needs right now.
#[derive(Debug, Default)]
pub(crate) struct Timers(Mutex<VecDeque<Kept>>);

impl Timers {
    /// A timer that ends then.
    pub(crate) fn at(&self, end: Instant) -> Timer<'_> {
        let here = Handle::current().id();
        let (_, sleep) = self.kept(here).unwrap_or_else(|| (here, Box::pin(tokio::time::sleep_until(end.into()))));
        let mut timer = Timer { home: self, kept: Some((here, sleep)) };
        timer.reset(end);
        timer
    }

    /// A kept timer of a runtime.
    fn kept(&self, here: Id) -> Option<Kept> {
        let mut list = self.lock();
        let at = list.iter().rposition(|(runtime, _)| *runtime == here)?;
        list.swap_remove_back(at)
    }

    /// The list is whole at every moment, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A future that is ready at a moment, and may be set to another one.
#[derive(Debug)]
pub(crate) struct Timer<'t> {
    home: &'t Timers,
    /// Given back when it is dropped.
    kept: Option<Kept>,
}

impl Timer<'_> {
    /// Sets it to another moment.
    pub(crate) fn reset(&mut self, end: Instant) {
        if let Some((_, sleep)) = &mut self.kept {
            sleep.as_mut().reset(end.into());
        }
    }
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.kept.as_mut().map_or(Poll::Ready(()), |(_, sleep)| sleep.as_mut().poll(context))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut list = self.home.lock();
        // The oldest may be of a runtime that has ended.
        if list.len() == KEPT {
            list.pop_front();
        }
        list.extend(self.kept.take());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_kept_timer_ends_when_its_next_user_wants() {
        let timers = Timers::default();
        for millis in [50, 10, 90] {
            // Set to an earlier and to a later moment than the one before.
            drop(timers.at(Instant::now() + Duration::from_secs(60)));
            let begun = Instant::now();
            timers.at(begun + Duration::from_millis(millis)).await;
            let waited = begun.elapsed();
            assert!((millis..millis + 5_000).contains(&(waited.as_millis() as u64)), "{waited:?} for {millis} ms");
        }
        assert_eq!(timers.lock().len(), 1);
    }

    #[test]
    fn a_timer_of_another_runtime_is_not_used() {
        let timers = Timers::default();
        for _ in 0..2 * KEPT {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(async { timers.at(Instant::now() + Duration::from_millis(1)).await });
        }
        assert_eq!(timers.lock().len(), KEPT);
    }
}
