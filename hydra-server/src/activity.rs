//! What a connection is doing, so that a silent or slow peer can be told from one that waits for an answer.
//!
//! hyper times out request heads, but counts an idle keep-alive connection as a slow head and has no limit
//! for a peer that never says a byte or never reads. One look at these few numbers now and then covers all,
//! and costs a request nothing but stores.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hydra_core::coarse_ms;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Config;
use crate::early;

/// The state of one connection, shared by its stream, its requests and its watchdog.
#[derive(Debug)]
pub(crate) struct Activity {
    /// See [`coarse_ms`].
    opened: u64,
    /// Requests being worked on.
    in_flight: AtomicU32,
    /// When a byte last went in or out, in milliseconds after `opened`; 0 before the first.
    last_byte: AtomicU64,
    /// When the head that is being read began; 0 when none is.
    head_since: AtomicU64,
    /// HTTP/2 sends bytes that belong to no request, so heads cannot be told apart.
    multiplexed: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            opened: coarse_ms(),
            in_flight: AtomicU32::new(0),
            last_byte: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
        })
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn request(self: &Arc<Activity>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn now(&self) -> u64 {
        (coarse_ms() - self.opened).max(1)
    }

    fn received(&self, bytes: &[u8]) {
        let now = self.now();
        let first = self.last_byte.swap(now, Ordering::Relaxed) == 0;
        if first && bytes.starts_with(b"PRI") {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        let idle = self.in_flight.load(Ordering::Relaxed) == 0 && !self.multiplexed.load(Ordering::Relaxed);
        if idle && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(now, Ordering::Relaxed);
        }
    }

    /// Whether a head has begun to come in and no request is being worked on.
    fn is_reading_head(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) != 0 && self.in_flight.load(Ordering::Relaxed) == 0
    }

    fn sent(&self) {
        self.last_byte.store(self.now(), Ordering::Relaxed);
    }

    /// How much longer the connection may go on as it is.
    fn remaining(&self, config: &Config) -> Duration {
        let now = self.now();
        let left = |since: u64, limit: Duration| limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)));
        let head_since = self.head_since.load(Ordering::Relaxed);
        let last_byte = self.last_byte.load(Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            config.idle_timeout
        } else if head_since > 0 {
            left(head_since, config.header_timeout)
        } else if last_byte > 0 {
            // Looked at more often than needed, because a head may begin meanwhile and has less time.
            left(last_byte, config.idle_timeout).min(config.header_timeout)
        } else {
            left(0, config.header_timeout)
        }
    }

    /// Ends when the peer has used up its time.
    pub(crate) async fn expired(&self, config: &Config) {
        loop {
            let remaining = self.remaining(config);
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining).await;
        }
    }
}

/// A request that is being worked on.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

/// In an answer that begins while its request still comes in: keeps the request counted until whoever reads it drops
/// the slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct StillReading(Arc<Mutex<Option<InFlight>>>);

impl StillReading {
    /// Hands over the request that was being worked on.
    pub(crate) fn keep(&self, request: InFlight) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.sent();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that notes when bytes move.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    server: String,
    /// What is sent in place of an answer that hyper made itself, and how much of it is sent.
    refusal: Option<(Vec<u8>, usize)>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>, server: &str) -> Watched<S> {
        Watched { stream, activity, server: server.to_owned(), refusal: None }
    }

    /// Whether hyper is about to answer bytes that never became a request.
    fn refuses(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_none() && self.activity.is_reading_head() {
            self.refusal = early::instead_of(bytes, &self.server).map(|answer| (answer, 0));
        }
        self.refusal.is_some()
    }

    fn note_sent(&self, outcome: &Poll<io::Result<usize>>) {
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.activity.sent();
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Sends the refusal, then says that all of hyper's own answer was sent.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        if let Some((answer, sent)) = &mut self.refusal {
            while *sent < answer.len() {
                *sent += ready!(Pin::new(&mut self.stream).poll_write(cx, &answer[*sent..]))?;
            }
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received(&buf.filled()[before..]);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.refuses(buf) {
            return self.poll_refuse(cx, buf.len());
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_sent(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.first().is_some_and(|first| self.refuses(first)) {
            return self.poll_refuse(cx, bufs.iter().map(|buf| buf.len()).sum());
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_sent(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
