//! Answers in fewer bytes: gzip, where the client takes it and it is worth while.
//!
//! Never what has to be there line by line, as feeds and the answers to imports do, nor what is not text: pictures and
//! archives are packed already. The entity tag stays as it is: it stands for the version of the treasure, with which a
//! client writes, and ranges, for which every encoding needs a tag of its own, are not answered.

use std::io::Write;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hydra_core::wire::{EVENT_STREAM, GZIP, accepts_gzip};
use hydra_core::{Error, ErrorCode};

use crate::answer::Response;
use crate::app::by_size;
use crate::head::Headers;

/// What is shorter is sent as it is: packing it would cost more time than it saves.
const LEAST: u64 = 1 << 10;
/// The quickest: smaller forms take several times as long.
const LEVEL: Compression = Compression::fast();
/// Packing takes so many times as long as what else is done with as many bytes.
const COST: usize = 4;

/// Among the extensions of an answer that is made while it is read: its pieces are large, and may be packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces;

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Nothing: it is short, or no text.
    AsItIs,
    /// Nothing for this client; others get it packed.
    Declined,
    Gzip,
}

impl Encoding {
    /// The encoding for a client that sent these headers.
    pub(crate) fn of(request: &Headers, response: &Response) -> Encoding {
        let is_long = match response.body().size_hint().exact() {
            Some(length) => length > LEAST,
            None => response.extensions().get::<Pieces>().is_some(),
        };
        if !is_long || !response.status().is_success() || !is_text(response.headers()) {
            return Encoding::AsItIs;
        }
        let lines = request.get_all(&ACCEPT_ENCODING).filter_map(|line| line.to_str().ok());
        if accepts_gzip(lines) { Encoding::Gzip } else { Encoding::Declined }
    }

    /// Says in the head what became of the body, and that it depends on what the client takes.
    pub(crate) fn describe(self, headers: &mut HeaderMap) {
        if self != Encoding::AsItIs {
            headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        }
        if self == Encoding::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(GZIP));
            headers.remove(CONTENT_LENGTH);
        }
    }
}

/// Whether packing makes it shorter.
fn is_text(headers: &HeaderMap) -> bool {
    let sent = headers.get(CONTENT_TYPE).and_then(|sent| sent.to_str().ok()).unwrap_or_default();
    let media = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media == EVENT_STREAM || headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    media.starts_with("text/")
        || media.ends_with("+json")
        || media.ends_with("+xml")
        || matches!(
            media.as_str(),
            "application/json"
                | "application/x-ndjson"
                | "application/openmetrics-text"
                | "application/xml"
                | "application/javascript"
        )
}

/// The body in fewer bytes: a whole one at once, so that its length is known, others piece by piece.
pub(crate) async fn gzip(response: Response) -> Response {
    let (head, body) = response.into_parts();
    let packed = match body.size_hint().exact() {
        Some(_) => whole(body).await,
        None => Ok(Body::from_stream(pieces(body))),
    };
    // The body of an answer that was written already does not fail; if it did, the answer would break off.
    let body = packed.unwrap_or_else(|error| Body::from_stream(stream::iter([Err::<Bytes, _>(error)])));
    Response::from_parts(head, body)
}

async fn whole(body: Body) -> Result<Body, Error> {
    let bytes = body.collect().await.map_err(|error| unreadable(&error))?.to_bytes();
    let length = bytes.len();
    let packed = by_size(COST * length, move || {
        let mut encoder = encoder();
        encoder.write_all(&bytes).map_err(|error| unreadable(&error))?;
        encoder.finish().map_err(|error| unreadable(&error))
    });
    packed.await.map(Body::from)
}

fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream::try_unfold(Some((body.into_data_stream(), encoder())), |state| async move {
        let Some((mut body, encoder)) = state else { return Ok(None) };
        let Some(piece) = body.next().await else {
            let rest = encoder.finish().map_err(|error| unreadable(&error))?;
            return Ok(Some((rest.into(), None)));
        };
        let piece = piece.map_err(|error| unreadable(&error))?;
        let (packed, encoder) = by_size(COST * piece.len(), move || pack(encoder, &piece)).await?;
        Ok(Some((packed.into(), Some((body, encoder)))))
    })
}

type Encoder = GzEncoder<Vec<u8>>;

fn encoder() -> Encoder {
    GzEncoder::new(Vec::new(), LEVEL)
}

/// All that went in comes out, so that whoever reads a piece does not wait for the next one.
fn pack(mut encoder: Encoder, piece: &[u8]) -> Result<(Vec<u8>, Encoder), Error> {
    encoder.write_all(piece).and_then(|()| encoder.flush()).map_err(|error| unreadable(&error))?;
    Ok((std::mem::take(encoder.get_mut()), encoder))
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, format!("the answer broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::answer;

    fn wanted(accept: &'static str, response: &Response) -> Encoding {
        let headers = [(ACCEPT_ENCODING, HeaderValue::from_static(accept))].into_iter().collect::<HeaderMap>().into();
        Encoding::of(&headers, response)
    }

    fn of_type(content_type: &'static str, length: usize) -> Response {
        answer::body(StatusCode::OK, HeaderValue::from_static(content_type), vec![b'x'; length])
    }

    #[test]
    fn long_texts_are_packed_for_those_who_take_it_and_nothing_else_is() {
        for text in ["application/json", "text/html; charset=utf-8", "application/x-ndjson", "image/svg+xml"] {
            assert_eq!(wanted("gzip", &of_type(text, 1_025)), Encoding::Gzip, "{text}");
            assert_eq!(wanted("br", &of_type(text, 1_025)), Encoding::Declined, "{text}");
            assert_eq!(wanted("gzip", &of_type(text, 1_024)), Encoding::AsItIs, "{text}");
        }
        for packed in ["image/png", "application/octet-stream", "application/x-tar", "text/event-stream"] {
            assert_eq!(wanted("gzip", &of_type(packed, 5_000)), Encoding::AsItIs, "{packed}");
        }
        let mut refusal = of_type("application/problem+json", 5_000);
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        assert_eq!(wanted("gzip", &refusal), Encoding::AsItIs);
        let mut feed = of_type("application/x-ndjson", 0);
        *feed.body_mut() = Body::from_stream(stream::pending::<Result<Bytes, Error>>());
        assert_eq!(wanted("gzip", &feed), Encoding::AsItIs);
        feed.extensions_mut().insert(Pieces);
        assert_eq!(wanted("gzip", &feed), Encoding::Gzip);
    }
}
