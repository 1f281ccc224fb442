//! The tutorial's server: accepts `echo-protocol` from origins that are allowed, and echoes.

use http::StatusCode;
use wireline::{Request, Server};

fn origin_is_allowed(_origin: Option<&str>) -> bool {
    true
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    Server::new()
        .dangerous_any_origin() // the handler looks at the origin itself
        .on_request(|req: Request| async move {
            if !origin_is_allowed(req.origin()) {
                return req.reject(StatusCode::FORBIDDEN).await;
            }
            let mut ws = req.accept().protocol("echo-protocol").await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .listen("127.0.0.1:8080")
        .await
}
