//! Requests that are passed on as they are, with the same routing and failover as typed calls: what a gateway needs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use http::header::{AUTHORIZATION, HeaderValue};
use http_body::{Body as _, Frame};
use hydra_core::wire::header;
use reqwest::{Body, Method};

use crate::error::{Error, ErrorKind, Result};
use crate::failover::Answered;
use crate::headers::{self, Headers};
use crate::outcome::{Answer, AnswerBody};
use crate::request::{Request, RequestBody, new_key};
use crate::settings::{Fallback, OpClass};

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk(Bytes);

impl Chunk {
    /// A piece that shares the memory of its owner; nothing is copied.
    pub fn from_owner(owner: impl AsRef<[u8]> + Send + 'static) -> Chunk {
        Chunk(Bytes::from_owner(owner))
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Chunk {
        Chunk(bytes)
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Bytes {
        chunk.0
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        Chunk(bytes.into())
    }
}

/// A body that comes piece by piece.
pub type ChunkStream = Pin<Box<dyn Stream<Item = io::Result<Chunk>> + Send>>;

/// The body of a [`ForwardRequest`].
#[derive(Default)]
#[non_exhaustive]
pub enum ForwardBody {
    /// None.
    #[default]
    Empty,
    /// Kept until an answer is there, so that it can be sent again. Meant for bodies up to 1 MiB.
    Whole(Chunk),
    /// Passed on as it comes. Another server is asked only while nothing of it was sent.
    Stream(ChunkStream),
}

impl std::fmt::Debug for ForwardBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ForwardBody::Empty => f.write_str("Empty"),
            ForwardBody::Whole(chunk) => write!(f, "Whole({} bytes)", chunk.0.len()),
            ForwardBody::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A request to pass on.
#[non_exhaustive]
pub struct ForwardRequest {
    /// What asking again may do, see [`OpClass`].
    pub class: OpClass,
    /// The HTTP method.
    pub method: String,
    /// Path and query, percent-encoded, beginning with `/`.
    pub target: String,
    /// Headers. Those of one connection only (`Connection`, `Host`, `Transfer-Encoding`, …) are
    /// left out, also `Hydra-Fallback-For` and `Hydra-Pool`, which say what this client does itself.
    /// A write without `Idempotency-Key` gets one.
    pub headers: Headers,
    /// The body.
    pub body: ForwardBody,
    /// What the fallbacks may be asked, in place of the pool's setting.
    pub fallback: Option<Fallback>,
    /// The longest all tries together may take until the head of the answer is there, in place of
    /// the pool's setting.
    pub deadline: Option<Duration>,
    /// How long the server was asked to wait before it answers: a try may take so much longer. Default zero.
    pub patience: Duration,
    /// Whether the client's own token goes with it when `headers` have no `Authorization`. Default yes; whoever passes
    /// on what others ask for turns it off, or lets all of them do what this client may.
    pub own_token: bool,
}

impl std::fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardRequest")
            .field("method", &self.method)
            .field("target", &self.target)
            .field("class", &self.class)
            .field("headers", &self.headers)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl ForwardRequest {
    /// A request without headers and body.
    #[must_use]
    pub fn new(class: OpClass, method: impl Into<String>, target: impl Into<String>) -> ForwardRequest {
        ForwardRequest {
            class,
            method: method.into(),
            target: target.into(),
            headers: Headers::new(),
            body: ForwardBody::Empty,
            fallback: None,
            deadline: None,
            patience: Duration::ZERO,
            own_token: true,
        }
    }

    /// The same with a body of this type; a type that no header can say is left out.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: ForwardBody) -> ForwardRequest {
        self.headers.set("content-type", content_type);
        self.body = body;
        self
    }

    /// The request as it is sent.
    pub(crate) fn into_request(self) -> Result<Request> {
        check_target(&self.target)?;
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("{:?} is no HTTP method", self.method)))?;
        let is_stream = matches!(self.body, ForwardBody::Stream(_));
        let mut headers = self.headers.without(|name| is_own(name, is_stream));
        headers.get_mut(AUTHORIZATION).into_iter().for_each(|secret| secret.set_sensitive(true));
        if self.class.is_write() && !headers.contains_key(headers::IDEMPOTENCY_KEY) {
            headers.extend(HeaderValue::from_str(&new_key()).ok().map(|key| (headers::IDEMPOTENCY_KEY, key)));
        }
        let body = match self.body {
            ForwardBody::Empty => RequestBody::Whole(Bytes::new()),
            ForwardBody::Whole(chunk) => RequestBody::Whole(chunk.0),
            ForwardBody::Stream(stream) => RequestBody::stream(stream),
        };
        Ok(Request {
            class: self.class,
            method,
            target: self.target,
            headers,
            body,
            own_token: self.own_token,
            collect: false,
        })
    }
}

/// Headers that belong to one connection, or that this client sets itself. The length of a body
/// that is streamed is passed on, so that the server can refuse it before it comes.
fn is_own(name: &str, is_stream: bool) -> bool {
    match name {
        "content-length" => !is_stream,
        "connection"
        | "host"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "expect" => true,
        header::FALLBACK_FOR | header::POOL | header::DEADLINE_MS => true,
        _ => false,
    }
}

