//! What a client remembers about a server: up, down, or back but not trusted yet.
//!
//! One [`Health`] per client and server. A server is down when no connection to it could be made, or
//! when it says that it leaves. Then calls ask it last, and a task asks it whether it is back; when
//! it has been back for the hold-down, calls return to it. A slow server is never down.

use std::sync::Mutex;
use std::time::{Duration, Instant};

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
}

/// The memory about one server.
#[derive(Debug)]
pub(crate) struct Health(Mutex<(ServerState, Instant)>);

impl Health {
    pub(crate) fn new() -> Health {
        Health(Mutex::new((ServerState::Up, Instant::now())))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state() == ServerState::Up
    }

    pub(crate) fn state(&self) -> ServerState {
        self.lock().0
    }

    /// No connection could be made. Answers whether the server was up until now.
    pub(crate) fn down(&self) -> bool {
        self.change(ServerState::Down) == ServerState::Up
    }

    /// A question was answered. Answers for how long the server has been back.
    pub(crate) fn back(&self) -> Duration {
        if self.state() == ServerState::Down {
            self.change(ServerState::Back);
        }
        self.lock().1.elapsed()
    }

    /// Trusted again.
    pub(crate) fn up(&self) {
        self.change(ServerState::Up);
    }

    fn change(&self, to: ServerState) -> ServerState {
        let mut state = self.lock();
        std::mem::replace(&mut *state, (to, Instant::now())).0
    }

    /// The state is two plain values, whole at every moment, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> std::sync::MutexGuard<'_, (ServerState, Instant)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
