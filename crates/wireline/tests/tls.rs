//! `wss://` with certificates made for the test.

use std::{
    future::{Future, IntoFuture as _},
    net::SocketAddr,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use wireline::{
    ClientTls, CloseCode, Config, ConnectError, Message, Request, Server, ServerTls, WebSocket, connect,
};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// A certificate authority, as PEM, and a server's side for `name` that it vouches for.
fn authority_and_server(name: &str) -> (String, ServerTls) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("the system has random bytes");
    let authority = CertifiedIssuer::self_signed(params, key).expect("it can be signed");
    let key = KeyPair::generate().expect("the system has random bytes");
    let certificate = CertificateParams::new([name.to_owned()])
        .expect("the name is one")
        .signed_by(&key, &authority)
        .expect("it can be signed");
    let tls = ServerTls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    (authority.pem(), tls.expect("certificate and key go together"))
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
