//! Directories, names and short cuts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydra_core::{
    Batch, Condition, Engine, EngineOptions, Expiry, Idempotency, Number, Op, OpResult, Policy, SwampName, Value,
};

pub fn name(text: &str) -> SwampName {
    text.parse().unwrap()
}

pub fn json(text: &str) -> Value {
    Value::json(text).unwrap()
}

/// An engine whose writes are synced.
pub fn synced(dir: &Path) -> Engine {
    open(dir, "s1", Duration::ZERO)
}

/// An engine with a server id and a write interval.
pub fn open(dir: &Path, id: &str, write_interval: Duration) -> Engine {
    Engine::open(options(dir, id, write_interval)).unwrap()
}

/// An engine with options of its own.
pub fn open_with(options: EngineOptions) -> Engine {
    Engine::open(options).unwrap()
}

pub fn options(dir: &Path, id: &str, write_interval: Duration) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.server_id = Some(id.to_owned());
    options.default_policy = Policy { write_interval, ..Policy::default() };
    options.foreign_poll = Duration::from_millis(20);
    options
}

pub fn put(engine: &Engine, swamp: &str, key: &str, value: &str) {
    engine.put(&name(swamp), key, json(value)).unwrap();
}

pub fn get(engine: &Engine, swamp: &str, key: &str) -> Option<String> {
    engine.get(&name(swamp), key).unwrap().map(|t| String::from_utf8(t.value.as_bytes().to_vec()).unwrap())
}

pub fn put_if(key: &str, value: &str, condition: Condition) -> Batch {
    Batch::of(Op::Put { key: key.into(), value: json(value), expiry: Expiry::Never, condition })
}

/// An increment under an idempotency key.
pub fn keyed_increment(key: &str, by: i64, request: &str) -> Batch {
    let op = Op::Increment { key: key.into(), by };
    Batch { idempotency: Some(Idempotency::new(request, 7)), ..Batch::of(op) }
}

pub fn incremented(engine: &Engine, swamp: &str, batch: Batch) -> (i64, bool) {
    let committed = engine.batch(&name(swamp), batch).unwrap();
    match committed.results[0] {
        Ok(OpResult::Incremented { value: Number::Integer(value), .. }) => (value, committed.replayed),
        ref other => panic!("{other:?}"),
    }
}

/// Every chunk file below a directory.
pub fn chunks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() => pending.push(path),
                Some("hyl" | "hys") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Copies chunks of one data directory to another like a union sync: a shorter file grows, nothing shrinks or goes.
pub fn sync(from: &Path, to: &Path) {
    for chunk in chunks(from) {
        let target = to.join(chunk.strip_prefix(from).unwrap());
        let longer = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        if longer(&chunk) > longer(&target) {
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&chunk, &target).unwrap();
        }
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Copies a directory with everything below it.
pub fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
