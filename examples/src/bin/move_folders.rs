//! Half of a server's folders move to a new server while an app writes.
//!
//! No server is stopped and no write is refused. The folders are copied with rsync while they are
//! written to, copied again, then the clients' map is switched; the old server goes on taking what
//! still arrives, is told to write everything to disk, and what it took last is copied once more. The
//! chunks of both servers are merged on the new one.
//!
//! What this simple way does not give: between the switch and the last copy the new server lacks what
//! the old one took last, so reads may be stale. The story counts them. No write is lost by that.
//!
//! Run it: `cargo run -p examples --bin move_folders`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use examples::{
    Background, Calls, Ledger, ServerProcess, ServerSetup, Story, at_least, fmt_count, require_rsync, sync_folders,
    tell,
};
use hydra_sdk::{Applied, ClientMap, ErrorCode, Hydra, SwampName};

const CUSTOMERS: usize = 60;
const MOVED: std::ops::RangeInclusive<u32> = 50..=99;
/// How much later than the first the second app gets the new map.
const LATE: Duration = Duration::from_millis(700);
/// A server looks after files that others wrote once a second.
const FOREIGN_POLL: Duration = Duration::from_millis(1_200);

fn main() -> ExitCode {
    tell("Moving folders 50-99 to a new server while an app writes", story)
}

/// One process of the app: a client with a map of its own, and keys of its own.
struct App {
    id: &'static str,
    hydra: Hydra,
    ledger: Arc<Ledger>,
    calls: Arc<Calls>,
}

async fn story(mut story: Story) -> Result<()> {
    require_rsync().await?;
    let temp = tempfile::tempdir()?;

    story.step("s1 owns all folders. Two processes of an app write orders, a third one reads them");
    let s1 = ServerProcess::start(ServerSetup::new("s1", temp.path().join("s1")).copied()).await?;
    let (ledger, calls) = (Arc::<Ledger>::default(), Arc::<Calls>::default());
    let app = |id| -> Result<Arc<App>> {
        let (ledger, calls) = (Arc::clone(&ledger), Arc::clone(&calls));
        Ok(Arc::new(App { id, hydra: Hydra::with_map(map_of(&s1)?)?, ledger, calls }))
    };
    let (first, second) = (app("first")?, app("second")?);
    let mut load = begin_load(&first, &second);
    tokio::time::sleep(Duration::from_secs(2)).await;
    report(&calls, &mut load, &story).await?;

    story.step("s2 starts, empty, as the owner of 50-99. The folders are copied, and copied again");
    let s2 = ServerSetup::new("s2", temp.path().join("s2")).folders("50-99").copied();
    let s2 = ServerProcess::start(s2).await?;
    for round in ["first", "second"] {
        let begun = Instant::now();
        sync_folders(MOVED, s1.data(), s2.data()).await?;
        story.say(format!("the {round} copy took {} ms", begun.elapsed().as_millis()));
    }
    report(&calls, &mut load, &story).await?;

    story.step("The map is switched. The second process gets it 700 ms later; s1 takes what it sends");
    first.hydra.set_map(new_map(&s1, &s2)?)?;
    tokio::time::sleep(LATE).await;
    second.hydra.set_map(new_map(&s1, &s2)?)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    report(&calls, &mut load, &story).await?;

    story.step("s1 writes 50-99 to disk: POST /v1/folders/50-99/flush; what it took is copied once more");
    s1.flush("50-99").await?;
    sync_folders(MOVED, s1.data(), s2.data()).await?;
    tokio::time::sleep(FOREIGN_POLL).await;
    report(&calls, &mut load, &story).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.check().await?;
    let after = calls.take();
    at_least(20, after.reads, "reads")?;
    ensure!(after.behind == 0, "{} reads were stale although everything had been copied", after.behind);
    story.say(format!("in the second after that: {} reads, none of them stale", fmt_count(after.reads)));

    story.step("The ledger is compared with s2 for 50-99, and with s1 for the others");
    load.stop().await?;
    check(&first, [&s1, &s2], &story).await?;

    story.step("s1 is started again without them. Who still has the old map is told so");
    let s1 = ServerProcess::start(s1.terminate().await?.folders("0-49")).await?;
    refused_on_old_map(&s1, &story).await?;
    for server in [s1, s2] {
        server.terminate().await?;
    }
    Ok(())
}

fn map_of(s1: &ServerProcess) -> Result<ClientMap> {
    Ok(ClientMap::builder().folders(100).server("s1", s1.url()).route("0-99", "s1", [""; 0]).build()?)
}

fn new_map(s1: &ServerProcess, s2: &ServerProcess) -> Result<ClientMap> {
    let map = ClientMap::builder().folders(100).epoch(2).server("s1", s1.url()).server("s2", s2.url());
    Ok(map.route("0-49", "s1", [""; 0]).route("50-99", "s2", [""; 0]).build()?)
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
    story.say(format!(
        "{} calls, none failed, the longest took {} ms; {} of {} reads were stale",
        fmt_count(tally.calls),
        tally.longest.as_millis(),
        fmt_count(tally.behind),
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

async fn refused_on_old_map(s1: &ServerProcess, story: &Story) -> Result<()> {
    let stale = Hydra::with_map(map_of(s1)?)?;
    let moved = |name: &SwampName| stale.locate(name).folder.is_some_and(|folder| MOVED.contains(&folder.get()));
    let names = (0..CUSTOMERS).map(customer).collect::<Result<Vec<_>>>()?;
    let name = names.iter().find(|name| moved(name)).context("no name lives in 50-99")?;
    let refused = stale.swamp::<i64>(name)?.increment("orders", 1).await.err().context("the old owner took a write")?;
    ensure!(refused.code() == Some(ErrorCode::NotOwner) && refused.applied() == Applied::No, "otherwise: {refused}");
    story.say(format!("{} {}: {}", ErrorCode::NotOwner.status(), ErrorCode::NotOwner, refused.detail()));
    Ok(())
}
