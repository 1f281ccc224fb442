//! The backplane over Redis or Valkey.

mod backoff;
mod commands;
mod envelope;
mod failure;
mod names;
mod place;
mod probe;
mod scripts;
mod subscription;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use self::{
    commands::Commands,
    names::Names,
    place::Place,
    probe::{Probe, ProbeTimes},
    scripts::Scripts,
    subscription::Subscription,
};
use super::{Backplane, BackplaneError, BackplaneFuture, Events, NodeId, NodeRow, Page, PresenceRow};
use crate::{History, Member, Outgoing, Position, Publication, Topic, entropy};

/// How long a connection may take to come about, the name's resolution and the login included. Raised, it is how long
/// nodes wait for a server that hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a second attempt to publish is known as one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Bytes of payload that a publication may have. Raised, a few of them at once are more than the 32 MiB at which a
/// server, as it comes, cuts subscribers off.
const MAX_PAYLOAD: usize = 8 << 20;

/// The longest time that a server is told: beyond its numbers there is no difference.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Topics on a server of Redis (7.0 or later) or Valkey, for any number of nodes. Cloning it is cheap.
///
/// ```no_run
/// use wireline_hub::{Hub, Redis};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new("redis://127.0.0.1:6379/")?;
/// let hub = Hub::builder().backplane(move |events| redis.node(events)).start();
/// # drop(hub);
/// # Ok(())
/// # }
/// ```
///
/// Each node, which each shard of a hub is one of, has two connections: for commands and for deliveries. Both are opened
/// again for ever, after pauses of 25 milliseconds to 2 seconds, and the server's name is resolved each time. While the
/// server is away everything fails at once; when it hangs, after 2 seconds.
///
/// # What it keeps there
///
/// - Each topic is one stream, which is written, trimmed and told in one step. Its position outlives its publications by
///   [`lifetime`](Self::lifetime).
/// - All three limits of [`History`] hold. What is too old goes when the topic is next published to or read: of topics that
///   nobody uses it stays in memory until the position goes.
/// - Each publication is a small key for two minutes, so that a second attempt is known as one.
/// - A topic without history is a stream without entries: it has one order and a position, as all topics do.
///
/// Memory, on Redis 7.0: some 370 bytes for a topic without publications, 4.7 KB with a few small ones in it. One to which
/// nothing was ever published goes two minutes after the last node that heard it.
///
/// # What the server has to be
///
/// - One server, or one with replicas: behind one name, or watched by Sentinels. Not a cluster.
/// - Open to the node: it runs scripts on the keys, and subscribes to and publishes on the channels, that begin with
///   [`prefix`](Self::prefix). Who may not publish there is told for ever that the server is away.
/// - With `maxmemory-policy noeviction`: a topic that is evicted is one that begins anew, which is a reset.
/// - Replicas follow a master late. A failover takes back what had not come to the replica, acknowledged or not: who has heard it
///   gets a reset. Likewise for what a server had not written when it crashed, unless it has `appendfsync always`.
#[derive(Debug, Clone)]
pub struct Redis {
    server: Place,
    heard: Place,
    prefix: String,
    lifetime: Duration,
    probe: ProbeTimes,
}

/// A URL that names no server of Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a URL of a server of Redis: {0}")]
pub struct InvalidRedisUrl(String);

/// One node's place at a [`Redis`].
#[derive(Debug)]
pub struct RedisNode {
    id: NodeId,
    names: Names,
    lifetime: Duration,
    commands: Arc<Commands>,
    subscription: Subscription,
    lease: Mutex<Option<Lease>>,
}

/// What the engine was told under.
#[derive(Debug)]
struct Lease {
    word: String,
    /// When all rows were last told.
    since: Instant,
}

impl Redis {
    /// A server at a URL like `redis://user:password@host:6379/0`, or the one that Sentinels name as the master of a
    /// service: `redis+sentinel://user:password@host:26379,host:26379/service/0`, where user and password are for the
    /// master. With `rediss` it is all over TLS. Sentinels are asked whenever a connection is opened; what most of them
    /// say counts. It is not connected to before there is a [`node`](Self::node).
    ///
    /// # Errors
    /// It is no such URL.
    pub fn new(url: &str) -> Result<Self, InvalidRedisUrl> {
        let server = Place::new(url)?;
        Ok(Self {
            heard: server.clone(),
            server,
            prefix: "wireline:".to_owned(),
            lifetime: Duration::from_secs(24 * 3600),
            probe: ProbeTimes { every: Duration::from_secs(10), patience: Duration::from_secs(5) },
        })
    }

