//! The way back of a folder from a copy that took writes in its owner's place.
//!
//! Where writes never pause the owner always lacks the newest, so the copy takes none for a moment: long enough for what
//! is left to be copied, never longer than was asked for, and not again soon after. That moment is in memory alone. It
//! ends with its time, with the process, and with whoever asked for it saying so; nothing depends on its being kept,
//! because the notes are settled only if they are still what was listed.
//!
//! Once they are settled the copy sends writes to the owner for a while, so that all clients return together and not one
//! after the other. A client that cannot reach the owner says so, and is served.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderId;
use crate::handover::{FolderState, Lull};
use crate::moving::random_id;

/// The longest that the writes of a copy may be made to wait for the return of their folder: 60 s.
pub const MAX_RETURN_PAUSE: Duration = Duration::from_secs(60);
/// How long a copy sends writes to the owner after that was found to have everything. Nobody waits for it to end.
const RETURNED_FOR: Duration = Duration::from_secs(30);

impl Engine {
    /// Lets the writes that a copy takes in its owner's place wait, for so long at most, and answers what names this
    /// moment. Returns when every write that was acknowledged is on disk and noted, and none is under way: what
    /// [`Engine::takeover`] lists then is all there is. Reads go on. Blocks on the disk.
    ///
    /// # Errors
    /// `folder-state-mismatch` for a folder of which this server keeps no copy, `seal-mismatch` while writes wait
    /// already or did a moment ago, `invalid-body` for no time or more than [`MAX_RETURN_PAUSE`]; those of the disk,
    /// and then writes go on.
    pub fn begin_return(&self, folder: FolderId, length: Duration) -> Result<String> {
        let shared = self.shared();
        shared.check_open()?;
        if length.is_zero() || length > MAX_RETURN_PAUSE {
            let most = MAX_RETURN_PAUSE.as_millis();
            let detail = format!("leaseMs is {}; allowed are 1 to {most}", length.as_millis());
            return Err(Error::new(ErrorCode::InvalidBody, detail));
        }
        let (id, now) = (random_id()?, Instant::now());
        let step = shared.folders.step(folder);
        step.mark(|tenure| tenure.begin_lull(Lull::new(id.clone(), now, length), now))?;
        if let Err(error) = self.flush(Some(folder)) {
            let now = Instant::now();
            // Over by itself, perhaps: that is as good.
            let _ = step.mark(|tenure| tenure.set_lull(&id, now, now));
            return Err(error);
        }
        Ok(id)
    }

    /// Lets a copy take writes again, whose folder does not return now.
    ///
    /// # Errors
    /// `seal-mismatch` when that moment is over, `folder-state-mismatch` for a folder of which this server keeps no copy.
    pub fn end_return(&self, folder: FolderId, id: &str) -> Result<FolderState> {
        let now = Instant::now();
        let tenure = self.shared().folders.step(folder).mark(|tenure| tenure.set_lull(id, now, now))?;
        Ok(tenure.state)
    }

    /// [`Engine::settle`] while writes wait. From then on writes go to the owner for a while, see
    /// [`Engine::has_returned`].
    ///
    /// # Errors
    /// Those of [`Engine::settle`]; `seal-mismatch` when the moment is over.
    pub fn settle_return(&self, folder: FolderId, version: &str, id: &str) -> Result<()> {
        let step = self.shared().folders.step(folder);
        step.check(|tenure| tenure.has_returned(id, Instant::now(), Instant::now()))?;
        self.settle(folder, version)?;
        let now = Instant::now();
        // If its time ran out just now, what was settled is settled: clients find out one by one.
        let _ = step.mark(|tenure| tenure.has_returned(id, now + RETURNED_FOR, now));
        Ok(())
    }

    /// Whether the owner of a folder was found to have everything a moment ago, and no write came here since: then a
    /// write belongs to the owner, unless it cannot be reached. Costs next to nothing.
    #[must_use]
    pub fn has_returned(&self, folder: FolderId) -> bool {
        self.shared().folders.has_returned(folder) && self.takeover_count(folder) == 0
    }
}
