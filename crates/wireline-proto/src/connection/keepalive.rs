//! Whether the peer is still there.

use std::time::{Duration, Instant};

use crate::Keepalive;

/// Signs of life, and the Ping that asks for one.
#[derive(Debug)]
pub(super) struct Watch {
    /// When anything was last received.
    heard: Instant,
    /// When the Ping that waits for a sign of life was sent.
    pinged: Option<Instant>,
    /// Bytes to be transmitted up to the end of that Ping: a peer cannot answer what is not out.
    ping_behind: usize,
    /// Something was transmitted since the Ping was queued.
    has_progress: bool,
    /// Nobody reads, since the application does not take messages.
    is_paused: bool,
    latency_us: Option<u32>,
}

/// What a due deadline asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive,
    SendPing,
    Dead,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            pinged: None,
            ping_behind: 0,
            has_progress: false,
            is_paused: false,
            latency_us: None,
        }
    }

    /// Bytes came, whatever they are.
    #[inline]
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The answer to the Ping came.
    pub(super) fn hear_pong(&mut self, now: Instant) {
        if let Some(pinged) = self.pinged.take() {
            let latency = now.saturating_duration_since(pinged).as_micros();
            self.latency_us = Some(u32::try_from(latency).unwrap_or(u32::MAX));
        }
    }

    #[inline]
    pub(super) fn transmit(&mut self, count: usize) {
        self.has_progress |= count > 0;
        self.ping_behind = self.ping_behind.saturating_sub(count);
    }

    pub(super) fn pause(&mut self, paused: bool, now: Instant) {
        if self.is_paused && !paused {
            self.heard = now;
        }
        self.is_paused = paused;
    }

    #[inline]
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency_us.map(|micros| Duration::from_micros(micros.into()))
    }

    /// When to look again. `None`: never.
    pub(super) fn due(&self, keepalive: Keepalive) -> Option<Instant> {
        match self.pinged {
            Some(pinged) if self.heard < pinged => pinged.checked_add(keepalive.timeout),
            _ => self.heard.checked_add(keepalive.interval),
        }
    }

    /// Looks, because it is due.
    pub(super) fn check(&mut self, now: Instant) -> Verdict {
        match self.pinged {
            Some(pinged) if self.heard < pinged => {}
            _ => return Verdict::SendPing,
        }
        if self.is_paused {
            // Nobody would see the Pong. The peer still wants a sign of life from this end.
            return Verdict::SendPing;
        }
        if self.ping_behind > 0 && std::mem::take(&mut self.has_progress) {
            // The peer takes what lies before the Ping, slowly.
            self.pinged = Some(now);
            return Verdict::Alive;
        }
        Verdict::Dead
    }

    /// Whether a Ping is to be queued: one that still waits to go out will do.
    pub(super) fn wants_ping(&self) -> bool {
        self.ping_behind == 0
    }

    /// The Ping counts from now; it is out once `pending` bytes are.
    pub(super) fn ping(&mut self, now: Instant, pending: usize) {
        self.pinged = Some(now);
        self.has_progress = false;
        self.ping_behind = pending;
    }
}
