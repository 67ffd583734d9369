//! The tries of one call: those made, those to come, and what each of them means for the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydra_core::Applied;
use tokio::sync::SemaphorePermit;

use super::{Answered, Call, candidates};
use crate::breaker::{Admission, Signal};
use crate::delay::Delays;
use crate::error::{Attempt, Error, ErrorKind, Result, TryOutcome};
use crate::failback;
use crate::health::{Admitted, ServerState};
use crate::hint::{Hint, Owner};
use crate::outcome::{Answer, AnswerBody, Cause, Failure, foreign};
use crate::probe;
use crate::server::{IN_FLIGHT, Primary, Server, ThisTry};
use crate::settings::OpClass;

/// How often a call follows the hint of a server to the owner of the folder.
const MAX_HOPS: u32 = 3;
/// The pause before the second hop; twice as long before the third.
const HOP_PAUSE: Duration = Duration::from_millis(2);
/// The longest a server may make a call wait before it is asked again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);
/// So long after its beginning a call still waits for a server that is down, where there are several and none is there.
const LAST_HOPE: Duration = Duration::from_millis(500);
/// Between these two grows the ceiling of the pause before a server is asked again that gets ready.
const READY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Nothing is asked again when no more than this is left, or a tenth of the deadline where that is less.
const LAST_MOMENT: Duration = Duration::from_millis(50);

/// A server to ask, by its place in the map's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    server: usize,
    why: Why,
}

/// Why a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is its turn.
    Turn,
    /// A hint named it.
    Hint,
    /// It was asked before in this call, so there is a pause first.
    Again,
    /// It gets ready, and is waited for.
    GetsReady,
    /// Nobody else is left, and it was down a moment ago.
    Last,
}

/// A server to ask now, with all it takes.
pub(super) struct Turn<'s> {
    pub(super) server: &'s Arc<Server>,
    _admitted: Admitted<'s>,
    _room: Option<SemaphorePermit<'s>>,
}

/// The tries of one call: those made, and those to come.
pub(super) struct Tries<'c, 's> {
    call: &'c Call<'s>,
    begun: Instant,
    /// Who owns the folder, as far as is known.
    owner: usize,
    /// Everyone who may be asked, best first.
    candidates: Vec<usize>,
    /// Who is asked next, in this round.
    queue: VecDeque<Step>,
    /// The try under way.
    current: usize,
    current_begun: Instant,
    rounds: u32,
    /// Tries that were not "not sent".
    counted: u32,
    /// Who was not asked because it is down, while there was somebody else to ask.
    passed_over: Option<usize>,
    hops: u32,
    /// Both are made when they are needed, which is rare.
    delays: Option<Delays>,
    readiness: Option<Delays>,
    /// A pause that a server asked for.
    wanted_pause: Option<Duration>,
    /// What lets a server begin to serve, by the server's place.
    token: Option<(usize, Hint)>,
    /// Who a hint named; learned when it answers.
    named: Option<Owner>,
    /// A fallback said that the owner is back and has everything.
    has_returned: bool,
    made: Vec<(usize, Attempt)>,
    /// The last refusal that could not be helped.
    refusal: Option<Error>,
}

impl<'c, 's> Tries<'c, 's> {
    pub(super) fn new(call: &'c Call<'s>) -> Tries<'c, 's> {
        let owner = call.state.owner_of(call.route);
        let candidates = candidates(call, owner);
        let servers = call.state.servers();
        if candidates[0] != owner {
            probe::await_return_again(&servers[owner]);
        }
        servers[candidates[0]].retries.deposit();
        candidates[1..].iter().for_each(|&fallback| servers[fallback].failovers.deposit());
        let queue = candidates.iter().map(|&server| Step { server, why: Why::Turn }).collect();
        let now = Instant::now();
        Tries {
            call,
            begun: now,
            owner,
            current: candidates[0],
            current_begun: now,
            candidates,
            queue,
            rounds: 1,
            counted: 0,
            passed_over: None,
            hops: 0,
            delays: None,
            readiness: None,
            wanted_pause: None,
            token: None,
            named: None,
            has_returned: false,
            made: Vec::new(),
            refusal: None,
        }
    }

