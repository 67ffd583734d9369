//! The status page, and what it shows: this server and its folders.
//!
//! Only while somebody looks: each look asks the engine what it knows, now and then the disk how much is in the folders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{EVENT_STREAM, STATUS_PAGE, STATUS_PAGE_POLICY, StatusBody, StatusMoveBody, StatusServerBody};
use hydra_core::{Engine, Error, FolderId, FolderSet, FolderState};
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{self, Response};
use crate::app::{App, Call, blocking};
use crate::conditions::accepts;
use crate::query::Query;
use crate::service::VERSION;

/// How often whoever looks gets to see something new.
const PAUSE: Duration = Duration::from_secs(2);
/// After so many looks the folders are walked again.
const LOOKS_PER_SIZES: u32 = 15;

/// The page: one file, and nothing from elsewhere.
pub(crate) fn page(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
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
    Ok(response)
}

/// The state as JSON; as events, one every two seconds, where they are asked for.
pub(crate) async fn status(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let first = look(&call.app, None);
    if !accepts(&call.head.headers, EVENT_STREAM) {
        return answer::json(StatusCode::OK, &first);
    }
    let app = Arc::clone(&call.app);
    let watching = Watching { _room: app.streams.enter()?, app, looks: 0 };
    let ended = call.app.streams.ended();
    let rest = stream::unfold(watching, Watching::next);
    let events = stream::once(std::future::ready(event_of(&first))).chain(rest).map(Ok::<_, Error>);
    let mut response = Response::new(Body::from_stream(events.take_until(ended)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn event_of(body: &StatusBody) -> Bytes {
    // Texts, numbers and lists of them are always written.
    let data = serde_json::to_string(body).unwrap_or_default();
    format!("event: status\ndata: {data}\n\n").into()
}

/// Somebody who looks again and again.
struct Watching {
    app: Arc<App>,
    looks: u32,
    _room: OwnedSemaphorePermit,
}

impl Watching {
    async fn next(mut self) -> Option<(Bytes, Watching)> {
        let sizes = match self.looks.is_multiple_of(LOOKS_PER_SIZES) {
            true => {
                let engine = self.app.engine.clone();
                blocking(move || sizes(&engine)).await.ok()
            }
            false => {
                tokio::time::sleep(PAUSE).await;
                None
            }
        };
        self.looks += 1;
        Some((event_of(&look(&self.app, sizes)), self))
    }
}

/// How much is in each folder that has anything.
fn sizes(engine: &Engine) -> Result<Vec<(FolderId, u64)>, Error> {
    let here = engine.folder_count().all();
    let here = here.iter().filter(|&folder| engine.folder_state(folder).has_files());
    let sized = here.map(|folder| Ok((folder, engine.folder_sizes(folder)?.bytes)));
    Ok(sized.collect::<Result<Vec<_>, Error>>()?.into_iter().filter(|(_, bytes)| *bytes > 0).collect())
}

fn look(app: &App, sizes: Option<Vec<(FolderId, u64)>>) -> StatusBody {
    let engine = &app.engine;
    let mut states: BTreeMap<&'static str, Vec<FolderId>> = BTreeMap::new();
    for folder in engine.folder_count().all().iter() {
        match engine.folder_state(folder) {
            FolderState::Absent => {}
            state => states.entry(state.as_str()).or_default().push(folder),
        }
    }
    let id = engine.server_id();
    let is_under_way = |state: &str| !matches!(state, "owned" | "standby");
    let moves = states.iter().filter(|(state, _)| is_under_way(state)).flat_map(|(state, folders)| {
        let under_way = |&folder: &FolderId| StatusMoveBody {
            folder,
            server: id.to_owned(),
            state: (*state).to_owned(),
            peer: engine.folder_state(folder).elsewhere().map(|elsewhere| elsewhere.server),
        };
        folders.iter().map(under_way).collect::<Vec<_>>()
    });
    let moves = moves.collect();
    let set = |folders: Vec<FolderId>| folders.into_iter().collect::<FolderSet>().to_string();
    let server = StatusServerBody {
        id: id.to_owned(),
        url: None,
        state: if app.is_draining() { "down" } else { "up" }.to_owned(),
        error: app.is_draining().then(|| "is set aside, or shutting down".to_owned()),
        states: states.into_iter().map(|(state, folders)| (state.to_owned(), set(folders))).collect(),
        bytes: sizes.as_ref().map(|sizes| sizes.iter().map(|(_, bytes)| bytes).sum()),
    };
    StatusBody {
        kind: "server".to_owned(),
        id: id.to_owned(),
        version: VERSION.to_owned(),
        cluster: engine.cluster().to_owned(),
        epoch: None,
        folders: engine.folder_count(),
        requests: app.metrics.answered(),
        servers: vec![server],
        routes: Vec::new(),
        moves,
        stays: Vec::new(),
        learned: Vec::new(),
        load: app.metrics.load(),
        sizes,
    }
}
