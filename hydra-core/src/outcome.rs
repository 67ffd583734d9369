//! What is remembered of a request, so that the same answer can be given when it comes again.
//!
//! One entry per operation: `0` failed, with the text of its code · `1` put, `2` put of a new key, each with the
//! distance of its stamp to the first · `3` deleted, `4` nothing to delete · `5` incremented, `6` incremented a new
//! key, each with the value and the two numbers of the version · `7` read · `8` incremented by a put, `9` by a put of
//! a new key, each with the distance of its stamp to the first and the text of the sum.

use crate::error::{Error, ErrorCode, Result};
use crate::format::varint::{Reader, put_bytes, put_signed, put_u64};
use crate::number::Number;
use crate::stamp::{Stamp, Version};
use crate::write::OpResult;

/// What an operation did, for [`encode`].
#[derive(Debug)]
pub(crate) enum Done {
    /// With the stamp of its record.
    Put {
        stamp: Stamp,
        created: bool,
    },
    Deleted {
        existed: bool,
    },
    Incremented {
        value: i64,
        version: Version,
        created: bool,
    },
    /// An increment that wrote the whole value, with the stamp of its record.
    Rewritten {
        sum: Number,
        stamp: Stamp,
        created: bool,
    },
    Read,
    Failed(ErrorCode),
}

/// Writes the outcomes of a request whose first record has the stamp `first`.
pub(crate) fn encode(outcomes: &[Done], first: Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(outcomes.len() * 3);
    for outcome in outcomes {
        match outcome {
            Done::Failed(code) => {
                out.push(0);
                put_bytes(&mut out, code.as_str().as_bytes());
            }
            Done::Put { stamp, created } => {
                out.push(if *created { 2 } else { 1 });
                put_u64(&mut out, stamp.hlc.saturating_sub(first.hlc));
            }
            Done::Deleted { existed } => out.push(if *existed { 3 } else { 4 }),
            Done::Incremented { value, version, created } => {
                let (hlc, rest, counter) = version.to_parts();
                out.push(if *created { 6 } else { 5 });
                put_signed(&mut out, (*value).into());
                out.push(u8::from(counter));
                out.extend_from_slice(&hlc.to_le_bytes());
                out.extend_from_slice(&rest.to_le_bytes());
            }
            Done::Rewritten { sum, stamp, created } => {
                out.push(if *created { 9 } else { 8 });
                put_u64(&mut out, stamp.hlc.saturating_sub(first.hlc));
                put_bytes(&mut out, sum.to_string().as_bytes());
            }
            Done::Read => out.push(7),
        }
    }
    out
}

/// Reads the outcomes back. An operation that only read has no result here: it is read again.
pub(crate) fn decode(bytes: &[u8], first: Stamp) -> Option<Vec<Option<Result<OpResult>>>> {
    let mut reader = Reader(bytes);
    let mut results = Vec::new();
    while !reader.is_empty() {
        results.push(match reader.u8()? {
            0 => Some(Err(failed_then(ErrorCode::from_text(reader.text()?)))),
            kind @ (1 | 2) => {
                let stamp = Stamp { hlc: first.hlc.checked_add(reader.varint()?)?, ..first };
                Some(Ok(OpResult::Put { version: Version::of_record(stamp), created: kind == 2 }))
            }
            kind @ (3 | 4) => Some(Ok(OpResult::Deleted { existed: kind == 3 })),
            kind @ (5 | 6) => {
                let value = Number::Integer(i64::try_from(reader.signed()?).ok()?);
                let counter = reader.u8()? == 1;
                let version = Version::from_parts(reader.u64()?, reader.u128()?, counter);
                Some(Ok(OpResult::Incremented { value, version, created: kind == 6 }))
            }
            7 => None,
            kind @ (8 | 9) => {
                let stamp = Stamp { hlc: first.hlc.checked_add(reader.varint()?)?, ..first };
                let value = reader.text()?.parse().ok()?;
                Some(Ok(OpResult::Incremented { value, version: Version::of_record(stamp), created: kind == 9 }))
            }
            _ => return None,
        });
    }
    Some(results)
}

fn failed_then(code: ErrorCode) -> Error {
    Error::new(code, format!("{}, when this request was carried out first", code.title()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_round_trip() {
        let first = Stamp { hlc: 9, incarnation: 7 };
        let version = Version::of_counter(3, 1 << 90);
        let done = [
            Done::Put { stamp: Stamp { hlc: 11, ..first }, created: true },
            Done::Deleted { existed: false },
            Done::Incremented { value: -5, version, created: false },
            Done::Read,
            Done::Failed(ErrorCode::VersionMismatch),
            Done::Rewritten { sum: Number::Fraction(-2.5), stamp: Stamp { hlc: 12, ..first }, created: true },
        ];
        let results = decode(&encode(&done, first), first).expect("reads back");
        assert!(matches!(&results[0], Some(Ok(OpResult::Put { version, created: true }))
            if *version == Version::of_record(Stamp { hlc: 11, ..first })));
        assert!(matches!(results[1], Some(Ok(OpResult::Deleted { existed: false }))));
        assert!(
            matches!(&results[2], Some(Ok(OpResult::Incremented { value, version: read, .. })) if *value == -5 && *read == version)
        );
        assert!(results[3].is_none());
        assert!(matches!(&results[4], Some(Err(error)) if error.code() == ErrorCode::VersionMismatch));
        assert!(matches!(&results[5], Some(Ok(OpResult::Incremented { value, version, created: true }))
            if *value == Number::Fraction(-2.5) && *version == Version::of_record(Stamp { hlc: 12, ..first })));
        assert!(decode(&[10], first).is_none());
    }
}
