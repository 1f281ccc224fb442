//! tokio-tungstenite's client: what is ready is answered, then flushed.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use wireline_bench::client::{Conversation, Outcome, run};

fn main() {
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let config = WebSocketConfig::default().max_message_size(Some(wireline_bench::MAX_MESSAGE_SIZE));
    let stream = conversation.connect().await?;
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(conversation.url(), stream, Some(config)).await?;
    for _ in 0..conversation.in_flight {
        socket.feed(Message::text(conversation.message())).await?;
    }
    socket.flush().await?;
    while let Some(message) = socket.next().await {
        let mut message = message?;
        loop {
            if let Message::Text(text) = message {
                conversation.answer(text.as_bytes());
                socket.feed(Message::text(conversation.message())).await?;
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
