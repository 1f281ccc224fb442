//! What a `close` event says: `wasClean`, `code`, `reason`; and why it was not clean, which browsers do not
//! say.

use std::{net::TcpListener, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use wireline::{
    CloseCause, Config, ConnectError, Keepalive, ProtocolError, ServerTls,
    browser::{Cause, CloseEvent, WebSocket},
    connect,
};
use wireline_testkit::{Frame, RawPeer};

use crate::peers::{
    Told, answering, asked, closing_line, echoing, handled, listen, listener, open, opened, soon,
};

/// How a new socket ends whose peer does what `talk` does.
async fn ends<R: Send + 'static>(talk: impl FnOnce(RawPeer) -> R + Send + 'static) -> CloseEvent {
    let (url, talk) = opened(talk);
    let close = soon(WebSocket::new(url).expect("the URL is good").closed()).await;
    talk.over().await;
    close
}

/// Sends a Close frame, and sees it answered.
fn closes(peer: &mut RawPeer, frame: &Frame) {
    peer.send(frame);
    peer.expect(frame);
}

#[track_caller]
fn assert_failed(close: &CloseEvent) {
    assert_eq!((close.was_clean, close.code, &*close.reason), (false, 1006, ""), "{close:?}");
    assert!(close.cause.is_some());
}

#[track_caller]
fn protocol_error(close: &CloseEvent) -> ProtocolError {
    assert_failed(close);
    match &close.cause {
        Some(Cause::Close(CloseCause::Protocol(error))) => *error,
        cause => panic!("{cause:?}"),
    }
}

#[tokio::test]
async fn v1_a_completed_closing_handshake_is_clean_whatever_its_code() {
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3001, 4000] {
        let close = ends(move |mut peer| closes(&mut peer, &Frame::close(code, ""))).await;
        assert_eq!((close.was_clean, close.code), (true, code));
        assert!(close.cause.is_none());
    }
}

#[tokio::test]
async fn v2_the_code_is_that_of_the_first_close_frame_1005_without_one_in_it_1006_without_a_frame() {
    let close = ends(|mut peer| closes(&mut peer, &Frame::close(3000, "x"))).await;
    assert_eq!(closing_line(&close), "close 3000 clean x");
    let close = ends(|mut peer| closes(&mut peer, &Frame::close_payload(""))).await;
    assert_eq!(closing_line(&close), "close 1005 clean");
    assert_failed(&ends(|mut peer| peer.shut_down()).await);
    let close = ends(|mut peer| {
        peer.send_bytes(&[Frame::close(3000, "first").bytes(), Frame::close(3001, "").bytes()].concat());
        peer.expect(&Frame::close(3000, "first"));
    })
    .await;
    assert_eq!(closing_line(&close), "close 3000 clean first");
}

#[tokio::test]
async fn v3_after_close_the_code_is_the_peers_echo() {
    for (code, line) in [(None, "close 1005 clean"), (Some(3000), "close 3000 clean x")] {
        let socket = open(&listen(&echoing())).await;
        match code {
            Some(code) => socket.close_with(code, "x").expect("it can be sent"),
            None => socket.close(),
        }
        assert_eq!(closing_line(&soon(socket.closed()).await), line);
    }
}

#[tokio::test]
async fn v3_a_peer_that_answers_with_another_code_is_believed() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::close(3000, "mine"));
        peer.send(&Frame::close(4000, "its"));
    });
    let socket = open(&url).await;
    socket.close_with(3000, "mine").expect("it can be sent");
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 4000 clean its");
    talk.over().await;
}

