//! The browser's WebSocket, natively: [`WebSocket`] keeps the rules of the [standard], so that what one
//! knows of browsers, or has written for them, holds here.
//!
//! The connection under it is the one of [`wireline::connect`](crate::connect), which is the face to choose
//! where nothing has to be like in a browser: it waits for slow peers, and `?` tells what went wrong.
//!
//! # One thing at a time
//!
//! Everything that happens to a [`WebSocket`] happens in a task of its own, one step after the other: its
//! events, the changes of its state, what `buffered_amount` loses. In a runtime with one thread nothing
//! happens therefore between two `await`s of the caller, as nothing happens in a browser while a script
//! runs. In a runtime with several threads a step can be made while another task runs. Even then:
//!
//! - No event comes before the task that made the socket yields. So whoever listens from then on misses
//!   nothing.
//! - `buffered_amount` becomes no less until the task that asked, or sent, yields.
//! - Listeners never run at the same time. Each runs to its end before the next, so none may block.
//!
//! Nobody can see when the future yields that `block_on` runs in a runtime with several threads, and that is
//! what `#[tokio::main]` makes of `main`. There the first event waits until something of the socket is
//! awaited, or for 100 ms, and `buffered_amount` is what it is at the moment. What
//! [`WebSocket::from_connect`] is given to do is done before any event, whatever the machine is busy with;
//! `#[tokio::main(flavor = "current_thread")]` is the nearest to a browser.
//!
//! # What a browser has and this has not
//!
//! - No page: a relative URL has nothing to be relative to and is a `SyntaxError` (rule U1); nothing is closed
//!   with 1001 because somebody leaves it (L13). A program that ends takes its connections with it: close
//!   them, and await [`WebSocket::closed`].
//! - No blocked ports (U9), no Cookies and no `Origin` but those that [`Connect::header`] and
//!   [`Connect::origin`] set (H1), no mixed content: those protect people from pages that they happen upon.
//! - No lone surrogates (N5): Rust's strings have none.
//! - No secret about why a connection failed (E7, V12): [`ErrorEvent::cause`] and [`CloseEvent::cause`] tell.
//! - No values that only a type of JavaScript's can have: a `binaryType` that is neither (A3), a close code of
//!   `NaN` (L1), a reason without a code (L10).
//!
//! # What became of the words
//!
//! | in a browser | here |
//! |---|---|
//! | `new WebSocket(url)`, `new WebSocket(url, protocols)` | [`WebSocket::new`], [`WebSocket::with_protocols`] |
//! | `ws.onopen = …`, `= null` | [`on_open`](WebSocket::on_open), [`remove_handler`](WebSocket::remove_handler) |
//! | `addEventListener`, `removeEventListener` | [`add_event_listener`](WebSocket::add_event_listener), [`remove_event_listener`](WebSocket::remove_event_listener) |
//! | `ws.send(…)` | [`send`](WebSocket::send) |
//! | `ws.close()`, `ws.close(code, reason)` | [`close`](WebSocket::close), [`close_with`](WebSocket::close_with) |
//! | `ws.readyState`, `ws.binaryType`, `ws.bufferedAmount`, `ws.url`, … | methods of these names |
//! | a `DOMException` | [`Exception`] |
//!
//! What browsers do not have: [`events`](WebSocket::events), [`closed`](WebSocket::closed), and causes.
//!
//! [standard]: https://websockets.spec.whatwg.org/

mod buffered;
mod event;
mod events;
mod exception;
mod listeners;
mod object;
mod protocols;
mod task;
mod turn;

use std::{fmt, sync::Arc};

use wireline_proto::{CloseCode, CloseFrame, CloseFrameError, Config};

pub use self::{
    event::{BinaryType, Cause, CloseEvent, Data, ErrorEvent, Event, EventType, MessageEvent},
    events::Events,
    exception::Exception,
    listeners::ListenerId,
    protocols::Protocols,
};
use self::{
    object::Object,
    task::{FirstEvent, Unfinished},
};
use crate::{Connect, Message, Socket, connect};

/// Bytes that a peer which does not read makes a socket keep. Browsers keep more than they should; here a
/// socket that is given more fails. Raised, it is memory that one peer can cost.
const SEND_CAP: usize = 64 << 20;

