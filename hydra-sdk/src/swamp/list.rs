//! The treasures of a swamp in order: page by page, or as a stream over all pages.

use futures_core::Stream;
use futures_util::stream::{self, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Swamp;
use crate::endpoint::Listing;
use crate::error::{Error, ErrorKind, Result};
use crate::treasure::{Cursor, Page, Treasure};

/// How many treasures a page has unless told otherwise.
const PAGE: usize = 100;
/// How many treasures a page can have.
const LARGEST_PAGE: usize = 10_000;
/// How many treasures a stream fetches at once.
const STREAM_PAGE: usize = 1_000;

/// What to list; see [`List::page`] and [`List::stream`].
#[derive(Debug)]
#[must_use = "nothing is listed until page() or stream()"]
pub struct List<V> {
    swamp: Swamp<V>,
    listing: Listing,
    limit: Option<usize>,
}

impl<V: Serialize + DeserializeOwned> List<V> {
    pub(super) fn new(swamp: Swamp<V>) -> List<V> {
        List { swamp, listing: Listing::default(), limit: None }
    }

    /// Only keys that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.listing.prefix = Some(prefix.into());
        self
    }

    /// Goes on where a page ended.
    pub fn after(mut self, cursor: &Cursor) -> Self {
        self.listing.cursor = Some(cursor.clone());
        self
    }

    /// From the last key to the first.
    pub fn descending(mut self) -> Self {
        self.listing.descending = true;
        self
    }

    /// At most so many treasures. A page has 100 unless told otherwise, and at most 10 000; a stream
    /// has no limit unless told otherwise.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// One page. A swamp that does not exist has none.
    ///
    /// # Errors
    /// When no server answered, a value has another shape than `V`, or the limit is 0 or above 10 000.
    pub async fn page(self) -> Result<Page<V>> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let detail = format!("the limit of a page is {limit}; allowed is 1 to {LARGEST_PAGE}");
            return Err(Error::new(ErrorKind::Invalid, detail));
        }
        fetch(&self.swamp, &Listing { limit, ..self.listing }).await
    }

    /// All treasures, fetched page by page while the stream is read. Sees each treasure at most once;
    /// what is written meanwhile may be seen or not.
    pub fn stream(self) -> impl Stream<Item = Result<Treasure<V>>> + Send + use<V>
    where
        V: Send + 'static,
    {
        let left = self.limit.unwrap_or(usize::MAX);
        let pages = stream::try_unfold(Some((self, left)), |state| async move {
            let Some((list, left)) = state.filter(|(_, left)| *left > 0) else { return Ok::<_, Error>(None) };
            let listing = Listing { limit: left.min(STREAM_PAGE), ..list.listing.clone() };
            let page = fetch(&list.swamp, &listing).await?;
            let left = left - page.treasures.len().min(left);
            let rest = page.next.map(|cursor| (list.after(&cursor), left));
            Ok(Some((stream::iter(page.treasures.into_iter().map(Ok)), rest)))
        });
        pages.try_flatten()
    }
}

async fn fetch<V: DeserializeOwned>(swamp: &Swamp<V>, listing: &Listing) -> Result<Page<V>> {
    let page = swamp.hydra.endpoint().list(&swamp.name, listing, &swamp.options).await?;
    let treasures = page.treasures.into_iter().map(Treasure::decode).collect::<Result<_>>()?;
    Ok(Page { treasures, next: page.next })
}
