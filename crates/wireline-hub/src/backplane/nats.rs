//! The backplane over NATS with JetStream.

mod envelope;
mod gate;
mod hearing;
mod link;
mod names;
mod origin;
mod reading;
mod rows;
mod store;
mod streams;

use std::{
    collections::HashMap,
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{
    ConnectOptions, HeaderMap, Message, Subscriber,
    jetstream::{self, ErrorCode, publish::PublishAck, response::Response, stream::Config},
};
use bytes::Bytes;
use futures_core::Stream;
use tokio::task::JoinHandle;

use self::{
    gate::Gate,
    hearing::Hearing,
    link::{Change, Link},
    names::{Names, message_id},
    rows::Lease,
    store::Store,
};
use super::{Backplane, BackplaneError, BackplaneFuture, Event, Events, NodeId, NodeRow, Page, PresenceRow};
use crate::{History, Outgoing, Position, Topic, entropy};

/// Room for what stands before a payload in a message. A publication's largest payload is by so much smaller than the
/// broker's.
const HEADERS: usize = 4096;

/// Messages of one topic that the client holds for its task. Beyond, they are dropped, and read again. Raised, it is
/// memory for each topic when a node is busy.
const HEARING: usize = 1024;

/// Between attempts to find or make streams, while a broker comes up.
const ENSURE_AGAIN: Duration = Duration::from_millis(500);

/// The header by which the broker knows a second attempt.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// A place at a NATS broker with JetStream, shared by the shards of a hub. Cloning it is cheap.
///
/// # What it does there
/// With the prefix `hub`, what is published to a topic goes to the subject `hub.keep.<topic>`, whose stream `hub-keep` gives
/// it its place and republishes it at `hub.out.<topic>`, where the nodes hear it. Topics without history take the
/// same way through the stream `hub-pass`, which is in the broker's memory and has the last publication of each: so
/// they too have one order, and each publication names its predecessor. Who is present is in the KV buckets `hub-rows`
/// and `hub-leases-<milliseconds>`. Streams that are there already are taken as they are set up.
///
/// The streams are found, or made, when connecting and whenever a connection was lost. The broker's user needs to be
/// permitted `hub.>`, `$KV.hub-*.>`, `$JS.API.>` and `_INBOX.>`. What it may not publish is answered with
/// [`BackplaneError::Denied`]; topics that it may not hear are only read, every 15 seconds.
///
/// # How history is limited
/// A stream's limits are those of all its topics: [`max_messages`](ConnectNats::max_messages) of each topic,
/// [`max_bytes`](ConnectNats::max_bytes) of all together, and [`max_age`](ConnectNats::max_age). They are upper bounds. The
/// limits of a topic's [`History`] travel with its publications, and are kept to when a topic is read: what they do
/// not allow is not given out, though the broker still has it. Who reads a page at a time may get more: it is the page
/// that is looked at. Ages are measured by the broker's clock and the reading machine's, which should agree.
///
/// Without a subject by itself for each class of limits there is one order for all topics, and one stream for a broker
/// to look after; the price is disk, bounded by `max_bytes`.
///
/// # What may be lost, and is told
/// - A topic that is silent for longer than `max_age` is forgotten: its subscribers get a reset.
/// - What is in memory, the places of topics without history and who is present, ends with the broker if it has no
///   replicas: resets, and members that are told anew.
/// - A broker that loses power may lose what it had not synced, two minutes by default: a reset. Its setting
///   `sync_interval: always` prevents that.
/// - In a cluster other servers may hear of a subscription late. What is missed so is found by the next publication, or
///   by the check of silent topics.
/// - A second attempt to publish to a topic without history, after others published there, is answered with the right
///   offset and a mark that proves nothing.
///
/// # Liveness
/// One connection carries requests, another one deliveries, so that a flood of these does not hold up those. Each says
/// something to itself every 5 seconds. If it does not hear that within 5 seconds it is made anew, so that a
/// connection which is dead without a word is out of use for 10 seconds, and then the time of the way to a broker that
/// answers. While it is away all fails at once, with [`BackplaneError::Unavailable`].
///
/// # Versions
/// Any server from 2.9 on.
///
/// ```no_run
/// use wireline_hub::{Hub, Nats};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let nats = Nats::connect("nats://127.0.0.1:4222").await?;
/// let hub = Hub::builder().backplane(move |events| nats.node(events)).start();
/// # drop(hub);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Nats {
    engine: Arc<Engine>,
    /// Ends with the last clone and node.
    tasks: Arc<Tasks>,
}

