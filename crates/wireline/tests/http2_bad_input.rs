//! HTTP/2 of a kind that no client means well with, frame by frame: each has its error code, costs a bounded amount
//! of memory and work, and harms nobody else. Advisories for other servers are named where there are some.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use wireline::{Message, Request, Server, ServerHandle, connect};
use wireline_proto::Role;
use wireline_testkit::Frame as WebSocketFrame;

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10), future).await.expect("this takes too long")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("it has four bytes"))
    }
}

/// A client made of bytes.
struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// Connects, and opens with these settings.
    async fn connect(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self { stream: TcpStream::connect(addr).await.expect("it listens") };
        peer.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is open");
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(identifier, value)| [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        peer.send(SETTINGS, 0, 0, &settings).await;
        peer.send(SETTINGS, ACK, 0, &[]).await;
        // All streams together may have much, each only what it has.
        peer.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes()).await;
        peer
    }

    /// Says something, whether it is still heard or not.
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
        let frame = [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        let _ = soon(self.stream.write_all(&frame)).await;
    }

    async fn request(&mut self, stream: u32, path: &str) {
        self.send(HEADERS, END_HEADERS, stream, &websocket(path)).await;
    }

    /// The next frame; none at the end of the connection.
    async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        soon(self.stream.read_exact(&mut header)).await.ok()?;
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; len as usize];
        soon(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(header[5..].try_into().expect("it has four bytes"));
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// The next frame of this kind on this stream.
    async fn await_frame(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.frame().await.expect("the connection goes on");
            if frame.kind == kind && frame.stream == stream && frame.flags & ACK == 0
                || kind == DATA && frame.kind == DATA && frame.stream == stream
            {
                return frame;
            }
            assert!(frame.kind != GOAWAY, "error {}", frame.error_code());
        }
    }

    /// The code with which the server ends the connection.
    async fn goes_away(&mut self) -> u32 {
        loop {
            match self.frame().await {
                Some(frame) if frame.kind == GOAWAY => return frame.error_code(),
                Some(_) => {}
                None => panic!("the connection ended without a word"),
            }
        }
    }

    /// A text goes there and back on a stream.
    async fn echoes(&mut self, stream: u32) {
        self.send(DATA, 0, stream, &WebSocketFrame::text("still there").sent_by(Role::Client)).await;
        let answer = self.await_frame(DATA, stream).await;
        assert_eq!(answer.payload, WebSocketFrame::text("still there").bytes());
    }
}

/// An extended CONNECT, with its fields as literals (RFC 7541 section 6.2.2).
fn websocket(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "h.example"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let len = u8::try_from(text.len()).ok().filter(|len| *len < 127).expect("it is short");
        [&[len], text.as_bytes()].concat()
    };
    [&[0][..], &text(name), &text(value)].concat()
}

/// An echo at `/`, a handler that takes its time at `/slow`, one that sends as fast as it can at `/flood`.
fn serve() -> (SocketAddr, ServerHandle) {
    let server = Server::new()
        .cleartext_http2()
        .route("/", |req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .route("/slow", |req: Request| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(req);
            Ok(())
        })
        .route("/flood", |req: Request| async move {
            let ws = req.accept().await?;
            loop {
                ws.send(vec![0; 10_000]).await?;
            }
        });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    (addr, handle)
}

/// Nobody is left but so many, and who comes now is served.
async fn is_well(addr: SocketAddr, handle: &ServerHandle, left: usize) {
    soon(async {
        while handle.connections() > left {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut ws = soon(connect(format!("ws://{addr}/")).http2().into_future()).await.expect("it is served");
    ws.send("and the others").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("and the others")));
}

#[tokio::test]
async fn a_stream_can_be_reset_at_every_stage_and_the_others_go_on() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    peer.request(1, "/").await;
    peer.await_frame(HEADERS, 1).await;
    // Before the answer, behind it, within a frame, and while the server sends.
    peer.request(3, "/slow").await;
    peer.request(5, "/").await;
    peer.await_frame(HEADERS, 5).await;
    peer.request(7, "/").await;
    peer.await_frame(HEADERS, 7).await;
    peer.send(DATA, 0, 7, &WebSocketFrame::text("cut short").sent_by(Role::Client)[..5]).await;
    peer.request(9, "/flood").await;
    peer.await_frame(DATA, 9).await;
    soon(async {
        while handle.connections() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for stream in [3, 5, 7, 9] {
        peer.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await;
    }
    peer.echoes(1).await;
    is_well(addr, &handle, 1).await;
    peer.echoes(1).await;
}

/// CVE-2023-44487.
#[tokio::test]
async fn streams_that_are_opened_and_reset_by_the_thousand_cost_their_connection() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    for n in 0..5_000 {
        peer.request(2 * n + 1, "/slow").await;
        peer.send(RST_STREAM, 0, 2 * n + 1, &CANCEL.to_be_bytes()).await;
    }
    assert_eq!(peer.goes_away().await, ENHANCE_YOUR_CALM);
    is_well(addr, &handle, 0).await;
}

/// CVE-2025-8671: a client that has the server do the resetting.
#[tokio::test]
async fn streams_that_the_server_must_reset_by_the_thousand_cost_their_connection() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    for n in 0..5_000 {
        peer.request(2 * n + 1, "/slow").await;
        peer.send(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4]).await;
    }
    let code = peer.goes_away().await;
    assert!([ENHANCE_YOUR_CALM, PROTOCOL_ERROR].contains(&code), "{code}");
    is_well(addr, &handle, 0).await;
}

