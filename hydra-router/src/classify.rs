//! What asking again may do: from a request to its [`OpClass`]. Pure.
//!
//! What is not known for sure counts as exclusive, so that no retry can do harm with verbs to come.

use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use hydra_sdk::OpClass;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::route::Place;

/// The class of a request about a name; for a batch, of one whose operations are not known.
pub(crate) fn class_of(head: &Parts, place: &Place) -> OpClass {
    if is_read(head.method.as_str()) {
        return OpClass::Read;
    }
    let is_conditional = head.headers.contains_key(IF_MATCH) || head.headers.contains_key(IF_NONE_MATCH);
    match (place, head.method.as_str()) {
        (Place::Flush | Place::Query, _) => OpClass::Read,
        (Place::Batch, _) => OpClass::Overwrite,
        (Place::Import, "POST") => import(head.uri.query().unwrap_or_default()),
        _ if is_conditional => OpClass::Exclusive,
        (Place::Treasure, "PUT" | "DELETE") | (Place::List, "POST") => OpClass::Overwrite,
        (Place::Treasure, "POST") => increment(head.uri.query().unwrap_or_default()),
        (Place::Treasure, "PATCH") if is_merge_patch(head) => OpClass::Overwrite,
        _ => OpClass::Exclusive,
    }
}

fn is_read(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "QUERY" | "OPTIONS")
}

fn is_merge_patch(head: &Parts) -> bool {
    let json_patch = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/json-patch+json");
    !head.headers.get(CONTENT_TYPE).is_some_and(json_patch)
}

/// An import that overwrites can be sent again; in the other modes what is stored decides.
fn import(query: &str) -> OpClass {
    let mode = query.split('&').find_map(|piece| piece.strip_prefix("mode="));
    if mode.is_none_or(|mode| mode == "upsert") { OpClass::Overwrite } else { OpClass::Exclusive }
}

/// A plain increment by a whole number commutes; one inside of a value, with bounds, or by a fraction, does not.
fn increment(query: &str) -> OpClass {
    let parameter =
        |name: &str| query.split('&').filter_map(|piece| piece.split_once('=')).find(|(key, _)| *key == name);
    let is_bounded = ["path", "initial", "min", "max"].iter().any(|option| parameter(option).is_some());
    match parameter("incr") {
        Some((_, by)) if by.parse::<i64>().is_ok() && !is_bounded => OpClass::Commuting,
        _ => OpClass::Exclusive,
    }
}

/// As much of a batch as its class depends on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    op: String,
    #[serde(default)]
    by: Option<serde_json::Number>,
    #[serde(default)]
    path: Option<IgnoredAny>,
    #[serde(default)]
    initial: Option<IgnoredAny>,
    #[serde(default)]
    min: Option<IgnoredAny>,
    #[serde(default)]
    max: Option<IgnoredAny>,
    #[serde(default)]
    if_version: Option<IgnoredAny>,
}

impl Operation {
    /// Whether an increment merges with those of other servers.
    fn is_plain(&self) -> bool {
        let options = [&self.path, &self.initial, &self.min, &self.max];
        options.iter().all(|option| option.is_none()) && self.by.as_ref().is_none_or(|by| !by.is_f64())
    }
}

#[derive(Deserialize)]
struct Operations {
    ops: Vec<Operation>,
}

/// The class of a batch: that of its strictest operation. One that cannot be read will be refused by
/// every server, so its class does not matter.
pub(crate) fn class_of_batch(body: &[u8]) -> OpClass {
    match serde_json::from_slice::<Operations>(body) {
        Ok(batch) => batch.ops.iter().map(class_of_operation).max().unwrap_or(OpClass::Read),
        Err(_) => OpClass::Overwrite,
    }
}

fn class_of_operation(operation: &Operation) -> OpClass {
    match operation.op.as_str() {
        "get" => OpClass::Read,
        _ if operation.if_version.is_some() => OpClass::Exclusive,
        "put" | "merge" | "delete" => OpClass::Overwrite,
        "increment" | "incr" if operation.is_plain() => OpClass::Commuting,
        _ => OpClass::Exclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(method: &str, target: &str, place: Place, header: Option<(&str, &str)>) -> OpClass {
        let mut request = http::Request::builder().method(method).uri(target);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        class_of(&request.body(()).expect("a request").into_parts().0, &place)
    }

    #[test]
    fn conditions_make_writes_exclusive() {
        assert_eq!(class("PUT", "/k", Place::Treasure, None), OpClass::Overwrite);
        assert_eq!(class("PUT", "/k", Place::Treasure, Some(("if-match", "*"))), OpClass::Exclusive);
        assert_eq!(class("DELETE", "/k", Place::Treasure, Some(("if-none-match", "*"))), OpClass::Exclusive);
        assert_eq!(class("GET", "/k", Place::Treasure, Some(("if-none-match", "x"))), OpClass::Read);
    }

    #[test]
    fn only_plain_increments_commute() {
        assert_eq!(class("POST", "/k?incr=-5&sync", Place::Treasure, None), OpClass::Commuting);
        for target in ["/k?incr=0.5", "/k?incr=1&max=9", "/k?path=/a&incr=1", "/k?incr=1&initial=5", "/k?lock", "/k"] {
            assert_eq!(class("POST", target, Place::Treasure, None), OpClass::Exclusive, "{target}");
        }
    }

    #[test]
    fn what_is_not_known_is_exclusive() {
        assert_eq!(class("DELETE", "/s", Place::Swamp, None), OpClass::Exclusive);
        assert_eq!(class("POST", "/s/shift", Place::Verb, None), OpClass::Exclusive);
        assert_eq!(class("POST", "/s/query", Place::Query, None), OpClass::Read);
        assert_eq!(class("BREW", "/k", Place::Treasure, None), OpClass::Exclusive);
        let json_patch = Some(("content-type", "application/json-patch+json"));
        assert_eq!(class("PATCH", "/k", Place::Treasure, json_patch), OpClass::Exclusive);
    }

    #[test]
    fn a_batch_is_as_strict_as_its_strictest_operation() {
        let batch = |ops: &str| class_of_batch(format!(r#"{{"ops":[{ops}]}}"#).as_bytes());
        assert_eq!(batch(r#"{"op":"get","key":"a"}"#), OpClass::Read);
        assert_eq!(batch(r#"{"op":"get","key":"a"},{"op":"put","key":"a","value":1}"#), OpClass::Overwrite);
        assert_eq!(batch(r#"{"op":"put","key":"a"},{"op":"increment","key":"b","by":2}"#), OpClass::Commuting);
        assert_eq!(batch(r#"{"op":"put","key":"a","ifVersion":"0"}"#), OpClass::Exclusive);
        assert_eq!(batch(r#"{"op":"increment","key":"b","by":0.5}"#), OpClass::Exclusive);
        assert_eq!(batch(r#"{"op":"incr","key":"b","by":1,"min":0}"#), OpClass::Exclusive);
        assert_eq!(batch(r#"{"op":"merge","key":"b","value":{}}"#), OpClass::Overwrite);
        assert_eq!(batch(r#"{"op":"patch","key":"b","value":[]}"#), OpClass::Exclusive);
        assert_eq!(batch(r#"{"op":"shift"}"#), OpClass::Exclusive);
        assert_eq!(class_of_batch(b"no json"), OpClass::Overwrite);
    }
}
