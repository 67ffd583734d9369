//! A data set on servers: each operation as a request, each answer read back.

use hydra_core::wire::{
    BatchBody, BatchResultBody, ConflictsBody, IncrementedBody, JSON_PATCH_JSON, ListBody, ListedSwampBody,
    MERGE_PATCH_JSON, OpResultBody, PoliciesBody, QueryBody, SwampInfoBody, SwampsBody, TreasureBody, WrittenBody,
    header, list_path, policy_path, swamp_path, swamps_path, treasure_path,
};
use hydra_core::{
    Applied, Condition, CopyState, ErrorCode, Expired, ListQuery, Order, Pattern, Policy, SwampName, Timestamp, Value,
    Version,
};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Listing, Part, Reading, SwampListing, WriteOptions};
use crate::binary;
use crate::cluster::{CallOptions, Cluster};
use crate::conflict::Conflict;
use crate::error::{Error, ErrorKind, Result};
use crate::failover::Answered;
use crate::operation::{Change, Done, Expiry, Operation, class_of};
use crate::outcome::{Answer, AnswerBody};
use crate::request::{Request, with_query};
use crate::settings::{Fallback, OpClass};
use crate::treasure::{Cursor, ListedSwamp, Page, SwampInfo, Treasure, Written};

pub(super) const JSON: &str = "application/json";
/// The longest path with parameters that servers take.
const LONGEST_TARGET: usize = 8 << 10;

impl Cluster {
    pub(super) async fn get(
        &self,
        name: &SwampName,
        reading: &Reading<'_>,
        options: &CallOptions,
    ) -> Result<Option<Treasure<Value>>> {
        let mut query = Vec::new();
        query.extend((!reading.path.is_root()).then(|| ("path", reading.path.to_string())));
        query.extend(reading.with_expired.then(|| ("expired", "include".to_owned())));
        let target = with_query(treasure_path(name, reading.key), &query);
        let request = Request::new(OpClass::Read, Method::GET, target);
        let answered = self.call(name, &request, options).await?;
        match Found::of(&answered.answer)? {
            Found::Nothing => Ok(None),
            Found::Something => treasure_of(reading.key, &answered.answer).map(Some),
        }
    }

    pub(super) async fn push(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        let Operation::Put { value, expiry, .. } = &operation else {
            return self.write(name, operation, options).await;
        };
        if is_read_as_json(value) {
            return self.write(name, operation, options).await;
        }
        let mut query = sync_of(options);
        query.extend(expiry_of(expiry));
        let request = Request::new(OpClass::Overwrite, Method::POST, with_query(list_path(name), &query));
        let content_type = value.content_type().unwrap_or(JSON).to_owned();
        let request = keyed(request, options).body(&content_type, value.as_bytes().to_vec());
        let Answered { answer, .. } = self.call(name, &request, &options.call).await?;
        written(&answer)
    }

