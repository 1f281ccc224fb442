//! In other people's servers everything is as in wireline's own: who is let in, what is answered, how a
//! connection is spoken to and ended.

use std::{
    convert::Infallible,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, response::IntoResponse, routing::any};
use http::{Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tower::ServiceExt as _;
use wireline::{
    Body, Config, ConnectError, Deflate, Error, Message, PeerCertificates, ReadyState, Request, Server,
    Upgrade, UpgradeError, WebSocket, connect,
};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

async fn echo(req: Request) -> wireline::Result<()> {
    let mut ws = req.accept().await?;
    while let Some(message) = ws.recv().await? {
        ws.send(message).await?;
    }
    Ok(())
}

/// Serves an application of axum's; where it is.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn serve_at_chat<F, H>(answer: F) -> SocketAddr
where
    F: Fn(Upgrade) -> H + Clone + Send + Sync + 'static,
    H: Future<Output = Response<Body>> + Send + 'static,
{
    serve(Router::new().route("/chat", any(move |upgrade: Upgrade| answer(upgrade)))).await
}

async fn rejected(connecting: wireline::Connect) -> Response<bytes::Bytes> {
    match soon(connecting.into_future()).await {
        Err(ConnectError::Rejected(response)) => *response,
        other => panic!("{other:?}"),
    }
}

async fn echoes(ws: &mut WebSocket, message: impl Into<Message>) {
    let message = message.into();
    ws.send(message.clone()).await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
}

/// A request for a WebSocket without a server around it.
fn bare_request() -> http::Request<()> {
    http::Request::get("/chat")
        .header("Host", "server.example.com")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13")
        .body(())
        .expect("it is valid")
}

#[tokio::test]
async fn who_does_tls_there_can_say_which_certificate_the_client_has() {
    async fn tell(req: Request) -> wireline::Result<()> {
        let told = req.peer_certificates().concat();
        req.accept().await?.send(told).await?;
        Ok(())
    }
    let checked = PeerCertificates::new([bytes::Bytes::from_static(b"checked")]);
    let service = Server::new().on_request(tell).into_service().expect("nothing is wrong with it");
    let router = Router::new()
        .route("/upgrade", any(|upgrade: Upgrade| upgrade.on_request(tell)))
        .route_service("/service", service);
    let known = serve(router.clone().layer(axum::Extension(checked))).await;
    let unknown = serve(router).await;
    for (address, expected) in [(known, &b"checked"[..]), (unknown, b"")] {
        for path in ["upgrade", "service"] {
            let connecting = connect(format!("ws://{address}/{path}"));
            let mut ws = soon(connecting.into_future()).await.expect("it is let in");
            let told = soon(ws.recv()).await.expect("no loss").expect("it tells");
            assert_eq!(told.as_bytes(), expected, "{path}");
        }
    }
}

#[tokio::test]
async fn a_foreign_page_is_refused_unless_it_is_let_in() {
    let address = serve(
        Router::new()
            .route("/strict", any(|upgrade: Upgrade| upgrade.on_request(echo)))
            .route(
                "/listed",
                any(|upgrade: Upgrade| upgrade.origins(["https://app.example"]).on_request(echo)),
            )
            .route("/any", any(|upgrade: Upgrade| upgrade.dangerous_any_origin().on_request(echo))),
    )
    .await;
    for (path, origin, is_let_in) in [
        ("strict", "https://app.example", false),
        ("strict", &*format!("http://{address}"), true),
        ("listed", "https://app.example", true),
        ("listed", "https://evil.example", false),
        ("any", "https://evil.example", true),
    ] {
        let connecting = connect(format!("ws://{address}/{path}")).origin(origin);
        if is_let_in {
            soon(connecting.into_future()).await.expect("it is let in");
        } else {
            assert_eq!(rejected(connecting).await.status(), 403, "{path} {origin}");
        }
    }
}

#[tokio::test]
async fn the_handler_rejects_with_a_whole_response() {
    let address = serve_at_chat(|upgrade| {
        upgrade.on_request(|req| async move {
            req.reject(StatusCode::UNAUTHORIZED).header("WWW-Authenticate", "Bearer").body("who?").await
        })
    })
    .await;
    let response = rejected(connect(format!("ws://{address}/chat"))).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(response.body(), "who?");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_answered_before_the_handler_is_called() {
    let address = serve(
        Router::new().route("/chat", any(|_: Upgrade| async { panic!("it is not called") as StatusCode })),
    )
    .await;
    for (header, status, version) in [
        ("", 426, Some("13")),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12", 426, Some("13")),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13", 400, None),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET /chat HTTP/1.1\r\nHost: {address}\r\n{header}\r\n\r\n");
        stream.write_all(request.replace("\r\n\r\n\r\n", "\r\n\r\n").as_bytes()).await.expect("it reads");
        let mut lines = BufReader::new(stream).lines();
        let first = soon(lines.next_line()).await.expect("it answers").expect("it answers");
        assert_eq!(first.split(' ').nth(1), Some(&*status.to_string()), "{header}");
        let mut told = None;
        while let Ok(Some(line)) = soon(lines.next_line()).await
            && !line.is_empty()
        {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("sec-websocket-version: ") {
                told = Some(value.to_owned());
            }
        }
        assert_eq!(told.as_deref(), version, "{header}");
    }
}

#[tokio::test]
async fn a_server_that_keeps_its_connections_is_told_so() {
    let error = wireline::upgrade(&mut bare_request()).expect_err("nothing can be taken out of it");
    assert_eq!(error, UpgradeError::NotUpgradable);
    assert_eq!(error.into_response().status(), 500);
}

#[tokio::test]
async fn the_request_knows_the_peer_the_protocols_and_what_it_was_told() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let answer = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, upgrade: Upgrade| {
        let tell = tell.clone();
        async move {
            assert_eq!(upgrade.protocols(), ["v1", "v2"]);
            let upgrade = upgrade.client_ip(Ipv4Addr::new(192, 0, 2, 7).into());
            let answer = upgrade.on_request(move |req| async move {
                tell.send((peer, req.remote_addr(), req.client_ip(), req.uri().clone()))
                    .expect("it is heard");
                let mut ws = req.accept().protocol("v2").header("X-Node", "7").await?;
                assert_eq!(ws.client_ip(), Some(Ipv4Addr::new(192, 0, 2, 7).into()));
                ws.recv().await?;
                Ok(())
            });
            answer.await
        }
    };
    let address = serve(Router::new().route("/chat", any(answer))).await;
    let connecting = connect(format!("ws://{address}/chat?x=1")).protocols(["v1", "v2"]);
    let ws = soon(connecting.into_future()).await.expect("it is let in");
    assert_eq!(ws.protocol(), Some("v2"));
    let (peer, remote_addr, client_ip, uri) = told.recv().await.expect("it was called");
    assert_eq!((remote_addr, client_ip), (Some(peer), Some(Ipv4Addr::new(192, 0, 2, 7).into())));
    assert_eq!(uri, "/chat?x=1");
}

