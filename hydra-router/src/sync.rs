//! `hydra-router sync`: copies what one server wrote to another one, with rsync, once or again and again.
//!
//! A pass checks that both directories are those of the map, notes on both servers that the folders are
//! copied, runs rsync, and with `--settle` lets the folders return that the source took over for the
//! receiver. Where writes came meanwhile, and always come, they wait while rsync runs once more. What was checked and
//! noted once is not checked again until a pass fails.

mod place;
mod rsync;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hydra_core::wire::{ProbeBody, Problem};
use hydra_core::{Engine, EngineOptions};
use hydra_sdk::{ClientMap, FolderId, FolderSet, ForwardRequest, Hydra, MapServer, OpClass, Settlement};
use serde::Serialize;

use crate::Failure;
use crate::flags::{Output, SyncFlags};
use crate::live::{ask, on_runtime};
use crate::output::{line, pretty, print};
use crate::serving::Signals;
use place::Place;
use rsync::Rsync;

/// The longest that writes wait for a copy, so that a folder can return. A copy that takes longer than this finds none.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What one pass did, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    from: String,
    to: String,
    folders: String,
    /// The command that was run, as a shell takes it.
    command: String,
    dry_run: bool,
    /// Files that are new or grew.
    files: u64,
    /// Bytes of them that were sent; with a dry run how long the files are.
    bytes: u64,
    ms: u64,
    /// Files went while they were copied, twice; the next pass finds what took their place.
    vanished: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    takeovers: Vec<Takeover>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A folder that the source took over for the receiver.
#[derive(Debug, Serialize)]
struct Takeover {
    folder: FolderId,
    /// Files that the source wrote to in place of the receiver.
    files: usize,
    /// How many of them the receiver lacks.
    missing: usize,
    settled: bool,
}

