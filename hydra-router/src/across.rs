//! The servers of a map as one: requests that go to several of them on behalf of one who asks.

use std::sync::Arc;

use http::HeaderMap;
use hydra_core::wire::{Problem, header};
use hydra_core::{Error, ErrorCode, FolderId, FolderSet};
use hydra_sdk::{ClientMap, ForwardRequest, ForwardResponse, Headers, Hydra, OpClass};

use crate::answer::Refusal;
use crate::forward::request_of;
use crate::gateway::{Gateway, Head};
use crate::segments::segments;

/// What goes on of the head of a request that is taken apart. All else is about the whole.
const GOES_ON: [&str; 4] = ["authorization", header::FOLDERS, header::REQUEST_ID, header::HOPS];

/// A data set on many servers, asked on behalf of somebody. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Across {
    pub(crate) hydra: Hydra,
    /// The map as it was at the beginning; who is asked is decided by the one in force.
    pub(crate) map: Arc<ClientMap>,
    headers: Headers,
    own_token: bool,
}

impl Across {
    /// The data set, asked with the client's own token.
    ///
    /// # Errors
    /// `invalid-config` when it has no map.
    pub fn new(hydra: Hydra) -> Result<Across, Error> {
        let map = hydra.map().ok_or_else(|| Error::new(ErrorCode::InvalidConfig, "this needs a client map"))?;
        Ok(Across { hydra, map, headers: Headers::new(), own_token: true })
    }

    /// The data set, asked for whoever sent a request.
    pub(crate) fn of(gateway: &Gateway, head: &Head) -> Result<Across, Refusal> {
        let ForwardRequest { headers, own_token, .. } = request_of(gateway, head, OpClass::Read)?;
        let all = HeaderMap::from(headers);
        let goes_on = all.iter().filter(|(name, _)| GOES_ON.contains(&name.as_str()));
        let headers: HeaderMap = goes_on.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Across { hydra: gateway.hydra.clone(), map: gateway.map(), headers: headers.into(), own_token })
    }

    /// Every folder range and pool that has to be asked for these folders, in the order of the folders.
    pub(crate) fn parts(&self, wanted: &FolderSet) -> Vec<Vec<Part>> {
        let part = |pool: &str, folders| Part { pool: pool.to_owned(), folders };
        let ranges = segments(&self.map, wanted).into_iter();
        ranges.map(|folders| self.map.pools().map(|pool| part(pool, folders)).collect()).collect()
    }

    pub(crate) fn request(&self, class: OpClass, method: &str, target: String) -> ForwardRequest {
        let mut request = ForwardRequest::new(class, method, target);
        request.headers.clone_from(&self.headers);
        request.own_token = self.own_token;
        request
    }

    /// Reads something about the folders of a part from whoever answers for them.
    ///
    /// # Errors
    /// When nobody answered, and what whoever did refused.
    pub(crate) async fn read(&self, part: &Part, target: String) -> Result<ForwardResponse, Refusal> {
        let request = self.request(OpClass::Read, "GET", target);
        let folder = FolderId::new(part.folders.0);
        let answer = self.hydra.forward_folder(&part.pool, folder, request).await;
        let answer = answer.map_err(|error| Refusal::of_call(&error))?;
        if answer.status == 200 { Ok(answer) } else { Err(refusal_of(answer).await) }
    }
}

/// Folders of a pool that one route leads to, from the first to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pool: String,
    pub(crate) folders: (u32, u32),
}

impl Part {
    /// As a parameter.
    pub(crate) fn text(&self) -> String {
        let (first, last) = self.folders;
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    }

    /// The folders one by one, where they do not belong to one server any more: the hint of a server is about one
    /// folder.
    pub(crate) fn one_by_one(&self, refused: &Refusal) -> Option<Vec<Part>> {
        let is_elsewhere = refused.was_rejected || is_elsewhere(refused.error.code());
        let (first, last) = self.folders;
        let single = |folder| Part { pool: self.pool.clone(), folders: (folder, folder) };
        (is_elsewhere && first < last).then(|| (first..=last).map(single).collect())
    }
}

/// Whether a server refused because a folder is on another one, or on its way there.
pub(crate) fn is_elsewhere(code: ErrorCode) -> bool {
    code.status() == 421 || code == ErrorCode::FolderSealed
}

/// What a server refused.
pub(crate) async fn refusal_of(answer: ForwardResponse) -> Refusal {
    let (status, server) = (answer.status, answer.server.clone());
    let body = answer.body.collect().await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<Problem>(&body) else {
        let detail = format!("{server} answered {status}, and why cannot be read");
        return Error::new(ErrorCode::ServerUnreachable, detail).into();
    };
    let refusal = Refusal::from(problem.to_error());
    match problem.folder {
        Some(folder) => refusal.in_folder(folder),
        None => refusal,
    }
}
