//! [`Hydra`]: the data set as one thing, wherever it lives.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hydra_core::{FolderId, Pattern, Policy, SwampName, folder_of};
use serde::de::DeserializeOwned;

use crate::access::Given;
use crate::cluster::{CallOptions, Cluster};
use crate::connect::HydraBuilder;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::failback::{Returning, Settlement, Staying};
use crate::forward::{ForwardRequest, ForwardResponse};
use crate::health::ServerState;
use crate::hint::Owner;
use crate::map::{ClientMap, MapServer};
use crate::server::Server;
use crate::subscribe_many::SubscribeMany;
use crate::swamp::{BatchAcross, Swamp};
use crate::swamps::Swamps;

/// A data set: servers behind a client map, or a directory in this process. Cheap to clone.
///
/// ```
/// # async fn example() -> hydra_sdk::Result<()> {
/// let hydra = hydra_sdk::Hydra::connect("http://127.0.0.1:4937").await?;
/// let alice: hydra_sdk::Swamp = hydra.swamp("users/profiles/alice")?;
/// alice.put("name", &"Alice".into()).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Hydra(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
}

impl Hydra {
    /// A data set by its URL:
    ///
    /// | URL | what it is |
    /// | --- | --- |
    /// | `http://host:4937`, `https://…` | one server, or a router. `?folders=100`: it refuses if it counts differently |
    /// | `map:///etc/hydra/map.toml` | servers by a map file, read again when its content changes |
    /// | `file:///var/lib/hydra?folders=100` | a directory, opened in this process; created when missing |
    /// | `mem://` | a new data set in this process that is gone at the end |
    ///
    /// What follows `map://` and `file://` is a path, absolute or relative. Nothing is sent to
    /// servers: one that is down now is used when it comes up.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the URL or the map is not usable; those of the disk when a
    /// directory cannot be opened.
    pub async fn connect(url: impl AsRef<str>) -> Result<Hydra> {
        Hydra::builder().url(url).connect().await
    }

    /// Connects with more choices than a URL has.
    pub fn builder() -> HydraBuilder {
        HydraBuilder::default()
    }

    /// A data set by its map. Nothing is sent; a server that is down now is used when it comes up.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when no HTTP client can be made.
    pub fn with_map(map: ClientMap) -> Result<Hydra> {
        Ok(Hydra::new(Endpoint::Remote(Cluster::new(map, Given::default())?.into())))
    }

    pub(crate) fn new(endpoint: Endpoint) -> Hydra {
        Hydra(Arc::new(Inner { endpoint }))
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// A swamp by its name: `"users/profiles/alice"`, `("users", "profiles", "alice")` or a
    /// [`SwampName`]. No I/O.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] says which part of the name breaks which rule.
    pub fn swamp<V>(&self, name: impl TryInto<SwampName, Error: Into<Error>>) -> Result<Swamp<V>> {
        let name = name.try_into().map_err(Into::into)?;
        Ok(Swamp::new(self.clone(), name))
    }

    /// Operations on several swamps in one call, each answered by itself.
    pub fn batch(&self) -> BatchAcross {
        BatchAcross::new(self.clone())
    }

    /// The swamps of the data set, each once, whichever servers they are on; see [`Swamps`].
    pub fn swamps(&self) -> Swamps {
        Swamps::new(self.clone())
    }

    /// The changes of all swamps whose names match a pattern, also of those that come later; see [`SubscribeMany`].
    pub fn subscribe<V: DeserializeOwned + Send + 'static>(&self, pattern: &Pattern) -> SubscribeMany<V> {
        SubscribeMany::new(self.clone(), pattern.clone())
    }

    /// Where a name lives. Arithmetic and one look-up; no I/O.
    #[must_use]
    pub fn locate(&self, name: &SwampName) -> Location {
        match self.endpoint() {
            Endpoint::Remote(cluster) => {
                let state = cluster.state();
                let route = state.route(name);
                Location {
                    hash: name.hash(),
                    folder: state.folder_of(route),
                    pool: route.pool().to_owned(),
                    rule: route.rule().cloned(),
                    primary: route.primary().clone(),
                    fallbacks: route.fallbacks().cloned().collect(),
                    redirect: state.learned(route).map(|owner| Redirect { server: owner.id, epoch: owner.epoch }),
                }
            }
            Endpoint::Embedded(embedded) => {
                let engine = embedded.engine();
                Location {
                    hash: name.hash(),
                    folder: Some(folder_of(name, engine.folder_count())),
                    pool: "default".to_owned(),
                    rule: None,
                    primary: MapServer::new(engine.server_id(), format!("file://{}", engine.data_dir().display())),
                    fallbacks: Vec::new(),
                    redirect: None,
                }
            }
        }
    }

