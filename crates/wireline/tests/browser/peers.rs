//! Who the sockets under test talk to, and who writes down what they tell.

use std::{
    future::Future,
    net::TcpListener,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use wireline::{
    Config, Connect, Request, Server,
    browser::{CloseEvent, Event, EventType, ReadyState, WebSocket},
    connect,
};
use wireline_testkit::RawPeer;

pub(crate) const EVENT_TYPES: [EventType; 4] =
    [EventType::Open, EventType::Message, EventType::Error, EventType::Close];

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(8), future).await.expect("this takes too long")
}

/// Waits, with the runtime going on, until `is_so`.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Time in which what must not happen would have happened.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Starts the server, and gives its URL.
pub(crate) fn listen(server: &Server) -> String {
    let listener = server.bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(listener.serve());
    url
}

/// A server that chooses the first subprotocol on offer and sends back what it gets.
pub(crate) fn echoing() -> Server {
    Server::new().config(Config::server().max_message_size(16 << 20)).on_request(|req: Request| async move {
        let protocol = req.protocols().first().cloned();
        let accept = req.accept();
        let mut ws = match protocol {
            Some(protocol) => accept.protocol(protocol).await?,
            None => accept.await?,
        };
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

pub(crate) fn echo() -> String {
    listen(&echoing())
}

/// A server whose handler runs `then` on the connection.
pub(crate) fn handled<F, H>(then: F) -> String
where
    F: Fn(wireline::WebSocket) -> H + Clone + Send + Sync + 'static,
    H: Future<Output = wireline::Result<()>> + Send + 'static,
{
    listen(&Server::new().on_request(move |req: Request| {
        let then = then.clone();
        async move { then(req.accept().await?).await }
    }))
}

/// What a raw peer in a thread of its own gives back.
pub(crate) struct Talk<R>(JoinHandle<R>);

impl<R: Send + 'static> Talk<R> {
    /// Waits until the peer has said everything. If it panicked, so does this.
    pub(crate) async fn over(self) -> R {
        let joined = soon(tokio::task::spawn_blocking(|| self.0.join())).await.expect("the join runs");
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A port that nobody listens to yet but `talk`, which is run in a thread of its own.
pub(crate) fn listener<R: Send + 'static>(
    talk: impl FnOnce(TcpListener) -> R + Send + 'static,
) -> (String, Talk<R>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    (url, Talk(std::thread::spawn(move || talk(listener))))
}

/// A server that reads a request and then does what `talk` does.
pub(crate) fn asked<R: Send + 'static>(
    talk: impl FnOnce(RawPeer) -> R + Send + 'static,
) -> (String, Talk<R>) {
    listener(move |listener| talk(RawPeer::accept(&listener)))
}

/// A server whose opening handshake succeeds and that then does what `talk` does.
pub(crate) fn opened<R: Send + 'static>(
    talk: impl FnOnce(RawPeer) -> R + Send + 'static,
) -> (String, Talk<R>) {
    listener(move |listener| talk(RawPeer::serve(&listener)))
}

/// A server that answers the request with `answer`, in which `{accept}` stands for the right value.
pub(crate) fn answering(answer: &str) -> (String, Talk<()>) {
    let answer = answer.to_owned();
    asked(move |mut peer| {
        let accept =
            wireline_testkit::accept_value(peer.header("sec-websocket-key").expect("the request has a key"));
        peer.send_bytes(answer.replace("{accept}", &accept).as_bytes());
        peer.shut_down();
        let _ = peer.read_to_end();
    })
}

/// A signal between a raw peer's thread and a test.
pub(crate) fn signal() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    mpsc::channel()
}

/// Blocks until the signal is given.
#[track_caller]
pub(crate) fn wait_for(signal: &mpsc::Receiver<()>) {
    signal.recv_timeout(Duration::from_secs(8)).expect("the signal is given");
}

/// Blocks a thread of the runtime until the signal is given. What this task woke last would wait for its
/// thread, so something of no matter is made the last.
#[track_caller]
pub(crate) fn block_thread_for(signal: &mpsc::Receiver<()>) {
    tokio::spawn(async {});
    wait_for(signal);
}

/// Connects without compression, so that bytes on the wire can be told.
pub(crate) fn plain(url: &str) -> Connect {
    connect(url).config(Config::client().deflate(None))
}

/// What a socket told, as lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// Listens to everything.
    pub(crate) fn by(socket: &WebSocket) -> Self {
        let told = Self::default();
        for event_type in EVENT_TYPES {
            let told = told.clone();
            socket.add_event_listener(event_type, move |_, event| told.add(line(event)));
        }
        told
    }

    /// Writes a line of the test's own.
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.0.lock().expect("no listener panics").push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no listener panics").clone()
    }
}

/// `open`, `message hello`, `error`, `close 1005 clean`, `close 4000 clean bye`, `close 1006 not clean`.
pub(crate) fn line(event: &Event) -> String {
    match event {
        Event::Open => "open".into(),
        Event::Message(message) => format!("message {}", message.data),
        Event::Error(_) => "error".into(),
        Event::Close(close) => closing_line(close),
    }
}

pub(crate) fn closing_line(close: &CloseEvent) -> String {
    let clean = if close.was_clean { "clean" } else { "not clean" };
    format!("close {} {clean} {}", close.code, close.reason).trim_end().to_owned()
}

/// A socket that is open.
pub(crate) async fn open(url: &str) -> WebSocket {
    let socket = WebSocket::new(url).expect("the URL is good");
    until(|| socket.ready_state() != ReadyState::Connecting).await;
    assert_eq!(socket.ready_state(), ReadyState::Open);
    socket
}

/// Everything that a new socket tells to its end.
pub(crate) async fn told_to_the_end(url: &str) -> Vec<String> {
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    soon(socket.closed()).await;
    a_while().await;
    told.lines()
}
