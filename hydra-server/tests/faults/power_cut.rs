//! Power cuts on real kernels: an image of the file system as it was at one moment, under synced writes.
//!
//! The image file of a mounted file system lies on btrfs, where `cp --reflink` takes a copy of it at one
//! point in time: what a disk holds when the power fails. Each copy is mounted, the kernel recovers what it
//! recovers, a fresh server opens it, and everything acknowledged before the cut has to be there.
//! `HYDRA_POWER_CUTS=2000` cuts that often per file system. A file system that shuts down under the server
//! (`xfs_io -x -c shutdown`) is tried as well.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ground::{FileSystem, Mount, can_mount, quick_dir, run, start, text};
use crate::ledger::{Dice, Library, Mark, Pace, expect_nothing, names, synced, wanted};
use crate::support::Process;

const PACE: Pace = Pace { writers: 4, rest: Duration::ZERO };

/// A file system under test in an image that can be copied at one moment.
struct Ground {
    inner: Option<Mount>,
    outer: Mount,
    image: PathBuf,
    file_system: FileSystem,
    dir: TempDir,
}

impl Ground {
    fn new(file_system: FileSystem) -> Ground {
        let dir = quick_dir();
        let host = dir.path().join("host.img");
        FileSystem::Btrfs.format(&host, 6_144);
        let outer = Mount::image(&host, &dir.path().join("outer"), "noatime");
        let image = outer.dir.join("disk.img");
        file_system.format(&image, 400);
        let inner = Mount::image(&image, &dir.path().join("inner"), "rw");
        Ground { inner: Some(inner), outer, image, file_system, dir }
    }

    fn data(&self) -> PathBuf {
        self.inner.as_ref().expect("it is mounted").dir.join("data")
    }

    /// What the disk holds now.
    fn cut(&self, number: u64) -> PathBuf {
        let cut = self.outer.dir.join(format!("cut{number}.img"));
        run("cp", &["--reflink=always", text(&self.image), text(&cut)]);
        cut
    }

    /// Mounts what was left at a cut.
    fn after(&self, image: &Path) -> Result<Mount, String> {
        Mount::try_image(image, &self.dir.path().join("after"), self.file_system.clone_options())
    }
}

/// One cut: the image, and what had been acknowledged before it.
struct Cut {
    image: PathBuf,
    marks: Vec<Mark>,
}

/// Swamps that last, and swamps that begin between two cuts: their directories are new.
fn library(round: u64) -> Library {
    Library::new(names(&format!("round{round}"), 12), round, 60)
}

fn take_cuts(ground: &Ground, server: &Process, libraries: &[Library], cuts: u64) -> Vec<Vec<Cut>> {
    let mut dice = Dice::new(cuts);
    let mut number = 0;
    let mut take = |library: &Library| {
        std::thread::sleep(Duration::from_millis(5 + dice.below(60)));
        let marks = library.mark();
        number += 1;
        Cut { image: ground.cut(number), marks }
    };
    let each = cuts.div_ceil(libraries.len() as u64);
    let mut round = |library: &Library| {
        library.under_load(server.target, PACE, || (0..each).map(|_| take(library)).collect::<Vec<_>>())
    };
    libraries.iter().map(&mut round).collect()
}

fn cut_the_power(file_system: FileSystem) {
    if !can_mount(&[file_system.tool(), "mkfs.btrfs"]) {
        return;
    }
    let cuts = wanted("HYDRA_POWER_CUTS", 20);
    let (mut ground, begun) = (Ground::new(file_system), Instant::now());
    let server = start(&ground.data(), &["--id", "s1"]);
    synced(server.target, "*/*/*");
    let libraries: Vec<Library> = (0..4).map(library).collect();
    let taken = take_cuts(&ground, &server, &libraries, cuts);
    let acknowledged: u64 = libraries.iter().map(Library::acknowledged).sum();
    server.kill();
    ground.inner.take().expect("it is mounted").unmount();
    let mut wrong = Vec::new();
    for (library, cuts) in libraries.iter().zip(&taken) {
        for cut in cuts {
            wrong.extend(check(&ground, cut, library));
        }
    }
    println!("power_cut {file_system:?}: {cuts} images, {acknowledged} acknowledged writes, {:.1?}", begun.elapsed());
    expect_nothing(&wrong, "after a power cut");
    assert!(acknowledged >= 5 * cuts, "only {acknowledged} writes: the test tried too little");
}

fn check(ground: &Ground, cut: &Cut, library: &Library) -> Vec<String> {
    let mount = match ground.after(&cut.image) {
        Ok(mount) => mount,
        Err(why) => return vec![format!("{} cannot be mounted: {why}", cut.image.display())],
    };
    let server = start(&mount.dir.join("data"), &[]);
    let wrong = library.check(&cut.marks, server.target);
    server.kill();
    mount.unmount();
    std::fs::remove_file(&cut.image).expect("an image to remove");
    wrong.into_iter().map(|what| format!("{}: {what}", cut.image.display())).collect()
}

#[test]
fn ext4_without_power_holds_what_was_acknowledged() {
    cut_the_power(FileSystem::Ext4);
}

#[test]
fn xfs_without_power_holds_what_was_acknowledged() {
    cut_the_power(FileSystem::Xfs);
}

#[test]
fn btrfs_without_power_holds_what_was_acknowledged() {
    cut_the_power(FileSystem::Btrfs);
}

/// The kernel stops the file system at once, without writing its log.
fn shut_down(file_system: FileSystem) {
    if !can_mount(&[file_system.tool(), "xfs_io"]) {
        return;
    }
    let dir = quick_dir();
    let image = dir.path().join("disk.img");
    file_system.format(&image, 400);
    let library = Library::new(names("pay", 40), 1, 60);
    let rounds = wanted("HYDRA_SHUTDOWNS", 3);
    let point = dir.path().join("mounted");
    for round in 0..rounds {
        let mount = Mount::image(&image, &point, "rw");
        let server = start(&mount.dir.join("data"), &[]);
        synced(server.target, "*/*/*");
        expect_nothing(&library.check_exactly(server.target), "after the file system was shut down");
        library.under_load(server.target, PACE, || {
            std::thread::sleep(Duration::from_millis(150 + 70 * round));
            run("xfs_io", &["-x", "-c", "shutdown", text(&mount.dir)]);
            std::thread::sleep(Duration::from_millis(100));
            let late = server.target.try_send("PUT", &format!("/v1/kv/pay/late/w{round}/k"), &[], b"1");
            let late = late.expect("an answer");
            assert!(late.status >= 500, "without a disk nothing is acknowledged: {late:?}");
        });
        server.kill();
        mount.unmount();
    }
    let mount = Mount::image(&image, &point, "rw");
    let server = start(&mount.dir.join("data"), &[]);
    expect_nothing(&library.check_exactly(server.target), "after the file system was shut down");
    println!(
        "shutdown {file_system:?}: {rounds} rounds, {} acknowledged, {} refused",
        library.acknowledged(),
        library.refused()
    );
    server.kill();
    mount.unmount();
    assert!(library.acknowledged() > 20, "the test tried too little");
}

#[test]
fn ext4_that_shuts_down_holds_what_was_acknowledged() {
    shut_down(FileSystem::Ext4);
}

#[test]
fn xfs_that_shuts_down_holds_what_was_acknowledged() {
    shut_down(FileSystem::Xfs);
}
