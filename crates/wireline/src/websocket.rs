//! A connection with its read side.

use std::{
    fmt,
    future::{Future, poll_fn},
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_sink::Sink;

use crate::{
    ByteStream, Handler, Message, RecvError, Result, SendError, SendMessage, Socket,
    driver::{Link, Received},
    events,
    message_reader::{Frame, MessageReader, Reading},
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
    sink: Option<Box<SinkState>>,
    /// Where it is in a message that comes in pieces.
    pub(crate) reading: Option<Box<Reading>>,
}

/// What it needs as a `Sink`.
#[derive(Default)]
struct SinkState {
    /// A message that was taken on while somebody sends another in pieces.
    held: Option<Outgoing>,
    /// Its places among those who wait.
    send: Option<usize>,
    closed: Option<usize>,
}

impl WebSocket {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { socket: Socket::new(link), is_exhausted: false, sink: None, reading: None }
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
        RecvMessage { ws: self }
    }

    /// The next message, to be read as it comes, whatever its length: with
    /// [`Config::receive_in_pieces`](crate::Config::receive_in_pieces) it takes constant memory (the 64 KiB of
    /// the read-ahead, and a piece), and [`max_message_size`](crate::Config::max_message_size) does not bound
    /// it. Without that, messages are put together before they are given here. `Ok(None)` as in
    /// [`recv`](Self::recv).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use wireline::Config;
    ///
    /// let config = Config::client().receive_in_pieces(true);
    /// let mut ws = wireline::connect("wss://example.com/backup").config(config).await?;
    /// if let Some(mut reader) = ws.recv_reader().await? {
    ///     tokio::io::copy(&mut reader, &mut tokio::io::stdout()).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// As [`recv`](Self::recv).
    pub async fn recv_reader(&mut self) -> Result<Option<MessageReader<'_>>, RecvError> {
        let kind = poll_fn(|cx| self.poll_begin(cx)).await?;
        Ok(kind.map(|kind| MessageReader::new(self, kind)))
    }

    /// The next data frame, as the peer sent it, with
    /// [`Config::receive_in_pieces`](crate::Config::receive_in_pieces); without that a message that was put
    /// together. Frames mean nothing by themselves (RFC 6455 section 5.4): whatever lies between may cut them
    /// otherwise. `Ok(None)` as in [`recv`](Self::recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv). A frame of more than
    /// [`max_message_size`](crate::Config::max_message_size) fails the connection with 1009.
    ///
    /// # Cancel safety
    /// As [`recv`](Self::recv).
    pub async fn recv_frame(&mut self) -> Result<Option<Frame>, RecvError> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    pub(crate) fn link_and_reading(&mut self) -> (&Arc<Link>, &mut Reading) {
        (self.socket.link(), self.reading.get_or_insert_default())
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
    pub async fn run(mut self, mut handler: impl Handler) -> Result<()> {
        self.link().tell_pings();
        events::run(&mut self, &mut handler).await
    }

    /// [`Socket::send`]: here too, so that it is the one which is called while futures' `SinkExt` is in scope.
    #[inline]
    pub fn send(&self, message: impl Into<Message>) -> SendMessage<'_> {
        self.socket.send(message)
    }

    /// [`Socket::close`]: here too, for the same reason.
    pub fn close(&self) {
        self.socket.close();
    }

    /// Makes it a pipe of bytes, to be read and written as a stream: what the payloads of all messages are,
    /// one behind the other.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// // What comes by TCP goes on in a WebSocket, and back.
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:5432").await?;
    /// let (mut tcp, _) = listener.accept().await?;
    /// let mut pipe = wireline::connect("wss://example.com/tunnel").await?.into_io();
    /// tokio::io::copy_bidirectional(&mut tcp, &mut pipe).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_io(self) -> ByteStream {
        ByteStream::new(self)
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
        if let Some(sink) = self.sink.take() {
            sink.send.into_iter().for_each(|place| link.cancel_send(place));
            sink.closed.into_iter().for_each(|place| link.cancel_closed(place));
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
        let polled = self.poll_message(cx).map(Result::transpose);
        self.is_exhausted = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

/// Sends with the same backpressure as [`Socket::send`]. `poll_close` starts the closing handshake, and is an
/// error if that does not complete.
impl Sink<Message> for WebSocket {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_held(cx))?;
        let this = self.get_mut();
        this.socket.link().poll_send(cx, &mut None, &mut this.sink.get_or_insert_default().send)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), SendError> {
        let this = self.get_mut();
        let message = Outgoing::from(message);
        if this.link().is_message_under_way() {
            // Begun since this was ready, which is a promise. The sink's next step sends it.
            this.sink.get_or_insert_default().held = Some(message);
            return Ok(());
        }
        this.link().send_unchecked(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_held(cx))?;
        self.socket.link().poll_flushed(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_held(cx))?;
        self.socket.close();
        let this = self.get_mut();
        let closed = this.socket.link().poll_closed(cx, &mut this.sink.get_or_insert_default().closed);
        closed.map(|event| if event.was_clean { Ok(()) } else { Err(SendError::Closed) })
    }
}

/// The future of [`WebSocket::recv`].
#[derive(Debug)]
#[must_use = "nothing is received until it is awaited"]
pub struct RecvMessage<'w> {
    ws: &'w mut WebSocket,
}

impl Future for RecvMessage<'_> {
    type Output = Result<Option<Message>, RecvError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.ws.poll_message(cx)
    }
}

impl WebSocket {
    /// Sends what [`start_send`](Sink::start_send) could not.
    pub(crate) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match &mut self.sink {
            Some(sink) if sink.held.is_some() => {
                self.socket.link().poll_send(cx, &mut sink.held, &mut sink.send)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, RecvError>> {
        loop {
            match ready!(self.poll_received(cx))? {
                Some(Received::Message(message)) => return Poll::Ready(Ok(Some(message))),
                // Told only to who asks for them, which is never who calls this; and no piece comes from there.
                Some(Received::Ping(_) | Received::Piece(_)) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}
