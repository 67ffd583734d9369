//! rsync: the command, running it, what it counts, and what its exit codes mean.
//!
//! Files of Hydra only ever grow, and have one writer. So a copy only ever adds: what the receiver has
//! and the source has not is left alone, and of a file that both have the longer one is the newer.
//! `--append-verify` holds to that. `--delete`, `--checksum` and `--ignore-times` do not, and are never used.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use hydra_sdk::FolderSet;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::place::Place;
use crate::Failure;

/// Files went while they were copied: their successors are copied by the next run.
const VANISHED: i32 = 24;

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) vanished: bool,
}

/// A command of rsync, ready to be run any number of times.
#[derive(Debug)]
pub(crate) struct Rsync {
    arguments: Vec<String>,
    is_dry: bool,
    shows_progress: bool,
}

impl Rsync {
    /// Copies the files of one writer, or of all, in some folders, or in all.
    pub(crate) fn new(
        from: &Place,
        to: &Place,
        writer: Option<&str>,
        folders: Option<&FolderSet>,
        is_dry: bool,
        shows_progress: bool,
    ) -> Rsync {
        let mut arguments: Vec<String> =
            ["-a", "--append-verify", "--prune-empty-dirs", "--stats", "--no-human-readable"].map(str::to_owned).into();
        arguments.extend(is_dry.then(|| "--dry-run".to_owned()));
        arguments.extend(shows_progress.then(|| "--info=progress2".to_owned()));
        arguments.push("--exclude=/.hydra".to_owned());
        if let Some(folders) = folders {
            arguments.extend(folders.iter().map(|folder| format!("--include=/{:05}/", folder.get())));
            arguments.push("--exclude=/*".to_owned());
        }
        arguments.push("--include=*/".to_owned());
        arguments.push(format!("--include={}-*.hy[ls]", writer.unwrap_or("*")));
        arguments.push("--exclude=*".to_owned());
        arguments.extend([from.inside(), to.inside()]);
        Rsync { arguments, is_dry, shows_progress }
    }

    /// Runs it, and once more if files went meanwhile.
    pub(crate) async fn run(&self) -> Result<Copied, Failure> {
        let mut copied = self.run_once().await?;
        if copied.vanished {
            let again = self.run_once().await?;
            copied = Copied {
                files: copied.files + again.files,
                bytes: copied.bytes + again.bytes,
                vanished: again.vanished,
            };
        }
        Ok(copied)
    }

    async fn run_once(&self) -> Result<Copied, Failure> {
        let mut child = command(&self.arguments).stdout(Stdio::piped()).spawn().map_err(|error| unspawned(&error))?;
        let mut counts = Counts { shows_progress: self.shows_progress, ..Counts::default() };
        if let Some(stdout) = child.stdout.take() {
            counts.read(stdout).await.map_err(|error| Failure::failed(format!("cannot read from rsync: {error}")))?;
        }
        let status = child.wait().await.map_err(|error| Failure::failed(format!("cannot wait for rsync: {error}")))?;
        let bytes = if self.is_dry { counts.total } else { counts.literal };
        match status.code() {
            Some(0) => Ok(Copied { files: counts.files, bytes, vanished: false }),
            Some(VANISHED) => Ok(Copied { files: counts.files, bytes, vanished: true }),
            code => Err(ended_with(code)),
        }
    }
}

/// As a shell takes it.
impl fmt::Display for Rsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rsync")?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

fn quoted(argument: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:@,+%".contains(&byte);
    if argument.bytes().all(is_plain) { argument.to_owned() } else { format!("'{}'", argument.replace('\'', "'\\''")) }
}

fn command(arguments: &[String]) -> Command {
    let mut command = Command::new("rsync");
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Copies the files that say what a data directory is.
pub(crate) async fn fetch_identity(from: &str, to: &Path) -> Result<(), Failure> {
    let filters = ["--include=/HYDRA", "--include=/.hydra/", "--include=/.hydra/server.toml", "--exclude=*"];
    let mut arguments: Vec<String> = std::iter::once("-r").chain(filters).map(str::to_owned).collect();
    arguments.extend([from.to_owned(), format!("{}/", to.display())]);
    let status = command(&arguments).stdout(Stdio::null()).status().await.map_err(|error| unspawned(&error))?;
    if status.success() { Ok(()) } else { Err(ended_with(status.code())) }
}

fn unspawned(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::unavailable(
            "rsync is not installed here, or not in PATH; install the package rsync on both machines",
        ),
        _ => Failure::failed(format!("cannot start rsync: {error}")),
    }
}

