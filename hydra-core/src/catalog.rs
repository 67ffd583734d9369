//! The swamps of this server, by folder and then by path: a scan of directories, nothing is kept for it.
//!
//! What is on disk is read in batches, so that memory stays the same however many there are. Swamps that are so
//! new that no file tells of them come from memory.

mod cursor;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::{FolderId, FolderSet, folder_of};
use crate::layout::{decode_part, encode_part, folder_dir, is_cut};
use crate::name::SwampName;
use crate::shared::Shared;
use crate::stamp::Timestamp;
use crate::swamp::Resident;
use crate::walk;

pub use cursor::SwampsCursor;

/// How many names of a directory are in memory at once.
const BATCH: usize = 4_096;
/// How many parts a name has.
const PARTS: usize = 3;

/// Which swamps to list.
#[derive(Debug, Clone, PartialEq)]
pub struct SwampsQuery {
    /// Only those of this sanctuary. Default all.
    pub sanctuary: Option<String>,
    /// Only those of this realm of the sanctuary. Default all.
    pub realm: Option<String>,
    /// Only those whose name, behind the sanctuary and realm asked for, starts with this. Default all.
    pub prefix: Option<String>,
    /// Only those of these folders. Default all folders that are here, owned or kept as copies.
    pub folders: Option<FolderSet>,
    /// Also what is known of each: see [`ListedSwamp::loaded`]. Default no.
    pub info: bool,
    /// Where the page before ended: [`SwampsPage::next`]. Default from the start.
    pub cursor: Option<String>,
    /// At most so many swamps. Default 100.
    pub limit: usize,
}

impl Default for SwampsQuery {
    fn default() -> SwampsQuery {
        SwampsQuery { sanctuary: None, realm: None, prefix: None, folders: None, info: false, cursor: None, limit: 100 }
    }
}

/// A part of a list of swamps.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SwampsPage {
    /// The swamps by folder, then by their paths on disk, part by part.
    pub swamps: Vec<ListedSwamp>,
    /// Where the next page begins, for [`SwampsQuery::cursor`]; `None` on the last.
    pub next: Option<String>,
}

/// One swamp of a list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ListedSwamp {
    /// Its name.
    pub name: SwampName,
    /// Its folder.
    pub folder: FolderId,
    /// How many files it has; none before its first flush.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What only memory tells; `None` when it is not there, or was not asked for.
    pub loaded: Option<LoadedSwamp>,
}

/// What memory tells of a swamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedSwamp {
    /// How many treasures it has, without expired ones.
    pub count: u64,
    /// Whether an acknowledged write is not on disk yet.
    pub dirty: bool,
}

/// The directories of a swamp below its folder: what lists are ordered by.
type Steps = [String; PARTS];

impl Engine {
    /// The swamps that are here, page by page, in the order of their folders and paths. Scans directories: for
    /// operators and migrations. Blocks on the disk. Reads no swamp into memory and creates nothing.
    ///
    /// A swamp of which every treasure was removed is listed as long as it has files.
    ///
    /// # Errors
    /// `invalid-cursor` for a cursor of another query; `invalid-parameter` for a limit of 0, and for a realm without
    /// its sanctuary; `invalid-name` for a sanctuary or realm that cannot be one; `io` when a directory cannot be
    /// read.
    pub fn swamps(&self, query: &SwampsQuery) -> Result<SwampsPage> {
        let scan = Scan::new(self.shared(), query)?;
        let after = query.cursor.as_deref().map(|text| SwampsCursor::read(text, query)).transpose()?;
        let new = scan.unwritten(query, after.as_ref());
        let mut page = SwampsPage::default();
        let mut last = None;
        let first = after.as_ref().map_or(0, |after| after.folder.get());
        for folder in scan.folders(query).iter().filter(|folder| folder.get() >= first) {
            let after = after.as_ref().filter(|after| after.folder == folder).map(|after| &after.steps);
            let begin = SwampsCursor { folder, steps: Steps::default() };
            let new = new.range(begin..).take_while(|(at, _)| at.folder == folder);
            let mut found: BTreeMap<Steps, ListedSwamp> =
                new.map(|(at, listed)| (at.steps.clone(), listed.clone())).collect();
            // One more than fits tells whether there are more.
            found.extend(scan.on_disk(folder, after, (query.limit - page.swamps.len()).saturating_add(1))?);
            for (steps, listed) in found {
                if page.swamps.len() == query.limit {
                    page.next = last.map(|at: SwampsCursor| at.write(query));
                    return Ok(page);
                }
                page.swamps.push(if query.info { scan.with_memory(listed) } else { listed });
                last = Some(SwampsCursor { folder, steps });
            }
        }
        Ok(page)
    }
}

