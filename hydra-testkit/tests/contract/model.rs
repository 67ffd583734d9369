//! Random operations against a model of ten lines of state, with evictions and restarts in between.
//!
//! `HYDRA_MODEL_RUNS` says how many sequences are tried on each transport; 12 unless told otherwise.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use hydra_sdk::{Done, Pattern, Policy, Swamp, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};

use crate::case::code_of;
use crate::transport::{Kind, Transport};

/// One thing that a caller does. Keys are few, so that operations meet.
#[derive(Debug, Clone)]
enum Act {
    Put(u8, i64),
    Create(u8, i64),
    /// Under the version that was seen last, which may be an old one.
    PutIfSeen(u8, i64),
    Delete(u8),
    Increment(u8, i64),
    Merge(u8, Option<i64>),
    Batch(Vec<Act>),
    Look(u8),
    Flush,
    Destroy,
    Restart,
}

fn single() -> impl Strategy<Value = Act> {
    let key = || 0..5_u8;
    prop_oneof![
        4 => (key(), any::<i64>()).prop_map(|(key, value)| Act::Put(key, value)),
        1 => (key(), any::<i64>()).prop_map(|(key, value)| Act::Create(key, value)),
        2 => key().prop_map(Act::Delete),
        3 => (key(), prop_oneof![Just(i64::MAX), Just(i64::MIN), -9..9_i64]).prop_map(|(key, by)| Act::Increment(key, by)),
        1 => (key(), any::<Option<i64>>()).prop_map(|(key, member)| Act::Merge(key, member)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => single(),
        4 => (0..5_u8, any::<i64>()).prop_map(|(key, value)| Act::PutIfSeen(key, value)),
        4 => vec(single(), 1..6).prop_map(Act::Batch),
        3 => (0..5_u8).prop_map(Act::Look),
        3 => Just(Act::Flush),
        1 => Just(Act::Destroy),
        1 => Just(Act::Restart),
    ]
}

/// A treasure of the model.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    value: Json,
    updated: u64,
}

/// What a swamp holds, by its promises.
#[derive(Debug, Default)]
struct Model {
    held: BTreeMap<String, Held>,
    /// Counts writes: their order is that of `updated`.
    clock: u64,
    /// The version that was answered last for a key, and whether it is still the one.
    seen: BTreeMap<String, (Version, bool)>,
}

impl Model {
    fn put(&mut self, key: &str, value: Json) -> Json {
        self.clock += 1;
        let now = self.clock;
        if let Some(seen) = self.seen.get_mut(key) {
            seen.1 = false;
        }
        match self.held.get_mut(key) {
            Some(held) => (held.value, held.updated) = (value, now),
            None => drop(self.held.insert(key.to_owned(), Held { value, updated: now })),
        }
        json!("stored")
    }

    fn remove(&mut self, key: &str) -> bool {
        if let Some(seen) = self.seen.get_mut(key) {
            seen.1 = false;
        }
        self.held.remove(key).is_some()
    }

    /// What an operation on one treasure must answer.
    fn single(&mut self, act: &Act) -> Json {
        match act {
            Act::Put(key, value) => self.put(&name(*key), json!(value)),
            Act::Create(key, _) if self.held.contains_key(&name(*key)) => json!("already-exists"),
            Act::Create(key, value) => self.put(&name(*key), json!(value)),
            Act::Delete(key) => json!(self.remove(&name(*key))),
            Act::Increment(key, by) => {
                let stored = self.held.get(&name(*key)).map_or(Some(0), |held| held.value.as_i64());
                match stored.map(|stored| stored.checked_add(*by)) {
                    None => json!("not-a-number"),
                    Some(None) => json!("out-of-bounds"),
                    Some(Some(sum)) => {
                        self.put(&name(*key), json!(sum));
                        json!(sum)
                    }
                }
            }
            Act::Merge(key, member) => match self.held.get(&name(*key)).map(|held| held.value.clone()) {
                None => json!("treasure-not-found"),
                Some(value) => {
                    let mut members = value.as_object().cloned().unwrap_or_default();
                    match member {
                        Some(member) => drop(members.insert("m".to_owned(), json!(member))),
                        None => drop(members.remove("m")),
                    }
                    self.put(&name(*key), Json::Object(members))
                }
            },
            other => panic!("{other:?} is about more than one treasure"),
        }
    }

    fn last_written_last(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.held.iter().map(|(key, held)| (held.updated, key.clone())).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }
}

fn name(key: u8) -> String {
    format!("k{key}")
}

/// Does it, and tells what was answered as the model does.
async fn single_of(swamp: &Swamp<Json>, act: &Act, model: &mut Model) -> Json {
    let stored = |written: Result<hydra_sdk::Written, hydra_sdk::Error>, key: u8, model: &mut Model| match written {
        Ok(written) => {
            model.seen.insert(name(key), (written.version, true));
            json!("stored")
        }
        Err(error) => json!(code_of(&error)),
    };
    match act {
        Act::Put(key, value) => stored(swamp.put(name(*key), &json!(value)).await, *key, model),
        Act::Create(key, value) => stored(swamp.put(name(*key), &json!(value)).create_only().await, *key, model),
        Act::Merge(key, member) => stored(swamp.merge(name(*key), &json!({"m": member})).await, *key, model),
        Act::Delete(key) => json!(swamp.delete(name(*key)).await.expect("deleted")),
        Act::Increment(key, by) => match swamp.increment(name(*key), *by).await {
            Ok(sum) => json!(sum),
            Err(error) => json!(code_of(&error)),
        },
        other => panic!("{other:?} is about more than one treasure"),
    }
}

