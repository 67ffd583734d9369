//! JSON values as bytes that compare as the values do: null < false < true < numbers < strings < arrays < objects.
//!
//! Numbers compare by what they are, digit by digit, so `1`, `1.0` and `10e-1` are the same and integers and
//! fractions of any length stay apart. Strings compare by their UTF-8 bytes, arrays element by element, objects
//! by their members in the order of the names, whatever the order they are written in.
//!
//! ```text
//! null 10 · false 20 · true 21 · string 40 bytes (00 as 00 ff) 00 00 · array 50 elements 00 · object 60 (name value)* 00
//! number 30: negative 01, zero 02, positive 03 · exponent i32 with its sign turned, big-endian
//!            · two digits a byte, from 1 · 00; of a negative number all bytes behind 01 are inverted
//! ```

use super::scan::Json;

/// Deeper than any value that can be stored.
const DEEPEST: usize = 160;

/// The bytes of a value.
pub(crate) fn collate(value: Json<'_>) -> Vec<u8> {
    collate_first(value, usize::MAX)
}

/// The first bytes, `most` of them and few more: enough to compare by.
pub(crate) fn collate_first(value: Json<'_>, most: usize) -> Vec<u8> {
    let mut collated = Collated { bytes: Vec::with_capacity(16), most };
    collated.value(value, 0);
    collated.bytes
}

struct Collated {
    bytes: Vec<u8>,
    most: usize,
}

impl Collated {
    fn is_enough(&self) -> bool {
        self.bytes.len() >= self.most
    }

    fn value(&mut self, value: Json<'_>, depth: usize) {
        if self.is_enough() || depth > DEEPEST {
            return;
        }
        match value.first() {
            b'n' => self.bytes.push(0x10),
            b'f' => self.bytes.push(0x20),
            b't' => self.bytes.push(0x21),
            b'"' => self.string(&value.string().unwrap_or_default()),
            b'[' => {
                self.bytes.push(0x50);
                for element in value.elements() {
                    if self.is_enough() {
                        break;
                    }
                    self.value(element, depth + 1);
                }
                self.bytes.push(0);
            }
            b'{' => self.object(value, depth),
            _ => self.number(value.text()),
        }
    }

    fn object(&mut self, value: Json<'_>, depth: usize) {
        let mut members: Vec<_> = value.members().collect();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.bytes.push(0x60);
        for (name, value) in members {
            if self.is_enough() {
                break;
            }
            self.string(&name);
            self.value(value, depth + 1);
        }
        self.bytes.push(0);
    }

    fn string(&mut self, text: &str) {
        self.bytes.push(0x40);
        let room = self.most.saturating_sub(self.bytes.len());
        for &byte in text.as_bytes().iter().take(room) {
            self.bytes.push(byte);
            if byte == 0 {
                self.bytes.push(0xff);
            }
        }
        self.bytes.extend_from_slice(&[0, 0]);
    }

    fn number(&mut self, text: &[u8]) {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let split = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = split.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let digits: Vec<u8> = mantissa.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
        let leading = digits.iter().take_while(|&&digit| digit == 0).count();
        let trailing = digits.iter().rev().take_while(|&&digit| digit == 0).count();
        self.bytes.push(0x30);
        if leading == digits.len() {
            return self.bytes.push(2);
        }
        // The value is 0.d1d2d3… times ten to this.
        let magnitude = exponent_of(exponent).saturating_add(point as i64 - leading as i64);
        let magnitude = magnitude.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        self.bytes.push(if negative { 1 } else { 3 });
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&((magnitude as u32) ^ (1 << 31)).to_be_bytes());
        let pairs = digits[leading..digits.len() - trailing].chunks(2);
        self.bytes.extend(pairs.map(|pair| 1 + pair[0] * 10 + pair.get(1).copied().unwrap_or(0)));
        self.bytes.push(0);
        if negative {
            self.bytes[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

/// An exponent as it is written; beyond 64 bits the largest or smallest.
fn exponent_of(text: &[u8]) -> i64 {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let size = digits
        .iter()
        .fold(0i64, |size, digit| size.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0'))));
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        collate(Json::new(text.as_bytes()))
    }

    #[test]
    fn values_compare_by_type_and_then_by_what_they_are() {
        let ascending = [
            "null",
            "false",
            "true",
            "-1e300",
            "-9007199254740993",
            "-9007199254740992",
            "-10",
            "-9.5",
            "-1",
            "-0.1",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000000000000001",
            "0.5",
            "1",
            "1.5",
            "9",
            "10",
            "10.01",
            "99",
            "100",
            "9007199254740992",
            "9007199254740993",
            "123456789012345678901234567890",
            "123456789012345678901234567891",
            "1e300",
            r#""""#,
            r#""\u0000""#,
            r#""\u0000a""#,
            r#""a""#,
            r#""a\u0000""#,
            r#""aa""#,
            r#""b""#,
            r#""é""#,
            "[]",
            "[null]",
            "[1]",
            "[1,0]",
            "[2]",
            "[\"a\"]",
            "[[]]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":1,"b":0}"#,
            r#"{"a":2}"#,
            r#"{"b":0}"#,
        ];
        for pair in ascending.windows(2) {
            assert!(bytes(pair[0]) < bytes(pair[1]), "{} < {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn one_value_has_one_form_however_it_is_written() {
        let same = [
            ["1", "1.0"],
            ["1", "10e-1"],
            ["100", "1E+2"],
            ["0", "-0"],
            ["0", "0.000e99"],
            ["0.001", "1e-3"],
            ["-120", "-1.2e2"],
            ["\"A\"", "\"\\u0041\""],
            [r#"{"a":1,"b":[2]}"#, r#"{ "b" : [ 2.0 ], "a" : 1e0 }"#],
        ];
        for [a, b] in same {
            assert_eq!(bytes(a), bytes(b), "{a} = {b}");
        }
    }

    #[test]
    fn hostile_exponents_and_depths_are_bounded() {
        assert!(bytes("1e-99999999999999999999999999") < bytes("1e-400"));
        assert!(bytes("1e-99999999999999999999999999") > bytes("0"));
        let deep = "[".repeat(1_000_000);
        assert!(bytes(&deep).len() < 1_000);
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        assert!(collate_first(Json::new(long.as_bytes()), 512).len() < 600);
    }
}
