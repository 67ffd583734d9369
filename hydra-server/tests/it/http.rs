//! The contract of every path: statuses, headers, bodies, conditions.

use hydra_core::wire::{BatchResultBody, FoldersBody, ListBody, PoliciesBody, ProbeBody, ResolveBody, SwampInfoBody};
use serde_json::{Value, json};

use crate::support::{Hydra, block_on};

const KEY: &str = "/v1/kv/users/profiles/alice/name";
const SWAMP: &str = "/v1/kv/users/profiles/alice";

#[test]
fn a_value_comes_back_byte_for_byte() {
    let hydra = Hydra::start();
    for value in
        ["null", "true", "\"\\u0041\"", "1.0", "-0", "1e5", "123456789012345678901234567890", "{\"b\":1, \"a\":[ ]}"]
    {
        hydra.put(KEY, value);
        let answer = hydra.get(KEY);
        assert_eq!((answer.status, answer.text().as_str()), (200, value));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[test]
fn a_put_is_201_when_the_key_is_new_and_200_when_it_is_not() {
    let hydra = Hydra::start();
    let first = hydra.put(KEY, "1");
    assert_eq!((first.status, first.header("hydra-durable")), (201, Some("buffered")));
    assert_eq!(first.json()["created"], true);
    assert_eq!(first.etag(), format!("\"{}\"", first.json()["version"].as_str().expect("a version")));
    let second = hydra.put(KEY, "2");
    assert_eq!((second.status, second.json()["created"].clone()), (200, json!(false)));
    assert_ne!(first.etag(), second.etag());
    assert_eq!(hydra.get(KEY).etag(), second.etag());
    let minimal = hydra.send("PUT", KEY, &[("Prefer", "return=minimal")], "3");
    assert_eq!((minimal.status, minimal.body.len()), (204, 0));
    assert_eq!(hydra.get(KEY).etag(), minimal.etag());
}

#[test]
fn every_answer_says_who_answered_for_which_folder() {
    let hydra = Hydra::start();
    let answer = hydra.send("PUT", KEY, &[("X-Request-Id", "mine-1")], "1");
    assert_eq!(answer.header("hydra-server"), Some("s1"));
    assert_eq!(answer.header("hydra-folder"), Some("62"));
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let odd = hydra.send("GET", KEY, &[("X-Request-Id", "two words")], "");
    assert_ne!(odd.header("x-request-id"), Some("two words"));
    let missing = hydra.get("/v1/kv/users/profiles/alice/none");
    assert_eq!((missing.status, missing.header("hydra-folder")), (404, Some("62")));
    assert_eq!((missing.json()["folder"].clone(), missing.json()["server"].clone()), (json!(62), json!("s1")));
    assert_eq!(missing.header("cache-control"), Some("no-store"));
}

#[test]
fn metadata_is_in_the_headers_and_in_the_envelope() {
    let hydra = Hydra::start();
    hydra.put(&format!("{KEY}?expires_at=4102444800000"), "{\"a\":1}");
    let answer = hydra.get(KEY);
    let expires = "2100-01-01T00:00:00.000Z";
    assert_eq!(answer.header("hydra-expires-at"), Some(expires));
    let envelope = hydra.get(&format!("{KEY}?envelope"));
    assert_eq!(envelope.header("content-type"), Some("application/vnd.hydra.treasure+json"));
    let body = envelope.json();
    assert_eq!((&body["key"], &body["value"], &body["expiresAt"]), (&json!("name"), &json!({"a":1}), &json!(expires)));
    assert_eq!(body["createdAt"].as_str(), answer.header("hydra-created-at"));
    assert_eq!(body["updatedAt"].as_str(), answer.header("hydra-updated-at"));
    assert_eq!(format!("\"{}\"", body["version"].as_str().expect("a version")), answer.etag());
    let accepted = hydra.send("GET", KEY, &[("Accept", "application/vnd.hydra.treasure+json")], "");
    assert_eq!(accepted.json(), body);
    // A put without a time to live clears it.
    hydra.put(KEY, "1");
    assert_eq!(hydra.get(KEY).header("hydra-expires-at"), None);
}

#[test]
fn last_modified_is_never_after_date() {
    let hydra = Hydra::start();
    for number in 0..50 {
        hydra.put(KEY, &number.to_string());
        let answer = hydra.get(KEY);
        let time = |name| httpdate::parse_http_date(answer.header(name).expect(name)).expect("a date");
        assert!(time("last-modified") <= time("date"));
    }
}

#[test]
fn head_says_what_get_would_without_the_body() {
    let hydra = Hydra::start();
    hydra.put(KEY, "\"Alice\"");
    let (get, head) = (hydra.get(KEY), hydra.send("HEAD", KEY, &[], ""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["etag", "content-length", "content-type", "hydra-updated-at"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    assert_eq!(hydra.send("HEAD", "/v1/kv/a/b/c/none", &[], "").status, 404);
}

#[test]
fn text_is_kept_as_a_json_string_and_comes_back_raw() {
    let hydra = Hydra::start();
    let text = "say \"hi\"\n\u{1f600}\u{0}";
    assert_eq!(hydra.send("PUT", KEY, &[("Content-Type", "text/plain")], text).status, 201);
    assert_eq!(hydra.get(KEY).json(), json!(text));
    for answer in [hydra.get(&format!("{KEY}?raw")), hydra.send("GET", KEY, &[("Accept", "text/plain")], "")] {
        assert_eq!((answer.text().as_str(), answer.header("content-type")), (text, Some("text/plain; charset=utf-8")));
    }
    hydra.put(KEY, "[1]");
    assert_eq!(hydra.get(&format!("{KEY}?raw")).text(), "[1]");
    let invalid = hydra.send("PUT", KEY, &[("Content-Type", "text/plain")], b"\xff\xfe");
    assert_eq!((invalid.status, invalid.code().as_str()), (400, "invalid-body"));
    assert_eq!(hydra.get(KEY).text(), "[1]");
}

#[test]
fn other_types_come_back_byte_for_byte_with_their_type() {
    let hydra = Hydra::start();
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(hydra.send("PUT", KEY, &[("Content-Type", "image/png")], &bytes).status, 201);
    let answer = hydra.get(KEY);
    assert_eq!((answer.body.clone(), answer.header("content-type")), (bytes, Some("image/png")));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let listed = &hydra.get(SWAMP).json()["treasures"][0]["value"];
    assert_eq!(listed["contentType"], "image/png");
    assert!(listed["$binary"].as_str().expect("base64").starts_with("AAECAwQF"));
    assert_eq!(hydra.send("PUT", KEY, &[("Content-Type", "application/octet-stream")], "").status, 200);
    assert_eq!(hydra.get(KEY).body.len(), 0);
}

#[test]
fn json_that_some_reader_would_refuse_is_refused_at_the_door() {
    let hydra = Hydra::start();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for value in ["", " ", "nul", "{\"a\":1,\"a\":2}", "\"\\ud800\"", "1e999", "[1,]", "1 2", "hello", deep.as_str()] {
        let answer = hydra.put(KEY, value);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-json"), "{value}");
    }
    let latin = hydra.send("PUT", KEY, &[("Content-Type", "text/plain; charset=latin1")], "x");
    assert_eq!((latin.status, latin.code().as_str()), (415, "unsupported-media-type"));
    let zipped = hydra.send("PUT", KEY, &[("Content-Encoding", "gzip")], "1");
    assert_eq!((zipped.status, zipped.code().as_str()), (415, "unsupported-media-type"));
    assert_eq!(hydra.get(KEY).status, 404);
    assert!(hydra.put(KEY, "hello").json()["hint"].as_str().expect("a hint").contains("text/plain"));
}

#[test]
fn curl_needs_no_content_type() {
    let hydra = Hydra::start();
    let answer = hydra.send("PUT", KEY, &[("Content-Type", "application/x-www-form-urlencoded")], "{\"a\":1}");
    assert_eq!((answer.status, hydra.get(KEY).json()), (201, json!({"a":1})));
}

#[test]
fn an_unchanged_value_is_304() {
    let hydra = Hydra::start();
    let etag = hydra.put(KEY, "1").etag();
    let unchanged = hydra.send("GET", KEY, &[("If-None-Match", &etag)], "");
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.etag()), (304, 0, etag.clone()));
    assert_eq!(hydra.send("GET", KEY, &[("If-None-Match", &format!("\"x\", {etag}"))], "").status, 304);
    assert_eq!(hydra.send("GET", KEY, &[("If-None-Match", "*")], "").status, 304);
    hydra.put(KEY, "2");
    assert_eq!(hydra.send("GET", KEY, &[("If-None-Match", &etag)], "").status, 200);
    let stale = hydra.send("GET", KEY, &[("If-Match", &etag)], "");
    assert_eq!((stale.status, stale.code().as_str()), (412, "version-mismatch"));
}

#[test]
fn create_only_writes_once() {
    let hydra = Hydra::start();
    assert_eq!(hydra.send("PUT", KEY, &[("If-None-Match", "*")], "1").status, 201);
    let again = hydra.send("PUT", KEY, &[("If-None-Match", "*")], "2");
    assert_eq!((again.status, again.code().as_str()), (412, "already-exists"));
    assert_eq!(again.json()["currentVersion"].as_str().map(|v| format!("\"{v}\"")), Some(hydra.get(KEY).etag()));
    assert_eq!(hydra.get(KEY).text(), "1");
}

#[test]
fn compare_and_set_writes_only_over_the_version_it_names() {
    let hydra = Hydra::start();
    let absent = hydra.send("PUT", KEY, &[("If-Match", "*")], "1");
    assert_eq!(absent.status, 412);
    let first = hydra.put(KEY, "1").etag();
    let bare = first.trim_matches('"').to_owned();
    let second = hydra.send("PUT", KEY, &[("If-Match", &bare)], "2").etag();
    for stale in [first.clone(), format!("W/{second}"), "\"unknown\"".to_owned(), "nonsense".to_owned()] {
        let answer = hydra.send("PUT", KEY, &[("If-Match", &stale)], "3");
        assert_eq!((answer.status, answer.code().as_str()), (412, "version-mismatch"), "{stale}");
        assert_eq!(answer.header("hydra-applied"), Some("no"));
    }
    let list = format!("{first}, {second}");
    assert_eq!(hydra.send("PUT", KEY, &[("If-Match", &list)], "4").status, 200);
    assert_eq!(hydra.send("DELETE", KEY, &[("If-Match", &second)], "").status, 412);
    assert_eq!(hydra.send("PUT", KEY, &[("If-Match", "*")], "5").status, 200);
    for odd in [[("If-None-Match", second.as_str())], [("If-Unmodified-Since", "Sun, 22 Nov 2026 10:00:00 GMT")]] {
        let answer = hydra.send("PUT", KEY, &odd, "6");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-header"));
    }
    let current = hydra.get(KEY).etag();
    assert_eq!(hydra.send("DELETE", KEY, &[("If-Match", &current)], "").status, 204);
}

#[test]
fn delete_is_204_once_and_404_after() {
    let hydra = Hydra::start();
    hydra.put(KEY, "1");
    let gone = hydra.delete(KEY);
    assert_eq!((gone.status, gone.header("hydra-durable")), (204, Some("buffered")));
    let again = hydra.delete(KEY);
    assert_eq!(
        (again.status, again.code().as_str(), again.header("hydra-applied")),
        (404, "treasure-not-found", Some("no"))
    );
    assert_eq!(hydra.get(KEY).status, 404);
}

#[test]
fn a_treasure_past_its_time_is_gone_from_get_list_and_count() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put(&format!("{KEY}?ttl=50ms"), "1").status, 201);
    assert_eq!(hydra.put(&format!("{SWAMP}/other?ttl=1h"), "1").status, 201);
    std::thread::sleep(std::time::Duration::from_millis(80));
    assert_eq!(hydra.get(KEY).status, 404);
    assert_eq!(hydra.get(SWAMP).json()["treasures"].as_array().map(Vec::len), Some(1));
    assert_eq!(hydra.send("HEAD", SWAMP, &[], "").header("hydra-count"), Some("1"));
    assert_eq!(hydra.send("PUT", KEY, &[("If-None-Match", "*")], "2").status, 201);
    for bad in ["ttl=0", "ttl=-1", "ttl=soon", "expires_at=tomorrow", "ttl=1s&expires_at=1", "ttl=1s&ttl=2s"] {
        let answer = hydra.put(&format!("{KEY}?{bad}"), "1");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-parameter"), "{bad}");
    }
}

#[test]
fn sync_says_that_it_is_on_disk() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put(&format!("{KEY}?sync=false"), "1").header("hydra-durable"), Some("buffered"));
    assert_eq!(hydra.put(&format!("{KEY}?sync"), "1").header("hydra-durable"), Some("synced"));
    assert_eq!(hydra.post(&format!("{KEY}?incr=1&sync=true"), "").header("hydra-durable"), Some("synced"));
    assert_eq!(hydra.delete(&format!("{KEY}?sync=true")).header("hydra-durable"), Some("synced"));
    assert_eq!(hydra.put(&format!("{KEY}?sync=maybe"), "1").status, 400);
}

