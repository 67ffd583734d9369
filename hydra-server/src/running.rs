//! A server in this process on a free port, for tests and examples.

use hydra_core::{Engine, EngineOptions, Error};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::app::blocking;
use crate::config::Config;
use crate::serve::run;

/// A server that runs in this process until it is shut down. When it is only dropped it stops too, but
/// nothing waits for it and the data directory may stay locked for a moment.
#[derive(Debug)]
pub struct Server {
    url: String,
    engine: Engine,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Opens the data directory and serves it on a free port of 127.0.0.1, with the default [`Config`].
    ///
    /// # Errors
    /// Those of [`Engine::open`], and `io` when no port can be had.
    pub async fn start(options: EngineOptions) -> Result<Server, Error> {
        Server::start_with(options, Config::default()).await
    }

    /// [`Server::start`] with other settings.
    ///
    /// # Errors
    /// Those of [`Server::start`].
    pub async fn start_with(options: EngineOptions, config: Config) -> Result<Server, Error> {
        let engine = blocking(move || Engine::open(options)).await?;
        let no_port = |error| Error::io("listen on", "127.0.0.1:0".as_ref(), error);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(no_port)?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().map_err(no_port)?);
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(run(listener, engine.clone(), config, async {
            let _ = stopped.await;
        }));
        Ok(Server { url, engine, stop, serving })
    }

    /// Where it listens, e.g. `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The engine behind it.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Finishes the requests that have begun, flushes everything and releases the data directory.
    ///
    /// # Errors
    /// Those of [`Engine::close`].
    pub async fn shutdown(self) -> Result<(), Error> {
        let _ = self.stop.send(());
        // It can only have failed before it listened.
        let _ = self.serving.await;
        let engine = self.engine;
        blocking(move || engine.close()).await
    }
}
