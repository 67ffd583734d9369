//! `hydra-router move --clean`: removes what a folder that has moved left behind, once everybody else has it.

use hydra_core::wire::{CleanBody, CleanedBody, LackedBody, LacksBody, MAX_PIECES, ManifestBody, UnderSealBody};
use hydra_sdk::ClientMap;

use super::Outcome;
use super::copy::Copied;
use super::folder::Move;
use super::remote::post;
use crate::Failure;

/// Hashing a folder takes as long as reading it.
const READ_ALL: std::time::Duration = std::time::Duration::from_secs(600);

impl Move<'_> {
    /// Removes the folder's files at the source. Refused while a server that the map lists for the folder lacks one.
    pub(super) async fn clean(&self) -> Result<Outcome, Failure> {
        let (folder, from) = (self.folder, &self.flags.from);
        if !folder.has_left(&self.flags.to) || !folder.has_arrived() {
            return Err(Failure::conflict(format!("it has not moved from {from} to {} yet", self.flags.to)));
        }
        let holders = holders(self.map, self.pool, folder.id);
        if holders.iter().any(|id| id == from) {
            return Err(Failure::conflict(format!(
                "{} still lists {from} for it; let the move write the map (--write-map), or take {from} out of the route",
                self.flags.map.display()
            )));
        }
        self.say("clean");
        let none = UnderSealBody::default();
        let listed: ManifestBody = post(self.hydra, from, folder.id, "manifest", &none, READ_ALL).await?;
        for holder in &holders {
            for files in listed.files.chunks(MAX_PIECES) {
                let body = LacksBody { files: files.to_vec() };
                let lacked: LackedBody = post(self.hydra, holder, folder.id, "lacks", &body, READ_ALL).await?;
                if let Some(first) = lacked.missing.first() {
                    let count = lacked.missing.len();
                    return Err(Failure::conflict(format!(
                        "{holder} lacks {count} files of it, {first} is one: let its sync catch up first"
                    )));
                }
            }
        }
        let body = CleanBody { manifest: listed.manifest };
        let cleaned: CleanedBody = post(self.hydra, from, folder.id, "clean", &body, READ_ALL).await?;
        Ok(self.outcome("removed at its old owner", Copied { files: cleaned.files, bytes: cleaned.bytes }, None))
    }
}

/// Everybody whom the map lists for a folder.
fn holders(map: &ClientMap, pool: &str, folder: hydra_sdk::FolderId) -> Vec<String> {
    let routes = map.routes(pool).filter(|(folders, ..)| folders.contains(folder));
    let servers = routes.flat_map(|(_, primary, fallbacks)| std::iter::once(primary).chain(fallbacks));
    servers.map(|server| server.id.clone()).collect()
}
