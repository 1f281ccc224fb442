//! What topics and slow consumers cost in memory, counted at the allocator, under virtual time.

#[expect(dead_code, reason = "the client of the hub's tests can do more than is needed here")]
#[path = "hub/client.rs"]
mod client;

use tokio::runtime::{Builder, Runtime};
use wireline_hub::{History, Hub, HubBuilder, TopicRules, node::NodeConfig};
use wireline_testkit::allocations::{self, CountingAllocator};

use crate::client::{Client, open};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// One thread, whose allocations are counted, and virtual time.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

fn keeping(history: History) -> HubBuilder {
    open().shards(1).topics(move |_| TopicRules { history, presence: false })
}

const TOPICS: usize = 10_000;

const TOPICS_OF_A_CLIENT: usize = 1000;

/// Bytes that each of so many topics costs with one subscriber, and `published` messages of 100 bytes in each.
fn bytes_of_a_topic(history: History, published: usize) -> isize {
    let runtime = runtime();
    let (hub, mut clients) = runtime.block_on(async {
        // Besides these everybody has two: what is broadcast, and one that warms up.
        let hub = keeping(history).max_subscriptions(TOPICS_OF_A_CLIENT + 2).start();
        let mut clients = Vec::new();
        for _ in 0..TOPICS / TOPICS_OF_A_CLIENT {
            let mut client = Client::connect(&hub).await;
            client.subscribe("warm").await;
            clients.push(client);
        }
        (hub, clients)
    });
    let ((), cost) = allocations::of(|| {
        runtime.block_on(async {
            for number in 0..TOPICS {
                let (client, topic) = (number / TOPICS_OF_A_CLIENT, format!("chat:{number:05}"));
                clients[client].subscribe(&topic).await;
                for _ in 0..published {
                    hub.publish(&*topic, "x".repeat(100)).await.expect("it is published");
                    clients[client].texts(1).await;
                }
            }
        });
    });
    let topics = runtime.block_on(hub.topics()).len();
    assert_eq!(topics, TOPICS + 2, "all of them are there");
    cost.kept_bytes / isize::try_from(TOPICS).expect("it is a small number")
}

#[test]
fn a_topic_with_one_subscriber_costs_little() {
    let bare = bytes_of_a_topic(History::NONE, 0);
    let kept = bytes_of_a_topic(History::messages(10), 1);
    eprintln!(
        "{TOPICS} topics, one subscriber each: {bare} bytes a topic, {kept} with a message of 100 bytes kept"
    );
    assert!((200..2000).contains(&bare), "{bare}");
    assert!((bare + 100..bare + 2000).contains(&kept), "{kept}");
}

const CONSUMERS: usize = 1000;
const LEN: usize = 10_000;

/// Bytes that may wait for one of them.
const QUEUE: usize = 20 * LEN;

/// What its stalled network holds, and what waits for the rest of a frame.
const SLACK: usize = 96 << 10;

/// Bytes that a hub and its clients keep after 50 publications, of which so many clients read none.
fn kept_with(stalled: usize) -> isize {
    let runtime = runtime();
    let config = NodeConfig { queue_limit: QUEUE, ..NodeConfig::default() };
    let (hub, mut clients) = runtime.block_on(async {
        let hub = keeping(History::messages(10)).node(config).start();
        let mut clients = Vec::with_capacity(CONSUMERS);
        for _ in 0..CONSUMERS {
            let mut client = Client::connect(&hub).await;
            client.subscribe("tea").await;
            clients.push(client);
        }
        // What is kept for the topic itself, and what each connection needs once, is there before.
        publish(&hub, &mut clients, 10).await;
        (hub, clients)
    });
    let (slow, fast) = clients.split_at_mut(stalled);
    slow.iter().for_each(|client| client.network.stall());
    let ((), cost) = allocations::of(|| runtime.block_on(publish(&hub, fast, 50)));
    assert_eq!(runtime.block_on(hub.stats()).lagging, stalled, "who does not read is behind");
    cost.kept_bytes
}

async fn publish(hub: &Hub, readers: &mut [Client], count: usize) {
    let text = "x".repeat(LEN);
    for _ in 0..count {
        hub.publish("tea", text.as_str()).await.expect("it is published");
        for reader in &mut *readers {
            assert_eq!(reader.texts(1).await, [text.as_str()]);
        }
    }
}

#[test]
fn a_slow_consumer_among_a_thousand_costs_its_queue_at_most() {
    let (none, one) = (kept_with(0), kept_with(1));
    eprintln!("{CONSUMERS} consumers: {none} bytes kept, {one} when one of them does not read");
    let budget = isize::try_from(QUEUE + SLACK).expect("it is a small number");
    assert!((0..budget).contains(&(one - none)), "{}", one - none);
}
