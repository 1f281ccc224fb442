//! The tutorial's server in event style, line by line as it stands there. Give an address to listen
//! elsewhere than on 127.0.0.1:8080.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use http::StatusCode;
use wireline::{Message, Request, Server};

fn origin_is_allowed(_origin: Option<&str>) -> bool {
    true
}

pub(crate) fn server() -> Server {
    Server::new()
        .dangerous_any_origin() // on_request looks at the origin itself
        .on_request(|req: Request| async move {
            if !origin_is_allowed(req.origin()) {
                println!("Connection from origin {:?} rejected.", req.origin());
                return req.reject(StatusCode::FORBIDDEN).await;
            }
            req.accept().protocol("echo-protocol").run().await
        })
        .on_open(|_| async {
            println!("Connection accepted.");
            Ok(())
        })
        .on_message(|socket, message| async move {
            match &message {
                Message::Text(text) => println!("Received Message: {text}"),
                Message::Binary(bytes) => println!("Received Binary Message of {} bytes", bytes.len()),
            }
            socket.send(message).await?;
            Ok(())
        })
        .on_close(|socket, close| async move {
            println!("Peer {:?} disconnected: {close}", socket.client_ip());
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
