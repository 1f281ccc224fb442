//! One connection, from its opening to its end.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use wireline::{Message, Prepared, Request, Result, WebSocket};

use super::{Inner, TopicRules, outlet::SocketOutlet, shard::Command as ShardCommand};
use crate::{
    BackplaneError, Client, Connect, ConnectionId, Content, Denied, Outgoing, Position, PublicationId, Topic,
    node::{Start, Subscribe},
    protocol::{
        Wire, code,
        hub_v1::{self, Command},
    },
};

/// How long a client may take to say who it is.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long a client that was told nothing gets an empty message: pages cannot see Pings, and notice by
/// this that the connection still stands.
const SILENCE: Duration = Duration::from_secs(25);

/// In what time, in milliseconds, clients that lost their connection are to come back: spread, so that they do not
/// come all at once.
const RETRY_MS: [u64; 2] = [500, 20_000];

/// In what time, in milliseconds, clients that are told to go are to come back: they go one by one as it is.
const LEAVING_RETRY_MS: [u64; 2] = [0, 1000];

/// Why the hub ends a connection.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// Who it is was true for so long.
    Expired,
    /// The node is drained.
    Leaving,
}

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
    /// The hub's word that all have to go.
    leaving: watch::Receiver<Option<Duration>>,
    topics: HashSet<Topic>,
    /// Shards that know the connection.
    shards: Vec<usize>,
}

/// Speaks `hub.v1`.
pub(super) async fn serve(hub: Arc<Inner>, request: Request) -> Result<()> {
    if hub.is_leaving() {
        return refuse(request).await;
    }
    let connect = connect(&request);
    let ws = request.accept().protocol(hub_v1::NAME).await?;
    let Some((mut session, broadcasts)) = authenticate(hub, connect, ws).await? else { return Ok(()) };
    let start = broadcasts.map_or(Start::Now, Start::After);
    session.subscribe(0, Topic::everyone(), start).await;
    session.run().await
}

