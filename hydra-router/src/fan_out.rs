//! Requests that every server must hear: policies and flushes.
//!
//! All are asked at once. A change succeeds only if it did everywhere; otherwise the answer says which
//! server did what, and asking again is harmless.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode};
use hydra_core::wire::{AttemptBody, PROBLEM_JSON};
use hydra_core::{Applied, Error, ErrorCode};
use hydra_sdk::{ClientMap, OpClass};
use serde_json::{Value, json};

use crate::answer::{self, Refusal, Response};
use crate::body::RequestBody;
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::forward::{request_to_read, whole};
use crate::gateway::{Gateway, Head};

/// The longest a server may take: flushes write much.
const LONGEST: Duration = Duration::from_secs(30);

/// What one server said.
struct Said {
    server: String,
    /// The answer, or why there is none and whether something may have been done.
    answer: Result<(StatusCode, Bytes), (String, Applied)>,
    ms: u64,
}

/// Reads, registers or forgets policies.
pub(crate) async fn policies(gateway: &Gateway, head: &Head, body: RequestBody) -> Result<Response, Refusal> {
    let is_read = matches!(head.parts.method, Method::GET | Method::HEAD);
    let class = if is_read { OpClass::Read } else { OpClass::Overwrite };
    let said = ask_all(gateway, head, body, class).await?;
    if is_read { read(&said) } else { changed(said) }
}

/// Brings everything acknowledged so far to disk, everywhere.
pub(crate) async fn flush(gateway: &Gateway, head: &Head, body: RequestBody) -> Result<Response, Refusal> {
    changed(ask_all(gateway, head, body, OpClass::Read).await?)
}

async fn ask_all(gateway: &Gateway, head: &Head, body: RequestBody, class: OpClass) -> Result<Vec<Said>, Refusal> {
    let body = body.read(MAX_SMALL_BODY_BYTES).await?;
    // Asked for early, so that a head that cannot go on is refused before anything is sent.
    request_to_read(gateway, head, class)?;
    let map = gateway.map();
    Ok(join_all(routed(&map).into_iter().map(|server| ask(gateway, head, body.clone(), class, server))).await)
}

/// The servers that a route leads to, in the order of the map. Others may not run yet.
pub(crate) fn routed(map: &ClientMap) -> Vec<&str> {
    let is_routed = |id: &str| {
        map.pools().any(|pool| {
            map.routes(pool)
                .any(|(_, primary, fallbacks)| primary.id == id || fallbacks.iter().any(|fallback| fallback.id == id))
        })
    };
    map.servers().iter().map(|server| server.id.as_str()).filter(|id| is_routed(id)).collect()
}

async fn ask(gateway: &Gateway, head: &Head, body: Bytes, class: OpClass, server: &str) -> Said {
    let begun = Instant::now();
    let answer = exchange(gateway, head, body, class, server).await;
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Said { server: server.to_owned(), answer, ms }
}

async fn exchange(
    gateway: &Gateway,
    head: &Head,
    body: Bytes,
    class: OpClass,
    server: &str,
) -> Result<(StatusCode, Bytes), (String, Applied)> {
    let lost = if class.is_write() { Applied::Unknown } else { Applied::No };
    let mut request =
        request_to_read(gateway, head, class).map_err(|refusal| (refusal.error.to_string(), Applied::No))?;
    if request.method == "HEAD" {
        // What is put together for a GET has to be known for its head.
        "GET".clone_into(&mut request.method);
    }
    request.body = whole(body);
    request.deadline.get_or_insert(LONGEST);
    let answer = gateway.hydra.forward_to(server, request).await.map_err(|error| {
        let tried = error.attempts().first().map(|attempt| attempt.error.clone());
        (tried.unwrap_or_else(|| error.to_string()), error.applied())
    })?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    match answer.body.collect().await {
        Ok(bytes) => Ok((status, bytes.into())),
        Err(_) if status.is_success() && class.is_write() => Ok((status, Bytes::new())),
        Err(error) => Err((error.to_string(), lost)),
    }
}

