//! Failover: which servers a call asks, in which order, and when it gives up.
//!
//! The idea in two lines of pseudo-code:
//!
//! ```text
//! try                    { primary.do(operation)  }
//! catch (NetworkError)   { fallback.do(operation) }
//! ```
//!
//! [`with_fallback`] is that, written so that no operation counts twice. A network error is either
//! "not sent" (nobody can have seen the request) or "maybe" (somebody may have); see [`crate::outcome`].
//!
//! | class | not sent | maybe |
//! | --- | --- | --- |
//! | R read | the next server, at once | the next server, at once |
//! | W overwrite, C commuting | the next server, at once | the same server once more, then the next; one key for all tries |
//! | X exclusive | the next server only if the caller opted in | only the same server, with the same key |
//!
//! A fallback that took writes for the primary comes first until the primary has them; see
//! [`crate::failback`]. There is never a pause before another server, always one before the same server; and where another
//! could be asked, none for a server that takes no connections any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydra_core::Applied;

use crate::cluster::State;
use crate::delay::Delays;
use crate::error::{Attempt, Error, ErrorKind, Result, TryOutcome};
use crate::failback;
use crate::map::Route;
use crate::outcome::{Answer, AnswerBody, Failure, Outcome, Remedy, foreign};
use crate::request::Request;
use crate::server::{Server, ThisTry};
use crate::settings::{Fallback, OpClass, ReadFrom};

/// How often a call follows the hint of a server to the owner of the folder.
const MAX_HOPS: u32 = 3;
/// The longest a server may make a call wait before it is asked again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);

/// One call: what is asked of whom, and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct Call<'s> {
    pub(crate) state: &'s State,
    pub(crate) route: Route<'s>,
    pub(crate) class: OpClass,
    pub(crate) fallback: Fallback,
    /// The longest the call takes.
    pub(crate) deadline: Duration,
    /// The longest one try takes.
    pub(crate) timeout: Duration,
    /// Fallbacks are asked only in place of the primary, whatever the pool says of reads.
    pub(crate) primary_first: bool,
}

/// An answer and who gave it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) server: Arc<Server>,
    /// Whether a fallback answered in place of the primary.
    pub(crate) fell_back: bool,
    /// How many tries were made before the one that was answered.
    pub(crate) retried: u32,
}

/// Asks the primary and, when it cannot be reached, its fallbacks.
///
/// # Errors
/// When no server answered. It lists every try, and says whether the operation may have been applied.
pub(crate) async fn with_fallback(call: &Call<'_>, request: &Request) -> Result<Answered> {
    let mut tries = Tries::new(call);
    while let Some(server) = tries.next().await {
        match server.exchange(request, &tries.this_try()).await {
            Outcome::Answered(answer) => return tries.answered(answer),
            Outcome::NotSent(failure) => tries.not_sent(failure),
            Outcome::Maybe(failure) => tries.maybe(failure),
            Outcome::Rejected(_, Remedy::Elsewhere) => tries.leaving(),
            Outcome::Rejected(answer, Remedy::Later(after)) => tries.later(answer, after),
            Outcome::Rejected(answer, Remedy::Owner(owner)) => tries.misrouted(answer, owner)?,
        }
        if !request.can_repeat() {
            break;
        }
    }
    Err(tries.into_error())
}

/// A server to ask, by its place in the map's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    server: usize,
    /// It was asked before in this call, so there is a pause first.
    is_again: bool,
}

/// The tries of one call: those made, and those to come.
struct Tries<'c, 's> {
    call: &'c Call<'s>,
    begun: Instant,
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
    hops: u32,
    delays: Delays,
    /// A pause that a server asked for.
    wanted_pause: Option<Duration>,
    made: Vec<(usize, Attempt)>,
    /// The last refusal that could not be helped.
    refusal: Option<Error>,
}

impl<'c, 's> Tries<'c, 's> {
    fn new(call: &'c Call<'s>) -> Tries<'c, 's> {
        let candidates = candidates(call);
        let queue = candidates.iter().map(|&server| Step { server, is_again: false }).collect();
        let now = Instant::now();
        Tries {
            call,
            begun: now,
            current: candidates[0],
            current_begun: now,
            candidates,
            queue,
            rounds: 1,
            counted: 0,
            hops: 0,
            delays: Delays::new(),
            wanted_pause: None,
            made: Vec::new(),
            refusal: None,
        }
    }

