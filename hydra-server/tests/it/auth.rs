//! Who may do what: tokens, scopes, patterns, origins, and what an operator sees of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientMap, ErrorKind, Hydra as Client, Swamp};
use hydra_server::{Config, Tokens};
use tempfile::TempDir;

use crate::support::{Answer, Hydra, Process, Target, block_on, program};

/// Makes a token with the program itself.
pub(crate) fn new_token(file: &Path, name: &str, scopes: &str, swamps: &str) -> String {
    let made = program()
        .args(["token", "new", "--name", name, "--scopes", scopes, "--swamps", swamps, "--tokens"])
        .arg(file)
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("UTF-8").trim().to_owned()
}

pub(crate) fn ask(target: Target, token: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    target.send(method, path, &headers, body)
}

/// What each endpoint demands: methods, path, scopes (`-`: open), and the names it is about.
const DEMANDS: &[(&str, &str, &str, &str)] = &[
    ("GET HEAD", "/", "-", ""),
    ("GET HEAD", "/health", "-", ""),
    ("GET HEAD", "/ready", "-", ""),
    ("GET HEAD", "/version", "-", ""),
    ("GET HEAD", "/metrics", "-", ""),
    ("GET HEAD", "/openapi.json", "-", ""),
    ("GET HEAD", "/problems/{code}", "-", ""),
    ("GET HEAD", "/v1/probe", "-", ""),
    ("GET HEAD", "/ui", "-", ""),
    ("GET HEAD", "/v1/status", "a", "all"),
    ("GET HEAD", "/v1/resolve/{S}", "-", ""),
    ("GET HEAD", "/v1/kv/{S}/{key}", "r", "swamp"),
    ("PUT PATCH POST DELETE", "/v1/kv/{S}/{key}", "w", "swamp"),
    ("GET HEAD", "/v1/kv/{S}", "r", "swamp"),
    ("POST", "/v1/kv/{S}", "w", "swamp"),
    ("QUERY", "/v1/kv/{S}", "r", "swamp"),
    ("POST", "/v1/swamps/{S}/query", "r", "swamp"),
    ("GET HEAD", "/v1/swamps", "r", ""),
    ("GET HEAD", "/v1/swamps/{sanctuary}", "r", ""),
    ("GET HEAD", "/v1/swamps/{sanctuary}/{realm}", "r", ""),
    ("POST", "/v1/swamps/{S}/shift", "w", "swamp"),
    ("GET HEAD", "/v1/swamps/{S}/locks/{lock}", "r", "swamp"),
    ("POST PUT DELETE", "/v1/swamps/{S}/locks/{lock}", "w", "swamp"),
    ("GET HEAD", "/v1/swamps/{S}/export", "r", "swamp"),
    ("POST", "/v1/swamps/{S}/import", "w", "swamp"),
    ("GET HEAD", "/v1/export?pattern=shop/orders/*", "r", "orders"),
    ("POST", "/v1/import", "w", ""),
    ("GET HEAD PUT", "/v1/folders/{folder}/archive", "a", "all"),
    ("POST", "/v1/batch", "", ""),
    ("GET HEAD", "/v1/swamps/{S}", "r", "swamp"),
    ("DELETE", "/v1/swamps/{S}", "w destroy", "swamp"),
    ("POST", "/v1/swamps/{S}/batch", "", "swamp"),
    ("POST", "/v1/swamps/{S}/flush", "a", "swamp"),
    ("POST", "/v1/swamps/{S}/compact", "a", "swamp"),
    ("POST", "/v1/swamps/{S}/load", "a", "swamp"),
    ("POST", "/v1/swamps/{S}/evict", "a", "swamp"),
    ("GET HEAD", "/v1/swamps/{S}/policy", "r", "swamp"),
    ("GET HEAD", "/v1/swamps/{S}/conflicts", "r", "swamp"),
    ("HEAD", "/v1/swamps/{S}/events", "r", "swamp"),
    ("GET", "/v1/swamps/{S}/events?heartbeat=0s", "r", "swamp"),
    ("GET", "/v1/events?swamp=shop/orders/eu&heartbeat=0s", "r", ""),
    ("HEAD", "/v1/events?swamp=shop/orders/eu", "r", "swamp"),
    ("HEAD", "/v1/events?pattern=shop/orders/*", "r", "orders"),
    ("GET HEAD", "/v1/policies", "r", ""),
    ("GET HEAD", "/v1/policies/{S}", "r", "swamp"),
    ("PUT DELETE", "/v1/policies/{S}", "a", "swamp"),
    ("POST", "/v1/flush", "a", "all"),
    ("GET HEAD", "/v1/folders", "a", "all"),
    ("GET HEAD", "/v1/folders/{folders}", "a", "all"),
    ("POST", "/v1/folders/{folders}/flush", "a", "all"),
    ("POST", "/v1/folders/{folders}/copied", "a", "all"),
    ("POST DELETE", "/v1/folders/{folder}/hold", "a", "all"),
    ("POST", "/v1/folders/{folders}/gc", "a", "all"),
    ("POST", "/v1/folders/{folders}/compact", "a", "all"),
    ("POST", "/v1/folders/{folders}/verify", "a", "all"),
    ("GET HEAD", "/v1/folders/{folder}/takeover", "r", "all"),
    ("POST", "/v1/folders/{folder}/holds", "r", "all"),
    ("POST", "/v1/folders/{folder}/takeover/settle", "w", "all"),
    ("POST", "/v1/folders/{folder}/takeover/seal", "w", "all"),
    ("POST", "/v1/folders/{folder}/takeover/unseal", "w", "all"),
    ("POST", "/v1/folders/{folder}/fence", "a", "all"),
    ("POST", "/v1/folders/{folder}/unfence", "a", "all"),
    ("POST", "/v1/folders/{folder}/import", "a", "all"),
    ("POST", "/v1/folders/{folder}/pull", "a", "all"),
    ("POST", "/v1/folders/{folder}/seal", "a", "all"),
    ("POST", "/v1/folders/{folder}/unseal", "a", "all"),
    ("POST", "/v1/folders/{folder}/manifest", "a", "all"),
    ("POST", "/v1/folders/{folder}/files", "a", "all"),
    ("POST", "/v1/folders/{folder}/commit", "a", "all"),
    ("POST", "/v1/folders/{folder}/activate", "", ""),
    ("POST", "/v1/folders/{folder}/abort", "a", "all"),
    ("POST", "/v1/folders/{folder}/promote", "a", "all"),
    ("POST", "/v1/folders/{folder}/lacks", "a", "all"),
    ("POST", "/v1/folders/{folder}/clean", "a", "all"),
    ("POST DELETE", "/v1/admin/drain", "a", "all"),
    ("GET HEAD PUT DELETE", "/v1/admin/log", "a", "all"),
    ("POST", "/v1/admin/reload", "a", "all"),
];