#[test]
fn increments_add_up_and_stop_at_the_ends_of_the_number() {
    let hydra = Hydra::start();
    let first = hydra.post(&format!("{KEY}?incr=5"), "");
    assert_eq!((first.status, first.json()["value"].clone()), (200, json!(5)));
    assert_eq!(hydra.get(KEY).etag(), first.etag());
    assert_eq!(hydra.post(&format!("{KEY}?incr=-7"), "").json()["value"], -2);
    assert_eq!(hydra.get(KEY).text(), "-2");
    hydra.put(KEY, &i64::MAX.to_string());
    let beyond = hydra.post(&format!("{KEY}?incr=1"), "");
    assert_eq!((beyond.status, beyond.code().as_str()), (422, "out-of-bounds"));
    assert_eq!(hydra.get(KEY).text(), i64::MAX.to_string());
    for value in ["\"5\"", "1.5", "null", "{}"] {
        hydra.put(KEY, value);
        let answer = hydra.post(&format!("{KEY}?incr=1"), "");
        assert_eq!((answer.status, answer.code().as_str()), (422, "not-a-number"), "{value}");
        assert_eq!(hydra.get(KEY).text(), value);
    }
    for bad in ["", "?incr=", "?incr=1.", "?incr=one", "?incr=9223372036854775808", "?incr=1&incr=2"] {
        assert_eq!(hydra.post(&format!("{KEY}{bad}"), "").status, 400, "{bad}");
    }
    assert_eq!(hydra.post(&format!("{KEY}?incr=1"), "5").code(), "invalid-body");
    assert_eq!(hydra.send("POST", &format!("{KEY}?incr=1"), &[("If-Match", "*")], "").code(), "invalid-header");
}

