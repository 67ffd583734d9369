//! Queues and locks over HTTP, with real processes where something dies.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hydra_sdk::{Hydra, Order, Swamp};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::support::{Answer, Hydra as Server, Process, Target, block_on};

const KV: &str = "/v1/kv/jobs/mail/eu";
const SHIFT: &str = "/v1/swamps/jobs/mail/eu/shift";
const LOCK: &str = "/v1/swamps/jobs/mail/eu/locks/import";

fn keys(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let treasures = body["treasures"].as_array().expect("treasures");
    treasures.iter().map(|treasure| treasure["key"].as_str().expect("a key").to_owned()).collect()
}

fn fill(target: &Target, jobs: usize) {
    let ops: Vec<Json> = (0..jobs).map(|n| json!({"op": "put", "key": format!("job{n:05}"), "value": n})).collect();
    let answer = target.post("/v1/swamps/jobs/mail/eu/batch?sync", &json!({ "ops": ops }).to_string());
    assert_eq!((answer.status, answer.json()["failed"].as_u64()), (200, Some(0)));
}

/// Sends a request and goes away before there is an answer.
fn give_up(target: &Target, method: &str, path: &str, body: &str) {
    let mut stream = target.connect().expect("connects");
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").expect("sent");
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn a_shift_answers_treasures_and_takes_them_or_leases_them() {
    let hydra = Server::start();
    assert_eq!(hydra.post(SHIFT, "").text(), "{\"treasures\":[]}");
    fill(&hydra, 3);
    let first = hydra.post(SHIFT, "");
    assert_eq!((keys(&first), first.header("hydra-durable")), (vec!["job00000".to_owned()], Some("buffered")));
    assert_eq!(first.json()["treasures"][0]["value"], 0);
    assert_eq!(hydra.get(&format!("{KV}/job00000")).status, 404);
    let leased = hydra.post(&format!("{SHIFT}?n=9&by=key&dir=desc&lease=1500ms&sync"), "");
    assert_eq!(
        (keys(&leased), leased.header("hydra-durable")),
        (vec!["job00002".into(), "job00001".into()], Some("synced"))
    );
    assert_eq!(hydra.post(&format!("{SHIFT}?n=9"), "").text(), "{\"treasures\":[]}");
    let job = &leased.json()["treasures"][0];
    let (path, version) = (format!("{KV}/job00002"), format!("\"{}\"", job["version"].as_str().expect("a version")));
    let got = hydra.get(&path);
    assert_eq!((got.etag(), got.header("hydra-expires-at")), (version.clone(), job["expiresAt"].as_str()));
    // Somebody who needs longer puts it again under its version; whoever is done deletes it.
    let longer = hydra.send("PUT", &format!("{path}?ttl=60s"), &[("If-Match", &version)], "2");
    assert_eq!(longer.status, 200);
    assert_eq!(hydra.send("DELETE", &path, &[("If-Match", &version)], "").code(), "version-mismatch");
    let begun = Instant::now();
    let again = hydra.post(&format!("{SHIFT}?n=9&only=due&by=expires&wait=20s"), "");
    assert_eq!(keys(&again), ["job00001"], "its lease was over");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(hydra.send("DELETE", &path, &[("If-Match", &longer.etag())], "").status, 204);
}

#[test]
fn what_is_asked_wrong_is_told_by_name() {
    let hydra = Server::start();
    for (query, named) in [("n=0", "1 to 1000"), ("by=size", "by is"), ("lease=0", "lease"), ("wait=2m", "wait is")] {
        let answer = hydra.post(&format!("{SHIFT}?{query}"), "");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-parameter"), "{query}");
        assert!(answer.text().contains(named), "{answer:?}");
    }
    assert_eq!(hydra.post(&format!("{SHIFT}?limit=1"), "").code(), "unknown-parameter");
    assert_eq!(hydra.post(SHIFT, "{}").code(), "invalid-body");
    assert_eq!(hydra.send("POST", SHIFT, &[("If-Match", "*")], "").code(), "invalid-header");
    let wrong = hydra.get(SHIFT);
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    for body in ["", "{}", "{\"ttl\":\"soon\"}", "{\"ttl\":1,\"owner\":5}", "{\"ttl\":1,\"tll\":2}"] {
        assert_eq!(hydra.post(LOCK, body).code(), "invalid-body", "{body}");
    }
    for body in ["{\"ttl\":0}", "{\"ttl\":\"25h\"}", "{\"ttl\":1,\"wait\":\"61s\"}"] {
        assert_eq!(hydra.post(LOCK, body).code(), "invalid-parameter", "{body}");
    }
    let long = format!("{LOCK}{}", "x".repeat(255));
    assert_eq!(hydra.post(&long, "{\"ttl\":1}").code(), "invalid-key");
    assert_eq!(hydra.send("PUT", LOCK, &[], "{\"ttl\":1}").code(), "invalid-header");
    assert_eq!(hydra.send("PATCH", LOCK, &[], "").status, 405);
}

#[test]
fn twenty_workers_of_one_server_take_every_job_exactly_once() {
    let dir = TempDir::new().expect("a directory");
    let server = Process::start(dir.path(), &[]);
    fill(&server.target, 10_000);
    let taken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..20 {
            let (target, taken) = (server.target, &taken);
            scope.spawn(move || {
                let lease = if worker % 2 == 0 { "&lease=10m" } else { "" };
                let path = format!("{SHIFT}?n={}{lease}", 20 + worker);
                loop {
                    let some = keys(&target.post(&path, ""));
                    if some.is_empty() {
                        return;
                    }
                    taken.lock().expect("no panic").extend(some);
                }
            });
        }
    });
    let taken = taken.into_inner().expect("no panic");
    assert_eq!((taken.len(), taken.iter().collect::<HashSet<_>>().len()), (10_000, 10_000));
}