#[test]
fn every_endpoint_demands_its_scopes_and_its_names() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let tokens = [
        ("reader", "r", "shop/*/*"),
        ("writer", "w", "shop/*/*"),
        ("both", "r,w", "shop/*/*"),
        ("destroyer", "w,destroy", "shop/orders/eu"),
        ("operator", "a", "*/*/*"),
        ("local", "a", "shop/*/*"),
        ("elsewhere", "r,w,a,destroy", "other/*/*"),
        ("all", "r,w,a,destroy", "*/*/*"),
    ]
    .map(|(name, scopes, swamps)| (new_token(&file, name, scopes, swamps), scopes, swamps));
    let server = Process::start(&dir.path().join("data"), &["--tokens", file.to_str().expect("UTF-8")]);

    let mut tried = BTreeSet::new();
    for (methods, template, demanded, place) in DEMANDS {
        for method in methods.split(' ') {
            let documented = template.split('?').next().unwrap_or_default();
            tried.insert((method.to_lowercase(), documented.replace("{S}", "{sanctuary}/{realm}/{swamp}")));
            let path = template.replace("{S}", "shop/orders/eu").replace("{key}", "k").replace("{code}", "busy");
            let path = path.replace("{sanctuary}", "shop").replace("{realm}", "orders").replace("{lock}", "import");
            let path = path.replace("{folders}", "3-4").replace("{folder}", "3");
            let path = if method == "POST" && path.ends_with("/k") { format!("{path}?incr=1") } else { path };
            let path = path.as_str();
            let place_of = format!("{method} {path}");
            for stranger in [None, Some("hyd_nobody"), Some("")] {
                let answer = ask(server.target, stranger, method, path, "");
                assert_eq!(answer.status == 401, *demanded != "-", "{place_of}: {answer:?}");
                if answer.status == 401 {
                    assert!(
                        answer.header("www-authenticate").is_some_and(|way| way.starts_with("Bearer")),
                        "{answer:?}"
                    );
                    assert_eq!(answer.header("hydra-applied"), Some("no"));
                }
            }
            for (token, scopes, swamps) in &tokens {
                let answer = ask(server.target, Some(token), method, path, "");
                let has = demanded.split(' ').filter(|scope| !scope.is_empty());
                let has_scopes = has.into_iter().all(|demanded| scopes.split(',').any(|scope| scope == demanded));
                let reaches = match *place {
                    "" => true,
                    "all" => *swamps == "*/*/*",
                    "orders" => ["*/*/*", "shop/*/*"].contains(swamps),
                    _ => *swamps != "other/*/*",
                };
                let may = *demanded == "-" || (has_scopes && reaches);
                assert_eq!(answer.status != 403, may, "{place_of} with {scopes} on {swamps}: {answer:?}");
                assert_ne!(answer.status, 401, "{place_of}");
                if !may && method != "HEAD" {
                    assert_eq!(answer.code(), "scope-denied");
                    assert!(!answer.text().contains(token.as_str()), "a refusal repeats no token");
                }
            }
            if place_of == "POST /v1/admin/drain" {
                assert_eq!(ask(server.target, Some(&tokens[4].0), "DELETE", path, "").json()["draining"], false);
            }
        }
    }
    let document = server.target.get("/openapi.json").json();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods").keys().filter(|key| *key != "parameters");
            methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(tried, documented, "every endpoint was tried");
}

