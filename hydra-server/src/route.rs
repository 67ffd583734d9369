//! What a request is about: the raw path, split first and decoded afterwards. Pure.
//!
//! A router that decodes a path before it splits it cannot tell `a%2Fb` from `a/b`; here that
//! difference decides which swamp is meant. So the path is read by hand, one line per endpoint.

use std::borrow::Cow;

use http::Method;
use hydra_core::wire::{decode_segment, split_name};
use hydra_core::{Error, ErrorCode, FolderId, FolderSet, Pattern, SwampName, check_key};

/// An endpoint together with what stands in its path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Route {
    Welcome,
    Health,
    Ready,
    Version,
    Metrics,
    OpenApi,
    Probe,
    /// The status page, and what it shows.
    Page,
    Status,
    Problem(String),
    Drain,
    Log,
    Reload,
    List(SwampName),
    Treasure(SwampName, String),
    Query(SwampName),
    /// The swamps that are here, of one sanctuary, or of one realm of it.
    Swamps(Option<String>, Option<String>),
    Swamp(SwampName),
    Batch(SwampName),
    BatchAcross,
    FlushSwamp(SwampName),
    CompactSwamp(SwampName),
    LoadSwamp(SwampName),
    EvictSwamp(SwampName),
    SwampPolicy(SwampName),
    Conflicts(SwampName),
    Shift(SwampName),
    Lock(SwampName, String),
    Export(SwampName),
    Import(SwampName),
    ExportAll,
    ImportAll,
    Events(SwampName),
    AllEvents,
    Policies,
    Policy(Pattern),
    Resolve(SwampName),
    Folders,
    Folder(FolderSet),
    FlushFolder(FolderSet),
    FlushAll,
    MarkCopied(FolderSet),
    Takeover(FolderId),
    Holds(FolderId),
    Settle(FolderId),
    SealTakeover(FolderId),
    UnsealTakeover(FolderId),
    HoldFolder(FolderId),
    CollectFolder(FolderSet),
    CompactFolder(FolderSet),
    VerifyFolder(FolderSet),
    Archive(FolderId),
    /// A step of a move.
    Move(FolderId, MoveVerb),
}

/// The steps that move a folder from one server to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveVerb {
    Fence,
    Unfence,
    Import,
    Pull,
    Seal,
    Unseal,
    Manifest,
    Files,
    Commit,
    Activate,
    Abort,
    Promote,
    Lacks,
    Clean,
}

impl MoveVerb {
    fn parse(text: &str) -> Option<MoveVerb> {
        Some(match text {
            "fence" => MoveVerb::Fence,
            "unfence" => MoveVerb::Unfence,
            "import" => MoveVerb::Import,
            "pull" => MoveVerb::Pull,
            "seal" => MoveVerb::Seal,
            "unseal" => MoveVerb::Unseal,
            "manifest" => MoveVerb::Manifest,
            "files" => MoveVerb::Files,
            "commit" => MoveVerb::Commit,
            "activate" => MoveVerb::Activate,
            "abort" => MoveVerb::Abort,
            "promote" => MoveVerb::Promote,
            "lacks" => MoveVerb::Lacks,
            "clean" => MoveVerb::Clean,
            _ => return None,
        })
    }
}

