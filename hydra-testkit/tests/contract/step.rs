//! Carrying out a step with the client, and telling what came of it as JSON.

use std::time::Duration;

use futures_util::TryStreamExt;
use hydra_sdk::{Amount, Done, Error, Expired, Filter, Hydra, Increment, List, Pattern, Policy, Put, Swamp, Value};
use serde_json::{Value as Json, json};

use crate::case::{Saved, Step, code_of};
use crate::transport::Transport;

type Result<T> = std::result::Result<T, Error>;

/// What a step answers:
///
/// | `do` | answers |
/// | --- | --- |
/// | `name` | the canonical name |
/// | `put`, `merge`, `patch` | `"created"` or `"changed"` |
/// | `get`, `path` | `[value]`, or `[]` where there is none |
/// | `text` | the text of the value |
/// | `meta` | whether it expires, and is at the version of `if` |
/// | `delete`, `destroy`, `ack`, `extend`, `renew`, `release` | whether there was something |
/// | `increment` | the sum |
/// | `push` | the length of the key, and whether it comes after the one pushed before |
/// | `list` | the keys of a page |
/// | `pages` | the keys of all pages, one by one |
/// | `all` | keys and values |
/// | `count` | how many |
/// | `batch`, `across` | the answer of each operation, or its code |
/// | `shift` | the keys that were taken |
/// | `lock` | whether it was granted |
/// | `holder` | `[owner]`, or `[]` |
/// | `info` | `[count, where the policy comes from]`, or `[]` |
/// | others | null |
pub(crate) async fn carry_out(transport: &mut Transport, name: &str, step: &Step, saved: &mut Saved) -> Result<Json> {
    match step.r#do.as_str() {
        "restart" => transport.restart().await,
        "sleep" => tokio::time::sleep(millis(step.ttl)).await,
        "name" => return Ok(json!(transport.hydra.swamp::<Json>(step.swamp.as_str())?.name().as_str())),
        "policy" => return policy(&transport.hydra, name, step).await,
        "across" => return across(&transport.hydra, name, step).await,
        _ => return on_swamp(&transport.hydra.swamp(name)?, step, saved).await,
    }
    Ok(Json::Null)
}

async fn on_swamp(swamp: &Swamp<Json>, step: &Step, saved: &mut Saved) -> Result<Json> {
    match step.r#do.as_str() {
        "put" => {
            let put = conditional(put(swamp, step)?, step, saved);
            let written = if let Some(key) = &step.again { put.idempotency_key(key).await? } else { put.await? };
            keep(&step.save, written.version, &mut saved.versions);
            Ok(json!(if written.created { "created" } else { "changed" }))
        }
        "merge" | "patch" => {
            let call = if step.r#do == "merge" {
                swamp.merge(&step.key, &step.value)
            } else {
                swamp.patch(&step.key, &step.value)
            };
            let call = if step.create { call.create() } else { call };
            let call = match &step.r#if {
                Some(version) => call.if_version(&saved.versions[version]),
                None => call,
            };
            let written = call.await?;
            keep(&step.save, written.version, &mut saved.versions);
            Ok(json!(if written.created { "created" } else { "changed" }))
        }
        "delete" => {
            let call = swamp.delete(&step.key);
            let call = if let Some(version) = &step.r#if { call.if_version(&saved.versions[version]) } else { call };
            Ok(json!(if let Some(key) = &step.again { call.idempotency_key(key).await? } else { call.await? }))
        }
        "increment" => increment(swamp, step).await,
        "push" => push(swamp, step, saved).await,
        "batch" => batch(swamp, step).await,
        "shift" | "ack" | "extend" => queue(swamp, step, saved).await,
        "lock" | "renew" | "release" | "holder" => lock(swamp, step, saved).await,
        "list" | "pages" | "all" | "count" => list(swamp, step, saved).await,
        _ => read(swamp, step, saved).await,
    }
}

