//! Sending one message in pieces.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use wireline_proto::{CloseCode, MessageKind};

use crate::{SendError, Socket};

/// Bytes of one piece of what is written or read: what a message of any length takes, and as much again
/// waits to be sent.
const PIECE: usize = 64 << 10;

/// Writes one message, piece by piece, each in a frame of its own: see [`Socket::message_writer`].
///
/// Other messages of this connection wait until it is finished; Pings and Pongs go out between. It is not
/// compressed. A writer that is dropped after it began and before it is finished closes the connection with
/// 1011, since the peer must not take a part for the whole.
///
/// ```no_run
/// # async fn example(ws: wireline::WebSocket) -> wireline::Result<()> {
/// use wireline::MessageKind;
///
/// let mut writer = ws.message_writer(MessageKind::Text);
/// for line in ["one\n", "two\n"] {
///     writer.write_piece(line).await?;
/// }
/// writer.finish().await?;
/// # Ok(())
/// # }
/// ```
///
/// As an [`AsyncWrite`] it takes up to 64 KiB at a time and is finished by `shutdown`. What was written is on
/// its way, so there is nothing to flush.
#[derive(Debug)]
pub struct MessageWriter {
    socket: Socket,
    kind: MessageKind,
    state: State,
    /// Its place among those who wait to send.
    place: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Begun,
    Finished,
}

impl MessageWriter {
    pub(crate) fn new(socket: Socket, kind: MessageKind) -> Self {
        Self { socket, kind, state: State::Fresh, place: None }
    }

    /// Sends the next piece. It waits while more than the high-water mark (64 KiB) is unsent, and, before
    /// the first piece, while another message is being sent in pieces.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection is closing; [`SendError::InvalidUtf8`] when a text is none.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing of the piece was sent.
    pub async fn write_piece(&mut self, piece: impl Into<Bytes>) -> Result<(), SendError> {
        let piece = piece.into();
        poll_fn(|cx| self.poll_piece(cx, &piece, false)).await
    }

    /// Ends the message. One that had no piece is sent empty.
    ///
    /// # Errors
    /// As [`write_piece`](Self::write_piece): a text may end within a character.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message is not finished, and the connection closed.
    pub async fn finish(mut self) -> Result<(), SendError> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    pub(crate) async fn send_all(mut self, mut reader: impl AsyncRead + Unpin) -> io::Result<u64> {
        let (mut sent, mut buffer) = (0, BytesMut::new());
        loop {
            // Pieces that are read little by little share their memory, of which they keep the whole.
            if buffer.capacity() < PIECE / 4 {
                buffer.reserve(PIECE);
            }
            let count = (&mut reader).take(PIECE as u64).read_buf(&mut buffer).await?;
            if count == 0 {
                self.finish().await.map_err(to_io)?;
                return Ok(sent);
            }
            sent += count as u64;
            self.write_piece(buffer.split().freeze()).await.map_err(to_io)?;
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, piece: &Bytes, fin: bool) -> Poll<Result<(), SendError>> {
        if self.state == State::Finished {
            return Poll::Ready(Err(SendError::Closed));
        }
        let is_begun = self.state == State::Begun;
        let piece = (self.kind, piece, fin);
        ready!(self.socket.link().poll_send_piece(cx, piece, is_begun, &mut self.place))?;
        self.state = if fin { State::Finished } else { State::Begun };
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.state == State::Finished {
            return Poll::Ready(Ok(()));
        }
        self.poll_piece(cx, &Bytes::new(), true)
    }
}

impl AsyncWrite for MessageWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.state == State::Finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let piece = &buf[..buf.len().min(PIECE)];
        ready!(self.poll_piece(cx, &Bytes::copy_from_slice(piece), false)).map_err(to_io)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(to_io)
    }
}

impl Drop for MessageWriter {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.socket.link().cancel_send(place);
        }
        if self.state == State::Begun {
            let _ = self.socket.close_with(CloseCode::INTERNAL_ERROR, "a message was not finished");
        }
    }
}

fn to_io(error: SendError) -> io::Error {
    let kind = match error {
        SendError::InvalidUtf8 => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, error)
}