/// What the servers have: all of it once, and what each one said, so that a difference shows.
fn read(said: &[Said]) -> Result<Response, Refusal> {
    let bodies = || said.iter().filter_map(|said| said.answer.as_ref().ok());
    let found: Vec<Value> = bodies()
        .filter(|(status, _)| status.is_success())
        .filter_map(|(_, body)| serde_json::from_slice(body).ok())
        .collect();
    let Some(first) = found.first() else {
        return match bodies().next() {
            Some((status, body)) => Ok(passed_on(*status, body)),
            None => Err(partly(said)),
        };
    };
    let mut merged = first.clone();
    if let Some(all) = merged.get_mut("policies").and_then(Value::as_array_mut) {
        let others = found.iter().skip(1).filter_map(|body| body.get("policies")?.as_array()).flatten();
        for other in others {
            if !all.iter().any(|known| known["pattern"] == other["pattern"]) {
                all.push(other.clone());
            }
        }
    }
    merged["servers"] = said.iter().map(report).collect();
    answer::json(StatusCode::OK, &merged)
}

fn report(said: &Said) -> Value {
    match &said.answer {
        Ok((status, body)) => {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            json!({"server": said.server, "status": status.as_u16(), "body": body})
        }
        Err((why, _)) => json!({"server": said.server, "error": why}),
    }
}

/// The outcome of a change: done only if every server did it. Forgetting what a server never had is done.
fn changed(said: Vec<Said>) -> Result<Response, Refusal> {
    let statuses: Vec<Option<StatusCode>> =
        said.iter().map(|said| said.answer.as_ref().ok().map(|(status, _)| *status)).collect();
    let is_done = |status: &Option<StatusCode>| status.is_some_and(|status| status.is_success());
    let is_absent = |status: &Option<StatusCode>| *status == Some(StatusCode::NOT_FOUND);
    let is_refused = |status: &Option<StatusCode>| status.is_some_and(|status| status.is_client_error());
    let uniform = statuses.iter().all(is_refused) || statuses.iter().all(|status| is_done(status) || is_absent(status));
    if !uniform {
        return Err(partly(&said));
    }
    let answers: Vec<(StatusCode, Bytes)> = said.into_iter().filter_map(|said| said.answer.ok()).collect();
    let best = answers.iter().filter(|(status, _)| status.is_success()).max_by_key(|(status, _)| status.as_u16());
    match best.or(answers.first()) {
        Some((status, body)) => Ok(passed_on(*status, body)),
        None => Err(Error::new(ErrorCode::ServerUnreachable, "the map routes to no server").into()),
    }
}

/// The answer that all servers agree on.
fn passed_on(status: StatusCode, body: &Bytes) -> Response {
    if status.is_success() {
        return if body.is_empty() { answer::empty(status) } else { answer::body(status, answer::JSON, body.clone()) };
    }
    let mut response = answer::body(status, HeaderValue::from_static(PROBLEM_JSON), body.clone());
    response.headers_mut().insert(answer::APPLIED, HeaderValue::from_static(Applied::No.as_str()));
    response
}

/// Some servers did it and others did not.
fn partly(said: &[Said]) -> Refusal {
    let is_success = |said: &&Said| said.answer.as_ref().is_ok_and(|(status, _)| status.is_success());
    let done: Vec<&str> = said.iter().filter(is_success).map(|said| said.server.as_str()).collect();
    let failed: Vec<&str> = said.iter().filter(|said| !is_success(said)).map(|said| said.server.as_str()).collect();
    let is_in_doubt = said.iter().any(|said| matches!(said.answer, Err((_, Applied::Unknown | Applied::Yes))));
    let applied = if done.is_empty() && !is_in_doubt { Applied::No } else { Applied::Unknown };
    let done = if done.is_empty() { "none".to_owned() } else { done.join(", ") };
    let detail = format!("not every server did it: {} did not; {done} did", failed.join(", "));
    let error = Error::new(ErrorCode::ServerUnreachable, detail)
        .with_applied(applied)
        .with_hint("asking again is harmless; attempts says why each one failed");
    let attempts = said.iter().filter(|said| !is_success(said)).map(attempt).collect();
    Refusal { attempts, ..error.into() }
}

fn attempt(said: &Said) -> AttemptBody {
    let error = match &said.answer {
        Ok((status, body)) => {
            let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            format!("answered {}: {}", status.as_u16(), problem["detail"].as_str().unwrap_or("without a reason"))
        }
        Err((why, _)) => why.clone(),
    };
    AttemptBody { server: said.server.clone(), error, ms: said.ms }
}
