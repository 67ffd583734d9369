//! What a request for the feed of many swamps asks, and how events are written. Pure.

use super::{EVENT_STREAM, NDJSON, Parameters, invalid_parameter};
use crate::error::Error;
use crate::name::SwampName;
use crate::pattern::Pattern;

/// The parameters of the feed of many swamps: two for what it is about, and those of the feed of one.
const OF_MANY: &[&str] = &["swamp", "pattern", "since", "snapshot", "keys_only", "prefix", "old", "heartbeat"];
/// The parameters of the feed of one swamp.
pub const FEED_PARAMETERS: &[&str] = OF_MANY.split_at(2).1;
/// The most swamps one feed may name: 1 000.
pub const MAX_FEED_SWAMPS: usize = 1_000;

/// What the feed of many swamps is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedTopic {
    /// These swamps: at least one, in ascending order, each once.
    Swamps(Vec<SwampName>),
    /// Every swamp whose name matches.
    Pattern(Pattern),
}

impl FeedTopic {
    /// Reads what is behind the `?` of `GET /v1/events`, and what of it says what the feed is about.
    ///
    /// # Errors
    /// `unknown-parameter` and `invalid-parameter`, also unless there is either a pattern or a name, and for more than
    /// [`MAX_FEED_SWAMPS`] names; `invalid-name`.
    pub fn parse(text: Option<&str>) -> Result<(FeedTopic, Parameters<'_>), Error> {
        let query = Parameters::parse_lists(text, OF_MANY, &["swamp"])?;
        let mut names = query.texts("swamp").map(str::parse).collect::<Result<Vec<SwampName>, Error>>()?;
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_FEED_SWAMPS {
            let why = format!("stands {} times; allowed is {MAX_FEED_SWAMPS}", names.len());
            return Err(invalid_parameter("swamp", &why));
        }
        let topic = match (query.text("pattern"), names.is_empty()) {
            (Some(_), false) => {
                return Err(invalid_parameter("pattern", "came together with swamp; send one of them"));
            }
            (None, true) => {
                let why = "is missing, and so is pattern; name swamps with ?swamp=a/b/c&swamp=d/e/f";
                return Err(invalid_parameter("swamp", why));
            }
            (Some(pattern), true) => FeedTopic::Pattern(pattern.parse()?),
            (None, false) => FeedTopic::Swamps(names),
        };
        Ok((topic, query))
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedFormat {
    /// Server-sent events.
    Sse,
    /// One JSON object in each line.
    Lines,
}

impl FeedFormat {
    /// The media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            FeedFormat::Sse => EVENT_STREAM,
            FeedFormat::Lines => NDJSON,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn a_feed_is_about_names_or_about_a_pattern() {
        let topic = |text: &str| FeedTopic::parse(Some(text)).map(|(topic, _)| topic);
        let name = |text: &str| text.parse::<SwampName>().expect("a name");
        let twice = topic("swamp=b/b/b&since=1&swamp=a/a/a&swamp=b/b/b").expect("reads");
        assert_eq!(twice, FeedTopic::Swamps(vec![name("a/a/a"), name("b/b/b")]));
        assert_eq!(topic("pattern=a/*/*").expect("reads"), FeedTopic::Pattern("a/*/*".parse().expect("a pattern")));
        for bad in ["", "pattern=a/*/*&swamp=a/a/a", "pattern=a/*/*&pattern=b/*/*"] {
            assert_eq!(topic(bad).expect_err(bad).code(), ErrorCode::InvalidParameter, "{bad}");
        }
        assert_eq!(topic("swamp=a/a").expect_err("no name").code(), ErrorCode::InvalidName);
        let many: Vec<String> = (0..=MAX_FEED_SWAMPS).map(|i| format!("swamp=a/a/{i}")).collect();
        assert_eq!(topic(&many.join("&")).expect_err("too many").code(), ErrorCode::InvalidParameter);
        topic(&many[1..].join("&")).expect("as many as are allowed");
    }
}
