//! One swamp as a whole: `/v1/swamps/{S}` and its verbs.

use http::StatusCode;
use hydra_core::wire::SwampInfoBody;
use hydra_core::{CopyState, Error, ErrorCode, Pattern, Policy, PolicyTable, SwampInfo, SwampName};
use serde::Serialize;

use crate::answer::{self, Response};
use crate::app::Call;
use crate::conditions::{idempotency_key, no_conditions};
use crate::query::Query;

/// What is known about the swamp.
pub(crate) async fn info(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let swamp = call.swamp(name).await?;
    let info = swamp.info()?.ok_or_else(|| no_swamp(name))?;
    answer::json(StatusCode::OK, &info_body(name, info))
}

fn info_body(name: &SwampName, info: SwampInfo) -> SwampInfoBody {
    let copy = match info.copy_state {
        CopyState::Complete => "complete",
        CopyState::Incomplete => "incomplete",
        _ => "degraded",
    };
    SwampInfoBody {
        name: name.to_string(),
        folder: info.folder,
        hash: format!("{:016x}", name.hash()),
        count: info.count,
        bytes: info.bytes,
        files: info.files,
        dirty: info.dirty,
        copy: copy.to_owned(),
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
    Query::parse(call.head.uri.query(), &[])?;
    let swamp = call.swamp(name).await?;
    if swamp.info()?.is_none() {
        return Err(no_swamp(name));
    }
    swamp.flush().await?;
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
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
    let effective = match call.swamp(name).await?.info()? {
        Some(info) => EffectivePolicy { policy: info.policy, policy_from: info.policy_from },
        None => registered(call, name),
    };
    answer::json(StatusCode::OK, &effective)
}

fn registered(call: &Call, name: &SwampName) -> EffectivePolicy {
    let mut table = PolicyTable::default();
    for (pattern, policy) in call.app.engine.policies() {
        table.put(pattern, policy);
    }
    match table.find(name) {
        Some((pattern, policy)) => EffectivePolicy { policy: policy.clone(), policy_from: Some(pattern.clone()) },
        None => EffectivePolicy { policy: Policy::default(), policy_from: None },
    }
}

pub(crate) fn no_swamp(name: &SwampName) -> Error {
    Error::new(ErrorCode::SwampNotFound, format!("there is no swamp {name}"))
        .with_hint("a swamp comes into being with its first treasure")
}
