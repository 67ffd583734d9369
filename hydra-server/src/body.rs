//! Request bodies: bounded before and while they are read, and dropped politely when they are refused.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http_body_util::BodyExt;
use hydra_core::wire::Gunzip;
use hydra_core::{Error, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies are counted against the memory of all bodies in units of this many bytes; shorter ones are not counted.
const UNIT: u64 = 64 << 10;
/// How long and how much of a refused body is still read, so that the peer gets to see the answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);
const DISCARD_BYTES: u64 = 256 << 20;

/// How long a body may be, and what its sender is told when it is longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    pub(crate) code: ErrorCode,
    pub(crate) what: &'static str,
}

impl Limit {
    fn exceeded(self) -> Error {
        Error::new(self.code, format!("{} is longer than {} bytes, the longest allowed", self.what, self.bytes))
    }
}

/// The memory that all request bodies share.
#[derive(Debug)]
pub(crate) struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    pub(crate) fn new(bytes: u64) -> BodyMemory {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
        BodyMemory(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// Makes `held` cover a body of `length` bytes.
    pub(crate) fn cover(&self, held: &mut Option<OwnedSemaphorePermit>, length: u64) -> Result<(), Error> {
        let wanted = length / UNIT;
        let have = held.as_ref().map_or(0, |permit| permit.num_permits() as u64);
        if wanted <= have {
            return Ok(());
        }
        let missing = u32::try_from(wanted - have).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(missing).map_err(|_| {
            Error::new(ErrorCode::Overloaded, "the request bodies in memory have reached their limit; try again")
        })?;
        match held {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }
}

/// A request body that can be read once.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Body,
    /// Takes apart what comes, where it is gzip.
    gunzip: Option<Box<Gunzip>>,
    /// Returned when the request is over.
    held: Option<OwnedSemaphorePermit>,
}

impl RequestBody {
    pub(crate) fn new(body: Body) -> RequestBody {
        RequestBody { body, gunzip: None, held: None }
    }

    /// What comes is gzip: from here on [`RequestBody::next`] answers what is in it.
    pub(crate) fn is_gzip(&mut self) {
        self.gunzip = Some(Box::default());
    }

    /// Reads the whole body. A length that is announced and too large is refused before anything is read.
    ///
    /// # Errors
    /// The code of the limit; `overloaded`; `invalid-body` when the body breaks off or pauses too long.
    pub(crate) async fn read(&mut self, limit: Limit, pause: Duration, memory: &BodyMemory) -> Result<Bytes, Error> {
        if self.body.size_hint().lower() > limit.bytes {
            return Err(limit.exceeded());
        }
        let Some(first) = self.next(pause).await? else { return Ok(Bytes::new()) };
        if self.body.is_end_stream() && first.len() as u64 <= limit.bytes {
            memory.cover(&mut self.held, first.len() as u64)?;
            return Ok(first);
        }
        let mut read = BytesMut::from(first);
        loop {
            if read.len() as u64 > limit.bytes {
                return Err(limit.exceeded());
            }
            memory.cover(&mut self.held, read.len() as u64)?;
            match self.next(pause).await? {
                Some(more) => read.extend_from_slice(&more),
                None => return Ok(read.freeze()),
            }
        }
    }

    /// The next piece of data, nothing at the end. Whoever stops waiting for it loses nothing.
    ///
    /// # Errors
    /// `invalid-body` when the body breaks off or pauses too long.
    pub(crate) async fn next(&mut self, pause: Duration) -> Result<Option<Bytes>, Error> {
        let Some(gunzip) = &mut self.gunzip else { return next_of(&mut self.body, pause).await };
        loop {
            let came = if gunzip.has_more() {
                // A few bytes may stand for very many: others have their turn in between.
                tokio::task::yield_now().await;
                gunzip.step()?
            } else if let Some(piece) = next_of(&mut self.body, pause).await? {
                gunzip.push(&piece);
                continue;
            } else {
                let rest = gunzip.end()?;
                return Ok((!rest.is_empty()).then(|| rest.into()));
            };
            if !came.is_empty() {
                return Ok(Some(came.into()));
            }
        }
    }

    /// Reads on in the background what nobody wanted. Closing a connection with unread bytes resets it, and
    /// the peer that is still sending would never see the answer.
    pub(crate) fn discard_rest(mut self) {
        if self.body.is_end_stream() {
            return;
        }
        self.held = None;
        tokio::spawn(async move {
            let mut left = DISCARD_BYTES;
            let drained = async {
                while let Some(Ok(frame)) = self.body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                    if left == 0 {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(DISCARD_TIME, drained).await;
        });
    }
}

/// The next piece of data as it came, nothing at the end; trailers are skipped.
async fn next_of(body: &mut Body, pause: Duration) -> Result<Option<Bytes>, Error> {
    let refuse = |why: String| Error::new(ErrorCode::InvalidBody, why);
    loop {
        match within(pause, body.frame()).await {
            None => return Err(refuse(format!("the body paused for more than {} s", pause.as_secs()))),
            Some(None) => return Ok(None),
            Some(Some(Err(error))) => return Err(refuse(format!("the body broke off: {error}"))),
            Some(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// What comes within `pause`. hyper hands a body over only once it was asked for, in the next turn of the connection;
/// nearly all of them have come by then. A timer, which all threads share, is for the others.
async fn within<F: Future + Unpin>(pause: Duration, mut coming: F) -> Option<F::Output> {
    if let Some(come) = poll_immediate(&mut coming).await {
        return Some(come);
    }
    next_turn().await;
    if let Some(come) = poll_immediate(&mut coming).await {
        return Some(come);
    }
    tokio::time::timeout(pause, coming).await.ok()
}

/// Ends when the task of this future runs the next time, which is soon.
async fn next_turn() {
    let mut has_come = false;
    poll_fn(|context| {
        if has_come {
            return Poll::Ready(());
        }
        has_come = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
