//! Patches: changes to a part of a JSON value, as a merge (RFC 7396) or as a list of steps (RFC 6902). Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::edit::{Effort, Node, nothing_at};
use crate::error::{Error, ErrorCode, Result};
use crate::json;
use crate::pointer::Pointer;
use crate::value::Value;

/// The most operations one JSON Patch may have.
pub const MAX_PATCH_OPS: usize = 10_000;
/// How many members and items a JSON Patch may pass or move in all.
const MAX_STEPS: usize = 50_000_000;

/// A change to a part of a JSON value.
///
/// What it does not touch keeps its bytes: numbers their digits, members their order. In the objects and arrays
/// on the way to a change, white space is left out and escapes in member names are written anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch(Kind);

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Merge(Value),
    Steps { steps: Vec<Step>, bytes: usize },
}

/// One operation of a JSON Patch.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Add(Pointer, Value),
    Remove(Pointer),
    Replace(Pointer, Value),
    Move { from: Pointer, to: Pointer },
    Copy { from: Pointer, to: Pointer },
    Test(Pointer, Value),
}

impl Patch {
    /// A merge patch (RFC 7396): members that are null are removed, objects are merged, anything else takes the
    /// place of what was there.
    ///
    /// # Errors
    /// `invalid-json` with line and column.
    pub fn merge(text: impl AsRef<[u8]>) -> Result<Patch> {
        Value::json(text).map(|value| Patch(Kind::Merge(value)))
    }

    /// A JSON Patch (RFC 6902): an array of `add`, `remove`, `replace`, `move`, `copy` and `test`, done in order,
    /// all or none. At most [`MAX_PATCH_OPS`].
    ///
    /// # Errors
    /// `invalid-json`; `invalid-body` names the operation that is not understood.
    pub fn json(text: impl AsRef<[u8]>) -> Result<Patch> {
        let text = text.as_ref();
        json::check(text)?;
        let refuse = |why: String| {
            Error::new(ErrorCode::InvalidBody, format!("the JSON Patch cannot be read: {why}")).with_hint(
                r#"write [{"op":"test","path":"/age","value":31},{"op":"replace","path":"/age","value":32}]"#,
            )
        };
        let bodies: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
        if bodies.len() > MAX_PATCH_OPS {
            let detail = format!("the JSON Patch has {} operations; {MAX_PATCH_OPS} are allowed", bodies.len());
            return Err(Error::new(ErrorCode::BatchTooLarge, detail));
        }
        let read = |(at, body): (usize, &&RawValue)| {
            Step::read(body.get()).map_err(|why| refuse(format!("operation {at} {why}")))
        };
        let steps = bodies.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Patch(Kind::Steps { steps, bytes: text.len() }))
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.0 {
            Kind::Merge(value) => value.len(),
            Kind::Steps { bytes, .. } => *bytes,
        }
    }

    /// The value after the patch; without a value it is applied to `{}`. `limit` is the longest value allowed.
    ///
    /// # Errors
    /// `patch-failed` when it does not fit the value; `value-too-large`.
    pub(crate) fn apply(&self, value: Option<&Value>, limit: u64) -> Result<Value> {
        let mut node = Node::Text(value.map_or(Ok("{}"), text_of)?);
        match &self.0 {
            Kind::Merge(patch) => node.merge(Node::Text(text_of(patch)?))?,
            Kind::Steps { steps, .. } => {
                let mut effort = Effort::new(MAX_STEPS, usize::try_from(limit).unwrap_or(usize::MAX).max(self.size()));
                for (at, step) in steps.iter().enumerate() {
                    step.apply(&mut node, &mut effort).map_err(|error| about_operation(at, step, &error))?;
                }
            }
        }
        value_of(&node)
    }
}

/// The text of a JSON value.
///
/// # Errors
/// `patch-failed` for any other value.
pub(crate) fn text_of(value: &Value) -> Result<&str> {
    if let Some(content_type) = value.content_type() {
        let detail = format!("the value is {content_type}; only a part of a JSON value can be changed");
        return Err(Error::new(ErrorCode::PatchFailed, detail).with_hint("put the whole value"));
    }
    std::str::from_utf8(value.as_bytes()).map_err(|_| Error::new(ErrorCode::Internal, "a stored value is not UTF-8"))
}

/// A changed value, checked as strictly as one that was put: a patch may have nested too deep.
pub(crate) fn value_of(node: &Node<'_>) -> Result<Value> {
    let mut text = String::new();
    node.write(&mut text);
    Value::json(text).map_err(|error| {
        Error::new(
            ErrorCode::PatchFailed,
            format!("the value would not be allowed after the patch: {}", error.detail()),
        )
    })
}

