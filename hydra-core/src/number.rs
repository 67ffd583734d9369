//! Numbers that can be added to, and increments that read a value, add to it, and write it. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::edit::{Effort, Node, nothing_at};
use crate::error::{Error, ErrorCode, Result};
use crate::patch::{text_of, value_of};
use crate::pointer::Pointer;
use crate::value::Value;

/// A number, as JSON writes it: a whole one of 64 bits with sign, or one with a fraction or an exponent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number, exact.
    Integer(i64),
    /// A number written with a fraction or an exponent, as a 64-bit float; always finite.
    Fraction(f64),
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Number::Integer(whole) => whole as f64,
            Number::Fraction(number) => number,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Number::Integer(_))
    }

    /// The value of a sum: a whole number where a float holds it exactly, so that it can be added to as one.
    fn of_sum(sum: f64) -> Option<Number> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match sum {
            _ if !sum.is_finite() => None,
            _ if sum.fract() == 0.0 && sum.abs() <= EXACT => Some(Number::Integer(sum as i64)),
            _ => Some(Number::Fraction(sum)),
        }
    }
}

impl PartialEq<i64> for Number {
    fn eq(&self, other: &i64) -> bool {
        *self == Number::Integer(*other)
    }
}

impl From<i64> for Number {
    fn from(whole: i64) -> Number {
        Number::Integer(whole)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Integer(whole) => whole.fmt(f),
            Number::Fraction(number) => write!(f, "{number:?}"),
        }
    }
}

impl FromStr for Number {
    type Err = Error;

    fn from_str(text: &str) -> Result<Number> {
        let refused = |why: &str| {
            let detail =
                format!("{text:?} {why}; allowed is a whole number of 64 bits or a JSON number with a fraction");
            Error::new(ErrorCode::InvalidParameter, detail)
        };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Number::Integer).map_err(|_| refused("is beyond 64 bits"));
        }
        fraction(text).map(Number::Fraction).ok_or_else(|| refused("is no number"))
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Number::Integer(whole) => serializer.serialize_i64(*whole),
            Number::Fraction(number) => serializer.serialize_f64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    /// Reads the text of the number, so that one beyond 64 bits is refused and not rounded.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        raw.get().parse().map_err(serde::de::Error::custom)
    }
}

/// What is added to a number, where it stands, and within which bounds.
///
/// An increment by a whole number to a whole value, without bounds, is a record that merges with those of other
/// servers. Every other one is decided by what is stored, and writes the whole value.
#[derive(Debug, Clone, PartialEq)]
pub struct Increment {
    /// How much is added. If it or another number here has a fraction, the number that is stored may have one,
    /// and the sum is that of 64-bit floats; else it has to be whole, and the sum is exact.
    pub by: Number,
    /// Where the number stands in the value; what is missing on the way is made as objects.
    pub path: Pointer,
    /// What counts as stored where there is nothing. Default 0.
    pub initial: Option<Number>,
    /// The smallest sum allowed.
    pub min: Option<Number>,
    /// The largest sum allowed.
    pub max: Option<Number>,
}

impl Increment {
    /// An increment without conditions.
    #[must_use]
    pub fn by(by: impl Into<Number>) -> Increment {
        Increment { by: by.into(), path: Pointer::default(), initial: None, min: None, max: None }
    }

    /// How much it adds, if it is one that merges.
    #[must_use]
    pub fn mergeable(&self) -> Option<i64> {
        let Number::Integer(by) = self.by else { return None };
        let starts_at_0 = self.initial.is_none_or(|initial| initial == 0);
        let is_plain = self.path.is_root() && starts_at_0 && self.min.is_none() && self.max.is_none();
        is_plain.then_some(by)
    }

    /// The sum, and the value with it.
    ///
    /// # Errors
    /// `not-a-number`, `out-of-bounds`; `patch-failed` when the path cannot be reached.
    pub(crate) fn apply(&self, key: &str, value: Option<&Value>) -> Result<(Number, Value)> {
        let text = value.map(text_of).transpose().map_err(|_| self.not_a_number(key))?;
        let empty = if self.path.is_root() { "null" } else { "{}" };
        let mut node = Node::Text(text.unwrap_or(empty));
        let mut effort = Effort::new(usize::MAX, usize::MAX);
        let stored = match (text, node.at(self.path.steps(), &mut effort)?) {
            (Some(_), Some(Node::Text(stored))) => Some(self.read(key, stored)?),
            (Some(_), Some(_)) => return Err(self.not_a_number(key)),
            (None, _) | (_, None) => None,
        };
        let start = stored.or(self.initial).unwrap_or(Number::Integer(0));
        let sum = self.sum(start)?;
        let written = sum.to_string();
        self.make_way(&mut node, &mut effort)?;
        match node.at(self.path.steps(), &mut effort)? {
            Some(held) => *held = Node::Text(&written),
            None => node.insert(&self.path, Node::Text(&written), &mut effort)?,
        }
        Ok((sum, value_of(&node)?))
    }

