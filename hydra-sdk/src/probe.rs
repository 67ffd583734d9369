//! Asking a server who it is and whether it is there, beside the calls: one probe at a time per server.

use std::sync::{MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hydra_core::wire::ProbeBody;
use hydra_core::{FolderCount, FolderSet};

use crate::breaker::Signal;
use crate::cluster::Announce;
use crate::connections::Connections;
use crate::headers;
use crate::notice::ClientEvent;
use crate::outcome::{Answer, Cause, Failure, Outcome};
use crate::request::Request;
use crate::server::{Duty, Server, ThisTry};
use crate::settings::{Failback, Settings};

/// Where a server says who it is, after a look at its disk.
const PROBE: &str = "/v1/probe";
/// How long it may take for that, once it is connected.
const PATIENCE: Duration = Duration::from_millis(300);

/// So much longer an introduction may take than a connection: of timers of the same length any may end first, and a
/// server that takes no connections would pass for one that is silent.
const LEEWAY: Duration = Duration::from_millis(20);

/// So far apart begin the probes that suspicions ask for. A server that answers late gives as many calls as it has the
/// same suspicion, and one answer is enough for all.
const APART: Duration = Duration::from_millis(100);

/// Who the map says that a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) cluster: String,
    pub(crate) folders: FolderCount,
}

/// What a probe found.
#[derive(Debug)]
enum Found {
    /// It answers, and may say who it is.
    Answer(Option<Box<ProbeBody>>),
    /// It says that it starts or shuts down.
    Leaving,
    /// It takes connections and does not answer.
    Silence,
    /// No connection could be made.
    Nobody(Failure),
    /// Its certificate is not trusted.
    Untrusted(Failure),
}

impl Server {
    /// Makes sure, within `limit`, that the server is who the map says, before anything else is asked of it.
    ///
    /// # Errors
    /// When it is somebody else, or cannot be reached. One that does not say who it is is taken at its word later.
    pub(crate) async fn introduce(&self, limit: Duration) -> Result<(), Failure> {
        if self.is_to_be_asked() {
            let begun = Instant::now();
            // One asks for all who come meanwhile. Where that came to nothing, each asks for itself.
            let asking = self.introduction.try_lock();
            if asking.is_err() {
                let _ = tokio::time::timeout(limit, self.introduction.lock()).await;
            }
            if self.is_to_be_asked() {
                self.ask_who(limit.saturating_sub(begun.elapsed())).await?;
            }
        }
        self.health.stranger().map_or(Ok(()), |why| Err(Failure::new(Cause::Unasked, why)))
    }

    fn is_to_be_asked(&self) -> bool {
        self.expected.is_some() && self.health.is_to_be_asked()
    }

    async fn ask_who(&self, limit: Duration) -> Result<(), Failure> {
        let patience = self.connect_timeout() + LEEWAY;
        match self.question(&self.connections(), patience.min(limit)).await {
            Found::Nobody(failure) | Found::Untrusted(failure) => return Err(failure),
            // It had no time to.
            Found::Silence if limit < patience => return Err(Failure::timeout()),
            Found::Answer(Some(said)) => self.heed_who(&said),
            Found::Answer(None) | Found::Leaving | Found::Silence => self.health.said_nothing(),
        }
        Ok(())
    }

    /// An answer of another server than the map lists at this address is not what was asked for.
    pub(crate) fn check_answerer(&self, outcome: Outcome, request: &Request) -> Outcome {
        let (Outcome::Answered(answer) | Outcome::Rejected(answer, _)) = &outcome else { return outcome };
        let Some(why) = self.expected.as_ref().and_then(|_| self.misnamed(answer)) else { return outcome };
        let is_done = request.class.is_write() && matches!(outcome, Outcome::Answered(_)) && answer.is_success();
        self.quarantine(&why);
        let failure = Failure::new(Cause::Unasked, why);
        if is_done { Outcome::Maybe(failure) } else { Outcome::NotSent(failure) }
    }

    /// What a router passes on comes from whom it asked, so it says nothing about the router.
    fn misnamed(&self, answer: &Answer) -> Option<String> {
        let says = answer.header(headers::SERVER).filter(|says| *says != self.id())?;
        let is_direct = answer.header(headers::ROUTER).is_none();
        is_direct.then(|| format!("says that it is {says:?}"))
    }

    /// The folders that the server says it owns; nothing if it does not answer, or is somebody else.
    pub(crate) async fn owned(&self) -> Option<FolderSet> {
        match self.question(&self.connections(), self.connect_timeout() + PATIENCE).await {
            Found::Answer(Some(said)) if said.server == self.id() => said.owned.parse().ok(),
            _ => None,
        }
    }

    fn heed_who(&self, said: &ProbeBody) {
        let Some(expected) = &self.expected else { return };
        match stranger(self.id(), expected, said) {
            Some(why) => self.quarantine(&why),
            None => {
                self.health.said_who(None);
            }
        }
    }

