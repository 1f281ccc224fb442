//! What a subscription has not been asked for yet.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{ClientError, Event};
use crate::node::ResetReason;

/// Bytes of payload in a queue. Beyond, it is full, whatever its capacity; one event it always takes. Raised, it is
/// memory for each subscription that is not read.
const MAX_BYTES: usize = 1 << 20;

/// Events between a client's task and a subscription.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    bytes: usize,
    /// Something found no room.
    is_behind: bool,
    /// Nothing more comes, for this reason if there is one.
    end: Option<Option<ClientError>>,
    waker: Option<Waker>,
}

/// What a subscription is given, and whether what found no room is to be read again now.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) event: Result<Option<Event>, ClientError>,
    pub(super) is_to_catch_up: bool,
}

impl Queue {
    /// One that takes so many events, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), state: Mutex::default() }
    }

    /// Queues an event; false if there is no room. From then on it takes none before
    /// [`is_to_catch_up`](Taken::is_to_catch_up) was given.
    pub(super) fn offer(&self, event: Event) -> bool {
        let mut state = self.lock();
        let len = event.len();
        let is_full = state.events.len() >= self.capacity || state.bytes + len > MAX_BYTES;
        state.is_behind |= is_full && !state.events.is_empty();
        if !state.is_behind {
            state.push(event);
        }
        !state.is_behind
    }

    /// Queues a reset whatever the room. Two in a row are one.
    pub(super) fn reset(&self, event: Event) {
        let mut state = self.lock();
        if matches!(state.events.back(), Some(Event::Reset { .. })) {
            state.events.pop_back();
        }
        state.push(event);
    }

    /// Queues an event. If there is no room it and what comes are a reset instead, until there is.
    pub(super) fn offer_or_reset(&self, event: Event) {
        let mut state = self.lock();
        let is_full = state.events.len() >= self.capacity || state.bytes + event.len() > MAX_BYTES;
        let is_reset = matches!(event, Event::Reset { .. });
        if !is_reset && (!is_full || state.events.is_empty()) {
            return state.push(event);
        }
        drop(state);
        let why = if let Event::Reset { why, .. } = event { why } else { Some(ResetReason::Window) };
        self.reset(Event::Reset { why, position: event.position() });
    }

    /// Nothing more comes: an error, unless it is closed at this end, which is as it should be.
    pub(super) fn end_with(&self, error: &ClientError) {
        self.end(Some(error.clone()).filter(|error| !matches!(error, ClientError::Ended)));
    }

    /// Nothing more comes; what is queued stays.
    pub(super) fn end(&self, why: Option<ClientError>) {
        let mut state = self.lock();
        state.end.get_or_insert(why);
        state.wake();
    }

    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut state = self.lock();
        let Some(event) = state.events.pop_front() else {
            let Some(end) = state.end.clone() else {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            return Poll::Ready(Taken { event: end.map_or(Ok(None), Err), is_to_catch_up: false });
        };
        state.bytes -= event.len();
        let has_room = state.events.len() <= self.capacity / 2 && state.bytes <= MAX_BYTES / 2;
        let is_to_catch_up = state.is_behind && has_room;
        state.is_behind &= !is_to_catch_up;
        Poll::Ready(Taken { event: Ok(Some(event)), is_to_catch_up })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, event: Event) {
        self.bytes += event.len();
        self.events.push_back(event);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::Position;

    fn message(number: u64, len: usize) -> Event {
        Event::Message { message: vec![0; len].into(), position: Position::new(number, 0) }
    }

    fn take(queue: &Queue) -> Option<(u64, bool)> {
        match queue.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Taken { event: Ok(Some(event)), is_to_catch_up }) => {
                Some((event.position().offset, is_to_catch_up))
            }
            _ => None,
        }
    }

    #[test]
    fn what_finds_no_room_is_asked_for_again_when_it_is_half_empty_and_not_before() {
        let queue = Queue::new(4);
        assert!((1..=4).all(|number| queue.offer(message(number, 0))));
        assert!(!queue.offer(message(5, 0)));
        assert_eq!(take(&queue), Some((1, false)));
        assert!(!queue.offer(message(6, 0)), "what is behind it would be out of order");
        assert_eq!(take(&queue), Some((2, true)));
        assert_eq!(take(&queue), Some((3, false)), "it is asked for once");
        assert!(queue.offer(message(5, 0)));
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some((4, false)), Some((5, false)), None));
    }

    #[test]
    fn bytes_are_bounded_but_for_one_event() {
        let queue = Queue::new(100);
        assert!(queue.offer(message(1, 2 * MAX_BYTES)));
        assert!(!queue.offer(message(2, 0)));
        assert_eq!(take(&queue), Some((1, true)));
        assert!(queue.offer(message(2, MAX_BYTES / 2)) && queue.offer(message(3, MAX_BYTES / 2)));
        assert!(!queue.offer(message(4, 1)));
    }

    #[test]
    fn resets_find_room_and_those_in_a_row_are_one() {
        let queue = Queue::new(1);
        assert!(queue.offer(message(1, 0)));
        for number in 2..5 {
            queue.reset(Event::Reset { why: None, position: Position::new(number, 0) });
        }
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some((1, false)), Some((4, false)), None));
    }

    #[test]
    fn what_cannot_be_read_again_is_a_reset_until_there_is_room() {
        let queue = Queue::new(2);
        (1..=5).for_each(|number| queue.offer_or_reset(message(number, 0)));
        assert_eq!((take(&queue), take(&queue)), (Some((1, false)), Some((2, false))));
        queue.offer_or_reset(message(6, 0));
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some((5, false)), Some((6, false)), None));
    }

    #[test]
    fn what_is_queued_comes_before_the_end() {
        let queue = Queue::new(1);
        queue.offer(message(1, 0));
        queue.end(Some(ClientError::Ended));
        assert_eq!(take(&queue), Some((1, false)));
        let taken = queue.poll_take(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(taken, Poll::Ready(Taken { event: Err(ClientError::Ended), .. })), "{taken:?}");
    }
}
