//! Answers of one JSON value in each line, made while they are read: however long, and however slow the reader.

use std::future::Future;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use hydra_core::Error;
use hydra_core::wire::NDJSON;

use crate::answer::Response;

/// Lines are sent when they are so many bytes together.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// The next lines of an answer, and how to go on; `None` behind the last.
pub(crate) type Piece<S> = Option<(Bytes, S)>;

/// Whether the client asks for lines.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    kinds
        .flat_map(|value| value.split(','))
        .filter_map(|kind| kind.split(';').next())
        .any(|kind| kind.trim().eq_ignore_ascii_case(NDJSON))
}

/// An answer that is made piece by piece, each when the one before was sent. The first is made before anything is
/// answered, so that a request that cannot be carried out is refused; a later failure breaks the answer off, so
/// that nobody takes it for a whole one.
///
/// # Errors
/// Those of the first piece.
pub(crate) async fn answer<S, F>(state: S, next: fn(S) -> F) -> Result<Response, Error>
where
    S: Send + 'static,
    F: Future<Output = Result<Piece<S>, Error>> + Send + 'static,
{
    let body = match next(state).await? {
        None => Body::empty(),
        Some((first, state)) => {
            let rest = stream::try_unfold(state, next)
                .inspect_err(|error| tracing::warn!(%error, "an answer of lines was broken off"));
            Body::from_stream(stream::once(std::future::ready(Ok(first))).chain(rest))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_made_for_those_who_ask_for_them() {
        let headers = |accept: &'static str| [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
        for accept in ["application/x-ndjson", "text/html, Application/X-NDJSON;q=0.5"] {
            assert!(is_wanted(&headers(accept)), "{accept}");
        }
        for accept in ["*/*", "application/json", "application/x-ndjsonx"] {
            assert!(!is_wanted(&headers(accept)), "{accept}");
        }
    }
}
