//! Writes of one treasure: made, given options, and run by awaiting them.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use hydra_core::{Condition, Number, SwampName, Timestamp, Value, Version};

use super::Swamp;
use crate::endpoint::WriteOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::operation::{Change, Done, Expiry, Operation};
use crate::request::new_key;
use crate::settings::Fallback;
use crate::treasure::{Pushed, Written};

/// A call that runs when it is awaited.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The options that every write has.
macro_rules! write_options {
    () => {
        /// On disk before it is acknowledged, whatever the write interval.
        pub fn sync(mut self) -> Self {
            self.options.sync = true;
            self
        }

        /// What fallbacks may be asked, in place of the pool's setting.
        pub fn fallback(mut self, fallback: Fallback) -> Self {
            self.options.call.fallback = Some(fallback);
            self
        }

        /// The longest it may take, in place of the pool's setting. Calls in this process have none.
        pub fn deadline(mut self, deadline: Duration) -> Self {
            self.options.call.deadline = Some(deadline);
            self
        }

        /// The key by which servers recognise it when it comes again, in place of the one that is
        /// made for every write. Give one that you keep to ask again after a crash of your own:
        /// the same key with the same operation counts once.
        pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
            self.options.idempotency_key = Some(key.into());
            self
        }
    };
}
pub(super) use write_options;

/// One write that was made and not awaited, so that it can go into a batch with the conditions that were set on it:
/// a [`Put`], [`Patch`], [`Delete`] or [`Increment`]. What else was set on it (sync, deadline, fallback, idempotency
/// key) is for the batch to say.
#[derive(Debug)]
pub struct Write {
    pub(super) name: SwampName,
    pub(super) operation: Result<Operation>,
}

/// What every write becomes when it goes into a batch.
macro_rules! into_write {
    ($($write:ident $(<$n:ident: $bound:ident>)?),*) => {$(
        impl$(<$n: $bound>)? From<$write$(<$n>)?> for Write {
            fn from(write: $write$(<$n>)?) -> Write {
                let name = write.swamp.name.clone();
                let operation = write.operation().map_err(|error| error.about(name.as_str()));
                Write { name, operation }
            }
        }
    )*};
}
into_write!(Put, Patch, Delete, Increment<N: Amount>);

/// Stores one value; runs when awaited.
#[derive(Debug, Clone)]
#[must_use = "nothing is stored until it is awaited"]
pub struct Put {
    swamp: Swamp<()>,
    key: String,
    value: Result<Value, hydra_core::Error>,
    expiry: Expiry,
    condition: Condition,
    options: WriteOptions,
}

impl Put {
    pub(super) fn new(swamp: Swamp<()>, key: String, value: Result<Value, hydra_core::Error>) -> Put {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Put { swamp, key, value, expiry: Expiry::Never, condition: Condition::Always, options }
    }

    /// It expires after this span, counted by the clock of the server.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.expiry = Expiry::In(span);
        self
    }

    /// It expires at this moment. Without this and without [`Put::ttl`] it never does.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.expiry = Expiry::At(Timestamp::from(time));
        self
    }

    /// It expires when the treasure in whose place it is put would have.
    pub fn keep_ttl(mut self) -> Self {
        self.expiry = Expiry::Keep;
        self
    }

    /// Only if there is no such treasure; otherwise [`ErrorKind::AlreadyExists`].
    pub fn create_only(mut self) -> Self {
        self.condition = Condition::Absent;
        self
    }

    /// Only if there is such a treasure; otherwise [`ErrorKind::VersionMismatch`].
    pub fn update_only(mut self) -> Self {
        self.condition = Condition::Present;
        self
    }

    /// Only if the treasure is at this version; otherwise [`ErrorKind::VersionMismatch`].
    pub fn if_version(mut self, version: &Version) -> Self {
        self.condition = Condition::Version(vec![*version]);
        self
    }

    write_options!();

    fn operation(self) -> Result<Operation> {
        let Put { key, value, expiry, condition, .. } = self;
        Ok(Operation::Put { key, value: value?, expiry, condition })
    }
}

impl IntoFuture for Put {
    type Output = Result<Written>;
    type IntoFuture = Call<Written>;

    fn into_future(self) -> Call<Written> {
        Box::pin(async move {
            let (swamp, options) = (self.swamp.clone(), self.options.clone());
            written(run(&swamp, self.operation()?, &options).await?)
        })
    }
}

