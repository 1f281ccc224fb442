//! One connection, from its opening to its end: what it is whatever it speaks. The conversations are in the modules
//! below, one for each protocol.

pub(super) mod centrifugo;
pub(super) mod hub_v1;
pub(super) mod raw;

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use wireline::{Message, Request, Result, WebSocket};

use super::{
    Inner, TopicRules,
    outlet::{self, Left, SocketOutlet},
    shard::Command as ShardCommand,
};
use crate::{
    Client, Connect, ConnectionId, Content, Identity, Member, Outgoing, Page, Position, PublicationId, Topic,
    node::{Start, Subscribe},
    protocol::{Ending, Refusal, Wire},
};

/// How long a client may take to say who it is.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long a client that was told nothing gets a sign of life: pages cannot see Pings, and notice by this that
/// the connection still stands.
const SILENCE: Duration = Duration::from_secs(25);

/// Bytes of a key that is taken for random: 128 bits in base64.
const UNGUESSABLE: usize = 22;

/// A connection with its subscriptions. Dropped, it leaves all topics.
struct Session {
    hub: Arc<Inner>,
    client: Client,
    ws: WebSocket,
    wire: Wire,
    /// When the client has to go, and why.
    ends: Option<(Instant, Ending)>,
    /// It was told to go: nothing that it still says is done.
    has_ended: bool,
    /// The hub's word that all have to go.
    leaving: watch::Receiver<Option<Duration>>,
    topics: HashSet<Topic>,
    /// Topics that the client was told to be without.
    left: Left,
    /// Shards that know the connection.
    shards: Vec<usize>,
}

/// A node that is drained sends clients elsewhere.
async fn refuse(request: Request) -> Result<()> {
    let reject = request.reject(http::StatusCode::SERVICE_UNAVAILABLE).header("Retry-After", "1");
    reject.body("this node is leaving\n").await
}

fn connect(request: &Request) -> Connect {
    Connect {
        uri: request.uri().clone(),
        headers: request.headers().clone(),
        client_ip: request.client_ip(),
        token: None,
    }
}

impl Session {
    /// Of a client that the application knows now.
    fn new(hub: Arc<Inner>, client: Client, ws: WebSocket, wire: Wire, expires: Option<Instant>) -> Self {
        hub.connections.send_modify(|count| *count += 1);
        let mut leaving = hub.leaving.subscribe();
        // What was said before is heard, too.
        leaving.mark_changed();
        let ends = expires.map(|at| (at, Ending::Expired));
        let (topics, left, shards) = (HashSet::new(), Left::default(), Vec::new());
        Self { hub, client, ws, wire, ends, has_ended: false, leaving, topics, left, shards }
    }

