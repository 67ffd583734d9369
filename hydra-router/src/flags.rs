//! Flags, `HYDRA_*` variables and the file of settings, and which of them wins.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hydra_core::duration::parse_duration;
use hydra_core::wire::DEFAULT_ROUTER;
use hydra_core::{FolderSet, ImportMode, Pattern, SwampName};
use serde::{Deserialize, Deserializer};

use crate::Failure;
use crate::bench::BenchFlags;
use crate::moving::MoveFlags;
use crate::policies::{ApplyFlags, ShowPoliciesFlags};
use crate::promote::PromoteFlags;
use crate::treasures::{DeleteFlags, GetFlags, ListFlags, PutFlags, WatchFlags};

/// Where the client map is unless told otherwise.
const DEFAULT_MAP: &str = "hydra.toml";

/// A gateway in front of any number of servers by a client map, and commands over such a map.
#[derive(Debug, Parser)]
#[command(name = "hydra-router", version)]
#[command(after_help = "Flags win over HYDRA_* variables, those over the --config file, that over the defaults.\n\
    Exit codes: 0 ok, 1 failed, 2 usage or a map that is refused, 3 not found, 4 conflict, 5 unavailable, 6 not authorised.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pass requests on to the servers of a map
    Serve(Box<ServeFlags>),
    /// Tell where a name lives and why, and what the servers think of that
    Explain(ExplainFlags),
    /// Copy what one server wrote to another one, with rsync; never deletes or overwrites anything
    Sync(SyncFlags),
    /// Let folders go from one server to another while they are used; no write is lost
    Move(Box<MoveFlags>),
    /// Make a copy the owner of folders whose owner is dead
    Promote(Box<PromoteFlags>),
    /// List the swamps of all servers, by folder and path; a cursor goes on also when the map has changed
    Scan(ScanFlags),
    /// Write the treasures of all servers as lines of JSON
    Export(ExportFlags),
    /// Send lines of JSON to the servers of their swamps
    Import(ImportFlags),
    /// Print the value of a treasure
    Get(GetFlags),
    /// Store a value, and print its version
    Put(PutFlags),
    /// Remove a treasure
    Delete(DeleteFlags),
    /// Print the treasures of a swamp
    List(ListFlags),
    /// Print what changes in a swamp as it happens, one line of JSON per event
    Watch(WatchFlags),
    /// Look at the policies of all servers, or register some everywhere
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Measure how much the servers of a map do in a second, through the client
    Bench(BenchFlags),
    /// Tell who answers, who owns what, what the copies lack and what moves; exit 5 when a server is away
    Status(StatusFlags),
    /// Say which folders should move when servers come or go; changes nothing
    Plan(PlanFlags),
    /// Look at a client map
    Map {
        #[command(subcommand)]
        command: MapCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Register the policies of a file on every server; those that are not in it stay
    Apply(ApplyFlags),
    /// Print the policies that servers have, and where they differ
    Show(ShowPoliciesFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Report everything that is wrong with a map; exit 2 if it is refused
    Check(CheckFlags),
    /// Print a map with every default written out
    Show(ShowFlags),
    /// Tell which folders another map moves, and whether it may take the place of the first; exit 2 if not
    Diff(DiffFlags),
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServeFlags {
    /// File of settings (TOML): the names of the flags with _ in place of -
    #[arg(long, env = "HYDRA_ROUTER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What can be set by flag, variable and file alike. What is not set takes its default later.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Client map, read again when its content changes and at SIGHUP [default: hydra.toml]
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE")]
    pub(crate) map: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:4938]
    #[arg(long, env = "HYDRA_ROUTER_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Id of this router, in every answer as Hydra-Router [default: router]
    #[arg(long, env = "HYDRA_ROUTER_ID")]
    pub(crate) id: Option<String>,
    /// How long requests may take to finish at shutdown, e.g. 30s [default: 30s]
    #[arg(long, env = "HYDRA_SHUTDOWN_GRACE", value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) shutdown_grace: Option<Duration>,
    /// Send the token of the map with requests that bring none: whoever reaches the router may do what that token may
    #[arg(long, env = "HYDRA_ROUTER_OWN_TOKEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) own_token: Option<bool>,
    /// Certificate chain (PEM) for TLS, the router's own first; read again when it changes
    #[arg(long, env = "HYDRA_ROUTER_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, env = "HYDRA_ROUTER_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
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
            map: self.map.or(file.map),
            listen: self.listen.or(file.listen),
            id: self.id.or(file.id),
            shutdown_grace: self.shutdown_grace.or(file.shutdown_grace),
            own_token: self.own_token.or(file.own_token),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            insecure_no_auth: self.insecure_no_auth.or(file.insecure_no_auth),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
        }
    }

    pub(crate) fn map(&self) -> PathBuf {
        self.map.clone().unwrap_or_else(|| DEFAULT_MAP.into())
    }

    pub(crate) fn listen(&self) -> &str {
        self.listen.as_deref().unwrap_or(DEFAULT_ROUTER)
    }
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value per line.
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainFlags {
    /// Names, sanctuary/realm/swamp
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<SwampName>,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// Do not ask the servers
    #[arg(long)]
    pub(crate) offline: bool,
    /// Address of a router: what that process thinks of the servers, and what it has learned
    #[arg(long, value_name = "URL", conflicts_with = "offline")]
    pub(crate) router: Option<String>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ScanFlags {
    /// Which swamps: three parts, each a name, prefix* or *
    #[arg(default_value = "*/*/*")]
    pub(crate) pattern: Pattern,
    /// Print the treasures of the swamps in place of their names, as lines of JSON
    #[arg(long)]
    pub(crate) treasures: bool,
    /// Also say how many files and bytes each swamp has
    #[arg(long)]
    pub(crate) info: bool,
    /// At most so many swamps
    #[arg(long)]
    pub(crate) limit: Option<u64>,
    /// Go on where another scan of the same pattern ended
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// How swamps are printed
    #[arg(long, value_enum, default_value_t = Output::Ndjson)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ExportFlags {
    /// Which swamps: three parts, each a name, prefix* or *
    #[arg(default_value = "*/*/*")]
    pub(crate) pattern: Pattern,
    /// Only these folders, e.g. 0-49,60
    #[arg(long, value_name = "SET")]
    pub(crate) folders: Option<FolderSet>,
    /// Also what has expired and is still kept
    #[arg(long)]
    pub(crate) expired: bool,
    /// Write to this file, which must not exist, in place of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImportFlags {
    /// Lines of JSON, as an export writes them; - is stdin
    pub(crate) file: PathBuf,
    /// Which lines are written: all (upsert), those whose key does not exist (create), or is older (newer)
    #[arg(long, default_value = "upsert")]
    pub(crate) mode: Mode,
    /// Have every part on disk before the next one is sent
    #[arg(long)]
    pub(crate) sync: bool,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Which lines an import writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode(pub(crate) ImportMode);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        ImportMode::from_text(text).map(Mode).ok_or_else(|| format!("{text:?} is none of create, upsert and newer"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusFlags {
    /// Look again every two seconds, until a signal comes
    #[arg(long)]
    pub(crate) watch: bool,
    /// Do not ask how much is in the folders, for which servers walk them; what copies lack is not known then
    #[arg(long)]
    pub(crate) quick: bool,
    /// Address of a router: its breakers, where folders stay, and what it has learned, too; several with commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) router: Vec<String>,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// How the state is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct PlanFlags {
    /// A server that is to carry folders: ID=URL, or just ID where the map has it; several with commas
    #[arg(long, value_name = "ID=URL", value_delimiter = ',')]
    pub(crate) add: Vec<Named<Option<String>>>,
    /// A server that is to carry nothing any more; several with commas
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) drain: Vec<String>,
    /// What servers should have their share of
    #[arg(long, value_enum, default_value_t = By::Folders)]
    pub(crate) by: By,
    /// How much a server can carry compared with the others, in place of its capacity in the map; several with commas
    #[arg(long, value_name = "ID=NUMBER", value_delimiter = ',')]
    pub(crate) capacity: Vec<Named<f64>>,
    /// Pool whose folders are shared out
    #[arg(long, default_value = "default")]
    pub(crate) pool: String,
    /// Do not ask the servers how much is in their folders
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print nothing but the map when everything has moved
    #[arg(long)]
    pub(crate) print_map: bool,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// What a plan shares out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The number of folders.
    Folders,
    /// The bytes in them.
    Bytes,
}

/// A server and something about it: `ID=VALUE`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named<T> {
    pub(crate) name: String,
    pub(crate) value: T,
}

impl FromStr for Named<Option<String>> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || value == Some("") {
            return Err(format!("{text:?} is no server; write s3=http://10.0.0.3:4937"));
        }
        Ok(Named { name: name.to_owned(), value: value.map(str::to_owned) })
    }
}

