//! The HTTP contract: paths, headers, bodies and error texts, for server, client and router alike; and what their
//! connections have in common ([`Rarely`], [`is_http1`]).
//!
//! A leaf: nothing of the engine imports it, and it imports nothing of the engine but the vocabulary.

mod encoding;
mod feeds;
mod moves;
mod parameters;
mod rarely;
mod status;
mod version;

use std::borrow::Cow;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::archive::Unpacked;
use crate::engine::{Collected, Compacted};
use crate::error::{Applied, Error, ErrorCode};
use crate::folder::{FolderCount, FolderId};
use crate::import::{ImportError, ImportTally};
use crate::name::SwampName;
use crate::number::Number;
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::stamp::{Timestamp, Version};

pub use encoding::{GZIP, Gunzip, accepts_gzip, is_gzip_body};
pub use feeds::{FEED_PARAMETERS, FeedFormat, FeedTopic, MAX_FEED_SWAMPS};
pub use moves::{
    AbortBody, ActivateBody, CleanBody, CleanedBody, CommitBody, FenceBody, ImportFolderBody, LackedBody, LacksBody,
    MAX_PIECES, ManifestBody, MovedBody, PieceBody, PiecesBody, PromoteBody, PromotedBody, PullBody, PulledBody,
    SealBody, SealedBody, UnderSealBody, UnfenceBody,
};
pub use parameters::{Parameters, folder_state, invalid_parameter, with_parameters};
pub use rarely::Rarely;
pub use status::{
    STATUS_PAGE, STATUS_PAGE_POLICY, StatusBody, StatusLearnedBody, StatusMoveBody, StatusRouteBody, StatusServerBody,
    StatusStayBody,
};
pub use version::{HTTP2_PREFACE, is_http1};

/// Where a server listens unless told otherwise.
pub const DEFAULT_SERVER: &str = "127.0.0.1:4937";
/// Where a router listens unless told otherwise.
pub const DEFAULT_ROUTER: &str = "127.0.0.1:4938";

/// Names of headers, all in lower case.
pub mod header {
    /// On every error: `no`, `yes` or `unknown`.
    pub const APPLIED: &str = "hydra-applied";
    /// On every answer of a server: its id.
    pub const SERVER: &str = "hydra-server";
    /// On every answer of a router: its id.
    pub const ROUTER: &str = "hydra-router";
    /// On every answer about a name: its folder.
    pub const FOLDER: &str = "hydra-folder";
    /// Sent by clients: how many folders they count.
    pub const FOLDERS: &str = "hydra-folders";
    /// Sent by clients: the pool they think the server belongs to.
    pub const POOL: &str = "hydra-pool";
    /// Sent by clients that fall back: the id of the primary that did not answer. `s1; tried` says that it was tried in
    /// this very call, for a fallback that knows it to be back.
    pub const FALLBACK_FOR: &str = "hydra-fallback-for";
    /// `fallback` when a copy answered.
    pub const SERVED_BY: &str = "hydra-served-by";
    /// On answers about a folder: how many files the server wrote in place of the folder's owner and that are
    /// not settled. Absent for none.
    pub const TAKEOVER: &str = "hydra-takeover";
    /// `synced` or `buffered`, on every answer to a write.
    pub const DURABLE: &str = "hydra-durable";
    /// `true` when an idempotency key was known.
    pub const REPLAYED: &str = "hydra-replayed";
    /// `degraded` or `incomplete` when a file of the swamp is damaged or missing.
    pub const COPY: &str = "hydra-copy";
    /// How many treasures a swamp has, on HEAD.
    pub const COUNT: &str = "hydra-count";
    /// When a treasure came into being.
    pub const CREATED_AT: &str = "hydra-created-at";
    /// When a treasure was last written.
    pub const UPDATED_AT: &str = "hydra-updated-at";
    /// When a treasure expires.
    pub const EXPIRES_AT: &str = "hydra-expires-at";
    /// Recognises a request that comes again.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// Proves that a lock is held, where it is renewed or given back.
    pub const LOCK_TOKEN: &str = "hydra-lock-token";
    /// The id of a request, made by the server unless sent.
    pub const REQUEST_ID: &str = "x-request-id";
    /// How long the client still waits, in milliseconds.
    pub const DEADLINE_MS: &str = "hydra-deadline-ms";
    /// On 421: the server that serves the folder instead, as `s2; epoch=8; token=…`. The token is there once the
    /// folder has moved: whoever presents it lets the new owner begin to serve.
    pub const MOVED_TO: &str = "hydra-moved-to";
    /// On 421 with [`MOVED_TO`]: the epoch of the map that has the folder there.
    pub const MAP_EPOCH: &str = "hydra-map-epoch";
    /// How many routers a request has passed.
    pub const HOPS: &str = "hydra-hops";
    /// On answers of a router: how many tries it made before the one that was answered, or beyond the first. Absent for none.
    pub const RETRIED: &str = "hydra-retried";
}

