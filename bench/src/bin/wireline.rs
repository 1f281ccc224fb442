//! wireline's echo server: the loop of its README, on one thread.

use wireline::{Config, Request, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> wireline::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "9001".into());
    Server::new()
        .config(Config::server().max_message_size(16 << 20))
        .on_request(|req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .listen(format!("127.0.0.1:{port}"))
        .await
}
