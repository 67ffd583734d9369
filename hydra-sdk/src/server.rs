//! One server of the map: its connections, what is known about its health, and one exchange with it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hydra_core::Applied;
use reqwest::Method;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::{Credentials, authority};
use crate::breaker::{Change, Signal};
use crate::budget::Budget;
use crate::cluster::Announce;
use crate::connections::{self, Connections, POOL_SIZE};
use crate::error::{Attempt, Error, ErrorKind, Result, TryOutcome};
use crate::failback::Stays;
use crate::headers;
use crate::health::Health;
use crate::map::MapServer;
use crate::notice::{ClientEvent, Notices};
use crate::outcome::{self, Answer, AnswerBody, Cause, Failure, Outcome, Remedy};
use crate::probe::{self, Expected};
use crate::request::Request;
use crate::settings::Settings;
use crate::timers::{Timer, Timers};

/// How many requests may be under way.
pub(crate) const IN_FLIGHT: usize = 512;
/// After so long without an answer somebody looks whether the server is there at all; again after twice the time.
const SILENCE: Duration = Duration::from_millis(250);

/// One server, shared by all maps that list it in the same way.
#[derive(Debug)]
pub(crate) struct Server {
    listed: MapServer,
    /// How errors call it: its id, or its address where the id is not known.
    label: String,
    pool: String,
    settings: Settings,
    credentials: Arc<Credentials>,
    /// Its connections; others take their place when it dies.
    connections: ArcSwap<Connections>,
    in_flight: Semaphore,
    timers: Timers,
    /// Who the map says it is; nothing where only its address is known.
    pub(crate) expected: Option<Expected>,
    pub(crate) notices: Notices,
    pub(crate) health: Health,
    /// For asking it again.
    pub(crate) retries: Budget,
    /// For asking it in place of a primary that may have done the work.
    pub(crate) failovers: Budget,
    /// Where this server is the primary: the folders that stay with a fallback.
    pub(crate) stays: Stays,
    /// Held by the one who asks it who it is.
    pub(crate) introduction: tokio::sync::Mutex<()>,
    /// A probe is under way.
    pub(crate) is_probed: AtomicBool,
    /// When the last one began.
    pub(crate) last_probe: Mutex<Option<Instant>>,
    /// Its certificate was not trusted the last time.
    is_distrusted: AtomicBool,
    /// Somebody looks out for its return.
    pub(crate) is_awaited: AtomicBool,
    me: Weak<Server>,
}

/// Something that one task at a time does for a server. It is free again when this is dropped, as it is when the runtime
/// of the task ends while the client lives on.
#[derive(Debug)]
pub(crate) struct Duty {
    server: Weak<Server>,
    taken: fn(&Server) -> &AtomicBool,
}

impl Duty {
    /// Takes it, unless somebody has it.
    pub(crate) fn take(server: &Server, taken: fn(&Server) -> &AtomicBool) -> Option<Duty> {
        let is_free = !taken(server).load(Ordering::Acquire) && !taken(server).swap(true, Ordering::AcqRel);
        is_free.then(|| Duty { server: server.me(), taken })
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(server) = self.server.upgrade() {
            (self.taken)(&server).store(false, Ordering::Release);
        }
    }
}

/// What a server is made from.
#[derive(Debug)]
pub(crate) struct Making<'m> {
    pub(crate) listed: &'m MapServer,
    pub(crate) label: &'m str,
    pub(crate) pool: &'m str,
    pub(crate) settings: &'m Settings,
    pub(crate) credentials: &'m Arc<Credentials>,
    pub(crate) expected: Option<Expected>,
    pub(crate) notices: &'m Notices,
}

/// What a try needs to know beside the request.
#[derive(Debug, Clone)]
pub(crate) struct ThisTry<'c> {
    pub(crate) begun: Instant,
    /// The longest it may take from then on.
    pub(crate) timeout: Duration,
    /// How long the whole call still has.
    pub(crate) left: Duration,
    /// What the server is told about the map.
    pub(crate) announce: Announce<'c>,
    /// The primary when a fallback is asked in its place.
    pub(crate) fallback_for: Option<Primary<'c>>,
}

/// A primary that does not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Primary<'c> {
    pub(crate) id: &'c str,
    /// In this very call it was tried, in vain.
    pub(crate) was_tried: bool,
}

impl fmt::Display for Primary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)?;
        if self.was_tried { f.write_str("; tried") } else { Ok(()) }
    }
}

