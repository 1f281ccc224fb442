//! `wireline subscribe` and `wireline publish`: a hub's topics from the terminal.

use std::{
    future::ready,
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use wireline::{Error, Message, Result};
use wireline_hub::{
    Position,
    client::{Client, Event},
};

use crate::connect::TlsArgs;

/// Between attempts to publish what the hub could not take yet.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

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
    async fn connect(&self) -> Result<Client> {
        let tls = self.tls.load().map_err(wireline::ConnectError::from)?;
        let mut connect = Client::connect(self.url.as_str())
            .with(move |connect| match tls.clone() {
                Some(tls) => connect.tls(tls),
                None => connect,
            })
            .on_loss(|loss, delay| eprintln!("{loss}; again in {:.1} s", delay.as_secs_f32()));
        if let Some(token) = self.token.clone() {
            connect = connect.token(move || ready(Ok(token.clone())));
        }
        connect.await.map_err(Error::other)
    }
}

async fn try_subscribe(args: SubscribeArgs) -> Result<()> {
    let client = args.hub.connect().await?;
    let mut subscription =
        client.subscribe(args.topic.as_str()).last(args.last).await.map_err(Error::other)?;
    let mut left = args.count;
    while let Some(event) = subscription.recv().await.map_err(Error::other)? {
        match event {
            Event::Message { message, position } => {
                print(args.positions.then_some(position), &message)?;
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    break;
                }
            }
            Event::Join { member, .. } => eprintln!("join: {}", member.name()),
            Event::Leave { member, .. } => eprintln!("leave: {}", member.name()),
            Event::Reset { .. } => {
                eprintln!("something may be missing here: the hub does not have it any more");
            }
            _ => {}
        }
    }
    client.close().await;
    Ok(())
}

fn print(position: Option<Position>, payload: &Message) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(position) = position {
        write!(out, "{position}\t")?;
    }
    out.write_all(payload.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

async fn try_publish(args: PublishArgs) -> Result<()> {
    let client = args.hub.connect().await?;
    let mut lines = Lines::new(args.message);
    while let Some(line) = lines.next().await {
        // So that another attempt, after an error that passes, is known as one.
        let key = key()?;
        while let Err(error) = client.publish(args.topic.as_str(), line.as_str()).key(&key).await {
            if !error.is_temporary() {
                return Err(Error::other(error));
            }
            eprintln!("{error}; again in {:.1} s", BETWEEN_ATTEMPTS.as_secs_f32());
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }
    client.close().await;
    Ok(())
}

/// 128 bits that nobody can guess, which is what makes a hub know a key on another connection.
fn key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::other(error.to_string()))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
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
