//! What can be read of a socket: `readyState`, `protocol`, `extensions`, `binaryType`, `bufferedAmount`.

use wireline::{
    Config, Deflate, Message,
    browser::{BinaryType, Data, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::{Frame, RawPeer};

use crate::peers::{
    Told, asked, block_thread_for, echo, echoing, handled, listen, open, opened, plain, signal, soon, until,
    wait_for,
};

#[tokio::test]
async fn a1_the_constants_are_0_to_3() {
    let states = [WebSocket::CONNECTING, WebSocket::OPEN, WebSocket::CLOSING, WebSocket::CLOSED];
    assert_eq!(states.map(|state| state as u16), [0, 1, 2, 3]);
    let socket = open(&echo()).await;
    assert_eq!(socket.ready_state(), WebSocket::OPEN);
    socket.close();
    assert_eq!(socket.ready_state(), WebSocket::CLOSING);
    soon(socket.closed()).await;
    assert_eq!(socket.ready_state(), WebSocket::CLOSED);
}

#[tokio::test]
async fn a2_protocol_and_extensions_are_empty_until_the_connection_is_open_and_stay() {
    let config = Config::server().deflate(Deflate::server());
    let url = listen(&echoing().config(config));
    let socket = WebSocket::with_protocols(url, ["chat", "other"]).expect("it is good");
    assert_eq!((socket.protocol(), socket.extensions()), ("", ""));
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.protocol(), "chat");
    assert!(socket.extensions().starts_with("permessage-deflate"), "{}", socket.extensions());
    socket.close();
    soon(socket.closed()).await;
    assert_eq!(socket.protocol(), "chat");
    let socket = open(&echo()).await;
    assert_eq!((socket.protocol(), socket.extensions()), ("", ""));
}

#[tokio::test]
async fn a2_a_connection_that_fails_has_neither() {
    let (url, talk) = asked(|mut peer| {
        peer.send_bytes(&peer.switching_protocols("Sec-WebSocket-Protocol: other\r\n"));
        let _ = peer.read_to_end();
    });
    let socket = WebSocket::with_protocols(url, "chat").expect("it is good");
    soon(socket.closed()).await;
    assert_eq!((socket.protocol(), socket.extensions()), ("", ""));
    talk.over().await;
}

/// What the next two binary messages are given as when the type is changed between them; both have come
/// before that.
#[tokio::test]
async fn a3_the_binary_type_is_blob_at_first_and_is_read_when_the_message_is_told() {
    let (url, talk) = opened(|mut peer| {
        peer.send_bytes(
            &[Frame::binary([1]), Frame::binary([2]), Frame::text("3")].map(|f| f.bytes()).concat(),
        );
        peer.expect(&Frame::close_payload(""));
    });
    let socket = WebSocket::from_connect(plain(&url), |_| {}).expect("the URL is good");
    assert_eq!(socket.binary_type(), BinaryType::Blob);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    socket.on_message(move |socket, event| {
        let _ = tell.send(event.data.clone());
        socket.set_binary_type(BinaryType::ArrayBuffer);
    });
    assert_eq!(soon(told.recv()).await, Some(Data::Blob(vec![1].into())));
    assert_eq!(soon(told.recv()).await, Some(Data::ArrayBuffer(vec![2].into())));
    assert_eq!(soon(told.recv()).await, Some(Data::Text("3".into())));
    assert_eq!(socket.binary_type(), BinaryType::ArrayBuffer);
    socket.close();
    talk.over().await;
}

/// A socket, and its peer, which reads nothing until it is told to and then everything.
fn stalled() -> (WebSocket, std::sync::mpsc::Sender<()>, crate::peers::Talk<usize>) {
    let (go, may_go) = signal();
    let (url, talk) = opened(move |mut peer| {
        wait_for(&may_go);
        let mut read = 0;
        while let Some(frame) = peer.read() {
            if frame.opcode == 8 {
                peer.send(&Frame::close_payload(frame.payload));
                break;
            }
            read += frame.payload.len();
        }
        read
    });
    let config = Config::client().deflate(None).send_cap(64 << 20);
    let socket = WebSocket::from_connect(connect(url).config(config), |_| {}).expect("the URL is good");
    (socket, go, talk)
}

#[tokio::test]
async fn a4_buffered_amount_counts_the_applications_bytes_that_the_network_does_not_have() {
    let (socket, go, talk) = stalled();
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.buffered_amount(), 0);
    for message in [Message::from("€"), vec![0; 7].into(), "".into(), vec![0; 16 << 20].into()] {
        socket.send(message).expect("it is open");
    }
    let all = 3 + 7 + (16 << 20);
    assert_eq!(socket.buffered_amount(), all, "headers do not count");
    // The system's buffers take some of it.
    until(|| socket.buffered_amount() < all).await;
    assert!(socket.buffered_amount() > 0);
    go.send(()).expect("the peer waits");
    until(|| socket.buffered_amount() == 0).await;
    socket.close();
    assert_eq!(talk.over().await as u64, all);
}

