//! A socket, as a node has it.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use wireline::{CloseFrameError, Message, Prepared, SendError, Socket};

use crate::{
    Topic,
    node::{AfterNotice, Entry, Notice, Outlet, Refused},
    protocol::{Ending, Farewell, Told, WIRES, Wire},
};

/// What a hub has done, on all of its nodes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) publications: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) deliveries: AtomicU64,
}

/// A publication as each protocol has it, made when the first connection of that protocol gets it.
#[derive(Debug, Default)]
pub(super) struct Frames([OnceLock<Option<Prepared>>; WIRES]);

/// Topics of which a connection was told that it is not subscribed any more. Its session leaves them.
#[derive(Debug, Clone, Default)]
pub(super) struct Left(Arc<Mutex<Vec<Topic>>>);

impl Left {
    fn note(&self, topic: &Topic) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(topic.clone());
    }

    /// All that are noted, which it forgets.
    pub(super) fn take(&self) -> Vec<Topic> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A socket that speaks one protocol.
#[derive(Debug, Clone)]
pub(super) struct SocketOutlet {
    pub(super) socket: Socket,
    wire: Wire,
    left: Left,
    counters: Arc<Counters>,
}

impl SocketOutlet {
    pub(super) fn new(socket: Socket, wire: Wire, left: Left, counters: Arc<Counters>) -> Self {
        Self { socket, wire, left, counters }
    }

    fn say(&self, message: Message) {
        // Fails only once the connection is closing.
        let _ = self.socket.try_send_prepared_within(&Prepared::new(message), usize::MAX);
    }

    /// Ends the connection, whatever is queued.
    pub(super) fn end(&self, ending: Ending) {
        // Fails only once the connection is closing.
        let _ = end(&self.socket, self.wire, ending);
    }

    fn frame<'e>(&self, entry: &'e Entry<Frames>) -> Option<&'e Prepared> {
        let frame = entry.frames.0[self.wire as usize].get_or_init(|| {
            let message = self.wire.publication(&entry.publication)?;
            self.counters.frames.fetch_add(1, Ordering::Relaxed);
            Some(Prepared::new(message))
        });
        frame.as_ref()
    }
}

/// Ends a connection, whatever is queued.
pub(super) fn end(socket: &Socket, wire: Wire, ending: Ending) -> Result<(), CloseFrameError> {
    let Farewell { word, code, reason } = wire.farewell(ending);
    if let Some(word) = word {
        let _ = socket.try_send_prepared_within(&Prepared::new(word), usize::MAX);
    }
    socket.close_with(code, reason)
}

impl Outlet for SocketOutlet {
    type Frames = Frames;

    fn offer(&self, entry: &Arc<Entry<Frames>>, limit: usize) -> Result<usize, Refused> {
        let Some(frame) = self.frame(entry) else { return Ok(self.socket.buffered_amount()) };
        let queued = self.socket.try_send_prepared_within(frame, limit).map_err(|error| match error {
            SendError::Full { .. } => Refused::Full,
            _ => Refused::Closed,
        })?;
        self.counters.deliveries.fetch_add(1, Ordering::Relaxed);
        Ok(queued)
    }

    fn tell(&self, notice: &Notice) -> AfterNotice {
        match self.wire.notice(notice) {
            Told::Message(message) => self.say(message),
            Told::Left(message) => {
                // First, so that what the client answers finds it noted.
                self.left.note(notice.topic());
                self.say(message);
                return AfterNotice::Left;
            }
            Told::Close(code, reason) => drop(self.socket.close_with(code, reason)),
            Told::Nothing => {}
        }
        AfterNotice::Subscribed
    }

    fn queued(&self) -> usize {
        self.socket.buffered_amount()
    }
}

#[cfg(test)]
mod tests {
    use wireline::{Config, Deflate, WebSocket, testing::Network};

    use super::*;
    use crate::{
        ConnectionId, Content, Event, History, Position, Publication, Topic,
        backplane::Page,
        node::{Action, Node, NodeConfig, Start, Subscribe},
    };

    /// A node with so many subscribers of one topic, of which nothing was published yet.
    async fn subscribers(
        count: u128,
        topic: &Topic,
        wire: Wire,
    ) -> (Node<SocketOutlet>, Vec<(WebSocket, WebSocket)>) {
        let now = std::time::Instant::now();
        let mut node = Node::new(NodeConfig::default(), now);
        let mut ends = Vec::new();
        for id in 0..count {
            let config = Config::server().deflate(Deflate::server());
            let (client, server) =
                Network::new().pair(Config::client().deflate(Deflate::client()), config).await;
            let connection = ConnectionId(id);
            node.connect(
                connection,
                SocketOutlet::new(server.socket(), wire, Left::default(), Arc::default()),
            );
            let (topic, history, start) = (topic.clone(), History::default(), Start::Now);
            let (request, presence, member) = (1, false, None);
            node.subscribe(Subscribe { connection, request, topic, history, start, presence, member }, now);
            ends.push((client, server));
        }
        node.handle_subscribed(topic, true, now);
        let top = Position::new(0, 0);
        for action in node.take_actions() {
            if let Action::Read { ticket, .. } = action {
                node.handle_page(ticket, Ok(Page { top, proven: false, items: vec![] }), now);
            }
        }
        (node, ends)
    }

    #[tokio::test(start_paused = true)]
    async fn a_publication_is_compressed_once_whatever_the_number_of_subscribers() {
        const SUBSCRIBERS: u128 = 100;
        let topic = Topic::new("tea").expect("it is a name");
        for wire in [Wire::HubV1, Wire::Centrifugo] {
            let (mut node, mut ends) = subscribers(SUBSCRIBERS, &topic, wire).await;
            let text = "the same words, ".repeat(1000);
            let publication = Publication {
                topic: topic.clone(),
                position: Position::new(1, 1),
                previous: Position::new(0, 0).into(),
                content: Content::Message(text.as_str().into()),
                except: None,
            };
            node.handle_event(Event::Published(publication), std::time::Instant::now());
            let entry = node.newest(&topic).expect("it was published");
            let frames: Vec<_> = entry.frames.0.iter().filter_map(OnceLock::get).collect();
            assert_eq!(frames.len(), 1, "one protocol is spoken");
            assert_eq!(frames[0].as_ref().map(Prepared::compressions), Some(1));
            for (client, _) in &mut ends {
                client.recv().await.expect("it is open");
                let heard = client.recv().await.expect("it is open").expect("it is open");
                assert!(heard.to_string().contains(&text));
                let totals = client.deflate_totals().expect("it is compressed");
                assert!(totals.received_compressed * 20 < totals.received, "{totals:?}");
            }
        }
    }
}
