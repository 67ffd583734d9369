//! The map after a move: the same text with other folders in its routes, and the next epoch.

use std::path::Path;

use hydra_sdk::{ClientMap, FolderId, FolderSet};
use toml::{Table, Value};

use super::MoveFlags;
use crate::Failure;

/// What a move changes in a map.
struct Change<'m> {
    map: &'m ClientMap,
    pool: &'m str,
    folders: &'m FolderSet,
    from: &'m str,
    to: &'m str,
    epoch: u64,
}

/// Writes the map with the new owner of the folders, unless it says so already.
pub(super) fn publish(
    flags: &MoveFlags,
    map: &ClientMap,
    pool: &str,
    folders: &FolderSet,
    epoch: u64,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let change = Change { map, pool, folders, from: &flags.from, to: &flags.to, epoch };
    if change.is_made(map) {
        return Ok(());
    }
    let path = &flags.map;
    let unwritable = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(unwritable)?;
    if ClientMap::from_toml(&text).ok().as_ref() != Some(map) {
        return Err(Failure::conflict(format!(
            "{} was changed during the move; run it again, which only writes the map then",
            path.display()
        )));
    }
    let changed = match change.apply(&text) {
        Some(changed) => changed,
        None => {
            warnings.push(format!("{} was laid out anew, without its comments", path.display()));
            change.apply(&map.to_toml()).ok_or_else(|| {
                Failure::failed(format!("no map could be made of {} that has the folders moved", path.display()))
            })?
        }
    };
    replace(path, &changed).map_err(unwritable)
}

/// Replaces a file as a whole, with the rights it had.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays one: what it points to is replaced.
    let path = path.canonicalize()?;
    let mut new = path.clone().into_os_string();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::metadata(&path)?.permissions())?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &path)
}

impl Change<'_> {
    /// The changed text; `None` where it could not be changed piece by piece.
    fn apply(&self, text: &str) -> Option<String> {
        let changed = edit(text, self)?;
        let map = ClientMap::from_toml(&changed).ok()?;
        (self.is_made(&map) && self.map.check_successor(&map).is_ok()).then_some(changed)
    }

    /// Whether a map is the old one but for this change.
    fn is_made(&self, map: &ClientMap) -> bool {
        let is_right = |folder: FolderId, pool: &str| {
            let found = route(map, pool, folder);
            let (primary, fallbacks) = route(self.map, pool, folder);
            let moves = pool == self.pool && self.folders.contains(folder);
            found == if moves { self.moved(primary, fallbacks) } else { (primary, fallbacks) }
        };
        let same_servers = map.servers() == self.map.servers() && map.cluster() == self.map.cluster();
        let pools = || map.pools().all(|pool| map.folders().all().iter().all(|folder| is_right(folder, pool)));
        let is_young = map == self.map || map.epoch() == self.epoch;
        same_servers && is_young && map.pools().eq(self.map.pools()) && pools()
    }

    /// A route after the move: the target is no fallback of its own.
    fn moved<'r>(&'r self, primary: &'r str, fallbacks: Vec<&'r str>) -> (&'r str, Vec<&'r str>) {
        match primary == self.from {
            true => (self.to, fallbacks.into_iter().filter(|id| *id != self.to).collect()),
            false => (primary, fallbacks),
        }
    }
}

/// Who answers for a folder.
fn route<'m>(map: &'m ClientMap, pool: &str, folder: FolderId) -> (&'m str, Vec<&'m str>) {
    let found = map.routes(pool).find(|(folders, ..)| folders.contains(folder));
    found.map_or(("", Vec::new()), |(_, primary, fallbacks)| {
        (primary.id.as_str(), fallbacks.iter().map(|server| server.id.as_str()).collect())
    })
}

/// The routes of the pool with other folders, line by line; everything else stays as it is written.
fn edit(text: &str, change: &Change<'_>) -> Option<String> {
    let mut out: Vec<String> = Vec::new();
    let mut lines = text.lines().peekable();
    let mut pool = change.map.pools().next().unwrap_or_default().to_owned();
    let mut has_epoch = false;
    while let Some(line) = lines.next() {
        let header = header(line);
        let in_head = header.is_none() && !has_epoch && !out.iter().any(|line| self::header(line).is_some());
        if in_head && let Some(changed) = with_value(line, "epoch", &change.epoch.to_string()) {
            has_epoch = true;
            out.push(changed);
            continue;
        }
        out.push(line.to_owned());
        let mut block = Vec::new();
        while header.is_some() && lines.peek().is_some_and(|next| self::header(next).is_none()) {
            block.extend(lines.next().map(str::to_owned));
        }
        match header {
            Some("[[pool]]") => pool = value(&block, "name")?.as_str()?.to_owned(),
            Some(table @ ("[[route]]" | "[[pool.route]]")) if pool == change.pool => {
                block = edit_route(block, table, change)?;
            }
            _ => {}
        }
        out.append(&mut block);
    }
    if !has_epoch {
        out.insert(0, format!("epoch = {}", change.epoch));
    }
    Some(out.join("\n") + "\n")
}