#[tokio::test]
async fn a4_a_compressed_message_counts_as_what_it_was() {
    let config = Config::server().deflate(Deflate::server());
    let socket = open(&listen(&echoing().config(config))).await;
    socket.send("x".repeat(100_000)).expect("it is open");
    assert_eq!(socket.buffered_amount(), 100_000);
    until(|| socket.buffered_amount() == 0).await;
}

#[tokio::test]
async fn a5_buffered_amount_becomes_less_between_tasks_only() {
    let socket = open(&echo()).await;
    socket.send("abc€").expect("it is open");
    assert_eq!(socket.buffered_amount(), 6);
    socket.send([0; 4]).expect("it is open");
    assert_eq!(socket.buffered_amount(), 10);
    until(|| socket.buffered_amount() == 0).await;
}

/// The peer has the message, so another thread has written it, and still the task that sent it sees no less.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a5_buffered_amount_stays_in_a_task_whatever_other_threads_have_written() {
    let (read, is_read) = signal();
    let (url, talk) = opened(move |mut peer: RawPeer| {
        peer.expect(&Frame::text("abc€"));
        read.send(()).expect("the task waits");
        peer.expect(&Frame::close_payload(""));
    });
    let amounts = tokio::spawn(async move {
        let socket = open(&url).await;
        socket.send("abc€").expect("it is open");
        block_thread_for(&is_read);
        let before = socket.buffered_amount();
        tokio::task::yield_now().await;
        let after = socket.buffered_amount();
        socket.close();
        (before, after)
    });
    assert_eq!(soon(amounts).await.expect("no panic"), (6, 0));
    talk.over().await;
}

/// The peer has the message, and its answer was told on another thread: the task that sent it sees no less.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a5_buffered_amount_stays_in_a_task_whatever_is_told_meanwhile() {
    let (answered, is_answered) = signal();
    let url = echo();
    let amounts = tokio::spawn(async move {
        let socket = open(&url).await;
        let mut tell = Some(answered);
        socket.on_message(move |socket, _| {
            let amount = socket.buffered_amount();
            if let Some(tell) = tell.take() {
                let _ = tell.send(());
            }
            assert_eq!(amount, 0, "the listener sees it anew");
        });
        socket.send("abc€").expect("it is open");
        block_thread_for(&is_answered);
        let before = socket.buffered_amount();
        tokio::task::yield_now().await;
        (before, socket.buffered_amount())
    });
    assert_eq!(soon(amounts).await.expect("no panic"), (6, 0));
}

/// A task that holds its thread sees the end of the connection no sooner.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a5_buffered_amount_stays_in_a_task_though_the_socket_closes_meanwhile() {
    let (closed, is_closed) = signal();
    let (url, talk) = opened(|mut peer: RawPeer| {
        peer.expect(&Frame::text("abc€"));
        peer.send(&Frame::close(1000, ""));
        peer.expect(&Frame::close(1000, ""));
    });
    let amounts = tokio::spawn(async move {
        let socket = open(&url).await;
        socket.on_close(move |_, _| closed.send(()).expect("the task waits"));
        socket.send("abc€").expect("it is open");
        block_thread_for(&is_closed);
        let before = socket.buffered_amount();
        tokio::task::yield_now().await;
        (before, socket.buffered_amount())
    });
    assert_eq!(soon(amounts).await.expect("no panic"), (6, 0));
    talk.over().await;
}