/// One node's place at a [`Nats`].
#[derive(Debug)]
pub struct NatsNode {
    engine: Arc<Engine>,
    tasks: Arc<Tasks>,
    id: NodeId,
    events: Events,
    hearing: Mutex<HashMap<Topic, Hearing>>,
    lease: Arc<Lease>,
}

/// A connection to be made; await it. See [`Nats::connect`].
#[derive(Clone)]
#[must_use = "nothing is connected until it is awaited"]
pub struct ConnectNats {
    servers: String,
    options: ConnectOptions,
    prefix: String,
    limits: Limits,
}

/// Limits of streams.
#[derive(Debug, Clone)]
struct Limits {
    /// Of each topic.
    messages: usize,
    /// Of a stream in a file, in all.
    bytes: i64,
    age: Duration,
    replicas: usize,
}

/// Why there is no connection, or not the streams that are needed.
#[derive(Debug, thiserror::Error)]
#[error("NATS: {0}")]
pub struct ConnectNatsError(async_nats::Error);

#[derive(Debug)]
struct Engine {
    requests: Arc<Link>,
    deliveries: Arc<Link>,
    gate: Arc<Gate>,
    names: Names,
    limits: Limits,
    kept: Store,
    passed: Store,
    /// Publications of a topic that the stream keeps, as it is set up.
    kept_messages: AtomicUsize,
    audience: Mutex<Audience>,
}

/// Who is told what becomes of the connections.
#[derive(Debug, Default)]
struct Audience {
    nodes: HashMap<NodeId, Events>,
    /// Connections that do not work.
    lost: usize,
    /// How many connections for deliveries there had been with the one that works.
    delivered_by: u64,
}

/// Tasks that end with this.
#[derive(Debug)]
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Nats {
    /// Connects to one of `servers`, which are separated by commas: `nats://host:port`, or `tls://`. The first may name a
    /// user, `nats://user:password@host`, or a token, `nats://token@host`; other ways are for
    /// [`options`](ConnectNats::options).
    ///
    /// # Errors
    /// No server answers, or JetStream is off there, or a stream is set up otherwise than is needed.
    ///
    /// # Cancel safety
    /// Dropped early, streams may have been made.
    pub fn connect(servers: impl Into<String>) -> ConnectNats {
        ConnectNats {
            servers: servers.into(),
            options: ConnectOptions::new(),
            prefix: "hub".to_owned(),
            limits: Limits {
                messages: 1000,
                bytes: 1 << 30,
                age: Duration::from_secs(24 * 3600),
                replicas: 1,
            },
        }
    }

    /// A node's place here, which tells it all through `events`.
    #[must_use]
    pub fn node(&self, events: Events) -> NatsNode {
        let id = NodeId::random();
        self.engine.audience().nodes.insert(id, events.clone());
        NatsNode {
            engine: Arc::clone(&self.engine),
            tasks: Arc::clone(&self.tasks),
            id,
            events,
            hearing: Mutex::default(),
            lease: Arc::new(Lease::new(id)),
        }
    }

    /// Whether the broker is there, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.engine.requests.works() && self.engine.deliveries.works()
    }
}

impl ConnectNats {
    /// Sets who connects, and with what certificates, as `async-nats` has it, whose version this is bound to. Times, events and attempts to connect again are set here.
    pub fn options(self, options: ConnectOptions) -> Self {
        Self { options, ..self }
    }

