//! Hydra's vocabulary and its storage engine.
mod base32;
mod clock;
mod counter;
mod disk;
pub mod duration;
mod engine;
mod error;
mod folder;
mod format;
mod hashing;
pub mod inspect;
pub mod json;
mod layout;
mod merge;
#[cfg(test)]
mod merge_model;
mod name;
mod pattern;
mod policy;
mod root;
mod snapshot;
mod stamp;
mod value;
mod vector;
pub mod wire;
mod write;

pub use engine::{
    CopyState, Engine, EngineOptions, EngineStats, FolderSizes, FolderState, ListQuery, Page, Swamp, SwampInfo,
};
pub use error::{Applied, Error, ErrorCode, Result};
pub use folder::{FolderCount, FolderId, FolderSet, folder_of};
pub use name::{MAX_KEY_BYTES, MAX_PART_BYTES, SwampName, check_key};
pub use pattern::Pattern;
pub use policy::{Compression, MAX_VALUE_BYTES, Policy, PolicyTable};
pub use stamp::{Stamp, Timestamp, Version};
pub use value::{Treasure, Value};
pub use write::{
    Batch, Committed, Condition, Durability, Idempotency, MAX_BATCH_BYTES, MAX_BATCH_OPS, Op, OpResult, Ticket,
};
