//! Who may do what: bearer tokens, the scopes they have, and the patterns of names they have them for.
//!
//! `tokens` is the file, `scope` what every endpoint demands, `access` what one request may do.

mod access;
mod scope;
mod tokens;

pub(crate) use access::Access;
pub(crate) use scope::Need;
pub use scope::Scope;
pub use tokens::{TokenEntry, Tokens};