/// RUSTSEC-2024-0332.
#[tokio::test]
async fn a_head_without_end_costs_its_connection() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    peer.send(HEADERS, 0, 1, &websocket("/")).await;
    let field = literal("x-field", &"x".repeat(100)).repeat(100);
    for _ in 0..1_000 {
        peer.send(CONTINUATION, 0, 1, &field).await;
    }
    let code = peer.goes_away().await;
    assert!([ENHANCE_YOUR_CALM, PROTOCOL_ERROR].contains(&code), "{code}");
    is_well(addr, &handle, 0).await;
}

/// RUSTSEC-2026-0258.
#[tokio::test]
async fn empty_data_is_no_end_and_without_end_it_costs_its_connection() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    peer.request(1, "/").await;
    peer.await_frame(HEADERS, 1).await;
    for _ in 0..20 {
        peer.send(DATA, 0, 1, &[]).await;
    }
    peer.echoes(1).await;
    for _ in 0..100_000 {
        peer.send(DATA, 0, 1, &[]).await;
    }
    assert_eq!(peer.goes_away().await, ENHANCE_YOUR_CALM);
    is_well(addr, &handle, 0).await;
}

/// CVE-2026-47244.
#[tokio::test]
async fn more_streams_than_are_allowed_are_refused_one_by_one() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[]).await;
    for n in 0..128 {
        peer.request(2 * n + 1, "/").await;
        peer.await_frame(HEADERS, 2 * n + 1).await;
    }
    for n in 128..300 {
        peer.request(2 * n + 1, "/").await;
        assert_eq!(peer.await_frame(RST_STREAM, 2 * n + 1).await.error_code(), REFUSED_STREAM);
    }
    peer.echoes(1).await;
    assert_eq!(handle.connections(), 128);
}

#[tokio::test]
async fn a_client_without_a_window_holds_its_sender_up_and_nobody_else() {
    let (addr, handle) = serve();
    let mut peer = Peer::connect(addr, &[(0x4, 0)]).await;
    for stream in [1, 3, 5] {
        peer.request(stream, "/flood").await;
        peer.await_frame(HEADERS, stream).await;
    }
    peer.request(7, "/").await;
    peer.await_frame(HEADERS, 7).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let buffered: Vec<_> = handle.sockets().iter().map(|socket| socket.buffered_amount()).collect();
    assert!(buffered.iter().all(|bytes| *bytes < 100_000), "{buffered:?}");
    // One byte at a time is enough for whoever gets it.
    peer.send(WINDOW_UPDATE, 0, 7, &1000_u32.to_be_bytes()).await;
    peer.echoes(7).await;
    is_well(addr, &handle, 4).await;
}

#[tokio::test]
async fn what_breaks_the_rules_of_http_2_costs_its_connection() {
    let (addr, handle) = serve();
    for (kind, stream, payload) in [
        (DATA, 1, &b"to nobody"[..]),
        (CONTINUATION, 1, b""),
        (PING, 0, b"short"),
        (WINDOW_UPDATE, 0, &[0; 4]),
        (SETTINGS, 1, b""),
        (HEADERS, 2, b""),
    ] {
        let mut peer = Peer::connect(addr, &[]).await;
        // The flag means something in HEADERS only.
        peer.send(kind, END_HEADERS, stream, payload).await;
        let code = timeout(Duration::from_secs(1), peer.goes_away()).await;
        assert!(code.as_ref().is_ok_and(|code| *code != 0), "a frame of type {kind}: {code:?}");
    }
    is_well(addr, &handle, 0).await;
}
