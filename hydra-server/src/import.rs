//! Treasures into the server, one per line: `POST /v1/swamps/{S}/import` and `POST /v1/import`.
//!
//! The body is read while what came before it is written, a batch at a time, so that any length takes the same
//! memory. A body that is one short batch is answered as a whole. For a longer one the answer begins at once and
//! says how far the import is; its last line says what became of it.

mod line;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::StatusCode;
use hydra_core::wire::{ImportAnswerBody, ImportDoneBody, ImportProgressBody, Problem};
use hydra_core::{
    Batch, Committed, Error, ErrorCode, FolderState, FoundValue, IMPORT_BATCH_BYTES, IMPORT_BATCH_OPS, ImportMode,
    ImportTally, ImportValues, MAX_IMPORT_LINE_BYTES, Op, OpResult, SwampName,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::activity::StillReading;
use crate::answer::{self, Response};
use crate::app::{App, Call, by_size, hydrate, unexpected};
use crate::auth::{Access, Need, Scope};
use crate::body::RequestBody;
use crate::conditions::{body_encoding, no_conditions};
use crate::query::{Query, invalid};
use crate::route::shown;

/// What came is written when nothing more comes for this long.
const LINGER: Duration = Duration::from_millis(200);
/// How often the answer says how far the import is: at most, and at least.
const PROGRESS_MOST: Duration = Duration::from_millis(200);
const PROGRESS_LEAST: Duration = Duration::from_secs(5);
/// How many swamps are written to at once.
const SWAMPS_AT_ONCE: usize = 16;
/// How long an import waits while memory is short.
const PATIENCE: Duration = Duration::from_secs(20);
const MEMORY_AGAIN: Duration = Duration::from_millis(20);
/// How many lines of the answer wait for a reader; further progress is left out.
const LINES_WAITING: usize = 16;

/// Imports into one swamp.
pub(crate) async fn one(call: &mut Call, name: SwampName) -> Result<Response, Error> {
    import(call, Some(name)).await
}

/// Imports into the swamps that the lines name.
pub(crate) async fn all(call: &mut Call) -> Result<Response, Error> {
    import(call, None).await
}

async fn import(call: &mut Call, into: Option<SwampName>) -> Result<Response, Error> {
    let query = Query::parse(call.head.uri.query(), &["mode", "sync"])?;
    let mode = mode(&query)?;
    let sync = query.flag("sync")?;
    no_conditions(&call.head.headers)?;
    let is_gzip = body_encoding(&call.head.headers)?;
    let falls_back = call.falls_back()?.map(str::to_owned);
    let mut reader = Reader::new(call, into.clone(), mode);
    if is_gzip {
        reader.body.is_gzip();
    }
    let access = call.access.clone();
    let mut writer = Writer {
        access,
        app: Arc::clone(&call.app),
        only: into.is_some(),
        sync,
        falls_back,
        tally: ImportTally::default(),
    };
    let first = reader.part().await;
    if first.is_last() {
        return short(call, writer, first).await;
    }
    writer.tally = ImportTally::default();
    let (lines, waiting) = mpsc::channel(LINES_WAITING);
    let still_reading = StillReading::default();
    let run = Run { reader, writer, lines, blank: call.problem_of(&unexpected("")), told: None, bytes: 0 };
    tokio::spawn(run.finish(first, still_reading.clone()));
    let mut response = Response::new(Body::from_stream(answer_of(waiting)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, answer::NDJSON);
    response.extensions_mut().insert(still_reading);
    Ok(response)
}

fn mode(query: &Query<'_>) -> Result<ImportMode, Error> {
    let Some(text) = query.text("mode") else { return Ok(ImportMode::default()) };
    ImportMode::from_text(text)
        .ok_or_else(|| invalid("mode", &format!("is {}; allowed are create, upsert and newer", shown(text))))
}

/// Answers an import of one part: with everything in its head, and as an error when nothing of it was done.
async fn short(call: &mut Call, mut writer: Writer, part: Part) -> Result<Response, Error> {
    let mut outcome = writer.write(part.ops).await;
    outcome = outcome.and(part.broken.map_or(Ok(()), Err));
    let tally = &writer.tally;
    let mut answer = ImportAnswerBody { done: Some(ImportDoneBody::from(tally)), ..ImportAnswerBody::default() };
    match outcome {
        Err(error) if tally.lines == 0 => return Err(error),
        Err(error) => answer.error = Some(call.problem_of(&error)),
        Ok(()) => {}
    }
    call.mark(tally.durability);
    Ok(answer::body(StatusCode::OK, answer::NDJSON, line_of(&answer)))
}

/// The lines of the answer as they come. One that breaks off before its last line is no whole answer.
fn answer_of(waiting: mpsc::Receiver<AnswerLine>) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(Some(waiting), |waiting| async move {
        let Some(mut waiting) = waiting else { return Ok(None) };
        match waiting.recv().await {
            Some(AnswerLine { text, is_last: true }) => Ok(Some((text, None))),
            Some(AnswerLine { text, .. }) => Ok(Some((text, Some(waiting)))),
            None => Err(std::io::Error::other("the import ended without a result")),
        }
    })
}

#[derive(Debug)]
struct AnswerLine {
    text: Bytes,
    is_last: bool,
}

fn line_of(answer: &ImportAnswerBody) -> Bytes {
    // Numbers, texts and lists of them are always written.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// A long import.
struct Run {
    reader: Reader,
    writer: Writer,
    lines: mpsc::Sender<AnswerLine>,
    /// What every problem of this answer says.
    blank: Problem,
    told: Option<Instant>,
    bytes: u64,
}

impl Run {
    /// Reads a part while the one before it is written, until nothing more comes or something fails.
    async fn finish(mut self, first: Part, still_reading: StillReading) {
        let mut part = first;
        let outcome = loop {
            self.bytes = part.bytes;
            if part.is_last() {
                break self.writer.write(part.ops).await.and(part.broken.map_or(Ok(()), Err));
            }
            let (next, written) = futures_util::future::join(self.reader.part(), self.writer.write(part.ops)).await;
            if written.is_err() {
                break written;
            }
            self.tell();
            part = next;
        };
        self.reader.body.discard_rest();
        drop(still_reading);
        let done = ImportDoneBody::from(&self.writer.tally);
        let error = outcome.err().map(|error| {
            tracing::warn!(code = %error.code(), "an import ended early: {error}");
            let Problem { instance, folder, server, .. } = self.blank;
            Problem { instance, folder, server, ..Problem::of(&error) }
        });
        let text = line_of(&ImportAnswerBody { done: Some(done), error, progress: None });
        // Whoever is gone does not want to know.
        let _ = self.lines.send(AnswerLine { text, is_last: true }).await;
    }

    /// Says how far it is, if that was not said just now. Nobody waits for a peer that does not read.
    fn tell(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < PROGRESS_MOST) {
            return;
        }
        self.told = Some(Instant::now());
        let ImportTally { lines, written, .. } = self.writer.tally;
        let progress = Some(ImportProgressBody { lines, written, bytes: self.bytes });
        let text = line_of(&ImportAnswerBody { progress, ..ImportAnswerBody::default() });
        let _ = self.lines.try_send(AnswerLine { text, is_last: false });
    }
}

/// The number of a line, and what it asks for or what is wrong with it.
type Asked = (u64, Result<(SwampName, Op), Error>);

/// What is written at once: each line with its number, and what it asks for or what is wrong with it.
#[derive(Debug, Default)]
struct Part {
    ops: Vec<Asked>,
    /// How many bytes of the body came so far.
    bytes: u64,
    is_end: bool,
    /// Why nothing more comes.
    broken: Option<Error>,
}

impl Part {
    fn is_last(&self) -> bool {
        self.is_end || self.broken.is_some()
    }
}

/// Takes the body apart.
struct Reader {
    app: Arc<App>,
    body: RequestBody,
    values: ImportValues,
    into: Option<SwampName>,
    mode: ImportMode,
    bytes: u64,
    last_piece: Instant,
    /// What a long line takes of the memory for bodies.
    held: Option<OwnedSemaphorePermit>,
}

impl Reader {
    fn new(call: &mut Call, into: Option<SwampName>, mode: ImportMode) -> Reader {
        Reader {
            app: Arc::clone(&call.app),
            body: call.take_body(),
            values: ImportValues::new(MAX_IMPORT_LINE_BYTES),
            into,
            mode,
            bytes: 0,
            last_piece: Instant::now(),
            held: None,
        }
    }

    /// As much as is written at once, or what there is when nothing more comes for a while.
    async fn part(&mut self) -> Part {
        let mut part = Part::default();
        let mut size = 0;
        let begun = Instant::now();
        let outcome = loop {
            while let Some(found) = self.values.next() {
                size += self.take(found, &mut part).await;
                if part.ops.len() >= IMPORT_BATCH_OPS || size >= IMPORT_BATCH_BYTES {
                    part.bytes = self.bytes;
                    return part;
                }
            }
            match self.piece().await {
                Ok(Next::Piece(bytes)) => self.values.push(&bytes),
                Ok(Next::End) => break Ok(true),
                Ok(Next::Nothing) if part.ops.is_empty() && begun.elapsed() < PROGRESS_LEAST => {}
                Ok(Next::Nothing) => break Ok(false),
                Err(error) => break Err(error),
            }
            if let Err(error) = self.cover() {
                break Err(error);
            }
        };
        match outcome {
            Ok(true) => {
                if let Some(found) = self.values.end() {
                    self.take(found, &mut part).await;
                }
                part.is_end = true;
            }
            Ok(false) => {}
            Err(error) => part.broken = Some(error),
        }
        part.bytes = self.bytes;
        part
    }

    async fn take(&mut self, found: FoundValue, part: &mut Part) -> usize {
        let (size, op) = match found.record {
            Err(bad) => (0, Err(bad.to_error(MAX_IMPORT_LINE_BYTES))),
            Ok(range) => {
                let (size, into, mode) = (range.len(), self.into.as_ref(), self.mode);
                let text = self.values.text(range);
                const QUICK: usize = 256 << 10;
                if size <= QUICK {
                    (size, line::read(text, into, mode))
                } else {
                    let (text, into) = (text.to_vec(), into.cloned());
                    (size, by_size(size, move || line::read(&text, into.as_ref(), mode)).await)
                }
            }
        };
        part.ops.push((found.line, op));
        size
    }

    /// The next piece of the body, if one comes soon.
    async fn piece(&mut self) -> Result<Next, Error> {
        if self.app.is_draining() {
            return Err(Error::new(ErrorCode::Draining, "this server is shutting down"));
        }
        let pause = self.app.config.body_timeout;
        match tokio::time::timeout(LINGER, self.body.next(pause)).await {
            Ok(piece) => {
                self.last_piece = Instant::now();
                let Some(piece) = piece? else { return Ok(Next::End) };
                self.bytes += piece.len() as u64;
                Ok(Next::Piece(piece))
            }
            Err(_) if self.last_piece.elapsed() < pause => Ok(Next::Nothing),
            Err(_) => {
                let detail = format!("the body paused for more than {} s", pause.as_secs());
                Err(Error::new(ErrorCode::InvalidBody, detail))
            }
        }
    }

    /// Counts what is kept of a long line against the memory for all bodies.
    fn cover(&mut self) -> Result<(), Error> {
        let kept = self.values.kept() as u64;
        if kept < IMPORT_BATCH_BYTES as u64 {
            self.held = None;
        }
        self.app.bodies.cover(&mut self.held, kept)
    }
}

enum Next {
    Piece(Bytes),
    End,
    /// Not yet.
    Nothing,
}

/// Writes what was read, and counts what became of it.
struct Writer {
    app: Arc<App>,
    /// Whether the import is about one swamp.
    only: bool,
    sync: bool,
    /// The owner that does not answer, by the client's word.
    falls_back: Option<String>,
    access: Access,
    tally: ImportTally,
}

/// The lines of a part that are about one swamp, in order.
type Group = (SwampName, Vec<u64>, Vec<Op>);
type Settled = Vec<(u64, Result<OpResult, Error>)>;

impl Writer {
    /// Writes a part.
    ///
    /// # Errors
    /// What keeps the server from writing at all. Other lines of the part may have been written; those are counted.
    async fn write(&mut self, ops: Vec<Asked>) -> Result<(), Error> {
        let mut settled: Settled = Vec::with_capacity(ops.len());
        let mut failure = None;
        let groups = self.groups(ops, &mut settled);
        let (app, sync) = (&self.app, self.sync);
        let writes = groups.into_iter().map(|(name, lines, ops)| async move {
            let outcome = write_group(app, &name, ops, sync).await;
            (lines, outcome)
        });
        let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(SWAMPS_AT_ONCE).collect().await;
        for (lines, outcome) in outcomes {
            match outcome {
                Ok(Committed { results, durability, .. }) => {
                    self.tally.note(durability);
                    settled.extend(lines.into_iter().zip(results));
                }
                Err(error) if self.only || is_of_the_server(&error) => failure = failure.or(Some(error)),
                Err(error) => settled.extend(lines.into_iter().map(|line| (line, Err(error.clone())))),
            }
        }
        settled.sort_unstable_by_key(|(line, _)| *line);
        settled.into_iter().for_each(|(line, result)| self.tally.settle(line, result));
        failure.map_or(Ok(()), Err)
    }

    /// The writes of each swamp. Lines that ask for none are settled.
    fn groups(&self, ops: Vec<Asked>, settled: &mut Settled) -> Vec<Group> {
        let mut places: HashMap<SwampName, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for (line, op) in ops {
            match op.and_then(|(name, op)| self.admit(&name).map(|()| (name, op))) {
                Err(error) => settled.push((line, Err(error))),
                Ok((name, op)) => {
                    let place = *places.entry(name).or_insert_with_key(|name| {
                        groups.push((name.clone(), Vec::new(), Vec::new()));
                        groups.len() - 1
                    });
                    groups[place].1.push(line);
                    groups[place].2.push(op);
                }
            }
        }
        groups
    }

    /// Whether the client says that the owner of a copy does not answer.
    fn stands_in_for(&self, owner: Option<&str>) -> bool {
        self.falls_back.as_deref().is_some_and(|away| owner.is_none_or(|owner| owner == away))
    }

    /// Whether this server takes writes for the swamp.
    fn admit(&self, name: &SwampName) -> Result<(), Error> {
        self.access.check(&Need::on_swamp(&[Scope::Write], name))?;
        let engine = &self.app.engine;
        let folder = engine.folder_of(name);
        match engine.folder_state(folder) {
            FolderState::Owned { .. } => Ok(()),
            FolderState::Standby { of, .. } if self.stands_in_for(of.as_deref()) => Ok(()),
            FolderState::Standby { of: None, .. } => {
                let detail = format!("this server keeps a copy of folder {folder}; send {name} to the owner");
                Err(Error::new(ErrorCode::NotOwner, detail))
            }
            _ => Err(engine.not_served(folder)),
        }
    }
}

/// Whether a failure is not about the swamp it met.
fn is_of_the_server(error: &Error) -> bool {
    use ErrorCode::{Busy, DiskFull, Draining, Internal, Io, Overloaded, Starting};
    matches!(error.code(), Busy | DiskFull | Draining | Internal | Io | Overloaded | Starting)
}

/// Writes to one swamp; memory that is short is waited for.
async fn write_group(app: &App, name: &SwampName, ops: Vec<Op>, sync: bool) -> Result<Committed, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let is_late = Instant::now() >= until;
        let outcome = match app.engine.has_room() || is_late {
            true => {
                let swamp = match app.engine.resident(name) {
                    Some(swamp) => Ok(swamp),
                    None => hydrate(&app.engine, name, None).await,
                };
                match swamp {
                    Ok(swamp) => swamp.write(Batch { ops: ops.clone(), sync, ..Batch::default() }).await,
                    Err(error) => Err(error),
                }
            }
            false => Err(Error::new(ErrorCode::Busy, "memory is short for now")),
        };
        match outcome {
            Err(error) if error.code() == ErrorCode::Busy && !is_late => tokio::time::sleep(MEMORY_AGAIN).await,
            outcome => return outcome,
        }
    }
}