    /// Sets what the names of subjects and streams begin with: letters, digits, `-` and `_`. Hubs with the same one are
    /// one hub. By default `hub`.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Sets how many publications of a topic are kept at most, whatever its [`History`]. By default 1,000. Raised, it is
    /// disk for each topic, and time: reading the end of a topic looks at up to five times as many as are wanted.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.limits.messages = messages.max(1);
        self
    }

    /// Sets the bytes of all topics together. By default 1 GiB. Beyond, the oldest are forgotten. Raised, it is disk.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self
    }

    /// Sets how old publications may become, and how long a silent topic is known. By default a day. Lowered,
    /// subscribers of silent topics get resets.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.limits.age = age;
        self
    }

    /// Sets how many servers of a cluster have each stream: 1, 3 or 5. By default 1.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.limits.replicas = replicas;
        self
    }

    async fn connect(self) -> Result<Nats, ConnectNatsError> {
        let names = Names::new(&self.prefix).ok_or_else(|| {
            ConnectNatsError(format!("{:?} is no prefix: letters, digits, - and _", self.prefix).into())
        })?;
        let options = link::with_user(&self.servers, self.options).subscription_capacity(HEARING);
        let connect = |echo| link::connect(&self.servers, options.clone(), echo);
        let (requests, request_events, own_requests) =
            connect(names.echo()).await.map_err(ConnectNatsError)?;
        let (deliveries, delivery_events, own_deliveries) =
            connect(names.echo()).await.map_err(ConnectNatsError)?;
        let (requests, deliveries) = (Arc::new(requests), Arc::new(deliveries));
        let delivered_by = deliveries.client.statistics().connects.load(Ordering::Relaxed);
        let engine = Arc::new(Engine {
            kept: Store::new(names.kept_stream(), Arc::clone(&requests)),
            passed: Store::new(names.passed_stream(), Arc::clone(&requests)),
            gate: Arc::new(Gate::new(deliveries.client.statistics())),
            requests,
            deliveries,
            names,
            kept_messages: AtomicUsize::new(self.limits.messages),
            limits: self.limits,
            audience: Mutex::new(Audience { delivered_by, ..Audience::default() }),
        });
        engine.ensure_all().await.map_err(ConnectNatsError)?;
        let (one, other) = (Arc::clone(&engine), Arc::clone(&engine));
        let tasks = vec![
            tokio::spawn(hear(Arc::clone(&engine.requests), own_requests)),
            tokio::spawn(hear(Arc::clone(&engine.deliveries), own_deliveries)),
            tokio::spawn(async move {
                let ready = || one.is_ready();
                one.requests.watch(request_events, |change| one.tell(change), ready).await;
            }),
            tokio::spawn(async move {
                let ready = || async { true };
                other
                    .deliveries
                    .watch(delivery_events, |change| other.tell_of_deliveries(change), ready)
                    .await;
            }),
        ];
        Ok(Nats { engine, tasks: Arc::new(Tasks(tasks)) })
    }
}

async fn hear(link: Arc<Link>, hearing: Subscriber) {
    link.hear(hearing).await;
}

impl IntoFuture for ConnectNats {
    type Output = Result<Nats, ConnectNatsError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}

impl fmt::Debug for ConnectNats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectNats")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Audience {
    fn tell(&self, event: &Event) {
        self.nodes.values().for_each(|node| node.tell(event.clone()));
    }
}

impl Engine {
    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_of_deliveries(&self, change: Change) {
        if let Change::Found(connects) = change {
            self.audience().delivered_by = connects;
        }
        self.tell(change);
    }

    /// Tells the nodes what became of a connection. They know no more of it than whether all works, and hear nothing
    /// while it does not.
    fn tell(&self, change: Change) {
        let mut audience = self.audience();
        match change {
            Change::Lost => {
                self.gate.close();
                audience.lost += 1;
                if audience.lost == 1 {
                    audience.tell(&Event::Down);
                }
            }
            Change::Found(_) => {
                audience.lost -= 1;
                if audience.lost == 0 {
                    audience.tell(&Event::Up);
                    self.gate.open(audience.delivered_by);
                }
            }
            Change::Dropped => audience.tell(&Event::SuspectAll),
        }
    }

    async fn ensure_all(&self) -> Result<(), async_nats::Error> {
        let context = jetstream::new(self.requests.client.clone());
        let (names, limits) = (&self.names, &self.limits);
        let kept = streams::ensure(&context, streams::kept(names, limits)).await?;
        // Without a limit it is negative.
        let kept_messages = usize::try_from(kept.max_messages_per_subject).unwrap_or(usize::MAX);
        self.kept_messages.store(kept_messages, Ordering::Relaxed);
        streams::ensure(&context, streams::passed(names, limits)).await?;
        streams::ensure(&context, streams::rows(names, limits)).await?;
        Ok(())
    }

    /// Whether the streams are there, found or made.
    async fn is_ready(&self) -> bool {
        let ensured = self.ensure_all().await;
        if let Err(error) = &ensured {
            tracing::warn!(%error, "NATS has not the streams that are needed");
            tokio::time::sleep(ENSURE_AGAIN).await;
        }
        ensured.is_ok()
    }

    async fn ensure(&self, wanted: Config) -> Result<(), BackplaneError> {
        let context = jetstream::new(self.requests.client.clone());
        let ensuring = async {
            let ensured = streams::ensure(&context, wanted).await;
            ensured.map(drop).map_err(|error| BackplaneError::Unavailable(error.to_string()))
        };
        self.requests.bounded(ensuring).await
    }

