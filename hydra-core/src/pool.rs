//! The threads that write and sync: blocking on a disk wants threads, not cores.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, thread};

/// So many waiting jobs are a crowd; tests make do with less.
const CROWD: usize = if cfg!(test) { 1 } else { 8 };

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs on a few threads, which are started when first needed and sleep when there is nothing to do.
pub(crate) struct Pool {
    inner: Arc<Inner>,
    most: usize,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

struct Inner {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(most: usize) -> Pool {
        let inner = Arc::new(Inner { queue: Mutex::default(), work: Condvar::new() });
        Pool { inner, most: most.max(1), threads: Mutex::default() }
    }

    /// Runs a job soon; after [`Pool::close`] at once, on the caller's thread.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.inner.queue.lock();
        if queue.closed {
            drop(queue);
            return job();
        }
        queue.jobs.push_back(Box::new(job));
        let start = queue.idle < queue.jobs.len() && queue.threads < self.most;
        queue.threads += usize::from(start);
        drop(queue);
        self.inner.work.notify_one();
        if start {
            self.start_thread();
        }
    }

    fn start_thread(&self) {
        let inner = Arc::clone(&self.inner);
        let builder = thread::Builder::new().name("hydra-commit".into()).stack_size(1 << 20);
        match builder.spawn(move || inner.work_off()) {
            Ok(thread) => self.threads.lock().push(thread),
            Err(error) => {
                let mut queue = self.inner.queue.lock();
                queue.threads -= 1;
                tracing::error!(%error, "no thread could be started");
                // With no thread at all nobody would ever do the work.
                if queue.threads == 0 {
                    let jobs = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    jobs.into_iter().for_each(|job| job());
                }
            }
        }
    }

    /// Whether more than a few jobs wait for a thread.
    pub(crate) fn is_crowded(&self) -> bool {
        self.inner.queue.lock().jobs.len() >= CROWD
    }

    /// Finishes the jobs that are waiting and ends the threads.
    pub(crate) fn close(&self) {
        self.inner.queue.lock().closed = true;
        self.inner.work.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has reported so; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn work_off(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                // A defect in one job must not take the thread with it, and so the work of other swamps.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    crate::sync::MutexGuard::unlocked(&mut queue, job);
                }));
                if done.is_err() {
                    tracing::error!("a job of the commit threads panicked");
                }
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.work.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads at most)", self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_job_runs_once_also_those_that_wait_at_the_end() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(3);
        for _ in 0..100 {
            let done = Arc::clone(&done);
            pool.run(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        pool.close();
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }
}
