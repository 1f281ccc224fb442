//! A client behind a proxy: what the proxy is asked, what comes through it, and whose fault it is when nothing
//! does. conformance/ has real ones.

use std::{
    future::{Future, IntoFuture as _},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use wireline::{ConnectError, Message, Server, WebSocket, connect};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// An echo server; where it is.
fn echo() -> SocketAddr {
    let server = Server::new().on_message(|socket, message| async move {
        socket.send(message).await?;
        Ok(())
    });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    address
}

async fn echoes(mut ws: WebSocket) {
    for message in [Message::from("through"), Message::from(vec![7; 300_000])] {
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
    }
    assert_eq!(ws.remote_addr(), None, "nobody knows");
    ws.close();
    assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
}

/// A proxy that does `talk` with who connects; where it is.
async fn proxy<F, H>(talk: F) -> SocketAddr
where
    F: Fn(BufReader<TcpStream>) -> H + Send + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(BufReader::new(stream)));
        }
    });
    address
}

/// The head of a request, line by line.
async fn head(stream: &mut BufReader<TcpStream>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("it is text");
        match line.trim_end() {
            "" => return lines,
            line => lines.push(line.to_owned()),
        }
    }
}

/// A proxy for HTTP's CONNECT that tells what it is asked, answers `answer`, and leads to `target` if that is
/// a 200.
async fn http_proxy(
    answer: &'static str,
    target: SocketAddr,
) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<String>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let address = proxy(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(head(&mut stream).await).expect("it is heard");
            stream.write_all(answer.as_bytes()).await.expect("it is read");
            if answer.starts_with("HTTP/1.1 200") {
                let mut onward = TcpStream::connect(target).await.expect("it listens");
                let _ = copy_bidirectional(&mut stream, &mut onward).await;
            }
        }
    });
    (address.await, told)
}

