//! Lines: those who wait for the same thing stand in the order in which they came, and only the first one tries.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::sync::Mutex;

use crate::feed::Changed;
use crate::hashing::KeyHashing;
use crate::name::SwampName;
use crate::timer::Timer;

/// What those in a line wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) swamp: SwampName,
    pub(crate) topic: Topic,
}

/// What is waited for in one swamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Something to shift; whether only what is due.
    Shift { due: bool },
    /// The lock with this hidden key.
    Lock(String),
}

/// All lines of an engine.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Mutex<HashMap<Line, VecDeque<Arc<Spot>>, KeyHashing>>,
    is_closed: AtomicBool,
}

/// Where somebody stands.
#[derive(Debug, Default)]
struct Spot {
    waker: Mutex<Option<Waker>>,
}

impl Spot {
    fn wake(&self) {
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Lines {
    /// Whether anybody waits.
    pub(crate) fn is_waited_for(&self, line: &Line) -> bool {
        self.lines.lock().contains_key(line)
    }

    /// Steps to the end of a line, and waits until then at most. Dropping the place leaves the line.
    pub(crate) fn step_in(self: &Arc<Self>, line: Line, until: Instant, timer: &Timer) -> Place {
        let spot = Arc::new(Spot::default());
        self.lines.lock().entry(line.clone()).or_default().push_back(Arc::clone(&spot));
        let waiting = Arc::downgrade(&spot);
        timer.at(until, move || {
            if let Some(spot) = waiting.upgrade() {
                spot.wake();
            }
        });
        Place { lines: Arc::clone(self), line, spot, until }
    }

    /// Nobody waits any longer, now and from now on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        let all: Vec<Arc<Spot>> = self.lines.lock().values().flatten().cloned().collect();
        all.iter().for_each(|spot| spot.wake());
    }
}

/// A place in a line.
#[derive(Debug)]
pub(crate) struct Place {
    lines: Arc<Lines>,
    line: Line,
    spot: Arc<Spot>,
    until: Instant,
}

impl Place {
    /// Waits to be the first; answers whether there is time left.
    pub(crate) async fn turn(&self) -> bool {
        poll_fn(|context| self.poll(context, |_| self.is_first())).await
    }

    /// Waits until something has changed; answers whether there is time left.
    pub(crate) async fn news(&self, changed: Changed) -> bool {
        poll_fn(|context| self.poll(context, |context| changed.poll_ready(context))).await
    }

    fn poll(&self, context: &mut Context<'_>, is_ready: impl FnOnce(&mut Context<'_>) -> bool) -> Poll<bool> {
        *self.spot.waker.lock() = Some(context.waker().clone());
        match is_ready(context) {
            true => Poll::Ready(true),
            false if self.is_over() => Poll::Ready(false),
            false => Poll::Pending,
        }
    }

    fn is_over(&self) -> bool {
        self.lines.is_closed.load(Ordering::SeqCst) || Instant::now() >= self.until
    }

    fn is_first(&self) -> bool {
        let lines = self.lines.lines.lock();
        lines.get(&self.line).and_then(VecDeque::front).is_some_and(|first| Arc::ptr_eq(first, &self.spot))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.lines.lock();
        let Some(line) = lines.get_mut(&self.line) else { return };
        let was_first = line.front().is_some_and(|first| Arc::ptr_eq(first, &self.spot));
        line.retain(|spot| !Arc::ptr_eq(spot, &self.spot));
        let next = line.front().filter(|_| was_first).cloned();
        if line.is_empty() {
            lines.remove(&self.line);
        }
        drop(lines);
        if let Some(next) = next {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_come_first_have_their_turn_first_and_who_leaves_holds_up_nobody() {
        let (lines, timer) = (Arc::new(Lines::default()), Timer::new());
        let line = Line { swamp: "a/b/c".parse().expect("a name"), topic: Topic::Shift { due: false } };
        let until = Instant::now() + Duration::from_secs(60);
        let mut places: Vec<Place> = (0..4).map(|_| lines.step_in(line.clone(), until, &timer)).collect();
        let turn = |place: &Place| {
            let mut context = Context::from_waker(Waker::noop());
            matches!(pin!(place.turn()).poll(&mut context), Poll::Ready(true))
        };
        assert_eq!(places.iter().map(turn).collect::<Vec<_>>(), [true, false, false, false]);
        drop(places.remove(1));
        drop(places.remove(0));
        assert_eq!(places.iter().map(turn).collect::<Vec<_>>(), [true, false]);
        places.clear();
        assert!(!lines.is_waited_for(&line), "an empty line is forgotten");
        timer.close();
    }
}
