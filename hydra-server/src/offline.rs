//! Commands that look at files or do arithmetic, without a server: `verify`, `inspect`, `resolve`.

use std::io::{self, Write};
use std::time::Duration;

use hydra_core::inspect::{self, Verified};
use hydra_core::{FolderCount, SwampName, folder_of, swamp_dir};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::flags::{InspectFlags, Output, ResolveFlags, VerifyFlags};

/// Reads and checks every byte; fails when something is damaged.
pub(crate) fn verify(flags: &VerifyFlags) -> Result<(), Failure> {
    if !flags.data.is_dir() {
        return Err(Failure::not_found(format!("{} is no directory", flags.data.display())));
    }
    let bar = progress();
    let verified = inspect::verify(&flags.data, flags.folder.as_ref(), &mut |files| bar.set_position(files))?;
    bar.finish_and_clear();
    print(|out| report(out, flags.output, &verified))?;
    let damaged = verified.findings.iter().filter(|finding| finding.damage).count();
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{damaged} of {} findings are damage", verified.findings.len())))
}

/// Files are counted as they come; how many there are is known only at the end.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} files checked, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn report(out: &mut dyn Write, output: Output, verified: &Verified) -> io::Result<()> {
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(verified)?),
        Output::Ndjson => {
            for finding in &verified.findings {
                writeln!(out, "{}", serde_json::to_string(finding)?)?;
            }
            let mut totals = serde_json::to_value(verified)?;
            if let Some(members) = totals.as_object_mut() {
                members.insert("findings".into(), verified.findings.len().into());
            }
            writeln!(out, "{totals}")
        }
        Output::Table => {
            for finding in &verified.findings {
                let offset = finding.offset.map_or(String::new(), |offset| format!(" at {offset}"));
                let kind = if finding.damage { "DAMAGE" } else { "note" };
                writeln!(out, "{kind}  {}{offset}: {}", finding.path, finding.problem)?;
            }
            writeln!(
                out,
                "{} swamps, {} files, {} records, {} bytes: {}",
                verified.swamps,
                verified.files,
                verified.records,
                verified.bytes,
                if verified.findings.is_empty() {
                    "all whole".to_owned()
                } else {
                    format!("{} findings", verified.findings.len())
                }
            )
        }
    }
}

/// Prints header and records of a file, or of every file of a swamp directory.
pub(crate) fn inspect(flags: &InspectFlags) -> Result<(), Failure> {
    if !flags.path.exists() {
        return Err(Failure::not_found(format!("{} does not exist", flags.path.display())));
    }
    let mut out = io::stdout().lock();
    let mut printed = Vec::new();
    let outcome = inspect::inspect(&flags.path, &mut |value| match flags.output {
        Output::Ndjson => writeln!(out, "{value}"),
        Output::Table => writeln!(out, "{}", row(&value)),
        Output::Json => {
            printed.push(value);
            Ok(())
        }
    });
    outcome?;
    if flags.output == Output::Json {
        print(|out| writeln!(out, "{}", serde_json::to_string_pretty(&printed)?))?;
    }
    Ok(())
}

/// The members of an object side by side.
fn row(value: &Value) -> String {
    match value.as_object() {
        Some(members) => members.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("  "),
        None => value.to_string(),
    }
}

/// Where a name lives.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    name: String,
    hash: String,
    folder: u32,
    folders: u32,
    path: String,
}

impl Place {
    fn of(name: &SwampName, count: FolderCount) -> Place {
        let folder = folder_of(name, count);
        Place {
            name: name.to_string(),
            hash: format!("{:016x}", name.hash()),
            folder: folder.get(),
            folders: count.get(),
            path: swamp_dir(folder, name).display().to_string(),
        }
    }
}

/// Tells where a name lives, or finds names that live in some folders.
pub(crate) fn resolve(flags: &ResolveFlags) -> Result<(), Failure> {
    let count = flags.folders_total;
    let places: Vec<Place> = match (&flags.name, &flags.find, &flags.folders) {
        (Some(name), ..) => vec![Place::of(&name.parse()?, count)],
        (None, Some(prefix), Some(folders)) => {
            folders.check(count)?;
            let base: SwampName = prefix.parse()?;
            base.in_folders(folders, count).take(flags.count).map(|name| Place::of(&name, count)).collect()
        }
        _ => return Err(Failure::usage("name a swamp, or use --find PREFIX --in FOLDERS")),
    };
    print(|out| match flags.output {
        Output::Json if flags.name.is_some() => writeln!(out, "{}", serde_json::to_string_pretty(&places.first())?),
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&places)?),
        Output::Ndjson => places.iter().try_for_each(|place| Ok(writeln!(out, "{}", serde_json::to_string(place)?)?)),
        Output::Table => places.iter().try_for_each(|place| {
            writeln!(
                out,
                "{}  hash {}  folder {} of {}  {}",
                place.name, place.hash, place.folder, place.folders, place.path
            )
        }),
    })
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
