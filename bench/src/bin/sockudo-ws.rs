//! sockudo-ws, after its own example `simple_echo` and the echo loop that its page recommends: answers are
//! queued with `feed`, and the stream flushes them before it reads more.

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use sockudo_ws::{
    Config, Error, Message, Result, WebSocketStream,
    handshake::{build_response, generate_accept_key, parse_request},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn main() {
    sockudo_ws::init_clock();
    wireline_bench::serve(|stream| async move {
        let _ = echo(stream).await;
    });
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    shake_hands(&mut stream).await?;
    let config = Config::builder()
        .max_message_size(wireline_bench::MAX_MESSAGE_SIZE)
        .ping_interval(wireline_bench::KEEPALIVE_SECONDS)
        .build();
    let mut socket = WebSocketStream::server(stream, config);
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.feed(message).await?,
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

async fn shake_hands(stream: &mut TcpStream) -> Result<()> {
    let mut request = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((head, _)) = parse_request(&request)? {
            let response = build_response(&generate_accept_key(head.key), None, None);
            return Ok(stream.write_all(&response).await?);
        }
    }
}
