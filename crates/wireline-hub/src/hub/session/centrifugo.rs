//! A connection that speaks Centrifugo's protocol.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::time::Instant;
use wireline::{Message, Prepared, Request, Result, WebSocket};

use super::{AUTHENTICATION_TIMEOUT, SILENCE, Session, client, connect, refuse};
use crate::{
    Client, Connect, Topic,
    hub::Inner,
    protocol::{
        Ending, Refusal, Wire,
        centrifugo::{
            self, Command, Failure, Line, Welcome,
            disconnect::{self, Disconnect},
        },
    },
};

/// How long a client may take to answer a Ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// How long before its token's end a client is to bring a new one, at most, or a quarter of the time that it has.
const REFRESH_AHEAD: Duration = Duration::from_secs(10);

/// A session with what its conversation needs.
struct Conversation {
    session: Session,
    /// How it connected, for the hook, if it will have to bring a new token.
    connect: Option<Box<Connect>>,
    /// Until when an answer to a Ping is awaited.
    pong: Option<Instant>,
}

/// Speaks Centrifugo's protocol.
pub(in crate::hub) async fn serve(hub: Arc<Inner>, request: Request) -> Result<()> {
    if hub.is_leaving() {
        return refuse(request).await;
    }
    let connect = connect(&request);
    let is_offered = request.protocols().iter().any(|protocol| protocol == centrifugo::NAME);
    let accept = request.accept();
    let mut ws = if is_offered { accept.protocol(centrifugo::NAME).await? } else { accept.await? };
    let first = match tokio::time::timeout(AUTHENTICATION_TIMEOUT, ws.recv()).await {
        Ok(first) => first?,
        Err(_) => return close(ws, disconnect::STALE).await,
    };
    let Some(first) = first else { return Ok(()) };
    let mut lines = centrifugo::lines(first);
    let command = lines.next().map(|line| centrifugo::decode(&line));
    let Some(Ok(Line::Command(id, Ok(Command::Connect { token })))) = command else {
        return close(ws, disconnect::BAD_REQUEST).await;
    };
    let Some(conversation) = authenticate(hub, Connect { token, ..connect }, ws, id).await? else {
        return Ok(());
    };
    conversation.run(lines).await
}

