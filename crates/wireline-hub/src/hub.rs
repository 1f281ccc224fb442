//! Topics for a server's connections.

mod outlet;
mod presence;
mod session;
mod shard;

use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, IntoFuture},
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{Semaphore, oneshot, watch};
use wireline::{Message, Request};

use self::{
    outlet::Counters,
    shard::{Command, ShardHandle},
};
use crate::{
    Backplane, BackplaneError, Client, Connect, ConnectionId, Content, Denied, Events, History, Identity,
    Member, Memory, Outgoing, Page, Position, PublicationId, Topic,
    authorize::Hooks,
    node::{NodeConfig, Size},
};

/// Events that may wait for a shard. Beyond, they are dropped and read again. Raised, it is memory while a shard is
/// busy.
const EVENT_QUEUE: usize = 4096;

/// Publications that may be on their way to the engine at the same time. Beyond, publishing fails at once.
const MAX_PUBLISHING: usize = 4096;

/// Attempts to publish when the engine does not answer, and the time between the first two; it is doubled each
/// time.
const PUBLISH_ATTEMPTS: (u32, Duration) = (5, Duration::from_millis(50));

/// What a hub does with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicRules {
    /// What is kept of it.
    pub history: History,
    /// Whether its subscribers are told who else is there. Off by default. That somebody came or went is a publication, and
    /// counts among those that are kept.
    pub presence: bool,
}

/// How topics' rules are found.
type Rules = Arc<dyn Fn(&Topic) -> TopicRules + Send + Sync>;

/// Topics for the connections of a [`wireline::Server`]: whoever subscribes to one hears what is published
/// there, everybody the same in the same order, and whoever lost the connection goes on where it was.
///
/// Cloning it is cheap. It runs in tasks of its own until the last clone and the last connection are gone.
///
/// ```
/// use wireline::{Request, Server};
/// use wireline_hub::Hub;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Hub::new();
/// let server = Server::new().on_request({
///     let hub = hub.clone();
///     move |req: Request| hub.clone().serve(req)
/// });
/// let listener = server.bind("127.0.0.1:0")?;
/// let url = format!("ws://{}/", listener.local_addr()?);
/// tokio::spawn(listener.serve());
///
/// let mut ws = wireline::connect(url).protocols(["hub.v1"]).await?;
/// ws.send(r#"{"op":"auth","id":1}"#).await?;
/// ws.send(r#"{"op":"sub","id":2,"t":"tea"}"#).await?;
/// # let mut answers = Vec::new();
/// # while answers.len() < 3 { answers.extend(ws.recv().await?); }
/// let position = hub.publish("tea", "it is ready").await?;
/// let heard = ws.recv().await?.expect("the connection is open");
/// assert_eq!(heard.to_string(), format!("{{\"t\":\"tea\",\"p\":\"{position}\"}}\nit is ready"));
/// # Ok(())
/// # }
/// ```
///
/// Without hooks anybody may subscribe to any topic, and only the server may publish. See [`HubBuilder`].
#[derive(Debug, Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<ShardHandle>,
    hasher: RandomState,
    rules: Rules,
    hooks: Hooks,
    counters: Arc<Counters>,
    /// How many there are.
    connections: watch::Sender<usize>,
    /// In what time all have to go.
    leaving: watch::Sender<Option<Duration>>,
    publishing: Semaphore,
    max_subscriptions: usize,
}

impl Hub {
    /// A hub of this process alone, with all defaults.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// A hub to be set up.
    #[must_use]
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// Accepts a request and speaks `hub.v1` with it until the connection is over: what a server's handler
    /// awaits. A client that does not offer `hub.v1` gets a 400.
    ///
    /// # Errors
    /// The request could not be accepted, or the connection ended without a closing handshake.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed and leaves all topics.
    pub async fn serve(self, request: Request) -> wireline::Result<()> {
        session::hub_v1::serve(self.inner, request).await
    }

