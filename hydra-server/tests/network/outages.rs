//! One test for each way in which a network fails.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hosts::{Host, Network, Outage, can_make_hosts};
use crate::load::{Ledger, Load, map, swamp_name};

const HEALTHY: Duration = Duration::from_millis(800);
const OUTAGE: Duration = Duration::from_millis(2_500);

/// How far apart the clocks are, in seconds: the first host's is ahead.
const APART: i32 = 180;

#[test]
fn a_pulled_cable_loses_nothing() {
    survive(Outage::CablePulled, 0);
}

#[test]
fn a_black_hole_loses_nothing() {
    survive(Outage::BlackHole, 0);
}

#[test]
fn a_firewall_that_rejects_loses_nothing() {
    survive(Outage::Rejecting, 0);
}

#[test]
fn requests_that_arrive_and_answers_that_do_not_count_once() {
    survive(Outage::AnswersLost, 0);
}

#[test]
fn one_packet_lost_in_five_loses_nothing() {
    survive(Outage::Lossy, 0);
}

#[test]
fn answers_cut_off_again_and_again_count_once() {
    survive(Outage::Flickering, 0);
}

#[test]
fn with_clocks_minutes_apart_what_does_not_show_is_listed() {
    survive(Outage::Killed, APART);
}

/// Writes through an outage of the first host, then lets the copies meet and compares them with the ledger.
fn survive(outage: Outage, ahead: i32) {
    if !can_make_hosts() {
        return;
    }
    let network = Network::new();
    let one = Host::new(&network, 2, "s1", ["0-49", "50-99"], ahead);
    let two = Host::new(&network, 3, "s2", ["50-99", "0-49"], 0);
    if matches!(outage, Outage::Killed) {
        // What only memory holds does not survive that.
        for host in [&one, &two] {
            let answer = host.target().put("/v1/policies/network/*/*", r#"{"writeInterval":"0s"}"#);
            assert!(answer.status < 300, "{answer:?}");
        }
    }
    let load = Load::start(map([&one, &two]));
    healthy(&one, &two);
    let began = Instant::now();
    one.suffer(outage, OUTAGE);
    let over = Instant::now();
    let is_cut_off = !matches!(outage, Outage::Lossy | Outage::Flickering);
    assert!(!is_cut_off || load.down().contains(&one.id.to_owned()), "the outage was one: {:?}", load.down());
    one.wait_until_ready();
    healthy(&one, &two);
    let ledgers = load.end();
    tell(outage, &ledgers, began, over);
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert_eq!(from.target().post("/v1/flush", "").status, 204, "copies are of what is on disk");
        from.sync_to(to);
    }
    compare(&one, &two, &ledgers, ahead != 0);
}

/// A while in which nothing is wrong and copies are made.
fn healthy(one: &Host, two: &Host) {
    let until = Instant::now() + HEALTHY;
    while Instant::now() < until {
        one.sync_to(two);
        two.sync_to(one);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn tell(outage: Outage, ledgers: &[Ledger], began: Instant, over: Instant) {
    let acknowledged: u64 = ledgers.iter().map(|ledger| ledger.acknowledged).sum();
    let failed: u64 = ledgers.iter().map(|ledger| ledger.failed).sum();
    let during = |from: Instant| {
        let calls = ledgers.iter().flat_map(|ledger| &ledger.calls);
        calls.filter(move |(at, _, answered)| *answered && *at >= from && *at < over)
    };
    let longest = during(began).map(|(_, took, _)| *took).max().unwrap_or_default();
    println!(
        "{outage:?}: {acknowledged} calls answered, {failed} not; during it {} answered, the longest after {longest:?}",
        during(began).count()
    );
    assert!(acknowledged > 300, "only {acknowledged} calls were answered");
    assert!(during(began).count() > 100, "the fallback answers while the primary does not");
    // A call that is under way when a server falls silent waits for two connections at most. Lost packets are sent again.
    let most = Duration::from_millis(if matches!(outage, Outage::Lossy) { 5_000 } else { 2_000 });
    assert!(longest < most, "a call took {longest:?}");
}

/// Both servers answer the same, and what the ledgers say.
fn compare(one: &Host, two: &Host, ledgers: &[Ledger], may_conflict: bool) {
    for index in 0..6 {
        let swamp = swamp_name(index);
        let sum: i64 = ledgers.iter().filter_map(|ledger| ledger.increments.get(&index)).sum();
        let read = |host: &Host, key: &str| host.target().get(&format!("/v1/kv/{swamp}/{key}")).text();
        // A server looks for files of others at intervals.
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && [one, two].iter().any(|host| read(host, "sum") != sum.to_string()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        for host in [one, two] {
            assert_eq!(read(host, "sum"), sum.to_string(), "the counter of {swamp} on {}", host.id);
        }
        let conflicts = one.target().get(&format!("/v1/swamps/{swamp}/conflicts")).json();
        for (id, ledger) in ledgers.iter().enumerate() {
            let Some(&(acknowledged, sent)) = ledger.puts.get(&index) else { continue };
            let key = format!("w{id}");
            let shown = read(one, &key);
            assert_eq!(shown, read(two, &key), "{key} of {swamp} on both");
            let number: u64 = shown.parse().unwrap_or_default();
            assert!(number <= sent, "{key} of {swamp} is {number}, which nobody sent");
            let is_listed = may_conflict && lists(&conflicts, &key, acknowledged);
            assert!(
                number >= acknowledged || is_listed,
                "{key} of {swamp} is {number}; {acknowledged} was acknowledged, and not listed in {conflicts}"
            );
        }
    }
}

/// Whether a conflict says that this number was lost.
fn lists(conflicts: &Value, key: &str, number: u64) -> bool {
    let listed = conflicts["conflicts"].as_array().into_iter().flatten();
    listed.filter(|conflict| conflict["key"] == key).any(|conflict| conflict["lost"]["value"] == number)
}
