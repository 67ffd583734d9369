//! The steps that move a folder from one server to another: `POST /v1/folders/{F}/…`. What each means stands in the
//! engine; here they are read, carried out where waiting is allowed, and answered.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Take};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{
    AbortBody, ActivateBody, CleanBody, CleanedBody, CommitBody, FenceBody, ImportFolderBody, LackedBody, LacksBody,
    MAX_PIECES, ManifestBody, MovedBody, PieceBody, PiecesBody, PromoteBody, PromotedBody, SealBody, SealedBody,
    UnderSealBody, UnfenceBody, read_object,
};
use hydra_core::{Engine, Error, ErrorCode, FolderId, FolderSet, FolderState, Manifest, Sealed};
use serde::de::DeserializeOwned;

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::body::Limit;
use crate::conditions::{no_conditions, plain_body};
use crate::config::{MAX_HOLDS_BODY_BYTES, MAX_SMALL_BODY_BYTES};
use crate::folders::{describe, existing};
use crate::query::Query;
use crate::route::MoveVerb;

const SMALL: Limit = Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the body" };
const PIECES: Limit = Limit { bytes: MAX_HOLDS_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the list of files" };
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// How much is read from the disk at once.
const PIECE: usize = 256 << 10;

/// Carries a step out.
pub(crate) async fn step(call: &mut Call, folder: FolderId, verb: MoveVerb) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    no_conditions(&call.head.headers)?;
    plain_body(&call.head.headers)?;
    existing(call, Some(FolderSet::from_iter([folder])))?;
    let body = call.read_body(if matches!(verb, MoveVerb::Files | MoveVerb::Lacks) { PIECES } else { SMALL }).await?;
    let engine = call.app.engine.clone();
    let response = match verb {
        MoveVerb::Pull => return crate::pull::pull(call, folder, &body).await,
        MoveVerb::Files => return files(engine, folder, body).await,
        MoveVerb::Manifest => return manifest(engine, folder, body).await,
        MoveVerb::Lacks => return lacks(engine, folder, body).await,
        _ => blocking(move || small_step(&engine, folder, verb, &body)).await?,
    };
    call.mark_synced();
    Ok(response)
}

