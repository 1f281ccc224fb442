//! Event style: handlers that are called, on top of the same `recv` that a loop would call.

use std::{
    fmt,
    future::{Future, poll_fn, ready},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::either::Either;
use wireline_proto::CloseCode;

use crate::{CloseEvent, Connect, Error, Message, Result, Server, Socket, WebSocket, driver::Received};

/// What to do when something happens on a connection: [`WebSocket::run`] calls it.
///
/// A value handles one connection and can keep what belongs to that. Its methods are called one after
/// the other, each when the one before is done: messages are handled in the order in which they came,
/// and while one is being handled the peer is read ahead only so far. `async fn` implements them:
///
/// ```
/// use wireline::{CloseEvent, Handler, Message, Request, Result, Server, Socket};
///
/// struct Counter {
///     name: String,
///     messages: u64,
/// }
///
/// impl Handler for Counter {
///     async fn message(&mut self, socket: &Socket, message: Message) -> Result<()> {
///         self.messages += 1;
///         socket.send(format!("{} {}: {message}", self.name, self.messages)).await?;
///         Ok(())
///     }
///
///     async fn close(&mut self, _: &Socket, close: CloseEvent) {
///         println!("{} left after {} messages: {close}", self.name, self.messages);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let server = Server::new().on_request(|req: Request| async move {
///     let counter = Counter { name: req.path().to_owned(), messages: 0 };
///     req.accept().await?.run(counter).await
/// });
/// # let listener = server.bind("127.0.0.1:0")?;
/// # let url = format!("ws://{}/John", listener.local_addr()?);
/// # tokio::spawn(listener.serve());
/// # let mut ws = wireline::connect(url).await?;
/// # ws.send("hello").await?;
/// # assert_eq!(ws.recv().await?, Some("/John 1: hello".into()));
/// # Ok(())
/// # }
/// ```
pub trait Handler: Send {
    /// The connection is open; nothing was received yet.
    ///
    /// # Errors
    /// An error closes the connection with 1011.
    fn open(&mut self, socket: &Socket) -> impl Future<Output = Result<()>> + Send {
        let _ = socket;
        ready(Ok(()))
    }

    /// A message came. By default it is dropped.
    ///
    /// # Errors
    /// An error closes the connection with 1011.
    fn message(&mut self, socket: &Socket, message: Message) -> impl Future<Output = Result<()>> + Send {
        let _ = (socket, message);
        ready(Ok(()))
    }

    /// A Ping came, with up to 125 bytes. It was answered already (RFC 6455 section 5.5.2).
    ///
    /// # Errors
    /// An error closes the connection with 1011.
    fn ping(&mut self, socket: &Socket, payload: Bytes) -> impl Future<Output = Result<()>> + Send {
        let _ = (socket, payload);
        ready(Ok(()))
    }

    /// The connection ended without a closing handshake, or one of the methods above failed.
    /// [`close`](Self::close) follows.
    fn error(&mut self, socket: &Socket, error: &Error) {
        let _ = (socket, error);
    }

    /// The connection is over. Called once, last of all, however it ended, a panic in one of the methods
    /// above included, once those methods are done. Not called if the future of [`WebSocket::run`] is dropped.
    fn close(&mut self, socket: &Socket, close: CloseEvent) -> impl Future<Output = ()> + Send {
        let _ = (socket, close);
        ready(())
    }
}

/// Calls `handler` for all that happens until the connection is over.
///
/// A connection's task is as large as the largest that it ever awaits, so what follows the last message is
/// boxed, and nothing is handed down by value.
pub(crate) async fn run<H: Handler>(ws: &mut WebSocket, handler: &mut H) -> Result<()> {
    let ended = {
        let mut dispatch = pin!(async {
            handler.open(ws).await?;
            loop {
                let handled = match poll_fn(|cx| ws.poll_received(cx)).await? {
                    Some(Received::Message(message)) => Either::Left(handler.message(ws, message)),
                    Some(Received::Ping(payload)) => Either::Right(handler.ping(ws, payload)),
                    // Put together before it comes here.
                    Some(Received::Piece(_)) => continue,
                    None => return Ok(()),
                };
                handled.await?;
            }
        });
        poll_fn(|cx| poll_catching(dispatch.as_mut(), cx)).await
    };
    ws.link().drop_reader();
    Box::pin(finish(ws, handler, ended)).await
}

async fn finish<H: Handler>(
    socket: &Socket,
    handler: &mut H,
    ended: thread::Result<Result<()>>,
) -> Result<()> {
    let told = match &ended {
        Ok(Err(error)) => tell_error(handler, socket, error),
        _ => Ok(()),
    };
    if !matches!(ended, Ok(Ok(()))) {
        close_badly(socket);
    }
    let close = socket.closed().await;
    handler.close(socket, close).await;
    told.and(ended).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Tells of an error; what panics there waits until `close` was told too.
fn tell_error<H: Handler>(handler: &mut H, socket: &Socket, error: &Error) -> thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| handler.error(socket, error)))
}

