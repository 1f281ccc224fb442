//! tokio-websockets' client: all that is ready is answered with one flush, as by its server here.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio_websockets::{ClientBuilder, Config, Limits, Message};
use wireline_bench::client::{Conversation, Outcome, run};

fn main() {
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let (mut socket, _) = ClientBuilder::new()
        .uri(&conversation.url())?
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(wireline_bench::MAX_MESSAGE_SIZE)))
        .connect_on(conversation.connect().await?)
        .await?;
    for _ in 0..conversation.in_flight {
        socket.feed(Message::text(conversation.message())).await?;
    }
    socket.flush().await?;
    let mut ready: Vec<Message> = Vec::new();
    while let Some(message) = socket.next().await {
        ready.push(message?);
        while let Some(Some(message)) = socket.next().now_or_never() {
            ready.push(message?);
        }
        for message in ready.drain(..).filter(Message::is_text) {
            conversation.answer(message.as_payload());
            socket.feed(Message::text(conversation.message())).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}
