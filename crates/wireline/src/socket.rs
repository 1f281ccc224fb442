//! The handle that any number of tasks send through.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderMap;
use tokio::io::AsyncRead;
use wireline_proto::{CloseCode, CloseFrame, CloseFrameError, Compress, MessageKind, deflate::DeflateTotals};

use crate::{CloseEvent, Message, MessageWriter, Prepared, SendError, driver::Link, prepared::Outgoing};

/// A cheap clone of a connection's sending side: any number of tasks send through their own.
///
/// A [`WebSocket`](crate::WebSocket) is one too, so all of this can be called on it. The connection is
/// closed with code 1000 when the last handle is dropped.
///
/// ```no_run
/// # async fn example(ws: wireline::WebSocket) -> wireline::Result<()> {
/// let socket = ws.socket();
/// tokio::spawn(async move {
///     socket.send("from another task").await?;
///     let rtt = socket.ping().await?;
///     println!("{rtt:?} there and back");
///     Ok::<(), wireline::SendError>(())
/// });
/// # Ok(())
/// # }
/// ```
pub struct Socket {
    link: Arc<Link>,
}

/// What the browser calls `readyState`. A handle exists from `Open` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadyState {
    /// Messages can be sent.
    Open,
    /// Either end has begun to close, or the connection was lost.
    Closing,
    /// It is over; [`Socket::closed`] gives the outcome without waiting.
    Closed,
}

impl Socket {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        link.add_handle();
        Self { link }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Sends a message. It is queued at once, unless more than the high-water mark (64 KiB) is still
    /// unsent: then this waits for the peer to read. Messages of one task arrive in order.
    ///
    /// # Errors
    /// [`SendError::Closed`] after either end began to close, or the connection was lost.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was sent; once ready, everything is queued.
    #[inline]
    pub fn send(&self, message: impl Into<Message>) -> SendMessage<'_> {
        SendMessage { link: &self.link, message: Some(Outgoing::from(message)), place: None }
    }

    /// Sends a message without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] when the send cap (1 MiB of unsent bytes) does not allow it, else as
    /// [`send`](Self::send).
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.link.try_send(Outgoing::from(message)).map(drop)
    }

    /// Sends a message that was framed before, as [`send`](Self::send) does otherwise.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_prepared(&self, message: &Prepared) -> SendMessage<'_> {
        SendMessage { link: &self.link, message: Some(Outgoing::from(message.clone())), place: None }
    }

    /// Sends a message that was framed before, without waiting: for one message to many sockets. The
    /// sockets are written by one task for each thread of their runtime; what is sent to a socket until
    /// its turn comes goes out in one write.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send). A peer that does not read costs the send cap at most.
    pub fn try_send_prepared(&self, message: &Prepared) -> Result<(), SendError> {
        self.link.try_send(Outgoing::from(message.clone())).map(drop)
    }

    /// Sends a message that was framed before, without waiting, unless more than `limit` bytes would be unsent
    /// then: how many are. Where [`send`](Self::send) would not wait it is sent whatever its length, so that
    /// nobody waits for room that never comes. For those who keep a bound of their own for many sockets, instead
    /// of the send cap.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_prepared_within(&self, message: &Prepared, limit: usize) -> Result<usize, SendError> {
        self.link.try_send_within(Outgoing::from(message.clone()), limit)
    }

    /// Waits until [`send`](Self::send) would not wait: because the peer has read, or because the connection is
    /// closing.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn writable(&self) {
        // Without a message nothing is sent, and nothing can fail.
        let _ = SendMessage { link: &self.link, message: None, place: None }.await;
    }

    /// A writer of one message, of any length, of whose pieces none is kept longer than it takes to send.
    /// The message begins with the first piece.
    #[must_use]
    pub fn message_writer(&self, kind: MessageKind) -> MessageWriter {
        MessageWriter::new(self.clone(), kind)
    }

    /// Sends all that `reader` gives as one message, in frames of at most 64 KiB, which take constant memory
    /// whatever their number: how many bytes it was. It waits for the peer to read, as
    /// [`send`](Self::send) does.
    ///
    /// # Errors
    /// Those of `reader`, and those of a [`MessageWriter`]. A message that was begun cannot be taken back: the
    /// connection is then closed with 1011.
    ///
    /// # Cancel safety
    /// Dropped after the first byte was read, it closes the connection with 1011.
    pub async fn send_reader<R>(&self, kind: MessageKind, reader: R) -> io::Result<u64>
    where
        R: AsyncRead + Unpin,
    {
        self.message_writer(kind).send_all(reader).await
    }

    /// Pings the peer and waits for its Pong: the time there and back.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection is closing, or ends before the Pong comes.
    ///
    /// # Cancel safety
    /// Dropped early, the Ping is sent and its Pong ignored.
    pub async fn ping(&self) -> Result<Duration, SendError> {
        self.link.ping()?.await.map_err(|_| SendError::Closed)
    }

    /// Sends a Pong that answers nothing: a sign of life that wants no reply (RFC 6455 section 5.5.3).
    /// The peer's Pings are answered without it.
    ///
    /// # Errors
    /// When `payload` has more than 125 bytes, or the connection is closing.
    pub fn pong(&self, payload: &[u8]) -> Result<(), SendError> {
        self.link.pong(payload)
    }

    /// Starts the closing handshake without a code, behind everything that was sent. Messages that the
    /// peer sent before it answers are still received by an application that takes them.
    /// [`closed`](Self::closed) waits for the outcome. Without effect if either end has begun to close.
    pub fn close(&self) {
        self.link.close(None);
    }

    /// Starts the closing handshake with a code and a reason; otherwise as [`close`](Self::close).
    ///
    /// # Errors
    /// Before a byte is sent, when the code must not be sent (1004, 1005, 1006, 1015, and what is not
    /// 1000-1014 or 3000-4999), or the reason has more than 123 bytes.
    pub fn close_with(
        &self,
        code: impl Into<CloseCode>,
        reason: impl Into<String>,
    ) -> Result<(), CloseFrameError> {
        self.link.close(Some(&CloseFrame::new(code, reason)?));
        Ok(())
    }

    /// Gives the connection up at once: no Close frame, unsent messages are lost.
    pub fn abort(&self) {
        self.link.abort();
    }

    /// Waits for the end of the connection. Messages must still be taken meanwhile, in this task or
    /// another: a peer that sends more than the read-ahead (64 KiB) is not read any further otherwise,
    /// and its Close frame is not seen. Once this end has begun to close, what finds no room there while
    /// somebody waits here is dropped instead, and `recv` ends with an error that says so.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn closed(&self) -> CloseEvent {
        Closing::new(&self.link).await
    }

    /// Bytes that were sent and not yet handed to the system, frame headers included.
    #[must_use]
    pub fn buffered_amount(&self) -> usize {
        self.link.with_connection(wireline_proto::Connection::pending_transmit)
    }

    /// How far the connection is.
    #[must_use]
    pub fn ready_state(&self) -> ReadyState {
        if self.link.is_closed() {
            ReadyState::Closed
        } else if self.link.with_connection(wireline_proto::Connection::is_open) {
            ReadyState::Open
        } else {
            ReadyState::Closing
        }
    }

    /// The subprotocol agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.link.protocol()
    }

    /// The extensions agreed on, as they stand in the server's response: `permessage-deflate` with its
    /// parameters, or empty.
    #[must_use]
    pub fn extensions(&self) -> &str {
        self.link.extensions().unwrap_or_default()
    }

    /// What compression made of the messages so far; `None` if it was not agreed on.
    #[must_use]
    pub fn deflate_totals(&self) -> Option<DeflateTotals> {
        self.link.with_connection(wireline_proto::Connection::deflate_totals)
    }

    /// The URL that was connected to, with the default port left out. `None` on a server.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.link.url()
    }

    /// The headers of the server's response to the opening handshake, such as its `Set-Cookie`. `None` on a
    /// server.
    #[must_use]
    pub fn response_headers(&self) -> Option<&HeaderMap> {
        self.link.response_headers()
    }

    /// The peer's address; `None` on a Unix socket, and on a client if a proxy is between.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.link.remote_addr
    }

    /// The client's address as [`Request::client_ip`](crate::Request::client_ip) has it; on a client, the
    /// server's.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.link.client_ip()
    }

    /// The time from the last keepalive Ping to its Pong, if there was one.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.link.with_connection(wireline_proto::Connection::latency)
    }

    /// A number that no other connection of this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.link.id
    }
}

