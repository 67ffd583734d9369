//! The ways to reach a data set.

use hydra_sdk::Hydra;
use hydra_testkit::{TestCluster, TestRouter, TestServer};
use tempfile::TempDir;

/// How a data set is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `mem://`.
    Memory,
    /// `file://`.
    Directory,
    /// `http://`, one server.
    Server,
    /// Three servers by a client map.
    Map,
    /// `http://`, a router in front of three servers.
    Router,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::Memory, Kind::Directory, Kind::Server, Kind::Map, Kind::Router];
}

/// A data set, and what is behind it.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) hydra: Hydra,
    behind: Behind,
}

#[derive(Debug)]
enum Behind {
    Memory,
    Directory(TempDir),
    Server(TestServer),
    Map(TestCluster),
    Router(TestCluster, TestRouter),
}

impl Transport {
    pub(crate) async fn open(kind: Kind) -> Transport {
        let behind = match kind {
            Kind::Memory => Behind::Memory,
            Kind::Directory => Behind::Directory(TempDir::new().expect("a directory")),
            Kind::Server => Behind::Server(TestServer::start().await.expect("a server")),
            Kind::Map => Behind::Map(TestCluster::start(3).await.expect("servers")),
            Kind::Router => {
                let cluster = TestCluster::start(3).await.expect("servers");
                let router = cluster.router().await.expect("a router");
                Behind::Router(cluster, router)
            }
        };
        Transport { hydra: connect(&behind).await, behind }
    }

    /// Ends everything that holds data and starts it again. What is in memory alone stays as it is.
    pub(crate) async fn restart(&mut self) {
        match &mut self.behind {
            Behind::Memory => {}
            Behind::Directory(_) => {
                self.hydra.clone().close().await.expect("closed");
                self.hydra = connect(&self.behind).await;
            }
            Behind::Server(server) => server.restart().await.expect("it starts again"),
            Behind::Map(cluster) | Behind::Router(cluster, _) => {
                for index in 0..cluster.servers().len() {
                    cluster.server_mut(index).restart().await.expect("it starts again");
                }
            }
        }
    }
}

async fn connect(behind: &Behind) -> Hydra {
    let connected = match behind {
        Behind::Memory => Hydra::connect("mem://").await,
        Behind::Directory(dir) => Hydra::connect(format!("file://{}", dir.path().display())).await,
        Behind::Server(server) => server.connect().await,
        Behind::Map(cluster) => cluster.connect().await,
        Behind::Router(_, router) => router.connect().await,
    };
    connected.expect("a data set")
}
