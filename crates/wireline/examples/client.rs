//! The tutorial's client: says its name, prints what comes back, and tells how the connection ended.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let mut ws = wireline::connect("ws://127.0.0.1:8080/").protocols(["echo-protocol"]).await?;
    ws.send("My name is John").await?;
    while let Some(message) = ws.recv().await? {
        println!("[message] Data received from server: {message}");
        ws.close();
    }
    println!("[close] {}", ws.closed().await);
    Ok(())
}
