//! The commands that work on files or do arithmetic, without a server: each in a module of its own.

mod doctor;
mod inspect;
mod mend;
mod refold;
mod resolve;
mod restore;
mod upkeep;
mod verify;

pub(crate) use doctor::doctor;
pub(crate) use inspect::inspect;
pub(crate) use mend::{adopt, repair};
pub(crate) use refold::refold;
pub(crate) use resolve::resolve;
pub(crate) use restore::restore;
pub(crate) use upkeep::{compact, gc};
pub(crate) use verify::verify;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use hydra_core::{Error, ErrorCode};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::commands::Output;

/// Shown on a terminal while `what` are counted as they come; how many there are is known only at the end.
fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let template = format!("{{spinner}} {{human_pos}} {what}, {{per_sec}}, {{elapsed}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Shown on a terminal while a known number of `what` is worked through.
fn bar(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = format!("{{bar:40}} {{human_pos}} of {{human_len}} {what}, {{elapsed}}, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn check_directory(path: &Path) -> Result<(), Failure> {
    if path.is_dir() { Ok(()) } else { Err(Failure::not_found(format!("{} is no directory", path.display()))) }
}

/// Says which request does the same while a server holds the directory.
fn in_use(error: Error, request: &str) -> Failure {
    if error.code() == ErrorCode::DataDirInUse {
        return error.with_hint(format!("stop the server, or ask it: {request}")).into();
    }
    error.into()
}

/// Prints a report: as one JSON value, as lines (each entry of the `lists`, then the totals), or as a table.
fn report(
    output: Output,
    report: &impl Serialize,
    lists: &[(&str, &str)],
    table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    print(|out| match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(report)?),
        Output::Ndjson => lines(out, serde_json::to_value(report)?, lists),
        Output::Table => table(out),
    })
}

fn lines(out: &mut dyn Write, mut totals: Value, lists: &[(&str, &str)]) -> io::Result<()> {
    for (list, kind) in lists {
        let entries = totals.get_mut(list).map(Value::take);
        let entries = entries.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
        totals[list] = entries.len().into();
        for mut entry in entries {
            entry["type"] = (*kind).into();
            writeln!(out, "{entry}")?;
        }
    }
    totals["type"] = "total".into();
    writeln!(out, "{totals}")
}

/// Asks on a terminal; elsewhere `--yes` has to have been given.
fn confirm(yes: bool, question: &str, answer: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!(
            "{question}\nnothing was done: give --yes, or --dry-run to see what would be"
        )));
    }
    eprint!("{question}\ntype {answer} to go on: ");
    let mut line = String::new();
    match stdin.lock().read_line(&mut line) {
        Ok(_) if line.trim() == answer => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}

/// The members of an object side by side.
fn row(value: &Value) -> String {
    match value.as_object() {
        Some(members) => members.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("  "),
        None => value.to_string(),
    }
}

/// Prints to stdout; a reader that has gone away is no failure.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
