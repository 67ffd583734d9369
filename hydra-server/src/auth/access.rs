//! What one request may do: everything where no tokens are in force, else what its token says.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use hydra_core::{Error, ErrorCode, Pattern, SwampName};

use super::scope::{Need, Place, Scope};
use super::tokens::{Known, Token};
use crate::head::Headers;

/// What a request may do.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// Nothing was asked for, or no tokens are in force.
    Open,
    /// What a token allows.
    Token(Arc<Token>),
}

impl Access {
    /// The access that the headers of a request prove.
    ///
    /// # Errors
    /// `missing-token`, `invalid-token`. What came is never repeated.
    pub(crate) fn of(headers: &Headers, known: &Known) -> Result<Access, Error> {
        let mut sent = headers.get_all(&AUTHORIZATION);
        let Some(first) = sent.next() else {
            return Err(Error::new(ErrorCode::MissingToken, "this server answers nobody without a token")
                .with_hint("send Authorization: Bearer <token>; whoever runs the server hands tokens out"));
        };
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidToken, why));
        if sent.next().is_some() {
            return refuse("the request has more than one Authorization header");
        }
        let Some((scheme, token)) = first.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return refuse("the Authorization header is not of the form Bearer <token>");
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return refuse("the Authorization header has another scheme than Bearer");
        }
        match known.find(token.trim()) {
            Some(token) => Ok(Access::Token(token)),
            None => refuse("the token is not one of this server, or is no longer"),
        }
    }

    /// Whether a need is met.
    ///
    /// # Errors
    /// `scope-denied` names the scope and the names that are missing.
    pub(crate) fn check(&self, need: &Need<'_>) -> Result<(), Error> {
        let Access::Token(token) = self else { return Ok(()) };
        let missing: Vec<&str> =
            need.scopes.iter().filter(|scope| !token.scopes.contains(scope)).map(|scope| scope.as_str()).collect();
        if !missing.is_empty() {
            let detail = format!(
                "the token {:?} does not have the scope {} that this needs on {}; it has {}",
                token.name,
                missing.join(" and "),
                need.place,
                listed(&token.scopes)
            );
            return Err(Error::new(ErrorCode::ScopeDenied, detail).with_hint("ask for a token with that scope"));
        }
        if self.reaches(need.place) {
            return Ok(());
        }
        let detail = format!("the token {:?} is for {}, and this needs {}", token.name, shown(token), need.place);
        Err(Error::new(ErrorCode::ScopeDenied, detail).with_hint("ask for a token whose swamps match that"))
    }

    fn reaches(&self, place: Place<'_>) -> bool {
        let Access::Token(token) = self else { return true };
        match place {
            Place::Nowhere => true,
            Place::Swamp(name) => self.covers(name),
            Place::Pattern(pattern) => token.swamps.iter().any(|own| own.covers(pattern)),
            Place::Everywhere => token.swamps.iter().any(Pattern::is_everything),
        }
    }

    /// Whether a name may be shown to this request: what listings are cut down by.
    pub(crate) fn covers(&self, name: &SwampName) -> bool {
        match self {
            Access::Open => true,
            Access::Token(token) => token.swamps.iter().any(|pattern| pattern.matches(name)),
        }
    }

    /// Whether a pattern is about any name of this request.
    pub(crate) fn overlaps(&self, pattern: &Pattern) -> bool {
        match self {
            Access::Open => true,
            Access::Token(token) => token.swamps.iter().any(|own| own.overlaps(pattern)),
        }
    }

    /// What the token is called, for the log.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Access::Open => None,
            Access::Token(token) => Some(&token.name),
        }
    }
}

fn listed(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

fn shown(token: &Token) -> String {
    token.swamps.iter().map(Pattern::to_string).collect::<Vec<_>>().join(", ")
}
