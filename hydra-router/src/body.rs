//! Request bodies: kept while they are short, so that they can be sent again, and streamed otherwise.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body::Body;
use http_body_util::BodyExt;
use hydra_core::wire::is_gzip_body;
use hydra_core::{Error, ErrorCode};
use hydra_sdk::{Chunk, ChunkStream};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::config::MAX_KEPT_BYTES;

/// Kept bodies are counted in units of this many bytes; shorter ones are not counted.
const UNIT: u64 = 64 << 10;
/// How long and how much of a refused body is still read, so that the peer gets to see the answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);
const DISCARD_BYTES: usize = 256 << 20;

/// The memory that all kept bodies share.
#[derive(Debug, Clone)]
pub(crate) struct KeptMemory(Arc<Semaphore>);

impl KeptMemory {
    pub(crate) fn new(bytes: u64) -> KeptMemory {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
        KeptMemory(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for a body of this length.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub(crate) fn room(&self, length: u64) -> Result<OwnedSemaphorePermit, Error> {
        self.reserve(length).ok_or_else(|| {
            Error::new(ErrorCode::Overloaded, "the request bodies in memory have reached their limit; try again")
        })
    }

    /// Room for a body of this length, if there is any.
    fn reserve(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(length / UNIT).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(units).ok()
    }
}

/// What became of a request body.
pub(crate) enum Taken {
    /// All of it; the permit is given back when the request is over.
    Whole(Bytes, OwnedSemaphorePermit),
    /// It comes piece by piece.
    Stream(ChunkStream),
}

/// A request body that can be taken once. When it is dropped before its end, the rest is read in the
/// background: closing a connection with unread bytes resets it, and the peer that is still sending
/// would never see the answer.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    pause: Duration,
    /// The next piece was asked for once and had not come.
    is_awaited: bool,
    patience: Option<Pin<Box<Sleep>>>,
    /// The peer waits for a `100 Continue` before it sends anything.
    is_held_back: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, pause: Duration, is_held_back: bool) -> RequestBody {
        RequestBody { incoming: Some(incoming), pause, is_awaited: false, patience: None, is_held_back }
    }

    /// Reads a body that is to go to every server.
    ///
    /// # Errors
    /// `body-too-large`; `invalid-body` when it breaks off or pauses too long.
    pub(crate) async fn read(mut self, limit: u64) -> Result<Bytes, Error> {
        let mut read = BytesMut::new();
        while let Some(piece) = self.next().await {
            read.extend_from_slice(&piece.map_err(|error| broken(&error))?);
            if read.len() as u64 > limit {
                let detail = format!("the body is longer than {limit} bytes, the longest allowed");
                return Err(Error::new(ErrorCode::BodyTooLarge, detail));
            }
        }
        Ok(read.freeze())
    }

    /// The body piece by piece, also a short one: for what is answered while it comes.
    pub(crate) fn stream(self) -> ChunkStream {
        self.map_pieces().boxed()
    }

    /// Reads a body that is taken apart; the permit is given back when the request is over.
    ///
    /// # Errors
    /// Those of [`RequestBody::read`]; `overloaded` when there is no room for it.
    pub(crate) async fn keep(self, limit: u64, memory: &KeptMemory) -> Result<(Bytes, OwnedSemaphorePermit), Error> {
        let length = self.incoming.as_ref().and_then(|incoming| incoming.size_hint().upper()).unwrap_or(limit);
        let room = memory.room(length.min(limit))?;
        Ok((self.read(limit).await?, room))
    }

    /// The whole body where it is short and there is room, else a stream.
    ///
    /// # Errors
    /// `invalid-body` when a short body breaks off or pauses too long.
    pub(crate) async fn take(mut self, memory: &KeptMemory) -> Result<Taken, Error> {
        let Some(room) = self.length_to_keep().and_then(|length| memory.reserve(length)) else {
            return Ok(Taken::Stream(self.map_pieces().boxed()));
        };
        let Some(first) = self.next().await else { return Ok(Taken::Whole(Bytes::new(), room)) };
        let first = first.map_err(|error| broken(&error))?;
        if self.is_at_end() {
            return Ok(Taken::Whole(first, room));
        }
        let mut read = BytesMut::from(first);
        while let Some(piece) = self.next().await {
            read.extend_from_slice(&piece.map_err(|error| broken(&error))?);
            if read.len() as u64 > MAX_KEPT_BYTES {
                let begun = stream::iter([Ok(Chunk::from(read.freeze()))]);
                return Ok(Taken::Stream(begun.chain(self.map_pieces()).boxed()));
            }
        }
        Ok(Taken::Whole(read.freeze(), room))
    }

    /// How much memory to set aside; nothing for a body that is known to be too long.
    fn length_to_keep(&self) -> Option<u64> {
        let hint = self.incoming.as_ref()?.size_hint();
        (hint.lower() <= MAX_KEPT_BYTES).then(|| hint.upper().unwrap_or(MAX_KEPT_BYTES).min(MAX_KEPT_BYTES))
    }

    fn is_at_end(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn map_pieces(self) -> impl stream::Stream<Item = io::Result<Chunk>> + Send {
        self.map(|piece| piece.map(Chunk::from))
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        self.is_held_back = false;
        loop {
            match ready!(Pin::new(&mut *incoming).poll_frame(context)) {
                None => {
                    self.incoming = None;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                // Trailers mean nothing here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
            }
        }
    }
}

impl stream::Stream for RequestBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(piece) = self.poll_piece(context) {
            (self.is_awaited, self.patience) = (false, None);
            return Poll::Ready(piece);
        }
        // hyper hands over what has come once it was asked for it, in the next turn of the connection: no timer for that.
        if !std::mem::replace(&mut self.is_awaited, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let pause = self.pause;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(patience.as_mut().poll(context));
        let why = format!("the peer paused for more than {} s", pause.as_secs());
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, why))))
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let unread = self.incoming.take().filter(|incoming| !self.is_held_back && !incoming.is_end_stream());
        if let (Some(unread), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DISCARD_TIME, discard(unread)));
        }
    }
}

async fn discard(mut unread: Incoming) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = unread.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// Whether the body is gzip, for what takes it apart here. What is passed on is for the servers to judge.
///
/// # Errors
/// `unsupported-media-type` for another encoding.
pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool, Error> {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let sent = lines.next().map_or(Ok(false), |line| is_gzip_body(&String::from_utf8_lossy(line.as_bytes())))?;
    if lines.next().is_some() {
        return Err(Error::new(ErrorCode::UnsupportedMediaType, "Content-Encoding came more than once"));
    }
    Ok(sent)
}

pub(crate) fn broken(error: &io::Error) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("the body did not come to its end: {error}"))
}
