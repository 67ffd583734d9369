//! [`SubscribeMany`]: the changes of all swamps whose names match a pattern, whichever servers they are on.

use std::marker::PhantomData;

use hydra_core::Pattern;
use serde::de::DeserializeOwned;

use crate::client::Hydra;
use crate::event::{EventStream, Subscription};

/// What to listen to; made by [`Hydra::subscribe`].
///
/// ```
/// use futures_util::StreamExt;
/// use hydra_sdk::EventKind;
///
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let mut events = hydra.subscribe::<serde_json::Value>(&"shop/carts/*".parse()?).stream();
/// while let Some(event) = events.next().await {
///     let event = event?;
///     match (event.swamp, event.kind) {
///         (Some(cart), EventKind::Put { treasure, .. }) => println!("{cart}: {} is there", treasure.key),
///         (Some(cart), EventKind::Delete { key, .. }) => println!("{cart}: {key} is gone"),
///         (None, EventKind::Reset { reason }) => println!("something may be missing: {reason}"),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is listened to until stream()"]
pub struct SubscribeMany<V> {
    hydra: Hydra,
    pattern: Pattern,
    wanted: Subscription,
    values: PhantomData<fn() -> V>,
}

impl<V: DeserializeOwned + Send + 'static> SubscribeMany<V> {
    pub(crate) fn new(hydra: Hydra, pattern: Pattern) -> SubscribeMany<V> {
        SubscribeMany { hydra, pattern, wanted: Subscription::default(), values: PhantomData }
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.wanted.prefix = Some(prefix.into());
        self
    }

    /// Keys and what is known about them, without values.
    pub fn keys_only(mut self) -> SubscribeMany<()> {
        self.wanted.keys_only = true;
        SubscribeMany { hydra: self.hydra, pattern: self.pattern, wanted: self.wanted, values: PhantomData }
    }

    /// Events tell what was there before.
    pub fn with_old(mut self) -> Self {
        self.wanted.old = true;
        self
    }

    /// The events, from now on, each with its swamp. Connects to every server when first polled, and to those that a new
    /// map brings.
    ///
    /// Every server tells what changes through it, and says `live` when it begins. The events of one swamp come in
    /// order, those of different servers as they come. A change may be told twice, by the server that made it and by
    /// one that got a copy of it. A server that was away too long, or started anew, tells that with
    /// [`EventKind::Reset`](crate::EventKind::Reset), and no snapshot follows: read what you need then.
    ///
    /// A router tells all of that in one feed; with it, what broke off goes on exactly at one server, and with
    /// [`EventKind::Reset`](crate::EventKind::Reset) at the others.
    #[must_use]
    pub fn stream(self) -> EventStream<V> {
        EventStream::of_many(self.hydra, self.pattern, self.wanted)
    }
}
