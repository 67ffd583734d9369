//! A folder as a tar stream: `GET` and `PUT` on `/v1/folders/{F}/archive`.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::UnpackedBody;
use hydra_core::{Applied, Archive, ArchivedFile, Engine, Error, ErrorCode, FolderId, Unpacked};
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use crate::answer::{self, Response};
use crate::app::{App, Call, blocking};
use crate::body::RequestBody;
use crate::conditions::{no_conditions, plain_body};
use crate::folders::present;
use crate::query::Query;

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
/// Files are padded to whole blocks, and two empty blocks end the stream.
const BLOCK: u64 = 512;
/// How much is read from the disk at once.
const PIECE: u64 = 256 << 10;
/// How many pieces of a body wait to be unpacked.
const PIECES_WAITING: usize = 4;
/// No program pads the end of a stream further.
const END_MOST: u64 = 1 << 20;
/// Paths of chunks are shorter.
const PATH_MOST: u64 = 4_096;

/// Sends the files of a folder as they are.
pub(crate) async fn pack(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    let engine = call.app.engine.clone();
    let archive = blocking(move || engine.archive(folder)).await?;
    let packing = Packing { archive, file: None, is_over: false };
    let pieces = stream::try_unfold(packing, |packing| async move {
        blocking(move || Ok(packing.piece())).await.map_err(io::Error::other)?
    });
    let mut response = Response::new(Body::from_stream(pieces));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(http::header::CONTENT_TYPE, TAR);
    Ok(response)
}

fn admit(call: &mut Call, folder: FolderId) -> Result<(), Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    present(call, [folder].into_iter().collect()).map(drop)
}

/// An archive on its way to its reader.
struct Packing {
    archive: Archive,
    /// The file that is being sent, and how much of it is left.
    file: Option<(ArchivedFile, u64)>,
    is_over: bool,
}

impl Packing {
    /// The next bytes. Where a file cannot be read the stream breaks off: a tar without its end is none.
    fn piece(mut self) -> io::Result<Option<(Bytes, Packing)>> {
        if self.is_over {
            return Ok(None);
        }
        let failed = |error: Error| {
            tracing::error!(code = %error.code(), "an archive is not whole: {error}");
            io::Error::other(error)
        };
        self.archive.keep().map_err(failed)?;
        if let Some((file, left)) = self.file.take() {
            return self.content(file, left).map(Some);
        }
        match self.archive.next() {
            None => {
                self.is_over = true;
                Ok(Some((vec![0; 2 * BLOCK as usize].into(), self)))
            }
            Some(Err(error)) => Err(failed(error)),
            Some(Ok(file)) => {
                let head = head_of(&file)?;
                let left = file.length;
                self.file = (left > 0).then_some((file, left));
                Ok(Some((head.into(), self)))
            }
        }
    }

    fn content(mut self, mut file: ArchivedFile, left: u64) -> io::Result<(Bytes, Packing)> {
        let count = left.min(PIECE);
        let padding = if count == left { file.length.next_multiple_of(BLOCK) - file.length } else { 0 };
        let mut piece = vec![0; (count + padding) as usize];
        file.file.read_exact(&mut piece[..count as usize])?;
        self.file = (left > count).then_some((file, left - count));
        Ok((piece.into(), self))
    }
}

/// The head of a file, with a long path in front of it where it does not fit in.
fn head_of(file: &ArchivedFile) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(file.length);
    header.set_mode(0o644);
    header.set_mtime(file.modified);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, &file.path, io::empty())?;
    Ok(std::mem::take(builder.get_mut()))
}

/// Takes the files of a folder in.
pub(crate) async fn unpack(call: &mut Call, folder: FolderId) -> Result<Response, Error> {
    admit(call, folder)?;
    plain_body(&call.head.headers)?;
    let app = Arc::clone(&call.app);
    let _turn = app.unpackers.try_acquire().map_err(|_| {
        Error::new(ErrorCode::Overloaded, "too many archives are being unpacked; send it when one of them is done")
    })?;
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
    let engine = app.engine.clone();
    let unpacking = blocking(move || unpack_all(&engine, folder, Pieces { waiting, piece: Bytes::new(), zeros: 0 }));
    let mut body = call.take_body();
    let feeding = feed(&mut body, pieces, &app);
    let ((), unpacked) = futures_util::future::join(feeding, unpacking).await;
    body.discard_rest();
    let unpacked = unpacked.map_err(|error| match app.is_draining() {
        true => Error::new(ErrorCode::Draining, "this server is shutting down").with_applied(error.applied()),
        false => error,
    })?;
    call.mark_synced();
    answer::json(StatusCode::OK, &UnpackedBody::of(folder, unpacked))
}