#[tokio::test]
async fn an_http_proxy_is_asked_for_host_and_port_and_leads_there() {
    let (proxy, mut told) = http_proxy("HTTP/1.1 200 Connection established\r\n\r\n", echo()).await;
    // A name that only the proxy knows.
    let connecting = connect("ws://server.test/chat").proxy(format!("http://{proxy}"));
    echoes(soon(connecting.into_future()).await.expect("it leads there")).await;
    let asked = told.recv().await.expect("it was asked");
    assert_eq!(asked[0], "CONNECT server.test:80 HTTP/1.1");
    let has = |header: &str| asked.iter().any(|line| line.eq_ignore_ascii_case(header));
    assert!(has("host: server.test:80"), "{asked:?}");
    assert!(
        !asked.iter().any(|line| line.to_ascii_lowercase().starts_with("proxy-authorization")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn user_and_password_are_for_the_proxy_and_not_for_the_host() {
    let (seen, mut see) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: wireline::Request| {
        seen.send(req.header("Proxy-Authorization").map(str::to_owned)).expect("it is heard");
        async move { req.accept().run().await }
    });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let target = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    let (proxy, mut told) = http_proxy("HTTP/1.1 200 OK\r\n\r\n", target).await;
    let url = format!("http://me:p%40ss@{proxy}");
    soon(connect("ws://server.test:8080").proxy(url).into_future()).await.expect("it leads there");
    let asked = told.recv().await.expect("it was asked");
    assert_eq!(asked[0], "CONNECT server.test:8080 HTTP/1.1");
    // me:p@ss
    assert!(
        asked.iter().any(|line| line.eq_ignore_ascii_case("proxy-authorization: Basic bWU6cEBzcw==")),
        "{asked:?}"
    );
    assert_eq!(see.recv().await.expect("it was asked"), None);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_whole_answer() {
    let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\
                  Content-Length: 4\r\n\r\nwho?";
    let (proxy, _told) = http_proxy(answer, echo()).await;
    let connecting = connect("ws://server.test/").proxy(format!("http://user:secret@{proxy}"));
    match soon(connecting.into_future()).await {
        Err(error @ ConnectError::ProxyRejected { .. }) => {
            let words = error.to_string();
            assert!(words.contains(&proxy.to_string()) && words.contains("407"), "{words}");
            assert!(!words.contains("secret"), "{words}");
            let ConnectError::ProxyRejected { response, .. } = error else { unreachable!("it is one") };
            assert_eq!(
                (response.headers()["proxy-authenticate"].as_bytes(), &response.body()[..]),
                (&b"Basic"[..], &b"who?"[..])
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_do_its_work_is_named() {
    let unused =
        TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("it is bound");
    let hangs_up = proxy(|stream| async move { drop(stream) }).await;
    let nonsense = proxy(|mut stream| async move {
        stream.read_u8().await.expect("it asks");
        stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.expect("it is read");
    })
    .await;
    let early = http_proxy("HTTP/1.1 200 OK\r\n\r\nhi", echo()).await.0;
    for proxy in [unused, hangs_up, nonsense, early] {
        for scheme in ["http", "socks5"] {
            if proxy == early && scheme == "socks5" {
                continue;
            }
            let connecting = connect("ws://server.test/").proxy(format!("{scheme}://{proxy}"));
            let error = soon(connecting.into_future()).await.expect_err("it leads nowhere");
            assert!(
                matches!(&error, ConnectError::Proxy { proxy: named, .. } if *named == format!("{scheme}://{proxy}")),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_a_timeout() {
    let mute = proxy(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for scheme in ["http", "https", "socks5"] {
        let connecting = connect("ws://server.test/")
            .proxy(format!("{scheme}://{mute}"))
            .handshake_timeout(Duration::from_millis(200));
        let error = soon(connecting.into_future()).await.expect_err("it says nothing");
        assert!(
            matches!(error, ConnectError::Timeout | ConnectError::Certificates(_)) || scheme == "https",
            "{error}"
        );
    }
}

/// A SOCKS5 proxy that leads to `target`, and tells what it was asked: user and password, host and port.
async fn socks_proxy(
    target: SocketAddr,
    reply: u8,
) -> (SocketAddr, mpsc::UnboundedReceiver<(String, String)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let address = proxy(move |mut stream| {
        let tell = tell.clone();
        async move {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut greeting = [0; 2];
            stream.read_exact(&mut greeting).await.expect("it greets");
            let mut methods = vec![0; usize::from(greeting[1])];
            stream.read_exact(&mut methods).await.expect("it greets");
            let wants_password = methods.contains(&2);
            stream.write_all(&[5, if wants_password { 2 } else { 0 }]).await.expect("it is read");
            let mut who = String::new();
            if wants_password {
                // RFC 1929: version, user, password.
                assert_eq!(stream.read_u8().await.expect("it is there"), 1);
                for _ in 0..2 {
                    let mut part = vec![0; usize::from(stream.read_u8().await.expect("it is there"))];
                    stream.read_exact(&mut part).await.expect("it is there");
                    who += &format!("{};", text(&part));
                }
                stream.write_all(&[1, u8::from(who != "me;secret;")]).await.expect("it is read");
            }
            let mut request = [0; 5];
            if stream.read_exact(&mut request).await.is_err() {
                return;
            }
            assert_eq!(request[..4], [5, 1, 0, 3], "CONNECT, by name");
            let mut host = vec![0; usize::from(request[4])];
            stream.read_exact(&mut host).await.expect("it is there");
            let port = stream.read_u16().await.expect("it is there");
            tell.send((who, format!("{}:{port}", text(&host)))).expect("it is heard");
            stream.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.expect("it is read");
            if reply == 0 {
                let mut onward = TcpStream::connect(target).await.expect("it listens");
                let _ = copy_bidirectional(&mut stream, &mut onward).await;
            }
        }
    });
    (address.await, told)
}

#[tokio::test]
async fn a_socks_proxy_resolves_the_name_and_leads_there() {
    let (proxy, mut told) = socks_proxy(echo(), 0).await;
    for (scheme, user, who) in
        [("socks5", "", ""), ("socks5h", "", ""), ("socks5", "me:secret@", "me;secret;")]
    {
        let connecting = connect("ws://server.test:8080/").proxy(format!("{scheme}://{user}{proxy}"));
        echoes(soon(connecting.into_future()).await.expect("it leads there")).await;
        assert_eq!(told.recv().await.expect("it was asked"), (who.to_owned(), "server.test:8080".to_owned()));
    }
}

#[tokio::test]
async fn a_socks_proxy_that_refuses_says_why() {
    let (refusing, _told) = socks_proxy(echo(), 5).await;
    let connecting = connect("ws://server.test/").proxy(format!("socks5://{refusing}"));
    let error = soon(connecting.into_future()).await.expect_err("it refuses").to_string();
    assert!(error.contains(&refusing.to_string()) && error.contains("refused"), "{error}");
    let (proxy, _told) = socks_proxy(echo(), 0).await;
    let connecting = connect("ws://server.test/").proxy(format!("socks5://me:wrong@{proxy}"));
    let error = soon(connecting.into_future()).await.expect_err("it does not know him").to_string();
    assert!(error.contains("credentials") && !error.contains("wrong"), "{error}");
}

#[tokio::test]
async fn what_is_no_proxy_is_an_error_before_anything_is_sent() {
    for url in ["", "ftp://127.0.0.1:1", "socks4://127.0.0.1:1", "http://", "::"] {
        let connecting = connect(format!("ws://{}/", echo())).proxy(url);
        let error = soon(connecting.into_future()).await.expect_err("it is none");
        assert!(matches!(error, ConnectError::Url { .. }), "{url}: {error}");
    }
}

#[tokio::test]
async fn what_the_environment_says_is_not_for_this_machine() {
    // Whatever it says: `conformance/` sets it for a process of its own.
    let address = echo();
    for url in [format!("ws://{address}/"), format!("ws://localhost:{}/", address.port())] {
        soon(connect(url).into_future()).await.expect("it is reached without a proxy");
    }
    soon(connect(format!("ws://{address}/")).no_proxy().into_future())
        .await
        .expect("it is reached without a proxy");
}
