//! The map after a plan: who answers for each folder, and who stands in. Pure.

use std::collections::BTreeMap;

use hydra_sdk::{ClientMap, FolderId, FolderSet, MapServer};

use super::balance::Move;
use crate::Failure;

/// What a plan comes to.
pub(super) struct Planned {
    pub(super) map: ClientMap,
    /// What a fallback has to copy because it takes the place of another one: from the primary.
    pub(super) copies: Vec<Move>,
}

/// One folder: its primary and its fallbacks, by their index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    primary: usize,
    fallbacks: Vec<usize>,
}

impl Planned {
    /// `servers` are those of the plan with what they are to carry, in the order of the indexes in `moves`.
    ///
    /// # Errors
    /// What is wrong with the map that would come out, e.g. a url that two servers have.
    pub(super) fn new(
        map: &ClientMap,
        pool: &str,
        servers: &[(MapServer, f64)],
        moves: &[Move],
    ) -> Result<Planned, Failure> {
        let mut ways = ways(map, pool, servers);
        for moved in moves {
            let way = &mut ways[moved.folder as usize];
            way.primary = moved.to;
            // Who had the folder goes on as a copy in place of whoever takes it.
            if let Some(place) = way.fallbacks.iter().position(|&fallback| fallback == moved.to) {
                way.fallbacks[place] = moved.from;
            }
        }
        let copies = replace_those_that_go(&mut ways, servers);
        Ok(Planned { map: written(map, pool, servers, &ways)?, copies })
    }
}

fn ways(map: &ClientMap, pool: &str, servers: &[(MapServer, f64)]) -> Vec<Way> {
    let index = |id: &str| servers.iter().position(|(server, _)| server.id == id).unwrap_or_default();
    let mut ways = vec![Way { primary: 0, fallbacks: Vec::new() }; map.folders().get() as usize];
    for (folders, primary, fallbacks) in map.routes(pool) {
        let way = Way {
            primary: index(&primary.id),
            fallbacks: fallbacks.iter().map(|fallback| index(&fallback.id)).collect(),
        };
        folders.iter().for_each(|folder| ways[folder.get() as usize] = way.clone());
    }
    ways
}

/// A server that goes is no fallback either: the one takes its place that stands in for the fewest folders by its
/// capacity, best in another zone than the primary. Where there is none, the folder has one fallback less.
fn replace_those_that_go(ways: &mut [Way], servers: &[(MapServer, f64)]) -> Vec<Move> {
    let goes = |at: usize| servers[at].1 <= 0.0;
    let mut duties = vec![0.0; servers.len()];
    for fallback in ways.iter().flat_map(|way| &way.fallbacks) {
        duties[*fallback] += 1.0;
    }
    let mut copies = Vec::new();
    for (folder, way) in ways.iter_mut().enumerate() {
        let primary = way.primary;
        let zone = |at: usize| servers[at].0.zone.as_ref();
        let mut kept: Vec<usize> = way.fallbacks.iter().copied().filter(|&fallback| !goes(fallback)).collect();
        for _ in 0..way.fallbacks.len() - kept.len() {
            let others = (0..servers.len()).filter(|&at| !goes(at) && at != primary && !kept.contains(&at));
            let near = |at: usize| zone(at).is_some() && zone(at) == zone(primary);
            let best = others.min_by(|&a, &b| {
                let load = |at: usize| duties[at] / servers[at].1;
                near(a).cmp(&near(b)).then(load(a).total_cmp(&load(b))).then(a.cmp(&b))
            });
            let Some(best) = best else { break };
            duties[best] += 1.0;
            copies.push(Move { folder: folder as u32, from: primary, to: best });
            kept.push(best);
        }
        way.fallbacks = kept;
    }
    copies
}

/// The map with these routes: those that are alike in one, by their first folder.
fn written(map: &ClientMap, pool: &str, servers: &[(MapServer, f64)], ways: &[Way]) -> Result<ClientMap, Failure> {
    let mut sets: BTreeMap<&Way, Vec<FolderId>> = BTreeMap::new();
    for (folder, way) in super::all(map.folders()).zip(ways) {
        sets.entry(way).or_default().push(folder);
    }
    let mut routes: Vec<(&Way, FolderSet)> =
        sets.into_iter().map(|(way, folders)| (way, folders.into_iter().collect())).collect();
    routes.sort_by_key(|(_, folders)| folders.iter().next());
    let id = |at: &usize| servers[*at].0.id.as_str();
    let mut builder = map.to_builder().epoch(map.epoch() + 1).without_routes(pool);
    for (server, capacity) in servers {
        builder = builder.without_server(&server.id);
        if *capacity > 0.0 {
            builder = builder.server_with(server.clone());
        }
    }
    for (way, folders) in routes {
        builder = builder.route_in(pool, folders.to_string(), id(&way.primary), way.fallbacks.iter().map(id));
    }
    Ok(builder.build()?)
}
