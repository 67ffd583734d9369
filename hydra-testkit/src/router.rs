//! A router in this process.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hydra_core::{Error, ErrorCode};
use hydra_router::Config;
use hydra_sdk::{ClientMap, Hydra, Result};
use tokio::net::TcpListener;

use crate::host::{Host, Service};

/// A router in front of the servers of a map, with a port of its own. Dropping it ends it at once.
#[derive(Debug)]
pub struct TestRouter(Host);

impl TestRouter {
    /// Starts a router.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(map: ClientMap) -> Result<TestRouter> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(TestRouter(Host::start::<Routing>(address, map).await?))
    }

    /// Where it listens, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// A client that knows of nothing but this router.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub async fn connect(&self) -> Result<Hydra> {
        Hydra::connect(self.url()).await
    }
}

/// A client map behind HTTP.
struct Routing(Hydra);

impl Service for Routing {
    type Needs = ClientMap;

    async fn open(map: ClientMap) -> Result<Routing, Error> {
        let refused = |error: hydra_sdk::Error| Error::new(ErrorCode::InvalidConfig, error.to_string());
        Ok(Routing(Hydra::with_map(map).map_err(refused)?))
    }

    fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = io::Result<()>> {
        let config = Config { shutdown_grace: Duration::from_secs(5), ..Config::default() };
        hydra_router::run(listener, self.0.clone(), config, stop)
    }

    fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