impl Route {
    /// Reads the path as it came over the wire.
    ///
    /// # Errors
    /// `not-found` for a path that means nothing; `invalid-name`, `invalid-key`, `invalid-pattern`
    /// or `invalid-parameter` for one whose pieces break the rules.
    pub(crate) fn parse(path: &str) -> Result<Route, Error> {
        if let Some(rest) = path.strip_prefix("/v1/kv/") {
            return kv(rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/swamps/") {
            return swamps(rest, path);
        }
        let mut pieces = path.split('/').skip(1);
        let head = [(); 4].map(|()| pieces.next());
        match head {
            [Some(""), None, ..] => Ok(Route::Welcome),
            [Some("health"), None, ..] => Ok(Route::Health),
            [Some("ready"), None, ..] => Ok(Route::Ready),
            [Some("version"), None, ..] => Ok(Route::Version),
            [Some("metrics"), None, ..] => Ok(Route::Metrics),
            [Some("openapi.json"), None, ..] => Ok(Route::OpenApi),
            [Some("problems"), Some(code), None, _] => Ok(Route::Problem(code.to_owned())),
            [Some("ui"), None, ..] => Ok(Route::Page),
            [Some("v1"), Some("status"), None, _] => Ok(Route::Status),
            [Some("v1"), Some("probe"), None, _] => Ok(Route::Probe),
            [Some("v1"), Some("swamps"), None, _] => Ok(Route::Swamps(None, None)),
            [Some("v1"), Some("export"), None, _] => Ok(Route::ExportAll),
            [Some("v1"), Some("import"), None, _] => Ok(Route::ImportAll),
            [Some("v1"), Some("events"), None, _] => Ok(Route::AllEvents),
            [Some("v1"), Some("admin"), Some("drain"), None] => Ok(Route::Drain),
            [Some("v1"), Some("admin"), Some("log"), None] => Ok(Route::Log),
            [Some("v1"), Some("admin"), Some("reload"), None] => Ok(Route::Reload),
            [Some("v1"), Some("batch"), None, _] => Ok(Route::BatchAcross),
            [Some("v1"), Some("flush"), None, _] => Ok(Route::FlushAll),
            [Some("v1"), Some("policies"), None, _] => Ok(Route::Policies),
            [Some("v1"), Some("folders"), None, _] => Ok(Route::Folders),
            [Some("v1"), Some("folders"), Some(set), None] => Ok(Route::Folder(folders(set)?)),
            [Some("v1"), Some("folders"), Some(set), Some(verb)] => {
                folder_verb(set, [Some(verb), pieces.next(), pieces.next()], path)
            }
            [Some("v1"), Some("policies"), ..] => policy(&path["/v1/policies/".len()..]),
            [Some("v1"), Some("resolve"), Some(_), _] => whole_name(&path["/v1/resolve/".len()..]).map(Route::Resolve),
            _ => Err(not_found(path)),
        }
    }

    /// The methods the endpoint answers to, as `Allow` lists them.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Route::Treasure(..) => "GET, HEAD, PUT, PATCH, DELETE, POST",
            Route::List(_) => "GET, HEAD, QUERY, POST",
            Route::Query(_) => "POST",
            Route::Swamp(_) => "GET, HEAD, DELETE",
            Route::Policy(_) | Route::Log => "GET, HEAD, PUT, DELETE",
            Route::Lock(..) => "GET, HEAD, POST, PUT, DELETE",
            Route::Batch(_) | Route::BatchAcross | Route::Shift(_) => "POST",
            Route::FlushSwamp(_) | Route::FlushFolder(_) | Route::FlushAll => "POST",
            Route::CompactSwamp(_) | Route::LoadSwamp(_) | Route::EvictSwamp(_) => "POST",
            Route::Holds(_) | Route::Settle(_) | Route::MarkCopied(_) => "POST",
            Route::SealTakeover(_) | Route::UnsealTakeover(_) => "POST",
            Route::CollectFolder(_) | Route::CompactFolder(_) | Route::VerifyFolder(_) => "POST",
            Route::Import(_) | Route::ImportAll | Route::Reload => "POST",
            Route::Archive(_) => "GET, HEAD, PUT",
            Route::HoldFolder(_) | Route::Drain => "POST, DELETE",
            Route::Move(..) => "POST",
            _ => "GET, HEAD",
        }
    }

    /// Whether the method is one of [`Route::allow`].
    pub(crate) fn allows(&self, method: &Method) -> bool {
        // Bytes: a search for one character at a time costs more than the few that are here.
        self.allow().as_bytes().split(|byte| b", ".contains(byte)).any(|allowed| allowed == method.as_str().as_bytes())
    }

    /// The swamp the request is about.
    pub(crate) fn name(&self) -> Option<&SwampName> {
        match self {
            Route::List(name)
            | Route::Query(name)
            | Route::Treasure(name, _)
            | Route::Swamp(name)
            | Route::Batch(name)
            | Route::FlushSwamp(name)
            | Route::CompactSwamp(name)
            | Route::LoadSwamp(name)
            | Route::EvictSwamp(name)
            | Route::SwampPolicy(name)
            | Route::Conflicts(name)
            | Route::Shift(name)
            | Route::Lock(name, _)
            | Route::Export(name)
            | Route::Import(name)
            | Route::Events(name)
            | Route::Resolve(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the endpoint is answered whatever the client thinks of folders and pools, and while draining.
    pub(crate) fn is_service(&self) -> bool {
        matches!(
            self,
            Route::Welcome
                | Route::Health
                | Route::Ready
                | Route::Version
                | Route::Metrics
                | Route::OpenApi
                | Route::Drain
                | Route::Log
                | Route::Reload
                | Route::Probe
                | Route::Page
                | Route::Status
                | Route::Problem(_)
        )
    }

    /// What the endpoint is called in metrics and logs.
    pub(crate) fn label(&self) -> Label {
        match self {
            Route::List(_) | Route::Query(_) => Label::List,
            Route::Treasure(..) => Label::Treasure,
            Route::Swamp(_) | Route::Swamps(..) | Route::SwampPolicy(_) | Route::Conflicts(_) => Label::Swamp,
            Route::Events(_) | Route::AllEvents => Label::Events,
            Route::Batch(_) | Route::BatchAcross => Label::Batch,
            Route::Shift(_) => Label::Shift,
            Route::Lock(..) => Label::Lock,
            Route::FlushSwamp(_) | Route::FlushFolder(_) | Route::FlushAll => Label::Flush,
            Route::Policies | Route::Policy(_) => Label::Policies,
            Route::Resolve(_) => Label::Resolve,
            Route::Folders | Route::Folder(_) | Route::MarkCopied(_) => Label::Folders,
            Route::Takeover(_) | Route::Holds(_) | Route::Settle(_) => Label::Takeover,
            Route::SealTakeover(_) | Route::UnsealTakeover(_) => Label::Takeover,
            Route::Move(..) => Label::Move,
            Route::HoldFolder(_) | Route::CollectFolder(_) | Route::CompactFolder(_) | Route::VerifyFolder(_) => {
                Label::Upkeep
            }
            Route::CompactSwamp(_) | Route::LoadSwamp(_) | Route::EvictSwamp(_) => Label::Upkeep,
            Route::Export(_) | Route::Import(_) | Route::ExportAll | Route::ImportAll | Route::Archive(_) => {
                Label::Transfer
            }
            _ => Label::Service,
        }
    }
}

/// Endpoints in groups, few enough to count each by method and status. The number of a label is its place in
/// [`Label::NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// No endpoint: a path that means nothing, or whose pieces break the rules.
    None,
    Service,
    List,
    Treasure,
    Swamp,
    Batch,
    Flush,
    Policies,
    Resolve,
    Folders,
    Takeover,
    Upkeep,
    Events,
    Transfer,
    Shift,
    Lock,
    Move,
}

impl Label {
    pub(crate) const NAMES: [&str; 17] = [
        "none", "service", "list", "treasure", "swamp", "batch", "flush", "policies", "resolve", "folders", "takeover",
        "upkeep", "events", "transfer", "shift", "lock", "move",
    ];

    pub(crate) fn name(self) -> &'static str {
        Label::NAMES[self as usize]
    }
}

