//! Who may do what.

use std::time::Duration;

use serde_json::json;
use wireline::Config;
use wireline_hub::{Denied, Hub, Member};

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