#[test]
fn a_killed_server_loses_no_job_keeps_leases_and_tells_a_retry_what_it_told_before() {
    let dir = TempDir::new().expect("a directory");
    let server = Process::start(dir.path(), &["--id", "s1"]);
    fill(&server.target, 6);
    let take = |target: &Target| target.send("POST", &format!("{SHIFT}?n=2&sync"), &[("Idempotency-Key", "k1")], "");
    let taken = take(&server.target);
    assert_eq!(keys(&taken), ["job00000", "job00001"]);
    let leased = keys(&server.target.post(&format!("{SHIFT}?n=3&lease=6s&sync"), ""));
    assert_eq!(leased, ["job00002", "job00003", "job00004"]);
    let lock = server.target.post(LOCK, "{\"ttl\":\"60s\"}").json();
    server.kill();

    let server = Process::start(dir.path(), &["--id", "s1"]);
    let again = take(&server.target);
    assert_eq!((again.text(), again.header("hydra-replayed")), (taken.text(), Some("true")));
    assert_eq!(keys(&server.target.post(&format!("{SHIFT}?n=9"), "")), ["job00005"], "the others are on lease");
    let after = keys(&server.target.post(&format!("{SHIFT}?n=9&wait=20s&lease=60s"), ""));
    assert_eq!(after, leased, "whoever had them did not come back");
    let refused = server.target.post(LOCK, "{\"ttl\":\"60s\"}");
    assert_eq!(refused.code(), "lock-held");
    let token = lock["token"].as_str().expect("a token");
    assert_eq!(server.target.send("DELETE", LOCK, &[("Hydra-Lock-Token", token)], "").status, 204);
    let fence = |lock: &Json| lock["fence"].as_str().and_then(|fence| fence.parse::<u64>().ok()).expect("a number");
    assert!(fence(&server.target.post(LOCK, "{\"ttl\":\"60s\"}").json()) > fence(&lock));
}

