//! [`Swamps`]: the swamps of a data set, whichever servers they are on.

use std::collections::VecDeque;

use futures_core::Stream;
use futures_util::stream::{self, TryStreamExt};
use hydra_core::SwampsQuery;

use crate::client::Hydra;
use crate::endpoint::{Part, SwampListing};
use crate::error::{Error, Result};
use crate::treasure::ListedSwamp;

/// How many swamps are fetched at once.
const PAGE: usize = 1_000;

/// Which swamps to list; made by [`Hydra::swamps`]. A scan of directories, for operators and migrations.
///
/// ```
/// use futures_util::TryStreamExt;
///
/// # async fn example(hydra: hydra_sdk::Hydra) -> hydra_sdk::Result<()> {
/// let mut profiles = std::pin::pin!(hydra.swamps().sanctuary("users").realm("profiles").stream());
/// while let Some(listed) = profiles.try_next().await? {
///     println!("{} in folder {}", listed.name, listed.folder);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is listed until stream()"]
pub struct Swamps {
    hydra: Hydra,
    query: SwampsQuery,
    limit: usize,
}

impl Swamps {
    pub(crate) fn new(hydra: Hydra) -> Swamps {
        Swamps { hydra, query: SwampsQuery::default(), limit: usize::MAX }
    }

    /// Only those of this sanctuary.
    pub fn sanctuary(mut self, sanctuary: impl Into<String>) -> Self {
        self.query.sanctuary = Some(sanctuary.into());
        self
    }

    /// Only those of this realm of the sanctuary.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.query.realm = Some(realm.into());
        self
    }

    /// Only those whose name, behind the sanctuary and realm asked for, starts with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.query.prefix = Some(prefix.into());
        self
    }

    /// Also what is known of each: its files, and what memory tells where it is there.
    pub fn info(mut self) -> Self {
        self.query.info = true;
        self
    }

    /// At most so many swamps. Default all.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The swamps: pool by pool, in each by folder and then by path, every folder once. Each folder is asked for at
    /// the server that answers for it, or its fallbacks. Swamps that come or go meanwhile may be there or not.
    ///
    /// The first failure ends the stream: a realm without its sanctuary, or a sanctuary or realm that cannot be one
    /// ([`ErrorKind::Invalid`](crate::ErrorKind::Invalid)), or no server that answers.
    pub fn stream(self) -> impl Stream<Item = Result<ListedSwamp>> + Send {
        let parts: VecDeque<Option<Part>> = self.hydra.endpoint().parts().into();
        let left = self.limit;
        let pages = stream::try_unfold((self, parts, left), |(mut swamps, mut parts, left)| async move {
            let Some(part) = parts.front().cloned().filter(|_| left > 0) else { return Ok::<_, Error>(None) };
            let query = SwampsQuery { limit: left.min(PAGE), ..swamps.query.clone() };
            let (found, next) = swamps.hydra.endpoint().swamps(SwampListing { query, part }).await?;
            if next.is_none() {
                parts.pop_front();
            }
            swamps.query.cursor = next;
            let left = left - found.len().min(left);
            Ok(Some((stream::iter(found.into_iter().map(Ok)), (swamps, parts, left))))
        });
        pages.try_flatten()
    }
}