fn about_operation(at: usize, step: &Step, error: &Error) -> Error {
    let (op, path) = step.words();
    let told = Error::new(error.code(), format!("operation {at} ({op} {path}) failed: {}", error.detail()));
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

impl Step {
    /// Reads one operation; an error is a predicate.
    fn read(text: &str) -> Result<Step, String> {
        #[derive(Deserialize)]
        struct Body<'a> {
            op: String,
            path: Option<String>,
            from: Option<String>,
            #[serde(borrow, default, deserialize_with = "present")]
            value: Option<&'a RawValue>,
        }
        /// A member that is there is `Some`, also when it is `null`.
        fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
            Deserialize::deserialize(deserializer).map(Some)
        }
        if !text.starts_with('{') {
            return Err("is no object".to_owned());
        }
        let body: Body<'_> = serde_json::from_str(text).map_err(|error| format!("is not understood: {error}"))?;
        let pointer = |member: &str, text: Option<String>| -> Result<Pointer, String> {
            let text = text.ok_or_else(|| format!("({}) has no member {member:?}", body.op))?;
            text.parse().map_err(|error: Error| format!("has a wrong {member:?}: {}", error.detail()))
        };
        let value = || {
            let raw = body.value.ok_or_else(|| format!("({}) has no member \"value\"", body.op))?;
            Ok::<_, String>(Value::from_checked(raw.get().as_bytes()))
        };
        let (path, from) = (body.path.clone(), body.from.clone());
        match body.op.as_str() {
            "add" => Ok(Step::Add(pointer("path", path)?, value()?)),
            "remove" => Ok(Step::Remove(pointer("path", path)?)),
            "replace" => Ok(Step::Replace(pointer("path", path)?, value()?)),
            "move" => Ok(Step::Move { from: pointer("from", from)?, to: pointer("path", path)? }),
            "copy" => Ok(Step::Copy { from: pointer("from", from)?, to: pointer("path", path)? }),
            "test" => Ok(Step::Test(pointer("path", path)?, value()?)),
            other => Err(format!("is {other:?}; allowed are add, remove, replace, move, copy and test")),
        }
    }

    fn words(&self) -> (&'static str, &Pointer) {
        match self {
            Step::Add(path, _) => ("add", path),
            Step::Remove(path) => ("remove", path),
            Step::Replace(path, _) => ("replace", path),
            Step::Move { to, .. } => ("move", to),
            Step::Copy { to, .. } => ("copy", to),
            Step::Test(path, _) => ("test", path),
        }
    }

    fn apply<'a>(&'a self, node: &mut Node<'a>, effort: &mut Effort) -> Result<()> {
        match self {
            Step::Add(path, value) => {
                let value = Node::Text(text_of(value)?);
                effort.put_in(&value)?;
                node.insert(path, value, effort)
            }
            Step::Remove(path) => node.remove(path, effort).map(drop),
            Step::Replace(path, value) => {
                let value = Node::Text(text_of(value)?);
                effort.put_in(&value)?;
                *node.at(path.steps(), effort)?.ok_or_else(|| nothing_at(path))? = value;
                Ok(())
            }
            Step::Move { from, to } if from == to => {
                node.at(from.steps(), effort)?.map(drop).ok_or_else(|| nothing_at(from))
            }
            Step::Move { from, to } if from.contains(to) => {
                Err(Error::new(ErrorCode::PatchFailed, format!("{from} cannot be moved into itself")))
            }
            Step::Move { from, to } => {
                let moved = node.remove(from, effort)?;
                node.insert(to, moved, effort)
            }
            Step::Copy { from, to } => {
                let copied = node.at(from.steps(), effort)?.ok_or_else(|| nothing_at(from))?;
                effort.put_in(copied)?;
                let copied = copied.clone();
                node.insert(to, copied, effort)
            }
            Step::Test(path, wanted) => {
                let found = node.at(path.steps(), effort)?.ok_or_else(|| nothing_at(path))?;
                effort.put_in(found)?;
                match found.equals(&mut Node::Text(text_of(wanted)?))? {
                    true => Ok(()),
                    // What is there is not told: who may write need not be one who may read.
                    false => Err(Error::new(ErrorCode::PatchFailed, "the value there is another one")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(patch: Result<Patch>, value: &str) -> Result<String> {
        let value = Value::json(value).expect(value);
        patch?.apply(Some(&value), 1 << 20).map(|value| format!("{value:?}"))
    }

    #[test]
    fn the_table_of_rfc_7396_holds() {
        for (value, patch, after) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, "\"bar\"", "\"bar\""),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(apply(Patch::merge(patch), value).as_deref().ok(), Some(after), "{value} + {patch}");
        }
    }

    #[test]
    fn what_a_patch_does_not_touch_keeps_its_bytes() {
        let value =
            r#"{"z": 1.0, "big": 123456789012345678901234567890, "a": [1e2, { "x" : 2 }], "n": {"m":1,"l":-0}}"#;
        let merged = apply(Patch::merge(r#"{"n":{"l":7.10}}"#), value).expect("merges");
        assert_eq!(
            merged,
            r#"{"z":1.0,"big":123456789012345678901234567890,"a":[1e2, { "x" : 2 }],"n":{"m":1,"l":7.10}}"#
        );
        let patched = apply(Patch::json(r#"[{"op":"remove","path":"/a/0"}]"#), value).expect("patches");
        assert_eq!(patched, r#"{"z":1.0,"big":123456789012345678901234567890,"a":[{ "x" : 2 }],"n":{"m":1,"l":-0}}"#);
    }

    #[test]
    fn the_examples_of_rfc_6902_hold() {
        for (value, patch, after) in [
            (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"foo":"bar","baz":"qux"}"#),
            (
                r#"{"foo":["bar","baz"]}"#,
                r#"[{"op":"add","path":"/foo/1","value":"q"}]"#,
                r#"{"foo":["bar","q","baz"]}"#,
            ),
            (r#"{"foo":["bar"]}"#, r#"[{"op":"add","path":"/foo/-","value":["a"]}]"#, r#"{"foo":["bar",["a"]]}"#),
            (r#"{"foo":["bar"]}"#, r#"[{"op":"add","path":"/foo/1","value":2}]"#, r#"{"foo":["bar",2]}"#),
            (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#),
            (r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#),
            (r#"{"baz":"qux"}"#, r#"[{"op":"replace","path":"/baz","value":"boo"}]"#, r#"{"baz":"boo"}"#),
            (
                r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
                r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
                r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
            ),
            (
                r#"{"foo":["all","grass","cows","eat"]}"#,
                r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
                r#"{"foo":["all","cows","eat","grass"]}"#,
            ),
            (r#"{"a":{"b":1}}"#, r#"[{"op":"copy","from":"/a","path":"/c"}]"#, r#"{"a":{"b":1},"c":{"b":1}}"#),
            (
                r#"{"baz":"qux","foo":["a",2,"c"]}"#,
                r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2.0},{"op":"test","path":"","value":{"foo":["a",2,"c"],"baz":"qux"}}]"#,
                r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            ),
            (r#"{"foo":null}"#, r#"[{"op":"test","path":"/foo","value":null}]"#, r#"{"foo":null}"#),
            (r#"{"foo":1}"#, r#"[{"op":"add","path":"","value":[1]}]"#, "[1]"),
            (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, r#"{"/":9,"~1":10}"#),
            (r#"{"foo":1}"#, r#"[{"op":"replace","path":"","value":null,"xyz":1}]"#, "null"),
            (r#"{"a":1}"#, r#"[{"op":"move","from":"/a","path":"/a"}]"#, r#"{"a":1}"#),
        ] {
            assert_eq!(apply(Patch::json(patch), value).as_deref().ok(), Some(after), "{value} + {patch}");
        }
    }

    #[test]
    fn patches_that_do_not_fit_fail_and_say_where() {
        for patch in [
            r#"[{"op":"test","path":"/n","value":2}]"#,
            r#"[{"op":"remove","path":"/none"}]"#,
            r#"[{"op":"replace","path":"/a/2","value":1}]"#,
            r#"[{"op":"add","path":"/a/3","value":1}]"#,
            r#"[{"op":"add","path":"/x/y","value":1}]"#,
            r#"[{"op":"add","path":"/n/y","value":1}]"#,
            r#"[{"op":"move","from":"/o","path":"/o/p/q"}]"#,
            r#"[{"op":"copy","from":"/none","path":"/b"}]"#,
            r#"[{"op":"remove","path":""}]"#,
        ] {
            let error = apply(Patch::json(patch), r#"{"n":1,"a":[1,2],"o":{"p":{}}}"#).expect_err(patch);
            assert_eq!(error.code(), ErrorCode::PatchFailed, "{patch}");
            assert!(error.detail().starts_with("operation 0 ("), "{error}");
        }
        for patch in [
            "{}",
            r#"[{"op":"jump","path":"/a"}]"#,
            r#"[{"op":"add","path":"/a"}]"#,
            r#"[{"op":"add","path":"a","value":1}]"#,
            r#"[{"op":"move","path":"/a"}]"#,
            "[1]",
            r#"[["add"]]"#,
        ] {
            assert_eq!(Patch::json(patch).expect_err(patch).code(), ErrorCode::InvalidBody, "{patch}");
        }
        assert_eq!(Patch::json("[").expect_err("cut").code(), ErrorCode::InvalidJson);
        assert_eq!(Patch::merge(r#"{"a":1,"a":2}"#).expect_err("twice").code(), ErrorCode::InvalidJson);
    }

    #[test]
    fn a_short_patch_cannot_make_a_huge_value() {
        let doubling: Vec<String> = (0..40).map(|n| format!(r#"{{"op":"copy","from":"","path":"/k{n}"}}"#)).collect();
        let error =
            apply(Patch::json(format!("[{}]", doubling.join(","))), r#"{"a":"0123456789"}"#).expect_err("grows");
        assert_eq!(error.code(), ErrorCode::ValueTooLarge);
        let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
        let path = "/a".repeat(99);
        let nested = format!(r#"[{{"op":"copy","from":"","path":"{path}/b"}}]"#);
        assert_eq!(apply(Patch::json(nested), &deep).expect_err("too deep").code(), ErrorCode::PatchFailed);
    }
}