impl Server {
    pub(crate) fn new(making: Making<'_>) -> Result<Arc<Server>> {
        let Making { listed, label, pool, settings, credentials, expected, notices } = making;
        let connections = Connections::new(&listed.url, settings, credentials, POOL_SIZE)?;
        Ok(Arc::new_cyclic(|me| Server {
            listed: listed.clone(),
            label: label.to_owned(),
            pool: pool.to_owned(),
            settings: settings.clone(),
            credentials: Arc::clone(credentials),
            connections: ArcSwap::from_pointee(connections),
            in_flight: Semaphore::new(IN_FLIGHT),
            timers: Timers::default(),
            expected,
            notices: notices.clone(),
            health: Health::new(settings.hold_down),
            retries: Budget::for_retries(),
            failovers: Budget::for_failovers(),
            stays: Stays::default(),
            introduction: tokio::sync::Mutex::default(),
            is_probed: AtomicBool::new(false),
            last_probe: Mutex::default(),
            is_distrusted: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            me: me.clone(),
        }))
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

    pub(crate) fn me(&self) -> Weak<Server> {
        Weak::clone(&self.me)
    }

    /// Room for one more request, waited for as long as a connection would be.
    pub(crate) async fn room(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(room) = self.in_flight.try_acquire() {
            return Some(room);
        }
        tokio::time::timeout(self.settings.connect_timeout, self.in_flight.acquire()).await.ok()?.ok()
    }

    /// Sends a request once and waits for the answer: one try, at a server that is who the map says.
    pub(crate) async fn exchange(&self, request: &Request, this: &ThisTry<'_>) -> Outcome {
        let outcome = match self.introduce(this.timeout).await {
            Ok(()) => self.send(&self.connections(), request, this).await,
            Err(failure) => Outcome::NotSent(failure),
        };
        let outcome = self.check_answerer(outcome, request);
        self.heed(&outcome);
        outcome
    }

    /// What the breaker makes of a try.
    fn heed(&self, outcome: &Outcome) {
        let signal = match outcome {
            Outcome::Answered(_) => Signal::Success,
            Outcome::Rejected(_, Remedy::Elsewhere) => Signal::Leaving,
            Outcome::Rejected(..) => Signal::Success,
            Outcome::NotSent(failure) | Outcome::Maybe(failure) => match failure.cause {
                Cause::Unreachable => Signal::Hard,
                Cause::Untrusted => return self.distrust(&failure.why),
                Cause::Broken => Signal::Soft,
                Cause::Silence => Signal::Silence,
                Cause::Death | Cause::Unasked => return,
            },
        };
        self.tell(signal);
    }

    /// Whoever is there is not trusted: told once, until it answers as it should. It is no outage, so the breaker stays as it is.
    fn distrust(&self, why: &str) {
        if !self.is_distrusted.swap(true, Ordering::AcqRel) {
            let (server, why) = (self.label.clone(), why.to_owned());
            self.notices.emit(&ClientEvent::ServerUntrusted { server, why });
        }
    }

    /// Tells the breaker, and does what follows from it.
    pub(crate) fn tell(&self, signal: Signal) {
        if signal == Signal::Success && self.is_distrusted.load(Ordering::Relaxed) {
            self.is_distrusted.store(false, Ordering::Release);
        }
        match self.health.heed(signal) {
            Change::Nothing => {}
            Change::Suspected => self.suspect(),
            Change::Opened => {
                self.notices.emit(&ClientEvent::ServerDown { server: self.label.clone() });
                // What is open leads nowhere any more, or to a process that is gone.
                if let Ok(connections) = self.new_connections(POOL_SIZE) {
                    self.connections.store(Arc::new(connections));
                }
                probe::await_return(self);
            }
        }
    }

    /// The connections for ordinary requests.
    pub(crate) fn connections(&self) -> Arc<Connections> {
        self.connections.load_full()
    }

    /// Connections that nobody has used yet, and of which so many are kept; with none, each is used once.
    pub(crate) fn new_connections(&self, kept: usize) -> Result<Connections> {
        Connections::new(&self.listed.url, &self.settings, &self.credentials, kept)
    }

    /// Sends a request once, without a look at who answers.
    pub(crate) async fn send(&self, connections: &Connections, request: &Request, this: &ThisTry<'_>) -> Outcome {
        let sending = connections.send(request, self.headers_of(request, this));
        let mut timer = self.timers.at(this.begun + SILENCE.min(this.timeout));
        let mut answer = match self.unless_dead(sending, request, this, &mut timer).await {
            Err(outcome) => return outcome,
            Ok(answer) => answer,
        };
        if request.collect || answer.is_short() || outcome::needs_body(answer.status) {
            timer.reset(this.begun + this.timeout);
            match collect(answer, request, timer).await {
                Ok(whole) => answer = whole,
                Err(failure) => return Outcome::Maybe(failure),
            }
        }
        outcome::of_answer(answer)
    }

    /// Waits for an answer as long as the server lives and the try may take; a body that is streamed has that time for
    /// each piece. When the server is silent, somebody looks whether it lives. One timer does for both.
    async fn unless_dead(
        &self,
        answer: impl Future<Output = Result<Answer, Outcome>>,
        request: &Request,
        this: &ThisTry<'_>,
        timer: &mut Timer<'_>,
    ) -> Result<Answer, Outcome> {
        let mut answer = std::pin::pin!(answer);
        let (begun, limit) = (this.begun, this.timeout);
        let mut deaths = self.health.deaths();
        let mut silence = SILENCE;
        let (mut look_at, mut give_up_at) = (begun + silence, begun + limit);
        loop {
            tokio::select! {
                biased;
                answered = answer.as_mut() => return answered,
                () = &mut *timer => {
                    if give_up_at > look_at {
                        self.suspect();
                        silence *= 2;
                        look_at += silence;
                    } else if request.has_moved_within(limit) {
                        give_up_at += limit;
                    } else {
                        return Err(Outcome::Maybe(Failure::timeout()));
                    }
                    timer.reset(look_at.min(give_up_at));
                }
                Ok(()) = deaths.changed() => break,
            }
        }
        // A try that still connects ends by itself, and knows then that nothing was sent.
        let connecting = self.connect_timeout().min(limit).saturating_sub(begun.elapsed());
        match tokio::time::timeout(connecting, answer).await {
            Ok(answered) => answered,
            Err(_) => Err(Outcome::Maybe(Failure::new(Cause::Death, "died before it answered"))),
        }
    }

    /// The longest a new connection may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        connections::connect_timeout(&self.listed.url, &self.settings)
    }

