//! The client map: which server answers for which folders. Pure: no disk but for reading a map file, no network.

mod builder;
mod check;
mod difference;
mod draft;
mod file;
mod finding;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use hydra_core::{FolderCount, FolderId, FolderSet, Pattern, SwampName, folder_of};

pub use builder::{MapBuilder, PoolBuilder};
pub(crate) use check::check_url;
pub use difference::FolderMove;
use draft::Draft;
pub use draft::MapServer;
pub use finding::{Finding, MapError, Severity};

use crate::access::Access;
use crate::settings::Settings;

/// Which server answers for which folders of which pool; read from TOML or made with [`ClientMap::builder`].
///
/// A map is complete and never changes; another one takes its place. Names are routed in two steps:
/// the most specific pattern that matches gives the pool, XXH64 of the name gives the folder.
///
/// ```
/// use hydra_sdk::{ClientMap, SwampName};
///
/// let map: ClientMap = r#"
///     folders = 100
///     [servers]
///     s1 = { url = "http://10.0.0.1:4937" }
///     s2 = { url = "http://10.0.0.2:4937" }
///     [[route]]
///     folders = "0-49"
///     primary = "s1"
///     fallbacks = ["s2"]
///     [[route]]
///     folders = "50-99"
///     primary = "s2"
///     fallbacks = ["s1"]
/// "#.parse()?;
/// let name = SwampName::new("users", "profiles", "alice").unwrap();
/// let route = map.route(&name);
/// assert_eq!((route.folder().get(), route.primary().id.as_str()), (62, "s2"));
/// # Ok::<(), hydra_sdk::MapError>(())
/// ```
#[derive(Clone)]
pub struct ClientMap {
    draft: Draft,
    folders: FolderCount,
    pools: Vec<Pool>,
    /// For each server the index of the pool that it is routed in.
    pool_of: Vec<usize>,
    /// Patterns with the index of their pool, the most specific first.
    rules: Vec<(Pattern, usize)>,
    warnings: Vec<Finding>,
}

/// One pool, ready for routing.
#[derive(Debug, Clone)]
struct Pool {
    name: String,
    settings: Settings,
    routes: Vec<Entry>,
    /// For each folder the index of its route.
    by_folder: Vec<u32>,
}

/// One route, with servers as indexes into the map's list.
#[derive(Debug, Clone)]
struct Entry {
    folders: FolderSet,
    primary: usize,
    fallbacks: Vec<usize>,
}

impl ClientMap {
    /// Begins a map that is made in code.
    pub fn builder() -> MapBuilder {
        MapBuilder::default()
    }

    /// Reads a map from TOML.
    ///
    /// # Errors
    /// [`MapError`] with everything that is wrong: unreadable text, unknown keys, gaps, overlaps,
    /// backwards ranges, folders and servers that do not exist, ambiguous patterns.
    pub fn from_toml(text: &str) -> Result<ClientMap, MapError> {
        match file::read(text) {
            (Some(draft), findings) => ClientMap::from_draft(draft, findings),
            (None, findings) => Err(MapError::new(findings)),
        }
    }

