//! Clients that do not read as fast as their topics go.

use std::time::Duration;

use wireline_hub::{
    History, HubBuilder, TopicRules,
    node::{Lagging, NodeConfig},
};

use crate::client::{Client, open};

const LEN: usize = 10_000;

fn bounded(messages: usize, lagging: Lagging) -> HubBuilder {
    let config = NodeConfig { queue_limit: 5 * LEN, lagging, ..NodeConfig::default() };
    let history = History::messages(messages).bytes(1 << 30);
    open().shards(1).node(config).topics(move |_| TopicRules { history, presence: false })
}

fn numbered(number: usize) -> String {
    format!("{number:0>LEN$}")
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(numbered).collect()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_again_catches_up_and_costs_its_queue_until_then() {
    let hub = bounded(1000, Lagging::Reset).start();
    let [mut slow, mut fast] = [Client::connect(&hub).await, Client::connect(&hub).await];
    slow.subscribe("tea").await;
    fast.subscribe("tea").await;
    slow.network.stall();
    for number in 0..300 {
        hub.publish("tea", numbered(number)).await.expect("it is published");
        assert_eq!(fast.texts(1).await, [numbered(number)], "nobody waits for the slow one");
    }
    let stats = hub.stats().await;
    assert_eq!(stats.lagging, 1);
    assert!(stats.queued < (64 << 10) + 2 * LEN, "{stats:?}");
    slow.network.resume();
    assert_eq!(slow.texts(300).await, numbers(0..300));
    assert_eq!(hub.stats().await.lagging, 0);
    hub.publish("tea", numbered(300)).await.expect("it is published");
    assert_eq!(slow.texts(1).await, numbers(300..301));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_far_behind_is_told_so_and_goes_on() {
    let hub = bounded(10, Lagging::Reset).start();
    let mut slow = Client::connect(&hub).await;
    slow.subscribe("tea").await;
    slow.network.stall();
    for number in 0..300 {
        hub.publish("tea", numbered(number)).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.network.resume();
    let mut heard = Vec::new();
    let reset = loop {
        let said = slow.hear().await;
        if said.header["ev"] == "reset" {
            break said;
        }
        heard.push(said.text().to_owned());
    };
    assert_eq!(heard, numbers(0..heard.len()), "until then nothing is missing");
    assert_eq!(reset.header["why"], "window");
    let next = hub.publish("tea", numbered(300)).await.expect("it is published").to_string();
    let said = slow.hear().await;
    assert_eq!((said.position(), said.text()), (next, &*numbered(300)));
}

#[tokio::test(start_paused = true)]
async fn or_is_closed_if_that_is_the_policy() {
    let hub = bounded(10, Lagging::Close).start();
    let mut slow = Client::connect(&hub).await;
    slow.subscribe("tea").await;
    slow.network.stall();
    for number in 0..300 {
        hub.publish("tea", numbered(number)).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.network.resume();
    assert_eq!(slow.close_code().await, 4008);
}

#[tokio::test(start_paused = true)]
async fn many_slow_clients_together_keep_to_the_nodes_budget() {
    const CLIENTS: usize = 30;
    const BUDGET: usize = 40 * LEN;
    let config = NodeConfig { queue_limit: 100 * LEN, queue_budget: BUDGET, ..NodeConfig::default() };
    let hub = bounded(1000, Lagging::Reset).node(config).start();
    let mut slow = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(&hub).await;
        client.subscribe("tea").await;
        client.network.stall();
        slow.push(client);
    }
    let mut most = 0;
    for number in 0..100 {
        hub.publish("tea", numbered(number)).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
        most = most.max(hub.stats().await.queued);
    }
    // What goes beyond is one publication for each, when the budget is just reached, and its header.
    assert!(most <= BUDGET + CLIENTS * (LEN + 100), "{most} bytes");
    slow.iter().for_each(|client| client.network.resume());
    for client in &mut slow {
        assert_eq!(client.texts(100).await, numbers(0..100), "everybody gets everything in the end");
    }
}
