//! Who asks: cookies that come and go, and the client's address behind proxies and load balancers.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use tokio::sync::mpsc;
use wireline::{
    AcceptError, ClientTls, Error, Request, SameSite, Server, ServerTls, SetCookie, SetupError, connect,
};
use wireline_testkit::{Frame, RawPeer};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn listen(server: &Server) -> SocketAddr {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_a_request_are_read_and_a_broken_one_harms_nobody() {
    let server = Server::new().on_request(|req: Request| async move {
        let all: Vec<_> = req.cookies().map(|(name, value)| format!("{name}={value}")).collect();
        let said = format!("{:?} {:?} {}", req.cookie("name"), req.cookie("absent"), all.join(" "));
        Ok(req.accept().await?.send(said).await?)
    });
    let addr = listen(&server);
    for (line, said) in [
        ("", "None None "),
        ("Cookie: name=J%C3%B6rg; a=%; b=\"quoted\"\r\n", "Some(\"Jörg\") None name=Jörg a=% b=quoted"),
        ("Cookie: nonsense; name=1\r\nCookie: name=2\r\n", "Some(\"1\") None name=1 name=2"),
    ] {
        let mut peer = RawPeer::request(addr, line);
        assert!(peer.head().starts_with("HTTP/1.1 101 "), "{}", peer.head());
        peer.expect(&Frame::text(said));
    }
}

/// What the head says to an acceptance with these cookies, and the acceptance's error.
async fn accepted_with(cookies: Vec<SetCookie>) -> (String, Option<AcceptError>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let (tell, cookies) = (tell.clone(), cookies.clone());
        async move {
            let accept = cookies.into_iter().fold(req.accept(), wireline::Accept::cookie);
            let _ = tell.send(accept.await.err());
            Ok(())
        }
    });
    let addr = listen(&server);
    let peer = RawPeer::request(addr, "");
    (peer.head().to_owned(), soon(told.recv()).await.expect("it is told"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_an_acceptance_are_all_set() {
    let session = SetCookie::new("session", "31d4d96e").path("/").http_only().same_site(SameSite::Lax);
    let forgotten = SetCookie::new("old", "").max_age(Duration::ZERO).domain("example.com").secure();
    let (head, error) = accepted_with(vec![session, forgotten]).await;
    assert!(error.is_none(), "{error:?}");
    let set: Vec<_> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| *name == "set-cookie")
        .collect();
    let expected = [
        ("set-cookie", "session=31d4d96e; Path=/; HttpOnly; SameSite=Lax"),
        ("set-cookie", "old=; Domain=example.com; Max-Age=0; Secure"),
    ];
    assert_eq!(set, expected, "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_cannot_be_sent_is_an_error_before_a_byte_is_sent() {
    for (name, cookies) in [
        ("a", vec![SetCookie::new("a", "1\r\nX-Evil: yes")]),
        ("a\n", vec![SetCookie::new("a\n", "1")]),
        ("a", vec![SetCookie::new("a", "1").path("/\r\n\r\n")]),
        ("a", vec![SetCookie::new("a", "1").domain("x;Secure")]),
        ("a", vec![SetCookie::new("a", "1"), SetCookie::new("a", "2")]),
    ] {
        let (head, error) = accepted_with(cookies).await;
        assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
        assert!(!head.contains("Evil") && !head.contains("set-cookie"), "{head}");
        assert!(matches!(&error, Some(AcceptError::InvalidCookie(found)) if found == name), "{error:?}");
    }
}

/// Says from where it was asked.
fn saying_where() -> Server {
    Server::new().on_request(|req: Request| async move {
        let (client, peer) = (req.client_ip(), req.remote_addr());
        let ws = req.accept().await?;
        assert_eq!((ws.client_ip(), ws.remote_addr()), (client, peer));
        let [client, peer] = [client.map(|ip| ip.to_string()), peer.map(|addr| addr.to_string())];
        Ok(ws.send(format!("{} {}", client.unwrap_or_default(), peer.unwrap_or_default())).await?)
    })
}

fn address_in(peer: &mut RawPeer) -> String {
    let frame = peer.read().expect("it says where from");
    String::from_utf8(frame.payload.to_vec()).expect("it is text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_believed_about_an_address_unless_trusted() {
    let spoofed = "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n";
    for server in [
        saying_where(),
        saying_where().trust_x_forwarded_for(["10.0.0.0/8"]),
        saying_where().trust_forwarded(["10.0.0.0/8"]),
    ] {
        let said = address_in(&mut RawPeer::request(listen(&server), spoofed));
        assert!(said.starts_with("127.0.0.1 127.0.0.1:"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_is_believed_about_the_last_hop_before_it() {
    let headers =
        "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nForwarded: for=6.6.6.6, for=\"[2001:470::1]:80\"\r\n";
    for (server, client) in [
        (saying_where().trust_x_forwarded_for(["127.0.0.1", "10.0.0.0/8"]), "203.0.113.9"),
        (saying_where().trust_forwarded(["127.0.0.0/8"]), "2001:470::1"),
    ] {
        let said = address_in(&mut RawPeer::request(listen(&server), headers));
        assert!(said.starts_with(&format!("{client} 127.0.0.1:")), "{said}");
    }
}

fn socket_path() -> PathBuf {
    std::env::temp_dir().join(format!("wireline-identity-{}.sock", std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_on_a_unix_socket_can_be_trusted_too() {
    let path = socket_path();
    for (server, said) in
        [(saying_where(), " "), (saying_where().trust_x_forwarded_for(["unix:"]), "203.0.113.9 ")]
    {
        let serving = tokio::spawn(server.bind_unix(&path).expect("the path is free").serve());
        let connecting =
            connect("ws://localhost/").unix_socket(&path).header("X-Forwarded-For", "203.0.113.9");
        let mut ws = soon(connecting.into_future()).await.expect("it is accepted");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(said.into()));
        serving.abort();
        std::fs::remove_file(&path).expect("it was there");
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_an_error_when_the_server_is_to_listen() {
    for server in [
        Server::new().trust_x_forwarded_for(["10.0.0.0/8", "10.0.0.0/33"]),
        Server::new().trust_forwarded(["localhost"]),
        Server::new().proxy_protocol([""]),
    ] {
        let error = server.bind("127.0.0.1:0").expect_err("it cannot be read");
        assert!(matches!(error, Error::Setup(SetupError::Peer(_))), "{error}");
    }
}

const IPV4_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xCB\0\x71\x09\x0A\0\0\x01\x12\x67\x01\xBB";

/// What a load balancer's header makes of a connection, with the request and a Ping in the same segment.
fn introduced(addr: SocketAddr, header: &[u8]) -> String {
    let mut peer = RawPeer::dial(addr);
    let ping = Frame::ping("right behind").masked([7; 4]).bytes();
    peer.send_bytes(&[header, &RawPeer::request_head(""), &ping].concat());
    peer.read_head();
    assert!(peer.head().starts_with("HTTP/1.1 101 "), "{}", peer.head());
    address_in(&mut peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_tells_where_a_connection_comes_from() {
    let addr = listen(&saying_where().proxy_protocol(["127.0.0.1"]));
    let text = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n";
    for header in [&text[..], IPV4_HEADER] {
        assert_eq!(introduced(addr, header), "203.0.113.9 203.0.113.9:4711");
    }
    for header in [&text[..], IPV4_HEADER] {
        let mut peer = RawPeer::dial(addr);
        for byte in header {
            peer.send_bytes(&[*byte]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        peer.send_bytes(&RawPeer::request_head(""));
        peer.read_head();
        assert_eq!(address_in(&mut peer), "203.0.113.9 203.0.113.9:4711", "it comes byte by byte");
    }
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let said = introduced(addr, header);
        assert!(said.starts_with("127.0.0.1 127.0.0.1:"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_load_balancer_a_proxy_is_known_by_the_address_that_it_tells() {
    let server = saying_where().proxy_protocol(["127.0.0.1"]).trust_x_forwarded_for(["203.0.113.9"]);
    let addr = listen(&server);
    let mut peer = RawPeer::dial(addr);
    peer.send_bytes(&[IPV4_HEADER, &RawPeer::request_head("X-Forwarded-For: 198.51.100.4\r\n")].concat());
    peer.read_head();
    assert_eq!(address_in(&mut peer), "198.51.100.4 203.0.113.9:4711");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_load_balancer_or_does_not_speak_as_one_is_cut() {
    let only_others = listen(&saying_where().proxy_protocol(["10.0.0.0/8"]));
    let addr =
        listen(&saying_where().proxy_protocol(["127.0.0.1"]).handshake_timeout(Duration::from_millis(300)));
    let cut = |addr, bytes: &[u8]| {
        let mut peer = RawPeer::dial(addr);
        peer.send_bytes(bytes);
        assert_eq!(peer.read_to_end(), b"", "{}", String::from_utf8_lossy(bytes));
    };
    cut(only_others, IPV4_HEADER);
    cut(addr, &RawPeer::request_head(""));
    cut(addr, b"PROXY TCP4 nonsense nonsense 1 2\r\n");
    // Who says nothing, or stops within the header, is given up.
    cut(addr, b"");
    cut(addr, &IPV4_HEADER[..20]);
    assert_eq!(introduced(addr, IPV4_HEADER), "203.0.113.9 203.0.113.9:4711");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_balancers_header_comes_before_tls() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it can be made");
    let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).expect("they belong together");
    let addr = listen(&saying_where().tls(tls).proxy_protocol(["127.0.0.1"]));
    let balancer = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("wss://localhost:{}/", balancer.local_addr().expect("it is bound").port());
    std::thread::spawn(move || {
        let (client, _) = balancer.accept().expect("a client connects");
        let mut server = std::net::TcpStream::connect(addr).expect("the server listens");
        std::io::Write::write_all(&mut server, IPV4_HEADER).expect("it takes bytes");
        let [mut from, mut to] =
            [client.try_clone(), server.try_clone()].map(|socket| socket.expect("one more"));
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut server, &mut { client });
    });
    let trusting = ClientTls::with_ca_pem(cert.as_bytes()).expect("it is a certificate");
    let mut ws = soon(connect(url).tls(trusting).into_future()).await.expect("it is accepted");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some("203.0.113.9 203.0.113.9:4711".into()));
}
