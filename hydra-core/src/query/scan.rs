//! Looking into JSON that was checked when it was stored, without parsing all of it.
//!
//! What is not JSON after all reads as if it ended there: nothing here panics or fails.

use std::borrow::Cow;

use crate::pointer::{Pointer, index};

/// The text of exactly one JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Json<'a>(&'a [u8]);

impl<'a> Json<'a> {
    /// The value in a text, without the white space around it.
    pub(crate) fn new(text: &'a [u8]) -> Json<'a> {
        let start = skip_gap(text, 0);
        let end = end_of(text, start).unwrap_or(text.len());
        Json(text.get(start..end).unwrap_or_default())
    }

    /// The value as it is written.
    pub(crate) fn text(self) -> &'a [u8] {
        self.0
    }

    /// The first byte tells what a value is: `n`, `t`, `f`, `"`, `[`, `{`, or a digit or minus.
    pub(crate) fn first(self) -> u8 {
        self.0.first().copied().unwrap_or(b'n')
    }

    /// The decoded string; `None` for any other value.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if inner.contains(&b'\\') {
            return serde_json::from_slice(self.0).ok().map(Cow::Owned);
        }
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }

    /// The elements of an array; nothing for any other value.
    pub(crate) fn elements(self) -> impl Iterator<Item = Json<'a>> {
        self.parts(b'[')
    }

    /// The members of an object with their decoded names; nothing for any other value.
    pub(crate) fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Json<'a>)> {
        let mut parts = self.parts(b'{');
        std::iter::from_fn(move || {
            let name = parts.next()?.string()?;
            Some((name, parts.next()?))
        })
    }

    /// What stands at a place; `None` where there is no such member or element.
    pub(crate) fn at(self, place: &Pointer) -> Option<Json<'a>> {
        place.steps().iter().try_fold(self, |value, step| match value.first() {
            b'{' => value.members().find(|(name, _)| name == step).map(|(_, found)| found),
            b'[' => value.elements().nth(index(step, usize::MAX)?),
            _ => None,
        })
    }

    fn parts(self, opening: u8) -> Parts<'a> {
        match self.0.split_first() {
            Some((&first, inner)) if first == opening => Parts(inner),
            _ => Parts(&[]),
        }
    }
}

/// What is left of the inside of an array or object: names and values take turns in an object.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let start = skip_gap(self.0, 0);
        if matches!(self.0.get(start), None | Some(b']' | b'}')) {
            return None;
        }
        let end = end_of(self.0, start)?;
        let value = Json(&self.0[start..end]);
        self.0 = &self.0[end..];
        Some(value)
    }
}

/// The first byte from `at` on that belongs to a value or closes one.
fn skip_gap(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let gap = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')).count();
    at + gap
}

/// Where the value that begins at `at` ends.
fn end_of(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => end_of_string(text, at),
        b'[' | b'{' => {
            let (mut depth, mut at) = (0usize, at);
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = end_of_string(text, at)?;
                        continue;
                    }
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b']' | b'}');
            let length = text[at..].iter().position(ends).unwrap_or(text.len() - at);
            (length > 0).then_some(at + length)
        }
    }
}

fn end_of_string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
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
            value.at(&pointer).map(|json| String::from_utf8_lossy(json.text()).into_owned())
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
    fn parts_are_found_whatever_stands_between_and_inside_them() {
        let json = Json::new(br#" { "a" : [1, "]}\"", {"x":[]} ] ,"b\u0041":-1.5e3,"":null} "#);
        let members: Vec<_> = json.members().map(|(name, value)| (name.into_owned(), value.text().to_vec())).collect();
        assert_eq!(members.len(), 3);
        assert_eq!(members[1], ("bA".to_owned(), b"-1.5e3".to_vec()));
        let (_, array) = json.members().next().expect("a member");
        let elements: Vec<_> = array.elements().map(Json::text).collect();
        assert_eq!(elements, [&b"1"[..], br#""]}\"""#, br#"{"x":[]}"#]);
        assert_eq!(array.elements().nth(1).and_then(Json::string).as_deref(), Some("]}\""));
    }

    #[test]
    fn what_is_no_json_ends_early() {
        for text in ["", " ", "[", "{\"a", "{\"a\"", "[1,", "\"\\", "{]}", "}", "{\"a\":}", "[[[[", ",,,"] {
            let json = Json::new(text.as_bytes());
            assert!(json.elements().count() <= 1 && json.members().count() == 0, "{text}");
            let _ = (json.string(), json.first());
        }
    }
}
