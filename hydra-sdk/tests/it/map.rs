//! The client map: what it routes, and everything it refuses, naming the folders.

use std::time::{Duration, Instant};

use hydra_sdk::{ClientMap, FallbackMode, Finding, MapServer, PoolBuilder, SwampName};

const TWO: &str = r#"
format = 1
cluster = "eu"
epoch = 2
folders = 100
[servers.s1]
url = "http://10.0.0.1:4937"
zone = "a"
[servers.s2]
url = "http://10.0.0.2:4937"
zone = "b"
capacity = 2
sync = "hydra@10.0.0.2:/var/lib/hydra"
[[route]]
folders = "0-33,84-99"
primary = "s1"
fallbacks = ["s2"]
[[route]]
folders = "34-83"
primary = "s2"
fallbacks = ["s1"]
"#;

fn name(text: &str) -> SwampName {
    text.parse().expect("a name")
}

fn findings(text: &str) -> Vec<Finding> {
    match ClientMap::from_toml(text) {
        Ok(map) => map.warnings().to_vec(),
        Err(error) => error.findings().to_vec(),
    }
}

/// The messages of the findings with this code.
fn found(text: &str, code: &str) -> String {
    let all = findings(text);
    let messages: Vec<String> = all.iter().filter(|f| f.code == code).map(ToString::to_string).collect();
    assert!(!messages.is_empty(), "no {code} in {all:?}");
    messages.join("\n")
}

#[test]
fn names_are_routed_by_folder() {
    let map = ClientMap::from_toml(TWO).expect("a good map");
    assert!(map.warnings().is_empty(), "{:?}", map.warnings());
    // Hashes and folders of these names are facts that every implementation agrees on.
    for (text, folder, primary) in
        [("users/profiles/alice", 62, "s2"), ("users/profiles/alex123", 84, "s1"), ("chat/rooms/lobby", 48, "s2")]
    {
        let name = name(text);
        let route = map.route(&name);
        assert_eq!((route.folder().get(), route.primary().id.as_str()), (folder, primary), "{text}");
        assert_eq!(route.fallbacks().count(), 1);
        assert_eq!((route.pool(), route.rule()), ("default", None));
    }
    assert_eq!(map.server("s2").and_then(|s| s.sync.as_deref()), Some("hydra@10.0.0.2:/var/lib/hydra"));
    assert_eq!((map.cluster(), map.epoch(), map.folders().get()), ("eu", 2, 100));
}

#[test]
fn the_most_specific_pattern_chooses_the_pool() {
    let everything = "0-99";
    let map = ClientMap::builder()
        .folders(100)
        .server("a", "http://a:1")
        .server("b", "http://b:1")
        .server("c", "http://c:1")
        .route(everything, "a", [""; 0])
        .pool(PoolBuilder::new("chat").matches("chat/*/*").route(everything, "b", [""; 0]))
        .pool(PoolBuilder::new("rooms").matches("chat/rooms/*").matches("*/*/lobby").route(everything, "c", [""; 0]))
        .build()
        .expect("a good map");
    for (text, pool, primary, rule) in [
        ("users/x/y", "default", "a", None),
        ("chat/direct/y", "chat", "b", Some("chat/*/*")),
        ("chat/rooms/y", "rooms", "c", Some("chat/rooms/*")),
        ("chat/direct/lobby", "chat", "b", Some("chat/*/*")),
        ("users/x/lobby", "rooms", "c", Some("*/*/lobby")),
    ] {
        let name = name(text);
        let route = map.route(&name);
        let rule_text = route.rule().map(ToString::to_string);
        assert_eq!((route.pool(), route.primary().id.as_str(), rule_text.as_deref()), (pool, primary, rule), "{text}");
    }
}

#[test]
fn file_and_builder_make_the_same_map() {
    let mut s1 = MapServer::new("s1", "http://10.0.0.1:4937");
    s1.zone = Some("a".into());
    let mut s2 = MapServer::new("s2", "http://10.0.0.2:4937");
    (s2.zone, s2.capacity, s2.sync) = (Some("b".into()), 2.0, Some("hydra@10.0.0.2:/var/lib/hydra".into()));
    let built = ClientMap::builder()
        .cluster("eu")
        .epoch(2)
        .folders(100)
        .server_with(s2)
        .server_with(s1)
        .route("0-33,84-99", "s1", ["s2"])
        .route("34-83", "s2", ["s1"])
        .build()
        .expect("a good map");
    assert_eq!(ClientMap::from_toml(TWO).expect("a good map"), built);
}

