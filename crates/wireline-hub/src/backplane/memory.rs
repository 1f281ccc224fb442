//! The backplane of one process: nothing to install, and the model of the others.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Backplane, BackplaneFuture, Event, Events, NodeId, NodeRow, Page, PresenceRow};
use crate::{History, Member, Outgoing, Position, Publication, PublicationId, Topic, entropy};

/// How long a second attempt to publish is known as one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Attempts that are remembered for each topic. Raised, it is memory for topics with many publications.
const DUPLICATES: usize = 100_000;

/// How long the position of a topic is kept that nobody hears and of which nothing is kept.
const IDLE_LIFETIME: Duration = Duration::from_secs(3600);

/// Topics below which none is looked at for its age.
const SWEEP_AT: usize = 1024;

/// Topics in memory, shared by the nodes of one process. Cloning it is cheap.
///
/// ```
/// use wireline_hub::{Backplane, Content, Event, Events, History, Memory, Outgoing, PublicationId, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = Memory::new();
/// let (events, mut heard) = Events::channel(16);
/// let node = memory.node(events);
/// let topic = Topic::new("tea")?;
/// node.subscribe(&topic).await?;
/// let content = Content::Message("hot".into());
/// let outgoing = Outgoing { id: PublicationId::random(), content: content.clone(), except: None };
/// let position = node.publish(&topic, outgoing, History::default()).await?;
/// let Some(Event::Published(publication)) = heard.recv().await else { panic!("nothing was heard") };
/// assert_eq!((publication.position, publication.content), (position, content));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Memory {
    engine: Arc<Mutex<Engine>>,
}

/// One node's place at a [`Memory`].
#[derive(Debug)]
pub struct MemoryNode {
    memory: Memory,
    id: NodeId,
    events: Events,
}

#[derive(Debug, Default)]
struct Engine {
    topics: HashMap<Topic, Record>,
    /// Nobody can guess what it makes of a topic's name.
    secret: RandomState,
    /// Times that something was forgotten of which something had been published.
    generation: u64,
    sweep_at: usize,
    nodes: HashMap<NodeId, Lease>,
}

/// A topic.
#[derive(Debug)]
struct Record {
    top: Position,
    history: History,
    kept: VecDeque<(Instant, Publication)>,
    bytes: usize,
    ids: HashMap<PublicationId, Position>,
    ids_by_age: VecDeque<(Instant, PublicationId)>,
    listeners: Vec<(NodeId, Events)>,
    touched: Instant,
}

#[derive(Debug)]
struct Lease {
    number: u32,
    until: Instant,
    rows: HashMap<Topic, Vec<Member>>,
}

impl Memory {
    /// Without topics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node's place here, which tells it all through `events`.
    #[must_use]
    pub fn node(&self, events: Events) -> MemoryNode {
        MemoryNode { memory: self.clone(), id: NodeId::random(), events }
    }