    /// Reads a map file.
    ///
    /// # Errors
    /// Those of [`ClientMap::from_toml`], with the path; `E000` when the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<ClientMap, MapError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| MapError::unreadable(path, &error))?;
        ClientMap::from_toml(&text).map_err(|error| error.with_origin(origin))
    }

    fn from_draft(draft: Draft, mut findings: Vec<Finding>) -> Result<ClientMap, MapError> {
        findings.extend(check::check(&draft));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        if findings.iter().any(Finding::is_error) {
            return Err(MapError::new(findings));
        }
        ClientMap::compile(draft, findings).map_err(|finding| MapError::new(vec![finding]))
    }

    /// Lays out a checked draft for routing.
    fn compile(draft: Draft, warnings: Vec<Finding>) -> Result<ClientMap, Finding> {
        let folders = u32::try_from(draft.folders.unwrap_or_default()).unwrap_or_default();
        let folders = FolderCount::new(folders).map_err(|error| Finding::new("E105", error.detail()))?;
        let mut pools = Vec::with_capacity(draft.pools.len());
        let mut rules = Vec::new();
        let by_id = draft.servers.iter().enumerate().map(|(index, server)| (server.id.as_str(), index)).collect();
        for (index, pool) in draft.pools.iter().enumerate() {
            pools.push(Pool::compile(pool, &by_id, folders)?);
            let patterns = pool.patterns.iter().filter_map(|text| text.parse().ok());
            rules.extend(patterns.map(|pattern| (pattern, index)));
        }
        rules.sort();
        let mut pool_of = vec![0; draft.servers.len()];
        for (index, pool) in pools.iter().enumerate() {
            for entry in &pool.routes {
                entry.fallbacks.iter().chain([&entry.primary]).for_each(|&server| pool_of[server] = index);
            }
        }
        Ok(ClientMap { draft, folders, pools, pool_of, rules, warnings })
    }

    /// The map as TOML: complete, with every default written out and always in the same order, so
    /// that two maps mean the same if their texts are alike. [`ClientMap::from_toml`] reads it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        write::write(&self.draft)
    }

    /// Where a name lives. A hash, a table look-up and one comparison per pattern; no allocation.
    #[must_use]
    pub fn route(&self, name: &SwampName) -> Route<'_> {
        let (rule, pool) = match self.rules.iter().find(|(pattern, _)| pattern.matches(name)) {
            Some((pattern, pool)) => (Some(pattern), &self.pools[*pool]),
            None => (None, &self.pools[0]),
        };
        let folder = folder_of(name, self.folders);
        let entry = &pool.routes[pool.by_folder[folder.get() as usize] as usize];
        Route { map: self, folder, pool, rule, entry }
    }

    /// Where a folder of a pool lives; nothing for a pool or a folder that is not in the map.
    pub(crate) fn route_of(&self, pool: &str, folder: FolderId) -> Option<Route<'_>> {
        let pool = self.pools.iter().find(|known| known.name == pool)?;
        let entry = &pool.routes[*pool.by_folder.get(folder.get() as usize)? as usize];
        Some(Route { map: self, folder, pool, rule: None, entry })
    }

    /// Where the token of clients and the certificates they trust are. Never the token itself.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.draft.access
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.draft.cluster
    }

    /// The age of the map.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.draft.epoch
    }

    /// How many folders there are.
    #[must_use]
    pub fn folders(&self) -> FolderCount {
        self.folders
    }

    /// The servers, in the order of their ids.
    #[must_use]
    pub fn servers(&self) -> &[MapServer] {
        &self.draft.servers
    }

    /// The server with this id.
    #[must_use]
    pub fn server(&self, id: &str) -> Option<&MapServer> {
        let place = self.draft.servers.binary_search_by(|server| server.id.as_str().cmp(id)).ok()?;
        self.draft.servers.get(place)
    }

    /// The names of the pools, `default` first.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        self.pools.iter().map(|pool| pool.name.as_str())
    }

    /// The routes of a pool: folders, primary, fallbacks. Nothing for a pool that is not in the map.
    pub fn routes<'m>(
        &'m self,
        pool: &str,
    ) -> impl Iterator<Item = (&'m FolderSet, &'m MapServer, Vec<&'m MapServer>)> {
        let pool = self.pools.iter().find(|known| known.name == pool);
        let servers = &self.draft.servers;
        pool.into_iter().flat_map(|pool| &pool.routes).map(move |entry| {
            let fallbacks = entry.fallbacks.iter().map(|&index| &servers[index]).collect();
            (&entry.folders, &servers[entry.primary], fallbacks)
        })
    }

    /// The patterns whose names live in a pool, as they were written; none for `default`, which has all other names.
    pub fn patterns<'m>(&'m self, pool: &str) -> impl Iterator<Item = &'m str> {
        let pool = self.draft.pools.iter().find(|known| known.name == pool);
        pool.into_iter().flat_map(|pool| &pool.patterns).map(String::as_str)
    }

    /// The map as a builder, for one that differs from it.
    pub fn to_builder(&self) -> MapBuilder {
        MapBuilder::of(self.draft.clone())
    }

    /// What the checks found that does not hinder its use.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Checks that `next` may take the place of this map while clients run: the same cluster, the
    /// same number of folders, a higher epoch (or the very same map).
    ///
    /// # Errors
    /// [`MapError`] with E004, E005 or E106.
    pub fn check_successor(&self, next: &ClientMap) -> Result<(), MapError> {
        let findings = check::check_successor(&self.draft, &next.draft);
        if findings.is_empty() { Ok(()) } else { Err(MapError::new(findings)) }
    }

    /// Where a folder of a pool lives, of the first pool unless one is named; `None` where there is no such.
    pub(crate) fn route_of_folder(&self, pool: Option<&str>, folder: FolderId) -> Option<Route<'_>> {
        let pool = self.pools.iter().find(|known| pool.is_none_or(|pool| pool == known.name))?;
        let entry = &pool.routes[*pool.by_folder.get(folder.get() as usize)? as usize];
        Some(Route { map: self, folder, pool, rule: None, entry })
    }

    /// The settings and the name of the pool that a server is routed in.
    pub(crate) fn pool_of(&self, server: usize) -> (&str, &Settings) {
        let pool = &self.pools[self.pool_of.get(server).copied().unwrap_or_default()];
        (&pool.name, &pool.settings)
    }
}

