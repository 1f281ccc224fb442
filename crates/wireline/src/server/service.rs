//! A server as a service inside somebody else's.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, header};

use super::{
    Options,
    answer::{PlainBody, answer},
};
use crate::{
    Body, PeerCertificates, error::BoxError, registry::Registry, transport::Handover, upgrade::connect_info,
};

/// A [`Server`](crate::Server) for other people's HTTP servers: a service of tower's and of hyper's that
/// answers every request, those for a WebSocket and others, as the server itself would. See
/// [`Server::into_service`](crate::Server::into_service).
///
/// The HTTP server must hand out its connections: hyper's by `with_upgrades`; axum's does. Limits on heads
/// and the time that they may take are that server's own; TLS too.
#[derive(Clone)]
pub struct Service {
    options: Arc<Options>,
    registry: Arc<Registry>,
    remote_addr: Option<SocketAddr>,
    peer_certificates: Option<PeerCertificates>,
}

impl Service {
    pub(super) fn new(
        options: Arc<Options>,
        registry: Arc<Registry>,
        remote_addr: Option<SocketAddr>,
    ) -> Self {
        Self { options, registry, remote_addr, peer_certificates: None }
    }

    /// With the certificates that the client of its connection has proved itself with.
    pub(super) fn peer_certificates(mut self, peer_certificates: Option<PeerCertificates>) -> Self {
        self.peer_certificates = peer_certificates;
        self
    }

    /// Says whom the requests are from: for a clone of it for each connection. With the feature `axum` it is
    /// read from axum's `ConnectInfo` otherwise.
    #[must_use]
    pub fn remote_addr(mut self, remote_addr: SocketAddr) -> Self {
        self.remote_addr = Some(remote_addr);
        self
    }

    fn answer<B>(&self, mut request: http::Request<B>) -> Answering
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let service = self.clone();
        Box::pin(async move {
            let handover = Handover::Hyper(hyper::upgrade::on(&mut request));
            Ok(service.respond(request, handover).await.map(Body::from))
        })
    }

    /// The answer to one request.
    pub(super) async fn respond<B: PlainBody>(
        &self,
        mut request: http::Request<B>,
        handover: Handover,
    ) -> Response<Bytes> {
        let Self { options, registry, remote_addr, peer_certificates } = self;
        if let Some(peer_certificates) = peer_certificates {
            request.extensions_mut().insert(peer_certificates.clone());
        }
        let remote_addr = remote_addr.or_else(|| connect_info(request.extensions()));
        let mut response = answer(request, handover, options, registry, remote_addr).await;
        if let Some(elsewhere) = &options.alt_svc {
            response.headers_mut().entry(header::ALT_SVC).or_insert(elsewhere.clone());
        }
        response
    }
}

/// The future of a [`Service`].
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> hyper::service::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: http::Request<B>) -> Answering {
        self.answer(request)
    }
}

impl<B> tower_service::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answering {
        self.answer(request)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("connections", &self.registry.len()).finish_non_exhaustive()
    }
}
