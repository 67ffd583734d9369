//! One step of a move at one server, over HTTP.

use std::time::Duration;

use hydra_core::ErrorCode;
use hydra_core::wire::{FolderBody, FoldersBody, Problem, folder_path};
use hydra_sdk::{FolderId, FolderSet, ForwardBody, ForwardRequest, Hydra, OpClass};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;

/// How long a step may take that waits for the disk alone.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// Why a step was not made.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) server: String,
    /// What the server answered; `None` when none came.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) detail: String,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        let message = format!("{}: {}", refused.server, refused.detail);
        match refused.code {
            None | Some(ErrorCode::ServerUnreachable) => Failure::unavailable(message),
            Some(code) if code.status() == 409 => Failure::conflict(message),
            Some(code) if matches!(code.status(), 401 | 403) => Failure::denied(message),
            Some(_) => Failure::failed(message),
        }
    }
}

/// Makes a step; the answer or why there is none.
pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
    hydra: &Hydra,
    server: &str,
    folder: FolderId,
    verb: &str,
    body: &B,
    patience: Duration,
) -> Result<T, Refused> {
    let refused = |detail: String| Refused { server: server.to_owned(), code: None, detail };
    let body = serde_json::to_vec(body).map_err(|error| refused(format!("a request cannot be written: {error}")))?;
    let request = ForwardRequest::new(OpClass::Overwrite, "POST", folder_path(folder, verb));
    let request = request.with_body("application/json", ForwardBody::Whole(body.into()));
    send(hydra, server, request, patience).await
}

/// What a server is to some folders.
pub(crate) async fn states(hydra: &Hydra, server: &str, folders: &FolderSet) -> Result<Vec<FolderBody>, Refused> {
    let request = ForwardRequest::new(OpClass::Read, "GET", format!("/v1/folders/{folders}"));
    let body: FoldersBody = send(hydra, server, request, STEP).await?;
    Ok(body.folders)
}

async fn send<T: DeserializeOwned>(
    hydra: &Hydra,
    server: &str,
    mut request: ForwardRequest,
    patience: Duration,
) -> Result<T, Refused> {
    request.deadline = Some(patience);
    let refused = |code, detail| Refused { server: server.to_owned(), code, detail };
    let answer = hydra.forward_to(server, request).await.map_err(|error| {
        let why = error.attempts().first().map_or_else(|| error.to_string(), |attempt| attempt.error.clone());
        refused(None, why)
    })?;
    let status = answer.status;
    let body = answer.body.collect().await.map_err(|error| refused(None, error.to_string()))?;
    if status != 200 {
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let error = problem.map(|problem| problem.to_error());
        return Err(match error {
            Some(error) => refused(Some(error.code()), error.to_string()),
            None => refused(Some(ErrorCode::Unknown), format!("answered {status}")),
        });
    }
    serde_json::from_slice(&body)
        .map_err(|error| refused(Some(ErrorCode::Unknown), format!("answered something that cannot be read: {error}")))
}
