//! One engine behind HTTP: every request goes through [`App::answer`].

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use hydra_core::wire::Problem;
use hydra_core::{
    Applied, Batch, Committed, CopyState, Durability, Engine, Error, ErrorCode, FolderId, FolderState, Idempotency,
    OpResult, Swamp, SwampName, Timestamp,
};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::Xxh3;

use crate::admin;
use crate::answer::{self, Response};
use crate::auth::{Access, Need, Scope};
use crate::body::{BodyMemory, Limit, RequestBody};
use crate::conditions::{folders_header, idempotency_key, single};
use crate::config::{Config, MAX_HEADER_BYTES, MAX_UNPACKERS, MAX_URI_BYTES};
use crate::encoding::{self, Encoding};
use crate::head::Head;
use crate::metrics::Metrics;
use crate::route::{Label, Route};
use crate::streams::Streams;
use crate::{
    across, archive, batches, catalog, conflicts, export, feeds, folders, import, lists, locks, moves, openapi, origin,
    overview, policies, service, shift, swamps, takeover, treasures, upkeep, writes,
};

/// How long a request waits for the memory budget before it is refused, and how often it looks.
const MEMORY_PATIENCE: Duration = Duration::from_secs(2);
const MEMORY_AGAIN: Duration = Duration::from_millis(10);

/// The engine as an axum router, for programs that bring their own listener or more routes.
///
/// [`crate::run`] adds what belongs to connections: time limits, their number, and the graceful end.
pub fn app(engine: Engine, config: Config) -> Router {
    router(App::new(engine, config))
}

/// Everything is one fallback: axum decodes paths before it splits them, see [`Route`].
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new().fallback(|State(app): State<Arc<App>>, request: Request| app.answer(request)).with_state(app)
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) bodies: BodyMemory,
    /// Turns for archives that are unpacked: each takes a thread.
    pub(crate) unpackers: Semaphore,
    server: HeaderValue,
    draining: AtomicBool,
    pub(crate) streams: Streams,
    /// Set aside by an operator, who may also take that back.
    drained: AtomicBool,
    /// What request ids begin with, so that those of this process differ from those of the one before.
    started: String,
    requests: AtomicU64,
}

impl App {
    pub(crate) fn new(engine: Engine, config: Config) -> Arc<App> {
        Arc::new(App {
            metrics: Metrics::new(&engine),
            bodies: BodyMemory::new(config.max_body_memory),
            unpackers: Semaphore::new(MAX_UNPACKERS),
            server: answer::ascii(engine.server_id().to_owned()),
            draining: AtomicBool::new(false),
            streams: Streams::new(config.streams()),
            drained: AtomicBool::new(false),
            started: format!("{:x}-", Timestamp::now().as_millis()),
            requests: AtomicU64::new(0),
            engine,
            config,
        })
    }

    /// From now on only service paths are answered; requests that have begun go on, but for feeds and whoever waits.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.streams.end();
        self.engine.end_waits();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.drained.load(Ordering::Acquire)
    }

    /// The same for an operator; ends nothing, and may be taken back.
    pub(crate) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Release);
    }

    /// Answers one request. A panic is answered too, and costs nobody else anything.
    pub(crate) async fn answer(self: Arc<App>, request: Request) -> Response {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let mut call = Call::new(self, head.into(), body, begun);
        let route = Route::parse(call.head.uri.path());
        let label = route.as_ref().map_or(Label::None, Route::label);
        let outcome = AssertUnwindSafe(dispatch(&mut call, route)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        match call.finish(outcome, label) {
            // In a box: every request would keep room for it, and few need it.
            (response, Encoding::Gzip) => Box::pin(encoding::gzip(response)).await,
            (response, _) => response,
        }
    }

    /// Writes to one swamp and waits for the acknowledgement; also says what is known of its copy.
    pub(crate) async fn write(&self, name: &SwampName, batch: Batch) -> (CopyState, Result<Committed, Error>) {
        // The clock is asked only by those who have to wait.
        let mut until = None;
        loop {
            let swamp = match self.swamp(name, batch.deadline).await {
                Ok(swamp) => swamp,
                Err(error) => return (CopyState::Complete, Err(error)),
            };
            let mut is_late = || Instant::now() >= *until.get_or_insert_with(|| memory_patience(batch.deadline));
            if self.engine.has_room() || !batch.adds() || is_late() {
                return (swamp.copy_state(), swamp.write(batch).await);
            }
            // Whoever waits must not keep a swamp in memory.
            drop(swamp);
            tokio::time::sleep(MEMORY_AGAIN).await;
        }
    }

    /// The swamp, hydrated where need be: only that leaves the async threads.
    async fn swamp(&self, name: &SwampName, deadline: Option<Instant>) -> Result<Swamp, Error> {
        match self.engine.resident(name) {
            Some(swamp) => Ok(swamp),
            None => hydrate(&self.engine, name, deadline).await,
        }
    }

    fn request_id(&self, head: &Head) -> HeaderValue {
        let sane = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        match head.headers.get(&answer::REQUEST_ID).filter(sane) {
            Some(sent) => sent.clone(),
            None => {
                let number = self.requests.fetch_add(1, Ordering::Relaxed);
                answer::ascii([self.started.as_str(), &number.to_string()].concat())
            }
        }
    }
}

