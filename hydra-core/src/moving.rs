//! The steps of a move on one server: what a folder becomes is decided in [`crate::handover`], here it is made true
//! on the disk and for the writes that are under way.
//!
//! The order is the promise: a gate is closed and what was let in before is on disk, before anybody is told; what a
//! folder becomes is on disk before it is so in memory; and the token leaves the source only after both.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderId;
use crate::handover::{FolderState, Ready, Refusal, Seal, not_served, token_hash};
use crate::manifest::{Manifest, manifest_of, missing_pieces};
use crate::shared::Shared;

/// How long a seal holds unless it is renewed: 60 s.
pub const SEAL_LEASE: Duration = Duration::from_secs(60);
/// How long files stay that a manifest names; asked for anew with every manifest.
const HOLD: Duration = Duration::from_secs(600);
/// So many files that are missing are named in an error.
const NAMED: usize = 3;

/// A folder that takes no writes, for a move.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// Names this seal, to whoever asks for the manifest under it, renews, commits or gives it back.
    pub id: String,
    /// What the token of the move hashes to: the target is told before it may know the token.
    pub token_hash: String,
    /// How long the seal holds unless it is renewed.
    pub lease: Duration,
}

/// What a promotion found of the server whose place is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promoted {
    /// What the folder is now.
    pub state: FolderState,
    /// Files here that the old owner wrote.
    pub files: u64,
    /// When the newest of them last grew here, in seconds since 1970: what the old owner acknowledged later is not
    /// here. `None` when there is none.
    pub newest: Option<u64>,
}

impl Engine {
    /// Fences a copy for a move: it serves reads and takes no writes until [`Engine::unfence`]. Durable. Blocks
    /// until the writes under way are on disk.
    ///
    /// # Errors
    /// `takeover-unsettled` when this server wrote in place of the owner and nobody has settled that;
    /// `folder-state-mismatch` for a folder it keeps no copy of, `epoch-mismatch`; those of the disk.
    pub fn fence(&self, folder: FolderId, epoch: u64, to: &str) -> Result<FolderState> {
        let step = self.shared().folders.step(folder);
        step.check(|tenure| tenure.fence(epoch, to, false))?;
        let _drained = step.drain(|| self.flush(Some(folder)))?;
        let has_takeover = self.takeover(folder)?.count > 0;
        step.make(|tenure| tenure.fence(epoch, to, has_takeover)).map(|tenure| tenure.state)
    }

    /// Lets a fenced copy take writes again, in place of the owner it had, or of the one that is given.
    ///
    /// # Errors
    /// `folder-state-mismatch`, `epoch-mismatch`; those of the disk.
    pub fn unfence(&self, folder: FolderId, epoch: u64, of: Option<&str>) -> Result<FolderState> {
        let step = self.shared().folders.step(folder);
        step.make(|tenure| tenure.unfence(epoch, of)).map(|tenure| tenure.state)
    }

    /// Begins to let a folder come here: nothing of it is served until it is activated. Durable.
    ///
    /// # Errors
    /// `folder-state-mismatch` when this server owns the folder, `takeover-unsettled`, `epoch-mismatch`; those of
    /// the disk.
    pub fn import_folder(&self, folder: FolderId, epoch: u64, from: &str) -> Result<FolderState> {
        let shared = self.shared();
        let step = shared.folders.step(folder);
        step.check(|tenure| tenure.import(epoch, from, false))?;
        let _drained = step.drain(|| self.flush(Some(folder)))?;
        let has_takeover = shared.folders.is_standby(folder) && self.takeover(folder)?.count > 0;
        shared.folders.set_copied(folder)?;
        step.make(|tenure| tenure.import(epoch, from, has_takeover)).map(|tenure| tenure.state)
    }

    /// Gives an import up. What was copied stays.
    ///
    /// # Errors
    /// `folder-state-mismatch` for a folder that this server owns by now, `epoch-mismatch`; those of the disk.
    pub fn abort_import(&self, folder: FolderId, epoch: u64) -> Result<FolderState> {
        let step = self.shared().folders.step(folder);
        let tenure = step.make(|tenure| tenure.abort(epoch))?;
        self.shared().digests.forget(folder);
        Ok(tenure.state)
    }

    /// Holds a folder for a move: writes are refused, reads go on. Returns when every write that was acknowledged is
    /// on disk and none is under way. In memory alone: it ends after [`SEAL_LEASE`] unless it is renewed, and with
    /// the process. The same move may seal again, which voids its older seal.
    ///
    /// # Errors
    /// `folder-state-mismatch` for a folder that is not owned, `seal-mismatch` while another move holds it,
    /// `epoch-mismatch`; those of the disk, and then it is not sealed.
    pub fn seal(&self, folder: FolderId, epoch: u64, to: &str) -> Result<Sealed> {
        let shared = self.shared();
        shared.check_open()?;
        shared.folders.set_copied(folder)?;
        let (id, token) = (random_id()?, random_id()?);
        let sealed = Sealed { id: id.clone(), token_hash: token_hash(&token), lease: SEAL_LEASE };
        let now = Instant::now();
        let (to, until) = (to.to_owned(), now + SEAL_LEASE);
        let seal = Seal { id: id.clone(), epoch, to, token, manifest: None, until, is_committing: false };
        let step = shared.folders.step(folder);
        step.mark(|tenure| tenure.seal(seal, now))?;
        if let Err(error) = self.flush(Some(folder)) {
            step.mark(|tenure| tenure.unseal(Some(&id)))?;
            return Err(error);
        }
        let now = Instant::now();
        step.mark(|tenure| tenure.renew(&id, now + SEAL_LEASE, now))?;
        Ok(sealed)
    }

