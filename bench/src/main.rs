//! Benchmarks that print ratios, side by side in one run. They measure and never judge.

mod contest;
mod docs;
mod engine;
mod failover;
mod feeds;
mod http;
mod load;
mod peers;
mod route;
mod router;
#[cfg(feature = "rivals")]
mod versus;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// What hydra-server uses, so that it is measured as it is; the bare handler has it, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Hydra against what its users would pick instead, or against the least that the work can cost.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Routing a name: hash, folder, server.
    Route,
    /// The engine in process: resident gets and puts, synced puts against the raw disk, hydration, memory.
    Engine {
        /// Where the data goes; the disk that is measured.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// The engine beside redb, fjall and SQLite, on the same work. Build with `--features rivals`.
    #[cfg(feature = "rivals")]
    Versus {
        /// Where the data goes; the disk that is measured.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// A hundredth of the work, to try the benchmark itself.
        #[arg(long)]
        quick: bool,
        /// How many swamps are on disk where the start of the engine is measured; creating them takes longest.
        #[arg(long, default_value_t = 1_000_000)]
        swamps: usize,
        /// Write the table and the chart to this directory.
        #[arg(long, value_name = "DIR")]
        write_docs: Option<PathBuf>,
    },
    /// Opens and reads what `versus` wrote; used by it.
    #[cfg(feature = "rivals")]
    #[command(hide = true)]
    Reopen { name: String, path: PathBuf, records: usize },
    /// HTTP GET and PUT against a bare axum handler of the same shape, webdis and etcd, each in a process of its own.
    ///
    /// webdis (with redis-server) and etcd are started on this machine where they are installed; Debian has them as
    /// webdis, redis-server and etcd-server. Data is below the directory for temporary files: TMPDIR chooses the disk.
    Http {
        #[command(flatten)]
        turns: Turns,
    },
    /// The router beside a proxy that only passes requests through, in front of the same server.
    ///
    /// What is added to each request is measured with one connection.
    Router {
        #[command(flatten)]
        turns: Turns,
    },
    /// What the first call after the primary's death costs.
    Failover,
    /// Serves a bare handler; used by `http`.
    #[command(hide = true)]
    ServeBare,
    /// What feeds cost on which nothing happens.
    Feeds {
        /// How many; each connection takes two open files of this machine.
        #[arg(long, default_value_t = 100_000)]
        feeds: usize,
        /// A connection for each, in place of HTTP/2 with many on one.
        #[arg(long)]
        http1: bool,
    },
    /// Serves Hydra; used by `http`, `router` and `feeds`.
    #[command(hide = true)]
    ServeHydra {
        /// How many feeds may be open.
        #[arg(long, default_value_t = 100)]
        streams: usize,
    },
    /// Passes requests through to a server; used by `router`.
    #[command(hide = true)]
    ServeProxy { upstream: String },
    /// Serves a router in front of a server; used by `router`.
    #[command(hide = true)]
    ServeRouter { upstream: String },
}

/// How servers are measured by turns.
#[derive(Debug, Args)]
struct Turns {
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How often each is measured; medians count.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds for each measurement.
    #[arg(long, default_value_t = 1_000, value_name = "MS")]
    time: u64,
    /// Write the table to benchmarks.md in this directory.
    #[arg(long, value_name = "DIR")]
    write_docs: Option<PathBuf>,
}

impl Turns {
    fn load(&self) -> load::Load {
        load::Load { connections: self.connections, time: Duration::from_millis(self.time) }
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Route => route::run(),
        What::Engine { dir } => engine::run(&dir),
        #[cfg(feature = "rivals")]
        What::Versus { dir, quick, swamps, write_docs } => versus::run(&dir, quick, swamps, write_docs.as_deref()),
        #[cfg(feature = "rivals")]
        What::Reopen { name, path, records } => versus::reopen(&name, &path, records),
        What::Http { turns } => http::run(turns.load(), turns.rounds, turns.write_docs.as_deref()),
        What::Router { turns } => router::run(turns.load(), turns.rounds, turns.write_docs.as_deref()),
        What::ServeProxy { upstream } => router::serve_proxy(&upstream),
        What::ServeRouter { upstream } => router::serve_router(&upstream),
        What::Failover => failover::run(),
        What::ServeBare => http::serve_bare(),
        What::Feeds { feeds, http1 } => feeds::run(feeds, !http1),
        What::ServeHydra { streams } => http::serve_hydra(streams),
    }
}