    fn quarantine(&self, why: &str) {
        if self.health.said_who(Some(why)) {
            let server = self.label().to_owned();
            self.notices.emit(&ClientEvent::ServerQuarantined { server, why: why.to_owned() });
        }
    }

    /// Looks once, beside the calls, whether the server is there; unless somebody does already or is about to.
    pub(crate) fn suspect(&self) {
        let Some(duty) = Duty::take(self, |server| &server.is_probed) else { return };
        let Some(server) = self.me().upgrade() else { return };
        let pause = self.last_probe().and_then(|begun| APART.checked_sub(begun.elapsed()));
        tokio::spawn(async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            server.probe_now().await;
            drop(duty);
        });
    }

    /// One probe; while somebody else is at it, a pause in its place: the breaker hears of theirs.
    async fn probe(&self) {
        match Duty::take(self, |server| &server.is_probed) {
            Some(_duty) => self.probe_now().await,
            None => tokio::time::sleep(LEEWAY).await,
        }
    }

    /// When the last probe began.
    fn last_probe(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last_probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One new connection and one question; the breaker hears of it.
    async fn probe_now(&self) {
        *self.last_probe() = Some(Instant::now());
        // Connections that are open say nothing about whether others can be made.
        let Ok(connections) = self.new_connections(0) else { return };
        let signal = match self.question(&connections, self.connect_timeout() + PATIENCE).await {
            Found::Answer(said) => {
                said.iter().for_each(|said| self.heed_who(said));
                Signal::ProbeAnswered
            }
            Found::Leaving | Found::Nobody(_) => Signal::ProbeFailed,
            Found::Silence | Found::Untrusted(_) => Signal::ProbeSilent,
        };
        self.tell(signal);
    }

    async fn question(&self, connections: &Connections, timeout: Duration) -> Found {
        let begun = Instant::now();
        let this = ThisTry { begun, timeout, left: timeout, announce: Announce::default(), fallback_for: None };
        match self.send(connections, &Request::get(PROBE), &this).await {
            Outcome::Answered(answer) if answer.status < 500 => found(&answer),
            Outcome::Answered(_) | Outcome::Rejected(..) => Found::Leaving,
            Outcome::NotSent(failure) if failure.cause == Cause::Unreachable => Found::Nobody(failure),
            Outcome::NotSent(failure) if failure.cause == Cause::Untrusted => Found::Untrusted(failure),
            Outcome::NotSent(_) | Outcome::Maybe(_) => Found::Silence,
        }
    }
}

/// A server that takes no writes any more is set aside, although it answers.
fn found(answer: &Answer) -> Found {
    match serde_json::from_slice::<ProbeBody>(answer.bytes()) {
        Ok(said) if said.writable => Found::Answer(Some(Box::new(said))),
        Ok(_) => Found::Leaving,
        Err(_) => Found::Answer(None),
    }
}

/// What differs between who answers and who the map says.
fn stranger(id: &str, expected: &Expected, said: &ProbeBody) -> Option<String> {
    if said.server != id {
        return Some(format!("says that it is {:?}", said.server));
    }
    if said.cluster != expected.cluster {
        return Some(format!("says that it is of cluster {:?}, the map is for {:?}", said.cluster, expected.cluster));
    }
    let (counts, expected) = (said.folders, expected.folders);
    (counts != expected).then(|| format!("says that it has {counts} folders, the map has {expected}"))
}

/// Looks out for the return of a server that is down, until it is trusted again; unless somebody does already.
pub(crate) fn await_return(server: &Server) {
    if let Some(duty) = Duty::take(server, |server| &server.is_awaited) {
        tokio::spawn(look_out(server.me(), duty));
    }
}

/// The same for a server that calls pass over: whoever looked out may have ended with the runtime it ran in.
pub(crate) fn await_return_again(server: &Server) {
    if server.health.until_probe().is_some() {
        await_return(server);
    }
}

/// Ends when the server is trusted, or when no client is left that knows it.
async fn look_out(server: Weak<Server>, mut duty: Duty) {
    loop {
        let Some(pause) = server.upgrade().map(|server| server.health.until_probe()) else { return };
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let Some(server) = server.upgrade() else { return };
        if pause.is_none() {
            drop(duty);
            // It may have gone down again just before that.
            if server.health.until_probe().is_none() {
                return;
            }
            let Some(again) = Duty::take(&server, |server| &server.is_awaited) else { return };
            duty = again;
            continue;
        }
        server.probe().await;
        if server.settings().failback != Failback::Manual && server.health.trust() {
            server.notices.emit(&ClientEvent::ServerBack { server: server.label().to_owned() });
        }
    }
}

/// Often enough to end the hold-down in time, rarely enough to cost nothing.
pub(crate) fn pause_between_probes(settings: &Settings) -> Duration {
    (settings.hold_down / 10).clamp(Duration::from_millis(20), Duration::from_secs(1))
}