/// Speaks about one topic without words of its own.
pub(super) async fn serve_topic(hub: Arc<Inner>, request: Request, topic: Topic, last: usize) -> Result<()> {
    if hub.is_leaving() {
        return refuse(request).await;
    }
    let connect = connect(&request);
    let client_ip = connect.client_ip;
    let id = ConnectionId(crate::entropy::number());
    let Ok(identity) = hub.hooks.connect(connect).await else {
        return request.reject(http::StatusCode::UNAUTHORIZED).await;
    };
    let expires = identity.expires();
    let client = Client::new(id, identity, client_ip);
    if hub.hooks.subscribe(&client, &topic).await.is_err() {
        return request.reject(http::StatusCode::FORBIDDEN).await;
    }
    let ws = request.accept().await?;
    let mut session = Session::new(hub, client, ws, Wire::Raw, expires);
    session.subscribe(1, topic.clone(), Start::Last(last)).await;
    while let Some(message) = session.next().await? {
        let published = session.publish(&topic, None, true, message).await;
        if let Err(error) = published {
            let code = if error.is_temporary { code::UNAVAILABLE } else { code::FORBIDDEN };
            session.ws.close_with(code, error.code)?;
        }
        session.ws.writable().await;
    }
    Ok(())
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

/// Has the client say who it is; `None` if it does not, and its connection is closed.
async fn authenticate(
    hub: Arc<Inner>,
    mut connect: Connect,
    mut ws: WebSocket,
) -> Result<Option<(Session, Option<Position>)>> {
    let Ok(first) = tokio::time::timeout(AUTHENTICATION_TIMEOUT, ws.recv()).await else {
        ws.close_with(code::UNAUTHORIZED, "say who you are")?;
        return Ok(None);
    };
    let Some(first) = first? else { return Ok(None) };
    let Ok((request, Command::Authenticate { token, broadcasts })) = hub_v1::decode(first) else {
        ws.close_with(code::MALFORMED, "the first message is auth")?;
        return Ok(None);
    };
    connect.token = token;
    let client_ip = connect.client_ip;
    let Ok(identity) = hub.hooks.connect(connect).await else {
        ws.send(hub_v1::error(request, "unauthorized", false)).await?;
        ws.close_with(code::UNAUTHORIZED, "unauthorized")?;
        return Ok(None);
    };
    let id = ConnectionId(crate::entropy::number());
    let expires = identity.expires();
    let client = Client::new(id, identity, client_ip);
    ws.send(hub_v1::authenticated(request, &id.to_string(), SILENCE.as_secs(), RETRY_MS)).await?;
    Ok(Some((Session::new(hub, client, ws, Wire::HubV1, expires), broadcasts)))
}

impl Session {
    fn new(hub: Arc<Inner>, client: Client, ws: WebSocket, wire: Wire, expires: Option<Instant>) -> Self {
        hub.connections.send_modify(|count| *count += 1);
        let mut leaving = hub.leaving.subscribe();
        // What was said before is heard, too.
        leaving.mark_changed();
        let ends = expires.map(|at| (at, Ending::Expired));
        Self { hub, client, ws, wire, ends, leaving, topics: HashSet::new(), shards: Vec::new() }
    }

    /// The next message. When the client's time is over its connection is closed.
    async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            let at = self.ends.map(|(at, _)| at);
            tokio::select! {
                message = self.ws.recv() => return Ok(message?),
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
        match self.ends.take() {
            Some((_, Ending::Expired)) => self.ws.close_with(code::EXPIRED, "expired")?,
            Some((_, Ending::Leaving)) => {
                if self.wire == Wire::HubV1 {
                    let bye = Prepared::new(hub_v1::bye(LEAVING_RETRY_MS));
                    let _ = self.ws.socket().try_send_prepared_within(&bye, usize::MAX);
                }
                self.ws.close_with(code::LEAVING, "leaving")?;
            }
            None => {}
        }
        Ok(())
    }

    async fn run(mut self) -> Result<()> {
        let empty = Prepared::new("");
        let mut silent_until = Instant::now() + SILENCE;
        loop {
            let message = tokio::select! {
                message = self.next() => message?,
                () = tokio::time::sleep_until(silent_until) => {
                    silent_until += SILENCE;
                    self.ws.send_prepared(&empty).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            match hub_v1::decode(message) {
                Ok((request, command)) => {
                    if let Some(answer) = self.handle(request, command).await {
                        self.ws.send(answer).await?;
                    }
                }
                Err(error) => self.ws.close_with(code::MALFORMED, shorten(error.to_string()))?,
            }
            // Who does not read is not listened to.
            self.ws.writable().await;
        }
    }

    async fn handle(&mut self, request: u64, command: Command) -> Option<Message> {
        match command {
            Command::Authenticate { .. } => Some(hub_v1::error(request, "authenticated", false)),
            Command::Subscribe { topic, start } => self.handle_subscribe(request, topic, start).await,
            Command::Unsubscribe { topic } => Some(match self.unsubscribe(topic).await {
                true => hub_v1::unsubscribed(request),
                false => hub_v1::error(request, "not_subscribed", false),
            }),
            Command::Publish { topic, key, echo, message } => {
                Some(match self.publish(&topic, key, echo, message).await {
                    Ok(position) => hub_v1::published(request, position),
                    Err(error) => hub_v1::error(request, error.code, error.is_temporary),
                })
            }
            Command::Who { topic } => Some(self.handle_who(request, &topic).await),
        }
    }

    async fn handle_subscribe(&mut self, request: u64, topic: Topic, start: Start) -> Option<Message> {
        if self.topics.len() >= self.hub.max_subscriptions && !self.topics.contains(&topic) {
            return Some(hub_v1::error(request, "too_many_subscriptions", false));
        }
        if self.hub.hooks.subscribe(&self.client, &topic).await.is_err() {
            return Some(hub_v1::error(request, "forbidden", false));
        }
        self.subscribe(request, topic, start).await;
        None
    }

    /// Whoever hears a topic may know who else does.
    async fn handle_who(&self, request: u64, topic: &Topic) -> Message {
        if self.hub.hooks.subscribe(&self.client, topic).await.is_err() {
            return hub_v1::error(request, "forbidden", false);
        }
        match self.hub.presence(topic).await {
            Ok(members) => hub_v1::who(request, &members),
            Err(error) => hub_v1::error(request, "unavailable", error.is_temporary()),
        }
    }

    async fn subscribe(&mut self, request: u64, topic: Topic, start: Start) {
        let index = self.hub.shard_of(&topic);
        let shard = &self.hub.shards[index];
        if !self.shards.contains(&index) {
            let outlet = SocketOutlet::new(self.ws.socket(), self.wire, Arc::clone(&self.hub.counters));
            let _ = shard.commands.send(ShardCommand::Connect(self.client.id(), outlet));
            self.shards.push(index);
        }
        let TopicRules { history, presence } = (self.hub.rules)(&topic);
        let member = self.client.user().filter(|_| presence).cloned();
        let connection = self.client.id();
        self.topics.insert(topic.clone());
        let subscribe = Subscribe { connection, request, topic, history, start, presence, member };
        let (taken, is_taken) = oneshot::channel();
        let _ = shard.commands.send(ShardCommand::Subscribe(subscribe, taken));
        let _ = is_taken.await;
    }

    async fn unsubscribe(&mut self, topic: Topic) -> bool {
        let shard = &self.hub.shards[self.hub.shard_of(&topic)];
        self.topics.remove(&topic);
        let (done, is_done) = oneshot::channel();
        let _ = shard.commands.send(ShardCommand::Unsubscribe(self.client.id(), topic, done));
        is_done.await.unwrap_or(false)
    }

    async fn publish(
        &self,
        topic: &Topic,
        key: Option<String>,
        echo: bool,
        message: Message,
    ) -> Result<Position, Failed> {
        self.hub.hooks.publish(&self.client, topic).await?;
        let outgoing = Outgoing {
            id: self.publication_id(key),
            content: Content::Message(message),
            except: (!echo).then(|| self.client.id()),
        };
        Ok(self.hub.publish(topic, outgoing).await?)
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

/// Why a client's publication was not published.
struct Failed {
    code: &'static str,
    is_temporary: bool,
}

impl From<Denied> for Failed {
    fn from(_: Denied) -> Self {
        Self { code: "forbidden", is_temporary: false }
    }
}

impl From<BackplaneError> for Failed {
    fn from(error: BackplaneError) -> Self {
        let code = match error {
            BackplaneError::TooLarge { .. } => "too_large",
            BackplaneError::Denied(_) => "forbidden",
            BackplaneError::Unavailable(_) | BackplaneError::Unknown(_) => "unavailable",
        };
        Self { code, is_temporary: error.is_temporary() }
    }
}

/// A close reason has 123 bytes at most.
fn shorten(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(123));
    reason
}
