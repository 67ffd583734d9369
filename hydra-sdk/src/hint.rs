//! What servers say about where a folder lives, and what a client keeps of that.
//!
//! A server that does not own a folder answers 421 and may name the one that does: `Hydra-Moved-To: s2; epoch=8;
//! token=…`. Hints name servers of the map, never addresses, so that a server cannot send credentials elsewhere. What was learned
//! holds until a hint of a higher epoch, or a map that is as young.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use hydra_core::FolderId;

/// Where a server says that a folder lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The id of the owner.
    pub(crate) owner: String,
    /// Since which epoch; not said by servers that know no moves.
    pub(crate) epoch: Option<u64>,
    /// What lets the owner begin to serve, where it waits for that.
    pub(crate) token: Option<String>,
}

impl Hint {
    /// A hint without an epoch.
    pub(crate) fn to(owner: String) -> Hint {
        Hint { owner, epoch: None, token: None }
    }

    /// Reads `s2; epoch=8; token=…`. Parameters that are not known are passed over; one that cannot be read makes it no hint.
    pub(crate) fn parse(text: &str) -> Option<Hint> {
        let mut pieces = text.split(';').map(str::trim);
        let owner = pieces.next().filter(|id| !id.is_empty() && !id.contains(char::is_whitespace))?;
        let mut hint = Hint::to(owner.to_owned());
        for piece in pieces {
            match piece.split_once('=') {
                Some(("epoch", epoch)) => hint.epoch = Some(epoch.trim().parse().ok()?),
                Some(("token", token)) => hint.token = Some(token.trim().to_owned()).filter(|token| !token.is_empty()),
                _ => {}
            }
        }
        Some(hint)
    }
}

/// Who owns a folder, other than the map says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The id of the server.
    pub(crate) id: String,
    pub(crate) epoch: u64,
}

/// What was learned, by pool and folder.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// How many there are, so that calls lock nothing where there are none.
    count: AtomicUsize,
    owners: RwLock<HashMap<String, HashMap<FolderId, Owner>>>,
}

impl Learned {
    /// Who owns a folder, if that was learned.
    pub(crate) fn owner(&self, pool: &str, folder: FolderId) -> Option<Owner> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.owners.read().unwrap_or_else(PoisonError::into_inner).get(pool)?.get(&folder).cloned()
    }

    /// Keeps what a hint says, unless something as young is known. Answers whether it was news.
    pub(crate) fn learn(&self, pool: &str, folder: FolderId, owner: Owner) -> bool {
        let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
        let of_pool = match owners.get_mut(pool) {
            Some(of_pool) => of_pool,
            None => owners.entry(pool.to_owned()).or_default(),
        };
        if of_pool.get(&folder).is_some_and(|known| known.epoch >= owner.epoch) {
            return false;
        }
        of_pool.insert(folder, owner);
        self.count.store(owners.values().map(HashMap::len).sum(), Ordering::Release);
        true
    }

    /// Everything that was learned: pool, folder, owner.
    pub(crate) fn all(&self) -> Vec<(String, FolderId, Owner)> {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        let of_pools = owners.iter();
        let all =
            of_pools.flat_map(|(pool, of)| of.iter().map(|(folder, owner)| (pool.clone(), *folder, owner.clone())));
        all.collect()
    }

    /// What still holds beside a map of this epoch, which knows these servers.
    pub(crate) fn beside(&self, epoch: u64, knows: impl Fn(&str) -> bool) -> Learned {
        let mut owners = self.owners.read().unwrap_or_else(PoisonError::into_inner).clone();
        for of_pool in owners.values_mut() {
            of_pool.retain(|_, owner| owner.epoch > epoch && knows(&owner.id));
        }
        let count = AtomicUsize::new(owners.values().map(HashMap::len).sum());
        Learned { count, owners: RwLock::new(owners) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(owner: &str, epoch: Option<u64>, token: Option<&str>) -> Option<Hint> {
        Some(Hint { owner: owner.into(), epoch, token: token.map(str::to_owned) })
    }

    fn owner(id: &str, epoch: u64) -> Owner {
        Owner { id: id.into(), epoch }
    }

    #[test]
    fn hints_are_read_with_and_without_parameters() {
        assert_eq!(Hint::parse("s2"), hint("s2", None, None));
        assert_eq!(Hint::parse("s2; epoch=8; token=abc"), hint("s2", Some(8), Some("abc")));
        assert_eq!(Hint::parse(" s2;token=a=b ;epoch=8;later=1"), hint("s2", Some(8), Some("a=b")));
        assert_eq!(Hint::parse("s2; token="), hint("s2", None, None));
        for bad in ["", ";epoch=8", "two words", "s2; epoch=", "s2; epoch=-1", "s2; epoch=x"] {
            assert_eq!(Hint::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_younger_news_replaces_what_is_known() {
        let learned = Learned::default();
        let folder = FolderId::new(3);
        assert_eq!(learned.owner("default", folder), None);
        assert!(learned.learn("default", folder, owner("s2", 8)));
        assert!(!learned.learn("default", folder, owner("s3", 8)), "as old");
        assert!(!learned.learn("default", folder, owner("s3", 7)), "older");
        assert_eq!(learned.owner("default", folder), Some(owner("s2", 8)));
        assert_eq!(learned.owner("chat", folder), None, "folders of another pool are other folders");
        assert!(learned.learn("default", folder, owner("s3", 9)));
        assert_eq!(learned.owner("default", folder), Some(owner("s3", 9)));
    }

    #[test]
    fn a_map_that_is_as_young_takes_the_place_of_what_was_learned() {
        let learned = Learned::default();
        for (folder, id, epoch) in [(1, "s1", 7), (2, "s2", 8), (3, "s3", 9), (4, "gone", 9)] {
            learned.learn("default", FolderId::new(folder), owner(id, epoch));
        }
        let kept = learned.beside(8, |id| id != "gone");
        let folders: Vec<u32> = (0..9).filter(|&f| kept.owner("default", FolderId::new(f)).is_some()).collect();
        assert_eq!(folders, [3]);
    }
}