    /// Makes the objects on the way that are not there.
    fn make_way<'a>(&self, node: &mut Node<'a>, effort: &mut Effort) -> Result<()> {
        let steps = self.path.steps();
        for length in 1..steps.len() {
            if node.at(&steps[..length], effort)?.is_none() {
                let place = self.path.prefix(length);
                node.insert(&place, Node::Object(Vec::new()), effort).map_err(|_| nothing_at(&self.path))?;
            }
        }
        Ok(())
    }

    fn read(&self, key: &str, stored: &str) -> Result<Number> {
        let is_number = stored.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if !is_number {
            return Err(self.not_a_number(key));
        }
        match stored.parse() {
            Ok(number @ Number::Fraction(_)) if self.is_whole() => Err(self
                .not_a_number(key)
                .with_hint(format!("it is {number}; to add to a fraction send the increment with one, e.g. 1.0"))),
            Ok(number) => Ok(number),
            Err(_) if self.is_whole() => Err(out_of_range(&format!("{stored} + {}", self.by))),
            // A whole number beyond 64 bits is a float to floats.
            Err(_) => fraction(stored).map(Number::Fraction).ok_or_else(|| self.not_a_number(key)),
        }
    }

    fn sum(&self, start: Number) -> Result<Number> {
        let sum = match (start, self.by) {
            (Number::Integer(start), Number::Integer(by)) if self.is_whole() => {
                start.checked_add(by).map(Number::Integer)
            }
            (start, by) => Number::of_sum(start.as_f64() + by.as_f64()),
        };
        let sum = sum.ok_or_else(|| out_of_range(&format!("{start} + {}", self.by)))?;
        let refuse = |bound: &str, limit: Number| {
            let detail = format!("{start} + {} is {sum}, {bound} {limit}; nothing was changed", self.by);
            Err(Error::new(ErrorCode::OutOfBounds, detail))
        };
        match (self.min, self.max) {
            (Some(min), _) if is_below(sum, min) => refuse("below the min", min),
            (_, Some(max)) if is_below(max, sum) => refuse("above the max", max),
            _ => Ok(sum),
        }
    }

    /// Whether every number in it is whole, so that the sum is exact.
    fn is_whole(&self) -> bool {
        [Some(self.by), self.initial, self.min, self.max].into_iter().flatten().all(Number::is_integer)
    }

    fn not_a_number(&self, key: &str) -> Error {
        let what = if self.is_whole() { "integer" } else { "number" };
        let place = if self.path.is_root() { String::new() } else { format!(" at {}", self.path) };
        let detail = format!("the value of {key:?}{place} is no {what}, so nothing can be added");
        Error::new(ErrorCode::NotANumber, detail)
    }
}

/// A JSON number as the nearest float. serde_json knows the syntax, the standard library the nearest float.
fn fraction(text: &str) -> Option<f64> {
    let is_json = text.trim() == text && serde_json::from_str::<f64>(text).is_ok();
    text.parse().ok().filter(|number: &f64| is_json && number.is_finite())
}

/// Whole numbers are compared exactly.
fn is_below(one: Number, other: Number) -> bool {
    match (one, other) {
        (Number::Integer(one), Number::Integer(other)) => one < other,
        (one, other) => one.as_f64() < other.as_f64(),
    }
}

