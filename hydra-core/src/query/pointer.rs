//! JSON Pointers (RFC 6901): a place inside a value.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorCode};

use super::scan::Json;

/// The longest pointer, in bytes.
pub const MAX_POINTER_BYTES: usize = 1024;

/// A place inside a JSON value: empty for the whole value, else `/` before each member name or array
/// index, with `~1` for a slash and `~0` for a tilde in a name (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

impl Pointer {
    /// The pointer as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands at the place; `None` where there is no such member or element.
    pub(crate) fn find<'a>(&self, value: Json<'a>) -> Option<Json<'a>> {
        self.steps.iter().try_fold(value, |value, step| match value.first() {
            b'{' => value.members().find(|(name, _)| name == step).map(|(_, found)| found),
            b'[' => value.elements().nth(index(step)?),
            _ => None,
        })
    }
}

/// An array index: digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    let is_index = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    if is_index { step.parse().ok() } else { None }
}

impl FromStr for Pointer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pointer, Error> {
        let refuse = |why: String| {
            Err(Error::new(ErrorCode::InvalidParameter, why)
                .with_hint("a JSON Pointer is empty or like /address/city or /tags/0; ~1 stands for / and ~0 for ~"))
        };
        if text.len() > MAX_POINTER_BYTES {
            return refuse(format!("the pointer has {} bytes, {MAX_POINTER_BYTES} are allowed", text.len()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return match text {
                "" => Ok(Pointer { text: String::new(), steps: Vec::new() }),
                _ => refuse(format!("the pointer {text:?} does not begin with /")),
            };
        };
        let mut steps = Vec::new();
        for step in rest.split('/') {
            if step.replace("~0", "").replace("~1", "").contains('~') {
                return refuse(format!("the pointer {text:?} has a ~ that is neither ~0 nor ~1"));
            }
            steps.push(step.replace("~1", "/").replace("~0", "~"));
        }
        Ok(Pointer { text: text.to_owned(), steps })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_find_what_the_standard_says() {
        let value = Json::new(br#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"m~n":8," ":7,"1":{"2":[[5]]}}"#);
        let found = |text: &str| {
            let pointer: Pointer = text.parse().expect(text);
            pointer.find(value).map(|json| String::from_utf8_lossy(json.text()).into_owned())
        };
        let cases = [
            ("/foo/0", "\"bar\""),
            ("/foo", r#"["bar","baz"]"#),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/m~0n", "8"),
            ("/ ", "7"),
            ("/1/2/0/0", "5"),
        ];
        for (pointer, expected) in cases {
            assert_eq!(found(pointer).as_deref(), Some(expected), "{pointer}");
        }
        for absent in ["/foo/2", "/foo/00", "/foo/-", "/foo/0/x", "/bar", "/foo/99999999999999999999", "/foo/"] {
            assert_eq!(found(absent), None, "{absent}");
        }
        assert!(found("").is_some_and(|whole| whole.starts_with('{')));
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~", &"/a".repeat(600)] {
            assert_eq!(text.parse::<Pointer>().expect_err(text).code(), ErrorCode::InvalidParameter);
        }
        assert_eq!("/~01".parse::<Pointer>().expect("escaped").steps, ["~1"]);
    }
}
