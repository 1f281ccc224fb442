//! Messages in pieces: of any length, in constant memory, in either direction.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    sync::mpsc,
};
use wireline::{
    CloseCause, CloseCode, Config, Frame, Message, MessageKind, MessageWriter, ProtocolError, Request,
    SendError, Server, ServerHandle, Socket, WebSocket, connect,
};
use wireline_testkit::{
    allocations::{self, CountingAllocator},
    drop_after,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Both ends of a connection; the server's gives messages in pieces.
async fn pair(server: Config) -> (WebSocket, WebSocket, ServerHandle) {
    let (accepted, mut open) = mpsc::channel(1);
    let listener = Server::new()
        .config(server.receive_in_pieces(true))
        .on_request(move |req: Request| {
            let accepted = accepted.clone();
            async move {
                let _ = accepted.send(req.accept().await?).await;
                Ok(())
            }
        })
        .bind("127.0.0.1:0")
        .expect("a port is free");
    let (address, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    let client = connect(format!("ws://{address}")).await.expect("it connects");
    (client, soon(open.recv()).await.expect("it is accepted"), handle)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

fn frame(kind: MessageKind, payload: &'static [u8], is_first: bool, is_final: bool) -> Frame {
    // As a whole message at first; its fields are for all to set.
    let mut frame = Frame::from(match kind {
        MessageKind::Text => Message::from(std::str::from_utf8(payload).expect("text is UTF-8")),
        MessageKind::Binary => Message::from(payload),
    });
    (frame.is_first, frame.is_final) = (is_first, is_final);
    frame
}

#[tokio::test]
async fn frames_come_as_they_were_sent() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("one").await.expect("it is open");
    writer.write_piece("two").await.expect("it is open");
    writer.finish().await.expect("it is open");
    client.send(&b"whole"[..]).await.expect("it is open");
    client.close();
    let mut frames = Vec::new();
    while let Some(frame) = soon(server.recv_frame()).await.expect("it closes cleanly") {
        frames.push(frame);
    }
    let text = MessageKind::Text;
    let expected = [
        frame(text, b"one", true, false),
        frame(text, b"two", false, false),
        frame(text, b"", false, true),
        frame(MessageKind::Binary, b"whole", true, true),
    ];
    assert_eq!(frames, expected);
}

#[tokio::test]
async fn message_is_read_before_its_end_is_there() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("first").await.expect("it is open");
    let mut reader = soon(server.recv_reader()).await.expect("it is open").expect("a message came");
    assert_eq!(reader.kind(), MessageKind::Text);
    assert_eq!(soon(reader.chunk()).await.expect("it is open"), Some(Bytes::from("first")));
    writer.write_piece("second").await.expect("it is open");
    assert_eq!(soon(reader.chunk()).await.expect("it is open"), Some(Bytes::from("second")));
    writer.finish().await.expect("it is open");
    assert_eq!(soon(reader.chunk()).await.expect("it is open"), None);
    assert_eq!(soon(reader.chunk()).await.expect("it is open"), None);
}

/// Bytes that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).expect("it is small")).collect()
}

#[tokio::test]
async fn message_beyond_every_limit_passes_from_reader_to_reader() {
    let (client, mut server, _handle) = pair(Config::server().max_message_size(1000)).await;
    let sent = pattern(3_000_000);
    let send = client.send_reader(MessageKind::Binary, &sent[..]);
    let receive = async {
        let mut received = Vec::new();
        let mut reader = server.recv_reader().await.expect("it is open").expect("a message came");
        reader.read_to_end(&mut received).await.expect("it comes whole");
        received
    };
    let (count, received) = soon(async { tokio::join!(send, receive) }).await;
    assert_eq!(count.expect("it is sent"), 3_000_000);
    assert!(received == sent, "other bytes came");
}

#[tokio::test]
async fn message_that_comes_whole_is_read_and_taken_apart_too() {
    let (mut client, server, _handle) = pair(Config::server()).await;
    server.send("read").await.expect("it is open");
    server.send("frame").await.expect("it is open");
    let mut text = String::new();
    let mut reader = soon(client.recv_reader()).await.expect("it is open").expect("a message came");
    soon(reader.read_to_string(&mut text)).await.expect("it comes whole");
    assert_eq!(text, "read");
    let frame = soon(client.recv_frame()).await.expect("it is open");
    assert_eq!(frame, Some(Frame::from(Message::from("frame"))));
}

