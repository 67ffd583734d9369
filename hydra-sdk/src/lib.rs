//! Hydra's client: one API for data on servers and for data in this process.
//!
//! Data lives in small named **swamps**, `sanctuary/realm/swamp`, each a set of **treasures**: a key
//! with a JSON or binary value. The name is the address: XXH64 of it, modulo the number of folders,
//! gives a **folder**, and a [`ClientMap`] says which server answers for which folders. No lookup
//! service, no coordinator: arithmetic and one table in the client.
//!
//! ```no_run
//! use hydra_sdk::{Hydra, Swamp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hydra_sdk::Result<()> {
//! let hydra = Hydra::connect("map:///etc/hydra/map.toml").await?; // or http://…, file:///…, mem://
//! let alice: Swamp = hydra.swamp("users/profiles/alice")?;
//! alice.put("name", &"Alice".into()).await?;
//! let visits = alice.increment("visits", 1).await?;
//! println!("{:?} was here {visits} times", alice.get("name").await?);
//! # Ok(()) }
//! ```
//!
//! When a primary does not answer, its fallbacks are asked, by rules that count no operation twice;
//! the module `failover` holds them in one function. An [`Error`] says whether the operation was
//! applied, and lists every server that was tried.
//!
//! Reading the source: `map` (name → folder → server), `failover` (primary → fallback), `failback`
//! (and back again), `outcome` (what a network error is), `breaker` and `budget` (when a server is left
//! alone), `hint` (where folders moved), `server` (one exchange), `endpoint` (remote and in process), `swamp`
//! (the typed calls), `event` (the stream of changes that survives broken connections).

mod access;
mod binary;
pub mod blocking;
mod breaker;
mod budget;
mod client;
mod cluster;
mod conflict;
mod connect;
mod connections;
mod delay;
mod endpoint;
mod error;
mod event;
mod failback;
mod failover;
mod filter;
mod forward;
mod headers;
mod health;
mod hint;
mod map;
mod notice;
mod operation;
mod outcome;
mod probe;
mod request;
mod server;
mod settings;
mod subscribe_many;
mod swamp;
mod swamps;
mod timers;
mod transfer;
mod treasure;
mod watch;

pub use access::Access;
pub use client::{Hydra, Location, Redirect};
pub use conflict::{Conflict, LostWrite, WinningWrite};
pub use connect::HydraBuilder;
pub use error::{Attempt, Error, ErrorKind, Result, TryOutcome};
pub use event::{Event, EventKind, EventStream, Waited};
pub use failback::{Returning, Settlement, Staying};
pub use filter::Filter;
pub use forward::{Chunk, ChunkStream, ForwardBody, ForwardRequest, ForwardResponse, ForwardedBody};
pub use headers::Headers;
pub use health::ServerState;
pub use hydra_core::{
    Applied, Compression, CopyState, ErrorCode, EventId, Expired, FolderCount, FolderId, FolderSet, LockInfo,
    LostContent, Number, Order, Pattern, Pointer, Policy, SwampName, Timestamp, Value, Version, folder_of,
};
pub use map::{ClientMap, Finding, FolderMove, MapBuilder, MapError, MapServer, PoolBuilder, Route, Severity};
pub use notice::ClientEvent;
pub use operation::Done;
pub use settings::{Failback, Fallback, FallbackMode, OpClass, ReadFrom, Settings};
pub use subscribe_many::SubscribeMany;
pub use swamp::{
    Amount, Batch, BatchAcross, Delete, Increment, List, LockCall, LockGuard, Patch, Push, Put, ShiftCall, Subscribe,
    Swamp, Taken, Write,
};
pub use swamps::Swamps;
pub use transfer::{Import, ImportFailure, ImportMode, Imported, Record};
pub use treasure::{Cursor, ListedSwamp, Page, Pushed, SwampInfo, Treasure, Written};

/// Handles are shared between threads and tasks; held by the compiler.
const _: () = {
    const fn shared<T: Send + Sync + Clone>() {}
    const fn sent<T: Send>() {}
    shared::<Hydra>();
    shared::<Swamp>();
    shared::<ClientMap>();
    sent::<Put>();
    sent::<Batch<serde_json::Value>>();
    sent::<BatchAcross>();
    sent::<Error>();
};
