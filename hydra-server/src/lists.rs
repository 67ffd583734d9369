//! The treasures of a swamp: `GET`, `HEAD` and `QUERY` on `/v1/kv/{S}`, and `POST /v1/swamps/{S}/query`.

mod wanted;

use bytes::Bytes;
use http::header::{LINK, VARY};
use http::{HeaderValue, StatusCode};
use hydra_core::{Engine, Error, ErrorCode, Swamp, SwampName, Treasure};

use crate::answer::{self, Response};
use crate::app::{self, Call, blocking};
use crate::body::Limit;
use crate::conditions::plain_body;
use crate::config::{MAX_QUERY_BODY_BYTES, MAX_URI_BYTES};
use crate::ndjson::{self, PIECE_BYTES, Piece};
use crate::query::Query;
use crate::render::{Include, write_string, write_treasure};
use crate::swamps::no_swamp;

use wanted::Wanted;

/// Pages longer than this are put together where that keeps nobody waiting.
const QUICK_PAGE: usize = 1_000;
/// A page ends early rather than grow beyond this.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// How many treasures are fetched at once for an answer of lines.
const LINES: usize = 512;

const QUERY_LIMIT: Limit =
    Limit { bytes: MAX_QUERY_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body of the query" };

/// One page of treasures as the parameters say.
pub(crate) async fn list(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let wanted = Wanted::of_parameters(call.head.uri.query())?;
    let path = call.head.uri.path_and_query().map(|target| target.as_str().to_owned());
    carry_out(call, name, wanted, path).await
}

/// The same as the body says.
pub(crate) async fn query(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    plain_body(&call.head.headers)?;
    let bytes = call.read_body(QUERY_LIMIT).await?;
    carry_out(call, name, Wanted::of_body(&bytes)?, None).await
}

/// How many treasures there are, or meet the conditions.
pub(crate) async fn count(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    let query = Wanted::of_count(call.head.uri.query())?;
    let swamp = call.swamp(name).await?;
    let is_everything = call.head.uri.query().is_none_or(str::is_empty);
    let (count, exists) = if is_everything {
        (swamp.count(), exists(&swamp)?)
    } else {
        blocking(move || Ok((swamp.count_matching(&query)?, exists(&swamp)?))).await?
    };
    if !exists {
        return Err(no_swamp(name));
    }
    let mut response = answer::empty(StatusCode::OK);
    response.headers_mut().insert(answer::COUNT, HeaderValue::from(count));
    Ok(response)
}

/// `path` is where the next page is found by its cursor.
async fn carry_out(call: &mut Call, name: &SwampName, wanted: Wanted, path: Option<String>) -> Result<Response, Error> {
    let swamp = call.swamp(name).await?;
    if !wanted.keys.is_empty() {
        let text = blocking(move || picked(&swamp, &wanted)).await?;
        return Ok(answer::body(StatusCode::OK, answer::JSON, text));
    }
    if ndjson::is_wanted(&call.head.headers) {
        // Whoever reads slowly must not keep the swamp in memory: it is looked up anew for each piece.
        drop(swamp);
        return ndjson::answer(Lines::new(call.app.engine.clone(), name.clone(), wanted), Lines::next).await;
    }
    let query = &wanted.query;
    let is_quick = query.limit <= QUICK_PAGE && query.filter.is_none() && swamp.is_ordered(&query.order);
    let (text, next) = if is_quick { page(&swamp, &wanted)? } else { blocking(move || page(&swamp, &wanted)).await? };
    let mut response = answer::body(StatusCode::OK, answer::JSON, text);
    response.headers_mut().insert(VARY, answer::BY_ACCEPT);
    if let Some(link) = next.zip(path).and_then(|(cursor, path)| next_link(&path, &cursor)) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// The same path with another cursor. Where that would be too long to be asked for there is no link.
fn next_link(path: &str, cursor: &str) -> Option<HeaderValue> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let kept = query.split('&').filter(|piece| !piece.is_empty() && !piece.starts_with("cursor="));
    let query = kept.chain([format!("cursor={cursor}").as_str()]).collect::<Vec<_>>().join("&");
    let target = format!("{path}?{query}");
    (target.len() <= MAX_URI_BYTES).then(|| answer::ascii(format!("<{target}>; rel=\"next\"")))
}

/// Whether there is a swamp, also one without treasures.
fn exists(swamp: &Swamp) -> Result<bool, Error> {
    Ok(swamp.count() > 0 || swamp.info()?.is_some())
}

/// The page as text, the shape of [`hydra_core::wire::ListBody`], and the cursor of the next one.
fn page(swamp: &Swamp, wanted: &Wanted) -> Result<(Vec<u8>, Option<String>), Error> {
    let page = swamp.list(&wanted.query)?;
    let mut out = begin(swamp, page.treasures.len())?;
    let shown = write_treasures(&mut out, &page.treasures, wanted.include);
    out.extend_from_slice(b"],\"nextCursor\":");
    let is_cut = shown < page.treasures.len();
    let last = page.treasures[..shown].last().filter(|_| is_cut);
    let next = last.map(|last| wanted.query.cursor_behind(swamp.name(), last)).or(page.next);
    match &next {
        Some(cursor) => write_string(&mut out, cursor),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok((out, next))
}

/// The treasures of the keys that were asked for one by one.
fn picked(swamp: &Swamp, wanted: &Wanted) -> Result<Vec<u8>, Error> {
    let (found, missing) = swamp.pick(&wanted.keys, wanted.query.expired)?;
    let mut out = begin(swamp, found.len())?;
    if write_treasures(&mut out, &found, wanted.include) < found.len() {
        let detail = format!("the treasures asked for have more than {MAX_PAGE_BYTES} bytes; ask for fewer keys");
        return Err(Error::new(ErrorCode::InvalidParameter, format!("the parameter key: {detail}")));
    }
    out.extend_from_slice(b"],\"nextCursor\":null,\"missing\":[");
    for (at, key) in missing.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(&mut out, key);
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

fn begin(swamp: &Swamp, found: usize) -> Result<Vec<u8>, Error> {
    let exists = found > 0 || exists(swamp)?;
    let mut out = Vec::with_capacity(64 + found * 256);
    out.extend_from_slice(format!("{{\"exists\":{exists},\"treasures\":[").as_bytes());
    Ok(out)
}

/// Writes treasures until the page is long enough; answers how many there are.
fn write_treasures(out: &mut Vec<u8>, treasures: &[Treasure], include: Include) -> usize {
    for (at, treasure) in treasures.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_treasure(out, treasure, include);
        if out.len() > MAX_PAGE_BYTES {
            return at + 1;
        }
    }
    treasures.len()
}

/// A list that is answered line by line.
struct Lines {
    engine: Engine,
    name: SwampName,
    wanted: Wanted,
    /// How many more are wanted; 0 when the last was written.
    left: usize,
}

impl Lines {
    fn new(engine: Engine, name: SwampName, wanted: Wanted) -> Lines {
        let left = if wanted.is_limited { wanted.query.limit } else { usize::MAX };
        Lines { engine, name, wanted, left }
    }

    async fn next(self) -> Result<Piece<Lines>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let swamp = app::swamp(&self.engine, &self.name).await?;
        blocking(move || self.piece(&swamp)).await
    }

    fn piece(mut self, swamp: &Swamp) -> Result<Piece<Lines>, Error> {
        self.wanted.query.limit = self.left.min(LINES);
        let page = swamp.list(&self.wanted.query)?;
        let mut out = Vec::new();
        let mut shown = 0;
        for treasure in &page.treasures {
            write_line(&mut out, treasure, self.wanted.include);
            shown += 1;
            if out.len() >= PIECE_BYTES {
                break;
            }
        }
        let is_cut = shown < page.treasures.len();
        let last = page.treasures[..shown].last().filter(|_| is_cut);
        let next = last.map(|last| self.wanted.query.cursor_behind(&self.name, last)).or(page.next);
        self.left = if next.is_some() { self.left - shown } else { 0 };
        self.wanted.query.cursor = next;
        Ok((shown > 0).then(|| (Bytes::from(out), self)))
    }
}

fn write_line(out: &mut Vec<u8>, treasure: &Treasure, include: Include) {
    let start = out.len();
    write_treasure(out, treasure, include);
    // JSON may be written over several lines. Within strings there are no line breaks.
    out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    out.push(b'\n');
}
