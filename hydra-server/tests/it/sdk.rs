//! The real client: what it sees through a server is what it sees in its own process.

use std::time::Duration;

use hydra_sdk::{Done, Error, ErrorCode, Hydra, Pattern, Policy, Swamp, Value};
use serde_json::{Value as Json, json};

use crate::support::{Hydra as Server, block_on};

/// What went wrong, as far as a caller can tell.
fn failure(error: &Error) -> String {
    format!("{:?} {:?}", error.code(), error.applied())
}

/// What an operation of a batch did, without its version.
fn did(result: Result<Done<Json>, Error>) -> String {
    match result {
        Ok(Done::Put(written)) => format!("put, created {}", written.created),
        Ok(Done::Deleted(existed)) => format!("deleted, existed {existed}"),
        Ok(Done::Incremented(sum, _)) => format!("sum {sum}"),
        Ok(Done::Got(found)) => format!("got {:?}", found.map(|treasure| treasure.value)),
        Ok(_) => "something else".to_owned(),
        Err(error) => failure(&error),
    }
}

/// Patches, increments with options, pushes, and parts of values.
async fn changes(swamp: &Swamp<Json>) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    told.push(failure(&swamp.merge("me", &json!({})).await.expect_err("there is none")));
    told.push(format!("{}", swamp.merge("me", &json!({"age": 30, "x": null})).create().await?.created));
    let version = swamp.merge("me", &json!({"nick": "Al"})).await?.version;
    told.push(failure(&swamp.patch("me", &json!([{"op": "test", "path": "/age", "value": 1}])).await.expect_err("31")));
    told.push(failure(&swamp.patch("me", &json!([{"op": "jump"}])).await.expect_err("no patch")));
    let steps =
        json!([{"op": "move", "from": "/nick", "path": "/names"}, {"op": "add", "path": "/tags", "value": [1]}]);
    swamp.patch("me", &steps).if_version(&version).await?;
    told.push(failure(&swamp.merge("me", &json!({})).if_version(&version).await.expect_err("old")));
    told.push(format!("{}", swamp.increment("me", 5).path("/stats/views").initial(10).max(15).await?));
    told.push(failure(&swamp.increment("me", 1).path("/stats/views").max(15).await.expect_err("above")));
    told.push(failure(&swamp.increment("me", 1).path("stats").await.expect_err("no pointer")));
    told.push(failure(&swamp.increment("me", f64::NAN).await.expect_err("no number")));
    told.push(format!("{} {}", swamp.increment("half", 0.5).await?, swamp.increment("half", 1.5).min(2.0).await?));
    told.push(format!("{:?}", swamp.get("me").await?));
    told.push(format!("{:?}", swamp.get_path::<i64>("me", "/stats/views").await?));
    told.push(format!("{:?}", swamp.get_path::<i64>("me", "/none").await?));
    told.push(format!("{:?}", swamp.get_path::<String>("none", "/a").await?));

    swamp.put("kept", &json!(1)).ttl(Duration::from_secs(3600)).await?;
    swamp.put("kept", &json!(2)).keep_ttl().await?;
    told.push(format!("{}", swamp.treasure("kept").await?.expect("there").expires_at.is_some()));
    told.push(format!("{:?}", swamp.treasure_with_expired("brief").await?.map(|found| found.value)));

    let (first, second) =
        (swamp.push(&json!("job")).await?, swamp.push(&json!("next")).ttl(Duration::from_secs(9)).await?);
    told.push(format!("{} {:?}", first.key < second.key, swamp.get(&first.key).await?));
    let named = || swamp.push(&json!("paid")).idempotency_key("order-99");
    let (once, again) = (named().await?, named().await?);
    told.push(format!("{} {}", once.key, once.version == again.version));
    told.push(failure(&swamp.push(&json!("other")).idempotency_key("order-99").await.expect_err("another value")));
    let odd = Value::binary("text/plain", "plain").expect("binary");
    let odd_key = swamp.push_value(odd.clone()).await?.key;
    told.push(format!("{}", swamp.get_value(odd_key).await? == Some(odd)));

    let updated = swamp.update("count", |n| Some(json!(n.and_then(|n| n.as_i64()).unwrap_or(0) + 1))).await?;
    told.push(format!("{}", updated.expect("stored").created));
    Ok(told)
}

