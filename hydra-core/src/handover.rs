//! What a server is to a folder, and how that changes while the folder moves to another server. Pure.
//!
//! A folder that moves is *fenced* on the fallbacks, *importing* on the target, *sealed* and then *moved* on the
//! source, and at last *owned* by the target. Every step is a compare-and-set and may be asked for again. Two
//! things keep it from ever having two owners: `moved` is for good, and the target begins to serve only with the
//! token that the source gives away once `moved` is on its disk. A seal is kept in memory alone and runs out, so
//! a source or a tool that dies leaves the folder writable; the token dies with the seal.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, ErrorCode};
use crate::folder::FolderId;

/// What a server is to a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FolderState {
    /// It serves reads and writes.
    Owned {
        /// Since which epoch of the map; 0 where no move made it so.
        epoch: u64,
    },
    /// It keeps a copy: it serves reads, and writes of clients that cannot reach the owner.
    Standby {
        /// The owner, where a move has told it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        /// Since which epoch; 0 where no move made it so.
        epoch: u64,
    },
    /// It keeps a copy and serves reads alone: the folder is on its way to another server.
    Fenced {
        /// The epoch in which the folder gets its new owner.
        epoch: u64,
        /// The new owner.
        to: String,
    },
    /// The folder is coming here and serves nothing yet.
    Importing {
        /// The epoch in which this server becomes the owner.
        epoch: u64,
        /// The owner until then.
        from: String,
    },
    /// The folder has left; what is still here is never served again.
    Moved {
        /// The epoch of the new owner.
        epoch: u64,
        /// The new owner.
        to: String,
        /// What the new owner begins to serve with.
        token: String,
    },
    /// The folder is not here.
    Absent,
}

impl FolderState {
    /// `owned`, `standby`, `fenced`, `importing`, `moved` or `absent`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            FolderState::Owned { .. } => "owned",
            FolderState::Standby { .. } => "standby",
            FolderState::Fenced { .. } => "fenced",
            FolderState::Importing { .. } => "importing",
            FolderState::Moved { .. } => "moved",
            FolderState::Absent => "absent",
        }
    }

    /// The epoch in which it came to be so; 0 where no move made it so.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match self {
            FolderState::Owned { epoch }
            | FolderState::Standby { epoch, .. }
            | FolderState::Fenced { epoch, .. }
            | FolderState::Importing { epoch, .. }
            | FolderState::Moved { epoch, .. } => *epoch,
            FolderState::Absent => 0,
        }
    }

    /// Whether files of the folder may be here.
    #[must_use]
    pub fn has_files(&self) -> bool {
        !matches!(self, FolderState::Absent)
    }

    /// Whether reads are served.
    #[must_use]
    pub fn serves_reads(&self) -> bool {
        matches!(self, FolderState::Owned { .. } | FolderState::Standby { .. } | FolderState::Fenced { .. })
    }

    /// Whether a copy is kept here while another server owns the folder.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        matches!(self, FolderState::Standby { .. } | FolderState::Fenced { .. })
    }

    /// Where the folder is served instead, as far as this server knows.
    #[must_use]
    pub fn elsewhere(&self) -> Option<MovedTo> {
        let (server, epoch, token) = match self {
            FolderState::Standby { of, epoch } => (of.as_ref()?, *epoch, None),
            FolderState::Fenced { epoch, to } => (to, *epoch, None),
            FolderState::Importing { epoch, from } => (from, epoch.saturating_sub(1), None),
            FolderState::Moved { epoch, to, token } => (to, *epoch, Some(token.clone())),
            FolderState::Owned { .. } | FolderState::Absent => return None,
        };
        Some(MovedTo { server: server.clone(), epoch, token })
    }
}

/// Where a folder is served instead: what a refusal tells the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovedTo {
    /// The id of that server.
    pub server: String,
    /// Since which epoch.
    pub epoch: u64,
    /// What it begins to serve with, should it wait for that.
    pub token: Option<String>,
}

