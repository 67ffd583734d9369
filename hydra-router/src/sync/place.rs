//! Where the data directory of a server is, and whether it really is that server's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use hydra_sdk::{ClientMap, MapServer};

use super::rsync;
use crate::Failure;

/// Where a data directory is, as rsync takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Without a slash at its end.
    text: String,
    is_remote: bool,
}

/// What a data directory says it is. Each is `None` where the directory does not say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Identity {
    server: Option<String>,
    cluster: Option<String>,
    folders: Option<String>,
}

impl FromStr for Place {
    type Err = String;

    /// `user@host:/path` and `rsync://host/path` are on another machine, all else is a path here: rsync's own rule.
    fn from_str(text: &str) -> Result<Place, String> {
        let text = if text == "/" { text } else { text.trim_end_matches('/') };
        if text.is_empty() || text.starts_with('-') || text.contains(['\n', '\0']) {
            return Err(format!("{text:?} is no place of a directory; write /path or user@host:/path"));
        }
        let before_slash = text.split('/').next().unwrap_or_default();
        Ok(Place { text: text.to_owned(), is_remote: before_slash.contains(':') })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Place {
    /// Whether it is on another machine.
    pub(crate) fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// The directory, where it is on this machine.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.text)
    }

    /// The place with a slash behind it: what is in the directory, not the directory.
    pub(crate) fn inside(&self) -> String {
        format!("{}/", self.text.trim_end_matches('/'))
    }

    /// Refuses a directory that is not the one of this server of this map.
    pub(crate) async fn check(&self, server: &MapServer, map: &ClientMap) -> Result<(), Failure> {
        let found = if self.is_remote { self.fetch_identity().await? } else { Identity::read(self.path()) };
        let expected = [
            ("the server", &found.server, server.id.clone()),
            ("the cluster", &found.cluster, map.cluster().to_owned()),
            ("folders =", &found.folders, map.folders().to_string()),
        ];
        for (what, found, expected) in expected {
            match found {
                Some(found) if *found == expected => {}
                Some(found) => {
                    return Err(Failure::usage(format!(
                        "{self} is of {what} {found:?}, the map says {expected:?}: nothing was copied"
                    )));
                }
                None => {
                    return Err(Failure::usage(format!(
                        "{self} does not say that it is of {what} {expected:?}, so it may be another directory: \
                         nothing was copied (a server writes that when it first starts there)"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Copies the two files that say what the directory is, and reads them.
    async fn fetch_identity(&self) -> Result<Identity, Failure> {
        let scratch = Scratch::new()?;
        rsync::fetch_identity(&self.inside(), &scratch.0).await?;
        Ok(Identity::read(&scratch.0))
    }
}

impl Identity {
    fn read(dir: &Path) -> Identity {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let data = read(dir.join("HYDRA"));
        let line = |key: &str| data.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        let server: Option<toml::Table> = read(dir.join(".hydra/server.toml")).parse().ok();
        let server = server.as_ref().and_then(|table| table.get("id")).and_then(|id| id.as_str());
        Identity { server: server.map(str::to_owned), cluster: line("cluster "), folders: line("folders ") }
    }
}

/// A directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Failure> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hydra-sync-{}-{count}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::failed(format!("cannot create {}: {error}", path.display())))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is two small files where temporary files are; nothing depends on their removal.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_here_or_elsewhere_by_the_rule_of_rsync() {
        for (text, is_remote, inside) in [
            ("/var/lib/hydra", false, "/var/lib/hydra/"),
            ("/var/lib/hydra/", false, "/var/lib/hydra/"),
            ("data", false, "data/"),
            ("/odd:name", false, "/odd:name/"),
            ("root@h1:/data", true, "root@h1:/data/"),
            ("h1:data/", true, "h1:data/"),
            ("rsync://h1/data", true, "rsync://h1/data/"),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!((place.is_remote(), place.inside().as_str()), (is_remote, inside), "{text}");
        }
        for text in ["", "--delete", "a\nb"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
