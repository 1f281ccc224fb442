//! `wireline connect`: stdin to a WebSocket, a WebSocket to stdout.

use std::{
    io::{self, BufRead as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Mutex, mpsc};
use wireline::{
    Backoff, ClientTls, CloseCode, CloseEvent, Config, Connect, ConnectError, Deflate, DeflateTotals, Loss,
    Message, ReconnectError, Socket, TlsError, WebSocket,
};

use crate::{key_log, size};

/// Lines read ahead of the connection.
const LINES_AHEAD: usize = 64;

/// Connect to a WebSocket server: each line of standard input is sent as a text message, each message
/// that comes is printed as a line.
///
/// The end of input closes the connection with 1000; what arrives before the server has answered that
/// is still printed. Diagnostics go to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status:
  0  closed cleanly, with 1000, 1001 or no code
  1  closed cleanly, with another code
  2  wrong usage
  3  no connection: refused, no such name, TLS, or not a WebSocket
  4  the connection was lost, or messages were")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct ConnectArgs {
    /// ws:// or wss://
    url: String,

    /// Offer this subprotocol (repeatable, the favourite first)
    #[arg(short, long, value_name = "NAME")]
    subprotocol: Vec<String>,

    /// Add a header to the request (repeatable)
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,

    #[command(flatten)]
    tls: TlsArgs,

    /// Over HTTP/2: with wss:// by ALPN, with ws:// by prior knowledge
    #[arg(long)]
    http2: bool,

    /// Over HTTP/3, on UDP; with wss:// only
    #[arg(long, conflicts_with_all = ["http2", "http_auto"])]
    http3: bool,

    /// Over HTTP/2 or HTTP/1.1, whichever the server prefers
    #[arg(long, conflicts_with = "http2")]
    http_auto: bool,

    /// Go through this proxy: http://, https:// or socks5://, with user:password@ if it wants them. Without it
    /// the environment's HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY decide
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,

    /// Go through no proxy, whatever the environment says
    #[arg(long, conflicts_with = "proxy")]
    no_proxy: bool,

    /// Connect again after each loss, until the input ends. A line that was not sent goes out on the next
    /// connection
    #[arg(long)]
    reconnect: bool,

    /// Compress every message that shrinks, and tell at the end what was saved. Without it compression is
    /// offered all the same, but messages below 1 KiB are sent as they are
    #[arg(long)]
    deflate: bool,

    /// The longest message to take
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = size::parse)]
    max_message: usize,
}

