//! A backplane that fails.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    Backplane, BackplaneError, Event, Events, History, NodeRow, Outgoing, Page, Position, PresenceRow, Topic,
    backplane::BackplaneFuture,
};

/// How a backplane fails, for all nodes that [share](Clone) this. All are probabilities from 0 to 1; without any
/// it does not fail.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// A delivery is lost.
    pub lose: f64,
    /// A delivery comes twice.
    pub double: f64,
    /// A delivery comes late, and out of order.
    pub delay: f64,
    /// What is asked for does not happen, and the node is told so.
    pub refuse: f64,
    /// What is asked for happens, and the node is told that it may not have.
    pub unknown: f64,
}

/// The faults of a backplane, with random numbers that come the same from the same seed.
///
/// ```
/// use wireline_hub::{Events, Memory, testing::{Faults, Rates}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (memory, faults) = (Memory::new(), Faults::new(7));
/// let (events, _heard) = Events::channel(16);
/// let node = faults.node(events, |events| memory.node(events));
/// faults.set(Rates { lose: 0.5, ..Rates::default() });
/// # drop(node);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rates: Rates,
    is_cut: bool,
    /// Whom to tell that the engine is away.
    nodes: Vec<Events>,
    random: u64,
    faults: u64,
    reads: u64,
}

impl Faults {
    /// None yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let state =
            State { rates: Rates::default(), is_cut: false, nodes: vec![], random, faults: 0, reads: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets how often what fails.
    pub fn set(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Takes the engine away, or gives it back: deliveries are lost, and nothing is answered. Its nodes are told,
    /// if `is_told`.
    pub fn cut(&self, is_cut: bool, is_told: bool) {
        let mut state = self.lock();
        state.is_cut = is_cut;
        state.faults += u64::from(is_cut);
        if is_told {
            let event = if is_cut { Event::Down } else { Event::Up };
            state.nodes.iter().for_each(|node| node.tell(event.clone()));
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().faults
    }

    /// How often the engine was asked for what was published.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// A node that has them, between the one that `make` makes and what `events` tells.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn node<B: Backplane>(&self, events: Events, make: impl FnOnce(Events) -> B) -> FaultyNode<B> {
        let (inner, mut receiver) = Events::channel(1 << 16);
        self.lock().nodes.push(events.clone());
        let faults = self.clone();
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                faults.deliver(event, &events);
            }
        });
        FaultyNode { inner: make(inner), faults: self.clone() }
    }

    fn deliver(&self, event: Event, events: &Events) {
        let mut state = self.lock();
        let rates = state.rates;
        if state.is_cut || state.happens(rates.lose) {
            return;
        }
        if state.happens(rates.double) {
            events.tell(event.clone());
        }
        if state.happens(rates.delay) {
            let late = Duration::from_millis(state.next() % 500);
            let events = events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                events.tell(event);
            });
            return;
        }
        events.tell(event);
    }

    /// What becomes of what a node asks for: whether it happens, and whether the node is told.
    fn fate(&self) -> (bool, bool) {
        let mut state = self.lock();
        let rates = state.rates;
        let is_refused = state.is_cut || state.happens(rates.refuse);
        let is_unknown = !is_refused && state.happens(rates.unknown);
        (!is_refused, !is_refused && !is_unknown)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        // Xorshift: as random as a test needs.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn happens(&mut self, rate: f64) -> bool {
        const STEPS: u32 = 1 << 20;
        let step = u32::try_from(self.next() % u64::from(STEPS)).unwrap_or_default();
        let happens = f64::from(step) < rate * f64::from(STEPS);
        self.faults += u64::from(happens);
        happens
    }
}

/// A node whose backplane [fails](Faults).
#[derive(Debug)]
pub struct FaultyNode<B> {
    inner: B,
    faults: Faults,
}

impl<B> FaultyNode<B> {
    fn with_faults<'b, T: Send + 'b>(&'b self, asked: BackplaneFuture<'b, T>) -> BackplaneFuture<'b, T> {
        let (happens, is_told) = self.faults.fate();
        Box::pin(async move {
            // An engine is some way off.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !happens {
                return Err(BackplaneError::Unavailable("a fault".into()));
            }
            let answer = asked.await;
            if is_told { answer } else { Err(BackplaneError::Unknown("a fault".into())) }
        })
    }
}

impl<B: Backplane> Backplane for FaultyNode<B> {
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position> {
        self.with_faults(Box::pin(async move { self.inner.publish(topic, outgoing, history).await }))
    }

    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        self.with_faults(Box::pin(async move { self.inner.subscribe(topic).await }))
    }

    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        self.with_faults(Box::pin(async move { self.inner.unsubscribe(topic).await }))
    }

    fn read<'b>(
        &'b self,
        topic: &'b Topic,
        after: Option<Position>,
        max: usize,
    ) -> BackplaneFuture<'b, Page> {
        self.faults.lock().reads += 1;
        self.with_faults(Box::pin(async move { self.inner.read(topic, after, max).await }))
    }

    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
        self.with_faults(Box::pin(async move { self.inner.lease(rows, ttl).await }))
    }

    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
        self.with_faults(Box::pin(async move { self.inner.presence(topic).await }))
    }
}