#[test]
fn settings_are_inherited_and_overridden() {
    let text = format!(
        "{}\n{}",
        TWO.replace("[servers.s1]", "[client]\ndeadline = \"3s\"\nattempts = 2\nhold_down = \"200ms\"\n[servers.s1]"),
        r#"
[servers.s3]
url = "http://10.0.0.3:4937"
[[pool]]
name = "money"
match = ["pay/*/*"]
route = [{ folders = "0-99", primary = "s3" }]
[pool.client]
fallback_mode = "read-only"
failback = "manual"
read_from = "any"
attempts = 1
try_timeout = 2
"#
    );
    let map = ClientMap::from_toml(&text).expect("a good map");
    let (default_name, money_name) = (name("a/b/c"), name("pay/b/c"));
    let (default, money) = (map.route(&default_name).settings(), map.route(&money_name).settings());
    assert_eq!((default.attempts, default.deadline), (2, Duration::from_secs(3)));
    assert_eq!((money.attempts, money.deadline), (1, Duration::from_secs(3)));
    assert_eq!((money.fallback_mode, money.try_timeout), (FallbackMode::ReadOnly, Duration::from_secs(2)));
    assert_eq!((money.hold_down, default.fallback_mode), (Duration::from_millis(200), FallbackMode::ReadWrite));
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    let text = TWO.replace("fallbacks = [\"s2\"]", "fallback = [\"s2\"]");
    let message = found(&text, "E001");
    assert!(message.contains("17:1") && message.contains("did you mean \"fallbacks\""), "{message}");
    assert!(found(&TWO.replace("zone = \"a\"", "zoned = \"a\""), "E001").contains("[servers.s1]"));
    assert!(found(&format!("[policy]\n{TWO}"), "E001").contains("policy"));
    assert!(found("folders = [", "E001").contains("1:"), "broken text");
    assert_eq!(findings("folders = [").iter().filter(|f| f.code != "E001").count(), 0, "nothing else is made up");
}

#[test]
fn wrong_types_and_values_are_refused() {
    assert!(found(&TWO.replace("folders = 100", "folders = \"many\""), "E003").contains("a whole number"));
    assert!(found(&TWO.replace("folders = 100", ""), "E003").contains("folders"));
    assert!(found(&TWO.replace("primary = \"s2\"", ""), "E003").contains("primary"));
    assert!(found(&TWO.replace("capacity = 2", "capacity = 0"), "E003").contains("above 0"));
    assert!(found(&TWO.replace("format = 1", "format = 2"), "E002").contains("format 2"));
    for bad in ["0", "-1", "65537", "70000000000"] {
        assert!(found(&TWO.replace("folders = 100", &format!("folders = {bad}")), "E105").contains(bad));
    }
    let client = |line: &str| TWO.replace("[servers.s1]", &format!("[client]\n{line}\n[servers.s1]"));
    assert!(found(&client("read_from = \"primry\""), "E003").contains("did you mean \"primary\""));
    assert!(found(&client("deadline = \"soon\""), "E003").contains("a duration"));
    assert!(found(&client("deadline = \"0s\""), "E601").contains("deadline"));
    assert!(found(&client("connect_timeout = \"5s\""), "E602").contains("shorter"));
    assert!(found(&client("attempts = 11"), "E603").contains("1 to 10"));
    assert!(found(&client("read_from = \"nearest\""), "W504").contains("primary"));
}

#[test]
fn folders_must_be_covered_exactly_once() {
    let gap = TWO.replace("34-83", "34-74,80-83");
    assert!(found(&gap, "E101").contains("75-79"));
    let overlap = TWO.replace("34-83", "33-83");
    let message = found(&overlap, "E102");
    assert!(message.contains("33") && message.contains("routes 1, 2") && message.contains("s1, s2"), "{message}");
    assert!(found(&TWO.replace("34-83", "83-34"), "E103").contains("83-34 is backwards"));
    assert!(found(&TWO.replace("34-83", "34-83,100"), "E104").contains("folder 100 does not exist"));
    let shifted = TWO.replace("0-33,84-99", "0-33").replace("34-83", "35-100");
    assert!(found(&shifted, "E104").contains("did you mean 34-99"));
    assert!(found(&TWO.replace("34-83", "34-"), "E107").contains("34-"));
    assert!(found(&TWO.replace("34-83", ""), "E107").contains("cannot read"));
    assert!(found(&TWO.replace("34-83", "34-83,99999999"), "E104").contains("99999999"));
}

