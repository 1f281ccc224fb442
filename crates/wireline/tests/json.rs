//! Messages as JSON.

use std::{collections::BTreeMap, future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use wireline::{Error, JsonError, Message, SendError, testing};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Order {
    Buy { name: String, count: u32 },
    Cancel,
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn tea() -> Order {
    Order::Buy { name: "grüner Tee".into(), count: 2 }
}

#[tokio::test]
async fn a_value_goes_out_as_text_and_comes_in_from_text_and_bytes() {
    let (mut client, mut server) = testing::pair().await;
    client.send_json(&tea()).await.expect("it is open");
    let text = r#"{"type":"buy","name":"grüner Tee","count":2}"#;
    assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from(text)));
    server.send(text).await.expect("it is open");
    server.send(text.as_bytes()).await.expect("it is open");
    for _ in 0..2 {
        assert_eq!(soon(client.recv_json()).await.expect("it is JSON"), Some(tea()));
    }
    server.close();
    assert_eq!(soon(client.recv_json::<Order>()).await.expect("it is clean"), None);
}

#[tokio::test]
async fn what_is_something_else_is_an_error_and_the_next_message_comes() {
    let (mut client, server) = testing::pair().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let others = [
        "",
        "{",
        "[1]",
        r#"{"type":"sell"}"#,
        r#"{"type":"buy","name":"tea","count":-1}"#,
        "null null",
        &deep,
    ];
    for other in others {
        server.send(other).await.expect("it is open");
    }
    server.send(vec![0xFF]).await.expect("it is open");
    server.send_json(&Order::Cancel).await.expect("it is open");
    for _ in 0..=others.len() {
        let error = soon(client.recv_json::<Order>()).await.expect_err("it is no order");
        assert!(matches!(error, JsonError::Json(_)), "{error}");
    }
    assert_eq!(soon(client.recv_json()).await.expect("it is JSON"), Some(Order::Cancel));
}

#[tokio::test]
async fn a_value_without_json_is_an_error_and_nothing_is_sent() {
    let (client, mut server) = testing::pair().await;
    let error = client.send_json(&BTreeMap::from([(Some(1), 2), (None, 3)])).await.expect_err("no such keys");
    assert!(matches!(error, JsonError::Json(_)), "{error}");
    client.send("next").await.expect("it is open");
    assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from("next")));
}

#[tokio::test]
async fn the_end_of_the_connection_is_as_without_json() {
    let network = testing::Network::new();
    let (mut client, server) = network.pair(wireline::Config::client(), wireline::Config::server()).await;
    network.reset();
    let error = soon(client.recv_json::<Order>()).await.expect_err("it is lost");
    assert!(matches!(error, JsonError::Recv(_)), "{error}");
    server.closed().await;
    let error = server.send_json(&tea()).await.expect_err("it is closed");
    assert!(matches!(error, JsonError::Send(SendError::Closed)), "{error}");
    // A handler's `?` takes it.
    assert!(matches!(Error::from(error), Error::Json(JsonError::Send(_))));
}

#[tokio::test]
async fn json_can_be_sent_from_a_task_of_its_own_and_be_dropped_unsent() {
    let (client, mut server) = testing::pair().await;
    let socket = client.socket();
    let order = tea();
    drop(socket.send_json(&order));
    let sending = tokio::spawn(async move { socket.send_json(&Order::Cancel).await });
    sending.await.expect("no panic").expect("it is open");
    assert_eq!(soon(server.recv_json()).await.expect("it is JSON"), Some(Order::Cancel));
}

#[test]
fn a_message_can_be_read_without_copying_its_strings() {
    #[derive(Deserialize)]
    struct Name<'m> {
        name: &'m str,
    }
    let message = Message::from(r#"{"name":"tea"}"#);
    let name: Name<'_> = message.json().expect("it is JSON");
    assert_eq!(name.name, "tea");
    assert!(message.as_bytes().as_ptr_range().contains(&name.name.as_ptr()));
    assert_eq!(Message::from_json(&[1, 2]).expect("it is JSON"), Message::from("[1,2]"));
}
