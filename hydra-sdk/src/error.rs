//! What can go wrong in a call, what the caller can do about it, and which servers were asked.

use std::fmt;
use std::time::Duration;

use hydra_core::wire::Problem;
use hydra_core::{Applied, ErrorCode, Version};

use crate::map::MapError;

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, key, value or parameter is not allowed: correct it.
    Invalid,
    /// The treasure is at another version than the one demanded: read it again and decide.
    VersionMismatch,
    /// The treasure exists although it must not.
    AlreadyExists,
    /// There is no treasure to patch; [`crate::Patch::create`] makes one.
    NotFound,
    /// Something else stands against it: an atomic batch with a failed item, an idempotency key
    /// that belongs to another request, a lock of somebody else, clients that count different folders.
    Conflict,
    /// The value under the key is no number that can be added to, or the sum leaves its bounds or the range of
    /// 64-bit numbers.
    OutOfRange,
    /// A patch does not fit the value: a path that leads nowhere, or a `test` that does not hold.
    PatchFailed,
    /// A value, a batch or a request is larger than the limit that the message states.
    TooLarge,
    /// The server does not own the folder: the map is not the one the servers go by.
    NotOwner,
    /// The server wants a token, or does not know the one that was sent: correct it. Never asked elsewhere.
    Unauthenticated,
    /// The token does not allow this, or not for this name. Never asked elsewhere.
    Denied,
    /// No server could be reached, or the answer was lost. The message lists every try.
    Network,
    /// No answer within the deadline. The message lists every try.
    Timeout,
    /// A server answered that it cannot do it now: it starts, shuts down, or has a damaged copy.
    Unavailable,
    /// The server has too much to do: ask again later.
    Overloaded,
    /// The disk of the server failed or is full.
    Storage,
    /// The value is there and has another shape than the type asked for.
    Decode,
    /// A URL, a client map or a setting is not usable.
    Config,
    /// The answer was not one of a Hydra server, or the server has a defect.
    Protocol,
}

/// How one try at one server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TryOutcome {
    /// The server answered; its answer is the result.
    Answered,
    /// The server answered that it did nothing.
    Rejected,
    /// No byte of the request can have been seen by a server.
    NotSent,
    /// The request may have been carried out; its answer is missing.
    Maybe,
}

/// One try at one server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The id of the server, or its address where the id is not known.
    pub server: String,
    /// How it ended.
    pub outcome: TryOutcome,
    /// What happened, as a predicate: `refused the connection`.
    pub error: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.elapsed.as_millis();
        write!(f, "{} {}", self.server, self.error)?;
        if ms < 1000 { write!(f, " after {ms} ms") } else { write!(f, " after {:.1} s", self.elapsed.as_secs_f64()) }
    }
}

/// A failed call: what it was about, why it failed, whether it was applied, and every server that was tried.
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    applied: Applied,
    about: Option<String>,
    detail: String,
    hint: Option<String>,
    current_version: Option<Version>,
    attempts: Vec<Attempt>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure that did nothing.
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            code: None,
            applied: Applied::No,
            about: None,
            detail: detail.into(),
            hint: None,
            current_version: None,
            attempts: Vec::new(),
            source: None,
        }))
    }

    /// The failure that a server described.
    pub(crate) fn from_problem(problem: &Problem) -> Error {
        Error::from(problem.to_error())
    }

    pub(crate) fn with_applied(mut self, applied: Applied) -> Error {
        self.0.applied = applied;
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: Vec<Attempt>) -> Error {
        self.0.attempts = attempts;
        self
    }

    /// The same failure, with what the call was about, e.g. a name and a key.
    pub(crate) fn about(mut self, subject: impl Into<String>) -> Error {
        self.0.about.get_or_insert_with(|| subject.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same failure once more, for operations that failed together; without the error below it.
    pub(crate) fn repeat(&self) -> Error {
        let Inner { kind, code, applied, about, detail, hint, current_version, attempts, source: _ } = &*self.0;
        Error(Box::new(Inner {
            kind: *kind,
            code: *code,
            applied: *applied,
            about: about.clone(),
            detail: detail.clone(),
            hint: hint.clone(),
            current_version: *current_version,
            attempts: attempts.clone(),
            source: None,
        }))
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code, where a server or the engine gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// Whether the operation was carried out. `Unknown` means that it may have been; ask again with
    /// the same idempotency key, or read what is there.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.0.applied
    }

    /// Whether this is a network error: no server answered, because none could be reached, the
    /// answers were lost, or there was none in time. Every answer of a server, also a refusal, is not.
    #[must_use]
    pub fn is_network(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Network | ErrorKind::Timeout)
    }

    /// Whether the same call may succeed later without any change. Look at [`Error::applied`]
    /// before asking again for something that must not happen twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_network() || matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Overloaded)
    }

    /// The version the treasure is at, where a condition on it failed.
    #[must_use]
    pub fn current_version(&self) -> Option<&Version> {
        self.0.current_version.as_ref()
    }

    /// Every server that was asked in vain, in order; empty when the call failed before that.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// What went wrong, without the tries.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

