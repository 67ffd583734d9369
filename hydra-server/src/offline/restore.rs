//! `restore`: the values of another data directory, written as new ones.

use std::io::{self, Write};

use hydra_core::inspect::{self, RestoreOptions, Restored};

use crate::Failure;
use crate::commands::RestoreFlags;
use crate::offline::upkeep::{check_used, open};
use crate::offline::{check_directory, confirm, in_use, report, spinner};

/// Makes swamps what they are in another directory; fails when some were skipped.
pub(crate) fn restore(flags: &RestoreFlags) -> Result<(), Failure> {
    check_directory(&flags.from)?;
    check_used(&flags.data, flags.id.as_deref())?;
    if !flags.dry_run && !flags.only_missing {
        confirm(flags.yes, &danger(flags), "yes")?;
    }
    let engine = open(&flags.data, flags.id.as_deref(), |_| ());
    let engine = engine.map_err(|error| in_use(error, "PUT /v1/kv/{SWAMP}/{KEY} for what is to be restored"))?;
    let bar = spinner("swamps read");
    let outcome = inspect::restore(&engine, &options(flags), &mut |swamps| bar.set_position(swamps));
    bar.finish_and_clear();
    let restored = outcome.and_then(|restored| engine.close().map(|()| restored))?;
    report(flags.output, &restored, &[("skipped", "skipped")], |out| table(out, &restored, flags))?;
    if restored.swamps == 0 && flags.swamp.is_some() {
        return Err(Failure::not_found("no swamp of that name or pattern is in the directory that was read"));
    }
    match restored.skipped.len() {
        0 => Ok(()),
        skipped => Err(Failure::failed(format!("{skipped} swamps or keys were skipped"))),
    }
}

fn options(flags: &RestoreFlags) -> RestoreOptions {
    let mut options = RestoreOptions::from_dir(&flags.from);
    options.swamps.clone_from(&flags.swamp);
    options.folders.clone_from(&flags.folder);
    options.only_missing = flags.only_missing;
    options.delete_absent_swamps = flags.delete_absent_swamps;
    options.even_incomplete = flags.even_incomplete;
    options.any_cluster = flags.any_cluster;
    options.dry_run = flags.dry_run;
    options
}

fn danger(flags: &RestoreFlags) -> String {
    let which =
        flags.swamp.as_ref().map_or("every swamp".to_owned(), |pattern| format!("every swamp that matches {pattern}"));
    let others = if flags.delete_absent_swamps {
        "Swamps that are not there are emptied."
    } else {
        "Swamps that are not there stay."
    };
    format!(
        "{which} of {} becomes exactly what it is in {}: newer values are overwritten, keys that are not there are deleted. {others}",
        flags.data.display(),
        flags.from.display()
    )
}

fn table(out: &mut dyn Write, restored: &Restored, flags: &RestoreFlags) -> io::Result<()> {
    for skipped in &restored.skipped {
        let key = skipped.key.as_ref().map_or(String::new(), |key| format!(" key {key:?}"));
        writeln!(out, "SKIPPED  {}{key}: {}", skipped.swamp, skipped.problem)?;
    }
    let Restored { swamps, changed, written, deleted, unchanged, bytes, absent_swamps, .. } = restored;
    let would = if flags.dry_run { "would be " } else { "" };
    writeln!(out, "{swamps} swamps read, {changed} {would}changed")?;
    writeln!(
        out,
        "{written} values of {bytes} bytes {would}written, {deleted} keys {would}deleted, {unchanged} were the same"
    )?;
    if *absent_swamps > 0 {
        let what = match flags.delete_absent_swamps {
            true => format!("{would}emptied"),
            false => "left alone; --delete-absent-swamps empties them".to_owned(),
        };
        writeln!(out, "{absent_swamps} swamps are here and not there: {what}")?;
    }
    Ok(())
}