/// What the names that are asked for start with, and the directories that are known from that beforehand.
fn wanted_names(query: &SwampsQuery) -> (String, [Option<String>; PARTS]) {
    let mut prefix = String::new();
    let mut known = [const { None }; PARTS];
    for (at, part) in [&query.sanctuary, &query.realm].into_iter().flatten().enumerate() {
        known[at] = Some(encode_part(part));
        prefix.push_str(part);
        prefix.push('/');
    }
    prefix.push_str(query.prefix.as_deref().unwrap_or_default());
    (prefix, known)
}

/// A way through the directories, for one query.
struct Scan<'a> {
    shared: &'a Arc<Shared>,
    /// What the names start with.
    prefix: String,
    /// The directories that are known beforehand.
    known: [Option<String>; PARTS],
}

impl<'a> Scan<'a> {
    fn new(shared: &'a Arc<Shared>, query: &SwampsQuery) -> Result<Scan<'a>> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidParameter, why));
        if query.limit == 0 {
            return refuse("limit is 0; at least 1 is needed");
        }
        match (&query.sanctuary, &query.realm) {
            (None, Some(_)) => return refuse("a realm is asked for without its sanctuary"),
            (None, None) => {}
            // The rules of names, tried with parts that are allowed.
            (Some(sanctuary), realm) => drop(SwampName::new(sanctuary, realm.as_deref().unwrap_or("r"), "s")?),
        }
        let (prefix, known) = wanted_names(query);
        Ok(Scan { shared, prefix, known })
    }

    fn folders(&self, query: &SwampsQuery) -> FolderSet {
        let (owned, standby) = self.shared.folders.sets();
        let here = owned.iter().chain(standby.iter()).collect::<FolderSet>();
        match &query.folders {
            None => here,
            Some(wanted) => here.iter().filter(|&folder| wanted.contains(folder)).collect(),
        }
    }

    /// The first swamps in memory that have something to write, of which there may be no file yet.
    fn unwritten(&self, query: &SwampsQuery, after: Option<&SwampsCursor>) -> BTreeMap<SwampsCursor, ListedSwamp> {
        let folders = self.folders(query);
        let mut found = BTreeMap::new();
        self.shared.residents.for_each(|resident: &Arc<Resident>| {
            let (name, folder) = (resident.name(), resident.folder());
            if !folders.contains(folder) || !name.as_str().starts_with(&self.prefix) {
                return;
            }
            let place = SwampsCursor::at(name, folder);
            if after.is_some_and(|after| place <= *after) || !is_unwritten(resident) {
                return;
            }
            found.insert(place, ListedSwamp { name: name.clone(), folder, files: 0, bytes: 0, loaded: None });
            if found.len() > query.limit.saturating_add(1) {
                found.pop_last();
            }
        });
        found
    }

    /// The first `most` swamps of a folder behind `after` that have files.
    fn on_disk(&self, folder: FolderId, after: Option<&Steps>, most: usize) -> Result<Vec<(Steps, ListedSwamp)>> {
        let dir = self.shared.root.path.join(folder_dir(folder));
        let mut descent = Descent { scan: self, folder, most, steps: Vec::with_capacity(PARTS), found: Vec::new() };
        descent.directory(&dir, after.map(|steps| &steps[..]))?;
        Ok(descent.found)
    }

    fn with_memory(&self, listed: ListedSwamp) -> ListedSwamp {
        let loaded = self.shared.residents.get(&listed.name).map(|resident| LoadedSwamp {
            count: resident.state.read().count(Timestamp::now()),
            dirty: is_dirty(&resident),
        });
        ListedSwamp { loaded, ..listed }
    }
}

fn is_dirty(resident: &Resident) -> bool {
    let desk = resident.desk.lock();
    desk.is_dirty() || desk.limbo.is_some()
}

