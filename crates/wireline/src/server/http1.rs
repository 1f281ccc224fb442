//! HTTP/1.1 until a request asks for a WebSocket: hyper's, with this server's limits.

use std::{io, net::SocketAddr, sync::Arc};

use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::{Body, Options, Phase, Service, proxy_protocol};
use crate::{registry::Registry, transport::Transport};

/// Header lines.
const MAX_HEADERS: usize = 128;

/// Bytes of a whole head. Raised, it is memory that a client holds before it has said anything.
const MAX_HEAD: usize = 64 << 10;

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
    let Some(transport) = secure(transport, &options).await else { return };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    let service = Service::new(options, registry, remote_addr);
    let connection = http.serve_connection(TokioIo::new(transport), service).with_upgrades();
    if let Err(error) = drive(connection, phase).await {
        tracing::debug!(%error, ?remote_addr, "an HTTP connection ended early");
    }
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

/// Does the TLS handshake, if this server has a certificate.
async fn secure(transport: Transport, options: &Options) -> Option<Transport> {
    let Some(tls) = &options.tls else { return Some(transport) };
    let handshake = tls.acceptor().accept(transport);
    match tokio::time::timeout(options.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => return Some(Transport::Boxed(Box::new(stream))),
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
    None
}

/// Runs the HTTP connection; when the server stops, it ends after the request at hand.
async fn drive<C>(connection: C, mut phase: watch::Receiver<Phase>) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>> + GracefulShutdown,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// What hyper's connection can do, for [`drive`] not to spell out its type.
trait GracefulShutdown {
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>);
}

impl<I, S> GracefulShutdown for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}
