//! Redirects: followed on demand, and what they do not get.

use std::{
    future::{Future, IntoFuture as _},
    time::Duration,
};

use http::StatusCode;
use tokio::sync::mpsc;
use wireline::{ConnectError, Message, Request, Server, ServerTls, connect};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// Serves; where it is, without the scheme.
fn serve(server: &Server) -> String {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let place = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(listener.serve());
    place
}

/// A server that sends everyone elsewhere.
fn sending_to(status: u16, location: String) -> Server {
    Server::new().dangerous_any_origin().on_request(move |req: Request| {
        let status = StatusCode::from_u16(status).expect("it is one");
        let reject = req.reject(status).header("Location", &location);
        async move { reject.await }
    })
}

/// A server that tells which of these headers it got, with path and query, and says hello.
fn telling() -> (Server, mpsc::UnboundedReceiver<Vec<String>>) {
    const NAMES: [&str; 6] = ["Authorization", "Cookie", "X-Api-Key", "Origin", "User-Agent", "Host"];
    let (tell, told) = mpsc::unbounded_channel();
    let server = Server::new().dangerous_any_origin().on_request(move |req: Request| {
        let mut got = vec![req.uri().to_string()];
        got.extend(NAMES.iter().filter(|name| req.header(name).is_some()).map(ToString::to_string));
        tell.send(got).expect("it is heard");
        async move {
            req.accept().await?.send("hello").await?;
            Ok(())
        }
    });
    (server, told)
}

fn asking(url: String) -> wireline::Connect {
    connect(url)
        .header("Authorization", "Bearer 1234")
        .header("Cookie", "a=b")
        .header("X-Api-Key", "1234")
        .header("User-Agent", "me")
        .origin("https://app.example")
}

#[tokio::test]
async fn none_is_followed_unasked_and_no_more_than_were_allowed() {
    let (end, _told) = telling();
    let third = serve(&sending_to(308, format!("ws://{}/end", serve(&end))));
    let second = serve(&sending_to(307, format!("ws://{third}/third")));
    let first = serve(&sending_to(302, format!("ws://{second}/second")));
    for (most, last) in [(0, 302), (1, 307), (2, 308)] {
        match soon(connect(format!("ws://{first}/")).redirects(most).into_future()).await {
            Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), last),
            other => panic!("{other:?}"),
        }
    }
    let mut ws =
        soon(connect(format!("ws://{first}/")).redirects(3).into_future()).await.expect("three are enough");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("hello")));
    assert!(ws.url().expect("it is a client").ends_with("/end"));
}

#[tokio::test]
async fn another_host_gets_nothing_that_could_be_a_secret() {
    let (end, mut told) = telling();
    let other = serve(&sending_to(302, format!("http://{}/chat?x=1#y", serve(&end))));
    // Through the same address under another name, which is another host.
    for url in [
        format!("ws://{other}/"),
        format!("ws://user:password@localhost:{}/", other.rsplit(':').next().expect("a port")),
    ] {
        soon(asking(url).redirects(1).into_future()).await.expect("it is followed");
        let got = soon(told.recv()).await.expect("it was asked");
        assert_eq!(got, ["/chat?x=1", "Origin", "User-Agent", "Host"]);
    }
}

#[tokio::test]
async fn the_same_host_gets_what_it_got_before() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::new()
        .dangerous_any_origin()
        .route("/old/place", |req: Request| async move {
            req.reject(StatusCode::MOVED_PERMANENTLY).header("Location", "../new?a=b").await
        })
        .route("/new", move |req: Request| {
            let got = ["Authorization", "Cookie", "X-Api-Key"].map(|name| req.header(name).is_some());
            tell.send((req.uri().to_string(), got)).expect("it is heard");
            async move { req.accept().run().await }
        });
    let place = serve(&server);
    soon(asking(format!("ws://{place}/old/place")).redirects(1).into_future()).await.expect("it is followed");
    assert_eq!(soon(told.recv()).await.expect("it was asked"), ("/new?a=b".to_owned(), [true; 3]));
}

#[tokio::test]
async fn what_cannot_be_followed_is_the_refusal_that_it_is() {
    for (status, location) in
        [(302, "ftp://127.0.0.1/"), (302, ""), (304, "/x"), (300, "/x"), (303, "http://")]
    {
        let place = serve(&sending_to(status, location.to_owned()));
        let url = format!("ws://{place}/");
        match soon(connect(url).redirects(1).into_future()).await {
            Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), status, "{location}"),
            other => panic!("{location}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_circle_ends() {
    let server = sending_to(302, "/".to_owned());
    let place = serve(&server);
    let error =
        soon(connect(format!("ws://{place}/")).redirects(20).into_future()).await.expect_err("it never ends");
    assert!(matches!(error, ConnectError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn none_leads_out_of_tls() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    let pem = certificate.cert.pem();
    let tls = ServerTls::from_pem(pem.as_bytes(), certificate.signing_key.serialize_pem().as_bytes())
        .expect("it is right");
    let (end, mut told) = telling();
    let place = serve(&sending_to(302, format!("ws://{}/", serve(&end))).tls(tls));
    let url = format!("wss://localhost:{}/", place.rsplit(':').next().expect("a port"));
    let trusting = wireline::ClientTls::with_ca_pem(pem.as_bytes()).expect("it is right");
    match soon(connect(url).tls(trusting).redirects(1).into_future()).await {
        Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), 302),
        other => panic!("{other:?}"),
    }
    assert!(told.try_recv().is_err(), "nobody came");
}