/// One call about several swamps.
async fn across(hydra: &Hydra, swamp: &Swamp<Json>) -> Result<Vec<String>, Error> {
    let other: Swamp<u32> = hydra.swamp("site/hits/home")?;
    let batch = || {
        let batch = hydra.batch().write(swamp.put("a", &json!([1])).create_only()).write(other.increment("n", 2));
        let batch = batch.get(swamp, "a").write(swamp.merge("none", &json!({}))).write(other.increment("n", 1).max(2));
        batch.write(other.delete("zzz")).get(&other, "n").idempotency_key("across-1")
    };
    let mut told = Vec::new();
    for _ in 0..2 {
        told.extend(batch().await?.into_iter().map(|done| match done {
            Ok(Done::Got(found)) => format!("got {:?}", found.map(|treasure| treasure.value)),
            Ok(Done::Incremented(sum, _)) => format!("sum {sum}"),
            Ok(done) => format!("{:?}", std::mem::discriminant(&done) == std::mem::discriminant(&Done::Deleted(true))),
            Err(error) => failure(&error),
        }));
    }
    let strange = swamp.batch().write(other.increment("n", 1)).await.expect_err("of another swamp");
    told.push(format!("{:?}", strange.kind()));
    told.push(format!("{}", hydra.batch().await?.len()));
    Ok(told)
}

