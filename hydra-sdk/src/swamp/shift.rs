//! Queues: the first treasures of an order, taken for good or on lease.

use std::future::IntoFuture;
use std::time::Duration;

use hydra_core::{Applied, Order, Shift, Timestamp, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Swamp;
use super::write::{Call, Put, write_options};
use crate::endpoint::WriteOptions;
use crate::error::{ErrorKind, Result};
use crate::settings::Fallback;
use crate::treasure::Treasure;

/// Takes the first treasures of an order, so that no two callers take the same; runs when awaited and answers what it
/// took, nothing where there was nothing to take.
///
/// Offered is what has no expiry and what is past it: a treasure that expires later is a job for later, or one that
/// somebody has on lease. A treasure that expired too long ago (a policy says how long, 7 days by default) is gone.
///
/// ```
/// # use std::time::Duration;
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let jobs: hydra_sdk::Swamp<String> = hydra.swamp("jobs/mail/eu")?;
/// let wait = Duration::from_secs(20);
/// for job in jobs.shift().take(10).lease(Duration::from_secs(30)).wait(wait).await? {
///     println!("{}", job.value()?);
///     job.ack().await?; // a worker that dies before this loses nothing
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is taken until it is awaited"]
pub struct ShiftCall<V> {
    swamp: Swamp<V>,
    shift: Shift,
    wait: Duration,
    options: WriteOptions,
}

impl<V> ShiftCall<V> {
    pub(super) fn new(swamp: Swamp<V>) -> ShiftCall<V> {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        ShiftCall { swamp, shift: Shift::default(), wait: Duration::ZERO, options }
    }

    /// At most so many, up to 1 000. Default 1.
    pub fn take(mut self, most: usize) -> Self {
        self.shift.take = most;
        self
    }

    /// The first by what. Default when they came into being.
    pub fn by(mut self, order: Order) -> Self {
        self.shift.order = order;
        self
    }

    /// From the last to the first.
    pub fn descending(mut self) -> Self {
        self.shift.descending = true;
        self
    }

    /// Only what is past its expiry.
    pub fn due(mut self) -> Self {
        self.shift.due = true;
        self
    }

    /// They stay, and no other shift is offered them for this span, up to 24 h: [`Taken::ack`] removes one for good,
    /// [`Taken::extend`] keeps it for longer. Without a lease they are removed at once.
    pub fn lease(mut self, span: Duration) -> Self {
        self.shift.lease = Some(span);
        self
    }

    /// Waits so long, up to 60 s, where there is nothing to take. Who came first takes first. The deadline is that
    /// much later.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    write_options!();
}

impl<V: Send + 'static> IntoFuture for ShiftCall<V> {
    type Output = Result<Vec<Taken<V>>>;
    type IntoFuture = Call<Vec<Taken<V>>>;

    fn into_future(self) -> Call<Vec<Taken<V>>> {
        Box::pin(async move {
            let ShiftCall { swamp, shift, wait, options } = self;
            let is_leased = shift.lease.is_some();
            let treasures = swamp.hydra.endpoint().shift(&swamp.name, &shift, wait, &options).await?;
            let fallback = options.call.fallback.or(swamp.options.fallback);
            let take = |treasure| {
                let mut swamp = swamp.clone();
                swamp.options.fallback = fallback;
                Taken { swamp, treasure, is_leased }
            };
            Ok(treasures.into_iter().map(take).collect())
        })
    }
}

/// A treasure that a shift took. Its value is decoded when it is asked for, so that one of another shape costs the
/// others nothing.
#[derive(Debug)]
pub struct Taken<V> {
    swamp: Swamp<V>,
    treasure: Treasure<Value>,
    is_leased: bool,
}

impl<V> Taken<V> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.treasure.key
    }

    /// The treasure, with its value as it was put. On lease with the version and expiry of the lease.
    #[must_use]
    pub fn treasure(&self) -> &Treasure<Value> {
        &self.treasure
    }

    /// Removes it for good: it is done. Answers `false` when the lease was over, and somebody else may work on it.
    /// Without a lease it was removed before, and there is nothing to do.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn ack(&self) -> Result<bool> {
        if !self.is_leased {
            return Ok(true);
        }
        still(self.swamp.delete(&self.treasure.key).if_version(&self.treasure.version).await)
            .map(|removed| removed == Some(true))
    }

    /// Keeps it for longer: from now on for `span`. Answers `false` when the lease was over, or there was none.
    /// It is put again as it is, with another expiry, under the condition that nobody changed it.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn extend(&mut self, span: Duration) -> Result<bool> {
        if !self.is_leased {
            return Ok(false);
        }
        let Treasure { key, value, version, .. } = &self.treasure;
        let put = Put::new(self.swamp.handle(), key.clone(), Ok(value.clone()));
        let Some(written) = still(put.ttl(span).if_version(version).await)? else { return Ok(false) };
        self.treasure.version = written.version;
        self.treasure.expires_at = Some(Timestamp::now().after(span));
        Ok(true)
    }
}

impl<V: Serialize + DeserializeOwned> Taken<V> {
    /// The value.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it has another shape than `V`.
    pub fn value(&self) -> Result<V> {
        Ok(self.treasure.clone().decode()?.value)
    }
}

/// `None` when a lease was over.
fn still<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::VersionMismatch && error.applied() == Applied::No => Ok(None),
        Err(error) => Err(error),
    }
}
