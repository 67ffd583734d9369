//! What has to be done for each folder of a move: from the map, and from what the servers say they are.

use std::collections::BTreeSet;

use hydra_core::wire::{FolderBody, ProbeBody};
use hydra_sdk::{ClientMap, FolderId, FolderSet, Hydra};

use super::remote::{Refused, states};
use super::{MoveFlags, Outcome};
use crate::Failure;
use crate::live::ask;

/// All folders of a move.
pub(super) struct Plan {
    pub(super) pool: String,
    pub(super) folders: Vec<PlannedFolder>,
}

/// One folder of a move, as it was found.
pub(super) struct PlannedFolder {
    pub(super) id: FolderId,
    /// The epoch in which it gets its new owner: the next one, or that of the move that is under way.
    pub(super) epoch: u64,
    /// What the source is to it.
    pub(super) source: FolderBody,
    /// What the target is to it.
    pub(super) target: FolderBody,
    /// The other servers that the map lists for it.
    pub(super) others: Vec<String>,
}

impl PlannedFolder {
    /// Whether the source has let go of it for this target.
    pub(super) fn has_left(&self, to: &str) -> bool {
        self.source.state == "moved" && self.source.peer.as_deref() == Some(to)
    }

    /// Whether the target serves it.
    pub(super) fn has_arrived(&self) -> bool {
        self.target.state == "owned"
    }

    pub(super) fn foreseen(&self) -> Outcome {
        let outcome = match (self.source.state.as_str(), self.target.state.as_str()) {
            ("moved", "owned") => "has moved already",
            ("moved", _) => "would be finished: its source has let go of it",
            (_, "importing") => "would be gone on with",
            _ => "would be moved",
        };
        Outcome { folder: self.id, outcome, epoch: self.epoch, bytes: 0, files: 0, pause_ms: None }
    }
}

impl Plan {
    /// Looks at everybody, and refuses what cannot be done before anything is.
    pub(super) async fn make(hydra: &Hydra, map: &ClientMap, flags: &MoveFlags) -> Result<Plan, Failure> {
        let MoveFlags { folders, from, to, .. } = flags;
        folders.check(map.folders()).map_err(|error| Failure::usage(error.detail().to_owned()))?;
        if from == to {
            return Err(Failure::usage(format!("--from and --to are the same server {from:?}")));
        }
        for (flag, id) in [("--from", from), ("--to", to)] {
            let server = map.server(id).ok_or_else(|| {
                let known: Vec<&str> = map.servers().iter().map(|server| server.id.as_str()).collect();
                Failure::usage(format!("{flag}: the map has no server {id:?}; it has {}", known.join(", ")))
            })?;
            let probe: ProbeBody = ask(hydra, id, "/v1/probe")
                .await
                .map_err(|why| Failure::unavailable(format!("{id} at {} {why}", server.url)))?;
            check_identity(map, id, &probe)?;
        }
        let pool = pool_of(map, folders, from, to)?;
        let (sources, targets) = (states(hydra, from, folders).await?, states(hydra, to, folders).await?);
        let mut planned = Vec::with_capacity(sources.len());
        for (source, target) in sources.into_iter().zip(targets) {
            let others = others(map, &pool, source.folder, from, to);
            let fenced = fenced_epoch(hydra, &others, source.folder, to).await?;
            planned.push(planned_folder(map, flags, source, target, others, fenced)?);
        }
        Ok(Plan { pool, folders: planned })
    }

    /// The epoch of the map in which all folders are at their new owner.
    pub(super) fn map_epoch(&self, map: &ClientMap) -> u64 {
        self.folders.iter().map(|folder| folder.epoch).max().unwrap_or_default().max(map.epoch() + 1)
    }
}

fn check_identity(map: &ClientMap, id: &str, said: &ProbeBody) -> Result<(), Failure> {
    let expected = (id, map.cluster(), map.folders());
    let is_it = (said.server.as_str(), said.cluster.as_str(), said.folders) == expected;
    match is_it {
        true => Ok(()),
        false => Err(Failure::conflict(format!(
            "what answers for {id} says it is {} of the cluster {} with {} folders; the map says {id}, {} and {}",
            said.server, said.cluster, said.folders, expected.1, expected.2
        ))),
    }
}

