//! What can go wrong, what the caller can do about it, and whether anything was done.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::handover::MovedTo;
use crate::stamp::Version;

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal, $status:literal, $title:literal;)*) => {
        /// The stable name of a failure, the same in the engine, on the wire and in the client.
        ///
        /// Written in kebab-case in `problem+json`; a code that this version does not know reads as
        /// [`ErrorCode::Unknown`], so an older client can talk to a newer server.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of its HTTP status.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The kebab-case text that stands in `problem+json`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }

            /// The HTTP status this code is answered with.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// A short sentence for people: the `title` of `problem+json`.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(ErrorCode::$variant => $title,)* }
            }

            /// Reads the kebab-case text; [`ErrorCode::Unknown`] for any other text.
            #[must_use]
            pub fn from_text(text: &str) -> ErrorCode {
                match text { $($text => ErrorCode::$variant,)* _ => ErrorCode::Unknown }
            }
        }
    };
}

error_codes! {
    /// A part of a swamp name breaks the naming rules.
    InvalidName => "invalid-name", 400, "A swamp name is not allowed";
    /// A key breaks the key rules.
    InvalidKey => "invalid-key", 400, "A key is not allowed";
    /// The value is not one strict JSON value.
    InvalidJson => "invalid-json", 400, "The value is not valid JSON";
    /// A request body has the wrong shape.
    InvalidBody => "invalid-body", 400, "The request body is not understood";
    /// A known parameter has a value that is not allowed.
    InvalidParameter => "invalid-parameter", 400, "A parameter has a value that is not allowed";
    /// A query parameter that nothing here reads.
    UnknownParameter => "unknown-parameter", 400, "A parameter is not known here";
    /// A header has a value that is not allowed.
    InvalidHeader => "invalid-header", 400, "A header has a value that is not allowed";
    /// A cursor that this swamp did not hand out.
    InvalidCursor => "invalid-cursor", 400, "The cursor is not valid here";
    /// A filter that cannot be read.
    InvalidFilter => "invalid-filter", 400, "The filter is not understood";
    /// A pattern that is not `sanctuary/realm/swamp` with names, `prefix*` or `*`.
    InvalidPattern => "invalid-pattern", 400, "A pattern is not allowed";
    /// A setting, flag or file of settings is not usable.
    InvalidConfig => "invalid-config", 400, "A setting is not usable";
    /// The request has no token, and the server demands one.
    MissingToken => "missing-token", 401, "A token is needed";
    /// The token is none that the server knows.
    InvalidToken => "invalid-token", 401, "The token is not known";
    /// The token does not allow this, or not for this name.
    ScopeDenied => "scope-denied", 403, "The token does not allow this";
    /// A browser page from another origin tried to change something.
    OriginDenied => "origin-denied", 403, "Requests from this origin are refused";
    /// No such path.
    NotFound => "not-found", 404, "There is nothing at this path";
    /// No such swamp.
    SwampNotFound => "swamp-not-found", 404, "The swamp does not exist";
    /// No such treasure.
    TreasureNotFound => "treasure-not-found", 404, "The treasure does not exist";
    /// Nobody holds the lock.
    LockNotFound => "lock-not-found", 404, "Nobody holds the lock";
    /// The treasure has nothing at the path asked for.
    PathNotFound => "path-not-found", 404, "The value has nothing at this path";
    /// No policy is registered for this pattern.
    PolicyNotFound => "policy-not-found", 404, "No policy is registered for this pattern";
    /// The path exists, the method does not.
    MethodNotAllowed => "method-not-allowed", 405, "The method is not allowed here";
    /// The client counts another number of folders than the data directory.
    FolderCountMismatch => "folder-count-mismatch", 409, "Client and server count different folders";
    /// Somebody else holds the lock.
    LockHeld => "lock-held", 409, "The lock is held";
    /// One item of an atomic batch failed, so none was applied.
    BatchAborted => "batch-aborted", 409, "The atomic batch was not applied";
    /// The same idempotency key is being worked on.
    IdempotencyInProgress => "idempotency-in-progress", 409, "A request with this idempotency key is running";
    /// A step of a move met a folder in another state than it begins with.
    FolderStateMismatch => "folder-state-mismatch", 409, "The folder is in another state";
    /// A step of a move came with an epoch that the folder is beyond.
    EpochMismatch => "epoch-mismatch", 409, "The folder is at another epoch";
    /// A fallback wrote in place of the owner, and nobody has settled that.
    TakeoverUnsettled => "takeover-unsettled", 409, "Writes that were taken over are not settled";
    /// The folder is not held by this seal.
    SealMismatch => "seal-mismatch", 409, "The folder is not held by this seal";
    /// The files are not those of the manifest.
    ManifestMismatch => "manifest-mismatch", 409, "The files are not those of the manifest";
    /// Not everything of a folder that is coming here was verified.
    FolderNotReady => "folder-not-ready", 409, "The folder is not ready to be served";
    /// The token is not the one that the folder waits for.
    MoveTokenMismatch => "move-token-mismatch", 409, "The token of the move does not match";
    /// The treasure is at another version than the one demanded.
    VersionMismatch => "version-mismatch", 412, "The version does not match";
    /// The treasure exists although it must not.
    AlreadyExists => "already-exists", 412, "The treasure exists already";
    /// The lock is not held with this token: it is free, or somebody else has it.
    LockTokenMismatch => "lock-token-mismatch", 412, "The lock is not held with this token";
    /// The value is longer than the limit.
    ValueTooLarge => "value-too-large", 413, "The value is too large";
    /// The request body is longer than the limit.
    BodyTooLarge => "body-too-large", 413, "The request body is too large";
    /// The batch has more items or more bytes than the limit.
    BatchTooLarge => "batch-too-large", 413, "The batch is too large";
    /// The request target is longer than the limit.
    UriTooLong => "uri-too-long", 414, "The request target is too long";
    /// A content type that means nothing here.
    UnsupportedMediaType => "unsupported-media-type", 415, "The content type is not supported here";
    /// This server does not own the folder.
    NotOwner => "not-owner", 421, "This server does not own the folder";
    /// The folder was fenced for a move.
    FolderFenced => "folder-fenced", 421, "The folder is fenced";
    /// The folder is on its way to this server, and not served here yet.
    FolderImporting => "folder-importing", 421, "The folder is not served here yet";
    /// The owner of the folder has all that was written here in its place, and takes its writes.
    FolderReturned => "folder-returned", 421, "The folder has returned to its owner";
    /// The folder lives on another server now.
    FolderMoved => "folder-moved", 421, "The folder lives elsewhere";
    /// An increment met a value that is no number it can be added to.
    NotANumber => "not-a-number", 422, "The value is not such a number";
    /// A patch does not fit the value.
    PatchFailed => "patch-failed", 422, "The patch does not fit the value";
    /// An increment would leave its bounds, or the range of 64-bit numbers.
    OutOfBounds => "out-of-bounds", 422, "The result is out of bounds";
    /// The idempotency key was used for another request.
    IdempotencyReuse => "idempotency-reuse", 422, "The idempotency key belongs to another request";
    /// The policy of the swamp demands a version.
    VersionRequired => "version-required", 428, "This swamp demands a version";
    /// Too much at once.
    Overloaded => "overloaded", 429, "The server is overloaded";
    /// More feeds and long polls than the limit.
    TooManyStreams => "too-many-streams", 429, "Too many feeds are open";
    /// A request head larger than the limit.
    HeadersTooLarge => "headers-too-large", 431, "The request headers are too large";
    /// A defect of the server; details are in its log.
    Internal => "internal", 500, "Something went wrong in the server";
    /// An operation of the disk failed.
    Io => "io", 500, "The disk failed";
    /// A proxy could not reach any server for the folder.
    ServerUnreachable => "server-unreachable", 502, "No server for the folder could be reached";
    /// The key was not found, and a damaged file may hold it.
    CorruptSwamp => "corrupt-swamp", 503, "A file of the swamp is damaged";
    /// The key was not found, and a file that is not here yet may hold it.
    IncompleteCopy => "incomplete-copy", 503, "This copy of the swamp is incomplete";
    /// The disk refused, the swamp is readable only until it takes writes again.
    SwampReadOnly => "swamp-read-only", 503, "The swamp is read-only for now";
    /// Memory or open files are short for now; nothing was done.
    Busy => "busy", 503, "The server is short of memory or open files for now";
    /// The folder is about to move, or to return to its owner, and takes no writes for a moment.
    FolderSealed => "folder-sealed", 503, "The folder takes no writes for a moment";
    /// The server is shutting down.
    Draining => "draining", 503, "The server is shutting down";
    /// The server is not ready yet.
    Starting => "starting", 503, "The server is starting";
    /// No answer within the deadline.
    ServerTimeout => "server-timeout", 504, "The servers did not answer in time";
    /// The disk is nearly full; writes are refused until there is room.
    DiskFull => "disk-full", 507, "The disk is nearly full";
    /// Another process holds the data directory.
    DataDirInUse => "data-dir-in-use", 503, "Another process uses the data directory";
    /// A code of a newer version.
    Unknown => "unknown", 500, "An unknown failure";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an operation that failed was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Nothing was done.
    No,
    /// It was done; only the answer is missing.
    Yes,
    /// It may have been done.
    Unknown,
}

