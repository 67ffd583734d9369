//! How many feeds and long polls are open, and how all of them end when the server does.

use std::sync::Arc;

use hydra_core::{Error, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Room for feeds and long polls.
#[derive(Debug)]
pub(crate) struct Streams {
    room: Arc<Semaphore>,
    most: usize,
    ending: CancellationToken,
}

impl Streams {
    pub(crate) fn new(most: usize) -> Streams {
        Streams { room: Arc::new(Semaphore::new(most)), most, ending: CancellationToken::new() }
    }

    /// Room for one more, as long as the permit is held.
    ///
    /// # Errors
    /// `too-many-streams`.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let detail = format!("{} feeds and long polls are open, and no more are allowed", self.most);
            Error::new(ErrorCode::TooManyStreams, detail).with_hint("close some, or read several swamps by one feed")
        })
    }

    /// Ends all of them.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Done when all of them end.
    pub(crate) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ending.clone().cancelled_owned()
    }
}
