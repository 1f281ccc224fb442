//! The constructor: its URL and its subprotocols.

use std::time::Duration;

use wireline::{
    browser::{Exception, Protocols, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::{Frame, RawPeer};

use crate::peers::{Told, asked, block_thread_for, echo, opened, signal, soon, until};

#[track_caller]
fn assert_syntax_error(url: &str) -> String {
    match WebSocket::new(url).expect_err("it is no such URL") {
        Exception::SyntaxError(message) => message,
        other => panic!("{url}: {other}"),
    }
}

/// The `url` of a socket that is given up at once.
fn url_of(given: &str) -> String {
    let socket = WebSocket::new(given).unwrap_or_else(|error| panic!("{given}: {error}"));
    socket.close();
    socket.url().to_owned()
}

#[tokio::test]
async fn u1_what_the_url_parser_does_not_take_is_a_syntax_error_and_there_is_no_base() {
    for url in
        ["", " ", "/", "/echo", "echo", "?query", "#test", "//localhost/", "ws", "ws:", "ws://", "://h"]
    {
        assert_syntax_error(url);
    }
}

#[tokio::test]
async fn u2_http_is_ws_and_https_is_wss() {
    assert_eq!(url_of("http://h/a"), "ws://h/a");
    assert_eq!(url_of("https://h/a"), "wss://h/a");
    assert_eq!(url_of("HTTPS://h:443/a"), "wss://h/a");
    let http = echo().replace("ws://", "http://");
    let socket = WebSocket::new(&http).expect("the URL is good");
    until(|| socket.ready_state() == ReadyState::Open).await;
    assert_eq!(socket.url(), http.replace("http://", "ws://"));
}

#[tokio::test]
async fn u3_another_scheme_is_a_syntax_error() {
    for url in [
        "ftp://h/",
        "mailto:a@b",
        "about:blank",
        "file:///tmp",
        "data:,x",
        "wsx://h/",
        "javascript:1",
        "blob:http://h/1",
    ] {
        assert!(assert_syntax_error(url).contains("scheme"), "{url}");
    }
}

#[tokio::test]
async fn u4_a_fragment_even_an_empty_one_is_a_syntax_error() {
    for url in ["ws://h/#", "ws://h/#a", "ws://h#", "wss://h/a?b#", "http://h/#a", "ws://h/?#"] {
        assert!(assert_syntax_error(url).contains("fragment"), "{url}");
    }
    assert_eq!(url_of("ws://h/%23"), "ws://h/%23");
}

#[tokio::test]
async fn u5_an_invalid_host_or_port_is_a_syntax_error() {
    for url in [
        "ws://foo bar.com/",
        "wss://foo bar.com/",
        "ws://a<b/",
        "ws://[::1/",
        "ws://[g::1]/",
        "ws://1.2.3.256/",
        "ws://h:65536/",
        "ws://h:x/",
        "ws://%zz/",
        "ws:///",
    ] {
        assert_syntax_error(url);
    }
}

#[tokio::test]
async fn u6_the_url_is_written_as_the_parser_writes_it() {
    for (given, url) in [
        ("ws://h", "ws://h/"),
        ("wss://h:443/", "wss://h/"),
        ("ws://h:80/", "ws://h/"),
        ("ws://h:443/", "ws://h:443/"),
        ("wss://h:80/", "wss://h:80/"),
        ("ws://h:8080", "ws://h:8080/"),
        ("WS://EXAMPLE.invalid/A b", "ws://example.invalid/A%20b"),
        ("  ws://h/a\tb\n ", "ws://h/ab"),
        ("ws://h/a/../b/./c", "ws://h/b/c"),
        ("ws://h/?q=å", "ws://h/?q=%C3%A5"),
        ("ws://h?", "ws://h/?"),
        ("ws:\\\\h\\a", "ws://h/a"),
        ("ws://[0:0::1]/", "ws://[::1]/"),
        ("ws://0x7f.1/", "ws://127.0.0.1/"),
        ("ws://bücher.invalid/", "ws://xn--bcher-kva.invalid/"),
        ("ws://user:pass@h/", "ws://user:pass@h/"),
    ] {
        assert_eq!(url_of(given), url, "{given:?}");
    }
}

#[tokio::test]
async fn u7_what_is_wrong_is_found_in_order_and_thrown_before_there_is_a_socket() {
    for (url, protocol, word) in [
        ("ftp://h:x/#a", "a b", "port"),
        ("ftp://h/#a", "a b", "scheme"),
        ("http://h/#a", "a b", "fragment"),
        ("ws://h/", "a b", "subprotocol"),
    ] {
        let connect = connect(url).protocols([protocol]).header("Upgrade", "no");
        let error = WebSocket::from_connect(connect, |_| panic!("there is no socket"))
            .expect_err("something is wrong");
        assert!(error.to_string().contains(word), "{url} {protocol}: {error}");
        assert_eq!(error.name(), "SyntaxError");
    }
}

#[tokio::test]
async fn u8_the_constructor_returns_at_once_and_nothing_happens_before_the_caller_yields() {
    let (url, talk) = asked(|mut peer| {
        peer.send_bytes(&peer.switching_protocols(""));
        peer.expect(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    assert_eq!(socket.ready_state(), ReadyState::Connecting);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(socket.ready_state(), ReadyState::Connecting);
    let told = Told::by(&socket);
    until(|| told.lines() == ["open"]).await;
    socket.close();
    talk.over().await;
}

/// The connection is there, on another thread, and its event waits for this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn u8_no_event_comes_before_a_task_of_a_runtime_with_many_threads_yields() {
    let (ready, is_ready) = signal();
    let (url, talk) = opened(move |mut peer| {
        peer.send(&Frame::text("one"));
        peer.send(&Frame::ping("two"));
        peer.expect(&Frame::pong("two"));
        let _ = ready.send(());
        peer.expect(&Frame::close_payload(""));
    });
    let told = tokio::spawn(async move {
        let socket = WebSocket::new(url).expect("the URL is good");
        // The driver, in its own task, has read the message and answered the Ping.
        block_thread_for(&is_ready);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(socket.ready_state(), ReadyState::Connecting);
        let told = Told::by(&socket);
        until(|| told.lines().len() == 2).await;
        socket.close();
        told.lines()
    });
    assert_eq!(soon(told).await.expect("no panic"), ["open", "message one"]);
    talk.over().await;
}

/// Nobody sees when the future of `block_on` yields, so the event waits a moment, or until it is asked for.
#[test]
fn u8_the_future_of_block_on_has_time_to_listen() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads can be made").block_on(async {
        let url = echo();
        for waits_for_the_end in [false, true] {
            let socket = WebSocket::new(&url).expect("the URL is good");
            std::thread::sleep(Duration::from_millis(10));
            let told = Told::by(&socket);
            if waits_for_the_end {
                socket.on_open(|socket| socket.close());
                soon(socket.closed()).await;
                assert_eq!(told.lines(), ["open", "close 1005 clean"]);
            } else {
                until(|| told.lines() == ["open"]).await;
            }
        }
    });
}

#[test]
fn u8_who_listens_before_it_connects_misses_nothing_however_long_it_takes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads can be made").block_on(async {
        let mut told = Told::default();
        let socket = WebSocket::from_connect(connect(echo()), |socket| {
            std::thread::sleep(Duration::from_millis(250));
            told = Told::by(socket);
        });
        until(|| told.lines() == ["open"]).await;
        drop(socket);
    });
}

