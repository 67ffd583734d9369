//! What a server can be told, and the limits it holds.

use std::time::Duration;

use crate::auth::Tokens;
use crate::logging::LogFilter;
use crate::tls::Tls;

/// The longest request target: 8 KiB.
pub const MAX_URI_BYTES: usize = 8 << 10;
/// The longest request head, names and values of all headers together: 32 KiB.
pub const MAX_HEADER_BYTES: usize = 32 << 10;
/// The longest body of a batch: 64 MiB.
pub const MAX_BATCH_BODY_BYTES: u64 = 64 << 20;
/// The longest body of anything that is neither a value nor a batch: 64 KiB.
pub const MAX_SMALL_BODY_BYTES: u64 = 64 << 10;
/// The longest list of files that `holds` takes: 24 MiB, enough for [`hydra_core::MAX_HOLDS_FILES`] of the longest names.
pub const MAX_HOLDS_BODY_BYTES: u64 = 24 << 20;
/// The longest body of a query: 1 MiB.
pub const MAX_QUERY_BODY_BYTES: u64 = 1 << 20;
/// How many archives are unpacked at once.
pub const MAX_UNPACKERS: usize = 4;
/// The most treasures or swamps one page of a list may have.
pub const MAX_LIST_LIMIT: usize = 10_000;
/// How many treasures or swamps a page of a list has unless told otherwise.
pub const DEFAULT_LIST_LIMIT: usize = 100;

/// How often a feed gives a sign of life unless told otherwise: 15 s.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);
/// How often at most and at least: 1 s and 25 s, because routers give up answers that are silent for 30 s.
pub const HEARTBEATS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(25)];
/// The longest a long poll waits: 60 s.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Settings of a server in front of an engine. What the engine itself is told stands in
/// [`hydra_core::EngineOptions`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The pool the server belongs to; a client that expects another one is refused. Default `default`.
    pub pool: String,
    /// How long requests may take to finish after the shutdown began. Default 30 s.
    pub shutdown_grace: Duration,
    /// How many connections are open at once; further ones wait to be accepted. Default 20 000.
    pub max_connections: usize,
    /// How many feeds and long polls are open at once; further ones are refused with `too-many-streams`. At most three
    /// quarters of [`Config::max_connections`], so that there is room for others. Default 10 000.
    pub max_streams: usize,
    /// How long a peer may take to send a request head once it has begun, and to begin the first one.
    /// Default 10 s.
    pub header_timeout: Duration,
    /// How long a connection may stay silent between requests, or refuse to take an answer. Longer than
    /// clients usually keep idle connections, so that it is they who close. Default 75 s.
    pub idle_timeout: Duration,
    /// How long a request body may pause. Default 30 s.
    pub body_timeout: Duration,
    /// How many bytes of request bodies may be in memory at once; beyond, large bodies are refused
    /// with `overloaded`. Default 1 GiB.
    pub max_body_memory: u64,
    /// The tokens that requests need; without any, everybody may do everything. Default none.
    pub tokens: Option<Tokens>,
    /// Whether `/metrics` needs a token with the scope `r`, too. Default no.
    pub protect_metrics: bool,
    /// The certificate, where TLS is spoken. Default none: plain HTTP.
    pub tls: Option<Tls>,
    /// How long a peer may take to agree on TLS. Default 10 s.
    pub handshake_timeout: Duration,
    /// Origins whose pages may change something here and read the answers, e.g. `https://app.example`; see
    /// [`crate::check_origin`]. Default none.
    pub allow_origins: Vec<String>,
    /// The filter of the log, where operators may change it by `/v1/admin/log`. Default none: the log belongs to the
    /// program that the server is a part of.
    pub log: Option<LogFilter>,
}

impl Config {
    /// How many feeds and long polls are open at once.
    pub(crate) fn streams(&self) -> usize {
        self.max_streams.min(self.max_connections / 4 * 3).max(1)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pool: "default".to_owned(),
            shutdown_grace: Duration::from_secs(30),
            max_connections: 20_000,
            max_streams: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_body_memory: 1 << 30,
            tokens: None,
            protect_metrics: false,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            allow_origins: Vec::new(),
            log: None,
        }
    }
}
