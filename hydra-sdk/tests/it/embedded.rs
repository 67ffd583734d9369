//! The same API on data in this process.

use std::time::Duration;

use futures_util::stream::TryStreamExt;
use hydra_sdk::{Applied, Done, ErrorCode, ErrorKind, Hydra, Number, Policy, Swamp, Value};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Item {
    sku: u32,
}

async fn memory() -> (Hydra, Swamp<Item>) {
    let hydra = Hydra::connect("mem://").await.expect("opens");
    let swamp = hydra.swamp("shop/carts/17").expect("a name");
    (hydra, swamp)
}

#[tokio::test]
async fn values_are_stored_and_read_back() {
    let (hydra, swamp) = memory().await;
    assert_eq!(swamp.get("a").await.expect("read"), None);
    let written = swamp.put("a", &Item { sku: 9 }).await.expect("stored");
    assert!(written.created);
    let treasure = swamp.treasure("a").await.expect("read").expect("there");
    assert_eq!((treasure.value, treasure.version, treasure.stale), (Item { sku: 9 }, written.version, false));
    assert!(swamp.delete("a").await.expect("removed"));
    assert!(!swamp.delete("a").await.expect("nothing there"));
    let image = Value::binary("image/png", [0, 255]).expect("binary");
    swamp.put_value("i", image.clone()).await.expect("stored");
    assert_eq!(swamp.get_value("i").await.expect("read"), Some(image));
    assert_eq!(swamp.get("i").await.expect_err("no JSON").kind(), ErrorKind::Decode);
    hydra.close().await.expect("closes");
}

#[tokio::test]
async fn conditions_hold() {
    let (_hydra, swamp) = memory().await;
    let first = swamp.put("a", &Item { sku: 1 }).create_only().await.expect("new");
    let error = swamp.put("a", &Item { sku: 2 }).create_only().await.expect_err("exists");
    assert_eq!((error.kind(), error.applied()), (ErrorKind::AlreadyExists, Applied::No), "{error}");
    let second = swamp.put("a", &Item { sku: 2 }).if_version(&first.version).await.expect("at that version");
    let error = swamp.put("a", &Item { sku: 3 }).if_version(&first.version).await.expect_err("an old version");
    assert_eq!((error.kind(), error.current_version()), (ErrorKind::VersionMismatch, Some(&second.version)), "{error}");
    assert_eq!(
        swamp.put("b", &Item { sku: 1 }).update_only().await.expect_err("absent").kind(),
        ErrorKind::VersionMismatch
    );
    assert!(swamp.delete("a").if_version(&first.version).await.is_err());
    assert!(swamp.delete("a").if_version(&second.version).await.expect("at that version"));
}

#[tokio::test]
async fn increments_count_once_for_each_key() {
    let (_hydra, swamp) = memory().await;
    assert_eq!(swamp.increment("n", 5).await.expect("counted"), 5);
    assert_eq!(swamp.increment("n", -2).idempotency_key("order-1").await.expect("counted"), 3);
    assert_eq!(swamp.increment("n", -2).idempotency_key("order-1").await.expect("the same answer"), 3);
    let error = swamp.increment("n", -3).idempotency_key("order-1").await.expect_err("another operation");
    assert_eq!(error.code(), Some(ErrorCode::IdempotencyReuse), "{error}");
    swamp.put("a", &Item { sku: 1 }).await.expect("stored");
    assert_eq!(swamp.increment("a", 1).await.expect_err("no number").kind(), ErrorKind::OutOfRange);
}

#[tokio::test]
async fn parallel_updates_lose_nothing() {
    let (hydra, _) = memory().await;
    let counter: Swamp<u32> = hydra.swamp("a/b/c").expect("a name");
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let counter = counter.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    counter.update("n", |n| Some(n.unwrap_or(0) + 1)).await.expect("stored");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(counter.get("n").await.expect("read"), Some(40));
}

#[tokio::test]
async fn expired_treasures_are_gone() {
    let (_hydra, swamp) = memory().await;
    swamp.put("a", &Item { sku: 1 }).ttl(Duration::from_millis(30)).await.expect("stored");
    assert!(swamp.treasure("a").await.expect("read").expect("still there").expires_at.is_some());
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(swamp.get("a").await.expect("read"), None);
}

#[tokio::test]
async fn batches_are_one() {
    let (_hydra, swamp) = memory().await;
    let batch =
        swamp.batch().put("a", &Item { sku: 1 }).increment("n", 2).get("a").delete("zzz").create("a", &Item { sku: 2 });
    let done = batch.await.expect("carried out");
    assert!(matches!(&done[2], Ok(Done::Got(Some(treasure))) if treasure.value.sku == 1), "{done:?}");
    assert!(
        matches!(done[3], Ok(Done::Deleted(false))) && matches!(done[1], Ok(Done::Incremented(Number::Integer(2), _))),
        "{done:?}"
    );
    assert_eq!(done[4].as_ref().expect_err("exists").kind(), ErrorKind::AlreadyExists);
    let atomic = swamp.batch().put("b", &Item { sku: 1 }).create("a", &Item { sku: 2 }).atomic();
    assert_eq!(atomic.await.expect_err("all or nothing").code(), Some(ErrorCode::BatchAborted));
    assert_eq!(swamp.get("b").await.expect("read"), None);
    assert!(swamp.batch().await.expect("nothing to do").is_empty());
}

