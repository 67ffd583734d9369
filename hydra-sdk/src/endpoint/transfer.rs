//! Imports and exports on either endpoint.

use std::pin::Pin;

use futures_util::StreamExt;
use hydra_core::wire::{ImportAnswerBody, ImportDoneBody, ImportLineBody, Problem, TreasureBody, swamp_path};
use hydra_core::{
    Applied, Batch, Expired, Export, FolderId, ImportMode, ImportRecord, ImportTally, Pattern, SwampName, Timestamp,
    Value, Version,
};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Endpoint;
use super::embedded::{Embedded, blocking};
use super::remote::{from_body, unreadable};
use crate::binary;
use crate::cluster::{CallOptions, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::failover::Answered;
use crate::forward::{ForwardResponse, ForwardedBody};
use crate::outcome::{Answer, AnswerBody};
use crate::request::{Request, with_query};
use crate::settings::OpClass;
use crate::transfer::{ImportFailure, ImportOptions, Imported, Record};
use crate::treasure::Treasure;

/// The longest line of an export: that of the longest binary value, and some room.
const LONGEST_LINE: usize = 40 << 20;

/// What is exported.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One swamp.
    Swamp(SwampName),
    /// The swamps of a pattern in one folder of a pool.
    Folder(String, FolderId, Pattern),
    /// Those of all folders of the only server there is, or of this process.
    All(Pattern),
}

/// Some treasures of one swamp.
#[derive(Debug)]
pub(crate) struct ExportPart {
    pub(crate) swamp: SwampName,
    pub(crate) treasures: Vec<Treasure<Value>>,
}

/// An export under way.
pub(crate) enum Parts {
    Remote(Box<RemoteParts>),
    Embedded(Option<Box<Export>>),
}

/// Records with their numbers.
pub(crate) type Numbered = Vec<(u64, SwampName, Record)>;

impl Endpoint {
    /// What to ask for, so that everything that matches comes once.
    pub(crate) fn sources(&self, pattern: &Pattern) -> Vec<Source> {
        let Endpoint::Remote(cluster) = self else { return vec![Source::All(pattern.clone())] };
        let state = cluster.state();
        let Some(map) = state.map() else { return vec![Source::All(pattern.clone())] };
        let folders = map.folders().all();
        let of_pool = |pool: &str| {
            let pool = pool.to_owned();
            let source = |folder| Source::Folder(pool.clone(), folder, pattern.clone());
            folders.iter().map(source).collect::<Vec<_>>()
        };
        map.pools().flat_map(of_pool).collect()
    }

    pub(crate) async fn export(&self, source: Source, expired: Expired, options: CallOptions) -> Result<Parts> {
        match self {
            Endpoint::Remote(cluster) => {
                let mut parts =
                    RemoteParts { source, expired, options, after: None, body: None, rest: Vec::new(), stale: false };
                parts.ask(cluster).await?;
                Ok(Parts::Remote(Box::new(parts)))
            }
            Endpoint::Embedded(embedded) => {
                let engine = embedded.engine();
                let export = match source {
                    Source::Swamp(name) => engine.export(&name, None, expired),
                    Source::Folder(_, folder, pattern) => {
                        engine.export_folders(&[folder].into_iter().collect(), Some(pattern), expired)
                    }
                    Source::All(pattern) => engine.export_folders(&engine.folder_count().all(), Some(pattern), expired),
                };
                Ok(Parts::Embedded(Some(Box::new(export))))
            }
        }
    }

    /// The next parts; nothing at the end.
    pub(crate) async fn next_parts(&self, parts: &mut Parts) -> Result<Option<Vec<ExportPart>>> {
        match (self, parts) {
            (Endpoint::Remote(cluster), Parts::Remote(parts)) => parts.next(cluster).await,
            (_, Parts::Embedded(export)) => {
                let Some(mut under_way) = export.take() else { return Ok(None) };
                let (part, under_way) = blocking(move || Ok((under_way.next(), under_way))).await?;
                *export = Some(under_way);
                let Some(part) = part.transpose()? else { return Ok(None) };
                let treasures = part.treasures.into_iter().map(Treasure::from).collect();
                Ok(Some(vec![ExportPart { swamp: part.swamp, treasures }]))
            }
            (Endpoint::Embedded(_), Parts::Remote(_)) => Ok(None),
        }
    }

    /// Writes records; answers what became of them, with the numbers of those it is about.
    pub(crate) async fn import(&self, records: Numbered, options: &ImportOptions) -> Result<Vec<(Vec<u64>, Imported)>> {
        match self {
            Endpoint::Remote(cluster) => cluster.import(records, options).await,
            Endpoint::Embedded(embedded) => embedded.import(records, options).await,
        }
    }
}

