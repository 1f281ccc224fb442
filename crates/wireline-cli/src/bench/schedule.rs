//! When messages are due at a fixed rate.
//!
//! The schedule is fixed before the first message and never waits for the server: the latency of an answer
//! counts from when its message was due and not from when it could be sent, so that a server that stalls
//! is charged for every message that a stall delays (no "coordinated omission").

use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// The system's timer is this coarse; what is due sooner is polled for.
const TIMER_RESOLUTION: Duration = Duration::from_millis(2);

/// Messages at even distances, dealt out to the connections in turn.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    rate_hz: u64,
    connections: u64,
    /// The number of the first message that has not been due yet.
    next: u64,
}

impl Schedule {
    /// `rate_hz` messages a second from `start` on, over so many connections.
    pub(super) fn new(start: Instant, rate_hz: u32, connections: usize) -> Self {
        Self { start, rate_hz: u64::from(rate_hz.max(1)), connections: connections as u64, next: 0 }
    }

    /// The messages that have become due since this was asked last.
    pub(super) fn take_due(&mut self, now: Instant) -> Range<u64> {
        let first = self.next;
        while self.due(self.next) <= now {
            self.next += 1;
        }
        first..self.next
    }

    /// How long one may sleep before the next message is due; none at all when the timer is too coarse.
    pub(super) fn sleep(&self, now: Instant) -> Duration {
        self.due(self.next).saturating_duration_since(now).saturating_sub(TIMER_RESOLUTION)
    }

    /// The connection that a message goes out on.
    pub(super) fn connection(&self, message: u64) -> usize {
        usize::try_from(message % self.connections).unwrap_or(0)
    }

    /// When the message with this number on this connection is due.
    pub(super) fn due_on(&self, connection: usize, sequence: u64) -> Instant {
        self.due(sequence * self.connections + connection as u64)
    }

    fn due(&self, message: u64) -> Instant {
        let nanos = message % self.rate_hz * 1_000_000_000 / self.rate_hz;
        self.start + Duration::from_secs(message / self.rate_hz) + Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_even_distances() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000, 3);
        assert_eq!(schedule.take_due(start), 0..1);
        assert_eq!(schedule.take_due(start + Duration::from_millis(5)), 1..6);
        assert_eq!(schedule.take_due(start + Duration::from_millis(5)), 6..6);
        assert_eq!(schedule.sleep(start), Duration::from_millis(6) - TIMER_RESOLUTION);
        assert_eq!(schedule.sleep(start + Duration::from_millis(5)), Duration::ZERO);
    }

    #[test]
    fn connections_take_turns() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1000, 3);
        assert_eq!(schedule.connection(7), 1);
        assert_eq!(schedule.due_on(1, 2), start + Duration::from_millis(7));
        assert_eq!(schedule.due_on(0, 1000), start + Duration::from_secs(3));
    }
}
