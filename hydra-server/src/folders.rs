//! Folders of this server, and where a name lives: `/v1/folders`, `/v1/resolve`, `/v1/flush`.

use http::StatusCode;
use hydra_core::wire::{FolderBody, FoldersBody, ResolveBody, folder_state};
use hydra_core::{Engine, Error, ErrorCode, FolderId, FolderSet, SwampName, swamp_dir};

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::query::Query;

/// What this server is to each folder, or to those of one state; with `?sizes` also how much is in them, which walks them.
pub(crate) async fn list(call: &mut Call, wanted: Option<FolderSet>) -> Result<Response, Error> {
    let parameters = call.head.uri.query().map(str::to_owned);
    let query = Query::parse(parameters.as_deref(), &["sizes", "state"])?;
    let (sizes, state) = (query.flag("sizes")?, folder_state(&query)?);
    let wanted = existing(call, wanted)?;
    let is_wanted =
        |folder: &FolderId| state.is_none_or(|state| call.app.engine.folder_state(*folder).as_str() == state);
    let wanted: FolderSet = wanted.iter().filter(is_wanted).collect();
    let engine = call.app.engine.clone();
    let describe = move || wanted.iter().map(|folder| describe(&engine, folder, sizes)).collect::<Result<Vec<_>, _>>();
    let folders = if sizes { blocking(describe).await? } else { describe()? };
    answer::json(StatusCode::OK, &FoldersBody { folders })
}

pub(crate) fn describe(engine: &Engine, folder: FolderId, sizes: bool) -> Result<FolderBody, Error> {
    let state = engine.folder_state(folder);
    let sizes = (sizes && state.has_files()).then(|| engine.folder_sizes(folder)).transpose()?;
    Ok(FolderBody {
        folder,
        state: state.as_str().to_owned(),
        epoch: Some(state.epoch()).filter(|&epoch| epoch > 0),
        peer: state.elsewhere().map(|elsewhere| elsewhere.server),
        sealed: engine.is_sealed(folder),
        ready: engine.is_ready(folder),
        copied: engine.is_copied(folder),
        swamps: sizes.map(|sizes| sizes.swamps),
        files: sizes.map(|sizes| sizes.files),
        bytes: sizes.map(|sizes| sizes.bytes),
    })
}

/// Answers when everything acknowledged so far in these folders, or in all, is on disk.
pub(crate) async fn flush(call: &mut Call, wanted: Option<FolderSet>) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let engine = call.app.engine.clone();
    match wanted {
        None => blocking(move || engine.flush(None)).await?,
        Some(set) => {
            let set = present(call, set)?;
            blocking(move || set.iter().try_for_each(|folder| engine.flush(Some(folder)))).await?;
        }
    }
    call.mark_synced();
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// Notes that another machine has or may have copies of these folders, for as long as the data lives.
pub(crate) async fn mark_copied(call: &mut Call, wanted: FolderSet) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let wanted = existing(call, Some(wanted))?;
    let engine = call.app.engine.clone();
    blocking(move || engine.mark_copied(&wanted)).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// The folders, which all have to be on this server, owned or as copies.
pub(crate) fn present(call: &mut Call, wanted: FolderSet) -> Result<FolderSet, Error> {
    let wanted = existing(call, Some(wanted))?;
    let engine = &call.app.engine;
    let absent = |folder: &FolderId| !engine.folder_state(*folder).has_files();
    wanted.iter().find(absent).map_or(Ok(()), |folder| Err(engine.not_served(folder)))?;
    Ok(wanted)
}

/// The folders asked for, all by default. Folders that do not exist are an error, not an empty answer.
pub(crate) fn existing(call: &mut Call, wanted: Option<FolderSet>) -> Result<FolderSet, Error> {
    let count = call.app.engine.folder_count();
    let Some(wanted) = wanted else { return Ok(count.all()) };
    wanted.check(count).map_err(|error| Error::new(ErrorCode::InvalidParameter, error.detail()))?;
    call.folder = wanted.last().filter(|_| wanted.len() == 1);
    Ok(wanted)
}

/// Where a name lives, by arithmetic alone.
pub(crate) fn resolve(call: &mut Call, name: &SwampName) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let engine = &call.app.engine;
    let folder = engine.folder_of(name);
    let body = ResolveBody {
        name: name.to_string(),
        hash: format!("{:016x}", name.hash()),
        folder,
        folders: engine.folder_count(),
        path: swamp_dir(folder, name).display().to_string(),
        state: Some(engine.folder_state(folder).as_str().to_owned()),
        server: engine.server_id().to_owned(),
    };
    answer::json(StatusCode::OK, &body)
}
