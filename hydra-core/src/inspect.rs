//! SKELETON: reading chunks for operators.
use crate::error::Result;
use crate::folder::FolderSet;
use std::path::Path;

/// Header and records of one chunk (or of every chunk of a swamp directory), each as a JSON value.
pub fn inspect(_path: &Path, _each: &mut dyn FnMut(serde_json::Value) -> std::io::Result<()>) -> Result<()> {
    todo!()
}

/// What `verify` found in one file.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// path below the data directory
    pub path: String,
    /// what is wrong, one sentence
    pub problem: String,
    /// offset in the file
    pub offset: Option<u64>,
    /// false for harmless facts (a torn tail after a crash)
    pub damage: bool,
}

/// Totals of a verification.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verified {
    /// swamps
    pub swamps: u64,
    /// files
    pub files: u64,
    /// bytes
    pub bytes: u64,
    /// records
    pub records: u64,
    /// findings
    pub findings: Vec<Finding>,
}

/// Reads and checks every byte of every chunk in these folders (all when `None`). Works on a live directory. `progress` is called with files done so far.
pub fn verify(_data_dir: &Path, _folders: Option<&FolderSet>, _progress: &mut dyn FnMut(u64)) -> Result<Verified> {
    todo!()
}
