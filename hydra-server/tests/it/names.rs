//! Every rule of names and keys, before and after percent-decoding, as raw bytes.

use crate::support::Hydra;

const KEY_255: &str = "/v1/kv/a/b/c/k";

/// Paths that must be refused, with the code of the refusal.
fn refused() -> Vec<(String, &'static str)> {
    let mut paths = Vec::new();
    let bad_parts = [
        "",
        "%20a",
        "a%20",
        "%20",
        ".",
        "..",
        "%2E",
        "%2e%2E",
        "a%2Fb",
        "a%5Cb",
        "a\\b",
        "a*",
        "%2A",
        "a%00b",
        "%1F",
        "%7F",
        "%C2%85",
        "a%0d%0ab",
        "%FF",
        "%C3",
        "%zz",
        "%4",
        "%",
        "a%0",
        "%ED%A0%80",
        "%C0%AF",
    ];
    for part in bad_parts {
        for name in [format!("{part}/b/c"), format!("a/{part}/c"), format!("a/b/{part}")] {
            // An empty third part without a key is a path that ends in a slash.
            paths.push((format!("/v1/kv/{name}/k"), "invalid-name"));
            paths.push((format!("/v1/kv/{name}"), "invalid-name"));
            paths.push((format!("/v1/swamps/{name}"), "invalid-name"));
        }
    }
    paths.push((format!("/v1/kv/a/b/{}/k", "x".repeat(256)), "invalid-name"));
    paths.push((format!("/v1/kv/a/b/{}/k", "%C3%A4".repeat(128)), "invalid-name"));
    let bad_keys = [
        "",
        "/",
        "//k",
        "k/",
        "k//l",
        ".",
        "..",
        "./k",
        "../k",
        "k/..",
        "k/.",
        "k/../l",
        "%2E",
        "%2e%2e",
        ".%2e",
        "%00",
        "k%00",
        "%1f",
        "%7f",
        "%C2%80",
        "k%0d%0aX:1",
        "%FF",
        "%C3%28",
        "%zz",
        "%",
        "k%2",
        "%F8%88%80%80%80",
    ];
    paths.extend(bad_keys.iter().map(|key| (format!("/v1/kv/a/b/c/{key}"), "invalid-key")));
    paths.push((format!("/v1/kv/a/b/c/{}", "k".repeat(1025)), "invalid-key"));
    paths.push((format!("/v1/kv/a/b/c/{}", "%C3%A4".repeat(513)), "invalid-key"));
    paths
}

#[test]
fn a_name_or_key_that_breaks_a_rule_is_400_and_stores_nothing() {
    let hydra = Hydra::start();
    for (path, code) in refused() {
        let methods: &[&str] = if path.starts_with("/v1/swamps") { &["GET", "DELETE"] } else { &["PUT", "GET"] };
        for method in methods {
            let answer = hydra.send(method, &path, &[], if *method == "PUT" { "1" } else { "" });
            assert_eq!((answer.status, answer.code().as_str()), (400, code), "{method} {path}: {answer:?}");
            assert_eq!(answer.header("hydra-applied"), Some("no"));
        }
    }
    assert_eq!(hydra.data_files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(hydra.get("/health").status, 200);
}

#[test]
fn a_name_or_key_that_keeps_the_rules_is_stored_and_found_again() {
    let hydra = Hydra::start();
    let long_part = "x".repeat(255);
    let long_key = "k".repeat(1024);
    let wide_key = "%C3%A4".repeat(512);
    let paths = [
        "/v1/kv/a/b/c/k".to_owned(),
        "/v1/kv/A/B/C/K".to_owned(),
        "/v1/kv/a/b/c/x/y/z".to_owned(),
        "/v1/kv/a/b/c/x+y".to_owned(),
        "/v1/kv/a/b/c/%20".to_owned(),
        "/v1/kv/a/b/c/a%5Cb*".to_owned(),
        "/v1/kv/a/b/c/...".to_owned(),
        "/v1/kv/a/b/c/x%2F..%2Fy".to_owned(),
        "/v1/kv/a/b/c/%25%34%31".to_owned(),
        "/v1/kv/%C3%A9/e%CC%81/..a/k".to_owned(),
        "/v1/kv/caf\u{e9}/b/c/\u{1f600}".to_owned(),
        "/v1/kv/a%20b/b/c/k".to_owned(),
        "/v1/kv/con/nul/aux/k".to_owned(),
        "/v1/kv/a/b/batch/flush".to_owned(),
        format!("/v1/kv/{long_part}/{long_part}/{long_part}/k"),
        format!("/v1/kv/a/b/c/{long_key}"),
        format!("/v1/kv/a/b/c/{wide_key}"),
    ];
    for (number, path) in paths.iter().enumerate() {
        assert_eq!(hydra.put(path, &number.to_string()).status, 201, "{path}");
    }
    for (number, path) in paths.iter().enumerate() {
        assert_eq!(hydra.get(path).text(), number.to_string(), "{path}");
    }
}

#[test]
fn names_that_look_alike_are_different_swamps() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put("/v1/kv/ab/c/d/k", "1").status, 201);
    assert_eq!(hydra.put("/v1/kv/a/bc/d/k", "2").status, 201);
    assert_eq!(hydra.put("/v1/kv/%C3%A9/b/c/k", "3").status, 201);
    assert_eq!(hydra.put("/v1/kv/e%CC%81/b/c/k", "4").status, 201);
    assert_eq!(hydra.get("/v1/kv/ab/c/d/k").text(), "1");
    assert_eq!(hydra.get("/v1/kv/%c3%a9/b/c/k").text(), "3");
}

#[test]
fn a_slash_in_a_key_is_the_same_encoded_and_plain() {
    let hydra = Hydra::start();
    assert_eq!(hydra.put("/v1/kv/a/b/c/x%2Fy", "1").status, 201);
    assert_eq!(hydra.get("/v1/kv/a/b/c/x/y").text(), "1");
    assert_eq!(hydra.put("/v1/kv/a/b/c/x/y", "2").status, 200);
    assert_eq!(hydra.get("/v1/kv/a/b/c").json()["treasures"][0]["key"], "x/y");
}

#[test]
fn an_absolute_request_target_means_the_same_path() {
    let hydra = Hydra::start();
    hydra.put(KEY_255, "1");
    let answer = hydra.get("http://elsewhere/v1/kv/a/b/c/k");
    assert_eq!(answer.text(), "1");
}

#[test]
fn bytes_that_are_no_request_cost_nobody_else_anything() {
    let hydra = Hydra::start();
    let garbage: [&[u8]; 9] = [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/kv/a/b/c/\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /v1/kv/a/b/c/\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n1",
        b"PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1",
        b"PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n1\r\n0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /v1/kv/a/b/c/k HTTP/1.1\r\nHost: h\r\nBad Header: 1\r\nContent-Length: 1\r\n\r\n1",
    ];
    for bytes in garbage {
        let answer = String::from_utf8_lossy(&hydra.raw(bytes).unwrap_or_default()).into_owned();
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") && answer.contains("hydra-applied: no");
        assert!(refused, "{bytes:?} was answered {answer}");
    }
    assert_eq!(hydra.get("/v1/kv/a/b/c/k").status, 404);
    assert_eq!(hydra.data_files(), Vec::<std::path::PathBuf>::new());
}
