//! HTTP/JSON in front of one Hydra engine.
//!
//! [`run`] serves an engine on a listener until it is told to stop; [`app`] is the same as an axum router.
//! [`Server`] starts one in this process on a free port, for tests and examples.
//!
//! A request goes one way: `serve` (the connection) → `app` (what holds for every request) → `route` (what
//! the path means) → `auth` (who may) → one handler in `treasures`, `lists`, `batches`, `swamps`, `policies`, `folders`,
//! `import`, `export`, `archive`, `admin` or `service` → the engine. On the way back `encoding` makes long answers shorter.

mod across;
mod activity;
mod admin;
mod answer;
mod app;
mod archive;
mod auth;
mod batches;
mod body;
mod catalog;
mod conditions;
pub mod config;
mod conflicts;
mod early;
mod encoding;
mod event;
mod export;
mod feeds;
mod folders;
mod head;
mod import;
mod lists;
mod locks;
mod logging;
mod metrics;
mod moves;
mod ndjson;
mod openapi;
mod operations;
mod origin;
mod overview;
mod policies;
mod pull;
mod query;
mod reload;
mod render;
mod route;
mod running;
mod serve;
mod service;
mod shift;
mod streams;
mod swamps;
mod takeover;
mod tls;
mod treasures;
mod upkeep;
mod values;
mod waits;
mod writes;

pub use app::app;
pub use auth::{Scope, TokenEntry, Tokens};
pub use config::Config;
pub use logging::LogFilter;
pub use origin::check_origin;
pub use running::Server;
pub use serve::run;
pub use tls::Tls;
