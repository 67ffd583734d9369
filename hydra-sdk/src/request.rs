//! A request before it is sent: kept whole, so that it can be sent again to the same or another server.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use hydra_core::wire::header;
use reqwest::Method;

use crate::forward::ChunkStream;
use crate::outcome::{Cause, Failure};
use crate::settings::OpClass;

/// What is sent, the same at every try.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) class: OpClass,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
    /// Whether the client's own token goes with it, where it has none.
    pub(crate) own_token: bool,
    /// Whether the whole answer is awaited within the try, or only its head.
    pub(crate) collect: bool,
}

impl Request {
    /// A request without a body. One that writes gets an idempotency key, so that asking again,
    /// here or elsewhere, counts once.
    pub(crate) fn new(class: OpClass, method: Method, target: String) -> Request {
        let request = Request {
            class,
            method,
            target,
            headers: HeaderMap::new(),
            body: RequestBody::Whole(Bytes::new()),
            own_token: true,
            collect: true,
        };
        if class.is_write() { request.header(header::IDEMPOTENCY_KEY, &new_key()) } else { request }
    }

    /// Sets a header. Every value this crate sends is printable; any other is left out.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Request {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(crate) fn body(mut self, content_type: &str, bytes: impl Into<Bytes>) -> Request {
        self.body = RequestBody::Whole(bytes.into());
        self.header("content-type", content_type)
    }

    /// Whether a piece of a body that is streamed was taken in so long.
    pub(crate) fn has_moved_within(&self, limit: Duration) -> bool {
        match &self.body {
            RequestBody::Stream(stream) => stream.has_moved_within(limit),
            RequestBody::Whole(_) => false,
        }
    }

    /// Whether the request can be sent once more: a stream only while nothing of it was taken.
    pub(crate) fn can_repeat(&self) -> bool {
        match &self.body {
            RequestBody::Whole(_) => true,
            RequestBody::Stream(stream) => !stream.is_touched.load(Ordering::Acquire),
        }
    }
}

/// A path with parameters behind it, percent-encoded.
pub(crate) fn with_query(mut path: String, parameters: &[(&str, String)]) -> String {
    for (index, (name, value)) in parameters.iter().enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

/// A key that no other operation has.
pub(crate) fn new_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The body of a request.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Kept for as many tries as it takes.
    Whole(Bytes),
    /// Sent once, piece by piece as it comes.
    Stream(Arc<StreamOnce>),
}

impl RequestBody {
    pub(crate) fn stream(stream: ChunkStream) -> RequestBody {
        RequestBody::Stream(Arc::new(StreamOnce {
            parked: Mutex::new(Some(stream)),
            is_touched: AtomicBool::new(false),
            begun: Instant::now(),
            moved_at: AtomicU64::new(0),
        }))
    }

    pub(crate) fn to_http(&self) -> Result<Option<reqwest::Body>, Failure> {
        match self {
            RequestBody::Whole(bytes) if bytes.is_empty() => Ok(None),
            RequestBody::Whole(bytes) => Ok(Some(bytes.clone().into())),
            RequestBody::Stream(shared) => match shared.lock().take() {
                Some(stream) => {
                    let lent = Lent { stream: Some(stream), home: Arc::clone(shared) };
                    Ok(Some(reqwest::Body::wrap_stream(lent)))
                }
                None => Err(Failure::new(Cause::Unasked, "could not be sent a body that was streamed before")),
            },
        }
    }
}

/// A stream that is lent to one try after the other until something of it was taken.
pub(crate) struct StreamOnce {
    /// The stream while no try has it. Held only to take it or to put it back.
    parked: Mutex<Option<ChunkStream>>,
    is_touched: AtomicBool,
    begun: Instant,
    /// Milliseconds from `begun` to the last piece.
    moved_at: AtomicU64,
}

impl StreamOnce {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ChunkStream>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.is_touched.store(true, Ordering::Release);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_at.store(millis, Ordering::Release);
    }

    fn has_moved_within(&self, limit: Duration) -> bool {
        let moved_at = Duration::from_millis(self.moved_at.load(Ordering::Acquire));
        self.is_touched.load(Ordering::Acquire) && self.begun.elapsed().saturating_sub(moved_at) < limit
    }
}

impl std::fmt::Debug for StreamOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamOnce").field("is_touched", &self.is_touched).finish_non_exhaustive()
    }
}

/// The stream in the hands of one try; goes home untouched if the try sent nothing.
struct Lent {
    stream: Option<ChunkStream>,
    home: Arc<StreamOnce>,
}

impl Stream for Lent {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let piece = stream.as_mut().poll_next(context);
        if piece.is_ready() {
            self.home.moved();
        }
        piece.map(|piece| piece.map(|chunk| chunk.map(Bytes::from)))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.home.is_touched.load(Ordering::Acquire) {
            *self.home.lock() = self.stream.take();
        }
    }
}