#[test]
fn a_waiting_shift_wakes_and_one_whose_caller_went_away_takes_nothing() {
    let hydra = Server::start();
    let target = hydra.target;
    give_up(&target, "POST", &format!("{SHIFT}?wait=60s"), "");
    let waiting = std::thread::spawn(move || target.post(&format!("{SHIFT}?wait=20s"), ""));
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    hydra.put(&format!("{KV}/a"), "1");
    assert_eq!(keys(&waiting.join().expect("answered")), ["a"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(keys(&hydra.post(&format!("{SHIFT}?wait=300ms"), "")).is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_server_that_ends_answers_those_who_wait() {
    let dir = TempDir::new().expect("a directory");
    let mut server = Process::start(dir.path(), &[]);
    let target = server.target;
    assert_eq!(target.post(LOCK, "{\"ttl\":\"60s\"}").status, 201);
    let shift = std::thread::spawn(move || target.post(&format!("{SHIFT}?wait=60s"), ""));
    let lock = std::thread::spawn(move || target.post(LOCK, "{\"ttl\":\"60s\",\"wait\":\"60s\"}"));
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    server.signal("TERM");
    assert!(keys(&shift.join().expect("answered")).is_empty());
    assert_eq!(lock.join().expect("answered").code(), "lock-held");
    assert_eq!(server.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_lock_is_taken_looked_at_renewed_and_given_back() {
    let hydra = Server::start();
    assert_eq!(hydra.get(LOCK).code(), "lock-not-found");
    let body = "{\"ttl\":\"10s\",\"owner\":\"w1\"}";
    let granted = hydra.send("POST", LOCK, &[("Idempotency-Key", "k")], body);
    assert_eq!((granted.status, granted.header("hydra-durable")), (201, Some("synced")));
    let lock = granted.json();
    let again = hydra.send("POST", LOCK, &[("Idempotency-Key", "k")], body);
    assert_eq!((again.json(), again.header("hydra-replayed")), (lock.clone(), Some("true")));
    let token = lock["token"].as_str().expect("a token").to_owned();
    let held = hydra.post(LOCK, "{\"ttl\":5}");
    assert_eq!((held.status, held.code().as_str()), (409, "lock-held"));
    let after: u64 = held.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    assert!((8..=10).contains(&after) && held.text().contains("w1"), "{held:?}");
    let shown = hydra.get(LOCK);
    assert_eq!(shown.json(), json!({"owner": "w1", "fence": lock["fence"], "expiresAt": lock["expiresAt"]}));
    for answer in [&held, &shown] {
        assert!(!answer.text().contains(&token), "{answer:?}");
    }
    for path in [KV, "/v1/kv/jobs/mail/eu?expired=include"] {
        let listed = hydra.get(path);
        assert!(listed.status == 400 || listed.json()["treasures"] == json!([]), "{listed:?}");
    }
    assert_eq!(hydra.send("HEAD", KV, &[], "").header("hydra-count"), Some("0"));
    assert_eq!(hydra.get("/v1/swamps/jobs/mail/eu").json()["count"], 0);
    assert_eq!(hydra.get("/v1/kv/jobs/mail/eu/%00lock%2Fimport").code(), "invalid-key");
    let change = |method: &str, token: &str, body: &str| hydra.send(method, LOCK, &[("Hydra-Lock-Token", token)], body);
    assert_eq!(change("PUT", "wrong", "{\"ttl\":5}").code(), "lock-token-mismatch");
    assert_eq!(change("DELETE", "wrong", "").status, 412);
    let renewed = change("PUT", &token, "{\"ttl\":\"60s\"}");
    assert_eq!((renewed.status, &renewed.json()["fence"]), (200, &lock["fence"]));
    assert_eq!(change("DELETE", &token, "").status, 204);
    assert_eq!(change("PUT", &token, "{\"ttl\":5}").code(), "lock-token-mismatch");
    assert_eq!(hydra.get(LOCK).status, 404);
}

#[test]
fn whoever_waits_for_a_lock_gets_it_in_turn_and_not_who_went_away() {
    let hydra = Server::start();
    let target = hydra.target;
    let first = hydra.post(LOCK, "{\"ttl\":\"60s\"}").json();
    give_up(&target, "POST", LOCK, "{\"ttl\":\"60s\",\"wait\":\"60s\",\"owner\":\"gone\"}");
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for waiter in 0..3 {
            let order = &order;
            scope.spawn(move || {
                let body = json!({"ttl": "300ms", "wait": "20s", "owner": format!("w{waiter}")}).to_string();
                let granted = target.post(LOCK, &body);
                assert_eq!(granted.status, 201, "{granted:?}");
                order.lock().expect("no panic").push(waiter);
            });
            std::thread::sleep(Duration::from_millis(150));
        }
        let token = first["token"].as_str().expect("a token");
        assert_eq!(hydra.send("DELETE", LOCK, &[("Hydra-Lock-Token", token)], "").status, 204);
    });
    assert_eq!(order.into_inner().expect("no panic"), [0, 1, 2], "each when the one before it ran out");
}

/// Tries every call of queues and locks and notes what came of it.
async fn story(hydra: &Hydra) -> hydra_sdk::Result<Vec<String>> {
    let mut told = Vec::new();
    let jobs: Swamp<Json> = hydra.swamp("jobs/mail/eu")?;
    told.push(format!("{}", jobs.shift().await?.len()));
    for (key, priority) in [("a", 3), ("b", 1), ("c", 2)] {
        jobs.put(key, &json!({ "p": priority })).await?;
    }
    let by: Order = "value:/p".parse()?;
    let taken = jobs.shift().by(by.clone()).idempotency_key("one").await?;
    told.push(format!("{} {} {}", taken[0].key(), taken[0].value()?, taken[0].ack().await?));
    told.push(jobs.shift().by(by.clone()).idempotency_key("one").await?[0].key().to_owned());
    let mut leased = jobs.shift().take(5).by(by).descending().lease(Duration::from_millis(400)).await?;
    told.push(format!("{:?}", leased.iter().map(hydra_sdk::Taken::key).collect::<Vec<_>>()));
    told.push(format!("{:?}", jobs.get("a").await?));
    told.push(format!("{}", leased[0].extend(Duration::from_secs(60)).await?));
    let due = jobs.shift().take(5).due().wait(Duration::from_secs(10)).lease(Duration::from_secs(60)).await?;
    told.push(format!("{} {:?}", due[0].key(), due[0].value()?));
    told.push(format!("{} {}", leased[1].ack().await?, leased[1].extend(Duration::from_secs(1)).await?));
    told.push(format!("{} {} {}", leased[0].ack().await?, due[0].ack().await?, jobs.count().await?));
    let error = jobs.shift().take(0).await.expect_err("none");
    told.push(format!("{:?} {:?}", error.code(), error.applied()));

    let ttl = Duration::from_secs(60);
    let mut guard = jobs.lock("import", ttl).owner("w1").await?.expect("nobody holds it");
    told.push(format!("{}", jobs.lock("import", ttl).await?.is_none()));
    let info = jobs.lock_info("import").await?.expect("it is held");
    told.push(format!("{:?} {} {:?}", info.owner, info.fence == guard.fence(), jobs.lock_info("other").await?));
    told.push(format!("{} {}", guard.renew(ttl).await?, guard.name()));
    let (fence, waiter) = (guard.fence(), jobs.clone());
    let waiting = tokio::spawn(async move { waiter.lock("import", ttl).wait(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    told.push(format!("{}", guard.release().await?));
    let next = waiting.await.expect("no panic")?.expect("it was given back");
    told.push(format!("{}", next.fence() > fence));
    drop(next);
    let after = jobs.lock("import", Duration::from_millis(100)).wait(Duration::from_secs(10)).await?;
    let mut after = after.expect("what was dropped is given back in the background");
    tokio::time::sleep(Duration::from_millis(150)).await;
    told.push(format!("{} {}", after.renew(ttl).await?, after.release().await?));
    let error = jobs.lock("..", ttl).await.expect_err("no name");
    told.push(format!("{:?} {:?}", error.code(), error.applied()));
    Ok(told)
}

#[test]
fn the_client_sees_the_same_through_a_server_and_in_its_own_process() {
    let server = Server::start();
    let url = server.server().url().to_owned();
    let (remote, embedded) = block_on(async {
        let remote = Hydra::connect(&url).await.expect("connects");
        let embedded = Hydra::connect("mem://").await.expect("opens");
        (story(&remote).await.expect("told"), story(&embedded).await.expect("told"))
    });
    assert_eq!(remote, embedded);
    assert_eq!(remote[1..4], ["b {\"p\":1} true", "b", "[\"a\", \"c\"]"]);
    assert_eq!(remote[5..9], ["true", "c Object {\"p\": Number(2)}", "false false", "true true 0"]);
    assert_eq!(remote[10..15], ["true", "Some(\"w1\") true None", "true import", "true", "true"]);
}
