//! What a subscription tells: [`Event`], typed, and the stream of them that survives broken connections.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::{self, SelectAll, StreamExt};
use hydra_core::{EventId, FeedEvent, Pattern, SwampName, Timestamp, Value, Version};
use serde::de::DeserializeOwned;

use crate::client::Hydra;
use crate::cluster::CallOptions;
use crate::delay::Delays;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::treasure::Treasure;

/// Something that happened in a swamp.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event<V> {
    /// Where to go on behind it, see [`Subscribe::since`](crate::Subscribe::since); `None` while a snapshot is not
    /// complete.
    pub id: Option<EventId>,
    /// The swamp it happened in, where several are listened to; `None` when it is about a server's whole feed.
    pub swamp: Option<SwampName>,
    /// When it was told, by the clock of the server.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind<V>,
}

/// What happened. Whoever applies it to an empty map holds what the swamp holds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind<V> {
    /// A treasure was put or added to, or is part of a snapshot.
    Put {
        /// The treasure now.
        treasure: Treasure<V>,
        /// What was there before, where that was asked for.
        old: Option<Treasure<V>>,
    },
    /// A treasure was removed.
    Delete {
        /// Its key.
        key: String,
        /// The version of the removal, where it left a mark.
        version: Option<Version>,
        /// What was removed, where that was asked for.
        old: Option<Treasure<V>>,
    },
    /// A treasure has expired.
    Expire {
        /// Its key.
        key: String,
        /// What has expired, where that was asked for.
        old: Option<Treasure<V>>,
    },
    /// The swamp was destroyed: it holds nothing now.
    Destroy,
    /// What came before counts no more: forget it. A snapshot follows, unless the feed is one of a pattern.
    Reset {
        /// Why, in words.
        reason: String,
    },
    /// What was there is told; from here on events come as things happen.
    Live,
}

/// How a wait for one treasure ended, see [`Swamp::wait`](crate::Swamp::wait).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Waited<V> {
    /// There is another treasure than the one known.
    Put(Treasure<V>),
    /// There is none any more.
    Gone,
    /// Nothing changed in time.
    Unchanged,
}

/// What a subscription asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    pub(crate) since: Option<EventId>,
    pub(crate) snapshot: bool,
    pub(crate) prefix: Option<String>,
    pub(crate) keys_only: bool,
    pub(crate) old: bool,
}

/// What is listened to.
#[derive(Debug, Clone)]
pub(crate) enum Topic {
    Swamp(SwampName, CallOptions),
    /// What changes at a server, or in this process, in the swamps that match.
    Pattern(Pattern, Option<String>),
}

/// The events of one connection.
pub(crate) type RawFeed = Pin<Box<dyn Stream<Item = Result<Event<Value>>> + Send>>;

impl Event<Value> {
    /// An event of the engine; `None` where the reader lagged behind.
    pub(crate) fn of(event: FeedEvent, keys_only: bool) -> Option<Event<Value>> {
        let shown = |mut treasure: hydra_core::Treasure| {
            if keys_only {
                treasure.value = Value::json("null").unwrap_or(treasure.value);
            }
            Treasure::from(treasure)
        };
        let kind = match event.kind {
            hydra_core::EventKind::Put { treasure, old } => {
                EventKind::Put { treasure: shown(treasure), old: old.map(shown) }
            }
            hydra_core::EventKind::Delete { key, version, old } => {
                EventKind::Delete { key, version, old: old.map(shown) }
            }
            hydra_core::EventKind::Expire { key, old } => EventKind::Expire { key, old: old.map(shown) },
            hydra_core::EventKind::Destroy => EventKind::Destroy,
            hydra_core::EventKind::Reset { reason } => EventKind::Reset { reason },
            hydra_core::EventKind::Live => EventKind::Live,
            _ => return None,
        };
        Some(Event { id: event.id, swamp: event.swamp, at: event.at, kind })
    }

    fn decode<V: DeserializeOwned>(self) -> Result<Event<V>> {
        let old = |old: Option<Treasure<Value>>| old.map(Treasure::decode).transpose();
        let kind = match self.kind {
            EventKind::Put { treasure, old: before } => {
                EventKind::Put { treasure: treasure.decode()?, old: old(before)? }
            }
            EventKind::Delete { key, version, old: before } => EventKind::Delete { key, version, old: old(before)? },
            EventKind::Expire { key, old: before } => EventKind::Expire { key, old: old(before)? },
            EventKind::Destroy => EventKind::Destroy,
            EventKind::Reset { reason } => EventKind::Reset { reason },
            EventKind::Live => EventKind::Live,
        };
        Ok(Event { id: self.id, swamp: self.swamp, at: self.at, kind })
    }
}

impl Waited<Value> {
    pub(crate) fn decode<V: DeserializeOwned>(self) -> Result<Waited<V>> {
        Ok(match self {
            Waited::Put(treasure) => Waited::Put(treasure.decode()?),
            Waited::Gone => Waited::Gone,
            Waited::Unchanged => Waited::Unchanged,
        })
    }
}

