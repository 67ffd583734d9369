//! Feeds of many swamps: `GET /v1/events`.
//!
//! Where one server answers for all of them, its feed is passed on as it is. Otherwise the feeds of several servers
//! become one: record by record, as they come. Each goes on by itself from the last id it told when its connection
//! breaks, and what a server cannot go on with it tells as `reset`, so there is no silent gap.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, SelectAll, Stream, StreamExt};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use hydra_core::wire::{FEED_PARAMETERS, FeedFormat, FeedTopic, NDJSON, with_parameters};
use hydra_core::{Error, ErrorCode, SwampName, Timestamp};
use hydra_sdk::{ClientMap, ForwardedBody, OpClass};
use serde::Deserialize;

use crate::across::{Across, refusal_of};
use crate::answer::{self, Refusal, Response};
use crate::fan_out::routed;
use crate::gateway::{Gateway, Head};
use crate::stream::{accepts, answer_of};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// No event is longer: the longest binary value twice, as it is and as it was, and some room.
const LONGEST_RECORD: usize = 80 << 20;
/// How long a server may take to begin its feed, which it does at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a server is asked again whose feed broke off.
const PAUSE: Duration = Duration::from_millis(500);

/// What a request for a feed asks.
#[derive(Debug)]
pub(crate) struct Wanted {
    topic: FeedTopic,
    format: FeedFormat,
    /// The parameters that every server gets: all but the names. A browser that comes back asks for the same target, and
    /// says in a header where it was.
    parameters: Vec<(&'static str, String)>,
}

impl Wanted {
    /// # Errors
    /// Those of [`FeedTopic::parse`].
    pub(crate) fn of(head: &Head) -> Result<Wanted, Error> {
        let (topic, query) = FeedTopic::parse(head.parts.uri.query())?;
        let sent = FEED_PARAMETERS.iter().filter_map(|&name| Some((name, query.text(name)?.to_owned())));
        let mut parameters: Vec<(&'static str, String)> = sent.collect();
        let headers = &head.parts.headers;
        let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        if let Some(id) = last {
            set(&mut parameters, "since", id);
        }
        if let FeedTopic::Pattern(pattern) = &topic {
            parameters.push(("pattern", pattern.to_string()));
        }
        let format = if accepts(headers, NDJSON) { FeedFormat::Lines } else { FeedFormat::Sse };
        Ok(Wanted { topic, format, parameters })
    }

    /// A name whose server answers for all of it, if there is one.
    pub(crate) fn one_place(&self, map: &ClientMap) -> Option<&SwampName> {
        match (&self.topic, &places(&self.topic, map)[..]) {
            (FeedTopic::Swamps(names), [_]) => names.first(),
            _ => None,
        }
    }
}

fn set(parameters: &mut Vec<(&'static str, String)>, name: &'static str, value: &str) {
    parameters.retain(|(known, _)| *known != name);
    parameters.push((name, value.to_owned()));
}

/// Whom to ask for which part of a feed.
fn places(topic: &FeedTopic, map: &ClientMap) -> Vec<Place> {
    match topic {
        FeedTopic::Pattern(_) => routed(map).into_iter().map(|server| Place::Server(server.to_owned())).collect(),
        FeedTopic::Swamps(names) => {
            let mut by_server: BTreeMap<&str, Vec<SwampName>> = BTreeMap::new();
            for name in names {
                by_server.entry(&map.route(name).primary().id).or_default().push(name.clone());
            }
            by_server.into_values().map(Place::OfSwamps).collect()
        }
    }
}

/// Who tells a part of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// This server, whatever it tells.
    Server(String),
    /// Whoever answers for these swamps.
    OfSwamps(Vec<SwampName>),
}

/// The length of the first whole record.
fn end_of_record(format: FeedFormat, bytes: &[u8], searched: usize) -> Option<usize> {
    match format {
        FeedFormat::Lines => bytes[searched..].iter().position(|&byte| byte == b'\n').map(|at| searched + at + 1),
        FeedFormat::Sse => {
            // The end may have come in two pieces.
            let from = searched.saturating_sub(1);
            bytes[from..].windows(2).position(|pair| pair == b"\n\n").map(|at| from + at + 2)
        }
    }
}

/// What is known of a record without a look at its data.
fn read(format: FeedFormat, record: &[u8]) -> About {
    #[derive(Deserialize, Default)]
    struct Line {
        event: Option<String>,
        id: Option<String>,
    }
    let (event, id) = match format {
        FeedFormat::Lines => {
            let Line { event, id } = serde_json::from_slice(record).unwrap_or_default();
            (event, id)
        }
        FeedFormat::Sse => {
            let field = |name: &str| {
                let mut lines = record.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
                lines.find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
            };
            (field("event:"), field("id:"))
        }
    };
    let kind = match event.as_deref() {
        Some("live") => Kind::Live,
        Some("lagged") => Kind::Lagged,
        Some(_) => Kind::Event,
        None => Kind::SignOfLife,
    };
    About { kind, id }
}

/// An event that says that something may be missing.
fn reset(format: FeedFormat, reason: &str) -> Bytes {
    let at = Timestamp::now().to_string();
    let data = serde_json::json!({"reason": reason, "at": at}).to_string();
    match format {
        FeedFormat::Sse => format!("event: reset\ndata: {data}\n\n").into(),
        FeedFormat::Lines => format!("{{\"event\":\"reset\",{}\n", &data[1..]).into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What was there before is told, for the first time.
    Live,
    /// The reader was too slow; nothing follows.
    Lagged,
    Event,
    /// A comment or an empty line.
    SignOfLife,
}

#[derive(Debug)]
struct About {
    kind: Kind,
    id: Option<String>,
}

/// The feeds of several servers as one.
///
/// # Errors
/// What a server refused; `server-unreachable` when none could be asked.
pub(crate) async fn merged(gateway: &Gateway, head: &Head, wanted: Wanted) -> Result<Response, Refusal> {
    let mut response = opened(gateway, head, &wanted).await?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wanted.format.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The records of every server that could be asked, as they come.
async fn opened(gateway: &Gateway, head: &Head, wanted: &Wanted) -> Result<Response, Refusal> {
    let across = Across::of(gateway, head)?;
    let places = places(&wanted.topic, &across.map);
    let mut feeds: Vec<Feed> = places.iter().map(|place| Feed::new(&across, place, wanted)).collect();
    let outcomes = join_all(feeds.iter_mut().map(Feed::open)).await;
    let mut telling = 0;
    let mut unreachable = None;
    for (outcome, feed) in outcomes.into_iter().zip(&mut feeds) {
        match outcome {
            Ok(()) => {
                telling += 1;
                feed.is_awaited = true;
            }
            Err(refusal) if is_away(&refusal) => unreachable = Some(refusal),
            Err(refusal) => return Err(refusal),
        }
    }
    if let Some(refusal) = unreachable.filter(|_| telling == 0) {
        return Err(refusal);
    }
    // Refused by whoever would refuse the GET, and for its reason: what answers HEAD says none.
    if head.parts.method == Method::HEAD {
        return Ok(answer::empty(StatusCode::OK));
    }
    let records: SelectAll<BoxStream<'static, Record>> = feeds.into_iter().map(|feed| feed.records().boxed()).collect();
    let merging = Merging { records, topic: wanted.topic.clone(), places, across, telling, is_over: false };
    let pieces = stream::unfold(merging, Merging::next).take_until(gateway.ending.clone().cancelled_owned());
    Ok(answer_of(StatusCode::OK, pieces))
}

/// Whether somebody may answer later who does not now.
fn is_away(refusal: &Refusal) -> bool {
    refusal.error.code().status() >= 500 || refusal.error.code() == ErrorCode::TooManyStreams
}

/// A record of one server, or why there are no more.
type Record = Result<(Bytes, Kind), Refusal>;

/// The feed of one server, over one connection after the other.
struct Feed {
    across: Across,
    place: Place,
    parameters: Vec<(&'static str, String)>,
    format: FeedFormat,
    body: Option<ForwardedBody>,
    /// What has come and is not given out yet.
    came: BytesMut,
    /// So much of it has no end of a record.
    searched: usize,
    last_id: Option<String>,
    /// The reader does not know yet what was there.
    is_awaited: bool,
}

impl Feed {
    /// Not asked for yet.
    fn new(across: &Across, place: &Place, wanted: &Wanted) -> Feed {
        Feed {
            across: across.clone(),
            place: place.clone(),
            parameters: wanted.parameters.clone(),
            format: wanted.format,
            body: None,
            came: BytesMut::new(),
            searched: 0,
            last_id: None,
            is_awaited: false,
        }
    }

    /// Asks for the feed, from the last id on.
    async fn open(&mut self) -> Result<(), Refusal> {
        let mut parameters = self.parameters.clone();
        if let Place::OfSwamps(names) = &self.place {
            parameters.extend(names.iter().map(|name| ("swamp", name.to_string())));
        }
        if let Some(id) = &self.last_id {
            set(&mut parameters, "since", id);
        }
        let mut request = self.across.request(OpClass::Read, "GET", with_parameters("/v1/events", &parameters));
        request.deadline = Some(PATIENCE);
        request
            .headers
            .append(ACCEPT.as_str(), self.format.content_type())
            .map_err(|error| Refusal::of_call(&error))?;
        let hydra = &self.across.hydra;
        let answer = match &self.place {
            Place::Server(id) => hydra.forward_to(id, request).await,
            Place::OfSwamps(names) => hydra.forward(&names[0], request).await,
        };
        let answer = answer.map_err(|error| Refusal::of_call(&error))?;
        if answer.status != 200 {
            return Err(refusal_of(answer).await);
        }
        (self.body, self.searched) = (Some(answer.body), 0);
        self.came.clear();
        Ok(())
    }

    fn records(self) -> impl Stream<Item = Record> + Send {
        stream::unfold(Some(self), |feed| async move {
            let mut feed = feed?;
            match feed.next().await {
                Ok(record) => Some((Ok(record), Some(feed))),
                Err(refusal) => Some((Err(refusal), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<(Bytes, Kind), Refusal> {
        loop {
            if let Some(record) = self.whole_record()? {
                return Ok(record);
            }
            let Some(body) = &mut self.body else {
                tokio::time::sleep(PAUSE).await;
                match self.open().await {
                    // The server knows whether it can go on; without an id only this router does.
                    Ok(()) if self.last_id.is_none() => {
                        return Ok((reset(self.format, "a server was away, or its connection broke"), Kind::Event));
                    }
                    Err(refusal) if !is_away(&refusal) => return Err(refusal),
                    Ok(()) | Err(_) => continue,
                }
            };
            match body.next().await {
                Some(Ok(piece)) => self.came.extend_from_slice(piece.as_ref()),
                Some(Err(_)) | None => self.body = None,
            }
        }
    }

    /// The next record that is here as a whole.
    fn whole_record(&mut self) -> Result<Option<(Bytes, Kind)>, Refusal> {
        let Some(end) = end_of_record(self.format, &self.came, self.searched) else {
            self.searched = self.came.len();
            if self.searched > LONGEST_RECORD {
                return Err(Error::new(ErrorCode::ServerUnreachable, "a server told an event without end").into());
            }
            return Ok(None);
        };
        self.searched = 0;
        let record = self.came.split_to(end).freeze();
        let About { mut kind, id } = read(self.format, &record);
        self.last_id = id.or(self.last_id.take());
        if kind == Kind::Live && !std::mem::take(&mut self.is_awaited) {
            kind = Kind::Event;
        }
        Ok(Some((record, kind)))
    }
}

/// Several feeds on their way to one reader.
struct Merging {
    records: SelectAll<BoxStream<'static, Record>>,
    topic: FeedTopic,
    places: Vec<Place>,
    /// With the map by which the places were found.
    across: Across,
    /// How many servers have not told yet what was there.
    telling: u32,
    is_over: bool,
}

impl Merging {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Merging)> {
        while !self.is_over && self.is_up_to_date() {
            let (record, kind) = match self.records.next().await? {
                Ok(record) => record,
                Err(refusal) => {
                    // Whoever reads comes back, and gets the reason in place of a feed.
                    tracing::info!(error = %refusal.error, "a feed of many servers ends");
                    return None;
                }
            };
            match kind {
                // Said once, when all have said it.
                Kind::Live => {
                    self.telling -= 1;
                    if self.telling > 0 {
                        continue;
                    }
                }
                Kind::Lagged => self.is_over = true,
                Kind::Event | Kind::SignOfLife => {}
            }
            return Some((Ok(record), self));
        }
        None
    }

    /// Whether the same servers have to be asked by the map in force. If not, the feed ends, and whoever reads it comes
    /// back with the last id.
    fn is_up_to_date(&mut self) -> bool {
        let Some(map) = self.across.hydra.map() else { return false };
        if !std::sync::Arc::ptr_eq(&map, &self.across.map) {
            if places(&self.topic, &map) != self.places {
                return false;
            }
            self.across.map = map;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_end_where_their_format_says() {
        assert_eq!(end_of_record(FeedFormat::Sse, b": hello\n\nid: 1", 0), Some(9));
        assert_eq!(end_of_record(FeedFormat::Sse, b": hello\n\nid: 1", 8), Some(9), "the end came in two pieces");
        assert_eq!(end_of_record(FeedFormat::Sse, b"data: {}\n", 0), None);
        assert_eq!(end_of_record(FeedFormat::Lines, b"{}\n{}", 0), Some(3));
        assert_eq!(end_of_record(FeedFormat::Lines, b"{}", 2), None);
    }

    #[test]
    fn kind_and_id_are_read_from_both_formats() {
        let of = |format: FeedFormat, record: &str| {
            let About { kind, id } = read(format, record.as_bytes());
            (kind, id)
        };
        let one = Some("9f.12".to_owned());
        assert_eq!(
            of(FeedFormat::Sse, "id: 9f.12\nevent: put\ndata: {\"key\":\"event: live\"}\n\n"),
            (Kind::Event, one.clone())
        );
        assert_eq!(of(FeedFormat::Lines, "{\"event\":\"put\",\"id\":\"9f.12\",\"key\":\"k\"}\n"), (Kind::Event, one));
        assert_eq!(of(FeedFormat::Sse, "event: live\ndata: {}\n\n"), (Kind::Live, None));
        assert_eq!(of(FeedFormat::Lines, "{\"event\":\"lagged\"}\n"), (Kind::Lagged, None));
        assert_eq!(of(FeedFormat::Sse, ":\n\n"), (Kind::SignOfLife, None));
        assert_eq!(of(FeedFormat::Lines, "\n"), (Kind::SignOfLife, None));
    }

    #[test]
    fn a_reset_is_an_event_in_either_format() {
        for format in [FeedFormat::Sse, FeedFormat::Lines] {
            let record = reset(format, "a \"reason\"");
            assert_eq!(end_of_record(format, &record, 0), Some(record.len()), "{record:?}");
            assert_eq!(read(format, &record).kind, Kind::Event);
        }
    }
}
