//! Snapshots of btrfs taken under load: each holds every synced write acknowledged before it, and opens as
//! the data directory of another server. `HYDRA_SNAPSHOTS=500` takes that many.

use std::time::{Duration, Instant};

use crate::ground::{FileSystem, Mount, TIDY, can_mount, quick_dir, run, start, text};
use crate::ledger::{Library, Pace, expect_nothing, names, synced, wanted};

#[test]
fn every_btrfs_snapshot_holds_what_was_acknowledged_before_it() {
    if !can_mount(&["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let (dir, begun) = (quick_dir(), Instant::now());
    let image = dir.path().join("disk.img");
    FileSystem::Btrfs.format(&image, 2_048);
    let mount = Mount::image(&image, &dir.path().join("mounted"), "noatime");
    let data = mount.dir.join("data");
    run("btrfs", &["subvolume", "create", text(&data)]);
    let server = start(&data, &[&["--id", "s1"][..], &TIDY].concat());
    let (target, library) = (server.target, Library::new(names("pay", 30), 1, 200));
    synced(target, "*/*/*");
    let pace = Pace { writers: 4, rest: Duration::ZERO };
    let taken: Vec<_> = library.under_load(target, pace, || {
        let one = |number| {
            std::thread::sleep(Duration::from_millis(80));
            let (marks, snapshot) = (library.mark(), mount.dir.join(format!("snapshot{number}")));
            run("btrfs", &["subvolume", "snapshot", text(&data), text(&snapshot)]);
            (marks, snapshot)
        };
        (0..wanted("HYDRA_SNAPSHOTS", 12)).map(one).collect()
    });
    let mut wrong = Vec::new();
    for (marks, snapshot) in &taken {
        // The snapshot has the local facts of the first server, too: it is the same server, as it was.
        let copy = start(snapshot, &[]);
        wrong.extend(library.check(marks, copy.target));
    }
    println!(
        "btrfs_snapshots: {} snapshots, {} acknowledged writes, {:.1?}",
        taken.len(),
        library.acknowledged(),
        begun.elapsed()
    );
    expect_nothing(&wrong, "in snapshots");
    expect_nothing(&library.check_exactly(target), "on the server itself");
    assert!(library.acknowledged() > 10 * taken.len() as u64, "the test tried too little");
    server.kill();
    mount.unmount();
}
