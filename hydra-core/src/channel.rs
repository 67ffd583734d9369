//! What changes in a swamp, for those who listen: a ring of the last changes that all listeners read from.
//!
//! A channel hangs on the name of a swamp, or on a pattern of names. The swamp may leave memory and come back
//! meanwhile: what was different then is found out and told. Whoever listens keeps a position in the ring and
//! nothing else, so ten thousand listeners cost little, and one that does not read slows nobody down: the ring
//! goes on without it, and the next time it reads it is told that it lagged behind.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::hashing::KeyHashing;
use crate::hidden::is_hidden;
use crate::hub::Hub;
use crate::hydrate::Watch;
use crate::memory::Held;
use crate::name::SwampName;
use crate::news::Change;
use crate::shared::Shared;
use crate::stamp::Timestamp;
use crate::state::State;

/// A ring has room for at least so many changes, whatever the policy remembers: it is the queue of its listeners.
const QUEUE_LEAST: usize = 256;
/// The keys and values of a ring take at most so many bytes, but for its newest change.
const RING_BYTES: usize = 64 << 20;
/// More listeners than this are woken by another thread than the writer's.
const WAKE_HERE: usize = 16;
/// Listeners take so many changes at once, so that one that stops reading holds few.
const TAKEN_AT_ONCE: usize = 16;
/// A swamp that could not be read when something in it expired is tried again after this.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);

/// One change, when it came, and what it is about. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) n: u64,
    pub(crate) at: Timestamp,
    pub(crate) swamp: SwampName,
    pub(crate) change: Arc<Change>,
}

/// The changes of one swamp, or of all that match a pattern.
pub(crate) struct Channel {
    shared: Weak<Shared>,
    /// Whether anything has to be told: somebody listens, or changes are kept for whoever comes back.
    is_live: AtomicBool,
    held: Held,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ring: VecDeque<Entry>,
    bytes: usize,
    /// Of the changes behind this number none is missing in the ring.
    floor: u64,
    /// The number of the last change.
    last: u64,
    most: usize,
    /// Changes are kept: some feed was opened, not only a wait.
    keeps: bool,
    listeners: usize,
    wakers: HashMap<u64, Waker, KeyHashing>,
    /// What expires when: milliseconds, swamp, key.
    dues: BTreeSet<(u64, SwampName, Box<str>)>,
    timer_at: Option<u64>,
    /// What the swamp was like when it left memory.
    left: Option<Left>,
    is_resident: bool,
    is_closed: bool,
}

/// What a swamp was like when it left memory.
pub(crate) struct Left {
    digest: u64,
    pub(crate) watch: Watch,
}

/// What a listener found.
pub(crate) enum Taken {
    /// Changes with numbers up to the one asked for; whether there are more.
    Entries(Vec<Entry>, bool),
    /// The ring went on without it.
    Lagged,
    /// There will be nothing more.
    Closed,
}

