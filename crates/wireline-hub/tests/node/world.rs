//! A node, a broker that keeps everything it ever ordered, and connections with bounded queues: all of it in one
//! thread under virtual time. What connections hear is checked against what the broker ordered.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use wireline_hub::{
    BackplaneError, ConnectionId, Content, Event, History, Member, NodeId, NodeRow, Page, Position,
    Predecessor, Publication, Topic,
    node::{
        Action, AfterNotice, Entry, Node, NodeConfig, Notice, Outlet, PresenceUpdate, Refused, ResetReason,
        Start, Subscribe, SubscribeError,
    },
};

/// What a connection hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Subscribed { position: Position, recovered: bool },
    Refused(SubscribeError),
    Published { position: Position, text: String },
    Joined(String),
    Left(String),
    Reset { position: Position, reason: ResetReason },
}

/// A connection's queue, and what was taken out of it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<(usize, Heard)>,
    pub(crate) taken: Vec<Heard>,
    pub(crate) most_queued: usize,
    is_closed: bool,
    /// A reset is the end of its subscription.
    pub(crate) leaves_at_reset: bool,
}

impl Queue {
    fn queued(&self) -> usize {
        self.waiting.iter().map(|(len, _)| len).sum()
    }

    fn push(&mut self, len: usize, heard: Heard) {
        self.waiting.push_back((len, heard));
        self.most_queued = self.most_queued.max(self.queued());
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TestOutlet(Rc<RefCell<Queue>>);

impl Outlet for TestOutlet {
    type Frames = ();

    fn offer(&self, entry: &Arc<Entry<()>>, limit: usize) -> Result<usize, Refused> {
        let mut queue = self.0.borrow_mut();
        let queued = queue.queued();
        let len = entry.publication.content.len();
        if queue.is_closed {
            return Err(Refused::Closed);
        }
        if queued > 0 && queued + len > limit {
            return Err(Refused::Full);
        }
        let position = entry.publication.position;
        let heard = match &entry.publication.content {
            Content::Message(message) => Heard::Published { position, text: message.to_string() },
            Content::Join(member) => Heard::Joined(member.name().to_owned()),
            Content::Leave(member) => Heard::Left(member.name().to_owned()),
        };
        queue.push(len, heard);
        Ok(queue.queued())
    }

    fn tell(&self, notice: &Notice) -> AfterNotice {
        let heard = match *notice {
            Notice::Subscribed { position, recovered, .. } => Heard::Subscribed { position, recovered },
            Notice::Refused { error, .. } => Heard::Refused(error),
            Notice::Reset { position, reason, .. } => Heard::Reset { position, reason },
        };
        let mut queue = self.0.borrow_mut();
        let leaves = queue.leaves_at_reset && matches!(heard, Heard::Reset { .. });
        queue.push(0, heard);
        if leaves { AfterNotice::Left } else { AfterNotice::Subscribed }
    }

    fn queued(&self) -> usize {
        self.0.borrow().queued()
    }
}

/// What the broker has been asked for and has not done yet, or has done and not answered.
#[derive(Debug)]
enum Reply {
    Subscribed(Topic),
    Page(u64, Page),
    Failed(Action),
}

/// One topic in the broker.
#[derive(Debug)]
struct Broker {
    /// Everything it ever ordered, in its present life.
    all: Vec<Publication>,
    /// From there on it is kept.
    kept_from: usize,
    base: Position,
    is_heard: bool,
    next_mark: u32,
}

impl Broker {
    fn top(&self) -> Position {
        self.all.last().map_or(self.base, |last| last.position)
    }

    fn page(&self, after: Option<Position>, max: usize) -> Page {
        let kept = &self.all[self.kept_from..];
        let follows = |publication: &Publication| after.is_some_and(|after| publication.previous.is(after));
        let behind = if after == Some(self.top()) { Some(kept.len()) } else { kept.iter().position(follows) };
        let start = behind.unwrap_or_else(|| kept.len().saturating_sub(max));
        let items = kept.iter().skip(start).take(max).cloned().collect();
        Page { top: self.top(), proven: behind.is_some(), items }
    }
}

pub(crate) struct World {
    pub(crate) node: Node<TestOutlet>,
    pub(crate) now: Instant,
    pub(crate) topic: Topic,
    pub(crate) history: History,
    broker: Broker,
    /// Every publication of every life, by its position.
    ordered: BTreeMap<(u64, u32), Publication>,
    asked: VecDeque<Action>,
    replies: VecDeque<Reply>,
    /// On its way to the node.
    pub(crate) wire: VecDeque<Event>,
    pub(crate) queues: BTreeMap<ConnectionId, Rc<RefCell<Queue>>>,
    awaiting_room: Vec<ConnectionId>,
    pub(crate) told_presence: Vec<PresenceUpdate>,
    pub(crate) closed: Vec<ConnectionId>,
    /// The broker's rows of presence.
    pub(crate) rows: Vec<NodeRow>,
    pub(crate) told_gone: Vec<(Member, NodeId)>,
    pub(crate) reads: usize,
    published: usize,
}

impl World {
    pub(crate) fn new(config: NodeConfig, history: History) -> Self {
        let now = Instant::now();
        let base = Position::new(0, 1);
        let broker = Broker { all: vec![], kept_from: 0, base, is_heard: false, next_mark: 2 };
        Self {
            node: Node::new(config, now),
            now,
            topic: Topic::new("tea").expect("it is a name"),
            history,
            broker,
            ordered: BTreeMap::new(),
            asked: VecDeque::new(),
            replies: VecDeque::new(),
            wire: VecDeque::new(),
            queues: BTreeMap::new(),
            awaiting_room: Vec::new(),
            told_presence: Vec::new(),
            closed: Vec::new(),
            rows: Vec::new(),
            told_gone: Vec::new(),
            reads: 0,
            published: 0,
        }
    }

    fn take_actions(&mut self) {
        for action in self.node.take_actions() {
            match action {
                Action::AwaitRoom(id) => self.awaiting_room.push(id),
                Action::Close(id) => self.closed.push(id),
                Action::ReadRows(topic) => {
                    let rows = self.rows.clone();
                    self.node.handle_rows(&topic, Some(rows), self.now);
                }
                Action::TellGone { member, node, .. } => self.told_gone.push((member, node)),
                Action::TellPresence(update) => {
                    self.told_presence.push(update);
                    self.node.handle_presence_told(true, self.now);
                }
                action => self.asked.push_back(action),
            }
        }
    }

    // The broker.

    /// The text of publication `number`, which tells itself.
    pub(crate) fn text(number: usize) -> String {
        format!("{number:010}")
    }

    pub(crate) fn publish(&mut self) -> Position {
        let content = Content::Message(Self::text(self.published).into());
        self.published += 1;
        self.publish_content(content, None)
    }

    pub(crate) fn publish_many(&mut self, count: usize) {
        for _ in 0..count {
            self.publish();
        }
    }

    pub(crate) fn publish_except(&mut self, except: ConnectionId) -> Position {
        let content = Content::Message(Self::text(self.published).into());
        self.published += 1;
        self.publish_content(content, Some(except))
    }

    pub(crate) fn publish_content(&mut self, content: Content, except: Option<ConnectionId>) -> Position {
        let broker = &mut self.broker;
        let position = Position::new(broker.top().offset + 1, broker.next_mark);
        broker.next_mark += 1;
        let previous = Predecessor::from(broker.top());
        let publication = Publication { topic: self.topic.clone(), position, previous, content, except };
        self.ordered.insert((position.offset, position.mark), publication.clone());
        if broker.is_heard {
            self.wire.push_back(Event::Published(publication.clone()));
        }
        broker.all.push(publication);
        broker.kept_from = broker.kept_from.max(broker.all.len().saturating_sub(self.history.messages));
        position
    }

    /// The broker comes up empty.
    pub(crate) fn wipe(&mut self) {
        let base = Position::new(0, self.broker.next_mark);
        self.broker.next_mark += 1;
        self.broker.all.clear();
        self.broker.kept_from = 0;
        self.broker.base = base;
    }

    /// The broker does the next thing that it was asked for.
    pub(crate) fn serve(&mut self) -> bool {
        let Some(action) = self.asked.pop_front() else { return false };
        match action {
            Action::Subscribe(topic) => {
                self.broker.is_heard = true;
                self.replies.push_back(Reply::Subscribed(topic));
            }
            Action::Unsubscribe(_) => self.broker.is_heard = false,
            Action::Read { ticket, after, max, .. } => {
                self.reads += 1;
                self.replies.push_back(Reply::Page(ticket, self.broker.page(after, max)));
            }
            other => panic!("{other:?} is nothing for a broker"),
        }
        true
    }

    /// The broker fails to do the next thing that it was asked for.
    pub(crate) fn fail(&mut self) -> bool {
        match self.asked.front() {
            Some(Action::Subscribe(_) | Action::Read { .. }) => {}
            _ => return self.serve(),
        }
        let action = self.asked.pop_front().expect("there is one");
        self.replies.push_back(Reply::Failed(action));
        true
    }

    /// The node hears the broker's next answer.
    pub(crate) fn answer(&mut self) -> bool {
        let failure = || BackplaneError::Unavailable("a test says so".into());
        match self.replies.pop_front() {
            None => return false,
            Some(Reply::Subscribed(topic)) => self.node.handle_subscribed(&topic, true, self.now),
            Some(Reply::Page(ticket, page)) => self.node.handle_page(ticket, Ok(page), self.now),
            Some(Reply::Failed(Action::Subscribe(topic))) => {
                self.node.handle_subscribed(&topic, false, self.now);
            }
            Some(Reply::Failed(Action::Read { ticket, .. })) => {
                self.node.handle_page(ticket, Err(failure()), self.now);
            }
            Some(Reply::Failed(other)) => panic!("{other:?} has no answer"),
        }
        self.take_actions();
        true
    }

    /// The node hears the next event.
    pub(crate) fn deliver(&mut self) -> bool {
        let Some(event) = self.wire.pop_front() else { return false };
        self.node.handle_event(event, self.now);
        self.take_actions();
        true
    }

    /// Everything that is under way arrives.
    pub(crate) fn settle(&mut self) {
        while self.deliver() || self.serve() || self.answer() {}
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.node.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.take_actions();
            self.settle();
        }
        self.now = end;
    }

    /// Time passes, and the broker does nothing.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.node.handle_timeout(self.now);
        self.take_actions();
    }

