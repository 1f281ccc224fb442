//! HTTP/3 beside TCP's versions, on UDP (RFC 9114, RFC 9220).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::Body;
use quinn::{EndpointConfig, Incoming, ServerConfig, TokioRuntime, crypto::rustls::QuicServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    Options, Phase, Service,
    multiplexed::{self, Exchange, Lease, MAX_STREAMS, STREAM_WINDOW},
};
use crate::{
    PeerCertificates, ServerTls, SetupError,
    error::BoxError,
    http3::{ALPN, Code, Connection, Error, RequestStream, transport_config},
    registry::Registry,
    response::status_response,
    transport::Transport,
};

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
        let timeout = options.handshake_timeout;
        let serving =
            Serving { service: Service::new(options, registry, None), phase: phase.clone(), timeout };
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

/// What serves a connection, and each of its requests.
#[derive(Clone)]
struct Serving {
    service: Service,
    phase: watch::Receiver<Phase>,
    timeout: Duration,
}

impl Serving {
    async fn serve_connection(mut self, incoming: Incoming) {
        let remote_addr = incoming.remote_address();
        let begun = tokio::time::timeout(self.timeout, async {
            let quic = incoming.await.map_err(|error| Error::Quic(error.into()))?;
            let peer_certificates = peer_certificates(&quic);
            Ok::<_, Error>((Connection::begin(quic).await?, peer_certificates))
        });
        let connection = match begun.await {
            Ok(Ok((connection, peer_certificates))) => {
                self.service = self.service.remote_addr(remote_addr).peer_certificates(peer_certificates);
                connection
            }
            Ok(Err(error)) => return tracing::debug!(%error, ?remote_addr, "a QUIC handshake failed"),
            Err(_) => return tracing::debug!(?remote_addr, "a QUIC handshake took too long"),
        };
        let mut until = self.phase.clone();
        tokio::select! {
            () = self.serve_requests(&connection) => {}
            Ok(_) = until.wait_for(|phase| *phase >= Phase::Over) => connection.close(Code::NO_ERROR),
        }
    }

    /// Answers requests until the connection is over, or those that came before the server began to close.
    async fn serve_requests(&self, connection: &Connection) {
        let mut phase = self.phase.clone();
        let (under_way, lease) = watch::channel(());
        let mut next = 0;
        let first = tokio::time::sleep(self.timeout);
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
            tokio::spawn(self.clone().serve_request(stream, lease.clone()));
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

    async fn serve_request(self, mut stream: RequestStream, lease: Lease) {
        let Self { service, timeout, .. } = self;
        let served = match tokio::time::timeout(timeout, stream.read_request()).await {
            Ok(Ok(request)) => {
                multiplexed::serve(request, Http3Exchange(stream), service, lease, timeout).await
            }
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
                return tracing::debug!("a request over HTTP/3 took too long");
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a request over HTTP/3 ended early");
        }
    }
}

/// What the client has proved itself with.
fn peer_certificates(quic: &quinn::Connection) -> Option<PeerCertificates> {
    let identity = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(PeerCertificates::checked(&identity))
}

struct Http3Exchange(RequestStream);

impl Exchange for Http3Exchange {
    type Error = Error;

    fn body(&mut self) -> impl Body<Data = Bytes, Error: Into<BoxError>> + Send {
        self.0.body()
    }

    async fn given_up(&mut self) {
        self.0.given_up().await;
    }

    async fn accept(self, head: Response<()>, lease: Lease) -> Result<Transport, Error> {
        let Self(mut stream) = self;
        stream.send_head(&head).await?;
        stream.set_lease(lease);
        Ok(Transport::Boxed(Box::new(stream)))
    }

    async fn respond(mut self, response: Response<Bytes>) -> Result<(), Error> {
        self.0.respond(response).await
    }
}
