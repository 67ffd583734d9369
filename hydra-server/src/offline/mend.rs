//! `adopt` and `repair`: taking over the files of a server that is gone, and mending damaged swamps.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hydra_core::Timestamp;
use hydra_core::inspect::{self, AdoptOptions, Adopted, RepairOptions, Repaired};

use crate::Failure;
use crate::commands::{AdoptFlags, RepairFlags};
use crate::offline::{check_directory, confirm, in_use, report, spinner};

/// A server whose files changed this lately may be alive.
const LATELY: Duration = Duration::from_secs(600);

/// Takes over the files of a server that will never write again.
pub(crate) fn adopt(flags: &AdoptFlags) -> Result<(), Failure> {
    check_directory(&flags.data)?;
    let found = run_adopt(flags, AdoptOptions::dry_run())?;
    if flags.dry_run || found.incarnations.is_empty() {
        return report(flags.output, &found, &[("incarnations", "incarnation")], |out| adopted(out, &found, flags));
    }
    refuse_alive(flags, &found)?;
    confirm(flags.yes, &danger(&found), &found.server)?;
    let taken = run_adopt(flags, AdoptOptions::default())?;
    report(flags.output, &taken, &[("incarnations", "incarnation")], |out| adopted(out, &taken, flags))
}

fn run_adopt(flags: &AdoptFlags, options: AdoptOptions) -> Result<Adopted, Failure> {
    let bar = spinner("files seen");
    let outcome = inspect::adopt(&flags.data, &flags.server, options, &mut |files| bar.set_position(files));
    bar.finish_and_clear();
    outcome.map_err(|error| in_use(error, "a server reads the list of its processes only when it starts"))
}

fn refuse_alive(flags: &AdoptFlags, found: &Adopted) -> Result<(), Failure> {
    let Some(changed_at) = found.changed_at.filter(|_| !flags.force && !found.is_own) else { return Ok(()) };
    let age = SystemTime::now().duration_since(changed_at.into()).unwrap_or_default();
    if age >= LATELY {
        return Ok(());
    }
    let text = format!(
        "a file of {:?} changed {} s ago, at {changed_at}: that server may be alive; stop it for good, or use --force",
        found.server,
        age.as_secs()
    );
    Err(Failure::conflict(text))
}

fn danger(found: &Adopted) -> String {
    let Adopted { server, files, incarnations, is_own, .. } = found;
    let processes = incarnations.len();
    if *is_own {
        return format!(
            "{files} files of {processes} processes of {server:?}, whose list was lost, become this server's own again."
        );
    }
    format!(
        "{files} files of {processes} processes of {server:?} become this server's own: it removes them as soon as its \
         snapshots cover them.\nIf {server:?} is alive or comes back with its data, what it writes to them may be lost. \
         Go on only if it is gone for good."
    )
}

fn adopted(out: &mut dyn Write, adopted: &Adopted, flags: &AdoptFlags) -> io::Result<()> {
    for found in &adopted.incarnations {
        let inspect::AdoptedIncarnation { incarnation, files, bytes, changed_at, .. } = found;
        writeln!(out, "{incarnation}  {files} files, {bytes} bytes, changed last at {changed_at}")?;
    }
    let Adopted { server, known, files, bytes, incarnations, .. } = adopted;
    let what = if flags.dry_run { "would become this server's own" } else { "are this server's own now" };
    writeln!(
        out,
        "{server}: {files} files, {bytes} bytes of {} processes {what}; {known} processes were before",
        incarnations.len()
    )
}

/// Mends what is damaged or missing; fails when something stays so.
pub(crate) fn repair(flags: &RepairFlags) -> Result<(), Failure> {
    check_directory(&flags.data)?;
    let mut options = RepairOptions::default();
    options.from.clone_from(&flags.from);
    options.accept_loss = flags.accept_loss;
    options.folders.clone_from(&flags.folder);
    options.dry_run = flags.dry_run;
    let bar = spinner("swamps looked at");
    let outcome = inspect::repair(&flags.data, &options, &mut |swamps| bar.set_position(swamps));
    bar.finish_and_clear();
    let repaired = outcome.map_err(|error| in_use(error, "GET /v1/swamps/{SWAMP} tells what it finds damaged"))?;
    let lists = [("files", "file"), ("losses", "loss"), ("unmended", "unmended")];
    report(flags.output, &repaired, &lists, |out| table(out, &repaired, flags.dry_run))?;
    match repaired.unmended.len() {
        0 => Ok(()),
        swamps => Err(Failure::failed(format!("{swamps} swamps are not whole"))),
    }
}

fn table(out: &mut dyn Write, repaired: &Repaired, dry_run: bool) -> io::Result<()> {
    for file in &repaired.files {
        writeln!(out, "{}: {}", file.path, file.action)?;
        if let Some(from) = &file.from {
            writeln!(out, "    from {from}")?;
        }
        if let Some(kept) = &file.kept {
            writeln!(out, "    before: kept as {kept}")?;
        }
    }
    for loss in &repaired.losses {
        let time = |time: &Option<Timestamp>| time.map_or("?".to_owned(), |time| time.to_string());
        let span = match (&loss.after, &loss.before) {
            (None, None) => String::new(),
            (after, before) => format!(", written between {} and {}", time(after), time(before)),
        };
        let bytes = if loss.to > 0 { format!(" bytes {}..{}", loss.from, loss.to) } else { String::new() };
        writeln!(out, "LOST  {}{bytes}{span}: {}", loss.path, loss.detail)?;
    }
    for swamp in &repaired.unmended {
        writeln!(out, "STILL {}  {}: {}", swamp.copy.to_uppercase(), swamp.path, swamp.problem)?;
    }
    let Repaired { swamps, mended, records, unmended, .. } = repaired;
    let would = if dry_run { " would be" } else { "" };
    let unmended = unmended.len();
    writeln!(
        out,
        "{swamps} swamps looked at, {mended}{would} mended, {records} records{would} written again, {unmended} not whole"
    )
}