impl Channel {
    pub(crate) fn new(shared: Weak<Shared>, floor: u64) -> Channel {
        let inner = Inner { floor, most: QUEUE_LEAST, ..Inner::default() };
        Channel { shared, is_live: AtomicBool::new(false), held: Held::default(), inner: Mutex::new(inner) }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// One listener more. `keeps`: as many changes as the policy says are kept from now on.
    pub(crate) fn join(self: &Arc<Self>, hub: &Hub, keeps: Option<u32>, state: Option<(&SwampName, &State)>) {
        let mut inner = self.inner.lock();
        if !self.is_live.swap(true, Ordering::AcqRel) {
            // What happened while nobody listened was not noted.
            inner.dues.clear();
            if let Some((name, state)) = state {
                inner.note_dues(name, state);
            }
        }
        inner.listeners += 1;
        if let Some(most) = keeps {
            if !inner.keeps {
                inner.keeps = true;
                inner.floor = hub.next();
            }
            inner.most = QUEUE_LEAST.max(most as usize);
        }
        if let Some((name, state)) = state {
            inner.is_resident = true;
            self.expire(&mut inner, hub, name, state, Timestamp::now());
        }
        self.schedule(&mut inner);
    }

    /// One listener fewer; answers whether the channel can go.
    pub(crate) fn leave(&self, listener: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.wakers.remove(&listener);
        inner.listeners -= 1;
        self.is_live.store(inner.keeps || inner.listeners > 0, Ordering::Release);
        inner.listeners == 0 && !inner.is_resident
    }

    /// Whether nobody needs it: nobody listens, and the swamp is not in memory.
    pub(crate) fn is_forsaken(&self) -> bool {
        let inner = self.inner.lock();
        inner.listeners == 0 && !inner.is_resident
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.inner.lock().listeners > 0
    }

    /// Whether everything behind a number is still in the ring.
    pub(crate) fn knows(&self, n: u64) -> bool {
        self.inner.lock().floor <= n
    }

    /// The changes behind `position` up to `high`; where there are none the waker is kept.
    pub(crate) fn take(&self, position: u64, high: u64, listener: u64, waker: &Waker) -> Taken {
        let mut inner = self.inner.lock();
        if position < inner.floor && inner.keeps {
            return Taken::Lagged;
        }
        let begin = inner.ring.partition_point(|entry| entry.n <= position);
        let end = inner.ring.partition_point(|entry| entry.n <= high).min(begin + TAKEN_AT_ONCE);
        let taken: Vec<Entry> = inner.ring.range(begin..end.max(begin)).cloned().collect();
        let more = end.max(begin) < inner.ring.len();
        if taken.is_empty() && !more {
            if inner.is_closed {
                return Taken::Closed;
            }
            inner.wakers.insert(listener, waker.clone());
        }
        Taken::Entries(taken, more)
    }

    /// Whether anything came behind `position`, or the end; where nothing did the waker is kept.
    pub(crate) fn has_news(&self, position: u64, listener: u64, waker: &Waker) -> bool {
        let mut inner = self.inner.lock();
        if inner.is_closed || inner.last > position {
            return true;
        }
        inner.wakers.insert(listener, waker.clone());
        false
    }

    /// Tells changes, in order. Whoever calls holds the state they are of.
    pub(crate) fn tell(self: &Arc<Self>, hub: &Hub, name: &SwampName, changes: &[Arc<Change>]) {
        let mut inner = self.inner.lock();
        for change in changes {
            if let Change::Put { after, .. } = &**change
                && let Some(at) = after.slot.expires()
            {
                inner.dues.insert((at.as_millis(), name.clone(), after.slot.key().into()));
            }
            inner.push(hub, name, change);
        }
        self.schedule(&mut inner);
        self.wake(inner);
    }

    /// Ends every feed.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        self.wake(inner);
    }

    /// Nobody will listen any more, whoever still tells it something.
    pub(crate) fn retire(&self) {
        let mut inner = self.inner.lock();
        inner.ring.clear();
        inner.dues.clear();
        (inner.keeps, inner.bytes) = (false, 0);
        self.is_live.store(false, Ordering::Release);
        self.wake(inner);
    }

    /// The swamp is in memory again. What is different from when it left is not known one by one.
    pub(crate) fn attach(self: &Arc<Self>, hub: &Hub, name: &SwampName, state: &State) {
        let mut inner = self.inner.lock();
        inner.is_resident = true;
        let differs = inner.left.take().is_some_and(|left| left.digest != state.digest());
        if differs {
            inner.dues.clear();
            inner.note_dues(name, state);
            inner.push(hub, name, &Arc::new(Change::Reset(state.live())));
        }
        self.schedule(&mut inner);
        self.wake(inner);
    }

    /// The swamp is in memory now, one of those the pattern stands for.
    pub(crate) fn attach_one(self: &Arc<Self>, name: &SwampName, state: &State) {
        let mut inner = self.inner.lock();
        inner.note_dues(name, state);
        self.schedule(&mut inner);
    }

    /// The swamp leaves memory; answers whether the channel can go.
    pub(crate) fn part(&self, state: &State, watch: impl FnOnce() -> Watch) -> bool {
        let mut inner = self.inner.lock();
        inner.is_resident = false;
        if inner.listeners == 0 {
            return true;
        }
        inner.left = Some(Left { digest: state.digest(), watch: watch() });
        false
    }

