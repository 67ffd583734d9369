//! The servers of a map and the map itself, exchanged together while calls run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hydra_core::wire::{folder_path, header};
use hydra_core::{Applied, FolderId, FolderSet, SwampName};
use reqwest::Method;

use crate::access::{Credentials, Given, authority, is_exposed};
use crate::endpoint::Part;
use crate::error::{Attempt, Error, ErrorKind, Result, TryOutcome};
use crate::failback::{Returning, Settlement, Way};
use crate::failover::{Answered, Call, with_fallback};
use crate::hint::{Hint, Learned, Owner};
use crate::map::{ClientMap, Finding, FolderMove, MapError, Route};
use crate::notice::{ClientEvent, Notices};
use crate::outcome::Answer;
use crate::probe::Expected;
use crate::request::Request;
use crate::server::{Making, Server};
use crate::settings::{Fallback, OpClass, Settings};

/// A remote data set: whatever map is in force now.
#[derive(Debug)]
pub(crate) struct Cluster {
    state: ArcSwap<State>,
    /// What the program gave, whatever map is in force.
    given: Given,
}

/// A map with its servers. A call keeps the one it began with.
#[derive(Debug)]
pub(crate) struct State {
    map: Arc<ClientMap>,
    /// In the order of [`ClientMap::servers`].
    servers: Vec<Arc<Server>>,
    credentials: Arc<Credentials>,
    origin: Origin,
    turn: AtomicUsize,
    /// Folders that live elsewhere than the map says.
    learned: Learned,
    /// The youngest map that a server said it goes by.
    youngest: AtomicU64,
    notices: Notices,
}

/// Where a map comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was given.
    Given,
    /// It was made up for one address; how many folders there are is known only if the caller said so.
    Address { folders: Option<u32> },
}

/// What servers are told with every request, so that one that counts differently, or is of another
/// pool, refuses it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Announce<'s> {
    pub(crate) folders: Option<u32>,
    pub(crate) pool: Option<&'s str>,
}

/// What one call sets for itself, in place of its pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallOptions {
    pub(crate) fallback: Option<Fallback>,
    pub(crate) deadline: Option<Duration>,
    /// Moves much data, so that it may take longer.
    pub(crate) is_bulk: bool,
    /// How long a server is asked to wait before it answers; it may take so much longer.
    pub(crate) patience: Duration,
    /// Fallbacks are asked only in place of the primary, also where reads may go to anybody.
    pub(crate) primary_first: bool,
}

impl Cluster {
    /// A cluster by its map.
    pub(crate) fn new(map: ClientMap, given: Given) -> Result<Cluster> {
        Cluster::of(map, Origin::Given, given)
    }

    fn of(map: ClientMap, origin: Origin, given: Given) -> Result<Cluster> {
        let state = ArcSwap::from_pointee(State::new(map, origin, &given, None)?);
        Ok(Cluster { state, given })
    }

