//! Calls that may wait for longer than the disk: futures that need no runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::engine::Swamp;
use crate::error::{Error, ErrorCode, Result};
use crate::feed::Unpark;
use crate::memory::PATIENCE;
use crate::name::SwampName;
use crate::shared::Shared;
use crate::swamp::Resident;
use crate::write::Ticket;

/// The longest a call may wait for something to come: 60 s.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often memory that is short is looked at again.
const MEMORY_AGAIN: Duration = Duration::from_millis(10);

/// A call that may wait for something to come: wait for it ([`Waiting::wait`]) or await it as a future, on any
/// runtime. Dropping it ends the wait; what it has begun to write is written all the same.
#[must_use = "nothing is done until it is awaited or waited for"]
pub struct Waiting<T>(Pin<Box<dyn Future<Output = Result<T>> + Send>>);

impl<T> Waiting<T> {
    pub(crate) fn new(call: impl Future<Output = Result<T>> + Send + 'static) -> Waiting<T> {
        Waiting(Box::pin(call))
    }

    /// Blocks until it is done.
    ///
    /// # Errors
    /// Those of the call.
    pub fn wait(mut self) -> Result<T> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            match self.0.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return done,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl<T> Future for Waiting<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.0.as_mut().poll(context)
    }
}

impl<T> fmt::Debug for Waiting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

pub(crate) fn check_wait(wait: Duration) -> Result<()> {
    if wait <= MAX_WAIT {
        return Ok(());
    }
    let detail = format!("wait is {wait:?}; allowed are 0 to {} s", MAX_WAIT.as_secs());
    Err(Error::new(ErrorCode::InvalidParameter, detail))
}

/// When a wait ends that may be cut short.
pub(crate) fn until(wait: Duration, deadline: Option<Instant>) -> Instant {
    let until = Instant::now() + wait;
    deadline.map_or(until, |deadline| deadline.min(until))
}

/// Runs what may block on a thread of the engine.
pub(crate) async fn on_pool<T: Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (promise, ticket) = Ticket::pending();
    shared.pool.run(move || promise.fulfil(work()));
    ticket.await
}

async fn sleep(shared: &Shared, time: Duration) {
    let (promise, ticket) = Ticket::pending();
    shared.timer.at(Instant::now() + time, move || promise.fulfil(Ok(())));
    // A timer that was closed drops the promise, and then it is over, too.
    let _ = ticket.await;
}

/// The swamp, hydrated where need be, and looked through for files of others; waits for a while for memory.
pub(crate) async fn swamp_with_room(shared: &Arc<Shared>, name: &SwampName) -> Result<Swamp> {
    let until = Instant::now() + PATIENCE;
    loop {
        shared.check_open()?;
        let in_time = Instant::now() < until;
        if shared.memory.has_room() || !in_time {
            match resident(shared, name).await {
                Err(error) if error.code() == ErrorCode::Busy && in_time => {}
                found => return found.map(Swamp),
            }
        }
        sleep(shared, MEMORY_AGAIN).await;
    }
}

async fn resident(shared: &Arc<Shared>, name: &SwampName) -> Result<Arc<Resident>> {
    let resident = match shared.residents.get(name) {
        Some(resident) => resident,
        None => {
            let (pool, name) = (Arc::clone(shared), name.clone());
            on_pool(shared, move || pool.residents.hydrate_now(&pool, &name)).await?
        }
    };
    if resident.touch() {
        let again = Arc::clone(&resident);
        let read = match on_pool(shared, move || again.refresh_soon()).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        // What is in memory stays right without the news, so a failure here is no reason not to use it.
        if let Err(error) = read {
            tracing::warn!(swamp = %name, %error, "files of others could not be read; what is known is used");
        }
    }
    Ok(resident)
}
