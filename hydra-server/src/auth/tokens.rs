//! The file of tokens: a JSON list of names, hashes, scopes and patterns. The tokens themselves stand nowhere.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_core::{Error, ErrorCode, Pattern};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::{ConstantTimeEq, ConstantTimeLess};

use super::scope::Scope;
use crate::reload::{Reloaded, read_small};

/// The most tokens one file may have; every request is compared with all of them.
const MOST_TOKENS: usize = 10_000;

/// The tokens of a server, read again when their file changes.
///
/// Clones share what was read.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Reloaded<Known>>);

impl Tokens {
    /// Reads a file of tokens: a JSON list of [`TokenEntry`].
    ///
    /// # Errors
    /// `invalid-config` names the file, the entry and what is wrong with it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Tokens, Error> {
        let read = |files: &[PathBuf]| Known::read(&files[0]);
        Ok(Tokens(Arc::new(Reloaded::open(vec![path.into()], read)?)))
    }

    /// The file of the tokens.
    pub(crate) fn files(&self) -> &Reloaded<Known> {
        &self.0
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        self.0.get()
    }
}

/// One entry of a file of tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// What the token is called in the log and in refusals: 1 to 64 of letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The names it allows that for.
    pub swamps: Vec<Pattern>,
}

impl TokenEntry {
    /// A new token: its entry, and the token itself, which is kept nowhere.
    ///
    /// # Errors
    /// `invalid-config` for a name that is not allowed, no scope or no pattern; `io` when the system has no randomness.
    pub fn fresh(name: &str, scopes: &[Scope], swamps: &[Pattern]) -> Result<(TokenEntry, String), Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(ErrorCode::Io, format!("the system gives no random numbers: {error}")))?;
        let token = format!("hyd_{}", URL_SAFE_NO_PAD.encode(random));
        let entry = TokenEntry {
            name: name.to_owned(),
            sha256: hexadecimal(digest(&SHA256, token.as_bytes()).as_ref()),
            scopes: scopes.to_vec(),
            swamps: swamps.to_vec(),
        };
        Token::of(&entry).map_err(|why| Error::new(ErrorCode::InvalidConfig, why))?;
        Ok((entry, token))
    }

    /// Adds the entry to a file, which is made when it is missing; it changes as a whole or not at all.
    ///
    /// # Errors
    /// `invalid-config` when the file is not one of tokens, or has the name already; those of the disk.
    pub fn append_to(&self, path: &Path) -> Result<(), Error> {
        let mut entries = if path.exists() { entries(path)? } else { Vec::new() };
        entries.push(self.clone());
        Known::of(&entries).map_err(|why| refused(path, &why))?;
        let mut text = serde_json::to_vec_pretty(&entries)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("the tokens cannot be written: {error}")))?;
        text.push(b'\n');
        // Beside the file itself, also where that is a link.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut beside = target.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(|error| Error::io("write", &beside, error))?;
        std::fs::rename(&beside, &target).map_err(|error| Error::io("replace", &target, error))
    }
}

/// A token as requests are compared with it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) name: String,
    digest: [u8; 32],
    pub(crate) scopes: Vec<Scope>,
    pub(crate) swamps: Vec<Pattern>,
}

impl Token {
    fn of(entry: &TokenEntry) -> Result<Token, String> {
        let name = &entry.name;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(format!("the name {name:?} is not 1 to 64 of letters, digits, \".\", \"_\" and \"-\""));
        }
        let digest =
            bytes_of(&entry.sha256).ok_or_else(|| format!("the sha256 of {name:?} is not 64 hexadecimal digits"))?;
        if entry.scopes.is_empty() {
            return Err(format!("{name:?} has no scopes; allowed are r, w, a and destroy"));
        }
        if entry.swamps.is_empty() {
            return Err(format!("{name:?} has no swamps; */*/* stands for all"));
        }
        Ok(Token { name: name.clone(), digest, scopes: entry.scopes.clone(), swamps: entry.swamps.clone() })
    }
}

/// The tokens in force.
#[derive(Debug)]
pub(crate) struct Known(Vec<Arc<Token>>);

impl Known {
    fn read(path: &Path) -> Result<Known, Error> {
        Known::of(&entries(path)?).map_err(|why| refused(path, &why))
    }

