//! What the peer of a connection is doing, so that a silent or slow one can be told from one that waits.
//!
//! hyper's own limit for request heads counts an idle connection as a slow head, and nothing of it ends
//! a peer that never says a byte or never takes its answer. Three times and a count cover all of that.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::Config;
use crate::early;

/// The peer of one connection, as its stream, its requests and its watchdog see it.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests whose answer has not begun.
    waiting: u32,
    /// When the connection was opened, or bytes last moved.
    moved: Instant,
    has_spoken: bool,
    /// Since when a request head has been coming in.
    head_since: Option<Instant>,
    /// HTTP/2 has bytes that belong to no request, so heads cannot be told apart.
    is_multiplexed: bool,
}

impl Peer {
    pub(crate) fn new() -> Peer {
        Peer(Arc::new(Mutex::new(State {
            waiting: 0,
            moved: Instant::now(),
            has_spoken: false,
            head_since: None,
            is_multiplexed: false,
        })))
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        let mut state = self.lock();
        state.waiting += 1;
        state.head_since = None;
        Waiting(self.clone())
    }

    /// Ends when the peer has used up its time.
    pub(crate) async fn expired(&self, config: &Config) {
        loop {
            let left = self.lock().left(config);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn said(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.moved = Instant::now();
        state.is_multiplexed |= !state.has_spoken && bytes.starts_with(b"PRI");
        state.has_spoken = true;
        if state.waiting == 0 && !state.is_multiplexed {
            let now = state.moved;
            state.head_since.get_or_insert(now);
        }
    }

    fn took(&self) {
        self.lock().moved = Instant::now();
    }

    fn is_sending_head(&self) -> bool {
        let state = self.lock();
        state.waiting == 0 && state.head_since.is_some()
    }

    /// The state is plain values, whole at every moment, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How much longer the peer may go on as it does.
    fn left(&self, config: &Config) -> Duration {
        if self.waiting > 0 {
            return config.idle_timeout;
        }
        match (self.head_since, self.has_spoken) {
            (Some(since), _) => config.header_timeout.saturating_sub(since.elapsed()),
            (None, false) => config.header_timeout.saturating_sub(self.moved.elapsed()),
            // Looked at more often than that, because a head may begin meanwhile and has less time.
            (None, true) => config.idle_timeout.saturating_sub(self.moved.elapsed()).min(config.header_timeout),
        }
    }
}

/// A request whose answer has not begun.
#[derive(Debug)]
pub(crate) struct Waiting(Peer);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
        state.moved = Instant::now();
    }
}

/// In an answer that begins while its request still comes in: keeps the request counted until whoever reads it drops
/// this. Otherwise what still comes would count as the slow head of another request.
#[derive(Debug, Clone, Default)]
pub(crate) struct StillReading(Arc<Mutex<Option<Waiting>>>);

impl StillReading {
    /// Hands over the request that was waited for.
    pub(crate) fn keep(&self, waiting: Waiting) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiting);
    }
}

/// A stream that notes when bytes move, and gives answers that hyper makes by itself a reason.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    peer: Peer,
    router: String,
    /// What is sent in place of an answer that hyper made by itself, and how much of it is sent.
    refusal: Option<(Vec<u8>, usize)>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, peer: Peer, router: &str) -> Watched<S> {
        Watched { stream, peer, router: router.to_owned(), refusal: None }
    }

    fn refuses(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_none() && self.peer.is_sending_head() {
            self.refusal = early::in_place_of(bytes, &self.router).map(|answer| (answer, 0));
        }
        self.refusal.is_some()
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Sends the refusal, then says that all of hyper's own answer was sent.
    fn poll_refuse(&mut self, context: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        if let Some((answer, sent)) = &mut self.refusal {
            while *sent < answer.len() {
                *sent += ready!(Pin::new(&mut self.stream).poll_write(context, &answer[*sent..]))?;
            }
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.peer.said(&buffer.filled()[before..]);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.refuses(bytes) {
            return self.poll_refuse(context, bytes.len());
        }
        let sent = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.peer.took();
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if pieces.first().is_some_and(|first| self.refuses(first)) {
            return self.poll_refuse(context, pieces.iter().map(|piece| piece.len()).sum());
        }
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        self.peer.took();
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
