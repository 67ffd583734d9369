//! Hydra's vocabulary and its storage engine.
//!
//! Data lives in **swamps**, small stores named `sanctuary/realm/swamp`, one per natural unit. A swamp
//! is a directory of append-only files in a numbered **folder**, and its folder is a hash of its name:
//! [`folder_of`]. Every file has one writer for ever, and what a swamp holds is a pure function of the set
//! of its files, so copies made by any tool come together to the same state.
//!
//! [`Engine`] is usable alone, as an embedded store; `hydra-server` puts HTTP in front of it. It is
//! synchronous: writes hand back a [`Ticket`] that can be waited on or awaited, on any runtime.
//!
//! ```
//! use hydra_core::{Batch, Condition, Engine, EngineOptions, Expiry, Op, SwampName, Value};
//!
//! # let dir = std::env::temp_dir().join(format!("hydra-lib-doc-{}", std::process::id()));
//! let engine = Engine::open(EngineOptions::new(&dir))?;
//! let cart: SwampName = "shop/carts/u17".parse()?;
//! let put = Op::Put { key: "item".into(), value: Value::json("9")?, expiry: Expiry::Never, condition: Condition::Absent };
//! let committed = engine.batch(&cart, Batch { sync: true, ..Batch::of(put) })?;
//! assert!(committed.results[0].is_ok(), "on disk, and the first to create it");
//! engine.close()?;
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok::<(), hydra_core::Error>(())
//! ```

pub mod duration;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod json;
pub mod wire;

// The vocabulary. Pure.
mod advice;
mod error;
mod folder;
mod handover;
mod import;
mod name;
mod pattern;
mod policy;
mod query;
mod stamp;
mod value;
mod write;

// Changing a part of a value. Pure.
mod edit;
mod number;
mod patch;
mod pointer;

// On disk: where things are, what their bytes mean, and how a set of files becomes a state. Pure.
mod base32;
mod base64url;
mod conflict;
mod counter;
mod format;
mod growth;
mod layout;
mod merge;
mod requests;
mod rivalry;
mod snapshot;
mod vector;

// In memory: the content of a swamp, and carrying out requests on it. No I/O.
mod apply;
mod hashing;
mod hidden;
mod index;
mod news;
mod outcome;
mod slot;
mod state;

// Between the two: the one way to the disk, and the way back.
mod archive;
mod collect;
mod commit;
mod compact;

mod digests;
mod directories;
mod disk;
mod export;
mod handles;
mod hydrate;
mod list;
mod log;
mod manifest;
mod strait;
mod swamp;
mod takeover;
mod walk;

// What the swamps of an engine share.
mod catalog;
mod channel;
mod cleaning;
mod clock;
mod engine;
mod feed;
mod folders;
mod hold;
mod hub;
mod lines;
mod locks;
mod memory;
mod moving;
mod pool;
mod residents;
mod returning;
mod root;
mod shared;
mod shift;
mod space;
mod stats;
mod sweep;
mod sync;
mod syncs;
mod timer;
mod waiting;

#[cfg(test)]
mod corruption;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod handover_model;
#[cfg(test)]
mod merge_model;
#[cfg(all(test, feature = "schedules"))]
mod schedules;

pub use archive::{Archive, ArchivedFile, Unpacked, Unpacking};
pub use catalog::{ListedSwamp, LoadedSwamp, SwampsCursor, SwampsPage, SwampsQuery};
pub use cleaning::Cleaned;
pub use clock::coarse_ms;
pub use conflict::{Conflict, LostContent, LostWrite, WinningWrite};
pub use engine::{Collected, Compacted, CopyState, Engine, EngineOptions, EngineStats, FolderSizes, Swamp, SwampInfo};
pub use error::{Applied, Error, ErrorCode, Result};
pub use export::{Export, ExportPart};
pub use feed::{Changed, EventId, EventKind, Feed, FeedEvent, FeedOptions};
pub use folder::{FolderCount, FolderId, FolderSet, folder_of};
pub use handover::{FolderState, MovedTo};
pub use import::{
    BadValue, FoundValue, IMPORT_BATCH_BYTES, IMPORT_BATCH_OPS, ImportError, ImportMode, ImportRecord, ImportTally,
    ImportValues, MAX_IMPORT_ERRORS, MAX_IMPORT_LINE_BYTES,
};
pub use layout::swamp_dir;
pub use locks::{Granted, Lock, LockInfo, LockOp, LockRequest, MAX_LOCK_NAME_BYTES, MAX_LOCK_TTL, MAX_OWNER_BYTES};
pub use manifest::{GrowingFile, Intake, Manifest, ManifestFile, MissingPiece};
pub use moving::{Promoted, SEAL_LEASE, Sealed};
pub use name::{MAX_KEY_BYTES, MAX_PART_BYTES, SwampName, check_key};
pub use number::{Increment, Number};
pub use patch::{MAX_PATCH_OPS, Patch};
pub use pattern::Pattern;
pub use pointer::{MAX_POINTER_BYTES, Pointer};
pub use policy::{Compression, MAX_VALUE_BYTES, Policy, PolicyTable};
pub use query::{Expired, Filter, ListQuery, MAX_FILTER_DEPTH, MAX_FILTER_TESTS, MAX_FILTER_VALUES, Order, Page};
pub use returning::MAX_RETURN_PAUSE;
pub use shift::{MAX_LEASE, MAX_SHIFT, MAX_SHIFT_BYTES, Shift, ShiftRequest, Shifted};
pub use stamp::{Stamp, Timestamp, Version};
pub use takeover::{MAX_HOLDS_FILES, MissingFile, Takeover, TakeoverFile};
pub use value::{Treasure, Value};
pub use waiting::{MAX_WAIT, Waiting};
pub use write::{
    Batch, Committed, Condition, Durability, Expiry, Idempotency, MAX_BATCH_BYTES, MAX_BATCH_OPS, Op, OpResult, Ticket,
};
