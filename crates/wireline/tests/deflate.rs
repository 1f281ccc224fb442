//! permessage-deflate between the public API's two ends, and against peers made of bytes, over TCP, TLS
//! and Unix sockets.

use std::{
    future::{Future, IntoFuture as _},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use wireline::{
    ClientTls, Compress, Config, ConnectError, Deflate, Message, Request, SendError, Server, ServerTls,
    Socket, WebSocket, connect,
};
use wireline_proto::deflate::{Compressor, CompressorSettings};
use wireline_testkit::{Frame, RawPeer, frames::pattern};

/// The compressed form of "Hello" (RFC 7692 section 7.2.3.1), and of a second one (7.2.3.2).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
const HELLO_AGAIN: [u8; 5] = [0xf2, 0x00, 0x11, 0x00, 0x00];

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

async fn blocking<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    soon(tokio::task::spawn_blocking(run)).await.expect("no panic")
}

fn echo(deflate: impl Into<Option<Deflate>>) -> Server {
    let config = Config::server().max_message_size(16 << 20).deflate(deflate);
    Server::new().config(config).on_request(|req: Request| async move {
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

async fn open(server: &Server, client: Deflate) -> WebSocket {
    let config = Config::client().deflate(client);
    let url = format!("ws://{}/", listen(server));
    soon(connect(url).config(config).into_future()).await.expect("the server accepts")
}

async fn there_and_back(ws: &mut WebSocket, message: Message, compress: Compress) {
    ws.send(message.clone()).compress(compress).await.expect("it is open");
    let back = soon(ws.recv()).await.expect("it is open").expect("it is open");
    assert!(back == message, "{} bytes came back changed", back.len());
}

/// Messages of all sizes, both kinds, that shrink or do not, each way of asking.
async fn talk(mut ws: WebSocket) {
    let text = "All happy families are alike; each unhappy family is unhappy in its own way. ";
    for compress in [Compress::ByThreshold, Compress::Always, Compress::Never] {
        for len in [0, 1, 125, 126, 1023, 1024, 5000, 65_536, 1_000_000] {
            let text = text.repeat(len / text.len() + 1)[..len].to_owned();
            there_and_back(&mut ws, Message::from(text), compress).await;
            there_and_back(&mut ws, Message::from(pattern(len)), compress).await;
        }
    }
    let totals = ws.deflate_totals().expect("it was agreed on");
    assert!(totals.sent > 5 * totals.sent_compressed, "{totals:?}");
    assert!(totals.received > 5 * totals.received_compressed, "{totals:?}");
    ws.close_with(4000, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it was clean"), None);
    assert_eq!(ws.deflate_totals(), Some(totals), "they are there after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_combination_of_parameters_carries_messages() {
    for flags in 0..16 {
        let [a, b, c, d] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
        let server = Deflate::server().send_context_takeover(a).receive_context_takeover(b);
        let client = Deflate::client().send_context_takeover(c).receive_context_takeover(d);
        let ws = open(&echo(server), client).await;
        assert_eq!(ws.extensions().contains("server_no_context_takeover"), !(a && d), "{}", ws.extensions());
        assert_eq!(ws.extensions().contains("client_no_context_takeover"), !(b && c), "{}", ws.extensions());
        talk(ws).await;
    }
    for bits in 8..=15 {
        let server = Deflate::server().send_window_bits(bits).receive_window_bits(bits);
        let client = Deflate::client().receive_window_bits(23 - bits);
        let ws = open(&echo(server), client).await;
        assert!(ws.extensions().contains(&format!("client_max_window_bits={bits}")), "{}", ws.extensions());
        talk(ws).await;
    }
}

#[tokio::test]
async fn it_is_off_on_a_server_and_offered_by_a_client_unless_they_are_told_otherwise() {
    let url = format!("ws://{}/", listen(&echo(None)));
    let mut ws = soon(connect(url).into_future()).await.expect("the server accepts");
    assert_eq!((ws.extensions(), ws.deflate_totals()), ("", None));
    there_and_back(&mut ws, Message::from("x".repeat(5000)), Compress::Always).await;

    let url = format!("ws://{}/", listen(&echo(Deflate::server())));
    let ws = soon(connect(url.clone()).into_future()).await.expect("the server accepts");
    assert_eq!(ws.extensions(), "permessage-deflate; client_max_window_bits=12");
    talk(ws).await;
    let config = Config::client().deflate(None);
    let ws = soon(connect(url).config(config).into_future()).await.expect("the server accepts");
    assert_eq!(ws.extensions(), "");
}

#[tokio::test]
async fn a_unix_socket_carries_compressed_messages() {
    let path = std::env::temp_dir().join(format!("wireline-deflate-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = echo(Deflate::server()).bind_unix(&path).expect("the path is free");
    tokio::spawn(listener.serve());
    talk(soon(connect("ws://localhost/").unix_socket(&path).into_future()).await.expect("accepted")).await;
    std::fs::remove_file(&path).expect("the socket was there");
}

#[tokio::test]
async fn tls_carries_compressed_messages() {
    let key = KeyPair::generate().expect("the system has random bytes");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("the name is one");
    let certificate = params.self_signed(&key).expect("it can be signed").pem();
    let tls = ServerTls::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes());
    let addr = listen(&echo(Deflate::server()).tls(tls.expect("they go together")));
    let trust = ClientTls::with_ca_pem(certificate.as_bytes()).expect("it is a certificate");
    let url = format!("wss://localhost:{}/", addr.port());
    talk(soon(connect(url).tls(trust).into_future()).await.expect("the server accepts")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_answers_each_offer_as_the_rfc_says() {
    let addr = listen(&echo(Deflate::server().threshold(0)));
    for (offers, answer) in [
        ("", None),
        (OFFER, Some("permessage-deflate; client_max_window_bits=12")),
        ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=16\r\n", None),
        (
            "Sec-WebSocket-Extensions: x-foo, permessage-deflate; unknown\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"9\"\r\n",
            Some("permessage-deflate; server_max_window_bits=9"),
        ),
    ] {
        let head = blocking(move || {
            let peer = RawPeer::request(addr, offers);
            peer.header("sec-websocket-extensions").map(str::to_owned)
        });
        assert_eq!(head.await.as_deref(), answer, "{offers}");
    }
    let malformed = "Sec-WebSocket-Extensions: permessage-deflate; =1\r\n";
    let head = blocking(move || RawPeer::request(addr, malformed).head().to_owned()).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_inflates_and_refuses_what_a_client_of_bytes_sends() {
    let config = Config::server().max_message_size(1000).deflate(Deflate::server());
    let server = echo(None).config(config);
    let addr = listen(&server);
    blocking(move || {
        let open = || RawPeer::request(addr, OFFER);
        let compressed = |payload: &[u8]| Frame::text(payload).rsv(0b100);
        let mut peer = open();
        peer.send(&compressed(&HELLO));
        peer.expect(&Frame::text("Hello"));
        peer.send(&compressed(&HELLO_AGAIN[..2]).more());
        peer.send(&Frame::ping("?"));
        peer.send(&Frame::continuation(&HELLO_AGAIN[2..]));
        peer.expect(&Frame::pong("?"));
        peer.expect(&Frame::text("Hello"));
        let zeros = zeros();
        for (frame, code) in [
            (Frame::ping("").rsv(0b100), 1002),
            (Frame::continuation("").rsv(0b100), 1002),
            (compressed(&[0x06]), 1007),
            (Frame::binary(zeros).rsv(0b100), 1009),
        ] {
            let mut peer = open();
            peer.send(&frame);
            peer.expect(&Frame::close(code, ""));
        }
        // Without an agreement, a compressed frame breaks a rule.
        let mut peer = RawPeer::connect(addr);
        peer.send(&compressed(&HELLO));
        peer.expect(&Frame::close(1002, ""));
    })
    .await;
}

/// A server whose handler waits for the end, and the socket of its next connection.
fn hand_out(config: Config) -> (Server, mpsc::UnboundedReceiver<Socket>) {
    let (give, taken) = mpsc::unbounded_channel();
    let server = Server::new().config(config).on_request(move |req: Request| {
        let give = give.clone();
        async move {
            let ws = req.accept().await?;
            let _ = give.send(ws.socket());
            ws.closed().await;
            Ok(())
        }
    });
    (server, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_of_what_does_not_shrink_wait_and_go_on_like_any_others() {
    const COUNT: usize = 8 << 10;
    let (server, mut sockets) = hand_out(Config::server().deflate(Deflate::server().threshold(0)));
    let addr = listen(&server);
    let mut peer = blocking(move || RawPeer::request(addr, OFFER)).await;
    let socket = soon(sockets.recv()).await.expect("the handler accepts");
    let messages = || (0..COUNT).map(|n| if n % 5 == 0 { vec![7; 4000] } else { noise(n, 1 << 10) });
    let sender = tokio::spawn({
        let socket = socket.clone();
        async move {
            for message in messages() {
                socket.send(message).await?;
            }
            Ok::<_, SendError>(())
        }
    });
    let mut before = 0;
    while std::mem::replace(&mut before, socket.buffered_amount()) != before || before == 0 {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        before > 64 << 10 && before <= 66 << 10,
        "{before} bytes are queued for a peer that does not read"
    );
    assert!(!sender.is_finished());
    blocking(move || {
        for message in messages() {
            let frame = peer.read().expect("messages are left");
            assert_eq!(frame.rsv == 0b100, message[0] == 7 && message.len() == 4000);
            assert!(frame.rsv == 0b100 || frame.payload == message);
        }
    })
    .await;
    soon(sender).await.expect("no panic").expect("everything was sent");
    assert_eq!(socket.buffered_amount(), 0);
}

/// Bytes without any pattern, others for each `seed`.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// 1,001 zeros, compressed.
fn zeros() -> Vec<u8> {
    let settings = CompressorSettings { level: 6, window_bits: 12, memory_level: 5 };
    let mut payload = Vec::new();
    assert!(Compressor::new(settings).compress(&[0; 1001], &mut payload), "it shrinks");
    payload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_takes_an_answer_to_its_offer_and_no_other() {
    for (answer, expected) in [
        ("permessage-deflate", true),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", true),
        ("permessage-deflate; server_max_window_bits=8; client_max_window_bits=\"8\"", true),
        ("permessage-deflate; client_max_window_bits", false),
        ("permessage-deflate; client_max_window_bits=7", false),
        ("permessage-deflate; server_max_window_bits=08", false),
        ("permessage-deflate; unknown", false),
        ("permessage-deflate, permessage-deflate", false),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", false),
        ("x-webkit-deflate-frame", false),
        ("permessage-deflate;", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let server = std::thread::spawn(move || {
            let mut peer = RawPeer::accept(&listener);
            assert_eq!(
                peer.header("sec-websocket-extensions"),
                Some("permessage-deflate; client_max_window_bits")
            );
            let more = format!("Sec-WebSocket-Extensions: {answer}\r\n");
            peer.send_bytes(&peer.switching_protocols(&more));
            if expected {
                peer.send(&Frame::text(HELLO).rsv(0b100));
                let echo = peer.read().expect("an echo comes");
                assert_eq!(echo.rsv, 0, "the threshold is not reached");
            }
        });
        let opened = soon(connect(format!("ws://{addr}/")).into_future()).await;
        match opened {
            Ok(mut ws) if expected => {
                assert_eq!(soon(ws.recv()).await.expect("it is open"), Some("Hello".into()));
                ws.send("Hello").await.expect("it is open");
            }
            Err(ConnectError::Handshake(_)) if !expected => {}
            other => panic!("{answer}: {other:?}"),
        }
        blocking(|| server.join().expect("the peer is content")).await;
    }
}
