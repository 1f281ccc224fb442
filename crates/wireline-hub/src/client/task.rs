//! A client's task: connections one after the other, and what is said on each.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};
use wireline::{Backoff, CloseCode, Connect, ConnectError, Prepared, Reconnect, WebSocket};

use super::{
    AskToken, ClientError, Command, ConnectClient, OnLoss, Options,
    dialogue::{Dialogue, Next},
};
use crate::{entropy, protocol::hub_v1};

/// In what time clients come back unless their server says something else.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];

/// Bytes that may wait in a socket. What goes beyond waits in the client, where a loss finds it.
const HIGH_WATER: usize = 64 << 10;

/// Close codes that a hub says this by: do not come back.
const LASTING: std::ops::Range<u16> = 3500..4000;

/// How a client stands.
#[derive(Debug, Clone)]
pub(super) enum Status {
    Away,
    Open,
    Ended(ClientError),
}

/// How a connection is opened, and the next.
pub(super) struct Connections {
    reconnect: Reconnect,
    attempt: Attempt,
    /// None: as the server wants it.
    backoff: Option<Backoff>,
    window: [Duration; 2],
    /// It has not seen a connection yet, and does not wait before the next.
    is_fresh: bool,
}

/// What an attempt to connect is made of.
#[derive(Clone)]
struct Attempt {
    url: String,
    token: Option<AskToken>,
    options: Option<Options>,
    on_loss: Option<OnLoss>,
    shared: Arc<Mutex<Shared>>,
}

/// Between a client's task and its attempts.
#[derive(Default)]
struct Shared {
    /// When the next one may begin, whatever the backoff says.
    not_before: Option<Instant>,
    /// What the last one is to be taken for.
    token: Option<String>,
}

impl Connections {
    pub(super) fn new(connect: ConnectClient) -> Self {
        let ConnectClient { url, token, options, backoff, on_loss } = connect;
        let attempt = Attempt { url, token, options, on_loss, shared: Arc::default() };
        let reconnect = attempt.reconnect(backoff.unwrap_or_else(|| as_wanted(RETRY)));
        Self { reconnect, attempt, backoff, window: RETRY, is_fresh: false }
    }

    /// Keeps to the time in which the server wants its clients to come back.
    fn keep_to(&mut self, window: [Duration; 2]) {
        if self.backoff.is_none() && self.window != window {
            (self.window, self.is_fresh) = (window, true);
            self.reconnect = self.attempt.reconnect(as_wanted(window));
        }
    }

    /// The connection is over: waits before the next as the server wants it.
    fn handle_lost(&mut self, wanted: Option<[Duration; 2]>) {
        let first = [Duration::ZERO, self.window[0]];
        if let Some(window) = wanted.or(self.is_fresh.then_some(first)) {
            self.pause(window);
        }
        self.is_fresh = false;
    }

    /// Has the next attempt wait for a random time.
    fn pause(&self, [least, most]: [Duration; 2]) {
        let pause = least + most.saturating_sub(least).mul_f64(entropy::fraction());
        self.attempt.shared().not_before = Instant::now().checked_add(pause);
    }
}

fn as_wanted([base, max]: [Duration; 2]) -> Backoff {
    Backoff::default().base(base).max(max)
}

impl Attempt {
    fn reconnect(&self, backoff: Backoff) -> Reconnect {
        let attempt = self.clone();
        let reconnect = wireline::reconnect_with(backoff, move || attempt.clone().prepare());
        match self.on_loss.clone() {
            Some(on_loss) => reconnect.on_loss(move |loss, delay| on_loss(loss, delay)),
            None => reconnect,
        }
    }

