//! How calls behave: times, tries, and what a fallback may be asked. One struct, every default with its reason.

use std::time::Duration;

/// How the calls of a pool behave: `[client]` and `[pool.client]` of a client map.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The longest a call takes, all tries on all servers included. Default 5 s.
    ///
    /// Calls that move much data (batches, lists, flushes) get [`Settings::bulk_timeout`] on top.
    pub deadline: Duration,
    /// The longest one try takes. Default 4 s: a slow server is not a dead one.
    pub try_timeout: Duration,
    /// The same for calls that move much data. Default 10 s.
    pub bulk_timeout: Duration,
    /// The longest a new connection takes. Default 250 ms. Shorter than the others, so that a try
    /// that ran out of time while connecting is known to have sent nothing. Three times that where TLS is
    /// agreed on, too.
    pub connect_timeout: Duration,
    /// How many tries a call makes at most, not counting those that could not send anything; every
    /// server that may answer is asked once even so. Default 3.
    pub attempts: u32,
    /// Which servers answer reads. Default the primary.
    pub read_from: ReadFrom,
    /// What a fallback may be asked. Default reads and writes.
    pub fallback_mode: FallbackMode,
    /// When calls return to a primary that is back. Default when the copies are synced.
    pub failback: Failback,
    /// How long a primary must have been back before calls return to it. Default 10 s.
    pub hold_down: Duration,
    /// The longest that writes of a folder wait while what a fallback took over goes to the primary. Default 2 s; 0
    /// for never. They wait only where copies are made at least as often; so a folder returns that is written without
    /// pause. At most half of [`Settings::deadline`] counts, so that no call fails for it.
    pub failback_pause: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            deadline: Duration::from_secs(5),
            try_timeout: Duration::from_secs(4),
            bulk_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_millis(250),
            attempts: 3,
            read_from: ReadFrom::default(),
            fallback_mode: FallbackMode::default(),
            failback: Failback::default(),
            hold_down: Duration::from_secs(10),
            failback_pause: Duration::from_secs(2),
        }
    }
}

/// Which servers answer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The primary; a fallback only when it does not answer.
    #[default]
    Primary,
    /// The nearest. No distance is measured yet, so this is the primary (finding W504 says so).
    Nearest,
    /// Primary and fallbacks in turn. A fallback may be one sync interval behind.
    Any,
}

/// What the fallbacks of a pool may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FallbackMode {
    /// Reads and writes.
    #[default]
    ReadWrite,
    /// Reads; a write fails while the primary is away.
    ReadOnly,
    /// Nothing.
    Off,
}

/// When calls return to a primary that is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Failback {
    /// When the hold-down is over and, folder by folder, the primary has what a fallback wrote in its
    /// place. Until then calls go on at the fallback. What is decided by stored data (conditions,
    /// [`crate::Swamp::update`], destroy) is for the primary even then, unless a call opts in.
    #[default]
    WhenSynced,
    /// When the hold-down is over, whatever a fallback wrote meanwhile: reads miss that until it is copied.
    AfterHoldDown,
    /// When [`crate::Hydra::fail_back`] is called.
    Manual,
}

/// What the fallbacks may be asked for one call, in place of the pool's [`FallbackMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fallback {
    /// Nothing.
    Never,
    /// Reads.
    Reads,
    /// Reads, and writes that may safely be asked again: put, delete, increment.
    Writes,
    /// Also writes that depend on what is stored (conditions, [`crate::Swamp::update`], shift, locks, destroy). A
    /// copy may lag behind, so what they saw may be old. Even then a fallback is asked only when
    /// the primary cannot have seen the request.
    Exclusive,
}

impl From<FallbackMode> for Fallback {
    fn from(mode: FallbackMode) -> Fallback {
        match mode {
            FallbackMode::ReadWrite => Fallback::Writes,
            FallbackMode::ReadOnly => Fallback::Reads,
            FallbackMode::Off => Fallback::Never,
        }
    }
}

/// What an operation does, as far as asking again is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpClass {
    /// R: changes nothing.
    Read,
    /// W: overwrites without looking: put, delete.
    Overwrite,
    /// C: adds to what is there: increment.
    Commuting,
    /// X: depends on what is there: conditions, create-only, update, shift, locks, destroy.
    Exclusive,
}

impl OpClass {
    /// Whether a fallback may be asked at all.
    #[must_use]
    pub fn may_fall_back(self, fallback: Fallback) -> bool {
        match self {
            OpClass::Read => fallback >= Fallback::Reads,
            OpClass::Overwrite | OpClass::Commuting => fallback >= Fallback::Writes,
            OpClass::Exclusive => fallback >= Fallback::Exclusive,
        }
    }

    /// Whether the operation can change anything.
    #[must_use]
    pub fn is_write(self) -> bool {
        self != OpClass::Read
    }
}