/// The media type of errors (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The media type of change feeds for browsers, and unless another one is asked for.
pub const EVENT_STREAM: &str = "text/event-stream";
/// The media type of change feeds, exports and answers to imports with one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";
/// In `If-None-Match` of a long poll, and in `ifVersion` of a batch: the version of what does not exist.
pub const ABSENT_VERSION: &str = "0";
/// The media type of merge patches (RFC 7396).
pub const MERGE_PATCH_JSON: &str = "application/merge-patch+json";
/// The media type of lists of changes (RFC 6902).
pub const JSON_PATCH_JSON: &str = "application/json-patch+json";
/// The path of batches across swamps.
pub const BATCH_PATH: &str = "/v1/batch";
/// The media type of a treasure with its metadata.
pub const TREASURE_JSON: &str = "application/vnd.hydra.treasure+json";

/// The path of a treasure: each name part and the key percent-encoded, a `/` of the key as `%2F`.
#[must_use]
pub fn treasure_path(name: &SwampName, key: &str) -> String {
    let mut path = list_path(name);
    path.push('/');
    encode_segment(key, &mut path);
    path
}

/// The path of the list of a swamp.
#[must_use]
pub fn list_path(name: &SwampName) -> String {
    name_path("/v1/kv", name)
}

/// The path of a swamp itself, with its verbs (`/batch`, `/flush`, …) behind it.
#[must_use]
pub fn swamp_path(name: &SwampName) -> String {
    name_path("/v1/swamps", name)
}

/// The path of a lock of a swamp.
#[must_use]
pub fn lock_path(name: &SwampName, lock: &str) -> String {
    let mut path = swamp_path(name);
    path.push_str("/locks/");
    encode_segment(lock, &mut path);
    path
}

/// The path of the list of swamps, of one sanctuary, or of one realm of it.
#[must_use]
pub fn swamps_path(sanctuary: Option<&str>, realm: Option<&str>) -> String {
    let mut path = String::from("/v1/swamps");
    for part in sanctuary.into_iter().chain(realm) {
        path.push('/');
        encode_segment(part, &mut path);
    }
    path
}

/// The path of the change feed of a swamp.
#[must_use]
pub fn events_path(name: &SwampName) -> String {
    let mut path = swamp_path(name);
    path.push_str("/events");
    path
}

/// The path that tells where a swamp lives.
#[must_use]
pub fn resolve_path(name: &SwampName) -> String {
    name_path("/v1/resolve", name)
}

/// The path of a verb of a folder: `takeover`, `holds`, `takeover/settle`, `hold`, `gc`, `compact`, `verify`, `flush`,
/// `archive`.
#[must_use]
pub fn folder_path(folder: FolderId, verb: &str) -> String {
    format!("/v1/folders/{folder}/{verb}")
}

/// The path of a policy.
#[must_use]
pub fn policy_path(pattern: &Pattern) -> String {
    let mut path = String::from("/v1/policies");
    for part in pattern.to_string().split('/') {
        path.push('/');
        encode_segment(part, &mut path);
    }
    path
}

fn name_path(prefix: &str, name: &SwampName) -> String {
    let mut path = String::with_capacity(prefix.len() + name.as_str().len() + 8);
    path.push_str(prefix);
    for part in name.parts() {
        path.push('/');
        encode_segment(part, &mut path);
    }
    path
}

