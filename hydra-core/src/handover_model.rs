//! Every interleaving of a move: writers, a source that crashes, seals that run out, a disk that fails in the midst
//! of a commit, operators who die, give up and begin again, and clients that finish what they find. The states are
//! those of [`crate::handover`] itself; only files and time are made up.
//!
//! Two things must never be: two servers that accept writes, and an acknowledged write that the owner does not hold.
//! Protocols that leave something out must be caught, or the search would not be worth much.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::handover::{FolderState, Ready, Seal, Tenure, token_hash};

/// So many writes, each a bit.
const WRITES: u8 = 2;
/// So many seals at most, each with a token of its own.
const SEALS: u8 = 2;
const EPOCH: u64 = 1;

type Set = u8;

/// What is left out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weakness {
    None,
    /// Writes under way are not waited for.
    NoDrain,
    /// The manifest is taken before they are.
    EarlyManifest,
    /// `moved` is not on disk before the token leaves.
    MovedNotDurable,
    /// The target begins without the token.
    NoToken,
    /// A quick copy overlooks a file, and nobody verifies.
    QuickCopyUnverified,
    /// A quick copy overlooks a file, and the target verifies.
    QuickCopy,
    /// The target begins before the source has let go.
    ActivateFirst,
    /// A fallback is fenced that has taken over writes.
    FenceDirty,
    /// The fallback is not fenced.
    NoFence,
    /// A seal runs out while its commit may be on disk already.
    LeaseIgnoresCommit,
    /// Whoever gives up asks the target first, and never the source.
    AbortWithoutSource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Fence,
    Import,
    FirstCopy,
    Seal,
    Manifest,
    LastCopy,
    Verify,
    Commit,
    Activate,
    Unfence,
    Done,
    /// Giving up, in the order of the three who are told.
    Unseal,
    Abort,
    LetGo,
}

/// Everything there is.
#[derive(Debug, Clone, PartialEq)]
struct World {
    source: Tenure,
    /// What the disk of the source says.
    on_disk: FolderState,
    is_up: bool,
    source_has: Set,
    under_way: Set,
    target: Tenure,
    target_has: Set,
    fallback: Tenure,
    fallback_has: Set,
    acknowledged: Set,
    /// What the operator does next, and knows.
    step: Step,
    seal: Option<u8>,
    manifest: Option<Set>,
    seals: u8,
}

impl World {
    fn new() -> World {
        let owned = FolderState::Owned { epoch: 0 };
        World {
            source: Tenure::new(owned.clone()),
            on_disk: owned,
            is_up: true,
            source_has: 0,
            under_way: 0,
            target: Tenure::new(FolderState::Absent),
            target_has: 0,
            fallback: Tenure::new(FolderState::Standby { of: None, epoch: 0 }),
            fallback_has: 0,
            acknowledged: 0,
            step: Step::Fence,
            seal: None,
            manifest: None,
            seals: 0,
        }
    }

    fn source_owns(&self) -> bool {
        matches!(self.source.state, FolderState::Owned { .. })
    }

    fn source_accepts(&self) -> bool {
        self.is_up && self.source_owns() && self.source.seal.is_none()
    }

    fn target_owns(&self) -> bool {
        matches!(self.target.state, FolderState::Owned { .. })
    }

    fn has_left(&self) -> bool {
        matches!(self.source.state, FolderState::Moved { .. })
    }

    /// What a client with the old map may write to when the source does not answer.
    fn fallback_accepts(&self) -> bool {
        match &self.fallback.state {
            FolderState::Standby { of, .. } => of.as_deref().is_none_or(|of| of == "s"),
            _ => false,
        }
    }

    fn violation(&self) -> Option<&'static str> {
        if self.source_accepts() && self.target_owns() {
            return Some("two owners");
        }
        let owner = if self.target_owns() { self.target_has } else { self.source_has | self.fallback_has };
        (self.acknowledged & !owner != 0).then_some("lost")
    }
}

fn text(set: Set) -> String {
    format!("{set:b}")
}

/// The seal of that number. Time is a matter of the search: a seal ends when that is a step.
fn seal_of(number: u8, now: Instant) -> Seal {
    Seal {
        id: number.to_string(),
        epoch: EPOCH,
        to: "d".into(),
        token: format!("token {number}"),
        manifest: None,
        until: now + Duration::from_secs(3_600),
        is_committing: false,
    }
}

