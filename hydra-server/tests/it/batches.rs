//! Batches over raw HTTP: every kind of operation, on one swamp and across several.

use hydra_core::wire::{BatchResultBody, OpResultBody};
use serde_json::{Value, json};

use crate::support::{Answer, Hydra};

const ALICE: &str = "/v1/kv/users/profiles/alice";
const BATCH: &str = "/v1/swamps/users/profiles/alice/batch";
const ACROSS: &str = "/v1/batch";

fn results(answer: &Answer) -> Vec<OpResultBody> {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice::<BatchResultBody>(&answer.body).expect("results").results
}

fn statuses(answer: &Answer) -> Vec<u16> {
    results(answer).iter().map(|result| result.status).collect()
}

#[test]
fn every_kind_of_operation_has_its_place() {
    let hydra = Hydra::start();
    hydra.put(&format!("{ALICE}/kept?expires_at=4102444800000"), "1");
    let answer = hydra.post(
        BATCH,
        &json!({"ops": [
            {"op": "put", "key": "me", "value": {"age": 30}, "ifVersion": "0"},
            {"op": "merge", "key": "me", "value": {"nick": "Al"}},
            {"op": "patch", "key": "me", "value": [{"op": "test", "path": "/age", "value": 30}, {"op": "remove", "path": "/nick"}]},
            {"op": "increment", "key": "me", "by": 1, "path": "/age", "max": 31},
            {"op": "incr", "key": "me", "by": 1, "path": "/age", "max": 31},
            {"op": "merge", "key": "none", "value": {}},
            {"op": "merge", "key": "made", "value": {"a": 1}, "create": true},
            {"op": "patch", "key": "me", "value": [{"op": "remove", "path": "/none"}]},
            {"op": "put", "key": "kept", "value": 2, "keepTtl": true},
            {"op": "incr", "key": "share", "by": 0.5},
            {"op": "get", "key": "me"},
            {"op": "incr", "key": "me", "by": 1, "ttl": "1s"},
            {"op": "get", "key": "me", "swamp": "a/b/c"},
        ]})
        .to_string(),
    );
    assert_eq!(statuses(&answer), [201, 200, 200, 200, 422, 404, 201, 422, 200, 200, 200, 400, 400]);
    let told = results(&answer);
    let codes: Vec<_> = told.iter().filter_map(|result| result.code.as_deref()).collect();
    assert_eq!(codes, ["out-of-bounds", "treasure-not-found", "patch-failed", "invalid-body", "invalid-body"]);
    assert_eq!(told[10].treasure.as_ref().and_then(|t| t.value.as_ref()).map(|v| v.get()), Some(r#"{"age":31}"#));
    assert_eq!(told[9].value.as_ref().map(|value| value.get()), Some("0.5"));
    assert!(hydra.get(&format!("{ALICE}/kept")).header("hydra-expires-at").is_some());
    let atomic = json!({"atomic": true, "ops": [
        {"op": "merge", "key": "me", "value": {"age": 99}},
        {"op": "incr", "key": "me", "by": 1, "path": "/age", "max": 31},
    ]});
    let aborted = hydra.post(BATCH, &atomic.to_string());
    assert_eq!((aborted.status, aborted.code().as_str()), (409, "batch-aborted"));
    assert!(aborted.json()["detail"].as_str().expect("why").contains("operation 1"), "{aborted:?}");
    assert_eq!(hydra.get(&format!("{ALICE}/me")).text(), r#"{"age":31}"#);
}

fn across() -> Value {
    json!({"ops": [
        {"op": "put", "swamp": "users/profiles/alice", "key": "name", "value": "Alice"},
        {"op": "incr", "swamp": "site/hits/home", "key": "n", "by": 2},
        {"op": "get", "swamp": "users/profiles/alice", "key": "name"},
        {"op": "put", "swamp": "users/profiles", "key": "name", "value": 1},
        {"op": "put", "key": "name", "value": 1},
        {"op": "jump", "swamp": "users/profiles/bob", "key": "name"},
        {"op": "incr", "swamp": "site/hits/home", "key": "n", "by": 3},
    ]})
}

#[test]
fn operations_on_several_swamps_are_answered_one_by_one_in_order() {
    let hydra = Hydra::start();
    let answer = hydra.post(ACROSS, &across().to_string());
    assert_eq!(statuses(&answer), [201, 200, 200, 400, 400, 400, 200]);
    let told = results(&answer);
    assert_eq!(told[6].value.as_ref().map(|value| value.get()), Some("5"));
    assert_eq!(told[1].swamp.as_deref(), Some("site/hits/home"));
    assert_eq!((told[3].code.as_deref(), told[4].code.as_deref()), (Some("invalid-name"), Some("invalid-body")));
    assert_eq!((answer.json()["ok"].clone(), answer.json()["failed"].clone()), (json!(4), json!(3)));
    assert_eq!((answer.header("hydra-durable"), answer.header("hydra-folder")), (Some("buffered"), None));
    assert_eq!(hydra.get(&format!("{ALICE}/name")).text(), "\"Alice\"");
    let atomic = hydra.post(ACROSS, r#"{"atomic":true,"ops":[]}"#);
    assert_eq!((atomic.status, atomic.code().as_str()), (400, "invalid-body"));
    let synced = hydra.post(&format!("{ACROSS}?sync"), &across().to_string());
    assert_eq!(synced.header("hydra-durable"), Some("synced"));
    let read = hydra.post(ACROSS, r#"{"ops":[{"op":"get","swamp":"a/b/none","key":"k"}]}"#);
    assert_eq!((statuses(&read), read.header("hydra-durable")), (vec![404], None));
    assert_eq!(hydra.get("/v1/swamps/a/b/none").status, 404, "reading creates nothing");
}

#[test]
fn a_repeated_batch_counts_once_in_each_swamp() {
    let hydra = Hydra::start();
    let key = [("Idempotency-Key", "once")];
    let first = hydra.send("POST", ACROSS, &key, across().to_string());
    let again = hydra.send("POST", ACROSS, &key, across().to_string());
    assert_eq!((first.header("hydra-replayed"), again.header("hydra-replayed")), (None, Some("true")));
    assert_eq!(again.body, first.body);
    assert_eq!(hydra.get("/v1/kv/site/hits/home/n").text(), "5");
    // One part of it, and something new beside it.
    let ops = json!({"ops": [
        {"op": "put", "swamp": "new/one/x", "key": "k", "value": 1},
        {"op": "incr", "swamp": "site/hits/home", "key": "n", "by": 2},
        {"op": "incr", "swamp": "site/hits/home", "key": "n", "by": 3},
        {"op": "put", "swamp": "users/profiles/alice", "key": "name", "value": "Bob"},
    ]});
    let partly = hydra.send("POST", ACROSS, &key, ops.to_string());
    assert_eq!(statuses(&partly), [201, 200, 200, 422]);
    assert_eq!(partly.header("hydra-replayed"), None, "not all of it was done before");
    assert_eq!(results(&partly)[3].code.as_deref(), Some("idempotency-reuse"));
    assert_eq!(hydra.get("/v1/kv/site/hits/home/n").text(), "5");
}

#[test]
fn operations_on_folders_that_are_elsewhere_are_421_alone() {
    // users/profiles/alice is in folder 62 of 100.
    let hydra = Hydra::start_with(
        |options| {
            options.owned = Some("0-61".parse().expect("folders"));
            options.standby = "62".parse().expect("folders");
        },
        hydra_server::Config::default(),
    );
    let names: Vec<(String, u64)> = (0..200)
        .map(|n| format!("a/b/{n}"))
        .map(|name| (name.clone(), hydra.get(&format!("/v1/resolve/{name}")).json()["folder"].as_u64().expect("one")))
        .collect();
    let here = &names.iter().find(|(_, folder)| *folder < 62).expect("one here").0;
    let elsewhere = &names.iter().find(|(_, folder)| *folder > 62).expect("one elsewhere").0;
    let ops = json!({"ops": [
        {"op": "put", "swamp": elsewhere, "key": "k", "value": 1},
        {"op": "put", "swamp": here, "key": "k", "value": 1},
        {"op": "put", "swamp": "users/profiles/alice", "key": "k", "value": 1},
        {"op": "get", "swamp": elsewhere, "key": "k"},
    ]});
    let answer = hydra.post(ACROSS, &ops.to_string());
    assert_eq!(statuses(&answer), [421, 201, 421, 421]);
    let told = results(&answer);
    assert_eq!((told[0].code.as_deref(), told[0].applied.as_deref()), (Some("not-owner"), Some("no")));
    let fallback = hydra.send("POST", ACROSS, &[("Hydra-Fallback-For", "s9")], ops.to_string());
    assert_eq!(statuses(&fallback), [421, 200, 201, 421]);
    let alone = json!({"ops": [{"op": "get", "swamp": "users/profiles/alice", "key": "k"}]});
    let answer = hydra.post(ACROSS, &alone.to_string());
    assert_eq!((answer.header("hydra-folder"), answer.header("hydra-served-by")), (Some("62"), Some("fallback")));
}

#[test]
fn batches_state_their_limits() {
    let hydra = Hydra::start();
    let op = r#"{"op":"get","swamp":"a/b/c","key":"k"}"#;
    let many = format!(r#"{{"ops":[{}]}}"#, vec![op; 10_001].join(","));
    let answer = hydra.post(ACROSS, &many);
    assert_eq!((answer.status, answer.code().as_str()), (413, "batch-too-large"));
    assert!(answer.json()["detail"].as_str().expect("why").contains("10000 are allowed"), "{answer:?}");
    let head =
        format!("POST {ACROSS} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", (64 << 20) + 1);
    let refused = Answer::parse(&hydra.raw(head.as_bytes()).expect("an answer")).expect("an answer");
    assert_eq!((refused.status, refused.code().as_str()), (413, "body-too-large"));
    assert!(refused.json()["detail"].as_str().expect("why").contains("67108864"), "{refused:?}");
}
