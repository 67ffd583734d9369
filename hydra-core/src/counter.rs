//! Counters: increments that add up exactly, whoever made them and however their files meet.
//!
//! An increment names its base: the stamp of the PUT or DEL its writer saw as winner. The value of
//! a key is its winning base plus every increment that names it. Increments are summed per writer,
//! raw; an increment that was carried out twice under one idempotency key is subtracted once more
//! for each twin but the first.

use crate::format::record::Subtotal;
use crate::stamp::Stamp;

/// The increments of one key.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Counter {
    sums: Vec<Sum>,
    late: Vec<SingleAdd>,
    twins: Vec<SingleAdd>,
}

/// What one incarnation added to one base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) base: Stamp,
    pub(crate) pointer: Box<str>,
    pub(crate) part: Subtotal,
}

/// One increment that is accounted for on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SingleAdd {
    pub(crate) stamp: Stamp,
    pub(crate) base: Stamp,
    pub(crate) pointer: Box<str>,
    pub(crate) delta: i64,
}

impl Counter {
    /// Counts an increment of a writer whose earlier ones are all counted.
    pub(crate) fn add(&mut self, stamp: Stamp, base: Stamp, pointer: &str, delta: i64) {
        let found = self
            .sums
            .iter_mut()
            .find(|sum| sum.base == base && sum.part.incarnation == stamp.incarnation && &*sum.pointer == pointer);
        match found {
            Some(sum) => {
                sum.part.total += i128::from(delta);
                sum.part.last_hlc = sum.part.last_hlc.max(stamp.hlc);
            }
            None => self.add_sum(Sum {
                base,
                pointer: pointer.into(),
                part: Subtotal {
                    incarnation: stamp.incarnation,
                    total: delta.into(),
                    first_hlc: stamp.hlc,
                    last_hlc: stamp.hlc,
                },
            }),
        }
    }

    /// Counts all that one incarnation added to one base, as a snapshot says.
    pub(crate) fn add_sum(&mut self, sum: Sum) {
        self.sums.push(sum);
    }

    /// Counts an increment whose writer's file cannot be placed yet.
    pub(crate) fn add_late(&mut self, add: SingleAdd) {
        self.late.push(add);
        self.late.sort_unstable();
    }

    /// Takes back an increment that another one repeats.
    pub(crate) fn subtract_twin(&mut self, twin: SingleAdd) {
        self.twins.push(twin);
        self.twins.sort_unstable();
        self.twins.dedup();
    }

    /// Forgets the increments of bases below the winner: they went with it.
    pub(crate) fn settle(&mut self, winner: Stamp) {
        self.sums.retain(|sum| sum.base >= winner);
        self.late.retain(|add| add.base >= winner);
        self.twins.retain(|twin| twin.base >= winner);
    }

    /// Whether some increment names this base.
    pub(crate) fn names(&self, base: Stamp) -> bool {
        self.sums.iter().any(|sum| sum.base == base) || self.late.iter().any(|add| add.base == base)
    }

    /// Whether some increment names a base below this one.
    pub(crate) fn is_named_below(&self, winner: Stamp) -> bool {
        self.sums.iter().any(|sum| sum.base < winner) || self.late.iter().any(|add| add.base < winner)
    }

    /// The stamp of the last increment of each sum, and of those that stand alone.
    pub(crate) fn last_of_each(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.sums.iter().map(|sum| sum.part.last()).chain(self.late.iter().map(|add| add.stamp))
    }

    /// Whether some increment is accounted for on its own: one that came loose, or a twin.
    pub(crate) fn singles_out_some(&self) -> bool {
        !self.late.is_empty() || !self.twins.is_empty()
    }

    /// Whether this increment is among those counted.
    pub(crate) fn counts(&self, add: &SingleAdd) -> bool {
        let is_in = |sum: &Sum| {
            (sum.base, sum.part.incarnation) == (add.base, add.stamp.incarnation)
                && sum.pointer == add.pointer
                && (sum.part.first_hlc..=sum.part.last_hlc).contains(&add.stamp.hlc)
        };
        self.sums.iter().any(is_in) || self.late.contains(add)
    }

