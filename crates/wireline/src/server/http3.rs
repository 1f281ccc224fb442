//! HTTP/3 beside TCP's versions, on UDP (RFC 9114, RFC 9220).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Empty;
use quinn::{EndpointConfig, Incoming, ServerConfig, TokioRuntime, crypto::rustls::QuicServerConfig};
use tokio::sync::{oneshot, watch};

use super::{Options, Phase, answer::answer};
use crate::{
    ServerTls, SetupError,
    http3::{ALPN, Code, Connection, Error, MAX_STREAMS, RequestStream, transport_config},
    registry::Registry,
    request::extended_connect,
    response::status_response,
    transport::{Handover, Transport},
};

/// Bytes that a client may send on one stream ahead of its application.
const STREAM_WINDOW: u32 = 64 << 10;

/// With more connections than this, who comes must show first that the address is theirs (RFC 9000 section 8.1).
const UNVALIDATED: usize = 1000;

/// How long a client may use an announcement of HTTP/3 (RFC 7838 section 3.1): a day.
const ANNOUNCED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the last packets may take when a server is over.
const FAREWELL: Duration = Duration::from_millis(200);

/// A UDP socket that takes HTTP/3.
#[derive(Debug)]
pub(super) struct Listener {
    endpoint: quinn::Endpoint,
}

impl Listener {
    /// Listens on `addr`, with the certificate of TCP's TLS.
    pub(super) fn bind(addr: SocketAddr, tls: &ServerTls) -> Result<Self, crate::Error> {
        let tls = QuicServerConfig::try_from(tls.config(&[ALPN]))
            .map_err(|error| SetupError::Http3(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(Arc::new(transport_config(MAX_STREAMS, STREAM_WINDOW)));
        let socket = std::net::UdpSocket::bind(addr)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Self { endpoint })
    }

    /// What the responses of TCP's versions say of it (RFC 7838).
    pub(super) fn announcement(&self) -> io::Result<HeaderValue> {
        let port = self.endpoint.local_addr()?.port();
        let announcement = format!("h3=\":{port}\"; ma={}", ANNOUNCED.as_secs());
        HeaderValue::try_from(announcement).map_err(io::Error::other)
    }

    /// Accepts connections until told to stop. What they have become by then goes on.
    pub(super) async fn serve(
        self,
        options: Arc<Options>,
        registry: Arc<Registry>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let serving = Serving { options, registry, phase: phase.clone() };
        loop {
            let incoming = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase >= Phase::Draining) => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            if self.endpoint.open_connections() > UNVALIDATED && !incoming.remote_address_validated() {
                // It may retry if it has not been validated.
                let _ = incoming.retry();
                continue;
            }
            tokio::spawn(serving.clone().serve_connection(incoming));
        }
        // Who comes now is refused, rather than left waiting.
        self.endpoint.set_server_config(None);
        tokio::spawn(async move {
            let _ = phase.wait_for(|phase| *phase >= Phase::Over).await;
            let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
        });
    }
}

/// What all connections of a listener share.
#[derive(Clone)]
struct Serving {
    options: Arc<Options>,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
}

impl Serving {
    async fn serve_connection(self, incoming: Incoming) {
        let timeout = self.options.handshake_timeout;
        let remote_addr = incoming.remote_address();
        let begun = tokio::time::timeout(timeout, async {
            let quic = incoming.await.map_err(|error| Error::Quic(error.into()))?;
            Connection::begin(quic).await
        });
        let connection = match begun.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%error, ?remote_addr, "a QUIC handshake failed"),
            Err(_) => return tracing::debug!(?remote_addr, "a QUIC handshake took too long"),
        };
        let mut until = self.phase.clone();
        tokio::select! {
            () = self.serve_requests(&connection, remote_addr) => {}
            Ok(_) = until.wait_for(|phase| *phase >= Phase::Over) => connection.close(Code::NO_ERROR),
        }
    }

    /// Answers requests until the connection is over, or those that came before the server began to close.
    async fn serve_requests(&self, connection: &Connection, remote_addr: SocketAddr) {
        let mut phase = self.phase.clone();
        // Each request's task keeps one of these, and so does the WebSocket that becomes of it.
        let (under_way, lease) = watch::channel(());
        let mut next = 0;
        let first = tokio::time::sleep(self.options.handshake_timeout);
        let mut first = std::pin::pin!(first);
        loop {
            let stream = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase >= Phase::Draining) => break,
                stream = connection.accept() => stream,
                // Who asks for nothing is not waited for.
                () = first.as_mut(), if next == 0 => None,
            };
            let Some(stream) = stream else { return connection.close(Code::NO_ERROR) };
            next = stream.id() + 4;
            let request = self.clone().serve_request(stream, remote_addr, lease.clone());
            tokio::spawn(request);
        }
        connection.go_away(next).await;
        drop(lease);
        loop {
            tokio::select! {
                () = under_way.closed() => return connection.close(Code::NO_ERROR),
                late = connection.accept() => match late {
                    Some(mut stream) => stream.reset(Code::REQUEST_REJECTED),
                    None => return,
                },
            }
        }
    }

    async fn serve_request(
        self,
        mut stream: RequestStream,
        remote_addr: SocketAddr,
        lease: watch::Receiver<()>,
    ) {
        let timeout = self.options.handshake_timeout;
        let served = match tokio::time::timeout(timeout, stream.read_request()).await {
            Ok(Ok(request)) => self.answer(request, stream, remote_addr, lease).await,
            Ok(Err(Error::HeadTooLong)) => {
                stream.respond(status_response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)).await
            }
            Ok(Err(error)) => {
                if let Error::Stream(code, _) = error {
                    stream.reset(code);
                }
                Err(error)
            }
            Err(_) => {
                stream.reset(Code::REQUEST_INCOMPLETE);
                return tracing::debug!(?remote_addr, "a request took too long");
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, ?remote_addr, "a request over HTTP/3 ended early");
        }
    }

    async fn answer(
        &self,
        request: http::Request<()>,
        mut stream: RequestStream,
        remote_addr: SocketAddr,
        lease: watch::Receiver<()>,
    ) -> Result<(), Error> {
        let Self { options, registry, .. } = self;
        let from = Some(remote_addr);
        let (taken, stream_taken) = oneshot::channel();
        let handover = Handover::Stream(stream_taken);
        let response = if extended_connect(request.method(), request.extensions()).is_some() {
            let request = request.map(|()| Empty::<Bytes>::new());
            tokio::select! {
                response = answer(request, handover, options, registry, from) => response,
                () = stream.given_up() => return Ok(()),
            }
        } else if *request.method() == Method::CONNECT {
            // This is no proxy.
            status_response(StatusCode::NOT_IMPLEMENTED)
        } else {
            let request = request.map(|()| stream.body());
            answer(request, handover, options, registry, from).await
        };
        if response.status().is_success() && !taken.is_closed() {
            stream.send_head(&response).await?;
            stream.set_lease(lease);
            // A handler that did not wait for it has dropped it.
            let _ = taken.send(Transport::Boxed(Box::new(stream)));
            return Ok(());
        }
        self.respond(stream, response).await
    }

    /// Sends a whole response, for which the client has as long as for its request.
    async fn respond(&self, mut stream: RequestStream, response: Response<Bytes>) -> Result<(), Error> {
        let timeout = self.options.handshake_timeout;
        tokio::time::timeout(timeout, stream.respond(response)).await.unwrap_or_else(|_| {
            stream.reset(Code::REQUEST_CANCELLED);
            Ok(())
        })
    }
}
