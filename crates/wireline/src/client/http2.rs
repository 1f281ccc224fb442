//! The handshake over HTTP/2: an extended CONNECT (RFC 8441).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use super::exchange::Rest;
use crate::{ConnectError, transport::Transport};

/// Bytes that the server may send on one stream ahead of its application (RFC 9113 section 5.2): what a fast
/// server and a long way need.
const STREAM_WINDOW: u32 = 1 << 20;

/// Streams that WebSockets open on one connection: what RFC 9113 section 6.5.2 asks of servers to allow.
const MAX_STREAMS: usize = 100;

/// The same for all streams of a connection, so that one whose application does not read does not hold up the
/// others.
#[expect(clippy::cast_possible_truncation, reason = "it is a small number")]
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;

/// After so much silence, and so much again after the PING, the connection is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bytes of a response's head.
const MAX_HEAD: u32 = 64 << 10;

/// An HTTP/2 connection on which WebSockets can be opened. Its clones are the same; it ends with the last of them
/// and of its streams.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

/// What keeps a connection open.
struct Shared {
    sender: SendRequest<Empty<Bytes>>,
    max_streams: usize,
    remote_addr: Option<SocketAddr>,
}

/// A connection that may have ended.
pub(super) struct WeakConnection(Weak<Shared>);

impl Connection {
    /// Begins HTTP/2; `None` if the server opens no WebSockets over it.
    pub(super) async fn begin(
        transport: Transport,
        remote_addr: Option<SocketAddr>,
    ) -> Result<Option<Self>, ConnectError> {
        let (settings, io) = FirstFrame::watch(transport);
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let (sender, mut connection) = http.handshake(TokioIo::new(io)).await.map_err(failed)?;
        // The server's first frame is its SETTINGS (section 3.4), which say whether it knows extended CONNECT.
        let max_streams = tokio::select! {
            Ok(max_streams) = settings => max_streams,
            ended = &mut connection => {
                ended.map_err(failed)?;
                return Err(ConnectError::Http("the server hung up on HTTP/2".into()));
            }
        };
        if !connection.is_extended_connect_protocol_enabled() {
            return Ok(None);
        }
        // Ends with its last stream.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection ended early");
            }
        });
        let max_streams = max_streams.map_or(MAX_STREAMS, |most| most.min(MAX_STREAMS));
        Ok(Some(Self { shared: Arc::new(Shared { sender, max_streams, remote_addr }) }))
    }

    /// Sends an extended CONNECT and gives the response's head; `None` if the connection has ended before it took
    /// the request.
    pub(super) async fn exchange(
        self,
        mut request: Request<()>,
    ) -> Result<Option<Response<Rest>>, ConnectError> {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let mut sender = self.shared.sender.clone();
        match sender.send_request(request.map(|()| Empty::<Bytes>::new())).await {
            Ok(response) => Ok(Some(response.map(|body| Rest::Http2(body, self)))),
            Err(error) if error.is_canceled() => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn remote_addr(&self) -> Option<SocketAddr> {
        self.shared.remote_addr
    }

    /// The byte stream of a WebSocket, which keeps the connection.
    pub(super) fn stream(self, upgraded: Upgraded) -> Transport {
        Transport::Boxed(Box::new(Stream { io: TokioIo::new(upgraded), _connection: self }))
    }

    pub(super) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.shared))
    }
}

impl WeakConnection {
    /// The connection, if it is there and has room for another stream. Only one caller at a time may ask and use it.
    pub(super) fn with_room(&self) -> Option<Connection> {
        let shared = self.0.upgrade()?;
        let streams = Arc::strong_count(&shared) - 1;
        (streams < shared.max_streams && shared.sender.is_ready()).then_some(Connection { shared })
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.upgrade().is_none_or(|shared| shared.sender.is_closed())
    }
}

fn failed(error: hyper::Error) -> ConnectError {
    ConnectError::Http(error.into())
}

/// A WebSocket's stream and its connection.
struct Stream {
    io: TokioIo<Upgraded>,
    _connection: Connection,
}

/// A transport that tells when the peer's first HTTP/2 frame, its SETTINGS, has been taken in, and how many
/// streams those allow.
struct FirstFrame {
    transport: Transport,
    /// Its header and payload, as far as they are read; of a frame that is too long for SETTINGS, the beginning.
    bytes: Vec<u8>,
    told: Option<oneshot::Sender<Option<usize>>>,
}

/// Bytes of a frame's header, of which the first three are the payload's length (RFC 9113 section 4.1).
const HEADER: usize = 9;

/// Bytes of a setting: its identifier in two, its value in four (section 6.5.1).
const SETTING: usize = 6;

/// The setting for how many streams there may be.
const MAX_CONCURRENT_STREAMS: u16 = 0x03;

impl FirstFrame {
    fn watch(transport: Transport) -> (oneshot::Receiver<Option<usize>>, Self) {
        let (told, settings) = oneshot::channel();
        (settings, Self { transport, bytes: Vec::new(), told: Some(told) })
    }

    /// Its payload, if all of it is there. hyper takes none of more than 16 KiB.
    fn payload(&self) -> Option<&[u8]> {
        let [high, middle, low, ..] = *self.bytes else { return None };
        let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.bytes.get(HEADER..HEADER + len)
    }

    /// Who reads on has taken in what was read before.
    fn tell(&mut self) {
        let Some(payload) = self.payload() else { return };
        let settings = payload.chunks_exact(SETTING);
        let settings = settings.map(|setting| (u16::from_be_bytes([setting[0], setting[1]]), &setting[2..]));
        let most = settings.rev().find(|(identifier, _)| *identifier == MAX_CONCURRENT_STREAMS);
        let most = most.and_then(|(_, value)| Some(u32::from_be_bytes(value.try_into().ok()?)));
        if let Some(told) = self.told.take() {
            let _ = told.send(most.and_then(|most| usize::try_from(most).ok()));
        }
        self.bytes = Vec::new();
    }
}

impl AsyncRead for FirstFrame {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.told.is_some() {
            self.tell();
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.transport).poll_read(cx, buf))?;
        if self.told.is_some() {
            self.bytes.extend_from_slice(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

macro_rules! forward_writes {
    ($stream:ty, $to:ident) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$to).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$to).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.$to.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$to).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$to).poll_shutdown(cx)
            }
        }
    };
}

forward_writes!(FirstFrame, transport);
forward_writes!(Stream, io);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}
