//! Half of a server's folders move to a new server while an app writes.
//!
//! No server is stopped, no call fails, and no read is stale. `hydra-router move` copies the folders, lets their
//! writes wait for as long as the last few files take, hands each folder over and writes the new map. One process of
//! the app watches the map; the other one never hears of the new map, and learns from the old owner where to go.
//!
//! Run it: `cargo run -p examples --bin move_folders`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use examples::{Background, Calls, Ledger, ServerProcess, ServerSetup, Story, at_least, fmt_count, router, tell};
use hydra_sdk::{Applied, ClientMap, ErrorCode, Hydra, SwampName};

const CUSTOMERS: usize = 60;
const MOVED: std::ops::RangeInclusive<u32> = 50..=99;
/// How often the first process looks whether the map has changed.
const WATCH: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    tell("Moving folders 50-99 to a new server while an app writes", story)
}

/// One process of the app: a client of its own, and keys of its own.
struct App {
    id: &'static str,
    hydra: Hydra,
    ledger: Arc<Ledger>,
    calls: Arc<Calls>,
}

async fn story(mut story: Story) -> Result<()> {
    let temp = tempfile::tempdir()?;

    story.step("s1 owns all folders. Two processes of an app write orders, a third one reads them");
    let s1 = ServerProcess::start(ServerSetup::new("s1", temp.path().join("s1"))).await?;
    let s2 = ServerProcess::start(ServerSetup::new("s2", temp.path().join("s2")).folders("none")).await?;
    let map = write_map(temp.path(), &s1, &s2)?;
    let (ledger, calls) = (Arc::<Ledger>::default(), Arc::<Calls>::default());
    let app = |id, hydra| Arc::new(App { id, hydra, ledger: Arc::clone(&ledger), calls: Arc::clone(&calls) });
    let first = app("first", Hydra::builder().map_file(&map).watch_every(WATCH).connect().await?);
    let second = app("second", Hydra::with_map(ClientMap::from_file(&map)?)?);
    let mut load = begin_load(&first, &second);
    tokio::time::sleep(Duration::from_secs(2)).await;
    report(&calls, &mut load, &story).await?;

    story.step("hydra-router move 50-99 --from s1 --to s2 --write-map");
    let (begun, path) = (Instant::now(), map.display().to_string());
    router(&["move", "50-99", "--from", "s1", "--to", "s2", "--map", &path, "--write-map"]).await?;
    story.say(format!("50 folders in {} ms, under load", begun.elapsed().as_millis()));
    report(&calls, &mut load, &story).await?;

    story.step("The first process takes the new map; the second one goes on with the old one");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let epoch = |app: &App| app.hydra.map().map(|map| map.epoch());
    ensure!((epoch(&first), epoch(&second)) == (Some(2), Some(1)), "{:?}, {:?}", epoch(&first), epoch(&second));
    report(&calls, &mut load, &story).await?;

    story.step("The ledger is compared with s2 for 50-99, and with s1 for the others");
    load.stop().await?;
    check(&first, [&s1, &s2], &story).await?;

    story.step("Who asks s1 itself for what has moved is told where it is");
    refused_by_the_old_owner(&first, &s1, &story).await?;
    for server in [s1, s2] {
        server.terminate().await?;
    }
    Ok(())
}

