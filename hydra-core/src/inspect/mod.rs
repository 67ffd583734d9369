//! Looking at the files of a data directory, and mending them, for operators. Nothing here serves requests.
//!
//! [`inspect`] shows what stands in a chunk and what a swamp is, [`verify()`] checks every byte,
//! [`doctor()`] looks at the directory and its surroundings. [`adopt()`] takes over the files of a
//! server that is gone, [`repair()`] mends damaged swamps, [`restore()`] writes old values as new ones,
//! [`refold()`] changes the number of folders.
//! Those that change anything hold the lock of the data directory.

mod adopt;
mod bits;
mod directory;
mod doctor;
mod dump;
mod losses;
mod refold;
mod repair;
mod restore;
mod rewrite;
mod swamp;
mod verify;

pub use adopt::{AdoptOptions, Adopted, AdoptedIncarnation, adopt};
pub use doctor::{Check, Diagnosis, Level, ServerFiles, doctor};
pub use dump::{InspectOptions, inspect, inspect_with};
pub use refold::{RefoldOptions, Refolded, refold};
pub use repair::{Loss, RepairOptions, Repaired, RepairedFile, Unmended, repair};
pub use restore::{RestoreOptions, Restored, Skipped, restore};
pub use verify::{Finding, FindingKind, Verified, verify};
