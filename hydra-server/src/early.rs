//! Answers to bytes that never became a request.
//!
//! hyper refuses those itself, with an empty body, before any of our code runs. Clients decide by
//! `Hydra-Applied` and the code of a problem, so they get both here as well.

use std::sync::atomic::{AtomicU64, Ordering};

use hydra_core::wire::{PROBLEM_JSON, Problem, header};
use hydra_core::{Error, ErrorCode};

/// The longest answer that hyper makes by itself, with room to spare.
const LONGEST: usize = 256;

/// How many were refused so far, for their ids: no request can have sent one.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What to send in place of `bytes`, when they are an answer that hyper made itself.
pub(crate) fn instead_of(bytes: &[u8], server: &str) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(bytes.get(..bytes.len().min(LONGEST))?).ok()?;
    let whole = head.len() == bytes.len() && head.ends_with("\r\n\r\n") && head.contains("content-length: 0\r\n");
    if !whole || head.contains(header::SERVER) {
        return None;
    }
    let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?.get(..3)?;
    let error = match status {
        "400" => Error::new(ErrorCode::InvalidHeader, "the bytes that came are no HTTP request"),
        "414" => Error::new(ErrorCode::UriTooLong, "the request target is far longer than allowed"),
        "431" => {
            Error::new(ErrorCode::HeadersTooLarge, "the request head is far longer or has more lines than allowed")
        }
        _ => return None,
    };
    Some(refusal(&error, server))
}

fn refusal(error: &Error, server: &str) -> Vec<u8> {
    let mut problem = Problem::of(error);
    problem.server = Some(server.to_owned());
    let id = format!("refused-{:x}-{:x}", std::process::id(), REFUSED.fetch_add(1, Ordering::Relaxed));
    problem.instance = Some(id.clone());
    let status = http::StatusCode::from_u16(problem.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         {}: {}\r\n{}: {server}\r\n{}: {id}\r\nconnection: close\r\n\r\n",
        body.len(),
        header::APPLIED,
        error.applied().as_str(),
        header::SERVER,
        header::REQUEST_ID,
    );
    [head, body].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_hyper_made_are_replaced() {
        let own = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let text = String::from_utf8(instead_of(own, "s1").expect("replaced")).expect("text");
        assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("\r\nhydra-applied: no\r\n"), "{text}");
        assert!(text.contains("\"code\":\"headers-too-large\""), "{text}");
        for other in [
            b"HTTP/1.1 404 Not Found\r\nhydra-server: s1\r\ncontent-length: 0\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nabc",
            b"",
        ] {
            assert_eq!(instead_of(other, "s1"), None);
        }
    }
}
