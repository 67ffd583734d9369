//! Two servers, then four, and no name changes its folder.
//!
//! The number of folders is chosen once: 100. A name's folder is XXH64 of the name, modulo 100, for
//! ever. Servers own ranges of folders; a client map of a few lines says which. To grow, directories
//! of folders are copied to new machines and the map gets other ranges. Nothing is rehashed.
//!
//! Run it: `cargo run -p examples --bin two_servers`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use examples::{ServerProcess, ServerSetup, Story, count_swamps, fmt_count, move_folder, tell};
use hydra_sdk::{ClientMap, Hydra, Swamp, SwampName};

const NAMES: usize = 2_000;
/// Who owns which folders, before and after.
const TWO: [(&str, &str); 2] = [("s1", "0-49"), ("s2", "50-99")];
const FOUR: [(&str, &str); 4] = [("s1", "0-24"), ("s3", "25-49"), ("s2", "50-74"), ("s4", "75-99")];

fn main() -> ExitCode {
    tell("Two servers, then four: the names stay where their hash puts them", story)
}

async fn story(mut story: Story) -> Result<()> {
    let temp = tempfile::tempdir()?;
    let data = |id: &str| temp.path().join(id);

    story.step("Two servers share 100 folders");
    let two = start(&TWO, data, &story).await?;
    let hydra = Hydra::with_map(map_of(&two, &TWO, 1)?)?;

    story.step(format!("{} names, a value in each", fmt_count(NAMES)));
    let names = names()?;
    write(&hydra, &names).await?;
    let before = folders(&hydra, &names)?;
    story.say(format!("e.g. {} lives in folder {}", names[0], before[&names[0]]));
    check_counts(&two, &TWO, &before, &story).await?;

    story.step("Both stop. Folders 25-49 move to a new server s3, 75-99 to s4: directories are copied");
    for server in two {
        server.terminate().await?;
    }
    for folder in 25..=49 {
        move_folder(folder, &data("s1"), &data("s3"))?;
    }
    for folder in 75..=99 {
        move_folder(folder, &data("s2"), &data("s4"))?;
    }

    story.step("Four servers, and a map with four lines");
    let four = start(&FOUR, data, &story).await?;
    hydra.set_map(map_of(&four, &FOUR, 2)?)?;
    let after = folders(&hydra, &names)?;
    ensure!(before == after, "a name changed its folder");
    story.say(format!("all {} names have the folder they had", fmt_count(after.len())));
    read(&hydra, &names).await?;
    story.say(format!("all {} values are there, read through the new map by the same client", fmt_count(names.len())));
    check_counts(&four, &FOUR, &after, &story).await?;
    for server in four {
        server.terminate().await?;
    }
    Ok(())
}

async fn start(owners: &[(&str, &str)], data: impl Fn(&str) -> PathBuf, story: &Story) -> Result<Vec<ServerProcess>> {
    let mut servers = Vec::new();
    for (id, folders) in owners {
        let server = ServerProcess::start(ServerSetup::new(*id, data(id)).folders(folders)).await?;
        story.say(format!("hydra-server {:<22} {}", server.flags(), server.url()));
        servers.push(server);
    }
    Ok(servers)
}

fn map_of(servers: &[ServerProcess], owners: &[(&str, &str)], epoch: u64) -> Result<ClientMap> {
    let map = ClientMap::builder().folders(100).epoch(epoch);
    let map = servers.iter().fold(map, |map, server| map.server(server.id(), server.url()));
    let map = owners.iter().fold(map, |map, (id, folders)| map.route(*folders, *id, [""; 0]));
    Ok(map.build()?)
}

fn names() -> Result<Vec<SwampName>> {
    (1..=NAMES).map(|number| Ok(format!("users/profiles/user-{number:04}").parse()?)).collect()
}

async fn write(hydra: &Hydra, names: &[SwampName]) -> Result<()> {
    for name in names {
        let swamp: Swamp<String> = hydra.swamp(name)?;
        swamp.put("name", &name.swamp().to_owned()).await?;
    }
    Ok(())
}

async fn read(hydra: &Hydra, names: &[SwampName]) -> Result<()> {
    for name in names {
        let swamp: Swamp<String> = hydra.swamp(name)?;
        ensure!(swamp.get("name").await?.as_deref() == Some(name.swamp()), "{name} lost its value");
    }
    Ok(())
}

/// The folder of each name. Arithmetic: no server is asked.
fn folders(hydra: &Hydra, names: &[SwampName]) -> Result<BTreeMap<SwampName, u32>> {
    let folder = |name: &SwampName| hydra.locate(name).folder.context("no folder").map(|folder| folder.get());
    names.iter().map(|name| Ok((name.clone(), folder(name)?))).collect()
}

/// Compares what each server has, by its own word and by the files in its directory, with what the
/// names' folders say it must have.
async fn check_counts(
    servers: &[ServerProcess],
    owners: &[(&str, &str)],
    folders: &BTreeMap<SwampName, u32>,
    story: &Story,
) -> Result<()> {
    for (id, set) in owners {
        let server = servers.iter().find(|server| server.id() == *id).context("a server is missing")?;
        let owned = parse(set)?;
        let expected = folders.values().filter(|folder| owned.contains(folder)).count();
        server.flush(set).await?;
        let told = server.count_swamps(set).await?;
        let on_disk = count_swamps(server.data())?;
        let directories = count_directories(server.data(), &owned);
        ensure!(
            told == expected as u64 && on_disk == expected,
            "{id} must have {expected} swamps, says {told}, has {on_disk} on disk"
        );
        story.say(format!("{id} {set:>5}: {expected:>4} swamps in {directories} folders, on disk as well"));
    }
    Ok(())
}

fn parse(set: &str) -> Result<std::ops::RangeInclusive<u32>> {
    let (first, last) = set.split_once('-').context("no range")?;
    Ok(first.parse()?..=last.parse()?)
}

fn count_directories(data: &Path, folders: &std::ops::RangeInclusive<u32>) -> usize {
    folders.clone().filter(|folder| examples::folder_dir(data, *folder).exists()).count()
}
