//! One message, framed once, to many connections.

use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use wireline::{Compress, Config, Deflate, Message, Prepared, Request, SendError, Server, Socket, connect};
use wireline_testkit::{Frame, RawPeer};

/// A server that hands out a socket for each connection, and takes what its peers send.
fn hand_out(config: Config) -> (SocketAddr, Receiver<Socket>) {
    let (give, taken) = channel();
    let server = Server::new().config(config).on_request(move |req: Request| {
        let give = give.clone();
        async move {
            let mut ws = req.accept().await?;
            let _ = give.send(ws.socket());
            while ws.recv().await?.is_some() {}
            Ok(())
        }
    });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    (addr, taken)
}

fn config() -> Config {
    Config::server().keepalive(None)
}

/// Raw peers, with the server's socket for each.
fn peers(addr: SocketAddr, sockets: &Receiver<Socket>, count: usize) -> Vec<(RawPeer, Socket)> {
    (0..count).map(|_| (RawPeer::connect(addr), sockets.recv().expect("the server accepts"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_socket_gets_the_same_bytes_in_the_order_they_were_sent() {
    let (addr, sockets) = hand_out(config());
    let publishing = tokio::task::spawn_blocking(move || {
        let mut peers = peers(addr, &sockets, 200);
        let (small, large) = ("first".to_owned(), vec![7; 100_000]);
        let prepared = [Prepared::new(small.as_str()), Prepared::new(large.clone())];
        for (_, socket) in &peers {
            socket.try_send("before").expect("it is open");
            prepared.iter().for_each(|message| socket.try_send_prepared(message).expect("it is open"));
            socket.try_send("between").expect("it is open");
            socket.try_send_prepared(&prepared[0]).expect("it is open");
        }
        for (peer, _) in &mut peers {
            peer.expect(&Frame::text("before"));
            peer.expect(&Frame::text(&small));
            peer.expect(&Frame::binary(&large));
            peer.expect(&Frame::text("between"));
            peer.expect(&Frame::text(&small));
        }
    });
    publishing.await.expect("every peer got its messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_publish_at_once_and_nothing_is_lost_or_torn() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let (addr, sockets) = hand_out(config());
    let publishing = tokio::task::spawn_blocking(move || {
        let mut peers = peers(addr, &sockets, 8);
        let threads = (0..THREADS).map(|thread| {
            let sockets: Vec<Socket> = peers.iter().map(|(_, socket)| socket.clone()).collect();
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let message = Prepared::new(format!("{thread} {number}"));
                    for socket in &sockets {
                        socket.try_send_prepared(&message).expect("the peers read soon enough");
                    }
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("it publishes"));
        for (peer, _) in &mut peers {
            let mut next = [0; THREADS];
            for _ in 0..THREADS * EACH {
                let frame = peer.read().expect("the connection is open");
                let text = String::from_utf8(frame.payload).expect("it is text");
                let (thread, number) = text.split_once(' ').expect("two numbers");
                let next = &mut next[thread.parse::<usize>().expect("a number")];
                assert_eq!(number.parse(), Ok(*next), "from thread {thread}");
                *next += 1;
            }
        }
    });
    publishing.await.expect("every peer got its messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_costs_the_send_cap_and_disturbs_nobody() {
    const CAP: usize = 256 << 10;
    let (addr, sockets) = hand_out(config().send_cap(CAP));
    let publishing = tokio::task::spawn_blocking(move || {
        let mut peers = peers(addr, &sockets, 2);
        let (mut reader, to_reader) = peers.pop().expect("there are two");
        let (_silent, to_silent) = peers.pop().expect("there are two");
        let message = Prepared::new(vec![1; 64 << 10]);
        let mut refusals = 0;
        for _ in 0..400 {
            to_reader.try_send_prepared(&message).expect("it reads");
            reader.expect(&Frame::binary(vec![1; 64 << 10]));
            match to_silent.try_send_prepared(&message) {
                Ok(()) => assert!(to_silent.buffered_amount() <= CAP + 16, "more than the cap is queued"),
                Err(SendError::Full { buffered }) => {
                    assert!(buffered <= CAP + 16, "{buffered} bytes are queued");
                    refusals += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refusals > 0, "a peer that never reads took 25 MiB");
    });
    publishing.await.expect("the peer that reads got everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_a_hundred_those_that_are_full_or_gone_disturb_nobody() {
    const LEN: usize = 48 << 10;
    const MESSAGES: u8 = 200;
    let (addr, sockets) = hand_out(config());
    let publishing = tokio::task::spawn_blocking(move || {
        let mut readers = peers(addr, &sockets, 80);
        let mut silent = peers(addr, &sockets, 10);
        let leaving = peers(addr, &sockets, 10);
        let (mut leaving, left): (Vec<_>, Vec<_>) =
            leaving.into_iter().map(|(peer, to)| (Some(peer), to)).unzip();
        let mut taken = vec![Vec::new(); silent.len()];
        for number in 0..MESSAGES {
            if number == MESSAGES / 2 {
                leaving.clear();
            }
            let message = Prepared::new(vec![number; LEN]);
            for (_, to) in &readers {
                to.try_send_prepared(&message).expect("it reads");
            }
            for ((_, to), taken) in silent.iter().zip(&mut taken) {
                match to.try_send_prepared(&message) {
                    Ok(()) => taken.push(number),
                    Err(SendError::Full { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            for to in &left {
                let sent = to.try_send_prepared(&message);
                let may_fail = number >= MESSAGES / 2 && sent == Err(SendError::Closed);
                assert!(may_fail || matches!(sent, Ok(()) | Err(SendError::Full { .. })), "{sent:?}");
            }
            for (peer, _) in &mut readers {
                peer.expect(&Frame::binary(vec![number; LEN]));
            }
        }
        for ((peer, _), taken) in silent.iter_mut().zip(taken) {
            assert!(taken.len() < usize::from(MESSAGES), "a peer that does not read took everything");
            taken.into_iter().for_each(|number| peer.expect(&Frame::binary(vec![number; LEN])));
        }
        let ends = left.iter().map(Socket::closed);
        ends.collect::<Vec<_>>().into_iter().for_each(|end| {
            let end = tokio::runtime::Handle::current().block_on(end);
            assert!(!end.was_clean, "{end}");
        });
    });
    publishing.await.expect("who reads got everything");
}

#[tokio::test(start_paused = true)]
async fn a_bound_of_ones_own_holds_whatever_the_send_cap_is() {
    const LIMIT: usize = 100 << 10;
    let (mut client, server) = wireline::testing::pair().await;
    let message = Prepared::new(vec![1; 10 << 10]);
    let mut sent = 0;
    loop {
        match server.try_send_prepared_within(&message, LIMIT) {
            Ok(unsent) => assert!(unsent <= LIMIT, "{unsent} bytes are queued"),
            Err(SendError::Full { buffered }) => {
                assert!(buffered > LIMIT - (11 << 10), "{buffered} bytes are queued");
                // What the network has room for goes out; then nobody reads.
                if tokio::time::timeout(Duration::from_secs(5), server.writable()).await.is_err() {
                    break;
                }
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        sent += 1;
        assert!(sent < 1000, "a peer that does not read takes everything");
    }
    for _ in 0..sent {
        assert_eq!(client.recv().await.expect("it is open"), Some(vec![1; 10 << 10].into()));
    }
    server.writable().await;
    let larger = Prepared::new(vec![1; 2 * LIMIT]);
    let unsent =
        server.try_send_prepared_within(&larger, LIMIT).expect("who need not wait may send anything");
    assert!(unsent > LIMIT, "{unsent} bytes are queued");
    server.close();
    server.writable().await;
    assert_eq!(server.try_send_prepared_within(&message, LIMIT), Err(SendError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_prepared_waits_for_a_slow_peer() {
    let (addr, sockets) = hand_out(config());
    let mut peer = tokio::task::spawn_blocking(move || RawPeer::connect(addr)).await.expect("it connects");
    let socket = sockets.recv().expect("the server accepts");
    let message = Prepared::new(vec![1; 64 << 10]);
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(200), socket.send_prepared(&message)).await.is_ok() {
        sent += 1;
        assert!(sent < 1000, "a peer that does not read holds nobody up");
    }
    let reading = tokio::task::spawn_blocking(move || {
        (0..=sent).for_each(|_| peer.expect(&Frame::binary(vec![1; 64 << 10])));
    });
    socket.send_prepared(&message).await.expect("the peer reads now");
    reading.await.expect("everything arrives once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_masks_it_anew() {
    let (addr, sockets) = hand_out(config());
    let ws = connect(format!("ws://{addr}/")).await.expect("the server accepts");
    let _socket = sockets.recv().expect("the server accepts");
    // The server takes it: an unmasked frame would be answered with 1002.
    ws.try_send_prepared(&Prepared::new("from a client")).expect("it is open");
    ws.ping().await.expect("the server still answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_socket_says_so() {
    let (addr, sockets) = hand_out(config());
    let mut ws = connect(format!("ws://{addr}/")).await.expect("the server accepts");
    let socket = sockets.recv().expect("the server accepts");
    let message = Prepared::new(Message::from("last"));
    socket.try_send_prepared(&message).expect("it is open");
    socket.close();
    assert!(matches!(socket.try_send_prepared(&message), Err(SendError::Closed)));
    assert_eq!(ws.recv().await.expect("it is open"), Some("last".into()));
    assert_eq!(ws.recv().await.expect("it was clean"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_it_is_understood_among_messages_that_refer_to_each_other() {
    let (addr, sockets) = hand_out(config().deflate(Deflate::server().threshold(0)));
    for takeover in [true, false] {
        let deflate = Deflate::client().receive_context_takeover(takeover);
        let connecting = connect(format!("ws://{addr}/")).config(Config::client().deflate(deflate));
        let mut ws = connecting.await.expect("the server accepts");
        assert!(ws.extensions().starts_with("permessage-deflate"));
        let socket = sockets.recv().expect("the server accepts");
        let prepared = Prepared::new(PREPARED.repeat(20));
        let mut sent: Vec<Message> = Vec::new();
        for number in 0..50 {
            let text = format!(r#"{{"type":"update","items":[{number},2,3]}}"#).repeat(number % 7 + 1);
            socket.send(text.as_str()).await.expect("it is open");
            socket.send_prepared(&prepared).await.expect("it is open");
            socket.send_prepared(&prepared).compress(Compress::Never).await.expect("it is open");
            sent.extend([text.into(), PREPARED.repeat(20).into(), PREPARED.repeat(20).into()]);
        }
        for message in sent {
            assert_eq!(ws.recv().await.expect("it is open"), Some(message));
        }
        let totals = socket.deflate_totals().expect("it is compressed");
        assert!(totals.sent_compressed * 4 < totals.sent, "{totals:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_compressed_is_not_in_fragments_either() {
    let deflate = Deflate::server().threshold(0);
    let (addr, sockets) = hand_out(config().deflate(deflate).fragment_size(1000));
    let mut ws = connect(format!("ws://{addr}/")).await.expect("the server accepts");
    let socket = sockets.recv().expect("the server accepts");
    let prepared = Prepared::new(PREPARED.repeat(100));
    for (compress, is_compressed) in [(Compress::Never, false), (Compress::Always, true)] {
        socket.send_prepared(&prepared).compress(compress).await.expect("it is open");
        assert_eq!(ws.recv().await.expect("it is open"), Some(PREPARED.repeat(100).into()));
        let totals = socket.deflate_totals().expect("it is compressed");
        assert_eq!(totals.sent > 0, is_compressed, "{compress:?}");
    }
}

const PREPARED: &str = r#"{"type":"update","items":[1,2,3]}"#;
