//! "No acknowledged write is lost", tried with real processes, kernels, disks and copy tools.
//!
//! Every test keeps a ledger outside the servers of what it sent and of what was acknowledged. What
//! needs root or a tool that is missing says `skipped`, and fails where the variable `CI` is set.
//! Long forms are asked for by variables: `HYDRA_RSYNC_PASSES`, `HYDRA_SOAK_SECONDS`, …; each module
//! names its own.

/// Snapshots of btrfs under load.
mod btrfs_snapshots;
/// A client that keeps its connection.
mod client;
/// Answers that are cut after the work was done.
mod cut_answers;
/// The order of writes, syncs and answers, as the kernel sees it.
mod fsync_audit;
/// Disks that are full, and disks that fail.
mod full_disk;
/// Loop devices, file systems and mounts that go away with their guards.
mod ground;
/// Whether some order of calls explains every answer.
#[path = "../../../hydra-core/tests/it/history.rs"]
#[allow(unreachable_pub, reason = "the other test target may export it")]
mod history;
/// Servers that are killed, stopped for a while and ended in order while they compact and collect.
mod kill;
/// What was sent and what was acknowledged, kept outside the server.
mod ledger;
/// Many clients on few keys of a server that is killed again and again, checked call by call.
mod linearizable;
/// The power fails, and the kernel finds what the disk had.
mod power_cut;
/// Real rsync in eight ways, from and onto a live server.
mod rsync;
/// Many swamps in little memory for a while.
mod soak;
/// Servers that are processes of their own, shared with the other tests.
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "the other test target uses the rest")]
mod support;
/// Real Syncthing between two servers.
mod syncthing;
/// Two servers that both take writes, with real rsync between them.
mod two_way;
