//! A request for a WebSocket, which waits for the application's yes or no.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, IntoFuture},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, header,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wireline_proto::{Config, handshake::UpgradeRequest};

use crate::{
    AcceptError, PeerCertificates, Result, SetCookie, WebSocket, cookie,
    driver::{Link, Opened, Seat},
    events::Events,
    registry::Registration,
    response::{shutting_down, status_response},
    transport::Handover,
};

/// A request that passed the opening handshake's checks and the server's origin rule. Accept it or
/// reject it, once: both take it.
///
/// Dropped without an answer, the client gets a 500. A second answer does not compile:
///
/// ```compile_fail,E0382
/// # async fn example(req: wireline::Request) -> wireline::Result<()> {
/// let ws = req.accept().await?;
/// req.reject(http::StatusCode::FORBIDDEN).await
/// # }
/// ```
///
/// ```no_run
/// use http::StatusCode;
/// use wireline::{Request, Server};
///
/// # async fn example() -> wireline::Result<()> {
/// Server::new()
///     .on_request(|req: Request| async move {
///         if req.path() != "/chat" {
///             return req.reject(StatusCode::NOT_FOUND).await;
///         }
///         let mut ws = req.accept().protocol("echo-protocol").await?;
///         ws.send("welcome").await?;
///         Ok(())
///     })
///     .listen("127.0.0.1:8080")
///     .await
/// # }
/// ```
pub struct Request {
    // Boxed, since a handler's task is as large as the largest thing it ever held across an await.
    inner: Box<Inner>,
}

struct Inner {
    head: http::request::Parts,
    upgrade: UpgradeRequest,
    matched: Matched,
    channel: Channel,
}

/// What the route that a request took says of it.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    /// The subprotocol that the route is for.
    pub(crate) protocol: Option<String>,
    pub(crate) params: Vec<(String, String)>,
}

/// How an answer gets back to HTTP, and the connection to its driver.
struct Channel {
    answer: oneshot::Sender<Response<Bytes>>,
    handover: Handover,
    seat: Arc<Seat>,
    config: Arc<Config>,
    events: Arc<Events>,
    remote_addr: Option<SocketAddr>,
    client_ip: Option<IpAddr>,
}

/// A request that passed all checks, with what its connection will need, for a handler to answer.
pub(crate) struct Unanswered {
    pub(crate) head: http::request::Parts,
    pub(crate) upgrade: UpgradeRequest,
    pub(crate) matched: Matched,
    pub(crate) handover: Handover,
    /// Its place among a server's connections.
    pub(crate) registration: Option<Registration>,
    pub(crate) config: Arc<Config>,
    pub(crate) events: Arc<Events>,
    pub(crate) remote_addr: Option<SocketAddr>,
    pub(crate) client_ip: Option<IpAddr>,
}

impl Unanswered {
    /// Has the request answered; the answer. A server that begins to close does not wait for it.
    pub(crate) async fn put_to(self, on_request: impl FnOnce(Request, Arc<Seat>)) -> Response<Bytes> {
        let Self { head, upgrade, matched, handover, registration, config, events, .. } = self;
        let Self { remote_addr, client_ip, .. } = self;
        let (answer, mut answered) = oneshot::channel();
        let closing = registration.as_ref().map_or_else(CancellationToken::new, Registration::closing);
        let seat = Seat::new(registration);
        let mut unclaimed = Unclaimed(Some(Arc::clone(&seat)));
        let forgoing = handover.forgo();
        let channel =
            Channel { answer, handover, seat: Arc::clone(&seat), config, events, remote_addr, client_ip };
        on_request(Request { inner: Box::new(Inner { head, upgrade, matched, channel }) }, seat);
        let answer = tokio::select! {
            biased;
            answer = &mut answered => answer,
            () = closing.cancelled() => {
                // Whoever answers from now on is told that the client is gone.
                answered.close();
                let Ok(answer) = answered.try_recv() else {
                    // The request's owner may keep it for long.
                    forgoing.begin();
                    return shutting_down();
                };
                Ok(answer)
            }
        };
        if let Ok(answer) = answer {
            unclaimed.0 = None;
            return answer;
        }
        tracing::warn!(?remote_addr, "a handler neither accepted nor rejected its request");
        status_response(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// A request that its handler has not answered. If that comes to nothing, be it that the client has left, the
/// server does not wait for it any longer.
struct Unclaimed(Option<Arc<Seat>>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(seat) = &self.0 {
            seat.vacate();
        }
    }
}

impl Request {
    /// The version of HTTP that it came in: 1.1, or 2 or 3 with an extended CONNECT (RFC 8441, RFC 9220).
    #[must_use]
    pub fn version(&self) -> Version {
        self.inner.head.version
    }

    /// Path and query, as they were asked for; with scheme and authority over HTTP/2 and 3.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.inner.head.uri
    }

    /// The path, percent-encoded as it came.
    #[must_use]
    pub fn path(&self) -> &str {
        self.inner.head.uri.path()
    }

    /// What stands behind the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.inner.head.uri.query()
    }

