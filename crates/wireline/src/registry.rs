//! The connections of a server, so that a shutdown finds them.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use slab::Slab;
use tokio::sync::Notify;
use wireline_proto::CloseFrame;

use crate::driver::Link;

/// All connections of a server that are accepted or about to be.
#[derive(Default)]
pub(crate) struct Registry {
    links: Mutex<Slab<Weak<Link>>>,
    is_closing: AtomicBool,
    emptied: Notify,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Slab<Weak<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection whose handler is about to run.
    pub(crate) fn register(self: &Arc<Self>) -> Registration {
        let key = self.lock().insert(Weak::new());
        Registration { registry: Arc::clone(self), key }
    }

    /// How many are entered.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Closes every connection, and those that are yet to be accepted as soon as they are.
    pub(crate) fn close_all(&self, frame: &CloseFrame) {
        self.is_closing.store(true, Ordering::SeqCst);
        for link in self.links() {
            link.close(Some(frame));
        }
    }

    /// Gives up every connection that is left.
    pub(crate) fn abort_all(&self) {
        for link in self.links() {
            link.abort();
        }
    }

    /// Waits until no connection is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.lock().iter().filter_map(|(_, link)| link.upgrade()).collect()
    }
}

/// A connection's entry, for as long as it is driven.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    key: usize,
}

impl Registration {
    /// The handler has accepted.
    pub(crate) fn set_link(&self, link: &Arc<Link>) {
        if let Some(entry) = self.registry.lock().get_mut(self.key) {
            *entry = Arc::downgrade(link);
        }
        if self.registry.is_closing.load(Ordering::SeqCst) {
            let going_away = CloseFrame::new(wireline_proto::CloseCode::GOING_AWAY, "").ok();
            link.close(going_away.as_ref());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut links = self.registry.lock();
        links.remove(self.key);
        if links.is_empty() {
            drop(links);
            self.registry.emptied.notify_waiters();
        }
    }
}
