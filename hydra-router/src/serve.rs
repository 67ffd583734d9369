//! Connections: accepted, bounded, timed, and ended gracefully.

use std::convert::identity;
use std::future::Future;
use std::io;
use std::net::TcpStream as StdStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hydra_core::wire::{HTTP2_PREFACE, Rarely, is_http1};
use hydra_sdk::Hydra;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::peer::{Peer, StillReading, Watched};
use crate::threads::{Seat, Threads};
use crate::tls::Tls;

/// Buffers of this size hold a request head beyond every limit, so that it is refused with a reason.
const READ_BUFFER: usize = 128 << 10;
/// So long after the end began a connection that is open may still begin its first request.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Serves a data set on the listener until `shutdown` is done, then finishes what has begun.
///
/// While it finishes, for at most [`Config::shutdown_grace`], new requests are answered 503 (`draining`,
/// not applied) and `/ready` says so. Dropping the future ends at once, without waiting for requests.
/// The map may be exchanged while it runs, with [`Hydra::set_map`].
///
/// # Errors
/// `InvalidInput` when the data set has no client map, or the id is not allowed; those of the listener; those of the
/// system, when it has no threads for [`Config::threads`].
pub async fn run(
    listener: TcpListener,
    hydra: Hydra,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    crate::check_id(&config.id).map_err(refuse)?;
    if hydra.map().is_none() {
        return Err(refuse("a router needs a client map; connect with map://path".to_owned()));
    }
    let address = listener.local_addr()?;
    let mut router = Router::new(hydra, config)?;
    tracing::info!(%address, "listening");
    router.accept_until(&listener, shutdown).await;
    router.gateway.drain();
    router.draining.cancel();
    let mut begun = std::mem::take(&mut router.connections);
    let grace = router.gateway.config.shutdown_grace;
    let finished = async {
        let all = async { while begun.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("requests were still running when the grace ended");
        }
    };
    router.accept_until(&listener, finished).await;
    Ok(())
}

struct Router {
    gateway: Arc<Gateway>,
    slots: Arc<Semaphore>,
    /// Dropped with the router, which ends them.
    connections: JoinSet<()>,
    threads: Threads,
    draining: CancellationToken,
}

impl Router {
    fn new(hydra: Hydra, config: Config) -> io::Result<Router> {
        Ok(Router {
            slots: Arc::new(Semaphore::new(config.max_connections)),
            threads: Threads::start(config.threads)?,
            gateway: Arc::new(Gateway::new(hydra, config)),
            connections: JoinSet::new(),
            draining: CancellationToken::new(),
        })
    }

    async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(_) = self.connections.join_next() => {}
                (stream, slot) = accept(listener, &self.slots) => self.spawn(stream, slot),
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        // A peer that is gone already shows at the first read.
        let _ = stream.set_nodelay(true);
        let is_late = self.draining.is_cancelled();
        // One that is late gets one answer, which is why the router ends, and is not ended by what made it so.
        let draining = if is_late { CancellationToken::new() } else { self.draining.clone() };
        let terms = Terms { gateway: Arc::clone(&self.gateway), draining, keep_alive: !is_late, home: None };
        if let Some(tls) = self.gateway.config.tls.clone() {
            self.connections.spawn(encrypted(stream, slot, tls, terms));
            return;
        }
        let Some((thread, seat)) = self.threads.least_busy() else {
            self.connections.spawn(plain(stream, slot, terms));
            return;
        };
        let terms = Terms { home: Some(Handle::current()), ..terms };
        match stream.into_std() {
            Ok(stream) => drop(self.connections.spawn_on(elsewhere(stream, (slot, seat), terms), thread)),
            Err(error) => tracing::debug!("a connection was lost: {error}"),
        }
    }
}

