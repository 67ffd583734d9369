//! One swamp as a whole: `/v1/swamps/{S}` and its verbs.

use http::StatusCode;
use hydra_core::wire::SwampInfoBody;
use hydra_core::{Error, ErrorCode, Pattern, Policy, Swamp, SwampInfo, SwampName};
use serde::Serialize;
use serde_json::json;

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::conditions::{idempotency_key, no_conditions};
use crate::query::Query;

/// What is known about the swamp.
pub(crate) async fn info(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let loaded = call.app.engine.resident(name).is_some();
    let swamp = call.swamp(name).await?;
    let info = swamp.info()?.ok_or_else(|| no_swamp(name))?;
    answer::json(StatusCode::OK, &info_body(name, info, loaded))
}

fn info_body(name: &SwampName, info: SwampInfo, loaded: bool) -> SwampInfoBody {
    SwampInfoBody {
        name: name.to_string(),
        folder: info.folder,
        hash: format!("{:016x}", name.hash()),
        count: info.count,
        bytes: info.bytes,
        files: info.files,
        loaded,
        dirty: info.dirty,
        copy: info.copy_state.as_str().to_owned(),
        findings: info.findings,
        policy: info.policy,
        policy_from: info.policy_from,
        created_at: info.created_at,
    }
}

/// Removes every treasure of the swamp.
pub(crate) async fn destroy(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    // Destroying twice is the same as once, so the key only has to be well formed.
    idempotency_key(&call.head.headers)?;
    if call.swamp(name).await?.destroy().await? {
        call.mark_synced();
        return Ok(answer::empty(StatusCode::NO_CONTENT));
    }
    Err(no_swamp(name))
}

/// Answers when everything acknowledged so far is on disk.
pub(crate) async fn flush(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    existing(call, name).await?.flush().await?;
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// Writes a snapshot in place of many files; answers whether there was anything to gain.
pub(crate) async fn compact(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let compacted = existing(call, name).await?.compact().await?;
    answer::json(StatusCode::OK, &json!({ "compacted": compacted }))
}

/// Reads the swamp into memory before somebody needs it.
pub(crate) async fn load(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    drop(existing(call, name).await?);
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// Drops the swamp from memory; answers whether it is gone. It stays while somebody uses it.
pub(crate) async fn evict(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    check_head(call)?;
    let (engine, name) = (call.app.engine.clone(), name.clone());
    let evicted = blocking(move || engine.evict(&name)).await?;
    answer::json(StatusCode::OK, &json!({ "evicted": evicted }))
}

fn check_head(call: &Call) -> Result<(), Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)
}

/// The swamp, hydrated where need be.
async fn existing(call: &mut Call, name: &SwampName) -> Result<Swamp, Error> {
    check_head(call)?;
    let swamp = call.swamp(name).await?;
    if swamp.info()?.is_none() {
        return Err(no_swamp(name));
    }
    Ok(swamp)
}

/// A policy and the pattern it comes from: `GET /v1/swamps/{S}/policy`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EffectivePolicy {
    policy: Policy,
    policy_from: Option<Pattern>,
}

/// The settings the swamp has, or would have if it came into being now.
pub(crate) async fn policy(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let (policy, policy_from) = call.swamp(name).await?.policy();
    answer::json(StatusCode::OK, &EffectivePolicy { policy, policy_from })
}

pub(crate) fn no_swamp(name: &SwampName) -> Error {
    Error::new(ErrorCode::SwampNotFound, format!("there is no swamp {name}"))
        .with_hint("a swamp comes into being with its first treasure")
}
