//! The engine in process.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydra_core::{Engine, EngineOptions, Policy, SwampName, Value};

const VALUE: &str =
    r#""a value of one hundred bytes, quotes included: it is padded with x until it is as long as that ...""#;

pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let home = tempfile::tempdir_in(dir)?;
    resident(&home.path().join("resident"))?;
    synced(&home.path().join("synced"), &home.path().join("raw"))?;
    large_swamp(&home.path().join("large"))?;
    Ok(())
}

fn open(dir: &Path, write_interval: Duration) -> anyhow::Result<Engine> {
    let mut options = EngineOptions::new(dir);
    options.default_policy = Policy { write_interval, ..Policy::default() };
    Ok(Engine::open(options)?)
}

fn per_op(elapsed: Duration, count: u64) -> f64 {
    elapsed.as_nanos() as f64 / count as f64
}

fn resident(dir: &Path) -> anyhow::Result<()> {
    let engine = open(dir, Duration::from_secs(1))?;
    let name: SwampName = "bench/resident/swamp".parse()?;
    let value = Value::json(VALUE)?;
    let keys: Vec<String> = (0..1_000).map(|i| format!("key-{i:04}")).collect();
    const ROUNDS: u64 = 500;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        for key in &keys {
            engine.put(&name, key, value.clone())?;
        }
    }
    let puts = began.elapsed();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        for key in &keys {
            engine.get(&name, key)?;
        }
    }
    let gets = began.elapsed();
    let count = ROUNDS * keys.len() as u64;
    println!("resident swamp of 1 000 treasures: put {:.0} ns, get {:.0} ns", per_op(puts, count), per_op(gets, count));
    engine.close()?;
    Ok(())
}

/// Appends and syncs, one after the other: the least that a synced put can cost.
fn raw_syncs(file: &Path, count: u64) -> anyhow::Result<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(VALUE.as_bytes())?;
        file.sync_data()?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

fn synced(dir: &Path, raw: &Path) -> anyhow::Result<()> {
    let raw_rate = raw_syncs(raw, 2_000)?;
    println!("raw append + fdatasync: {raw_rate:.0} /s");
    let engine = open(dir, Duration::ZERO)?;
    for (writers, swamps) in [(1, 1), (8, 1), (64, 1), (8, 8), (64, 64)] {
        let syncs_before = engine.stats().syncs;
        let done = AtomicU64::new(0);
        let until = Instant::now() + Duration::from_secs(2);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let (engine, done) = (&engine, &done);
                scope.spawn(move || {
                    let name: SwampName = format!("bench/synced/{}", writer % swamps).parse().expect("a name");
                    let value = Value::json(VALUE).expect("JSON");
                    let mut i = 0u64;
                    while Instant::now() < until {
                        engine.put(&name, &format!("key-{writer}-{}", i % 100), value.clone()).expect("put");
                        done.fetch_add(1, Ordering::Relaxed);
                        i += 1;
                    }
                });
            }
        });
        let acked = done.load(Ordering::Relaxed);
        let rate = acked as f64 / began.elapsed().as_secs_f64();
        let per_sync = acked as f64 / (engine.stats().syncs - syncs_before).max(1) as f64;
        println!(
            "{writers:>3} writers on {swamps:>2} swamps: {rate:>7.0} synced puts/s, {per_sync:.1} per sync, {:.2} of the raw rate",
            rate / raw_rate
        );
    }
    engine.close()?;
    Ok(())
}

fn resident_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn large_swamp(dir: &Path) -> anyhow::Result<()> {
    const RECORDS: u64 = 100_000;
    let name: SwampName = "bench/large/swamp".parse()?;
    let value = Value::json(VALUE)?;
    let keys: Vec<String> = (0..RECORDS).map(|i| format!("key-{i:06}")).collect();
    let engine = open(dir, Duration::from_secs(3600))?;
    let before = resident_set();
    let began = Instant::now();
    for key in &keys {
        engine.put(&name, key, value.clone())?;
    }
    engine.flush(None)?;
    println!("100 000 puts and a flush: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    engine.close()?;
    let written: u64 =
        std::fs::read_dir(dir.join(format!("{:05}", engine.folder_of(&name).get())).join("bench/large/swamp"))?
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
    let payload = RECORDS * (10 + VALUE.len() as u64);
    println!("on disk: {:.1} bytes per record beyond key and value", (written - payload) as f64 / RECORDS as f64);
    let _ = before;
    drop(engine);
    let engine = open(dir, Duration::from_secs(3600))?;
    let before = resident_set();
    let began = Instant::now();
    let swamp = engine.hydrate(&name)?;
    println!("hydrating them: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    let grown = resident_set().saturating_sub(before);
    println!(
        "in memory: {:.0} bytes per record beyond key and value (resident set)",
        (grown as f64 - payload as f64) / RECORDS as f64
    );
    drop(swamp);
    engine.close()?;
    Ok(())
}
