use std::io::{Read, Write};
use std::time::{Duration, Instant};

use hydra_server::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Hydra};

const SWAMP: &str = "/v1/kv/shop/orders/eu";
const QUERY: &str = "/v1/swamps/shop/orders/eu/query";
const NDJSON: &[(&str, &str)] = &[("Accept", "application/x-ndjson")];

/// Ten orders: every third is open, totals go down.
fn orders(hydra: &Hydra) {
    for n in 0..10 {
        let status = if n % 3 == 0 { "open" } else { "done" };
        hydra.put(&format!("{SWAMP}/o{n}"), &format!(r#"{{"status":"{status}","total":{}}}"#, 100 - n));
    }
}

fn keys(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = |treasure: &Value| treasure["key"].as_str().expect("a key").to_owned();
    answer.json()["treasures"].as_array().expect("a list").iter().map(text).collect()
}

/// The lines of an answer that came in pieces.
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let body = if answer.header("transfer-encoding") == Some("chunked") {
        unchunked(&answer.body)
    } else {
        answer.body.clone()
    };
    let text = String::from_utf8(body).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON in each line")).collect()
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("the length of a piece");
        let length = std::str::from_utf8(&bytes[..end]).expect("text");
        let length = usize::from_str_radix(length, 16).expect("a number");
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 2 + length + 2..];
    }
}

#[test]
fn a_list_has_the_order_and_the_conditions_asked_for() {
    let hydra = Hydra::start();
    orders(&hydra);
    let list = |query: &str| keys(&hydra.get(&format!("{SWAMP}?{query}")));
    assert_eq!(list("order=value:/total&limit=3"), ["o9", "o8", "o7"]);
    assert_eq!(list("where=/status+%3D%3D+%22open%22&order=value:/total"), ["o9", "o6", "o3", "o0"]);
    assert_eq!(list("where=/status+%3D%3D+%22open%22&where=/total+%3E+95&dir=desc"), ["o3", "o0"]);
    assert_eq!(
        list(&"where={'not':{'path':'/total','op':'in','value':[100,99,98.0]}}&to=o4".replace('\'', "%22")),
        ["o3"]
    );
    assert_eq!(list("from=o3&to=o5"), ["o3", "o4"]);
    hydra.put(&format!("{SWAMP}/o4"), "{}");
    assert_eq!(list("order=updated&dir=desc&limit=2"), ["o4", "o9"]);
    assert_eq!(list("order=created&limit=2"), ["o0", "o1"]);
    assert_eq!(list("order=value:/total&dir=desc").last().map(String::as_str), Some("o4"), "without it, the last");
    hydra.put(&format!("{SWAMP}/late?expires_at=2001-01-01T00:00:00Z"), "{}");
    hydra.put(&format!("{SWAMP}/soon?ttl=1h"), "{}");
    assert_eq!(list("order=expires&limit=1"), ["soon"]);
    assert_eq!(list("order=expires&expired=include&limit=2"), ["late", "soon"]);
    assert_eq!(list("expired=only"), ["late"]);
}

#[test]
fn a_query_says_the_same_in_a_body() {
    let hydra = Hydra::start();
    orders(&hydra);
    let body = r#"{"where":{"or":[{"path":"/total","op":">=","value":99},{"path":"/status","op":"starts","value":"op"}]},
        "order":"value:/total","dir":"desc","limit":3}"#;
    let first = hydra.post(QUERY, body);
    assert_eq!(keys(&first), ["o0", "o1", "o3"]);
    let mut next: Value = serde_json::from_str(body).expect("JSON");
    next["cursor"] = first.json()["nextCursor"].clone();
    for (method, path) in [("QUERY", SWAMP), ("POST", QUERY)] {
        let length = next.to_string().len().to_string();
        let headers = if method == "QUERY" { vec![("Content-Length", length.as_str())] } else { Vec::new() };
        let answer = hydra.send(method, path, &headers, next.to_string());
        assert_eq!((keys(&answer), &answer.json()["nextCursor"]), (vec!["o6".into(), "o9".into()], &Value::Null));
    }
    assert_eq!(keys(&hydra.post(QUERY, "")).len(), 10, "nothing asks for everything");
    let picked = hydra.post(QUERY, r#"{"keys":["o2","x","o1"],"include":"keys"}"#).json();
    assert_eq!(picked["treasures"], json!([{"key":"o2"},{"key":"o1"}]));
    assert_eq!(picked["missing"], json!(["x"]));
    let same = hydra.get(&format!("{SWAMP}?key=o2&key=x&key=o1&include=keys")).json();
    assert_eq!(same, picked);
}

