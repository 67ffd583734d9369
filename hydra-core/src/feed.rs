//! Change feeds: what happens in a swamp, in order, from a moment on, without a gap.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::base32;
use crate::channel::{Channel, Entry, Taken};
use crate::error::{Error, ErrorCode, Result};
use crate::hub::Topic;
use crate::name::SwampName;
use crate::news::Change;
use crate::pattern::Pattern;
use crate::shared::Shared;
use crate::stamp::{Timestamp, Version};
use crate::state::KeyState;
use crate::swamp::Resident;
use crate::value::Treasure;

/// Why a feed begins anew.
const UNKNOWN: &str = "what came behind that id is not known here any more";
const CHANGED: &str = "files that came from elsewhere changed the swamp while it was not in memory";

/// Where a feed goes on: the process that numbered the events, and the number there. Written
/// `<incarnation>.<number>`. It belongs to the feed it comes from: the same swamps, or the same pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    incarnation: u64,
    n: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", base32::encode(self.incarnation.into(), base32::WIDTH_64), self.n)
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<EventId> {
        let parts = text.split_once('.');
        let read = parts.and_then(|(incarnation, n)| {
            let n = Some(n).filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()))?;
            Some(EventId { incarnation: base32::decode_64(incarnation)?, n: n.parse().ok()? })
        });
        read.ok_or_else(|| {
            Error::new(ErrorCode::InvalidParameter, format!("{text:?} is no id of an event"))
                .with_hint("send the id of the last event unchanged")
        })
    }
}

/// Where a feed begins and what it shows.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FeedOptions {
    /// Goes on behind this event. Exactly where the process that made the id still knows all that came behind it;
    /// otherwise the feed begins with [`Change::Reset`](EventKind::Reset) and a snapshot. Default: from now on.
    pub since: Option<EventId>,
    /// Begins with every treasure there is. Default no. Without effect where `since` is known.
    pub snapshot: bool,
    /// Only keys that start with this. Default all.
    pub prefix: Option<String>,
    /// Events tell what was there before. Default no.
    pub old: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FeedEvent {
    /// Where to go on behind it; `None` while a snapshot is not complete.
    pub id: Option<EventId>,
    /// The swamp it happened in; `None` when the event is about the feed.
    pub swamp: Option<SwampName>,
    /// When it was told, by the clock of this machine.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// A treasure was put or added to, or is part of a snapshot. Writes to one key that become visible together are
    /// one event.
    Put {
        /// The treasure now.
        treasure: Treasure,
        /// What was there before, where that was asked for.
        old: Option<Treasure>,
    },
    /// A treasure was removed.
    Delete {
        /// Its key.
        key: String,
        /// The version of the removal, where it left a mark.
        version: Option<Version>,
        /// What was removed, where that was asked for.
        old: Option<Treasure>,
    },
    /// A treasure has expired.
    Expire {
        /// Its key.
        key: String,
        /// What has expired, where that was asked for.
        old: Option<Treasure>,
    },
    /// The swamp was destroyed: it holds nothing now.
    Destroy,
    /// What came before counts no more: forget it. A snapshot follows, unless the feed is one of a pattern.
    Reset {
        /// Why, in words.
        reason: String,
    },
    /// The reader was too slow, and events are missing behind the last one. The feed ends.
    Lagged,
    /// What was there is told; from here on events come as things happen.
    Live,
}

impl EventKind {
    /// `put`, `delete`, `expire`, `destroy`, `reset`, `lagged` or `live`, as on the wire.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            EventKind::Put { .. } => "put",
            EventKind::Delete { .. } => "delete",
            EventKind::Expire { .. } => "expire",
            EventKind::Destroy => "destroy",
            EventKind::Reset { .. } => "reset",
            EventKind::Lagged => "lagged",
            EventKind::Live => "live",
        }
    }
}

/// A reader of events. It keeps no swamp in memory; dropping it ends the subscription.
#[derive(Debug)]
pub struct Feed {
    shared: Weak<Shared>,
    incarnation: u64,
    parts: Vec<Part>,
    prefix: Option<String>,
    old: bool,
    /// Snapshots that come before anything else.
    opening: VecDeque<Opening>,
    /// What was taken from the rings and is still to be shown.
    taken: VecDeque<Entry>,
    rows: Option<Rows>,
    /// The feed is live behind this number, and has said so.
    live_at: u64,
    is_live: bool,
    /// A snapshot is part of what comes before, so nothing there is a place to go on from.
    has_opening: bool,
    is_ended: bool,
}