/// What a folder that serves nobody else's writes is held with, until it is given back, runs out or is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Names this seal and no other.
    pub(crate) id: String,
    /// The epoch in which the folder gets its new owner.
    pub(crate) epoch: u64,
    pub(crate) to: String,
    /// Known to nobody else before `moved` is durable.
    pub(crate) token: String,
    /// Stands for exactly the files that were here after the last write.
    pub(crate) manifest: Option<String>,
    /// When it runs out.
    pub(crate) until: Instant,
    /// `moved` may be on disk already: neither runs out nor can be given back before that is known.
    pub(crate) is_committing: bool,
}

impl Seal {
    /// Whether it has run out.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        !self.is_committing && now >= self.until
    }
}

/// A moment in which a copy takes no writes in its owner's place, so that its folder can return. In memory alone, and
/// over by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lull {
    /// Names this one and no other.
    pub(crate) id: String,
    pub(crate) begun: Instant,
    /// When it ends, or has ended.
    pub(crate) until: Instant,
    /// Writes wait. Stays so beyond the end until somebody notices.
    pub(crate) is_on: bool,
    /// The owner has everything: until then writes go there first.
    pub(crate) returned: Option<Instant>,
}

impl Lull {
    /// So many times its own length passes before there is another one.
    const REST: u32 = 4;

    pub(crate) fn new(id: String, now: Instant, length: Duration) -> Lull {
        Lull { id, begun: now, until: now + length, is_on: true, returned: None }
    }

    /// Whether its time has run out, and nobody has noticed.
    pub(crate) fn has_run_out(&self, now: Instant) -> bool {
        self.is_on && now >= self.until
    }

    fn holds(&self, now: Instant) -> bool {
        self.is_on && now < self.until
    }

    fn next(&self) -> Instant {
        self.until + self.until.saturating_duration_since(self.begun) * Lull::REST
    }

    pub(crate) fn end(&mut self, now: Instant) {
        self.is_on = false;
        self.until = self.until.min(now);
    }
}

/// What the target has verified: which files, and what the token must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Ready {
    pub(crate) manifest: String,
    pub(crate) token_hash: String,
}

/// One folder of one server: its state, what it goes back to, and what is known in the midst of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) state: FolderState,
    /// What a fence or an import that is given up goes back to.
    pub(crate) before: Option<FolderState>,
    /// While it is importing.
    pub(crate) ready: Option<Ready>,
    /// While it is owned; never durable.
    pub(crate) seal: Option<Seal>,
    /// While it is a copy; never durable. Stays for as long as the next one has to wait.
    pub(crate) lull: Option<Lull>,
}

/// Why a step is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The step begins in another state.
    State { is: FolderState, needs: &'static str },
    /// The folder has seen an epoch that is as young.
    Epoch { known: u64, asked: u64 },
    /// This server wrote in place of the owner, and nobody has settled that.
    Unsettled,
    /// The seal is another one, has run out or was given back.
    Seal,
    /// Another move holds the seal.
    SealedFor { to: String, epoch: u64 },
    /// The seal is being used up.
    Committing,
    /// The writes of the copy wait already, or have waited a moment ago.
    Lull { again: Duration },
    /// The files are not those of the manifest.
    Manifest,
    /// Nothing was verified.
    NotReady,
    /// The token is another one.
    Token,
}

/// What a token hashes to: the target knows that before it may know the token.
pub(crate) fn token_hash(token: &str) -> String {
    format!("{:032x}", xxh3_128(token.as_bytes()))
}

impl Tenure {
    pub(crate) fn new(state: FolderState) -> Tenure {
        Tenure { state, before: None, ready: None, seal: None, lull: None }
    }

    /// Whether what writes wait for has run out, and nobody has noticed.
    pub(crate) fn has_run_out(&self, now: Instant) -> bool {
        let seal = self.seal.as_ref().is_some_and(|seal| seal.is_over(now));
        seal || self.lull.as_ref().is_some_and(|lull| lull.has_run_out(now))
    }