fn small_step(engine: &Engine, folder: FolderId, verb: MoveVerb, body: &[u8]) -> Result<Response, Error> {
    let changed = match verb {
        MoveVerb::Fence => {
            let FenceBody { epoch, to } = read(body, r#"{"epoch":8,"to":"s2"}"#)?;
            engine.fence(folder, check_epoch(epoch)?, check_id("to", &to)?)
        }
        MoveVerb::Unfence => {
            let UnfenceBody { epoch, of } = read(body, r#"{"epoch":8,"of":"s2"}"#)?;
            let of = of.as_deref().map(|of| check_id("of", of)).transpose()?;
            engine.unfence(folder, epoch, of)
        }
        MoveVerb::Import => {
            let ImportFolderBody { epoch, from } = read(body, r#"{"epoch":8,"from":"s1"}"#)?;
            engine.import_folder(folder, check_epoch(epoch)?, check_id("from", &from)?)
        }
        MoveVerb::Abort => {
            let AbortBody { epoch } = read(body, r#"{"epoch":8}"#)?;
            engine.abort_import(folder, epoch)
        }
        MoveVerb::Activate => {
            let ActivateBody { epoch, token } = read(body, r#"{"epoch":8,"token":"…"}"#)?;
            engine.activate(folder, epoch, &token)
        }
        MoveVerb::Unseal => {
            let UnderSealBody { seal } = read(body, r#"{"seal":"…"} or {}"#)?;
            engine.unseal(folder, seal.as_deref())
        }
        MoveVerb::Seal => return sealed(folder, seal(engine, folder, body)?),
        MoveVerb::Clean => {
            let CleanBody { manifest } = read(body, r#"{"manifest":"…"}"#)?;
            let cleaned = engine.clean(folder, &manifest)?;
            let body = CleanedBody { folder, files: cleaned.files, bytes: cleaned.bytes };
            return answer::json(StatusCode::OK, &body);
        }
        MoveVerb::Commit => {
            let asked: CommitBody = read(body, r#"{"epoch":8,"to":"s2","seal":"…","manifest":"…"}"#)?;
            let token = engine.commit_move(folder, asked.epoch, &asked.to, &asked.seal, &asked.manifest)?;
            let moved = MovedBody { folder, epoch: asked.epoch, to: asked.to, token };
            return answer::json(StatusCode::OK, &moved);
        }
        _ => {
            let PromoteBody { epoch, of } = read(body, r#"{"epoch":8,"of":"s1"}"#)?;
            let promoted = engine.promote(folder, check_epoch(epoch)?, check_id("of", &of)?)?;
            let epoch = promoted.state.epoch();
            let body = PromotedBody { folder, epoch, files: promoted.files, newest: promoted.newest };
            return answer::json(StatusCode::OK, &body);
        }
    };
    changed?;
    answer::json(StatusCode::OK, &describe(engine, folder, false)?)
}

fn seal(engine: &Engine, folder: FolderId, body: &[u8]) -> Result<Sealed, Error> {
    match read(body, r#"{"epoch":8,"to":"s2"}, or {"seal":"…"} to let a seal hold for longer"#)? {
        SealBody { seal: Some(seal), epoch: None, to: None } => engine.renew_seal(folder, &seal),
        SealBody { seal: None, epoch: Some(epoch), to: Some(to) } => {
            if to == engine.server_id() {
                return Err(invalid("to", &format!("is {to:?}, this server itself")));
            }
            engine.seal(folder, check_epoch(epoch)?, check_id("to", &to)?)
        }
        _ => Err(Error::new(ErrorCode::InvalidBody, "a seal is made with epoch and to, or renewed with seal alone")),
    }
}

fn sealed(folder: FolderId, sealed: Sealed) -> Result<Response, Error> {
    let Sealed { id: seal, token_hash, lease, .. } = sealed;
    answer::json(StatusCode::OK, &SealedBody { folder, seal, token_hash, lease_seconds: lease.as_secs() })
}

async fn manifest(engine: Engine, folder: FolderId, body: Bytes) -> Result<Response, Error> {
    blocking(move || {
        let UnderSealBody { seal } = read(&body, r#"{"seal":"…"} or {}"#)?;
        let listed = engine.manifest(folder, seal.as_deref())?;
        let is_last = seal.is_some() || matches!(engine.folder_state(folder), FolderState::Moved { .. });
        let token_hash = engine.move_token_hash(folder).filter(|_| is_last);
        let body = ManifestBody { folder, manifest: listed.hash(), token_hash, files: listed.files };
        answer::json(StatusCode::OK, &body)
    })
    .await
}

/// Which files of another server's manifest are not here.
async fn lacks(engine: Engine, folder: FolderId, body: Bytes) -> Result<Response, Error> {
    blocking(move || {
        let LacksBody { files } = read(&body, r#"{"files":[{"path":"00062/a/b/c/s1-….hyl","bytes":123,"hash":"…"}]}"#)?;
        if files.len() > MAX_PIECES {
            return Err(invalid("files", &format!("has {} entries; allowed are {MAX_PIECES}", files.len())));
        }
        let missing = engine.lacks(folder, &Manifest::new(files))?;
        answer::json(StatusCode::OK, &LackedBody { folder, missing })
    })
    .await
}

/// Answers pieces of files one after the other, as long as they were asked for. The stream breaks off where that
/// cannot be.
async fn files(engine: Engine, folder: FolderId, body: Bytes) -> Result<Response, Error> {
    let PiecesBody { files } = read(&body, r#"{"files":[{"path":"00062/a/b/c/s1-….hyl","from":0,"bytes":123}]}"#)?;
    if files.len() > MAX_PIECES {
        return Err(invalid("files", &format!("has {} entries; allowed are {MAX_PIECES}", files.len())));
    }
    let mut sending = Sending { engine, folder, pieces: files.into(), open: None };
    // What cannot be read at all is answered as such.
    let sending = blocking(move || sending.open_next().map(|()| sending)).await?;
    let pieces = stream::try_unfold(sending, |mut sending| async move {
        blocking(move || Ok(sending.next().map(|bytes| bytes.map(|bytes| (bytes, sending)))))
            .await
            .map_err(io::Error::other)?
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(http::header::CONTENT_TYPE, OCTETS);
    Ok(response)
}

/// Pieces of files on their way.
struct Sending {
    engine: Engine,
    folder: FolderId,
    pieces: VecDeque<PieceBody>,
    open: Option<Take<File>>,
}

impl Sending {
    fn open_next(&mut self) -> Result<(), Error> {
        self.open = match self.pieces.pop_front() {
            Some(PieceBody { path, from, bytes }) => Some(self.engine.read_piece(self.folder, &path, from, bytes)?),
            None => None,
        };
        Ok(())
    }

    /// The next bytes, of as many files as fit in; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            let Some(open) = &mut self.open else { break };
            let room = (PIECE - piece.len()) as u64;
            let wanted = open.limit().min(room);
            if wanted > 0 && open.by_ref().take(wanted).read_to_end(&mut piece)? as u64 != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if open.limit() == 0 {
                self.open_next().map_err(io::Error::other)?;
            }
        }
        Ok(Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()))
    }
}

/// Reads a body; an empty one is an empty object.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], form: &str) -> Result<T, Error> {
    let body = if body.is_empty() { b"{}" } else { body };
    read_object(body, "the body", form)
}

fn invalid(member: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("{member} {why}"))
}

fn check_epoch(epoch: u64) -> Result<u64, Error> {
    match epoch {
        1.. => Ok(epoch),
        0 => Err(invalid("epoch", "is 0; the first move of a folder is in epoch 1 or later")),
    }
}

fn check_id<'b>(member: &str, id: &'b str) -> Result<&'b str, Error> {
    let is_id = (1..=32).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    match is_id {
        true => Ok(id),
        false => {
            Err(invalid(member, &format!("is {}; a server's id is 1 to 32 of a-z 0-9 _", crate::route::shown(id))))
        }
    }
}

/// How long a pull copies before it answers how far it came.
pub(crate) const PULL_FOR: Duration = Duration::from_secs(10);
