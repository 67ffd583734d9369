//! Values and treasures: what is stored under a key, as it was sent, and what is known about it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use triomphe::ThinArc;

use crate::error::{Error, ErrorCode};
use crate::json;
use crate::pointer::Pointer;
use crate::stamp::{Timestamp, Version};

/// Bytes behind a pointer without their length, which stands before them.
pub(crate) type SharedBytes = ThinArc<(), u8>;

/// A value: the bytes that were put, unchanged, and what kind of bytes they are.
///
/// A JSON value keeps its text (`1.0` stays `1.0`); it was checked strictly when it was made.
/// Cloning shares the bytes.
#[derive(Clone)]
pub struct Value {
    shared: SharedBytes,
    range: Range<u32>,
    content_type: Option<Arc<str>>,
}

impl Value {
    /// A JSON value from its text, checked strictly: one value, at most 127 levels deep, strings
    /// that decode, finite numbers, no member twice.
    ///
    /// # Errors
    /// `invalid-json` with line and column.
    pub fn json(text: impl AsRef<[u8]>) -> Result<Value, Error> {
        let text = text.as_ref();
        let trimmed = json::check(text)?;
        Ok(Value::from_checked(&text[trimmed]))
    }

    /// A JSON value from anything that serde can write.
    ///
    /// # Errors
    /// `invalid-json` when it cannot be written as strict JSON.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
        let text = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorCode::InvalidJson, format!("the value cannot be written as JSON: {error}"))
        })?;
        Value::json(text)
    }

    /// Text, stored as a JSON string.
    #[must_use]
    pub fn text(text: &str) -> Value {
        let quoted = serde_json::Value::String(text.to_owned()).to_string();
        Value::from_checked(quoted.as_bytes())
    }

    /// Bytes of any other kind, with their content type.
    ///
    /// # Errors
    /// `invalid-parameter` when the content type is empty, longer than 255 bytes or not printable ASCII.
    pub fn binary(content_type: &str, bytes: impl AsRef<[u8]>) -> Result<Value, Error> {
        if content_type.is_empty()
            || content_type.len() > 255
            || !content_type.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("the content type {content_type:?} is not 1 to 255 bytes of printable ASCII"),
            ));
        }
        let bytes = bytes.as_ref();
        Ok(Value { shared: share(bytes), range: 0..length(bytes), content_type: Some(content_type.into()) })
    }

    /// A JSON value whose text is known to be strict.
    pub(crate) fn from_checked(text: &[u8]) -> Value {
        Value { shared: share(text), range: 0..length(text), content_type: None }
    }

    /// A value inside a larger shared block of bytes.
    pub(crate) fn within(shared: SharedBytes, range: Range<usize>, content_type: Option<Arc<str>>) -> Value {
        Value { shared, range: range.start as u32..range.end as u32, content_type }
    }

    /// A part of a JSON value, sharing its bytes; `None` where nothing stands, and for binary values.
    #[must_use]
    pub fn at(&self, path: &Pointer) -> Option<Value> {
        let text = std::str::from_utf8(self.as_bytes()).ok().filter(|_| self.is_json())?;
        let part = path.find(text)?;
        let start = part.as_ptr() as usize - text.as_ptr() as usize + self.range.start as usize;
        Some(Value::within(self.shared.clone(), start..start + part.len(), None))
    }

    /// The bytes as they were put.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.shared.slice[self.range.start as usize..self.range.end as usize]
    }

    /// The content type of a binary value; `None` for JSON.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Whether the value is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.content_type.is_none()
    }

    /// The JSON value as a type.
    ///
    /// # Errors
    /// `invalid-json` when the value is binary or has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if let Some(content_type) = self.content_type() {
            return Err(Error::new(ErrorCode::InvalidJson, format!("the value is {content_type}, not JSON")));
        }
        serde_json::from_slice(self.as_bytes()).map_err(|error| {
            Error::new(ErrorCode::InvalidJson, format!("the value has another shape than was asked for: {error}"))
        })
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Whether there are no bytes; never true for JSON.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// Copies bytes to where they can be shared.
pub(crate) fn share(bytes: &[u8]) -> SharedBytes {
    ThinArc::from_header_and_slice((), bytes)
}

/// Values are far below 4 GiB; a longer slice cannot pass any policy, so cutting is never reached.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.as_bytes() == other.as_bytes() && self.content_type == other.content_type
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content_type() {
            None => f.write_str(&String::from_utf8_lossy(self.as_bytes())),
            Some(content_type) => write!(f, "<{} bytes of {content_type}>", self.len()),
        }
    }
}

/// A key with its value and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Treasure {
    /// The key, unique in its swamp.
    pub key: String,
    /// The value.
    pub value: Value,
    /// The version; changes with every write.
    pub version: Version,
    /// When the key came into being, by the clock of the server that wrote it.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// The clock of the last write: what an order by it goes by.
    pub(crate) written: u64,
}

impl Treasure {
    /// Whether it has expired at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now)
    }
}
