//! The program `hydra-server`: serves a data directory, or looks at one.

mod flags;
mod offline;
mod serving;

use std::process::ExitCode;

use clap::Parser;
use flags::{Cli, Command};
use hydra_core::ErrorCode;

/// How a run ended when it did not end well: what to say, and with which exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Something went wrong while working.
    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// A flag, variable or file of settings cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// What was named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: message.into() }
    }
}

impl From<hydra_core::Error> for Failure {
    fn from(error: hydra_core::Error) -> Failure {
        let code = match error.code() {
            ErrorCode::InvalidConfig | ErrorCode::InvalidName | ErrorCode::InvalidParameter => 2,
            ErrorCode::NotFound | ErrorCode::SwampNotFound => 3,
            ErrorCode::FolderCountMismatch => 4,
            ErrorCode::DataDirInUse => 5,
            _ => 1,
        };
        Failure { code, message: error.to_string() }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serving::serve(cli.serve),
        Some(Command::Serve(flags)) => serving::serve(*flags),
        Some(Command::Verify(flags)) => offline::verify(&flags),
        Some(Command::Inspect(flags)) => offline::inspect(&flags),
        Some(Command::Resolve(flags)) => offline::resolve(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hydra-server: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
