//! `hydra-router status`: the servers of a map, who answers for which folders, what their copies lack, what moves.

mod gather;

use std::io::{self, Write};
use std::time::Duration;

use hydra_sdk::{ClientMap, FolderSet, Hydra};
use serde::Serialize;

use crate::Failure;
use crate::flags::{Output, StatusFlags};
use crate::live::on_runtime;
use crate::output::{bytes_of, line, pretty, print};
use crate::routers::{Opinion, ask_routers};
use crate::serving::Signals;
use gather::gather;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(2);

/// The state of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    cluster: String,
    epoch: u64,
    folders_total: u32,
    /// Whether every server answered as who it is, every folder is owned by its primary, and no copy lacks anything.
    ok: bool,
    servers: Vec<ServerStatus>,
    /// The folders, in ranges that are alike.
    folders: Vec<FolderStatus>,
    /// What routers think of the servers, where they were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routers: Vec<Opinion>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerStatus {
    id: String,
    url: String,
    /// Whether it answered, as the server that the map means.
    reachable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Whether it takes writes, and does not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    writable: Option<bool>,
    /// The folders it owns and those it keeps copies of, as it says itself.
    owned: String,
    standby: String,
    /// How much is in all of its folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// Folders of a pool that are alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FolderStatus {
    pool: String,
    folders: String,
    count: usize,
    primary: String,
    /// What the primary says it is to them; `unreachable` when it does not answer.
    state: String,
    /// How many files and bytes the primary has.
    files: u64,
    bytes: u64,
    copies: Vec<CopyStatus>,
    /// What is under way or wrong, in words.
    notes: Vec<String>,
}

/// A fallback of some folders.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CopyStatus {
    server: String,
    state: String,
    /// How much less it has than the primary.
    lacks_files: u64,
    lacks_bytes: u64,
    /// How many files it wrote in place of the primary and nobody has settled, and how much of that the primary lacks.
    taken_over_files: u64,
    primary_lacks_files: u64,
    primary_lacks_bytes: u64,
}

impl FolderStatus {
    /// Whether another folder can stand in the same line.
    fn is_like(&self, other: &FolderStatus) -> bool {
        let ways = |status: &FolderStatus| -> Vec<(String, String, bool, bool)> {
            let copies = status.copies.iter();
            copies
                .map(|copy| {
                    let is_taken_over = copy.taken_over_files > 0;
                    (
                        copy.server.clone(),
                        copy.state.clone(),
                        copy.lacks_bytes > 0 || copy.lacks_files > 0,
                        is_taken_over,
                    )
                })
                .collect()
        };
        self.pool == other.pool
            && self.primary == other.primary
            && self.state == other.state
            && self.notes == other.notes
            && ways(self) == ways(other)
    }

    fn add(&mut self, other: &FolderStatus) {
        self.files += other.files;
        self.bytes += other.bytes;
        for (copy, more) in self.copies.iter_mut().zip(&other.copies) {
            copy.lacks_files += more.lacks_files;
            copy.lacks_bytes += more.lacks_bytes;
            copy.taken_over_files += more.taken_over_files;
            copy.primary_lacks_files += more.primary_lacks_files;
            copy.primary_lacks_bytes += more.primary_lacks_bytes;
        }
    }

    /// Whether nothing has to be done about it.
    fn is_well(&self) -> bool {
        let is_whole = |copy: &CopyStatus| {
            copy.state == "standby" && copy.lacks_bytes == 0 && copy.lacks_files == 0 && copy.taken_over_files == 0
        };
        self.state == "owned" && self.notes.is_empty() && self.copies.iter().all(is_whole)
    }
}

/// Looks once, or again and again.
pub(crate) fn status(flags: &StatusFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    on_runtime(async {
        let hydra = Hydra::with_map(map.clone())?;
        if !flags.watch {
            let status = Status::of(&hydra, &map, flags).await?;
            status.print(flags.output)?;
            return status.verdict();
        }
        let mut signals =
            Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        let watching = async {
            loop {
                let status = Status::of(&hydra, &map, flags).await?;
                match flags.output {
                    Output::Table => {
                        // Home, and nothing below.
                        print(|out| out.write_all(b"\x1b[H\x1b[2J"))?;
                        status.print(Output::Table)?;
                    }
                    Output::Json | Output::Ndjson => print(|out| line(out, &status))?,
                }
                tokio::time::sleep(WATCH).await;
            }
        };
        tokio::select! {
            outcome = watching => outcome,
            () = signals.next() => Ok(()),
        }
    })?
}

