//! One server with many handlers and listeners: which request goes where, and what is said to all.

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use wireline::{
    ClientTls, Config, Connect, ConnectError, Error, Prepared, ReadyState, Request, Server, ServerHandle,
    ServerTls, SetupError, WebSocket, connect,
};
use wireline_testkit::{Frame, RawPeer};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

fn listen(server: &Server) -> (SocketAddr, ServerHandle) {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    (addr, server.handle())
}

/// Waits until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !condition() {
        assert!(Instant::now() < deadline, "this takes too long");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A handler that says `name` and the parameters that it was asked for, then ends.
fn saying(
    name: &'static str,
    params: &'static [&'static str],
) -> impl Fn(Request) -> std::pin::Pin<Box<dyn Future<Output = wireline::Result<()>> + Send>> {
    move |req| {
        Box::pin(async move {
            let params: Vec<_> = params.iter().map(|param| format!("{:?}", req.param(param))).collect();
            let ws = req.accept().await?;
            Ok(ws.send([&[name.to_owned()], &params[..]].concat().join(" ")).await?)
        })
    }
}

/// What the handler for `path` says and which subprotocol it chose, or the status of the refusal.
async fn told(addr: SocketAddr, path: &str, offer: &[&str]) -> Result<(String, Option<String>), u16> {
    let connecting = connect(format!("ws://{addr}{path}")).protocols(offer.iter().copied());
    match soon(connecting.into_future()).await {
        Ok(mut ws) => {
            let protocol = ws.protocol().map(str::to_owned);
            let said = soon(ws.recv()).await.expect("no loss").expect("it says something");
            Ok((said.to_string(), protocol))
        }
        Err(ConnectError::Rejected(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{path}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_finds_its_handler_with_its_parameters() {
    let server = Server::new()
        .route("/", saying("root", &[]))
        .route("/chat/{room}", saying("chat", &["room", "other"]))
        .route("/chat/lobby", saying("lobby", &["room"]))
        .route("/files/{user}/{*path}", saying("files", &["user", "path"]));
    let (addr, _) = listen(&server);
    for (path, said) in [
        ("/", Ok("root")),
        ("/?a=b", Ok("root")),
        ("/chat/rust", Ok("chat Some(\"rust\") None")),
        ("/chat/caf%C3%A9%2Fx?y", Ok("chat Some(\"café/x\") None")),
        ("/chat/%fF", Ok("chat Some(\"%FF\") None")),
        ("/chat/%2525%%zz%2", Ok("chat Some(\"%25%%zz%2\") None")),
        ("/chat/lobby", Ok("lobby None")),
        ("/files/john/a/b.txt", Ok("files Some(\"john\") Some(\"a/b.txt\")")),
        ("/chat", Err(404)),
        ("/chat/", Err(404)),
        ("/chat/a/b", Err(404)),
        ("/elsewhere", Err(404)),
    ] {
        let told = told(addr, path, &[]).await;
        assert_eq!(told, said.map(|said| (said.to_owned(), None)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_the_same_however_it_is_encoded() {
    let server = Server::new()
        .route("/café au lait", saying("café", &[]))
        .route("/caf%c3%a9/{größe}", saying("size", &["größe"]))
        .route("/chat/{room}", saying("chat", &["room"]))
        .route("/chat/~john", saying("john", &[]))
        .route("/100%", saying("all", &[]))
        .route("/{{a}}", saying("braces", &[]));
    let (addr, _) = listen(&server);
    for (path, said) in [
        ("/caf%C3%A9%20au%20lait", Ok("café")),
        ("/%63af%c3%a9%20au%20lait", Ok("café")),
        ("/caf%C3%A9/gro%C3%9f", Ok("size Some(\"groß\")")),
        ("/chat/%7Ejohn", Ok("john")),
        ("/%63hat/%7ejo%68n", Ok("john")),
        ("/chat/%7Ejohn%2F", Ok("chat Some(\"~john/\")")),
        ("/100%25", Ok("all")),
        ("/%7Ba%7D", Ok("braces")),
        // What has a meaning of its own is another when it is encoded (RFC 3986 section 2.2).
        ("/chat%2F~john", Err(404)),
        ("/CHAT/~john", Err(404)),
    ] {
        let told = told(addr, path, &[]).await;
        assert_eq!(told, said.map(|said| (said.to_owned(), None)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_route_takes_goes_to_on_request() {
    let server = Server::new().route("/a", saying("a", &[])).on_request(saying("rest", &["room"]));
    let (addr, _) = listen(&server);
    assert_eq!(told(addr, "/a", &[]).await, Ok(("a".into(), None)));
    assert_eq!(told(addr, "/b", &[]).await, Ok(("rest None".into(), None)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_events_do_not_take_what_no_route_takes() {
    let server = Server::new().route("/a", saying("a", &[])).on_message(|_, _| async { Ok(()) });
    let (addr, _) = listen(&server);
    assert_eq!(told(addr, "/b", &[]).await, Err(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_favourite_subprotocol_finds_the_handler_and_is_chosen() {
    let server = Server::new()
        .route_protocol("/p", "v1", saying("one", &[]))
        .route_protocol("/p", "v2", saying("two", &[]))
        .route_protocol("/q", "v1", saying("q one", &[]))
        .route("/q", saying("q any", &[]));
    let (addr, _) = listen(&server);
    let chosen = |name: &str, protocol: &str| Ok((name.to_owned(), Some(protocol.to_owned())));
    assert_eq!(told(addr, "/p", &["v2", "v1"]).await, chosen("two", "v2"));
    assert_eq!(told(addr, "/p", &["v9", "v1", "v2"]).await, chosen("one", "v1"));
    assert_eq!(told(addr, "/q", &["v1"]).await, chosen("q one", "v1"));
    assert_eq!(told(addr, "/q", &[]).await, Ok(("q any".into(), None)));
    for offer in [&[][..], &["v3"], &["V1"]] {
        assert_eq!(told(addr, "/p", offer).await, Err(404), "{offer:?}");
    }
}

#[tokio::test]
async fn a_route_that_cannot_be_used_is_an_error_when_the_server_is_to_listen() {
    let route = |path: &str| Server::new().route(path, saying("a", &[]));
    for server in [
        route("chat"),
        route(""),
        route("/{a"),
        route("/{*a}/b"),
        route("/a").route("/a", saying("b", &[])),
        route("/{a}").route("/{b}", saying("b", &[])),
        route("/é").route("/%C3%A9", saying("b", &[])),
        route("/b").route_protocol("/a", "", saying("a", &[])),
        route("/b").route_protocol("/a", "v1, v2", saying("a", &[])),
        route("/b").route_protocol("/a", "v1", saying("a", &[])).route_protocol("/a", "v1", saying("b", &[])),
    ] {
        let error = server.bind("127.0.0.1:0").expect_err("it cannot be used");
        assert!(matches!(error, Error::Setup(SetupError::Route { .. })), "{error}");
    }
}

fn socket_path() -> PathBuf {
    std::env::temp_dir().join(format!("wireline-routing-{}.sock", std::process::id()))
}

fn authority_and_server() -> (String, ServerTls) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it can be made");
    let cert = certified.cert.pem();
    let tls = ServerTls::from_pem(cert.as_bytes(), certified.signing_key.serialize_pem().as_bytes());
    (cert, tls.expect("it is a certificate and its key"))
}

async fn open(connecting: Connect) -> WebSocket {
    soon(connecting.into_future()).await.expect("it is accepted")
}

async fn expect(ws: &mut WebSocket, text: &str) {
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(text.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_listens_on_tcp_tls_and_a_unix_socket_at_once() {
    let (authority, tls) = authority_and_server();
    let server = Server::new().on_message(|_, _| async { Ok(()) });
    let path = socket_path();
    let plain = server.bind("127.0.0.1:0").expect("a port is free");
    let secure = server.clone().tls(tls).bind("127.0.0.1:0").expect("a port is free");
    let local = server.bind_unix(&path).expect("the path is free");
    let plain_url = format!("ws://{}/", plain.local_addr().expect("it is bound"));
    let secure_url = format!("wss://localhost:{}/", secure.local_addr().expect("it is bound").port());
    let serving = tokio::spawn(async { tokio::join!(plain.serve(), secure.serve(), local.serve()) });

    let trusting = ClientTls::with_ca_pem(authority.as_bytes()).expect("it is a certificate");
    let mut all = [
        open(connect(plain_url)).await,
        open(connect(secure_url).tls(trusting)).await,
        open(connect("ws://localhost/").unix_socket(&path)).await,
    ];
    let handle = server.handle();
    until(|| handle.sockets().len() == 3).await;
    assert_eq!(handle.broadcast("to all"), 3);
    for ws in &mut all {
        expect(ws, "to all").await;
    }
    let shutting_down = tokio::spawn(async move { handle.shutdown(Duration::from_secs(5)).await });
    for ws in &mut all {
        assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
        assert_eq!(ws.closed().await.code, 1001);
    }
    let drained = soon(shutting_down).await.expect("no panic");
    assert_eq!((drained.connections, drained.cut), (3, 0));
    soon(serving).await.expect("each listener has stopped");
    std::fs::remove_file(path).expect("it was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_says_all_hear_in_the_same_order() {
    let server = Server::new();
    let everyone = server.handle();
    let server = server.on_message(move |_, message| {
        everyone.broadcast(message);
        async { Ok(()) }
    });
    let (addr, handle) = listen(&server);
    let mut peers: Vec<_> = (0..5).map(|_| RawPeer::connect(addr)).collect();
    until(|| handle.sockets().len() == 5).await;
    for number in 0..20 {
        peers[number % 5].send(&Frame::text(number.to_string()));
        for peer in &mut peers {
            peer.expect(&Frame::text(number.to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_been_accepted_hears_what_is_said_to_all() {
    let server = Server::new();
    let everyone = server.handle();
    let server = server.on_open(move |socket| {
        everyone.broadcast(format!("{} is here", socket.id()));
        async { Ok(()) }
    });
    let (addr, _) = listen(&server);
    for _ in 0..20 {
        let mut peer = RawPeer::connect(addr);
        let frame = peer.read().expect("it hears of itself");
        assert!(String::from_utf8_lossy(&frame.payload).ends_with(" is here"), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_tells_how_many_get_it_and_waits_for_nobody() {
    const LEN: usize = 100_000;
    let server =
        Server::new().config(Config::server().send_cap(LEN + 100)).on_message(|_, _| async { Ok(()) });
    let (addr, handle) = listen(&server);
    assert_eq!(handle.broadcast("nobody hears"), 0);
    let (mut reading, _stuck) = (RawPeer::connect(addr), RawPeer::connect(addr));
    until(|| handle.sockets().len() == 2).await;
    let prepared = Prepared::new(vec![1; LEN]);
    let mut heard = Vec::new();
    for _ in 0..400 {
        let sent = handle.broadcast(prepared.clone());
        // The one that reads gets it before the next is sent.
        reading.expect(&Frame::binary(vec![1; LEN]));
        heard.push(sent);
    }
    assert_eq!(heard[0], 2);
    assert_eq!(heard[399], 1, "the one that does not read is left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_those_that_were_accepted_and_the_others_are_pending() {
    let (give, mut requests) = mpsc::unbounded_channel();
    let server = Server::new().on_request(move |req: Request| {
        let _ = give.send(req);
        std::future::ready(Ok(()))
    });
    let (addr, handle) = listen(&server);
    let connecting = tokio::spawn(connect(format!("ws://{addr}/")).into_future());
    let request = soon(requests.recv()).await.expect("it comes");
    assert_eq!((handle.connections(), handle.pending(), handle.sockets().len()), (1, 1, 0));
    let ours = soon(request.accept().into_future()).await.expect("the client waits");
    let mut ws = soon(connecting).await.expect("no panic").expect("it is accepted");
    assert_eq!((handle.connections(), handle.pending(), handle.sockets().len()), (1, 0, 1));
    let socket = handle.sockets().remove(0);
    assert_eq!(socket.id(), ours.id());
    socket.send("by its handle").await.expect("it is open");
    expect(&mut ws, "by its handle").await;
    handle.sockets()[0].close_with(4001, "all out").expect("it can be sent");
    assert_eq!(soon(ws.closed()).await.code, 4001);
    assert_eq!(soon(socket.closed()).await.code, 4001);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    until(|| handle.connections() == 0).await;
    assert_eq!((handle.pending(), handle.sockets().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_dropped_lets_its_connections_go_on() {
    let server = Server::new().on_message(|socket, message| async move { Ok(socket.send(message).await?) });
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound");
    let serving = tokio::spawn(listener.serve());
    let mut ws = open(connect(format!("ws://{addr}/"))).await;
    serving.abort();
    assert!(soon(serving).await.is_err_and(|ended| ended.is_cancelled()));
    let refused = soon(connect(format!("ws://{addr}/")).into_future()).await;
    assert!(matches!(refused, Err(ConnectError::Tcp { .. })), "nobody listens there any more");
    ws.send("still here").await.expect("it is open");
    expect(&mut ws, "still here").await;
}
