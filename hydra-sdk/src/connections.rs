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
use http::header::{HOST, HeaderMap, HeaderValue};
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
        let base = Base::new(url)?;
        let connector = Connector::new(&base, credentials, limit)?;
        Ok(Connections { base, whole, pieces: Pieces { connector, kept, clients: RwLock::default() } })
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
            *http.uri_mut() = uri_of(&request.target).map_err(Outcome::NotSent)?;
            *http.headers_mut() = headers;
            http.headers_mut().insert(HOST, self.base.host.clone());
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
            // It would write one for each request.
            .set_host(false)
            .build(self.connector.clone())
    }
}

/// The longest a new connection may take.
pub(crate) fn connect_timeout(url: &str, settings: &Settings) -> Duration {
    // To agree on TLS takes two more ways there and back.
    settings.connect_timeout * if url.starts_with("https://") { 3 } else { 1 }
}

/// The address of a server.
#[derive(Debug)]
struct Base {
    url: Url,
    /// What requests say whom they are for.
    host: HeaderValue,
}

impl Base {
    fn new(url: &str) -> Result<Base> {
        let url = Url::parse(url).map_err(|error| no_address(url, &error))?;
        // As browsers write it: without a port that goes without saying.
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => HeaderValue::try_from(format!("{host}:{port}")),
            (host, None) => HeaderValue::try_from(host),
        };
        let host = host.map_err(|error| no_address(url.as_str(), &error))?;
        Ok(Base { url, host })
    }

    /// The address of what a request is about.
    fn url_of(&self, target: &str) -> Url {
        let mut url = self.url.clone();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }
}

fn no_address(url: &str, error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("{url:?} is no address: {error}"))
}

/// The same for hyper, which takes targets as they are: what no request line can have is refused. hyper looks for a
/// connection by the address, and knows one server here, so it has the shortest name.
fn uri_of(target: &str) -> Result<Uri, Failure> {
    let refuse = |error: &dyn fmt::Display| Failure::new(Cause::Unasked, format!("has no {target:?}: {error}"));
    let target: PathAndQuery = target.parse().map_err(|error| refuse(&error))?;
    let parts = Uri::builder().scheme(Scheme::HTTP).authority(Authority::from_static("s"));
    parts.path_and_query(target).build().map_err(|error| refuse(&error))
}

/// Makes connections to a server, with or without TLS, within a time.
#[derive(Debug, Clone)]
struct Connector {
    /// Shared, because hyper's client makes a copy for every request, and uses few of them.
    to: Arc<(Uri, HttpsConnector<HttpConnector>)>,
    limit: Duration,
}

impl Connector {
    fn new(base: &Base, credentials: &Credentials, limit: Duration) -> Result<Connector> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_connect_timeout(Some(limit));
        let server = base.url.as_str().parse().map_err(|error| no_address(base.url.as_str(), &error))?;
        Ok(Connector { to: Arc::new((server, HttpsConnector::from((http, credentials.tls.clone())))), limit })
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

    fn call(&mut self, _: Uri) -> Self::Future {
        let (server, connector) = &*self.to;
        let (connecting, limit) = (connector.clone().call(server.clone()), self.limit);
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
        for (base, target, address, host) in [
            ("http://h:1", "/v1/kv/a/b/c/k%2Fl?raw", "http://h:1/v1/kv/a/b/c/k%2Fl?raw", "h:1"),
            ("http://h:1/", "/", "http://h:1/", "h:1"),
            ("https://h:443/", "/v1/map?x=%20", "https://h/v1/map?x=%20", "h"),
            ("http://[::1]:80", "/v1/map", "http://[::1]/v1/map", "[::1]"),
        ] {
            let base = Base::new(base).expect("an address");
            assert_eq!(base.url_of(target).as_str(), address);
            assert_eq!(base.host, host);
            assert_eq!(uri_of(target).expect("a target").path_and_query().map(PathAndQuery::as_str), Some(target));
        }
    }
}
