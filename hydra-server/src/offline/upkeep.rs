//! `compact` and `gc`: what a server does by itself, done while none is at work.

use std::io::{self, Write};

use hydra_core::wire::{CollectedBody, CompactedBody};
use hydra_core::{Engine, EngineOptions, FolderId, FolderSet};

use crate::Failure;
use crate::commands::UpkeepFlags;
use crate::offline::{bar, check_directory, in_use, report};

/// Opens the engine on a directory that exists.
///
/// Whether other machines hold copies is known to the server's flags only, so it is assumed: deletes keep
/// their marks then, and nothing that was deleted comes back.
pub(crate) fn open(
    data: &std::path::Path,
    id: Option<&str>,
    set: impl FnOnce(&mut EngineOptions),
) -> hydra_core::Result<Engine> {
    let mut options = EngineOptions::new(data);
    options.server_id = id.map(str::to_owned);
    options.copied = true;
    options.sweep = std::time::Duration::ZERO;
    set(&mut options);
    Engine::open(options)
}

/// A directory that no server has used would get an identity here that its server may not want.
pub(crate) fn check_used(data: &std::path::Path, id: Option<&str>) -> Result<(), Failure> {
    check_directory(data)?;
    if !data.join("HYDRA").is_file() {
        return Err(Failure::not_found(format!("{} is no data directory: it has no file HYDRA", data.display())));
    }
    if id.is_none() && !data.join(".hydra/server.toml").is_file() {
        return Err(Failure::usage(format!("no server has used {} yet: give its id with --id", data.display())));
    }
    Ok(())
}

fn on_each_folder(
    flags: &UpkeepFlags,
    request: &str,
    mut each: impl FnMut(&Engine, FolderId) -> hydra_core::Result<()>,
) -> Result<(), Failure> {
    check_used(&flags.data, flags.id.as_deref())?;
    let engine = open(&flags.data, flags.id.as_deref(), |options| {
        options.copied = !flags.not_copied;
        options.gc_delay = flags.gc_delay;
    });
    let engine = engine.map_err(|error| in_use(error, request))?;
    let folders: FolderSet = flags.folder.clone().unwrap_or_else(|| engine.folder_count().all());
    folders.check(engine.folder_count())?;
    let bar = bar(folders.len() as u64, "folders");
    let outcome = folders.iter().try_for_each(|folder| {
        bar.inc(1);
        each(&engine, folder)
    });
    bar.finish_and_clear();
    outcome.and(engine.close())?;
    Ok(())
}

/// Writes one snapshot of every swamp that gains by it.
pub(crate) fn compact(flags: &UpkeepFlags) -> Result<(), Failure> {
    let mut total = CompactedBody::default();
    on_each_folder(flags, "POST /v1/folders/{F}/compact", |engine, folder| {
        total += engine.compact(folder)?;
        Ok(())
    })?;
    report(flags.output, &total, &[], |out| {
        let CompactedBody { swamps, files_before, files_after, bytes_before, bytes_after } = &total;
        writeln!(
            out,
            "{swamps} swamps compacted: {files_before} files of {bytes_before} bytes, now {files_after} of {bytes_after}"
        )?;
        hint(out, *swamps > 0, "what the snapshots supersede goes when `gc` is run after the collection delay")
    })
}

/// Removes what snapshots supersede, and what crashes left behind.
pub(crate) fn gc(flags: &UpkeepFlags) -> Result<(), Failure> {
    let mut total = CollectedBody::default();
    on_each_folder(flags, "POST /v1/folders/{F}/gc", |engine, folder| {
        total += engine.collect(folder)?;
        Ok(())
    })?;
    report(flags.output, &total, &[], |out| {
        let CollectedBody { swamps, files_removed, bytes_removed } = &total;
        writeln!(out, "{files_removed} files of {bytes_removed} bytes removed in {swamps} swamps")
    })
}

fn hint(out: &mut dyn Write, show: bool, text: &str) -> io::Result<()> {
    if show { writeln!(out, "{text}") } else { Ok(()) }
}
