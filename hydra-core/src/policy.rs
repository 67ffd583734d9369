//! Policies: the settings of the swamps that match a pattern.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::error::{Error, ErrorCode};
use crate::name::SwampName;
use crate::pattern::Pattern;

/// The largest value any policy may allow: 24 MiB.
pub const MAX_VALUE_BYTES: u64 = 24 << 20;

/// The settings of a swamp. Members that are not written take their default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    /// How long an acknowledged write may stay in memory only; 0 means that it is on disk before it
    /// is acknowledged. Default 1 s, at most 1 h.
    #[serde(with = "duration::as_text")]
    pub write_interval: Duration,
    /// How long an untouched swamp stays in memory; 0 means until it is clean, which is looked at once a second.
    /// Default 5 min.
    #[serde(with = "duration::as_text")]
    pub idle_evict: Duration,
    /// A chunk that has reached this length is closed and the next begun. Default 8 MiB, 64 KiB to 1 GiB.
    pub chunk_bytes: u64,
    /// How frames of 512 bytes and more are compressed. Default none.
    pub compression: Compression,
    /// How long an expired treasure is kept before compaction may drop it. Default 7 days.
    #[serde(with = "duration::as_text")]
    pub expired_keep: Duration,
    /// The longest value, in bytes. Default 16 MiB, at most 24 MiB.
    pub max_value_bytes: u64,
    /// Whether overwriting needs `If-Match` or `If-None-Match`. Default no.
    pub require_version: bool,
    /// How many changes a resident swamp remembers for feeds that resume. Default 1 000.
    pub change_log: u32,
}

/// How frames are compressed on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4, where it saves at least an eighth.
    Lz4,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            write_interval: Duration::from_secs(1),
            idle_evict: Duration::from_secs(300),
            chunk_bytes: 8 << 20,
            compression: Compression::None,
            expired_keep: Duration::from_secs(7 * 86_400),
            max_value_bytes: 16 << 20,
            require_version: false,
            change_log: 1_000,
        }
    }
}

impl Policy {
    /// Whether a write is on disk before it is acknowledged.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.write_interval.is_zero()
    }

    /// Checks every member against its limits.
    ///
    /// # Errors
    /// `invalid-body` names the member, what came and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |member: &str, came: String, allowed: &str| {
            Err(Error::new(ErrorCode::InvalidBody, format!("policy member {member:?} is {came}; allowed is {allowed}")))
        };
        if self.write_interval > Duration::from_secs(3600) {
            return refuse("writeInterval", duration::format_duration(self.write_interval), "0s to 1h");
        }
        if self.idle_evict > Duration::from_secs(365 * 86_400) {
            return refuse("idleEvict", duration::format_duration(self.idle_evict), "0s to 365d");
        }
        if !(64 << 10..=1 << 30).contains(&self.chunk_bytes) {
            return refuse("chunkBytes", self.chunk_bytes.to_string(), "65536 to 1073741824");
        }
        if self.expired_keep > Duration::from_secs(3650 * 86_400) {
            return refuse("expiredKeep", duration::format_duration(self.expired_keep), "0s to 3650d");
        }
        if !(1..=MAX_VALUE_BYTES).contains(&self.max_value_bytes) {
            return refuse("maxValueBytes", self.max_value_bytes.to_string(), "1 to 25165824");
        }
        if self.change_log > 1_000_000 {
            return refuse("changeLog", self.change_log.to_string(), "0 to 1000000");
        }
        Ok(())
    }
}

/// The registered policies, the most specific pattern first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTable(Vec<(Pattern, Policy)>);

impl PolicyTable {
    /// The policy of the most specific pattern that matches, with that pattern.
    #[must_use]
    pub fn find(&self, name: &SwampName) -> Option<(&Pattern, &Policy)> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).map(|(pattern, policy)| (pattern, policy))
    }

    /// The policy registered for exactly this pattern.
    #[must_use]
    pub fn get(&self, pattern: &Pattern) -> Option<&Policy> {
        self.0.iter().find(|(registered, _)| registered == pattern).map(|(_, policy)| policy)
    }

    /// Registers a policy; answers the one it replaces.
    pub fn put(&mut self, pattern: Pattern, policy: Policy) -> Option<Policy> {
        match self.0.binary_search_by(|(registered, _)| registered.cmp(&pattern)) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, policy)),
            Err(at) => {
                self.0.insert(at, (pattern, policy));
                None
            }
        }
    }

    /// Forgets the policy of exactly this pattern; answers it.
    pub fn delete(&mut self, pattern: &Pattern) -> Option<Policy> {
        let at = self.0.iter().position(|(registered, _)| registered == pattern)?;
        Some(self.0.remove(at).1)
    }

    /// Every registered policy, the most specific pattern first.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, &Policy)> {
        self.0.iter().map(|(pattern, policy)| (pattern, policy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        let mut table = PolicyTable::default();
        let synced = Policy { write_interval: Duration::ZERO, ..Policy::default() };
        table.put("*/*/*".parse().expect("pattern"), Policy::default());
        table.put("pay/balance/*".parse().expect("pattern"), synced.clone());
        table.put("pay/*/*".parse().expect("pattern"), Policy::default());
        let name: SwampName = "pay/balance/7".parse().expect("name");
        assert_eq!(
            table.find(&name).map(|(pattern, policy)| (pattern.to_string(), policy.clone())),
            Some(("pay/balance/*".into(), synced))
        );
    }

    #[test]
    fn policies_read_what_they_print_and_refuse_the_rest() {
        let text = serde_json::to_string(&Policy::default()).expect("prints");
        assert_eq!(
            text,
            r#"{"writeInterval":"1s","idleEvict":"5m","chunkBytes":8388608,"compression":"none","expiredKeep":"7d","maxValueBytes":16777216,"requireVersion":false,"changeLog":1000}"#
        );
        assert_eq!(serde_json::from_str::<Policy>(&text).expect("reads"), Policy::default());
        assert_eq!(
            serde_json::from_str::<Policy>(r#"{"writeInterval":0}"#).expect("a number").write_interval,
            Duration::ZERO
        );
        assert!(serde_json::from_str::<Policy>(r#"{"writeIntervall":"1s"}"#).is_err());
        assert!(Policy { chunk_bytes: 1, ..Policy::default() }.check().is_err());
    }
}
