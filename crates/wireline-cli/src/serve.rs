//! `wireline serve`: an echo server with a page to meet it by.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration, time::Instant};

use http::{StatusCode, Version};
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wireline::{CloseEvent, Config, Deflate, Request, Result, Server, ServerHandle, ServerTls, WebSocket};

use crate::{hub::HubArgs, key_log, page, size};

/// How long open connections may take to close after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

const ECHO_PROTOCOL: &str = "echo-protocol";

/// Serve WebSockets: an echo at /, a clock that is pushed at /push, and a page for browsers.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(default_value = "127.0.0.1:8080")]
    addr: SocketAddr,

    /// Let in pages of this origin too, such as `https://app.example` (repeatable; pages of this server
    /// itself are always let in, programs that are no browsers too)
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,

    #[command(flatten)]
    tls: TlsArgs,

    /// Speak HTTP/2. With a certificate that is so anyhow, beside HTTP/1.1; without one it is by prior knowledge, and
    /// no HTTP/1.1 then
    #[arg(long)]
    http2: bool,

    /// Speak HTTP/3 too, on the UDP port of the same number, and say so to who asks over TCP (Alt-Svc)
    #[arg(long, requires = "tls_cert")]
    http3: bool,

    /// The longest message to take; longer ones close their connection with 1009
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size::parse)]
    max_message: usize,

    /// Compress messages (permessage-deflate) for clients that ask for it
    #[arg(long)]
    deflate: bool,

    /// Compress each message by itself, so that connections hold no window between messages
    #[arg(long, requires = "deflate")]
    no_context_takeover: bool,

    #[command(flatten)]
    hub: HubArgs,

    /// Do not log connections
    #[arg(long, short)]
    quiet: bool,
}

/// With what to serve wss://.
#[derive(Debug, clap::Args)]
struct TlsArgs {
    /// Serve wss:// with this certificate chain (PEM). Repeated, with a key each, for several names: the first
    /// is for clients that ask for none of them. SIGHUP has all files read again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,

    /// Let in only clients with a certificate that an authority in this file (PEM) vouches for
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// `None` without a certificate.
    fn load(&self) -> Result<Option<ServerTls>> {
        let (certs, keys) = (self.tls_cert.len(), self.tls_key.len());
        if certs != keys {
            let words =
                format!("--tls-cert and --tls-key go in pairs, in order: here are {certs} and {keys}");
            return Err(wireline::Error::other(words));
        }
        let mut pairs = self.tls_cert.iter().zip(&self.tls_key);
        let Some((cert, key)) = pairs.next() else { return Ok(None) };
        let mut tls = ServerTls::from_pem_files(cert, key)?;
        for (cert, key) in pairs {
            tls = tls.and_pem_files(cert, key)?;
        }
        if let Some(ca) = &self.client_ca {
            tls = tls.client_ca_file(ca)?;
        }
        Ok(Some(if key_log::is_wanted() { tls.key_log() } else { tls }))
    }
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: ServeArgs) -> ExitCode {
    match try_run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wireline: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn try_run(args: ServeArgs) -> Result<()> {
    let quiet = args.quiet;
    let takeover = !args.no_context_takeover;
    let deflate = Deflate::server().send_context_takeover(takeover).receive_context_takeover(takeover);
    let deflate = args.deflate.then_some(deflate);
    let config = Config::server().max_message_size(args.max_message).deflate(deflate);
    let hub = if args.hub.is_wanted() { Some(args.hub.start(args.addr).await?) } else { None };
    let server = Server::new().config(config);
    let mut server = match &hub {
        Some(hub) => hub.attach(server),
        None => server
            .on_http(|request| async move { page::respond(&request) })
            .on_request(move |request| handle(request, quiet)),
    };
    let mut schemes = ("http", "ws");
    let tls = args.tls.load()?;
    if let Some(tls) = &tls {
        server = server.tls(tls.clone());
        schemes = ("https", "wss");
    }
    if args.http2 {
        server = server.cleartext_http2();
    }
    if args.http3 {
        server = server.http3();
    }
    if !args.origin.is_empty() {
        server = server.origins(args.origin);
    }
    let listener = server.bind(args.addr)?;
    // Before anyone is told that it listens, so that no signal is missed.
    let mut signals = Signals::new()?;
    if let Some(tls) = tls {
        tokio::spawn(reload_at(signal(SignalKind::hangup())?, tls));
    }
    let addr = listener.local_addr()?;
    let what = if hub.is_some() { "hub.v1 at" } else { "echo at" };
    let more = if hub.is_some() { "hub, a topic alone at /topic/NAME" } else { ", clock at /push" };
    eprintln!("listening on {}://{addr}/ ({what} {}://{addr}/{more})", schemes.0, schemes.1);
    let handle = listener.handle();
    tokio::spawn(listener.serve());
    signals.next().await;
    if let Some(hub) = &hub {
        tokio::select! {
            () = hub.leave() => {}
            () = signals.next() => {}
        }
    }
    drain(&handle, &mut signals).await;
    Ok(())
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Reads certificates again at each SIGHUP.
async fn reload_at(mut hangup: Signal, tls: ServerTls) {
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => eprintln!(
                "read certificates, keys and client CAs again: they are for connections from now on"
            ),
            Err(error) => eprintln!("wireline: {error}; the certificates of before stay"),
        }
    }
}

