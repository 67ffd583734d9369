//! The commands beside `serve`, and their flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use hydra_core::duration::parse_duration;
use hydra_core::{FolderCount, FolderSet, Pattern};
use hydra_server::Scope;

use crate::flags::ServeFlags;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a data directory (what happens without a command, too)
    Serve(Box<ServeFlags>),
    /// Read and check every byte of a data directory; exit 1 if anything is damaged or missing
    ///
    /// Every chunk is checked by its checksums and every swamp merged as a server would. A server may be at
    /// work on the directory. Nothing is changed.
    Verify(VerifyFlags),
    /// Print what stands in a file, or in the files of a swamp directory and what they say together
    ///
    /// One JSON object per line: header, records, damage and footer of each file, then what each file is to
    /// the swamp, then the swamp. Works on a copy of a swamp directory anywhere, too. Nothing is changed.
    Inspect(InspectFlags),
    /// Write one snapshot of every swamp that gains by it; no server may be at work
    ///
    /// A running server does it with POST /v1/folders/{F}/compact. Nothing is removed: `gc` does that.
    Compact(UpkeepFlags),
    /// Remove the files that snapshots supersede, and what crashes left; no server may be at work
    ///
    /// A running server does it with POST /v1/folders/{F}/gc.
    Gc(UpkeepFlags),
    /// Check a data directory and what is around it, and say what to do; exit 1 if anything fails
    ///
    /// Quick: reads names, facts and headers, no data. A server may be at work on the directory. Nothing is changed.
    Doctor(DoctorFlags),
    /// Take over the files of a server that is gone for good; no server may be at work
    ///
    /// Its files become this server's own, so that they are collected when snapshots cover them. Also the way
    /// back when .hydra/ was lost: adopt the own old id. If that server is alive, what it writes may be lost.
    Adopt(AdoptFlags),
    /// Mend damaged and incomplete swamps; no server may be at work
    ///
    /// Single flipped bits are turned back without any help. Else whole files are taken from copies (--from). What no
    /// copy has is given up only with --accept-loss: what can be read is kept, and what is lost is printed.
    /// Every file that is replaced is kept below .hydra/damaged/.
    Repair(RepairFlags),
    /// Write the values of another data directory, such as a snapshot, as new ones; no server may be at work
    ///
    /// Every swamp that is there becomes exactly what it is there, with new stamps, so it wins over every copy.
    /// Running it again writes only what still differs.
    Restore(RestoreFlags),
    /// Take a data directory to another number of folders, by renaming; no server may be at work
    ///
    /// All copies of the data have to be taken there before their servers and sync tools run again. Where the new
    /// number is a multiple of the old one, folder g holds what folder g modulo the old number held, so the client map
    /// follows. What was cut short goes on when it is run again, or turns back when it is given the old number.
    Refold(RefoldFlags),
    /// Tell where a name lives: hash, folder and path on disk
    Resolve(ResolveFlags),
    /// Make tokens that clients prove with who they are
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a new token and print it, this once: the file of tokens has only its hash
    New(NewTokenFlags),
}

