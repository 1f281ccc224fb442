//! UTF-8 checked as bytes arrive, whatever the cuts (RFC 6455 section 8.1).

/// Bytes that can no longer become valid UTF-8, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidUtf8;

/// Checks a text that comes in pieces, failing at the first byte that proves it wrong.
///
/// Between pieces it remembers only the bytes of a character that a cut has split: three at most.
#[derive(Debug, Clone, Default)]
pub(crate) struct Utf8Validator {
    partial: [u8; 3],
    partial_len: usize,
}

impl Utf8Validator {
    /// Takes the next piece.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Result<(), InvalidUtf8> {
        while self.partial_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.complete_with(byte)?;
        }
        if let Err(error) = simdutf8::compat::from_utf8(piece) {
            if error.error_len().is_some() {
                return Err(InvalidUtf8);
            }
            let split = &piece[error.valid_up_to()..];
            self.partial[..split.len()].copy_from_slice(split);
            self.partial_len = split.len();
        }
        Ok(())
    }

    /// Ends the text: an error if it stops within a character. Ready for the next text either way.
    pub(crate) fn finish(&mut self) -> Result<(), InvalidUtf8> {
        if std::mem::take(&mut self.partial_len) == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// Adds one byte to the split character.
    fn complete_with(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        let len = self.partial_len;
        let mut character = [0; 4];
        character[..len].copy_from_slice(&self.partial[..len]);
        character[len] = byte;
        match std::str::from_utf8(&character[..=len]) {
            Ok(_) => self.partial_len = 0,
            Err(error) if error.error_len().is_none() => {
                self.partial[len] = byte;
                self.partial_len += 1;
            }
            Err(_) => return Err(InvalidUtf8),
        }
        Ok(())
    }
}

/// Checks a text that is there whole.
#[inline]
pub(crate) fn is_utf8(text: &[u8]) -> bool {
    if text.len() > SHORT {
        return simdutf8::basic::from_utf8(text).is_ok();
    }
    text.is_ascii() || is_short_utf8(text)
}

/// What simdutf8 takes at once. Below that it goes byte by byte.
const SHORT: usize = 64;

/// Pads a short text with NULs, so that vector instructions check it. A character that the end cuts is
/// cut by the padding too, and found.
fn is_short_utf8(text: &[u8]) -> bool {
    let mut padded = [0; SHORT];
    padded[..text.len()].copy_from_slice(text);
    simdutf8::basic::from_utf8(&padded).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), InvalidUtf8> {
        let mut validator = Utf8Validator::default();
        for piece in pieces {
            validator.feed(piece)?;
        }
        validator.finish()
    }

    #[test]
    fn fails_at_the_first_bad_byte_and_not_at_the_end() {
        for bad in [&b"\xf4\x90"[..], b"\xed\xa0", b"\xc0", b"\xe0\x80", b"a\xff", b"\xf8"] {
            let mut validator = Utf8Validator::default();
            let (last, good) = bad.split_last().unwrap();
            for byte in good {
                assert_eq!(validator.feed(&[*byte]), Ok(()), "{bad:x?}");
            }
            assert_eq!(validator.feed(&[*last]), Err(InvalidUtf8), "{bad:x?}");
            assert_eq!(Utf8Validator::default().feed(bad), Err(InvalidUtf8), "{bad:x?}");
        }
    }

    #[test]
    fn a_text_that_stops_within_a_character_is_invalid() {
        assert_eq!(check(&["κό".as_bytes(), b"\xcf"]), Err(InvalidUtf8));
    }

    /// Bytes that are mostly UTF-8, so that both verdicts are common.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        (any::<String>(), prop::option::of((any::<prop::sample::Index>(), any::<u8>()))).prop_map(
            |(text, flaw)| {
                let mut bytes = text.into_bytes();
                if let (Some((at, byte)), false) = (flaw, bytes.is_empty()) {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_verdict_of_the_standard_library(
            bytes in nearly_text(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(check(&pieces).is_ok(), std::str::from_utf8(&bytes).is_ok());
            prop_assert_eq!(is_utf8(&bytes), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