/// Everything that can happen next.
fn nexts(world: &World, weakness: Weakness, now: Instant) -> Vec<(String, World)> {
    let mut found = Vec::new();
    clients(world, &mut found);
    mishaps(world, weakness, &mut found);
    operator(world, weakness, now, &mut found);
    giving_up(world, weakness, &mut found);
    // The token is in every refusal of a source that has let go: any client presents it.
    if let (true, FolderState::Moved { token, .. }) = (world.is_up, &world.source.state)
        && let Ok(target) = world.target.activate(EPOCH, token)
    {
        found.push(("a client activates".to_owned(), World { target, ..world.clone() }));
    }
    found
}

fn clients(world: &World, found: &mut Vec<(String, World)>) {
    for write in 0..WRITES {
        let bit = 1 << write;
        if world.is_up && world.under_way & bit != 0 {
            let next = World {
                source_has: world.source_has | bit,
                acknowledged: world.acknowledged | bit,
                under_way: world.under_way & !bit,
                ..world.clone()
            };
            found.push((format!("write {write} is acknowledged by the source"), next));
        }
        if world.acknowledged & bit != 0 {
            continue;
        }
        let acknowledged = world.acknowledged | bit;
        if world.source_accepts() && world.under_way & bit == 0 {
            let next = World { under_way: world.under_way | bit, ..world.clone() };
            found.push((format!("write {write} is let in"), next));
        }
        if world.target_owns() {
            let next = World { target_has: world.target_has | bit, acknowledged, ..world.clone() };
            found.push((format!("write {write} is acknowledged by the target"), next));
        }
        if !world.is_up && world.fallback_accepts() {
            let next = World { fallback_has: world.fallback_has | bit, acknowledged, ..world.clone() };
            found.push((format!("write {write} is taken over"), next));
        }
    }
}

fn mishaps(world: &World, weakness: Weakness, found: &mut Vec<(String, World)>) {
    if !world.is_up {
        let source = Tenure::new(world.on_disk.clone());
        found.push(("the source starts".to_owned(), World { is_up: true, source, ..world.clone() }));
        return;
    }
    let source = Tenure::new(world.on_disk.clone());
    found.push(("the source dies".to_owned(), World { is_up: false, under_way: 0, source, ..world.clone() }));
    if let Some(seal) = &world.source.seal {
        if !seal.is_committing || weakness == Weakness::LeaseIgnoresCommit {
            let source = Tenure { seal: None, ..world.source.clone() };
            found.push(("the seal runs out".to_owned(), World { source, ..world.clone() }));
        }
        if seal.is_committing
            && let Ok(source) = world.source.commit()
        {
            // The same commit, asked for again.
            let on_disk = source.state.clone();
            found.push(("the commit is written after all".to_owned(), World { source, on_disk, ..world.clone() }));
        }
    }
}