/// Percent-encodes everything but the unreserved characters of RFC 3986. A segment of dots only is
/// encoded whole, because clients and proxies resolve `.` and `..` as path steps.
fn encode_segment(text: &str, out: &mut String) {
    let dots_only = text.bytes().all(|b| b == b'.');
    for byte in text.bytes() {
        match byte {
            b'.' if dots_only => out.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

/// Takes the part of a raw path apart that begins with a name: the name, and what stands behind the
/// slash after it, still raw. The path is split before it is decoded, so `a%2Fb` never reads as `a/b`.
///
/// # Errors
/// `invalid-name` when there are fewer than three parts, or one breaks the rules of names or of
/// percent-encoding.
pub fn split_name(path: &str) -> Result<(SwampName, Option<&str>), Error> {
    let (sanctuary, rest) = cut_at_slash(path);
    let (realm, rest) = rest.map_or(("", None), cut_at_slash);
    let Some((swamp, rest)) = rest.map(cut_at_slash) else {
        let detail = format!("{} is no whole name; a swamp name is sanctuary/realm/swamp", quoted(path));
        return Err(Error::new(ErrorCode::InvalidName, detail));
    };
    let decoded = |piece| {
        decode_segment(piece)
            .map_err(|why| Error::new(ErrorCode::InvalidName, format!("the name part {} {why}", quoted(piece))))
    };
    let name = SwampName::new(&decoded(sanctuary)?, &decoded(realm)?, &decoded(swamp)?)?;
    Ok((name, rest))
}

/// What is before the first slash, and what is behind it. Pieces of paths are so short that `str::split`, made for long
/// texts, takes several times as long.
fn cut_at_slash(path: &str) -> (&str, Option<&str>) {
    match path.bytes().position(|byte| byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// Percent-decodes strictly: two hexadecimal digits behind every `%`, and UTF-8 as the outcome. A `+` is
/// a plus.
///
/// # Errors
/// What is wrong, as a predicate.
pub fn decode_segment(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    // Nearly all are plain.
    if !raw.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut pieces = raw.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let digit = |at: usize| char::from(*piece.as_bytes().get(at)?).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("has a % without two hexadecimal digits behind it");
        };
        bytes.push((high * 16 + low) as u8);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "does not decode to UTF-8")
}

/// Input in quotes, cut where it is too long for a message.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads a body that has to be one object; `form` is what it looks like.
///
/// # Errors
/// `invalid-body`: `what` cannot be read.
pub fn read_object<T: serde::de::DeserializeOwned>(body: &[u8], what: &str, form: &str) -> Result<T, Error> {
    let refuse = |why: &dyn std::fmt::Display| {
        Error::new(ErrorCode::InvalidBody, format!("{what} cannot be read: {why}")).with_hint(format!("write {form}"))
    };
    // An array of members in their order would be read as well.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(refuse(&"it is no object"));
    }
    serde_json::from_slice(body).map_err(|error| refuse(&error))
}

/// An error as it is written on the wire: `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short sentence for people, the same for every error of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable name.
    pub code: String,
    /// What went wrong this time.
    pub detail: String,
    /// Whether the operation was carried out: `no`, `yes` or `unknown`.
    pub applied: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The folder of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderId>,
    /// The server that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The version the treasure is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<Version>,
    /// The id of the server that owns the folder, where this one knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The servers a router tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptBody>,
}

impl Problem {
    /// The wire form of an error; `instance`, `folder`, `server` and `attempts` are for the caller to add.
    #[must_use]
    pub fn of(error: &Error) -> Problem {
        let code = error.code();
        Problem {
            kind: format!("/problems/{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.as_str().to_owned(),
            detail: error.detail().to_owned(),
            applied: error.applied().as_str().to_owned(),
            hint: error.hint().map(str::to_owned),
            instance: None,
            folder: None,
            server: None,
            current_version: error.current_version().copied(),
            owner: error.moved_to().map(|moved| moved.server.clone()),
            attempts: Vec::new(),
        }
    }

    /// The error that was written; an unknown `applied` reads as [`Applied::Unknown`].
    #[must_use]
    pub fn to_error(&self) -> Error {
        let applied = Applied::from_text(&self.applied).unwrap_or(Applied::Unknown);
        let mut error = Error::new(ErrorCode::from_text(&self.code), self.detail.clone()).with_applied(applied);
        if let Some(hint) = &self.hint {
            error = error.with_hint(hint.clone());
        }
        if let Some(version) = self.current_version {
            error = error.with_current_version(version);
        }
        error
    }
}

/// What an error code means: `GET /problems/{code}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemPage {
    /// `/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The stable name.
    pub code: String,
    /// The HTTP status it is answered with.
    pub status: u16,
    /// A short sentence for people.
    pub title: String,
    /// What happened.
    pub meaning: String,
    /// What can be done about it.
    pub advice: String,
    /// Whether the operation may have been carried out, in words.
    pub applied: String,
}

impl ProblemPage {
    /// The page of a code.
    #[must_use]
    pub fn of(code: ErrorCode) -> ProblemPage {
        ProblemPage {
            kind: format!("/problems/{code}"),
            code: code.as_str().to_owned(),
            status: code.status(),
            title: code.title().to_owned(),
            meaning: code.meaning().to_owned(),
            advice: code.advice().to_owned(),
            applied: code.applied_in_words().to_owned(),
        }
    }
}

/// One try of a router at one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptBody {
    /// The server's id.
    pub server: String,
    /// What happened.
    pub error: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// A treasure with its metadata: `?envelope`, lists, batch reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreasureBody {
    /// The key.
    pub key: String,
    /// The value: its JSON, or `{"$binary": base64, "contentType": …}`. Absent when only metadata was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// The version.
    pub version: Version,
    /// When the key came into being.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// When it expires; `null` for never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// A member that is there is `Some`, also when it is `null`: null is an ordinary value.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One line of a change feed as NDJSON. As server-sent event `event` and `id` are fields of their own, and the other
/// members are its data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventBody {
    /// `put`, `delete`, `expire`, `destroy`, `reset`, `lagged` or `live`.
    pub event: String,
    /// Where to go on behind it; absent while a snapshot is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it was told, by the clock of the server.
    pub at: Timestamp,
    /// The swamp; only in feeds of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swamp: Option<String>,
    /// The key of `put`, `delete` and `expire`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value of a `put`, unless only keys were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// The version of a `put`, and of a `delete` that left a mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// When the key came into being.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// When it expires, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What was there before, where that was asked for and anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<TreasureBody>,
    /// Why the feed begins anew, or ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to a put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenBody {
    /// The key.
    pub key: String,
    /// Its version now.
    pub version: Version,
    /// Whether the key is new.
    pub created: bool,
}