    fn refuse(&self, needs: &'static str) -> Refusal {
        Refusal::State { is: self.state.clone(), needs }
    }

    fn newer(&self, asked: u64) -> Result<(), Refusal> {
        let known = self.state.epoch();
        if asked > known { Ok(()) } else { Err(Refusal::Epoch { known, asked }) }
    }

    fn becomes(&self, state: FolderState) -> Tenure {
        Tenure { before: Some(self.state.clone()), ..Tenure::new(state) }
    }

    /// A fallback takes no more writes: the folder is about to move. Refused where it has taken some over.
    pub(crate) fn fence(&self, epoch: u64, to: &str, has_takeover: bool) -> Result<Tenure, Refusal> {
        let fenced = FolderState::Fenced { epoch, to: to.to_owned() };
        match &self.state {
            state if *state == fenced => Ok(self.clone()),
            FolderState::Standby { .. } => {
                self.newer(epoch)?;
                if has_takeover { Err(Refusal::Unsettled) } else { Ok(self.becomes(fenced)) }
            }
            _ => Err(self.refuse("standby")),
        }
    }

    /// A fallback takes writes again: of the owner it had, or of the one the folder moved to.
    pub(crate) fn unfence(&self, epoch: u64, of: Option<&str>) -> Result<Tenure, Refusal> {
        match &self.state {
            FolderState::Fenced { epoch: fenced, .. } if *fenced == epoch => Ok(Tenure::new(match of {
                Some(owner) => FolderState::Standby { of: Some(owner.to_owned()), epoch },
                None => self.before.clone().unwrap_or(FolderState::Standby { of: None, epoch: 0 }),
            })),
            FolderState::Standby { .. } => Ok(self.clone()),
            FolderState::Fenced { epoch: known, .. } => Err(Refusal::Epoch { known: *known, asked: epoch }),
            _ => Err(self.refuse("fenced")),
        }
    }

    /// The folder begins to come here.
    pub(crate) fn import(&self, epoch: u64, from: &str, has_takeover: bool) -> Result<Tenure, Refusal> {
        let importing = FolderState::Importing { epoch, from: from.to_owned() };
        match &self.state {
            state if *state == importing => Ok(self.clone()),
            FolderState::Absent | FolderState::Standby { .. } | FolderState::Moved { .. } => {
                self.newer(epoch)?;
                if has_takeover { Err(Refusal::Unsettled) } else { Ok(self.becomes(importing)) }
            }
            _ => Err(self.refuse("absent, standby or moved")),
        }
    }

    /// The owner takes no writes for a moment. The same move may seal again: its older seal is void then.
    pub(crate) fn seal(&self, seal: Seal, now: Instant) -> Result<Tenure, Refusal> {
        let FolderState::Owned { .. } = &self.state else { return Err(self.refuse("owned")) };
        self.newer(seal.epoch)?;
        match self.seal.as_ref().filter(|held| !held.is_over(now)) {
            Some(held) if held.is_committing => Err(Refusal::Committing),
            Some(held) if (held.epoch, &held.to) != (seal.epoch, &seal.to) => {
                Err(Refusal::SealedFor { to: held.to.clone(), epoch: held.epoch })
            }
            _ => Ok(Tenure { seal: Some(seal), ..self.clone() }),
        }
    }

    /// The seal, if it is this one and holds.
    pub(crate) fn held(&self, id: &str, now: Instant) -> Result<&Seal, Refusal> {
        let FolderState::Owned { .. } = &self.state else { return Err(self.refuse("owned")) };
        self.seal.as_ref().filter(|seal| seal.id == id && !seal.is_over(now)).ok_or(Refusal::Seal)
    }

    /// The seal holds for longer.
    pub(crate) fn renew(&self, id: &str, until: Instant, now: Instant) -> Result<Tenure, Refusal> {
        let seal = Seal { until, ..self.held(id, now)?.clone() };
        Ok(Tenure { seal: Some(seal), ..self.clone() })
    }

