//! `move` and `promote` between real servers: from start to end, given up, gone on with, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hydra_sdk::{ClientMap, Hydra};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Node, Run, block_on, file, name_in, program};

/// One server with all folders, one with none, perhaps one with copies, and their map.
struct Ground {
    s1: Node,
    s2: Node,
    s3: Option<Node>,
    _dir: TempDir,
    map: PathBuf,
}

impl Ground {
    fn start() -> Ground {
        Ground::of(None)
    }

    /// With a third server that keeps copies of everything.
    fn with_fallback() -> Ground {
        Ground::of(Some(Node::start("s3", "99", "0-98")))
    }

    fn of(s3: Option<Node>) -> Ground {
        let s1 = Node::start_with("s1", |options| options.copied = true);
        let s2 = Node::start_with("s2", |options| options.owned = Some("98".parse().expect("folders")));
        let third = s3.as_ref().map_or(String::new(), |s3| format!("s3 = {{ url = \"{}\" }}\n", s3.url()));
        let fallbacks = if s3.is_some() { "fallbacks = [\"s3\"]\n" } else { "" };
        let text = format!(
            "# The cellar.\ncluster = \"hydra\"\nepoch = 7 # seven\nfolders = 100\n[servers]\ns1 = {{ url = \"{}\" }}\n\
             s2 = {{ url = \"{}\" }}\n{third}[[route]]\nfolders = \"0-97,99\"\nprimary = \"s1\"\n{fallbacks}\
             [[route]] # the new one\nfolders = \"98\"\nprimary = \"s2\"\n",
            s1.url(),
            s2.url(),
        );
        let (dir, map) = file(&text);
        Ground { s1, s2, s3, _dir: dir, map }
    }

    fn run(&self, flags: &[&str]) -> Run {
        Run::of(program().args(flags).arg("--map").arg(&self.map))
    }

    fn move_(&self, more: &[&str]) -> Run {
        self.run(&[&["move", "50-51", "--from", "s1", "--to", "s2"], more].concat())
    }

    fn map_text(&self) -> String {
        fs::read_to_string(&self.map).expect("the map")
    }
}

fn put(node: &Node, path: &str, value: &str) -> Answer {
    node.ask("PUT", path, value)
}

fn step(node: &Node, folder: u32, verb: &str, body: Value) -> Value {
    let answer = node.ask("POST", &format!("/v1/folders/{folder}/{verb}"), &body.to_string());
    assert_eq!(answer.status, 200, "{verb}: {}", answer.text());
    answer.json()
}

fn state(node: &Node, folder: u32) -> String {
    node.ask("GET", &format!("/v1/folders/{folder}"), "").json()["folders"][0]["state"]
        .as_str()
        .expect("a state")
        .into()
}

fn path_in(folder: &str, base: &str) -> String {
    hydra_core::wire::treasure_path(&name_in(folder, base), "k")
}