/// Changes a part of one JSON value and keeps its expiry; runs when awaited. Without [`Patch::create`] a treasure
/// that is not there is [`ErrorKind::NotFound`].
///
/// What the patch does not touch keeps its text: numbers their digits, members their order.
#[derive(Debug, Clone)]
#[must_use = "nothing is changed until it is awaited"]
pub struct Patch {
    swamp: Swamp<()>,
    key: String,
    change: Result<Change, hydra_core::Error>,
    create: bool,
    condition: Condition,
    options: WriteOptions,
}

impl Patch {
    pub(super) fn new(swamp: Swamp<()>, key: String, change: Result<Change, hydra_core::Error>) -> Patch {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Patch { swamp, key, change, create: false, condition: Condition::Always, options }
    }

    /// Also if there is no such treasure: it is patched as if it were `{}`.
    pub fn create(mut self) -> Self {
        self.create = true;
        self
    }

    /// Only if the treasure is at this version; otherwise [`ErrorKind::VersionMismatch`].
    pub fn if_version(mut self, version: &Version) -> Self {
        self.condition = Condition::Version(vec![*version]);
        self
    }

    write_options!();

    fn operation(self) -> Result<Operation> {
        let Patch { key, change, create, condition, .. } = self;
        Ok(Operation::Patch { key, change: change?, create, condition })
    }
}

impl IntoFuture for Patch {
    type Output = Result<Written>;
    type IntoFuture = Call<Written>;

    fn into_future(self) -> Call<Written> {
        Box::pin(async move {
            let (swamp, options) = (self.swamp.clone(), self.options.clone());
            written(run(&swamp, self.operation()?, &options).await?)
        })
    }
}

/// Stores one value under a new key, which is its idempotency key; runs when awaited. Keys that are made here sort by
/// the time they were made.
#[derive(Debug, Clone)]
#[must_use = "nothing is stored until it is awaited"]
pub struct Push {
    swamp: Swamp<()>,
    value: Result<Value, hydra_core::Error>,
    expiry: Expiry,
    options: WriteOptions,
}

impl Push {
    pub(super) fn new(swamp: Swamp<()>, value: Result<Value, hydra_core::Error>) -> Push {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Push { swamp, value, expiry: Expiry::Never, options }
    }

    /// It expires after this span, counted by the clock of the server.
    pub fn ttl(mut self, span: Duration) -> Self {
        self.expiry = Expiry::In(span);
        self
    }

    /// It expires at this moment. Without this and without [`Push::ttl`] it never does.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.expiry = Expiry::At(Timestamp::from(time));
        self
    }

    write_options!();
}

impl IntoFuture for Push {
    type Output = Result<Pushed>;
    type IntoFuture = Call<Pushed>;

    fn into_future(self) -> Call<Pushed> {
        Box::pin(async move {
            let Push { swamp, value, expiry, mut options } = self;
            let value = value?;
            let key = options.idempotency_key.get_or_insert_with(new_key).clone();
            // Nothing else has a UUID for a key; any other text may be one already.
            let is_uuid = key.len() == 36 && uuid::Uuid::try_parse(&key).is_ok();
            let condition = if is_uuid { Condition::Always } else { Condition::Absent };
            let operation = Operation::Put { key: key.clone(), value, expiry, condition };
            let done = swamp.hydra.endpoint().push(&swamp.name, operation, &options).await?;
            let Written { version, synced, .. } = written(done)?;
            Ok(Pushed { key, version, synced })
        })
    }
}

/// Removes one key; runs when awaited.
#[derive(Debug, Clone)]
#[must_use = "nothing is removed until it is awaited"]
pub struct Delete {
    swamp: Swamp<()>,
    key: String,
    condition: Condition,
    options: WriteOptions,
}

impl Delete {
    pub(super) fn new(swamp: Swamp<()>, key: String) -> Delete {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Delete { swamp, key, condition: Condition::Always, options }
    }

    /// Only if the treasure is at this version; otherwise [`ErrorKind::VersionMismatch`].
    pub fn if_version(mut self, version: &Version) -> Self {
        self.condition = Condition::Version(vec![*version]);
        self
    }

    write_options!();

    fn operation(self) -> Result<Operation> {
        Ok(Operation::Delete { key: self.key, condition: self.condition })
    }
}

impl IntoFuture for Delete {
    type Output = Result<bool>;
    type IntoFuture = Call<bool>;

