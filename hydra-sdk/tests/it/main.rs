//! The client from outside: its map, its failover against servers that misbehave, its two endpoints.

mod embedded;
mod failback;
mod failover;
mod fake;
mod forward;
mod map;
mod outcomes;
mod typed;
mod watch;
