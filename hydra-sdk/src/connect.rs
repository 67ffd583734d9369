//! Reaching a data set: what a URL means, and the builder behind it.

use std::path::PathBuf;
use std::time::Duration;

use hydra_core::{EngineOptions, FolderCount, Policy};

use crate::access::{Given, Secret};
use crate::client::Hydra;
use crate::cluster::Cluster;
use crate::endpoint::{Embedded, Endpoint, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::map::{ClientMap, check_url};
use crate::notice::{ClientEvent, Notices};
use crate::settings::Settings;
use crate::watch::{self, WATCH_EVERY, Watched};

/// Where a data set is.
#[derive(Debug, Clone, PartialEq)]
enum Target {
    /// One server, or a router.
    Server { url: String },
    /// Servers by a map in a file.
    MapFile(PathBuf),
    /// Servers by a map made in code.
    Map(Box<ClientMap>),
    /// A directory, opened in this process.
    Directory(PathBuf),
    /// A new directory in this process that is removed at the end.
    Memory,
}

/// Connects to a data set with more choices than a URL has; [`Hydra::builder`] begins one.
///
/// ```
/// # async fn example() -> hydra_sdk::Result<()> {
/// use hydra_sdk::{ClientMap, Hydra};
///
/// let map = ClientMap::builder()
///     .folders(100)
///     .server("s1", "http://127.0.0.1:4937")
///     .server("s2", "http://127.0.0.1:4947")
///     .route("0-49", "s1", ["s2"])
///     .route("50-99", "s2", ["s1"])
///     .build()?;
/// let hydra = Hydra::builder().map(map).connect().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is connected until connect()"]
pub struct HydraBuilder {
    target: Option<Result<Target, String>>,
    folders: Option<u32>,
    settings: Settings,
    given: Given,
    watch: Option<Duration>,
    accept_moves: bool,
    default_policy: Option<Policy>,
}

impl HydraBuilder {
    /// `http://host:port`, `https://host:port`, `map://path`, `file:///directory` or `mem://`; see [`Hydra::connect`].
    pub fn url(mut self, url: impl AsRef<str>) -> Self {
        let (target, folders) = match parse(url.as_ref()) {
            Ok((target, folders)) => (Ok(target), folders),
            Err(why) => (Err(why), None),
        };
        self.target = Some(target);
        self.folders = folders.or(self.folders);
        self
    }

    /// Servers by a map.
    pub fn map(mut self, map: ClientMap) -> Self {
        self.target = Some(Ok(Target::Map(Box::new(map))));
        self
    }

    /// Servers by a map in a file, read again when its content changes.
    pub fn map_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.target = Some(Ok(Target::MapFile(path.into())));
        self
    }

    /// How often a map file is looked at. Default every 2 s; zero: never again.
    pub fn watch_every(mut self, pause: Duration) -> Self {
        self.watch = Some(pause);
        self
    }

    /// A directory, opened in this process; created when missing.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.target = Some(Ok(Target::Directory(path.into())));
        self
    }

    /// How many folders the data set has. A new directory is made with so many (default 100); one
    /// that exists must have them; one server is told, and refuses if it counts differently.
    pub fn folders(mut self, count: u32) -> Self {
        self.folders = Some(count);
        self
    }

    /// How calls to one server by its address behave. A map says that itself.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The token that every request carries, in place of one that the map refers to. Never printed.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.given.token = Some(Secret(token.into()));
        self
    }

    /// A file that holds the token, in place of what the map says; read again when it changes.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.given.access.token_file = Some(path.into());
        self
    }

    /// A file of certificates (PEM) that `https` servers must be signed by, in place of those the system trusts.
    /// Read when the client connects.
    pub fn ca_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.given.access.ca_certificate = Some(path.into());
        self
    }

    /// Tells the program of what the client notices about its servers and its map; see [`ClientEvent`]. The function
    /// is called where the event happens, also in the midst of calls, so it should be quick.
    pub fn on_event(mut self, handler: impl Fn(&ClientEvent) + Send + Sync + 'static) -> Self {
        self.given.notices = Notices::to(handler);
        self
    }

    /// Takes a changed map file also when servers still own folders that it moves away from them (finding E401).
    /// Right only when the data was brought to the new owners by other means. Default no.
    pub fn accept_moves(mut self, accept: bool) -> Self {
        self.accept_moves = accept;
        self
    }

    /// The policy of swamps for which none is registered, in this process.
    pub fn default_policy(mut self, policy: Policy) -> Self {
        self.default_policy = Some(policy);
        self
    }

    /// Connects. Nothing is sent to servers: one that is down now is used when it comes up.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a URL, a map or a number of folders is not usable; those of the
    /// disk when a directory cannot be opened.
    pub async fn connect(self) -> Result<Hydra> {
        let refused = |why: String| Error::new(ErrorKind::Config, why);
        let target = self.target.clone().ok_or_else(|| refused("no url, map or directory was given".to_owned()))?;
        let folders = self.folders.map(FolderCount::new).transpose()?;
        match target.map_err(refused)? {
            Target::Server { url } => {
                let cluster = Cluster::single(&url, folders.map(FolderCount::get), &self.settings, self.given.clone())?;
                Ok(Hydra::new(Endpoint::Remote(cluster.into())))
            }
            Target::Map(map) => Ok(Hydra::new(Endpoint::Remote(Cluster::new(*map, self.given.clone())?.into()))),
            Target::MapFile(path) => self.connect_file(path).await,
            Target::Directory(path) => self.open(EngineOptions::new(path), None).await,
            Target::Memory => {
                let scratch = Scratch::new()?;
                self.open(EngineOptions::new(scratch.path()), Some(scratch)).await
            }
        }
    }

    async fn connect_file(&self, path: PathBuf) -> Result<Hydra> {
        let (text, map) = watch::read(&path).await?;
        let hydra = Hydra::new(Endpoint::Remote(Cluster::new(map, self.given.clone())?.into()));
        let pause = self.watch.unwrap_or(WATCH_EVERY);
        if !pause.is_zero() {
            tokio::spawn(watch::watch(
                Watched { path, pause, accept_moves: self.accept_moves },
                text,
                hydra.downgrade(),
            ));
        }
        Ok(hydra)
    }

    async fn open(&self, mut options: EngineOptions, scratch: Option<Scratch>) -> Result<Hydra> {
        options.folders_total = self.folders.map(FolderCount::new).transpose()?;
        if let Some(policy) = &self.default_policy {
            policy.check()?;
            options.default_policy = policy.clone();
        }
        Ok(Hydra::new(Endpoint::Embedded(Embedded::open(options, scratch).await?)))
    }
}

