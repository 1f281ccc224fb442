//! Connections that were given something to send by others than their own task.
//!
//! They queue up here, and one task writes for all of them: a message to ten thousand sockets calls one
//! task for each thread, not ten thousand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Link;

/// Connections that are served before other tasks get their turn.
const BATCH: usize = 32;

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
        loop {
            this.0.called.notified().await;
            while this.0.take(&mut links) {
                for batch in links.chunks(BATCH) {
                    batch.iter().for_each(|link| link.flush_for_others());
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
