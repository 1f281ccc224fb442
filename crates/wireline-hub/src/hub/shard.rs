//! One node in a task of its own: its share of a hub's topics.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
    time::Instant,
};

use super::{
    Rules,
    outlet::SocketOutlet,
    presence::{self, News},
};
use crate::{
    BackplaneError, ConnectionId, Event, Member, NodeId, NodeRow, Page, Topic,
    backplane::{Backplane, EventReceiver},
    node::{Action, Node, NodeConfig, PresenceUpdate, Size, Subscribe},
    protocol::Ending,
};

/// Topics that the engine is asked for at the same time. Raised, it is a task for each while they are asked for.
const MAX_INTERESTS: usize = 256;

/// What sessions want of a shard.
#[derive(Debug)]
pub(super) enum Command {
    Connect(ConnectionId, SocketOutlet),
    /// Told when it was taken, so that a session has one at a time.
    Subscribe(Subscribe, oneshot::Sender<()>),
    /// Whether it was subscribed.
    Unsubscribe(ConnectionId, Topic, oneshot::Sender<bool>),
    Disconnect(ConnectionId),
    Size(oneshot::Sender<Size>),
    Topics(oneshot::Sender<Vec<(Topic, usize)>>),
}

/// What was done for a node.
enum Outcome {
    /// Whether the engine delivers it now.
    Subscribed(Topic, bool),
    Page(u64, Result<Page, BackplaneError>),
    Room(ConnectionId),
    /// Whether the engine still had what it was told before.
    PresenceTold(bool),
    Rows(Topic, Option<Vec<NodeRow>>),
}

/// A topic that the engine is to deliver, or not any more.
struct Interest {
    topic: Topic,
    is_wanted: bool,
}

/// A hub's handle of a shard.
#[derive(Clone)]
pub(super) struct ShardHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) backplane: Arc<dyn Backplane>,
    /// The backplane is away.
    pub(super) is_cut_off: Arc<AtomicBool>,
}

struct Shard {
    node: Node<SocketOutlet>,
    backplane: Arc<dyn Backplane>,
    outlets: HashMap<ConnectionId, SocketOutlet>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    interests: mpsc::UnboundedSender<Interest>,
    news: mpsc::UnboundedSender<News>,
    /// The engine was told who is here.
    has_rows: Arc<AtomicBool>,
    rules: Rules,
    is_cut_off: Arc<AtomicBool>,
}

