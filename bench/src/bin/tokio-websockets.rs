//! tokio-websockets, after its own example `echo_server`, but all that is ready is answered with one flush.
//!
//! The stream flushes whenever it is polled, so what is ready is taken out of it before it is answered.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder};

fn main() {
    wireline_bench::serve!(serve)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let _ = echo(stream).await;
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<(), Error> {
    let (_request, mut socket) = ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(wireline_bench::MAX_MESSAGE_SIZE)))
        .accept(stream)
        .await?;
    let mut ready: Vec<Message> = Vec::new();
    while let Some(message) = socket.next().await {
        ready.push(message?);
        while let Some(Some(message)) = socket.next().now_or_never() {
            ready.push(message?);
        }
        for message in ready.drain(..).filter(|message| message.is_text() || message.is_binary()) {
            socket.feed(message).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}
