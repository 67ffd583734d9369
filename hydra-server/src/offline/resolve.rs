//! `resolve`: where a name lives, and names that live where they are wanted.

use hydra_core::{FolderCount, SwampName, folder_of, swamp_dir};
use serde::Serialize;

use crate::Failure;
use crate::commands::{Output, ResolveFlags};
use crate::offline::print;

/// Where a name lives.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    name: String,
    hash: String,
    folder: u32,
    folders: u32,
    path: String,
}

impl Place {
    fn of(name: &SwampName, count: FolderCount) -> Place {
        let folder = folder_of(name, count);
        Place {
            name: name.to_string(),
            hash: format!("{:016x}", name.hash()),
            folder: folder.get(),
            folders: count.get(),
            path: swamp_dir(folder, name).display().to_string(),
        }
    }
}

/// Tells where a name lives, or finds names that live in some folders.
pub(crate) fn resolve(flags: &ResolveFlags) -> Result<(), Failure> {
    let count = flags.folders_total;
    let places: Vec<Place> = match (&flags.name, &flags.find, &flags.folders) {
        (Some(name), ..) => vec![Place::of(&name.parse()?, count)],
        (None, Some(prefix), Some(folders)) => {
            folders.check(count)?;
            let base: SwampName = prefix.parse()?;
            base.in_folders(folders, count).take(flags.count).map(|name| Place::of(&name, count)).collect()
        }
        _ => return Err(Failure::usage("name a swamp, or use --find PREFIX --in FOLDERS")),
    };
    print(|out| match flags.output {
        Output::Json if flags.name.is_some() => writeln!(out, "{}", serde_json::to_string_pretty(&places.first())?),
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&places)?),
        Output::Ndjson => places.iter().try_for_each(|place| Ok(writeln!(out, "{}", serde_json::to_string(place)?)?)),
        Output::Table => places.iter().try_for_each(|place| {
            writeln!(
                out,
                "{}  hash {}  folder {} of {}  {}",
                place.name, place.hash, place.folder, place.folders, place.path
            )
        }),
    })
}
