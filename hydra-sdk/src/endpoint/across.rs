//! Operations on several swamps: taken apart by who answers for them, and the results put back in order.

use std::collections::HashMap;
use std::hash::Hash;

use futures_util::stream::{self, StreamExt};
use hydra_core::wire::{BATCH_PATH, BatchBody, BatchResultBody};
use hydra_core::{Applied, ErrorCode, FolderId, SwampName, Value};
use reqwest::Method;

use super::WriteOptions;
use super::remote::{JSON, done, is_synced, keyed, read, sync_of, unreadable};
use crate::cluster::{CallOptions, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::failover::Answered;
use crate::operation::{Done, Operation, class_of};
use crate::request::{Request, with_query};

/// How many servers or folders are asked at a time.
const AT_ONCE: usize = 16;

/// Operations in groups, each in the order they came.
#[derive(Debug)]
pub(super) struct Parts<K> {
    groups: Vec<(K, Vec<(SwampName, Operation)>)>,
    /// For each operation the group it is in.
    places: Vec<usize>,
}

impl<K: Clone + Eq + Hash> Parts<K> {
    pub(super) fn of(operations: Vec<(SwampName, Operation)>, key_of: impl Fn(&SwampName) -> K) -> Parts<K> {
        let mut parts = Parts { groups: Vec::new(), places: Vec::with_capacity(operations.len()) };
        let mut known: HashMap<K, usize> = HashMap::new();
        for (name, operation) in operations {
            let key = key_of(&name);
            let place = *known.entry(key.clone()).or_insert(parts.groups.len());
            if place == parts.groups.len() {
                parts.groups.push((key, Vec::new()));
            }
            parts.groups[place].1.push((name, operation));
            parts.places.push(place);
        }
        parts
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&K, &[(SwampName, Operation)])> {
        self.groups.iter().map(|(key, group)| (key, group.as_slice()))
    }

    /// One result for each operation, in the order they came. What failed as a whole is the answer to each of its own.
    pub(super) fn in_order(&self, results: Vec<Result<Vec<Result<Done<Value>>>>>) -> Vec<Result<Done<Value>>> {
        let mut groups: Vec<_> = results.into_iter().map(|group| group.map(Vec::into_iter)).collect();
        let next = |&place: &usize| match groups.get_mut(place) {
            Some(Ok(results)) => results.next().unwrap_or_else(|| Err(unreadable("an operation without a result"))),
            Some(Err(error)) => Err(error.repeat()),
            None => Err(unreadable("an operation without a result")),
        };
        self.places.iter().map(next).collect()
    }
}

/// Who answers: one request for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Answerer {
    /// A server that nobody stands in for.
    Server { pool: String, index: usize },
    /// A folder that a fallback can take over, and give back, without the other folders of the server.
    Folder { pool: String, folder: FolderId },
}

impl Cluster {
    pub(super) async fn batch_across(
        &self,
        operations: Vec<(SwampName, Operation)>,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        let state = self.state();
        let parts = Parts::of(operations, |name| {
            let route = state.route(name);
            let pool = route.pool().to_owned();
            match route.fallbacks().next() {
                None => Answerer::Server { pool, index: state.owner_of(route) },
                Some(_) => Answerer::Folder { pool, folder: route.folder() },
            }
        });
        let asked: Vec<_> = parts.groups().map(|(_, group)| self.batch_at_one(group, options)).collect();
        let results = stream::iter(asked).buffered(AT_ONCE).collect().await;
        Ok(parts.in_order(results))
    }

    /// Operations that one server answers for.
    async fn batch_at_one(
        &self,
        group: &[(SwampName, Operation)],
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        let Some((first, _)) = group.first() else { return Ok(Vec::new()) };
        let op = |(name, operation): &(SwampName, Operation)| {
            let mut body = operation.to_body()?;
            body.swamp = Some(name.to_string());
            Ok(body)
        };
        let ops = group.iter().map(op).collect::<Result<Vec<_>>>()?;
        let body = serde_json::to_vec(&BatchBody { atomic: false, ops })
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("the batch cannot be written as JSON: {error}")))?;
        let class = class_of(group.iter().map(|(_, operation)| operation));
        let target = with_query(BATCH_PATH.to_owned(), &sync_of(options));
        let request = keyed(Request::new(class, Method::POST, target), options).body(JSON, body);
        let call = CallOptions { is_bulk: true, ..options.call.clone() };
        let Answered { answer, .. } = self.call(first, &request, &call).await?;
        let BatchResultBody { results, .. } = read(&answer)?;
        if results.len() != group.len() {
            return Err(unreadable("another number of results").with_applied(answer.applied()));
        }
        let (synced, stale) = (is_synced(&answer), answer.is_stale());
        let results = group.iter().zip(results).map(|((name, operation), result)| {
            done(operation, result, synced, stale).map_err(|error| error.about(name.as_str()))
        });
        let mut results: Vec<_> = results.collect();
        self.ask_owners(group, &mut results, options).await;
        Ok(results)
    }

    /// Operations that the server refused because it does not own their folder, or because that takes no writes for a
    /// moment, are sent by themselves: then hints to the owner are followed, and the moment is waited for.
    async fn ask_owners(
        &self,
        group: &[(SwampName, Operation)],
        results: &mut [Result<Done<Value>>],
        options: &WriteOptions,
    ) {
        let is_misrouted = |result: &Result<Done<Value>>| {
            let is_elsewhere =
                |error: &Error| error.kind() == ErrorKind::NotOwner || error.code() == Some(ErrorCode::FolderSealed);
            result.as_ref().is_err_and(|error| is_elsewhere(error) && error.applied() == Applied::No)
        };
        let places: Vec<usize> = (0..group.len()).filter(|&at| is_misrouted(&results[at])).collect();
        let again = Parts::of(places.iter().map(|&at| group[at].clone()).collect(), SwampName::clone);
        let mut answered = Vec::new();
        for (name, group) in again.groups() {
            let operations = group.iter().map(|(_, operation)| operation.clone()).collect();
            answered.push(self.batch(name, operations, false, options).await);
        }
        for (at, result) in places.into_iter().zip(again.in_order(answered)) {
            results[at] = result;
        }
    }
}