impl WrittenBody {
    /// The body as JSON, the same that `serde_json` writes in three times as long: every put is answered with one.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.key.len() + Version::MAX_BYTES + 48);
        json.extend_from_slice(br#"{"key":"#);
        write_json_text(&self.key, &mut json);
        json.extend_from_slice(br#","version":""#);
        json.extend_from_slice(self.version.encode(&mut [0; Version::MAX_BYTES]).as_bytes());
        json.extend_from_slice(if self.created { br#"","created":true}"# } else { br#"","created":false}"# });
        json
    }
}

/// A text as JSON. Most keys have nothing that must be escaped.
fn write_json_text(text: &str, json: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        json.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        return;
    }
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

/// The answer to an increment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncrementedBody {
    /// The key.
    pub key: String,
    /// The number after the increment.
    pub value: Number,
    /// Its version now.
    pub version: Version,
}

/// The answer to a shift.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShiftBody {
    /// What was taken, in order.
    pub treasures: Vec<TreasureBody>,
}

/// A lock that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockBody {
    /// How long it is held unless it is renewed.
    #[serde(with = "crate::duration::as_text")]
    pub ttl: Duration,
    /// How long to wait while somebody else holds it.
    #[serde(default, with = "crate::duration::as_text")]
    pub wait: Duration,
    /// Who asks, for others to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A lock that is to be held for longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewBody {
    /// How long from now on.
    #[serde(with = "crate::duration::as_text")]
    pub ttl: Duration,
}

