//! [`Swamp`]: one swamp, with its values as a type.

mod across;
mod batch;
mod list;
mod lock;
mod shift;
mod subscribe;
mod write;

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use hydra_core::{Applied, ListQuery, LockInfo, SwampName, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use across::BatchAcross;
pub use batch::Batch;
pub use list::List;
pub use lock::{LockCall, LockGuard};
pub use shift::{ShiftCall, Taken};
pub use subscribe::Subscribe;
pub use write::{Amount, Delete, Increment, Patch, Push, Put, Write};

use crate::client::Hydra;
use crate::cluster::CallOptions;
use crate::conflict::Conflict;
use crate::delay::Delays;
use crate::endpoint::Reading;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::Change;
use crate::settings::Fallback;
use crate::treasure::{SwampInfo, Treasure, Written};

/// One swamp. `V` is the type of its values; any JSON unless said otherwise.
///
/// Made by [`Hydra::swamp`] without any I/O; cheap to clone. A swamp comes into being with its first
/// treasure. Dropping the future of a write does not undo it: it may still be applied.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// struct Profile { name: String }
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let alice: hydra_sdk::Swamp<Profile> = hydra.swamp("users/profiles/alice")?;
/// let written = alice.put("me", &Profile { name: "Alice".into() }).await?;
/// alice.put("me", &Profile { name: "Alicia".into() }).if_version(&written.version).await?;
/// assert_eq!(alice.get("me").await?.map(|profile| profile.name).as_deref(), Some("Alicia"));
/// # Ok(()) }
/// ```
pub struct Swamp<V = serde_json::Value> {
    hydra: Hydra,
    name: SwampName,
    options: CallOptions,
    values: PhantomData<fn() -> V>,
}

impl<V> Swamp<V> {
    pub(crate) fn new(hydra: Hydra, name: SwampName) -> Swamp<V> {
        Swamp { hydra, name, options: CallOptions::default(), values: PhantomData }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &SwampName {
        &self.name
    }

    /// The same swamp, with another limit on what fallbacks are asked, for every call through this handle.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Swamp<V> {
        self.options.fallback = Some(fallback);
        self
    }

    /// The same swamp, with another longest time for every call through this handle. Calls in this
    /// process have none.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Swamp<V> {
        self.options.deadline = Some(deadline);
        self
    }

    /// The same swamp, with another type of values.
    #[must_use]
    pub fn typed<T>(&self) -> Swamp<T> {
        Swamp { hydra: self.hydra.clone(), name: self.name.clone(), options: self.options.clone(), values: PhantomData }
    }

    /// Removes a key. Awaited it answers whether there was something to remove.
    pub fn delete(&self, key: impl Into<String>) -> Delete {
        Delete::new(self.handle(), key.into())
    }

    /// Adds to the number under a key, 0 where there is none. Awaited it answers the sum. However
    /// often it has to be sent, it counts once.
    pub fn increment<N: Amount>(&self, key: impl Into<String>, by: N) -> Increment<N> {
        Increment::new(self.handle(), key.into(), by)
    }

    /// Merges another value into the JSON value under a key (RFC 7396): members that are null are removed, objects
    /// are merged, anything else takes the place of what was there. Awaited it answers the version.
    pub fn merge<P: Serialize + ?Sized>(&self, key: impl Into<String>, patch: &P) -> Patch {
        let change = Value::from_serialize(patch).map(Change::Merge);
        Patch::new(self.handle(), key.into(), change)
    }

    /// Changes the JSON value under a key by the operations of a JSON Patch (RFC 6902): all of them or none. Awaited
    /// it answers the version. What is stored decides, so fallbacks are asked only with [`Fallback::Exclusive`].
    pub fn patch<P: Serialize + ?Sized>(&self, key: impl Into<String>, operations: &P) -> Patch {
        let change = Value::from_serialize(operations).map(Change::Steps);
        Patch::new(self.handle(), key.into(), change)
    }

    /// Stores a value of any kind under a new key, as [`Swamp::push`] does.
    pub fn push_value(&self, value: Value) -> Push {
        Push::new(self.handle(), Ok(value))
    }

    /// Stores a value of any kind: JSON as it was written, text, or bytes with their content type.
    pub fn put_value(&self, key: impl Into<String>, value: Value) -> Put {
        Put::new(self.handle(), key.into(), Ok(value))
    }

    /// Reads a value of any kind; `None` where there is none.
    ///
    /// # Errors
    /// When no server answered, or the one that did could not tell.
    pub async fn get_value(&self, key: impl AsRef<str>) -> Result<Option<Value>> {
        Ok(self.find(&Reading::of(key.as_ref())).await?.map(|treasure| treasure.value))
    }

    /// Reads a part of the JSON value under a key: what stands at a JSON Pointer, e.g. `/address/city`. `None` where
    /// there is no treasure or nothing at that place.
    ///
    /// # Errors
    /// Those of [`Swamp::get`]; [`ErrorKind::Invalid`] when the path is no JSON Pointer.
    pub async fn get_path<T: DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
        path: impl AsRef<str>,
    ) -> Result<Option<T>> {
        let reading = Reading { path: path.as_ref().parse()?, ..Reading::of(key.as_ref()) };
        let found = self.find(&reading).await?.map(Treasure::decode).transpose()?;
        Ok(found.map(|treasure| treasure.value))
    }

    /// How many treasures there are, without expired ones; 0 where the swamp does not exist.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn count(&self) -> Result<u64> {
        self.hydra.endpoint().count(&self.name, &ListQuery::default(), &self.options).await
    }

    /// What is known about the swamp; `None` where it does not exist.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn info(&self) -> Result<Option<SwampInfo>> {
        self.hydra.endpoint().info(&self.name, &self.options).await
    }

    /// Writes that lost against others which had not seen them, the newest first: what two servers wrote to one key
    /// while neither knew of the other. They are kept for 7 days, the 1 000 newest of a swamp.
    ///
    /// ```
    /// # async fn example(alice: hydra_sdk::Swamp) -> hydra_sdk::Result<()> {
    /// use hydra_sdk::LostContent;
    ///
    /// for conflict in alice.conflicts().await? {
    ///     if let LostContent::Value(value) = &conflict.lost.content {
    ///         println!("{}: {value:?} of {:?} does not show", conflict.key, conflict.lost.server);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When no server answered.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.hydra.endpoint().conflicts(&self.name, &self.options).await
    }

    /// Everything acknowledged so far is on disk when this is done, whatever the write interval.
    ///
    /// # Errors
    /// When the primary did not answer (a fallback has other writes), or its disk failed.
    pub async fn flush(&self) -> Result<()> {
        self.hydra.endpoint().flush(&self.name, &self.options).await
    }

    /// Removes the swamp with everything in it; cannot be undone. Answers whether there was anything.
    ///
    /// # Errors
    /// When no server answered. A fallback is asked only with [`Fallback::Exclusive`].
    pub async fn destroy(&self) -> Result<bool> {
        self.hydra.endpoint().destroy(&self.name, &self.options).await
    }

    /// Takes a lock of this swamp, held for `ttl` unless it is renewed. Awaited it answers `None` while somebody else
    /// holds it.
    ///
    /// Advisory: it stops nobody who does not ask for it. What it protects should refuse a [`LockGuard::fence`] lower
    /// than one it has seen.
    pub fn lock(&self, lock: impl Into<String>, ttl: Duration) -> LockCall {
        LockCall::new(self.handle(), lock.into(), ttl)
    }

    /// Who holds a lock of this swamp; `None` when nobody does.
    ///
    /// # Errors
    /// When no server answered. Only who decides is asked, as with [`Swamp::update`].
    pub async fn lock_info(&self, lock: impl AsRef<str>) -> Result<Option<LockInfo>> {
        let options = CallOptions { fallback: Some(self.exclusive_fallback()), ..self.options.clone() };
        self.hydra.endpoint().lock_info(&self.name, lock.as_ref(), &options).await
    }

    /// What is stored decides, so only who decides is asked: the primary, unless opted out of that.
    fn exclusive_fallback(&self) -> Fallback {
        match self.options.fallback {
            Some(Fallback::Exclusive) => Fallback::Exclusive,
            _ => Fallback::Never,
        }
    }

    async fn find(&self, reading: &Reading<'_>) -> Result<Option<Treasure<Value>>> {
        self.hydra.endpoint().get(&self.name, reading, &self.options).await
    }

    pub(crate) fn hydra(&self) -> &Hydra {
        &self.hydra
    }

    pub(crate) fn options(&self) -> &CallOptions {
        &self.options
    }

    fn handle(&self) -> Swamp<()> {
        self.typed()
    }
}

