//! A map file that changes while a client runs.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hydra_sdk::{ClientEvent, ErrorKind, Hydra, Swamp};

use crate::fake::{Asked, Fake, answer, fine, probed, until};

fn text(epoch: u32, url: &str) -> String {
    format!(
        "folders = 4\nepoch = {epoch}\n[servers.s1]\nurl = \"{url}\"\n[[route]]\nfolders = \"0-3\"\nprimary = \"s1\"\n"
    )
}

#[tokio::test]
async fn a_better_map_is_taken_and_a_worse_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let says = |what: &'static str| move |_: &Asked| answer(200, "s1", &format!("{what:?}"));
    let (old, new) = (Fake::start(says("old")).await, Fake::start(says("new")).await);
    std::fs::write(&path, text(1, &old.url())).expect("written");
    let hydra =
        Hydra::builder().map_file(&path).watch_every(Duration::from_millis(10)).connect().await.expect("a client");
    let swamp: Swamp = hydra.swamp("a/b/c").expect("a name");
    assert_eq!(swamp.get("k").await.expect("read"), Some("old".into()));
    let epoch = || hydra.map().expect("a map").epoch();
    for bad in ["folders = 4\n[[route", &text(0, &new.url()), &text(2, "http://nowhere"), &text(1, &new.url())] {
        std::fs::write(&path, bad).expect("written");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(epoch(), 1, "{bad}");
    }
    std::fs::remove_file(&path).expect("removed");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("old".into()), "the last good map stays");
    // As editors and config maps do it: another file takes its place.
    let beside = directory.path().join("map.toml.new");
    std::fs::write(&beside, text(2, &new.url())).expect("written");
    std::fs::rename(&beside, &path).expect("renamed");
    until("the new map is in force", || epoch() == 2).await;
    assert_eq!(swamp.get("k").await.expect("read"), Some("new".into()));
}

/// What a client noticed, as text.
type Noticed = Arc<Mutex<Vec<String>>>;

async fn watching(path: &Path, accept_moves: bool) -> (Hydra, Noticed) {
    let noticed = Noticed::default();
    let told = Arc::clone(&noticed);
    let builder = Hydra::builder().map_file(path).watch_every(Duration::from_millis(10)).accept_moves(accept_moves);
    let builder = builder.on_event(move |event: &ClientEvent| told.lock().expect("lock").push(event.to_string()));
    (builder.connect().await.expect("a client"), noticed)
}

fn count(noticed: &Noticed, what: &str) -> usize {
    noticed.lock().expect("lock").iter().filter(|text| text.contains(what)).count()
}

#[tokio::test]
async fn every_refusal_is_told_once_with_its_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let s1 = Fake::start(fine("s1")).await;
    std::fs::write(&path, text(3, &s1.url())).expect("written");
    let (hydra, noticed) = watching(&path, false).await;
    let other = s1.url().replace("127.0.0.1", "localhost");
    for (bad, code) in [
        (text(2, &s1.url()), "E005"),
        (text(3, &other), "E005"),
        (text(4, &s1.url()).replace("folders = 4", "folders = 5").replace("0-3", "0-4"), "E106"),
        (text(4, &s1.url()).replace("folders = 4", "cluster = \"other\"\nfolders = 4"), "E004"),
        (text(4, &s1.url())[..40].to_owned(), "E001"),
        (text(4, &s1.url()).replace("0-3", "0-2"), "E101"),
    ] {
        noticed.lock().expect("lock").clear();
        std::fs::write(&path, &bad).expect("written");
        until(&format!("{code} is told"), || count(&noticed, code) > 0).await;
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert_eq!((count(&noticed, code), hydra.map().expect("a map").epoch()), (1, 3), "{bad}");
    }
    std::fs::write(&path, text(4, &s1.url())).expect("written");
    until("the map is in force", || hydra.map().expect("a map").epoch() == 4).await;
    assert_eq!(count(&noticed, "the map of epoch 4 is in force"), 1);
}