    /// Topics that it knows a position of.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.lock().topics.len()
    }

    /// Forgets all publications, positions and members, as a broker does that comes up empty. Nodes go on hearing their
    /// topics.
    pub fn forget(&self) {
        let now = Instant::now();
        let mut engine = self.lock();
        engine.nodes.clear();
        engine.generation += 1;
        let Engine { topics, secret, generation, .. } = &mut *engine;
        for (topic, record) in topics {
            let listeners = std::mem::take(&mut record.listeners);
            *record = Record { listeners, ..Record::new(beginning(secret, *generation, topic), now) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    fn beginning(&self, topic: &Topic) -> Position {
        beginning(&self.secret, self.generation, topic)
    }

    fn record(&mut self, topic: &Topic, now: Instant) -> &mut Record {
        if !self.topics.contains_key(topic) && self.topics.len() >= self.sweep_at.max(SWEEP_AT) {
            let before = self.topics.len();
            self.topics.retain(|_, record| !record.is_idle(now));
            self.generation += u64::from(self.topics.len() < before);
            self.sweep_at = self.topics.len() * 2;
        }
        let beginning = self.beginning(topic);
        let record = self.topics.entry(topic.clone()).or_insert_with(|| Record::new(beginning, now));
        record.touched = now;
        record.trim(now);
        record
    }
}

/// Where a topic stands of which nothing was published: it can be told again without being kept, so that a name that
/// somebody asks for costs nothing. Once it could have been published to and forgotten it is another.
fn beginning(secret: &RandomState, generation: u64, topic: &Topic) -> Position {
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of it do")]
    Position::new(0, secret.hash_one((topic, generation)) as u32)
}

impl Record {
    fn new(beginning: Position, now: Instant) -> Self {
        Self {
            top: beginning,
            history: History::NONE,
            kept: VecDeque::new(),
            bytes: 0,
            ids: HashMap::new(),
            ids_by_age: VecDeque::new(),
            listeners: Vec::new(),
            touched: now,
        }
    }

    /// Nothing was published, and nobody hears it.
    fn is_untouched(&self) -> bool {
        self.top.offset == 0 && self.listeners.is_empty()
    }

    fn is_idle(&mut self, now: Instant) -> bool {
        self.trim(now);
        self.kept.is_empty() && self.listeners.is_empty() && self.touched + IDLE_LIFETIME <= now
    }

    fn publish(&mut self, topic: &Topic, outgoing: Outgoing, history: History, now: Instant) -> Position {
        if let Some(position) = self.ids.get(&outgoing.id) {
            return *position;
        }
        let position = Position::new(self.top.offset + 1, entropy::mark());
        let previous = std::mem::replace(&mut self.top, position).into();
        let Outgoing { id, content, except } = outgoing;
        self.ids.insert(id.clone(), position);
        self.ids_by_age.push_back((now, id));
        let publication = Publication { topic: topic.clone(), position, previous, content, except };
        for (_, events) in &self.listeners {
            events.tell(Event::Published(publication.clone()));
        }
        self.bytes += publication.content.len();
        self.kept.push_back((now, publication));
        self.history = history;
        self.trim(now);
        position
    }

    fn trim(&mut self, now: Instant) {
        while let Some((published, publication)) = self.kept.front()
            && !self.history.allows(self.kept.len(), self.bytes, now - *published)
        {
            self.bytes -= publication.content.len();
            self.kept.pop_front();
        }
        while let Some((published, id)) = self.ids_by_age.front()
            && (now - *published >= DUPLICATE_WINDOW || self.ids_by_age.len() > DUPLICATES)
        {
            self.ids.remove(id);
            self.ids_by_age.pop_front();
        }
    }

    fn read(&self, after: Option<Position>, max: usize) -> Page {
        let behind = after.and_then(|after| self.index_behind(after));
        let start = behind.unwrap_or_else(|| self.kept.len().saturating_sub(max));
        let items = self.kept.iter().skip(start).take(max).map(|(_, publication)| publication.clone());
        Page { top: self.top, proven: behind.is_some(), items: items.collect() }
    }

    /// Where that begins which follows `position`, if all of it is kept.
    fn index_behind(&self, position: Position) -> Option<usize> {
        if position == self.top {
            return Some(self.kept.len());
        }
        let follows = |(_, publication): &(Instant, Publication)| publication.previous.is(position);
        self.kept.iter().position(follows)
    }
}

impl Backplane for MemoryNode {
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position> {
        Box::pin(async move {
            let now = Instant::now();
            Ok(self.memory.lock().record(topic, now).publish(topic, outgoing, history, now))
        })
    }

    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(async move {
            let mut engine = self.memory.lock();
            let listeners = &mut engine.record(topic, Instant::now()).listeners;
            if !listeners.iter().any(|(id, _)| *id == self.id) {
                listeners.push((self.id, self.events.clone()));
            }
            Ok(())
        })
    }

    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(async move {
            let mut engine = self.memory.lock();
            let Some(record) = engine.topics.get_mut(topic) else { return Ok(()) };
            record.listeners.retain(|(id, _)| *id != self.id);
            if record.is_untouched() {
                engine.topics.remove(topic);
            }
            Ok(())
        })
    }

    fn read<'b>(
        &'b self,
        topic: &'b Topic,
        after: Option<Position>,
        max: usize,
    ) -> BackplaneFuture<'b, Page> {
        Box::pin(async move {
            let mut engine = self.memory.lock();
            if engine.topics.contains_key(topic) {
                return Ok(engine.record(topic, Instant::now()).read(after, max));
            }
            let top = engine.beginning(topic);
            Ok(Page { top, proven: after == Some(top), items: vec![] })
        })
    }

    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
        Box::pin(async move {
            let now = Instant::now();
            let mut engine = self.memory.lock();
            engine.nodes.retain(|_, lease| lease.until > now);
            let is_kept = engine.nodes.contains_key(&self.id);
            let fresh = || Lease { number: entropy::mark(), until: now, rows: HashMap::new() };
            let lease = engine.nodes.entry(self.id).or_insert_with(fresh);
            lease.until = now + ttl;
            for row in rows {
                lease.rows.insert(row.topic.clone(), row.members.clone());
            }
            lease.rows.retain(|_, members| !members.is_empty());
            Ok(is_kept)
        })
    }

    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
        Box::pin(async move {
            let now = Instant::now();
            let engine = self.memory.lock();
            let live = engine.nodes.iter().filter(|(_, lease)| lease.until > now);
            let row = |(node, lease): (&NodeId, &Lease)| {
                Some(NodeRow { node: *node, lease: lease.number, members: lease.rows.get(topic)?.clone() })
            };
            let mut rows: Vec<NodeRow> = live.filter_map(row).collect();
            rows.sort_by_key(|row| row.node);
            Ok(rows)
        })
    }
}

