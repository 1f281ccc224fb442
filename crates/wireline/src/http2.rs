//! HTTP/2 (RFC 9113), by the crate h2: a request's stream as a byte stream (RFC 8441), and connections that
//! are looked after.

mod cork;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::cork::{Cork, Corked, cork};

/// After so much time a PING is sent, and after so much again without its answer the connection is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bytes of a stream that wait for the peer to make room.
pub(crate) const SEND_BUFFER: usize = 256 << 10;

/// Bytes of a head, as RFC 9113 section 6.5.2 counts them.
pub(crate) const MAX_HEAD: u32 = 64 << 10;

/// Is ready when the peer does not answer PINGs any more.
pub(crate) async fn silence(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        let answered = tokio::time::timeout(KEEPALIVE, pings.ping(Ping::opaque())).await;
        if answered.is_err() {
            return;
        }
    }
}

/// A stream that an extended CONNECT has opened, as RFC 8441 section 5 has it: its end is the stream's, and dropped
/// before that, it resets the stream, and what waits to be sent is lost.
pub(crate) struct Tunnel<K> {
    send: SendStream<Bytes>,
    receiver: Receiver,
    /// Kept for as long as the stream is.
    _keep: K,
}

/// The receiving side.
pub(crate) struct Receiver {
    recv: RecvStream,
    /// What was received and not read.
    chunk: Bytes,
    /// What was read, and the peer may not send again yet.
    unreleased: usize,
    is_at_end: bool,
}

/// How much of that there is before the peer is told: a part of any window here.
const RELEASED_AT_ONCE: usize = 16 << 10;

impl<K> Tunnel<K> {
    pub(crate) fn new(send: SendStream<Bytes>, receiver: Receiver, keep: K) -> Self {
        Self { send, receiver, _keep: keep }
    }
}

impl Receiver {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, chunk: Bytes::new(), unreleased: 0, is_at_end: false }
    }

    /// Whether there is something to read; not at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.chunk.is_empty() {
            if self.is_at_end {
                return Poll::Ready(Ok(false));
            }
            match ready!(self.recv.poll_data(cx)) {
                Some(data) => self.chunk = data.map_err(lost)?,
                None => self.is_at_end = true,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Lets the peer send as much again, if it is worth it.
    fn release(&mut self, count: usize) -> io::Result<()> {
        self.unreleased += count;
        if self.unreleased < RELEASED_AT_ONCE {
            return Ok(());
        }
        let count = std::mem::take(&mut self.unreleased);
        self.recv.flow_control().release_capacity(count).map_err(lost)
    }
}

/// An error of a stream as the system would tell it of TCP's; the transport's own as it was.
pub(crate) fn lost(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl<K: Unpin> AsyncRead for Tunnel<K> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let receiver = &mut self.receiver;
        if ready!(receiver.poll_fill(cx))? {
            let count = receiver.chunk.len().min(buf.remaining());
            buf.put_slice(&receiver.chunk[..count]);
            receiver.chunk.advance(count);
            receiver.release(count)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<K: Unpin> AsyncWrite for Tunnel<K> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        // What was told as new is there until it is used.
        let mut capacity = self.send.capacity();
        while capacity == 0 {
            capacity = match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(lost)?,
                None => return Poll::Ready(Err(self.closed(cx))),
            };
        }
        let count = capacity.min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..count]), false).map_err(lost)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(lost))
    }
}

impl<K> Tunnel<K> {
    /// Why nothing can be sent any more.
    fn closed(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => {
                io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason))
            }
            Poll::Ready(Err(error)) => lost(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl<K> Drop for Tunnel<K> {
    fn drop(&mut self) {
        // Behind the peer's end this one's is no loss.
        if self.receiver.is_at_end {
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }
}

impl http_body::Body for Receiver {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !ready!(self.poll_fill(cx))? {
            return Poll::Ready(None);
        }
        let bytes = std::mem::take(&mut self.chunk);
        self.release(bytes.len())?;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl<K: Unpin> http_body::Body for Tunnel<K> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.receiver).poll_frame(cx)
    }
}

/// Whether the peer has not looked at the request, so that it can be made again (RFC 9113 section 8.7), or wants it over
/// HTTP/1.1 (section 7).
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote()
        && (matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED))
            || (error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)))
}