    /// One server by its address. How many folders it has is for the server to know: with one
    /// server nothing is routed.
    pub(crate) fn single(url: &str, folders: Option<u32>, settings: &Settings, given: Given) -> Result<Cluster> {
        let count = folders.unwrap_or(1);
        let map = ClientMap::builder()
            .folders(count)
            .server("server", url)
            .route(format!("0-{}", count.saturating_sub(1)), "server", [""; 0])
            .settings(settings.clone())
            .build()?;
        Cluster::of(map, Origin::Address { folders }, given)
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another map in force. Servers that both maps list alike keep their connections and what is known of them.
    pub(crate) fn set_map(&self, map: ClientMap) -> Result<()> {
        let set = self.replace_map(map);
        if let Err(error) = &set {
            self.notices().emit(&ClientEvent::MapRefused { why: error.to_string() });
        }
        set
    }

    /// The same; a refusal is for the caller to tell.
    pub(crate) fn replace_map(&self, map: ClientMap) -> Result<()> {
        let old = self.state();
        if old.origin != Origin::Given {
            return Err(Error::new(
                ErrorKind::Config,
                "this client was connected to one address; connect with a map to change it",
            ));
        }
        old.map.check_successor(&map)?;
        let event = ClientEvent::MapAccepted { epoch: map.epoch(), moves: old.map.moves_to(&map) };
        let is_new = *old.map != map;
        let next = State::new(map, Origin::Given, &self.given, Some(&old))?;
        self.state.store(Arc::new(next));
        if is_new {
            self.notices().emit(&event);
        }
        Ok(())
    }

    /// Asks the servers that a map takes folders from whether they still own them. One that does not answer cannot stand
    /// against it.
    ///
    /// # Errors
    /// Finding E401 for each that does.
    pub(crate) async fn check_moves(&self, next: &ClientMap) -> Result<(), MapError> {
        let state = self.state();
        let mut findings = Vec::new();
        for moved in state.map.moves_to(next) {
            let Ok(server) = state.server(&moved.from) else { continue };
            let owned = server.owned().await.unwrap_or_default();
            let still: FolderSet = moved.folders.iter().filter(|&folder| owned.contains(folder)).collect();
            findings.extend((!still.is_empty()).then(|| Finding::still_owned(&FolderMove { folders: still, ..moved })));
        }
        if findings.is_empty() { Ok(()) } else { Err(MapError::new(findings)) }
    }

    /// What the program wants to hear of.
    pub(crate) fn notices(&self) -> &Notices {
        &self.given.notices
    }

    /// Sends a request about a name to whoever answers for it.
    pub(crate) async fn call(&self, name: &SwampName, request: &Request, options: &CallOptions) -> Result<Answered> {
        let state = self.state();
        let route = state.map.route(name);
        call_by(&state, route, request, options).await.map_err(|error| {
            let folder = state.folder_of(route).map(|folder| format!(" (folder {folder})"));
            error.about(format!("{name}{}", folder.unwrap_or_default()))
        })
    }

    /// The folders of every pool, those with the same route together, in the order of pools and folders. One entry
    /// without folders where only the server knows how many there are.
    pub(crate) fn parts(&self) -> Vec<Option<Part>> {
        let state = self.state();
        if state.origin == (Origin::Address { folders: None }) {
            return vec![None];
        }
        let mut parts = Vec::new();
        for pool in state.map.pools() {
            let routes = state.map.routes(pool).flat_map(|(folders, ..)| folders.ranges().to_vec());
            let mut ranges: Vec<(u32, u32)> = routes.collect();
            ranges.sort_unstable();
            parts.extend(ranges.into_iter().map(|folders| Some(Part { pool: pool.to_owned(), folders })));
        }
        parts
    }

    /// Sends a request about some folders of a pool to whoever answers for the first of them.
    pub(crate) async fn call_part(&self, part: Option<&Part>, request: &Request) -> Result<Answer> {
        let state = self.state();
        let (pool, folder) = part.map_or((None, 0), |part| (Some(part.pool.as_str()), part.folders.0));
        let route = state.map.route_of_folder(pool, FolderId::new(folder)).ok_or_else(|| {
            Error::new(ErrorKind::Config, "the map was exchanged, and the one in force has other pools or folders")
        })?;
        let settings = route.settings();
        let call = Call {
            state: &state,
            route,
            class: request.class,
            fallback: settings.fallback_mode.into(),
            deadline: settings.deadline + settings.bulk_timeout,
            timeout: settings.bulk_timeout,
            primary_first: false,
            is_waiting: false,
        };
        Ok(with_fallback(&call, request).await?.answer)
    }

    /// Sends a request about a folder to whoever answers for it.
    pub(crate) async fn call_folder(
        &self,
        pool: &str,
        folder: FolderId,
        request: &Request,
        options: &CallOptions,
    ) -> Result<Answered> {
        let state = self.state();
        let route = state.map.route_of(pool, folder).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("the map has no folder {folder} of the pool {pool:?} any more"))
        })?;
        call_by(&state, route, request, options).await.map_err(|error| error.about(format!("folder {folder}")))
    }

    /// Whether the primary of a name answers again, while another server is being asked in its place.
    pub(crate) fn primary_is_back(&self, name: &SwampName, asked: &Server) -> bool {
        let state = self.state();
        let route = state.map.route(name);
        let primary = &state.servers[state.owner_of(route)];
        primary.id() != asked.id() && primary.health.is_up() && primary.stays.holder_of(route.folder()).is_none()
    }

    /// Sends a request to one server: one try.
    pub(crate) async fn ask(&self, id: &str, request: &Request, deadline: Option<Duration>) -> Result<Answer> {
        let state = self.state();
        state.ask(state.server(id)?, request, deadline).await
    }

    /// The same, at a server that is who the map says.
    pub(crate) async fn ask_known(&self, id: &str, request: &Request) -> Result<Answer> {
        let state = self.state();
        state.ask_known(state.server(id)?, request).await
    }

    /// Settles what a fallback took over from a primary in one folder, if the primary has it.
    pub(crate) async fn settle(&self, folder: FolderId, primary: &str, fallback: &str) -> Result<Settlement> {
        let state = self.state();
        state.way(folder, primary, fallback)?.settle().await
    }

    /// Lets writes at a fallback wait, so that a folder can return.
    pub(crate) async fn begin_return(
        &self,
        folder: FolderId,
        primary: &str,
        fallback: &str,
        pause: Duration,
    ) -> Result<Option<Returning>> {
        let state = self.state();
        let seal = state.way(folder, primary, fallback)?.seal(pause).await?;
        let (primary, fallback) = (primary.to_owned(), fallback.to_owned());
        Ok(seal.map(|seal| Returning { folder, primary, fallback, seal }))
    }

    /// Settles what was written until then, or lets writes go on.
    pub(crate) async fn finish_return(&self, returning: Returning) -> Result<Settlement> {
        let state = self.state();
        let way = state.way(returning.folder, &returning.primary, &returning.fallback)?;
        let settled = way.settle_under(Some(&returning.seal), Instant::now()).await;
        if !settled.as_ref().is_ok_and(|found| found.settled) {
            way.unseal(&returning.seal).await;
        }
        settled
    }

    /// Sends a request to every server. Fails if one did not answer, after all were asked.
    pub(crate) async fn ask_all(&self, request: &Request) -> Result<Vec<Answer>> {
        let state = self.state();
        let mut answers = Vec::with_capacity(state.servers.len());
        let mut missed = Vec::new();
        for server in &state.servers {
            match state.ask_known(server, request).await {
                Ok(answer) => answers.push(answer),
                Err(error) => missed.extend_from_slice(error.attempts()),
            }
        }
        if missed.is_empty() {
            return Ok(answers);
        }
        let applied = if answers.is_empty() { Applied::No } else { Applied::Unknown };
        let detail = format!("{} of {} servers did not answer", missed.len(), state.servers.len());
        Err(Error::new(ErrorKind::Network, detail).with_applied(applied).with_attempts(missed))
    }

    /// Sends a request to one server after the other until one answers.
    pub(crate) async fn ask_any(&self, request: &Request) -> Result<Answer> {
        let state = self.state();
        let mut missed = Vec::new();
        for server in &state.servers {
            match state.ask_known(server, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => missed.extend_from_slice(error.attempts()),
            }
        }
        Err(Error::new(ErrorKind::Network, "no server answered").with_attempts(missed))
    }
}

