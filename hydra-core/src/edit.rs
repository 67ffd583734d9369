//! Changing a part of a JSON text and keeping the rest as it is written: numbers keep their digits, members
//! their order. Pure.
//!
//! Only what lies on the way to a change is taken apart. What is not touched stays a piece of the old text;
//! of the objects and arrays on the way the white space and the escapes in member names are written anew.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorCode, Result};
use crate::pointer::{Pointer, index};

/// A JSON value, taken apart as far as it had to be.
#[derive(Debug, Clone)]
pub(crate) enum Node<'a> {
    /// As it is written, without white space around it.
    Text(&'a str),
    Object(Vec<(String, Node<'a>)>),
    Array(Vec<Node<'a>>),
}

/// How much a change may cost. A short patch could otherwise walk through a large value again and again.
#[derive(Debug)]
pub(crate) struct Effort {
    steps: usize,
    bytes: usize,
}

impl Effort {
    /// So many members and items may be passed or moved, and so many bytes put in.
    pub(crate) fn new(steps: usize, bytes: usize) -> Effort {
        Effort { steps, bytes }
    }

    fn step(&mut self, count: usize) -> Result<()> {
        self.steps = self.steps.checked_sub(count).ok_or_else(|| {
            Error::new(ErrorCode::PatchFailed, "the patch goes through too many members and items of the value")
                .with_hint("send fewer operations, or put the whole value")
        })?;
        Ok(())
    }

    pub(crate) fn put_in(&mut self, node: &Node<'_>) -> Result<()> {
        self.bytes = self.bytes.checked_sub(node.length()).ok_or_else(|| {
            Error::new(ErrorCode::ValueTooLarge, "the patch puts in more bytes than a value may have")
        })?;
        Ok(())
    }
}

impl<'a> Node<'a> {
    /// Takes one level apart; scalars stay as they are.
    pub(crate) fn open(&mut self) -> Result<()> {
        let Node::Text(text) = *self else { return Ok(()) };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let opened = match text.as_bytes().first() {
            Some(b'{') => deserializer.deserialize_map(Level),
            Some(b'[') => deserializer.deserialize_seq(Level),
            _ => return Ok(()),
        };
        *self = opened.map_err(|error| Error::new(ErrorCode::Internal, format!("a stored value: {error}")))?;
        Ok(())
    }

    /// What stands at a place, to be changed.
    pub(crate) fn at(&mut self, steps: &[String], effort: &mut Effort) -> Result<Option<&mut Node<'a>>> {
        let mut here = self;
        for step in steps {
            here.open()?;
            let next = match here {
                Node::Object(members) => {
                    effort.step(members.len())?;
                    members.iter_mut().find(|(name, _)| name == step).map(|(_, value)| value)
                }
                Node::Array(items) => index(step, items.len()).map(|at| &mut items[at]),
                Node::Text(_) => None,
            };
            match next {
                Some(next) => here = next,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Puts a value at a place: a member in place of one of that name, an item before the one that is there.
    pub(crate) fn insert(&mut self, place: &Pointer, value: Node<'a>, effort: &mut Effort) -> Result<()> {
        let Some((last, way)) = place.steps().split_last() else {
            *self = value;
            return Ok(());
        };
        let parent = self.at(way, effort)?.ok_or_else(|| nothing_at(place))?;
        parent.open()?;
        match parent {
            Node::Object(members) => {
                effort.step(members.len())?;
                match members.iter_mut().find(|(name, _)| name == last) {
                    Some((_, held)) => *held = value,
                    None => members.push((last.clone(), value)),
                }
                Ok(())
            }
            Node::Array(items) => {
                effort.step(items.len())?;
                let at = if last == "-" { Some(items.len()) } else { index(last, items.len() + 1) };
                items.insert(at.ok_or_else(|| nothing_at(place))?, value);
                Ok(())
            }
            Node::Text(_) => Err(nothing_at(place)),
        }
    }

    /// Takes out what stands at a place. The whole value cannot be taken out.
    pub(crate) fn remove(&mut self, place: &Pointer, effort: &mut Effort) -> Result<Node<'a>> {
        let Some((last, way)) = place.steps().split_last() else {
            return Err(Error::new(ErrorCode::PatchFailed, "the whole value cannot be removed by a patch")
                .with_hint("send DELETE to remove the treasure"));
        };
        let parent = self.at(way, effort)?.ok_or_else(|| nothing_at(place))?;
        parent.open()?;
        match parent {
            Node::Object(members) => {
                effort.step(members.len())?;
                let at = members.iter().position(|(name, _)| name == last).ok_or_else(|| nothing_at(place))?;
                Ok(members.remove(at).1)
            }
            Node::Array(items) => {
                effort.step(items.len())?;
                Ok(items.remove(index(last, items.len()).ok_or_else(|| nothing_at(place))?))
            }
            Node::Text(_) => Err(nothing_at(place)),
        }
    }

    /// Merges another value into this one (RFC 7396): members that are null are removed, objects are merged,
    /// anything else takes the place of what was there.
    pub(crate) fn merge(&mut self, mut patch: Node<'a>) -> Result<()> {
        patch.open()?;
        let Node::Object(changes) = patch else {
            *self = patch;
            return Ok(());
        };
        self.open()?;
        if !matches!(self, Node::Object(_)) {
            *self = Node::Object(Vec::new());
        }
        let Node::Object(members) = self else { return Ok(()) };
        let places: HashMap<String, usize> =
            members.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        let mut removed = vec![false; members.len()];
        for (name, change) in changes {
            let is_null = matches!(change, Node::Text("null"));
            match places.get(&name) {
                Some(&at) if is_null => removed[at] = true,
                Some(&at) => members[at].1.merge(change)?,
                None if is_null => {}
                None => {
                    let mut value = Node::Text("null");
                    value.merge(change)?;
                    members.push((name, value));
                }
            }
        }
        let mut removed = removed.into_iter();
        members.retain(|_| !removed.next().unwrap_or(false));
        Ok(())
    }

    /// Whether two values are equal as RFC 6902 says: numbers by what they are worth, objects in any order.
    pub(crate) fn equals(&mut self, other: &mut Node<'a>) -> Result<bool> {
        self.open()?;
        other.open()?;
        match (self, other) {
            (Node::Text(one), Node::Text(other)) => Ok(same_scalar(one, other)),
            (Node::Array(one), Node::Array(other)) if one.len() == other.len() => {
                for (one, other) in one.iter_mut().zip(other) {
                    if !one.equals(other)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Node::Object(one), Node::Object(other)) if one.len() == other.len() => {
                let mut others: HashMap<&str, &mut Node<'a>> =
                    other.iter_mut().map(|(name, value)| (name.as_str(), value)).collect();
                for (name, value) in one {
                    let is_same = others.get_mut(name.as_str()).map_or(Ok(false), |other| value.equals(other))?;
                    if !is_same {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// How many bytes [`Node::write`] appends.
    fn length(&self) -> usize {
        match self {
            Node::Text(text) => text.len(),
            Node::Array(items) => 2 + items.iter().map(|item| item.length() + 1).sum::<usize>(),
            Node::Object(members) => {
                2 + members.iter().map(|(name, value)| name.len() + 4 + value.length()).sum::<usize>()
            }
        }
    }

    /// Appends the value as JSON.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Node::Text(text) => out.push_str(text),
            Node::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// The error for a place where nothing stands, or nothing can.
pub(crate) fn nothing_at(place: &Pointer) -> Error {
    Error::new(ErrorCode::PatchFailed, format!("the path {:?} leads nowhere in the value", place.to_string()))
}

/// Whether two scalars are equal: numbers exactly, however they are written.
fn same_scalar(one: &str, other: &str) -> bool {
    let is_string = |text: &str| text.starts_with('"');
    match (is_string(one), is_string(other)) {
        (true, true) => {
            let decoded = |text| serde_json::from_str::<String>(text).ok();
            one == other || decoded(one) == decoded(other)
        }
        (false, false) => one == other || matches!((decimal(one), decimal(other)), (Some(a), Some(b)) if a == b),
        _ => false,
    }
}

/// A number as its sign, its digits without zeros at the ends, and the power of ten of the last of them.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !whole.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let zeros = (all.len() - digits.len()) as i64;
    let digits = digits.trim_start_matches('0');
    match digits {
        "" => Some((false, String::new(), 0)),
        _ => Some((sign, digits.to_owned(), exponent.checked_add(zeros - fraction.len() as i64)?)),
    }
}

/// Reads one level of an object or array; what is inside stays text.
struct Level;

impl<'de> Visitor<'de> for Level {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node<'de>, A::Error> {
        let mut read = Vec::new();
        while let Some((name, value)) = members.next_entry::<String, &RawValue>()? {
            read.push((name, Node::Text(value.get())));
        }
        Ok(Node::Object(read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node<'de>, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element::<&RawValue>()? {
            read.push(Node::Text(item.get()));
        }
        Ok(Node::Array(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_by_what_they_are_worth() {
        for (one, other) in
            [("1", "1.0"), ("100", "1e2"), ("-0", "0"), ("0.10", "1E-1"), ("\"a\"", "\"\\u0061\""), ("0e9", "0.00")]
        {
            assert!(same_scalar(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("1", "-1"),
            ("1", "10"),
            ("123456789012345678901", "123456789012345678902"),
            ("0.1", "0.10000000000000001"),
            ("1", "\"1\""),
            ("true", "1"),
            ("null", "false"),
        ] {
            assert!(!same_scalar(one, other), "{one} {other}");
        }
    }
}
