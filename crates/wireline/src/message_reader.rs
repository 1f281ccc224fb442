//! Receiving one message in pieces.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use wireline_proto::MessageKind;

use crate::{
    CloseCause, Message, RecvError, Result, Utf8Bytes, WebSocket,
    driver::{Link, Piece, Received},
};

/// A data frame, with its payload whole: see [`WebSocket::recv_frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Of the message that it belongs to.
    pub kind: MessageKind,
    /// The bytes, unmasked and inflated. Those of a text are UTF-8 together with the frames around it; a
    /// frame may end within a character.
    pub payload: Bytes,
    /// It is the first frame of its message; else a continuation.
    pub is_first: bool,
    /// It is the last frame of its message (FIN).
    pub is_final: bool,
}

/// Reads one message as it comes: see [`WebSocket::recv_reader`].
///
/// While nobody reads, the peer is read ahead by 64 KiB and no further. Dropped early, the rest of the
/// message is received and dropped by whatever is called next on the connection to receive.
///
/// The bytes of a text are UTF-8, to the last byte that was read; a piece may end within a character.
#[derive(Debug)]
pub struct MessageReader<'w> {
    ws: &'w mut WebSocket,
    kind: MessageKind,
}

impl<'w> MessageReader<'w> {
    pub(crate) fn new(ws: &'w mut WebSocket, kind: MessageKind) -> Self {
        Self { ws, kind }
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The next bytes of the message, without a copy; `None` at its end.
    ///
    /// # Errors
    /// The connection ended before the message did; if by a closing handshake, the cause is
    /// [`CloseCause::UnfinishedMessage`].
    ///
    /// # Cancel safety
    /// Dropped early, nothing is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RecvError> {
        poll_fn(|cx| {
            let piece = ready!(self.poll_piece(cx))?;
            Poll::Ready(Ok(piece.map(|piece| std::mem::take(&mut piece.payload))))
        })
        .await
    }

    /// The piece at hand, if anything of it is left, or else the next; `None` at the end of the message.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<&mut Piece>, RecvError>> {
        let (link, reading) = self.ws.link_and_reading();
        loop {
            match &reading.at_hand {
                None => return Poll::Ready(Ok(None)),
                Some(piece) if !piece.payload.is_empty() => break,
                Some(piece) if piece.ends_message => reading.at_hand = None,
                Some(_) => match ready!(link.poll_recv(cx))? {
                    Some(Received::Piece(piece)) => reading.at_hand = Some(piece),
                    Some(Received::Message(_) | Received::Ping(_)) => {}
                    None => return Poll::Ready(Err(unfinished(link))),
                },
            }
        }
        Poll::Ready(Ok(reading.at_hand.as_mut()))
    }
}

/// The error of a message that a closing handshake has cut off.
fn unfinished(link: &Link) -> RecvError {
    let mut event = link.outcome().unwrap_or_else(|| unreachable!("the end of messages is the outcome"));
    event.cause.get_or_insert(CloseCause::UnfinishedMessage);
    RecvError(Box::new(event))
}

/// The end of the message is the end of the file.
impl AsyncRead for MessageReader<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = ready!(self.get_mut().poll_piece(cx));
        let piece = piece.map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error))?;
        if let Some(piece) = piece {
            let count = piece.payload.len().min(buf.remaining());
            buf.put_slice(&piece.payload[..count]);
            piece.payload.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

/// Where a connection is in a message that comes in pieces.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the message at hand")]
pub(crate) struct Reading {
    /// The piece that a [`MessageReader`] is at.
    at_hand: Option<Piece>,
    /// What was put together of a message or frame that is not whole yet, and whether the message begins
    /// with it.
    collected: Vec<u8>,
    has_beginning: bool,
    is_collecting: bool,
    /// A message was refused, and nothing behind it counts.
    has_refused: bool,
    /// The rest of the message is dropped.
    is_skipping: bool,
}

/// What is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Message,
    Frame,
}

impl Reading {
    /// A reader that was dropped early has left the rest of its message.
    fn skip_what_a_reader_left(&mut self) {
        if let Some(piece) = self.at_hand.take() {
            self.is_skipping = !piece.ends_message;
        }
    }

    /// Takes a piece, unless it is to be dropped.
    fn admit(&mut self, piece: Piece, unit: Unit) -> Option<Piece> {
        if !self.is_collecting {
            self.has_beginning = piece.begins_message;
        }
        // Of a message that was begun frame by frame there is no whole any more.
        let is_rest = unit == Unit::Message && !self.has_beginning;
        if self.is_skipping || self.has_refused || is_rest {
            self.is_skipping = !piece.ends_message;
            self.is_collecting = false;
            self.collected = Vec::new();
            return None;
        }
        Some(piece)
    }

