//! What a user of npm `websocket` looks for, where no other test shows it; PARITY.md has the list. And that
//! library's quirks, which are better here.

use std::{
    fmt::Write as _,
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_sink::Sink as _;
use tokio::sync::mpsc;
use tracing::{Subscriber, field::Visit, span};
use wireline::{
    CloseCause, Config, ConnectError, Initiator, Keepalive, Request, SendError, Server, SetCookie, connect,
};
use wireline_testkit::{Frame, RawPeer};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

fn echo() -> Server {
    Server::new().on_message(|socket, message| async move { Ok(socket.send(message).await?) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_tells_what_was_asked_for() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::new().dangerous_any_origin().on_request(move |req: Request| {
        let _ = tell.send(req);
        std::future::ready(Ok(()))
    });
    let addr = listen(&server);
    let mut peer = RawPeer::dial(addr);
    let more = "Origin: https://app.example\r\nSec-WebSocket-Protocol: B, a\r\nX-One: 1\r\nX-One: 2\r\n\
                Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let head = String::from_utf8(RawPeer::request_head(more)).expect("it is text");
    peer.send_bytes(head.replace("GET / ", "GET /chat/%C3%A9?room=1&x=%20 ").as_bytes());
    let req = soon(told.recv()).await.expect("it comes");
    assert_eq!(req.uri(), "/chat/%C3%A9?room=1&x=%20");
    assert_eq!((req.path(), req.query()), ("/chat/%C3%A9", Some("room=1&x=%20")));
    assert_eq!((req.host(), req.origin()), ("localhost", Some("https://app.example")));
    assert_eq!(req.protocols(), ["B", "a"]);
    assert_eq!(req.header("x-one"), Some("1"));
    assert_eq!(req.headers().get_all("X-One").iter().count(), 2);
    let offered = req.header("Sec-WebSocket-Extensions");
    assert_eq!(offered, Some("permessage-deflate; client_max_window_bits"));
    assert_eq!(req.remote_addr().map(|addr| addr.ip()), Some(addr.ip()));
    assert_eq!(req.client_ip(), Some(addr.ip()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_asks_as_it_was_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/chat?a=b", listener.local_addr().expect("it is bound"));
    let asked = std::thread::spawn(move || {
        let mut peer = RawPeer::accept(&listener);
        let answer = peer.switching_protocols("Sec-WebSocket-Protocol: a\r\n");
        peer.send_bytes(&answer);
        peer
    });
    let connecting = connect(url)
        .protocols(["B", "a"])
        .origin("https://app.example")
        .header("Host", "chat.example:8080")
        .header("Cookie", "session=1")
        .header("Authorization", "Bearer 2");
    let ws = soon(connecting.into_future()).await.expect("it is accepted");
    assert_eq!(ws.protocol(), Some("a"));
    let peer = asked.join().expect("it was asked");
    assert!(peer.head().starts_with("GET /chat?a=b HTTP/1.1\r\n"), "{}", peer.head());
    for (name, value) in [
        ("host", "chat.example:8080"),
        ("origin", "https://app.example"),
        ("cookie", "session=1"),
        ("authorization", "Bearer 2"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "B, a"),
    ] {
        assert_eq!(peer.header(name), Some(value), "{}", peer.head());
    }
    assert_eq!(peer.head().to_ascii_lowercase().matches("host: ").count(), 1, "{}", peer.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_the_headers_of_the_answer_with_its_cookies() {
    let (taken, mut take) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let taken = taken.clone();
        async move {
            let accept = req.accept().header("X-Node", "7").cookie(SetCookie::new("session", "31d4d96e"));
            let _ = taken.send(accept.await?);
            Ok(())
        }
    });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());
    let ws = soon(connect(url).into_future()).await.expect("it is accepted");
    let headers = ws.response_headers().expect("it is a client");
    assert_eq!(headers["x-node"], "7");
    assert!(headers["set-cookie"].as_bytes().starts_with(b"session=31d4d96e"), "{headers:?}");
    assert!(soon(take.recv()).await.expect("it accepted").response_headers().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_that_nobody_asked_for_goes_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let ws = soon(connect(url).into_future()).await.expect("it is accepted");
    let mut peer = peer.join().expect("it was asked");
    ws.pong(b"still here").expect("it is open");
    peer.expect(&Frame::pong("still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_that_is_flushed_goes_out_before_an_abort() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let mut ws = soon(connect(url).into_future()).await.expect("it is accepted");
    let mut peer = peer.join().expect("it was asked");
    ws.close_with(4002, "dropped").expect("it can be sent");
    soon(std::future::poll_fn(|cx| Pin::new(&mut ws).poll_flush(cx))).await.expect("it goes out");
    ws.abort();
    peer.expect(&Frame::close(4002, "dropped"));
    peer.expect_end();
}

/// What is logged, as it would be printed.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.lines().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

// On one thread, which is the one whose log is kept.
#[tokio::test]
async fn a_refused_handshake_is_told_to_the_log() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let addr = listen(&echo());
    let asking = tokio::task::spawn_blocking(move || RawPeer::request(addr, "Sec-WebSocket-Version: 8\r\n"));
    let peer = soon(asking).await.expect("it is answered");
    assert!(peer.head().starts_with("HTTP/1.1 400 "), "{}", peer.head());
    let lines = log.lines().clone();
    let told = lines.iter().find(|line| line.contains("refused a WebSocket request"));
    let told = told.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(told.starts_with("INFO wireline::"), "{told}");
    assert!(told.contains("the header sec-websocket-version came more than once"), "{told}");
    assert!(told.contains("remote_addr=Some(127.0.0.1:"), "{told}");
}

#[test]
fn one_connection_that_floods_does_not_keep_others_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let listener = runtime.block_on(async {
        // Nothing is answered, so that nothing holds the flood up.
        Server::new().on_message(|_, _| async { Ok(()) }).bind("127.0.0.1:0").expect("a port is free")
    });
    let addr = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || runtime.block_on(listener.serve()));
    let enough = Arc::new(AtomicBool::new(false));
    let (stop, mut flooding) = (Arc::clone(&enough), RawPeer::connect(addr));
    let flood = std::thread::spawn(move || {
        let frames = Frame::text("a small message").masked([3; 4]).bytes().repeat(4000);
        let (begun, mut sent) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(10) {
            flooding.send_bytes(&frames);
            sent += 1;
        }
        sent
    });
    let mut other = RawPeer::connect(addr);
    for number in 0..100 {
        other.send(&Frame::ping(number.to_string()));
        other.expect(&Frame::pong(number.to_string()));
    }
    enough.store(true, Ordering::Relaxed);
    assert!(flood.join().expect("it was taken") > 0, "it flooded");
}

// Quirks of npm `websocket` that it does not share, by their numbers in PARITY.md.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q1_a_client_without_the_subprotocol_is_refused_and_the_server_lives_on() {
    let server = Server::new()
        .on_request(|req: Request| async move { req.accept().protocol("echo-protocol").run().await });
    let server = server.on_message(|socket, message| async move { Ok(socket.send(message).await?) });
    let addr = listen(&server);
    let url = format!("ws://{addr}/");
    for _ in 0..3 {
        let refused = soon(connect(&url).into_future()).await;
        assert!(matches!(refused, Err(ConnectError::Rejected(response)) if response.status() == 400));
        let mut ws = soon(connect(&url).protocols(["echo-protocol"]).into_future()).await.expect("it lives");
        ws.send("still here").await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some("still here".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q2_a_subprotocol_is_compared_with_case_and_comes_back_as_it_was_offered() {
    let server = Server::new().on_request(|req: Request| async move {
        let wanted = req.path().trim_start_matches('/').to_owned();
        req.accept().protocol(wanted).run().await
    });
    let addr = listen(&server);
    let asking =
        |path: &str| connect(format!("ws://{addr}/{path}")).protocols(["Echo-Protocol"]).into_future();
    let ws = soon(asking("Echo-Protocol")).await.expect("it was offered");
    assert_eq!(ws.protocol(), Some("Echo-Protocol"));
    let refused = soon(asking("echo-protocol")).await;
    assert!(matches!(refused, Err(ConnectError::Rejected(response)) if response.status() == 400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q5_what_is_no_request_for_a_websocket_is_not_accepted() {
    let addr = listen(&echo());
    let good = String::from_utf8(RawPeer::request_head("")).expect("it is text");
    for (from, to, status) in [
        ("GET ", "POST ", "405"),
        ("Upgrade: websocket", "Upgrade: foo", "426"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "abc", "400"),
        ("GET ", "GET ", "101"),
    ] {
        let mut peer = RawPeer::dial(addr);
        peer.send_bytes(good.replacen(from, to, 1).as_bytes());
        peer.read_head();
        assert!(peer.head().starts_with(&format!("HTTP/1.1 {status} ")), "{to}: {}", peer.head());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q6_to_q9_a_close_is_echoed_and_told_as_it_came() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = echo().on_close(move |_, close| {
        let _ = tell.send(close);
        async {}
    });
    let addr = listen(&server);
    for (sent, answer, code, reason) in [
        (Frame::close(4001, "done"), Frame::close(4001, "done"), 4001, "done"),
        (Frame::new(8, ""), Frame::new(8, ""), 1005, ""),
        (Frame::close(1000, "x"), Frame::close(1000, "x"), 1000, "x"),
        (Frame::close(999, ""), Frame::close(1002, ""), 1006, ""),
        (Frame::close(2999, ""), Frame::close(1002, ""), 1006, ""),
        (Frame::close(1005, ""), Frame::close(1002, ""), 1006, ""),
        (Frame::close(1015, ""), Frame::close(1002, ""), 1006, ""),
    ] {
        let mut peer = RawPeer::connect(addr);
        peer.send(&sent);
        let answered = peer.read().expect("it is answered");
        if code == 1006 {
            // With a reason of its own.
            assert_eq!(answered.payload.first_chunk::<2>(), answer.payload.first_chunk::<2>(), "{sent:?}");
        } else {
            assert_eq!(answered, answer);
        }
        drop(peer);
        let close = soon(told.recv()).await.expect("it is told");
        assert_eq!((close.code, &*close.reason), (code.into(), reason), "{sent:?}: {close}");
        assert_eq!(close.was_clean, code != 1006, "{sent:?}: {close}");
        assert_eq!(close.cause.is_some(), code == 1006, "{sent:?}: {close}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q11_what_is_sent_after_a_close_is_refused_and_the_close_stays_clean() {
    let ws = soon(connect(format!("ws://{}/", listen(&echo()))).into_future()).await.expect("it is accepted");
    ws.close_with(4001, "done").expect("it can be sent");
    assert_eq!(ws.send("too late").await, Err(SendError::Closed));
    assert_eq!(ws.try_send("too late"), Err(SendError::Closed));
    let close = soon(ws.closed()).await;
    assert_eq!((close.was_clean, close.code, close.initiator), (true, 4001.into(), Initiator::User));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q15_to_q17_empty_messages_arrive_and_a_bare_close_is_bare_and_clean() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let mut ws = soon(connect(url).into_future()).await.expect("it is accepted");
    let mut peer = peer.join().expect("it was asked");
    peer.send(&Frame::text(""));
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some("".into()));
    ws.close();
    peer.expect(&Frame::new(8, ""));
    peer.send(&Frame::close(3000, "bye"));
    let close = soon(ws.closed()).await;
    assert_eq!((close.was_clean, close.code, &*close.reason), (true, 3000.into(), "bye"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q19_keys_and_masks_are_never_the_same_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let (mut keys, mut masks) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let accepting = listener.try_clone().expect("one more");
        let peer = std::thread::spawn(move || RawPeer::serve(&accepting));
        let ws = soon(connect(&url).into_future()).await.expect("it is accepted");
        let mut peer = peer.join().expect("it was asked");
        keys.push(peer.header("sec-websocket-key").expect("it has a key").to_owned());
        for _ in 0..10 {
            ws.send("the same").await.expect("it is open");
            masks.push(peer.read().and_then(|frame| frame.mask).expect("clients mask"));
        }
    }
    keys.sort();
    keys.dedup();
    masks.sort();
    masks.dedup();
    assert_eq!((keys.len(), masks.len()), (10, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q24_a_client_asks_a_silent_server_for_a_sign_of_life() {
    assert_eq!(Config::client().keepalive, Config::server().keepalive, "by default as a server does");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let peer = std::thread::spawn(move || RawPeer::serve(&listener));
    let [interval, timeout] = [Duration::from_millis(50), Duration::from_millis(300)];
    let connecting = connect(url).config(Config::client().keepalive(Keepalive { interval, timeout }));
    let ws = soon(connecting.into_future()).await.expect("it is accepted");
    let mut peer = peer.join().expect("it was asked");
    let asked = peer.read().expect("it is asked");
    assert_eq!((asked.opcode, asked.mask.is_some()), (0x9, true), "{asked:?}");
    let close = soon(ws.closed()).await;
    assert!(matches!(close.cause, Some(CloseCause::PingTimeout)), "{close}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q25_a_message_in_fragments_and_one_in_a_single_frame_are_both_messages() {
    let mut peer = RawPeer::connect(listen(&echo()));
    peer.send(&Frame::text("in ").more());
    peer.send(&Frame::continuation("fragments"));
    peer.send(&Frame::text("in one"));
    peer.expect(&Frame::text("in fragments"));
    peer.expect(&Frame::text("in one"));
}
