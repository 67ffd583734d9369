//! The treasures of all servers as one export: `GET /v1/export`.
//!
//! One range of folders after the other, each from whoever answers for it. What cannot be had is said in a line in its
//! place; the rest follows, and then the answer breaks off, so that nobody takes it for a whole one.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{NDJSON, Parameters, Problem, invalid_parameter, with_parameters};
use hydra_core::{Error, ErrorCode, Expired, FolderSet, Pattern, SwampName};
use hydra_sdk::ForwardedBody;
use serde::Deserialize;

use crate::across::{Across, Part};
use crate::answer::{Refusal, Response};
use crate::gateway::{Gateway, Head};
use crate::stream::answer_of;

/// No line of a server is longer: that of the longest binary value, and some room.
const LONGEST_LINE: usize = 40 << 20;
/// How a line begins that says what could not be sent.
const ERROR_LINE: &[u8] = b"{\"error\":";

/// Sends the treasures that were asked for.
pub(crate) async fn all(gateway: &Gateway, head: &Head) -> Result<Response, Refusal> {
    let query = Parameters::parse(head.parts.uri.query(), &["expired", "folders", "pattern"])?;
    let expired = match query.text("expired") {
        None => Expired::Hidden,
        Some("include") => Expired::Included,
        Some("only") => Expired::Only,
        Some(other) => {
            return Err(invalid_parameter("expired", &format!("is {other:?}; allowed are include and only")).into());
        }
    };
    let pattern: Pattern = query.text("pattern").unwrap_or("*/*/*").parse()?;
    let folders: Option<FolderSet> = query.value("folders", "folders as 57 or 50-74,80")?;
    let mut export = Export::new(Across::of(gateway, head)?, &pattern, folders.as_ref(), expired)?;
    // Had before anything is answered, so that what cannot be sent at all is refused.
    let first = export.piece().await.transpose()?.unwrap_or_default();
    let id = head.id.to_str().ok().map(str::to_owned);
    let sending = Sending { export, id, is_whole: true };
    let pieces = stream::once(std::future::ready(Ok(first))).chain(stream::unfold(sending, Sending::next));
    let mut response = answer_of(StatusCode::OK, pieces);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// An export on its way to its reader.
struct Sending {
    export: Export,
    /// The id of the request.
    id: Option<String>,
    is_whole: bool,
}

impl Sending {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Sending)> {
        match self.export.piece().await {
            Some(Ok(piece)) => Some((Ok(piece), self)),
            Some(Err(refusal)) => {
                tracing::warn!(error = %refusal.error, "an export is not whole");
                self.is_whole = false;
                Some((Ok(self.line_of(&refusal).into()), self))
            }
            None if self.is_whole => None,
            None => {
                // Said once; behind it there is nothing.
                self.is_whole = true;
                // hyper forgets what it has not sent when a body fails, and sends it when there is nothing to do.
                tokio::task::yield_now().await;
                Some((Err(std::io::Error::other("not everything could be sent")), self))
            }
        }
    }

    fn line_of(&self, refusal: &Refusal) -> Vec<u8> {
        let problem = Problem { folder: refusal.folder, instance: self.id.clone(), ..Problem::of(&refusal.error) };
        let mut line = serde_json::to_vec(&serde_json::json!({ "error": problem })).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The treasures of the swamps that match a pattern, from all servers, as lines.
#[derive(Debug)]
pub struct Export {
    across: Across,
    parameters: Vec<(&'static str, String)>,
    parts: VecDeque<Part>,
    /// What is being sent.
    current: Option<(Part, ForwardedBody)>,
    /// The beginning of a line.
    rest: Vec<u8>,
    ready: VecDeque<Result<Bytes, Refusal>>,
}

impl Export {
    /// Begins an export of all folders, or of some. The swamps of a folder come in no order, the treasures of a swamp in
    /// the order of their keys.
    ///
    /// # Errors
    /// `invalid-parameter` for folders that do not exist.
    pub fn new(
        across: Across,
        pattern: &Pattern,
        folders: Option<&FolderSet>,
        expired: Expired,
    ) -> Result<Export, Error> {
        let count = across.map.folders();
        let wanted = folders.cloned().unwrap_or_else(|| count.all());
        wanted
            .check(count)
            .map_err(|error| invalid_parameter("folders", &format!("is refused: {}", error.detail())))?;
        let mut parameters = vec![("pattern", pattern.to_string())];
        match expired {
            Expired::Hidden => {}
            Expired::Included => parameters.push(("expired", "include".to_owned())),
            Expired::Only => parameters.push(("expired", "only".to_owned())),
        }
        let parts = across.parts(&wanted).into_iter().flatten().collect();
        Ok(Export { across, parameters, parts, current: None, rest: Vec::new(), ready: VecDeque::new() })
    }

    /// The next whole lines; nothing at the end. An error is about some folders or a swamp, and what follows is the rest.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.piece().await.map(|piece| piece.map_err(|refusal| refusal.error))
    }

    async fn piece(&mut self) -> Option<Result<Bytes, Refusal>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let Some((_, body)) = &mut self.current else {
                let part = self.parts.pop_front()?;
                self.begin(part).await;
                continue;
            };
            match body.next().await {
                Some(Ok(piece)) => {
                    self.rest.extend_from_slice(piece.as_ref());
                    self.take_lines();
                }
                Some(Err(error)) => self.broke_off(&error.to_string()),
                None if self.rest.is_empty() => self.current = None,
                None => self.broke_off("it ends in the midst of a line"),
            }
        }
    }

    async fn begin(&mut self, part: Part) {
        let mut parameters = self.parameters.clone();
        parameters.push(("folders", part.text()));
        match self.across.read(&part, with_parameters("/v1/export", &parameters)).await {
            Ok(answer) => self.current = Some((part, answer.body)),
            Err(refused) => match part.one_by_one(&refused) {
                Some(singles) => singles.into_iter().rev().for_each(|single| self.parts.push_front(single)),
                None => self.ready.push_back(Err(refused)),
            },
        }
    }

    fn broke_off(&mut self, why: &str) {
        self.rest.clear();
        let Some((part, _)) = self.current.take() else { return };
        let detail = format!("the export of the folders {} of pool {} broke off: {why}", part.text(), part.pool);
        self.ready.push_back(Err(Error::new(ErrorCode::ServerUnreachable, detail).into()));
    }

    /// Gives out the lines that are here as a whole.
    fn take_lines(&mut self) {
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            if self.rest.len() > LONGEST_LINE {
                self.broke_off("it has a line without end");
            }
            return;
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let has_pools = self.across.map.pools().nth(1).is_some();
        if !has_pools && !lines.split_inclusive(|&byte| byte == b'\n').any(|line| line.starts_with(ERROR_LINE)) {
            self.ready.push_back(Ok(lines.into()));
            return;
        }
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            if line.starts_with(ERROR_LINE) {
                self.ready.push_back(Ok(std::mem::take(&mut out).into()));
                self.ready.push_back(Err(problem_of(line)));
                // What follows an error of a server is given out; that the answer then breaks off says nothing new.
            } else if self.is_of_its_pool(line) {
                out.extend_from_slice(line);
            }
        }
        self.ready.push_back(Ok(out.into()));
        self.ready.retain(|piece| piece.as_ref().map_or(true, |bytes| !bytes.is_empty()));
    }

    /// What a server has of another pool is not for it to give.
    fn is_of_its_pool(&self, line: &[u8]) -> bool {
        let Some((part, _)) = &self.current else { return true };
        let name = serde_json::from_slice::<OfSwamp<'_>>(line).ok().and_then(|line| line.swamp.parse().ok());
        name.is_none_or(|name: SwampName| self.across.map.route(&name).pool() == part.pool)
    }
}

/// As much of a line as it takes to know where it belongs.
#[derive(Deserialize)]
pub(crate) struct OfSwamp<'l> {
    #[serde(borrow)]
    pub(crate) swamp: Cow<'l, str>,
}

fn problem_of(line: &[u8]) -> Refusal {
    #[derive(Deserialize)]
    struct Failed {
        error: Problem,
    }
    match serde_json::from_slice::<Failed>(line) {
        Ok(Failed { error: problem }) => {
            let refusal = Refusal::from(problem.to_error());
            Refusal { folder: problem.folder, ..refusal }
        }
        Err(error) => {
            let detail = format!("a server could not send everything, and why cannot be read: {error}");
            Error::new(ErrorCode::ServerUnreachable, detail).into()
        }
    }
}
