//! The handshake over HTTP/2: an extended CONNECT (RFC 8441).

use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Ping,
    client::{self, SendRequest},
    ext::Protocol,
};
use http::{Request, Response};

use super::exchange::Rest;
use crate::{
    ConnectError,
    http2::{Cork, Corked, MAX_HEAD, Receiver, SEND_BUFFER, Tunnel, cork, is_unprocessed, lost, silence},
    transport::Transport,
};

/// Bytes that the server may send on one stream ahead of its application (RFC 9113 section 5.2): what a fast
/// server and a long way need.
const STREAM_WINDOW: u32 = 1 << 20;

/// Streams that WebSockets open on one connection: what RFC 9113 section 6.5.2 asks of servers to allow.
const MAX_STREAMS: usize = 100;

/// The same for all streams of a connection, so that one whose application does not read does not hold up the
/// others.
#[expect(clippy::cast_possible_truncation, reason = "it is a small number")]
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;

/// An HTTP/2 connection on which WebSockets can be opened. Its clones are the same; it ends with the last of them
/// and of its streams.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

/// What keeps a connection open.
struct Shared {
    sender: SendRequest<Bytes>,
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
        let mut http = client::Builder::new();
        http.enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(SEND_BUFFER);
        let (transport, cork) = cork(transport);
        let (sender, mut connection) = http.handshake(transport).await.map_err(failed)?;
        let mut pings = connection.ping_pong();
        // The server's SETTINGS, which say whether it knows extended CONNECT, are its first frame (section 3.4), and
        // so come before the answer to a PING.
        let settled = async {
            match &mut pings {
                Some(pings) => pings.ping(Ping::opaque()).await.map(drop),
                None => Ok(()),
            }
        };
        tokio::select! {
            biased;
            ended = &mut connection => {
                ended.map_err(failed)?;
                return Err(ConnectError::Http("the server hung up on HTTP/2".into()));
            }
            settled = settled => settled.map_err(failed)?,
        }
        if !sender.is_extended_connect_protocol_enabled() {
            return Ok(None);
        }
        cork.begin();
        // Ends with its last stream.
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = run(connection, cork) => ended,
                () = silence(pings) => return tracing::debug!("an HTTP/2 connection fell silent"),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 connection ended early");
            }
        });
        Ok(Some(Self { shared: Arc::new(Shared { sender, remote_addr }) }))
    }

    /// Sends an extended CONNECT and gives the response's head; `None` if the server did not take the request over HTTP/2.
    pub(super) async fn exchange(
        self,
        mut request: Request<()>,
    ) -> Result<Option<Response<Rest>>, ConnectError> {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let asked = async {
            let mut sender = self.shared.sender.clone().ready().await?;
            let (response, send) = sender.send_request(request, false)?;
            Ok((response.await?, send))
        };
        match asked.await {
            Ok((response, send)) => Ok(Some(response.map(|recv| {
                let tunnel = Tunnel::new(send, Receiver::new(recv), self);
                Rest::Http2(Box::new(tunnel))
            }))),
            Err(error) if is_unprocessed(&error) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn remote_addr(&self) -> Option<SocketAddr> {
        self.shared.remote_addr
    }

    pub(super) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.shared))
    }
}

impl Shared {
    /// Whether a request can be sent now; an error where that will never be again.
    fn poll_ready(&self) -> Poll<Result<(), h2::Error>> {
        self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()))
    }
}

impl WeakConnection {
    /// The connection, if it is there and has room for another stream. Only one caller at a time may ask and use it.
    pub(super) fn with_room(&self) -> Option<Connection> {
        let shared = self.0.upgrade()?;
        let streams = Arc::strong_count(&shared) - 1;
        let most = shared.sender.current_max_send_streams().min(MAX_STREAMS);
        (streams < most && matches!(shared.poll_ready(), Poll::Ready(Ok(()))))
            .then_some(Connection { shared })
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.upgrade().is_none_or(|shared| matches!(shared.poll_ready(), Poll::Ready(Err(_))))
    }
}

/// Drives a connection to its end. What it has to say goes at the end of each turn.
async fn run(mut connection: client::Connection<Corked>, cork: Cork) -> io::Result<()> {
    poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        match cork.poll_release(cx) {
            Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error)),
            _ => ended.map_err(lost),
        }
    })
    .await
}

fn failed(error: h2::Error) -> ConnectError {
    ConnectError::Http(if error.is_io() { lost(error).into() } else { error.into() })
}

/// What comes behind a response's head.
pub(super) type Stream = Tunnel<Connection>;
