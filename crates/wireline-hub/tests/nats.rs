//! The backplane over NATS, with real servers: it does what every backplane must, and loses nothing that it acknowledged
//! whatever becomes of the broker.

mod broker;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wireline_hub::{Backplane, Events, Nats, backplane_conformance, testing::Engine};

use self::broker::{NatsServer, nats_server};

/// More than any test publishes to a topic.
const MESSAGES: usize = 10_000;

/// How long it may take until everybody knows that the broker is away, or there.
const NOTICE: Duration = Duration::from_secs(20);

async fn connect(url: &str) -> Nats {
    Nats::connect(url).max_messages(MESSAGES).await.expect("the broker is there")
}

/// A broker, with all that are connected to it.
#[derive(Clone)]
struct Broker {
    server: Arc<NatsServer>,
    connected: Arc<Mutex<Vec<Nats>>>,
}

impl Broker {
    fn new() -> Self {
        Self { server: Arc::new(nats_server()), connected: Arc::default() }
    }

    async fn until_connected(&self, wanted: bool) {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = async {
            for nats in connected {
                while nats.is_connected() != wanted {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        tokio::time::timeout(NOTICE, all).await.expect("it is noticed");
    }
}

impl Engine for Broker {
    async fn node(&self, events: Events) -> Arc<dyn Backplane> {
        let nats = connect(&self.server.url()).await;
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).push(nats.clone());
        Arc::new(nats.node(events))
    }

    async fn forget(&self) -> bool {
        self.server.kill();
        self.server.forget();
        self.until_connected(false).await;
        self.server.start();
        self.until_connected(true).await;
        true
    }
}

backplane_conformance!(in_real_time: async { Broker::new() });
