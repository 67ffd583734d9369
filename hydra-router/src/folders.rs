//! The folders of all servers side by side: `GET /v1/folders` and `/v1/folders/{F}`.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use http::StatusCode;
use hydra_core::wire::{FolderBody, FoldersBody, Parameters, folder_state, with_parameters};
use hydra_core::{Error, ErrorCode, FolderId, FolderSet};
use hydra_sdk::{ClientMap, OpClass};
use serde::Serialize;

use crate::across::{Across, refusal_of};
use crate::answer::{self, Refusal, Response};
use crate::fan_out::routed;
use crate::gateway::{Gateway, Head};

/// What the servers are to each folder.
#[derive(Debug, Serialize)]
struct Merged {
    folders: Vec<Folder>,
    /// Every server that was asked, and why there is nothing of it where that is so.
    servers: Vec<Asked>,
}

/// One folder of a pool: whose it is by the map, and what each server says of it. Those that do not have it are left out.
#[derive(Debug, Serialize)]
struct Folder {
    folder: FolderId,
    pool: String,
    primary: String,
    fallbacks: Vec<String>,
    servers: Vec<Held>,
}

impl Folder {
    /// The folder with the servers where it is in this state; `absent` is one that no server has.
    fn in_state(mut self, state: Option<&str>) -> Option<Folder> {
        let Some(state) = state else { return Some(self) };
        if state == "absent" {
            return self.servers.is_empty().then_some(self);
        }
        self.servers.retain(|held| held.is.state == state);
        (!self.servers.is_empty()).then_some(self)
    }
}

#[derive(Debug, Serialize)]
struct Held {
    server: String,
    #[serde(flatten)]
    is: FolderBody,
}

#[derive(Debug, Serialize)]
struct Asked {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Asks every server; one that does not answer hides nothing of the others. With `?sizes` also how much is in them.
pub(crate) async fn list(gateway: &Gateway, head: &Head, wanted: Option<FolderSet>) -> Result<Response, Refusal> {
    let query = Parameters::parse(head.parts.uri.query(), &["sizes", "state"])?;
    let (sizes, state) = (query.flag("sizes")?, folder_state(&query)?);
    let across = Across::of(gateway, head)?;
    let count = across.map.folders();
    let wanted = wanted.unwrap_or_else(|| count.all());
    wanted.check(count).map_err(|error| Error::new(ErrorCode::InvalidParameter, error.detail()))?;
    let path = format!("/v1/folders/{wanted}");
    let target = if sizes { with_parameters(&path, &[("sizes", "true".to_owned())]) } else { path };
    let servers = routed(&across.map);
    let said = join_all(servers.iter().map(|server| ask(&across, server, &target))).await;
    if !said.iter().any(Result::is_ok) {
        // Where nobody answers as asked for, the first reason is the answer.
        return Err(said.into_iter().find_map(Result::err).unwrap_or_else(|| unrouted().into()));
    }
    let mut held: BTreeMap<FolderId, Vec<Held>> = BTreeMap::new();
    let mut asked = Vec::with_capacity(servers.len());
    for (server, said) in servers.iter().zip(said) {
        let server = (*server).to_owned();
        match said {
            Ok(body) => {
                for is in body.folders.into_iter().filter(|is| is.state != "absent") {
                    held.entry(is.folder).or_default().push(Held { server: server.clone(), is });
                }
                asked.push(Asked { server, error: None });
            }
            Err(refusal) => asked.push(Asked { server, error: Some(refusal.error.to_string()) }),
        }
    }
    let folders = wanted.iter().flat_map(|folder| merge(&across, folder, held.remove(&folder).unwrap_or_default()));
    let folders = folders.filter_map(|folder| folder.in_state(state));
    answer::json(StatusCode::OK, &Merged { folders: folders.collect(), servers: asked })
}

async fn ask(across: &Across, server: &str, target: &str) -> Result<FoldersBody, Refusal> {
    let request = across.request(OpClass::Read, "GET", target.to_owned());
    let answer = across.hydra.forward_to(server, request).await.map_err(|error| Refusal::of_call(&error))?;
    if answer.status != 200 {
        return Err(refusal_of(answer).await);
    }
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::new(ErrorCode::ServerUnreachable, format!("the folders of {server} are not understood: {why}"))
    };
    let body = answer.body.collect().await.map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&body).map_err(|error| unreadable(&error).into())
}

/// A folder once for each pool, with the servers of that pool.
fn merge(across: &Across, folder: FolderId, mut held: Vec<Held>) -> Vec<Folder> {
    let pools: Vec<&str> = across.map.pools().collect();
    let mut merged = Vec::with_capacity(pools.len());
    for pool in pools {
        let routed = across.map.routes(pool);
        let Some((_, primary, fallbacks)) = routed.into_iter().find(|(set, ..)| set.contains(folder)) else { continue };
        let is_here = |held: &Held| is_in_pool(&across.map, pool, &held.server);
        let (here, others) = held.into_iter().partition(is_here);
        held = others;
        merged.push(Folder {
            folder,
            pool: pool.to_owned(),
            primary: primary.id.clone(),
            fallbacks: fallbacks.iter().map(|fallback| fallback.id.clone()).collect(),
            servers: here,
        });
    }
    merged
}

fn is_in_pool(map: &ClientMap, pool: &str, server: &str) -> bool {
    map.routes(pool)
        .any(|(_, primary, fallbacks)| primary.id == server || fallbacks.iter().any(|fallback| fallback.id == server))
}

fn unrouted() -> Error {
    Error::new(ErrorCode::ServerUnreachable, "the map routes to no server")
}
