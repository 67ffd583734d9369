//! The treasures of a swamp: `GET` and `HEAD` on `/v1/kv/{S}`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode};
use hydra_core::{Error, ErrorCode, ListQuery, Page, Swamp, SwampName};

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
    let (query, include) = wanted(name, call.head.uri.query())?;
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

fn wanted(name: &SwampName, text: Option<&str>) -> Result<(ListQuery, Include), Error> {
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
        after: query.text("cursor").map(|cursor| read_cursor(name, descending, cursor)).transpose()?,
        descending,
        limit,
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
    let more = page.more || shown < page.treasures.len();
    match page.treasures[..shown].last().filter(|_| more) {
        Some(last) => write_string(&mut out, &cursor(swamp.name(), query.descending, &last.key)),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(out)
}

/// Where the next page begins: the order, the swamp and the last key seen. It stays right whatever is written
/// meanwhile, and on any copy of the swamp.
fn cursor(name: &SwampName, descending: bool, key: &str) -> String {
    let mut bytes = vec![u8::from(descending)];
    bytes.extend_from_slice(&name.hash().to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(name: &SwampName, descending: bool, cursor: &str) -> Result<String, Error> {
    let refuse = |why: &str| {
        Error::new(ErrorCode::InvalidCursor, format!("the cursor {why}"))
            .with_hint("send nextCursor of the page before unchanged, to the same swamp and in the same order")
    };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refuse("cannot be read"))?;
    let (head, key) = bytes.split_at_checked(9).ok_or_else(|| refuse("cannot be read"))?;
    if head[1..] != name.hash().to_be_bytes() {
        return Err(refuse("belongs to another swamp"));
    }
    if head[0] != u8::from(descending) {
        return Err(refuse("belongs to a list in the other direction"));
    }
    let key = std::str::from_utf8(key).map_err(|_| refuse("cannot be read"))?;
    hydra_core::check_key(key).map_err(|_| refuse("cannot be read"))?;
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SwampName {
        text.parse().expect(text)
    }

    #[test]
    fn cursors_belong_to_one_swamp_and_one_direction() {
        let made = cursor(&name("a/b/c"), false, "kéy/1");
        assert_eq!(read_cursor(&name("a/b/c"), false, &made).expect("its own"), "kéy/1");
        assert!(read_cursor(&name("a/b/d"), false, &made).is_err());
        assert!(read_cursor(&name("a/b/c"), true, &made).is_err());
        for garbage in ["", "AA", "!!!", &made[..made.len() - 6]] {
            let error = read_cursor(&name("a/b/c"), true, garbage).expect_err(garbage);
            assert_eq!(error.code(), ErrorCode::InvalidCursor);
        }
    }

    #[test]
    fn limits_are_refused_not_clamped() {
        for query in ["limit=0", "limit=10001", "limit=-1", "limit=x", "order=created", "dir=up", "include=all"] {
            assert_eq!(wanted(&name("a/b/c"), Some(query)).expect_err(query).code(), ErrorCode::InvalidParameter);
        }
        assert_eq!(wanted(&name("a/b/c"), Some("limit=10000")).expect("the most").0.limit, 10_000);
        assert_eq!(wanted(&name("a/b/c"), None).expect("the default").0.limit, DEFAULT_LIST_LIMIT);
    }
}