#[test]
fn a_repeated_idempotency_key_counts_once() {
    let hydra = Hydra::start();
    let key = [("Idempotency-Key", "0192f0c1-2a3b-7c4d-8e5f-001122334455")];
    let first = hydra.send("POST", &format!("{KEY}?incr=5"), &key, "");
    let again = hydra.send("POST", &format!("{KEY}?incr=5"), &key, "");
    assert_eq!((again.status, again.body.clone(), again.etag()), (200, first.body.clone(), first.etag()));
    assert_eq!((first.header("hydra-replayed"), again.header("hydra-replayed")), (None, Some("true")));
    assert_eq!(hydra.get(KEY).text(), "5");
    let other = hydra.send("POST", &format!("{KEY}?incr=6"), &key, "");
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency-reuse"));
    assert_eq!(hydra.get(KEY).text(), "5");
}

#[test]
fn a_replayed_write_answers_what_it_answered_first() {
    let hydra = Hydra::start();
    let key = [("Idempotency-Key", "put-1")];
    let first = hydra.send("PUT", KEY, &key, "1");
    let between = hydra.put(KEY, "2");
    let again = hydra.send("PUT", KEY, &key, "1");
    assert_eq!((first.status, again.status, again.etag()), (201, 201, first.etag()));
    assert_eq!((hydra.get(KEY).etag(), hydra.get(KEY).text().as_str()), (between.etag(), "2"));
    let key = [("Idempotency-Key", "delete-1")];
    assert_eq!(hydra.send("DELETE", KEY, &key, "").status, 204);
    hydra.put(KEY, "3");
    let again = hydra.send("DELETE", KEY, &key, "");
    assert_eq!((again.status, again.header("hydra-replayed")), (204, Some("true")));
    assert_eq!(hydra.get(KEY).text(), "3");
    for bad in ["", &"x".repeat(256), "\u{e4}"] {
        let answer = hydra.send("PUT", KEY, &[("Idempotency-Key", bad)], "4");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-header"), "{bad}");
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    assert_eq!(hydra.send("PUT", KEY, &twice, "4").code(), "invalid-header");
    assert_eq!(hydra.send("PUT", KEY, &[("Idempotency-Key", &"x".repeat(255))], "4").status, 200);
}

fn fill(hydra: &Hydra, count: usize) {
    let ops: Vec<Value> = (0..count).map(|n| json!({"op":"put","key":format!("k{n:03}"),"value":n})).collect();
    let answer = hydra.post("/v1/swamps/users/profiles/alice/batch", &json!({"ops": ops}).to_string());
    assert_eq!((answer.status, answer.json()["ok"].clone()), (200, json!(count)));
}

fn keys(page: &ListBody) -> Vec<&str> {
    page.treasures.iter().map(|treasure| treasure.key.as_str()).collect()
}

#[test]
fn a_list_is_in_the_order_of_keys_and_pages_by_cursor() {
    let hydra = Hydra::start();
    fill(&hydra, 25);
    for (dir, first) in [("asc", "k000"), ("desc", "k024")] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let answer = hydra.get(&format!("{SWAMP}?dir={dir}&limit=10{cursor}"));
            let page: ListBody = serde_json::from_slice(&answer.body).expect("a page");
            seen.extend(keys(&page).into_iter().map(str::to_owned));
            // What is written behind the cursor does not move the pages.
            hydra.put(&format!("{SWAMP}/{}", if dir == "asc" { "a" } else { "z" }), "0");
            hydra.delete(&format!("{SWAMP}/{}", if dir == "asc" { "a" } else { "z" }));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let mut expected: Vec<String> = (0..25).map(|n| format!("k{n:03}")).collect();
        if dir == "desc" {
            expected.reverse();
        }
        assert_eq!((seen[0].as_str(), &seen), (first, &expected));
    }
}