    /// What is to be copied under this seal is known.
    pub(crate) fn note_manifest(&self, id: &str, manifest: &str, now: Instant) -> Result<Tenure, Refusal> {
        let seal = Seal { manifest: Some(manifest.to_owned()), ..self.held(id, now)?.clone() };
        Ok(Tenure { seal: Some(seal), ..self.clone() })
    }

    /// The owner takes writes again. Without an id whatever seal there is goes.
    pub(crate) fn unseal(&self, id: Option<&str>) -> Result<Tenure, Refusal> {
        let FolderState::Owned { .. } = &self.state else { return Err(self.refuse("owned")) };
        match &self.seal {
            Some(seal) if id.is_some_and(|id| id != seal.id) => Err(Refusal::Seal),
            _ => Ok(Tenure { seal: None, ..self.clone() }),
        }
    }

    /// The writes of a copy wait for a moment. One at a time, and not again soon after.
    pub(crate) fn begin_lull(&self, lull: Lull, now: Instant) -> Result<Tenure, Refusal> {
        let FolderState::Standby { .. } = &self.state else { return Err(self.refuse("standby")) };
        match &self.lull {
            Some(before) if now < before.next() => Err(Refusal::Lull { again: before.next() - now }),
            _ => Ok(Tenure { lull: Some(lull), ..self.clone() }),
        }
    }

    /// Writes wait until then and no longer, if this is the moment and it is not over.
    pub(crate) fn set_lull(&self, id: &str, until: Instant, now: Instant) -> Result<Tenure, Refusal> {
        let FolderState::Standby { .. } = &self.state else { return Err(self.refuse("standby")) };
        let held = self.lull.as_ref().filter(|lull| lull.id == id && lull.holds(now)).ok_or(Refusal::Seal)?;
        let mut lull = Lull { until, ..held.clone() };
        if until <= now {
            lull.end(now);
        }
        Ok(Tenure { lull: Some(lull), ..self.clone() })
    }

    /// The copy has nothing that its owner lacks: writes go there, until `returned` at least by way of it.
    pub(crate) fn has_returned(&self, id: &str, returned: Instant, now: Instant) -> Result<Tenure, Refusal> {
        let mut tenure = self.set_lull(id, now, now)?;
        tenure.lull.iter_mut().for_each(|lull| lull.returned = Some(returned));
        Ok(tenure)
    }

    /// The seal is about to be used up.
    pub(crate) fn begin_commit(&self, id: &str, manifest: &str, now: Instant) -> Result<Tenure, Refusal> {
        let seal = self.held(id, now)?;
        if seal.manifest.as_deref() != Some(manifest) {
            return Err(Refusal::Manifest);
        }
        let seal = Seal { is_committing: true, ..seal.clone() };
        Ok(Tenure { seal: Some(seal), ..self.clone() })
    }

    /// The folder leaves for good, with the token of the seal that is being used up.
    pub(crate) fn commit(&self) -> Result<Tenure, Refusal> {
        match &self.seal {
            Some(Seal { is_committing: true, epoch, to, token, .. }) => {
                Ok(Tenure::new(FolderState::Moved { epoch: *epoch, to: to.clone(), token: token.clone() }))
            }
            _ => Err(Refusal::Seal),
        }
    }

    /// Whether this very move was committed before.
    pub(crate) fn is_moved(&self, wanted: u64, target: &str) -> bool {
        matches!(&self.state, FolderState::Moved { epoch, to, .. } if *epoch == wanted && to == target)
    }

    /// All files of the manifest are here.
    pub(crate) fn ready(&self, epoch: u64, ready: Ready) -> Result<Tenure, Refusal> {
        match &self.state {
            FolderState::Importing { epoch: known, .. } if *known == epoch => {
                Ok(Tenure { ready: Some(ready), ..self.clone() })
            }
            FolderState::Importing { epoch: known, .. } => Err(Refusal::Epoch { known: *known, asked: epoch }),
            _ => Err(self.refuse("importing")),
        }
    }

