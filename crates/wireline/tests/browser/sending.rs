//! `send()`: what it takes, when, and what becomes of it.

use bytes::Bytes;
use wireline::{
    Config, Message,
    browser::{Cause, Exception, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::{Frame, RawPeer};

use crate::peers::{
    Told, a_while, asked, closing_line, echo, open, opened, plain, signal, soon, until, wait_for,
};

#[tokio::test]
async fn n1_send_before_open_is_an_invalid_state_error() {
    let (url, talk) = asked(|mut peer| peer.read_to_end());
    let socket = WebSocket::new(url).expect("the URL is good");
    for message in [Message::from("text"), vec![1].into(), "".into()] {
        assert_eq!(socket.send(message), Err(Exception::InvalidStateError));
    }
    a_while().await;
    assert_eq!(socket.send("text"), Err(Exception::InvalidStateError));
    assert_eq!(socket.buffered_amount(), 0);
    socket.close();
    soon(socket.closed()).await;
    assert_eq!(talk.over().await, b"");
}

#[tokio::test]
async fn n2_text_is_sent_as_text_bytes_as_binary_and_a_window_alone() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::text("My name is John €"));
        for payload in [&[1, 2, 3][..], &[4, 5], &[6, 7, 8], &[9]] {
            peer.expect(&Frame::binary(payload));
        }
        peer.expect(&Frame::close_payload(""));
    });
    let socket = WebSocket::from_connect(plain(&url), |_| {}).expect("the URL is good");
    socket.on_open(|socket| {
        let buffer = Bytes::from_static(&[0, 4, 5, 6, 7, 8, 0]);
        let messages: [Message; 5] = [
            "My name is John €".into(),
            vec![1, 2, 3].into(),
            buffer.slice(1..3).into(),
            buffer[3..6].into(),
            [9].into(),
        ];
        messages.into_iter().for_each(|message| socket.send(message).expect("it is open"));
        socket.close();
    });
    talk.over().await;
}

#[tokio::test]
async fn n3_what_is_sent_while_it_closes_or_afterwards_is_dropped_and_counted() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::close_payload(""));
        peer.send(&Frame::close_payload(""));
        peer.shut_down();
        peer.expect_end();
    });
    let socket = open(&url).await;
    socket.close();
    assert_eq!(socket.send("abc"), Ok(()));
    assert_eq!(socket.buffered_amount(), 3);
    soon(socket.closed()).await;
    assert_eq!(socket.send([0; 5]), Ok(()));
    assert_eq!(socket.send(""), Ok(()));
    assert_eq!(socket.buffered_amount(), 8);
    talk.over().await;
}

#[tokio::test]
async fn n4_what_cannot_be_kept_fails_the_connection() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::binary([1; 900]));
        peer.read_to_end()
    });
    let connect = connect(url).config(Config::client().deflate(None).send_cap(1000));
    let socket = WebSocket::from_connect(connect, |_| {}).expect("the URL is good");
    until(|| socket.ready_state() == ReadyState::Open).await;
    let told = Told::by(&socket);
    socket.send([1; 900]).expect("it is open");
    until(|| socket.buffered_amount() == 0).await;
    assert_eq!(socket.send([2; 1001]), Ok(()));
    assert_eq!(socket.send("more"), Ok(()));
    assert_eq!(socket.buffered_amount(), 1005);
    assert!(told.lines().is_empty(), "nothing is told while the caller runs");
    let close = soon(socket.closed()).await;
    assert!(matches!(close.cause, Some(Cause::Full)), "{close:?}");
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
    assert_eq!(socket.buffered_amount(), 1005);
    assert_eq!(talk.over().await, b"");
}

#[tokio::test]
async fn n4_sixty_four_mebibytes_can_be_kept() {
    let (go, may_go) = signal();
    let (url, talk) = opened(move |mut peer: RawPeer| {
        wait_for(&may_go);
        for _ in 0..6 {
            assert_eq!(peer.read().expect("a message comes").payload.len(), 10 << 20);
        }
        peer.expect(&Frame::close_payload(""));
        peer.send(&Frame::close_payload(""));
    });
    let socket = open(&url).await;
    for _ in 0..6 {
        socket.send(Bytes::from(vec![7; 10 << 20])).expect("it is open");
    }
    assert_eq!(socket.buffered_amount(), 60 << 20);
    go.send(()).expect("the peer waits");
    // They all arrive, before a closing handshake has but so much time.
    until(|| socket.buffered_amount() == 0).await;
    socket.close();
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 1005 clean");
    talk.over().await;
}

#[tokio::test]
async fn n6_empty_messages_are_messages_both_ways() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::text(""));
        peer.expect(&Frame::binary(""));
        peer.expect(&Frame::close_payload(""));
    });
    let socket = open(&url).await;
    socket.send("").expect("it is open");
    socket.send(Vec::new()).expect("it is open");
    socket.close();
    talk.over().await;

    let socket = WebSocket::new(echo()).expect("the URL is good");
    let told = Told::by(&socket);
    socket.on_open(|socket| {
        socket.send("").expect("it is open");
        socket.send(Vec::new()).expect("it is open");
    });
    until(|| told.lines().len() == 3).await;
    assert_eq!(told.lines(), ["open", "message ", "message <0 bytes>"]);
}

#[tokio::test]
async fn n7_pings_are_answered_by_themselves_and_told_to_nobody() {
    let (url, talk) = opened(|mut peer| {
        peer.send(&Frame::ping("there?"));
        peer.expect(&Frame::pong("there?"));
        peer.send(&Frame::pong("nobody asked"));
        peer.send_bytes(
            &[Frame::text("a").more(), Frame::ping(""), Frame::continuation("b")].map(|f| f.bytes()).concat(),
        );
        peer.expect(&Frame::pong(""));
        peer.expect(&Frame::close_payload(""));
        peer.send(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    socket.on_message(|socket, _| socket.close());
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "message ab", "close 1005 clean"]);
    talk.over().await;
}
