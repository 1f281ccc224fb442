//! A whole server, with its routes and handlers, as a service of tower's: under middleware, served by
//! hyper.
//!
//! ```sh
//! cargo run -p wireline --example in_tower
//! ```

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use wireline::Server;

pub(crate) fn server() -> Server {
    Server::new().route("/echo", |req: wireline::Request| async move { req.accept().run().await }).on_message(
        |socket, message| async move {
            socket.send(message).await?;
            Ok(())
        },
    )
}

pub(crate) async fn serve(listener: TcpListener, server: Server) -> wireline::Result<()> {
    let service = server.into_service()?;
    loop {
        let (stream, remote_addr) = listener.accept().await?;
        // What tower has for requests works for these, too.
        let service = ServiceBuilder::new()
            .map_request(move |request: Request<Incoming>| {
                eprintln!("{remote_addr}: {} {}", request.method(), request.uri());
                request
            })
            .service(service.clone().remote_addr(remote_addr));
        tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(service);
            if let Err(error) = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
                eprintln!("{error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    eprintln!("ws://{}/echo", listener.local_addr()?);
    serve(listener, server()).await
}