#[test]
fn servers_must_be_known_and_apart() {
    let message = found(&TWO.replace("primary = \"s2\"", "primary = \"s9\""), "E201");
    assert!(message.contains("\"s9\"") && message.contains("34-83") && message.contains("did you mean"), "{message}");
    assert!(found(&TWO.replace("10.0.0.2:4937\"\nzone", "10.0.0.1:4937\"\nzone"), "E202").contains("s1 and s2"));
    assert!(
        found(&TWO.replace("http://10.0.0.2:4937\"\nzone", "http://10.0.0.2:4937/x\"\nzone"), "E205").contains("path")
    );
    found(&TWO.replace("http://10.0.0.2:4937\"\nzone", "ftp://10.0.0.2:4937\"\nzone"), "E205");
    assert!(findings(&TWO.replace("http://10.0.0.2:4937\"\nzone", "https://10.0.0.2:4937\"\nzone")).is_empty());
    assert!(found(&TWO.replace("fallbacks = [\"s2\"]", "fallbacks = [\"s1\"]"), "E203").contains("its own fallback"));
    assert!(found(&TWO.replace("fallbacks = [\"s2\"]", "fallbacks = [\"s2\", \"s2\"]"), "E204").contains("twice"));
    assert!(found(&TWO.replace("servers.s1", "servers.S-1"), "E207").contains("S-1"));
    assert!(found(&format!("{TWO}\n[servers.s3]\nurl = \"http://c:1\""), "W206").contains("s3"));
    assert!(found(&TWO.replace("zone = \"b\"", "zone = \"a\""), "W501").contains("same zone"));
    assert!(found(&TWO.replace("fallbacks = [\"s1\"]", ""), "W502").contains("34-83"));
    assert!(found("folders = 3\n[[route]]\nfolders = \"0-2\"\nprimary = \"a\"", "E200").contains("no servers"));
}

#[test]
fn pools_must_be_told_apart() {
    let pool = |name: &str, pattern: &str, server: &str| {
        format!(
            "[[pool]]\nname = \"{name}\"\nmatch = [{pattern}]\nroute = [{{ folders = \"0-99\", primary = \"{server}\" }}]\n"
        )
    };
    let servers = "[servers.s3]\nurl = \"http://c:1\"\n[servers.s4]\nurl = \"http://d:1\"\n";
    let with = |pools: &str| format!("{TWO}{servers}{pools}");
    let two = |a: &str, b: &str| with(&(pool("chat", a, "s3") + &pool("arch", b, "s4")));
    assert!(ClientMap::from_toml(&two("\"chat/*/*\"", "\"arch/*/*\"")).is_ok());
    let message = found(&two("\"chat/*/*\"", "\"chat/*/*\""), "E301");
    assert!(message.contains("pool chat") && message.contains("pool arch"), "{message}");
    assert!(found(&two("\"chat/*/x\"", "\"chat/**\""), "E302").contains("chat/**"));
    assert!(found(&two("\"chat/*/*\"", ""), "E303").contains("arch"));
    assert!(
        found(&with(&(pool("chat", "\"a/*/*\"", "s3") + &pool("chat", "\"b/*/*\"", "s4"))), "E304").contains("twice")
    );
    assert!(found(&with(&pool("default", "\"a/*/*\"", "s3")), "E304").contains("default"));
    assert!(found(&with(&pool("chat", "\"a/*/*\"", "s1")), "E206").contains("default and chat"));
    let gap = with(&pool("chat", "\"a/*/*\"", "s3").replace("0-99", "0-9"));
    assert!(found(&gap, "E101").contains("pool chat: no server for folders 10-99"));
}

#[test]
fn all_findings_are_reported_at_once() {
    let text = r#"
folders = 100
[servers]
s1 = { url = "http://10.0.0.1:7700", zone = "a" }
s2 = { url = "http://10.0.0.2:7700", zone = "a" }
s3 = { url = "http://10.0.0.2:7700" }
[[route]]
folders = "0-50"
primary = "s1"
fallbacks = ["s2"]
[[route]]
folders = "50-74"
primary = "s2"
fallbacks = ["s2"]
[[route]]
folders = "80-100"
primary = "s9"
[[pool]]
name = "chat"
match = ["chat/*/*"]
route = [{ folders = "0-99", primary = "s1", fallbacks = ["s2"] }]
[[pool]]
name = "arch"
match = ["chat/*/*", "logs/**"]
route = [{ folders = "99-0", primary = "s1", fallbacks = ["s2"] }]
"#;
    let error = ClientMap::from_toml(text).expect_err("a broken map");
    let codes: Vec<&str> = error.findings().iter().map(|finding| finding.code).collect();
    for code in ["E101", "E102", "E103", "E104", "E201", "E202", "E203", "E206", "E301", "E302", "W206", "W501", "W502"]
    {
        assert!(codes.contains(&code), "no {code} in {codes:?}");
    }
    let first_warning = codes.iter().position(|code| code.starts_with('W')).expect("a warning");
    assert!(codes[first_warning..].iter().all(|code| code.starts_with('W')), "errors come first: {codes:?}");
    let text = error.to_string();
    assert!(text.contains("75-79") && text.contains("10-99") | text.contains("0-99"), "{text}");
}