/// What a future gives, or its panic.
pub(crate) fn poll_catching<F: Future + ?Sized>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<thread::Result<F::Output>> {
    match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// Closes with 1011, unless it is closing already.
fn close_badly(socket: &Socket) {
    let _ = socket.close_with(CloseCode::INTERNAL_ERROR, "");
}

type Handled<T> = HandledWith<'static, T>;
type HandledWith<'h, T> = Pin<Box<dyn Future<Output = T> + Send + 'h>>;
type On<E, T = Result<()>> = Option<Arc<dyn Fn(Socket, E) -> Handled<T> + Send + Sync>>;
type OnError = Option<Arc<dyn Fn(&Socket, &Error) + Send + Sync>>;

/// Closures that handle events, shared by all connections of a server.
#[derive(Clone, Default)]
pub(crate) struct Events {
    open: On<()>,
    message: On<Message>,
    ping: On<Bytes>,
    error: OnError,
    close: On<CloseEvent, ()>,
    /// Messages of a connection that are handled at once; 0 is one after the other, as 1 is.
    concurrency: usize,
}

impl Events {
    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none()
            && self.message.is_none()
            && self.ping.is_none()
            && self.error.is_none()
            && self.close.is_none()
    }

    /// Handles what happens on one connection.
    pub(crate) async fn run(&self, ws: &mut WebSocket) -> Result<()> {
        if self.ping.is_some() {
            ws.link().tell_pings();
        }
        let mut handler = EventHandler { events: self, under_way: None, failure: None };
        run(ws, &mut handler).await?;
        match handler.failure.map(|failure| *failure) {
            Some(ended) => ended.unwrap_or_else(|panic| resume_unwind(panic)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

/// One connection's.
struct EventHandler<'e> {
    events: &'e Events,
    /// Messages that are being handled, where that may be more than one.
    under_way: Option<Box<JoinSet<Result<()>>>>,
    /// How one of them failed, if that was found out only at the end.
    failure: Option<Box<thread::Result<Result<()>>>>,
}

impl EventHandler<'_> {
    /// Waits until fewer than `count` messages are under way. If one of them has failed, that comes first.
    async fn wait_for_fewer_than(&mut self, count: usize) -> thread::Result<Result<()>> {
        let Some(under_way) = &mut self.under_way else { return Ok(Ok(())) };
        // Those that are done are taken out in any case, or they would be kept until there are `count`.
        while let Some(joined) =
            if under_way.len() >= count { under_way.join_next().await } else { under_way.try_join_next() }
        {
            match joined {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ok(Err(error)),
                Err(failed) => return failed.try_into_panic().map_or(Ok(Ok(())), Err),
            }
        }
        Ok(Ok(()))
    }

    /// Has a message handled in a task of its own, as soon as there are not too many.
    fn handle_beside_others(&mut self, socket: Socket, message: Message) -> HandledWith<'_, Result<()>> {
        Box::pin(async move {
            let has_room = self.wait_for_fewer_than(self.events.concurrency).await;
            has_room.unwrap_or_else(|panic| resume_unwind(panic))?;
            let handled = call(&self.events.message, &socket, message);
            self.under_way.get_or_insert_default().spawn(closing_at_failure(socket, handled));
            Ok(())
        })
    }
}

/// Calls a closure, if there is one.
fn call<E>(on: &On<E>, socket: &Socket, event: E) -> Handled<Result<()>> {
    match on {
        Some(handle) => handle(socket.clone(), event),
        None => Box::pin(async { Ok(()) }),
    }
}

// The futures are boxed as they are, since a connection's task is as large as the largest that it awaits.
impl Handler for EventHandler<'_> {
    fn open(&mut self, socket: &Socket) -> impl Future<Output = Result<()>> + Send {
        call(&self.events.open, socket, ())
    }

    fn message(&mut self, socket: &Socket, message: Message) -> impl Future<Output = Result<()>> + Send {
        if self.events.concurrency <= 1 {
            call(&self.events.message, socket, message)
        } else {
            self.handle_beside_others(socket.clone(), message)
        }
    }

    fn ping(&mut self, socket: &Socket, payload: Bytes) -> impl Future<Output = Result<()>> + Send {
        call(&self.events.ping, socket, payload)
    }

    fn error(&mut self, socket: &Socket, error: &Error) {
        if let Some(told) = &self.events.error {
            told(socket, error);
        }
    }

    async fn close(&mut self, socket: &Socket, close: CloseEvent) {
        loop {
            let ended = self.wait_for_fewer_than(1).await;
            let told = match &ended {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tell_error(self, socket, error),
                Err(_) => Ok(()),
            };
            self.failure.get_or_insert(Box::new(told.and(ended)));
        }
        if let Some(told) = &self.events.close {
            told(socket.clone(), close).await;
        }
    }
}

