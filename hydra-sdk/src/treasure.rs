//! What calls answer: treasures with their metadata, what a write did, pages of a list, facts about a swamp.

use std::fmt;
use std::str::FromStr;

use hydra_core::{CopyState, FolderId, Pattern, Policy, SwampName, Timestamp, Value, Version};
use serde::de::DeserializeOwned;

use crate::binary;
use crate::error::{Error, ErrorKind, Result};

/// A key with its value and what is known about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Treasure<V> {
    /// The key, unique in its swamp.
    pub key: String,
    /// The value.
    pub value: V,
    /// The version; changes with every write.
    pub version: Version,
    /// When the key came into being, by the clock of the server that wrote it.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// Whether a copy answered in place of the primary: it may be one sync interval behind.
    pub stale: bool,
}

impl Treasure<Value> {
    /// The same treasure with its value as a type.
    pub(crate) fn decode<V: DeserializeOwned>(self) -> Result<Treasure<V>> {
        let value = decode(&self.value).map_err(|error| error.about(format!("the treasure {:?}", self.key)))?;
        let Treasure { key, version, created_at, updated_at, expires_at, stale, .. } = self;
        Ok(Treasure { key, value, version, created_at, updated_at, expires_at, stale })
    }
}

impl Treasure<Value> {
    /// The same treasure without its value: null in its place.
    pub(crate) fn without_value(self) -> Treasure<Value> {
        // Anything that serde can write has no repeated members, so this is null whatever happens.
        let value = Value::from_serialize(&()).unwrap_or_else(|_| Value::text(""));
        Treasure { value, ..self }
    }
}

/// A value as a type. A binary one reads as `{"$binary": base64, "contentType": …}`, as in HTTP.
fn decode<V: DeserializeOwned>(value: &Value) -> Result<V> {
    let decoded = match value.content_type() {
        None => value.decode().map_err(|error| error.detail().to_owned()),
        Some(kind) => {
            let json = binary::to_json(value)?;
            serde_json::from_str(json.get()).map_err(|_| format!("the value is {kind}, not JSON"))
        }
    };
    decoded.map_err(|detail| Error::new(ErrorKind::Decode, detail))
}

impl From<hydra_core::Treasure> for Treasure<Value> {
    fn from(treasure: hydra_core::Treasure) -> Treasure<Value> {
        Treasure {
            key: treasure.key,
            value: treasure.value,
            version: treasure.version,
            created_at: treasure.created_at,
            updated_at: treasure.updated_at,
            expires_at: treasure.expires_at,
            stale: false,
        }
    }
}

/// What a put did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The version of the treasure now.
    pub version: Version,
    /// Whether the key is new.
    pub created: bool,
    /// Whether it is on disk already; otherwise it will be within the write interval.
    pub synced: bool,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The key that was made.
    pub key: String,
    /// The version of the treasure.
    pub version: Version,
    /// Whether it is on disk already; otherwise it will be within the write interval.
    pub synced: bool,
}

/// Where a list goes on; opaque, and valid on every copy of the swamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(pub(crate) String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Cursor, Self::Err> {
        Ok(Cursor(text.to_owned()))
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Page<V> {
    /// The treasures, in the order asked for.
    pub treasures: Vec<Treasure<V>>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

/// What is known about a swamp.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwampInfo {
    /// The name.
    pub name: SwampName,
    /// The folder.
    pub folder: FolderId,
    /// How many treasures it has, without expired ones.
    pub count: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files it has.
    pub files: u64,
    /// Whether an acknowledged write is not on disk yet.
    pub dirty: bool,
    /// Whether all its files are here and whole.
    pub copy_state: CopyState,
    /// Reports about damaged or missing files, one sentence each.
    pub findings: Vec<String>,
    /// Its effective settings.
    pub policy: Policy,
    /// The pattern of the registered policy they come from, if they do.
    pub policy_from: Option<Pattern>,
    /// When the oldest treasure came into being.
    pub created_at: Option<Timestamp>,
}

/// One swamp of a list; see [`Hydra::swamps`](crate::Hydra::swamps).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedSwamp {
    /// The name.
    pub name: SwampName,
    /// The folder.
    pub folder: FolderId,
    /// How many files it has; none before its first flush. Only with [`Swamps::info`](crate::Swamps::info), as all
    /// that follows.
    pub files: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Whether it is in memory.
    pub loaded: Option<bool>,
    /// How many treasures it has, without expired ones; only where it is in memory.
    pub count: Option<u64>,
    /// Whether an acknowledged write is not on disk yet; only where it is in memory.
    pub dirty: Option<bool>,
}

impl ListedSwamp {
    pub(crate) fn of_engine(listed: hydra_core::ListedSwamp, info: bool) -> ListedSwamp {
        ListedSwamp {
            name: listed.name,
            folder: listed.folder,
            files: info.then_some(listed.files),
            bytes: info.then_some(listed.bytes),
            loaded: info.then_some(listed.loaded.is_some()),
            count: listed.loaded.map(|loaded| loaded.count),
            dirty: listed.loaded.map(|loaded| loaded.dirty),
        }
    }
}
