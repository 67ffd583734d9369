//! What a server or a router tells about itself while somebody looks: `GET /v1/status`, and the page `/ui` that shows it.

use serde::{Deserialize, Serialize};

use crate::folder::{FolderCount, FolderId};

/// The status page: one file, without anything from elsewhere. The same on servers and routers.
pub const STATUS_PAGE: &str = include_str!("status.html");

/// What the status page may do: run its own script, with its own style, and ask where it came from.
pub const STATUS_PAGE_POLICY: &str = concat!(
    "default-src 'none'; script-src 'sha256-demHYVhlPQk7aSHjn3GFBvvhMj3oNbST4yJJEFIO9QI='; ",
    "style-src 'sha256-BfmMP4pkbWcGgkBYsi3Uj3ZCKkRm41ZPL4E6Hwt0CVE='; ",
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
);

/// A server or a router, and what it knows of the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusBody {
    /// `server` or `router`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What runs there.
    pub version: String,
    /// The cluster.
    pub cluster: String,
    /// The epoch of the map in force; only routers have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// How many folders there are.
    pub folders: FolderCount,
    /// Requests answered since it started.
    pub requests: u64,
    /// The servers: of a router all of its map, of a server itself.
    pub servers: Vec<StatusServerBody>,
    /// Who answers for which folders by the map; none on a server.
    pub routes: Vec<StatusRouteBody>,
    /// Folders that are on their way from one server to another.
    pub moves: Vec<StatusMoveBody>,
    /// Folders that stay with a fallback until the primary has what was written there.
    pub stays: Vec<StatusStayBody>,
    /// Folders that servers said live elsewhere than the map says; only routers learn that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<StatusLearnedBody>,
    /// Requests about a folder since it started, for folders that had any.
    pub load: Vec<(FolderId, u64)>,
    /// How many bytes are in a folder at whoever has most of it, for folders that have any; absent until they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Vec<(FolderId, u64)>>,
}

/// A server as it is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusServerBody {
    /// Its id.
    pub id: String,
    /// Where it listens, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What whoever tells this thinks of it: `up`, `down`, `back` or `quarantined`.
    pub state: String,
    /// Why it did not answer just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it is to its folders: a state, and the folders in it, such as `0-49`.
    pub states: Vec<(String, String)>,
    /// How many bytes it has; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Folders and who answers for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRouteBody {
    /// The pool.
    pub pool: String,
    /// The folders.
    pub folders: String,
    /// Who answers.
    pub primary: String,
    /// Who is asked when the primary does not answer, in this order.
    pub fallbacks: Vec<String>,
}

/// A folder on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusMoveBody {
    /// The folder.
    pub folder: FolderId,
    /// The server that says so.
    pub server: String,
    /// What it is to the folder.
    pub state: String,
    /// The other server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// A folder that stays with a fallback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusStayBody {
    /// The folder.
    pub folder: FolderId,
    /// Whose it is.
    pub primary: String,
    /// Who answers.
    pub fallback: String,
}

/// A folder that lives elsewhere than the map says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusLearnedBody {
    /// The pool.
    pub pool: String,
    /// The folder.
    pub folder: FolderId,
    /// The server that owns it.
    pub server: String,
    /// Since which epoch.
    pub epoch: u64,
}
