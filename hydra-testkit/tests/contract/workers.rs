//! Twenty workers, pages under writes, feeds over restarts, locks in turn: what takes more than one caller.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use hydra_sdk::{ErrorKind, EventKind, EventStream, Hydra, Swamp};
use tokio::time::timeout;

use crate::transport::{Kind, Transport};

const WORKERS: usize = 20;
/// However slow the machine is, nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What so many workers answer that run at once.
async fn at_once<F: Future<Output: Send + 'static> + Send + 'static>(
    workers: usize,
    work: impl Fn(usize) -> F,
) -> Vec<F::Output> {
    let running: Vec<_> = (0..workers).map(|worker| tokio::spawn(work(worker))).collect();
    let done = timeout(PATIENCE, join_all(running)).await.expect("they come to an end");
    done.into_iter().map(|worker| worker.expect("no panic")).collect()
}

async fn fill(jobs: &Swamp<usize>, count: usize) {
    let values: Vec<usize> = (0..count).collect();
    let written = jobs.put_many(values.iter().map(|n| (format!("job-{n:04}"), n))).await.expect("written");
    assert!(written.iter().all(Result::is_ok));
}

/// No two take the same, and nothing is left.
async fn twenty_workers_take_every_job_once(hydra: &Hydra) {
    let jobs: Swamp<usize> = hydra.swamp("work/queue/once").expect("a name");
    fill(&jobs, 400).await;
    let taken = at_once(WORKERS, |_| {
        let jobs = jobs.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let some = jobs.shift().take(3).await.expect("taken");
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some.iter().map(|job| job.value().expect("a number")));
            }
        }
    });
    let mut taken: Vec<usize> = taken.await.into_iter().flatten().collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..400).collect::<Vec<_>>());
    assert_eq!(jobs.count().await.expect("counted"), 0);
}

/// Every job is acknowledged once, although every fourth worker dies with its first one.
async fn a_worker_that_dies_loses_nothing(hydra: &Hydra) {
    let jobs: Swamp<usize> = hydra.swamp("work/queue/leased").expect("a name");
    fill(&jobs, 100).await;
    let done = at_once(WORKERS, |worker| {
        let jobs = jobs.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let lease = jobs.shift().lease(Duration::from_millis(1500)).wait(Duration::from_secs(2));
                let Some(job) = lease.await.expect("taken").pop() else { return mine };
                if worker % 4 == 0 {
                    return mine;
                }
                if job.ack().await.expect("acknowledged") {
                    mine.push(job.value().expect("a number"));
                }
            }
        }
    });
    let mut done: Vec<usize> = done.await.into_iter().flatten().collect();
    done.sort_unstable();
    assert_eq!(done, (0..100).collect::<Vec<_>>());
}