    pub(super) async fn write(
        &self,
        name: &SwampName,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Done<Value>> {
        if matches!(&operation, Operation::Put { value, .. } if is_read_as_json(value)) {
            let mut results = self.batch(name, vec![operation], false, options).await?;
            return results.pop().unwrap_or_else(|| Err(unreadable("no result")));
        }
        let request = request_of(name, &operation, options);
        let Answered { answer, .. } = self.call(name, &request, &options.call).await?;
        match operation {
            Operation::Put { .. } | Operation::Patch { .. } => written(&answer),
            Operation::Delete { .. } => Ok(Done::Deleted(matches!(Found::of(&answer)?, Found::Something))),
            Operation::Increment { .. } => {
                let body: IncrementedBody = read(&answer)?;
                Ok(Done::Incremented(body.value, body.version))
            }
            Operation::Get { key } => match Found::of(&answer)? {
                Found::Nothing => Ok(Done::Got(None)),
                Found::Something => treasure_of(&key, &answer).map(|treasure| Done::Got(Some(treasure))),
            },
        }
    }

    pub(super) async fn batch(
        &self,
        name: &SwampName,
        operations: Vec<Operation>,
        atomic: bool,
        options: &WriteOptions,
    ) -> Result<Vec<Result<Done<Value>>>> {
        let ops = operations.iter().map(Operation::to_body).collect::<Result<Vec<_>>>()?;
        let body = serde_json::to_vec(&BatchBody { atomic, ops })
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("the batch cannot be written as JSON: {error}")))?;
        let target = with_query(format!("{}/batch", swamp_path(name)), &sync_of(options));
        let request = keyed(Request::new(class_of(&operations), Method::POST, target), options).body(JSON, body);
        let call = CallOptions { is_bulk: true, ..options.call.clone() };
        let Answered { answer, .. } = self.call(name, &request, &call).await?;
        let BatchResultBody { results, .. } = read(&answer)?;
        if results.len() != operations.len() {
            return Err(unreadable("another number of results").with_applied(answer.applied()));
        }
        let synced = is_synced(&answer);
        let stale = answer.is_stale();
        Ok(operations.iter().zip(results).map(|(operation, result)| done(operation, result, synced, stale)).collect())
    }

    pub(super) async fn list(&self, name: &SwampName, listing: &Listing, options: &CallOptions) -> Result<Page<Value>> {
        let call = CallOptions { is_bulk: true, ..options.clone() };
        let Answered { answer, .. } = self.call(name, &list_request(name, listing)?, &call).await?;
        let body: ListBody = read(&answer)?;
        let stale = answer.is_stale();
        let treasures = body.treasures.into_iter().map(|treasure| match listing.has_values {
            true => from_body(treasure, stale),
            false => Ok(from_meta(&treasure, Value::json("null")?, stale)),
        });
        Ok(Page { treasures: treasures.collect::<Result<_>>()?, next: body.next_cursor.map(Cursor) })
    }

    pub(super) async fn count(&self, name: &SwampName, query: &ListQuery, options: &CallOptions) -> Result<u64> {
        let mut conditions = bounds(query);
        conditions.extend(query.filter.as_ref().map(|filter| ("where", filter.to_string())));
        let target = with_query(list_path(name), &conditions);
        if target.len() > LONGEST_TARGET {
            let detail = format!("the conditions take {} bytes in a URL; {LONGEST_TARGET} are allowed", target.len());
            return Err(Error::new(ErrorKind::Invalid, detail));
        }
        let call = CallOptions { is_bulk: !conditions.is_empty(), ..options.clone() };
        let request = Request::new(OpClass::Read, Method::HEAD, target);
        let Answered { answer, .. } = self.call(name, &request, &call).await?;
        match answer.status {
            // An answer to HEAD has no body, so a missing swamp shows only in the status.
            404 => Ok(0),
            200..=299 => {
                let count = answer.header(header::COUNT).and_then(|text| text.parse().ok());
                count.ok_or_else(|| unreadable("no Hydra-Count"))
            }
            status => Err(Error::new(ErrorKind::Protocol, format!("the server answered {status} to a count"))),
        }
    }

    pub(super) async fn swamps(&self, listing: SwampListing) -> Result<(Vec<ListedSwamp>, Option<String>)> {
        let SwampListing { query, part } = listing;
        let mut parameters = vec![("limit", query.limit.to_string())];
        parameters.extend(query.prefix.map(|prefix| ("prefix", prefix)));
        parameters.extend(query.cursor.map(|cursor| ("cursor", cursor)));
        parameters.extend(query.info.then(|| ("include", "info".to_owned())));
        parameters.extend(part.as_ref().map(|Part { folders: (from, to), .. }| ("folders", format!("{from}-{to}"))));
        let path = swamps_path(query.sanctuary.as_deref(), query.realm.as_deref());
        let request = Request::new(OpClass::Read, Method::GET, with_query(path, &parameters));
        let body: SwampsBody = read(&self.call_part(part.as_ref(), &request).await?)?;
        let swamps = body.swamps.into_iter().map(listed_of).collect::<Result<_>>()?;
        Ok((swamps, body.next_cursor))
    }

    pub(super) async fn info(&self, name: &SwampName, options: &CallOptions) -> Result<Option<SwampInfo>> {
        let request = Request::new(OpClass::Read, Method::GET, swamp_path(name));
        let Answered { answer, .. } = self.call(name, &request, options).await?;
        match Found::of(&answer)? {
            Found::Nothing => Ok(None),
            Found::Something => Ok(Some(info_of(name, read(&answer)?))),
        }
    }

    pub(super) async fn conflicts(&self, name: &SwampName, options: &CallOptions) -> Result<Vec<Conflict>> {
        let request = Request::new(OpClass::Read, Method::GET, format!("{}/conflicts", swamp_path(name)));
        let options = CallOptions { is_bulk: true, ..options.clone() };
        let Answered { answer, .. } = self.call(name, &request, &options).await?;
        read::<ConflictsBody>(&answer)?.conflicts.into_iter().map(Conflict::of_body).collect()
    }

    /// Only the primary is asked: a fallback has other writes to flush.
    pub(super) async fn flush(&self, name: &SwampName, options: &CallOptions) -> Result<()> {
        let request = Request::new(OpClass::Read, Method::POST, format!("{}/flush", swamp_path(name)));
        let call = CallOptions { is_bulk: true, fallback: Some(Fallback::Never), ..options.clone() };
        let Answered { answer, .. } = self.call(name, &request, &call).await?;
        match Found::of(&answer)? {
            Found::Nothing | Found::Something => Ok(()),
        }
    }

    pub(super) async fn destroy(&self, name: &SwampName, options: &CallOptions) -> Result<bool> {
        let request = Request::new(OpClass::Exclusive, Method::DELETE, swamp_path(name));
        let Answered { answer, .. } = self.call(name, &request, options).await?;
        Ok(matches!(Found::of(&answer)?, Found::Something))
    }

    /// Every server is told, one after the other; the error lists those that were not reached.
    pub(super) async fn set_policy(&self, pattern: &Pattern, policy: &Policy) -> Result<()> {
        let body = serde_json::to_vec(policy).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the policy cannot be written as JSON: {error}"))
        })?;
        let request = Request::new(OpClass::Overwrite, Method::PUT, policy_path(pattern)).body(JSON, body);
        let answers = self.ask_all(&request).await?;
        answers.iter().try_for_each(|answer| if answer.is_success() { Ok(()) } else { Err(answer.to_error()) })
    }

    pub(super) async fn delete_policy(&self, pattern: &Pattern) -> Result<bool> {
        let request = Request::new(OpClass::Overwrite, Method::DELETE, policy_path(pattern));
        let answers = self.ask_all(&request).await?;
        let mut existed = false;
        for answer in &answers {
            existed |= matches!(Found::of(answer)?, Found::Something);
        }
        Ok(existed)
    }

    /// Those of the first server that answers.
    pub(super) async fn policies(&self) -> Result<Vec<(Pattern, Policy)>> {
        let request = Request::new(OpClass::Read, Method::GET, "/v1/policies".to_owned());
        let body: PoliciesBody = read(&self.ask_any(&request).await?)?;
        Ok(body.policies.into_iter().map(|registered| (registered.pattern, registered.policy)).collect())
    }
}