impl<V: Serialize + DeserializeOwned> Swamp<V> {
    /// Reads a value; `None` where there is none. Bytes that are no JSON read as
    /// `{"$binary": base64, "contentType": …}`; [`Swamp::get_value`] gives them as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the value has another shape than `V`; otherwise when no server
    /// answered, or the one that did could not tell because a file of the swamp is damaged or missing.
    pub async fn get(&self, key: impl AsRef<str>) -> Result<Option<V>> {
        Ok(self.treasure(key).await?.map(|treasure| treasure.value))
    }

    /// Reads a value with its version and times.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub async fn treasure(&self, key: impl AsRef<str>) -> Result<Option<Treasure<V>>> {
        self.find(&Reading::of(key.as_ref())).await?.map(Treasure::decode).transpose()
    }

    /// Reads a value with its version and times, also one that has expired and was not dropped yet.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub async fn treasure_with_expired(&self, key: impl AsRef<str>) -> Result<Option<Treasure<V>>> {
        let reading = Reading { with_expired: true, ..Reading::of(key.as_ref()) };
        self.find(&reading).await?.map(Treasure::decode).transpose()
    }

    /// Stores a value, in place of what was there. Awaited it answers the version.
    pub fn put(&self, key: impl Into<String>, value: &V) -> Put {
        Put::new(self.handle(), key.into(), Value::from_serialize(value))
    }

    /// Stores a value under a new key. Awaited it answers the key: keys sort by the time they were made. However often
    /// it has to be sent, there is one.
    pub fn push(&self, value: &V) -> Push {
        Push::new(self.handle(), Value::from_serialize(value))
    }

    /// Changes a value by a function of what is there. `change` gets the value, `None` where there is
    /// none, and answers the new one, or `None` to leave everything as it is.
    ///
    /// It is called again when somebody else was faster. Answers what was stored, `None` where
    /// nothing was. Depends on what is stored, so fallbacks are asked only with [`Fallback::Exclusive`].
    ///
    /// # Errors
    /// Those of [`Swamp::get`] and [`Swamp::put`]; [`ErrorKind::VersionMismatch`] when others were
    /// faster until the deadline.
    pub async fn update<F>(&self, key: impl AsRef<str>, mut change: F) -> Result<Option<Written>>
    where
        F: FnMut(Option<V>) -> Option<V> + Send,
        V: Send,
    {
        let key = key.as_ref();
        let current = self.clone().fallback(self.exclusive_fallback());
        let until = Instant::now() + self.options.deadline.unwrap_or(LONGEST_UPDATE);
        let mut delays = Delays::new();
        loop {
            let found = current.treasure(key).await?;
            let (value, version) = found.map(|found| (found.value, found.version)).unzip();
            let Some(value) = change(value) else { return Ok(None) };
            let put = current.put(key, &value);
            let put = match &version {
                Some(version) => put.if_version(version),
                None => put.create_only(),
            };
            match put.await {
                Ok(written) => return Ok(Some(written)),
                Err(error) if !was_slower(&error) || Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(delays.next()).await,
            }
        }
    }

    /// Takes the first treasures of an order, for good or on lease: a queue. Awaited it answers what was taken.
    pub fn shift(&self) -> ShiftCall<V> {
        ShiftCall::new(self.clone())
    }

    /// The treasures in an order, with conditions: a page, all as a stream, or how many.
    pub fn list(&self) -> List<V> {
        List::new(self.clone())
    }

    /// Operations that are carried out together.
    pub fn batch(&self) -> Batch<V> {
        Batch::new(self.clone())
    }

    /// Reads many keys, in this order, up to 1 000 at once.
    ///
    /// # Errors
    /// Those of [`Swamp::get`].
    pub async fn get_many<K: Into<String>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Treasure<V>>>> {
        let batch = keys.into_iter().fold(self.batch(), |batch, key| batch.get(key));
        let results = batch.run_in_parts().await?;
        results.into_iter().map(|result| batch::got(result?)).collect()
    }

    /// Stores many values, up to 1 000 at once; each item has a result of its own, in this order.
    ///
    /// # Errors
    /// When one of the batches as a whole was not carried out.
    pub async fn put_many<'v, K: Into<String>>(
        &self,
        items: impl IntoIterator<Item = (K, &'v V)>,
    ) -> Result<Vec<Result<Written>>>
    where
        V: 'v,
    {
        let batch = items.into_iter().fold(self.batch(), |batch, (key, value)| batch.put(key, value));
        let results = batch.run_in_parts().await?;
        Ok(results.into_iter().map(|result| batch::put(result?)).collect())
    }
}

/// How long [`Swamp::update`] goes on while others are faster.
const LONGEST_UPDATE: Duration = Duration::from_secs(5);

/// Whether a conditional write was refused because somebody else was faster, and did nothing.
fn was_slower(error: &Error) -> bool {
    error.applied() == Applied::No && matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::AlreadyExists)
}

impl<V> Clone for Swamp<V> {
    fn clone(&self) -> Swamp<V> {
        self.typed()
    }
}

impl<V> fmt::Debug for Swamp<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swamp").field("name", &self.name.as_str()).finish_non_exhaustive()
    }
}
