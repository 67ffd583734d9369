//! The contract as an OpenAPI 3.1 document: `/openapi.json`.
//!
//! Kept by hand, a file below `blocks` for every path, with what its endpoints share in `components.json`. What
//! follows from the rest is added here: the refusals that every endpoint has, HEAD beside GET, and who may.
//! Tests hold it against the routes, and against the answers of a server.

#[cfg(test)]
mod templates;

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use hydra_core::wire::PROBLEM_JSON;
use hydra_core::{Error, ErrorCode};
use serde_json::{Map, Value, json};

use crate::answer::{self, Response};
use crate::app::Call;
use crate::query::Query;
use crate::service::VERSION;

/// The blocks, in the order in which they are shown. Each says its path itself.
const BLOCKS: &[&str] = &[
    include_str!("blocks/treasure.json"),
    include_str!("blocks/list.json"),
    include_str!("blocks/swamps.json"),
    include_str!("blocks/swamps-sanctuary.json"),
    include_str!("blocks/swamps-realm.json"),
    include_str!("blocks/swamp-query.json"),
    include_str!("blocks/swamp.json"),
    include_str!("blocks/swamp-batch.json"),
    include_str!("blocks/swamp-flush.json"),
    include_str!("blocks/swamp-compact.json"),
    include_str!("blocks/swamp-load.json"),
    include_str!("blocks/swamp-evict.json"),
    include_str!("blocks/swamp-policy.json"),
    include_str!("blocks/swamp-conflicts.json"),
    include_str!("blocks/swamp-export.json"),
    include_str!("blocks/swamp-import.json"),
    include_str!("blocks/export.json"),
    include_str!("blocks/import.json"),
    include_str!("blocks/swamp-events.json"),
    include_str!("blocks/swamp-shift.json"),
    include_str!("blocks/swamp-lock.json"),
    include_str!("blocks/events.json"),
    include_str!("blocks/batch.json"),
    include_str!("blocks/policies.json"),
    include_str!("blocks/policy.json"),
    include_str!("blocks/resolve.json"),
    include_str!("blocks/flush.json"),
    include_str!("blocks/folders.json"),
    include_str!("blocks/folder.json"),
    include_str!("blocks/folder-flush.json"),
    include_str!("blocks/folder-copied.json"),
    include_str!("blocks/folder-hold.json"),
    include_str!("blocks/folder-gc.json"),
    include_str!("blocks/folder-compact.json"),
    include_str!("blocks/folder-verify.json"),
    include_str!("blocks/folder-archive.json"),
    include_str!("blocks/folder-takeover.json"),
    include_str!("blocks/folder-holds.json"),
    include_str!("blocks/folder-settle.json"),
    include_str!("blocks/folder-takeover-seal.json"),
    include_str!("blocks/folder-takeover-unseal.json"),
    include_str!("blocks/folder-fence.json"),
    include_str!("blocks/folder-unfence.json"),
    include_str!("blocks/folder-import.json"),
    include_str!("blocks/folder-pull.json"),
    include_str!("blocks/folder-seal.json"),
    include_str!("blocks/folder-unseal.json"),
    include_str!("blocks/folder-manifest.json"),
    include_str!("blocks/folder-files.json"),
    include_str!("blocks/folder-commit.json"),
    include_str!("blocks/folder-activate.json"),
    include_str!("blocks/folder-abort.json"),
    include_str!("blocks/folder-promote.json"),
    include_str!("blocks/folder-lacks.json"),
    include_str!("blocks/folder-clean.json"),
    include_str!("blocks/admin-drain.json"),
    include_str!("blocks/admin-log.json"),
    include_str!("blocks/admin-reload.json"),
    include_str!("blocks/welcome.json"),
    include_str!("blocks/health.json"),
    include_str!("blocks/ready.json"),
    include_str!("blocks/version.json"),
    include_str!("blocks/metrics.json"),
    include_str!("blocks/probe.json"),
    include_str!("blocks/ui.json"),
    include_str!("blocks/status.json"),
    include_str!("blocks/openapi.json"),
    include_str!("blocks/problem.json"),
];
const COMPONENTS: &str = include_str!("components.json");

/// Every endpoint can answer these.
const ALWAYS: &[&str] = &["invalid-header", "unknown-parameter", "uri-too-long", "headers-too-large", "internal"];
/// Those that need a token.
const GUARDED: &[&str] = &["missing-token", "invalid-token", "scope-denied"];
/// Those that are about data, and so refuse clients with a wrong map and end with the server.
const ABOUT_DATA: &[&str] = &["folder-count-mismatch", "not-owner", "draining"];
/// Those that read a swamp from disk.
const READS_SWAMP: &[&str] = &["invalid-name", "corrupt-swamp", "incomplete-copy", "busy", "io", "folder-importing"];
/// Those that write to one.
const WRITES_SWAMP: &[&str] = &[
    "invalid-body",
    "body-too-large",
    "unsupported-media-type",
    "idempotency-in-progress",
    "idempotency-reuse",
    "swamp-read-only",
    "folder-sealed",
    "folder-returned",
    "disk-full",
    "overloaded",
];

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document_of(BLOCKS).to_string()));

