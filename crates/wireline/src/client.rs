//! The client: from a URL to a connection.

mod dial;
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

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use url::Url;
use wireline_proto::{Config, handshake::ClientHandshake};

pub use self::reconnect::{Backoff, Loss, Reconnect, ReconnectError, reconnect_with};
use self::{dial::dial, proxy::ProxyChoice, target::Target};
use crate::{
    ClientTls, ConnectError, WebSocket,
    driver::{Link, Opened, spawn_driver},
    entropy,
    request::parse_header,
    server::LONGEST_TIMEOUT,
    transport::Transport,
};

/// Bytes of a refusal's body that are kept.
const MAX_BODY: usize = 64 << 10;

/// Header lines of a response, and bytes of its whole head.
const MAX_HEADERS: usize = 128;
const MAX_HEAD: usize = 64 << 10;

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

    /// Which certificates to trust for `wss://`. By default those that the system does.
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

    /// Goes through a proxy: `http://` and `https://` by CONNECT, `socks5://`, which resolves the host's name;
    /// with `user:password@` if it wants them. A proxy over TLS is checked as [`tls`](Self::tls) says.
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
    /// None is followed from `wss://` to `ws://`. On another host or port, no header that was set here is sent
    /// but `Origin`, `User-Agent` and `Accept-Language`, since any could be a secret; subprotocols are.
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
        let mut request = handshake
            .request(&target.path_and_query, &target.host_header)
            .map_err(|error| ConnectError::Url { url: self.url, reason: error.to_string() })?;
        target.authorize(request.headers_mut());
        replace_headers(request.headers_mut(), self.headers);
        Ok(Attempt {
            target,
            handshake,
            request,
            config: self.config,
            handshake_timeout: self.handshake_timeout,
            tls: self.tls,
            unix_socket: self.unix_socket,
            stream: self.stream,
            proxy: self.proxy,
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
    request: Request<()>,
    config: Config,
    handshake_timeout: Duration,
    tls: Option<ClientTls>,
    unix_socket: Option<PathBuf>,
    stream: Option<Transport>,
    proxy: ProxyChoice,
}

impl Attempt {
    /// What it connects to, user and password included.
    pub(crate) fn url(&self) -> &Url {
        &self.target.url
    }

    /// Opens the connection. Dropped early, the attempt ends and the socket is closed.
    pub(crate) async fn run(self) -> Result<WebSocket, ConnectError> {
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

    async fn open(self, deadline: Instant) -> Result<Answer, ConnectError> {
        let (transport, remote_addr) = match self.stream {
            Some(stream) => (stream, None),
            None => {
                reach(&self.target, self.unix_socket.as_deref(), &self.proxy, self.tls.as_ref(), deadline)
                    .await?
            }
        };
        let transport = if self.target.is_secure {
            secure(transport, &self.target.host, self.tls.as_ref()).await?
        } else {
            transport
        };
        let response = exchange(transport, self.request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Answer::Refusal(response));
        }
        let negotiated = self.handshake.check(&response)?;
        let response_headers = Some(Box::new(response.headers().clone()));
        let upgraded =
            hyper::upgrade::on(response).await.map_err(|error| ConnectError::Http(error.into()))?;
        let (transport, first_bytes) = Transport::take_back(upgraded);
        let link = Link::new(Opened {
            negotiated,
            config: Arc::new(self.config),
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
}

/// What a server said to the handshake.
enum Answer {
    Connection(WebSocket),
    Refusal(Response<Incoming>),
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

/// Does the TLS handshake with a host.
async fn secure(
    transport: Transport,
    host: &str,
    tls: Option<&ClientTls>,
) -> Result<Transport, ConnectError> {
    let failed = |source| ConnectError::Tls { host: host.to_owned(), source };
    let system;
    let tls = match tls {
        Some(tls) => tls,
        None => {
            system = ClientTls::with_system_roots()?;
            &system
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(std::io::Error::other(error)))?;
    let stream = tls.connector().connect(name, transport).await.map_err(failed)?;
    Ok(Transport::Boxed(Box::new(stream)))
}

/// Sends the request and gives the response's head.
async fn exchange(transport: Transport, request: Request<()>) -> Result<Response<Incoming>, ConnectError> {
    let failed = |error: hyper::Error| ConnectError::Http(error.into());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(failed)?;
    // Ends with the upgrade, or with the response's body when that is dropped.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request.map(|()| Empty::<Bytes>::new())).await.map_err(failed)?;
    // hyper's own limit lets through what comes in one read.
    let head: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head > MAX_HEAD {
        return Err(ConnectError::Http("the head of the response is too long".into()));
    }
    Ok(response)
}

/// A refusal with the beginning of its body: what came by the deadline.
async fn keep_body(response: Response<Incoming>, deadline: Instant) -> Response<Bytes> {
    let (head, mut body) = response.into_parts();
    let mut kept = BytesMut::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        let room = MAX_BODY - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room {
            break;
        }
    }
    Response::from_parts(head, kept.freeze())
}

impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}
