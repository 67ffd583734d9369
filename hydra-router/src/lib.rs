//! Hydra's client map behind a port: a stateless gateway in front of any number of servers.
//!
//! Whoever speaks HTTP can use it without knowing which server has which folder: a request about a
//! name goes to the primary of the name's folder and, when that does not answer, to its fallbacks, by
//! the rules of [`hydra_sdk`]. Nothing is stored here. Programs that use the SDK need no router.
//!
//! A request goes one way: `serve` (the connection) → `gateway` (what holds for every request) →
//! `route` (what the path means) → `forward` (one name, one server), `split` and `import` (several names, each to its
//! server), `catalog` and `export` (every folder, where it is answered), `fan_out` and `folders` (every server) or
//! `service` (the router itself).
//!
//! [`Listing`], [`Export`] and [`Import`] over all servers are here for programs, too.

mod across;
mod answer;
mod body;
mod catalog;
mod classify;
mod config;
mod early;
mod export;
mod fan_out;
mod feeds;
mod folders;
mod forward;
mod gateway;
mod import;
mod metrics;
mod overview;
mod patience;
mod peer;
mod route;
mod segments;
mod serve;
mod service;
mod split;
mod stream;
mod threads;
mod tls;

pub use across::Across;
pub use catalog::Listing;
pub use config::{Config, check_id};
pub use export::Export;
pub use import::{Import, ImportLine, ImportParts};
pub use serve::run;
pub use tls::Tls;