    // Connections.

    pub(crate) fn connect(&mut self, id: u128) -> ConnectionId {
        let id = ConnectionId(id);
        let queue = Rc::<RefCell<Queue>>::default();
        self.node.connect(id, TestOutlet(Rc::clone(&queue)));
        self.queues.insert(id, queue);
        id
    }

    pub(crate) fn disconnect(&mut self, id: ConnectionId) -> Vec<Heard> {
        self.node.disconnect(id, self.now);
        self.take_actions();
        self.awaiting_room.retain(|waiting| *waiting != id);
        let queue = self.queues.remove(&id).expect("it is connected");
        let queue = std::mem::take(&mut *queue.borrow_mut());
        queue.taken
    }

    pub(crate) fn subscribe_as(&mut self, connection: ConnectionId, start: Start, member: Option<&str>) {
        let subscribe = Subscribe {
            connection,
            request: 1,
            topic: self.topic.clone(),
            history: self.history,
            start,
            presence: true,
            member: member.map(Member::new),
        };
        self.node.subscribe(subscribe, self.now);
        self.take_actions();
    }

    pub(crate) fn subscribe(&mut self, connection: ConnectionId, start: Start) {
        self.subscribe_as(connection, start, None);
    }

    pub(crate) fn unsubscribe(&mut self, connection: ConnectionId) -> bool {
        let was_subscribed = self.node.unsubscribe(connection, &self.topic.clone(), self.now);
        self.take_actions();
        was_subscribed
    }

