//! WebSockets over HTTP/3 (RFC 9220): the same on either end, over UDP on loopback.

use std::{
    future::{Future, IntoFuture as _},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use http::{Response, StatusCode};
use qpack::HeaderField;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{RootCertStore, crypto::ring, pki_types::CertificateDer};
use tokio::time::timeout;
use wireline::{
    Client, ClientTls, CloseCause, Config, ConnectError, Deflate, Message, Request, Server, ServerHandle,
    ServerTls, SetCookie, WebSocket, connect,
};
use wireline_proto::Role;
use wireline_testkit::Frame;

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10), future).await.expect("this takes too long")
}

/// A certificate for `localhost` and 127.0.0.1, as a server's and a client's side, and as it is.
struct Certificate {
    server: ServerTls,
    client: ClientTls,
    der: CertificateDer<'static>,
}

fn certificate() -> Certificate {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let signed = rcgen::generate_simple_self_signed(names).expect("the names are some");
    let (cert, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    Certificate {
        server: ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).expect("they go together"),
        client: ClientTls::with_ca_pem(cert.as_bytes()).expect("it is a certificate"),
        der: signed.cert.der().clone(),
    }
}

fn echo() -> Server {
    Server::new().config(Config::server().max_message_size(16 << 20)).on_message(
        |socket, message| async move {
            socket.send(message).await?;
            Ok(())
        },
    )
}

/// Has a server listen, with HTTP/3.
fn serve(server: Server, certificate: &Certificate) -> (SocketAddr, ServerHandle) {
    let listener =
        server.tls(certificate.server.clone()).http3().bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    (addr, handle)
}

async fn echoes(ws: &mut WebSocket) {
    for message in [Message::from("over HTTP/3"), Message::from(vec![7; 3_000_000]), Message::from("")] {
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
    }
}

#[tokio::test]
async fn everything_is_as_over_http_1() {
    let certificate = certificate();
    let server = Server::new()
        .config(Config::server().deflate(Deflate::server()).max_message_size(16 << 20))
        .origins(["https://app.example"])
        .route("/chat/{room}", |req: Request| async move {
            assert_eq!(req.version(), http::Version::HTTP_3);
            assert_eq!(req.origin(), Some("https://app.example"));
            assert!(req.host().starts_with("localhost:"), "{}", req.host());
            assert!(req.client_ip().is_some_and(|ip| ip.is_loopback()));
            let room = req.param("room").unwrap_or_default().to_owned();
            assert_eq!((&*room, req.query(), req.header("X-Token")), ("tea", Some("a=b"), Some("1234")));
            let accept = req.accept().protocol("v2").header("X-Node", "7").cookie(SetCookie::new("a", "b"));
            let mut ws = accept.await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        });
    let (addr, _) = serve(server, &certificate);
    let connecting = connect(format!("wss://localhost:{}/chat/tea?a=b", addr.port()))
        .http3()
        .tls(certificate.client)
        .protocols(["v1", "v2"])
        .origin("https://app.example")
        .header("X-Token", "1234");
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    assert_eq!((ws.protocol(), ws.remote_addr()), (Some("v2"), Some(addr)));
    assert!(ws.extensions().starts_with("permessage-deflate"), "{}", ws.extensions());
    let headers = ws.response_headers().expect("it is a client");
    assert_eq!(headers["x-node"], "7");
    assert!(headers["set-cookie"].as_bytes().starts_with(b"a=b"));
    echoes(&mut ws).await;
    soon(ws.ping()).await.expect("it is driven");
    ws.close_with(4001, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    let close = soon(ws.closed()).await;
    assert_eq!((close.code, &*close.reason, close.was_clean), (4001.into(), "done", true));
}

#[tokio::test]
async fn the_server_closes_and_the_client_learns_the_code() {
    let certificate = certificate();
    let server = Server::new().on_request(|req: Request| async move {
        let ws = req.accept().await?;
        ws.send("last words").await?;
        ws.close_with(4000, "enough")?;
        ws.closed().await;
        Ok(())
    });
    let (addr, _) = serve(server, &certificate);
    let connecting = connect(format!("wss://{addr}/")).http3().tls(certificate.client);
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("last words")));
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 4000);
}