/// The `Sec-WebSocket-Protocol` lines of a request.
async fn offered(protocols: Option<Protocols>) -> Vec<String> {
    let (url, talk) = asked(|peer: RawPeer| {
        let lines = peer.head().lines().filter_map(|line| line.split_once(": "));
        let lines = lines.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
        lines.map(|(_, value)| value.to_owned()).collect()
    });
    let socket = match protocols {
        Some(protocols) => WebSocket::with_protocols(url, protocols),
        None => WebSocket::new(url),
    };
    let offered = talk.over().await;
    soon(socket.expect("they can be offered").closed()).await;
    offered
}

#[tokio::test]
async fn p1_one_subprotocol_is_a_list_of_one_and_none_is_an_empty_list() {
    let forms: [Protocols; 6] = [
        "chat".into(),
        String::from("chat").into(),
        ["chat"].into(),
        vec!["chat".to_owned()].into(),
        ["chat"][..].into(),
        ["chat"].into_iter().collect(),
    ];
    for form in forms {
        assert_eq!(offered(Some(form)).await, ["chat"]);
    }
    assert!(offered(None).await.is_empty());
    assert!(offered(Some(Protocols::from([""; 0]))).await.is_empty());
}

#[tokio::test]
async fn p2_a_subprotocol_that_is_there_twice_in_any_case_is_a_syntax_error() {
    for protocols in [["a", "a"], ["a", "A"], ["Echo", "eCHO"]] {
        let error = WebSocket::with_protocols("ws://h/", protocols).expect_err("it is there twice");
        assert!(matches!(&error, Exception::SyntaxError(message) if message.contains("twice")), "{error}");
    }
}

#[tokio::test]
async fn p3_a_subprotocol_is_a_token() {
    let separators = "()<>@,;:\\\"/[]?={} \t";
    for byte in 0..=0xFF_u8 {
        let protocol = format!("a{}b", char::from(byte));
        let is_token = (0x21..=0x7E).contains(&byte) && !separators.contains(char::from(byte));
        match WebSocket::with_protocols("ws://h/", &*protocol) {
            Ok(socket) => {
                socket.close();
                assert!(is_token, "{protocol:?} was taken");
            }
            Err(error) => {
                assert_eq!(error.name(), "SyntaxError");
                assert!(!is_token, "{protocol:?} was not taken");
            }
        }
    }
    for protocol in ["", " ", "a b", "a,b", "\u{100}", "a\0b", "a\r\nb"] {
        let error = WebSocket::with_protocols("ws://h/", protocol).expect_err("it is no token");
        assert_eq!(error.name(), "SyntaxError", "{protocol:?}");
    }
}

#[tokio::test]
async fn p4_several_subprotocols_are_one_header_in_their_order() {
    assert_eq!(
        offered(Some(["v2.chat", "chat", "a!#$%&'*+-.^_`|~1"].into())).await,
        ["v2.chat, chat, a!#$%&'*+-.^_`|~1"]
    );
}
