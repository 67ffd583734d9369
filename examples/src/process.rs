//! Real servers: each a `hydra-server` process of its own, on a free port, gone when dropped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hydra_sdk::{ForwardRequest, Hydra, OpClass};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::program::{ROUTER, SERVER};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long a server may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// What a server is started with. Whatever is not said is the server's default.
#[derive(Debug, Clone)]
pub struct ServerSetup {
    id: String,
    data: PathBuf,
    folders: Option<String>,
    standby: Option<String>,
    copied: bool,
    pool: Option<String>,
    /// 0 for a free one.
    port: u16,
}

impl ServerSetup {
    /// A server with this id and this data directory, which owns all of 100 folders.
    pub fn new(id: impl Into<String>, data: impl Into<PathBuf>) -> ServerSetup {
        ServerSetup {
            id: id.into(),
            data: data.into(),
            folders: None,
            standby: None,
            copied: false,
            pool: None,
            port: 0,
        }
    }

    /// It owns only these folders: `--folders`.
    #[must_use]
    pub fn folders(mut self, set: &str) -> ServerSetup {
        self.folders = Some(set.to_owned());
        self
    }

    /// It keeps copies of these folders: `--standby`.
    #[must_use]
    pub fn standby(mut self, set: &str) -> ServerSetup {
        self.standby = Some(set.to_owned());
        self
    }

    /// Other servers hold copies of its folders: `--copied`.
    #[must_use]
    pub fn copied(mut self) -> ServerSetup {
        self.copied = true;
        self
    }

    /// It belongs to this pool: `--pool`.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> ServerSetup {
        self.pool = Some(pool.to_owned());
        self
    }

    /// The flags, as an operator would write them.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--id".to_owned(), self.id.clone()];
        let optional = [("--folders", &self.folders), ("--standby", &self.standby), ("--pool", &self.pool)];
        for (flag, value) in optional {
            if let Some(value) = value {
                flags.extend([flag.to_owned(), value.clone()]);
            }
        }
        if self.copied {
            flags.push("--copied".to_owned());
        }
        flags
    }

    /// Where what it logs is kept.
    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }
}

/// A server that runs. Dropping it kills it.
#[derive(Debug)]
pub struct ServerProcess {
    setup: ServerSetup,
    child: Child,
    /// Kept open, so that the server can write what it likes.
    _stdout: Lines<BufReader<ChildStdout>>,
    url: String,
    direct: Hydra,
}

impl ServerProcess {
    /// Starts a server on a free port and waits until it listens.
    ///
    /// # Errors
    /// When the program is missing, or ends instead of listening; then with the end of its log.
    pub async fn start(mut setup: ServerSetup) -> Result<ServerProcess> {
        let log = OpenOptions::new().create(true).append(true).open(setup.log()).context("cannot open a log")?;
        let mut child = Command::new(SERVER.path().await?)
            .args(setup.flags())
            .arg("--data")
            .arg(&setup.data)
            .args(["--listen", &format!("127.0.0.1:{}", setup.port), "--log", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start hydra-server")?;
        let stdout = child.stdout.take().context("hydra-server has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let url = match timeout(START, listening(&mut lines)).await {
            Ok(Ok(url)) => url,
            _ => bail!("{} did not begin to listen: {}", setup.id, last_line(&setup.log())),
        };
        setup.port = url.rsplit(':').next().and_then(|port| port.parse().ok()).context("no port in what it said")?;
        let direct = Hydra::connect(&url).await?;
        Ok(ServerProcess { setup, child, _stdout: lines, url, direct })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.setup.id
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.setup.data
    }

    /// Its flags, but for address and data directory.
    #[must_use]
    pub fn flags(&self) -> String {
        self.setup.flags().join(" ")
    }

    /// A client that asks this server and nobody else, whoever owns the folder.
    #[must_use]
    pub fn direct(&self) -> &Hydra {
        &self.direct
    }

    /// Kills it as a power cut would: SIGKILL. Nothing is flushed.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill9(self) -> Result<ServerSetup> {
        let ServerProcess { mut child, setup, .. } = self;
        child.kill().await.with_context(|| format!("cannot kill {}", setup.id))?;
        Ok(setup)
    }

    /// Ends it as an operator does: SIGTERM. It writes everything to disk first.
    ///
    /// # Errors
    /// When it does not end in time, or not with exit code 0.
    pub async fn terminate(self) -> Result<ServerSetup> {
        let ServerProcess { mut child, setup, .. } = self;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("it ended already")?, Signal::TERM)?;
        let status = timeout(END, child.wait()).await.with_context(|| format!("{} does not end", setup.id))??;
        ensure!(status.success(), "{} ended with {status}: {}", setup.id, last_line(&setup.log()));
        Ok(setup)
    }

    /// How many swamps this server has in some folders, by what is on disk.
    ///
    /// # Errors
    /// When the server does not tell.
    pub async fn count_swamps(&self, folders: &str) -> Result<u64> {
        let answer = self.ask(OpClass::Read, "GET", &format!("/v1/folders/{folders}?sizes")).await?;
        let folders = answer["folders"].as_array().context("the answer lists no folders")?;
        Ok(folders.iter().filter_map(|folder| folder["swamps"].as_u64()).sum())
    }

    /// Writes everything it has in some folders to disk.
    ///
    /// # Errors
    /// When it could not.
    pub async fn flush(&self, folders: &str) -> Result<()> {
        self.ask(OpClass::Overwrite, "POST", &format!("/v1/folders/{folders}/flush")).await.map(drop)
    }

    /// Asks this server something that is not about one swamp.
    async fn ask(&self, class: OpClass, method: &str, target: &str) -> Result<Value> {
        let (server, _) = self.direct.servers().into_iter().next().context("a client without a server")?;
        let request = ForwardRequest::new(class, method, target);
        let answer = self.direct.forward_to(&server.id, request).await?;
        let status = answer.status;
        let body = answer.body.collect().await?;
        ensure!(status < 300, "{method} {target}: {status} {}", String::from_utf8_lossy(&body));
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
    }
}

/// Reads what the server says until it says where it listens.
async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once("listening on ") {
            return Ok(rest.split([',', ' ']).next().unwrap_or(rest).to_owned());
        }
    }
    bail!("it ended")
}

/// The last thing a server logged, for errors.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it logged nothing").to_owned()
}

/// Runs a command of `hydra-router` to its end; answers what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub async fn router(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(ROUTER.path().await?);
    let output = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "hydra-router {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8(output.stdout)?)
}
