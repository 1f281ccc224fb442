//! What the web-platform-tests of the browsers' makers (`websockets/`) do, done here. Each test says which
//! cases it stands for; the `Secure-` ones, and the `wss` variants of the others, are the same over TLS.
//!
//! Not here, because there is nothing to do it with:
//! - values that only JavaScript has: `Close-NaN`, `Close-null`, `Close-string`, `Secure-Close-onlyReason`,
//!   `binaryType-wrong-value`, `Send-null`, `send/012`, everything with unpaired surrogates (`send/006`),
//!   `constructor/001`, `events/001` to `006`, `events/010` to `014`, `eventhandlers`, `idlharness`, and what deletes or redefines properties
//!   (`readyState/002` to `005`, `bufferedAmount-deleting`, `constants/003` to `006`, `url/003` to `006`, …);
//! - synthetic events (`events/007` to `009`): nobody but the socket fires them;
//! - pages, workers and their cookies: `cookies`, `unload-a-document`, `Create-on-worker-shutdown`,
//!   `remove-own-iframe-during-onerror`, `referrer`, `opening-handshake/003` (the page's origin);
//! - `Create-blocked-port` and its like: there are no blocked ports;
//! - `constructor/014`: connections to one host are not made one after the other;
//! - `constructor/010`, which wants a subprotocol taken that nobody offered, against RFC 6455 section 4.1;
//! - `stream`: an interface that is no standard yet.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use wireline::{
    ClientTls, Message, Request, Server, ServerTls,
    browser::{BinaryType, CloseEvent, Data, Event, EventType, Exception, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::Frame;

use crate::peers::{
    Told, a_while, answering, asked, closing_line, echo, echoing, handled, listen, open, opened, soon,
    told_to_the_end, until,
};

fn new(url: &str) -> WebSocket {
    WebSocket::new(url).expect("the URL is good")
}

/// Sends these, and gives what came back.
async fn echoed(messages: Vec<Message>) -> Vec<Data> {
    let socket = new(&echo());
    let count = messages.len();
    let mut messages = Some(messages);
    socket.on_open(move |socket| {
        for message in messages.take().into_iter().flatten() {
            socket.send(message).expect("it is open");
        }
    });
    let got: Arc<Mutex<Vec<Data>>> = Arc::default();
    let getting = Arc::clone(&got);
    socket.on_message(move |_, event| getting.lock().expect("no panic").push(event.data.clone()));
    until(|| got.lock().expect("no panic").len() == count).await;
    socket.close();
    assert!(soon(socket.closed()).await.was_clean);
    std::mem::take(&mut *got.lock().expect("no panic"))
}

// Create-*, constructor/*

/// `Create-asciiSep-protocol-string`, `Create-nonAscii-protocol-string`, `Create-protocol-with-space`,
/// `Create-protocols-repeated`, `Create-protocols-repeated-case-insensitive`, `constructor/004`,
/// `constructor/007`, `constructor/021`
#[tokio::test]
async fn subprotocols_that_cannot_be_offered_are_syntax_errors() {
    let one = ["/echo", "\u{80}Echo", "ec ho", "", "a\0b", "a\u{1f}b", "a\u{7f}b", "a\u{ff}b"];
    for protocol in one {
        let error = WebSocket::with_protocols("ws://h/", protocol).expect_err("it is no token");
        assert_eq!(error.name(), "SyntaxError", "{protocol:?}");
    }
    for protocols in [["echo", "echo"], ["echo", "eCho"], ["foobar", "foobar"]] {
        let error = WebSocket::with_protocols("ws://h/", protocols).expect_err("one is there twice");
        assert_eq!(error.name(), "SyntaxError", "{protocols:?}");
    }
}

/// `Create-invalid-urls`, `Create-wrong-scheme`, and, without a page to be relative to,
/// `Create-non-absolute-url`, `Create-valid-url-relative`, `constructor/002`
#[tokio::test]
async fn urls_that_are_not_a_websockets_are_syntax_errors() {
    for url in [
        "ws://foo bar.com/",
        "wss://foo bar.com/",
        "ftp://localhost/",
        "mailto:example@example.org",
        "about:blank",
        "ws://localhost/#",
        "ws://localhost/#test",
        "#test",
        "test",
        "?",
        "null",
        "123",
        "/test",
    ] {
        assert!(matches!(WebSocket::new(url), Err(Exception::SyntaxError(_))), "{url}");
    }
}

/// `Create-http-urls`, `Create-valid-url-http`, `constructor/019`, `constructor/020`
#[tokio::test]
async fn http_urls_and_capital_letters_connect_too() {
    let url = echo().replace("127.0.0.1", "localhost");
    for given in [
        url.replace("ws://", "http://"),
        url.replace("ws://", "WS://"),
        url.replace("localhost", "LOCALHOST"),
    ] {
        let socket = open(&given).await;
        assert_eq!(socket.url(), url);
    }
}

/// `Create-valid-url`, `constructor/005`, `constructor/006`, `opening-handshake/002`,
/// `opening-handshake/005`
#[tokio::test]
async fn a_socket_opens_talks_and_closes_cleanly() {
    let socket = new(&echo());
    let told = Told::by(&socket);
    socket.on_open(|socket| socket.send("test").expect("it is open"));
    socket.on_message(|socket, _| socket.close());
    soon(socket.closed()).await;
    a_while().await;
    assert_eq!(told.lines(), ["open", "message test", "close 1005 clean"]);
}

/// `Create-valid-url-protocol`, `Create-valid-url-array-protocols`, `Create-valid-url-protocol-empty`,
/// `Create-Secure-valid-url-protocol-setCorrectly`, `constructor/009`, `constructor/022`, `protocol/001`
#[tokio::test]
async fn the_subprotocol_that_was_chosen_is_told() {
    let url = echo();
    let socket = WebSocket::with_protocols(&url, "foobar").expect("it can be offered");
    assert_eq!(socket.protocol(), "");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.protocol(), "foobar");
    let socket = WebSocket::with_protocols(&url, ["foobar", "foobar2"]).expect("they can be offered");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.protocol(), "foobar");
    let socket = WebSocket::with_protocols(&url, [""; 0]).expect("none is fine");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.protocol(), "");
}