/// Starts a shard, which runs until its handles are gone.
///
/// # Panics
/// Outside a tokio runtime.
pub(super) fn start(
    config: NodeConfig,
    rules: Rules,
    backplane: Arc<dyn Backplane>,
    events: EventReceiver,
) -> ShardHandle {
    let (commands, received) = mpsc::unbounded_channel();
    let (outcomes, done) = mpsc::unbounded_channel();
    let (interests, interested) = mpsc::unbounded_channel();
    let (news, told) = mpsc::unbounded_channel();
    tokio::spawn(presence::publish_news(Arc::clone(&backplane), Arc::clone(&rules), told));
    let shard = Shard {
        node: Node::new(config, now()),
        backplane: Arc::clone(&backplane),
        outlets: HashMap::new(),
        outcomes: outcomes.clone(),
        interests,
        news,
        has_rows: Arc::default(),
        rules,
        is_cut_off: Arc::default(),
    };
    let is_cut_off = Arc::clone(&shard.is_cut_off);
    tokio::spawn(keep_interests(Arc::clone(&backplane), interested, outcomes));
    tokio::spawn(shard.run(received, events, done));
    ShardHandle { commands, backplane, is_cut_off }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Shard {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut events: EventReceiver,
        mut outcomes: mpsc::UnboundedReceiver<Outcome>,
    ) {
        loop {
            let timeout = self.node.poll_timeout().map(Instant::from_std);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                Some(event) = events.recv() => self.handle_event(event),
                Some(outcome) = outcomes.recv() => self.handle_outcome(outcome),
                () = tokio::time::sleep_until(timeout.unwrap_or_else(Instant::now)), if timeout.is_some() => {
                    self.node.handle_timeout(now());
                }
            }
            self.act();
        }
    }

    fn handle_event(&mut self, event: Event) {
        if matches!(event, Event::Up | Event::Down) {
            self.is_cut_off.store(event == Event::Down, Ordering::Relaxed);
        }
        self.node.handle_event(event, now());
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Connect(id, outlet) => {
                self.outlets.insert(id, outlet.clone());
                self.node.connect(id, outlet);
            }
            Command::Subscribe(subscribe, taken) => {
                self.node.subscribe(subscribe, now());
                let _ = taken.send(());
            }
            Command::Unsubscribe(id, topic, done) => {
                let _ = done.send(self.node.unsubscribe(id, &topic, now()));
            }
            Command::Disconnect(id) => {
                self.outlets.remove(&id);
                self.node.disconnect(id, now());
            }
            Command::Size(answer) => {
                let _ = answer.send(self.node.size());
            }
            Command::Topics(answer) => {
                let _ = answer.send(self.node.topics());
            }
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Subscribed(topic, is_delivered) => {
                self.node.handle_subscribed(&topic, is_delivered, now());
            }
            Outcome::Page(ticket, result) => self.node.handle_page(ticket, result, now()),
            Outcome::Room(id) => self.node.handle_room(id, now()),
            Outcome::PresenceTold(is_kept) => self.node.handle_presence_told(is_kept, now()),
            Outcome::Rows(topic, rows) => self.node.handle_rows(&topic, rows, now()),
        }
    }

    /// Has done what the node says.
    fn act(&mut self) {
        for action in self.node.take_actions() {
            match action {
                Action::Subscribe(topic) => drop(self.interests.send(Interest { topic, is_wanted: true })),
                Action::Unsubscribe(topic) => drop(self.interests.send(Interest { topic, is_wanted: false })),
                Action::Read { ticket, topic, after, max } => {
                    let (backplane, outcomes) = (Arc::clone(&self.backplane), self.outcomes.clone());
                    tokio::spawn(async move {
                        let page = backplane.read(&topic, after, max).await;
                        let _ = outcomes.send(Outcome::Page(ticket, page));
                    });
                }
                Action::AwaitRoom(id) => self.await_room(id),
                Action::Close(id) => {
                    if let Some(outlet) = self.outlets.get(&id) {
                        outlet.end(Ending::TooSlow);
                    }
                }
                Action::TellPresence(update) => self.tell_presence(update),
                Action::ReadRows(topic) => self.read_rows(topic),
                Action::TellGone { topic, member, node, lease } => self.tell_gone(topic, member, node, lease),
            }
        }
    }

    fn tell_presence(&self, update: PresenceUpdate) {
        let (backplane, outcomes) = (Arc::clone(&self.backplane), self.outcomes.clone());
        let (news, has_rows) = (self.news.clone(), Arc::clone(&self.has_rows));
        tokio::spawn(async move {
            tokio::select! {
                (is_kept, told) = presence::keep(&*backplane, update, &has_rows) => {
                    let _ = news.send(told);
                    let _ = outcomes.send(Outcome::PresenceTold(is_kept));
                }
                () = outcomes.closed() => {}
            }
        });
    }

    fn tell_gone(&self, topic: Topic, member: Member, node: NodeId, lease: u32) {
        let (backplane, rules) = (Arc::clone(&self.backplane), Arc::clone(&self.rules));
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = presence::tell_gone(&*backplane, &rules, &topic, member, node, lease) => {}
                () = outcomes.closed() => {}
            }
        });
    }

    fn read_rows(&self, topic: Topic) {
        let (backplane, outcomes) = (Arc::clone(&self.backplane), self.outcomes.clone());
        tokio::spawn(async move {
            let rows = backplane.presence(&topic).await.ok();
            let _ = outcomes.send(Outcome::Rows(topic, rows));
        });
    }

    fn await_room(&self, id: ConnectionId) {
        let Some(socket) = self.outlets.get(&id).map(|outlet| outlet.socket.clone()) else { return };
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            socket.writable().await;
            drop(socket);
            let _ = outcomes.send(Outcome::Room(id));
        });
    }
}

