//! Clients with yesterday's map, while folders move: every acknowledged write is on the new owner.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hydra_sdk::{ClientMap, Hydra, Swamp, SwampName};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Node, Run, block_on, file, name_in, program};

/// A server with all folders but one, and one with that.
struct Ground {
    s1: Node,
    s2: Node,
    _dir: TempDir,
    map: PathBuf,
}

impl Ground {
    fn start() -> Ground {
        let s1 = Node::start_with("s1", |options| options.copied = true);
        let s2 = Node::start_with("s2", |options| options.owned = Some("98".parse().expect("folders")));
        let text = format!(
            "epoch = 7\nfolders = 100\n[servers]\ns1 = {{ url = \"{}\" }}\ns2 = {{ url = \"{}\" }}\n[[route]]\n\
             folders = \"0-97,99\"\nprimary = \"s1\"\n[[route]]\nfolders = \"98\"\nprimary = \"s2\"\n",
            s1.url(),
            s2.url(),
        );
        let (dir, map) = file(&text);
        Ground { s1, s2, _dir: dir, map }
    }

    /// A client that never hears of another map.
    fn client(&self) -> Hydra {
        let map = ClientMap::from_file(&self.map).expect("a map");
        block_on(async { Hydra::with_map(map) }).expect("a client")
    }

    fn step(&self, node: &Node, verb: &str, body: &serde_json::Value) -> serde_json::Value {
        let answer = node.ask("POST", &format!("/v1/folders/50/{verb}"), &body.to_string());
        assert_eq!(answer.status, 200, "{verb}: {}", answer.text());
        answer.json()
    }
}

/// What one writer was promised.
#[derive(Debug, Default)]
struct Promised {
    keys: Vec<String>,
    sum: i64,
    longest: Duration,
}

async fn write(swamp: Swamp, is_over: Arc<AtomicBool>) -> Promised {
    let mut promised = Promised::default();
    while !is_over.load(Ordering::Relaxed) {
        let key = format!("k{}", promised.keys.len());
        let begun = Instant::now();
        swamp.put(&key, &json!(key)).await.unwrap_or_else(|error| panic!("{error}"));
        promised.keys.push(key);
        swamp.increment("sum", 1).await.unwrap_or_else(|error| panic!("{error}"));
        promised.sum += 1;
        promised.longest = promised.longest.max(begun.elapsed());
    }
    promised
}

#[test]
fn what_a_client_with_an_old_map_was_promised_is_on_the_new_owner() {
    let ground = Ground::start();
    let hydra = ground.client();
    let names: Vec<SwampName> = (0..4).map(|n| name_in("50-51", &format!("shop/orders{n}/a"))).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = block_on(async {
        let swamps = names.iter().map(|name| hydra.swamp(name.clone()).expect("a name"));
        swamps.map(|swamp| tokio::spawn(write(swamp, Arc::clone(&is_over)))).collect()
    });
    std::thread::sleep(Duration::from_millis(300));
    let run = Run::of(program().args(["move", "50-51", "--from", "s1", "--to", "s2", "--map"]).arg(&ground.map));
    assert_eq!(run.code, Some(0), "{run:?}");
    std::thread::sleep(Duration::from_millis(300));
    is_over.store(true, Ordering::Relaxed);

    let (mut writes, mut longest) = (0, Duration::ZERO);
    for (name, writer) in names.iter().zip(writers) {
        let promised = block_on(writer).expect("no call fails");
        let kept = |key: &str| ground.s2.ask("GET", &hydra_core::wire::treasure_path(name, key), "").text();
        for key in &promised.keys {
            assert_eq!(kept(key), format!("{key:?}"), "{name}");
        }
        assert_eq!(kept("sum"), promised.sum.to_string(), "{name}");
        assert_eq!(ground.s1.ask("GET", &hydra_core::wire::treasure_path(name, "sum"), "").status, 421);
        let redirect = hydra.locate(name).redirect.expect("it was learned");
        assert_eq!((redirect.server.as_str(), redirect.epoch), ("s2", 8));
        writes += promised.keys.len() * 2;
        longest = longest.max(promised.longest);
    }
    println!("{writes} writes of a client with an old map; the longest pause of two was {longest:?}");
    assert!(writes > 100 && longest < Duration::from_secs(4), "{writes}, {longest:?}");
    assert_eq!(hydra.map().expect("a map").epoch(), 7, "it never heard of another map");
}

#[test]
fn a_client_finishes_a_move_whose_tool_has_died() {
    let ground = Ground::start();
    let hydra = ground.client();
    let name = name_in("50", "shop/orders/a");
    let swamp: Swamp<i64> = hydra.swamp(name.clone()).expect("a name");
    block_on(async { swamp.increment("n", 1).await }).expect("counted at the source");
    ground.step(&ground.s2, "import", &json!({"epoch": 8, "from": "s1"}));
    let seal = ground.step(&ground.s1, "seal", &json!({"epoch": 8, "to": "s2"}))["seal"].clone();

    // What is sent while the folder is sealed waits, and is counted where the folder goes.
    let waiting = block_on(async {
        let swamp = swamp.clone();
        tokio::spawn(async move { swamp.increment("n", 1).await })
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished(), "the folder is sealed");
    let pulled = ground.step(&ground.s2, "pull", &json!({"url": ground.s1.url(), "seal": seal}));
    let commit = json!({"epoch": 8, "to": "s2", "seal": seal, "manifest": pulled["manifest"]});
    ground.step(&ground.s1, "commit", &commit);
    // Nobody has told s2 to serve it. The client does.
    assert_eq!(block_on(waiting).expect("no panic").expect("counted at the new owner"), 2);
    assert_eq!(block_on(async { swamp.get("n").await }).expect("read"), Some(2));
    let path = hydra_core::wire::treasure_path(&name, "n");
    assert_eq!((ground.s2.ask("GET", &path, "").text(), ground.s1.ask("GET", &path, "").status), ("2".into(), 421));
}

#[test]
fn a_client_whose_map_came_too_early_writes_to_the_source_until_the_folder_has_moved() {
    let ground = Ground::start();
    let early = std::fs::read_to_string(&ground.map).expect("the map").replace("epoch = 7", "epoch = 8");
    let early = early.replace("0-97,99", "0-49,51-97,99").replace("\"98\"", "\"50,98\"");
    let map = ClientMap::from_toml(&early).expect("a map");
    let hydra = block_on(async { Hydra::with_map(map) }).expect("a client");
    let name = name_in("50", "shop/orders/a");
    let swamp: Swamp<i64> = hydra.swamp(name.clone()).expect("a name");
    let error = block_on(async { swamp.increment("n", 1).await }).expect_err("s2 knows nothing of it yet");
    assert_eq!(error.kind(), hydra_sdk::ErrorKind::NotOwner, "{error}");
    assert!(!ground.s2.dir().join("00050").exists(), "nothing is created by a refusal");

    ground.step(&ground.s2, "import", &json!({"epoch": 8, "from": "s1"}));
    assert_eq!(block_on(async { swamp.increment("n", 1).await }).expect("counted at the source"), 1);
    let run = Run::of(program().args(["move", "50", "--from", "s1", "--to", "s2", "--map"]).arg(&ground.map));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(block_on(async { swamp.increment("n", 1).await }).expect("counted at the owner"), 2);
    assert_eq!(ground.s2.ask("GET", &hydra_core::wire::treasure_path(&name, "n"), "").text(), "2");
}
