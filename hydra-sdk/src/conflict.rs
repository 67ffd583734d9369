//! [`Conflict`]: a write that lost against one that had not seen it, for whoever wants to put that right.

use hydra_core::wire::{ConflictBody, LostBody};
use hydra_core::{LostContent, Timestamp, Version};

use crate::binary;
use crate::error::{Error, ErrorKind, Result};

/// Two servers wrote to one key without knowing of each other, and this is the write that does not show; see
/// [`Swamp::conflicts`](crate::Swamp::conflicts).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Conflict {
    /// The key both wrote to.
    pub key: String,
    /// What does not show.
    pub lost: LostWrite,
    /// The write that it lost against; others may have replaced that one since.
    pub won: WinningWrite,
    /// When it is forgotten.
    pub until: Timestamp,
}

/// The loser of a [`Conflict`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LostWrite {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it, or of its process where no file tells any more; `None` when several did.
    pub server: Option<String>,
    /// What was written.
    pub content: LostContent,
}

/// The winner of a [`Conflict`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WinningWrite {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub updated_at: Timestamp,
    /// The id of the server that wrote it, or of its process where no file tells any more.
    pub server: String,
}

impl Conflict {
    /// A conflict as the engine lists it.
    pub(crate) fn of(conflict: hydra_core::Conflict) -> Conflict {
        let hydra_core::Conflict { key, lost, won, until, .. } = conflict;
        let server = Some(lost.server).filter(|server| !server.is_empty());
        let lost = LostWrite { version: lost.version, updated_at: lost.updated_at, server, content: lost.content };
        let won = WinningWrite { version: won.version, updated_at: won.updated_at, server: won.server };
        Conflict { key, lost, won, until }
    }

    pub(crate) fn of_body(body: ConflictBody) -> Result<Conflict> {
        let ConflictBody { key, lost, won, until } = body;
        let content = content(&lost)?;
        let lost = LostWrite { version: lost.version, updated_at: lost.updated_at, server: lost.server, content };
        let won = WinningWrite { version: won.version, updated_at: won.updated_at, server: won.server };
        Ok(Conflict { key, lost, won, until })
    }
}

fn content(lost: &LostBody) -> Result<LostContent> {
    match lost {
        LostBody { value: Some(value), .. } => binary::from_json(value).map(LostContent::Value),
        LostBody { deleted: Some(true), .. } => Ok(LostContent::Deleted),
        LostBody { increment: Some(sum), .. } => Ok(LostContent::Increment(*sum)),
        _ => Err(Error::new(ErrorKind::Protocol, "the answer has a conflict about nothing")),
    }
}
