//! Treasures for all servers in one import: `POST /v1/import`.
//!
//! The lines are taken apart by who answers for their swamps, and sent on in parts while the next ones come in. A body
//! that is one short part is answered as a whole. For a longer one the answer begins at once and says how far the
//! import is; its last line says what became of it. A server that was not reached fails only the lines that are its own.

mod parts;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{
    Gunzip, ImportAnswerBody, ImportDoneBody, ImportErrorBody, ImportProgressBody, NDJSON, Parameters, Problem, header,
    invalid_parameter, swamp_path, with_parameters,
};
use hydra_core::{
    Applied, Error, ErrorCode, FolderId, ImportMode, MAX_IMPORT_ERRORS, MAX_IMPORT_LINE_BYTES, SwampName,
};
use hydra_sdk::OpClass;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::across::{Across, is_elsewhere, refusal_of};
use crate::answer::{self, Refusal, Response};
use crate::body::{KeptMemory, RequestBody, broken, is_gzip};
use crate::forward::whole;
use crate::gateway::{Gateway, Head, no_conditions};
use crate::peer::StillReading;
use crate::stream::answer_of;
pub use parts::{ImportLine, ImportParts};

/// What came is sent on when nothing more comes for this long.
const LINGER: Duration = Duration::from_millis(200);
/// How often the answer says how far the import is, at most.
const PROGRESS_MOST: Duration = Duration::from_millis(200);
/// How many servers are written to at once.
const AT_ONCE: usize = 16;
/// How many lines of the answer wait for a reader; further progress is left out.
const LINES_WAITING: usize = 16;

/// Takes an import apart.
pub(crate) async fn all(gateway: &Gateway, head: &Head, body: RequestBody) -> Result<Response, Refusal> {
    let query = Parameters::parse(head.parts.uri.query(), &["mode", "sync"])?;
    let mode = match query.text("mode") {
        None => ImportMode::default(),
        Some(text) => ImportMode::from_text(text)
            .ok_or_else(|| invalid_parameter("mode", &format!("is {text:?}; allowed are create, upsert and newer")))?,
    };
    no_conditions(&head.parts)?;
    let mut import = Import::new(Across::of(gateway, head)?, mode, query.flag("sync")?);
    let still_reading = StillReading::default();
    let mut reader = Reader::new(body, gateway.kept.clone(), still_reading.clone());
    reader.gunzip = is_gzip(&head.parts.headers)?.then(Gunzip::default);
    let first = reader.part().await;
    if first.is_last() {
        let written = import.write(first.lines).await.and(first.broken.map_or(Ok(()), |error| Err(error.into())));
        return short(import.done(), written, head);
    }
    let (lines, waiting) = mpsc::channel(LINES_WAITING);
    let id = head.id.to_str().ok().map(str::to_owned);
    tokio::spawn(Run { reader, import, lines, id, told: None }.finish(first));
    let mut response = answer_of(StatusCode::OK, told(waiting));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response.extensions_mut().insert(still_reading);
    Ok(response)
}

/// Answers an import of one part: as an error when nothing of it was done.
fn short(done: &ImportDoneBody, written: Result<(), Refusal>, head: &Head) -> Result<Response, Refusal> {
    let mut line = ImportAnswerBody { done: Some(done.clone()), ..ImportAnswerBody::default() };
    match written {
        Ok(()) => {}
        Err(refusal) if done.lines == 0 => return Err(refusal),
        Err(refusal) => line.error = Some(problem_of(&refusal, head.id.to_str().ok())),
    }
    let mut response = answer::body(StatusCode::OK, HeaderValue::from_static(NDJSON), line_of(&line));
    response.headers_mut().insert(header::DURABLE, answer::ascii(done.durable.clone()));
    Ok(response)
}

fn problem_of(refusal: &Refusal, id: Option<&str>) -> Problem {
    Problem { instance: id.map(str::to_owned), folder: refusal.folder, ..Problem::of(&refusal.error) }
}

fn line_of(answer: &ImportAnswerBody) -> Bytes {
    // Numbers, texts and lists of them are always written.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// The lines of the answer as they come. One that breaks off before its last line is no whole answer.
fn told(waiting: mpsc::Receiver<(Bytes, bool)>) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(Some(waiting), |waiting| async move {
        let Some(mut waiting) = waiting else { return Ok(None) };
        match waiting.recv().await {
            Some((line, is_last)) => Ok(Some((line, (!is_last).then_some(waiting)))),
            None => Err(std::io::Error::other("the import ended without a result")),
        }
    })
}

/// A long import.
struct Run {
    reader: Reader,
    import: Import,
    lines: mpsc::Sender<(Bytes, bool)>,
    id: Option<String>,
    told: Option<Instant>,
}

