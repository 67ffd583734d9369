//! Asking the servers of a map, and comparing what they say about themselves with what the map says.

use std::time::Duration;

use futures_util::future::join_all;
use hydra_core::wire::{ProbeBody, Problem};
use hydra_sdk::{
    ClientMap, Finding, FolderId, FolderMove, FolderSet, ForwardRequest, ForwardResponse, Hydra, MapServer, OpClass,
};
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::maps::Noted;

/// How long a server may take to say who it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// How long a server may take to walk all of its folders.
pub(crate) const WALK: Duration = Duration::from_secs(60);

/// Runs a future to its end.
pub(crate) fn on_runtime<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    Ok(runtime.block_on(future))
}

/// Asks every server of the map for the same path, all at once; the answer or why there is none.
pub(crate) async fn ask_all<'m, T: DeserializeOwned>(
    hydra: &Hydra,
    map: &'m ClientMap,
    path: &str,
) -> Vec<(&'m MapServer, Result<T, String>)> {
    join_all(map.servers().iter().map(|server| async move { (server, ask(hydra, &server.id, path).await) })).await
}

/// Asks one server of the map for a path; the answer or why there is none.
pub(crate) async fn ask<T: DeserializeOwned>(hydra: &Hydra, server: &str, path: &str) -> Result<T, String> {
    ask_for(hydra, server, path, PATIENCE).await
}

/// The same for what may take a server longer.
pub(crate) async fn ask_for<T: DeserializeOwned>(
    hydra: &Hydra,
    server: &str,
    path: &str,
    patience: Duration,
) -> Result<T, String> {
    let mut request = ForwardRequest::new(OpClass::Read, "GET", path);
    request.deadline = Some(patience);
    let answer = hydra.forward_to(server, request).await.map_err(|error| match error.attempts() {
        [attempt, ..] => attempt.error.clone(),
        [] => error.to_string(),
    })?;
    read(answer).await
}

/// The body of an answer, or why there is none.
pub(crate) async fn read<T: DeserializeOwned>(answer: ForwardResponse) -> Result<T, String> {
    let status = answer.status;
    let body = answer.body.collect().await.map_err(|error| error.to_string())?;
    if status != 200 {
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        return Err(problem.map_or_else(|| format!("answered {status}"), |problem| problem.detail));
    }
    serde_json::from_slice(&body).map_err(|error| format!("answered something that cannot be read: {error}"))
}

/// Everything in which the servers differ from the map.
pub(crate) async fn findings(map: &ClientMap) -> Result<Vec<Noted>, Failure> {
    let hydra = Hydra::with_map(map.clone())?;
    let answers = ask_all::<ProbeBody>(&hydra, map, "/v1/probe").await;
    Ok(answers.into_iter().flat_map(|(server, answer)| compare(map, server, answer)).collect())
}

fn compare(map: &ClientMap, server: &MapServer, answer: Result<ProbeBody, String>) -> Vec<Noted> {
    let place = format!("{} at {}", server.id, server.url);
    let said = match answer {
        Ok(said) => said,
        Err(why) => return vec![Noted::about("E502", server, format!("{place} {why}"))],
    };
    let identity = [
        ("server", said.server.clone(), server.id.clone()),
        ("cluster", said.cluster.clone(), map.cluster().to_owned()),
        ("folders", said.folders.to_string(), map.folders().to_string()),
    ];
    let differs = identity.into_iter().filter(|(_, says, expected)| says != expected);
    let notes: Vec<Noted> = differs
        .map(|(what, says, expected)| {
            Noted::about("E501", server, format!("{place} says {what} = {says}, the map says {expected}"))
        })
        .collect();
    // Of another server, or with another count, what it says about folders means nothing here.
    if !notes.is_empty() {
        return notes;
    }
    let duties = Duty::all(map, server, &said);
    duties.iter().flat_map(Duty::compare).chain(strays(map, server, &said, &duties)).collect()
}