/// One task sends and yields while another looks twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a5_buffered_amount_stays_in_a_task_though_another_tasks_turn_is_over() {
    let (sent, is_sent) = signal();
    let (look, may_look) = signal();
    let (looked, has_looked) = signal();
    let (read, is_read) = signal();
    let (url, talk) = opened(move |mut peer: RawPeer| {
        peer.expect(&Frame::text("abc€"));
        read.send(()).expect("the first task waits");
        peer.expect(&Frame::close_payload(""));
    });
    let socket = open(&url).await;
    let other = socket.clone();
    let first = tokio::spawn(async move {
        other.send("abc€").expect("it is open");
        sent.send(()).expect("the second task waits");
        block_thread_for(&has_looked);
        wait_for(&is_read);
        tokio::task::yield_now().await;
        // Its turn is over, and it sees what the peer has.
        until(|| other.buffered_amount() == 0).await;
        look.send(()).expect("the second task waits");
    });
    let second = tokio::spawn(async move {
        wait_for(&is_sent);
        let before = socket.buffered_amount();
        looked.send(()).expect("the first task waits");
        block_thread_for(&may_look);
        let after = socket.buffered_amount();
        socket.close();
        (before, after)
    });
    let (before, after) = soon(second).await.expect("no panic");
    assert_eq!(before, after);
    soon(first).await.expect("no panic");
    talk.over().await;
}

/// Both messages have come when the first is told, and what its listener sends is out when the second is.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a5_buffered_amount_is_looked_at_anew_for_each_event() {
    let (read, is_read) = signal();
    let (url, talk) = opened(move |mut peer: RawPeer| {
        peer.send_bytes(&[Frame::text("one").bytes(), Frame::text("two").bytes()].concat());
        peer.expect(&Frame::text("abc"));
        read.send(()).expect("the listener waits");
        peer.expect(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::default();
    let on_message = told.clone();
    socket.on_message(move |socket, event| {
        if event.data.as_text() == Some("one") {
            socket.send("abc").expect("it is open");
            block_thread_for(&is_read);
        }
        on_message.add(format!("{} {}", event.data, socket.buffered_amount()));
    });
    until(|| told.lines().len() == 2).await;
    assert_eq!(told.lines(), ["one 3", "two 0"]);
    socket.close();
    talk.over().await;
}

#[tokio::test]
async fn a5_buffered_amount_stays_while_a_listener_runs() {
    let socket = WebSocket::new(echo()).expect("the URL is good");
    let told = Told::default();
    let on_open = told.clone();
    socket.on_open(move |socket| {
        for text in ["x", "å", "匶", "𐑾"] {
            socket.send(text).expect("it is open");
            on_open.add(socket.buffered_amount().to_string());
        }
    });
    let on_message = told.clone();
    socket.on_message(move |socket, _| on_message.add(socket.buffered_amount().to_string()));
    until(|| told.lines().len() == 8).await;
    let amounts: Vec<u64> = told.lines().iter().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(amounts[..4], [1, 3, 6, 10]);
    // Who has an echo knows that the message is out.
    for (amount, most) in amounts[4..].iter().zip([9, 7, 4, 0]) {
        assert!(*amount <= most, "{amounts:?}");
    }
}

#[tokio::test]
async fn a6_buffered_amount_grows_while_it_closes_and_afterwards_and_is_not_reset() {
    let socket = open(&echo()).await;
    socket.send("abc").expect("it is open");
    socket.close();
    socket.send("abc€").expect("that is no error");
    assert_eq!(socket.buffered_amount(), 9);
    soon(socket.closed()).await;
    assert_eq!(socket.buffered_amount(), 6, "what was sent before is out");
    socket.send([0; 10]).expect("that is no error");
    assert_eq!(socket.buffered_amount(), 16);
    tokio::task::yield_now().await;
    assert_eq!(socket.buffered_amount(), 16);
}

#[tokio::test]
async fn a6_what_a_lost_connection_did_not_take_stays() {
    let (url, talk) = opened(drop);
    let socket = WebSocket::from_connect(plain(&url).config(big_queue()), |_| {}).expect("the URL is good");
    socket.on_open(|socket| socket.send(vec![0; 16 << 20]).expect("it is open"));
    soon(socket.closed()).await;
    let left = socket.buffered_amount();
    assert!(left > 0 && left <= 16 << 20, "{left}");
    socket.send("abc").expect("that is no error");
    assert_eq!(socket.buffered_amount(), left + 3);
    talk.over().await;
}

fn big_queue() -> Config {
    Config::client().deflate(None).send_cap(64 << 20)
}

#[tokio::test]
async fn a_refused_close_changes_nothing_that_can_be_read() {
    let url = handled(|mut ws| async move {
        while ws.recv().await?.is_some() {}
        Ok(())
    });
    let socket = open(&url).await;
    socket.close_with(1001, "").expect_err("it is not a script's");
    assert_eq!(socket.ready_state(), ReadyState::Open);
    socket.send("still there").expect("it is open");
    until(|| socket.buffered_amount() == 0).await;
}
