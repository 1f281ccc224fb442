//! A door into other people's HTTP servers, for one request.

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use wireline_proto::{
    Config,
    handshake::{RequestError, UpgradeRequest},
};

use crate::{
    Body, PeerCertificates, Request, Result, ServerHandle,
    origin::OriginRule,
    registry::Registry,
    request::{Matched, Unanswered, WEBSOCKET, extended_connect, settle_host},
    response::{shutting_down, text},
    server::start_handler,
    transport::Handover,
};

/// Whether a request asks for a WebSocket, rightly or not: it is for [`upgrade`] then.
#[must_use]
pub fn is_upgrade<B>(request: &http::Request<B>) -> bool {
    extended_connect(request.method(), request.extensions()) == Some(WEBSOCKET)
        || UpgradeRequest::is_upgrade(request)
}

/// Takes a request for a WebSocket out of somebody else's HTTP server: hyper's, or any other that has
/// hyper's [`OnUpgrade`] in its requests, as axum and tonic do.
///
/// Over HTTP/2 it takes an extended CONNECT (RFC 8441), which that server must enable.
///
/// What follows is as in a [`Server`](crate::Server): a handler gets a [`Request`], accepts or rejects it, and
/// talks. Its task is the connection's too, and the socket is taken back from hyper where it can be, so it is
/// as fast as there.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Response, StatusCode};
/// use wireline::Body;
///
/// /// A service for hyper.
/// async fn serve(mut request: http::Request<hyper::body::Incoming>) -> Result<Response<Body>, Infallible> {
///     if !wireline::is_upgrade(&request) {
///         return Ok(Response::new(Body::from("a page\n")));
///     }
///     Ok(match wireline::upgrade(&mut request) {
///         Ok(upgrade) => {
///             upgrade
///                 .on_request(|req| async move {
///                     let mut ws = req.accept().await?;
///                     while let Some(message) = ws.recv().await? {
///                         ws.send(message).await?;
///                     }
///                     Ok(())
///                 })
///                 .await
///         }
///         Err(error) => error.into_response(),
///     })
/// }
/// ```
///
/// # Errors
/// The request breaks a rule of the opening handshake (RFC 6455 section 4.2.1), or the HTTP server does not
/// hand out its connections. [`UpgradeError::into_response`] is the answer to either.
pub fn upgrade<B>(request: &mut http::Request<B>) -> Result<Upgrade, UpgradeError> {
    let copy = copy(request.method(), request.uri(), request.version(), request.headers());
    Upgrade::new(copy, request.extensions_mut())
}

/// What of a request the handler gets to see; the request itself stays with its server.
fn copy(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> http::Request<()> {
    let mut copy = http::Request::new(());
    *copy.method_mut() = method.clone();
    *copy.uri_mut() = uri.clone();
    *copy.version_mut() = version;
    *copy.headers_mut() = headers.clone();
    copy
}

/// The peer's address, where axum has noted it.
#[cfg(feature = "axum")]
pub(crate) fn connect_info(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| info.0)
}

#[cfg(not(feature = "axum"))]
pub(crate) fn connect_info(_: &Extensions) -> Option<SocketAddr> {
    None
}

/// A request for a WebSocket that is right by itself; see [`upgrade`].
///
/// With the feature `axum` it is an extractor:
#[cfg_attr(
    feature = "axum",
    doc = r#"
```
use axum::{Router, extract::Path, response::IntoResponse, routing::any};
use wireline::Upgrade;

async fn chat(Path(room): Path<String>, upgrade: Upgrade) -> impl IntoResponse {
    upgrade
        .on_request(|req| async move {
            let mut ws = req.accept().await?;
            ws.send(format!("welcome to {room}")).await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .await
}

let app: Router = Router::new().route("/chat/{room}", any(chat));
```

`on_request` must be awaited in the handler, since it is the handler's word that is sent.
"#
)]
#[must_use = "the client gets no answer without `on_request`"]
pub struct Upgrade {
    head: http::request::Parts,
    upgrade: UpgradeRequest,
    on_upgrade: OnUpgrade,
    config: Arc<Config>,
    origins: OriginRule,
    remote_addr: Option<SocketAddr>,
    client_ip: Option<IpAddr>,
    registry: Option<Arc<Registry>>,
}

impl Upgrade {
    fn new(mut request: http::Request<()>, extensions: &mut Extensions) -> Result<Self, UpgradeError> {
        let upgrade = match extended_connect(request.method(), extensions) {
            Some(WEBSOCKET) => UpgradeRequest::check_extended_connect(&request)?,
            _ => UpgradeRequest::check(&request)?,
        };
        settle_host(&mut request);
        if let Some(peer_certificates) = extensions.get::<PeerCertificates>() {
            request.extensions_mut().insert(peer_certificates.clone());
        }
        Ok(Self {
            head: request.into_parts().0,
            upgrade,
            on_upgrade: extensions.remove().ok_or(UpgradeError::NotUpgradable)?,
            config: Arc::new(Config::server()),
            origins: OriginRule::default(),
            remote_addr: connect_info(extensions),
            client_ip: None,
            registry: None,
        })
    }

