//! Bodies of the steps that move a folder from one server to another: `POST /v1/folders/{F}/…`.

use serde::{Deserialize, Serialize};

use crate::folder::FolderId;
use crate::manifest::ManifestFile;

/// The most pieces of files that may be asked for at once: 10 000.
pub const MAX_PIECES: usize = 10_000;

/// A copy takes no more writes, because the folder is about to move: `fence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceBody {
    /// The epoch in which the folder gets its new owner.
    pub epoch: u64,
    /// The id of the new owner.
    pub to: String,
}

/// A fenced copy takes writes again: `unfence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnfenceBody {
    /// The epoch it was fenced for.
    pub epoch: u64,
    /// The id of the server in whose place it takes them; the one before the fence unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A folder begins to come to this server: `import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportFolderBody {
    /// The epoch in which this server becomes the owner.
    pub epoch: u64,
    /// The id of the owner until then.
    pub from: String,
}

/// The owner takes no writes for a moment: `seal`. With a seal, that one holds for longer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealBody {
    /// The epoch in which the folder gets its new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The id of the new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The seal to be renewed, in place of the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// A seal that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedBody {
    /// The folder.
    pub folder: FolderId,
    /// Names this seal.
    pub seal: String,
    /// What the token of the move hashes to.
    pub token_hash: String,
    /// How many seconds it holds unless it is renewed.
    pub lease_seconds: u64,
}

/// The owner takes writes again: `unseal`; and what the files of a folder are: `manifest`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnderSealBody {
    /// The seal. To unseal without one ends whatever seal there is; a manifest without one is not the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// The files of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestBody {
    /// The folder.
    pub folder: FolderId,
    /// Stands for exactly these files with these lengths and hashes.
    pub manifest: String,
    /// What the token of the move hashes to; only under a seal, and once the folder has moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<String>,
    /// The files, in the order of their paths.
    pub files: Vec<ManifestFile>,
}

/// Pieces of files, to be answered one after the other: `files`. At most [`MAX_PIECES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PiecesBody {
    /// The pieces.
    pub files: Vec<PieceBody>,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PieceBody {
    /// The file, as a manifest has it.
    pub path: String,
    /// Where the piece begins.
    pub from: u64,
    /// Where it ends.
    pub bytes: u64,
}

/// This server fetches what it lacks of a folder that is coming here: `pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullBody {
    /// The address of the source. The token of this request goes there, too.
    pub url: String,
    /// The seal of the source; without one this is a first copy, and nothing is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
    /// Whether files are fetched; else only what another tool has copied is looked at. Default yes.
    #[serde(default = "yes")]
    pub copy: bool,
    /// Certificates (PEM) that the source must be signed by; needed for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<String>,
}

fn yes() -> bool {
    true
}

/// How far a pull came. It ends by itself after some seconds, to be asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PulledBody {
    /// The folder.
    pub folder: FolderId,
    /// Stands for the files that were asked for.
    pub manifest: String,
    /// How many files were completed.
    pub files: u64,
    /// How many bytes came.
    pub bytes: u64,
    /// How many files are still missing, or a part of them.
    pub missing_files: u64,
    /// How many bytes are.
    pub missing_bytes: u64,
    /// Whether everything under the seal is here, verified and on disk.
    pub ready: bool,
}

/// The owner lets go of the folder for good: `commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitBody {
    /// The epoch in which the folder gets its new owner.
    pub epoch: u64,
    /// The id of the new owner.
    pub to: String,
    /// The seal.
    pub seal: String,
    /// What the target has verified.
    pub manifest: String,
}

/// The folder has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedBody {
    /// The folder.
    pub folder: FolderId,
    /// Its epoch.
    pub epoch: u64,
    /// The id of the new owner.
    pub to: String,
    /// What the new owner begins to serve with.
    pub token: String,
}

/// The new owner begins to serve: `activate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateBody {
    /// The epoch of the move.
    pub epoch: u64,
    /// The token that the source gave away.
    pub token: String,
}

/// The folder does not come here after all: `abort`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortBody {
    /// The epoch of the move.
    pub epoch: u64,
}

/// A copy becomes the owner, because the old one is dead: `promote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteBody {
    /// The epoch in which the folder gets its new owner.
    pub epoch: u64,
    /// The id of the old owner.
    pub of: String,
}

/// A promoted folder, and what is here of the old owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotedBody {
    /// The folder.
    pub folder: FolderId,
    /// Its epoch.
    pub epoch: u64,
    /// How many files of the old owner are here.
    pub files: u64,
    /// When the newest of them last grew here, in seconds since 1970; `null` when there is none. What was
    /// acknowledged later is only on the old owner's disk.
    pub newest: Option<u64>,
}

/// Which of these files are not here: `lacks`. At most [`MAX_PIECES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LacksBody {
    /// The files, as a manifest has them.
    pub files: Vec<ManifestFile>,
}

/// Files that are not here, or shorter, or other ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackedBody {
    /// The folder.
    pub folder: FolderId,
    /// Their paths.
    pub missing: Vec<String>,
}

/// The files of a folder that has moved are removed: `clean`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanBody {
    /// What the files have to be; see [`ManifestBody::manifest`].
    pub manifest: String,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanedBody {
    /// The folder.
    pub folder: FolderId,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}
