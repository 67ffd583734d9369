//! The program `hydra-router`: a gateway by a client map, and the commands over one.

mod bench;
mod explain;
mod flags;
mod live;
mod maps;
mod moving;
mod output;
mod plan;
mod policies;
mod promote;
mod routers;
mod serving;
mod status;
mod sync;
mod transfer;
mod treasures;

use std::process::ExitCode;

use clap::Parser;
use flags::{Cli, Command, MapCommand, PolicyCommand};
use hydra_sdk::{ErrorKind, MapError};

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

    /// A flag, a variable, a file of settings or a map cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// What was asked for is not there.
    pub(crate) fn absent(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: message.into() }
    }

    /// Something is in another state than it has to be.
    pub(crate) fn conflict(message: impl Into<String>) -> Failure {
        Failure { code: 4, message: message.into() }
    }

    /// The token does not allow it.
    pub(crate) fn denied(message: impl Into<String>) -> Failure {
        Failure { code: 6, message: message.into() }
    }

    /// The same failure, with what it is about.
    pub(crate) fn in_context(self, what: &str) -> Failure {
        Failure { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same failure, with what to do about it.
    pub(crate) fn with_hint(self, hint: &str) -> Failure {
        Failure { message: format!("{} ({hint})", self.message), ..self }
    }

    /// A port or a server cannot be reached.
    pub(crate) fn unavailable(message: impl Into<String>) -> Failure {
        Failure { code: 5, message: message.into() }
    }
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<hydra_sdk::Error> for Failure {
    fn from(error: hydra_sdk::Error) -> Failure {
        match error.kind() {
            ErrorKind::Config | ErrorKind::Invalid => Failure::usage(error.to_string()),
            ErrorKind::Unauthenticated | ErrorKind::Denied => Failure { code: 6, message: error.to_string() },
            ErrorKind::VersionMismatch | ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::NotOwner => {
                Failure::conflict(error.to_string())
            }
            ErrorKind::Network | ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Overloaded => {
                Failure::unavailable(error.to_string())
            }
            _ => Failure::failed(error.to_string()),
        }
    }
}

impl From<hydra_core::Error> for Failure {
    fn from(error: hydra_core::Error) -> Failure {
        let code = match error.code().status() {
            401 | 403 => 6,
            404 => 3,
            400..=499 => 2,
            502..=504 => 5,
            _ => 1,
        };
        Failure { code, message: error.to_string() }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(flags) => serving::serve(*flags),
        Command::Explain(flags) => explain::explain(&flags),
        Command::Sync(flags) => sync::sync(&flags),
        Command::Move(flags) => moving::run(&flags),
        Command::Promote(flags) => promote::run(&flags),
        Command::Scan(flags) => transfer::scan(&flags),
        Command::Export(flags) => transfer::export(&flags),
        Command::Import(flags) => transfer::import(&flags),
        Command::Get(flags) => treasures::get(&flags),
        Command::Put(flags) => treasures::put(&flags),
        Command::Delete(flags) => treasures::delete(&flags),
        Command::List(flags) => treasures::list(&flags),
        Command::Watch(flags) => treasures::watch(&flags),
        Command::Policy { command: PolicyCommand::Apply(flags) } => policies::apply(&flags),
        Command::Policy { command: PolicyCommand::Show(flags) } => policies::show(&flags),
        Command::Bench(flags) => bench::bench(&flags),
        Command::Status(flags) => status::status(&flags),
        Command::Plan(flags) => plan::plan(&flags),
        Command::Map { command: MapCommand::Check(flags) } => maps::check(&flags),
        Command::Map { command: MapCommand::Show(flags) } => maps::show(&flags),
        Command::Map { command: MapCommand::Diff(flags) } => maps::diff(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hydra-router: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
