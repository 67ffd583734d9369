//! Importing: records from elsewhere as writes, and the count of what became of them. Pure.

mod values;

use crate::error::{Error, ErrorCode, Result};
use crate::stamp::Timestamp;
use crate::value::Value;
use crate::write::{Condition, Durability, Expiry, Op, OpResult};

pub use values::{BadValue, FoundValue, ImportValues};

/// How many records an import hands to the engine at once.
pub const IMPORT_BATCH_OPS: usize = 1_000;
/// How many bytes of records an import hands to the engine at once, but for a single longer record: 1 MiB.
pub const IMPORT_BATCH_BYTES: usize = 1 << 20;
/// The longest record of an import: 34 MiB, enough for the longest binary value.
pub const MAX_IMPORT_LINE_BYTES: usize = 34 << 20;
/// How many records that failed an import lists; further ones are only counted.
pub const MAX_IMPORT_ERRORS: usize = 100;

/// Which records an import writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportMode {
    /// Those whose key does not exist; others are skipped.
    Create,
    /// All, in place of what was there. Importing the same again changes no value.
    #[default]
    Upsert,
    /// Those whose key does not exist or was written before the record was; others are skipped.
    Newer,
}

impl ImportMode {
    /// `create`, `upsert` or `newer`, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ImportMode::Create => "create",
            ImportMode::Upsert => "upsert",
            ImportMode::Newer => "newer",
        }
    }

    /// Reads the wire text; `None` for any other text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<ImportMode> {
        [ImportMode::Create, ImportMode::Upsert, ImportMode::Newer].into_iter().find(|mode| mode.as_str() == text)
    }

    /// The write that a record stands for. It gets a stamp of its own, whatever the record says of its time.
    ///
    /// # Errors
    /// `invalid-body` when the mode needs the time of the record and it has none.
    pub fn op(self, record: ImportRecord) -> Result<Op> {
        let condition = match self {
            ImportMode::Create => Condition::Absent,
            ImportMode::Upsert => Condition::Always,
            ImportMode::Newer => Condition::UpdatedBefore(record.updated_at.ok_or_else(|| {
                Error::new(ErrorCode::InvalidBody, "the member updatedAt is missing; the mode newer compares it")
            })?),
        };
        Ok(Op::Put { key: record.key, value: record.value, expiry: Expiry::from(record.expires_at), condition })
    }
}

/// A treasure as it comes from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportRecord {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// When it expires; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When it was last written where it comes from; only [`ImportMode::Newer`] asks.
    pub updated_at: Option<Timestamp>,
}

/// A record that was not written.
#[derive(Debug, Clone)]
pub struct ImportError {
    /// The number of the record, counted from 1.
    pub line: u64,
    /// Why.
    pub error: Error,
}

/// What became of the records of an import so far.
#[derive(Debug, Clone)]
pub struct ImportTally {
    /// Records that are settled one way or the other.
    pub lines: u64,
    /// Records that were written, and acknowledged.
    pub written: u64,
    /// Records that the mode left alone.
    pub skipped: u64,
    /// Records that could not be written.
    pub failed: u64,
    /// The first [`MAX_IMPORT_ERRORS`] of those.
    pub errors: Vec<ImportError>,
    /// Where the least durable of the writes is.
    pub durability: Durability,
}

impl Default for ImportTally {
    fn default() -> ImportTally {
        ImportTally { lines: 0, written: 0, skipped: 0, failed: 0, errors: Vec::new(), durability: Durability::Synced }
    }
}

impl ImportTally {
    /// Counts what became of one record.
    pub fn settle(&mut self, line: u64, result: Result<OpResult>) {
        self.lines += 1;
        match result {
            Ok(_) => self.written += 1,
            Err(error) if is_left_alone(&error) => self.skipped += 1,
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < MAX_IMPORT_ERRORS {
                    self.errors.push(ImportError { line, error });
                }
            }
        }
    }

    /// Notes where a batch of writes is.
    pub fn note(&mut self, durability: Durability) {
        if durability == Durability::Buffered {
            self.durability = Durability::Buffered;
        }
    }
}

/// Whether a record was not written because the mode says so.
fn is_left_alone(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::AlreadyExists | ErrorCode::VersionMismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(updated_at: Option<u64>) -> ImportRecord {
        let updated_at = updated_at.map(Timestamp::from_millis);
        ImportRecord { key: "k".into(), value: Value::text("v"), expires_at: None, updated_at }
    }

    #[test]
    fn each_mode_has_its_condition() {
        let condition = |mode: ImportMode, record| match mode.op(record).expect("an operation") {
            Op::Put { condition, .. } => condition,
            other => panic!("{other:?}"),
        };
        assert_eq!(condition(ImportMode::Create, record(None)), Condition::Absent);
        assert_eq!(condition(ImportMode::Upsert, record(Some(7))), Condition::Always);
        let newer = Condition::UpdatedBefore(Timestamp::from_millis(7));
        assert_eq!(condition(ImportMode::Newer, record(Some(7))), newer);
        assert_eq!(ImportMode::Newer.op(record(None)).expect_err("no time").code(), ErrorCode::InvalidBody);
        assert_eq!(ImportMode::from_text("newer"), Some(ImportMode::Newer));
        assert_eq!(ImportMode::from_text("Newer"), None);
    }

    #[test]
    fn errors_are_listed_up_to_a_limit_and_counted_beyond() {
        let mut tally = ImportTally::default();
        for line in 1..=250 {
            tally.settle(line, Err(Error::new(ErrorCode::InvalidKey, "bad")));
        }
        tally.settle(251, Err(Error::new(ErrorCode::AlreadyExists, "there")));
        tally.settle(252, Ok(OpResult::Deleted { existed: true }));
        assert_eq!((tally.lines, tally.written, tally.skipped, tally.failed), (252, 1, 1, 250));
        assert_eq!((tally.errors.len(), tally.errors[99].line), (MAX_IMPORT_ERRORS, 100));
    }
}