/// The map that everyone begins with: the new server is listed and has nothing yet.
fn write_map(dir: &Path, s1: &ServerProcess, s2: &ServerProcess) -> Result<PathBuf> {
    let path = dir.join("hydra.toml");
    let text = format!(
        "epoch = 1\nfolders = 100\n\n[servers]\ns1 = {{ url = \"{}\" }}\ns2 = {{ url = \"{}\" }}\n\n\
         [[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\n",
        s1.url(),
        s2.url()
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

fn customer(number: usize) -> Result<SwampName> {
    Ok(format!("shop/orders/customer-{:02}", number % CUSTOMERS).parse()?)
}

fn begin_load(first: &Arc<App>, second: &Arc<App>) -> Background {
    let mut load = Background::default();
    for writer in [first, second] {
        let writer = Arc::clone(writer);
        load.repeat(Duration::from_millis(2), move |number| order(Arc::clone(&writer), number));
    }
    let reader = Arc::clone(first);
    load.repeat(Duration::from_millis(1), move |number| look(Arc::clone(&reader), number));
    load
}

/// An order: both processes count in the same counter, and each overwrites a key of its own.
async fn order(app: Arc<App>, number: usize) -> Result<()> {
    let name = customer(number)?;
    let orders = app.hydra.swamp::<i64>(&name)?;
    app.calls.timed(orders.increment("orders", 1)).await?;
    app.ledger.add(&name, "orders", 1);
    let (key, number) = (format!("last-of-{}", app.id), number as i64);
    app.calls.timed(orders.put(&key, &number)).await?;
    app.ledger.put(&name, &key, number);
    Ok(())
}

/// A look at the counter of a customer, compared with what had been acknowledged before.
async fn look(app: Arc<App>, number: usize) -> Result<()> {
    let name = customer(number)?;
    let acknowledged = app.ledger.sum(&name, "orders");
    let orders = app.calls.timed(app.hydra.swamp::<i64>(&name)?.get("orders")).await?;
    app.calls.compared(orders.unwrap_or_default() < acknowledged);
    Ok(())
}

/// What the app has seen since the last report. A failed call has ended its task, and so ends the story.
async fn report(calls: &Calls, load: &mut Background, story: &Story) -> Result<()> {
    load.check().await?;
    let tally = calls.take();
    ensure!(tally.behind == 0, "{} reads were stale", tally.behind);
    story.say(format!(
        "{} calls, none failed, the longest took {} ms; of {} reads none was stale",
        fmt_count(tally.calls),
        tally.longest.as_millis(),
        fmt_count(tally.reads)
    ));
    Ok(())
}

async fn check(app: &App, servers: [&ServerProcess; 2], story: &Story) -> Result<()> {
    let (puts, increments) = app.ledger.counts();
    at_least(100, increments, "orders")?;
    let is_moved = |name: &SwampName| app.hydra.locate(name).folder.is_some_and(|folder| MOVED.contains(&folder.get()));
    for server in servers {
        let is_here = |name: &SwampName| is_moved(name) == (server.id() == "s2");
        let lost = app.ledger.compare(server.direct(), is_here).await?;
        if let Some(first) = lost.first() {
            bail!("{} has {} entries otherwise, e.g. {first}", server.id(), lost.len());
        }
        let here = (0..CUSTOMERS).map(customer).filter(|name| name.as_ref().is_ok_and(is_here)).count();
        story.say(format!("{}: {here} swamps, everything acknowledged is there", server.id()));
    }
    story.say(format!("{} increments counted once each, {} puts", fmt_count(increments), fmt_count(puts)));
    Ok(())
}

async fn refused_by_the_old_owner(app: &App, s1: &ServerProcess, story: &Story) -> Result<()> {
    let moved = |name: &SwampName| app.hydra.locate(name).folder.is_some_and(|folder| MOVED.contains(&folder.get()));
    let names = (0..CUSTOMERS).map(customer).collect::<Result<Vec<_>>>()?;
    let name = names.iter().find(|name| moved(name)).context("no name lives in 50-99")?;
    let refused = s1.direct().swamp::<i64>(name)?.increment("orders", 1).await;
    let refused = refused.err().context("the old owner took a write")?;
    ensure!(refused.code() == Some(ErrorCode::NotOwner) && refused.applied() == Applied::No, "otherwise: {refused}");
    story.say(format!("{} {}: {}", ErrorCode::NotOwner.status(), ErrorCode::NotOwner, refused.detail()));
    Ok(())
}
