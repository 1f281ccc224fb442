//! Masking keys for load.
//!
//! Every frame gets a key of its own, as RFC 6455 section 5.3 demands, but drawn from a generator that
//! costs a nanosecond and is no secret worth keeping: nothing but test data goes over these connections.
//! It is SplitMix64, whose n-th value is a function of n: a frame that was cut by a full socket is made
//! again, key and all, from its number, so that no connection keeps what it has not sent.

use std::hash::{BuildHasher as _, RandomState};

use wireline_proto::mask::MaskKey;

/// The step of SplitMix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The keys of one connection's frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Masks {
    seed: u64,
}

impl Masks {
    /// Keys that differ from run to run and from connection to connection.
    pub(super) fn random() -> Self {
        Self { seed: random() }
    }

    /// The key of the frame with this number.
    #[inline]
    pub(super) fn key(self, sequence: u64) -> MaskKey {
        let [a, b, c, d, ..] = mix(self.seed.wrapping_add(sequence.wrapping_mul(GAMMA))).to_le_bytes();
        [a, b, c, d]
    }
}

/// A number from the system's random source, by way of the keys that the standard library draws for maps.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[inline]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn mix_is_that_of_splitmix64() {
        // The first outputs of the reference implementation for the seed 0.
        assert_eq!(mix(GAMMA), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(GAMMA.wrapping_mul(2)), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn keys_are_fresh_and_can_be_drawn_again() {
        let masks = Masks::random();
        let keys: HashSet<MaskKey> = (0..1000).map(|sequence| masks.key(sequence)).collect();
        assert!(keys.len() > 990, "{}", keys.len());
        assert_eq!(masks.key(7), masks.key(7));
        assert_ne!(masks.seed, Masks::random().seed);
    }
}
