//! Durations as people write them: `30` (seconds), `500ms`, `30s`, `5m`, `2h`, `7d`.

use std::time::Duration;

use crate::error::{Error, ErrorCode};

/// Reads a duration: a plain number of seconds, or numbers with units (`500ms`, `1h30m`, `7d`).
///
/// # Errors
/// `invalid-parameter` with what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    // About 584 years: more could be printed in a form that is not read again.
    parsed.filter(|d| d.as_nanos() <= u128::from(u64::MAX)).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            format!("{text:?} is no duration; write 30 (seconds), 500ms, 30s, 5m, 2h or 7d"),
        )
    })
}

/// Writes a duration in the largest unit that divides it, in whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 { "0s".into() } else { format!("{millis}ms") }
}

/// Serde for a duration as text; a JSON number is read as seconds.
pub mod as_text {
    use super::{Duration, format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    /// Reads text or a whole number of seconds.
    ///
    /// # Errors
    /// Those of [`parse_duration`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a duration such as \"500ms\", \"30s\", \"5m\" or a whole number of seconds"
        )]
        enum Written {
            Seconds(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
            Written::Text(text) => parse_duration(&text).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_the_same() {
        for (text, millis) in
            [("30", 30_000), ("500ms", 500), ("0", 0), ("5m", 300_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
        {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(parse_duration(&format_duration(duration)).expect("prints readable"), duration);
        }
        for text in ["", "-1", "5 parsecs", "1e3", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
