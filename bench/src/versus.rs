//! Hydra's engine beside the embedded engines its users would pick instead, on the same work in one run.
//!
//! Each rival is used as its documentation advises: redb and fjall keep all tenants in one database with the tenant in
//! front of the key, SQLite keeps a file per tenant in WAL mode with prepared statements. Where Hydra syncs before it
//! acknowledges so do they (`Durability::Immediate`, `PersistMode::SyncData`, `synchronous=FULL`); where it buffers
//! they only hand their data to the system (`Durability::None`, no persist, `synchronous=NORMAL`).

mod report;
mod rivals;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::report::{Better, Report};
use self::rivals::{Fjall, Hydra, Redb, Rival, Sqlite};

/// The length of every value, in bytes.
pub(crate) const VALUE_BYTES: usize = 100;

/// JSON texts of one hundred bytes. A put never stores what is there already: SQLite compares, and then writes and
/// syncs nothing.
fn values() -> Vec<String> {
    (0..17).map(|n| format!("{:?}", format!("value {n:02} {}", "x".repeat(VALUE_BYTES - 11)))).collect()
}

/// How much is done; small numbers are for trying the benchmark itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    pub(crate) seconds: f64,
    pub(crate) records: usize,
    pub(crate) tenants: usize,
    /// Tenants of SQLite, whose files are many times as large; rates are what is compared.
    pub(crate) sqlite_tenants: usize,
    pub(crate) many: usize,
}

impl Amounts {
    pub(crate) fn new(quick: bool, many: usize) -> Amounts {
        if quick {
            return Amounts { seconds: 0.1, records: 2_000, tenants: 500, sqlite_tenants: 100, many: 2_000 };
        }
        Amounts { seconds: 2.0, records: 100_000, tenants: 100_000, sqlite_tenants: 2_000, many }
    }
}

/// Whether a put is on disk when it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    Buffered,
    Synced,
}

/// The time after which jemalloc has returned unused memory, with its defaults.
const ALLOCATOR_KEEPS: Duration = Duration::from_secs(21);

type Open = fn(&Path, Writes) -> anyhow::Result<Box<dyn Rival>>;

const RIVALS: [(&str, Open); 4] = [
    ("Hydra", |dir, writes| Ok(Box::new(Hydra::open(dir, writes)?))),
    ("redb", |dir, writes| Ok(Box::new(Redb::open(dir, writes)?))),
    ("fjall", |dir, writes| Ok(Box::new(Fjall::open(dir, writes)?))),
    ("SQLite", |dir, writes| Ok(Box::new(Sqlite::open(dir, writes)?))),
];

/// Measures everything, prints it, and with `docs` writes the table and the chart there.
pub(crate) fn run(dir: &Path, quick: bool, swamps: usize, docs: Option<&Path>) -> anyhow::Result<()> {
    let amounts = Amounts::new(quick, swamps);
    let home = tempfile::Builder::new().prefix("hydra-versus-").tempdir_in(dir)?;
    let mut report = Report::new(RIVALS.map(|(name, _)| name));
    for count in [1_000, amounts.records] {
        resident(home.path(), amounts, count, &mut report)?;
    }
    for (writers, tenants) in [(1, 1), (8, 1), (64, 1), (8, 8), (64, 64)] {
        synced(home.path(), amounts, writers, tenants, &mut report)?;
    }
    large(home.path(), amounts, &mut report)?;
    tiny(home.path(), amounts, &mut report)?;
    many(home.path(), amounts, &mut report)?;
    report.print();
    if let Some(docs) = docs {
        report.write(docs).with_context(|| format!("cannot write to {}", docs.display()))?;
    }
    Ok(())
}

/// Calls `work` with 0, 1, 2 … until the time is over; answers how often per second.
fn rate(seconds: f64, mut work: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (began, mut count) = (Instant::now(), 0);
    loop {
        for _ in 0..16 {
            work(count)?;
            count += 1;
        }
        let elapsed = began.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return Ok(count as f64 / elapsed);
        }
    }
}