/// Refuses targets that would mean something else once URL rules were applied to them: a path step
/// (`.`, `..`, also percent-encoded) and a backslash. They are part of no allowed name or key.
fn check_target(target: &str) -> Result<()> {
    let path = &target[..target.bytes().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len())];
    let is_step = |segment: &str| {
        // The longest is both dots percent-encoded.
        segment.len() <= "%2e%2e".len()
            && matches!(segment.replace("%2e", ".").replace("%2E", ".").as_str(), "." | "..")
    };
    // Hardly any segment begins like a step.
    let may_have_steps = path.as_bytes().windows(2).any(|pair| matches!(pair, [b'/', b'.' | b'%']));
    let usable = path.starts_with('/') && !path.as_bytes().contains(&b'\\');
    if usable
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        && !(may_have_steps && path.split('/').any(is_step))
    {
        return Ok(());
    }
    let code = hydra_core::ErrorCode::InvalidKey;
    let detail =
        format!("the path {path:?} has a step (. or ..), a backslash, or a character that must be percent-encoded");
    Err(hydra_core::Error::new(code, detail)
        .with_hint("encode a dot as %2E inside a longer part, a backslash as %5C")
        .into())
}

/// The answer of a server, passed on as it is.
#[derive(Debug)]
#[non_exhaustive]
pub struct ForwardResponse {
    /// The HTTP status; also an error of the server is an answer.
    pub status: u16,
    /// Headers, without those of one connection.
    pub headers: Headers,
    /// The id of the server in the map.
    pub server: String,
    /// Whether a fallback answered in place of the primary.
    pub fell_back: bool,
    /// How many tries were made before the one that was answered.
    pub retried: u32,
    /// The body, as it comes.
    pub body: ForwardedBody,
}

impl ForwardResponse {
    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(crate) fn of(answered: Answered) -> ForwardResponse {
        let Answered { answer, server, fell_back, retried } = answered;
        ForwardResponse { fell_back, retried, ..ForwardResponse::new(answer, server.id().to_owned()) }
    }

    pub(crate) fn new(answer: Answer, server: String) -> ForwardResponse {
        let is_hop =
            |name: &str| matches!(name, "connection" | "keep-alive" | "transfer-encoding" | "upgrade" | "trailer");
        let headers = Headers::from(Headers::from(answer.headers).without(is_hop));
        let body = match answer.body {
            AnswerBody::Whole(bytes) => ForwardedBody::new(Some(bytes), None),
            AnswerBody::Lost(_) => ForwardedBody::new(None, None),
            AnswerBody::Open(rest) => ForwardedBody::new(None, Some(rest)),
        };
        ForwardResponse { status: answer.status, headers, server, fell_back: false, retried: 0, body }
    }
}

/// How long a server may be silent in the middle of an answer. Feeds send a sign of life more often.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The body of a [`ForwardResponse`]: a stream of pieces. Dropping it gives up the rest.
pub struct ForwardedBody {
    whole: Option<Bytes>,
    rest: Option<Body>,
    silence: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl ForwardedBody {
    fn new(whole: Option<Bytes>, rest: Option<Body>) -> ForwardedBody {
        ForwardedBody { whole, rest, silence: None }
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks before its end.
    pub async fn collect(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|context| Pin::new(&mut self).poll_next(context)).await {
            bytes.extend_from_slice(chunk?.as_ref());
        }
        Ok(bytes)
    }
}

impl Stream for ForwardedBody {
    type Item = io::Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(bytes) = self.whole.take() {
            return Poll::Ready(Some(Ok(Chunk(bytes))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        if let Poll::Ready(piece) = poll_piece(rest, context) {
            self.silence = None;
            return Poll::Ready(piece.map(|piece| piece.map(Chunk).map_err(io::Error::other)));
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(LONGEST_SILENCE)));
        match silence.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.rest = None;
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the server fell silent in its answer"))))
            }
        }
    }
}

/// The next bytes of a body. Trailers, which no server of Hydra sends, are left out.
fn poll_piece(body: &mut Body, context: &mut Context<'_>) -> Poll<Option<reqwest::Result<Bytes>>> {
    loop {
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(context));
        match frame.map(|frame| frame.map(Frame::into_data)).transpose()? {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(bytes))),
            Some(Err(_trailers)) => {}
            None => return Poll::Ready(None),
        }
    }
}

impl std::fmt::Debug for ForwardedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardedBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_url_rules_would_change_are_refused() {
        for good in ["/", "/v1/kv/a/b/c/k", "/v1/kv/a/b/c/..k", "/v1/kv/a/b/c/k%2F..%2Fx", "/v1/kv/a/b/c?prefix=../x"] {
            assert!(check_target(good).is_ok(), "{good}");
        }
        for bad in ["", "v1", "/a/../b", "/a/%2E%2e", "/a/.", "/a\\b", "/a b", "/a#b", "/ä", "//x/%2e"] {
            assert!(check_target(bad).is_err(), "{bad}");
        }
    }
}
