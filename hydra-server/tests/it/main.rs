//! The promises of the server, tried over real sockets and with real processes.

/// What an operator tells a server at work: to stand aside, what to log, to read its files again.
mod admin;
/// A folder as a tar stream: out of a server at work, into another one, and nothing hostile.
mod archive;
/// Who may do what: tokens, scopes, patterns, origins, and what an operator sees of it.
mod auth;
/// Batches, on one swamp and across several: every kind of operation, and what fails alone.
mod batches;
/// The command line: flags, settings, exit codes, and the commands that need no server.
mod cli;
/// Two servers that wrote without knowing of each other: what lost is listed, on both.
mod conflicts;
/// How long a client still waits: nothing is begun for one that has left.
mod deadlines;
/// What was acknowledged survives: kill -9, SIGTERM under load, restarts.
mod durability;
/// gzip: long answers for those who ask, imports, and nothing without a bound.
mod encoding;
/// Change feeds and long polls: nothing missed, nothing twice, nobody slowed down, over restarts.
mod feeds;
/// Whose folder it is: 409 for another folder count, 421 for another server, copies and fallback.
mod folders;
/// The contract of every path: statuses, headers, bodies, conditions.
mod http;
/// What a server keeps that nobody asks anything: nothing.
mod idle;
/// Every limit from both sides, and peers that are slow or silent.
mod limits;
/// Lists in every order, with conditions, line by line; and lists of swamps.
mod lists;
/// Every endpoint, and everything that can be wrong with a request, as raw bytes: nobody else notices.
mod malformed;
/// Every rule of names and keys, before and after percent-decoding, as raw bytes.
mod names;
/// The OpenAPI document, held against the answers of a server.
mod openapi;
/// Queues and locks: workers, leases, waits, retries, and a server that is killed meanwhile.
mod queues;
/// Another number of folders for a data directory.
mod refold;
/// Too little memory, too few files, a full disk: refused while it lasts, and nothing lost.
mod resources;
/// The real client, against the server and in its own process.
mod sdk;
/// Lists and swamps through the real client, also over two servers.
mod sdk_lists;
/// A small HTTP client that changes nothing of what it sends, and servers to send it to.
mod support;
/// Two servers and copied files: what the fallback took over is noted, asked for at the owner, and settled.
mod takeover;
/// TLS: certificates, their change, and peers that are slow or speak something else.
mod tls;
/// The offline commands, on directories in every state.
mod tools;
/// Lines and folders out of one server and into another: whole, in little memory, and honest about what failed.
mod transfer;
/// The same through the real client, on servers and in its own process.
mod transfer_sdk;
/// One treasure: parts of it, patches, increments with bounds, pushed values, and every way to ask again.
mod treasures;