/// From the route to the handler: one line per endpoint.
async fn dispatch(call: &mut Call, route: Result<Route, Error>) -> Result<Response, Error> {
    call.check_head()?;
    let route = route?;
    if let Some(response) = origin::preflight(&call.head, route.allow(), &call.app.config)? {
        return Ok(response);
    }
    call.admit(&route)?;
    let reads = matches!(call.head.method, Method::GET | Method::HEAD);
    // What is in a box here is so large that all requests would have to keep room for it.
    match route {
        Route::Treasure(name, key) if reads => treasures::get(call, &name, &key).await,
        Route::Treasure(name, key) => writes::write(call, &name, key).await,
        Route::List(name) if call.head.method == Method::HEAD => lists::count(call, &name).await,
        Route::List(name) if reads => Box::pin(lists::list(call, &name)).await,
        Route::List(name) if call.head.method == Method::POST => writes::push(call, &name).await,
        Route::List(name) | Route::Query(name) => Box::pin(lists::query(call, &name)).await,
        Route::Swamps(sanctuary, realm) => catalog::list(call, sanctuary, realm).await,
        Route::Batch(name) => batches::batch(call, &name).await,
        Route::BatchAcross => across::batch(call).await,
        Route::Swamp(name) if reads => swamps::info(call, &name).await,
        Route::Swamp(name) => swamps::destroy(call, &name).await,
        Route::FlushSwamp(name) => swamps::flush(call, &name).await,
        Route::CompactSwamp(name) => swamps::compact(call, &name).await,
        Route::LoadSwamp(name) => swamps::load(call, &name).await,
        Route::EvictSwamp(name) => swamps::evict(call, &name).await,
        Route::SwampPolicy(name) => swamps::policy(call, &name).await,
        Route::Conflicts(name) => conflicts::list(call, &name).await,
        Route::Shift(name) => shift::shift(call, &name).await,
        Route::Lock(name, lock) if reads => locks::get(call, &name, &lock).await,
        Route::Lock(name, lock) if call.head.method == Method::POST => locks::acquire(call, &name, &lock).await,
        Route::Lock(name, lock) if call.head.method == Method::PUT => locks::renew(call, &name, &lock).await,
        Route::Lock(name, lock) => locks::release(call, &name, &lock).await,
        Route::Export(name) => export::one(call, &name).await,
        Route::Import(name) => import::one(call, name).await,
        Route::ExportAll => export::all(call).await,
        Route::ImportAll => import::all(call).await,
        Route::Archive(folder) if reads => archive::pack(call, folder).await,
        Route::Archive(folder) => archive::unpack(call, folder).await,
        Route::Events(name) => feeds::swamp(call, &name).await,
        Route::AllEvents => feeds::many(call).await,
        Route::Policies => policies::list(call),
        Route::Policy(pattern) if reads => policies::get(call, &pattern),
        Route::Policy(pattern) if call.head.method == Method::PUT => policies::put(call, pattern).await,
        Route::Policy(pattern) => policies::delete(call, pattern).await,
        Route::Resolve(name) => folders::resolve(call, &name),
        Route::Folders => folders::list(call, None).await,
        Route::Folder(set) => folders::list(call, Some(set)).await,
        Route::FlushFolder(set) => folders::flush(call, Some(set)).await,
        Route::FlushAll => folders::flush(call, None).await,
        Route::MarkCopied(set) => folders::mark_copied(call, set).await,
        Route::HoldFolder(folder) => upkeep::hold(call, folder).await,
        Route::CollectFolder(set) => upkeep::collect(call, set).await,
        Route::CompactFolder(set) => upkeep::compact(call, set).await,
        Route::VerifyFolder(set) => upkeep::verify(call, set).await,
        Route::Takeover(folder) => takeover::list(call, folder).await,
        Route::Holds(folder) => takeover::holds(call, folder).await,
        Route::Settle(folder) => takeover::settle(call, folder).await,
        Route::SealTakeover(folder) => takeover::seal(call, folder).await,
        Route::UnsealTakeover(folder) => takeover::unseal(call, folder).await,
        Route::Move(folder, verb) => Box::pin(moves::step(call, folder, verb)).await,
        Route::Page => overview::page(call),
        Route::Status => overview::status(call).await,
        Route::Probe => service::probe(call).await,
        Route::Metrics => service::metrics(call),
        Route::OpenApi => openapi::document(call),
        Route::Drain => admin::drain(call).await,
        Route::Log => admin::log(call).await,
        Route::Reload => admin::reload(call).await,
        Route::Ready => service::ready(call),
        Route::Version => service::version(call),
        Route::Problem(code) => service::problem(call, &code),
        Route::Health => service::health(call),
        Route::Welcome => service::welcome(call),
    }
}