#[test]
fn a_successor_keeps_cluster_and_folders_and_is_younger() {
    let old = ClientMap::from_toml(TWO).expect("a good map");
    let code = |text: &str| {
        let next = ClientMap::from_toml(text).expect("a good map");
        let error = old.check_successor(&next).expect_err("no successor");
        error.findings()[0].code
    };
    assert_eq!(code(&TWO.replace("\"eu\"", "\"us\"").replace("epoch = 2", "epoch = 3")), "E004");
    assert_eq!(code(&TWO.replace("epoch = 2", "epoch = 1")), "E005");
    assert_eq!(code(&TWO.replace("zone = \"a\"", "zone = \"c\"")), "E005");
    let more =
        TWO.replace("folders = 100", "folders = 101").replace("84-99", "84-100").replace("epoch = 2", "epoch = 3");
    assert_eq!(code(&more), "E106");
    assert!(old.check_successor(&old.clone()).is_ok(), "the same map again");
    let next = TWO.replace("0-33,84-99", "0-20,84-99").replace("34-83", "21-83").replace("epoch = 2", "epoch = 3");
    assert!(old.check_successor(&ClientMap::from_toml(&next).expect("a good map")).is_ok());
}

#[test]
fn a_pool_of_everything_needs_no_default_routes() {
    let map = ClientMap::builder()
        .folders(8)
        .server("a", "http://a:1")
        .pool(PoolBuilder::new("all").matches("*/*/*").route("0-7", "a", [""; 0]))
        .build()
        .expect("a good map");
    assert_eq!(map.route(&name("x/y/z")).pool(), "all");
}

#[test]
fn the_largest_map_routes_every_folder() {
    let mut builder = ClientMap::builder().folders(65_536).server("a", "http://a:1").server("b", "http://b:1");
    for folder in 0..65_536u32 {
        builder = builder.route(folder.to_string(), if folder % 2 == 0 { "a" } else { "b" }, [""; 0]);
    }
    let map = builder.build().expect("a good map");
    for n in 0..1_000 {
        let name = name(&format!("a/b/{n}"));
        let route = map.route(&name);
        assert_eq!(route.primary().id, if route.folder().get() % 2 == 0 { "a" } else { "b" });
    }
}

#[test]
fn ten_thousand_servers_and_all_folders_are_a_map_like_any_other() {
    use std::fmt::Write;
    let mut text = String::from("folders = 65536\n[servers]\n");
    for server in 0..10_000 {
        writeln!(
            text,
            "s{server:05} = {{ url = \"http://10.{}.{}.{}:4937\" }}",
            server / 10_000,
            server / 100 % 100,
            server % 100
        )
        .expect("written");
    }
    // Seven or six folders each, and the next server as the fallback.
    let first = |server: u32| (u64::from(server) * 65_536 / 10_000) as u32;
    for server in 0..10_000 {
        let (from, to, next) = (first(server), first(server + 1) - 1, (server + 1) % 10_000);
        writeln!(
            text,
            "[[route]]\nfolders = \"{from}-{to}\"\nprimary = \"s{server:05}\"\nfallbacks = [\"s{next:05}\"]"
        )
        .expect("written");
    }
    let begun = Instant::now();
    let map = ClientMap::from_toml(&text).expect("a good map");
    let loading = begun.elapsed();
    let names: Vec<SwampName> = (0..1_000).map(|n| name(&format!("users/profiles/{n}"))).collect();
    let begun = Instant::now();
    for name in names.iter().cycle().take(100_000) {
        std::hint::black_box(map.route(std::hint::black_box(name)));
    }
    let each = begun.elapsed() / 100_000;
    let begun = Instant::now();
    let hydra = hydra_sdk::Hydra::with_map(map.clone()).expect("a client");
    let connecting = begun.elapsed();
    let moved = text
        .replace("folders = 65536", "epoch = 2\nfolders = 65536")
        .replace("\"s00007\"\nfall", "\"s00011\"\nfall")
        .replace("[\"s00011\"]", "[\"s00012\"]");
    let next = ClientMap::from_toml(&moved.replace("[\"s00008\"]", "[\"s00009\"]")).expect("a good map");
    let begun = Instant::now();
    let moves = map.moves_to(&next);
    hydra.set_map(next).expect("in force");
    let exchanging = begun.elapsed();
    println!(
        "{} KiB of text: read and checked in {loading:?}, a route in {each:?}, a client in {connecting:?}, the next map in {exchanging:?}",
        text.len() >> 10
    );
    for name in &names {
        let route = map.route(name);
        let folder = route.folder().get();
        let server = (0..10_000).find(|&server| first(server + 1) > folder).expect("a server");
        assert_eq!(route.primary().id, format!("s{server:05}"));
    }
    let told: Vec<String> = moves.iter().map(ToString::to_string).collect();
    assert_eq!(told, [format!("folders {}-{} of pool default from s00007 to s00011", first(7), first(8) - 1)]);
    // Only a mistake of another order of magnitude is caught here.
    assert!(loading < Duration::from_secs(10) && each < Duration::from_micros(5), "{loading:?}, {each:?}");
}

