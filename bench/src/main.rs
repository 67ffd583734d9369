//! Benchmarks that print ratios, side by side in one run. They measure and never judge.

mod engine;
mod failover;
mod http;
mod load;
mod peers;
mod route;
mod router;
#[cfg(feature = "rivals")]
mod versus;

use clap::{Parser, Subcommand};

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
        dir: std::path::PathBuf,
    },
    /// The engine beside redb, fjall and SQLite, on the same work. Build with `--features rivals`.
    #[cfg(feature = "rivals")]
    Versus {
        /// Where the data goes; the disk that is measured.
        #[arg(long, default_value = ".")]
        dir: std::path::PathBuf,
        /// A hundredth of the work, to try the benchmark itself.
        #[arg(long)]
        quick: bool,
        /// How many swamps are on disk where the start of the engine is measured; creating them takes longest.
        #[arg(long, default_value_t = 1_000_000)]
        swamps: usize,
        /// Write the table and the chart to this directory.
        #[arg(long, value_name = "DIR")]
        write_docs: Option<std::path::PathBuf>,
    },
    /// Opens and reads what `versus` wrote; used by it.
    #[cfg(feature = "rivals")]
    #[command(hide = true)]
    Reopen { name: String, path: std::path::PathBuf, records: usize },
    /// HTTP GET and PUT against a bare axum handler of the same shape, webdis and etcd, each in a process of its own.
    ///
    /// webdis (with redis-server) and etcd are started on this machine where they are installed; Debian has them as
    /// webdis, redis-server and etcd-server. Data is below the directory for temporary files: TMPDIR chooses the disk.
    Http {
        /// Connections at once.
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// Seconds for each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// The router beside a proxy that only passes requests through, in front of the same server.
    Router {
        /// Connections at once; what is added to each request is measured with one.
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// Seconds for each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// What the first call after the primary's death costs.
    Failover,
    /// Serves a bare handler; used by `http`.
    #[command(hide = true)]
    ServeBare,
    /// Serves Hydra; used by `http` and `router`.
    #[command(hide = true)]
    ServeHydra,
    /// Passes requests through to a server; used by `router`.
    #[command(hide = true)]
    ServeProxy { upstream: String },
    /// Serves a router in front of a server; used by `router`.
    #[command(hide = true)]
    ServeRouter { upstream: String },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Route => route::run(),
        What::Engine { dir } => engine::run(&dir),
        #[cfg(feature = "rivals")]
        What::Versus { dir, quick, swamps, write_docs } => versus::run(&dir, quick, swamps, write_docs.as_deref()),
        #[cfg(feature = "rivals")]
        What::Reopen { name, path, records } => versus::reopen(&name, &path, records),
        What::Http { connections, seconds } => http::run(connections, seconds),
        What::Router { connections, seconds } => router::run(connections, seconds),
        What::ServeProxy { upstream } => router::serve_proxy(&upstream),
        What::ServeRouter { upstream } => router::serve_router(&upstream),
        What::Failover => failover::run(),
        What::ServeBare => http::serve_bare(),
        What::ServeHydra => http::serve_hydra(),
    }
}
