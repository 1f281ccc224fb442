//! What `docs/migration/from-tokio-tungstenite.md` shows.
#![allow(clippy::print_stdout, reason = "the guide's programs say what they see")]

use futures_util::{StreamExt as _, TryStreamExt as _};
use wireline::{CloseCause, Config, Error, Message, Request, Server, WebSocket};

pub(crate) fn server() -> Server {
    Server::new().config(Config::server().max_message_size(64 << 20)).on_request(|req: Request| async move {
        if req.header("Authorization") != Some("Bearer 1234") {
            return req.reject(http::StatusCode::UNAUTHORIZED).await;
        }
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

pub(crate) async fn client(url: &str) -> wireline::Result<u64> {
    let mut ws = wireline::connect(url).header("Authorization", "Bearer 1234").await?;

    let socket = ws.socket(); // a clone for each task that sends: no split, no Mutex, no channel
    let sending = tokio::spawn(async move {
        for n in 1..=3 {
            socket.send(format!("message {n}")).await?;
        }
        socket.close_with(1000, "that is all")?;
        Ok::<(), Error>(())
    });

    let mut received = 0;
    loop {
        match ws.recv().await {
            Ok(Some(Message::Text(text))) => received += text.len() as u64,
            Ok(Some(Message::Binary(bytes))) => received += bytes.len() as u64,
            Ok(None) => break, // the closing handshake completed
            Err(lost) => {
                // An error is the last that comes, and says why.
                if matches!(lost.close_event().cause, Some(CloseCause::PingTimeout)) {
                    println!("the peer is gone");
                }
                return Err(lost.into());
            }
        }
    }
    sending.await.map_err(Error::other)??;
    Ok(received)
}

pub(crate) async fn forward(ws: WebSocket) -> wireline::Result<()> {
    let (sink, stream) = ws.split();
    stream.map_err(Error::from).forward(futures_util::SinkExt::sink_map_err(sink, Error::from)).await
}
