//! A request about a name: to the server that answers for it, and its answer back, as they are.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT_ENCODING, CONNECTION, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hydra_core::wire::{EVENT_STREAM, NDJSON};
use hydra_core::{Applied, Error, ErrorCode, SwampName};
use hydra_sdk::{ForwardBody, ForwardRequest, ForwardResponse, ForwardedBody, OpClass};

use crate::answer::{self, Refusal, Response};
use crate::body::{RequestBody, Taken};
use crate::classify::{class_of, class_of_batch};
use crate::config::MAX_HOPS;
use crate::gateway::{Gateway, Head};
use crate::patience::{share, wait_of_lock, wait_of_query};
use crate::peer::StillReading;
use crate::route::Place;

/// Passes a request on to the server of its name, or a fallback. Its headers go with it: none are left in `head`.
pub(crate) async fn forward(
    gateway: &Gateway,
    head: &mut Head,
    body: RequestBody,
    name: &SwampName,
    place: &Place,
) -> Result<Response, Refusal> {
    let class = class_of(&head.parts, place);
    let given = number(&head.parts.headers, &answer::DEADLINE_MS);
    let headers = std::mem::take(&mut head.parts.headers);
    let mut request = request_with(gateway, head, headers, class)?;
    let given = given?;
    limit(&mut request, given, head.begun, wait_of_query(&head.parts))?;
    if let Some(target) = with_whole_key(&request.target, place) {
        request.target = target;
    }
    // An import is answered while it comes.
    let still_reading = (*place == Place::Import).then(StillReading::default);
    // The permit is held until the answer begins.
    let _room;
    let taken = match still_reading.clone() {
        Some(reading) => {
            // It goes with the stream, when the last piece was read or nobody reads on.
            let pieces = body.stream().map(move |piece| {
                let _goes_along = &reading;
                piece
            });
            Taken::Stream(pieces.boxed())
        }
        None => body.take(&gateway.kept).await?,
    };
    match taken {
        Taken::Whole(bytes, room) => {
            // Time has gone by while the body came.
            let wait = if *place == Place::Lock { wait_of_lock(&bytes) } else { wait_of_query(&head.parts) };
            limit(&mut request, given, head.begun, wait)?;
            if *place == Place::Batch && request.class != OpClass::Read {
                request.class = class_of_batch(&bytes);
            }
            request.body = whole(bytes);
            _room = Some(room);
        }
        Taken::Stream(stream) => request.body = ForwardBody::Stream(stream),
    }
    let folder = gateway.map().route(name).folder();
    gateway.metrics.asked(folder);
    let (waits, is_write) = (!request.patience.is_zero(), request.class.is_write());
    let answer = tokio::select! {
        answer = gateway.hydra.forward(name, request) => answer,
        () = gateway.ending.cancelled(), if waits => {
            // A server that was asked to take something may have done so a moment ago.
            let applied = if is_write { Applied::Unknown } else { Applied::No };
            return Err(Error::new(ErrorCode::Draining, "this router is shutting down").with_applied(applied).into());
        }
    };
    match answer {
        Ok(answer) => {
            if answer.fell_back {
                gateway.metrics.fell_back();
            }
            let mut response = if is_feed(&answer) { feed_of(gateway, answer) } else { response_of(answer) };
            still_reading.map(|reading| response.extensions_mut().insert(reading));
            Ok(response)
        }
        Err(error) => {
            gateway.metrics.unanswered();
            Err(Refusal::of_call(&error).in_folder(folder))
        }
    }
}

pub(crate) fn whole(bytes: Bytes) -> ForwardBody {
    if bytes.is_empty() { ForwardBody::Empty } else { ForwardBody::Whole(bytes.into()) }
}

/// The request as it goes on, still without a body.
///
/// # Errors
/// `invalid-header` for hops or a deadline that is no number; `server-unreachable` for a loop; `server-timeout` when
/// there is no time left.
pub(crate) fn request_of(gateway: &Gateway, head: &Head, class: OpClass) -> Result<ForwardRequest, Refusal> {
    let mut request = request_with(gateway, head, head.parts.headers.clone(), class)?;
    let given = number(&head.parts.headers, &answer::DEADLINE_MS)?;
    limit(&mut request, given, head.begun, wait_of_query(&head.parts))?;
    Ok(request)
}

/// The same for somebody who has its headers, without a limit of time.
fn request_with(
    gateway: &Gateway,
    head: &Head,
    mut headers: HeaderMap,
    class: OpClass,
) -> Result<ForwardRequest, Refusal> {
    let hops = number(&headers, &answer::HOPS)?.unwrap_or(0);
    if hops >= u64::from(MAX_HOPS) {
        let detail = format!("the request has passed {hops} routers, which looks like a loop");
        return Err(Error::new(ErrorCode::ServerUnreachable, detail)
            .with_hint("compare the urls of the client map with where routers listen")
            .into());
    }
    let target = head.parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = ForwardRequest::new(class, head.parts.method.as_str(), target);
    request.own_token = gateway.config.own_token;
    let named = named_by_connection(&headers);
    // With room for what is added here and by the client.
    headers.reserve(8);
    named.iter().for_each(|name| drop(headers.remove(name)));
    headers.insert(answer::HOPS, HeaderValue::from(hops + 1));
    headers.insert(answer::REQUEST_ID, head.id.clone());
    request.headers = headers.into();
    Ok(request)
}

