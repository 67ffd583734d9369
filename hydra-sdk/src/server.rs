//! One server of the map: its connections, what is known about its health, and one exchange with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hydra_core::Applied;
use hydra_core::wire::header;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::access::{Credentials, authority};
use crate::cluster::Announce;
use crate::error::{Attempt, Error, ErrorKind, Result, TryOutcome};
use crate::failback::Stays;
use crate::health::Health;
use crate::map::MapServer;
use crate::outcome::{self, Answer, AnswerBody, Failure, Outcome};
use crate::request::Request;
use crate::settings::{Failback, Settings};

/// Where a server says who it is.
const PROBE: &str = "/v1/probe";
/// How long an unused connection is kept: shorter than servers keep theirs, or requests would meet
/// connections that are just being closed.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// How many unused connections are kept.
const POOL_SIZE: usize = 32;

/// One server, shared by all maps that list it in the same way.
#[derive(Debug)]
pub(crate) struct Server {
    listed: MapServer,
    /// How errors call it: its id, or its address where the id is not known.
    label: String,
    pool: String,
    settings: Settings,
    client: reqwest::Client,
    credentials: Arc<Credentials>,
    pub(crate) health: Health,
    /// Where this server is the primary: the folders that stay with a fallback.
    pub(crate) stays: Stays,
    is_suspected: AtomicBool,
}

/// What a try needs to know beside the request.
#[derive(Debug, Clone)]
pub(crate) struct ThisTry<'c> {
    /// The longest it may take.
    pub(crate) timeout: Duration,
    /// How long the whole call still has.
    pub(crate) left: Duration,
    /// What the server is told about the map.
    pub(crate) announce: Announce<'c>,
    /// The id of the primary when a fallback is asked in its place.
    pub(crate) fallback_for: Option<&'c str>,
}

impl Server {
    pub(crate) fn new(
        listed: &MapServer,
        label: String,
        pool: &str,
        settings: &Settings,
        credentials: &Arc<Credentials>,
    ) -> Result<Server> {
        // To agree on TLS takes two more ways there and back.
        let connect_timeout = settings.connect_timeout * if listed.url.starts_with("https://") { 3 } else { 1 };
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(connect_timeout)
            .tls_backend_preconfigured(credentials.tls.clone())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_SIZE)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .build()
            .map_err(|error| Error::new(ErrorKind::Config, format!("no HTTP client could be made: {error}")))?;
        Ok(Server {
            listed: listed.clone(),
            label,
            pool: pool.to_owned(),
            settings: settings.clone(),
            client,
            credentials: Arc::clone(credentials),
            health: Health::new(),
            stays: Stays::default(),
            is_suspected: AtomicBool::new(false),
        })
    }

    /// Whether a map lists it in the same way, so that connections and health may be kept.
    pub(crate) fn is_listed_as(&self, listed: &MapServer, pool: &str, settings: &Settings) -> bool {
        self.listed == *listed && self.pool == pool && self.settings == *settings
    }

    pub(crate) fn id(&self) -> &str {
        &self.listed.id
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn listed(&self) -> &MapServer {
        &self.listed
    }

    pub(crate) fn pool(&self) -> &str {
        &self.pool
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request once and waits for the answer: one try.
    pub(crate) async fn exchange(&self, request: &Request, this: &ThisTry<'_>) -> Outcome {
        let http = match self.prepare(request, this) {
            Ok(http) => http,
            Err(failure) => return Outcome::NotSent(failure),
        };
        let begun = Instant::now();
        let response = match request.within(this.timeout, self.client.execute(http)).await {
            None => return Outcome::Maybe(Failure::timeout()),
            Some(Err(error)) => return outcome::of_error(&error),
            Some(Ok(response)) => response,
        };
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: AnswerBody::Open(response),
        };
        if request.collect || outcome::needs_body(answer.status) {
            let left = this.timeout.saturating_sub(begun.elapsed());
            match collect(answer, request, left).await {
                Ok(whole) => answer = whole,
                Err(failure) => return Outcome::Maybe(failure),
            }
        }
        outcome::of_answer(answer)
    }

    /// Asks this server and nobody else: one try.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        deadline: Option<Duration>,
        announce: Announce<'_>,
    ) -> Result<Answer> {
        let timeout = deadline.unwrap_or(self.settings.bulk_timeout);
        let this = ThisTry { timeout, left: timeout, announce, fallback_for: None };
        let begun = Instant::now();
        let (outcome, why, error) = match self.exchange(request, &this).await {
            Outcome::Answered(answer) | Outcome::Rejected(answer, _) => match outcome::foreign(&answer) {
                None => return Ok(answer),
                Some(error) => (TryOutcome::Answered, "is not a Hydra server".to_owned(), error),
            },
            Outcome::NotSent(failure) => (TryOutcome::NotSent, failure.why, unanswered(false)),
            Outcome::Maybe(failure) => (TryOutcome::Maybe, failure.why, unanswered(failure.timed_out)),
        };
        let in_doubt = outcome != TryOutcome::NotSent && request.class.is_write();
        let attempt = Attempt { server: self.label.clone(), outcome, error: why, elapsed: begun.elapsed() };
        let applied = if in_doubt { Applied::Unknown } else { Applied::No };
        Err(error.with_applied(applied).with_attempts(vec![attempt]))
    }

    fn prepare(&self, request: &Request, this: &ThisTry<'_>) -> Result<reqwest::Request, Failure> {
        let base = self.listed.url.trim_end_matches('/');
        let url = Url::parse(&format!("{base}{}", request.target))
            .map_err(|error| Failure::new(format!("has an address that cannot be used ({error})")))?;
        let mut http = reqwest::Request::new(request.method.clone(), url);
        *http.headers_mut() = request.headers.clone();
        if request.own_token && !request.headers.contains_key(AUTHORIZATION) {
            let token = self.credentials.authorization();
            http.headers_mut().extend(token.map(|token| (AUTHORIZATION, token)));
        }
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                http.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(pool) = this.announce.pool {
            set(header::POOL, pool);
        }
        // What a request that is passed on says itself is for the server to judge.
        if let Some(folders) = this.announce.folders.filter(|_| !request.headers.contains_key(header::FOLDERS)) {
            set(header::FOLDERS, &folders.to_string());
        }
        if let Some(primary) = this.fallback_for {
            set(header::FALLBACK_FOR, primary);
        }
        set(header::DEADLINE_MS, &this.left.as_millis().to_string());
        *http.body_mut() = request.body.to_http()?;
        Ok(http)
    }

    /// Notes that no connection could be made, and begins to look out for the server's return.
    pub(crate) fn note_down(self: &Arc<Server>) {
        if self.health.down() {
            tracing::warn!(server = %self.label, "the server is down; its fallbacks are asked first");
            tokio::spawn(look_out(Arc::downgrade(self)));
        }
    }

    /// Notes that an answer did not come in time: tries once whether anyone takes a new connection.
    pub(crate) fn note_silent(self: &Arc<Server>) {
        if self.is_suspected.swap(true, Ordering::AcqRel) {
            return;
        }
        let server = Arc::clone(self);
        tokio::spawn(async move {
            if !server.accepts().await {
                server.note_down();
            }
            server.is_suspected.store(false, Ordering::Release);
        });
    }

    /// Whether anyone takes a new connection. Those that are open say nothing about that.
    pub(crate) async fn accepts(&self) -> bool {
        let connecting = tokio::net::TcpStream::connect(authority(&self.listed.url));
        matches!(tokio::time::timeout(self.settings.connect_timeout, connecting).await, Ok(Ok(_)))
    }

    /// Asks the server who it is.
    async fn probe(&self) -> Outcome {
        let request = Request::get(PROBE);
        let timeout = self.settings.try_timeout.min(Duration::from_secs(1));
        self.exchange(&request, &ThisTry { timeout, left: timeout, announce: Announce::default(), fallback_for: None })
            .await
    }
}