impl Embedded {
    async fn import(&self, records: Numbered, options: &ImportOptions) -> Result<Vec<(Vec<u64>, Imported)>> {
        let mut settled = Vec::new();
        for (name, group) in grouped(records, |name| name.clone()) {
            let numbers: Vec<u64> = group.iter().map(|(number, ..)| *number).collect();
            let mut tally = ImportTally::default();
            let (mut lines, mut ops) = (Vec::new(), Vec::new());
            for (line, (_, _, record)) in (1..).zip(group) {
                let Record { key, value, expires_at, updated_at } = record;
                match options.mode.op(ImportRecord { key, value, expires_at, updated_at }) {
                    Ok(op) => {
                        lines.push(line);
                        ops.push(op);
                    }
                    Err(error) => tally.settle(line, Err(error)),
                }
            }
            let (engine, sync) = (self.engine().clone(), options.sync);
            let written = blocking(move || engine.batch(&name, Batch { ops, sync, ..Batch::default() })).await?;
            lines.into_iter().zip(written.results).for_each(|(line, result)| tally.settle(line, result));
            settled.push((numbers, Imported::from(ImportDoneBody::from(&tally))));
        }
        Ok(settled)
    }
}

/// Records that go the same way, in the order they came.
fn grouped<K: PartialEq>(records: Numbered, way: impl Fn(&SwampName) -> K) -> Vec<(K, Numbered)> {
    let mut groups: Vec<(K, Numbered)> = Vec::new();
    for record in records {
        let key = way(&record.1);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(record),
            None => groups.push((key, vec![record])),
        }
    }
    groups
}

impl Cluster {
    async fn import(&self, records: Numbered, options: &ImportOptions) -> Result<Vec<(Vec<u64>, Imported)>> {
        let state = self.state();
        let groups = grouped(records, |name| state.way_of(name));
        let mut settled = Vec::with_capacity(groups.len());
        for (_, group) in groups {
            let numbers = group.iter().map(|(number, ..)| *number).collect();
            settled.push((numbers, self.import_group(group, options).await?));
        }
        Ok(settled)
    }

    /// Sends records that one server answers for.
    async fn import_group(&self, group: Numbered, options: &ImportOptions) -> Result<Imported> {
        let Some((_, name, _)) = group.first() else { return Ok(Imported::default()) };
        let name = name.clone();
        let is_one = group.iter().all(|(_, other, _)| *other == name);
        let mut body = Vec::new();
        for (_, swamp, record) in &group {
            let value = binary::to_json(&record.value)?;
            let line = ImportLineBody {
                swamp: (!is_one).then_some(swamp.as_str()),
                key: &record.key,
                value: &value,
                updated_at: record.updated_at,
                expires_at: record.expires_at,
            };
            serde_json::to_writer(&mut body, &line).map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("a record cannot be written as JSON: {error}"))
            })?;
            body.push(b'\n');
        }
        let path = if is_one { format!("{}/import", swamp_path(&name)) } else { "/v1/import".to_owned() };
        let mut query = vec![("mode", options.mode.as_str().to_owned())];
        query.extend(options.sync.then(|| ("sync", "true".to_owned())));
        let class = if options.mode == ImportMode::Upsert { OpClass::Overwrite } else { OpClass::Exclusive };
        let request = Request::new(class, Method::POST, with_query(path, &query)).body("application/x-ndjson", body);
        let call = CallOptions { is_bulk: true, ..options.call.clone() };
        let Answered { answer, .. } = self.call(&name, &request, &call).await?;
        if !answer.is_success() {
            return Err(answer.to_error());
        }
        let last = answer.bytes().split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        let ImportAnswerBody { error, done, .. } = serde_json::from_slice(last)
            .map_err(|error| unreadable(&error.to_string()).with_applied(Applied::Unknown))?;
        match (error, done) {
            (Some(problem), _) => Err(Error::from_problem(&problem).with_applied(Applied::Unknown)),
            (None, Some(done)) => Ok(done.into()),
            (None, None) => Err(unreadable("an import without a result").with_applied(Applied::Unknown)),
        }
    }
}

impl From<ImportDoneBody> for Imported {
    fn from(done: ImportDoneBody) -> Imported {
        let failure = |failed: hydra_core::wire::ImportErrorBody| ImportFailure {
            line: failed.line,
            code: failed.code,
            detail: failed.detail,
        };
        Imported {
            lines: done.lines,
            written: done.written,
            skipped: done.skipped,
            failed: done.failed,
            errors: done.errors.into_iter().map(failure).collect(),
        }
    }
}

/// An export of a server.
pub(crate) struct RemoteParts {
    source: Source,
    expired: Expired,
    options: CallOptions,
    /// The last key that came of a single swamp.
    after: Option<String>,
    body: Option<ForwardedBody>,
    /// The beginning of a line.
    rest: Vec<u8>,
    stale: bool,
}

