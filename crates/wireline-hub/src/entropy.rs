//! Random numbers from the system.

use std::cell::RefCell;

/// One call to the system is shared by this many bytes.
const POOL: usize = 4096;

thread_local! {
    static POOL_BYTES: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], POOL)) };
}

/// A number that nobody can guess.
pub(crate) fn number() -> u128 {
    u128::from_ne_bytes(take())
}

/// The mark of a position.
pub(crate) fn mark() -> u32 {
    u32::from_ne_bytes(take())
}

/// Anything from 0 to 1.
#[cfg(feature = "client")]
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_ne_bytes(take())) / f64::from(u32::MAX)
}

fn take<const N: usize>() -> [u8; N] {
    POOL_BYTES.with_borrow_mut(|(bytes, used)| {
        if *used + N > POOL {
            #[expect(clippy::expect_used, reason = "positions that can be guessed would prove nothing")]
            getrandom::fill(bytes).expect("the system's random source works");
            *used = 0;
        }
        let mut out = [0; N];
        out.copy_from_slice(&bytes[*used..*used + N]);
        *used += N;
        out
    })
}
