//! Messages there and back: the tutorial's flow, sizes, kinds, many senders, `Stream` and `Sink`.

use std::{future::Future, net::SocketAddr, pin::Pin, time::Duration};

use futures_core::Stream as _;
use futures_sink::Sink as _;
use tokio::task::JoinSet;
use wireline::{Config, Message, Request, SendError, Server, WebSocket, connect};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

fn echo() -> Server {
    Server::new().config(Config::server().max_message_size(16 << 20)).on_request(|req: Request| async move {
        let protocol = req.protocols().first().cloned();
        let accept = req.accept();
        let mut ws = match protocol {
            Some(protocol) => accept.protocol(protocol).await?,
            None => accept.await?,
        };
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

async fn open() -> WebSocket {
    connect(format!("ws://{}/", listen(&echo()))).await.expect("the server accepts")
}

async fn there_and_back(ws: &mut WebSocket, message: Message) {
    ws.send(message.clone()).await.expect("it is open");
    let back = soon(ws.recv()).await.expect("it is open").expect("it is open");
    assert!(back == message, "{} bytes came back changed", back.len());
}

#[tokio::test]
async fn a_client_says_its_name_and_hears_it() {
    let addr = listen(&echo());
    let mut ws = connect(format!("ws://{addr}/chat?room=1"))
        .protocols(["echo-protocol", "other"])
        .await
        .expect("the server accepts");
    assert_eq!(ws.protocol(), Some("echo-protocol"));
    assert_eq!(ws.extensions(), "");
    assert_eq!(ws.url(), Some(&*format!("ws://{addr}/chat?room=1")));
    assert_eq!(ws.remote_addr(), Some(addr));
    ws.send("My name is John").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("it is open"), Some("My name is John".into()));
    ws.close_with(4001, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it was clean"), None);
    assert_eq!(soon(ws.closed()).await.code, 4001);
}

#[tokio::test]
async fn messages_of_every_kind_and_size_come_back_the_same() {
    let mut ws = open().await;
    for len in [0, 1, 2, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20] {
        there_and_back(&mut ws, "x".repeat(len).into()).await;
        there_and_back(&mut ws, vec![0xA5; len].into()).await;
    }
    there_and_back(&mut ws, "κόσμε 🦀".into()).await;
}

/// Both ends wait for each other to read if the driver does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_megabytes_come_back_the_same() {
    let mut ws = open().await;
    let bytes: Vec<u8> = (0..=250).cycle().take(8 << 20).collect();
    there_and_back(&mut ws, bytes.into()).await;
    there_and_back(&mut ws, "é".repeat(4 << 20).into()).await;
}

#[tokio::test]
async fn messages_are_fragmented_as_configured_and_arrive_whole() {
    let addr = listen(&echo());
    let config = Config::client().fragment_size(7);
    let mut ws = connect(format!("ws://{addr}/")).config(config).await.expect("the server accepts");
    there_and_back(&mut ws, "é".repeat(100).into()).await;
    there_and_back(&mut ws, vec![3; 10_000].into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_send_through_clones_each_in_its_order() {
    const TASKS: u32 = 50;
    const EACH: u32 = 400;
    let mut ws = open().await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let socket = ws.socket();
        tasks.spawn(async move {
            for number in 0..EACH {
                let padding = " ".repeat(usize::try_from(number * 7 % 500).expect("small"));
                socket.send(format!("{task} {number}{padding}")).await?;
            }
            Ok::<_, SendError>(())
        });
    }
    let mut next = vec![0; TASKS as usize];
    for _ in 0..TASKS * EACH {
        let message = soon(ws.recv()).await.expect("it is open").expect("it is open");
        let mut words = message.as_text().expect("it is text").split_whitespace();
        let mut word = || words.next().and_then(|word| word.parse::<usize>().ok()).expect("a number");
        let (task, number) = (word(), word());
        assert_eq!(number, next[task], "task {task}");
        next[task] += 1;
    }
    assert!(next.iter().all(|&count| count == EACH as usize));
    while let Some(task) = soon(tasks.join_next()).await {
        task.expect("no panic").expect("it is open");
    }
}

#[tokio::test]
async fn pings_of_many_tasks_tell_each_its_time() {
    let ws = open().await;
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let socket = ws.socket();
        tasks.spawn(async move { socket.ping().await });
    }
    while let Some(task) = soon(tasks.join_next()).await {
        let time = task.expect("no panic").expect("it is open");
        assert!(time > Duration::ZERO && time < Duration::from_secs(5), "{time:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_after_a_closing_handshake() {
    let mut ws = open().await;
    for text in ["a", "b", "c"] {
        ws.send(text).await.expect("it is open");
    }
    let mut received = Vec::new();
    while let Some(message) = soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_next(cx))).await {
        received.push(message.expect("it was clean").to_string());
        if received.len() == 3 {
            ws.close();
        }
    }
    assert_eq!(received, ["a", "b", "c"]);
    assert!(soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_next(cx))).await.is_none());
}

#[tokio::test]
async fn a_stream_gives_its_error_once() {
    let mut ws = open().await;
    ws.abort();
    let first = soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_next(cx))).await;
    assert!(matches!(first, Some(Err(_))), "{first:?}");
    let second = soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_next(cx))).await;
    assert!(second.is_none(), "{second:?}");
}

#[tokio::test]
async fn a_sink_sends_flushes_and_closes() {
    let mut ws = open().await;
    for text in ["a", "b"] {
        soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_ready(cx))).await.expect("it is open");
        Pin::new(&mut ws).start_send(text.into()).expect("it is open");
    }
    soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_flush(cx))).await.expect("it is open");
    assert_eq!(ws.buffered_amount(), 0);
    assert_eq!(soon(ws.recv()).await.expect("it is open"), Some("a".into()));
    soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_close(cx))).await.expect("it is open");
    assert!(soon(ws.closed()).await.was_clean);
    assert_eq!(Pin::new(&mut ws).start_send("late".into()), Err(SendError::Closed));
}

#[tokio::test]
async fn a_flush_of_what_can_no_longer_be_sent_is_an_error() {
    let mut ws = open().await;
    Pin::new(&mut ws).start_send("never sent".into()).expect("it is open");
    ws.abort();
    let flushed = soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_flush(cx))).await;
    assert_eq!(flushed, Err(SendError::Closed));
}
