//! The paths that are about the server itself: `/`, `/health`, `/ready`, `/version`, `/metrics`, `/v1/probe`.

use http::{HeaderValue, StatusCode};
use hydra_core::wire::ProbeBody;
use hydra_core::{Error, ErrorCode, MAX_BATCH_OPS, MAX_KEY_BYTES, MAX_PART_BYTES, MAX_VALUE_BYTES};
use serde_json::json;

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::config::{MAX_BATCH_BODY_BYTES, MAX_HEADER_BYTES, MAX_LIST_LIMIT, MAX_URI_BYTES, MAX_WAIT};
use crate::query::Query;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who is there, and where to go on.
pub(crate) fn welcome(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let engine = &call.app.engine;
    let body = json!({
        "hydra": "welcome",
        "version": VERSION,
        "server": engine.server_id(),
        "cluster": engine.cluster(),
        "folders": engine.folder_count(),
        "hint": "PUT and GET JSON at /v1/kv/{sanctuary}/{realm}/{swamp}/{key}; limits are at /version",
    });
    answer::json(StatusCode::OK, &body)
}

/// The process answers; nothing else is asked.
pub(crate) fn health(_: &mut Call) -> Result<Response, Error> {
    answer::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// Whether the server wants requests.
pub(crate) fn ready(call: &mut Call) -> Result<Response, Error> {
    if call.app.is_draining() {
        return answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reasons": ["draining"]}));
    }
    answer::json(StatusCode::OK, &json!({"ready": true}))
}

/// What runs here and which limits it holds.
pub(crate) fn version(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let body = json!({
        "version": VERSION,
        "format": 1,
        "api": "v1",
        "folders": call.app.engine.folder_count(),
        "limits": {
            "namePartBytes": MAX_PART_BYTES,
            "keyBytes": MAX_KEY_BYTES,
            "valueBytes": MAX_VALUE_BYTES,
            "jsonDepth": hydra_core::json::MAX_DEPTH,
            "listLimit": MAX_LIST_LIMIT,
            "batchOps": MAX_BATCH_OPS,
            "batchBytes": MAX_BATCH_BODY_BYTES,
            "uriBytes": MAX_URI_BYTES,
            "headerBytes": MAX_HEADER_BYTES,
            "connections": call.app.config.max_connections,
            "streams": call.app.config.streams(),
            "waitSeconds": MAX_WAIT.as_secs(),
        },
    });
    answer::json(StatusCode::OK, &body)
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
    let body = json!({
        "type": format!("/problems/{known}"),
        "code": known.as_str(),
        "status": known.status(),
        "title": known.title(),
    });
    answer::json(StatusCode::OK, &body)
}
