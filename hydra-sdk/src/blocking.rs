//! The same calls for programs without async: [`Run`] and [`Iterate`] end every call of this crate where it is made.
//!
//! There is no second API to learn. Whatever would be awaited is run, and whatever would be streamed is iterated:
//!
//! ```
//! use hydra_sdk::blocking::{Iterate, Run};
//! use hydra_sdk::{Hydra, Swamp};
//!
//! # fn main() -> hydra_sdk::Result<()> {
//! let hydra = Hydra::connect("mem://").run()?;
//! let visits: Swamp<u64> = hydra.swamp("site/visits/today")?;
//! visits.put("home", &1).create_only().run()?;
//! visits.increment("home", 2).run()?;
//! for treasure in visits.list().stream().iterate() {
//!     let treasure = treasure?;
//!     assert_eq!((treasure.key.as_str(), treasure.value), ("home", 3));
//! }
//! hydra.close().run()?;
//! # Ok(()) }
//! ```
//!
//! All calls of a process share one runtime with one thread, which is started by the first of them and goes on until the
//! process ends: what a call leaves to be done later, such as watching a map file or giving back a dropped lock, is
//! done there. Calls may come from any number of threads. A data set that is used like this is not to be used with
//! `await` in another runtime at the same time, because its connections live in this one.

use std::future::IntoFuture;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, ErrorKind, Result};

static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();

/// Runs a call to its end.
pub trait Run<T> {
    /// Waits for the answer that `await` would give.
    ///
    /// # Errors
    /// Those of the call; [`ErrorKind::Config`] when no thread can be started.
    ///
    /// # Panics
    /// In an async function, where waiting would stop everything else: use `await` there.
    fn run(self) -> Result<T>;
}

impl<T, C: IntoFuture<Output = Result<T>>> Run<T> for C {
    fn run(self) -> Result<T> {
        runtime()?.block_on(self.into_future())
    }
}

/// Iterates over a stream.
pub trait Iterate: Stream + Sized {
    /// The items of the stream, each waited for when it is asked for.
    fn iterate(self) -> Iter<Self>;
}

impl<T, S: Stream<Item = Result<T>>> Iterate for S {
    fn iterate(self) -> Iter<S> {
        Iter { stream: Box::pin(self), is_over: false }
    }
}

/// The items of a stream; see [`Iterate::iterate`]. Panics in an async function, as [`Run::run`] does.
#[derive(Debug)]
#[must_use = "nothing is asked for until it is iterated over"]
pub struct Iter<S> {
    stream: Pin<Box<S>>,
    is_over: bool,
}

impl<T, S: Stream<Item = Result<T>>> Iterator for Iter<S> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.is_over {
            return None;
        }
        let item = match runtime() {
            Ok(runtime) => runtime.block_on(self.stream.next()),
            Err(error) => Some(Err(error)),
        };
        self.is_over = !matches!(item, Some(Ok(_)));
        item
    }
}

fn runtime() -> Result<&'static Runtime> {
    let begin = || Builder::new_multi_thread().worker_threads(1).thread_name("hydra-sdk").enable_all().build();
    let runtime = RUNTIME.get_or_init(begin).as_ref();
    runtime.map_err(|error| Error::new(ErrorKind::Config, format!("no thread can be started: {error}")))
}

/// Where something can be left to be done later: the runtime around the caller, else the one here, if there is one.
pub(crate) fn handle() -> Option<Handle> {
    let here = || RUNTIME.get()?.as_ref().ok().map(|runtime| runtime.handle().clone());
    Handle::try_current().ok().or_else(here)
}