    /// Whether nothing is counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.sums.is_empty() && self.late.is_empty()
    }

    /// What was added to the number at the root of this base.
    pub(crate) fn total(&self, base: Stamp) -> i128 {
        let named = |add: &&SingleAdd| add.base == base && add.pointer.is_empty();
        let sums = self.sums.iter().filter(|sum| sum.base == base && sum.pointer.is_empty());
        let whole: i128 = sums.map(|sum| sum.part.total).sum();
        let late: i128 = self.late.iter().filter(named).map(|add| i128::from(add.delta)).sum();
        let twins: i128 = self.twins.iter().filter(named).map(|add| i128::from(add.delta)).sum();
        whole + late - twins
    }

    /// The clock values of the first and the last increment of this base.
    pub(crate) fn span(&self, base: Stamp) -> Option<(u64, u64)> {
        let sums = self.sums.iter().filter(|s| s.base == base).map(|s| (s.part.first_hlc, s.part.last_hlc));
        let late = self.late.iter().filter(|add| add.base == base).map(|add| (add.stamp.hlc, add.stamp.hlc));
        sums.chain(late).reduce(|(first, last), (a, b)| (first.min(a), last.max(b)))
    }

    /// What tells two contents of this base apart: XXH3-128 over the sorted pairs of incarnation and
    /// last increment, and over the twins taken back.
    pub(crate) fn digest(&self, base: Stamp) -> u128 {
        let mut pairs: Vec<(u64, u64)> =
            self.sums.iter().filter(|s| s.base == base).map(|s| (s.part.incarnation, s.part.last_hlc)).collect();
        pairs.extend(self.late.iter().filter(|a| a.base == base).map(|a| (a.stamp.incarnation, a.stamp.hlc)));
        pairs.sort_unstable();
        let mut bytes = Vec::with_capacity(16 * (pairs.len() + self.twins.len()) + 1);
        let twins = self.twins.iter().filter(|t| t.base == base).map(|t| (t.stamp.incarnation, t.stamp.hlc));
        for (index, list) in [pairs, twins.collect()].into_iter().enumerate() {
            bytes.push(index as u8);
            for (incarnation, hlc) in list {
                bytes.extend_from_slice(&incarnation.to_le_bytes());
                bytes.extend_from_slice(&hlc.to_le_bytes());
            }
        }
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    /// The sums, for a snapshot.
    pub(crate) fn sums(&self) -> &[Sum] {
        &self.sums
    }

    /// The same counter with its parts in one order.
    #[cfg(test)]
    pub(crate) fn sorted(&self) -> Counter {
        let mut sorted = self.clone();
        sorted.sums.sort_unstable_by_key(|sum| (sum.base, sum.part.incarnation, sum.pointer.clone()));
        sorted
    }

    /// The increments that stand alone, for a snapshot.
    pub(crate) fn late(&self) -> &[SingleAdd] {
        &self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    fn stamp(hlc: u64, incarnation: u64) -> Stamp {
        Stamp { hlc, incarnation }
    }

    #[test]
    fn only_increments_of_the_winning_base_count() {
        let (old, new) = (stamp(5, A), stamp(9, B));
        let mut counter = Counter::default();
        counter.add(stamp(6, A), old, "", 10);
        counter.add(stamp(10, A), new, "", 3);
        counter.add(stamp(11, B), new, "", 4);
        assert_eq!((counter.total(old), counter.total(new)), (10, 7));
        counter.settle(new);
        assert!(!counter.names(old) && counter.names(new));
        assert_eq!(counter.span(new), Some((10, 11)));
    }

    #[test]
    fn a_twin_is_taken_back_once_and_changes_the_digest() {
        let mut counter = Counter::default();
        counter.add(stamp(6, A), Stamp::ZERO, "", 10);
        counter.add(stamp(7, B), Stamp::ZERO, "", 10);
        let before = counter.digest(Stamp::ZERO);
        let twin = SingleAdd { stamp: stamp(7, B), base: Stamp::ZERO, pointer: "".into(), delta: 10 };
        counter.subtract_twin(twin.clone());
        counter.subtract_twin(twin);
        assert_eq!(counter.total(Stamp::ZERO), 10);
        assert_ne!(counter.digest(Stamp::ZERO), before);
    }
}
