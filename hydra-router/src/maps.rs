//! `hydra-router map`: what is wrong with a client map, what it says in full, and what another one moves.

use std::io::{self, Write};

use hydra_sdk::{ClientMap, Finding, FolderMove, FolderSet, MapServer};
use serde::Serialize;

use crate::Failure;
use crate::flags::{CheckFlags, DiffFlags, Output, ShowFlags};
use crate::live;
use crate::output::{line, pretty, print};

/// The code of a server that does not answer.
const SILENT: &str = "E502";

/// A finding as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Noted {
    code: &'static str,
    /// `error` or `warning`.
    severity: &'static str,
    message: String,
    /// The server it is about, where the servers were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// The folders it is about, where the servers were asked; otherwise the message names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    folders: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

impl Noted {
    /// A finding about a server; its severity is the first letter of its code.
    pub(crate) fn about(code: &'static str, server: &MapServer, message: String) -> Noted {
        let severity = if code.starts_with('W') { "warning" } else { "error" };
        Noted { code, severity, message, server: Some(server.id.clone()), folders: None, line: None, column: None }
    }

    /// The same finding, about these folders.
    pub(crate) fn in_folders(self, folders: &FolderSet) -> Noted {
        Noted { folders: Some(folders.to_string()), ..self }
    }

    pub(crate) fn of(finding: &Finding) -> Noted {
        let (line, column) = finding.at.unzip();
        let severity = if finding.is_error() { "error" } else { "warning" };
        let message = finding.message.clone();
        Noted { code: finding.code, severity, message, server: None, folders: None, line, column }
    }

    fn is_error(&self) -> bool {
        self.severity == "error"
    }
}

/// The outcome of a check as it is printed.
#[derive(Debug, Serialize)]
struct Checked {
    map: String,
    /// Whether the map can be used: it has no errors.
    ok: bool,
    findings: Vec<Noted>,
}

/// Checks a map, and the servers too where that was asked for.
pub(crate) fn check(flags: &CheckFlags) -> Result<(), Failure> {
    let findings = match ClientMap::from_file(&flags.map) {
        Ok(map) => {
            let mut findings: Vec<Noted> = map.warnings().iter().map(Noted::of).collect();
            if flags.live {
                findings.extend(live::on_runtime(live::findings(&map))??);
            }
            findings
        }
        Err(error) => error.findings().iter().map(Noted::of).collect(),
    };
    let ok = !findings.iter().any(Noted::is_error);
    let mut checked = Checked { map: flags.map.display().to_string(), ok, findings };
    checked.findings.sort_by_key(|finding| !finding.is_error());
    print(|out| match flags.output {
        Output::Table => checked.table(out),
        Output::Json => pretty(out, &checked),
        Output::Ndjson => checked.findings.iter().try_for_each(|finding| line(out, finding)),
    })?;
    checked.verdict()
}

