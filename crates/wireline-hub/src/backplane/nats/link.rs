//! One connection to the broker, and whether it works.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, HeaderMap, Message, Request, RequestErrorKind, ServerAddr, ServerError,
    Subscriber, connection::State,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use super::next_message;
use crate::BackplaneError;

/// How long an answer of the broker's may take. Raised, publishers wait longer for a broker that hangs; lowered, they
/// ask a slow one twice.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a connection is taken at its word.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// How long what a connection says to itself may take. Beyond, it is made anew. Lowered, a broker that is busy is left
/// for nothing.
const ECHO: Duration = Duration::from_secs(5);

/// Between attempts to connect: doubled each time, from the first to the last.
const RECONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long one attempt to connect may take: a broker that is stopped takes connections and says nothing.
const CONNECT: Duration = Duration::from_secs(2);

/// After what time a client is told again to make a connection anew.
const REQUEST_AGAIN: Duration = Duration::from_secs(15);

/// Between two looks whether a connection is there again.
const LOOK: Duration = Duration::from_millis(50);

/// What the client tells, in order.
pub(super) type ClientEvents = mpsc::UnboundedReceiver<async_nats::Event>;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Lost,
    /// It works, after so many connections.
    Found(u64),
    /// Something that came was dropped.
    Dropped,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    /// Where it hears itself.
    echo: String,
    echoes: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next_echo: AtomicU64,
    works: watch::Sender<bool>,
    /// What the broker has refused, in its own words.
    denials: broadcast::Sender<String>,
    /// Somebody doubts it.
    doubted: Notify,
}

/// What it means that nobody takes a request.
pub(super) fn missing() -> BackplaneError {
    BackplaneError::Unavailable("the stream is not there".into())
}

fn unknown(error: &(impl ToString + ?Sized)) -> BackplaneError {
    BackplaneError::Unknown(error.to_string())
}

/// Connects; with what the client tells, and what it hears from itself.
pub(super) async fn connect(
    servers: &str,
    options: ConnectOptions,
    echo: String,
) -> Result<(Link, ClientEvents, Subscriber), async_nats::Error> {
    let (events, told) = mpsc::unbounded_channel();
    let options = options
        .max_reconnects(None)
        .connection_timeout(CONNECT)
        .ping_interval(PROBE_INTERVAL)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let _ = events.send(event);
            std::future::ready(())
        });
    let client = options.connect(servers.split(',').collect::<Vec<_>>()).await?;
    let hearing = client.subscribe(echo.clone()).await?;
    let link = Link {
        client,
        echo,
        echoes: Mutex::default(),
        next_echo: AtomicU64::new(0),
        works: watch::Sender::new(true),
        denials: broadcast::Sender::new(16),
        doubted: Notify::new(),
    };
    Ok((link, told, hearing))
}

/// With the user that the first of the servers' URLs names, or the token that stands in his place: the client itself
/// does not look there.
pub(super) fn with_user(servers: &str, options: ConnectOptions) -> ConnectOptions {
    let first = servers.split(',').next().and_then(|server| server.parse::<ServerAddr>().ok());
    let Some(first) = first else { return options };
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match (first.username(), first.password()) {
        (Some(user), Some(password)) => options.user_and_password(decode(user), decode(password)),
        (Some(token), None) => options.token(decode(token)),
        (None, _) => options,
    }
}

fn reconnect_delay(attempts: usize) -> Duration {
    let (first, last) = RECONNECT_DELAY;
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = (first * (1 << doublings)).min(last);
    // Nodes that lost their broker together do not come back together.
    longest.mul_f64(f64::from(crate::entropy::mark()) / f64::from(u32::MAX))
}

impl Link {
    pub(super) fn works(&self) -> bool {
        *self.works.borrow()
    }

    fn check(&self) -> Result<(), BackplaneError> {
        if self.works() { Ok(()) } else { Err(BackplaneError::Unavailable("not connected".into())) }
    }

