//! The connection that deliveries come over, kept up by a task for as long as the node is there.

use std::{collections::HashSet, future::poll_fn, pin::Pin, time::Duration};

use futures_core::Stream;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{CONNECT_TIMEOUT, backoff::Backoff, envelope, names::Names, place::Place, probe::Probe};
use crate::{BackplaneError, Event, Events, Topic};

/// Topics that are asked for in one command. Raised, a command may take as long as one that is lost.
const BATCH: usize = 512;

/// How long the server may take to say that it delivers them.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// A node's end of the task. Dropped, that ends.
#[derive(Debug)]
pub(super) struct Subscription {
    wishes: mpsc::UnboundedSender<Wish>,
}

/// A topic that is to be delivered, or not any more.
#[derive(Debug)]
struct Wish {
    topic: Topic,
    is_wanted: bool,
    done: oneshot::Sender<Result<(), BackplaneError>>,
}

/// Why deliveries have ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the node is gone")]
    Unwanted,
    #[error("{0}")]
    Lost(String),
    #[error("what it says to itself is not heard")]
    Deaf,
}

/// The task.
struct Listener {
    server: Place,
    names: Names,
    events: Events,
    probe: Probe,
    wishes: mpsc::UnboundedReceiver<Wish>,
    wanted: HashSet<Topic>,
    backoff: Backoff,
    /// The node was told that the engine is away.
    is_down: bool,
}

impl Subscription {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn start(server: Place, names: Names, events: Events, probe: Probe) -> Self {
        let (wishes, receiver) = mpsc::unbounded_channel();
        let listener = Listener {
            server,
            names,
            events,
            probe,
            wishes: receiver,
            wanted: HashSet::new(),
            backoff: Backoff::new(),
            is_down: false,
        };
        tokio::spawn(listener.run());
        Self { wishes }
    }

    /// Has a topic delivered, or not any more. It returns when the server has said so.
    pub(super) async fn want(&self, topic: &Topic, is_wanted: bool) -> Result<(), BackplaneError> {
        let (done, answer) = oneshot::channel();
        let _ = self.wishes.send(Wish { topic: topic.clone(), is_wanted, done });
        let lost = || BackplaneError::Unavailable("the connection was lost".into());
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Listener {
    async fn run(mut self) {
        loop {
            let ended = self.listen().await;
            if matches!(ended, Ended::Unwanted) {
                return;
            }
            if !self.is_down {
                tracing::warn!(%ended, "the backplane is not heard");
                self.is_down = true;
                self.events.tell(Event::Down);
            }
            let until = Instant::now() + self.backoff.next();
            if !self.refuse_until(until).await {
                return;
            }
        }
    }

    /// Connects and hears until that ends.
    async fn listen(&mut self) -> Ended {
        // Found anew each time, its name resolved.
        let connecting = async { self.server.find().await?.get_async_pubsub().await };
        let (sink, stream) = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection.split(),
            Ok(Err(error)) => return Ended::Lost(error.to_string()),
            Err(_) => return Ended::Lost("no connection came about in time".into()),
        };
        let (names, events, probe) = (self.names.clone(), self.events.clone(), self.probe.clone());
        // What is delivered is taken in while the server is asked for more.
        tokio::select! {
            ended = drain(stream, &names, &events, &probe) => ended,
            ended = self.keep(sink) => ended,
        }
    }

    /// Has delivered what is wanted, and looks whether it is.
    async fn keep(&mut self, mut sink: PubSubSink) -> Ended {
        let wanted: Vec<Topic> = self.wanted.iter().cloned().collect();
        let channels: Vec<String> = wanted.iter().map(|topic| self.names.channel(topic)).collect();
        let own = [self.probe.channel().to_owned()];
        for batch in std::iter::once(&own[..]).chain(channels.chunks(BATCH)) {
            if let Err(ended) = ask(&mut sink, batch, true).await {
                return ended;
            }
        }
        let Self { names, events, probe, wishes, wanted, backoff, is_down, .. } = self;
        let check = async {
            while probe.is_heard().await {
                backoff.reset();
                if std::mem::take(is_down) {
                    tracing::info!("the backplane is heard again");
                    events.tell(Event::Up);
                }
                probe.rest().await;
            }
            Ended::Deaf
        };
        tokio::select! {
            ended = check => ended,
            ended = grant(wishes, wanted, &mut sink, names) => ended,
        }
    }

    /// Answers the node while the server is away; false if the node is gone.
    async fn refuse_until(&mut self, until: Instant) -> bool {
        loop {
            let wish = tokio::select! {
                () = sleep_until(until) => return true,
                wish = self.wishes.recv() => wish,
            };
            let Some(wish) = wish else { return false };
            wish.note(&mut self.wanted);
            let answer = if wish.is_wanted {
                Err(BackplaneError::Unavailable("deliveries have ended".into()))
            } else {
                Ok(())
            };
            let _ = wish.done.send(answer);
        }
    }
}

impl Wish {
    /// Whatever becomes of this connection, the next one has it as the node wants it.
    fn note(&self, wanted: &mut HashSet<Topic>) {
        if self.is_wanted {
            wanted.insert(self.topic.clone());
        } else {
            wanted.remove(&self.topic);
        }
    }
}

/// Asks the server for what the node wants.
async fn grant(
    wishes: &mut mpsc::UnboundedReceiver<Wish>,
    wanted: &mut HashSet<Topic>,
    sink: &mut PubSubSink,
    names: &Names,
) -> Ended {
    let mut batch = Vec::new();
    loop {
        if wishes.recv_many(&mut batch, BATCH).await == 0 {
            return Ended::Unwanted;
        }
        batch.iter().for_each(|wish| wish.note(wanted));
        while let Some(first) = batch.first() {
            // In order, and as many as are alike.
            let is_wanted = first.is_wanted;
            let end = batch.iter().position(|wish| wish.is_wanted != is_wanted).unwrap_or(batch.len());
            let channels: Vec<String> = batch[..end].iter().map(|wish| names.channel(&wish.topic)).collect();
            if let Err(ended) = ask(sink, &channels, is_wanted).await {
                // Who waits is told by the loss of its answer.
                return ended;
            }
            for wish in batch.drain(..end) {
                let _ = wish.done.send(Ok(()));
            }
        }
    }
}

async fn ask(sink: &mut PubSubSink, channels: &[String], is_wanted: bool) -> Result<(), Ended> {
    let asked =
        async { if is_wanted { sink.subscribe(channels).await } else { sink.unsubscribe(channels).await } };
    match timeout(CONFIRMATION, asked).await {
        Ok(result) => result.map_err(|error| Ended::Lost(error.to_string())),
        Err(_) => Err(Ended::Lost("a subscription was not confirmed in time".into())),
    }
}

/// Tells the node all that comes, until nothing comes any more.
async fn drain(mut stream: PubSubStream, names: &Names, events: &Events, probe: &Probe) -> Ended {
    while let Some(message) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        probe.note_message();
        let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
        if channel == probe.channel() {
            probe.note_echo(payload);
            continue;
        }
        let Some(topic) = names.topic(channel) else { continue };
        match envelope::decode_delivery(topic, bytes::Bytes::copy_from_slice(payload)) {
            Some(publication) => events.tell(Event::Published(publication)),
            None => tracing::warn!(channel, "something was published that no hub did"),
        }
    }
    Ended::Lost("the connection was lost".into())
}
