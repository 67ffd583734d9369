//! Many swamps in little memory for a while, against an oracle in memory: every answer is right, memory and
//! file descriptors stay bounded, so that whatever holds on to swamps that have left is noticed.
//! `HYDRA_SOAK_SECONDS=3600 HYDRA_SOAK_SWAMPS=100000` is the long form.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::ground::start;
use crate::ledger::{Dice, StopOnDrop, wanted};
use crate::support::Target;

const BUDGET_MIB: u64 = 8;
const WRITERS: u64 = 3;

/// Resident memory in MiB and open files of a process.
fn usage(process: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("its files").count();
    (kibibytes >> 10, files)
}

/// Writes, deletes and reads swamps of its own; every swamp has four keys, and every answer is checked.
fn work(target: Target, writer: u64, swamps: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut oracle: Vec<[Option<u64>; 4]> = vec![[None; 4]; swamps as usize];
    let (mut client, mut dice) = (Client::new(target), Dice::new(writer + 1));
    while !stop.load(Ordering::Relaxed) {
        let (swamp, key, number) = (dice.below(swamps), dice.below(4), dice.below(1 << 40));
        let path = format!("/v1/kv/soak/w{writer}/s{swamp}/k{key}");
        let known = &mut oracle[swamp as usize][key as usize];
        let padding = "y".repeat((number % 900) as usize);
        let (method, body) = match dice.below(10) {
            0..5 => ("GET", String::new()),
            5..9 => ("PUT", format!("[{number},\"{padding}\"]")),
            _ => ("DELETE", String::new()),
        };
        let answer = client.send(method, &path, &[], &body).expect("an answer");
        done.fetch_add(1, Ordering::Relaxed);
        match (method, answer.status) {
            ("GET", 200) => assert_eq!(answer.json()[0].as_u64(), *known, "{path}"),
            ("GET", 404) => assert_eq!(None, *known, "{path}"),
            ("PUT", 201) => assert_eq!(None, known.replace(number), "{path} was there"),
            ("PUT", 200) => assert!(known.replace(number).is_some(), "{path} was not there"),
            ("DELETE", 204) => assert!(known.take().is_some(), "{path} was not there"),
            ("DELETE", 404) => assert_eq!(None, *known, "{path}"),
            (_, 503) if answer.header("retry-after").is_some() => std::thread::sleep(Duration::from_millis(20)),
            _ => panic!("{method} {path}: {answer:?}"),
        }
    }
}

#[test]
fn many_swamps_in_little_memory_answer_right_and_stay_within_bounds() {
    let time = Duration::from_secs(wanted("HYDRA_SOAK_SECONDS", 12));
    let swamps = wanted("HYDRA_SOAK_SWAMPS", 6_000) / WRITERS;
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &["--memory", &format!("{BUDGET_MIB}MiB"), "--sweep", "1s", "--gc-delay", "1s"]);
    let (stop, done, mut most) = (AtomicBool::new(false), AtomicU64::new(0), (0, 0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let workers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (stop, done) = (&stop, &done);
                scope.spawn(move || work(server.target, writer, swamps, stop, done))
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < time && !workers.iter().any(|worker| worker.is_finished()) {
            let (memory, files) = usage(server.id());
            most = (most.0.max(memory), most.1.max(files));
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().expect("an answer was wrong"));
    });
    println!(
        "soak: {time:.0?}, {} swamps, {} requests, at most {} MiB resident and {} files open",
        swamps * WRITERS,
        done.load(Ordering::Relaxed),
        most.0,
        most.1
    );
    assert!(most.0 <= BUDGET_MIB * 13 / 10 + 45, "{} MiB for a budget of {BUDGET_MIB} MiB", most.0);
    assert!(most.1 < 20_000, "{} files open", most.1);
}
