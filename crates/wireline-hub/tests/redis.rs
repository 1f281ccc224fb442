//! The backplane over Redis or Valkey, with real servers: it does what every backplane must, and loses nothing that it
//! acknowledged whatever becomes of the server.

#[path = "broker/redis.rs"]
mod broker;
#[path = "broker/process.rs"]
mod process;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use wireline_hub::{Backplane, Events, Redis, backplane_conformance, testing::Engine};

use self::broker::{Keeps, RedisServer};

/// A server, with all the nodes that are connected to it.
#[derive(Clone)]
struct Server {
    server: Arc<RedisServer>,
    nodes: Arc<Mutex<Vec<Weak<dyn Backplane>>>>,
}

impl Server {
    fn start() -> Self {
        Self { server: Arc::new(RedisServer::start(Keeps::Nothing)), nodes: Arc::default() }
    }
}

impl Engine for Server {
    async fn node(&self, events: Events) -> Arc<dyn Backplane> {
        let redis = Redis::new(&self.server.url()).expect("it is a URL");
        let node: Arc<dyn Backplane> = Arc::new(redis.node(events));
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&node));
        node
    }

    async fn forget(&self) -> bool {
        self.server.kill();
        self.server.start_again();
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let topic = "up".parse().expect("it is a name");
        for node in nodes.iter().filter_map(Weak::upgrade) {
            while node.read(&topic, None, 0).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        true
    }
}

backplane_conformance!(in_real_time: async { Server::start() });
