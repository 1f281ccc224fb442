//! A client of `hub.v1`: topics over one connection, which comes back by itself and goes on where it was.
//! With the feature `client`, which is on by default: it needs nothing that the hub has not.
//!
//! ```no_run
//! use wireline_hub::client::{Client, Event};
//!
//! # async fn example() -> Result<(), wireline_hub::client::ClientError> {
//! let client = Client::connect("wss://example.com/hub").token(|| async { Ok("ann's token".into()) }).await?;
//! let mut tea = client.subscribe("tea").await?;
//! client.publish("tea", "is there any left?").await?;
//! while let Some(event) = tea.recv().await? {
//!     match event {
//!         Event::Message { message, .. } => println!("{message}"),
//!         Event::Join { member, .. } => println!("{} is here", member.name()),
//!         Event::Leave { member, .. } => println!("{} has left", member.name()),
//!         Event::Reset { .. } => println!("something may be missing here"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! Whatever happens to connections, and to the servers behind them: a [`Subscription`] gives all that is published, in
//! the topic's one order, nothing twice, and a [`Event::Reset`] where that cannot be proved. What
//! [`publish`](Client::publish) answers with a position was published once.
//!
//! # Limits
//!
//! A subscription's queue has 256 events ([`Subscribe::capacity`]) or 1 MiB of payload. Who does not read it holds up
//! nobody: what finds no room is dropped, and read again from the server when the queue is half empty. Beyond the
//! topic's history that is a reset. At most 4 MiB of what is published wait for their answers, each counted as 4 KiB
//! at least; then `publish` waits.
//!
//! # Cancel safety
//!
//! | dropped early | what becomes of it |
//! |---|---|
//! | `subscription.recv()` | nothing is lost or doubled: the next call gives it |
//! | `client.publish(..)` | what was handed over is published all the same, as long as a handle of the client is there |
//! | `client.subscribe(..)` | the subscription is given up |
//! | `client.presence(..)` | nobody hears the answer |
//! | the connecting future | the client ends |
//! | a [`Subscription`] | the topic is unsubscribed |
//! | the last [`Client`] and [`Subscription`] | the connection is closed with 1000, and the client ends |

mod dialogue;
mod error;
mod queue;
mod subscription;
mod task;
mod wire;

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wireline::{Backoff, Loss, Message};

use self::{
    dialogue::{Answer, Publishing},
    queue::Queue,
    task::{Connections, Status},
};
pub use self::{
    error::ClientError,
    subscription::{Event, Subscribe, Subscription},
};
use crate::{Member, Position, Topic};

/// Bytes that may be on their way to the server without an answer. Raised, it is memory while the server is away.
const PUBLISHING_LIMIT: u32 = 4 << 20;

/// What a request counts for at least: 1,024 of them may wait.
const LEAST_COST: u32 = 4 << 10;

/// Why there is no token, in the application's words.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

type Token = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;
type AskToken = Arc<dyn Fn() -> Token + Send + Sync>;
type OnLoss = Arc<dyn Fn(Loss<'_>, Duration) + Send + Sync>;
type Options = Arc<dyn Fn(wireline::Connect) -> wireline::Connect + Send + Sync>;
type Answering<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

/// A client of a hub: see the [module](self). Cloning it is cheap, and its clones share one connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Status>,
    publishing: Arc<Semaphore>,
    next_key: AtomicU64,
}

/// What handles want of the client's task.
enum Command {
    Subscribe {
        topic: Topic,
        feed: dialogue::Feed,
    },
    /// The subscription of this key.
    Unsubscribe {
        topic: Topic,
        key: u64,
    },
    CatchUp {
        topic: Topic,
        key: u64,
    },
    /// To what is broadcast.
    Listen {
        key: u64,
        queue: Arc<Queue>,
    },
    Publish(Publishing),
    Who {
        topic: Topic,
        answer: Answer<Vec<Member>>,
    },
    Close,
}

impl Client {
    /// A client of the hub at a `ws://` or `wss://` URL: await the builder.
    pub fn connect(url: impl Into<String>) -> ConnectClient {
        ConnectClient { url: url.into(), token: None, options: None, backoff: None, on_loss: None }
    }

