//! A future that is dropped at any of its polls loses nothing and doubles nothing.

use std::{
    future::{Future, IntoFuture as _, poll_fn},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_sink::Sink;
use tokio::sync::mpsc;
use wireline::{Config, ConnectError, Message, Request, SendError, Server, ServerHandle, WebSocket, connect};
use wireline_testkit::{Bystander, Frame, RawPeer, accept_value, drop_after};

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
    let mut ws = connect(url).config(quiet()).await.expect("the peer accepts");
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

/// Reads each number once and in order, slowly at first, so that senders wait; then this Close frame.
fn read_each_once(mut peer: RawPeer, count: u64, close: &Frame) {
    std::thread::sleep(Duration::from_millis(100));
    for expected in 0..count {
        let frame = peer.read().expect("messages are left");
        assert_eq!(number(&Message::from(frame.payload)), expected);
    }
    peer.expect(close);
    peer.send(close);
}

fn all_sent() -> Frame {
    Frame::close(4000, "all sent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_sends_sends_each_message_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let reader = std::thread::spawn(move || read_each_once(RawPeer::serve(&listener), 30_000, &all_sent()));
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
    let reader = std::thread::spawn(move || read_each_once(RawPeer::connect(addr), 30_000, &all_sent()));
    soon(tokio::task::spawn_blocking(move || reader.join()))
        .await
        .expect("no panic")
        .expect("each came once");
}

/// What a `Sink` is asked for.
type PollSink = fn(Pin<&mut WebSocket>, &mut Context<'_>) -> Poll<Result<(), SendError>>;

/// One of a sink's futures, interrupted until it is ready.
async fn until_ready(random: &mut Random, ws: &mut WebSocket, poll: PollSink) {
    while interrupted(random, poll_fn(|cx| poll(Pin::new(&mut *ws), cx))).await.is_none() {}
}

/// Sends through the sink, with every wait in it interrupted, and closes it.
async fn sink_interrupted(ws: &mut WebSocket, count: u64, seed: u64) {
    let mut random = Random(seed);
    for number in 0..count {
        until_ready(&mut random, ws, Sink::poll_ready).await;
        Pin::new(&mut *ws).start_send(payload(number).into()).expect("the connection is open");
        if random.below(16) == 0 {
            interrupted(&mut random, poll_fn(|cx| Pin::new(&mut *ws).poll_flush(cx))).await;
        }
        if random.below(1000) == 0 {
            until_ready(&mut random, ws, Sink::poll_flush).await;
            assert_eq!(ws.buffered_amount(), 0);
        }
    }
    until_ready(&mut random, ws, Sink::poll_close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_waits_are_dropped_sends_each_message_once_and_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let close = Frame::close_payload([]);
    let reader = std::thread::spawn(move || read_each_once(RawPeer::serve(&listener), 10_000, &close));
    let mut ws = connect(url).await.expect("the peer accepts");
    soon(sink_interrupted(&mut ws, 10_000, 5)).await;
    assert!(soon(ws.closed()).await.was_clean);
    reader.join().expect("each came once");
}

fn quiet() -> Config {
    Config::client().keepalive(None)
}

/// A client's end, and the raw server at its other end.
async fn client(config: Config) -> (WebSocket, RawPeer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let ws = connect(url).config(config).await.expect("the peer accepts");
    (ws, peer.join().expect("the peer shakes hands"))
}

/// Sends more than a peer that does not read lets out.
fn stuff(ws: &mut WebSocket) {
    Pin::new(ws).start_send(vec![0; 16 << 20].into()).expect("the connection is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_waits_for_the_end_gives_the_place_back() {
    let (ws, mut peer) = client(quiet()).await;
    let bystander = Bystander::default();
    for _ in 0..100 {
        assert!(!bystander.poll_and_drop(ws.closed()));
    }
    assert_eq!(bystander.kept_wakers(), 0);
    peer.send(&Frame::close(4000, "bye"));
    let mut random = Random(6);
    let close = soon(async {
        loop {
            if let Some(close) = interrupted(&mut random, ws.closed()).await {
                break close;
            }
        }
    });
    assert_eq!(close.await.code, 4000);
    assert_eq!(soon(ws.closed()).await.code, 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_waits_to_send_gives_the_place_back() {
    let (mut ws, _peer) = client(quiet()).await;
    stuff(&mut ws);
    let bystander = Bystander::default();
    for _ in 0..100 {
        assert!(!bystander.poll_and_drop(ws.send("never")));
    }
    assert_eq!(bystander.kept_wakers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_dropped_gives_its_places_back() {
    let polls: [PollSink; 3] = [Sink::poll_ready, Sink::poll_flush, Sink::poll_close];
    for poll in polls {
        let (mut ws, _peer) = client(quiet()).await;
        stuff(&mut ws);
        let bystander = Bystander::default();
        for _ in 0..100 {
            assert!(bystander.poll(|cx| poll(Pin::new(&mut ws), cx)).is_pending());
        }
        assert_eq!(bystander.kept_wakers(), 1, "a sink has one place");
        let socket = ws.socket();
        drop(ws);
        assert_eq!(bystander.kept_wakers(), 0);
        drop(socket);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_need_not_wait_any_longer_gives_its_place_back() {
    let polls: [PollSink; 2] = [Sink::poll_ready, Sink::poll_flush];
    for poll in polls {
        let (mut ws, mut peer) = client(quiet()).await;
        stuff(&mut ws);
        let bystander = Bystander::default();
        assert!(bystander.poll(|cx| poll(Pin::new(&mut ws), cx)).is_pending());
        let reader = std::thread::spawn(move || {
            peer.expect(&Frame::binary(vec![0; 16 << 20]));
            peer
        });
        soon(async {
            while bystander.poll(|cx| poll(Pin::new(&mut ws), cx)).is_pending() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(bystander.kept_wakers(), 0);
        drop(reader.join().expect("it came whole"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_that_is_dropped_is_sent_once_and_its_pong_answers_no_other() {
    let (ws, mut peer) = client(quiet()).await;
    let bystander = Bystander::default();
    assert!(drop_after(0, ws.ping()).await.is_none());
    for _ in 0..100 {
        assert!(!bystander.poll_and_drop(ws.ping()));
    }
    assert!(bystander.kept_wakers() <= 1, "{} wakers are kept", bystander.kept_wakers());
    let socket = ws.socket();
    let asking = tokio::spawn(async move { socket.ping().await });
    let mut pings: Vec<_> = (0..101).map(|_| peer.read().expect("a Ping comes").payload).collect();
    let asked = pings.pop().expect("there are some");
    for dropped in &pings {
        peer.send(&Frame::pong(dropped));
    }
    // Once this is answered, the Pongs before it were seen.
    peer.send(&Frame::ping("seen?"));
    peer.expect(&Frame::pong("seen?"));
    tokio::task::yield_now().await;
    assert!(!asking.is_finished(), "the Pong of another Ping answered this one");
    peer.send(&Frame::pong(&asked));
    soon(asking).await.expect("no panic").expect("it is answered");
    pings.push(asked);
    pings.sort();
    pings.dedup();
    assert_eq!(pings.len(), 101, "each Ping can be told apart");
}

/// A server that drops its acceptance after as many polls as the request's header `Polls` says, and
/// echoes if it was accepted before; in the handler's own task or in another.
fn accepting_by_polls(moved: bool) -> Server {
    async fn accept_and_echo(req: Request) -> wireline::Result<()> {
        let polls = req.header("Polls").and_then(|polls| polls.parse().ok()).expect("the client says");
        let Some(accepted) = drop_after(polls, req.accept().into_future()).await else { return Ok(()) };
        let mut ws = accepted?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    }
    Server::new().on_request(move |req: Request| async move {
        if moved {
            tokio::spawn(accept_and_echo(req));
            return Ok(());
        }
        accept_and_echo(req).await
    })
}

async fn emptied(handle: &ServerHandle) {
    while handle.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn acceptances_are_dropped_at_each_poll(moved: bool) {
    let server = accepting_by_polls(moved);
    let (addr, handle) = (listen(&server), server.handle());
    for polls in 0.. {
        let connecting = connect(format!("ws://{addr}/")).header("Polls", &polls.to_string());
        match soon(connecting.into_future()).await {
            Err(ConnectError::Rejected(response)) => {
                assert_eq!((polls, response.status().as_u16()), (0, 500));
            }
            Err(error) => panic!("dropped after {polls} polls: {error}"),
            Ok(mut ws) => {
                assert!(polls > 0, "nobody accepted");
                let _ = ws.send("there").await;
                if let Ok(back) = soon(ws.recv()).await {
                    assert_eq!(back, Some("there".into()));
                    break;
                }
                assert!(!soon(ws.closed()).await.was_clean);
            }
        }
        soon(emptied(&handle)).await;
    }
    soon(emptied(&handle)).await;
}

#[tokio::test]
async fn an_acceptance_that_is_dropped_at_any_poll_is_told_to_the_client() {
    acceptances_are_dropped_at_each_poll(false).await;
}

#[tokio::test]
async fn an_acceptance_in_another_task_that_is_dropped_at_any_poll_is_told_to_the_client() {
    acceptances_are_dropped_at_each_poll(true).await;
}

/// Accepts clients one after the other, answers those that ask for a WebSocket at `/`, and waits for each
/// to close its socket; until one says `stop`. How many it answered.
fn serve_until_each_has_left(listener: &TcpListener) -> u64 {
    let mut answered = 0;
    loop {
        let (mut stream, _) = listener.accept().expect("a client connects");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket can be set up");
        let mut head = String::new();
        let mut byte = [0];
        while !head.ends_with("\r\n\r\n") && stream.read(&mut byte).expect("the client leaves") > 0 {
            head.push(char::from(byte[0]));
        }
        if head == "stop\r\n\r\n" {
            return answered;
        }
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        if let Some(key) = key.filter(|_| head.starts_with("GET / ")) {
            answered += 1;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                accept_value(key)
            );
            // The client may have left.
            let _ = stream.write_all(answer.as_bytes());
        }
        match stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("the client did not close its socket: {error}")
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_to_connect_that_is_dropped_at_any_poll_closes_its_socket() {
    const ROUNDS: u64 = 10;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let server = std::thread::spawn(move || serve_until_each_has_left(&listener));
    let mut dropped = 0;
    for _ in 0..ROUNDS {
        for polls in 0..3 {
            let attempt = drop_after(polls, connect(format!("ws://{addr}/silence")).into_future());
            let attempt = tokio::time::timeout(Duration::from_millis(20), attempt).await;
            assert!(!matches!(attempt, Ok(Some(_))));
        }
        for polls in 0.. {
            let attempt = drop_after(polls, connect(format!("ws://{addr}/")).into_future());
            if let Some(connected) = soon(attempt).await {
                connected.expect("the server accepts").abort();
                break;
            }
            dropped += 1;
        }
    }
    assert!(dropped > ROUNDS, "every attempt was ready at once");
    TcpStream::connect(addr).and_then(|mut last| last.write_all(b"stop\r\n\r\n")).expect("it listens");
    let answered = soon(tokio::task::spawn_blocking(|| server.join())).await;
    let answered = answered.expect("no panic").expect("each client closes its socket");
    assert!(answered <= dropped + ROUNDS, "{answered} requests came of {dropped} attempts and {ROUNDS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_waits_for_the_peer_leaves_the_processor_alone() {
    for closing in [false, true] {
        let (mut ws, _peer) = client(quiet().send_high_water(usize::MAX)).await;
        stuff(&mut ws);
        if closing {
            ws.close();
        }
        let mut polls = 0;
        let flushing = poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut ws).poll_flush(cx)
        });
        assert!(tokio::time::timeout(Duration::from_millis(300), flushing).await.is_err());
        assert!(polls < 20, "polled {polls} times while the peer did not read");
    }
}
