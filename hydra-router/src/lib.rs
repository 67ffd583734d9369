//! Hydra's client map behind a port: a stateless gateway in front of any number of servers.
//!
//! Whoever speaks HTTP can use it without knowing which server has which folder: a request about a
//! name goes to the primary of the name's folder and, when that does not answer, to its fallbacks, by
//! the rules of [`hydra_sdk`]. Nothing is stored here. Programs that use the SDK need no router.
//!
//! A request goes one way: `serve` (the connection) → `gateway` (what holds for every request) →
//! `route` (what the path means) → `forward` (one name, one server), `split` (several names, each to its server),
//! `fan_out` (every server) or `service` (the router itself).

mod answer;
mod body;
mod classify;
mod config;
mod early;
mod fan_out;
mod feeds;
mod forward;
mod gateway;
mod metrics;
mod patience;
mod peer;
mod route;
mod serve;
mod service;
mod split;

pub use config::{Config, check_id};
pub use serve::run;
