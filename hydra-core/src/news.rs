//! What readers of a swamp see differently after a write or a merge, found by comparing before and after. Pure.

use std::sync::Arc;

use crate::slot::Slot;
use crate::stamp::{Timestamp, Version};
use crate::state::{KeyState, Known, State};

/// What takes a little memory beside keys and values.
const ENTRY_BYTES: usize = 160;

/// One thing that readers see differently.
#[derive(Debug)]
pub(crate) enum Change {
    /// A key has another value, or one at all.
    Put { after: KeyState, before: Option<KeyState> },
    /// A key was removed. The version is that of the removal, where it left a mark.
    Delete { key: Box<str>, version: Option<Version>, before: Option<KeyState> },
    /// The time of a key is over.
    Expire { key: Box<str>, before: Option<KeyState> },
    /// Every key was removed at once.
    Destroy,
    /// The swamp is another one than it was; this is all it holds.
    Reset(Arc<[KeyState]>),
}

impl Change {
    /// The key it is about; `None` when it is about all of them.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Change::Put { after, .. } => Some(after.slot.key()),
            Change::Delete { key, .. } | Change::Expire { key, .. } => Some(key),
            Change::Destroy | Change::Reset(_) => None,
        }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn footprint(&self) -> usize {
        let of = |state: &Option<KeyState>| state.as_ref().map_or(0, |state| state.slot.footprint());
        ENTRY_BYTES
            + match self {
                Change::Put { after, before } => after.slot.footprint() + of(before),
                Change::Delete { key, before, .. } | Change::Expire { key, before } => key.len() + of(before),
                Change::Destroy => 0,
                Change::Reset(states) => states.iter().map(|state| state.slot.footprint()).sum(),
            }
    }
}

/// Changes that become visible together, each key once.
#[derive(Debug, Default)]
pub(crate) struct News(Vec<(u64, Change)>);

impl News {
    /// Notes what becomes of one key.
    pub(crate) fn note(&mut self, before: Known<'_>, after: Known<'_>, now: Timestamp) {
        let Some(slot) = after.slot else { return };
        let was_there = before.is_live().then(|| before.cloned()).flatten();
        let change = match (after.sight(now), before.sight(now)) {
            (Some(sight), Some(old)) if sight.version == old.version => return,
            (Some(_), _) => {
                let Some(after) = after.cloned() else { return };
                Change::Put { after, before: was_there }
            }
            (None, _) if was_there.is_none() => return,
            (None, _) if after.is_live() => Change::Expire { key: slot.key().into(), before: was_there },
            (None, _) => Change::Delete {
                key: slot.key().into(),
                version: Some(Version::of_record(slot.stamp())),
                before: was_there,
            },
        };
        self.0.push((after.last_hlc(), change));
    }

    /// Notes that nothing is known any more of a key that was there.
    fn note_gone(&mut self, slot: &Slot, before: Known<'_>) {
        let change = Change::Delete { key: slot.key().into(), version: None, before: before.cloned() };
        self.0.push((before.last_hlc(), change));
    }

    /// What is different between two states of a swamp.
    pub(crate) fn between(before: &State, after: &State, now: Timestamp) -> News {
        let mut news = News::default();
        for slot in after.known_slots() {
            news.note(before.known(slot.key()), after.known(slot.key()), now);
        }
        for slot in before.known_slots().filter(|slot| !after.knows(slot.key())) {
            let known = before.known(slot.key());
            if known.is_live() {
                news.note_gone(slot, known);
            }
        }
        news
    }

    /// The changes in the order in which they were made.
    pub(crate) fn in_order(mut self) -> Vec<Arc<Change>> {
        self.0.sort_by_key(|(hlc, _)| *hlc);
        self.0.into_iter().map(|(_, change)| Arc::new(change)).collect()
    }
}
