//! The way back from a fallback: which folders stay with it, and when the primary has what it wrote.
//!
//! A fallback that takes a write in the primary's place notes the file it wrote to, and says
//! `Hydra-Takeover: <count>` in its answers until the notes are settled. A client that sees this stays
//! with the fallback for that folder, also when the primary is back: what was written meanwhile is
//! not there yet. While any folder stays, one task per primary looks for the way back:
//!
//! ```text
//! GET  fallback /v1/folders/F/takeover         which files, how long
//! POST primary  /v1/folders/F/holds            which of them are missing or shorter
//! POST fallback /v1/folders/F/takeover/settle  nothing is: forget the notes, unless a write came meanwhile
//! ```
//!
//! It begins when the primary has been up, and the folder away, for the hold-down. One question per
//! folder is under way at a time; after a "not yet" the next one waits for a random time below a
//! ceiling that doubles from a tenth of the hold-down up to the whole of it. Calls wait for none of this.
//!
//! Where writes never pause the primary always lacks the newest of them. So when it was seen twice in a row that copies
//! come within [`crate::Settings::failback_pause`], the fallback is asked to take no writes for that long:
//!
//! ```text
//! POST fallback /v1/folders/F/takeover/seal    no more writes, for a moment
//! GET, holds, settle as above                  the last of it has come
//! POST fallback /v1/folders/F/takeover/unseal  it has not: writes go on there
//! ```
//!
//! Writes that come meanwhile wait. Then the fallback sends them to the primary (`folder-returned`), and with them every
//! other client that still stays. One that cannot reach the primary says so, and the fallback takes its write.
//!
//! A folder also returns when the fallback goes down, because the primary is then all there is, and
//! when [`crate::Hydra::fail_back`] says so. Returning too early loses nothing: the files meet later,
//! and until then reads miss what is in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use hydra_core::wire::{
    HoldsBody, MissingBody, SealTakeoverBody, SealedTakeoverBody, SettleBody, TakeoverBody, TakeoverFileBody,
    UnsealTakeoverBody, folder_path, header,
};
use hydra_core::{FolderId, MAX_RETURN_PAUSE};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::Announce;
use crate::delay::Delays;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Answer;
use crate::probe::pause_between_probes;
use crate::request::Request;
use crate::server::{Duty, Server};
use crate::settings::{Failback, OpClass};

/// How many files the primary is asked about at once.
const FILES_AT_ONCE: usize = 1_000;
/// How many folders are led back at once.
const FOLDERS_AT_ONCE: usize = 16;
/// So often in a row the primary must have got in time what was listed: once may be chance.
const ROUNDS: usize = 2;
/// How soon the primary is asked again what it has got.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long writes wait where only three requests have to be answered meanwhile.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A folder that stays with a fallback because of what was written there in the primary's place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Staying {
    /// The folder.
    pub folder: FolderId,
    /// The id of the server that answers for it by the map.
    pub primary: String,
    /// The id of the server that is asked first for now.
    pub fallback: String,
}

/// What came of an attempt to settle a take-over; see [`crate::Hydra::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// How many files the fallback wrote to in the primary's place.
    pub files: usize,
    /// How many of them the primary lacks, or has only the beginning of.
    pub missing: usize,
    /// Whether nothing is left to settle. `false` with nothing missing: a write came meanwhile.
    pub settled: bool,
}

/// A folder whose writes wait at a fallback, so that it can return; see [`crate::Hydra::begin_return`]. Dropped, they wait
/// until the time is over.
#[derive(Debug)]
pub struct Returning {
    pub(crate) folder: FolderId,
    pub(crate) primary: String,
    pub(crate) fallback: String,
    pub(crate) seal: String,
}

impl Returning {
    /// The folder.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        self.folder
    }
}

/// The folders of one primary that stay with a fallback.
#[derive(Debug, Default)]
pub(crate) struct Stays {
    /// How many there are, so that calls lock nothing where there are none.
    count: AtomicUsize,
    by_folder: Mutex<HashMap<FolderId, Stay>>,
    is_watched: AtomicBool,
}

