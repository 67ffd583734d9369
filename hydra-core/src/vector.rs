//! Version vectors: how much of each incarnation's writing is known.

use std::collections::BTreeMap;

use crate::stamp::Stamp;

/// For each incarnation the highest clock value up to which *all* its records in a swamp are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct VersionVector(BTreeMap<u64, u64>);

impl VersionVector {
    /// Whether the record with this stamp is known.
    pub(crate) fn saw(&self, stamp: Stamp) -> bool {
        self.get(stamp.incarnation) >= stamp.hlc
    }

    /// How far an incarnation is known; 0 for not at all.
    pub(crate) fn get(&self, incarnation: u64) -> u64 {
        self.0.get(&incarnation).copied().unwrap_or(0)
    }

    /// Whether everything known here is known there.
    pub(crate) fn is_within(&self, other: &VersionVector) -> bool {
        self.0.iter().all(|(&incarnation, &hlc)| other.get(incarnation) >= hlc)
    }

    /// Learns one record and all before it.
    pub(crate) fn learn(&mut self, stamp: Stamp) {
        let known = self.0.entry(stamp.incarnation).or_insert(0);
        *known = (*known).max(stamp.hlc);
    }

    /// Learns all that another vector knows.
    pub(crate) fn join(&mut self, other: &VersionVector) {
        for (&incarnation, &hlc) in &other.0 {
            self.learn(Stamp { hlc, incarnation });
        }
    }

    /// Sets one entry, also to a lower value.
    pub(crate) fn set(&mut self, incarnation: u64, hlc: u64) {
        self.0.insert(incarnation, hlc);
    }

    /// Forgets one incarnation.
    pub(crate) fn forget(&mut self, incarnation: u64) {
        self.0.remove(&incarnation);
    }

    /// What is known here and not there.
    pub(crate) fn beyond(&self, other: &VersionVector) -> VersionVector {
        VersionVector(self.0.iter().filter(|&(&i, &hlc)| other.get(i) < hlc).map(|(&i, &hlc)| (i, hlc)).collect())
    }

    /// The entries, sorted by incarnation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&incarnation, &hlc)| (incarnation, hlc))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest clock value of all.
    pub(crate) fn max_hlc(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }
}

impl FromIterator<(u64, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(entries: I) -> VersionVector {
        VersionVector(entries.into_iter().collect())
    }
}
