//! The OpenAPI document, held against the answers of a server.

use std::any::Any;
use std::collections::BTreeSet;

use hydra_core::ErrorCode;
use hydra_server::{Config, LogFilter};
use serde_json::{Value, json};

use crate::support::{Answer, Hydra};

/// The document of a server, and which of its operations were tried.
struct Contract {
    hydra: Hydra,
    document: Value,
    tried: BTreeSet<String>,
    /// What the log is filtered by; only a filter that is there can be changed.
    _filter: Box<dyn Any>,
}

impl Contract {
    fn start() -> Contract {
        let (log, filter) = LogFilter::new("info").expect("a filter");
        let hydra = Hydra::start_with(|_| {}, Config { log: Some(log), ..Config::default() });
        let document = hydra.get("/openapi.json").json();
        Contract { hydra, document, tried: BTreeSet::new(), _filter: Box::new(filter) }
    }

    /// Sends a request and holds its answer against what the document says about it.
    fn check(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str, status: u16) -> Answer {
        let answer = self.hydra.send(method, path, headers, body);
        let place = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status, status, "{place}");
        let operation = self.operation(method, path);
        self.tried.insert(operation["operationId"].as_str().expect("an id").to_owned());
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "{status} is not documented for {place}");
        for name in response["headers"].as_object().expect("headers").keys().filter(|name| is_on_every(name)) {
            assert!(answer.header(&name.to_lowercase()).is_some(), "{name} is missing in {place}");
        }
        if method == "HEAD" || answer.body.is_empty() {
            return answer;
        }
        let sent = answer.header("content-type").unwrap_or_default();
        let sent = sent.split(';').next().unwrap_or_default();
        let content = response["content"].as_object().unwrap_or_else(|| panic!("no body is documented for {place}"));
        let media = content.get(sent).or_else(|| content.get("*/*"));
        let schema = &media.unwrap_or_else(|| panic!("{sent} is not documented for {place}"))["schema"];
        let is_value = answer.header("preference-applied") == Some("return=representation");
        if sent.ends_with("json")
            && sent != "application/x-ndjson"
            && !is_value
            && let Err(why) = self.conforms(&answer.json(), schema)
        {
            panic!("{why} in {place}");
        }
        answer
    }

    fn operation(&self, method: &str, path: &str) -> Value {
        let path = path.split('?').next().unwrap_or_default();
        let paths = self.document["paths"].as_object().expect("paths");
        // A path without a variable part is meant before one with.
        let mut matching: Vec<_> = paths.iter().filter(|(template, _)| matches(template, path)).collect();
        matching.sort_by_key(|(template, _)| template.matches('{').count());
        let (_, item) = matching.first().unwrap_or_else(|| panic!("{path} is not documented"));
        item[method.to_lowercase()].clone()
    }

    /// Whether a value is what a schema says. Knows as much of JSON Schema as the document uses.
    fn conforms(&self, value: &Value, schema: &Value) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.document.pointer(reference.trim_start_matches('#'));
            return self.conforms(value, target.ok_or_else(|| format!("{reference} leads nowhere"))?);
        }
        // The usual answer stands first; any other is one that the request asked for.
        if let Some(usual) = schema["anyOf"].get(0) {
            return self.conforms(value, usual);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let fitting = choices.iter().filter(|choice| self.conforms(value, choice).is_ok()).count();
            return if fitting == 1 { Ok(()) } else { Err(format!("{value} fits {fitting} of {choices:?}")) };
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.conforms(value, part)?;
        }
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            return Err(format!("{value} is none of {allowed:?}"));
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        if !types.is_empty() && !types.iter().any(|kind| is_a(value, kind.as_str().unwrap_or_default())) {
            return Err(format!("{value} is no {types:?}"));
        }
        if schema["minimum"].as_i64().is_some_and(|least| value.as_i64().is_some_and(|value| value < least)) {
            return Err(format!("{value} is below {}", schema["minimum"]));
        }
        for item in value.as_array().into_iter().flatten() {
            self.conforms(item, &schema["items"])?;
        }
        let Some(members) = value.as_object() else { return Ok(()) };
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap_or_default()) {
                return Err(format!("{name} is missing in {value}"));
            }
        }
        for (name, member) in members {
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(property), _) => self.conforms(member, property)?,
                (None, Some(Value::Bool(false))) => return Err(format!("{name} is not documented")),
                (None, Some(other)) => self.conforms(member, other)?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Headers that every answer has; others depend on what there is to say.
