//! Lines out of one server and into another: whole, in little memory, and honest about what failed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hydra_server::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Hydra, Process, Target};

/// The lines of an answer.
fn lines(answer: &Answer) -> Vec<Value> {
    let body = String::from_utf8(answer.content()).expect("UTF-8");
    body.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    lines(answer).pop().expect("a last line")["done"].clone()
}

fn counts(done: &Value) -> [u64; 4] {
    ["lines", "written", "skipped", "failed"].map(|name| done[name].as_u64().unwrap_or_else(|| panic!("{done}")))
}

/// An upload whose pieces are sent one by one, while the answer is read.
struct Upload {
    out: TcpStream,
    answer: BufReader<TcpStream>,
}

impl Upload {
    fn begin(target: Target, path: &str) -> Upload {
        let mut out = target.connect().expect("a connection");
        write!(out, "POST {path} HTTP/1.1\r\nHost: hydra\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sent");
        let answer = BufReader::new(out.try_clone().expect("a clone"));
        Upload { out, answer }
    }

    fn send(&mut self, piece: &str) {
        self.try_send(piece).expect("sent");
    }

    fn try_send(&mut self, piece: &str) -> std::io::Result<()> {
        write!(self.out, "{:x}\r\n{piece}\r\n", piece.len())
    }

    fn end(&mut self) {
        self.out.write_all(b"0\r\n\r\n").expect("sent");
    }

    /// The next line of the answer's body; nothing when it breaks off.
    fn line(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            match self.answer.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.starts_with('{') => return Some(serde_json::from_str(&line).expect("JSON")),
                Ok(_) => {}
            }
        }
    }

    fn last_line(&mut self) -> Option<Value> {
        std::iter::from_fn(|| self.line()).find(|line| line.get("done").is_some())
    }
}

fn record(number: usize) -> String {
    format!("{{\"key\":\"k{number:06}\",\"value\":{{\"n\":{number},\"text\":\"{}\"}}}}\n", "x".repeat(60))
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let hydra = Hydra::start();
    hydra.put("/v1/kv/a/b/c/text", "\"t\u{e4}xt\"");
    hydra.put("/v1/kv/a/b/c/number", "1.0");
    hydra.put("/v1/kv/a/b/c/null", "null");
    hydra.send("PUT", "/v1/kv/a/b/c/png", &[("Content-Type", "image/png")], [0, 255, 7]);
    hydra.put("/v1/kv/a/b/c/later?ttl=1h", "true");
    hydra.put("/v1/kv/a/b/c/gone?ttl=1ms", "true");
    std::thread::sleep(Duration::from_millis(20));
    let exported = hydra.get("/v1/swamps/a/b/c/export");
    assert_eq!(exported.header("content-type"), Some("application/x-ndjson"));
    let keys = |answer: &Answer| lines(answer).iter().map(|line| line["key"].clone()).collect::<Vec<_>>();
    assert_eq!(keys(&exported), ["later", "null", "number", "png", "text"].map(Value::from));
    let treasure = hydra.get("/v1/kv/a/b/c/png?envelope").json();
    assert_eq!(lines(&exported)[3], treasure, "a line is the treasure's envelope");
    assert_eq!(keys(&hydra.get("/v1/swamps/a/b/c/export?expired=only")), ["gone"].map(Value::from));
    assert_eq!(lines(&hydra.get("/v1/swamps/a/b/c/export?expired=include")).len(), 6);
    assert_eq!(keys(&hydra.get("/v1/swamps/a/b/c/export?after=number")), ["png", "text"].map(Value::from));
    assert_eq!(lines(&hydra.get("/v1/swamps/a/b/none/export")).len(), 0);

    let text = String::from_utf8(exported.content()).expect("UTF-8");
    let answer = hydra.post("/v1/swamps/x/y/z/import?sync", &text);
    assert_eq!(answer.header("hydra-durable"), Some("synced"));
    assert_eq!(done(&answer), json!({"lines":5,"written":5,"skipped":0,"failed":0,"durable":"synced","errors":[]}));
    let number = hydra.get("/v1/kv/x/y/z/number");
    assert_eq!(number.text(), "1.0");
    assert_eq!(hydra.get("/v1/kv/x/y/z/png").body, [0, 255, 7]);
    let expires = |path: &str| hydra.get(path).header("hydra-expires-at").map(str::to_owned);
    assert_eq!(expires("/v1/kv/x/y/z/later"), expires("/v1/kv/a/b/c/later"));

    // Without its line ends, as `curl -d @file` sends it, and again: nothing is different afterwards.
    let again = hydra.post("/v1/swamps/x/y/z/import", &text.replace('\n', ""));
    assert_eq!(counts(&done(&again)), [5, 5, 0, 0]);
    assert_eq!(hydra.get("/v1/kv/x/y/z/text").text(), "\"t\u{e4}xt\"");
}

