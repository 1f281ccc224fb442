//! Events: which, when, in which order, and in which state.

use std::sync::{Arc, Mutex};

use wireline::{
    Config, Deflate,
    browser::{Event, EventType, MessageEvent, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::Frame;

use crate::peers::{
    EVENT_TYPES, Told, a_while, echo, echoing, handled, line, listen, listener, open, opened, signal, soon,
    told_to_the_end, until, wait_for,
};

/// What a socket told, with the state that it was in each time.
fn states(socket: &WebSocket) -> Told {
    let told = Told::default();
    for event_type in EVENT_TYPES {
        let told = told.clone();
        socket.add_event_listener(event_type, move |socket, event| {
            told.add(format!("{} in {:?}", line(event), socket.ready_state()));
        });
    }
    told
}

#[tokio::test]
async fn e1_open_is_told_when_state_extensions_and_protocol_are_set() {
    let url = listen(&echoing().config(Config::server().deflate(Deflate::server())));
    let socket = WebSocket::with_protocols(url, "chat").expect("it is good");
    let told = Told::default();
    let on_open = told.clone();
    socket.on_open(move |socket| {
        let extension = socket.extensions().split(';').next().unwrap_or_default();
        on_open.add(format!("{:?} {} {extension}", socket.ready_state(), socket.protocol()));
    });
    until(|| told.lines() == ["Open chat permessage-deflate"]).await;
}

#[tokio::test]
async fn e2_a_message_has_its_data_and_the_origin_of_the_url() {
    let url = handled(|ws| async move {
        ws.send("hello").await?;
        ws.send(vec![1, 2]).await?;
        std::future::pending().await
    });
    let socket = WebSocket::new(format!("{url}a/b?c")).expect("the URL is good");
    let events: Arc<Mutex<Vec<MessageEvent>>> = Arc::default();
    let got = Arc::clone(&events);
    socket.on_message(move |_, event| got.lock().expect("no panic").push(event.clone()));
    until(|| events.lock().expect("no panic").len() == 2).await;
    let events = events.lock().expect("no panic");
    assert_eq!(events[0].data.as_text(), Some("hello"));
    assert_eq!((events[1].data.as_text(), events[1].data.as_bytes()), (None, &[1, 2][..]));
    for event in events.iter() {
        assert_eq!(&*event.origin, url.trim_end_matches('/'));
    }
}

#[tokio::test]
async fn e2_no_message_is_told_after_close_was_called() {
    let (url, talk) = opened(|mut peer| {
        // The second message has come when the first one is told, the third one comes later.
        peer.send_bytes(&[Frame::text("one").bytes(), Frame::text("two").bytes()].concat());
        peer.expect(&Frame::close_payload(""));
        peer.send(&Frame::text("three"));
        peer.send(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    socket.on_message(|socket, _| socket.close());
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "message one", "close 1005 clean"]);
    talk.over().await;
}

#[tokio::test]
async fn e2_messages_that_came_before_the_peers_close_frame_are_told_while_it_is_open() {
    let (url, talk) = opened(|mut peer| {
        let frames = [Frame::text("one"), Frame::text("two"), Frame::close(1000, "bye")];
        peer.send_bytes(&frames.map(|frame| frame.bytes()).concat());
        peer.expect(&Frame::close(1000, "bye"));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = states(&socket);
    soon(socket.closed()).await;
    assert_eq!(
        told.lines(),
        ["open in Open", "message one in Open", "message two in Open", "close 1000 clean bye in Closed"]
    );
    talk.over().await;
}

/// The peer has said Close and keeps TCP open.
#[tokio::test]
async fn e3_when_either_side_begins_to_close_the_state_is_closing_without_an_event() {
    let (end, may_end) = signal();
    let (url, talk) = opened(move |mut peer| {
        peer.send(&Frame::close(4000, "peer"));
        peer.expect(&Frame::close(4000, "peer"));
        wait_for(&may_end);
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    until(|| socket.ready_state() == ReadyState::Closing).await;
    a_while().await;
    assert_eq!((socket.ready_state(), told.lines()), (ReadyState::Closing, vec!["open".to_owned()]));
    end.send(()).expect("the peer waits");
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "close 4000 clean peer"]);
    talk.over().await;
}

/// The peer has said Close and reads nothing, so the answer to it waits behind a message.
#[tokio::test]
async fn e3_the_state_is_closing_while_the_answer_to_a_close_frame_cannot_be_sent() {
    let (go, may_go) = signal();
    let (end, may_end) = signal();
    let (url, talk) = opened(move |mut peer| {
        wait_for(&may_go);
        peer.send(&Frame::close(4000, "peer"));
        wait_for(&may_end);
        while peer.read().is_some() {}
    });
    let connect = connect(url).config(Config::client().deflate(None).send_cap(64 << 20));
    let socket = WebSocket::from_connect(connect, |_| {}).expect("the URL is good");
    until(|| socket.ready_state() == ReadyState::Open).await;
    let told = Told::by(&socket);
    socket.send(vec![0; 32 << 20]).expect("it is open");
    go.send(()).expect("the peer waits");
    until(|| socket.ready_state() == ReadyState::Closing).await;
    assert!(socket.buffered_amount() > 0, "the message is not out, nor is what lies behind it");
    assert!(told.lines().is_empty());
    end.send(()).expect("the peer waits");
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["close 4000 clean peer"]);
    talk.over().await;
}

#[tokio::test]
async fn e4_error_and_close_are_told_in_one_step_and_both_see_closed() {
    let (url, talk) = opened(|mut peer| {
        peer.send(&Frame::new(3, "LOL"));
        peer.expect(&Frame::close(1002, ""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = states(&socket);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open in Open", "error in Closed", "close 1006 not clean in Closed"]);
    talk.over().await;
    // The same for a connection that was never open.
    let (url, talk) = listener(drop);
    talk.over().await;
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = states(&socket);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["error in Closed", "close 1006 not clean in Closed"]);
}

/// What is told to the end, for every way to get there.
#[tokio::test]
async fn e5_close_is_told_once_and_last_error_at_most_once_before_it_and_open_at_most_once() {
    for (bytes, expected) in [
        (Frame::close_payload("").bytes(), &["open", "close 1005 clean"][..]),
        (Frame::close(1011, "sorry").bytes(), &["open", "close 1011 clean sorry"]),
        (
            [Frame::close(4000, "").bytes(), Frame::close(4001, "").bytes()].concat(),
            &["open", "close 4000 clean"],
        ),
        (
            [Frame::text("hi").bytes(), Frame::text("bad").masked([1; 4]).bytes()].concat(),
            &["open", "message hi", "error", "close 1006 not clean"],
        ),
        (Frame::text("cut").bytes()[..3].to_vec(), &["open", "error", "close 1006 not clean"]),
        (Vec::new(), &["open", "error", "close 1006 not clean"]),
        (
            [Frame::close(999, "").bytes(), Frame::close(1000, "").bytes()].concat(),
            &["open", "error", "close 1006 not clean"],
        ),
    ] {
        let (url, talk) = opened(move |mut peer| {
            peer.send_bytes(&bytes);
            peer.shut_down();
            peer.read_to_end()
        });
        assert_eq!(told_to_the_end(&url).await, expected);
        talk.over().await;
    }
}

#[tokio::test]
async fn e6_a_clean_close_by_the_server_is_no_error() {
    let url = handled(|mut ws| async move {
        let _ = ws.recv().await?;
        ws.close_with(1000, "Goodbye")?;
        ws.closed().await;
        Ok(())
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    socket.on_open(|socket| socket.send("Goodbye").expect("it is open"));
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "close 1000 clean Goodbye"]);
}

#[tokio::test]
async fn e6_data_after_the_peers_close_frame_is_ignored_and_the_close_is_clean() {
    let (url, talk) = opened(|mut peer| {
        let frames = [Frame::close_payload(""), Frame::text("late"), Frame::new(3, "not even a frame")];
        peer.send_bytes(&frames.map(|frame| frame.bytes()).concat());
        peer.expect(&Frame::close_payload(""));
    });
    assert_eq!(told_to_the_end(&url).await, ["open", "close 1005 clean"]);
    talk.over().await;
}

#[tokio::test]
async fn e7_the_error_event_says_what_a_browser_keeps_to_itself() {
    let (url, talk) = opened(|mut peer| {
        peer.send(&Frame::text([0xFF]));
        peer.expect(&Frame::close(1007, ""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::default();
    let on_error = told.clone();
    socket.on_error(move |_, error| on_error.add(error.message()));
    let close = soon(socket.closed()).await;
    let cause = close.cause.expect("it failed").to_string();
    assert!(cause.contains("UTF-8"), "{cause}");
    assert_eq!(told.lines(), [cause]);
    talk.over().await;
}

#[tokio::test]
async fn events_know_which_they_are() {
    let socket = WebSocket::new(echo()).expect("the URL is good");
    let mut events = socket.events();
    let mut types = Vec::new();
    while let Some(event) = soon(events.next_event()).await {
        types.push(event.event_type());
        match event {
            Event::Open => socket.send("hi").expect("it is open"),
            Event::Message(_) => socket.close(),
            Event::Error(_) | Event::Close(_) => {}
        }
    }
    assert_eq!(types, [EventType::Open, EventType::Message, EventType::Close]);
    assert!(soon(events.next_event()).await.is_none());
    drop(open(&echo()).await);
}