#[tokio::test]
async fn limits_and_compression_are_as_configured() {
    let config = Arc::new(Config::server().max_message_size(1000).deflate(Deflate::server()));
    let address = serve_at_chat(move |upgrade| upgrade.config(Arc::clone(&config)).on_request(echo)).await;
    let connecting =
        connect(format!("ws://{address}/chat")).config(Config::client().deflate(Deflate::client()));
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    assert!(ws.extensions().starts_with("permessage-deflate"));
    echoes(&mut ws, "x".repeat(1000)).await;
    ws.send("x".repeat(1001)).await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("the handshake completes"), None);
    assert_eq!(ws.closed().await.code, 1009);
}

#[tokio::test]
async fn a_handler_that_says_nothing_is_a_500_and_one_that_panics_too() {
    let address = serve(
        Router::new()
            .route("/silent", any(|upgrade: Upgrade| upgrade.on_request(|_| async { Ok(()) })))
            .route(
                "/panics",
                any(|upgrade: Upgrade| {
                    upgrade.on_request(|_| -> std::future::Ready<wireline::Result<()>> { panic!("at once") })
                }),
            ),
    )
    .await;
    for path in ["silent", "panics"] {
        assert_eq!(rejected(connect(format!("ws://{address}/{path}"))).await.status(), 500, "{path}");
    }
}

