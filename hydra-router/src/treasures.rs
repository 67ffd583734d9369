//! `hydra-router get`, `put`, `delete`, `list` and `watch`: single treasures from the command line, as a client of the map
//! reads and writes them.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::{Stream, StreamExt, TryStreamExt};
use hydra_core::duration::parse_duration;
use hydra_core::wire::{EventBody, TreasureBody};
use hydra_core::{EventId, Order, Value, Version};
use hydra_sdk::{ClientMap, Event, EventKind, Hydra, Swamp, SwampName, Treasure};
use serde_json::value::RawValue;

use crate::Failure;
use crate::flags::Output;
use crate::live::on_runtime;
use crate::output::{line, pretty, print};
use crate::serving::Signals;

/// What every one of these commands needs to know.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Swamp, sanctuary/realm/swamp
    #[arg(value_name = "SWAMP")]
    swamp: SwampName,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    map: PathBuf,
}

impl Where {
    /// There is no such treasure.
    fn absent(&self, key: &str) -> Failure {
        Failure::absent(format!("{} has no treasure {key:?}", self.swamp))
    }

    fn open<V>(&self) -> Result<Swamp<V>, Failure> {
        Ok(Hydra::with_map(ClientMap::from_file(&self.map)?)?.swamp(self.swamp.clone())?)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 3: there is no such treasure.")]
pub(crate) struct GetFlags {
    #[command(flatten)]
    place: Where,
    /// Key
    key: String,
    /// Only what stands at this JSON Pointer, e.g. /address/city
    #[arg(long, value_name = "POINTER")]
    path: Option<String>,
    /// With its version and times, as JSON
    #[arg(long, conflicts_with = "path")]
    info: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 4: the treasure is there although it must not be, or at another version.")]
pub(crate) struct PutFlags {
    #[command(flatten)]
    place: Where,
    /// Key
    key: String,
    /// Value as JSON, or as it is with --type; - reads it from stdin, @FILE from a file
    value: String,
    /// Content type of a value that is not JSON, e.g. text/plain
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// It expires after this time, e.g. 30m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Only if there is none yet
    #[arg(long, conflicts_with = "if_version")]
    create: bool,
    /// Only if it is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,
    /// On disk before it is answered, whatever the write interval
    #[arg(long)]
    sync: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 3: there is no such treasure.")]
pub(crate) struct DeleteFlags {
    #[command(flatten)]
    place: Where,
    /// Key
    key: String,
    /// Only if it is at this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,
    /// On disk before it is answered, whatever the write interval
    #[arg(long)]
    sync: bool,
    /// Only show what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    #[command(flatten)]
    place: Where,
    /// Only keys that start with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// By key, created, updated, expires, or value:/pointer
    #[arg(long, default_value = "key", value_name = "ORDER")]
    by: Order,
    /// From the last to the first
    #[arg(long)]
    desc: bool,
    /// At most so many [default: all]
    #[arg(long)]
    limit: Option<usize>,
    /// Keys and what is known about them, without values
    #[arg(long)]
    keys: bool,
    /// How treasures are printed
    #[arg(long, value_enum, default_value_t = Output::Ndjson)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct WatchFlags {
    #[command(flatten)]
    place: Where,
    /// Begin with every treasure there is; an event `live` says when that is done
    #[arg(long)]
    snapshot: bool,
    /// Go on behind this event
    #[arg(long, value_name = "ID")]
    since: Option<EventId>,
    /// Only keys that start with this
    #[arg(long)]
    prefix: Option<String>,
}

/// Prints a value as it is stored.
pub(crate) fn get(flags: &GetFlags) -> Result<(), Failure> {
    let swamp = flags.place.open::<Box<RawValue>>()?;
    let absent = || flags.place.absent(&flags.key);
    on_runtime(async {
        if flags.info {
            let found = swamp.treasure(&flags.key).await?.ok_or_else(absent)?;
            return print(|out| pretty(out, &shown(found)));
        }
        if let Some(path) = &flags.path {
            let found = swamp.get_path::<Box<RawValue>>(&flags.key, path).await?.ok_or_else(absent)?;
            return print(|out| writeln!(out, "{}", found.get()));
        }
        let value = swamp.get_value(&flags.key).await?.ok_or_else(absent)?;
        let is_binary = value.content_type().is_some_and(|kind| !kind.starts_with("text/"));
        print(|out| {
            out.write_all(value.as_bytes())?;
            if is_binary { Ok(()) } else { writeln!(out) }
        })
    })?
}

/// Stores a value and prints its version.
pub(crate) fn put(flags: &PutFlags) -> Result<(), Failure> {
    let bytes = bytes_of(&flags.value)?;
    let unusable = |error: hydra_core::Error| Failure::usage(format!("the value: {error}"));
    let value = match &flags.kind {
        Some(kind) => Value::binary(kind, bytes).map_err(unusable)?,
        None => Value::json(bytes).map_err(|error| {
            unusable(error).with_hint("text needs quotes of its own, '\"so\"'; anything else a --type")
        })?,
    };
    let mut put = flags.place.open::<()>()?.put_value(&flags.key, value);
    if let Some(ttl) = flags.ttl {
        put = put.ttl(ttl);
    }
    if flags.create {
        put = put.create_only();
    }
    if let Some(version) = &flags.if_version {
        put = put.if_version(version);
    }
    let put = if flags.sync { put.sync() } else { put };
    let written = on_runtime(async { put.await })??;
    print(|out| writeln!(out, "{}", written.version))
}

fn bytes_of(value: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |from: &Path, error| Failure::failed(format!("cannot read {}: {error}", from.display()));
    match (value, value.strip_prefix('@')) {
        ("-", _) => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| unreadable(Path::new("stdin"), error))
        }
        (_, Some(file)) => std::fs::read(file).map_err(|error| unreadable(Path::new(file), error)),
        (text, None) => Ok(text.as_bytes().to_vec()),
    }
}

/// Removes a treasure.
pub(crate) fn delete(flags: &DeleteFlags) -> Result<(), Failure> {
    let swamp = flags.place.open::<Box<RawValue>>()?;
    let absent = || flags.place.absent(&flags.key);
    on_runtime(async {
        if flags.dry_run {
            let found = swamp.treasure(&flags.key).await?.ok_or_else(absent)?;
            return print(|out| line(out, &shown(found)));
        }
        if !flags.yes {
            confirm(&format!("delete {:?} of {}?", flags.key, flags.place.swamp))?;
        }
        let mut delete = swamp.delete(&flags.key);
        if let Some(version) = &flags.if_version {
            delete = delete.if_version(version);
        }
        let was_there = if flags.sync { delete.sync().await? } else { delete.await? };
        if was_there { Ok(()) } else { Err(absent()) }
    })?
}

/// Asks whoever sits at the terminal.
fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody can be asked here; --yes does it without asking, --dry-run shows what would go",
        ));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(_) if answer.trim().eq_ignore_ascii_case("y") => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}

