//! `hydra-router move`: lets folders go from one server to another while they are used, and loses no write.
//!
//! One folder after the other: the fallbacks are fenced, the target begins to import, most is copied while the
//! source serves; then the source is sealed, the rest is copied and all of it verified, the source lets go of the
//! folder for good, and the target begins to serve. What was done is kept by the servers, not here: whoever runs
//! the command again goes on where it ended, or gives it up.

mod clean;
mod copy;
mod folder;
mod plan;
mod publish;
pub(crate) mod remote;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use hydra_sdk::{ClientMap, FolderId, FolderSet, Hydra};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::Failure;
use crate::flags::Output;
use crate::live::on_runtime;
use crate::output::{line, pretty, print};
use crate::serving::Signals;
use folder::Move;
use plan::Plan;

/// What is moved, from where to where.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it again after a failure: it goes on where the servers are, or gives the move up with --abort.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 4 a folder is in another state, 5 a server does not answer, 6 not authorised."
)]
pub(crate) struct MoveFlags {
    /// Folders to move, e.g. 50-74
    #[arg(value_name = "FOLDERS")]
    pub(crate) folders: FolderSet,
    /// Server that owns them
    #[arg(long, value_name = "ID")]
    pub(crate) from: String,
    /// Server that is to own them
    #[arg(long, value_name = "ID")]
    pub(crate) to: String,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "abort")]
    pub(crate) dry_run: bool,
    /// Give up what has not moved yet, and let everybody write again
    #[arg(long, conflicts_with = "write_map")]
    pub(crate) abort: bool,
    /// Remove the files of folders that have moved at their old owner. Refused while a server that the map lists for
    /// them lacks one, and where Syncthing would carry the removal elsewhere
    #[arg(long, conflicts_with_all = ["abort", "write_map", "resume", "copy_with"])]
    pub(crate) clean: bool,
    /// Go on with a move that ended early; this is what happens anyway
    #[arg(long, conflicts_with = "abort")]
    pub(crate) resume: bool,
    /// Command that copies the directory of a folder, in place of the target's own pull. A shell runs it, with
    /// HYDRA_FOLDER, HYDRA_FOLDER_DIR, HYDRA_FROM and HYDRA_TO set; what it copied is verified
    #[arg(long, value_name = "COMMAND")]
    pub(crate) copy_with: Option<String>,
    /// Write the map with the new owner and the next epoch when all folders have moved
    #[arg(long)]
    pub(crate) write_map: bool,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    pub(crate) map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// What became of the folders, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    from: String,
    to: String,
    dry_run: bool,
    folders: Vec<Outcome>,
    /// The epoch of the map that has the folders at their new owner.
    map_epoch: u64,
    /// Whether that map was written.
    map_written: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What became of one folder.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) folder: FolderId,
    pub(crate) outcome: &'static str,
    pub(crate) epoch: u64,
    /// Bytes that were copied now.
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// For how long its writes waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pause_ms: Option<u64>,
}

/// Runs `hydra-router move`.
pub(crate) fn run(flags: &MoveFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    on_runtime(async {
        let mut signals =
            Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        // Whatever is left behind, the servers know what it is; a seal runs out.
        tokio::select! {
            outcome = run_all(flags, &map) => outcome,
            () = signals.next() => Err(Failure::failed("interrupted; run it again to go on, or with --abort to give up")),
        }
    })?
}

async fn run_all(flags: &MoveFlags, map: &ClientMap) -> Result<(), Failure> {
    let hydra = Hydra::with_map(map.clone())?;
    let plan = Plan::make(&hydra, map, flags).await?;
    let mut report = Report {
        from: flags.from.clone(),
        to: flags.to.clone(),
        dry_run: flags.dry_run,
        folders: Vec::new(),
        map_epoch: plan.map_epoch(map),
        map_written: false,
        warnings: Vec::new(),
    };
    if flags.dry_run {
        report.folders = plan.folders.iter().map(|folder| folder.foreseen()).collect();
        return report.print(flags);
    }
    let bar = progress(flags, plan.folders.len());
    for folder in &plan.folders {
        let (hydra, bar, pool) = (&hydra, &bar, plan.pool.as_str());
        let mut moving = Move { hydra, flags, map, pool, folder, bar, warnings: Vec::new() };
        let outcome = match flags {
            MoveFlags { abort: true, .. } => moving.abort().await,
            MoveFlags { clean: true, .. } => moving.clean().await,
            _ => moving.run().await,
        };
        report.warnings.append(&mut moving.warnings);
        match outcome {
            Ok(outcome) => report.folders.push(outcome),
            Err(failure) => {
                bar.abandon();
                report.print(flags)?;
                return Err(failure.in_context(&format!("folder {}", folder.id)));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if flags.write_map {
        let moved = plan.folders.iter().map(|folder| folder.id).collect();
        publish::publish(flags, map, &plan.pool, &moved, report.map_epoch, &mut report.warnings)?;
        report.map_written = true;
    }
    report.print(flags)
}

fn progress(flags: &MoveFlags, folders: usize) -> ProgressBar {
    if flags.output != Output::Table || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(folders as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} folders, {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

impl Report {
    fn print(&self, flags: &MoveFlags) -> Result<(), Failure> {
        print(|out| match flags.output {
            Output::Table => self.table(out, flags),
            Output::Json => pretty(out, self),
            Output::Ndjson => line(out, self),
        })
    }

    fn table(&self, out: &mut dyn Write, flags: &MoveFlags) -> io::Result<()> {
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        for Outcome { folder, outcome, bytes, files, pause_ms, .. } in &self.folders {
            let pause = pause_ms.map_or(String::new(), |ms| format!(", writes waited {ms} ms"));
            let copied = if flags.clean { "" } else { " copied" };
            writeln!(out, "folder {folder}: {outcome}, {files} files and {bytes} bytes{copied}{pause}")?;
        }
        if self.dry_run || flags.abort || flags.clean || self.folders.is_empty() {
            return Ok(());
        }
        match self.map_written {
            true => writeln!(out, "{} says so now, in epoch {}", flags.map.display(), self.map_epoch),
            false => writeln!(
                out,
                "clients with the old map are sent on by {}; run it again with --write-map for epoch {}",
                self.from, self.map_epoch
            ),
        }
    }
}
