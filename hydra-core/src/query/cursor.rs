//! Cursors: where a list goes on, as text that belongs to one query on one swamp.
//!
//! ```text
//! base64url of: form 1 · XXH3 of swamp, query and what follows u64 · rank (0 time u64 | 1 length u16, bytes) · key
//! ```

use crate::base64url;
use crate::error::{Error, ErrorCode};
use crate::name::{SwampName, check_key};

use super::ListQuery;
use super::rank::{Position, Rank};

const FORM: u8 = 1;

/// The cursor of a position.
pub(crate) fn write(name: &SwampName, query: &ListQuery, position: &Position) -> String {
    let mut place = Vec::with_capacity(position.key.len() + 16);
    match &position.rank {
        Rank::Time(millis) => {
            place.push(0);
            place.extend_from_slice(&millis.to_be_bytes());
        }
        Rank::Value(value) => {
            place.push(1);
            place.extend_from_slice(&(value.len() as u16).to_be_bytes());
            place.extend_from_slice(value);
        }
    }
    place.extend_from_slice(&position.key);
    let seal = seal(name, query, &place).to_be_bytes();
    base64url::encode(&[&[FORM], &seal[..], &place].concat())
}

/// The position of a cursor.
///
/// # Errors
/// `invalid-cursor` for one that cannot be read, and for one of another swamp or query.
pub(crate) fn read(name: &SwampName, query: &ListQuery, text: &str) -> Result<Position, Error> {
    let refuse = |why: &str| {
        Error::new(ErrorCode::InvalidCursor, format!("the cursor {why}"))
            .with_hint("send nextCursor of the page before unchanged, to the same swamp and with the same query")
    };
    let bytes = base64url::decode(text).ok_or_else(|| refuse("cannot be read"))?;
    let (sent, place) = parse(&bytes).ok_or_else(|| refuse("cannot be read"))?;
    if sent != seal(name, query, place) {
        return Err(refuse("was changed, or belongs to another swamp or another query"));
    }
    parse_place(place).ok_or_else(|| refuse("cannot be read"))
}

fn parse(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&FORM, rest) = bytes.split_first()? else { return None };
    let (seal, place) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*seal), place))
}

fn parse_place(place: &[u8]) -> Option<Position> {
    let (rank, key) = match place.split_first()? {
        (0, rest) => {
            let (millis, key) = rest.split_first_chunk::<8>()?;
            (Rank::Time(u64::from_be_bytes(*millis)), key)
        }
        (1, rest) => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (value, key) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            (Rank::Value(value.into()), key)
        }
        _ => return None,
    };
    check_key(std::str::from_utf8(key).ok()?).ok()?;
    Some(Position { rank, key: key.to_vec() })
}

/// A hash of the place and of everything that decides which treasures come in which order; not of how many are
/// asked for at once.
fn seal(name: &SwampName, query: &ListQuery, place: &[u8]) -> u64 {
    let bounds = (&query.prefix, &query.from, &query.to);
    let filter = query.filter.as_ref().map(ToString::to_string);
    let text = format!("{name}\n{}\n{}\n{bounds:?}\n{:?}\n{filter:?}\n", query.order, query.descending, query.expired);
    xxhash_rust::xxh3::xxh3_64(&[text.as_bytes(), place].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Order;

    #[test]
    fn a_cursor_belongs_to_one_query_on_one_swamp() {
        let name: SwampName = "a/b/c".parse().expect("a name");
        let query = ListQuery { order: Order::Updated, ..ListQuery::default() };
        for rank in [Rank::Time(7), Rank::LAST, Rank::Value([1, 0, 255].into())] {
            let position = Position { rank, key: "kéy".into() };
            let text = write(&name, &query, &position);
            assert_eq!(read(&name, &query, &text).expect("its own"), position);
            let again = ListQuery { limit: 7, ..query.clone() };
            assert_eq!(read(&name, &again, &text).expect("the limit may change"), position);
            let others = [
                ListQuery { descending: true, ..query.clone() },
                ListQuery { prefix: Some("k".into()), ..query.clone() },
                ListQuery { from: Some("k".into()), ..query.clone() },
                ListQuery { order: Order::Created, ..query.clone() },
                ListQuery { filter: Some("/a == 1".parse().expect("a filter")), ..query.clone() },
            ];
            for other in others {
                assert_eq!(read(&name, &other, &text).expect_err("of another").code(), ErrorCode::InvalidCursor);
            }
            assert!(read(&"a/b/d".parse().expect("a name"), &query, &text).is_err());
            for cut in 0..text.len() {
                assert!(read(&name, &query, &text[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}