#[tokio::test]
async fn refusals_are_told_whole() {
    let certificate = certificate();
    let server = Server::new().route("/known", |req: Request| async move {
        req.reject(StatusCode::UNAUTHORIZED).header("WWW-Authenticate", "Bearer").body("who?").await
    });
    let (addr, handle) = serve(server, &certificate);
    for (path, origin, status, body) in [
        ("known", None, 401, "who?"),
        ("elsewhere", None, 404, "404 Not Found\n"),
        ("known", Some("https://evil.example"), 403, ""),
    ] {
        let mut connecting = connect(format!("wss://{addr}/{path}")).http3().tls(certificate.client.clone());
        if let Some(origin) = origin {
            connecting = connecting.origin(origin);
        }
        match soon(connecting.into_future()).await {
            Err(ConnectError::Rejected(response)) => {
                assert_eq!(response.status(), status);
                assert!(body.is_empty() || response.body() == body, "{response:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(handle.connections(), 0);
}

#[tokio::test]
async fn a_client_chooses_http_3_once_it_was_announced_and_does_without_it_where_it_does_not_work() {
    let certificate = certificate();
    let versions = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&versions);
    let server = echo().on_request(move |req: Request| {
        seen.lock().expect("nobody panicked").push(req.version());
        async move { req.accept().run().await }
    });
    let listener =
        server.clone().tls(certificate.server.clone()).http3().bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let serving = tokio::spawn(listener.serve());
    let open = async || {
        let connecting = connect(format!("wss://{addr}/")).http_auto().tls(certificate.client.clone());
        let mut ws = soon(connecting.into_future()).await.expect("it is let in");
        echoes(&mut ws).await;
        ws
    };
    let first = open().await;
    assert!(first.response_headers().expect("it is a client")["alt-svc"].as_bytes().starts_with(b"h3="));
    open().await;
    // The same port without UDP: the announcement is wrong now.
    serving.abort();
    let _ = serving.await;
    drop(first);
    let listener = loop {
        match server.clone().tls(certificate.server.clone()).bind(addr) {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    tokio::spawn(listener.serve());
    open().await;
    let versions = versions.lock().expect("nobody panicked").clone();
    assert_eq!(versions, [http::Version::HTTP_2, http::Version::HTTP_3, http::Version::HTTP_2]);
}

#[tokio::test]
async fn a_shutdown_says_1001_and_waits_and_cuts() {
    let certificate = certificate();
    let (addr, handle) = serve(echo(), &certificate);
    let url = format!("wss://{addr}/");
    let connecting = connect(&url).http3().tls(certificate.client.clone());
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    echoes(&mut ws).await;
    assert_eq!(handle.connections(), 1);
    let (drained, end) =
        soon(async { tokio::join!(handle.shutdown(Duration::from_secs(5)), ws.recv()) }).await;
    assert_eq!((drained.connections, drained.cut), (1, 0));
    assert_eq!(end.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 1001);
    let late =
        connect(&url).http3().tls(certificate.client.clone()).handshake_timeout(Duration::from_secs(2));
    late.await.expect_err("nobody is let in any more");

    // A client that does not answer is cut.
    let (addr, handle) = serve(echo(), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut mute = peer.request(&websocket(addr)).await;
    assert_eq!(mute.status().await, 200);
    let drained = soon(handle.shutdown(Duration::from_millis(300))).await;
    assert_eq!((drained.connections, drained.cut), (1, 1));
    soon(peer.quic.closed()).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_handler_when_the_server_closes_gets_a_503() {
    let certificate = certificate();
    let server = Server::new().on_request(|req: Request| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(req);
        Ok(())
    });
    let (addr, handle) = serve(server, &certificate);
    let connecting = connect(format!("wss://{addr}/")).http3().tls(certificate.client);
    let connecting = tokio::spawn(connecting.into_future());
    while handle.pending() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    soon(handle.shutdown(Duration::from_secs(5))).await;
    match soon(connecting).await.expect("no panic") {
        Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_that_gives_up_is_not_waited_for() {
    let certificate = certificate();
    let server = Server::new().on_request(|req: Request| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(req);
        Ok(())
    });
    let (addr, handle) = serve(server, &certificate);
    let connecting = connect(format!("wss://{addr}/")).http3().tls(certificate.client);
    let connecting = tokio::spawn(connecting.into_future());
    while handle.pending() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connecting.abort();
    soon(async {
        while handle.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn websockets_of_one_client_share_a_connection_and_one_that_does_not_read_holds_up_none() {
    let certificate = certificate();
    let (addr, handle) = serve(echo(), &certificate);
    let client = Client::new();
    let open = async || {
        let connecting = client.connect(format!("wss://{addr}/")).http3().tls(certificate.client.clone());
        soon(connecting.into_future()).await.expect("it is let in")
    };
    let opening = (0..20).map(|_| open());
    let mut all = futures_util::future::join_all(opening).await;
    let ports: std::collections::HashSet<_> =
        handle.sockets().iter().map(|socket| socket.remote_addr()).collect();
    assert_eq!((all.len(), ports.len()), (20, 1));
    let mut reader = all.pop().expect("there are 20");
    for ws in &all {
        // What comes back is not read.
        let _ = timeout(Duration::from_millis(50), async {
            loop {
                ws.send(vec![1; 100_000]).await.expect("it is open");
            }
        })
        .await;
    }
    echoes(&mut reader).await;
    drop(all);
    echoes(&mut reader).await;
    drop(reader);
    soon(async {
        while handle.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn more_websockets_than_a_connection_takes_get_another_one() {
    let certificate = certificate();
    let (addr, handle) = serve(echo(), &certificate);
    let client = Client::new();
    let mut all = Vec::new();
    for _ in 0..130 {
        let connecting = client.connect(format!("wss://{addr}/")).http3().tls(certificate.client.clone());
        all.push(soon(connecting.into_future()).await.expect("it is let in"));
    }
    let ports: std::collections::HashSet<_> =
        handle.sockets().iter().map(|socket| socket.remote_addr()).collect();
    assert_eq!(ports.len(), 2);
}

#[tokio::test]
async fn what_http_3_cannot_do_is_told_before_anything_is_sent() {
    let why = async |connecting: wireline::Connect| {
        soon(connecting.http3().into_future()).await.expect_err("it cannot work").to_string()
    };
    assert!(why(connect("ws://127.0.0.1:9/")).await.contains("only with wss://"));
    assert!(why(connect("wss://127.0.0.1:9/").proxy("http://127.0.0.1:9")).await.contains("proxy"));
    assert!(why(connect("wss://127.0.0.1:9/").over(tokio::io::duplex(1).0)).await.contains("stream"));
    let server = Server::new().http3();
    assert!(
        server.bind("127.0.0.1:0").expect_err("it has no certificate").to_string().contains("certificate")
    );
    let server = Server::new().tls(certificate().server).http3().proxy_protocol(["127.0.0.1"]);
    assert!(server.bind("127.0.0.1:0").expect_err("UDP has none").to_string().contains("PROXY"));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_an_error_of_tls() {
    let (here, elsewhere) = (certificate(), certificate());
    let (addr, _) = serve(echo(), &here);
    let connecting = connect(format!("wss://{addr}/")).http3().tls(elsewhere.client);
    let error = soon(connecting.into_future()).await.expect_err("it is not trusted");
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let connecting = connect(format!("wss://{}/", nobody.local_addr().expect("it is bound")))
        .http3()
        .tls(here.client)
        .handshake_timeout(Duration::from_millis(300));
    let error = soon(connecting.into_future()).await.expect_err("nobody answers");
    assert!(matches!(error, ConnectError::Timeout), "{error}");
}

#[tokio::test]
async fn a_loss_is_a_loss() {
    let certificate = certificate();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = echo().on_close(move |_, close| {
        tell.send(close).expect("it is heard");
        async {}
    });
    let (addr, _) = serve(server, &certificate);
    // A client that resets its stream.
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut stream = peer.request(&websocket(addr)).await;
    assert_eq!(stream.status().await, 200);
    stream.send.reset(0x10c_u32.into()).expect("it is open");
    assert_eq!(soon(told.recv()).await.expect("it is told").code, 1006);
    // One whose whole connection goes.
    let mut stream = peer.request(&websocket(addr)).await;
    assert_eq!(stream.status().await, 200);
    peer.quic.close(0u32.into(), b"");
    let close = soon(told.recv()).await.expect("it is told");
    assert_eq!(close.code, 1006);
    assert!(matches!(close.cause, Some(CloseCause::Transport(_))), "{close:?}");
}

/// A client made of quinn and bytes, to say what ours never would.
struct Peer {
    quic: quinn::Connection,
    control: Option<quinn::SendStream>,
}

impl Peer {
    async fn connect(addr: SocketAddr, certificate: &Certificate) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der.clone()).expect("it is a certificate");
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("they are known")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let tls = QuicClientConfig::try_from(tls).expect("it has TLS 1.3");
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port is free");
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connecting = endpoint.connect_with(config, addr, "localhost").expect("it is an address");
        Self { quic: soon(connecting).await.expect("it speaks QUIC"), control: None }
    }

    /// Opens the control stream, with empty SETTINGS.
    async fn greet(&mut self) {
        let control = self.unidirectional(&[0x00, 0x04, 0x00]).await;
        self.control = Some(control);
    }

    async fn unidirectional(&self, bytes: &[u8]) -> quinn::SendStream {
        let mut stream = soon(self.quic.open_uni()).await.expect("it is open");
        stream.write_all(bytes).await.expect("it is open");
        stream
    }

    async fn stream(&self, bytes: &[u8]) -> PeerStream {
        let (mut send, recv) = soon(self.quic.open_bi()).await.expect("it is open");
        send.write_all(bytes).await.expect("it is open");
        PeerStream { send, recv }
    }

    async fn request(&self, head: &[(&str, &str)]) -> PeerStream {
        self.stream(&frame(0x01, &section(head))).await
    }

    /// The error code with which the server ends the connection.
    async fn closed(&self) -> u64 {
        match soon(self.quic.closed()).await {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into(),
            other => panic!("{other}"),
        }
    }
}

struct PeerStream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl PeerStream {
    /// The frame that comes next.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 2];
        soon(self.recv.read_exact(&mut header)).await.expect("a frame comes");
        let len = match header[1] {
            len @ 0..0x40 => usize::from(len),
            len @ 0x40..0x80 => {
                let mut low = [0];
                self.recv.read_exact(&mut low).await.expect("the length is whole");
                usize::from(len & 0x3f) << 8 | usize::from(low[0])
            }
            _ => panic!("that much is not sent here"),
        };
        let mut payload = vec![0; len];
        soon(self.recv.read_exact(&mut payload)).await.expect("the frame is whole");
        (header[0], payload)
    }

    async fn head(&mut self) -> Vec<(String, String)> {
        let (kind, payload) = self.frame().await;
        assert_eq!(kind, 0x01);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
        let decoded = qpack::decode_stateless(&mut &*payload, 1 << 16).expect("it is valid");
        decoded.fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
    }

    async fn status(&mut self) -> u16 {
        let head = self.head().await;
        let (name, status) = &head[0];
        assert_eq!(name, ":status");
        assert!(head.iter().all(|(name, _)| name != "connection" && name != "upgrade"), "{head:?}");
        status.parse().expect("it is a number")
    }

    /// The error code with which the server ends the stream.
    async fn reset(&mut self) -> u64 {
        match soon(self.recv.read_to_end(1 << 20)).await {
            Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code.into(),
            other => panic!("{other:?}"),
        }
    }

    /// A text goes there and back.
    async fn echoes(&mut self) {
        let text = Frame::text("still there").sent_by(Role::Client);
        self.send.write_all(&frame(0x00, &text)).await.expect("it is open");
        assert_eq!(self.frame().await, (0x00, Frame::text("still there").bytes()));
    }
}

fn integer(buffer: &mut BytesMut, value: usize) {
    match value {
        0..0x40 => buffer.put_uint(value as u64, 1),
        0x40..0x4000 => buffer.put_uint(value as u64 | 0x4000, 2),
        _ => buffer.put_uint(value as u64 | 0x8000_0000, 4),
    }
}

fn frame(kind: usize, payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    integer(&mut frame, kind);
    integer(&mut frame, payload.len());
    frame.put_slice(payload);
    frame
}

fn section(fields: &[(&str, &str)]) -> BytesMut {
    let mut section = BytesMut::new();
    let fields = fields.iter().map(|(name, value)| HeaderField::new(*name, *value));
    qpack::encode_stateless(&mut section, fields).expect("it can be encoded");
    section
}

/// A whole extended CONNECT.
fn websocket(addr: SocketAddr) -> Vec<(&'static str, &'static str)> {
    let authority: &'static str = format!("localhost:{}", addr.port()).leak();
    vec![
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", "/"),
        ("sec-websocket-version", "13"),
    ]
}

/// A request that does not ask for a WebSocket.
fn plain(addr: SocketAddr, method: &'static str) -> Vec<(&'static str, &'static str)> {
    with(&without(&without(&websocket(addr), ":protocol"), "sec-websocket-version"), ":method", method)
}

fn without(head: &[(&'static str, &'static str)], name: &str) -> Vec<(&'static str, &'static str)> {
    head.iter().copied().filter(|(known, _)| *known != name).collect()
}

fn with(
    head: &[(&'static str, &'static str)],
    name: &'static str,
    value: &'static str,
) -> Vec<(&'static str, &'static str)> {
    let mut changed = without(head, name);
    if name.starts_with(':') {
        changed.insert(0, (name, value));
    } else {
        changed.push((name, value));
    }
    changed
}

const MESSAGE_ERROR: u64 = 0x10e;

#[tokio::test]
async fn what_is_wrong_with_a_request_has_its_answer_and_harms_no_other_stream() {
    let certificate = certificate();
    let (addr, _) = serve(echo(), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let good = websocket(addr);
    let mut other = peer.request(&good).await;
    assert_eq!(other.status().await, 200);
    for (head, status) in [
        (with(&good, ":protocol", "webtransport"), 501),
        (with(&good, "sec-websocket-version", "8"), 426),
        (without(&good, "sec-websocket-version"), 426),
        (with(&good, "origin", "https://evil.example"), 403),
        (with(&good, "sec-websocket-protocol", "a b"), 400),
        (with(&good, "content-length", "5"), 400),
        // A plain CONNECT: this is no proxy.
        (without(&without(&without(&good, ":protocol"), ":scheme"), ":path"), 501),
        (plain(addr, "GET"), 404),
        (plain(addr, "POST"), 405),
    ] {
        let mut stream = peer.request(&head).await;
        stream.send.finish().expect("it is open");
        assert_eq!(stream.status().await, status, "{head:?}");
        other.echoes().await;
    }
    let repeated = [&good[..], &[(":path", "/twice")]].concat();
    let behind = [&good[..1], &[("x-field", "1")], &good[1..]].concat();
    for head in [
        without(&good, ":protocol"),
        without(&good, ":scheme"),
        without(&good, ":path"),
        without(&good, ":authority"),
        without(&good, ":method"),
        with(&good, ":method", "GET"),
        with(&good, ":path", ""),
        with(&good, ":authority", "a b"),
        with(&good, ":unknown", "x"),
        with(&good, ":status", "200"),
        with(&good, "host", "elsewhere.example"),
        with(&good, "connection", "upgrade"),
        with(&good, "upgrade", "websocket"),
        with(&good, "transfer-encoding", "chunked"),
        with(&good, "te", "gzip"),
        with(&good, "X-Upper", "1"),
        with(&good, "x-value", "a\r\nb: c"),
        repeated,
        behind,
    ] {
        let mut stream = peer.request(&head).await;
        assert_eq!(stream.reset().await, MESSAGE_ERROR, "{head:?}");
        other.echoes().await;
    }
    // Too long, and with too many fields: told as over HTTP/1.1.
    let long: &'static str = "x".repeat(70_000).leak();
    let mut many = good.clone();
    many.extend((0..130).map(|n| (&*format!("x-{n}").leak(), "1")));
    for head in [with(&good, "x-long", long), many] {
        let mut stream = peer.request(&head).await;
        assert_eq!(stream.status().await, 431);
        other.echoes().await;
    }
    let mut stream = peer.request(&with(&good, ":path", format!("/{}", "x".repeat(9_000)).leak())).await;
    assert_eq!(stream.status().await, 414);
    // A stream that ends, or is reset, without a head.
    let mut stream = peer.stream(&[]).await;
    stream.send.finish().expect("it is open");
    assert_eq!(stream.reset().await, 0x10d);
    let mut stream = peer.stream(&[0x01, 0x20, 0x00]).await;
    stream.send.reset(0x10c_u32.into()).expect("it is open");
    other.echoes().await;
}

#[tokio::test]
async fn frames_that_mean_nothing_are_skipped_and_cost_nothing() {
    let certificate = certificate();
    let (addr, _) = serve(echo(), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let good = websocket(addr);
    // One of a kind nobody knows comes first, and a stream of a kind nobody knows.
    let _unknown = peer.unidirectional(&[0x40, 0x54, 1, 2, 3]).await;
    let head = [&frame(0x21, &[0; 100_000])[..], &frame(0x01, &section(&good))].concat();
    let mut stream = peer.stream(&head).await;
    assert_eq!(stream.status().await, 200);
    // Empty DATA is no end of the stream, and a frame may be cut anywhere.
    for _ in 0..5_000 {
        stream.send.write_all(&[0x00, 0x00]).await.expect("it is open");
    }
    stream.send.write_all(&frame(0x21, b"grease")).await.expect("it is open");
    let text = Frame::text("piece by piece").sent_by(Role::Client);
    for byte in &text {
        stream.send.write_all(&frame(0x00, &[*byte])).await.expect("it is open");
    }
    assert_eq!(stream.frame().await, (0x00, Frame::text("piece by piece").bytes()));
    stream.echoes().await;
}

#[tokio::test]
async fn a_close_frame_is_answered_though_the_stream_has_ended_behind_it() {
    let certificate = certificate();
    let (addr, _) = serve(echo(), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut stream = peer.request(&websocket(addr)).await;
    assert_eq!(stream.status().await, 200);
    // In one packet, as Chromium does it.
    let close = frame(0x00, &Frame::close(4001, "done").sent_by(Role::Client));
    stream.send.write_all(&close).await.expect("it is open");
    stream.send.finish().expect("it is open");
    assert_eq!(stream.frame().await, (0x00, Frame::close(4001, "done").bytes()));
    let rest = soon(stream.recv.read_to_end(1)).await.expect("it ends well");
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn who_breaks_the_rules_of_the_connection_loses_it() {
    let certificate = certificate();
    let (addr, handle) = serve(echo(), &certificate);
    let good = frame(0x01, &section(&websocket(addr)));
    let (control, streams): (&[&[u8]], _) = (&[&[0x00, 0x04, 0x00]], Vec::<BytesMut>::new());
    let tunnel = |more: &[u8]| vec![BytesMut::from(&*[&good, more].concat())];
    for (unidirectional, streams, code) in [
        // The control stream: twice, without SETTINGS, with a frame that is not its own, ended.
        (&[&[0x00, 0x04, 0x00][..], &[0x00, 0x04, 0x00]][..], streams.clone(), 0x103),
        (&[&[0x00, 0x07, 0x01, 0x00]], streams.clone(), 0x10a),
        (&[&[0x00, 0x04, 0x00, 0x04, 0x00]], streams.clone(), 0x105),
        (&[&[0x00, 0x04, 0x00, 0x00, 0x00]], streams.clone(), 0x105),
        (&[&[0x00, 0x04, 0x00, 0x06, 0x00]], streams.clone(), 0x105),
        (&[&[0x00, 0x04, 0x02, 0x08, 0x05]], streams.clone(), 0x109),
        (&[&[0x00, 0x04, 0x7f, 0xff]], streams.clone(), 0x107),
        // A push, and instructions for a table that is not there.
        (&[&[0x01, 0x00]], streams.clone(), 0x103),
        (&[&[0x02, 0x3f, 0xe1, 0x1f]], streams.clone(), 0x201),
        // A request's stream.
        (control, vec![frame(0x00, b"data first")], 0x105),
        (control, vec![frame(0x04, b"")], 0x105),
        (control, vec![frame(0x05, b"")], 0x105),
        (control, vec![frame(0x08, b"")], 0x105),
        (control, vec![frame(0x01, &[0x05, 0x00, 0x80])], 0x200),
        (control, vec![frame(0x01, &[0xff; 40])], 0x200),
        (control, tunnel(&good), 0x105),
        (control, tunnel(&frame(0x0d, &[0])), 0x105),
    ] {
        let mut peer = Peer::connect(addr, &certificate).await;
        for bytes in unidirectional {
            let stream = peer.unidirectional(bytes).await;
            peer.control.get_or_insert(stream);
        }
        let mut open = Vec::new();
        for bytes in &streams {
            open.push(peer.stream(bytes).await);
        }
        assert_eq!(peer.closed().await, code, "{unidirectional:02x?} {streams:02x?}");
    }
    // A control stream that ends, and a frame that does.
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    peer.control.take().expect("it was opened").finish().expect("it is open");
    assert_eq!(peer.closed().await, 0x104);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut stream = peer.stream(&[&good[..], &[0x00, 0x05, 0x81]].concat()).await;
    stream.send.finish().expect("it is open");
    assert_eq!(peer.closed().await, 0x106);
    soon(async {
        while handle.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_asks_for_nothing_is_cut_after_the_handshakes_timeout() {
    let certificate = certificate();
    let (addr, _) = serve(echo().handshake_timeout(Duration::from_millis(300)), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    assert_eq!(peer.closed().await, 0x100);
    // Half a head is no better.
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut stream = peer.stream(&[0x01, 0x20, 0x00]).await;
    assert_eq!(stream.reset().await, 0x10d);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_by_the_thousand_harm_nobody() {
    let certificate = certificate();
    let (addr, handle) = serve(echo(), &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut other = peer.request(&websocket(addr)).await;
    assert_eq!(other.status().await, 200);
    for n in 0..3_000 {
        let mut stream = peer.request(&websocket(addr)).await;
        stream.send.reset(0x10c_u32.into()).expect("it is open");
        stream.recv.stop(0x10c_u32.into()).expect("it is open");
        if n % 500 == 0 {
            other.echoes().await;
        }
    }
    other.echoes().await;
    soon(async {
        while handle.connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_sender_up_and_nobody_else() {
    let certificate = certificate();
    let server = Server::new().route("/flood", |req: Request| async move {
        let ws = req.accept().await?;
        for _ in 0..10_000 {
            ws.send(vec![0; 50_000]).await?;
        }
        Ok(())
    });
    let server = server.route("/echo", |req: Request| async move {
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    });
    let (addr, handle) = serve(server, &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut flooded = peer.request(&with(&websocket(addr), ":path", "/flood")).await;
    assert_eq!(flooded.status().await, 200);
    let mut other = peer.request(&with(&websocket(addr), ":path", "/echo")).await;
    assert_eq!(other.status().await, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.echoes().await;
    let buffered: usize = handle.sockets().iter().map(|socket| socket.buffered_amount()).sum();
    assert!(buffered < 200_000, "{buffered}");
}

#[tokio::test]
async fn ordinary_requests_are_answered_with_their_bodies() {
    let certificate = certificate();
    let server = Server::new().on_http(|request| async move {
        Response::new(
            format!("{} {} {}", request.method(), request.uri().path(), request.body().len()).into(),
        )
    });
    let (addr, _) = serve(server, &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let head = plain(addr, "POST");
    let body = [0; 40_000];
    let request = [
        &frame(0x01, &section(&head))[..],
        &frame(0x00, &body),
        &frame(0x21, b"?"),
        &frame(0x00, &body[..500]),
        // Trailers.
        &frame(0x01, &section(&[("x-sum", "1")])),
    ];
    let mut stream = peer.stream(&request.concat()).await;
    stream.send.finish().expect("it is open");
    assert_eq!(stream.status().await, 200);
    assert_eq!(stream.frame().await, (0x00, b"POST / 40500".to_vec()));
    // More than is taken of a body.
    let request = [&frame(0x01, &section(&head))[..], &frame(0x00, &[0; 70_000])];
    let mut stream = peer.stream(&request.concat()).await;
    assert_eq!(stream.status().await, 413);
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let certificate = certificate();
    let server = Server::new().on_http(|_| async { Response::new("a whole page".into()) });
    let (addr, _) = serve(server, &certificate);
    let mut peer = Peer::connect(addr, &certificate).await;
    peer.greet().await;
    let mut stream = peer.request(&plain(addr, "HEAD")).await;
    stream.send.finish().expect("it is open");
    let head = stream.head().await;
    let field = |name: &str| head.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    assert_eq!((field(":status"), field("content-length")), (Some("200"), Some("12")));
    assert!(field("date").is_some_and(|date| date.ends_with("GMT")), "{head:?}");
    let rest = soon(stream.recv.read_to_end(100)).await.expect("it ends well");
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_client_proves_itself_over_quic_too_and_who_does_not_is_told() {
    let (here, them) = (certificate(), certificate());
    let names = ["client".to_owned()];
    let client = rcgen::generate_simple_self_signed(names).expect("the name is one");
    let (cert, key) = (client.cert.pem(), client.signing_key.serialize_pem());
    let expected = bytes::Bytes::copy_from_slice(client.cert.der());
    let server = Server::new().on_request(move |req: Request| {
        let is_expected = req.peer_certificates() == [expected.clone()];
        async move {
            let ws = req.accept().await?;
            ws.send(is_expected.to_string()).await?;
            ws.closed().await;
            Ok(())
        }
    });
    let tls = here.server.clone().client_ca_pem(cert.as_bytes()).expect("it is a certificate");
    let listener = server.tls(tls).http3().bind("127.0.0.1:0").expect("a port is free");
    let url = format!("wss://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());
    let proved = here.client.clone().client_certificate_pem(cert.as_bytes(), key.as_bytes());
    let connecting = connect(&url).http3().tls(proved.expect("they go together"));
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("true")));
    for (tls, says) in [(here.client, "give one and its key"), (them.client, "invalid peer certificate")] {
        let error = soon(connect(&url).http3().tls(tls).into_future()).await.expect_err("it is refused");
        assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
