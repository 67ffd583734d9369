//! The treasures of a swamp in an order and with conditions: page by page, as a stream over all pages, or counted.

use std::ops::{Bound, RangeBounds};

use futures_core::Stream;
use futures_util::stream::{self, TryStreamExt};
use hydra_core::{Expired, ListQuery, Order};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Swamp;
use crate::endpoint::Listing;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Filter;
use crate::treasure::{Cursor, Page, Treasure};

/// How many treasures a page has unless told otherwise.
const PAGE: usize = 100;
/// How many treasures a page can have.
const LARGEST_PAGE: usize = 10_000;
/// How many treasures a stream fetches at once.
const STREAM_PAGE: usize = 1_000;

/// What to list; see [`List::page`], [`List::stream`] and [`List::count`].
#[derive(Debug)]
#[must_use = "nothing is listed until page(), stream(), keys() or count()"]
pub struct List<V> {
    swamp: Swamp<V>,
    query: ListQuery,
    filter: Option<Filter>,
    has_values: bool,
    limit: Option<usize>,
}

impl<V: Serialize + DeserializeOwned> List<V> {
    pub(super) fn new(swamp: Swamp<V>) -> List<V> {
        List { swamp, query: ListQuery::default(), filter: None, has_values: true, limit: None }
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.query.prefix = Some(prefix.into());
        self
    }

    /// Only keys in this range, compared as bytes: `"a".."c"`, `"k1"..`, `..="z"`.
    pub fn range<K: AsRef<str>>(mut self, keys: impl RangeBounds<K>) -> Self {
        // Behind a key comes first what it is with a zero at its end.
        let behind = |key: &K| format!("{}\0", key.as_ref());
        self.query.from = match keys.start_bound() {
            Bound::Included(key) => Some(key.as_ref().to_owned()),
            Bound::Excluded(key) => Some(behind(key)),
            Bound::Unbounded => None,
        };
        self.query.to = match keys.end_bound() {
            Bound::Included(key) => Some(behind(key)),
            Bound::Excluded(key) => Some(key.as_ref().to_owned()),
            Bound::Unbounded => None,
        };
        self
    }

    /// By something else than the key. The first list in an order sorts all treasures; then the order is kept with
    /// the swamp while it is in memory.
    pub fn order_by(mut self, order: Order) -> Self {
        self.query.order = order;
        self
    }

    /// From the last to the first.
    pub fn descending(mut self) -> Self {
        self.query.descending = true;
        self
    }

    /// Only treasures whose values pass; all filters that are given have to hold. Every treasure is looked at.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(match self.filter.take() {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }

    /// Whether treasures that have expired are there, as long as they are kept. Default no.
    pub fn expired(mut self, expired: Expired) -> Self {
        self.query.expired = expired;
        self
    }

    /// Goes on where a page of the same list ended.
    pub fn after(mut self, cursor: &Cursor) -> Self {
        self.query.cursor = Some(cursor.0.clone());
        self
    }

    /// At most so many treasures. A page has 100 unless told otherwise, and at most 10 000; a stream
    /// has no limit unless told otherwise.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Everything but the values, which are not sent.
    pub fn without_values(self) -> List<()> {
        let List { swamp, query, filter, limit, .. } = self;
        List { swamp: swamp.typed(), query, filter, has_values: false, limit }
    }

    /// One page. A swamp that does not exist has none.
    ///
    /// # Errors
    /// When no server answered, a value has another shape than `V`, the limit is 0 or above 10 000, the cursor is of
    /// another list, or the filter is not understood.
    pub async fn page(self) -> Result<Page<V>> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let detail = format!("the limit of a page is {limit}; allowed is 1 to {LARGEST_PAGE}");
            return Err(Error::new(ErrorKind::Invalid, detail));
        }
        let (swamp, mut listing) = self.checked()?;
        listing.query.limit = limit;
        fetch(&swamp, &listing).await
    }

    /// All treasures, fetched page by page while the stream is read. A treasure that stays as it is comes exactly
    /// once; one that is written meanwhile is seen where it was, where it is then, or both.
    pub fn stream(self) -> impl Stream<Item = Result<Treasure<V>>> + Send + use<V>
    where
        V: Send + 'static,
    {
        let left = self.limit.unwrap_or(usize::MAX);
        let begun = std::future::ready(self.checked());
        let pages = stream::once(begun).map_ok(move |(swamp, listing)| {
            stream::try_unfold(Some((swamp, listing, left)), |state| async move {
                let Some((swamp, mut listing, left)) = state.filter(|(.., left)| *left > 0) else {
                    return Ok::<_, Error>(None);
                };
                listing.query.limit = left.min(STREAM_PAGE);
                let page = fetch(&swamp, &listing).await?;
                let left = left - page.treasures.len().min(left);
                listing.query.cursor = page.next.map(|cursor| cursor.0);
                let is_last = listing.query.cursor.is_none();
                let rest = (!is_last).then_some((swamp, listing, left));
                Ok(Some((stream::iter(page.treasures.into_iter().map(Ok)), rest)))
            })
            .try_flatten()
        });
        pages.try_flatten()
    }

    /// The keys alone, as [`List::stream`] gives them.
    pub fn keys(self) -> impl Stream<Item = Result<String>> + Send + use<V> {
        self.without_values().stream().map_ok(|treasure| treasure.key)
    }

    /// How many treasures meet the conditions; order, limit and cursor make no difference.
    ///
    /// # Errors
    /// When no server answered, or the filter is not understood or longer than fits into a URL of 8 KiB.
    pub async fn count(self) -> Result<u64> {
        let (swamp, listing) = self.checked()?;
        let query = ListQuery { cursor: None, ..listing.query };
        swamp.hydra.endpoint().count(&swamp.name, &query, &swamp.options).await
    }

    fn checked(self) -> Result<(Swamp<V>, Listing)> {
        let filter = self.filter.map(Filter::checked).transpose()?;
        Ok((self.swamp, Listing { query: ListQuery { filter, ..self.query }, has_values: self.has_values }))
    }
}

async fn fetch<V: DeserializeOwned>(swamp: &Swamp<V>, listing: &Listing) -> Result<Page<V>> {
    let page = swamp.hydra.endpoint().list(&swamp.name, listing, &swamp.options).await?;
    let treasures = page.treasures.into_iter().map(Treasure::decode).collect::<Result<_>>()?;
    Ok(Page { treasures, next: page.next })
}
