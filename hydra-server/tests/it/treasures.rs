//! One treasure over raw HTTP: parts, patches, increments, pushes, preferences, expiry.

use std::time::Duration;

use serde_json::json;

use crate::support::{Answer, Hydra};

const SWAMP: &str = "/v1/kv/users/profiles/alice";
const KEY: &str = "/v1/kv/users/profiles/alice/me";

fn patch(hydra: &Hydra, query: &str, content_type: &str, body: &str) -> Answer {
    hydra.send("PATCH", &format!("{KEY}{query}"), &[("Content-Type", content_type)], body)
}

const MERGE: &str = "application/merge-patch+json";
const STEPS: &str = "application/json-patch+json; charset=utf-8";

#[test]
fn a_part_of_a_value_is_read_by_its_path() {
    let hydra = Hydra::start();
    hydra.put(KEY, r#"{"name": "Alice", "n": 1.0, "a/b": [10, {"c": null}]}"#);
    for (path, part) in [("/name", "\"Alice\""), ("/n", "1.0"), ("/a~1b/1/c", "null"), ("/a~1b/1", "{\"c\": null}")] {
        let answer = hydra.get(&format!("{KEY}?path={path}"));
        assert_eq!((answer.status, answer.text().as_str(), answer.etag()), (200, part, hydra.get(KEY).etag()));
    }
    assert_eq!(hydra.get(&format!("{KEY}?path=/name&raw")).text(), "Alice");
    assert_eq!(hydra.get(&format!("{KEY}?path=/n&envelope")).json()["value"], json!(1.0));
    let missing = hydra.get(&format!("{KEY}?path=/a~1b/2"));
    assert_eq!((missing.status, missing.code().as_str()), (404, "path-not-found"));
    assert!(missing.json()["detail"].as_str().expect("why").contains("nothing at \"/a~1b/2\""), "{missing:?}");
    assert_eq!(hydra.get(&format!("{SWAMP}/none?path=/a")).code(), "treasure-not-found");
    assert_eq!(hydra.get(&format!("{KEY}?path=name")).code(), "invalid-parameter");
    hydra.send("PUT", KEY, &[("Content-Type", "image/png")], [0u8, 255]);
    assert_eq!(hydra.get(&format!("{KEY}?path=/a")).code(), "path-not-found");
    let unchanged = hydra.send("GET", &format!("{KEY}?path=/a"), &[("If-None-Match", &hydra.get(KEY).etag())], "");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
}

#[test]
fn an_expired_treasure_shows_only_when_it_is_asked_for() {
    let hydra = Hydra::start();
    hydra.put(&format!("{KEY}?ttl=20ms"), "1");
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(hydra.get(KEY).status, 404);
    let shown = hydra.get(&format!("{KEY}?expired=include"));
    assert_eq!((shown.status, shown.text().as_str()), (200, "1"));
    assert!(shown.header("hydra-expires-at").is_some());
    assert_eq!(hydra.get(&format!("{KEY}?expired=exclude")).status, 404);
    assert_eq!(hydra.get(&format!("{KEY}?expired=maybe")).code(), "invalid-parameter");
    // It counts as absent for everything that writes.
    assert_eq!(patch(&hydra, "", MERGE, "{}").code(), "treasure-not-found");
    assert_eq!(hydra.put(&format!("{KEY}?keep_ttl"), "2").status, 201);
    assert_eq!(hydra.get(KEY).header("hydra-expires-at"), None, "what has expired leaves no expiry behind");
}

#[test]
fn an_expiry_is_kept_by_what_changes_a_value_and_cleared_by_a_put() {
    let hydra = Hydra::start();
    let expires = || hydra.get(KEY).header("hydra-expires-at").map(str::to_owned);
    hydra.put(&format!("{KEY}?expires_at=2100-01-01T00:00:00Z"), r#"{"n":1}"#);
    let first = expires();
    assert!(first.is_some());
    assert_eq!(patch(&hydra, "", MERGE, r#"{"a":2}"#).status, 200);
    assert_eq!(hydra.post(&format!("{KEY}?incr=1&path=/n"), "").json()["value"], 2);
    assert_eq!(hydra.put(&format!("{KEY}?keep_ttl=true"), "5").status, 200);
    assert_eq!(hydra.post(&format!("{KEY}?incr=1"), "").json()["value"], 6);
    assert_eq!(hydra.post(&format!("{KEY}?incr=0.5"), "").json()["value"], 6.5);
    assert_eq!(expires(), first);
    for query in ["?ttl=1s&keep_ttl", "?ttl=1s&expires_at=4102444800000", "?keep_ttl&expires_at=4102444800000"] {
        assert_eq!(hydra.put(&format!("{KEY}{query}"), "1").code(), "invalid-parameter", "{query}");
    }
    hydra.put(KEY, "1");
    assert_eq!(expires(), None);
}

#[test]
fn a_merge_patch_changes_members_and_keeps_the_rest_as_it_was() {
    let hydra = Hydra::start();
    assert_eq!(patch(&hydra, "", MERGE, "{}").status, 404);
    let created = patch(&hydra, "?create", MERGE, r#"{"age":30,"gone":null}"#);
    assert_eq!((created.status, created.json()["created"].clone()), (201, json!(true)));
    hydra.put(KEY, r#"{"big": 123456789012345678901, "age":30, "nick": "Al", "x": 1.10}"#);
    for content_type in [MERGE, "application/json", "application/x-www-form-urlencoded"] {
        assert_eq!(patch(&hydra, "", content_type, r#"{"age":31,"nick":null}"#).status, 200);
    }
    assert_eq!(hydra.get(KEY).text(), r#"{"big":123456789012345678901,"age":31,"x":1.10}"#);
    let other = patch(&hydra, "", "text/plain", "{}");
    assert_eq!((other.status, other.code().as_str()), (415, "unsupported-media-type"));
    assert_eq!(patch(&hydra, "", MERGE, r#"{"a":1,"a":2}"#).code(), "invalid-json");
    let old = hydra.get(KEY).etag();
    let bare = old.trim_matches('"').to_owned();
    let matched = hydra.send("PATCH", KEY, &[("If-Match", &bare)], r#"{"age":32}"#);
    assert_eq!(matched.status, 200, "a tag without quotes is one, too");
    let stale = hydra.send("PATCH", KEY, &[("If-Match", &old)], r#"{"age":33}"#);
    assert_eq!((stale.status, stale.code().as_str(), stale.etag()), (412, "version-mismatch", matched.etag()));
    hydra.send("PUT", KEY, &[("Content-Type", "image/png")], [1u8]);
    assert_eq!(patch(&hydra, "", MERGE, "{}").code(), "patch-failed");
}

#[test]
fn a_json_patch_is_done_whole_or_not_at_all() {
    let hydra = Hydra::start();
    hydra.put(KEY, r#"{"age":30,"tags":["a"]}"#);
    let done = patch(
        &hydra,
        "",
        STEPS,
        r#"[{"op":"test","path":"/age","value":30.0},{"op":"add","path":"/tags/-","value":"b"},{"op":"move","from":"/age","path":"/years"}]"#,
    );
    assert_eq!((done.status, hydra.get(KEY).text().as_str()), (200, r#"{"tags":["a","b"],"years":30}"#));
    let before = hydra.get(KEY).etag();
    let failed =
        patch(&hydra, "", STEPS, r#"[{"op":"remove","path":"/tags"},{"op":"test","path":"/years","value":31}]"#);
    assert_eq!((failed.status, failed.code().as_str()), (422, "patch-failed"));
    assert!(failed.json()["detail"].as_str().expect("why").contains("operation 1 (test /years)"), "{failed:?}");
    assert_eq!(hydra.get(KEY).etag(), before);
    assert_eq!(patch(&hydra, "", STEPS, r#"[{"op":"jump","path":"/a"}]"#).code(), "invalid-body");
    assert_eq!(patch(&hydra, "", STEPS, r#"{"op":"add"}"#).code(), "invalid-body");
}

#[test]
fn increments_reach_into_values_and_stop_at_their_bounds() {
    let hydra = Hydra::start();
    let add = |query: &str| hydra.post(&format!("{KEY}?incr={query}"), "");
    assert_eq!(add("5&path=/stats/views&initial=100").json()["value"], 105);
    assert_eq!(hydra.get(KEY).text(), r#"{"stats":{"views":105}}"#);
    let above = add("5&path=/stats/views&max=109");
    assert_eq!((above.status, above.code().as_str()), (422, "out-of-bounds"));
    assert_eq!(hydra.get(KEY).text(), r#"{"stats":{"views":105}}"#);
    assert_eq!(add("-105&path=/stats/views&min=0").json()["value"], 0);
    assert_eq!(add("-1&path=/stats/views&min=0").status, 422);
    assert_eq!(add("1&path=/stats").code(), "not-a-number");
    assert_eq!(add("1&path=/stats/views/x").code(), "patch-failed");
    assert_eq!(add("0.25&path=/stats/share").json()["value"], 0.25);
    assert_eq!(add("1&path=/stats/share").code(), "not-a-number", "a whole increment needs a whole number");
    assert_eq!(add("1&min=zero").code(), "invalid-parameter");
    hydra.put(KEY, "9223372036854775806");
    assert_eq!(add("1&max=9223372036854775807").json()["value"], i64::MAX);
    assert_eq!(add("1&max=9223372036854775807").code(), "out-of-bounds");
    assert_eq!(hydra.get(KEY).text(), i64::MAX.to_string());
}

#[test]
fn a_pushed_value_gets_a_key_that_sorts_by_time() {
    let hydra = Hydra::start();
    let pushed: Vec<Answer> = (0..3).map(|n| hydra.post(SWAMP, &n.to_string())).collect();
    let keys: Vec<String> = pushed.iter().map(|a| a.json()["key"].as_str().expect("a key").to_owned()).collect();
    assert!(keys.windows(2).all(|two| two[0] < two[1]), "{keys:?}");
    for (n, (answer, key)) in pushed.iter().zip(&keys).enumerate() {
        let location = answer.header("location").expect("a location");
        assert_eq!((answer.status, location), (201, format!("{SWAMP}/{key}").as_str()));
        assert_eq!(hydra.get(location).text(), n.to_string());
    }
    let sent = [("Idempotency-Key", "order 17"), ("Content-Type", "text/plain")];
    let push = |body: &str| hydra.send("POST", &format!("{SWAMP}?ttl=1h"), &sent, body);
    let (first, again) = (push("a"), push("a"));
    assert_eq!(first.header("location"), Some("/v1/kv/users/profiles/alice/order%2017"));
    assert_eq!(
        (again.status, again.body.clone(), again.header("hydra-replayed")),
        (201, first.body.clone(), Some("true"))
    );
    assert_eq!(push("b").code(), "idempotency-reuse");
    assert_eq!(hydra.get(&format!("{SWAMP}/order%2017?raw")).text(), "a");
    hydra.put(KEY, "1");
    let taken = hydra.send("POST", SWAMP, &[("Idempotency-Key", "me")], "2");
    assert_eq!((taken.status, hydra.get(KEY).text().as_str()), (412, "1"));
    assert_eq!(hydra.send("POST", SWAMP, &[("Idempotency-Key", "..")], "2").code(), "invalid-key");
    assert_eq!(hydra.send("POST", SWAMP, &[("If-None-Match", "*")], "2").code(), "invalid-header");
}

#[test]
fn a_client_gets_as_much_of_an_answer_as_it_prefers() {
    let hydra = Hydra::start();
    let prefer = |method: &str, what: &str, body: &str| hydra.send(method, KEY, &[("Prefer", what)], body);
    let whole = prefer("PUT", "return=representation", r#"{"a": 1.0}"#);
    assert_eq!((whole.status, whole.text().as_str()), (201, r#"{"a": 1.0}"#));
    assert_eq!(whole.header("preference-applied"), Some("return=representation"));
    assert_eq!((whole.etag(), whole.header("hydra-durable")), (hydra.get(KEY).etag(), Some("buffered")));
    let patched = prefer("PATCH", "respond-async, return=representation", r#"{"b":2}"#);
    assert_eq!((patched.status, patched.text().as_str()), (200, r#"{"a":1.0,"b":2}"#));
    let minimal = prefer("PATCH", "return=minimal", r#"{"b":3}"#);
    assert_eq!((minimal.status, minimal.body.len(), minimal.etag()), (204, 0, hydra.get(KEY).etag()));
}

#[test]
fn a_repeated_patch_or_bounded_increment_counts_once() {
    let hydra = Hydra::start();
    hydra.put(KEY, r#"{"n":1}"#);
    let ask =
        |method: &str, path: &str, key: &str, body: &str| hydra.send(method, path, &[("Idempotency-Key", key)], body);
    let incr = format!("{KEY}?incr=1&path=/n&max=2");
    let (first, again) = (ask("POST", &incr, "i", ""), ask("POST", &incr, "i", ""));
    assert_eq!((again.status, &again.body, again.header("hydra-replayed")), (200, &first.body, Some("true")));
    let (first, again) = (ask("PATCH", KEY, "p", r#"{"n":7}"#), ask("PATCH", KEY, "p", r#"{"n":7}"#));
    assert_eq!((again.status, again.etag()), (first.status, first.etag()));
    assert_eq!(ask("PATCH", KEY, "p", r#"{"n":8}"#).code(), "idempotency-reuse");
    assert_eq!(hydra.get(KEY).text(), r#"{"n":7}"#);
}

#[test]
fn a_policy_can_demand_versions_and_bound_values() {
    let hydra = Hydra::start();
    hydra.put(KEY, r#"{"n":1}"#);
    hydra.put("/v1/policies/users/*/*", r#"{"requireVersion":true,"maxValueBytes":16}"#);
    assert_eq!((hydra.put(KEY, "1").status, patch(&hydra, "", MERGE, "{}").status), (428, 428));
    assert_eq!(hydra.post(&format!("{KEY}?incr=1&path=/n"), "").status, 200, "an increment depends on no version");
    let etag = hydra.get(KEY).etag();
    let long = hydra.send("PATCH", KEY, &[("If-Match", &etag)], r#"{"text":"0123456789"}"#);
    assert_eq!((long.status, long.code().as_str()), (413, "value-too-large"));
    assert!(long.json()["detail"].as_str().expect("why").contains("16 are allowed"), "{long:?}");
    assert_eq!(hydra.send("PATCH", KEY, &[("If-Match", &etag)], r#"{"n":9}"#).status, 200);
}

#[test]
fn a_refused_patch_says_which_patches_are_understood() {
    let hydra = Hydra::start();
    hydra.put("/v1/kv/a/b/c/k", "{}");
    let understood = Some("application/merge-patch+json, application/json-patch+json");
    let xml = hydra.send("PATCH", "/v1/kv/a/b/c/k", &[("Content-Type", "application/xml")], "<a/>");
    assert_eq!((xml.status, xml.header("accept-patch")), (415, understood));
    let options = hydra.send("OPTIONS", "/v1/kv/a/b/c/k", &[], "");
    assert_eq!((options.status, options.header("accept-patch")), (405, understood));
    assert_eq!(hydra.send("PATCH", "/v1/kv/a/b/c", &[], "{}").header("accept-patch"), None);
    let zipped = hydra.send("PUT", "/v1/kv/a/b/c/k", &[("Content-Encoding", "gzip")], "1");
    assert_eq!((zipped.status, zipped.header("accept-patch")), (415, None));
}
