//! The handshake over HTTP/2: an extended CONNECT (RFC 8441).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::{ConnectError, transport::Transport};

/// Bytes that the server may send ahead of the application (RFC 9113 section 5.2): what a fast server and a
/// long way need.
const WINDOW: u32 = 2 << 20;

/// After so much silence, and so much again after the PING, the connection is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bytes of a response's head.
const MAX_HEAD: u32 = 64 << 10;

/// Sends an extended CONNECT and gives the response's head; `None` if the server does not take such.
pub(super) async fn exchange(
    transport: Transport,
    mut request: Request<()>,
) -> Result<Option<Response<Incoming>>, ConnectError> {
    let failed = |error: hyper::Error| ConnectError::Http(error.into());
    let (mut settled, io) = FirstFrame::watch(transport);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let (mut sender, mut connection) = http.handshake(TokioIo::new(io)).await.map_err(failed)?;
    // The server's first frame is its SETTINGS (section 3.4), which say whether it knows extended CONNECT.
    let settled = tokio::select! {
        settled = &mut settled => settled.ok(),
        ended = &mut connection => match settled.try_recv() {
            Ok(settled) => Some(settled),
            Err(_) => ended.map_err(failed).map(|()| None)?,
        },
    };
    match settled {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(ConnectError::Http(error.into())),
        None => return Err(ConnectError::Http("the server hung up on HTTP/2".into())),
    }
    if !connection.is_extended_connect_protocol_enabled() {
        return Ok(None);
    }
    // Ends with its last stream.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection ended early");
        }
    });
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let response = sender.send_request(request.map(|()| Empty::<Bytes>::new())).await;
    response.map(Some).map_err(failed)
}

/// A transport that tells when the peer's first HTTP/2 frame has been taken in, or that none comes, and why: of
/// such an error hyper keeps only the words.
struct FirstFrame {
    transport: Transport,
    /// Its header, as far as it is read.
    header: Vec<u8>,
    /// What is left of its payload.
    left: usize,
    told: Option<oneshot::Sender<io::Result<()>>>,
}

/// Bytes of a frame's header, of which the first three are the payload's length (RFC 9113 section 4.1).
const HEADER: usize = 9;

impl FirstFrame {
    fn watch(transport: Transport) -> (oneshot::Receiver<io::Result<()>>, Self) {
        let (told, tell) = oneshot::channel();
        (tell, Self { transport, header: Vec::with_capacity(HEADER), left: 0, told: Some(told) })
    }

    /// Tells an error that comes before the first frame; what hyper is to have of it.
    fn fail(&mut self, error: io::Error) -> io::Error {
        let Some(told) = self.told.take() else { return error };
        let kind = error.kind();
        let _ = told.send(Err(error));
        kind.into()
    }

    fn is_read(&self) -> bool {
        self.header.len() == HEADER && self.left == 0
    }

    /// Takes note of bytes that were read.
    fn note(&mut self, bytes: &[u8]) {
        let (header, payload) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
        self.header.extend_from_slice(header);
        if !header.is_empty() && self.header.len() == HEADER {
            let [high, middle, low] = [0, 1, 2].map(|at| usize::from(self.header[at]));
            self.left = high << 16 | middle << 8 | low;
        }
        self.left = self.left.saturating_sub(payload.len());
    }
}

impl AsyncRead for FirstFrame {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Who reads on has taken in what was read before.
        if self.told.is_some()
            && self.is_read()
            && let Some(told) = self.told.take()
        {
            let _ = told.send(Ok(()));
        }
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.transport).poll_read(cx, buf)) {
            return Poll::Ready(Err(self.fail(error)));
        }
        if self.told.is_some() {
            self.note(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FirstFrame {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf).map_err(|error| self.fail(error))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs).map_err(|error| self.fail(error))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx).map_err(|error| self.fail(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
