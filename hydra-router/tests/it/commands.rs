//! `explain` and `map check` on good and broken maps, and the program as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use hydra_sdk::{ForwardRequest, Hydra, OpClass, SwampName};

use crate::support::{Node, Run, Target, block_on, file, nobody, program};

fn ran(arguments: &[&str]) -> Run {
    Run::of(program().args(arguments))
}

/// The codes of what a check found.
fn codes(run: &Run) -> Vec<String> {
    let findings = run.json()["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned)).collect()
}

/// A map of two servers with these routes.
fn map_of(s1: &str, s2: &str, routes: &str) -> String {
    format!("folders = 100\n[servers]\ns1 = {{ url = \"{s1}\" }}\ns2 = {{ url = \"{s2}\" }}\n{routes}")
}

const HALVES: &str = "[[route]]\nfolders = \"0-49\"\nprimary = \"s1\"\nfallbacks = [\"s2\"]\n\
    [[route]]\nfolders = \"50-99\"\nprimary = \"s2\"\nfallbacks = [\"s1\"]\n";

fn route(folders: &str, primary: &str) -> String {
    format!("[[route]]\nfolders = \"{folders}\"\nprimary = \"{primary}\"\n")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn explain_says_where_a_name_lives_and_why() {
    let pool =
        "[[pool]]\nname = \"chat\"\nmatch = [\"chat/*/*\"]\n[[pool.route]]\nfolders = \"0-99\"\nprimary = \"s3\"\n";
    let text = map_of("http://h:1", "http://h:2", HALVES)
        .replace("[[route]]\nfolders = \"0-49\"", "s3 = { url = \"http://h:3\" }\n[[route]]\nfolders = \"0-49\"");
    let (_dir, map) = file(&format!("{text}{pool}"));
    let alice = ran(&["explain", "users/profiles/alice", "--map", path(&map), "--offline", "--output", "json"]);
    assert_eq!(alice.code, Some(0), "{alice:?}");
    let said = alice.json();
    assert_eq!(
        (said["folder"].as_u64(), said["pool"].as_str(), said["rule"].as_str()),
        (Some(62), Some("default"), None)
    );
    assert_eq!((said["primary"]["id"].as_str(), said["fallbacks"][0]["id"].as_str()), (Some("s2"), Some("s1")));
    assert_eq!(said["hash"], "7127deecab868c52");
    assert!(said["path"].as_str().is_some_and(|path| path.starts_with("00062/")), "{said}");

    let chat = ran(&["explain", "chat/rooms/lobby", "--map", path(&map), "--offline"]);
    for expected in ["folder    48 of 100", "chat (by the pattern chat/*/*)", "primary   s3  http://h:3"] {
        assert!(chat.out.contains(expected), "{expected:?} in {}", chat.out);
    }
}

#[test]
fn explain_asks_the_servers() {
    let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
    let (_dir, map) = file(&map_of(s1.url(), s2.url(), HALVES));
    let run = ran(&["explain", "users/profiles/alice", "--map", path(&map)]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for expected in ["server    s1 (fallback): standby", "server    s2 (primary): owned"] {
        assert!(run.out.contains(expected), "{expected:?} in {}", run.out);
    }
    let (_dir, map) = file(&map_of(&nobody(), s2.url(), HALVES));
    let run = ran(&["explain", "users/profiles/alice", "--map", path(&map), "--output", "ndjson"]);
    assert_eq!(run.json()["servers"][0]["error"], "refused the connection");
}

#[test]
fn what_cannot_be_explained_is_a_usage_error() {
    let (_dir, map) = file(&map_of("http://h:1", "http://h:2", HALVES));
    let name = ran(&["explain", "users/alice", "--map", path(&map), "--offline"]);
    assert_eq!(name.code, Some(2), "{name:?}");
    let missing = ran(&["explain", "a/b/c", "--map", "/nowhere/map.toml", "--offline"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("E000") && missing.err.contains("/nowhere/map.toml"), "{missing:?}");
}

#[test]
fn a_good_map_is_accepted_and_shown_in_full() {
    let (_dir, map) = file(&map_of("http://h:1", "http://h:2", HALVES));
    let run = ran(&["map", "check", "--map", path(&map)]);
    assert_eq!((run.code, run.out.contains("can be used: 0 errors, 0 warnings")), (Some(0), true), "{run:?}");
    let shown = ran(&["map", "show", "--map", path(&map)]);
    assert!(shown.out.contains("hold_down = \"10s\"") && shown.out.contains("folders = \"50-99\""), "{shown:?}");
    let (_dir, again) = file(&shown.out);
    assert_eq!(ran(&["map", "show", "--map", path(&again)]).out, shown.out);
}

#[test]
fn warnings_alone_do_not_refuse_a_map() {
    let (_dir, map) = file(&map_of("http://h:1", "http://h:2", &route("0-99", "s1")));
    let run = ran(&["map", "check", "--map", path(&map), "--output", "json"]);
    assert_eq!((run.code, codes(&run)), (Some(0), vec!["W502".to_owned(), "W206".to_owned()]), "{run:?}");
    assert_eq!(run.json()["ok"], true);
}

#[test]
fn broken_maps_are_refused_with_every_finding() {
    for (routes, code, names) in [
        (route("0-74,80-99", "s1"), "E101", "75-79"),
        (route("0-50", "s1") + &route("50-99", "s2"), "E102", "50"),
        (route("0-49", "s1") + &route("99-50", "s2"), "E103", "99-50"),
        (route("0-49", "s1") + &route("50-100", "s2"), "E104", "100"),
        (route("0-49", "s1") + &route("50-99", "s9"), "E201", "s9"),
        (route("0-99", "s1").replace("primary", "primry"), "E001", "primry"),
    ] {
        let (_dir, map) = file(&map_of("http://h:1", "http://h:2", &routes));
        let run = ran(&["map", "check", "--map", path(&map)]);
        assert_eq!(run.code, Some(2), "{run:?}");
        let told = run.out.lines().find(|line| line.starts_with(code)).unwrap_or_else(|| panic!("{code} in {run:?}"));
        assert!(told.contains(names), "{told}");
        assert!(run.out.contains("is refused"), "{run:?}");
        let serve = ran(&["serve", "--map", path(&map), "--listen", "127.0.0.1:0"]);
        assert_eq!(serve.code, Some(2), "{serve:?}");
        assert!(serve.err.contains(code) && serve.out.is_empty(), "{serve:?}");
    }
}

#[test]
fn a_live_check_compares_the_servers_with_the_map() {
    let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
    let check = |text: String| {
        let (_dir, map) = file(&text);
        ran(&["map", "check", "--live", "--map", path(&map), "--output", "json"])
    };
    let good = check(map_of(s1.url(), s2.url(), HALVES));
    assert_eq!((good.code, codes(&good)), (Some(0), Vec::new()), "{good:?}");

    let swapped = check(map_of(s2.url(), s1.url(), HALVES));
    assert_eq!((swapped.code, codes(&swapped)), (Some(2), vec!["E501".to_owned(); 2]), "{swapped:?}");

    let count = check(
        map_of(s1.url(), s2.url(), &HALVES.replace("50-99", "50-999")).replace("folders = 100\n", "folders = 1000\n"),
    );
    assert_eq!((count.code, codes(&count)[0].as_str()), (Some(2), "E501"), "{count:?}");

    let crossed = check(map_of(s1.url(), s2.url(), &(route("0-59", "s1") + &route("60-99", "s2"))));
    assert_eq!(crossed.code, Some(2));
    let finding = crossed.json()["findings"][0].clone();
    assert_eq!((finding["code"].as_str(), finding["folders"].as_str()), (Some("E504"), Some("50-59")), "{crossed:?}");

    assert_eq!(codes(&crossed), ["E504", "E401", "W502", "W502"], "{crossed:?}");
    let stray = crossed.json()["findings"][1].clone();
    let message = stray["message"].as_str().expect("a message");
    assert!(message.contains("gives folders 50-59 of pool default to s1, and s2 still owns them"), "{stray}");

    let down = check(map_of(s1.url(), &nobody(), HALVES));
    assert_eq!((down.code, codes(&down)), (Some(5), vec!["E502".to_owned()]), "{down:?}");
}

#[test]
fn a_live_check_finds_servers_that_are_not_set_up_for_copies() {
    let alone = Node::start_alone("s1");
    let s2 = Node::start("s2", "50-99", "0-49");
    let (_dir, map) = file(&map_of(alone.url(), s2.url(), HALVES));
    let run = ran(&["map", "check", "--live", "--map", path(&map), "--output", "json"]);
    assert_eq!((run.code, codes(&run)), (Some(2), vec!["E503".to_owned(), "W506".to_owned()]), "{run:?}");
}

#[test]
fn a_difference_names_the_folders_that_move() {
    let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
    let old = map_of(s1.url(), s2.url(), HALVES);
    let new = format!("epoch = 2\n{}", old.replace("0-49", "0-39").replace("50-99", "40-99"));
    let diff = |old: &str, new: &str, more: &[&str]| {
        let ((_a, old), (_b, new)) = (file(old), file(new));
        ran(&[&["map", "diff", path(&old), path(&new)], more].concat())
    };
    let same = diff(&old, &old, &[]);
    assert_eq!((same.code, same.out.contains("moves    nothing")), (Some(0), true), "{same:?}");
    let moves = diff(&old, &new, &[]);
    assert_eq!(moves.code, Some(0), "{moves:?}");
    assert!(moves.out.contains("epoch    1 to 2"), "{moves:?}");
    assert!(moves.out.contains("moves    s1 to s2: 40-49 of pool default (10 folders)"), "{moves:?}");

    // Whoever still owns them is asked.
    let live = diff(&old, &new, &["--live", "--output", "json"]);
    assert_eq!((live.code, codes(&live)), (Some(2), vec!["E401".to_owned()]), "{live:?}");
    assert_eq!((&live.json()["moves"][0]["folders"], &live.json()["moves"][0]["count"]), (&"40-49".into(), &10.into()));
    assert_eq!(diff(&old, &new, &["--live", "--accept-moves"]).code, Some(0));
    // The other way round nobody owns what is taken from him.
    let back = diff(&new.replace("epoch = 2", "epoch = 1"), &format!("epoch = 2\n{old}"), &["--live"]);
    assert_eq!(back.code, Some(0), "{back:?}");

    let older = diff(&new, &old, &[]);
    assert_eq!((older.code, older.out.contains("E005")), (Some(2), true), "{older:?}");
    let pool =
        "[[pool]]\nname = \"chat\"\nmatch = [\"chat/*/*\"]\n[[pool.route]]\nfolders = \"0-99\"\nprimary = \"s3\"\n";
    let pooled = new.replace("[servers]\n", "[servers]\ns3 = { url = \"http://h:3\" }\n") + pool;
    let pooled = diff(&old, &pooled, &[]);
    for expected in
        ["added    s3", "s1 to s3: 0-49 of pool chat, names chat/*/*", "s2 to s3: 50-99 of pool chat, names chat/*/*"]
    {
        assert!(pooled.out.contains(expected), "{expected:?} in {}", pooled.out);
    }
}

/// What `explain` says is what a client does, for ten thousand names over two pools.
#[test]
fn explain_agrees_with_what_a_client_does() {
    let nodes = [
        Node::start_with("s1", owning("0-49")),
        Node::start_with("s2", owning("50-99")),
        Node::start_as("s3", |_| {}, chat()),
    ];
    let text = map_of(nodes[0].url(), nodes[1].url(), &(route("0-49", "s1") + &route("50-99", "s2")))
        .replace("[servers]\n", &format!("[servers]\ns3 = {{ url = \"{}\" }}\n", nodes[2].url()))
        + "[[pool]]\nname = \"chat\"\nmatch = [\"chat/*/*\", \"*/rooms/x*\"]\n[[pool.route]]\nfolders = \"0-99\"\nprimary = \"s3\"\n";
    let (_dir, map) = file(&text);
    let mut seed = 7u64;
    let mut any = |choices: &[&str]| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{}{}", choices[(seed >> 33) as usize % choices.len()], seed >> 48)
    };
    let names: Vec<String> = (0..10_000)
        .map(|_| {
            let sanctuary = any(&["users", "chat", "ünïcode ", "a."]);
            let sanctuary = if sanctuary.starts_with("chat") { "chat".to_owned() } else { sanctuary };
            let realm =
                if any(&["rooms", "other"]).starts_with("rooms") { "rooms".to_owned() } else { any(&["r", "R-"]) };
            format!("{sanctuary}/{realm}/{}", any(&["x", "y", "%", "s_"]))
        })
        .collect();
    let mut arguments = vec!["explain", "--offline", "--output", "ndjson", "--map", path(&map)];
    arguments.extend(names.iter().map(String::as_str));
    let run = ran(&arguments);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let explained: Vec<serde_json::Value> =
        run.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(explained.len(), names.len());

    let answered = block_on(async {
        let hydra = Hydra::connect(format!("map://{}", path(&map))).await.expect("a client");
        let mut answered = Vec::new();
        for name in &names {
            let name: SwampName = name.parse().expect("a name");
            let request = ForwardRequest::new(OpClass::Read, "GET", hydra_core::wire::swamp_path(&name));
            let answer = hydra.forward(&name, request).await.expect("an answer");
            let said = |header: &str| answer.header(header).unwrap_or_default().to_owned();
            answered.push((said("hydra-server"), said("hydra-folder")));
        }
        answered
    });
    let mut counts = std::collections::BTreeMap::new();
    for ((name, said), (server, folder)) in names.iter().zip(&explained).zip(&answered) {
        assert_eq!(
            (said["primary"]["id"].as_str(), said["folder"].to_string()),
            (Some(server.as_str()), folder.clone()),
            "{name}"
        );
        *counts.entry(server.clone()).or_insert(0) += 1;
    }
    println!("10 000 names: {counts:?}");
    assert!(counts.len() == 3 && counts.values().all(|&count| count > 1_000), "{counts:?}");
}

/// Some folders, and no copies.
fn owning(folders: &'static str) -> impl FnOnce(&mut hydra_core::EngineOptions) {
    move |options| options.owned = Some(folders.parse().expect("folders"))
}

/// A server of the pool `chat`.
fn chat() -> hydra_server::Config {
    hydra_server::Config { pool: "chat".into(), ..hydra_server::Config::default() }
}

/// The router as a process.
#[derive(Debug)]
struct Process {
    child: Child,
    target: Target,
    _out: BufReader<ChildStdout>,
}

impl Process {
    fn start(map: &Path) -> Process {
        let mut child = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--id", "r1", "--log", "warn", "--map"])
            .arg(map)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        let address = line.split("listening on http://").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"));
        Process { child, target: Target(address), _out: out }
    }

    fn signal(&self, name: &str) {
        let sent =
            std::process::Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Target) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(&self.target) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the router did not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_serves_reloads_its_map_and_ends_well() {
    let (s1, s2) = (Node::start("s1", "0-49", "50-99"), Node::start("s2", "50-99", "0-49"));
    let text = map_of(s1.url(), s2.url(), HALVES);
    let (_dir, map) = file(&text);
    let mut router = Process::start(&map);
    assert_eq!(router.target.put("/v1/kv/a/b/c/k", "1").status, 201);
    assert_eq!(router.target.get("/v1/map").etag(), "\"1\"");

    std::fs::write(&map, text.replace("folders = 100\n", "folders = 100\nepoch = 2\n").replace("50-99", "51-99"))
        .expect("written");
    router.signal("HUP");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(router.target.get("/v1/map").etag(), "\"1\"", "a map with a gap is refused, the old one stays");

    std::fs::write(&map, format!("epoch = 2\n{text}")).expect("written");
    router.signal("HUP");
    router.wait_for("the new map is in force", |target| target.get("/v1/map").etag() == "\"2\"");
    std::fs::write(&map, format!("epoch = 3\n{text}")).expect("written");
    router.wait_for("a changed file is noticed without a signal", |target| target.get("/v1/map").etag() == "\"3\"");
    assert_eq!(router.target.get("/v1/kv/a/b/c/k").text(), "1");

    router.signal("TERM");
    assert_eq!(router.code(), Some(0));
}

#[test]
fn serving_beyond_this_machine_and_taken_ports_are_refused() {
    let (_dir, map) = file(&map_of("http://h:1", "http://h:2", HALVES));
    let open = ran(&["serve", "--map", path(&map), "--listen", "0.0.0.0:0"]);
    assert_eq!((open.code, open.err.contains("--insecure-no-auth")), (Some(2), true), "{open:?}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken =
        ran(&["serve", "--map", path(&map), "--listen", &listener.local_addr().expect("an address").to_string()]);
    assert_eq!(taken.code, Some(5), "{taken:?}");
    let id = ran(&["serve", "--map", path(&map), "--id", "a b"]);
    assert_eq!((id.code, id.err.contains("router id")), (Some(2), true), "{id:?}");
    let nothing = ran(&["serve", "--map", "/nowhere/map.toml"]);
    assert_eq!((nothing.code, nothing.err.contains("E000")), (Some(2), true), "{nothing:?}");
}
