//! The client: from a URL to a connection.

#[cfg(feature = "http3")]
mod alt_svc;
mod dial;
mod exchange;
mod http2;
#[cfg(feature = "http3")]
mod http3;
mod pool;
mod proxy;
mod reconnect;
mod redirect;
mod target;

use std::{
    fmt,
    future::{Future, IntoFuture},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, header};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use url::Url;
use wireline_proto::{Config, handshake::ClientHandshake};

use self::{
    dial::dial,
    exchange::{Rest, exchange, keep_body},
    pool::{Connections, Pool, Way},
    proxy::ProxyChoice,
    target::Target,
};
pub use self::{
    pool::Client,
    reconnect::{Backoff, Loss, Reconnect, ReconnectError, reconnect_with},
};
#[cfg(feature = "http3")]
use crate::http3::{Connection, RequestStream};
use crate::{
    ClientTls, ConnectError, WebSocket,
    driver::{Link, Opened, spawn_driver},
    entropy,
    request::parse_header,
    server::LONGEST_TIMEOUT,
    tls::{self, Alert, ClientStream, HTTP_2, HttpVersions},
    transport::Transport,
};

/// How long HTTP/3 has where another version would do.
#[cfg(feature = "http3")]
const HTTP_3_TRIAL: Duration = Duration::from_secs(1);

/// Opens a connection to a `ws://` or `wss://` URL: await the builder for the [`WebSocket`].
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let mut ws = wireline::connect("ws://127.0.0.1:8080/")
///     .protocols(["echo-protocol"])
///     .header("Authorization", "Bearer 1234")
///     .await?;
/// ws.send("hello").await?;
/// assert_eq!(ws.recv().await?, Some("hello".into()));
/// # Ok(())
/// # }
/// ```
pub fn connect(url: impl Into<String>) -> Connect {
    Connect {
        url: url.into(),
        protocols: Vec::new(),
        headers: HeaderMap::new(),
        invalid_header: None,
        config: Config::client(),
        handshake_timeout: Duration::from_secs(10),
        tls: None,
        unix_socket: None,
        stream: None,
        proxy: ProxyChoice::default(),
        redirects: 0,
        versions: HttpVersions::default(),
        pool: None,
    }
}

/// A connection to be opened; see [`connect`].
///
/// # Cancel safety
/// Dropping the future that it turns into ends the attempt and closes the socket.
#[must_use = "nothing happens until it is awaited"]
#[derive(Debug)]
pub struct Connect {
    url: String,
    protocols: Vec<String>,
    headers: HeaderMap,
    invalid_header: Option<String>,
    config: Config,
    handshake_timeout: Duration,
    tls: Option<ClientTls>,
    unix_socket: Option<PathBuf>,
    stream: Option<Transport>,
    proxy: ProxyChoice,
    redirects: u8,
    versions: HttpVersions,
    pool: Option<Arc<Pool>>,
}

impl Connect {
    /// Offers these subprotocols, the favourite first. As in browsers, a server that then chooses none
    /// is an error.
    pub fn protocols<P: Into<String>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Says which page asks, as a browser would.
    pub fn origin(self, origin: &str) -> Self {
        self.header("Origin", origin)
    }

