//! The server: listens, speaks HTTP until a request asks for a WebSocket, and hands that to a handler.

mod answer;
mod http2;
#[cfg(feature = "http3")]
mod http3;
mod http_connection;
mod listener;
mod multiplexed;
mod proxy_protocol;
mod router;
mod service;

use std::{
    fmt,
    future::Future,
    io,
    net::ToSocketAddrs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use wireline_proto::Config;

pub use self::service::Service;
use self::{
    listener::{Incoming, accept_loop},
    router::Router,
};
use crate::{
    Prepared, Request, Result, ServerTls, SetupError, Socket,
    driver::{Seat, spawn_handler},
    events::Events,
    forwarded::{ForwardedHeader, Peers, TrustedProxies},
    origin::OriginRule,
    prepared::Outgoing,
    registry::Registry,
    transport::{Transport, unpace},
};

/// Beyond this a timeout is no different from none, and sums with the clock's time could overflow.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

type OnRequest = Arc<dyn Fn(Request, Arc<Seat>) + Send + Sync>;
type OnHttp = Arc<
    dyn Fn(http::Request<Bytes>) -> Pin<Box<dyn Future<Output = http::Response<Bytes>> + Send>> + Send + Sync,
>;

/// A WebSocket server.
///
/// Every connection runs its handler in a task of its own. A handler that ends closes its connection:
/// with 1000 after `Ok`, with 1011 after an error or a panic. Neither touches any other connection.
///
/// Browsers are let in from the host that they ask for; programs that are no browsers always. See
/// [`origins`](Self::origins).
///
/// ```no_run
/// use wireline::{Request, Server};
///
/// #[tokio::main]
/// async fn main() -> wireline::Result<()> {
///     Server::new()
///         .on_request(|req: Request| async move {
///             let mut ws = req.accept().protocol("echo-protocol").await?;
///             while let Some(message) = ws.recv().await? {
///                 ws.send(message).await?;
///             }
///             Ok(())
///         })
///         .listen("127.0.0.1:8080")
///         .await
/// }
/// ```
///
/// # Event style
///
/// The same with handlers that are called. [`Accept::run`](crate::Accept::run) calls the server's, which
/// all connections share; a [`Handler`](crate::Handler) has a state for each connection.
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
///         req.accept().protocol("echo-protocol").run().await
///     })
///     .on_message(|socket, message| async move {
///         socket.send(message).await?;
///         Ok(())
///     })
///     .on_close(|socket, close| async move { println!("{:?} left: {close}", socket.remote_addr()) })
///     .listen("127.0.0.1:8080")
///     .await
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    options: Options,
    registry: Arc<Registry>,
    phase: watch::Sender<Phase>,
}