/// A WebSocket as in a browser. It connects by itself; what happens is told to those who listen.
///
/// ```
/// use wireline::browser::WebSocket;
///
/// # use wireline::{Request, Server};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> wireline::Result<()> {
/// # let server = Server::new().on_request(|req: Request| async move {
/// #     let mut ws = req.accept().await?;
/// #     while let Some(message) = ws.recv().await? {
/// #         ws.send(message).await?;
/// #     }
/// #     Ok(())
/// # });
/// # let listener = server.bind("127.0.0.1:0")?;
/// # let url = format!("ws://{}/", listener.local_addr()?);
/// # tokio::spawn(listener.serve());
/// let socket = WebSocket::new(url)?;
///
/// socket.on_open(|socket| {
///     println!("[open] Connection established");
///     println!("Sending to server");
///     socket.send("My name is John").expect("it is open");
/// });
///
/// socket.on_message(|socket, event| {
///     println!("[message] Data received from server: {}", event.data);
///     socket.close_with(1000, "bye").expect("1000 may be sent");
/// });
///
/// socket.on_close(|_, event| {
///     if event.was_clean {
///         println!("[close] Connection closed cleanly, code={} reason={}", event.code, event.reason);
///     } else {
///         // The server's process was killed, or the network is down: event.code is 1006 then.
///         println!("[close] Connection died");
///     }
/// });
///
/// socket.on_error(|_, error| println!("[error] {}", error.message()));
///
/// let close = socket.closed().await;
/// assert_eq!((close.was_clean, close.code, &*close.reason), (true, 1000, "bye"));
/// # Ok(())
/// # }
/// ```
///
/// # Cloning and dropping
///
/// A clone is another reference to the same socket, as in `const other = socket`. As in a browser, a socket
/// to which nobody refers goes on while somebody listens to an event that can still come: `open` while it
/// connects, `message` until it begins to close, `error` and `close` to its end; [`Events`] listens to all of
/// them. Listeners get the socket when they are called, and need not refer to it. When nobody refers to it
/// and nobody listens it is closed without a code, behind what was sent; while it connects, the attempt is
/// given up. After `close` was told all listeners are dropped. A socket ends without an event when its
/// runtime does.
pub struct WebSocket {
    object: Arc<Object>,
}

/// How far a [`WebSocket`] is. As a number (`as u16`) it is what browsers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ReadyState {
    /// It connects.
    Connecting = 0,
    /// Messages can be sent.
    Open = 1,
    /// Either end has begun to close.
    Closing = 2,
    /// It is over, or was never open.
    Closed = 3,
}

impl WebSocket {
    /// It connects.
    pub const CONNECTING: ReadyState = ReadyState::Connecting;
    /// Messages can be sent.
    pub const OPEN: ReadyState = ReadyState::Open;
    /// Either end has begun to close.
    pub const CLOSING: ReadyState = ReadyState::Closing;
    /// It is over, or was never open.
    pub const CLOSED: ReadyState = ReadyState::Closed;

    /// Connects to a `ws:`, `wss:`, `http:` or `https:` URL. This returns at once, before anything is done;
    /// `open` tells when it can send, or `error` and `close` that it never will.
    ///
    /// It has the limits of [`Config::client`], but for 64 MiB of unsent bytes.
    ///
    /// # Errors
    /// [`Exception::SyntaxError`] if this is no such URL, or has a fragment.
    ///
    /// # Panics
    /// Outside a tokio runtime. In one without its network and time drivers, the socket ends without an event.
    pub fn new(url: impl Into<String>) -> Result<Self, Exception> {
        Self::with_protocols(url, Protocols::default())
    }

