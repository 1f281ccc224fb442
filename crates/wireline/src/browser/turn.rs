//! A caller's turn: the time from a call of his to the end of the poll that he makes it in.
//!
//! Browsers promise that nothing happens while a script runs. Here that is a poll of a task. Several threads
//! poll at the same time, so each has a turn of its own, and sees during it what it saw first.

use std::{
    future::Future as _,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
    thread::{self, ThreadId},
};

use tokio::{
    sync::Notify,
    task::{self, yield_now},
};

/// The turns that last: one for each thread at most.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lasting: Mutex<Lasting>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Lasting {
    turns: Vec<Turn>,
    /// How many have begun.
    begun: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// No other turn of the same socket has it.
    number: u64,
    poll: Poll,
    /// Bytes of messages that the network had when it began.
    handed_over: u64,
}

/// The poll that a turn is part of, as far as one can tell: what is polled, and where. A task is polled by one
/// thread at a time, and a thread polls one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Poll {
    thread: ThreadId,
    /// `None` for what `block_on` is given.
    task: Option<task::Id>,
}

impl Poll {
    fn current() -> Self {
        Self { thread: thread::current().id(), task: task::try_id() }
    }

    /// Whether this one must be over if `current` is under way.
    fn is_over_by(self, current: Self) -> bool {
        self.thread == current.thread || (self.task.is_some() && self.task == current.task)
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Lasting> {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of messages the caller's turn takes the network to have. If none lasts, one begins, and
    /// `look` says how many there are.
    pub(super) fn handed_over(self: &Arc<Self>, look: impl FnOnce() -> u64) -> u64 {
        if let Some(turn) = self.current() {
            return turn.handed_over;
        }
        let handed_over = look();
        self.begin(handed_over);
        handed_over
    }

    /// The caller's turn, if it has begun.
    pub(super) fn current(&self) -> Option<Turn> {
        let poll = Poll::current();
        self.lock().turns.iter().find(|turn| turn.poll == poll).copied()
    }

    /// Begins the caller's turn.
    ///
    /// tokio's threads keep the wakers of those who yield until the poll is over, so that is when it ends, or
    /// little later. On a thread that is none of tokio's, such as the one that calls `block_on` of a runtime
    /// with several, nobody knows when a poll is over, and the turn ends with this call.
    fn begin(self: &Arc<Self>, handed_over: u64) {
        let poll = Poll::current();
        let mut lasting = self.lock();
        lasting.turns.retain(|turn| !turn.poll.is_over_by(poll));
        let number = lasting.begun;
        lasting.begun += 1;
        lasting.turns.push(Turn { number, poll, handed_over });
        drop(lasting);
        let waker = Waker::from(Arc::new(End { turns: Arc::clone(self), number }));
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    }

    /// Ends the caller's turn.
    pub(super) fn end_current(&self) {
        let poll = Poll::current();
        self.end_where(|turn| turn.poll.is_over_by(poll));
    }

    fn end_where(&self, has_ended: impl Fn(&Turn) -> bool) {
        self.lock().turns.retain(|turn| !has_ended(turn));
        self.ended.notify_one();
    }

    /// Waits until this turn has ended, which may have happened before. One task at a time can wait for that:
    /// the socket's.
    pub(super) async fn over(&self, turn: Turn) {
        while self.lock().turns.iter().any(|lasting| lasting.number == turn.number) {
            self.ended.notified().await;
        }
    }
}

/// A turn lasts as long as tokio keeps the waker that this is.
struct End {
    turns: Arc<Turns>,
    number: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        self.turns.end_where(|turn| turn.number == self.number);
    }
}

impl Wake for End {
    /// Nothing but the waker's end.
    fn wake(self: Arc<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the network has is more at each look.
    fn look(turns: &Arc<Turns>, has: &mut u64) -> u64 {
        turns.handed_over(|| {
            *has += 1;
            *has
        })
    }

    #[tokio::test]
    async fn a_turn_sees_what_it_saw_first_and_the_next_poll_sees_anew() {
        let (turns, mut has) = (Arc::default(), 0);
        assert_eq!([look(&turns, &mut has), look(&turns, &mut has)], [1, 1]);
        yield_now().await;
        assert_eq!([look(&turns, &mut has), look(&turns, &mut has)], [2, 2]);
    }

    /// tokio has not looked yet who yielded when it polls the second task.
    #[tokio::test]
    async fn another_task_has_a_turn_of_its_own() {
        let turns: Arc<Turns> = Arc::default();
        let seen = [1, 2].map(|has| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { [turns.handed_over(|| has), turns.handed_over(|| 0)] })
        });
        for (task, has) in seen.into_iter().zip([1, 2]) {
            assert_eq!(task.await.expect("no panic"), [has, has]);
        }
    }

    #[tokio::test]
    async fn a_turn_can_be_ended_and_is_over_then_for_who_waits() {
        let (turns, mut has) = (Arc::default(), 0);
        look(&turns, &mut has);
        let first = turns.current().expect("it has begun");
        turns.end_current();
        assert_eq!(look(&turns, &mut has), 2);
        turns.over(first).await;
        assert!(turns.current().is_some(), "the second one lasts");
        let second = turns.current().expect("it has begun");
        turns.over(second).await;
        assert!(turns.current().is_none());
    }

    #[test]
    fn outside_of_a_runtime_a_turn_is_over_at_once() {
        let (turns, mut has) = (Arc::default(), 0);
        assert_eq!([look(&turns, &mut has), look(&turns, &mut has)], [1, 2]);
        assert!(turns.current().is_none());
    }
}
