//! Batches across swamps: each operation to the server that answers for its swamp, the results back in order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderValue, StatusCode};
use hydra_core::wire::{BatchBody, BatchResultBody, OpBody, OpResultBody, Problem, header, read_object, swamp_path};
use hydra_core::{Error, ErrorCode, FolderId, MAX_BATCH_OPS, SwampName};
use hydra_sdk::{ClientMap, ForwardRequest, OpClass};

use crate::across::is_elsewhere;
use crate::answer::{self, Refusal, Response};
use crate::body::{RequestBody, is_gzip};
use crate::classify::class_of_batch;
use crate::config::MAX_BATCH_BODY_BYTES;
use crate::forward::{request_to_read, whole};
use crate::gateway::{Gateway, Head, no_conditions};

/// How many servers or folders are asked at a time.
const AT_ONCE: usize = 16;
/// How long folders on their way from one server to another are followed.
const FOLLOWED: Duration = Duration::from_secs(4);

/// Takes a batch apart, and answers 200 with a result for each operation once it could be read. A server that was not
/// reached fails only what is its own.
pub(crate) async fn batch(gateway: &Gateway, head: &Head, body: RequestBody) -> Result<Response, Refusal> {
    no_conditions(&head.parts)?;
    if is_gzip(&head.parts.headers)? {
        let detail = "Content-Encoding gzip is not supported here; send the bytes as they are";
        return Err(Error::new(ErrorCode::UnsupportedMediaType, detail).into());
    }
    // The permit is held until the answer is made.
    let (bytes, _room) = body.keep(MAX_BATCH_BODY_BYTES, &gateway.kept).await?;
    let split = Split::of(&gateway.map(), read(&bytes)?);
    let mut requests = Vec::with_capacity(split.groups.len());
    for group in &split.groups {
        requests.push((group.name.clone(), group.request(gateway, head)?));
    }
    let asked: Vec<_> = requests.into_iter().map(|(name, request)| ask(gateway, name, request)).collect();
    let mut said: Vec<Said> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    follow(gateway, head, &split, &mut said).await?;
    // Only who wrote says whether it is on disk, and whether it was before.
    let writes: Vec<(bool, bool)> = said.iter().filter_map(|said| said.written).collect();
    let mut response = answer::json(StatusCode::OK, &split.answer(said))?;
    if !writes.is_empty() {
        let durable = if writes.iter().all(|(synced, _)| *synced) { "synced" } else { "buffered" };
        response.headers_mut().insert(header::DURABLE, HeaderValue::from_static(durable));
        if writes.iter().all(|(_, replayed)| *replayed) {
            response.headers_mut().insert(header::REPLAYED, HeaderValue::from_static("true"));
        }
    }
    Ok(response)
}

/// Sends operations again whose folder is on another server than the map says, or on its way there.
///
/// In an answer about many nobody says where a folder is. Asked about one swamp alone a server does, and the client
/// follows that and remembers it. A folder that is sealed is waited for.
async fn follow(gateway: &Gateway, head: &Head, split: &Split, said: &mut [Said]) -> Result<(), Refusal> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let swamps = elsewhere(split, said);
        if swamps.is_empty() || begun.elapsed() > FOLLOWED {
            return Ok(());
        }
        for (name, places) in swamps {
            let mut looking = request_to_read(gateway, head, OpClass::Read)?;
            (looking.method, looking.target) = ("GET".to_owned(), swamp_path(&name));
            // What it answers does not matter.
            drop(gateway.hydra.forward(&name, looking).await);
            let ops = places.iter().map(|&(group, at)| split.groups[group].ops[at].clone()).collect();
            let request = Group { name: name.clone(), ops }.request(gateway, head)?;
            let Said { results, written } = ask(gateway, name, request).await;
            let Ok(results) = results else { continue };
            for ((group, at), result) in places.into_iter().zip(results) {
                said[group].written = said[group].written.or(written);
                if let Ok(known) = &mut said[group].results
                    && let Some(place) = known.get_mut(at)
                {
                    *place = result;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(320));
    }
}

/// By swamp the operations that were refused for where their folder is, and not carried out: their groups, and their
/// places in those.
fn elsewhere(split: &Split, said: &[Said]) -> Vec<(SwampName, Vec<(usize, usize)>)> {
    let mut swamps: Vec<(SwampName, Vec<(usize, usize)>)> = Vec::new();
    for (group, said) in said.iter().enumerate() {
        for (at, result) in said.results.iter().flatten().enumerate() {
            let code = result.code.as_deref().map(ErrorCode::from_text);
            if !code.is_some_and(is_elsewhere) || result.applied.as_deref() != Some("no") {
                continue;
            }
            let Some(Ok(name)) = split.groups[group].ops.get(at).map(name_of) else { continue };
            match swamps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, places)) => places.push((group, at)),
                None => swamps.push((name, vec![(group, at)])),
            }
        }
    }
    swamps
}

/// The operations, with the same refusals as a server has.
fn read(bytes: &Bytes) -> Result<Vec<OpBody>, Error> {
    let form = r#"{"ops":[{"op":"put","swamp":"a/b/c","key":"k","value":1}]}"#;
    let body: BatchBody = read_object(bytes, "the batch", form)?;
    if body.atomic {
        return Err(Error::new(
            ErrorCode::InvalidBody,
            "the member atomic is true; nothing can be atomic across swamps",
        )
        .with_hint("send a batch that is to be atomic to its swamp: POST /v1/swamps/{S}/batch"));
    }
    if body.ops.len() > MAX_BATCH_OPS {
        let detail = format!("the batch has {} operations; {MAX_BATCH_OPS} are allowed", body.ops.len());
        return Err(Error::new(ErrorCode::BatchTooLarge, detail));
    }
    Ok(body.ops)
}

