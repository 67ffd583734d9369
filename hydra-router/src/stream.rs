//! Answers that are made while they are read.

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::answer::{self, Response};

/// An answer of pieces. One that ends with an error is broken off, so that nobody takes it for a whole one.
pub(crate) fn answer_of(
    status: StatusCode,
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Response {
    let mut response = answer::empty(status);
    *response.body_mut() = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
    response
}

/// Whether the client asks for this media type by name.
pub(crate) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let lines = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    let mut kinds = lines.flat_map(|line| line.split(',')).filter_map(|sent| sent.split(';').next());
    kinds.any(|sent| sent.trim().eq_ignore_ascii_case(kind))
}
