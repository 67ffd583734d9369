//! HTTP/JSON in front of one Hydra engine.
//!
//! [`run`] serves an engine on a listener until it is told to stop; [`app`] is the same as an axum router.
//! [`Server`] starts one in this process on a free port, for tests and examples.
//!
//! A request goes one way: `serve` (the connection) → `app` (what holds for every request) → `route` (what
//! the path means) → one handler in `treasures`, `lists`, `batches`, `swamps`, `policies`, `folders` or
//! `service` → the engine.

mod activity;
mod answer;
mod app;
mod batches;
mod body;
mod conditions;
pub mod config;
mod conflicts;
mod early;
mod event;
mod feeds;
mod folders;
mod lists;
mod locks;
mod metrics;
mod policies;
mod query;
mod render;
mod route;
mod running;
mod serve;
mod service;
mod shift;
mod streams;
mod swamps;
mod takeover;
mod treasures;
mod upkeep;
mod waits;

pub use app::app;
pub use config::Config;
pub use running::Server;
pub use serve::run;
