//! A server that nobody asks anything keeps nothing.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crate::support::Process;

const SWAMPS: usize = 2_000;
const VALUE_BYTES: usize = 20_000;

/// A number of /proc/PID/status in KiB.
fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Ticks of the processor that the process has used.
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    behind_name[11].parse::<u64>().unwrap() + behind_name[12].parse::<u64>().unwrap()
}

/// Ticks of the processor that the process uses while `time` passes.
fn processor_ticks_in(pid: u32, time: Duration) -> u64 {
    let before = processor_ticks(pid);
    std::thread::sleep(time);
    processor_ticks(pid) - before
}

#[test]
fn after_the_idle_time_memory_and_files_are_given_back_and_no_processor_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), &[]);
    let pid = server.id();
    let synced = r#"{"writeInterval":"0s","idleEvict":"1s"}"#;
    assert!(server.target.put("/v1/policies/synced/*/*", synced).status < 300);
    assert!(server.target.put("/v1/policies/*/*/*", r#"{"idleEvict":"1s"}"#).status < 300);
    let (files_before, empty) = (open_files(pid), resident_kib(pid));
    let value = format!("\"{}\"", "x".repeat(VALUE_BYTES));
    for i in 0..SWAMPS {
        let sanctuary = if i % 10 == 0 { "synced" } else { "buffered" };
        assert_eq!(server.target.put(&format!("/v1/kv/{sanctuary}/idle/{i}/k"), &value).status, 201);
    }
    // The first may leave before the last come, so nothing is said of how much there was at once.
    let payload = SWAMPS * VALUE_BYTES / 1024;
    let until = Instant::now() + Duration::from_secs(40);
    while resident_kib(pid) > empty + payload / 2 || open_files(pid) > files_before + 8 {
        let (held, files) = (resident_kib(pid), open_files(pid));
        assert!(Instant::now() < until, "{held} KiB, {empty} before {payload} KiB of values came, {files} files");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The last may still be on its way out; then nothing is left to be done.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let used = processor_ticks_in(pid, Duration::from_secs(2));
        if used <= 1 {
            break;
        }
        assert!(Instant::now() < until, "an idle server uses no processor, not {used} ticks in 2 s");
    }
}
