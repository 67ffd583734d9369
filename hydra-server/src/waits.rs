//! Long polls: `GET /v1/kv/{S}/{key}?wait=30s` with `If-None-Match` answers when the treasure is another one.

use std::time::Duration;

use http::header::IF_NONE_MATCH;
use hydra_core::duration::{format_duration, parse_duration};
use hydra_core::wire::ABSENT_VERSION;
use hydra_core::{Error, ErrorCode, SwampName, Treasure};
use tokio::time::Instant;

use crate::app::Call;
use crate::conditions::Tags;
use crate::config::MAX_WAIT;
use crate::head::Headers;
use crate::query::{Query, invalid};

/// How a long poll ended.
pub(crate) enum Changed {
    /// This is there: another treasure than the one known, or none, or still the same when the time was over.
    To(Option<Treasure>),
    /// Nothing was there, nothing is, and that was known.
    StillAbsent,
}

/// How long a change is waited for.
///
/// # Errors
/// `invalid-parameter` for what is no duration or beyond [`MAX_WAIT`].
pub(crate) fn wait_of(query: &Query<'_>) -> Result<Option<Duration>, Error> {
    let Some(text) = query.text("wait") else { return Ok(None) };
    let allowed = format!("allowed is 0 to {}", format_duration(MAX_WAIT));
    let wait =
        parse_duration(text).map_err(|error| invalid("wait", &format!("is wrong: {}; {allowed}", error.detail())))?;
    if wait > MAX_WAIT {
        return Err(invalid("wait", &format!("is {}; {allowed}", format_duration(wait))));
    }
    Ok(Some(wait))
}

/// What the client holds already.
struct Known {
    tags: Option<Tags>,
    /// It knows that there is nothing.
    is_absent: bool,
}

impl Known {
    fn of(headers: &Headers) -> Result<Known, Error> {
        let tags = Tags::read(headers, &IF_NONE_MATCH)?;
        let lines = headers.get_all(&IF_NONE_MATCH).filter_map(|line| line.to_str().ok());
        let is_absent =
            lines.flat_map(|line| line.split(',')).any(|tag| tag.trim().trim_matches('"') == ABSENT_VERSION);
        Ok(Known { tags, is_absent })
    }

    fn is(&self, found: Option<&Treasure>) -> bool {
        match found {
            Some(treasure) => self.tags.as_ref().is_some_and(|tags| tags.matches(&treasure.version)),
            None => self.is_absent,
        }
    }
}

/// Waits until there is something else than what the client knows, at most so long. Without `If-None-Match` it
/// knows nothing, and is answered at once. No swamp stays in memory for whoever waits.
pub(crate) async fn until_changed(
    call: &mut Call,
    name: &SwampName,
    key: &str,
    wait: Duration,
) -> Result<Changed, Error> {
    let known = Known::of(&call.head.headers)?;
    let until = Instant::now() + wait;
    let until = call.deadline.map_or(until, |deadline| until.min(deadline.into()));
    let mut room = None;
    loop {
        let swamp = call.swamp(name).await?;
        // Made before the look, so that nothing in between is missed.
        let changed = swamp.changed()?;
        let found = swamp.get(key)?;
        drop(swamp);
        if !known.is(found.as_ref()) {
            return Ok(Changed::To(found));
        }
        if Instant::now() >= until {
            return Ok(if found.is_some() { Changed::To(found) } else { Changed::StillAbsent });
        }
        if room.is_none() {
            room = Some(call.app.streams.enter()?);
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(until) => {}
            () = call.app.streams.ended() => {
                return Err(Error::new(ErrorCode::Draining, "this server is shutting down"));
            }
        }
    }
}