#[test]
fn a_batch_needs_what_its_operations_need() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let (reader, writer) = (new_token(&file, "r", "r", "a/*/*"), new_token(&file, "w", "w", "a/*/*"));
    let server = Process::start(&dir.path().join("data"), &["--tokens", file.to_str().expect("UTF-8")]);
    let batch = |token: &str, ops: &str| {
        ask(server.target, Some(token), "POST", "/v1/swamps/a/b/c/batch", &format!(r#"{{"ops":[{ops}]}}"#)).status
    };
    let (get, put) = (r#"{"op":"get","key":"k"}"#, r#"{"op":"put","key":"k","value":1}"#);
    assert_eq!((batch(&reader, get), batch(&reader, put), batch(&reader, &format!("{get},{put}"))), (200, 403, 403));
    assert_eq!((batch(&writer, get), batch(&writer, put), batch(&writer, &format!("{put},{get}"))), (403, 200, 403));
    assert_eq!(ask(server.target, Some(&reader), "GET", "/v1/kv/a/b/c/k", "").text(), "1");
    let across = |token: &str| -> Vec<u64> {
        let op = |swamp: &str, rest: &str| format!(r#"{{"swamp":"{swamp}",{}"#, &rest[1..]);
        let ops = [op("a/b/d", put), op("a/b/c", get), op("x/y/z", get)].join(",");
        let answer = ask(server.target, Some(token), "POST", "/v1/batch", &format!(r#"{{"ops":[{ops}]}}"#));
        let results = answer.json()["results"].as_array().expect("results").clone();
        results.iter().map(|result| result["status"].as_u64().expect("a status")).collect()
    };
    assert_eq!((across(&reader), across(&writer)), (vec![403, 200, 403], vec![201, 403, 403]));
}

#[test]
fn a_patch_shows_the_rest_of_the_value_only_to_readers() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let (both, writer) = (new_token(&file, "both", "r,w", "*/*/*"), new_token(&file, "w", "w", "*/*/*"));
    let server = Process::start(&dir.path().join("data"), &["--tokens", file.to_str().expect("UTF-8")]);
    assert_eq!(ask(server.target, Some(&both), "PUT", "/v1/kv/a/b/c/k", r#"{"secret":7}"#).status, 201);
    let patch = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Prefer", "return=representation")];
        server.target.send("PATCH", "/v1/kv/a/b/c/k", &headers, r#"{"open":1}"#).text()
    };
    assert!(patch(&both).contains("secret"));
    let shown = patch(&writer);
    assert!(shown.contains("version") && !shown.contains("secret"), "{shown}");
}

#[test]
fn listings_show_only_what_the_patterns_allow() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let all = new_token(&file, "all", "r,w,a", "*/*/*");
    let shop = new_token(&file, "shop", "r,a", "shop/*/*");
    let server = Process::start(&dir.path().join("data"), &["--tokens", file.to_str().expect("UTF-8")]);
    for pattern in ["shop/*/*", "shop/x/*", "*/*/*", "users/*/*"] {
        assert_eq!(ask(server.target, Some(&all), "PUT", &format!("/v1/policies/{pattern}"), "{}").status, 201);
    }
    let listed = |token: &str| -> BTreeSet<String> {
        let listed = ask(server.target, Some(token), "GET", "/v1/policies", "").json();
        let policies = listed["policies"].as_array().expect("a list").clone();
        policies.iter().map(|policy| policy["pattern"].as_str().expect("a text").to_owned()).collect()
    };
    assert_eq!(listed(&all).len(), 4);
    assert_eq!(listed(&shop), BTreeSet::from(["shop/*/*".into(), "shop/x/*".into(), "*/*/*".into()]));
    let change =
        |pattern: &str| ask(server.target, Some(&shop), "PUT", &format!("/v1/policies/{pattern}"), "{}").status;
    assert_eq!((change("shop/y*/*"), change("sho*/*/*"), change("*/*/*")), (201, 403, 403));
}

/// Tries until it holds; a change takes a second to be noticed.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn tokens_come_and_go_without_a_restart_and_stand_in_no_log() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let first = new_token(&file, "first", "r,w", "*/*/*");
    let log = dir.path().join("log");
    let flags = ["--tokens", file.to_str().expect("UTF-8")];
    let mut server = Process::start_with_log(&log, &dir.path().join("data"), &flags);
    let status = |token: &str| ask(server.target, Some(token), "GET", "/v1/kv/a/b/c", "").status;
    assert_eq!(status(&first), 200);
    let second = new_token(&file, "second", "r", "*/*/*");
    soon("the second token is known", || status(&second) == 200);
    std::fs::write(&file, "[{").expect("written");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!((status(&first), status(&second)), (200, 200), "what was good stays in force");
    std::fs::write(&file, "[]").expect("written");
    soon("the tokens are gone", || status(&first) == 401 && status(&second) == 401);
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(log.contains("stays in force") && log.contains("invalid-token"), "{log}");
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(!log.contains("hyd_"), "{log}");
}

#[test]
fn a_server_with_tokens_may_listen_beyond_this_machine() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    new_token(&file, "first", "r,w", "*/*/*");
    let flags = ["--listen", "0.0.0.0:0", "--tokens", file.to_str().expect("UTF-8"), "--data"];
    let mut child = program().args(flags).arg(dir.path().join("data")).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(400));
    assert!(child.try_wait().expect("waits").is_none(), "it serves");
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[test]
fn tokens_are_made_only_for_what_can_be_meant() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    new_token(&file, "shop", "r", "shop/*/*");
    let before = std::fs::read(&file).expect("a file");
    let again = |arguments: &[&str]| {
        let made = program().args(["token", "new", "--tokens"]).arg(&file).args(arguments).output().expect("it runs");
        (made.status.code(), made.stdout.len())
    };
    for arguments in [
        &["--name", "shop", "--scopes", "r"][..],
        &["--name", "x", "--scopes", "rw"],
        &["--name", "x", "--scopes", "r", "--swamps", "shop"],
        &["--name", "a b", "--scopes", "r"],
        &["--name", "x"],
    ] {
        assert_eq!(again(arguments), (Some(2), 0), "{arguments:?}");
    }
    assert_eq!(std::fs::read(&file).expect("a file"), before, "nothing was changed");
    let printed = program().args(["token", "new", "--name", "x", "--scopes", "r,w", "--output", "json"]).output();
    let printed: serde_json::Value = serde_json::from_slice(&printed.expect("it runs").stdout).expect("JSON");
    assert_eq!(printed["entry"]["swamps"][0], "*/*/*");
    std::fs::write(&file, format!("[{}]", printed["entry"])).expect("written");
    let tokens = Tokens::open(&file).expect("the entry is one of a file");
    let hydra = Hydra::start_with(|_| {}, Config { tokens: Some(tokens), ..Config::default() });
    assert_eq!(ask(hydra.target, printed["token"].as_str(), "GET", "/v1/kv/a/b/c", "").status, 200);
}

#[test]
fn headers_that_are_no_bearer_token_are_refused_with_the_reason() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let token = new_token(&file, "t", "r", "*/*/*");
    let hydra = Hydra::start_with(|_| {}, Config { tokens: Tokens::open(&file).ok(), ..Config::default() });
    let bearer = format!("bearer  {token}");
    assert_eq!(hydra.send("GET", "/v1/kv/a/b/c", &[("authorization", &bearer)], "").status, 200);
    for headers in [
        &[("Authorization", "Basic dXNlcjpwYXNz")][..],
        &[("Authorization", token.as_str())],
        &[("Authorization", "Bearer")],
        &[("Authorization", &bearer), ("Authorization", &bearer)],
    ] {
        let answer = hydra.send("GET", "/v1/kv/a/b/c", headers, "");
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid-token"), "{headers:?}");
    }
    let in_the_url = hydra.send("GET", &format!("/v1/kv/a/b/c?token={token}"), &[], "");
    assert_eq!((in_the_url.status, in_the_url.code().as_str()), (401, "missing-token"));
}

#[test]
fn pages_of_other_origins_change_nothing_unless_they_are_allowed() {
    let dir = TempDir::new().expect("a directory");
    let flags = ["--allow-origin", "https://app.example,http://localhost:3000"];
    let server = Process::start(dir.path(), &flags);
    let put = |host: &str, origin: &str| {
        // Twice a host is what a proxy makes of it, so the request is written by hand.
        let request = format!(
            "PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 1\r\n\
             Connection: close\r\n\r\n1"
        );
        Answer::parse(&server.target.raw(request.as_bytes()).expect("an answer")).expect("an answer")
    };
    for origin in ["https://app.example", "http://localhost:3000"] {
        let answer = put("hydra", origin);
        assert!(answer.status < 300, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert!(answer.header("access-control-expose-headers").is_some_and(|headers| headers.contains("etag")));
    }
    let own = server.target.0.to_string();
    assert!(put(&own, &format!("http://{own}")).status < 300, "the server's own page");
    for (host, origin) in [
        ("hydra", "https://evil.example"),
        ("hydra", "null"),
        ("evil.example", "http://evil.example"),
        (own.as_str(), "http://127.0.0.1:1"),
    ] {
        let refused = put(host, origin);
        assert_eq!((refused.status, refused.code().as_str()), (403, "origin-denied"), "{origin}");
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    let reads = server.target.send("GET", "/v1/kv/a/b/c/k", &[("Origin", "https://evil.example")], "");
    assert_eq!((reads.status, reads.header("access-control-allow-origin")), (200, None));
    assert_eq!(reads.header_lines("vary").collect::<Vec<_>>(), ["accept", "origin"]);
    let asks = |origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        server.target.send("OPTIONS", "/v1/kv/a/b/c/k", &headers, "")
    };
    let allowed = asks("https://app.example");
    assert_eq!(allowed.status, 204);
    assert!(allowed.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")));
    assert!(allowed.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization")));
    assert_eq!(asks("https://evil.example").code(), "origin-denied");
    assert_eq!(server.target.send("OPTIONS", "/v1/kv/a/b/c/k", &[], "").code(), "method-not-allowed");
}

#[test]
fn a_browser_may_ask_what_it_may_send_without_a_token() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    new_token(&file, "t", "r", "*/*/*");
    let server = Process::start(
        dir.path(),
        &["--tokens", file.to_str().expect("UTF-8"), "--allow-origin", "https://app.example"],
    );
    let headers = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(server.target.send("OPTIONS", "/v1/kv/a/b/c/k", &headers, "").status, 204);
    let refused = server.target.send("PUT", "/v1/kv/a/b/c/k", &headers[..1], "1");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.example")));
}

#[test]
fn an_operator_sees_who_was_kept_out() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("tokens.json");
    let token = new_token(&file, "t", "w", "*/*/*");
    let reader = new_token(&file, "reader", "r", "a/*/*");
    let server = Process::start(dir.path(), &["--tokens", file.to_str().expect("UTF-8"), "--protect-metrics"]);
    for sent in [None, Some("hyd_nobody"), Some(token.as_str())] {
        assert!(ask(server.target, sent, "GET", "/v1/kv/a/b/c", "").status >= 400);
    }
    assert_eq!(ask(server.target, None, "GET", "/metrics", "").status, 401);
    assert_eq!(ask(server.target, Some(&token), "GET", "/metrics", "").status, 403);
    let metrics = ask(server.target, Some(&reader), "GET", "/metrics", "").text();
    for (reason, count) in [("missing-token", 2), ("invalid-token", 1), ("scope-denied", 2), ("origin-denied", 0)] {
        let line = format!("hydra_auth_failures_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(metrics.contains("hydra_build_info{version=") && metrics.contains("rustc=\"rustc "), "{metrics}");
    assert!(metrics.contains("hydra_tls_handshakes_failed_total{reason=\"timeout\"} 0"), "{metrics}");
}

/// Two servers that demand tokens; the second knows one that the first does not.
struct Pair {
    servers: [Hydra; 2],
    map: ClientMap,
    dir: TempDir,
    files: [PathBuf; 2],
}

impl Pair {
    fn start() -> Pair {
        let dir = TempDir::new().expect("a directory");
        let files = ["s1", "s2"].map(|id| dir.path().join(id));
        let start = |id: &'static str, file: &Path, owned: bool| {
            new_token(file, "unused", "r", "*/*/*");
            let all = "0-99".parse().expect("folders");
            let change = move |options: &mut hydra_core::EngineOptions| {
                options.server_id = Some(id.into());
                if !owned {
                    (options.owned, options.standby) = (Some("".parse().unwrap_or_default()), all);
                }
            };
            Hydra::start_with(change, Config { tokens: Tokens::open(file).ok(), ..Config::default() })
        };
        let servers = [start("s1", &files[0], true), start("s2", &files[1], false)];
        let [one, two] = &servers;
        let map = ClientMap::builder()
            .folders(100)
            .server("s1", one.server().url())
            .server("s2", two.server().url())
            .route("0-99", "s1", ["s2"])
            .build()
            .expect("a map");
        Pair { servers, map, dir, files }
    }
}

#[test]
fn a_client_that_is_not_known_or_not_allowed_is_told_so_and_asks_nobody_else() {
    let pair = Pair::start();
    let token = new_token(&pair.files[1], "known", "r,w", "*/*/*");
    let reader = new_token(&pair.files[0], "reader", "r", "users/*/*");
    std::thread::sleep(Duration::from_millis(1100));
    let try_with = |token: Option<&str>| {
        block_on(async {
            let builder = Client::builder().map(pair.map.clone());
            let builder = if let Some(token) = token { builder.token(token) } else { builder };
            let client = builder.connect().await.expect("connects");
            let swamp: Swamp<u32> = client.swamp("users/profiles/alice").expect("a name");
            (swamp.get("k").await, swamp.put("k", &1).await.expect_err("refused"))
        })
    };
    let (read, write) = try_with(None);
    for error in [read.expect_err("refused"), write] {
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Unauthenticated, Applied::No), "{error}");
        assert!(!error.is_retryable() && !error.is_network());
    }
    let (read, write) = try_with(Some(&token));
    for error in [read.expect_err("refused"), write] {
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(!format!("{error} {error:?}").contains(&token));
    }
    let (read, write) = try_with(Some(&reader));
    assert_eq!((read.expect("allowed"), write.kind()), (None, ErrorKind::Denied));
    // The second server, which would have let the token in, was asked for nothing.
    let metrics = ask(pair.servers[1].target, None, "GET", "/metrics", "").text();
    assert!(!metrics.contains("hydra_http_requests_total{method=\"PUT\""), "{metrics}");
    assert!(!metrics.contains("route=\"treasure\""), "{metrics}");
}

#[test]
fn a_client_takes_its_token_from_where_the_map_says_and_notices_a_new_one() {
    let pair = Pair::start();
    let file = pair.dir.path().join("token");
    std::fs::write(&file, new_token(&pair.files[0], "one", "r,w", "*/*/*")).expect("written");
    let text = pair.map.to_toml().replace("[client]", &format!("[access]\ntoken_file = {file:?}\n[client]"));
    block_on(async {
        let client = Client::builder().map(text.parse().expect("a map")).connect().await.expect("connects");
        let swamp: Swamp<u32> = client.swamp("users/profiles/alice").expect("a name");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        swamp.put("k", &1).await.expect("the token of the file is known");
        std::fs::write(&pair.files[0], "[]").expect("written");
        std::fs::write(&file, new_token(&pair.files[0].with_extension("new"), "two", "r,w", "*/*/*")).expect("written");
        std::fs::rename(pair.files[0].with_extension("new"), &pair.files[0]).expect("replaced");
        tokio::time::sleep(Duration::from_millis(2200)).await;
        // Each looks once a second, when it is used.
        let _ = swamp.put("k", &2).await;
        swamp.put("k", &3).await.expect("both have noticed");
    });
}
