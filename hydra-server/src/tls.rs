//! TLS: a certificate and its key from two PEM files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydra_core::{Error, ErrorCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::reload::{Reloaded, read_small};

/// The certificate of a server and its key. Connections that begin after the files changed use the new ones.
///
/// TLS 1.2 and 1.3; HTTP/2 and HTTP/1.1 by ALPN. Clones share what was read.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Reloaded<Arc<ServerConfig>>>);

impl Tls {
    /// Reads a chain of certificates, the server's own first, and the key of that one; both PEM.
    ///
    /// # Errors
    /// `invalid-config` names the file and what is wrong with it.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Tls, Error> {
        let read = |files: &[PathBuf]| config(&files[0], &files[1]);
        Ok(Tls(Arc::new(Reloaded::open(vec![certificate.into(), key.into()], read)?)))
    }

    /// The files of the certificate and its key.
    pub(crate) fn files(&self) -> &Reloaded<Arc<ServerConfig>> {
        &self.0
    }

    /// Greets a peer. Has no limit of time: that is for the caller.
    ///
    /// # Errors
    /// When the peer speaks no TLS, or none that is allowed here.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&*self.0.get());
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let refuse = |path: &Path, why: &dyn std::fmt::Display| {
        Error::new(ErrorCode::InvalidConfig, format!("{} cannot be used for TLS: {why}", path.display()))
    };
    let pem = read_small(certificate, "certificate")?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| refuse(certificate, &error))?;
    if chain.is_empty() {
        return Err(refuse(certificate, &"it has no PEM block CERTIFICATE"));
    }
    let pem = read_small(key, "key")?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| refuse(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| refuse(key, &format!("with {}: {error}", certificate.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