/// `constructor/011`, `constructor/012`
#[tokio::test]
async fn a_server_that_chooses_no_subprotocol_or_another_one_fails_the_connection() {
    for more in ["Sec-WebSocket-Protocol: foobar\r\n", ""] {
        let (url, talk) = asked(move |mut peer| {
            peer.send_bytes(&peer.switching_protocols(more));
            peer.read_to_end()
        });
        let socket = WebSocket::with_protocols(url, "FOOBAR").expect("it can be offered");
        let told = Told::by(&socket);
        soon(socket.closed()).await;
        assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
        talk.over().await;
    }
}

/// `Create-Secure-extensions-empty`, `extensions/001`
#[tokio::test]
async fn the_extensions_of_a_server_that_has_none_are_empty() {
    let socket = new(&echo());
    assert_eq!(socket.extensions(), "");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.extensions(), "");
}

/// `Create-verify-url-set-default-port`, `Create-verify-url-set-non-default-port`,
/// `Create-Secure-url-with-space`, `url/001`, `url/002`, `constructor/008`, `constructor/017`
#[tokio::test]
async fn the_url_is_told_as_the_parser_writes_it() {
    for (given, url) in [
        ("ws://localhost:80/", "ws://localhost/"),
        ("wss://localhost:443/", "wss://localhost/"),
        ("ws://localhost:8080/echo", "ws://localhost:8080/echo"),
        ("wss://localhost:8443/echo", "wss://localhost:8443/echo"),
        ("ws://localhost:443/", "ws://localhost:443/"),
        ("wss://localhost:80/", "wss://localhost:80/"),
        ("wss://localhost/echo url", "wss://localhost/echo%20url"),
        ("ws://localhost", "ws://localhost/"),
        ("ws:localhost/echo", "ws://localhost/echo"),
        ("ws:/localhost/echo", "ws://localhost/echo"),
        ("wss:localhost/echo", "wss://localhost/echo"),
    ] {
        let socket = new(given);
        assert_eq!(socket.url(), url);
        socket.close();
        assert_eq!(socket.url(), url);
    }
}

