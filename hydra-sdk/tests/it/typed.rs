//! Typed calls on the wire: what is sent for each, and what is made of each answer.

use futures_util::stream::TryStreamExt;
use hydra_sdk::{Applied, Done, ErrorCode, ErrorKind, Hydra, Number, Policy, Swamp, Value, Version};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

use crate::fake::{Asked, Fake, Reply, VERSION, answer, fine, refusal};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
}

async fn client(behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Fake, Swamp<Profile>) {
    let fake = Fake::start(behaviour).await;
    let hydra = Hydra::connect(fake.url()).await.expect("a client");
    let swamp = hydra.swamp("users/profiles/alice smith").expect("a name");
    (fake, swamp)
}

fn alice() -> Profile {
    Profile { name: "Alice".into() }
}

#[tokio::test]
async fn puts_say_what_they_want() {
    let (fake, swamp) = client(fine("s1")).await;
    let version: Version = VERSION.parse().expect("a version");
    let written =
        swamp.put("a/b?c", &alice()).ttl(Duration::from_millis(1500)).sync().create_only().await.expect("stored");
    assert_eq!((written.version, written.created), (version, true));
    swamp
        .put("k", &alice())
        .if_version(&version)
        .expires_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000))
        .await
        .expect("stored");
    swamp.put("k", &alice()).update_only().await.expect("stored");
    let asked = fake.asked();
    assert_eq!(asked[0].target, "/v1/kv/users/profiles/alice%20smith/a%2Fb%3Fc?sync=true&ttl=1500ms");
    assert_eq!(
        (asked[0].header("if-none-match"), asked[0].header("content-type")),
        (Some("*"), Some("application/json"))
    );
    assert_eq!(asked[0].body, br#"{"name":"Alice"}"#);
    assert_eq!(asked[1].header("if-match"), Some(format!("\"{VERSION}\"").as_str()));
    assert!(asked[1].target.ends_with("?expires_at=2030-03-17T17%3A46%3A40.000Z"), "{}", asked[1].target);
    assert_eq!(asked[2].header("if-match"), Some("*"));
    assert_eq!(asked[0].header("hydra-folders"), None, "one server by its address: it counts for itself");
}

