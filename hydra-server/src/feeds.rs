//! Change feeds: `GET /v1/swamps/{S}/events`, and `GET /v1/events` for many swamps.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use hydra_core::duration::{format_duration, parse_duration};
use hydra_core::wire::{FEED_PARAMETERS, FeedFormat, FeedTopic};
use hydra_core::{Error, Feed, FeedOptions, SwampName};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::answer::{self, Response};
use crate::app::Call;
use crate::auth::{Need, Scope};
use crate::conditions::{self, single};
use crate::config::{DEFAULT_HEARTBEAT, HEARTBEATS};
use crate::event::Shape;
use crate::head::Headers;
use crate::ndjson;
use crate::query::{Query, invalid};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Events are sent together up to about so many bytes.
const PIECE: usize = 32 << 10;

/// The changes of one swamp, as they happen.
pub(crate) async fn swamp(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let wanted = Wanted::of(&call.head.headers, &Query::parse(call.head.uri.query(), FEED_PARAMETERS)?)?;
    if call.head.method == Method::HEAD {
        return Ok(wanted.head(Body::empty()));
    }
    let room = call.app.streams.enter()?;
    let feed = call.swamp(name).await?.subscribe(&wanted.options)?;
    let shape = Shape { names_swamps: false, ..wanted.shape };
    Ok(wanted.answer(call, feed, shape, room))
}

/// The changes of many swamps of this server: those that are named, or all that match a pattern.
pub(crate) async fn many(call: &mut Call) -> Result<Response, Error> {
    let (topic, query) = FeedTopic::parse(call.head.uri.query())?;
    let wanted = Wanted::of(&call.head.headers, &query)?;
    may_follow(call, &topic)?;
    if call.head.method == Method::HEAD {
        return Ok(wanted.head(Body::empty()));
    }
    let room = call.app.streams.enter()?;
    let feed = match topic {
        FeedTopic::Pattern(pattern) => call.app.engine.subscribe_pattern(&pattern, &wanted.options)?,
        FeedTopic::Swamps(names) => {
            let mut feeds = Vec::with_capacity(names.len());
            for name in &names {
                feeds.push(call.swamp(name).await?.subscribe(&wanted.options)?);
            }
            Feed::merge(feeds).ok_or_else(|| invalid("swamp", "is missing"))?
        }
    };
    let shape = wanted.shape;
    Ok(wanted.answer(call, feed, shape, room))
}

/// Whether the client may read all that the feed is about, and whether it is here.
fn may_follow(call: &Call, topic: &FeedTopic) -> Result<(), Error> {
    match topic {
        FeedTopic::Pattern(pattern) => call.access.check(&Need::on_pattern(&[Scope::Read], pattern)),
        FeedTopic::Swamps(names) => {
            names.iter().try_for_each(|name| call.may(&[Scope::Read], name))?;
            names.iter().try_for_each(|name| call.has_folder_of(name))
        }
    }
}

/// What a request asks of a feed.
struct Wanted {
    options: FeedOptions,
    shape: Shape,
    heartbeat: Duration,
}

impl Wanted {
    fn of(headers: &Headers, query: &Query<'_>) -> Result<Wanted, Error> {
        let mut options = FeedOptions::default();
        // A browser that comes back asks for the same target, and says in the header where it was.
        options.since = match single(headers, &LAST_EVENT_ID)?.filter(|id| !id.is_empty()) {
            Some(id) => Some(id.parse().map_err(|error: Error| conditions::invalid("Last-Event-ID", error.detail()))?),
            None => query.value("since", "the id of an event of this feed")?,
        };
        options.snapshot = query.flag("snapshot")?;
        options.prefix = query.text("prefix").map(str::to_owned);
        options.old = query.flag("old")?;
        let shape = Shape { format: accepted(headers), keys_only: query.flag("keys_only")?, names_swamps: true };
        Ok(Wanted { options, shape, heartbeat: heartbeat(query)? })
    }

    /// The head of the answer at once, then events as they come.
    fn answer(&self, call: &Call, feed: Feed, shape: Shape, room: OwnedSemaphorePermit) -> Response {
        let folder = call.folder.map(|folder| format!(", folder {folder}")).unwrap_or_default();
        self.head(Body::from_stream(Events {
            feed,
            shape,
            greeting: shape.comment(&format!("hydra stream{folder}")),
            heartbeat: self.heartbeat,
            beat: Box::pin(sleep(self.heartbeat)),
            ended: Box::pin(call.app.streams.ended()),
            _room: room,
        }))
    }

    fn head(&self, body: Body) -> Response {
        let mut response = answer::empty(StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.shape.format.content_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies that gather answers would keep events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        *response.body_mut() = body;
        response
    }
}

/// Lines where they are asked for, else server-sent events.
fn accepted(headers: &Headers) -> FeedFormat {
    if ndjson::is_wanted(headers) { FeedFormat::Lines } else { FeedFormat::Sse }
}

fn heartbeat(query: &Query<'_>) -> Result<Duration, Error> {
    let Some(text) = query.text("heartbeat") else { return Ok(DEFAULT_HEARTBEAT) };
    let [least, most] = HEARTBEATS;
    let allowed = format!("allowed is {} to {}", format_duration(least), format_duration(most));
    match parse_duration(text) {
        Ok(heartbeat) if (least..=most).contains(&heartbeat) => Ok(heartbeat),
        Ok(heartbeat) => Err(invalid("heartbeat", &format!("is {}; {allowed}", format_duration(heartbeat)))),
        Err(error) => Err(invalid("heartbeat", &format!("is wrong: {}; {allowed}", error.detail()))),
    }
}

/// The body of a feed. hyper polls it only while the peer takes what is sent, and drops it when the peer is gone.
struct Events {
    feed: Feed,
    shape: Shape,
    /// Sent at once, so that the client knows that it is connected.
    greeting: Bytes,
    heartbeat: Duration,
    beat: Pin<Box<Sleep>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _room: OwnedSemaphorePermit,
}

impl Stream for Events {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.greeting.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.greeting))));
        }
        if self.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let mut piece = Vec::new();
        let is_over = loop {
            match self.feed.poll_next(context) {
                Poll::Ready(Some(event)) => self.shape.write(&mut piece, &event),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
            if piece.len() >= PIECE {
                break false;
            }
        };
        if piece.is_empty() && is_over {
            return Poll::Ready(None);
        }
        if piece.is_empty() {
            if self.beat.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            piece = self.shape.comment("").to_vec();
        }
        let next = Instant::now() + self.heartbeat;
        self.beat.as_mut().reset(next);
        Poll::Ready(Some(Ok(piece.into())))
    }
}

#[cfg(test)]
mod tests {
    use hydra_core::ErrorCode;

    use super::*;

    #[test]
    fn heartbeats_are_refused_beyond_their_limits() {
        let of = |text: &str| heartbeat(&Query::parse(Some(text), &["heartbeat"]).expect("reads"));
        assert_eq!(of("").expect("the default"), DEFAULT_HEARTBEAT);
        assert_eq!(of("heartbeat=1s").expect("the least"), Duration::from_secs(1));
        for bad in ["heartbeat=0", "heartbeat=26s", "heartbeat=soon"] {
            assert_eq!(of(bad).expect_err(bad).code(), ErrorCode::InvalidParameter);
        }
    }
}
