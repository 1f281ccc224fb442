//! Who is here.

use serde_json::json;
use wireline_hub::{Hub, Member, TopicRules};

use crate::client::{Client, topic};

fn hub() -> Hub {
    Hub::builder()
        .topics(|topic| TopicRules { presence: !topic.starts_with('$'), ..TopicRules::default() })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
        .start()
}

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_are_heard_and_who_is_here_can_be_asked() {
    let hub = hub();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    ann.subscribe("tea").await;
    let joined = watcher.hear().await;
    assert_eq!((&joined.header["ev"], &joined.header["who"]), (&json!("join"), &json!("ann")));
    let who = watcher.ask(&json!({"op": "who", "t": "tea"}), "").await;
    assert_eq!(who.header["who"], json!(["ann"]));
    assert_eq!(hub.presence(&topic()).await, Ok(vec![Member::new("ann")]));
    drop(ann);
    let left = watcher.hear().await;
    assert_eq!((&left.header["ev"], &left.header["who"]), (&json!("leave"), &json!("ann")));
    assert_eq!(hub.presence(&topic()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn somebody_with_two_connections_is_here_once_and_leaves_with_the_last() {
    let hub = hub();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let [mut first, mut second] =
        [Client::connect_as(&hub, Some("ann")).await, Client::connect_as(&hub, Some("ann")).await];
    first.subscribe("tea").await;
    second.subscribe("tea").await;
    assert_eq!(watcher.hear().await.header["ev"], "join");
    drop(first);
    watcher.hears_nothing().await;
    second.request(&json!({"op": "unsub", "t": "tea"}), "").await;
    assert_eq!(watcher.hear().await.header["ev"], "leave");
}

#[tokio::test(start_paused = true)]
async fn where_presence_is_off_nobody_is_told() {
    let hub = Hub::builder().on_connect(|connect| async move { Ok(connect.token.map(Member::new)) }).start();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    ann.subscribe("tea").await;
    watcher.hears_nothing().await;
    assert_eq!(hub.presence(&topic()).await, Ok(vec![]));
}
