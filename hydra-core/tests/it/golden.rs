//! Directories that earlier versions wrote, opened for ever: what they held then they hold now.
//!
//! Each `tests/golden/v1-*` has the directory as it was (`data`) and what is in it (`expected.json`).
//! The generator below makes those that are missing and never touches one that is there:
//! `cargo test -p hydra-core --test it golden::make -- --ignored`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use hydra_core::{
    Batch, Compression, Condition, CopyState, Engine, EngineOptions, Expiry, Idempotency, ListQuery, Op, Pattern,
    Policy, SwampName, Timestamp, Treasure, Value, inspect,
};
use serde_json::{Value as Json, json};

use crate::common::{chunks, copy_all, get, keyed_increment, name, options, put, sync};

const S: &str = "users/profiles/alice";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every swamp below a directory, by the names in `expected`.
fn state(engine: &Engine, swamps: &[SwampName]) -> Json {
    let swamp = |name: &SwampName| {
        let swamp = engine.hydrate(name).unwrap();
        let page = swamp.list(&ListQuery { limit: usize::MAX, ..ListQuery::default() }).unwrap();
        let treasures: Vec<Json> = page.treasures.iter().map(treasure).collect();
        (name.to_string(), json!({"copy": swamp.copy_state().as_str(), "treasures": treasures}))
    };
    swamps.iter().map(swamp).collect::<BTreeMap<_, _>>().into_iter().collect::<serde_json::Map<_, _>>().into()
}

fn treasure(treasure: &Treasure) -> Json {
    let mut json = json!({
        "key": treasure.key,
        "version": treasure.version.to_string(),
        "createdAt": treasure.created_at.to_string(),
        "updatedAt": treasure.updated_at.to_string(),
    });
    match treasure.value.content_type() {
        None => json["text"] = String::from_utf8(treasure.value.as_bytes().to_vec()).unwrap().into(),
        Some(content_type) => {
            json["contentType"] = content_type.into();
            json["hex"] = treasure.value.as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>().into();
        }
    }
    if let Some(expires_at) = treasure.expires_at {
        json["expiresAt"] = expires_at.to_string().into();
    }
    json
}

fn reader(dir: &Path) -> Engine {
    let mut options = options(dir, "reader", Duration::ZERO);
    options.gc_delay = Duration::ZERO;
    options.copied = true;
    crate::common::open_with(options)
}

#[test]
fn every_golden_directory_holds_what_it_held() {
    let mut seen = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        seen += 1;
        let expected: Json = serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        let swamps: Vec<SwampName> =
            expected["swamps"].as_object().unwrap().keys().map(|text| text.parse().unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        copy_all(&case.join("data"), dir.path());
        let before = chunks(dir.path());
        let engine = reader(dir.path());
        assert_eq!(state(&engine, &swamps), expected["swamps"], "{}", case.display());
        assert_eq!(chunks(dir.path()), before, "reading writes nothing: {}", case.display());
        for folder in engine.folder_count().all().iter() {
            engine.compact(folder).unwrap();
            engine.collect(folder).unwrap();
        }
        engine.close().unwrap();
        let engine = reader(dir.path());
        assert_eq!(state(&engine, &swamps), expected["swamps"], "compacted: {}", case.display());
        engine.close().unwrap();
    }
    assert!(seen >= 20, "{seen} golden directories");
}

/// The reader in `docs` was written from the document alone, so both say the same of every directory.
#[test]
fn the_reader_of_the_document_agrees() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let python =
        |case: &Path| Command::new("python3").arg(docs.join("format_reader.py")).arg(case.join("data")).output();
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        return println!("skipped: there is no python3");
    }
    for entry in fs::read_dir(golden()).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        let output = python(&case).unwrap();
        assert!(output.status.success(), "{}: {}", case.display(), String::from_utf8_lossy(&output.stderr));
        let read: Json = serde_json::from_slice(&output.stdout).unwrap();
        let mut expected: Json = serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
        for swamp in expected["swamps"].as_object_mut().unwrap().values_mut() {
            for treasure in swamp["treasures"].as_array_mut().unwrap() {
                // The reader gives no version to sums.
                let of_sum = treasure["version"].as_str().unwrap().len() > 27;
                of_sum.then(|| treasure.as_object_mut().unwrap().remove("version"));
            }
        }
        assert_eq!(read["swamps"], expected["swamps"], "{}", case.display());
    }
}

