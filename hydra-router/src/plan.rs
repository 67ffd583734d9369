//! `hydra-router plan`: which folders should move when servers come or go. Changes nothing and writes nothing.

mod balance;
mod routes;

use std::collections::BTreeMap;
use std::io::{self, Write};

use futures_util::future::join_all;
use hydra_core::FolderCount;
use hydra_core::wire::FoldersBody;
use hydra_sdk::{ClientMap, FolderId, FolderSet, Hydra, MapServer};
use serde::Serialize;

use crate::Failure;
use crate::flags::{By, Output, PlanFlags};
use crate::live::{WALK, ask_for, on_runtime};
use crate::output::{bytes_of, line, pretty, print};
use balance::{Move, Place};

/// A plan as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    pool: String,
    /// What moves, in the order in which it may be done.
    moves: Vec<Batch>,
    /// What fallbacks have to copy because another one stops to be one.
    copies: Vec<Batch>,
    folders_moved: usize,
    /// `null` where a server did not say how much there is.
    bytes_moved: Option<u64>,
    servers: Vec<Share>,
    /// The map when everything has moved.
    map: String,
}

/// Folders that go from one server to another.
#[derive(Debug, Serialize)]
struct Batch {
    folders: String,
    count: usize,
    from: String,
    to: String,
    bytes: Option<u64>,
}

/// What a server has before and after.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Share {
    server: String,
    capacity: f64,
    folders_before: usize,
    folders_after: usize,
    bytes_before: Option<u64>,
    bytes_after: Option<u64>,
}

/// Plans, and prints the plan.
pub(crate) fn plan(flags: &PlanFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    let sizes = if flags.offline { None } else { on_runtime(sizes(&map, &flags.pool))?? };
    let planned = Planned::of(&map, flags, sizes.as_deref())?;
    print(|out| match flags.output {
        _ if flags.print_map => out.write_all(planned.map.as_bytes()),
        Output::Table => planned.table(out),
        Output::Json => pretty(out, &planned),
        Output::Ndjson => planned.moves.iter().try_for_each(|batch| line(out, batch)),
    })
}

/// How many bytes each folder of a pool has at its primary; nothing when one of them does not say.
async fn sizes(map: &ClientMap, pool: &str) -> Result<Option<Vec<u64>>, Failure> {
    let hydra = Hydra::with_map(map.clone())?;
    let routes: Vec<(&FolderSet, &MapServer)> =
        map.routes(pool).map(|(folders, primary, _)| (folders, primary)).collect();
    let asked = routes.into_iter().map(|(folders, primary)| {
        let path = format!("/v1/folders/{folders}?sizes");
        let hydra = hydra.clone();
        async move { (primary, ask_for::<FoldersBody>(&hydra, &primary.id, &path, WALK).await) }
    });
    let mut sizes = vec![0; map.folders().get() as usize];
    for (primary, said) in join_all(asked).await {
        match said {
            Ok(body) => {
                for folder in body.folders {
                    if let Some(size) = sizes.get_mut(folder.folder.get() as usize) {
                        *size = folder.bytes.unwrap_or_default();
                    }
                }
            }
            Err(why) => {
                eprintln!("hydra-router: {} does not say how much is in its folders: {why}", primary.id);
                return Ok(None);
            }
        }
    }
    Ok(Some(sizes))
}

impl Planned {
    fn of(map: &ClientMap, flags: &PlanFlags, sizes: Option<&[u64]>) -> Result<Planned, Failure> {
        let pool = flags.pool.as_str();
        if !map.pools().any(|known| known == pool) {
            let known: Vec<&str> = map.pools().collect();
            return Err(Failure::usage(format!("--pool: the map has no pool {pool:?}; it has {}", known.join(", "))));
        }
        let servers = servers(map, flags)?;
        let places: Vec<Place> = servers.iter().map(|(_, capacity)| Place { capacity: *capacity }).collect();
        let ids: Vec<&str> = servers.iter().map(|(server, _)| server.id.as_str()).collect();
        let owners = owners(map, pool, &ids);
        let moves = match (flags.by, sizes) {
            (By::Folders, _) => balance::by_folders(&owners, &places),
            (By::Bytes, Some(sizes)) => balance::by_bytes(&owners, sizes, &places),
            (By::Bytes, None) => {
                return Err(Failure::unavailable(
                    "--by bytes needs to know how much is in every folder, and not every primary says so; \
                     plan --by folders, or when all of them answer",
                ));
            }
        };
        let planned = routes::Planned::new(map, pool, &servers, &moves)?;
        let mut after = owners.clone();
        moves.iter().for_each(|moved| after[moved.folder as usize] = moved.to);
        let share = |at: usize| Share {
            server: ids[at].to_owned(),
            capacity: places[at].capacity,
            folders_before: owners.iter().filter(|&&owner| owner == at).count(),
            folders_after: after.iter().filter(|&&owner| owner == at).count(),
            bytes_before: sizes.map(|sizes| held(&owners, sizes, at)),
            bytes_after: sizes.map(|sizes| held(&after, sizes, at)),
        };
        Ok(Planned {
            pool: pool.to_owned(),
            folders_moved: moves.len(),
            bytes_moved: sizes.map(|sizes| moves.iter().map(|moved| sizes[moved.folder as usize]).sum()),
            moves: batches(&moves, &ids, sizes),
            copies: batches(&planned.copies, &ids, sizes),
            servers: (0..ids.len()).map(share).collect(),
            map: planned.map.to_toml(),
        })
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        for batch in &self.moves {
            batch.row(out, "move")?;
        }
        for batch in &self.copies {
            batch.row(out, "copy")?;
        }
        if self.moves.is_empty() {
            writeln!(out, "nothing has to move")?;
        }
        let moved = self.bytes_moved.map(|bytes| format!(", {}", bytes_of(bytes))).unwrap_or_default();
        writeln!(out, "{} of pool {}{moved} would move\n", counted(self.folders_moved), self.pool)?;
        for share in &self.servers {
            let of = |bytes: Option<u64>| bytes.map(|bytes| format!(" ({})", bytes_of(bytes))).unwrap_or_default();
            writeln!(
                out,
                "{:<12} {:>6}{} -> {}{}",
                share.server,
                share.folders_before,
                of(share.bytes_before),
                share.folders_after,
                of(share.bytes_after)
            )?;
        }
        if !self.moves.is_empty() {
            writeln!(out, "\nto do it, with new servers started with --folders none, and listed in the map:")?;
            for Batch { folders, from, to, .. } in &self.moves {
                writeln!(out, "  hydra-router move {folders} --from {from} --to {to} --write-map")?;
            }
        }
        writeln!(out, "\n# the map when everything has moved\n{}", self.map)
    }
}

