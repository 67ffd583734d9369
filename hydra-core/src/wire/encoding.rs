//! Content encodings: gzip, in the bodies of imports and in answers.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use crate::error::{Error, ErrorCode, Result};

/// The one encoding that is spoken.
pub const GZIP: &str = "gzip";

/// Whether a client that sent these lines of `Accept-Encoding` takes gzip: by its name, or else by `*`, and not with a
/// weight of 0.
#[must_use]
pub fn accepts_gzip<'h>(lines: impl IntoIterator<Item = &'h str>) -> bool {
    let mut any = false;
    for piece in lines.into_iter().flat_map(|line| line.split(',')) {
        let (coding, parameters) = piece.split_once(';').unwrap_or((piece, ""));
        match coding.trim() {
            coding if is_gzip(coding) => return !is_refused(parameters),
            "*" => any = !is_refused(parameters),
            _ => {}
        }
    }
    any
}

/// Whether a body is gzip, by its `Content-Encoding`; `false` where it is as it is.
///
/// # Errors
/// `unsupported-media-type` for any other encoding, and for one over another.
pub fn is_gzip_body(content_encoding: &str) -> Result<bool> {
    match content_encoding.trim() {
        coding if is_gzip(coding) => Ok(true),
        coding if coding.eq_ignore_ascii_case("identity") => Ok(false),
        other => {
            let detail = format!("Content-Encoding {other:?} is not supported here; gzip is");
            Err(Error::new(ErrorCode::UnsupportedMediaType, detail).with_hint("send gzip, or the bytes as they are"))
        }
    }
}

fn is_gzip(coding: &str) -> bool {
    coding.eq_ignore_ascii_case(GZIP) || coding.eq_ignore_ascii_case("x-gzip")
}

/// Whether the parameters of a coding give it a weight of 0.
fn is_refused(parameters: &str) -> bool {
    let mut pairs = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let weight = pairs.find_map(|(name, value)| name.trim().eq_ignore_ascii_case("q").then_some(value.trim()));
    weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0))
}

/// Takes gzip apart while it comes, a step at a time: a few bytes may stand for very many, and no step holds them all.
/// Several members may follow each other.
#[derive(Debug)]
pub struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    coming: Vec<u8>,
    /// So much of `coming` was taken apart.
    done: usize,
    has_begun: bool,
}

impl Default for Gunzip {
    fn default() -> Gunzip {
        Gunzip { decoder: MultiGzDecoder::new(Vec::new()), coming: Vec::new(), done: 0, has_begun: false }
    }
}

impl Gunzip {
    /// As much goes into one step, and at most about a thousand times as much comes out of it.
    const STEP: usize = 2 << 10;

    /// Takes what came, to be taken apart by [`Gunzip::step`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.coming.drain(..self.done);
        self.done = 0;
        self.coming.extend_from_slice(bytes);
    }

    /// Whether something that came is still to be taken apart.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.done < self.coming.len()
    }

    /// Takes the next bytes apart. May answer nothing although there is more.
    ///
    /// # Errors
    /// `invalid-body` for what is no gzip.
    pub fn step(&mut self) -> Result<Vec<u8>> {
        let end = self.coming.len().min(self.done + Gunzip::STEP);
        self.has_begun |= end > self.done;
        self.decoder.write_all(&self.coming[self.done..end]).map_err(|error| broken(&error))?;
        self.done = end;
        Ok(std::mem::take(self.decoder.get_mut()))
    }

    /// Nothing more comes: what is left. A body of no bytes is empty.
    ///
    /// # Errors
    /// `invalid-body` where it breaks off.
    pub fn end(&mut self) -> Result<Vec<u8>> {
        if std::mem::take(&mut self.has_begun) {
            self.decoder.try_finish().map_err(|error| broken(&error))?;
        }
        Ok(std::mem::take(self.decoder.get_mut()))
    }
}

