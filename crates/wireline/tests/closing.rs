//! Every way in which a connection ends, and what each end is told of it.

use std::{
    future::{Future, IntoFuture as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use wireline::{
    AcceptError, CloseCause, CloseCode, CloseEvent, CloseFrameError, Config, Drained, Initiator, ReadyState,
    Request, SendError, Server, ServerHandle, WebSocket, connect,
};
use wireline_testkit::{Frame, RawPeer, drop_after};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn listen(server: &Server) -> (SocketAddr, ServerHandle) {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    (addr, handle)
}

async fn open(addr: SocketAddr) -> WebSocket {
    connect(format!("ws://{addr}/")).await.expect("the server accepts")
}

/// A server whose handlers give their connections away, and those connections.
fn giving() -> (Server, mpsc::UnboundedReceiver<WebSocket>) {
    let (give, taken) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let give = give.clone();
        async move {
            let _ = give.send(req.accept().await?);
            Ok(())
        }
    });
    (server, taken)
}

/// Both ends of a connection: the client's and the server's.
async fn pair() -> (WebSocket, WebSocket) {
    let (server, mut taken) = giving();
    let (addr, _) = listen(&server);
    let client = open(addr).await;
    (client, soon(taken.recv()).await.expect("the handler accepts"))
}

/// The server's end, and the raw client at its other end.
async fn with_raw_client(config: Config) -> (WebSocket, RawPeer) {
    let (server, mut taken) = giving();
    let (addr, _) = listen(&server.config(config));
    let peer = RawPeer::connect(addr);
    (soon(taken.recv()).await.expect("the handler accepts"), peer)
}

/// A server that runs this handler once the connection is accepted, and tells how connections end.
fn handled<F, H>(handler: F) -> (Server, mpsc::UnboundedReceiver<CloseEvent>)
where
    F: Fn(WebSocket) -> H + Clone + Send + Sync + 'static,
    H: Future<Output = wireline::Result<()>> + Send + 'static,
{
    let (tell, told) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let (handler, tell) = (handler.clone(), tell.clone());
        async move {
            let ws = req.accept().await?;
            let socket = ws.socket();
            tokio::spawn(async move {
                let closed = socket.closed();
                let _ = tell.send(closed.await);
            });
            handler(ws).await
        }
    });
    (server, told)
}

#[track_caller]
fn assert_clean(close: &CloseEvent, code: u16, reason: &str, initiator: Initiator) {
    assert!(close.was_clean, "{close}");
    assert!(close.cause.is_none(), "{close}");
    assert_eq!(
        (u16::from(close.code), &*close.reason, close.initiator),
        (code, reason, initiator),
        "{close}"
    );
}

#[track_caller]
fn assert_lost(close: &CloseEvent, initiator: Initiator, is_cause: impl Fn(&CloseCause) -> bool) {
    assert!(!close.was_clean, "{close}");
    assert_eq!((close.code, close.initiator), (CloseCode::ABNORMAL, initiator), "{close}");
    assert!(close.cause.as_ref().is_some_and(is_cause), "{close}");
}

fn is_lost(cause: &CloseCause) -> bool {
    matches!(cause, CloseCause::ConnectionLost | CloseCause::Transport(_))
}

#[tokio::test]
async fn close_without_a_code_is_1005_at_both_ends() {
    for client_begins in [true, false] {
        let (client, server) = pair().await;
        let (begins, follows) = if client_begins { (&client, &server) } else { (&server, &client) };
        begins.close();
        assert_ne!(begins.ready_state(), ReadyState::Open);
        assert_eq!(begins.send("late").await, Err(SendError::Closed));
        assert_clean(&soon(begins.closed()).await, 1005, "", Initiator::User);
        assert_clean(&soon(follows.closed()).await, 1005, "", Initiator::Remote);
        assert_eq!(begins.ready_state(), ReadyState::Closed);
        assert_eq!(follows.send("late").await, Err(SendError::Closed));
    }
}

#[tokio::test]
async fn a_code_and_a_reason_reach_the_other_end_and_come_back() {
    let longest = "é".repeat(61) + "!";
    for (code, reason) in [(1000, ""), (1011, "sorry"), (3000, "x"), (4001, "done"), (4999, &*longest)] {
        for client_begins in [true, false] {
            let (mut client, mut server) = pair().await;
            let (begins, follows) =
                if client_begins { (&mut client, &mut server) } else { (&mut server, &mut client) };
            begins.close_with(code, reason).expect("it can be sent");
            assert_eq!(soon(follows.recv()).await.expect("it was clean"), None);
            assert_eq!(soon(begins.recv()).await.expect("it was clean"), None);
            assert_clean(&soon(begins.closed()).await, code, reason, Initiator::User);
            assert_clean(&soon(follows.closed()).await, code, reason, Initiator::Remote);
        }
    }
}