impl Checked {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        for finding in &self.findings {
            let at = match (finding.line, finding.column) {
                (Some(line), Some(column)) => format!(":{line}:{column}"),
                _ => String::new(),
            };
            writeln!(out, "{}  {}{at}: {}", finding.code, self.map, finding.message)?;
        }
        let verdict = match self.ok {
            true => "can be used",
            false if self.is_only_silence() => "was not compared with every server",
            false => "is refused",
        };
        let errors = self.errors().count();
        let (found, noted) = (counted(errors, "error"), counted(self.findings.len() - errors, "warning"));
        writeln!(out, "{} {verdict}: {found}, {noted}", self.map)
    }

    fn errors(&self) -> impl Iterator<Item = &Noted> {
        self.findings.iter().filter(|finding| finding.is_error())
    }

    /// Whether the only errors are servers that do not answer, which says nothing about the map.
    fn is_only_silence(&self) -> bool {
        self.errors().all(|finding| finding.code == SILENT)
    }

    fn verdict(&self) -> Result<(), Failure> {
        let errors = self.errors().count();
        if self.ok {
            Ok(())
        } else if self.is_only_silence() {
            let servers = counted(errors, "server");
            Err(Failure::unavailable(format!("{servers} did not answer, and could not be compared with the map")))
        } else {
            Err(Failure::usage(format!("{} has {}", self.map, counted(errors, "error"))))
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints a map with every default written out.
pub(crate) fn show(flags: &ShowFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    print(|out| out.write_all(map.to_toml().as_bytes()))
}

/// What another map changes, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    /// Whether the new map may take the place of the old one while clients run.
    ok: bool,
    old_epoch: u64,
    new_epoch: u64,
    /// Servers that only the new map lists.
    added: Vec<String>,
    /// Servers that only the old map lists.
    removed: Vec<String>,
    moves: Vec<Moved>,
    findings: Vec<Noted>,
}

/// Folders that another map gives to another server.
#[derive(Debug, Serialize)]
struct Moved {
    pool: String,
    folders: String,
    /// How many folders that are.
    count: usize,
    from: String,
    to: String,
    /// The names it is about, where their pool changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<String>,
}

/// Tells what a new map moves, and whether it may take the place of the old one.
pub(crate) fn diff(flags: &DiffFlags) -> Result<(), Failure> {
    let (old, new) = (ClientMap::from_file(&flags.old)?, ClientMap::from_file(&flags.new)?);
    let mut difference = Difference::between(&old, &new);
    if flags.live && !flags.accept_moves {
        let still_owned = live::on_runtime(live::still_owned(&old, &old.moves_to(&new)))??;
        difference.findings.extend(still_owned);
    }
    difference.ok = !difference.findings.iter().any(Noted::is_error);
    print(|out| match flags.output {
        Output::Table => difference.table(out),
        Output::Json => pretty(out, &difference),
        Output::Ndjson => difference.moves.iter().try_for_each(|moved| line(out, moved)),
    })?;
    match difference.findings.iter().filter(|finding| finding.is_error()).count() {
        0 => Ok(()),
        errors => {
            Err(Failure::usage(format!("{} cannot take the place: {}", flags.new.display(), counted(errors, "error"))))
        }
    }
}

impl Difference {
    fn between(old: &ClientMap, new: &ClientMap) -> Difference {
        let only_in = |one: &ClientMap, other: &ClientMap| {
            let missing = one.servers().iter().filter(|server| other.server(&server.id).is_none());
            missing.map(|server| server.id.clone()).collect()
        };
        let refused = old.check_successor(new).err();
        let findings = refused.iter().flat_map(|error| error.findings()).map(Noted::of).collect();
        Difference {
            ok: true,
            old_epoch: old.epoch(),
            new_epoch: new.epoch(),
            added: only_in(new, old),
            removed: only_in(old, new),
            moves: old.moves_to(new).into_iter().map(Moved::of).collect(),
            findings,
        }
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "epoch    {} to {}", self.old_epoch, self.new_epoch)?;
        for (what, servers) in [("added", &self.added), ("removed", &self.removed)] {
            if !servers.is_empty() {
                writeln!(out, "{what:<8} {}", servers.join(", "))?;
            }
        }
        for Moved { pool, folders, count, from, to, names } in &self.moves {
            let names = names.as_ref().map(|names| format!(", names {names}")).unwrap_or_default();
            let counted = counted(*count, "folder");
            writeln!(out, "moves    {from} to {to}: {folders} of pool {pool}{names} ({counted})")?;
        }
        if self.moves.is_empty() {
            writeln!(out, "moves    nothing")?;
        }
        self.findings.iter().try_for_each(|finding| writeln!(out, "{}  {}", finding.code, finding.message))
    }
}

impl Moved {
    fn of(moved: FolderMove) -> Moved {
        Moved {
            count: moved.folders.len(),
            folders: moved.folders.to_string(),
            pool: moved.pool,
            from: moved.from,
            to: moved.to,
            names: moved.names.map(|names| names.to_string()),
        }
    }
}
