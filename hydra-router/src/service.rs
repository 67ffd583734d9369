//! The paths that are about the router itself, and the map it goes by.

use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::ProblemPage;
use hydra_core::{Error, ErrorCode, FolderId, FolderSet};
use hydra_sdk::{ClientMap, MapServer, OpClass};
use serde_json::json;

use crate::answer::{self, Refusal, Response};
use crate::config::{MAX_HEADER_BYTES, MAX_HOPS, MAX_KEPT_BYTES, MAX_URI_BYTES};
use crate::forward::{request_of, response_of};
use crate::gateway::{Gateway, Head};
use crate::overview;
use crate::stream::accepts;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAP_TOML: HeaderValue = HeaderValue::from_static("application/toml; charset=utf-8");
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Who is there, and where to go on: for people with a browser the status page.
pub(crate) fn welcome(gateway: &Gateway, head: &Parts) -> Result<Response, Refusal> {
    let mut response = if accepts(&head.headers, "text/html") { overview::page() } else { greeting(gateway)? };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn greeting(gateway: &Gateway) -> Result<Response, Refusal> {
    let map = gateway.map();
    let body = json!({
        "hydra": "welcome",
        "version": VERSION,
        "router": gateway.config.id,
        "cluster": map.cluster(),
        "folders": map.folders(),
        "epoch": map.epoch(),
        "docs": "/openapi.json",
        "ui": "/ui",
        "hint": "PUT and GET JSON at /v1/kv/{sanctuary}/{realm}/{swamp}/{key}; the client map is /v1/map",
    });
    answer::json(StatusCode::OK, &body)
}

/// The process answers; nothing else is asked.
pub(crate) fn health() -> Result<Response, Refusal> {
    answer::json(StatusCode::OK, &json!({"status": "ok"}))
}

/// Whether the router wants requests. Whether servers are there is not asked: they come and go.
pub(crate) fn ready(gateway: &Gateway) -> Result<Response, Refusal> {
    if gateway.is_draining() {
        return answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reasons": ["draining"]}));
    }
    answer::json(StatusCode::OK, &json!({"ready": true}))
}

/// What runs here and which limits it holds; the servers have more of them.
pub(crate) fn version(gateway: &Gateway) -> Result<Response, Refusal> {
    let body = json!({
        "version": VERSION,
        "api": "v1",
        "folders": gateway.map().folders(),
        "limits": {
            "uriBytes": MAX_URI_BYTES,
            "headerBytes": MAX_HEADER_BYTES,
            "repeatableBodyBytes": MAX_KEPT_BYTES,
            "hops": MAX_HOPS,
            "connections": gateway.config.max_connections,
        },
    });
    answer::json(StatusCode::OK, &body)
}

/// Who answers: for clients that look out for the return of a router.
pub(crate) fn probe(gateway: &Gateway) -> Result<Response, Refusal> {
    let map = gateway.map();
    let body = json!({
        "router": gateway.config.id,
        "cluster": map.cluster(),
        "folders": map.folders(),
        "epoch": map.epoch(),
    });
    answer::json(StatusCode::OK, &body)
}

/// Numbers for Prometheus.
pub(crate) fn metrics(gateway: &Gateway) -> Response {
    answer::body(StatusCode::OK, METRICS_TEXT, gateway.metrics.encode(&gateway.hydra))
}

/// The map in force as TOML, or as JSON where that is asked for. Its ETag is its epoch, because every change of a map
/// counts that up.
pub(crate) fn map(gateway: &Gateway, head: &Parts) -> Result<Response, Refusal> {
    let map = gateway.map();
    let etag = format!("\"{}\"", map.epoch());
    let mut tags = head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let is_known = tags.any(|line| line.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*"));
    let mut response = match is_known {
        true => answer::empty(StatusCode::NOT_MODIFIED),
        false if accepts(&head.headers, "application/json") => answer::json(StatusCode::OK, &as_json(&map))?,
        false => answer::body(StatusCode::OK, MAP_TOML, map.to_toml()),
    };
    response.headers_mut().insert(ETAG, answer::ascii(etag));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Who answers for what, without what only the files of a client are about.
fn as_json(map: &ClientMap) -> serde_json::Value {
    let server = |server: &MapServer| json!({"id": server.id, "url": server.url, "capacity": server.capacity, "zone": server.zone});
    let ids = |servers: Vec<&MapServer>| servers.iter().map(|server| server.id.clone()).collect::<Vec<_>>();
    let route = |(folders, primary, fallbacks): (&FolderSet, &MapServer, Vec<&MapServer>)| json!({"folders": folders.to_string(), "primary": primary.id, "fallbacks": ids(fallbacks)});
    let pool = |pool: &str| {
        let (patterns, routes): (Vec<_>, Vec<_>) =
            (map.patterns(pool).collect(), map.routes(pool).map(route).collect());
        json!({"name": pool, "match": patterns, "routes": routes})
    };
    json!({
        "cluster": map.cluster(),
        "epoch": map.epoch(),
        "folders": map.folders(),
        "servers": map.servers().iter().map(server).collect::<Vec<_>>(),
        "pools": map.pools().map(pool).collect::<Vec<_>>(),
    })
}

/// The contract, as one of the servers has it.
pub(crate) async fn openapi(gateway: &Gateway, head: &Head) -> Result<Response, Refusal> {
    let request = request_of(gateway, head, OpClass::Read)?;
    let map = gateway.map();
    let pool = map.pools().next().unwrap_or_default();
    let answer = gateway.hydra.forward_folder(pool, FolderId::new(0), request).await;
    answer.map(response_of).map_err(|error| Refusal::of_call(&error))
}

/// What an error code means.
pub(crate) fn problem(code: &str) -> Result<Response, Refusal> {
    let Some(known) = ErrorCode::ALL.iter().find(|known| known.as_str() == code) else {
        let shown: String = code.chars().take(80).collect();
        return Err(Error::new(ErrorCode::NotFound, format!("{shown:?} is no error code")).into());
    };
    answer::json(StatusCode::OK, &ProblemPage::of(*known))
}
