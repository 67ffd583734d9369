//! What routers think of the servers: breakers, folders that stay with a fallback, and what was learned from hints. Each
//! process has its own opinion, so it is asked for it.

use std::io::{self, Write};

use futures_util::future::join_all;
use hydra_core::wire::StatusBody;
use hydra_sdk::{ClientMap, FolderSet, Hydra};
use serde::Serialize;

use crate::Failure;
use crate::live::ask;

/// What one router thinks, as it is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Opinion {
    pub(crate) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    router: Option<String>,
    /// Why it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The epoch of its map.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    breakers: Vec<Breaker>,
    stays: Vec<Stay>,
    learned: Vec<Learned>,
}

/// What it thinks of a server: `up`, `down`, `back` (answers again and waits for the hold-down) or `quarantined`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Breaker {
    server: String,
    state: String,
}

/// Folders that it asks a fallback for, until the primary has what was written there.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Stay {
    folders: FolderSet,
    primary: String,
    fallback: String,
}

/// Folders that it knows to be elsewhere than its map says.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Learned {
    pool: String,
    folders: FolderSet,
    server: String,
    epoch: u64,
}

/// Asks every router, with the token and the certificates of the map.
pub(crate) async fn ask_routers(map: &ClientMap, urls: &[String]) -> Result<Vec<Opinion>, Failure> {
    join_all(urls.iter().map(|url| ask_router(map, url))).await.into_iter().collect()
}

/// Asks one router.
pub(crate) async fn ask_router(map: &ClientMap, url: &str) -> Result<Opinion, Failure> {
    const ITSELF: &str = "router";
    let count = map.folders();
    let only = ClientMap::builder().folders(count.get()).access(map.access().clone()).server(ITSELF, url);
    let only = only.route(count.all().to_string(), ITSELF, [""; 0]).build();
    let only = only.map_err(|error| Failure::usage(format!("--router {url}: {error}")))?;
    let said = ask::<StatusBody>(&Hydra::with_map(only)?, ITSELF, "/v1/status").await;
    Ok(match said {
        Ok(said) if said.kind == "router" => Opinion::of(url, said),
        Ok(said) => Opinion::silent(url, format!("is the server {}, not a router", said.id)),
        Err(why) => Opinion::silent(url, why),
    })
}

impl Opinion {
    fn silent(url: &str, error: String) -> Opinion {
        let (url, error) = (url.to_owned(), Some(error));
        Opinion { url, router: None, error, epoch: None, breakers: Vec::new(), stays: Vec::new(), learned: Vec::new() }
    }

    fn of(url: &str, said: StatusBody) -> Opinion {
        let breakers = said.servers.into_iter().map(|server| Breaker { server: server.id, state: server.state });
        let mut opinion = Opinion {
            router: Some(said.id),
            error: None,
            epoch: said.epoch,
            breakers: breakers.collect(),
            ..Opinion::silent(url, String::new())
        };
        for stay in said.stays {
            let Stay { folders, .. } = opinion.stay(stay.primary, stay.fallback);
            *folders = folders.iter().chain([stay.folder]).collect();
        }
        for learned in said.learned {
            let known = opinion.learned.iter_mut().find(|known| {
                (&known.pool, &known.server, known.epoch) == (&learned.pool, &learned.server, learned.epoch)
            });
            let only = [learned.folder].into_iter();
            match known {
                Some(known) => known.folders = known.folders.iter().chain(only).collect(),
                None => opinion.learned.push(Learned {
                    pool: learned.pool,
                    folders: only.collect(),
                    server: learned.server,
                    epoch: learned.epoch,
                }),
            }
        }
        opinion
    }

    fn stay(&mut self, primary: String, fallback: String) -> &mut Stay {
        let is_it = |stay: &Stay| (&stay.primary, &stay.fallback) == (&primary, &fallback);
        let place = self.stays.iter().position(is_it).unwrap_or(self.stays.len());
        if place == self.stays.len() {
            self.stays.push(Stay { folders: FolderSet::new(), primary, fallback });
        }
        &mut self.stays[place]
    }

    /// What it thinks of a folder: what is about other folders and other servers is left out.
    pub(crate) fn about(self, pool: &str, folder: hydra_sdk::FolderId, servers: &[&str]) -> Opinion {
        Opinion {
            breakers: self.breakers.into_iter().filter(|of| servers.contains(&of.server.as_str())).collect(),
            stays: self.stays.into_iter().filter(|stay| stay.folders.contains(folder)).collect(),
            learned: self.learned.into_iter().filter(|of| of.pool == pool && of.folders.contains(folder)).collect(),
            ..self
        }
    }

    pub(crate) fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let Opinion { url, router, error, epoch, .. } = self;
        if let Some(error) = error {
            return writeln!(out, "router    {url} {error}");
        }
        let (router, epoch) = (router.as_deref().unwrap_or_default(), epoch.unwrap_or_default());
        writeln!(out, "router    {router} at {url}, epoch {epoch}")?;
        for Breaker { server, state } in &self.breakers {
            writeln!(out, "  breaker {server:<12} {state}")?;
        }
        for Stay { folders, primary, fallback } in &self.stays {
            writeln!(out, "  stays   folders {folders} of {primary} with {fallback}")?;
        }
        for Learned { pool, folders, server, epoch } in &self.learned {
            writeln!(out, "  learned folders {folders} of pool {pool} are on {server} since epoch {epoch}")?;
        }
        Ok(())
    }
}
