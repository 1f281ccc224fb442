//! The tutorial's server: accepts `echo-protocol` from origins that are allowed, and echoes. Give an
//! address to listen elsewhere than on 127.0.0.1:8080.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use http::StatusCode;
use wireline::{Request, Server};

fn origin_is_allowed(_origin: Option<&str>) -> bool {
    true
}

pub(crate) fn server() -> Server {
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
}

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let listener = server().bind(addr)?;
    println!("Server is listening on {}", listener.local_addr()?);
    listener.serve().await;
    Ok(())
}
