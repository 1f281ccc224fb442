//! `wss://` with certificates made for the test.

use std::{
    future::{Future, IntoFuture as _},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use wireline::{
    ClientTls, CloseCode, Config, ConnectError, Message, Request, Server, ServerTls, WebSocket, connect,
};
use wireline_proto::Role;
use wireline_testkit::{Frame, RawPeer, accept_value, drop_after};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// As PEM: a certificate authority, a certificate for `name` that it vouches for, and that one's key.
fn authority_certificate_and_key(name: &str) -> [String; 3] {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("the system has random bytes");
    let authority = CertifiedIssuer::self_signed(params, key).expect("it can be signed");
    let key = KeyPair::generate().expect("the system has random bytes");
    let certificate = CertificateParams::new([name.to_owned()])
        .expect("the name is one")
        .signed_by(&key, &authority)
        .expect("it can be signed");
    [authority.pem(), certificate.pem(), key.serialize_pem()]
}

/// A certificate authority, as PEM, and a server's side for `name` that it vouches for.
fn authority_and_server(name: &str) -> (String, ServerTls) {
    let [authority, certificate, key] = authority_certificate_and_key(name);
    let tls = ServerTls::from_pem(certificate.as_bytes(), key.as_bytes());
    (authority, tls.expect("certificate and key go together"))
}

fn echo() -> Server {
    Server::new().config(Config::server().max_message_size(16 << 20)).on_request(|req: Request| async move {
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

fn trusting(authority: &str) -> ClientTls {
    ClientTls::with_ca_pem(authority.as_bytes()).expect("it is a certificate")
}

async fn there_and_back(ws: &mut WebSocket, message: Message) {
    ws.send(message.clone()).await.expect("it is open");
    let back = soon(ws.recv()).await.expect("it is open").expect("it is open");
    assert!(back == message, "{} bytes came back changed", back.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_come_back_over_tls_and_the_close_is_clean() {
    let (authority, tls) = authority_and_server("localhost");
    let port = listen(&echo().tls(tls)).port();
    let connecting = connect(format!("wss://localhost:{port}/")).tls(trusting(&authority));
    let mut ws = soon(connecting.into_future()).await.expect("the certificate is trusted");
    there_and_back(&mut ws, "My name is John".into()).await;
    for len in [0, 16_383, 16_384, 16_385, 65_536, 1 << 20, 8 << 20] {
        there_and_back(&mut ws, vec![7; len].into()).await;
    }
    assert!(soon(ws.ping()).await.is_ok());
    ws.close_with(4000, "done").expect("it can be sent");
    let close = soon(ws.closed()).await;
    assert!(close.was_clean && close.code == 4000, "{close}");
}

#[tokio::test]
async fn an_address_is_a_name_too() {
    let (authority, tls) = authority_and_server("127.0.0.1");
    let addr = listen(&echo().tls(tls));
    let mut ws = soon(connect(format!("wss://{addr}/")).tls(trusting(&authority)).into_future())
        .await
        .expect("the certificate is trusted");
    there_and_back(&mut ws, "there".into()).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() {
    let (authority, tls) = authority_and_server("other.example");
    let (stranger, _) = authority_and_server("localhost");
    let addr = listen(&echo().tls(tls));
    for (why, url, authority) in [
        ("another name", format!("wss://localhost:{}/", addr.port()), &authority),
        ("an address", format!("wss://{addr}/"), &authority),
        ("an unknown authority", format!("wss://localhost:{}/", addr.port()), &stranger),
    ] {
        let error = soon(connect(url).tls(trusting(authority)).into_future()).await.expect_err(why);
        assert!(matches!(error, ConnectError::Tls { .. }), "{why}: {error}");
    }
}

#[tokio::test]
async fn plain_and_tls_do_not_mix_and_the_server_lives_on() {
    let (authority, tls) = authority_and_server("localhost");
    let secure = listen(&echo().tls(tls));
    let error = soon(connect(format!("ws://{secure}/")).into_future()).await.expect_err("it wants TLS");
    assert!(matches!(error, ConnectError::Http(_)), "{error}");
    let plain = listen(&echo());
    let url = |addr: SocketAddr| format!("wss://localhost:{}/", addr.port());
    let error =
        soon(connect(url(plain)).tls(trusting(&authority)).into_future()).await.expect_err("it has no TLS");
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    soon(connect(url(secure)).tls(trusting(&authority)).into_future()).await.expect("the server lives on");
    soon(connect(format!("ws://{plain}/")).into_future()).await.expect("the server lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_under_way_both_ways_arrive_in_order() {
    const COUNT: u32 = 5000;
    let (authority, tls) = authority_and_server("localhost");
    let port = listen(&echo().tls(tls)).port();
    let connecting = connect(format!("wss://localhost:{port}/")).tls(trusting(&authority));
    let mut ws = soon(connecting.into_future()).await.expect("the certificate is trusted");
    let socket = ws.socket();
    let sender = tokio::spawn(async move {
        for number in 0..COUNT {
            let mut payload = vec![0; 4 + number as usize % 3000];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            socket.send(payload).await.expect("it is open");
        }
    });
    for number in 0..COUNT {
        let message = soon(ws.recv()).await.expect("it is open").expect("it is open");
        assert_eq!(message.as_bytes()[..4], number.to_be_bytes());
        assert_eq!(message.len(), 4 + number as usize % 3000);
    }
    soon(sender).await.expect("no panic");
    drop(ws);
}

#[tokio::test]
async fn a_handler_that_ends_says_so_over_tls() {
    let (authority, tls) = authority_and_server("localhost");
    let server = Server::new().tls(tls).on_request(|req: Request| async move {
        req.accept().await?.send("bye").await?;
        Ok(())
    });
    let port = listen(&server).port();
    let connecting = connect(format!("wss://localhost:{port}/")).tls(trusting(&authority));
    let mut ws = soon(connecting.into_future()).await.expect("the certificate is trusted");
    assert_eq!(soon(ws.recv()).await.expect("clean"), Some("bye".into()));
    assert_eq!(soon(ws.recv()).await.expect("clean"), None);
    assert_eq!(soon(ws.closed()).await.code, CloseCode::NORMAL);
}

/// Where the client in a child process connects to.
const CHILDS_URL: &str = "WIRELINE_TEST_URL";

/// Its roots come from the environment, which a test must not change in its own process.
#[tokio::main(flavor = "current_thread")]
async fn connect_with_the_systems_roots() {
    let url = std::env::var(CHILDS_URL).expect("the parent names a URL");
    let mut ws = match soon(connect(url).into_future()).await {
        Ok(ws) => ws,
        Err(error) => return eprintln!("no connection: {error}"),
    };
    there_and_back(&mut ws, "there".into()).await;
    eprintln!("there and back");
}

#[test]
#[ignore = "the client of the test below, in its own process"]
fn the_client_of_a_child_process() {
    connect_with_the_systems_roots();
}

/// What a client says that connects to `url` where the system's roots are those in `roots`.
async fn said_by_a_client_with_roots(roots: &Path, url: &str) -> String {
    let mut client = Command::new(std::env::current_exe().expect("this binary has a path"));
    client
        .args(["--ignored", "--exact", "the_client_of_a_child_process", "--nocapture"])
        .env("SSL_CERT_FILE", roots)
        .env_remove("SSL_CERT_DIR")
        .env(CHILDS_URL, url);
    let ended = tokio::task::spawn_blocking(move || client.output());
    let output = soon(ended).await.expect("no panic").expect("this binary runs again");
    String::from_utf8(output.stderr).expect("it is text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_trusts_the_systems_roots_and_nobody_else() {
    let (authority, tls) = authority_and_server("localhost");
    let (stranger, _) = authority_and_server("localhost");
    let url = format!("wss://localhost:{}/", listen(&echo().tls(tls)).port());
    let roots = std::env::temp_dir().join(format!("wireline-roots-{}.pem", std::process::id()));
    for (authorities, expected) in [
        (authority.clone(), "there and back"),
        (format!("{stranger}{authority}"), "there and back"),
        (stranger, "no connection: TLS with localhost failed: invalid peer certificate"),
        (String::new(), "no connection: no trusted root certificates were found"),
    ] {
        std::fs::write(&roots, authorities).expect("the directory is there");
        let said = said_by_a_client_with_roots(&roots, &url).await;
        assert!(said.contains(expected), "{said:?} should have {expected:?}");
    }
    std::fs::remove_file(&roots).expect("it was written");
}

/// A server that reads and never says anything: where it is, and all that its one client sent.
fn silent_server() -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("wss://{}/", listener.local_addr().expect("it is bound"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the client closes its socket");
        bytes
    });
    (url, server)
}

/// What a client sent to a TLS server that it gave up after `timeout`: its ClientHello.
async fn client_hello(timeout: Duration) -> Vec<u8> {
    let (authority, _) = authority_and_server("localhost");
    let (url, server) = silent_server();
    let connecting = connect(url).tls(trusting(&authority)).handshake_timeout(timeout);
    let error = soon(connecting.into_future()).await.expect_err("nothing came");
    assert!(matches!(error, ConnectError::Timeout), "{error}");
    let sent = soon(tokio::task::spawn_blocking(|| server.join())).await;
    sent.expect("no panic").expect("the socket is closed")
}

#[tokio::test]
async fn a_tls_server_that_never_answers_is_given_up_at_the_deadline_and_its_socket_closed() {
    let timeout = Duration::from_millis(300);
    let start = Instant::now();
    let hello = client_hello(timeout).await;
    let elapsed = start.elapsed();
    assert!(elapsed >= timeout && elapsed < Duration::from_secs(5), "given up after {elapsed:?}");
    assert_eq!(hello[..2], [0x16, 0x03], "a TLS handshake began");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_finish_the_tls_handshake_is_dropped_at_its_timeout_while_others_are_served() {
    let timeout = Duration::from_millis(500);
    let hello = client_hello(Duration::from_millis(50)).await;
    let (authority, tls) = authority_and_server("localhost");
    let addr = listen(&echo().tls(tls).handshake_timeout(timeout));
    let start = Instant::now();
    let mut peers = [&hello[..0], &hello[..1], &hello[..hello.len() / 2], &hello[..]].map(|begun| {
        let mut peer = RawPeer::dial(addr);
        peer.send_bytes(begun);
        peer
    });
    let url = format!("wss://localhost:{}/", addr.port());
    let mut ws = soon(connect(url).tls(trusting(&authority)).into_future()).await.expect("it is served");
    there_and_back(&mut ws, "meanwhile".into()).await;
    for peer in &mut peers {
        let _ = peer.read_to_end();
        assert!(start.elapsed() >= timeout, "dropped after only {:?}", start.elapsed());
    }
    there_and_back(&mut ws, "afterwards".into()).await;
}

/// A way to `addr` for one client, on which nothing comes back until the sender says so.
fn held_back(addr: SocketAddr) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let way = listener.local_addr().expect("it is bound");
    let (release, released) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client connects");
        let mut server = TcpStream::connect(addr).expect("the server listens");
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = released.recv();
        std::io::copy(&mut server, &mut client)
    });
    (way, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_handshake_under_way_at_shutdown_does_not_become_a_connection() {
    let (authority, tls) = authority_and_server("localhost");
    let server = echo().tls(tls);
    let (way, release) = held_back(listen(&server));
    let url = format!("wss://localhost:{}/", way.port());
    let connecting = tokio::spawn(connect(url).tls(trusting(&authority)).into_future());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let drained = soon(server.handle().shutdown(Duration::from_secs(5))).await;
    assert_eq!((drained.connections, drained.cut), (0, 0));
    release.send(()).expect("the way is there");
    match soon(connecting).await.expect("no panic").expect_err("the server is shut down") {
        ConnectError::Rejected(response) => assert_eq!(response.status(), 503),
        error => assert!(matches!(error, ConnectError::Http(_)), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_over_tls_that_is_dropped_at_any_poll_leaves_no_connection() {
    let (authority, tls) = authority_and_server("localhost");
    let server = echo().tls(tls);
    let url = format!("wss://localhost:{}/", listen(&server).port());
    let mut ws = soon(async {
        for polls in 0.. {
            let attempt = connect(&url).tls(trusting(&authority)).into_future();
            if let Some(connected) = drop_after(polls, attempt).await {
                return connected.expect("the certificate is trusted");
            }
        }
        unreachable!("an attempt takes so many polls and no more")
    })
    .await;
    there_and_back(&mut ws, "there".into()).await;
    soon(async {
        while server.handle().connections() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The stream of a TLS peer of bytes. Such a peer tells the end of TLS (`close_notify`) from a stream that was
/// merely cut: reading to the end fails on that.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket can be set up");
    stream
}

fn raw_tls_server(certificate: &str, key: &str) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("it is PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.expect("certificate and key go together"))
}

fn raw_tls_client(addr: SocketAddr, authority: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).expect("it is PEM");
    roots.add(authority).expect("it is a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("it is a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("it is set up");
    let stream = TcpStream::connect(addr).expect("the server listens");
    let mut peer = StreamOwned::new(session, patient(stream));
    peer.write_all(&RawPeer::request_head("")).expect("the server reads");
    let head = read_head(&mut peer);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    peer
}

fn read_head(peer: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).expect("a head comes");
        head.extend(byte);
    }
    String::from_utf8(head).expect("it is text")
}

fn send(peer: &mut impl Write, frame: &Frame, role: Role) {
    peer.write_all(&frame.sent_by(role)).expect("the other end reads");
}

#[track_caller]
fn expect(peer: &mut impl Read, frame: &Frame) {
    let mut bytes = vec![0; frame.bytes().len()];
    peer.read_exact(&mut bytes).expect("a frame comes");
    assert!(bytes == frame.bytes(), "other bytes came than {:x?}", frame.header());
}

#[track_caller]
fn expect_clean_end(peer: &mut impl Read) {
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("TLS ends before the stream does");
    assert_eq!(rest, b"", "behind the Close frame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_tls_behind_its_close_frame_whoever_began() {
    let (authority, tls) = authority_and_server("localhost");
    let last_words = vec![7; 4 << 20];
    let server = Server::new().tls(tls).on_request({
        let last_words = last_words.clone();
        move |req: Request| {
            let last_words = last_words.clone();
            async move {
                let mut ws = req.accept().await?;
                // The first message is answered with the last words.
                if ws.recv().await?.is_some() {
                    ws.send(last_words).await?;
                }
                Ok(())
            }
        }
    });
    let addr = listen(&server);
    let peers = tokio::task::spawn_blocking(move || {
        // The peer closes.
        let mut peer = raw_tls_client(addr, &authority);
        send(&mut peer, &Frame::close(4000, "done"), Role::Client);
        expect(&mut peer, &Frame::close(4000, "done"));
        expect_clean_end(&mut peer);
        // The server does, and the peer takes its time with what comes before.
        let mut peer = raw_tls_client(addr, &authority);
        send(&mut peer, &Frame::text("?"), Role::Client);
        std::thread::sleep(Duration::from_millis(200));
        expect(&mut peer, &Frame::binary(last_words));
        expect(&mut peer, &Frame::close(1000, ""));
        send(&mut peer, &Frame::close(1000, ""), Role::Client);
        expect_clean_end(&mut peer);
        // The peer breaks a rule.
        let mut peer = raw_tls_client(addr, &authority);
        send(&mut peer, &Frame::ping("").more(), Role::Client);
        expect(&mut peer, &Frame::close(1002, ""));
        expect_clean_end(&mut peer);
    });
    peers.await.expect("the peers are content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ends_tls_behind_its_close_frame_whoever_began() {
    let [authority, certificate, key] = authority_certificate_and_key("localhost");
    let config = raw_tls_server(&certificate, &key);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("wss://localhost:{}/", listener.local_addr().expect("it is bound").port());
    let server = std::thread::spawn(move || {
        let accept = || {
            let session = ServerConnection::new(Arc::clone(&config)).expect("it is set up");
            let (stream, _) = listener.accept().expect("a client connects");
            let mut peer = StreamOwned::new(session, patient(stream));
            let head = read_head(&mut peer);
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let accept = accept_value(key.expect("there is a key"));
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            peer.write_all(answer.as_bytes()).expect("the client reads");
            peer
        };
        for frame in [Frame::close(4000, "done"), Frame::ping("").more()] {
            let mut peer = accept();
            send(&mut peer, &frame, Role::Server);
            let mut answer = vec![];
            peer.read_to_end(&mut answer).expect("TLS ends before the stream does");
            assert_eq!(Frame::read_all(&answer)[0].opcode, 0x8);
        }
        let mut peer = accept();
        let mut header = [0; 6];
        peer.read_exact(&mut header).expect("a Close frame comes");
        assert_eq!(header[..2], [0x88, 0x82]);
        peer.read_exact(&mut header[..2]).expect("with a code");
        send(&mut peer, &Frame::close(1000, ""), Role::Server);
        expect_clean_end(&mut peer);
    });
    for (closes, code) in [(false, 4000), (false, 1006), (true, 1000)] {
        let connecting = connect(&url).tls(trusting(&authority)).into_future();
        let ws = soon(connecting).await.expect("the certificate is trusted");
        if closes {
            ws.close_with(CloseCode::NORMAL, "").expect("it can be sent");
        }
        assert_eq!(soon(ws.closed()).await.code, code);
    }
    soon(tokio::task::spawn_blocking(|| server.join()))
        .await
        .expect("no panic")
        .expect("the server is content");
}