/// A server that says what it was asked for.
fn asked_for() -> String {
    listen(&Server::new().on_request(|req: Request| async move {
        let asked = format!("{} {}", req.uri(), req.header("authorization").unwrap_or("-"));
        let ws = req.accept().await?;
        ws.send(asked).await?;
        ws.closed().await;
        Ok(())
    }))
}

async fn first_message(url: &str) -> String {
    let mut events = new(url).events();
    loop {
        match soon(events.next_event()).await {
            Some(Event::Message(message)) => return message.data.to_string(),
            Some(Event::Open) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// `constructor/016`, `constructor/018`, `basic-auth`
#[tokio::test]
async fn what_is_asked_for_is_encoded_and_the_user_is_told_apart() {
    let url = asked_for();
    assert_eq!(first_message(&format!("{url}echo-query?åäö")).await, "/echo-query?%C3%A5%C3%A4%C3%B6 -");
    assert_eq!(first_message(&format!("{url}echo-query?x\0y\0")).await, "/echo-query?x%00y -");
    let with_user = url.replace("ws://", "ws://foo:bar@");
    assert_eq!(first_message(&with_user).await, "/ Basic Zm9vOmJhcg==");
}

/// `constructor/013`
#[tokio::test]
async fn many_sockets_have_their_own_events_each() {
    let url = echo();
    let told = Told::default();
    let sockets: Vec<_> = (0..25)
        .map(|number| {
            let socket = new(&url);
            let told = told.clone();
            socket.on_open(move |socket| socket.send(number.to_string()).expect("it is open"));
            socket.on_message(move |socket, event| {
                told.add(format!("{number} {}", event.data));
                socket.close();
            });
            socket
        })
        .collect();
    for socket in &sockets {
        assert_eq!(closing_line(&soon(socket.closed()).await), "close 1005 clean");
    }
    let expected: HashSet<_> = (0..25).map(|number| format!("{number} {number}")).collect();
    assert_eq!(told.lines().into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(told.lines().len(), 25);
}

/// `Create-Secure-valid-url-binaryType-blob`
#[tokio::test]
async fn the_binary_type_is_blob_at_first() {
    let socket = open(&echo()).await;
    assert_eq!(socket.binary_type(), BinaryType::Blob);
}

/// `opening-handshake/001`
#[tokio::test]
async fn an_invalid_handshake_is_not_clean() {
    let (url, talk) = answering("FOO BAR BAZ\r\n\r\n");
    assert_eq!(told_to_the_end(&url).await, ["error", "close 1006 not clean"]);
    talk.over().await;
}

// Close-*, close/*, CloseEvent/*, closing-handshake/*

/// `Close-0`, `close-invalid`, `Secure-Close-2999-reason`
#[tokio::test]
async fn codes_that_are_not_a_scripts_are_invalid_access_errors() {
    let socket = new(&echo());
    for code in [0, 500, 1001, 1005, 2999] {
        let error = socket.close_with(code, "Close with a reason").expect_err("it is not a script's");
        assert_eq!(error.name(), "InvalidAccessError", "{code}");
    }
    socket.close();
}

/// `Close-1000`, `Close-1000-reason`, `Secure-Close-1000-verify-code`, `Secure-Close-3000-reason`,
/// `Secure-Close-3000-verify-code`, `Secure-Close-4999-reason`
#[tokio::test]
async fn a_code_and_a_reason_come_back_and_it_is_clean() {
    for (code, reason) in
        [(1000, ""), (1000, "Clean Close"), (3000, "Clean Close with code - 3000"), (4999, "Clean Close")]
    {
        let socket = open(&echo()).await;
        socket.close_with(code, reason).expect("it can be sent");
        let close = soon(socket.closed()).await;
        assert_eq!((close.was_clean, close.code, &*close.reason), (true, code, reason));
    }
}

/// `Close-undefined`, `Secure-Close-1005`, `Secure-Close-1005-verify-code`, `closing-handshake/003`,
/// `CloseEvent/clean-close`, `close/close-basic`
#[tokio::test]
async fn closing_without_a_code_is_1005_and_clean() {
    let socket = open(&echo()).await;
    socket.close();
    assert_eq!(closing_line(&soon(socket.closed()).await), "close 1005 clean");
}

/// `Close-Reason-124Bytes`
#[tokio::test]
async fn a_reason_of_124_bytes_is_a_syntax_error() {
    let socket = open(&echo()).await;
    let error = socket.close_with(1000, "x".repeat(124)).expect_err("it is too long");
    assert_eq!(error.name(), "SyntaxError");
    assert_eq!(socket.ready_state(), ReadyState::Open);
}

/// `Secure-Close-readyState-Closing`, `Secure-Close-readyState-Closed`, `readyState/001`, `readyState/003`,
/// `readyState/006`, `readyState/007`, `readyState/008`
#[tokio::test]
async fn the_ready_state_is_connecting_open_closing_closed() {
    let socket = new(&echo());
    assert_eq!(socket.ready_state(), ReadyState::Connecting);
    let told = Told::default();
    let (on_open, on_close) = (told.clone(), told.clone());
    socket.on_open(move |socket| {
        on_open.add(format!("{:?}", socket.ready_state()));
        socket.close();
        on_open.add(format!("{:?}", socket.ready_state()));
    });
    socket.on_close(move |socket, _| on_close.add(format!("{:?}", socket.ready_state())));
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["Open", "Closing", "Closed"]);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
}

/// `Secure-Close-server-initiated-close`, `closing-handshake/002`
#[tokio::test]
async fn a_server_that_closes_is_no_error() {
    let url = handled(|mut ws| async move {
        let _ = ws.recv().await?;
        ws.close();
        ws.closed().await;
        Ok(())
    });
    let socket = new(&url);
    let told = Told::by(&socket);
    socket.on_open(|socket| socket.send("Goodbye").expect("it is open"));
    soon(socket.closed()).await;
    a_while().await;
    assert_eq!(told.lines(), ["open", "close 1005 clean"]);
}

/// `closing-handshake/004`
#[tokio::test]
async fn data_after_the_closing_handshake_is_not_told() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::text("Goodbye"));
        peer.send_bytes(&[Frame::close_payload("").bytes(), Frame::text("Goodbye").bytes()].concat());
        peer.expect(&Frame::close_payload(""));
    });
    let socket = new(&url);
    let told = Told::by(&socket);
    socket.on_open(|socket| socket.send("Goodbye").expect("it is open"));
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "close 1005 clean"]);
    talk.over().await;
}

