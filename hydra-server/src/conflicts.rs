//! Writes that lost against others which had not seen them: `GET /v1/swamps/{S}/conflicts`.

use http::StatusCode;
use hydra_core::wire::{ConflictBody, ConflictsBody, LostBody, WonBody};
use hydra_core::{Conflict, Error, LostContent, LostWrite, SwampName, Value};
use serde_json::value::RawValue;

use crate::answer::{self, Response};
use crate::app::{Call, blocking, unexpected};
use crate::query::Query;
use crate::render::write_value;

/// An answer ends early rather than let its values grow beyond this.
const MAX_BYTES: usize = 32 << 20;

/// The conflicts of the swamp, the newest first. A swamp that does not exist has none.
pub(crate) async fn list(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let swamp = call.swamp(name).await?;
    blocking(move || answer::json(StatusCode::OK, &body(swamp.conflicts(), MAX_BYTES)?)).await
}

fn body(conflicts: Vec<Conflict>, most: usize) -> Result<ConflictsBody, Error> {
    let count = conflicts.len();
    let mut left = most;
    let mut shown = Vec::new();
    for conflict in conflicts {
        let length = match &conflict.lost.content {
            LostContent::Value(value) => value.as_bytes().len(),
            _ => 0,
        };
        // The first is shown whatever its length.
        if length > left && !shown.is_empty() {
            break;
        }
        left = left.saturating_sub(length);
        shown.push(conflict_body(conflict)?);
    }
    Ok(ConflictsBody { truncated: shown.len() < count, conflicts: shown })
}

fn conflict_body(Conflict { key, lost, won, until, .. }: Conflict) -> Result<ConflictBody, Error> {
    let won = WonBody { version: won.version, updated_at: won.updated_at, server: won.server };
    Ok(ConflictBody { key, lost: lost_body(lost)?, won, until })
}

fn lost_body(LostWrite { version, updated_at, server, content, .. }: LostWrite) -> Result<LostBody, Error> {
    let server = Some(server).filter(|server| !server.is_empty());
    let mut body = LostBody { version, updated_at, server, value: None, deleted: None, increment: None };
    match content {
        LostContent::Value(value) => body.value = Some(raw(&value)?),
        LostContent::Deleted => body.deleted = Some(true),
        LostContent::Increment(sum) => body.increment = Some(sum),
        other => return Err(unexpected(&format!("a conflict is about {other:?}"))),
    }
    Ok(body)
}

fn raw(value: &Value) -> Result<Box<RawValue>, Error> {
    let mut text = Vec::new();
    write_value(&mut text, value);
    let text = String::from_utf8(text).map_err(|_| unexpected("a stored value is not UTF-8"))?;
    RawValue::from_string(text).map_err(|_| unexpected("a stored value is not JSON"))
}
