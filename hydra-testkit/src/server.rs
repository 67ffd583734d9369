//! One server in this process.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hydra_core::{Engine, EngineOptions, Error};
use hydra_sdk::{Hydra, Result};
use hydra_server::Config;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::host::{Host, Service};

/// How long requests may take to finish when a server is stopped.
const GRACE: Duration = Duration::from_secs(5);

/// A server with a port and a data directory of its own. Dropping it ends it at once, waits until it is gone, and
/// removes the directory.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hydra_sdk::Result<()> {
/// let mut server = hydra_testkit::TestServer::start().await?;
/// let counters: hydra_sdk::Swamp = server.connect().await?.swamp("app/counters/all")?;
/// counters.increment("visits", 1).await?;
/// server.restart().await?; // the same port, the same data
/// assert_eq!(counters.increment("visits", 1).await?, 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestServer {
    host: Option<Host>,
    address: SocketAddr,
    options: EngineOptions,
    config: Config,
    dir: TempDir,
}

impl TestServer {
    /// Starts a server with default settings that owns all of 100 folders.
    ///
    /// # Errors
    /// When there is no port, or no temporary directory.
    pub async fn start() -> Result<TestServer> {
        TestServer::start_with(|_, _| {}).await
    }

    /// Starts a server with other settings: those of its engine, and those of its HTTP.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hydra_sdk::Result<()> {
    /// use std::time::Duration;
    /// use hydra_testkit::TestServer;
    ///
    /// let server = TestServer::start_with(|engine, http| {
    ///     engine.default_policy.write_interval = Duration::ZERO;
    ///     http.max_connections = 10;
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`TestServer::start`], and when the settings do not fit together.
    pub async fn start_with(change: impl FnOnce(&mut EngineOptions, &mut Config)) -> Result<TestServer> {
        let dir = TempDir::with_prefix("hydra-test-");
        let dir = dir.map_err(|error| Error::io("create", &std::env::temp_dir(), error))?;
        let mut options = EngineOptions::new(dir.path().join("data"));
        options.server_id = Some("s1".to_owned());
        let mut config = Config { shutdown_grace: GRACE, ..Config::default() };
        change(&mut options, &mut config);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = TestServer { host: None, address, options, config, dir };
        server.start_again().await?;
        Ok(server)
    }

    /// Where it listens, `http://127.0.0.1:PORT`; the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A client of this server.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub async fn connect(&self) -> Result<Hydra> {
        Hydra::connect(self.url()).await
    }

    /// Where its data is.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.options.server_id.as_deref().unwrap_or_default()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.host.is_some()
    }

    /// Stops it as SIGTERM would: what has begun is finished, everything goes to disk, and its port refuses connections
    /// from then on. Does nothing when it does not run.
    ///
    /// # Errors
    /// When not everything went to disk.
    pub async fn stop(&mut self) -> Result<()> {
        match self.host.take() {
            Some(host) => Ok(host.stop().await?),
            None => Ok(()),
        }
    }

    /// Starts it after [`TestServer::stop`], at the same port with the same data. Does nothing when it runs.
    ///
    /// # Errors
    /// When its port was taken by somebody else, or its directory cannot be opened.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.host.is_none() {
            let host = Host::start::<Serving>(self.address, (self.options.clone(), self.config.clone())).await?;
            self.address = host.address();
            self.host = Some(host);
        }
        Ok(())
    }

    /// Stops and starts it again.
    ///
    /// # Errors
    /// Those of [`TestServer::stop`] and [`TestServer::start_again`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Everything it has, on disk or not.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// An engine behind HTTP.
struct Serving {
    engine: Engine,
    config: Config,
}

impl Service for Serving {
    type Needs = (EngineOptions, Config);

    async fn open((options, config): Self::Needs) -> Result<Serving, Error> {
        Ok(Serving { engine: Engine::open(options)?, config })
    }

    fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = io::Result<()>> {
        hydra_server::run(listener, self.engine.clone(), self.config.clone(), stop)
    }

    fn close(self) -> Result<(), Error> {
        self.engine.close()
    }
}