/// The pool in which these folders are the source's, or the target's by now.
fn pool_of(map: &ClientMap, folders: &FolderSet, from: &str, to: &str) -> Result<String, Failure> {
    let has = |pool: &str, id: &str| {
        let mut routes = map.routes(pool);
        routes.any(|(_, primary, fallbacks)| primary.id == id || fallbacks.iter().any(|one| one.id == id))
    };
    let pool = map.pools().find(|pool| has(pool, from)).or_else(|| map.pools().find(|pool| has(pool, to)));
    let pool = pool.ok_or_else(|| Failure::usage(format!("no route of the map names {from}")))?;
    for (routed, primary, _) in map.routes(pool) {
        let others: FolderSet = routed.iter().filter(|&folder| folders.contains(folder)).collect();
        if !others.is_empty() && primary.id != from && primary.id != to {
            return Err(Failure::usage(format!("by the map folders {others} belong to {}, not to {from}", primary.id)));
        }
    }
    Ok(pool.to_owned())
}

/// Whoever else the map lists for a folder.
fn others(map: &ClientMap, pool: &str, folder: FolderId, from: &str, to: &str) -> Vec<String> {
    let routes = map.routes(pool).filter(|(routed, ..)| routed.contains(folder));
    let servers = routes.flat_map(|(_, primary, fallbacks)| std::iter::once(primary).chain(fallbacks));
    let ids: BTreeSet<&str> = servers.map(|server| server.id.as_str()).collect();
    ids.into_iter().filter(|id| ![from, to].contains(id)).map(str::to_owned).collect()
}

/// The epoch a copy was fenced for this move in, if one was. One that does not answer is met again when it is fenced.
async fn fenced_epoch(hydra: &Hydra, others: &[String], folder: FolderId, to: &str) -> Result<Option<u64>, Failure> {
    for id in others {
        match states(hydra, id, &FolderSet::from_iter([folder])).await {
            Ok(found) => {
                let fenced = found.iter().find(|one| one.state == "fenced" && one.peer.as_deref() == Some(to));
                if let Some(epoch) = fenced.and_then(|one| one.epoch) {
                    return Ok(Some(epoch));
                }
            }
            Err(Refused { code: None, .. }) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(None)
}

fn planned_folder(
    map: &ClientMap,
    flags: &MoveFlags,
    source: FolderBody,
    target: FolderBody,
    others: Vec<String>,
    fenced: Option<u64>,
) -> Result<PlannedFolder, Failure> {
    let MoveFlags { from, to, .. } = flags;
    let id = source.folder;
    let is_ours =
        |body: &FolderBody, state: &str, peer: &str| body.state == state && body.peer.as_deref() == Some(peer);
    let under_way = match () {
        () if is_ours(&source, "moved", to) => source.epoch,
        () if is_ours(&target, "importing", from) => target.epoch,
        () => fenced,
    };
    let known = [source.epoch, target.epoch].into_iter().flatten().max().unwrap_or_default();
    let epoch = under_way.unwrap_or_else(|| (map.epoch() + 1).max(known + 1));
    let has_left = is_ours(&source, "moved", to);
    if source.state != "owned" && !has_left {
        let state = &source.state;
        return Err(Failure::conflict(format!("{from} does not own folder {id}, it is {state} there")));
    }
    if target.state == "owned" && !has_left {
        return Err(Failure::conflict(format!(
            "{to} owns folder {id} already, and so does {from}; a new server is started with --folders none"
        )));
    }
    if target.state == "importing" && !is_ours(&target, "importing", from) {
        let other = target.peer.as_deref().unwrap_or("another server");
        return Err(Failure::conflict(format!("folder {id} is on its way to {to} from {other}; finish or abort that")));
    }
    Ok(PlannedFolder { id, epoch, source, target, others })
}