/// One of the channels a feed reads.
#[derive(Debug)]
struct Part {
    topic: Topic,
    channel: Arc<Channel>,
    listener: u64,
    /// Everything up to this number was taken.
    position: u64,
}

/// What a feed begins with where it cannot just go on.
#[derive(Debug)]
struct Opening {
    swamp: Option<SwampName>,
    is_reset: bool,
    rows: Arc<[KeyState]>,
}

/// A snapshot on its way.
#[derive(Debug)]
struct Rows {
    swamp: Option<SwampName>,
    rows: Arc<[KeyState]>,
    next: usize,
    /// The feed is live again behind it.
    then_live: Option<u64>,
}

impl Feed {
    /// Opens the feed of one swamp.
    pub(crate) fn open(resident: &Resident, options: &FeedOptions) -> Result<Feed> {
        let shared = &resident.shared;
        let (policy, _) = resident.settings();
        let name = resident.name();
        let mut state = resident.state.write();
        let channel = shared.hub.join(shared, name, Some(policy.change_log), &mut state)?;
        let mut feed = Feed::new(shared, Topic::Swamp(name.clone()), channel, options);
        let is_reset = feed.has_reset(options);
        if is_reset || (options.since.is_none() && options.snapshot) {
            let rows = state.live();
            feed.has_opening = true;
            feed.opening.push_back(Opening { swamp: Some(name.clone()), is_reset, rows });
        }
        drop(state);
        shared.hub.poll_soon(shared);
        Ok(feed)
    }

    /// Opens the feed of all swamps that match a pattern.
    pub(crate) fn open_pattern(shared: &Arc<Shared>, pattern: &Pattern, options: &FeedOptions) -> Result<Feed> {
        if options.snapshot {
            let detail = "a feed of a pattern has no snapshot: which swamps there are is not known without a search";
            return Err(Error::new(ErrorCode::InvalidParameter, detail)
                .with_hint("name the swamps, or read those you need after the event live"));
        }
        let keeps = shared.policies.default.change_log;
        let channel = shared.hub.join_pattern(shared, pattern, keeps)?;
        let mut feed = Feed::new(shared, Topic::Pattern(pattern.clone()), channel, options);
        for resident in shared.residents.all().iter().filter(|resident| pattern.matches(resident.name())) {
            shared.hub.attach_pattern(shared, resident, &feed.parts[0].channel);
        }
        if feed.has_reset(options) {
            feed.has_opening = true;
            feed.opening.push_back(Opening { swamp: None, is_reset: true, rows: Arc::new([]) });
        } else if options.since.is_none() {
            // It begins when all that is in memory belongs to it.
            feed.begin_at(shared.hub.now());
        }
        Ok(feed)
    }

    fn new(shared: &Arc<Shared>, topic: Topic, channel: Arc<Channel>, options: &FeedOptions) -> Feed {
        let now = shared.hub.now();
        let listener = shared.hub.new_listener();
        Feed {
            shared: Arc::downgrade(shared),
            incarnation: shared.root.incarnation,
            parts: vec![Part { topic, channel, listener, position: now }],
            prefix: options.prefix.clone(),
            old: options.old,
            opening: VecDeque::new(),
            taken: VecDeque::new(),
            rows: None,
            live_at: now,
            is_live: false,
            has_opening: false,
            is_ended: false,
        }
    }

    /// Goes on where the options say, if that is known; answers whether it is not.
    fn has_reset(&mut self, options: &FeedOptions) -> bool {
        let Some(since) = options.since else { return false };
        let part = &mut self.parts[0];
        let is_known = since.incarnation == self.incarnation && since.n <= self.live_at && part.channel.knows(since.n);
        if is_known {
            part.position = since.n;
        }
        !is_known
    }

    fn begin_at(&mut self, n: u64) {
        self.live_at = n;
        self.parts.iter_mut().for_each(|part| part.position = n);
    }

