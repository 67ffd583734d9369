//! Folders: the number a name is stored under, and sets of such numbers. Pure arithmetic.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::name::SwampName;

/// How many folders a data set has: 1 to 65 536, the same on every server and for every client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FolderCount(u32);

impl FolderCount {
    /// The largest count.
    pub const MAX: u32 = 65_536;
    /// The count of a data directory that was created without being told one: 100.
    pub const DEFAULT: FolderCount = FolderCount(100);

    /// Checks the range.
    ///
    /// # Errors
    /// `invalid-config` for 0 and for more than [`FolderCount::MAX`].
    pub fn new(count: u32) -> Result<FolderCount, Error> {
        match count {
            1..=Self::MAX => Ok(FolderCount(count)),
            _ => Err(Error::new(
                ErrorCode::InvalidConfig,
                format!("{count} folders are not possible; 1 to {} are", Self::MAX),
            )),
        }
    }

    /// The number of folders.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Every folder there is.
    #[must_use]
    pub fn all(self) -> FolderSet {
        FolderSet { ranges: vec![(0, self.0 - 1)] }
    }
}

impl Default for FolderCount {
    fn default() -> FolderCount {
        FolderCount::DEFAULT
    }
}

impl TryFrom<u32> for FolderCount {
    type Error = Error;

    fn try_from(count: u32) -> Result<FolderCount, Error> {
        FolderCount::new(count)
    }
}

impl From<FolderCount> for u32 {
    fn from(count: FolderCount) -> u32 {
        count.0
    }
}

impl FromStr for FolderCount {
    type Err = Error;

    fn from_str(text: &str) -> Result<FolderCount, Error> {
        let count = text
            .parse()
            .map_err(|_| Error::new(ErrorCode::InvalidConfig, format!("{text:?} is no number of folders")))?;
        FolderCount::new(count)
    }
}

impl fmt::Display for FolderCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a folder, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FolderId(u32);

impl FolderId {
    /// The folder with this number. Whether it exists depends on the [`FolderCount`].
    #[must_use]
    pub fn new(number: u32) -> FolderId {
        FolderId(number)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The folder of a name: XXH64 (seed 0) of `sanctuary/realm/swamp`, modulo the number of folders.
///
/// Every router, client and server calls this one function.
///
/// ```
/// use hydra_core::{FolderCount, SwampName, folder_of};
///
/// let name: SwampName = "users/profiles/alice".parse()?;
/// assert_eq!(name.hash(), 0x7127deecab868c52);
/// assert_eq!(folder_of(&name, FolderCount::new(100)?).get(), 62);
/// # Ok::<(), hydra_core::Error>(())
/// ```
#[must_use]
pub fn folder_of(name: &SwampName, count: FolderCount) -> FolderId {
    FolderId((name.hash() % u64::from(count.0)) as u32)
}

/// A set of folders, written `0-49,60`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FolderSet {
    /// Inclusive, sorted, disjoint, never touching.
    ranges: Vec<(u32, u32)>,
}

impl FolderSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> FolderSet {
        FolderSet::default()
    }

    /// The set of the folders in these inclusive ranges, which may overlap.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u32, u32)>) -> FolderSet {
        let mut sorted: Vec<(u32, u32)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        FolderSet { ranges: merged }
    }

    /// Whether the folder is in the set.
    #[must_use]
    pub fn contains(&self, folder: FolderId) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= folder.0);
        after > 0 && self.ranges[after - 1].1 >= folder.0
    }

    /// The folders in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = FolderId> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last).map(FolderId)
    }

    /// The inclusive ranges in ascending order, disjoint and not touching.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// How many folders are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|&(first, last)| (last - first) as usize + 1).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The largest folder in the set.
    #[must_use]
    pub fn last(&self) -> Option<FolderId> {
        self.ranges.last().map(|&(_, last)| FolderId(last))
    }

    /// Checks that every folder of the set exists.
    ///
    /// # Errors
    /// `invalid-config` names the folders that do not.
    pub fn check(&self, count: FolderCount) -> Result<(), Error> {
        match self.last() {
            Some(last) if last.0 >= count.0 => {
                let missing =
                    FolderSet::from_ranges(self.ranges.iter().map(|&(first, last)| (first.max(count.0), last)));
                Err(Error::new(
                    ErrorCode::InvalidConfig,
                    format!("folders {missing} do not exist; folders run 0-{} (Hydra counts from 0)", count.0 - 1),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl FromIterator<FolderId> for FolderSet {
    fn from_iter<I: IntoIterator<Item = FolderId>>(folders: I) -> FolderSet {
        FolderSet::from_ranges(folders.into_iter().map(|folder| (folder.0, folder.0)))
    }
}

impl FromStr for FolderSet {
    type Err = Error;

    /// Reads `0-49,60`; spaces around numbers are allowed, a backwards range is not.
    fn from_str(text: &str) -> Result<FolderSet, Error> {
        let unreadable = |piece: &str| {
            Error::new(
                ErrorCode::InvalidConfig,
                format!("cannot read folders {piece:?}; write \"0-24\" or \"0-24,60-79\""),
            )
        };
        let mut ranges = Vec::new();
        for piece in text.split(',') {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let first: u32 = first.trim().parse().map_err(|_| unreadable(piece))?;
            let last: u32 = last.trim().parse().map_err(|_| unreadable(piece))?;
            if first > last {
                return Err(Error::new(ErrorCode::InvalidConfig, format!("folder range {first}-{last} is backwards")));
            }
            if last >= FolderCount::MAX {
                return Err(Error::new(
                    ErrorCode::InvalidConfig,
                    format!("folder {last} does not exist; folders run at most 0-{}", FolderCount::MAX - 1),
                ));
            }
            ranges.push((first, last));
        }
        Ok(FolderSet::from_ranges(ranges))
    }
}

impl fmt::Display for FolderSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, &(first, last)) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl Serialize for FolderSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FolderSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<FolderSet, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_and_print_the_same() {
        let set: FolderSet = "60, 0-24,25-30,28-49".parse().expect("a set");
        assert_eq!(set.to_string(), "0-49,60");
        assert_eq!(set.len(), 51);
        assert!(set.contains(FolderId(49)) && !set.contains(FolderId(50)) && set.contains(FolderId(60)));
        assert_eq!(set.iter().count(), 51);
    }

    #[test]
    fn unreadable_sets_are_refused() {
        for text in ["", "a", "5-", "-5", "9-0", "0,,1", "65536", "1.5", "-1"] {
            assert!(text.parse::<FolderSet>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn folders_that_do_not_exist_are_named() {
        let set: FolderSet = "50-120".parse().expect("a set");
        let error = set.check(FolderCount::DEFAULT).expect_err("100-120 do not exist");
        assert!(error.detail().contains("100-120"), "{error}");
        assert!(FolderCount::new(0).is_err() && FolderCount::new(65_537).is_err());
    }
}
