//! Listening to a swamp: what changes in all of it, or in one treasure.

use std::time::Duration;

use hydra_core::{EventId, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Swamp;
use crate::error::Result;
use crate::event::{EventStream, Subscription, Waited};

/// What to listen to; see [`Subscribe::stream`].
#[derive(Debug)]
#[must_use = "nothing is listened to until stream()"]
pub struct Subscribe<V> {
    swamp: Swamp<V>,
    wanted: Subscription,
}

impl<V: DeserializeOwned + Send + 'static> Subscribe<V> {
    /// Goes on behind an event of this swamp. Where the server does not know it any more, or another server answers,
    /// the stream begins with a reset and a snapshot.
    pub fn since(mut self, id: EventId) -> Self {
        self.wanted.since = Some(id);
        self
    }

    /// Begins with every treasure there is, and says when that is done.
    pub fn snapshot(mut self) -> Self {
        self.wanted.snapshot = true;
        self
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.wanted.prefix = Some(prefix.into());
        self
    }

    /// Keys and what is known about them, without values.
    pub fn keys_only(mut self) -> Subscribe<()> {
        self.wanted.keys_only = true;
        Subscribe { swamp: self.swamp.typed(), wanted: self.wanted }
    }

    /// Events tell what was there before.
    pub fn with_old(mut self) -> Self {
        self.wanted.old = true;
        self
    }

    /// The events, from now on unless said otherwise. Connects when first polled.
    #[must_use]
    pub fn stream(self) -> EventStream<V> {
        let Swamp { hydra, name, options, .. } = self.swamp;
        EventStream::new(hydra, name, self.wanted, options)
    }
}

impl<V: Serialize + DeserializeOwned> Swamp<V> {
    /// Listens to what changes, in order and without a gap.
    ///
    /// ```
    /// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
    /// use std::collections::HashMap;
    ///
    /// use futures_util::StreamExt;
    /// use hydra_sdk::EventKind;
    ///
    /// let cart: hydra_sdk::Swamp<u32> = hydra.swamp("shop/carts/u17")?;
    /// let mut held = HashMap::new();
    /// let mut events = cart.subscribe().snapshot().stream();
    /// while let Some(event) = events.next().await {
    ///     match event?.kind {
    ///         EventKind::Put { treasure, .. } => drop(held.insert(treasure.key, treasure.value)),
    ///         EventKind::Delete { key, .. } | EventKind::Expire { key, .. } => drop(held.remove(&key)),
    ///         EventKind::Destroy | EventKind::Reset { .. } => held.clear(),
    ///         EventKind::Live => println!("{} articles", held.len()),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn subscribe(&self) -> Subscribe<V> {
        Subscribe { swamp: self.clone(), wanted: Subscription::default() }
    }

    /// Waits until a treasure is at another version than the one known, `None` where none is known to be there; at
    /// most so long. Answers at once where it is already.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub async fn wait(&self, key: impl AsRef<str>, known: Option<&Version>, at_most: Duration) -> Result<Waited<V>> {
        let waited = self.hydra.endpoint().wait(&self.name, key.as_ref(), known, at_most, &self.options).await?;
        waited.decode()
    }
}