    /// The server to ask now, after a pause if it was asked before; nothing when it is time to give up.
    pub(super) async fn next(&mut self) -> Option<Turn<'s>> {
        loop {
            let step = self.next_step()?;
            (self.current, self.current_begun) = (step.server, Instant::now());
            // Where somebody else could be asked, nobody waits for a server that is gone.
            if step.why == Why::Again && !self.queue.is_empty() && self.is_gone().await {
                continue;
            }
            if !self.can_afford(step) {
                continue;
            }
            let pause = self.pause_before(step);
            if !pause.is_zero() {
                if self.is_too_late(pause) {
                    return None;
                }
                tokio::time::sleep(pause).await;
                if self.is_too_late(Duration::ZERO) {
                    return None;
                }
                self.current_begun = Instant::now();
            }
            if let Some(why) = self.server().health.stranger() {
                self.quarantined(why);
                continue;
            }
            match self.server().health.admit() {
                Ok(admitted) => return self.with_room(admitted).await,
                Err(refused) => self.not_admitted(step, refused),
            }
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        let exhausted = self.counted >= self.call.route.settings().attempts;
        if exhausted {
            // Everyone is asked at least once, however many tries others have used up.
            return std::iter::from_fn(|| self.queue.pop_front()).find(|step| step.why != Why::Again);
        }
        if self.queue.is_empty() && self.rounds < self.call.route.settings().attempts {
            self.rounds += 1;
            // Who is down now is down in a moment; nobody waits for that.
            let servers = self.call.state.servers();
            let there = self.candidates.iter().filter(|&&server| servers[server].health.state() != ServerState::Down);
            self.queue.extend(there.map(|&server| Step { server, why: Why::Again }));
        }
        if self.queue.is_empty() && self.begun.elapsed() < LAST_HOPE {
            // The others have gone in the meantime, and it may have come back.
            let passed_over = self.passed_over.take().filter(|server| self.candidates.contains(server));
            self.queue.extend(passed_over.map(|server| Step { server, why: Why::Turn }));
        }
        self.queue.pop_front()
    }

    /// Whether a server that was asked before takes no connections any more.
    async fn is_gone(&self) -> bool {
        let is_gone = !self.server().accepts().await;
        if is_gone {
            self.server().tell(Signal::ProbeFailed);
        }
        is_gone
    }

    /// Whether there is a token for what repeats work that may have been done.
    fn can_afford(&self, step: Step) -> bool {
        let server = self.server();
        let outcome_at =
            |server: usize| self.made.iter().rfind(|(made, _)| *made == server).map(|(_, made)| made.outcome);
        match step.why {
            Why::Again => outcome_at(step.server) == Some(TryOutcome::NotSent) || server.retries.withdraw(),
            Why::Turn if self.is_in_doubt() => server.failovers.withdraw(),
            Why::Turn | Why::Hint | Why::GetsReady | Why::Last => true,
        }
    }

    /// Whether too little is left, after this pause, for an answer to a question that is put again: it would only turn
    /// a refusal into doubt.
    fn is_too_late(&self, pause: Duration) -> bool {
        self.left() <= pause + LAST_MOMENT.min(self.call.deadline / 10)
    }

    fn pause_before(&mut self, step: Step) -> Duration {
        match step.why {
            Why::Turn => Duration::ZERO,
            Why::Hint if self.hops < 2 => Duration::ZERO,
            Why::Hint => HOP_PAUSE * (self.hops - 1),
            Why::Again => {
                let delay = self.delays.get_or_insert_with(Delays::new).next();
                delay.max(self.wanted_pause.take().unwrap_or_default())
            }
            Why::GetsReady | Why::Last => {
                self.readiness.get_or_insert_with(|| Delays::between(READY.0, READY.1)).next()
            }
        }
    }

    /// The server is down, or on its way back and busy with others.
    fn not_admitted(&mut self, step: Step, refused: Admission) {
        let is_last = self.queue.is_empty();
        match refused {
            Admission::Soon if is_last || self.has_returned => {
                self.queue.push_front(Step { why: Why::GetsReady, ..step })
            }
            Admission::NotBefore(_) if step.why == Why::GetsReady && !self.has_returned => self.queue.push_front(step),
            // While servers restart one after the other one may be there again, and nobody has noticed: two take turns.
            Admission::NotBefore(_) if is_last && self.candidates.len() > 1 && self.begun.elapsed() < LAST_HOPE => {
                let other = self.passed_over.replace(step.server).filter(|server| self.candidates.contains(server));
                self.queue.push_front(Step { server: other.unwrap_or(step.server), why: Why::Last });
            }
            Admission::NotBefore(wait) if step.why != Why::Again => {
                if !is_last {
                    self.passed_over.get_or_insert(step.server);
                }
                self.note(TryOutcome::NotSent, format!("is down, and is asked again in {} ms", wait.as_millis()));
            }
            Admission::Yes | Admission::Soon | Admission::NotBefore(_) => {}
        }
    }