    /// The connection's peer reads all that is queued.
    pub(crate) fn drain(&mut self, id: ConnectionId) {
        let queue = Rc::clone(&self.queues[&id]);
        loop {
            let mut queue = queue.borrow_mut();
            let waiting = std::mem::take(&mut queue.waiting);
            queue.taken.extend(waiting.into_iter().map(|(_, heard)| heard));
            drop(queue);
            let Some(index) = self.awaiting_room.iter().position(|waiting| *waiting == id) else { return };
            self.awaiting_room.swap_remove(index);
            self.node.handle_room(id, self.now);
            self.take_actions();
        }
    }

    /// What a connection has read so far.
    pub(crate) fn heard(&mut self, id: ConnectionId) -> Vec<Heard> {
        self.drain(id);
        std::mem::take(&mut self.queues[&id].borrow_mut().taken)
    }

    /// The same, as words: the publications' texts without zeros.
    pub(crate) fn words(&mut self, id: ConnectionId) -> Vec<String> {
        let word = |heard| match heard {
            Heard::Subscribed { recovered: true, .. } => "recovered".to_owned(),
            Heard::Subscribed { .. } => "subscribed".to_owned(),
            Heard::Refused(error) => format!("{error:?}"),
            Heard::Published { text, .. } => text.parse::<usize>().expect("a number").to_string(),
            Heard::Joined(name) => format!("+{name}"),
            Heard::Left(name) => format!("-{name}"),
            Heard::Reset { reason, .. } => format!("{reason:?}"),
        };
        self.heard(id).into_iter().map(word).collect()
    }

