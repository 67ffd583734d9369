//! TLS in front of the router.

use std::time::{Duration, Instant};

use hydra_router::{Config, Tls};
use hydra_sdk::{Hydra, Swamp};
use hydra_server::{Scope, TokenEntry};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::support::{Node, Router, Run, block_on, file, impatient, program};

/// Writes an authority, a certificate for this machine that it made, and the key of that.
fn certificates(dir: &TempDir) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let names = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    let key = KeyPair::generate().expect("a key");
    let certificate = names.signed_by(&key, &issuer).expect("a certificate");
    for (name, pem) in [("ca", issuer.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())] {
        std::fs::write(dir.path().join(name), pem).expect("written");
    }
}

#[test]
fn a_client_uses_the_router_over_tls_and_a_new_certificate_is_taken() {
    let dir = TempDir::new().expect("a directory");
    certificates(&dir);
    let s1 = Node::start_alone("s1");
    let map = hydra_sdk::ClientMap::builder().folders(100).server("s1", s1.url()).route("0-99", "s1", [""; 0]);
    let tls = Tls::open(dir.path().join("cert"), dir.path().join("key")).expect("usable");
    let config = Config { tls: Some(tls), handshake_timeout: Duration::from_millis(500), ..Config::default() };
    let router = Router::start(map.settings(impatient()).build().expect("a map"), config);
    let url = format!("https://localhost:{}", router.target.0.port());
    let works = || {
        block_on(async {
            let hydra =
                Hydra::builder().url(&url).ca_certificate(dir.path().join("ca")).connect().await.expect("connects");
            let swamp: Swamp<u32> = hydra.swamp("users/profiles/alice").expect("a name");
            swamp.put("k", &7).await.is_ok() && swamp.get("k").await.is_ok_and(|value| value == Some(7))
        })
    };
    assert!(works());
    certificates(&dir);
    let until = Instant::now() + Duration::from_secs(10);
    while !works() {
        assert!(Instant::now() < until, "the new certificate is not used");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Whoever says nothing is let go, and so is who speaks no TLS.
    let silent = router.connect().expect("a connection");
    let begun = Instant::now();
    let closed = std::io::Read::read(&mut &silent, &mut [0; 8]);
    assert!(matches!(closed, Ok(0) | Err(_)) && begun.elapsed() < Duration::from_secs(5), "{closed:?}");
    assert!(router.target.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").is_err());
}

/// Tokens for everything, and for reading; the file that servers know them by.
fn tokens(dir: &TempDir) -> (std::path::PathBuf, String, String) {
    let file = dir.path().join("tokens.json");
    let all = [Scope::Read, Scope::Write, Scope::Admin, Scope::Destroy];
    let made = [("all", &all[..]), ("reader", &[Scope::Read])].map(|(name, scopes)| {
        let (entry, token) = TokenEntry::fresh(name, scopes, &["*/*/*".parse().expect("a pattern")]).expect("made");
        entry.append_to(&file).expect("added");
        token
    });
    let [all, reader] = made;
    (file, all, reader)
}

#[test]
fn a_folder_moves_between_servers_that_speak_tls_and_demand_tokens() {
    let (dir, others) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    certificates(&dir);
    certificates(&others);
    let (file_of_tokens, all, reader) = tokens(&dir);
    let config = || hydra_server::Config {
        tls: Some(hydra_server::Tls::open(dir.path().join("cert"), dir.path().join("key")).expect("usable")),
        tokens: hydra_server::Tokens::open(&file_of_tokens).ok(),
        ..hydra_server::Config::default()
    };
    let s1 = Node::start_as("s1", |options| options.copied = true, config());
    let s2 = Node::start_as("s2", |options| options.owned = Some(hydra_core::FolderSet::new()), config());
    std::fs::write(dir.path().join("all"), all).expect("written");
    std::fs::write(dir.path().join("reader"), reader).expect("written");
    let map = |token: &str, authority: &TempDir| {
        let (token, ca) = (dir.path().join(token), authority.path().join("ca"));
        file(&format!(
            "epoch = 7\nfolders = 100\n[access]\ntoken_file = {token:?}\nca_certificate = {ca:?}\n[servers]\n\
             s1 = {{ url = {:?} }}\ns2 = {{ url = {:?} }}\n[[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\n",
            s1.url(),
            s2.url()
        ))
    };
    let (_mine, good) = map("all", &dir);
    let name = crate::support::name_in("50", "users/profiles/u");
    let stored = block_on(async {
        let hydra = Hydra::builder().map_file(&good).connect().await.expect("a client");
        let swamp: Swamp<String> = hydra.swamp(name.clone()).expect("a name");
        // More than one piece of the answer that brings the files.
        let value = "x".repeat(700_000);
        for key in ["a", "b"] {
            swamp.put(key, &value).sync().await.expect("stored");
        }
        value
    });
    let move_by =
        |map: &std::path::Path| Run::of(program().args(["move", "50", "--from", "s1", "--to", "s2", "--map"]).arg(map));
    let (_reader, weak) = map("reader", &dir);
    let refused = move_by(&weak);
    assert_eq!(refused.code, Some(6), "a token that may not: {refused:?}");
    let (_other, strange) = map("all", &others);
    let refused = move_by(&strange);
    assert!(refused.code != Some(0) && refused.err.contains("certificate"), "another authority: {refused:?}");
    let moved = move_by(&good);
    assert_eq!(moved.code, Some(0), "{moved:?}");
    block_on(async {
        // With the map of before: the hint of the source leads to the new owner, over TLS.
        let hydra = Hydra::builder().map_file(&good).connect().await.expect("a client");
        let swamp: Swamp<String> = hydra.swamp(name).expect("a name");
        for key in ["a", "b"] {
            assert_eq!(swamp.get(key).await.expect("read"), Some(stored.clone()));
        }
        assert_eq!(hydra.redirects()[0].2.server, "s2");
    });
}

#[test]
fn what_cannot_be_used_is_a_usage_error() {
    let dir = TempDir::new().expect("a directory");
    certificates(&dir);
    let (_dir, map) =
        file("folders = 1\n[servers]\ns1 = { url = \"http://h:1\" }\n[[route]]\nfolders = \"0\"\nprimary = \"s1\"\n");
    let of = |name: &str| dir.path().join(name).display().to_string();
    for (flags, why) in [
        (vec!["--tls-cert".to_owned(), of("cert")], "--tls-key"),
        (vec!["--tls-key".to_owned(), of("key")], "--tls-cert"),
        (vec!["--tls-cert".to_owned(), of("key"), "--tls-key".to_owned(), of("key")], "CERTIFICATE"),
        (vec!["--tls-cert".to_owned(), of("cert"), "--tls-key".to_owned(), of("ca")], "cannot be used"),
        (vec!["--tls-cert".to_owned(), of("none"), "--tls-key".to_owned(), of("key")], "none"),
    ] {
        let mut command = program();
        command.args(["serve", "--listen", "127.0.0.1:0", "--map"]).arg(&map).args(&flags);
        let run = Run::of(&mut command);
        assert!(run.code == Some(2) && run.err.contains(why), "{flags:?}: {run:?}");
    }
}