impl Run {
    /// Reads a part while the one before it is written, until nothing more comes or something fails.
    async fn finish(mut self, first: Part) {
        let mut part = first;
        let outcome = loop {
            let bytes = part.bytes;
            if part.is_last() {
                let written = self.import.write(part.lines).await;
                break written.and(part.broken.map_or(Ok(()), |error| Err(error.into())));
            }
            let (next, written) = future::join(self.reader.part(), self.import.write(part.lines)).await;
            if written.is_err() {
                break written;
            }
            self.tell(bytes);
            part = next;
        };
        // Whoever is still sending gets to see the answer.
        drop(self.reader);
        let error = outcome.err().map(|refusal| {
            tracing::warn!(error = %refusal.error, "an import ended early");
            problem_of(&refusal, self.id.as_deref())
        });
        let done = Some(self.import.done().clone());
        let _ = self.lines.send((line_of(&ImportAnswerBody { done, error, progress: None }), true)).await;
    }

    /// Says how far it is, if that was not said just now. Nobody waits for a peer that does not read.
    fn tell(&mut self, bytes: u64) {
        if self.told.is_some_and(|told| told.elapsed() < PROGRESS_MOST) {
            return;
        }
        self.told = Some(Instant::now());
        let &ImportDoneBody { lines, written, .. } = self.import.done();
        let progress = Some(ImportProgressBody { lines, written, bytes });
        let _ = self.lines.try_send((line_of(&ImportAnswerBody { progress, ..ImportAnswerBody::default() }), false));
    }
}

/// What is sent on at once.
#[derive(Default)]
struct Part {
    lines: Vec<ImportLine>,
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
    body: RequestBody,
    /// Takes apart what comes, where it is gzip.
    gunzip: Option<Gunzip>,
    parts: ImportParts,
    bytes: u64,
    is_at_end: bool,
    memory: KeptMemory,
    /// What a long line takes of the memory for bodies.
    room: Option<(usize, OwnedSemaphorePermit)>,
    /// The request counts as one that comes in as long as this is there.
    _still_reading: StillReading,
}

impl Reader {
    fn new(body: RequestBody, memory: KeptMemory, still_reading: StillReading) -> Reader {
        Reader {
            body,
            gunzip: None,
            parts: ImportParts::default(),
            bytes: 0,
            is_at_end: false,
            memory,
            room: None,
            _still_reading: still_reading,
        }
    }

