//! `hydra-router promote`: makes a copy the owner when the owner is dead and does not come back.
//!
//! Nothing can be sealed on a dead server, so this is no move: what it had acknowledged and no copy had fetched is
//! only on its disk. The command says how old the copy is.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use hydra_core::wire::{ProbeBody, PromoteBody, PromotedBody};
use hydra_sdk::{ClientMap, FolderId, FolderSet, Hydra};
use serde::Serialize;

use crate::Failure;
use crate::flags::Output;
use crate::live::{ask, on_runtime};
use crate::moving::remote::{STEP, post};
use crate::output::{line, pretty, print};

/// What is promoted, in whose place.
#[derive(Debug, Args)]
pub(crate) struct PromoteFlags {
    /// Folders to promote, e.g. 50-74
    #[arg(value_name = "FOLDERS")]
    pub(crate) folders: FolderSet,
    /// Server that keeps copies and is to own the folders
    #[arg(long, value_name = "ID")]
    pub(crate) on: String,
    /// Server that is dead: I made sure that it is off and does not come back as the owner
    #[arg(long, value_name = "ID")]
    pub(crate) i_fenced: String,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    pub(crate) map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// What was found, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    of: String,
    to: String,
    epoch: u64,
    folders: Vec<Promoted>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Promoted {
    folder: FolderId,
    /// Files of the dead server that are here.
    files: u64,
    /// For how many seconds none of them has grown; what was acknowledged since is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet_seconds: Option<u64>,
}

/// Runs `hydra-router promote`.
pub(crate) fn run(flags: &PromoteFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    on_runtime(promote(flags, &map))?
}

async fn promote(flags: &PromoteFlags, map: &ClientMap) -> Result<(), Failure> {
    let PromoteFlags { folders, on: to, i_fenced: of, .. } = flags;
    folders.check(map.folders()).map_err(|error| Failure::usage(error.detail().to_owned()))?;
    for (flag, id) in [("--i-fenced", of), ("--on", to)] {
        map.server(id).ok_or_else(|| Failure::usage(format!("{flag}: the map has no server {id:?}")))?;
    }
    if of == to {
        return Err(Failure::usage(format!(
            "--i-fenced has to name the dead server, and --on another; both are {to:?}"
        )));
    }
    let hydra = Hydra::with_map(map.clone())?;
    if ask::<ProbeBody>(&hydra, of, "/v1/probe").await.is_ok() {
        return Err(Failure::conflict(format!(
            "{of} answers: move the folders instead (hydra-router move {folders} --from {of} --to {to}), nothing is lost then"
        )));
    }
    let epoch = map.epoch() + 1;
    let mut report = Report { of: of.clone(), to: to.clone(), epoch, folders: Vec::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for folder in folders.iter() {
        let body = PromoteBody { epoch, of: of.clone() };
        let done: Result<PromotedBody, _> = post(&hydra, to, folder, "promote", &body, STEP).await;
        match done {
            Ok(PromotedBody { files, newest, .. }) => {
                let quiet_seconds = newest.map(|newest| now.saturating_sub(newest));
                report.folders.push(Promoted { folder, files, quiet_seconds });
            }
            Err(refused) => {
                report.print(flags)?;
                return Err(Failure::from(refused).in_context(&format!("folder {folder}")));
            }
        }
    }
    report.print(flags)
}

impl Report {
    fn print(&self, flags: &PromoteFlags) -> Result<(), Failure> {
        print(|out| match flags.output {
            Output::Table => self.table(out),
            Output::Json => pretty(out, self),
            Output::Ndjson => line(out, self),
        })
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let (of, to) = (&self.of, &self.to);
        for Promoted { folder, files, quiet_seconds } in &self.folders {
            let lost = match quiet_seconds {
                Some(seconds) => format!("the newest grew {seconds} s ago: what {of} acknowledged since is not here"),
                None => format!("so nothing that {of} wrote is here"),
            };
            writeln!(out, "folder {folder}: {to} owns it now, {files} files of {of} are here, {lost}")?;
        }
        if self.folders.is_empty() {
            return Ok(());
        }
        writeln!(out, "put {to} in the place of {of} in the map, with epoch {}", self.epoch)?;
        writeln!(out, "should {of} come back, start it with --standby for these folders and sync its files to {to}")
    }
}
