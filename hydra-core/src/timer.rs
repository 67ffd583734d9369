//! One thread that sleeps until something is due; with nothing due it sleeps for ever.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, thread};

type Task = Box<dyn FnOnce() + Send>;

/// Runs short tasks at their time.
pub(crate) struct Timer {
    inner: Arc<Inner>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Inner {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    due: BinaryHeap<Reverse<Entry>>,
    next_id: u64,
    closed: bool,
}

struct Entry {
    at: Instant,
    id: u64,
    task: Task,
}

impl Timer {
    pub(crate) fn new() -> Timer {
        Timer { inner: Arc::new(Inner { queue: Mutex::default(), changed: Condvar::new() }), thread: Mutex::default() }
    }

    /// Runs a task at its time; never after [`Timer::close`].
    pub(crate) fn at(&self, at: Instant, task: impl FnOnce() + Send + 'static) {
        self.start();
        let mut queue = self.inner.queue.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        let is_first = queue.due.peek().is_none_or(|Reverse(first)| at < first.at);
        queue.due.push(Reverse(Entry { at, id, task: Box::new(task) }));
        drop(queue);
        if is_first {
            self.inner.changed.notify_one();
        }
    }

    fn start(&self) {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let inner = Arc::clone(&self.inner);
            let builder = thread::Builder::new().name("hydra-timer".into());
            *thread = builder.spawn(move || inner.sleep_and_run()).ok();
        }
    }

    /// Forgets what is not due yet and ends the thread.
    pub(crate) fn close(&self) {
        let mut queue = self.inner.queue.lock();
        queue.closed = true;
        queue.due.clear();
        drop(queue);
        self.inner.changed.notify_one();
        if let Some(thread) = self.thread.lock().take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            // A thread that panicked has reported so; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn sleep_and_run(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            let next = queue.due.peek().map(|Reverse(entry)| entry.at);
            match next {
                None => self.changed.wait(&mut queue),
                Some(at) if at > Instant::now() => {
                    self.changed.wait_until(&mut queue, at);
                }
                Some(_) => {
                    if let Some(Reverse(entry)) = queue.due.pop() {
                        crate::sync::MutexGuard::unlocked(&mut queue, entry.task);
                    }
                }
            }
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.id) == (other.at, other.id)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.id).cmp(&(other.at, other.id))
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timer({} tasks)", self.inner.queue.lock().due.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn tasks_run_in_the_order_of_their_times() {
        let timer = Timer::new();
        let (sender, receiver) = mpsc::channel();
        let now = Instant::now();
        for ms in [30, 10, 20] {
            let sender = sender.clone();
            timer.at(now + Duration::from_millis(ms), move || sender.send(ms).expect("the test waits"));
        }
        let order: Vec<u64> = (0..3).map(|_| receiver.recv_timeout(Duration::from_secs(5)).expect("due")).collect();
        assert_eq!(order, [10, 20, 30]);
        timer.close();
    }
}