/// Sends a request along a route.
async fn call_by(state: &State, route: Route<'_>, request: &Request, options: &CallOptions) -> Result<Answered> {
    let settings = route.settings();
    let timeout = if options.is_bulk { settings.bulk_timeout } else { settings.try_timeout };
    let usual = if options.is_bulk { settings.deadline + settings.bulk_timeout } else { settings.deadline };
    let call = Call {
        state,
        route,
        class: request.class,
        fallback: options.fallback.unwrap_or(settings.fallback_mode.into()),
        deadline: options.deadline.unwrap_or(usual) + options.patience,
        timeout: timeout + options.patience,
        primary_first: options.primary_first,
        is_waiting: !options.patience.is_zero(),
    };
    with_fallback(&call, request).await
}

impl State {
    /// One try at one server.
    async fn ask(&self, server: &Server, request: &Request, deadline: Option<Duration>) -> Result<Answer> {
        server.ask(request, deadline, self.announce(server.pool())).await
    }

    /// One try at one server that is who the map says.
    async fn ask_known(&self, server: &Server, request: &Request) -> Result<Answer> {
        match server.introduce(server.settings().bulk_timeout).await {
            Ok(()) => self.ask(server, request, None).await,
            Err(failure) => {
                let outcome = TryOutcome::NotSent;
                let attempt =
                    Attempt { server: server.label().to_owned(), outcome, error: failure.why, elapsed: Duration::ZERO };
                Err(Error::new(ErrorKind::Network, "the server was not asked").with_attempts(vec![attempt]))
            }
        }
    }

    fn new(map: ClientMap, origin: Origin, given: &Given, before: Option<&State>) -> Result<State> {
        let needs_tls = map.servers().iter().any(|listed| listed.url.starts_with("https://"));
        let had = before.map(|before| &before.credentials);
        let credentials = Credentials::new(given, map.access(), needs_tls, had)?;
        // Connections go with the credentials they were made with.
        let known = before.filter(|before| Arc::ptr_eq(&before.credentials, &credentials));
        let known = known.map_or(&[][..], |before| &before.servers);
        let known: HashMap<&str, &Arc<Server>> = known.iter().map(|server| (server.id(), server)).collect();
        let expected = Expected { cluster: map.cluster().to_owned(), folders: map.folders() };
        let servers = map.servers().iter().enumerate().map(|(index, listed)| {
            let (pool, settings) = map.pool_of(index);
            let same = known.get(listed.id.as_str()).filter(|server| server.is_listed_as(listed, pool, settings));
            if let Some(&same) = same {
                // Whoever answers at its address may have been put right with the map.
                same.health.forget_who();
                return Ok(Arc::clone(same));
            }
            let label = if origin == Origin::Given { &listed.id } else { authority(&listed.url) };
            if is_exposed(&listed.url) && credentials.authorization().is_some() {
                tracing::warn!(server = label, "the token goes over the network unencrypted; use https");
            }
            let expected = (origin == Origin::Given).then(|| expected.clone());
            let notices = &given.notices;
            Server::new(Making { listed, label, pool, settings, credentials: &credentials, expected, notices })
        });
        let servers = servers.collect::<Result<_>>()?;
        let knows = |id: &str| map.server(id).is_some();
        let learned = before.map(|before| before.learned.beside(map.epoch(), knows)).unwrap_or_default();
        Ok(State {
            map: Arc::new(map),
            servers,
            credentials,
            origin,
            turn: AtomicUsize::new(0),
            learned,
            youngest: AtomicU64::new(0),
            notices: given.notices.clone(),
        })
    }

