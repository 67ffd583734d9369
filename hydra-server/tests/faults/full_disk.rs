//! Disks that are full, and disks that fail because what is below them is full.
//!
//! A full file system: writes are refused with 507, nothing acknowledged is lost, and when there is room
//! again the same server goes on. A device that cannot keep what it promised: the image is sparse, and the
//! file system in memory below it fills up, so that the kernel answers writes and syncs with EIO. Whatever
//! was acknowledged is there after a fresh mount. `HYDRA_FAILING_DISKS=300` tries that often.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::ground::{FileSystem, Mount, can_mount, quick_dir, start};
use crate::ledger::{Library, Pace, StopOnDrop, expect_nothing, names, synced, wanted};
use crate::support::Target;

const PACE: Pace = Pace { writers: 3, rest: Duration::from_millis(1) };

/// Fills a file system with a file of somebody else, to the last byte.
fn fill(file: &Path) {
    let mut hog = File::create(file).expect("a file that takes all the room");
    for size in [1 << 20, 4096, 512] {
        let bytes = vec![7; size];
        while hog.write_all(&bytes).is_ok() && hog.sync_data().is_ok() {}
    }
}

/// Sends puts until one is answered as expected.
fn until(target: Target, what: &str, is_it: impl Fn(u16) -> bool) -> Duration {
    let (mut client, begun) = (Client::new(target), Instant::now());
    loop {
        let answer = client.send("PUT", "/v1/kv/pay/other/x/k", &[], "1").expect("an answer");
        if is_it(answer.status) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn fill_the_disk(file_system: FileSystem, mebibytes: u64) {
    if !can_mount(&[file_system.tool()]) {
        return;
    }
    let dir = quick_dir();
    let (image, point) = (dir.path().join("disk.img"), dir.path().join("mounted"));
    file_system.format(&image, mebibytes);
    let mount = Mount::image(&image, &point, "rw");
    let (data, hog) = (point.join("data"), point.join("hog"));
    let server = start(&data, &["--id", "s1"]);
    let (target, library) = (server.target, Library::new(names("pay", 8).chain(names("slow", 8)), 1, 300));
    synced(target, "pay/*/*");
    let write = |time| library.under_load(target, PACE, || std::thread::sleep(Duration::from_millis(time)));
    for round in 0..2 {
        write(300);
        library.under_load(target, PACE, || {
            fill(&hog);
            until(target, "never refused", |status| status == 507);
            std::thread::sleep(Duration::from_millis(500));
        });
        assert!(library.refused() > 0, "nobody was refused");
        let read = Client::new(target).get("/v1/kv/pay/ledger/w0/k2");
        assert!(matches!(read.status, 200 | 404), "reads go on: {read:?}");
        std::fs::remove_file(&hog).expect("room again");
        let resumed = until(target, "never taken again", |status| status < 300);
        println!("full_disk {file_system:?} round {round}: writes are taken {resumed:.1?} after there is room");
        write(200);
        Client::new(target).persist("POST", "/v1/flush");
        expect_nothing(&library.check_exactly(target), "on the server that had no room");
    }
    Client::new(target).persist("POST", "/v1/flush");
    server.kill();
    mount.unmount();
    let mount = Mount::image(&image, &point, "rw");
    let server = start(&data, &[]);
    expect_nothing(&library.check_exactly(server.target), "after a kill and a fresh mount");
    println!("full_disk {file_system:?}: {} acknowledged, {} refused", library.acknowledged(), library.refused());
    server.kill();
    mount.unmount();
}

#[test]
fn a_full_ext4_refuses_writes_and_goes_on_when_there_is_room() {
    fill_the_disk(FileSystem::Ext4, 96);
}

#[test]
fn a_full_xfs_refuses_writes_and_goes_on_when_there_is_room() {
    fill_the_disk(FileSystem::Xfs, 340);
}

/// Puts values of 6 KiB under keys of their own until the disk has failed for a while; what was acknowledged is kept.
fn write_until_it_fails(
    target: Target,
    stop: &AtomicBool,
    failures: &AtomicU64,
    writer: usize,
) -> BTreeMap<String, u64> {
    let (mut client, mut acknowledged) = (Client::new(target), BTreeMap::new());
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = format!("/v1/kv/pay/failing/w{writer}/k{}", number % 40);
        let body = format!("[{number},\"{}\"]", noise(number, 6 << 10));
        match client.send("PUT", &path, &[], &body) {
            Ok(answer) if answer.status < 300 => drop(acknowledged.insert(path, number)),
            // The old value or the new one: nobody knows, so nothing is expected of the key.
            Ok(answer) if answer.header("hydra-applied") == Some("unknown") => {
                acknowledged.remove(&path);
                failures.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => {
                assert_eq!((answer.status >= 500, answer.header("hydra-applied")), (true, Some("no")), "{answer:?}");
                failures.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(_) => break,
        }
    }
    acknowledged
}

/// Text that does not compress.
fn noise(seed: u64, length: usize) -> String {
    let mut dice = crate::ledger::Dice::new(seed + 1);
    (0..length)
        .map(|_| char::from(b'!' + dice.below(90) as u8))
        .map(|c| if matches!(c, '"' | '\\') { '-' } else { c })
        .collect()
}

fn let_the_device_fail(file_system: FileSystem, seed: u64) -> (usize, u64) {
    let dir = quick_dir();
    let memory = Mount::tmpfs(&dir.path().join("memory"), 400);
    let (image, point) = (memory.dir.join("disk.img"), dir.path().join("mounted"));
    file_system.format(&image, 1_024);
    let used = std::fs::metadata(&image).expect("an image").blocks() / 2_048;
    memory.resize(used + 20 + seed % 7 * 3);
    let mount = Mount::scant_image(&image, &point);
    let server = start(&point.join("data"), &["--id", "s1"]);
    let target = server.target;
    synced(target, "*/*/*");
    let (stop, failures) = (AtomicBool::new(false), AtomicU64::new(0));
    let acknowledged: BTreeMap<String, u64> = std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        // Every other time so many that syncs are shared.
        let count = if seed.is_multiple_of(2) { 8 } else { 48 };
        let writers: Vec<_> = (0..count)
            .map(|writer| {
                let (stop, failures) = (&stop, &failures);
                scope.spawn(move || write_until_it_fails(target, stop, failures, writer))
            })
            .collect();
        let begun = Instant::now();
        while failures.load(Ordering::Relaxed) < 20 && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer was told something wrong")).collect()
    });
    server.kill();
    mount.unmount();
    // The device has room again, and the kernel forgets what it only thought it had written.
    memory.resize(400);
    let mount = Mount::scant_image(&image, &point);
    let server = start(&point.join("data"), &[]);
    let mut client = Client::new(server.target);
    let wrong: Vec<String> = acknowledged
        .iter()
        .filter_map(|(path, number)| {
            let answer = client.get(path);
            let found = (answer.status == 200).then(|| answer.json()[0].as_u64()).flatten();
            // A later write of the same key may have arrived without its acknowledgement.
            (found.is_none_or(|found| found < *number))
                .then(|| format!("{path}: {number} was acknowledged, found {found:?} ({})", answer.status))
        })
        .collect();
    server.kill();
    mount.unmount();
    expect_nothing(&wrong, "after the device failed");
    (acknowledged.len(), failures.load(Ordering::Relaxed))
}

fn let_devices_fail(file_system: FileSystem, usually: u64) {
    if !can_mount(&[file_system.tool()]) {
        return;
    }
    for seed in 0..wanted("HYDRA_FAILING_DISKS", usually) {
        let (keys, failures) = let_the_device_fail(file_system, seed);
        println!("failing device {file_system:?} {seed}: {keys} keys acknowledged, {failures} writes failed");
        assert!(keys > 20 && failures > 0, "the device did not fail in time");
    }
}

/// A server that takes the word of fdatasync for it loses a write on every tenth such device.
#[test]
fn a_device_that_fails_below_ext4_loses_nothing_acknowledged() {
    let_devices_fail(FileSystem::Ext4, 20);
}

#[test]
fn a_device_that_fails_below_xfs_loses_nothing_acknowledged() {
    let_devices_fail(FileSystem::Xfs, 5);
}

#[test]
fn a_device_that_fails_below_btrfs_loses_nothing_acknowledged() {
    let_devices_fail(FileSystem::Btrfs, 5);
}