    /// Adds a header to the request. The handshake's own headers and values with control characters are
    /// an error when this is awaited. `Host` replaces the URL's.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match parse_header(name, value) {
            Some((name, value)) => {
                self.headers.append(name, value);
            }
            None => self.invalid_header = Some(name.to_owned()),
        }
        self
    }

    /// The limits and timers of the connection, and whether to offer compression.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How long it may take from here to the open connection (10 s).
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Which certificates to trust for `wss://`, and which one to have. By default those that the system trusts, and
    /// none. Give clones of one [`ClientTls`] to all connections, so that they resume sessions.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to a Unix socket instead of the URL's host and port; the URL still gives the path, the
    /// Host header, and the name for TLS.
    #[cfg(unix)]
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix_socket = Some(path.into());
        self
    }

    /// Speaks over this byte stream instead of connecting to the URL's host and port: a tunnel, a pipe in
    /// memory. The URL still gives the path, the Host header, and, with `wss://`, the name for TLS on it.
    pub fn over<S>(mut self, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.stream = Some(Transport::Boxed(Box::new(stream)));
        self
    }

    /// Opens the WebSocket over HTTP/2 (RFC 8441): with `wss://` as TLS's ALPN has it, with `ws://` by prior
    /// knowledge. A server that does not speak it, or opens no WebSockets over it, is an error.
    pub fn http2(mut self) -> Self {
        self.versions = HttpVersions::Http2;
        self
    }

    /// Opens the WebSocket over HTTP/3 (RFC 9220), on UDP. It is an error with `ws://`, through a proxy, and where
    /// the server does not speak it. With the feature `http3`.
    #[cfg(feature = "http3")]
    pub fn http3(mut self) -> Self {
        self.versions = HttpVersions::Http3;
        self
    }

    /// Opens the WebSocket over what the server prefers: HTTP/2, or HTTP/1.1, on a connection of its own if the
    /// server speaks HTTP/2 but opens no WebSockets over it. With `ws://` it is HTTP/1.1.
    ///
    /// With the feature `http3` it is HTTP/3, where an earlier response to this process announced that
    /// (`Alt-Svc`, RFC 7838), there is no proxy on the way, and it takes no longer than a second. Where it does not work,
    /// it is left alone for ten minutes.
    pub fn http_auto(mut self) -> Self {
        self.versions = HttpVersions::Auto;
        self
    }

    /// Goes through a proxy: `http://` and `https://` by CONNECT, `socks5://`, which resolves the host's name;
    /// with `user:password@` if it wants them. A proxy over TLS is checked as [`tls`](Self::tls) says, and gets
    /// that one's certificate if it asks for one.
    ///
    /// Without this it is the environment's: `HTTPS_PROXY` for `wss://`, `HTTP_PROXY` for `ws://`, and
    /// `ALL_PROXY`, where `NO_PROXY` does not name the host. None of them is for this machine's own addresses.
    ///
    /// ```no_run
    /// # async fn example() -> wireline::Result<()> {
    /// let ws = wireline::connect("wss://example.com/chat").proxy("socks5://me:secret@10.0.0.1:1080").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Given(url.into());
        self
    }

    /// Goes through no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::None;
        self
    }

    /// Follows up to `most` redirects (RFC 9110 section 15.4), all of them within the
    /// [handshake timeout](Self::handshake_timeout). By default none is: it is
    /// [`ConnectError::Rejected`].
    ///
    /// None is followed from `wss://` to `ws://`, and none with a stream of its own ([`over`](Self::over)). On another
    /// host or port, no header that was set here is sent but `Origin`, `User-Agent` and `Accept-Language`, since any
    /// could be a secret; subprotocols are. The client's certificate is shown to whoever asks for one.
    pub fn redirects(mut self, most: u8) -> Self {
        self.redirects = most;
        self
    }

    /// The same again, without a stream, which serves one connection only.
    fn again(&self) -> Self {
        let Self { url, protocols, headers, invalid_header, config, handshake_timeout, tls, .. } = self;
        Self {
            url: url.clone(),
            protocols: protocols.clone(),
            headers: headers.clone(),
            invalid_header: invalid_header.clone(),
            config: config.clone(),
            handshake_timeout: *handshake_timeout,
            tls: tls.clone(),
            unix_socket: self.unix_socket.clone(),
            stream: None,
            proxy: self.proxy.clone(),
            redirects: self.redirects,
            versions: self.versions,
            pool: self.pool.clone(),
        }
    }

    /// Finds out what is wrong with it before anything is sent: first with the URL, then with the
    /// subprotocols, then with the headers.
    pub(crate) fn check(self) -> Result<Attempt, ConnectError> {
        let target = Target::parse(&self.url)?;
        let mut handshake = ClientHandshake::new(entropy::nonce(), self.protocols)?;
        if let Some(name) = self.invalid_header {
            return Err(ConnectError::InvalidHeader(name));
        }
        if let Some(options) = &self.config.deflate {
            handshake = handshake.offer_deflate(options);
        }
        // Whatever version it will be: what is wrong with it is wrong with all.
        handshake
            .request(&target.path_and_query, &target.host_header)
            .map_err(|error| ConnectError::Url { url: self.url, reason: error.to_string() })?;
        Ok(Attempt {
            target,
            handshake,
            headers: self.headers,
            config: Arc::new(self.config),
            handshake_timeout: self.handshake_timeout,
            tls: self.tls,
            unix_socket: self.unix_socket,
            stream: self.stream,
            proxy: self.proxy,
            versions: self.versions,
            pool: self.pool,
        })
    }
}

impl IntoFuture for Connect {
    type Output = Result<WebSocket, ConnectError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// A connection to be opened in which nothing is wrong by itself: the rest is the network's and the
/// server's.
#[derive(Debug)]
pub(crate) struct Attempt {
    target: Target,
    handshake: ClientHandshake,
    headers: HeaderMap,
    config: Arc<Config>,
    handshake_timeout: Duration,
    tls: Option<ClientTls>,
    unix_socket: Option<PathBuf>,
    stream: Option<Transport>,
    proxy: ProxyChoice,
    versions: HttpVersions,
    pool: Option<Arc<Pool>>,
}

impl Attempt {
    /// What it connects to, user and password included.
    pub(crate) fn url(&self) -> &Url {
        &self.target.url
    }