/// A directory under construction.
struct Maker {
    dir: tempfile::TempDir,
}

impl Maker {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Works as a server that is closed cleanly.
    fn closed(&self, id: &str, work: impl FnOnce(&Engine)) {
        let engine = self.engine(id, |_| ());
        work(&engine);
        engine.close().unwrap();
    }

    fn engine(&self, id: &str, change: impl FnOnce(&mut EngineOptions)) -> Engine {
        let mut options = options(self.path(), id, Duration::ZERO);
        options.gc_delay = Duration::ZERO;
        change(&mut options);
        Engine::open(options).unwrap()
    }

    /// Works as a server that is killed.
    fn killed(&self, id: &str, work: impl FnOnce(&Engine)) {
        let other = Maker::new();
        copy_all(self.path(), other.path());
        let engine = other.engine(id, |_| ());
        work(&engine);
        // What is on disk while the server runs is what a kill leaves.
        sync(other.path(), self.path());
        self.share_hydra(&other);
        copy_all(&other.path().join(".hydra"), &self.path().join(".hydra"));
    }

    fn share_hydra(&self, other: &Maker) {
        fs::copy(other.path().join("HYDRA"), self.path().join("HYDRA")).unwrap();
    }

    fn new() -> Maker {
        Maker { dir: tempfile::tempdir().unwrap() }
    }

    /// Another server's directory of the same cluster.
    fn peer(&self) -> Maker {
        let peer = Maker::new();
        peer.share_hydra(self);
        peer
    }

    fn compact(&self, id: &str, and_collect: bool) {
        let engine = self.engine(id, |_| ());
        for folder in engine.folder_count().all().iter() {
            engine.compact(folder).unwrap();
            if and_collect {
                engine.collect(folder).unwrap();
            }
        }
        engine.close().unwrap();
    }

    fn newest(&self) -> PathBuf {
        let files = chunks(self.path());
        files.into_iter().max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap()).unwrap()
    }

    fn change(&self, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).unwrap();
        change(&mut bytes);
        fs::write(file, bytes).unwrap();
    }
}

fn five(engine: &Engine) {
    (0..5).for_each(|i| put(engine, S, &format!("k{i}"), &format!("{{\"n\":{i}}}")));
}

fn add(engine: &Engine, key: &str, by: i64) {
    engine.increment(&name(S), key, by).unwrap();
}

fn delete(engine: &Engine, key: &str) {
    engine.delete(&name(S), key).unwrap();
}

fn put_until(engine: &Engine, key: &str, expires_at: &str) {
    let expires_at = Some(expires_at.parse::<Timestamp>().unwrap());
    let op = Op::Put {
        key: key.into(),
        value: Value::json("1").unwrap(),
        expiry: expires_at.into(),
        condition: Condition::Always,
    };
    engine.batch(&name(S), Batch::of(op)).unwrap();
}

type Case = (&'static str, &'static str, &'static [&'static str], fn(&Maker));