/// What a URL means, and how many folders it says.
fn parse(url: &str) -> Result<(Target, Option<u32>), String> {
    let known = "http(s)://host:port, map://path, file:///directory or mem://";
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?} is no URL; known are {known}"))?;
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let folders = query.map(|query| parse_query(url, query)).transpose()?;
    let path = || match place {
        "" => Err(format!("{url:?} has no path")),
        _ => Ok(PathBuf::from(percent_decoded(place))),
    };
    let target = match scheme {
        "http" | "https" => {
            let address = format!("{scheme}://{place}");
            check_url(&address).map_err(|why| format!("the address {address:?} {why}"))?;
            Target::Server { url: address }
        }
        "map" if folders.is_some() => return Err(format!("{url:?}: the map says how many folders there are")),
        "map" => Target::MapFile(path()?),
        "file" => Target::Directory(path()?),
        "mem" if !place.is_empty() => return Err(format!("{url:?} has a path; write mem://")),
        "mem" => Target::Memory,
        _ => return Err(format!("{url:?} has an unknown scheme; known are {known}")),
    };
    Ok((target, folders))
}

fn parse_query(url: &str, query: &str) -> Result<u32, String> {
    let folders = query.strip_prefix("folders=").and_then(|count| count.parse().ok());
    folders.ok_or_else(|| format!("{url:?}: the only parameter is folders, e.g. ?folders=100"))
}

/// `%20` as a space, and so on; a `%` that is followed by no two digits stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_mean_servers_maps_and_directories() {
        assert_eq!(parse("http://h:1/"), Ok((Target::Server { url: "http://h:1/".into() }, None)));
        assert_eq!(parse("http://h:1?folders=7"), Ok((Target::Server { url: "http://h:1".into() }, Some(7))));
        assert_eq!(parse("map:///etc/map.toml"), Ok((Target::MapFile("/etc/map.toml".into()), None)));
        assert_eq!(parse("map://map.toml"), Ok((Target::MapFile("map.toml".into()), None)));
        assert_eq!(parse("file:///a%20b?folders=8"), Ok((Target::Directory("/a b".into()), Some(8))));
        assert_eq!(parse("mem://"), Ok((Target::Memory, None)));
    }

    #[test]
    fn other_urls_are_refused_with_what_is_known() {
        for url in [
            "",
            "h:1",
            "ftp://h:1",
            "http://h",
            "https://h",
            "file://",
            "map://",
            "mem://x",
            "map://m?folders=1",
            "file:///a?folder=1",
            "file:///a?folders=x",
        ] {
            let why = parse(url).expect_err(url);
            assert!(!why.is_empty(), "{url}");
        }
    }
}