    /// Lets a seal hold for another [`SEAL_LEASE`].
    ///
    /// # Errors
    /// `seal-mismatch` when it ran out, was given back or replaced.
    pub fn renew_seal(&self, folder: FolderId, id: &str) -> Result<Sealed> {
        let now = Instant::now();
        let tenure = self.shared().folders.step(folder).mark(|tenure| tenure.renew(id, now + SEAL_LEASE, now))?;
        let token = tenure.seal.map(|seal| seal.token).unwrap_or_default();
        Ok(Sealed { id: id.to_owned(), token_hash: token_hash(&token), lease: SEAL_LEASE })
    }

    /// Lets a folder take writes again: the seal and its token are gone. Without an id whatever seal there is.
    ///
    /// # Errors
    /// `seal-mismatch` for another seal, `folder-state-mismatch` for a folder that has moved; those of the disk where
    /// a commit is in doubt.
    pub fn unseal(&self, folder: FolderId, id: Option<&str>) -> Result<FolderState> {
        let step = self.shared().folders.step(folder);
        step.check(|tenure| tenure.unseal(id))?;
        if step.tenure().seal.is_some_and(|seal| seal.is_committing) {
            // The file may say that the folder has moved.
            step.rewrite()?;
        }
        step.mark(|tenure| tenure.unseal(id)).map(|tenure| tenure.state)
    }

    /// The files of a folder with their hashes. Under a seal these are all there will ever be of this owner; without
    /// one it is what a first copy can begin with. Nothing superseded is removed in the folder for ten minutes.
    /// Blocks on the disk: what was hashed before is not read again.
    ///
    /// # Errors
    /// `seal-mismatch`, `folder-state-mismatch` for a folder without files here; those of the disk.
    pub fn manifest(&self, folder: FolderId, seal: Option<&str>) -> Result<Manifest> {
        let shared = self.shared();
        let tenure = shared.folders.tenure(folder);
        if !matches!(tenure.state, FolderState::Owned { .. } | FolderState::Moved { .. }) {
            return Err(Refusal::State { is: tenure.state, needs: "owned or moved" }.of(folder));
        }
        if let Some(id) = seal {
            tenure.held(id, Instant::now()).map_err(|refusal| refusal.of(folder))?;
        }
        shared.folders.set_copied(folder)?;
        self.hold(folder, HOLD)?;
        // Under a seal there is nothing left to be flushed.
        if seal.is_none() {
            self.flush(Some(folder))?;
        }
        let manifest = manifest_of(shared, folder)?;
        if let Some(id) = seal {
            let (hash, now) = (manifest.hash(), Instant::now());
            shared.folders.step(folder).mark(|tenure| tenure.note_manifest(id, &hash, now))?;
        }
        Ok(manifest)
    }

    /// What the token of a move of this folder hashes to, under its seal or once it has moved; `None` without either.
    #[must_use]
    pub fn move_token_hash(&self, folder: FolderId) -> Option<String> {
        let tenure = self.shared().folders.tenure(folder);
        match (tenure.state, tenure.seal) {
            (FolderState::Moved { token, .. }, _) => Some(token_hash(&token)),
            (_, Some(seal)) => Some(token_hash(&seal.token)),
            _ => None,
        }
    }

    /// Lets go of a folder for good: durable before this returns the token that the target begins to serve with. Asked
    /// for again, it answers the same.
    ///
    /// # Errors
    /// `seal-mismatch` and `manifest-mismatch` when this is not the seal, or its manifest not the last; those of the
    /// disk: then it is not known whether the folder has moved, and it takes no writes until this or
    /// [`Engine::unseal`] succeeds.
    pub fn commit_move(&self, folder: FolderId, epoch: u64, to: &str, seal: &str, manifest: &str) -> Result<String> {
        let shared = self.shared();
        let step = shared.folders.step(folder);
        if !step.tenure().is_moved(epoch, to) {
            let now = Instant::now();
            step.mark(|tenure| tenure.begin_commit(seal, manifest, now))?;
            step.make(|tenure| tenure.commit())?;
            shared.digests.forget(folder);
            // Whoever listens or waits here has to ask elsewhere.
            shared.hub.close_folder(shared, folder);
        }
        match step.tenure().state {
            FolderState::Moved { token, .. } => Ok(token),
            state => Err(Refusal::State { is: state, needs: "a seal" }.of(folder)),
        }
    }

