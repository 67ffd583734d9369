use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use hydra_sdk::{ClientMap, Expired, Hydra, ImportMode, Record, Swamp, SwampName, Value};
use tokio::runtime::Runtime;

use crate::support;

fn record(n: u64) -> Record {
    Record::new(format!("k{n:05}"), Value::json(n.to_string()).expect("JSON"))
}

/// The same story on servers and in process.
async fn story(hydra: &Hydra) {
    let swamp: Swamp<u64> = hydra.swamp("a/b/c").expect("a name");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let records =
        stream::iter((0..2_300).map(|n| if n == 700 { Record::new("..", Value::text("bad")) } else { record(n) }));
    let imported = swamp
        .import(records)
        .sync()
        .on_progress(move |so_far| noted.lock().expect("a lock").push(so_far.written))
        .await;
    let imported = imported.expect("imported");
    assert_eq!((imported.lines, imported.written, imported.skipped, imported.failed), (2_300, 2_299, 0, 1));
    assert_eq!((imported.errors[0].line, imported.errors[0].code.as_str()), (701, "invalid-key"));
    let seen = seen.lock().expect("a lock").clone();
    assert!(seen.len() >= 4 && seen.is_sorted() && seen.last() == Some(&2_299), "{seen:?}");
    let again = swamp.import(stream::iter((0..10).map(record))).mode(ImportMode::Create).await.expect("imported");
    assert_eq!((again.written, again.skipped), (0, 10));

    let exported: Vec<_> = swamp.export(Expired::Hidden).try_collect().await.expect("exported");
    assert_eq!(exported.len(), 2_299);
    assert!(exported.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert_eq!(exported[5].value, 5);
    // What is exported can be imported, and is not newer than itself.
    let same = swamp.typed::<serde_json::Value>().export(Expired::Hidden);
    let records: Vec<Record> = same
        .map_ok(|t| Record::new(t.key, Value::from_serialize(&t.value).expect("JSON")))
        .try_collect()
        .await
        .expect("exported");
    let many = records.into_iter().take(600).enumerate().map(|(n, record)| {
        let name: SwampName = format!("many/swamps/s{}", n % 150).parse().expect("a name");
        (name, record)
    });
    let imported = hydra.import(stream::iter(many.collect::<Vec<_>>())).await.expect("imported");
    assert_eq!((imported.written, imported.failed), (600, 0), "{:?}", imported.errors);
    let pattern = "many/swamps/*".parse().expect("a pattern");
    let all: Vec<_> = hydra.export(&pattern, Expired::Hidden).try_collect().await.expect("exported");
    let swamps: std::collections::HashSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!((all.len(), swamps.len()), (600, 150), "each folder once");
    let newer = all.into_iter().map(|(name, treasure)| (name, Record::from(treasure)));
    let newer = hydra.import(stream::iter(newer.collect::<Vec<_>>())).mode(ImportMode::Newer).await.expect("imported");
    assert_eq!((newer.written, newer.skipped), (0, 600));
    let none: Vec<_> = hydra.export(&"no/such/*".parse().expect("a pattern"), Expired::Hidden).collect().await;
    assert!(none.is_empty());
}

fn two_servers() -> (support::Hydra, support::Hydra, ClientMap) {
    let server = |id: &str, owned: &str| {
        let (id, owned) = (Some(id.to_owned()), owned.parse().ok());
        support::Hydra::start_with(|options| (options.server_id, options.owned) = (id, owned), Default::default())
    };
    let (s1, s2) = (server("s1", "0-49"), server("s2", "50-99"));
    let map = ClientMap::builder()
        .folders(100)
        .server("s1", s1.server().url())
        .server("s2", s2.server().url())
        .route("0-49", "s1", [""; 0])
        .route("50-99", "s2", [""; 0])
        .build()
        .expect("a map");
    (s1, s2, map)
}

#[test]
fn the_client_imports_and_exports_across_servers_and_in_process() {
    let (_s1, _s2, map) = two_servers();
    Runtime::new().expect("a runtime").block_on(async {
        let remote = Hydra::with_map(map).expect("a client");
        story(&remote).await;
        let embedded = Hydra::connect("mem://").await.expect("in memory");
        story(&embedded).await;
        embedded.close().await.expect("closed");
    });
}

#[test]
fn records_are_taken_only_as_they_are_sent() {
    let (_s1, _s2, map) = two_servers();
    Runtime::new().expect("a runtime").block_on(async {
        let hydra = Hydra::with_map(map).expect("a client");
        let taken = Arc::new(AtomicU64::new(0));
        let (made, at_progress) = (Arc::clone(&taken), Arc::clone(&taken));
        let records = stream::iter((0..5_000).map(move |n| {
            made.fetch_add(1, Ordering::Relaxed);
            record(n)
        }));
        let swamp: Swamp<u64> = hydra.swamp("a/b/c").expect("a name");
        let import = swamp.import(records).on_progress(move |so_far| {
            assert!(at_progress.load(Ordering::Relaxed) <= so_far.lines + 1_000, "no more than a part ahead");
        });
        assert_eq!(import.await.expect("imported").written, 5_000);
    });
}
