//! What the connections of a tokio runtime share.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::{self, Handle};

use super::{alarms::Alarms, outbox::Outbox};

/// The alarms of a runtime's connections, and where they queue up to write.
pub(super) struct Runtime {
    pub(super) alarms: Alarms,
    /// One for each of its threads.
    outboxes: Box<[Arc<Outbox>]>,
}

impl Runtime {
    /// Of the runtime that this is called in.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn current() -> Arc<Self> {
        static ALL: Mutex<Vec<(runtime::Id, Weak<Runtime>)>> = Mutex::new(Vec::new());
        let tokio = Handle::current();
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|(id, _)| *id == tokio.id());
        if let Some(runtime) = known.and_then(|(_, runtime)| runtime.upgrade()) {
            return runtime;
        }
        let outboxes = (0..tokio.metrics().num_workers()).map(|_| Outbox::open()).collect();
        let runtime = Arc::new(Self { alarms: Alarms::new(), outboxes });
        all.retain(|(_, runtime)| runtime.strong_count() > 0);
        all.push((tokio.id(), Arc::downgrade(&runtime)));
        runtime
    }

    /// The outbox of the connection with this number.
    pub(super) fn outbox(&self, id: u64) -> &Outbox {
        let count = self.outboxes.len() as u64;
        &self.outboxes[usize::try_from(id % count).unwrap_or(0)]
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for outbox in &self.outboxes {
            outbox.close();
        }
    }
}
