//! Lists in every order with every condition, against a model that sorts everything anew each time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::{Duration, Instant};

use hydra_core::{
    Batch, Condition, Engine, ErrorCode, Expired, Filter, ListQuery, Op, Policy, Swamp, SwampsQuery, Timestamp,
};
use proptest::prelude::*;
use serde_json::Value as Json;

use crate::common::{json, name, open, options, put};

const S: &str = "users/profiles/alice";

/// What the model knows of a treasure.
#[derive(Debug, Clone)]
struct Known {
    value: Json,
    created: u64,
    /// The order of writes is exact, within a millisecond, too.
    turn: u64,
    expires: Option<u64>,
}

type Model = BTreeMap<String, Known>;

const KEYS: [&str; 10] = ["a", "a/1", "ab", "b", "b0", "é", "k1", "k10", "k2", "z z"];
const VALUES: [&str; 16] = [
    r#"{"n":1}"#,
    r#"{"n":1.5,"s":"open"}"#,
    r#"{"n":-3,"s":"shut","t":[1,"x"]}"#,
    r#"{"n":10,"s":"open","t":["x"]}"#,
    r#"{"n":"10"}"#,
    r#"{"n":null,"s":"op"}"#,
    r#"{"n":true}"#,
    r#"{"n":[2]}"#,
    r#"{"n":{"n":1}}"#,
    r#"{"n":1.0,"s":"é"}"#,
    r#"{"s":"open"}"#,
    "7",
    "\"text\"",
    "[]",
    "{}",
    "-0.5",
];
/// Filters as they are written, with what they mean.
type Means = fn(&Json) -> bool;
const FILTERS: [(&str, Means); 7] = [
    ("/n >= 1", |v| v.get("n").is_some_and(|n| order_of(n, &Json::from(1)).is_ge())),
    ("/s == \"open\"", |v| v.get("s").is_some_and(|s| s == "open")),
    ("/s starts \"op\"", |v| v["s"].as_str().is_some_and(|s| s.starts_with("op"))),
    ("/t contains \"x\"", |v| v["t"].as_array().is_some_and(|t| t.contains(&Json::from("x")))),
    ("/n exists false", |v| v.get("n").is_none()),
    ("/n in [1, 10, \"10\"]", |v| matches!(v["n"].as_f64(), Some(n) if n == 1.0 || n == 10.0) || v["n"] == "10"),
    (
        r#"{"or":[{"not":{"path":"/n","op":"<","value":5}},{"and":[{"path":"/s","op":"exists"},{"path":"/n","op":"!=","value":1}]}]}"#,
        |v| {
            let less = v.get("n").is_some_and(|n| order_of(n, &Json::from(5)).is_lt());
            let other = v.get("n").is_some_and(|n| order_of(n, &Json::from(1)).is_ne());
            !less || (v.get("s").is_some() && other)
        },
    ),
];
const ORDERS: [&str; 6] = ["key", "created", "updated", "expires", "value:/n", "value:"];

/// The order of values as people would write it down.
fn order_of(a: &Json, b: &Json) -> Ordering {
    let kind = |v: &Json| match v {
        Json::Null => 0,
        Json::Bool(_) => 1,
        Json::Number(_) => 2,
        Json::String(_) => 3,
        Json::Array(_) => 4,
        Json::Object(_) => 5,
    };
    match (a, b) {
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        (Json::Number(a), Json::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap(),
        (Json::String(a), Json::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Json::Array(a), Json::Array(b)) => {
            a.iter().zip(b).map(|(a, b)| order_of(a, b)).find(|o| o.is_ne()).unwrap_or(a.len().cmp(&b.len()))
        }
        (Json::Object(a), Json::Object(b)) => {
            let member = |(a, b): ((&String, &Json), (&String, &Json))| a.0.cmp(b.0).then_with(|| order_of(a.1, b.1));
            a.iter().zip(b).map(member).find(|o| o.is_ne()).unwrap_or(a.len().cmp(&b.len()))
        }
        _ => kind(a).cmp(&kind(b)),
    }
}

/// The keys a query has to answer, in order.
fn expected(model: &Model, query: &ListQuery, means: Option<Means>, now: u64) -> Vec<String> {
    let order = query.order.to_string();
    let at = |known: &Known| -> Option<Json> {
        match order.as_str() {
            "key" => Some(Json::Null),
            "created" => Some(known.created.into()),
            "updated" => Some(known.turn.into()),
            "expires" => known.expires.map(Json::from),
            "value:" => Some(known.value.clone()),
            _ => known.value.get("n").cloned(),
        }
    };
    let wanted = |(key, known): &(&String, &Known)| {
        let is_expired = known.expires.is_some_and(|at| at <= now);
        query.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix))
            && query.from.as_ref().is_none_or(|from| *key >= from)
            && query.to.as_ref().is_none_or(|to| *key < to)
            && means.is_none_or(|means| means(&known.value))
            && match query.expired {
                Expired::Hidden => !is_expired,
                Expired::Included => true,
                Expired::Only => is_expired,
            }
    };
    let (mut there, mut lacking): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for (key, known) in model.iter().filter(wanted) {
        match at(known) {
            Some(at) => there.push((at, key.clone())),
            None => lacking.push(key.clone()),
        }
    }
    there.sort_by(|a, b| order_of(&a.0, &b.0).then_with(|| a.1.cmp(&b.1)));
    if query.descending {
        there.reverse();
        lacking.reverse();
    }
    there.into_iter().map(|(_, key)| key).chain(lacking).collect()
}