    /// What stands in the path for `{name}` in the [route](crate::Server::route), percent-decoded. It is the
    /// client's word: decoded, it may have a `/` or `..` in it, so it is no name of a file before that was
    /// looked at.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        let params = &self.inner.matched.params;
        params.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// All headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.head.headers
    }

    /// The first header of this name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.head.headers.get(name)?.to_str().ok()
    }

    /// The origin of the page that asks; `None` from programs that are no browsers.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.header(header::ORIGIN.as_str())
    }

    /// The host that was asked for.
    #[must_use]
    pub fn host(&self) -> &str {
        self.header(header::HOST.as_str()).unwrap_or_default()
    }

    /// The subprotocols on offer, the client's favourite first.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        self.inner.upgrade.protocols()
    }

    /// The first cookie of this name, percent-decoded.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.cookies().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All cookies as names and values, percent-decoded. What is broken of them is left out, or as it came.
    pub fn cookies(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        cookie::cookies(&self.inner.head.headers)
    }

    /// The peer's address, or what the [PROXY protocol](crate::Server::proxy_protocol) says in its place;
    /// `None` on a Unix socket.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.inner.channel.remote_addr
    }

    /// The client's address: the peer's, unless the peer is a proxy that is
    /// [trusted](crate::Server::trust_x_forwarded_for) to say for whom it asks. `None` on a Unix socket
    /// otherwise.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.inner.channel.client_ip
    }

    /// The certificate chain that the client has proved itself with in TLS: each certificate in DER, the client's own
    /// first. Empty if it has none, which can be only where the server
    /// [asks for none](crate::ServerTls#client-certificates), or has it optional. What is in it is for a crate such
    /// as `x509-parser` to say.
    #[must_use]
    pub fn peer_certificates(&self) -> &[Bytes] {
        self.inner.head.extensions.get().map_or(&[], PeerCertificates::as_slice)
    }

    /// Agrees to the connection: await the builder for the [`WebSocket`].
    ///
    /// On a [route for a subprotocol](crate::Server::route_protocol) it agrees to that one.
    pub fn accept(mut self) -> Accept {
        let protocol = self.inner.matched.protocol.take();
        let headers = HeaderMap::new();
        Accept {
            inner: Box::new(Acceptance { request: self, protocol, headers, cookies: vec![], invalid: None }),
        }
    }

    /// Refuses the connection with a status, such as 401, 403 or 404: await the builder to send it. A 1xx
    /// status is no refusal and becomes a 500.
    pub fn reject(self, status: StatusCode) -> Reject {
        let mut response = Response::new(Bytes::new());
        // 101 would look like an acceptance, and other 1xx like no answer at all.
        let refusal = if status.is_informational() { StatusCode::INTERNAL_SERVER_ERROR } else { status };
        *response.status_mut() = refusal;
        Reject { inner: Box::new(Refusal { request: self, response, invalid: None }) }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("uri", &self.inner.head.uri).finish_non_exhaustive()
    }
}

/// An acceptance to be awaited; see [`Request::accept`].
#[must_use = "the client gets no answer until it is awaited"]
#[derive(Debug)]
pub struct Accept {
    inner: Box<Acceptance>,
}

#[derive(Debug)]
struct Acceptance {
    request: Request,
    protocol: Option<String>,
    headers: HeaderMap,
    /// Names of cookies that are set.
    cookies: Vec<String>,
    invalid: Option<AcceptError>,
}

impl Accept {
    /// Agrees to this subprotocol. If the client did not offer it, awaiting gives
    /// [`AcceptError::ProtocolNotOffered`] and the client gets a 400.
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.inner.protocol = Some(protocol.into());
        self
    }

    /// Adds a header to the response. The handshake's own headers and values with control characters are
    /// an error when this is awaited, and the client gets a 500.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match parse_header(name, value) {
            Some((name, value)) => {
                self.inner.headers.append(name, value);
            }
            None => self.inner.invalid = Some(AcceptError::InvalidHeader(name.to_owned())),
        }
        self
    }

    /// Sets a cookie. One that cannot be sent, or has the name of another, is an error when this is
    /// awaited, and the client gets a 500.
    ///
    /// ```no_run
    /// # async fn example(req: wireline::Request) -> wireline::Result<()> {
    /// use wireline::SetCookie;
    /// let ws = req.accept().cookie(SetCookie::new("session", "31d4d96e").http_only()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cookie(mut self, cookie: SetCookie) -> Self {
        let (name, value) = cookie.into_header();
        match value {
            Some(value) if !self.inner.cookies.contains(&name) => {
                self.inner.headers.append(header::SET_COOKIE, value);
                self.inner.cookies.push(name);
            }
            _ => self.inner.invalid = Some(AcceptError::InvalidCookie(name)),
        }
        self
    }

    /// Accepts, and has the server's handlers (`on_open`, `on_message` and so on) called until the
    /// connection is over: event style. `Ok`: the closing handshake completed, whatever its code. A request of
    /// [`upgrade`](crate::upgrade) has no such handlers, so that messages would be dropped.
    ///
    /// # Errors
    /// The request could not be accepted. Or the connection ended without a closing handshake, or a handler
    /// failed: `on_error` was told.
    ///
    /// # Cancel safety
    /// Dropped, it is as with [`Request::accept`] before, and as with [`WebSocket::run`] afterwards.
    pub async fn run(self) -> Result<()> {
        let events = Arc::clone(&self.inner.request.inner.channel.events);
        let mut ws = self.into_future().await?;
        events.run(&mut ws).await
    }
}

