//! A connection with its read side.

use std::{
    fmt,
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_sink::Sink;

use crate::{
    Handler, Message, RecvError, Result, SendError, Socket,
    driver::{Link, Received},
    events,
    prepared::Outgoing,
};

/// A WebSocket connection, client's or server's, whatever lies under it.
///
/// It owns the read side: [`recv`](Self::recv) takes `&mut self`. Everything else is a [`Socket`]'s,
/// which it derefs to; [`socket`](Self::socket) gives one to keep.
///
/// Pings are answered, keepalive Pings sent and Close frames echoed whether or not the application is
/// waiting in `recv`.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let mut ws = wireline::connect("wss://example.com/chat").protocols(["echo-protocol"]).await?;
/// ws.send("My name is John").await?;
/// while let Some(message) = ws.recv().await? {
///     println!("{message}");
/// }
/// println!("{}", ws.closed().await);
/// # Ok(())
/// # }
/// ```
pub struct WebSocket {
    socket: Socket,
    /// As a `Stream`, it has given its last item.
    is_exhausted: bool,
    sink: Option<Box<SinkPlaces>>,
}

/// As a `Sink`, its places among those who wait.
#[derive(Default)]
struct SinkPlaces {
    send: Option<usize>,
    closed: Option<usize>,
}

impl WebSocket {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { socket: Socket::new(link), is_exhausted: false, sink: None }
    }

    /// The next message. `Ok(None)`: the closing handshake completed, whatever its code.
    ///
    /// # Errors
    /// The connection ended without a closing handshake; the error tells why.
    ///
    /// # Cancel safety
    /// Dropped early, no message is lost or doubled: the next call gives it.
    #[inline]
    pub fn recv(&mut self) -> RecvMessage<'_> {
        RecvMessage { link: self.socket.link() }
    }

    /// Has `handler` called for all that happens until the connection is over. `Ok`: the closing handshake
    /// completed, whatever its code.
    ///
    /// # Errors
    /// The connection ended without a closing handshake, or the handler failed; the handler was told. Its
    /// panic goes on here, after the connection was closed with 1011.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed with 1000 like any that nobody has, and the handler is not told.
    pub async fn run(self, mut handler: impl Handler) -> Result<()> {
        self.link().tell_pings();
        events::run(&self, &mut handler).await
    }

    /// A handle for other tasks to send through.
    #[must_use]
    pub fn socket(&self) -> Socket {
        self.socket.clone()
    }
}

impl Deref for WebSocket {
    type Target = Socket;

    #[inline]
    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let link = self.socket.link();
        if let Some(places) = self.sink.take() {
            places.send.into_iter().for_each(|place| link.cancel_send(place));
            places.closed.into_iter().for_each(|place| link.cancel_closed(place));
        }
        link.drop_reader();
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebSocket").field(&self.socket).finish()
    }
}

/// Messages to the end of the connection; an error is the last item.
impl Stream for WebSocket {
    type Item = Result<Message, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_exhausted {
            return Poll::Ready(None);
        }
        let polled = poll_message(self.socket.link(), cx).map(Result::transpose);
        self.is_exhausted = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

/// Sends with the same backpressure as [`Socket::send`]; `poll_close` starts the closing handshake.
impl Sink<Message> for WebSocket {
    type Error = SendError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = self.get_mut();
        this.socket.link().poll_send(cx, &mut None, &mut this.sink.get_or_insert_default().send)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), SendError> {
        self.socket.link().send_unchecked(Outgoing::from(message))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.socket.link().poll_flushed(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.socket.close();
        let this = self.get_mut();
        this.socket.link().poll_closed(cx, &mut this.sink.get_or_insert_default().closed).map(|_| Ok(()))
    }
}

/// The future of [`WebSocket::recv`].
#[derive(Debug)]
#[must_use = "nothing is received until it is awaited"]
pub struct RecvMessage<'w> {
    link: &'w Arc<Link>,
}

impl Future for RecvMessage<'_> {
    type Output = Result<Option<Message>, RecvError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_message(self.link, cx)
    }
}

/// The next message. Pings are told only to who asks for them, which is never who calls this.
#[inline]
fn poll_message(link: &Arc<Link>, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, RecvError>> {
    loop {
        match ready!(link.poll_recv(cx))? {
            Some(Received::Message(message)) => return Poll::Ready(Ok(Some(message))),
            Some(Received::Ping(_)) => {}
            None => return Poll::Ready(Ok(None)),
        }
    }
}
