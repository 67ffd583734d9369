//! Servers that read on where logs grew: what they hold has to be what reading all files again gives.
//!
//! Here every log of a directory may be read on in, whoever wrote it, and what came of that is read on upon.

use super::{Disk, Mutant, Rules, World, files, with_chunks};
use crate::counter::SingleAdd;
use crate::engine::CopyState;
use crate::growth::Tails;
use crate::layout::ChunkKind;
use crate::merge::merge;
use crate::stamp::Timestamp;
use crate::state::State;
use crate::vector::VersionVector;

use std::rc::Rc;

/// What followed the files of one server, as they were.
pub(super) struct Follower {
    state: State,
    disk: Disk,
}

/// How often logs grew, how often that was enough, and what was wrong then.
#[derive(Debug, Default)]
pub(super) struct Followed {
    pub(super) grown: usize,
    pub(super) read_on: usize,
    pub(super) wrong: Option<String>,
}

impl World {
    /// Looks at the directories whose turn it is.
    pub(super) fn follow(&mut self) {
        for node in (0..self.rules.nodes).filter(|node| (self.time as usize + node).is_multiple_of(2)) {
            let disk = self.nodes[node].disk.clone();
            let follower = std::mem::take(&mut self.followers[node]);
            self.followers[node] = Some(self.followed.follow(follower, disk, &self.rules));
        }
    }
}

impl Followed {
    fn follow(&mut self, follower: Option<Follower>, disk: Disk, rules: &Rules) -> Follower {
        let Some(Follower { mut state, disk: before }) = follower else { return Follower::reading_all(disk, rules) };
        let Some(grown) = grown(&state.tails, &before, &disk) else { return Follower::reading_all(disk, rules) };
        if grown.is_empty() {
            return Follower { state, disk: before };
        }
        self.grown += 1;
        let Some(growth) = state.tails.grow(&state, &grown) else { return Follower::reading_all(disk, rules) };
        self.read_on += 1;
        growth.publish(&mut state, Timestamp::MAX);
        let all = Follower::reading_all(disk, rules);
        let (read_on, read_all) = (facts(&state), facts(&all.state));
        if read_on != read_all {
            self.wrong.get_or_insert_with(|| format!("reading on gave {read_on}, reading all {read_all}"));
        }
        Follower { state, ..all }
    }
}

impl Follower {
    fn reading_all(disk: Disk, rules: &Rules) -> Follower {
        let state = with_chunks(files(&disk), rules, |chunks| {
            let merged = merge(chunks);
            let is_damaged = chunks.iter().any(|chunk| chunk.scan.damage.is_some()) || chunks.len() < disk.len();
            let copy = match merged.is_complete() {
                _ if is_damaged => CopyState::Degraded,
                true => CopyState::Complete,
                false => CopyState::Incomplete,
            };
            let mut base = VersionVector::default();
            let snaps = chunks.iter().filter(|chunk| chunk.name.kind == ChunkKind::Snap && chunk.scan.is_valid());
            snaps.for_each(|snap| base.join(snap.vector()));
            let trusted = if rules.without(Mutant::GrowthOnGaps) { CopyState::Complete } else { copy };
            let mut tails = Tails::of(&merged, chunks, trusted, &base, |_| true);
            tails.believe(rules.without(Mutant::GrowthUnseen), rules.without(Mutant::GrowthOnContended));
            let mut state = State::of_merged(merged, copy, Vec::new());
            state.tails = tails;
            state
        });
        Follower { state, disk }
    }
}

/// The logs that are longer than they were; `None` where something else changed.
fn grown(tails: &Tails, before: &Disk, now: &Disk) -> Option<Vec<(usize, Vec<u8>)>> {
    if !before.keys().eq(now.keys()) {
        return None;
    }
    let changed = before.iter().zip(now.values()).filter(|((_, before), now)| !Rc::ptr_eq(before, now));
    let changed = changed.filter(|((_, before), now)| before != now);
    let longer = |((name, before), now): ((&_, &Rc<Vec<u8>>), &Rc<Vec<u8>>)| {
        let (at, tail) = tails.find(name)?;
        let is_it = now.len() >= before.len() && tail.is_front_of(now);
        is_it.then(|| (at, now.as_ref().clone()))
    };
    changed.map(longer).collect()
}

/// Everything that a state says, in an order of its own. Remembered increments that do not count have no effect.
fn facts(state: &State) -> String {
    let mut slots: Vec<String> =
        state.known_slots().map(|slot| format!("{:?} {:?}", slot.stamp(), slot.write())).collect();
    slots.sort_unstable();
    let mut counters: Vec<_> = state.counters().map(|(key, counter)| (key, counter.sorted())).collect();
    counters.sort_unstable_by_key(|(key, _)| *key);
    let counts = |key: &str, add: &SingleAdd| state.known(key).counter.is_some_and(|counter| counter.counts(add));
    let mut keys: Vec<_> = state
        .requests()
        .iter()
        .map(|(key, memory)| {
            let mut adds: Vec<_> = memory.adds().iter().filter(|add| counts(&add.key, &add.add)).collect();
            adds.sort_unstable();
            (key, memory.stamp, memory.fingerprint, memory.outcome(), adds)
        })
        .collect();
    keys.sort_unstable_by_key(|(key, ..)| *key);
    let conflicts: Vec<_> = state.conflicts(Timestamp::default()).collect();
    let marks = (state.max_hlc, state.count(Timestamp::default()), state.digest(), state.copy);
    format!("{slots:?} {counters:?} {keys:?} {conflicts:?} {:?} {marks:?} {:?}", state.vector, state.tails.facts())
}