    /// Accepts a request as a subscriber of one topic in raw mode: it gets the topic's messages as they were
    /// published, beginning with the `last` ones that are kept, and what it sends is published there, if the
    /// [publish hook](HubBuilder::on_publish) allows. Where messages may have been missed the connection is
    /// closed with 3001, since there are no words for that.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_topic(self, request: Request, topic: Topic, last: usize) -> wireline::Result<()> {
        session::raw::serve(self.inner, request, topic, last).await
    }

    /// Accepts a request and speaks Centrifugo's protocol in JSON with it, for npm `centrifuge` and other clients of that
    /// server: they subscribe, publish, ask for history and presence, and go on where they were after a lost connection.
    /// Route `/connection/websocket` here, which is where they look for it.
    ///
    /// ```
    /// use wireline::{Request, Server};
    /// use wireline_hub::Hub;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hub = Hub::new();
    /// let server = Server::new().route("/connection/websocket", {
    ///     let hub = hub.clone();
    ///     move |req: Request| hub.clone().serve_centrifugo(req)
    /// });
    /// let listener = server.bind("127.0.0.1:0")?;
    /// let url = format!("ws://{}/connection/websocket", listener.local_addr()?);
    /// tokio::spawn(listener.serve());
    ///
    /// let mut ws = wireline::connect(url).await?;
    /// ws.send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"tea\"}}").await?;
    /// # let mut answers = Vec::new();
    /// # while answers.len() < 2 { answers.extend(ws.recv().await?); }
    /// hub.publish("tea", r#"{"is":"ready"}"#).await?;
    /// let heard = ws.recv().await?.expect("the connection is open");
    /// assert!(heard.to_string().starts_with(r#"{"push":{"channel":"tea","pub":{"data":{"is":"ready"},"offset":1,"#));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # What there is of it
    /// - `connect` with a token, for the [connect hook](HubBuilder::on_connect), and `refresh` before its identity
    ///   [expires](Identity::expires_in), for the same user: then topics that it may not hear any more are taken from it. A token
    ///   that is refused ends the connection for good (3500), unless it is a JSON Web
    ///   Token that says itself that its time is over: then the client is to bring a new one (error 109).
    /// - `subscribe` is decided by the [subscribe hook](HubBuilder::on_subscribe) alone: tokens of subscriptions are not looked
    ///   at. Every subscription is positioned and recoverable. What was missed comes in publications behind the reply;
    ///   `recovered` is true only if that is all. A client must take the `epoch` of publications for that, as npm `centrifuge`
    ///   does from 5.6.0 on; another is told that it was not recovered. Where a reset comes in between, the subscription ends
    ///   with 2500, and the client subscribes again.
    /// - `publish`: what is published is the text of the JSON. A text that is JSON arrives as such, another as a string, and
    ///   bytes as `{"b64data": "..."}`, in base64.
    /// - `history` with `since`, `limit` and `reverse`; `presence`, `presence_stats`, and joins and leaves, of topics that
    ///   [tell who is there](TopicRules::presence): a member is a user, on however many connections, whose name stands for
    ///   `client`, too. A join or leave may be told again after a lost connection.
    /// - Not there: `rpc` and `send`, filters by tags, deltas, map subscriptions, subscriptions by the server, and so what is
    ///   [broadcast](Self::broadcast); the protocol in Protobuf.
    ///
    /// # Errors
    /// The request could not be accepted, or the connection ended without a closing handshake.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed and leaves all topics.
    pub async fn serve_centrifugo(self, request: Request) -> wireline::Result<()> {
        session::centrifugo::serve(self.inner, request).await
    }

    /// Publishes to a topic: await the builder for the position.
    pub fn publish<T>(&self, topic: T, message: impl Into<Message>) -> Publish
    where
        T: TryInto<Topic>,
        T::Error: Into<PublishError>,
    {
        Publish {
            hub: Arc::clone(&self.inner),
            topic: topic.try_into().map_err(Into::into),
            outgoing: Outgoing {
                id: PublicationId::random(),
                content: Content::Message(message.into()),
                except: None,
            },
        }
    }

    /// Publishes to all connections that speak `hub.v1`, on all nodes: they get it as the topic `$all`.
    pub fn broadcast(&self, message: impl Into<Message>) -> Publish {
        self.publish(Topic::everyone(), message)
    }

    /// Who is at a topic, on all nodes, in order of their names.
    ///
    /// # Errors
    /// The backplane did not answer.
    pub async fn presence(&self, topic: &Topic) -> Result<Vec<Member>, BackplaneError> {
        self.inner.presence(topic).await
    }

    /// The newest publications of a topic, at most `max` of those that are kept.
    ///
    /// # Errors
    /// The backplane did not answer.
    pub async fn history(&self, topic: &Topic, max: usize) -> Result<Page, BackplaneError> {
        self.inner.shard(topic).backplane.read(topic, None, max).await
    }

    /// The topics that somebody hears on this node, or did a moment ago, in order of their names, each with its
    /// subscribers here.
    pub async fn topics(&self) -> Vec<(Topic, usize)> {
        let mut topics = Vec::new();
        for shard in &self.inner.shards {
            let (answer, found) = oneshot::channel();
            let _ = shard.commands.send(Command::Topics(answer));
            topics.extend(found.await.unwrap_or_default());
        }
        topics.sort_unstable();
        topics
    }

    /// Whether its backplane is there: what a load balancer wants to know.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.inner.shards.iter().any(|shard| shard.is_cut_off.load(Ordering::Relaxed))
    }

    /// Sends all clients away, one by one over that time, so that they come back to other nodes and go on where they
    /// were: with `bye`, and 3004. Who comes meanwhile gets a 503. It is ready when all have gone, and 5 seconds after
    /// that time at the latest; how many are left is said. What remains is to shut down the server.
    ///
    /// # Cancel safety
    /// Dropped early, what it began goes on.
    pub async fn drain(&self, over: Duration) -> usize {
        const FAREWELL: Duration = Duration::from_secs(5);
        self.inner.leaving.send_replace(Some(over));
        let mut connections = self.inner.connections.subscribe();
        let gone = connections.wait_for(|count| *count == 0);
        let _ = tokio::time::timeout(over.saturating_add(FAREWELL), gone).await;
        *self.inner.connections.borrow()
    }

    /// How large it is, and what it has done.
    pub async fn stats(&self) -> HubStats {
        let mut stats = HubStats {
            connections: *self.inner.connections.borrow(),
            publications: self.inner.counters.publications.load(Ordering::Relaxed),
            frames: self.inner.counters.frames.load(Ordering::Relaxed),
            deliveries: self.inner.counters.deliveries.load(Ordering::Relaxed),
            ..HubStats::default()
        };
        for shard in &self.inner.shards {
            let (answer, size) = oneshot::channel();
            let _ = shard.commands.send(Command::Size(answer));
            if let Ok(Size { topics, lagging, queued, .. }) = size.await {
                stats.topics += topics;
                stats.lagging += lagging;
                stats.queued += queued;
            }
        }
        stats
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

/// What a hub has, and has done, on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HubStats {
    /// Connections, of all protocols.
    pub connections: usize,
    /// What was published by this node and its connections.
    pub publications: u64,
    /// Topics that somebody hears, or did a moment ago.
    pub topics: usize,
    /// Subscriptions that are behind, because their connections do not read as fast as their topics go.
    pub lagging: usize,
    /// Bytes that waited in connections' queues when those were last given something.
    pub queued: usize,
    /// Frames that were made of publications: one for each and for each protocol that is spoken.
    pub frames: u64,
    /// Frames that were queued for connections.
    pub deliveries: u64,
}

