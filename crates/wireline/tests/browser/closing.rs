//! `close()`: what it throws, what it sends, and when.

use std::time::Duration;

use wireline::{
    CloseCause, Config,
    browser::{Cause, Exception, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::{Frame, RawPeer};

use crate::peers::{
    Told, a_while, asked, block_thread_for, closing_line, echo, open, opened, plain, signal, soon, until,
    wait_for,
};

/// Codes that no script may send.
const NOT_FOR_SCRIPTS: [u16; 13] = [0, 1, 999, 1001, 1002, 1003, 1005, 1006, 1011, 1015, 2999, 5000, 65535];

/// A socket in each of the four states, and what keeps it there.
async fn in_each_state() -> (Vec<WebSocket>, std::sync::mpsc::Sender<()>) {
    let (keep, kept) = signal();
    let (url, _) = opened(move |mut peer| {
        wait_for(&kept);
        let _ = peer.read();
    });
    let connecting = {
        let (url, _) = asked(|mut peer| peer.read_to_end());
        WebSocket::new(url).expect("the URL is good")
    };
    let open_one = open(&echo()).await;
    let closing = open(&url).await;
    closing.close();
    let closed = open(&echo()).await;
    closed.close();
    soon(closed.closed()).await;
    let sockets = vec![connecting, open_one, closing, closed];
    let states = [ReadyState::Connecting, ReadyState::Open, ReadyState::Closing, ReadyState::Closed];
    assert_eq!(sockets.iter().map(WebSocket::ready_state).collect::<Vec<_>>(), states);
    (sockets, keep)
}

#[tokio::test]
async fn l1_a_code_that_is_not_a_scripts_is_an_invalid_access_error() {
    let socket = open(&echo()).await;
    for code in NOT_FOR_SCRIPTS {
        let error = socket.close_with(code, "").expect_err("it is not a script's");
        assert_eq!(error, Exception::InvalidAccessError(code.into()), "{code}");
        assert_eq!(socket.ready_state(), ReadyState::Open);
    }
}

#[tokio::test]
async fn l2_a_reason_of_more_than_123_bytes_is_a_syntax_error_and_the_code_is_looked_at_first() {
    for reason in ["€".repeat(42), "x".repeat(124)] {
        let socket = open(&echo()).await;
        let error = socket.close_with(1000, &*reason).expect_err("it is too long");
        assert_eq!(error.name(), "SyntaxError", "{} bytes", reason.len());
        let error = socket.close_with(999, &*reason).expect_err("the code is no script's");
        assert_eq!(error.name(), "InvalidAccessError");
        assert_eq!(socket.ready_state(), ReadyState::Open);
    }
    for reason in ["€".repeat(41), "x".repeat(123)] {
        let socket = open(&echo()).await;
        socket.close_with(1000, &*reason).expect("it is not too long");
        assert_eq!(soon(socket.closed()).await.reason, reason);
    }
}

#[tokio::test]
async fn l3_what_is_wrong_is_thrown_in_every_state() {
    let (sockets, _keep) = in_each_state().await;
    for socket in sockets {
        let state = socket.ready_state();
        let code = socket.close_with(1001, "").expect_err("it is not a script's");
        let reason = socket.close_with(3000, "x".repeat(124)).expect_err("it is too long");
        assert_eq!((code.name(), reason.name()), ("InvalidAccessError", "SyntaxError"), "{state:?}");
        assert_eq!(socket.ready_state(), state);
    }
}

#[tokio::test]
async fn l4_close_does_nothing_to_a_socket_that_closes_or_is_closed() {
    let socket = open(&echo()).await;
    let told = Told::by(&socket);
    socket.close_with(3000, "first").expect("it can be sent");
    socket.close_with(3001, "second").expect("that is no error");
    socket.close();
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    soon(socket.closed()).await;
    socket.close();
    socket.close_with(3002, "third").expect("that is no error");
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    a_while().await;
    assert_eq!(told.lines(), ["close 3000 clean first"]);
}

#[tokio::test]
async fn l5_close_before_open_fails_the_connection_and_open_is_never_told() {
    let (arrived, has_arrived) = tokio::sync::oneshot::channel();
    let (url, talk) = asked(move |mut peer| {
        let _ = arrived.send(());
        peer.read_to_end()
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    soon(has_arrived).await.expect("the request comes");
    assert_eq!(socket.ready_state(), ReadyState::Connecting);
    socket.close_with(3000, "never mind").expect("that is no error");
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    assert!(told.lines().is_empty(), "nothing is told while the caller runs");
    let close = soon(socket.closed()).await;
    assert!(matches!(close.cause, Some(Cause::ClosedBeforeOpen)), "{close:?}");
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
    assert_eq!(talk.over().await, b"", "no byte more is sent, and the socket is closed");
}

#[tokio::test]
async fn l5_close_in_the_turn_of_the_constructor_fails_too() {
    let socket = WebSocket::new(echo()).expect("the URL is good");
    socket.close();
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    let told = Told::by(&socket);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
}

/// The server has agreed, but `open` was not told yet: that is before open too.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn l5_close_after_the_servers_answer_and_before_open_fails_too() {
    let (ready, is_ready) = signal();
    let (url, talk) = opened(move |mut peer| {
        peer.send(&Frame::ping("there?"));
        peer.expect(&Frame::pong("there?"));
        let _ = ready.send(());
        peer.read_to_end()
    });
    let told = tokio::spawn(async move {
        let socket = WebSocket::new(url).expect("the URL is good");
        block_thread_for(&is_ready);
        let told = Told::by(&socket);
        socket.close();
        soon(socket.closed()).await;
        told.lines()
    });
    assert_eq!(soon(told).await.expect("no panic"), ["error", "close 1006 not clean"]);
    assert_eq!(talk.over().await, b"");
}

#[tokio::test]
async fn l6_close_starts_the_closing_handshake_and_the_state_is_closing_at_once() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::close(3000, "x"));
        peer.send(&Frame::close(3000, "x"));
        peer.shut_down();
        peer.expect_end();
    });
    let socket = open(&url).await;
    let told = Told::by(&socket);
    socket.close_with(3000, "x").expect("it can be sent");
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    assert!(told.lines().is_empty());
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["close 3000 clean x"]);
    talk.over().await;
}