/// What a caller can do about a code.
fn kind_of(code: ErrorCode) -> ErrorKind {
    match code {
        ErrorCode::VersionMismatch | ErrorCode::VersionRequired => ErrorKind::VersionMismatch,
        ErrorCode::AlreadyExists => ErrorKind::AlreadyExists,
        ErrorCode::FolderCountMismatch
        | ErrorCode::BatchAborted
        | ErrorCode::IdempotencyInProgress
        | ErrorCode::IdempotencyReuse
        | ErrorCode::LockHeld
        | ErrorCode::LockTokenMismatch
        | ErrorCode::FolderStateMismatch
        | ErrorCode::EpochMismatch
        | ErrorCode::TakeoverUnsettled
        | ErrorCode::SealMismatch
        | ErrorCode::ManifestMismatch
        | ErrorCode::FolderNotReady
        | ErrorCode::MoveTokenMismatch => ErrorKind::Conflict,
        ErrorCode::TreasureNotFound => ErrorKind::NotFound,
        ErrorCode::NotANumber | ErrorCode::OutOfBounds => ErrorKind::OutOfRange,
        ErrorCode::PatchFailed => ErrorKind::PatchFailed,
        ErrorCode::ValueTooLarge
        | ErrorCode::BodyTooLarge
        | ErrorCode::BatchTooLarge
        | ErrorCode::UriTooLong
        | ErrorCode::HeadersTooLarge => ErrorKind::TooLarge,
        ErrorCode::NotOwner
        | ErrorCode::FolderFenced
        | ErrorCode::FolderImporting
        | ErrorCode::FolderMoved
        | ErrorCode::FolderReturned => ErrorKind::NotOwner,
        ErrorCode::MissingToken | ErrorCode::InvalidToken => ErrorKind::Unauthenticated,
        ErrorCode::ScopeDenied | ErrorCode::OriginDenied => ErrorKind::Denied,
        ErrorCode::Overloaded | ErrorCode::Busy | ErrorCode::TooManyStreams => ErrorKind::Overloaded,
        ErrorCode::ServerUnreachable => ErrorKind::Network,
        ErrorCode::ServerTimeout => ErrorKind::Timeout,
        ErrorCode::CorruptSwamp
        | ErrorCode::IncompleteCopy
        | ErrorCode::SwampReadOnly
        | ErrorCode::FolderSealed
        | ErrorCode::Draining
        | ErrorCode::Starting => ErrorKind::Unavailable,
        ErrorCode::Io | ErrorCode::DiskFull => ErrorKind::Storage,
        ErrorCode::InvalidConfig | ErrorCode::DataDirInUse => ErrorKind::Config,
        ErrorCode::Internal | ErrorCode::Unknown | ErrorCode::NotFound | ErrorCode::MethodNotAllowed => {
            ErrorKind::Protocol
        }
        _ => ErrorKind::Invalid,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(about) = &inner.about {
            write!(f, "{about}: ")?;
        }
        f.write_str(&inner.detail)?;
        for (index, attempt) in inner.attempts.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            attempt.fmt(f)?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, " ({hint})")?;
        }
        match inner.applied {
            Applied::No => Ok(()),
            Applied::Yes => f.write_str("; the operation was applied"),
            Applied::Unknown => f.write_str("; the operation may have been applied"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("code", &inner.code)
            .field("applied", &inner.applied)
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<hydra_core::Error> for Error {
    fn from(error: hydra_core::Error) -> Error {
        let mut ours = Error::new(kind_of(error.code()), error.detail()).with_applied(error.applied());
        ours.0.code = Some(error.code());
        ours.0.hint = error.hint().map(str::to_owned);
        ours.0.current_version = error.current_version().copied();
        ours.0.source = Some(Box::new(error));
        ours
    }
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Error {
        let mut ours = Error::new(ErrorKind::Config, error.to_string());
        ours.0.code = Some(ErrorCode::InvalidConfig);
        ours.0.source = Some(Box::new(error));
        ours
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_a_sentence() {
        let attempt = |server: &str, outcome, error: &str, ms| Attempt {
            server: server.into(),
            outcome,
            error: error.into(),
            elapsed: Duration::from_millis(ms),
        };
        let error = Error::new(ErrorKind::Network, "no server answered")
            .about("users/profiles/alice (folder 62)")
            .with_applied(Applied::Unknown)
            .with_attempts(vec![
                attempt("s1", TryOutcome::NotSent, "refused the connection", 1),
                attempt("s2", TryOutcome::Maybe, "did not answer in time", 2000),
            ]);
        assert_eq!(
            error.to_string(),
            "users/profiles/alice (folder 62): no server answered: s1 refused the connection after 1 ms; \
             s2 did not answer in time after 2.0 s; the operation may have been applied"
        );
    }
}