fn is_unwritten(resident: &Resident) -> bool {
    is_dirty(resident) && !resident.state.read().is_empty()
}

/// The way through one folder.
struct Descent<'a> {
    scan: &'a Scan<'a>,
    folder: FolderId,
    most: usize,
    /// The names of the directories from the folder to here.
    steps: Vec<String>,
    found: Vec<(Steps, ListedSwamp)>,
}

impl Descent<'_> {
    /// Goes through a directory in the order of names, from behind `after` on.
    fn directory(&mut self, dir: &Path, after: Option<&[String]>) -> Result<()> {
        let depth = self.steps.len();
        let is_leaf = depth + 1 == PARTS;
        let mut from = after.map(|after| (after[0].clone(), !is_leaf));
        loop {
            let names = match &self.scan.known[depth] {
                Some(known) if from.as_ref().is_none_or(|from| is_behind(known, from)) => vec![known.clone()],
                Some(_) => return Ok(()),
                None => first_names(dir, from.as_ref())?,
            };
            let is_last = names.len() < BATCH;
            for name in names {
                let deeper = after.filter(|after| after[0] == name).map(|after| &after[1..]);
                let path = dir.join(&name);
                self.steps.push(name);
                match is_leaf {
                    true => self.swamp(&path)?,
                    false if self.may_hold() => self.directory(&path, deeper)?,
                    false => {}
                }
                from = self.steps.pop().map(|name| (name, false));
                if self.found.len() == self.most {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Whether names below the steps so far can start with what is asked for.
    fn may_hold(&self) -> bool {
        let Some(parts) = self.decoded() else { return true };
        let begun = parts.join("/") + "/";
        begun.starts_with(&self.scan.prefix) || self.scan.prefix.starts_with(&begun)
    }

    /// The parts that the steps stand for; `None` when one of them was cut or is no part of a name.
    fn decoded(&self) -> Option<Vec<String>> {
        self.steps.iter().map(|step| decode_part(step)).collect()
    }

    fn swamp(&mut self, dir: &Path) -> Result<()> {
        let chunks = match walk::chunks(dir) {
            Ok(chunks) if chunks.is_empty() => return Ok(()),
            Ok(chunks) => chunks,
            Err(_) if !dir.is_dir() => return Ok(()),
            Err(error) => return Err(error),
        };
        let name = match self.decoded() {
            Some(parts) => SwampName::new(&parts[0], &parts[1], &parts[2]).ok(),
            None if self.steps.iter().any(|step| is_cut(step)) => walk::name_of(dir, &chunks)?,
            None => None,
        };
        let Some(name) = name.filter(|name| self.is_wanted(name)) else { return Ok(()) };
        let Ok(steps) = Steps::try_from(self.steps.clone()) else { return Ok(()) };
        let bytes = chunks.iter().map(|(_, length)| length).sum();
        let files = chunks.len() as u64;
        self.found.push((steps, ListedSwamp { name, folder: self.folder, files, bytes, loaded: None }));
        Ok(())
    }

    /// Whether a name starts as asked for, and its files stand where the engine would look for them.
    fn is_wanted(&self, name: &SwampName) -> bool {
        name.as_str().starts_with(&self.scan.prefix)
            && folder_of(name, self.scan.shared.root.folders) == self.folder
            && name.parts().map(encode_part) == *self.steps
    }
}

fn is_behind(name: &str, (from, inclusive): &(String, bool)) -> bool {
    name > from.as_str() || (*inclusive && name == from)
}

/// The first names in a directory, in order. What vanished meanwhile or is no directory has none.
fn first_names(dir: &Path, from: Option<&(String, bool)>) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", &PathBuf::from(dir), error);
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut names: Vec<String> = Vec::new();
    for entry in listed {
        // Names of swamps never begin with a dot on disk; copy tools keep directories of their own that do.
        let name = entry.map_err(failed)?.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        names.extend(name.filter(|name| from.is_none_or(|from| is_behind(name, from))));
        if names.len() == 2 * BATCH {
            names.select_nth_unstable(BATCH);
            names.truncate(BATCH);
        }
    }
    names.sort_unstable();
    names.truncate(BATCH);
    Ok(names)
}