/// A node that is gone hears nothing, and has no members.
impl Drop for MemoryNode {
    fn drop(&mut self) {
        let mut engine = self.memory.lock();
        engine.nodes.remove(&self.id);
        for record in engine.topics.values_mut() {
            record.listeners.retain(|(id, _)| *id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("it is a name")
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_somebody_asks_for_costs_nothing_and_its_place_is_known_again() {
        let memory = Memory::new();
        let node = memory.node(Events::channel(16).0);
        for number in 0..10_000 {
            let topic = topic(&format!("t{number}"));
            node.subscribe(&topic).await.expect("it is there");
            let top = node.read(&topic, None, 10).await.expect("it is there").top;
            node.unsubscribe(&topic).await.expect("it is there");
            let page = node.read(&topic, Some(top), 10).await.expect("it is there");
            assert!(page.proven && page.top == top, "{page:?}");
        }
        assert_eq!(memory.topics(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_published_to_and_forgotten_is_not_taken_for_a_topic_that_nobody_published_to() {
        let memory = Memory::new();
        let node = memory.node(Events::channel(16).0);
        let tea = topic("tea");
        let beginning = node.read(&tea, None, 10).await.expect("it is there").top;
        let outgoing =
            Outgoing { id: PublicationId::random(), content: Content::Message("hot".into()), except: None };
        node.publish(&tea, outgoing, History::NONE).await.expect("it is there");
        tokio::time::advance(2 * IDLE_LIFETIME).await;
        // So many that those nobody needs are looked for.
        for number in 0..=SWEEP_AT {
            node.subscribe(&topic(&format!("t{number}"))).await.expect("it is there");
        }
        assert_eq!(memory.topics(), SWEEP_AT + 1, "tea is forgotten");
        let page = node.read(&tea, Some(beginning), 10).await.expect("it is there");
        assert!(!page.proven, "{page:?}");
    }
}
