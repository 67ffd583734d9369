//! Real rsync in eight ways, from and onto a live server that compacts and collects all the time.
//!
//! `HYDRA_RSYNC_PASSES=200` copies that often in each way.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, metric};
use crate::ground::{TIDY, command, has, start, text};
use crate::ledger::{Library, Mark, Pace, StopOnDrop, expect_nothing, names, synced, wanted};
use crate::support::{Process, Target};

const MODES: [&[&str]; 8] = [
    &[],
    &["--append"],
    &["--append-verify"],
    &["--inplace"],
    &["--delay-updates"],
    &["--partial", "--partial-dir=.partial"],
    &["-z"],
    &["--bwlimit=3000"],
];

/// A copy that takes as long as superseded files stay promises nothing; `TIDY` lets them go after 5 s.
const IN_TIME: Duration = Duration::from_millis(4_500);

/// How long a server that keeps copies may look away from a directory it has in memory.
const POLL: Duration = Duration::from_millis(1_100);

/// Copies a data directory; files that went away meanwhile are no failure.
fn copy(options: &[&str], from: &Path, to: &Path) {
    let mut rsync = command("rsync");
    rsync.arg("-a").args(options).arg("--exclude=/.hydra");
    let output = rsync.arg(format!("{}/", text(from))).arg(format!("{}/", text(to))).output().expect("rsync starts");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 24)), "{options:?} {code:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Half of the swamps wait for the disk, half of them for the next flush.
fn library() -> Library {
    Library::new(names("pay", 30).chain(names("slow", 30)), 1, 200)
}

const PACE: Pace = Pace { writers: 3, rest: Duration::from_millis(2) };

/// What a copy begun from now on has to hold: buffered writes count once a flush has answered.
fn mark(library: &Library, target: Target) -> Vec<Mark> {
    let buffered = library.mark();
    assert_eq!(target.post("/v1/flush", "").status, 204);
    let synced = library.mark();
    let half = library.len() / 2;
    synced[..half].iter().chain(&buffered[half..]).cloned().collect()
}

/// Compacts and collects without a pause until told to stop; answers how often.
pub(crate) fn tidy_up(target: Target, stop: &AtomicBool, rounds: &AtomicU64) {
    let mut client = Client::new(target);
    while !stop.load(Ordering::Relaxed) {
        for verb in ["compact", "gc"] {
            match client.send("POST", &format!("/v1/folders/0-99/{verb}"), &[], "") {
                // A server that is ending takes no more work.
                Ok(answer) if answer.status == 503 => return,
                Ok(answer) => assert!(answer.status < 300, "{verb}: {}", answer.text()),
                Err(_) => return,
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Copies in one way, again and again. The first copy is opened by a server, which stays and sees the later ones come.
fn copy_in_mode(
    library: &Library,
    target: Target,
    data: &Path,
    mode: &[&str],
    passes: u64,
    compared: &AtomicU64,
) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut second: Option<Process> = None;
    let mut wrong = Vec::new();
    for pass in 0..passes {
        let (marks, begun) = (mark(library, target), Instant::now());
        copy(mode, data, dir.path());
        let took = begun.elapsed();
        match &second {
            None => second = Some(start(dir.path(), &["--id", "s2", "--copied"])),
            Some(_) => std::thread::sleep(POLL),
        }
        if took > IN_TIME {
            println!("rsync: {mode:?} took {took:.1?}: not compared");
            continue;
        }
        compared.fetch_add(1, Ordering::Relaxed);
        let copied = second.as_ref().expect("it runs").target;
        let found = library.check(&marks, copied);
        wrong.extend(found.into_iter().map(|what| format!("{mode:?} pass {pass}: {what}")));
    }
    wrong
}

#[test]
fn every_rsync_copy_of_a_live_server_holds_what_was_acknowledged_before_it() {
    if !has(&["rsync"]) {
        return;
    }
    let passes = wanted("HYDRA_RSYNC_PASSES", 2);
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[&["--id", "s1", "--copied"][..], &TIDY].concat());
    let (target, library, begun) = (server.target, library(), Instant::now());
    synced(target, "pay/*/*");
    library.touch_all(target);
    let wrong = Mutex::new(Vec::new());
    let (stop, rounds, compared) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    library.under_load(target, PACE, || {
        std::thread::scope(|scope| {
            scope.spawn(|| tidy_up(target, &stop, &rounds));
            let _stop = StopOnDrop(&stop);
            let copies = MODES.map(|mode| {
                let (wrong, library, data, compared) = (&wrong, &library, dir.path(), &compared);
                scope.spawn(move || {
                    wrong.lock().expect("no panic").extend(copy_in_mode(library, target, data, mode, passes, compared));
                })
            });
            copies.into_iter().for_each(|copy| copy.join().expect("the copies are made"));
        });
    });
    println!(
        "rsync: 8 modes x {passes} passes in {:.1?}, {} acknowledged writes, {} rounds of compaction and collection",
        begun.elapsed(),
        library.acknowledged(),
        rounds.load(Ordering::Relaxed)
    );
    expect_nothing(&wrong.into_inner().expect("no panic"), "copies");
    expect_nothing(&library.check_exactly(target), "the server itself");
    assert!(compared.into_inner() >= passes * 4, "the machine is too slow to copy in time");
    assert!(library.acknowledged() > 500, "only {} writes: the test tried nothing", library.acknowledged());
}

/// A copy from earlier, put over the files of the live server that has gone on meanwhile.
fn copied_backwards(end: impl FnOnce(Process, &Library)) {
    let (dir, earlier) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let server = start(dir.path(), &["--id", "s1", "--copied"]);
    let (target, library) = (server.target, library());
    synced(target, "*/*/*");
    library.touch_all(target);
    let write = |time| library.under_load(target, PACE, || std::thread::sleep(Duration::from_millis(time)));
    write(300);
    copy(&[], dir.path(), earlier.path());
    library.touch_all(target);
    library.under_load(target, PACE, || copy(&[], earlier.path(), dir.path()));
    end(server, &library);
    let server = start(dir.path(), &["--copied"]);
    expect_nothing(&library.check_exactly(server.target), "after a copy in the wrong direction");
}

#[test]
fn a_copy_in_the_wrong_direction_loses_nothing_once_every_swamp_was_written_to() {
    if !has(&["rsync"]) {
        return;
    }
    copied_backwards(|server, library| {
        library.touch_all(server.target);
        let noticed = metric(server.target, "hydra_external_interference_total");
        println!("rsync: {noticed} files changed by someone else were noticed by the next write");
        assert!(noticed >= library.len() as u64 / 2, "only {noticed} were noticed");
        server.kill();
    });
}

#[test]
fn a_copy_in_the_wrong_direction_loses_nothing_when_the_server_stops_in_order() {
    if !has(&["rsync"]) {
        return;
    }
    copied_backwards(|mut server, _| {
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
    });
}
