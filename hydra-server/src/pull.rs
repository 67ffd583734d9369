//! Pulling a folder from another server: this one asks for the manifest, fetches what it lacks, each file from the
//! length it has, and under a seal verifies all of it.
//!
//! A pull ends by itself after some seconds and says how far it came, so that it can be watched, and gone on with by
//! anybody after anything. What came stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hydra_core::wire::{
    MAX_PIECES, ManifestBody, PieceBody, PiecesBody, Problem, PullBody, PulledBody, UnderSealBody, folder_path,
};
use hydra_core::{Error, ErrorCode, FolderId, FolderState, GrowingFile, Intake, Manifest, MissingPiece};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::answer::{self, Response};
use crate::app::{App, Call, blocking};
use crate::head::Headers;
use crate::moves::{PULL_FOR, read};

/// How long the source may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long it may hash files before it answers with a manifest.
const MANIFEST_WITHIN: Duration = Duration::from_secs(600);
/// How long it may be silent otherwise.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// The longest manifest: some millions of files.
const MANIFEST_MOST: usize = 1 << 30;
/// So many bytes are asked for at once, or one file.
const BYTES_AT_ONCE: u64 = 256 << 20;

/// Fetches what this server lacks of a folder.
pub(crate) async fn pull(call: &mut Call, folder: FolderId, body: &[u8]) -> Result<Response, Error> {
    let asked: PullBody = read(body, r#"{"url":"http://10.0.0.1:4937","seal":"…"}"#)?;
    let app = Arc::clone(&call.app);
    let from = match app.engine.folder_state(folder) {
        FolderState::Importing { from, .. } => from,
        // Says what the folder is instead.
        _ => return Err(app.engine.intake(folder).err().unwrap_or_else(|| crate::app::unexpected("an import"))),
    };
    let mut source = Source::connect(&call.head.headers, &asked, from).await?;
    let listed = source.manifest(folder, asked.seal.as_deref()).await?;
    let (manifest, hash) = (Manifest::new(listed.files), listed.manifest);
    if manifest.hash() != hash {
        return Err(Error::new(ErrorCode::ManifestMismatch, "the manifest of the source is not what it says it is"));
    }
    let manifest = Arc::new(manifest);
    let (engine, wanted) = (app.engine.clone(), Arc::clone(&manifest));
    let (intake, mut missing) = blocking(move || {
        let intake = engine.intake(folder)?;
        let missing = intake.missing(&wanted)?;
        Ok((intake, missing))
    })
    .await?;
    let mut writer = Writer { intake, wanted: VecDeque::new(), open: None, files: 0, bytes: 0 };
    let until = Instant::now() + PULL_FOR;
    while asked.copy && !missing.is_empty() && Instant::now() < until {
        writer.wanted = next_batch(&mut missing);
        writer = source.fetch(&app, folder, writer, until).await?;
        missing.extend(writer.left());
    }
    let (files, bytes) = (writer.files, writer.bytes);
    drop(writer);
    let is_ready = listed.token_hash.is_some() && (missing.is_empty() || !asked.copy);
    let engine = app.engine.clone();
    blocking(move || match listed.token_hash.filter(|_| is_ready) {
        Some(token_hash) => engine.ready(folder, &manifest, &token_hash),
        None => engine.sync_disk(),
    })
    .await?;
    call.mark_synced();
    let missing_bytes = missing.iter().map(|piece| piece.bytes - piece.from).sum();
    let missing_files = missing.len() as u64;
    let pulled = PulledBody { folder, manifest: hash, files, bytes, missing_files, missing_bytes, ready: is_ready };
    answer::json(StatusCode::OK, &pulled)
}

/// As many pieces as one request asks for.
fn next_batch(missing: &mut Vec<MissingPiece>) -> VecDeque<MissingPiece> {
    let mut bytes = 0;
    let fits = missing.iter().take(MAX_PIECES).take_while(|piece| {
        let is_first = bytes == 0;
        bytes += piece.bytes - piece.from;
        is_first || bytes <= BYTES_AT_ONCE
    });
    let count = fits.count().max(1).min(missing.len());
    missing.drain(..count).collect()
}

/// Puts what comes into its files, in the order in which it was asked for.
struct Writer {
    intake: Intake,
    wanted: VecDeque<MissingPiece>,
    /// The file that grows: the first of those that are wanted.
    open: Option<GrowingFile>,
    files: u64,
    bytes: u64,
}

impl Writer {
    /// Takes bytes in. Blocks on the disk.
    fn take(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        loop {
            let Some(piece) = self.wanted.front_mut() else {
                return if bytes.is_empty() { Ok(()) } else { Err(broken("sent more than it was asked for")) };
            };
            let open = match self.open.take() {
                Some(open) => self.open.insert(open),
                None => self.open.insert(self.intake.begin(piece)?),
            };
            let count = bytes.len().min(usize::try_from(piece.bytes - piece.from).unwrap_or(usize::MAX));
            open.append(&bytes[..count])?;
            bytes.advance(count);
            piece.from += count as u64;
            self.bytes += count as u64;
            if piece.from < piece.bytes {
                return Ok(());
            }
            if let Some(open) = self.open.take() {
                open.finish()?;
            }
            self.files += 1;
            self.wanted.pop_front();
        }
    }

    /// Whether what has come stays when the rest does not come now.
    fn may_stop(&self) -> bool {
        self.wanted.front().is_none_or(|piece| !piece.differs)
    }

    /// What has not come.
    fn left(&mut self) -> impl Iterator<Item = MissingPiece> {
        self.open = None;
        std::mem::take(&mut self.wanted).into_iter()
    }
}

/// The server that has the folder.
struct Source {
    id: String,
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    /// Headers of the request that asked for the pull, which hold there, too.
    passed_on: Vec<(http::HeaderName, HeaderValue)>,
}

impl Source {
    async fn connect(sent: &Headers, asked: &PullBody, id: String) -> Result<Source, Error> {
        let refuse = |why: String| Error::new(ErrorCode::InvalidBody, format!("url {why}"));
        let uri: Uri = asked.url.parse().map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(refuse(format!("is {}; write http://10.0.0.1:4937", crate::route::shown(&asked.url))));
        };
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            other => return Err(refuse(format!("begins with {other:?}; allowed are http and https"))),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = within(CONNECT_WITHIN, &id, "connect", TcpStream::connect((host.as_str(), port))).await?;
        // A manifest and pieces of files: neither waits for more to send.
        stream.set_nodelay(true).map_err(|error| unreachable(&id, "connect", &error))?;
        let sender = match is_tls {
            false => shake_hands(&id, stream).await?,
            true => {
                let name = ServerName::try_from(host).map_err(|error| refuse(format!("has no host: {error}")))?;
                let connector = TlsConnector::from(Arc::new(tls(asked.ca_certificate.as_deref())?));
                let stream = within(CONNECT_WITHIN, &id, "agree on TLS", connector.connect(name, stream)).await?;
                shake_hands(&id, stream).await?
            }
        };
        let headers = [AUTHORIZATION, answer::FOLDERS, answer::POOL, answer::REQUEST_ID];
        let passed_on = headers.into_iter().filter_map(|name| Some((name.clone(), sent.get(&name)?.clone())));
        let passed_on = passed_on.collect();
        Ok(Source { id, sender, host: answer::ascii(authority.as_str().to_owned()), passed_on })
    }

    /// Sends a request and checks who answered.
    async fn ask<T: Serialize>(
        &mut self,
        folder: FolderId,
        verb: &str,
        body: &T,
        patience: Duration,
    ) -> Result<Incoming, Error> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("a request cannot be written: {error}")))?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::try_from(folder_path(folder, verb))
            .map_err(|error| Error::new(ErrorCode::Internal, format!("a path cannot be written: {error}")))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, answer::JSON);
        headers.extend(self.passed_on.iter().cloned());
        within(CONNECT_WITHIN, &self.id, "take a request", self.sender.ready()).await?;
        let response = within(patience, &self.id, "answer", self.sender.send_request(request)).await?;
        let (head, body) = response.into_parts();
        let answered = head.headers.get(answer::SERVER).and_then(|id| id.to_str().ok()).unwrap_or("something else");
        if answered != self.id {
            let detail = format!("url leads to {answered}; the folder comes from {}", self.id);
            return Err(Error::new(ErrorCode::InvalidBody, detail));
        }
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        let bytes = collect(&self.id, body).await?;
        let said = serde_json::from_slice::<Problem>(&bytes).map(|problem| problem.to_error());
        let said = said.unwrap_or_else(|_| broken(&format!("answered {}", head.status)));
        let error = Error::new(said.code(), format!("{}: {}", self.id, said.detail()));
        Err(match said.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    async fn manifest(&mut self, folder: FolderId, seal: Option<&str>) -> Result<ManifestBody, Error> {
        let body = UnderSealBody { seal: seal.map(str::to_owned) };
        let answer = self.ask(folder, "manifest", &body, MANIFEST_WITHIN).await?;
        let bytes = collect(&self.id, answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| broken(&format!("sent a manifest that cannot be read: {error}")))
    }

    /// Fetches what a writer wants, until the time is over.
    async fn fetch(
        &mut self,
        app: &App,
        folder: FolderId,
        mut writer: Writer,
        until: Instant,
    ) -> Result<Writer, Error> {
        let pieces = writer.wanted.iter().map(|piece| PieceBody {
            path: piece.path.clone(),
            from: piece.from,
            bytes: piece.bytes,
        });
        let mut body = self.ask(folder, "files", &PiecesBody { files: pieces.collect() }, SILENT_FOR).await?;
        // Files without content come without bytes.
        let mut bytes = Bytes::new();
        loop {
            writer = blocking(move || writer.take(bytes).map(|()| writer)).await?;
            if app.is_draining() {
                return Err(Error::new(ErrorCode::Draining, "this server is shutting down; what came stays"));
            }
            if writer.wanted.is_empty() || Instant::now() >= until && writer.may_stop() {
                return Ok(writer);
            }
            bytes = match timeout(SILENT_FOR, body.frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => return Err(unreachable(&self.id, "send files", &error)),
                Ok(None) => return Err(unreachable(&self.id, "send files", &"the answer ended too early")),
                Err(_) => return Err(unreachable(&self.id, "send files", &"it fell silent")),
            };
        }
    }
}