impl RemoteParts {
    async fn ask(&mut self, cluster: &Cluster) -> Result<()> {
        let mut query: Vec<(&str, String)> = Vec::new();
        match self.expired {
            Expired::Hidden => {}
            Expired::Included => query.push(("expired", "include".to_owned())),
            Expired::Only => query.push(("expired", "only".to_owned())),
        }
        query.extend(self.after.clone().map(|after| ("after", after)));
        let options = CallOptions { is_bulk: true, ..self.options.clone() };
        let request = |path: String, query: &[(&str, String)]| {
            let mut request = Request::new(OpClass::Read, Method::GET, with_query(path, query));
            request.collect = false;
            request
        };
        let answered = match &self.source {
            Source::Swamp(name) => {
                cluster.call(name, &request(format!("{}/export", swamp_path(name)), &query), &options).await?
            }
            Source::Folder(pool, folder, pattern) => {
                query.extend([("folders", folder.to_string()), ("pattern", pattern.to_string())]);
                cluster.call_folder(pool, *folder, &request("/v1/export".to_owned(), &query), &options).await?
            }
            Source::All(pattern) => {
                query.push(("pattern", pattern.to_string()));
                let folder = FolderId::new(0);
                cluster.call_folder("default", folder, &request("/v1/export".to_owned(), &query), &options).await?
            }
        };
        self.stale = answered.answer.is_stale();
        let Answered { answer, server, .. } = answered;
        let (status, headers) = (answer.status, answer.headers.clone());
        let body = ForwardResponse::new(answer, server.id().to_owned()).body;
        if status != 200 {
            let bytes = body.collect().await.unwrap_or_default();
            return Err(Answer { status, headers, body: AnswerBody::Whole(bytes.into()) }.to_error());
        }
        self.rest.clear();
        self.body = Some(body);
        Ok(())
    }

    async fn next(&mut self, cluster: &Cluster) -> Result<Option<Vec<ExportPart>>> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            match Pin::new(body).next().await {
                Some(Ok(piece)) => {
                    self.rest.extend_from_slice(piece.as_ref());
                    let parts = self.whole_lines(cluster)?;
                    if !parts.is_empty() {
                        return Ok(Some(parts));
                    }
                }
                None if self.rest.is_empty() => {
                    self.body = None;
                    return Ok(None);
                }
                None => return Err(unreadable("an export that ends in the midst of a line")),
                // Whoever has seen a key can go on behind it, wherever it is answered.
                Some(Err(_)) if matches!(self.source, Source::Swamp(_)) && self.after.is_some() => {
                    self.ask(cluster).await?;
                }
                Some(Err(error)) => {
                    let detail = format!("the export of {} broke off: {error}", self.source);
                    return Err(Error::new(ErrorKind::Network, detail));
                }
            }
        }
    }

    /// The treasures of the lines that are here as a whole.
    fn whole_lines(&mut self, cluster: &Cluster) -> Result<Vec<ExportPart>> {
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            let is_long = self.rest.len() > LONGEST_LINE;
            return if is_long { Err(unreadable("a line without end")) } else { Ok(Vec::new()) };
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let state = cluster.state();
        let mut parts: Vec<ExportPart> = Vec::new();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|error| unreadable(&error.to_string()))?;
            if let Some(problem) = line.error {
                self.body = None;
                return Err(Error::from_problem(&problem));
            }
            let (swamp, treasure) = line.into_treasure(&self.source, self.stale)?;
            match &self.source {
                // What a server has of another pool is not for it to give.
                Source::Folder(pool, ..) if state.route(&swamp).pool() != pool => continue,
                Source::Swamp(_) => self.after = Some(treasure.key.clone()),
                _ => {}
            }
            match parts.last_mut().filter(|part| part.swamp == swamp) {
                Some(part) => part.treasures.push(treasure),
                None => parts.push(ExportPart { swamp, treasures: vec![treasure] }),
            }
        }
        Ok(parts)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Swamp(name) => write!(f, "{name}"),
            Source::Folder(_, folder, _) => write!(f, "folder {folder}"),
            Source::All(pattern) => write!(f, "{pattern}"),
        }
    }
}

/// A line of an export.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    swamp: Option<String>,
    error: Option<Problem>,
    key: Option<String>,
    value: Option<Box<RawValue>>,
    version: Option<Version>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

impl Line {
    fn into_treasure(self, source: &Source, stale: bool) -> Result<(SwampName, Treasure<Value>)> {
        let missing = || unreadable("a line without its members");
        let swamp = match (source, self.swamp) {
            (Source::Swamp(name), _) => name.clone(),
            (_, Some(swamp)) => swamp.parse()?,
            (_, None) => return Err(missing()),
        };
        let null = || RawValue::from_string("null".to_owned()).ok();
        let body = TreasureBody {
            key: self.key.ok_or_else(missing)?,
            // An absent value and null read the same here; no line lacks its value.
            value: self.value.or_else(null),
            version: self.version.ok_or_else(missing)?,
            created_at: self.created_at.ok_or_else(missing)?,
            updated_at: self.updated_at.ok_or_else(missing)?,
            expires_at: self.expires_at,
        };
        Ok((swamp, from_body(body, stale)?))
    }
}