/// What the operator does next, where that is possible now.
fn operator(world: &World, weakness: Weakness, now: Instant, found: &mut Vec<(String, World)>) {
    let mut add = |what: &str, next: World| found.push((what.to_owned(), next));
    let at = |step: Step| World { step, ..world.clone() };
    match world.step {
        Step::Fence if weakness == Weakness::NoFence => add("nobody fences", at(Step::Import)),
        Step::Fence => {
            let is_dirty = world.fallback_has & !world.source_has != 0 && weakness != Weakness::FenceDirty;
            match world.fallback.fence(EPOCH, "d", is_dirty) {
                Ok(fallback) => add("fence", World { fallback, ..at(Step::Import) }),
                Err(_) if is_dirty && world.is_up => {
                    let source_has = world.source_has | world.fallback_has;
                    add("what was taken over is copied back", World { source_has, ..world.clone() });
                }
                Err(_) => {}
            }
        }
        Step::Import => {
            if let Ok(target) = world.target.import(EPOCH, "s", false) {
                add("import", World { target, ..at(Step::FirstCopy) });
            }
        }
        Step::FirstCopy => {
            add("first copy", World { target_has: world.target_has | world.source_has, ..at(Step::Seal) });
        }
        Step::Seal => seal(world, weakness, now, &mut add),
        Step::Manifest => {
            let manifest = if weakness == Weakness::EarlyManifest { world.manifest } else { Some(world.source_has) };
            let (Some(id), Some(manifest)) = (world.seal, manifest.filter(|_| world.is_up)) else { return };
            if let Ok(source) = world.source.note_manifest(&id.to_string(), &text(manifest), now) {
                add("manifest", World { source, manifest: Some(manifest), ..at(Step::LastCopy) });
            }
        }
        Step::LastCopy if world.is_up => {
            add("last copy", World { target_has: world.target_has | world.source_has, ..at(Step::Verify) });
            if matches!(weakness, Weakness::QuickCopy | Weakness::QuickCopyUnverified) {
                add("last copy overlooks a file", at(Step::Verify));
            }
        }
        Step::Verify => {
            let Some((manifest, seal)) = world.manifest.zip(world.seal) else { return };
            if manifest & !world.target_has != 0 && weakness != Weakness::QuickCopyUnverified {
                add("verify refuses", at(Step::LastCopy));
                return;
            }
            let ready = Ready { manifest: text(manifest), token_hash: token_hash(&seal_of(seal, now).token) };
            let next = if weakness == Weakness::ActivateFirst { Step::Activate } else { Step::Commit };
            if let Ok(target) = world.target.ready(EPOCH, ready) {
                add("verify", World { target, ..at(next) });
            }
        }
        Step::Commit => commit(world, weakness, now, &mut add),
        Step::Activate => activate(world, weakness, now, &mut add),
        Step::Unfence => {
            if let Ok(fallback) = world.fallback.unfence(EPOCH, Some("d")) {
                add("unfence for the target", World { fallback, ..at(Step::Done) });
            }
        }
        _ => {}
    }
}

fn seal(world: &World, weakness: Weakness, now: Instant, add: &mut dyn FnMut(&str, World)) {
    let waits = world.under_way != 0 && !matches!(weakness, Weakness::NoDrain | Weakness::EarlyManifest);
    if !world.is_up || waits || world.seals == SEALS {
        return;
    }
    if let Ok(source) = world.source.seal(seal_of(world.seals, now), now) {
        let (seal, seals) = (Some(world.seals), world.seals + 1);
        let manifest = (weakness == Weakness::EarlyManifest).then_some(world.source_has);
        add("seal", World { source, seal, seals, manifest, step: Step::Manifest, ..world.clone() });
    }
}

fn commit(world: &World, weakness: Weakness, now: Instant, add: &mut dyn FnMut(&str, World)) {
    let Some((seal, manifest)) = world.seal.zip(world.manifest).filter(|_| world.is_up) else { return };
    let Ok(begun) = world.source.begin_commit(&seal.to_string(), &text(manifest), now) else { return };
    let Ok(source) = begun.commit() else { return };
    let on_disk = source.state.clone();
    // The disk fails, and nobody knows what it says.
    add("commit is in doubt, and on disk", World { source: begun.clone(), on_disk: on_disk.clone(), ..world.clone() });
    add("commit is in doubt, and not on disk", World { source: begun, ..world.clone() });
    let on_disk = if weakness == Weakness::MovedNotDurable { world.on_disk.clone() } else { on_disk };
    let next = if weakness == Weakness::ActivateFirst { Step::Unfence } else { Step::Activate };
    add("commit", World { source, on_disk, step: next, ..world.clone() });
}

fn activate(world: &World, weakness: Weakness, now: Instant, add: &mut dyn FnMut(&str, World)) {
    let early = matches!(weakness, Weakness::NoToken | Weakness::ActivateFirst);
    let token = match &world.source.state {
        FolderState::Moved { token, .. } if world.is_up => token.clone(),
        // Made up by whoever does without asking the source.
        _ if early => world.seal.map(|seal| seal_of(seal, now).token).unwrap_or_default(),
        _ => return,
    };
    if let Ok(target) = world.target.activate(EPOCH, &token) {
        let next = if weakness == Weakness::ActivateFirst { Step::Commit } else { Step::Unfence };
        add("activate", World { target, step: next, ..world.clone() });
    }
}

