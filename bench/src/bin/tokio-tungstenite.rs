//! tokio-tungstenite, after its own example `echo-server`: what is ready is forwarded, then flushed.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{Error, protocol::WebSocketConfig};

fn main() {
    wireline_bench::serve!(serve)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let _ = echo(stream).await;
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<(), Error> {
    let config = WebSocketConfig::default().max_message_size(Some(wireline_bench::MAX_MESSAGE_SIZE));
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let mut message = message?;
        loop {
            if message.is_text() || message.is_binary() {
                socket.feed(message).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => message = next?,
                Some(None) | None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}
