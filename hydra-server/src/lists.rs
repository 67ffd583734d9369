//! The treasures of a swamp: `GET` and `HEAD` on `/v1/kv/{S}`.

use http::{HeaderValue, StatusCode};
use hydra_core::{Error, ListQuery, Page, Swamp, SwampName};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::config::{DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT};
use crate::query::{Query, invalid};
use crate::render::{Include, write_string, write_treasure};
use crate::swamps::no_swamp;

/// Pages longer than this are put together where that keeps nobody waiting.
const QUICK_PAGE: usize = 1_000;

/// A page ends early rather than grow beyond this.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// One page of treasures in the order of their keys.
pub(crate) async fn list(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let (query, include) = wanted(call.head.uri.query())?;
    let swamp = call.swamp(name).await?;
    let text = if query.limit <= QUICK_PAGE {
        page(&swamp, &query, include)?
    } else {
        blocking(move || page(&swamp, &query, include)).await?
    };
    Ok(answer::body(StatusCode::OK, answer::JSON, text))
}

/// How many treasures there are.
pub(crate) async fn count(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let swamp = call.swamp(name).await?;
    let count = swamp.count();
    if count == 0 && swamp.info()?.is_none() {
        return Err(no_swamp(name));
    }
    let mut response = answer::empty(StatusCode::OK);
    response.headers_mut().insert(answer::COUNT, HeaderValue::from(count));
    Ok(response)
}

fn wanted(text: Option<&str>) -> Result<(ListQuery, Include), Error> {
    let query = Query::parse(text, &["order", "dir", "prefix", "limit", "cursor", "include"])?;
    if let Some(order) = query.text("order").filter(|order| *order != "key") {
        return Err(invalid("order", &format!("is {order:?}; allowed is key")));
    }
    let descending = match query.text("dir") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(other) => return Err(invalid("dir", &format!("is {other:?}; allowed are asc and desc"))),
    };
    let limits = format!("a number from 1 to {MAX_LIST_LIMIT}");
    let limit = query.value("limit", &limits)?.unwrap_or(DEFAULT_LIST_LIMIT);
    if !(1..=MAX_LIST_LIMIT).contains(&limit) {
        return Err(invalid("limit", &format!("is {limit}; allowed is {limits}")));
    }
    let include = match query.text("include") {
        None => Include::Full,
        Some(text) => Include::from_text(text)
            .ok_or_else(|| invalid("include", &format!("is {text:?}; allowed are full, values, meta and keys")))?,
    };
    let wanted = ListQuery {
        prefix: query.text("prefix").map(str::to_owned),
        cursor: query.text("cursor").map(str::to_owned),
        descending,
        limit,
        ..ListQuery::default()
    };
    Ok((wanted, include))
}

/// The page as text: the shape of [`hydra_core::wire::ListBody`].
fn page(swamp: &Swamp, query: &ListQuery, include: Include) -> Result<Vec<u8>, Error> {
    let page: Page = swamp.list(query)?;
    let exists = !page.treasures.is_empty() || swamp.info()?.is_some();
    let mut out = Vec::with_capacity(64 + page.treasures.len() * 256);
    out.extend_from_slice(format!("{{\"exists\":{exists},\"treasures\":[").as_bytes());
    let mut shown = 0;
    for treasure in &page.treasures {
        if shown > 0 {
            out.push(b',');
        }
        write_treasure(&mut out, treasure, include);
        shown += 1;
        if out.len() > MAX_PAGE_BYTES {
            break;
        }
    }
    out.extend_from_slice(b"],\"nextCursor\":");
    let more = page.next.is_some() || shown < page.treasures.len();
    match page.treasures[..shown].last().filter(|_| more) {
        Some(last) => write_string(&mut out, &query.cursor_behind(swamp.name(), last)),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use hydra_core::ErrorCode;

    use super::*;

    #[test]
    fn limits_are_refused_not_clamped() {
        for query in ["limit=0", "limit=10001", "limit=-1", "limit=x", "order=created", "dir=up", "include=all"] {
            assert_eq!(wanted(Some(query)).expect_err(query).code(), ErrorCode::InvalidParameter);
        }
        assert_eq!(wanted(Some("limit=10000")).expect("the most").0.limit, 10_000);
        assert_eq!(wanted(None).expect("the default").0.limit, DEFAULT_LIST_LIMIT);
    }
}