impl Clone for Socket {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.link))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.link.drop_handle();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.id())
            .field("ready_state", &self.ready_state())
            .field("remote_addr", &self.remote_addr())
            .finish_non_exhaustive()
    }
}

/// The future of [`Socket::closed`], with its place among those who wait.
pub(crate) struct Closing<'s> {
    link: &'s Link,
    place: Option<usize>,
}

impl<'s> Closing<'s> {
    pub(crate) fn new(link: &'s Link) -> Self {
        Self { link, place: None }
    }
}

impl Future for Closing<'_> {
    type Output = CloseEvent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseEvent> {
        let link = self.link;
        link.poll_closed(cx, &mut self.place)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.link.cancel_closed(place);
        }
    }
}

/// The future of [`Socket::send`].
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct SendMessage<'s> {
    link: &'s Arc<Link>,
    message: Option<Outgoing>,
    /// Its place among those who wait for the peer to read.
    place: Option<usize>,
}

impl SendMessage<'_> {
    /// Compresses this message or does not, if compression was agreed on; by default its size decides.
    /// Leave uncompressed what is compressed already (pictures, archives), and what is secret: where an
    /// attacker can have text of his own sent beside a secret, the size of the message betrays it.
    ///
    /// ```no_run
    /// # async fn example(ws: wireline::WebSocket, jpeg: Vec<u8>) -> wireline::Result<()> {
    /// use wireline::Compress;
    /// ws.send(jpeg).compress(Compress::Never).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn compress(mut self, compress: Compress) -> Self {
        if let Some(Outgoing::Message(_, chosen) | Outgoing::Prepared(_, chosen)) = &mut self.message {
            *chosen = compress;
        }
        self
    }
}

impl Drop for SendMessage<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.link.cancel_send(place);
        }
    }
}

impl Future for SendMessage<'_> {
    type Output = Result<(), SendError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.link.poll_send(cx, &mut this.message, &mut this.place)
    }
}
