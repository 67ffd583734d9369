//! What a router can be told, and the limits it holds.

use std::time::Duration;

use crate::tls::Tls;

/// The longest request target: 8 KiB.
pub(crate) const MAX_URI_BYTES: usize = 8 << 10;
/// The longest request head, names and values of all headers together: 32 KiB.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 10;
/// The longest body that is kept so that it can be sent again: 1 MiB.
pub(crate) const MAX_KEPT_BYTES: u64 = 1 << 20;
/// The longest body of a request that goes to every server: 64 KiB.
pub(crate) const MAX_SMALL_BODY_BYTES: u64 = 64 << 10;
/// The longest body of a batch across swamps: 64 MiB, as on servers.
pub(crate) const MAX_BATCH_BODY_BYTES: u64 = 64 << 20;
/// The most swamps one page of a list may have, as on servers.
pub(crate) const MAX_LIST_LIMIT: usize = 10_000;
/// How many routers a request may pass before this one.
pub(crate) const MAX_HOPS: u32 = 3;

/// Settings of a router. What it knows about servers stands in the client map.
#[derive(Debug, Clone)]
pub struct Config {
    /// The id that answers carry as `Hydra-Router`; see [`check_id`]. Default `router`.
    pub id: String,
    /// How long requests may take to finish after the shutdown began. Default 30 s.
    pub shutdown_grace: Duration,
    /// How many threads of its own serve connections in plain HTTP/1, each connection from its beginning to its end on one
    /// of them, so that nothing of a request about one treasure goes from one thread to another. HTTP/2, TLS and all other
    /// requests are served in the runtime that calls [`crate::run`]; with 0 everything is. Default 0; the program has one
    /// for each processor, and 16 at most.
    pub threads: usize,
    /// How many connections are open at once; further ones wait to be accepted. Default 10 000.
    pub max_connections: usize,
    /// How long a peer may take to send a request head once it has begun, and to begin the first one.
    /// Default 10 s.
    pub header_timeout: Duration,
    /// How long a connection may stay silent between requests, or refuse to take an answer. Default 75 s.
    pub idle_timeout: Duration,
    /// How long a request body may pause. Default 30 s.
    pub body_timeout: Duration,
    /// How many bytes of request bodies are kept at once so that they can be sent again. Beyond, bodies
    /// are streamed, and fall over only while nothing of them was sent. Default 256 MiB.
    pub max_kept_memory: u64,
    /// Whether requests that bring no token go on with the one of the data set, see [`hydra_sdk::Access`]. Default no:
    /// they go on without, and servers that demand tokens refuse them.
    pub own_token: bool,
    /// The certificate for TLS. Default none: connections are plain.
    pub tls: Option<Tls>,
    /// How long a peer may take to agree on TLS. Default 10 s.
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            id: "router".to_owned(),
            shutdown_grace: Duration::from_secs(30),
            threads: 0,
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_kept_memory: 256 << 20,
            own_token: false,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Checks the id of a router: 1 to 64 of letters, digits, `.`, `_` and `-`.
///
/// # Errors
/// What came and what is allowed, in words.
pub fn check_id(id: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("the router id {id:?} is not 1 to 64 of letters, digits, \".\", \"_\" and \"-\""))
}