    /// The limits and timers of the connection, and whether to agree to compression: a [`Config`], or one
    /// that is shared.
    pub fn config(mut self, config: impl Into<Arc<Config>>) -> Self {
        self.config = config.into();
        self
    }

    /// Lets in pages of these origins too, as [`Server::origins`](crate::Server::origins) does. Pages of the
    /// host that was asked for are always let in. What is no origin lets nobody in.
    pub fn origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.origins = OriginRule::same_host_or(origins);
        self
    }

    /// Lets in the pages of anyone: see
    /// [`Server::dangerous_any_origin`](crate::Server::dangerous_any_origin) for what that means.
    pub fn dangerous_any_origin(mut self) -> Self {
        self.origins = OriginRule::Any;
        self
    }

    /// Says whom the request is from: [`Request::remote_addr`]. From axum's `ConnectInfo` it is known.
    pub fn remote_addr(mut self, remote_addr: SocketAddr) -> Self {
        self.remote_addr = Some(remote_addr);
        self
    }

    /// Says what trusted proxies say of the client's address: [`Request::client_ip`], which is the peer's
    /// otherwise.
    pub fn client_ip(mut self, client_ip: IpAddr) -> Self {
        self.client_ip = Some(client_ip);
        self
    }

    /// Makes it one of a server's connections, for its [`broadcast`](ServerHandle::broadcast) and
    /// [`shutdown`](ServerHandle::shutdown). During a shutdown the client gets a 503.
    pub fn of_server(mut self, server: &ServerHandle) -> Self {
        self.registry = Some(server.registry());
        self
    }

    /// The subprotocols on offer, the client's favourite first.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        self.upgrade.protocols()
    }

    /// Has `handler` accept or reject the request, in a task of its own, which is the connection's from then
    /// on: see [`Server::on_request`](crate::Server::on_request). Gives the response to send: the handler's;
    /// 403 to a page of a foreign origin; 500 if the handler neither accepts nor rejects. It must go out as it
    /// is: a client that gets another one knows of no WebSocket, and the handler finds it lost.
    ///
    /// There are no handlers of events here; [`WebSocket::run`](crate::WebSocket::run) takes a
    /// [`Handler`](crate::Handler).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the client does not get the handler's answer, and accepting is an error.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn on_request<F, H>(self, handler: F) -> Response<Body>
    where
        F: FnOnce(Request) -> H,
        H: Future<Output = Result<()>> + Send + 'static,
    {
        let Self { head, upgrade, on_upgrade, config, origins, remote_addr, client_ip, registry } = self;
        if let Some(refusal) = origins.refusal(&head.headers, remote_addr) {
            return refusal.map(Body::from);
        }
        let registration = match registry.map(|registry| registry.register()) {
            Some(None) => return shutting_down().map(Body::from),
            registration => registration.flatten(),
        };
        let unanswered = Unanswered {
            head,
            upgrade,
            matched: Matched::default(),
            handover: Handover::Hyper(on_upgrade),
            registration,
            config,
            events: Arc::default(),
            remote_addr,
            client_ip: client_ip.or_else(|| remote_addr.map(|addr| addr.ip().to_canonical())),
        };
        let response = unanswered.put_to(|request, seat| start_handler(handler, request, seat)).await;
        response.map(Body::from)
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("uri", &self.head.uri).finish_non_exhaustive()
    }
}

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The client's fault: it breaks a rule of the opening handshake.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The application's fault: the HTTP server is not hyper's, or somebody has taken the upgrade out of the
    /// request before. (A connection of hyper's that is served without `with_upgrades` shows only later:
    /// accepting is [`AcceptError::ClientGone`](crate::AcceptError::ClientGone) then.)
    #[error("the HTTP server does not hand out its connections")]
    NotUpgradable,
}

impl UpgradeError {
    /// The answer to send: the status, the headers that belong to it, and the reason in words.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let response = match self {
            Self::Request(error) => error.response().map(Bytes::from),
            Self::NotUpgradable => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{self}\n")),
        };
        response.map(Body::from)
    }
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Upgrade {
    type Rejection = UpgradeError;

    async fn from_request_parts(head: &mut http::request::Parts, _: &S) -> Result<Self, UpgradeError> {
        let copy = copy(&head.method, &head.uri, head.version, &head.headers);
        Self::new(copy, &mut head.extensions)
    }
}

#[cfg(feature = "axum")]
impl axum::response::IntoResponse for UpgradeError {
    fn into_response(self) -> axum::response::Response {
        self.into_response().into_response()
    }
}
