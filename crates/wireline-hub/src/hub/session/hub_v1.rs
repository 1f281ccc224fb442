//! A connection that speaks `hub.v1`.

use std::sync::Arc;

use tokio::time::Instant;
use wireline::{Message, Prepared, Request, Result, WebSocket};

use super::{AUTHENTICATION_TIMEOUT, SILENCE, Session, client, connect, refuse};
use crate::{
    Connect, Position, PublicationId, Topic,
    hub::Inner,
    node::Start,
    protocol::{
        Wire, code,
        hub_v1::{self, Command, Malformed},
    },
};

/// In what time, in milliseconds, clients that lost their connection are to come back: spread, so that they do not
/// come all at once.
const RETRY_MS: [u64; 2] = [500, 20_000];

/// Speaks `hub.v1`.
pub(in crate::hub) async fn serve(hub: Arc<Inner>, request: Request) -> Result<()> {
    if hub.is_leaving() {
        return refuse(request).await;
    }
    let connect = connect(&request);
    let ws = request.accept().protocol(hub_v1::NAME).await?;
    let Some((mut session, broadcasts)) = authenticate(hub, connect, ws).await? else { return Ok(()) };
    let start = broadcasts.map_or(Start::Now, Start::After);
    session.subscribe(hub_v1::HUBS_OWN, Topic::everyone(), start).await;
    session.converse().await
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
    let (client, expires) = client(identity, client_ip);
    let id = client.id().to_string();
    ws.send(hub_v1::authenticated(request, &id, SILENCE.as_secs(), RETRY_MS)).await?;
    Ok(Some((Session::new(hub, client, ws, Wire::HubV1, expires), broadcasts)))
}

impl Session {
    async fn converse(mut self) -> Result<()> {
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
                Err(error @ Malformed::Request { id, .. }) => {
                    tracing::debug!(client = %self.client.id(), %error, "a client is not understood");
                    self.ws.send(hub_v1::error(id, "malformed", false)).await?;
                }
                Err(error) => self.close(code::MALFORMED, error.to_string())?,
            }
            // Who does not read is not listened to.
            self.ws.writable().await;
        }
    }

    async fn handle(&mut self, request: u64, command: Command) -> Option<Message> {
        match command {
            Command::Authenticate { .. } => Some(hub_v1::error(request, "authenticated", false)),
            Command::Subscribe { topic, start } => match self.may_subscribe(&topic).await {
                Ok(()) => {
                    self.subscribe(request, topic, start).await;
                    None
                }
                Err(refusal) => Some(hub_v1::refused(request, refusal)),
            },
            Command::Unsubscribe { topic } => Some(match self.unsubscribe(topic).await {
                true => hub_v1::unsubscribed(request),
                false => hub_v1::error(request, "not_subscribed", false),
            }),
            Command::Publish { key: Some(key), .. } if key.len() > PublicationId::MAX_KEY_LEN => {
                Some(hub_v1::error(request, "key_too_long", false))
            }
            Command::Publish { topic, key, echo, message } => {
                Some(match self.publish(&topic, key, echo, message).await {
                    Ok(position) => hub_v1::published(request, position),
                    Err(refusal) => hub_v1::refused(request, refusal),
                })
            }
            Command::Who { topic } => Some(match self.presence(&topic).await {
                Ok(members) => hub_v1::who(request, &members),
                Err(refusal) => hub_v1::refused(request, refusal),
            }),
        }
    }
}