async fn read(swamp: &Swamp<Json>, step: &Step, saved: &Saved) -> Result<Json> {
    let key = step.key.as_str();
    let found = |value: Option<Json>| Json::from_iter(value);
    match step.r#do.as_str() {
        "get" if step.expired.is_some() => Ok(found(swamp.treasure_with_expired(key).await?.map(|found| found.value))),
        "get" => Ok(found(swamp.get(key).await?)),
        "path" => Ok(found(swamp.get_path(key, step.path.as_deref().unwrap_or_default()).await?)),
        "text" => {
            let value = swamp.get_value(key).await?;
            Ok(json!(value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())))
        }
        "meta" => {
            let treasure = swamp.treasure(key).await?.expect("a treasure");
            let same = step.r#if.as_ref().map(|version| saved.versions[version] == treasure.version);
            Ok(json!({
                "expires": treasure.expires_at.is_some(),
                "same": same,
            }))
        }
        "info" => Ok(match swamp.info().await? {
            Some(info) => json!([info.count, info.policy_from.is_some()]),
            None => json!([]),
        }),
        "destroy" => Ok(json!(swamp.destroy().await?)),
        "flush" => swamp.flush().await.map(|()| Json::Null),
        other => panic!("{other} is nothing that can be done"),
    }
}

fn value(step: &Step) -> Result<Value> {
    Ok(match (&step.json, &step.content_type) {
        (Some(text), _) => Value::json(text)?,
        (None, Some(kind)) => Value::binary(kind, step.value.as_str().expect("a text"))?,
        (None, None) => Value::from_serialize(&step.value)?,
    })
}

fn put(swamp: &Swamp<Json>, step: &Step) -> Result<Put> {
    let put = swamp.put_value(&step.key, value(step)?);
    let put = if let Some(ttl) = step.ttl { put.ttl(Duration::from_millis(ttl)) } else { put };
    Ok(if step.keep_ttl { put.keep_ttl() } else { put })
}

fn conditional(put: Put, step: &Step, saved: &Saved) -> Put {
    match step.r#if.as_deref() {
        None => put,
        Some("absent") => put.create_only(),
        Some("present") => put.update_only(),
        Some(version) => put.if_version(&saved.versions[version]),
    }
}

async fn increment(swamp: &Swamp<Json>, step: &Step) -> Result<Json> {
    let whole = |number: &serde_json::Number| number.as_i64().expect("a whole number");
    let float = |number: &serde_json::Number| number.as_f64().expect("a number");
    let by = step.by.as_ref().expect("by");
    if by.is_i64() {
        Ok(json!(options(swamp.increment(&step.key, whole(by)), step, whole).await?))
    } else {
        Ok(json!(options(swamp.increment(&step.key, float(by)), step, float).await?))
    }
}

fn options<N: Amount>(call: Increment<N>, step: &Step, number: fn(&serde_json::Number) -> N) -> Increment<N> {
    let call = if let Some(path) = &step.path { call.path(path) } else { call };
    let call = if let Some(initial) = &step.initial { call.initial(number(initial)) } else { call };
    let call = if let Some(min) = &step.min { call.min(number(min)) } else { call };
    let call = if let Some(max) = &step.max { call.max(number(max)) } else { call };
    if let Some(key) = &step.again { call.idempotency_key(key) } else { call }
}

async fn push(swamp: &Swamp<Json>, step: &Step, saved: &mut Saved) -> Result<Json> {
    let call = swamp.push_value(value(step)?);
    let pushed = if let Some(key) = &step.again { call.idempotency_key(key).await? } else { call.await? };
    let before = saved.keys.insert("pushed".to_owned(), pushed.key.clone());
    Ok(json!([pushed.key.len(), before.is_none_or(|before| before < pushed.key)]))
}

