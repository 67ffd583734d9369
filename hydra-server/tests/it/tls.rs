//! TLS: certificates, their change, and peers that are slow or speak something else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydra_sdk::{Applied, ClientEvent, ClientMap, ErrorKind, Hydra as Client, ServerState, Swamp};
use hydra_server::{Config, Tls, Tokens};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::auth::new_token;
use crate::support::{Answer, Hydra, Process, block_on};

/// An authority of the test, and the certificates it makes.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let authority = Authority { dir: TempDir::new().expect("a directory"), issuer };
        std::fs::write(authority.ca(), authority.issuer.pem()).expect("written");
        authority.issue(1);
        authority
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// A new certificate for this machine with another serial number, in place of the one before.
    fn issue(&self, serial: u64) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.key(), key.serialize_pem()).expect("written");
        std::fs::write(self.certificate(), made.pem()).expect("written");
        made.der().to_vec()
    }

    fn config(&self) -> Config {
        Config { tls: Some(Tls::open(self.certificate(), self.key()).expect("usable")), ..Config::default() }
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("a certificate")).expect("added");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn connect(&self, hydra: &Hydra, alpn: &[&str]) -> StreamOwned<ClientConnection, TcpStream> {
        let config = self.client(rustls::ALL_VERSIONS, alpn);
        let connection = ClientConnection::new(config, "localhost".try_into().expect("a name")).expect("a client");
        let mut stream = StreamOwned::new(connection, hydra.connect().expect("a connection"));
        stream.flush().expect("agreed");
        stream.conn.complete_io(&mut stream.sock).expect("agreed");
        stream
    }
}

fn get(stream: impl Read + Write, path: &str) -> Answer {
    ask(stream, "GET", path, "")
}

fn ask(mut stream: impl Read + Write, method: &str, path: &str, headers: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    // A server may close without the farewell of TLS.
    let _ = stream.read_to_end(&mut bytes);
    Answer::parse(&bytes).expect("an answer")
}

#[test]
fn a_client_that_trusts_the_authority_uses_the_server_and_others_do_not() {
    let authority = Authority::new();
    let dir = TempDir::new().expect("a directory");
    let (certificate, key) = (authority.certificate(), authority.key());
    let flags = ["--tls-cert", certificate.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("UTF-8")];
    let server = Process::start(dir.path(), &flags);
    assert!(server.greeting.contains("listening on https://127.0.0.1"), "{}", server.greeting);
    let url = format!("https://{}", server.target.0);
    block_on(async {
        let trusting = Client::builder().url(&url).ca_certificate(authority.ca()).connect().await.expect("connects");
        let swamp: Swamp<u32> = trusting.swamp("users/profiles/alice").expect("a name");
        swamp.put("k", &7).await.expect("written");
        assert_eq!(swamp.get("k").await.expect("read"), Some(7));
        let others = Client::connect(&url).await.expect("nothing is sent yet");
        let swamp: Swamp<u32> = others.swamp("users/profiles/alice").expect("a name");
        let error = swamp.get("k").await.expect_err("the certificate is not trusted");
        assert_eq!(error.kind(), ErrorKind::Network);
        assert!(error.to_string().contains("certificate"), "{error}");
        let missing = Client::builder().url(&url).ca_certificate("/nonexistent").connect().await;
        assert_eq!(missing.expect_err("no file").kind(), ErrorKind::Config);
    });
}

#[test]
fn a_certificate_that_is_not_trusted_fails_writes_and_not_reads() {
    let authority = Authority::new();
    let (one, two) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (certificate, key) = (authority.certificate(), authority.key());
    let tls = ["--tls-cert", certificate.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("UTF-8")];
    let s1 = Process::start(one.path(), &[&["--id", "s1", "--copied"], &tls[..]].concat());
    let s2 = Process::start(two.path(), &["--id", "s2", "--standby", "0-99"]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let map = ClientMap::builder().folders(100).route("0-99", "s1", ["s2"]);
    let map = map.server("s1", format!("https://{}", s1.target.0)).server("s2", format!("http://{}", s2.target.0));
    let events = Arc::clone(&told);
    let builder = Client::builder().map(map.build().expect("a map"));
    let builder = builder.on_event(move |event: &ClientEvent| events.lock().expect("lock").push(event.to_string()));
    block_on(async {
        let client = builder.connect().await.expect("a client");
        let swamp: Swamp<u32> = client.swamp("users/profiles/alice").expect("a name");
        for _ in 0..5 {
            assert_eq!(swamp.get("k").await.expect("read from the copy"), None);
            let error = swamp.put("k", &7).await.expect_err("a month of that at the fallback would be worse");
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Network, Applied::No), "{error}");
            assert!(error.to_string().contains("the certificate of s1 is not trusted"), "{error}");
        }
        assert_eq!(client.servers()[0].1, ServerState::Up, "it is no outage");
    });
    let told = told.lock().expect("lock");
    assert_eq!(told.iter().filter(|event| event.contains("certificate is not trusted")).count(), 1, "{told:?}");
}