/// `close/close-connecting`, `close/006`
#[tokio::test]
async fn close_while_it_connects_is_not_clean_and_it_never_opens() {
    let (url, talk) = asked(|mut peer| peer.read_to_end());
    let socket = new(&url);
    let told = Told::by(&socket);
    a_while().await;
    assert_eq!(socket.ready_state(), ReadyState::Connecting);
    socket.close();
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    assert!(!soon(socket.closed()).await.was_clean);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    assert_eq!(told.lines(), ["error", "close 1006 not clean"]);
    talk.over().await;
}

/// `close/close-multiple`, `close/close-nested`, `close/004`
#[tokio::test]
async fn close_called_again_in_a_close_handler_too_does_nothing() {
    let socket = new(&echo());
    let told = Told::default();
    let on_close = told.clone();
    socket.on_close(move |socket, _| {
        on_close.add(format!("{:?}", socket.ready_state()));
        socket.close();
        on_close.add(format!("{:?}", socket.ready_state()));
    });
    socket.close();
    socket.close();
    socket.close();
    assert_eq!(socket.ready_state(), ReadyState::Closing);
    soon(socket.closed()).await;
    a_while().await;
    assert_eq!(told.lines(), ["Closed", "Closed"]);
}

/// `CloseEvent/001` to `CloseEvent/004`
#[test]
fn a_close_event_can_be_made() {
    let event = CloseEvent::default();
    assert_eq!((event.was_clean, event.code, &*event.reason), (false, 0, ""));
    let event = CloseEvent { was_clean: true, code: 5, reason: "x".into(), cause: None };
    assert_eq!((event.was_clean, event.code, &*event.reason), (true, 5, "x"));
}