    /// Has deliveries come from another server: a replica, so that the master's network does not carry them.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn hear(self, url: &str) -> Result<Self, InvalidRedisUrl> {
        Ok(Self { heard: Place::new(url)?.trusting_as(&self.server), ..self })
    }

    /// Trusts the authorities of these certificates (PEM), and no others, over TLS. By default those that the system
    /// trusts, or the file that the variable `SSL_CERT_FILE` names.
    #[must_use]
    pub fn root_certificates(self, pem: impl Into<Vec<u8>>) -> Self {
        let roots = pem.into();
        Self { heard: self.heard.trusting(roots.clone()), server: self.server.trusting(roots), ..self }
    }

    /// Sets what all keys and channels begin with; all nodes of a hub need the same. By default `wireline:`.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// Sets how long the position of a topic is kept that nobody publishes to or hears. By default a day. Raised, it is memory
    /// for each topic that was ever used; lowered, who comes back later gets a reset. It is at least as long as the topic's
    /// history is kept.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Sets how often a node looks whether it still hears, and how long it waits for what it said to itself. By default
    /// every 10 seconds, and 5. Lowered, it is commands; raised, how long it may be deaf.
    #[must_use]
    pub fn probe(self, every: Duration, patience: Duration) -> Self {
        Self { probe: ProbeTimes { every, patience }, ..self }
    }

    /// A node's place there, which tells it all through `events`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn node(&self, events: Events) -> RedisNode {
        let id = NodeId::random();
        let names = Names::new(&self.prefix, self.server.database());
        let commands = Arc::new(Commands::new(self.server.clone(), names.fence(id)));
        let probe = Probe::new(Arc::clone(&commands), names.probe(id), self.probe);
        let subscription = Subscription::start(self.heard.clone(), names.clone(), events, probe);
        RedisNode { id, names, lifetime: self.lifetime, commands, subscription, lease: Mutex::default() }
    }
}

/// A time as the server takes it. Never 0, which it does not.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.min(FOREVER).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// A number that the server can count to.
fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX).min(1 << 52)
}

/// A mark for the beginning of a topic: 0-0 is the id of nothing.
fn beginning() -> u32 {
    entropy::mark().max(1)
}

fn invalid(what: &str) -> BackplaneError {
    BackplaneError::Denied(format!("the server holds {what} that no hub has written"))
}

impl RedisNode {
    async fn publish(
        &self,
        topic: &Topic,
        outgoing: Outgoing,
        history: History,
    ) -> Result<Position, BackplaneError> {
        let Outgoing { id, content, except } = outgoing;
        if content.len() > MAX_PAYLOAD {
            return Err(BackplaneError::TooLarge { len: content.len(), limit: MAX_PAYLOAD });
        }
        let body = envelope::encode(&content, except);
        let (mark, beginning) = (entropy::mark(), beginning());
        let script = |connection: u64| {
            let mut script = Scripts::shared().publish.prepare_invoke();
            script.key(self.names.stream(topic)).key(self.names.publication(topic, &id));
            script.key(self.names.fence(self.id)).arg(&body).arg(mark).arg(beginning);
            script.arg(content.len()).arg(count(history.messages)).arg(count(history.bytes));
            script.arg(milliseconds(history.age)).arg(milliseconds(self.lifetime.max(history.age)));
            script.arg(milliseconds(DUPLICATE_WINDOW)).arg(self.names.channel(topic)).arg(connection);
            script
        };
        let position: String = self.commands.run(script).await?;
        envelope::decode_id(&position).ok_or_else(|| invalid("a publication"))
    }

    async fn read(&self, topic: &Topic, after: Option<Position>, max: usize) -> Result<Page, BackplaneError> {
        let script = |_| {
            let mut script = Scripts::shared().read.prepare_invoke();
            script.key(self.names.stream(topic)).arg(after.map(envelope::encode_id).unwrap_or_default());
            script.arg(count(max)).arg(beginning()).arg(milliseconds(self.lifetime));
            script
        };
        let answer: Vec<Bytes> = self.commands.run(script).await?;
        page(topic, &answer).ok_or_else(|| invalid("a topic"))
    }

