//! The examples run: the tutorial's server in both styles, and the doors into other people's servers.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use wireline::{ConnectError, Message, Server, WebSocket, connect};

#[path = "../examples/server.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_a_loop;

#[path = "../examples/events.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_event_style;

#[path = "../examples/in_hyper.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_hyper;

#[path = "../examples/in_axum.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_axum;

#[path = "../examples/in_tower.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod in_tower;

#[path = "../examples/stream_and_sink.rs"]
#[expect(dead_code, reason = "its main listens on a port of its own")]
mod stream_and_sink;

#[path = "../examples/tunnel.rs"]
#[expect(dead_code, reason = "its main listens on ports of its own")]
mod tunnel;

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

/// A listener for an HTTP server of somebody else's, and where it is.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

async fn echoes(ws: &mut WebSocket) {
    for message in [Message::from("My name is John"), Message::from(vec![0; 300_000]), Message::from("")] {
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
    }
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

async fn open(url: String) -> WebSocket {
    soon(connect(url).into_future()).await.expect("it is let in")
}

async fn refusal(url: String) -> u16 {
    match soon(connect(url).into_future()).await {
        Err(ConnectError::Rejected(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

/// The status of an answer to plain HTTP, and its body.
async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("it is HTTP");
    (head.split(' ').nth(1).expect("it has a status").to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hypers_server() {
    let (listener, address) = listen().await;
    tokio::spawn(in_hyper::serve(listener));
    echoes(&mut open(format!("ws://{address}/echo")).await).await;
    assert_eq!(refusal(format!("ws://{address}/elsewhere")).await, 404);
    assert_eq!(get(address, "/").await, ("404".to_owned(), "not here\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axums_application() {
    let (listener, address) = listen().await;
    let app = in_axum::app();
    tokio::spawn(async move { axum::serve(listener, app).await });
    for visitor in 1..=2 {
        let mut ws = open(format!("ws://{address}/chat/green%20tea")).await;
        let welcome = format!("welcome to green tea, visitor {visitor}");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from(welcome)));
        echoes(&mut ws).await;
    }
    assert_eq!(refusal(format!("ws://{address}/elsewhere")).await, 404);
    assert_eq!(get(address, "/").await.0, "200");
    assert_eq!(get(address, "/chat/tea").await.0, "426");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn towers_service() {
    let (listener, address) = listen().await;
    let server = in_tower::server();
    let handle = server.handle();
    tokio::spawn(in_tower::serve(listener, server));
    echoes(&mut open(format!("ws://{address}/echo")).await).await;
    assert_eq!(refusal(format!("ws://{address}/elsewhere")).await, 404);
    assert_eq!(get(address, "/echo").await.0, "404");
    let mut ws = open(format!("ws://{address}/echo")).await;
    // The client may know that it is open before the server does.
    soon(async {
        while handle.sockets().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(handle.broadcast("to all"), 1);
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("to all")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_and_a_sink() {
    let listener = stream_and_sink::server().bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());
    let mut ws = open(url).await;
    ws.send("quiet").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("QUIET")));
    ws.close_with(4000, "").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_for_tcp() {
    // What lies behind it says what it hears, to the last byte, and then a word of its own.
    let (target, target_address) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = target.accept().await.expect("somebody comes");
        let mut heard = vec![0; 300_000];
        stream.read_exact(&mut heard).await.expect("they come");
        stream.write_all(&heard).await.expect("they read");
        stream.write_all(b"bye").await.expect("they read");
    });
    let far_end = tunnel::server(target_address).bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", far_end.local_addr().expect("it is bound"));
    tokio::spawn(far_end.serve());
    let (near_end, near_address) = listen().await;
    tokio::spawn(tunnel::enter(near_end, url));

    let mut stream = TcpStream::connect(near_address).await.expect("it listens");
    let sent: Vec<u8> = (0..300_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    stream.write_all(&sent).await.expect("it reads");
    let mut heard = Vec::new();
    soon(stream.read_to_end(&mut heard)).await.expect("it ends");
    assert!(heard == [&sent[..], b"bye"].concat());
}
