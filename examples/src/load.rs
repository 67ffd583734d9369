//! Load: tasks that call while a story goes on, and what their calls took.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

/// What calls took since it was last asked.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Tally>);

/// A sum over calls.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// How many there were.
    pub calls: usize,
    /// How long the longest one took.
    pub longest: Duration,
    /// How many were reads that were compared with the ledger.
    pub reads: usize,
    /// How many of those saw less than had been acknowledged before they began.
    pub behind: usize,
}

impl Calls {
    /// Makes a call and notes how long it took.
    ///
    /// # Errors
    /// When the call failed.
    pub async fn timed<T>(&self, call: impl IntoFuture<Output = hydra_sdk::Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let outcome = call.await;
        let took = begun.elapsed();
        let mut tally = self.tally();
        tally.calls += 1;
        tally.longest = tally.longest.max(took);
        drop(tally);
        outcome.with_context(|| format!("a call failed after {} ms", took.as_millis()))
    }

    /// Notes a read that was compared with the ledger.
    pub fn compared(&self, is_behind: bool) {
        let mut tally = self.tally();
        tally.reads += 1;
        tally.behind += usize::from(is_behind);
    }

    /// What there was since the last time.
    #[must_use]
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.tally())
    }

    /// The sums are plain values, whole at every moment, so a panic elsewhere cannot have torn them.
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks that go on until they are stopped. Dropping it ends them at once.
#[derive(Debug, Default)]
pub struct Background {
    tasks: Vec<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Background {
    /// Does `work` with 0, 1, 2, … until it fails or is stopped, with a pause in between.
    pub fn repeat<F>(&mut self, pause: Duration, work: impl Fn(usize) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send,
    {
        let stop = Arc::clone(&self.stop);
        self.tasks.push(tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                work(number).await?;
                tokio::time::sleep(pause).await;
            }
            Ok(())
        }));
    }

    /// Checks that nothing has failed so far.
    ///
    /// # Errors
    /// The failure of a task that ended.
    pub async fn check(&mut self) -> Result<()> {
        for task in self.tasks.iter_mut().filter(|task| task.is_finished()) {
            task.await??;
        }
        Ok(())
    }

    /// Lets every task finish what it does.
    ///
    /// # Errors
    /// The first failure of a task, also of one that had ended before.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await??;
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
