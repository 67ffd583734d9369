//! Taking over the files of a server that is gone for good, so that they are collected like own ones.
//!
//! A file is a server's own when the incarnation in its name is in `.hydra/incarnations`. A server
//! collects its own files as soon as a snapshot covers them, and waits long for those of others, since
//! their writers might still have more of them. Adding incarnations to the list is therefore all there
//! is to do, and the way back when `.hydra/` was lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::base32;
use crate::error::{Error, ErrorCode, Result};
use crate::inspect::directory::Directory;
use crate::layout::{self, is_server_id};
use crate::root::{add_incarnations, lock_directory};
use crate::stamp::Timestamp;
use crate::walk;

/// How to take over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdoptOptions {
    /// Only tell what would be taken over. Default no.
    pub dry_run: bool,
}

impl AdoptOptions {
    /// Tells what would be taken over, and changes nothing.
    #[must_use]
    pub fn dry_run() -> AdoptOptions {
        AdoptOptions { dry_run: true }
    }
}

/// One process of the server that is gone, and what it left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AdoptedIncarnation {
    /// The incarnation, as in the names of its files.
    pub incarnation: String,
    /// How many files it wrote.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the youngest of them was changed last.
    pub changed_at: Timestamp,
}

/// What was taken over, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Adopted {
    /// The server that is gone.
    pub server: String,
    /// Whether it is the server this directory belongs to.
    pub is_own: bool,
    /// Its processes whose files became this server's own.
    pub incarnations: Vec<AdoptedIncarnation>,
    /// How many of its processes were this server's own already.
    pub known: u64,
    /// Files that became this server's own.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the youngest of them was changed last: lately means that the server may be alive.
    pub changed_at: Option<Timestamp>,
}

/// Makes the files that another server wrote this server's own, durably. That server must never
/// write again: what it would still append to them might be collected here, and elsewhere after that.
/// `progress` is called with the number of files seen so far.
///
/// # Errors
/// `data-dir-in-use` when a server is at work on the directory, `not-found` when there is no data
/// directory or no file of that server in it, `invalid-parameter` for what is no server id, `io` from the disk.
pub fn adopt(data_dir: &Path, server: &str, options: AdoptOptions, progress: &mut dyn FnMut(u64)) -> Result<Adopted> {
    if !is_server_id(server) {
        let detail = format!("{server:?} is no server id: 1 to 32 of a-z 0-9 _");
        return Err(Error::new(ErrorCode::InvalidParameter, detail));
    }
    let directory = Directory::read(data_dir)?;
    let _lock = if options.dry_run { None } else { Some(lock_directory(data_dir)?) };
    let found = find(&directory, server, progress)?;
    if found.is_empty() {
        let detail = format!("no file in {} was written by the server {server:?}", data_dir.display());
        return Err(
            Error::new(ErrorCode::NotFound, detail).with_hint("hydra-server doctor lists the servers with files")
        );
    }
    let (known, new): (Vec<_>, Vec<_>) = found.into_iter().partition(|(number, _)| directory.is_mine(*number));
    if !options.dry_run && !new.is_empty() {
        let numbers: Vec<u64> = new.iter().map(|(number, _)| *number).collect();
        add_incarnations(&directory.local(layout::INCARNATIONS_FILE), &numbers)?;
    }
    let incarnations: Vec<AdoptedIncarnation> = new.into_iter().map(|(_, found)| found).collect();
    Ok(Adopted {
        server: server.to_owned(),
        is_own: directory.server.as_deref() == Some(server),
        known: known.len() as u64,
        files: incarnations.iter().map(|found| found.files).sum(),
        bytes: incarnations.iter().map(|found| found.bytes).sum(),
        changed_at: incarnations.iter().map(|found| found.changed_at).max(),
        incarnations,
    })
}

fn find(
    directory: &Directory,
    server: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<BTreeMap<u64, AdoptedIncarnation>> {
    let mut found: BTreeMap<u64, AdoptedIncarnation> = BTreeMap::new();
    let mut seen = 0;
    for (_, dir) in directory.folders(None)? {
        walk::swamps(&dir, &mut |swamp, chunks| {
            for (name, bytes) in chunks.iter().filter(|(name, _)| name.server == server) {
                let changed = fs::symlink_metadata(swamp.join(name.file_name())).and_then(|facts| facts.modified());
                let changed_at = changed.map_or(Timestamp::from_millis(0), Timestamp::from);
                let entry = found.entry(name.incarnation).or_insert_with(|| AdoptedIncarnation {
                    incarnation: base32::encode(name.incarnation.into(), base32::WIDTH_64),
                    files: 0,
                    bytes: 0,
                    changed_at,
                });
                entry.files += 1;
                entry.bytes += bytes;
                entry.changed_at = entry.changed_at.max(changed_at);
            }
            seen += chunks.len() as u64;
            progress(seen);
            Ok(())
        })?;
    }
    Ok(found)
}
