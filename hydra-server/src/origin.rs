//! Browsers: which pages may change something here, and which may read the answers (CORS).
//!
//! A browser sends `Origin` with every request that a page of another origin makes it send. The request itself
//! cannot be kept from coming, so it is refused here, whatever its content type.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hydra_core::{Error, ErrorCode};

use crate::answer::{self, Response};
use crate::config::Config;
use crate::head::Head;

/// Everything a page may send.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, accept, if-match, if-none-match, prefer, range, idempotency-key, x-request-id, \
     last-event-id, hydra-folders, hydra-pool, hydra-fallback-for, hydra-deadline-ms, hydra-lock-token",
);
/// Everything of ours that a page may read.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "etag, location, link, retry-after, www-authenticate, x-request-id, preference-applied, hydra-applied, \
     hydra-server, hydra-router, hydra-folder, hydra-served-by, hydra-takeover, hydra-durable, hydra-replayed, \
     hydra-copy, hydra-count, hydra-created-at, hydra-updated-at, hydra-expires-at",
);

/// Refuses what a page of another origin wants to change.
///
/// # Errors
/// `origin-denied` names the origin and how it can be allowed.
pub(crate) fn check(head: &Head, config: &Config) -> Result<(), Error> {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match head.headers.get(&ORIGIN).filter(|_| !reads) {
        Some(origin) if !is_allowed(origin, config) && !is_own(origin, head, config) => Err(refused(origin)),
        _ => Ok(()),
    }
}

fn refused(origin: &HeaderValue) -> Error {
    Error::new(ErrorCode::OriginDenied, format!("a page from {origin:?} may not change anything here"))
        .with_hint("start the server with --allow-origin for this origin; programs that are no browser send no Origin")
}

/// The answer to a browser that asks before it sends: what it may send. `None` when the request is none of that kind.
///
/// # Errors
/// `origin-denied`.
pub(crate) fn preflight(head: &Head, allow: &'static str, config: &Config) -> Result<Option<Response>, Error> {
    let asks = head.method == Method::OPTIONS && head.headers.has(&ACCESS_CONTROL_REQUEST_METHOD);
    let Some(origin) = head.headers.get(&ORIGIN).filter(|_| asks) else { return Ok(None) };
    if !is_allowed(origin, config) && !is_own(origin, head, config) {
        return Err(refused(origin));
    }
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allow));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Ok(Some(response))
}

/// Lets the page read the answer where its origin is allowed; no cache may mix answers up.
pub(crate) fn expose(head: &Head, config: &Config, headers: &mut HeaderMap) {
    if config.allow_origins.is_empty() {
        return;
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = head.headers.get(&ORIGIN).filter(|origin| is_allowed(origin, config)) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
}

fn is_allowed(origin: &HeaderValue, config: &Config) -> bool {
    config.allow_origins.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
}

/// Whether the page came from this very server.
///
/// Anybody can let a name of his own point at this machine, and then his page and the server have the same
/// origin as far as the browser can tell. So a name counts only where tokens keep such a page out.
fn is_own(origin: &HeaderValue, head: &Head, config: &Config) -> bool {
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    let host = head.headers.get(&HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| head.uri.authority().map(http::uri::Authority::as_str));
    match (origin, host) {
        (Some((_, theirs)), Some(ours)) if theirs.eq_ignore_ascii_case(ours) => {
            config.tokens.is_some() || is_this_machine(ours)
        }
        _ => false,
    }
}

/// Whether a host is an address, or a name that means only this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next().is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::Ipv4Addr>().is_ok()
}

/// Checks an origin of `--allow-origin`: `scheme://host` or `scheme://host:port`, nothing behind it.
///
/// # Errors
/// What came and what is allowed, in words.
pub fn check_origin(text: &str) -> Result<(), String> {
    let usable = text.split_once("://").is_some_and(|(scheme, host)| {
        matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*,".contains(&byte))
    });
    match usable {
        true => Ok(()),
        false => Err(format!("{text:?} is no origin; write https://app.example or http://localhost:3000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, host: &str, origin: &str) -> Head {
        let request = http::Request::builder().method(method).uri("/v1/flush").header(HOST, host);
        request.header(ORIGIN, origin).body(()).expect("a request").into_parts().0.into()
    }

    #[test]
    fn only_the_server_itself_and_listed_origins_may_change_something() {
        let config = Config { allow_origins: vec!["https://app.example".into()], ..Config::default() };
        for (host, origin, good) in [
            ("127.0.0.1:4937", "http://127.0.0.1:4937", true),
            ("localhost:4937", "http://localhost:4937", true),
            ("[::1]:4937", "http://[::1]:4937", true),
            ("hydra:1", "https://app.example", true),
            ("hydra:1", "https://APP.example", true),
            ("127.0.0.1:4937", "http://127.0.0.1:4938", false),
            ("127.0.0.1:4937", "http://localhost:4937", false),
            ("evil.example:4937", "http://evil.example:4937", false),
            ("hydra:1", "https://app.example.evil", false),
            ("hydra:1", "null", false),
            ("hydra:1", "", false),
        ] {
            assert_eq!(check(&head("POST", host, origin), &config).is_ok(), good, "{origin} at {host}");
            assert!(check(&head("GET", host, origin), &config).is_ok());
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        for good in ["https://app.example", "http://localhost:3000", "http://[::1]:8080"] {
            check_origin(good).expect(good);
        }
        for bad in ["", "*", "app.example", "https://", "https://a/", "https://*.example", "ftp://a", "https://a,b"] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}
