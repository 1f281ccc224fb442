//! Two nodes over one backplane.

use serde_json::json;
use wireline_hub::{Hub, Member, Memory, TopicRules};

use crate::client::{Client, topic};

fn nodes() -> [Hub; 2] {
    let memory = Memory::new();
    let node = || {
        let memory = memory.clone();
        Hub::builder()
            .backplane(move |events| memory.node(events))
            .topics(|topic| TopicRules { presence: topic.starts_with("tea"), ..TopicRules::default() })
            .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
            .on_publish(|_, _| async { Ok(()) })
            .start()
    };
    [node(), node()]
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
