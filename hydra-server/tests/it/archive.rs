//! A folder as a tar stream: out of a server at work, into another one, and nothing hostile.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hydra_core::{FolderCount, SwampName, folder_of};
use hydra_server::Config;
use serde_json::Value;
use tar::{EntryType, Header};

use crate::support::{Answer, Hydra, Target};

/// Names of swamps in folder 57, with long and awkward ones among them.
fn names(count: usize) -> Vec<String> {
    let name = |n: usize| match n % 7 {
        0 => format!("\u{e4}\u{f6}/{}/s {n}", "r".repeat(230)),
        _ => format!("users/all/u{n}"),
    };
    let is_in =
        |name: &String| name.parse::<SwampName>().is_ok_and(|name| folder_of(&name, FolderCount::DEFAULT).get() == 57);
    (0..).map(name).filter(is_in).take(count).collect()
}

fn kv(name: &str, key: &str) -> String {
    let encoded: String = name
        .bytes()
        .map(|byte| match byte {
            b'/' | b'0'..=b'9' | b'a'..=b'z' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("/v1/kv/{encoded}/{key}")
}

fn start(id: &str) -> Hydra {
    Hydra::start_with(|options| options.server_id = Some(id.into()), Config::default())
}

/// A folder as a tar stream.
fn pack(target: Target) -> Vec<u8> {
    let mut stream = target.connect().expect("a connection");
    stream.write_all(b"GET /v1/folders/57/archive HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer[..head]));
    let (mut rest, mut tar) = (&answer[head..], Vec::new());
    loop {
        let end = rest.windows(2).position(|end| end == b"\r\n").expect("a length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).expect("ASCII"), 16).expect("a length");
        if length == 0 {
            return tar;
        }
        tar.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
}

fn unpack(target: Target, tar: &[u8]) -> Answer {
    target.send("PUT", "/v1/folders/57/archive", &[], tar)
}

fn count(body: &Value, member: &str) -> u64 {
    body[member].as_u64().unwrap_or_else(|| panic!("{body}"))
}

#[test]
fn a_folder_moves_to_another_live_server_while_both_are_written_to() {
    let (a, b) = (start("s1"), start("s2"));
    let names = names(40);
    for name in &names {
        assert_eq!(a.put(&kv(name, "from"), "\"s1\"").status, 201);
    }
    b.put(&kv(&names[0], "own"), "\"s2\"");
    assert_eq!(b.get(&kv(&names[1], "from")).status, 404, "in memory, and empty");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let key = |n: usize| kv(&names[n % names.len()], &format!("n{n}"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                assert!(a.put(&key(n), &n.to_string()).status < 300);
                acknowledged.store(n + 1, Ordering::Release);
                assert!(b.put(&kv(&names[0], &format!("b{n}")), "1").status < 300);
            }
        });
        // Also when something below fails: the writer would go on for ever.
        let _stop = StopOnDrop(&stop);
        for round in 0..4 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let before = acknowledged.load(Ordering::Acquire);
            let answer = unpack(b.target, &pack(a.target));
            assert_eq!((answer.status, answer.header("hydra-durable")), (200, Some("synced")), "{}", answer.text());
            assert!(count(&answer.json(), "files") > 0 || round > 0, "{}", answer.text());
            for n in before.saturating_sub(60)..before {
                assert_eq!(b.get(&key(n)).text(), n.to_string(), "acknowledged before the archive was begun");
            }
        }
    });
    for name in &names {
        assert_eq!(b.get(&kv(name, "from")).text(), "\"s1\"");
    }
    assert_eq!(b.get(&kv(&names[0], "own")).text(), "\"s2\"");
    // Nothing new comes of it again, and of its own files nothing comes back.
    let tar = pack(a.target);
    unpack(b.target, &tar);
    let again = unpack(b.target, &tar).json();
    assert_eq!((count(&again, "files"), count(&again, "differing")), (0, 0), "{again}");
    assert!(count(&again, "kept") >= 40);
    let back = unpack(a.target, &tar).json();
    assert_eq!((count(&back, "files"), count(&back, "kept")), (0, 0), "{back}");
    assert!(count(&back, "own") >= 40);
    assert!(b.get("/v1/folders/57").json()["folders"][0]["copied"].as_bool().expect("a flag"));
    assert!(a.get("/v1/folders/57").json()["folders"][0]["copied"].as_bool().expect("a flag"));
    let verified = b.post("/v1/folders/57/verify", "").json();
    assert_eq!(verified["damaged"].as_array().map_or(0, Vec::len), 0, "{verified}");
}

/// Ends a writer.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A tar of one entry, whatever its path.
fn tar_of(path: &[u8], kind: EntryType, content: &[u8], length: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(length);
    header.set_mode(0o644);
    if path.len() <= 100 {
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    }
    let mut tar = Vec::new();
    if path.len() > 100 {
        let mut long = Header::new_gnu();
        long.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
        long.set_entry_type(EntryType::GNULongName);
        long.set_size(path.len() as u64 + 1);
        long.set_cksum();
        tar.extend_from_slice(long.as_bytes());
        tar.extend_from_slice(path);
        tar.resize((tar.len() + 1).next_multiple_of(512), 0);
    }
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// The path and the content of the first file of an archive.
fn first_file(tar: &[u8]) -> (String, Vec<u8>) {
    let mut archive = tar::Archive::new(tar);
    let mut entry = archive.entries().expect("entries").next().expect("one").expect("whole");
    let path = entry.path().expect("a path").display().to_string();
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("read");
    (path, content)
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let (a, b) = (start("s1"), start("s2"));
    let home = names(3).remove(1);
    a.put(&kv(&home, "k"), "\"a value of some length\"");
    let good = pack(a.target);
    let (path, content) = first_file(&good);
    let length = content.len() as u64;
    let file = path.rsplit('/').next().expect("a name").to_owned();
    let dir = path.strip_suffix(&format!("/{file}")).expect("a directory").to_owned();
    let regular = |path: &str| tar_of(path.as_bytes(), EntryType::Regular, &content, length);
    let mut flipped = content.clone();
    let last = flipped.len() - 12;
    flipped[last] ^= 4;
    let long = format!("00057/{}/r/s/{file}", "x".repeat(5_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a step up", regular(&format!("../{path}"))),
        ("a step up within", regular(&format!("00057/users/../../{file}"))),
        ("dots for a part", regular(&format!("00057/users/all/../{file}"))),
        ("absolute", regular(&format!("/{path}"))),
        ("another folder", regular(&path.replace("00057/", "00058/"))),
        ("no digits", regular(&path.replace("00057/", "57/"))),
        ("another swamp", regular(&format!("00057/users/all/other/{file}"))),
        ("a name in capitals", regular(&format!("{}/{file}", dir.to_uppercase()))),
        ("the local directory", regular(".hydra/server.toml")),
        ("HYDRA", regular("HYDRA")),
        ("no chunk", regular(&format!("{dir}/notes.txt"))),
        ("a temporary file", regular(&format!("{dir}/.{file}.unpacking"))),
        ("another sequence", regular(&format!("{dir}/{}", file.replace("-0001.", "-0002.")))),
        ("another kind", regular(&format!("{dir}/{}", file.replace(".hyl", ".hys")))),
        ("not UTF-8", tar_of(b"00057/users/all/\xff/x", EntryType::Regular, &content, length)),
        ("a long path", regular(&long)),
        ("a symbolic link", tar_of(path.as_bytes(), EntryType::Symlink, b"", 0)),
        ("a hard link", tar_of(path.as_bytes(), EntryType::Link, b"", 0)),
        ("a device", tar_of(path.as_bytes(), EntryType::Char, b"", 0)),
        ("an extended header", tar_of(b"x", EntryType::XHeader, b"30 path=../../etc/passwd\n", 25)),
        ("a long path that claims to be huge", tar_of(b"x", EntryType::GNULongName, b"x", 1 << 40)),
        ("a huge size", tar_of(path.as_bytes(), EntryType::Regular, &content, 1 << 45)),
        ("more than there is", tar_of(path.as_bytes(), EntryType::Regular, &content, 1 << 20)),
        ("damage", tar_of(path.as_bytes(), EntryType::Regular, &flipped, length)),
        ("nothing of a header", tar_of(path.as_bytes(), EntryType::Regular, &content[..40], 40)),
        ("no tar", b"this is no tar at all".repeat(100)),
        ("an empty body", Vec::new()),
        ("cut off in a file", good[..512 + content.len() / 2].to_vec()),
        ("cut off at the end", good[..good.len() - 1024].to_vec()),
    ];
    for (what, tar) in cases {
        let answer = unpack(b.target, &tar);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert_eq!(answer.code(), "invalid-body", "{what}");
        let is_cut = what == "cut off at the end";
        let files: Vec<_> = b.data_files().into_iter().filter(|path| path.is_file()).collect();
        assert_eq!(files.is_empty(), !is_cut, "{what}: {files:?}");
    }
    assert_eq!(b.get(&kv(&home, "k")).text(), "\"a value of some length\"", "what came before a cut is good");
    // Another cluster, another number of folders, and folders that are not here.
    let other = Hydra::start_with(|options| options.cluster = Some("other".into()), Config::default());
    assert_eq!(unpack(other.target, &good).status, 400);
    let fewer = Hydra::start_with(|options| options.owned = "0-49".parse().ok(), Config::default());
    assert_eq!(unpack(fewer.target, &good).status, 421);
    assert_eq!(fewer.get("/v1/folders/57/archive").status, 421);
    assert_eq!(b.get("/v1/folders/57-58/archive").status, 400);
}

#[test]
fn a_longer_file_stays_and_a_shorter_one_grows() {
    let (a, b) = (start("s1"), start("s2"));
    let name = names(3).remove(1);
    a.put(&kv(&name, "k?sync"), "1");
    let short = pack(a.target);
    a.put(&kv(&name, "k?sync"), "2");
    let long = pack(a.target);
    assert_eq!(count(&unpack(b.target, &short).json(), "files"), 1);
    assert_eq!(b.get(&kv(&name, "k")).text(), "1");
    assert_eq!(count(&unpack(b.target, &long).json(), "files"), 1);
    assert_eq!(b.get(&kv(&name, "k")).text(), "2", "seen by the next request");
    assert_eq!(count(&unpack(b.target, &short).json(), "kept"), 1);
    assert_eq!(b.get(&kv(&name, "k")).text(), "2");
}
