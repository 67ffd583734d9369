//! Queues: `POST /v1/swamps/{S}/shift`.

use std::time::Duration;

use http::StatusCode;
use hydra_core::duration::parse_duration;
use hydra_core::{Error, ErrorCode, MAX_SHIFT, Order, Shift, ShiftRequest, SwampName, Treasure};

use crate::answer::{self, Response};
use crate::app::{Call, by_size};
use crate::body::Limit;
use crate::conditions::no_conditions;
use crate::config::MAX_SMALL_BODY_BYTES;
use crate::query::{Query, invalid};
use crate::render::{Include, write_treasure};
use crate::waits::wait_of;

const NO_BODY: Limit =
    Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of a shift" };

/// Takes the first treasures of an order.
pub(crate) async fn shift(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let wanted = wanted(call.head.uri.query())?;
    no_conditions(&call.head.headers)?;
    if !call.read_body(NO_BODY).await?.is_empty() {
        return Err(Error::new(ErrorCode::InvalidBody, "a shift takes no body; everything is in the query"));
    }
    let idempotency = call.idempotency(&[])?;
    // Whoever waits needs room, as with any long poll.
    let _room = if wanted.wait.is_zero() { None } else { Some(call.app.streams.enter()?) };
    let shifted = call.app.engine.shift(name, ShiftRequest { idempotency, deadline: call.deadline, ..wanted }).await?;
    call.mark_written(shifted.durability, shifted.replayed);
    let length = shifted.treasures.iter().map(|treasure| treasure.value.len()).sum();
    let text = by_size(length, move || Ok(body(&shifted.treasures))).await?;
    Ok(answer::body(StatusCode::OK, answer::JSON, text))
}

/// The shape of [`hydra_core::wire::ShiftBody`].
fn body(treasures: &[Treasure]) -> Vec<u8> {
    let mut out = b"{\"treasures\":[".to_vec();
    for (at, treasure) in treasures.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_treasure(&mut out, treasure, Include::Full);
    }
    out.extend_from_slice(b"]}");
    out
}

fn wanted(text: Option<&str>) -> Result<ShiftRequest, Error> {
    let query = Query::parse(text, &["n", "by", "dir", "only", "lease", "wait", "sync"])?;
    let mut shift = Shift::default();
    let counts = format!("a number from 1 to {MAX_SHIFT}");
    if let Some(take) = query.value("n", &counts)? {
        if !(1..=MAX_SHIFT).contains(&take) {
            return Err(invalid("n", &format!("is {take}; allowed is {counts}")));
        }
        shift.take = take;
    }
    if let Some(by) = query.text("by") {
        shift.order = by.parse::<Order>().map_err(|error| invalid("by", &format!("is wrong: {}", error.detail())))?;
    }
    shift.descending = match query.text("dir") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(other) => return Err(invalid("dir", &format!("is {other:?}; allowed are asc and desc"))),
    };
    shift.due = match query.text("only") {
        None => false,
        Some("due") => true,
        Some(other) => return Err(invalid("only", &format!("is {other:?}; allowed is due"))),
    };
    shift.lease = duration(&query, "lease")?;
    shift.check()?;
    let wait = wait_of(&query)?.unwrap_or_default();
    Ok(ShiftRequest { shift, wait, sync: query.flag("sync")?, ..ShiftRequest::default() })
}

fn duration(query: &Query<'_>, name: &str) -> Result<Option<Duration>, Error> {
    let read = |text| parse_duration(text).map_err(|error| invalid(name, &format!("is wrong: {}", error.detail())));
    query.text(name).map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_each_limit_is_named() {
        let read = wanted(Some("n=10&by=value:/p&dir=desc&only=due&lease=30s&wait=20s&sync")).expect("reads");
        assert_eq!((read.shift.take, read.shift.descending, read.shift.due, read.sync), (10, true, true, true));
        assert_eq!((read.shift.lease, read.wait), (Some(Duration::from_secs(30)), Duration::from_secs(20)));
        assert_eq!(wanted(None).expect("the defaults").shift, Shift::default());
        for (query, named) in [
            ("n=0", "n is"),
            ("n=1001", "1000"),
            ("n=x", "n is"),
            ("by=size", "by is"),
            ("by=value:x", "by is"),
            ("dir=up", "dir is"),
            ("only=all", "only is"),
            ("lease=0", "lease"),
            ("lease=25h", "24h"),
            ("lease=soon", "lease is"),
            ("wait=61s", "wait is"),
        ] {
            let error = wanted(Some(query)).expect_err(query);
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{query}");
            assert!(error.detail().contains(named), "{query}: {error}");
        }
        assert_eq!(wanted(Some("leese=1")).expect_err("a typo").hint(), Some("did you mean lease?"));
    }
}