    /// Asks this server and nobody else: one try.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        deadline: Option<Duration>,
        announce: Announce<'_>,
    ) -> Result<Answer> {
        let timeout = deadline.unwrap_or(self.settings.bulk_timeout);
        let begun = Instant::now();
        let this = ThisTry { begun, timeout, left: timeout, announce, fallback_for: None };
        let tried = self.send(&self.connections(), request, &this).await;
        self.heed(&tried);
        let (outcome, why, error) = match tried {
            Outcome::Answered(answer) | Outcome::Rejected(answer, _) => match outcome::foreign(&answer) {
                None => return Ok(answer),
                Some(error) => (TryOutcome::Answered, "is not a Hydra server".to_owned(), error),
            },
            Outcome::NotSent(failure) => (TryOutcome::NotSent, failure.why, unanswered(false)),
            Outcome::Maybe(failure) => (TryOutcome::Maybe, failure.why, unanswered(failure.cause == Cause::Silence)),
        };
        let in_doubt = outcome != TryOutcome::NotSent && request.class.is_write();
        let attempt = Attempt { server: self.label.clone(), outcome, error: why, elapsed: begun.elapsed() };
        let applied = if in_doubt { Applied::Unknown } else { Applied::No };
        Err(error.with_applied(applied).with_attempts(vec![attempt]))
    }

    /// The head of a request as this try sends it.
    fn headers_of(&self, request: &Request, this: &ThisTry<'_>) -> HeaderMap {
        let mut headers = request.headers.clone();
        if request.own_token && !request.headers.contains_key(AUTHORIZATION) {
            let token = self.credentials.authorization();
            headers.extend(token.map(|token| (AUTHORIZATION, token)));
        }
        // Names of pools and servers are printable, whatever the map.
        let text = |text: &str| HeaderValue::from_str(text).ok();
        if let Some(pool) = this.announce.pool.and_then(text) {
            headers.insert(headers::POOL, pool);
        }
        // What a request that is passed on says itself is for the server to judge.
        if let Some(folders) = this.announce.folders.filter(|_| !request.headers.contains_key(headers::FOLDERS)) {
            headers.insert(headers::FOLDERS, HeaderValue::from(folders));
        }
        if let Some(primary) = this.fallback_for.and_then(|primary| text(&primary.to_string())) {
            headers.insert(headers::FALLBACK_FOR, primary);
        }
        let left = u64::try_from(this.left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(headers::DEADLINE_MS, HeaderValue::from(left));
        headers
    }

    /// Whether anyone takes a new connection. Those that are open say nothing about that.
    pub(crate) async fn accepts(&self) -> bool {
        let connecting = tokio::net::TcpStream::connect(authority(&self.listed.url));
        matches!(tokio::time::timeout(self.settings.connect_timeout, connecting).await, Ok(Ok(_)))
    }
}

fn unanswered(timed_out: bool) -> Error {
    let kind = if timed_out { ErrorKind::Timeout } else { ErrorKind::Network };
    Error::new(kind, "the server did not answer")
}

/// Reads the body of an answer until the timer ends. Fails where the answer is worth nothing without it.
async fn collect(answer: Answer, request: &Request, timer: Timer<'_>) -> Result<Answer, Failure> {
    let Answer { status, headers, body } = answer;
    let AnswerBody::Open(pieces) = body else { return Ok(Answer { status, headers, body }) };
    let failure = tokio::select! {
        biased;
        collected = pieces.collect() => match collected {
            Ok(whole) => return Ok(Answer { status, headers, body: AnswerBody::Whole(whole.to_bytes()) }),
            Err(error) => Failure::new(outcome::cause_of(&error), outcome::describe(&error)),
        },
        () = timer => Failure::timeout(),
    };
    match (request.class.is_write(), (200..300).contains(&status)) {
        // The head said that it was done; what would have followed can be read again.
        (true, true) => Ok(Answer { status, headers, body: AnswerBody::Lost(failure) }),
        (true, false) => Ok(Answer { status, headers, body: AnswerBody::Whole(bytes::Bytes::new()) }),
        (false, _) => Err(failure),
    }
}

impl Request {
    pub(crate) fn get(target: &str) -> Request {
        Request::new(crate::settings::OpClass::Read, Method::GET, target.to_owned())
    }
}
