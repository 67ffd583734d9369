//! Cursors: where a list goes on, as text that belongs to one query on one swamp.
//!
//! ```text
//! base64url of: form 1 · XXH3 of swamp and query u64 · rank (0 time u64 | 1 length u16, bytes) · key
//! ```

use crate::error::{Error, ErrorCode};
use crate::name::{SwampName, check_key};

use super::ListQuery;
use super::rank::{Position, Rank};

const FORM: u8 = 1;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The cursor of a position.
pub(crate) fn write(name: &SwampName, query: &ListQuery, position: &Position) -> String {
    let mut bytes = vec![FORM];
    bytes.extend_from_slice(&fingerprint(name, query).to_be_bytes());
    match &position.rank {
        Rank::Time(millis) => {
            bytes.push(0);
            bytes.extend_from_slice(&millis.to_be_bytes());
        }
        Rank::Value(value) => {
            bytes.push(1);
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
        }
    }
    bytes.extend_from_slice(&position.key);
    to_base64url(&bytes)
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
    let bytes = from_base64url(text).ok_or_else(|| refuse("cannot be read"))?;
    let (sent, position) = parse(&bytes).ok_or_else(|| refuse("cannot be read"))?;
    if sent != fingerprint(name, query) {
        return Err(refuse("belongs to another swamp or another query"));
    }
    Ok(position)
}

fn parse(bytes: &[u8]) -> Option<(u64, Position)> {
    let (&FORM, rest) = bytes.split_first()? else { return None };
    let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
    let (rank, key) = match rest.split_first()? {
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
    Some((u64::from_be_bytes(*fingerprint), Position { rank, key: key.to_vec() }))
}

/// Everything that decides which treasures come in which order; not how many are asked for at once.
fn fingerprint(name: &SwampName, query: &ListQuery) -> u64 {
    let bounds = (&query.prefix, &query.from, &query.to);
    let filter = query.filter.as_ref().map(ToString::to_string);
    let text = format!("{name}\n{}\n{}\n{bounds:?}\n{:?}\n{filter:?}", query.order, query.descending, query.expired);
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// Base64 in the alphabet for URLs, without padding.
fn to_base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|at| text.push(char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63])));
    }
    text
}

/// The inverse; `None` for what [`to_base64url`] never writes.
fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let digit = |group: u32, byte: &u8| Some(group << 6 | ALPHABET.iter().position(|known| known == byte)? as u32);
        let group = chunk.iter().try_fold(0u32, digit)? << (6 * (4 - chunk.len()));
        let [_, whole @ ..] = group.to_be_bytes();
        bytes.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    (to_base64url(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Order;

    #[test]
    fn base64url_is_read_as_it_was_written_and_in_no_other_form() {
        for length in 0..40u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(97)).collect();
            assert_eq!(from_base64url(&to_base64url(&bytes)), Some(bytes));
        }
        assert_eq!(to_base64url(b"\xfb\xff"), "-_8");
        for text in ["A", "AAAAA", "-_9", "+/8", "AA==", "é"] {
            assert_eq!(from_base64url(text), None, "{text}");
        }
    }

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
                let _ = read(&name, &query, &text[..cut]);
            }
        }
    }
}
