//! The opening handshake, as seen by servers of all kinds.

use std::{collections::HashSet, net::TcpListener};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wireline::{
    ConnectError, ResponseError,
    browser::{Cause, CloseEvent, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::RawPeer;

use crate::peers::{Told, answering, asked, echo, listener, soon, until};

const FAILED: [&str; 2] = ["error", "close 1006 not clean"];

/// What becomes of a socket that offers `protocols` to a server that answers `answer`.
async fn answered(protocols: &[&str], answer: &str) -> (Vec<String>, CloseEvent) {
    let (url, talk) = answering(answer);
    let socket = WebSocket::with_protocols(url, protocols).expect("they can be offered");
    let told = Told::by(&socket);
    let close = soon(socket.closed()).await;
    talk.over().await;
    (told.lines(), close)
}

/// As [`answered`], for a 101 with these header lines, which are not to be enough.
async fn assert_fails(protocols: &[&str], headers: &str, error: &ResponseError) {
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n");
    let (told, close) = answered(protocols, &answer).await;
    assert_eq!(told, FAILED, "{headers}");
    match close.cause {
        Some(Cause::Connect(cause)) => {
            assert!(
                matches!(&*cause, ConnectError::Handshake(found) if found == error),
                "{headers}: {cause}"
            );
        }
        cause => panic!("{headers}: {cause:?}"),
    }
}

const UPGRADE: &str = "Upgrade: websocket\r\n";
const CONNECTION: &str = "Connection: Upgrade\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: {accept}\r\n";

/// A good answer, with more header lines.
fn good(more: &str) -> String {
    format!("{UPGRADE}{CONNECTION}{ACCEPT}{more}")
}

/// The head of the request that a new socket sends.
async fn requested(make: impl FnOnce(String) -> WebSocket) -> String {
    let (url, talk) = asked(|peer: RawPeer| peer.head().to_owned());
    let socket = make(url);
    let head = talk.over().await;
    soon(socket.closed()).await;
    head
}

fn header<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn h1_the_resource_is_path_and_query() {
    for (given, target) in
        [("", "/"), ("chat", "/chat"), ("a b?c d", "/a%20b?c%20d"), ("?q", "/?q"), ("a/?", "/a/?")]
    {
        let head = requested(|url| WebSocket::new(format!("{url}{given}")).expect("the URL is good")).await;
        assert_eq!(head.lines().next(), Some(&*format!("GET {target} HTTP/1.1")), "{given}");
    }
}

#[tokio::test]
async fn h1_a_redirect_is_not_followed_and_fails() {
    for status in [300, 301, 302, 303, 307, 308] {
        let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        elsewhere.set_nonblocking(true).expect("a socket can be set up");
        let location = elsewhere.local_addr().expect("it is bound");
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nLocation: ws://{location}/\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answered(&[], &answer).await.0, FAILED, "{status}");
        elsewhere.accept().expect_err("nobody comes");
    }
}

#[tokio::test]
async fn h2_the_request_has_the_headers_of_a_websocket() {
    let mut keys = HashSet::new();
    for _ in 0..3 {
        let head = requested(|url| WebSocket::with_protocols(url, ["a", "b"]).expect("it is good")).await;
        assert_eq!(header(&head, "upgrade"), ["websocket"]);
        assert_eq!(header(&head, "connection"), ["Upgrade"]);
        assert_eq!(header(&head, "sec-websocket-version"), ["13"]);
        assert_eq!(header(&head, "sec-websocket-protocol"), ["a, b"]);
        assert_eq!(header(&head, "sec-websocket-extensions"), ["permessage-deflate; client_max_window_bits"]);
        let key = header(&head, "sec-websocket-key")[0];
        assert_eq!(STANDARD.decode(key).expect("it is base64").len(), 16);
        keys.insert(key.to_owned());
    }
    assert_eq!(keys.len(), 3, "each key is drawn anew");
}

#[tokio::test]
async fn h3_another_status_than_101_fails() {
    for status in [200, 201, 204, 400, 401, 403, 404, 407, 426, 500, 503] {
        let answer = format!("HTTP/1.1 {status} Other\r\n{}Content-Length: 0\r\n\r\n", good(""));
        let (told, close) = answered(&[], &answer).await;
        assert_eq!(told, FAILED, "{status}");
        let Some(Cause::Connect(cause)) = close.cause else { panic!("{status}: {:?}", close.cause) };
        assert!(matches!(&*cause, ConnectError::Rejected(r) if r.status() == status), "{status}: {cause}");
    }
}

#[tokio::test]
async fn h3_a_network_error_fails() {
    let (url, talk) = listener(drop);
    talk.over().await;
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), FAILED);
    for answer in ["", "SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 101 Switching"] {
        assert_eq!(answered(&[], answer).await.0, FAILED, "{answer:?}");
    }
}