    fn into_future(self) -> Call<bool> {
        Box::pin(async move {
            let (swamp, options) = (self.swamp.clone(), self.options.clone());
            match run(&swamp, self.operation()?, &options).await? {
                Done::Deleted(existed) => Ok(existed),
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// What can be added: a whole number, exactly, or a number with a fraction.
pub trait Amount: Copy + Send + sealed_amount::Sealed + 'static {}

impl Amount for i64 {}
impl Amount for f64 {}

mod sealed_amount {
    use hydra_core::Number;

    pub trait Sealed: Sized {
        fn into_number(self) -> Number;
        fn from_number(number: Number) -> Option<Self>;
    }

    impl Sealed for i64 {
        fn into_number(self) -> Number {
            Number::Integer(self)
        }

        fn from_number(number: Number) -> Option<i64> {
            match number {
                Number::Integer(whole) => Some(whole),
                Number::Fraction(_) => None,
            }
        }
    }

    impl Sealed for f64 {
        fn into_number(self) -> Number {
            Number::Fraction(self)
        }

        fn from_number(number: Number) -> Option<f64> {
            Some(match number {
                Number::Integer(whole) => whole as f64,
                Number::Fraction(fraction) => fraction,
            })
        }
    }
}

/// Adds to one number; runs when awaited.
///
/// A whole number that is added without a path, bounds or an initial value merges with what other servers add at the
/// same time. Every other increment is decided by what is stored, so fallbacks are asked only with
/// [`Fallback::Exclusive`].
#[derive(Debug, Clone)]
#[must_use = "nothing is added until it is awaited"]
pub struct Increment<N = i64> {
    swamp: Swamp<()>,
    key: String,
    by: N,
    path: String,
    initial: Option<N>,
    min: Option<N>,
    max: Option<N>,
    options: WriteOptions,
}

impl<N: Amount> Increment<N> {
    pub(super) fn new(swamp: Swamp<()>, key: String, by: N) -> Increment<N> {
        let options = WriteOptions { call: swamp.options.clone(), ..WriteOptions::default() };
        Increment { swamp, key, by, path: String::new(), initial: None, min: None, max: None, options }
    }

    /// The number stands inside of the value, at this JSON Pointer: `/stats/views`. Objects that are missing on the
    /// way are made.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Where there is nothing, it counts as this. Default 0.
    pub fn initial(mut self, initial: N) -> Self {
        self.initial = Some(initial);
        self
    }

    /// A sum below this is refused ([`ErrorKind::OutOfRange`]), and nothing is changed.
    pub fn min(mut self, min: N) -> Self {
        self.min = Some(min);
        self
    }

    /// A sum above this is refused ([`ErrorKind::OutOfRange`]), and nothing is changed.
    pub fn max(mut self, max: N) -> Self {
        self.max = Some(max);
        self
    }

    write_options!();

    fn operation(self) -> Result<Operation> {
        let number = |amount: N| match amount.into_number() {
            Number::Fraction(number) if !number.is_finite() => {
                Err(Error::new(ErrorKind::Invalid, format!("{number} cannot be added; allowed are finite numbers")))
            }
            number => Ok(number),
        };
        let increment = hydra_core::Increment {
            by: number(self.by)?,
            path: self.path.parse()?,
            initial: self.initial.map(number).transpose()?,
            min: self.min.map(number).transpose()?,
            max: self.max.map(number).transpose()?,
        };
        Ok(Operation::Increment { key: self.key, increment })
    }
}

impl<N: Amount> IntoFuture for Increment<N> {
    type Output = Result<N>;
    type IntoFuture = Call<N>;

    fn into_future(self) -> Call<N> {
        Box::pin(async move {
            let (swamp, options) = (self.swamp.clone(), self.options.clone());
            match run(&swamp, self.operation()?, &options).await? {
                Done::Incremented(sum, _) => N::from_number(sum).ok_or_else(|| {
                    let detail = format!("the sum is {sum}, which is no whole number");
                    Error::new(ErrorKind::Decode, detail).with_applied(hydra_core::Applied::Yes)
                }),
                other => Err(unexpected(&other)),
            }
        })
    }
}

fn written(done: Done<Value>) -> Result<Written> {
    match done {
        Done::Put(written) => Ok(written),
        other => Err(unexpected(&other)),
    }
}

async fn run(swamp: &Swamp<()>, operation: Operation, options: &WriteOptions) -> Result<Done<Value>> {
    swamp.hydra.endpoint().write(&swamp.name, operation, options).await
}

pub(super) fn unexpected(done: &Done<Value>) -> Error {
    Error::new(ErrorKind::Protocol, format!("the answer {done:?} is to another question"))
}
