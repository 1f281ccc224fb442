//! The connection is driven while the application is busy elsewhere: Pings are answered, Close frames
//! seen, timers kept, and what is read ahead or queued is bounded.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use futures_core::Stream as _;
use tokio::sync::{mpsc, oneshot};
use wireline::{
    CloseCause, Config, Keepalive, Message, RecvError, Request, SendError, Server, WebSocket, connect,
};
use wireline_testkit::{Frame, RawPeer};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// A client, without keepalive unless given one, and the raw server at its other end.
async fn client(config: Config) -> (WebSocket, RawPeer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let ws = connect(url).config(config).await.expect("the peer accepts");
    (ws, peer.join().expect("the peer shakes hands"))
}

fn quiet() -> Config {
    Config::client().keepalive(None)
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

/// The server's end of a connection, taken out of its handler, and the raw client at its other end.
async fn server(config: Config) -> (WebSocket, RawPeer) {
    let (give, mut taken) = mpsc::unbounded_channel();
    let server = Server::new().config(config).on_request(move |req: Request| {
        let give = give.clone();
        async move {
            let _ = give.send(req.accept().await?);
            Ok(())
        }
    });
    let addr = listen(&server);
    let peer = tokio::task::spawn_blocking(move || RawPeer::connect(addr));
    let ws = soon(taken.recv()).await.expect("the handler accepts");
    (ws, peer.await.expect("the server accepts"))
}

/// Polls a future once, and leaves it be.
fn poll_once<F: Future>(future: Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn answers_a_ping(peer: &mut RawPeer) {
    peer.send(&Frame::ping("are you there?"));
    peer.expect(&Frame::pong("are you there?"));
}

/// The application takes one message that it had to wait for, and then does something else.
async fn take_one(ws: &mut WebSocket, peer: &mut RawPeer, bytes: &[u8]) {
    let (received, ()) = soon(async { tokio::join!(ws.recv(), async { peer.send_bytes(bytes) }) }).await;
    assert_eq!(received.expect("the connection is open"), Some("one".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_receives_answers_pings() {
    let (ws, mut peer) = client(quiet()).await;
    for _ in 0..3 {
        answers_a_ping(&mut peer);
    }
    drop(ws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_turns_from_recv_to_other_work_answers_pings() {
    let (mut ws, mut peer) = client(quiet()).await;
    let one = Frame::text("one").bytes();
    take_one(&mut ws, &mut peer, &one).await;
    answers_a_ping(&mut peer);
    take_one(&mut ws, &mut peer, &one).await;
    answers_a_ping(&mut peer);
    drop(ws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_right_behind_the_message_that_a_client_works_on_is_answered() {
    let (mut ws, mut peer) = client(quiet()).await;
    let both = [Frame::text("one").bytes(), Frame::ping("behind").bytes()].concat();
    take_one(&mut ws, &mut peer, &both).await;
    peer.expect(&Frame::pong("behind"));
    drop(ws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_right_behind_the_message_that_a_client_works_on_is_answered() {
    let (mut ws, mut peer) = client(quiet()).await;
    let both = [Frame::text("one").bytes(), Frame::close(4000, "bye").bytes()].concat();
    take_one(&mut ws, &mut peer, &both).await;
    peer.expect(&Frame::close(4000, "bye"));
    drop(peer);
    assert_eq!(soon(ws.closed()).await.code, 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_recv_was_dropped_answers_pings() {
    let (mut ws, mut peer) = client(quiet()).await;
    assert!(!poll_once(pin!(ws.recv())));
    answers_a_ping(&mut peer);
    drop(ws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_recv_is_kept_and_not_polled_answers_pings() {
    let (mut ws, mut peer) = client(quiet()).await;
    let mut recv = pin!(ws.recv());
    assert!(!poll_once(recv.as_mut()));
    answers_a_ping(&mut peer);
    answers_a_ping(&mut peer);
    peer.send(&Frame::text("one"));
    assert_eq!(soon(recv).await.expect("the connection is open"), Some("one".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_polled_as_a_stream_and_left_answers_pings() {
    let (mut ws, mut peer) = client(quiet()).await;
    let polled = Pin::new(&mut ws).poll_next(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    answers_a_ping(&mut peer);
    answers_a_ping(&mut peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_polled_as_a_stream_sees_the_end_in_closed() {
    let (mut ws, mut peer) = client(quiet()).await;
    let left =
        tokio::time::timeout(Duration::ZERO, std::future::poll_fn(|cx| Pin::new(&mut ws).poll_next(cx)));
    assert!(left.await.is_err());
    peer.send(&Frame::close(4000, ""));
    assert_eq!(soon(ws.closed()).await.code, 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_some_of_what_was_read_ahead_answers_pings() {
    let (mut ws, mut peer) = client(quiet()).await;
    let message = Frame::binary(vec![7; 20 << 10]).bytes();
    peer.send_bytes(&message.repeat(8));
    // The read-ahead is full: this Ping lies behind it, and is not seen.
    peer.send(&Frame::ping("behind"));
    for _ in 0..8 {
        soon(ws.recv()).await.expect("the connection is open").expect("messages are left");
    }
    peer.expect(&Frame::pong("behind"));
    answers_a_ping(&mut peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_receives_answers_pings() {
    let server = Server::new().config(quiet()).on_request(|req: Request| async move {
        let ws = req.accept().await?;
        std::future::pending::<()>().await;
        drop(ws);
        Ok(())
    });
    let mut peer = RawPeer::connect(listen(&server));
    for _ in 0..3 {
        answers_a_ping(&mut peer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_turns_from_recv_to_other_work_answers_pings() {
    let server = Server::new().config(quiet()).on_request(|req: Request| async move {
        let mut ws = req.accept().await?;
        let _ = ws.recv().await?;
        std::future::pending::<()>().await;
        Ok(())
    });
    let mut peer = RawPeer::connect(listen(&server));
    peer.send_bytes(
        &[Frame::text("one"), Frame::ping("behind")].map(|frame| frame.masked([1; 4]).bytes()).concat(),
    );
    peer.expect(&Frame::pong("behind"));
    answers_a_ping(&mut peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_connection_that_left_its_handler_answers_pings_between_messages() {
    let (mut ws, mut peer) = server(quiet()).await;
    answers_a_ping(&mut peer);
    take_one(&mut ws, &mut peer, &Frame::text("one").masked([1; 4]).bytes()).await;
    answers_a_ping(&mut peer);
    drop(ws);
}

/// Both ends are quick to doubt the other, and no application calls `recv`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_applications_at_both_ends_stay_connected_under_keepalive() {
    let interval = Duration::from_millis(100);
    let keepalive = Keepalive { interval, timeout: Duration::from_millis(400) };
    let (give, mut taken) = mpsc::unbounded_channel();
    let server =
        Server::new().config(Config::server().keepalive(keepalive)).on_request(move |req: Request| {
            let give = give.clone();
            async move {
                let ws = req.accept().await?;
                let _ = give.send(ws.socket());
                std::future::pending::<()>().await;
                drop(ws);
                Ok(())
            }
        });
    let url = format!("ws://{}/", listen(&server));
    let ws = connect(url).config(Config::client().keepalive(keepalive)).await.expect("the server accepts");
    let socket = soon(taken.recv()).await.expect("the handler accepts");
    let ends = async { tokio::join!(ws.closed(), socket.closed()) };
    assert!(tokio::time::timeout(interval * 30, ends).await.is_err(), "keepalive ended a living connection");
    assert!(ws.latency().is_some() || socket.latency().is_some(), "a Ping was sent and answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_answers_a_server_that_waits_less_than_the_clients_own_interval() {
    let keepalive = Keepalive { interval: Duration::from_millis(100), timeout: Duration::from_millis(400) };
    let server =
        Server::new().config(Config::server().keepalive(keepalive)).on_request(|req: Request| async move {
            let ws = req.accept().await?;
            ws.send("one").await?;
            ws.closed().await;
            Ok(())
        });
    let mut ws = connect(format!("ws://{}/", listen(&server))).await.expect("the server accepts");
    assert_eq!(soon(ws.recv()).await.expect("the connection is open"), Some("one".into()));
    let end = tokio::time::timeout(Duration::from_secs(2), ws.closed()).await;
    assert!(end.is_err(), "the server gave a living client up: {end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_found_by_both_ends() {
    let keepalive = Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(50) };
    let (ws, _silent) = client(Config::client().keepalive(keepalive)).await;
    let close = soon(ws.closed()).await;
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
    let (ws, _silent) = server(Config::server().keepalive(keepalive)).await;
    let close = soon(ws.closed()).await;
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
}

/// What the driver read ahead does not make it miss its timer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_spoke_and_then_fell_silent_is_found_by_both_ends() {
    let keepalive = Keepalive { interval: Duration::from_millis(150), timeout: Duration::from_millis(150) };
    let (ws, mut peer) = client(Config::client().keepalive(keepalive)).await;
    peer.send(&Frame::ping("once"));
    peer.expect(&Frame::pong("once"));
    let close = soon(ws.closed()).await;
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
    let (ws, mut peer) = server(Config::server().keepalive(keepalive)).await;
    peer.send_bytes(&Frame::ping("once").masked([1; 4]).bytes());
    peer.expect(&Frame::pong("once"));
    let close = soon(ws.closed()).await;
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
}

/// A task that has used up its turn gets no answer from tokio's timer; the timer must be set anyhow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_uses_up_its_turns_does_not_lose_the_keepalive() {
    let keepalive = Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(50) };
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let server =
        Server::new().config(Config::server().keepalive(keepalive)).on_request(move |req: Request| {
            let tell = tell.lock().expect("not poisoned").take();
            async move {
                let ws = req.accept().await?;
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(200) {
                    tokio::task::consume_budget().await;
                }
                let _ = tell.expect("one connection").send(ws.closed().await);
                Ok(())
            }
        });
    let _silent = RawPeer::connect(listen(&server));
    let close = soon(told).await.expect("the handler ends");
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_flooding_peer_sends_is_read_ahead_within_bounds_and_all_arrives() {
    const COUNT: u32 = 32 << 10;
    let (go, gone) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let once = std::sync::Mutex::new(Some((gone, tell)));
    let server = Server::new().on_request(move |req: Request| {
        let once = once.lock().expect("not poisoned").take();
        async move {
            let mut ws = req.accept().await?;
            let (gone, tell) = once.expect("one connection");
            let _ = gone.await;
            let mut next = 0;
            while let Some(message) = ws.recv().await? {
                assert_eq!(message.as_bytes()[..4], u32::to_be_bytes(next));
                next += 1;
            }
            let _ = tell.send(next);
            Ok(())
        }
    });
    let mut peer = RawPeer::connect(listen(&server));
    let mut flood = Vec::new();
    for number in 0..COUNT {
        let mut payload = vec![0; 1 << 10];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        flood.extend(Frame::binary(payload).masked([9; 4]).bytes());
    }
    let sent = peer.send_until_stalled(&flood, Duration::from_millis(500));
    assert!(sent < flood.len() / 2, "the server took {sent} bytes that its application does not take");
    go.send(()).expect("the handler waits");
    peer.send_bytes(&flood[sent..]);
    peer.send(&Frame::close(1000, ""));
    peer.expect(&Frame::close(1000, ""));
    assert_eq!(soon(told).await.expect("the handler ends"), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_wait_for_a_peer_that_does_not_read() {
    const COUNT: usize = 32 << 10;
    let (ws, mut peer) = server(Config::server()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let sender = tokio::spawn({
        let (socket, sent) = (ws.socket(), Arc::clone(&sent));
        async move {
            for number in 0..COUNT {
                let mut payload = vec![0; 1 << 10];
                payload[..8].copy_from_slice(&number.to_be_bytes());
                socket.send(payload).await?;
                sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, SendError>(())
        }
    });
    let mut before = usize::MAX;
    while std::mem::replace(&mut before, sent.load(Ordering::SeqCst)) != sent.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < COUNT / 2, "{before} KiB were queued for a peer that does not read");
    let buffered = ws.buffered_amount();
    assert!(buffered > 64 << 10 && buffered <= 66 << 10, "{buffered}");
    let mut tried = 0;
    let full = loop {
        match ws.try_send(vec![1; 1 << 10]) {
            Ok(()) => tried += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full { buffered } if buffered <= 1 << 20), "{full}");
    assert!(ws.buffered_amount() <= 1 << 20, "{}", ws.buffered_amount());
    let mut next = 0_usize;
    for _ in 0..COUNT + tried {
        let frame = peer.read().expect("messages are left");
        if frame.payload[0] == 0 {
            assert_eq!(frame.payload[..8], next.to_be_bytes());
            next += 1;
        }
    }
    assert_eq!(next, COUNT);
    soon(sender).await.expect("no panic").expect("everything was sent");
    assert_eq!(ws.buffered_amount(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_pings_and_does_not_read_is_answered_last_of_all() {
    const COUNT: u32 = 200_000;
    let (ws, mut peer) = server(Config::server().keepalive(None)).await;
    let mut flood = Vec::new();
    for number in 1..=COUNT {
        let mut payload = [0; 125];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        flood.extend(Frame::ping(payload).masked([9; 4]).bytes());
    }
    let reader = std::thread::spawn({
        let mut peer = peer.second();
        // Nothing is read until everything is out.
        move || {
            peer.send_bytes(&flood);
            peer
        }
    });
    drop(reader.join().expect("the server reads on"));
    assert!(ws.buffered_amount() <= 32 << 10, "{} bytes of Pongs wait", ws.buffered_amount());
    let mut last = 0;
    while last < COUNT {
        let pong = peer.read().expect("Pongs are left");
        let number = u32::from_be_bytes(pong.payload[..4].try_into().expect("four bytes"));
        assert!(number > last, "Pongs come in order");
        last = number;
    }
    drop(ws);
}

/// Waits for a future on this thread, which is none of the runtime's.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(Duration::from_secs(3));
        assert!(start.elapsed() < Duration::from_secs(3), "a message that came was not told to its reader");
    }
}

/// The reader's thread and the runtime's are two: a message may come at any moment of a `recv`.
#[test]
fn a_message_that_comes_while_recv_makes_ready_to_wait_wakes_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let (mut ws, mut peer) = runtime.block_on(client(quiet()));
    let give = Arc::new(AtomicUsize::new(0));
    let writer = std::thread::spawn({
        let give = Arc::clone(&give);
        move || {
            let frame = Frame::text("one").bytes();
            let mut random = 1_u32;
            for round in 1..=100_000 {
                while give.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                if give.load(Ordering::Acquire) == usize::MAX {
                    return;
                }
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                for _ in 0..random >> 22 {
                    std::hint::spin_loop();
                }
                peer.send_bytes(&frame);
            }
        }
    });
    let start = Instant::now();
    let mut received: Result<Option<Message>, RecvError> = Ok(None);
    for round in 1..=100_000 {
        give.store(round, Ordering::Release);
        received = wait_for(ws.recv());
        if start.elapsed() > Duration::from_secs(4) {
            break;
        }
    }
    give.store(usize::MAX, Ordering::Release);
    assert_eq!(received.expect("the connection is open"), Some("one".into()));
    writer.join().expect("the peer writes");
}

/// At both ends: a task waits in `recv` while a keepalive Ping is answered, and then a message comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_behind_an_answered_ping_is_received_at_once() {
    let wait = Duration::from_secs(1);
    let keepalive = Keepalive { interval: wait, timeout: wait };
    for is_client in [true, false] {
        let (mut ws, mut peer) = match is_client {
            true => client(Config::client().keepalive(keepalive)).await,
            false => server(Config::server().keepalive(keepalive)).await,
        };
        let peer = std::thread::spawn(move || {
            peer.expect(&Frame::ping(""));
            peer.send(&Frame::pong(""));
            std::thread::sleep(Duration::from_millis(150));
            peer.send(&Frame::text("now"));
            (Instant::now(), peer)
        });
        assert_eq!(soon(ws.recv()).await.expect("it is open"), Some("now".into()));
        let received = Instant::now();
        let (sent, _peer) = peer.join().expect("the peer is content");
        let late = received.saturating_duration_since(sent);
        assert!(late < wait / 2, "received {late:?} after it was sent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_keepalive_still_pings_at_its_interval() {
    let keepalive = Keepalive { interval: Duration::from_millis(200), timeout: Duration::from_secs(60) };
    let (_ws, mut peer) = server(Config::server().keepalive(keepalive)).await;
    let pings = std::thread::spawn(move || {
        for _ in 0..3 {
            peer.expect(&Frame::ping(""));
            peer.send(&Frame::pong(""));
        }
        peer
    });
    soon(tokio::task::spawn_blocking(move || pings.join().expect("the peer is content")))
        .await
        .expect("it ends");
}