/// An operation as a request of its own.
fn request_of(name: &SwampName, operation: &Operation, options: &WriteOptions) -> Request {
    let path = treasure_path(name, operation.key());
    let mut query = sync_of(options);
    let (method, condition) = match operation {
        Operation::Put { expiry, condition, .. } => {
            query.extend(expiry_of(expiry));
            (Method::PUT, Some(condition))
        }
        Operation::Patch { create, condition, .. } => {
            query.extend(create.then(|| ("create", "true".to_owned())));
            (Method::PATCH, Some(condition))
        }
        Operation::Delete { condition, .. } => (Method::DELETE, Some(condition)),
        Operation::Increment { increment, .. } => {
            query.push(("incr", increment.by.to_string()));
            query.extend((!increment.path.is_root()).then(|| ("path", increment.path.to_string())));
            let numbers = [("initial", increment.initial), ("min", increment.min), ("max", increment.max)];
            query.extend(numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string()))));
            (Method::POST, None)
        }
        Operation::Get { .. } => (Method::GET, None),
    };
    let request = keyed(Request::new(operation.class(), method, with_query(path, &query)), options);
    let request = match condition {
        // Only imports compare times.
        None | Some(Condition::Always | Condition::UpdatedBefore(_)) => request,
        Some(Condition::Absent) => request.header("if-none-match", "*"),
        Some(Condition::Present) => request.header("if-match", "*"),
        Some(Condition::Version(versions)) => {
            let tags: Vec<String> = versions.iter().map(|version| format!("\"{version}\"")).collect();
            request.header("if-match", &tags.join(", "))
        }
    };
    match operation {
        Operation::Put { value, .. } => request.body(value.content_type().unwrap_or(JSON), value.as_bytes().to_vec()),
        Operation::Patch { change, .. } => {
            let content_type = match change {
                Change::Merge(_) => MERGE_PATCH_JSON,
                Change::Steps(_) => JSON_PATCH_JSON,
            };
            request.body(content_type, change.value().as_bytes().to_vec())
        }
        Operation::Delete { .. } | Operation::Increment { .. } | Operation::Get { .. } => request,
    }
}

fn expiry_of(expiry: &Expiry) -> Option<(&'static str, String)> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(time) => Some(("expires_at", time.to_string())),
        Expiry::In(span) => Some(("ttl", hydra_core::duration::format_duration(*span))),
        Expiry::Keep => Some(("keep_ttl", "true".to_owned())),
    }
}