impl Acceptance {
    async fn run(self) -> Result<WebSocket, AcceptError> {
        let Inner { upgrade, channel, .. } = *self.request.inner;
        if let Some(error) = self.invalid {
            return Err(error);
        }
        let upgrade = match &channel.config.deflate {
            Some(options) => upgrade.agree_to_deflate(options),
            None => upgrade,
        };
        let (response, negotiated) = match upgrade.accept(self.protocol.as_deref()) {
            Ok(accepted) => accepted,
            Err(error) => {
                let mut response = Response::new(Bytes::from("the subprotocol is not served here\n"));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                let _ = channel.answer.send(response);
                return Err(error.into());
            }
        };
        let mut response = response.map(|()| Bytes::new());
        response.headers_mut().extend(self.headers);
        channel
            .answer
            .send(response)
            .map_err(|_| AcceptError::ClientGone("the connection is closed".into()))?;
        let (transport, first_bytes) = channel.handover.take().await.map_err(AcceptError::ClientGone)?;
        let link = Link::new(Opened {
            negotiated,
            config: channel.config,
            transport,
            first_bytes,
            url: None,
            remote_addr: channel.remote_addr,
            client_ip: channel.client_ip,
            response_headers: None,
        });
        let ws = WebSocket::new(Arc::clone(&link));
        channel.seat.take(&link);
        Ok(ws)
    }
}

impl IntoFuture for Accept {
    type Output = Result<WebSocket, AcceptError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.inner.run())
    }
}

/// A refusal to be awaited; see [`Request::reject`].
#[must_use = "the client gets no answer until it is awaited"]
#[derive(Debug)]
pub struct Reject {
    inner: Box<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    request: Request,
    response: Response<Bytes>,
    invalid: Option<String>,
}

impl Reject {
    /// Says more to the client.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.inner.response.body_mut() = body.into();
        self
    }

    /// Adds a header, such as `Retry-After`. As with [`Accept::header`], one that cannot be sent is an error
    /// when this is awaited, and the client gets a 500.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match parse_header(name, value) {
            Some((name, value)) => {
                self.inner.response.headers_mut().append(name, value);
            }
            None => self.inner.invalid = Some(name.to_owned()),
        }
        self
    }
}

impl IntoFuture for Reject {
    type Output = Result<()>;
    type IntoFuture = std::future::Ready<Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        let Refusal { request, response, invalid } = *self.inner;
        std::future::ready(match invalid {
            Some(name) => Err(AcceptError::InvalidHeader(name).into()),
            None => {
                let _ = request.inner.channel.answer.send(response);
                Ok(())
            }
        })
    }
}

/// The `:protocol` of a WebSocket (RFC 8441 section 5).
pub(crate) const WEBSOCKET: &str = "websocket";

/// What an extended CONNECT is for (RFC 8441 section 4); `None` for any other request.
pub(crate) fn extended_connect<'e>(method: &Method, extensions: &'e Extensions) -> Option<&'e str> {
    let protocol = extensions.get::<hyper::ext::Protocol>()?;
    (*method == Method::CONNECT).then(|| protocol.as_str())
}

/// The host that a request is for: where the target names one, as those to a proxy do, that one counts, and
/// the Host header does not (RFC 9112 section 3.2.2).
pub(crate) fn settle_host<B>(request: &mut http::Request<B>) {
    let Some(authority) = request.uri().authority() else { return };
    // Without a user's name, which is no part of the host.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// A header that the application may set: valid, and not one of those that the handshake is made of.
pub(crate) fn parse_header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    const RESERVED: [HeaderName; 9] = [
        header::UPGRADE,
        header::CONNECTION,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    let name: HeaderName = name.parse().ok()?;
    let value: HeaderValue = value.parse().ok()?;
    (!RESERVED.contains(&name)).then_some((name, value))
}
