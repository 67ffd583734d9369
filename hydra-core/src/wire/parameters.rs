//! Query parameters, read strictly: a misspelt or repeated parameter is an error, never ignored. Pure.

use std::borrow::Cow;
use std::str::FromStr;

use super::{decode_segment, encode_segment, quoted};
use crate::error::{Error, ErrorCode};

/// The parameters of one request, all of them known to the endpoint, each at most once unless it is a list.
#[derive(Debug, Default)]
pub struct Parameters<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    /// Reads the text behind the `?`; `known` are the parameters of the endpoint.
    ///
    /// # Errors
    /// `unknown-parameter` with the nearest known one; `invalid-parameter` for a repeated or undecodable one.
    pub fn parse(text: Option<&'a str>, known: &[&'static str]) -> Result<Parameters<'a>, Error> {
        Parameters::parse_lists(text, known, &[])
    }

    /// The same where some parameters may stand more than once: those that are in `lists`, too.
    ///
    /// # Errors
    /// Those of [`Parameters::parse`].
    pub fn parse_lists(
        text: Option<&'a str>,
        known: &[&'static str],
        lists: &[&'static str],
    ) -> Result<Parameters<'a>, Error> {
        let mut read = Parameters::default();
        for piece in text.unwrap_or_default().split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = unescape(name)?;
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            if read.text(name).is_some() && !lists.contains(name) {
                return Err(invalid_parameter(name, "stands more than once"));
            }
            read.0.push((name, unescape(value)?));
        }
        Ok(read)
    }

    /// The value of a parameter, if it was sent.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(sent, _)| *sent == name).map(|(_, value)| value.as_ref())
    }

    /// Every value of a parameter that may stand more than once.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(sent, _)| *sent == name).map(|(_, value)| value.as_ref())
    }

    /// Whether a switch is on: sent without a value or as `true`.
    ///
    /// # Errors
    /// `invalid-parameter` for a value other than `true` and `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(invalid_parameter(name, &format!("is {}; write true or false", quoted(other)))),
        }
    }

    /// The value of a parameter as a type; `allowed` says in words what can be read.
    ///
    /// # Errors
    /// `invalid-parameter` names the parameter, what came and what is allowed.
    pub fn value<T: FromStr>(&self, name: &str, allowed: &str) -> Result<Option<T>, Error> {
        let read = |text: &str| {
            text.parse().map_err(|_| invalid_parameter(name, &format!("is {}; allowed is {allowed}", quoted(text))))
        };
        self.text(name).map(read).transpose()
    }
}

/// The parameter `state` of a list of folders.
///
/// # Errors
/// `invalid-parameter` for what is no state.
pub fn folder_state<'q>(query: &'q Parameters<'_>) -> Result<Option<&'q str>, Error> {
    const STATES: [&str; 6] = ["owned", "standby", "fenced", "importing", "moved", "absent"];
    match query.text("state") {
        Some(state) if !STATES.contains(&state) => {
            let why = format!("is {}; allowed are {}", quoted(state), STATES.join(", "));
            Err(invalid_parameter("state", &why))
        }
        state => Ok(state),
    }
}

/// An `invalid-parameter` about one parameter; `why` is what is wrong with it, as a predicate.
#[must_use]
pub fn invalid_parameter(name: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidParameter, format!("the parameter {name} {why}"))
}

/// A path with parameters behind it, percent-encoded.
#[must_use]
pub fn with_parameters(path: &str, parameters: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        encode_segment(value, &mut out);
    }
    out
}

fn unknown(name: &str, known: &[&'static str]) -> Error {
    let error = Error::new(ErrorCode::UnknownParameter, format!("the parameter {} is not known here", quoted(name)));
    let nearest = known.iter().min_by_key(|known| distance(name, known)).filter(|known| distance(name, known) <= 2);
    match nearest {
        Some(nearest) => error.with_hint(format!("did you mean {nearest}?")),
        None if known.is_empty() => error.with_hint("this endpoint takes no parameters"),
        None => error.with_hint(format!("known are {}", known.join(", "))),
    }
}

/// How many letters must be put in, taken out or replaced; underscores and capitals do not count.
fn distance(sent: &str, known: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        text.chars().take(40).filter(|c| *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
    };
    let (sent, known) = (letters(sent), letters(known));
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (i, a) in sent.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in known.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[known.len()]
}

/// Decodes one side of a parameter: `+` is a space here, everything else as in a path.
fn unescape(raw: &str) -> Result<Cow<'_, str>, Error> {
    let refuse = |why| Error::new(ErrorCode::InvalidParameter, format!("the query part {} {why}", quoted(raw)));
    if raw.contains('+') {
        return decode_segment(&raw.replace('+', " ")).map(|text| Cow::Owned(text.into_owned())).map_err(refuse);
    }
    decode_segment(raw).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_typed() {
        let query =
            Parameters::parse(Some("prefix=a+b%2Fc&limit=5&sync&"), &["prefix", "limit", "sync"]).expect("reads");
        assert_eq!(query.text("prefix"), Some("a b/c"));
        assert_eq!(query.value::<u32>("limit", "a number").expect("a number"), Some(5));
        let written = with_parameters("/p", &[("prefix", "a b/c".to_owned()), ("sync", "true".to_owned())]);
        assert_eq!(written, "/p?prefix=a%20b%2Fc&sync=true");
        assert!(query.flag("sync").expect("a switch") && !query.flag("absent").expect("off"));
    }

    #[test]
    fn misspelt_and_repeated_parameters_are_refused() {
        let typo = Parameters::parse(Some("expiresAt=1"), &["expires_at", "ttl"]).expect_err("typo");
        assert_eq!((typo.code(), typo.hint()), (ErrorCode::UnknownParameter, Some("did you mean expires_at?")));
        let twice = Parameters::parse(Some("ttl=1&ttl=2"), &["ttl"]).expect_err("twice");
        assert_eq!(twice.code(), ErrorCode::InvalidParameter);
        let lists = Parameters::parse_lists(Some("key=b&ttl=1&key=a%2Fb"), &["ttl", "key"], &["key"]).expect("a list");
        assert_eq!(lists.texts("key").collect::<Vec<_>>(), ["b", "a/b"]);
        assert!(Parameters::parse_lists(Some("key=b&ttl=1&ttl=1"), &["ttl", "key"], &["key"]).is_err());
        assert!(Parameters::parse(Some("ttl=%zz"), &["ttl"]).is_err());
        assert!(Parameters::parse(Some("sync=maybe"), &["sync"]).expect("reads").flag("sync").is_err());
    }
}
