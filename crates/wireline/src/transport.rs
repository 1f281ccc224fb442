//! The byte streams that a connection can lie on.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::error::BoxError;

/// Between two sockets of one machine there is no congestion to control. BBR, the system's default in
/// places, paces what it sends by a timer for every segment, which there is nothing but cost.
const UNPACED: &[u8] = b"reno";

/// Takes a socket that only ever reaches this machine out of pacing. Before it connects, or listens: what
/// it accepts inherits it.
pub(crate) fn unpace<S>(socket: &S)
where
    for<'s> SockRef<'s>: From<&'s S>,
{
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = SockRef::from(socket).set_tcp_congestion(UNPACED) {
        tracing::debug!(%error, "a socket of this machine keeps the system's congestion control");
    }
}

/// Whether a read that did not fill its buffer shows that the socket is empty: where readiness is told
/// once (epoll, kqueue), what comes later is told anew.
const SHORT_READ_DRAINS: bool =
    cfg!(any(target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd"));

/// A byte stream that tokio can read and write.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What lies under a connection. The rare ones are boxed, so that an idle plain connection stays small.
pub(crate) enum Transport {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    Boxed(Box<dyn Stream>),
}

impl Transport {
    /// The stream that HTTP was spoken on, out of hyper's hands, and the bytes that came behind the head. A
    /// socket is taken back itself, whoever gave it to hyper, so that nothing stands between it and the driver.
    pub(crate) fn take_back(upgraded: Upgraded) -> (Self, Bytes) {
        let taken = take_out::<Self>(upgraded)
            .or_else(|upgraded| take_out(upgraded).map(|(stream, bytes)| (Self::of_tcp(stream), bytes)));
        #[cfg(unix)]
        let taken =
            taken.or_else(|upgraded| take_out(upgraded).map(|(stream, bytes)| (Self::Unix(stream), bytes)));
        taken.unwrap_or_else(|upgraded| (Self::Boxed(Box::new(TokioIo::new(upgraded))), Bytes::new()))
    }

    /// Somebody else's socket, who may not have thought of this.
    fn of_tcp(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a socket keeps small messages back");
        }
        Self::Tcp(stream)
    }

    /// Reads once into `buffer`; 0 is the end of file. It does not count as one of the task's turns: who
    /// reads on and on must give way by himself.
    #[inline]
    pub(crate) fn poll_read_once(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_read_socket(stream, cx, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => poll_read_socket(stream, cx, buffer),
            Self::Boxed(stream) => {
                let mut free = ReadBuf::new(buffer);
                ready!(Pin::new(stream).poll_read(cx, &mut free))?;
                Poll::Ready(Ok(free.filled().len()))
            }
        }
    }

    /// Writes once from `bytes`; as with [`poll_read_once`](Self::poll_read_once), turns are not counted.
    #[inline]
    pub(crate) fn poll_write_once(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_write_socket(stream, cx, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => poll_write_socket(stream, cx, bytes),
            Self::Boxed(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
}

/// How a transport comes back from HTTP, after the answer that makes a WebSocket of it.
pub(crate) enum Handover {
    Hyper(OnUpgrade),
    /// Of a stream among others, with its request's place among those that the connection may have at work.
    Stream(tokio::sync::oneshot::Receiver<Transport>, tokio::sync::OwnedSemaphorePermit),
}

impl Handover {
    /// The transport, and the bytes that came behind the head.
    pub(crate) async fn take(self) -> Result<(Transport, Bytes), BoxError> {
        match self {
            Self::Hyper(on_upgrade) => Ok(Transport::take_back(on_upgrade.await?)),
            Self::Stream(stream, _place) => Ok((stream.await?, Bytes::new())),
        }
    }

    /// Drops the transport when it comes, whoever keeps this: after any answer hyper holds it for whoever may
    /// take it.
    pub(crate) fn forgo(&self) -> Forgoing {
        match self {
            Self::Hyper(on_upgrade) => Forgoing(Some(on_upgrade.clone())),
            Self::Stream(..) => Forgoing(None),
        }
    }
}

/// See [`Handover::forgo`].
pub(crate) struct Forgoing(Option<OnUpgrade>);

impl Forgoing {
    pub(crate) fn begin(self) {
        if let Some(on_upgrade) = self.0 {
            tokio::spawn(async { drop(on_upgrade.await) });
        }
    }
}

/// What lies under `upgraded`, if it is an `S`: given to hyper by itself, or to hyper-util's connection for
/// every version of HTTP.
fn take_out<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    upgraded: Upgraded,
) -> Result<(S, Bytes), Upgraded> {
    match upgraded.downcast::<TokioIo<S>>() {
        Ok(parts) => Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => {
            let parts = auto::upgrade::downcast::<TokioIo<S>>(upgraded)?;
            Ok((parts.io.into_inner(), parts.read_buf))
        }
    }
}

/// What tokio's sockets have in common. Its `poll_read` and `poll_write` stand on these, and look after
/// the task's turns each time besides.
trait Socket {
    fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! impl_socket {
    ($stream:ty) => {
        impl Socket for $stream {
            #[inline]
            fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, io)
            }

            #[inline]
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            #[inline]
            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    };
}

impl_socket!(TcpStream);
#[cfg(unix)]
impl_socket!(tokio::net::UnixStream);

#[inline]
fn poll_read_socket<S: Socket>(socket: &S, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>
where
    for<'s> SockRef<'s>: From<&'s S>,
{
    loop {
        let mut count = 0;
        let read = socket.try_io(Interest::READABLE, || {
            count = (&*SockRef::from(socket)).read(buffer)?;
            let is_drained = SHORT_READ_DRAINS && 0 < count && count < buffer.len();
            // This takes the readiness back, so that the next call does not ask the system in vain.
            if is_drained { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match read {
            _ if count > 0 => return Poll::Ready(Ok(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_read_ready(cx))?,
            end => return Poll::Ready(end.map(|()| 0)),
        }
    }
}

#[inline]
fn poll_write_socket<S: Socket>(socket: &S, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>
where
    for<'s> SockRef<'s>: From<&'s S>,
{
    loop {
        match socket.try_io(Interest::WRITABLE, || (&*SockRef::from(socket)).write(bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
            done => return Poll::Ready(done),
        }
    }
}

#[cfg(all(feature = "io-uring", target_os = "linux"))]
impl Transport {
    /// The system's socket, if that is all there is.
    pub(crate) fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            Self::Boxed(_) => None,
        }
    }
}

impl Transport {
    /// Whether written bytes may still wait in a buffer of the stream's own.
    pub(crate) fn is_buffered(&self) -> bool {
        matches!(self, Self::Boxed(_))
    }
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Tcp($stream) => $call,
            #[cfg(unix)]
            Transport::Unix($stream) => $call,
            Transport::Boxed($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Boxed(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            #[cfg(unix)]
            Self::Unix(_) => "Unix",
            Self::Boxed(_) => "Boxed",
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_listener_of_this_machine_accepts_is_not_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        unpace(&listener);
        let _peer = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it connects");
        let (accepted, _) = listener.accept().expect("it is accepted");
        let control = SockRef::from(&accepted).tcp_congestion().expect("Linux tells");
        let name = control.split(|byte| *byte == 0).next();
        assert_eq!(name, Some(UNPACED));
    }
}
