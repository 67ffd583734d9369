//! What is about many servers at once: lists of swamps, imports, exports and folders.

use std::io::{Read, Write};
use std::time::Duration;

use hydra_core::wire::treasure_path;
use hydra_router::Config;
use hydra_sdk::{ClientMap, PoolBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, Node, Pair, Router, Target, impatient, name_in, pair_map};

/// The names of a list, in order.
fn names(body: &Value) -> Vec<String> {
    let swamps = body["swamps"].as_array().expect("swamps");
    swamps.iter().map(|listed| listed["name"].as_str().expect("a name").to_owned()).collect()
}

/// Everything that is listed with these parameters, page by page.
fn pages(router: &Target, path: &str, parameters: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = router.get(&format!("{path}?{parameters}{cursor}"));
        assert_eq!(page.status, 200, "{page:?}");
        let body = page.json();
        found.extend(names(&body));
        match body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// A server that owns some folders and keeps copies of none.
fn owner(id: &'static str, folders: &str) -> Node {
    Node::start_with(id, |options| options.owned = Some(folders.parse().expect("folders")))
}

fn fill(router: &Target, count: usize) {
    let line = |n: usize| format!("{{\"swamp\":\"users/p{}/u{n}\",\"key\":\"k\",\"value\":{n}}}\n", n % 3);
    let body: String = (0..count).map(line).collect();
    let answer = router.post("/v1/import", &body);
    let last = last_line(&answer);
    assert_eq!((answer.status, &last["done"]["written"]), (200, &json!(count)), "{answer:?}");
}

fn last_line(answer: &Answer) -> Value {
    let text = answer.text();
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn swamps_of_all_servers_are_one_list_by_folder_and_path() {
    let pair = Pair::start();
    fill(&pair, 200);
    let all = names(&pair.get("/v1/swamps?limit=1000").json());
    assert_eq!(all.len(), 200);
    let mut expected = Vec::new();
    for (node, folders) in [(&pair.s1, "0-49"), (&pair.s2, "50-99")] {
        expected.extend(names(&node.ask("GET", &format!("/v1/swamps?limit=1000&folders={folders}"), "").json()));
    }
    assert_eq!(all, expected, "a server's own list is by folder and path, and so is that of all");
    for limit in [1, 7, 200] {
        assert_eq!(pages(&pair, "/v1/swamps", &format!("limit={limit}")), all, "pages of {limit}");
    }
    let of_realm: Vec<String> = all.iter().filter(|name| name.starts_with("users/p1/")).cloned().collect();
    assert_eq!(pages(&pair, "/v1/swamps/users/p1", "limit=9"), of_realm);
    assert_eq!(pages(&pair, "/v1/swamps", "limit=100&prefix=users/p1/"), of_realm);
    assert_eq!(pages(&pair, "/v1/swamps/users", "limit=50&folders=0-9,60").len(), {
        let listed = pair.get("/v1/swamps?limit=1000&folders=0-9,60").json();
        assert!(listed["swamps"].as_array().expect("a list").iter().all(|swamp| {
            let folder = swamp["folder"].as_u64().expect("a folder");
            folder < 10 || folder == 60
        }));
        names(&listed).len()
    });
    let lines = pair.send("GET", "/v1/swamps?include=info", &[("Accept", "application/x-ndjson")], "");
    let listed: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(listed.iter().map(|listed| listed["name"].as_str().expect("a name")).collect::<Vec<_>>(), all);
    assert!(listed.iter().all(|listed| listed["count"] == 1), "{lines:?}");
    for (path, code) in [
        ("/v1/swamps?limit=0", "invalid-parameter"),
        ("/v1/swamps?limits=5", "unknown-parameter"),
        ("/v1/swamps?folders=5-100", "invalid-parameter"),
        ("/v1/swamps?cursor=AAAA", "invalid-cursor"),
        ("/v1/swamps?include=all", "invalid-parameter"),
        ("/v1/swamps/a%00", "invalid-name"),
    ] {
        let refused = pair.get(path);
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{path}");
    }
    assert_eq!(pair.put("/v1/swamps", "1").code(), "method-not-allowed");
}

#[test]
fn a_cursor_survives_a_change_of_the_map() {
    let s1 = owner("s1", "0-99");
    let s2 = owner("s2", "50-99");
    let map = |epoch: u64, first: &str, rest: &[(&str, &str)]| {
        let builder = ClientMap::builder().epoch(epoch).folders(100).settings(impatient());
        let builder = builder.server("s1", s1.url()).server("s2", s2.url()).route(first, "s1", [""; 0]);
        rest.iter().fold(builder, |map, (folders, id)| map.route(*folders, *id, [""; 0])).build().expect("a map")
    };
    let router = Router::start(map(1, "0-99", &[]), Config::default());
    fill(&router, 120);
    let all = pages(&router, "/v1/swamps", "limit=1000");
    // The files of half of the folders go to the other server, as any copy tool would bring them.
    assert_eq!(s1.ask("POST", "/v1/flush", "").status, 204);
    for folder in 50..100 {
        let path = format!("/v1/folders/{folder}/archive");
        let archive = s1.ask("GET", &path, "");
        let put = s2.target().send_to_any("PUT", &path, &[], &archive.body);
        assert_eq!((archive.status, put.status), (200, 200), "{put:?}");
    }
    for stop in [10, 70] {
        router.hydra.set_map(map(1, "0-99", &[])).ok();
        let first = router.get(&format!("/v1/swamps?limit={stop}")).json();
        let cursor = first["nextCursor"].as_str().expect("a cursor").to_owned();
        let epoch = router.hydra.map().expect("a map").epoch() + 1;
        router.hydra.set_map(map(epoch, "0-49", &[("50-99", "s2")])).expect("in force");
        let rest = router.get(&format!("/v1/swamps?limit=1000&cursor={cursor}")).json();
        assert_eq!([names(&first), names(&rest)].concat(), all, "stopped at {stop}");
    }
}

#[test]
fn pools_are_merged_folder_by_folder() {
    let chat = Node::start_as("s2", |_| {}, hydra_server::Config { pool: "chat".into(), ..Default::default() });
    let s1 = Node::start_alone("s1");
    let pool = PoolBuilder::new("chat").matches("chat/*/*").route("0-99", "s2", [""; 0]).settings(impatient());
    let map = ClientMap::builder().folders(100).server("s1", s1.url()).server("s2", chat.url()).settings(impatient());
    let router = Router::start(map.route("0-99", "s1", [""; 0]).pool(pool).build().expect("a map"), Config::default());
    let line = |n: usize| {
        let sanctuary = if n.is_multiple_of(2) { "chat" } else { "users" };
        format!("{{\"swamp\":\"{sanctuary}/r/u{n}\",\"key\":\"k\",\"value\":{n}}}\n")
    };
    assert_eq!(last_line(&router.post("/v1/import", &(0..150).map(line).collect::<String>()))["done"]["written"], 150);
    let listed = router.get("/v1/swamps?limit=1000").json();
    let places: Vec<(u64, String)> = listed["swamps"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|swamp| (swamp["folder"].as_u64().expect("a folder"), swamp["name"].as_str().expect("a name").to_owned()))
        .collect();
    assert!(places.len() == 150 && places.is_sorted(), "{places:?}");
    assert_eq!(pages(&router, "/v1/swamps", "limit=4"), names(&listed));
    assert_eq!(chat.ask("GET", "/v1/swamps/users?limit=9", "").json()["swamps"], json!([]));
    let exported = router.get("/v1/export?pattern=chat/*/*").text();
    assert_eq!(exported.lines().filter(|line| !line.is_empty()).count(), 75);
    let folders = router.get("/v1/folders/7").json();
    let pools: Vec<&str> =
        folders["folders"].as_array().expect("a list").iter().filter_map(|f| f["pool"].as_str()).collect();
    assert_eq!(pools, ["default", "chat"]);
}

#[test]
fn an_import_goes_to_the_servers_of_its_lines_and_an_export_brings_all_back() {
    let pair = Pair::start();
    let (low, high) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/c"));
    let mut body = format!("{{\"swamp\":\"{low}\",\"key\":\"k\",\"value\":1.50}}\nnothing\n");
    body.push_str(&format!("{{\"swamp\":\"{high}\",\"key\":\"k\",\"value\":\"\u{e4}\\u0000\"}}\n\n"));
    body.push_str("{\"key\":\"k\",\"value\":1}\n{\"swamp\":\"a/b\",\"key\":\"k\",\"value\":1}\n");
    body.push_str(&format!("{{\"swamp\":\"{low}\",\"key\":\"..\",\"value\":1}}\n{{\"swamp\":\"{high}\",\"key\""));
    let answer = pair.post("/v1/import", &body);
    let done = last_line(&answer)["done"].clone();
    assert_eq!(
        (answer.status, &done["lines"], &done["written"], &done["failed"]),
        (200, &json!(7), &json!(2), &json!(5))
    );
    let errors: Vec<(u64, &str)> = done["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| (error["line"].as_u64().expect("a line"), error["code"].as_str().expect("a code")))
        .collect();
    let expected =
        [(2, "invalid-json"), (4, "invalid-body"), (5, "invalid-name"), (6, "invalid-key"), (7, "invalid-json")];
    assert_eq!(errors, expected, "{done}");
    assert_eq!(pair.get(&treasure_path(&low, "k")).text(), "1.50");
    let synced = pair.post("/v1/import?sync", &format!("{{\"swamp\":\"{low}\",\"key\":\"s\",\"value\":1}}"));
    assert_eq!(synced.header("hydra-durable"), Some("synced"));
    let create = pair.post("/v1/import?mode=create", &format!("{{\"swamp\":\"{high}\",\"key\":\"k\",\"value\":1}}"));
    assert_eq!(last_line(&create)["done"]["skipped"], 1);

    fill(&pair, 2_300);
    let exported = pair.get("/v1/export");
    let lines: Vec<Value> = exported.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((exported.status, lines.len()), (200, 2_303));
    let sum: u64 = lines.iter().filter(|line| line["key"] == "k").filter_map(|line| line["value"].as_u64()).sum();
    assert_eq!(sum, (0..2_300).sum::<u64>());
    assert_eq!(pair.get("/v1/export?pattern=users/p1/*").text().lines().count(), 767);
    let none = pair.get("/v1/export?pattern=no/such/name");
    assert_eq!((none.status, none.text().trim()), (200, ""));
    for (path, code) in [
        ("/v1/export?pattern=a", "invalid-pattern"),
        ("/v1/export?expired=maybe", "invalid-parameter"),
        ("/v1/export?folders=100", "invalid-parameter"),
    ] {
        assert_eq!(pair.get(path).code(), code, "{path}");
    }
    assert_eq!(pair.post("/v1/import?mode=all", "").code(), "invalid-parameter");
    assert_eq!(last_line(&pair.post("/v1/import", ""))["done"]["lines"], 0);

    // What was exported can be imported into other servers through another router.
    let other = Pair::start();
    assert_eq!(last_line(&other.post("/v1/import", &exported.text()))["done"]["written"], 2_303);
    assert_eq!(other.get("/v1/export").text().lines().count(), 2_303);
}

#[test]
fn a_long_import_says_how_far_it_is_while_it_comes_in_slowly() {
    let config = Config { header_timeout: Duration::from_millis(700), ..Config::default() };
    let pair = Pair::start_with(config);
    for path in ["/v1/import".to_owned(), format!("/v1/swamps/{}/import", name_in("0-49", "a/b/c"))] {
        let named = path == "/v1/import";
        let mut stream = pair.connect().expect("a connection");
        write!(stream, "POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sent");
        for round in 0..6 {
            let line = |n: usize| {
                let swamp = if named { format!("\"swamp\":\"s/r/u{}\",", n % 50) } else { String::new() };
                format!("{{{swamp}\"key\":\"{round}-{n}\",\"value\":{n}}}\n")
            };
            let lines: String = (0..200).map(line).collect();
            write!(stream, "{:x}\r\n{lines}\r\n", lines.len()).expect("sent");
            std::thread::sleep(Duration::from_millis(300));
        }
        write!(stream, "0\r\n\r\n").expect("sent");
        let answer = Answer::read(&mut stream).expect("an answer, although the body took longer than a head may");
        assert_eq!((answer.status, &last_line(&answer)["done"]["written"]), (200, &json!(1_200)), "{answer:?}");
        assert!(answer.text().contains("\"progress\""), "{answer:?}");
    }
}

#[test]
fn a_server_that_is_gone_fails_its_own_lines_and_breaks_off_what_would_not_be_whole() {
    let s1 = owner("s1", "0-49");
    let mut s2 = owner("s2", "50-99");
    let map = ClientMap::builder().folders(100).server("s1", s1.url()).server("s2", s2.url()).settings(impatient());
    let map = map.route("0-49", "s1", [""; 0]).route("50-99", "s2", [""; 0]).build().expect("a map");
    let router = Router::start(map, Config::default());
    fill(&router, 100);
    let here = router.get("/v1/swamps?limit=1000&folders=0-49").json()["swamps"].as_array().map_or(0, Vec::len);
    s2.stop();

    let (low, high) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/c"));
    let lines = |names: &[&hydra_sdk::SwampName]| -> String {
        names.iter().map(|name| format!("{{\"swamp\":\"{name}\",\"key\":\"k\",\"value\":1}}\n")).collect()
    };
    let partly = router.post("/v1/import", &lines(&[&high, &low]));
    let done = last_line(&partly)["done"].clone();
    assert_eq!((partly.status, &done["written"], &done["failed"]), (200, &json!(1), &json!(1)), "{done}");
    assert_eq!((&done["errors"][0]["line"], &done["errors"][0]["code"]), (&json!(1), &json!("server-unreachable")));
    let refused = router.post("/v1/import", &lines(&[&high]));
    assert_eq!(
        (refused.status, refused.code().as_str(), refused.header("hydra-applied")),
        (502, "server-unreachable", Some("no"))
    );

    let list = router.get("/v1/swamps?limit=1000");
    assert_eq!((list.status, list.code().as_str()), (502, "server-unreachable"), "a list that is not whole is none");
    assert_eq!(names(&router.get(&format!("/v1/swamps?limit={here}")).json()).len(), here);

    let mut stream = router.connect().expect("a connection");
    write!(stream, "GET /v1/export HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 200") && !text.ends_with("0\r\n\r\n"), "it must not look like all there is");
    let values = text.lines().filter(|line| line.starts_with("{\"swamp\"")).count();
    let error = text.lines().find(|line| line.starts_with("{\"error\"")).expect("it says what is missing");
    assert!(values > here / 2 && error.contains("server-unreachable"), "{values} of {here}, {error}");

    let folders = router.get("/v1/folders?sizes").json();
    assert_eq!(folders["folders"].as_array().map(Vec::len), Some(100));
    assert_eq!(
        (&folders["folders"][7]["servers"][0]["server"], &folders["folders"][60]["servers"]),
        (&json!("s1"), &json!([]))
    );
    assert!(folders["servers"][1]["error"].as_str().is_some_and(|why| why.contains("s2")), "{}", folders["servers"]);
    assert_eq!(router.get("/v1/folders/100").code(), "invalid-parameter");
    assert_eq!(router.post("/v1/folders/7/compact", "").code(), "not-found");
}

#[test]
fn retries_are_told_to_whoever_asked() {
    let mut pair = Pair::start();
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    assert_eq!(pair.put(&path, "1").header("hydra-retried"), None);
    pair.s1.stop();
    let fallen = pair.put(&path, "2");
    assert_eq!((fallen.status, fallen.header("hydra-retried")), (201, Some("1")), "{fallen:?}");
    pair.s2.stop();
    let gone = pair.put(&path, "3");
    assert_eq!(gone.status, 502);
    assert!(gone.header("hydra-retried").is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= 1)), "{gone:?}");
}

#[test]
fn several_routers_in_a_row_pass_what_is_about_all_and_stop_after_three_hops() {
    let pair = Pair::start();
    fill(&pair, 30);
    let chained = |below: &Target| {
        let url = format!("http://{}", below.0);
        let map = ClientMap::builder().folders(100).server("r1", url).route("0-99", "r1", [""; 0]);
        Router::start(map.settings(impatient()).build().expect("a map"), Config::default())
    };
    let second = chained(&pair);
    let third = chained(&second);
    assert_eq!(names(&third.get("/v1/swamps?limit=100").json()), names(&pair.get("/v1/swamps?limit=100").json()));
    assert_eq!(third.get("/v1/export").text().lines().count(), 30);
    let fourth = chained(&third);
    let path = treasure_path(&name_in("0-49", "a/b/c"), "k");
    let looped = fourth.put(&path, "1");
    assert_eq!(
        (looped.status, looped.code().as_str(), looped.header("hydra-applied")),
        (502, "server-unreachable", Some("no"))
    );
    let map = pair_map(pair.s1.url(), pair.s2.url()).build().expect("a map");
    assert_eq!(map.folders().get(), 100);
}