/// Prints the treasures of a swamp.
pub(crate) fn list(flags: &ListFlags) -> Result<(), Failure> {
    let swamp = flags.place.open::<Box<RawValue>>()?;
    let mut list = swamp.list().prefix(&flags.prefix).order_by(flags.by.clone());
    if flags.desc {
        list = list.descending();
    }
    if let Some(limit) = flags.limit {
        list = list.limit(limit);
    }
    on_runtime(async {
        match flags.keys {
            true => print_list(list.without_values().stream().map_ok(|treasure| body(treasure).0), flags.output).await,
            false => print_list(list.stream().map_ok(shown), flags.output).await,
        }
    })?
}

async fn print_list(
    treasures: impl Stream<Item = hydra_sdk::Result<TreasureBody>>,
    output: Output,
) -> Result<(), Failure> {
    if output == Output::Json {
        let all: Vec<TreasureBody> = treasures.try_collect().await?;
        return print(|out| pretty(out, &all));
    }
    let mut treasures = std::pin::pin!(treasures);
    while let Some(treasure) = treasures.next().await {
        let treasure = treasure?;
        print(|out| match output {
            Output::Table => {
                let value = treasure.value.as_deref().map_or("", RawValue::get);
                writeln!(out, "{:<28} {} {value}", treasure.key, treasure.updated_at)
            }
            Output::Json | Output::Ndjson => line(out, &treasure),
        })?;
    }
    Ok(())
}

/// Prints what changes, one line per event, until a signal comes.
pub(crate) fn watch(flags: &WatchFlags) -> Result<(), Failure> {
    let swamp = flags.place.open::<Box<RawValue>>()?;
    let mut subscription = swamp.subscribe();
    if flags.snapshot {
        subscription = subscription.snapshot();
    }
    if let Some(id) = flags.since {
        subscription = subscription.since(id);
    }
    if let Some(prefix) = &flags.prefix {
        subscription = subscription.prefix(prefix);
    }
    on_runtime(async {
        let mut signals =
            Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        let mut events = subscription.stream();
        let printing = async {
            while let Some(event) = events.next().await {
                let event = told(event?);
                print(|out| line(out, &event))?;
            }
            Ok(())
        };
        tokio::select! {
            outcome = printing => outcome,
            () = signals.next() => Ok(()),
        }
    })?
}

/// A treasure as HTTP shows it, and its value.
fn body<V>(treasure: Treasure<V>) -> (TreasureBody, V) {
    let Treasure { key, value, version, created_at, updated_at, expires_at, .. } = treasure;
    (TreasureBody { key, value: None, version, created_at, updated_at, expires_at }, value)
}

fn shown(treasure: Treasure<Box<RawValue>>) -> TreasureBody {
    let (body, value) = body(treasure);
    TreasureBody { value: Some(value), ..body }
}

/// An event as a line of a feed.
fn told(event: Event<Box<RawValue>>) -> EventBody {
    let line = |name: &str| EventBody {
        event: name.to_owned(),
        id: event.id.map(|id| id.to_string()),
        at: event.at,
        swamp: None,
        key: None,
        value: None,
        version: None,
        created_at: None,
        updated_at: None,
        expires_at: None,
        old: None,
        reason: None,
    };
    match event.kind {
        EventKind::Put { treasure, .. } => EventBody {
            key: Some(treasure.key),
            value: Some(treasure.value),
            version: Some(treasure.version),
            created_at: Some(treasure.created_at),
            updated_at: Some(treasure.updated_at),
            expires_at: treasure.expires_at,
            ..line("put")
        },
        EventKind::Delete { key, version, .. } => EventBody { key: Some(key), version, ..line("delete") },
        EventKind::Expire { key, .. } => EventBody { key: Some(key), ..line("expire") },
        EventKind::Destroy => line("destroy"),
        EventKind::Reset { reason } => EventBody { reason: Some(reason), ..line("reset") },
        EventKind::Live => line("live"),
        _ => line("unknown"),
    }
}