/// The document.
pub(crate) fn document(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    Ok(answer::body(StatusCode::OK, answer::JSON, DOCUMENT.clone()))
}

fn document_of(blocks: &[&str]) -> Value {
    let mut paths = Map::new();
    for block in blocks {
        let (path, item) = path_item(block);
        paths.insert(path, item);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hydra",
            "version": VERSION,
            "summary": "Small named swamps of JSON treasures over HTTP.",
            "description": "Every error is application/problem+json with a stable code; Hydra-Applied says whether \
                anything was done. Unknown parameters and members are refused. x-scopes are what a token needs; \
                servers without tokens let everybody do everything. Texts of more than 1 KiB are packed with gzip for \
                clients that send Accept-Encoding, but for feeds and the answers to imports.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "the server this came from"}],
        "tags": [
            {"name": "treasures", "description": "Values under keys"},
            {"name": "swamps", "description": "Swamps as a whole"},
            {"name": "policies", "description": "Settings of the swamps that match a pattern"},
            {"name": "folders", "description": "What operators and copies of data need"},
            {"name": "service", "description": "The server itself"},
        ],
        "paths": paths,
        "components": read(COMPONENTS),
    })
}

/// One block: its path, and what stands below it in the document.
fn path_item(block: &str) -> (String, Value) {
    let mut item = match read(block) {
        Value::Object(item) => item,
        _ => Map::new(),
    };
    let path = item.remove("path").and_then(|path| path.as_str().map(str::to_owned)).unwrap_or_default();
    for method in ["get", "head", "put", "post", "patch", "delete", "query"] {
        if let Some(Value::Object(operation)) = item.get_mut(method) {
            complete(operation, method);
        }
    }
    if let Some(get) = item.get("get").filter(|_| !item.contains_key("head")) {
        let head = head_of(get);
        item.insert("head".to_owned(), head);
    }
    if let Some(head) = item.get_mut("head") {
        without_bodies(head);
    }
    (path, Value::Object(item))
}