#[tokio::test]
async fn recv_puts_pieces_together_up_to_the_limit() {
    let (client, mut server, _handle) = pair(Config::server().max_message_size(10)).await;
    for pieces in [&["0123456789", ""][..], &["01234", "56789", "x"]] {
        let mut writer = client.message_writer(MessageKind::Text);
        for piece in pieces {
            writer.write_piece(*piece).await.expect("it is open");
        }
        writer.finish().await.expect("it is open");
    }
    assert_eq!(soon(server.recv()).await.expect("it fits"), Some(Message::from("0123456789")));
    let error = soon(server.recv()).await.expect_err("it is too long");
    let limit = CloseCause::Protocol(ProtocolError::MessageTooBig { announced: 11, limit: 10 });
    assert_eq!(error.close_event().cause.as_ref().map(ToString::to_string), Some(limit.to_string()));
    assert_eq!(soon(client.closed()).await.code, CloseCode::MESSAGE_TOO_BIG);
}

#[tokio::test]
async fn rest_of_a_message_that_is_not_read_to_its_end_is_skipped() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let send = async {
        for _ in 0..3 {
            client.send(pattern(300_000)).await.expect("it is open");
            client.send("next").await.expect("it is open");
        }
    };
    let receive = async {
        let mut first = [0; 10];
        let mut reader = server.recv_reader().await.expect("it is open").expect("a message came");
        reader.read_exact(&mut first).await.expect("there is more");
        assert_eq!(first, pattern(10)[..]);
        assert_eq!(server.recv().await.expect("it is open"), Some(Message::from("next")));
        server.recv_reader().await.expect("it is open").expect("a message came");
        let mut text = String::new();
        let mut reader = server.recv_reader().await.expect("it is open").expect("a message came");
        reader.read_to_string(&mut text).await.expect("it comes whole");
        assert_eq!(text, "next");
        let piece = server.recv_frame().await.expect("it is open").expect("a frame came");
        assert_eq!(piece.payload, pattern(300_000));
        assert_eq!(server.recv().await.expect("it is open"), Some(Message::from("next")));
    };
    soon(async { tokio::join!(send, receive) }).await;
}

#[tokio::test]
async fn nobody_reads_and_the_sender_waits() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Binary);
    let piece = Bytes::from(vec![7; 64 << 10]);
    let mut sent = 0_u64;
    // What the system's own buffers hold goes first.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), writer.write_piece(piece.clone())).await
    {
        written.expect("it is open");
        sent += piece.len() as u64;
        assert!(sent < 256 << 20, "nothing ever makes the sender wait");
    }
    assert!(client.buffered_amount() <= 2 * (64 << 10) + 100, "{} bytes wait", client.buffered_amount());
    let reader = async {
        let mut reader = server.recv_reader().await.expect("it is open").expect("a message came");
        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.expect("it comes whole")
    };
    let (finished, received) = soon(async { tokio::join!(writer.finish(), reader) }).await;
    finished.expect("it is open");
    assert_eq!(received, sent);
}

#[tokio::test]
async fn other_messages_wait_for_the_end_of_one_that_is_under_way() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("be").await.expect("it is open");
    assert!(matches!(client.try_send("between"), Err(SendError::MessageUnderWay)));
    let socket = client.socket();
    let other = tokio::spawn(async move { socket.send("behind").await });
    let second = client.socket();
    let second = tokio::spawn(async move {
        let mut writer = second.message_writer(MessageKind::Text);
        writer.write_piece("in pieces, ").await?;
        writer.write_piece("behind").await?;
        writer.finish().await
    });
    // Control frames do go between.
    soon(client.ping()).await.expect("it is answered");
    assert!(!other.is_finished() && !second.is_finished());
    writer.write_piece("fore").await.expect("it is open");
    writer.finish().await.expect("it is open");
    soon(other).await.expect("it does not panic").expect("it is sent");
    soon(second).await.expect("it does not panic").expect("it is sent");
    let mut received = Vec::new();
    for _ in 0..3 {
        received.push(soon(server.recv()).await.expect("it is open").expect("a message came").to_string());
    }
    assert_eq!(received[0], "before");
    received[1..].sort();
    assert_eq!(received[1..], ["behind", "in pieces, behind"]);
}

