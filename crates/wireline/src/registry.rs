//! The connections of a server, so that a shutdown finds them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wireline_proto::{CloseCode, CloseFrame};

use crate::{Drained, driver::Link};

/// All connections of a server that are accepted or about to be.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<Entries>,
    emptied: Notify,
    /// Cancelled when closing begins.
    closing: CancellationToken,
}

#[derive(Default)]
struct Entries {
    links: Slab<Weak<Link>>,
    /// What has become of them since closing began, without those that are left.
    closing: Option<Drained>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection whose handler is about to run; `None` once closing began.
    pub(crate) fn register(self: &Arc<Self>) -> Option<Registration> {
        let mut entries = self.lock();
        if entries.closing.is_some() {
            return None;
        }
        let key = entries.links.insert(Weak::new());
        Some(Registration { registry: Arc::clone(self), key })
    }

    /// How many are entered.
    pub(crate) fn len(&self) -> usize {
        self.lock().links.len()
    }

    /// How many of them were not accepted yet.
    pub(crate) fn pending(&self) -> usize {
        self.lock().links.iter().filter(|(_, link)| link.upgrade().is_none()).count()
    }

    /// Closes every connection, and those that are yet to be accepted as soon as they are.
    pub(crate) fn close_all(&self) {
        let mut entries = self.lock();
        let connections = entries.links.len();
        entries.closing.get_or_insert(Drained { connections, cut: 0 });
        drop(entries);
        self.closing.cancel();
        for link in self.links() {
            link.close(going_away().as_ref());
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

    /// What has become of them since closing began, if those that are left are now given up.
    pub(crate) fn drained(&self) -> Drained {
        let entries = self.lock();
        let Drained { connections, cut } = entries.closing.unwrap_or(Drained { connections: 0, cut: 0 });
        let left = entries.links.iter().filter(|(_, link)| was_clean(link) != Some(true)).count();
        Drained { connections, cut: cut + left }
    }

    /// Those that were accepted.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.lock().links.iter().filter_map(|(_, link)| link.upgrade()).collect()
    }
}

fn going_away() -> Option<CloseFrame> {
    CloseFrame::new(CloseCode::GOING_AWAY, "").ok()
}

/// Whether the closing handshake has completed; `None` if there is no connection.
fn was_clean(link: &Weak<Link>) -> Option<bool> {
    link.upgrade().map(|link| link.was_clean())
}

/// A connection's entry, for as long as it is driven.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    key: usize,
}

impl Registration {
    /// Is cancelled when the server begins to close.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.registry.closing.clone()
    }

    /// The handler has accepted.
    pub(crate) fn set_link(&self, link: &Arc<Link>) {
        let mut entries = self.registry.lock();
        if let Some(entry) = entries.links.get_mut(self.key) {
            *entry = Arc::downgrade(link);
        }
        let is_closing = entries.closing.is_some();
        drop(entries);
        if is_closing {
            link.close(going_away().as_ref());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        let link = entries.links.remove(self.key);
        if let Some(drained) = &mut entries.closing
            && was_clean(&link) == Some(false)
        {
            drained.cut += 1;
        }
        if entries.links.is_empty() {
            drop(entries);
            self.registry.emptied.notify_waiters();
        }
    }
}