#[test]
fn http_2_is_agreed_on_and_old_versions_are_not() {
    let authority = Authority::new();
    let hydra = Hydra::start_with(|_| {}, authority.config());
    for (offered, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let stream = authority.connect(&hydra, offered);
        assert_eq!(stream.conn.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
    }
    assert_eq!(get(authority.connect(&hydra, &["http/1.1"]), "/health").status, 200);
    let old = std::process::Command::new("openssl")
        .args(["s_client", "-tls1_1", "-connect", &hydra.target.0.to_string()])
        .stdin(std::process::Stdio::null())
        .output();
    // Where there is no openssl, nothing here can speak such an old version.
    assert!(old.is_err() || !old.expect("it ran").status.success());
}

#[test]
fn a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let hydra = Hydra::start_with(|_| {}, authority.config());
    let shown = || {
        let stream = authority.connect(&hydra, &[]);
        stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec())
    };
    let open = authority.connect(&hydra, &["http/1.1"]);
    assert!(shown().is_some());
    let second = authority.issue(2);
    let until = Instant::now() + Duration::from_secs(10);
    while shown().as_deref() != Some(&second) {
        assert!(Instant::now() < until, "the new certificate is used");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(get(open, "/health").status, 200, "connections that stand go on");
    std::fs::write(authority.certificate(), "nonsense").expect("written");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(shown().as_deref(), Some(&second[..]), "what was good stays in force");
    let third = authority.issue(3);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(shown().as_deref(), Some(&third[..]));
}

#[test]
fn files_are_read_again_when_an_operator_says_so_all_of_them_or_none() {
    let authority = Authority::new();
    let file = authority.dir.path().join("tokens.json");
    let admin = new_token(&file, "admin", "a", "*/*/*");
    let tokens = Some(Tokens::open(&file).expect("usable"));
    let hydra = Hydra::start_with(|_| {}, Config { tokens, ..authority.config() });
    let ask = |token: &str, method: &str, path: &str| {
        let stream = authority.connect(&hydra, &["http/1.1"]);
        let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
        (ask(stream, method, path, &format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n")), shown)
    };
    let (second, reader) = (authority.issue(2), new_token(&file, "reader", "r", "*/*/*"));
    let (read, _) = ask(&admin, "POST", "/v1/admin/reload");
    assert_eq!((read.status, read.json()["read"].as_array().map(Vec::len)), (200, Some(3)), "{read:?}");
    let (answer, shown) = ask(&reader, "GET", "/v1/kv/a/b/c");
    assert_eq!((answer.status, shown.as_deref()), (200, Some(&second[..])));

    // A token file that is good beside a certificate that is not: the refusal changes neither.
    std::fs::write(authority.certificate(), "nonsense").expect("written");
    let late = new_token(&file, "late", "r", "*/*/*");
    let (refused, _) = ask(&admin, "POST", "/v1/admin/reload");
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid-config"));
    assert!(refused.text().contains("cert.pem"), "{refused:?}");
    let (answer, shown) = ask(&reader, "GET", "/v1/kv/a/b/c");
    assert_eq!((answer.status, shown.as_deref()), (200, Some(&second[..])));
    // Each file by itself is still read at its next use.
    let until = Instant::now() + Duration::from_secs(10);
    while ask(&late, "GET", "/v1/kv/a/b/c").0.status != 200 {
        assert!(Instant::now() < until, "the late token is known");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_certificate_and_a_key_that_do_not_belong_together_are_refused() {
    let (one, other) = (Authority::new(), Authority::new());
    let refused = |certificate: &Path, key: &Path| Tls::open(certificate, key).expect_err("refused").to_string();
    assert!(refused(&one.certificate(), &other.key()).contains("key.pem"));
    assert!(refused(&one.key(), &one.key()).contains("CERTIFICATE"));
    assert!(refused(&one.certificate(), &one.certificate()).contains("cert.pem"));
    assert!(refused(Path::new("/nonexistent"), &one.key()).contains("/nonexistent"));
}

#[test]
fn a_slow_handshake_costs_one_connection_and_ends() {
    let authority = Authority::new();
    let config = Config { handshake_timeout: Duration::from_millis(400), ..authority.config() };
    let mut hydra = Hydra::start_with(|_| {}, config);
    let begun = Instant::now();
    let silent: Vec<TcpStream> = (0..50).map(|_| hydra.connect().expect("a connection")).collect();
    let mut half = hydra.connect().expect("a connection");
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).expect("sent");
    assert_eq!(get(authority.connect(&hydra, &[]), "/health").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waited for the slow ones");
    for mut stream in silent.into_iter().chain([half]) {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "all of them were let go");
    let plain = hydra.target.raw(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap_or_default();
    assert!(!plain.starts_with(b"HTTP/"), "plain HTTP is not answered on a port of TLS");
    let metrics = get(authority.connect(&hydra, &[]), "/metrics").text();
    assert!(metrics.contains("hydra_tls_handshakes_failed_total{reason=\"timeout\"} 51"), "{metrics}");
    assert!(metrics.contains("hydra_tls_handshakes_failed_total{reason=\"refused\"} 1"), "{metrics}");
    // One that has not agreed yet does not hold up the end.
    let _waiting = hydra.connect().expect("a connection");
    let ending = Instant::now();
    block_on(hydra.take_server().shutdown()).expect("closed");
    assert!(ending.elapsed() < Duration::from_secs(5));
}
