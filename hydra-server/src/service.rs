//! The paths that are about the server itself: `/`, `/health`, `/ready`, `/version`, `/metrics`, `/v1/probe`.

use http::header::VARY;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{MAX_FEED_SWAMPS, ProbeBody, ProblemPage};
use hydra_core::{
    Error, ErrorCode, MAX_BATCH_BYTES, MAX_BATCH_OPS, MAX_FILTER_DEPTH, MAX_FILTER_TESTS, MAX_FILTER_VALUES,
    MAX_IMPORT_ERRORS, MAX_IMPORT_LINE_BYTES, MAX_KEY_BYTES, MAX_LEASE, MAX_LOCK_NAME_BYTES, MAX_LOCK_TTL,
    MAX_OWNER_BYTES, MAX_PART_BYTES, MAX_PATCH_OPS, MAX_POINTER_BYTES, MAX_SHIFT, MAX_SHIFT_BYTES, MAX_VALUE_BYTES,
    Policy,
};
use serde_json::{Map, Value, json};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::conditions::{MAX_IDEMPOTENCY_KEY, accepts};
use crate::config::{
    Config, MAX_BATCH_BODY_BYTES, MAX_HEADER_BYTES, MAX_HOLDS_BODY_BYTES, MAX_LIST_LIMIT, MAX_QUERY_BODY_BYTES,
    MAX_SMALL_BODY_BYTES, MAX_URI_BYTES, MAX_WAIT,
};
use crate::overview;
use crate::query::Query;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The compiler that built this.
pub(crate) const RUSTC: &str = env!("HYDRA_RUSTC");
/// The commit this was built from, where whoever built it said so with HYDRA_COMMIT.
pub(crate) const COMMIT: &str = match option_env!("HYDRA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Who is there, and where to go on: for people with a browser the status page.
pub(crate) fn welcome(call: &mut Call) -> Result<Response, Error> {
    let mut response = if accepts(&call.head.headers, "text/html") { overview::page(call)? } else { greeting(call)? };
    response.headers_mut().insert(VARY, answer::BY_ACCEPT);
    Ok(response)
}

fn greeting(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let engine = &call.app.engine;
    let body = json!({
        "hydra": "welcome",
        "version": VERSION,
        "server": engine.server_id(),
        "cluster": engine.cluster(),
        "folders": engine.folder_count(),
        "docs": "/openapi.json",
        "ui": "/ui",
        "hint": "PUT and GET JSON at /v1/kv/{sanctuary}/{realm}/{swamp}/{key}; limits are at /version",
    });
    answer::json(StatusCode::OK, &body)
}

/// The process answers; nothing else is asked.
pub(crate) fn health(_: &mut Call) -> Result<Response, Error> {
    answer::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// Whether the server wants requests, and what an operator should look at although it does.
pub(crate) fn ready(call: &mut Call) -> Result<Response, Error> {
    let stats = call.app.engine.stats();
    let noted = [
        ("swamps-read-only", stats.read_only_swamps > 0),
        ("files-damaged", stats.damaged_files > 0),
        ("memory-used-up", !call.app.engine.has_room()),
    ];
    let warnings: Vec<&str> = noted.iter().filter(|(_, is_so)| *is_so).map(|(name, _)| *name).collect();
    let (status, reasons) = match call.app.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, &["draining"][..]),
        false => (StatusCode::OK, &[][..]),
    };
    answer::json(status, &json!({"ready": reasons.is_empty(), "reasons": reasons, "warnings": warnings}))
}

/// What runs here and which limits it holds.
pub(crate) fn version(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let config = &call.app.config;
    let body = json!({
        "version": VERSION,
        "commit": COMMIT,
        "rustc": RUSTC,
        "format": 1,
        "api": "v1",
        "folders": call.app.engine.folder_count(),
        "features": {
            "tokens": config.tokens.is_some(),
            "tls": config.tls.is_some(),
            "http2": true,
        },
        "limits": limits(config),
    });
    answer::json(StatusCode::OK, &body)
}

