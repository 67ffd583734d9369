//! Which version of HTTP a peer speaks. Pure.

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that begins with these bytes can only be one of HTTP/1.
///
/// Known before the first request is read, the request is read into one buffer; a library that finds out by itself
/// reads the first bytes apart and takes a buffer of twice the size for the rest, for as long as the connection lives.
#[must_use]
pub fn is_http1(first: &[u8]) -> bool {
    !first.is_empty() && !HTTP2_PREFACE.starts_with(&first[..first.len().min(HTTP2_PREFACE.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_preface_and_its_beginnings_may_be_http2() {
        for first in ["GET / HTTP/1.1\r\n", "PUT", "PRI * HTTP/1.1", "x"] {
            assert!(is_http1(first.as_bytes()), "{first}");
        }
        for first in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and a frame"] {
            assert!(!is_http1(first.as_bytes()), "{first}");
        }
    }
}