fn ended_with(code: Option<i32>) -> Failure {
    match code {
        Some(code) => Failure::failed(format!("rsync ended with {code}: {}", meaning(code))),
        None => Failure::failed("rsync was ended by a signal"),
    }
}

/// What an exit code of rsync means, in a predicate that fits all its causes.
fn meaning(code: i32) -> &'static str {
    match code {
        1 => "it does not know one of these flags; --append-verify needs 3.0 or newer on both machines",
        2 => "the rsync on the other machine is too old or too new for this one",
        3 | 23 => "some files or directories could not be read or written, see above; the others were copied",
        4 | 6 => "it was asked for something this system cannot do",
        5 | 10 | 12 => "the connection to the other machine could not be made, or broke; what was copied stays",
        11 => "a file could not be read or written; the disk may be full",
        13 | 14 | 21 => "its processes lost each other",
        20 => "it was interrupted; what was copied stays",
        22 => "there was not enough memory",
        30 | 35 => "the other machine did not answer in time",
        126 | 127 => "rsync is not installed on the other machine, or may not be run there",
        255 => "ssh could not connect, or was refused; try ssh to that machine by hand",
        _ => "see above",
    }
}

/// What rsync says about its work.
#[derive(Debug, Default)]
struct Counts {
    files: u64,
    literal: u64,
    total: u64,
    shows_progress: bool,
}

impl Counts {
    /// Reads to the end. Progress comes in lines that end with a return.
    async fn read(&mut self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        let (mut pending, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
        loop {
            let count = from.read(&mut buffer).await?;
            pending.extend_from_slice(&buffer[..count]);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n' || byte == b'\r') {
                let text: Vec<u8> = pending.drain(..=end).collect();
                self.line(String::from_utf8_lossy(&text).trim());
            }
            if count == 0 {
                self.clear_progress();
                return Ok(());
            }
        }
    }

    fn line(&mut self, line: &str) {
        let number = |key: &str| {
            let digits = line.strip_prefix(key)?.split_whitespace().next()?;
            digits.parse::<u64>().ok()
        };
        if let Some(files) = number("Number of regular files transferred:") {
            self.files = files;
        } else if let Some(literal) = number("Literal data:") {
            self.literal = literal;
        } else if let Some(total) = number("Total transferred file size:") {
            self.total = total;
        } else if self.shows_progress && line.contains('%') {
            // Nobody may be looking any more.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }

    fn clear_progress(&self) {
        if self.shows_progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().expect("a place")
    }

    #[test]
    fn the_command_only_ever_adds() {
        let rsync = Rsync::new(&place("root@h1:/data"), &place("/srv/my data"), Some("s1"), None, false, false);
        assert_eq!(
            rsync.to_string(),
            "rsync -a --append-verify --prune-empty-dirs --stats --no-human-readable --exclude=/.hydra \
             '--include=*/' '--include=s1-*.hy[ls]' '--exclude=*' root@h1:/data/ '/srv/my data/'"
        );
        let folders: FolderSet = "3,50-51".parse().expect("folders");
        let rsync = Rsync::new(&place("/a"), &place("/b"), None, Some(&folders), true, true);
        assert_eq!(
            rsync.to_string(),
            "rsync -a --append-verify --prune-empty-dirs --stats --no-human-readable --dry-run --info=progress2 \
             --exclude=/.hydra --include=/00003/ --include=/00050/ --include=/00051/ '--exclude=/*' '--include=*/' \
             '--include=*-*.hy[ls]' '--exclude=*' /a/ /b/"
        );
        for never in ["--delete", "--checksum", "--ignore-times", "--inplace"] {
            assert!(!rsync.arguments.iter().any(|argument| argument.starts_with(never)), "{never}");
        }
    }

    #[test]
    fn every_code_has_words() {
        for code in [1, 2, 3, 5, 10, 11, 12, 20, 23, 30, 35, 127, 255] {
            let said = ended_with(Some(code)).message;
            assert!(said.contains(&code.to_string()) && !said.ends_with("see above"), "{said}");
        }
        assert!(ended_with(Some(99)).message.contains("99"));
    }

    #[tokio::test]
    async fn counts_are_read_between_progress() {
        let text = "  1,024  50%  1MB/s\r  2048 100%\rNumber of files: 9 (reg: 3)\n\
            Number of regular files transferred: 12\nTotal transferred file size: 2048 bytes\nLiteral data: 1024 bytes\n";
        let mut counts = Counts::default();
        counts.read(text.as_bytes()).await.expect("read");
        assert_eq!((counts.files, counts.literal, counts.total), (12, 1024, 2048));
    }
}
