//! One folder of a move, step by step. Each step may be made again, so a run begins with whatever was found.

use std::time::{Duration, Instant};

use hydra_core::ErrorCode;
use hydra_core::wire::{
    AbortBody, ActivateBody, CommitBody, FenceBody, FolderBody, ImportFolderBody, MovedBody, SealBody, SealedBody,
    UnderSealBody, UnfenceBody,
};
use hydra_sdk::{ClientMap, FolderSet, Hydra};
use indicatif::ProgressBar;

use super::copy::Copied;
use super::plan::PlannedFolder;
use super::remote::{Refused, STEP, post, states};
use super::{MoveFlags, Outcome};
use crate::Failure;

/// How often a seal is renewed.
const RENEW: Duration = Duration::from_secs(15);
/// How often, and with which pause, a step is asked for again whose answer was lost.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// One folder on its way.
pub(super) struct Move<'m> {
    pub(super) hydra: &'m Hydra,
    pub(super) flags: &'m MoveFlags,
    pub(super) map: &'m ClientMap,
    pub(super) pool: &'m str,
    pub(super) folder: &'m PlannedFolder,
    pub(super) bar: &'m ProgressBar,
    pub(super) warnings: Vec<String>,
}

impl Move<'_> {
    pub(super) fn say(&self, what: &str) {
        self.bar.set_message(format!("folder {}: {what}", self.folder.id));
    }

    async fn step<B: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        server: &str,
        verb: &str,
        body: &B,
    ) -> Result<T, Refused> {
        self.say(verb);
        post(self.hydra, server, self.folder.id, verb, body, STEP).await
    }

    pub(super) fn outcome(&self, outcome: &'static str, copied: Copied, pause: Option<Duration>) -> Outcome {
        let pause_ms = pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let Copied { files, bytes } = copied;
        Outcome { folder: self.folder.id, outcome, epoch: self.folder.epoch, bytes, files, pause_ms }
    }

    /// Moves the folder, or goes on where its move is.
    pub(super) async fn run(&mut self) -> Result<Outcome, Failure> {
        if self.folder.has_left(&self.flags.to) {
            return self.finish().await;
        }
        self.fence().await?;
        let import = ImportFolderBody { epoch: self.folder.epoch, from: self.flags.from.clone() };
        let _: FolderBody = self.step(&self.flags.to, "import", &import).await?;
        let first = self.copy_first().await?;
        let begun = Instant::now();
        let wanted = SealBody { epoch: Some(self.folder.epoch), to: Some(self.flags.to.clone()), seal: None };
        let sealed: SealedBody = self.step(&self.flags.from, "seal", &wanted).await?;
        let last = match self.under_seal(&sealed.seal).await {
            Ok(last) => last,
            Err(failure) => {
                // Whatever went wrong, writers need not wait for the seal to run out.
                let under = UnderSealBody { seal: Some(sealed.seal) };
                let _: Result<FolderBody, _> = self.step(&self.flags.from, "unseal", &under).await;
                return Err(failure.with_hint("the folder takes writes again; run it again, or with --abort"));
            }
        };
        self.activate().await?;
        let pause = begun.elapsed();
        self.unfence(Some(&self.flags.to.clone())).await;
        let copied = Copied { files: first.files + last.files, bytes: first.bytes + last.bytes };
        Ok(self.outcome("moved", copied, Some(pause)))
    }

    /// What is left when the source has let go of the folder: anybody may do it.
    async fn finish(&mut self) -> Result<Outcome, Failure> {
        let mut copied = Copied::default();
        let was_done = self.folder.has_arrived();
        if !was_done {
            if !self.folder.target.ready {
                let import = ImportFolderBody { epoch: self.folder.epoch, from: self.flags.from.clone() };
                let _: FolderBody = self.step(&self.flags.to, "import", &import).await?;
                copied = self.copy_last(None).await?.0;
            }
            self.activate().await?;
        }
        self.unfence(Some(&self.flags.to.clone())).await;
        Ok(self.outcome(if was_done { "has moved already" } else { "moved" }, copied, None))
    }

    /// No copy takes writes from here on. One that took some over refuses until they are settled.
    async fn fence(&self) -> Result<(), Failure> {
        for id in &self.folder.others {
            let body = FenceBody { epoch: self.folder.epoch, to: self.flags.to.clone() };
            let fenced: Result<FolderBody, Refused> = self.step(id, "fence", &body).await;
            match fenced {
                Ok(_) => {}
                // It keeps no copy, so it cannot take writes either.
                Err(Refused { code: Some(ErrorCode::FolderStateMismatch), .. }) if self.has_none(id).await? => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Ok(())
    }

    async fn has_none(&self, id: &str) -> Result<bool, Failure> {
        let found = states(self.hydra, id, &FolderSet::from_iter([self.folder.id])).await?;
        Ok(found.iter().all(|one| matches!(one.state.as_str(), "absent" | "moved")))
    }

    /// Copies and verifies the rest, and lets the source let go. The seal is renewed meanwhile.
    async fn under_seal(&self, seal: &str) -> Result<Copied, Failure> {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW).await;
                let body = SealBody { seal: Some(seal.to_owned()), ..SealBody::default() };
                let renewed: Result<SealedBody, Refused> =
                    post(self.hydra, &self.flags.from, self.folder.id, "seal", &body, STEP).await;
                if let Err(refused @ Refused { code: Some(_), .. }) = renewed {
                    return refused;
                }
            }
        };
        let copying = self.copy_last(Some(seal));
        let (copied, manifest) = tokio::select! {
            copied = copying => copied?,
            refused = renewing => return Err(refused.into()),
        };
        let (epoch, to) = (self.folder.epoch, self.flags.to.clone());
        let body = CommitBody { epoch, to, seal: seal.to_owned(), manifest };
        let _: MovedBody = self.persist(&self.flags.from, "commit", &body).await?;
        Ok(copied)
    }

    /// Asks the source for the token, and lets the target begin with it.
    async fn activate(&self) -> Result<(), Failure> {
        let (epoch, to) = (self.folder.epoch, self.flags.to.clone());
        // Of a folder that has moved, commit answers the token again, whatever seal and manifest are named.
        let again = CommitBody { epoch, to, seal: String::new(), manifest: String::new() };
        let moved: MovedBody = self.persist(&self.flags.from, "commit", &again).await?;
        let body = ActivateBody { epoch, token: moved.token };
        let _: FolderBody = self.persist(&self.flags.to, "activate", &body).await?;
        Ok(())
    }

    /// Makes a step whose answer matters: while none comes, it is asked for again.
    async fn persist<B: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        server: &str,
        verb: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let mut tries = 1;
        loop {
            match self.step(server, verb, body).await {
                Ok(answer) => return Ok(answer),
                Err(refused) if refused.code.is_some() || tries == TRIES => return Err(refused.into()),
                Err(_) => tokio::time::sleep(PAUSE * tries).await,
            }
            tries += 1;
        }
    }

    /// The copies take writes again: of their owner so far, or of the new one. One that does not answer stays fenced:
    /// that is safe, and the next run tells it.
    async fn unfence(&mut self, of: Option<&str>) {
        for id in &self.folder.others {
            let body = UnfenceBody { epoch: self.folder.epoch, of: of.map(str::to_owned) };
            let done: Result<FolderBody, Refused> = self.step(id, "unfence", &body).await;
            match done {
                Ok(_) | Err(Refused { code: Some(ErrorCode::FolderStateMismatch), .. }) => {}
                Err(refused) => self.warnings.push(format!(
                    "{id} was not told and may stay fenced in folder {}, run it again: {}",
                    self.folder.id, refused.detail
                )),
            }
        }
    }

    /// Gives the move up. The source is asked first: once it has let go of the folder there is no way back, but
    /// another move.
    pub(super) async fn abort(&mut self) -> Result<Outcome, Failure> {
        if self.folder.has_left(&self.flags.to) {
            return Err(Failure::conflict(format!(
                "{} has let go of it for {}: run the move again to finish it, and move it back then",
                self.flags.from, self.flags.to
            )));
        }
        let _: FolderBody = self.step(&self.flags.from, "unseal", &UnderSealBody::default()).await?;
        let was_begun = self.folder.target.state == "importing";
        if was_begun {
            let body = AbortBody { epoch: self.folder.epoch };
            let _: FolderBody = self.step(&self.flags.to, "abort", &body).await?;
        }
        self.unfence(None).await;
        Ok(self.outcome(if was_begun { "given up" } else { "was not on its way" }, Copied::default(), None))
    }
}