    /// Hears a topic: await the builder for the [`Subscription`]. Of one topic a client has one at a time.
    pub fn subscribe<T>(&self, topic: T) -> Subscribe
    where
        T: TryInto<Topic>,
        T::Error: Into<ClientError>,
    {
        Subscribe::new(Arc::clone(&self.shared), topic.try_into().map_err(Into::into))
    }

    /// Hears what is [broadcast](crate::Hub::broadcast) to all clients from now on, in the one order that it has. A client
    /// gets it without asking, so nothing is waited for; there may be any number of these. Who does not read gets a
    /// [`Event::Reset`] instead of what finds no room: it is not read again.
    #[must_use]
    pub fn broadcasts(&self) -> Subscription {
        Subscription::to_broadcasts(Arc::clone(&self.shared))
    }

    /// Publishes to a topic: await the builder for the position. Without a connection it waits for one. Sent again
    /// after a loss it is known by its key, and published once. What one task publishes without waiting keeps its
    /// order.
    pub fn publish<T>(&self, topic: T, message: impl Into<Message>) -> Publish
    where
        T: TryInto<Topic>,
        T::Error: Into<ClientError>,
    {
        Publish {
            shared: Arc::clone(&self.shared),
            topic: topic.try_into().map_err(Into::into),
            message: message.into(),
            key: None,
            echo: true,
        }
    }

    /// Who is at a topic, in order of their names. Without a connection it waits for one.
    ///
    /// # Errors
    /// The server refused, or the client ended.
    pub async fn presence<T>(&self, topic: T) -> Result<Vec<Member>, ClientError>
    where
        T: TryInto<Topic>,
        T::Error: Into<ClientError>,
    {
        let topic = topic.try_into().map_err(Into::into)?;
        self.shared.ask(LEAST_COST, |answer| Command::Who { topic, answer }).await
    }

    /// Returns as soon as the client is connected and the server believes who it is; at once if that is so.
    ///
    /// # Errors
    /// The client ended: the reason lasts, or [`Backoff::max_attempts`] attempts failed.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn opened(&self) -> Result<(), ClientError> {
        let mut status = self.shared.status.clone();
        let status = status.wait_for(|status| !matches!(status, Status::Away)).await.map(|it| it.clone());
        match status {
            Ok(Status::Open) => Ok(()),
            _ => Err(self.shared.why()),
        }
    }

    /// Ends the client and its clones: the connection is closed with 1000, subscriptions end, and what has no answer
    /// yet gets [`ClientError::Ended`]. Returns when it is over.
    ///
    /// # Cancel safety
    /// Dropped, it is closed all the same.
    pub async fn close(&self) {
        let _ = self.shared.commands.send(Command::Close);
        self.shared.commands.closed().await;
    }
}

impl Shared {
    /// Has something asked that counts as so much, and waits for the answer.
    async fn ask<T>(&self, cost: u32, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, ClientError> {
        let permits = Arc::clone(&self.publishing);
        let permit = permits.acquire_many_owned(cost.clamp(LEAST_COST, PUBLISHING_LIMIT)).await;
        let permit = permit.map_err(|_| self.why())?;
        let (sender, answered) = oneshot::channel();
        self.send(command(Answer::new(sender, Some(permit))))?;
        answered.await.unwrap_or_else(|_| Err(self.why()))
    }

    fn send(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).map_err(|_| self.why())
    }

    /// Why the client ended.
    fn why(&self) -> ClientError {
        match &*self.status.borrow() {
            Status::Ended(error) => error.clone(),
            // Its runtime is gone, and its task with it.
            Status::Away | Status::Open => ClientError::Ended,
        }
    }

    /// What tells a subscription from an earlier one of the same topic.
    fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("status", &*self.shared.status.borrow()).finish_non_exhaustive()
    }
}