    /// The map that is in force; `None` where there is none: one server by its address, or this process.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClientMap>> {
        match self.endpoint() {
            Endpoint::Remote(cluster) => cluster.state().map().cloned(),
            Endpoint::Embedded(_) => None,
        }
    }

    /// Puts another map in force at once. Calls under way end on the one they began with; servers
    /// that both maps list alike keep their connections, and what is known of their health. What was learned of
    /// moved folders is forgotten as far as the map is as young. No server is asked whether it still owns what the map takes from
    /// it: it refuses what it does not own, and says where to go instead.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the map is of another cluster, older, or has another number of
    /// folders, and where there is no map to exchange. The one in force stays.
    pub fn set_map(&self, map: ClientMap) -> Result<()> {
        self.cluster()?.set_map(map)
    }

    /// What this client knows about each server of the map; nothing for data in this process.
    #[must_use]
    pub fn servers(&self) -> Vec<(MapServer, ServerState)> {
        let Endpoint::Remote(cluster) = self.endpoint() else { return Vec::new() };
        cluster.state().servers().iter().map(|server| (server.listed().clone(), server.health.state())).collect()
    }

    /// Returns to a server that is back, without waiting for the hold-down or for what was written at
    /// a fallback meanwhile: the way back where the map says `failback = "manual"`. Nothing is lost by
    /// returning early; reads miss what has not been copied yet. Answers whether the server answers again; one that is still
    /// down is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the map has no such server.
    pub fn fail_back(&self, server: &str) -> Result<bool> {
        let state = self.cluster()?.state();
        let server = state.server(server)?;
        let is_there = matches!(server.health.state(), ServerState::Up | ServerState::Back);
        if is_there {
            server.health.reset();
            server.stays.forget_all();
        }
        Ok(is_there)
    }

    /// The folders that stay with a fallback because of what was written there while the primary was
    /// away; in the order of their numbers.
    #[must_use]
    pub fn staying(&self) -> Vec<Staying> {
        let Endpoint::Remote(cluster) = self.endpoint() else { return Vec::new() };
        let state = cluster.state();
        let of = |primary: &Arc<Server>| {
            let primary_id = primary.id().to_owned();
            let stays = primary.stays.all().into_iter();
            stays.map(move |(folder, fallback)| Staying { folder, primary: primary_id.clone(), fallback })
        };
        let mut staying: Vec<Staying> = state.servers().iter().flat_map(of).collect();
        staying.sort_by_key(|stay| stay.folder);
        staying
    }

    /// Every folder that servers said lives elsewhere than the map says, with its pool; in the order of their numbers.
    #[must_use]
    pub fn redirects(&self) -> Vec<(String, FolderId, Redirect)> {
        let Endpoint::Remote(cluster) = self.endpoint() else { return Vec::new() };
        let mut all = cluster.state().all_learned();
        all.sort_by(|(a, first, _), (b, second, _)| (a, first).cmp(&(b, second)));
        let redirect = |owner: Owner| Redirect { server: owner.id, epoch: owner.epoch };
        all.into_iter().map(|(pool, folder, owner)| (pool, folder, redirect(owner))).collect()
    }

    /// Settles what `fallback` wrote in one folder in place of `primary`: when the primary has all of
    /// it, the fallback forgets that it took over, and clients that stayed with it return.
    ///
    /// Clients do this themselves with `failback = "when_synced"`. Nothing is copied; whatever copies
    /// files does that.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the map has no such server; otherwise when one of them did not
    /// answer, or refused.
    pub async fn settle(&self, folder: FolderId, primary: &str, fallback: &str) -> Result<Settlement> {
        self.cluster()?.settle(folder, primary, fallback).await
    }

    /// Lets writes of one folder wait at `fallback`, for `pause` at most, so that what it took over from `primary` can be
    /// copied to the end: the first half of a return that writes without pause would hold up for ever. Whoever copies
    /// files does so next and calls [`Hydra::finish_return`]. Nothing where writes wait for somebody else, or did a
    /// moment ago. Reads go on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the map has no such server; otherwise when the fallback did not answer, or refused.
    pub async fn begin_return(
        &self,
        folder: FolderId,
        primary: &str,
        fallback: &str,
        pause: Duration,
    ) -> Result<Option<Returning>> {
        self.cluster()?.begin_return(folder, primary, fallback, pause).await
    }

    /// Settles what was taken over until [`Hydra::begin_return`], if the primary has it, and sends writes there; otherwise
    /// they go on at the fallback.
    ///
    /// # Errors
    /// When one of the two did not answer, or refused.
    pub async fn finish_return(&self, returning: Returning) -> Result<Settlement> {
        self.cluster()?.finish_return(returning).await
    }

    /// Registers a policy on every server of the map, one after the other.
    ///
    /// # Errors
    /// When a member is beyond its limits, or a server was not reached: the error lists those.
    pub async fn set_policy(&self, pattern: &Pattern, policy: &Policy) -> Result<()> {
        self.endpoint().set_policy(pattern, policy).await
    }

    /// Forgets a policy on every server of the map. Answers whether any had it.
    ///
    /// # Errors
    /// When a server was not reached: the error lists those.
    pub async fn delete_policy(&self, pattern: &Pattern) -> Result<bool> {
        self.endpoint().delete_policy(pattern).await
    }

    /// Every registered policy, the most specific first, of the first server that answers.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn policies(&self) -> Result<Vec<(Pattern, Policy)>> {
        self.endpoint().policies().await
    }

    /// Passes a request on to the server that answers for a name, or its fallbacks, by the same
    /// rules as typed calls. The answer is handed back as soon as its head is there.
    ///
    /// # Errors
    /// When no server answered. An error answer of a server is no error here, unless another server
    /// may have carried out the same write before. [`ErrorKind::Invalid`] for a path that URL rules
    /// would change, and [`ErrorKind::Config`] for data in this process.
    pub async fn forward(&self, name: &SwampName, request: ForwardRequest) -> Result<ForwardResponse> {
        let options = CallOptions {
            fallback: request.fallback,
            deadline: request.deadline,
            patience: request.patience,
            ..CallOptions::default()
        };
        let request = request.into_request()?;
        let answered = self.cluster()?.call(name, &request, &options).await?;
        Ok(ForwardResponse::of(answered))
    }

    /// Passes a request on to the server that answers for a folder of a pool, or its fallbacks: for what is about
    /// folders and names no swamp, such as lists of swamps and exports.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the map has no such pool or folder; otherwise those of [`Hydra::forward`].
    pub async fn forward_folder(
        &self,
        pool: &str,
        folder: FolderId,
        request: ForwardRequest,
    ) -> Result<ForwardResponse> {
        let options = CallOptions {
            fallback: request.fallback,
            deadline: request.deadline,
            patience: request.patience,
            is_bulk: true,
            ..CallOptions::default()
        };
        let request = request.into_request()?;
        self.cluster()?.call_folder(pool, folder, &request, &options).await.map(ForwardResponse::of)
    }

    /// Passes a request on to one server of the map, whatever it is about: one try, no failover.
    ///
    /// # Errors
    /// When the server is not in the map or did not answer; otherwise those of [`Hydra::forward`].
    pub async fn forward_to(&self, server: &str, request: ForwardRequest) -> Result<ForwardResponse> {
        let deadline = request.deadline;
        let request = request.into_request()?;
        let answer = self.cluster()?.ask(server, &request, deadline).await?;
        Ok(ForwardResponse::new(answer, server.to_owned()))
    }

    /// Ends the use of the data set. Data in this process is flushed and its directory released;
    /// other clones of this handle cannot use it any more. Servers notice nothing.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn close(self) -> Result<()> {
        match self.endpoint() {
            Endpoint::Remote(_) => Ok(()),
            Endpoint::Embedded(embedded) => embedded.close().await,
        }
    }

    fn cluster(&self) -> Result<&Cluster> {
        match self.endpoint() {
            Endpoint::Remote(cluster) => Ok(cluster),
            Endpoint::Embedded(_) => Err(Error::new(ErrorKind::Config, "data in this process has no servers")),
        }
    }
}

/// Where a name lives, and why.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Location {
    /// XXH64 of the name.
    pub hash: u64,
    /// The folder; `None` for one server by its address, where only the server knows.
    pub folder: Option<FolderId>,
    /// The pool.
    pub pool: String,
    /// The pattern that chose the pool; `None` in the default pool.
    pub rule: Option<Pattern>,
    /// Who answers.
    pub primary: MapServer,
    /// Who is asked when the primary does not answer, in this order.
    pub fallbacks: Vec<MapServer>,
    /// Where the folder went since this map was made, if a server said so: that one is asked in place of the primary.
    pub redirect: Option<Redirect>,
}

/// Where a folder went; see [`Location::redirect`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    /// The id of the server that owns it.
    pub server: String,
    /// Since which epoch.
    pub epoch: u64,
}
