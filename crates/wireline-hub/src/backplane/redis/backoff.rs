//! How long to wait between attempts.

use std::time::Duration;

use crate::entropy;

/// The first pause and the longest; each is twice the one before. Raised, the second is how long nodes may be without
/// a server that is back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Pauses that grow, and differ from node to node.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { pause: PAUSES.0 }
    }

    /// The next pause: a random part of it at least half as long.
    pub(super) fn next(&mut self) -> Duration {
        let half = self.pause / 2;
        self.pause = PAUSES.1.min(self.pause * 2);
        half + half.mul_f64(f64::from(entropy::mark()) / f64::from(u32::MAX))
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}