    /// What the directory looked like when the swamp left memory.
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.inner.lock().left.as_ref().map(|left| left.watch.clone())
    }

    /// Wakes everybody and counts what the ring takes.
    fn wake(&self, mut inner: crate::sync::MutexGuard<'_, Inner>) {
        let wakers = std::mem::take(&mut inner.wakers);
        let bytes = inner.bytes;
        drop(inner);
        let Some(shared) = self.shared.upgrade() else { return };
        shared.memory.account(&self.held, bytes);
        if wakers.len() <= WAKE_HERE {
            wakers.into_values().for_each(Waker::wake);
        } else {
            shared.pool.run(move || wakers.into_values().for_each(Waker::wake));
        }
    }

    /// Sees to it that what expires next is told, while somebody listens.
    fn schedule(self: &Arc<Self>, inner: &mut Inner) {
        let Some(&(at, ..)) = inner.dues.first().filter(|_| inner.listeners > 0) else { return };
        if inner.timer_at.is_some_and(|timer_at| timer_at <= at) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        inner.timer_at = Some(at);
        let wait = Duration::from_millis(at.saturating_sub(Timestamp::now().as_millis()));
        let channel = Arc::downgrade(self);
        // A clock that far ahead is no moment of this machine.
        let Some(when) = Instant::now().checked_add(wait) else { return };
        shared.timer.at(when, move || {
            let Some(channel) = channel.upgrade() else { return };
            let Some(shared) = channel.shared.upgrade() else { return };
            let pool = Arc::clone(&shared);
            pool.pool.run(move || channel.expire_due(&shared));
        });
    }

    /// Tells what has expired by now.
    fn expire_due(self: &Arc<Self>, shared: &Arc<Shared>) {
        let now = Timestamp::now();
        let swamps: BTreeSet<SwampName> = {
            let mut inner = self.inner.lock();
            inner.timer_at = None;
            if inner.listeners == 0 {
                return;
            }
            inner.due(now).map(|(_, name, _)| name.clone()).collect()
        };
        let mut failed = false;
        for name in swamps {
            match shared.residents.hydrate_now(shared, &name) {
                Ok(resident) => {
                    let state = resident.state.read();
                    let mut inner = self.inner.lock();
                    self.expire(&mut inner, &shared.hub, &name, &state, now);
                    self.wake(inner);
                }
                Err(error) => {
                    tracing::debug!(swamp = %name, %error, "what expired is told later");
                    failed = true;
                }
            }
        }
        let mut inner = self.inner.lock();
        if failed {
            // The timer is set again for the same moment, a little later.
            let channel = Arc::downgrade(self);
            shared.timer.at(Instant::now() + EXPIRE_AGAIN, move || {
                if let Some(channel) = channel.upgrade() {
                    channel.schedule(&mut channel.inner.lock());
                }
            });
        } else {
            self.schedule(&mut inner);
        }
    }

    /// Tells what has expired in one swamp. Only what is hidden now and was not told to be gone before.
    fn expire(&self, inner: &mut Inner, hub: &Hub, name: &SwampName, state: &State, now: Timestamp) {
        let due: Vec<_> = inner.due(now).filter(|(_, swamp, _)| swamp == name).cloned().collect();
        for entry in due {
            let known = state.known(&entry.2);
            let is_it = known.slot.is_none_or(|slot| slot.expires().is_some_and(|at| at.as_millis() == entry.0));
            if is_it && known.sight(now).is_none() {
                let change = Change::Expire { key: entry.2.clone(), before: known.cloned() };
                inner.push(hub, name, &Arc::new(change));
            }
            inner.dues.remove(&entry);
        }
    }
}

impl Inner {
    /// What is past its time.
    fn due(&self, now: Timestamp) -> impl Iterator<Item = &(u64, SwampName, Box<str>)> {
        self.dues.iter().take_while(move |(at, ..)| *at <= now.as_millis())
    }

    fn note_dues(&mut self, name: &SwampName, state: &State) {
        let now = Timestamp::now();
        let expiring = state.expiring().filter(|slot| slot.expires().is_some_and(|at| at > now));
        let due = |at: Timestamp, key: &str| (at.as_millis(), name.clone(), key.into());
        self.dues.extend(expiring.filter_map(|slot| Some(due(slot.expires()?, slot.key()))));
    }

    fn push(&mut self, hub: &Hub, name: &SwampName, change: &Arc<Change>) {
        let n = hub.next();
        self.last = n;
        // Those who wait for any change wake; feeds are told nothing.
        if change.key().is_some_and(|key| is_hidden(key.as_bytes())) {
            return;
        }
        if !self.keeps {
            self.floor = n;
            return;
        }
        self.bytes += change.footprint();
        self.ring.push_back(Entry { n, at: Timestamp::now(), swamp: name.clone(), change: Arc::clone(change) });
        while self.ring.len() > self.most || (self.bytes > RING_BYTES && self.ring.len() > 1) {
            let Some(gone) = self.ring.pop_front() else { break };
            self.bytes -= gone.change.footprint();
            self.floor = gone.n;
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.memory.account(&self.held, 0);
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        write!(f, "Channel({} changes, {} listeners)", inner.ring.len(), inner.listeners)
    }
}