fn cases() -> Vec<Case> {
    vec![
        ("log", "One log of a killed server.", &[S], |m| m.killed("s1", five)),
        ("sealed", "One log that was closed with a footer; overwritten and deleted keys.", &[S], |m| {
            m.closed("s1", |e| {
                five(e);
                put(e, S, "k1", "\"again\"");
                delete(e, "k2");
            });
        }),
        ("many-chunks", "A log of each of eight processes.", &[S], |m| {
            (0..8).for_each(|i| m.closed("s1", |e| put(e, S, &format!("k{}", i % 5), &i.to_string())));
        }),
        ("snapshot-beside-logs", "A snapshot, the logs it covers, and a later log.", &[S], |m| {
            m.closed("s1", five);
            m.closed("s1", |e| delete(e, "k3"));
            m.compact("s1", false);
            m.closed("s1", |e| put(e, S, "k0", "\"after the snapshot\""));
        }),
        ("snapshot-alone", "A snapshot; what it covers is gone.", &[S], |m| {
            m.closed("s1", five);
            m.closed("s1", |e| delete(e, "k3"));
            m.compact("s1", true);
            m.compact("s1", true);
        }),
        ("unfinished-snapshot", "A snapshot without its end beside the logs it was made of.", &[S], |m| {
            m.closed("s1", five);
            m.closed("s1", |e| delete(e, "k3"));
            m.compact("s1", false);
            let snap = chunks(m.path()).into_iter().find(|file| file.extension().is_some_and(|e| e == "hys")).unwrap();
            m.change(&snap, |bytes| bytes.truncate(bytes.len() - 9));
        }),
        ("torn-tail", "A log whose last frame was cut short.", &[S], |m| {
            m.killed("s1", five);
            m.change(&m.newest(), |bytes| bytes.truncate(bytes.len() - 5));
        }),
        ("torn-zeros", "A log that ends in zeros.", &[S], |m| {
            m.killed("s1", five);
            m.change(&m.newest(), |bytes| {
                let end = bytes.len();
                bytes[end - 12..].fill(0);
                bytes.extend_from_slice(&[0; 300]);
            });
        }),
        ("torn-creation", "A log, and two whose creation was cut short.", &[S], |m| {
            m.killed("s1", five);
            let log = m.newest();
            let text = log.to_str().unwrap();
            fs::write(text.replace("-0001.hyl", "-0002.hyl"), b"").unwrap();
            let start = fs::read(&log).unwrap();
            fs::write(text.replace("-0001.hyl", "-0003.hyl"), &start[..40]).unwrap();
        }),
        ("lz4", "Compressed frames in a log and in a snapshot.", &[S], |m| {
            let engine = m.engine("s1", |_| ());
            let policy = Policy { compression: Compression::Lz4, write_interval: Duration::ZERO, ..Policy::default() };
            engine.set_policy("users/*/*".parse::<Pattern>().unwrap(), policy).unwrap();
            (0..3).for_each(|i| put(&engine, S, &format!("k{i}"), &format!("\"{}\"", "text ".repeat(300))));
            engine.close().unwrap();
            m.closed("s1", |e| put(e, S, "k3", &format!("\"{}\"", "more ".repeat(300))));
            m.compact("s1", false);
            m.closed("s1", |e| put(e, S, "k4", &format!("\"{}\"", "last ".repeat(300))));
        }),
        ("batch", "Frames of several records; one atomic.", &[S], |m| {
            m.killed("s1", |e| {
                let value = |text: &str| Value::json(text).unwrap();
                let op = |key: &str, text: &str| Op::Put {
                    key: key.into(),
                    value: value(text),
                    expiry: Expiry::Never,
                    condition: Condition::Always,
                };
                let ops = vec![
                    op("a", "1"),
                    op("b", "2"),
                    Op::Increment { key: "a".into(), by: 5 },
                    Op::Delete { key: "b".into(), condition: Condition::Always },
                    op("c", "3"),
                ];
                e.batch(&name(S), Batch { ops, atomic: true, ..Batch::default() }).unwrap();
            });
        }),
        (
            "increments",
            "A number that is put and added to, one that is only added to, one deleted in between.",
            &[S],
            |m| {
                m.closed("s1", |e| {
                    put(e, S, "base", "100");
                    for by in [5, -7, 1_000_000_000_000] {
                        e.increment(&name(S), "base", by).unwrap();
                        e.increment(&name(S), "none", by).unwrap();
                        e.increment(&name(S), "gone", by).unwrap();
                    }
                    delete(e, "gone");
                    e.increment(&name(S), "gone", 3).unwrap();
                });
            },
        ),
        ("increments-snapshot", "Sums in a snapshot, and later increments.", &[S], |m| {
            for _ in 0..2 {
                m.closed("s1", |e| {
                    e.increment(&name(S), "n", 10).unwrap();
                    e.increment(&name(S), "m", i64::MAX / 4).unwrap();
                });
            }
            m.compact("s1", true);
            m.closed("s1", |e| add(e, "n", -3));
        }),
        ("increments-two-servers", "Two servers add to the same keys without knowing of each other.", &[S], |m| {
            m.closed("s1", |e| put(e, S, "n", "100"));
            let peer = m.peer();
            sync(m.path(), peer.path());
            peer.closed("s2", |e| add(e, "n", 7));
            m.closed("s1", |e| add(e, "n", 30));
            peer.closed("s2", |e| add(e, "only", 2));
            sync(peer.path(), m.path());
        }),
        ("twins", "One request that was carried out on two servers counts once.", &[S], twins),
        ("twins-snapshot", "The same, with what is remembered of the request in a snapshot.", &[S], |m| {
            twins(m);
            m.compact("s1", true);
            m.compact("s1", true);
        }),
        ("idempotency", "Requests that are remembered: a put, a delete, an increment, one that failed.", &[S], |m| {
            m.closed("s1", |e| {
                let keyed = |key: &str, op: Op| Batch { idempotency: Some(Idempotency::new(key, 1)), ..Batch::of(op) };
                let value = Value::json("\"once\"").unwrap();
                let op = Op::Put { key: "k".into(), value, expiry: Expiry::Never, condition: Condition::Absent };
                e.batch(&name(S), keyed("first", op.clone())).unwrap();
                assert!(e.batch(&name(S), keyed("second", op)).unwrap().results[0].is_err());
                let delete = Op::Delete { key: "absent".into(), condition: Condition::Always };
                e.batch(&name(S), keyed("third", delete)).unwrap();
                e.batch(&name(S), keyed_increment("n", 4, "0192f0c1-2a3b-7c4d-8e5f-001122334455")).unwrap();
            });
            m.closed("s1", |e| put(e, S, "other", "1"));
            m.compact("s1", true);
        }),
        ("expiry", "A value that expired long ago and one that expires in the year 9000.", &[S], |m| {
            m.closed("s1", |e| {
                put_until(e, "past", "2001-01-01T00:00:00Z");
                put_until(e, "future", "9000-01-01T00:00:00Z");
                put_until(e, "cleared", "2001-01-01T00:00:00Z");
                put(e, S, "cleared", "2");
            });
        }),
        (
            "binary",
            "Bytes with a content type, none at all, and JSON texts that are kept as they were sent.",
            &[S],
            |m| {
                m.closed("s1", |e| {
                    let all: Vec<u8> = (0..=255).collect();
                    e.put(&name(S), "bytes", Value::binary("application/octet-stream", all).unwrap()).unwrap();
                    e.put(&name(S), "empty", Value::binary("text/plain; charset=utf-8", b"").unwrap()).unwrap();
                    put(e, S, "number", "1.0");
                    put(e, S, "escaped", r#""\u00e4\ud83d\ude00""#);
                    put(e, S, "object", r#"{ "b" : [ 1, null ] }"#);
                });
            },
        ),
        (
            "odd-names",
            "Names that no file system keeps as they are, and keys of all kinds.",
            &["Users/con/.hidden", "a b/%41/ä€😀", "-x/com1.txt/~y", "A/a/nul", "x/y/trailing."],
            |m| {
                m.closed("s1", |e| {
                    for swamp in ["Users/con/.hidden", "a b/%41/ä€😀", "-x/com1.txt/~y", "A/a/nul", "x/y/trailing."]
                    {
                        ["", " ", "ä€😀", "a/b", "%00", "k\u{7}"].iter().for_each(|key| {
                            // Keys that are not allowed are left out; which ones is not the matter here.
                            let _ = e.put(&name(swamp), key, Value::json("1").unwrap());
                        });
                        put(e, swamp, "k", "\"here\"");
                    }
                });
            },
        ),
        ("long-names", "Names whose directories are cut, and keys as long as they may be.", long_names(), |m| {
            m.closed("s1", |e| long_names().iter().for_each(|swamp| put(e, swamp, &"k".repeat(1024), "1")));
        }),
        ("folders-1", "A directory with one folder and a cluster of its own.", &[S, "a/b/c"], |m| {
            let engine = m.engine("s1", |options| {
                options.folders_total = Some(hydra_core::FolderCount::new(1).unwrap());
                options.cluster = Some("eu-1".into());
            });
            put(&engine, S, "k", "1");
            put(&engine, "a/b/c", "k", "2");
            engine.close().unwrap();
        }),
        ("two-servers", "A server takes over, writes on what it read, and the first comes back.", &[S], |m| {
            m.closed("s1", five);
            let peer = m.peer();
            sync(m.path(), peer.path());
            peer.closed("s2", |e| {
                put(e, S, "k0", "\"by s2\"");
                delete(e, "k1");
            });
            sync(peer.path(), m.path());
            m.closed("s1", |e| put(e, S, "k0", "\"by s1 again\""));
        }),
        ("split", "Two servers write the same keys without knowing of each other.", &[S], |m| {
            m.closed("s1", five);
            let peer = m.peer();
            sync(m.path(), peer.path());
            m.closed("s1", |e| {
                put(e, S, "k0", "\"s1\"");
                delete(e, "k1");
            });
            peer.closed("s2", |e| {
                put(e, S, "k0", "\"s2\"");
                put(e, S, "k1", "\"s2\"");
                delete(e, "k2");
            });
            sync(peer.path(), m.path());
        }),
        ("conflicts", "A snapshot that records which write of a split was lost, and increments with it.", &[S], |m| {
            m.closed("s1", |e| {
                five(e);
                put(e, S, "n", "100");
            });
            let peer = m.peer();
            sync(m.path(), peer.path());
            m.closed("s1", |e| {
                put(e, S, "k0", "\"s1\"");
                add(e, "n", 5);
            });
            peer.closed("s2", |e| {
                put(e, S, "k0", "\"s2\"");
                put(e, S, "n", "200");
                delete(e, "k1");
            });
            sync(peer.path(), m.path());
            m.compact("s1", true);
            m.compact("s1", true);
        }),
        ("sync", "A log with a SYNC record: files of another server came while it was open.", &[S], |m| {
            let peer = Maker::new();
            m.closed("s1", |e| put(e, S, "mine", "1"));
            peer.share_hydra(m);
            let mut theirs = peer.engine("s2", |_| ());
            put(&theirs, S, "theirs", "1");
            let engine = m.engine("s1", |options| options.copied = true);
            put(&engine, S, "mine", "2");
            sync(peer.path(), m.path());
            crate::common::eventually("theirs", || get(&engine, S, "theirs").is_some());
            put(&engine, S, "theirs", "\"overwritten\"");
            engine.close().unwrap();
            put(&theirs, S, "late", "1");
            theirs.close().unwrap();
            theirs = peer.engine("s2", |_| ());
            theirs.close().unwrap();
            sync(peer.path(), m.path());
        }),
        ("incomplete", "Only the later file of a server is here.", &[S], |m| {
            second_only(m);
        }),
        ("adopted", "A server wrote on an incomplete copy: it wrote what it could not place again.", &[S], |m| {
            second_only(m);
            m.closed("s2", |e| {
                put(e, S, "mine", "1");
                e.increment(&name(S), "n", 4).unwrap();
            });
        }),
        ("adopted-complete", "The same after the missing file came: what was written again counts once.", &[S], |m| {
            let origin = second_only(m);
            m.closed("s2", |e| add(e, "n", 4));
            sync(origin.path(), m.path());
        }),
        ("degraded", "A closed log with damaged bytes in the middle.", &[S], |m| {
            m.closed("s1", five);
            m.change(&m.newest(), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle..middle + 3].iter_mut().for_each(|byte| *byte ^= 0x5a);
            });
        }),
        ("damaged-header", "One log of two cannot be read at all.", &[S], |m| {
            m.closed("s1", five);
            let first = m.newest();
            m.closed("s1", |e| put(e, S, "later", "1"));
            m.change(&first, |bytes| bytes[20..24].fill(0xff));
        }),
        ("newer", "A chunk of a version to come beside one of this.", &[S], |m| {
            m.closed("s1", five);
            let first = m.newest();
            m.closed("s1", |e| put(e, S, "later", "1"));
            m.change(&first, |bytes| {
                bytes[8] = 2;
                let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
                let crc = crc32c::crc32c(&bytes[..length - 4]);
                bytes[length - 4..length].copy_from_slice(&crc.to_le_bytes());
            });
        }),
        ("other-cluster", "A chunk of another cluster lies beside those of this one.", &[S], |m| {
            m.closed("s1", five);
            let stranger = Maker::new();
            let engine = stranger.engine("s9", |options| options.cluster = Some("other".into()));
            put(&engine, S, "k0", "\"stranger\"");
            engine.close().unwrap();
            sync(stranger.path(), m.path());
        }),
        ("strays", "Temporary files and conflict copies of copy tools lie beside a chunk.", &[S], |m| {
            m.closed("s1", five);
            let chunk = m.newest();
            let file = chunk.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = fs::read(&chunk).unwrap();
            let conflict = file.replace(".hyl", ".sync-conflict-20261122-091041-76JARDR.hyl");
            for stray in [format!(".{file}.Xy12ab"), format!(".syncthing.{file}.tmp"), conflict] {
                fs::write(chunk.with_file_name(stray), &bytes[..bytes.len() / 2]).unwrap();
            }
        }),
        ("tombstones", "Everything is deleted, and others may have copies: only the marks are left.", &[S], |m| {
            for _ in 0..2 {
                let engine = m.engine("s1", |options| options.copied = true);
                five(&engine);
                (0..5).for_each(|i| delete(&engine, &format!("k{i}")));
                engine.close().unwrap();
            }
            let engine = m.engine("s1", |options| options.copied = true);
            engine.compact(engine.folder_of(&name(S))).unwrap();
            engine.close().unwrap();
        }),
        ("repaired", "What could be read of a damaged log was written again, with what refers to it.", &[S], |m| {
            m.closed("s1", |e| {
                five(e);
                e.increment(&name(S), "n", 5).unwrap();
                e.batch(&name(S), keyed_increment("n", 6, "request")).unwrap();
            });
            m.closed("s1", |e| put(e, S, "later", "1"));
            let first = chunks(m.path())
                .into_iter()
                .min_by_key(|file| fs::metadata(file).unwrap().modified().unwrap())
                .unwrap();
            m.change(&first, |bytes| bytes[150..153].iter_mut().for_each(|byte| *byte ^= 0x5a));
            let mut options = inspect::RepairOptions::default();
            options.accept_loss = true;
            let repaired = inspect::repair(m.path(), &options, &mut |_| ()).unwrap();
            assert!(repaired.unmended.is_empty() && repaired.mended == 1, "{repaired:?}");
        }),
    ]
}