/// What one server is asked.
struct Group {
    /// The first of its swamps: all have the same route.
    name: SwampName,
    ops: Vec<OpBody>,
}

impl Group {
    fn request(&self, gateway: &Gateway, head: &Head) -> Result<ForwardRequest, Refusal> {
        let bytes = serde_json::to_vec(&serde_json::json!({ "ops": self.ops }))
            .map_err(|error| Error::new(ErrorCode::Internal, format!("the batch cannot be written: {error}")))?;
        let mut request = request_to_read(gateway, head, class_of_batch(&bytes))?;
        request.body = whole(bytes.into());
        Ok(request)
    }
}

/// One operation of the request: in which group its result stands, or what is wrong with it.
struct Item {
    swamp: String,
    key: String,
    place: Result<usize, Error>,
}

struct Split {
    items: Vec<Item>,
    groups: Vec<Group>,
}

impl Split {
    /// A server nobody stands in for gets one request; where a fallback may take over, it does so folder by folder, and
    /// each folder gets its own.
    fn of(map: &ClientMap, ops: Vec<OpBody>) -> Split {
        let mut split = Split { items: Vec::with_capacity(ops.len()), groups: Vec::new() };
        let mut places: HashMap<(String, Option<FolderId>), usize> = HashMap::new();
        for op in ops {
            let (swamp, key) = (op.swamp.clone().unwrap_or_default(), op.key.clone());
            let place = name_of(&op).map(|name| {
                let route = map.route(&name);
                let folder = route.fallbacks().next().map(|_| route.folder());
                let place = *places
                    .entry((format!("{}/{}", route.pool(), route.primary().id), folder))
                    .or_insert(split.groups.len());
                if place == split.groups.len() {
                    split.groups.push(Group { name, ops: Vec::new() });
                }
                split.groups[place].ops.push(op);
                place
            });
            split.items.push(Item { swamp, key, place });
        }
        split
    }

    /// The results in the order of the request.
    fn answer(self, said: Vec<Said>) -> BatchResultBody {
        let mut said: Vec<_> = said.into_iter().map(|said| said.results.map(Vec::into_iter)).collect();
        let results: Vec<OpResultBody> = self
            .items
            .into_iter()
            .map(|item| {
                let result = item.place.and_then(|place| match &mut said[place] {
                    Ok(results) => results.next().ok_or_else(unanswered),
                    Err(error) => Err(error.clone()),
                });
                result.unwrap_or_else(|error| failed(item.swamp, item.key, &error))
            })
            .collect();
        let ok = results.iter().filter(|result| result.status < 400).count();
        BatchResultBody { ok, failed: results.len() - ok, results }
    }
}

fn name_of(op: &OpBody) -> Result<SwampName, Error> {
    let missing = || Error::new(ErrorCode::InvalidBody, "the member swamp is missing");
    op.swamp.as_deref().ok_or_else(missing)?.parse()
}

fn unanswered() -> Error {
    Error::new(ErrorCode::ServerUnreachable, "the server answered with another number of results")
        .with_applied(hydra_core::Applied::Unknown)
}

fn failed(swamp: String, key: String, error: &Error) -> OpResultBody {
    OpResultBody {
        status: error.code().status(),
        swamp: Some(swamp),
        key,
        version: None,
        created: None,
        existed: None,
        value: None,
        treasure: None,
        code: Some(error.code().as_str().to_owned()),
        detail: Some(error.to_string()),
        applied: Some(error.applied().as_str().to_owned()),
        current_version: error.current_version().copied(),
    }
}

/// What one server said.
struct Said {
    results: Result<Vec<OpResultBody>, Error>,
    /// Where it wrote something: whether that is on disk, and whether it was done before.
    written: Option<(bool, bool)>,
}

async fn ask(gateway: &Gateway, name: SwampName, request: ForwardRequest) -> Said {
    let is_write = request.class.is_write();
    let answer = match gateway.hydra.forward(&name, request).await {
        Ok(answer) => answer,
        Err(error) => {
            gateway.metrics.unanswered();
            return Said { results: Err(Refusal::of_call(&error).error), written: None };
        }
    };
    if answer.fell_back {
        gateway.metrics.fell_back();
    }
    let is_replayed = answer.header(header::REPLAYED) == Some("true");
    let written = answer.header(header::DURABLE).map(|durable| (durable == "synced", is_replayed));
    let status = answer.status;
    let body = answer.body.collect().await;
    let results = match (status, &body) {
        (200, Ok(bytes)) => serde_json::from_slice::<BatchResultBody>(bytes).map(|body| body.results).ok(),
        _ => None,
    };
    let refusal = || {
        let told = body.as_ref().ok().and_then(|bytes| serde_json::from_slice::<Problem>(bytes).ok());
        told.map(|problem| problem.to_error()).unwrap_or_else(|| {
            let applied = if is_write { hydra_core::Applied::Unknown } else { hydra_core::Applied::No };
            let detail = format!("the answer {status} of the server broke off or is not understood");
            Error::new(ErrorCode::ServerUnreachable, detail).with_applied(applied)
        })
    };
    Said { results: results.ok_or_else(refusal), written }
}
