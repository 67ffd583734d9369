//! The status page, and what it shows: the servers of the map as this router sees them.
//!
//! Only while somebody looks: each look asks every server what it is to its folders, now and then also how much is in
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{
    EVENT_STREAM, Parameters, STATUS_PAGE, STATUS_PAGE_POLICY, StatusBody, StatusLearnedBody, StatusMoveBody,
    StatusRouteBody, StatusServerBody, StatusStayBody,
};
use hydra_core::{Error, ErrorCode, FolderId, FolderSet};
use hydra_sdk::{MapServer, OpClass, ServerState};
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::across::{Across, refusal_of};
use crate::answer::{self, Refusal, Response};
use crate::gateway::{Gateway, Head};
use crate::metrics::Metrics;
use crate::service::VERSION;
use crate::stream::{accepts, answer_of};

/// How often whoever looks gets to see something new.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a server may take to say what it is, and how much is in its folders.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_FOR_SIZES: Duration = Duration::from_secs(30);
/// After so many looks the sizes are asked for again.
const LOOKS_PER_SIZES: u32 = 15;

/// The page: one file, and nothing from elsewhere.
pub(crate) fn page() -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = answer::body(StatusCode::OK, html, STATUS_PAGE);
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, STATUS_PAGE_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The state as JSON; as events, one every two seconds, where they are asked for.
pub(crate) async fn status(gateway: &Gateway, head: &Head) -> Result<Response, Refusal> {
    Parameters::parse(head.parts.uri.query(), &[])?;
    let overview = Overview {
        across: Across::of(gateway, head)?,
        metrics: Arc::clone(&gateway.metrics),
        id: gateway.config.id.clone(),
    };
    // Before anything is answered, so that whoever may not see it is told.
    let first = overview.look(None).await?;
    if !accepts(&head.parts.headers, EVENT_STREAM) {
        return answer::json(StatusCode::OK, &first);
    }
    let watching = Watching { overview: Arc::new(overview), sizes: Sizes::default(), looks: 0 };
    let rest = stream::unfold(watching, Watching::next);
    let events = stream::once(std::future::ready(event_of(&first))).chain(rest).map(Ok);
    let ending = gateway.ending.clone().cancelled_owned();
    let mut response = answer_of(StatusCode::OK, events.take_until(ending));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn event_of(body: &StatusBody) -> Bytes {
    // Texts, numbers and lists of them are always written.
    let data = serde_json::to_string(body).unwrap_or_default();
    format!("event: status\ndata: {data}\n\n").into()
}

/// A folder as its server sees it; what this version does not know is left out.
#[derive(Debug, Clone, Deserialize)]
struct Seen {
    folder: FolderId,
    state: String,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    sealed: bool,
    #[serde(default)]
    bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct AllSeen {
    folders: Vec<Seen>,
}

/// Somebody who looks again and again.
struct Watching {
    overview: Arc<Overview>,
    sizes: Sizes,
    looks: u32,
}

impl Watching {
    async fn next(mut self) -> Option<(Bytes, Watching)> {
        if self.looks.is_multiple_of(LOOKS_PER_SIZES) {
            self.sizes.ask(&self.overview);
        }
        self.looks += 1;
        tokio::time::sleep(PAUSE).await;
        let sizes = self.sizes.taken().await;
        // Whoever was let in may go on looking; a moment in which nobody answers shows in the servers.
        let event = match self.overview.look(sizes.as_ref()).await {
            Ok(body) => event_of(&body),
            Err(_) => Bytes::from_static(b": not now\n\n"),
        };
        Some((event, self))
    }
}

/// How much is in the folders, by server; asked for beside the looks, because it takes longer.
#[derive(Default)]
struct Sizes {
    asking: Option<JoinHandle<BySize>>,
}

/// What each server has in its folders.
type BySize = Vec<(String, Vec<(FolderId, u64)>)>;

impl Sizes {
    fn ask(&mut self, overview: &Arc<Overview>) {
        if self.asking.is_none() {
            let overview = Arc::clone(overview);
            self.asking = Some(tokio::spawn(async move { overview.sizes().await }));
        }
    }

    /// What came in since the last look.
    async fn taken(&mut self) -> Option<BySize> {
        let asking = self.asking.take_if(|asking| asking.is_finished())?;
        asking.await.ok()
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

/// What is looked at, for whom.
struct Overview {
    across: Across,
    metrics: Arc<Metrics>,
    id: String,
}

impl Overview {
    async fn look(&self, sizes: Option<&BySize>) -> Result<StatusBody, Refusal> {
        let hydra = &self.across.hydra;
        let map = hydra.map().unwrap_or_else(|| Arc::clone(&self.across.map));
        let known = hydra.servers();
        let said = join_all(known.iter().map(|(server, _)| self.ask(server, "/v1/folders", PATIENCE))).await;
        let is_kept_out = |refusal: &Refusal| matches!(refusal.error.code().status(), 401 | 403);
        if !said.iter().any(Result::is_ok) && said.iter().flat_map(|said| said.as_ref().err()).any(is_kept_out) {
            return Err(said.into_iter().find_map(|said| said.err().filter(is_kept_out)).unwrap_or_else(|| {
                Error::new(ErrorCode::ScopeDenied, "no server lets this token look at its folders").into()
            }));
        }
        let (mut servers, mut moves) = (Vec::with_capacity(known.len()), Vec::new());
        for ((server, state), said) in known.into_iter().zip(said) {
            let (seen, error) = match said {
                Ok(seen) => (seen, None),
                Err(refusal) => (Vec::new(), Some(refusal.error.to_string())),
            };
            moves.extend(seen.iter().filter_map(|seen| under_way(&server.id, seen)));
            let held = sizes.and_then(|sizes| sizes.iter().find(|(id, _)| *id == server.id));
            servers.push(StatusServerBody {
                state: if error.is_some() && state == ServerState::Up { "down".to_owned() } else { text_of(state) },
                error,
                states: by_state(&seen),
                bytes: held.map(|(_, folders)| folders.iter().map(|(_, bytes)| bytes).sum()),
                id: server.id,
                url: Some(server.url),
            });
        }
        let routes = map.pools().flat_map(|pool| {
            map.routes(pool).map(move |(folders, primary, fallbacks)| StatusRouteBody {
                pool: pool.to_owned(),
                folders: folders.to_string(),
                primary: primary.id.clone(),
                fallbacks: fallbacks.iter().map(|fallback| fallback.id.clone()).collect(),
            })
        });
        let stays = hydra.staying().into_iter().map(|stay| StatusStayBody {
            folder: stay.folder,
            primary: stay.primary,
            fallback: stay.fallback,
        });
        let learned = hydra.redirects().into_iter().map(|(pool, folder, redirect)| StatusLearnedBody {
            pool,
            folder,
            server: redirect.server,
            epoch: redirect.epoch,
        });
        Ok(StatusBody {
            kind: "router".to_owned(),
            id: self.id.clone(),
            version: VERSION.to_owned(),
            cluster: map.cluster().to_owned(),
            epoch: Some(map.epoch()),
            folders: map.folders(),
            requests: self.metrics.requests(),
            servers,
            routes: routes.collect(),
            moves,
            stays: stays.collect(),
            learned: learned.collect(),
            load: self.metrics.load(),
            sizes: sizes.map(largest),
        })
    }

    async fn sizes(&self) -> BySize {
        let servers = self.across.hydra.servers();
        let asked = servers.iter().map(|(server, _)| async move {
            let seen = self.ask(server, "/v1/folders?sizes", PATIENCE_FOR_SIZES).await.ok()?;
            let sizes = seen.into_iter().filter_map(|seen| Some((seen.folder, seen.bytes?))).collect();
            Some((server.id.clone(), sizes))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask(&self, server: &MapServer, path: &str, patience: Duration) -> Result<Vec<Seen>, Refusal> {
        let mut request = self.across.request(OpClass::Read, "GET", path.to_owned());
        request.deadline = Some(patience);
        let answer = self.across.hydra.forward_to(&server.id, request).await;
        let answer = answer.map_err(|error| Refusal::of_call(&error))?;
        if answer.status != 200 {
            return Err(refusal_of(answer).await);
        }
        let unreadable = |why: &dyn std::fmt::Display| {
            Error::new(ErrorCode::ServerUnreachable, format!("the folders of {} are not understood: {why}", server.id))
        };
        let body = answer.body.collect().await.map_err(|error| unreadable(&error))?;
        let all: AllSeen = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
        Ok(all.folders)
    }
}

fn text_of(state: ServerState) -> String {
    match state {
        ServerState::Up => "up",
        ServerState::Back => "back",
        ServerState::Quarantined => "quarantined",
        _ => "down",
    }
    .to_owned()
}

fn under_way(server: &str, seen: &Seen) -> Option<StatusMoveBody> {
    let state = match seen.state.as_str() {
        _ if seen.sealed => "takes no writes for a moment",
        "importing" => "is taking it in",
        "fenced" => "is fenced",
        "moved" => "has moved it",
        _ => return None,
    };
    let (server, state) = (server.to_owned(), state.to_owned());
    Some(StatusMoveBody { folder: seen.folder, server, state, peer: seen.peer.clone() })
}

/// The folders in each state; those that are not there are left out.
fn by_state(seen: &[Seen]) -> Vec<(String, String)> {
    let mut states: BTreeMap<&str, Vec<FolderId>> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.state != "absent") {
        states.entry(&seen.state).or_default().push(seen.folder);
    }
    let set = |folders: Vec<FolderId>| folders.into_iter().collect::<FolderSet>().to_string();
    states.into_iter().map(|(state, folders)| (state.to_owned(), set(folders))).collect()
}

/// What is in each folder at whoever has most of it.
fn largest(sizes: &BySize) -> Vec<(FolderId, u64)> {
    let mut largest: BTreeMap<FolderId, u64> = BTreeMap::new();
    for &(folder, bytes) in sizes.iter().flat_map(|(_, folders)| folders).filter(|(_, bytes)| *bytes > 0) {
        let known = largest.entry(folder).or_default();
        *known = bytes.max(*known);
    }
    largest.into_iter().collect()
}
