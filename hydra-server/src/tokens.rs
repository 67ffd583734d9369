//! `hydra-server token new`: a token that is printed once, and its entry for the file of tokens.

use std::io::Write;

use hydra_server::TokenEntry;
use serde_json::json;

use crate::Failure;
use crate::commands::{NewTokenFlags, Output};

/// Makes a token. It is printed when its entry is in the file, so that none is handed out that is not known.
pub(crate) fn new(flags: &NewTokenFlags) -> Result<(), Failure> {
    let (entry, token) = TokenEntry::fresh(&flags.name, &flags.scopes, &flags.swamps)?;
    if let Some(path) = &flags.tokens {
        entry.append_to(path)?;
        eprintln!("{} was added to {}; servers that use the file know it within a second", entry.name, path.display());
    }
    let text = match (flags.output, &flags.tokens) {
        (Output::Table, Some(_)) => token,
        (Output::Table, None) => format!("{token}\n{}", json!(entry)),
        (Output::Json, _) => format!("{:#}", json!({"token": token, "entry": entry})),
        (Output::Ndjson, _) => json!({"token": token, "entry": entry}).to_string(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(|error| Failure::failed(format!("the token cannot be printed: {error}")))
}
