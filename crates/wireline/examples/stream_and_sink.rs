//! A connection as a `Stream` and a `Sink`, with the adapters of futures-util.
//!
//! ```sh
//! cargo run -p wireline --example stream_and_sink
//! ```

use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use wireline::{Error, Message, Request, Server};

/// Gives back every text in capital letters.
async fn shout(req: Request) -> wireline::Result<()> {
    let (sink, stream) = req.accept().await?.split();
    stream
        .map_err(Error::from)
        .try_filter_map(|message| async move {
            Ok(message.as_text().map(|text| Message::from(text.to_uppercase())))
        })
        .forward(sink.sink_map_err(Error::from))
        .await
}

pub(crate) fn server() -> Server {
    Server::new().on_request(shout)
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    eprintln!("ws://127.0.0.1:8080/");
    server().listen("127.0.0.1:8080").await
}