/// What a put, a patch or a push answered.
fn written(answer: &Answer) -> Result<Done<Value>> {
    let body: WrittenBody = read(answer)?;
    Ok(Done::Put(Written { version: body.version, created: body.created, synced: is_synced(answer) }))
}

pub(super) fn is_synced(answer: &Answer) -> bool {
    answer.header(header::DURABLE) == Some("synced")
}

/// A list as a request: with a filter in a body, where it may be long.
fn list_request(name: &SwampName, listing: &Listing) -> Result<Request> {
    let Listing { query, has_values } = listing;
    let order = Some(query.order.to_string()).filter(|_| query.order != Order::Key);
    let dir = query.descending.then(|| "desc".to_owned());
    let include = (!has_values).then(|| "meta".to_owned());
    let Some(filter) = &query.filter else {
        let mut parameters = vec![("limit", query.limit.to_string())];
        parameters.extend(bounds(query));
        parameters.extend(order.map(|order| ("order", order)));
        parameters.extend(dir.map(|dir| ("dir", dir)));
        parameters.extend(include.map(|include| ("include", include)));
        parameters.extend(query.cursor.clone().map(|cursor| ("cursor", cursor)));
        return Ok(Request::new(OpClass::Read, Method::GET, with_query(list_path(name), &parameters)));
    };
    let unwritable =
        |error: serde_json::Error| Error::new(ErrorKind::Invalid, format!("the query cannot be written: {error}"));
    let body = QueryBody {
        order,
        dir,
        prefix: query.prefix.clone(),
        from: query.from.clone(),
        to: query.to.clone(),
        filter: Some(RawValue::from_string(filter.to_string()).map_err(unwritable)?),
        expired: expired_text(query).map(str::to_owned),
        include,
        limit: i64::try_from(query.limit).ok(),
        cursor: query.cursor.clone(),
        keys: None,
    };
    let target = format!("{}/query", swamp_path(name));
    let body = serde_json::to_vec(&body).map_err(unwritable)?;
    Ok(Request::new(OpClass::Read, Method::POST, target).body(JSON, body))
}

/// Which keys are wanted, and whether expired ones are, as parameters.
fn bounds(query: &ListQuery) -> Vec<(&'static str, String)> {
    let texts = [("prefix", &query.prefix), ("from", &query.from), ("to", &query.to)];
    let mut bounds: Vec<_> = texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect();
    bounds.extend(expired_text(query).map(|text| ("expired", text.to_owned())));
    bounds
}

fn expired_text(query: &ListQuery) -> Option<&'static str> {
    match query.expired {
        Expired::Hidden => None,
        Expired::Included => Some("include"),
        Expired::Only => Some("only"),
    }
}

fn listed_of(body: ListedSwampBody) -> Result<ListedSwamp> {
    Ok(ListedSwamp {
        name: body.name.parse()?,
        folder: body.folder,
        files: body.files,
        bytes: body.bytes,
        loaded: body.loaded,
        count: body.count,
        dirty: body.dirty,
    })
}

pub(super) fn sync_of(options: &WriteOptions) -> Vec<(&'static str, String)> {
    options.sync.then(|| ("sync", "true".to_owned())).into_iter().collect()
}

pub(super) fn keyed(request: Request, options: &WriteOptions) -> Request {
    match &options.idempotency_key {
        Some(key) if request.class.is_write() => request.header(header::IDEMPOTENCY_KEY, key),
        Some(_) | None => request,
    }
}

/// Binary values whose content type makes a server read a plain body as JSON or text.
fn is_read_as_json(value: &Value) -> bool {
    let Some(content_type) = value.content_type() else { return false };
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), JSON | "application/x-www-form-urlencoded" | "text/plain") || kind.ends_with("+json")
}

/// Whether a success found what it was about. Absence is no error.
pub(super) enum Found {
    Something,
    Nothing,
}

impl Found {
    pub(super) fn of(answer: &Answer) -> Result<Found> {
        let lost = matches!(answer.body, AnswerBody::Lost(_));
        match answer.status {
            200..=299 if !lost => Ok(Found::Something),
            404 if matches!(
                answer.code(),
                Some(
                    ErrorCode::TreasureNotFound
                        | ErrorCode::PathNotFound
                        | ErrorCode::SwampNotFound
                        | ErrorCode::PolicyNotFound
                        | ErrorCode::LockNotFound
                )
            ) =>
            {
                Ok(Found::Nothing)
            }
            _ => Err(answer.to_error()),
        }
    }
}

