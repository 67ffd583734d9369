//! What this server wrote in place of a folder's owner: listed, asked for, settled.
//!
//! `GET /v1/folders/{F}/takeover` here, `POST /v1/folders/{F}/holds` at the owner, and when nothing is missing
//! there `POST /v1/folders/{F}/takeover/settle` here. Between `seal` and `unseal` no more is written here.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hydra_core::wire::{
    HoldsBody, MissingBody, MissingFileBody, SealTakeoverBody, SealedTakeoverBody, SettleBody, TakeoverBody,
    TakeoverFileBody, UnsealTakeoverBody, read_object,
};
use hydra_core::{Error, ErrorCode, FolderId, MissingFile, SwampName, TakeoverFile};
use serde::de::DeserializeOwned;

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::body::Limit;
use crate::conditions::{no_conditions, plain_body};
use crate::config::{MAX_HOLDS_BODY_BYTES, MAX_SMALL_BODY_BYTES};
use crate::folders::present;
use crate::query::Query;

const HOLDS_LIMIT: Limit =
    Limit { bytes: MAX_HOLDS_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the list of files" };
const SETTLE_LIMIT: Limit = Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body" };

/// Every file that this server wrote and nobody has settled.
pub(crate) async fn list(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let engine = call.app.engine.clone();
    let listed = blocking(move || {
        let listed = engine.takeover(folder)?;
        let files = listed.files.into_iter().map(file_body).collect();
        let body = TakeoverBody { folder, count: listed.count, version: listed.version, files };
        answer::json(StatusCode::OK, &body)
    });
    listed.await
}

fn file_body(file: TakeoverFile) -> TakeoverFileBody {
    TakeoverFileBody { swamp: file.swamp.to_string(), file: file.file, bytes: file.bytes }
}

/// Which of the files are not here, or shorter.
pub(crate) async fn holds(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let body = read_body(call, HOLDS_LIMIT).await?;
    let engine = call.app.engine.clone();
    let answered = blocking(move || {
        let wanted: HoldsBody = read(&body, r#"{"files":[{"swamp":"a/b/c","file":"s2-….hyl","bytes":1234}]}"#)?;
        let wanted = wanted.files.into_iter().enumerate().map(|(index, file)| wanted_file(index, file));
        let missing = engine.holds(folder, &wanted.collect::<Result<Vec<_>, _>>()?)?;
        answer::json(StatusCode::OK, &MissingBody { missing: missing.into_iter().map(missing_body).collect() })
    });
    answered.await
}

fn wanted_file(index: usize, body: TakeoverFileBody) -> Result<TakeoverFile, Error> {
    let swamp: SwampName = body.swamp.parse().map_err(|error: Error| {
        Error::new(ErrorCode::InvalidBody, format!("files[{index}].swamp cannot be read: {}", error.detail()))
    })?;
    Ok(TakeoverFile { swamp, file: body.file, bytes: body.bytes })
}

fn missing_body(MissingFile { wanted, held, .. }: MissingFile) -> MissingFileBody {
    MissingFileBody { swamp: wanted.swamp.to_string(), file: wanted.file, bytes: wanted.bytes, held }
}

/// The owner holds what was listed with this version.
pub(crate) async fn settle(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let body = read_body(call, SETTLE_LIMIT).await?;
    let SettleBody { version, seal } = read(&body, r#"{"version":"…"}, or {"version":"…","seal":"…"}"#)?;
    let engine = call.app.engine.clone();
    blocking(move || match seal {
        Some(seal) => engine.settle_return(folder, &version, &seal),
        None => engine.settle(folder, &version),
    })
    .await?;
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// No write in the owner's place for a moment.
pub(crate) async fn seal(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let body = read_body(call, SETTLE_LIMIT).await?;
    let SealTakeoverBody { lease_ms } = read(&body, r#"{"leaseMs":2000}"#)?;
    let engine = call.app.engine.clone();
    let seal = blocking(move || engine.begin_return(folder, Duration::from_millis(lease_ms))).await?;
    call.mark_synced();
    answer::json(StatusCode::OK, &SealedTakeoverBody { folder, seal, lease_ms })
}

/// Writes in the owner's place go on.
pub(crate) async fn unseal(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let body = read_body(call, SETTLE_LIMIT).await?;
    let UnsealTakeoverBody { seal } = read(&body, r#"{"seal":"…"}"#)?;
    let engine = call.app.engine.clone();
    blocking(move || engine.end_return(folder, &seal)).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn admit(call: &mut Call, folder: FolderId) -> Result<(), Error> {
    Query::parse(call.head.uri.query(), &[])?;
    present(call, [folder].into_iter().collect()).map(drop)
}

async fn read_body(call: &mut Call, limit: Limit) -> Result<Bytes, Error> {
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    call.read_body(limit).await
}

fn read<T: DeserializeOwned>(body: &[u8], form: &str) -> Result<T, Error> {
    read_object(body, "the body", form)
}
