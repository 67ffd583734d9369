//! The headers of requests and answers that are passed on.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use hydra_core::wire::header;

use crate::error::{Error, ErrorKind, Result};

pub(crate) const SERVER: HeaderName = HeaderName::from_static(header::SERVER);
pub(crate) const ROUTER: HeaderName = HeaderName::from_static(header::ROUTER);
pub(crate) const POOL: HeaderName = HeaderName::from_static(header::POOL);
pub(crate) const FOLDERS: HeaderName = HeaderName::from_static(header::FOLDERS);
pub(crate) const FALLBACK_FOR: HeaderName = HeaderName::from_static(header::FALLBACK_FOR);
pub(crate) const DEADLINE_MS: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_KEY);

/// The lines of a head.
///
/// A gateway passes on what it got and never needs to look at most of it. So the map of the crate `http`, which all
/// servers in Rust speak with, becomes this and the other way round without a copy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

impl Headers {
    /// No lines.
    #[must_use]
    pub fn new() -> Headers {
        Headers::default()
    }

    /// Adds a line; those of the same name stay.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what no head can have.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let refuse = || Error::new(ErrorKind::Invalid, format!("the header {name:?} cannot be sent"));
        let line = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_bytes(value.as_ref()).ok());
        let (name, value) = line.ok_or_else(refuse)?;
        self.0.append(name, value);
        Ok(())
    }

    /// Puts a line in place of those of the same name; a value that no head can have is left out.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.insert(HeaderName::from_static(name), value);
        }
    }

    /// Leaves out the lines of one name.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The first value of a header, if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.0.get(name)?.as_bytes()).ok()
    }

    /// Leaves out the lines with some names.
    pub(crate) fn without(mut self, is_left_out: impl Fn(&str) -> bool) -> HeaderMap {
        let names: Vec<HeaderName> = self.0.keys().filter(|name| is_left_out(name.as_str())).cloned().collect();
        for name in names {
            self.0.remove(name);
        }
        self.0
    }
}

impl fmt::Debug for Headers {
    /// By their names alone: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys().map(HeaderName::as_str)).finish()
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Headers {
        Headers(map)
    }
}

impl From<Headers> for HeaderMap {
    fn from(headers: Headers) -> HeaderMap {
        headers.0
    }
}
