//! wireline's client: the loop of its README, answering each message with the next.

use wireline::Config;
use wireline_bench::client::{Conversation, Outcome, run};

fn main() {
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let config = Config::client().max_message_size(wireline_bench::MAX_MESSAGE_SIZE);
    let mut ws = wireline::connect(conversation.url()).config(config).await?;
    for _ in 0..conversation.in_flight {
        ws.send(conversation.message()).await?;
    }
    while let Some(message) = ws.recv().await? {
        conversation.answer(message.as_bytes());
        ws.send(conversation.message()).await?;
    }
    Ok(())
}