#[tokio::test]
async fn writer_that_is_dropped_before_the_end_closes_the_connection() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    drop(client.message_writer(MessageKind::Text));
    client.send("nothing was begun").await.expect("it is open");
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("begun").await.expect("it is open");
    drop(writer);
    assert_eq!(soon(server.recv()).await.expect("it is open"), Some(Message::from("nothing was begun")));
    let mut reader = soon(server.recv_reader()).await.expect("it is open").expect("a message came");
    assert_eq!(soon(reader.chunk()).await.expect("it came"), Some(Bytes::from("begun")));
    let error = soon(reader.chunk()).await.expect_err("its end does not come");
    assert!(matches!(error.close_event().cause, Some(CloseCause::UnfinishedMessage)), "{error}");
    assert_eq!(soon(server.closed()).await.code, CloseCode::INTERNAL_ERROR);
}

/// Gives some bytes, then an error.
struct Failing(bool);

impl AsyncRead for Failing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(io::Error::other("the disk is gone")));
        }
        buf.put_slice(b"some");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn reader_that_fails_ends_the_message_and_the_connection() {
    let (client, server, _handle) = pair(Config::server()).await;
    let error = client.send_reader(MessageKind::Binary, Failing(true)).await.expect_err("it fails");
    assert_eq!(error.to_string(), "the disk is gone");
    client.send("nothing was begun").await.expect("it is open still");
    let error = client.send_reader(MessageKind::Binary, Failing(false)).await.expect_err("it fails");
    assert_eq!(error.to_string(), "the disk is gone");
    assert_eq!(soon(server.closed()).await.code, CloseCode::INTERNAL_ERROR);
}

#[tokio::test]
async fn writer_is_an_async_write_and_checks_text() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_all("zwölf".as_bytes()).await.expect("it is open");
    writer.flush().await.expect("it is open");
    let error = writer.write_all(b"\xff").await.expect_err("it is no text");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    writer.shutdown().await.expect("it is open");
    assert!(writer.write_all(b"more").await.is_err());
    drop(writer);
    assert_eq!(soon(server.recv()).await.expect("it is open"), Some(Message::from("zwölf")));
}

#[tokio::test]
async fn pieces_of_a_compressed_message_are_inflated() {
    let deflate = wireline::Deflate::server().threshold(0);
    let (client, mut server, _handle) = pair(Config::server().deflate(deflate).max_message_size(1000)).await;
    assert!(client.extensions().contains("permessage-deflate"));
    for text in ["one and ", "two and "] {
        let text = text.repeat(100_000);
        client.send(text.as_str()).await.expect("it is open");
        let mut received = String::new();
        let mut reader = soon(server.recv_reader()).await.expect("it is open").expect("a message came");
        soon(reader.read_to_string(&mut received)).await.expect("it comes whole");
        assert!(received == text, "other bytes came");
    }
    let totals = client.deflate_totals().expect("it is compressed");
    assert!(totals.sent_compressed * 50 < totals.sent, "{totals:?}");
}

#[tokio::test]
async fn receiving_that_is_dropped_loses_nothing() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let send = async {
        for round in 0..50 {
            let mut writer = client.message_writer(MessageKind::Text);
            for piece in 0..4 {
                writer.write_piece(format!("{round}.{piece} ")).await.expect("it is open");
                tokio::task::yield_now().await;
            }
            writer.finish().await.expect("it is open");
        }
    };
    let receive = async {
        for round in 0..50 {
            let expected = format!("{round}.0 {round}.1 {round}.2 {round}.3 ");
            let received = match round % 2 {
                0 => loop {
                    if let Some(message) = drop_after(1, server.recv()).await {
                        break message.expect("it is open").expect("a message came").to_string();
                    }
                    tokio::task::yield_now().await;
                },
                _ => {
                    // A `recv` that is dropped has taken some of it.
                    let _ = drop_after(1, server.recv()).await.map(|message| panic!("{message:?}"));
                    let mut reader = server.recv_reader().await.expect("it is open").expect("a message came");
                    let mut text = Vec::new();
                    loop {
                        match drop_after(1, reader.chunk()).await {
                            Some(Ok(Some(chunk))) => text.extend(chunk),
                            Some(end) => break assert!(end.expect("it is open").is_none()),
                            None => tokio::task::yield_now().await,
                        }
                    }
                    String::from_utf8(text).expect("it is text")
                }
            };
            assert_eq!(received, expected);
        }
    };
    soon(async { tokio::join!(send, receive) }).await;
}