/// One request on its way, and what its answer has to say beyond its body.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) head: Head,
    /// What the token of the request allows.
    pub(crate) access: Access,
    id: HeaderValue,
    body: RequestBody,
    begun: Instant,
    /// When whoever asked ceases to wait.
    pub(crate) deadline: Option<Instant>,
    /// The folder the request is about.
    pub(crate) folder: Option<FolderId>,
    /// Whether a copy answers in place of the owner.
    standby: bool,
    copy: CopyState,
    durability: Option<Durability>,
    replayed: bool,
    allow: Option<&'static str>,
}

impl Call {
    fn new(app: Arc<App>, head: Head, body: Body, begun: Instant) -> Call {
        Call {
            id: app.request_id(&head),
            app,
            head,
            access: Access::Open,
            body: RequestBody::new(body),
            begun,
            deadline: None,
            folder: None,
            standby: false,
            copy: CopyState::Complete,
            durability: None,
            replayed: false,
            allow: None,
        }
    }

    /// Refuses heads that are too long.
    fn check_head(&self) -> Result<(), Error> {
        let uri = self.head.uri.path().len() + self.head.uri.query().map_or(0, |query| query.len() + 1);
        if uri > MAX_URI_BYTES {
            let detail = format!("the request target has {uri} bytes; {MAX_URI_BYTES} are allowed");
            return Err(Error::new(ErrorCode::UriTooLong, detail));
        }
        let headers: usize = self.head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if headers > MAX_HEADER_BYTES {
            let detail = format!("the headers have {headers} bytes; {MAX_HEADER_BYTES} are allowed");
            return Err(Error::new(ErrorCode::HeadersTooLarge, detail));
        }
        Ok(())
    }

    /// Everything that must hold before a handler runs, whatever the handler.
    fn admit(&mut self, route: &Route) -> Result<(), Error> {
        if !route.allows(&self.head.method) {
            self.allow = Some(route.allow());
            let detail = format!("{} is not allowed here; {} are", self.head.method, route.allow());
            return Err(Error::new(ErrorCode::MethodNotAllowed, detail));
        }
        let reads = matches!(self.head.method, Method::GET | Method::HEAD);
        origin::check(&self.head, &self.app.config)?;
        self.authorize(route)?;
        if route.is_service() {
            return Ok(());
        }
        if self.app.is_draining() {
            return Err(Error::new(ErrorCode::Draining, "this server is shutting down"));
        }
        self.check_map()?;
        self.deadline = self.read_deadline()?;
        match route.name() {
            Some(name) => self.admit_folder(name, route, reads),
            None => Ok(()),
        }
    }

