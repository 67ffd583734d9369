//! Where the programs of Hydra are, and that they are fresh.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::story::Missing;

/// A program that stories start.
pub(crate) struct Program {
    name: &'static str,
    path: OnceCell<PathBuf>,
}

pub(crate) static SERVER: Program = Program { name: "hydra-server", path: OnceCell::const_new() };
pub(crate) static ROUTER: Program = Program { name: "hydra-router", path: OnceCell::const_new() };

impl Program {
    /// Its path, which is beside this program. Under `cargo run` it is built first, so that it is never older
    /// than the story.
    pub(crate) async fn path(&self) -> Result<&Path> {
        let path = self.path.get_or_try_init(|| async {
            let own = std::env::current_exe().context("cannot tell where this program is")?;
            if let Some(cargo) = std::env::var_os("CARGO") {
                build(&cargo, self.name, &own).await?;
            }
            let path = own.with_file_name(self.name);
            if path.exists() {
                return Ok(path);
            }
            Err(anyhow::Error::from(Missing(format!(
                "there is no {}; build it with: cargo build -p {}{}",
                path.display(),
                self.name,
                profile_of(&own).map(|profile| format!(" --profile {profile}")).unwrap_or_default()
            ))))
        });
        Ok(path.await?.as_path())
    }
}

/// Builds a program with the profile and into the directory of this one. Both packages are named, so that their
/// dependencies are compiled just as they were for this program.
async fn build(cargo: &OsString, name: &str, own: &Path) -> Result<()> {
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "examples", "-p", name, "--bin", name]);
    if let Some(profile) = profile_of(own) {
        command.args(["--profile", &profile]);
    }
    if let Some(target) = own.parent().and_then(Path::parent) {
        command.arg("--target-dir").arg(target);
    }
    if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(package);
    }
    let status = command.stdin(Stdio::null()).kill_on_drop(true).status().await.context("cannot start cargo")?;
    ensure!(status.success(), "{name} could not be built");
    Ok(())
}

/// The profile of a program by its directory, `target/release`; nothing for the usual one.
fn profile_of(program: &Path) -> Option<String> {
    let directory = program.parent()?.file_name()?.to_str()?;
    (directory != "debug").then(|| directory.to_owned())
}
