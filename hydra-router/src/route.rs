//! What a request is about: the raw path, split first and decoded afterwards. Pure.

use std::borrow::Cow;

use http::Method;
use hydra_core::wire::{decode_segment, split_name};
use hydra_core::{Error, ErrorCode, FolderSet, SwampName};

/// What a path means to a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Welcome,
    Health,
    Ready,
    Version,
    Metrics,
    Probe,
    Map,
    /// The contract of the servers.
    OpenApi,
    /// The status page, and what it shows.
    Page,
    Status,
    Problem(String),
    /// Registered policies, which every server has.
    Policies,
    /// The changes of many swamps.
    Events,
    /// Everything acknowledged, on every server.
    Flush,
    /// Operations on several names: each goes to the server that answers for it.
    BatchAcross,
    /// The swamps of all servers, of one sanctuary, or of one realm of it.
    Swamps(Option<String>, Option<String>),
    /// Treasures for all servers, and of all servers.
    ImportAll,
    ExportAll,
    /// What the servers are to all folders, or to some.
    Folders(Option<FolderSet>),
    /// Something with a name: one server answers for it.
    Named(SwampName, Place),
}

/// What of a named swamp a path means. Servers know more verbs than a router needs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    List,
    Treasure,
    Swamp,
    Batch,
    Flush,
    Query,
    Resolve,
    /// A lock: how long it may be waited for stands in the body.
    Lock,
    /// Lines of any number, which are answered while they come.
    Import,
    /// Any other verb of a swamp.
    Verb,
}

impl Route {
    /// Reads the path as it came over the wire.
    ///
    /// # Errors
    /// `not-found` for a path that means nothing, `invalid-name` for one whose name breaks the rules.
    pub(crate) fn parse(path: &str) -> Result<Route, Error> {
        if let Some(rest) = path.strip_prefix("/v1/kv/") {
            let (name, key) = split_name(rest)?;
            return Ok(Route::Named(name, if key.is_none() { Place::List } else { Place::Treasure }));
        }
        if let Some(rest) = path.strip_prefix("/v1/swamps/") {
            if let Some(listing) = listing(rest, path) {
                return listing;
            }
            let (name, verb) = split_name(rest)?;
            return Ok(Route::Named(name, place_of(verb)));
        }
        if let Some(rest) = path.strip_prefix("/v1/resolve/") {
            return resolve(rest);
        }
        if let Some(code) = path.strip_prefix("/problems/") {
            return Ok(Route::Problem(code.to_owned()));
        }
        match path {
            "/" => Ok(Route::Welcome),
            "/health" => Ok(Route::Health),
            "/ready" => Ok(Route::Ready),
            "/version" => Ok(Route::Version),
            "/metrics" => Ok(Route::Metrics),
            "/v1/probe" => Ok(Route::Probe),
            "/v1/map" => Ok(Route::Map),
            "/openapi.json" => Ok(Route::OpenApi),
            "/ui" => Ok(Route::Page),
            "/v1/status" => Ok(Route::Status),
            "/v1/events" => Ok(Route::Events),
            "/v1/flush" => Ok(Route::Flush),
            "/v1/batch" => Ok(Route::BatchAcross),
            "/v1/policies" => Ok(Route::Policies),
            "/v1/swamps" => Ok(Route::Swamps(None, None)),
            "/v1/import" => Ok(Route::ImportAll),
            "/v1/export" => Ok(Route::ExportAll),
            "/v1/folders" => Ok(Route::Folders(None)),
            _ if path.starts_with("/v1/folders/") => folders(&path["/v1/folders/".len()..], path),
            _ if path.starts_with("/v1/policies/") => Ok(Route::Policies),
            _ => Err(not_found(path)),
        }
    }

    /// The methods that are answered, where the router itself decides that.
    pub(crate) fn allow(&self) -> Option<&'static str> {
        match self {
            Route::Named(..) => None,
            Route::Policies => Some("GET, HEAD, PUT, DELETE"),
            Route::Flush | Route::BatchAcross | Route::ImportAll => Some("POST"),
            _ => Some("GET, HEAD"),
        }
    }

    /// Whether the path answers the method; for names that is for the servers to say.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        self.allow().is_none_or(|allow| allow.split(", ").any(|allowed| allowed == method.as_str()))
    }

    /// Whether the path is answered also while the router ends.
    pub(crate) fn is_service(&self) -> bool {
        matches!(
            self,
            Route::Welcome
                | Route::Health
                | Route::Ready
                | Route::Version
                | Route::Metrics
                | Route::Probe
                | Route::Map
                | Route::Page
                | Route::Problem(_)
        )
    }
}

fn place_of(verb: Option<&str>) -> Place {
    match verb {
        None => Place::Swamp,
        Some("batch") => Place::Batch,
        Some("flush") => Place::Flush,
        Some(verb) if verb.starts_with("locks/") => Place::Lock,
        Some("query") => Place::Query,
        Some("import") => Place::Import,
        Some(_) => Place::Verb,
    }
}