fn is_on_every(name: &str) -> bool {
    ["Hydra-Server", "X-Request-Id", "ETag", "Hydra-Folder", "Hydra-Durable", "Hydra-Count"].contains(&name)
}

/// Whether a path is one of a template; only the last variable part may hold slashes.
fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template.iter().zip(&path).all(|(part, piece)| part.starts_with('{') || part == piece)
}

#[test]
fn what_a_server_answers_is_what_the_document_says() {
    let mut contract = Contract::start();
    let json = [("Content-Type", "application/json")];
    let alice = "/v1/kv/users/profiles/alice";
    let swamp = "/v1/swamps/users/profiles/alice";
    let policy = "/v1/policies/users/*/*";

    for path in ["/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/v1/probe", "/ui", "/v1/status"] {
        contract.check("GET", path, &[], "", 200);
        contract.check("HEAD", path, &[], "", 200);
    }
    for method in ["GET", "HEAD"] {
        contract.check(method, "/v1/resolve/users/profiles/alice", &[], "", 200);
        contract.check(method, "/v1/policies", &[], "", 200);
        contract.check(method, policy, &[], "", 404);
        contract.check(method, swamp, &[], "", 404);
    }

    let first = contract.check("PUT", &format!("{alice}/name?ttl=1h"), &json, r#""Alice""#, 201).etag();
    contract.check("PUT", &format!("{alice}/name"), &[("If-Match", &first)], r#""Bob""#, 200);
    contract.check("PUT", &format!("{alice}/name"), &[("If-Match", &first)], "1", 412);
    contract.check("PUT", &format!("{alice}/name"), &[("If-None-Match", "*")], "1", 412);
    contract.check("PUT", &format!("{alice}/quiet"), &[("Prefer", "return=minimal")], "1", 204);
    contract.check("PUT", &format!("{alice}/picture"), &[("Content-Type", "image/png")], "bytes", 201);
    contract.check("PUT", &format!("{alice}/bad"), &json, "{", 400);
    contract.check("PUT", &format!("{alice}/bad?typo=1"), &json, "1", 400);
    contract.check("PUT", &format!("{alice}/bad"), &[("Origin", "https://evil.example")], "1", 403);
    contract.check("PUT", &format!("{alice}/bad"), &[("Hydra-Folders", "7")], "1", 409);
    contract.check("PUT", &format!("{alice}/bad"), &[("Hydra-Pool", "other")], "1", 421);
    for method in ["GET", "HEAD"] {
        let version = contract.check(method, &format!("{alice}/name"), &[], "", 200).etag();
        contract.check(method, &format!("{alice}/name"), &[("If-None-Match", &version)], "", 304);
        contract.check(method, &format!("{alice}/name?envelope"), &[], "", 200);
        contract.check(method, &format!("{alice}/name?raw"), &[], "", 200);
        contract.check(method, &format!("{alice}/picture"), &[], "", 200);
        contract.check(method, &format!("{alice}/none"), &[], "", 404);
        contract.check(method, alice, &[], "", 200);
    }
    for include in ["full", "values", "meta", "keys"] {
        contract.check("GET", &format!("{alice}?limit=2&include={include}"), &[], "", 200);
    }
    contract.check("GET", &format!("{alice}?limit=0"), &[], "", 400);
    contract.check("POST", &format!("{alice}/visits?incr=2"), &[("Idempotency-Key", "a")], "", 200);
    contract.check("POST", &format!("{alice}/visits?incr=3"), &[("Idempotency-Key", "a")], "", 422);
    contract.check("POST", &format!("{alice}/name?incr=1"), &[], "", 422);

    contract.check("PUT", &format!("{alice}/me"), &json, r#"{"age":30,"n":{"x":1}}"#, 201);
    contract.check("PATCH", &format!("{alice}/me"), &[], r#"{"age":31}"#, 200);
    contract.check("PATCH", &format!("{alice}/me"), &[("Prefer", "return=representation")], r#"{"age":32}"#, 200);
    contract.check("PATCH", &format!("{alice}/nobody"), &[], r#"{"age":31}"#, 404);
    contract.check("PATCH", &format!("{alice}/picture"), &[("Prefer", "return=minimal")], "{}", 422);
    contract.check("POST", &format!("{alice}/me?incr=0.5&path=/n/x"), &[], "", 200);
    contract.check("GET", &format!("{alice}/me?path=/n/x"), &[], "", 200);
    contract.check("GET", &format!("{alice}/me?path=/none"), &[], "", 404);
    let pushed = contract.check("POST", alice, &json, "1", 201);
    contract.check("GET", pushed.header("location").expect("a place"), &[], "", 200);
    let across = r#"{"ops":[{"swamp":"a/b/c","op":"put","key":"k","value":1},{"swamp":"a/b/d","op":"get","key":"k"}]}"#;
    contract.check("POST", "/v1/batch", &json, across, 200);
    contract.check("POST", "/v1/batch", &json, "[]", 400);

    let ops = r#"{"ops":[{"op":"put","key":"b","value":[1]},{"op":"get","key":"b"},{"op":"get","key":"none"},
        {"op":"increment","key":"visits","by":1},{"op":"increment","key":"name","by":1},
        {"op":"put","key":"b","value":1,"ifVersion":"0"},{"op":"delete","key":"b"},{"op":"jump","key":"c"}]}"#;
    contract.check("POST", &format!("{swamp}/batch"), &json, ops, 200);
    contract.check("POST", &format!("{swamp}/batch"), &json, "[]", 400);
    let atomic = r#"{"atomic":true,"ops":[{"op":"put","key":"name","value":1,"ifVersion":"0"}]}"#;
    contract.check("POST", &format!("{swamp}/batch"), &json, atomic, 409);
    contract.check("POST", &format!("{swamp}/batch"), &json, r#"{"atomic":true,"ops":[{"op":"jump","key":"c"}]}"#, 409);

    let lock = format!("{swamp}/locks/l");
    contract.check("POST", &format!("{swamp}/shift?n=0"), &[], "", 400);
    contract.check("PUT", "/v1/kv/jobs/mail/eu/a", &json, "1", 201);
    contract.check("POST", "/v1/swamps/jobs/mail/eu/shift?lease=30s&sync", &[("Idempotency-Key", "s")], "", 200);
    contract.check("POST", "/v1/swamps/jobs/mail/eu/shift", &[], "", 200);
    contract.check("POST", &lock, &json, r#"{"ttl":"soon"}"#, 400);
    let token = contract.check("POST", &lock, &json, r#"{"ttl":"10s","owner":"w"}"#, 201).json()["token"].clone();
    let held = [("Hydra-Lock-Token", token.as_str().expect("a token"))];
    contract.check("POST", &lock, &json, r#"{"ttl":10}"#, 409);
    for method in ["GET", "HEAD"] {
        contract.check(method, &lock, &[], "", 200);
        contract.check(method, &format!("{swamp}/locks/none"), &[], "", 404);
    }
    contract.check("PUT", &lock, &held, r#"{"ttl":"20s"}"#, 200);
    contract.check("DELETE", &lock, &held, "", 204);
    contract.check("DELETE", &lock, &held, "", 412);

    contract.check("PUT", policy, &json, r#"{"writeInterval":"0s","requireVersion":true}"#, 201);
    contract.check("PUT", policy, &json, r#"{"writeInterval":"1s"}"#, 200);
    contract.check("PUT", policy, &json, r#"{"writeIntervall":"1s"}"#, 400);
    for method in ["GET", "HEAD"] {
        contract.check(method, "/v1/policies", &[], "", 200);
        contract.check(method, policy, &[], "", 200);
        contract.check(method, swamp, &[], "", 200);
        contract.check(method, &format!("{swamp}/policy"), &[], "", 200);
        contract.check(method, &format!("{swamp}/conflicts"), &[], "", 200);
        contract.check(method, "/v1/folders?sizes", &[], "", 200);
        contract.check(method, "/v1/folders?state=owned", &[], "", 200);
        contract.check(method, "/v1/folders?state=gone", &[], "", 400);
        contract.check(method, "/v1/folders/50-74", &[], "", 200);
        contract.check(method, "/v1/folders/7/takeover", &[], "", 200);
    }
    // A feed does not end, so its head is looked at, and a refusal.
    for path in [&format!("{swamp}/events"), "/v1/events?swamp=users/profiles/alice"] {
        contract.check("HEAD", path, &[], "", 200);
        let separator = if path.contains('?') { '&' } else { '?' };
        contract.check("GET", &format!("{path}{separator}heartbeat=0s"), &[], "", 400);
    }
    contract.check("GET", "/v1/folders/100", &[], "", 400);
    contract.check("DELETE", policy, &[], "", 204);
    contract.check("DELETE", policy, &[], "", 404);

    for (verb, status) in [("flush", 204), ("load", 204), ("compact", 200)] {
        contract.check("POST", &format!("{swamp}/{verb}"), &[], "", status);
        contract.check("POST", &format!("/v1/swamps/a/b/none/{verb}"), &[], "", 404);
    }
    contract.check("POST", &format!("{swamp}/evict"), &[], "", 200);
    contract.check("POST", &format!("{swamp}/evict?now"), &[], "", 400);
    contract.check("POST", "/v1/flush", &[], "", 204);
    contract.check("POST", "/v1/folders/50-74/flush", &[], "", 204);
    contract.check("POST", "/v1/folders/7/hold?ttl=10s", &[], "", 200);
    contract.check("POST", "/v1/folders/7/hold?ttl=1ms", &[], "", 400);
    contract.check("DELETE", "/v1/folders/7/hold", &[], "", 204);
    for verb in ["compact", "gc", "verify"] {
        contract.check("POST", &format!("/v1/folders/50-74/{verb}"), &[], "", 200);
    }
    contract.check("POST", "/v1/folders/7/copied", &[], "", 204);
    let files = r#"{"files":[{"swamp":"users/profiles/alice","file":"s2-3fkzrww6r3b0k-0001.hyl","bytes":9}]}"#;
    contract.check("POST", "/v1/folders/62/holds", &json, files, 200);
    contract.check("POST", "/v1/folders/62/holds", &json, "{}", 400);
    let version = contract.check("GET", "/v1/folders/62/takeover", &[], "", 200).json()["version"].clone();
    contract.check("POST", "/v1/folders/62/takeover/settle", &json, &json!({"version": version}).to_string(), 204);
    contract.check("POST", "/v1/folders/62/takeover/seal", &json, r#"{"leaseMs":100}"#, 409);
    contract.check("POST", "/v1/folders/62/takeover/unseal", &json, r#"{"seal":"x"}"#, 409);

    let body = |value: serde_json::Value| value.to_string();
    let seal = contract.check("POST", "/v1/folders/7/seal", &json, &body(json!({"epoch": 8, "to": "s9"})), 200).json();
    let under = body(json!({"seal": seal["seal"]}));
    contract.check("POST", "/v1/folders/7/seal", &json, &body(json!({"epoch": 9, "to": "s9"})), 409);
    contract.check("POST", "/v1/folders/7/seal", &json, &under, 200);
    contract.check("GET", "/v1/folders/7", &[], "", 200);
    let listed = contract.check("POST", "/v1/folders/7/manifest", &json, &under, 200).json();
    contract.check("POST", "/v1/folders/7/unseal", &json, &under, 200);
    contract.check("POST", "/v1/folders/7/manifest", &json, &under, 409);
    contract.check("POST", "/v1/folders/7/files", &json, r#"{"files":[]}"#, 200);
    contract.check("POST", "/v1/folders/7/files", &json, r#"{"files":[{"path":"x","from":0,"bytes":1}]}"#, 400);
    let commit = json!({"epoch": 8, "to": "s9", "seal": seal["seal"], "manifest": listed["manifest"]});
    contract.check("POST", "/v1/folders/7/commit", &json, &body(commit.clone()), 409);
    let seal = contract.check("POST", "/v1/folders/7/seal", &json, &body(json!({"epoch": 8, "to": "s9"})), 200).json();
    contract.check("POST", "/v1/folders/7/manifest", &json, &body(json!({"seal": seal["seal"]})), 200);
    let mut commit = commit;
    commit["seal"] = seal["seal"].clone();
    contract.check("POST", "/v1/folders/7/commit", &json, &body(commit), 200);
    contract.check("POST", "/v1/folders/7/clean", &json, r#"{"manifest":"0"}"#, 409);
    contract.check("POST", "/v1/folders/7/clean", &json, &body(json!({"manifest": listed["manifest"]})), 200);
    contract.check("POST", "/v1/folders/8/lacks", &json, r#"{"files":[]}"#, 200);
    contract.check("POST", "/v1/folders/7/fence", &json, &body(json!({"epoch": 8, "to": "s9"})), 409);
    contract.check("POST", "/v1/folders/7/unfence", &json, &body(json!({"epoch": 8})), 409);
    contract.check("POST", "/v1/folders/7/promote", &json, &body(json!({"epoch": 9, "of": "s9"})), 409);
    contract.check("POST", "/v1/folders/7/import", &json, &body(json!({"epoch": 9, "from": "s9"})), 200);
    contract.check("POST", "/v1/folders/7/activate", &json, &body(json!({"epoch": 9, "token": "0"})), 409);
    contract.check("POST", "/v1/folders/7/pull", &json, r#"{"url":"http://127.0.0.1:1"}"#, 502);
    contract.check("POST", "/v1/folders/7/pull", &json, r#"{"url":"here"}"#, 400);
    contract.check("GET", "/v1/folders/7", &[], "", 200);
    contract.check("POST", "/v1/folders/7/abort", &json, &body(json!({"epoch": 9})), 200);

    for method in ["GET", "HEAD"] {
        contract.check(method, &format!("{swamp}/export?expired=include&after=a"), &[], "", 200);
        contract.check(method, "/v1/export?folders=50-74&pattern=users/*/*", &[], "", 200);
        contract.check(method, "/v1/folders/8/archive", &[], "", 200);
        for path in ["/v1/swamps?include=info&folders=50-74", "/v1/swamps/users?prefix=p", "/v1/swamps/users/profiles"]
        {
            contract.check(method, path, &[], "", 200);
        }
    }
    contract.check("GET", &format!("{swamp}/export?expired=no"), &[], "", 400);
    contract.check("GET", "/v1/export?pattern=users", &[], "", 400);
    contract.check("GET", "/v1/swamps?limit=0", &[], "", 400);
    let line = r#"{"swamp":"users/profiles/alice","key":"imported","value":1}"#;
    for path in [&format!("{swamp}/import?sync"), "/v1/import?mode=create"] {
        contract.check("POST", path, &[], line, 200);
        contract.check("POST", path, &[("Content-Encoding", "gzip")], line, 400);
        contract.check("POST", path, &[("Content-Encoding", "zstd")], line, 415);
    }
    contract.check("PUT", "/v1/folders/8/archive", &[], &"\0".repeat(1024), 200);
    contract.check("PUT", "/v1/folders/8/archive", &[], "no tar", 400);
    let query = r#"{"where":{"path":"","op":"exists","value":true},"order":"updated","limit":2}"#;
    for (method, path) in [("QUERY", alice), ("POST", &format!("{swamp}/query"))] {
        contract.check(method, path, &[], query, 200);
        contract.check(method, path, &[], r#"{"where":{"path":"x","op":"~"}}"#, 400);
    }

    contract.check("DELETE", &format!("{alice}/name"), &[], "", 204);
    contract.check("DELETE", &format!("{alice}/name"), &[], "", 404);
    contract.check("DELETE", swamp, &[], "", 204);
    contract.check("DELETE", swamp, &[], "", 404);
    for (method, body) in [("GET", ""), ("HEAD", ""), ("PUT", r#"{"filter":"debug"}"#), ("DELETE", "")] {
        contract.check(method, "/v1/admin/log", &[], body, 200);
    }
    contract.check("PUT", "/v1/admin/log", &[], r#"{"filter":"loud"}"#, 400);
    contract.check("POST", "/v1/admin/reload", &[], "", 200);
    contract.check("POST", "/v1/admin/drain", &[], "", 200);
    contract.check("GET", "/ready", &[], "", 503);
    contract.check("GET", alice, &[], "", 503);
    contract.check("DELETE", "/v1/admin/drain", &[], "", 200);
    for code in ErrorCode::ALL {
        for method in ["GET", "HEAD"] {
            contract.check(method, &format!("/problems/{code}"), &[], "", 200);
        }
    }
    contract.check("GET", "/problems/made-up", &[], "", 404);

    let paths = contract.document["paths"].as_object().expect("paths");
    let operations = paths.values().flat_map(|item| item.as_object().expect("an item").values());
    let documented: BTreeSet<String> =
        operations.filter_map(|operation| operation["operationId"].as_str().map(str::to_owned)).collect();
    assert_eq!(contract.tried, documented, "every operation was tried");
}

#[test]
fn the_check_of_schemas_finds_what_is_wrong() {
    let contract = Contract::start();
    let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"oneOf": [{"type": "string"}, {"type": "null"}]}}});
    let conforms = |value: Value| contract.conforms(&value, &schema).is_ok();
    assert!(conforms(json!({"a": 1})) && conforms(json!({"a": 1, "b": null})) && conforms(json!({"a": 1, "b": "x"})));
    for wrong in
        [json!({}), json!({"a": "1"}), json!({"a": -1}), json!({"a": 1, "b": 2}), json!({"a": 1, "c": 2}), json!([])]
    {
        assert!(!conforms(wrong.clone()), "{wrong}");
    }
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    assert!(contract.conforms(&json!({"status": 404}), &problem).is_err());
}
