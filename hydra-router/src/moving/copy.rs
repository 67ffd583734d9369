//! Copying a folder: the target pulls it, or a command of the operator's does and the target verifies.

use std::process::Stdio;
use std::time::Duration;

use hydra_core::wire::{PullBody, PulledBody};
use hydra_sdk::FolderId;
use tokio::process::Command;

use super::folder::Move;
use super::remote::{Refused, post};
use crate::Failure;

/// A pull answers after some seconds of copying; a manifest of many files may take as long again.
const PULL: Duration = Duration::from_secs(660);
/// A pass of the first copy that brought less leaves little for the time under seal.
const LITTLE: u64 = 4 << 20;
/// So many passes: a source that is written faster than it is copied never gets done.
const PASSES: u32 = 5;

/// What was copied.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Move<'_> {
    /// Copies what there is while the source serves, until little is left.
    pub(super) async fn copy_first(&self) -> Result<Copied, Failure> {
        let mut copied = Copied::default();
        if let Some(command) = &self.flags.copy_with {
            self.run_command(command, "first").await?;
            return Ok(copied);
        }
        for _ in 0..PASSES {
            let pass = self.pull_all(None).await?.0;
            copied.files += pass.files;
            copied.bytes += pass.bytes;
            if pass.bytes < LITTLE {
                break;
            }
        }
        Ok(copied)
    }

    /// Copies the rest, verified; answers what the manifest of the source was. `seal` is none where the source has
    /// let go of the folder already.
    pub(super) async fn copy_last(&self, seal: Option<&str>) -> Result<(Copied, String), Failure> {
        let command = self.flags.copy_with.as_deref().filter(|_| seal.is_some());
        let Some(command) = command else {
            let (copied, pulled) = self.pull_all(seal).await?;
            return match pulled.ready {
                true => Ok((copied, pulled.manifest)),
                false => Err(Failure::failed(format!("{} did not verify what it pulled", self.flags.to))),
            };
        };
        // A quick copy may overlook a file that was written within one second; the second run cannot, unless the
        // command never looks at content.
        self.run_command(command, "last").await?;
        match self.pull(seal, false).await {
            Ok(pulled) => Ok((Copied::default(), pulled.manifest)),
            Err(Refused { code: Some(hydra_core::ErrorCode::ManifestMismatch), .. }) => {
                self.run_command(command, "again").await?;
                let pulled = self.pull(seal, false).await?;
                Ok((Copied::default(), pulled.manifest))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Asks the target to pull until nothing is missing.
    async fn pull_all(&self, seal: Option<&str>) -> Result<(Copied, PulledBody), Failure> {
        let mut copied = Copied::default();
        loop {
            let pulled = self.pull(seal, true).await?;
            copied.files += pulled.files;
            copied.bytes += pulled.bytes;
            if pulled.missing_files == 0 {
                return Ok((copied, pulled));
            }
            self.say(&format!(
                "{} MiB copied, {} files and {} MiB left",
                copied.bytes >> 20,
                pulled.missing_files,
                pulled.missing_bytes >> 20
            ));
        }
    }

    async fn pull(&self, seal: Option<&str>, copy: bool) -> Result<PulledBody, Refused> {
        let source = self.map.server(&self.flags.from);
        let ca = self.map.access().ca_certificate.as_ref();
        let body = PullBody {
            url: source.map(|source| source.url.clone()).unwrap_or_default(),
            seal: seal.map(str::to_owned),
            copy,
            ca_certificate: ca.and_then(|path| std::fs::read_to_string(path).ok()),
        };
        post(self.hydra, &self.flags.to, self.folder.id, "pull", &body, PULL).await
    }

    async fn run_command(&self, command: &str, pass: &str) -> Result<(), Failure> {
        self.say(&format!("{pass} copy by {command}"));
        let failed = |why: String| Failure::failed(format!("--copy-with: {command:?} {why}"));
        let id: FolderId = self.folder.id;
        let status = Command::new("sh")
            .args(["-c", command])
            .env("HYDRA_FOLDER", id.to_string())
            .env("HYDRA_FOLDER_DIR", folder_dir(id))
            .env("HYDRA_FROM", &self.flags.from)
            .env("HYDRA_TO", &self.flags.to)
            .env("HYDRA_PASS", pass)
            .stdin(Stdio::null())
            // Its output is not the result of this command.
            .stdout(Stdio::from(std::io::stderr()))
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        if status.success() { Ok(()) } else { Err(failed(format!("ended with {status}"))) }
    }
}

/// The directory of a folder below a data directory.
fn folder_dir(folder: FolderId) -> String {
    format!("{:05}", folder.get())
}
