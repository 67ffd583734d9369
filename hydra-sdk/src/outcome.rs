//! How one try ends: answered, rejected, not sent, or maybe. What counts as a network error stands here alone.
//!
//! | what happened | outcome |
//! | --- | --- |
//! | refused, no route, unknown host, connect timeout; a fresh connection closed before anything was written | not sent |
//! | a certificate that is not trusted | not sent; an error for writes, because it is a mistake or an attack and no outage |
//! | the connection broke after the request was written, or no answer came in time | maybe |
//! | 502, 503, 504 that no Hydra server made (no `Hydra-Server`): a proxy spoke | maybe |
//! | any answer with `Hydra-Server` | answered, or rejected if it says `Hydra-Applied: no` |
//! | the head of a success arrived and its body did not | a write *is* done; a read is a maybe |
//!
//! A network error is "not sent" or "maybe", and nothing else.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AsHeaderName, CONTENT_LENGTH, HeaderMap};
use hydra_core::wire::{Problem, header};
use hydra_core::{Applied, ErrorCode};
use hyper_util::client::legacy;

use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::hint::Hint;

/// Bodies up to so many bytes are awaited, also where pieces would do.
const SHORT: u64 = 64 << 10;

/// How one try ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A complete answer of a server; also a refusal that asking again would not change.
    Answered(Answer),
    /// The server did nothing, and something can be done about it.
    Rejected(Answer, Remedy),
    /// No byte of the request can have been carried out.
    NotSent(Failure),
    /// It may have been carried out.
    Maybe(Failure),
}

/// What can be done about a rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Ask another server: this one starts or shuts down.
    Elsewhere,
    /// Ask the owner of the folder, where its id is known.
    Owner(Option<Hint>),
    /// Ask the primary again: it has all that this fallback wrote in its place.
    Primary,
    /// Ask the same server until it serves the folder, and the owner meanwhile where its id is known: it gets the folder.
    Importing(Option<Hint>),
    /// Ask the same server until it takes writes again: the folder is about to move.
    Sealed,
    /// Ask the same server again after a while.
    Later(Option<Duration>),
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A predicate: `refused the connection`.
    pub(crate) why: String,
    pub(crate) cause: Cause,
}

/// What a failure says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection could be made: the server is down, not only slow.
    Unreachable,
    /// The connection broke, or somebody else spoke in the server's place.
    Broken,
    /// Time ran out on a connection that stands: the server may only be slow.
    Silence,
    /// Whoever is there could not prove to be the server: its certificate is not trusted.
    Untrusted,
    /// The server died while its answer was awaited.
    Death,
    /// Nothing: the server was not asked.
    Unasked,
}

impl Failure {
    pub(crate) fn new(cause: Cause, why: impl Into<String>) -> Failure {
        Failure { why: why.into(), cause }
    }

    pub(crate) fn timeout() -> Failure {
        Failure::new(Cause::Silence, "did not answer in time")
    }

    /// Whether the server may be there, and its connection alone was lost.
    pub(crate) fn is_only_broken(&self) -> bool {
        self.cause == Cause::Broken
    }
}

/// An answer of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// It is still to come.
    Open(reqwest::Body),
    /// The head said that a write was done; the rest did not come.
    Lost(Failure),
}

impl Answer {
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether a copy answered, which may be behind.
    pub(crate) fn is_stale(&self) -> bool {
        self.header(header::SERVED_BY) == Some("fallback")
    }

    /// What a server says about what it did.
    pub(crate) fn applied(&self) -> Applied {
        let said = self.header(header::APPLIED).and_then(Applied::from_text);
        said.unwrap_or(if self.is_success() { Applied::Yes } else { Applied::Unknown })
    }

    /// The bytes of the body; what is lost or was never collected reads as nothing.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Whole(bytes) => bytes,
            AnswerBody::Open(_) | AnswerBody::Lost(_) => &[],
        }
    }

    fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(self.bytes()).ok()
    }

    /// The code of an error answer.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.problem().map(|problem| ErrorCode::from_text(&problem.code))
    }

    /// The error that an answer stands for.
    pub(crate) fn to_error(&self) -> Error {
        if let AnswerBody::Lost(failure) = &self.body {
            let detail = format!("the server did it, but {}", failure.why);
            return Error::new(ErrorKind::Network, detail).with_applied(Applied::Yes);
        }
        match self.problem() {
            Some(problem) => Error::from_problem(&problem).with_applied(self.applied()),
            None => Error::new(ErrorKind::Protocol, format!("the server answered {} without a reason", self.status))
                .with_applied(self.applied()),
        }
    }

    /// Whether the body is so short that it may be awaited: one that breaks off then is a failed try like any other,
    /// and not an answer that ends in its midst.
    pub(crate) fn is_short(&self) -> bool {
        let length = self.header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        length.is_some_and(|length| length <= SHORT)
    }

    /// Whether a Hydra server, or a Hydra router for itself, made this answer.
    fn is_hydras(&self) -> bool {
        self.headers.contains_key(headers::SERVER) || self.headers.contains_key(headers::ROUTER)
    }

    /// What a rejection that did nothing can be answered with.
    fn remedy(&self) -> Option<Remedy> {
        if self.status == 421 {
            let hint = self.hint();
            return Some(match self.code() {
                Some(ErrorCode::FolderImporting) => Remedy::Importing(hint),
                Some(ErrorCode::FolderReturned) => Remedy::Primary,
                _ => Remedy::Owner(hint),
            });
        }
        if !matches!(self.status, 409 | 429 | 503) || self.applied() != Applied::No {
            return None;
        }
        let after = self.header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        match self.code()? {
            ErrorCode::Draining | ErrorCode::Starting => Some(Remedy::Elsewhere),
            ErrorCode::Overloaded | ErrorCode::Busy | ErrorCode::IdempotencyInProgress => Some(Remedy::Later(after)),
            ErrorCode::FolderSealed => Some(Remedy::Sealed),
            _ => None,
        }
    }

    /// Where the server says that the folder lives.
    fn hint(&self) -> Option<Hint> {
        let said = self.header(header::MOVED_TO).and_then(Hint::parse);
        said.or_else(|| self.problem().and_then(|problem| problem.owner).map(Hint::to))
    }
}