#[tokio::test]
async fn values_come_back_as_types() {
    let (_fake, swamp) = client(|_| answer(200, "s1", r#"{"name":"Alice"}"#)).await;
    assert_eq!(swamp.get("me").await.expect("read"), Some(alice()));
    let treasure = swamp.treasure("me").await.expect("read").expect("there");
    assert_eq!((treasure.version.to_string().as_str(), treasure.expires_at), (VERSION, None));
    let error = swamp.typed::<u8>().get("me").await.expect_err("another shape");
    assert!(error.kind() == ErrorKind::Decode && error.to_string().contains("\"me\""), "{error}");
}

#[tokio::test]
async fn values_of_any_kind_pass() {
    let (fake, swamp) = client(|asked| match asked.method.as_str() {
        "GET" => {
            let Reply::Answer(status, mut headers, _) = answer(200, "s1", "") else { return Reply::Close };
            headers.retain(|(name, _)| *name != "content-type");
            headers.push(("content-type", "image/png".to_owned()));
            Reply::Answer(status, headers, vec![0, 255, 7])
        }
        "POST" => answer(
            200,
            "s1",
            &format!(r#"{{"ok":1,"failed":0,"results":[{{"status":201,"key":"t","version":"{VERSION}"}}]}}"#),
        ),
        _ => fine("s1")(asked),
    })
    .await;
    let image = Value::binary("image/png", [0, 255, 7]).expect("binary");
    assert_eq!(swamp.get_value("i").await.expect("read"), Some(image.clone()));
    swamp.put_value("i", image).await.expect("stored");
    assert_eq!(
        (fake.asked()[1].header("content-type"), fake.asked()[1].body.as_slice()),
        (Some("image/png"), [0, 255, 7].as_slice())
    );
    // A plain body of these types would be read as text; inside a batch it stays what it is.
    swamp.put_value("t", Value::binary("text/plain", "hi").expect("binary")).await.expect("stored");
    let batch = String::from_utf8(fake.asked()[2].body.clone()).expect("text");
    assert!(batch.contains(r#"{"$binary":"aGk=","contentType":"text/plain"}"#), "{batch}");
}

#[tokio::test]
async fn increments_and_deletes() {
    let (fake, swamp) = client(fine("s1")).await;
    assert_eq!(swamp.increment("n", -3).await.expect("counted"), 7);
    assert!(swamp.delete("n").await.expect("removed"));
    assert!(fake.asked()[0].target.ends_with("/n?incr=-3"));
    assert_eq!(fake.asked()[1].method, "DELETE");
}

#[tokio::test]
async fn changes_are_sent_as_what_they_are() {
    let (fake, swamp) = client(|asked| match asked.method.as_str() {
        "PATCH" => answer(200, "s1", &format!(r#"{{"key":"k","version":"{VERSION}","created":false}}"#)),
        "POST" if !asked.target.contains("incr") => {
            answer(201, "s1", &format!(r#"{{"key":"k","version":"{VERSION}","created":true}}"#))
        }
        _ => fine("s1")(asked),
    })
    .await;
    swamp.merge("k", &serde_json::json!({"a": null})).create().await.expect("merged");
    let version: Version = VERSION.parse().expect("a version");
    swamp.patch("k", &serde_json::json!([])).if_version(&version).await.expect("patched");
    assert_eq!(swamp.increment("n", 0.5).path("/a b").min(-1.0).await.expect("added"), 7.0);
    swamp.put("k", &alice()).keep_ttl().await.expect("stored");
    let pushed = swamp.push(&alice()).ttl(Duration::from_secs(5)).await.expect("pushed");
    swamp.get_path::<String>("k", "/a/0").await.expect("read");
    let asked = fake.asked();
    let targets: Vec<_> = asked.iter().map(|asked| asked.target.rsplit("smith").next().unwrap_or_default()).collect();
    assert_eq!(
        targets,
        [
            "/k?create=true",
            "/k",
            "/n?incr=0.5&path=%2Fa%20b&min=-1.0",
            "/k?keep_ttl=true",
            "?ttl=5s",
            "/k?path=%2Fa%2F0"
        ]
    );
    assert_eq!(asked[0].header("content-type"), Some("application/merge-patch+json"));
    assert_eq!(asked[1].header("content-type"), Some("application/json-patch+json"));
    assert_eq!(asked[4].header("idempotency-key"), Some(pushed.key.as_str()));
}

#[tokio::test]
async fn a_batch_across_swamps_asks_each_server_once_and_fails_only_what_is_its_own() {
    let one = |id: &'static str| {
        move |asked: &Asked| {
            let body: serde_json::Value = serde_json::from_slice(&asked.body).expect("JSON");
            let results: Vec<_> = body["ops"].as_array().expect("ops").iter().map(|op| {
            serde_json::json!({"status": 201, "key": op["key"], "swamp": op["swamp"], "version": VERSION, "created": true})
        }).collect();
            answer(200, id, &serde_json::json!({"ok": 1, "failed": 0, "results": results}).to_string())
        }
    };
    let fakes = [Fake::start(one("s1")).await, Fake::start(one("s2")).await];
    let map = hydra_sdk::ClientMap::builder().folders(2).server("s1", fakes[0].url()).server("s2", fakes[1].url());
    let map = map.route("0", "s1", [""; 0]).route("1", "s2", [""; 0]).build().expect("a map");
    let hydra = Hydra::with_map(map).expect("a client");
    let swamps: Vec<Swamp<u32>> = (0..6).map(|n| hydra.swamp(format!("a/b/{n}")).expect("a name")).collect();
    let is_first = |swamp: &Swamp<u32>| hydra.locate(swamp.name()).primary.id == "s1";
    assert!(swamps.iter().any(is_first) && !swamps.iter().all(is_first), "both servers are asked");
    let batch = || swamps.iter().fold(hydra.batch(), |batch, swamp| batch.write(swamp.put("k", &1)));
    assert!(batch().await.expect("carried out").iter().all(Result::is_ok));
    assert_eq!((fakes[0].asked().len(), fakes[1].asked().len()), (1, 1));
    let [_s1, mut s2] = fakes;
    s2.stop().await;
    let done = batch().await.expect("carried out as far as it could be");
    for (swamp, done) in swamps.iter().zip(done) {
        match is_first(swamp) {
            true => assert!(done.is_ok()),
            false => assert_eq!(done.expect_err("nobody answers").kind(), ErrorKind::Network),
        }
    }
}

#[tokio::test]
async fn batches_answer_for_each_operation() {
    let results = format!(
        r#"{{"ok":4,"failed":1,"results":[
            {{"status":201,"key":"a","version":"{VERSION}","created":true}},
            {{"status":404,"key":"b","existed":false}},
            {{"status":200,"key":"c","value":12,"version":"{VERSION}"}},
            {{"status":200,"key":"d","treasure":{{"key":"d","value":{{"name":"Alice"}},"version":"{VERSION}","createdAt":"2026-01-31T12:00:00Z","updatedAt":"2026-01-31T12:00:00Z","expiresAt":null}}}},
            {{"status":412,"key":"e","code":"already-exists","detail":"it is there","applied":"no","currentVersion":"{VERSION}"}}]}}"#
    );
    let (fake, swamp) = client(move |_| answer(200, "s1", &results)).await;
    let batch = swamp.batch().put("a", &alice()).delete("b").increment("c", 5).get("d").create("e", &alice());
    let done = batch.await.expect("carried out");
    assert!(matches!(&done[0], Ok(Done::Put(written)) if written.created));
    assert!(matches!(done[1], Ok(Done::Deleted(false))));
    assert!(matches!(done[2], Ok(Done::Incremented(Number::Integer(12), _))));
    assert!(matches!(&done[3], Ok(Done::Got(Some(treasure))) if treasure.value == alice()));
    let error = done[4].as_ref().expect_err("it exists");
    assert_eq!(
        (error.kind(), error.code(), error.applied()),
        (ErrorKind::AlreadyExists, Some(ErrorCode::AlreadyExists), Applied::No)
    );
    assert!(error.current_version().is_some() && error.to_string().contains("\"e\""));
    let body: serde_json::Value = serde_json::from_slice(&fake.asked()[0].body).expect("JSON");
    let expected = serde_json::json!({"atomic": false, "ops": [
        {"op": "put", "key": "a", "value": {"name": "Alice"}}, {"op": "delete", "key": "b"},
        {"op": "increment", "key": "c", "by": 5}, {"op": "get", "key": "d"},
        {"op": "put", "key": "e", "value": {"name": "Alice"}, "ifVersion": "0"}]});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn lists_go_on_where_a_page_ends() {
    let (fake, swamp) = client(|asked| {
        let treasure = |key: &str| {
            format!(
                r#"{{"key":"{key}","value":{{"name":"Alice"}},"version":"{VERSION}","createdAt":"2026-01-31T12:00:00Z","updatedAt":"2026-01-31T12:00:00Z","expiresAt":null}}"#
            )
        };
        let (treasures, next) = match asked.target.contains("cursor=") {
            false => (format!("{},{}", treasure("a"), treasure("b")), "\"x/2\""),
            true => (treasure("c"), "null"),
        };
        answer(200, "s1", &format!(r#"{{"exists":true,"treasures":[{treasures}],"nextCursor":{next}}}"#))
    })
    .await;
    let page = swamp.list().prefix("ü").limit(2).descending().page().await.expect("a page");
    assert_eq!((page.treasures.len(), page.next.as_ref().map(ToString::to_string)), (2, Some("x/2".into())));
    assert_eq!(fake.asked()[0].target, "/v1/kv/users/profiles/alice%20smith?limit=2&prefix=%C3%BC&dir=desc");
    let all: Vec<String> = swamp.list().stream().map_ok(|treasure| treasure.key).try_collect().await.expect("all");
    assert_eq!(all, ["a", "b", "c"]);
    assert!(fake.asked()[2].target.ends_with("&cursor=x%2F2"), "{}", fake.asked()[2].target);
    assert_eq!(swamp.list().limit(0).page().await.expect_err("no page").kind(), ErrorKind::Invalid);
    assert_eq!(swamp.list().limit(10_001).page().await.expect_err("too large").kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_update_is_tried_again_when_somebody_was_faster() {
    let puts = std::sync::atomic::AtomicUsize::new(0);
    let (fake, swamp) = client(move |asked| match asked.method.as_str() {
        "GET" => answer(200, "s1", r#"{"name":"Alice"}"#),
        _ if puts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => refusal(412, "s1", "version-mismatch", ""),
        _ => fine("s1")(asked),
    })
    .await;
    let mut calls = 0;
    let written = swamp.update("k", |found| {
        calls += 1;
        found.map(|profile| Profile { name: profile.name + "!" })
    });
    assert!(written.await.expect("stored").is_some());
    assert_eq!((calls, fake.asked().len()), (2, 4));
    assert_eq!(swamp.update("k", |_| None).await.expect("left alone"), None);
}

#[tokio::test]
async fn names_and_keys_are_checked_before_anything_is_sent() {
    let (fake, swamp) = client(fine("s1")).await;
    let hydra = Hydra::connect(fake.url()).await.expect("a client");
    assert_eq!(hydra.swamp::<u8>("a/b").expect_err("two parts").code(), Some(ErrorCode::InvalidName));
    hydra.swamp::<u8>(("a", "b", "c")).expect("three parts");
    let long = "k".repeat(1025);
    for key in ["", ".", "..", "a\nb", long.as_str()] {
        assert_eq!(swamp.get(key).await.expect_err("a bad key").code(), Some(ErrorCode::InvalidKey));
        assert_eq!(swamp.put(key, &alice()).await.expect_err("a bad key").kind(), ErrorKind::Invalid);
        assert_eq!(swamp.batch().delete(key).await.expect_err("a bad key").kind(), ErrorKind::Invalid);
    }
    for key in ["", "a b", "a\nb", "ü"] {
        let error = swamp.increment("n", 1).idempotency_key(key).await.expect_err("a key that cannot be sent");
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("idempotency key"), "{error}");
    }
    assert_eq!(fake.asked().len(), 0);
}

#[tokio::test]
async fn policies_go_to_every_server() {
    let fakes = [Fake::start(fine("s1")).await, Fake::start(fine("s2")).await];
    let map = hydra_sdk::ClientMap::builder().folders(2).server("s1", fakes[0].url()).server("s2", fakes[1].url());
    let hydra = Hydra::with_map(map.route("0", "s1", [""; 0]).route("1", "s2", [""; 0]).build().expect("a map"))
        .expect("a client");
    let pattern = "pay/*/*".parse().expect("a pattern");
    let policy = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    hydra.set_policy(&pattern, &policy).await.expect("both know it");
    for fake in &fakes {
        assert_eq!(fake.asked()[0].target, "/v1/policies/pay/%2A/%2A");
        assert!(String::from_utf8_lossy(&fake.asked()[0].body).contains(r#""writeInterval":"0s""#));
    }
    let bad = Policy { chunk_bytes: 1, ..Policy::default() };
    assert_eq!(hydra.set_policy(&pattern, &bad).await.expect_err("too small").kind(), ErrorKind::Invalid);
    let [_s1, mut s2] = fakes;
    s2.stop().await;
    let error = hydra.set_policy(&pattern, &policy).await.expect_err("s2 was not reached");
    assert!(error.to_string().contains("s2 refused"), "{error}");
}