/// Parts of 255 bytes: plain, and of characters that are six bytes each on disk.
fn long_names() -> &'static [&'static str] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let (plain, wide) = ("p".repeat(255), "Ä".repeat(127));
        vec![format!("{plain}/{wide}/x"), format!("{plain}/{wide}/{}", "ä".repeat(127))]
    });
    static TEXTS: LazyLock<Vec<&'static str>> = LazyLock::new(|| NAMES.iter().map(String::as_str).collect());
    &TEXTS
}

fn twins(m: &Maker) {
    m.closed("s1", |e| put(e, S, "n", "100"));
    let peer = m.peer();
    sync(m.path(), peer.path());
    m.closed("s1", |e| drop(e.batch(&name(S), keyed_increment("n", 10, "request")).unwrap()));
    peer.closed("s2", |e| {
        e.batch(&name(S), keyed_increment("n", 10, "request")).unwrap();
        e.batch(&name(S), keyed_increment("n", 1, "another")).unwrap();
    });
    sync(peer.path(), m.path());
}

/// The second of two files of one server; answers the directory that has both.
fn second_only(m: &Maker) -> Maker {
    let origin = Maker::new();
    origin.closed("s1", |e| put(e, S, "first", "1"));
    m.share_hydra(&origin);
    origin.closed("s1", |e| {
        put(e, S, "second", "2");
        e.increment(&name(S), "n", 3).unwrap();
    });
    let second = origin.newest();
    let target = m.path().join(second.strip_prefix(origin.path()).unwrap());
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(&second, &target).unwrap();
    origin
}

