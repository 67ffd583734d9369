//! What counts as what: real connections that misbehave, one way each, and what the client makes of it.

use std::time::Duration;

use hydra_sdk::{Applied, ClientMap, Error, ErrorKind, Hydra, Settings, Swamp, TryOutcome};
use tokio::net::TcpListener;

use crate::fake::{Asked, Fake, Reply, answer, fine};

/// A client of one server that is asked once and does not wait long.
fn client(url: &str) -> Hydra {
    let mut settings = Settings::default();
    (settings.attempts, settings.try_timeout) = (1, Duration::from_millis(600));
    let map = ClientMap::builder().folders(1).server("s1", url).route("0", "s1", [""; 0]).settings(settings);
    Hydra::with_map(map.build().expect("a good map")).expect("a client")
}

async fn put(hydra: &Hydra) -> Result<(), Error> {
    let swamp: Swamp = hydra.swamp("a/b/c").expect("a name");
    swamp.put("k", &1.into()).await.map(drop)
}

async fn get(hydra: &Hydra) -> Result<(), Error> {
    let swamp: Swamp = hydra.swamp("a/b/c").expect("a name");
    swamp.get("k").await.map(drop)
}

/// What a put and a get make of a server that behaves like this.
async fn of(behaviour: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Error, Result<(), Error>, usize) {
    let fake = Fake::start(behaviour).await;
    let hydra = client(&fake.url());
    let error = put(&hydra).await.expect_err("the put fails");
    (error, get(&hydra).await, fake.asked().len())
}

fn outcome(error: &Error) -> (TryOutcome, Applied, bool) {
    (error.attempts()[0].outcome, error.applied(), error.is_network())
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = put(&client(&url)).await.expect_err("refused");
    assert_eq!(outcome(&error), (TryOutcome::NotSent, Applied::No, true), "{error}");
    assert!(error.to_string().contains("s1 refused the connection"), "{error}");
}

#[tokio::test]
async fn no_such_host() {
    let error = put(&client("http://no-such-host.invalid:4937")).await.expect_err("unknown host");
    assert_eq!(outcome(&error), (TryOutcome::NotSent, Applied::No, true), "{error}");
}

#[tokio::test]
async fn a_full_backlog_never_accepts() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut fill = Vec::new();
    // Connections that nobody accepts, until the system lets no more wait.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await
    {
        fill.push(stream);
    }
    let error = put(&client(&format!("http://{address}"))).await.expect_err("no connection");
    assert_eq!(outcome(&error), (TryOutcome::NotSent, Applied::No, true), "{error}");
    assert!(error.to_string().contains("did not accept a connection in time"), "{error}");
}

#[tokio::test]
async fn closed_before_the_request_was_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_zero_linger();
            drop(stream);
        }
    });
    let error = put(&client(&url)).await.expect_err("closed");
    // Whether the first byte was written before the close is a race that the client cannot see the
    // end of; it must never claim less than it knows.
    assert!(error.is_network(), "{error}");
    let expected = if error.attempts()[0].outcome == TryOutcome::NotSent { Applied::No } else { Applied::Unknown };
    assert_eq!(error.applied(), expected, "{error}");
}

#[tokio::test]
async fn read_and_then_closed() {
    let (error, read, asked) = of(|_| Reply::Close).await;
    assert_eq!(outcome(&error), (TryOutcome::Maybe, Applied::Unknown, true), "{error}");
    assert_eq!(read.expect_err("no answer").applied(), Applied::No, "a read changes nothing");
    assert_eq!(asked, 2, "one try each");
}

#[tokio::test]
async fn half_a_status_line() {
    let (error, ..) = of(|_| Reply::Bytes(b"HTTP/1.1 20".to_vec())).await;
    assert_eq!(outcome(&error), (TryOutcome::Maybe, Applied::Unknown, true), "{error}");
    let (error, ..) = of(|_| Reply::Bytes(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec())).await;
    assert_eq!(outcome(&error), (TryOutcome::Maybe, Applied::Unknown, true), "{error}");
}

