//! What a client notices about its servers and its map, for programs that want to know: one stream of events.

use std::fmt;
use std::sync::Arc;

use hydra_core::FolderId;

use crate::map::FolderMove;

/// Something a client noticed; see [`crate::HydraBuilder::on_event`]. Each is also logged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Another map is in force.
    MapAccepted {
        /// Its epoch.
        epoch: u64,
        /// What it moves.
        moves: Vec<FolderMove>,
    },
    /// A map was refused; the one in force stays.
    MapRefused {
        /// Why, with the codes of the findings.
        why: String,
    },
    /// A server goes by a younger map than this client.
    MapBehind {
        /// The id of the server.
        server: String,
        /// The epoch of its map.
        epoch: u64,
    },
    /// No connection to a server can be made, or it says that it leaves: its fallbacks are asked first.
    ServerDown {
        /// The id of the server.
        server: String,
    },
    /// The server has been back for the hold-down and is asked again when it is its turn.
    ServerBack {
        /// The id of the server.
        server: String,
    },
    /// A server is not who the map says. It is not asked again until the map changes.
    ServerQuarantined {
        /// The id that the map gives it.
        server: String,
        /// What differs.
        why: String,
    },
    /// The certificate of a server is not trusted. Reads go to its fallbacks, writes fail.
    ServerUntrusted {
        /// The id of the server.
        server: String,
        /// What is wrong with the certificate.
        why: String,
    },
    /// A server said that a folder lives elsewhere, and calls go there from now on.
    FolderLearned {
        /// The pool.
        pool: String,
        /// The folder.
        folder: FolderId,
        /// The id of the server that owns it.
        server: String,
        /// Since which epoch.
        epoch: u64,
    },
}

impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientEvent::MapAccepted { epoch, moves } => {
                write!(f, "the map of epoch {epoch} is in force")?;
                moves.iter().try_for_each(|moved| write!(f, "; it moves {moved}"))
            }
            ClientEvent::MapRefused { why } => write!(f, "the client map stays as it was: {why}"),
            ClientEvent::MapBehind { server, epoch } => {
                write!(f, "{server} goes by the map of epoch {epoch}, which is younger than the one in force")
            }
            ClientEvent::ServerDown { server } => write!(f, "{server} is down; its fallbacks are asked first"),
            ClientEvent::ServerBack { server } => write!(f, "{server} is back"),
            ClientEvent::ServerQuarantined { server, why } => {
                write!(f, "{server} {why}; it is not asked until the map changes")
            }
            ClientEvent::ServerUntrusted { server, why } => {
                write!(
                    f,
                    "{server} {why}; its certificate is not trusted, so writes to it fail and reads go to its fallbacks"
                )
            }
            ClientEvent::FolderLearned { pool, folder, server, epoch } => {
                write!(f, "folder {folder} of pool {pool} lives on {server} since epoch {epoch}")
            }
        }
    }
}

/// Where events go: to the log, and to the program if it asked for them.
#[derive(Clone, Default)]
pub(crate) struct Notices(Option<Arc<Handler>>);

/// What a program does with an event.
type Handler = dyn Fn(&ClientEvent) + Send + Sync;

impl Notices {
    pub(crate) fn to(handler: impl Fn(&ClientEvent) + Send + Sync + 'static) -> Notices {
        Notices(Some(Arc::new(handler)))
    }

    pub(crate) fn emit(&self, event: &ClientEvent) {
        match event {
            ClientEvent::MapAccepted { .. } | ClientEvent::ServerBack { .. } | ClientEvent::FolderLearned { .. } => {
                tracing::info!("{event}");
            }
            ClientEvent::MapRefused { .. } | ClientEvent::MapBehind { .. } | ClientEvent::ServerDown { .. } => {
                tracing::warn!("{event}");
            }
            ClientEvent::ServerQuarantined { .. } | ClientEvent::ServerUntrusted { .. } => tracing::error!("{event}"),
        }
        if let Some(handler) = &self.0 {
            handler(event);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notices").field(&self.0.is_some()).finish()
    }
}