/// Handles a message in a task of its own. When that fails, the connection is not left to wait for
/// another message.
async fn closing_at_failure(socket: Socket, mut handled: Handled<Result<()>>) -> Result<()> {
    let ended = poll_fn(|cx| poll_catching(handled.as_mut(), cx)).await;
    if !matches!(ended, Ok(Ok(()))) {
        close_badly(&socket);
    }
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

/// A client in event style: [`run`](Self::run) opens the connection and calls its handlers.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// wireline::connect("wss://example.com/hello")
///     .on_open(|socket| async move {
///         socket.send("My name is John").await?;
///         Ok(())
///     })
///     .on_message(|socket, message| async move {
///         println!("[message] {message}");
///         socket.close();
///         Ok(())
///     })
///     .on_error(|_, error| eprintln!("[error] {error}"))
///     .on_close(|_, close| async move { println!("[close] {close}") })
///     .run()
///     .await
/// # }
/// ```
#[derive(Debug)]
pub struct EventClient {
    connect: Connect,
    events: Events,
}

impl EventClient {
    /// Opens the connection, and calls the handlers until it is over. `Ok`: the closing handshake
    /// completed, whatever its code.
    ///
    /// # Errors
    /// No connection was opened: nobody was told of that. Or it ended without a closing handshake, or a
    /// handler failed: `on_error` was told. A handler's panic goes on here once the connection is over.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed with 1000, and no handler is told.
    pub async fn run(self) -> Result<()> {
        let mut ws = self.connect.into_future().await?;
        self.events.run(&mut ws).await
    }

    fn with_events(mut self, change: impl FnOnce(&mut Events)) -> Self {
        change(&mut self.events);
        self
    }
}

impl Connect {
    fn with_events(self, change: impl FnOnce(&mut Events)) -> EventClient {
        EventClient { connect: self, events: Events::default() }.with_events(change)
    }
}

macro_rules! event_setters {
    ($($type:ty => $result:ty),+) => {$(
        impl $type {
            /// What to do when a connection is open, before its first message. An error or a panic closes
            /// the connection with 1011, here and in the other handlers.
            #[must_use]
            pub fn on_open<F, H>(self, handler: F) -> $result
            where
                F: Fn(Socket) -> H + Send + Sync + 'static,
                H: Future<Output = Result<()>> + Send + 'static,
            {
                self.with_events(|events| {
                    events.open = Some(Arc::new(move |socket, ()| Box::pin(handler(socket))));
                })
            }

            /// What to do with a message. The next one waits until this one's future is done, see
            /// [`concurrent`](Self::concurrent); without this, messages are dropped.
            #[must_use]
            pub fn on_message<F, H>(self, handler: F) -> $result
            where
                F: Fn(Socket, Message) -> H + Send + Sync + 'static,
                H: Future<Output = Result<()>> + Send + 'static,
            {
                self.with_events(|events| {
                    events.message = Some(Arc::new(move |socket, message| Box::pin(handler(socket, message))));
                })
            }

            /// What to do with a Ping, besides answering it, which was done already.
            #[must_use]
            pub fn on_ping<F, H>(self, handler: F) -> $result
            where
                F: Fn(Socket, Bytes) -> H + Send + Sync + 'static,
                H: Future<Output = Result<()>> + Send + 'static,
            {
                self.with_events(|events| {
                    events.ping = Some(Arc::new(move |socket, payload| Box::pin(handler(socket, payload))));
                })
            }

            /// Whom to tell when a connection ends without a closing handshake, or a handler fails.
            /// `on_close` follows.
            #[must_use]
            pub fn on_error<F>(self, handler: F) -> $result
            where
                F: Fn(&Socket, &Error) + Send + Sync + 'static,
            {
                self.with_events(|events| events.error = Some(Arc::new(handler)))
            }

            /// What to do when a connection is over: once for each that was opened, however it ended, and after
            /// all other handlers of it are done.
            #[must_use]
            pub fn on_close<F, H>(self, handler: F) -> $result
            where
                F: Fn(Socket, CloseEvent) -> H + Send + Sync + 'static,
                H: Future<Output = ()> + Send + 'static,
            {
                self.with_events(|events| {
                    events.close = Some(Arc::new(move |socket, close| Box::pin(handler(socket, close))));
                })
            }

            /// Handles up to `messages` of one connection at once, each in a task of its own, so that their
            /// order is lost; by default one after the other. `on_close` waits for all of them. They end with
            /// the future that runs the connection, should that be dropped.
            #[must_use]
            pub fn concurrent(self, messages: usize) -> $result {
                self.with_events(|events| events.concurrency = messages)
            }
        }
    )+};
}

event_setters!(Server => Self, EventClient => Self, Connect => EventClient);
