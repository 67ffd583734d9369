//! `inspect`: what stands in a file, and what the files of a swamp say together.

use std::io::{self, Write};

use hydra_core::inspect::{InspectOptions, inspect_with};

use crate::Failure;
use crate::commands::{InspectFlags, Output};
use crate::offline::{print, row};

/// Prints header and records of a file, or of every file of a swamp directory, and the merged picture.
pub(crate) fn inspect(flags: &InspectFlags) -> Result<(), Failure> {
    if !flags.path.exists() {
        return Err(Failure::not_found(format!("{} does not exist", flags.path.display())));
    }
    let options = if flags.merged { InspectOptions::merged() } else { InspectOptions::default() };
    let mut out = io::stdout().lock();
    let mut printed = Vec::new();
    let mut closed = false;
    let outcome = inspect_with(&flags.path, options, &mut |value| {
        let written = match flags.output {
            Output::Ndjson => writeln!(out, "{value}"),
            Output::Table => writeln!(out, "{}", row(&value)),
            Output::Json => {
                printed.push(value);
                Ok(())
            }
        };
        closed |= matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        written
    });
    // A reader that has gone away is no failure.
    if closed {
        return Ok(());
    }
    outcome?;
    drop(out);
    match flags.output {
        Output::Json => print(|out| writeln!(out, "{}", serde_json::to_string_pretty(&printed)?)),
        _ => Ok(()),
    }
}
