//! The status page, in a real browser, and what it shows.

use std::process::Command;

use hydra_core::wire::{STATUS_PAGE, STATUS_PAGE_POLICY, treasure_path};
use serde_json::json;

use crate::support::{Answer, Pair, Target, name_in};

/// The page as a browser has it after some seconds, or nothing where there is no browser.
fn in_browser(target: &Target) -> Option<String> {
    let profile = tempfile::TempDir::new().expect("a directory");
    let run = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=9000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", &format!("http://{}/ui", target.0)])
        .output();
    match run {
        Ok(output) => Some(String::from_utf8(output.stdout).expect("UTF-8")),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: chromium cannot be run: {error}");
            None
        }
        Err(error) => panic!("chromium cannot be run: {error}"),
    }
}

/// How many folders a server shows with this class.
fn cells(dom: &str, server: &str, class: &str) -> usize {
    let rows: Vec<&str> = dom.split("<div class=\"server\"").skip(1).collect();
    let row = rows.iter().find(|row| row.contains(&format!("data-id=\"{server}\"")));
    row.unwrap_or_else(|| panic!("no {server} in {dom}"))
        .matches(&format!("class=\"cell {class}\" data-folder"))
        .count()
}

#[test]
fn a_browser_shows_who_answers_and_who_stands_in() {
    let mut pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "users/profiles/alice"), "k");
    assert_eq!(pair.put(&path, "1").status, 201);
    if let Some(dom) = in_browser(&pair) {
        assert!(dom.contains("data-state=\"live\""), "{dom}");
        assert!(dom.contains("router r1") && dom.contains("100 folders · 2 servers"), "{dom}");
        for server in ["s1", "s2"] {
            assert_eq!((cells(&dom, server, ""), cells(&dom, server, "copy")), (50, 50), "{server}");
        }
        assert!(dom.contains("every folder is answered by its own server"), "{dom}");
    }
    // A server has a page, too, of itself.
    if let Some(dom) = in_browser(&pair.s2.target()) {
        assert!(dom.contains("data-state=\"live\"") && dom.contains("server s2"), "{dom}");
        assert_eq!((cells(&dom, "s2", ""), cells(&dom, "s2", "copy")), (50, 50));
    }
    pair.s1.stop();
    assert_eq!(pair.put(&path, "2").status, 201);
    if let Some(dom) = in_browser(&pair) {
        assert_eq!((cells(&dom, "s2", ""), cells(&dom, "s2", "standin"), cells(&dom, "s1", "away")), (50, 50, 50));
        assert!(dom.contains("is down; its fallbacks are asked"), "{dom}");
    }
}

#[test]
fn the_page_brings_nothing_from_elsewhere_and_its_policy_lets_in_nothing_else() {
    let pair = Pair::start();
    for page in [pair.get("/ui"), pair.s1.ask("GET", "/ui", "")] {
        assert_eq!((page.status, page.text().as_str()), (200, STATUS_PAGE));
        assert_eq!(page.header("content-security-policy"), Some(STATUS_PAGE_POLICY));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    }
    for other in ["http://", "https://", "src=", "@import", "url(", "innerHTML", " style=", " onclick="] {
        let found = STATUS_PAGE.replace("http://www.w3.org/2000/svg", "").contains(other);
        assert!(!found, "{other} stands in the page");
    }
    let inside = |tag: &str| {
        let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
        let text = STATUS_PAGE.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).expect("it is there").0;
        base64(rustls::crypto::ring::default_provider().cipher_suites, text.as_bytes())
    };
    for (directive, tag) in [("script-src", "script"), ("style-src", "style")] {
        let expected = format!("{directive} 'sha256-{}';", inside(tag));
        assert!(STATUS_PAGE_POLICY.contains(&expected), "the policy should say {expected}");
    }
}

/// The SHA-256 of some bytes in base64, by the hash of a cipher suite: no test needs a crate for it.
fn base64(suites: Vec<rustls::SupportedCipherSuite>, bytes: &[u8]) -> String {
    let sha256 = suites.iter().find_map(|suite| match suite {
        rustls::SupportedCipherSuite::Tls13(suite) if suite.common.hash_provider.output_len() == 32 => {
            Some(suite.common.hash_provider.hash(bytes))
        }
        _ => None,
    });
    let digest = sha256.expect("a suite with SHA-256");
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in digest.as_ref().chunks(3) {
        let number = three.iter().chain([&0, &0]).take(3).fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
        for at in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// The data of the first events of a stream.
fn events(target: &Target, count: usize) -> Vec<serde_json::Value> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = target.connect().expect("a connection");
    write!(stream, "GET /v1/status HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n").expect("sent");
    let lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    let data = lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
    data.take(count).collect()
}

#[test]
fn what_is_shown_comes_again_and_again_with_load_and_sizes() {
    let pair = Pair::start();
    let name = name_in("7", "users/profiles/alice");
    assert_eq!(pair.put(&format!("{}?sync", treasure_path(&name, "k")), "1").status, 201);
    let seen = events(&pair, 3);
    assert_eq!(
        (&seen[0]["kind"], &seen[0]["epoch"], &seen[0]["load"]),
        (&json!("router"), &json!(1), &json!([[7, 1]]))
    );
    assert_eq!(seen[0]["servers"][0]["states"], json!([["owned", "0-49"], ["standby", "50-99"]]));
    assert_eq!(
        seen[0]["routes"][1],
        json!({"pool": "default", "folders": "50-99", "primary": "s2", "fallbacks": ["s1"]})
    );
    let sized = seen.iter().find(|seen| !seen["sizes"].is_null()).expect("sizes come within some looks");
    assert!(sized["sizes"][0][0] == 7 && sized["sizes"][0][1].as_u64().is_some_and(|bytes| bytes > 0), "{sized}");
    let own = events(&pair.s1.target(), 2);
    assert_eq!((&own[0]["kind"], &own[0]["servers"][0]["id"]), (&json!("server"), &json!("s1")));
    assert_eq!((&own[1]["sizes"][0][0], &own[1]["load"][0][0]), (&json!(7), &json!(7)));
    let once: Answer = pair.get("/v1/status");
    assert_eq!((once.status, &once.json()["servers"][1]["state"]), (200, &json!("up")));
    assert_eq!(pair.get("/v1/status?all").code(), "unknown-parameter");
}
