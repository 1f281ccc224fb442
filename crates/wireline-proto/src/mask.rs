//! Masking of payload data (RFC 6455 section 5.3).
//!
//! Every frame a client sends is XORed with four bytes drawn anew for it, so that a page cannot choose
//! the bytes that a proxy between sees. The operation is its own inverse.

/// A masking key: four bytes, unpredictable, drawn anew for each frame.
pub type MaskKey = [u8; 4];

/// XORs `payload` with `key`, in place. `phase` is how many payload bytes of the frame came before
/// `payload`, so that a frame can be unmasked in pieces as it arrives.
///
/// ```
/// use wireline_proto::mask::apply_mask;
///
/// // The example of RFC 6455 section 5.7: a masked "Hello".
/// let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
/// apply_mask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
/// assert_eq!(&payload, b"Hello");
/// ```
#[inline]
pub fn apply_mask(payload: &mut [u8], key: MaskKey, phase: u64) {
    let key = rotate(key, phase);
    let word = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    // Blocks of 64 bytes become vector instructions; words of 8 finish what is short or left over. With AVX-512 there are
    // no blocks: of a loop within a loop LLVM makes gathers and scatters then, which take eight times as long.
    const HAS_BLOCKS: bool = cfg!(not(target_feature = "avx512f"));
    let (blocks, rest) = if HAS_BLOCKS { payload.as_chunks_mut::<64>() } else { (&mut [][..], payload) };
    for block in blocks {
        let (words, _) = block.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    // Seven bytes at most: four and three, without a loop over bytes.
    let tail = match tail.split_first_chunk_mut::<4>() {
        Some((bytes, tail)) => {
            *bytes = (u32::from_ne_bytes(*bytes) ^ u32::from_ne_bytes(key)).to_ne_bytes();
            tail
        }
        None => tail,
    };
    for (byte, key) in tail.iter_mut().zip(key).take(3) {
        *byte ^= key;
    }
}

/// The key as it stands `phase` payload bytes into the frame.
#[inline]
fn rotate(key: MaskKey, phase: u64) -> MaskKey {
    let bits = 8 * (phase % 4) as u32;
    u32::from_le_bytes(key).rotate_right(bits).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(payload: &mut [u8], key: MaskKey, phase: u64) {
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[((phase + i as u64) % 4) as usize];
        }
    }

    proptest! {
        #[test]
        fn equals_the_byte_by_byte_definition(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            start in 0usize..9,
            key: MaskKey,
            phase: u64,
        ) {
            let phase = phase >> 1;
            let mut expected = payload.clone();
            let mut actual = payload;
            let start = start.min(actual.len());
            naive(&mut expected[start..], key, phase);
            apply_mask(&mut actual[start..], key, phase);
            prop_assert_eq!(actual, expected);
        }
    }
}
