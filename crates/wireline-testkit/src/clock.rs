//! Time that moves only when a test says so.

use std::time::{Duration, Instant};

/// A virtual clock. It starts at an arbitrary instant; only differences mean something.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    now: Instant,
}

impl Clock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        // The one look at the real clock: there is no other way to make an `Instant`.
        let start = Instant::now();
        Self { start, now: start }
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How far the clock has been moved.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Moves the clock.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Moves the clock to `instant`, or leaves it if that is past.
    pub(crate) fn advance_to(&mut self, instant: Instant) {
        self.now = self.now.max(instant);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
