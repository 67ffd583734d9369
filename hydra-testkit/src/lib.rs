//! Real Hydra servers for tests, in one line.
//!
//! ```
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Profile { name: String }
//! use hydra_testkit::TestServer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hydra_sdk::Result<()> {
//! let server = TestServer::start().await?; // a port of its own, a directory of its own
//! let hydra = server.connect().await?;
//! let alice = hydra.swamp("users/profiles/alice")?;
//! alice.put("me", &Profile { name: "Alice".into() }).await?;
//! assert_eq!(alice.get("me").await?.map(|profile: Profile| profile.name).as_deref(), Some("Alice"));
//! # Ok(()) } // the server ends here, and its directory is gone
//! ```
//!
//! What runs is the whole server: its HTTP over loopback, its engine over a temporary directory. No program has to be
//! built or found: the server is a library, and runs in this process in threads of its own. So a test needs no runtime of
//! a certain kind, any number of tests run side by side, and dropping a server waits until it is gone.
//!
//! [`TestCluster`] is several of them behind a client map, each the fallback of another one; [`TestRouter`] the router in
//! front. Code that only needs *a* data set, and not HTTP, does with `Hydra::connect("mem://")` of hydra-sdk.

mod cluster;
mod host;
mod router;
mod server;

pub use cluster::TestCluster;
pub use hydra_core::EngineOptions;
pub use hydra_server::Config;
pub use router::TestRouter;
pub use server::TestServer;

/// The programs in the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// And those in the pages of docs.
#[cfg(doctest)]
#[doc = include_str!("../../docs/security.md")]
struct Security;
