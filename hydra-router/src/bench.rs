//! `hydra-router bench`: how much the servers of a map do in a second, asked as programs ask them, through the client.
//!
//! It writes to swamps of its own, `bench/run-…/s0`, `s1`, …, and destroys them at the end. What it measures holds for
//! this machine, this network and this moment; the client takes a part of the processors that the servers could use.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use futures_util::stream::{self, StreamExt};
use hydra_core::duration::parse_duration;
use hydra_sdk::{ClientMap, Hydra, Swamp};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::Failure;
use crate::flags::Output;
use crate::output::{line, pretty, print};
use crate::serving::Signals;

/// How many swamps are destroyed at once at the end.
const AT_ONCE: usize = 16;
/// So many keys in a swamp.
const KEYS: u64 = 1_000;

#[derive(Debug, Args)]
pub(crate) struct BenchFlags {
    /// What is done [default: put, then get]
    #[arg(long = "do", value_enum, value_name = "WHAT", value_delimiter = ',')]
    what: Vec<What>,
    /// How many callers there are, each with one call under way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    callers: u32,
    /// For how long
    #[arg(long = "for", default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    time: Duration,
    /// How many swamps the calls are spread over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    swamps: u32,
    /// How long the values are, in bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    bytes: u32,
    /// How many operations a batch has
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// On disk before it is answered, whatever the write interval
    #[arg(long)]
    sync: bool,
    /// Leave the swamps there
    #[arg(long)]
    keep: bool,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What a caller does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// Store one value.
    Put,
    /// Read one value.
    Get,
    /// Count.
    Increment,
    /// Store many values of a swamp at once.
    Batch,
}

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    what: What,
    callers: u32,
    seconds: f64,
    calls: u64,
    failed: u64,
    /// Operations that succeeded; those of a batch one by one.
    operations_per_second: f64,
    p50_micros: u64,
    p99_micros: u64,
    max_micros: u64,
    /// Why the first call failed that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
}

/// Runs `hydra-router bench`.
pub(crate) fn bench(flags: &BenchFlags) -> Result<(), Failure> {
    if flags.time.is_zero() || flags.time > Duration::from_secs(3_600) {
        return Err(Failure::usage("--for is out of range; allowed is more than 0 to 1h"));
    }
    let map = ClientMap::from_file(&flags.map)?;
    // As many threads as a program of several tasks has.
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let ground = Arc::new(Ground::new(Hydra::with_map(map)?, flags)?);
        let mut signals =
            Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        let measured = tokio::select! {
            measured = run_all(&ground, flags) => measured,
            () = signals.next() => Err(Failure::failed("interrupted")),
        };
        ground.is_over.store(true, Ordering::Relaxed);
        let cleared = if flags.keep { Ok(()) } else { ground.clear().await };
        measured.and(cleared)
    })
}

async fn run_all(ground: &Arc<Ground>, flags: &BenchFlags) -> Result<(), Failure> {
    let usual = [What::Put, What::Get];
    let wanted = if flags.what.is_empty() { &usual[..] } else { &flags.what };
    if flags.output == Output::Table {
        print(|out| {
            let Ground { swamps, value, .. } = &**ground;
            writeln!(out, "{} callers, {} swamps, values of {} bytes", flags.callers, swamps.len(), value.len() + 2)?;
            writeln!(out, "{:<10} {:>12} {:>10} {:>10} {:>10} {:>8}", "", "PER SECOND", "P50", "P99", "MAX", "FAILED")
        })?;
    }
    let mut reports = Vec::new();
    for &what in wanted {
        if what == What::Get {
            ground.fill().await?;
        }
        let report = ground.measure(what, flags).await?;
        match flags.output {
            Output::Table => print(|out| report.row(out))?,
            Output::Ndjson => print(|out| line(out, &report))?,
            Output::Json => {}
        }
        reports.push(report);
    }
    if flags.output == Output::Json {
        print(|out| pretty(out, &reports))?;
    }
    match reports.iter().find_map(|report| report.first_error.clone()) {
        Some(why) => Err(Failure::failed(format!("some calls failed, the first: {why}"))),
        None => Ok(()),
    }
}

/// What all callers share.
struct Ground {
    swamps: Vec<Swamp<String>>,
    value: String,
    batch: u64,
    sync: bool,
    is_over: AtomicBool,
    turn: AtomicU64,
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    micros: Vec<u64>,
    failed: u64,
    first_error: Option<String>,
}