    /// Opens the connection. Dropped early, the attempt ends and the socket is closed.
    pub(crate) async fn run(mut self) -> Result<WebSocket, ConnectError> {
        let deadline = Instant::now() + self.handshake_timeout;
        match tokio::time::timeout_at(deadline, self.open(deadline)).await {
            Ok(Ok(Answer::Connection(ws))) => Ok(ws),
            Ok(Ok(Answer::Refusal(response))) => {
                Err(ConnectError::Rejected(Box::new(keep_body(response, deadline).await)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    async fn open(&mut self, deadline: Instant) -> Result<Answer, ConnectError> {
        #[cfg(feature = "http3")]
        if self.versions == HttpVersions::Http3 {
            return self.open_http3(self.target.port).await;
        }
        #[cfg(feature = "http3")]
        if let Some(answer) = self.try_http3().await {
            return Ok(answer);
        }
        let can_try_again = self.versions == HttpVersions::Auto && self.stream.is_none();
        if let Some(answer) = self.open_over(self.versions, deadline).await? {
            return Ok(answer);
        }
        if can_try_again && let Some(answer) = self.open_over(HttpVersions::Http1, deadline).await? {
            return Ok(answer);
        }
        Err(ConnectError::Http("the server opens no WebSockets over HTTP/2".into()))
    }

    /// Over TCP. `None`: the server speaks HTTP/2, and opens no WebSockets over it.
    async fn open_over(
        &mut self,
        versions: HttpVersions,
        deadline: Instant,
    ) -> Result<Option<Answer>, ConnectError> {
        let lane = self.pool.as_ref().filter(|_| versions != HttpVersions::Http1 && self.stream.is_none());
        let Some(lane) = lane.map(|pool| pool.lane(self.way())) else {
            let reached = self.reach(versions, deadline, None).await?;
            let Some(reached) = reached else { return Ok(None) };
            return self.ask(reached).await.map(Some);
        };
        let mut connections = lane.lock().await;
        while let Some(connection) = connections.http2_with_room() {
            drop(connections);
            let (weak, remote_addr) = (connection.downgrade(), connection.remote_addr());
            if let Some(response) = connection.exchange(self.request(true)?).await? {
                return self.conclude(response, remote_addr).await.map(Some);
            }
            // It has ended in the meantime.
            connections = lane.lock().await;
            connections.http2.retain(|known| !known.is(&weak));
        }
        let reached = self.reach(versions, deadline, Some(&mut connections)).await?;
        drop(connections);
        let Some(reached) = reached else { return Ok(None) };
        self.ask(reached).await.map(Some)
    }

    /// A connection on which a WebSocket can be asked for; `None` if the server speaks HTTP/2, and opens no
    /// WebSockets over it.
    async fn reach(
        &mut self,
        versions: HttpVersions,
        deadline: Instant,
        shared: Option<&mut Connections>,
    ) -> Result<Option<Reached>, ConnectError> {
        let (transport, remote_addr) = match self.stream.take() {
            Some(stream) => (stream, None),
            None => {
                reach(&self.target, self.unix_socket.as_deref(), &self.proxy, self.tls.as_ref(), deadline)
                    .await?
            }
        };
        let Secured { transport, is_http2, alert } = if self.target.is_secure {
            secure(transport, &self.target.host, self.tls.as_ref(), versions).await?
        } else {
            Secured { transport, is_http2: versions == HttpVersions::Http2, alert: Alert::default() }
        };
        if !is_http2 {
            return Ok(Some(Reached::Http1(transport, remote_addr)));
        }
        let begun = http2::Connection::begin(transport, remote_addr).await;
        let connection = begun.map_err(|error| match alert.error() {
            Some(source) => ConnectError::Tls { host: self.target.host.clone(), source },
            None => self.refused_by_tls(error),
        })?;
        if let (Some(shared), Some(connection)) = (shared, &connection) {
            shared.http2.push(connection.downgrade());
        }
        Ok(connection.map(Reached::Http2))
    }

    /// Sends the request on a connection of its own.
    async fn ask(&mut self, reached: Reached) -> Result<Answer, ConnectError> {
        let (response, remote_addr) = match reached {
            Reached::Http1(transport, remote_addr) => {
                let response = exchange(transport, self.request(false)?).await;
                (response.map(|response| Some(response.map(Rest::Http1))), remote_addr)
            }
            Reached::Http2(connection) => {
                let remote_addr = connection.remote_addr();
                (connection.exchange(self.request(true)?).await, remote_addr)
            }
        };
        match response.map_err(|error| self.refused_by_tls(error))? {
            Some(response) => self.conclude(response, remote_addr).await,
            None => Err(ConnectError::Http("the server hung up on HTTP/2".into())),
        }
    }

    /// What an error of HTTP is if TLS is behind it.
    fn refused_by_tls(&self, error: ConnectError) -> ConnectError {
        if self.target.is_secure { refused_by_tls(error, &self.target.host) } else { error }
    }

    /// Makes a WebSocket of a response, if it agrees to one.
    async fn conclude(
        &mut self,
        response: Response<Rest>,
        remote_addr: Option<SocketAddr>,
    ) -> Result<Answer, ConnectError> {
        #[cfg(feature = "http3")]
        alt_svc::ANNOUNCEMENTS.note(&self.target, response.headers(), Instant::now());
        let negotiated = match (response.body(), response.status()) {
            (Rest::Http1(_), StatusCode::SWITCHING_PROTOCOLS) => self.handshake.check(&response)?,
            (Rest::Http1(_), _) => return Ok(Answer::Refusal(response)),
            (_, status) if status.is_success() => self.handshake.check_extended_connect(&response)?,
            _ => return Ok(Answer::Refusal(response)),
        };
        let response_headers = Some(Box::new(response.headers().clone()));
        let taken = Rest::into_transport(response).await;
        let (transport, first_bytes) = taken.map_err(|error| ConnectError::Http(error.into()))?;
        let link = Link::new(Opened {
            negotiated,
            config: Arc::clone(&self.config),
            transport,
            first_bytes,
            url: Some(self.target.public_url().into()),
            remote_addr,
            client_ip: None,
            response_headers,
        });
        let ws = WebSocket::new(Arc::clone(&link));
        spawn_driver(link, None);
        Ok(Answer::Connection(ws))
    }

    /// Where its connection leads, and how.
    fn way(&self) -> Way {
        Way {
            is_secure: self.target.is_secure,
            host: self.target.host.clone(),
            port: self.target.port,
            tls: self.tls.clone(),
            unix_socket: self.unix_socket.clone(),
            proxy: self.proxy.clone(),
        }
    }

    fn request(&self, is_http2: bool) -> Result<Request<()>, ConnectError> {
        let Target { host_header, path_and_query, .. } = &self.target;
        let mut headers = self.headers.clone();
        let request = if is_http2 {
            let host = headers.remove(header::HOST);
            let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(host_header);
            let scheme = if self.target.is_secure { "https" } else { "http" };
            self.handshake.extended_connect(&format!("{scheme}://{authority}{path_and_query}"))
        } else {
            self.handshake.request(path_and_query, host_header)
        };
        let mut request = request.map_err(|error| ConnectError::Url {
            url: self.target.public_url(),
            reason: error.to_string(),
        })?;
        self.target.authorize(request.headers_mut());
        replace_headers(request.headers_mut(), headers);
        Ok(request)
    }
}

/// A connection to ask on.
enum Reached {
    Http1(Transport, Option<SocketAddr>),
    Http2(http2::Connection),
}

/// What a server said to the handshake.
enum Answer {
    Connection(WebSocket),
    Refusal(Response<Rest>),
}

#[cfg(feature = "http3")]
impl Attempt {
    /// Over HTTP/3, if the server announced it and it works.
    async fn try_http3(&mut self) -> Option<Answer> {
        let is_direct = self.unix_socket.is_none() && self.stream.is_none();
        if self.versions != HttpVersions::Auto || !is_direct {
            return None;
        }
        let port = alt_svc::ANNOUNCEMENTS.port(&self.target, Instant::now())?;
        if self.proxy.find(&self.target).ok()?.is_some() {
            return None;
        }
        let tried = tokio::time::timeout(HTTP_3_TRIAL, self.open_http3(port)).await;
        match tried {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%error, "HTTP/3 does not work"),
            Err(_) => tracing::debug!("HTTP/3 takes too long"),
        }
        alt_svc::ANNOUNCEMENTS.note_broken(&self.target, Instant::now());
        None
    }

    async fn open_http3(&mut self, port: u16) -> Result<Answer, ConnectError> {
        let impossible = |why: &str| ConnectError::Http(format!("HTTP/3 is not possible {why}").into());
        if !self.target.is_secure {
            return Err(impossible("with ws://, only with wss://"));
        }
        if self.unix_socket.is_some() || self.stream.is_some() {
            return Err(impossible("over a Unix socket or a stream that was given"));
        }
        if self.proxy.find(&self.target)?.is_some() {
            return Err(impossible("through a proxy; see no_proxy()"));
        }
        let request = self.request(true)?;
        let lane = self.pool.as_ref().map(|pool| pool.lane(self.way()));
        let mut connections = match &lane {
            Some(lane) => Some(lane.lock().await),
            None => None,
        };
        let there = connections.as_mut().map(|connections| connections.http3());
        for connection in there.into_iter().flatten() {
            if let Some(stream) = http3::open(&connection, &self.target).await? {
                drop(connections);
                return self.ask_http3(stream, &connection, request).await;
            }
        }
        let tls = match &self.tls {
            Some(tls) => tls,
            None => ClientTls::shared()?,
        };
        let connection = http3::connect(&self.target, tls, port).await?;
        if let Some(connections) = &mut connections {
            connections.http3.push(connection.downgrade());
        }
        drop(connections);
        match http3::open(&connection, &self.target).await? {
            Some(stream) => self.ask_http3(stream, &connection, request).await,
            None => Err(ConnectError::Http("the server opens no WebSockets over HTTP/3".into())),
        }
    }

    async fn ask_http3(
        &mut self,
        stream: RequestStream,
        connection: &Connection,
        request: Request<()>,
    ) -> Result<Answer, ConnectError> {
        let response = http3::exchange(stream, request, &self.target).await?;
        self.conclude(response, Some(connection.remote_addr())).await
    }
}

/// Puts `given` in the place of headers of the same name.
fn replace_headers(headers: &mut HeaderMap, given: HeaderMap) {
    let mut last = None;
    for (name, value) in given {
        // A map gives the name of a repeated header once.
        match (name, &last) {
            (Some(name), _) => {
                headers.insert(name.clone(), value);
                last = Some(name);
            }
            (None, Some(name)) => {
                headers.append(name.clone(), value);
            }
            (None, None) => {}
        }
    }
}

/// A byte stream to the host, by way of a proxy if there is one, and the host's address if it is known.
async fn reach(
    target: &Target,
    unix_socket: Option<&std::path::Path>,
    proxy: &ProxyChoice,
    tls: Option<&ClientTls>,
    deadline: Instant,
) -> Result<(Transport, Option<SocketAddr>), ConnectError> {
    #[cfg(unix)]
    if let Some(path) = unix_socket {
        let stream = tokio::net::UnixStream::connect(path)
            .await
            .map_err(|source| ConnectError::Tcp { address: path.display().to_string(), source })?;
        return Ok((Transport::Unix(stream), None));
    }
    if let Some(proxy) = proxy.find(target)? {
        return Ok((proxy.tunnel(target, tls, deadline).await?, None));
    }
    let stream = dial(&target.host, target.port).await?;
    let remote_addr = stream.peer_addr().ok();
    Ok((Transport::Tcp(stream), remote_addr))
}

/// A transport that is as safe as the URL wants it.
struct Secured {
    transport: Transport,
    is_http2: bool,
    /// Why it is of no use after all.
    alert: Alert,
}

/// Does the TLS handshake with a host, and agrees on a version of HTTP.
async fn secure(
    transport: Transport,
    host: &str,
    tls: Option<&ClientTls>,
    versions: HttpVersions,
) -> Result<Secured, ConnectError> {
    let failed = |source| ConnectError::Tls { host: host.to_owned(), source };
    let tls = match tls {
        Some(tls) => tls,
        None => ClientTls::shared()?,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(std::io::Error::other(error)))?;
    let stream = tls.connector(versions).connect(name, transport).await.map_err(failed)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
    if versions == HttpVersions::Http2 && !is_http2 {
        return Err(ConnectError::Http("the server does not speak HTTP/2".into()));
    }
    let stream = ClientStream::new(stream);
    let alert = stream.alert();
    Ok(Secured { transport: Transport::Boxed(Box::new(stream)), is_http2, alert })
}

/// What a failure of HTTP is if TLS is behind it: a server of TLS 1.3 looks at the client's certificate when to the
/// client the handshake is over (RFC 8446 section 2), so that its alert comes in the place of a response, if a reset
/// does not overtake it.
fn refused_by_tls(error: ConnectError, host: &str) -> ConnectError {
    match error {
        ConnectError::Http(source) => match tls::alert(&*source) {
            Some(source) => ConnectError::Tls { host: host.to_owned(), source },
            None => ConnectError::Http(tls::explain_reset(source)),
        },
        error => error,
    }
}

impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}