#[test]
fn a_list_can_be_narrowed() {
    let hydra = Hydra::start();
    fill(&hydra, 25);
    let page: ListBody =
        serde_json::from_slice(&hydra.get(&format!("{SWAMP}?prefix=k01&limit=3")).body).expect("a page");
    assert_eq!(keys(&page), ["k010", "k011", "k012"]);
    assert!(page.exists && page.next_cursor.is_some());
    let exact: ListBody = serde_json::from_slice(&hydra.get(&format!("{SWAMP}?limit=25")).body).expect("a page");
    assert_eq!((exact.treasures.len(), exact.next_cursor), (25, None));
    let members = |include: &str| -> Vec<String> {
        let answer = hydra.get(&format!("{SWAMP}?limit=1&include={include}")).json();
        answer["treasures"][0].as_object().expect("an object").keys().cloned().collect()
    };
    assert_eq!(members("keys"), ["key"]);
    assert_eq!(members("values"), ["key", "value"]);
    assert_eq!(members("meta"), ["createdAt", "expiresAt", "key", "updatedAt", "version"]);
    assert_eq!(members("full").len(), 6);
}

#[test]
fn a_list_refuses_what_it_does_not_understand() {
    let hydra = Hydra::start();
    fill(&hydra, 3);
    for bad in ["limit=0", "limit=10001", "limit=ten", "order=size", "dir=up", "include=all", "prefix=a&prefix=b"] {
        let answer = hydra.get(&format!("{SWAMP}?{bad}"));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-parameter"), "{bad}");
    }
    assert_eq!(hydra.get(&format!("{SWAMP}?limit=10000")).status, 200);
    let cursor = hydra.get(&format!("{SWAMP}?limit=1")).json()["nextCursor"].as_str().expect("a cursor").to_owned();
    for path in [
        format!("{SWAMP}?cursor=abc"),
        format!("/v1/kv/a/b/c?cursor={cursor}"),
        format!("{SWAMP}?dir=desc&cursor={cursor}"),
    ] {
        let answer = hydra.get(&path);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-cursor"), "{path}");
    }
}

