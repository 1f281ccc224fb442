//! A client's TLS stream, which knows why it cannot be written to.

use std::{
    io::{self, IoSlice, Read},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::failure::in_io;
use crate::transport::Transport;

/// A server that refuses a client after the handshake sends an alert and closes its socket. If the client
/// writes before it reads, that fails, and the alert lies unread behind: so it is read then.
pub(crate) struct ClientStream {
    stream: TlsStream<Transport>,
    /// Whether the server has said something: it has not refused the client then.
    is_heard: bool,
    alert: Alert,
}

/// The alert with which the peer ended TLS (RFC 8446 section 6.2), if it did: of an error that goes through HTTP/2
/// only the words are left.
#[derive(Clone, Default)]
pub(crate) struct Alert(Arc<OnceLock<rustls::Error>>);

impl Alert {
    fn note<T>(&self, done: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(error)) = done
            && let Some(alert @ rustls::Error::AlertReceived(_)) = in_io(error)
        {
            // The first one counts.
            let _ = self.0.set(alert.clone());
        }
    }

    pub(crate) fn error(&self) -> Option<io::Error> {
        Some(io::Error::new(io::ErrorKind::InvalidData, self.0.get()?.clone()))
    }
}

impl ClientStream {
    pub(crate) fn new(stream: TlsStream<Transport>) -> Self {
        Self { stream, is_heard: false, alert: Alert::default() }
    }

    pub(crate) fn alert(&self) -> Alert {
        self.alert.clone()
    }

    /// What writing gave, or the alert behind it. A stream that cannot be written to has an alert, a reset or
    /// an end to be read, so that it is waited for.
    fn explain<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let explained = self.read_behind(cx, written);
        self.alert.note(&explained);
        explained
    }

    fn read_behind<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let error = match written {
            Poll::Ready(Err(error)) if !self.is_heard => error,
            written => return written,
        };
        let (transport, session) = self.stream.get_mut();
        let mut arrived = Arrived { transport, cx };
        loop {
            match session.read_tls(&mut arrived) {
                Ok(1..) => {}
                Err(unread) if unread.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Ok(0) | Err(_) => return Poll::Ready(Err(error)),
            }
            if let Err(alert) = session.process_new_packets() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)));
            }
        }
    }
}

/// What has come on a transport, without waiting for more.
struct Arrived<'a, 'c, 'w> {
    transport: &'a mut Transport,
    cx: &'c mut Context<'w>,
}

impl Read for Arrived<'_, '_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(bytes);
        match Pin::new(&mut *self.transport).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_heard |= buf.filled().len() > before;
        self.alert.note(&read);
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.explain(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.explain(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.explain(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