/// One route, and behind it another one where only some of its folders move.
fn edit_route(mut block: Vec<String>, table: &str, change: &Change<'_>) -> Option<Vec<String>> {
    let folders = value(&block, "folders")?.as_str()?.parse::<FolderSet>().ok()?;
    let moving: FolderSet = folders.iter().filter(|&folder| change.folders.contains(folder)).collect();
    if value(&block, "primary")?.as_str()? != change.from || moving.is_empty() {
        return Some(block);
    }
    let fallbacks = value(&block, "fallbacks").and_then(|list| list.as_array().cloned()).unwrap_or_default();
    let fallbacks: Vec<String> =
        fallbacks.iter().filter(|id| id.as_str() != Some(change.to)).map(Value::to_string).collect();
    let fallbacks = format!("[{}]", fallbacks.join(", "));
    let staying: FolderSet = folders.iter().filter(|&folder| !change.folders.contains(folder)).collect();
    let to = Value::from(change.to).to_string();
    if staying.is_empty() {
        for (key, text) in [("primary", &to), ("fallbacks", &fallbacks)] {
            block = block.iter().map(|line| with_value(line, key, text).unwrap_or_else(|| line.clone())).collect();
        }
        return Some(block);
    }
    let staying = Value::from(staying.to_string()).to_string();
    block = block.iter().map(|line| with_value(line, "folders", &staying).unwrap_or_else(|| line.clone())).collect();
    // Blank lines and comments at the end belong to what comes next.
    let is_tail = |line: &&String| line.trim().is_empty() || line.trim_start().starts_with('#');
    let tail = block.iter().rev().take_while(is_tail).count();
    let tail = block.split_off(block.len() - tail);
    let moving = Value::from(moving.to_string()).to_string();
    block.extend([String::new(), table.to_owned(), format!("folders = {moving}"), format!("primary = {to}")]);
    if fallbacks != "[]" {
        block.push(format!("fallbacks = {fallbacks}"));
    }
    block.extend(tail);
    Some(block)
}

/// The header of a table, without space and comment.
fn header(line: &str) -> Option<&str> {
    let line = line.split('#').next().unwrap_or_default().trim();
    (line.starts_with('[') && line.ends_with(']')).then_some(line)
}

/// A value that stands on one line.
fn value(block: &[String], key: &str) -> Option<Value> {
    block.iter().find_map(|line| line.parse::<Table>().ok()?.remove(key))
}

/// The line with another value, where it sets this key; a comment behind it stays.
fn with_value(line: &str, key: &str, text: &str) -> Option<String> {
    line.parse::<Table>().ok().filter(|table| table.contains_key(key))?;
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    // Ids, folders and numbers hold no such sign.
    let comment = line.find('#').map_or(String::new(), |at| format!(" {}", &line[at..]));
    Some(format!("{indent}{key} = {text}{comment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# Two machines in the cellar.
cluster = "hydra"
epoch = 7 # raise it with every change
folders = 100

[servers]
s1 = { url = "http://10.0.0.1:4937" }
s2 = { url = "http://10.0.0.2:4937" }
s3 = { url = "http://10.0.0.3:4937" }

[[route]] # the old one
folders = "0-74" # most
primary = "s1"
fallbacks = ["s2", "s3"]

# What came later.
[[route]]
folders = "75-99"
primary = "s3"
"#;

    fn moved(text: &str, folders: &str, from: &str, to: &str) -> Option<String> {
        let map = ClientMap::from_toml(text).expect("a map");
        let folders = folders.parse().expect("folders");
        let pool = map.pools().next().expect("a pool").to_owned();
        Change { map: &map, pool: &pool, folders: &folders, from, to, epoch: map.epoch() + 1 }.apply(text)
    }

    #[test]
    fn a_part_of_a_route_becomes_a_route_and_everything_else_stays_as_it_is_written() {
        let changed = moved(TEXT, "50-74", "s1", "s2").expect("changed");
        let expected = TEXT
            .replace("epoch = 7 # raise", "epoch = 8 # raise")
            .replace("\"0-74\" # most", "\"0-49\" # most")
            .replace(
                "fallbacks = [\"s2\", \"s3\"]\n",
                "fallbacks = [\"s2\", \"s3\"]\n\n[[route]]\nfolders = \"50-74\"\nprimary = \"s2\"\nfallbacks = [\"s3\"]\n",
            );
        assert_eq!(changed, expected);
    }

    #[test]
    fn a_whole_route_changes_its_server() {
        let changed = moved(TEXT, "75-99", "s3", "s2").expect("changed");
        assert_eq!(changed, TEXT.replace("epoch = 7", "epoch = 8").replace("primary = \"s3\"", "primary = \"s2\""));
        let map = ClientMap::from_toml(TEXT).expect("a map");
        assert!(moved(&map.to_toml(), "0-3,5", "s1", "s3").is_some(), "the layout of the map itself can be changed");
    }

    #[test]
    fn what_is_written_in_another_way_is_not_guessed_at() {
        let odd = TEXT.replace("folders = \"0-74\" # most", "folders = \"\"\"\n0-74\"\"\"");
        let inline = "folders = 4\nservers.a.url = \"http://h:1\"\nservers.b.url = \"http://h:2\"\n\
                      route = [{ folders = \"0-3\", primary = \"a\" }]\n";
        for text in [odd.as_str(), inline] {
            if ClientMap::from_toml(text).is_ok() {
                assert_eq!(
                    moved(
                        text,
                        "0-1",
                        if text == inline { "a" } else { "s1" },
                        if text == inline { "b" } else { "s2" }
                    ),
                    None
                );
            }
        }
    }
}