/// Hands the body over as it comes, until its end or until nobody wants more of it.
async fn feed(body: &mut RequestBody, pieces: mpsc::Sender<io::Result<Bytes>>, app: &App) {
    loop {
        let piece = match body.next(app.config.body_timeout).await {
            Ok(None) => return,
            Ok(Some(_)) if app.is_draining() => Err(io::Error::other("this server is shutting down")),
            Ok(Some(piece)) => Ok(piece),
            Err(error) => Err(io::Error::other(error)),
        };
        let is_over = piece.is_err();
        if pieces.send(piece).await.is_err() || is_over {
            return;
        }
    }
}

/// A body that is read where reading may wait.
struct Pieces {
    waiting: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    /// How many zeros the last bytes that were read are.
    zeros: u64,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.waiting.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let count = into.len().min(self.piece.len());
        into[..count].copy_from_slice(&self.piece.split_to(count));
        match into[..count].iter().rposition(|&byte| byte != 0) {
            None => self.zeros += count as u64,
            Some(last) => self.zeros = (count - 1 - last) as u64,
        }
        Ok(count)
    }
}

fn unpack_all(engine: &Engine, folder: FolderId, body: Pieces) -> Result<Unpacked, Error> {
    let mut unpacking = engine.unpack(folder)?;
    let outcome =
        unpack_each(tar::Archive::new(body), &mut |path, length, content| unpacking.file(path, length, content));
    let done = unpacking.done();
    outcome.map(|()| done).map_err(|error| {
        if done.files == 0 {
            return error;
        }
        // What came in before is good, and stays.
        let hint = format!("{} files of the archive were taken in before; sending it again is harmless", done.files);
        error.with_applied(Applied::Unknown).with_hint(hint)
    })
}

type EachFile<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<(), Error> + 'a;

/// Calls `each` with every file of a tar stream. Anything but files and directories is refused.
fn unpack_each(mut archive: tar::Archive<Pieces>, each: &mut EachFile<'_>) -> Result<(), Error> {
    let mut long_path = None;
    // Raw, because paths in front of their files may claim any length.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long_path = Some(read_path(&mut entry)?),
            EntryType::Directory => long_path = None,
            EntryType::Regular => {
                let path = long_path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let path = String::from_utf8(path).map_err(|_| refuse("has a path that is not UTF-8"))?;
                let length = entry.size();
                each(&path, length, &mut entry)?;
            }
            other => {
                let shown: String = String::from_utf8_lossy(&entry.path_bytes()).chars().take(160).collect();
                return Err(refuse(&format!("has {shown:?} of the type {other:?}; only files are taken")));
            }
        }
    }
    // The reader stops at the first empty block.
    let mut end = archive.into_inner().take(END_MOST);
    io::copy(&mut end, &mut io::sink()).map_err(unreadable)?;
    let is_whole = end.into_inner().zeros >= 2 * BLOCK;
    if is_whole { Ok(()) } else { Err(refuse("was cut off: it has no end")) }
}

/// The path of the next file, where it is too long for its head.
fn read_path(entry: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut path = Vec::new();
    entry.take(PATH_MOST + 1).read_to_end(&mut path).map_err(unreadable)?;
    while path.last() == Some(&0) {
        path.pop();
    }
    if path.len() as u64 > PATH_MOST { Err(refuse("has a path that is longer than any of a swamp")) } else { Ok(path) }
}

fn unreadable(error: io::Error) -> Error {
    refuse(&format!("cannot be read: {error}"))
}

fn refuse(why: &str) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("the archive {why}"))
        .with_hint("send what GET /v1/folders/{F}/archive of another server answers, unchanged")
}