/// One of many is first, and increments and updates of all count.
async fn nothing_is_lost_between_many(hydra: &Hydra) {
    let shared: Swamp<usize> = hydra.swamp("work/shared/all").expect("a name");
    let first = at_once(WORKERS, |worker| {
        let shared = shared.clone();
        async move {
            for _ in 0..10 {
                shared.increment("sum", 1).await.expect("counted");
            }
            let create = shared.put("first", &worker).create_only().await;
            if worker < 4 {
                for _ in 0..5 {
                    let patient = shared.clone().deadline(PATIENCE);
                    patient.update("loop", |n| Some(n.unwrap_or(0) + 1)).await.expect("updated");
                }
            }
            match create {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(first.await.into_iter().filter(|first| *first).count(), 1);
    assert_eq!(shared.get("sum").await.expect("read"), Some(WORKERS * 10));
    assert_eq!(shared.get("loop").await.expect("read"), Some(20));
}

/// What is read and written under a lock is not lost, and the fence grows with every holder.
async fn a_lock_has_one_holder_at_a_time(hydra: &Hydra) {
    let shared: Swamp<u64> = hydra.swamp("work/shared/locked").expect("a name");
    at_once(8, |_| {
        let shared = shared.clone();
        async move {
            for _ in 0..3 {
                let guard = shared.lock("l", Duration::from_secs(30)).wait(Duration::from_secs(50)).await;
                let guard = guard.expect("answered").expect("granted in time");
                let (sum, fence) = (shared.get("sum").await.expect("read"), shared.get("fence").await.expect("read"));
                assert!(fence.unwrap_or(0) < guard.fence(), "{fence:?} {}", guard.fence());
                shared.put("fence", &guard.fence()).await.expect("written");
                shared.put("sum", &(sum.unwrap_or(0) + 1)).await.expect("written");
                assert!(guard.release().await.expect("answered"), "it was held all the time");
            }
        }
    })
    .await;
    assert_eq!(shared.get("sum").await.expect("read"), Some(24));
}

/// What stays as it is comes exactly once over all pages, in whatever order, while others write.
async fn pages_stay_true_under_writes(hydra: &Hydra) {
    let swamp: Swamp<usize> = hydra.swamp("work/pages/all").expect("a name");
    fill(&swamp, 300).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn({
        let swamp = swamp.clone();
        async move {
            let mut n = 0;
            while !*stopped.borrow() {
                n += 1;
                swamp.put(format!("job-{:04}-more", n % 300), &n).await.expect("written");
                swamp.delete(format!("job-{:04}-more", (n * 7) % 300)).await.expect("deleted");
            }
        }
    });
    for order in ["key", "created", "updated", "value:"] {
        for descending in [false, true] {
            let list = swamp.list().order_by(order.parse().expect("an order")).limit(10_000);
            let list = if descending { list.descending() } else { list };
            let keys: Vec<String> = list.keys().try_collect().await.expect("listed");
            let stable: Vec<&String> = keys.iter().filter(|key| key.len() == 8).collect();
            let mut expected: Vec<String> = (0..300).map(|n| format!("job-{n:04}")).collect();
            if descending {
                expected.reverse();
            }
            assert_eq!(stable, expected.iter().collect::<Vec<_>>(), "{order}, descending {descending}");
        }
    }
    stop.send(true).expect("it runs");
    writer.await.expect("no panic");
}

/// Whoever applies a feed to an empty map holds what the swamp holds, also when the server was away meanwhile.
async fn a_feed_tells_everything(transport: &mut Transport, may_restart: bool) {
    let swamp: Swamp<u64> = transport.hydra.swamp("work/feed/all").expect("a name");
    swamp.put("before", &0).await.expect("written");
    let mut events = swamp.subscribe().snapshot().stream();
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=3 {
        for n in 0..20 {
            let (key, value) = (format!("k{}", n % 7), round * 100 + n);
            swamp.put(&key, &value).await.expect("written");
            if n % 5 == 4 {
                swamp.delete(&key).await.expect("deleted");
            }
        }
        swamp.put("round", &round).await.expect("written");
        let followed = timeout(PATIENCE, async {
            while told.get("round") != Some(&round) {
                match events.next().await.expect("a feed has no end").expect("an event").kind {
                    EventKind::Put { treasure, .. } => drop(told.insert(treasure.key, treasure.value)),
                    EventKind::Delete { key, .. } | EventKind::Expire { key, .. } => drop(told.remove(&key)),
                    EventKind::Destroy | EventKind::Reset { .. } => told.clear(),
                    _ => {}
                }
            }
        });
        followed.await.expect("everything is told in time");
        let all: Vec<_> = swamp.list().stream().try_collect().await.expect("listed");
        let holds: BTreeMap<_, _> = all.into_iter().map(|treasure| (treasure.key, treasure.value)).collect();
        assert_eq!(told, holds, "round {round}");
        if may_restart {
            transport.restart().await;
        }
    }
    let keys: BTreeSet<_> = told.into_keys().collect();
    assert!(keys.contains("before") && keys.len() > 4, "{keys:?}");
}

/// A feed of a pattern tells what changes in every swamp of it, on whatever server, also in those that come later.
async fn a_feed_of_many_names_its_swamps(hydra: &Hydra, kind: Kind) {
    let mut events = hydra.subscribe::<u64>(&"work/many/*".parse().expect("a pattern")).stream();
    let next = async |events: &mut EventStream<u64>| {
        timeout(PATIENCE, events.next()).await.expect("told in time").expect("a feed has no end")
    };
    for _ in 0..if kind == Kind::Map { 3 } else { 1 } {
        let begun = next(&mut events).await.expect("an event");
        assert_eq!((begun.kind, begun.swamp), (EventKind::Live, None));
    }
    let mut expected = BTreeMap::new();
    for n in 0..30 {
        let swamp: Swamp<u64> = hydra.swamp(("work", "many", format!("s{n}").as_str())).expect("a name");
        swamp.put("k", &n).await.expect("written");
        hydra.swamp::<u64>(("work", "other", "s")).expect("a name").put("k", &n).await.expect("written");
        expected.insert(swamp.name().to_string(), n);
    }
    let mut told = BTreeMap::new();
    while told.len() < expected.len() {
        let event = next(&mut events).await.expect("an event");
        let EventKind::Put { treasure, .. } = event.kind else { panic!("{event:?}") };
        told.insert(event.swamp.expect("a swamp").to_string(), treasure.value);
    }
    assert_eq!(told, expected);
}

async fn all(kind: Kind) {
    let mut transport = Transport::open(kind).await;
    let hydra = transport.hydra.clone();
    twenty_workers_take_every_job_once(&hydra).await;
    a_worker_that_dies_loses_nothing(&hydra).await;
    nothing_is_lost_between_many(&hydra).await;
    a_lock_has_one_holder_at_a_time(&hydra).await;
    pages_stay_true_under_writes(&hydra).await;
    a_feed_of_many_names_its_swamps(&hydra, kind).await;
    // A directory that is closed ends the feeds of this process.
    a_feed_tells_everything(&mut transport, kind != Kind::Directory).await;
}

/// One test for each way.
macro_rules! everywhere {
    ($($name:ident: $kind:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            all($kind).await;
        }
    )*};
}

everywhere! {
    many_callers_in_memory: Kind::Memory;
    many_callers_on_a_directory: Kind::Directory;
    many_callers_on_a_server: Kind::Server;
    many_callers_over_a_map: Kind::Map;
    many_callers_through_a_router: Kind::Router;
}
