//! The client that Autobahn's fuzzing server examines: it echoes in every case, and asks for the report
//! at the end. Give the server's URL, and `--no-context-takeover` to offer that its compressed messages
//! do not refer to earlier ones.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use wireline::{Config, Deflate, Result, connect};

const AGENT: &str = "wireline";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "ws://127.0.0.1:9001".into());
    // Where the suite tries compression, every answer is compressed, however small.
    let takeover = !args.any(|option| option == "--no-context-takeover");
    let deflate = Deflate::client().threshold(0).send_context_takeover(takeover);
    let mut ws = connect(format!("{server}/getCaseCount")).await?;
    let count = ws.recv().await?;
    let count: u32 = count
        .as_ref()
        .and_then(|count| count.as_text()?.parse().ok())
        .ok_or_else(|| wireline::Error::other(format!("the case count is {count:?}")))?;
    drop(ws);
    for case in 1..=count {
        echo(&format!("{server}/runCase?case={case}&agent={AGENT}"), deflate).await?;
    }
    let mut ws = connect(format!("{server}/updateReports?agent={AGENT}")).await?;
    while let Ok(Some(_)) = ws.recv().await {}
    println!("ran {count} cases");
    Ok(())
}

/// One case. However it ends, the server judges it.
async fn echo(url: &str, deflate: Deflate) -> Result<()> {
    let config = Config::client().keepalive(None).deflate(deflate);
    let mut ws = connect(url).config(config).await?;
    while let Ok(Some(message)) = ws.recv().await {
        if ws.send(message).await.is_err() {
            break;
        }
    }
    ws.closed().await;
    Ok(())
}
