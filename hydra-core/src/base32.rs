//! Crockford base32 in lower case, fixed width, most significant digit first: ids that sort and copy well.

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The width of a 64-bit number.
pub(crate) const WIDTH_64: usize = 13;
/// The width of a 128-bit number.
pub(crate) const WIDTH_128: usize = 26;

/// `value` in exactly `width` digits; digits that do not fit are cut off at the front.
pub(crate) fn encode(value: u128, width: usize) -> String {
    let mut text = vec![0; width];
    encode_into(value, &mut text);
    text.into_iter().map(char::from).collect()
}

/// The same into a slice of the width wanted, without an allocation.
pub(crate) fn encode_into(mut value: u128, digits: &mut [u8]) {
    // Twelve digits at a time, which fit a register: 128 bits shifted for each digit take three times as long.
    for group in digits.rchunks_mut(12) {
        let mut low = value as u64;
        for digit in group.iter_mut().rev() {
            *digit = DIGITS[(low & 31) as usize];
            low >>= 5;
        }
        value >>= 60;
    }
}

/// Reads digits written by [`encode`]; `None` for another character or a number beyond 128 bits.
pub(crate) fn decode(text: &str) -> Option<u128> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = DIGITS.iter().position(|&d| d == byte)? as u128;
        value.checked_mul(32)?.checked_add(digit)
    })
}

/// Reads a 64-bit number of exactly [`WIDTH_64`] digits.
pub(crate) fn decode_64(text: &str) -> Option<u64> {
    (text.len() == WIDTH_64).then(|| decode(text)).flatten().and_then(|v| u64::try_from(v).ok())
}

/// Reads a 128-bit number of exactly [`WIDTH_128`] digits.
pub(crate) fn decode_128(text: &str) -> Option<u128> {
    (text.len() == WIDTH_128).then(|| decode(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_round_trip() {
        for value in [0, 1, 31, 32, u128::from(u64::MAX)] {
            let text = encode(value, WIDTH_64);
            assert_eq!(decode_64(&text).map(u128::from), Some(value));
        }
        assert_eq!(decode_128(&encode(u128::MAX, WIDTH_128)), Some(u128::MAX));
        assert_eq!(encode(1, 4), "0001");
        let beyond_a_register = encode(u128::from(u64::MAX) << 3, WIDTH_128);
        assert_eq!(beyond_a_register, "0000000000003zzzzzzzzzzzzr");
    }

    #[test]
    fn other_characters_and_too_large_numbers_are_refused() {
        assert_eq!(decode_64("zzzzzzzzzzzzz"), None, "65 bits");
        assert_eq!(decode_64("000000000000u"), None, "u is no digit");
        assert_eq!(decode_64("0"), None, "the width is fixed");
        assert_eq!(decode(""), None);
    }
}