    pub(crate) fn check_importing(&self, folder: FolderId) -> Result<u64> {
        match self.folder_state(folder) {
            FolderState::Importing { epoch, .. } => Ok(epoch),
            state => Err(Refusal::State { is: state, needs: "importing" }.of(folder)),
        }
    }

    /// Verifies that every file of a manifest is here and durable; from then on the folder can be activated with the
    /// token that hashes to `token_hash`. Durable. Blocks on the disk.
    ///
    /// # Errors
    /// `manifest-mismatch` names files that are missing or differ; `folder-state-mismatch`; those of the disk.
    pub fn ready(&self, folder: FolderId, manifest: &Manifest, token_hash: &str) -> Result<()> {
        let shared = self.shared();
        let epoch = self.check_importing(folder)?;
        let intent = shared.syncs.intend();
        let missing = missing_pieces(shared, folder, manifest)?;
        if !missing.is_empty() {
            let named: Vec<&str> = missing.iter().take(NAMED).map(|piece| piece.path.as_str()).collect();
            let detail = format!(
                "{} of {} files are missing, shorter or differ: {named:?}",
                missing.len(),
                manifest.files.len()
            );
            return Err(Error::new(ErrorCode::ManifestMismatch, detail).with_hint("copy them, and verify again"));
        }
        // What another tool has copied is in the page cache perhaps, and nowhere else.
        shared.syncs.sync_all(intent).map_err(|error| Error::io("sync", &shared.root.path, error))?;
        let ready = Ready { manifest: manifest.hash(), token_hash: token_hash.to_owned() };
        shared.folders.step(folder).make(|tenure| tenure.ready(epoch, ready)).map(drop)
    }

    /// Makes what was copied so far durable: what is left under the seal is quicker then.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync_disk(&self) -> Result<()> {
        let syncs = &self.shared().syncs;
        syncs.sync_all(syncs.intend()).map(drop).map_err(|error| Error::io("sync", self.data_dir(), error))
    }

    /// Begins to serve a folder that came here. Durable before it is so. Asked for again, it answers the same.
    ///
    /// # Errors
    /// `folder-not-ready` when not all of it was verified, `move-token-mismatch`, `folder-state-mismatch`,
    /// `epoch-mismatch`; those of the disk.
    pub fn activate(&self, folder: FolderId, epoch: u64, token: &str) -> Result<FolderState> {
        let shared = self.shared();
        let step = shared.folders.step(folder);
        step.check(|tenure| tenure.activate(epoch, token))?;
        // What is in memory of the folder may be older than what came.
        shared.read_again(folder)?;
        let tenure = step.make(|tenure| tenure.activate(epoch, token))?;
        shared.digests.forget(folder);
        shared.hub.poll_soon(shared);
        Ok(tenure.state)
    }

    /// Makes a copy the owner, because the old owner is dead. What that had acknowledged and nobody had copied is not
    /// here. Durable.
    ///
    /// # Errors
    /// `folder-state-mismatch`, `epoch-mismatch`; those of the disk.
    pub fn promote(&self, folder: FolderId, epoch: u64, of: &str) -> Result<Promoted> {
        let shared = self.shared();
        let step = shared.folders.step(folder);
        step.check(|tenure| tenure.promote(epoch))?;
        shared.read_again(folder)?;
        let (mut files, mut newest) = (0, None);
        let dir = shared.root.path.join(crate::layout::folder_dir(folder));
        crate::walk::swamps(&dir, &mut |dir, chunks| {
            for (chunk, _) in chunks.iter().filter(|(chunk, _)| chunk.server == of) {
                let path = dir.join(chunk.file_name());
                let identity = shared.disk.identity(&path).map_err(|error| Error::io("stat", &path, error))?;
                files += 1;
                newest = newest.max(u64::try_from(identity.modified.0).ok());
            }
            Ok(())
        })?;
        let state = step.make(|tenure| tenure.promote(epoch))?.state;
        Ok(Promoted { state, files, newest })
    }

    /// Refuses what is not served here of a folder, with a hint where it is.
    #[must_use]
    pub fn not_served(&self, folder: FolderId) -> Error {
        not_served(folder, &self.folder_state(folder))
    }

    /// Whether a folder takes no writes for a moment, because it is about to move.
    #[must_use]
    pub fn is_sealed(&self, folder: FolderId) -> bool {
        self.shared().folders.is_sealed(folder)
    }

    /// Whether all files of a folder that is coming here were verified.
    #[must_use]
    pub fn is_ready(&self, folder: FolderId) -> bool {
        self.shared().folders.tenure(folder).ready.is_some()
    }
}

impl Shared {
    /// Reads the swamps of a folder that are in memory again, where files came that they do not know.
    fn read_again(self: &std::sync::Arc<Self>, folder: FolderId) -> Result<()> {
        let residents = self.residents.all();
        residents.iter().filter(|resident| resident.folder() == folder).try_for_each(|resident| resident.refresh())
    }
}

/// 128 random bits as 32 hexadecimal digits.
pub(crate) fn random_id() -> Result<String> {
    let random =
        || getrandom::u64().map_err(|error| Error::new(ErrorCode::Internal, format!("no random bits: {error}")));
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}
