//! A WebSocket in an HTTP server of one's own, on hyper: `wireline::upgrade`.
//!
//! ```sh
//! cargo run -p wireline --example in_hyper
//! ```

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use wireline::Body;

/// Answers one request, whatever it asks for.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if wireline::is_upgrade(&request) {
        return Ok(match wireline::upgrade(&mut request) {
            Ok(upgrade) => upgrade.on_request(talk).await,
            Err(error) => error.into_response(),
        });
    }
    let mut response = Response::new(Body::from("not here\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

/// What a handler of wireline's own server looks like, too.
async fn talk(req: wireline::Request) -> wireline::Result<()> {
    if req.path() != "/echo" {
        return req.reject(StatusCode::NOT_FOUND).await;
    }
    let mut ws = req.accept().await?;
    while let Some(message) = ws.recv().await? {
        ws.send(message).await?;
    }
    Ok(())
}

pub(crate) async fn serve(listener: TcpListener) -> wireline::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = connection.with_upgrades().await {
                eprintln!("{error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    eprintln!("ws://{}/echo", listener.local_addr()?);
    serve(listener).await
}
