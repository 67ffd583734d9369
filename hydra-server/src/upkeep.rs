//! Keeping folders in order while they are in use: `hold`, `gc`, `compact` and `verify` below `/v1/folders/{F}`.

use std::time::Duration;

use http::{Method, StatusCode};
use hydra_core::duration::parse_duration;
use hydra_core::inspect;
use hydra_core::wire::{CollectedBody, CompactedBody, HoldBody};
use hydra_core::{Error, FolderId, FolderSet};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::conditions::no_conditions;
use crate::folders::present;
use crate::query::{Query, invalid};
use crate::route::shown;

/// How long a folder is held unless told otherwise.
const HOLD: Duration = Duration::from_secs(600);
/// The shortest and the longest hold.
const HOLD_LEAST: Duration = Duration::from_secs(1);
const HOLD_MOST: Duration = Duration::from_secs(24 * 3600);

/// Nothing superseded is removed in the folder for a while; `DELETE` ends that.
pub(crate) async fn hold(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    let ends = call.head.method == Method::DELETE;
    let query = Query::parse(call.head.uri.query(), if ends { &[] } else { &["ttl"] })?;
    let ttl = ttl(&query)?;
    no_conditions(&call.head.headers)?;
    present(call, [folder].into_iter().collect())?;
    let engine = call.app.engine.clone();
    if ends {
        blocking(move || engine.release(folder)).await?;
        return Ok(answer::empty(StatusCode::NO_CONTENT));
    }
    let until = blocking(move || engine.hold(folder, ttl)).await?;
    answer::json(StatusCode::OK, &HoldBody { folder, until })
}

fn ttl(query: &Query<'_>) -> Result<Duration, Error> {
    let Some(text) = query.text("ttl") else { return Ok(HOLD) };
    let read = parse_duration(text).ok().filter(|ttl| (HOLD_LEAST..=HOLD_MOST).contains(ttl));
    read.ok_or_else(|| {
        invalid("ttl", &format!("is {}; allowed is a duration from 1s to 24h, such as 10m", shown(text)))
    })
}

/// Removes what is superseded and old enough.
pub(crate) async fn collect(call: &mut Call, wanted: FolderSet) -> Result<Response, Error> {
    let wanted = admit(call, wanted)?;
    let engine = call.app.engine.clone();
    let sum = blocking(move || {
        let mut sum = CollectedBody::default();
        for folder in wanted.iter() {
            sum += engine.collect(folder)?;
        }
        Ok(sum)
    });
    answer::json(StatusCode::OK, &sum.await?)
}

/// Writes a snapshot of every swamp that consists of more.
pub(crate) async fn compact(call: &mut Call, wanted: FolderSet) -> Result<Response, Error> {
    let wanted = admit(call, wanted)?;
    let engine = call.app.engine.clone();
    let sum = blocking(move || {
        let mut sum = CompactedBody::default();
        for folder in wanted.iter() {
            sum += engine.compact(folder)?;
        }
        Ok(sum)
    });
    answer::json(StatusCode::OK, &sum.await?)
}

/// Reads and checks every byte of these folders.
pub(crate) async fn verify(call: &mut Call, wanted: FolderSet) -> Result<Response, Error> {
    let wanted = admit(call, wanted)?;
    let engine = call.app.engine.clone();
    let verified = blocking(move || inspect::verify(engine.data_dir(), Some(&wanted), &mut |_| {})).await?;
    answer::json(StatusCode::OK, &verified)
}

fn admit(call: &mut Call, wanted: FolderSet) -> Result<FolderSet, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    present(call, wanted)
}