#[tokio::test]
async fn message_may_begin_with_an_empty_frame() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    for piece in ["", "hello"] {
        writer.write_piece(piece).await.expect("it is open");
    }
    writer.finish().await.expect("it is open");
    assert_eq!(soon(server.recv()).await.expect("it is open"), Some(Message::from("hello")));
}

#[tokio::test]
async fn nothing_behind_a_message_that_was_refused_is_given() {
    let (client, mut server, _handle) = pair(Config::server().max_message_size(10)).await;
    client.send("01234567890").await.expect("it is open");
    client.send("next").await.expect("it is open");
    tokio::time::sleep(Duration::from_millis(100)).await;
    soon(server.recv()).await.expect_err("the first was too long");
}

#[tokio::test]
async fn a_message_that_was_refused_is_an_error_though_the_peer_has_closed() {
    let (client, mut server, _handle) = pair(Config::server().max_message_size(10)).await;
    client.send("01234567890").await.expect("it is open");
    client.close();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = soon(server.recv()).await.expect_err("the message was too long");
    let too_big = ProtocolError::MessageTooBig { announced: 11, limit: 10 };
    assert!(
        matches!(error.close_event().cause, Some(CloseCause::Protocol(cause)) if cause == too_big),
        "{error}"
    );
    soon(server.recv()).await.expect_err("and it stays so");
}

/// Fills the system's buffers, so that what is sent from here on stays here.
async fn fill(writer: &mut MessageWriter, socket: &Socket) {
    loop {
        writer.write_piece(vec![7; 16 << 10]).await.expect("it is open");
        if socket.buffered_amount() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if socket.buffered_amount() > 0 {
                return;
            }
        }
    }
}

#[tokio::test]
async fn who_waits_behind_a_message_is_woken_when_that_helps_and_not_before() {
    let (client, mut server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Binary);
    fill(&mut writer, &client).await;
    let polls = Arc::new(AtomicUsize::new(0));
    let waiting = [(); 2].map(|()| {
        let (socket, polls) = (client.socket(), Arc::clone(&polls));
        tokio::spawn(async move {
            let mut sending = socket.send("behind");
            poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                Pin::new(&mut sending).poll(cx)
            })
            .await
        })
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let polled = polls.load(Ordering::Relaxed);
    assert!(polled <= 8, "{polled} polls for nothing");
    // And the message is finished, and they go on, though nobody reads yet.
    soon(writer.finish()).await.expect("it is open");
    for waiting in waiting {
        soon(waiting).await.expect("no panic").expect("it is open");
    }
    let mut reader = soon(server.recv_reader()).await.expect("it is open").expect("a message");
    soon(async { while reader.chunk().await.expect("it is open").is_some() {} }).await;
    for _ in 0..2 {
        assert_eq!(soon(server.recv()).await.expect("it is open"), Some(Message::from("behind")));
    }
}

/// Gives a little at a time, as often as it is asked.
struct LittleByLittle;

impl AsyncRead for LittleByLittle {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(&[1; 4096]);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_is_read_little_by_little_holds_no_more_than_what_is_queued() {
    // From the server, since a client copies what it masks.
    let (_client, server, _handle) = pair(Config::server()).await;
    // Whole messages, since a peer goes on reading one that it has begun.
    while server.buffered_amount() == 0 {
        server.send(vec![7; 16 << 10]).await.expect("it is open");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let socket = server.socket();
    let mut sending = Box::pin(socket.send_reader(MessageKind::Binary, LittleByLittle));
    let (is_pending, cost) =
        allocations::of(|| sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(is_pending, "nobody reads");
    assert!(cost.kept_bytes < 256 << 10, "{cost:?} for {} bytes", server.buffered_amount());
}

#[tokio::test]
async fn what_is_refused_leaves_no_buffer_behind() {
    let (client, _server, _handle) = pair(Config::server()).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("one").await.expect("it is open");
    while client.buffered_amount() > 0 {
        tokio::task::yield_now().await;
    }
    let (refused, cost) = allocations::of(|| client.try_send("between"));
    assert_eq!(refused, Err(SendError::MessageUnderWay));
    assert_eq!(cost.kept_bytes, 0, "{cost:?}");
}
