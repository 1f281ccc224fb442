//! sockudo-ws, after its own example `simple_echo` and the echo loop that its page recommends: answers are
//! queued with `feed`, and the stream flushes them before it reads more.

use bytes::BytesMut;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use sockudo_ws::{
    Config, DeflateConfig, Error, Http2, Message, Result, WebSocketServer, WebSocketStream,
    deflate::{DeflateWindowBits, negotiate_server_deflate},
    handshake::{build_response, generate_accept_key, parse_request},
    stream::CompressedWebSocketStream,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

fn main() {
    sockudo_ws::init_clock();
    wireline_bench::serve!(serve)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    if wireline_bench::behind("http2").is_some() {
        let server = WebSocketServer::<Http2>::new(config());
        let _ = server.serve(stream, |socket, _| async move { drop(answer(socket).await) }).await;
        return;
    }
    let _ = echo(stream).await;
}

fn config() -> Config {
    Config::builder()
        .max_message_size(wireline_bench::MAX_MESSAGE_SIZE)
        .ping_interval(wireline_bench::KEEPALIVE_SECONDS)
        .build()
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut stream: S) -> Result<()> {
    let deflate = shake_hands(&mut stream).await?;
    match deflate {
        Some(deflate) => answer(CompressedWebSocketStream::server(stream, config(), deflate)).await,
        None => answer(WebSocketStream::server(stream, config())).await,
    }
}

async fn answer<S>(mut socket: S) -> Result<()>
where
    S: Stream<Item = Result<Message>> + Sink<Message, Error = Error> + Unpin,
{
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.feed(message).await?,
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Option<DeflateConfig>> {
    let mut request = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((head, _)) = parse_request(&request)? {
            let offers = head.extensions.filter(|_| wireline_bench::deflate::is_asked_for());
            let agreed = offers.and_then(|offers| negotiate_server_deflate(offers, &policy()));
            let extension = agreed.as_ref().map(|agreed| agreed.to_response_header());
            let response = build_response(&generate_accept_key(head.key), None, extension.as_deref());
            stream.write_all(&response).await?;
            return Ok(agreed.map(|agreed| agreed.config));
        }
    }
}

fn policy() -> DeflateConfig {
    DeflateConfig {
        server_max_window_bits: DeflateWindowBits::Bits12,
        client_max_window_bits: DeflateWindowBits::Bits12,
        compression_level: wireline_bench::deflate::LEVEL.into(),
        compression_threshold: 0,
        ..DeflateConfig::default()
    }
}
