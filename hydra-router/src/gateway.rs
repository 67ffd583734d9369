//! The router behind its port: what holds for every request.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use http::header::{EXPECT, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use hydra_core::wire::Parameters;
use hydra_core::{Error, ErrorCode, FolderCount, Timestamp};
use hydra_sdk::{ClientMap, Hydra};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Refusal, Response};
use crate::body::{KeptMemory, RequestBody};
use crate::config::{Config, MAX_HEADER_BYTES, MAX_URI_BYTES};
use crate::metrics::Metrics;
use crate::route::{Place, Route};
use crate::{catalog, export, fan_out, feeds, folders, forward, import, overview, service, split};

/// What all requests share. Nothing of it outlives the process, so any number of routers may run.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) hydra: Hydra,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) kept: KeptMemory,
    router: HeaderValue,
    draining: AtomicBool,
    /// Ends feeds and long polls, which would not end by themselves.
    pub(crate) ending: CancellationToken,
    /// What request ids begin with, so that those of this process differ from those of the one before.
    started: String,
    requests: AtomicU64,
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: Parts,
    /// The id that goes with it to the servers and back.
    pub(crate) id: HeaderValue,
    /// When it came.
    pub(crate) begun: Instant,
}

impl Gateway {
    pub(crate) fn new(hydra: Hydra, config: Config) -> Gateway {
        Gateway {
            metrics: Arc::new(Metrics::new(hydra.map().map_or(FolderCount::DEFAULT, |map| map.folders()))),
            kept: KeptMemory::new(config.max_kept_memory),
            router: answer::ascii(config.id.clone()),
            draining: AtomicBool::new(false),
            ending: CancellationToken::new(),
            started: format!("{}-{:x}", config.id, Timestamp::now().as_millis()),
            requests: AtomicU64::new(0),
            hydra,
            config,
        }
    }

    /// From now on only service paths are answered; requests that have begun go on, but for feeds and long polls.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.ending.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The map in force.
    pub(crate) fn map(&self) -> Arc<ClientMap> {
        self.hydra.map().expect("run() refuses a data set without a map, and a map is only ever exchanged")
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        let begun = Instant::now();
        let (parts, incoming) = request.into_parts();
        let body = RequestBody::new(incoming, self.config.body_timeout, parts.headers.contains_key(EXPECT));
        let mut head = Head { id: self.request_id(&parts), parts, begun };
        let outcome = self.dispatch(&mut head, body).await;
        let mut response = outcome.unwrap_or_else(|refusal| refusal.into_response(&head.id));
        response.headers_mut().append(answer::ROUTER, self.router.clone());
        response.headers_mut().entry(answer::REQUEST_ID).or_insert_with(|| head.id.clone());
        let status = response.status().as_u16();
        self.metrics.answered(status);
        // Never names, keys or values.
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(id = ?head.id, method = %head.parts.method, status, micros, "answered");
        response
    }

    async fn dispatch(&self, head: &mut Head, body: RequestBody) -> Result<Response, Refusal> {
        check_head(&head.parts)?;
        let route = Route::parse(head.parts.uri.path())?;
        self.admit(&head.parts, &route)?;
        // What is in a box here is so large that all requests would have to keep room for it.
        match route {
            Route::Named(name, place) => forward::forward(self, head, body, &name, &place).await,
            Route::Events => {
                let wanted = feeds::Wanted::of(head)?;
                match wanted.one_place(&self.map()) {
                    Some(name) => forward::forward(self, head, body, name, &Place::Verb).await,
                    None => Box::pin(feeds::merged(self, head, wanted)).await,
                }
            }
            Route::Policies => fan_out::policies(self, head, body).await,
            Route::Flush => fan_out::flush(self, head, body).await,
            Route::BatchAcross => Box::pin(split::batch(self, head, body)).await,
            Route::Swamps(sanctuary, realm) => Box::pin(catalog::list(self, head, sanctuary, realm)).await,
            Route::ImportAll => Box::pin(import::all(self, head, body)).await,
            Route::ExportAll => Box::pin(export::all(self, head)).await,
            Route::Folders(wanted) => folders::list(self, head, wanted).await,
            Route::Map => service::map(self, &head.parts),
            Route::OpenApi => service::openapi(self, head).await,
            Route::Metrics => Ok(service::metrics(self)),
            Route::Ready => service::ready(self),
            Route::Probe => service::probe(self),
            Route::Version => service::version(self),
            Route::Problem(code) => service::problem(&code),
            Route::Page => Ok(overview::page()),
            Route::Status => overview::status(self, head).await,
            Route::Health => service::health(),
            Route::Welcome => service::welcome(self, &head.parts),
        }
    }

    /// Everything that must hold before a request goes anywhere.
    fn admit(&self, head: &Parts, route: &Route) -> Result<(), Refusal> {
        if let Some(allow) = route.allow().filter(|_| !route.allows(&head.method)) {
            let error =
                Error::new(ErrorCode::MethodNotAllowed, format!("{} is not allowed here; {allow} are", head.method));
            return Err(Refusal { allow: Some(allow), ..error.into() });
        }
        // Whoever watches whether somebody is there may add what he likes.
        if route.is_service() && !matches!(route, Route::Health | Route::Ready | Route::Metrics) {
            Parameters::parse(head.uri.query(), &[])?;
        }
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        if let Some(origin) = head.headers.get(ORIGIN).filter(|_| !is_read) {
            let detail = format!("a page from {origin:?} may not change anything here");
            return Err(Error::new(ErrorCode::OriginDenied, detail)
                .with_hint("browsers send Origin; programs that are no browser leave it out")
                .into());
        }
        if self.is_draining() && !route.is_service() {
            return Err(Error::new(ErrorCode::Draining, "this router is shutting down").into());
        }
        Ok(())
    }

    fn request_id(&self, head: &Parts) -> HeaderValue {
        let is_sane =
            |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        match head.headers.get(answer::REQUEST_ID).filter(is_sane) {
            Some(sent) => sent.clone(),
            None => {
                let number = self.requests.fetch_add(1, Ordering::Relaxed);
                // The number has up to 16 digits.
                let mut id = String::with_capacity(self.started.len() + 17);
                let _ = write!(id, "{}-{number:x}", self.started);
                answer::ascii(id)
            }
        }
    }
}

/// Refuses conditions, for what is taken apart here and cannot keep one.
pub(crate) fn no_conditions(head: &Parts) -> Result<(), Error> {
    match [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE].iter().find(|name| head.headers.contains_key(*name)) {
        Some(name) => {
            let detail = format!("the header {name} cannot be kept by this request; leave it out");
            Err(Error::new(ErrorCode::InvalidHeader, detail))
        }
        None => Ok(()),
    }
}

/// Refuses heads that are too long.
fn check_head(head: &Parts) -> Result<(), Error> {
    let target = head.uri.path().len() + head.uri.query().map_or(0, |query| query.len() + 1);
    if target > MAX_URI_BYTES {
        let detail = format!("the request target has {target} bytes; {MAX_URI_BYTES} are allowed");
        return Err(Error::new(ErrorCode::UriTooLong, detail));
    }
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers > MAX_HEADER_BYTES {
        let detail = format!("the headers have {headers} bytes; {MAX_HEADER_BYTES} are allowed");
        return Err(Error::new(ErrorCode::HeadersTooLarge, detail));
    }
    Ok(())
}
