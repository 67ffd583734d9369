//! Advisory locks of a swamp.

use std::future::IntoFuture;
use std::time::Duration;

use hydra_core::{Lock, Timestamp};

use super::Swamp;
use super::write::Call;
use crate::blocking;
use crate::cluster::CallOptions;
use crate::endpoint::{Locking, WriteOptions};
use crate::error::Result;
use crate::settings::Fallback;

/// Takes a lock; runs when awaited and answers `None` while somebody else holds it. On disk before it is answered,
/// whatever the write interval.
///
/// ```
/// # use std::time::Duration;
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let jobs: hydra_sdk::Swamp = hydra.swamp("jobs/mail/eu")?;
/// if let Some(guard) = jobs.lock("import", Duration::from_secs(10)).wait(Duration::from_secs(5)).owner("w1").await? {
///     println!("holding it, fence {}", guard.fence());
///     guard.release().await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is locked until it is awaited"]
pub struct LockCall {
    swamp: Swamp<()>,
    lock: String,
    locking: Locking,
    options: WriteOptions,
}

impl LockCall {
    pub(super) fn new(swamp: Swamp<()>, lock: String, ttl: Duration) -> LockCall {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        LockCall { swamp, lock, locking: Locking { ttl, wait: Duration::ZERO, owner: None }, options }
    }

    /// Waits so long, up to 60 s, while somebody else holds it. Who came first holds it first. The deadline is that
    /// much later.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.locking.wait = at_most;
        self
    }

    /// Who asks, for others to see.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.locking.owner = Some(owner.into());
        self
    }

    /// What fallbacks may be asked, in place of the pool's setting. Only with [`Fallback::Exclusive`] any is: on a
    /// copy that lags behind, a lock may be granted that somebody else holds.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.options.call.fallback = Some(fallback);
        self
    }

    /// The longest it may take beside the wait, in place of the pool's setting. Calls in this process have none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.call.deadline = Some(deadline);
        self
    }

    /// The key by which servers recognise it when it comes again: as long as the lock is held it is answered with the
    /// same grant.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }
}

impl IntoFuture for LockCall {
    type Output = Result<Option<LockGuard>>;
    type IntoFuture = Call<Option<LockGuard>>;

    fn into_future(self) -> Call<Option<LockGuard>> {
        Box::pin(async move {
            let LockCall { swamp, lock, locking, options } = self;
            let held = swamp.hydra.endpoint().lock(&swamp.name, &lock, &locking, &options).await?;
            let call = CallOptions { fallback: options.call.fallback, ..swamp.options.clone() };
            Ok(held.map(|held| LockGuard { swamp, lock, held, call, is_over: false }))
        })
    }
}

/// A lock that is held until [`LockGuard::expires_at`].
///
/// Dropping it waits for nothing: inside of a tokio runtime, and in a program that uses [`blocking`], the lock is given
/// back in the background, if that lives so long, else it ends at its time. [`LockGuard::release`] tells what came of it.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard {
    swamp: Swamp<()>,
    lock: String,
    held: Lock,
    call: CallOptions,
    is_over: bool,
}

impl LockGuard {
    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.lock
    }

    /// Greater than that of every grant before: whatever the lock protects can refuse a lower one than it has seen.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.held.fence
    }

    /// Until when it is held, by the clock of the server.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.held.expires_at
    }

    /// Holds it for longer: from now on for `ttl`. Answers `false` when it is not held any more.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn renew(&mut self, ttl: Duration) -> Result<bool> {
        let Swamp { hydra, name, .. } = &self.swamp;
        match hydra.endpoint().renew_lock(name, &self.lock, &self.held.token, ttl, &self.call).await? {
            Some(held) => self.held = held,
            None => self.is_over = true,
        }
        Ok(!self.is_over)
    }

    /// Gives it back. Answers `false` when it was not held any more.
    ///
    /// # Errors
    /// When no server answered; the lock then ends at its time.
    pub async fn release(mut self) -> Result<bool> {
        self.is_over = true;
        give_back(&self.swamp, &self.lock, &self.held.token, &self.call).await
    }
}

async fn give_back(swamp: &Swamp<()>, lock: &str, token: &str, options: &CallOptions) -> Result<bool> {
    swamp.hydra.endpoint().release_lock(&swamp.name, lock, token, options).await
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let Some(runtime) = blocking::handle().filter(|_| !self.is_over) else { return };
        let (swamp, call) = (self.swamp.clone(), self.call.clone());
        let (lock, token) = (std::mem::take(&mut self.lock), std::mem::take(&mut self.held.token));
        runtime.spawn(async move {
            if let Err(error) = give_back(&swamp, &lock, &token, &call).await {
                tracing::debug!(%error, "a lock was not given back; it ends at its time");
            }
        });
    }
}
