//! `refold`: another number of folders for a data directory.

use std::io::{self, Write};

use hydra_core::inspect::{self, RefoldOptions, Refolded};

use crate::Failure;
use crate::commands::RefoldFlags;
use crate::offline::{bar, check_directory, confirm, in_use, report};

/// Renames every swamp to where another number of folders puts it.
pub(crate) fn refold(flags: &RefoldFlags) -> Result<(), Failure> {
    check_directory(&flags.data)?;
    let found = run(flags, RefoldOptions::dry_run())?;
    if flags.dry_run || (found.from == found.to && !found.resumed) {
        return report(flags.output, &found, &[], |out| table(out, &found, flags.dry_run));
    }
    confirm(flags.yes, &question(&found), &found.to.to_string())?;
    let done = run(flags, RefoldOptions::default())?;
    report(flags.output, &done, &[], |out| table(out, &done, false))
}

fn run(flags: &RefoldFlags, options: RefoldOptions) -> Result<Refolded, Failure> {
    let bar = bar(0, "swamps");
    let mut progress = |seen, total| {
        bar.set_length(total);
        bar.set_position(seen);
    };
    let outcome = inspect::refold(&flags.data, flags.folders, options, &mut progress);
    bar.finish_and_clear();
    outcome.map_err(|error| in_use(error, "a server keeps its number of folders as long as it runs"))
}

fn question(found: &Refolded) -> String {
    let Refolded { from, to, swamps, renamed, .. } = found;
    format!(
        "{renamed} of {swamps} swamps are renamed, from {from} folders to {to}. Every copy of the data has to be taken \
         there as well before its server or a sync tool runs again, and clients need a map with {to} folders."
    )
}

fn table(out: &mut dyn Write, done: &Refolded, dry_run: bool) -> io::Result<()> {
    let Refolded { from, to, swamps, files, bytes, renamed, left_alone, .. } = done;
    for path in left_alone {
        writeln!(out, "left alone: {path}")?;
    }
    let would = if dry_run { " would be" } else { "" };
    writeln!(out, "{from} -> {to} folders: {renamed} of {swamps} swamps{would} renamed, {files} files, {bytes} bytes")
}