    /// Room among the requests under way; who finds none is told at once that it is too much.
    async fn with_room(&mut self, admitted: Admitted<'s>) -> Option<Turn<'s>> {
        let server = self.server();
        let room = if self.call.is_waiting { None } else { Some(server.room().await) };
        match room {
            Some(None) => {
                let detail = format!("{IN_FLIGHT} requests to {} are under way", server.label());
                self.note(TryOutcome::NotSent, "was not asked: too many requests are under way".to_owned());
                self.refusal = Some(Error::new(ErrorKind::Overloaded, detail));
                None
            }
            room => (!self.left().is_zero()).then_some(Turn { server, _admitted: admitted, _room: room.flatten() }),
        }
    }

    pub(super) fn this_try(&self) -> ThisTry<'s> {
        let call = self.call;
        let left = self.left();
        let stands_in = self.stands_in();
        ThisTry {
            begun: self.current_begun,
            timeout: call.timeout.min(left),
            left,
            announce: call.state.announce(call.route.pool()),
            fallback_for: stands_in.then(|| Primary {
                id: call.state.servers()[self.owner].id(),
                was_tried: self.made.iter().any(|(server, made)| {
                    *server == self.owner && matches!(made.outcome, TryOutcome::NotSent | TryOutcome::Maybe)
                }),
            }),
        }
    }

    /// Whether the current server is asked in place of the owner.
    fn stands_in(&self) -> bool {
        self.current != self.owner
    }

    fn left(&self) -> Duration {
        self.call.deadline.saturating_sub(self.begun.elapsed())
    }

