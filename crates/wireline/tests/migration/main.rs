//! The programs of the migration guides run, and do what the guides say. That the guides show these and no
//! others, the tidy test sees to.

mod the_tutorial;
mod tokio_tungstenite;
mod ws;

use std::{future::Future, time::Duration};

use wireline::{ConnectError, Message, Server, connect};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// Serves; where it is.
fn serve(server: &Server) -> String {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());
    url
}

#[tokio::test]
async fn the_tutorials_programs_talk_to_each_other_in_either_style() {
    for server in [the_tutorial::in_event_style(), the_tutorial::in_a_loop()] {
        let url = serve(&server);
        let socket = the_tutorial::client(&url).expect("the URL is right");
        let close = soon(socket.closed()).await;
        assert!(close.was_clean);
        assert_eq!(close.code, 1005);
        soon(the_tutorial::client_in_a_loop(&url)).await.expect("it is clean");

        let mut ws =
            soon(connect(&url).protocols(["echo-protocol"]).into_future()).await.expect("it is let in");
        for message in [Message::from("My name is John"), Message::from(vec![1, 2, 3])] {
            ws.send(message.clone()).await.expect("it is open");
            assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
        }
    }
}

#[tokio::test]
async fn the_programs_for_those_who_come_from_tokio_tungstenite() {
    let url = serve(&tokio_tungstenite::server());
    let received = soon(tokio_tungstenite::client(&url)).await.expect("it is clean");
    assert_eq!(received, 3 * "message n".len() as u64);
    let unknown = soon(connect(&url).into_future()).await;
    assert!(matches!(unknown, Err(ConnectError::Rejected(response)) if response.status() == 401));

    let forwarding = serve(&Server::new().on_request(|req: wireline::Request| async move {
        tokio_tungstenite::forward(req.accept().await?).await
    }));
    let mut ws = soon(connect(forwarding).into_future()).await.expect("it is let in");
    ws.send("there and back").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("there and back")));
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

#[tokio::test]
async fn the_programs_for_those_who_come_from_ws() {
    let url = serve(&ws::chat());
    let mut listener =
        soon(connect(&url).header("Authorization", "Bearer 1234").into_future()).await.expect("known");
    assert_eq!(soon(listener.recv()).await.expect("no loss"), Some(Message::from("welcome")));
    soon(ws::client(&url)).await.expect("it is clean");
    assert_eq!(soon(listener.recv()).await.expect("no loss"), Some(Message::from("hello, everyone")));
    let unknown = soon(connect(&url).into_future()).await;
    assert!(matches!(unknown, Err(ConnectError::Rejected(response)) if response.status() == 401));
}
