//! The promises of the router, tried over real sockets in front of real servers.

/// What is about many servers at once: lists of swamps, imports, exports and folders.
mod across;
/// Tokens: those of requests go on to the servers, the router's own only when that is meant.
mod auth;
/// `explain` and `map check` on good and broken maps, and the program as a process.
mod commands;
/// Servers that are down, silent or not the owner.
mod failover;
/// Feeds and long polls.
mod feeds;
/// What passes through: values, conditions, names, large bodies, errors; what goes to every server.
mod gateway;
/// Every limit from both sides, and peers that are slow or silent.
mod limits;
/// A hundred servers with a thousand folders: batches, lists, a new map, the commands, a restart of one after the other.
mod many;
/// Moves under a load of writes, with source, target and tool killed at every step, as processes.
mod move_kills;
/// `move` and `promote` between real servers: from start to end, given up, gone on with, and refused.
mod moves;
/// `plan`, `status`, `scan`, `export` and `import` over real servers.
mod operators;
/// Servers as processes that can be killed: this test binary once more, told to serve.
mod process;
/// Writers that never pause, through a failover and back, with servers killed on the way.
mod returns;
/// Clients with yesterday's map, while folders move.
mod stale_clients;
/// A small HTTP client that changes nothing of what it sends, servers, and a router in front of them.
mod support;
/// `sync` between real servers, with the real rsync.
mod sync;
/// TLS in front of the router.
mod tls;
/// `get`, `put`, `delete`, `list`, `watch`, `policy` and `bench`, as programs.
mod treasures;
/// The status page, in a real browser, and what it shows.
mod ui;
