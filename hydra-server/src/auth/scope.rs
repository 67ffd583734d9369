//! What every endpoint demands. Pure: a route and a method in, a need out.

use std::fmt;
use std::str::FromStr;

use http::Method;
use hydra_core::{Pattern, SwampName};
use serde::{Deserialize, Serialize};

use crate::route::{MoveVerb, Route};

/// What a token allows. No scope includes another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// `r`: reading treasures and what is known about swamps.
    #[serde(rename = "r")]
    Read,
    /// `w`: changing treasures.
    #[serde(rename = "w")]
    Write,
    /// `a`: what operators do: policies, folders, flushes, draining.
    #[serde(rename = "a")]
    Admin,
    /// `destroy`: removing whole swamps, together with `w`.
    #[serde(rename = "destroy")]
    Destroy,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 4] = [Scope::Read, Scope::Write, Scope::Admin, Scope::Destroy];

    /// As it is written in the token file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "r",
            Scope::Write => "w",
            Scope::Admin => "a",
            Scope::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no scope; known are r, w, a and destroy"))
    }
}

/// What a request needs to be allowed, and for which names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Need<'r> {
    /// All of them. None: any token that is known.
    pub(crate) scopes: &'static [Scope],
    pub(crate) place: Place<'r>,
}

/// The names a request is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place<'r> {
    /// None: what the request shows is cut down to the names of the token, or names nothing.
    Nowhere,
    /// One.
    Swamp(&'r SwampName),
    /// All that match a pattern.
    Pattern(&'r Pattern),
    /// All there are.
    Everywhere,
}

const READ: &[Scope] = &[Scope::Read];
const WRITE: &[Scope] = &[Scope::Write];
const ADMIN: &[Scope] = &[Scope::Admin];
const DESTROY: &[Scope] = &[Scope::Write, Scope::Destroy];

impl<'r> Need<'r> {
    /// What `/metrics` demands where it is not open.
    pub(crate) const METRICS: Need<'static> = Need { scopes: READ, place: Place::Nowhere };

    /// What an endpoint demands; nothing for the open ones.
    ///
    /// The compiler asks for a line when an endpoint is added.
    pub(crate) fn of(route: &'r Route, method: &Method) -> Option<Need<'r>> {
        let by_method = if matches!(method.as_str(), "GET" | "HEAD" | "QUERY") { READ } else { WRITE };
        let (scopes, place) = match route {
            Route::Welcome | Route::Health | Route::Ready | Route::Version | Route::Metrics | Route::Probe => {
                return None;
            }
            Route::OpenApi | Route::Problem(_) | Route::Resolve(_) | Route::Page => return None,
            Route::List(name) | Route::Treasure(name, _) => (by_method, Place::Swamp(name)),
            Route::Export(name) => (READ, Place::Swamp(name)),
            Route::Import(name) => (WRITE, Place::Swamp(name)),
            // The query says for which swamps, or each line does; see `export` and `import`.
            Route::ExportAll => (READ, Place::Nowhere),
            Route::ImportAll => (WRITE, Place::Nowhere),
            // The query says for which swamps; see `feeds`.
            Route::AllEvents => (READ, Place::Nowhere),
            // What it holds decides, item by item; see `across`.
            Route::BatchAcross => (&[][..], Place::Nowhere),
            Route::Query(name) => (READ, Place::Swamp(name)),
            // Cut down to the names of the token.
            Route::Swamps(..) => (READ, Place::Nowhere),
            Route::Swamp(name) if by_method == READ => (READ, Place::Swamp(name)),
            Route::Swamp(name) => (DESTROY, Place::Swamp(name)),
            // What it holds decides; see `batches`.
            Route::Batch(name) => (&[][..], Place::Swamp(name)),
            Route::Shift(name) => (WRITE, Place::Swamp(name)),
            Route::Lock(name, _) => (by_method, Place::Swamp(name)),
            Route::SwampPolicy(name) | Route::Conflicts(name) | Route::Events(name) => (READ, Place::Swamp(name)),
            Route::FlushSwamp(name) | Route::CompactSwamp(name) | Route::LoadSwamp(name) | Route::EvictSwamp(name) => {
                (ADMIN, Place::Swamp(name))
            }
            Route::Policies => (READ, Place::Nowhere),
            Route::Policy(pattern) if by_method == READ => (READ, Place::Pattern(pattern)),
            Route::Policy(pattern) => (ADMIN, Place::Pattern(pattern)),
            // Clients ask and settle when they return to a primary. A listing names swamps of everybody.
            Route::Takeover(_) | Route::Holds(_) => (READ, Place::Everywhere),
            Route::Settle(_) | Route::SealTakeover(_) | Route::UnsealTakeover(_) => (WRITE, Place::Everywhere),
            Route::Folders | Route::Folder(_) | Route::FlushFolder(_) | Route::FlushAll | Route::MarkCopied(_) => {
                (ADMIN, Place::Everywhere)
            }
            Route::HoldFolder(_) | Route::CollectFolder(_) | Route::CompactFolder(_) | Route::VerifyFolder(_) => {
                (ADMIN, Place::Everywhere)
            }
            // The token of the move shows that its source has let go of the folder: any client may finish it.
            Route::Move(_, MoveVerb::Activate) => (&[][..], Place::Nowhere),
            Route::Move(..) => (ADMIN, Place::Everywhere),
            Route::Archive(_) | Route::Status | Route::Drain | Route::Log | Route::Reload => (ADMIN, Place::Everywhere),
        };
        Some(Need { scopes, place })
    }

    /// The need for one scope on one swamp, where only the handler knows it.
    pub(crate) fn on_swamp(scopes: &'static [Scope], name: &'r SwampName) -> Need<'r> {
        Need { scopes, place: Place::Swamp(name) }
    }

    /// The same on all swamps that match a pattern.
    pub(crate) fn on_pattern(scopes: &'static [Scope], pattern: &'r Pattern) -> Need<'r> {
        Need { scopes, place: Place::Pattern(pattern) }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Nowhere => f.write_str("anything"),
            Place::Swamp(name) => name.fmt(f),
            Place::Pattern(pattern) => pattern.fmt(f),
            Place::Everywhere => f.write_str("*/*/*"),
        }
    }
}
