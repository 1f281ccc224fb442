//! Two nodes over one backplane.

use std::time::Duration;

use serde_json::json;
use wireline_hub::{
    BackplaneError, Hub, Member, Memory, PublishError, TopicRules,
    testing::{Faults, Rates},
};

use crate::client::{Client, topic};

fn nodes() -> [Hub; 2] {
    let memory = Memory::new();
    [(); 2].map(|()| node(&memory, Faults::new(0)).0)
}

/// A node, and the faults of its own backplane.
fn node(memory: &Memory, faults: Faults) -> (Hub, Faults) {
    let (memory, own) = (memory.clone(), faults.clone());
    let hub = Hub::builder()
        .backplane(move |events| own.node(events, |events| memory.node(events)))
        .topics(|topic| TopicRules { presence: topic.starts_with("tea"), ..TopicRules::default() })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
        .on_publish(|_, _| async { Ok(()) })
        .start();
    (hub, faults)
}

#[tokio::test(start_paused = true)]
async fn clients_of_both_hear_the_same_in_the_same_order() {
    let hubs = nodes();
    let [mut ann, mut bob] = [Client::connect(&hubs[0]).await, Client::connect(&hubs[1]).await];
    ann.subscribe("coffee").await;
    bob.subscribe("coffee").await;
    for number in 0..50 {
        hubs[number % 2].publish("coffee", number.to_string()).await.expect("it is published");
    }
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(ann.texts(50).await, expected);
    assert_eq!(bob.texts(50).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_node_is_gone_goes_on_at_the_other() {
    let [one, other] = nodes();
    let mut client = Client::connect(&one).await;
    client.subscribe("coffee").await;
    other.publish("coffee", "0").await.expect("it is published");
    let last = client.hear().await.position();
    drop((client, one));
    other.publish("coffee", "1").await.expect("it is published");
    let mut client = Client::connect(&other).await;
    assert_eq!(client.resume("coffee", &last).await.header["recovered"], true);
    assert_eq!(client.texts(1).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn somebody_at_both_has_left_when_both_connections_are_gone() {
    let [one, other] = nodes();
    let mut watcher = Client::connect(&other).await;
    watcher.subscribe("tea").await;
    let [mut first, mut second] =
        [Client::connect_as(&one, Some("ann")).await, Client::connect_as(&other, Some("ann")).await];
    first.subscribe("tea").await;
    assert_eq!(watcher.hear().await.header["ev"], "join");
    second.subscribe("tea").await;
    // Each node tells of its own; to who is here already that is no news.
    assert_eq!(watcher.hear().await.header["ev"], "join");
    assert_eq!(one.presence(&topic()).await, Ok(vec![Member::new("ann")]));
    drop(first);
    watcher.hears_nothing().await;
    assert_eq!(one.presence(&topic()).await, Ok(vec![Member::new("ann")]));
    drop(second);
    let left = watcher.hear().await;
    assert_eq!((&left.header["ev"], &left.header["who"]), (&json!("leave"), &json!("ann")));
    assert_eq!(one.presence(&topic()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn when_a_node_dies_its_members_have_left_once_each_when_its_lease_ends() {
    let [dying, one, other] = {
        let memory = Memory::new();
        [(); 3].map(|()| node(&memory, Faults::new(0)))
    };
    let mut watchers = [Client::connect(&one.0).await, Client::connect(&other.0).await];
    for watcher in &mut watchers {
        watcher.subscribe("tea").await;
    }
    let mut clients = Vec::new();
    for name in ["ann", "bob"] {
        let mut client = Client::connect_as(&dying.0, Some(name)).await;
        client.subscribe("tea").await;
        clients.push(client);
    }
    for watcher in &mut watchers {
        assert_eq!(watcher.hear().await.header["ev"], "join");
        assert_eq!(watcher.hear().await.header["ev"], "join");
    }
    // It says nothing any more, not even that they left.
    dying.1.cut(true, false);
    drop(clients);
    let died = tokio::time::Instant::now();
    for watcher in &mut watchers {
        let mut left = Vec::new();
        for _ in 0..2 {
            let said = watcher.hear().await;
            assert_eq!(said.header["ev"], "leave");
            left.push(said.header["who"].as_str().expect("it is a name").to_owned());
        }
        left.sort();
        assert_eq!(left, ["ann", "bob"]);
    }
    assert!(died.elapsed() < Duration::from_secs(30), "{:?}", died.elapsed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    for watcher in &mut watchers {
        watcher.hears_nothing().await;
    }
    assert_eq!(one.0.presence(&topic()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_for_longer_than_its_lease_says_that_its_members_are_here() {
    let memory = Memory::new();
    let [stalled, other] = [(); 2].map(|()| node(&memory, Faults::new(0)));
    let mut watcher = Client::connect(&other.0).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&stalled.0, Some("ann")).await;
    ann.subscribe("tea").await;
    assert_eq!(watcher.hear().await.header["ev"], "join");
    stalled.1.cut(true, true);
    assert_eq!(watcher.hear().await.header["ev"], "leave");
    assert_eq!(other.0.presence(&topic()).await, Ok(vec![]));
    stalled.1.cut(false, true);
    assert_eq!(watcher.hear().await.header["ev"], "join");
    assert_eq!(other.0.presence(&topic()).await, Ok(vec![Member::new("ann")]));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_published_is_not_said_to_have_failed_when_the_engine_is_away_then() {
    let (hub, faults) = node(&Memory::new(), Faults::new(0));
    faults.set(Rates { unknown: 1.0, ..Rates::default() });
    let publishing = {
        let hub = hub.clone();
        tokio::spawn(async move { hub.publish("coffee", "1").await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    faults.cut(true, true);
    let published = publishing.await.expect("it is answered");
    assert!(
        matches!(published, Err(PublishError::Backplane(BackplaneError::Unknown(_)))),
        "the first attempt may have happened: {published:?}"
    );
    faults.cut(false, true);
    faults.set(Rates::default());
    let page = hub.history(&"coffee".parse().expect("it is a name"), 10).await.expect("it is there");
    assert_eq!(page.items.len(), 1);
}
