//! WebSockets over HTTP/2 (RFC 8441): the same on either end.

use std::{
    convert::Infallible,
    future::{Future, IntoFuture as _},
    time::Duration,
};

use http::{Method, Request as HttpRequest, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{client::conn::http2, ext::Protocol, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use wireline::{
    Body, Client, ClientTls, CloseCause, Config, ConnectError, Deflate, Message, Request, Server,
    ServerHandle, ServerTls, SetCookie, WebSocket, connect,
    testing::{self, Network},
};

/// Time enough for anything: most of it is virtual.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(600), future).await.expect("this takes too long")
}

fn echo() -> Server {
    Server::new().cleartext_http2().on_message(|socket, message| async move {
        socket.send(message).await?;
        Ok(())
    })
}

async fn open(connecting: wireline::Connect) -> WebSocket {
    soon(connecting.into_future()).await.expect("it is let in")
}

async fn echoes(ws: &mut WebSocket) {
    for message in [Message::from("over HTTP/2"), Message::from(vec![7; 700_000]), Message::from("")] {
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_as_over_http_1() {
    let server = Server::new().cleartext_http2().config(Config::server().deflate(Deflate::server())).route(
        "/chat/{room}",
        |req: Request| async move {
            assert_eq!((req.host(), req.origin()), ("test.example", Some("http://test.example")));
            let room = req.param("room").unwrap_or_default().to_owned();
            assert_eq!((&*room, req.query(), req.header("X-Token")), ("tea", Some("a=b"), Some("1234")));
            let accept = req.accept().protocol("v2").header("X-Node", "7").cookie(SetCookie::new("a", "b"));
            let mut ws = accept.await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        },
    );
    let connecting = testing::connect(&server, "ws://test.example/chat/tea?a=b")
        .http2()
        .protocols(["v1", "v2"])
        .origin("http://test.example")
        .header("X-Token", "1234");
    let mut ws = open(connecting).await;
    assert_eq!(ws.protocol(), Some("v2"));
    assert!(ws.extensions().starts_with("permessage-deflate"), "{}", ws.extensions());
    let headers = ws.response_headers().expect("it is a client");
    assert_eq!(
        (headers["x-node"].as_bytes(), headers["set-cookie"].as_bytes().starts_with(b"a=b")),
        (&b"7"[..], true)
    );
    echoes(&mut ws).await;
    ws.ping().await.expect("it is driven");
    ws.close_with(4001, "done").expect("it can be sent");
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    let close = soon(ws.closed()).await;
    assert_eq!((close.code, &*close.reason, close.was_clean), (4001.into(), "done", true));
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_and_the_client_learns_the_code() {
    let server = Server::new().cleartext_http2().on_request(|req: Request| async move {
        let ws = req.accept().await?;
        ws.send("last words").await?;
        ws.close_with(4000, "enough")?;
        ws.closed().await;
        Ok(())
    });
    let mut ws = open(testing::connect(&server, "ws://test.example/").http2()).await;
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("last words")));
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 4000);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_whole() {
    let server = Server::new().cleartext_http2().route("/known", |req: Request| async move {
        req.reject(StatusCode::UNAUTHORIZED).header("WWW-Authenticate", "Bearer").body("who?").await
    });
    for (url, origin, status) in [
        ("ws://test.example/known", None, 401),
        ("ws://test.example/elsewhere", None, 404),
        ("ws://test.example/known", Some("https://evil.example"), 403),
    ] {
        let mut connecting = testing::connect(&server, url).http2();
        if let Some(origin) = origin {
            connecting = connecting.origin(origin);
        }
        match soon(connecting.into_future()).await {
            Err(ConnectError::Rejected(response)) => {
                assert_eq!(response.status(), status);
                assert!(status != 401 || response.body() == "who?", "{response:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_1001_and_waits_and_cuts() {
    let server = echo();
    let handle = server.handle();
    let mut ws = open(testing::connect(&server, "ws://test.example/").http2()).await;
    echoes(&mut ws).await;
    assert_eq!(handle.connections(), 1);
    let (drained, end) =
        soon(async { tokio::join!(handle.shutdown(Duration::from_secs(5)), ws.recv()) }).await;
    assert_eq!((drained.connections, drained.cut), (1, 0));
    assert_eq!(end.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 1001);

    let network = Network::new();
    let server = echo();
    let mut mute = open(network.connect(&server, "ws://test.example/").http2()).await;
    network.stall();
    let drained = soon(server.handle().shutdown(Duration::from_secs(3))).await;
    assert_eq!((drained.connections, drained.cut), (1, 1));
    network.resume();
    soon(mute.recv()).await.expect_err("it was cut");
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_a_loss() {
    let network = Network::new();
    let (server, told) = (echo(), tokio::sync::mpsc::unbounded_channel());
    let (tell, mut told) = told;
    let server = server.on_close(move |_, close| {
        tell.send(close).expect("it is heard");
        async {}
    });
    let mut ws = open(network.connect(&server, "ws://test.example/").http2()).await;
    echoes(&mut ws).await;
    network.reset();
    let error = soon(ws.recv()).await.expect_err("it is lost");
    assert_eq!(error.close_event().code, 1006);
    assert_eq!(soon(told.recv()).await.expect("it is told").code, 1006);

    let mut ws = open(network.connect(&server, "ws://test.example/").http2()).await;
    network.stall();
    let error = soon(ws.recv()).await.expect_err("keepalive finds out");
    assert!(
        matches!(error.close_event().cause, Some(CloseCause::PingTimeout | CloseCause::Transport(_))),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_holds_the_sender_up_and_loses_nothing() {
    let server = Server::new().cleartext_http2().on_request(|req: Request| async move {
        let ws = req.accept().await?;
        for n in 0..200_u8 {
            ws.send(vec![n; 50_000]).await?;
        }
        ws.close();
        ws.closed().await;
        Ok(())
    });
    let handle = server.handle();
    let mut ws = open(testing::connect(&server, "ws://test.example/").http2()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let buffered = handle.sockets()[0].buffered_amount();
    assert!(buffered > 0 && buffered < 200_000, "{buffered}");
    for n in 0..200_u8 {
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from(vec![n; 50_000])));
    }
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

/// A client of hyper's, to ask as ours never would.
async fn raw(server: &Server) -> http2::SendRequest<Empty<bytes::Bytes>> {
    let (ours, theirs) = duplex(1 << 16);
    let server = server.clone();
    tokio::spawn(async move { server.serve_stream(ours, None).await });
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(theirs)).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn extended_connect(protocol: Option<&'static str>) -> http::request::Builder {
    let mut request = HttpRequest::builder().method(Method::CONNECT).uri("http://test.example/chat");
    if let (Some(extensions), Some(protocol)) = (request.extensions_mut(), protocol) {
        extensions.insert(Protocol::from_static(protocol));
    }
    request
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_request_has_its_status_and_harms_no_other_stream() {
    let server = echo();
    let mut sender = raw(&server).await;
    let good = |request: http::request::Builder| request.header("Sec-WebSocket-Version", "13");
    let opened = soon(
        sender
            .send_request(good(extended_connect(Some("websocket"))).body(Empty::new()).expect("it is valid")),
    );
    let opened = opened.await.expect("it is answered");
    assert_eq!(opened.status(), 200);
    let mut stream = TokioIo::new(hyper::upgrade::on(opened).await.expect("it is open"));
    for (request, status) in [
        (good(extended_connect(Some("connect-udp"))), 501),
        (extended_connect(Some("websocket")), 426),
        (extended_connect(Some("websocket")).header("Sec-WebSocket-Version", "8"), 426),
        (good(extended_connect(Some("websocket"))).header("Content-Length", "3"), 400),
        (good(extended_connect(Some("websocket"))).header("Sec-WebSocket-Protocol", "a, a"), 400),
        (good(extended_connect(Some("websocket"))).header("Origin", "https://evil.example"), 403),
        (HttpRequest::get("http://test.example/"), 404),
        (HttpRequest::post("http://test.example/"), 405),
        (
            HttpRequest::get("http://test.example/").header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            426,
        ),
    ] {
        let request = request.body(Empty::new()).expect("it is valid");
        let what = format!("{request:?}");
        match soon(sender.send_request(request)).await {
            Ok(response) => {
                assert_eq!(response.status(), status, "{what}");
                let _ = soon(response.into_body().collect()).await;
            }
            // A stream's error, which a length without a body is to HTTP/2 itself.
            Err(error) => assert!(status == 400 && what.contains("content-length"), "{what}: {error}"),
        }
    }
    // "Hello", as RFC 6455 section 5.7 has it, there and back.
    stream
        .write_all(&[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        .await
        .expect("it is open");
    let mut answer = [0; 7];
    soon(stream.read_exact(&mut answer)).await.expect("it is open");
    assert_eq!(&answer, b"\x81\x05Hello");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_websockets_on_one_connection_and_those_that_do_not_read_hold_up_none() {
    let server = Server::new().cleartext_http2().on_request(|req: Request| async move {
        let path = req.path().to_owned();
        let mut ws = req.accept().await?;
        if path == "/flood" {
            loop {
                ws.send(vec![1; 10_000]).await?;
            }
        }
        if path == "/mute" {
            tokio::time::sleep(Duration::from_secs(120)).await;
            return Ok(());
        }
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    });
    let mut sender = raw(&server).await;
    let mut streams = Vec::new();
    for n in 0..100 {
        let path = match n {
            0 | 1 => "flood",
            2..22 => "mute",
            _ => "echo",
        };
        let request = HttpRequest::builder()
            .method(Method::CONNECT)
            .uri(format!("http://test.example/{path}"))
            .header("Sec-WebSocket-Version", "13")
            .extension(Protocol::from_static("websocket"))
            .body(Empty::new())
            .expect("it is valid");
        let response = soon(sender.send_request(request)).await.expect("it is answered");
        assert_eq!(response.status(), 200);
        streams.push(TokioIo::new(hyper::upgrade::on(response).await.expect("it is open")));
    }
    // Nobody reads the first two, which send as fast as they can: they fill their own windows at the client.
    // And the next twenty read nothing of what is sent to them as fast as can be: binary frames of 65,535
    // bytes, masked with zeros.
    let frame = [&[0x82, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0][..], &[0; 65_535]].concat();
    for stream in &mut streams[2..22] {
        let flood = async {
            for _ in 0..100 {
                stream.write_all(&frame).await.expect("it is open");
            }
        };
        tokio::time::timeout(Duration::from_secs(1), flood).await.expect_err("it is held up");
    }
    for stream in &mut streams[22..] {
        stream
            .write_all(&[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
            .await
            .expect("it is open");
        let mut answer = [0; 7];
        soon(stream.read_exact(&mut answer)).await.expect("it is open");
        assert_eq!(&answer, b"\x81\x05Hello");
    }
    assert_eq!(server.handle().connections(), 100);
    // One stream is reset, and the connection goes on.
    drop(streams.swap_remove(50));
    drop(streams);
    soon(async {
        while server.handle().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

fn certificates() -> (ServerTls, ClientTls) {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    let pem = certificate.cert.pem();
    let key = certificate.signing_key.serialize_pem();
    let server = ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).expect("it is right");
    (server, ClientTls::with_ca_pem(pem.as_bytes()).expect("it is right"))
}

#[tokio::test]
async fn over_tls_the_client_chooses_the_version() {
    let (server_tls, client_tls) = certificates();
    let server = echo().tls(server_tls);
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let url = format!("wss://localhost:{}/", listener.local_addr().expect("it is bound").port());
    tokio::spawn(listener.serve());
    let connecting = || connect(&url).tls(client_tls.clone());
    for (connecting, is_http2) in
        [(connecting(), false), (connecting().http2(), true), (connecting().http_auto(), true)]
    {
        let mut ws = open(connecting).await;
        let headers = ws.response_headers().expect("it is a client");
        assert_eq!(headers.contains_key("upgrade"), !is_http2, "{headers:?}");
        echoes(&mut ws).await;
        ws.close();
        assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    }
}

#[tokio::test]
async fn a_server_without_websockets_over_http_2_is_spoken_to_in_http_1() {
    // hyper's own, which does not enable extended CONNECT, for HTTP/2; ours for HTTP/1.1.
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    let pem = certificate.cert.pem();
    let client_tls = ClientTls::with_ca_pem(pem.as_bytes()).expect("it is right");
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der())
        .expect("it is one");
    let mut config =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("they are there")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .expect("it is right");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("wss://localhost:{}/", listener.local_addr().expect("it is bound").port());
    tokio::spawn(async move {
        let server = Server::new().on_message(|socket, message| async move {
            socket.send(message).await?;
            Ok(())
        });
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let service =
                        service_fn(|_| async { Ok::<_, Infallible>(Response::new(Body::from("no"))) });
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let _ = server.serve_stream(stream, None).await;
                }
            });
        }
    });
    let mut ws = open(connect(&url).tls(client_tls.clone()).http_auto()).await;
    echoes(&mut ws).await;
    let error = soon(connect(&url).tls(client_tls).http2().into_future()).await.expect_err("it opens none");
    assert!(error.to_string().contains("no WebSockets over HTTP/2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_something_else_is_an_error() {
    for words in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
        let (mut ours, theirs) = duplex(1000);
        tokio::spawn(async move {
            ours.write_all(words.as_bytes()).await.expect("it is read");
            let _ = tokio::time::timeout(Duration::from_secs(1), ours.read_to_end(&mut Vec::new())).await;
        });
        let error = soon(connect("ws://test.example/").over(theirs).http2().into_future()).await;
        assert!(matches!(error, Err(ConnectError::Http(_))), "{error:?}");
    }
    let (_ours, theirs) = duplex(1000);
    let error = soon(connect("ws://test.example/").over(theirs).http2().into_future()).await;
    assert!(matches!(error, Err(ConnectError::Timeout)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_nothing_is_cut_after_the_handshakes_timeout() {
    for first_bytes in
        [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"]
    {
        let (ours, mut theirs) = duplex(1000);
        let server = echo().handshake_timeout(Duration::from_secs(7));
        let before = tokio::time::Instant::now();
        let serving = tokio::spawn(async move { server.serve_stream(ours, None).await });
        theirs.write_all(first_bytes).await.expect("it is read");
        soon(serving).await.expect("no panic").expect("nothing is wrong with it");
        assert_eq!(before.elapsed(), Duration::from_secs(7));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_hypers_that_enables_it_has_the_same_door() {
    let (ours, theirs) = duplex(1 << 16);
    let service = service_fn(|mut request: HttpRequest<hyper::body::Incoming>| async move {
        assert!(wireline::is_upgrade(&request));
        let upgrade = wireline::upgrade(&mut request).expect("it is right");
        let response = upgrade.on_request(|req| async move {
            assert_eq!(
                (req.version(), req.host(), req.path()),
                (http::Version::HTTP_2, "test.example", "/chat")
            );
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        });
        Ok::<_, Infallible>(response.await)
    });
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.enable_connect_protocol();
    tokio::spawn(http.serve_connection(TokioIo::new(ours), service));
    let mut ws = open(connect("ws://test.example/chat").over(theirs).http2()).await;
    echoes(&mut ws).await;
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

/// Opens a WebSocket over HTTP/2, on a connection that is there if there is one.
async fn share(client: &Client, addr: std::net::SocketAddr) -> WebSocket {
    open(client.connect(format!("ws://{addr}/")).http2()).await
}

/// How many connections the server has for its WebSockets.
fn connections(handle: &ServerHandle) -> usize {
    let from: std::collections::HashSet<_> =
        handle.sockets().iter().map(|socket| socket.remote_addr()).collect();
    from.len()
}

#[tokio::test]
async fn websockets_of_one_client_share_a_connection_and_one_that_does_not_read_holds_up_none() {
    let listener = echo().bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    let client = Client::new();
    let mut all = futures_util::future::join_all((0..20).map(|_| share(&client, addr))).await;
    assert_eq!((handle.connections(), connections(&handle)), (20, 1));
    let mut reader = all.pop().expect("there are 20");
    for ws in &all {
        // What comes back is not read.
        let _ = tokio::time::timeout(Duration::from_millis(50), async {
            loop {
                ws.send(vec![1; 100_000]).await.expect("it is open");
            }
        })
        .await;
    }
    echoes(&mut reader).await;
    drop(all);
    echoes(&mut reader).await;
    // Those of another client are not shared, and those with other settings neither.
    let other = share(&Client::new(), addr).await;
    let through = client.connect(format!("ws://{addr}/")).http2().no_proxy();
    let direct = open(through).await;
    soon(async {
        while handle.connections() > 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(connections(&handle), 3);
    drop((reader, other, direct));
}

#[tokio::test]
async fn more_websockets_than_a_connection_takes_get_another_one() {
    let listener = echo().bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    tokio::spawn(listener.serve());
    let client = Client::new();
    let all = futures_util::future::join_all((0..130).map(|_| share(&client, addr))).await;
    assert_eq!((all.len(), connections(&handle)), (130, 2));
    drop(all);
    soon(async {
        while handle.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Their connections have ended with them.
    let _again = share(&client, addr).await;
    assert_eq!(connections(&handle), 1);
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let service = echo().into_service().expect("nothing is wrong with it");
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.enable_connect_protocol().max_concurrent_streams(3);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    let client = Client::new();
    let mut all = futures_util::future::join_all((0..8).map(|_| share(&client, addr))).await;
    for ws in &mut all {
        echoes(ws).await;
    }
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_connection_that_was_lost_is_not_used_again() {
    let listener = echo().bind("127.0.0.1:0").expect("a port is free");
    let (addr, handle) = (listener.local_addr().expect("it is bound"), listener.handle());
    let serving = tokio::spawn(listener.serve());
    let client = Client::new();
    let mut ws = share(&client, addr).await;
    let (_, end) = soon(async { tokio::join!(handle.shutdown(Duration::from_secs(5)), ws.recv()) }).await;
    assert_eq!(end.expect("it is clean"), None);
    soon(serving).await.expect("no panic");
    let listener = echo().bind(addr).expect("it is free again");
    tokio::spawn(listener.serve());
    // The handle of the old one is still there.
    echoes(&mut share(&client, addr).await).await;
    drop(ws);
}

#[tokio::test]
async fn a_close_frame_is_answered_though_the_stream_has_ended_behind_it() {
    let mut sender = raw(&echo()).await;
    let request = extended_connect(Some("websocket")).header("Sec-WebSocket-Version", "13");
    let response = sender.send_request(request.body(Empty::new()).expect("it is valid"));
    let response = soon(response).await.expect("it is answered");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("it is open"));
    let close = wireline_testkit::Frame::close(4001, "done");
    stream.write_all(&close.sent_by(wireline_proto::Role::Client)).await.expect("it is open");
    stream.shutdown().await.expect("it is open");
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.expect("it ends well");
    assert_eq!(answer, close.bytes());
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let server = Server::new()
        .cleartext_http2()
        .on_http(|_| async { Response::new(bytes::Bytes::from_static(b"a whole page")) });
    let mut sender = raw(&server).await;
    let request = HttpRequest::head("http://test.example/").body(Empty::new()).expect("it is valid");
    let response = soon(sender.send_request(request)).await.expect("it is answered");
    assert_eq!(
        (response.status(), &response.headers()["content-length"]),
        (StatusCode::OK, &"12".parse().expect("it is valid"))
    );
    assert!(response.headers().contains_key("date"));
    let body = soon(response.into_body().collect()).await.expect("it ends well");
    assert!(body.to_bytes().is_empty());
}
