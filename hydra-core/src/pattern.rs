//! Patterns of names: three parts, each a name, `prefix*` or `*`. One rule decides which of several wins.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::name::{SwampName, check_pattern_part};

/// A pattern such as `users/*/*` or `chat/room-*/lobby`.
///
/// Patterns are ordered from the most to the least specific, compared part by part from the left:
/// a name before a longer prefix before a shorter prefix before `*`. So the first pattern in
/// ascending order that matches a name is the one that wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern([Part; 3]);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Name(String),
    Prefix(String),
    Any,
}

impl Part {
    fn matches(&self, text: &str) -> bool {
        match self {
            Part::Name(name) => name == text,
            Part::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Part::Any => true,
        }
    }

    fn overlaps(&self, other: &Part) -> bool {
        match (self, other) {
            (Part::Any, _) | (_, Part::Any) => true,
            (Part::Name(name), part) | (part, Part::Name(name)) => part.matches(name),
            (Part::Prefix(a), Part::Prefix(b)) => a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
        }
    }

    fn covers(&self, other: &Part) -> bool {
        match (self, other) {
            (Part::Any, _) => true,
            (part, Part::Name(name)) => part.matches(name),
            (Part::Prefix(a), Part::Prefix(b)) => b.starts_with(a.as_str()),
            (Part::Name(_), Part::Prefix(_)) | (Part::Name(_) | Part::Prefix(_), Part::Any) => false,
        }
    }

    /// Smaller is more specific.
    fn rank(&self) -> (u8, usize) {
        match self {
            Part::Name(_) => (0, 0),
            Part::Prefix(prefix) => (1, usize::MAX - prefix.len()),
            Part::Any => (2, 0),
        }
    }
}

impl Pattern {
    /// Whether the name is one the pattern stands for.
    #[must_use]
    pub fn matches(&self, name: &SwampName) -> bool {
        self.0.iter().zip(name.parts()).all(|(part, text)| part.matches(text))
    }

    /// Whether some name matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Pattern) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.overlaps(b))
    }

    /// Whether every name that matches `other` matches this pattern.
    #[must_use]
    pub fn covers(&self, other: &Pattern) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.covers(b))
    }

    /// Whether every name matches: `*/*/*`.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.iter().all(|part| *part == Part::Any)
    }

    /// Compares by specificity alone: `Equal` for two patterns of which neither wins over the other.
    #[must_use]
    pub fn compare_specificity(&self, other: &Pattern) -> Ordering {
        self.0.iter().map(Part::rank).cmp(other.0.iter().map(Part::rank))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Pattern) -> Ordering {
        self.compare_specificity(other).then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Pattern) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern, Error> {
        let refuse = |why: String| {
            Error::new(ErrorCode::InvalidPattern, format!("the pattern {text:?} {why}"))
                .with_hint("a pattern is sanctuary/realm/swamp, each part a name, prefix* or *")
        };
        let pieces: Vec<&str> = text.split('/').collect();
        let [a, b, c] = pieces[..] else {
            return Err(refuse(format!("has {} parts", pieces.len())));
        };
        let part = |position: usize, piece: &str| match piece.strip_suffix('*') {
            Some("") => Ok(Part::Any),
            Some(prefix) => check_pattern_part(position, &format!("{prefix}x"))
                .map(|()| Part::Prefix(prefix.to_owned()))
                .map_err(|error| refuse(format!("is not allowed: {}", error.detail()))),
            None => check_pattern_part(position, piece)
                .map(|()| Part::Name(piece.to_owned()))
                .map_err(|error| refuse(format!("is not allowed: {}", error.detail()))),
        };
        Ok(Pattern([part(0, a)?, part(1, b)?, part(2, c)?]))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            match part {
                Part::Name(name) => f.write_str(name)?,
                Part::Prefix(prefix) => write!(f, "{prefix}*")?,
                Part::Any => f.write_str("*")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_pattern_covers_what_is_within_it() {
        let covers = |a: &str, b: &str| {
            let (a, b): (Pattern, Pattern) = (a.parse().expect(a), b.parse().expect(b));
            a.covers(&b)
        };
        for (wide, narrow) in
            [("*/*/*", "a/b*/*"), ("a/*/*", "a/b/c"), ("a/b*/*", "a/bc*/*"), ("a/b*/*", "a/b/c"), ("a/b/c", "a/b/c")]
        {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (other, pattern) in
            [("a/*/*", "*/*/*"), ("a/b*/*", "a/*/*"), ("a/bc*/*", "a/b*/*"), ("a/b/c", "a/b/c*"), ("a/b/c", "a/b/d")]
        {
            assert!(!covers(other, pattern), "{other} {pattern}");
        }
    }

    #[test]
    fn the_most_specific_comes_first() {
        let mut patterns: Vec<Pattern> = ["*/*/*", "*/b/*", "a/*/*", "a*/b/c", "a/b/*", "a/b/c*", "a/b/cc*", "a/b/c"]
            .into_iter()
            .map(pattern)
            .collect();
        patterns.sort();
        let texts: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
        assert_eq!(texts, ["a/b/c", "a/b/cc*", "a/b/c*", "a/b/*", "a/*/*", "a*/b/c", "*/b/*", "*/*/*"]);
    }

    #[test]
    fn matching_and_overlap() {
        let name: SwampName = "chat/rooms/lobby".parse().expect("name");
        assert!(pattern("chat/*/*").matches(&name) && pattern("ch*/rooms/lob*").matches(&name));
        assert!(!pattern("chat/rooms/lob").matches(&name));
        assert!(pattern("chat/*/x").overlaps(&pattern("*/rooms/x")));
        assert!(!pattern("a*/*/*").overlaps(&pattern("b*/*/*")));
        assert_eq!(pattern("a/*/x").compare_specificity(&pattern("b/*/y")), Ordering::Equal);
    }

    #[test]
    fn unreadable_patterns_are_refused() {
        for text in ["", "a/b", "a/b/c/d", "a//c", "a/**/c", "a/*b/c", "a/./c", "a/b/c\n"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }
}
