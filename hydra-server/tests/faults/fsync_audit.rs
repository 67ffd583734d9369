//! What the kernel is asked to do before the first write to a swamp is answered, seen by strace: the file is
//! written and synced, then every directory that got a new entry, and only then the answer leaves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::ground::{command, has, start, text};
use crate::ledger::synced;

/// One call of a thread to the kernel, once it has returned.
#[derive(Debug)]
struct Call {
    name: String,
    /// The whole line without the thread.
    line: String,
    failed: bool,
}

/// Puts calls together that strace shows in two pieces, in the order in which they ended.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread.to_owned(), first.to_owned());
            continue;
        }
        let whole = match rest.split_once(" resumed>") {
            Some((_, end)) => begun.remove(thread).unwrap_or_default() + end,
            None => rest.to_owned(),
        };
        if let Some((name, _)) = whole.split_once('(') {
            calls.push(Call { name: name.to_owned(), failed: whole.contains("= -1"), line: whole });
        }
    }
    calls
}

/// Where the first call of one of these names that mentions all of it stands, from a place on.
fn find(calls: &[Call], from: usize, names: &[&str], mentions: &[&str]) -> Option<usize> {
    let is_it = |call: &Call| {
        !call.failed && names.contains(&call.name.as_str()) && mentions.iter().all(|text| call.line.contains(text))
    };
    calls[from..].iter().position(is_it).map(|at| from + at)
}

fn traced(data: &Path, log: &Path) -> (std::process::Child, crate::support::Process) {
    let server = start(data, &["--id", "s1"]);
    let mut strace = command("strace");
    // -y shows the path behind every descriptor.
    strace.args(["-f", "-y", "-s", "64", "-e", "trace=desc,network,mkdir,mkdirat", "-o", text(log), "-p"]);
    let child = strace.arg(server.id().to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.expect("strace starts");
    let begun = Instant::now();
    while !is_traced(server.id()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "strace does not attach");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, server)
}

/// Whether strace has hold of every thread of a process.
fn is_traced(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("a process");
    let status = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
    threads.flatten().map(status).all(|status| !status.contains("TracerPid:\t0"))
}

#[test]
fn the_first_write_to_a_swamp_syncs_file_and_directories_before_it_answers() {
    if !has(&["strace"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (data, log) = (dir.path().join("data"), dir.path().join("trace"));
    let (mut strace, server) = traced(&data, &log);
    synced(server.target, "*/*/*");
    let mut client = Client::new(server.target);
    let put = client.send("PUT", "/v1/kv/audit/first/write/k", &[], "\"value\"").expect("an answer");
    assert_eq!((put.status, put.header("hydra-durable")), (201, Some("synced")));
    let again = client.send("PUT", "/v1/kv/audit/first/write/k", &[], "\"second\"").expect("an answer");
    assert_eq!(again.status, 200);
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status().expect("kill runs");
    strace.wait().expect("strace ends");
    let trace = std::fs::read_to_string(&log).expect("a trace");
    if trace.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "strace saw nothing");
        return eprintln!("skipped: strace is not allowed to look at another process");
    }
    let calls = calls(&trace);
    let swamp = "/audit/first/write";
    let at = |from, names: &[&str], mentions: &[&str], what: &str| {
        find(&calls, from, names, mentions).unwrap_or_else(|| panic!("no {what} in\n{trace}"))
    };
    let created = at(0, &["openat"], &["O_CREAT|O_EXCL", "write/s1-"], "chunk that is made");
    let written = at(created, &["write", "pwrite64", "writev"], &[".hyl>"], "write to it");
    let file = at(written, &["fsync", "fdatasync"], &[".hyl>"], "sync of it");
    let answer = at(created, &["sendto", "write", "writev"], &["HTTP/1.1 201"], "answer");
    // The folder holds the sanctuary, this the realm, this the swamp, and the root the folder.
    let folder = calls[created].line.split('"').nth(1).and_then(|path| path.split(swamp).next()).expect("a path");
    let root = text(&data);
    let levels = [
        format!("{folder}{swamp}"),
        format!("{folder}/audit/first"),
        format!("{folder}/audit"),
        folder.into(),
        root.into(),
    ];
    for level in &levels {
        let level = format!("<{level}>");
        let synced = at(created, &["fsync", "fdatasync"], &[&level], &format!("sync of the directory {level}"));
        assert!(synced < answer, "{level} is synced after the answer:\n{trace}");
    }
    assert!(written < file && file < answer, "written {written}, synced {file}, answered {answer}:\n{trace}");
    let second = at(answer + 1, &["write", "pwrite64", "writev"], &[".hyl>"], "second write");
    let sync = at(second, &["fsync", "fdatasync"], &[".hyl>"], "second sync");
    let answered = at(second, &["sendto", "write", "writev"], &["HTTP/1.1 200"], "second answer");
    assert!(second < sync && sync < answered, "{second}, {sync}, {answered}:\n{trace}");
    println!("fsync_audit: write, sync of the file, syncs of {} directories, answer: in this order", levels.len());
}
