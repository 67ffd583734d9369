//! Routing a name.

use std::hint::black_box;
use std::time::Instant;

use hydra_core::SwampName;
use hydra_sdk::ClientMap;

const MAP: &str = r#"
format = 1
cluster = "bench"
epoch = 1
folders = 1000
[servers]
s1 = { url = "http://127.0.0.1:1" }
s2 = { url = "http://127.0.0.1:2" }
[[route]]
folders = "0-499"
primary = "s1"
fallbacks = ["s2"]
[[route]]
folders = "500-999"
primary = "s2"
fallbacks = ["s1"]
"#;

pub(crate) fn run() -> anyhow::Result<()> {
    let map = ClientMap::from_toml(MAP)?;
    let names: Vec<SwampName> =
        (0..1_000).map(|i| format!("users/profiles/user-{i}").parse()).collect::<Result<_, _>>()?;
    const ROUNDS: usize = 2_000;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        for name in &names {
            black_box(map.route(black_box(name)));
        }
    }
    let routed = began.elapsed().as_nanos() as f64 / (ROUNDS * names.len()) as f64;
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    let began = Instant::now();
    for _ in 0..ROUNDS / 10 {
        for text in &texts {
            black_box(hydra_core::folder_of(&black_box(text).parse()?, map.folders()));
        }
    }
    let parsed = began.elapsed().as_nanos() as f64 / (ROUNDS / 10 * names.len()) as f64;
    println!("routing a name: {routed:.1} ns (target 60); checking, hashing and numbering a text: {parsed:.0} ns");
    Ok(())
}