    /// Has a stream keep a message.
    async fn put(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<PublishAck, BackplaneError> {
        let answer = self.requests.request(subject, headers, payload).await?;
        let response = serde_json::from_slice(&answer.payload);
        match response.map_err(|error| BackplaneError::Unknown(error.to_string()))? {
            Response::Ok(acknowledged) => Ok(acknowledged),
            Response::Err { error } => Err(explain(&error)),
        }
    }

    async fn publish(
        &self,
        topic: &Topic,
        outgoing: Outgoing,
        history: History,
    ) -> Result<Position, BackplaneError> {
        let id = message_id(topic, &outgoing.id);
        let mark = entropy::mark();
        let (mut headers, payload) = envelope::seal(outgoing, history, mark);
        let limit = self.requests.client.max_payload().saturating_sub(HEADERS + id.len());
        if payload.len() > limit {
            return Err(BackplaneError::TooLarge { len: payload.len(), limit });
        }
        headers.insert(MESSAGE_ID, id.as_str());
        let (store, subject) = if history.is_none() {
            (&self.passed, self.names.passed(topic))
        } else {
            (&self.kept, self.names.kept(topic))
        };
        let acknowledged = self.put(&subject, Some(headers), payload).await?;
        if acknowledged.stream != store.name() {
            return Err(BackplaneError::Denied(format!("{subject} is the stream {}'s", acknowledged.stream)));
        }
        if !acknowledged.duplicate {
            return Ok(Position::new(acknowledged.sequence, mark));
        }
        let first = store.at_leader(acknowledged.sequence).await?;
        let first = first.filter(|first| first.subject == subject).map(|first| first.position());
        // It is not kept any more: nothing could be proven from there anyway.
        Ok(first.unwrap_or(Position::new(acknowledged.sequence, mark)))
    }

    /// What of a topic's limits the stream keeps.
    fn allowed(&self, history: History) -> History {
        History { messages: history.messages.min(self.kept_messages()), ..history }
    }

    fn kept_messages(&self) -> usize {
        self.kept_messages.load(Ordering::Relaxed)
    }

    /// Has the streams made again if they are not there, though the broker is.
    fn note_missing<T>(&self, answer: Result<T, BackplaneError>) -> Result<T, BackplaneError> {
        if answer.as_ref().err() == Some(&link::missing()) {
            self.requests.doubt();
        }
        answer
    }
}

fn explain(error: &jetstream::Error) -> BackplaneError {
    match (error.error_code(), error.code()) {
        (ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM, _) => {
            BackplaneError::Denied(error.to_string())
        }
        // Its own trouble: no leader, no resources, no room.
        (_, 500..) => BackplaneError::Unavailable(error.to_string()),
        _ => BackplaneError::Denied(error.to_string()),
    }
}

/// The next message; `None` at the end.
async fn next_message(subscriber: &mut Subscriber) -> Option<Message> {
    std::future::poll_fn(|context| Pin::new(&mut *subscriber).poll_next(context)).await
}

impl NatsNode {
    fn hearing(&self) -> MutexGuard<'_, HashMap<Topic, Hearing>> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hear(&self, topic: &Topic) -> Result<(), BackplaneError> {
        let deliveries = &self.engine.deliveries;
        if !self.hearing().contains_key(topic) {
            let subscriber = deliveries.subscribe(self.engine.names.heard(topic)).await?;
            let hearing =
                Hearing::new(topic.clone(), subscriber, Arc::clone(&self.engine.gate), self.events.clone());
            self.hearing().insert(topic.clone(), hearing);
        }
        // On the same connection: when this comes back, the broker has the subscription.
        deliveries.settle().await
    }

    async fn unhear(&self, topic: &Topic) {
        let hearing = self.hearing().remove(topic);
        if let Some(hearing) = hearing {
            hearing.end().await;
        }
    }
}

impl Backplane for NatsNode {
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position> {
        Box::pin(async move { self.engine.note_missing(self.engine.publish(topic, outgoing, history).await) })
    }

    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(self.hear(topic))
    }

    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(async move {
            self.unhear(topic).await;
            Ok(())
        })
    }

    fn read<'b>(
        &'b self,
        topic: &'b Topic,
        after: Option<Position>,
        max: usize,
    ) -> BackplaneFuture<'b, Page> {
        Box::pin(
            async move { self.engine.note_missing(reading::read(&self.engine, topic, after, max).await) },
        )
    }

    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
        Box::pin(self.lease.renew(&self.engine, rows, ttl))
    }

    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
        Box::pin(rows::read(&self.engine, topic))
    }
}

/// A node that is gone hears nothing, and has no members.
impl Drop for NatsNode {
    fn drop(&mut self) {
        self.engine.audience().nodes.remove(&self.id);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (lease, engine, tasks) =
            (Arc::clone(&self.lease), Arc::clone(&self.engine), Arc::clone(&self.tasks));
        runtime.spawn(async move {
            lease.end(&engine).await;
            drop(tasks);
        });
    }
}
