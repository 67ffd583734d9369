//! A client map as it was written, by a file or by a builder, before it is checked.

use crate::access::Access;
use crate::settings::Settings;

/// The format of map files that this version reads.
pub(crate) const FORMAT: i64 = 1;
/// The pool of the names that no pattern claims.
pub(crate) const DEFAULT_POOL: &str = "default";

/// Everything a map says, unchecked. Two maps are the same if their drafts are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) format: i64,
    pub(crate) cluster: String,
    pub(crate) epoch: u64,
    /// `None`: not written, and not readable as a number either.
    pub(crate) folders: Option<i64>,
    pub(crate) servers: Vec<MapServer>,
    pub(crate) client: Settings,
    pub(crate) access: Access,
    /// The first is the default pool.
    pub(crate) pools: Vec<PoolDraft>,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft {
            format: FORMAT,
            cluster: "hydra".to_owned(),
            epoch: 1,
            folders: None,
            servers: Vec::new(),
            client: Settings::default(),
            access: Access::default(),
            pools: vec![PoolDraft::new(DEFAULT_POOL)],
        }
    }
}

/// A pool as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolDraft {
    pub(crate) name: String,
    pub(crate) patterns: Vec<String>,
    pub(crate) routes: Vec<RouteDraft>,
    pub(crate) settings: Settings,
}

impl PoolDraft {
    pub(crate) fn new(name: impl Into<String>) -> PoolDraft {
        PoolDraft { name: name.into(), patterns: Vec::new(), routes: Vec::new(), settings: Settings::default() }
    }
}

/// A route as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteDraft {
    pub(crate) folders: String,
    pub(crate) primary: String,
    pub(crate) fallbacks: Vec<String>,
}

/// A server of a client map.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MapServer {
    /// The server's id: 1 to 32 of `a-z`, `0-9` and `_`.
    pub id: String,
    /// Where it listens: `http://host:port` or `https://host:port`.
    pub url: String,
    /// How much it can carry compared with the others; used for planning, never for routing. Default 1.
    pub capacity: f64,
    /// What fails together with it, e.g. a rack.
    pub zone: Option<String>,
    /// Where its data directory is reached for copying: `user@host:/path` or a local path.
    pub sync: Option<String>,
}

impl MapServer {
    /// A server with this id at this address: `http://host:port`.
    #[must_use]
    pub fn new(id: impl Into<String>, url: impl Into<String>) -> MapServer {
        MapServer { id: id.into(), url: url.into(), capacity: 1.0, zone: None, sync: None }
    }
}
