//! The head of a request, and its headers: many are asked for, few are there.

use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

/// What a request says before its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: Headers,
}

impl From<Parts> for Head {
    fn from(parts: Parts) -> Head {
        Head { method: parts.method, uri: parts.uri, headers: parts.headers.into() }
    }
}

/// The headers of a request.
///
/// A request brings a handful of headers and is asked for some twenty, each of which would have to be hashed. So each
/// name that came sets one of 64 marks, and what has no mark is not looked for.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    sent: HeaderMap,
    marks: u64,
}

impl From<HeaderMap> for Headers {
    fn from(sent: HeaderMap) -> Headers {
        let marks = sent.keys().map(mark).fold(0, std::ops::BitOr::bitor);
        Headers { sent, marks }
    }
}

impl Headers {
    /// The first value of a header, if it was sent.
    pub(crate) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.may_have(name).then(|| self.sent.get(name)).flatten()
    }

    /// Every value of a header, in the order in which they came.
    pub(crate) fn get_all<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
        self.may_have(name).then(|| self.sent.get_all(name)).into_iter().flatten()
    }

    /// Whether a header was sent.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.may_have(name) && self.sent.contains_key(name)
    }

    /// Every name with a value of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.sent.iter()
    }

    fn may_have(&self, name: &HeaderName) -> bool {
        self.marks & mark(name) != 0
    }
}

/// The mark of a name, of its length and both its ends. The factors give what curl and the SDK send other marks than
/// what they are asked for; where two names share one, the second is looked for in vain.
fn mark(name: &HeaderName) -> u64 {
    let text = name.as_str().as_bytes();
    let end = |byte: Option<&u8>| usize::from(byte.copied().unwrap_or_default());
    1 << ((text.len() + 7 * end(text.first()) + 11 * end(text.last())) % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_and_nothing_else_whatever_the_marks() {
        let names: Vec<HeaderName> = (0..500).map(|n| format!("x-{n}-name").parse().expect("a name")).collect();
        let (sent, others) = names.split_at(250);
        let mut map = HeaderMap::new();
        for name in sent {
            map.append(name, HeaderValue::from_static("first"));
            map.append(name, HeaderValue::from_static("second"));
        }
        let headers = Headers::from(map);
        for name in sent {
            assert!(headers.has(name), "{name}");
            assert_eq!(headers.get(name), Some(&HeaderValue::from_static("first")), "{name}");
            assert_eq!(headers.get_all(name).collect::<Vec<_>>(), ["first", "second"], "{name}");
        }
        for name in others {
            assert!(!headers.has(name) && headers.get(name).is_none(), "{name}");
            assert_eq!(headers.get_all(name).count(), 0, "{name}");
        }
        assert_eq!(headers.iter().count(), 500);
    }

    #[test]
    fn what_clients_send_has_other_marks_than_what_a_write_is_asked_for() {
        let name = |text: &&str| HeaderName::from_bytes(text.as_bytes()).expect("a name");
        let sent = ["host", "user-agent", "accept", "content-type", "content-length"];
        let asked = [
            "if-match",
            "if-none-match",
            "if-unmodified-since",
            "content-range",
            "content-encoding",
            "expect",
            "idempotency-key",
            "prefer",
            "origin",
            "x-request-id",
            "hydra-folders",
            "hydra-pool",
            "hydra-deadline-ms",
        ];
        let marks: u64 = sent.iter().map(|text| mark(&name(text))).fold(0, std::ops::BitOr::bitor);
        for text in asked {
            assert_eq!(marks & mark(&name(&text)), 0, "{text}");
        }
    }
}
