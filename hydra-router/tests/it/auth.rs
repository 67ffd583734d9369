//! Tokens: those of requests go on to the servers, the router's own only when that is meant.

use hydra_router::Config;
use hydra_sdk::ClientMap;
use hydra_server::{Scope, TokenEntry, Tokens};
use tempfile::TempDir;

use crate::support::{Node, Router};

/// A server that demands tokens, and two of them: one for everything, one for reading.
fn guarded(dir: &TempDir) -> (Node, String, String) {
    let file = dir.path().join("tokens.json");
    let made =
        [("all", &[Scope::Read, Scope::Write, Scope::Admin][..]), ("reader", &[Scope::Read])].map(|(name, scopes)| {
            let (entry, token) = TokenEntry::fresh(name, scopes, &["*/*/*".parse().expect("a pattern")]).expect("made");
            entry.append_to(&file).expect("added");
            token
        });
    let [all, reader] = made;
    let config = hydra_server::Config { tokens: Tokens::open(&file).ok(), ..hydra_server::Config::default() };
    (Node::start_as("s1", |_| {}, config), all, reader)
}

fn map(server: &Node, access: &str) -> ClientMap {
    let url = server.url();
    let text = format!(
        "folders = 100\n{access}\n[servers]\ns1 = {{ url = {url:?} }}\n[[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\n"
    );
    text.parse().expect("a map")
}

const KEY: &str = "/v1/kv/users/profiles/alice/k";

#[test]
fn the_token_of_a_request_goes_on_to_the_server() {
    let dir = TempDir::new().expect("a directory");
    let (server, all, reader) = guarded(&dir);
    std::fs::write(dir.path().join("token"), &all).expect("written");
    let own = format!("[access]\ntoken_file = {:?}", dir.path().join("token"));
    for access in ["", own.as_str()] {
        let router = Router::start(map(&server, access), Config { id: "r1".into(), ..Config::default() });
        let send = |token: Option<&str>, method: &str, path: &str| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
            router.send(method, path, &headers, if method == "PUT" { "1" } else { "" })
        };
        let nobody = send(None, "GET", KEY);
        assert_eq!((nobody.status, nobody.code().as_str(), nobody.server()), (401, "missing-token", Some("s1")));
        assert!(nobody.header("www-authenticate").is_some_and(|way| way.starts_with("Bearer")));
        assert_eq!(send(Some("hyd_nobody"), "PUT", KEY).code(), "invalid-token");
        assert!(send(Some(&all), "PUT", KEY).status < 300);
        assert_eq!((send(Some(&reader), "GET", KEY).status, send(Some(&reader), "PUT", KEY).status), (200, 403));
        assert!(send(None, "POST", "/v1/flush").status >= 400, "what goes to every server needs a token, too");
        assert!(send(Some(&all), "POST", "/v1/flush").status < 300);
    }
}

#[test]
fn the_routers_own_token_is_used_only_when_that_is_meant() {
    let dir = TempDir::new().expect("a directory");
    let (server, all, reader) = guarded(&dir);
    std::fs::write(dir.path().join("token"), &all).expect("written");
    let access = format!("[access]\ntoken_file = {:?}", dir.path().join("token"));
    let config = Config { id: "r1".into(), own_token: true, ..Config::default() };
    let router = Router::start(map(&server, &access), config);
    assert_eq!((router.put(KEY, "1").status, router.get(KEY).text().as_str()), (201, "1"));
    let reader = format!("Bearer {reader}");
    let refused = router.send("PUT", KEY, &[("Authorization", &reader)], "2");
    assert_eq!((refused.status, refused.code().as_str()), (403, "scope-denied"), "a token of the request comes first");
    let shown = router.get("/v1/map").text();
    assert!(shown.contains("token_file") && !shown.contains(&all), "{shown}");
}

#[test]
fn what_is_about_all_servers_shows_and_takes_what_the_token_allows() {
    let dir = TempDir::new().expect("a directory");
    let (server, all, reader) = guarded(&dir);
    let router = Router::start(map(&server, ""), Config::default());
    let ask = |token: Option<&str>, method: &str, path: &str, body: &str| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        router.send(method, path, &headers, body)
    };
    let line = "{\"swamp\":\"users/profiles/alice\",\"key\":\"k\",\"value\":1}\n";
    assert_eq!(ask(None, "POST", "/v1/import", line).code(), "missing-token");
    let refused = ask(Some(&reader), "POST", "/v1/import", line);
    assert!(refused.status == 403 || refused.text().contains("\"failed\":1"), "{refused:?}");
    assert_eq!(ask(Some(&all), "POST", "/v1/import", line).status, 200);
    for path in ["/v1/swamps", "/v1/export"] {
        assert_eq!(ask(None, "GET", path, "").code(), "missing-token", "{path}");
        assert!(ask(Some(&reader), "GET", path, "").text().contains("users/profiles/alice"), "{path}");
    }
    for path in ["/v1/folders", "/v1/status"] {
        assert_eq!(ask(None, "GET", path, "").code(), "missing-token", "{path}");
        assert_eq!(ask(Some(&reader), "GET", path, "").code(), "scope-denied", "{path}");
        assert_eq!(ask(Some(&all), "GET", path, "").status, 200, "{path}");
    }
    assert_eq!(ask(None, "GET", "/ui", "").status, 200, "the page itself is no secret");
}