/// `/v1/kv/{sanctuary}/{realm}/{swamp}` and, behind it, the key with its slashes.
fn kv(rest: &str) -> Result<Route, Error> {
    let (name, key) = split_name(rest)?;
    match key {
        None => Ok(Route::List(name)),
        Some(raw) => Ok(Route::Treasure(name, key_of(raw)?)),
    }
}

/// `/v1/swamps/{sanctuary}/{realm}/{swamp}` and its verbs.
fn swamps(rest: &str, path: &str) -> Result<Route, Error> {
    if let Some(listing) = listing(rest, path) {
        return listing;
    }
    let (name, verb) = split_name(rest)?;
    match verb {
        None => Ok(Route::Swamp(name)),
        Some("batch") => Ok(Route::Batch(name)),
        Some("query") => Ok(Route::Query(name)),
        Some("flush") => Ok(Route::FlushSwamp(name)),
        Some("compact") => Ok(Route::CompactSwamp(name)),
        Some("load") => Ok(Route::LoadSwamp(name)),
        Some("evict") => Ok(Route::EvictSwamp(name)),
        Some("policy") => Ok(Route::SwampPolicy(name)),
        Some("conflicts") => Ok(Route::Conflicts(name)),
        Some("export") => Ok(Route::Export(name)),
        Some("import") => Ok(Route::Import(name)),
        Some("events") => Ok(Route::Events(name)),
        Some("shift") => Ok(Route::Shift(name)),
        Some(verb) => match verb.strip_prefix("locks/") {
            Some(lock) => Ok(Route::Lock(name, key_of(lock)?)),
            None => Err(not_found(path)),
        },
    }
}

