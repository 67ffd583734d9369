//! Requests that are passed on as they are.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hydra_sdk::{
    Applied, Chunk, ClientMap, ErrorKind, ForwardBody, ForwardRequest, Hydra, OpClass, Settings, SwampName,
};

use crate::fake::{Asked, Fake, Reply, fine, refusal};

async fn pair(s1: &Fake, s2: &Fake) -> (Hydra, SwampName) {
    let mut settings = Settings::default();
    settings.bulk_timeout = Duration::from_millis(800);
    let map = ClientMap::builder().folders(4).server("s1", s1.url()).server("s2", s2.url());
    let map = map.route("0-3", "s1", ["s2"]).settings(settings).build().expect("a good map");
    (Hydra::with_map(map).expect("a client"), "a/b/c".parse().expect("a name"))
}

fn put(body: ForwardBody) -> ForwardRequest {
    let mut request = ForwardRequest::new(OpClass::Overwrite, "PUT", "/v1/kv/a/b/c/k?sync=true");
    for (name, value) in [
        ("Content-Type", "text/plain"),
        ("Connection", "close"),
        ("Host", "elsewhere"),
        ("Hydra-Fallback-For", "spoofed"),
        ("X-Request-Id", "r1"),
    ] {
        request.headers.append(name, value).expect("a header");
    }
    request.body = body;
    request
}

fn streamed(pieces: &'static [&'static str]) -> ForwardBody {
    let pieces = stream::iter(pieces.iter().map(|piece| Ok(Chunk::from(piece.as_bytes().to_vec()))));
    ForwardBody::Stream(Box::pin(pieces))
}

#[tokio::test]
async fn requests_and_answers_pass_unchanged() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let response = hydra.forward(&name, put(ForwardBody::Whole(Chunk::from_owner("hello")))).await.expect("an answer");
    assert_eq!((response.status, response.server.as_str(), response.fell_back), (201, "s1", false));
    assert_eq!(response.header("hydra-server"), Some("s1"));
    assert!(response.body.collect().await.expect("a body").starts_with(b"{\"key\""));
    let asked = &s1.asked()[0];
    assert_eq!((asked.target.as_str(), asked.body.as_slice()), ("/v1/kv/a/b/c/k?sync=true", b"hello".as_slice()));
    assert_eq!((asked.header("content-type"), asked.header("x-request-id")), (Some("text/plain"), Some("r1")));
    assert_eq!(asked.header("hydra-fallback-for"), None, "only the client itself says this");
    assert!(asked.header("host").expect("a host").starts_with("127.0.0.1"));
    assert!(asked.header("idempotency-key").is_some());
}

#[tokio::test]
async fn error_answers_pass_as_well() {
    let (s1, s2) = (Fake::start(|_| refusal(412, "s1", "version-mismatch", "")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let response = hydra.forward(&name, put(ForwardBody::Empty)).await.expect("an answer");
    assert_eq!((response.status, response.header("hydra-applied")), (412, Some("no")));
    assert!(String::from_utf8_lossy(&response.body.collect().await.expect("a body")).contains("version-mismatch"));
}

#[tokio::test]
async fn streams_fall_over_only_while_nothing_was_sent() {
    let (mut s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    s1.stop().await;
    let response = hydra.forward(&name, put(streamed(&["hel", "lo"]))).await.expect("s2 answers");
    assert_eq!((response.server.as_str(), response.fell_back), ("s2", true));
    let body = String::from_utf8(s2.asked()[0].body.clone()).expect("text");
    assert!(body.contains("hel") && body.contains("lo"), "{body}");
    assert_eq!(s2.asked()[0].header("hydra-fallback-for"), Some("s1; tried"));
    s2.behave(|_| Reply::Close);
    let before = s2.asked().len();
    let error = hydra.forward(&name, put(streamed(&["hel", "lo"]))).await.expect_err("it was sent once");
    assert_eq!((error.applied(), s2.asked().len()), (Applied::Unknown, before + 1), "{error}");
}

#[tokio::test]
async fn a_slow_upload_is_no_timeout() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let drops = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        (n < 10).then(|| (Ok(Chunk::from(vec![b'x'])), n + 1))
    });
    let response = hydra.forward(&name, put(ForwardBody::Stream(Box::pin(drops)))).await.expect("an answer");
    assert_eq!((response.status, s1.asked().len()), (201, 1));
}