#[tokio::test]
async fn many_at_once_and_lists() {
    let (_hydra, swamp) = memory().await;
    let items: Vec<(String, Item)> = (0..2_500).map(|n| (format!("k{n:04}"), Item { sku: n })).collect();
    let written = swamp.put_many(items.iter().map(|(key, item)| (key.as_str(), item))).await.expect("stored");
    assert!(written.len() == 2_500 && written.iter().all(Result::is_ok));
    let found = swamp.get_many(["k0007", "none", "k2499"]).await.expect("read");
    let found: Vec<Option<u32>> =
        found.into_iter().map(|treasure| treasure.map(|treasure| treasure.value.sku)).collect();
    assert_eq!(found, [Some(7), None, Some(2_499)]);
    assert_eq!(swamp.count().await.expect("counted"), 2_500);
    let page = swamp.list().prefix("k00").limit(10).page().await.expect("a page");
    assert_eq!((page.treasures.len(), page.treasures[9].key.as_str()), (10, "k0009"));
    let next = swamp.list().prefix("k00").after(&page.next.expect("more")).limit(1_000).page().await.expect("a page");
    assert_eq!((next.treasures.len(), next.next), (90, None));
    let down = swamp.list().descending().limit(2).page().await.expect("a page");
    assert_eq!(down.treasures[1].key, "k2498");
    let all: Vec<_> = swamp.list().stream().try_collect().await.expect("all");
    assert!(all.len() == 2_500 && all.windows(2).all(|pair| pair[0].key < pair[1].key));
    let some: Vec<_> = swamp.list().limit(1_500).stream().try_collect().await.expect("some");
    assert_eq!(some.len(), 1_500);
}

#[tokio::test]
async fn a_swamp_can_be_asked_about_and_destroyed() {
    let (hydra, swamp) = memory().await;
    assert_eq!(swamp.info().await.expect("asked"), None, "asking creates nothing");
    swamp.put("a", &Item { sku: 1 }).await.expect("stored");
    swamp.flush().await.expect("on disk");
    let info = swamp.info().await.expect("asked").expect("there");
    assert_eq!((info.count, info.dirty), (1, false));
    let place = hydra.locate(swamp.name());
    assert_eq!((place.folder, place.pool.as_str()), (Some(info.folder), "default"));
    assert!(swamp.destroy().await.expect("destroyed") && !swamp.destroy().await.expect("nothing left"));
    assert_eq!(swamp.count().await.expect("counted"), 0);
}

#[tokio::test]
async fn policies_are_kept() {
    let (hydra, _) = memory().await;
    let pattern = "pay/*/*".parse().expect("a pattern");
    let synced = Policy { write_interval: Duration::ZERO, ..Policy::default() };
    hydra.set_policy(&pattern, &synced).await.expect("registered");
    assert_eq!(hydra.policies().await.expect("listed"), [(pattern.clone(), synced)]);
    let swamp: Swamp = hydra.swamp("pay/balance/7").expect("a name");
    assert!(swamp.put("a", &1.into()).await.expect("stored").synced);
    assert!(hydra.delete_policy(&pattern).await.expect("forgotten"));
    assert!(hydra.policies().await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_directory_keeps_what_was_stored() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}?folders=8", directory.path().join("data").display());
    let hydra = Hydra::connect(&url).await.expect("opens");
    hydra.swamp("a/b/c").expect("a name").put("k", &Item { sku: 3 }).await.expect("stored");
    let busy = Hydra::connect(&url).await.expect_err("in use");
    assert_eq!(busy.kind(), ErrorKind::Config, "{busy}");
    hydra.close().await.expect("closes");
    let hydra = Hydra::connect(&url).await.expect("opens again");
    let swamp: Swamp<Item> = hydra.swamp("a/b/c").expect("a name");
    assert_eq!(swamp.get("k").await.expect("read"), Some(Item { sku: 3 }));
    hydra.close().await.expect("closes");
    let error = Hydra::connect(url.replace("=8", "=9")).await.expect_err("other folders");
    assert_eq!(error.code(), Some(ErrorCode::FolderCountMismatch), "{error}");
}

#[tokio::test]
async fn data_in_memory_leaves_nothing_behind() {
    let left = || {
        let own = format!("hydra-mem-{}-", std::process::id());
        let parent = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let names = std::fs::read_dir(parent).expect("a directory").flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&own))
            .collect::<std::collections::HashSet<_>>()
    };
    let (hydra, swamp) = memory().await;
    let path = hydra.locate(swamp.name()).primary.url.replace("file://", "");
    let name = std::path::Path::new(&path).file_name().expect("a name").to_string_lossy().into_owned();
    assert!(left().contains(&name));
    swamp.put("a", &Item { sku: 1 }).await.expect("stored");
    drop((hydra, swamp));
    crate::fake::until("the directory is gone", || !left().contains(&name)).await;
}

#[tokio::test]
async fn what_needs_servers_says_so() {
    let (hydra, swamp) = memory().await;
    assert!(hydra.map().is_none() && hydra.servers().is_empty());
    let request = hydra_sdk::ForwardRequest::new(hydra_sdk::OpClass::Read, "GET", "/");
    assert_eq!(hydra.forward(swamp.name(), request).await.expect_err("no servers").kind(), ErrorKind::Config);
}
