//! The connections to one server.
//!
//! A call whose whole answer is awaited goes through reqwest. What is passed on piece by piece goes through hyper, which
//! is below it: reqwest makes a URL of every target and copies the head for redirects and retries, which a gateway would
//! pay for at every request and does not want.

use std::fmt::Display;
use std::time::Duration;

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use reqwest::{Body, Url};

use self::pieces::Pieces;
use crate::access::Credentials;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{self, Answer, AnswerBody, Cause, Failure, Outcome};
use crate::request::Request;
use crate::settings::Settings;

mod pieces;

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
        let server = base.url.as_str().parse().map_err(|error| no_address(base.url.as_str(), &error))?;
        Ok(Connections { base, whole, pieces: Pieces::new(server, credentials.tls.clone(), limit, kept) })
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
            self.pieces.send(http).await?
        };
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: AnswerBody::Open(body) })
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

fn no_address(url: &str, error: &dyn Display) -> Error {
    Error::new(ErrorKind::Config, format!("{url:?} is no address: {error}"))
}

/// A target as the request line has it: what none can have is refused.
fn uri_of(target: &str) -> Result<Uri, Failure> {
    let refuse = |error| Failure::new(Cause::Unasked, format!("has no {target:?}: {error}"));
    target.parse::<PathAndQuery>().map(Uri::from).map_err(refuse)
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