async fn batch_of(swamp: &Swamp<Json>, acts: &[Act]) -> Vec<Json> {
    let mut batch = swamp.batch();
    for act in acts {
        batch = match act {
            Act::Put(key, value) => batch.put(name(*key), &json!(value)),
            Act::Create(key, value) => batch.create(name(*key), &json!(value)),
            Act::Merge(key, member) => batch.merge(name(*key), &json!({"m": member})),
            Act::Delete(key) => batch.delete(name(*key)),
            Act::Increment(key, by) => batch.increment(name(*key), *by),
            other => panic!("{other:?} is nothing for a batch"),
        };
    }
    let told = |done| match done {
        Ok(Done::Put(_)) => json!("stored"),
        Ok(Done::Deleted(existed)) => json!(existed),
        Ok(Done::Incremented(sum, _)) => json!(sum),
        Ok(other) => panic!("{other:?}"),
        Err(error) => json!(code_of(&error)),
    };
    batch.await.expect("a batch").into_iter().map(told).collect()
}

/// Carries out one sequence on both, and holds them against each other after every operation.
async fn follow(transport: &mut Transport, swamp_name: &str, policy: &Policy, acts: &[Act]) -> Result<(), String> {
    let pattern: Pattern = swamp_name.parse().expect("a pattern");
    transport.hydra.set_policy(&pattern, policy).await.expect("a policy");
    let mut model = Model::default();
    for (number, act) in acts.iter().enumerate() {
        let swamp: Swamp<Json> = transport.hydra.swamp(swamp_name).expect("a name");
        let (answered, expected) = match act {
            Act::Restart => {
                transport.restart().await;
                continue;
            }
            Act::Flush => (json!(swamp.flush().await.is_ok()), json!(true)),
            Act::Destroy => {
                let was = !model.held.is_empty();
                for key in 0..5 {
                    model.remove(&name(key));
                }
                (json!(swamp.destroy().await.expect("destroyed")), json!(was))
            }
            Act::Look(key) => {
                let found = swamp.treasure(name(*key)).await.expect("read");
                if let Some(found) = &found {
                    model.seen.insert(name(*key), (found.version, true));
                }
                let held = model.held.get(&name(*key)).map(|held| held.value.clone());
                (json!(found.map(|found| found.value)), json!(held))
            }
            Act::PutIfSeen(key, value) => {
                let Some((version, is_current)) = model.seen.get(&name(*key)).copied() else { continue };
                let put = swamp.put(name(*key), &json!(value)).if_version(&version).await;
                let expected =
                    if is_current { model.put(&name(*key), json!(value)) } else { json!("version-mismatch") };
                let answered = match put {
                    Ok(written) => {
                        model.seen.insert(name(*key), (written.version, true));
                        json!("stored")
                    }
                    Err(error) => json!(code_of(&error)),
                };
                (answered, expected)
            }
            Act::Batch(acts) => {
                let answered = batch_of(&swamp, acts).await;
                (json!(answered), acts.iter().map(|act| model.single(act)).collect())
            }
            act => {
                let expected = model.single(act);
                (single_of(&swamp, act, &mut model).await, expected)
            }
        };
        if answered != expected {
            return Err(format!("operation {number}, {act:?}: {answered} in place of {expected}"));
        }
        let holds = holds(&swamp).await;
        let expected: Vec<_> = model.held.iter().map(|(key, held)| (key.clone(), held.value.clone())).collect();
        if holds != expected {
            return Err(format!("after operation {number}, {act:?}: {holds:?} in place of {expected:?}"));
        }
    }
    let swamp: Swamp<Json> = transport.hydra.swamp(swamp_name).expect("a name");
    let (keys, expected) = (ordered(&swamp, "updated").await, model.last_written_last());
    if keys == expected { Ok(()) } else { Err(format!("by updated: {keys:?} in place of {expected:?}")) }
}

async fn ordered(swamp: &Swamp<Json>, order: &str) -> Vec<String> {
    swamp.list().order_by(order.parse().expect("an order")).keys().try_collect().await.expect("listed")
}

async fn holds(swamp: &Swamp<Json>) -> Vec<(String, Json)> {
    let all: Vec<_> = swamp.list().stream().try_collect().await.expect("listed");
    all.into_iter().map(|treasure| (treasure.key, treasure.value)).collect()
}

async fn hold(kind: Kind) {
    let runs = std::env::var("HYDRA_MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(12_u32);
    let mut transport = Transport::open(kind).await;
    let mut runner = TestRunner::new(Config::default());
    for run in 0..runs {
        let acts = vec(act(), 10..60).new_tree(&mut runner).expect("operations").current();
        let mut policy = Policy::default();
        policy.idle_evict = if run % 2 == 0 { std::time::Duration::ZERO } else { policy.idle_evict };
        policy.write_interval = if run % 3 == 0 { std::time::Duration::ZERO } else { policy.write_interval };
        let name = format!("model/random/{run}");
        if let Err(why) = follow(&mut transport, &name, &policy, &acts).await {
            let acts = shortest(&mut transport, run, &policy, acts).await;
            panic!("{kind:?}, {why}\nthe shortest sequence that goes wrong: {acts:#?}");
        }
    }
}

/// Leaves out what is not needed to go wrong.
async fn shortest(transport: &mut Transport, run: u32, policy: &Policy, mut acts: Vec<Act>) -> Vec<Act> {
    let mut tried = 0;
    let mut at = 0;
    while at < acts.len() {
        let mut fewer = acts.clone();
        fewer.remove(at);
        tried += 1;
        if follow(transport, &format!("model/shorter/{run}-{tried}"), policy, &fewer).await.is_err() {
            acts = fewer;
        } else {
            at += 1;
        }
    }
    acts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_answer_as_the_model_does() {
    for kind in Kind::ALL {
        hold(kind).await;
    }
}
