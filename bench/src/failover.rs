//! What the first call after the primary's death costs.

use std::time::{Duration, Instant};

use anyhow::Context;
use hydra_core::EngineOptions;
use hydra_sdk::{ClientMap, Hydra, Swamp};
use hydra_server::Server;

pub(crate) fn run() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut costs = Vec::new();
    for round in 0..10 {
        costs.push(one_round(&dir.path().join(round.to_string())).await?);
    }
    costs.sort_unstable();
    let (usual, first): (Vec<Duration>, Vec<Duration>) = costs.into_iter().unzip();
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let worst = first.iter().max().copied().unwrap_or_default();
    println!(
        "usual get {:?}; first get after the primary's death by refusal {:?}, at worst {worst:?}",
        median(usual),
        median(first)
    );
    Ok(())
}

async fn one_round(dir: &std::path::Path) -> anyhow::Result<(Duration, Duration)> {
    let mut primary = EngineOptions::new(dir.join("s1"));
    primary.server_id = Some("s1".to_owned());
    primary.copied = true;
    let mut fallback = EngineOptions::new(dir.join("s2"));
    fallback.server_id = Some("s2".to_owned());
    fallback.standby = "0-99".parse()?;
    let primary = Server::start(primary).await?;
    let fallback = Server::start(fallback).await?;
    let map = ClientMap::builder()
        .folders(100)
        .server("s1", primary.url())
        .server("s2", fallback.url())
        .route("0-99", "s1", ["s2"])
        .build()
        .context("the map")?;
    let hydra = Hydra::with_map(map)?;
    let swamp: Swamp = hydra.swamp("bench/failover/swamp")?;
    swamp.put("key", &"value".into()).await?;
    let mut usual = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        swamp.get("key").await?;
        usual.push(began.elapsed());
    }
    usual.sort_unstable();
    primary.shutdown().await?;
    let began = Instant::now();
    swamp.get("key").await?;
    let first = began.elapsed();
    fallback.shutdown().await?;
    Ok((usual[usual.len() / 2], first))
}