#[test]
fn an_absent_swamp_lists_as_empty_and_has_no_info() {
    let hydra = Hydra::start();
    let page = hydra.get("/v1/kv/no/such/swamp");
    assert_eq!((page.status, page.json()), (200, json!({"exists":false,"treasures":[],"nextCursor":null})));
    for (method, path) in [
        ("HEAD", "/v1/kv/no/such/swamp"),
        ("GET", "/v1/swamps/no/such/swamp"),
        ("HEAD", "/v1/swamps/no/such/swamp"),
        ("DELETE", "/v1/swamps/no/such/swamp"),
        ("POST", "/v1/swamps/no/such/swamp/flush"),
    ] {
        assert_eq!(hydra.send(method, path, &[], "").status, 404, "{method} {path}");
    }
    assert_eq!(hydra.get("/v1/swamps/no/such/swamp").code(), "swamp-not-found");
    assert_eq!(hydra.get("/v1/kv/no/such/swamp/key").code(), "treasure-not-found");
    assert_eq!(hydra.get("/v1/swamps/no/such/swamp/policy").json()["policyFrom"], Value::Null);
    assert_eq!(hydra.data_files(), Vec::<std::path::PathBuf>::new(), "a read creates nothing");
}

#[test]
fn a_swamp_tells_about_itself_and_can_be_destroyed() {
    let hydra = Hydra::start();
    fill(&hydra, 3);
    let path = "/v1/swamps/users/profiles/alice";
    let flushed = hydra.post(&format!("{path}/flush"), "");
    assert_eq!((flushed.status, flushed.header("hydra-durable")), (204, Some("synced")));
    let info: SwampInfoBody = serde_json::from_slice(&hydra.get(path).body).expect("info");
    assert_eq!((info.count, info.folder.get(), info.hash.as_str()), (3, 62, "7127deecab868c52"));
    assert_eq!((info.dirty, info.copy.as_str(), info.files), (false, "complete", 1));
    assert!(info.bytes > 0 && info.created_at.is_some());
    assert_eq!(hydra.send("HEAD", path, &[], "").status, 200);
    assert_eq!(hydra.delete(&format!("{path}/")).status, 404);
    assert_eq!(hydra.delete(path).status, 204);
    assert_eq!(hydra.get(path).status, 404);
    assert_eq!(hydra.get(SWAMP).json()["exists"], false);
}

