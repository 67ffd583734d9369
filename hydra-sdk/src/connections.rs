//! The connections to one server.
//!
//! A call whose whole answer is awaited goes through reqwest. What is passed on piece by piece goes through the client
//! of hyper that is below it: reqwest makes a URL of every target and copies the head for redirects and retries, which a
//! gateway would pay for at every request and does not want.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::header::HeaderMap;
use http::uri::{Authority, PathAndQuery, Scheme};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::{Body, Url};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Id};
use tower_service::Service;

use crate::access::Credentials;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{self, Answer, AnswerBody, Cause, Failure, Outcome};
use crate::request::Request;
use crate::settings::Settings;

/// How long an unused connection is kept: shorter than servers keep theirs, or requests would meet
/// connections that are just being closed.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// How many unused connections are kept, of either kind.
pub(crate) const POOL_SIZE: usize = 32;
/// After so long without a sign of life the system asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The connections to a server.
#[derive(Debug)]
pub(crate) struct Connections {
    base: Base,
    whole: reqwest::Client,
    pieces: Pieces,
}

impl Connections {
    /// Connections that are made when they are needed, and of which so many are kept open.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an address that cannot be used.
    pub(crate) fn new(url: &str, settings: &Settings, credentials: &Credentials, kept: usize) -> Result<Connections> {
        let limit = connect_timeout(url, settings);
        let whole = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(limit)
            .tls_backend_preconfigured(credentials.tls.clone())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(kept)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .build()
            .map_err(|error| Error::new(ErrorKind::Config, format!("no HTTP client could be made: {error}")))?;
        let pieces = Pieces { connector: Connector::new(credentials, limit), kept, clients: RwLock::default() };
        Ok(Connections { base: Base::new(url)?, whole, pieces })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&self, request: &Request, headers: HeaderMap) -> Result<Answer, Outcome> {
        let response = if request.collect {
            let mut http = reqwest::Request::new(request.method.clone(), self.base.url_of(&request.target));
            *http.headers_mut() = headers;
            *http.body_mut() = request.body.to_http().map_err(Outcome::NotSent)?;
            let answered = self.whole.execute(http).await;
            answered.map_err(|error| outcome::of_error(&error))?.into()
        } else {
            let mut http = http::Request::new(Body::default());
            *http.method_mut() = request.method.clone();
            *http.uri_mut() = self.base.uri_of(&request.target).map_err(Outcome::NotSent)?;
            *http.headers_mut() = headers;
            if let Some(body) = request.body.to_http().map_err(Outcome::NotSent)? {
                *http.body_mut() = body;
            }
            let answered = self.pieces.here().request(http).await;
            answered.map_err(|error| outcome::of_error(&error))?.map(Body::wrap)
        };
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: AnswerBody::Open(body) })
    }
}

/// So many runtimes have clients of their own; beyond, the oldest is forgotten.
const RUNTIMES: usize = 1_024;

/// The client of each runtime, for what is passed on piece by piece. A connection runs where it was made: a gateway that
/// has threads with a runtime each would wake another thread twice for a request that went through the connection of one.
#[derive(Debug)]
struct Pieces {
    connector: Connector,
    kept: usize,
    clients: RwLock<Vec<(Id, Arc<PiecesClient>)>>,
}

type PiecesClient = Client<Connector, Body>;

impl Pieces {
    /// The client of the runtime that calls.
    fn here(&self) -> Arc<PiecesClient> {
        let here = Handle::current().id();
        let of_here = |clients: &[(Id, Arc<PiecesClient>)]| {
            clients.iter().find(|(runtime, _)| *runtime == here).map(|(_, client)| Arc::clone(client))
        };
        // The list is whole at every moment, so a panic elsewhere cannot have torn it.
        let known = of_here(&self.clients.read().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(|| {
            let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
            of_here(&clients).unwrap_or_else(|| {
                if clients.len() == RUNTIMES {
                    clients.remove(0);
                }
                let client = Arc::new(self.client());
                clients.push((here, Arc::clone(&client)));
                client
            })
        })
    }

    fn client(&self) -> PiecesClient {
        Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(self.kept)
            .build(self.connector.clone())
    }
}

/// The longest a new connection may take.
pub(crate) fn connect_timeout(url: &str, settings: &Settings) -> Duration {
    // To agree on TLS takes two more ways there and back.
    settings.connect_timeout * if url.starts_with("https://") { 3 } else { 1 }
}

/// The address of a server. Scheme and host are read once, which is most of the work of a URL.
#[derive(Debug)]
struct Base {
    url: Url,
    scheme: Scheme,
    authority: Authority,
}

impl Base {
    fn new(url: &str) -> Result<Base> {
        let refuse =
            |error: &dyn fmt::Display| Error::new(ErrorKind::Config, format!("{url:?} is no address: {error}"));
        let url = Url::parse(url).map_err(|error| refuse(&error))?;
        let authority = url.authority().parse().map_err(|error| refuse(&error))?;
        let scheme = if url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Base { url, scheme, authority })
    }

    /// The address of what a request is about.
    fn url_of(&self, target: &str) -> Url {
        let mut url = self.url.clone();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// The same for hyper, which takes targets as they are: what no request line can have is refused.
    fn uri_of(&self, target: &str) -> Result<Uri, Failure> {
        let refuse = |error: &dyn fmt::Display| Failure::new(Cause::Unasked, format!("has no {target:?}: {error}"));
        let target: PathAndQuery = target.parse().map_err(|error| refuse(&error))?;
        let parts = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        parts.path_and_query(target).build().map_err(|error| refuse(&error))
    }
}

/// Makes connections, with or without TLS, within a time.
#[derive(Debug, Clone)]
struct Connector {
    /// Shared, because hyper's client makes a copy for every request, and uses few of them.
    connector: Arc<HttpsConnector<HttpConnector>>,
    limit: Duration,
}

impl Connector {
    fn new(credentials: &Credentials, limit: Duration) -> Connector {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_connect_timeout(Some(limit));
        Connector { connector: Arc::new(HttpsConnector::from((http, credentials.tls.clone()))), limit }
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    /// Always: connections are made one beside the other.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (HttpsConnector::clone(&self.connector).call(uri), self.limit);
        Box::pin(async move {
            let too_late = |_| BoxError::from(io::Error::from(io::ErrorKind::TimedOut));
            tokio::time::timeout(limit, connecting).await.map_err(too_late)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_behind_the_address() {
        for (base, target, address) in [
            ("http://h:1", "/v1/kv/a/b/c/k%2Fl?raw", "http://h:1/v1/kv/a/b/c/k%2Fl?raw"),
            ("http://h:1/", "/", "http://h:1/"),
            ("https://h:1/", "/v1/map?x=%20", "https://h:1/v1/map?x=%20"),
            ("http://[::1]:80", "/v1/map", "http://[::1]/v1/map"),
        ] {
            let base = Base::new(base).expect("an address");
            assert_eq!(base.url_of(target).as_str(), address);
            assert_eq!(base.uri_of(target).expect("a target").to_string(), address);
        }
    }
}