#[derive(Debug, Args)]
pub(crate) struct NewTokenFlags {
    /// What the token is called in the log and in refusals
    #[arg(long)]
    pub(crate) name: String,
    /// What it allows: r (read), w (write), a (administer), destroy (remove whole swamps, with w); several with commas
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true)]
    pub(crate) scopes: Vec<Scope>,
    /// The swamps it allows that for: patterns such as shop/*/*; several with commas
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = "*/*/*")]
    pub(crate) swamps: Vec<Pattern>,
    /// File of tokens to add the entry to, made when missing; without it the entry is printed
    #[arg(long, env = "HYDRA_TOKENS", value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// How the token is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
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
pub(crate) struct VerifyFlags {
    /// Data directory; it may be in use
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// Only these folders, e.g. 0-49
    #[arg(long, value_name = "SET")]
    pub(crate) folder: Option<FolderSet>,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// A chunk file, or the directory of a swamp
    pub(crate) path: PathBuf,
    /// Of a swamp directory: what decides each key and which files hold it, in place of the single records
    #[arg(long)]
    pub(crate) merged: bool,
    /// How the records are printed
    #[arg(long, value_enum, default_value_t = Output::Ndjson)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct UpkeepFlags {
    /// Data directory; no server may be at work on it
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// Only these folders, e.g. 0-49
    #[arg(long, value_name = "SET")]
    pub(crate) folder: Option<FolderSet>,
    /// How long a file stays after a snapshot superseded it; longer than one pass of any copy tool
    #[arg(long, env = "HYDRA_GC_DELAY", value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    pub(crate) gc_delay: Duration,
    /// No other machine has copies of the folders, so deletes need not be remembered
    #[arg(long)]
    pub(crate) not_copied: bool,
    /// Id of the server, where none has used the directory yet
    #[arg(long, env = "HYDRA_ID")]
    pub(crate) id: Option<String>,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// Data directory; it may be in use
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptFlags {
    /// Id of the server that is gone, as it begins the names of its files
    pub(crate) server: String,
    /// Data directory; no server may be at work on it
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Also when a file of that server changed in the last 10 minutes
    #[arg(long)]
    pub(crate) force: bool,
    /// Only tell what would be taken over
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RefoldFlags {
    /// How many folders there are to be, 1 to 65536
    #[arg(value_name = "N")]
    pub(crate) folders: FolderCount,
    /// Data directory; no server may be at work on it
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RepairFlags {
    /// Data directory; no server may be at work on it
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// A copy to take whole files from: a data directory of the same cluster, in use or not, or one folder of
    /// it. May be given several times, the best first
    #[arg(long, value_name = "COPY")]
    pub(crate) from: Vec<PathBuf>,
    /// Give up what no copy has; what can be read is kept
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// Only these folders, e.g. 0-49
    #[arg(long, value_name = "SET")]
    pub(crate) folder: Option<FolderSet>,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    /// The directory to read: a data directory, e.g. in a snapshot. It is not changed
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Data directory to write to; no server may be at work on it
    #[arg(long, env = "HYDRA_DATA", value_name = "DIR", default_value = "./hydra-data")]
    pub(crate) data: PathBuf,
    /// Only swamps of this name or pattern, e.g. users/profiles/alice or users/*/*
    #[arg(long, value_name = "PATTERN")]
    pub(crate) swamp: Option<Pattern>,
    /// Only swamps of these folders, e.g. 0-49
    #[arg(long, value_name = "SET")]
    pub(crate) folder: Option<FolderSet>,
    /// Only put back keys that are absent now; change and delete nothing
    #[arg(long, conflicts_with = "delete_absent_swamps")]
    pub(crate) only_missing: bool,
    /// Also empty the swamps that are not in --from
    #[arg(long)]
    pub(crate) delete_absent_swamps: bool,
    /// Write back what can be read of swamps that are damaged or incomplete in --from; delete nothing in them
    #[arg(long)]
    pub(crate) even_incomplete: bool,
    /// Read a directory of another cluster, too
    #[arg(long)]
    pub(crate) any_cluster: bool,
    /// Id of the server, where none has used the directory yet
    #[arg(long, env = "HYDRA_ID")]
    pub(crate) id: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only count what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveFlags {
    /// A name, sanctuary/realm/swamp
    #[arg(required_unless_present = "find")]
    pub(crate) name: Option<String>,
    /// How many folders there are
    #[arg(long, value_name = "N", default_value_t = FolderCount::DEFAULT)]
    pub(crate) folders_total: FolderCount,
    /// Find names that land in --in: this one, or it with -1, -2, … behind it
    #[arg(long, value_name = "PREFIX", requires = "folders", conflicts_with = "name")]
    pub(crate) find: Option<String>,
    /// The folders for --find
    #[arg(long = "in", id = "folders", value_name = "SET", requires = "find")]
    pub(crate) folders: Option<FolderSet>,
    /// How many names to find
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub(crate) count: usize,
    /// How the places are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}