/// The Close frame that `close` makes a socket send.
async fn close_frame(close: impl FnOnce(&WebSocket)) -> Vec<u8> {
    let (url, talk) = opened(|mut peer: RawPeer| {
        let frame = peer.read().expect("a frame comes");
        assert_eq!(frame.opcode, 8);
        peer.send(&Frame::close_payload(&frame.payload));
        frame.payload
    });
    let socket = open(&url).await;
    close(&socket);
    let payload = talk.over().await;
    assert!(soon(socket.closed()).await.was_clean);
    payload
}

#[tokio::test]
async fn l7_without_arguments_the_close_frame_is_empty() {
    assert_eq!(close_frame(WebSocket::close).await, b"");
}

#[tokio::test]
async fn l8_with_a_code_the_close_frame_has_two_bytes() {
    for code in [1000, 3000, 4999] {
        let payload = close_frame(|socket| socket.close_with(code, "").expect("it can be sent")).await;
        assert_eq!(payload, code.to_be_bytes());
    }
}

#[tokio::test]
async fn l9_with_a_reason_the_close_frame_has_it_behind_the_code() {
    let payload = close_frame(|socket| socket.close_with(4001, "fin €").expect("it can be sent")).await;
    assert_eq!(payload, [&4001_u16.to_be_bytes()[..], "fin €".as_bytes()].concat());
}

/// The listener runs while the peer's Close frame is answered by the driver, on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn l11_close_after_the_peers_close_frame_sends_nothing_and_sets_closing() {
    let (answered, is_answered) = signal();
    let (url, talk) = opened(move |mut peer| {
        peer.send_bytes(&[Frame::text("bye").bytes(), Frame::close(4001, "peer").bytes()].concat());
        peer.expect(&Frame::close(4001, "peer"));
        answered.send(()).expect("the listener waits");
        peer.shut_down();
        peer.expect_end();
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    let states = told.clone();
    socket.on_message(move |socket, _| {
        block_thread_for(&is_answered);
        states.add(format!("{:?}", socket.ready_state()));
        socket.close_with(3000, "mine").expect("that is no error");
        states.add(format!("{:?}", socket.ready_state()));
    });
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "message bye", "Open", "Closing", "close 4001 clean peer"]);
    talk.over().await;
}

#[tokio::test]
async fn l12_what_was_sent_before_goes_before_the_close_frame() {
    let (url, talk) = opened(|mut peer| {
        for number in 0..100_u8 {
            peer.expect(&Frame::binary([number; 10_000]));
        }
        peer.expect(&Frame::close(1000, ""));
        peer.send(&Frame::close(1000, ""));
    });
    let socket = WebSocket::from_connect(plain(&url), |_| {}).expect("the URL is good");
    socket.on_open(|socket| {
        for number in 0..100_u8 {
            socket.send([number; 10_000]).expect("it is open");
        }
        socket.close_with(1000, "").expect("it can be sent");
    });
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 1000 clean");
    talk.over().await;
}

/// tokio moves a stopped clock to the next deadline once everything waits.
#[tokio::test]
async fn a_peer_that_does_not_answer_a_close_is_given_five_seconds() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::close(3000, ""));
        peer.read_to_end()
    });
    let socket = open(&url).await;
    let told = Told::by(&socket);
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    socket.close_with(3000, "").expect("it can be sent");
    let close = socket.closed().await;
    let waited = start.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
    assert!(matches!(close.cause, Some(Cause::Close(CloseCause::CloseTimeout))), "{close:?}");
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
    tokio::time::resume();
    assert_eq!(talk.over().await, b"");
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_request_is_given_ten_seconds() {
    let (arrived, has_arrived) = tokio::sync::oneshot::channel();
    let (url, talk) = asked(move |mut peer| {
        let _ = arrived.send(());
        peer.read_to_end()
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    soon(has_arrived).await.expect("the request comes");
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let close = socket.closed().await;
    let waited = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&waited), "{waited:?}");
    assert!(matches!(close.cause, Some(Cause::Connect(_))), "{close:?}");
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
    tokio::time::resume();
    talk.over().await;
}

/// Both Close frames were exchanged, so it is clean, whoever ends the TCP connection.
#[tokio::test]
async fn a_server_that_keeps_tcp_open_after_the_closing_handshake_is_cut_off_and_it_is_clean() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::close(3000, ""));
        peer.send(&Frame::close(3000, ""));
        peer.read_to_end()
    });
    let config = Config::client().close_timeout(Duration::from_millis(300));
    let socket = WebSocket::from_connect(connect(url).config(config), |_| {}).expect("the URL is good");
    until(|| socket.ready_state() == ReadyState::Open).await;
    let told = Told::by(&socket);
    socket.close_with(3000, "").expect("it can be sent");
    let close = soon(socket.closed()).await;
    assert_eq!(closing_line(&close), "close 3000 clean");
    assert_eq!(told.lines(), ["close 3000 clean"]);
    talk.over().await;
}
