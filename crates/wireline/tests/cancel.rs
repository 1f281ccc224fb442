//! A future that is dropped at any of its polls loses nothing and doubles nothing.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::sync::mpsc;
use wireline::{Config, Message, Request, Server, WebSocket, connect};
use wireline_testkit::{Frame, RawPeer};

/// A small generator, so that a failure can be run again.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

/// Polls `future` up to `polls` times, and drops it then.
async fn drop_after<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops `future` in a way that `random` picks: after some polls, or at a timer.
async fn interrupted<F: Future>(random: &mut Random, future: F) -> Option<F::Output> {
    match random.below(4) {
        0 => drop_after(1, future).await,
        1 => drop_after(random.below(4), future).await,
        2 => tokio::select! {
            biased;
            () = tokio::task::yield_now() => None,
            output = future => Some(output),
        },
        _ => tokio::time::timeout(Duration::from_micros(random.below(1500)), future).await.ok(),
    }
}

/// The number in a message of ours, which has a length that its number tells.
fn number(message: &Message) -> u64 {
    let bytes = message.as_bytes();
    let number = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert_eq!(bytes.len(), len(number), "message {number} is whole");
    number
}

fn len(number: u64) -> usize {
    // Now and then one that is read straight into its own buffer.
    if number.is_multiple_of(97) { 70_000 } else { 8 + usize::try_from(number % 300).expect("small") }
}

fn payload(number: u64) -> Vec<u8> {
    let mut payload = vec![0x55; len(number)];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// Sends messages 0 to `count`, with Pings and fragments among them, in writes of random sizes.
fn send_in_pieces(mut peer: RawPeer, count: u64, mask: Option<[u8; 4]>) -> RawPeer {
    let mut random = Random(0x9E37_79B9);
    let mut bytes = Vec::new();
    let mut push = |frame: Frame| bytes.extend(Frame { mask, ..frame }.bytes());
    for number in 0..count {
        let payload = payload(number);
        if number.is_multiple_of(7) {
            let (head, tail) = payload.split_at(5);
            push(Frame::binary(head).more());
            push(Frame::ping(b"between"));
            push(Frame::continuation(tail));
        } else {
            push(Frame::binary(payload));
        }
    }
    push(Frame::close(4000, "all sent"));
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let most = if random.below(8) == 0 { 50_000 } else { 400 };
        let size = usize::try_from(1 + random.below(most)).expect("small").min(rest.len());
        peer.send_bytes(&rest[..size]);
        rest = &rest[size..];
        if random.below(64) == 0 {
            std::thread::yield_now();
        }
    }
    peer
}

/// Receives 0 to `count` with futures that are dropped all the time.
async fn receive_interrupted(ws: &mut WebSocket, count: u64, seed: u64) {
    let mut random = Random(seed);
    let mut expected = 0;
    loop {
        if random.below(16) == 0 {
            drop_after(1, ws.closed()).await;
        }
        match interrupted(&mut random, ws.recv()).await {
            None => {}
            Some(Ok(Some(message))) => {
                assert_eq!(number(&message), expected);
                expected += 1;
            }
            Some(end) => {
                assert_eq!(end.expect("it was clean"), None);
                break;
            }
        }
    }
    assert_eq!(expected, count);
    assert_eq!(soon(ws.closed()).await.code, 4000);
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

const COUNT: u64 = 3000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_every_other_future_receives_each_message_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let sender = std::thread::spawn(move || {
        let peer = RawPeer::serve(&listener);
        let drain = peer.second();
        let drained = std::thread::spawn(move || drain_pongs(drain));
        send_in_pieces(peer, COUNT, None);
        drained.join().expect("Pongs come")
    });
    let mut ws = connect(url).config(Config::client().keepalive(None)).await.expect("the peer accepts");
    soon(receive_interrupted(&mut ws, COUNT, 1)).await;
    assert_eq!(sender.join().expect("no panic"), (COUNT.div_ceil(7), 4000));
}

/// Reads Pongs up to the Close frame: how many, and its code.
fn drain_pongs(mut peer: RawPeer) -> (u64, u16) {
    let mut pongs = 0;
    loop {
        let frame = peer.read().expect("a Close frame comes");
        if frame.opcode == 0x8 {
            return (pongs, u16::from_be_bytes(frame.payload[..2].try_into().expect("a code")));
        }
        assert_eq!((frame.opcode, &*frame.payload), (0xA, &b"between"[..]));
        pongs += 1;
    }
}

async fn server_receives_each_once(moved: bool) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::new().config(Config::server().keepalive(None)).on_request(move |req: Request| {
        let tell = tell.clone();
        async move {
            let mut ws = req.accept().await?;
            let receive = async move {
                receive_interrupted(&mut ws, COUNT, 2).await;
                let _ = tell.send(());
            };
            if moved {
                tokio::spawn(receive);
            } else {
                receive.await;
            }
            Ok(())
        }
    });
    let addr = listen(&server);
    let sender = std::thread::spawn(move || {
        let peer = RawPeer::connect(addr);
        let drain = peer.second();
        let drained = std::thread::spawn(move || drain_pongs(drain));
        send_in_pieces(peer, COUNT, Some([1, 2, 3, 4]));
        drained.join().expect("Pongs come")
    });
    soon(told.recv()).await.expect("the handler receives all");
    assert_eq!(sender.join().expect("no panic"), (COUNT.div_ceil(7), 4000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_drops_every_other_future_receives_each_message_once() {
    server_receives_each_once(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_got_the_connection_of_a_handler_and_drops_futures_receives_each_message_once() {
    server_receives_each_once(true).await;
}

/// A `send` that was dropped was not sent; one that was ready was sent once.
async fn send_interrupted(ws: &WebSocket, count: u64, seed: u64) {
    let mut random = Random(seed);
    let mut next = 0;
    while next < count {
        if let Some(sent) = interrupted(&mut random, ws.send(payload(next))).await {
            sent.expect("the connection is open");
            next += 1;
        }
    }
    ws.close_with(4000, "all sent").expect("it can be sent");
}

/// Reads each number once and in order, slowly at first, so that senders wait.
fn read_each_once(mut peer: RawPeer, count: u64) {
    std::thread::sleep(Duration::from_millis(100));
    for expected in 0..count {
        let frame = peer.read().expect("messages are left");
        assert_eq!(number(&Message::from(frame.payload)), expected);
    }
    peer.expect(&Frame::close(4000, "all sent"));
    peer.send(&Frame::close(4000, "all sent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_sends_sends_each_message_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let reader = std::thread::spawn(move || read_each_once(RawPeer::serve(&listener), 30_000));
    let ws = connect(url).await.expect("the peer accepts");
    soon(send_interrupted(&ws, 30_000, 3)).await;
    assert!(soon(ws.closed()).await.was_clean);
    reader.join().expect("each came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_drops_sends_sends_each_message_once() {
    let server = Server::new().on_request(move |req: Request| async move {
        let ws = req.accept().await?;
        send_interrupted(&ws, 30_000, 4).await;
        ws.closed().await;
        Ok(())
    });
    let addr = listen(&server);
    let reader = std::thread::spawn(move || read_each_once(RawPeer::connect(addr), 30_000));
    soon(tokio::task::spawn_blocking(move || reader.join()))
        .await
        .expect("no panic")
        .expect("each came once");
}