/// Numbers below `count` in an order that no cache guesses.
fn scattered(n: usize, count: usize) -> usize {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % count
}

fn key(n: usize) -> String {
    format!("key-{n:06}")
}

fn resident(home: &Path, amounts: Amounts, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let (keys, values): (Vec<String>, _) = ((0..count).map(key).collect(), values());
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for (name, open) in RIVALS {
        let dir = tempfile::tempdir_in(home)?;
        let mut rival = open(&dir.path().join(name), Writes::Buffered)?;
        rival.prepare(1)?;
        rival.fill(0, &keys, values[0].as_bytes())?;
        gets.push(rate(amounts.seconds, |n| rival.get(0, &keys[scattered(n, count)]))?);
        let put = |n| rival.put(0, &keys[scattered(n, count)], values[n % values.len()].as_bytes());
        puts.push(rate(amounts.seconds, put)?);
    }
    report.add(&format!("get, swamp of {count}"), "1/s", Better::More, &known(gets));
    report.add(&format!("put, swamp of {count}, buffered"), "1/s", Better::More, &known(puts));
    Ok(())
}

fn known(values: Vec<f64>) -> Vec<Option<f64>> {
    values.into_iter().map(Some).collect()
}

fn synced(home: &Path, amounts: Amounts, writers: usize, tenants: usize, report: &mut Report) -> anyhow::Result<()> {
    let (mut rates, values) = (Vec::new(), values());
    for (name, open) in RIVALS {
        let dir = tempfile::tempdir_in(home)?;
        let mut rival = open(&dir.path().join(name), Writes::Synced)?;
        rival.prepare(tenants)?;
        let (rival, values, done) = (&*rival, &values, AtomicU64::new(0));
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(amounts.seconds);
        let write = |writer: usize| -> anyhow::Result<()> {
            let mut n = 0;
            while Instant::now() < until {
                let value = values[n % values.len()].as_bytes();
                rival.put(writer % tenants, &format!("key-{writer}-{}", n % 100), value)?;
                done.fetch_add(1, Ordering::Relaxed);
                n += 1;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a writer does not panic"))
        })?;
        rates.push(Some(done.into_inner() as f64 / began.elapsed().as_secs_f64()));
    }
    let title = format!("synced put, {writers} writers on {tenants}");
    report.add(&title, "1/s", Better::More, &rates);
    Ok(())
}

/// Many records in one swamp: inserted and flushed, opened again and read; what they take on disk and in memory.
fn large(home: &Path, amounts: Amounts, report: &mut Report) -> anyhow::Result<()> {
    let (keys, value): (Vec<String>, _) = ((0..amounts.records).map(key).collect(), values().swap_remove(0));
    let payload = (keys.len() * (key(0).len() + value.len())) as f64;
    let (mut inserted, mut read, mut on_disk, mut in_memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, open) in RIVALS {
        let dir = tempfile::tempdir_in(home)?;
        let path = dir.path().join(name);
        let mut rival = open(&path, Writes::Buffered)?;
        rival.prepare(1)?;
        let began = Instant::now();
        rival.fill(0, &keys, value.as_bytes())?;
        rival.flush()?;
        inserted.push(Some(began.elapsed().as_secs_f64() * 1e3));
        drop(rival);
        on_disk.push(Some((disk_bytes(&path)? as f64 - payload) / keys.len() as f64));
        // In a process of its own: what this one freed before would hide what is needed.
        let (milliseconds, bytes) = in_a_fresh_process(name, &path, keys.len())?;
        read.push(Some(milliseconds));
        in_memory.push(Some(bytes / keys.len() as f64));
    }
    let records = amounts.records;
    report.add(&format!("{records} inserted and flushed"), "ms", Better::Less, &inserted);
    report.add(&format!("{records} reopened and all read"), "ms", Better::Less, &read);
    report.add("on disk beyond key and value, per record", "bytes", Better::Less, &on_disk);
    report.add("memory grown by reopening and reading, per record", "bytes", Better::Less, &in_memory);
    Ok(())
}