/// `/v1/swamps/{sanctuary}` and `/v1/swamps/{sanctuary}/{realm}`; `None` for what has more parts.
fn listing(rest: &str, path: &str) -> Option<Result<Route, Error>> {
    let part = |piece: &str| {
        decode_segment(piece)
            .map(Cow::into_owned)
            .map_err(|why| Error::new(ErrorCode::InvalidName, format!("the name part {} {why}", shown(piece))))
    };
    let pieces: Vec<&str> = rest.splitn(3, '/').collect();
    match pieces[..] {
        [""] | [_, ""] => Some(Err(not_found(path))),
        [sanctuary] => Some(part(sanctuary).map(|sanctuary| Route::Swamps(Some(sanctuary), None))),
        [sanctuary, realm] => Some(
            part(sanctuary).and_then(|sanctuary| part(realm).map(|realm| Route::Swamps(Some(sanctuary), Some(realm)))),
        ),
        _ => None,
    }
}

/// `/v1/folders/{F}/` and what is behind it.
fn folder_verb(set: &str, verb: [Option<&str>; 3], path: &str) -> Result<Route, Error> {
    match verb {
        [Some("flush"), None, _] => folders(set).map(Route::FlushFolder),
        [Some("copied"), None, _] => folders(set).map(Route::MarkCopied),
        [Some("hold"), None, _] => folder(set).map(Route::HoldFolder),
        [Some("gc"), None, _] => folders(set).map(Route::CollectFolder),
        [Some("compact"), None, _] => folders(set).map(Route::CompactFolder),
        [Some("verify"), None, _] => folders(set).map(Route::VerifyFolder),
        [Some("takeover"), None, _] => folder(set).map(Route::Takeover),
        [Some("takeover"), Some("settle"), None] => folder(set).map(Route::Settle),
        [Some("takeover"), Some("seal"), None] => folder(set).map(Route::SealTakeover),
        [Some("takeover"), Some("unseal"), None] => folder(set).map(Route::UnsealTakeover),
        [Some("holds"), None, _] => folder(set).map(Route::Holds),
        [Some("archive"), None, _] => folder(set).map(Route::Archive),
        [Some(verb), None, _] => match MoveVerb::parse(verb) {
            Some(verb) => Ok(Route::Move(folder(set)?, verb)),
            None => Err(not_found(path)),
        },
        _ => Err(not_found(path)),
    }
}

fn policy(rest: &str) -> Result<Route, Error> {
    let refuse = |why: String| Error::new(ErrorCode::InvalidPattern, why);
    let mut text = String::with_capacity(rest.len());
    for (index, piece) in rest.split('/').enumerate() {
        if index > 0 {
            text.push('/');
        }
        let decoded =
            decode_segment(piece).map_err(|why| refuse(format!("the part {piece:?} of the pattern {why}")))?;
        if decoded.contains('/') {
            return Err(refuse(format!("the part {piece:?} of the pattern contains an encoded slash")));
        }
        text.push_str(&decoded);
    }
    text.parse().map(Route::Policy)
}