// Send-*, send/*, bufferedAmount/*

/// `Send-before-open`, `send/001` to `send/004`
#[tokio::test]
async fn send_before_open_is_an_invalid_state_error() {
    let socket = new(&echo());
    assert_eq!(socket.send("Message to send").expect_err("it connects").name(), "InvalidStateError");
    socket.close();
}

/// `Send-0byte-data`, `Send-data`, `Send-65K-data`, `Send-unicode-data`, `Send-paired-surrogates`,
/// `send/005`, `send/009`, `send/010`, `send/011`, `extended-payload-length`
#[tokio::test]
async fn text_of_all_sizes_comes_back() {
    let sizes = [125, 126, 65_000, 0xFFFF, 0x10000];
    let mut texts: Vec<String> = sizes.iter().map(|size| "a".repeat(*size)).collect();
    texts.extend(
        ["", "Message to send", "¥¥¥¥¥¥", "\u{10000}", "å a\u{30a} \u{1047e}", "\u{fffd}\0\n\r"]
            .map(Into::into),
    );
    let back = echoed(texts.iter().map(|text| text.as_str().into()).collect()).await;
    assert!(back.iter().map(Data::as_text).eq(texts.iter().map(|text| Some(text.as_str()))));
}

/// `Send-binary-arraybuffer`, `Send-binary-blob`, `Send-binary-65K-arraybuffer`, and those of
/// `Send-binary-arraybufferview-*`, whose views are windows here
#[tokio::test]
async fn bytes_of_all_sizes_come_back_and_of_a_window_those_in_it() {
    let buffer: Vec<u8> = (0..=255).cycle().take(65_000).collect();
    let windows = [0..0, 0..15, 0..65_000, 2..16, 4..64, 1..9, 64_999..65_000];
    let back = echoed(windows.iter().map(|window| buffer[window.clone()].into()).collect()).await;
    for (data, window) in back.iter().zip(windows) {
        assert!(matches!(data, Data::Blob(bytes) if bytes[..] == buffer[window]), "{data:?}");
    }
}

/// `binary/001`, `binary/002`, `binary/004`, `binary/005`
#[tokio::test]
async fn bytes_come_back_as_the_type_that_was_set() {
    for (binary_type, size) in [
        (BinaryType::Blob, 10),
        (BinaryType::Blob, 100_000),
        (BinaryType::ArrayBuffer, 15),
        (BinaryType::ArrayBuffer, 100_000),
    ] {
        let socket = new(&echo());
        let told = Told::default();
        let on_message = told.clone();
        socket.on_open(move |socket| {
            socket.set_binary_type(binary_type);
            socket.send(vec![0; size]).expect("it is open");
        });
        socket.on_message(move |socket, event| {
            on_message.add(match &event.data {
                Data::Blob(bytes) => format!("Blob {}", bytes.len()),
                Data::ArrayBuffer(bytes) => format!("ArrayBuffer {}", bytes.len()),
                Data::Text(text) => text.to_string(),
            });
            socket.close();
        });
        assert_eq!(closing_line(&soon(socket.closed()).await), "close 1005 clean");
        assert_eq!(told.lines(), [format!("{binary_type:?} {size}")]);
    }
}