/// Lets the client in as whoever the application says; `None` if it does not, and the connection is over.
async fn authenticate(
    hub: Arc<Inner>,
    connect: Connect,
    ws: WebSocket,
    id: u32,
) -> Result<Option<Conversation>> {
    let (token, client_ip) = (connect.token.clone(), connect.client_ip);
    let again = Box::new(connect.clone());
    let Ok(identity) = hub.hooks.connect(connect).await else {
        if token.is_some_and(|token| centrifugo::is_expired(&token, now_s())) {
            ws.send(centrifugo::failed(id, Failure::TokenExpired)).await?;
            close(ws, disconnect::EXPIRED).await?;
        } else {
            close(ws, disconnect::INVALID_TOKEN).await?;
        }
        return Ok(None);
    };
    let (client, expires) = client(identity, client_ip);
    let welcome =
        Welcome { client: &client.id().to_string(), ttl_s: ttl_s(expires), ping_s: SILENCE.as_secs() };
    ws.send(centrifugo::connected(id, welcome)).await?;
    let session = Session::new(hub, client, ws, Wire::Centrifugo, expires);
    Ok(Some(Conversation { session, connect: expires.map(|_| again), pong: None }))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// After how many seconds a client is to bring a new token, so that it comes in time.
fn ttl_s(expires: Option<Instant>) -> Option<u64> {
    let left = expires?.saturating_duration_since(Instant::now());
    Some((left - REFRESH_AHEAD.min(left / 4)).as_secs())
}

/// Closes, and waits for the end.
async fn close(mut ws: WebSocket, (code, reason): Disconnect) -> Result<()> {
    ws.close_with(code, reason)?;
    while ws.recv().await?.is_some() {}
    Ok(())
}

impl Conversation {
    async fn run(mut self, first: impl Iterator<Item = Bytes>) -> Result<()> {
        let ended = match self.handle_lines(first).await? {
            Some(ended) => ended,
            None => match self.listen().await? {
                Some(ended) => ended,
                None => return Ok(()),
            },
        };
        let (code, reason) = ended;
        self.session.ws.close_with(code, reason)?;
        while self.session.ws.recv().await?.is_some() {}
        Ok(())
    }

    /// Does what the client wants, until the connection is over, or why it is to end.
    async fn listen(&mut self) -> Result<Option<Disconnect>> {
        let ping = Prepared::new(centrifugo::ping());
        let mut ping_at = Instant::now() + SILENCE;
        loop {
            let alarm = self.pong.map_or(ping_at, |pong| pong.min(ping_at));
            let message = tokio::select! {
                // What it said in time counts, however long it lay here.
                biased;
                message = self.session.next() => message?,
                () = tokio::time::sleep_until(alarm) => {
                    if self.pong.is_some_and(|pong| pong <= Instant::now()) {
                        return Ok(Some(disconnect::NO_PONG));
                    }
                    ping_at += SILENCE;
                    self.pong = Some(Instant::now() + PONG_TIMEOUT);
                    self.session.leave().await;
                    self.session.ws.send_prepared(&ping).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(None) };
            // Whatever is heard of it shows that it is there.
            self.pong = None;
            if let Some(ended) = self.handle_lines(centrifugo::lines(message)).await? {
                return Ok(Some(ended));
            }
        }
    }

    /// Does what is wanted, line by line, or says why the connection is to end.
    async fn handle_lines(&mut self, lines: impl Iterator<Item = Bytes>) -> Result<Option<Disconnect>> {
        for line in lines {
            // A message may have very many lines, which take no time to be answered.
            tokio::task::consume_budget().await;
            let (id, command) = match centrifugo::decode(&line) {
                Ok(Line::Pong) => continue,
                // Nobody would hear it.
                Ok(Line::Send) => return Ok(Some(disconnect::NOT_AVAILABLE)),
                Ok(Line::Command(_, Ok(Command::Connect { .. }))) | Err(_) => {
                    return Ok(Some(disconnect::BAD_REQUEST));
                }
                Ok(Line::Command(id, command)) => (id, command),
            };
            self.session.leave().await;
            let answer = match command {
                Ok(Command::Refresh { token }) => match self.refresh(id, token).await {
                    Some(answer) => {
                        self.session.ws.send(answer).await?;
                        self.session.leave_forbidden().await?;
                        None
                    }
                    None => return Ok(Some(disconnect::INVALID_TOKEN)),
                },
                Ok(command) => self.session.handle_command(id, command).await,
                Err(failure) => Some(centrifugo::failed(id, failure)),
            };
            if let Some(answer) = answer {
                self.session.ws.send(answer).await?;
            }
            // Who does not read is not listened to.
            self.session.ws.writable().await;
        }
        Ok(None)
    }

    /// Takes the client for who it is by its new token; `None` if that is refused.
    async fn refresh(&mut self, id: u32, token: String) -> Option<Message> {
        // Who does not expire need not refresh.
        let Some(connect) = &self.connect else { return Some(centrifugo::failed(id, Failure::NotAvailable)) };
        let connect = Connect { token: Some(token), ..Connect::clone(connect) };
        let client_ip = connect.client_ip;
        let identity = self.session.hub.hooks.connect(connect).await.ok()?;
        let (expires, known) = (identity.expires(), &self.session.client);
        let client = Client::new(known.id(), identity, client_ip);
        if client.user() != known.user() {
            return None;
        }
        self.session.client = client;
        if self.session.ends.is_none_or(|(_, ending)| ending == Ending::Expired) {
            self.session.ends = expires.map(|at| (at, Ending::Expired));
        }
        let client = self.session.client.id().to_string();
        Some(centrifugo::refreshed(id, &client, ttl_s(expires)))
    }
}

impl Session {
    /// Leaves the topics that the client may not hear any more, and tells it so.
    async fn leave_forbidden(&mut self) -> Result<()> {
        for topic in self.topics.iter().cloned().collect::<Vec<_>>() {
            if self.hub.hooks.subscribe(&self.client, &topic).await.is_err() {
                self.unsubscribe(topic.clone()).await;
                self.ws.send(centrifugo::forbidden(&topic)).await?;
            }
        }
        Ok(())
    }

    /// The answer, unless the node gives it.
    async fn handle_command(&mut self, id: u32, command: Command) -> Option<Message> {
        let answer = match command {
            Command::Subscribe { topic, start, terms } => match self.may_subscribe(&topic).await {
                Ok(()) => {
                    self.subscribe(terms.request(id), topic, start).await;
                    return None;
                }
                Err(refusal) => Err(refusal.into()),
            },
            Command::Unsubscribe { topic } => {
                // Who was not subscribed is not, either.
                self.unsubscribe(topic).await;
                Ok(centrifugo::unsubscribed(id))
            }
            Command::Publish { topic, message } => {
                let published = self.publish(&topic, None, true, message).await;
                published.map(|_| centrifugo::published(id)).map_err(Failure::from)
            }
            Command::Presence { topic } => {
                self.who(&topic).await.map(|members| centrifugo::presence(id, &members))
            }
            Command::PresenceStats { topic } => {
                self.who(&topic).await.map(|members| centrifugo::presence_stats(id, &members))
            }
            Command::History { topic, since, limit, is_reverse } => match self.history(&topic).await {
                Ok(Some(page)) => match centrifugo::select(&page, since.as_ref(), limit, is_reverse) {
                    Some(messages) => Ok(centrifugo::history(id, page.top, &messages)),
                    None => Err(Failure::UnrecoverablePosition),
                },
                Ok(None) => Err(Failure::NotAvailable),
                Err(refusal) => Err(refusal.into()),
            },
            Command::SubRefresh { topic } => match self.hub.hooks.subscribe(&self.client, &topic).await {
                Ok(()) => Ok(centrifugo::subscription_refreshed(id)),
                Err(denied) => Err(Refusal::from(denied).into()),
            },
            Command::Ping => Ok(centrifugo::pong(id)),
            // Those of the connection itself, which the conversation has.
            Command::Connect { .. } | Command::Refresh { .. } => Err(Failure::BadRequest),
        };
        Some(answer.unwrap_or_else(|failure| centrifugo::failed(id, failure)))
    }

    async fn who(&self, topic: &Topic) -> Result<Vec<crate::Member>, Failure> {
        if !(self.hub.rules)(topic).presence {
            return Err(Failure::NotAvailable);
        }
        Ok(self.presence(topic).await?)
    }
}