#[derive(Clone)]
struct Options {
    config: Arc<Config>,
    events: Arc<Events>,
    origins: OriginRule,
    handshake_timeout: Duration,
    tls: Option<ServerTls>,
    is_cleartext_http2: bool,
    #[cfg(feature = "http3")]
    is_http3: bool,
    /// Where else the server is, as its responses say.
    alt_svc: Option<HeaderValue>,
    proxy_protocol: Option<Arc<Peers>>,
    trusted_proxies: Option<Arc<TrustedProxies>>,
    router: Router,
    on_http: Option<OnHttp>,
    /// The first thing that cannot work, to be told when it is to listen.
    mistake: Option<SetupError>,
}

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Nobody new is let in.
    Draining,
    /// The time for that has passed: what is left is cut.
    Over,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A server with the default limits, which answers every request with 404 until it is given a
    /// handler.
    #[must_use]
    pub fn new() -> Self {
        Self {
            options: Options {
                config: Arc::new(Config::server()),
                events: Arc::default(),
                origins: OriginRule::default(),
                handshake_timeout: Duration::from_secs(10),
                tls: None,
                is_cleartext_http2: false,
                #[cfg(feature = "http3")]
                is_http3: false,
                alt_svc: None,
                proxy_protocol: None,
                trusted_proxies: None,
                router: Router::default(),
                on_http: None,
                mistake: None,
            },
            registry: Arc::default(),
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    /// What to do with a request for a WebSocket that passed the handshake's checks and the origin rule.
    /// Without this, a server that has handlers of events accepts everyone, with the first subprotocol
    /// that they offer.
    #[must_use]
    pub fn on_request<F, H>(mut self, handler: F) -> Self
    where
        F: Fn(Request) -> H + Send + Sync + 'static,
        H: Future<Output = Result<()>> + Send + 'static,
    {
        self.options.router.set_rest(in_a_task_of_its_own(handler));
        self
    }

    /// What to do with requests for a path, such as `/chat/{room}` or `/files/{*path}`:
    /// [`Request::param`] gives what stands in the place of a name. Paths are compared however they are
    /// percent-encoded, and with case. Of several patterns that fit, the one with more written out counts. What
    /// no route takes goes to [`on_request`](Self::on_request), or gets a 404. A path that is no pattern, or is in the way of
    /// another, is an error when the server is to listen.
    ///
    /// ```no_run
    /// use wireline::{Request, Server};
    ///
    /// # async fn example() -> wireline::Result<()> {
    /// Server::new()
    ///     .route("/chat/{room}", |req: Request| async move {
    ///         let room = req.param("room").unwrap_or_default().to_owned();
    ///         req.accept().await?.send(format!("welcome to {room}")).await?;
    ///         Ok(())
    ///     })
    ///     .route_protocol("/data", "v2", |req: Request| async move { req.accept().run().await })
    ///     .listen("127.0.0.1:8080")
    ///     .await
    /// # }
    /// ```
    #[must_use]
    pub fn route<F, H>(self, path: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Request) -> H + Send + Sync + 'static,
        H: Future<Output = Result<()>> + Send + 'static,
    {
        self.add_route(path.into(), None, in_a_task_of_its_own(handler))
    }

    /// As [`route`](Self::route), for clients that offer this subprotocol: [`Request::accept`] agrees to
    /// it. A path can have several; the client's favourite decides, and a route of the same path without a
    /// subprotocol takes the others. Names are compared with case.
    #[must_use]
    pub fn route_protocol<F, H>(
        self,
        path: impl Into<String>,
        protocol: impl Into<String>,
        handler: F,
    ) -> Self
    where
        F: Fn(Request) -> H + Send + Sync + 'static,
        H: Future<Output = Result<()>> + Send + 'static,
    {
        self.add_route(path.into(), Some(protocol.into()), in_a_task_of_its_own(handler))
    }

    fn add_route(mut self, path: String, protocol: Option<String>, on_request: OnRequest) -> Self {
        if let Err(mistake) = self.options.router.add(path, protocol, on_request) {
            self.options.mistake.get_or_insert(mistake);
        }
        self
    }

    /// What to do with requests that do not ask for a WebSocket: they get a 404 otherwise. A body of
    /// more than 64 KiB is answered with 413 before this is called.
    #[must_use]
    pub fn on_http<F, H>(mut self, handler: F) -> Self
    where
        F: Fn(http::Request<Bytes>) -> H + Send + Sync + 'static,
        H: Future<Output = http::Response<Bytes>> + Send + 'static,
    {
        self.options.on_http = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// The limits and timers of its connections, and whether to agree to compression.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.options.config = Arc::new(config);
        self
    }

    /// Lets in pages of these origins too, such as `https://app.example`. Pages of the host that was
    /// asked for are always let in. What is no origin (a scheme, a host and perhaps a port, without a path or
    /// a slash at its end) is an error when the server is to listen.
    #[must_use]
    pub fn origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.options.origins = OriginRule::same_host_or(origins);
        if let Some(origin) = self.options.origins.mistake() {
            self.options.mistake.get_or_insert(SetupError::Origin(origin.to_owned()));
        }
        self
    }

    /// Lets in the pages of anyone. Any web page that a user visits can then connect with the user's
    /// cookies: safe only where nothing depends on who the user is, or where the handler checks
    /// [`Request::origin`] itself.
    #[must_use]
    pub fn dangerous_any_origin(mut self) -> Self {
        self.options.origins = OriginRule::Any;
        self
    }

    /// How long the PROXY header, then TLS, then the head of a request, then the body of a plain one may take
    /// each (10 s).
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.handshake_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Believes these proxies what their `X-Forwarded-For` says of the client's address, which
    /// [`Request::client_ip`] then gives: addresses, ranges such as `10.0.0.0/8`, and `unix:` for whoever
    /// connects to a Unix socket. Nobody is believed otherwise, since any client can send that header. The
    /// last address in it that is none of these proxies' counts.
    ///
    /// What is no address or range is an error when the server is to listen.
    #[must_use]
    pub fn trust_x_forwarded_for<P: AsRef<str>>(self, proxies: impl IntoIterator<Item = P>) -> Self {
        self.trust(proxies, ForwardedHeader::XForwardedFor)
    }

    /// As [`trust_x_forwarded_for`](Self::trust_x_forwarded_for), and instead of it, for proxies that send
    /// `Forwarded` (RFC 7239). Only one of the two can be right: a proxy that writes one passes on the other
    /// as the client wrote it. Where the header is broken, the address is that of the proxy which sent it.
    #[must_use]
    pub fn trust_forwarded<P: AsRef<str>>(self, proxies: impl IntoIterator<Item = P>) -> Self {
        self.trust(proxies, ForwardedHeader::Forwarded)
    }

    fn trust<P: AsRef<str>>(mut self, proxies: impl IntoIterator<Item = P>, header: ForwardedHeader) -> Self {
        let peers = self.peers(proxies);
        self.options.trusted_proxies = Some(Arc::new(TrustedProxies { peers, header }));
        self
    }

    /// Listens behind load balancers that say where a connection comes from, in the PROXY protocol's
    /// version 1 or 2 (up to 4 KiB), before anything else is said. Who is not on this list, written as for
    /// [`trust_x_forwarded_for`](Self::trust_x_forwarded_for), cannot connect, nor who does not begin with
    /// that header. [`Request::remote_addr`] gives what it says.
    #[must_use]
    pub fn proxy_protocol<P: AsRef<str>>(mut self, balancers: impl IntoIterator<Item = P>) -> Self {
        self.options.proxy_protocol = Some(Arc::new(self.peers(balancers)));
        self
    }

    fn peers<P: AsRef<str>>(&mut self, list: impl IntoIterator<Item = P>) -> Peers {
        Peers::parse(list).unwrap_or_else(|mistake| {
            self.options.mistake.get_or_insert(mistake);
            Peers::default()
        })
    }

    /// Serves `wss://` with this certificate, and no `ws://`: over HTTP/2 (RFC 8441) to clients that want it, over
    /// HTTP/1.1 to others.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.options.tls = Some(tls);
        self
    }

    /// Speaks HTTP/2 where there is no TLS, by prior knowledge (RFC 9113 section 3.3), and no HTTP/1.1: behind
    /// a proxy that does. A clone of the server can listen elsewhere for the others.
    #[must_use]
    pub fn cleartext_http2(mut self) -> Self {
        self.options.is_cleartext_http2 = true;
        self
    }

    /// Speaks HTTP/3 (RFC 9220) too: where it listens with [`tls`](Self::tls), it does so on the UDP port of the
    /// same number, and its responses over TCP say so (`Alt-Svc`, RFC 7838). With the feature `http3`.
    #[cfg(feature = "http3")]
    #[must_use]
    pub fn http3(mut self) -> Self {
        self.options.is_http3 = true;
        self
    }

    /// Listens on `addr` and serves until [`shutdown`](ServerHandle::shutdown), or for ever.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a setting before was a mistake. Errors of single
    /// connections do not end a server, nor does running out of file descriptors.
    pub async fn listen(self, addr: impl ToSocketAddrs) -> Result<()> {
        self.bind(addr)?.serve().await;
        Ok(())
    }

    /// Listens on `addr` and does not serve yet: to learn a port that the system chose, to keep a handle,
    /// or to listen in several places. A name with several addresses gets the first that works.
    ///
    /// A server and its clones are one server: their connections are listed, spoken to and shut down
    /// together. So each place can have settings of its own:
    ///
    /// ```no_run
    /// # async fn example(server: wireline::Server, tls: wireline::ServerTls) -> wireline::Result<()> {
    /// let plain = server.bind("0.0.0.0:80")?;
    /// let secure = server.clone().tls(tls).bind("0.0.0.0:443")?;
    /// let local = server.bind_unix("/run/chat.sock")?;
    /// tokio::join!(plain.serve(), secure.serve(), local.serve());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the address cannot be listened on, or a setting before was a mistake.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(&self, addr: impl ToSocketAddrs) -> Result<Listener> {
        let server = self.checked()?;
        let addresses: Vec<_> = addr.to_socket_addrs()?.collect();
        #[cfg(feature = "http3")]
        if server.options.is_http3 {
            return server.bind_with_http3(&addresses);
        }
        Ok(Listener::new(server, bind_tcp(&addresses)?))
    }

    /// TCP and UDP on one port. Where the system chooses it, it does so for TCP, and may choose one that is not
    /// free for UDP: another is tried then.
    #[cfg(feature = "http3")]
    fn bind_with_http3(mut self, addresses: &[std::net::SocketAddr]) -> Result<Listener> {
        const ATTEMPTS: u32 = 8;
        let tls = match (&self.options.tls, &self.options.proxy_protocol) {
            (Some(tls), None) => tls.clone(),
            (None, _) => return Err(SetupError::Http3("it needs a certificate".into()).into()),
            (_, Some(_)) => return Err(SetupError::Http3("it has no PROXY protocol".into()).into()),
        };
        let mut attempt = 1;
        loop {
            let incoming = bind_tcp(addresses)?;
            let http3 = match http3::Listener::bind(incoming.local_addr()?, &tls) {
                Err(crate::Error::Io(error))
                    if error.kind() == io::ErrorKind::AddrInUse
                        && addresses.iter().all(|address| address.port() == 0)
                        && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                    continue;
                }
                bound => bound?,
            };
            self.options.alt_svc = Some(http3.announcement()?);
            return Ok(Listener { http3: Some(http3), ..Listener::new(self, incoming) });
        }
    }

    /// Listens on a Unix socket at `path`, which must not exist.
    ///
    /// # Errors
    /// When the path cannot be listened on, or a setting before was a mistake.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[cfg(unix)]
    pub fn bind_unix(&self, path: impl AsRef<Path>) -> Result<Listener> {
        let server = self.checked()?;
        let incoming = Incoming::Unix(tokio::net::UnixListener::bind(path)?);
        Ok(Listener::new(server, incoming))
    }

    /// Serves one byte stream, of whatever kind, as it serves what it accepts: a tunnel, a pipe in memory, a
    /// socket that came from elsewhere. `remote_addr` says where it comes from, if that is known. This is ready
    /// when HTTP on it is over: what has become a WebSocket goes on in a task of its own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> wireline::Result<()> {
    /// let server = wireline::Server::new().on_message(|socket, message| async move {
    ///     socket.send(message).await?;
    ///     Ok(())
    /// });
    /// let (ours, theirs) = tokio::io::duplex(1024);
    /// tokio::spawn(async move { server.serve_stream(ours, None).await });
    ///
    /// let mut ws = wireline::connect("ws://pipe.example/").over(theirs).await?;
    /// ws.send("hello").await?;
    /// assert_eq!(ws.recv().await?, Some("hello".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a setting before was a mistake. What goes wrong on the stream is logged.
    ///
    /// # Cancel safety
    /// Dropped early, the stream is closed, unless it is a WebSocket by then.
    pub async fn serve_stream<S>(&self, stream: S, remote_addr: Option<std::net::SocketAddr>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { options, registry, phase } = self.checked()?;
        let transport = Transport::Boxed(Box::new(stream));
        http_connection::serve(transport, remote_addr, Arc::new(options), registry, phase.subscribe()).await;
        Ok(())
    }

    /// Makes it a service for other people's HTTP servers, where it answers as it would itself, with its
    /// routes, its origin rule, its handlers. Where that server takes a prefix off the path, as axum's
    /// `nest_service` does, the routes see the rest. The [handle](Self::handle) speaks to these connections, too, and
    /// a shutdown closes them.
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use wireline::{Request, Server};
    ///
    /// # async fn example() -> wireline::Result<()> {
    /// let server = Server::new().route("/chat/{room}", |req: Request| async move {
    ///     req.accept().await?.send("welcome").await?;
    ///     Ok(())
    /// });
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "a page" }))
    ///     .route_service("/chat/{room}", server.into_service()?);
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// axum::serve(listener, app).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a setting before was a mistake.
    pub fn into_service(self) -> Result<Service> {
        let Self { options, registry, .. } = self.checked()?;
        Ok(Service::new(Arc::new(options), registry, None))
    }

    /// Speaks to its connections and stops it, from anywhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { registry: Arc::clone(&self.registry), phase: self.phase.clone() }
    }

    pub(crate) fn with_events(mut self, change: impl FnOnce(&mut Events)) -> Self {
        change(Arc::make_mut(&mut self.options.events));
        self
    }

    /// A clone that is ready to serve, if nothing is wrong with it.
    fn checked(&self) -> Result<Self, SetupError> {
        let mut server = self.clone();
        if let Some(mistake) = server.options.mistake.take() {
            return Err(mistake);
        }
        if server.options.router.is_empty() && !server.options.events.is_empty() {
            server.options.router.set_rest(in_a_task_of_its_own(accept_everyone));
        }
        Ok(server)
    }
}

