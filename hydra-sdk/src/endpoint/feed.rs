//! The changes of a swamp on a server: one connection, read line by line, and the long poll for one treasure.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyDataStream, BodyExt, Collected};
use hydra_core::duration::format_duration;
use hydra_core::wire::{ABSENT_VERSION, EventBody, NDJSON, TreasureBody, events_path, treasure_path};
use hydra_core::{SwampName, Value, Version};
use reqwest::{Body, Method};

use super::remote::{Found, from_body, treasure_of, unreadable};
use crate::cluster::{CallOptions, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, RawFeed, Subscription, Topic, Waited};
use crate::failover::Answered;
use crate::outcome::{Answer, AnswerBody};
use crate::request::{Request, with_query};
use crate::server::Server;
use crate::settings::OpClass;
use crate::treasure::Treasure;

/// The event after which a server ends a feed: it goes on with the next connection.
const LAGGED: &str = "lagged";
/// How long a server may be silent. It gives a sign of life every 15 s.
const LONGEST_SILENCE: Duration = Duration::from_secs(40);
/// The longest a server is asked to wait at once.
const LONGEST_WAIT: Duration = Duration::from_secs(50);
/// The longest line: two of the longest values as base64, with room for what stands around them.
const LONGEST_LINE: usize = 80 << 20;

