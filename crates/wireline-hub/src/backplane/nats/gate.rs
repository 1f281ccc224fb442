//! Whether deliveries may be handed on.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_nats::Statistics;

/// Open for the deliveries of one connection, from when nodes were told that it works to when it is lost.
///
/// What came over a connection of which they do not know could follow their last publication by chance alone: a broker
/// that came up empty gives the same places again, and what it gave them to before is missing.
#[derive(Debug)]
pub(super) struct Gate {
    statistics: Arc<Statistics>,
    /// How many connections there had been with the one that it is open for; zero: none.
    open_for: AtomicU64,
}

impl Gate {
    pub(super) fn new(statistics: Arc<Statistics>) -> Self {
        let open_for = AtomicU64::new(statistics.connects.load(Ordering::SeqCst));
        Self { statistics, open_for }
    }

    pub(super) fn open(&self, connects: u64) {
        self.open_for.store(connects, Ordering::SeqCst);
    }

    pub(super) fn close(&self) {
        self.open(0);
    }

    /// The client counts a connection before anything comes over it.
    pub(super) fn is_open(&self) -> bool {
        self.open_for.load(Ordering::SeqCst) == self.statistics.connects.load(Ordering::SeqCst)
    }
}
