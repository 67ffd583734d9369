//! `hydra-router explain`: where a name lives and why, and what the servers think of that.

use std::io::{self, Write};

use hydra_core::swamp_dir;
use hydra_core::wire::{ResolveBody, resolve_path};
use hydra_sdk::{ClientMap, Hydra, Location, MapServer, SwampName};
use serde::Serialize;

use crate::Failure;
use crate::flags::{ExplainFlags, Output};
use crate::live::{ask_all, on_runtime};
use crate::output::{line, pretty, print};
use crate::routers::{Opinion, ask_router};

/// Where a name lives, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    name: String,
    hash: String,
    folder: u32,
    folders: u32,
    epoch: u64,
    pool: String,
    /// The pattern that chose the pool; none in the default pool.
    rule: Option<String>,
    primary: Listed,
    fallbacks: Vec<Listed>,
    /// Below the data directory of a server.
    path: String,
    /// What each server is to the folder; empty when none was asked.
    servers: Vec<Seen>,
    /// What a router thinks of these servers and of the folder, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    router: Option<Opinion>,
}

/// A server as the map lists it.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    url: String,
}

/// A server as it sees itself.
#[derive(Debug, Serialize)]
struct Seen {
    server: String,
    /// `primary`, `fallback` or `other`.
    role: &'static str,
    /// `owned`, `standby` or `absent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Explains where names live.
pub(crate) fn explain(flags: &ExplainFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    let hydra = Hydra::with_map(map.clone())?;
    let mut explanations: Vec<Explanation> =
        flags.names.iter().map(|name| Explanation::of(&map, name, hydra.locate(name))).collect();
    if !flags.offline {
        on_runtime(async {
            for (explanation, name) in explanations.iter_mut().zip(&flags.names) {
                explanation.servers = see(&hydra, &map, name).await;
                if let Some(url) = &flags.router {
                    let opinion = ask_router(&map, url).await?;
                    let route = map.route(name);
                    let servers: Vec<&str> =
                        route.fallbacks().chain([route.primary()]).map(|server| server.id.as_str()).collect();
                    explanation.router = Some(opinion.about(route.pool(), route.folder(), &servers));
                }
            }
            Ok::<_, Failure>(())
        })??;
    }
    print(|out| match (flags.output, explanations.as_slice()) {
        (Output::Table, _) => explanations.iter().enumerate().try_for_each(|(place, explanation)| {
            if place > 0 {
                writeln!(out)?;
            }
            explanation.table(out)
        }),
        (Output::Json, [explanation]) => pretty(out, explanation),
        (Output::Json, _) => pretty(out, &explanations),
        (Output::Ndjson, _) => explanations.iter().try_for_each(|explanation| line(out, explanation)),
    })
}

/// Asks every server of the map: a folder may be on one that the map does not expect.
async fn see(hydra: &Hydra, map: &ClientMap, name: &SwampName) -> Vec<Seen> {
    let route = map.route(name);
    let answers = ask_all::<ResolveBody>(hydra, map, &resolve_path(name)).await;
    let seen = answers.into_iter().map(|(server, answer)| {
        let role = match &server.id {
            id if *id == route.primary().id => "primary",
            id if route.fallbacks().any(|fallback| fallback.id == *id) => "fallback",
            _ => "other",
        };
        let (state, error) = match answer {
            Ok(body) if body.server == server.id => (body.state, None),
            Ok(body) => (body.state, Some(format!("it says that it is {:?}", body.server))),
            Err(why) => (None, Some(why)),
        };
        Seen { server: server.id.clone(), role, state, error }
    });
    seen.collect()
}

impl Explanation {
    /// What a client of the map does with a name: its own look-up, in other words.
    fn of(map: &ClientMap, name: &SwampName, location: Location) -> Explanation {
        let folder = location.folder.unwrap_or_else(|| map.route(name).folder());
        Explanation {
            name: name.to_string(),
            hash: format!("{:016x}", location.hash),
            folder: folder.get(),
            folders: map.folders().get(),
            epoch: map.epoch(),
            pool: location.pool,
            rule: location.rule.map(|rule| rule.to_string()),
            primary: Listed::of(&location.primary),
            fallbacks: location.fallbacks.iter().map(Listed::of).collect(),
            path: swamp_dir(folder, name).display().to_string(),
            servers: Vec::new(),
            router: None,
        }
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rule = match &self.rule {
            Some(rule) => format!("by the pattern {rule}"),
            None => "no pattern matches".to_owned(),
        };
        writeln!(out, "name      {}", self.name)?;
        writeln!(out, "hash      {}", self.hash)?;
        writeln!(out, "folder    {} of {}", self.folder, self.folders)?;
        writeln!(out, "pool      {} ({rule})", self.pool)?;
        writeln!(out, "primary   {}  {}", self.primary.id, self.primary.url)?;
        for fallback in &self.fallbacks {
            writeln!(out, "fallback  {}  {}", fallback.id, fallback.url)?;
        }
        writeln!(out, "path      {}", self.path)?;
        self.servers.iter().try_for_each(|seen| seen.row(out))?;
        self.router.iter().try_for_each(|router| router.table(out))
    }
}

impl Listed {
    fn of(server: &MapServer) -> Listed {
        Listed { id: server.id.clone(), url: server.url.clone() }
    }
}

impl Seen {
    fn row(&self, out: &mut dyn Write) -> io::Result<()> {
        let said: Vec<&str> = [&self.state, &self.error].into_iter().flatten().map(String::as_str).collect();
        writeln!(out, "server    {} ({}): {}", self.server, self.role, said.join(", but "))
    }
}
