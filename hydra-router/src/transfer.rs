//! `hydra-router scan`, `export` and `import`: all servers of a map as one data set, from the command line.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hydra_core::wire::{ImportDoneBody, ListedSwampBody, SwampsBody};
use hydra_core::{Expired, Pattern, SwampName, SwampsQuery};
use hydra_router::{Across, Export, Import, ImportParts, Listing};
use hydra_sdk::Hydra;

use crate::Failure;
use crate::flags::{ExportFlags, ImportFlags, Output, ScanFlags};
use crate::live::on_runtime;
use crate::output::{bytes_of, line, pretty, print};

/// As much of a file is read at once.
const PIECE: usize = 256 << 10;
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

/// Lists the swamps that match a pattern, or their treasures.
pub(crate) fn scan(flags: &ScanFlags) -> Result<(), Failure> {
    on_runtime(async {
        let across = connect(&flags.map)?;
        let query = query_of(&flags.pattern, flags.cursor.clone(), flags.info);
        let mut listing = Listing::new(across.clone(), query)?;
        let mut found = Vec::new();
        let mut count = 0;
        let mut has_more = true;
        while count < flags.limit.unwrap_or(u64::MAX) {
            let Some(listed) = listing.try_next().await? else {
                has_more = false;
                break;
            };
            let name: SwampName = listed.name.parse()?;
            if !flags.pattern.matches(&name) {
                continue;
            }
            count += 1;
            if flags.treasures {
                let pattern: Pattern = listed.name.parse()?;
                let folder = [listed.folder].into_iter().collect();
                copy_out(Export::new(across.clone(), &pattern, Some(&folder), Expired::Hidden)?, &mut io::stdout())
                    .await?;
            } else if flags.output == Output::Json {
                found.push(listed);
            } else {
                print(|out| row(out, &listed, flags.output))?;
            }
        }
        let next_cursor = listing.cursor().filter(|_| has_more);
        if let Some(cursor) = &next_cursor {
            eprintln!("there may be more: --cursor {cursor}");
        }
        match flags.output {
            Output::Json if !flags.treasures => print(|out| pretty(out, &SwampsBody { swamps: found, next_cursor })),
            _ => Ok(()),
        }
    })?
}

fn row(out: &mut dyn Write, listed: &ListedSwampBody, output: Output) -> io::Result<()> {
    let (Some(files), Some(bytes)) = (listed.files, listed.bytes) else {
        return if output == Output::Table { writeln!(out, "{}", listed.name) } else { line(out, listed) };
    };
    match output {
        Output::Table => {
            writeln!(out, "{:>5}  {files:>4} files  {:>10}  {}", listed.folder, bytes_of(bytes), listed.name)
        }
        Output::Json | Output::Ndjson => line(out, listed),
    }
}

/// What is known of the names that match a pattern before any is seen.
fn query_of(pattern: &Pattern, cursor: Option<String>, info: bool) -> SwampsQuery {
    let text = pattern.to_string();
    let parts: Vec<&str> = text.split('/').collect();
    let exact = |at: usize| parts.get(at).filter(|part| !part.ends_with('*')).map(|part| (*part).to_owned());
    let begun = |at: usize| parts.get(at).map(|part| part.trim_end_matches('*').to_owned());
    let sanctuary = exact(0);
    let realm = exact(1).filter(|_| sanctuary.is_some());
    let at = usize::from(sanctuary.is_some()) + usize::from(realm.is_some());
    SwampsQuery {
        sanctuary,
        realm,
        prefix: begun(at).filter(|prefix| !prefix.is_empty()),
        cursor,
        info,
        limit: usize::MAX,
        ..SwampsQuery::default()
    }
}

/// Writes the treasures of the swamps that match a pattern.
pub(crate) fn export(flags: &ExportFlags) -> Result<(), Failure> {
    on_runtime(async {
        let across = connect(&flags.map)?;
        let expired = if flags.expired { Expired::Included } else { Expired::Hidden };
        let export = Export::new(across, &flags.pattern, flags.folders.as_ref(), expired)?;
        match &flags.to {
            None => copy_out(export, &mut io::stdout()).await,
            Some(path) => {
                let failed = |error: io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
                let mut file = File::create_new(path).map_err(failed)?;
                copy_out(export, &mut file).await?;
                file.sync_all().map_err(failed)
            }
        }
    })?
}