#[tokio::test]
async fn when_both_ends_close_at_once_each_is_told_the_others_code() {
    let (client, server) = pair().await;
    client.close_with(4001, "client").expect("it can be sent");
    server.close_with(4002, "server").expect("it can be sent");
    assert_clean(&soon(client.closed()).await, 4002, "server", Initiator::User);
    assert_clean(&soon(server.closed()).await, 4001, "client", Initiator::User);
}

#[tokio::test]
async fn only_the_first_close_counts() {
    let (client, server) = pair().await;
    client.close_with(4001, "first").expect("it can be sent");
    client.close_with(4002, "second").expect("it can be sent");
    client.close();
    assert_clean(&soon(server.closed()).await, 4001, "first", Initiator::Remote);
}

#[tokio::test]
async fn what_must_not_be_sent_is_an_error_before_a_byte_is_sent() {
    let (client, server) = pair().await;
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(client.close_with(code, ""), Err(CloseFrameError::UnsendableCode(code.into())));
    }
    assert_eq!(client.close_with(1000, "x".repeat(124)), Err(CloseFrameError::ReasonTooLong(124)));
    assert_eq!(client.pong(&[0; 126]), Err(SendError::ControlPayloadTooBig(126)));
    assert_eq!(client.ready_state(), ReadyState::Open);
    client.close_with(4000, "").expect("it can be sent");
    assert_clean(&soon(server.closed()).await, 4000, "", Initiator::Remote);
}

#[tokio::test]
async fn dropping_every_handle_closes_with_1000() {
    for drop_client in [true, false] {
        let (client, server) = pair().await;
        let (dropped, mut left) = if drop_client { (client, server) } else { (server, client) };
        let handle = dropped.socket();
        dropped.send("last words").await.expect("it is open");
        drop(dropped);
        handle.send("of a clone").await.expect("a clone keeps it open");
        drop(handle);
        assert_eq!(soon(left.recv()).await.expect("clean"), Some("last words".into()));
        assert_eq!(soon(left.recv()).await.expect("clean"), Some("of a clone".into()));
        assert_eq!(soon(left.recv()).await.expect("clean"), None);
        assert_clean(&soon(left.closed()).await, 1000, "", Initiator::Remote);
    }
}

#[tokio::test]
async fn what_was_sent_before_close_arrives_before_the_close() {
    let (client, mut server) = pair().await;
    for number in 0_u32..20 {
        client.send(vec![u8::try_from(number).expect("small"); 10_000]).await.expect("it is open");
    }
    client.close();
    for number in 0..20 {
        let message = soon(server.recv()).await.expect("clean").expect("messages are left");
        assert_eq!(message.as_bytes(), [number; 10_000]);
    }
    assert_eq!(soon(server.recv()).await.expect("clean"), None);
}

#[tokio::test]
async fn recv_after_the_end_gives_the_same_again() {
    let (mut client, mut server) = pair().await;
    client.close();
    for _ in 0..3 {
        assert_eq!(soon(client.recv()).await.expect("clean"), None);
        assert_eq!(soon(server.recv()).await.expect("clean"), None);
        assert!(soon(server.closed()).await.was_clean);
    }
    let (mut client, mut server) = pair().await;
    client.abort();
    for _ in 0..3 {
        let error = soon(client.recv()).await.expect_err("no closing handshake");
        assert!(matches!(error.close_event().cause, Some(CloseCause::Aborted)), "{error}");
        soon(server.recv()).await.expect_err("no closing handshake");
        assert!(!soon(server.closed()).await.was_clean);
    }
}

