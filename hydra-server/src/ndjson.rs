//! Answers of one JSON value in each line, made while they are read: however long, and however slow the reader.

use std::future::Future;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, VARY};
use hydra_core::Error;
use hydra_core::wire::NDJSON;

use crate::answer::{self, Response};
use crate::conditions::accepts;
use crate::encoding::Pieces;
use crate::head::Headers;

/// Lines are sent when they are so many bytes together.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// The next lines of an answer, and how to go on; `None` behind the last.
pub(crate) type Piece<S> = Option<(Bytes, S)>;

/// Whether the client asks for lines.
pub(crate) fn is_wanted(headers: &Headers) -> bool {
    accepts(headers, NDJSON)
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
    response.headers_mut().insert(VARY, answer::BY_ACCEPT);
    response.extensions_mut().insert(Pieces);
    Ok(response)
}
