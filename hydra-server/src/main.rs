//! The program `hydra-server`: serves a data directory, or looks after one.

mod commands;
mod flags;
mod offline;
mod serving;
mod tokens;

use std::process::ExitCode;

use clap::Parser;
use commands::{Command, TokenCommand};
use flags::Cli;
use hydra_core::ErrorCode;

/// Gives the memory of evicted swamps back to the system within seconds, from a thread of its own. The
/// allocator of glibc kept nearly all of it: 169 of 168 MB after 10 000 swamps of 20 KB were evicted.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

    /// What is there contradicts what was asked for.
    pub(crate) fn conflict(message: impl Into<String>) -> Failure {
        Failure { code: 4, message: message.into() }
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
        Some(Command::Compact(flags)) => offline::compact(&flags),
        Some(Command::Gc(flags)) => offline::gc(&flags),
        Some(Command::Doctor(flags)) => offline::doctor(&flags),
        Some(Command::Adopt(flags)) => offline::adopt(&flags),
        Some(Command::Refold(flags)) => offline::refold(&flags),
        Some(Command::Repair(flags)) => offline::repair(&flags),
        Some(Command::Restore(flags)) => offline::restore(&flags),
        Some(Command::Resolve(flags)) => offline::resolve(&flags),
        Some(Command::Token { command: TokenCommand::New(flags) }) => tokens::new(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hydra-server: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