/// A lock, for whoever holds it or looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockedBody {
    /// What proves that it is held: only for the holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Who holds it, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The fence of the grant: a number in decimal digits, greater than that of every grant before.
    pub fence: String,
    /// Until when it is held.
    pub expires_at: Timestamp,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListBody {
    /// Whether the swamp exists; an absent swamp lists as empty.
    pub exists: bool,
    /// The treasures in order.
    pub treasures: Vec<TreasureBody>,
    /// Where the next page begins; `null` on the last.
    pub next_cursor: Option<String>,
    /// Of the keys asked for one by one, those that have no treasure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
}

/// What to list: `QUERY /v1/kv/{S}` and `POST /v1/swamps/{S}/query`. The members mean what the parameters of a
/// list mean.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryBody {
    /// `key`, `created`, `updated`, `expires` or `value:/pointer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// `asc` or `desc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Only keys that start with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Only keys from this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only keys before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Only values that pass: the JSON form of a [`Filter`](crate::Filter).
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<Box<serde_json::value::RawValue>>,
    /// `include` or `only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<String>,
    /// `full`, `values`, `meta` or `keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<String>,
    /// At most so many treasures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Just these keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

/// A batch: on one swamp, or on those that its operations name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// All or nothing; on one swamp only.
    #[serde(default)]
    pub atomic: bool,
    /// The operations, in order.
    pub ops: Vec<OpBody>,
}

/// One operation of a batch. Which members belong to which `op` is checked by the server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpBody {
    /// `put`, `merge`, `patch`, `delete`, `increment` (also written `incr`) or `get`.
    pub op: String,
    /// The swamp, in a batch across swamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swamp: Option<String>,
    /// The key.
    pub key: String,
    /// The value of a `put`: JSON, or `{"$binary": base64, "contentType": …}`. The merge patch of a `merge`, the
    /// JSON Patch of a `patch`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// How much an `increment` adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Number>,
    /// Where in the value an `increment` adds: a JSON Pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What an `increment` adds to where there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Number>,
    /// The smallest sum an `increment` may come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// The largest sum an `increment` may come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// Whether a `merge` or `patch` makes a treasure that is not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
    /// How long a `put` lives, as a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// When a `put` expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether a `put` keeps the expiry of what was there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_ttl: bool,
    /// The version demanded: `"0"` for absent, `"*"` for any, or a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<String>,
}

/// The answer to a batch: one result per operation, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchResultBody {
    /// How many operations were done.
    pub ok: usize,
    /// How many were not.
    pub failed: usize,
    /// What became of each.
    pub results: Vec<OpResultBody>,
}

/// What became of one operation of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpResultBody {
    /// The status it would have had alone.
    pub status: u16,
    /// The swamp, in a batch across swamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swamp: Option<String>,
    /// The key.
    pub key: String,
    /// The version after a write, or of the treasure read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Whether a write made the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// Whether a `delete` removed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// The value of an `increment` or of a `get`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// The treasure of a `get`, with its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treasure: Option<TreasureBody>,
    /// The failure's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The failure in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether a failed operation was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// The version the treasure is at, when a condition failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<Version>,
}

/// What is known about a swamp: `GET /v1/swamps/{S}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwampInfoBody {
    /// The name.
    pub name: String,
    /// Its folder.
    pub folder: FolderId,
    /// Its hash, 16 hexadecimal digits.
    pub hash: String,
    /// How many treasures it has, without expired ones.
    pub count: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files it has.
    pub files: u64,
    /// Whether it was in memory before it was asked about.
    #[serde(default)]
    pub loaded: bool,
    /// Whether an acknowledged write is not on disk yet.
    pub dirty: bool,
    /// `complete`, `incomplete` or `degraded`.
    pub copy: String,
    /// Reports about damaged or missing files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// The effective policy.
    pub policy: Policy,
    /// The pattern the policy comes from; `null` for the swamp's own files or the default.
    pub policy_from: Option<Pattern>,
    /// When the oldest treasure came into being.
    pub created_at: Option<Timestamp>,
}