/// Tries every call and notes what came of it.
async fn story(hydra: &Hydra) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    let swamp: Swamp<Json> = hydra.swamp("users/profiles/alice")?;
    told.push(format!(
        "absent {:?} {:?} {}",
        swamp.get("name").await?,
        swamp.info().await?.is_some(),
        swamp.count().await?
    ));

    let first = swamp.put("name", &json!("Alice")).await?;
    let second = swamp.put("name", &json!({"first": "Alice"})).if_version(&first.version).await?;
    told.push(format!("{} {} {}", first.created, second.created, first.synced));
    let stale = swamp.put("name", &json!(1)).if_version(&first.version).await.expect_err("stale");
    told.push(format!("{} {}", failure(&stale), stale.current_version() == Some(&second.version)));
    told.push(failure(&swamp.put("name", &json!(1)).create_only().await.expect_err("it exists")));
    told.push(failure(&swamp.put("none", &json!(1)).update_only().await.expect_err("it does not exist")));
    let treasure = swamp.treasure("name").await?.expect("it is there");
    told.push(format!("{} {} {:?}", treasure.value, treasure.version == second.version, treasure.expires_at));

    told.push(format!("{}", swamp.put("odd/key ?#%+é", &json!(null)).sync().await?.synced));
    told.push(format!("{:?}", swamp.get("odd/key ?#%+é").await?));
    swamp.put("brief", &json!(1)).ttl(Duration::from_millis(30)).await?;
    tokio::time::sleep(Duration::from_millis(60)).await;
    told.push(format!("{:?}", swamp.get("brief").await?));

    told.push(format!("{} {}", swamp.increment("visits", 5).await?, swamp.increment("visits", -7).await?));
    let key = "order-17";
    told.push(format!(
        "{} {}",
        swamp.increment("visits", 10).idempotency_key(key).await?,
        swamp.increment("visits", 10).idempotency_key(key).await?
    ));
    told.push(failure(&swamp.increment("visits", 11).idempotency_key(key).await.expect_err("another request")));
    told.push(failure(&swamp.increment("name", 1).await.expect_err("no number")));

    told.extend(changes(&swamp).await?);
    told.extend(across(hydra, &swamp).await?);

    let png = Value::binary("image/png", [0, 255, 7]).expect("binary");
    swamp.put_value("picture", png.clone()).await?;
    told.push(format!("{}", swamp.get_value("picture").await? == Some(png.clone())));

    let batch =
        swamp.batch().create("name", &json!(1)).put("b", &json!([1.5])).put_value("p", png).increment("visits", 1);
    let results = batch.get("p").get("b").get("none").delete("b").delete("b").await?;
    told.extend(results.into_iter().map(did));
    let aborted = swamp.batch().put("c", &json!(1)).create("name", &json!(1)).atomic().await.expect_err("aborted");
    told.push(format!("{} {:?}", failure(&aborted), swamp.get("c").await?));

    let page = swamp.list().prefix("na").limit(1).page().await?;
    told.push(format!("{:?} {}", page.treasures.iter().map(|t| &t.key).collect::<Vec<_>>(), page.next.is_some()));
    told.push(format!("{} {}", swamp.delete("name").await?, swamp.delete("name").await?));
    for bad in ["", "..", "a\u{0}b", &"k".repeat(1025)] {
        told.push(failure(&swamp.put(bad, &json!(1)).await.expect_err("a bad key")));
    }
    let long = swamp.put("long", &json!("x".repeat(16 << 20))).await.expect_err("too long");
    told.push(format!("{:?}", long.code() == Some(ErrorCode::ValueTooLarge)));

    let pattern: Pattern = "users/*/*".parse().expect("a pattern");
    hydra.set_policy(&pattern, &Policy { write_interval: Duration::ZERO, ..Policy::default() }).await?;
    told.push(format!(
        "{:?}",
        hydra.policies().await?.iter().map(|(pattern, _)| pattern.to_string()).collect::<Vec<_>>()
    ));
    told.push(format!("{}", swamp.put("synced", &json!(1)).await?.synced));
    let info = swamp.info().await?.expect("it exists");
    told.push(format!("{} {} {:?}", info.count, info.folder, info.policy_from));
    told.push(format!("{} {}", hydra.delete_policy(&pattern).await?, hydra.delete_policy(&pattern).await?));
    swamp.flush().await?;
    told.push(format!("{} {} {}", swamp.destroy().await?, swamp.destroy().await?, swamp.count().await?));
    Ok(told)
}

#[test]
fn the_client_sees_the_same_through_a_server_and_in_its_own_process() {
    let server = Server::start();
    let url = server.server().url().to_owned();
    let (remote, embedded) = block_on(async {
        let remote = Hydra::connect(&url).await.expect("connects");
        let embedded = Hydra::connect("mem://").await.expect("opens");
        (story(&remote).await.expect("told"), story(&embedded).await.expect("told"))
    });
    assert_eq!(remote, embedded);
    assert!(remote.len() > 30, "{remote:?}");
}

#[test]
fn the_client_pages_through_a_large_swamp_without_gap_or_repeat() {
    let server = Server::start();
    let url = server.server().url().to_owned();
    block_on(async {
        let hydra = Hydra::connect(&url).await.expect("connects");
        let swamp: Swamp<u32> = hydra.swamp("big/list/one").expect("a name");
        let keys: Vec<String> = (0..2_500).map(|n| format!("k{n:05}")).collect();
        let numbers: Vec<u32> = (0..2_500).collect();
        let mut batch = swamp.batch();
        for (key, number) in keys.iter().zip(&numbers) {
            batch = batch.put(key.as_str(), number);
        }
        assert!(batch.await.expect("written").iter().all(Result::is_ok));
        let mut seen = Vec::new();
        let mut list = swamp.list().limit(700);
        loop {
            let page = list.page().await.expect("a page");
            seen.extend(page.treasures.into_iter().map(|treasure| treasure.value));
            match page.next {
                Some(next) => list = swamp.list().limit(700).after(&next),
                None => break,
            }
        }
        assert_eq!(seen, numbers);
    });
}