    /// What the broker answers, unless the connection is lost or it takes too long. While the connection does not work
    /// it fails at once.
    pub(super) async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, BackplaneError>>,
    ) -> Result<T, BackplaneError> {
        let mut works = self.works.subscribe();
        self.check()?;
        tokio::select! {
            biased;
            answer = answer => answer,
            _ = works.wait_for(|works| !works) => Err(unknown("the connection was lost")),
            () = sleep(ANSWER) => Err(unknown(&format!("no answer in {ANSWER:?}"))),
        }
    }

    /// Asks the broker.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, BackplaneError> {
        let denials = self.denials.subscribe();
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let asking = async {
            tokio::select! {
                answer = self.client.send_request(subject.to_owned(), request) => {
                    answer.map_err(|error| self.explain(&error))
                }
                denial = denied(denials, subject) => Err(BackplaneError::Denied(denial)),
            }
        };
        self.bounded(asking).await
    }

    fn explain(&self, error: &async_nats::RequestError) -> BackplaneError {
        match error.kind() {
            RequestErrorKind::NoResponders => missing(),
            RequestErrorKind::MaxPayloadExceeded => {
                let limit = self.client.max_payload();
                BackplaneError::TooLarge { len: limit + 1, limit }
            }
            RequestErrorKind::InvalidSubject => BackplaneError::Denied(error.to_string()),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                BackplaneError::Unknown(error.to_string())
            }
        }
    }

    /// Asks for several messages of a stream. A server that does not know of batches answers with one.
    pub(super) async fn request_batch(
        &self,
        subject: &str,
        payload: Bytes,
    ) -> Result<Vec<Message>, BackplaneError> {
        let asking = async {
            let inbox = self.client.new_inbox();
            let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| unknown(&error))?;
            self.client
                .publish_with_reply(subject.to_owned(), inbox, payload)
                .await
                .map_err(|error| unknown(&error))?;
            let mut batch = Vec::new();
            while let Some(answer) = next_message(&mut answers).await {
                match answer.status.map(|status| status.as_u16()) {
                    None | Some(200) => {}
                    // The end of the batch, or nothing is there.
                    Some(204 | 404) => return Ok(batch),
                    Some(503) => return Err(missing()),
                    Some(status) => return Err(BackplaneError::Unavailable(format!("it answers {status}"))),
                }
                let is_batch =
                    answer.headers.as_ref().is_some_and(|headers| headers.get("Nats-Num-Pending").is_some());
                batch.push(answer);
                if !is_batch {
                    return Ok(batch);
                }
            }
            Err(unknown("no more answers"))
        };
        self.bounded(asking).await
    }

    /// Subscribes.
    pub(super) async fn subscribe(&self, subject: String) -> Result<Subscriber, BackplaneError> {
        self.bounded(async { self.client.subscribe(subject).await.map_err(|error| unknown(&error)) }).await
    }

    /// Returns when the broker has taken all that this connection said before.
    pub(super) async fn settle(&self) -> Result<(), BackplaneError> {
        let mut works = self.works.subscribe();
        self.check()?;
        tokio::select! {
            is_heard = self.hears_itself() => match is_heard {
                true => Ok(()),
                false => Err(unknown(&format!("no echo in {ECHO:?}"))),
            },
            _ = works.wait_for(|works| !works) => Err(unknown("the connection was lost")),
        }
    }

    /// Whether the broker brings back what this connection says, in time.
    async fn hears_itself(&self) -> bool {
        let number = self.next_echo.fetch_add(1, Ordering::Relaxed);
        let (heard, hearing) = oneshot::channel();
        self.echoes().insert(number, heard);
        let exchange = async {
            let payload = Bytes::from(number.to_string());
            self.client.publish(self.echo.clone(), payload).await.is_ok() && hearing.await.is_ok()
        };
        let is_heard = timeout(ECHO, exchange).await.unwrap_or(false);
        self.echoes().remove(&number);
        is_heard
    }

    fn echoes(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what it said to itself.
    pub(super) async fn hear(&self, mut hearing: Subscriber) {
        while let Some(message) = next_message(&mut hearing).await {
            let number = std::str::from_utf8(&message.payload).ok().and_then(|number| number.parse().ok());
            if let Some(heard) = number.and_then(|number: u64| self.echoes().remove(&number)) {
                let _ = heard.send(());
            }
        }
    }

    /// Watches the connection, has it made anew when nothing comes back, and tells of it. `ready` is awaited before it
    /// works again.
    pub(super) async fn watch<R>(
        &self,
        mut events: ClientEvents,
        tell: impl Fn(Change),
        ready: impl Fn() -> R,
    ) where
        R: Future<Output = bool>,
    {
        let mut connects = self.connects();
        loop {
            let condemned = self.until_lost(&mut events, connects, &tell).await;
            self.works.send_replace(false);
            tell(Change::Lost);
            connects = self.until_found(&mut events, &ready, condemned).await;
            self.works.send_replace(true);
            tell(Change::Found(connects));
        }
    }

    /// Has it looked after, as if it had been lost.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Which connection does not work, unless the client knows.
    async fn until_lost(
        &self,
        events: &mut ClientEvents,
        connects: u64,
        tell: &impl Fn(Change),
    ) -> Option<u64> {
        loop {
            let mut probe = pin!(async {
                sleep(PROBE_INTERVAL).await;
                self.hears_itself().await
            });
            let is_heard = loop {
                tokio::select! {
                    is_heard = &mut probe => break is_heard,
                    () = self.doubted.notified() => return None,
                    Some(event) = events.recv() => match event {
                        async_nats::Event::Disconnected | async_nats::Event::Closed => return None,
                        async_nats::Event::SlowConsumer(_) => tell(Change::Dropped),
                        async_nats::Event::ServerError(ServerError::Other(error)) => self.note_denial(error),
                        _ => {}
                    },
                }
            };
            if !is_heard {
                return Some(connects);
            }
            // The client drops events when it has many.
            if self.connects() != connects {
                return None;
            }
        }
    }

    fn note_denial(&self, error: String) {
        tracing::warn!(%error, "NATS refuses something");
        let _ = self.denials.send(error);
    }

    /// How many connections there have been when one works. The one that is condemned does not.
    async fn until_found<R>(
        &self,
        events: &mut ClientEvents,
        ready: &impl Fn() -> R,
        mut condemned: Option<u64>,
    ) -> u64
    where
        R: Future<Output = bool>,
    {
        loop {
            let connects = self.connects();
            if condemned == Some(connects) {
                tracing::warn!("no echo from NATS in {ECHO:?}: connecting anew");
                self.reconnect(connects).await;
            } else if self.is_connected(connects) {
                let is_ready = tokio::select! {
                    is_heard = self.hears_itself() => {
                        condemned = (!is_heard).then_some(connects);
                        is_heard && tokio::select! {
                            is_ready = ready() => is_ready,
                            () = self.until_gone(connects) => false,
                        }
                    }
                    () = self.until_gone(connects) => false,
                };
                // What was told of the loss is known.
                while events.try_recv().is_ok() {}
                if is_ready && self.is_connected(connects) {
                    return connects;
                }
            }
            sleep(LOOK).await;
        }
    }

    fn is_connected(&self, connects: u64) -> bool {
        self.connects() == connects && self.client.connection_state() == State::Connected
    }

    async fn until_gone(&self, connects: u64) {
        while self.is_connected(connects) {
            sleep(LOOK).await;
        }
    }

    /// Has the client drop its connection and make another. One that cannot even be told so notices by itself: it pings.
    async fn reconnect(&self, connects: u64) {
        let reconnecting = async {
            if self.client.force_reconnect().await.is_ok() {
                while self.connects() == connects {
                    sleep(LOOK).await;
                }
            }
        };
        let _ = timeout(REQUEST_AGAIN, reconnecting).await;
    }
}

/// The broker's word that it refuses this subject.
async fn denied(mut denials: broadcast::Receiver<String>, subject: &str) -> String {
    let quoted = format!("\"{subject}\"");
    loop {
        match denials.recv().await {
            Ok(denial) if denial.contains(&quoted) => return denial,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