#[tokio::test]
async fn v4_when_both_close_at_once_each_is_told_the_others_code() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let (url, talk) = opened(|mut peer| {
        peer.send_bytes(&[Frame::text("now").bytes(), Frame::close(4002, "server").bytes()].concat());
        let _ = tell.send(peer.read().expect("a Close frame comes").payload);
        peer.shut_down();
        let _ = peer.read_to_end();
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    // In a runtime with one thread, what lies behind the message is not read yet.
    socket.on_message(|socket, _| socket.close_with(4001, "client").expect("it can be sent"));
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 4002 clean server");
    assert_eq!(soon(told).await.expect("it was read"), Frame::close(4001, "client").payload);
    talk.over().await;
}

#[tokio::test]
async fn v5_the_reason_is_the_frames_in_utf_8_and_if_it_is_not_that_the_connection_fails() {
    let reason = "€".repeat(41);
    let frame = Frame::close(4000, &reason);
    let close = ends(move |mut peer| closes(&mut peer, &frame)).await;
    assert_eq!((close.was_clean, close.reason), (true, reason));
    let close = ends(|mut peer| {
        peer.send(&Frame::close(1000, [0xCE, 0xBA, 0xFF]));
        peer.expect(&Frame::close(1007, ""));
    })
    .await;
    assert_eq!(protocol_error(&close), ProtocolError::InvalidCloseReason);
}

#[tokio::test]
async fn v6_a_failure_of_any_kind_is_1006_not_clean_and_without_a_reason() {
    let (url, talk) = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert_failed(&soon(WebSocket::new(url).expect("the URL is good").closed()).await);
    talk.over().await;
    let (url, talk) = asked(drop);
    assert_failed(&soon(WebSocket::new(url).expect("the URL is good").closed()).await);
    talk.over().await;
    assert_failed(&ends(drop).await);
    assert_failed(&ends(|mut peer| peer.send(&Frame::continuation("of what?"))).await);
}

#[tokio::test]
async fn v7_after_a_failure_nothing_more_from_the_peer_counts_not_even_its_close_frame() {
    let (url, talk) = opened(|mut peer| {
        let frames = [
            Frame::text("one"),
            Frame::text("two").rsv(0b010),
            Frame::text("three"),
            Frame::ping("four"),
            Frame::close(1000, "five"),
        ];
        peer.send_bytes(&frames.map(|frame| frame.bytes()).concat());
        peer.expect(&Frame::close(1002, ""));
        peer.expect_end();
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    assert_failed(&soon(socket.closed()).await);
    assert_eq!(told.lines(), ["open", "message one", "error", "close 1006 not clean"]);
    talk.over().await;
}

#[tokio::test]
async fn v8_the_peer_is_told_by_a_code_why_it_failed_and_the_event_says_1006() {
    for (frame, code) in [
        (Frame::new(3, ""), 1002),
        (Frame::text("x").masked([1, 2, 3, 4]), 1002),
        (Frame::ping("").more(), 1002),
        (Frame::close_payload([3]), 1002),
        (Frame::text([0xFF]), 1007),
        (Frame::binary("").declaring(65 << 20), 1009),
    ] {
        let shown = format!("{frame:?}");
        let close = ends(move |mut peer| {
            peer.send_bytes(&frame.bytes());
            peer.expect(&Frame::close(code, ""));
        })
        .await;
        assert_failed(&close);
        assert_eq!(protocol_error(&close).close_code(), code, "{shown}");
    }
}

#[tokio::test]
async fn v9_the_loss_of_an_open_connection_is_an_error_and_1006() {
    for resets in [false, true] {
        let (url, talk) = opened(move |mut peer| {
            peer.send(&Frame::text("hello"));
            if resets {
                // What was not read makes the system reset the connection.
                peer.expect(&Frame::text("first"));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let socket = WebSocket::new(url).expect("the URL is good");
        let told = Told::by(&socket);
        if resets {
            socket.on_open(|socket| {
                socket.send("first").expect("it is open");
                socket.send("unread").expect("it is open");
            });
        }
        let close = soon(socket.closed()).await;
        assert_failed(&close);
        assert!(
            matches!(close.cause, Some(Cause::Close(CloseCause::ConnectionLost | CloseCause::Transport(_)))),
            "{close:?}"
        );
        assert_eq!(told.lines(), ["open", "message hello", "error", "close 1006 not clean"]);
        talk.over().await;
    }
}

#[tokio::test]
async fn v10_a_failure_of_tls_is_1006_and_1015_is_never_told() {
    let key = KeyPair::generate().expect("the system has random bytes");
    let certificate = CertificateParams::new(["localhost".to_owned()]).expect("the name is one");
    let certificate = certificate.self_signed(&key).expect("it can be signed");
    let tls = ServerTls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    let untrusted = listen(&echoing().tls(tls.expect("certificate and key go together")));
    let (no_tls, talk) = listener(|listener: TcpListener| {
        let (stream, _) = listener.accept().expect("a client connects");
        drop(stream);
    });
    for url in [untrusted, no_tls] {
        let socket = WebSocket::new(url.replace("ws://", "wss://")).expect("the URL is good");
        let told = Told::by(&socket);
        let close = soon(socket.closed()).await;
        assert_failed(&close);
        assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
        let Some(Cause::Connect(cause)) = close.cause else { panic!("{:?}", close.cause) };
        assert!(matches!(&*cause, ConnectError::Tls { .. } | ConnectError::Certificates(_)), "{cause}");
    }
    talk.over().await;
    let close = ends(|mut peer| {
        peer.send(&Frame::close(1015, ""));
        peer.expect(&Frame::close(1002, ""));
    })
    .await;
    assert_failed(&close);
}

#[test]
fn v11_a_close_event_by_itself_says_false_0_and_nothing() {
    let close = CloseEvent::default();
    assert_eq!((close.was_clean, close.code, &*close.reason), (false, 0, ""));
    assert!(close.cause.is_none());
}

/// A page must not be able to tell these apart. A program may.
#[tokio::test]
async fn v12_the_cause_tells_apart_what_the_event_does_not() {
    let cause = |url: String| async move {
        let close = soon(WebSocket::new(url).expect("the URL is good").closed()).await;
        assert_failed(&close);
        close.cause.expect("it failed")
    };
    let connect_error = |cause| match cause {
        Cause::Connect(error) => error,
        cause => panic!("{cause}"),
    };
    let (refused, talk) = listener(drop);
    talk.over().await;
    let error = connect_error(cause(refused).await);
    assert!(matches!(&*error, ConnectError::Tcp { .. }), "{error}");
    let error = connect_error(cause("ws://no-such-host.invalid/".to_owned()).await);
    assert!(matches!(&*error, ConnectError::Dns { .. }), "{error}");
    let (url, talk) = answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let error = connect_error(cause(url).await);
    assert!(matches!(&*error, ConnectError::Rejected(response) if response.status() == 404), "{error}");
    talk.over().await;
    let (url, talk) = answering("SSH-2.0-OpenSSH_9.6\r\n");
    let error = connect_error(cause(url).await);
    assert!(matches!(&*error, ConnectError::Http(_)), "{error}");
    talk.over().await;
    let (url, talk) = opened(|mut peer| peer.shut_down());
    let lost = cause(url).await;
    assert!(matches!(lost, Cause::Close(CloseCause::ConnectionLost)), "{lost}");
    talk.over().await;
}

#[tokio::test]
async fn a_peer_that_gives_no_sign_of_life_is_told_as_such() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::ping(""));
        peer.read_to_end()
    });
    let keepalive = Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(50) };
    let connect = connect(url).config(Config::client().keepalive(keepalive));
    let socket = WebSocket::from_connect(connect, |_| {}).expect("the URL is good");
    let close = soon(socket.closed()).await;
    assert_failed(&close);
    assert!(matches!(close.cause, Some(Cause::Close(CloseCause::PingTimeout))), "{close:?}");
    talk.over().await;
}

/// The Close frame came, and could not be answered.
#[tokio::test]
async fn a_close_that_cannot_be_answered_has_the_peers_code_and_is_not_clean() {
    let (go, may_go) = crate::peers::signal();
    let (url, talk) = opened(move |mut peer| {
        peer.send(&Frame::text("hello"));
        crate::peers::wait_for(&may_go);
        peer.send(&Frame::close(4000, "bye"));
        // Nothing is read, and the answer is stuck behind what was sent.
        std::thread::sleep(Duration::from_millis(500));
    });
    let config = Config::client().deflate(None).close_timeout(Duration::from_millis(200)).send_cap(64 << 20);
    let socket = WebSocket::from_connect(connect(url).config(config), |_| {}).expect("the URL is good");
    let told = Told::by(&socket);
    socket.on_message(move |socket, _| {
        socket.send(vec![0; 32 << 20]).expect("it is open");
        let _ = go.send(());
    });
    let close = soon(socket.closed()).await;
    assert_eq!(closing_line(&close), "close 4000 not clean bye");
    assert_eq!(told.lines(), ["open", "message hello", "error", "close 4000 not clean bye"]);
    talk.over().await;
}

#[tokio::test]
async fn a_server_that_shuts_down_is_told_with_its_code() {
    let url = handled(|mut ws| async move {
        while ws.recv().await?.is_some() {}
        Err(wireline::Error::other("a fault of the handler's"))
    });
    let socket = open(&url).await;
    socket.close_with(3000, "").expect("it can be sent");
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 3000 clean");
}