    async fn prepare(self) -> Result<Connect, ConnectError> {
        let not_before = self.shared().not_before.take();
        if let Some(at) = not_before {
            sleep_until(at).await;
        }
        if let Some(ask) = &self.token {
            let token = ask().await.map_err(ConnectError::Http)?;
            self.shared().token = Some(token);
        }
        let connect = wireline::connect(self.url);
        let connect = match self.options {
            Some(set) => set(connect),
            None => connect,
        };
        Ok(connect.protocols([hub_v1::NAME]))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a connection ended for a client.
enum Ended {
    /// It is lost, closed by the server or given up: another follows.
    Lost(Option<CloseCode>),
    /// The server wants it to leave: another follows after this time.
    Left([Duration; 2]),
    /// No other follows.
    For(ClientError),
}

/// Runs until nobody has a handle any more, or the client is closed, or cannot come back.
pub(super) async fn run(
    connections: Connections,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
    publishing: Arc<Semaphore>,
) {
    let mut task = Task { dialogue: Dialogue::new(entropy::fraction), commands, status };
    let error = task.run(connections).await;
    tracing::debug!(%error, "a client of a hub ended");
    task.status.send_replace(Status::Ended(error.clone()));
    publishing.close();
    task.dialogue.end(&error);
    // What is asked of it from now on is answered by the status.
    task.commands.close();
    while let Some(command) = task.commands.recv().await {
        drop(command);
    }
}

struct Task {
    dialogue: Dialogue,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Task {
    async fn run(&mut self, mut connections: Connections) -> ClientError {
        loop {
            let mut ws = match self.connect(&mut connections).await {
                Ok(ws) => ws,
                Err(error) => return error,
            };
            let token = connections.attempt.shared().token.take();
            self.dialogue.open(token.as_deref(), now());
            let ended = self.talk(&mut ws, &mut connections).await;
            self.status.send_replace(Status::Away);
            let (code, window) = match ended {
                Ended::Lost(code) => (code, None),
                Ended::Left(window) => (None, Some(window)),
                Ended::For(error) => return error,
            };
            connections.handle_lost(window);
            self.dialogue.handle_lost(code, now());
        }
    }

    /// The next connection. Commands are taken meanwhile.
    async fn connect(&mut self, connections: &mut Connections) -> Result<WebSocket, ClientError> {
        let next = connections.reconnect.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                connected = &mut next => return connected.map_err(ClientError::from),
                command = self.commands.recv() => self.handle_command(command)?,
                () = until(self.dialogue.poll_timeout()) => {
                    self.dialogue.handle_timeout(now());
                }
            }
        }
    }

    /// Says what is to be said, and hears what comes, until the connection is over.
    async fn talk(&mut self, ws: &mut WebSocket, connections: &mut Connections) -> Ended {
        let socket = ws.socket();
        loop {
            let next = tokio::select! {
                received = ws.recv() => match received {
                    Ok(Some(message)) => self.dialogue.receive(message, now()),
                    Ok(None) | Err(_) => return lost(ws).await,
                },
                command = self.commands.recv() => match self.handle_command(command) {
                    Ok(()) => Next::Stay,
                    Err(error) => return Ended::For(error),
                },
                // The server is listened to while it does not listen, since it may wait for that.
                () = socket.writable(), if self.dialogue.has_outgoing() => {
                    self.transmit(ws);
                    Next::Stay
                }
                () = until(self.dialogue.poll_timeout()) => self.dialogue.handle_timeout(now()),
            };
            match next {
                Next::Stay => {}
                Next::Open(window) => {
                    connections.keep_to(window.unwrap_or(RETRY));
                    self.status.send_replace(Status::Open);
                }
                Next::Leave(window) => return Ended::Left(window),
                Next::Abandon(why) => {
                    tracing::debug!(why, "a connection to a hub is given up");
                    ws.abort();
                    return Ended::Lost(None);
                }
                Next::End(error) => return Ended::For(error),
            }
        }
    }

    /// Hands on what there is to the socket, which has room.
    fn transmit(&mut self, ws: &WebSocket) {
        while let Some(message) = self.dialogue.next_outgoing(now()) {
            // Fails only once the connection is closing, and receiving tells how that ends.
            let _ = ws.try_send_prepared_within(&Prepared::new(message), usize::MAX);
            if ws.buffered_amount() > HIGH_WATER {
                return;
            }
        }
    }

    /// An error: the client ends.
    fn handle_command(&mut self, command: Option<Command>) -> Result<(), ClientError> {
        match command {
            None | Some(Command::Close) => return Err(ClientError::Ended),
            Some(Command::Subscribe { topic, feed }) => self.dialogue.subscribe(&topic, feed),
            Some(Command::Unsubscribe { topic, key }) => self.dialogue.unsubscribe(&topic, key),
            Some(Command::CatchUp { topic, key }) => self.dialogue.catch_up(&topic, key),
            Some(Command::Publish(publishing)) => self.dialogue.publish(publishing),
            Some(Command::Who { topic, answer }) => self.dialogue.who(topic, answer),
            Some(Command::Listen { key, queue }) => self.dialogue.listen(key, queue),
        }
        Ok(())
    }
}

/// What the end of a connection means.
async fn lost(ws: &WebSocket) -> Ended {
    let event = ws.closed().await;
    let code = u16::from(event.code);
    if LASTING.contains(&code) {
        Ended::For(ClientError::Closed(event))
    } else {
        Ended::Lost(Some(event.code))
    }
}

/// Waits for a time that may not come.
async fn until(timeout: Option<std::time::Instant>) {
    match timeout {
        Some(timeout) => sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}
