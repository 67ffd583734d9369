//! A server is killed in mid-load. The app does not notice, the server comes back, nothing is lost.
//!
//! Two servers, each the other's fallback. rsync copies what each has written itself to the other,
//! several times a second, both ways: files only ever grow, each has one writer, so the copies are
//! merged when they are read. There is no leader, no vote and no replication protocol.
//!
//! Two kinds of data show what a crash may cost. `payments` have write interval 0: on disk before they
//! are acknowledged. `analytics` have 1 s: acknowledged from memory, so a killed server takes the last
//! second with it. A ledger in this process notes every acknowledgement and is compared with both
//! servers in the end.
//!
//! Run it: `cargo run -p examples --bin failover`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use examples::{
    Background, Calls, Difference, Ledger, ServerProcess, ServerSetup, Story, SyncLoop, at_least, count_chunks,
    fmt_count, require_rsync, sync_own, tell,
};
use hydra_sdk::{ClientMap, Hydra, Policy, ServerState, Settings, SwampName};

const USERS: usize = 16;
const PAGES: usize = 8;
/// The pause between two rounds of rsync.
const SYNC_EVERY: Duration = Duration::from_millis(150);
/// How long a server must be back before clients return to it. The default is 10 s.
const HOLD_DOWN: Duration = Duration::from_secs(2);
/// The write interval of analytics.
const INTERVAL: Duration = Duration::from_secs(1);
/// How late data with that interval may get to disk on a busy machine.
const LATEST: Duration = Duration::from_secs(2);
/// A server looks after files that others wrote once a second.
const FOREIGN_POLL: Duration = Duration::from_millis(1_200);

fn main() -> ExitCode {
    tell("Failover: a server is killed in mid-load, and nobody notices", story)
}

/// The app: what it calls, and what was answered.
struct App {
    hydra: Hydra,
    payments: Ledger,
    analytics: Ledger,
    calls: Calls,
}

