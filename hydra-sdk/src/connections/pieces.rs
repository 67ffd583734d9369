//! What is passed on piece by piece: requests over connections in HTTP/1 that are kept for the next one.
//!
//! Below reqwest is a client that does the same and more: it knows many servers and HTTP/2, lets a new connection run
//! against one that may get free, and starts a task at every answer that has a body. A gateway would pay for that at each
//! request: a tenth of its instructions. So this stands on hyper's connections themselves.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Body;
use tokio::runtime::{Handle, Id};
use tower_service::Service as _;

use super::{KEEPALIVE, POOL_IDLE};
use crate::error::Result;
use crate::outcome::{self, Outcome};

/// So many runtimes have connections of their own; beyond, the oldest is forgotten.
const RUNTIMES: usize = 1_024;

/// The connections to one server, of each runtime. A connection runs where it was made: a gateway that has threads with a
/// runtime each would wake another thread twice for a request that went through the connection of one.
#[derive(Debug)]
pub(super) struct Pieces {
    server: Uri,
    connector: HttpsConnector<HttpConnector>,
    limit: Duration,
    kept: usize,
    idle_time: Duration,
    runtimes: RwLock<Vec<(Id, Arc<Idle>)>>,
}

type Sender = SendRequest<Body>;

impl Pieces {
    /// Connections that are made within `limit`, and of which so many are kept.
    pub(super) fn new(server: Uri, tls: rustls::ClientConfig, limit: Duration, kept: usize) -> Pieces {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_connect_timeout(Some(limit));
        let connector = HttpsConnector::from((http, tls));
        Pieces { server, connector, limit, kept, idle_time: POOL_IDLE, runtimes: RwLock::default() }
    }

    /// Sends a request and waits for the head of its answer. The target is the path, as it stands in the request line.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Outcome> {
        let idle = self.here();
        loop {
            let (mut sender, is_new) = match idle.take() {
                Some(sender) => (sender, false),
                // In a box: every request would keep room for it, and few need it.
                None => (Box::pin(self.connect()).await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer.map(|body| Body::wrap(Returning::new(body, sender, idle)))),
                Err(mut error) => match error.take_message() {
                    // It was closed while nobody used it.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(outcome::of_error(&error.into_error())),
                },
            }
        }
    }

    /// What the runtime that calls has kept.
    fn here(&self) -> Arc<Idle> {
        let here = Handle::current().id();
        let of_here = |runtimes: &[(Id, Arc<Idle>)]| {
            runtimes.iter().find(|(runtime, _)| *runtime == here).map(|(_, idle)| Arc::clone(idle))
        };
        // The list is whole at every moment, so a panic elsewhere cannot have torn it.
        let known = of_here(&self.runtimes.read().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(|| {
            let mut runtimes = self.runtimes.write().unwrap_or_else(PoisonError::into_inner);
            of_here(&runtimes).unwrap_or_else(|| {
                if runtimes.len() == RUNTIMES {
                    runtimes.remove(0);
                }
                let idle = Arc::new(Idle { kept: self.kept, time: self.idle_time, list: Mutex::default() });
                runtimes.push((here, Arc::clone(&idle)));
                idle
            })
        })
    }

    async fn connect(&self) -> Result<Sender, Outcome> {
        let connecting = self.connector.clone().call(self.server.clone());
        let too_late = |_| outcome::of_connecting(&io::Error::from(io::ErrorKind::TimedOut));
        let connected = tokio::time::timeout(self.limit, connecting).await.map_err(too_late)?;
        let stream = connected.map_err(|error| outcome::of_connecting(&*error))?;
        let (sender, connection) = http1::handshake(stream).await.map_err(|error| outcome::of_error(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to a server ended: {error}");
            }
        });
        Ok(sender)
    }
}

/// The connections of a runtime that nobody uses.
struct Idle {
    kept: usize,
    /// How long they are kept.
    time: Duration,
    list: Mutex<IdleList>,
}

#[derive(Default)]
struct IdleList {
    /// With the moment of their last use, the youngest last.
    senders: Vec<(Sender, Instant)>,
    /// Whether a task closes those that get too old.
    is_watched: bool,
}

impl Idle {
    /// The one that was used last. Those that were closed or got too old go.
    fn take(&self) -> Option<Sender> {
        let mut list = self.lock();
        while let Some((sender, since)) = list.senders.pop() {
            if since.elapsed() >= self.time {
                list.senders.clear();
            } else if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps one for the next request, as soon as it is ready for it.
    fn give_back(self: Arc<Idle>, mut sender: Sender) {
        if self.kept == 0 || sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            return self.keep(sender);
        }
        // The rest of the request is still on its way. Whoever reads an answer elsewhere does without the connection.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if sender.ready().await.is_ok() {
                self.keep(sender);
            }
        });
    }

    fn keep(self: &Arc<Idle>, sender: Sender) {
        let mut list = self.lock();
        if list.senders.len() == self.kept {
            return;
        }
        list.senders.push((sender, Instant::now()));
        if !std::mem::replace(&mut list.is_watched, true) {
            // Without a runtime, and by one that has ended, the watch is dropped at once, and takes the lock.
            drop(list);
            let watch = Watch(Arc::downgrade(self));
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(watch.close_old(self.time));
            }
        }
    }

    /// The list is whole at every moment, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> MutexGuard<'_, IdleList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("connections", &self.lock().senders.len()).finish_non_exhaustive()
    }
}

/// Looks after the connections that nobody uses.
struct Watch(Weak<Idle>);