/// The same for an answer that is read here, and not passed on: nobody else unpacks it.
///
/// # Errors
/// Those of [`request_of`].
pub(crate) fn request_to_read(gateway: &Gateway, head: &Head, class: OpClass) -> Result<ForwardRequest, Refusal> {
    let mut request = request_of(gateway, head, class)?;
    request.headers.remove(ACCEPT_ENCODING.as_str());
    Ok(request)
}

/// Gives a request what is left of the milliseconds that the client gives it, if it says so; `wait` is within them.
fn limit(request: &mut ForwardRequest, given: Option<u64>, begun: Instant, wait: Duration) -> Result<(), Error> {
    let left = given.map(|given| Duration::from_millis(given).saturating_sub(begun.elapsed()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Error::too_late());
    }
    (request.deadline, request.patience) = share(left, wait);
    Ok(())
}

/// A target whose key has pieces like `%2E%2E`, which URLs take for steps: with its slashes encoded, which means the same.
/// What is wrong with a key is for the server to say.
fn with_whole_key(target: &str, place: &Place) -> Option<String> {
    let slashes_before = match place {
        Place::Treasure => 5,
        Place::Lock => 6,
        _ => return None,
    };
    // Nearly all are plain.
    if !target.as_bytes().contains(&b'%') {
        return None;
    }
    let path = target.split('?').next().unwrap_or_default();
    let begin = path.match_indices('/').nth(slashes_before)?.0 + 1;
    let key = &path[begin..];
    let has_steps = key.split('/').any(|piece| matches!(piece, "" | "." | ".."));
    let has_dots = key.contains("%2E") || key.contains("%2e");
    let whole = || format!("{}{}{}", &path[..begin], key.replace('/', "%2F"), &target[path.len()..]);
    (has_dots && !has_steps).then(whole)
}

/// The headers that `Connection` says are about this connection only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => {
            let detail = format!("the header {name} is {value:?}; allowed is a whole number");
            Err(Error::new(ErrorCode::InvalidHeader, detail))
        }
    }
}

/// Whether an answer goes on until somebody ends it.
fn is_feed(answer: &ForwardResponse) -> bool {
    answer.header("content-type").is_some_and(|kind| kind == EVENT_STREAM || kind == NDJSON)
}

/// A feed as it goes back: as long as the router goes on.
fn feed_of(gateway: &Gateway, answer: ForwardResponse) -> Response {
    let (head, body) = response_of(answer).into_parts();
    let pieces = BodyStream::new(body).take_until(gateway.ending.clone().cancelled_owned());
    Response::from_parts(head, StreamBody::new(pieces).boxed_unsync())
}

/// The answer of a server as it goes back.
pub(crate) fn response_of(answer: ForwardResponse) -> Response {
    let mut headers = HeaderMap::from(answer.headers);
    if answer.retried > 0 {
        headers.insert(answer::RETRIED, HeaderValue::from(answer.retried));
    }
    let pieces = Pieces(answer.body).map(|piece| piece.map(Frame::data));
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = headers;
    response
}

/// The body of an answer as bytes, not copied.
struct Pieces(ForwardedBody);

impl Stream for Pieces {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|piece| piece.map(|piece| piece.map(Bytes::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_encoded_dots_go_on_as_one_piece() {
        for (target, whole) in [
            ("/v1/kv/a/b/c/k/%2E%2E/l?raw", Some("/v1/kv/a/b/c/k%2F%2E%2E%2Fl?raw")),
            ("/v1/kv/a/b/c/%2e/k", Some("/v1/kv/a/b/c/%2e%2Fk")),
            ("/v1/kv/a/b/c/k/l?path=/%2E", None),
            ("/v1/kv/a/b/c/k//%2E", None),
            ("/v1/kv/a/b/c/k/../%2E", None),
            ("/v1/kv/a/b/c", None),
        ] {
            assert_eq!(with_whole_key(target, &Place::Treasure).as_deref(), whole, "{target}");
        }
        let lock = with_whole_key("/v1/swamps/a/b/c/locks/x/%2E", &Place::Lock);
        assert_eq!(lock.as_deref(), Some("/v1/swamps/a/b/c/locks/x%2F%2E"));
        assert_eq!(with_whole_key("/v1/kv/a/b/c/%2E/k", &Place::List), None);
    }
}