impl Ground {
    fn new(hydra: Hydra, flags: &BenchFlags) -> Result<Ground, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let swamp =
            |number| Ok::<_, Failure>(hydra.swamp(format!("bench/run-{now:x}-{:x}/s{number}", std::process::id()))?);
        Ok(Ground {
            swamps: (0..flags.swamps).map(swamp).collect::<Result<_, _>>()?,
            value: "x".repeat(flags.bytes as usize - 2),
            batch: flags.batch.into(),
            sync: flags.sync,
            is_over: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        })
    }

    /// The swamp and the key of a call: every swamp gets its share, and every key of it.
    fn place(&self, turn: u64) -> (&Swamp<String>, String) {
        let swamps = self.swamps.len() as u64;
        (&self.swamps[(turn % swamps) as usize], format!("k{}", turn / swamps % KEYS))
    }

    /// Stores what is going to be read: one key in each swamp.
    async fn fill(self: &Arc<Ground>) -> Result<(), Failure> {
        let puts = self.swamps.iter().map(|swamp| async { swamp.put("k0", &self.value).await.map(drop) });
        let all: Vec<hydra_sdk::Result<()>> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
        Ok(all.into_iter().collect::<hydra_sdk::Result<()>>()?)
    }

    async fn measure(self: &Arc<Ground>, what: What, flags: &BenchFlags) -> Result<Report, Failure> {
        let (begun, mut callers) = (Instant::now(), JoinSet::new());
        let until = begun + flags.time;
        for _ in 0..flags.callers {
            let ground = Arc::clone(self);
            callers.spawn(async move { ground.call_until(what, until).await });
        }
        let mut all = Seen::default();
        while let Some(seen) = callers.join_next().await {
            let seen = seen.map_err(|error| Failure::failed(format!("a caller ended: {error}")))?;
            all.micros.extend(seen.micros);
            all.failed += seen.failed;
            all.first_error = all.first_error.or(seen.first_error);
        }
        Ok(Report::of(what, flags, begun.elapsed(), all))
    }

    async fn call_until(&self, what: What, until: Instant) -> Seen {
        let mut seen = Seen::default();
        while Instant::now() < until && !self.is_over.load(Ordering::Relaxed) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            match self.call(what, turn).await {
                Ok(()) => seen.micros.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)),
                Err(error) => {
                    seen.failed += 1;
                    seen.first_error.get_or_insert_with(|| error.to_string());
                    // A server that refuses at once is not asked a million times.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        seen
    }

    async fn call(&self, what: What, turn: u64) -> hydra_sdk::Result<()> {
        let (swamp, key) = self.place(turn);
        match what {
            What::Get => swamp.get("k0").await.map(drop),
            What::Put => {
                let put = swamp.put(key, &self.value);
                if self.sync { put.sync().await.map(drop) } else { put.await.map(drop) }
            }
            What::Increment => {
                let increment = swamp.increment("count", 1);
                if self.sync { increment.sync().await.map(drop) } else { increment.await.map(drop) }
            }
            What::Batch => {
                let batch = (0..self.batch).fold(swamp.batch(), |batch, at| batch.put(format!("b{at}"), &self.value));
                let batch = if self.sync { batch.sync() } else { batch };
                batch.await?.into_iter().try_for_each(|done| done.map(drop))
            }
        }
    }

    /// Destroys what was written.
    async fn clear(&self) -> Result<(), Failure> {
        let destroyed = self.swamps.iter().map(|swamp| async { swamp.destroy().await.map(drop) });
        let all: Vec<hydra_sdk::Result<()>> = stream::iter(destroyed).buffer_unordered(AT_ONCE).collect().await;
        let left = all.iter().filter(|destroyed| destroyed.is_err()).count();
        match all.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(error) => Err(Failure::failed(format!("{left} swamps of the run are still there: {error}"))),
        }
    }
}

impl Report {
    fn of(what: What, flags: &BenchFlags, took: Duration, seen: Seen) -> Report {
        let Seen { mut micros, failed, first_error } = seen;
        micros.sort_unstable();
        let at = |share: usize| micros.get((micros.len().max(1) - 1) * share / 100).copied().unwrap_or(0);
        let each = if what == What::Batch { flags.batch } else { 1 };
        Report {
            what,
            callers: flags.callers,
            seconds: took.as_secs_f64(),
            calls: micros.len() as u64,
            failed,
            operations_per_second: micros.len() as f64 * f64::from(each) / took.as_secs_f64(),
            p50_micros: at(50),
            p99_micros: at(99),
            max_micros: at(100),
            first_error,
        }
    }

    fn row(&self, out: &mut dyn Write) -> io::Result<()> {
        let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1_000.0);
        let name = format!("{:?}", self.what).to_lowercase();
        let (p50, p99, max) = (ms(self.p50_micros), ms(self.p99_micros), ms(self.max_micros));
        writeln!(
            out,
            "{name:<10} {:>12.0} {p50:>10} {p99:>10} {max:>10} {:>8}",
            self.operations_per_second, self.failed
        )
    }
}