#[tokio::test]
async fn answers_are_streamed() {
    let head = b"HTTP/1.1 200 OK\r\nhydra-server: s1\r\ncontent-length: 80000\r\n\r\nhalf".to_vec();
    let (s1, s2) = (Fake::start(move |_| Reply::BytesThenStall(head.clone())).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let request = ForwardRequest::new(OpClass::Read, "GET", "/v1/kv/a/b/c");
    let mut response = hydra.forward(&name, request).await.expect("the head is enough");
    let piece = Pin::new(&mut response.body).next().await.expect("a piece").expect("the first half");
    assert_eq!((piece.as_ref(), response.header("content-length")), (b"half".as_slice(), Some("80000")));
}

#[tokio::test]
async fn a_short_answer_that_breaks_off_is_a_failed_try() {
    let head = b"HTTP/1.1 200 OK\r\nhydra-server: s1\r\ncontent-length: 8\r\n\r\nhalf".to_vec();
    for stalls in [false, true] {
        let head = head.clone();
        let reply = move |_: &Asked| match stalls {
            true => Reply::BytesThenStall(head.clone()),
            false => Reply::Bytes(head.clone()),
        };
        let (s1, s2) = (Fake::start(reply).await, Fake::start(fine("s2")).await);
        let (hydra, name) = pair(&s1, &s2).await;
        let request = ForwardRequest::new(OpClass::Read, "GET", "/v1/kv/a/b/c");
        let response = hydra.forward(&name, request).await.expect("the fallback answers");
        assert_eq!((response.server.as_str(), response.fell_back), ("s2", true), "stalls: {stalls}");
        // A write that the head calls a success was done, and is not done again.
        let error = hydra.forward(&name, put(ForwardBody::Whole(b"1".to_vec().into()))).await.expect_err("half of it");
        assert_eq!((error.applied(), s1.asked().len()), (Applied::Yes, 2), "{error}");
    }
}

#[tokio::test]
async fn one_server_can_be_asked_by_its_id() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, _) = pair(&s1, &s2).await;
    let ask = || ForwardRequest::new(OpClass::Read, "GET", "/v1/folders");
    let response = hydra.forward_to("s2", ask()).await.expect("an answer");
    assert_eq!((response.server.as_str(), s2.asked()[0].target.as_str()), ("s2", "/v1/folders"));
    assert_eq!(hydra.forward_to("s9", ask()).await.expect_err("no such server").kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn paths_that_would_be_rewritten_are_refused() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    for target in ["/v1/kv/a/b/c/../d", "/v1/kv/a/b/c/%2e%2E", "/v1/kv/a/b/c\\d", "no-slash"] {
        let error = hydra.forward(&name, ForwardRequest::new(OpClass::Read, "GET", target)).await.expect_err(target);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{target}");
    }
    assert_eq!(s1.asked().len(), 0);
}

#[tokio::test]
async fn a_client_that_counts_other_folders_is_passed_on_as_such() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let mut request = ForwardRequest::new(OpClass::Read, "GET", "/v1/kv/a/b/c/k");
    request.headers.append("hydra-folders", "1000").expect("a header");
    hydra.forward(&name, request).await.expect("an answer");
    assert_eq!(s1.asked()[0].header("hydra-folders"), Some("1000"), "the server is the one to refuse it");
}

/// Gateways run each request as a task of its own.
#[tokio::test]
async fn forwarding_can_be_spawned() {
    let (s1, s2) = (Fake::start(fine("s1")).await, Fake::start(fine("s2")).await);
    let (hydra, name) = pair(&s1, &s2).await;
    let request = ForwardRequest::new(OpClass::Read, "GET", "/v1/kv/a/b/c/k");
    let task = tokio::spawn(async move { hydra.forward(&name, request).await.map(|response| response.status) });
    assert_eq!(task.await.expect("a task").expect("an answer"), 200);
}