fn broken(error: &io::Error) -> Error {
    Error::new(ErrorCode::InvalidBody, format!("the body is no whole gzip, as its Content-Encoding says: {error}"))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("a vector takes everything");
        encoder.finish().expect("a vector takes everything")
    }

    /// Everything that comes of a body that comes in such pieces, and the longest step.
    fn gunzip(body: &[u8], piece: usize) -> Result<(Vec<u8>, usize)> {
        let (mut gunzip, mut out, mut longest) = (Gunzip::default(), Vec::new(), 0);
        for piece in body.chunks(piece) {
            gunzip.push(piece);
            while gunzip.has_more() {
                let step = gunzip.step()?;
                longest = longest.max(step.len());
                out.extend(step);
            }
        }
        out.extend(gunzip.end()?);
        assert!(gunzip.end()?.is_empty(), "it ends once");
        Ok((out, longest))
    }

    #[test]
    fn what_was_packed_comes_out_whatever_the_pieces() {
        let text: Vec<u8> =
            (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_string().into_bytes()).collect();
        for piece in [1, 7, 4_096, usize::MAX] {
            assert_eq!(gunzip(&gzip(&text), piece).expect("gzip").0, text, "{piece}");
        }
        let two = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(gunzip(&two, 5).expect("members").0, b"one two");
        assert!(gunzip(b"", 1).expect("nothing").0.is_empty());
    }

    #[test]
    fn few_bytes_that_stand_for_many_come_out_step_by_step() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 512 << 10, "{}", bomb.len());
        let (out, longest) = gunzip(&bomb, usize::MAX).expect("gzip");
        assert_eq!(out.len(), 64 << 20);
        assert!(longest < 4 << 20, "{longest}");
    }

    #[test]
    fn what_is_no_whole_gzip_is_refused() {
        let whole = gzip(b"some text, and some more of it");
        for cut in [1, 5, 12, whole.len() - 9, whole.len() - 1] {
            let error = gunzip(&whole[..cut], 3).expect_err("cut");
            assert_eq!(error.code(), ErrorCode::InvalidBody, "{cut}");
            assert!(error.detail().contains("no whole gzip"), "{cut}: {error}");
        }
        let mut rotten = whole.clone();
        let checksum = whole.len() - 8;
        rotten[checksum] ^= 1;
        for bad in
            [b"{\"key\":\"a\"}".to_vec(), rotten, [whole.clone(), b"behind it, something else".to_vec()].concat()]
        {
            assert_eq!(gunzip(&bad, 4).expect_err("no gzip").code(), ErrorCode::InvalidBody);
        }
        assert_eq!(gunzip(&[whole, b"x".to_vec()].concat(), 4).expect_err("a byte").code(), ErrorCode::InvalidBody);
    }

    #[test]
    fn gzip_is_taken_by_its_name_or_else_by_a_star() {
        for taken in
            ["gzip", "GZip", "x-gzip", "br, gzip;q=0.5", "*", "deflate, *;q=0.1", "gzip; q=0.001", "*;q=0, gzip"]
        {
            assert!(accepts_gzip([taken]), "{taken}");
        }
        for refused in ["", "br", "identity", "gzip;q=0", "gzip; Q=0.000", "*;q=0", "gzip;q=0, *", "gzipped"] {
            assert!(!accepts_gzip([refused]), "{refused}");
        }
        assert!(accepts_gzip(["br", "gzip"]) && !accepts_gzip([]));
    }

    #[test]
    fn other_encodings_of_a_body_are_refused_with_what_is_allowed() {
        for (encoding, is_gzip) in [("gzip", true), (" GZIP ", true), ("x-gzip", true), ("Identity", false)] {
            assert_eq!(is_gzip_body(encoding).expect(encoding), is_gzip);
        }
        for other in ["zstd", "br", "deflate", "gzip, gzip", ""] {
            let error = is_gzip_body(other).expect_err(other);
            assert_eq!(error.code(), ErrorCode::UnsupportedMediaType);
            assert!(error.detail().contains("gzip is"), "{error}");
        }
    }
}
