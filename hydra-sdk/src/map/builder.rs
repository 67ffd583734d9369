//! A client map made in code.

use super::draft::{Draft, MapServer, PoolDraft, RouteDraft};
use super::{ClientMap, MapError};
use crate::access::Access;
use crate::settings::Settings;

/// Makes a [`ClientMap`] in code; [`ClientMap::builder`] begins one. Checked like a file.
#[derive(Debug, Clone, Default)]
#[must_use = "a map is made by build()"]
pub struct MapBuilder(Draft);

impl MapBuilder {
    pub(super) fn of(draft: Draft) -> MapBuilder {
        MapBuilder(draft)
    }

    /// Takes a server out of the list.
    pub fn without_server(mut self, id: &str) -> Self {
        self.0.servers.retain(|server| server.id != id);
        self
    }

    /// Takes all routes away from a pool, so that [`MapBuilder::route_in`] can set others.
    pub fn without_routes(mut self, pool: &str) -> Self {
        self.0.pools.iter_mut().filter(|known| known.name == pool).for_each(|pool| pool.routes.clear());
        self
    }

    /// A route of a pool that is there already; see [`MapBuilder::route`]. A pool that is not there gets none.
    pub fn route_in<F: Into<String>>(
        mut self,
        pool: &str,
        folders: impl Into<String>,
        primary: impl Into<String>,
        fallbacks: impl IntoIterator<Item = F>,
    ) -> Self {
        let route = route(folders, primary, fallbacks);
        if let Some(pool) = self.0.pools.iter_mut().find(|known| known.name == pool) {
            pool.routes.push(route);
        }
        self
    }

    /// The name of the cluster. Default `hydra`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.0.cluster = name.into();
        self
    }

    /// The age of the map; grows with every change. Default 1.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.0.epoch = epoch;
        self
    }

    /// How many folders there are, 1 to 65 536. Needed; the same on every server.
    pub fn folders(mut self, count: u32) -> Self {
        self.0.folders = Some(i64::from(count));
        self
    }

    /// Where the token of clients and the certificates they trust are. Default nowhere.
    pub fn access(mut self, access: Access) -> Self {
        self.0.access = access;
        self
    }

    /// A server and where it listens: `http://host:port` or `https://host:port`.
    pub fn server(self, id: impl Into<String>, url: impl Into<String>) -> Self {
        self.server_with(MapServer::new(id, url))
    }

    /// A server with its capacity, zone and place for copies.
    pub fn server_with(mut self, server: MapServer) -> Self {
        self.0.servers.push(server);
        self
    }

    /// A route of the default pool: folders such as `"0-24,60"`, the server that answers for them,
    /// and the servers that are asked when it does not, in this order.
    pub fn route<F: Into<String>>(
        mut self,
        folders: impl Into<String>,
        primary: impl Into<String>,
        fallbacks: impl IntoIterator<Item = F>,
    ) -> Self {
        self.0.pools[0].routes.push(route(folders, primary, fallbacks));
        self
    }

    /// A pool: the servers that the names of some patterns live on.
    pub fn pool(mut self, pool: PoolBuilder) -> Self {
        self.0.pools.push(pool.0);
        self
    }

    /// How calls behave, in the default pool and in pools added later without settings of their own.
    pub fn settings(mut self, settings: Settings) -> Self {
        for pool in self.0.pools.iter_mut().filter(|pool| pool.settings == self.0.client) {
            pool.settings = settings.clone();
        }
        self.0.client = settings;
        self
    }

    /// The map.
    ///
    /// # Errors
    /// [`MapError`] with everything that is wrong.
    pub fn build(mut self) -> Result<ClientMap, MapError> {
        self.0.servers.sort_by(|a, b| a.id.cmp(&b.id));
        ClientMap::from_draft(self.0, Vec::new())
    }
}

/// A pool of a [`MapBuilder`].
#[derive(Debug, Clone)]
#[must_use = "a pool is added with MapBuilder::pool"]
pub struct PoolBuilder(PoolDraft);

impl PoolBuilder {
    /// A pool with this name: 1 to 64 of letters, digits, `_` and `-`.
    pub fn new(name: impl Into<String>) -> Self {
        PoolBuilder(PoolDraft::new(name))
    }

    /// The names of this pattern live here. The most specific pattern of a map wins.
    pub fn matches(mut self, pattern: impl Into<String>) -> Self {
        self.0.patterns.push(pattern.into());
        self
    }

    /// A route of this pool; see [`MapBuilder::route`].
    pub fn route<F: Into<String>>(
        mut self,
        folders: impl Into<String>,
        primary: impl Into<String>,
        fallbacks: impl IntoIterator<Item = F>,
    ) -> Self {
        self.0.routes.push(route(folders, primary, fallbacks));
        self
    }

    /// How calls of this pool behave.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.0.settings = settings;
        self
    }
}

fn route<F: Into<String>>(
    folders: impl Into<String>,
    primary: impl Into<String>,
    fallbacks: impl IntoIterator<Item = F>,
) -> RouteDraft {
    RouteDraft {
        folders: folders.into(),
        primary: primary.into(),
        fallbacks: fallbacks.into_iter().map(Into::into).collect(),
    }
}