impl Cluster {
    pub(super) async fn subscribe(self: Arc<Self>, topic: &Topic, wanted: &Subscription) -> Result<RawFeed> {
        let switch = |name, is_on: bool| is_on.then(|| (name, "true".to_owned()));
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(wanted.since.map(|since| ("since", since.to_string())));
        query.extend(wanted.prefix.clone().map(|prefix| ("prefix", prefix)));
        query.extend(switch("snapshot", wanted.snapshot));
        query.extend(switch("keys_only", wanted.keys_only));
        query.extend(switch("old", wanted.old));
        let path = match topic {
            Topic::Swamp(name, _) => events_path(name),
            Topic::Pattern(pattern, _) => {
                query.push(("pattern", pattern.to_string()));
                "/v1/events".to_owned()
            }
        };
        let request = Request::new(OpClass::Read, Method::GET, with_query(path, &query));
        let request = Request { collect: false, ..request.header("accept", NDJSON) };
        let (answer, asked) = match topic {
            Topic::Swamp(name, options) => {
                // A copy tells only what is copied, so it is listened to only while the primary is away.
                let options = CallOptions { primary_first: true, ..options.clone() };
                let Answered { answer, server, .. } = self.call(name, &request, &options).await?;
                (answer, Some((name.clone(), server)))
            }
            Topic::Pattern(_, server) => (self.ask_known(server.as_deref().unwrap_or_default(), &request).await?, None),
        };
        let is_stale = answer.is_stale();
        let body = match answer.body {
            AnswerBody::Open(body) if answer.status == 200 => body,
            _ => return Err(refused(answer).await),
        };
        let lines = Lines { pieces: body.into_data_stream(), buffer: Vec::new(), searched: 0 };
        let reading = Reading { cluster: self, asked, lines, is_stale };
        Ok(Box::pin(stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await? {
                Ok(event) => Some((Ok(event), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    pub(super) async fn wait(
        &self,
        name: &SwampName,
        key: &str,
        known: Option<&Version>,
        at_most: Duration,
        options: &CallOptions,
    ) -> Result<Waited<Value>> {
        let until = tokio::time::Instant::now() + at_most;
        let tag = known.map_or_else(|| format!("\"{ABSENT_VERSION}\""), |version| format!("\"{version}\""));
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            // Whole milliseconds, which is what a server can be asked for.
            let wait = Duration::from_millis(left.min(LONGEST_WAIT).as_millis() as u64);
            let target = with_query(treasure_path(name, key), &[("wait", format_duration(wait))]);
            let request = Request::new(OpClass::Read, Method::GET, target).header("if-none-match", &tag);
            let options = CallOptions { patience: wait, primary_first: true, ..options.clone() };
            let Answered { answer, .. } = self.call(name, &request, &options).await?;
            match answer.status {
                304 if left > LONGEST_WAIT => {}
                304 => return Ok(Waited::Unchanged),
                _ => {
                    return Ok(match Found::of(&answer)? {
                        Found::Something => Waited::Put(treasure_of(key, &answer)?),
                        Found::Nothing => Waited::Gone,
                    });
                }
            }
        }
    }
}

/// The error of an answer that is no feed.
async fn refused(answer: Answer) -> Error {
    let Answer { status, headers, body } = answer;
    let body = match body {
        AnswerBody::Open(body) => AnswerBody::Whole(body.collect().await.map(Collected::to_bytes).unwrap_or_default()),
        body => body,
    };
    Answer { status, headers, body }.to_error()
}

/// A feed under way.
struct Reading {
    cluster: Arc<Cluster>,
    /// Where the feed is of one swamp: that, and who was asked.
    asked: Option<(SwampName, Arc<Server>)>,
    lines: Lines,
    is_stale: bool,
}

impl Reading {
    /// The next event; nothing where this connection ends or should be left.
    async fn next(&mut self) -> Option<Result<Event<Value>>> {
        loop {
            let line = match self.lines.next().await? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            if line.is_empty() {
                if self.asked.as_ref().is_some_and(|(name, server)| self.cluster.primary_is_back(name, server)) {
                    return None;
                }
                continue;
            }
            let body = match serde_json::from_slice::<EventBody>(&line) {
                Ok(body) => body,
                Err(error) => return Some(Err(unreadable(&error.to_string()))),
            };
            if body.event == LAGGED {
                return None;
            }
            // What else a newer server tells is not known here.
            if let Some(event) = event_of(body, self.is_stale).transpose() {
                return Some(event);
            }
        }
    }
}

/// The event of a line; `None` for a kind that is not known.
fn event_of(body: EventBody, is_stale: bool) -> Result<Option<Event<Value>>> {
    let id = body.id.as_deref().map(str::parse).transpose().map_err(Error::from)?;
    let missing = || unreadable("an event without its members");
    let old = body.old.map(|old| treasure(old, is_stale)).transpose()?;
    let kind = match body.event.as_str() {
        "put" => {
            let treasure = treasure(
                TreasureBody {
                    key: body.key.ok_or_else(missing)?,
                    value: body.value,
                    version: body.version.ok_or_else(missing)?,
                    created_at: body.created_at.ok_or_else(missing)?,
                    updated_at: body.updated_at.ok_or_else(missing)?,
                    expires_at: body.expires_at,
                },
                is_stale,
            )?;
            EventKind::Put { treasure, old }
        }
        "delete" => EventKind::Delete { key: body.key.ok_or_else(missing)?, version: body.version, old },
        "expire" => EventKind::Expire { key: body.key.ok_or_else(missing)?, old },
        "destroy" => EventKind::Destroy,
        "reset" => EventKind::Reset { reason: body.reason.unwrap_or_default() },
        "live" => EventKind::Live,
        _ => return Ok(None),
    };
    let swamp = body.swamp.map(|name| name.parse()).transpose().map_err(Error::from)?;
    Ok(Some(Event { id, swamp, at: body.at, kind }))
}

/// A treasure of an event; without a value where only keys were asked for.
fn treasure(body: TreasureBody, is_stale: bool) -> Result<Treasure<Value>> {
    let null = || serde_json::value::RawValue::from_string("null".to_owned()).ok();
    from_body(TreasureBody { value: body.value.or_else(null), ..body }, is_stale)
}

/// An answer as lines.
struct Lines {
    pieces: BodyDataStream<Body>,
    buffer: Vec<u8>,
    /// So much of the buffer has no line break.
    searched: usize,
}

impl Lines {
    async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Some(Ok(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                return Some(Err(unreadable("an event that never ends")));
            }
            match tokio::time::timeout(LONGEST_SILENCE, self.pieces.next()).await {
                Ok(Some(Ok(piece))) => self.buffer.extend_from_slice(&piece),
                Ok(Some(Err(error))) => {
                    return Some(Err(Error::new(ErrorKind::Network, crate::outcome::describe(&error))));
                }
                Ok(None) => return None,
                Err(_) => return Some(Err(Error::new(ErrorKind::Timeout, "the server fell silent in its feed"))),
            }
        }
    }
}