fn folders(piece: &str) -> Result<FolderSet, Error> {
    let read =
        decode_segment(piece).map_err(|why| Error::new(ErrorCode::InvalidParameter, format!("{piece:?} {why}")))?;
    read.parse().map_err(|error: Error| {
        Error::new(ErrorCode::InvalidParameter, error.detail()).with_hint("name folders as 57 or 50-74")
    })
}

/// Exactly one folder.
fn folder(piece: &str) -> Result<FolderId, Error> {
    let set = folders(piece)?;
    set.last().filter(|_| set.len() == 1).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            format!("{} is {} folders; one is allowed here", shown(piece), set.len()),
        )
        .with_hint("name the folder as 57")
    })
}

fn whole_name(rest: &str) -> Result<SwampName, Error> {
    match split_name(rest)? {
        (name, None) => Ok(name),
        (_, Some(_)) => Err(too_few_or_many(rest)),
    }
}

fn too_few_or_many(rest: &str) -> Error {
    Error::new(
        ErrorCode::InvalidName,
        format!(
            "{} has {} parts; a swamp name is sanctuary/realm/swamp",
            shown(rest),
            rest.split('/').filter(|piece| !piece.is_empty()).count()
        ),
    )
}

/// A key from its raw path. Empty and dotted pieces are refused while they are still raw: proxies and
/// clients merge or resolve them, so the same URL could mean two keys.
fn key_of(raw: &str) -> Result<String, Error> {
    let refuse = |why: &str| {
        Error::new(ErrorCode::InvalidKey, format!("the key {} {why}", shown(raw)))
            .with_hint("write a slash of the key as %2F and the dots of a piece . or .. as %2E or %2E%2E")
    };
    if raw.is_empty() {
        return Err(refuse("is empty"));
    }
    for piece in raw.as_bytes().split(|byte| *byte == b'/') {
        match piece {
            b"" => return Err(refuse("has an empty piece between slashes")),
            b"." | b".." => return Err(refuse("has a piece that is a path step")),
            _ => {}
        }
    }
    let key = decode_segment(raw).map_err(refuse)?.into_owned();
    check_key(&key)?;
    Ok(key)
}

fn not_found(path: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("{} is no path of this server", shown(path)))
        .with_hint("treasures are under /v1/kv/{sanctuary}/{realm}/{swamp}/{key}, swamps under /v1/swamps/…")
}

