//! One operation on one treasure, as the client holds it: for the engine, for a batch, or as a request of its own.

use std::time::Duration;

use hydra_core::wire::OpBody;
use hydra_core::{Condition, ErrorCode, Increment, Number, Op, Patch, Timestamp, Value, Version, check_key};

use crate::binary;
use crate::error::Result;
use crate::settings::OpClass;
use crate::treasure::{Treasure, Written};

/// When a treasure expires. A span is counted by the clock of the server that stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Expiry {
    #[default]
    Never,
    At(Timestamp),
    In(Duration),
    Keep,
}

/// What a patch does: both are JSON values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Merge(Value),
    Steps(Value),
}

impl Change {
    pub(crate) fn value(&self) -> &Value {
        match self {
            Change::Merge(value) | Change::Steps(value) => value,
        }
    }
}

/// One operation on one treasure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    Put { key: String, value: Value, expiry: Expiry, condition: Condition },
    Patch { key: String, change: Change, create: bool, condition: Condition },
    Delete { key: String, condition: Condition },
    Increment { key: String, increment: Increment },
    Get { key: String },
}

/// What one operation of a batch did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Done<V> {
    /// The value is stored: by a put, a merge or a patch.
    Put(Written),
    /// The key is gone; whether there was something to remove.
    Deleted(bool),
    /// The sum, and the version of the treasure.
    Incremented(Number, Version),
    /// The treasure, if there is one.
    Got(Option<Treasure<V>>),
}

impl Operation {
    pub(crate) fn key(&self) -> &str {
        match self {
            Operation::Put { key, .. }
            | Operation::Patch { key, .. }
            | Operation::Delete { key, .. }
            | Operation::Increment { key, .. }
            | Operation::Get { key } => key,
        }
    }

    /// About how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Patch { key, change, .. } => key.len() + change.value().len(),
            _ => self.key().len(),
        }
    }

    /// Checks the key by the rules of keys.
    pub(crate) fn check(&self) -> Result<()> {
        Ok(check_key(self.key())?)
    }

    pub(crate) fn class(&self) -> OpClass {
        match self {
            Operation::Get { .. } => OpClass::Read,
            Operation::Increment { increment, .. } if increment.mergeable().is_some() => OpClass::Commuting,
            Operation::Put { condition: Condition::Always, .. }
            | Operation::Patch { change: Change::Merge(_), condition: Condition::Always, .. }
            | Operation::Delete { condition: Condition::Always, .. } => OpClass::Overwrite,
            Operation::Put { .. }
            | Operation::Patch { .. }
            | Operation::Delete { .. }
            | Operation::Increment { .. } => OpClass::Exclusive,
        }
    }

    /// For the engine in process.
    pub(crate) fn into_op(self) -> Result<Op> {
        Ok(match self {
            Operation::Put { key, value, expiry, condition } => {
                let expiry = match expiry {
                    Expiry::Never => hydra_core::Expiry::Never,
                    Expiry::At(time) => hydra_core::Expiry::At(time),
                    Expiry::In(span) => hydra_core::Expiry::At(Timestamp::now().after(longer_than_nothing(span)?)),
                    Expiry::Keep => hydra_core::Expiry::Keep,
                };
                Op::Put { key, value, expiry, condition }
            }
            Operation::Patch { key, change, create, condition } => {
                let patch = match change {
                    Change::Merge(value) => Patch::merge(value)?,
                    Change::Steps(value) => Patch::json(value)?,
                };
                Op::Patch { key, patch, create, condition }
            }
            Operation::Delete { key, condition } => Op::Delete { key, condition },
            Operation::Increment { key, increment } => Op::increment(key, increment),
            Operation::Get { key } => Op::Get { key },
        })
    }

    /// For a batch that is sent.
    pub(crate) fn to_body(&self) -> Result<OpBody> {
        let (op, condition) = match self {
            Operation::Put { condition, .. } => ("put", Some(condition)),
            Operation::Patch { change: Change::Merge(_), condition, .. } => ("merge", Some(condition)),
            Operation::Patch { change: Change::Steps(_), condition, .. } => ("patch", Some(condition)),
            Operation::Delete { condition, .. } => ("delete", Some(condition)),
            Operation::Increment { .. } => ("increment", None),
            Operation::Get { .. } => ("get", None),
        };
        let mut body = OpBody { op: op.to_owned(), key: self.key().to_owned(), ..OpBody::default() };
        body.if_version = condition.and_then(condition_text);
        match self {
            Operation::Put { value, expiry, .. } => {
                body.value = Some(binary::to_json(value)?);
                match expiry {
                    Expiry::Never => {}
                    Expiry::At(time) => body.expires_at = Some(*time),
                    Expiry::In(span) => body.ttl = Some(hydra_core::duration::format_duration(*span)),
                    Expiry::Keep => body.keep_ttl = true,
                }
            }
            Operation::Patch { change, create, .. } => {
                body.value = Some(binary::to_json(change.value())?);
                body.create = *create;
            }
            Operation::Increment { increment, .. } => {
                body.by = Some(increment.by);
                body.path = Some(increment.path.to_string()).filter(|path| !path.is_empty());
                (body.initial, body.min, body.max) = (increment.initial, increment.min, increment.max);
            }
            Operation::Delete { .. } | Operation::Get { .. } => {}
        }
        Ok(body)
    }
}

/// A time to live as servers take it.
fn longer_than_nothing(span: Duration) -> Result<Duration> {
    if span < Duration::from_millis(1) {
        let detail = format!("the ttl is {span:?}; allowed is one millisecond and more");
        return Err(hydra_core::Error::new(ErrorCode::InvalidParameter, detail).into());
    }
    Ok(span)
}

/// The class of a batch: that of its strictest operation.
pub(crate) fn class_of<'o>(operations: impl IntoIterator<Item = &'o Operation>) -> OpClass {
    operations.into_iter().map(Operation::class).max().unwrap_or(OpClass::Read)
}

/// `"0"` for absent, `"*"` for any, or a version.
fn condition_text(condition: &Condition) -> Option<String> {
    match condition {
        // Only imports, which are no batches, compare times.
        Condition::Always | Condition::UpdatedBefore(_) => None,
        Condition::Absent => Some("0".to_owned()),
        Condition::Present => Some("*".to_owned()),
        Condition::Version(versions) => versions.first().map(ToString::to_string),
    }
}
