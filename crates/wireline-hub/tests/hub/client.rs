//! A client of `hub.v1`, and what its tests stand on.

use serde_json::Value;
use wireline::{Config, Request, Server, WebSocket, testing::Network};
use wireline_hub::{Hub, HubBuilder, Topic};

pub(crate) fn topic() -> Topic {
    Topic::new("tea").expect("it is a name")
}

/// In virtual time: after this nothing is said any more.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// A hub where clients may publish.
pub(crate) fn open() -> HubBuilder {
    Hub::builder().on_publish(|_, _| async { Ok(()) })
}

pub(crate) fn server(hub: &Hub) -> Server {
    let hub = hub.clone();
    Server::new().on_request(move |req: Request| hub.clone().serve(req))
}

/// A connection, and the network that it goes over.
pub(crate) struct Client {
    pub(crate) ws: WebSocket,
    pub(crate) network: Network,
    next_request: u64,
}

/// What the hub said: its header line, and the payload behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) header: Value,
    pub(crate) payload: Vec<u8>,
}

impl Said {
    fn new(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let header = serde_json::from_slice(&bytes[..end]).expect("the header is JSON");
        Self { header, payload: bytes[bytes.len().min(end + 1)..].to_vec() }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("it is text")
    }

    pub(crate) fn position(&self) -> String {
        let position = self.header.get("p").or(self.header.get("pos")).expect("it has a position");
        position.as_str().expect("it is text").to_owned()
    }

    pub(crate) fn error(&self) -> &str {
        self.header["err"]["code"].as_str().unwrap_or_else(|| panic!("{self:?} is no error"))
    }
}

impl Client {
    /// Connected, and not known yet.
    pub(crate) async fn open(hub: &Hub, config: Config) -> Self {
        let network = Network::new();
        let connecting = network.connect(&server(hub), "ws://hub.example/").protocols(["hub.v1"]);
        let ws = connecting.config(config).await.expect("the server accepts");
        Self { ws, network, next_request: 0 }
    }

    /// Connected as whoever the token says, and subscribed to what is broadcast.
    pub(crate) async fn connect_as(hub: &Hub, token: Option<&str>) -> Self {
        let mut client = Self::open(hub, Config::client()).await;
        let answer = client.ask(&serde_json::json!({"op": "auth", "token": token}), "").await;
        assert_eq!(answer.header["ping"], 25, "{answer:?}");
        let broadcasts = client.hear().await;
        assert_eq!(broadcasts.header["t"], "$all");
        client
    }

    pub(crate) async fn connect(hub: &Hub) -> Self {
        Self::connect_as(hub, None).await
    }

    /// Sends a request without waiting for its answer, whose number it gives.
    pub(crate) async fn request(&mut self, request: &Value, payload: &str) -> u64 {
        self.next_request += 1;
        let mut header = request.clone();
        header["id"] = self.next_request.into();
        let message = if payload.is_empty() { header.to_string() } else { format!("{header}\n{payload}") };
        self.ws.send(message).await.expect("it is open");
        self.next_request
    }

    /// Sends a request; its answer, which must come before anything else.
    pub(crate) async fn ask(&mut self, request: &Value, payload: &str) -> Said {
        let id = self.request(request, payload).await;
        let said = self.hear().await;
        assert_eq!(said.header["re"], id, "{said:?}");
        said
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) -> Said {
        self.ask(&serde_json::json!({"op": "sub", "t": topic}), "").await
    }

    pub(crate) async fn resume(&mut self, topic: &str, since: &str) -> Said {
        self.ask(&serde_json::json!({"op": "sub", "t": topic, "since": since}), "").await
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) {
        self.request(&serde_json::json!({"op": "pub", "t": topic}), payload).await;
    }

    /// The next that is said, which is no sign of life.
    pub(crate) async fn hear(&mut self) -> Said {
        let heard = tokio::time::timeout(PATIENCE, self.hear_at_last()).await;
        heard.expect("something is said")
    }

    async fn hear_at_last(&mut self) -> Said {
        loop {
            let message = self.ws.recv().await.expect("it is open").expect("it is open");
            if !message.is_empty() {
                return Said::new(message.as_bytes());
            }
        }
    }

    /// The payloads of the next publications.
    pub(crate) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let said = self.hear().await;
            assert!(said.header.get("p").is_some(), "{said:?} is no publication");
            texts.push(said.text().to_owned());
        }
        texts
    }

    /// Asserts that nothing is said for a while.
    pub(crate) async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(std::time::Duration::from_secs(2), self.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// The code that the hub closes with.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let closed = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(_)) = self.ws.recv().await {}
            self.ws.closed().await
        });
        closed.await.expect("it is closed").code.into()
    }
}