/// Operators die and are followed by others who know nothing, and operators give up.
fn giving_up(world: &World, weakness: Weakness, found: &mut Vec<(String, World)>) {
    let forgetful = World { seal: None, manifest: None, ..world.clone() };
    match world.step {
        Step::Unseal if weakness == Weakness::AbortWithoutSource => {
            found.push(("nobody asks the source".to_owned(), World { step: Step::Abort, ..forgetful }));
        }
        Step::Unseal => {
            if let Some(source) = world.source.unseal(None).ok().filter(|_| world.is_up) {
                // Where a commit is in doubt the file is written anew before.
                let on_disk = source.state.clone();
                found.push(("unseal".to_owned(), World { source, on_disk, step: Step::Abort, ..forgetful }));
            }
        }
        Step::Abort => {
            let target = world.target.abort(EPOCH).unwrap_or_else(|_| world.target.clone());
            found.push(("abort".to_owned(), World { target, step: Step::LetGo, ..forgetful }));
        }
        Step::LetGo => {
            let fallback = world.fallback.unfence(EPOCH, None).unwrap_or_else(|_| world.fallback.clone());
            found.push(("unfence".to_owned(), World { fallback, step: Step::Fence, ..forgetful }));
        }
        Step::Fence => {}
        _ => {
            if weakness == Weakness::NoToken && world.step == Step::Commit {
                // Somebody activates by hand what was verified.
                let mut by_hand = world.clone();
                by_hand.target = Tenure::new(FolderState::Owned { epoch: EPOCH });
                found.push(("activated by hand".to_owned(), by_hand));
            }
            found.push(("the operator gives up".to_owned(), World { step: Step::Unseal, ..world.clone() }));
        }
    }
    // Another operator goes on where the servers are, as the command does.
    let resumed = if world.has_left() { Step::Activate } else { Step::Fence };
    if world.step != resumed && world.is_up {
        let next = World { step: resumed, seal: None, manifest: None, ..world.clone() };
        found.push(("another operator begins".to_owned(), next));
    }
}

/// What a search came to.
struct Searched {
    states: usize,
    finished: usize,
    violation: Option<(&'static str, Vec<String>)>,
}

fn search(weakness: Weakness) -> Searched {
    let now = Instant::now();
    let first = World::new();
    let mut seen = HashSet::from([format!("{first:?}")]);
    let mut worlds = vec![(first, None::<(usize, String)>)];
    let mut queue = VecDeque::from([0]);
    let mut finished = 0;
    while let Some(at) = queue.pop_front() {
        let world = worlds[at].0.clone();
        finished += usize::from(world.step == Step::Done && world.target_owns());
        if let Some(what) = world.violation() {
            let mut path = Vec::new();
            let mut back = at;
            while let Some((before, what)) = &worlds[back].1 {
                path.push(what.clone());
                back = *before;
            }
            path.reverse();
            return Searched { states: worlds.len(), finished, violation: Some((what, path)) };
        }
        for (what, next) in nexts(&world, weakness, now) {
            if seen.insert(format!("{next:?}")) {
                queue.push_back(worlds.len());
                worlds.push((next, Some((at, what))));
            }
        }
    }
    Searched { states: worlds.len(), finished, violation: None }
}

#[test]
fn no_interleaving_of_a_move_has_two_owners_or_loses_a_write() {
    for weakness in [Weakness::None, Weakness::QuickCopy] {
        let Searched { states, finished, violation } = search(weakness);
        println!("{weakness:?}: {states} states, {finished} of them at the end");
        assert!(violation.is_none(), "{weakness:?}: {violation:?}");
        assert!(states > 1_000 && finished > 0, "{weakness:?}: only {states} states, {finished} finished");
    }
}

#[test]
fn a_protocol_that_leaves_something_out_is_caught() {
    for (weakness, expected) in [
        (Weakness::NoDrain, "lost"),
        (Weakness::EarlyManifest, "lost"),
        (Weakness::MovedNotDurable, "two owners"),
        (Weakness::NoToken, "two owners"),
        (Weakness::QuickCopyUnverified, "lost"),
        (Weakness::ActivateFirst, "two owners"),
        (Weakness::FenceDirty, "lost"),
        (Weakness::NoFence, "lost"),
        (Weakness::LeaseIgnoresCommit, "lost"),
        (Weakness::AbortWithoutSource, "lost"),
    ] {
        let Searched { states, violation, .. } = search(weakness);
        let (found, path) = violation.unwrap_or_else(|| panic!("{weakness:?} was not caught in {states} states"));
        println!("{weakness:?}: {found} after {}", path.join(", "));
        assert_eq!(found, expected, "{weakness:?}: {path:?}");
    }
}
