//! A place in a list of swamps: its folder and its path. Pure.
//!
//! It says nothing of who was asked. So it means the same at every server, and to whoever puts the lists of several
//! servers together, whichever of them has the folder by then.

use super::{PARTS, Steps, SwampsQuery, wanted_names};
use crate::base64url;
use crate::error::{Error, ErrorCode, Result};
use crate::folder::FolderId;
use crate::layout::encode_part;
use crate::name::SwampName;

/// What a cursor begins with, unlike that of a list of treasures.
const FORM: u8 = 2;

/// A place in the order of lists of swamps: by folder, then by path. Later places compare as greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwampsCursor {
    pub(super) folder: FolderId,
    pub(super) steps: Steps,
}

impl SwampsCursor {
    /// The place of a swamp.
    #[must_use]
    pub fn at(name: &SwampName, folder: FolderId) -> SwampsCursor {
        SwampsCursor { folder, steps: name.parts().map(encode_part) }
    }

    /// The folder it is in.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        self.folder
    }

    /// The text for [`SwampsQuery::cursor`] with which the same query goes on behind this place.
    #[must_use]
    pub fn write(&self, query: &SwampsQuery) -> String {
        let place = [&self.folder.get().to_be_bytes()[..], self.steps.join("/").as_bytes()].concat();
        base64url::encode(&[&[FORM], &seal(query, &place).to_be_bytes()[..], &place].concat())
    }

    /// Reads the text of a cursor that goes with this query.
    ///
    /// # Errors
    /// `invalid-cursor` for one that was changed, or belongs to another query.
    pub fn read(text: &str, query: &SwampsQuery) -> Result<SwampsCursor> {
        let refuse = || {
            let detail = "the cursor cannot be read, was changed, or belongs to another list of swamps";
            Error::new(ErrorCode::InvalidCursor, detail)
                .with_hint("send nextCursor of the page before unchanged, with the same path and prefix")
        };
        let parse = |bytes: &[u8]| {
            let (&FORM, rest) = bytes.split_first()? else { return None };
            let (sealed, place) = rest.split_first_chunk::<8>()?;
            if u64::from_be_bytes(*sealed) != seal(query, place) {
                return None;
            }
            let (folder, path) = place.split_first_chunk::<4>()?;
            let steps: Vec<String> = std::str::from_utf8(path).ok()?.split('/').map(str::to_owned).collect();
            let steps = <[String; PARTS]>::try_from(steps).ok()?;
            Some(SwampsCursor { folder: FolderId::new(u32::from_be_bytes(*folder)), steps })
        };
        base64url::decode(text).and_then(|bytes| parse(&bytes)).ok_or_else(refuse)
    }
}

/// A hash of the place and of what decides which names are listed; not of how many are asked for at once, or of
/// which folders.
fn seal(query: &SwampsQuery, place: &[u8]) -> u64 {
    let (prefix, known) = wanted_names(query);
    let text = format!("{prefix}\n{known:?}\n");
    xxhash_rust::xxh3::xxh3_64(&[text.as_bytes(), place].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_query_alone() {
        let name: SwampName = "a/b c/\u{e9}".parse().expect("a name");
        let query = SwampsQuery { prefix: Some("a".to_owned()), ..SwampsQuery::default() };
        let at = SwampsCursor::at(&name, FolderId::new(7));
        let text = at.write(&query);
        let more =
            SwampsQuery { limit: 5, info: true, folders: Some("7-9".parse().expect("folders")), ..query.clone() };
        assert_eq!(SwampsCursor::read(&text, &more).expect("read"), at);
        assert_eq!(at.folder().get(), 7);
        assert!(at < SwampsCursor::at(&name, FolderId::new(8)));
        for bad in ["", "AA", &text[1..], &format!("{text}A")] {
            assert_eq!(SwampsCursor::read(bad, &query).expect_err(bad).code(), ErrorCode::InvalidCursor);
        }
        assert!(SwampsCursor::read(&text, &SwampsQuery::default()).is_err());
    }
}