    /// The folder is served here from now on: whoever has the token knows that the source does so no more.
    pub(crate) fn activate(&self, epoch: u64, token: &str) -> Result<Tenure, Refusal> {
        match (&self.state, &self.ready) {
            (FolderState::Owned { epoch: known }, _) if *known == epoch => Ok(self.clone()),
            (FolderState::Importing { epoch: known, .. }, _) if *known != epoch => {
                Err(Refusal::Epoch { known: *known, asked: epoch })
            }
            (FolderState::Importing { .. }, None) => Err(Refusal::NotReady),
            (FolderState::Importing { .. }, Some(ready)) if ready.token_hash != token_hash(token) => {
                Err(Refusal::Token)
            }
            (FolderState::Importing { .. }, Some(_)) => Ok(Tenure::new(FolderState::Owned { epoch })),
            _ => Err(self.refuse("importing")),
        }
    }

    /// The folder does not come here after all.
    pub(crate) fn abort(&self, epoch: u64) -> Result<Tenure, Refusal> {
        match &self.state {
            FolderState::Importing { epoch: known, .. } if *known == epoch => {
                Ok(Tenure::new(self.before.clone().unwrap_or(FolderState::Absent)))
            }
            FolderState::Importing { epoch: known, .. } => Err(Refusal::Epoch { known: *known, asked: epoch }),
            FolderState::Absent | FolderState::Standby { .. } => Ok(self.clone()),
            FolderState::Moved { epoch: known, .. } if *known < epoch => Ok(self.clone()),
            _ => Err(self.refuse("importing")),
        }
    }

    /// A copy becomes the owner without the old one having a say: that one is dead.
    pub(crate) fn promote(&self, epoch: u64) -> Result<Tenure, Refusal> {
        match &self.state {
            FolderState::Owned { epoch: known } if *known == epoch => Ok(self.clone()),
            FolderState::Standby { .. } => {
                self.newer(epoch)?;
                Ok(Tenure::new(FolderState::Owned { epoch }))
            }
            // A move that its source did not survive: whoever is promoted ends it in its own epoch, or later.
            FolderState::Fenced { epoch: known, .. } | FolderState::Importing { epoch: known, .. }
                if *known <= epoch =>
            {
                Ok(Tenure::new(FolderState::Owned { epoch }))
            }
            FolderState::Fenced { epoch: known, .. } | FolderState::Importing { epoch: known, .. } => {
                Err(Refusal::Epoch { known: *known, asked: epoch })
            }
            _ => Err(self.refuse("standby, fenced or importing")),
        }
    }
}

impl Refusal {
    /// The refusal as an error about a folder.
    pub(crate) fn of(self, folder: FolderId) -> Error {
        match self {
            Refusal::State { is, needs } => {
                let detail = format!("folder {folder} is {}; this needs {needs}", described(&is));
                let error = Error::new(ErrorCode::FolderStateMismatch, detail);
                match is.elsewhere() {
                    Some(elsewhere) => error.with_moved_to(elsewhere),
                    None => error,
                }
            }
            Refusal::Epoch { known, asked } => {
                let detail = format!("folder {folder} is at epoch {known}; epoch {asked} came");
                Error::new(ErrorCode::EpochMismatch, detail)
                    .with_hint("go by the newest map, or go on with the move that is under way in its own epoch")
            }
            Refusal::Unsettled => {
                let detail =
                    format!("this server took over writes in folder {folder} that the owner does not hold yet");
                Error::new(ErrorCode::TakeoverUnsettled, detail)
                    .with_hint("copy its files to the owner and let them be settled: hydra-router sync --settle")
            }
            Refusal::Seal => {
                let detail =
                    format!("folder {folder} is not held by this seal: it ran out, was given back or replaced");
                Error::new(ErrorCode::SealMismatch, detail).with_hint("seal the folder again and ask for its manifest")
            }
            Refusal::SealedFor { to, epoch } => {
                let detail = format!("folder {folder} is sealed for a move to {to} in epoch {epoch}");
                Error::new(ErrorCode::SealMismatch, detail).with_hint("finish that move, or unseal the folder")
            }
            Refusal::Lull { again } => {
                let detail = format!("writes of folder {folder} wait for its return already, or did a moment ago");
                Error::new(ErrorCode::SealMismatch, detail)
                    .with_hint("whoever began that settles it; otherwise try again later")
                    .with_retry_after(again)
            }
            Refusal::Committing => {
                let detail = format!("a commit of folder {folder} could not be written; it may be on disk or not");
                Error::new(ErrorCode::SealMismatch, detail).with_hint("commit again with the same seal")
            }
            Refusal::Manifest => {
                let detail = format!("the files of folder {folder} are not those of this manifest");
                Error::new(ErrorCode::ManifestMismatch, detail).with_hint("ask for the manifest and copy again")
            }
            Refusal::NotReady => {
                let detail = format!("nothing was verified yet of what came for folder {folder}");
                Error::new(ErrorCode::FolderNotReady, detail).with_hint("pull the folder with the seal of its source")
            }
            Refusal::Token => {
                let detail = format!("the token is not the one that folder {folder} waits for");
                Error::new(ErrorCode::MoveTokenMismatch, detail)
                    .with_hint("commit on the source answers the token; pull again if the folder was sealed anew")
            }
        }
    }
}