#[tokio::test]
async fn who_gets_another_answer_than_the_handlers_is_lost_to_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let address = serve_at_chat(move |upgrade| {
        let tell = tell.clone();
        async move {
            let answer = upgrade.on_request(|req| async move {
                // hyper may give the connection out all the same.
                let accepted = match req.accept().await {
                    Ok(mut ws) => ws.recv().await.map(drop).map_err(Error::from),
                    Err(error) => Err(error.into()),
                };
                tell.send(accepted).expect("it is heard");
                Ok(())
            });
            // The application changes its mind.
            drop(answer.await);
            let mut response = Response::new(Body::from("not today"));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    })
    .await;
    assert_eq!(rejected(connect(format!("ws://{address}/chat"))).await.body(), "not today");
    let accepted = soon(told.recv()).await.expect("it was called");
    accepted.expect_err("the client knows of no WebSocket");
}

#[tokio::test]
async fn connections_belong_to_a_server_that_speaks_to_them_and_shuts_them_down() {
    let handle = Server::new().handle();
    let address = {
        let handle = handle.clone();
        serve_at_chat(move |upgrade| upgrade.of_server(&handle).on_request(echo)).await
    };
    let url = format!("ws://{address}/chat");
    let mut ws = soon(connect(&url).into_future()).await.expect("it is let in");
    echoes(&mut ws, "hello").await;
    assert_eq!((handle.connections(), handle.broadcast("to all")), (1, 1));
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("to all")));
    let (drained, end) =
        soon(async { tokio::join!(handle.shutdown(Duration::from_secs(5)), ws.recv()) }).await;
    assert_eq!((drained.connections, drained.cut), (1, 0));
    assert_eq!(end.expect("it is clean"), None);
    assert_eq!(ws.closed().await.code, 1001);
    assert_eq!(rejected(connect(&url)).await.status(), 503);
}

#[tokio::test]
async fn a_service_answers_as_its_server_would() {
    let server = Server::new()
        .route("/echo", echo)
        .origins(["https://app.example"])
        .trust_x_forwarded_for(["127.0.0.0/8"])
        .route("/ip", |req: Request| async move {
            let ip = req.client_ip().map(|ip| ip.to_string()).unwrap_or_default();
            req.accept().await?.send(ip).await?;
            Ok(())
        });
    let handle = server.handle();
    let service = server.into_service().expect("nothing is wrong with it");
    let app =
        Router::new().route("/own", any(|| async { "axum's".into_response() })).fallback_service(service);
    let address = serve(app).await;
    let mut ws = soon(connect(format!("ws://{address}/echo")).into_future()).await.expect("it is let in");
    echoes(&mut ws, "hello").await;
    assert_eq!(handle.connections(), 1);
    let foreign = connect(format!("ws://{address}/echo")).origin("https://evil.example");
    assert_eq!(rejected(foreign).await.status(), 403);
    let listed = connect(format!("ws://{address}/echo")).origin("https://app.example");
    soon(listed.into_future()).await.expect("it is let in");
    assert_eq!(rejected(connect(format!("ws://{address}/elsewhere"))).await.status(), 404);
    let behind = connect(format!("ws://{address}/ip")).header("X-Forwarded-For", "192.0.2.7");
    let mut behind = soon(behind.into_future()).await.expect("it is let in");
    assert_eq!(soon(behind.recv()).await.expect("no loss"), Some(Message::from("192.0.2.7")));
    assert_eq!(soon(handle.shutdown(Duration::from_secs(5))).await.cut, 0);
    assert_eq!(rejected(connect(format!("ws://{address}/echo"))).await.status(), 503);
}

