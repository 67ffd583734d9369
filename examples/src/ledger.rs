//! The ledger: what was acknowledged, kept outside the servers and compared with what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use hydra_sdk::{Hydra, SwampName};

/// A key in a swamp.
pub type Place = (SwampName, String);

/// Every acknowledged write, and those whose answer never came.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    values: BTreeMap<Place, Vec<Entry>>,
    sums: BTreeMap<Place, i64>,
    unknown: BTreeSet<Place>,
    puts: usize,
    increments: usize,
}

/// A put that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Entry {
    value: i64,
    at: Instant,
}

/// Something that a server has otherwise than it was acknowledged.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// What was acknowledged last.
    pub acknowledged: i64,
    /// When it was; `None` for sums.
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
        let entry = Entry { value, at: Instant::now() };
        books.values.entry((name.clone(), key.to_owned())).or_default().push(entry);
    }

    /// An increment was acknowledged.
    pub fn add(&self, name: &SwampName, key: &str, by: i64) {
        let mut books = self.books();
        books.increments += 1;
        *books.sums.entry((name.clone(), key.to_owned())).or_default() += by;
    }

    /// A put had no answer: it may be there or not, and whatever was there before may be gone.
    pub fn unknown(&self, name: &SwampName, key: &str) {
        self.books().unknown.insert((name.clone(), key.to_owned()));
    }

    /// How many puts and increments were acknowledged.
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

    /// The sum of all acknowledged increments.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.books().sums.values().sum()
    }

    /// Compares everything with what a client sees, and lists what is otherwise.
    ///
    /// # Errors
    /// When the client cannot read.
    pub async fn compare(&self, hydra: &Hydra) -> Result<Vec<Difference>> {
        let expected = self.expected();
        let names: BTreeSet<&SwampName> = expected.iter().map(|expected| &expected.place.0).collect();
        let mut found = BTreeMap::new();
        for name in names {
            for (key, value) in all_of(hydra, name).await? {
                found.insert((name.clone(), key), value);
            }
        }
        let compare = |expected: Difference| Difference { found: found.get(&expected.place).copied(), ..expected };
        let differs = |difference: &Difference| difference.found != Some(difference.acknowledged);
        Ok(expected.into_iter().map(compare).filter(differs).collect())
    }

    /// What must be found at each place, with nothing found yet.
    fn expected(&self) -> Vec<Difference> {
        let books = self.books();
        let known = |place: &Place| !books.unknown.contains(place);
        let values = books.values.iter().filter(|(place, _)| known(place)).filter_map(|(place, entries)| {
            let last = entries.last()?;
            Some(Difference { place: place.clone(), acknowledged: last.value, at: Some(last.at), found: None })
        });
        let sums = books.sums.iter().map(|(place, &sum)| Difference {
            place: place.clone(),
            acknowledged: sum,
            at: None,
            found: None,
        });
        values.chain(sums).collect()
    }

    /// Every place of a swamp in the order of its first acknowledgement.
    #[must_use]
    pub fn in_order(&self, name: &SwampName) -> Vec<String> {
        let books = self.books();
        let of_swamp = books.values.iter().filter(|((swamp, _), _)| swamp == name);
        let mut keys: Vec<(Instant, String)> =
            of_swamp.filter_map(|((_, key), entries)| Some((entries.first()?.at, key.clone()))).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// The books are plain values, whole at every moment, so a panic elsewhere cannot have torn them.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every key of a swamp whose value is an integer.
async fn all_of(hydra: &Hydra, name: &SwampName) -> Result<Vec<(String, i64)>> {
    let swamp = hydra.swamp::<i64>(name)?;
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let list = swamp.list().limit(10_000);
        let list = after.iter().fold(list, |list, cursor| list.after(cursor));
        let page = list.page().await.with_context(|| format!("cannot list {name}"))?;
        found.extend(page.treasures.into_iter().map(|treasure| (treasure.key, treasure.value)));
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}
