//! What the stories share: how one is told, real server processes, copies by rsync, and a ledger of
//! what was acknowledged.
//!
//! The stories themselves are in `src/bin`, one file for each idea. Run one with
//! `cargo run -p examples --bin quickstart`. Each checks what it claims and ends with exit code 0
//! only if everything held, 5 if something it needs is missing on this machine.

mod copies;
mod ledger;
mod load;
mod process;
mod program;
mod story;

pub use copies::{SyncLoop, count_chunks, count_swamps, folder_dir, move_folder, require_rsync, sanctuaries, sync_own};
pub use ledger::{Difference, Ledger, Place};
pub use load::{Background, Calls, Tally};
pub use process::{ServerProcess, ServerSetup, router};
pub use story::{Missing, Story, at_least, fmt_count, tell};
