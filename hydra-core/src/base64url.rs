//! Base64 in the alphabet for URLs, without padding: for cursors.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|at| text.push(char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63])));
    }
    text
}

/// The bytes of a text; `None` for what [`encode`] never writes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let digit = |group: u32, byte: &u8| Some(group << 6 | ALPHABET.iter().position(|known| known == byte)? as u32);
        let group = chunk.iter().try_fold(0u32, digit)? << (6 * (4 - chunk.len()));
        let [_, whole @ ..] = group.to_be_bytes();
        bytes.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_read_as_it_was_written_and_in_no_other_form() {
        for length in 0..40u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(97)).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        assert_eq!(encode(b"\xfb\xff"), "-_8");
        for text in ["A", "AAAAA", "-_9", "+/8", "AA==", "é"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
