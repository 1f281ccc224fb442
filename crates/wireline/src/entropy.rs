//! Masking keys and handshake nonces, from the system's random source.

use std::cell::RefCell;

use wireline_proto::mask::MaskKey;

/// One call to the system is shared by this many bytes.
const POOL: usize = 4096;

thread_local! {
    static POOL_BYTES: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], POOL)) };
}

/// A masking key that no page can predict (RFC 6455 section 10.3).
pub(crate) fn mask_key() -> MaskKey {
    take()
}

/// The 16 bytes of a `Sec-WebSocket-Key`.
pub(crate) fn nonce() -> [u8; 16] {
    take()
}

/// Anything from 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_ne_bytes(take())) / f64::from(u32::MAX)
}

fn take<const N: usize>() -> [u8; N] {
    POOL_BYTES.with_borrow_mut(|(bytes, used)| {
        if *used + N > POOL {
            #[expect(clippy::expect_used, reason = "a system without random bytes can do no WebSocket")]
            getrandom::fill(bytes).expect("the system's random source works");
            *used = 0;
        }
        let taken = &mut bytes[*used..*used + N];
        *used += N;
        let mut out = [0; N];
        out.copy_from_slice(taken);
        taken.fill(0);
        out
    })
}