/// A piece of input in quotes, cut so that it can stand in a message.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SwampName {
        text.parse().expect(text)
    }

    #[test]
    fn paths_are_split_before_they_are_decoded() {
        assert_eq!(Route::parse("/v1/kv/a/b/c").expect("list"), Route::List(name("a/b/c")));
        assert_eq!(Route::parse("/v1/kv/a/b/c%20d/k").expect("space"), Route::Treasure(name("a/b/c d"), "k".into()));
        assert_eq!(Route::parse("/v1/kv/a/b/c/x/y").expect("key"), Route::Treasure(name("a/b/c"), "x/y".into()));
        assert_eq!(Route::parse("/v1/kv/a/b/c/x%2Fy").expect("key"), Route::Treasure(name("a/b/c"), "x/y".into()));
        assert_eq!(Route::parse("/v1/kv/a/b/c/x+y").expect("key"), Route::Treasure(name("a/b/c"), "x+y".into()));
        assert_eq!(Route::parse("/v1/kv/a%2Fb/c/d/k").expect_err("slash").code(), ErrorCode::InvalidName);
    }

    #[test]
    fn keys_with_ambiguous_pieces_are_refused_while_raw() {
        for path in ["/v1/kv/a/b/c/", "/v1/kv/a/b/c//k", "/v1/kv/a/b/c/k/", "/v1/kv/a/b/c/x/../y", "/v1/kv/a/b/c/./y"] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::InvalidKey, "{path}");
        }
        for path in
            ["/v1/kv/a/b/c/%2E%2E", "/v1/kv/a/b/c/%00", "/v1/kv/a/b/c/%FF", "/v1/kv/a/b/c/%zz", "/v1/kv/a/b/c/%4"]
        {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::InvalidKey, "{path}");
        }
        let dotted = Route::parse("/v1/kv/a/b/c/x%2F..%2Fy").expect("encoded dots are part of the key");
        assert_eq!(dotted, Route::Treasure(name("a/b/c"), "x/../y".into()));
    }

    #[test]
    fn names_need_three_parts() {
        for path in ["/v1/kv/", "/v1/kv/a/b", "/v1/kv/a/b/", "/v1/kv//b/c", "/v1/swamps//b/c", "/v1/resolve/a/b/c/d"] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::InvalidName, "{path}");
        }
    }

    #[test]
    fn every_endpoint_is_found_and_nothing_else() {
        for path in ["/", "/health", "/ready", "/version", "/metrics", "/problems/not-found", "/v1/probe", "/v1/flush"]
        {
            Route::parse(path).expect(path);
        }
        for path in [
            "/openapi.json",
            "/v1/admin/drain",
            "/v1/admin/log",
            "/v1/admin/reload",
            "/v1/policies",
            "/v1/policies/a/b*/*",
            "/v1/resolve/a/b/c",
            "/v1/folders",
            "/v1/folders/50-74",
        ] {
            Route::parse(path).expect(path);
        }
        for path in [
            "/v1/swamps/a/b/c",
            "/v1/swamps/a/b/c/batch",
            "/v1/folders/7/flush",
            "/v1/swamps/a/b/c/policy",
            "/v1/batch",
        ] {
            Route::parse(path).expect(path);
        }
        Route::parse("/v1/swamps/a/b/c/conflicts").expect("conflicts");
        Route::parse("/v1/swamps/a/b/c/shift").expect("shift");
        let lock = Route::parse("/v1/swamps/a/b/c/locks/im%20port").expect("a lock");
        assert_eq!(lock, Route::Lock(name("a/b/c"), "im port".into()));
        assert_eq!(Route::parse("/v1/swamps/a/b/c/locks/%00").expect_err("hidden").code(), ErrorCode::InvalidKey);
        assert_eq!(Route::parse("/v1/swamps/a/b/c/locks").expect_err("no name").code(), ErrorCode::NotFound);
        assert_eq!(Route::parse("/v1/swamps/a/b/c/query").expect("a query"), Route::Query(name("a/b/c")));
        let part = |text: &str| Some(text.to_owned());
        for (path, listing) in [
            ("/v1/swamps", Route::Swamps(None, None)),
            ("/v1/swamps/a", Route::Swamps(part("a"), None)),
            ("/v1/swamps/a/b%20c", Route::Swamps(part("a"), part("b c"))),
        ] {
            assert_eq!(Route::parse(path).expect(path), listing);
        }
        for path in ["/v1/swamps/a/b/c/conflicts", "/v1/swamps/a/b/c/events", "/v1/events"] {
            Route::parse(path).expect(path);
        }
        for path in [
            "/takeover",
            "/takeover/settle",
            "/takeover/seal",
            "/takeover/unseal",
            "/holds",
            "/hold",
            "/gc",
            "/compact",
            "/verify",
        ] {
            Route::parse(&format!("/v1/folders/7{path}")).expect(path);
        }
        for path in
            ["/v1/folders/7/", "/v1/folders/7/flush/", "/v1/folders/7/takeover/x", "/v1/folders/7/takeover/settle/x"]
        {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::NotFound, "{path}");
        }
        for path in ["/v1/folders/7-8/takeover", "/v1/folders/7,9/holds", "/v1/folders/x/takeover/settle"] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::InvalidParameter, "{path}");
        }
        for path in [
            "",
            "*",
            "//",
            "/v1",
            "/v1/",
            "/v1/kv",
            "/v2/kv/a/b/c",
            "/health/",
            "/v1/swamps/a/b/c/",
            "/v1/swamps/",
            "/v1/swamps/a/",
            "/v1/folders/7/x",
        ] {
            assert_eq!(Route::parse(path).expect_err(path).code(), ErrorCode::NotFound, "{path}");
        }
    }
}