    pub(crate) fn most_queued(&self, id: ConnectionId) -> usize {
        self.queues[&id].borrow().most_queued
    }

    // The checker.

    pub(crate) fn top(&self) -> Position {
        self.broker.top()
    }

    /// The publication that follows `position` in the broker's order, be it kept or not.
    fn successor(&self, position: Position) -> Option<&Publication> {
        let next = self.ordered.range((position.offset + 1, 0)..=(position.offset + 1, u32::MAX));
        next.map(|(_, publication)| publication).find(|publication| publication.previous.is(position))
    }

    /// Follows what `id` heard from `cursor` on: the place up to which it has everything. Panics if something
    /// is lost, doubled or out of order.
    pub(crate) fn follow(
        &self,
        id: ConnectionId,
        mut cursor: Option<Position>,
        heard: &[Heard],
    ) -> Option<Position> {
        for heard in heard {
            match heard {
                Heard::Subscribed { position, recovered } => {
                    if *recovered {
                        assert_eq!(cursor, Some(*position), "recovered from elsewhere");
                    }
                    cursor = Some(*position);
                }
                Heard::Reset { position, .. } => cursor = Some(*position),
                Heard::Published { position, .. } => {
                    let mut at = cursor.expect("it is subscribed");
                    loop {
                        let next =
                            self.successor(at).unwrap_or_else(|| panic!("{at} was the last, not {position}"));
                        at = next.position;
                        if at == *position {
                            break;
                        }
                        assert_eq!(next.except, Some(id), "{at} is lost before {position}");
                    }
                    cursor = Some(at);
                }
                Heard::Refused(_) | Heard::Joined(_) | Heard::Left(_) => {}
            }
        }
        cursor
    }

    /// Whether nothing for `id` is behind `cursor`.
    pub(crate) fn is_complete(&self, id: ConnectionId, mut cursor: Position) -> bool {
        while cursor != self.top() {
            match self.successor(cursor) {
                Some(next) if next.except == Some(id) => cursor = next.position,
                _ => return false,
            }
        }
        true
    }
}