    /// The server to ask now, after a pause if it was asked before; nothing when it is time to give up.
    async fn next(&mut self) -> Option<&'s Arc<Server>> {
        let mut step = self.next_step()?;
        // Where somebody else could be asked, nobody waits for a server that is gone.
        while step.is_again && !self.queue.is_empty() && self.is_gone(step.server).await {
            step = self.next_step()?;
        }
        if step.is_again {
            let pause = self.delays.next().max(self.wanted_pause.take().unwrap_or_default());
            if pause >= self.left() {
                return None;
            }
            tokio::time::sleep(pause).await;
        }
        self.current = step.server;
        self.current_begun = Instant::now();
        (!self.left().is_zero()).then(|| &self.call.state.servers()[step.server])
    }

    /// Whether a server that was asked before takes no connections any more.
    async fn is_gone(&self, server: usize) -> bool {
        let server = &self.call.state.servers()[server];
        let is_gone = !server.accepts().await;
        if is_gone {
            server.note_down();
        }
        is_gone
    }

    fn next_step(&mut self) -> Option<Step> {
        let exhausted = self.counted >= self.call.route.settings().attempts;
        if exhausted {
            // Everyone is asked at least once, however many tries others have used up.
            return std::iter::from_fn(|| self.queue.pop_front()).find(|step| !step.is_again);
        }
        if self.queue.is_empty() && self.rounds < self.call.route.settings().attempts {
            self.rounds += 1;
            self.queue.extend(self.candidates.iter().map(|&server| Step { server, is_again: true }));
        }
        self.queue.pop_front()
    }

    fn this_try(&self) -> ThisTry<'s> {
        let call = self.call;
        let left = self.left();
        let primary = call.route.indexes().0;
        let stands_in = self.stands_in(self.current);
        ThisTry {
            timeout: call.timeout.min(left),
            left,
            announce: call.state.announce(call.route.pool()),
            fallback_for: stands_in.then(|| call.state.servers()[primary].id()),
        }
    }

    /// Whether a server is asked in place of the primary; an owner that was found by a hint is not.
    fn stands_in(&self, server: usize) -> bool {
        self.call.route.indexes().1.contains(&server) && self.hops == 0
    }

    fn left(&self) -> Duration {
        self.call.deadline.saturating_sub(self.begun.elapsed())
    }

    fn server(&self) -> &'s Arc<Server> {
        &self.call.state.servers()[self.current]
    }

    /// Somebody answered. An error answer of one server does not undo what another may have done.
    fn answered(mut self, answer: Answer) -> Result<Answered> {
        if self.stands_in(self.current) {
            let primary = &self.call.state.servers()[self.call.route.indexes().0];
            failback::heed(primary, self.server(), self.call.route.folder(), &answer);
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
            return Ok(Answered { answer, server, fell_back: self.stands_in(self.current), retried });
        }
        self.note(TryOutcome::Answered, format!("answered {}", answer.status));
        let applied = if lost { Applied::Yes } else { Applied::Unknown };
        Err(answer.to_error().with_applied(applied).with_attempts(self.attempts()))
    }

    /// Nobody has seen the request: any other server may be asked, at once.
    fn not_sent(&mut self, failure: Failure) {
        if failure.is_hard {
            self.server().note_down();
        }
        self.note(TryOutcome::NotSent, failure.why);
    }

    /// Somebody may have seen the request: it may be asked again only where that cannot count twice.
    fn maybe(&mut self, failure: Failure) {
        self.counted += 1;
        if failure.timed_out {
            self.server().note_silent();
        }
        let again = Step { server: self.current, is_again: true };
        let is_first = !self.made.iter().any(|(server, _)| *server == self.current);
        match self.call.class {
            OpClass::Read => {}
            // A connection that broke is mostly one that was just being closed: the server is there,
            // and its own answer is worth more than that of a copy.
            OpClass::Overwrite | OpClass::Commuting if is_first && !failure.timed_out => self.queue.push_front(again),
            OpClass::Overwrite | OpClass::Commuting => {}
            // A copy that lags behind would decide on what is no longer so; no key helps against that.
            OpClass::Exclusive => self.only_again(),
        }
        self.note(TryOutcome::Maybe, failure.why);
    }

    /// From now on nobody but the current server is asked.
    fn only_again(&mut self) {
        self.candidates = vec![self.current];
        self.queue = VecDeque::from([Step { server: self.current, is_again: true }]);
    }

    /// The server starts or shuts down, and says so itself: the next one, at once.
    fn leaving(&mut self) {
        self.server().note_down();
        self.note(TryOutcome::Rejected, "is starting or shutting down".to_owned());
        let detail = "the servers that may answer are starting or shutting down";
        self.refusal = Some(Error::new(ErrorKind::Unavailable, detail));
    }

    /// The server has too much to do, or still works on this very request: the same one, later.
    fn later(&mut self, answer: Answer, after: Option<Duration>) {
        self.counted += 1;
        self.wanted_pause = after.map(|after| after.min(MAX_RETRY_AFTER));
        self.only_again();
        self.note(TryOutcome::Rejected, format!("answered {}", answer.status));
        self.refusal = Some(answer.to_error());
    }

    /// The server does not own the folder. Its hint is followed to a server of the map; a fallback
    /// that has no copy is passed over; anything else means that the map is wrong.
    fn misrouted(&mut self, answer: Answer, owner: Option<String>) -> Result<()> {
        let owner = owner.and_then(|id| self.call.state.servers().iter().position(|server| server.id() == id));
        let was_standing_in = self.stands_in(self.current);
        self.note(TryOutcome::Rejected, "does not own the folder".to_owned());
        match owner {
            Some(owner) if owner != self.current && self.hops < MAX_HOPS && !was_standing_in => {
                self.hops += 1;
                self.queue.push_front(Step { server: owner, is_again: false });
                Ok(())
            }
            _ if was_standing_in => {
                self.refusal = Some(answer.to_error());
                Ok(())
            }
            _ => {
                let applied = if self.is_in_doubt_elsewhere() { Applied::Unknown } else { Applied::No };
                Err(answer.to_error().with_applied(applied).with_attempts(self.attempts()))
            }
        }
    }

    fn note(&mut self, outcome: TryOutcome, error: String) {
        let attempt =
            Attempt { server: self.server().label().to_owned(), outcome, error, elapsed: self.current_begun.elapsed() };
        self.made.push((self.current, attempt));
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
    fn into_error(mut self) -> Error {
        let may_be_applied = self.made.iter().any(|(_, made)| made.outcome == TryOutcome::Maybe);
        let applied = if self.call.class.is_write() && may_be_applied { Applied::Unknown } else { Applied::No };
        let all_network = self.made.iter().all(|(_, made)| made.outcome != TryOutcome::Rejected);
        let error = match self.refusal.take() {
            Some(refusal) if !all_network => refusal,
            _ if self.left().is_zero() => Error::new(ErrorKind::Timeout, "no server answered within the deadline"),
            _ => Error::new(ErrorKind::Network, "no server answered"),
        };
        error.with_applied(applied).with_attempts(self.attempts())
    }
}

/// Everyone who may be asked, in order: primary, fallbacks; first of all the fallback that the folder
/// stays with, those that are down last.
fn candidates(call: &Call<'_>) -> Vec<usize> {
    let (primary, fallbacks) = call.route.indexes();
    let mut candidates = vec![primary];
    if call.class.may_fall_back(call.fallback) {
        candidates.extend(fallbacks);
    }
    if !call.primary_first && call.class == OpClass::Read && call.route.settings().read_from == ReadFrom::Any {
        let turn = call.state.turn() % candidates.len();
        candidates.rotate_left(turn);
    }
    let servers = call.state.servers();
    let holder = servers[primary].stays.holder_of(call.route.folder());
    candidates.sort_by_key(|&server| match &holder {
        _ if !servers[server].health.is_up() => 2,
        Some(holder) if holder.id() == servers[server].id() => 0,
        _ => 1,
    });
    candidates
}