#[test]
fn the_last_treasure_deleted_leaves_no_file_and_no_directory() {
    let hydra = Hydra::start();
    hydra.put(&format!("{KEY}?sync"), "1");
    assert!(!hydra.data_files().is_empty());
    assert_eq!(hydra.delete(&format!("{KEY}?sync")).status, 204);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let left = || {
        hydra
            .data_files()
            .into_iter()
            .filter(|path| path.components().count() > hydra.dir.path().components().count() + 1)
    };
    while left().count() > 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(left().collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_batch_runs_in_order_and_answers_each_operation() {
    let hydra = Hydra::start();
    let path = "/v1/swamps/users/profiles/alice/batch";
    let answer = hydra.post(
        path,
        r#"{"ops":[
        {"op":"put","key":"name","value":"Alice","ifVersion":"0"},
        {"op":"increment","key":"logins","by":2},
        {"op":"get","key":"name"},
        {"op":"get","key":"email"},
        {"op":"delete","key":"tmp"},
        {"op":"put","key":"name","value":1,"ifVersion":"0"},
        {"op":"put","key":"..","value":1},
        {"op":"put","key":"bin","value":{"$binary":"AP8=","contentType":"image/png"},"ttl":"1h"},
        {"op":"delete","key":"logins"}]}"#,
    );
    assert_eq!((answer.status, answer.header("hydra-durable")), (200, Some("buffered")));
    let body: BatchResultBody = serde_json::from_slice(&answer.body).expect("results");
    let statuses: Vec<u16> = body.results.iter().map(|result| result.status).collect();
    assert_eq!(statuses, [201, 200, 200, 404, 404, 412, 400, 201, 204]);
    assert_eq!((body.ok, body.failed), (5, 4));
    let read = body.results[2].treasure.as_ref().expect("a treasure");
    assert_eq!((read.key.as_str(), read.value.as_ref().map(|value| value.get())), ("name", Some("\"Alice\"")));
    assert_eq!(body.results[5].current_version, body.results[0].version);
    assert_eq!(body.results[6].code.as_deref(), Some("invalid-key"));
    assert_eq!(hydra.get(&format!("{SWAMP}/bin")).body, [0, 255]);
    assert_eq!(hydra.get(&format!("{SWAMP}/logins")).status, 404);
}

