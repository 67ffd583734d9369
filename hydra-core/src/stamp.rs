//! When and by whom a record was written: hybrid logical clock stamps and the version tokens made of them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::base32;
use crate::error::{Error, ErrorCode};

/// The order of records: hybrid logical clock first, then the incarnation of the writer.
///
/// `hlc` is 48 bits of Unix milliseconds and 16 bits of counter (Kulkarni et al., "Logical Physical
/// Clocks", 2014). Copying a record never changes its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    pub hlc: u64,
    /// The server process that wrote the record: 64 random bits drawn at its start.
    pub incarnation: u64,
}

impl Stamp {
    /// The stamp of nothing: below every other.
    pub const ZERO: Stamp = Stamp { hlc: 0, incarnation: 0 };

    /// The wall clock part, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.hlc >> 16)
    }
}

/// A moment in milliseconds since 1970-01-01 UTC, written as RFC 3339 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after 1970.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The clock of this machine; 1970 where that is set to before 1970.
    #[must_use]
    pub fn now() -> Timestamp {
        Timestamp::from(SystemTime::now())
    }

    /// The moment `duration` later, as late as can be written down.
    #[must_use]
    pub fn after(self, duration: Duration) -> Timestamp {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(millis).min(Timestamp::MAX.0))
    }

    /// 9999-12-31T23:59:59.999Z, the last moment RFC 3339 can write.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let millis = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        Timestamp(u64::try_from(millis).unwrap_or(u64::MAX).min(Timestamp::MAX.0))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(timestamp.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = SystemTime::from((*self).min(Timestamp::MAX));
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339 in UTC (`2026-01-31T12:00:00Z`) or integer Unix milliseconds.
    fn from_str(text: &str) -> Result<Timestamp, Error> {
        let refused = || {
            Error::new(
                ErrorCode::InvalidParameter,
                format!("{text:?} is no time; write RFC 3339 in UTC, e.g. 2026-01-31T12:00:00Z, or Unix milliseconds"),
            )
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let millis: u64 = text.parse().map_err(|_| refused())?;
            return (millis <= Timestamp::MAX.0).then_some(Timestamp(millis)).ok_or_else(refused);
        }
        humantime::parse_rfc3339(text).map(Timestamp::from).map_err(|_| refused())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The version of a treasure: opaque, unique, never repeated with other content on any copy.
///
/// It is the ETag on the wire. Two versions are equal only if the treasures are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(Token);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    /// One record decides the value.
    Record(Stamp),
    /// A base with increments on it: the base's clock, and a digest of what was added by whom.
    Counter { base_hlc: u64, digest: u128 },
}

impl Version {
    /// The longest version as text, in bytes.
    pub const MAX_BYTES: usize = base32::WIDTH_64 + 1 + base32::WIDTH_128;

    /// The version of a value that one record decides.
    #[must_use]
    pub fn of_record(stamp: Stamp) -> Version {
        Version(Token::Record(stamp))
    }

    /// The version of a base with increments: `digest` is XXH3-128 over what was added by whom.
    #[must_use]
    pub fn of_counter(base_hlc: u64, digest: u128) -> Version {
        Version(Token::Counter { base_hlc, digest })
    }

    /// The two numbers behind the token, for the idempotency memory of a chunk.
    pub(crate) fn to_parts(self) -> (u64, u128, bool) {
        match self.0 {
            Token::Record(stamp) => (stamp.hlc, u128::from(stamp.incarnation), false),
            Token::Counter { base_hlc, digest } => (base_hlc, digest, true),
        }
    }

    /// The text of the version, as [`ToString`] gives it, in the caller's room.
    ///
    /// ```
    /// # let version: hydra_core::Version = "00000000000a1-0000000000001".parse()?;
    /// let mut room = [0; hydra_core::Version::MAX_BYTES];
    /// assert_eq!(version.encode(&mut room), version.to_string());
    /// # Ok::<(), hydra_core::Error>(())
    /// ```
    #[must_use]
    pub fn encode(self, room: &mut [u8; Version::MAX_BYTES]) -> &str {
        const REST: usize = base32::WIDTH_64 + 1;
        let (hlc, rest, counter) = self.to_parts();
        base32::encode_into(hlc.into(), &mut room[..base32::WIDTH_64]);
        room[base32::WIDTH_64] = b'-';
        let end = if counter { Version::MAX_BYTES } else { REST + base32::WIDTH_64 };
        base32::encode_into(rest, &mut room[REST..end]);
        std::str::from_utf8(&room[..end]).unwrap_or_default()
    }

    /// The inverse of [`Version::to_parts`].
    pub(crate) fn from_parts(hlc: u64, rest: u128, counter: bool) -> Version {
        if counter {
            Version::of_counter(hlc, rest)
        } else {
            Version::of_record(Stamp { hlc, incarnation: rest as u64 })
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Version::MAX_BYTES]))
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version, Error> {
        let parse = || {
            let (hlc, rest) = text.split_once('-')?;
            let hlc = base32::decode_64(hlc)?;
            match rest.len() {
                base32::WIDTH_64 => {
                    base32::decode_64(rest).map(|incarnation| Version::of_record(Stamp { hlc, incarnation }))
                }
                _ => base32::decode_128(rest).map(|digest| Version::of_counter(hlc, digest)),
            }
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidParameter,
                format!("{text:?} is no version; send back the ETag or `version` of an earlier answer unchanged"),
            )
        })
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.encode(&mut [0; Version::MAX_BYTES]))
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_survive_the_round_trip() {
        let record = Version::of_record(Stamp { hlc: 7 << 16, incarnation: u64::MAX });
        let counter = Version::of_counter(3, u128::MAX);
        for version in [record, counter] {
            assert_eq!(version.to_string().parse::<Version>().expect("reads back"), version);
            let (hlc, rest, is_counter) = version.to_parts();
            assert_eq!(Version::from_parts(hlc, rest, is_counter), version);
        }
        assert!("42".parse::<Version>().is_err());
    }

    #[test]
    fn times_are_rfc_3339_or_milliseconds() {
        let time: Timestamp = "2026-11-22T09:10:41.250Z".parse().expect("RFC 3339");
        assert_eq!(time.to_string(), "2026-11-22T09:10:41.250Z");
        assert_eq!(time.as_millis().to_string().parse::<Timestamp>().expect("milliseconds"), time);
        assert!("tomorrow".parse::<Timestamp>().is_err());
        assert!("99999999999999999999".parse::<Timestamp>().is_err());
        assert!(Timestamp::MAX.after(Duration::MAX) == Timestamp::MAX);
    }
}
