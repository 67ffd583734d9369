//! A map file that may change while clients run: its content is compared, not its times.
//!
//! Content, because files are replaced by renames, symlinks and editors in ways that no notification
//! survives. A file that cannot be read or is refused leaves the map in force.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use crate::client::Inner;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::map::{ClientMap, MapError};

/// How often a map file is looked at.
pub(crate) const WATCH_EVERY: Duration = Duration::from_secs(2);

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
pub(crate) async fn watch(path: PathBuf, mut known: String, pause: Duration, client: Weak<Inner>) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(client) = client.upgrade() else { return };
        let changed = match text_of(&path).await {
            Ok(text) if text == known => continue,
            Ok(text) => {
                let changed = put_in_force(&client, &text, &path);
                known = text;
                changed
            }
            Err(error) => Err(error.into()),
        };
        match changed {
            Ok(epoch) => tracing::info!(path = %path.display(), epoch, "the client map changed"),
            Err(error) => tracing::warn!(%error, "the client map stays as it was"),
        }
    }
}

fn put_in_force(client: &Inner, text: &str, path: &Path) -> Result<u64, Error> {
    let with_origin = |error: MapError| error.with_origin(path.display().to_string());
    let map = ClientMap::from_toml(text).map_err(with_origin)?;
    let epoch = map.epoch();
    match &client.endpoint {
        Endpoint::Remote(cluster) => cluster.set_map(map).map(|()| epoch),
        Endpoint::Embedded(_) => Ok(epoch),
    }
}
