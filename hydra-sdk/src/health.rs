//! What a client remembers about a server: up, down, back but not trusted yet, or not who the map says.
//!
//! One [`Health`] per client and server: a [`Breaker`] behind a lock, who the server says it is, and the
//! news of its death for calls that wait for an answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::breaker::{Admission, Breaker, Change, Signal};
use crate::delay;

/// How long until a server is asked again who it is, where it did not say so.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What is known about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// It is asked when it is its turn.
    Up,
    /// It could not be reached; it is asked last.
    Down,
    /// It answers again and waits for the hold-down, or for [`crate::Hydra::fail_back`].
    Back,
    /// It is not who the map says, and is not asked until the map changes.
    Quarantined,
}

/// Who answers at the address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// It was not asked yet, or not before this moment.
    Unknown(Option<Instant>),
    /// Who the map says.
    Known,
    /// Somebody else: what differs.
    Stranger(String),
}

/// The memory about one server.
#[derive(Debug)]
pub(crate) struct Health {
    breaker: Mutex<Breaker>,
    identity: Mutex<Identity>,
    /// How often it died.
    deaths: watch::Sender<u64>,
}

impl Health {
    pub(crate) fn new(hold_down: Duration) -> Health {
        Health {
            breaker: Mutex::new(Breaker::new(hold_down)),
            identity: Mutex::new(Identity::Unknown(None)),
            deaths: watch::Sender::new(0),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state() == ServerState::Up
    }

    pub(crate) fn state(&self) -> ServerState {
        if self.stranger().is_some() {
            return ServerState::Quarantined;
        }
        let breaker = self.breaker();
        match (breaker.is_open(), breaker.is_trusted()) {
            (true, _) => ServerState::Down,
            (false, true) => ServerState::Up,
            (false, false) => ServerState::Back,
        }
    }

    /// Whom to ask first: the lower, the sooner.
    pub(crate) fn rank(&self) -> u8 {
        match self.state() {
            ServerState::Up if self.breaker().is_suspected() => 1,
            ServerState::Up => 0,
            ServerState::Back => 2,
            ServerState::Down => 3,
            ServerState::Quarantined => 4,
        }
    }

    /// Heeds what happened in a try or a probe.
    pub(crate) fn heed(&self, signal: Signal) -> Change {
        let change = self.breaker().heed(signal, Instant::now(), delay::chance);
        if change == Change::Opened {
            self.deaths.send_modify(|deaths| *deaths += 1);
        }
        change
    }

    /// Ends the way back when the hold-down is over; answers whether it did.
    pub(crate) fn trust(&self) -> bool {
        self.breaker().trust(Instant::now())
    }

    /// Somebody has seen it serve: it is tried, whatever was known.
    pub(crate) fn vouch(&self) {
        self.breaker().vouch();
    }

    /// Trusted from now on.
    pub(crate) fn reset(&self) {
        self.breaker().reset();
    }

    pub(crate) fn until_probe(&self) -> Option<Duration> {
        self.breaker().until_probe(Instant::now())
    }

    /// Whether a request may go to the server now.
    pub(crate) fn admit(&self) -> Result<Admitted<'_>, Admission> {
        match self.breaker().admit(Instant::now) {
            Admission::Yes => Ok(Admitted(self)),
            refused => Err(refused),
        }
    }

    /// The news of its death; those that came before are not told again.
    pub(crate) fn deaths(&self) -> watch::Receiver<u64> {
        self.deaths.subscribe()
    }

    /// Whether the server should be asked who it is before anything else.
    pub(crate) fn is_to_be_asked(&self) -> bool {
        match *self.identity() {
            Identity::Unknown(before) => before.is_none_or(|before| before <= Instant::now()),
            Identity::Known | Identity::Stranger(_) => false,
        }
    }

    /// It did not say who it is; it is asked again after a while.
    pub(crate) fn said_nothing(&self) {
        let mut identity = self.identity();
        if let Identity::Unknown(before) = &mut *identity {
            *before = Some(Instant::now() + ASK_AGAIN);
        }
    }

    /// It said who it is: `stranger` if not who the map says. Answers whether that is news of a stranger.
    pub(crate) fn said_who(&self, stranger: Option<&str>) -> bool {
        let mut identity = self.identity();
        match (&*identity, stranger) {
            // A stranger stays one until the map changes.
            (Identity::Stranger(_), _) => false,
            (_, Some(why)) => {
                *identity = Identity::Stranger(why.to_owned());
                true
            }
            (_, None) => {
                *identity = Identity::Known;
                false
            }
        }
    }

    /// What differs between who answers and who the map says.
    pub(crate) fn stranger(&self) -> Option<String> {
        match &*self.identity() {
            Identity::Stranger(why) => Some(why.clone()),
            Identity::Unknown(_) | Identity::Known => None,
        }
    }

    /// The map changed: whoever answers is asked anew who it is.
    pub(crate) fn forget_who(&self) {
        *self.identity() = Identity::Unknown(None);
    }

    /// Its numbers are whole after every call, so a panic elsewhere cannot have torn them.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may go to the server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'h>(&'h Health);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.breaker().release();
    }
}
