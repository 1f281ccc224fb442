//! A topic that is heard.
//!
//! What was published over several connections at once may be republished in another order than that of its places: by a
//! 2.9 server it often is. The chain would show it, and each time a node would read what is on its way anyway. So what
//! comes early waits for a moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{envelope, gate::Gate, next_message};
use crate::{Event, Events, Predecessor, Publication, Topic};

/// How long what comes early waits for what should come before it. Raised, what is lost is found later.
const PATIENCE: Duration = Duration::from_millis(20);

/// How many wait. Beyond, something was lost. Raised, it is memory for each topic that lost something.
const MAX_EARLY: usize = 64;

/// A task that hands on what is heard of a topic, until this is dropped.
#[derive(Debug)]
pub(super) struct Hearing(JoinHandle<()>);

impl Hearing {
    pub(super) fn new(topic: Topic, subscriber: Subscriber, gate: Arc<Gate>, events: Events) -> Self {
        Self(tokio::spawn(hand_on(topic, subscriber, gate, events)))
    }

    /// Returns when nothing is handed on any more.
    pub(super) async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn hand_on(topic: Topic, mut subscriber: Subscriber, gate: Arc<Gate>, events: Events) {
    let mut order = Order::default();
    let mut until = None;
    loop {
        let ready = tokio::select! {
            message = next_message(&mut subscriber) => match message {
                Some(message) => match delivered(&topic, message) {
                    Some(publication) => order.take(publication),
                    None => {
                        tracing::warn!(%topic, "what came is no publication of a hub's");
                        continue;
                    }
                },
                None => return,
            },
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => order.give_up(),
        };
        until = if order.early.is_empty() { None } else { until.or_else(|| Some(Instant::now() + PATIENCE)) };
        if gate.is_open() {
            ready.into_iter().for_each(|publication| events.tell(Event::Published(publication)));
        }
    }
}

fn delivered(topic: &Topic, message: Message) -> Option<Publication> {
    let headers = message.headers?;
    let number = |name: &str| headers.get(name)?.as_str().parse().ok();
    let (sequence, before) = (number("Nats-Sequence")?, number("Nats-Last-Sequence")?);
    envelope::open(topic, sequence, Predecessor { offset: before, mark: None }, &headers, message.payload)
}

/// What comes, put in order as far as that can be done without waiting for what was lost.
#[derive(Debug, Default)]
struct Order {
    /// The offset of the last one that was handed on.
    last: Option<u64>,
    /// What came before its predecessor, by offset.
    early: BTreeMap<u64, Publication>,
}

impl Order {
    /// What can be handed on with this one.
    fn take(&mut self, publication: Publication) -> Vec<Publication> {
        let is_early = self.last.is_some_and(|last| publication.previous.offset > last);
        if is_early {
            self.early.insert(publication.position.offset, publication);
            return if self.early.len() > MAX_EARLY { self.give_up() } else { vec![] };
        }
        let mut ready = vec![self.pass(publication)];
        while let Some(next) = self.early.first_entry()
            && Some(next.get().previous.offset) <= self.last
        {
            let next = next.remove();
            ready.push(self.pass(next));
        }
        ready
    }

    /// What waits is handed on as it is: nodes read what is missing.
    fn give_up(&mut self) -> Vec<Publication> {
        let early = std::mem::take(&mut self.early);
        early.into_values().map(|publication| self.pass(publication)).collect()
    }

    fn pass(&mut self, publication: Publication) -> Publication {
        self.last = Some(publication.position.offset);
        publication
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Position};

    /// What is handed on when this comes, as (predecessor, offset).
    fn order(comes: &[(u64, u64)]) -> (Order, Vec<u64>) {
        let mut order = Order::default();
        let mut ready = Vec::new();
        for (previous, offset) in comes {
            ready.extend(order.take(Publication {
                topic: Topic::new("tea").expect("it is a name"),
                position: Position::new(*offset, 0),
                previous: Predecessor { offset: *previous, mark: None },
                content: Content::Message("".into()),
                except: None,
            }));
        }
        (order, offsets(&ready))
    }

    fn offsets(publications: &[Publication]) -> Vec<u64> {
        publications.iter().map(|publication| publication.position.offset).collect()
    }

    #[test]
    fn what_comes_early_waits_for_what_is_before_it() {
        let (order, ready) = order(&[(0, 3), (7, 9), (5, 7), (3, 5), (9, 10)]);
        assert_eq!(ready, [3, 5, 7, 9, 10]);
        assert!(order.early.is_empty());
    }

    #[test]
    fn what_was_lost_is_not_waited_for_long() {
        let (mut order, ready) = order(&[(0, 3), (7, 9), (5, 7)]);
        assert_eq!(ready, [3]);
        assert_eq!(offsets(&order.give_up()), [7, 9]);
        assert_eq!(order.last, Some(9));
    }

    #[test]
    fn what_comes_twice_or_from_a_broker_that_counts_anew_is_handed_on_at_once() {
        assert_eq!(order(&[(0, 3), (3, 5), (3, 5), (0, 1), (1, 2)]).1, [3, 5, 5, 1, 2]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let most = MAX_EARLY as u64;
        let lost: Vec<_> = std::iter::once((0, 1)).chain((3..=most + 3).map(|n| (n - 1, n))).collect();
        let (order, ready) = order(&lost);
        assert_eq!(ready.len(), MAX_EARLY + 2);
        assert!(order.early.is_empty());
    }
}