#[test]
fn another_map_moves_folders_and_names() {
    let map = |epoch: u64| {
        ClientMap::builder()
            .epoch(epoch)
            .folders(10)
            .server("a", "http://a:1")
            .server("b", "http://b:1")
            .server("c", "http://c:1")
    };
    let told = |old: &ClientMap, new: &ClientMap| old.moves_to(new).iter().map(ToString::to_string).collect::<Vec<_>>();
    let build = |builder: hydra_sdk::MapBuilder| builder.build().expect("a good map");
    let none = [""; 0];
    let old = build(map(1).route("0-4", "a", none).route("5-9", "b", none));
    let lists = build(map(2).route("0-2,7", "a", ["b"]).route("3,5,6,8-9", "b", none).route("4", "c", none));
    assert_eq!(
        told(&old, &lists),
        [
            "folders 3 of pool default from a to b",
            "folders 4 of pool default from a to c",
            "folders 7 of pool default from b to a"
        ]
    );
    assert_eq!(
        told(&old, &build(map(2).route("0-4", "a", ["b"]).route("5-9", "b", ["a"]))),
        none,
        "fallbacks own nothing"
    );

    let pool = |pattern: &str| PoolBuilder::new("chat").matches(pattern).route("0-9", "c", none);
    let pooled = build(map(2).route("0-4", "a", none).route("5-9", "b", none).pool(pool("chat/*/*")));
    let moved = [
        "folders 0-4 of pool chat, names chat/*/*, from a to c",
        "folders 5-9 of pool chat, names chat/*/*, from b to c",
    ];
    assert_eq!(told(&old, &pooled), moved);
    assert_eq!(
        told(&pooled, &old),
        [
            "folders 0-4 of pool default, names chat/*/*, from c to a",
            "folders 5-9 of pool default, names chat/*/*, from c to b"
        ]
    );
    let narrowed = build(map(3).route("0-4", "a", none).route("5-9", "b", none).pool(pool("chat/rooms/*")));
    assert_eq!(told(&pooled, &narrowed).len(), 2, "other realms go back: {:?}", told(&pooled, &narrowed));
}

#[test]
fn a_missing_file_is_named() {
    let error = ClientMap::from_file("/nowhere/hydra.toml").expect_err("no file");
    assert!(error.to_string().contains("/nowhere/hydra.toml"), "{error}");
}

#[test]
fn routing_costs_next_to_nothing() {
    let map = ClientMap::from_toml(TWO).expect("a good map");
    let names: Vec<SwampName> = (0..1_000).map(|n| name(&format!("users/profiles/{n}"))).collect();
    let begun = Instant::now();
    let mut folders = 0u64;
    for name in names.iter().cycle().take(1_000_000) {
        folders += u64::from(map.route(std::hint::black_box(name)).folder().get());
    }
    let each = begun.elapsed() / 1_000_000;
    println!("{each:?} for each route (sum of folders {folders})");
    // Figures are for benchmarks; here only a mistake of another order of magnitude is caught.
    assert!(each < Duration::from_micros(2), "{each:?}");
}