#[derive(Debug)]
struct Stay {
    /// Weak: two servers may hold folders of each other.
    holder: Weak<Server>,
    since: Instant,
    /// How many answers told of notes. A question that was under way meanwhile counts no longer.
    told: u64,
    delays: Delays,
    look_at: Instant,
}

/// A folder whose way back is to be looked for now.
#[derive(Debug)]
struct Due {
    folder: FolderId,
    holder: Arc<Server>,
    told: u64,
}

impl Stays {
    /// Whom a folder stays with; nobody if that server is not up any more, which ends the stay.
    pub(crate) fn holder_of(&self, folder: FolderId) -> Option<Arc<Server>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut stays = self.lock();
        let holder = stays.get(&folder)?.holder.upgrade().filter(|holder| holder.health.is_up());
        if holder.is_none() {
            self.remove(&mut stays, folder);
        }
        holder
    }

    /// Every folder that stays, with the id of its holder.
    pub(crate) fn all(&self) -> Vec<(FolderId, String)> {
        let stays = self.lock();
        let all = stays.iter().filter_map(|(&folder, stay)| Some((folder, stay.holder.upgrade()?.id().to_owned())));
        all.collect()
    }

    /// Every folder may return now, whatever the primary lacks.
    pub(crate) fn forget_all(&self) {
        let mut stays = self.lock();
        stays.clear();
        self.count.store(0, Ordering::Release);
    }

    /// A holder says that it has notes. Answers whether the stay begins with that.
    fn told(&self, folder: FolderId, holder: &Arc<Server>, primary: &Server) -> bool {
        let mut stays = self.lock();
        if let Some(stay) = stays.get_mut(&folder).filter(|stay| stay.holder.ptr_eq(&Arc::downgrade(holder))) {
            stay.told += 1;
            return false;
        }
        let settings = primary.settings();
        let now = Instant::now();
        let stay = Stay {
            holder: Arc::downgrade(holder),
            since: now,
            told: 0,
            delays: Delays::between(pause_between_probes(settings), settings.hold_down),
            look_at: now + settings.hold_down,
        };
        stays.insert(folder, stay);
        self.count.store(stays.len(), Ordering::Release);
        true
    }

    /// The holder says nothing of notes any more: somebody else may have settled them.
    fn silent(&self, folder: FolderId, primary: &Server) {
        if let Some(stay) = self.lock().get_mut(&folder) {
            stay.look_at = stay.look_at.min((stay.since + primary.settings().hold_down).max(Instant::now()));
        }
    }

    /// The folders to ask about now.
    fn due(&self) -> Vec<Due> {
        let now = Instant::now();
        let mut stays = self.lock();
        let due = stays.iter_mut().filter(|(_, stay)| stay.look_at <= now).filter_map(|(&folder, stay)| {
            stay.look_at = now + stay.delays.next();
            Some(Due { folder, holder: stay.holder.upgrade()?, told: stay.told })
        });
        due.collect()
    }

    /// The holder itself says that the primary has everything.
    pub(crate) fn returned(&self, folder: FolderId) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.remove(&mut self.lock(), folder);
        }
    }

    /// Ends a stay, unless the holder has told of notes since the question was put.
    fn end(&self, due: &Due) -> bool {
        let mut stays = self.lock();
        let is_same = stays.get(&due.folder).is_some_and(|stay| stay.told == due.told);
        if is_same {
            self.remove(&mut stays, due.folder);
        }
        is_same
    }

    fn remove(&self, stays: &mut HashMap<FolderId, Stay>, folder: FolderId) {
        stays.remove(&folder);
        self.count.store(stays.len(), Ordering::Release);
    }

    /// The table is whole after every line that changes it, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> MutexGuard<'_, HashMap<FolderId, Stay>> {
        self.by_folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Heeds what a fallback says, in an answer about a folder, about writes it took in the primary's place.
