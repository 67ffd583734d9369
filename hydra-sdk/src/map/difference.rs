//! What another map moves: folders that get another primary, and names that get another pool.

use std::collections::BTreeMap;
use std::fmt;

use hydra_core::{FolderId, FolderSet, Pattern, SwampName};

use super::{ClientMap, Pool};

/// Folders whose data belongs on another server by a new map than by the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderMove {
    /// The pool, in the new map.
    pub pool: String,
    /// The folders.
    pub folders: FolderSet,
    /// The id of the server that has them by the old map.
    pub from: String,
    /// The id of the server that has them by the new map.
    pub to: String,
    /// The names it is about, where a pattern was added, removed or given to another pool; otherwise all of the pool.
    pub names: Option<Pattern>,
}

impl FolderMove {
    /// The same for these folders.
    #[must_use]
    pub fn of(&self, folders: FolderSet) -> FolderMove {
        FolderMove { folders, ..self.clone() }
    }
}

impl fmt::Display for FolderMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FolderMove { pool, folders, from, to, names } = self;
        write!(f, "folders {folders} of pool {pool}")?;
        if let Some(names) = names {
            write!(f, ", names {names},")?;
        }
        write!(f, " from {from} to {to}")
    }
}

impl ClientMap {
    /// What `next` moves to other servers, in the order of pools, folders and servers; nothing where the numbers of folders
    /// differ, because then nothing stays where it is.
    #[must_use]
    pub fn moves_to(&self, next: &ClientMap) -> Vec<FolderMove> {
        if self.folders != next.folders {
            return Vec::new();
        }
        let mut moves = Vec::new();
        for pool in &next.pools {
            // Names of a pool that is new came from somewhere: their patterns tell.
            let before = self.pools.iter().find(|known| known.name == pool.name);
            moves.extend(before.into_iter().flat_map(|before| self.moves_between(before, next, pool, None)));
        }
        let rules = self.rules.iter().chain(&next.rules).map(|(pattern, _)| pattern);
        let mut told: Vec<&Pattern> = Vec::new();
        for pattern in rules {
            let (before, after) = (self.pool_of_names(pattern), next.pool_of_names(pattern));
            if before.name != after.name && !told.contains(&pattern) {
                moves.extend(self.moves_between(before, next, after, Some(pattern)));
                told.push(pattern);
            }
        }
        moves
    }

    /// The folders that have one server in a pool of this map and another in a pool of `next`.
    fn moves_between(&self, before: &Pool, next: &ClientMap, after: &Pool, names: Option<&Pattern>) -> Vec<FolderMove> {
        let mut moved: BTreeMap<(&str, &str), Vec<FolderId>> = BTreeMap::new();
        // A default pool without routes answers for nothing.
        if before.routes.is_empty() || after.routes.is_empty() {
            return Vec::new();
        }
        for folder in self.folders.all().iter() {
            let at = folder.get() as usize;
            let from = &self.draft.servers[before.routes[before.by_folder[at] as usize].primary].id;
            let to = &next.draft.servers[after.routes[after.by_folder[at] as usize].primary].id;
            if from != to {
                moved.entry((from, to)).or_default().push(folder);
            }
        }
        let moves = moved.into_iter().map(|((from, to), folders)| FolderMove {
            pool: after.name.clone(),
            folders: folders.into_iter().collect(),
            from: from.to_owned(),
            to: to.to_owned(),
            names: names.cloned(),
        });
        let mut moves: Vec<FolderMove> = moves.collect();
        moves.sort_by_key(|moved| moved.folders.iter().next());
        moves
    }

    /// The pool of the names of a pattern that no more specific one takes.
    fn pool_of_names(&self, pattern: &Pattern) -> &Pool {
        let rule = typical(pattern).and_then(|name| self.rules.iter().find(|(rule, _)| rule.matches(&name)));
        rule.map_or(&self.pools[0], |(_, pool)| &self.pools[*pool])
    }
}

/// A name of a pattern that is unlikely to belong to a more specific one.
fn typical(pattern: &Pattern) -> Option<SwampName> {
    let text = pattern.to_string().replace('*', "a-name-like-no-other");
    text.parse().ok()
}