/// A page of the swamps of a server: `GET /v1/swamps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwampsBody {
    /// The swamps by folder, then by their paths on disk.
    pub swamps: Vec<ListedSwampBody>,
    /// Where the next page begins; `null` on the last.
    pub next_cursor: Option<String>,
}

/// One swamp of a list. Beside name and folder everything is there only with `include=info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedSwampBody {
    /// The name.
    pub name: String,
    /// Its folder.
    pub folder: FolderId,
    /// Its hash, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// How many files it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether it is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
    /// How many treasures it has; only where it is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Whether an acknowledged write is not on disk yet; only where it is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

/// A policy with its pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyBody {
    /// The pattern.
    pub pattern: Pattern,
    /// The policy.
    pub policy: Policy,
}

/// Every registered policy: `GET /v1/policies`, the most specific first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoliciesBody {
    /// The policies.
    pub policies: Vec<PolicyBody>,
}

/// Where a name lives: `GET /v1/resolve/{S}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolveBody {
    /// The name.
    pub name: String,
    /// XXH64, 16 hexadecimal digits.
    pub hash: String,
    /// The folder.
    pub folder: FolderId,
    /// How many folders there are.
    pub folders: FolderCount,
    /// The directory of the swamp below the data directory.
    pub path: String,
    /// What the answering server is to the folder: `owned`, `standby` or `absent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The id of the answering server, or of the primary when a router answers.
    pub server: String,
}

/// The folders of a server: `GET /v1/folders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldersBody {
    /// One entry for each folder asked for.
    pub folders: Vec<FolderBody>,
}

/// One folder of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FolderBody {
    /// Its number.
    pub folder: FolderId,
    /// `owned`, `standby`, `fenced`, `importing`, `moved` or `absent`.
    pub state: String,
    /// Since which epoch, where a move made it so; while it moves the epoch of the new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The other server, where it is known: the owner of a copy, the new owner, or the owner so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether it takes no writes for a moment, because it is about to move. Absent for no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Whether all of it has come and was verified. Absent for no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// Whether other machines hold copies of it.
    pub copied: bool,
    /// How many swamps it has; only with `?sizes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swamps: Option<u64>,
    /// How many chunk files it has; only with `?sizes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// How many bytes those have; only with `?sizes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a server wrote in a folder in place of its owner, and nobody has settled:
/// `GET /v1/folders/{F}/takeover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverBody {
    /// The folder.
    pub folder: FolderId,
    /// How many files there are.
    pub count: u64,
    /// Stands for exactly these files with these lengths.
    pub version: String,
    /// The files, in the order of their swamps and names.
    pub files: Vec<TakeoverFileBody>,
}

/// One file that was written in place of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeoverFileBody {
    /// The swamp it is of.
    pub swamp: String,
    /// Its name in the directory of the swamp.
    pub file: String,
    /// Its length.
    pub bytes: u64,
}

/// The question which files are not here: `POST /v1/folders/{F}/holds`. At most
/// [`MAX_HOLDS_FILES`](crate::MAX_HOLDS_FILES) files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldsBody {
    /// The files, as a listing of what was taken over has them.
    pub files: Vec<TakeoverFileBody>,
}

/// The files that are not here, or shorter than asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingBody {
    /// Those files, in the order they were asked for.
    pub missing: Vec<MissingFileBody>,
}

/// One file that is not here, or shorter than asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFileBody {
    /// The swamp it is of.
    pub swamp: String,
    /// Its name.
    pub file: String,
    /// The length asked for.
    pub bytes: u64,
    /// Its length here; `null` when there is no such file.
    pub held: Option<u64>,
}

/// The owner holds what was listed: `POST /v1/folders/{F}/takeover/settle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleBody {
    /// The version of the listing.
    pub version: String,
    /// What holds the writes off meanwhile. Then they go to the owner from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// Writes in the owner's place wait for a moment, so that the folder can return:
/// `POST /v1/folders/{F}/takeover/seal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealTakeoverBody {
    /// How long at most.
    pub lease_ms: u64,
}

