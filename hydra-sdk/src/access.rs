//! Who a client is, and whom it trusts: the token it sends, and the certificates it accepts.
//!
//! A token is kept in a type that never prints it. A file is read again when its content changed, so that a token
//! can be exchanged while programs run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, ErrorKind, Result};
use crate::notice::Notices;

/// How long a token that was read from a file is used without another look.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the token of a client and the certificates it trusts are: `[access]` of a client map. Never the token itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// A file that holds the token; space around it does not count. Read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The environment variable that holds the token; read when the client connects.
    pub token_env: Option<String>,
    /// A file of certificates (PEM) that servers must be signed by, in place of those the system trusts.
    pub ca_certificate: Option<PathBuf>,
}

/// What a program gives its client, in place of what the map says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) token: Option<Secret>,
    pub(crate) access: Access,
    /// Where it wants to hear of events.
    pub(crate) notices: Notices,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the connections of a client use.
#[derive(Debug)]
pub(crate) struct Credentials {
    token: Token,
    /// What they were made from: what is made from the same need not be made again.
    made_from: (Option<Secret>, Access),
    pub(crate) tls: ClientConfig,
}

impl Credentials {
    /// The credentials of a client with this map; `known` are those it has had so far.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] names the file or variable that cannot be used.
    pub(crate) fn new(
        given: &Given,
        map: &Access,
        needs_tls: bool,
        known: Option<&Arc<Credentials>>,
    ) -> Result<Arc<Credentials>> {
        let has_token = given.token.is_some() || given.access.token_file.is_some();
        let access = Access {
            token_file: given.access.token_file.clone().or(map.token_file.clone().filter(|_| !has_token)),
            token_env: map.token_env.clone().filter(|_| !has_token),
            ca_certificate: given.access.ca_certificate.clone().or(map.ca_certificate.clone()),
        };
        let made_from = (given.token.clone(), access);
        if let Some(same) = known.filter(|known| known.made_from == made_from && (!needs_tls || known.speaks_tls())) {
            return Ok(Arc::clone(same));
        }
        let (token, access) = &made_from;
        let token = match (token, &access.token_file, &access.token_env) {
            (Some(token), ..) => Token::Fixed(header_of(&token.0, "the token that was given")?),
            (None, Some(path), _) => Token::File(TokenFile::open(path)?),
            (None, None, Some(name)) => Token::Fixed(of_environment(name)?),
            (None, None, None) => Token::None,
        };
        let roots = if needs_tls { roots(access.ca_certificate.as_deref())? } else { RootCertStore::empty() };
        Ok(Arc::new(Credentials { token, made_from, tls: tls(roots)? }))
    }

    fn speaks_tls(&self) -> bool {
        !self.tls.alpn_protocols.is_empty()
    }

    /// What requests carry as `Authorization`.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        match &self.token {
            Token::None => None,
            Token::Fixed(header) => Some(header.clone()),
            Token::File(file) => Some(file.get()),
        }
    }
}

#[derive(Debug)]
enum Token {
    None,
    Fixed(HeaderValue),
    File(TokenFile),
}

/// A token in a file that may be exchanged.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    read: Mutex<(HeaderValue, Instant)>,
}

impl TokenFile {
    fn open(path: &Path) -> Result<TokenFile> {
        Ok(TokenFile { path: path.to_owned(), read: Mutex::new((of_file(path)?, Instant::now())) })
    }

    fn get(&self) -> HeaderValue {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.1.elapsed() >= LOOK_AGAIN {
            read.1 = Instant::now();
            match of_file(&self.path) {
                Ok(header) => read.0 = header,
                Err(error) => tracing::warn!(%error, "the token stays as it was"),
            }
        }
        read.0.clone()
    }
}

fn of_file(path: &Path) -> Result<HeaderValue> {
    let place = format!("the token file {}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(ErrorKind::Config, format!("{place} cannot be read: {error}")))?;
    header_of(text.trim(), &place)
}

fn of_environment(name: &str) -> Result<HeaderValue> {
    let place = format!("the environment variable {name}");
    let token = std::env::var(name)
        .map_err(|_| Error::new(ErrorKind::Config, format!("{place}, which should hold the token, is not set")))?;
    header_of(token.trim(), &place)
}

fn header_of(token: &str, place: &str) -> Result<HeaderValue> {
    let refused =
        || Error::new(ErrorKind::Config, format!("{place} is no token: one line of printable ASCII without spaces"));
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused());
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| refused())?;
    header.set_sensitive(true);
    Ok(header)
}

/// The certificates that servers must be signed by.
fn roots(ca_certificate: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_certificate else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let refuse = |why: &dyn fmt::Display| {
        Error::new(ErrorKind::Config, format!("the certificates {} cannot be used: {why}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|error| refuse(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(&error))?;
        roots.add(certificate).map_err(|error| refuse(&error))?;
    }
    if roots.is_empty() { Err(refuse(&"it has no PEM block CERTIFICATE")) } else { Ok(roots) }
}

/// TLS 1.2 and 1.3. HTTP/1.1 like without TLS: what is known of a request that broke off is the same then.
pub(crate) fn tls(roots: RootCertStore) -> Result<ClientConfig> {
    let speaks = !roots.is_empty();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Config, format!("no TLS client could be made: {error}")))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if speaks {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(config)
}

/// Host and port of a server's address.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

/// Whether a token sent to this address can be read by others on the way.
pub(crate) fn is_exposed(url: &str) -> bool {
    let host = authority(url).rsplit_once(':').map_or("", |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    url.starts_with("http://") && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(given: &Given, map: &Access) -> Result<Option<HeaderValue>> {
        Credentials::new(given, map, false, None).map(|made| made.authorization())
    }

    #[test]
    fn a_token_comes_from_the_program_first_and_is_never_printed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        std::fs::write(&file, " from-file\n").expect("written");
        let map = Access { token_file: Some(file), ..Access::default() };
        assert_eq!(sent(&Given::default(), &map).expect("read"), Some(HeaderValue::from_static("Bearer from-file")));
        let given = Given { token: Some(Secret("from-program".into())), ..Given::default() };
        let made = Credentials::new(&given, &map, false, None).expect("made");
        assert_eq!(made.authorization(), Some(HeaderValue::from_static("Bearer from-program")));
        let printed = format!("{given:?} {made:?} {:?}", made.authorization());
        assert!(!printed.contains("from-"), "{printed}");
        assert_eq!(sent(&Given::default(), &Access::default()).expect("none"), None);
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_without_repeating_it() {
        for bad in ["", "two words", "line\nbreak", "ümlaut"] {
            let given = Given { token: Some(Secret(bad.into())), ..Given::default() };
            let error = sent(&given, &Access::default()).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
        let missing = Access { token_env: Some("HYDRA_NO_SUCH_VARIABLE".into()), ..Access::default() };
        assert!(sent(&Given::default(), &missing).expect_err("unset").to_string().contains("HYDRA_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn only_plain_http_to_other_machines_exposes_a_token() {
        for (url, exposed) in [
            ("http://10.0.0.1:1", true),
            ("http://hydra.internal:1/", true),
            ("http://127.0.0.1:1", false),
            ("http://localhost:1", false),
            ("http://[::1]:1", false),
            ("https://10.0.0.1:1", false),
        ] {
            assert_eq!(is_exposed(url), exposed, "{url}");
        }
    }
}
