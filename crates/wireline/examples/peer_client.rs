//! Speaks to someone else's echo server, checks every answer, and closes with a code and a reason.
//! Give the server's URL, and a subprotocol if one is to be offered.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use wireline::{Error, Message, Result, WebSocket, connect};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or_else(|| Error::other("usage: peer_client URL [SUBPROTOCOL]"))?;
    let mut ws = connect(url).protocols(args).await?;
    expect_echo(&mut ws, "My name is John".into()).await?;
    let bytes: Vec<u8> = (0..300u16).map(|byte| byte.to_be_bytes()[1]).collect();
    expect_echo(&mut ws, bytes.into()).await?;
    ws.close_with(4001, "done")?;
    while ws.recv().await?.is_some() {}
    println!("{}", ws.closed().await);
    Ok(())
}

async fn expect_echo(ws: &mut WebSocket, message: Message) -> Result<()> {
    ws.send(message.clone()).await?;
    let echo = ws.recv().await?;
    if echo.as_ref() != Some(&message) {
        return Err(Error::other(format!("sent {message:?}, got {echo:?}")));
    }
    println!("echoed {message}");
    Ok(())
}