    /// The next message. When the client's time is over its connection is closed.
    async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            let at = self.ends.map(|(at, _)| at);
            tokio::select! {
                message = self.ws.recv() => match message? {
                    Some(_) if self.has_ended => {}
                    message => return Ok(message),
                },
                Ok(()) = self.leaving.changed() => self.plan_to_leave(),
                () = tokio::time::sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => self.end()?,
            }
        }
    }

    /// Some time in that which the hub has, so that not all clients go at once.
    fn plan_to_leave(&mut self) {
        let Some(over) = *self.leaving.borrow_and_update() else { return };
        let at = Instant::now() + over.mul_f64(f64::from(crate::entropy::mark()) / f64::from(u32::MAX));
        if self.ends.is_none_or(|(expires, _)| at < expires) {
            self.ends = Some((at, Ending::Leaving));
        }
    }

    /// Sends the client away.
    fn end(&mut self) -> Result<()> {
        let Some((_, ending)) = self.ends.take() else { return Ok(()) };
        self.has_ended = true;
        Ok(outlet::end(&self.ws.socket(), self.wire, ending)?)
    }

    /// Closes the connection.
    fn close(&mut self, code: u16, reason: impl Into<String>) -> Result<()> {
        self.has_ended = true;
        Ok(self.ws.close_with(code, shorten(reason.into()))?)
    }

    /// Whether the client may hear a topic, and has not too many already.
    async fn may_subscribe(&self, topic: &Topic) -> Result<(), Refusal> {
        if self.topics.len() >= self.hub.max_subscriptions && !self.topics.contains(topic) {
            return Err(Refusal::TooManySubscriptions);
        }
        Ok(self.hub.hooks.subscribe(&self.client, topic).await?)
    }

    /// Subscribes to a topic. The node answers, with that request.
    async fn subscribe(&mut self, request: u64, topic: Topic, start: Start) {
        let index = self.hub.shard_of(&topic);
        let shard = &self.hub.shards[index];
        if !self.shards.contains(&index) {
            let counters = Arc::clone(&self.hub.counters);
            let outlet = SocketOutlet::new(self.ws.socket(), self.wire, self.left.clone(), counters);
            let _ = shard.commands.send(ShardCommand::Connect(self.client.id(), outlet));
            self.shards.push(index);
        }
        let TopicRules { history, presence } = (self.hub.rules)(&topic);
        // Of the hub's own topics nobody is told who hears them.
        let presence = presence && !topic.is_reserved();
        let member = self.client.user().filter(|_| presence).cloned();
        let connection = self.client.id();
        self.topics.insert(topic.clone());
        let subscribe = Subscribe { connection, request, topic, history, start, presence, member };
        let (taken, is_taken) = oneshot::channel();
        let _ = shard.commands.send(ShardCommand::Subscribe(subscribe, taken));
        let _ = is_taken.await;
    }

    /// Whether it was subscribed.
    async fn unsubscribe(&mut self, topic: Topic) -> bool {
        let shard = &self.hub.shards[self.hub.shard_of(&topic)];
        self.topics.remove(&topic);
        let (done, is_done) = oneshot::channel();
        let _ = shard.commands.send(ShardCommand::Unsubscribe(self.client.id(), topic, done));
        is_done.await.unwrap_or(false)
    }

    /// Leaves the topics that the client was told to be without.
    async fn leave(&mut self) {
        for topic in self.left.take() {
            self.unsubscribe(topic).await;
        }
    }

    async fn publish(
        &self,
        topic: &Topic,
        key: Option<String>,
        echo: bool,
        message: Message,
    ) -> Result<Position, Refusal> {
        self.hub.hooks.publish(&self.client, topic).await?;
        let outgoing = Outgoing {
            id: self.publication_id(key),
            content: Content::Message(message),
            except: (!echo).then(|| self.client.id()),
        };
        Ok(self.hub.publish(topic, outgoing).await?)
    }

    /// All that is kept of a topic, for whoever may hear it; `None` if nothing ever is.
    async fn history(&self, topic: &Topic) -> Result<Option<Page>, Refusal> {
        self.hub.hooks.subscribe(&self.client, topic).await?;
        let history = (self.hub.rules)(topic).history;
        if history.is_none() {
            return Ok(None);
        }
        let page = self.hub.shard(topic).backplane.read(topic, None, history.messages).await?;
        Ok(Some(page))
    }

    /// Who is at a topic. Whoever hears it may know who else does.
    async fn presence(&self, topic: &Topic) -> Result<Vec<Member>, Refusal> {
        self.hub.hooks.subscribe(&self.client, topic).await?;
        Ok(self.hub.presence(topic).await?)
    }

    /// A client's word counts for itself, or for its user on all connections: nobody can keep another from
    /// publishing by saying his words first. Of who is nobody in particular, a word that cannot be guessed counts on all
    /// connections, too.
    fn publication_id(&self, key: Option<String>) -> PublicationId {
        match (key, self.client.user()) {
            (None, _) => PublicationId::random(),
            (Some(key), Some(user)) => {
                PublicationId::new(format!("u{}:{}:{key}", user.name().len(), user.name()))
            }
            (Some(key), None) if key.len() >= UNGUESSABLE => PublicationId::new(format!("a:{key}")),
            (Some(key), None) => PublicationId::new(format!("c{}:{key}", self.client.id())),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.connections.send_modify(|count| *count -= 1);
        for shard in &self.shards {
            let _ = self.hub.shards[*shard].commands.send(ShardCommand::Disconnect(self.client.id()));
        }
    }
}

/// A client under a name of its own, as whoever the application says, and until when.
fn client(identity: Identity, client_ip: Option<std::net::IpAddr>) -> (Client, Option<Instant>) {
    let id = ConnectionId(crate::entropy::number());
    let expires = identity.expires();
    (Client::new(id, identity, client_ip), expires)
}

/// A close reason has 123 bytes at most.
fn shorten(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(123));
    reason
}
