//! One topic a connection, and nothing but its payloads.

use std::time::Duration;

use wireline::{Config, Message, Request, Server, WebSocket, testing::Network};
use wireline_hub::{History, Hub, Topic, TopicRules, node::NodeConfig};

use crate::client::open;

fn server(hub: &Hub) -> Server {
    let hub = hub.clone();
    Server::new().route("/{topic}", move |req: Request| {
        let topic = req.param("topic").and_then(|name| Topic::new(name).ok()).expect("the route has a name");
        hub.clone().serve_topic(req, topic, 2)
    })
}

async fn connect(hub: &Hub, network: &Network) -> WebSocket {
    network
        .connect(&server(hub), "ws://hub.example/tea")
        .config(Config::client())
        .await
        .expect("it is accepted")
}

#[tokio::test(start_paused = true)]
async fn payloads_go_both_ways_as_they_are() {
    let hub = open().start();
    for text in ["1", "2", "3"] {
        hub.publish("tea", text).await.expect("it is published");
    }
    let network = Network::new();
    let [mut ann, mut bob] = [connect(&hub, &network).await, connect(&hub, &network).await];
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.recv().await.expect("it is open"), Some("2".into()));
        assert_eq!(client.recv().await.expect("it is open"), Some("3".into()));
    }
    for message in [Message::from("text"), Message::from(vec![0xff]), Message::from("")] {
        ann.send(message.clone()).await.expect("it is open");
        assert_eq!(ann.recv().await.expect("it is open"), Some(message.clone()));
        assert_eq!(bob.recv().await.expect("it is open"), Some(message));
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_publish_is_closed_and_who_may_not_hear_is_not_accepted() {
    let hub = Hub::new();
    let mut client = connect(&hub, &Network::new()).await;
    client.send("x").await.expect("it is open");
    assert_eq!(client.recv().await.expect("it was clean"), None);
    assert_eq!(client.closed().await.code, 3502);

    let hub = Hub::builder().on_subscribe(|_, _| async { Err(wireline_hub::Denied) }).start();
    let refused = Network::new().connect(&server(&hub), "ws://hub.example/tea").await;
    let Err(wireline::ConnectError::Rejected(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 403);
}

#[tokio::test(start_paused = true)]
async fn where_something_is_missing_the_connection_ends() {
    let rules = TopicRules { history: History::messages(1), presence: false };
    let config = NodeConfig { queue_limit: 1000, ..NodeConfig::default() };
    let hub = Hub::builder().topics(move |_| rules).node(config).start();
    let network = Network::new();
    let mut client = connect(&hub, &network).await;
    network.stall();
    for _ in 0..100 {
        hub.publish("tea", vec![0; 10_000]).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    network.resume();
    let mut heard = 0;
    while let Ok(message) = tokio::time::timeout(Duration::from_secs(120), client.recv()).await
        && message.expect("the connection ends cleanly").is_some()
    {
        heard += 1;
    }
    client.close(); // If it is not closing, it was not closed by the hub.
    assert!(heard < 100, "nothing was missing");
    assert_eq!(client.closed().await.code, 3001);
}