/// Whether the body of an answer must be read to know what it means for the other servers.
pub(crate) fn needs_body(status: u16) -> bool {
    matches!(status, 409 | 421 | 429 | 503)
}

/// The outcome of a try that got an answer.
pub(crate) fn of_answer(answer: Answer) -> Outcome {
    if matches!(answer.status, 502..=504) && !answer.headers.contains_key(headers::SERVER) {
        let failure = Failure::new(Cause::Broken, format!("is behind a proxy that answered {}", answer.status));
        return match answer.header(header::APPLIED) {
            Some("no") => Outcome::NotSent(failure),
            _ => Outcome::Maybe(failure),
        };
    }
    match answer.remedy() {
        Some(remedy) if answer.is_hydras() => Outcome::Rejected(answer, remedy),
        _ => Outcome::Answered(answer),
    }
}

/// The error of an answer that no Hydra server made; `None` for all others.
pub(crate) fn foreign(answer: &Answer) -> Option<Error> {
    if answer.is_hydras() {
        return None;
    }
    let detail = format!("the answer {} has no Hydra-Server header, so it is not from a Hydra server", answer.status);
    Some(Error::new(ErrorKind::Protocol, detail).with_applied(Applied::Unknown).with_hint("check the address"))
}

/// The outcome of a try that got none.
pub(crate) fn of_error(error: &(dyn StdError + 'static)) -> Outcome {
    if is_connect(error) {
        of_connecting(error)
    } else if was_never_written(error) {
        Outcome::NotSent(Failure::new(Cause::Broken, describe(error)))
    } else {
        Outcome::Maybe(Failure::new(cause_of(error), describe(error)))
    }
}

/// The outcome of a try for which no connection could be made.
pub(crate) fn of_connecting(error: &(dyn StdError + 'static)) -> Outcome {
    let cause = if is_untrusted(error) { Cause::Untrusted } else { Cause::Unreachable };
    Outcome::NotSent(Failure::new(cause, describe_connecting(error)))
}

/// Why an answer that was begun, or awaited, did not come.
pub(crate) fn cause_of(error: &(dyn StdError + 'static)) -> Cause {
    if is_timeout(error) { Cause::Silence } else { Cause::Broken }
}

/// Whether no connection could be made.
fn is_connect(error: &(dyn StdError + 'static)) -> bool {
    chain(error).filter_map(|cause| cause.downcast_ref()).any(legacy::Error::is_connect)
}

/// Whether time ran out: for a connection, or as the system says.
fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    let of_system = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    error.downcast_ref().is_some_and(reqwest::Error::is_timeout)
        || chain(error).filter_map(|cause| cause.downcast_ref()).any(of_system)
}

/// Whether TLS was not agreed on because of the server's certificate: expired, of an unknown issuer, or of another name.
fn is_untrusted(error: &(dyn StdError + 'static)) -> bool {
    chain(error)
        .filter_map(innermost)
        .any(|error| matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// An error of TLS, however many io errors are around it: what those carry is not their source.
fn innermost<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(around) => innermost(around.get_ref()?),
        None => error.downcast_ref(),
    }
}

/// Whether hyper handed the request back because the connection closed before anything was written.
fn was_never_written(error: &(dyn StdError + 'static)) -> bool {
    chain(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

fn chain<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The failure as a predicate of the server.
pub(crate) fn describe(error: &(dyn StdError + 'static)) -> String {
    if is_connect(error) {
        describe_connecting(error)
    } else if let Some(known) = described_by_system(error) {
        known.to_owned()
    } else if is_timeout(error) {
        "did not answer in time".to_owned()
    } else if was_never_written(error) {
        "closed the connection before the request was written".to_owned()
    } else {
        format!("did not complete its answer ({})", root_of(error))
    }
}

/// The same for a connection that could not be made.
fn describe_connecting(error: &(dyn StdError + 'static)) -> String {
    match described_by_system(error) {
        Some(known) => known.to_owned(),
        None if is_timeout(error) => "did not accept a connection in time".to_owned(),
        None => format!("could not be reached ({})", root_of(error)),
    }
}

/// What the innermost error of the system says, where it says enough.
fn described_by_system(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    match chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last()?.kind() {
        io::ErrorKind::ConnectionRefused => Some("refused the connection"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some("broke the connection")
        }
        _ => None,
    }
}

fn root_of(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}
