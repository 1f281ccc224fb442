//! Speaks to someone else's echo server, checks every answer, and closes with a code and a reason.
//!
//!     peer_client URL [SUBPROTOCOL] [--ca FILE] [--deflate [--no-context-takeover] [--window BITS]]
//!
//! With `--deflate` it has more to say, of which some shrinks and some does not, and compresses what does.
//! The two options behind it are what it asks of its server: not to refer to earlier messages, or no
//! further back than `2^BITS` bytes.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use wireline::{ClientTls, Config, Deflate, Error, Message, Result, WebSocket, connect};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or_else(|| Error::other("usage: peer_client URL [SUBPROTOCOL] [OPTION]..."))?;
    let (mut protocol, mut ca, mut deflate, mut speaks_more) = (None, None, Deflate::client(), false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Error::other(format!("{arg} wants a value")));
        match &*arg {
            "--ca" => ca = Some(value()?),
            "--deflate" => (deflate, speaks_more) = (deflate.threshold(0), true),
            "--no-context-takeover" => deflate = deflate.receive_context_takeover(false),
            "--window" => deflate = deflate.receive_window_bits(value()?.parse().map_err(Error::other)?),
            _ => protocol = Some(arg),
        }
    }
    let mut connecting = connect(url).protocols(protocol).config(Config::client().deflate(deflate));
    if let Some(file) = ca {
        connecting = connecting.tls(ClientTls::with_ca_file(file)?);
    }
    let mut ws = connecting.await?;
    println!("agreed on {:?}", ws.extensions());
    expect_echo(&mut ws, "My name is John".into()).await?;
    let bytes: Vec<u8> = (0..300u16).map(|byte| byte.to_be_bytes()[1]).collect();
    expect_echo(&mut ws, bytes.into()).await?;
    if speaks_more {
        // Twice, so that the second time can refer to the first.
        for message in [messages(), messages()].concat() {
            expect_echo(&mut ws, message).await?;
        }
    }
    ws.close_with(4001, "done")?;
    while ws.recv().await?.is_some() {}
    if let Some(totals) = ws.deflate_totals() {
        println!("sent {} bytes as {}", totals.sent, totals.sent_compressed);
        println!("received {} bytes as {}", totals.received, totals.received_compressed);
    }
    println!("{}", ws.closed().await);
    Ok(())
}

/// Text and bytes of many sizes, alike as messages of one application are, and noise.
fn messages() -> Vec<Message> {
    let sizes = [0, 1, 20, 300, 4000, 20_000, 70_000];
    let texts = sizes.map(|size| {
        let items = (0..size / 40).map(|n| format!(r#"{{"id":{},"name":"線 é 𝄞"}}"#, n * size));
        items.collect::<Vec<_>>().join(",")
    });
    let bytes = texts.clone().map(|text| Message::from(text.into_bytes()));
    let noise = sizes.map(|size| Message::from(noise(size)));
    texts.map(Message::from).into_iter().chain(bytes).chain(noise).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

async fn expect_echo(ws: &mut WebSocket, message: Message) -> Result<()> {
    ws.send(message.clone()).await?;
    let echo = ws.recv().await?;
    if echo.as_ref() != Some(&message) {
        return Err(Error::other(format!("sent {} bytes, {} came back", message.len(), described(echo))));
    }
    Ok(())
}

fn described(echo: Option<Message>) -> String {
    echo.map_or("the end".to_owned(), |message| format!("{} others", message.len()))
}
