//! A server that tells each client where it seems to come from, behind proxies of this machine: by what they say in
//! `X-Forwarded-For`, or, with `--proxy-protocol`, in the PROXY protocol. Then it echoes.
//!
//! ```sh
//! cargo run --example behind_a_proxy
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::net::IpAddr;

use wireline::{Request, Result, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let server = Server::new().on_request(|req: Request| async move {
        let client = req.client_ip().as_ref().map_or_else(|| "unknown".into(), IpAddr::to_string);
        let mut ws = req.accept().await?;
        ws.send(client).await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    });
    let loopback = ["127.0.0.1"];
    let server = if std::env::args().any(|arg| arg == "--proxy-protocol") {
        server.proxy_protocol(loopback)
    } else {
        server.trust_x_forwarded_for(loopback)
    };
    let listener = server.bind("127.0.0.1:0")?;
    println!("listening on ws://{}/", listener.local_addr()?);
    listener.serve().await;
    Ok(())
}
