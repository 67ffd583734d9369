//! The swamps of all servers as one list: `GET /v1/swamps` and below it.
//!
//! Each folder is asked for where it is answered. A page goes on behind the folder and path of its last swamp, so that
//! it does not matter which server has that folder by then.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{
    ListedSwampBody, NDJSON, Parameters, SwampsBody, invalid_parameter, swamps_path, with_parameters,
};
use hydra_core::{Error, ErrorCode, FolderSet, SwampName, SwampsCursor, SwampsQuery};

use crate::across::{Across, Part};
use crate::answer::{self, Refusal, Response};
use crate::config::MAX_LIST_LIMIT;
use crate::gateway::{Gateway, Head};
use crate::stream::{accepts, answer_of};

/// How many ranges of folders are asked for at a time, ahead of what is given out.
const AHEAD: usize = 8;
/// The most swamps a server is asked for at once.
const PAGE: usize = 1_000;
/// How many swamps a page has unless told otherwise, as on servers.
const DEFAULT_LIMIT: usize = 100;
/// Lines are sent when they are so many bytes together.
const PIECE_BYTES: usize = 64 << 10;

/// One page of swamps, or all of them line by line.
pub(crate) async fn list(
    gateway: &Gateway,
    head: &Head,
    sanctuary: Option<String>,
    realm: Option<String>,
) -> Result<Response, Refusal> {
    let known = ["prefix", "folders", "limit", "cursor", "include"];
    let query = Parameters::parse(head.parts.uri.query(), &known)?;
    let allowed = format!("a number from 1 to {MAX_LIST_LIMIT}");
    let limit: Option<usize> = query.value("limit", &allowed)?;
    if let Some(limit) = limit.filter(|limit| !(1..=MAX_LIST_LIMIT).contains(limit)) {
        return Err(invalid_parameter("limit", &format!("is {limit}; allowed is {allowed}")).into());
    }
    let info = match query.text("include") {
        None | Some("names") => false,
        Some("info") => true,
        Some(other) => {
            return Err(invalid_parameter("include", &format!("is {other:?}; allowed are names and info")).into());
        }
    };
    let lines = accepts(&head.parts.headers, NDJSON);
    let wanted = SwampsQuery {
        sanctuary,
        realm,
        prefix: query.text("prefix").map(str::to_owned),
        folders: query.value("folders", "folders as 57 or 50-74,80")?,
        info,
        cursor: query.text("cursor").map(str::to_owned),
        limit: limit.unwrap_or(if lines { usize::MAX } else { DEFAULT_LIMIT }),
    };
    let mut listing = Listing::new(Across::of(gateway, head)?, wanted)?;
    if lines { listing.lines().await } else { answer::json(StatusCode::OK, &listing.page().await?) }
}

/// The swamps of all servers, by folder and then by path, each once.
///
/// Swamps that come or go meanwhile may be there or not.
pub struct Listing {
    across: Across,
    query: Arc<SwampsQuery>,
    /// The sources of the next folders, each with its first swamps.
    ahead: Pin<Box<dyn Stream<Item = Result<Vec<Source>, Refusal>> + Send>>,
    /// Where the swamps of the folders come from that are being listed.
    sources: Vec<Source>,
    last: Option<SwampsCursor>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("query", &self.query).finish_non_exhaustive()
    }
}

/// The swamps of some folders of a pool, at the server that answers for them.
struct Source {
    part: Part,
    found: VecDeque<(SwampsCursor, ListedSwampBody)>,
    /// Where that server goes on.
    cursor: Option<String>,
    is_over: bool,
}

impl Listing {
    /// Begins a list; `query` says which swamps, and where to go on. Its limit counts for one page alone.
    ///
    /// # Errors
    /// `invalid-cursor` for a cursor of another list; `invalid-parameter` for folders that do not exist.
    pub fn new(across: Across, query: SwampsQuery) -> Result<Listing, Error> {
        let count = across.map.folders();
        let wanted = query.folders.clone().unwrap_or_else(|| count.all());
        wanted
            .check(count)
            .map_err(|error| invalid_parameter("folders", &format!("is refused: {}", error.detail())))?;
        let after = query.cursor.as_deref().map(|text| SwampsCursor::read(text, &query)).transpose()?;
        let first = after.as_ref().map_or(0, |after| after.folder().get());
        let left: FolderSet = wanted.iter().filter(|folder| folder.get() >= first).collect();
        let query = Arc::new(query);
        let (asking, asked) = (across.clone(), Arc::clone(&query));
        let begin = move |parts: Vec<Part>| begin(asking.clone(), Arc::clone(&asked), parts);
        let ahead = stream::iter(across.parts(&left)).map(begin).buffered(AHEAD).boxed();
        Ok(Listing { across, query, ahead, sources: Vec::new(), last: after })
    }

