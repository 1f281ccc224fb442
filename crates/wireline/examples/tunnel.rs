//! A connection as a pipe of bytes: TCP through a WebSocket, both ends of it. `ws://127.0.0.1:8080/` leads to
//! `127.0.0.1:22`, and `127.0.0.1:2222` leads there.
//!
//! ```sh
//! cargo run -p wireline --example tunnel
//! ssh -p 2222 127.0.0.1
//! ```

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use wireline::{Config, Request, Server};

/// The far end: every WebSocket is a connection to `target`.
pub(crate) fn server(target: SocketAddr) -> Server {
    // Bytes are handed on as they come, not only when a message is whole.
    Server::new().config(Config::server().receive_in_pieces(true)).on_request(
        move |req: Request| async move {
            let mut tcp = TcpStream::connect(target).await?;
            let mut pipe = req.accept().await?.into_io();
            copy_bidirectional(&mut tcp, &mut pipe).await?;
            Ok(())
        },
    )
}

/// The near end: every connection to `listener` is a WebSocket to `url`.
pub(crate) async fn enter(listener: TcpListener, url: String) -> wireline::Result<()> {
    loop {
        let (mut tcp, _) = listener.accept().await?;
        let connecting = wireline::connect(&url).config(Config::client().receive_in_pieces(true));
        tokio::spawn(async move {
            let mut pipe = connecting.await?.into_io();
            copy_bidirectional(&mut tcp, &mut pipe).await?;
            Ok::<_, wireline::Error>(())
        });
    }
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let far_end = server(SocketAddr::from(([127, 0, 0, 1], 22))).bind("127.0.0.1:8080")?;
    let near_end = TcpListener::bind("127.0.0.1:2222").await?;
    tokio::spawn(far_end.serve());
    enter(near_end, "ws://127.0.0.1:8080/".to_owned()).await
}