pub(crate) fn heed(primary: &Arc<Server>, holder: &Arc<Server>, folder: FolderId, answer: &Answer) {
    let is_about_folder = answer.header(header::FOLDER).is_some();
    // Nobody stays with a fallback that is not trusted yet itself.
    if primary.settings().failback == Failback::AfterHoldDown || !is_about_folder || !holder.health.is_up() {
        return;
    }
    let stays = &primary.stays;
    if answer.header(header::TAKEOVER).and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0) {
        if stays.told(folder, holder, primary) {
            tracing::info!(%folder, primary = primary.label(), fallback = holder.label(),
                "the fallback took writes of this folder; calls stay with it until the primary has them");
        }
    } else if stays.count.load(Ordering::Acquire) > 0 {
        stays.silent(folder, primary);
    } else {
        return;
    }
    if primary.settings().failback == Failback::WhenSynced
        && let Some(duty) = Duty::take(primary, |primary| &primary.stays.is_watched)
    {
        tokio::spawn(watch(Arc::downgrade(primary), duty));
    }
}

/// Looks for the way back while any folder stays. Ends when no client is left that knows the primary.
async fn watch(primary: Weak<Server>, _duty: Duty) {
    loop {
        let Some(pause) = primary.upgrade().map(|primary| pause_between_probes(primary.settings())) else { return };
        tokio::time::sleep(pause).await;
        let Some(primary) = &primary.upgrade() else { return };
        if primary.health.is_up() {
            let due = stream::iter(primary.stays.due());
            due.for_each_concurrent(FOLDERS_AT_ONCE, |due| async move { look(primary, &due).await }).await;
        }
        if primary.stays.count.load(Ordering::Acquire) == 0 {
            // A stay that begins right now finds no watch with its next answer, and starts one.
            return;
        }
    }
}

/// Looks once for the way back of a folder, and lets it return.
async fn look(primary: &Server, due: &Due) {
    let announce = Announce { folders: None, pool: Some(primary.pool()) };
    let (folder, fallback) = (due.folder, due.holder.label());
    let way = Way { fallback: &due.holder, primary, folder, announce };
    match way.lead_back().await {
        Ok(settlement) if settlement.settled => {
            if primary.stays.end(due) {
                tracing::info!(%folder, primary = primary.label(), fallback, "the folder returns to its primary");
            }
        }
        Ok(Settlement { missing, .. }) => {
            tracing::debug!(%folder, primary = primary.label(), fallback, missing, "the primary lacks files");
        }
        Err(error) => tracing::debug!(%folder, fallback, %error, "the way back could not be looked for"),
    }
}

/// The way of one folder from a fallback back to its primary.
#[derive(Debug)]
pub(crate) struct Way<'s> {
    pub(crate) fallback: &'s Server,
    pub(crate) primary: &'s Server,
    pub(crate) folder: FolderId,
    pub(crate) announce: Announce<'s>,
}

