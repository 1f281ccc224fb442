//! HTTP on a transport: its version, then hyper's 1.1 until a request asks for a WebSocket, or 2.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
};

use super::{Options, Phase, Service, http2, proxy_protocol};
use crate::{PeerCertificates, registry::Registry, tls, transport::Transport};

/// Header lines.
const MAX_HEADERS: usize = 128;

/// Bytes of a whole head. Raised, it is memory that a client holds before it has said anything.
const MAX_HEAD: u32 = 64 << 10;

/// How long, and for how many bytes, a client that was refused in the TLS handshake is listened to: a long round
/// trip, and what it sends before it knows.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 << 10;

/// What HTTP is spoken on a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Serves one transport until it is a WebSocket, which goes on in a task of its own, or the server's
/// shutdown is over.
pub(super) async fn serve(
    transport: Transport,
    remote_addr: Option<SocketAddr>,
    options: Arc<Options>,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
) {
    let mut until = phase.clone();
    tokio::select! {
        () = secure_and_serve(transport, remote_addr, options, registry, phase) => {}
        Ok(_) = until.wait_for(|phase| *phase >= Phase::Over) => {}
    }
}

/// The PROXY protocol and TLS if wanted, then HTTP.
async fn secure_and_serve(
    mut transport: Transport,
    remote_addr: Option<SocketAddr>,
    options: Arc<Options>,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
) {
    let Ok(remote_addr) = introduce(&mut transport, remote_addr, &options).await else { return };
    let Some(secured) = secure(transport, remote_addr, &options).await else { return };
    let Secured { transport, version, peer_certificates } = secured;
    let timeout = options.handshake_timeout;
    let service = Service::new(options, registry, remote_addr).peer_certificates(peer_certificates);
    let ended = match version {
        Version::Http1 => {
            let io = TokioIo::new(transport);
            let connection = http1_builder(timeout).serve_connection(io, service).with_upgrades();
            drive(connection, phase).await.map_err(io::Error::other)
        }
        // Boxed, so that the others' tasks are no larger for it.
        Version::Http2 => Box::pin(http2::serve(transport, service, phase, timeout)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, ?remote_addr, "an HTTP connection ended early");
    }
}

fn http1_builder(timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD as usize);
    http
}

/// Where the connection comes from: behind a load balancer, as that says.
async fn introduce(
    transport: &mut Transport,
    remote_addr: Option<SocketAddr>,
    options: &Options,
) -> io::Result<Option<SocketAddr>> {
    let Some(balancers) = &options.proxy_protocol else { return Ok(remote_addr) };
    let introduced = if balancers.include(remote_addr.map(|addr| addr.ip())) {
        let header = proxy_protocol::read_source(transport);
        tokio::time::timeout(options.handshake_timeout, header)
            .await
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not from one of the load balancers"))
    };
    match introduced {
        Ok(source) => Ok(source.or(remote_addr)),
        Err(error) => {
            tracing::info!(%error, ?remote_addr, "refused a connection without its PROXY header");
            Err(error)
        }
    }
}

/// A transport that is as safe as this server wants it.
struct Secured {
    transport: Transport,
    version: Version,
    peer_certificates: Option<PeerCertificates>,
}

/// Does the TLS handshake, if this server has a certificate; by that the client chooses its version of HTTP.
async fn secure(transport: Transport, remote_addr: Option<SocketAddr>, options: &Options) -> Option<Secured> {
    let Some(tls) = &options.tls else {
        let version = if options.is_cleartext_http2 { Version::Http2 } else { Version::Http1 };
        return Some(Secured { transport, version, peer_certificates: None });
    };
    let handshake = tls.acceptor().accept(transport).into_fallible();
    match tokio::time::timeout(options.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let is_http2 = session.alpn_protocol() == Some(tls::HTTP_2);
            let version = if is_http2 { Version::Http2 } else { Version::Http1 };
            let peer_certificates = session.peer_certificates().map(PeerCertificates::checked);
            return Some(Secured {
                transport: Transport::Boxed(Box::new(stream)),
                version,
                peer_certificates,
            });
        }
        Ok(Err((error, transport))) => {
            if tls::is_about_certificates(&error) {
                tracing::info!(%error, ?remote_addr, "refused a TLS connection for want of a certificate");
            } else {
                tracing::debug!(%error, ?remote_addr, "a TLS handshake failed");
            }
            linger(transport).await;
        }
        Err(_) => tracing::debug!(?remote_addr, "a TLS handshake took too long"),
    }
    None
}

/// Lets the alert that is on its way arrive: a socket that is closed with something unread in it is reset, and what
/// was sent may be lost (RFC 9112 section 9.6). A client of TLS 1.3 has sent its request by then.
async fn linger(mut transport: Transport) {
    let drained = async {
        transport.shutdown().await?;
        tokio::io::copy(&mut (&mut transport).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Runs the connection; when the server stops, it ends after the request at hand.
async fn drive(connection: Http1, mut phase: watch::Receiver<Phase>) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

type Http1 = http1::UpgradeableConnection<TokioIo<Transport>, Service>;
