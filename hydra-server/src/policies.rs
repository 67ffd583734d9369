//! Policies by pattern: `/v1/policies`.

use http::StatusCode;
use hydra_core::wire::{PoliciesBody, PolicyBody, read_object};
use hydra_core::{Error, ErrorCode, Pattern, Policy};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::body::Limit;
use crate::conditions::{idempotency_key, no_conditions, plain_body};
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::query::Query;

const POLICY_LIMIT: Limit = Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the policy" };

/// Every registered policy that is about names of the token, the most specific first.
pub(crate) fn list(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let policies = call.app.engine.policies().into_iter().filter(|(pattern, _)| call.access.overlaps(pattern));
    let policies = policies.map(|(pattern, policy)| PolicyBody { pattern, policy }).collect();
    answer::json(StatusCode::OK, &PoliciesBody { policies })
}

/// The policy registered for exactly this pattern.
pub(crate) fn get(call: &mut Call, pattern: &Pattern) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let found = call.app.engine.policies().into_iter().find(|(registered, _)| registered == pattern);
    let (pattern, policy) = found.ok_or_else(|| absent(pattern))?;
    answer::json(StatusCode::OK, &PolicyBody { pattern, policy })
}

/// Registers a policy.
pub(crate) async fn put(call: &mut Call, pattern: Pattern) -> Result<Response, Error> {
    check(call)?;
    plain_body(&call.head.headers)?;
    let bytes = call.read_body(POLICY_LIMIT).await?;
    let policy: Policy = read_object(&bytes, "the policy", r#"{"writeInterval":"0s"}"#)?;
    policy.check()?;
    let engine = call.app.engine.clone();
    let body = PolicyBody { pattern: pattern.clone(), policy: policy.clone() };
    let new = blocking(move || engine.set_policy(pattern, policy)).await?;
    call.mark_synced();
    answer::json(if new { StatusCode::CREATED } else { StatusCode::OK }, &body)
}

/// Forgets a policy; data is not touched.
pub(crate) async fn delete(call: &mut Call, pattern: Pattern) -> Result<Response, Error> {
    check(call)?;
    let (engine, wanted) = (call.app.engine.clone(), pattern.clone());
    if !blocking(move || engine.delete_policy(&wanted)).await? {
        return Err(absent(&pattern));
    }
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// What every change of a policy refuses. Changing one twice is the same as once, so an idempotency key only
/// has to be well formed.
fn check(call: &Call) -> Result<(), Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    idempotency_key(&call.head.headers).map(drop)
}

fn absent(pattern: &Pattern) -> Error {
    Error::new(ErrorCode::PolicyNotFound, format!("no policy is registered for {pattern}"))
}