async fn story(mut story: Story) -> Result<()> {
    require_rsync().await?;
    let temp = tempfile::tempdir()?;

    story.step("Two servers, each the other's fallback; rsync copies both ways");
    let s1 = ServerSetup::new("s1", temp.path().join("s1")).folders("0-49").standby("50-99").copied();
    let s2 = ServerSetup::new("s2", temp.path().join("s2")).folders("50-99").standby("0-49").copied();
    let (s1, s2) = (ServerProcess::start(s1).await?, ServerProcess::start(s2).await?);
    for server in [&s1, &s2] {
        story.say(format!("hydra-server {}", server.flags()));
    }
    let syncing = start_sync(&s1, &s2);

    let app = Arc::new(connect(&s1, &s2).await?);
    story.step("Load: payments (write interval 0), analytics (1 s), and a reader");
    let mut load = begin_load(&app);
    tokio::time::sleep(Duration::from_secs(3)).await;
    report(&app, &mut load, &story).await?;

    story.step("s1 is killed with SIGKILL. s2 takes over");
    let kill_began = Instant::now();
    let s1 = s1.kill9().await?;
    let killed = Kill { began: kill_began, ended: Instant::now() };
    let rounds = syncing.stop().await?;
    story.say(format!("until now rsync had gone round {rounds} times; a dead machine is not copied from"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(
        state_of(&app.hydra, "s1")? == ServerState::Down,
        "the client believes that s1 is {:?}",
        state_of(&app.hydra, "s1")?
    );
    report(&app, &mut load, &story).await?;
    story.say("(what s1 had acknowledged and rsync had not copied yet: it is safe on the disk of s1)");
    let taken_over = count_chunks(s2.data(), 0..=49, "s2")?;
    at_least(1, taken_over, "files of s2 in the folders of s1")?;
    story.say(format!("s2 writes to {taken_over} files of its own, beside the copies of those of s1"));

    story.step("s1 comes back, rsync copies again, and after the hold-down the client returns to it");
    let s1 = ServerProcess::start(s1).await?;
    let back = Instant::now();
    let syncing = start_sync(&s1, &s2);
    wait_until_up(&app.hydra, "s1").await?;
    story.say(format!("the client returned {:.1} s after s1 had begun to listen", back.elapsed().as_secs_f64()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    report(&app, &mut load, &story).await?;

    story.step("The load ends, the last copies are made, and both servers are asked, each by itself");
    load.stop().await?;
    at_least(1, syncing.stop().await?, "rounds of rsync since s1 came back")?;
    settle(&s1, &s2).await?;
    check_payments(&app, [&s1, &s2], &story).await?;
    check_analytics(&app, [&s1, &s2], &killed, &story).await?;
    for server in [s1, s2] {
        server.terminate().await?;
    }
    Ok(())
}

fn start_sync(s1: &ServerProcess, s2: &ServerProcess) -> SyncLoop {
    SyncLoop::start((s1.id(), s1.data()), (s2.id(), s2.data()), SYNC_EVERY)
}

async fn connect(s1: &ServerProcess, s2: &ServerProcess) -> Result<App> {
    let mut settings = Settings::default();
    settings.hold_down = HOLD_DOWN;
    let map = ClientMap::builder()
        .folders(100)
        .server("s1", s1.url())
        .server("s2", s2.url())
        .route("0-49", "s1", ["s2"])
        .route("50-99", "s2", ["s1"])
        .settings(settings)
        .build()?;
    let hydra = Hydra::with_map(map)?;
    let every = |write_interval| Policy { write_interval, ..Policy::default() };
    hydra.set_policy(&"payments/user_balance/*".parse()?, &every(Duration::ZERO)).await?;
    hydra.set_policy(&"analytics/*/*".parse()?, &every(INTERVAL)).await?;
    Ok(App { hydra, payments: Ledger::default(), analytics: Ledger::default(), calls: Calls::default() })
}

fn user(number: usize) -> Result<SwampName> {
    Ok(format!("payments/user_balance/user-{:02}", number % USERS).parse()?)
}

fn page(number: usize) -> Result<SwampName> {
    Ok(format!("analytics/page_views/page-{}", number % PAGES).parse()?)
}

fn begin_load(app: &Arc<App>) -> Background {
    let mut load = Background::default();
    let [payer, clicker, reader] = [(); 3].map(|()| Arc::clone(app));
    load.repeat(Duration::from_millis(2), move |number| pay(Arc::clone(&payer), number));
    load.repeat(Duration::from_millis(2), move |number| click(Arc::clone(&clicker), number));
    load.repeat(Duration::from_millis(2), move |number| look(Arc::clone(&reader), number));
    load
}

/// A payment: the balance goes up, a receipt is stored, and the number of the last payment is overwritten.
async fn pay(app: Arc<App>, number: usize) -> Result<()> {
    let name = user(number)?;
    let account = app.hydra.swamp::<i64>(&name)?;
    let (amount, number) = (1 + number as i64 % 9, number as i64);
    app.calls.timed(account.increment("balance", amount)).await?;
    app.payments.add(&name, "balance", amount);
    let receipt = format!("receipt-{number:06}");
    app.calls.timed(account.put(&receipt, &amount)).await?;
    app.payments.put(&name, &receipt, amount);
    app.calls.timed(account.put("last", &number)).await?;
    app.payments.put(&name, "last", number);
    Ok(())
}

/// A page view, under a key of its own.
async fn click(app: Arc<App>, number: usize) -> Result<()> {
    let name = page(number)?;
    let views = app.hydra.swamp::<i64>(&name)?;
    let key = format!("view-{number:06}");
    app.calls.timed(views.put(&key, &(number as i64))).await?;
    app.analytics.put(&name, &key, number as i64);
    Ok(())
}

/// A look at a balance, compared with what had been acknowledged before.
async fn look(app: Arc<App>, number: usize) -> Result<()> {
    let name = user(number)?;
    let acknowledged = app.payments.sum(&name, "balance");
    let balance = app.calls.timed(app.hydra.swamp::<i64>(&name)?.get("balance")).await?;
    app.calls.compared(balance.unwrap_or_default() < acknowledged);
    Ok(())
}

/// What the app has seen since the last report. A failed call has ended its task, and so ends the story.
async fn report(app: &App, load: &mut Background, story: &Story) -> Result<()> {
    load.check().await?;
    let tally = app.calls.take();
    story.say(format!(
        "{} calls, none failed, the longest took {} ms",
        fmt_count(tally.calls),
        tally.longest.as_millis()
    ));
    story.say(format!(
        "{} of {} reads saw a balance older than the last acknowledged one",
        fmt_count(tally.behind),
        fmt_count(tally.reads)
    ));
    Ok(())
}

fn state_of(hydra: &Hydra, id: &str) -> Result<ServerState> {
    let found = hydra.servers().into_iter().find(|(server, _)| server.id == id);
    found.map(|(_, state)| state).with_context(|| format!("{id} is not in the map"))
}

async fn wait_until_up(hydra: &Hydra, id: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    while state_of(hydra, id)? != ServerState::Up {
        if Instant::now() > until {
            bail!("the client did not return to {id}, which is {:?}", state_of(hydra, id)?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Everything on disk, copied both ways, and noticed.
async fn settle(s1: &ServerProcess, s2: &ServerProcess) -> Result<()> {
    for server in [s1, s2] {
        server.flush("0-99").await?;
    }
    sync_own(s1.id(), s1.data(), s2.data()).await?;
    sync_own(s2.id(), s2.data(), s1.data()).await?;
    tokio::time::sleep(FOREIGN_POLL).await;
    Ok(())
}

/// Payments: what was acknowledged is there, to the last cent, on both servers.
async fn check_payments(app: &App, servers: [&ServerProcess; 2], story: &Story) -> Result<()> {
    let (puts, increments) = app.payments.counts();
    at_least(100, increments, "payments")?;
    let total: i64 = (0..USERS).map(|number| Ok(app.payments.sum(&user(number)?, "balance"))).sum::<Result<i64>>()?;
    for server in servers {
        let lost = app.payments.compare(server.direct(), |_| true).await?;
        if let Some(first) = lost.first() {
            bail!("{} has {} of the payments otherwise, e.g. {first}", server.id(), lost.len());
        }
    }
    story.say(format!(
        "payments:  {} increments and {} puts were acknowledged; both servers have every one,",
        fmt_count(increments),
        fmt_count(puts)
    ));
    story.say(format!("           none twice: all balances together are {} on each", fmt_count(total as u64)));
    Ok(())
}

/// When the kill was.
struct Kill {
    began: Instant,
    ended: Instant,
}

/// Analytics: both servers agree, and only what s1 had acknowledged in its last second is gone.
async fn check_analytics(app: &App, servers: [&ServerProcess; 2], kill: &Kill, story: &Story) -> Result<()> {
    let (puts, _) = app.analytics.counts();
    at_least(100, puts, "page views")?;
    let [lost, on_other] = [
        app.analytics.compare(servers[0].direct(), |_| true).await?,
        app.analytics.compare(servers[1].direct(), |_| true).await?,
    ];
    let places = |lost: &[Difference]| lost.iter().map(|lost| lost.place.clone()).collect::<Vec<_>>();
    ensure!(places(&lost) == places(&on_other), "the servers have different page views");
    let mut oldest = Duration::ZERO;
    for lost in &lost {
        let at = lost.at.context("no time")?;
        let folder = app.hydra.locate(&lost.place.0).folder.context("no folder")?.get();
        ensure!(folder < 50, "{lost}, although s2 was never killed");
        ensure!(at < kill.ended + Duration::from_millis(500), "{lost}, and it was acknowledged after the kill");
        oldest = oldest.max(kill.began.saturating_duration_since(at));
    }
    ensure!(oldest <= LATEST, "a page view was lost that had been acknowledged {oldest:?} before the kill");
    check_no_gaps(app, &lost)?;
    story.say(format!("analytics: {} puts were acknowledged; both servers have the same ones;", fmt_count(puts)));
    story.say(match lost.len() {
        0 => "           none is gone: the kill came just after a flush".to_owned(),
        count => format!(
            "           {} are gone, acknowledged by s1 in its last {:.2} s: the price of write interval 1 s",
            fmt_count(count),
            oldest.as_secs_f64()
        ),
    });
    Ok(())
}

/// Of each swamp an end is gone, never something in the middle: what was written before is there, and
/// what s2 took over as well.
fn check_no_gaps(app: &App, lost: &[Difference]) -> Result<()> {
    let mut by_page: BTreeMap<&SwampName, Vec<&str>> = BTreeMap::new();
    for lost in lost {
        by_page.entry(&lost.place.0).or_default().push(&lost.place.1);
    }
    for (name, lost) in by_page {
        let order = app.analytics.keys_in_order(name);
        let places: Vec<usize> = (0..order.len()).filter(|&at| lost.contains(&order[at].as_str())).collect();
        let is_block = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
        ensure!(is_block, "{name} lost something and has what was acknowledged later");
    }
    Ok(())
}
