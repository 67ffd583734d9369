//! Flags, `HYDRA_*` variables and the file of settings, and which of them wins.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use hydra_core::duration::parse_duration;
use hydra_core::wire::DEFAULT_SERVER;
use hydra_core::{FolderCount, FolderSet};
use serde::{Deserialize, Deserializer};

use crate::Failure;
use crate::commands::Command;

/// Serves swamps of treasures over HTTP/JSON from one data directory.
#[derive(Debug, Parser)]
#[command(name = "hydra-server", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Flags win over HYDRA_* variables, those over the --config file, that over the defaults.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 not authorised.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeFlags,
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServeFlags {
    /// File of settings (TOML): the names of the flags with _ in place of -
    #[arg(long, env = "HYDRA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What can be set by flag, variable and file alike. What is not set takes its default later.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Data directory, created when missing [default: ./hydra-data]
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:4937]
    #[arg(long, env = "HYDRA_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Id of this server, 1 to 32 of a-z 0-9 _; fixed when the data directory is created
    /// [default: the host name with four random digits]
    #[arg(long, env = "HYDRA_ID")]
    pub(crate) id: Option<String>,
    /// Name of the cluster; fixed when the data directory is created [default: hydra]
    #[arg(long, env = "HYDRA_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// How many folders names are spread over; fixed when the data directory is created [default: 100]
    #[arg(long, env = "HYDRA_FOLDERS_TOTAL", value_name = "N")]
    pub(crate) folders_total: Option<FolderCount>,
    /// Folders this server owns, e.g. 0-49,60, or none for one that folders are moved to later; what was moved since
    /// wins [default: all that are not --standby]
    #[arg(long, env = "HYDRA_FOLDERS", value_name = "SET", value_parser = owned)]
    #[serde(deserialize_with = "owned_of_file")]
    pub(crate) folders: Option<FolderSet>,
    /// Folders this server keeps copies of [default: none]
    #[arg(long, env = "HYDRA_STANDBY", value_name = "SET")]
    pub(crate) standby: Option<FolderSet>,
    /// Other machines hold copies of the folders here
    #[arg(long, env = "HYDRA_COPIED", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) copied: Option<bool>,
    /// How often a swamp in use looks for files that came from elsewhere, where a folder has copies [default: 1s]
    #[arg(long, env = "HYDRA_FOREIGN_POLL", value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) foreign_poll: Option<Duration>,
    /// How long a file stays after a snapshot superseded it; longer than one pass of any copy tool [default: 1h]
    #[arg(long, env = "HYDRA_GC_DELAY", value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) gc_delay: Option<Duration>,
    /// How often all folders are walked for what is superseded or expired; 0s is never [default: 24h]
    #[arg(long, env = "HYDRA_SWEEP", value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) sweep: Option<Duration>,
    /// How many bytes the swamps in memory should take together, e.g. 4GiB [default: half of the memory]
    #[arg(long, env = "HYDRA_MEMORY", value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Pool this server belongs to [default: default]
    #[arg(long, env = "HYDRA_POOL", value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// How long requests may take to finish at shutdown, e.g. 30s [default: 30s]
    #[arg(long, env = "HYDRA_SHUTDOWN_GRACE", value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) shutdown_grace: Option<Duration>,
    /// File of tokens that requests need, read again when it changes; see `hydra-server token new`
    #[arg(long, env = "HYDRA_TOKENS", value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// Let /metrics need a token with the scope r, too
    #[arg(long, env = "HYDRA_PROTECT_METRICS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) protect_metrics: Option<bool>,
    /// Certificate chain (PEM) for TLS, the server's own first; read again when it changes
    #[arg(long, env = "HYDRA_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, env = "HYDRA_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Origin whose pages may change something here and read the answers, e.g. https://app.example; several with commas
    #[arg(long, env = "HYDRA_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) allow_origin: Option<Vec<String>>,
    /// Listen beyond this machine although anybody who reaches the port can read and change everything
    #[arg(long, env = "HYDRA_INSECURE_NO_AUTH", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) insecure_no_auth: Option<bool>,
    /// How log lines on stderr look [default: auto]
    #[arg(long, env = "HYDRA_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What is logged: a level, or target=level pairs with commas [default: info]
    #[arg(long, env = "HYDRA_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// A number of bytes: digits, with a unit behind them or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Bytes(pub(crate) u64);