/// Listens on the first of these addresses that works.
fn bind_tcp(addresses: &[std::net::SocketAddr]) -> io::Result<Incoming> {
    let listener = std::net::TcpListener::bind(addresses)?;
    listener.set_nonblocking(true)?;
    if listener.local_addr()?.ip().is_loopback() {
        unpace(&listener);
    }
    Ok(Incoming::Tcp(tokio::net::TcpListener::from_std(listener)?))
}

fn in_a_task_of_its_own<F, H>(handler: F) -> OnRequest
where
    F: Fn(Request) -> H + Send + Sync + 'static,
    H: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(move |request, seat| start_handler(&handler, request, seat))
}

/// Has a handler run, in a task which is that of the connection that it accepts.
pub(crate) fn start_handler<F, H>(handler: F, request: Request, seat: Arc<Seat>)
where
    F: FnOnce(Request) -> H,
    H: Future<Output = Result<()>> + Send + 'static,
{
    // What panics before its first await takes its request along, which is then answered with 500.
    match catch_unwind(AssertUnwindSafe(|| handler(request))) {
        Ok(handler) => spawn_handler(handler, seat),
        Err(_) => tracing::error!("a handler panicked before its first await"),
    }
}

/// Event style without a word on requests: the first subprotocol on offer, since a browser that offers
/// some fails the connection if none is chosen.
async fn accept_everyone(request: Request) -> Result<()> {
    let favourite = request.protocols().first().cloned();
    let accept = request.accept();
    match favourite {
        Some(protocol) => accept.protocol(protocol),
        None => accept,
    }
    .run()
    .await
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.options.config)
            .field("connections", &self.registry.len())
            .finish_non_exhaustive()
    }
}