    async fn part(&mut self) -> Part {
        let mut part = Part::default();
        loop {
            if self.parts.is_full() || self.is_at_end {
                break;
            }
            let came = match self.piece().await {
                Ok(Next::Piece(bytes)) => self.push(&bytes),
                Ok(Next::End) => {
                    self.parts.end();
                    self.is_at_end = true;
                    Ok(())
                }
                Ok(Next::Nothing) if self.parts.is_empty() => Ok(()),
                Ok(Next::Nothing) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = came {
                part.broken = Some(error);
                break;
            }
        }
        part.lines = self.parts.take();
        part.is_end = self.is_at_end && self.parts.is_empty();
        part.bytes = self.bytes;
        part
    }

    /// The next piece of the body, if one comes soon.
    async fn piece(&mut self) -> Result<Next, Error> {
        if let Some(gunzip) = self.gunzip.as_mut().filter(|gunzip| gunzip.has_more()) {
            // A few bytes may stand for very many: others have their turn in between.
            tokio::task::yield_now().await;
            return Ok(Next::Piece(gunzip.step()?.into()));
        }
        match (tokio::time::timeout(LINGER, self.body.next()).await, &mut self.gunzip) {
            (Ok(Some(Ok(piece))), None) => Ok(Next::Piece(piece)),
            (Ok(Some(Ok(piece))), Some(gunzip)) => {
                gunzip.push(&piece);
                Ok(Next::Piece(gunzip.step()?.into()))
            }
            (Ok(Some(Err(error))), _) => Err(broken(&error)),
            (Ok(None), None) => Ok(Next::End),
            (Ok(None), Some(gunzip)) => match gunzip.end()? {
                rest if rest.is_empty() => Ok(Next::End),
                rest => Ok(Next::Piece(rest.into())),
            },
            (Err(_), _) => Ok(Next::Nothing),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.parts.push(bytes);
        self.cover()
    }

    /// Counts what is kept of a long line against the memory for all bodies.
    fn cover(&mut self) -> Result<(), Error> {
        let kept = self.parts.kept();
        match &self.room {
            Some((covered, _)) if kept <= *covered && kept > parts::MOST_BYTES => Ok(()),
            _ if kept <= parts::MOST_BYTES => {
                self.room = None;
                Ok(())
            }
            _ => {
                // Twice as much as there is, so that it need not be asked for again with every piece.
                self.room = None;
                self.room = Some((2 * kept, self.memory.room(2 * kept as u64)?));
                Ok(())
            }
        }
    }
}

enum Next {
    Piece(Bytes),
    End,
    /// Not yet.
    Nothing,
}

/// Lines on their way to the servers of their swamps, and the count of what became of them.
#[derive(Debug)]
pub struct Import {
    across: Across,
    mode: ImportMode,
    target: String,
    done: ImportDoneBody,
}

/// The lines that one server answers for.
struct Group {
    way: Option<Way>,
    /// One of their swamps; none for lines that cannot be read.
    name: Option<SwampName>,
    lines: Vec<ImportLine>,
}

/// What lines have in common that go to one server.
#[derive(PartialEq)]
struct Way {
    pool: String,
    servers: Vec<String>,
    /// The fallback that the folder stays with.
    holder: Option<String>,
}

impl Import {
    /// Begins an import.
    #[must_use]
    pub fn new(across: Across, mode: ImportMode, sync: bool) -> Import {
        let mut parameters = vec![("mode", mode.as_str().to_owned())];
        parameters.extend(sync.then(|| ("sync", "true".to_owned())));
        let done = ImportDoneBody {
            lines: 0,
            written: 0,
            skipped: 0,
            failed: 0,
            durable: "synced".to_owned(),
            errors: Vec::new(),
        };
        Import { across, mode, target: with_parameters("/v1/import", &parameters), done }
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn done(&self) -> &ImportDoneBody {
        &self.done
    }

    /// Writes some lines, and waits for the servers.
    ///
    /// # Errors
    /// When all servers refused: then nothing of these lines was counted.
    pub async fn send(&mut self, lines: Vec<ImportLine>) -> Result<(), Error> {
        self.write(lines).await.map_err(|refusal| refusal.error)
    }

    async fn write(&mut self, lines: Vec<ImportLine>) -> Result<(), Refusal> {
        let (readable, bad): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.text.is_ok());
        let groups = self.groups(readable);
        let this = &*self;
        let sent = groups.into_iter().map(|group| async move {
            let outcome = this.send_group(&group).await;
            (group, outcome)
        });
        let sent: Vec<_> = stream::iter(sent).buffered(AT_ONCE).collect().await;
        if !sent.is_empty() && sent.iter().all(|(_, outcome)| outcome.is_err()) {
            return sent.into_iter().find_map(|(_, outcome)| outcome.err()).map_or(Ok(()), Err);
        }
        for line in bad {
            let Err(why) = line.text else { continue };
            self.count_failed(&[line.number], &why.to_error(MAX_IMPORT_LINE_BYTES));
        }
        for (group, outcome) in sent {
            match outcome {
                Ok(done) => {
                    let elsewhere = self.count(&group, done);
                    self.follow(elsewhere).await;
                }
                Err(refusal) => {
                    let numbers: Vec<u64> = group.lines.iter().map(|line| line.number).collect();
                    self.count_failed(&numbers, &refusal.error);
                }
            }
        }
        self.done.errors.sort_by_key(|error| error.line);
        Ok(())
    }

    /// The lines by who answers for them, in the order they came.
    fn groups(&self, lines: Vec<ImportLine>) -> Vec<Group> {
        let staying = self.across.hydra.staying();
        let map = &self.across.map;
        let mut groups: Vec<Group> = Vec::new();
        for line in lines {
            let name = line.swamp.clone();
            let way = name.as_ref().map(|name| {
                let route = map.route(name);
                let servers = std::iter::once(route.primary()).chain(route.fallbacks());
                let servers: Vec<String> = servers.map(|server| server.id.clone()).collect();
                let holder = staying.iter().find(|stay| stay.folder == route.folder() && stay.primary == servers[0]);
                Way { pool: route.pool().to_owned(), servers, holder: holder.map(|stay| stay.fallback.clone()) }
            });
            match groups.iter_mut().find(|group| group.way == way) {
                Some(group) => group.lines.push(line),
                None => groups.push(Group { way, name, lines: vec![line] }),
            }
        }
        groups
    }

    async fn send_group(&self, group: &Group) -> Result<ImportDoneBody, Refusal> {
        self.send_to(self.target.clone(), group).await
    }

    async fn send_to(&self, target: String, group: &Group) -> Result<ImportDoneBody, Refusal> {
        let mut body = Vec::new();
        for text in group.lines.iter().filter_map(|line| line.text.as_ref().ok()) {
            body.extend_from_slice(text);
            body.push(b'\n');
        }
        let class = if self.mode == ImportMode::Upsert { OpClass::Overwrite } else { OpClass::Exclusive };
        let request = self.across.request(class, "POST", target).with_body(NDJSON, whole(body.into()));
        let hydra = &self.across.hydra;
        let answer = match &group.name {
            Some(name) => hydra.forward(name, request).await,
            // Any server says what is wrong with a line that cannot be read.
            None => hydra.forward_folder("default", FolderId::new(0), request).await,
        };
        let answer = answer.map_err(|error| Refusal::of_call(&error))?;
        if answer.status != 200 {
            return Err(refusal_of(answer).await);
        }
        let unreadable = |why: &dyn std::fmt::Display| {
            Error::new(ErrorCode::ServerUnreachable, format!("the answer of a server is not understood: {why}"))
                .with_applied(Applied::Unknown)
        };
        let body = answer.body.collect().await.map_err(|error| unreadable(&error))?;
        let last = body.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        let ImportAnswerBody { error, done, .. } = serde_json::from_slice(last).map_err(|error| unreadable(&error))?;
        match (error, done) {
            (Some(problem), _) => Err(problem.to_error().with_applied(Applied::Unknown).into()),
            (None, Some(done)) if done.lines == group.lines.len() as u64 => Ok(done),
            (None, _) => Err(unreadable(&"it is about another number of lines").into()),
        }
    }

    /// Counts what became of a group, but for lines whose folder is on its way to another server: those it gives back.
    fn count(&mut self, group: &Group, done: ImportDoneBody) -> Vec<ImportLine> {
        let listed = done.errors.len() as u64;
        let is_lost = |error: &ImportErrorBody| is_elsewhere(ErrorCode::from_text(&error.code));
        let (lost, other): (Vec<_>, Vec<_>) = done.errors.into_iter().partition(is_lost);
        let place = |error: &ImportErrorBody| usize::try_from(error.line).unwrap_or(usize::MAX).saturating_sub(1);
        let mut elsewhere: Vec<ImportLine> =
            lost.iter().filter_map(|error| group.lines.get(place(error))).cloned().collect();
        // Not all that failed are listed. To write what was written once more changes nothing in this mode.
        let all_again = !elsewhere.is_empty() && done.failed > listed && self.mode == ImportMode::Upsert;
        if all_again {
            let is_other = |at: usize| other.iter().any(|error| place(error) == at);
            let lines = group.lines.iter().enumerate().filter(|(at, _)| !is_other(*at));
            elsewhere = lines.map(|(_, line)| line.clone()).collect();
            self.done.lines += other.len() as u64;
            self.done.failed += other.len() as u64;
        } else {
            let again = elsewhere.len() as u64;
            self.done.lines += done.lines - again;
            self.done.written += done.written;
            self.done.skipped += done.skipped;
            self.done.failed += done.failed - again;
            if done.written > 0 && done.durable != "synced" {
                self.done.durable = done.durable;
            }
        }
        for error in other {
            let line = group.lines.get(place(&error)).map_or(error.line, |line| line.number);
            self.note(ImportErrorBody { line, ..error });
        }
        elsewhere
    }

    /// Sends lines swamp by swamp: a refusal is about the whole request then, and its hint is followed, or waited for.
    async fn follow(&mut self, lines: Vec<ImportLine>) {
        let mut swamps: Vec<(SwampName, Vec<ImportLine>)> = Vec::new();
        for line in lines {
            let Some(name) = line.swamp.clone() else { continue };
            match swamps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, lines)) => lines.push(line),
                None => swamps.push((name, vec![line])),
            }
        }
        for (name, lines) in swamps {
            let group = Group { way: None, name: Some(name.clone()), lines };
            let query = self.target.split_once('?').map_or("", |(_, query)| query);
            match self.send_to(format!("{}/import?{query}", swamp_path(&name)), &group).await {
                Ok(done) => {
                    let lost = self.count(&group, done);
                    // Not in an answer about one swamp; were it so, they would be counted as what they are.
                    let numbers: Vec<u64> = lost.iter().map(|line| line.number).collect();
                    self.count_failed(&numbers, &Error::new(ErrorCode::NotOwner, "no server has the folder just now"));
                }
                Err(refusal) => {
                    let numbers: Vec<u64> = group.lines.iter().map(|line| line.number).collect();
                    self.count_failed(&numbers, &refusal.error);
                }
            }
        }
    }

    fn count_failed(&mut self, lines: &[u64], error: &Error) {
        let count = lines.len() as u64;
        self.done.lines += count;
        self.done.failed += count;
        for &line in lines {
            let (code, detail) = (error.code().as_str().to_owned(), error.to_string());
            self.note(ImportErrorBody { line, code, detail });
        }
    }

    fn note(&mut self, error: ImportErrorBody) {
        if self.done.errors.len() < MAX_IMPORT_ERRORS {
            self.done.errors.push(error);
        }
    }
}