/// The events of a subscription, as a [`Stream`]; dropping it ends the subscription.
///
/// It connects when it is first polled, and again whenever the connection breaks, after a pause that grows up to 1 s.
/// It goes on exactly where it was if the server still knows; otherwise, and always at another server, it begins anew
/// with [`EventKind::Reset`] and a snapshot. It ends after an error that asking again would not change. A value of
/// another shape than `V` is an error, too ([`ErrorKind::Decode`](crate::ErrorKind::Decode)), but not the end.
pub struct EventStream<V>(Pin<Box<dyn Stream<Item = Result<Event<V>>> + Send>>);

impl<V: DeserializeOwned + Send + 'static> EventStream<V> {
    pub(crate) fn new(hydra: Hydra, name: SwampName, wanted: Subscription, options: CallOptions) -> EventStream<V> {
        let events = Following::new(hydra, Topic::Swamp(name, options), wanted).stream();
        EventStream(Box::pin(events.map(|event| event.and_then(Event::decode))))
    }

    /// The events of every server.
    pub(crate) fn of_many(hydra: Hydra, pattern: Pattern, wanted: Subscription) -> EventStream<V> {
        let everywhere =
            Everywhere { hydra, pattern, wanted, heard: Vec::new(), feeds: SelectAll::new(), is_over: false };
        let events = stream::unfold(everywhere, |mut everywhere| async move {
            let event = everywhere.next().await?;
            Some((event.and_then(Event::decode), everywhere))
        });
        EventStream(Box::pin(events))
    }
}

impl<V> Stream for EventStream<V> {
    type Item = Result<Event<V>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<V> fmt::Debug for EventStream<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

/// A subscription over one connection after the other.
struct Following {
    hydra: Hydra,
    topic: Topic,
    wanted: Subscription,
    feed: Option<RawFeed>,
    delays: Delays,
    /// Events were told, and none of them is a place to go on from.
    has_begun: bool,
    is_over: bool,
}

impl Following {
    fn new(hydra: Hydra, topic: Topic, wanted: Subscription) -> Following {
        Following { hydra, topic, wanted, feed: None, delays: Delays::new(), has_begun: false, is_over: false }
    }

    fn stream(self) -> impl Stream<Item = Result<Event<Value>>> + Send {
        stream::unfold(self, |mut following| async move { Some((following.next().await?, following)) })
    }

    async fn next(&mut self) -> Option<Result<Event<Value>>> {
        while !self.is_over {
            let Some(feed) = &mut self.feed else {
                if self.is_gone() {
                    return None;
                }
                match self.hydra.endpoint().subscribe(&self.topic, &self.wanted).await {
                    Ok(feed) => self.feed = Some(feed),
                    Err(error) if self.may_try_again(&error) => tokio::time::sleep(self.delays.next()).await,
                    Err(error) => return Some(Err(self.end(error))),
                }
                if self.feed.is_some() && std::mem::take(&mut self.has_begun) {
                    // Its snapshot comes a second time, without what was removed meanwhile.
                    let kind = EventKind::Reset { reason: "the connection broke within the snapshot".to_owned() };
                    return Some(Ok(Event { id: None, swamp: None, at: Timestamp::now(), kind }));
                }
                continue;
            };
            match feed.next().await {
                Some(Ok(event)) => {
                    self.delays = Delays::new();
                    self.wanted.since = event.id.or(self.wanted.since);
                    self.has_begun = self.wanted.since.is_none();
                    return Some(Ok(event));
                }
                Some(Err(error)) if !self.may_try_again(&error) => return Some(Err(self.end(error))),
                Some(Err(_)) | None => {
                    self.feed = None;
                    tokio::time::sleep(self.delays.next()).await;
                }
            }
        }
        None
    }

    /// Whether the server is in the map no more.
    fn is_gone(&self) -> bool {
        matches!(&self.topic, Topic::Pattern(_, server) if !self.hydra.endpoint().places().contains(server))
    }

    /// An engine in this process that refuses is closed; a server may come back.
    fn may_try_again(&self, error: &Error) -> bool {
        error.is_retryable() && matches!(self.hydra.endpoint(), Endpoint::Remote(_))
    }

    fn end(&mut self, error: Error) -> Error {
        self.is_over = true;
        self.feed = None;
        error
    }
}

/// How often a look at the map tells of new servers, while somebody listens.
const LOOK: Duration = Duration::from_secs(1);

/// The feeds of a pattern, one of every server.
struct Everywhere {
    hydra: Hydra,
    pattern: Pattern,
    wanted: Subscription,
    /// The servers that are listened to.
    heard: Vec<Option<String>>,
    feeds: SelectAll<RawFeed>,
    is_over: bool,
}

impl Everywhere {
    async fn next(&mut self) -> Option<Result<Event<Value>>> {
        while !self.is_over {
            self.listen();
            if self.feeds.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            match tokio::time::timeout(LOOK, self.feeds.next()).await {
                Ok(Some(Ok(event))) => return Some(Ok(event)),
                Ok(Some(Err(error))) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
                Ok(None) | Err(_) => {}
            }
        }
        None
    }

    /// Listens to the servers that the map has by now.
    fn listen(&mut self) {
        let places = self.hydra.endpoint().places();
        self.heard.retain(|server| places.contains(server));
        for server in places {
            if !self.heard.contains(&server) {
                let topic = Topic::Pattern(self.pattern.clone(), server.clone());
                self.feeds.push(Box::pin(Following::new(self.hydra.clone(), topic, self.wanted.clone()).stream()));
                self.heard.push(server);
            }
        }
    }
}