/// Adds to an operation what follows from the little that its block says.
fn complete(operation: &mut Map<String, Value>, method: &str) {
    let listed = |value: Option<Value>| -> Vec<String> {
        let values = value.and_then(|value| value.as_array().cloned()).unwrap_or_default();
        values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let mut codes = listed(operation.remove("x-problems"));
    let kinds = listed(operation.remove("x-kinds"));
    let mut add = |more: &[&str]| codes.extend(more.iter().map(|code| (*code).to_owned()));
    add(ALWAYS);
    for kind in &kinds {
        match kind.as_str() {
            "data" => add(ABOUT_DATA),
            "reads" => add(READS_SWAMP),
            "writes" => add(WRITES_SWAMP),
            _ => {}
        }
    }
    if !matches!(method, "get" | "head") {
        add(&["origin-denied"]);
    }
    if operation.contains_key("x-scopes") {
        add(GUARDED);
        operation.insert("security".to_owned(), json!([{"token": []}, {}]));
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else { return };
    for response in responses.values_mut() {
        add_headers(response);
    }
    for code in ErrorCode::ALL.iter().filter(|code| codes.iter().any(|listed| listed == code.as_str())) {
        add_problem(responses, *code);
    }
}

fn add_headers(response: &mut Value) {
    for (name, component) in [("Hydra-Server", "Server"), ("X-Request-Id", "RequestId")] {
        response["headers"][name] = json!({"$ref": format!("#/components/headers/{component}")});
    }
}

fn add_problem(responses: &mut Map<String, Value>, code: ErrorCode) {
    let response = responses.entry(code.status().to_string()).or_insert_with(|| json!({"description": ""}));
    add_headers(response);
    response["headers"]["Hydra-Applied"] = json!({"$ref": "#/components/headers/Applied"});
    let line = format!("`{code}`: {}", code.title());
    let description = match response["description"].as_str() {
        Some("") | None => line,
        Some(text) => format!("{text}\n\n{line}"),
    };
    response["description"] = Value::String(description);
    let content = &mut response["content"][PROBLEM_JSON];
    if content.is_null() {
        *content = json!({"schema": {
            "allOf": [{"$ref": "#/components/schemas/Problem"}],
            "properties": {"code": {"enum": []}},
        }});
    }
    if let Some(codes) = content["schema"]["properties"]["code"]["enum"].as_array_mut() {
        codes.push(Value::String(code.as_str().to_owned()));
    }
}

/// HEAD is GET without the body.
fn head_of(get: &Value) -> Value {
    let mut head = get.clone();
    head["operationId"] = Value::String(format!("{}Head", get["operationId"].as_str().unwrap_or_default()));
    head
}

fn without_bodies(head: &mut Value) {
    for response in head["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
        }
    }
}

/// A piece of the document; a test reads all of them.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use http::Method;

    use super::templates::{TEMPLATES, template};
    use super::*;
    use crate::auth::Need;
    use crate::route::Route;

    fn document() -> Value {
        document_of(BLOCKS)
    }

    /// A path with something allowed in every place.
    fn example(path: &str) -> String {
        let path = path
            .replace("{key}", "k")
            .replace("{lock}", "l")
            .replace("{code}", "not-found")
            .replace("{folders}", "50-74");
        let path = path.replace("{folder}", "7");
        ["sanctuary", "realm", "swamp"].iter().fold(path, |path, part| path.replace(&format!("{{{part}}}"), "a"))
    }

    fn methods(item: &Value) -> BTreeSet<String> {
        let known = ["get", "head", "put", "post", "patch", "delete", "query"];
        known.iter().filter(|method| item.get(**method).is_some()).map(|method| method.to_uppercase()).collect()
    }

    #[test]
    fn every_block_is_json_with_a_path_of_its_own() {
        let mut paths = BTreeSet::new();
        for block in BLOCKS {
            let read: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error} in {block}"));
            let path = read["path"].as_str().unwrap_or_else(|| panic!("no path in {block}"));
            assert!(paths.insert(path.to_owned()), "{path} stands twice");
        }
        serde_json::from_str::<Value>(COMPONENTS).expect("components");
    }

    #[test]
    fn the_document_has_every_route_with_its_methods_and_no_other() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
        let routed: BTreeSet<&str> = TEMPLATES.iter().copied().collect();
        assert_eq!(documented, routed, "a block is missing, or one is for no route");
        for (path, item) in paths {
            let route = Route::parse(&example(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(template(&route), path.as_str());
            let allowed: BTreeSet<String> = route.allow().split(", ").map(str::to_owned).collect();
            assert_eq!(methods(item), allowed, "{path}");
        }
    }

    #[test]
    fn the_document_says_who_may_as_the_server_does() {
        for (path, item) in document()["paths"].as_object().expect("paths") {
            let route = Route::parse(&example(path)).expect("a route");
            for method in methods(item) {
                let operation = &item[method.to_lowercase()];
                let need = Need::of(&route, &Method::from_bytes(method.as_bytes()).expect("a method"));
                let scopes: Option<Vec<Value>> =
                    need.map(|need| need.scopes.iter().map(|scope| json!(scope.as_str())).collect());
                let said = operation.get("x-scopes").and_then(|scopes| scopes.as_array().cloned());
                assert_eq!(said, scopes, "{method} {path}");
                assert_eq!(operation.get("security").is_some(), scopes.is_some(), "{method} {path}");
            }
        }
    }

    #[test]
    fn operations_are_complete_and_references_lead_somewhere() {
        let document = document();
        let mut ids = BTreeMap::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in methods(item) {
                let operation = &item[method.to_lowercase()];
                let place = format!("{method} {path}");
                for member in ["operationId", "summary", "tags", "responses"] {
                    assert!(operation.get(member).is_some(), "{place} has no {member}");
                }
                let id = operation["operationId"].as_str().expect("a text").to_owned();
                assert_eq!(ids.insert(id, place.clone()), None, "{place}");
                let parameters = item["parameters"].to_string() + &operation["parameters"].to_string();
                for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                    assert!(
                        parameters.to_lowercase().contains(&name.to_lowercase()),
                        "{place}: {{{name}}} is not said"
                    );
                }
            }
        }
        references(&document, &document);
    }

    fn references(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                members.values().for_each(|value| references(value, document));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, document)),
            _ => {}
        }
    }

    #[test]
    fn every_code_that_is_named_exists() {
        for block in BLOCKS {
            let block = read(block);
            for operation in block.as_object().expect("an object").values() {
                for code in operation["x-problems"].as_array().into_iter().flatten() {
                    let code = code.as_str().expect("a text");
                    assert_eq!(ErrorCode::from_text(code).as_str(), code);
                }
            }
        }
        for code in [ALWAYS, GUARDED, ABOUT_DATA, READS_SWAMP, WRITES_SWAMP].concat() {
            assert_eq!(ErrorCode::from_text(code).as_str(), code);
        }
    }
}