impl Inner {
    fn is_leaving(&self) -> bool {
        self.leaving.borrow().is_some()
    }

    fn shard_of(&self, topic: &Topic) -> usize {
        let hash = self.hasher.hash_one(topic);
        // A remainder of a number of shards is one of them.
        usize::try_from(hash % self.shards.len() as u64).unwrap_or_default()
    }

    fn shard(&self, topic: &Topic) -> &ShardHandle {
        &self.shards[self.shard_of(topic)]
    }

    async fn presence(&self, topic: &Topic) -> Result<Vec<Member>, BackplaneError> {
        let rows = self.shard(topic).backplane.presence(topic).await?;
        let members: BTreeSet<Member> = rows.into_iter().flat_map(|row| row.members).collect();
        Ok(members.into_iter().collect())
    }

    async fn publish(&self, topic: &Topic, outgoing: Outgoing) -> Result<Position, BackplaneError> {
        let Ok(_permit) = self.publishing.try_acquire() else {
            return Err(BackplaneError::Unavailable("too much is being published".into()));
        };
        let backplane = &self.shard(topic).backplane;
        let history = (self.rules)(topic).history;
        let (attempts, mut pause) = PUBLISH_ATTEMPTS;
        let mut published = backplane.publish(topic, outgoing.clone(), history).await;
        for _ in 1..attempts {
            let Err(BackplaneError::Unknown(_)) = &published else { break };
            tokio::time::sleep(pause).await;
            pause *= 2;
            // It may have happened: with the same id it is safe to ask again.
            match backplane.publish(topic, outgoing.clone(), history).await {
                // This attempt did not, the one before may have.
                Err(BackplaneError::Unavailable(_)) => {}
                result => published = result,
            }
        }
        if published.is_ok() {
            self.counters.publications.fetch_add(1, Ordering::Relaxed);
        }
        published
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("shards", &self.shards.len()).field("hooks", &self.hooks).finish()
    }
}