async fn shake_hands<S>(id: &str, stream: S) -> Result<SendRequest<Full<Bytes>>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = within(CONNECT_WITHIN, id, "connect", handshake(TokioIo::new(stream))).await?;
    // Ends with the sender.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the source of a folder broke");
        }
    });
    Ok(sender)
}

/// Trusts what the request names, and nobody else.
fn tls(pem: Option<&str>) -> Result<ClientConfig, Error> {
    let refuse = |why: String| Error::new(ErrorCode::InvalidBody, format!("caCertificate {why}"));
    let pem = pem.ok_or_else(|| {
        refuse("is missing: the address begins with https".into())
            .with_hint("name the certificates in [access] ca_certificate of the map, or copy with another tool")
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refuse(format!("cannot be read: {error}")))?;
        roots.add(certificate).map_err(|error| refuse(format!("cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(refuse("has no PEM block CERTIFICATE".into()));
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
        .map_err(|error| Error::new(ErrorCode::Internal, format!("no TLS client could be made: {error}")))
}

async fn within<T, E: std::fmt::Display>(
    patience: Duration,
    id: &str,
    doing: &str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match timeout(patience, future).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(unreachable(id, doing, &error)),
        Err(_) => Err(unreachable(id, doing, &format!("it took longer than {} s", patience.as_secs()))),
    }
}

async fn collect(id: &str, mut body: Incoming) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    loop {
        match timeout(SILENT_FOR, body.frame()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Ok(Some(Err(error))) => return Err(unreachable(id, "send its answer", &error)),
            Err(_) => return Err(unreachable(id, "send its answer", &"it fell silent")),
        }
        if bytes.len() > MANIFEST_MOST {
            return Err(broken("sent a manifest of more than a GiB"));
        }
    }
}

fn unreachable(id: &str, doing: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::ServerUnreachable, format!("{id} did not {doing}: {why}"))
        .with_hint("see that this server reaches the url, and pull again: what came stays")
}

fn broken(what: &str) -> Error {
    Error::new(ErrorCode::ServerUnreachable, format!("the source {what}"))
}
