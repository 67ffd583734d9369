//! TLS: a certificate and its key from two PEM files, read again when they change.
//!
//! The router knows no server crate, so it reads them itself; the rules are those of the server.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How long files that were read are used without another look.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// No certificate or key is longer.
const MOST_BYTES: u64 = 16 << 20;

/// The certificate of a router and its key. Connections that begin after the files changed use the new ones; files that
/// cannot be used leave what was good in force.
///
/// TLS 1.2 and 1.3; HTTP/2 and HTTP/1.1 by ALPN. Clones share what was read.
#[derive(Clone)]
pub struct Tls(Arc<Files>);

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    config: Arc<ServerConfig>,
    seen: Seen,
    looked: Instant,
}

/// Both files as far as they can be told without reading them.
type Seen = [Option<(u64, SystemTime)>; 2];

impl Tls {
    /// Reads a chain of certificates, the router's own first, and the key of that one; both PEM.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Tls, String> {
        let (certificate, key) = (certificate.into(), key.into());
        let seen = look(&certificate, &key);
        let read = Read { config: config(&certificate, &key)?, seen, looked: Instant::now() };
        Ok(Tls(Arc::new(Files { certificate, key, read: Mutex::new(read) })))
    }

    /// Greets a peer. Has no limit of time: that is for the caller.
    ///
    /// # Errors
    /// When the peer speaks no TLS, or none that is allowed here.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.current()).accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.0.certificate).finish_non_exhaustive()
    }
}

impl Files {
    fn current(&self) -> Arc<ServerConfig> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.elapsed() >= LOOK_AGAIN {
            read.looked = Instant::now();
            let seen = look(&self.certificate, &self.key);
            if seen != read.seen {
                read.seen = seen;
                match config(&self.certificate, &self.key) {
                    Ok(config) => read.config = config,
                    Err(why) => tracing::error!("{why}; what was read before stays in force"),
                }
            }
        }
        Arc::clone(&read.config)
    }
}

fn look(certificate: &Path, key: &Path) -> Seen {
    [certificate, key].map(|path| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.len(), data.modified().ok()?))
    })
}

fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let refuse = |path: &Path, why: &dyn fmt::Display| format!("{} cannot be used for TLS: {why}", path.display());
    let pem = read_small(certificate).map_err(|error| refuse(certificate, &error))?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| refuse(certificate, &error))?;
    if chain.is_empty() {
        return Err(refuse(certificate, &"it has no PEM block CERTIFICATE"));
    }
    let pem = read_small(key).map_err(|error| refuse(key, &error))?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| refuse(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| refuse(key, &format!("with {}: {error}", certificate.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    if length > MOST_BYTES {
        return Err(io::Error::other(format!("it has {length} bytes; {MOST_BYTES} are allowed")));
    }
    std::fs::read(path)
}