    /// Whether the token of the request allows what it asks for.
    fn authorize(&mut self, route: &Route) -> Result<(), Error> {
        let config = &self.app.config;
        let Some(tokens) = &config.tokens else { return Ok(()) };
        let need = match Need::of(route, &self.head.method) {
            None if config.protect_metrics && *route == Route::Metrics => Need::METRICS,
            None => return Ok(()),
            Some(need) => need,
        };
        self.access = Access::of(&self.head.headers, &tokens.known())?;
        self.access.check(&need)
    }

    /// Whether the token allows this on the swamp, where only the body of the request says what is to be done.
    pub(crate) fn may(&self, scopes: &'static [Scope], name: &SwampName) -> Result<(), Error> {
        self.access.check(&Need::on_swamp(scopes, name))
    }

    /// When the client ceases to wait, if it says so. Where that is at once, nothing is begun.
    fn read_deadline(&self) -> Result<Option<Instant>, Error> {
        let Some(sent) = single(&self.head.headers, &answer::DEADLINE_MS)? else { return Ok(None) };
        let left: u64 = sent.trim().parse().map_err(|_| {
            let detail = format!("hydra-deadline-ms is {}; allowed is a whole number", crate::route::shown(sent));
            Error::new(ErrorCode::InvalidHeader, detail)
        })?;
        if left == 0 {
            return Err(Error::too_late());
        }
        Ok(self.begun.checked_add(Duration::from_millis(left)))
    }

