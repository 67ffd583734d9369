//! Every example, told to its end as a user would run it. A story that needs what this machine does not have says
//! `skipped`, and fails where the variable `CI` is set.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Stories measure what they tell, so they are told one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// The exit code of a story that misses something.
const MISSING: i32 = 5;

fn is_told_to_its_end(program: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Without cargo: the programs that a story starts were built with this test.
    let story = Command::new(program).env_remove("CARGO").output().expect("started");
    let said = String::from_utf8_lossy(&story.stdout);
    let complained = String::from_utf8_lossy(&story.stderr);
    println!("{said}");
    if story.status.code() == Some(MISSING) && std::env::var_os("CI").is_none() {
        eprintln!("skipped: {complained}");
        return;
    }
    assert!(story.status.success(), "{:?}\n{said}\n{complained}", story.status);
    assert!(said.contains("All of this held."), "{said}");
}

#[test]
fn quickstart() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_quickstart"));
}

#[test]
fn two_servers() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_two_servers"));
}

#[test]
fn logical_distribution() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_logical_distribution"));
}

#[test]
fn failover() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_failover"));
}

#[test]
fn move_folders() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_move_folders"));
}

#[test]
fn real_data() {
    is_told_to_its_end(env!("CARGO_BIN_EXE_real_data"));
}
