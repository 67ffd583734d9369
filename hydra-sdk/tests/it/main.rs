//! The client from outside: its map, its failover against servers that misbehave, its two endpoints.

mod embedded;
mod failback;
mod failover;
mod fake;
mod forward;
mod identity;
mod map;
mod moves;
mod outcomes;
mod strain;
mod typed;
mod watch;
