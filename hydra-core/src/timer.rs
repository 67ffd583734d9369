//! One thread that sleeps until something is due; with nothing due it sleeps for ever.

use std::collections::BTreeMap;
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
    due: BTreeMap<Alarm, Task>,
    next_id: u64,
    closed: bool,
}

/// A task that is due at a time; the tasks of one moment in the order of their coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    at: Instant,
    id: u64,
}

impl Alarm {
    /// Whether its time has come.
    pub(crate) fn is_due(&self) -> bool {
        self.at <= Instant::now()
    }
}

impl Timer {
    pub(crate) fn new() -> Timer {
        Timer { inner: Arc::new(Inner { queue: Mutex::default(), changed: Condvar::new() }), thread: Mutex::default() }
    }

    /// Runs a task at its time; never after [`Timer::close`].
    pub(crate) fn at(&self, at: Instant, task: impl FnOnce() + Send + 'static) -> Alarm {
        self.start();
        let mut queue = self.inner.queue.lock();
        let alarm = Alarm { at, id: queue.next_id };
        queue.next_id += 1;
        if queue.closed {
            return alarm;
        }
        let is_first = queue.due.first_key_value().is_none_or(|(first, _)| alarm < *first);
        queue.due.insert(alarm, Box::new(task));
        drop(queue);
        if is_first {
            self.inner.changed.notify_one();
        }
        alarm
    }

    /// Forgets a task, if it has not begun, and what it holds.
    pub(crate) fn cancel(&self, alarm: &Alarm) {
        let task = self.inner.queue.lock().due.remove(alarm);
        // Dropped where the queue is not locked.
        drop(task);
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
        let forgotten = std::mem::take(&mut queue.due);
        drop(queue);
        // What the tasks hold may cancel others when it goes.
        drop(forgotten);
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
            match queue.due.first_entry() {
                None => self.changed.wait(&mut queue),
                Some(first) if first.key().is_due() => {
                    let task = first.remove();
                    crate::sync::MutexGuard::unlocked(&mut queue, task);
                }
                Some(first) => {
                    let at = first.key().at;
                    self.changed.wait_until(&mut queue, at);
                }
            }
        }
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

    #[test]
    fn a_cancelled_task_is_let_go_of_at_once() {
        let timer = Timer::new();
        let held = Arc::new(());
        let (soon, seen) = (Instant::now() + Duration::from_millis(50), Arc::clone(&held));
        let alarm = timer.at(soon, move || panic!("cancelled, but run with {seen:?}"));
        timer.cancel(&alarm);
        assert_eq!(Arc::strong_count(&held), 1);
        let (sender, receiver) = mpsc::channel();
        timer.at(soon, move || sender.send(()).expect("the test waits"));
        receiver.recv_timeout(Duration::from_secs(5)).expect("those after it run");
        timer.cancel(&alarm);
        timer.close();
    }
}