impl FromStr for ClientMap {
    type Err = MapError;

    fn from_str(text: &str) -> Result<ClientMap, MapError> {
        ClientMap::from_toml(text)
    }
}

impl PartialEq for ClientMap {
    fn eq(&self, other: &ClientMap) -> bool {
        self.draft == other.draft
    }
}

impl fmt::Debug for ClientMap {
    /// What tells maps apart; the tables behind it have an entry for every folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<&str> = self.servers().iter().map(|server| server.id.as_str()).collect();
        f.debug_struct("ClientMap")
            .field("cluster", &self.cluster())
            .field("epoch", &self.epoch())
            .field("folders", &self.folders.get())
            .field("servers", &servers)
            .finish_non_exhaustive()
    }
}

impl Pool {
    fn compile(draft: &draft::PoolDraft, by_id: &HashMap<&str, usize>, folders: FolderCount) -> Result<Pool, Finding> {
        let index_of = |id: &String| {
            let index = by_id.get(id.as_str()).copied();
            index.ok_or_else(|| Finding::new("E201", format!("unknown server {id:?}")))
        };
        let mut by_folder = vec![0; folders.get() as usize];
        let mut routes = Vec::with_capacity(draft.routes.len());
        for (number, route) in (0u32..).zip(&draft.routes) {
            let ranges = check::read_ranges(&route.folders).0;
            let folders: FolderSet = ranges.iter().flat_map(FolderSet::iter).collect();
            for folder in folders.iter() {
                by_folder[folder.get() as usize] = number;
            }
            let fallbacks = route.fallbacks.iter().map(index_of).collect::<Result<_, _>>()?;
            routes.push(Entry { folders, primary: index_of(&route.primary)?, fallbacks });
        }
        Ok(Pool { name: draft.name.clone(), settings: draft.settings.clone(), routes, by_folder })
    }
}

/// Where a name lives; borrows from the map.
#[derive(Clone, Copy)]
pub struct Route<'m> {
    map: &'m ClientMap,
    folder: FolderId,
    pool: &'m Pool,
    rule: Option<&'m Pattern>,
    entry: &'m Entry,
}

impl<'m> Route<'m> {
    /// The folder.
    #[must_use]
    pub fn folder(self) -> FolderId {
        self.folder
    }

    /// The name of the pool.
    #[must_use]
    pub fn pool(self) -> &'m str {
        &self.pool.name
    }

    /// The pattern that chose the pool; `None` in the default pool.
    #[must_use]
    pub fn rule(self) -> Option<&'m Pattern> {
        self.rule
    }

    /// The server that answers.
    #[must_use]
    pub fn primary(self) -> &'m MapServer {
        &self.map.draft.servers[self.entry.primary]
    }

    /// The servers that are asked when the primary does not answer, in this order.
    pub fn fallbacks(self) -> impl Iterator<Item = &'m MapServer> {
        self.entry.fallbacks.iter().map(move |&index| &self.map.draft.servers[index])
    }

    /// The folders that share this route.
    #[must_use]
    pub fn folders(self) -> &'m FolderSet {
        &self.entry.folders
    }

    /// How calls of the pool behave.
    #[must_use]
    pub fn settings(self) -> &'m Settings {
        &self.pool.settings
    }

    /// The primary and the fallbacks as indexes into [`ClientMap::servers`].
    pub(crate) fn indexes(self) -> (usize, &'m [usize]) {
        (self.entry.primary, &self.entry.fallbacks)
    }
}

impl fmt::Debug for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fallbacks: Vec<&str> = self.fallbacks().map(|server| server.id.as_str()).collect();
        f.debug_struct("Route")
            .field("folder", &self.folder.get())
            .field("pool", &self.pool())
            .field("rule", &self.rule.map(Pattern::to_string))
            .field("primary", &self.primary().id)
            .field("fallbacks", &fallbacks)
            .finish()
    }
}
