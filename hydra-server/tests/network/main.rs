//! Two servers and a client on three hosts, and a network between them that fails in every way it can.
//!
//! The hosts are network namespaces joined by a bridge; nftables loses their packets, and libfaketime sets
//! their clocks apart. Needs root, and says `skipped` without; in CI nothing is skipped.

/// What needs root or a tool, and the copy tool's flags.
#[path = "../faults/ground.rs"]
#[allow(dead_code, reason = "the tests of faults use the rest")]
mod ground;
/// Hosts, and what can happen between them.
mod hosts;
/// Clients that write all the time, and what is known outside the servers of what they wrote.
mod load;
/// One test for each way in which a network fails.
mod outages;
/// A plain client for looking at one server.
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "the other test targets use the rest")]
mod support;