    /// Connects as [`new`](Self::new) does, and offers subprotocols. A server that chooses none of them
    /// fails the connection.
    ///
    /// # Errors
    /// [`Exception::SyntaxError`] as for [`new`](Self::new), then for a subprotocol that is no token, or
    /// there twice, whatever its case.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_protocols(
        url: impl Into<String>,
        protocols: impl Into<Protocols>,
    ) -> Result<Self, Exception> {
        let connect = connect(url).protocols(protocols.into().0).config(Config::client().send_cap(SEND_CAP));
        Self::from_connect(connect, |_| {})
    }

    /// Connects with what browsers have no say in: headers, certificates, limits, a Unix socket. `listen` is
    /// called before anything can happen, to say who listens.
    ///
    /// ```no_run
    /// use wireline::browser::WebSocket;
    ///
    /// # fn example() -> Result<(), wireline::browser::Exception> {
    /// let connect = wireline::connect("wss://example.com/").header("Authorization", "Bearer 1234");
    /// let socket = WebSocket::from_connect(connect, |socket| {
    ///     socket.on_message(|_, event| println!("{}", event.data));
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A message that does not fit below [`Config::send_cap`] fails the connection: 1 MiB if `connect` was
    /// given no [`Config`] that says otherwise.
    ///
    /// # Errors
    /// As [`with_protocols`](Self::with_protocols), then for a header that cannot be sent, or that is the
    /// handshake's own.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn from_connect(connect: Connect, listen: impl FnOnce(&Self)) -> Result<Self, Exception> {
        let attempt = connect.check()?;
        let object = Object::new(attempt.url());
        let unfinished = Unfinished(Arc::clone(&object));
        let socket = Self::of(object);
        listen(&socket);
        let first_event = FirstEvent::of(&socket.object);
        tokio::spawn(task::run(unfinished, attempt, first_event));
        Ok(socket)
    }

    fn of(object: Arc<Object>) -> Self {
        object.add_handle();
        Self { object }
    }

    // Attributes.

    /// The URL, with `ws:` or `wss:`, and as the URL parser writes it: no default port, a path.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.object.url
    }

    /// How far it is.
    #[must_use]
    pub fn ready_state(&self) -> ReadyState {
        self.object.ready_state()
    }

    /// Bytes of messages that were sent and that the system was not given yet: no headers, and of a
    /// compressed message what it was before. It becomes less between the polls of the task that asks, and
    /// never during one. What is sent while it closes or afterwards is added and stays.
    #[must_use]
    pub fn buffered_amount(&self) -> u64 {
        self.object.buffered_amount()
    }

    /// The extensions agreed on, as they stand in the server's answer; empty before `open`, and if there are
    /// none.
    #[must_use]
    pub fn extensions(&self) -> &str {
        self.object.socket().map_or("", Socket::extensions)
    }

    /// The subprotocol that the server chose; empty before `open`, and if there is none.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.object.socket().and_then(Socket::protocol).unwrap_or_default()
    }

    /// As what listeners get binary messages.
    #[must_use]
    pub fn binary_type(&self) -> BinaryType {
        self.object.binary_type()
    }

    /// Sets as what listeners get binary messages, from the next `message` event on.
    pub fn set_binary_type(&self, binary_type: BinaryType) {
        self.object.set_binary_type(binary_type);
    }

    // Methods.

    /// Sends text or bytes. It is queued at once; nothing is awaited. A socket that closes or is closed
    /// drops it, without an error.
    ///
    /// If more than 64 MiB would be unsent (or another [`Config::send_cap`]), it is dropped and the
    /// connection fails. [`buffered_amount`](Self::buffered_amount) tells how much is unsent.
    ///
    /// # Errors
    /// [`Exception::InvalidStateError`] before `open`.
    pub fn send(&self, data: impl Into<Message>) -> Result<(), Exception> {
        self.object.send(data.into())
    }

    /// Starts the closing handshake without a code, behind what was sent; before `open`, gives the attempt
    /// up, which is an `error`. `close` follows. No effect on a socket that closes or is closed.
    ///
    /// No message is told afterwards. A server that does not answer is given the
    /// [`close_timeout`](Config::close_timeout) (5 s).
    pub fn close(&self) {
        self.object.close(None);
    }

    /// Closes with a code and a reason; otherwise as [`close`](Self::close).
    ///
    /// # Errors
    /// In any state: [`Exception::InvalidAccessError`] if `code` is neither 1000 nor one of 3000 to 4999,
    /// then [`Exception::SyntaxError`] if `reason` has more than 123 bytes.
    pub fn close_with(&self, code: impl Into<CloseCode>, reason: impl Into<String>) -> Result<(), Exception> {
        let code = code.into();
        if !matches!(u16::from(code), 1000 | 3000..=4999) {
            return Err(Exception::InvalidAccessError(code));
        }
        let too_long = |error: CloseFrameError| Exception::SyntaxError(error.to_string());
        let frame = CloseFrame::new(code, reason).map_err(too_long)?;
        self.object.close(Some(&frame));
        Ok(())
    }

    // Event handlers, of which there is one for each event: a new one takes the place of the old.

    /// Calls this when the connection is open.
    pub fn on_open(&self, mut handler: impl FnMut(&Self) + Send + 'static) {
        self.object.set_handler(EventType::Open, Box::new(move |socket, _| handler(socket)));
    }

    /// Calls this with each message.
    pub fn on_message(&self, mut handler: impl FnMut(&Self, &MessageEvent) + Send + 'static) {
        let callback = move |socket: &Self, event: &Event| {
            if let Event::Message(message) = event {
                handler(socket, message);
            }
        };
        self.object.set_handler(EventType::Message, Box::new(callback));
    }

    /// Calls this when the connection failed, before `close`.
    pub fn on_error(&self, mut handler: impl FnMut(&Self, &ErrorEvent) + Send + 'static) {
        let callback = move |socket: &Self, event: &Event| {
            if let Event::Error(error) = event {
                handler(socket, error);
            }
        };
        self.object.set_handler(EventType::Error, Box::new(callback));
    }

    /// Calls this when the connection is over.
    pub fn on_close(&self, mut handler: impl FnMut(&Self, &CloseEvent) + Send + 'static) {
        let callback = move |socket: &Self, event: &Event| {
            if let Event::Close(close) = event {
                handler(socket, close);
            }
        };
        self.object.set_handler(EventType::Close, Box::new(callback));
    }

    /// Forgets the handler of an event: `onopen = null`.
    pub fn remove_handler(&self, event_type: EventType) {
        self.object.remove_handler(event_type);
    }

    // Event listeners, of which there are any number.

    /// Calls `listener` with each event of this type. Listeners are called in the order in which they came,
    /// handlers among them. One that comes while an event is told does not get that event; one that
    /// panics is logged, and the others get theirs.
    pub fn add_event_listener(
        &self,
        event_type: EventType,
        listener: impl FnMut(&Self, &Event) + Send + 'static,
    ) -> ListenerId {
        self.object.add_listener(event_type, Box::new(listener))
    }

    /// Forgets a listener. It is not called any more, be it for an event that is being told.
    pub fn remove_event_listener(&self, id: ListenerId) {
        self.object.remove_listener(id);
    }

    /// All events from now on, to be taken one by one.
    ///
    /// ```
    /// use wireline::browser::{Event, WebSocket};
    ///
    /// # use wireline::{Request, Server};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> wireline::Result<()> {
    /// # let server = Server::new().on_request(|req: Request| async move {
    /// #     let mut ws = req.accept().await?;
    /// #     while let Some(message) = ws.recv().await? {
    /// #         ws.send(message).await?;
    /// #     }
    /// #     Ok(())
    /// # });
    /// # let listener = server.bind("127.0.0.1:0")?;
    /// # let url = format!("ws://{}/", listener.local_addr()?);
    /// # tokio::spawn(listener.serve());
    /// let socket = WebSocket::new(url)?;
    /// let mut events = socket.events();
    /// while let Some(event) = events.next_event().await {
    ///     match event {
    ///         Event::Open => socket.send("My name is John")?,
    ///         Event::Message(message) => {
    ///             assert_eq!(message.data.as_text(), Some("My name is John"));
    ///             socket.close();
    ///         }
    ///         Event::Error(error) => panic!("{}", error.message()),
    ///         Event::Close(close) => assert_eq!(close.code, 1005),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the socket reads no further until its events are taken"]
    pub fn events(&self) -> Events {
        Events::new(Arc::clone(&self.object))
    }

    /// Waits for the end: what `close` told. [`Events`] must be taken meanwhile, if there are any.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn closed(&self) -> CloseEvent {
        self.object.awaited.notify_one();
        let mut outcome = self.object.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(event) => event.clone().unwrap_or_default(),
            Err(_) => CloseEvent::default(),
        }
    }
}

impl Clone for WebSocket {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.object))
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        self.object.drop_handle();
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("url", &self.url())
            .field("ready_state", &self.ready_state())
            .finish_non_exhaustive()
    }
}