impl Watch {
    /// Closes those that nobody used for so long, until there is none.
    async fn close_old(self, time: Duration) {
        loop {
            tokio::time::sleep(time).await;
            let Some(idle) = self.0.upgrade() else { return };
            let mut list = idle.lock();
            list.senders.retain(|(_, since)| since.elapsed() < time);
            if list.senders.is_empty() {
                list.is_watched = false;
                return;
            }
        }
    }
}

impl Drop for Watch {
    /// Also when its runtime ends: somebody else watches then.
    fn drop(&mut self) {
        if let Some(idle) = self.0.upgrade() {
            idle.lock().is_watched = false;
        }
    }
}

/// The body of an answer, whose connection is kept for the next request when all of it was read. If it is dropped before,
/// the connection is closed: what is left of the answer would stand in front of the next one.
struct Returning {
    body: Incoming,
    connection: Option<(Sender, Arc<Idle>)>,
}

impl Returning {
    fn new(body: Incoming, sender: Sender, idle: Arc<Idle>) -> Returning {
        let mut returning = Returning { body, connection: Some((sender, idle)) };
        returning.return_at_end();
        returning
    }

    fn return_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some((sender, idle)) = self.connection.take() {
            idle.give_back(sender);
        }
    }
}

impl http_body::Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(_)) => self.return_at_end(),
            Some(Err(_)) => self.connection = None,
            None => self.give_back(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers so often on each connection, with a body of 300 000 bytes, and then closes it.
    struct Peer {
        address: String,
        /// Connections that were made, and those that the client has closed.
        made: Arc<AtomicUsize>,
        closed: Arc<AtomicUsize>,
    }

    impl Peer {
        async fn start(answers: usize) -> Peer {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("an address").to_string();
            let (made, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let peer = Peer { address, made: Arc::clone(&made), closed: Arc::clone(&closed) };
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    made.fetch_add(1, Ordering::SeqCst);
                    let closed = Arc::clone(&closed);
                    tokio::spawn(async move {
                        let answer =
                            [&b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n"[..], &[b'x'; 300_000]].concat();
                        for _ in 0..answers {
                            // A request is short enough to come in one piece.
                            if stream.read(&mut [0; 4_096]).await.is_ok_and(|length| length > 0) {
                                let _ = stream.write_all(&answer).await;
                            } else {
                                closed.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                        }
                    });
                }
            });
            peer
        }

        fn pieces(&self, kept: usize) -> Pieces {
            let server = format!("http://{}/", self.address).parse().expect("an address");
            let tls = crate::access::tls(rustls::RootCertStore::empty()).expect("a TLS client");
            Pieces::new(server, tls, Duration::from_secs(10), kept)
        }

        fn made(&self) -> usize {
            self.made.load(Ordering::SeqCst)
        }

        async fn until_closed(&self, connections: usize) {
            for _ in 0..1_000 {
                if self.closed.load(Ordering::SeqCst) == connections {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{} of {connections} connections were closed", self.closed.load(Ordering::SeqCst));
        }
    }

    async fn answer(pieces: &Pieces) -> Response<Body> {
        let request = Request::get("/").header("host", "peer").body(Body::default()).expect("a request");
        pieces.send(request).await.expect("an answer")
    }

    async fn whole_answer(pieces: &Pieces) {
        let body = answer(pieces).await.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes().len(), 300_000);
    }

    #[tokio::test]
    async fn a_connection_is_used_again_when_its_answer_was_read() {
        let peer = Peer::start(usize::MAX).await;
        let pieces = peer.pieces(2);
        for _ in 0..10 {
            whole_answer(&pieces).await;
        }
        assert_eq!(peer.made(), 1);
        let (one, other, third) = (answer(&pieces).await, answer(&pieces).await, answer(&pieces).await);
        assert_eq!(peer.made(), 3);
        for open in [one, other, third] {
            open.into_body().collect().await.expect("a body");
        }
        // Two are kept.
        peer.until_closed(1).await;
    }

    #[tokio::test]
    async fn a_connection_is_closed_when_its_answer_was_not_read_to_the_end() {
        let peer = Peer::start(usize::MAX).await;
        let pieces = peer.pieces(32);
        drop(answer(&pieces).await);
        whole_answer(&pieces).await;
        assert_eq!(peer.made(), 2);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_fails_nobody() {
        let peer = Peer::start(1).await;
        let pieces = peer.pieces(32);
        for _ in 0..20 {
            whole_answer(&pieces).await;
        }
        assert_eq!(peer.made(), 20);
    }

    #[tokio::test]
    async fn connections_that_nobody_uses_are_closed() {
        let peer = Peer::start(usize::MAX).await;
        let pieces = Pieces { idle_time: Duration::from_millis(50), ..peer.pieces(32) };
        for round in 1..=3 {
            whole_answer(&pieces).await;
            assert_eq!(peer.made(), round);
            peer.until_closed(round).await;
        }
    }

    #[test]
    fn what_was_read_outside_of_a_runtime_is_watched_by_the_next() {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (serving, calling) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
        let peer = serving.block_on(Peer::start(usize::MAX));
        let pieces = Pieces { idle_time: Duration::from_millis(50), ..peer.pieces(32) };
        let mut body = std::pin::pin!(calling.block_on(answer(&pieces)).into_body().collect());
        while body.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let idle = calling.block_on(async { pieces.here() });
        assert!(!idle.lock().is_watched);
        calling.block_on(whole_answer(&pieces));
        serving.block_on(peer.until_closed(peer.made()));
    }

    #[tokio::test]
    async fn without_any_to_keep_each_is_used_once() {
        let peer = Peer::start(usize::MAX).await;
        let pieces = peer.pieces(0);
        whole_answer(&pieces).await;
        peer.until_closed(1).await;
        whole_answer(&pieces).await;
        assert_eq!(peer.made(), 2);
    }
}