/// A publication to be awaited; see [`Hub::publish`].
#[derive(Debug)]
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    hub: Arc<Inner>,
    topic: Result<Topic, PublishError>,
    outgoing: Outgoing,
}

impl Publish {
    /// Leaves out one connection: most often the one that it came from. Coming back after a loss it may hear
    /// it after all.
    pub fn except(mut self, connection: ConnectionId) -> Self {
        self.outgoing.except = Some(connection);
        self
    }

    /// Makes a second attempt known as one: within two minutes, the same key on the same topic is published
    /// once.
    pub fn key(mut self, key: &str) -> Self {
        self.outgoing.id = PublicationId::new(format!("s:{key}"));
        self
    }
}

impl IntoFuture for Publish {
    type Output = Result<Position, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.hub.publish(&self.topic?, self.outgoing).await?) })
    }
}

/// Why something was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The caller's fault: there is no such topic.
    #[error(transparent)]
    Topic(#[from] crate::InvalidTopic),
    /// The backplane did not take it.
    #[error(transparent)]
    Backplane(#[from] BackplaneError),
}

impl From<std::convert::Infallible> for PublishError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A hub to be set up.
///
/// ```
/// use wireline_hub::{Denied, History, Hub, Member, Topic, TopicRules};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let hub = Hub::builder()
///     .topics(|topic| TopicRules {
///         history: if topic.starts_with("log:") { History::messages(1000) } else { History::NONE },
///         presence: topic.starts_with("chat:"),
///     })
///     .on_connect(|connect| async move {
///         // A real one checks the token.
///         connect.token.map(|token| Some(Member::new(token))).ok_or(Denied)
///     })
///     .on_subscribe(|client, topic| async move {
///         let own = format!("user:{}", client.user().map_or("", Member::name));
///         if topic.starts_with("user:") && *topic != *own { Err(Denied) } else { Ok(()) }
///     })
///     .on_publish(|_, topic| async move { if topic.starts_with("chat:") { Ok(()) } else { Err(Denied) } })
///     .start();
/// # let _: Topic = "chat:1".parse().unwrap();
/// # drop(hub);
/// # }
/// ```
#[derive(Clone)]
pub struct HubBuilder {
    node: NodeConfig,
    rules: Rules,
    hooks: Hooks,
    shards: usize,
    max_subscriptions: usize,
    backplane: MakeBackplane,
}

type MakeBackplane = Arc<dyn Fn(Events) -> Arc<dyn Backplane> + Send + Sync>;

impl Default for HubBuilder {
    fn default() -> Self {
        let memory = Memory::new();
        Self {
            node: NodeConfig::default(),
            rules: Arc::new(|_| TopicRules::default()),
            hooks: Hooks::default(),
            shards: std::thread::available_parallelism().map_or(1, usize::from).min(8),
            max_subscriptions: 1000,
            backplane: Arc::new(move |events| Arc::new(memory.node(events))),
        }
    }
}

impl HubBuilder {
    /// What is kept of each topic, and whether it tells who is there. It must say the same of a topic each time,
    /// and on each node. By default 100 messages are kept for 5 minutes, and it is not told who is there.
    #[must_use]
    pub fn topics(mut self, rules: impl Fn(&Topic) -> TopicRules + Send + Sync + 'static) -> Self {
        self.rules = Arc::new(rules);
        self
    }

    /// Says who connects, by the request and the token, or that it may not. By default anybody may, as nobody in
    /// particular.
    #[must_use]
    pub fn on_connect<F, A, I>(mut self, hook: F) -> Self
    where
        F: Fn(Connect) -> A + Send + Sync + 'static,
        A: Future<Output = Result<I, Denied>> + Send + 'static,
        I: Into<Identity>,
    {
        self.hooks.on_connect(hook);
        self
    }

    /// Says whether a client may hear a topic, and know who else does. By default it may.
    #[must_use]
    pub fn on_subscribe<F, A>(mut self, hook: F) -> Self
    where
        F: Fn(Client, Topic) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        self.hooks.on_subscribe(hook);
        self
    }

    /// Says whether a client may publish to a topic. By default it may not.
    #[must_use]
    pub fn on_publish<F, A>(mut self, hook: F) -> Self
    where
        F: Fn(Client, Topic) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        self.hooks.on_publish(hook);
        self
    }

    /// Sets the limits of a node, which each shard is one of: its share of
    /// [`queue_budget`](NodeConfig::queue_budget) is counted out to each.
    #[must_use]
    pub fn node(mut self, config: NodeConfig) -> Self {
        self.node = config;
        self
    }

    /// Sets how many tasks share the topics. By default as many as the machine has processors, and at most 8.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.max(1);
        self
    }

    /// Sets how many topics one connection may subscribe to. By default 1,000. Raised, it is memory for each
    /// connection that does.
    #[must_use]
    pub fn max_subscriptions(mut self, topics: usize) -> Self {
        self.max_subscriptions = topics;
        self
    }

    /// Sets what orders and carries publications: called once for each shard, with where it tells what it
    /// hears. By default a [`Memory`] of this hub's own.
    ///
    /// ```
    /// use wireline_hub::{Hub, Memory};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Two nodes in one process, as tests have them.
    /// let memory = Memory::new();
    /// let node = |memory: Memory| Hub::builder().backplane(move |events| memory.node(events)).start();
    /// let (one, other) = (node(memory.clone()), node(memory));
    /// one.publish("tea", "it is ready").await?;
    /// assert_eq!(other.history(&"tea".parse()?, 10).await?.items.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn backplane<B: Backplane>(mut self, make: impl Fn(Events) -> B + Send + Sync + 'static) -> Self {
        self.backplane = Arc::new(move |events| Arc::new(make(events)));
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(self) -> Hub {
        let mut config = self.node;
        config.queue_budget /= self.shards;
        let shard = || {
            let (events, receiver) = Events::channel(EVENT_QUEUE);
            shard::start(config.clone(), Arc::clone(&self.rules), (self.backplane)(events), receiver)
        };
        let inner = Inner {
            shards: std::iter::repeat_with(shard).take(self.shards).collect(),
            hasher: RandomState::new(),
            rules: Arc::clone(&self.rules),
            hooks: self.hooks,
            counters: Arc::default(),
            connections: watch::Sender::default(),
            leaving: watch::Sender::default(),
            publishing: Semaphore::new(MAX_PUBLISHING),
            max_subscriptions: self.max_subscriptions,
        };
        Hub { inner: Arc::new(inner) }
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder")
            .field("node", &self.node)
            .field("hooks", &self.hooks)
            .field("shards", &self.shards)
            .field("max_subscriptions", &self.max_subscriptions)
            .finish_non_exhaustive()
    }
}
