//! Who may do what.

use std::time::Duration;

use serde_json::json;
use wireline::Config;
use wireline_hub::{Denied, Hub, Member, TopicRules};

use crate::client::Client;

fn guarded() -> Hub {
    Hub::builder()
        .on_connect(
            |connect| async move { connect.token.map(|token| Some(Member::new(token))).ok_or(Denied) },
        )
        .on_subscribe(|client, topic| async move {
            let user = client.user().expect("the connect hook names everybody").name();
            if topic.starts_with(user) { Ok(()) } else { Err(Denied) }
        })
        .on_publish(|_, topic| async move { if topic.ends_with("/chat") { Ok(()) } else { Err(Denied) } })
        .start()
}

#[tokio::test(start_paused = true)]
async fn who_is_not_believed_is_told_so_and_closed() {
    let mut client = Client::open(&guarded(), Config::client()).await;
    assert_eq!(client.ask(&json!({"op": "auth"}), "").await.error(), "unauthorized");
    assert_eq!(client.close_code().await, 3501);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_in_time() {
    let mut client = Client::open(&guarded(), Config::client()).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.close_code().await, 3501);
    assert!(before.elapsed() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_before_saying_who_it_is() {
    let mut client = Client::open(&guarded(), Config::client()).await;
    client.request(&json!({"op": "sub", "t": "ann/chat"}), "").await;
    assert_eq!(client.close_code().await, 3500);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_protocol_ends_the_connection() {
    let mut client = Client::connect_as(&guarded(), Some("ann")).await;
    client.ws.send("{}").await.expect("it is open");
    assert_eq!(client.close_code().await, 3500);
}

#[tokio::test(start_paused = true)]
async fn topics_are_heard_and_written_by_those_who_may() {
    let hub = guarded();
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    assert_eq!(ann.subscribe("bob/chat").await.error(), "forbidden");
    assert_eq!(ann.ask(&json!({"op": "who", "t": "bob/chat"}), "").await.error(), "forbidden");
    assert_eq!(ann.subscribe("$all").await.error(), "forbidden", "the hub's own topics are its own business");
    ann.subscribe("ann/chat").await;
    assert_eq!(ann.ask(&json!({"op": "pub", "t": "ann/log"}), "x").await.error(), "forbidden");
    ann.publish("ann/chat", "x").await;
    let said = [ann.hear().await, ann.hear().await];
    assert!(said.iter().any(|said| said.text() == "x"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_hook_clients_hear_and_do_not_publish() {
    let hub = Hub::new();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    assert_eq!(client.ask(&json!({"op": "pub", "t": "tea"}), "x").await.error(), "forbidden");
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_offer_the_protocol_is_refused() {
    let hub = Hub::new();
    let connecting = wireline::testing::connect(&crate::client::server(&hub), "ws://hub.example/").await;
    let Err(wireline::ConnectError::Rejected(response)) = connecting else { panic!("{connecting:?}") };
    assert_eq!(response.status(), 400);
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_away_says_nothing_more() {
    let hub = Hub::builder().on_publish(|_, _| async { Ok(()) }).start();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut rude = Client::connect(&hub).await;
    rude.ws.send("nonsense").await.expect("it is open");
    rude.publish("tea", "and another thing").await;
    assert_eq!(rude.close_code().await, 3500);
    watcher.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let hub = Hub::builder().on_publish(|_, _| async { Ok(()) }).start();
    let mut client = Client::connect(&hub).await;
    for (len, answer) in [(129, Some("key_too_long")), (128, None)] {
        let said = client.ask(&json!({"op": "pub", "t": "tea", "key": "k".repeat(len)}), "x").await;
        assert_eq!(said.header["err"]["code"].as_str(), answer, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_hears_what_is_broadcast_is_nobodys_business() {
    let hub = Hub::builder()
        .topics(|_| TopicRules { presence: true, ..TopicRules::default() })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
        .start();
    let mut watcher = Client::connect(&hub).await;
    let _ann = Client::connect_as(&hub, Some("ann")).await;
    watcher.hears_nothing().await;
}
