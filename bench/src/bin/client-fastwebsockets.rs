//! fastwebsockets' client, after the example of its page; each message is a write of its own.

use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, handshake};
use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    header::{CONNECTION, UPGRADE},
};
use wireline_bench::client::{Conversation, Outcome, run};

fn main() {
    run(talk);
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let request = Request::get(conversation.url())
        .header("Host", conversation.address.to_string())
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13")
        .body(Empty::<Bytes>::new())?;
    let (mut socket, _) = handshake::client(&Spawner, request, conversation.connect().await?).await?;
    socket.set_max_message_size(wireline_bench::MAX_MESSAGE_SIZE);
    let mut socket = FragmentCollector::new(socket);
    for _ in 0..conversation.in_flight {
        socket.write_frame(next(&mut conversation)).await?;
    }
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text => {
                conversation.answer(&frame.payload);
                socket.write_frame(next(&mut conversation)).await?;
            }
            _ => {}
        }
    }
}

fn next(conversation: &mut Conversation) -> Frame<'static> {
    Frame::text(Payload::Owned(conversation.message().into_bytes()))
}

/// What hyper's tasks run on.
struct Spawner;

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}
