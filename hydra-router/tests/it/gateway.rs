//! What passes through: values, conditions, names, large bodies, errors; what goes to every server.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hydra_core::SwampName;
use hydra_core::wire::{lock_path, swamp_path, treasure_path};
use hydra_sdk::{Applied, Hydra, Policy, Swamp};
use serde_json::json;

use hydra_router::Config;

use crate::support::{Answer, Node, Pair, Router, block_on, impatient, name_in, pair_map};

#[test]
fn values_pass_with_their_headers_and_land_on_the_server_of_their_folder() {
    let pair = Pair::start();
    for (folders, server, own) in [("0-49", "s1", &pair.s1), ("50-99", "s2", &pair.s2)] {
        let path = treasure_path(&name_in(folders, "users/profiles/alice"), "name");
        let put = pair.put(&path, "\"Alice\"");
        assert_eq!((put.status, put.server()), (201, Some(server)), "{put:?}");
        let got = pair.get(&path);
        assert_eq!((got.status, got.text().as_str(), got.etag()), (200, "\"Alice\"", put.etag()));
        assert_eq!(got.header("content-type"), Some("application/json"));
        assert!(got.header("hydra-folder").is_some());
        assert_eq!(
            own.target().raw(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).expect("got").status,
            200
        );
        let head = pair.send("HEAD", &path, &[], "");
        assert_eq!((head.status, head.etag()), (200, put.etag()));
        assert_eq!(pair.delete(&path).status, 204);
        assert_eq!(pair.get(&path).code(), "treasure-not-found");
    }
}

#[test]
fn conditions_are_kept() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let create = |body| pair.send("PUT", &path, &[("If-None-Match", "*")], body);
    let first = create("1");
    assert_eq!(first.status, 201);
    let second = create("2");
    assert_eq!((second.status, second.code().as_str(), second.etag()), (412, "already-exists", first.etag()));
    assert_eq!(pair.send("PUT", &path, &[("If-Match", &first.etag())], "3").status, 200);
    assert_eq!(pair.send("DELETE", &path, &[("If-Match", &first.etag())], "").code(), "version-mismatch");
    let now = pair.get(&path);
    assert_eq!(now.text(), "3");
    assert_eq!(pair.send("GET", &path, &[("If-None-Match", &now.etag())], "").status, 304);
}

#[test]
fn an_idempotency_key_passes_and_a_repeated_request_counts_once() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("50-99", "site/hits/home"), "n");
    let add = || pair.send("POST", &format!("{path}?incr=2"), &[("Idempotency-Key", "once")], "");
    assert_eq!((add().json()["value"].as_i64(), add().header("hydra-replayed")), (Some(2), Some("true")));
    assert_eq!(pair.get(&path).text(), "2");
    assert_eq!(pair.post(&format!("{path}?incr=2"), "").json()["value"], 4);
}

#[test]
fn odd_names_and_keys_pass_as_they_are() {
    let pair = Pair::start();
    for path in [
        "/v1/kv/a/b/c%20d/k",
        "/v1/kv/%C3%A4/b+c/d%25/x%2Fy/z",
        "/v1/kv/a/b/c/%22%3C%3E%5C%7C",
        "/v1/kv/a/b/c/'()*!$&;=@:,~",
        "/v1/kv/a/b/c/x%3Fy%23z",
    ] {
        assert_eq!(pair.put(path, "1").status, 201, "{path}");
        assert_eq!(pair.get(path).text(), "1", "{path}");
    }
    let list = pair.get("/v1/kv/a/b/c").json();
    let keys: Vec<&str> =
        list["treasures"].as_array().expect("a list").iter().filter_map(|t| t["key"].as_str()).collect();
    assert_eq!(keys, ["\"<>\\|", "'()*!$&;=@:,~", "x?y#z"]);
}

