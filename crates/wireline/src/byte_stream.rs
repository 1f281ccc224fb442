//! A connection as a pipe of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use wireline_proto::{CloseCode, CloseFrame};

use crate::{Message, SendError, Socket, WebSocket, prepared::Outgoing};

/// Bytes that one write takes at most, and one message carries.
const MAX_WRITE: usize = 64 << 10;

/// A connection as a pipe of bytes, for what wants to read and write a stream: a tunnel, another protocol,
/// `tokio::io::copy_bidirectional`. See [`WebSocket::into_io`].
///
/// What is read is the payload of all data messages, one behind the other, be they text or binary: their
/// bounds mean nothing here. Each write becomes a binary message of at most 64 KiB, so what writes little at a
/// time wants a [`BufWriter`](tokio::io::BufWriter) in front. With
/// [`Config::receive_in_pieces`](crate::Config::receive_in_pieces) bytes are given as they come, and the
/// peer's messages may have any length.
///
/// - Writing waits while more than the high-water mark (64 KiB) is unsent; reading holds up a peer that sends
///   faster, behind a read-ahead of 64 KiB.
/// - `flush` is done when everything was handed to the system.
/// - `shutdown` begins the closing handshake behind all that was written, and is an error if the connection ends
///   before that is out. WebSocket has no half-closed state:
///   the peer can send until it answers, and what it sent by then can still be read.
/// - The end of the file is the end of a closing handshake. A connection that was lost is the error
///   [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
/// - Dropped, it closes the connection with 1000.
#[derive(Debug)]
pub struct ByteStream {
    ws: WebSocket,
    /// What was received and not yet read.
    unread: Bytes,
    /// Its place among those who wait to send.
    place: Option<usize>,
}

impl ByteStream {
    pub(crate) fn new(ws: WebSocket) -> Self {
        Self { ws, unread: Bytes::new(), place: None }
    }

    /// A handle of the connection, to learn how it ended, to ping, to close with a code.
    #[must_use]
    pub fn socket(&self) -> Socket {
        self.ws.socket()
    }

    /// Waits for bytes to read; none at the end of the connection.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A message may be empty, which is not the end.
        while self.unread.is_empty() {
            let chunk = ready!(self.ws.poll_chunk(cx));
            match chunk.map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error))? {
                Some(chunk) => self.unread = chunk,
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unread = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for ByteStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_unread(cx))?;
        Poll::Ready(Ok(&this.unread))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.unread.advance(count);
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { ws, place, .. } = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(ws.poll_held(cx)).map_err(broken_pipe)?;
        let link = ws.link();
        // Nothing is copied before there is room for it.
        ready!(link.poll_send(cx, &mut None, place)).map_err(broken_pipe)?;
        let bytes = &buf[..buf.len().min(MAX_WRITE)];
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        ready!(link.poll_send(cx, &mut Some(Outgoing::from(message)), place)).map_err(broken_pipe)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.ws.poll_held(cx)).map_err(broken_pipe)?;
        self.ws.link().poll_flushed(cx).map_err(broken_pipe)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.ws.poll_held(cx)).map_err(broken_pipe)?;
        let link = self.ws.link();
        // Without effect the second time.
        link.close(CloseFrame::new(CloseCode::NORMAL, "").ok().as_ref());
        match ready!(link.poll_flushed(cx)) {
            // Over before all was out: only after a closing handshake can that be everything.
            Err(error) if !link.was_clean() => Poll::Ready(Err(broken_pipe(error))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.ws.link().cancel_send(place);
        }
    }
}

fn broken_pipe(error: SendError) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}
