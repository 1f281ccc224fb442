//! `wireline subscribe` and `wireline publish`: a hub's topics from the terminal.

use std::{
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};
use wireline::{Backoff, Connect, Error, Loss, Message, Reconnect, Result, WebSocket};

use crate::connect::TlsArgs;

/// Where the hub is, and who wants something of it.
#[derive(Debug, clap::Args)]
struct HubUrl {
    /// The hub: ws:// or wss://, most often with the path /hub
    url: String,

    /// Who this is: a token, or a name where the hub wants none
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,

    #[command(flatten)]
    tls: TlsArgs,
}

/// Print what is published to a topic of a hub, a line each, for as long as this runs.
///
/// A lost connection is opened again, and goes on where it was. Diagnostics go to standard error: also where
/// something may have been missed.
#[derive(Debug, clap::Args)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    hub: HubUrl,

    /// The topic
    topic: String,

    /// Begin with so many of the publications that are kept
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    last: usize,

    /// End after so many publications
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,

    /// Print each publication's position and a tab before it
    #[arg(long)]
    positions: bool,
}

/// Publish to a topic of a hub: the words given, or each line of standard input.
///
/// It ends when the hub has confirmed all. A lost connection is opened again, and what was not confirmed is
/// published once all the same.
#[derive(Debug, clap::Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    hub: HubUrl,

    /// The topic
    topic: String,

    /// What to publish, instead of the lines of standard input
    message: Option<String>,
}

pub(crate) async fn subscribe(args: SubscribeArgs) -> ExitCode {
    exit(try_subscribe(args).await)
}

pub(crate) async fn publish(args: PublishArgs) -> ExitCode {
    exit(try_publish(args).await)
}

fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wireline: {error}");
            ExitCode::FAILURE
        }
    }
}

impl HubUrl {
    fn connections(&self) -> Result<Reconnect> {
        let connect: Connect = wireline::connect(self.url.as_str()).protocols(["hub.v1"]);
        let connect = match self.tls.load().map_err(wireline::ConnectError::from)? {
            Some(tls) => connect.tls(tls),
            None => connect,
        };
        let connections = connect.reconnect(Backoff::default());
        Ok(connections
            .on_loss(|loss, delay| eprintln!("{loss}; again in {:.1} s", delay.as_secs_f32()))
            .give_up_if(|loss| match loss {
                // From 3500 to 3999 the next attempt would end the same way.
                Loss::Closed(event) if (3500..4000).contains(&u16::from(event.code)) => true,
                loss => loss.is_lasting(),
            }))
    }

    /// Says who this is.
    async fn authenticate(&self, ws: &WebSocket) -> Result<()> {
        say(ws, &json!({"op": "auth", "id": 1, "token": self.token}), "").await
    }
}

async fn say(ws: &WebSocket, header: &Value, payload: &str) -> Result<()> {
    let message = if payload.is_empty() { header.to_string() } else { format!("{header}\n{payload}") };
    Ok(ws.send(message).await?)
}

/// The header and the payload; `None` at the end of the connection, however it came.
async fn hear(ws: &mut WebSocket) -> Option<(Value, Message)> {
    loop {
        let message = ws.recv().await.ok()??;
        let bytes = message.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        // An empty message is a sign of life.
        let Ok(header) = serde_json::from_slice(&bytes[..end]) else { continue };
        let payload = message.clone().into_bytes().slice((end + 1).min(bytes.len())..);
        return Some((header, payload.into()));
    }
}

/// What the hub says of a request that it did not do.
fn refusal(header: &Value) -> Option<Error> {
    let code = header["err"]["code"].as_str()?;
    Some(Error::other(format!("the hub refuses: {code}")))
}

async fn try_subscribe(args: SubscribeArgs) -> Result<()> {
    let mut connections = args.hub.connections()?;
    let (mut position, mut left) = (None::<String>, args.count);
    loop {
        let mut ws = connections.next().await?;
        args.hub.authenticate(&ws).await?;
        let begin = match &position {
            Some(position) => json!({"op": "sub", "id": 2, "t": args.topic, "since": position}),
            None => json!({"op": "sub", "id": 2, "t": args.topic, "last": args.last}),
        };
        say(&ws, &begin, "").await?;
        while let Some((header, payload)) = hear(&mut ws).await {
            if let Some(error) = refusal(&header) {
                return Err(error);
            }
            if header["re"] == 2 {
                if position.is_some() && header["recovered"] == false {
                    eprintln!("something may be missing here: the hub does not have it any more");
                }
                position = header["pos"].as_str().map(str::to_owned);
            }
            if header["t"] != args.topic.as_str() {
                continue;
            }
            position = header["p"].as_str().or(header["pos"].as_str()).map(str::to_owned);
            match header["ev"].as_str() {
                Some("reset") => eprintln!("something may be missing here: {}", header["why"]),
                Some(event) => eprintln!("{event}: {}", header["who"].as_str().unwrap_or_default()),
                None => {
                    print(args.positions.then_some(position.as_deref()).flatten(), &payload)?;
                    left = left.map(|left| left - 1);
                    if left == Some(0) {
                        ws.close();
                        let _ = hear(&mut ws).await;
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn print(position: Option<&str>, payload: &Message) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(position) = position {
        write!(out, "{position}\t")?;
    }
    out.write_all(payload.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

async fn try_publish(args: PublishArgs) -> Result<()> {
    let mut connections = args.hub.connections()?;
    let mut lines = Lines::new(args.message);
    // So that an attempt whose answer was lost is known as one.
    let mut run = [0; 16];
    getrandom::fill(&mut run).map_err(|error| Error::other(error.to_string()))?;
    let run = run.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let (mut number, mut line) = (0_u64, lines.next().await);
    while line.is_some() {
        let mut ws = connections.next().await?;
        args.hub.authenticate(&ws).await?;
        while let Some(payload) = &line {
            let id = number + 2;
            let publish = json!({"op": "pub", "id": id, "t": args.topic, "key": format!("{run}{number}")});
            // Whether it was heard is in the answer.
            let _ = say(&ws, &publish, payload).await;
            let answer = loop {
                match hear(&mut ws).await {
                    Some((header, _))
                        if header["re"] == id || header["re"] == 1 && !header["err"].is_null() =>
                    {
                        break Some(header);
                    }
                    Some(_) => {}
                    None => break None,
                }
            };
            let Some(answer) = answer else { break };
            match refusal(&answer) {
                Some(_) if answer["err"]["temp"] == true => {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
                Some(error) => return Err(error),
                None => (number, line) = (number + 1, lines.next().await),
            }
        }
        ws.close();
    }
    Ok(())
}

/// What is to be published, one after the other.
struct Lines {
    given: Option<String>,
    input: Option<tokio::sync::mpsc::Receiver<String>>,
}

impl Lines {
    fn new(given: Option<String>) -> Self {
        if given.is_some() {
            return Self { given, input: None };
        }
        let (sender, input) = tokio::sync::mpsc::channel(64);
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(io::Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { given: None, input: Some(input) }
    }

    async fn next(&mut self) -> Option<String> {
        match &mut self.input {
            Some(input) => input.recv().await,
            None => self.given.take(),
        }
    }
}