fn unanswered(timed_out: bool) -> Error {
    let kind = if timed_out { ErrorKind::Timeout } else { ErrorKind::Network };
    Error::new(kind, "the server did not answer")
}

/// Reads the body of an answer. Fails where the answer is worth nothing without it.
async fn collect(answer: Answer, request: &Request, left: Duration) -> Result<Answer, Failure> {
    let Answer { status, headers, body } = answer;
    let AnswerBody::Open(response) = body else { return Ok(Answer { status, headers, body }) };
    let failure = match tokio::time::timeout(left, response.bytes()).await {
        Ok(Ok(bytes)) => return Ok(Answer { status, headers, body: AnswerBody::Whole(bytes) }),
        Ok(Err(error)) => Failure { timed_out: error.is_timeout(), ..Failure::new(outcome::describe(&error)) },
        Err(_) => Failure::timeout(),
    };
    match (request.class.is_write(), (200..300).contains(&status)) {
        // The head said that it was done; what would have followed can be read again.
        (true, true) => Ok(Answer { status, headers, body: AnswerBody::Lost(failure) }),
        (true, false) => Ok(Answer { status, headers, body: AnswerBody::Whole(bytes::Bytes::new()) }),
        (false, _) => Err(failure),
    }
}

/// Asks a server that is down until it has been back for the hold-down. Ends when no client is left
/// that knows the server.
async fn look_out(server: Weak<Server>) {
    loop {
        let Some(pause) = server.upgrade().map(|server| pause_between_probes(&server.settings)) else { return };
        tokio::time::sleep(pause).await;
        let Some(server) = server.upgrade() else { return };
        match server.probe().await {
            Outcome::Answered(answer) if answer.status < 500 => {
                let trusted = server.health.back() >= server.settings.hold_down;
                if trusted && server.settings.failback != Failback::Manual {
                    tracing::info!(server = %server.label, "the server is back");
                    server.health.up();
                }
            }
            _ => {
                server.health.down();
            }
        }
        if server.health.is_up() {
            return;
        }
    }
}

/// Often enough to end the hold-down in time, rarely enough to cost nothing.
pub(crate) fn pause_between_probes(settings: &Settings) -> Duration {
    (settings.hold_down / 10).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

impl Request {
    fn get(target: &str) -> Request {
        Request::new(crate::settings::OpClass::Read, Method::GET, target.to_owned())
    }
}