#[test]
fn each_mode_writes_what_it_says() {
    let hydra = Hydra::start();
    hydra.put("/v1/kv/a/b/c/old", "1");
    let body = r#"{"key":"old","value":2,"updatedAt":"2020-01-01T00:00:00.000Z"}
                  {"key":"new","value":2,"updatedAt":"2020-01-01T00:00:00.000Z"}"#;
    let import =
        |mode: &str, body: &str| counts(&done(&hydra.post(&format!("/v1/swamps/a/b/c/import?mode={mode}"), body)));
    assert_eq!(import("create", body), [2, 1, 1, 0]);
    assert_eq!(import("newer", body), [2, 0, 2, 0], "what is here was written later");
    assert_eq!(hydra.get("/v1/kv/a/b/c/old").text(), "1");
    let ahead = body.replace("2020-", "2090-");
    assert_eq!(import("newer", &ahead), [2, 2, 0, 0]);
    assert_eq!(hydra.get("/v1/kv/a/b/c/old").text(), "2");
    assert_eq!(import("newer", r#"{"key":"k","value":2}"#), [1, 0, 0, 1], "there is no time to compare");
    assert_eq!(import("upsert", body), [2, 2, 0, 0]);
    for (path, code) in
        [("?mode=all", "invalid-parameter"), ("?mod=create", "unknown-parameter"), ("?sync=1", "invalid-parameter")]
    {
        let refused = hydra.post(&format!("/v1/swamps/a/b/c/import{path}"), body);
        assert_eq!((refused.status, refused.code().as_str()), (400, code));
    }
    assert_eq!(hydra.get("/v1/swamps/a/b/c/import").status, 405);
    assert_eq!(hydra.get("/v1/swamps/a/b/c/export?expired=all").status, 400);
    assert_eq!(counts(&done(&hydra.post("/v1/swamps/a/b/c/import", ""))), [0, 0, 0, 0]);
}

#[test]
fn a_bad_line_costs_that_line_and_has_its_number() {
    let hydra = Hydra::start();
    let mut body = String::new();
    for number in 1..=3_000 {
        match number {
            17 => body.push_str("{\"key\":\"k17\",\"value\":\n"),
            18 => body.push_str("no JSON at all\n"),
            1_500 => body.push_str("{\"key\":\"..\",\"value\":1}\n"),
            2_000..2_200 => body.push_str("{\"key\":1}\n"),
            _ => body.push_str(&record(number)),
        }
    }
    let done = done(&hydra.post("/v1/swamps/a/b/c/import", &body));
    assert_eq!(counts(&done), [3_000, 2_797, 0, 203]);
    let errors = done["errors"].as_array().expect("errors");
    assert_eq!(errors.len(), 100, "the first are listed, the others counted");
    let first: Vec<(u64, &str)> = errors[..4]
        .iter()
        .map(|e| (e["line"].as_u64().expect("a line"), e["code"].as_str().expect("a code")))
        .collect();
    assert_eq!(first, [(17, "invalid-json"), (18, "invalid-json"), (1_500, "invalid-key"), (2_000, "invalid-body")]);
    assert_eq!(hydra.send("HEAD", "/v1/kv/a/b/c", &[], "").header("hydra-count"), Some("2797"));
}

#[test]
fn progress_comes_while_the_upload_goes_on_and_pauses() {
    let config = Config { header_timeout: Duration::from_millis(500), ..Config::default() };
    let hydra = Hydra::start_with(|_| {}, config);
    let mut upload = Upload::begin(hydra.target, "/v1/swamps/a/b/c/import");
    let mut sent = 0;
    for _ in 0..4 {
        upload.send(&(sent..sent + 1_000).map(record).collect::<String>());
        sent += 1_000;
        let line = upload.line().expect("progress");
        assert!(line["progress"]["lines"].as_u64().expect("lines") <= sent as u64, "{line}");
        // Longer than a slow request head would be waited for.
        std::thread::sleep(Duration::from_millis(400));
    }
    // What came is written and can be read although the upload is not over.
    let deadline = Instant::now() + Duration::from_secs(10);
    while hydra.get("/v1/kv/a/b/c/k003999").status != 200 {
        assert!(Instant::now() < deadline, "the last record never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    upload.end();
    assert_eq!(counts(&upload.last_line().expect("done")["done"]), [4_000, 4_000, 0, 0]);
}

#[test]
fn a_client_that_stops_sending_is_told_and_costs_one_connection() {
    let config = Config { body_timeout: Duration::from_millis(700), ..Config::default() };
    let hydra = Hydra::start_with(|_| {}, config);
    let mut upload = Upload::begin(hydra.target, "/v1/swamps/a/b/c/import");
    upload.send(&(0..1_500).map(record).collect::<String>());
    upload.send("{\"key\":\"half");
    let last = upload.last_line().expect("a last line");
    assert_eq!(last["error"]["code"], "invalid-body");
    assert_eq!(counts(&last["done"]), [1_500, 1_500, 0, 0], "half a line is none");
    let mut rest = Vec::new();
    let _ = upload.answer.read_to_end(&mut rest);
    assert_eq!(hydra.get("/v1/kv/a/b/c/k001499").status, 200);
}

#[test]
fn a_server_that_ends_says_how_far_it_came() {
    let data = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(data.path(), &[]);
    let mut upload = Upload::begin(server.target, "/v1/swamps/a/b/c/import");
    upload.send(&(0..1_000).map(record).collect::<String>());
    while upload.line().expect("progress")["progress"]["written"] != 1_000 {}
    server.signal("TERM");
    let last = upload.last_line().expect("a last line");
    assert_eq!(last["error"]["code"], "draining");
    assert_eq!(counts(&last["done"]), [1_000, 1_000, 0, 0]);
    drop(upload);
    assert_eq!(server.wait(), Some(0));
    let server = Process::start(data.path(), &[]);
    assert_eq!(server.target.get("/v1/kv/a/b/c/k000999").status, 200);
}

#[test]
fn what_a_synced_import_said_was_written_survives_kill_9() {
    let data = tempfile::tempdir().expect("a directory");
    for round in 0..3 {
        let server = Process::start(data.path(), &[]);
        let mut upload = Upload::begin(server.target, &format!("/v1/swamps/a/b/r{round}/import?sync"));
        let mut told = 0;
        let mut sent = 0;
        while told < 2_000 + 1_000 * round {
            upload.send(&(sent..sent + 500).map(record).collect::<String>());
            sent += 500;
            if sent > 4_000 {
                told = upload.line().expect("progress")["progress"]["written"].as_u64().expect("a count") as usize;
            }
        }
        let path = format!("/v1/kv/a/b/r{round}");
        server.kill();
        let server = Process::start(data.path(), &[]);
        let count = server.target.send("HEAD", &path, &[], "");
        let count: usize = count.header("hydra-count").expect("a count").parse().expect("a number");
        assert!(count >= told, "{told} were acknowledged, {count} are here");
        assert_eq!(server.target.get(&format!("{path}/k{:06}", told - 1)).status, 200, "in the order they came");
        // The whole file again.
        let all: String = (0..sent).map(record).collect();
        assert_eq!(
            counts(&done(&server.target.post(&format!("/v1/swamps/a/b/r{round}/import?sync"), &all)))[1],
            sent as u64
        );
        server.kill();
    }
}

/// How much memory a process has taken, in MiB.
fn resident_mib(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") / 1024
}

#[test]
fn two_hundred_thousand_lines_go_up_and_down_in_little_memory() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Process::start(data.path(), &["--memory", "64MiB"]);
    let target = server.target;
    let before = resident_mib(&server);
    // 200 000 lines of about 500 bytes: 100 MB, in swamps of 2 000.
    let mut upload = Upload::begin(target, "/v1/import");
    let pad = "y".repeat(440);
    for part in 0..200 {
        let line =
            |n: usize| format!("{{\"swamp\":\"users/all/u{:03}\",\"key\":\"k{n}\",\"value\":\"{pad}\"}}\n", n / 2_000);
        upload.send(&(part * 1_000..(part + 1) * 1_000).map(line).collect::<String>());
    }
    upload.end();
    let last = upload.last_line().expect("a last line");
    assert_eq!(counts(&last["done"]), [200_000, 200_000, 0, 0], "{last}");
    let after_import = resident_mib(&server);
    assert!(after_import < before + 220, "{before} MiB before, {after_import} MiB at the highest");

    let mut stream = target.connect().expect("a connection");
    stream
        .write_all(b"GET /v1/export?pattern=users/*/* HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut exported = BufReader::with_capacity(1 << 16, stream);
    let (mut count, mut line) = (0, String::new());
    while exported.read_line(&mut line).expect("a line") > 0 {
        count += usize::from(line.starts_with("{\"swamp\":\"users/all/u"));
        line.clear();
        if count == 20_000 {
            // A reader that rests: the server does not go on without it.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    assert_eq!(count, 200_000);
    let after_export = resident_mib(&server);
    println!("{before} MiB at the start, {after_import} MiB after the import, {after_export} MiB after the export");
    assert!(after_export < after_import + 60, "{after_import} MiB before, {after_export} MiB at the highest");
}

#[test]
fn an_export_goes_on_while_others_write_and_evict() {
    let hydra =
        Hydra::start_with(|options| options.default_policy.idle_evict = Duration::from_millis(20), Config::default());
    let steady: String = (0..10_000).map(record).collect();
    assert_eq!(counts(&done(&hydra.post("/v1/swamps/a/b/c/import?sync", &steady)))[1], 10_000);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                hydra.put(&format!("/v1/kv/a/b/c/k{:06}x", n % 10_000), "true");
                hydra.delete(&format!("/v1/kv/a/b/c/k{:06}x", (n + 5_000) % 10_000));
            }
        });
        for _ in 0..3 {
            let mut stream = hydra.connect().expect("a connection");
            stream
                .write_all(b"GET /v1/swamps/a/b/c/export HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .expect("sent");
            let mut keys = Vec::new();
            for (number, line) in BufReader::with_capacity(4096, stream).lines().enumerate() {
                let line = line.expect("a line");
                if let Some(rest) = line.strip_prefix("{\"key\":\"") {
                    keys.push(rest[..rest.find('"').expect("an end")].to_owned());
                }
                if number == 50 {
                    // Long enough for the swamp to leave memory, were it not written to; and no writer waits for this reader.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            assert!(keys.is_sorted_by(|a, b| a < b), "in order, each at most once");
            assert_eq!(
                keys.iter().filter(|key| !key.ends_with('x')).count(),
                10_000,
                "what nobody touched is all there"
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn imports_and_exports_of_many_swamps_keep_to_folders_and_patterns() {
    let hydra = Hydra::start_with(|options| options.owned = "0-49".parse().ok(), Config::default());
    // alice is in folder 62, which is not here.
    let long = "L".repeat(250);
    let mut body =
        "{\"swamp\":\"users/profiles/alice\",\"key\":\"k\",\"value\":1}\n{\"key\":\"k\",\"value\":1}\n".to_owned();
    let count = hydra_core::FolderCount::DEFAULT;
    let here: Vec<String> = (0..200)
        .map(|n| if n % 50 == 0 { format!("users/profiles/{long}{n}") } else { format!("users/pro%files/\u{e4} {n}") })
        .filter(|name| name.parse().is_ok_and(|name| hydra_core::folder_of(&name, count).get() < 50))
        .collect();
    for name in &here {
        body.push_str(&format!("{}\n", json!({"swamp": name, "key": "k", "value": name})));
    }
    let done = done(&hydra.post("/v1/import", &body));
    assert_eq!(counts(&done), [here.len() as u64 + 2, here.len() as u64, 0, 2]);
    assert_eq!((&done["errors"][0]["code"], &done["errors"][1]["code"]), (&json!("not-owner"), &json!("invalid-body")));

    let names = |path: &str| {
        let mut names: Vec<String> =
            lines(&hydra.get(path)).iter().map(|line| line["swamp"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    };
    let mut all = here.clone();
    all.sort();
    assert_eq!(names("/v1/export"), all);
    let split = [names("/v1/export?folders=0-20"), names("/v1/export?folders=21-49")].concat();
    assert_eq!(split.len(), all.len());
    assert_eq!(
        names("/v1/export?pattern=users/profiles/*").len(),
        here.iter().filter(|name| name.contains(&long)).count()
    );
    assert!(names("/v1/export?pattern=nobody/*/*").is_empty());
    for (path, status) in [("?folders=50", 421), ("?folders=100", 400), ("?folders=x", 400), ("?pattern=a/b", 400)] {
        assert_eq!(hydra.get(&format!("/v1/export{path}")).status, status, "{path}");
    }
}

#[test]
fn an_export_of_a_damaged_swamp_does_not_look_whole() {
    let mut hydra = Hydra::start();
    hydra.put("/v1/kv/a/b/c/k?sync", "1");
    hydra.put("/v1/kv/a/b/d/k?sync", "1");
    crate::support::block_on(hydra.take_server().shutdown()).expect("ended");
    let file = hydra
        .data_files()
        .into_iter()
        .find(|path| path.is_file() && path.parent().is_some_and(|dir| dir.ends_with("c")));
    let file = file.expect("a file");
    let mut bytes = std::fs::read(&file).expect("read");
    let at = bytes.len() / 2 + 30;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let server = Process::start(hydra.dir.path(), &["--id", "s1"]);
    let answer =
        server.target.raw(b"GET /v1/export HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("\"swamp\":\"a/b/d\"") && text.contains("\"code\":\"corrupt-swamp\""), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "it broke off: {text}");
}