/// What holds the writes of a copy off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedTakeoverBody {
    /// The folder.
    pub folder: FolderId,
    /// Names this seal, to whoever settles or gives it back.
    pub seal: String,
    /// How long it holds from when it was asked for.
    pub lease_ms: u64,
}

/// Writes are taken again: `POST /v1/folders/{F}/takeover/unseal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsealTakeoverBody {
    /// The seal.
    pub seal: String,
}

/// Nothing superseded is removed until then: `POST /v1/folders/{F}/hold`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBody {
    /// The folder.
    pub folder: FolderId,
    /// When the hold ends by itself.
    pub until: Timestamp,
}

/// What a collection removed: `POST /v1/folders/{F}/gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectedBody {
    /// Swamps that were looked at.
    pub swamps: u64,
    /// Files that were removed.
    pub files_removed: u64,
    /// The bytes they had.
    pub bytes_removed: u64,
}

impl AddAssign<Collected> for CollectedBody {
    fn add_assign(&mut self, folder: Collected) {
        self.swamps += folder.swamps;
        self.files_removed += folder.files_removed;
        self.bytes_removed += folder.bytes_removed;
    }
}

/// What a compaction did: `POST /v1/folders/{F}/compact`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactedBody {
    /// Swamps that were looked at.
    pub swamps: u64,
    /// How many files they had before.
    pub files_before: u64,
    /// How many they have now; superseded ones stay until they are collected.
    pub files_after: u64,
    /// The bytes of the files before.
    pub bytes_before: u64,
    /// The bytes of the files now.
    pub bytes_after: u64,
}

impl AddAssign<Compacted> for CompactedBody {
    fn add_assign(&mut self, folder: Compacted) {
        self.swamps += folder.swamps;
        self.files_before += folder.files_before;
        self.files_after += folder.files_after;
        self.bytes_before += folder.bytes_before;
        self.bytes_after += folder.bytes_after;
    }
}

/// One line of an import: a treasure of [`TreasureBody`], of which only these members count. Others of a treasure are
/// read and left out, anything else is an error.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportLineBody<'a> {
    /// The swamp, where the import is not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swamp: Option<&'a str>,
    /// The key.
    pub key: &'a str,
    /// The value: its JSON, or `{"$binary": base64, "contentType": …}`.
    pub value: &'a serde_json::value::RawValue,
    /// When it was last written where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// One line of the answer to an import: `progress` now and then, at last `done`, with `error` where it ended early.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImportAnswerBody {
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ImportProgressBody>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// What became of the lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<ImportDoneBody>,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportProgressBody {
    /// Lines that are settled: written, skipped or failed.
    pub lines: u64,
    /// Lines that were written, and acknowledged.
    pub written: u64,
    /// Bytes of the body that came in, unpacked.
    pub bytes: u64,
}

/// What became of the lines of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportDoneBody {
    /// Lines that are settled: the sum of the next three.
    pub lines: u64,
    /// Lines that were written, and acknowledged.
    pub written: u64,
    /// Lines that the mode left alone.
    pub skipped: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// `synced` when all that was written is on disk, else `buffered`.
    pub durable: String,
    /// The first [`MAX_IMPORT_ERRORS`](crate::MAX_IMPORT_ERRORS) lines that failed.
    pub errors: Vec<ImportErrorBody>,
}

/// A line of an import that was not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportErrorBody {
    /// The number of the line, counted from 1; empty lines do not count.
    pub line: u64,
    /// The code of the error.
    pub code: String,
    /// What is wrong with it.
    pub detail: String,
}

impl From<&ImportTally> for ImportDoneBody {
    fn from(tally: &ImportTally) -> ImportDoneBody {
        let error = |failed: &ImportError| ImportErrorBody {
            line: failed.line,
            code: failed.error.code().as_str().to_owned(),
            detail: failed.error.to_string(),
        };
        ImportDoneBody {
            lines: tally.lines,
            written: tally.written,
            skipped: tally.skipped,
            failed: tally.failed,
            durable: tally.durability.as_str().to_owned(),
            errors: tally.errors.iter().map(error).collect(),
        }
    }
}

