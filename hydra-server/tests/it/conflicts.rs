//! Two servers that wrote without knowing of each other: what lost is listed, on both.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydra_sdk::{Hydra as Client, LostContent, Value};
use hydra_server::Config;
use serde_json::json;

use crate::support::{Hydra, block_on};

const SWAMP: &str = "a/b/c";

fn server(id: &str) -> Hydra {
    let id = id.to_owned();
    let change = |options: &mut hydra_core::EngineOptions| {
        options.server_id = Some(id);
        options.copied = true;
        options.foreign_poll = Duration::from_millis(10);
    };
    Hydra::start_with(change, Config::default())
}

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => pending.push(path),
                path if path.extension().is_some_and(|extension| extension == "hyl") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn copy(from: &Hydra, to: &Hydra) {
    assert_eq!(from.post("/v1/flush", "").status, 204);
    for chunk in chunks(from.dir.path()) {
        let target = to.dir.path().join(chunk.strip_prefix(from.dir.path()).expect("below"));
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        if length(&chunk) > length(&target) {
            std::fs::create_dir_all(target.parent().expect("a directory")).expect("created");
            std::fs::copy(&chunk, &target).expect("copied");
        }
    }
}

#[test]
fn what_lost_is_listed_with_what_it_lost_against() {
    let (one, two) = (server("s1"), server("s2"));
    let path = |key: &str| format!("/v1/kv/{SWAMP}/{key}");
    let conflicts = format!("/v1/swamps/{SWAMP}/conflicts");
    assert_eq!(one.get(&conflicts).json(), json!({"conflicts": []}), "also of a swamp that is not there");
    one.put(&path("k"), r#"{"by":"s1"}"#);
    let lost = one.get(&path("k")).etag();
    one.send("PUT", &path("b"), &[("Content-Type", "image/png")], [1, 2, 3]);
    std::thread::sleep(Duration::from_millis(5)); // the later write wins, and milliseconds tell which that is
    two.put(&path("b"), "1");
    let won = two.put(&path("k"), r#"{"by":"s2"}"#).etag();
    copy(&one, &two);
    copy(&two, &one);
    for server in [&one, &two] {
        let until = Instant::now() + Duration::from_secs(10);
        while server.get(&conflicts).json()["conflicts"].as_array().map(Vec::len) != Some(2) {
            assert!(Instant::now() < until, "{}", server.get(&conflicts).text());
            std::thread::sleep(Duration::from_millis(10));
        }
        let answer = server.get(&conflicts);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let body = answer.json();
        let of = |key: &str| body["conflicts"].as_array().and_then(|all| all.iter().find(|c| c["key"] == key).cloned());
        let found = of("k").expect("listed");
        assert_eq!(
            (&found["lost"]["value"], &found["lost"]["server"]),
            (&json!({"by": "s1"}), &json!("s1")),
            "{found}"
        );
        assert_eq!(found["won"]["server"], "s2");
        assert_eq!(format!("\"{}\"", found["lost"]["version"].as_str().expect("a version")), lost);
        assert_eq!(format!("\"{}\"", found["won"]["version"].as_str().expect("a version")), won);
        assert!(found["lost"]["updatedAt"].is_string() && found["won"]["updatedAt"].is_string());
        assert!(found["until"].is_string() && found["lost"].get("deleted").is_none());
        let binary = of("b").expect("listed");
        assert_eq!(binary["lost"]["value"], json!({"$binary": "AQID", "contentType": "image/png"}), "{binary}");
        let body: hydra_core::wire::ConflictsBody = serde_json::from_slice(&answer.body).expect("the wire's own form");
        assert_eq!((body.conflicts.len(), body.truncated), (2, false));

        let told = block_on(async {
            let client = Client::connect(format!("http://{}", server.target.0)).await.expect("connected");
            client.swamp::<serde_json::Value>(SWAMP).expect("a name").conflicts().await.expect("listed")
        });
        let of = |key: &str| told.iter().find(|conflict| conflict.key == key).expect("listed");
        assert_eq!(of("k").lost.content, LostContent::Value(Value::json(r#"{"by":"s1"}"#).expect("JSON")));
        assert_eq!((of("k").lost.server.as_deref(), of("k").won.server.as_str()), (Some("s1"), "s2"));
        assert_eq!(of("b").lost.content, LostContent::Value(Value::binary("image/png", [1, 2, 3]).expect("bytes")));
    }
    assert_eq!(one.get(&format!("{conflicts}?all")).status, 400);
    assert_eq!(one.post(&conflicts, "").header("allow"), Some("GET, HEAD"));
}
