//! A connection as a pipe of bytes, and as a sink.

use std::{future::Future, io, pin::pin, time::Duration};

use futures_util::{SinkExt, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional, duplex};
use wireline::{Config, Message, MessageKind, ReadyState, WebSocket, testing::Network};
use wireline_testkit::drop_after;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

async fn pair() -> (WebSocket, WebSocket) {
    soon(wireline::testing::pair()).await
}

#[tokio::test]
async fn messages_of_both_kinds_are_bytes_and_an_empty_one_is_not_the_end() {
    let (client, server) = pair().await;
    for message in
        [Message::from("one "), Message::from(""), Message::from(vec![0xFF]), Message::from(" two")]
    {
        client.send(message).await.expect("it is open");
    }
    client.close();
    let mut heard = Vec::new();
    soon(server.into_io().read_to_end(&mut heard)).await.expect("it is clean");
    assert_eq!(heard, b"one \xFF two");
}

#[tokio::test]
async fn a_write_is_a_binary_message_of_64_kib_at_most() {
    let (client, mut server) = pair().await;
    let mut pipe = client.into_io();
    pipe.write_all(b"little").await.expect("it is open");
    let much = vec![7; 100_000];
    let receive = async {
        assert_eq!(server.recv().await.expect("no loss"), Some(Message::from(&b"little"[..])));
        let mut lengths = Vec::new();
        while let Some(Message::Binary(bytes)) = server.recv().await.expect("no loss") {
            lengths.push(bytes.len());
        }
        lengths
    };
    let send = async {
        pipe.write_all(&much).await.expect("it is open");
        pipe.flush().await.expect("it is open");
        pipe.shutdown().await.expect("it is open");
        pipe.shutdown().await.expect("twice is once");
    };
    let (lengths, ()) = soon(async { tokio::join!(receive, send) }).await;
    assert_eq!(lengths, [65_536, 34_464]);
    assert_eq!(server.closed().await.code, 1000);
    let error = pipe.write(b"more").await.expect_err("it is closed");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_the_peer_sent_before_it_answers_a_shutdown_is_read() {
    let (client, mut server) = pair().await;
    let mut pipe = client.into_io();
    pipe.shutdown().await.expect("it is open");
    // It has not seen the Close frame yet.
    server.send("last words").await.expect("it is open");
    assert_eq!(soon(server.recv()).await.expect("it is clean"), None);
    let mut heard = String::new();
    soon(pipe.read_to_string(&mut heard)).await.expect("it is clean");
    assert_eq!(heard, "last words");
    assert!(soon(pipe.socket().closed()).await.was_clean);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_no_end_of_a_file() {
    let network = Network::new();
    let (client, server) = network.pair(Config::client(), Config::server()).await;
    let mut pipe = client.into_io();
    server.send("half").await.expect("it is open");
    let mut heard = [0; 4];
    soon(pipe.read_exact(&mut heard)).await.expect("it is there");
    network.reset();
    let error = soon(pipe.read(&mut heard)).await.expect_err("it is lost");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn lines_are_read_across_messages() {
    let (client, server) = pair().await;
    for part in ["one\ntw", "o\nthr", "ee"] {
        client.send(part).await.expect("it is open");
    }
    client.close();
    let mut lines = server.into_io().lines();
    for line in [Some("one"), Some("two"), Some("three"), None] {
        assert_eq!(soon(lines.next_line()).await.expect("it is clean").as_deref(), line);
    }
}

#[tokio::test]
async fn a_message_that_does_not_end_is_read_as_it_comes() {
    let pieces = Config::server().receive_in_pieces(true).max_message_size(1000);
    let (client, server) = Network::new().pair(Config::client(), pieces).await;
    let mut pipe = server.into_io();
    let mut writer = client.message_writer(MessageKind::Binary);
    let mut heard = vec![0; 30_000];
    for round in 0..3 {
        writer.write_piece(vec![round; 30_000]).await.expect("it is open");
        soon(pipe.read_exact(&mut heard)).await.expect("it is there");
        assert!(heard.iter().all(|byte| *byte == round));
    }
}

#[tokio::test]
async fn what_a_dropped_recv_has_put_together_is_not_lost() {
    let pieces = Config::server().receive_in_pieces(true);
    let (client, mut server) = Network::new().pair(Config::client(), pieces).await;
    let mut writer = client.message_writer(MessageKind::Text);
    writer.write_piece("one ").await.expect("it is open");
    tokio::time::timeout(Duration::from_millis(100), server.recv()).await.expect_err("it is not whole");
    writer.write_piece("two").await.expect("it is open");
    writer.finish().await.expect("it is open");
    client.close();
    let mut heard = String::new();
    soon(server.into_io().read_to_string(&mut heard)).await.expect("it is clean");
    assert_eq!(heard, "one two");
}

#[tokio::test]
async fn a_pipe_holds_a_writer_up_whose_peer_does_not_read() {
    let (client, server) = pair().await;
    let mut pipe = client.into_io();
    let chunk = vec![1; 64 << 10];
    let flood = async {
        loop {
            pipe.write_all(&chunk).await.expect("it is open");
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), flood).await.is_err());
    let buffered = pipe.socket().buffered_amount();
    assert!(buffered < 256 << 10, "{buffered}");
    drop(server);
}

#[tokio::test]
async fn two_pipes_in_a_row_carry_everything_both_ways() {
    let (near, far) = pair().await;
    let (mut near, mut far) = (near.into_io(), far.into_io());
    let (mut here, mut near_end) = duplex(1000);
    let (mut there, mut far_end) = duplex(1000);
    tokio::spawn(async move { copy_bidirectional(&mut near_end, &mut near).await });
    tokio::spawn(async move { copy_bidirectional(&mut far_end, &mut far).await });
    let sent: Vec<u8> = (0..200_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    let (mut heard, mut answered) = (vec![0; sent.len()], vec![0; sent.len()]);
    soon(async {
        let there = async {
            there.read_exact(&mut heard).await.expect("it comes");
            there.write_all(&heard).await.expect("it is read");
        };
        let here = async {
            here.write_all(&sent).await.expect("it is read");
            here.read_exact(&mut answered).await.expect("it comes");
        };
        tokio::join!(there, here)
    })
    .await;
    assert!(heard == sent && answered == sent);
}

#[tokio::test]
async fn reads_and_writes_that_are_dropped_lose_nothing() {
    let (client, server) = pair().await;
    let (mut client, mut server) = (client.into_io(), server.into_io());
    let sent: Vec<u8> = (0..150_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    let send = async {
        let (mut at, mut polls) = (0, 0);
        while at < sent.len() {
            polls = polls % 3 + 1;
            match drop_after(polls, client.write(&sent[at..])).await {
                Some(written) => at += written.expect("it is open"),
                None => tokio::task::yield_now().await,
            }
        }
        client.shutdown().await.expect("it is open");
    };
    let receive = async {
        let (mut heard, mut buffer, mut polls) = (Vec::<u8>::new(), vec![0; 1000], 0);
        loop {
            polls = polls % 3 + 1;
            match drop_after(polls, server.read(&mut buffer)).await {
                Some(count) => match count.expect("it is clean") {
                    0 => return heard,
                    count => heard.extend(&buffer[..count]),
                },
                None => tokio::task::yield_now().await,
            }
        }
    };
    let ((), heard) = soon(async { tokio::join!(send, receive) }).await;
    assert!(heard == sent);
}

#[tokio::test]
async fn a_dropped_pipe_closes_its_connection() {
    let (client, mut server) = pair().await;
    drop(client.into_io());
    assert_eq!(soon(server.recv()).await.expect("it is clean"), None);
    assert_eq!(server.closed().await.code, 1000);
}

#[tokio::test]
async fn a_sink_that_was_ready_takes_a_message_whatever_began_since() {
    let (mut client, mut server) = pair().await;
    let mut writer = client.socket().message_writer(MessageKind::Text);
    std::future::poll_fn(|cx| client.poll_ready_unpin(cx)).await.expect("it is open");
    writer.write_piece("one, ").await.expect("it is open");
    client.start_send_unpin(Message::from("two")).expect("it was ready");
    {
        let flushed = pin!(client.flush());
        assert!(drop_after(1, flushed).await.is_none(), "it cannot be out");
    }
    writer.finish().await.expect("it is open");
    soon(client.flush()).await.expect("it is open");
    for text in ["one, ", "two"] {
        assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from(text)));
    }
    // And the same when it is closed instead.
    let mut writer = client.socket().message_writer(MessageKind::Text);
    std::future::poll_fn(|cx| client.poll_ready_unpin(cx)).await.expect("it is open");
    writer.write_piece("three").await.expect("it is open");
    client.start_send_unpin(Message::from("four")).expect("it was ready");
    writer.finish().await.expect("it is open");
    let (closed, heard) =
        soon(async { tokio::join!(SinkExt::close(&mut client), server.by_ref().collect::<Vec<_>>()) }).await;
    closed.expect("it is clean");
    let heard: Vec<_> = heard.into_iter().map(|message| message.expect("no loss")).collect();
    assert_eq!(heard, [Message::from("three"), Message::from("four")]);
    assert_eq!(client.ready_state(), ReadyState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_could_not_send_everything_is_an_error() {
    let network = Network::new();
    let (client, _server) = network.pair(Config::client(), Config::server()).await;
    let mut pipe = client.into_io();
    network.stall();
    pipe.write_all(&[7; 120_000]).await.expect("it is open");
    let error = pipe.shutdown().await.expect_err("nobody took it");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

    network.resume();
    let (mut client, _server) = network.pair(Config::client(), Config::server()).await;
    network.stall();
    SinkExt::send(&mut client, Message::from("lost")).await.expect("it is on its way");
    SinkExt::close(&mut client).await.expect_err("nobody answered");
}

#[tokio::test]
async fn a_message_that_a_sink_holds_goes_out_with_what_the_pipe_writes() {
    let (mut client, mut server) = pair().await;
    let mut writer = client.socket().message_writer(MessageKind::Text);
    std::future::poll_fn(|cx| client.poll_ready_unpin(cx)).await.expect("it is open");
    writer.write_piece("one").await.expect("it is open");
    client.start_send_unpin(Message::from("two")).expect("it was ready");
    writer.finish().await.expect("it is open");
    let mut pipe = client.into_io();
    pipe.write_all(b"three").await.expect("it is open");
    for message in [Message::from("one"), Message::from("two"), Message::from(&b"three"[..])] {
        assert_eq!(soon(server.recv()).await.expect("no loss"), Some(message));
    }
}