#[tokio::test]
async fn a_map_behind_symlinks_is_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let s1 = Fake::start(fine("s1")).await;
    for (version, epoch) in [("first", 1), ("second", 2)] {
        std::fs::create_dir(at(version)).expect("a directory");
        std::fs::write(at(version).join("map.toml"), text(epoch, &s1.url())).expect("written");
    }
    // As a config map is mounted: the file leads through a link that is replaced as a whole.
    std::os::unix::fs::symlink("first", at("data")).expect("a link");
    std::os::unix::fs::symlink("data/map.toml", at("map.toml")).expect("a link");
    let (hydra, _) = watching(&at("map.toml"), false).await;
    std::os::unix::fs::symlink("second", at("data.new")).expect("a link");
    std::fs::rename(at("data.new"), at("data")).expect("replaced");
    until("the new map is in force", || hydra.map().expect("a map").epoch() == 2).await;
}

#[tokio::test]
async fn a_map_that_is_still_written_is_not_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let s1 = Fake::start(fine("s1")).await;
    std::fs::write(&path, text(1, &s1.url())).expect("written");
    let builder = Hydra::builder().map_file(&path).watch_every(Duration::from_millis(100));
    let hydra = builder.connect().await.expect("a client");
    // Each beginning can be read, and is not what the writer means.
    for n in 0..20 {
        std::fs::write(&path, format!("{}# {n}\n", text(2, &s1.url()))).expect("written");
        tokio::time::sleep(Duration::from_millis(25)).await;
        assert_eq!(hydra.map().expect("a map").epoch(), 1, "after {n} pieces");
    }
    until("the whole map is in force", || hydra.map().expect("a map").epoch() == 2).await;
}

#[tokio::test]
async fn folders_are_not_taken_from_a_server_that_owns_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let map = |epoch: u32, first: &str, second: &str| {
        let (a, b) = (s1.url(), s2.url());
        format!(
            "folders = 4\nepoch = {epoch}\n[servers]\ns1 = {{ url = \"{a}\" }}\ns2 = {{ url = \"{b}\" }}\n\
             [[route]]\nfolders = \"{first}\"\nprimary = \"s1\"\n[[route]]\nfolders = \"{second}\"\nprimary = \"s2\"\n"
        )
    };
    s1.probe(Some(probed("s1", "hydra", 4, "0-2")));
    std::fs::write(&path, map(1, "0-2", "3")).expect("written");
    let (hydra, noticed) = watching(&path, false).await;
    std::fs::write(&path, map(2, "0", "1-3")).expect("written");
    until("it is refused", || count(&noticed, "E401") == 1).await;
    assert_eq!(count(&noticed, "moves folders 1-2 of pool default from s1 to s2, and s1 still owns them"), 1);
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!((hydra.map().expect("a map").epoch(), count(&noticed, "E401")), (1, 1));
    // The move is done: the same file is taken now.
    s1.probe(Some(probed("s1", "hydra", 4, "0")));
    until("it is in force", || hydra.map().expect("a map").epoch() == 2).await;
    assert_eq!(count(&noticed, "it moves folders 1-2 of pool default from s1 to s2"), 1);

    s1.probe(Some(probed("s1", "hydra", 4, "0-2")));
    std::fs::write(&path, map(1, "0-2", "3")).expect("written");
    let (hydra, _) = watching(&path, true).await;
    std::fs::write(&path, map(2, "0", "1-3")).expect("written");
    until("it is taken at the operator's word", || hydra.map().expect("a map").epoch() == 2).await;
}

#[tokio::test]
async fn a_bad_map_file_is_refused_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let url = format!("map://{}", path.display());
    assert_eq!(Hydra::connect(&url).await.expect_err("no file").kind(), ErrorKind::Config);
    std::fs::write(&path, text(1, "http://10.0.0.1:4937").replace("0-3", "0-2")).expect("written");
    let error = Hydra::connect(&url).await.expect_err("a gap");
    assert!(error.to_string().contains("map.toml") && error.to_string().contains("E101"), "{error}");
    assert!(error.to_string().contains("no server for folders 3"), "{error}");
}