impl Applied {
    /// `no`, `yes` or `unknown`, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Applied::No => "no",
            Applied::Yes => "yes",
            Applied::Unknown => "unknown",
        }
    }

    /// Reads the wire text; `None` for any other text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Applied> {
        match text {
            "no" => Some(Applied::No),
            "yes" => Some(Applied::Yes),
            "unknown" => Some(Applied::Unknown),
            _ => None,
        }
    }
}

/// A failure: what, where, whether the operation was applied, and what to do.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: ErrorCode,
    applied: Applied,
    detail: String,
    hint: Option<String>,
    current_version: Option<Version>,
    retry_after: Option<Duration>,
    moved_to: Option<MovedTo>,
    source: Option<std::sync::Arc<io::Error>>,
}

impl Error {
    /// A failure that did nothing. `detail` names the field, what came and what is allowed.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            code,
            applied: Applied::No,
            detail: detail.into(),
            hint: None,
            current_version: None,
            retry_after: None,
            moved_to: None,
            source: None,
        }))
    }

    /// A failed operation of the disk: `doing` is the action in words, e.g. `create`.
    #[must_use]
    pub fn io(doing: &str, path: &Path, source: io::Error) -> Error {
        let code = match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => ErrorCode::DiskFull,
            Some(code) if code == rustix::io::Errno::DQUOT.raw_os_error() => ErrorCode::DiskFull,
            Some(code) if crate::handles::is_out_of_files(code) => ErrorCode::Busy,
            _ => ErrorCode::Io,
        };
        let mut error = Error::new(code, format!("cannot {doing} {}: {source}", path.display()));
        error.0.source = Some(std::sync::Arc::new(source));
        error
    }

    /// What was asked for came to its turn when whoever asked had ceased to wait.
    #[must_use]
    pub fn too_late() -> Error {
        Error::new(ErrorCode::ServerTimeout, "the time of the request was over before its turn came")
            .with_hint("the server has much to do, or its disk is slow: send it again, with more time")
    }

    /// The same failure, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same failure, with another statement about what was done.
    #[must_use]
    pub fn with_applied(mut self, applied: Applied) -> Error {
        self.0.applied = applied;
        self
    }

    /// The same failure, with the version the treasure is at.
    #[must_use]
    pub fn with_current_version(mut self, version: Version) -> Error {
        self.0.current_version = Some(version);
        self
    }

    /// The same failure, with how long to wait before it is worth to ask again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Error {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// The same failure, with where the folder is served instead.
    #[must_use]
    pub fn with_moved_to(mut self, moved_to: MovedTo) -> Error {
        self.0.moved_to = Some(moved_to);
        self
    }

    /// The same failure, for a request about several folders of which one is served elsewhere.
    #[must_use]
    pub fn without_moved_to(mut self) -> Error {
        self.0.moved_to = None;
        self
    }

    /// The stable name of the failure.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// Whether the operation was carried out.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.0.applied
    }

    /// What went wrong, in one sentence that names the field, what came and what is allowed.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How long to wait before it is worth to ask again, for `lock-held`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Where the folder is served instead, for `not-owner` and `folder-importing`, as far as that is known.
    #[must_use]
    pub fn moved_to(&self) -> Option<&MovedTo> {
        self.0.moved_to.as_ref()
    }

    /// The version a treasure is at, for `version-mismatch` and `already-exists`.
    #[must_use]
    pub fn current_version(&self) -> Option<&Version> {
        self.0.current_version.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)?;
        if let Some(hint) = &self.0.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
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
    fn every_code_reads_back_from_its_text() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_text(code.as_str()), code);
        }
        assert_eq!(ErrorCode::from_text("made-up"), ErrorCode::Unknown);
    }
}