#[test]
#[ignore = "makes the golden directories that are missing"]
fn make() {
    for (case, note, swamps, work) in cases() {
        let dir = golden().join(format!("v1-{case}"));
        if dir.exists() {
            continue;
        }
        let maker = Maker::new();
        work(&maker);
        // What is in the files is judged without knowing whose they are.
        fs::remove_dir_all(maker.path().join(".hydra")).ok();
        let read = Maker::new();
        copy_all(maker.path(), read.path());
        let engine = reader(read.path());
        let swamps: Vec<SwampName> = swamps.iter().map(|text| name(text)).collect();
        let expected = json!({"note": note, "swamps": state(&engine, &swamps)});
        engine.close().unwrap();
        copy_all(maker.path(), &dir.join("data"));
        fs::write(dir.join("expected.json"), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
        println!("made {}", dir.display());
    }
}

#[test]
fn the_cases_of_the_generator_are_the_golden_directories() {
    let made: Vec<String> = cases().iter().map(|(case, ..)| format!("v1-{case}")).collect();
    for case in &made {
        assert!(golden().join(case).is_dir(), "{case} was not made; see the top of this file");
    }
    let expect = |case: &str| fs::read_to_string(golden().join(case).join("expected.json")).unwrap();
    for (case, copy) in [("v1-incomplete", CopyState::Incomplete), ("v1-degraded", CopyState::Degraded)] {
        assert!(expect(case).contains(copy.as_str()), "{case} is what it says");
    }
    assert!(expect("v1-twins").contains("\"111\"") && expect("v1-increments-two-servers").contains("\"137\""));
}
