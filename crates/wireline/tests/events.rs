//! Event style at both ends: which handler is called, when, and what its failure does.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{Semaphore, mpsc};
use wireline::{
    CloseCause, CloseEvent, ConnectError, Error, Handler, Message, Request, Server, ServerHandle, Socket,
    connect,
};
use wireline_testkit::{Frame, RawPeer};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn listen(server: &Server) -> (SocketAddr, ServerHandle) {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    (addr, server.handle())
}

/// What was called, in order.
#[derive(Clone)]
struct Log {
    tell: mpsc::UnboundedSender<String>,
}

impl Log {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (tell, told) = mpsc::unbounded_channel();
        (Self { tell }, told)
    }

    fn note(&self, what: impl Into<String>) {
        let _ = self.tell.send(what.into());
    }
}

async fn expect(told: &mut mpsc::UnboundedReceiver<String>, expected: &[&str]) {
    for line in expected {
        assert_eq!(soon(told.recv()).await.as_deref(), Some(*line));
    }
}

/// A server that notes every event and echoes; `fail` makes a handler fail, `panic` makes it panic.
fn noting(log: &Log) -> Server {
    let [open, message, ping, error, close] = [(); 5].map(|()| log.clone());
    Server::new()
        .on_open(move |_| {
            open.note("open");
            async { Ok(()) }
        })
        .on_message(move |socket, received| {
            message.note(format!("message {received}"));
            async move {
                match received.as_text() {
                    Some("fail") => return Err(Error::other("on purpose")),
                    Some("panic") => panic!("on purpose"),
                    _ => socket.send(received).await?,
                }
                Ok(())
            }
        })
        .on_ping(move |_, payload| {
            ping.note(format!("ping {payload:?}"));
            async { Ok(()) }
        })
        .on_error(move |_, failure| error.note(format!("error {failure}")))
        .on_close(move |_, event| {
            close.note(format!("close {event}"));
            async {}
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_handlers_are_called_in_the_order_of_what_happens() {
    let (log, mut told) = Log::new();
    let (addr, _) = listen(&noting(&log));
    let mut peer = RawPeer::connect(addr);
    peer.send(&Frame::text("one"));
    peer.send(&Frame::ping("are you there"));
    peer.send(&Frame::binary(vec![7; 3]));
    for answer in [Frame::text("one"), Frame::pong("are you there"), Frame::binary(vec![7; 3])] {
        peer.expect(&answer);
    }
    peer.send(&Frame::close(4001, "done"));
    peer.expect(&Frame::close(4001, "done"));
    let expected = [
        "open",
        "message one",
        "ping b\"are you there\"",
        "message <3 bytes>",
        "close closed cleanly by the peer, 4001 private application code: \"done\"",
    ];
    expect(&mut told, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_handlers_are_called_in_the_order_of_what_happens() {
    let (addr, _) = listen(&noting(&Log::new().0));
    let (log, mut told) = Log::new();
    let [open, message, error, close] = [(); 4].map(|()| log.clone());
    let client = connect(format!("ws://{addr}/"))
        .protocols(["echo-protocol"])
        .on_open(move |socket| {
            open.note(format!("open {:?}", socket.protocol()));
            async move { Ok(socket.send("My name is John").await?) }
        })
        .on_message(move |socket, received| {
            message.note(format!("message {received}"));
            async move { Ok(socket.close_with(4001, "done")?) }
        })
        .on_error(move |_, failure| error.note(format!("error {failure}")))
        .on_close(move |_, event| {
            close.note(format!("close {event}"));
            async {}
        });
    soon(client.run()).await.expect("it ends well");
    log.note("done");
    let expected = [
        "open Some(\"echo-protocol\")",
        "message My name is John",
        "close closed cleanly by this end, 4001 private application code: \"done\"",
        "done",
    ];
    expect(&mut told, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_an_error_and_then_a_close() {
    let (log, mut told) = Log::new();
    let (addr, _) = listen(&noting(&log));
    drop(RawPeer::connect(addr));
    let lost = "the connection was lost without a Close frame";
    let error = format!("error the connection ended: not clean: {lost}");
    expect(&mut told, &["open", &error, &format!("close not clean: {lost}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_reached_is_an_error_of_run_alone() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it is bound");
    let (log, mut told) = Log::new();
    let client = connect(format!("ws://{closed}/")).on_error(move |_, _| log.note("error"));
    let error = soon(client.run()).await.expect_err("nobody listens there");
    assert!(matches!(error, Error::Connect(ConnectError::Tcp { .. })), "{error}");
    assert_eq!(told.recv().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_or_panics_closes_its_own_connection_with_1011_alone() {
    let (log, mut told) = Log::new();
    let (addr, _) = listen(&noting(&log));
    let mut bystander = RawPeer::connect(addr);
    expect(&mut told, &["open"]).await;
    for (message, error) in [("fail", Some("error on purpose")), ("panic", None)] {
        let mut peer = RawPeer::connect(addr);
        peer.send(&Frame::text(message));
        peer.send(&Frame::text("never handled"));
        peer.expect(&Frame::close(1011, ""));
        peer.send(&Frame::close(1011, ""));
        expect(&mut told, &["open", &format!("message {message}")]).await;
        if let Some(error) = error {
            expect(&mut told, &[error]).await;
        }
        expect(&mut told, &["close closed cleanly by this end, 1011 internal error"]).await;
    }
    bystander.send(&Frame::text("still here"));
    bystander.expect(&Frame::text("still here"));
    expect(&mut told, &["message still here"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_handler_that_fails_or_panics_closes_with_1011_and_run_tells() {
    for message in ["fail", "panic"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
        let (log, mut told) = Log::new();
        let [error, close] = [(); 2].map(|()| log.clone());
        let client = connect(url)
            .on_message(|_, received: Message| async move {
                assert_ne!(received.as_text(), Some("panic"), "on purpose");
                Err(Error::other("on purpose"))
            })
            .on_error(move |_, failure| error.note(format!("error {failure}")))
            .on_close(move |_, event| {
                close.note(format!("close {}", event.code));
                async {}
            });
        let running = tokio::spawn(client.run());
        let mut peer = RawPeer::serve(&listener);
        peer.send(&Frame::text(message));
        peer.expect(&Frame::close(1011, ""));
        peer.send(&Frame::close(1011, ""));
        let ran = soon(running).await;
        if message == "panic" {
            assert!(ran.expect_err("the panic goes on").is_panic());
            expect(&mut told, &["close 1011 internal error"]).await;
        } else {
            assert_eq!(ran.expect("no panic").expect_err("it failed").to_string(), "on purpose");
            expect(&mut told, &["error on purpose", "close 1011 internal error"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_handled_one_after_the_other_and_the_peer_waits() {
    const LEN: usize = 64 << 10;
    let (permits, handled) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, count, under_way) =
        (Arc::clone(&permits), Arc::clone(&handled), Arc::<AtomicUsize>::default());
    let server = Server::new().on_message(move |_, _| {
        let (permits, under_way, handled) = (Arc::clone(&open), Arc::clone(&under_way), Arc::clone(&count));
        async move {
            let before = under_way.fetch_add(1, Ordering::SeqCst);
            assert_eq!(before, 0, "the one before is still being handled");
            permits.acquire().await.expect("it is open").forget();
            under_way.fetch_sub(1, Ordering::SeqCst);
            handled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let (addr, _) = listen(&server);
    let mut peer = RawPeer::connect(addr);
    let message = Frame::binary(vec![1; LEN]).masked([9; 4]).bytes();
    let all: Vec<u8> = message.repeat(400);
    let sent = peer.send_until_stalled(&all, Duration::from_millis(500));
    assert!(sent < all.len(), "the peer could send {sent} bytes to a handler that is stuck");
    assert_eq!(handled.load(Ordering::SeqCst), 0);
    permits.add_permits(1000);
    let mut more = peer.second();
    more.send_bytes(&all[sent..]);
    peer.send(&Frame::ping("behind all"));
    while peer.read() != Some(Frame::pong("behind all")) {}
    peer.send(&Frame::close(1000, ""));
    peer.expect(&Frame::close(1000, ""));
    assert_eq!(handled.load(Ordering::SeqCst), 400);
}

/// A client that handles up to `concurrent` messages at once, and how many those were at most.
async fn most_at_once(concurrent: usize, messages: usize) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let at_once = Arc::new(Mutex::new((0, 0)));
    let count = Arc::clone(&at_once);
    let client = connect(url).concurrent(concurrent).on_message(move |_, _| {
        let under_way = Arc::clone(&count);
        // What a handler does before its future counts too.
        let mut count = count.lock().expect("no panic");
        count.0 += 1;
        count.1 = count.1.max(count.0);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            under_way.lock().expect("no panic").0 -= 1;
            Ok(())
        }
    });
    let running = tokio::spawn(client.run());
    let mut peer = RawPeer::serve(&listener);
    (0..messages).for_each(|number| peer.send(&Frame::text(number.to_string())));
    peer.send(&Frame::close(1000, ""));
    peer.expect(&Frame::close(1000, ""));
    soon(running).await.expect("no panic").expect("it ends well");
    let (left, most) = *at_once.lock().expect("no panic");
    assert_eq!(left, 0, "run waits for all of them");
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_messages_are_handled_at_once_as_was_allowed() {
    assert_eq!(most_at_once(1, 5).await, 1);
    assert_eq!(most_at_once(4, 20).await, 4);
    assert_eq!(most_at_once(50, 10).await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_handlers_at_once_that_fails_closes_with_1011() {
    let (log, mut told) = Log::new();
    let (addr, _) = listen(&noting(&log).concurrent(8));
    for (message, error) in [("fail", Some("error on purpose")), ("panic", None)] {
        let mut peer = RawPeer::connect(addr);
        peer.send(&Frame::text(message));
        // Nothing else comes: the failure is not found out by the next message.
        peer.expect(&Frame::close(1011, ""));
        peer.send(&Frame::close(1011, ""));
        expect(&mut told, &["open", &format!("message {message}")]).await;
        if let Some(error) = error {
            expect(&mut told, &[error]).await;
        }
        expect(&mut told, &["close closed cleanly by this end, 1011 internal error"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_one_of_many_handlers_at_once_that_failed_no_message_is_handled() {
    let (log, mut told) = Log::new();
    let (addr, _) = listen(&noting(&log).concurrent(100));
    let mut peer = RawPeer::connect(addr);
    peer.send(&Frame::text("fail"));
    peer.expect(&Frame::close(1011, ""));
    // By then its task has ended too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    (0..50).for_each(|_| peer.send(&Frame::text("never handled")));
    peer.send(&Frame::close(1011, ""));
    let closed = "close closed cleanly by this end, 1011 internal error";
    expect(&mut told, &["open", "message fail", "error on purpose", closed]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_on_error_is_followed_by_on_close_all_the_same() {
    for concurrent in [1, 8] {
        let (log, mut told) = Log::new();
        let server = noting(&log).concurrent(concurrent).on_error(|_, _| panic!("on purpose"));
        let (addr, _) = listen(&server);
        let mut peer = RawPeer::connect(addr);
        peer.send(&Frame::text("fail"));
        peer.expect(&Frame::close(1011, ""));
        peer.send(&Frame::close(1011, ""));
        let closed = "close closed cleanly by this end, 1011 internal error";
        expect(&mut told, &["open", "message fail", closed]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_decided_upon_before_the_handlers_are_called() {
    let (log, mut told) = Log::new();
    let server = noting(&log).on_request(|req: Request| async move {
        if req.path() == "/private" {
            return req.reject(StatusCode::FORBIDDEN).await;
        }
        req.accept().protocol("echo-protocol").run().await
    });
    let (addr, _) = listen(&server);
    let refused = soon(connect(format!("ws://{addr}/private")).into_future()).await;
    assert!(matches!(refused, Err(ConnectError::Rejected(response)) if response.status() == 403));
    let ws = soon(connect(format!("ws://{addr}/")).protocols(["echo-protocol"]).into_future()).await;
    let ws = ws.expect("it is accepted");
    assert_eq!(ws.protocol(), Some("echo-protocol"));
    ws.close();
    let expected = ["open", "close closed cleanly by the peer, 1005 no status received"];
    expect(&mut told, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_on_request_everyone_is_accepted_with_the_first_subprotocol_on_offer() {
    let (addr, _) = listen(&noting(&Log::new().0));
    for (offer, chosen) in [(&["B", "a"][..], Some("B")), (&[], None)] {
        let connecting = connect(format!("ws://{addr}/anything")).protocols(offer.iter().copied());
        let ws = soon(connecting.into_future()).await.expect("it is accepted");
        assert_eq!(ws.protocol(), chosen);
    }
    let foreign = connect(format!("ws://{addr}/")).origin("https://evil.example");
    let refused = soon(foreign.into_future()).await;
    assert!(matches!(refused, Err(ConnectError::Rejected(response)) if response.status() == 403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_is_told_to_the_handlers() {
    let (log, mut told) = Log::new();
    let (addr, handle) = listen(&noting(&log));
    let mut peer = RawPeer::connect(addr);
    expect(&mut told, &["open"]).await;
    let shutting_down = tokio::spawn(async move { handle.shutdown(Duration::from_secs(5)).await });
    peer.expect(&Frame::close(1001, ""));
    peer.send(&Frame::close(1001, ""));
    assert_eq!(soon(shutting_down).await.expect("no panic").cut, 0);
    expect(&mut told, &["close closed cleanly by this end, 1001 going away"]).await;
}

#[derive(Default)]
struct Counter {
    messages: usize,
    told: Option<mpsc::UnboundedSender<(usize, CloseEvent)>>,
}

impl Handler for Counter {
    async fn ping(&mut self, socket: &Socket, payload: Bytes) -> wireline::Result<()> {
        Ok(socket.send(format!("pinged with {payload:?}")).await?)
    }

    async fn message(&mut self, socket: &Socket, message: Message) -> wireline::Result<()> {
        self.messages += 1;
        Ok(socket.send(format!("{}: {message}", self.messages)).await?)
    }

    async fn close(&mut self, _: &Socket, close: CloseEvent) {
        if let Some(told) = self.told.take() {
            let _ = told.send((self.messages, close));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_has_a_state_for_each_connection() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let counter = Counter { told: Some(tell.clone()), ..Counter::default() };
        async move { req.accept().await?.run(counter).await }
    });
    let (addr, _) = listen(&server);
    let (mut first, mut second) = (RawPeer::connect(addr), RawPeer::connect(addr));
    for (peer, message, answer) in [(&mut first, "a", "1: a"), (&mut second, "b", "1: b")] {
        peer.send(&Frame::text(message));
        peer.expect(&Frame::text(answer));
    }
    first.send(&Frame::ping("hello"));
    first.expect(&Frame::pong("hello"));
    first.expect(&Frame::text("pinged with b\"hello\""));
    first.send(&Frame::text("c"));
    first.expect(&Frame::text("2: c"));
    first.send(&Frame::close(1000, ""));
    let (messages, close) = soon(told.recv()).await.expect("it is told");
    assert_eq!((messages, close.was_clean), (2, true));
    drop(second);
    let (messages, close) = soon(told.recv()).await.expect("it is told");
    assert_eq!(messages, 1);
    assert!(matches!(close.cause, Some(CloseCause::ConnectionLost)), "{close}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_can_have_a_handler_too() {
    let (addr, _) = listen(&noting(&Log::new().0));
    struct Once(mpsc::UnboundedSender<String>);
    impl Handler for Once {
        async fn open(&mut self, socket: &Socket) -> wireline::Result<()> {
            Ok(socket.send("My name is John").await?)
        }
        async fn message(&mut self, socket: &Socket, message: Message) -> wireline::Result<()> {
            let _ = self.0.send(message.to_string());
            socket.close();
            Ok(())
        }
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let ws = soon(connect(format!("ws://{addr}/")).into_future()).await.expect("it is accepted");
    soon(ws.run(Once(tell))).await.expect("it ends well");
    assert_eq!(told.recv().await.as_deref(), Some("My name is John"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_closes_with_1000() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let (opened, mut told) = mpsc::unbounded_channel();
    let client = connect(url).on_open(move |_| {
        let _ = opened.send(());
        async { Ok(()) }
    });
    let running = tokio::spawn(client.run());
    let mut peer = RawPeer::serve(&listener);
    soon(told.recv()).await.expect("it opens");
    running.abort();
    peer.expect(&Frame::close(1000, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_to_a_busy_handler_is_bounded() {
    let release = Arc::new(Semaphore::new(0));
    let pings = Arc::new(AtomicUsize::new(0));
    let (waiting, count) = (Arc::clone(&release), Arc::clone(&pings));
    let server = Server::new()
        .on_message(move |_, _| {
            let waiting = Arc::clone(&waiting);
            async move {
                let _ = waiting.acquire().await;
                Ok(())
            }
        })
        .on_ping(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        });
    let (addr, _) = listen(&server);
    let mut peer = RawPeer::connect(addr);
    let mut reader = peer.second();
    let reading = std::thread::spawn(move || {
        let mut pongs = 0;
        while reader.read().is_some_and(|frame| frame != Frame::close(1000, "")) {
            pongs += 1;
        }
        pongs
    });
    peer.send(&Frame::text("busy"));
    let flood = Frame::ping("x").masked([1; 4]).bytes().repeat(2_000_000);
    let sent = peer.send_until_stalled(&flood, Duration::from_millis(500));
    assert!(sent < flood.len(), "a busy handler's peer could send {sent} bytes of Pings");
    release.add_permits(1);
    let ping = Frame::ping("x").masked([1; 4]).bytes().len();
    peer.send_bytes(&flood[sent..sent.next_multiple_of(ping)]);
    peer.send(&Frame::close(1000, ""));
    reading.join().expect("it reads to the end");
    assert_eq!(pings.load(Ordering::SeqCst), sent.div_ceil(ping), "none is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_handler_that_fails_is_told_and_no_message_is_handled() {
    let (log, mut told) = Log::new();
    let server = noting(&log).on_open(|_| async { Err(Error::other("on purpose")) });
    let (addr, _) = listen(&server);
    let mut peer = RawPeer::connect(addr);
    peer.send(&Frame::text("never handled"));
    peer.expect(&Frame::close(1011, ""));
    peer.send(&Frame::close(1011, ""));
    expect(&mut told, &["error on purpose", "close closed cleanly by this end, 1011 internal error"]).await;
}
