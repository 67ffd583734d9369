//! `verify`: every byte of a data directory, every swamp merged.

use std::io::{self, Write};

use hydra_core::inspect::{self, Verified};

use crate::Failure;
use crate::commands::VerifyFlags;
use crate::offline::{check_directory, report, spinner};

/// Reads and checks every byte; fails when something is damaged or missing.
pub(crate) fn verify(flags: &VerifyFlags) -> Result<(), Failure> {
    check_directory(&flags.data)?;
    let bar = spinner("files checked");
    let verified = inspect::verify(&flags.data, flags.folder.as_ref(), &mut |files| bar.set_position(files));
    bar.finish_and_clear();
    let verified = verified?;
    report(flags.output, &verified, &[("findings", "finding")], |out| table(out, &verified))?;
    let damaged = verified.findings.iter().filter(|finding| finding.damage).count();
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{damaged} of {} findings are damage", verified.findings.len())))
}

fn table(out: &mut dyn Write, verified: &Verified) -> io::Result<()> {
    for finding in &verified.findings {
        let offset = finding.offset.map_or(String::new(), |offset| format!(" at {offset}"));
        let kind = if finding.damage { "DAMAGE" } else { "note" };
        writeln!(out, "{kind}  {}{offset}: {}", finding.path, finding.problem)?;
    }
    let Verified { swamps, complete, incomplete, degraded, .. } = verified;
    writeln!(out, "{swamps} swamps: {complete} complete, {incomplete} incomplete, {degraded} degraded")?;
    let Verified { files, snapshots, bytes, records, treasures, findings, .. } = verified;
    let found = if findings.is_empty() { "all whole".to_owned() } else { format!("{} findings", findings.len()) };
    writeln!(
        out,
        "{files} files ({snapshots} snapshots), {bytes} bytes, {records} records, {treasures} treasures: {found}"
    )
}