/// Every limit by its name.
fn limits(config: &Config) -> Map<String, Value> {
    let limits = [
        ("namePartBytes", MAX_PART_BYTES as u64),
        ("keyBytes", MAX_KEY_BYTES as u64),
        ("valueBytes", MAX_VALUE_BYTES),
        ("valueBytesByDefault", Policy::default().max_value_bytes),
        ("jsonDepth", hydra_core::json::MAX_DEPTH as u64),
        ("pointerBytes", MAX_POINTER_BYTES as u64),
        ("patchOps", MAX_PATCH_OPS as u64),
        ("listLimit", MAX_LIST_LIMIT as u64),
        ("filterTests", MAX_FILTER_TESTS as u64),
        ("filterDepth", MAX_FILTER_DEPTH as u64),
        ("filterValues", MAX_FILTER_VALUES as u64),
        ("queryBodyBytes", MAX_QUERY_BODY_BYTES),
        ("batchOps", MAX_BATCH_OPS as u64),
        ("batchBytes", MAX_BATCH_BODY_BYTES),
        ("atomicBatchBytes", MAX_BATCH_BYTES as u64),
        ("shiftTreasures", MAX_SHIFT as u64),
        ("shiftBytes", MAX_SHIFT_BYTES as u64),
        ("leaseSeconds", MAX_LEASE.as_secs()),
        ("lockNameBytes", MAX_LOCK_NAME_BYTES as u64),
        ("lockOwnerBytes", MAX_OWNER_BYTES as u64),
        ("lockSeconds", MAX_LOCK_TTL.as_secs()),
        ("feedSwamps", MAX_FEED_SWAMPS as u64),
        ("importLineBytes", MAX_IMPORT_LINE_BYTES as u64),
        ("importErrors", MAX_IMPORT_ERRORS as u64),
        ("idempotencyKeyBytes", MAX_IDEMPOTENCY_KEY as u64),
        ("smallBodyBytes", MAX_SMALL_BODY_BYTES),
        ("holdsBodyBytes", MAX_HOLDS_BODY_BYTES),
        ("bodyMemoryBytes", config.max_body_memory),
        ("uriBytes", MAX_URI_BYTES as u64),
        ("headerBytes", MAX_HEADER_BYTES as u64),
        ("connections", config.max_connections as u64),
        ("streams", config.streams() as u64),
        ("waitSeconds", MAX_WAIT.as_secs()),
        ("headerTimeoutMs", config.header_timeout.as_millis() as u64),
        ("handshakeTimeoutMs", config.handshake_timeout.as_millis() as u64),
        ("bodyTimeoutMs", config.body_timeout.as_millis() as u64),
        ("idleTimeoutMs", config.idle_timeout.as_millis() as u64),
    ];
    limits.into_iter().map(|(name, limit)| (name.to_owned(), Value::from(limit))).collect()
}

/// Numbers for Prometheus.
pub(crate) fn metrics(call: &mut Call) -> Result<Response, Error> {
    let text = call
        .app
        .metrics
        .encode()
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the metrics cannot be written: {error}")))?;
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(answer::body(StatusCode::OK, content_type, text))
}

/// Who answers, after a look at the disk: a server whose disk hangs does not answer.
pub(crate) async fn probe(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let marker = call.app.engine.data_dir().join("HYDRA");
    blocking(move || std::fs::read(&marker).map_err(|error| Error::io("read", &marker, error))).await?;
    let engine = &call.app.engine;
    let (owned, standby) = engine.folders();
    let body = ProbeBody {
        server: engine.server_id().to_owned(),
        cluster: engine.cluster().to_owned(),
        folders: engine.folder_count(),
        pool: call.app.config.pool.clone(),
        owned: owned.to_string(),
        standby: standby.to_string(),
        writable: !call.app.is_draining(),
        copied: owned.iter().chain(standby.iter()).any(|folder| engine.is_copied(folder)),
    };
    answer::json(StatusCode::OK, &body)
}

/// What an error code means.
pub(crate) fn problem(call: &mut Call, code: &str) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
    let Some(known) = known else {
        let detail = format!("{} is no error code of this server", crate::route::shown(code));
        return Err(Error::new(ErrorCode::NotFound, detail));
    };
    answer::json(StatusCode::OK, &ProblemPage::of(*known))
}
