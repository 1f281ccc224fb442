//! The client that Autobahn's fuzzing server examines: it echoes in every case, and asks for the report
//! at the end. Give the server's URL, and `--no-context-takeover` to offer that its compressed messages
//! do not refer to earlier ones; `--http2`, or `--http3` and the file of an authority, for another wire.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use wireline::{Client, ClientTls, Config, Connect, Deflate, Result};

const AGENT: &str = "wireline";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let server = args.first().map_or("ws://127.0.0.1:9001", String::as_str);
    // Where the suite tries compression, every answer is compressed, however small.
    let takeover = !args.iter().any(|option| option == "--no-context-takeover");
    let deflate = Deflate::client().threshold(0).send_context_takeover(takeover);
    let wire = Wire::of(&args)?;
    let mut ws = wire.connect(format!("{server}/getCaseCount")).await?;
    let count = ws.recv().await?;
    let count: u32 = count
        .as_ref()
        .and_then(|count| count.as_text()?.parse().ok())
        .ok_or_else(|| wireline::Error::other(format!("the case count is {count:?}")))?;
    drop(ws);
    for case in 1..=count {
        echo(wire.connect(format!("{server}/runCase?case={case}&agent={AGENT}")), deflate).await?;
    }
    let mut ws = wire.connect(format!("{server}/updateReports?agent={AGENT}")).await?;
    while let Ok(Some(_)) = ws.recv().await {}
    println!("ran {count} cases");
    Ok(())
}

/// What is spoken below the WebSocket, all of it on one connection where that can be.
struct Wire {
    client: Client,
    is_http2: bool,
    http3: Option<ClientTls>,
}

impl Wire {
    fn of(args: &[String]) -> Result<Self> {
        let authority = args.iter().skip_while(|option| *option != "--http3").nth(1);
        Ok(Self {
            client: Client::new(),
            is_http2: args.iter().any(|option| option == "--http2"),
            http3: authority.map(ClientTls::with_ca_file).transpose()?,
        })
    }

    fn connect(&self, url: String) -> Connect {
        let connect = self.client.connect(url);
        match &self.http3 {
            Some(tls) => connect.tls(tls.clone()).http3(),
            None if self.is_http2 => connect.http2(),
            None => connect,
        }
    }
}

/// One case. However it ends, the server judges it.
async fn echo(connect: Connect, deflate: Deflate) -> Result<()> {
    let config = Config::client().keepalive(None).deflate(deflate);
    let mut ws = connect.config(config).await?;
    while let Ok(Some(message)) = ws.recv().await {
        if ws.send(message).await.is_err() {
            break;
        }
    }
    ws.closed().await;
    Ok(())
}
