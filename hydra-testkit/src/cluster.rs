//! Several servers behind a client map.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use hydra_core::{Error, ErrorCode, FolderSet};
use hydra_sdk::{ClientMap, Hydra, Result, Settings};

use crate::router::TestRouter;
use crate::server::TestServer;

/// How many folders the data set of a cluster has.
const FOLDERS: u32 = 100;

/// Servers `s1`, `s2`, … that share 100 folders, each the fallback of the one before it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hydra_sdk::Result<()> {
/// let mut cluster = hydra_testkit::TestCluster::start(2).await?;
/// let hydra = cluster.connect().await?;
/// let alice: hydra_sdk::Swamp = hydra.swamp("users/profiles/alice")?; // folder 62: s2, and s1 when s2 is away
/// alice.put("name", &"Alice".into()).sync().await?;
/// cluster.sync()?; // what a copy tool does all the time
/// cluster.server_mut(1).stop().await?;
/// assert_eq!(alice.get("name").await?, Some("Alice".into()));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestCluster {
    servers: Vec<TestServer>,
    map: ClientMap,
}

impl TestCluster {
    /// Starts so many servers, 1 to 100. The first one owns the first folders, and so on.
    ///
    /// Calls return to a server that is back after a tenth of a second, not after ten; the other settings of the map
    /// are the usual ones.
    ///
    /// # Errors
    /// When the count is not allowed, or a server cannot be started.
    pub async fn start(count: usize) -> Result<TestCluster> {
        if !(1..=FOLDERS as usize).contains(&count) {
            let detail = format!("a cluster of {count} servers was asked for; allowed is 1 to {FOLDERS}");
            return Err(Error::new(ErrorCode::InvalidConfig, detail).into());
        }
        let mut servers = Vec::with_capacity(count);
        for index in 0..count {
            let before = (index + count - 1) % count;
            let server = TestServer::start_with(|engine, _| {
                engine.server_id = Some(id(index));
                engine.folders_total = FOLDERS.try_into().ok();
                engine.owned = Some(FolderSet::from_ranges([part(index, count)]));
                if before != index {
                    engine.standby = FolderSet::from_ranges([part(before, count)]);
                    engine.copied = true;
                }
            });
            servers.push(server.await?);
        }
        let map = map_of(&servers)?;
        Ok(TestCluster { servers, map })
    }

    /// The servers, in the order of their folders.
    #[must_use]
    pub fn servers(&self) -> &[TestServer] {
        &self.servers
    }

    /// One of them, to stop it and start it again.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn server_mut(&mut self, index: usize) -> &mut TestServer {
        &mut self.servers[index]
    }

    /// Which server answers for which folders.
    #[must_use]
    pub fn map(&self) -> &ClientMap {
        &self.map
    }

    /// A client of all servers.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub async fn connect(&self) -> Result<Hydra> {
        Hydra::builder().map(self.map.clone()).connect().await
    }

    /// A router in front of all servers.
    ///
    /// # Errors
    /// Those of [`TestRouter::start`].
    pub async fn router(&self) -> Result<TestRouter> {
        TestRouter::start(self.map.clone()).await
    }

    /// Brings the files of every server to all others, as a copy tool does: only adds, and takes no notice of whether
    /// they run. A server looks for what came once a second.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn sync(&self) -> Result<()> {
        for from in &self.servers {
            for to in self.servers.iter().filter(|to| to.id() != from.id()) {
                let failed = |error| Error::io("copy", from.data_dir(), error);
                copy_own(from.data_dir(), to.data_dir(), &format!("{}-", from.id())).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn id(index: usize) -> String {
    format!("s{}", index + 1)
}

/// The first and the last folder of a server.
fn part(index: usize, count: usize) -> (u32, u32) {
    let begin = |index: usize| FOLDERS * index as u32 / count as u32;
    (begin(index), begin(index + 1) - 1)
}

fn map_of(servers: &[TestServer]) -> Result<ClientMap> {
    let count = servers.len();
    let mut settings = Settings::default();
    settings.hold_down = Duration::from_millis(100);
    let mut map = ClientMap::builder().folders(FOLDERS);
    for (index, server) in servers.iter().enumerate() {
        let (first, last) = part(index, count);
        let fallback = Some((index + 1) % count).filter(|&fallback| fallback != index).map(id);
        map = map.server(id(index), server.url()).route(format!("{first}-{last}"), id(index), fallback);
    }
    Ok(map.settings(settings).build()?)
}

/// Copies the files that one server wrote, with what is missing at their ends.
fn copy_own(from: &Path, to: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            // The identity of a server is never copied.
            if name != ".hydra" {
                copy_own(&entry.path(), &target, prefix)?;
            }
        } else if name.to_string_lossy().starts_with(prefix) {
            fs::create_dir_all(to)?;
            append_rest(&entry.path(), &target)?;
        }
    }
    Ok(())
}

fn append_rest(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = OpenOptions::new().create(true).append(true).open(to)?;
    let mut source = File::open(from)?;
    source.seek(SeekFrom::Start(target.metadata()?.len()))?;
    io::copy(&mut source, &mut target).map(drop)
}