#[test]
fn hostile_filters_bounds_and_cursors_are_refused_with_the_place() {
    let hydra = Hydra::start();
    orders(&hydra);
    let deep = format!("{}{}{}", "{\"not\":".repeat(100), r#"{"path":"/a","op":"exists"}"#, "}".repeat(100));
    let many = format!("{{\"or\":[{}]}}", vec![r#"{"path":"/a","op":"exists"}"#; 5_000].join(","));
    let bottomless = "[".repeat(200_000);
    for (filter, place) in [
        (deep.as_str(), "where.not.not"),
        (many.as_str(), "256 tests"),
        (r#"{"and":[{"path":"/a","op":"=~","value":1}]}"#, "where.and[0].op"),
        (r#"{"path":"/a","op":"==","value":1,"path":"/b"}"#, "where"),
        (r#"{"path":"a","op":"==","value":1}"#, "where.path"),
        ("[]", "where"),
    ] {
        let answer = hydra.post(QUERY, &format!("{{\"where\":{filter}}}"));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-filter"), "{filter:.60}");
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(place)), "{}", answer.text());
    }
    for (body, code) in [
        (format!("{{\"where\":{bottomless}"), "invalid-body"),
        (r#"{"order":"value:total"}"#.to_owned(), "invalid-parameter"),
        (r#"{"limit":100000}"#.to_owned(), "invalid-parameter"),
        (r#"{"prefix":"PPP"}"#.replace("PPP", &"p".repeat(2_000)), "invalid-parameter"),
        (r#"{"cursor":"!!!!"}"#.to_owned(), "invalid-cursor"),
        (format!("{{\"cursor\":\"{}\"}}", "A".repeat(500_000)), "invalid-cursor"),
        (r#"{"keys":["\u0000lock"]}"#.to_owned(), "invalid-key"),
        (r#"{"filter":{}}"#.to_owned(), "invalid-body"),
    ] {
        let answer = hydra.post(QUERY, &body);
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{body:.60}");
    }
    let long = format!("{{\"cursor\":\"{}\"}}", "A".repeat(2 << 20));
    assert_eq!(hydra.post(QUERY, &long).code(), "body-too-large");
    // A cursor of one query means nothing to another.
    let page = hydra.get(&format!("{SWAMP}?order=value:/total&limit=2")).json();
    let cursor = page["nextCursor"].as_str().expect("more");
    for query in ["order=updated", "order=value:/status", "order=value:/total&dir=desc", "order=value:/total&to=z", ""]
    {
        let answer = hydra.get(&format!("{SWAMP}?{query}&cursor={cursor}"));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-cursor"), "{query}");
    }
    for cut in 1..cursor.len() {
        let answer = hydra.get(&format!("{SWAMP}?order=value:/total&cursor={}", &cursor[..cut]));
        assert_eq!(answer.status, 400, "cut at {cut}");
    }
    for query in ["where=", "where=/a", "where=/a+%3D%3D+x", "where=/a+exists&where={"] {
        assert_eq!(hydra.get(&format!("{SWAMP}?{query}")).code(), "invalid-filter", "{query}");
    }
}

#[test]
fn the_link_to_the_next_page_can_be_followed_to_the_end() {
    let hydra = Hydra::start();
    orders(&hydra);
    let mut path = format!("{SWAMP}?where=/total+%3C+100&order=value:/total&limit=4");
    let mut seen = Vec::new();
    for expected in [4, 4, 1] {
        let answer = hydra.get(&path);
        seen.extend(keys(&answer));
        assert_eq!(keys(&answer).len(), expected);
        if expected == 1 {
            assert_eq!(answer.header("link"), None);
        } else {
            let link = answer.header("link").expect("a link");
            path =
                link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("next").to_owned();
        }
    }
    assert_eq!(seen, ["o9", "o8", "o7", "o6", "o5", "o4", "o3", "o2", "o1"]);
}

#[test]
fn head_counts_what_meets_the_conditions() {
    let hydra = Hydra::start();
    orders(&hydra);
    hydra.put(&format!("{SWAMP}/late?expires_at=2001-01-01T00:00:00Z"), "{}");
    let count =
        |query: &str| hydra.send("HEAD", &format!("{SWAMP}{query}"), &[], "").header("hydra-count").map(str::to_owned);
    assert_eq!(count("").as_deref(), Some("10"));
    assert_eq!(count("?where=/status+%3D%3D+%22open%22").as_deref(), Some("4"));
    assert_eq!(count("?prefix=o&from=o8").as_deref(), Some("2"));
    assert_eq!(count("?expired=include").as_deref(), Some("11"));
    assert_eq!(count("?where=/status+%3D%3D+%22none%22").as_deref(), Some("0"));
    assert_eq!(hydra.send("HEAD", "/v1/kv/no/such/swamp?prefix=a", &[], "").status, 404);
    assert_eq!(hydra.send("HEAD", &format!("{SWAMP}?limit=1"), &[], "").status, 400);
}

#[test]
fn lines_come_one_by_one_with_every_condition() {
    let hydra = Hydra::start();
    orders(&hydra);
    hydra.put(&format!("{SWAMP}/o5"), "{\n  \"total\": 95,\r\n  \"text\": \"a\\nb\"\n}");
    let all = lines(&hydra.send("GET", &format!("{SWAMP}?order=value:/total"), NDJSON, ""));
    assert_eq!((all.len(), &all[0]["key"], &all[4]["value"]["text"]), (10, &json!("o9"), &json!("a\nb")));
    let some = lines(&hydra.send("GET", &format!("{SWAMP}?limit=3&include=keys"), NDJSON, ""));
    assert_eq!(some, [json!({"key":"o0"}), json!({"key":"o1"}), json!({"key":"o2"})]);
    let open = r#"{"where":{"path":"/status","op":"==","value":"open"}}"#;
    assert_eq!(lines(&hydra.send("POST", QUERY, NDJSON, open)).len(), 4);
    assert_eq!(lines(&hydra.send("GET", "/v1/kv/no/such/swamp", NDJSON, "")), [json!(null); 0]);
    assert_eq!(hydra.send("GET", &format!("{SWAMP}?cursor=x"), NDJSON, "").code(), "invalid-cursor");
}

#[test]
fn a_slow_reader_of_lines_holds_up_nobody_and_nothing() {
    let hydra = Hydra::start_with(
        |options| {
            options.default_policy.write_interval = Duration::from_millis(1);
            options.default_policy.idle_evict = Duration::ZERO;
        },
        Config::default(),
    );
    // Far more than fits between a server and a reader that does not read.
    let value = format!("\"{}\"", "x".repeat(10_000));
    for part in 0..8 {
        let ops: Vec<Value> = (0..500)
            .map(|n| json!({"op":"put","key":format!("k{:05}", part * 500 + n),"value":serde_json::from_str::<Value>(&value).expect("JSON")}))
            .collect();
        assert_eq!(hydra.post("/v1/swamps/shop/orders/eu/batch", &json!({"ops":ops}).to_string()).status, 200);
    }
    let mut slow = hydra.connect().expect("a connection");
    let request =
        format!("GET {SWAMP} HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n");
    slow.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 1_000];
    slow.read_exact(&mut head).expect("it has begun");
    // Writes go on, and the swamp leaves memory while the reader thinks.
    for n in 0..20 {
        assert!(hydra.put(&format!("{SWAMP}/k9{n}"), "1").status < 300);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while !hydra
        .get("/metrics")
        .text()
        .lines()
        .any(|line| line.starts_with("hydra_resident_swamps") && line.ends_with(" 0"))
    {
        assert!(Instant::now() < until, "the swamp stays in memory:\n{}", hydra.get("/metrics").text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut rest = head.to_vec();
    slow.read_to_end(&mut rest).expect("the rest");
    let answer = Answer::parse(&rest).expect("an answer");
    let keys: Vec<String> = lines(&answer).iter().map(|line| line["key"].as_str().expect("a key").to_owned()).collect();
    assert!(keys.is_sorted() && keys.len() >= 4_000, "{}", keys.len());
    assert!((0..4_000).all(|n| keys.binary_search(&format!("k{n:05}")).is_ok()));
}

#[test]
fn swamps_are_listed_by_folder_page_by_page_and_line_by_line() {
    let hydra = Hydra::start();
    for n in 0..30 {
        hydra.put(&format!("/v1/kv/users/p{}/u{n}/k", n % 2), "1");
    }
    hydra.put("/v1/kv/other/A%20B/x/k", "1");
    let mut seen: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = hydra.get(&format!("/v1/swamps?limit=7{cursor}")).json();
        seen.extend(page["swamps"].as_array().expect("a list").clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 31);
    assert!(seen.is_sorted_by_key(|one| one["folder"].as_u64()));
    assert_eq!(lines(&hydra.send("GET", "/v1/swamps", NDJSON, "")), seen);
    assert_eq!(seen[0].as_object().expect("an object").len(), 2, "name and folder");
    let count = |path: &str| hydra.get(path).json()["swamps"].as_array().map(Vec::len);
    assert_eq!(count("/v1/swamps/users?limit=100"), Some(30));
    assert_eq!(count("/v1/swamps/users/p1?limit=100"), Some(15));
    assert_eq!(count("/v1/swamps/users/p1?prefix=u1"), Some(6));
    assert_eq!(count("/v1/swamps/none"), Some(0));
    let info = hydra.get("/v1/swamps/other/A%20B?include=info").json()["swamps"][0].clone();
    assert_eq!((&info["name"], &info["loaded"], &info["count"]), (&json!("other/A B/x"), &json!(true), &json!(1)));
    assert!(info["hash"].as_str().is_some_and(|hash| hash.len() == 16) && info["files"].is_u64());
    let one = hydra.get("/v1/swamps/other/A%20B/x").json();
    assert_eq!((&one["loaded"], &one["folder"]), (&json!(true), &info["folder"]));
    for (path, code) in [
        ("/v1/swamps?limit=0", "invalid-parameter"),
        ("/v1/swamps?include=all", "invalid-parameter"),
        ("/v1/swamps?cursor=AAAA", "invalid-cursor"),
        ("/v1/swamps?folders=7-900", "invalid-parameter"),
        ("/v1/swamps?folders=x", "invalid-parameter"),
        ("/v1/swamps/a*", "invalid-name"),
        ("/v1/swamps/a%2Fb", "invalid-name"),
        ("/v1/swamps/%FF", "invalid-name"),
    ] {
        let answer = hydra.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{path}");
    }
    assert_eq!(hydra.send("DELETE", "/v1/swamps/users", &[], "").status, 405);
}
