//! Treasures out of the server, one per line: `GET /v1/swamps/{S}/export` and `GET /v1/export`.
//!
//! The answer is made part by part as the reader takes it; between two parts nothing is locked and no swamp is kept
//! in memory.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use hydra_core::wire::Problem;
use hydra_core::{Error, ErrorCode, Expired, Export, ExportPart, FolderSet, Pattern, SwampName, check_key};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::auth::{Need, Scope};
use crate::encoding::Pieces;
use crate::query::{Query, invalid};
use crate::render::{Include, write_string, write_treasure};
use crate::route::shown;

/// Sends the treasures of one swamp.
pub(crate) async fn one(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["expired", "after"])?;
    let expired = expired(&query)?;
    let after = query.text("after").map(str::to_owned);
    after.as_deref().map_or(Ok(()), check_key)?;
    // Read now, so that what is wrong with the swamp is in the head of the answer.
    drop(call.swamp(name).await?);
    let export = call.app.engine.export(name, after, expired);
    Ok(stream_of(call, export, false))
}

/// Sends the treasures of all swamps of this server that were asked for.
pub(crate) async fn all(call: &mut Call) -> Result<Response, Error> {
    let parameters = call.head.uri.query().map(str::to_owned);
    let query = Query::parse(parameters.as_deref(), &["expired", "folders", "pattern"])?;
    let expired = expired(&query)?;
    let folders = folders(call, query.text("folders"))?;
    let pattern: Pattern = query.text("pattern").unwrap_or("*/*/*").parse()?;
    call.access.check(&Need::on_pattern(&[Scope::Read], &pattern))?;
    let export = call.app.engine.export_folders(&folders, Some(pattern), expired);
    Ok(stream_of(call, export, true))
}

fn expired(query: &Query<'_>) -> Result<Expired, Error> {
    match query.text("expired") {
        None => Ok(Expired::Hidden),
        Some("include") => Ok(Expired::Included),
        Some("only") => Ok(Expired::Only),
        Some(other) => Err(invalid("expired", &format!("is {}; allowed are include and only", shown(other)))),
    }
}

/// The folders asked for, which have to be here; else those this server owns.
fn folders(call: &mut Call, wanted: Option<&str>) -> Result<FolderSet, Error> {
    let engine = &call.app.engine;
    let Some(text) = wanted else { return Ok(engine.folders().0) };
    let set: FolderSet = text
        .parse()
        .map_err(|error: Error| invalid("folders", error.detail()).with_hint("name folders as 57 or 50-74"))?;
    set.check(engine.folder_count()).map_err(|error| invalid("folders", error.detail()))?;
    call.folder = set.last().filter(|_| set.len() == 1);
    if let Some(absent) = set.iter().find(|&folder| !engine.folder_state(folder).serves_reads()) {
        return Err(engine.not_served(absent));
    }
    Ok(set)
}

/// An answer that ends as it should only if everything was sent.
fn stream_of(call: &Call, export: Export, with_swamp: bool) -> Response {
    let blank = call.problem_of(&Error::new(ErrorCode::Internal, ""));
    let sending = Sending { export, with_swamp, blank, has_failed: false };
    let pieces = stream::try_unfold(Some(sending), |sending| async move {
        let Some(sending) = sending else { return Ok(None) };
        // A thread may be gone only with the process.
        let piece = blocking(move || Ok(sending.piece())).await.map_err(std::io::Error::other)?;
        if piece.is_err() {
            // hyper forgets what it has not sent when a body fails, and sends it when there is nothing to do.
            tokio::task::yield_now().await;
        }
        piece
    });
    let mut response = Response::new(Body::from_stream(pieces));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(http::header::CONTENT_TYPE, answer::NDJSON);
    response.extensions_mut().insert(Pieces);
    response
}

/// An export on its way to its reader.
struct Sending {
    export: Export,
    with_swamp: bool,
    /// What every problem of this answer says.
    blank: Problem,
    has_failed: bool,
}

type Piece = Result<Option<(Bytes, Option<Sending>)>, std::io::Error>;

impl Sending {
    /// The next lines. One that says what could not be sent takes the place of what is missing, and after the last
    /// the connection breaks off: nobody is to take the rest for all there is.
    fn piece(mut self) -> Piece {
        match self.export.next() {
            None if self.has_failed => Err(std::io::Error::other("not everything could be sent")),
            None => Ok(None),
            Some(Ok(part)) => Ok(Some((lines_of(&part, self.with_swamp).into(), Some(self)))),
            Some(Err(error)) => {
                tracing::error!(code = %error.code(), "an export is not whole: {error}");
                self.has_failed = true;
                Ok(Some((self.line_of(&error).into(), Some(self))))
            }
        }
    }

    fn line_of(&self, error: &Error) -> Vec<u8> {
        let blank = self.blank.clone();
        let problem =
            Problem { instance: blank.instance, folder: blank.folder, server: blank.server, ..Problem::of(error) };
        let mut line = serde_json::to_vec(&serde_json::json!({ "error": problem })).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// One line for each treasure; an empty one where there is none, as a sign of life.
fn lines_of(part: &ExportPart, with_swamp: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + part.treasures.len() * 256);
    for treasure in &part.treasures {
        let begin = out.len();
        if with_swamp {
            out.extend_from_slice(b"{\"swamp\":");
            write_string(&mut out, part.swamp.as_str());
        }
        let rest = out.len();
        write_treasure(&mut out, treasure, Include::Full);
        if rest > begin {
            out[rest] = b',';
        }
        out.push(b'\n');
    }
    if part.treasures.is_empty() {
        out.push(b'\n');
    }
    out
}