/// A sync from one server to another, before and between its passes.
struct Job<'m> {
    map: &'m ClientMap,
    hydra: Hydra,
    from: (&'m MapServer, Place),
    to: (&'m MapServer, Place),
    folders: FolderSet,
    rsync: Rsync,
    is_dry: bool,
    settles: FolderSet,
    /// Both places are known to be right, and the folders to be noted as copied.
    is_prepared: bool,
    warnings: Vec<String>,
}

/// Runs `hydra-router sync`.
pub(crate) fn sync(flags: &SyncFlags) -> Result<(), Failure> {
    if flags.every.is_some_and(|every| every < Duration::from_millis(100)) {
        return Err(Failure::usage("--every is shorter than 100ms"));
    }
    let map = ClientMap::from_file(&flags.map)?;
    on_runtime(async {
        let mut job = Job::new(&map, flags)?;
        let mut signals =
            Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        // A copy that is given up leaves beginnings of files, which the next one continues.
        tokio::select! {
            outcome = job.run(flags) => outcome,
            () = signals.next() => interrupted(flags),
        }
    })?
}

/// A signal is how syncing again and again ends; a single sync it leaves undone.
fn interrupted(flags: &SyncFlags) -> Result<(), Failure> {
    match flags.every {
        Some(_) => Ok(()),
        None => Err(Failure::failed("interrupted; what was copied stays, run it again for the rest")),
    }
}

impl<'m> Job<'m> {
    fn new(map: &'m ClientMap, flags: &SyncFlags) -> Result<Job<'m>, Failure> {
        let from = endpoint(map, "--from", flags.from(), flags.from_dir.as_deref())?;
        let to = endpoint(map, "--to", &flags.to, flags.to_dir.as_deref())?;
        if from.0.id == to.0.id {
            return Err(Failure::usage(format!("--from and --to are the same server {:?}", flags.from())));
        }
        if from.1.is_remote() && to.1.is_remote() {
            return Err(Failure::usage(format!(
                "{} and {} are both on other machines, and rsync copies from or to this one: run this on the machine \
                 of {} and say where its directory is there with --to-dir",
                from.1, to.1, to.0.id
            )));
        }
        let folders = folders(map, from.0, to.0, flags.folders.as_ref())?;
        let settles = if flags.settle { taken_over(map, from.0, to.0, &folders)? } else { FolderSet::new() };
        let partly = (folders != map.folders().all()).then_some(&folders);
        let writer = (!flags.all_writers).then_some(from.0.id.as_str());
        let shows_progress = flags.output == Output::Table && io::stderr().is_terminal();
        let rsync = Rsync::new(&from.1, &to.1, writer, partly, flags.dry_run, shows_progress);
        let hydra = Hydra::with_map(map.clone())?;
        Ok(Job {
            map,
            hydra,
            from,
            to,
            folders,
            rsync,
            is_dry: flags.dry_run,
            settles,
            is_prepared: false,
            warnings: Vec::new(),
        })
    }

    /// One pass, or one after the other until a signal comes.
    async fn run(&mut self, flags: &SyncFlags) -> Result<(), Failure> {
        if flags.output == Output::Table {
            print(|out| writeln!(out, "{}", self.rsync))?;
        }
        let Some(every) = flags.every else {
            let report = self.pass().await?;
            report.print(flags.output, false)?;
            return report.verdict();
        };
        loop {
            match self.pass().await {
                Ok(report) => report.print(flags.output, true)?,
                Err(failure) => {
                    self.is_prepared = false;
                    eprintln!("hydra-router: {}; trying again in {every:?}", failure.message);
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    async fn pass(&mut self) -> Result<Report, Failure> {
        if !self.is_prepared {
            self.prepare().await?;
        }
        let begun = Instant::now();
        let copied = self.rsync.run().await?;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Report {
            from: self.from.0.id.clone(),
            to: self.to.0.id.clone(),
            folders: self.folders.to_string(),
            command: self.rsync.to_string(),
            dry_run: self.is_dry,
            files: copied.files,
            bytes: copied.bytes,
            ms,
            vanished: copied.vanished,
            takeovers: self.settle(begun.elapsed()).await?,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// Makes sure that nothing is copied from or to somewhere else, and that both servers know of it.
    async fn prepare(&mut self) -> Result<(), Failure> {
        for (server, place) in [&self.from, &self.to] {
            place.check(server, self.map).await?;
        }
        if !self.is_dry {
            for (server, place) in [&self.from, &self.to] {
                self.warnings.extend(self.mark_copied(server, place).await?);
            }
        }
        self.is_prepared = true;
        Ok(())
    }

    /// Notes at a server that the folders are copied: over HTTP, or in the directory of one that does
    /// not run. Answers a warning where neither can be done.
    async fn mark_copied(&self, server: &MapServer, place: &Place) -> Result<Option<String>, Failure> {
        match ask::<ProbeBody>(&self.hydra, &server.id, "/v1/probe").await {
            Ok(probe) if probe.server == server.id => self.tell_copied(server).await.map(|()| None),
            Ok(probe) => {
                let (id, url) = (&server.id, &server.url);
                Err(Failure::failed(format!("the server at {url} is {:?}, the map says {id:?}", probe.server)))
            }
            Err(_) if place.is_remote() => Ok(Some(format!(
                "{} does not answer, so it could not be told that its folders are copied; start it with --copied",
                server.id
            ))),
            Err(_) => note_copied(server, place, &self.folders).map(|()| None),
        }
    }

    async fn tell_copied(&self, server: &MapServer) -> Result<(), Failure> {
        let mut request = ForwardRequest::new(OpClass::Read, "POST", format!("/v1/folders/{}/copied", self.folders));
        request.deadline = Some(Duration::from_secs(5));
        let answer = self.hydra.forward_to(&server.id, request).await?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        let status = answer.status;
        let body = answer.body.collect().await.unwrap_or_default();
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let why = problem.map_or_else(|| format!("answered {status}"), |problem| problem.detail);
        Err(Failure::failed(format!("{} could not be told that its folders are copied: {why}", server.id)))
    }

    /// Lets the folders return whose take-over the receiver has everything of. `took` is how long the copy took.
    async fn settle(&self, took: Duration) -> Result<Vec<Takeover>, Failure> {
        let mut takeovers = Vec::new();
        for folder in self.settles.iter().filter(|_| !self.is_dry) {
            let found = self.hydra.settle(folder, &self.to.0.id, &self.from.0.id).await?;
            if found.files > 0 {
                takeovers.push(Takeover::new(folder, &found));
            }
        }
        // What is left now came while rsync ran. It is not much, so the next run is shorter.
        if takeovers.iter().any(|takeover| !takeover.settled) && took < LONGEST_PAUSE {
            self.settle_paused(&mut takeovers).await?;
        }
        Ok(takeovers)
    }

    /// Copies once more while the writes wait that came into the way, and settles.
    async fn settle_paused(&self, takeovers: &mut [Takeover]) -> Result<(), Failure> {
        let mut returning = Vec::new();
        for takeover in takeovers.iter_mut().filter(|takeover| !takeover.settled) {
            let (to, from) = (&self.to.0.id, &self.from.0.id);
            if let Some(begun) = self.hydra.begin_return(takeover.folder, to, from, LONGEST_PAUSE).await? {
                returning.push((takeover, begun));
            }
        }
        if returning.is_empty() {
            return Ok(());
        }
        let copied = self.rsync.run().await;
        for (takeover, begun) in returning {
            let found = self.hydra.finish_return(begun).await?;
            *takeover = Takeover::new(takeover.folder, &found);
        }
        copied.map(drop)
    }
}

/// A server of the map, and where its directory is.
fn endpoint<'m>(
    map: &'m ClientMap,
    flag: &str,
    id: &str,
    dir: Option<&str>,
) -> Result<(&'m MapServer, Place), Failure> {
    let server = map.server(id).ok_or_else(|| Failure::usage(format!("{flag}: the map has no server {id:?}")))?;
    let text = dir.or(server.sync.as_deref()).ok_or_else(|| {
        Failure::usage(format!(
            "{flag}: the map does not say where the directory of {id} is; add sync = \"user@host:/path\" to \
             [servers.{id}], or give {flag}-dir"
        ))
    })?;
    Ok((server, text.parse().map_err(Failure::usage)?))
}

/// The folders to copy: those asked for, or all that the two servers share by the map.
fn folders(
    map: &ClientMap,
    from: &MapServer,
    to: &MapServer,
    wanted: Option<&FolderSet>,
) -> Result<FolderSet, Failure> {
    if let Some(wanted) = wanted {
        wanted.check(map.folders()).map_err(|error| Failure::usage(format!("--folders: {}", error.detail())))?;
        return Ok(wanted.clone());
    }
    let shared = routes(map).filter(|(_, servers)| [from, to].iter().all(|end| servers.contains(&end.id.as_str())));
    let shared: FolderSet = shared.flat_map(|(folders, _)| folders.iter()).collect();
    if shared.is_empty() {
        let (from, to) = (&from.id, &to.id);
        return Err(Failure::usage(format!("no route of the map names both {from} and {to}; say which --folders")));
    }
    Ok(shared)
}

/// The folders that `from` may have taken over for `to`.
fn taken_over(map: &ClientMap, from: &MapServer, to: &MapServer, of: &FolderSet) -> Result<FolderSet, Failure> {
    let stands_in = |servers: &[&str]| servers[0] == to.id && servers[1..].contains(&from.id.as_str());
    let routes = routes(map).filter(|(_, servers)| stands_in(servers));
    let folders: FolderSet =
        routes.flat_map(|(folders, _)| folders.iter()).filter(|&folder| of.contains(folder)).collect();
    if folders.is_empty() {
        let (from, to) = (&from.id, &to.id);
        return Err(Failure::usage(format!(
            "--settle: by the map {from} is a fallback of {to} in none of the folders"
        )));
    }
    Ok(folders)
}

/// Every route of every pool: its folders, and its servers with the primary first.
fn routes(map: &ClientMap) -> impl Iterator<Item = (&FolderSet, Vec<&str>)> {
    map.pools().flat_map(|pool| map.routes(pool)).map(|(folders, primary, fallbacks)| {
        let servers = std::iter::once(primary).chain(fallbacks).map(|server| server.id.as_str()).collect();
        (folders, servers)
    })
}

/// Notes in the directory of a server that does not run that its folders are copied.
fn note_copied(server: &MapServer, place: &Place, folders: &FolderSet) -> Result<(), Failure> {
    let failed = |error: hydra_core::Error| {
        Failure::failed(format!(
            "{} does not answer at {}, and {place} could not be told that its folders are copied: {}",
            server.id,
            server.url,
            error.detail()
        ))
    };
    let engine = Engine::open(EngineOptions::new(place.path())).map_err(failed)?;
    let marked = engine.mark_copied(folders);
    engine.close().and(marked).map_err(failed)
}

impl Report {
    fn print(&self, output: Output, is_repeated: bool) -> Result<(), Failure> {
        print(|out| match output {
            Output::Table => self.table(out, is_repeated),
            Output::Json if !is_repeated => pretty(out, self),
            Output::Json | Output::Ndjson => line(out, self),
        })
    }

    /// A line for what was copied, and one for each folder taken over. Again and again, nothing new is no line.
    fn table(&self, out: &mut dyn Write, is_repeated: bool) -> io::Result<()> {
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        if self.files > 0 || !is_repeated {
            let (done, took) = if self.dry_run { ("would be copied", "") } else { ("copied", " in ") };
            let took = if self.dry_run { took.to_owned() } else { format!("{took}{:.1} s", self.ms as f64 / 1000.0) };
            let files = counted(self.files, "file");
            writeln!(out, "{} -> {}: {files}, {} {done}{took}", self.from, self.to, counted(self.bytes, "byte"))?;
        }
        if self.vanished {
            writeln!(out, "files went while they were copied; the next run finds what took their place")?;
        }
        self.takeovers.iter().try_for_each(|takeover| takeover.row(out))
    }

    /// Not well if a folder could not be settled.
    fn verdict(&self) -> Result<(), Failure> {
        let open = self.takeovers.iter().filter(|takeover| !takeover.settled).count();
        match open {
            0 => Ok(()),
            _ => {
                let folders = counted(open as u64, "folder");
                Err(Failure::failed(format!("{folders} could not be settled; run it again, or let --every do so")))
            }
        }
    }
}

impl Takeover {
    fn new(folder: FolderId, found: &Settlement) -> Takeover {
        Takeover { folder, files: found.files, missing: found.missing, settled: found.settled }
    }

    fn row(&self, out: &mut dyn Write) -> io::Result<()> {
        let outcome = match (self.settled, self.missing) {
            (true, _) => "settled".to_owned(),
            (false, 0) => "not settled, because a write came meanwhile".to_owned(),
            (false, missing) => format!("not settled, {} still missing", counted(missing as u64, "file")),
        };
        writeln!(out, "folder {}: {} taken over, {outcome}", self.folder, counted(self.files as u64, "file"))
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
