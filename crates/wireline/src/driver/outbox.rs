//! Connections that were given something to send by others than their own task.
//!
//! They queue up here, and one task writes for all of them: a message to ten thousand sockets calls one
//! task for each thread, not ten thousand. Where there is io_uring (feature `io-uring`), one call of the system sends
//! to many of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Link;
#[cfg(all(feature = "io-uring", target_os = "linux"))]
use super::ring::{self, Ring};

/// Connections that are served before other tasks get their turn, where each is written by itself.
const BATCH: usize = 32;

/// Bytes that one call of the system takes, where it takes many connections' at once: so that copying them does not
/// keep the connections locked, and other tasks waiting, for longer than many small ones do.
#[cfg(all(feature = "io-uring", target_os = "linux"))]
const RING_BYTES: usize = 1 << 20;

/// Connections that wait to be written.
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    called: Notify,
}

#[derive(Default)]
struct Waiting {
    links: Vec<Arc<Link>>,
    is_closed: bool,
}

impl Outbox {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn open() -> Arc<Self> {
        let outbox = Arc::new(Self { waiting: Mutex::default(), called: Notify::new() });
        tokio::spawn(Arc::clone(&outbox).attend());
        outbox
    }

    /// Has the task write what the connection has queued.
    pub(super) fn push(&self, link: Arc<Link>) {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return;
        }
        waiting.links.push(link);
        if waiting.links.len() == 1 {
            drop(waiting);
            self.called.notify_one();
        }
    }

    /// No connection will come any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.called.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attend(self: Arc<Self>) {
        let this = Attended(self);
        let mut links = Vec::new();
        let mut writer = Writer::default();
        loop {
            this.0.called.notified().await;
            while this.0.take(&mut links) {
                let mut waiting = &links[..];
                while !waiting.is_empty() {
                    let done = writer.write(waiting);
                    waiting = &waiting[done..];
                    tokio::task::yield_now().await;
                }
                links.clear();
            }
            if this.0.lock().is_closed {
                return;
            }
        }
    }

    /// Swaps those who wait for an empty list; whether anybody does.
    fn take(&self, links: &mut Vec<Arc<Link>>) -> bool {
        std::mem::swap(&mut self.lock().links, links);
        !links.is_empty()
    }
}

/// The outbox, as its task has it: when the task ends, with its runtime maybe, nobody waits any more.
/// Connections that did would keep the outbox, and it them.
struct Attended(Arc<Outbox>);

impl Drop for Attended {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.is_closed = true;
        let links = std::mem::take(&mut waiting.links);
        drop(waiting);
        drop(links);
    }
}

/// Writes for many connections.
#[derive(Default)]
struct Writer {
    /// Opened when many wait for the first time.
    #[cfg(all(feature = "io-uring", target_os = "linux"))]
    ring: Option<Ring>,
}

impl Writer {
    /// Writes for the first ones; for how many.
    fn write(&mut self, links: &[Arc<Link>]) -> usize {
        #[cfg(all(feature = "io-uring", target_os = "linux"))]
        if links.len() >= BATCH {
            let ring = self.ring.get_or_insert_with(Ring::open);
            if ring.is_open() {
                return write_by_ring(ring, links);
            }
        }
        let links = &links[..links.len().min(BATCH)];
        links.iter().for_each(|link| link.flush_for_others());
        links.len()
    }
}

/// Writes with one call for the first ones; for how many.
///
/// Their connections stay locked meanwhile. So it waits for no other lock, and nobody else's code runs then: neither
/// that of an application's transport nor that of a waker.
#[cfg(all(feature = "io-uring", target_os = "linux"))]
fn write_by_ring(ring: &mut Ring, links: &[Arc<Link>]) -> usize {
    let mut held = Vec::with_capacity(ring::MAX_WRITES);
    let mut others = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for link in links {
        if held.len() == ring::MAX_WRITES || others.len() == BATCH || bytes >= RING_BYTES {
            break;
        }
        count += 1;
        let Ok(core) = link.core.try_lock() else {
            others.push(link);
            continue;
        };
        let Some(write) = core.next_write() else {
            drop(core);
            others.push(link);
            continue;
        };
        bytes += write.bytes.len();
        held.push((link, core));
    }
    let writes: Vec<_> = held.iter().filter_map(|(_, core)| core.next_write()).collect();
    let outcomes = ring.send(&writes);
    drop(writes);
    let mut unfinished = Vec::new();
    for ((link, mut core), outcome) in held.into_iter().zip(outcomes) {
        let was_above = core.is_above_high_water();
        core.is_in_outbox = false;
        if core.handle_written(outcome) {
            unfinished.push((link, was_above));
        }
    }
    for (link, was_above) in unfinished {
        link.flush_behind_others(link.lock(), was_above);
    }
    others.into_iter().for_each(|link| link.flush_for_others());
    count
}
