//! Futures that are polled so often and no more.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

/// Polls `future` up to `polls` times, and drops it then.
pub async fn drop_after<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A task that is never run, and knows how many wakers of it are kept.
#[derive(Debug, Default)]
pub struct Bystander {
    task: Arc<Task>,
}

#[derive(Debug, Default)]
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

impl Bystander {
    /// Calls `poll` with the context of this task.
    pub fn poll<R>(&self, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        poll(&mut Context::from_waker(&Waker::from(Arc::clone(&self.task))))
    }

    /// Polls `future` once and drops it; whether it was ready.
    pub fn poll_and_drop<F: Future>(&self, future: F) -> bool {
        self.poll(|cx| pin!(future).poll(cx).is_ready())
    }

    /// How many wakers are kept somewhere.
    #[must_use]
    pub fn kept_wakers(&self) -> usize {
        Arc::strong_count(&self.task) - 1
    }
}
