//! Clients that write all the time, and what is known outside the servers of what they wrote.
//!
//! A key has one writer, who puts growing numbers into it; every increment is asked for until it is answered,
//! always with the same idempotency key. So in the end a key holds the last number that was acknowledged or a
//! later one, and a counter exactly what was asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydra_sdk::{ClientEvent, ClientMap, Hydra, Settings, Swamp};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::hosts::Host;

const WRITERS: usize = 4;
const SWAMPS: usize = 6;
/// Enough calls to be many in every phase, few enough to leave processors to other tests.
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn swamp_name(index: usize) -> String {
    format!("network/outage/s{index}")
}

/// Clients at work.
pub(crate) struct Load {
    runtime: Runtime,
    ends: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Ledger>>,
    /// Which servers were found to be down, in order.
    down: Arc<Mutex<Vec<String>>>,
}

/// What one writer did.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By swamp: the last number that was acknowledged and the last that was sent.
    pub(crate) puts: BTreeMap<usize, (u64, u64)>,
    /// By swamp: how many increments were asked for, all of them acknowledged.
    pub(crate) increments: BTreeMap<usize, i64>,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    /// When calls began, how long they took, and whether they were answered.
    pub(crate) calls: Vec<(Instant, Duration, bool)>,
}

/// A map in which the first two hosts stand in for each other.
pub(crate) fn map(hosts: [&Host; 2]) -> ClientMap {
    let [one, two] = hosts;
    let mut settings = Settings::default();
    settings.hold_down = Duration::from_millis(500);
    let map = ClientMap::builder().cluster("hydra").folders(100).server(one.id, one.url()).server(two.id, two.url());
    let map = map.route("0-49", one.id, [two.id]).route("50-99", two.id, [one.id]);
    map.settings(settings).build().expect("a map")
}

impl Load {
    pub(crate) fn start(map: ClientMap) -> Load {
        let runtime = Runtime::new().expect("a runtime");
        let ends = Arc::new(AtomicBool::new(false));
        let down = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&down);
        let client = Hydra::builder().map(map).on_event(move |event| {
            if let ClientEvent::ServerDown { server } = event {
                told.lock().expect("no panic").push(server.clone());
            }
        });
        let hydra = runtime.block_on(client.connect()).expect("a client");
        let writer = |id| runtime.spawn(write(hydra.clone(), id, Arc::clone(&ends)));
        let writers = (0..WRITERS).map(writer).collect();
        Load { runtime, ends, writers, down }
    }

    /// Which servers the clients found to be down so far, in order.
    pub(crate) fn down(&self) -> Vec<String> {
        self.down.lock().expect("no panic").clone()
    }

    /// Ends the clients; what was asked for last is waited for.
    pub(crate) fn end(self) -> Vec<Ledger> {
        self.ends.store(true, Ordering::Relaxed);
        let Load { runtime, writers, .. } = self;
        writers.into_iter().map(|writer| runtime.block_on(writer).expect("no panic")).collect()
    }
}

async fn write(hydra: Hydra, id: usize, ends: Arc<AtomicBool>) -> Ledger {
    let swamps: Vec<Swamp<u64>> = (0..SWAMPS).map(|index| hydra.swamp(swamp_name(index)).expect("a name")).collect();
    let (key, mut ledger) = (format!("w{id}"), Ledger::default());
    for turn in 1.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let at = (turn as usize + id) % SWAMPS;
        if turn % 3 == 0 {
            let once = format!("network-{id}-{turn}");
            let counted = || async { swamps[at].increment("sum", 1).idempotency_key(&once).await.is_ok() };
            while !ledger.call(counted).await {}
            *ledger.increments.entry(at).or_default() += 1;
        } else {
            ledger.puts.entry(at).or_default().1 = turn;
            if ledger.call(|| async { swamps[at].put(&key, &turn).await.is_ok() }).await {
                ledger.puts.entry(at).or_default().0 = turn;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    ledger
}

impl Ledger {
    async fn call<F: Future<Output = bool>>(&mut self, call: impl Fn() -> F) -> bool {
        let began = Instant::now();
        let answered = call().await;
        self.calls.push((began, began.elapsed(), answered));
        *(if answered { &mut self.acknowledged } else { &mut self.failed }) += 1;
        answered
    }
}
