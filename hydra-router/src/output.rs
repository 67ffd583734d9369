//! Printing data to stdout.

use std::io::{self, Write};

use serde::Serialize;

use crate::Failure;

/// Prints to stdout; a reader that has gone away is no failure.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a value as JSON over several lines.
pub(crate) fn pretty<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)
}

/// Writes a value as JSON on one line.
pub(crate) fn line<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(value)?)
}