    fn of(entries: &[TokenEntry]) -> Result<Known, String> {
        if entries.len() > MOST_TOKENS {
            return Err(format!("it has {} tokens; {MOST_TOKENS} are allowed", entries.len()));
        }
        let mut tokens: Vec<Arc<Token>> = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let token = Token::of(entry).map_err(|why| format!("entry {}: {why}", index + 1))?;
            if tokens.iter().any(|other| other.name == token.name) {
                return Err(format!("entry {}: the name {:?} stands twice", index + 1, token.name));
            }
            tokens.push(Arc::new(token));
        }
        Ok(Known(tokens))
    }

    /// The token that was sent. Takes as long whichever it is, and whether it is one at all.
    pub(crate) fn find(&self, sent: &str) -> Option<Arc<Token>> {
        let hash = digest(&SHA256, sent.as_bytes());
        let none = self.0.len() as u64;
        let found = self.0.iter().zip(0_u64..).fold(none, |found, (token, index)| {
            let is_it = token.digest[..].ct_eq(hash.as_ref()) & index.ct_lt(&found);
            subtle::ConditionallySelectable::conditional_select(&found, &index, is_it)
        });
        self.0.get(found as usize).map(Arc::clone)
    }
}

fn entries(path: &Path) -> Result<Vec<TokenEntry>, Error> {
    let bytes = read_small(path, "token file")?;
    // The message of the parser names line and column, and never repeats a value of the file but unknown names.
    serde_json::from_slice(&bytes).map_err(|error| refused(path, &error.to_string()))
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorCode::InvalidConfig, format!("the token file {} cannot be used: {why}", path.display())).with_hint(
        r#"write [{"name":"shop","sha256":"…","scopes":["r","w"],"swamps":["shop/*/*"]}]; `hydra-server token new` makes entries"#,
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Vec<Pattern> {
        vec!["*/*/*".parse().expect("a pattern")]
    }

    #[test]
    fn a_token_is_found_by_its_hash_and_nothing_else() {
        let made: Vec<_> = ["a", "b", "c"]
            .map(|name| TokenEntry::fresh(name, &[Scope::Read], &everything()).expect("made"))
            .into_iter()
            .collect();
        let entries: Vec<TokenEntry> = made.iter().map(|(entry, _)| entry.clone()).collect();
        let known = Known::of(&entries).expect("known");
        for (entry, token) in &made {
            assert_eq!(known.find(token).map(|token| token.name.clone()), Some(entry.name.clone()));
            assert!(known.find(&entry.sha256).is_none(), "the hash is no token");
            assert!(!format!("{entry:?}").contains(token.as_str()));
        }
        assert!(known.find("").is_none() && Known::of(&[]).expect("none").find("x").is_none());
    }

    #[test]
    fn entries_that_cannot_be_meant_are_refused_with_their_place() {
        let (good, _) = TokenEntry::fresh("a", &[Scope::Read], &everything()).expect("made");
        let with = |change: fn(&mut TokenEntry)| {
            let mut entry = good.clone();
            change(&mut entry);
            Known::of(&[entry]).expect_err("refused")
        };
        assert!(with(|entry| entry.name = "a b".into()).contains("entry 1"));
        assert!(with(|entry| entry.sha256 = "abc".into()).contains("64 hexadecimal"));
        assert!(with(|entry| entry.scopes.clear()).contains("no scopes"));
        assert!(with(|entry| entry.swamps.clear()).contains("no swamps"));
        assert!(Known::of(&[good.clone(), good]).expect_err("twice").contains("entry 2"));
    }

    #[test]
    fn a_file_is_extended_or_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens.json");
        for name in ["a", "b"] {
            let (entry, _) = TokenEntry::fresh(name, &[Scope::Read, Scope::Destroy], &everything()).expect("made");
            entry.append_to(&path).expect("added");
            assert_eq!(entry.append_to(&path).expect_err("twice").code(), ErrorCode::InvalidConfig);
        }
        assert_eq!(entries(&path).expect("reads").len(), 2);
        std::fs::write(&path, r#"[{"name":"a","token":"x"}]"#).expect("written");
        let why = Tokens::open(&path).expect_err("refused").to_string();
        assert!(why.contains("tokens.json") && why.contains("line 1"), "{why}");
    }
}
