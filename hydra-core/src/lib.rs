//! Hydra's vocabulary and its storage engine.
pub mod duration;
pub mod inspect;
pub mod json;
pub mod wire;

mod apply;
mod base32;
mod clock;
mod commit;
mod counter;
mod directories;
mod disk;
mod engine;
mod error;
#[cfg(test)]
mod faults;
mod folder;
mod format;
mod handles;
mod hashing;
mod hydrate;
mod layout;
mod log;
mod merge;
#[cfg(test)]
mod merge_model;
mod name;
mod outcome;
mod pattern;
mod policy;
mod pool;
mod residents;
mod root;
mod shared;
mod slot;
mod snapshot;
mod stamp;
mod state;
mod stats;
mod swamp;
mod timer;
mod value;
mod vector;
mod walk;
mod write;

pub use engine::{
    CopyState, Engine, EngineOptions, EngineStats, FolderSizes, FolderState, ListQuery, Page, Swamp, SwampInfo,
};
pub use error::{Applied, Error, ErrorCode, Result};
pub use folder::{FolderCount, FolderId, FolderSet, folder_of};
pub use layout::swamp_dir;
pub use name::{MAX_KEY_BYTES, MAX_PART_BYTES, SwampName, check_key};
pub use pattern::Pattern;
pub use policy::{Compression, MAX_VALUE_BYTES, Policy, PolicyTable};
pub use stamp::{Stamp, Timestamp, Version};
pub use value::{Treasure, Value};
pub use write::{
    Batch, Committed, Condition, Durability, Idempotency, MAX_BATCH_BYTES, MAX_BATCH_OPS, Op, OpResult, Ticket,
};