    fn server(&self) -> &'s Arc<Server> {
        &self.call.state.servers()[self.current]
    }

    /// Somebody answered. An error answer of one server does not undo what another may have done.
    pub(super) fn answered(mut self, answer: Answer) -> Result<Answered> {
        if self.stands_in() {
            let owner = &self.call.state.servers()[self.owner];
            failback::heed(owner, self.server(), self.call.route.folder(), &answer);
        } else if self.has_returned {
            // Whoever found that the folder can return has waited for the hold-down.
            self.server().health.reset();
        } else if let Some(named) = self.named.take() {
            self.call.state.learn(self.call.route, named);
        }
        let lost = matches!(answer.body, AnswerBody::Lost(_));
        if let Some(error) = foreign(&answer) {
            self.note(TryOutcome::Answered, format!("answered {} without being a Hydra server", answer.status));
            let applied = if self.call.class.is_write() { Applied::Unknown } else { Applied::No };
            return Err(error.with_applied(applied).with_attempts(self.attempts()));
        }
        if !lost && (answer.is_success() || answer.status == 304 || !self.is_in_doubt_elsewhere()) {
            let server = Arc::clone(self.server());
            let retried = u32::try_from(self.made.len()).unwrap_or(u32::MAX);
            return Ok(Answered { answer, server, fell_back: self.stands_in(), retried });
        }
        self.note(TryOutcome::Answered, format!("answered {}", answer.status));
        let applied = if lost { Applied::Yes } else { Applied::Unknown };
        Err(answer.to_error().with_applied(applied).with_attempts(self.attempts()))
    }

    /// Nobody has seen the request: any other server may be asked, at once.
    pub(super) fn not_sent(&mut self, failure: Failure) {
        if failure.cause == Cause::Untrusted && self.call.class.is_write() {
            return self.distrusted(failure);
        }
        // Where a hint led, nobody else has the folder: the server is waited for.
        if self.hops > 0 && !self.stands_in() && failure.cause == Cause::Unreachable {
            self.queue.push_back(Step { server: self.current, why: Why::GetsReady });
        }
        self.note(TryOutcome::NotSent, failure.why);
    }

    /// An expired certificate is no outage: a month of writes at the fallback would be worse than an error now.
    fn distrusted(&mut self, failure: Failure) {
        let detail =
            format!("the certificate of {} is not trusted, and writes go nowhere else for that", self.server().label());
        self.note(TryOutcome::NotSent, failure.why);
        self.refusal = Some(Error::new(ErrorKind::Network, detail));
        self.candidates.clear();
        self.queue.clear();
    }

    /// Somebody may have seen the request: it may be asked again only where that cannot count twice.
    pub(super) fn maybe(&mut self, failure: Failure) {
        self.counted += 1;
        let again = Step { server: self.current, why: Why::Again };
        let is_first = !self.made.iter().any(|(server, _)| *server == self.current);
        match self.call.class {
            OpClass::Read => {}
            // A connection that broke is mostly one that was just being closed: the server is there,
            // and its own answer is worth more than that of a copy.
            OpClass::Overwrite | OpClass::Commuting if is_first && failure.is_only_broken() => {
                self.queue.push_front(again);
            }
            OpClass::Overwrite | OpClass::Commuting => {}
            // A copy that lags behind would decide on what is no longer so; no key helps against that.
            OpClass::Exclusive => self.only(Why::Again),
        }
        self.note(TryOutcome::Maybe, failure.why);
    }

    /// From now on nobody but the current server is asked.
    fn only(&mut self, why: Why) {
        self.candidates = vec![self.current];
        self.queue = VecDeque::from([Step { server: self.current, why }]);
    }

    /// The server starts or shuts down, and says so itself: the next one, at once.
    pub(super) fn leaving(&mut self) {
        self.note(TryOutcome::Rejected, "is starting or shutting down".to_owned());
        let detail = "the servers that may answer are starting or shutting down";
        self.refusal = Some(Error::new(ErrorKind::Unavailable, detail));
    }

    /// The server is not who the map says.
    fn quarantined(&mut self, why: String) {
        let detail = format!("{} {why}; it is not asked until the map changes", self.server().label());
        self.note(TryOutcome::NotSent, why);
        self.refusal.get_or_insert_with(|| Error::new(ErrorKind::Config, detail));
    }

    /// The server has too much to do, or still works on this very request: the same one, later.
    pub(super) fn later(&mut self, answer: Answer, after: Option<Duration>) {
        self.counted += 1;
        self.wanted_pause = after.map(|after| after.min(MAX_RETRY_AFTER));
        self.only(Why::Again);
        self.note(TryOutcome::Rejected, format!("answered {}", answer.status));
        self.refusal = Some(answer.to_error());
    }

    /// The folder is about to move, or to return: the same server, until it takes writes again or says where the folder
    /// went.
    pub(super) fn sealed(&mut self, answer: Answer) {
        if self.stands_in() {
            self.wait(&answer, "has sealed the folder for its return", "the folder is sealed for its return");
        } else {
            self.wait(&answer, "has sealed the folder for a move", "the folder is sealed for a move");
        }
    }

    /// A fallback sends the write to the owner, which somebody has found to be back with everything. Where this client
    /// does not reach it, the fallback is asked again and told so.
    pub(super) fn returned(&mut self, answer: Answer) {
        let owner = &self.call.state.servers()[self.owner];
        owner.stays.returned(self.call.route.folder());
        self.note(TryOutcome::Rejected, format!("says that {} has everything again", owner.label()));
        self.refusal = Some(answer.to_error());
        if std::mem::replace(&mut self.has_returned, true) || !self.stands_in() {
            return;
        }
        owner.health.vouch();
        self.candidates = vec![self.owner, self.current];
        self.queue = VecDeque::from([
            Step { server: self.owner, why: Why::Turn },
            Step { server: self.current, why: Why::GetsReady },
        ]);
    }

    /// Waits for the current server; neither a try nor a repetition as far as attempts and budgets are concerned.
    fn wait(&mut self, answer: &Answer, why: &str, detail: &str) {
        self.only(Why::GetsReady);
        let is_new = self.made.last().is_none_or(|(server, made)| *server != self.current || made.error != why);
        if is_new {
            self.note(TryOutcome::Rejected, why.to_owned());
        }
        let error = Error::new(ErrorKind::Unavailable, detail);
        let error = match answer.to_error().hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        self.refusal.get_or_insert(error);
    }

    /// The server gets the folder. With the token of the one that gave it away it begins to serve; otherwise the one that
    /// still has it is asked, or the wait goes on.
    pub(super) async fn importing(&mut self, answer: Answer, hint: Option<Hint>) {
        if let Some((_, told)) = self.token.take_if(|(server, _)| *server == self.current) {
            let (state, folder) = (self.call.state, self.call.route.folder());
            // In a box: it is rare, and every call would keep room for it.
            match Box::pin(state.activate(self.server(), folder, &told, self.left())).await {
                Ok(()) => self.queue.push_front(Step { server: self.current, why: Why::Hint }),
                Err(error) => {
                    let detail = format!("the folder waits to be activated, and this client may not: {error}");
                    self.wait(&answer, "waits to be activated", &detail);
                }
            }
            return;
        }
        match hint.and_then(|hint| self.follow(hint)) {
            Some(owner) => self.go_to(owner),
            None => self.wait(&answer, "waits for the folder", "the folder is being moved"),
        }
    }

    /// The server does not own the folder. Its hint is followed to a server of the map; a fallback
    /// that has no copy is passed over; anything else means that the map is wrong.
    pub(super) fn misrouted(&mut self, answer: Answer, hint: Option<Hint>) -> Result<()> {
        self.note(TryOutcome::Rejected, "does not own the folder".to_owned());
        self.call.state.heed_epoch(self.server(), &answer);
        let stands_in = self.stands_in();
        // What a fallback knows about moves counts; that it is not the owner is known.
        let hint = hint.filter(|hint| !stands_in || hint.epoch.is_some());
        let named = hint.as_ref().map(|hint| hint.owner.clone());
        match hint.and_then(|hint| self.follow(hint)) {
            Some(owner) => self.go_to(owner),
            None if stands_in => self.refusal = Some(answer.to_error()),
            None => {
                let applied = if self.is_in_doubt_elsewhere() { Applied::Unknown } else { Applied::No };
                let unknown = named.filter(|id| self.call.state.server(id).is_err());
                let mut error = answer.to_error();
                if let Some(id) = unknown {
                    error = error.with_hint(format!(
                        "it lives on {id:?}, which the loaded map does not list; load a younger map"
                    ));
                }
                return Err(error.with_applied(applied).with_attempts(self.attempts()));
            }
        }
        Ok(())
    }

    /// Where a hint leads: a server of the map, other than the current one, unless it is old news or one hop too many.
    fn follow(&mut self, hint: Hint) -> Option<usize> {
        let (state, route) = (self.call.state, self.call.route);
        let known = state.learned(route);
        let is_old = |known: &Owner| hint.epoch.is_some_and(|epoch| epoch <= known.epoch && known.id != hint.owner);
        let id = known.filter(is_old).map_or_else(|| hint.owner.clone(), |known| known.id);
        let owner = state.servers().iter().position(|server| server.id() == id)?;
        if owner == self.current || self.hops >= MAX_HOPS {
            return None;
        }
        self.named = hint.epoch.filter(|_| hint.owner == id).map(|epoch| Owner { id, epoch });
        if hint.token.is_some() && self.named.is_some() {
            // The folder has left for good. Without a token it may only be about to.
            self.named.take().into_iter().for_each(|named| state.learn(route, named));
            self.token = Some((owner, hint));
        }
        Some(owner)
    }

    fn go_to(&mut self, owner: usize) {
        self.hops += 1;
        self.owner = owner;
        self.refusal = None;
        self.candidates = vec![owner];
        self.queue.retain(|step| step.server != owner && step.server != self.current);
        self.queue.push_front(Step { server: owner, why: Why::Hint });
    }

    fn note(&mut self, outcome: TryOutcome, error: String) {
        let attempt =
            Attempt { server: self.server().label().to_owned(), outcome, error, elapsed: self.current_begun.elapsed() };
        self.made.push((self.current, attempt));
    }

    /// Whether somebody may have done what was asked.
    fn is_in_doubt(&self) -> bool {
        self.made.iter().any(|(_, made)| made.outcome == TryOutcome::Maybe)
    }

    /// Whether a server other than the current one may have carried out a write.
    fn is_in_doubt_elsewhere(&self) -> bool {
        self.call.class.is_write()
            && self.made.iter().any(|(server, made)| made.outcome == TryOutcome::Maybe && *server != self.current)
    }

    fn attempts(&mut self) -> Vec<Attempt> {
        self.made.drain(..).map(|(_, attempt)| attempt).collect()
    }

    /// Nobody answered. A try that may have been carried out decides what is said about the write.
    pub(super) fn into_error(mut self) -> Error {
        let applied = if self.call.class.is_write() && self.is_in_doubt() { Applied::Unknown } else { Applied::No };
        let error = match self.refusal.take() {
            Some(refusal) => refusal,
            None if self.left().is_zero() => Error::new(ErrorKind::Timeout, "no server answered within the deadline"),
            None => Error::new(ErrorKind::Network, "no server answered"),
        };
        error.with_applied(applied).with_attempts(self.attempts())
    }
}