#[test]
fn an_atomic_batch_is_all_or_nothing() {
    let hydra = Hydra::start();
    let path = "/v1/swamps/users/profiles/alice/batch";
    hydra.put(KEY, "1");
    for bad in [r#"{"op":"put","key":"name","value":2,"ifVersion":"0"}"#, r#"{"op":"put","key":"","value":2}"#] {
        let answer =
            hydra.post(path, &format!(r#"{{"atomic":true,"ops":[{{"op":"put","key":"a","value":1}},{bad}]}}"#));
        assert_eq!((answer.status, answer.code().as_str()), (409, "batch-aborted"), "{bad}");
        assert_eq!(hydra.get(&format!("{SWAMP}/a")).status, 404);
    }
    for bad in ["", "{}", "[]", r#"{"ops":[{"op":"get"}]}"#, r#"{"ops":[{"op":"get","key":"a","x":1}]}"#] {
        let answer = hydra.post(path, bad);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-body"), "{bad}");
    }
    assert_eq!(hydra.post(path, r#"{"ops":[]}"#).json(), json!({"ok":0,"failed":0,"results":[]}));
    let key = [("Idempotency-Key", "batch-1")];
    let twice = || hydra.send("POST", path, &key, r#"{"ops":[{"op":"increment","key":"n","by":1}]}"#);
    assert_eq!(twice().body, twice().body);
    assert_eq!(hydra.get(&format!("{SWAMP}/n")).text(), "1");
}

#[test]
fn the_most_specific_policy_wins_and_is_reported() {
    let hydra = Hydra::start();
    let path = "/v1/policies/users/*/*";
    assert_eq!(hydra.get(path).code(), "policy-not-found");
    let made = hydra.put(path, r#"{"writeInterval":"2s"}"#);
    assert_eq!((made.status, made.header("hydra-durable")), (201, Some("synced")));
    assert_eq!(hydra.put(path, r#"{"writeInterval":0}"#).status, 200);
    assert_eq!(hydra.put("/v1/policies/*/*/*", "{}").status, 201);
    let all: PoliciesBody = serde_json::from_slice(&hydra.get("/v1/policies").body).expect("policies");
    let patterns: Vec<String> = all.policies.iter().map(|policy| policy.pattern.to_string()).collect();
    assert_eq!(patterns, ["users/*/*", "*/*/*"]);
    assert_eq!(hydra.put(KEY, "1").header("hydra-durable"), Some("synced"));
    let effective = hydra.get("/v1/swamps/users/profiles/alice/policy").json();
    assert_eq!((&effective["policyFrom"], &effective["policy"]["writeInterval"]), (&json!("users/*/*"), &json!("0s")));
    for (path, body) in [
        (path, r#"{"writeIntervall":"1s"}"#),
        (path, r#"{"chunkBytes":1}"#),
        (path, r#"{"maxValueBytes":25165825}"#),
        (path, ""),
    ] {
        let answer = hydra.put(path, body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-body"), "{body}");
    }
    for path in [
        "/v1/policies/a/b",
        "/v1/policies/a/**/c",
        "/v1/policies/a%2Fb/c/d",
        "/v1/policies/a/*b/c",
        "/v1/policies/%/b/c",
    ] {
        assert_eq!(hydra.put(path, "{}").code(), "invalid-pattern", "{path}");
    }
    assert_eq!((hydra.delete(path).status, hydra.delete(path).status), (204, 404));
}

#[test]
fn resolve_is_arithmetic_for_any_name() {
    let hydra = Hydra::start();
    let body: ResolveBody =
        serde_json::from_slice(&hydra.get("/v1/resolve/users/profiles/alice").body).expect("a place");
    assert_eq!((body.folder.get(), body.folders.get(), body.hash.as_str()), (62, 100, "7127deecab868c52"));
    assert_eq!(
        (body.path.as_str(), body.state.as_deref(), body.server.as_str()),
        ("00062/users/profiles/alice", Some("owned"), "s1")
    );
}

#[test]
fn folders_are_listed_with_sizes_on_demand() {
    let hydra = Hydra::start();
    hydra.put(&format!("{KEY}?sync"), "1");
    let all: FoldersBody = serde_json::from_slice(&hydra.get("/v1/folders").body).expect("folders");
    assert_eq!((all.folders.len(), all.folders[62].swamps), (100, None));
    let some: FoldersBody = serde_json::from_slice(&hydra.get("/v1/folders/61-62?sizes").body).expect("folders");
    assert_eq!((some.folders.len(), some.folders[0].swamps, some.folders[1].swamps), (2, Some(0), Some(1)));
    assert!(some.folders[1].files == Some(1) && some.folders[1].bytes > Some(0));
    for bad in ["100", "9-1", "x", "-1", "50-100", "%"] {
        assert_eq!(hydra.get(&format!("/v1/folders/{bad}")).code(), "invalid-parameter", "{bad}");
    }
    for path in ["/v1/flush", "/v1/folders/62/flush", "/v1/folders/0-99/flush"] {
        let answer = hydra.post(path, "");
        assert_eq!((answer.status, answer.header("hydra-durable")), (204, Some("synced")), "{path}");
    }
}

#[test]
fn the_service_paths_tell_who_is_there() {
    let hydra = Hydra::start();
    let welcome = hydra.get("/").json();
    assert_eq!(
        (&welcome["hydra"], &welcome["folders"], &welcome["server"]),
        (&json!("welcome"), &json!(100), &json!("s1"))
    );
    assert_eq!(hydra.get("/health").json(), json!({"status":"ok"}));
    assert_eq!(hydra.get("/ready").json(), json!({"ready":true,"reasons":[],"warnings":[]}));
    let limits = hydra.get("/version").json()["limits"].clone();
    assert_eq!((&limits["valueBytes"], &limits["valueBytesByDefault"]), (&json!(24 << 20), &json!(16 << 20)));
    let probe: ProbeBody = serde_json::from_slice(&hydra.get("/v1/probe").body).expect("a probe");
    assert_eq!((probe.server.as_str(), probe.owned.as_str(), probe.standby.as_str()), ("s1", "0-99", ""));
    assert_eq!((probe.pool.as_str(), probe.cluster.as_str(), probe.writable), ("default", "hydra", true));
    for code in hydra_core::ErrorCode::ALL {
        assert_eq!(hydra.get(&format!("/problems/{code}")).json()["status"], code.status());
    }
    assert_eq!(hydra.get("/problems/none").status, 404);
}

#[test]
fn metrics_count_requests_and_the_engine() {
    let hydra = Hydra::start();
    hydra.put(KEY, "1");
    hydra.get(KEY);
    hydra.get("/v1/kv/a/b/c/none");
    let answer = hydra.get("/metrics");
    let text = answer.text();
    assert!(answer.header("content-type").expect("a type").starts_with("application/openmetrics-text"));
    for line in [
        r#"hydra_http_requests_total{method="PUT",route="treasure",status="201"} 1"#,
        r#"hydra_http_requests_total{method="GET",route="treasure",status="404"} 1"#,
        r#"hydra_http_request_duration_seconds_count{route="treasure"} 3"#,
        r#"hydra_http_request_duration_seconds_bucket{le="+Inf",route="treasure"} 3"#,
        "hydra_writes_total 1",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_misspelt_parameter_is_an_error_with_a_suggestion() {
    let hydra = Hydra::start();
    for (path, hint) in [
        (format!("{KEY}?if_version=1"), "known are"),
        (format!("{KEY}?expiresAt=1"), "did you mean expires_at?"),
        (format!("{KEY}?tll=1"), "did you mean ttl?"),
    ] {
        let answer = hydra.put(&path, "1");
        assert_eq!((answer.status, answer.code().as_str()), (400, "unknown-parameter"), "{path}");
        assert!(answer.json()["hint"].as_str().expect("a hint").contains(hint), "{answer:?}");
    }
    assert_eq!(hydra.get(KEY).status, 404);
    assert_eq!(hydra.delete(&format!("{KEY}?ttl=1")).code(), "unknown-parameter");
    assert_eq!(hydra.get(&format!("{KEY}?ttl=1")).code(), "unknown-parameter");
}

#[test]
fn a_method_that_is_not_there_is_405_with_those_that_are() {
    let hydra = Hydra::start();
    for (method, path, allow) in [
        ("PUT", SWAMP, "GET, HEAD, QUERY, POST"),
        ("OPTIONS", KEY, "GET, HEAD, PUT, PATCH, DELETE, POST"),
        ("GET", "/v1/batch", "POST"),
        ("GET", "/v1/swamps/a/b/c/batch", "POST"),
        ("PUT", "/v1/policies", "GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ] {
        let answer = hydra.send(method, path, &[], "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(answer.code(), "method-not-allowed");
    }
    for path in ["/nothing", "/v1", "/v2/kv/a/b/c/k", "/health/", "/v1/swamps/a/b/c/nothing"] {
        assert_eq!((hydra.get(path).status, hydra.get(path).code().as_str()), (404, "not-found"), "{path}");
    }
}

#[test]
fn a_page_from_elsewhere_cannot_write() {
    let hydra = Hydra::start();
    for (method, path) in [("PUT", KEY), ("POST", "/v1/flush"), ("DELETE", "/v1/swamps/users/profiles/alice")] {
        let answer = hydra.send(method, path, &[("Origin", "https://evil.example")], "");
        assert_eq!((answer.status, answer.code().as_str()), (403, "origin-denied"));
    }
    hydra.put(KEY, "1");
    assert_eq!(hydra.send("GET", KEY, &[("Origin", "https://evil.example")], "").status, 200);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let hydra = Hydra::start();
    let put = |n: u32| format!("PUT {KEY} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{n}");
    let last = format!("GET {KEY} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let answers = hydra.raw(format!("{}{}{}{last}", put(1), put(2), put(3)).as_bytes()).expect("answers");
    let text = String::from_utf8(answers).expect("text");
    assert_eq!(text.matches("HTTP/1.1 20").count(), 4);
    assert!(text.ends_with("\r\n\r\n3"), "{text}");
}

#[test]
fn http_2_is_spoken_on_the_same_port() {
    let hydra = Hydra::start();
    let url = format!("{}{KEY}", hydra.server().url());
    block_on(async {
        // The client of the tests would speak TLS, too, and asks for the cryptography even where it does not.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        let put = client.put(&url).body("\"Alice\"").send().await.expect("an answer");
        assert_eq!((put.status().as_u16(), put.version()), (201, reqwest::Version::HTTP_2));
        let got = client.get(&url).send().await.expect("an answer").text().await.expect("text");
        assert_eq!(got, "\"Alice\"");
        let head = client.head(&url).send().await.expect("an answer");
        assert_eq!(head.headers()["content-length"], "7");
    });
}

#[test]
fn a_swamp_is_brought_into_memory_tidied_and_dropped_on_request() {
    let hydra = Hydra::start();
    let swamp = "/v1/swamps/a/b/c";
    let verb = |verb: &str| hydra.post(&format!("{swamp}/{verb}"), "");
    let listed = || hydra.get("/v1/swamps/a/b?include=info").json()["swamps"][0].clone();
    assert_eq!(verb("load").code(), "swamp-not-found");
    assert_eq!(verb("evict").json(), json!({"evicted": true}), "what is not there is not in memory");
    for n in 0..5 {
        assert_eq!(hydra.put(&format!("/v1/kv/a/b/c/k?sync&ttl={}h", n + 1), "1").status / 100, 2);
        assert_eq!(verb("evict").json(), json!({"evicted": true}));
        assert_eq!(listed()["loaded"], false);
    }
    assert_eq!(verb("load").status, 204);
    assert_eq!((&listed()["loaded"], &listed()["count"]), (&json!(true), &json!(1)));
    assert_eq!(verb("compact").json(), json!({"compacted": true}));
    assert_eq!(verb("compact").json(), json!({"compacted": false}));
    assert_eq!(verb("evict").json(), json!({"evicted": true}));
    assert_eq!(hydra.get("/v1/kv/a/b/c/k").text(), "1");
    // Buffered writes are on disk before it goes.
    hydra.put("/v1/kv/a/b/c/buffered", "2");
    assert_eq!(verb("evict").json(), json!({"evicted": true}));
    assert_eq!(hydra.get("/v1/kv/a/b/c/buffered").text(), "2");
    assert_eq!(hydra.get(&format!("{swamp}/evict")).header("allow"), Some("POST"));
}

#[test]
fn a_browser_is_shown_the_page_and_everybody_else_told_in_json() {
    let hydra = Hydra::start();
    let page = hydra.send("GET", "/", &[("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")], "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some());
    let told = hydra.send("GET", "/", &[("Accept", "*/*")], "");
    assert_eq!((told.header("content-type"), told.header("vary")), (Some("application/json"), Some("accept")));
    // What a cache keeps of a treasure depends on the form that was asked for, too.
    hydra.put("/v1/kv/a/b/c/k", "\"x\"");
    assert_eq!(hydra.get("/v1/kv/a/b/c/k").header("vary"), Some("accept"));
    let version = hydra.get("/v1/kv/a/b/c/k").etag();
    let unchanged = hydra.send("GET", "/v1/kv/a/b/c/k", &[("If-None-Match", &version)], "");
    assert_eq!((unchanged.status, unchanged.header("vary")), (304, Some("accept")));
}
