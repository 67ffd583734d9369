//! `doctor`: a data directory and its surroundings, and what to do about each finding.

use std::io::{self, Write};

use hydra_core::inspect::{self, Diagnosis, Level};

use crate::Failure;
use crate::commands::DoctorFlags;
use crate::offline::{report, spinner};

/// Fails when something has to be mended.
pub(crate) fn doctor(flags: &DoctorFlags) -> Result<(), Failure> {
    if !flags.data.exists() {
        return Err(Failure::not_found(format!("{} does not exist", flags.data.display())));
    }
    let bar = spinner("files seen");
    let says = inspect::doctor(&flags.data, &mut |files| bar.set_position(files));
    bar.finish_and_clear();
    report(flags.output, &says, &[("checks", "check")], |out| table(out, &says))?;
    if says.is_healthy() {
        return Ok(());
    }
    let failed = says.checks.iter().filter(|check| check.level == Level::Fail).count();
    Err(Failure::failed(format!("{failed} of {} checks failed", says.checks.len())))
}

fn table(out: &mut dyn Write, says: &Diagnosis) -> io::Result<()> {
    for check in &says.checks {
        let level = match check.level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(out, "{level}  {}: {}", check.check, check.detail)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "      {advice}")?;
        }
    }
    writeln!(out, "{} swamps, {} files, {} bytes", says.swamps, says.files, says.bytes)
}
