//! The opening handshake over real sockets: our client against servers of all kinds, and our server's
//! answers.

use std::{
    future::{Future, IntoFuture as _},
    net::{SocketAddr, TcpListener},
    thread::JoinHandle,
    time::Duration,
};

use http::StatusCode;
use tokio::sync::mpsc;
use wireline::{
    AcceptError, ConnectError, Error, Request, ResponseError, Server, SetupError, WebSocket, connect,
};
use wireline_testkit::{Frame, RawPeer, accept_value};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// A server that reads a request and then does what `talk` does.
fn fake<R: Send + 'static>(talk: impl FnOnce(RawPeer) -> R + Send + 'static) -> (String, JoinHandle<R>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    (url, std::thread::spawn(move || talk(RawPeer::accept(&listener))))
}

/// What our client makes of a server that answers `answer`, in which `{accept}` stands for the right
/// value, and hangs up once the client has.
async fn answered(offer: &[&str], answer: &'static str) -> Result<WebSocket, ConnectError> {
    let (url, server) = fake(move |mut peer| {
        let accept = accept_value(peer.header("sec-websocket-key").expect("the request has a key"));
        peer.send_bytes(answer.replace("{accept}", &accept).as_bytes());
        peer.shut_down();
        let _ = peer.read_to_end();
    });
    let result = soon(connect(url).protocols(offer.iter().copied()).into_future()).await;
    if result.is_err() {
        server.join().expect("the client hangs up");
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_101_that_breaks_a_rule_is_refused_and_names_it() {
    use ResponseError as E;
    for (answer, expected) in [
        ("Upgrade: websocket\r\nConnection: Upgrade\r\n", E::Accept),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: nonsense\r\n", E::Accept),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}{accept}{accept}\r\n",
            E::Accept,
        ),
        ("Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n", E::Upgrade),
        ("Upgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Accept: {accept}\r\n", E::Connection),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: mine\r\n",
            E::ProtocolNotOffered,
        ),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Extensions: permessage-other\r\n",
            E::Extension,
        ),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=16\r\n",
            E::DeflateParameters,
        ),
    ] {
        let answer: &'static str = format!("HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n").leak();
        let error = answered(&[], answer).await.expect_err("a rule is broken");
        assert!(matches!(&error, ConnectError::Handshake(found) if *found == expected), "{answer}: {error}");
    }
    let bare = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: {accept}\r\n\r\n";
    let error = answered(&["a"], bare).await.expect_err("no subprotocol was chosen");
    assert!(matches!(error, ConnectError::Handshake(ResponseError::ProtocolMissing)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_kept_with_its_headers_and_body() {
    for (answer, status, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Why: so\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 403 Forbidden\r\nX-Why: so\r\n\r\nuntil the end", 403, "until the end"),
        ("HTTP/1.1 302 Found\r\nLocation: ws://x/\r\nX-Why: so\r\nContent-Length: 0\r\n\r\n", 302, ""),
        (
            "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nX-Why: so\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            503,
            "abc",
        ),
        ("HTTP/1.1 400 No\r\nContent-Length: 100\r\nX-Why: so\r\n\r\ncut", 400, "cut"),
        ("HTTP/1.0 401 No\r\nX-Why: so\r\n\r\nold", 401, "old"),
    ] {
        match answered(&[], answer).await.expect_err("it was refused") {
            ConnectError::Rejected(response) => {
                assert_eq!((response.status().as_u16(), &**response.body()), (status, body.as_bytes()));
                assert_eq!(response.headers()["x-why"], "so");
            }
            error => panic!("{answer}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusals_body_is_kept_up_to_64_kib() {
    let (url, server) = fake(|mut peer| {
        peer.send_bytes(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 200000\r\n\r\n");
        peer.send_bytes(&[b'x'; 100_000]);
        let _ = peer.read_to_end();
    });
    match soon(connect(url).into_future()).await.expect_err("it was refused") {
        ConnectError::Rejected(response) => assert_eq!(response.body().len(), 64 << 10),
        error => panic!("{error}"),
    }
    server.join().expect("the client hangs up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_whose_body_never_ends_is_still_a_refusal() {
    let (url, server) = fake(|mut peer| {
        peer.send_bytes(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nthe beginning");
        let _ = peer.read_to_end();
    });
    let connecting = connect(url).handshake_timeout(Duration::from_millis(300));
    match soon(connecting.into_future()).await.expect_err("it was refused") {
        ConnectError::Rejected(response) => {
            assert_eq!((response.status().as_u16(), &**response.body()), (403, &b"the beginning"[..]));
        }
        error => panic!("the status was known, and the error is {error:?}"),
    }
    server.join().expect("the client hangs up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_told_as_such() {
    let headers = "X: y\r\n".repeat(200);
    let long = format!("HTTP/1.1 101 S\r\nX: {}\r\n\r\n", "y".repeat(80 << 10));
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\0\0\0\0\0",
        "",
        "HTTP/1.1 101 Switching",
        "HTTP/2 101 Switching\r\n\r\n",
        format!("HTTP/1.1 101 S\r\n{headers}\r\n").leak(),
        long.leak(),
    ] {
        let error = answered(&[], answer).await.expect_err("it is no answer");
        let shown = &answer[..answer.len().min(40)];
        assert!(matches!(error, ConnectError::Http(_)), "{shown:?} and {} bytes: {error:?}", answer.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_and_its_socket_closed() {
    let (url, server) = fake(|mut peer| peer.read_to_end());
    let connecting = connect(url).handshake_timeout(Duration::from_millis(200));
    let error = soon(connecting.into_future()).await.expect_err("nothing came");
    assert!(matches!(error, ConnectError::Timeout), "{error}");
    soon(tokio::task::spawn_blocking(|| server.join()))
        .await
        .expect("no panic")
        .expect("the socket is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_dropped_closes_its_socket() {
    let (told, mut tell) = mpsc::unbounded_channel();
    let (url, server) = fake(move |mut peer| {
        let _ = told.send(());
        peer.read_to_end()
    });
    let connecting = tokio::spawn(connect(url).into_future());
    soon(tell.recv()).await.expect("the request came");
    connecting.abort();
    soon(tokio::task::spawn_blocking(|| server.join()))
        .await
        .expect("no panic")
        .expect("the socket is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_the_same_segment_as_the_101_are_received() {
    let (url, server) = fake(|mut peer| {
        let mut bytes = peer.switching_protocols("");
        bytes.extend(
            [Frame::text("one"), Frame::ping("two"), Frame::binary([3])].iter().flat_map(Frame::bytes),
        );
        bytes.extend(&Frame::close(4000, "four").bytes()[..3]);
        peer.send_bytes(&bytes);
        peer.expect(&Frame::pong("two"));
        peer.send_bytes(&Frame::close(4000, "four").bytes()[3..]);
        peer.expect(&Frame::close(4000, "four"));
    });
    let mut ws = soon(connect(url).into_future()).await.expect("the server accepts");
    assert_eq!(soon(ws.recv()).await.expect("clean"), Some("one".into()));
    assert_eq!(soon(ws.recv()).await.expect("clean"), Some([3].into()));
    assert_eq!(soon(ws.recv()).await.expect("clean"), None);
    assert_eq!(soon(ws.closed()).await.code, 4000);
    server.join().expect("the client answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_in_the_same_segment_as_the_101_is_answered_by_a_busy_client() {
    let (url, server) = fake(|mut peer| {
        let bytes = [peer.switching_protocols(""), Frame::ping("first").bytes()].concat();
        peer.send_bytes(&bytes);
        peer.expect(&Frame::pong("first"));
    });
    let ws = soon(connect(url).into_future()).await.expect("the server accepts");
    soon(tokio::task::spawn_blocking(|| server.join())).await.expect("no panic").expect("it is answered");
    drop(ws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_can_be_smuggled_into_a_request() {
    let url = "ws://127.0.0.1:1/";
    for (name, value) in [
        ("X", "a\r\nEvil: yes"),
        ("X", "a\nb"),
        ("X", "\0"),
        ("X\r\nEvil", "yes"),
        ("X: y", "z"),
        ("", "x"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "8"),
        ("SEC-WEBSOCKET-PROTOCOL", "a"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Upgrade", "h2c"),
        ("Connection", "close"),
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
    ] {
        let error = connect(url).header(name, value).await.expect_err("it must not be sent");
        assert!(matches!(&error, ConnectError::InvalidHeader(found) if found == name), "{name:?}: {error}");
    }
    for protocol in ["a\r\nEvil: yes", "a b", "a,b", "", "é"] {
        let error = connect(url).protocols([protocol]).await.expect_err("it must not be sent");
        assert!(matches!(error, ConnectError::Protocols(_)), "{protocol:?}: {error}");
    }
    let error = connect(url).protocols(["a", "a"]).await.expect_err("it must not be sent");
    assert!(matches!(error, ConnectError::Protocols(_)), "{error}");
    let error = connect(url).origin("http://a\r\nEvil: yes").await.expect_err("it must not be sent");
    assert!(matches!(error, ConnectError::InvalidHeader(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_with_line_breaks_stays_one_request_line() {
    let (url, server) = fake(|mut peer| {
        let answer = peer.switching_protocols("");
        peer.send_bytes(&answer);
        peer.head().to_owned()
    });
    let url = format!("{url}a b\r\nEvil: yes\r\n?q=\u{e9}\r\nEvil: yes");
    let _ = soon(connect(url).header("X-Twice", "1").header("X-Twice", "2").into_future()).await;
    let head = server.join().expect("the request came");
    assert!(!head.to_ascii_lowercase().contains("\nevil"), "{head}");
    assert_eq!(head.matches("\r\n\r\n").count(), 1);
    assert_eq!(head.to_ascii_lowercase().matches("x-twice: ").count(), 2, "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_reached_is_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it is bound");
    let error = connect(format!("ws://{free}/")).await.expect_err("nobody listens");
    assert!(
        matches!(&error, ConnectError::Tcp { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused),
        "{error}"
    );
    let label = "a".repeat(64);
    let error = connect(format!("ws://{label}.invalid/")).await.expect_err("there is no such name");
    assert!(matches!(error, ConnectError::Dns { .. }), "{error}");
    let error = connect("ftp://localhost/").await.expect_err("it is no WebSocket URL");
    assert!(matches!(error, ConnectError::Url { .. }), "{error}");
    let error =
        connect("ws://localhost/").unix_socket("/nonexistent/socket").await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Tcp { .. }), "{error}");
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

/// A server that answers each path in its own way, and how its acceptances went.
fn choosy() -> (Server, mpsc::UnboundedReceiver<Option<AcceptError>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let tell = tell.clone();
        async move {
            let path = req.path().to_owned();
            let accept = match &*path {
                "/unoffered" => req.accept().protocol("unoffered"),
                "/bad-header" => req.accept().header("X", "a\r\nEvil: yes"),
                "/reserved-header" => req.accept().header("Sec-WebSocket-Accept", "x"),
                "/cookie" => req.accept().header("Set-Cookie", "a=1").header("Set-Cookie", "b=2"),
                "/reject" => {
                    let reject = req.reject(StatusCode::TOO_MANY_REQUESTS).body("later");
                    return reject.header("Retry-After", "5").await;
                }
                "/bad-reject" => {
                    return req.reject(StatusCode::FORBIDDEN).header("X", "a\r\nEvil: yes").await;
                }
                "/reject-101" => return req.reject(StatusCode::SWITCHING_PROTOCOLS).await,
                "/dropped" => return Ok(()),
                "/error" => return Err(Error::other("on purpose")),
                _ => req.accept(),
            };
            let mut ws = match accept.await {
                Ok(ws) => ws,
                Err(error) => {
                    let _ = tell.send(Some(error));
                    return Ok(());
                }
            };
            let _ = tell.send(None);
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        }
    });
    (server, told)
}

async fn refused(addr: SocketAddr, path: &str) -> http::Response<bytes::Bytes> {
    match soon(connect(format!("ws://{addr}{path}")).into_future()).await.expect_err("it is refused") {
        ConnectError::Rejected(response) => *response,
        error => panic!("{path}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepting_what_was_not_offered_is_a_400_and_an_error() {
    let (server, mut told) = choosy();
    let addr = listen(&server);
    assert_eq!(refused(addr, "/unoffered").await.status(), 400);
    let error = soon(told.recv()).await.expect("it is told");
    assert!(matches!(error, Some(AcceptError::ProtocolNotOffered(_))), "{error:?}");
    for path in ["/bad-header", "/reserved-header"] {
        assert_eq!(refused(addr, path).await.status(), 500);
        let error = soon(told.recv()).await.expect("it is told");
        assert!(matches!(error, Some(AcceptError::InvalidHeader(_))), "{error:?}");
    }
    assert!(connect(format!("ws://{addr}/")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_reaches_the_client_whole() {
    let addr = listen(&choosy().0);
    let response = refused(addr, "/reject").await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(&**response.body(), b"later");
    let response = refused(addr, "/bad-reject").await;
    assert_eq!(response.status(), 500, "a header that cannot be sent is an error of the handler's");
    assert!(!response.headers().contains_key("evil"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_answer_is_a_500() {
    let addr = listen(&choosy().0);
    assert_eq!(refused(addr, "/dropped").await.status(), 500);
    assert_eq!(refused(addr, "/error").await.status(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_with_101_does_not_look_like_an_acceptance() {
    let addr = listen(&choosy().0);
    let mut peer = RawPeer::dial(addr);
    let request = String::from_utf8(RawPeer::request_head("")).expect("it is text");
    peer.send_bytes(request.replace("GET / ", "GET /reject-101 ").as_bytes());
    peer.read_head();
    assert!(peer.head().starts_with("HTTP/1.1 500 "), "{}", peer.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_an_acceptance_are_all_sent() {
    let addr = listen(&choosy().0);
    let mut peer = RawPeer::dial(addr);
    let request = String::from_utf8(RawPeer::request_head("")).expect("it is text");
    peer.send_bytes(request.replace("GET / ", "GET /cookie ").as_bytes());
    peer.read_head();
    assert!(peer.head().starts_with("HTTP/1.1 101 "), "{}", peer.head());
    assert_eq!(peer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(peer.head().to_ascii_lowercase().matches("set-cookie: ").count(), 2, "{}", peer.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_right_behind_the_request_are_received() {
    let addr = listen(&choosy().0);
    let mut peer = RawPeer::dial(addr);
    let mut bytes = RawPeer::request_head("");
    let frames = [Frame::text("one"), Frame::ping("two"), Frame::binary(vec![3; 3000])];
    bytes.extend(frames.iter().flat_map(|frame| frame.clone().masked([4; 4]).bytes()));
    bytes.extend(&Frame::text("cut").masked([5; 4]).bytes()[..7]);
    peer.send_bytes(&bytes);
    peer.read_head();
    peer.expect(&Frame::text("one"));
    peer.expect(&Frame::pong("two"));
    peer.expect(&Frame::binary(vec![3; 3000]));
    peer.send_bytes(&Frame::text("cut").masked([5; 4]).bytes()[7..]);
    peer.expect(&Frame::text("cut"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_the_answer_is_an_error_of_accept_only() {
    let (give, mut requests) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let _ = give.send(req);
        std::future::pending()
    });
    let addr = listen(&server);
    let mut peer = RawPeer::dial(addr);
    peer.send_bytes(&RawPeer::request_head(""));
    let request = soon(requests.recv()).await.expect("the request comes");
    drop(peer);
    tokio::time::sleep(Duration::from_millis(100)).await;
    match soon(request.accept().into_future()).await {
        Err(error) => assert!(matches!(error, AcceptError::ClientGone(_)), "{error}"),
        Ok(mut ws) => {
            soon(ws.recv()).await.expect_err("the client is gone");
        }
    }
    let mut peer = RawPeer::dial(addr);
    peer.send_bytes(&RawPeer::request_head(""));
    let request = soon(requests.recv()).await.expect("the server lives on");
    let accepting = tokio::spawn(request.accept().into_future());
    peer.read_head();
    assert!(peer.head().starts_with("HTTP/1.1 101 "), "{}", peer.head());
    soon(accepting).await.expect("no panic").expect("the client is there");
}

/// The status and body of what a server answers to `request`, in which `{addr}` stands for its address.
async fn status_of(server: &Server, request: &str) -> (u16, String) {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    let request = request.replace("{addr}", &addr.to_string());
    let asked = tokio::task::spawn_blocking(move || {
        let mut peer = RawPeer::dial(addr);
        peer.send_bytes(request.as_bytes());
        peer.read_head();
        let status = peer.head()[9..12].parse().expect("it is a status");
        (
            status,
            if status == 101 { String::new() } else { String::from_utf8_lossy(&peer.read_to_end()).into() },
        )
    });
    soon(asked).await.expect("it answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_is_the_one_in_the_target_if_it_names_one() {
    let server = Server::new().on_request(|req: Request| async move {
        let told = req.host().to_owned();
        req.reject(StatusCode::IM_A_TEAPOT).body(told).await
    });
    let rest = "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (head, status, host) in [
        ("GET /chat HTTP/1.1\r\nHost: a.example\r\n", 418, "a.example"),
        ("GET http://b.example:81/chat HTTP/1.1\r\nHost: a.example\r\n", 418, "b.example:81"),
        // A page of the host in the header alone is a foreign one.
        ("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\nOrigin: http://a.example\r\n", 403, ""),
        (
            "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\nOrigin: http://b.example\r\n",
            418,
            "b.example",
        ),
        ("GET * HTTP/1.1\r\nHost: a.example\r\n", 400, ""),
        ("GET chat HTTP/1.1\r\nHost: a.example\r\n", 400, ""),
    ] {
        let (found, body) = status_of(&server, &format!("{head}{rest}")).await;
        assert_eq!(found, status, "{head}");
        assert!(status != 418 || body == host, "{head}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_a_plain_request_is_its_clients_500() {
    let plain = "GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n";
    let in_the_future = Server::new().on_http(|_| async { panic!("later") });
    let at_once =
        Server::new().on_http(|_| -> std::future::Ready<http::Response<bytes::Bytes>> { panic!("now") });
    for server in [in_the_future, at_once] {
        assert_eq!(status_of(&server, plain).await.0, 500);
    }
}

#[tokio::test]
async fn an_origin_that_could_never_match_is_an_error_when_the_server_is_to_listen() {
    for origin in ["https://a.example/", "a.example", "https://a.example/app", "*", "null", ""] {
        let bound = Server::new().origins([origin]).bind("127.0.0.1:0");
        assert!(matches!(bound, Err(Error::Setup(SetupError::Origin(found))) if found == origin), "{origin}");
    }
    Server::new()
        .origins(["https://a.example", "http://b.example:81"])
        .bind("127.0.0.1:0")
        .expect("they are right");
}