/// Folders that a server owns and that the map gives to others without it: whoever goes by the map does not find
/// what is in them.
fn strays(map: &ClientMap, server: &MapServer, said: &ProbeBody, duties: &[Duty<'_>]) -> Option<Noted> {
    let Duty { pool, owned, .. } = duties.first()?;
    let is_meant = |folder: FolderId| duties.iter().any(|duty| duty.folders.contains(folder));
    let strays: FolderSet = owned.iter().filter(|&folder| !is_meant(folder)).collect();
    let mut owners: Vec<&str> = map
        .routes(pool)
        .filter(|(folders, ..)| strays.iter().any(|folder| folders.contains(folder)))
        .map(|(_, primary, _)| primary.id.as_str())
        .collect();
    owners.dedup();
    (!strays.is_empty() && said.pool == *pool).then(|| {
        let message = format!(
            "this map gives folders {strays} of pool {pool} to {}, and {} still owns them: run \"hydra-router move\", or \
             start it without them (--folders) if the data is there",
            owners.join(", "),
            server.id
        );
        Noted::about("E401", server, message).in_folders(&strays)
    })
}

/// A finding for each server that still owns folders which are to be taken from it. One that does not answer is
/// a finding, too: nobody knows then.
pub(crate) async fn still_owned(old: &ClientMap, moves: &[FolderMove]) -> Result<Vec<Noted>, Failure> {
    let hydra = Hydra::with_map(old.clone())?;
    let mut notes = Vec::new();
    for moved in moves {
        let Some(server) = old.server(&moved.from) else { continue };
        match ask::<ProbeBody>(&hydra, &server.id, "/v1/probe").await {
            Ok(said) => {
                let owned: FolderSet = said.owned.parse().unwrap_or_default();
                let still: FolderSet = moved.folders.iter().filter(|&folder| owned.contains(folder)).collect();
                let finding = Finding::still_owned(&moved.of(still.clone()));
                notes.extend((!still.is_empty()).then(|| Noted::of(&finding)));
            }
            Err(why) => notes.push(Noted::about("E502", server, format!("{} at {} {why}", server.id, server.url))),
        }
    }
    Ok(notes)
}

/// What one route wants of one server, and what the server says about itself.
struct Duty<'m> {
    server: &'m MapServer,
    pool: &'m str,
    folders: &'m FolderSet,
    primary: &'m MapServer,
    has_fallbacks: bool,
    said: &'m ProbeBody,
    owned: FolderSet,
    standby: FolderSet,
}

impl<'m> Duty<'m> {
    /// Everything that the map wants of a server.
    fn all(map: &'m ClientMap, server: &'m MapServer, said: &'m ProbeBody) -> Vec<Duty<'m>> {
        let routes = map.pools().flat_map(|pool| map.routes(pool).map(move |route| (pool, route)));
        let concerned = routes.filter(|(_, (_, primary, fallbacks))| {
            primary.id == server.id || fallbacks.iter().any(|fallback| fallback.id == server.id)
        });
        concerned
            .map(|(pool, (folders, primary, fallbacks))| Duty {
                server,
                pool,
                folders,
                primary,
                has_fallbacks: !fallbacks.is_empty(),
                said,
                owned: said.owned.parse().unwrap_or_default(),
                standby: said.standby.parse().unwrap_or_default(),
            })
            .collect()
    }

    fn compare(&self) -> Vec<Noted> {
        let mut notes = Vec::new();
        if self.said.pool != self.pool {
            let (id, says, pool, folders) = (&self.server.id, &self.said.pool, self.pool, self.folders);
            let message = format!("{id} belongs to pool {says}, the map routes folders {folders} of pool {pool} to it");
            notes.push(self.note("E206", folders, message));
        }
        if self.primary.id == self.server.id {
            self.as_primary(&mut notes)
        } else {
            self.as_fallback(&mut notes)
        }
        notes
    }

    fn as_primary(&self, notes: &mut Vec<Noted>) {
        let (id, folders) = (&self.server.id, self.folders);
        if self.has_fallbacks && !self.said.copied {
            let why = "the map has fallbacks for its folders, so it must run with --copied";
            let message = format!("{id} does not know that others hold copies of folders {folders}: {why}");
            notes.push(self.note("E503", folders, message));
        }
        let missing = self.folders_that(|folder| !self.owned.contains(folder));
        if !missing.is_empty() {
            let message = format!("{id} is the primary of folders {missing} and does not own them");
            notes.push(self.note("E504", &missing, message));
        }
    }

    fn as_fallback(&self, notes: &mut Vec<Noted>) {
        let (id, primary) = (&self.server.id, &self.primary.id);
        let absent = self.folders_that(|folder| !self.owned.contains(folder) && !self.standby.contains(folder));
        if !absent.is_empty() {
            let message =
                format!("{id} is a fallback for folders {absent} and keeps no copies of them; it needs --standby");
            notes.push(self.note("E505", &absent, message));
        }
        let doubled = self.folders_that(|folder| self.owned.contains(folder));
        if !doubled.is_empty() {
            let message = format!(
                "{id} owns folders {doubled}, whose primary is {primary}: a client with an old map could write \
                 to both; separate them with --folders and --standby"
            );
            notes.push(self.note("W506", &doubled, message));
        }
    }

    fn folders_that(&self, is_meant: impl Fn(FolderId) -> bool) -> FolderSet {
        self.folders.iter().filter(|&folder| is_meant(folder)).collect()
    }

    fn note(&self, code: &'static str, folders: &FolderSet, message: String) -> Noted {
        Noted::about(code, self.server, message).in_folders(folders)
    }
}