#[test]
fn names_that_break_the_rules_are_refused_before_any_server_is_asked() {
    let pair = Pair::start();
    for path in
        ["/v1/kv/a/b", "/v1/kv/a%2Fb/c/d", "/v1/kv/a/b/%zz/k", "/v1/kv//b/c/k", "/v1/kv/a/b/%00/k", "/v1/swamps/a/%zz"]
    {
        let answer = pair.put(path, "1");
        assert_eq!((answer.status, answer.code().as_str(), answer.server()), (400, "invalid-name", None), "{path}");
        assert_eq!(answer.header("hydra-applied"), Some("no"));
    }
    for path in ["/v1/kv/a/b/c/%2E%2E", "/v1/kv/a/b/c/../k", "/v1/kv/a/b/c//k", "/v1/kv/a/b/c/", "/v1/kv/a/b/c/%FF"] {
        let answer = pair.put(path, "1");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-key"), "{path}");
    }
}

#[test]
fn ten_mebibytes_stream_both_ways() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "big/values/here"), "k");
    let value = format!("\"{}\"", "0123456789abcdef".repeat(10 << 16));
    assert_eq!(pair.put(&path, &value).status, 201);
    assert!(pair.get(&path).body == value.as_bytes(), "the value came back as it was");
}

#[test]
fn a_body_of_unknown_length_passes_short_and_long() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "big/values/here"), "chunked");
    for count in [1, 40] {
        let mut stream = pair.connect().expect("a connection");
        write!(stream, "PUT {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\"\r\n")
            .expect("sent");
        for _ in 0..count {
            write!(stream, "10000\r\n{}\r\n", "x".repeat(0x10000)).expect("sent");
        }
        write!(stream, "1\r\n\"\r\n0\r\n\r\n").expect("sent");
        let answer = Answer::read(&mut stream).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        assert_eq!(pair.get(&path).body.len(), count * 0x10000 + 2);
    }
}

#[test]
fn errors_of_a_server_pass_as_they_are() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let invalid = pair.put(&path, "{");
    assert_eq!((invalid.status, invalid.code().as_str(), invalid.server()), (400, "invalid-json", Some("s1")));
    let method = pair.send("BREW", &path, &[], "");
    assert_eq!((method.status, method.server()), (405, Some("s1")));
    assert!(method.header("allow").is_some());
    let count = pair.send("PUT", &path, &[("Hydra-Folders", "50")], "1");
    assert_eq!((count.status, count.code().as_str()), (409, "folder-count-mismatch"));
}

#[test]
fn a_large_body_that_is_refused_early_does_not_hide_the_reason() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let value = "1".repeat(30 << 20);
    let answer = pair.put(&path, &value);
    assert_eq!((answer.status, answer.code().as_str()), (413, "value-too-large"));
}

#[test]
fn batches_and_verbs_pass() {
    let pair = Pair::start();
    let name = name_in("50-99", "a/b/c");
    let batch = json!({"ops": [{"op": "put", "key": "a", "value": 1}, {"op": "increment", "key": "n", "by": 3}]});
    let answer = pair.post(&format!("/v1/swamps/{name}/batch"), &batch.to_string());
    assert_eq!((answer.status, answer.json()["ok"].as_u64(), answer.server()), (200, Some(2), Some("s2")));
    assert_eq!(pair.post(&format!("/v1/swamps/{name}/flush"), "").status, 204);
    assert_eq!(pair.get(&format!("/v1/swamps/{name}")).json()["count"], 2);
    assert_eq!(pair.get(&format!("/v1/resolve/{name}")).json()["state"], "owned");
    assert_eq!(pair.delete(&format!("/v1/swamps/{name}")).status, 204);
    assert_eq!(pair.get(&format!("/v1/kv/{name}")).json()["treasures"], json!([]));
}