#[tokio::test]
async fn a_service_answers_plain_requests_of_any_body_within_its_limit() {
    let server = Server::new().on_http(|request: http::Request<bytes::Bytes>| async move {
        Response::new(bytes::Bytes::from(format!("{} bytes", request.body().len())))
    });
    let service = server.into_service().expect("nothing is wrong with it");
    for (len, status, told) in
        [(3, 200, "3 bytes"), (64 << 10, 200, "65536 bytes"), ((64 << 10) + 1, 413, "")]
    {
        let request = http::Request::post("/").header("Host", "a.example").body("x".repeat(len));
        let response = service.clone().oneshot(request.expect("it is valid")).await;
        let response: Response<Body> = response.unwrap_or_else(|never: Infallible| match never {});
        assert_eq!(response.status(), status);
        assert!(status != 200 || response.into_body().into_bytes() == told);
    }
    let nothing = Server::new().into_service().expect("nothing is wrong with it");
    let request = http::Request::get("/").header("Host", "a.example").body(String::new());
    let response =
        nothing.oneshot(request.expect("it is valid")).await.unwrap_or_else(|never| match never {});
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn a_mistake_is_told_before_anything_is_served() {
    let server = || Server::new().route("no slash", echo);
    assert!(matches!(server().into_service(), Err(Error::Setup(_))));
    let (stream, _peer) = duplex(64);
    assert!(matches!(soon(server().serve_stream(stream, None)).await, Err(Error::Setup(_))));
}

#[tokio::test]
async fn hyper_may_have_any_stream_underneath() {
    // A boxed one, which cannot be taken back out, with a first message right behind the request.
    let (ours, theirs) = duplex(1 << 16);
    let ours: Box<dyn Stream> = Box::new(ours);
    let service = service_fn(|mut request: http::Request<Incoming>| async move {
        let upgrade = wireline::upgrade(&mut request).expect("it is right");
        Ok::<_, Infallible>(upgrade.on_request(echo).await)
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(ours), service).with_upgrades());
    let mut ws = soon(connect("ws://pipe.example/").over(theirs).into_future()).await.expect("it is let in");
    echoes(&mut ws, vec![7; 500_000]).await;
    assert_eq!(ws.remote_addr(), None);
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

#[tokio::test]
async fn frames_right_behind_the_request_are_not_lost() {
    for is_auto in [false, true] {
        let (mut theirs, ours) = duplex(1 << 16);
        let service = service_fn(|mut request: http::Request<Incoming>| async move {
            // Slowly, so that hyper has read the frame by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let upgrade = wireline::upgrade(&mut request).expect("it is right");
            Ok::<_, Infallible>(upgrade.on_request(echo).await)
        });
        if is_auto {
            tokio::spawn(async move {
                let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = http.serve_connection_with_upgrades(TokioIo::new(ours), service).await;
            });
        } else {
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(ours), service).with_upgrades());
        }
        let mut bytes = b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .to_vec();
        // "Hello", as RFC 6455 section 5.7 has it.
        bytes.extend([0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]);
        theirs.write_all(&bytes).await.expect("it is read");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\x81\x05Hello") {
            assert!(soon(theirs.read_buf(&mut answer)).await.expect("it is open") > 0, "{is_auto}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_served_until_it_is_a_websocket_and_closed_if_that_is_dropped() {
    let server = Server::new().route("/echo", echo);
    let from = SocketAddr::from(([192, 0, 2, 1], 4711));
    let (ours, theirs) = duplex(1 << 16);
    let serving = server.serve_stream(ours, Some(from));
    let connecting = connect("ws://pipe.example/echo").over(theirs).into_future();
    let (served, ws) = soon(async { tokio::join!(serving, connecting) }).await;
    served.expect("nothing is wrong with it");
    let mut ws = ws.expect("it is let in");
    echoes(&mut ws, "it goes on").await;
    assert_eq!(server.handle().sockets()[0].remote_addr(), Some(from));

    let (ours, mut theirs) = duplex(1 << 16);
    {
        let mut serving = pin!(server.serve_stream(ours, None));
        assert!(serving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(soon(theirs.read(&mut [0])).await.expect("it is closed"), 0);
}

#[tokio::test]
async fn sockets_are_spoken_to_after_the_request_is_long_gone() {
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let address = {
        let sockets = Arc::clone(&sockets);
        serve_at_chat(move |upgrade| {
            let sockets = Arc::clone(&sockets);
            upgrade.on_request(move |req| async move {
                let mut ws = req.accept().await?;
                sockets.lock().expect("nobody panicked").push(ws.socket());
                while ws.recv().await?.is_some() {}
                Ok(())
            })
        })
        .await
    };
    let mut ws = soon(connect(format!("ws://{address}/chat")).into_future()).await.expect("it is let in");
    ws.ping().await.expect("it is driven");
    let socket = sockets.lock().expect("nobody panicked").pop().expect("it is there");
    socket.send("later").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("later")));
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
    assert_eq!(soon(socket.closed()).await.code, 1005);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
}