/// An operation of a batch, as a write of its own swamp.
macro_rules! add {
    ($batch:ident, $swamp:expr, $step:expr, $get:expr) => {
        match $step.r#do.as_str() {
            "put" => $batch.write(conditional(put($swamp, $step)?, $step, &Saved::default())),
            "merge" if $step.create => $batch.write($swamp.merge(&$step.key, &$step.value).create()),
            "merge" => $batch.write($swamp.merge(&$step.key, &$step.value)),
            "patch" => $batch.write($swamp.patch(&$step.key, &$step.value)),
            "delete" => $batch.write($swamp.delete(&$step.key)),
            "increment" => {
                let by = $step.by.as_ref().and_then(|by| by.as_i64()).expect("a whole number");
                let whole = |number: &serde_json::Number| number.as_i64().expect("a whole number");
                $batch.write(options($swamp.increment(&$step.key, by), $step, whole))
            }
            "get" => $get,
            other => panic!("{other} is nothing for a batch"),
        }
    };
}

async fn batch(swamp: &Swamp<Json>, step: &Step) -> Result<Json> {
    let mut batch = swamp.batch();
    for step in &step.ops {
        batch = add!(batch, swamp, step, batch.get(&step.key));
    }
    let batch = if step.atomic { batch.atomic() } else { batch };
    let batch = if let Some(key) = &step.again { batch.idempotency_key(key) } else { batch };
    Ok(batch.await?.into_iter().map(told).collect())
}

async fn across(hydra: &Hydra, name: &str, step: &Step) -> Result<Json> {
    let mut batch = hydra.batch();
    for step in &step.ops {
        let swamp = hydra.swamp::<Json>(format!("{name}{}", step.swamp).as_str())?;
        batch = add!(batch, &swamp, step, batch.get(&swamp, &step.key));
    }
    let batch = if let Some(key) = &step.again { batch.idempotency_key(key) } else { batch };
    let told = batch.await?.into_iter().map(|done| match done {
        Ok(Done::Got(found)) => {
            let value = found.map(|found| found.value.decode::<Json>().expect("JSON"));
            Json::from_iter(value)
        }
        Ok(Done::Put(written)) => json!(if written.created { "created" } else { "changed" }),
        Ok(Done::Deleted(existed)) => json!(existed),
        Ok(Done::Incremented(sum, _)) => json!(sum),
        Ok(other) => panic!("{other:?}"),
        Err(error) => json!(code_of(&error)),
    });
    Ok(told.collect())
}

/// What an operation of a batch did.
fn told(done: Result<Done<Json>>) -> Json {
    match done {
        Ok(Done::Got(found)) => Json::from_iter(found.map(|found| found.value)),
        Ok(Done::Put(written)) => json!(if written.created { "created" } else { "changed" }),
        Ok(Done::Deleted(existed)) => json!(existed),
        Ok(Done::Incremented(sum, _)) => json!(sum),
        Ok(other) => panic!("{other:?}"),
        Err(error) => json!(code_of(&error)),
    }
}

async fn queue(swamp: &Swamp<Json>, step: &Step, saved: &mut Saved) -> Result<Json> {
    let name = step.save.clone().unwrap_or_default();
    match step.r#do.as_str() {
        "ack" => Ok(json!(saved.taken[&name][0].ack().await?)),
        "extend" => {
            let taken = saved.taken.get_mut(&name).expect("taken before");
            Ok(json!(taken[0].extend(millis(step.lease)).await?))
        }
        _ => {
            let call = swamp.shift().take(step.n.unwrap_or(1));
            let call = if let Some(order) = &step.order { call.by(order.parse()?) } else { call };
            let call = if step.desc { call.descending() } else { call };
            let call = if step.due { call.due() } else { call };
            let call = if step.lease.is_some() { call.lease(millis(step.lease)) } else { call };
            let call = if step.wait.is_some() { call.wait(millis(step.wait)) } else { call };
            let taken = if let Some(key) = &step.again { call.idempotency_key(key).await? } else { call.await? };
            let keys = taken.iter().map(|taken| json!(taken.key())).collect();
            saved.taken.insert(name, taken);
            Ok(keys)
        }
    }
}