impl FromStr for Named<f64> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = text.split_once('=').and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?)));
        match read.filter(|(name, value)| !name.is_empty() && value.is_finite() && *value > 0.0) {
            Some((name, value)) => Ok(Named { name: name.to_owned(), value }),
            None => Err(format!("{text:?} is no capacity; write s1=2, with a number above 0")),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SyncFlags {
    /// Server whose files are copied
    #[arg(value_name = "FROM", required_unless_present = "from")]
    source: Option<String>,
    /// The same, as a flag
    #[arg(long, value_name = "ID", conflicts_with = "source")]
    from: Option<String>,
    /// Server that gets them; run this on its machine
    #[arg(long, value_name = "ID")]
    pub(crate) to: String,
    /// Folders to copy, e.g. 0-49,60 [default: all that a route of the map gives to both]
    #[arg(long, value_name = "SET")]
    pub(crate) folders: Option<FolderSet>,
    /// Copy files of all writers, not only those of --from: for a server that lost its disk
    #[arg(long)]
    pub(crate) all_writers: bool,
    /// Let the folders return that --from took over for --to, if all of their files are there
    #[arg(long)]
    pub(crate) settle: bool,
    /// Do it again and again, with this pause, until a signal comes; an error does not end it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) every: Option<Duration>,
    /// Only say what would be copied
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where the directory of --from is, as seen from here [default: its sync in the map]
    #[arg(long, value_name = "PLACE")]
    pub(crate) from_dir: Option<String>,
    /// Where the directory of --to is, as seen from here [default: its sync in the map]
    #[arg(long, value_name = "PLACE")]
    pub(crate) to_dir: Option<String>,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

impl SyncFlags {
    /// The server whose files are copied, however that was said.
    pub(crate) fn from(&self) -> &str {
        self.source.as_deref().or(self.from.as_deref()).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckFlags {
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
    /// Ask every server who it is and what it owns, too
    #[arg(long)]
    pub(crate) live: bool,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ShowFlags {
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = DEFAULT_MAP)]
    pub(crate) map: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DiffFlags {
    /// The map that is in force
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,
    /// The map that is to take its place
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
    /// Ask the servers that folders are taken from whether they still own them, too
    #[arg(long)]
    pub(crate) live: bool,
    /// The data of folders that are still owned elsewhere is where the new map says
    #[arg(long)]
    pub(crate) accept_moves: bool,
    /// How the difference is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
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
        let file: Settings = toml::from_str("id = \"file\"\nmap = \"m\"\nshutdown_grace = \"5s\"").expect("TOML");
        let flags = Settings { id: Some("flag".into()), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.id.as_deref(), both.map()), (Some("flag"), PathBuf::from("m")));
        assert_eq!((both.shutdown_grace, both.listen()), (Some(Duration::from_secs(5)), DEFAULT_ROUTER));
    }
}
