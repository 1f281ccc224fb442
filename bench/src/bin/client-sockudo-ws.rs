//! sockudo-ws's client: answers are queued with `feed`, and the stream flushes them before it reads more.

use futures_util::{SinkExt as _, StreamExt as _};
use sockudo_ws::{Config, Http1, Message, client::WebSocketClient};
use wireline_bench::client::{Conversation, Outcome, run};

fn main() {
    sockudo_ws::init_clock();
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let config = Config::builder()
        .max_message_size(wireline_bench::MAX_MESSAGE_SIZE)
        .ping_interval(wireline_bench::KEEPALIVE_SECONDS)
        .build();
    let stream = conversation.connect().await?;
    let host = conversation.address.to_string();
    let client = WebSocketClient::<Http1>::new(config);
    let (mut socket, _) = client.connect_raw(stream, &host, "/", None).await?;
    for _ in 0..conversation.in_flight {
        socket.feed(Message::Text(conversation.message().into())).await?;
    }
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => {
                conversation.answer(&text);
                socket.feed(Message::Text(conversation.message().into())).await?;
            }
            Message::Close(_) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}