async fn lock(swamp: &Swamp<Json>, step: &Step, saved: &mut Saved) -> Result<Json> {
    let name = step.save.clone().unwrap_or_default();
    match step.r#do.as_str() {
        "renew" => Ok(json!(saved.locks.get_mut(&name).expect("a lock").renew(millis(step.ttl)).await?)),
        "release" => Ok(json!(saved.locks.remove(&name).expect("a lock").release().await?)),
        "holder" => Ok(Json::from_iter(swamp.lock_info(&step.key).await?.map(|info| json!(info.owner)))),
        _ => {
            let call = swamp.lock(&step.key, millis(step.ttl)).wait(millis(step.wait));
            let call = if let Some(owner) = &step.owner { call.owner(owner) } else { call };
            let Some(guard) = call.await? else { return Ok(json!(false)) };
            let grows = saved.fences.iter().all(|fence| *fence < guard.fence());
            saved.fences.push(guard.fence());
            saved.locks.insert(name, guard);
            Ok(json!(grows))
        }
    }
}

async fn list(swamp: &Swamp<Json>, step: &Step, saved: &mut Saved) -> Result<Json> {
    let with = |list: List<Json>| -> Result<List<Json>> {
        let list = if let Some(order) = &step.order { list.order_by(order.parse()?) } else { list };
        let list = if step.desc { list.descending() } else { list };
        let list = if let Some(prefix) = &step.prefix { list.prefix(prefix) } else { list };
        let list = match (&step.from, &step.to) {
            (None, None) => list,
            (Some(from), None) => list.range(from.clone()..),
            (None, Some(to)) => list.range(..to.clone()),
            (Some(from), Some(to)) => list.range(from.clone()..to.clone()),
        };
        let list = match &step.r#where {
            None => list,
            Some(Json::String(text)) => list.filter(text.parse::<Filter>()?),
            Some(json) => list.filter(json.to_string().parse::<Filter>()?),
        };
        Ok(match step.expired.as_deref() {
            None => list,
            Some("include") => list.expired(Expired::Included),
            Some("only") => list.expired(Expired::Only),
            Some(other) => panic!("{other} is neither include nor only"),
        })
    };
    let query = with(swamp.list())?;
    match step.r#do.as_str() {
        "count" => Ok(json!(query.count().await?)),
        "all" => {
            let all: Vec<_> = query.stream().try_collect().await?;
            Ok(all.into_iter().map(|treasure| json!([treasure.key, treasure.value])).collect())
        }
        "pages" => {
            let mut pages = Vec::new();
            let mut page = query.limit(step.limit.expect("a limit")).page().await?;
            loop {
                pages.push(page.treasures.iter().map(|treasure| json!(treasure.key)).collect::<Json>());
                let Some(next) = page.next else { return Ok(pages.into()) };
                page = with(swamp.list())?.limit(step.limit.expect("a limit")).after(&next).page().await?;
            }
        }
        _ => {
            let query = if let Some(limit) = step.limit { query.limit(limit) } else { query };
            let query = if let Some(cursor) = &step.after { query.after(&saved.cursors[cursor]) } else { query };
            let page = query.page().await?;
            if let Some(next) = page.next {
                keep(&step.save, next, &mut saved.cursors);
            }
            Ok(page.treasures.into_iter().map(|treasure| json!(treasure.key)).collect())
        }
    }
}

async fn policy(hydra: &Hydra, name: &str, step: &Step) -> Result<Json> {
    let pattern: Pattern = name.parse()?;
    let policy: Policy = serde_json::from_value(step.value.clone()).expect("a policy");
    hydra.set_policy(&pattern, &policy).await.map(|()| Json::Null)
}

fn keep<T>(name: &Option<String>, kept: T, among: &mut std::collections::HashMap<String, T>) {
    if let Some(name) = name {
        among.insert(name.clone(), kept);
    }
}

fn millis(count: Option<u64>) -> Duration {
    Duration::from_millis(count.unwrap_or_default())
}
