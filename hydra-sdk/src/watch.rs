//! A map file that may change while clients run: its content is compared, not its times.
//!
//! Content, because files are replaced by renames, symlinks and editors in ways that no notification
//! survives. A file that cannot be read or is refused leaves the map in force, and so does one that is still being
//! written: it is taken when it has been the same for a moment. A map that takes folders from servers
//! which still own them is refused, too (E401), until they do not any more.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use crate::client::Inner;
use crate::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::map::{ClientMap, MapError};
use crate::notice::ClientEvent;

/// How often a map file is looked at.
pub(crate) const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How long a changed file must stay the same to be taken.
const SETTLED: Duration = Duration::from_millis(100);

/// A file to look at.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) path: PathBuf,
    pub(crate) pause: Duration,
    /// Take maps also when servers still own what they take away.
    pub(crate) accept_moves: bool,
}

/// Reads a map file; answers its text as well.
pub(crate) async fn read(path: &Path) -> Result<(String, ClientMap)> {
    let text = text_of(path).await?;
    let map = ClientMap::from_toml(&text).map_err(|error| error.with_origin(path.display().to_string()))?;
    Ok((text, map))
}

async fn text_of(path: &Path) -> Result<String, MapError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| MapError::unreadable(path, &error))
}

/// Looks at a map file as long as a client is there; puts a new map in force.
pub(crate) async fn watch(watched: Watched, mut known: String, client: Weak<Inner>) {
    let mut told = None;
    loop {
        tokio::time::sleep(watched.pause).await;
        let Some(client) = client.upgrade() else { return };
        let Endpoint::Remote(cluster) = &client.endpoint else { return };
        match look(&watched, &known, cluster).await {
            Look::Same => {}
            Look::Taken(text) => (known, told) = (text, None),
            // It is looked at again: what stands against it may end. It is told once.
            Look::Refused(why) => {
                if told.as_ref() != Some(&why) {
                    cluster.notices().emit(&ClientEvent::MapRefused { why: why.clone() });
                    told = Some(why);
                }
            }
        }
    }
}

/// What a look at the file found.
enum Look {
    /// What is known, or something that is still being written.
    Same,
    /// Another map, in force now; its text.
    Taken(String),
    /// Something that cannot be used, and why.
    Refused(String),
}

async fn look(watched: &Watched, known: &str, cluster: &Cluster) -> Look {
    let text = match text_of(&watched.path).await {
        Ok(text) if text == known => return Look::Same,
        Ok(text) => text,
        Err(error) => return Look::Refused(error.to_string()),
    };
    tokio::time::sleep(SETTLED.min(watched.pause)).await;
    if text_of(&watched.path).await.ok().as_deref() != Some(&text) {
        return Look::Same;
    }
    match put_in_force(watched, &text, cluster).await {
        Ok(()) => Look::Taken(text),
        Err(error) => Look::Refused(error.to_string()),
    }
}

async fn put_in_force(watched: &Watched, text: &str, cluster: &Cluster) -> Result<()> {
    let with_origin = |error: MapError| error.with_origin(watched.path.display().to_string());
    let map = ClientMap::from_toml(text).map_err(with_origin)?;
    if !watched.accept_moves {
        cluster.check_moves(&map).await.map_err(with_origin)?;
    }
    cluster.replace_map(map)
}
