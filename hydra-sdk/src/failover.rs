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
//! could be asked, none for a server that takes no connections any more. Asking the same server again, or a fallback
//! about what the primary may have done, is bounded by [`crate::budget`]; a server that is down is left alone by
//! [`crate::breaker`].
//!
//! A server that does not own the folder says so, and nothing was done: its hint is followed to a server of the map, at most
//! three times. A folder that is sealed, for a move or for its return to the primary, is waited for, up to the deadline;
//! nothing is asked again when hardly any time is left for the answer, which would turn what is known into doubt.

mod tries;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::State;
use crate::error::Result;
use crate::map::Route;
use crate::outcome::{Answer, Outcome, Remedy};
use crate::request::Request;
use crate::server::Server;
use crate::settings::{Fallback, OpClass, ReadFrom};
use tries::Tries;

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
    /// It waits for something to happen, so it does not count among the requests under way.
    pub(crate) is_waiting: bool,
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
    while let Some(turn) = tries.next().await {
        match turn.server.exchange(request, &tries.this_try()).await {
            Outcome::Answered(answer) => return tries.answered(answer),
            Outcome::NotSent(failure) => tries.not_sent(failure),
            Outcome::Maybe(failure) => tries.maybe(failure),
            Outcome::Rejected(_, Remedy::Elsewhere) => tries.leaving(),
            Outcome::Rejected(answer, Remedy::Later(after)) => tries.later(answer, after),
            Outcome::Rejected(answer, Remedy::Sealed) => tries.sealed(answer),
            Outcome::Rejected(answer, Remedy::Primary) => tries.returned(answer),
            Outcome::Rejected(answer, Remedy::Importing(hint)) => tries.importing(answer, hint).await,
            Outcome::Rejected(answer, Remedy::Owner(hint)) => tries.misrouted(answer, hint)?,
        }
        if !request.can_repeat() {
            break;
        }
    }
    Err(tries.into_error())
}

/// Everyone who may be asked, in order: the owner, fallbacks; first of all the fallback that the folder
/// stays with, those that are down last.
fn candidates(call: &Call<'_>, owner: usize) -> Vec<usize> {
    let mut candidates = vec![owner];
    if call.class.may_fall_back(call.fallback) {
        candidates.extend(call.route.indexes().1.iter().filter(|&&fallback| fallback != owner));
    }
    if !call.primary_first && call.class == OpClass::Read && call.route.settings().read_from == ReadFrom::Any {
        let turn = call.state.turn() % candidates.len();
        candidates.rotate_left(turn);
    }
    let servers = call.state.servers();
    let holder = servers[owner].stays.holder_of(call.route.folder());
    // The holder is up; among those that are as well as it, it comes first.
    candidates.sort_by_key(|&server| {
        let is_held_elsewhere = holder.as_ref().is_some_and(|holder| holder.id() != servers[server].id());
        (servers[server].health.rank().max(u8::from(is_held_elsewhere)), is_held_elsewhere)
    });
    candidates
}