/// The body of a success.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    if !answer.is_success() {
        return Err(answer.to_error());
    }
    serde_json::from_slice(answer.bytes())
        .map_err(|error| unreadable(&error.to_string()).with_applied(answer.applied()))
}

pub(super) fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the server's answer is not understood: {what}"))
}

/// A treasure from the headers and the body of a GET.
pub(super) fn treasure_of(key: &str, answer: &Answer) -> Result<Treasure<Value>> {
    let time = |name: &str| answer.header(name).and_then(|text| text.parse::<Timestamp>().ok());
    let tag = answer.header("etag").map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
    let version = tag.and_then(|tag| tag.parse::<Version>().ok()).ok_or_else(|| unreadable("no usable ETag"))?;
    let content_type = answer.header("content-type").unwrap_or(JSON);
    let value = match content_type.split(';').next().map(str::trim) {
        Some(JSON) => Value::json(answer.bytes())?,
        _ => Value::binary(content_type, answer.bytes())?,
    };
    Ok(Treasure {
        key: key.to_owned(),
        value,
        version,
        created_at: time(header::CREATED_AT).ok_or_else(|| unreadable("no Hydra-Created-At"))?,
        updated_at: time(header::UPDATED_AT).ok_or_else(|| unreadable("no Hydra-Updated-At"))?,
        expires_at: time(header::EXPIRES_AT),
        stale: answer.is_stale(),
    })
}

pub(super) fn from_body(body: TreasureBody, stale: bool) -> Result<Treasure<Value>> {
    let raw = body.value.as_ref().ok_or_else(|| unreadable("a treasure without a value"))?;
    Ok(from_meta(&body, binary::from_json(raw)?, stale))
}

/// A treasure of which everything but the value was asked for.
fn from_meta(body: &TreasureBody, value: Value, stale: bool) -> Treasure<Value> {
    Treasure {
        key: body.key.clone(),
        value,
        version: body.version,
        created_at: body.created_at,
        updated_at: body.updated_at,
        expires_at: body.expires_at,
        stale,
    }
}

/// What became of one operation of a batch.
pub(super) fn done(operation: &Operation, result: OpResultBody, synced: bool, stale: bool) -> Result<Done<Value>> {
    let missing = || unreadable("a result without its members").with_applied(Applied::Yes);
    match (operation, result.status) {
        (Operation::Put { .. } | Operation::Patch { .. }, 200..=299) => {
            let version = result.version.ok_or_else(missing)?;
            Ok(Done::Put(Written { version, created: result.created.unwrap_or(result.status == 201), synced }))
        }
        (Operation::Delete { .. }, 200..=299) => Ok(Done::Deleted(result.existed.unwrap_or(true))),
        (Operation::Delete { .. }, 404) => Ok(Done::Deleted(false)),
        (Operation::Increment { .. }, 200..=299) => {
            let value = result.value.and_then(|raw| raw.get().parse().ok()).ok_or_else(missing)?;
            Ok(Done::Incremented(value, result.version.ok_or_else(missing)?))
        }
        (Operation::Get { .. }, 200..=299) => {
            let treasure = result.treasure.ok_or_else(|| unreadable("a read without its treasure"))?;
            Ok(Done::Got(Some(from_body(treasure, stale)?)))
        }
        (Operation::Get { .. }, 404) => Ok(Done::Got(None)),
        _ => Err(refused(result)),
    }
}

fn refused(result: OpResultBody) -> Error {
    let code = ErrorCode::from_text(result.code.as_deref().unwrap_or_default());
    let detail = result.detail.unwrap_or_else(|| format!("the server answered {}", result.status));
    let applied = result.applied.as_deref().and_then(Applied::from_text).unwrap_or(Applied::Unknown);
    let mut error = hydra_core::Error::new(code, detail).with_applied(applied);
    if let Some(version) = result.current_version {
        error = error.with_current_version(version);
    }
    Error::from(error).about(format!("the treasure {:?}", result.key))
}

fn info_of(name: &SwampName, body: SwampInfoBody) -> SwampInfo {
    let copy_state = match body.copy.as_str() {
        "complete" => CopyState::Complete,
        "degraded" => CopyState::Degraded,
        _ => CopyState::Incomplete,
    };
    SwampInfo {
        name: name.clone(),
        folder: body.folder,
        count: body.count,
        bytes: body.bytes,
        files: body.files,
        dirty: body.dirty,
        copy_state,
        findings: body.findings,
        policy: body.policy,
        policy_from: body.policy_from,
        created_at: body.created_at,
    }
}