fn resolve(rest: &str) -> Result<Route, Error> {
    match split_name(rest)? {
        (name, None) => Ok(Route::Named(name, Place::Resolve)),
        (name, Some(_)) => {
            let detail = format!("something stands behind the name {name}; a swamp name is sanctuary/realm/swamp");
            Err(Error::new(ErrorCode::InvalidName, detail))
        }
    }
}

/// `/v1/swamps/{sanctuary}` and `/v1/swamps/{sanctuary}/{realm}`; `None` for what has more parts.
fn listing(rest: &str, path: &str) -> Option<Result<Route, Error>> {
    let part = |piece: &str| {
        let decoded = decode_segment(piece).map(Cow::into_owned);
        decoded.map_err(|why| Error::new(ErrorCode::InvalidName, format!("the name part {piece:?} {why}")))
    };
    let pieces: Vec<&str> = rest.splitn(3, '/').collect();
    match pieces[..] {
        [""] | [_, ""] => Some(Err(not_found(path))),
        [sanctuary] => Some(part(sanctuary).map(|sanctuary| Route::Swamps(Some(sanctuary), None))),
        [sanctuary, realm] => {
            let both = part(sanctuary).and_then(|sanctuary| Ok((sanctuary, part(realm)?)));
            Some(both.map(|(sanctuary, realm)| Route::Swamps(Some(sanctuary), Some(realm))))
        }
        _ => None,
    }
}

/// `/v1/folders/{F}`. What stands behind it is about the copy of one server.
fn folders(rest: &str, path: &str) -> Result<Route, Error> {
    if rest.contains('/') {
        let shown: String = path.chars().take(80).collect();
        let detail = format!("{shown:?} is about one server, and a router stands for many");
        return Err(Error::new(ErrorCode::NotFound, detail).with_hint(
            "ask the server itself; GET /v1/folders says which have the folder, GET /v1/map where they are",
        ));
    }
    let refuse = |why: &str| Error::new(ErrorCode::InvalidParameter, why).with_hint("name folders as 57 or 50-74");
    let text = decode_segment(rest).map_err(|why| refuse(&format!("{rest:?} {why}")))?;
    text.parse().map(|set| Route::Folders(Some(set))).map_err(|error: Error| refuse(error.detail()))
}

fn not_found(path: &str) -> Error {
    let shown: String = path.chars().take(80).collect();
    Error::new(ErrorCode::NotFound, format!("{shown:?} is no path of a router"))
        .with_hint("treasures are under /v1/kv/{sanctuary}/{realm}/{swamp}/{key}, the client map is /v1/map")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, place: Place) -> Route {
        Route::Named(name.parse().expect(name), place)
    }

    #[test]
    fn names_are_found_in_every_path_that_has_one() {
        for (path, route) in [
            ("/v1/kv/a/b/c", named("a/b/c", Place::List)),
            ("/v1/kv/a/b/c%20d/k%2Fl/m", named("a/b/c d", Place::Treasure)),
            ("/v1/kv/a/b/c/", named("a/b/c", Place::Treasure)),
            ("/v1/swamps/a/b/c", named("a/b/c", Place::Swamp)),
            ("/v1/swamps/a/b/c/batch", named("a/b/c", Place::Batch)),
            ("/v1/swamps/a/b/c/import", named("a/b/c", Place::Import)),
            ("/v1/swamps/a/b/c/export", named("a/b/c", Place::Verb)),
            ("/v1/swamps/a/b/c/locks/import", named("a/b/c", Place::Lock)),
            ("/v1/resolve/a/b/c", named("a/b/c", Place::Resolve)),
            ("/v1/policies/a/b*/*", Route::Policies),
            ("/v1/events", Route::Events),
            ("/v1/batch", Route::BatchAcross),
            ("/v1/swamps", Route::Swamps(None, None)),
            ("/v1/swamps/a%20b", Route::Swamps(Some("a b".into()), None)),
            ("/v1/swamps/a/b", Route::Swamps(Some("a".into()), Some("b".into()))),
            ("/v1/import", Route::ImportAll),
            ("/v1/export", Route::ExportAll),
            ("/v1/folders", Route::Folders(None)),
            ("/v1/folders/5-7", Route::Folders(Some("5-7".parse().expect("folders")))),
            ("/openapi.json", Route::OpenApi),
            ("/", Route::Welcome),
        ] {
            assert_eq!(Route::parse(path).expect(path), route, "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused_with_a_reason() {
        for path in ["/v1/kv/a/b", "/v1/kv/a%2Fb/c/d", "/v1/kv/a/b/%zz/k", "/v1/swamps//b/c", "/v1/resolve/a/b/c/d"] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::InvalidName, "{path}");
        }
        for path in [
            "",
            "*",
            "//",
            "/v1/kv",
            "/v1/batch/",
            "/v1/imports",
            "/v1/folders/7/pull",
            "/v1/swamps/a/",
            "/v1/policiesx",
            "/health/",
            "/v2/kv/a/b/c",
        ] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::NotFound, "{path}");
        }
    }
}
