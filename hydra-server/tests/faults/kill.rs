//! Servers that are killed, stopped for a while and ended in order, while they compact and collect all the
//! time and have room for three swamps in memory. `HYDRA_KILL_ROUNDS=300` kills that often.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use crate::ground::{TIDY, start};
use crate::ledger::{Dice, Library, Pace, StopOnDrop, expect_nothing, names, synced, wanted};
use crate::rsync::tidy_up;
use crate::support::{Process, Target};

const PACE: Pace = Pace { writers: 4, rest: Duration::ZERO };

/// With room for about three of the swamps below.
pub(crate) fn start_tidy(data: &Path) -> Process {
    start(data, &[&TIDY[..], &["--memory", "96KiB"]].concat())
}

/// Writers and a tidier at work until `end` returns.
fn under_work(library: &Library, target: Target, end: impl FnOnce()) {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| tidy_up(target, &stop, &rounds));
        library.under_load(target, PACE, end);
    });
}

/// So many lives has a data directory: each leaves an entry in the vectors and sums of its swamps, of which three have to
/// fit into the memory.
const LIVES: u64 = 250;

#[test]
fn whatever_was_acknowledged_survives_kill_9_in_the_middle_of_compaction() {
    let (rounds, mut dice, begun) = (wanted("HYDRA_KILL_ROUNDS", 10), Dice::new(7), Instant::now());
    let lives = (0..rounds).step_by(LIVES as usize).map(|first| LIVES.min(rounds - first));
    let acknowledged: u64 = lives.map(|lives| kill_again_and_again(lives, &mut dice)).sum();
    println!("kill: {rounds} rounds, {acknowledged} acknowledged writes, {:.1?}", begun.elapsed());
    assert!(acknowledged > 20 * rounds, "the test tried too little");
}

/// Ends the lives of a data directory one after the other; answers how many writes were acknowledged.
fn kill_again_and_again(lives: u64, dice: &mut Dice) -> u64 {
    let dir = tempfile::tempdir().expect("a directory");
    let library = Library::new(names("pay", 24), 1, 3_000);
    for life in 0..lives {
        let server = start_tidy(dir.path());
        let target = server.target;
        synced(target, "*/*/*");
        expect_nothing(&library.check_exactly(target), &format!("before life {life}"));
        under_work(&library, target, || {
            std::thread::sleep(Duration::from_millis(50 + dice.below(400)));
            if life % 3 == 0 {
                // Stopped in the middle of something, it goes on where it was, or is killed where it stands.
                server.signal("STOP");
                std::thread::sleep(Duration::from_millis(100));
                if life % 2 == 0 {
                    server.signal("CONT");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            server.kill();
        });
    }
    let server = start_tidy(dir.path());
    expect_nothing(&library.check_exactly(server.target), "after the last life");
    library.acknowledged()
}

#[test]
fn a_server_that_is_ended_in_order_loses_nothing_that_only_memory_held() {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, rounds) = (Library::new(names("lazy", 12), 1, 3_000), wanted("HYDRA_TERM_ROUNDS", 4));
    for round in 0..rounds {
        let mut server = start_tidy(dir.path());
        let target = server.target;
        let answer = target.put("/v1/policies/lazy/*/*", r#"{"writeInterval":"10s"}"#);
        assert!(answer.status < 300, "{answer:?}");
        expect_nothing(&library.check_exactly(target), &format!("before round {round}"));
        under_work(&library, target, || {
            std::thread::sleep(Duration::from_millis(150 + 50 * round));
            server.signal("TERM");
            assert_eq!(server.wait(), Some(0));
        });
    }
    let server = start_tidy(dir.path());
    expect_nothing(&library.check_exactly(server.target), "after the last round");
    println!("term: {rounds} rounds, {} acknowledged writes", library.acknowledged());
    assert!(library.acknowledged() > 20 * rounds, "the test tried too little");
}
