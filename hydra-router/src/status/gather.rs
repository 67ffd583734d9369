//! Asking the servers what they are and hold, and putting it together folder by folder.

use std::collections::HashMap;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use hydra_core::wire::{HoldsBody, MissingBody, ProbeBody, TakeoverBody, folder_path};
use hydra_core::{FolderId, MAX_HOLDS_FILES};
use hydra_sdk::{ClientMap, ForwardBody, ForwardRequest, Hydra, MapServer, OpClass};
use serde::Deserialize;

use super::{CopyStatus, FolderStatus, ServerStatus};
use crate::live::{PATIENCE, WALK, ask, ask_for, read};

/// How many questions about folders are asked at a time.
const AT_ONCE: usize = 16;

/// A folder as its server sees it; what this version does not know is left out.
#[derive(Debug, Clone, Deserialize)]
struct Seen {
    folder: FolderId,
    state: String,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    epoch: Option<u64>,
    #[serde(default)]
    sealed: bool,
    #[serde(default)]
    files: u64,
    #[serde(default)]
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct AllSeen {
    folders: Vec<Seen>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

/// What was taken over of a folder and not settled.
#[derive(Debug, Clone, Copy, Default)]
struct TakenOver {
    files: u64,
    lacking_files: u64,
    lacking_bytes: u64,
}

type Folders = HashMap<FolderId, Seen>;

/// The servers in the order of the map, and every folder of every pool.
pub(super) async fn gather(
    hydra: &Hydra,
    map: &ClientMap,
    with_sizes: bool,
) -> (Vec<ServerStatus>, Vec<(FolderId, FolderStatus)>) {
    let asked = map.servers().iter().map(|server| look_at(hydra, map, server, with_sizes));
    let looked: Vec<(ServerStatus, Folders)> = join_all(asked).await;
    let (servers, seen): (Vec<ServerStatus>, Vec<Folders>) = looked.into_iter().unzip();
    let seen: HashMap<&str, Folders> = map.servers().iter().map(|server| server.id.as_str()).zip(seen).collect();
    let mut each = Vec::new();
    for pool in map.pools() {
        for (folders, primary, fallbacks) in map.routes(pool) {
            for folder in folders.iter() {
                each.push((folder, folder_status(&seen, pool, folder, primary, &fallbacks)));
            }
        }
    }
    let taken = stream::iter(each).map(|(folder, status)| add_takeovers(hydra, folder, status)).buffered(AT_ONCE);
    let mut each: Vec<(FolderId, FolderStatus)> = taken.collect().await;
    each.sort_by(|(a, first), (b, second)| (first.pool.as_str(), a).cmp(&(second.pool.as_str(), b)));
    (servers, each)
}

async fn look_at(hydra: &Hydra, map: &ClientMap, server: &MapServer, with_sizes: bool) -> (ServerStatus, Folders) {
    let mut status = ServerStatus {
        id: server.id.clone(),
        url: server.url.clone(),
        reachable: false,
        error: None,
        version: None,
        writable: None,
        owned: String::new(),
        standby: String::new(),
        bytes: None,
    };
    let probe = match ask::<ProbeBody>(hydra, &server.id, "/v1/probe").await {
        Ok(probe) => probe,
        Err(why) => {
            status.error = Some(why);
            return (status, Folders::new());
        }
    };
    if let Some(why) = is_another(map, server, &probe) {
        status.error = Some(why);
        return (status, Folders::new());
    }
    status.reachable = true;
    status.writable = Some(probe.writable);
    (status.owned, status.standby) = (probe.owned, probe.standby);
    status.version = ask::<Version>(hydra, &server.id, "/version").await.ok().map(|said| said.version);
    let path = if with_sizes { "/v1/folders?sizes" } else { "/v1/folders" };
    match ask_for::<AllSeen>(hydra, &server.id, path, WALK).await {
        Ok(all) => {
            status.bytes = with_sizes.then(|| all.folders.iter().map(|seen| seen.bytes).sum());
            (status, all.folders.into_iter().map(|seen| (seen.folder, seen)).collect())
        }
        Err(why) => {
            status.error = Some(format!("does not say what it is to its folders: {why}"));
            (status, Folders::new())
        }
    }
}

/// Why what answered is not the server that the map means.
fn is_another(map: &ClientMap, server: &MapServer, probe: &ProbeBody) -> Option<String> {
    let differs = |what: &str, says: &str, expected: &str| {
        (says != expected).then(|| format!("says {what} = {says}, the map says {expected}"))
    };
    differs("server", &probe.server, &server.id)
        .or_else(|| differs("cluster", &probe.cluster, map.cluster()))
        .or_else(|| differs("folders", &probe.folders.to_string(), &map.folders().to_string()))
}

fn folder_status(
    seen: &HashMap<&str, Folders>,
    pool: &str,
    folder: FolderId,
    primary: &MapServer,
    fallbacks: &[&MapServer],
) -> FolderStatus {
    let of = |server: &MapServer| seen.get(server.id.as_str()).and_then(|folders| folders.get(&folder));
    let state = |server: &MapServer| of(server).map_or("unreachable", |seen| seen.state.as_str()).to_owned();
    let owner = of(primary);
    let copy = |fallback: &&MapServer| {
        let held = of(fallback).map_or((0, 0), |seen| (seen.files, seen.bytes));
        let (files, bytes) = owner.map_or((0, 0), |seen| (seen.files, seen.bytes));
        let is_known = of(fallback).is_some();
        CopyStatus {
            server: fallback.id.clone(),
            state: state(fallback),
            lacks_files: if is_known { files.saturating_sub(held.0) } else { 0 },
            lacks_bytes: if is_known { bytes.saturating_sub(held.1) } else { 0 },
            taken_over_files: 0,
            primary_lacks_files: 0,
            primary_lacks_bytes: 0,
        }
    };
    FolderStatus {
        pool: pool.to_owned(),
        folders: String::new(),
        count: 1,
        primary: primary.id.clone(),
        state: state(primary),
        files: owner.map_or(0, |seen| seen.files),
        bytes: owner.map_or(0, |seen| seen.bytes),
        copies: fallbacks.iter().map(copy).collect(),
        notes: notes(seen, folder, primary),
    }
}

/// What is under way with a folder, wherever it is, and what the map does not expect.
fn notes(seen: &HashMap<&str, Folders>, folder: FolderId, primary: &MapServer) -> Vec<String> {
    let mut notes = Vec::new();
    let mut servers: Vec<(&&str, &Folders)> = seen.iter().collect();
    servers.sort_unstable_by_key(|(id, _)| **id);
    for (id, folders) in servers {
        let Some(is) = folders.get(&folder) else { continue };
        let peer = is.peer.as_deref().unwrap_or("another server");
        let epoch = is.epoch.map(|epoch| format!(" (epoch {epoch})")).unwrap_or_default();
        match is.state.as_str() {
            "importing" => notes.push(format!("a move is under way: {id} takes it in from {peer}{epoch}")),
            "fenced" => {
                notes.push(format!("a move is under way: the copy of {id} is fenced, it goes to {peer}{epoch}"))
            }
            "moved" if **id == *primary.id => notes.push(format!("{id} says that it has moved to {peer}{epoch}")),
            "owned" if **id != *primary.id => notes.push(format!("{id} owns it, too; the map says {}", primary.id)),
            _ => {}
        }
        if is.sealed {
            notes.push(format!("a move is under way: {id} takes no writes for a moment"));
        }
    }
    notes
}

/// Asks what was written in place of the primary, and what of that the primary lacks.
async fn add_takeovers(hydra: &Hydra, folder: FolderId, mut status: FolderStatus) -> (FolderId, FolderStatus) {
    let primary = status.primary.clone();
    for copy in status.copies.iter_mut().filter(|copy| copy.state == "standby") {
        match taken_over(hydra, folder, &copy.server, &primary).await {
            Ok(taken) => {
                copy.taken_over_files = taken.files;
                (copy.primary_lacks_files, copy.primary_lacks_bytes) = (taken.lacking_files, taken.lacking_bytes);
            }
            Err(why) => status.notes.push(format!("what {} took over is not known: {why}", copy.server)),
        }
    }
    (folder, status)
}

async fn taken_over(hydra: &Hydra, folder: FolderId, fallback: &str, primary: &str) -> Result<TakenOver, String> {
    let listed: TakeoverBody = ask(hydra, fallback, &folder_path(folder, "takeover")).await?;
    let mut taken = TakenOver { files: listed.count, ..TakenOver::default() };
    for files in listed.files.chunks(MAX_HOLDS_FILES) {
        let body = serde_json::to_vec(&HoldsBody { files: files.to_vec() }).map_err(|error| error.to_string())?;
        let request = ForwardRequest::new(OpClass::Read, "POST", folder_path(folder, "holds"));
        let mut request = request.with_body("application/json", ForwardBody::Whole(body.into()));
        request.deadline = Some(PATIENCE);
        match hydra.forward_to(primary, request).await {
            Ok(answer) => {
                let missing: MissingBody = read(answer).await?;
                taken.lacking_files += missing.missing.len() as u64;
                let lacking =
                    |file: &hydra_core::wire::MissingFileBody| file.bytes - file.held.unwrap_or(0).min(file.bytes);
                taken.lacking_bytes += missing.missing.iter().map(lacking).sum::<u64>();
            }
            // A primary that is away may hold them or not; all of them are at risk until it is back.
            Err(_) => {
                taken.lacking_files += files.len() as u64;
                taken.lacking_bytes += files.iter().map(|file| file.bytes).sum::<u64>();
            }
        }
    }
    Ok(taken)
}