#[tokio::test]
async fn abort_is_told_as_such_and_the_peer_is_told_of_a_loss() {
    for client_aborts in [true, false] {
        let (client, server) = pair().await;
        let (aborts, left) = if client_aborts { (&client, &server) } else { (&server, &client) };
        aborts.abort();
        assert_lost(&soon(aborts.closed()).await, Initiator::User, |cause| {
            matches!(cause, CloseCause::Aborted)
        });
        assert_lost(&soon(left.closed()).await, Initiator::Remote, is_lost);
        assert_eq!(aborts.send("late").await, Err(SendError::Closed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_under_way_ends_with_the_connection() {
    let (ws, mut peer) = with_raw_client(Config::server()).await;
    let socket = ws.socket();
    let ping = tokio::spawn(async move { socket.ping().await });
    assert_eq!(peer.read().map(|frame| frame.opcode), Some(0x9));
    ws.abort();
    assert_eq!(soon(ping).await.expect("no panic"), Err(SendError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_waits_for_room_ends_with_the_connection() {
    let (ws, _peer) = with_raw_client(Config::server()).await;
    let socket = ws.socket();
    let sender = tokio::spawn(async move {
        loop {
            if let Err(error) = socket.send(vec![0; 1 << 20]).await {
                return error;
            }
        }
    });
    while ws.buffered_amount() == 0 {
        tokio::task::yield_now().await;
    }
    ws.abort();
    assert_eq!(soon(sender).await.expect("no panic"), SendError::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanishes_is_a_loss() {
    let (mut ws, mut peer) = with_raw_client(Config::server()).await;
    peer.send(&Frame::text("one"));
    peer.shut_down();
    assert_eq!(soon(ws.recv()).await.expect("it came whole"), Some("one".into()));
    soon(ws.recv()).await.expect_err("no Close frame came");
    assert_lost(&soon(ws.closed()).await, Initiator::Remote, |cause| {
        matches!(cause, CloseCause::ConnectionLost)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_a_loss_that_names_the_systems_error() {
    let (mut ws, peer) = with_raw_client(Config::server()).await;
    let stream = peer.into_stream();
    stream.set_nonblocking(true).expect("a socket can be set up");
    let stream = tokio::net::TcpStream::from_std(stream).expect("a runtime runs");
    stream.set_zero_linger().expect("a socket can be set up");
    drop(stream);
    soon(ws.recv()).await.expect_err("no Close frame came");
    assert_lost(
        &soon(ws.closed()).await,
        Initiator::Remote,
        |cause| matches!(cause, CloseCause::Transport(error) if error.kind() == std::io::ErrorKind::ConnectionReset),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_a_close_is_given_up() {
    let config = Config::server().close_timeout(Duration::from_millis(100));
    let (mut ws, mut peer) = with_raw_client(config).await;
    ws.close_with(4000, "").expect("it can be sent");
    soon(ws.recv()).await.expect_err("no Close frame came");
    assert_lost(&soon(ws.closed()).await, Initiator::User, |cause| matches!(cause, CloseCause::CloseTimeout));
    peer.expect(&Frame::close(4000, ""));
    peer.expect_end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_a_rule_is_told_and_so_is_the_application() {
    let (mut ws, mut peer) = with_raw_client(Config::server()).await;
    peer.send_bytes(&Frame::text("unmasked").bytes());
    soon(ws.recv()).await.expect_err("no Close frame came");
    assert_lost(&soon(ws.closed()).await, Initiator::Library, |cause| {
        matches!(cause, CloseCause::Protocol(_))
    });
    peer.expect(&Frame::close(1002, ""));
    peer.expect_end();
}

/// An application that works on each message for a while must not lose what came before the answer to
/// its Close, or must be told that it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_sent_before_the_answer_to_a_close_are_received_or_the_loss_is_told() {
    const COUNT: usize = 300;
    let (mut ws, mut peer) = with_raw_client(Config::server()).await;
    for _ in 0..COUNT {
        peer.send(&Frame::binary([5; 1 << 10]));
    }
    ws.close_with(4000, "").expect("it can be sent");
    peer.expect(&Frame::close(4000, ""));
    peer.send(&Frame::close(4000, ""));
    let mut received = 0;
    let end = loop {
        match soon(ws.recv()).await {
            Ok(Some(_)) => received += 1,
            end => break end,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(received == COUNT || end.is_err(), "{received} of {COUNT} messages, and then {end:?}");
}

#[tokio::test]
async fn a_handler_that_ends_well_closes_with_1000() {
    let server = Server::new().on_request(|req: Request| async move {
        req.accept().await?.send("bye").await?;
        Ok(())
    });
    let mut client = open(listen(&server).0).await;
    assert_eq!(soon(client.recv()).await.expect("clean"), Some("bye".into()));
    assert_eq!(soon(client.recv()).await.expect("clean"), None);
    assert_clean(&soon(client.closed()).await, 1000, "", Initiator::Remote);
}

#[tokio::test]
async fn a_handler_that_ends_badly_closes_with_1011_and_the_server_lives_on() {
    let server = Server::new().on_request(|req: Request| async move {
        let path = req.path().to_owned();
        let mut ws = req.accept().await?;
        ws.send(&*path).await?;
        match &*path {
            "/error" => Err(wireline::Error::other("on purpose")),
            "/panic" => panic!("on purpose"),
            "/panic-after-recv" => {
                ws.recv().await?;
                panic!("on purpose")
            }
            _ => Ok(()),
        }
    });
    let (addr, handle) = listen(&server);
    let bystander = connect(format!("ws://{addr}/panic-after-recv")).await.expect("the server accepts");
    for path in ["/error", "/panic", "/panic-after-recv", "/error"] {
        let mut client = connect(format!("ws://{addr}{path}")).await.expect("the server accepts");
        assert_eq!(soon(client.recv()).await.expect("clean"), Some(path.into()));
        let _ = client.send("go on").await;
        assert_eq!(soon(client.recv()).await.expect("clean"), None);
        assert_clean(&soon(client.closed()).await, 1011, "", Initiator::Remote);
    }
    assert_eq!(bystander.ready_state(), ReadyState::Open);
    soon(async {
        while handle.connections() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_ends_badly_has_its_own_close_respected() {
    let (server, mut told) = handled(|ws| async move {
        ws.close_with(4000, "mine").map_err(wireline::Error::from)?;
        Err(wireline::Error::other("on purpose"))
    });
    let client = open(listen(&server).0).await;
    assert_clean(&soon(client.closed()).await, 4000, "mine", Initiator::Remote);
    assert_clean(&soon(told.recv()).await.expect("it is told"), 4000, "mine", Initiator::User);
}

#[tokio::test]
async fn a_panic_before_the_answer_is_a_500_and_the_server_lives_on() {
    let server = Server::new().on_request(|req: Request| async move {
        assert!(req.path() == "/good", "on purpose");
        req.accept().await?;
        Ok(())
    });
    let (addr, handle) = listen(&server);
    let error = connect(format!("ws://{addr}/bad")).await.expect_err("no handler answers");
    assert!(
        matches!(&error, wireline::ConnectError::Rejected(response) if response.status() == 500),
        "{error}"
    );
    connect(format!("ws://{addr}/good")).await.expect("the server lives on");
    soon(emptied(&handle)).await;
}

#[tokio::test]
async fn a_connection_outlives_the_handler_that_gave_it_away() {
    let (mut client, mut server) = pair().await;
    for _ in 0..3 {
        client.send("there").await.expect("open");
        assert_eq!(soon(server.recv()).await.expect("open"), Some("there".into()));
        server.send("back").await.expect("open");
        assert_eq!(soon(client.recv()).await.expect("open"), Some("back".into()));
    }
}

/// A server whose handlers give their requests to another task, which accepts them later.
fn giving_requests() -> (Server, mpsc::UnboundedReceiver<Request>) {
    let (give, taken) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let _ = give.send(req);
        async move { Ok(()) }
    });
    (server, taken)
}

#[tokio::test]
async fn a_request_that_left_its_handler_can_be_accepted() {
    let (server, mut requests) = giving_requests();
    let (addr, handle) = listen(&server);
    let connecting = tokio::spawn(open(addr));
    let request = soon(requests.recv()).await.expect("a request comes");
    tokio::task::yield_now().await;
    let mut ws = soon(request.accept().into_future()).await.expect("the client is there");
    let mut client = soon(connecting).await.expect("no panic");
    client.send("there").await.expect("open");
    assert_eq!(soon(ws.recv()).await.expect("open"), Some("there".into()));
    assert_eq!(handle.connections(), 1, "the connection is one of the server's");
    drop(ws);
    assert_eq!(soon(client.recv()).await.expect("clean"), None);
    assert_clean(&soon(client.closed()).await, 1000, "", Initiator::Remote);
}

#[tokio::test]
async fn shutdown_closes_a_connection_whose_request_left_its_handler() {
    let (server, mut requests) = giving_requests();
    let (addr, handle) = listen(&server);
    let connecting = tokio::spawn(open(addr));
    let request = soon(requests.recv()).await.expect("a request comes");
    tokio::task::yield_now().await;
    let ws = soon(request.accept().into_future()).await.expect("the client is there");
    let client = soon(connecting).await.expect("no panic");
    let drained = soon(handle.shutdown(Duration::from_secs(2))).await;
    assert_eq!((drained.connections, drained.cut), (1, 0));
    assert_clean(&soon(client.closed()).await, 1001, "", Initiator::Remote);
    drop(ws);
}

#[tokio::test]
async fn shutdown_says_1001_and_waits_for_the_answers() {
    let (server, mut taken) = giving();
    let (addr, handle) = listen(&server);
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        clients.push(open(addr).await);
        servers.push(soon(taken.recv()).await.expect("the handler accepts"));
    }
    assert_eq!(handle.connections(), 10);
    let drained = soon(handle.shutdown(Duration::from_secs(5))).await;
    assert_eq!((drained.connections, drained.cut), (10, 0));
    assert_eq!(handle.connections(), 0);
    for (client, server) in clients.iter().zip(&servers) {
        assert_clean(&soon(client.closed()).await, 1001, "", Initiator::Remote);
        assert_clean(&soon(server.closed()).await, 1001, "", Initiator::User);
    }
    let error = connect(format!("ws://{addr}/")).await.expect_err("nobody listens");
    assert!(matches!(error, wireline::ConnectError::Tcp { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_cuts_a_peer_that_never_answers_and_counts_it() {
    let (server, mut taken) = giving();
    let (addr, handle) = listen(&server);
    let client = open(addr).await;
    let mut mute = RawPeer::connect(addr);
    let first = soon(taken.recv()).await.expect("the handler accepts");
    let second = soon(taken.recv()).await.expect("the handler accepts");
    let drained = soon(handle.shutdown(Duration::from_millis(200))).await;
    assert_eq!((drained.connections, drained.cut), (2, 1));
    mute.expect(&Frame::close(1001, ""));
    mute.expect_end();
    assert_clean(&soon(client.closed()).await, 1001, "", Initiator::Remote);
    let ends = [soon(first.closed()).await, soon(second.closed()).await];
    assert_eq!(ends.iter().filter(|end| end.was_clean).count(), 1, "{ends:?}");
}

/// A server's shutdown, under way.
fn shutting_down(handle: &ServerHandle, grace: Duration) -> tokio::task::JoinHandle<Drained> {
    let handle = handle.clone();
    tokio::spawn(async move { handle.shutdown(grace).await })
}

/// Waits until nothing is left of a server's connections.
async fn emptied(handle: &ServerHandle) {
    while handle.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_and_keeps_its_socket_open_is_not_counted_as_cut() {
    let timeout = Duration::from_millis(300);
    // The close timeout passes before the deadline, with it, and after it.
    for grace in [timeout * 2, timeout, timeout / 2] {
        let (server, _taken) = giving();
        let (addr, handle) = listen(&server.config(Config::server().close_timeout(timeout)));
        let [mut lingers, mut mute] = [(); 2].map(|()| RawPeer::connect(addr));
        let draining = shutting_down(&handle, grace);
        mute.expect(&Frame::close(1001, ""));
        lingers.expect(&Frame::close(1001, ""));
        lingers.send(&Frame::close(1001, ""));
        let drained = soon(draining).await.expect("no panic");
        assert_eq!((drained.connections, drained.cut), (2, 1), "within {grace:?}");
        lingers.expect_end();
        mute.expect_end();
        soon(emptied(&handle)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_while_the_server_drains_gets_a_503() {
    let (server, _taken) = giving();
    let (addr, handle) = listen(&server);
    let mut mute = RawPeer::connect(addr);
    let mut silent = RawPeer::dial(addr);
    let mut late = RawPeer::dial(addr);
    let request = RawPeer::request_head("");
    let (begun, rest) = request.split_at(40);
    late.send_bytes(begun);
    // The server has read that by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let draining = shutting_down(&handle, Duration::from_secs(2));
    mute.expect(&Frame::close(1001, ""));
    silent.expect_end();
    late.send_bytes(rest);
    late.read_head();
    assert!(late.head().starts_with("HTTP/1.1 503 "), "{}", late.head());
    let _ = late.read_to_end();
    assert!(!draining.is_finished(), "the first one has not answered");
    mute.send(&Frame::close(1001, ""));
    mute.shut_down();
    let drained = soon(draining).await.expect("no panic");
    assert_eq!((drained.connections, drained.cut), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_for_its_handler_when_the_server_closes_gets_a_503() {
    let (server, mut requests) = giving_requests();
    let (addr, handle) = listen(&server);
    let mut peers = [(); 2].map(|()| RawPeer::dial(addr));
    for peer in &mut peers {
        peer.send_bytes(&RawPeer::request_head(""));
    }
    let [accepted, rejected] = [soon(requests.recv()).await, soon(requests.recv()).await];
    let drained = soon(handle.shutdown(Duration::from_secs(5))).await;
    assert_eq!((drained.connections, drained.cut), (2, 0), "nobody waits for their handlers");
    for peer in &mut peers {
        peer.read_head();
        assert!(peer.head().starts_with("HTTP/1.1 503 "), "{}", peer.head());
        assert_eq!(peer.read_to_end(), b"the server is shutting down\n");
    }
    let late = soon(accepted.expect("it came").accept().into_future()).await;
    assert!(matches!(late, Err(AcceptError::ClientGone(_))), "{late:?}");
    let late = rejected.expect("it came").reject(http::StatusCode::FORBIDDEN);
    soon(late.into_future()).await.expect("it is too late, and no error");
    assert_eq!((handle.connections(), handle.pending()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_become_a_request_by_the_deadline_is_cut() {
    let (server, _taken) = giving();
    let (addr, handle) = listen(&server);
    let _mute = RawPeer::connect(addr);
    let mut begun = RawPeer::dial(addr);
    begun.send_bytes(b"GET / HT");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let drained = soon(handle.shutdown(Duration::from_millis(200))).await;
    assert_eq!((drained.connections, drained.cut), (1, 1));
    begun.expect_end();
    assert!(start.elapsed() < Duration::from_secs(4), "cut after {:?}", start.elapsed());
    soon(emptied(&handle)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_is_dropped_at_any_poll_goes_on_and_can_be_waited_for_again() {
    for polls in 0..3 {
        let (server, mut taken) = giving();
        let (addr, handle) = listen(&server);
        let client = open(addr).await;
        let mut mute = RawPeer::connect(addr);
        let servers = [soon(taken.recv()).await, soon(taken.recv()).await];
        let first = drop_after(polls, handle.shutdown(Duration::from_secs(5)));
        let first = tokio::time::timeout(Duration::from_millis(50), first).await;
        assert!(!matches!(first, Ok(Some(_))), "the mute peer has not answered");
        if polls == 0 {
            assert_eq!(client.ready_state(), ReadyState::Open, "nothing has begun");
        } else {
            assert_clean(&soon(client.closed()).await, 1001, "", Initiator::Remote);
            mute.expect(&Frame::close(1001, ""));
        }
        let drained = soon(handle.shutdown(Duration::from_millis(200))).await;
        assert_eq!((drained.connections, drained.cut), (2, 1), "after {polls} polls");
        soon(emptied(&handle)).await;
        drop(servers);
    }
}

#[test]
fn the_end_of_the_runtime_is_an_abort() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let (client, server) = runtime.block_on(pair());
    drop(runtime);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for ws in [client, server] {
        let close = runtime.block_on(soon(ws.closed()));
        assert!(!close.was_clean, "{close}");
        assert_eq!(runtime.block_on(ws.send("late")), Err(SendError::Closed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_end_with_a_full_read_ahead_sees_a_close_frame_that_came_before() {
    let (server, mut taken) = giving();
    let (addr, _handle) = listen(&server);
    let mut peer = RawPeer::connect(addr);
    let ws = soon(taken.recv()).await.expect("it was accepted");
    for _ in 0..40 {
        peer.send(&Frame::binary(vec![1; 4096]));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    ws.close();
    peer.send(&Frame::close_payload(""));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_clean(&soon(ws.closed()).await, 1005, "", Initiator::User);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_left_before_its_handler_has_answered_is_not_waited_for() {
    let (server, mut requests) = giving_requests();
    let (addr, handle) = listen(&server);
    let mut peer = RawPeer::dial(addr);
    peer.send_bytes(&RawPeer::request_head(""));
    let request = soon(requests.recv()).await.expect("it came");
    assert_eq!(handle.pending(), 1);
    drop(peer);
    soon(emptied(&handle)).await;
    let start = Instant::now();
    let drained = soon(handle.shutdown(Duration::from_secs(5))).await;
    assert_eq!((drained.connections, drained.cut), (0, 0));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let late = soon(request.accept().into_future()).await;
    assert!(matches!(late, Err(AcceptError::ClientGone(_))), "{late:?}");
}
