//! The path of every route with its variable parts in braces. The compiler asks for a line when a route is added.

use crate::route::{MoveVerb, Route};

macro_rules! templates {
    ($($route:pat => $path:literal,)*) => {
        /// Every path, as the document has them.
        pub(super) const TEMPLATES: &[&str] = &[$($path),*];

        /// The path of a route.
        pub(super) fn template(route: &Route) -> &'static str {
            match route { $($route => $path,)* }
        }
    };
}

templates! {
    Route::Welcome => "/",
    Route::Health => "/health",
    Route::Ready => "/ready",
    Route::Version => "/version",
    Route::Metrics => "/metrics",
    Route::OpenApi => "/openapi.json",
    Route::Problem(_) => "/problems/{code}",
    Route::Page => "/ui",
    Route::Status => "/v1/status",
    Route::Probe => "/v1/probe",
    Route::Drain => "/v1/admin/drain",
    Route::Log => "/v1/admin/log",
    Route::Reload => "/v1/admin/reload",
    Route::List(_) => "/v1/kv/{sanctuary}/{realm}/{swamp}",
    Route::Treasure(..) => "/v1/kv/{sanctuary}/{realm}/{swamp}/{key}",
    Route::Query(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/query",
    Route::Swamps(None, _) => "/v1/swamps",
    Route::Swamps(Some(_), None) => "/v1/swamps/{sanctuary}",
    Route::Swamps(Some(_), Some(_)) => "/v1/swamps/{sanctuary}/{realm}",
    Route::Swamp(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}",
    Route::Batch(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/batch",
    Route::FlushSwamp(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/flush",
    Route::CompactSwamp(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/compact",
    Route::LoadSwamp(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/load",
    Route::EvictSwamp(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/evict",
    Route::SwampPolicy(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/policy",
    Route::Conflicts(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/conflicts",
    Route::Shift(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/shift",
    Route::Lock(..) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/locks/{lock}",
    Route::Export(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/export",
    Route::Import(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/import",
    Route::ExportAll => "/v1/export",
    Route::ImportAll => "/v1/import",
    Route::Archive(_) => "/v1/folders/{folder}/archive",
    Route::Events(_) => "/v1/swamps/{sanctuary}/{realm}/{swamp}/events",
    Route::AllEvents => "/v1/events",
    Route::Policies => "/v1/policies",
    Route::Policy(_) => "/v1/policies/{sanctuary}/{realm}/{swamp}",
    Route::Resolve(_) => "/v1/resolve/{sanctuary}/{realm}/{swamp}",
    Route::BatchAcross => "/v1/batch",
    Route::FlushAll => "/v1/flush",
    Route::Folders => "/v1/folders",
    Route::Folder(_) => "/v1/folders/{folders}",
    Route::FlushFolder(_) => "/v1/folders/{folders}/flush",
    Route::MarkCopied(_) => "/v1/folders/{folders}/copied",
    Route::HoldFolder(_) => "/v1/folders/{folder}/hold",
    Route::CollectFolder(_) => "/v1/folders/{folders}/gc",
    Route::CompactFolder(_) => "/v1/folders/{folders}/compact",
    Route::VerifyFolder(_) => "/v1/folders/{folders}/verify",
    Route::Takeover(_) => "/v1/folders/{folder}/takeover",
    Route::Holds(_) => "/v1/folders/{folder}/holds",
    Route::Settle(_) => "/v1/folders/{folder}/takeover/settle",
    Route::SealTakeover(_) => "/v1/folders/{folder}/takeover/seal",
    Route::UnsealTakeover(_) => "/v1/folders/{folder}/takeover/unseal",
    Route::Move(_, MoveVerb::Fence) => "/v1/folders/{folder}/fence",
    Route::Move(_, MoveVerb::Unfence) => "/v1/folders/{folder}/unfence",
    Route::Move(_, MoveVerb::Import) => "/v1/folders/{folder}/import",
    Route::Move(_, MoveVerb::Pull) => "/v1/folders/{folder}/pull",
    Route::Move(_, MoveVerb::Seal) => "/v1/folders/{folder}/seal",
    Route::Move(_, MoveVerb::Unseal) => "/v1/folders/{folder}/unseal",
    Route::Move(_, MoveVerb::Manifest) => "/v1/folders/{folder}/manifest",
    Route::Move(_, MoveVerb::Files) => "/v1/folders/{folder}/files",
    Route::Move(_, MoveVerb::Commit) => "/v1/folders/{folder}/commit",
    Route::Move(_, MoveVerb::Activate) => "/v1/folders/{folder}/activate",
    Route::Move(_, MoveVerb::Abort) => "/v1/folders/{folder}/abort",
    Route::Move(_, MoveVerb::Promote) => "/v1/folders/{folder}/promote",
    Route::Move(_, MoveVerb::Lacks) => "/v1/folders/{folder}/lacks",
    Route::Move(_, MoveVerb::Clean) => "/v1/folders/{folder}/clean",
}
