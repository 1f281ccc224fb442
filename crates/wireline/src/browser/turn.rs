//! A caller's turn: the time from a call of his to the end of the poll that he makes it in.
//!
//! Browsers promise that nothing happens while a script runs. Here that is a poll of a task.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use tokio::{sync::Notify, task::yield_now};

/// Whether a caller's turn lasts.
#[derive(Debug, Default)]
pub(super) struct Turn {
    is_on: AtomicBool,
    over: Notify,
}

impl Turn {
    /// The caller's turn begins, unless one lasts already; whether it began.
    ///
    /// tokio's threads wake those who yield once the poll is over, so that is when it ends. On a thread
    /// that is none of tokio's, such as the one that calls `block_on` of a runtime with several, nobody
    /// knows when a poll is over, and the turn ends with this call.
    pub(super) fn begin(self: &Arc<Self>) -> bool {
        if self.is_on.swap(true, Ordering::AcqRel) {
            return false;
        }
        let waker = Waker::from(Arc::clone(self));
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
        true
    }

    /// Whether a turn lasts.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Waits until a turn has ended, which may have happened before.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_on.store(false, Ordering::Release);
        self.over.notify_one();
    }
}