/// Writes an export. What could not be had is said on stderr; the rest is written, and the whole has failed.
async fn copy_out(mut export: Export, out: &mut dyn Write) -> Result<(), Failure> {
    let mut failures = 0_u64;
    while let Some(piece) = export.next().await {
        match piece {
            Ok(lines) => match out.write_all(&lines) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|error| Failure::failed(format!("cannot write: {error}")))?,
            },
            Err(error) => {
                eprintln!("hydra-router: {error}");
                failures += 1;
            }
        }
    }
    match failures {
        0 => Ok(()),
        _ => Err(Failure::failed("the export is not whole; what could not be read is said above")),
    }
}

/// Sends the lines of a file to the servers of their swamps.
pub(crate) fn import(flags: &ImportFlags) -> Result<(), Failure> {
    let mut source: Box<dyn Read> = match flags.file.as_os_str().to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => {
            let file = File::open(&flags.file);
            Box::new(file.map_err(|error| Failure::usage(format!("cannot read {}: {error}", flags.file.display())))?)
        }
    };
    let done = on_runtime(async {
        let mut import = Import::new(connect(&flags.map)?, flags.mode.0, flags.sync);
        let outcome = send_all(&mut import, source.as_mut(), &flags.file).await;
        Ok::<_, Failure>((import.done().clone(), outcome))
    })??;
    let (done, outcome) = done;
    print(|out| match flags.output {
        Output::Table => table(out, &done),
        Output::Json => pretty(out, &done),
        Output::Ndjson => line(out, &done),
    })?;
    outcome?;
    if done.failed > 0 { Err(Failure::failed(format!("{} lines could not be written", done.failed))) } else { Ok(()) }
}

async fn send_all(import: &mut Import, source: &mut dyn Read, path: &Path) -> Result<(), Failure> {
    let shows_progress = io::stderr().is_terminal();
    let (mut parts, mut piece) = (ImportParts::default(), vec![0; PIECE]);
    let mut told = Instant::now();
    loop {
        let count = source
            .read(&mut piece)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
        if count == 0 {
            parts.end();
        } else {
            parts.push(&piece[..count]);
        }
        while parts.is_full() || (count == 0 && !parts.is_empty()) {
            import.send(parts.take()).await.map_err(|error| {
                let line = import.done().lines + 1;
                Failure::failed(format!("the import ended at line {line}: {error}"))
            })?;
            if shows_progress && told.elapsed() >= PROGRESS {
                told = Instant::now();
                eprint!("\r{} lines, {} written", import.done().lines, import.done().written);
            }
        }
        if count == 0 {
            if shows_progress {
                eprintln!();
            }
            return Ok(());
        }
    }
}

fn table(out: &mut dyn Write, done: &ImportDoneBody) -> io::Result<()> {
    for error in &done.errors {
        writeln!(out, "line {}: {} ({})", error.line, error.detail, error.code)?;
    }
    let ImportDoneBody { lines, written, skipped, failed, durable, .. } = done;
    writeln!(out, "{lines} lines: {written} written ({durable}), {skipped} skipped, {failed} failed")
}

fn connect(map: &Path) -> Result<Across, Failure> {
    let map = hydra_sdk::ClientMap::from_file(map)?;
    Ok(Across::new(Hydra::with_map(map)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_narrows_what_is_listed() {
        let of = |pattern: &str| {
            let query = query_of(&pattern.parse().expect(pattern), None, false);
            (query.sanctuary, query.realm, query.prefix)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("*/*/*"), (None, None, None));
        assert_eq!(of("us*/a/*"), (None, None, some("us")));
        assert_eq!(of("users/*/al*"), (some("users"), None, None));
        assert_eq!(of("users/pro*/x"), (some("users"), None, some("pro")));
        assert_eq!(of("users/profiles/al*"), (some("users"), some("profiles"), some("al")));
        assert_eq!(of("users/profiles/alice"), (some("users"), some("profiles"), some("alice")));
    }
}
