//! JSON Pointers (RFC 6901): where inside of a JSON value something stands. Pure.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorCode};

/// The longest pointer, in bytes.
pub const MAX_POINTER_BYTES: usize = 1024;
/// The most steps of a pointer: enough for the deepest value.
const MAX_STEPS: usize = 128;

/// A place inside of a JSON value: `/stats/views`, `/items/0`; the empty pointer is the whole value.
///
/// A `/` inside of a member name is written `~1`, a `~` is written `~0`. At most 128 steps and
/// [`MAX_POINTER_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Whether it is the whole value.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and indexes on the way, decoded.
    pub(crate) fn steps(&self) -> &[String] {
        &self.0
    }

    /// The place so many steps on the way.
    pub(crate) fn prefix(&self, length: usize) -> Pointer {
        Pointer(self.0.iter().take(length).cloned().collect())
    }

    /// Whether the other place is this one or inside of it.
    pub(crate) fn contains(&self, other: &Pointer) -> bool {
        other.0.starts_with(&self.0)
    }

    /// What stands there in a JSON text, as it is written; `None` where nothing does.
    pub(crate) fn find<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.0.iter().try_fold(text, |text, step| pick(text, step))
    }
}

impl FromStr for Pointer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pointer, Error> {
        let refused = |why: &str| {
            Error::new(ErrorCode::InvalidParameter, format!("the path {text:?} {why}"))
                .with_hint("a path is a JSON Pointer, e.g. /stats/views or /items/0; write ~1 for / and ~0 for ~")
        };
        if text.len() > MAX_POINTER_BYTES {
            let detail = format!("the path has {} bytes; {MAX_POINTER_BYTES} are allowed", text.len());
            return Err(Error::new(ErrorCode::InvalidParameter, detail));
        }
        if text.is_empty() {
            return Ok(Pointer::default());
        }
        let Some(rest) = text.strip_prefix('/') else { return Err(refused("does not begin with /")) };
        let decode = |step: &str| match step.replace("~0", "").replace("~1", "").contains('~') {
            true => Err(refused("has a ~ that is neither ~0 nor ~1")),
            false => Ok(step.replace("~1", "/").replace("~0", "~")),
        };
        let steps: Vec<String> = rest.split('/').map(decode).collect::<Result<_, _>>()?;
        if steps.len() > MAX_STEPS {
            return Err(refused(&format!("has {} steps; {MAX_STEPS} are allowed", steps.len())));
        }
        Ok(Pointer(steps))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

/// An index into an array of this length: digits without leading zeros.
pub(crate) fn index(step: &str, length: usize) -> Option<usize> {
    let is_canonical = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|&index| is_canonical && index < length)
}

/// The member or item of this name, one step down.
fn pick<'a>(text: &'a str, step: &str) -> Option<&'a str> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match text.as_bytes().first()? {
        b'{' => deserializer.deserialize_map(Pick(step)).ok().flatten(),
        b'[' => deserializer.deserialize_seq(Pick(step)).ok().flatten(),
        _ => None,
    }
}

/// Reads one level and keeps one part of it.
struct Pick<'p>(&'p str);

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(members.next_value::<&RawValue>()?.get());
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let wanted = index(self.0, usize::MAX);
        let mut found = None;
        for at in 0.. {
            if Some(at) == wanted {
                match items.next_element::<&RawValue>()? {
                    Some(item) => found = Some(item.get()),
                    None => break,
                }
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Pointer {
        text.parse().expect(text)
    }

    #[test]
    fn pointers_find_what_the_rfc_says() {
        let text = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1.0, "m~n": 8, "k\"l": {"~1": [10, 1e2 ]}}"#;
        for (path, found) in [
            ("", Some(text)),
            ("/foo", Some(r#"["bar", "baz"]"#)),
            ("/foo/0", Some("\"bar\"")),
            ("/", Some("0")),
            ("/a~1b", Some("1.0")),
            ("/m~0n", Some("8")),
            ("/k\"l/~01/1", Some("1e2")),
            ("/foo/2", None),
            ("/foo/-", None),
            ("/foo/00", None),
            ("/foo/+1", None),
            ("/foo/0/x", None),
            ("/none", None),
        ] {
            assert_eq!(pointer(path).find(text), found, "{path}");
            assert_eq!(pointer(path).to_string(), path);
        }
    }

    #[test]
    fn pointers_that_are_none_are_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~", "#/a", "/~~0"] {
            assert_eq!(text.parse::<Pointer>().expect_err(text).code(), ErrorCode::InvalidParameter, "{text}");
        }
        assert!("/a".repeat(129).parse::<Pointer>().is_err() && "/a".repeat(128).parse::<Pointer>().is_ok());
    }
}