fn out_of_range(sum: &str) -> Error {
    Error::new(ErrorCode::OutOfBounds, format!("{sum} is outside of the range of 64-bit numbers; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(increment: &Increment, value: &str) -> Result<(String, String)> {
        let value = Value::json(value).expect(value);
        increment.apply("k", Some(&value)).map(|(sum, value)| (sum.to_string(), format!("{value:?}")))
    }

    fn number(text: &str) -> Number {
        text.parse().expect(text)
    }

    #[test]
    fn numbers_are_read_as_json_writes_them() {
        assert_eq!(number("-9223372036854775808"), i64::MIN);
        assert_eq!(number("1.0"), Number::Fraction(1.0));
        assert_eq!(number("-2.5e3").to_string(), "-2500.0");
        for text in ["", "-", "+1", ".5", "1.", "0x1", "NaN", "1e999", " 1.0", "9223372036854775808", "1 "] {
            assert!(text.parse::<Number>().is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&number("1.0")).expect("prints"), "1.0");
        assert_eq!(serde_json::from_str::<Number>("7").expect("reads"), 7);
        assert!(serde_json::from_str::<Number>("123456789012345678901").is_err(), "not rounded");
        assert!(serde_json::from_str::<Number>("\"1\"").is_err());
    }

    #[test]
    fn whole_sums_are_exact_and_stop_at_the_ends() {
        let by = |by: i64| Increment { path: "/n".parse().expect("a path"), ..Increment::by(by) };
        let near = format!(r#"{{"n":{}}}"#, i64::MAX - 1);
        assert_eq!(after(&by(1), &near).expect("fits").0, i64::MAX.to_string());
        assert_eq!(after(&by(2), &near).expect_err("beyond").code(), ErrorCode::OutOfBounds);
        let lowest = format!(r#"{{"n":{}}}"#, i64::MIN);
        assert_eq!(after(&by(0), &lowest).expect("fits").0, i64::MIN.to_string());
        assert_eq!(after(&by(-1), &lowest).expect_err("beyond").code(), ErrorCode::OutOfBounds);
        assert_eq!(after(&by(-1), r#"{"n":9223372036854775808}"#).expect_err("beyond").code(), ErrorCode::OutOfBounds);
        for value in [r#"{"n":1.0}"#, r#"{"n":"1"}"#, r#"{"n":null}"#, r#"{"n":[1]}"#, r#"{"n":{}}"#] {
            assert_eq!(after(&by(1), value).expect_err(value).code(), ErrorCode::NotANumber, "{value}");
        }
    }

    #[test]
    fn fractions_add_to_any_number() {
        let by = |by: &str| Increment::by(number(by));
        assert_eq!(after(&by("0.5"), "1").expect("adds").1, "1.5");
        assert_eq!(after(&by("0.5"), "1.5").expect("adds").1, "2", "whole again");
        assert_eq!(after(&by("1e300"), "1e300").expect("adds").1, "2e300");
        assert_eq!(after(&by("1e308"), "1.7e308").expect_err("infinite").code(), ErrorCode::OutOfBounds);
        assert_eq!(after(&by("1.0"), "123456789012345678901").expect("adds").1, "1.2345678901234568e20");
        assert_eq!(after(&by("0.5"), "true").expect_err("no number").code(), ErrorCode::NotANumber);
    }

    #[test]
    fn bounds_and_paths() {
        let bounded = Increment { min: Some(number("0")), max: Some(number("10")), ..Increment::by(4) };
        assert_eq!(after(&bounded, "6").expect("at the bound").1, "10");
        assert_eq!(after(&bounded, "7").expect_err("above").code(), ErrorCode::OutOfBounds);
        assert_eq!(
            after(&Increment { by: number("-4"), ..bounded }, "3").expect_err("below").code(),
            ErrorCode::OutOfBounds
        );
        let deep =
            |path: &str| Increment { path: path.parse().expect(path), initial: Some(number("10")), ..Increment::by(1) };
        assert_eq!(after(&deep("/a/b"), r#"{"z":1.0}"#).expect("made").1, r#"{"z":1.0,"a":{"b":11}}"#);
        assert_eq!(after(&deep("/a/1"), r#"{"a":[1,2.0, 3]}"#).expect_err("a fraction").code(), ErrorCode::NotANumber);
        assert_eq!(after(&deep("/a/2"), r#"{"a":[1,2.0, 3]}"#).expect("an item").1, r#"{"a":[1,2.0,4]}"#);
        assert_eq!(after(&deep("/a/b"), r#"{"a":"text"}"#).expect_err("no object").code(), ErrorCode::PatchFailed);
        let (sum, value) = deep("/a/b").apply("k", None).expect("made");
        assert_eq!((sum, format!("{value:?}").as_str()), (Number::Integer(11), r#"{"a":{"b":11}}"#));
        let (_, value) = deep("").apply("k", None).expect("made");
        assert_eq!(format!("{value:?}"), "11");
        assert_eq!(after(&deep(""), "null").expect_err("null is a value").code(), ErrorCode::NotANumber);
    }

    #[test]
    fn only_plain_increments_merge() {
        assert_eq!(Increment::by(3).mergeable(), Some(3));
        assert_eq!(Increment { initial: Some(Number::Integer(0)), ..Increment::by(3) }.mergeable(), Some(3));
        for other in [
            Increment::by(number("3.0")),
            Increment { max: Some(Number::Integer(9)), ..Increment::by(3) },
            Increment { initial: Some(Number::Integer(1)), ..Increment::by(3) },
            Increment { path: "/a".parse().expect("a path"), ..Increment::by(3) },
        ] {
            assert_eq!(other.mergeable(), None, "{other:?}");
        }
    }
}
