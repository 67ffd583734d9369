//! Version vectors: how much of each incarnation's writing is known.

use crate::stamp::Stamp;

/// For each incarnation the highest clock value up to which *all* its records in a swamp are known.
///
/// A list sorted by incarnation: nearly every swamp knows one or two, and every swamp in memory has some such lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct VersionVector(Vec<(u64, u64)>);

impl VersionVector {
    /// Where an incarnation is, or where it belongs.
    fn find(&self, incarnation: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&incarnation, |(known, _)| *known)
    }

    /// Whether the record with this stamp is known.
    pub(crate) fn saw(&self, stamp: Stamp) -> bool {
        self.get(stamp.incarnation) >= stamp.hlc
    }

    /// How far an incarnation is known; 0 for not at all.
    pub(crate) fn get(&self, incarnation: u64) -> u64 {
        self.find(incarnation).map_or(0, |at| self.0[at].1)
    }

    /// Every entry, and how far the other vector knows that incarnation. Both are walked along together: a swamp that was
    /// written by hundreds of incarnations compares such vectors for every pair of its files.
    fn beside<'a>(&'a self, other: &'a VersionVector) -> impl Iterator<Item = ((u64, u64), u64)> + 'a {
        let mut rest = &other.0[..];
        self.iter().map(move |entry| {
            let before = rest.iter().take_while(|(incarnation, _)| *incarnation < entry.0).count();
            rest = &rest[before..];
            let same = rest.first().filter(|(incarnation, _)| *incarnation == entry.0);
            (entry, same.map_or(0, |(_, hlc)| *hlc))
        })
    }

    /// Whether everything known here is known there.
    pub(crate) fn is_within(&self, other: &VersionVector) -> bool {
        self.beside(other).all(|((_, hlc), known)| known >= hlc)
    }

    /// What is known of an incarnation, to be changed.
    fn entry(&mut self, incarnation: u64) -> &mut u64 {
        let at = self.find(incarnation).unwrap_or_else(|at| {
            self.0.insert(at, (incarnation, 0));
            at
        });
        &mut self.0[at].1
    }

    /// Learns one record and all before it.
    pub(crate) fn learn(&mut self, stamp: Stamp) {
        let known = self.entry(stamp.incarnation);
        *known = (*known).max(stamp.hlc);
    }

    /// Learns all that another vector knows.
    pub(crate) fn join(&mut self, other: &VersionVector) {
        self.0.extend_from_slice(&other.0);
        self.keep_highest();
    }

    /// Sorts the entries; of several for one incarnation the highest counts. Sorted runs are only merged, which is what
    /// the stable sort of the standard library is quick at.
    fn keep_highest(&mut self) {
        self.0.sort_by(|one, other| (one.0, other.1).cmp(&(other.0, one.1)));
        self.0.dedup_by_key(|(incarnation, _)| *incarnation);
    }

    /// Sets one entry, also to a lower value.
    pub(crate) fn set(&mut self, incarnation: u64, hlc: u64) {
        *self.entry(incarnation) = hlc;
    }

    /// Forgets one incarnation.
    pub(crate) fn forget(&mut self, incarnation: u64) {
        if let Ok(at) = self.find(incarnation) {
            self.0.remove(at);
        }
    }

    /// What is known here and not there.
    pub(crate) fn beyond(&self, other: &VersionVector) -> VersionVector {
        VersionVector(self.beside(other).filter(|&((_, hlc), known)| known < hlc).map(|(entry, _)| entry).collect())
    }

    /// The entries, sorted by incarnation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest clock value of all.
    pub(crate) fn max_hlc(&self) -> u64 {
        self.iter().map(|(_, hlc)| hlc).max().unwrap_or(0)
    }
}

impl FromIterator<(u64, u64)> for VersionVector {
    /// Of several entries for one incarnation the highest counts.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(entries: I) -> VersionVector {
        let mut vector = VersionVector(entries.into_iter().collect());
        vector.keep_highest();
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_sorted_and_each_incarnation_has_one() {
        let mut vector: VersionVector = [(9, 1), (3, 5), (9, 4), (3, 2)].into_iter().collect();
        assert_eq!(vector.iter().collect::<Vec<_>>(), [(3, 5), (9, 4)]);
        vector.learn(Stamp { hlc: 7, incarnation: 5 });
        vector.learn(Stamp { hlc: 6, incarnation: 5 });
        vector.set(3, 1);
        let other: VersionVector = [(1, 8), (5, 9), (7, 2), (9, 3)].into_iter().collect();
        assert_eq!(other.beyond(&vector).iter().collect::<Vec<_>>(), [(1, 8), (5, 9), (7, 2)]);
        vector.join(&other);
        assert_eq!(vector.iter().collect::<Vec<_>>(), [(1, 8), (3, 1), (5, 9), (7, 2), (9, 4)]);
        assert!(other.is_within(&vector) && !vector.is_within(&other));
        vector.forget(5);
        vector.forget(6);
        assert_eq!((vector.get(5), vector.len(), vector.max_hlc()), (0, 4, 8));
        assert!(vector.saw(Stamp { hlc: 4, incarnation: 9 }) && !vector.saw(Stamp { hlc: 5, incarnation: 9 }));
    }
}