impl Batch {
    fn row(&self, out: &mut dyn Write, verb: &str) -> io::Result<()> {
        let Batch { folders, count, from, to, bytes } = self;
        let bytes = bytes.map(|bytes| format!(", {}", bytes_of(bytes))).unwrap_or_default();
        writeln!(out, "{verb} {folders} from {from} to {to}: {}{bytes}", counted(*count))
    }
}

/// The servers of the pool and those that come, with what they are to carry; one that goes carries nothing.
fn servers(map: &ClientMap, flags: &PlanFlags) -> Result<Vec<(MapServer, f64)>, Failure> {
    let is_routed = |id: &str, pool: &str| {
        map.routes(pool)
            .any(|(_, primary, fallbacks)| primary.id == id || fallbacks.iter().any(|fallback| fallback.id == id))
    };
    let mut servers: Vec<MapServer> =
        map.servers().iter().filter(|server| is_routed(&server.id, &flags.pool)).cloned().collect();
    for added in &flags.add {
        let (id, url) = (&added.name, &added.value);
        if servers.iter().any(|server| server.id == *id) {
            return Err(Failure::usage(format!("--add: {id} carries folders of pool {} already", flags.pool)));
        }
        if let Some(pool) = map.pools().find(|pool| is_routed(id, pool)) {
            return Err(Failure::usage(format!("--add: {id} carries folders of pool {pool}; a server is of one pool")));
        }
        let listed = map.server(id).cloned().filter(|listed| url.as_ref().is_none_or(|url| *url == listed.url));
        let server = match (listed, url) {
            (Some(listed), _) => listed,
            (None, Some(url)) => MapServer::new(id, url),
            (None, None) => {
                return Err(Failure::usage(format!(
                    "--add: the map has no server {id:?}; write {id}=http://host:port"
                )));
            }
        };
        servers.push(server);
    }
    for (flag, id) in
        flags.drain.iter().map(|id| ("--drain", id)).chain(flags.capacity.iter().map(|c| ("--capacity", &c.name)))
    {
        if !servers.iter().any(|server| server.id == *id) {
            let known: Vec<&str> = servers.iter().map(|server| server.id.as_str()).collect();
            return Err(Failure::usage(format!(
                "{flag}: {id:?} is no server of the plan; those are {}",
                known.join(", ")
            )));
        }
    }
    let mut weighed = Vec::with_capacity(servers.len());
    for mut server in servers {
        if let Some(set) = flags.capacity.iter().rfind(|set| set.name == server.id) {
            server.capacity = set.value;
        }
        let capacity = if flags.drain.contains(&server.id) { 0.0 } else { server.capacity };
        weighed.push((server, capacity));
    }
    weighed.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    if weighed.iter().all(|(_, capacity)| *capacity <= 0.0) {
        return Err(Failure::usage("no server would be left to carry anything"));
    }
    Ok(weighed)
}

/// The primary of every folder, by its index.
fn owners(map: &ClientMap, pool: &str, ids: &[&str]) -> Vec<usize> {
    let mut owners = vec![0; map.folders().get() as usize];
    for (folders, primary, _) in map.routes(pool) {
        let owner = ids.iter().position(|id| *id == primary.id).unwrap_or_default();
        folders.iter().for_each(|folder| owners[folder.get() as usize] = owner);
    }
    owners
}

fn held(owners: &[usize], sizes: &[u64], at: usize) -> u64 {
    owners.iter().zip(sizes).filter(|(owner, _)| **owner == at).map(|(_, size)| size).sum()
}

/// The folders that go the same way, together.
fn batches(moves: &[Move], ids: &[&str], sizes: Option<&[u64]>) -> Vec<Batch> {
    let mut ways: BTreeMap<(usize, usize), Vec<u32>> = BTreeMap::new();
    for moved in moves {
        ways.entry((moved.from, moved.to)).or_default().push(moved.folder);
    }
    let batch = |((from, to), folders): ((usize, usize), Vec<u32>)| Batch {
        count: folders.len(),
        bytes: sizes.map(|sizes| folders.iter().map(|&folder| sizes[folder as usize]).sum()),
        folders: folders.into_iter().map(FolderId::new).collect::<FolderSet>().to_string(),
        from: ids[from].to_owned(),
        to: ids[to].to_owned(),
    };
    ways.into_iter().map(batch).collect()
}

fn counted(count: usize) -> String {
    format!("{count} folder{}", if count == 1 { "" } else { "s" })
}

/// Every folder that there is.
fn all(count: FolderCount) -> impl Iterator<Item = FolderId> {
    (0..count.get()).map(FolderId::new)
}
