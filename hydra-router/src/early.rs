//! Answers to bytes that never became a request.
//!
//! hyper refuses those itself, with an empty body, before any of our code runs. Clients decide by
//! `Hydra-Applied` and the code of a problem, so these answers get both as well.

use hydra_core::wire::{PROBLEM_JSON, Problem, header};
use hydra_core::{Error, ErrorCode};

/// What to send in place of `bytes`, where they are an answer that hyper made by itself.
pub(crate) fn in_place_of(bytes: &[u8], router: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?.get(..3)?;
    let is_bare = text.contains("content-length: 0\r\n") && !text.contains(header::ROUTER);
    if !is_bare || !text.ends_with("\r\n\r\n") {
        return None;
    }
    let (code, detail) = match status {
        "400" => (ErrorCode::InvalidHeader, "what came is no HTTP request"),
        "414" => (ErrorCode::UriTooLong, "the request target is far too long"),
        "431" => (ErrorCode::HeadersTooLarge, "the request head is far too long, or has too many lines"),
        _ => return None,
    };
    Some(written(&Error::new(code, detail), router))
}

fn written(error: &Error, router: &str) -> Vec<u8> {
    let problem = Problem::of(error);
    let status = http::StatusCode::from_u16(problem.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let headers = [
        ("content-type", PROBLEM_JSON),
        ("content-length", &body.len().to_string()),
        ("cache-control", "no-store"),
        (header::APPLIED, error.applied().as_str()),
        (header::ROUTER, router),
        ("connection", "close"),
    ];
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}\r\n{body}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_refusals_get_a_reason_and_all_else_stays() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let text = String::from_utf8(in_place_of(bare, "r1").expect("replaced")).expect("text");
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("\r\nhydra-applied: no\r\n"), "{text}");
        assert!(text.contains("\r\nhydra-router: r1\r\n") && !text.contains("hydra-server"), "{text}");
        for other in [
            b"HTTP/1.1 400 Bad Request\r\nhydra-router: r1\r\ncontent-length: 0\r\n\r\n".as_slice(),
            b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nbody",
            b"\xFF",
        ] {
            assert_eq!(in_place_of(other, "r1"), None);
        }
    }
}