impl Way<'_> {
    /// Settles when the primary has everything; lets writes wait for that where copies come often enough.
    async fn lead_back(&self) -> Result<Settlement> {
        let pause = self.pause();
        for _ in 0..ROUNDS {
            let listed = self.listed().await?;
            let missing = self.lacking_after(&listed.files, pause).await?;
            if listed.count == 0 || missing > 0 {
                return Ok(Settlement { files: listed.files.len(), missing, settled: listed.count == 0 });
            }
        }
        self.settle_within(pause).await
    }

    /// Settles if the primary has everything now. Writes wait no longer than it takes to find out.
    pub(crate) async fn settle(&self) -> Result<Settlement> {
        let listed = self.listed().await?;
        let missing = self.lacking(&listed.files).await?.len();
        if listed.count == 0 || missing > 0 {
            return Ok(Settlement { files: listed.files.len(), missing, settled: listed.count == 0 });
        }
        self.settle_within(Duration::ZERO).await
    }

    /// Lets writes wait, for so long at most that the primary gets what it lacks, and settles.
    async fn settle_within(&self, pause: Duration) -> Result<Settlement> {
        let until = Instant::now() + pause;
        let seal = self.seal(pause.max(SHORTEST_PAUSE)).await?;
        let settled = self.settle_under(seal.as_deref(), until).await;
        if let Some(seal) = seal.filter(|_| !settled.as_ref().is_ok_and(|found| found.settled)) {
            self.unseal(&seal).await;
        }
        settled
    }

    /// Settles what was written until a seal, when the primary has it. Without one a write that comes meanwhile is in the
    /// way.
    pub(crate) async fn settle_under(&self, seal: Option<&str>, until: Instant) -> Result<Settlement> {
        let listed = self.listed().await?;
        let patience = until.saturating_duration_since(Instant::now());
        let missing = self.lacking_after(&listed.files, if seal.is_some() { patience } else { Duration::ZERO }).await?;
        let mut settlement = Settlement { files: listed.files.len(), missing, settled: false };
        if missing > 0 {
            return Ok(settlement);
        }
        let body = SettleBody { version: listed.version, seal: seal.map(str::to_owned) };
        let answer = self.post(self.fallback, "takeover/settle", &body).await?;
        match answer.status {
            200..=299 => settlement.settled = true,
            409 | 412 => {}
            _ => return Err(answer.to_error()),
        }
        Ok(settlement)
    }

    /// What the fallback wrote.
    async fn listed(&self) -> Result<TakeoverBody> {
        let asked = Request::new(OpClass::Read, Method::GET, folder_path(self.folder, "takeover"));
        read(&self.fallback.ask(&asked, None, self.announce).await?)
    }

    /// Which of these files the primary has not, or not all of.
    async fn lacking(&self, files: &[TakeoverFileBody]) -> Result<Vec<TakeoverFileBody>> {
        let mut lacking = Vec::new();
        for files in files.chunks(FILES_AT_ONCE) {
            let answer = self.post(self.primary, "holds", &HoldsBody { files: files.to_vec() }).await?;
            let missing = read::<MissingBody>(&answer)?.missing.into_iter();
            lacking.extend(missing.map(|file| TakeoverFileBody {
                swamp: file.swamp,
                file: file.file,
                bytes: file.bytes,
            }));
        }
        Ok(lacking)
    }

    /// How many of these files the primary lacks when it was given so much time to get them.
    async fn lacking_after(&self, files: &[TakeoverFileBody], patience: Duration) -> Result<usize> {
        let until = Instant::now() + patience;
        let mut lacking = self.lacking(files).await?;
        while !lacking.is_empty() && Instant::now() + LOOK_AGAIN < until {
            tokio::time::sleep(LOOK_AGAIN).await;
            lacking = self.lacking(&lacking).await?;
        }
        Ok(lacking.len())
    }

    /// How long writes may wait. Calls that wait end in time.
    fn pause(&self) -> Duration {
        let settings = self.primary.settings();
        settings.failback_pause.min(settings.deadline / 2).min(MAX_RETURN_PAUSE)
    }

    /// Lets writes at the fallback wait; nothing where they do so for somebody else, did a moment ago, or never shall.
    pub(crate) async fn seal(&self, pause: Duration) -> Result<Option<String>> {
        if self.primary.settings().failback_pause.is_zero() {
            return Ok(None);
        }
        let lease_ms = u64::try_from(pause.min(MAX_RETURN_PAUSE).as_millis()).unwrap_or(u64::MAX);
        let answer = self.post(self.fallback, "takeover/seal", &SealTakeoverBody { lease_ms }).await?;
        match answer.status {
            409 => Ok(None),
            _ => read::<SealedTakeoverBody>(&answer).map(|sealed| Some(sealed.seal)),
        }
    }

    /// Lets writes go on. If that is not heard, the seal ends by itself.
    pub(crate) async fn unseal(&self, seal: &str) {
        let body = UnsealTakeoverBody { seal: seal.to_owned() };
        if let Err(error) = self.post(self.fallback, "takeover/unseal", &body).await {
            tracing::debug!(folder = %self.folder, fallback = self.fallback.label(), %error, "a seal is left to its end");
        }
    }

    async fn post(&self, server: &Server, verb: &str, body: &impl Serialize) -> Result<Answer> {
        server.ask(&with_body(folder_path(self.folder, verb), body)?, None, self.announce).await
    }
}

fn with_body(target: String, body: &impl Serialize) -> Result<Request> {
    let bytes = serde_json::to_vec(body)
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("the request cannot be written as JSON: {error}")))?;
    Ok(Request::new(OpClass::Read, Method::POST, target).body("application/json", bytes))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    if !answer.is_success() {
        return Err(answer.to_error());
    }
    serde_json::from_slice(answer.bytes()).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("the server's answer about a take-over is not understood: {error}"))
    })
}