const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim())).map(|(_, factor)| factor);
        let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(*factor));
        bytes
            .filter(|&bytes| bytes > 0)
            .map(Bytes)
            .ok_or_else(|| format!("{text:?} is no number of bytes; write 4GiB, 500MB or 4294967296, more than 0"))
    }
}

impl TryFrom<toml::Value> for Bytes {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Bytes, String> {
        match value {
            toml::Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text, in colour on a terminal.
    #[default]
    Auto,
    /// Text without colour.
    Text,
    /// One JSON object per line.
    Json,
}

/// A set of folders, or `none`.
fn owned(text: &str) -> Result<FolderSet, hydra_core::Error> {
    if text.trim() == "none" { Ok(FolderSet::new()) } else { text.parse() }
}

fn owned_of_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FolderSet>, D::Error> {
    let text = String::deserialize(deserializer)?;
    owned(&text).map(Some).map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    hydra_core::duration::as_text::deserialize(deserializer).map(Some)
}

impl ServeFlags {
    /// The settings with those of the file filled in where neither flag nor variable says anything.
    pub(crate) fn resolve(self) -> Result<Settings, Failure> {
        let Some(path) = self.config else { return Ok(self.settings) };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        let file: Settings = toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{} is not usable: {error}", path.display())))?;
        Ok(self.settings.or(file))
    }
}

impl Settings {
    fn or(self, file: Settings) -> Settings {
        Settings {
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            id: self.id.or(file.id),
            cluster: self.cluster.or(file.cluster),
            folders_total: self.folders_total.or(file.folders_total),
            folders: self.folders.or(file.folders),
            standby: self.standby.or(file.standby),
            copied: self.copied.or(file.copied),
            foreign_poll: self.foreign_poll.or(file.foreign_poll),
            gc_delay: self.gc_delay.or(file.gc_delay),
            sweep: self.sweep.or(file.sweep),
            memory: self.memory.or(file.memory),
            pool: self.pool.or(file.pool),
            shutdown_grace: self.shutdown_grace.or(file.shutdown_grace),
            tokens: self.tokens.or(file.tokens),
            protect_metrics: self.protect_metrics.or(file.protect_metrics),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            allow_origin: self.allow_origin.or(file.allow_origin),
            insecure_no_auth: self.insecure_no_auth.or(file.insecure_no_auth),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
        }
    }

    pub(crate) fn listen(&self) -> &str {
        self.listen.as_deref().unwrap_or(DEFAULT_SERVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_nothing() {
        let file: Settings = toml::from_str("id = \"file\"\npool = \"p\"\nshutdown_grace = \"5s\"").expect("TOML");
        let flags = Settings { id: Some("flag".into()), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.id.as_deref(), both.pool.as_deref()), (Some("flag"), Some("p")));
        assert_eq!(both.shutdown_grace, Some(Duration::from_secs(5)));
        assert_eq!(both.listen(), DEFAULT_SERVER);
    }

    #[test]
    fn a_server_may_own_no_folder() {
        let of_file = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.folders);
        assert_eq!(of_file("folders = \"none\"").expect("a set"), Some(FolderSet::new()));
        assert_eq!(of_file("folders = \"0-3\"").expect("a set").expect("some").len(), 4);
        assert!(of_file("folders = \"nobody\"").is_err() && owned("").is_err());
    }

    #[test]
    fn bytes_have_units_and_limits() {
        let bytes = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!((bytes("4GiB"), bytes("500 mb"), bytes("17")), (Ok(4 << 30), Ok(500_000_000), Ok(17)));
        for wrong in ["", "0", "4G", "GiB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        let of_file = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.memory);
        assert_eq!(of_file("memory = \"2MiB\"").expect("a text"), Some(Bytes(2 << 20)));
        assert_eq!(of_file("memory = 4096").expect("a number"), Some(Bytes(4096)));
        assert!(of_file("memory = true").is_err());
    }

    #[test]
    fn a_misspelt_setting_names_its_line() {
        let error = toml::from_str::<Settings>("id = \"a\"\nfolder = \"0-9\"\n").expect_err("misspelt").to_string();
        assert!(error.contains("line 2") && error.contains("folder"), "{error}");
    }
}