/// Asks the engine for topics and gives them up: many at once, and those of one topic one after the other, so that it
/// ends as the node means it. A backplane that panics does not deliver the topic, and is asked again.
async fn keep_interests(
    backplane: Arc<dyn Backplane>,
    mut interests: mpsc::UnboundedReceiver<Interest>,
    outcomes: mpsc::UnboundedSender<Outcome>,
) {
    let mut asking = JoinSet::new();
    // What the engine is being asked, and by which task.
    let mut asked: HashMap<task::Id, Interest> = HashMap::new();
    // The same topics, each with what is wanted next.
    let mut under_way: HashMap<Topic, Option<bool>> = HashMap::new();
    loop {
        let (topic, is_wanted) = tokio::select! {
            interest = interests.recv(), if under_way.len() < MAX_INTERESTS => {
                let Some(Interest { topic, is_wanted }) = interest else { return };
                if let Some(next) = under_way.get_mut(&topic) {
                    // Whatever was to come between has no meaning any more.
                    *next = Some(is_wanted);
                    continue;
                }
                (topic, is_wanted)
            }
            Some(ended) = asking.join_next_with_id() => {
                let (id, is_done) = ended.unwrap_or_else(|panic| (panic.id(), false));
                let Some(Interest { topic, is_wanted }) = asked.remove(&id) else { continue };
                if is_wanted {
                    let _ = outcomes.send(Outcome::Subscribed(topic.clone(), is_done));
                }
                match under_way.remove(&topic) {
                    Some(Some(is_wanted)) => (topic, is_wanted),
                    _ => continue,
                }
            }
        };
        under_way.insert(topic.clone(), None);
        let (backplane, about) = (Arc::clone(&backplane), topic.clone());
        let task = asking.spawn(async move {
            let (result, meaning) = if is_wanted {
                (backplane.subscribe(&about).await, "a topic is not delivered yet")
            } else {
                (backplane.unsubscribe(&about).await, "a topic that nobody hears is still delivered")
            };
            if let Err(error) = &result {
                tracing::debug!(topic = %about, %error, "{meaning}");
            }
            result.is_ok()
        });
        asked.insert(task.id(), Interest { topic, is_wanted });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use super::*;
    use crate::{
        Events, History, Memory, Outgoing, Position, PresenceRow,
        backplane::{BackplaneFuture, MemoryNode},
    };

    /// A backplane that panics when it is asked for a topic, so many times.
    struct Panics {
        left: AtomicUsize,
        memory: MemoryNode,
    }

    impl Backplane for Panics {
        fn publish<'b>(
            &'b self,
            topic: &'b Topic,
            outgoing: Outgoing,
            history: History,
        ) -> BackplaneFuture<'b, Position> {
            self.memory.publish(topic, outgoing, history)
        }

        fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
            let panics =
                self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            assert!(panics.is_err(), "as it is meant to");
            self.memory.subscribe(topic)
        }

        fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
            self.memory.unsubscribe(topic)
        }

        fn read<'b>(
            &'b self,
            topic: &'b Topic,
            after: Option<Position>,
            max: usize,
        ) -> BackplaneFuture<'b, Page> {
            self.memory.read(topic, after, max)
        }

        fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
            self.memory.lease(rows, ttl)
        }

        fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
            self.memory.presence(topic)
        }
    }

    #[tokio::test]
    async fn a_backplane_that_panics_for_hundreds_of_topics_is_asked_for_them_again() {
        const TOPICS: usize = 2 * MAX_INTERESTS;
        let (events, _receiver) = Events::channel(1);
        let panics = Panics { left: AtomicUsize::new(TOPICS), memory: Memory::new().node(events) };
        let (interests, interested) = mpsc::unbounded_channel();
        let (outcomes, mut done) = mpsc::unbounded_channel();
        tokio::spawn(keep_interests(Arc::new(panics), interested, outcomes));
        for is_delivered in [false, true] {
            for number in 0..TOPICS {
                let topic = Topic::new(format!("t{number}")).expect("it is a name");
                interests.send(Interest { topic, is_wanted: true }).expect("it is kept");
            }
            for _ in 0..TOPICS {
                let told = tokio::time::timeout(Duration::from_secs(10), done.recv()).await;
                let Ok(Some(Outcome::Subscribed(_, told))) = told else {
                    panic!("a topic was not told of");
                };
                assert_eq!(told, is_delivered);
            }
        }
    }
}
