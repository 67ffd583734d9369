//! Tests of the engine through its public API. Where does a test belong?
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod basics; // what each operation does, without faults
mod changes; // patches and increments with options: what they change, keep and remember
mod common; // directories, names, short cuts
mod compaction; // snapshots, what they supersede, holds, the sweep
mod copies; // chunks of other servers: merge, increments, retries on two servers
mod damage; // cut, flipped and missing bytes
mod feeds; // what changes is told: in order, without a gap, whatever leaves memory
mod folders; // the vectors every implementation has to agree with
mod golden; // directories that earlier versions wrote
#[allow(dead_code, reason = "the tests over HTTP use the rest")]
mod history; // whether some order of calls explains every answer
mod linearizable; // many threads on few keys, checked call by call
mod locks; // one holder at a time, who waits for it, who sees it
mod memory; // more swamps in use than fit
mod queries; // lists in every order with every condition, and lists of swamps
mod queues; // shifts: who takes what, leases, who waits, what is told again
mod repair; // repair, tried on every golden directory
mod restart; // what is there after closing, dropping, killing; files and directories that stay or go
mod takeover; // what a standby server writes in place of the owner
