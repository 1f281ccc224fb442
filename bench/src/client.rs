//! What the clients have in common: what they say, and what is measured.
//!
//! A client's arguments are `PORT CONNECTIONS IN_FLIGHT WARMUP SECONDS SERVER_PID`, and what else it may want. It talks to an echo server
//! on that port and prints one line of JSON: what a message cost its process, and what it cost the server's.

use std::{
    error::Error,
    fs,
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::sleep};

/// How long connections may take to be open.
const PATIENCE: Duration = Duration::from_secs(10);

/// 20 bytes of text, whose first eight say which message it is; the others are letters of one to four bytes.
const TEXT: [u8; 20] = *b"........\xF0\x9D\x84\x9E\xE2\x82\xAC \xC3\xB6 w";

/// Answers of all connections.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

/// Connections that had an answer.
static TALKING: AtomicU64 = AtomicU64::new(0);

/// How a client's connections end: with an error, or not at all.
pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// One connection's messages: what it sends, and what it must get back.
pub struct Conversation {
    /// Where the server is.
    pub address: SocketAddr,
    /// How many messages are to be on the way.
    pub in_flight: usize,
    /// Which one it is, from 0.
    pub number: u64,
    sent: u64,
    answered: u64,
}

impl Conversation {
    /// Connects, over a socket of the system's own settings but for `TCP_NODELAY`.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// The next message to send.
    ///
    /// # Panics
    /// Never: it is text.
    pub fn message(&mut self) -> String {
        let text = self.text();
        self.sent();
        str::from_utf8(&text).expect("it is text").to_owned()
    }

    /// The text of the next message, for who counts with [`sent`](Self::sent) that it went.
    #[must_use]
    pub fn text(&self) -> [u8; 20] {
        text(self.sent)
    }

    /// Counts a message that was sent.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// Takes an answer.
    ///
    /// # Panics
    /// When it is not the right one.
    pub fn answer(&mut self, answer: &[u8]) {
        assert!(answer == text(self.answered), "answer {} is wrong: {answer:?}", self.answered);
        TALKING.fetch_add(u64::from(self.answered == 0), Relaxed);
        self.answered += 1;
        ANSWERS.fetch_add(1, Relaxed);
    }
}

/// The message with this number.
fn text(number: u64) -> [u8; 20] {
    let mut text = TEXT;
    for (place, letter) in text[..8].iter_mut().enumerate() {
        *letter = b'a' + (number >> (4 * place) & 0xF) as u8;
    }
    text
}

/// What the processors did for both sides, at one moment.
struct Reading {
    at: Instant,
    answers: u64,
    client: Usage,
    server: Usage,
}

/// How long a process of one thread ran, and waited for a processor, in nanoseconds.
#[derive(Clone, Copy)]
struct Usage {
    ran: u64,
    waited: u64,
}

impl Usage {
    fn of(process: &str) -> std::io::Result<Self> {
        let schedstat = fs::read_to_string(format!("/proc/{process}/schedstat"))?;
        let mut fields = schedstat.split_ascii_whitespace().map_while(|field| field.parse().ok());
        Ok(Self { ran: fields.next().unwrap_or(0), waited: fields.next().unwrap_or(0) })
    }
}

impl Reading {
    fn take(server_pid: &str) -> std::io::Result<Self> {
        let (client, server) = (Usage::of("self")?, Usage::of(server_pid)?);
        Ok(Self { at: Instant::now(), answers: ANSWERS.load(Relaxed), client, server })
    }

    /// What happened since `start`, as JSON.
    fn since(&self, start: &Self) -> String {
        let nanos = (self.at - start.at).as_nanos() as f64;
        let answers = self.answers - start.answers;
        let side = |name, start: Usage, end: Usage| {
            let ran = (end.ran - start.ran) as f64;
            let waited = (end.waited - start.waited) as f64;
            format!(
                r#""{name}_cpu_us_per_message":{:.3},"{name}_busy_percent":{:.1},"{name}_waited_percent":{:.1}"#,
                ran / 1e3 / answers.max(1) as f64,
                ran / nanos * 100.0,
                waited / nanos * 100.0,
            )
        };
        let (client, server) =
            (side("client", start.client, self.client), side("server", start.server, self.server));
        let a_second = answers as f64 * 1e9 / nanos;
        format!(r#"{{"messages":{answers},"messages_per_second":{a_second:.0},{client},{server}}}"#)
    }
}

/// Runs a client as the command line says: `talk` on every connection, all on one thread.
///
/// # Panics
/// When the command line is not one of a client, or a connection fails.
pub fn run<F, T>(talk: F)
where
    F: Fn(Conversation) -> T,
    T: Future<Output = Outcome> + Send + 'static,
{
    run_sharing(1, |mut conversations| talk(conversations.remove(0)));
}

/// The same where so many conversations share a connection: `talk` gets those of one.
///
/// # Panics
/// As [`run`] does.
pub fn run_sharing<F, T>(sharing: u64, talk: F)
where
    F: Fn(Vec<Conversation>) -> T,
    T: Future<Output = Outcome> + Send + 'static,
{
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [_, connections, in_flight, warmup, seconds, server_pid, ..] = &args[..] else {
        panic!("the arguments: PORT CONNECTIONS IN_FLIGHT WARMUP SECONDS SERVER_PID");
    };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let duration = |text: &str| Duration::from_secs_f64(text.parse().expect("a number of seconds"));
    let (connections, in_flight) = (number(connections), number(in_flight) as usize);
    let address = crate::address();
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for first in (0..connections).step_by(sharing as usize) {
            let numbers = first..connections.min(first + sharing);
            let conversation = |number| Conversation { address, in_flight, number, sent: 0, answered: 0 };
            let talking = talk(numbers.map(conversation).collect());
            tokio::spawn(tokio::task::unconstrained(async move {
                let outcome = talking.await;
                eprintln!("a connection ended: {outcome:?}");
                process::exit(1);
            }));
        }
        let deadline = Instant::now() + PATIENCE;
        while TALKING.load(Relaxed) < connections {
            assert!(Instant::now() < deadline, "only {} connections opened", TALKING.load(Relaxed));
            sleep(Duration::from_millis(1)).await;
        }
        sleep(duration(warmup)).await;
        let start = Reading::take(server_pid).expect("both processes can be read");
        sleep(duration(seconds)).await;
        let end = Reading::take(server_pid).expect("both processes can be read");
        println!("{}", end.since(&start));
        // The connections are to be cut, and not told as failures.
        process::exit(0);
    });
}