    /// Who owns the folder of a route: the server that was learned, or that of the map.
    pub(crate) fn owner_of(&self, route: Route<'_>) -> usize {
        let learned = self.learned(route);
        let place = learned.and_then(|owner| self.servers.iter().position(|server| server.id() == owner.id));
        place.unwrap_or(route.indexes().0)
    }

    /// Who owns the folder of a route, if that is not what the map says.
    pub(crate) fn learned(&self, route: Route<'_>) -> Option<Owner> {
        self.learned.owner(route.pool(), route.folder())
    }

    /// Everything that was learned of owners.
    pub(crate) fn all_learned(&self) -> Vec<(String, FolderId, Owner)> {
        self.learned.all()
    }

    /// Calls about the folder of a route go to its owner from now on.
    pub(crate) fn learn(&self, route: Route<'_>, owner: Owner) {
        let event = ClientEvent::FolderLearned {
            pool: route.pool().to_owned(),
            folder: route.folder(),
            server: owner.id.clone(),
            epoch: owner.epoch,
        };
        if self.learned.learn(route.pool(), route.folder(), owner) {
            self.notices.emit(&event);
        }
    }

    /// Heeds by which map a server goes.
    pub(crate) fn heed_epoch(&self, server: &Server, answer: &Answer) {
        let says = answer.header(header::MAP_EPOCH).and_then(|epoch| epoch.trim().parse::<u64>().ok());
        let Some(epoch) = says.filter(|&epoch| epoch > self.map.epoch()) else { return };
        if self.youngest.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.notices.emit(&ClientEvent::MapBehind { server: server.label().to_owned(), epoch });
        }
    }

    /// Gives a server the token that lets it begin to serve a folder.
    ///
    /// # Errors
    /// When it refuses, or does not answer within `left`.
    pub(crate) async fn activate(&self, server: &Server, folder: FolderId, told: &Hint, left: Duration) -> Result<()> {
        let body = serde_json::json!({ "epoch": told.epoch, "token": told.token });
        let request = Request::new(OpClass::Read, Method::POST, folder_path(folder, "activate"))
            .body("application/json", body.to_string());
        let answer = self.ask(server, &request, Some(left)).await?;
        if answer.is_success() { Ok(()) } else { Err(answer.to_error()) }
    }

    /// The map, where there is one.
    pub(crate) fn map(&self) -> Option<&Arc<ClientMap>> {
        (self.origin == Origin::Given).then_some(&self.map)
    }

    pub(crate) fn route(&self, name: &SwampName) -> Route<'_> {
        self.map.route(name)
    }

    pub(crate) fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// The server with this id.
    pub(crate) fn server(&self, id: &str) -> Result<&Arc<Server>> {
        let server = self.servers.iter().find(|server| server.id() == id);
        server.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("the map has no server {id:?}")))
    }

    /// The folder of a route; `None` where only the server knows.
    pub(crate) fn folder_of(&self, route: Route<'_>) -> Option<FolderId> {
        (self.origin != Origin::Address { folders: None }).then_some(route.folder())
    }

    /// The way back of a folder from a fallback.
    fn way(&self, folder: FolderId, primary: &str, fallback: &str) -> Result<Way<'_>> {
        let (primary, fallback) = (self.server(primary)?, self.server(fallback)?);
        Ok(Way { fallback, primary, folder, announce: self.announce(primary.pool()) })
    }

    /// What a server of a pool is told.
    pub(crate) fn announce<'s>(&'s self, pool: &'s str) -> Announce<'s> {
        match self.origin {
            Origin::Given => Announce { folders: Some(self.map.folders().get()), pool: Some(pool) },
            Origin::Address { folders } => Announce { folders, pool: None },
        }
    }

    /// What names have in common that one request can be about: who is asked for them, in which order.
    pub(crate) fn way_of(&self, name: &SwampName) -> (usize, Vec<usize>, Option<String>) {
        let route = self.map.route(name);
        let (primary, fallbacks) = (self.owner_of(route), route.indexes().1);
        let holder = self.servers[primary].stays.holder_of(route.folder());
        (primary, fallbacks.to_vec(), holder.map(|holder| holder.id().to_owned()))
    }

    /// A number that is one higher at every call: for reading from everyone in turn.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