/// `keeping-connection-open/001`: tokio moves a stopped clock to the next deadline once everything waits.
#[tokio::test]
async fn a_socket_that_was_idle_for_twenty_seconds_is_still_open() {
    let socket = open(&echo()).await;
    let told = Told::by(&socket);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert!(told.lines().is_empty());
    socket.on_message(|socket, _| socket.close());
    socket.send("test").expect("it is open");
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["message test", "close 1005 clean"]);
}

/// `send/007`, `send/008`
#[tokio::test]
async fn send_after_close_is_no_error_and_sends_nothing() {
    let socket = new(&echo());
    let told = Told::by(&socket);
    let on_open = told.clone();
    socket.on_open(move |socket| {
        socket.close();
        on_open.add(format!("{:?}", socket.send("test")));
    });
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "Ok(())", "close 1005 clean"]);
}

/// `bufferedAmount-getting`, `bufferedAmount-arraybuffer`, `bufferedAmount-blob`, `bufferedAmount-large`,
/// `bufferedAmount-unicode`, `bufferedAmount/001`
#[tokio::test]
async fn the_buffered_amount_is_what_was_sent_and_nothing_once_it_is_back() {
    for (message, amount) in [
        (Message::from("x"), 1),
        (vec![0; 10].into(), 10),
        ("x".repeat(65_000).into(), 65_000),
        ("¥¥¥¥¥¥".into(), 12),
    ] {
        let socket = new(&echo());
        assert_eq!(socket.buffered_amount(), 0);
        let told = Told::default();
        let (on_open, on_message) = (told.clone(), told.clone());
        socket.on_open(move |socket| {
            socket.send(message.clone()).expect("it is open");
            on_open.add(socket.buffered_amount().to_string());
        });
        socket.on_message(move |socket, _| on_message.add(socket.buffered_amount().to_string()));
        until(|| told.lines() == [amount.to_string(), "0".to_owned()]).await;
    }
}

// events/*, constants/*

/// `events/015`, `events/018`
#[tokio::test]
async fn a_frame_of_a_reserved_kind_is_an_error_behind_the_message_before_it() {
    let (url, talk) = opened(|mut peer| {
        peer.send_bytes(b"\x81\x04test\x83\x03LOL");
        peer.expect(&Frame::close(1002, ""));
    });
    let socket = new(&url);
    let told = Told::default();
    for event_type in crate::peers::EVENT_TYPES {
        let told = told.clone();
        socket.add_event_listener(event_type, move |socket, event| {
            told.add(format!("{:?} {:?}", event.event_type(), socket.ready_state()));
        });
    }
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["Open Open", "Message Open", "Error Closed", "Close Closed"]);
    talk.over().await;
}

/// `events/016`
#[tokio::test]
async fn listeners_and_handlers_are_called_in_the_order_of_their_coming() {
    let socket = new(&echo());
    let told = Told::default();
    let count = |word: &'static str| {
        let told = told.clone();
        move || told.add(word)
    };
    let (one, two, three) = (count("1"), count("2"), count("3"));
    socket.add_event_listener(EventType::Open, move |socket, _| {
        one();
        socket.send("Goodbye").expect("it is open");
    });
    socket.on_open(move |_| two());
    socket.add_event_listener(EventType::Open, move |_, _| three());
    let (four, five, six) = (count("4"), count("5"), count("6"));
    socket.add_event_listener(EventType::Message, move |_, _| four());
    socket.on_message(move |socket, _| {
        five();
        socket.close();
    });
    socket.add_event_listener(EventType::Message, move |_, _| six());
    let (seven, eight, nine) = (count("7"), count("8"), count("9"));
    socket.add_event_listener(EventType::Close, move |_, _| seven());
    socket.on_close(move |_, _| eight());
    socket.add_event_listener(EventType::Close, move |_, _| nine());
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

