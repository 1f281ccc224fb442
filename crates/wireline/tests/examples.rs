//! The tutorial's server runs as the examples have it, in both styles.

use std::{future::Future, time::Duration};

use wireline::{ConnectError, Message, Server, connect};

#[path = "../examples/server.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_a_loop;

#[path = "../examples/events.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_event_style;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// What the tutorial's client and another one find.
async fn is_the_tutorials_server(server: Server) {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());

    let unasked = soon(connect(&url).into_future()).await;
    assert!(matches!(unasked, Err(ConnectError::Rejected(response)) if response.status() == 400));
    let connecting = connect(&url).protocols(["chat", "echo-protocol"]).origin("https://anyone.example");
    let mut ws = soon(connecting.into_future()).await.expect("the server survived that");
    assert_eq!(ws.protocol(), Some("echo-protocol"));
    for message in [Message::from("My name is John"), Message::from(vec![0; 300]), Message::from("")] {
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
    }
    ws.close_with(4001, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 4001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorials_server_in_a_loop() {
    is_the_tutorials_server(in_a_loop::server()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorials_server_in_event_style() {
    is_the_tutorials_server(in_event_style::server()).await;
}