#[tokio::test]
async fn silence() {
    let (error, ..) = of(|_| Reply::Stall).await;
    assert_eq!(outcome(&error), (TryOutcome::Maybe, Applied::Unknown, true), "{error}");
    assert!(error.to_string().contains("did not answer in time"), "{error}");
}

#[tokio::test]
async fn a_success_whose_body_is_lost() {
    let head = b"HTTP/1.1 201 Created\r\nhydra-server: s1\r\ncontent-length: 100\r\n\r\n{".to_vec();
    let stalled = head.clone();
    let (cut, read, _) = of(move |_| Reply::Bytes(head.clone())).await;
    assert_eq!((cut.applied(), cut.is_network()), (Applied::Yes, true), "{cut}");
    assert!(read.expect_err("no body").is_network());
    let (stall, ..) = of(move |_| Reply::BytesThenStall(stalled.clone())).await;
    assert_eq!(stall.applied(), Applied::Yes, "{stall}");
}

#[tokio::test]
async fn a_proxy_that_cannot_reach_the_server() {
    for status in [502, 503, 504] {
        let (error, ..) = of(move |_| Reply::Answer(status, Vec::new(), b"sorry".to_vec())).await;
        assert_eq!(outcome(&error), (TryOutcome::Maybe, Applied::Unknown, true), "{status}: {error}");
    }
}

#[tokio::test]
async fn somebody_else_entirely() {
    for status in [200, 404] {
        let (error, read, _) = of(move |_| Reply::Answer(status, Vec::new(), b"<html>".to_vec())).await;
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Protocol, Applied::Unknown), "{error}");
        assert_eq!(read.expect_err("another server's 404 is not an absent treasure").kind(), ErrorKind::Protocol);
    }
}

#[tokio::test]
async fn refusals_are_answers() {
    for (status, code, kind) in [
        (412, "version-mismatch", ErrorKind::VersionMismatch),
        (413, "value-too-large", ErrorKind::TooLarge),
        (409, "folder-count-mismatch", ErrorKind::Conflict),
        (428, "version-required", ErrorKind::VersionMismatch),
        (503, "swamp-read-only", ErrorKind::Unavailable),
        (507, "disk-full", ErrorKind::Storage),
    ] {
        let (error, ..) = of(move |_| crate::fake::refusal(status, "s1", code, "")).await;
        assert_eq!((error.kind(), error.applied(), error.is_network()), (kind, Applied::No, false), "{error}");
        assert_eq!(error.code().map(|code| code.as_str()), Some(code));
        assert_eq!(error.detail(), "because");
    }
}

#[tokio::test]
async fn a_disk_that_failed_leaves_doubt() {
    let body = r#"{"type":"/problems/io","title":"t","status":500,"code":"io","detail":"d","applied":"unknown"}"#;
    let (error, ..) = of(move |_| {
        let headers = vec![("hydra-server", "s1".to_owned()), ("hydra-applied", "unknown".to_owned())];
        Reply::Answer(500, headers, body.as_bytes().to_vec())
    })
    .await;
    assert_eq!((error.kind(), error.applied(), error.is_network()), (ErrorKind::Storage, Applied::Unknown, false));
}

#[tokio::test]
async fn absence_is_no_error() {
    let fake = Fake::start(|_| crate::fake::refusal(404, "s1", "treasure-not-found", "")).await;
    let swamp: Swamp = client(&fake.url()).swamp("a/b/c").expect("a name");
    assert_eq!(swamp.get("k").await.expect("absent"), None);
    assert!(!swamp.delete("k").await.expect("nothing to remove"));
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_replaced_unseen() {
    let mut fake = Fake::start(fine("s1")).await;
    let hydra = client(&fake.url());
    put(&hydra).await.expect("stored");
    fake.stop().await;
    fake.restart().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    put(&hydra).await.expect("stored on a new connection");
}

#[tokio::test]
async fn a_status_without_a_body_is_enough() {
    let fake = Fake::start(|_| answer(204, "s1", "")).await;
    let swamp: Swamp = client(&fake.url()).swamp("a/b/c").expect("a name");
    assert!(swamp.delete("k").await.expect("removed"));
}