    /// The next swamp; nothing behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<ListedSwampBody>, Refusal> {
        loop {
            while let Some(at) = self.sources.iter().position(|source| source.found.is_empty() && !source.is_over) {
                let source = self.sources.swap_remove(at);
                self.sources.extend(source.filled(&self.across, &self.query).await?);
            }
            let nearest = self.sources.iter_mut().filter(|source| !source.found.is_empty());
            if let Some(source) = nearest.min_by(|a, b| a.found[0].0.cmp(&b.found[0].0)) {
                let next = source.found.pop_front();
                return Ok(next.map(|(at, listed)| {
                    self.last = Some(at);
                    listed
                }));
            }
            match self.ahead.next().await.transpose()? {
                Some(sources) => self.sources = sources,
                None => return Ok(None),
            }
        }
    }

    /// The next swamp; nothing behind the last.
    ///
    /// # Errors
    /// When a server could not be reached, or refused: the list is not whole then.
    pub async fn try_next(&mut self) -> Result<Option<ListedSwampBody>, Error> {
        self.next().await.map_err(|refusal| refusal.error)
    }

    /// Where a list goes on behind the last swamp that was given out: [`SwampsQuery::cursor`] of the same query.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        self.last.as_ref().map(|last| last.write(&self.query))
    }

    async fn page(&mut self) -> Result<SwampsBody, Refusal> {
        let mut swamps = Vec::new();
        while swamps.len() < self.query.limit {
            match self.next().await? {
                Some(listed) => swamps.push(listed),
                None => return Ok(SwampsBody { swamps, next_cursor: None }),
            }
        }
        let cursor = self.cursor();
        let has_more = self.next().await?.is_some();
        Ok(SwampsBody { swamps, next_cursor: cursor.filter(|_| has_more) })
    }

    /// The lines of an answer, the first of them before it begins: what cannot be listed at all is refused.
    async fn lines(self) -> Result<Response, Refusal> {
        let left = self.query.limit;
        let first = lines(self, left).await?;
        let rest = stream::try_unfold(first.1, |state| async move {
            let Some((listing, left)) = state else { return Ok(None) };
            let (piece, state) = lines(listing, left).await.map_err(|refusal| refusal.error)?;
            Ok((!piece.is_empty()).then_some((piece, state)))
        });
        let rest = rest.map_err(|error: Error| {
            tracing::warn!(%error, "a list of swamps was broken off");
            std::io::Error::other(error)
        });
        let pieces = stream::once(std::future::ready(Ok(first.0))).chain(rest);
        let mut response = answer_of(StatusCode::OK, pieces);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        Ok(response)
    }
}

/// The next lines, and how to go on behind them unless that was all.
async fn lines(mut listing: Listing, mut left: usize) -> Result<(Bytes, Option<(Listing, usize)>), Refusal> {
    let mut out = Vec::new();
    while left > 0 && out.len() < PIECE_BYTES {
        let Some(listed) = listing.next().await? else { return Ok((out.into(), None)) };
        serde_json::to_writer(&mut out, &listed).map_err(unwritable)?;
        out.push(b'\n');
        left -= 1;
    }
    Ok((out.into(), (left > 0).then_some((listing, left))))
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("a line cannot be written: {error}"))
}

/// The sources of some folders, with their first swamps.
async fn begin(across: Across, query: Arc<SwampsQuery>, parts: Vec<Part>) -> Result<Vec<Source>, Refusal> {
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        let cursor = query.cursor.clone();
        let source = Source { part, found: VecDeque::new(), cursor, is_over: false };
        sources.extend(source.filled(&across, &query).await?);
    }
    Ok(sources)
}

impl Source {
    /// The same with its next swamps. Where its folders do not belong together any more: one for each of them.
    async fn filled(mut self, across: &Across, query: &SwampsQuery) -> Result<Vec<Source>, Refusal> {
        let parts = match self.fill(across, query).await {
            Ok(()) => return Ok(vec![self]),
            Err(refused) => self.part.one_by_one(&refused).ok_or(refused)?,
        };
        let mut sources = Vec::with_capacity(parts.len());
        for part in parts {
            let mut single = Source { part, found: VecDeque::new(), cursor: self.cursor.clone(), is_over: false };
            single.fill(across, query).await?;
            sources.push(single);
        }
        Ok(sources)
    }

    /// Asks until there is a swamp, or no more. What a token may not see is left out of a page.
    async fn fill(&mut self, across: &Across, query: &SwampsQuery) -> Result<(), Refusal> {
        while self.found.is_empty() && !self.is_over {
            let target = self.target(query);
            let answer = across.read(&self.part, target).await?;
            let body = answer.body.collect().await.map_err(|error| unreadable(&error))?;
            let body: SwampsBody = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
            for listed in body.swamps {
                let name: SwampName = listed.name.parse()?;
                // What a server has of another pool is not for it to list.
                if across.map.route(&name).pool() == self.part.pool {
                    self.found.push_back((SwampsCursor::at(&name, listed.folder), listed));
                }
            }
            self.is_over = body.next_cursor.is_none();
            self.cursor = body.next_cursor;
        }
        Ok(())
    }

    fn target(&self, query: &SwampsQuery) -> String {
        let limit = query.limit.saturating_add(1).min(PAGE);
        let mut parameters = vec![("folders", self.part.text()), ("limit", limit.to_string())];
        parameters.extend(query.prefix.clone().map(|prefix| ("prefix", prefix)));
        parameters.extend(self.cursor.clone().map(|cursor| ("cursor", cursor)));
        parameters.extend(query.info.then(|| ("include", "info".to_owned())));
        with_parameters(&swamps_path(query.sanctuary.as_deref(), query.realm.as_deref()), &parameters)
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::ServerUnreachable, format!("the list of a server is not understood: {why}"))
}
