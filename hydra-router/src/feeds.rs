//! Feeds of many swamps: events are numbered by the process that tells them, so one feed is one server's.

use http::request::Parts;
use hydra_core::wire::decode_segment;
use hydra_core::{Error, ErrorCode, SwampName};

use crate::gateway::Gateway;

/// One of the swamps of a feed, when one server answers for all of them.
///
/// # Errors
/// `invalid-parameter` where that is not so, or cannot be said.
pub(crate) fn one_place(gateway: &Gateway, head: &Parts) -> Result<SwampName, Error> {
    let query = head.uri.query().unwrap_or_default();
    let pieces = query.split('&').filter_map(|piece| piece.strip_prefix("swamp="));
    let names = pieces.map(name_of).collect::<Result<Vec<SwampName>, Error>>()?;
    let refuse = |detail: &str| {
        Error::new(ErrorCode::InvalidParameter, detail)
            .with_hint("open one feed at each server; GET /v1/resolve/{sanctuary}/{realm}/{swamp} says which")
    };
    let Some(first) = names.first() else {
        return Err(refuse("the parameter swamp is missing; through a router a feed names its swamps"));
    };
    let map = gateway.map();
    let server = |name| &map.route(name).primary().id;
    match names.iter().find(|name| server(name) != server(first)) {
        None => Ok(first.clone()),
        Some(other) => Err(refuse(&format!("{first} is on {}, {other} on {}", server(first), server(other)))),
    }
}

fn name_of(raw: &str) -> Result<SwampName, Error> {
    let refuse = |why| Error::new(ErrorCode::InvalidParameter, format!("the parameter swamp {why}"));
    decode_segment(&raw.replace('+', " ")).map_err(refuse)?.parse()
}
