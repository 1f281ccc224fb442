//! yawc's client, set as its server here: large buffers, and a flush after 32 ready messages at most.

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use wireline_bench::client::{Conversation, Outcome, run};
use yawc::{Frame, OpCode, Options, WebSocket};

/// How many messages are answered before a flush.
const BATCH: usize = 32;

fn main() {
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let options = Options::default()
        .with_limits(wireline_bench::MAX_MESSAGE_SIZE, 2 * wireline_bench::MAX_MESSAGE_SIZE)
        .with_read_buffer_capacity(128 * 1024)
        .with_backpressure_boundary(64 * 1024)
        .with_no_delay()
        .with_utf8();
    let stream = conversation.connect().await?;
    let mut socket = WebSocket::handshake(conversation.url().parse()?, stream, options).await?;
    for _ in 0..conversation.in_flight {
        socket.feed(Frame::text(conversation.message())).await?;
    }
    socket.flush().await?;
    while let Some(frame) = socket.next().await {
        let mut frame = frame;
        for _ in 0..BATCH {
            if frame.opcode() == OpCode::Text {
                conversation.answer(frame.payload());
                socket.feed(Frame::text(conversation.message())).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => frame = next,
                Some(None) | None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}
