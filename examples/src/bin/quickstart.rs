//! The whole API in one walk: put, get, a type of your own, versions, counters, lists, expiry, delete.
//!
//! First with the data in this process, in a directory. Then the very same function with the data on
//! a server. What changes is one URL.
//!
//! Run it: `cargo run -p examples --bin quickstart`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use examples::{ServerProcess, ServerSetup, Story, tell};
use hydra_sdk::{ErrorKind, Hydra, Swamp, SwampName};
use serde::{Deserialize, Serialize};

/// A value of our own. Any type that serde can write as JSON will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
    languages: Vec<String>,
}

fn main() -> ExitCode {
    tell("Quickstart: one API, with the data in this process and on a server", story)
}

async fn story(mut story: Story) -> Result<()> {
    let temp = tempfile::tempdir()?;

    let url = format!("file://{}?folders=100", temp.path().join("embedded").display());
    story.step("The data is a directory of this process: Hydra::connect(\"file:///…?folders=100\")");
    let embedded = Hydra::connect(&url).await?;
    tour(&embedded, &story).await.context("embedded")?;
    embedded.close().await?;

    let server = ServerProcess::start(ServerSetup::new("s1", temp.path().join("server"))).await?;
    story.step(format!("The data is on a server: Hydra::connect({:?})", server.url()));
    let remote = Hydra::connect(server.url()).await?;
    tour(&remote, &story).await.context("on the server")?;

    story.step("What was closed is still there when it is opened again");
    let embedded = Hydra::connect(&url).await?;
    let alice: Swamp<Profile> = embedded.swamp("users/profiles/alice")?;
    ensure!(alice.get("me").await?.is_some_and(|me| me.name == "Alicia"), "the directory forgot Alicia");
    story.say("the directory: Alicia is there");
    embedded.close().await?;
    let server = ServerProcess::start(server.terminate().await?).await?;
    let alice: Swamp<Profile> = Hydra::connect(server.url()).await?.swamp("users/profiles/alice")?;
    ensure!(alice.get("me").await?.is_some_and(|me| me.name == "Alicia"), "the server forgot Alicia");
    story.say("the server, ended and started again: Alicia is there");
    server.terminate().await.map(drop)
}

/// The tour. It does not know where the data is.
async fn tour(hydra: &Hydra, story: &Story) -> Result<()> {
    // A swamp is named by three parts, and the name is its address: no table, no lookup.
    let name: SwampName = "users/profiles/alice".parse()?;
    let alice: Swamp = hydra.swamp(&name)?;
    ensure!(alice.get("city").await?.is_none(), "a swamp that nobody wrote to has a city");
    alice.put("city", &"Budapest".into()).await?;
    ensure!(alice.get("city").await? == Some("Budapest".into()), "the city is not the one that was put");
    story.say(format!("put and get    {name} city = \"Budapest\""));

    profile(&alice.typed(), story).await?;
    counter(&alice, story).await?;
    list_and_delete(&hydra.swamp("shop/carts/alice")?, story).await?;
    expiry(&alice, story).await
}

/// Values with a type, and what happens when two writers change the same one.
async fn profile(alice: &Swamp<Profile>, story: &Story) -> Result<()> {
    let first = Profile { name: "Alice".to_owned(), languages: vec!["Rust".to_owned()] };
    let version = alice.put("me", &first).create_only().await?.version;
    ensure!(alice.get("me").await? == Some(first.clone()), "the profile came back otherwise");
    story.say(format!("typed          me = {first:?}"));

    // Somebody who read the same version is faster. Our write must not undo theirs.
    alice.put("me", &Profile { name: "Alicia".to_owned(), ..first.clone() }).if_version(&version).await?;
    let slower = alice.put("me", &Profile { name: "Ali".to_owned(), ..first }).if_version(&version).await;
    let refused = slower.err().context("a write on an old version was accepted")?;
    ensure!(refused.kind() == ErrorKind::VersionMismatch, "refused as {:?}: {refused}", refused.kind());
    ensure!(alice.get("me").await?.is_some_and(|me| me.name == "Alicia"), "the faster write is gone");
    story.say("conflict       a put on an old version is refused: VersionMismatch");
    Ok(())
}

/// Counters that no two writers can lose a step of.
async fn counter(alice: &Swamp, story: &Story) -> Result<()> {
    ensure!(alice.increment("visits", 1).await? == 1, "a counter does not begin at 0");
    let many = (0..10).map(|_| tokio::spawn(alice.increment("visits", 1).into_future()));
    for one in many.collect::<Vec<_>>() {
        one.await??;
    }
    ensure!(alice.increment("visits", -1).await? == 10, "ten increments at once did not all count");
    story.say("increment      visits = 10, eleven up (ten of them at once), one down");
    Ok(())
}

/// Several values at once, in the order of their keys, page by page.
async fn list_and_delete(cart: &Swamp, story: &Story) -> Result<()> {
    let items = [("fruit:apple", 3), ("fruit:pear", 2), ("tool:hammer", 1)];
    let items = items.map(|(key, count)| (key, serde_json::json!({ "count": count })));
    for written in cart.put_many(items.iter().map(|(key, value)| (*key, value))).await? {
        ensure!(written?.created, "an item of a new cart was there before");
    }
    let fruit = cart.list().prefix("fruit:").page().await?;
    let keys: Vec<&str> = fruit.treasures.iter().map(|treasure| treasure.key.as_str()).collect();
    ensure!(keys == ["fruit:apple", "fruit:pear"] && fruit.next.is_none(), "the fruit is {keys:?}");
    story.say(format!("list           {} with the prefix fruit: {}", cart.name(), keys.join(", ")));

    ensure!(cart.delete("tool:hammer").await?, "there was no hammer to delete");
    ensure!(!cart.delete("tool:hammer").await?, "the hammer was deleted twice");
    ensure!(cart.count().await? == 2, "the cart has {} items", cart.count().await?);
    story.say("delete         the hammer is gone, 2 items are left");
    Ok(())
}

/// Values that go by themselves.
async fn expiry(alice: &Swamp, story: &Story) -> Result<()> {
    alice.put("code", &4711.into()).ttl(Duration::from_millis(200)).await?;
    ensure!(alice.get("code").await? == Some(4711.into()), "the code expired at once");
    tokio::time::sleep(Duration::from_millis(250)).await;
    ensure!(alice.get("code").await?.is_none(), "the code did not expire");
    story.say("ttl            a code that lives for 200 ms was there, and is not any more");
    Ok(())
}