/// A server that listens; see [`Server::bind`].
#[derive(Debug)]
pub struct Listener {
    server: Server,
    incoming: Incoming,
    #[cfg(feature = "http3")]
    http3: Option<http3::Listener>,
}

impl Listener {
    fn new(server: Server, incoming: Incoming) -> Self {
        Self {
            server,
            incoming,
            #[cfg(feature = "http3")]
            http3: None,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// On a Unix socket, which has no such address.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.incoming.local_addr()
    }

    /// Speaks to its connections and stops it, from anywhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until [`shutdown`](ServerHandle::shutdown), or for ever. Dropped, it stops accepting;
    /// connections go on.
    pub async fn serve(self) {
        let Server { options, registry, phase } = self.server;
        let options = Arc::new(options);
        let tcp = accept_loop(self.incoming, Arc::clone(&options), Arc::clone(&registry), phase.subscribe());
        #[cfg(feature = "http3")]
        if let Some(http3) = self.http3 {
            tokio::join!(tcp, http3.serve(options, registry, phase.subscribe()));
            return;
        }
        tcp.await;
    }
}

/// Speaks to all connections of a server, and ends it.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let server = wireline::Server::new();
/// let everyone = server.handle();
/// // What one says, all hear.
/// let server = server.on_message(move |_, message| {
///     everyone.broadcast(message);
///     async { Ok(()) }
/// });
/// server.listen("127.0.0.1:8080").await
/// # }
/// ```
#[derive(Clone)]
pub struct ServerHandle {
    registry: Arc<Registry>,
    phase: watch::Sender<Phase>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were there when it began, with those that their handler had not accepted yet.
    pub connections: usize,
    /// Those that did not complete the closing handshake: cut at the deadline or at their close timeout,
    /// or lost. A peer that answered and only keeps its socket open is none of them.
    pub cut: usize,
}

impl ServerHandle {
    /// How many connections there are, with those that their handler has not accepted yet.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.registry.len()
    }