impl Status {
    async fn of(hydra: &Hydra, map: &ClientMap, flags: &StatusFlags) -> Result<Status, Failure> {
        let (servers, each) = gather(hydra, map, !flags.quick).await;
        let mut folders: Vec<(FolderStatus, Vec<u32>)> = Vec::new();
        for (folder, status) in each {
            match folders.iter_mut().find(|(known, _)| known.is_like(&status)) {
                Some((known, numbers)) => {
                    known.add(&status);
                    numbers.push(folder.get());
                }
                None => folders.push((status, vec![folder.get()])),
            }
        }
        let named = folders.into_iter().map(|(status, numbers)| {
            let count = numbers.len();
            let folders = FolderSet::from_ranges(numbers.into_iter().map(|number| (number, number))).to_string();
            FolderStatus { folders, count, ..status }
        });
        let folders: Vec<FolderStatus> = named.collect();
        let ok = servers.iter().all(|server| server.reachable) && folders.iter().all(FolderStatus::is_well);
        let (cluster, epoch) = (map.cluster().to_owned(), map.epoch());
        let routers = ask_routers(map, &flags.router).await?;
        Ok(Status { cluster, epoch, folders_total: map.folders().get(), ok, servers, folders, routers })
    }

    fn print(&self, output: Output) -> Result<(), Failure> {
        print(|out| match output {
            Output::Table => self.table(out),
            Output::Json => pretty(out, self),
            Output::Ndjson => {
                self.servers.iter().try_for_each(|server| line(out, server))?;
                self.folders.iter().try_for_each(|folders| line(out, folders))?;
                self.routers.iter().try_for_each(|router| line(out, router))
            }
        })
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let Status { cluster, epoch, folders_total, .. } = self;
        writeln!(out, "cluster {cluster}, epoch {epoch}, {folders_total} folders, {} servers\n", self.servers.len())?;
        writeln!(out, "{:<12} {:<28} {:<9} {:<10} {:<16} COPIES", "SERVER", "URL", "STATE", "BYTES", "OWNS")?;
        for server in &self.servers {
            let state = match (server.reachable, server.writable) {
                (false, _) => "away",
                (true, Some(false)) => "draining",
                (true, _) => "up",
            };
            let bytes = server.bytes.map(bytes_of).unwrap_or_else(|| "-".to_owned());
            let (owned, standby) = (or_dash(&server.owned), or_dash(&server.standby));
            writeln!(out, "{:<12} {:<28} {state:<9} {bytes:<10} {owned:<16} {standby}", server.id, server.url)?;
            if let Some(error) = &server.error {
                writeln!(out, "{:<12} {error}", "")?;
            }
        }
        writeln!(out, "\n{:<10} {:<16} {:<12} {:<12} {:<12} COPIES", "POOL", "FOLDERS", "PRIMARY", "STATE", "BYTES")?;
        for folders in &self.folders {
            let FolderStatus { pool, folders: set, primary, state, bytes, .. } = folders;
            let copies: Vec<String> = folders.copies.iter().map(CopyStatus::text).collect();
            let copies = if copies.is_empty() { "none".to_owned() } else { copies.join("; ") };
            writeln!(out, "{pool:<10} {set:<16} {primary:<12} {state:<12} {:<12} {copies}", bytes_of(*bytes))?;
            folders.notes.iter().try_for_each(|note| writeln!(out, "{:<10} {note}", ""))?;
        }
        for router in &self.routers {
            writeln!(out)?;
            router.table(out)?;
        }
        Ok(())
    }

    /// Not well where a server is away or a folder is not as the map says; a copy that lags behind is nothing special.
    fn verdict(&self) -> Result<(), Failure> {
        let servers = self.servers.iter().filter(|server| !server.reachable).map(|server| server.id.as_str());
        let routers = self.routers.iter().filter(|router| router.error.is_some()).map(|router| router.url.as_str());
        let away: Vec<&str> = servers.chain(routers).collect();
        if away.is_empty() {
            Ok(())
        } else {
            Err(Failure::unavailable(format!("no good answer of {}", away.join(", "))))
        }
    }
}

impl CopyStatus {
    fn text(&self) -> String {
        let CopyStatus { server, state, .. } = self;
        let mut text = match state.as_str() {
            "standby" => server.clone(),
            _ => format!("{server} ({state})"),
        };
        if self.lacks_files > 0 || self.lacks_bytes > 0 {
            text.push_str(&format!(" lacks {} files, {}", self.lacks_files, bytes_of(self.lacks_bytes)));
        }
        if self.taken_over_files > 0 {
            text.push_str(&format!(
                " took over {} files, of which the primary lacks {} ({})",
                self.taken_over_files,
                self.primary_lacks_files,
                bytes_of(self.primary_lacks_bytes)
            ));
        }
        text
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
