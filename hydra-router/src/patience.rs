//! How long a server is asked to wait before it answers: a try must not end before that, and lasts no longer than
//! the client gives it. Pure.
//!
//! What a server would refuse counts as no wait.

use std::time::Duration;

use http::request::Parts;
use hydra_core::MAX_WAIT;
use hydra_core::duration::{as_text, parse_duration};
use serde::Deserialize;

/// The parameter `wait`.
pub(crate) fn wait_of_query(head: &Parts) -> Duration {
    let Some(query) = head.uri.query() else { return Duration::ZERO };
    let wait = query.split('&').filter_map(|piece| piece.split_once('=')).find(|(name, _)| *name == "wait");
    allowed(wait.and_then(|(_, wait)| parse_duration(wait).ok()).unwrap_or_default())
}

/// The member `wait` of a lock that is asked for.
pub(crate) fn wait_of_lock(body: &[u8]) -> Duration {
    #[derive(Deserialize)]
    struct Waiting {
        #[serde(default, with = "as_text")]
        wait: Duration,
    }
    allowed(serde_json::from_slice(body).map_or(Duration::ZERO, |Waiting { wait }| wait))
}

/// What is left of the time that a client gives a request, waits included: how much of it is for asking, and how much
/// for a server that waits. Without a limit the wait comes on top of what is usual.
pub(crate) fn share(given: Option<Duration>, wait: Duration) -> (Option<Duration>, Duration) {
    let wait = given.map_or(wait, |given| wait.min(given));
    (given.map(|given| given - wait), wait)
}

fn allowed(wait: Duration) -> Duration {
    if wait <= MAX_WAIT { wait } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_gives_is_all_there_is() {
        let seconds = Duration::from_secs;
        assert_eq!(share(None, seconds(20)), (None, seconds(20)));
        assert_eq!(share(Some(seconds(25)), seconds(20)), (Some(seconds(5)), seconds(20)));
        assert_eq!(share(Some(seconds(5)), seconds(20)), (Some(Duration::ZERO), seconds(5)));
        assert_eq!(share(Some(seconds(5)), Duration::ZERO), (Some(seconds(5)), Duration::ZERO));
    }

    #[test]
    fn waits_are_read_where_they_stand() {
        let query = |target: &str| {
            let request = http::Request::builder().uri(target).body(()).expect("a request");
            wait_of_query(&request.into_parts().0).as_millis()
        };
        assert_eq!([query("/s?n=1&wait=20s"), query("/s?wait=500ms"), query("/s")], [20_000, 500, 0]);
        assert_eq!([query("/s?wait=61s"), query("/s?wait=soon"), query("/s?wait")], [0, 0, 0]);
        assert_eq!(wait_of_lock(br#"{"ttl":"10s","wait":"5s"}"#), Duration::from_secs(5));
        assert_eq!(wait_of_lock(br#"{"ttl":"10s"}"#), Duration::ZERO);
        assert_eq!(wait_of_lock(b"no json"), Duration::ZERO);
    }
}