    /// One feed of many, opened with the same options: their events in the order in which they came, each with its
    /// swamp. An id goes on in the feed of the same swamps.
    #[must_use]
    pub fn merge(feeds: impl IntoIterator<Item = Feed>) -> Option<Feed> {
        let mut feeds = feeds.into_iter();
        let mut whole = feeds.next()?;
        for mut feed in feeds {
            whole.parts.append(&mut feed.parts);
            whole.opening.append(&mut feed.opening);
            whole.live_at = whole.live_at.max(feed.live_at);
            whole.has_opening |= feed.has_opening;
        }
        Some(whole)
    }

    /// The next event, `None` at the end. The waker of the last call is woken when there may be one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<FeedEvent>> {
        loop {
            if let Some(event) = self.next_row() {
                return Poll::Ready(Some(event));
            }
            if let Some(opening) = self.opening.pop_front() {
                if let Some(event) = self.begin(opening) {
                    return Poll::Ready(Some(event));
                }
                continue;
            }
            if self.is_ended {
                return Poll::Ready(None);
            }
            let is_behind = self.taken.front().is_some_and(|entry| entry.n <= self.live_at);
            if !self.is_live && !is_behind && self.has_caught_up() {
                self.is_live = true;
                return Poll::Ready(Some(self.about_feed(Some(self.live_at), EventKind::Live)));
            }
            if let Some(entry) = self.taken.pop_front() {
                if let Some(event) = self.event_of(entry) {
                    return Poll::Ready(Some(event));
                }
                continue;
            }
            match self.fill(context.waker()) {
                Fill::Something => {}
                Fill::Nothing => return Poll::Pending,
                Fill::Lagged => {
                    self.is_ended = true;
                    return Poll::Ready(Some(self.about_feed(None, EventKind::Lagged)));
                }
                Fill::Closed => self.is_ended = true,
            }
        }
    }

    /// The next event, `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<FeedEvent> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next event, for threads: waits at most so long. `None` also at the end, see [`Feed::is_ended`].
    pub fn wait(&mut self, at_most: Duration) -> Option<FeedEvent> {
        let until = Instant::now() + at_most;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            match self.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(event) => return event,
                Poll::Pending => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    std::thread::park_timeout(left);
                }
            }
        }
    }

    /// Whether there will be no more events: the reader lagged behind, or the engine was closed.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether all that happened until the feed was opened was taken.
    fn has_caught_up(&self) -> bool {
        self.parts.iter().all(|part| part.position >= self.live_at)
    }

    fn begin(&mut self, opening: Opening) -> Option<FeedEvent> {
        let Opening { swamp, is_reset, rows } = opening;
        self.rows = Some(Rows { swamp: swamp.clone(), rows, next: 0, then_live: None });
        let kind = EventKind::Reset { reason: UNKNOWN.to_owned() };
        is_reset.then(|| FeedEvent { id: None, swamp, at: Timestamp::now(), kind })
    }

    /// The next treasure of a snapshot that is under way.
    fn next_row(&mut self) -> Option<FeedEvent> {
        let rows = self.rows.as_mut()?;
        let now = Timestamp::now();
        while let Some(row) = rows.rows.get(rows.next) {
            rows.next += 1;
            let is_wanted = self.prefix.as_deref().is_none_or(|prefix| row.slot.key().starts_with(prefix));
            // What has expired meanwhile is told as such, later.
            if let Some(treasure) = row.as_known().treasure(now).filter(|_| is_wanted) {
                let kind = EventKind::Put { treasure, old: None };
                return Some(FeedEvent { id: None, swamp: rows.swamp.clone(), at: now, kind });
            }
        }
        let then_live = rows.then_live;
        self.rows = None;
        then_live.map(|n| self.about_feed(Some(n), EventKind::Live))
    }

    fn about_feed(&self, n: Option<u64>, kind: EventKind) -> FeedEvent {
        FeedEvent { id: n.map(|n| self.id(n)), swamp: None, at: Timestamp::now(), kind }
    }

    fn id(&self, n: u64) -> EventId {
        EventId { incarnation: self.incarnation, n }
    }

    /// The event of a change; `None` when it is not asked for.
    fn event_of(&mut self, entry: Entry) -> Option<FeedEvent> {
        let Entry { n, at, swamp, change } = entry;
        let is_wanted = |prefix: &String| change.key().is_none_or(|key| key.starts_with(prefix.as_str()));
        if !self.prefix.as_ref().is_none_or(is_wanted) {
            return None;
        }
        let swamp = Some(swamp);
        let old = |before: &Option<KeyState>| before.as_ref().filter(|_| self.old).and_then(whole);
        let kind = match &*change {
            Change::Put { after, before } => EventKind::Put { treasure: whole(after)?, old: old(before) },
            Change::Delete { key, version, before } => {
                EventKind::Delete { key: key.to_string(), version: *version, old: old(before) }
            }
            Change::Expire { key, before } => EventKind::Expire { key: key.to_string(), old: old(before) },
            Change::Destroy => EventKind::Destroy,
            Change::Reset(rows) => {
                let then_live = self.is_live.then_some(n);
                self.rows = Some(Rows { swamp: swamp.clone(), rows: Arc::clone(rows), next: 0, then_live });
                return Some(FeedEvent { id: None, swamp, at, kind: EventKind::Reset { reason: CHANGED.to_owned() } });
            }
        };
        let is_place = n > self.live_at || !self.has_opening;
        Some(FeedEvent { id: is_place.then(|| self.id(n)), swamp, at, kind })
    }

    /// Takes what came from all channels, in order.
    fn fill(&mut self, waker: &Waker) -> Fill {
        let Some(shared) = self.shared.upgrade() else { return Fill::Closed };
        // Whatever has a number up to this is in its channel as soon as that can be locked.
        let mut high = shared.hub.now();
        let (mut taken, mut is_more) = (Vec::new(), false);
        for part in &self.parts {
            match part.channel.take(part.position, high, part.listener, waker) {
                Taken::Entries(entries, more) => {
                    if let Some(last) = entries.last().filter(|_| more) {
                        high = high.min(last.n);
                    }
                    is_more |= more;
                    taken.extend(entries);
                }
                Taken::Lagged => return Fill::Lagged,
                Taken::Closed => return Fill::Closed,
            }
        }
        taken.retain(|entry| entry.n <= high);
        taken.sort_unstable_by_key(|entry| entry.n);
        for part in &mut self.parts {
            part.position = part.position.max(high);
        }
        let is_something = is_more || !taken.is_empty() || !self.is_live;
        self.taken.extend(taken);
        if is_something { Fill::Something } else { Fill::Nothing }
    }
}

