//! [`Hydra`]: the data set as one thing, wherever it lives.

use std::sync::Arc;

use hydra_core::SwampName;

use crate::cluster::{CallOptions, Cluster};
use crate::error::Result;
use crate::forward::{ForwardRequest, ForwardResponse};
use crate::map::ClientMap;

/// A data set: some servers by a client map.
#[derive(Debug, Clone)]
pub struct Hydra(Arc<Cluster>);

impl Hydra {
    /// A data set by its map. Nothing is sent; a server that is down now is used when it comes up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when no HTTP client can be made.
    pub fn with_map(map: ClientMap) -> Result<Hydra> {
        Ok(Hydra(Arc::new(Cluster::new(map)?)))
    }

    /// The map that is in force.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClientMap>> {
        self.0.state().map().cloned()
    }

    /// Passes a request on to the server that answers for a name, or its fallbacks, by the same
    /// rules as typed calls. The answer is handed back as soon as its head is there.
    ///
    /// # Errors
    /// When no server answered. An error answer of a server is no error here, unless another server
    /// may have carried out the same write before.
    pub async fn forward(&self, name: &SwampName, request: ForwardRequest) -> Result<ForwardResponse> {
        let options = CallOptions { fallback: request.fallback, deadline: request.deadline, is_bulk: false };
        let request = request.into_request()?;
        let answered = self.0.call(name, &request, &options).await?;
        Ok(ForwardResponse::new(answered.answer, answered.server.id().to_owned(), answered.fell_back))
    }

    /// Passes a request on to one server of the map, whatever it is about: one try, no failover.
    ///
    /// # Errors
    /// When the server is not in the map or did not answer.
    pub async fn forward_to(&self, server: &str, request: ForwardRequest) -> Result<ForwardResponse> {
        let deadline = request.deadline;
        let request = request.into_request()?;
        let answer = self.0.ask(server, &request, deadline).await?;
        Ok(ForwardResponse::new(answer, server.to_owned(), false))
    }
}