    /// Whether the client counts the same folders and means the same pool.
    fn check_map(&self) -> Result<(), Error> {
        let here = self.app.engine.folder_count();
        if let Some(theirs) = folders_header(&self.head.headers)?.filter(|theirs| *theirs != here.get()) {
            let detail = format!("the client counts {theirs} folders, the data directory of this server {here}");
            return Err(Error::new(ErrorCode::FolderCountMismatch, detail)
                .with_hint("the number of folders is fixed when data is first written; correct the client's map"));
        }
        let pool = &self.app.config.pool;
        match single(&self.head.headers, &answer::POOL)? {
            Some(theirs) if theirs != pool => {
                let detail = format!("the client means the pool {theirs:?}, this server belongs to {pool:?}");
                Err(Error::new(ErrorCode::NotOwner, detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether the folder of a name is here, for requests about many.
    pub(crate) fn has_folder_of(&self, name: &SwampName) -> Result<(), Error> {
        let folder = self.app.engine.folder_of(name);
        self.stands_in(folder).map(drop)
    }

    /// Whether this server answers for the folder of the name.
    fn admit_folder(&mut self, name: &SwampName, route: &Route, reads: bool) -> Result<(), Error> {
        let folder = self.app.engine.folder_of(name);
        self.folder = Some(folder);
        if matches!(route, Route::Resolve(_)) {
            return Ok(());
        }
        self.standby = self.stands_in(folder)?;
        // Upkeep changes no data, and a batch may hold only reads: it asks again when it is read.
        let harmless = reads
            || self.head.method.as_str() == "QUERY"
            || matches!(route, Route::FlushSwamp(_) | Route::CompactSwamp(_) | Route::LoadSwamp(_))
            || matches!(route, Route::EvictSwamp(_) | Route::Batch(_) | Route::Query(_));
        if harmless { Ok(()) } else { self.may_write() }
    }

    /// Whether this server keeps a copy of a folder in place of owning it.
    ///
    /// # Errors
    /// `not-owner` when it does neither.
    pub(crate) fn stands_in(&self, folder: FolderId) -> Result<bool, Error> {
        let engine = &self.app.engine;
        if engine.owns(folder) {
            return Ok(false);
        }
        match engine.folder_state(folder) {
            FolderState::Owned { .. } => Ok(false),
            state if state.is_copy() => Ok(true),
            _ => Err(engine.not_served(folder)),
        }
    }

    /// The request is about this folder, and answered for a copy of it if `standby`.
    pub(crate) fn answer_for(&mut self, folder: FolderId, standby: bool) {
        self.folder = Some(folder);
        self.standby = standby;
    }

    /// Whether a write may go to this server: to a copy only from a client that says it falls back.
    pub(crate) fn may_write(&self) -> Result<(), Error> {
        self.may_write_to(self.folder, self.standby)
    }

    /// Whether a write may go to a folder of which this server keeps a copy if `standby`.
    pub(crate) fn may_write_to(&self, folder: Option<FolderId>, standby: bool) -> Result<(), Error> {
        if !standby {
            return Ok(());
        }
        if let Some(folder) = folder {
            self.check_copy(folder)?;
        }
        if let Some(owner) = self.falls_back()? {
            return folder.map_or(Ok(()), |folder| self.check_return(folder, owner));
        }
        let detail = "this server keeps a copy of the folder; it takes writes only while the owner is away";
        Err(Error::new(ErrorCode::NotOwner, detail)
            .with_hint("send the write to the owner, or with Hydra-Fallback-For: <owner's id> when it does not answer"))
    }

    /// Whether a copy may take writes at all: not while its folder moves, and where a move has told its owner, in
    /// place of no other one. So a client with an old map is told from one whose primary is away.
    fn check_copy(&self, folder: FolderId) -> Result<(), Error> {
        let engine = &self.app.engine;
        match engine.folder_state(folder) {
            FolderState::Standby { of: Some(owner), .. } if self.falls_back()? != Some(owner.as_str()) => {
                Err(engine.not_served(folder))
            }
            FolderState::Standby { .. } | FolderState::Owned { .. } => Ok(()),
            _ => Err(engine.not_served(folder)),
        }
    }

    /// Whether a copy takes a write that its owner could take again.
    fn check_return(&self, folder: FolderId, owner: &str) -> Result<(), Error> {
        if !self.app.engine.has_returned(folder) || self.has_tried_owner()? {
            return Ok(());
        }
        let detail = format!("folder {folder} has returned to {owner}, which has all that was written here");
        Err(Error::new(ErrorCode::FolderReturned, detail)
            .with_hint(format!("send the write to {owner}; if that does not answer, here with {owner}; tried")))
    }

    /// The owner of the folder, where the client says that it does not answer.
    pub(crate) fn falls_back(&self) -> Result<Option<&str>, Error> {
        let sent = single(&self.head.headers, &answer::FALLBACK_FOR)?;
        let id = sent.map(|sent| sent.split_once(';').map_or(sent, |(id, _)| id).trim());
        Ok(id.filter(|id| !id.is_empty()))
    }

    /// Whether the client has asked the owner in this very call, in vain.
    fn has_tried_owner(&self) -> Result<bool, Error> {
        let sent = single(&self.head.headers, &answer::FALLBACK_FOR)?;
        Ok(sent.is_some_and(|sent| sent.split(';').skip(1).any(|word| word.trim() == "tried")))
    }

    /// The swamp, hydrated where need be.
    pub(crate) async fn swamp(&mut self, name: &SwampName) -> Result<Swamp, Error> {
        let swamp = self.app.swamp(name, self.deadline).await?;
        self.copy = swamp.copy_state();
        Ok(swamp)
    }

    /// Reads the request body.
    pub(crate) async fn read_body(&mut self, limit: Limit) -> Result<Bytes, Error> {
        self.body.read(limit, self.app.config.body_timeout, &self.app.bodies).await
    }

    /// The request body, for a handler that reads it piece by piece.
    pub(crate) fn take_body(&mut self) -> RequestBody {
        std::mem::replace(&mut self.body, RequestBody::new(Body::empty()))
    }

    /// An error as it is written in the midst of an answer that has begun.
    pub(crate) fn problem_of(&self, error: &Error) -> Problem {
        let mut problem = Problem::of(error);
        problem.instance = self.id.to_str().ok().map(str::to_owned);
        problem.folder = self.folder;
        problem.server = Some(self.app.engine.server_id().to_owned());
        problem
    }

    /// The idempotency key that was sent.
    pub(crate) fn idempotency_key(&self) -> Result<Option<&str>, Error> {
        idempotency_key(&self.head.headers)
    }

    /// The idempotency key of the request, bound to everything that makes the request what it is.
    pub(crate) fn idempotency(&self, body: &[u8]) -> Result<Option<Idempotency>, Error> {
        let headers = &self.head.headers;
        let Some(key) = idempotency_key(headers)? else { return Ok(None) };
        let uri = &self.head.uri;
        let mut hash = Xxh3::new();
        let mut add = |piece: &[u8]| {
            hash.update(&(piece.len() as u64).to_le_bytes());
            hash.update(piece);
        };
        add(self.head.method.as_str().as_bytes());
        add(uri.path().as_bytes());
        add(uri.query().unwrap_or_default().as_bytes());
        for name in [IF_MATCH, IF_NONE_MATCH, CONTENT_TYPE] {
            headers.get_all(&name).for_each(|value| add(value.as_bytes()));
            add(name.as_str().as_bytes());
        }
        add(body);
        Ok(Some(Idempotency::new(key, hash.digest())))
    }

    /// Writes and waits for the acknowledgement.
    pub(crate) async fn write(&mut self, name: &SwampName, batch: Batch) -> Result<Committed, Error> {
        let batch = Batch { mark_deletes: self.standby, deadline: self.deadline, ..batch };
        let (copy, committed) = self.app.write(name, batch).await;
        self.copy = copy;
        let committed = committed?;
        self.note(committed.durability, committed.replayed);
        Ok(committed)
    }

    /// Takes down what the answer says about a write.
    pub(crate) fn note(&mut self, durability: Durability, replayed: bool) {
        self.durability = Some(durability);
        self.replayed = replayed;
    }

    /// Writes one operation.
    pub(crate) async fn write_one(&mut self, name: &SwampName, batch: Batch) -> Result<OpResult, Error> {
        let committed = self.write(name, batch).await?;
        committed.results.into_iter().next().unwrap_or_else(|| Err(unexpected("a write had no result")))
    }

    /// Says where what was done is, and whether it was done before.
    pub(crate) fn mark_written(&mut self, durability: Option<Durability>, replayed: bool) {
        self.durability = durability;
        self.replayed = replayed;
    }

    /// Says that what was done is on disk.
    pub(crate) fn mark_synced(&mut self) {
        self.mark(Durability::Synced);
    }

    /// Says where what was done is.
    pub(crate) fn mark(&mut self, durability: Durability) {
        self.durability = Some(durability);
    }

    /// Whether deletes leave a mark even where nothing was found.
    pub(crate) fn marks_deletes(&self) -> bool {
        self.standby
    }

    /// Completes the answer with what every answer carries, and counts it. Its body is still to be encoded.
    fn finish(self, outcome: Result<Response, Error>, label: Label) -> (Response, Encoding) {
        let code = outcome.as_ref().err().map(Error::code);
        let mut response = outcome.unwrap_or_else(|error| self.problem(&error));
        let mut encoding = Encoding::of(&self.head.headers, &response);
        let headers = response.headers_mut();
        origin::expose(&self.head, &self.app.config, headers);
        headers.insert(answer::SERVER, self.app.server.clone());
        headers.insert(answer::REQUEST_ID, self.id.clone());
        if let Some(folder) = self.folder {
            headers.insert(answer::FOLDER, HeaderValue::from(folder.get()));
            if let Some(count) = Some(self.app.engine.takeover_count(folder)).filter(|&count| count > 0) {
                headers.insert(answer::TAKEOVER, HeaderValue::from(count));
            }
        }
        if let Some(durability) = self.durability {
            headers.insert(answer::DURABLE, HeaderValue::from_static(durability.as_str()));
        }
        if self.replayed {
            headers.insert(answer::REPLAYED, HeaderValue::from_static("true"));
        }
        if self.standby {
            headers.insert(answer::SERVED_BY, HeaderValue::from_static("fallback"));
        }
        if self.copy != CopyState::Complete {
            headers.insert(answer::COPY, HeaderValue::from_static(self.copy.as_str()));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        let is_refused_patch = self.head.method == Method::PATCH && code == Some(ErrorCode::UnsupportedMediaType);
        if is_refused_patch || self.allow.is_some_and(|allow| allow.contains("PATCH")) {
            headers.insert(answer::ACCEPT_PATCH, HeaderValue::from_static(answer::PATCHES));
        }
        if self.head.method == Method::HEAD {
            without_body(&mut response);
        }
        encoding.describe(response.headers_mut());
        if self.head.method == Method::HEAD {
            encoding = Encoding::AsItIs;
        }
        self.account(label, response.status().as_u16(), code);
        if !self.head.headers.has(&EXPECT) {
            self.body.discard_rest();
        }
        (response, encoding)
    }

    fn problem(&self, error: &Error) -> Response {
        // Where one folder lives says nothing about the others that were asked for with it.
        let about_many =
            (self.folder.is_none() && error.moved_to().is_some()).then(|| error.clone().without_moved_to());
        let error = about_many.as_ref().unwrap_or(error);
        let problem = self.problem_of(error);
        if problem.status >= 500 && !is_passing(error.code()) {
            tracing::error!(id = ?self.id, code = %error.code(), "{error}");
        }
        answer::problem(error, &problem)
    }

    /// Counts the request and writes one line about it: never names, keys, values or tokens.
    fn account(&self, label: Label, status: u16, code: Option<ErrorCode>) {
        let took = self.begun.elapsed();
        let metrics = &self.app.metrics;
        metrics.count(&self.head.method, label, status, took);
        if let Some(folder) = self.folder {
            metrics.count_folder(folder);
        }
        if let Some(code) = code {
            metrics.count_refusal(code);
        }
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    id = ?self.id,
                    method = %self.head.method,
                    route = label.name(),
                    folder = self.folder.map(FolderId::get),
                    token = self.access.name(),
                    status,
                    code = code.map(ErrorCode::as_str),
                    micros = took.as_micros() as u64,
                    $text
                )
            };
        }
        match code.map(Gravity::of) {
            None | Some(Gravity::Ordinary) => line!(debug, "answered"),
            Some(Gravity::Mistake) => line!(info, "refused"),
            Some(Gravity::Grave) => line!(warn, "refused"),
        }
    }
}

/// How much an error answer matters to whoever runs the server.
enum Gravity {
    /// An answer like any other: nothing is there, or somebody else was first.
    Ordinary,
    /// The client did something wrong.
    Mistake,
    /// Somebody was kept out, or the server could not do it.
    Grave,
}

impl Gravity {
    fn of(code: ErrorCode) -> Gravity {
        match code.status() {
            404 | 412 => Gravity::Ordinary,
            401 | 403 | 429 | 500.. => Gravity::Grave,
            _ => Gravity::Mistake,
        }
    }
}

/// Whether a refusal is nothing to look into: it ends by itself, and every caller has its line in the log.
fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Draining | ErrorCode::Busy | ErrorCode::FolderSealed | ErrorCode::ServerTimeout)
}

/// A HEAD says how long the body would be and leaves it out.
fn without_body(response: &mut Response) {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = Body::empty();
}

/// The swamp, hydrated where need be.
pub(crate) async fn swamp(engine: &Engine, name: &SwampName) -> Result<Swamp, Error> {
    match engine.resident(name) {
        Some(swamp) => Ok(swamp),
        None => hydrate(engine, name, None).await,
    }
}

/// Waits for memory where that costs no thread.
pub(crate) async fn hydrate(engine: &Engine, name: &SwampName, deadline: Option<Instant>) -> Result<Swamp, Error> {
    let until = memory_patience(deadline);
    loop {
        let in_time = Instant::now() < until;
        if engine.has_room() || !in_time {
            let (engine, name) = (engine.clone(), name.clone());
            // The threads that read from the disk may have had much to do before.
            let work = move || match deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                true => Err(Error::too_late()),
                false => engine.hydrate_now(&name),
            };
            match blocking(work).await {
                Err(error) if error.code() == ErrorCode::Busy && in_time => {}
                outcome => return outcome,
            }
        }
        tokio::time::sleep(MEMORY_AGAIN).await;
    }
}

/// Until when room in memory is waited for.
fn memory_patience(deadline: Option<Instant>) -> Instant {
    let until = Instant::now() + MEMORY_PATIENCE;
    deadline.map_or(until, |deadline| deadline.min(until))
}

/// Runs what may wait for the disk, or compute for long, on a thread that may.
///
/// # Errors
/// Those of `work`; `internal` when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => Err(panicked(panic.as_ref())),
            Err(_) => Err(Error::new(ErrorCode::Draining, "this server is shutting down")),
        },
    }
}

/// Runs `work` here when it is about few bytes, else where it keeps nobody waiting.
///
/// # Errors
/// Those of `work`.
pub(crate) async fn by_size<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    const QUICK: usize = 256 << 10;
    if bytes <= QUICK { work() } else { blocking(work).await }
}

/// The engine answered something that does not belong to the question.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("{what}; this is a defect of the server")).with_applied(Applied::Unknown)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a message"), "a request panicked");
    unexpected("the request could not be completed")
}