    /// How many of them their handler has not accepted yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.registry.pending()
    }

    /// Those that were accepted and are not over.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.registry.links().into_iter().map(Socket::new).collect()
    }

    /// Sends a message to every connection, framed and compressed once, without waiting; how many get it.
    /// A connection does not that is closing, or whose peer reads so slowly that the send cap is reached.
    /// Who wants to treat these otherwise goes through [`sockets`](Self::sockets).
    pub fn broadcast(&self, message: impl Into<Prepared>) -> usize {
        let message = message.into();
        let links = self.registry.links();
        let sent = links.iter().map(|link| link.try_send(Outgoing::from(message.clone())));
        sent.filter(Result::is_ok).count()
    }

    /// Stops accepting, closes every connection with 1001, waits up to `grace` for the closing
    /// handshakes, and cuts what is left. A request that waits for its handler gets a 503, and so does one
    /// that comes meanwhile on a TCP connection that was there before; who accepts such a request then is
    /// told by [`AcceptError::ClientGone`](crate::AcceptError::ClientGone).
    ///
    /// # Cancel safety
    /// Dropped early, what it began goes on, and nothing is cut. Called again, it waits for the rest and
    /// counts from the first call on.
    pub async fn shutdown(&self, grace: Duration) -> Drained {
        self.advance(Phase::Draining);
        self.registry.close_all();
        let emptied = tokio::time::timeout(grace, self.registry.emptied()).await;
        let drained = self.registry.drained();
        if emptied.is_err() {
            self.registry.abort_all();
            self.advance(Phase::Over);
        }
        drained
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_modify(|reached| *reached = phase.max(*reached));
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