enum Fill {
    Something,
    Nothing,
    Lagged,
    Closed,
}

/// The treasure of a key state, expired or not.
fn whole(state: &KeyState) -> Option<Treasure> {
    state.as_known().treasure(Timestamp::default())
}

impl Drop for Feed {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        for part in &self.parts {
            shared.hub.leave(&shared, &part.topic, &part.channel, part.listener);
        }
    }
}

/// Done when something changes in a swamp: any write, merge or expiry that becomes visible after it was made, or the
/// end of the engine. It keeps no swamp in memory.
///
/// Make it first, then look at the swamp, then await it: so nothing is missed.
#[derive(Debug)]
#[must_use = "nothing is waited for until it is awaited"]
pub struct Changed {
    shared: Weak<Shared>,
    part: Part,
}

impl Changed {
    pub(crate) fn of(resident: &Resident) -> Result<Changed> {
        let shared = &resident.shared;
        let name = resident.name();
        let mut state = resident.state.write();
        let channel = shared.hub.join(shared, name, None, &mut state)?;
        let position = shared.hub.now();
        drop(state);
        shared.hub.poll_soon(shared);
        let part = Part { topic: Topic::Swamp(name.clone()), channel, listener: shared.hub.new_listener(), position };
        Ok(Changed { shared: Arc::downgrade(shared), part })
    }
}

impl Changed {
    /// Whether something has changed; where nothing has, the waker of the context is woken then.
    pub(crate) fn poll_ready(&self, context: &Context<'_>) -> bool {
        let Part { channel, listener, position, .. } = &self.part;
        channel.has_news(*position, *listener, context.waker())
    }
}

impl Future for Changed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_ready(context) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.hub.leave(&shared, &self.part.topic, &self.part.channel, self.part.listener);
        }
    }
}

/// Wakes a thread.
pub(crate) struct Unpark(pub(crate) std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
