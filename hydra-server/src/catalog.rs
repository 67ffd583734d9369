//! The swamps that are here: `GET /v1/swamps`, `/v1/swamps/{sanctuary}` and `/v1/swamps/{sanctuary}/{realm}`.

use bytes::Bytes;
use http::StatusCode;
use http::header::VARY;
use hydra_core::wire::{ListedSwampBody, SwampsBody};
use hydra_core::{Engine, Error, FolderSet, ListedSwamp, SwampsQuery};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::auth::Access;
use crate::config::{DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT};
use crate::folders::present;
use crate::ndjson::{self, Piece};
use crate::query::{Query, invalid};

/// How many swamps are looked for at once for an answer of lines: each look reads whole directories.
const LINES: usize = 4_000;

/// One page of swamps, or all of them line by line.
pub(crate) async fn list(call: &mut Call, sanctuary: Option<String>, realm: Option<String>) -> Result<Response, Error> {
    let parameters = call.head.uri.query().map(str::to_owned);
    let query = Query::parse(parameters.as_deref(), &["prefix", "folders", "limit", "cursor", "include"])?;
    let allowed = format!("a number from 1 to {MAX_LIST_LIMIT}");
    let limit = query.value("limit", &allowed)?;
    if let Some(limit) = limit.filter(|limit| !(1..=MAX_LIST_LIMIT).contains(limit)) {
        return Err(invalid("limit", &format!("is {limit}; allowed is {allowed}")));
    }
    let info = match query.text("include") {
        None | Some("names") => false,
        Some("info") => true,
        Some(other) => return Err(invalid("include", &format!("is {other:?}; allowed are names and info"))),
    };
    let folders: Option<FolderSet> = query.value("folders", "folders as 57 or 50-74,80")?;
    let wanted = SwampsQuery {
        sanctuary,
        realm,
        prefix: query.text("prefix").map(str::to_owned),
        folders: folders.map(|folders| served(call, folders)).transpose()?,
        info,
        cursor: query.text("cursor").map(str::to_owned),
        limit: limit.unwrap_or(DEFAULT_LIST_LIMIT),
    };
    let (engine, access) = (call.app.engine.clone(), call.access.clone());
    if ndjson::is_wanted(&call.head.headers) {
        let left = limit.unwrap_or(usize::MAX);
        return ndjson::answer(Lines { engine, access, wanted, left }, Lines::next).await;
    }
    let page = blocking(move || engine.swamps(&wanted)).await?;
    // Names that are not the token's business are left out, so that a page may be short, or even empty, before the
    // last one.
    let shown = page.swamps.iter().filter(|listed| access.covers(&listed.name));
    let swamps = shown.map(|listed| body(listed, info)).collect();
    let mut response = answer::json(StatusCode::OK, &SwampsBody { swamps, next_cursor: page.next })?;
    response.headers_mut().insert(VARY, answer::BY_ACCEPT);
    Ok(response)
}

/// The folders, which this server all has to answer for: a list without those that moved would look like all there is.
fn served(call: &mut Call, wanted: FolderSet) -> Result<FolderSet, Error> {
    let wanted = present(call, wanted)?;
    let engine = &call.app.engine;
    let gone = wanted.iter().find(|&folder| !engine.folder_state(folder).serves_reads());
    gone.map_or(Ok(()), |folder| Err(engine.not_served(folder)))?;
    Ok(wanted)
}

fn body(listed: &ListedSwamp, info: bool) -> ListedSwampBody {
    let loaded = listed.loaded;
    ListedSwampBody {
        name: listed.name.to_string(),
        folder: listed.folder,
        hash: info.then(|| format!("{:016x}", listed.name.hash())),
        files: info.then_some(listed.files),
        bytes: info.then_some(listed.bytes),
        loaded: info.then_some(loaded.is_some()),
        count: loaded.map(|loaded| loaded.count),
        dirty: loaded.map(|loaded| loaded.dirty),
    }
}

/// A list that is answered line by line.
struct Lines {
    engine: Engine,
    access: Access,
    wanted: SwampsQuery,
    /// How many more are wanted; 0 when the last was written.
    left: usize,
}

impl Lines {
    async fn next(self) -> Result<Piece<Lines>, Error> {
        if self.left == 0 { Ok(None) } else { blocking(move || self.piece()).await }
    }

    fn piece(mut self) -> Result<Piece<Lines>, Error> {
        let mut out = Vec::new();
        // An empty piece would end the answer.
        while out.is_empty() && self.left > 0 {
            self.wanted.limit = self.left.min(LINES);
            let page = self.engine.swamps(&self.wanted)?;
            let shown = page.swamps.iter().filter(|listed| self.access.covers(&listed.name));
            let mut count = 0;
            for listed in shown {
                let line = serde_json::to_string(&body(listed, self.wanted.info)).map_err(|error| {
                    Error::new(hydra_core::ErrorCode::Internal, format!("a line cannot be written: {error}"))
                })?;
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
                count += 1;
            }
            self.left = if page.next.is_some() { self.left - count } else { 0 };
            self.wanted.cursor = page.next;
        }
        Ok((!out.is_empty()).then(|| (Bytes::from(out), self)))
    }
}