/// A state in words.
fn described(state: &FolderState) -> String {
    let name = state.as_str();
    match state {
        FolderState::Owned { epoch: 0 } | FolderState::Standby { of: None, .. } | FolderState::Absent => {
            name.to_owned()
        }
        FolderState::Owned { epoch } => format!("{name} since epoch {epoch}"),
        FolderState::Standby { of: Some(of), epoch } => format!("{name} of {of} since epoch {epoch}"),
        FolderState::Fenced { epoch, to } => format!("{name} for {to} in epoch {epoch}"),
        FolderState::Importing { epoch, from } => format!("{name} from {from} in epoch {epoch}"),
        FolderState::Moved { epoch, to, .. } => format!("{name} to {to} in epoch {epoch}"),
    }
}

/// Refuses what this server does not serve in a folder, with a hint where it is served.
pub(crate) fn not_served(folder: FolderId, state: &FolderState) -> Error {
    let (code, detail) = match state {
        FolderState::Importing { from, .. } => {
            (ErrorCode::FolderImporting, format!("folder {folder} is on its way here from {from}"))
        }
        FolderState::Fenced { to, .. } => {
            (ErrorCode::NotOwner, format!("folder {folder} is on its way to {to}; this copy takes no writes"))
        }
        FolderState::Moved { to, .. } => (ErrorCode::NotOwner, format!("folder {folder} has moved to {to}")),
        FolderState::Standby { of: Some(of), .. } => {
            (ErrorCode::NotOwner, format!("this server keeps a copy of folder {folder}, which {of} owns"))
        }
        _ => (ErrorCode::NotOwner, format!("folder {folder} is not on this server")),
    };
    let error = Error::new(code, detail);
    match state.elsewhere() {
        Some(elsewhere) => {
            let hint = format!("send it to {}, and bring the client map up to date", elsewhere.server);
            error.with_hint(hint).with_moved_to(elsewhere)
        }
        None => error.with_hint("compare the client map with GET /v1/folders of this server"),
    }
}

/// Refuses a write to a folder that is sealed.
pub(crate) fn sealed(folder: FolderId) -> Error {
    no_writes(format!("folder {folder} is about to move and takes no writes for a moment"))
}

/// Refuses a write to a copy while its folder returns to the owner.
pub(crate) fn lulled(folder: FolderId) -> Error {
    no_writes(format!("folder {folder} returns to its owner and takes no writes for a moment"))
}

fn no_writes(detail: String) -> Error {
    Error::new(ErrorCode::FolderSealed, detail)
        .with_hint("send it again; reads go on")
        .with_retry_after(Duration::from_secs(1))
}
