//! A map file that changes while a client runs.

use std::time::Duration;

use hydra_sdk::{ErrorKind, Hydra, Swamp};

use crate::fake::{Fake, fine, until};

fn text(epoch: u32, url: &str) -> String {
    format!(
        "folders = 4\nepoch = {epoch}\n[servers.s1]\nurl = \"{url}\"\n[[route]]\nfolders = \"0-3\"\nprimary = \"s1\"\n"
    )
}

#[tokio::test]
async fn a_better_map_is_taken_and_a_worse_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("map.toml");
    let (old, new) = (Fake::start(fine("old")).await, Fake::start(fine("new")).await);
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