/// All pages of a query, of `limit` each.
fn all_pages(swamp: &Swamp, query: &ListQuery) -> Vec<String> {
    let mut query = query.clone();
    let mut keys = Vec::new();
    loop {
        let page = swamp.list(&query).unwrap();
        assert!(page.treasures.len() <= query.limit);
        assert!(page.next.is_none() || page.treasures.len() == query.limit, "only the last page may be short");
        keys.extend(page.treasures.into_iter().map(|treasure| treasure.key));
        query.cursor = page.next;
        if query.cursor.is_none() {
            return keys;
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put { key: usize, value: usize, expiry: i8 },
    Delete { key: usize },
    Increment { key: usize },
    Rest,
    Restart,
    List { order: usize, descending: bool, bounds: u8, expired: u8, filter: Option<usize>, limit: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        8 => (key.clone(), 0..VALUES.len(), -1i8..=4).prop_map(|(key, value, expiry)| Step::Put { key, value, expiry }),
        2 => key.clone().prop_map(|key| Step::Delete { key }),
        2 => key.prop_map(|key| Step::Increment { key }),
        1 => Just(Step::Rest),
        1 => Just(Step::Restart),
        9 => (0..ORDERS.len(), any::<bool>(), 0u8..6, 0u8..5, proptest::option::of(0..FILTERS.len()), 1usize..7).prop_map(
            |(order, descending, bounds, expired, filter, limit)| Step::List {
                order, descending, bounds, expired, filter, limit
            }
        ),
    ]
}

/// Swamps leave memory as soon as nobody uses them and they are clean.
fn engine(dir: &Path, restless: bool) -> Engine {
    let mut options = options(dir, "s1", Duration::from_millis(5));
    if restless {
        options.default_policy = Policy { idle_evict: Duration::ZERO, ..options.default_policy };
    }
    crate::common::open_with(options)
}

/// What the engine knows now of a key that was just written.
fn learn(engine: &Engine, model: &mut Model, key: &str) {
    let (found, _) = engine.hydrate(&name(S)).unwrap().pick(&[key.to_owned()], Expired::Included).unwrap();
    let treasure = &found[0];
    let known = Known {
        value: serde_json::from_slice(treasure.value.as_bytes()).unwrap(),
        created: treasure.created_at.as_millis(),
        turn: 1 + model.values().map(|known| known.turn).max().unwrap_or_default(),
        expires: treasure.expires_at.map(Timestamp::as_millis),
    };
    model.insert(key.to_owned(), known);
}

fn query_of(step: &Step) -> (ListQuery, Option<Means>) {
    let Step::List { order, descending, bounds, expired, filter, limit } = step else { unreachable!() };
    let mut query = ListQuery { order: ORDERS[*order].parse().unwrap(), limit: *limit, ..ListQuery::default() };
    query.descending = *descending;
    match bounds {
        0 => query.prefix = Some("a".into()),
        1 => query.from = Some("b".into()),
        2 => (query.from, query.to) = (Some("ab".into()), Some("k10".into())),
        3 => (query.prefix, query.to) = (Some("k1".into()), Some("k10".into())),
        _ => {}
    }
    query.expired = [Expired::Included, Expired::Only].get(usize::from(*expired)).copied().unwrap_or_default();
    query.filter = filter.map(|filter| FILTERS[filter].0.parse().unwrap());
    (query, filter.map(|filter| FILTERS[filter].1))
}

fn run(steps: &[Step], restless: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let mut running = engine(dir.path(), restless);
    for step in steps {
        match step {
            Step::Put { key, value, expiry } => {
                let now = Timestamp::now();
                let expires_at = match expiry {
                    -1 => Some(Timestamp::from_millis(now.as_millis() - 1_000 - *value as u64)),
                    0 => Some(now.after(Duration::from_secs(3_600 + *value as u64))),
                    _ => None,
                };
                let (key, value) = (KEYS[*key].to_owned(), json(VALUES[*value]));
                let op = Op::Put { key: key.clone(), value, expiry: expires_at.into(), condition: Condition::Always };
                running.batch(&name(S), Batch::of(op)).unwrap();
                learn(&running, &mut model, &key);
            }
            Step::Delete { key } => {
                running.delete(&name(S), KEYS[*key]).unwrap();
                model.remove(KEYS[*key]);
            }
            Step::Increment { key } => {
                if running.increment(&name(S), KEYS[*key], 3).is_ok() {
                    learn(&running, &mut model, KEYS[*key]);
                }
            }
            Step::Rest => {
                running.flush(None).unwrap();
                std::thread::sleep(Duration::from_millis(8));
            }
            Step::Restart => {
                running.close().unwrap();
                running = engine(dir.path(), restless);
            }
            Step::List { .. } => {
                let (query, means) = query_of(step);
                let swamp = running.hydrate(&name(S)).unwrap();
                let expected = expected(&model, &query, means, Timestamp::now().as_millis());
                assert_eq!(all_pages(&swamp, &query), expected, "{query:?}");
                assert_eq!(swamp.count_matching(&query).unwrap(), expected.len() as u64, "{query:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_list_answers_what_sorting_everything_anew_would(
        steps in proptest::collection::vec(step(), 1..120),
        restless in any::<bool>(),
    ) {
        run(&steps, restless);
    }
}

#[test]
fn an_order_is_the_same_after_thousands_of_writes_as_sorted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let swamp = engine.hydrate(&name(S)).unwrap();
    let orders = ["value:/n", "updated", "created", "value:/s"];
    let list = |swamp: &Swamp, order: &str| {
        let query = ListQuery { order: order.parse().unwrap(), limit: usize::MAX, ..ListQuery::default() };
        swamp.list(&query).unwrap().treasures
    };
    let mut random = 7u64;
    for round in 0..20_000u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = format!("k{}", (random >> 33) % 3_000);
        match random >> 60 {
            0 => drop(engine.delete(&name(S), &key).unwrap()),
            1 => drop(engine.increment(&name(S), &format!("n{key}"), (random >> 40) as i64 % 9)),
            _ => {
                let value = format!(r#"{{"n":{},"s":"{}"}}"#, (random >> 20) as i32 % 100, random % 17);
                engine.put(&name(S), &key, json(&value)).unwrap();
            }
        }
        if round == 5_000 {
            orders.iter().for_each(|order| assert!(!list(&swamp, order).is_empty()));
        }
    }
    let kept: Vec<_> = orders.iter().map(|order| list(&swamp, order)).collect();
    assert!(kept.iter().all(|list| list.len() as u64 == swamp.count()));
    drop(swamp);
    engine.close().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let swamp = engine.hydrate(&name(S)).unwrap();
    for (order, kept) in orders.iter().zip(kept) {
        assert!(list(&swamp, order) == kept, "{order}");
    }
}

#[test]
fn pages_miss_and_repeat_nothing_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    // Those that stay have even numbers, those that come, change and go odd ones.
    for n in (0..4_000).step_by(2) {
        put(&engine, S, &format!("k{n:04}"), &format!(r#"{{"n":{}}}"#, n % 97));
    }
    let (stop, swamp) = (AtomicBool::new(false), engine.hydrate(&name(S)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 1u64;
            while !stop.load(Atomic::Relaxed) {
                n = ((n * 7 + 2) % 4_000) | 1;
                let key = format!("k{n:04}");
                match n % 3 {
                    0 => drop(engine.delete(&name(S), &key).unwrap()),
                    _ => put(&engine, S, &key, &format!(r#"{{"n":{}}}"#, n % 89)),
                }
            }
        });
        for order in ["value:/n", "updated", "created", "expires", "key"] {
            for descending in [false, true] {
                let order = order.parse().unwrap();
                let query =
                    ListQuery { order, descending, to: Some("k3999".into()), limit: 37, ..ListQuery::default() };
                let is_staying = |key: &String| key[1..].parse::<u64>().unwrap() % 2 == 0;
                // What is written all the time moves on in the order of times, so only as much as stays is read.
                let mut staying = Vec::new();
                let mut paged = query.clone();
                while staying.len() < 2_000 {
                    let page = swamp.list(&paged).unwrap();
                    staying.extend(page.treasures.into_iter().map(|treasure| treasure.key).filter(is_staying));
                    paged.cursor = page.next;
                    if paged.cursor.is_none() {
                        break;
                    }
                }
                let distinct: BTreeSet<&String> = staying.iter().collect();
                assert_eq!((staying.len(), distinct.len()), (2_000, 2_000), "{query:?}");
            }
        }
        stop.store(true, Atomic::Relaxed);
    });
}

#[test]
fn the_next_page_of_a_large_order_costs_no_sorting() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    for from in (0..200_000).step_by(10_000) {
        let put = |n: u64| Op::Put {
            key: format!("k{n}"),
            value: json(&format!(r#"{{"n":{}}}"#, n.wrapping_mul(2_654_435_761) % 1_000_003)),
            expiry: None.into(),
            condition: Condition::Always,
        };
        engine.batch(&name(S), Batch { ops: (from..from + 10_000).map(put).collect(), ..Batch::default() }).unwrap();
    }
    let swamp = engine.hydrate(&name(S)).unwrap();
    let mut query = ListQuery { order: "value:/n".parse().unwrap(), limit: 20, ..ListQuery::default() };
    let timed = |query: &ListQuery| {
        let begun = Instant::now();
        let page = swamp.list(query).unwrap();
        (begun.elapsed(), page)
    };
    let (sorted, page) = timed(&query);
    query.cursor = page.next;
    let (next, _) = (0..5).map(|_| timed(&query)).min_by_key(|(took, _)| *took).unwrap();
    assert!(next * 50 < sorted, "sorting took {sorted:?}, the next page {next:?}");
}

#[test]
fn orders_count_against_the_memory_budget_and_go_with_the_swamp() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    (0..1_000).for_each(|n| put(&engine, S, &format!("k{n}"), &n.to_string()));
    let swamp = engine.hydrate(&name(S)).unwrap();
    let bare = engine.stats().resident_bytes;
    let query = ListQuery { order: "value:".parse().unwrap(), ..ListQuery::default() };
    assert!(!swamp.is_ordered(&query.order));
    swamp.list(&query).unwrap();
    assert!(swamp.is_ordered(&query.order));
    assert!(engine.stats().resident_bytes > bare + 48_000, "{bare} {}", engine.stats().resident_bytes);
    swamp.destroy().wait().unwrap();
    assert!(engine.stats().resident_bytes < bare / 4, "{}", engine.stats().resident_bytes);
    assert!(swamp.list(&query).unwrap().treasures.is_empty());
}

#[test]
fn values_that_are_no_json_and_very_long_ones_have_a_place_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let binary = hydra_core::Value::binary("image/png", [1, 2, 3]).unwrap();
    engine.put(&name(S), "png", binary).unwrap();
    for (key, last) in [("long-b", "b"), ("long-a", "a")] {
        put(&engine, S, key, &format!("\"{}{last}\"", "x".repeat(100_000)));
    }
    put(&engine, S, "short", "\"xa\"");
    let swamp = engine.hydrate(&name(S)).unwrap();
    let query =
        |descending| ListQuery { order: "value:".parse().unwrap(), descending, limit: 1, ..ListQuery::default() };
    assert_eq!(all_pages(&swamp, &query(false)), ["short", "long-a", "long-b", "png"]);
    assert_eq!(all_pages(&swamp, &query(true)), ["long-b", "long-a", "short", "png"]);
    let filtered = |filter: &str| {
        let filter: Filter = filter.parse().unwrap();
        all_pages(&swamp, &ListQuery { filter: Some(filter), ..ListQuery::default() })
    };
    let exactly = format!("\"\" == \"{}b\"", "x".repeat(100_000));
    assert_eq!(filtered(&exactly), ["long-b"], "filters compare to the end");
    assert_eq!(filtered("\"\" exists false"), ["png"]);
    let page = swamp.list(&query(false)).unwrap();
    assert!(page.next.unwrap().len() < 2_500);
}

#[test]
fn bounds_and_cursors_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let swamp = engine.hydrate(&name(S)).unwrap();
    let code = |query: ListQuery| swamp.list(&query).unwrap_err().code();
    assert_eq!(code(ListQuery { limit: 0, ..ListQuery::default() }), ErrorCode::InvalidParameter);
    assert_eq!(code(ListQuery { to: Some("x".repeat(1_025)), ..ListQuery::default() }), ErrorCode::InvalidParameter);
    assert_eq!(code(ListQuery { cursor: Some("AAAA".into()), ..ListQuery::default() }), ErrorCode::InvalidCursor);
    let crossed = ListQuery { from: Some("z".into()), to: Some("a".into()), ..ListQuery::default() };
    assert!(swamp.list(&crossed).unwrap().treasures.is_empty());
}

#[test]
fn swamps_are_listed_by_folder_and_path_also_those_that_are_not_on_disk_yet() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let long = "Ä".repeat(120);
    let mut names: Vec<String> = (0..300).map(|n| format!("users/p{}/u{n}", n % 3)).collect();
    names.extend(["users/p1/A B".into(), "users-x/p1/é".into(), "con/.x/-y".into(), format!("{long}/{long}/{long}")]);
    names.iter().for_each(|swamp| put(&engine, swamp, "k", "1"));
    let list = |engine: &Engine, change: &dyn Fn(&mut SwampsQuery)| {
        let mut query = SwampsQuery { limit: 7, ..SwampsQuery::default() };
        change(&mut query);
        let mut found = Vec::new();
        loop {
            let page = engine.swamps(&query).unwrap();
            assert!(page.swamps.len() <= query.limit);
            found.extend(page.swamps);
            query.cursor = page.next;
            if query.cursor.is_none() {
                return found;
            }
        }
    };
    let by_folder = |engine: &Engine| {
        let mut sorted = names.clone();
        sorted.sort_by_key(|text| {
            let name = name(text);
            let path = hydra_core::swamp_dir(engine.folder_of(&name), &name);
            path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>()
        });
        sorted
    };
    let texts =
        |found: &[hydra_core::ListedSwamp]| -> Vec<String> { found.iter().map(|one| one.name.to_string()).collect() };
    let new = list(&engine, &|_| ());
    assert_eq!(texts(&new), by_folder(&engine), "none is on disk");
    assert!(new.iter().all(|one| one.files == 0 && one.loaded.is_none()));
    engine.flush(None).unwrap();
    put(&engine, "new/one/x", "k", "1");
    engine.delete(&name("new/one/x"), "k").unwrap();
    let with_info = list(&engine, &|query| query.info = true);
    assert_eq!(texts(&with_info), by_folder(&engine), "all are on disk, and what is empty is no swamp");
    assert!(with_info.iter().all(|one| one.files == 1 && one.bytes > 0 && one.loaded.unwrap().count == 1));
    // A cursor of before a restart goes on behind it.
    let first = engine.swamps(&SwampsQuery { limit: 100, ..SwampsQuery::default() }).unwrap();
    engine.close().unwrap();
    let engine = open(dir.path(), "s1", Duration::from_secs(3_600));
    let rest = list(&engine, &|query| query.cursor = first.next.clone());
    assert_eq!([texts(&first.swamps), texts(&rest)].concat(), by_folder(&engine));
    assert_eq!(engine.stats().hydrations, 0, "nothing is read into memory");
    let count = |change: &dyn Fn(&mut SwampsQuery)| list(&engine, change).len();
    assert_eq!(count(&|query| query.sanctuary = Some("users".into())), 301);
    assert_eq!(count(&|query| query.prefix = Some("users".into())), 302);
    assert_eq!(count(&|query| query.prefix = Some("users/p1/u1".into())), 39);
    let realm = |query: &mut SwampsQuery| (query.sanctuary, query.realm) = (Some("users".into()), Some("p1".into()));
    assert_eq!(count(&realm), 101);
    assert_eq!(
        count(&|query| {
            realm(query);
            query.prefix = Some("A".into());
        }),
        1
    );
    assert_eq!(count(&|query| query.sanctuary = Some(long.clone())), 1);
    assert_eq!(count(&|query| query.prefix = Some(long.clone())), 1);
    let halves = ["0-49", "50-99"].map(|half| count(&|query| query.folders = Some(half.parse().unwrap())));
    assert_eq!(halves.iter().sum::<usize>(), names.len());
    let code = |query: SwampsQuery| engine.swamps(&query).unwrap_err().code();
    let other = SwampsQuery { prefix: Some("u".into()), cursor: first.next.clone(), ..SwampsQuery::default() };
    assert_eq!(code(other), ErrorCode::InvalidCursor);
    assert_eq!(code(SwampsQuery { cursor: Some("x".into()), ..SwampsQuery::default() }), ErrorCode::InvalidCursor);
    assert_eq!(code(SwampsQuery { limit: 0, ..SwampsQuery::default() }), ErrorCode::InvalidParameter);
    assert_eq!(code(SwampsQuery { realm: Some("r".into()), ..SwampsQuery::default() }), ErrorCode::InvalidParameter);
    assert_eq!(code(SwampsQuery { sanctuary: Some("..".into()), ..SwampsQuery::default() }), ErrorCode::InvalidName);
}
