//! gzip in answers and in the bodies of imports: for those who ask for it, and never more than a limit allows.

use std::io::{Read, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::{Answer, Hydra, Process};

const ASKED: [(&str, &str); 1] = [("Accept-Encoding", "br, gzip")];
const PACKED: [(&str, &str); 1] = [("Content-Encoding", "gzip")];

fn pack(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

/// What is in an answer that has to be packed.
fn unpacked(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("gzip"), "{:?}", answer.status);
    assert!(answer.header_lines("vary").any(|line| line.contains("accept-encoding")), "{:?}", answer.header("vary"));
    let mut out = Vec::new();
    MultiGzDecoder::new(answer.content().as_slice()).read_to_end(&mut out).expect("gzip");
    out
}

fn last_line(answer: &Answer) -> Value {
    let text = String::from_utf8(answer.content()).expect("UTF-8");
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{answer:?}"))).expect("JSON")
}

fn line(key: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}\n", "some text ".repeat(5))
}

#[test]
fn long_texts_come_packed_for_those_who_ask_and_hold_the_same() {
    let hydra = Hydra::start();
    let lines: String = (0..3_000).map(|n| line(&format!("k{n:04}"))).collect();
    hydra.post("/v1/swamps/a/b/c/import", &lines);
    hydra.put("/v1/kv/a/b/d/long", &format!("[{}1]", "1.50, ".repeat(2_000)));
    let ndjson = ("Accept", "application/x-ndjson");
    for (path, headers) in [
        ("/v1/kv/a/b/d/long", vec![]),
        ("/v1/kv/a/b/d/long?envelope", vec![]),
        ("/v1/kv/a/b/c?limit=3000", vec![]),
        ("/v1/kv/a/b/c", vec![ndjson]),
        ("/v1/swamps/a/b/c/export", vec![]),
        ("/openapi.json", vec![]),
        ("/ui", vec![]),
    ] {
        let plain = hydra.send("GET", path, &headers, "");
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert!(plain.header_lines("vary").any(|line| line.contains("accept-encoding")), "{path} varies");
        let packed = hydra.send("GET", path, &[&headers[..], &ASKED].concat(), "");
        assert_eq!(unpacked(&packed), plain.content(), "{path}");
        assert!(packed.body.len() < plain.body.len() / 2, "{path}: {} of {}", packed.body.len(), plain.body.len());
        assert_eq!(packed.header("content-type"), plain.header("content-type"), "{path}");
        let refused = hydra.send("GET", path, &[&headers[..], &[("Accept-Encoding", "gzip;q=0, *")]].concat(), "");
        assert_eq!(refused.header("content-encoding"), None, "{path}");
    }
    let head = hydra.send("HEAD", "/v1/kv/a/b/d/long", &ASKED, "");
    assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
}

#[test]
fn what_is_short_or_no_text_or_has_to_be_there_at_once_comes_as_it_is() {
    let hydra = Hydra::start();
    let long = "x".repeat(5_000);
    hydra.put("/v1/kv/a/b/c/short", &format!("\"{}\"", "x".repeat(1_022)));
    hydra.send("PUT", "/v1/kv/a/b/c/picture", &[("Content-Type", "image/png")], &long);
    for path in ["/v1/kv/a/b/c/short", "/v1/kv/a/b/c/picture", "/health", "/v1/folders/0/archive"] {
        let answer = hydra.send("GET", path, &ASKED, "");
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path}");
    }
    let refused = hydra.send("GET", &format!("/v1/kv/a/b/c/{long}"), &ASKED, "");
    assert_eq!((refused.code().as_str(), refused.header("content-encoding")), ("invalid-key", None));
    // The answer to a long import, and a feed: both begin while there is nothing to say yet.
    let lines: String = (0..3_000).map(|n| line(&format!("k{n:04}"))).collect();
    let imported = hydra.send("POST", "/v1/swamps/a/b/c/import", &ASKED, &lines);
    assert_eq!(imported.header("content-encoding"), None);
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let mut feed = hydra.connect().expect("a connection");
        let request = format!(
            "GET /v1/swamps/a/b/c/events?snapshot=true HTTP/1.1\r\nHost: hydra\r\nAccept: {accept}\r\n\
             Accept-Encoding: gzip\r\n\r\n"
        );
        feed.write_all(request.as_bytes()).expect("sent");
        let head = Answer::read(&mut feed);
        assert_eq!((head.status, head.header("content-encoding")), (200, None), "{accept}");
    }
}

#[test]
fn the_tag_of_a_packed_answer_is_the_version() {
    let hydra = Hydra::start();
    let (path, long) = ("/v1/kv/a/b/c/k", format!("\"{}\"", "x".repeat(5_000)));
    let version = hydra.put(path, &long).etag();
    let packed = hydra.send("GET", path, &ASKED, "");
    assert_eq!((unpacked(&packed), packed.etag()), (long.clone().into_bytes(), version.clone()));
    let unchanged = hydra.send("GET", path, &[ASKED[0], ("If-None-Match", &version)], "");
    assert_eq!((unchanged.status, unchanged.header("content-encoding")), (304, None));
    assert_eq!(hydra.send("PUT", path, &[("If-Match", &version)], &long).status, 200);
    let shown = hydra.send("PUT", path, &[ASKED[0], ("Prefer", "return=representation")], &long);
    assert_eq!(unpacked(&shown), long.into_bytes());
}