/// A client to be connected; see [`Client::connect`]. Awaited, it gives the client when the server has taken it for
/// whoever it says it is, and an error only if the reason lasts; [`start`](Self::start) does not wait.
#[must_use = "nothing happens until it is awaited or started"]
#[derive(Clone)]
pub struct ConnectClient {
    url: String,
    token: Option<AskToken>,
    options: Option<Options>,
    backoff: Option<Backoff>,
    on_loss: Option<OnLoss>,
}

impl ConnectClient {
    /// Says who this is: asked before each attempt to connect, for tokens that expire. An error of it is an attempt
    /// that failed, and followed by another.
    pub fn token<F, A>(mut self, ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        self.token = Some(Arc::new(move || Box::pin(ask())));
        self
    }

    /// Sets how each attempt connects: TLS, headers, a proxy, limits. The subprotocol is set afterwards.
    ///
    /// ```
    /// use wireline_hub::client::Client;
    ///
    /// let connect = Client::connect("wss://example.com/hub").with(|connect| connect.header("Cookie", "id=1"));
    /// ```
    pub fn with(
        mut self,
        set: impl Fn(wireline::Connect) -> wireline::Connect + Send + Sync + 'static,
    ) -> Self {
        self.options = Some(Arc::new(set));
        self
    }

    /// Sets how long to wait before each further attempt. By default as the server wants it: half a second at first,
    /// 20 s at most, with full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Is told of each loss after which there is another attempt, with the wait before that: for a log.
    pub fn on_loss(mut self, handler: impl Fn(Loss<'_>, Duration) + Send + Sync + 'static) -> Self {
        self.on_loss = Some(Arc::new(handler));
        self
    }

    /// Starts the client without waiting for its connection: what is asked of it waits for that.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(self) -> Client {
        let (commands, received) = mpsc::unbounded_channel();
        let (told, status) = watch::channel(Status::Away);
        let publishing = Arc::new(Semaphore::new(PUBLISHING_LIMIT as usize));
        let connections = Connections::new(self);
        tokio::spawn(task::run(connections, received, told, Arc::clone(&publishing)));
        Client { shared: Arc::new(Shared { commands, status, publishing, next_key: AtomicU64::new(0) }) }
    }
}

impl IntoFuture for ConnectClient {
    type Output = Result<Client, ClientError>;
    type IntoFuture = Answering<Client>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let client = self.start();
            client.opened().await.map(|()| client)
        })
    }
}

impl fmt::Debug for ConnectClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectClient")
            .field("url", &self.url)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

/// A publication to be awaited; see [`Client::publish`].
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    shared: Arc<Shared>,
    topic: Result<Topic, ClientError>,
    message: Message,
    key: Option<String>,
    echo: bool,
}

impl Publish {
    /// Makes a second attempt known as one, within two minutes of the first. By default each has 128 random bits of
    /// its own. A key of fewer than 22 bytes counts for a user whom the server knows; of anybody else it holds on one
    /// connection, so that after a loss it is not sent again ([`ClientError::Unknown`]).
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Does not give it to this client's own subscription. Coming back after a loss it may hear it after all.
    pub fn without_echo(mut self) -> Self {
        self.echo = false;
        self
    }
}

impl IntoFuture for Publish {
    type Output = Result<Position, ClientError>;
    type IntoFuture = Answering<Position>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { shared, topic, message, key, echo } = self;
            let topic = topic?;
            let cost = u32::try_from(message.len()).unwrap_or(u32::MAX);
            let publish = |answer| Command::Publish(Publishing::new(topic, message, key, echo, answer));
            shared.ask(cost, publish).await
        })
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("topic", &self.topic).field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a client makes of a message from its server, whatever that is: before it is believed, and behind.
#[cfg(feature = "testing")]
pub(crate) fn hear_anything(message: Message) {
    let now = std::time::Instant::now();
    let mut dialogue = dialogue::Dialogue::new(|| 0.5);
    dialogue.open(None, now);
    dialogue.receive(message.clone(), now);
    dialogue.receive(r#"{"re":1,"conn":"1","ping":25,"retry":[500,20000]}"#.into(), now);
    dialogue.receive(message, now);
    dialogue.handle_timeout(now);
}