/// Closes every connection; a second signal does not wait.
async fn drain(handle: &ServerHandle, signals: &mut Signals) {
    eprintln!("closing {} connections with 1001 going away", handle.connections());
    tokio::select! {
        drained = handle.shutdown(GRACE) => {
            eprintln!("closed {}, cut {}", drained.connections.saturating_sub(drained.cut), drained.cut);
        }
        () = signals.next() => eprintln!("cut {}", handle.connections()),
    }
}

async fn handle(request: Request, quiet: bool) -> Result<()> {
    let http = match request.version() {
        Version::HTTP_2 => " over HTTP/2",
        Version::HTTP_3 => " over HTTP/3",
        _ => "",
    };
    let log = Log { quiet, peer: request.remote_addr(), http, opened: Instant::now() };
    match request.path() {
        "/" => {
            let wants_echo = request.protocols().iter().any(|offer| offer == ECHO_PROTOCOL);
            let accept = request.accept();
            let accept = if wants_echo { accept.protocol(ECHO_PROTOCOL) } else { accept };
            let mut ws = accept.await?;
            log.opened(&ws, "echo");
            let messages = echo(&mut ws).await;
            log.closed(&ws.closed().await, ws.id(), messages);
        }
        "/push" => {
            let mut ws = request.accept().await?;
            log.opened(&ws, "clock");
            let messages = push_clock(&mut ws).await;
            log.closed(&ws.closed().await, ws.id(), messages);
        }
        path => {
            log.say(format_args!("refused {path}: 404"));
            let reject = request.reject(StatusCode::NOT_FOUND);
            reject.body("nothing lives here; the echo is at / and the clock at /push\n").await?;
        }
    }
    Ok(())
}

/// Sends every message back, until the connection ends; how many there were.
async fn echo(ws: &mut WebSocket) -> u64 {
    let mut messages = 0;
    while let Ok(Some(message)) = ws.recv().await {
        messages += 1;
        if ws.send(message).await.is_err() {
            break;
        }
    }
    messages
}

/// Pushes the time each second, until the connection ends; how often it did.
async fn push_clock(ws: &mut WebSocket) -> u64 {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut messages = 0;
    loop {
        tokio::select! {
            _ = second.tick() => {
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                // A reader that is more than a minute behind wants the latest time, not all of them.
                if ws.buffered_amount() < 2048 {
                    if ws.try_send(now).is_err() {
                        return messages;
                    }
                    messages += 1;
                }
            }
            message = ws.recv() => {
                if !matches!(message, Ok(Some(_))) {
                    return messages;
                }
            }
        }
    }
}

/// One connection's lines in the log.
struct Log {
    quiet: bool,
    peer: Option<SocketAddr>,
    http: &'static str,
    opened: Instant,
}

impl Log {
    fn opened(&self, ws: &WebSocket, what: &str) {
        let protocol = ws.protocol().map(|name| format!(", subprotocol {name}")).unwrap_or_default();
        let deflate = if ws.extensions().is_empty() { "" } else { ", compressed" };
        self.say(format_args!("#{} opened{}: {what}{protocol}{deflate}", ws.id(), self.http));
    }

    fn closed(&self, close: &CloseEvent, id: u64, messages: u64) {
        let seconds = self.opened.elapsed().as_secs_f32();
        self.say(format_args!("#{id} {close} ({messages} messages, {seconds:.1} s)"));
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.quiet {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
            let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
            eprintln!("{now} {peer} {line}");
        }
    }
}