/// `events/017`
#[tokio::test]
async fn a_listener_is_given_the_socket_that_it_listens_to() {
    let url = echo();
    for path in ["one", "two"] {
        let url = format!("{url}{path}");
        let socket = new(&url);
        let told = Told::default();
        let listening = told.clone();
        socket.on_open(move |socket| listening.add(socket.url()));
        until(|| told.lines() == [url.as_str()]).await;
    }
}

/// `events/019`
#[tokio::test]
async fn a_listener_that_was_removed_is_not_called() {
    let socket = new(&echo());
    let told = Told::default();
    for event_type in crate::peers::EVENT_TYPES {
        let listening = told.clone();
        let id = socket.add_event_listener(event_type, move |_, _| listening.add("called"));
        socket.remove_event_listener(id);
    }
    socket.on_open(|socket| socket.send("test").expect("it is open"));
    socket.on_message(|socket, _| socket.close());
    soon(socket.closed()).await;
    assert!(told.lines().is_empty());
}

/// `events/020`
#[tokio::test]
async fn a_host_that_does_not_exist_is_an_error() {
    assert_eq!(told_to_the_end("ws://example.invalid/").await, ["error", "close 1006 not clean"]);
}

/// `constants/001`, `constants/002`
#[test]
fn the_constants_are_the_browsers() {
    assert_eq!(WebSocket::CONNECTING as u16, 0);
    assert_eq!(WebSocket::OPEN as u16, 1);
    assert_eq!(WebSocket::CLOSING as u16, 2);
    assert_eq!(WebSocket::CLOSED as u16, 3);
}

// Secure-*

/// An authority as PEM, and an echoing server that it vouches for.
fn secure_echo() -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("the system has random bytes");
    let authority = CertifiedIssuer::self_signed(params, key).expect("it can be signed");
    let key = KeyPair::generate().expect("the system has random bytes");
    let certificate = CertificateParams::new(["localhost".to_owned()]).expect("the name is one");
    let certificate = certificate.signed_by(&key, &authority).expect("it can be signed");
    let tls = ServerTls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    let url = listen(&echoing().tls(tls.expect("certificate and key go together")));
    (authority.pem(), url.replace("ws://127.0.0.1", "wss://localhost"))
}

/// `Create-Secure-valid-url`, `Create-Secure-valid-url-array-protocols`,
/// `Create-Secure-valid-url-protocol-string`, `Secure-Close-1000-reason`, `Secure-Send-65K-data`,
/// `Secure-Send-binary-65K-arraybuffer`
#[tokio::test]
async fn it_is_all_the_same_over_tls() {
    let (authority, url) = secure_echo();
    let tls = ClientTls::with_ca_pem(authority.as_bytes()).expect("it is a certificate");
    let connect = connect(&url).tls(tls).protocols(["echo", "chat"]);
    let mut told = Told::default();
    let socket = WebSocket::from_connect(connect, |socket| told = Told::by(socket)).expect("it is good");
    socket.on_open(|socket| {
        socket.send("Secure").expect("it is open");
        socket.send(vec![7; 65_000]).expect("it is open");
    });
    until(|| told.lines().len() == 3).await;
    assert_eq!((socket.url(), socket.protocol()), (&*url, "echo"));
    socket.close_with(1000, "Clean Close").expect("it can be sent");
    soon(socket.closed()).await;
    assert_eq!(
        told.lines(),
        ["open", "message Secure", "message <65000 bytes>", "close 1000 clean Clean Close"]
    );
}
