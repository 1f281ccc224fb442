//! HTTP/1.1 until a request asks for a WebSocket: hyper's, with this server's limits and answers.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{oneshot, watch};
use wireline_proto::handshake::UpgradeRequest;

use super::{Options, Phase, proxy_protocol};
use crate::{
    driver::Seat,
    registry::Registry,
    request::{Channel, Request},
    transport::Transport,
};

/// Bytes of a request's target, and of one header line with name and value.
const MAX_LINE: usize = 8 << 10;

/// Header lines.
const MAX_HEADERS: usize = 128;

/// Bytes of a whole head. Raised, it is memory that a client holds before it has said anything.
const MAX_HEAD: usize = 64 << 10;

/// Bytes of a plain request's body.
const MAX_BODY: usize = 64 << 10;

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
    let service = {
        let options = Arc::clone(&options);
        service_fn(move |request| {
            let (options, registry) = (Arc::clone(&options), Arc::clone(&registry));
            async move { Ok::<_, Infallible>(answer(request, &options, &registry, remote_addr).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(transport), service)
        .with_upgrades();
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
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// The answer to one request. For a WebSocket it is the handler's.
async fn answer(
    request: hyper::Request<Incoming>,
    options: &Options,
    registry: &Arc<Registry>,
    remote_addr: Option<SocketAddr>,
) -> Response<Full<Bytes>> {
    let response = if let Some(status) = over_limit(&request) {
        status_response(status)
    } else if UpgradeRequest::is_upgrade(&request) {
        upgrade(request, options, registry, remote_addr).await
    } else {
        plain(request, options).await
    };
    response.map(Full::new)
}

/// The status for a head that is too long in one of its parts.
fn over_limit(request: &hyper::Request<Incoming>) -> Option<StatusCode> {
    let target = request.uri();
    let target_len = target.path_and_query().map_or(0, |target| target.as_str().len())
        + target.authority().map_or(0, |authority| authority.as_str().len());
    if target_len > MAX_LINE {
        return Some(StatusCode::URI_TOO_LONG);
    }
    let longest = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).max();
    (longest > Some(MAX_LINE)).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

async fn upgrade(
    mut request: hyper::Request<Incoming>,
    options: &Options,
    registry: &Arc<Registry>,
    remote_addr: Option<SocketAddr>,
) -> Response<Bytes> {
    let checked = match UpgradeRequest::check(&request) {
        Ok(checked) => checked,
        Err(error) => {
            tracing::info!(%error, ?remote_addr, "refused a WebSocket request: {}", error.status());
            return error.response().map(Bytes::from);
        }
    };
    if !options.origins.allows(request.headers()) {
        let origin = request.headers().get(header::ORIGIN);
        tracing::info!(?origin, ?remote_addr, "refused a WebSocket request: foreign origin");
        return text(StatusCode::FORBIDDEN, "pages of this origin may not connect here\n");
    }
    let Some((on_request, matched)) = options.router.find(request.uri().path(), checked.protocols()) else {
        return status_response(StatusCode::NOT_FOUND);
    };
    let Some(registration) = registry.register() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down\n");
    };
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (answer, answered) = oneshot::channel();
    let seat = Seat::new(registration);
    let (config, events) = (Arc::clone(&options.config), Arc::clone(&options.events));
    let peer = remote_addr.map(|addr| addr.ip().to_canonical());
    let client_ip = match &options.trusted_proxies {
        Some(proxies) => proxies.client_ip(peer, request.headers()),
        None => peer,
    };
    let (head, _) = request.into_parts();
    let channel =
        Channel { answer, on_upgrade, seat: Arc::clone(&seat), config, events, remote_addr, client_ip };
    on_request(Request::new(head, checked, matched, channel), seat);
    answered.await.unwrap_or_else(|_| {
        tracing::warn!(?remote_addr, "a handler neither accepted nor rejected its request");
        status_response(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// A request that does not ask for a WebSocket.
async fn plain(request: hyper::Request<Incoming>, options: &Options) -> Response<Bytes> {
    if request.version() >= http::Version::HTTP_11
        && let Err(error) = UpgradeRequest::check_host(&request)
    {
        return error.response().map(Bytes::from);
    }
    let Some(on_http) = &options.on_http else {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return status_response(StatusCode::NOT_FOUND);
        }
        let mut response = status_response(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    };
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(options.handshake_timeout, Limited::new(body, MAX_BODY).collect());
    let Ok(body) = body.await else { return status_response(StatusCode::REQUEST_TIMEOUT) };
    match body {
        Ok(body) => on_http(http::Request::from_parts(head, body.to_bytes())).await,
        Err(error) if error.is::<LengthLimitError>() => status_response(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => status_response(StatusCode::BAD_REQUEST),
    }
}

/// A status with its name as the body, after which the connection is closed.
fn status_response(status: StatusCode) -> Response<Bytes> {
    text(status, format!("{status}\n"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
