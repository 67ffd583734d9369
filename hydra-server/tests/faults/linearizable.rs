//! Many clients on few keys of a server that has room for three swamps, compacts and collects all the time and is
//! killed again and again: each key behaves as if one client at a time used it, before, over and after every kill.
//! `HYDRA_LINEAR_ROUNDS=500` kills that often.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::history::{Call, Event, Register, Write, stuck_at};
use crate::kill::start_tidy;
use crate::ledger::{Dice, StopOnDrop, synced, wanted};
use crate::rsync::tidy_up;
use crate::support::{Answer, Target};

const SWAMPS: u64 = 24;
const CLIENTS: u64 = 8;
/// A register and a counter.
const KEYS: [&str; 2] = ["k", "n"];

/// The clock, and what was seen of each key.
struct Field {
    began: Instant,
    next: AtomicU64,
    histories: Mutex<BTreeMap<(u64, usize), Vec<Event>>>,
    unanswered: AtomicU64,
    refused: AtomicU64,
}

/// What became of a request.
enum Told {
    Answer(Answer),
    /// The server said that it was not done.
    Refused,
    Nothing,
}

impl Field {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Calls until the server is gone or it is over.
    fn use_it(&self, target: Target, seed: u64, over: &AtomicBool) {
        let (mut client, mut dice) = (Client::new(target), Dice::new(seed));
        let mut known: BTreeMap<u64, (i64, String)> = BTreeMap::new();
        while !over.load(Ordering::Relaxed) {
            // Clients meet: for some milliseconds all use the same few swamps.
            let swamp = ((self.now() >> 25) * 3 + dice.below(3)) % SWAMPS;
            let key = dice.below(2) as usize;
            let from = self.now();
            let made = self.call(&mut client, (swamp, key), dice.below(10), &mut known);
            let is_lost = matches!(made, None | Some(Call::Unanswered(_)));
            if let Some(call) = made {
                // What was not answered may be done until the server is certainly dead.
                let to = if is_lost { u64::MAX } else { self.now() };
                let mut histories = self.histories.lock().expect("no client panicked");
                histories.entry((swamp, key)).or_default().push(Event { call, from, to });
            }
            if is_lost {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// One call; `None` when a read was not answered.
    fn call(
        &self,
        client: &mut Client,
        (swamp, key): (u64, usize),
        choice: u64,
        known: &mut BTreeMap<u64, (i64, String)>,
    ) -> Option<Call> {
        let path = format!("/v1/kv/many/clients/u{swamp}/{}", KEYS[key]);
        let value = self.next.fetch_add(1, Ordering::Relaxed) as i64;
        let is_counter = key == 1;
        let known_here = if is_counter { None } else { known.remove(&swamp) };
        match (choice, is_counter, known_here) {
            (0, _, _) => Some(match self.send(client, "DELETE", &path, &[], "") {
                Told::Answer(answer) => Call::Delete(done(&answer, 204, 404)),
                _ => Call::Unanswered(Write::Delete),
            }),
            (1..4, true, _) => Some(match self.send(client, "POST", &format!("{path}?incr={value}"), &[], "") {
                Told::Answer(answer) => Call::Add(value, answer.json()["value"].as_i64().expect("a sum")),
                _ => Call::Unanswered(Write::Add(value)),
            }),
            (1..3, false, _) => Some(match self.put(client, &path, value, &[]) {
                Some(_) => Call::Put(value),
                None => Call::Unanswered(Write::Put(value)),
            }),
            (3, false, _) => Some(match self.put(client, &path, value, &[("If-None-Match", "*")]) {
                Some(done) => Call::Create(value, done),
                None => Call::Unanswered(Write::Create(value)),
            }),
            (4..8, false, Some((from, version))) => {
                Some(match self.put(client, &path, value, &[("If-Match", &version)]) {
                    Some(done) => Call::Replace(from, value, done),
                    None => Call::Unanswered(Write::Replace(from, value)),
                })
            }
            _ => {
                let Told::Answer(answer) = self.send(client, "GET", &path, &[], "") else { return None };
                let register: Register = done(&answer, 200, 404).then(|| answer.json().as_i64().expect("a number"));
                known.extend(register.map(|value| (swamp, (value, answer.etag()))));
                Some(Call::Get(register))
            }
        }
    }

    /// Whether a put was done; `None` when it was not answered.
    fn put(&self, client: &mut Client, path: &str, value: i64, condition: &[(&str, &str)]) -> Option<bool> {
        match self.send(client, "PUT", path, condition, &value.to_string()) {
            Told::Answer(answer) => Some(answer.status == 200 || done(&answer, 201, 412)),
            _ => None,
        }
    }

    /// Sends until the server says something else than that it is busy.
    fn send(&self, client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
        loop {
            match self.try_send(client, method, path, headers, body) {
                Told::Refused => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
                told => return told,
            }
        }
    }

    fn try_send(&self, client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
        match client.send(method, path, headers, body) {
            Ok(answer) if answer.status == 503 => {
                assert_eq!(answer.header("hydra-applied"), Some("no"), "{answer:?}");
                Told::Refused
            }
            Ok(answer) => Told::Answer(answer),
            Err(_) => Told::Nothing,
        }
    }

    /// The server is dead: nothing that it has not done by now will be.
    fn bury(&self) {
        let now = self.now();
        let mut histories = self.histories.lock().expect("no client panicked");
        for event in histories.values_mut().flatten().filter(|event| event.to == u64::MAX) {
            event.to = now;
        }
    }
}

/// Tells the two answers there may be apart.
fn done(answer: &Answer, yes: u16, no: u16) -> bool {
    assert!([yes, no].contains(&answer.status), "neither {yes} nor {no}: {answer:?}");
    answer.status == yes
}

#[test]
fn each_key_behaves_as_if_used_by_one_client_at_a_time_whenever_the_server_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let rounds = wanted("HYDRA_LINEAR_ROUNDS", 8);
    let (histories, unanswered, refused) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
    let field = Field { began: Instant::now(), next: AtomicU64::new(1), histories, unanswered, refused };
    let mut dice = Dice::new(11);
    for round in 0..rounds {
        let server = start_tidy(dir.path());
        let target = server.target;
        synced(target, "*/*/*");
        let over = AtomicBool::new(false);
        let tidied = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let _over = StopOnDrop(&over);
            scope.spawn(|| tidy_up(target, &over, &tidied));
            for client in 0..CLIENTS {
                let (field, over) = (&field, &over);
                scope.spawn(move || field.use_it(target, round * CLIENTS + client + 1, over));
            }
            std::thread::sleep(Duration::from_millis(100 + dice.below(300)));
            server.kill();
        });
        field.bury();
    }
    let histories = field.histories.into_inner().expect("no client panicked");
    let calls: usize = histories.values().map(Vec::len).sum();
    println!(
        "linearizable: {rounds} kills, {calls} calls on {} keys, {} not answered, {} told to wait, {:.1?}",
        histories.len(),
        field.unanswered.load(Ordering::Relaxed),
        field.refused.load(Ordering::Relaxed),
        field.began.elapsed()
    );
    for ((swamp, key), history) in &histories {
        let stuck = stuck_at(history);
        assert!(stuck.is_none(), "u{swamp}/{}: no order explains {stuck:#?}", KEYS[*key]);
    }
    assert!(calls as u64 > 200 * rounds, "the test tried too little");
}