fn in_a_fresh_process(name: &str, path: &Path, records: usize) -> anyhow::Result<(f64, f64)> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let output = command.arg("reopen").args([name]).arg(path).arg(records.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.trim().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    figures.with_context(|| format!("reopening failed: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Opens what [`large`] left, reads all of it, and prints the milliseconds and by how many bytes the process grew.
pub(crate) fn reopen(name: &str, path: &Path, records: usize) -> anyhow::Result<()> {
    let (_, open) = RIVALS.into_iter().find(|(rival, _)| *rival == name).context("no such engine")?;
    let keys: Vec<String> = (0..records).map(key).collect();
    let before = resident_set();
    let began = Instant::now();
    let mut rival = open(path, Writes::Buffered)?;
    rival.prepare(1)?;
    keys.iter().try_for_each(|key| rival.get(0, key))?;
    let elapsed = began.elapsed();
    // The allocator gives back what was needed for a moment only.
    std::thread::sleep(ALLOCATOR_KEEPS);
    println!("{} {}", elapsed.as_secs_f64() * 1e3, resident_set().saturating_sub(before));
    Ok(())
}

/// Tiny tenants, created one by one and then touched cold.
fn tiny(home: &Path, amounts: Amounts, report: &mut Report) -> anyhow::Result<()> {
    let (mut created, mut touched, value) = (Vec::new(), Vec::new(), values().swap_remove(0));
    for (name, open) in RIVALS {
        let tenants = if name == "SQLite" { amounts.sqlite_tenants } else { amounts.tenants };
        let dir = tempfile::tempdir_in(home)?;
        let path = dir.path().join(name);
        let rival = open(&path, Writes::Buffered)?;
        let began = Instant::now();
        for tenant in 0..tenants {
            rival.put(tenant, "key", value.as_bytes())?;
        }
        rival.flush()?;
        created.push(Some(tenants as f64 / began.elapsed().as_secs_f64()));
        drop(rival);
        let rival = open(&path, Writes::Buffered)?;
        let began = Instant::now();
        for n in 0..tenants {
            rival.get((n * 7_919) % tenants, "key")?;
        }
        touched.push(Some(tenants as f64 / began.elapsed().as_secs_f64()));
    }
    // The others keep them all in one file, which no tool can copy or move one by one: SQLite is what is alike.
    let title = format!("tiny swamps created and flushed ({}; ratio to SQLite)", amounts.tenants);
    report.add_against(&title, "1/s", Better::More, &created, "SQLite");
    report.add_against("the same touched cold (ratio to SQLite)", "1/s", Better::More, &touched, "SQLite");
    Ok(())
}

/// The start with very many swamps on disk: opening the engine, and the first get.
fn many(home: &Path, amounts: Amounts, report: &mut Report) -> anyhow::Result<()> {
    // Removed with all the rest, which takes a minute, when everything is reported.
    let (dir, value) = (home.join("many"), values().swap_remove(0));
    let engine = Hydra::open(&dir, Writes::Buffered)?;
    for tenant in 0..amounts.many {
        engine.put(tenant, "key", value.as_bytes())?;
        if tenant % 100_000 == 99_999 {
            engine.flush()?;
        }
    }
    drop(engine);
    // The start is measured, not the million files that were just made: a start waits for what the system still has
    // to write of the file system.
    std::process::Command::new("sync").status()?;
    let began = Instant::now();
    let engine = Hydra::open(&dir, Writes::Buffered)?;
    let opened = began.elapsed().as_secs_f64() * 1e3;
    engine.get(amounts.many / 2, "key")?;
    let first = began.elapsed().as_secs_f64() * 1e3;
    report.add(&format!("opening with {} swamps on disk", amounts.many), "ms", Better::Less, &[Some(opened)]);
    report.add("the same and the first get", "ms", Better::Less, &[Some(first)]);
    Ok(())
}

/// What the files below a directory take, in bytes of content; not the space that Hydra sets aside once for a full
/// disk.
fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == "ballast" {
            continue;
        }
        sum += if entry.file_type()?.is_dir() { disk_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

fn resident_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}
