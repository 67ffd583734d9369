//! Hydra's client: the folder map, failover, and one API for data that is remote or in process.

mod client;
mod cluster;
mod delay;
mod error;
mod failover;
mod forward;
mod health;
mod map;
mod outcome;
mod request;
mod server;
mod settings;

pub use client::Hydra;
pub use error::{Attempt, Error, ErrorKind, Result, TryOutcome};
pub use forward::{Chunk, ChunkStream, ForwardBody, ForwardRequest, ForwardResponse, ForwardedBody};
pub use health::ServerState;
pub use hydra_core::{
    Applied, ErrorCode, FolderCount, FolderId, FolderSet, Pattern, Policy, SwampName, Timestamp, Value, Version,
    folder_of,
};
pub use map::{ClientMap, Finding, MapBuilder, MapError, MapServer, PoolBuilder, Route, Severity};
pub use settings::{Failback, Fallback, FallbackMode, OpClass, ReadFrom, Settings};
