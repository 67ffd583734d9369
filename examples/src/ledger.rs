//! The ledger: what was acknowledged, kept outside the servers and compared with what they have.
//!
//! Every write of a story goes into it once the client has answered, so an entry means: this must not
//! get lost. Where the answer of a server was lost on the way, the client has already asked again,
//! with the same idempotency key, before it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use hydra_sdk::{Hydra, SwampName};

/// A key in a swamp.
pub type Place = (SwampName, String);

/// Every acknowledged write.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    values: BTreeMap<Place, Put>,
    sums: BTreeMap<Place, i64>,
    puts: usize,
    increments: usize,
}

/// The last put of a key that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Put {
    value: i64,
    at: Instant,
}

/// Something that a server has otherwise than it was acknowledged.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// What was acknowledged: the last put, or the sum of all increments.
    pub acknowledged: i64,
    /// When the put was; `None` for a sum.
    pub at: Option<Instant>,
    /// What the server has.
    pub found: Option<i64>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, key) = &self.place;
        let found = self.found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        write!(f, "{name} {key}: {} was acknowledged, found {found}", self.acknowledged)
    }
}

impl Ledger {
    /// A put was acknowledged.
    pub fn put(&self, name: &SwampName, key: &str, value: i64) {
        let mut books = self.books();
        books.puts += 1;
        books.values.insert((name.clone(), key.to_owned()), Put { value, at: Instant::now() });
    }

    /// An increment was acknowledged.
    pub fn add(&self, name: &SwampName, key: &str, by: i64) {
        let mut books = self.books();
        books.increments += 1;
        *books.sums.entry((name.clone(), key.to_owned())).or_default() += by;
    }

    /// How many puts and how many increments were acknowledged.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let books = self.books();
        (books.puts, books.increments)
    }

    /// The sum of the acknowledged increments of a key.
    #[must_use]
    pub fn sum(&self, name: &SwampName, key: &str) -> i64 {
        self.books().sums.get(&(name.clone(), key.to_owned())).copied().unwrap_or_default()
    }

    /// The keys that were put in a swamp, in the order in which they were last acknowledged.
    #[must_use]
    pub fn keys_in_order(&self, name: &SwampName) -> Vec<String> {
        let books = self.books();
        let of_swamp = books.values.iter().filter(|((swamp, _), _)| swamp == name);
        let mut keys: Vec<(Instant, String)> = of_swamp.map(|((_, key), put)| (put.at, key.clone())).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Compares what was acknowledged for some swamps with what a client sees, and lists what is otherwise.
    ///
    /// # Errors
    /// When the client cannot read.
    pub async fn compare(&self, hydra: &Hydra, is_wanted: impl Fn(&SwampName) -> bool) -> Result<Vec<Difference>> {
        let mut expected = self.expected();
        expected.retain(|expected| is_wanted(&expected.place.0));
        let names: BTreeSet<&SwampName> = expected.iter().map(|expected| &expected.place.0).collect();
        let mut found = BTreeMap::new();
        for name in names {
            let values = values_of(hydra, name).await.with_context(|| format!("cannot list {name}"))?;
            found.extend(values.into_iter().map(|(key, value)| ((name.clone(), key), value)));
        }
        let look_up = |expected: Difference| Difference { found: found.get(&expected.place).copied(), ..expected };
        let differs = |compared: &Difference| compared.found != Some(compared.acknowledged);
        Ok(expected.into_iter().map(look_up).filter(differs).collect())
    }

    /// What must be found, with nothing found yet.
    fn expected(&self) -> Vec<Difference> {
        let books = self.books();
        let difference =
            |place: &Place, acknowledged, at| Difference { place: place.clone(), acknowledged, at, found: None };
        let values = books.values.iter().map(|(place, put)| difference(place, put.value, Some(put.at)));
        let sums = books.sums.iter().map(|(place, &sum)| difference(place, sum, None));
        values.chain(sums).collect()
    }

    /// The books are plain values, whole at every moment, so a panic elsewhere cannot have torn them.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every key of a swamp with its value.
async fn values_of(hydra: &Hydra, name: &SwampName) -> Result<Vec<(String, i64)>> {
    let swamp = hydra.swamp::<i64>(name)?;
    let mut found = Vec::new();
    let mut list = swamp.list().limit(10_000);
    loop {
        let page = list.page().await?;
        found.extend(page.treasures.into_iter().map(|treasure| (treasure.key, treasure.value)));
        match page.next {
            Some(cursor) => list = swamp.list().limit(10_000).after(&cursor),
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_or_other_is_found_out() -> Result<()> {
        let hydra = Hydra::connect("mem://").await?;
        let name: SwampName = "a/b/c".parse()?;
        let (swamp, ledger) = (hydra.swamp::<i64>(&name)?, Ledger::default());
        for (key, value) in [("kept", 1), ("lost", 2), ("other", 3)] {
            swamp.put(key, &value).await?;
            ledger.put(&name, key, value);
        }
        ledger.add(&name, "sum", swamp.increment("sum", 5).await?);
        assert!(ledger.compare(&hydra, |_| true).await?.is_empty());

        swamp.delete("lost").await?;
        swamp.put("other", &4).await?;
        swamp.increment("sum", 5).await?;
        let found = ledger.compare(&hydra, |_| true).await?;
        let found: Vec<_> = found.iter().map(|one| (one.place.1.as_str(), one.acknowledged, one.found)).collect();
        assert_eq!(found, [("lost", 2, None), ("other", 3, Some(4)), ("sum", 5, Some(10))]);
        assert!(ledger.compare(&hydra, |_| false).await?.is_empty());
        assert_eq!((ledger.counts(), ledger.sum(&name, "sum")), ((3, 1), 5));
        assert_eq!(ledger.keys_in_order(&name), ["kept", "lost", "other"]);
        Ok(hydra.close().await?)
    }
}