    async fn lease(&self, rows: &[PresenceRow], ttl: Duration) -> Result<bool, BackplaneError> {
        let word = format!("{:0WORD_LEN$x}", entropy::mark());
        let script = |connection: u64| {
            let mut script = Scripts::shared().lease.prepare_invoke();
            script.key(self.names.lease(self.id)).key(self.names.fence(self.id));
            script
                .arg(connection)
                .arg(&word)
                .arg(milliseconds(ttl))
                .arg(milliseconds(self.rows_lifetime(ttl)));
            script.arg(self.id.to_string());
            for row in rows {
                script.arg(self.names.rows(&row.topic)).arg(encode_members(&row.members));
            }
            script
        };
        let word: String = self.commands.run(script).await?;
        Ok(self.note_lease(word, ttl))
    }

    /// How long a row is kept that nobody writes again. All are told twice as often.
    fn rows_lifetime(&self, ttl: Duration) -> Duration {
        self.lifetime.max(ttl * 4)
    }

    /// Whether the engine has the rows that it was told before, and will have them.
    fn note_lease(&self, word: String, ttl: Duration) -> bool {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_kept = lease
            .as_ref()
            .is_some_and(|lease| lease.word == word && lease.since + self.rows_lifetime(ttl) / 2 > now);
        if !is_kept {
            *lease = Some(Lease { word, since: now });
        }
        is_kept
    }

    async fn presence(&self, topic: &Topic) -> Result<Vec<NodeRow>, BackplaneError> {
        let script = |_| {
            let mut script = Scripts::shared().presence.prepare_invoke();
            script.key(self.names.rows(topic)).arg(self.names.leases()).arg(WORD_LEN);
            script
        };
        let answer: Vec<Bytes> = self.commands.run(script).await?;
        let rows: Option<Vec<NodeRow>> =
            answer.chunks_exact(2).map(|row| decode_row(&row[0], &row[1])).collect();
        let mut rows = rows.ok_or_else(|| invalid("a row of presence"))?;
        rows.sort_by_key(|row| row.node);
        Ok(rows)
    }
}

/// Digits of the word that a node's rows of one lease begin with.
const WORD_LEN: usize = 8;

fn encode_members(members: &[Member]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = members.iter().map(Member::name).collect();
    serde_json::Value::from(names).to_string()
}

fn decode_row(node: &[u8], row: &[u8]) -> Option<NodeRow> {
    let node = u128::from_str_radix(str::from_utf8(node).ok()?, 16).ok()?;
    let (word, members) = row.split_at_checked(WORD_LEN)?;
    let lease = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
    let names: Vec<String> = serde_json::from_slice(members).ok()?;
    Some(NodeRow { node: NodeId(node), lease, members: names.into_iter().map(Member::new).collect() })
}

/// What the script that reads has answered.
fn page(topic: &Topic, answer: &[Bytes]) -> Option<Page> {
    let [top, proven, entries @ ..] = answer else { return None };
    let publication = |entry: &[Bytes]| -> Option<Publication> {
        let (id, previous) = (str::from_utf8(&entry[0]).ok()?, str::from_utf8(&entry[1]).ok()?);
        envelope::decode(topic.clone(), id, previous, entry[2].clone())
    };
    Some(Page {
        top: envelope::decode_id(str::from_utf8(top).ok()?)?,
        proven: &proven[..] == b"1",
        items: entries.chunks_exact(3).map(publication).collect::<Option<_>>()?,
    })
}

impl Backplane for RedisNode {
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position> {
        Box::pin(self.publish(topic, outgoing, history))
    }

    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(self.subscription.want(topic, true))
    }

    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        Box::pin(self.subscription.want(topic, false))
    }

    fn read<'b>(
        &'b self,
        topic: &'b Topic,
        after: Option<Position>,
        max: usize,
    ) -> BackplaneFuture<'b, Page> {
        Box::pin(self.read(topic, after, max))
    }

    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
        Box::pin(self.lease(rows, ttl))
    }

    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
        Box::pin(self.presence(topic))
    }
}

/// What is made of a delivery, whatever it is; a channel's name is its topic's again.
#[cfg(feature = "testing")]
pub(crate) fn decode_anything(topic: &Topic, delivery: Bytes) {
    let names = Names::new("any:", 0);
    assert_eq!(names.topic(&names.channel(topic)).as_ref(), Some(topic));
    if let Some(publication) = envelope::decode_delivery(topic.clone(), delivery) {
        let body = envelope::encode(&publication.content, publication.except);
        let id = envelope::encode_id(publication.position);
        let again = envelope::decode(topic.clone(), &id, "0-0", body.into());
        assert_eq!(again.map(|again| again.content), Some(publication.content));
    }
}