#[test]
fn imports_take_gzip_and_nothing_else() {
    let hydra = Hydra::start();
    let path = "/v1/swamps/a/b/c/import";
    let short = hydra.send("POST", path, &PACKED, pack(line("a").as_bytes()));
    assert_eq!((short.status, &last_line(&short)["done"]["written"]), (200, &1.into()), "{short:?}");
    let two = [pack(line("b").as_bytes()), pack(line("c").as_bytes())].concat();
    assert_eq!(last_line(&hydra.send("POST", path, &PACKED, two))["done"]["written"], 2);
    let many: String = (0..30_000).map(|n| line(&format!("k{n:05}"))).collect();
    assert_eq!(last_line(&hydra.send("POST", path, &PACKED, pack(many.as_bytes())))["done"]["written"], 30_000);
    let named = "{\"swamp\":\"a/b/d\",\"key\":\"k\",\"value\":1}\n";
    assert_eq!(last_line(&hydra.send("POST", "/v1/import", &PACKED, pack(named.as_bytes())))["done"]["written"], 1);
    assert_eq!(last_line(&hydra.send("POST", path, &PACKED, ""))["done"]["lines"], 0);

    for other in ["br", "zstd", "deflate", "gzip, gzip"] {
        let refused = hydra.send("POST", path, &[("Content-Encoding", other)], line("n"));
        assert_eq!((refused.status, refused.code().as_str()), (415, "unsupported-media-type"), "{other}");
    }
    for (method, elsewhere) in [("PUT", "/v1/kv/a/b/c/n"), ("POST", "/v1/batch"), ("POST", "/v1/swamps/a/b/c/query")] {
        assert_eq!(hydra.send(method, elsewhere, &PACKED, pack(b"1")).status, 415, "{elsewhere}");
    }
    assert_eq!(hydra.send("POST", path, &PACKED, line("n")).code(), "invalid-body");
    assert_eq!(hydra.get("/v1/kv/a/b/c/n").status, 404);
}

#[test]
fn a_packed_import_that_breaks_off_says_so_and_keeps_what_was_acknowledged() {
    let hydra = Hydra::start();
    let path = "/v1/swamps/a/b/c/import";
    let packed = pack(line("a").as_bytes());
    let cut = hydra.send("POST", path, &PACKED, &packed[..packed.len() - 1]);
    let problem = match cut.status {
        200 => last_line(&cut)["error"].clone(),
        _ => cut.json(),
    };
    assert_eq!(problem["code"], "invalid-body", "{cut:?}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("no whole gzip")), "{problem}");
    let behind = [packed, line("b").into_bytes()].concat();
    let answer = hydra.send("POST", path, &PACKED, behind);
    let problem = if answer.status == 200 { last_line(&answer)["error"].clone() } else { answer.json() };
    assert_eq!(problem["code"], "invalid-body", "{answer:?}");
    assert_eq!(hydra.get("/v1/kv/a/b/c/b").status, 404);
}

/// 1 GiB of nothing in 1 MiB, and 1 GiB without a line break: neither takes memory, and the second is one line too long.
#[test]
fn a_bomb_takes_neither_memory_nor_the_time_of_others() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let server = Process::start(dir.path(), &[]);
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak").to_owned();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
    };
    let bomb = |byte: u8| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let piece = vec![byte; 1 << 20];
        (0..256).for_each(|_| encoder.write_all(&piece).expect("a vector takes everything"));
        encoder.finish().expect("a vector takes everything")
    };
    server.target.put("/v1/kv/a/b/c/k", "1");
    let before = peak();
    let (blank, endless) = (bomb(b' '), bomb(b'['));
    assert!(blank.len() < 1 << 20, "{}", blank.len());
    std::thread::scope(|scope| {
        let blank = scope.spawn(|| server.target.send("POST", "/v1/swamps/a/b/c/import", &PACKED, &blank));
        let endless = scope.spawn(|| server.target.send("POST", "/v1/swamps/a/b/c/import", &PACKED, &endless));
        while !(blank.is_finished() && endless.is_finished()) {
            assert_eq!(server.target.get("/v1/kv/a/b/c/k").status, 200);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(last_line(&blank.join().expect("no panic"))["done"]["lines"], 0);
        let done = last_line(&endless.join().expect("no panic"))["done"].clone();
        assert_eq!((&done["written"], &done["failed"]), (&0.into(), &1.into()), "{done}");
    });
    assert!(peak() - before < 128, "{before} MiB before, {} MiB at the most", peak());
}