#[tokio::test]
async fn h4_a_server_must_choose_one_of_the_subprotocols_that_were_offered() {
    use ResponseError as E;
    assert_fails(&["a", "b"], &good(""), &E::ProtocolMissing).await;
    for chosen in ["", "c", "A", "a, b", "a,", "a b", "\"a\""] {
        let header = format!("Sec-WebSocket-Protocol: {chosen}\r\n");
        assert_fails(&["a", "b"], &good(&header), &E::ProtocolNotOffered).await;
    }
    let twice = "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n";
    assert_fails(&["a", "b"], &good(twice), &E::ProtocolNotOffered).await;
    assert_fails(&[], &good("Sec-WebSocket-Protocol: a\r\n"), &E::ProtocolNotOffered).await;
}

#[tokio::test]
async fn h5_upgrade_must_be_websocket_in_any_case() {
    use ResponseError as E;
    assert_fails(&[], &format!("{CONNECTION}{ACCEPT}"), &E::Upgrade).await;
    for value in ["", "h2c", "web socket", "websocket, h2c"] {
        assert_fails(&[], &format!("Upgrade: {value}\r\n{CONNECTION}{ACCEPT}"), &E::Upgrade).await;
    }
    assert_opens("Upgrade: WebSocket\r\nConnection: Upgrade\r\n").await;
}

#[tokio::test]
async fn h6_connection_must_name_upgrade_in_any_case() {
    use ResponseError as E;
    assert_fails(&[], &format!("{UPGRADE}{ACCEPT}"), &E::Connection).await;
    for value in ["", "close", "keep-alive", "upgraded", "not upgrade"] {
        assert_fails(&[], &format!("{UPGRADE}Connection: {value}\r\n{ACCEPT}"), &E::Connection).await;
    }
    assert_opens("Upgrade: websocket\r\nConnection: keep-alive, upGrade\r\n").await;
}

async fn assert_opens(headers: &str) {
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{headers}{ACCEPT}\r\n");
    let (told, _) = answered(&[], &answer).await;
    assert_eq!(told[0], "open", "{headers}");
}

#[tokio::test]
async fn h7_accept_must_answer_the_key() {
    for accept in [
        "",
        "Sec-WebSocket-Accept: \r\n",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "Sec-WebSocket-Accept: {accept}x\r\n",
        "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: {accept}\r\n",
    ] {
        assert_fails(&[], &format!("{UPGRADE}{CONNECTION}{accept}"), &ResponseError::Accept).await;
    }
}

#[tokio::test]
async fn h8_an_extension_that_was_not_asked_for_fails() {
    for extensions in ["foo", "permessage-deflate, foo", "x-webkit-deflate-frame"] {
        let header = format!("Sec-WebSocket-Extensions: {extensions}\r\n");
        assert_fails(&[], &good(&header), &ResponseError::Extension).await;
    }
}

#[tokio::test]
async fn h9_headers_can_be_set_but_not_those_of_the_handshake() {
    for name in [
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
    ] {
        let error = WebSocket::from_connect(connect("ws://h/").header(name, "mine"), |_| {});
        assert_eq!(error.expect_err("it is the handshake's").name(), "SyntaxError", "{name}");
    }
    let head = requested(|url| {
        let connect = connect(url)
            .header("Authorization", "Bearer 1234")
            .header("Cookie", "a=b")
            .header("Host", "example.invalid")
            .origin("https://example.invalid");
        WebSocket::from_connect(connect, |_| {}).expect("they can be set")
    })
    .await;
    assert_eq!(header(&head, "authorization"), ["Bearer 1234"]);
    assert_eq!(header(&head, "cookie"), ["a=b"]);
    assert_eq!(header(&head, "host"), ["example.invalid"]);
    assert_eq!(header(&head, "origin"), ["https://example.invalid"]);
}

#[tokio::test]
async fn a_socket_of_a_connect_opens_like_any_other() {
    let socket = WebSocket::from_connect(connect(echo()).protocols(["chat"]), |_| {});
    let socket = socket.expect("it is good");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.protocol(), "chat");
}