#[test]
fn a_batch_across_swamps_is_taken_apart_and_put_together_again() {
    let mut pair = Pair::start();
    let (low, high) = (name_in("0-49", "a/b/c").to_string(), name_in("50-99", "a/b/c").to_string());
    let ops = json!({"ops": [
        {"op": "put", "swamp": low, "key": "k", "value": 1.0},
        {"op": "incr", "swamp": high, "key": "n", "by": 2},
        {"op": "get", "swamp": low, "key": "k"},
        {"op": "get", "swamp": "no/name", "key": "k"},
        {"op": "incr", "swamp": high, "key": "n", "by": 1, "max": 2},
        {"op": "get", "swamp": high, "key": "n"},
    ]});
    let ask = |pair: &Pair| pair.send("POST", "/v1/batch", &[("Idempotency-Key", "once")], ops.to_string());
    let statuses = |answer: &Answer| -> Vec<u64> {
        let results = answer.json()["results"].as_array().expect("results").clone();
        results.iter().filter_map(|result| result["status"].as_u64()).collect()
    };
    let first = ask(&pair);
    assert_eq!((first.status, statuses(&first)), (200, vec![201, 200, 200, 400, 422, 200]), "{first:?}");
    assert_eq!(
        (first.json()["ok"].clone(), first.json()["results"][5]["treasure"]["value"].clone()),
        (json!(4), json!(2))
    );
    assert_eq!(first.json()["results"][1]["swamp"], high.as_str());
    assert_eq!((first.header("hydra-durable"), first.header("hydra-replayed")), (Some("buffered"), None));
    let again = ask(&pair);
    assert_eq!((statuses(&again), again.header("hydra-replayed")), (statuses(&first), Some("true")));
    assert_eq!(pair.post("/v1/batch", r#"{"atomic":true,"ops":[]}"#).code(), "invalid-body");
    assert_eq!(pair.post("/v1/batch", r#"{"opps":[]}"#).status, 400);
    pair.s1.stop();
    pair.s2.stop();
    let gone = pair.post("/v1/batch", &ops.to_string());
    assert_eq!((gone.status, statuses(&gone)), (200, vec![502, 502, 502, 400, 502, 502]), "{gone:?}");
    assert_eq!(gone.json()["results"][0]["code"], "server-unreachable");
}

#[test]
fn a_batch_across_swamps_falls_over_folder_by_folder() {
    let mut pair = Pair::start();
    let (low, high) = (name_in("0-49", "a/b/c").to_string(), name_in("50-99", "a/b/c").to_string());
    pair.s1.stop();
    let ops = json!({"ops": [
        {"op": "put", "swamp": low, "key": "k", "value": 1},
        {"op": "put", "swamp": high, "key": "k", "value": 1},
    ]});
    let answer = pair.post("/v1/batch", &ops.to_string());
    assert_eq!((answer.status, answer.json()["ok"].clone()), (200, json!(2)), "{answer:?}");
    assert_eq!(pair.get(&format!("/v1/kv/{low}/k")).header("hydra-served-by"), Some("fallback"));
    assert_eq!(pair.get(&format!("/v1/kv/{high}/k")).header("hydra-served-by"), None);
}

#[test]
fn headers_of_one_connection_stay_on_it() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    // Were it passed on, this condition would fail.
    let headers = [("Connection", "close, If-Match"), ("If-Match", "*"), ("X-Request-Id", "mine")];
    let answer = pair.send("PUT", &path, &headers, "1");
    assert_eq!((answer.status, answer.header("x-request-id")), (201, Some("mine")));
}

#[test]
fn a_loop_of_routers_ends() {
    let pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    assert_eq!(pair.send("PUT", &path, &[("Hydra-Hops", "2")], "1").status, 201);
    let looped = pair.send("PUT", &path, &[("Hydra-Hops", "3")], "1");
    assert_eq!(
        (looped.status, looped.code().as_str(), looped.header("hydra-applied")),
        (502, "server-unreachable", Some("no"))
    );
    assert_eq!(pair.send("PUT", &path, &[("Hydra-Hops", "x")], "1").code(), "invalid-header");
}

#[test]
fn the_map_is_served_with_its_epoch_and_can_be_exchanged() {
    let pair = Pair::start();
    let map = pair.get("/v1/map");
    assert_eq!((map.status, map.etag().as_str()), (200, "\"1\""));
    assert_eq!(map.text().parse::<hydra_sdk::ClientMap>().expect("a map").folders().get(), 100);
    assert_eq!(pair.send("GET", "/v1/map", &[("If-None-Match", "\"1\"")], "").status, 304);
    let json = pair.send("GET", "/v1/map", &[("Accept", "application/json")], "");
    assert_eq!((json.etag().as_str(), &json.json()["servers"][1]["url"]), ("\"1\"", &json!(pair.s2.url())));
    let route = json!({"folders": "0-49", "primary": "s1", "fallbacks": ["s2"]});
    assert_eq!(
        json.json()["pools"][0],
        json!({"name": "default", "match": [], "routes": [route, {
        "folders": "50-99", "primary": "s2", "fallbacks": ["s1"]}]})
    );
    // All folders to s1, which keeps copies of the other half: it takes no writes as their primary.
    let next =
        hydra_sdk::ClientMap::builder().epoch(2).folders(100).server("s1", pair.s1.url()).route("0-99", "s1", [""; 0]);
    pair.router.hydra.set_map(next.build().expect("a map")).expect("in force");
    assert_eq!(pair.get("/v1/map").etag(), "\"2\"");
    let path = treasure_path(&name_in("50-99", "a/b/c"), "k");
    let refused = pair.put(&path, "1");
    assert_eq!((refused.status, refused.code().as_str(), refused.server()), (421, "not-owner", None));
    assert_eq!(pair.get(&path).header("hydra-served-by"), Some("fallback"));
    let older = pair_map(pair.s1.url(), pair.s2.url()).build().expect("a map");
    assert!(pair.router.hydra.set_map(older).is_err(), "an older map is refused");
}

#[test]
fn the_router_says_who_it_is() {
    let pair = Pair::start();
    assert_eq!(pair.get("/").json()["router"], "r1");
    assert_eq!(pair.get("/health").json()["status"], "ok");
    assert_eq!(pair.get("/ready").json()["ready"], true);
    assert_eq!(pair.get("/version").json()["folders"], 100);
    assert_eq!(pair.get("/v1/probe").json()["epoch"], 1);
    assert_eq!(pair.get("/problems/not-owner").json()["status"], 421);
    let metrics = pair.get("/metrics").text();
    assert!(metrics.contains("hydra_router_server_up{server=\"s1\"} 1\n"), "{metrics}");
    for path in ["/v1", "/v1/batches", "/nothing"] {
        assert_eq!(pair.get(path).code(), "not-found", "{path}");
    }
    assert_eq!(pair.put("/health", "1").code(), "method-not-allowed");
}

#[test]
fn a_policy_goes_to_every_server() {
    let mut pair = Pair::start();
    let path = "/v1/policies/payments/*/*";
    assert_eq!(pair.put(path, r#"{"writeInterval":"0s"}"#).status, 201);
    assert_eq!(pair.put(path, r#"{"writeInterval":"0s"}"#).status, 200);
    for node in [&pair.s1, &pair.s2] {
        let got = node.target().raw(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).expect("an answer");
        assert_eq!((got.status, &got.json()["pattern"]), (200, &json!("payments/*/*")));
    }
    let all = pair.get("/v1/policies").json();
    assert_eq!((all["policies"].as_array().map(Vec::len), all["servers"].as_array().map(Vec::len)), (Some(1), Some(2)));
    assert_eq!(pair.put(path, r#"{"writeIntervall":1}"#).code(), "invalid-body");
    assert_eq!(pair.post("/v1/flush", "").status, 204);

    pair.s2.stop();
    let partly = pair.put("/v1/policies/a/*/*", r#"{"writeInterval":"2s"}"#);
    assert_eq!(
        (partly.status, partly.code().as_str(), partly.header("hydra-applied")),
        (502, "server-unreachable", Some("unknown"))
    );
    let attempts = partly.json()["attempts"].clone();
    assert_eq!((attempts.as_array().map(Vec::len), &attempts[0]["server"]), (Some(1), &json!("s2")), "{attempts}");
    assert_eq!(pair.get(path).status, 200, "one server is enough to read");
}

#[test]
fn the_sdk_uses_a_router_like_a_server() {
    let mut pair = Pair::start();
    let url = format!("http://{}", pair.0);
    block_on(async {
        let hydra = Hydra::connect(&url).await.expect("connected");
        for folders in ["0-49", "50-99"] {
            let swamp: Swamp<i64> = hydra.swamp(name_in(folders, "a/b/c")).expect("a swamp");
            swamp.put("k", &7).await.expect("written");
            assert_eq!(swamp.get("k").await.expect("read"), Some(7));
            assert_eq!(swamp.increment("n", 2).await.expect("counted"), 2);
            assert!(swamp.delete("k").await.expect("deleted"));
        }
        let pattern = "a/*/*".parse().expect("a pattern");
        hydra.set_policy(&pattern, &Policy::default()).await.expect("registered");
        assert_eq!(hydra.policies().await.expect("listed").len(), 1);
        assert!(hydra.delete_policy(&pattern).await.expect("forgotten"));
    });
    pair.s1.stop();
    pair.s2.stop();
    block_on(async {
        let hydra = Hydra::connect(&url).await.expect("connected");
        let swamp: Swamp<i64> = hydra.swamp("a/b/c").expect("a swamp");
        let error = swamp.put("k", &7).await.expect_err("no server is left");
        assert!(error.is_network() && error.applied() == Applied::No, "{error}");
    });
}

#[test]
fn http2_without_tls_passes() {
    let pair = Pair::start();
    let url = format!("http://{}{}", pair.0, treasure_path(&name_in("0-49", "a/b/c"), "k"));
    // The client of the tests would speak TLS, too, and asks for the cryptography even where it does not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    block_on(async {
        let put = client.put(&url).body("[1]").send().await.expect("an answer");
        assert_eq!((put.status().as_u16(), put.version()), (201, reqwest::Version::HTTP_2));
        assert_eq!(client.get(&url).send().await.expect("an answer").text().await.expect("text"), "[1]");
    });
}

#[test]
fn what_waits_passes_also_where_it_takes_longer_than_a_try() {
    let mut settings = impatient();
    settings.try_timeout = Duration::from_millis(300);
    settings.deadline = Duration::from_millis(400);
    let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
    let map = pair_map(s1.url(), s2.url()).settings(settings).build().expect("a map");
    let router = Router::start(map, Config::default());
    let name = name_in("0-49", "jobs/mail/eu");
    let (shift, lock) = (format!("{}/shift", swamp_path(&name)), lock_path(&name, "import"));
    let begun = Instant::now();
    let nothing = router.post(&format!("{shift}?wait=1s"), "");
    assert_eq!((nothing.status, nothing.text().as_str()), (200, "{\"treasures\":[]}"), "{nothing:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(router.post(&lock, "{\"ttl\":\"1200ms\"}").status, 201);
    let granted = router.post(&lock, "{\"ttl\":\"60s\",\"wait\":\"10s\"}");
    assert_eq!(granted.status, 201, "{granted:?}");
    let token = granted.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(router.send("DELETE", &lock, &[("Hydra-Lock-Token", &token)], "").status, 204);
}

#[test]
fn what_is_packed_passes_packed_and_what_the_router_reads_is_understood() {
    let pair = Pair::start();
    let (low, high) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/d"));
    let asked = ("Accept-Encoding", "gzip");
    let long = format!("\"{}\"", "long ".repeat(1_000));
    for name in [&low, &high] {
        let path = treasure_path(name, "k");
        let version = pair.send("PUT", &path, &[], &long).etag();
        let packed = pair.send("GET", &path, &[asked], "");
        assert_eq!((packed.header("content-encoding"), packed.etag()), (Some("gzip"), version), "{packed:?}");
        assert_eq!(unpacked(&packed), long);
        assert_eq!(pair.get(&path).text(), long);
    }
    // What the router puts together from several answers.
    let reads: Vec<_> = [&low, &high].map(|name| json!({"op": "get", "swamp": name.to_string(), "key": "k"})).into();
    let batch = pair.send("POST", "/v1/batch", &[asked], json!({ "ops": reads }).to_string());
    assert_eq!((batch.status, &batch.json()["ok"]), (200, &json!(2)), "{batch:?}");
    for n in 0..20 {
        assert_eq!(pair.send("PUT", &format!("/v1/policies/many/p{n}/*"), &[asked], "{}").status, 201);
    }
    let policies = pair.send("GET", "/v1/policies", &[asked], "").json();
    assert_eq!(policies["policies"].as_array().map(Vec::len), Some(20), "{policies}");

    let packed = ("Content-Encoding", "gzip");
    let line = |name: &SwampName| json!({"swamp": name.to_string(), "key": "i", "value": long}).to_string();
    let imported = pair.send("POST", "/v1/import", &[packed], pack(&[line(&low), line(&high)].join("\n")));
    assert!(imported.text().trim_end().ends_with("\"errors\":[]}}"), "{imported:?}");
    assert_eq!(pair.get(&treasure_path(&high, "i")).status, 200);
    let one = pack(&json!({"key": "j", "value": 1}).to_string());
    let path = format!("{}/import", swamp_path(&high));
    assert_eq!(pair.send("POST", &path, &[packed], &one).status, 200);
    assert_eq!(pair.get(&treasure_path(&high, "j")).text(), "1");
    for (path, encoding) in [("/v1/import", "zstd"), (path.as_str(), "zstd"), ("/v1/batch", "gzip")] {
        let refused = pair.send("POST", path, &[("Content-Encoding", encoding)], &one);
        assert_eq!((refused.status, refused.code().as_str()), (415, "unsupported-media-type"), "{path}");
    }
    let cut = pair.send("POST", "/v1/import", &[packed], &one[..one.len() - 1]);
    assert_eq!((cut.status, cut.code().as_str()), (400, "invalid-body"), "{cut:?}");
}

fn pack(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

fn unpacked(answer: &Answer) -> String {
    let mut text = String::new();
    GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text).expect("gzip");
    text
}

#[test]
fn the_contract_a_page_for_browsers_and_folders_by_state() {
    let pair = Pair::start();
    let contract = pair.get("/openapi.json");
    assert_eq!((contract.status, &contract.json()["openapi"]), (200, &json!("3.1.0")));
    let heads = ["GET", "HEAD"].map(|method| pair.send(method, "/v1/policies", &[], ""));
    assert_eq!(heads[1].header("content-type"), heads[0].header("content-type"));
    let page = pair.send("GET", "/", &[("Accept", "text/html,*/*;q=0.8")], "");
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
    assert_eq!(pair.get("/").json()["docs"], "/openapi.json");
    assert_eq!(pair.get("/?x=1").code(), "unknown-parameter");

    let folders = |state: &str| pair.get(&format!("/v1/folders/40-59?state={state}")).json()["folders"].clone();
    let owned = folders("owned");
    assert_eq!(owned.as_array().map(Vec::len), Some(20), "{owned}");
    assert!(owned.as_array().into_iter().flatten().all(|folder| folder["servers"].as_array().map(Vec::len) == Some(1)));
    assert_eq!(folders("moved"), json!([]));
    assert_eq!(folders("absent"), json!([]));
    assert_eq!(pair.get("/v1/folders?state=gone").code(), "invalid-parameter");
    // URLs take %2E%2E for a step; as a piece of a key it is none.
    let stepped = "/v1/kv/a/b/c/k/%2E%2E/l";
    assert_eq!(pair.send("PUT", stepped, &[], "1").status, 201);
    assert_eq!(pair.get("/v1/kv/a/b/c/k%2F..%2Fl").text(), "1");
    let conditional = pair.send("POST", "/v1/batch", &[("If-Match", "*")], "{\"ops\":[]}");
    assert_eq!((conditional.status, conditional.code().as_str()), (400, "invalid-header"));
}