#[test]
fn folders_move_with_all_their_data_and_the_map_says_so() {
    let ground = Ground::start();
    let (a, b) = (path_in("50", "shop/orders/a"), path_in("51", "shop/orders/b"));
    for number in 0..300 {
        put(&ground.s1, &format!("{a}{number}"), &format!("{number}"));
    }
    put(&ground.s1, &b, r#""in 51""#);

    let dry = ground.move_(&["--dry-run", "--output", "json"]);
    assert_eq!((dry.code, dry.json()["folders"][0]["outcome"].as_str()), (Some(0), Some("would be moved")), "{dry:?}");
    assert_eq!(
        (state(&ground.s2, 50), state(&ground.s1, 50)),
        ("absent".into(), "owned".into()),
        "a dry run does nothing"
    );

    let run = ground.move_(&["--write-map", "--output", "json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let report = run.json();
    assert!(report["folders"].as_array().is_some_and(|all| all.len() == 2 && all[0]["pauseMs"].is_u64()), "{report}");
    for number in 0..300 {
        assert_eq!(ground.s2.ask("GET", &format!("{a}{number}"), "").text(), number.to_string());
    }
    assert_eq!(ground.s2.ask("GET", &b, "").text(), r#""in 51""#);
    for (method, body) in [("GET", ""), ("PUT", "1"), ("DELETE", "")] {
        let refused = ground.s1.ask(method, &a, body);
        assert_eq!((refused.status, refused.code().as_str()), (421, "not-owner"), "{refused:?}");
        let hint = refused.header("hydra-moved-to").expect("a hint");
        assert!(hint.starts_with("s2; epoch=8; token=") && hint.len() > 40, "{hint}");
        assert_eq!((refused.header("hydra-map-epoch"), refused.header("cache-control")), (Some("8"), Some("no-store")));
        assert_eq!((refused.header("hydra-applied"), refused.json()["owner"].as_str()), (Some("no"), Some("s2")));
    }
    let expected =
        "folders = \"0-49,52-97,99\"\nprimary = \"s1\"\n\n[[route]]\nfolders = \"50-51\"\nprimary = \"s2\"\n";
    let text = ground.map_text();
    assert!(text.contains("epoch = 8 # seven") && text.contains("# The cellar.") && text.contains(expected), "{text}");

    let again = ground.move_(&["--write-map"]);
    assert!(again.code == Some(0) && again.out.contains("has moved already"), "{again:?}");
    assert_eq!(ground.map_text(), text, "nothing is left to be written");
    assert_eq!(put(&ground.s2, &format!("{a}0"), "2").status, 200);
}

#[test]
fn what_a_move_decided_survives_a_restart_and_it_can_move_back() {
    let mut ground = Ground::start();
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    assert_eq!(ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--write-map"]).code, Some(0));
    for node in [&mut ground.s1, &mut ground.s2] {
        node.stop();
    }
    ground.s1.revive(|options| options.copied = true);
    ground.s2.revive(|options| options.owned = Some("98".parse().expect("folders")));
    assert_eq!((state(&ground.s1, 50), state(&ground.s2, 50)), ("moved".into(), "owned".into()));
    assert_eq!((ground.s1.ask("GET", &path, "").status, ground.s2.ask("GET", &path, "").text()), (421, "1".into()));
    assert_eq!(put(&ground.s2, &path, "2").status, 200);

    let back = ground.run(&["move", "50", "--from", "s2", "--to", "s1", "--write-map"]);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!((ground.s1.ask("GET", &path, "").text(), ground.s2.ask("GET", &path, "").status), ("2".into(), 421));
    assert!(ground.map_text().contains("epoch = 9"), "{}", ground.map_text());
}

#[test]
fn a_sealed_folder_is_read_and_not_written_until_it_is_given_up() {
    let ground = Ground::start();
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    step(&ground.s2, 50, "import", json!({"epoch": 8, "from": "s1"}));
    step(&ground.s1, 50, "seal", json!({"epoch": 8, "to": "s2"}));
    let refused = put(&ground.s1, &path, "2");
    assert_eq!((refused.status, refused.code().as_str()), (503, "folder-sealed"), "{refused:?}");
    assert_eq!((refused.header("retry-after"), refused.header("hydra-applied")), (Some("1"), Some("no")));
    assert_eq!(ground.s1.ask("GET", &path, "").text(), "1");
    let batch = format!("{}/batch", path.replace("/v1/kv/", "/v1/swamps/").trim_end_matches("/k"));
    let read = r#"{"ops":[{"op":"get","key":"k"}]}"#;
    assert_eq!(ground.s1.ask("POST", &batch, read).status, 200, "a batch that only reads is no write");
    let there = put(&ground.s2, &path, "2");
    assert_eq!((there.status, there.code().as_str()), (421, "folder-importing"), "{there:?}");
    assert_eq!(there.header("hydra-moved-to"), Some("s1; epoch=7"));
    let swamp = ground.s2.dir().join("00050");
    assert!(!swamp.exists(), "a refusal creates nothing");

    let aborted = ground.move_(&["--abort"]);
    assert!(aborted.code == Some(0) && aborted.out.contains("given up"), "{aborted:?}");
    assert_eq!((put(&ground.s1, &path, "2").status, state(&ground.s2, 50)), (200, "absent".into()));
    assert_eq!(ground.move_(&["--abort"]).code, Some(0), "there is nothing left to give up");
}

/// Does by hand what the command does, until some step.
fn begin(ground: &Ground, until: &str) {
    for (verb, node, body) in [
        ("import", &ground.s2, json!({"epoch": 8, "from": "s1"})),
        ("pull", &ground.s2, json!({"url": ground.s1.url()})),
    ] {
        step(node, 50, verb, body);
        if verb == until {
            return;
        }
    }
    let seal = step(&ground.s1, 50, "seal", json!({"epoch": 8, "to": "s2"}))["seal"].clone();
    if until == "seal" {
        return;
    }
    let pulled = step(&ground.s2, 50, "pull", json!({"url": ground.s1.url(), "seal": seal}));
    assert_eq!(pulled["ready"], true, "{pulled}");
    if until == "verify" {
        return;
    }
    let commit = json!({"epoch": 8, "to": "s2", "seal": seal, "manifest": pulled["manifest"]});
    step(&ground.s1, 50, "commit", commit);
}

#[test]
fn a_move_that_ended_early_is_gone_on_with_by_whoever_runs_it_again() {
    for until in ["import", "pull", "seal", "verify", "commit"] {
        let ground = Ground::start();
        let path = path_in("50", "shop/orders/a");
        put(&ground.s1, &path, "1");
        begin(&ground, until);
        if until == "commit" {
            let late = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--abort"]);
            assert!(late.code == Some(4) && late.err.contains("finish"), "{late:?}");
        }
        let run = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--resume"]);
        assert_eq!(run.code, Some(0), "after {until}: {run:?}");
        assert_eq!((ground.s2.ask("GET", &path, "").text(), ground.s1.ask("GET", &path, "").status), ("1".into(), 421));
    }
}

#[test]
fn steps_in_the_wrong_state_are_refused_and_change_nothing() {
    let ground = Ground::start();
    put(&ground.s1, &path_in("50", "shop/orders/a"), "1");
    let owned = ground.run(&["move", "98", "--from", "s1", "--to", "s2"]);
    assert!(owned.code == Some(4) && owned.err.contains("--folders none"), "{owned:?}");
    let strange = ground.run(&["move", "50", "--from", "s1", "--to", "s9"]);
    assert!(strange.code == Some(2) && strange.err.contains("s1, s2"), "{strange:?}");
    let missing = ground.run(&["move", "100", "--from", "s1", "--to", "s2"]);
    assert!(missing.code == Some(2) && missing.err.contains("100"), "{missing:?}");

    let refused = |node: &Node, verb: &str, body: Value| {
        let answer = node.ask("POST", &format!("/v1/folders/50/{verb}"), &body.to_string());
        (answer.status, answer.code())
    };
    let mismatch = (409, "folder-state-mismatch".to_owned());
    assert_eq!(refused(&ground.s1, "import", json!({"epoch": 8, "from": "s2"})), mismatch, "it owns the folder");
    assert_eq!(refused(&ground.s2, "seal", json!({"epoch": 8, "to": "s1"})), mismatch);
    assert_eq!(refused(&ground.s1, "fence", json!({"epoch": 8, "to": "s2"})), mismatch);
    assert_eq!(refused(&ground.s2, "promote", json!({"epoch": 8, "of": "s1"})), mismatch, "there is no copy");
    let commit = json!({"epoch": 8, "to": "s2", "seal": "x", "manifest": "y"});
    assert_eq!(refused(&ground.s1, "commit", commit), (409, "seal-mismatch".to_owned()));
    step(&ground.s2, 50, "import", json!({"epoch": 8, "from": "s1"}));
    assert_eq!(refused(&ground.s2, "activate", json!({"epoch": 8, "token": "x"})).1, "folder-not-ready");
    assert_eq!(refused(&ground.s2, "import", json!({"epoch": 9, "from": "s1"})), mismatch);
    assert_eq!(refused(&ground.s2, "abort", json!({"epoch": 9})).1, "epoch-mismatch");
    let first = step(&ground.s1, 50, "seal", json!({"epoch": 8, "to": "s2"}));
    assert_eq!(refused(&ground.s1, "seal", json!({"epoch": 9, "to": "s9"})).1, "seal-mismatch", "another move");
    let second = step(&ground.s1, 50, "seal", json!({"epoch": 8, "to": "s2"}));
    assert_eq!(refused(&ground.s1, "manifest", json!({"seal": first["seal"]})).1, "seal-mismatch", "the older is void");
    let pull = json!({"url": ground.s1.url(), "seal": second["seal"], "copy": false});
    assert_eq!(refused(&ground.s2, "pull", pull), (409, "manifest-mismatch".to_owned()), "nothing was copied");
    let elsewhere = json!({"url": ground.s2.url()});
    assert_eq!(refused(&ground.s2, "pull", elsewhere).1, "invalid-body", "that is another server");
    assert_eq!((state(&ground.s1, 50), state(&ground.s2, 50)), ("owned".into(), "importing".into()));
}

#[test]
fn a_fallback_that_took_writes_over_is_not_fenced_before_they_are_settled() {
    let ground = Ground::with_fallback();
    let s3 = ground.s3.as_ref().expect("a fallback");
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    // Which of two writes is the later one is told by clocks that count milliseconds.
    std::thread::sleep(Duration::from_millis(5));
    let fall_back = |of: &str, value: &str| s3.target().send_to_any("PUT", &path, &[("Hydra-Fallback-For", of)], value);
    assert_eq!(fall_back("s1", "2").status, 201);
    s3.ask("POST", "/v1/flush", "");

    let refused = ground.run(&["move", "50", "--from", "s1", "--to", "s2"]);
    assert!(refused.code == Some(4) && refused.err.contains("sync --settle"), "{refused:?}");
    assert_eq!((state(s3, 50), state(&ground.s1, 50)), ("standby".into(), "owned".into()));
    assert_eq!(put(&ground.s1, &format!("{path}2"), "1").status, 201, "nothing was sealed");

    let archive = s3.ask("GET", "/v1/folders/50/archive", "");
    let taken = ground.s1.target().send_to_any("PUT", "/v1/folders/50/archive", &[], &archive.body);
    assert_eq!(taken.status, 200, "{}", taken.text());
    let version = s3.ask("GET", "/v1/folders/50/takeover", "").json()["version"].clone();
    assert_eq!(s3.ask("POST", "/v1/folders/50/takeover/settle", &json!({"version": version}).to_string()).status, 204);
    let run = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--write-map"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(ground.s2.ask("GET", &path, "").text(), "2", "what was taken over came along");
    assert_eq!(state(s3, 50), "standby");
    let old = fall_back("s1", "3");
    assert_eq!((old.status, old.header("hydra-moved-to")), (421, Some("s2; epoch=8")), "a client with the old map");
    assert_eq!(fall_back("s2", "3").status, 200, "it stands in for the new owner now");
    assert!(ground.map_text().contains("folders = \"50\"\nprimary = \"s2\"\nfallbacks = [\"s3\"]"));
}

#[test]
fn another_tool_may_copy_and_one_that_does_not_is_found_out() {
    let ground = Ground::start();
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    let idle = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--copy-with", "true"]);
    assert!(idle.code == Some(4) && idle.err.contains("takes writes again"), "{idle:?}");
    assert_eq!((put(&ground.s1, &path, "2").status, state(&ground.s1, 50)), (200, "owned".into()));
    let broken = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--copy-with", "exit 3"]);
    assert!(broken.code == Some(1) && broken.err.contains("exit 3"), "{broken:?}");

    let quoted = |dir: &Path| format!("'{}'", dir.display());
    let command = format!(
        "mkdir -p {to}/$HYDRA_FOLDER_DIR && cp -R {from}/$HYDRA_FOLDER_DIR/. {to}/$HYDRA_FOLDER_DIR/",
        from = quoted(ground.s1.dir()),
        to = quoted(ground.s2.dir())
    );
    let run = ground.run(&["move", "50", "--from", "s1", "--to", "s2", "--copy-with", &command]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(ground.s2.ask("GET", &path, "").text(), "2");
}

#[test]
fn a_file_that_was_copied_wrong_is_fetched_again() {
    let ground = Ground::start();
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, r#""right""#);
    begin(&ground, "pull");
    let mut dirs = vec![ground.s2.dir().join("00050")];
    let mut spoilt = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                dirs.push(entry);
                continue;
            }
            let length = fs::metadata(&entry).expect("a file").len() as usize;
            fs::write(&entry, vec![0; length]).expect("spoilt");
            spoilt += 1;
        }
    }
    assert!(spoilt > 0);
    let run = ground.run(&["move", "50", "--from", "s1", "--to", "s2"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(ground.s2.ask("GET", &path, "").text(), r#""right""#);
}

#[test]
fn a_copy_takes_the_place_of_a_dead_owner_and_says_how_old_it_is() {
    let mut ground = Ground::with_fallback();
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    let archive = ground.s1.ask("GET", "/v1/folders/50/archive", "");
    let s3 = ground.s3.as_ref().expect("a fallback");
    assert_eq!(s3.target().send_to_any("PUT", "/v1/folders/50/archive", &[], &archive.body).status, 200);

    let promote = |fenced: &str| ground.run(&["promote", "50", "--on", "s3", "--i-fenced", fenced]);
    assert_eq!(promote("s3").code, Some(2), "it has to be said of which server");
    let alive = promote("s1");
    assert!(alive.code == Some(4) && alive.err.contains("hydra-router move"), "{alive:?}");
    ground.s1.stop();
    let promoted = ground.run(&["promote", "50", "--on", "s3", "--i-fenced", "s1", "--output", "json"]);
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    let found = &promoted.json()["folders"][0];
    assert!(found["files"] == 1 && found["quietSeconds"].is_u64(), "{found}");
    let s3 = ground.s3.as_ref().expect("a fallback");
    assert_eq!((state(s3, 50), s3.ask("GET", &path, "").text()), ("owned".into(), "1".into()));
    assert_eq!(put(s3, &path, "2").status, 200, "no client has to fall back any more");
}

#[test]
fn what_a_folder_left_behind_goes_when_everybody_else_has_it() {
    let ground = Ground::with_fallback();
    let s3 = ground.s3.as_ref().expect("a fallback");
    let path = path_in("50", "shop/orders/a");
    put(&ground.s1, &path, "1");
    let move_ = |more: &[&str]| ground.run(&[&["move", "50", "--from", "s1", "--to", "s2"], more].concat());
    let early = move_(&["--clean"]);
    assert!(early.code == Some(4) && early.err.contains("has not moved"), "{early:?}");
    assert_eq!(move_(&[]).code, Some(0));
    let unpublished = move_(&["--clean"]);
    assert!(unpublished.code == Some(4) && unpublished.err.contains("--write-map"), "{unpublished:?}");
    assert_eq!(move_(&["--write-map"]).code, Some(0));
    let behind = move_(&["--clean"]);
    assert!(behind.code == Some(4) && behind.err.contains("s3 lacks 1 files"), "{behind:?}");

    let archive = ground.s2.ask("GET", "/v1/folders/50/archive", "");
    assert_eq!(s3.target().send_to_any("PUT", "/v1/folders/50/archive", &[], &archive.body).status, 200);
    let marker = ground.s1.dir().join(".stfolder");
    fs::create_dir(&marker).expect("a marker");
    let synced = move_(&["--clean"]);
    assert!(synced.code == Some(4) && synced.err.contains("Syncthing"), "{synced:?}");
    fs::remove_dir(&marker).expect("removed");
    assert!(ground.s1.dir().join("00050/shop").exists(), "nothing was removed so far");

    let cleaned = move_(&["--clean", "--output", "json"]);
    assert_eq!((cleaned.code, cleaned.json()["folders"][0]["files"].as_u64()), (Some(0), Some(1)), "{cleaned:?}");
    assert!(!ground.s1.dir().join("00050/shop").exists());
    assert_eq!((state(&ground.s1, 50), ground.s1.ask("GET", &path, "").status), ("moved".into(), 421));
    assert_eq!((ground.s2.ask("GET", &path, "").text(), s3.ask("GET", &path, "").text()), ("1".into(), "1".into()));
    let back = ground.run(&["move", "50", "--from", "s2", "--to", "s1", "--write-map"]);
    assert_eq!((back.code, ground.s1.ask("GET", &path, "").text()), (Some(0), "1".into()), "{back:?}");
}

/// What the data set of a program does while its folders move, and it knows nothing of that.
#[test]
fn a_client_with_yesterdays_map_notices_nothing_but_a_short_wait() {
    let ground = Ground::start();
    let hydra = Hydra::with_map(ClientMap::from_file(&ground.map).expect("a map")).expect("a data set");
    let is_over = Arc::new(AtomicBool::new(false));
    let writers = ["50", "51"].map(|folder| {
        let (hydra, is_over) = (hydra.clone(), Arc::clone(&is_over));
        let name = name_in(folder, "shop/orders/client");
        std::thread::spawn(move || {
            block_on(async move {
                let counts = hydra.swamp::<i64>(&name).expect("a swamp");
                let (mut sum, mut longest) = (0, Duration::ZERO);
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    counts.increment("sum", 1).await.expect("counted");
                    sum += 1;
                    longest = longest.max(begun.elapsed());
                    assert_eq!(counts.get("sum").await.expect("read"), Some(sum), "what was counted is read");
                }
                (name, sum, longest)
            })
        })
    });
    std::thread::sleep(Duration::from_millis(200));
    let run = ground.move_(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    std::thread::sleep(Duration::from_millis(200));
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        let (name, sum, longest) = writer.join().expect("no call failed");
        println!("{name}: {sum} increments, the longest took {} ms", longest.as_millis());
        let path = hydra_core::wire::treasure_path(&name, "sum");
        assert_eq!(ground.s2.ask("GET", &path, "").text(), sum.to_string());
        assert!(sum > 20, "only {sum} increments of {name}");
    }
}
