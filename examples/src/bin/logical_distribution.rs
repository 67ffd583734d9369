//! Users, chat and analytics on three servers, by what the names say.
//!
//! A pool is a set of servers for the names of some patterns. Here each pool is one server, so that
//! three kinds of data, with different needs, share one map, one client and one way to name things,
//! and nothing else.
//!
//! Run it: `cargo run -p examples --bin logical_distribution`

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use examples::{ServerProcess, ServerSetup, Story, count_swamps, sanctuaries, tell};
use hydra_sdk::{Applied, ClientMap, ErrorCode, Hydra, MapBuilder, PoolBuilder, Swamp, SwampName};

/// Pool, which is also the id of its server and the first part of its names; patterns; how many names.
const POOLS: [(&str, &[&str], usize); 3] = [
    // Whatever no other pattern names lives with the users.
    ("users", &["users/*/*", "*/*/*"], 60),
    ("chat", &["chat/*/*"], 90),
    ("analytics", &["analytics/*/*"], 30),
];

fn main() -> ExitCode {
    tell("Logical distribution: which server depends on the name's pattern", story)
}

async fn story(mut story: Story) -> Result<()> {
    let temp = tempfile::tempdir()?;

    story.step("Three servers, each the only one of its pool");
    let mut servers = Vec::new();
    for (pool, patterns, _) in POOLS {
        let server = ServerProcess::start(ServerSetup::new(pool, temp.path().join(pool)).pool(pool)).await?;
        story.say(format!("{pool:<9} {:<20} {}", patterns.join(", "), server.url()));
        servers.push(server);
    }
    let hydra = Hydra::with_map(map_of(&servers, |pool| pool)?)?;

    story.step("One client writes all of them");
    for (pool, _, count) in POOLS {
        for number in 0..count {
            let swamp: Swamp = hydra.swamp(name(pool, number)?)?;
            swamp.put("kind", &pool.into()).await?;
        }
    }
    where_is(&hydra, "users/profiles/alice", "users", &story)?;
    where_is(&hydra, "chat/rooms/lobby", "chat", &story)?;
    where_is(&hydra, "analytics/clicks/home", "analytics", &story)?;
    where_is(&hydra, "orders/2026/alice", "users", &story)?;

    story.step("A look into each server: it has its own names and no others");
    for (server, (pool, _, count)) in servers.iter().zip(POOLS) {
        server.flush("0-99").await?;
        let found = sanctuaries(server.data())?;
        ensure!(found.iter().eq([pool]), "the server of {pool} has {found:?}");
        let (told, on_disk) = (server.count_swamps("0-99").await?, count_swamps(server.data())?);
        ensure!(told == count as u64 && on_disk == count, "{pool}: {count} written, {told} told, {on_disk} on disk");
        story.say(format!("{pool:<9} {on_disk:>3} swamps, all of them {pool}/…"));
    }

    story.step("A client whose map is wrong sends chat to the server of the users");
    refused_elsewhere(&servers, &story).await?;
    for server in servers {
        server.terminate().await?;
    }
    Ok(())
}

/// A map in which the server of each pool is the one that `server_of` says.
fn map_of(servers: &[ServerProcess], server_of: fn(&'static str) -> &'static str) -> Result<ClientMap> {
    let map = ClientMap::builder().folders(100);
    let map = servers.iter().fold(map, |map, server| map.server(server.id(), server.url()));
    let add = |map: MapBuilder, (pool, patterns, _): (&'static str, &[&str], usize)| {
        let empty = PoolBuilder::new(pool).route("0-99", server_of(pool), [""; 0]);
        map.pool(patterns.iter().fold(empty, |pool, pattern| pool.matches(*pattern)))
    };
    Ok(POOLS.into_iter().fold(map, add).build()?)
}

fn name(pool: &str, number: usize) -> Result<SwampName> {
    Ok(SwampName::new(pool, "things", &format!("thing-{number:03}"))?)
}

/// Checks and says where a name lives, and why. No server is asked.
fn where_is(hydra: &Hydra, name: &str, expected: &str, story: &Story) -> Result<()> {
    let location = hydra.locate(&name.parse()?);
    ensure!(location.primary.id == expected, "{name} is on {}", location.primary.id);
    let rule = location.rule.context("no pattern chose the pool")?;
    let folder = location.folder.context("no folder")?;
    story.say(format!("{name:<21} → {expected:<9} by {rule}, folder {folder}"));
    Ok(())
}

/// Sends a write of chat to the server of the users, and sees that it is refused and leaves nothing.
async fn refused_elsewhere(servers: &[ServerProcess], story: &Story) -> Result<()> {
    let swapped = |pool| match pool {
        "users" => "chat",
        "chat" => "users",
        other => other,
    };
    let misled = Hydra::with_map(map_of(servers, swapped)?)?;
    let lobby: Swamp = misled.swamp("chat/rooms/lobby")?;
    let refused = lobby.put("topic", &"rust".into()).await.err().context("the wrong server took the write")?;
    ensure!(refused.code() == Some(ErrorCode::NotOwner), "refused otherwise: {refused}");
    ensure!(refused.applied() == Applied::No, "it says that it may have done it: {refused}");
    story.say(format!("{} {}: {}", ErrorCode::NotOwner.status(), ErrorCode::NotOwner, refused.detail()));

    let users = servers.iter().find(|server| server.id() == "users").context("no server of users")?;
    users.flush("0-99").await?;
    ensure!(sanctuaries(users.data())?.iter().eq(["users"]), "the refused write left something");
    let here: Swamp = users.direct().swamp("chat/rooms/lobby")?;
    ensure!(here.get("topic").await?.is_none(), "the refused write is there");
    story.say("nothing was stored");
    Ok(())
}