/// Whom to trust with wss://, and who to be.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsArgs {
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Trust any certificate, of anyone and for any name: whoever is on the way can read and change everything
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,

    /// Have this certificate chain (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl TlsArgs {
    /// `None` where the library's default does.
    pub(crate) fn load(&self) -> Result<Option<ClientTls>, TlsError> {
        let key_pair = self.cert.as_ref().zip(self.key.as_ref());
        let logs_keys = key_log::is_wanted();
        if self.ca.is_none() && !self.insecure && key_pair.is_none() && !logs_keys {
            return Ok(None);
        }
        let mut tls = match &self.ca {
            Some(ca) => ClientTls::with_ca_file(ca)?,
            None if self.insecure => {
                eprintln!("wireline: --insecure: nobody knows who the server is, or who reads along");
                ClientTls::dangerous_any_certificate()?
            }
            None => ClientTls::with_system_roots()?,
        };
        if let Some((cert, key)) = key_pair {
            tls = tls.client_certificate_files(cert, key)?;
        }
        Ok(Some(if logs_keys { tls.key_log() } else { tls }))
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Connects, talks, and tells by the exit status how it ended.
pub(crate) async fn run(args: ConnectArgs) -> ExitCode {
    let (tells_ratio, reconnects) = (args.deflate, args.reconnect);
    let connect = match prepare(args) {
        Ok(connect) => connect,
        Err(error) => return explain(&error),
    };
    if !reconnects {
        return match connect.await {
            Ok(ws) => converse(ws, &Input::new(), tells_ratio).await,
            Err(error) => explain(&error),
        };
    }
    let mut connections = connect.reconnect(Backoff::default()).on_loss(|loss, delay| {
        match loss {
            // How it ended is told already.
            Loss::Closed(_) => {}
            Loss::Failed(error) => eprintln!("{error}"),
        }
        eprintln!("trying again in {:.1} s", delay.as_secs_f64());
    });
    let input = Input::new();
    loop {
        let next = tokio::select! {
            next = connections.next() => next,
            _ = tokio::signal::ctrl_c() => return ExitCode::SUCCESS,
        };
        let status = match next {
            Ok(ws) => converse(ws, &input, tells_ratio).await,
            Err(ReconnectError::Connect(error)) => return explain(&error),
            Err(error) => {
                eprintln!("wireline: {error}");
                return ExitCode::from(1);
            }
        };
        if input.is_over() {
            return status;
        }
    }
}

/// Talks to its end, and tells how that came.
async fn converse(mut ws: WebSocket, input: &Arc<Input>, tells_ratio: bool) -> ExitCode {
    let protocol = ws.protocol().map(|name| format!(", subprotocol {name}")).unwrap_or_default();
    eprintln!("connected to {}{protocol}", ws.url().unwrap_or_default());
    let outcome = talk(&mut ws, input).await;
    let close = ws.closed().await;
    eprintln!("{close}");
    if tells_ratio {
        eprintln!("{}", describe(ws.deflate_totals()));
    }
    match outcome {
        // What the close event does not say already.
        Err(error) if close.was_clean => {
            eprintln!("wireline: {error}");
            ExitCode::from(4)
        }
        _ => exit_status(&close),
    }
}

fn prepare(args: ConnectArgs) -> Result<Connect, ConnectError> {
    let deflate = Deflate::client();
    let deflate = if args.deflate { deflate.threshold(0) } else { deflate };
    let mut connect = wireline::connect(args.url)
        .protocols(args.subprotocol)
        .config(Config::client().max_message_size(args.max_message).deflate(deflate));
    for (name, value) in &args.header {
        connect = connect.header(name, value);
    }
    if let Some(tls) = args.tls.load()? {
        connect = connect.tls(tls);
    }
    if args.http2 {
        connect = connect.http2();
    } else if args.http3 {
        connect = connect.http3();
    } else if args.http_auto {
        connect = connect.http_auto();
    }
    if let Some(proxy) = args.proxy {
        connect = connect.proxy(proxy);
    } else if args.no_proxy {
        connect = connect.no_proxy();
    }
    Ok(connect)
}

/// What compression made of the messages.
fn describe(totals: Option<DeflateTotals>) -> String {
    let Some(totals) = totals else { return "the server did not agree to compression".to_owned() };
    let direction = |what: &str, plain: u64, compressed: u64| match plain {
        0 => format!("nothing compressed {what}"),
        _ => {
            let percent = 100.0 * compressed as f64 / plain as f64;
            format!("{what} {plain} bytes as {compressed} ({percent:.1} %)")
        }
    };
    let sent = direction("sent", totals.sent, totals.sent_compressed);
    let received = direction("received", totals.received, totals.received_compressed);
    format!("compression: {sent}, {received}")
}

/// Why there is no connection, with what the server said.
fn explain(error: &ConnectError) -> ExitCode {
    eprintln!("wireline: {error}");
    if let ConnectError::Rejected(response) | ConnectError::ProxyRejected { response, .. } = error {
        let body = String::from_utf8_lossy(response.body());
        for line in body.lines().take(20) {
            eprintln!("  {line}");
        }
    }
    ExitCode::from(3)
}

/// The lines of standard input, for one connection after the other.
struct Input {
    lines: Mutex<Lines>,
    /// There are no more, or the user wants to leave.
    is_over: AtomicBool,
}

struct Lines {
    receiver: mpsc::Receiver<String>,
    /// Read, and perhaps not sent.
    unsent: Option<String>,
}

impl Input {
    fn new() -> Arc<Self> {
        let lines = Mutex::new(Lines { receiver: read_lines(), unsent: None });
        Arc::new(Self { lines, is_over: AtomicBool::new(false) })
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Sends what is read, until there is no more or the connection ends.
    async fn send_to(&self, socket: &Socket) {
        let mut lines = self.lines.lock().await;
        loop {
            if lines.unsent.is_none() {
                lines.unsent = lines.receiver.recv().await;
            }
            let Some(line) = lines.unsent.clone() else { break };
            if socket.send(line).await.is_err() {
                return; // `recv` tells how it ended.
            }
            lines.unsent = None;
        }
        self.end();
        let _ = socket.close_with(CloseCode::NORMAL, "");
    }
}

/// Sends lines and prints messages until the connection has ended.
async fn talk(ws: &mut WebSocket, input: &Arc<Input>) -> wireline::Result<()> {
    let (socket, sender) = (ws.socket(), Arc::clone(input));
    // A task of its own, so that a server which does not read does not keep messages from being printed.
    let sending = tokio::spawn(async move { sender.send_to(&socket).await });
    let outcome = loop {
        tokio::select! {
            message = ws.recv() => match message {
                Ok(Some(message)) => {
                    if let Err(error) = print(&message) {
                        input.end();
                        ws.close();
                        break Err(error.into());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            },
            _ = tokio::signal::ctrl_c() => {
                input.end();
                let _ = ws.close_with(CloseCode::NORMAL, "");
            }
        }
    };
    sending.abort();
    outcome
}

/// The lines of standard input, read in a thread of their own since a terminal cannot be polled.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for (number, line) in io::stdin().lock().split(b'\n').enumerate() {
            let line = match line {
                Ok(line) => line,
                Err(error) => return eprintln!("wireline: standard input: {error}"),
            };
            let line = line.strip_suffix(b"\r").map(<[u8]>::to_vec).unwrap_or(line);
            let Ok(line) = String::from_utf8(line) else {
                eprintln!("wireline: line {} is not UTF-8 and was not sent", number + 1);
                continue;
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Text as it is, bytes in hex.
fn print(message: &Message) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match message {
        Message::Text(text) => out.write_all(text.as_bytes())?,
        Message::Binary(bytes) => write!(out, "<{} bytes> {bytes:02x}", bytes.len())?,
    }
    out.write_all(b"\n")?;
    out.flush()
}

fn exit_status(close: &CloseEvent) -> ExitCode {
    match close.code {
        _ if !close.was_clean => ExitCode::from(4),
        CloseCode::NORMAL | CloseCode::GOING_AWAY | CloseCode::NO_STATUS => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    }
}