/// What a connection is served with.
struct Terms {
    gateway: Arc<Gateway>,
    draining: CancellationToken,
    /// Whether there may be another request after the first.
    keep_alive: bool,
    /// Where it is served by one thread: the runtime of many, for what would keep the other connections of the thread
    /// waiting, and for the many requests at once of HTTP/2.
    home: Option<Handle>,
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let mut failures = 0_u64;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            // Out of file handles, or a peer that was gone already: neither ends the router.
            Err(error) => {
                if failures.is_multiple_of(100) {
                    tracing::warn!("a connection could not be accepted: {error}");
                }
                failures += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves a connection on another runtime than the one that accepted it.
async fn elsewhere(stream: StdStream, (slot, _seat): (Option<OwnedSemaphorePermit>, Seat), terms: Terms) {
    match TcpStream::from_std(stream) {
        Ok(stream) => plain(stream, slot, terms).await,
        Err(error) => tracing::debug!("a connection was lost: {error}"),
    }
}

/// Learns which HTTP the peer speaks, then serves the connection. A peer that says nothing is let go.
async fn plain(stream: TcpStream, _slot: Option<OwnedSemaphorePermit>, terms: Terms) {
    match speaks_http1(&stream, terms.gateway.config.header_timeout, &terms.draining).await {
        Some(is_http1) => connection(stream, is_http1, terms).await,
        None => tracing::debug!("a connection was closed: its peer said nothing"),
    }
}

/// Agrees on TLS and which HTTP is spoken, then serves the connection. A peer that takes too long is let go.
async fn encrypted(stream: TcpStream, _slot: Option<OwnedSemaphorePermit>, tls: Tls, terms: Terms) {
    let patience = terms.gateway.config.handshake_timeout;
    if let Some((stream, is_http1)) = Box::pin(agree(stream, tls, patience, &terms.draining)).await {
        connection(stream, is_http1, terms).await;
    }
}

/// The stream inside of TLS, and whether HTTP/1 is what was agreed on.
async fn agree(
    stream: TcpStream,
    tls: Tls,
    patience: Duration,
    draining: &CancellationToken,
) -> Option<(Box<TlsStream<TcpStream>>, bool)> {
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(patience, tls.accept(stream)) => greeted,
        () = draining.cancelled() => return None,
    };
    match greeted {
        Ok(Ok(stream)) => {
            let is_http1 = stream.get_ref().1.alpn_protocol() == Some(b"http/1.1");
            return Some((Box::new(stream), is_http1));
        }
        Ok(Err(error)) => tracing::debug!("a peer and this router could not agree on TLS: {error}"),
        Err(_) => tracing::debug!("a peer took too long to agree on TLS"),
    }
    None
}

/// Whether the peer speaks HTTP/1, as far as what it sends first tells; `None` when it says nothing for so long.
async fn speaks_http1(stream: &TcpStream, patience: Duration, draining: &CancellationToken) -> Option<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    let length = {
        let mut said = pin!(tokio::time::timeout(patience, stream.peek(&mut first)));
        tokio::select! {
            said = &mut said => said,
            // What is on its way already is answered.
            () = draining.cancelled() => tokio::time::timeout(ON_ITS_WAY, said).await.and_then(identity),
        }
    };
    // What went wrong shows again when it is read.
    Some(is_http1(&first[..length.ok()?.unwrap_or(0)]))
}

/// Serves one connection until it closes, its peer has used up its time, or the last request after `draining`.
async fn connection<S>(stream: S, is_http1: bool, terms: Terms)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Terms { gateway, draining, keep_alive, home } = terms;
    let peer = Peer::new();
    let io = TokioIo::new(Watched::new(stream, peer.clone(), &gateway.config.id));
    let service = service_fn(|request: Request<Incoming>| {
        let (gateway, waiting) = (Arc::clone(&gateway), peer.wait());
        let home = home.as_ref().filter(|_| !is_http1 || may_take_long(&request)).cloned();
        // In a box: hyper moves what it gets here, and that is kilobytes.
        Box::pin(async move {
            let mut answer = match home {
                None => gateway.answer(request).await,
                Some(home) => {
                    let answering = home.spawn(async move { gateway.answer(request).await });
                    AbortOnDropHandle::new(answering).await?
                }
            };
            match answer.extensions_mut().remove::<StillReading>() {
                Some(reader) => reader.keep(waiting),
                None => drop(waiting),
            }
            Ok::<_, JoinError>(answer)
        })
    });
    let builder = builder(is_http1, keep_alive);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut beside = Rarely::new(beside(&peer, &gateway.config, Some(&draining)));
    loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!("a connection ended: {error}");
                }
                return;
            }
            event = &mut beside => match event {
                Beside::Draining => {
                    connection.as_mut().graceful_shutdown();
                    beside = Rarely::new(self::beside(&peer, &gateway.config, None));
                }
                Beside::TooLate => {
                    tracing::debug!("a connection was closed: its peer took too long");
                    return;
                }
            },
        }
    }
}

/// Whether an answer may take more than a moment to compute. What is about one treasure never does.
fn may_take_long(request: &Request<Incoming>) -> bool {
    !request.uri().path().starts_with("/v1/kv/")
}

/// What may happen to a connection beside its requests.
enum Beside {
    Draining,
    /// The peer has used up its time.
    TooLate,
}

/// Waits for the next of it; for the end of the router only until that is known.
async fn beside(peer: &Peer, config: &Config, draining: Option<&CancellationToken>) -> Beside {
    let drained = async {
        match draining {
            Some(draining) => draining.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = drained => Beside::Draining,
        () = peer.expired(config) => Beside::TooLate,
    }
}

fn builder(is_http1: bool, keep_alive: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if is_http1 {
        builder = builder.http1_only();
    }
    builder.http1().keep_alive(keep_alive).max_buf_size(READ_BUFFER).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(READ_BUFFER as u32);
    builder
}