    /// Adds a piece; the frame that is whole by it.
    fn collect(&mut self, piece: Piece, unit: Unit, link: &Link) -> Option<Frame> {
        let Piece { kind, payload, ends_frame, ends_message, .. } = self.admit(piece, unit)?;
        let limit = link.with_connection(|connection| connection.config().max_message_size);
        let len = self.collected.len() + payload.len();
        if len > limit {
            link.refuse_message(len, limit);
            self.collected = Vec::new();
            self.has_refused = true;
            return None;
        }
        let is_whole = if unit == Unit::Message { ends_message } else { ends_frame };
        if !is_whole || !self.collected.is_empty() {
            self.collected.extend_from_slice(&payload);
        }
        self.is_collecting = !is_whole;
        if !is_whole {
            return None;
        }
        let payload =
            if self.collected.is_empty() { payload } else { std::mem::take(&mut self.collected).into() };
        Some(Frame { kind, payload, is_first: self.has_beginning, is_final: ends_message })
    }
}

impl WebSocket {
    /// The next message, put together if it came in pieces, or a Ping where those are told.
    #[inline]
    pub(crate) fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Received>, RecvError>> {
        if let Some(reading) = &mut self.reading {
            reading.skip_what_a_reader_left();
        }
        loop {
            match ready!(self.link().poll_recv(cx))? {
                Some(Received::Piece(piece)) => {
                    let (link, reading) = self.link_and_reading();
                    if let Some(frames) = reading.collect(piece, Unit::Message, link) {
                        return Poll::Ready(Ok(Some(Received::Message(frames.into()))));
                    }
                }
                other => return Poll::Ready(Ok(other)),
            }
        }
    }

    /// The next frame, or message that came whole.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, RecvError>> {
        let (link, reading) = self.link_and_reading();
        reading.skip_what_a_reader_left();
        loop {
            match ready!(link.poll_recv(cx))? {
                Some(Received::Piece(piece)) => {
                    if let Some(frame) = reading.collect(piece, Unit::Frame, link) {
                        return Poll::Ready(Ok(Some(frame)));
                    }
                }
                Some(Received::Message(message)) => return Poll::Ready(Ok(Some(message.into()))),
                Some(Received::Ping(_)) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The next bytes, of whatever message; they may be none.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RecvError>> {
        let (link, reading) = self.link_and_reading();
        reading.skip_what_a_reader_left();
        if std::mem::take(&mut reading.is_collecting) {
            // By a `recv` that was dropped.
            return Poll::Ready(Ok(Some(std::mem::take(&mut reading.collected).into())));
        }
        loop {
            let piece = match ready!(link.poll_recv(cx))? {
                Some(Received::Piece(piece)) => reading.admit(piece, Unit::Frame),
                Some(Received::Message(message)) => Some(Piece::from(message)),
                Some(Received::Ping(_)) => None,
                None => return Poll::Ready(Ok(None)),
            };
            if let Some(piece) = piece {
                return Poll::Ready(Ok(Some(piece.payload)));
            }
        }
    }

    /// The kind of the next message, whose first piece is at hand then.
    pub(crate) fn poll_begin(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<MessageKind>, RecvError>> {
        let (link, reading) = self.link_and_reading();
        reading.skip_what_a_reader_left();
        loop {
            let piece = match ready!(link.poll_recv(cx))? {
                Some(Received::Piece(piece)) => reading.admit(piece, Unit::Message),
                Some(Received::Message(message)) => Some(Piece::from(message)),
                Some(Received::Ping(_)) => None,
                None => return Poll::Ready(Ok(None)),
            };
            let Some(mut piece) = piece else { continue };
            reading.is_collecting = false;
            if !reading.collected.is_empty() {
                // A `recv` that was dropped has put the beginning together.
                reading.collected.extend_from_slice(&piece.payload);
                piece.payload = std::mem::take(&mut reading.collected).into();
            }
            let kind = piece.kind;
            reading.at_hand = Some(piece);
            return Poll::Ready(Ok(Some(kind)));
        }
    }
}

/// A message that came whole.
impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        let Piece { kind, payload, .. } = message.into();
        Self { kind, payload, is_first: true, is_final: true }
    }
}

impl From<Message> for Piece {
    fn from(message: Message) -> Self {
        let (kind, payload) = match message {
            Message::Text(text) => (MessageKind::Text, text.into()),
            Message::Binary(bytes) => (MessageKind::Binary, bytes),
        };
        Self { kind, payload, begins_message: true, ends_frame: true, ends_message: true }
    }
}

/// All the frames of a message in one.
impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame.kind {
            MessageKind::Binary => Self::Binary(frame.payload),
            MessageKind::Text => Utf8Bytes::try_from(frame.payload)
                .map_or_else(|_| unreachable!("a text message is checked as it comes"), Self::Text),
        }
    }
}