/// What an archive brought: `PUT /v1/folders/{F}/archive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackedBody {
    /// The folder.
    pub folder: FolderId,
    /// Files that are here now, and were not or were shorter.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were here already, as long or longer.
    pub kept: u64,
    /// Files that this server wrote itself; those never come from elsewhere.
    pub own: u64,
    /// Files that are here with another beginning; they stay as they are.
    pub differing: u64,
    /// Snapshots that their writer never finished; nothing would read them.
    pub unfinished: u64,
}

impl UnpackedBody {
    /// What became of the files of a folder's archive.
    #[must_use]
    pub fn of(folder: FolderId, done: Unpacked) -> UnpackedBody {
        let Unpacked { files, bytes, kept, own, differing, unfinished } = done;
        UnpackedBody { folder, files, bytes, kept, own, differing, unfinished }
    }
}

/// Writes that lost against others made at the same time elsewhere: `GET /v1/swamps/{S}/conflicts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConflictsBody {
    /// The conflicts, the newest first.
    pub conflicts: Vec<ConflictBody>,
    /// `true` when older ones were left out because the answer would have grown too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One write that lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConflictBody {
    /// The key.
    pub key: String,
    /// What lost.
    pub lost: LostBody,
    /// What it lost against.
    pub won: WonBody,
    /// How long the loser is kept.
    pub until: Timestamp,
}

/// The loser of a conflict, with exactly one of `value`, `deleted` and `increment`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostBody {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it, or of its process where no file tells any more; `null` when several
    /// servers wrote it.
    pub server: Option<String>,
    /// The value of a put: its JSON, or `{"$binary": base64, "contentType": …}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// `true` for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// How much was added: exact, also where it is beyond 64 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub increment: Option<i128>,
}

/// The winner of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WonBody {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it, or of its process where no file tells any more.
    pub server: String,
}

/// Who answers: `GET /v1/probe`, read through the storage path, small and quick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeBody {
    /// The server's id.
    pub server: String,
    /// The cluster it belongs to.
    pub cluster: String,
    /// How many folders it counts.
    pub folders: FolderCount,
    /// The pool it belongs to.
    pub pool: String,
    /// The folders it owns.
    pub owned: String,
    /// The folders it keeps copies of.
    pub standby: String,
    /// Whether it takes writes.
    pub writable: bool,
    /// Whether its folders have copies elsewhere.
    pub copied: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_while_they_are_raw() {
        let name = |path| split_name(path).map(|(name, rest)| (name.to_string(), rest));
        assert_eq!(name("a/b/c").expect("a list"), ("a/b/c".to_owned(), None));
        assert_eq!(name("a/b/c%20d/x%2Fy/z").expect("a key"), ("a/b/c d".to_owned(), Some("x%2Fy/z")));
        assert_eq!(name("a/b/c/").expect("an empty key"), ("a/b/c".to_owned(), Some("")));
        for bad in ["", "a", "a/b", "a/b/", "a//c/k", "a%2Fb/c/d", "a/b/%zz", "a/b/%4", "a/b/%FF", "a/b/%2E%2E"] {
            assert_eq!(name(bad).expect_err(bad).code(), ErrorCode::InvalidName, "{bad}");
        }
    }

    #[test]
    fn the_answer_to_a_put_is_the_json_that_serde_writes() {
        let record = "00000000000a1-0000000000001".parse().expect("a version");
        let counter = Version::of_counter(3, u128::MAX);
        for key in ["", "plain", "a/b c", "quote\"back\\slash", "tab\tnul\0\u{7f}\u{80}", "\u{1F409}é"] {
            for (version, created) in [(record, true), (counter, false)] {
                let body = WrittenBody { key: key.to_owned(), version, created };
                assert_eq!(body.to_json(), serde_json::to_vec(&body).expect("writes"), "{key:?}");
            }
        }
    }

    #[test]
    fn decoding_is_the_reverse_of_encoding() {
        for text in ["", "plain", "a b+c%d/é\u{1F409}", "%", "%%41"] {
            let mut encoded = String::new();
            encode_segment(text, &mut encoded);
            assert_eq!(decode_segment(&encoded).as_deref(), Ok(text));
        }
    }
}
