//! What `docs/migration/from-ws.md` shows.
#![allow(clippy::print_stdout, reason = "the guide's programs say what they see")]

use http::StatusCode;
use wireline::{Config, Request, Server};

pub(crate) fn chat() -> Server {
    let server = Server::new().config(Config::server().max_message_size(64 << 10));
    let everyone = server.handle();
    server
        .on_request(|req: Request| async move {
            if req.header("Authorization") != Some("Bearer 1234") {
                return req.reject(StatusCode::UNAUTHORIZED).await;
            }
            req.accept().run().await
        })
        .on_open(|socket| async move {
            socket.send("welcome").await?;
            Ok(())
        })
        .on_message(move |_, message| {
            everyone.broadcast(message);
            async { Ok(()) }
        })
        .on_error(|_, error| eprintln!("{error}"))
}

pub(crate) async fn client(url: &str) -> wireline::Result<()> {
    let mut ws = wireline::connect(url).header("Authorization", "Bearer 1234").await?;
    ws.send("hello, everyone").await?;
    while let Some(message) = ws.recv().await? {
        println!("{message}");
        if message.as_text() == Some("hello, everyone") {
            ws.close_with(1000, "seen")?;
        }
    }
    Ok(())
}
