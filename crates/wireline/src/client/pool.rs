//! Connections of HTTP/2 and HTTP/3 that several WebSockets share.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Connect, connect, http2, proxy::ProxyChoice};
use crate::ClientTls;

/// Opens WebSockets that share connections: those to one server over HTTP/2 or HTTP/3 are streams of one
/// connection, which ends with the last of them. A connection takes as many as the server allows, 100 at most; for
/// more there is another one. Over HTTP/1.1 each has its own.
///
/// Each stream has a window of its own (1 MiB): one whose application does not read holds up no other.
///
/// ```no_run
/// # async fn example() -> wireline::Result<()> {
/// let client = wireline::Client::new();
/// let prices = client.connect("wss://example.com/prices").http2().await?;
/// let chat = client.connect("wss://example.com/chat").http2().await?;
/// # Ok(())
/// # }
/// ```
///
/// Its clones share the same connections. Those of other TLS settings, and by way of other proxies, are not shared.
#[derive(Clone, Default)]
pub struct Client {
    pool: Arc<Pool>,
}

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`connect`](crate::connect()), on a connection that is there, if there is one.
    pub fn connect(&self, url: impl Into<String>) -> Connect {
        Connect { pool: Some(Arc::clone(&self.pool)), ..connect(url) }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// The connections of a [`Client`], by where they lead.
#[derive(Default)]
pub(super) struct Pool {
    lanes: Mutex<Vec<(Way, Arc<Lane>)>>,
}

/// The connections that lead one way. Locked while one is looked for or opened, so that those who come at once
/// share it.
pub(super) type Lane = tokio::sync::Mutex<Connections>;

#[derive(Default)]
pub(super) struct Connections {
    pub(super) http2: Vec<http2::WeakConnection>,
    #[cfg(feature = "http3")]
    pub(super) http3: Vec<crate::http3::WeakConnection>,
}

/// Where a connection leads, and how.
pub(super) struct Way {
    pub(super) is_secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<ClientTls>,
    pub(super) unix_socket: Option<PathBuf>,
    pub(super) proxy: ProxyChoice,
}

impl Way {
    fn is(&self, other: &Self) -> bool {
        let is_same_tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => one.is(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        is_same_tls
            && (self.is_secure, self.port) == (other.is_secure, other.port)
            && (&self.host, &self.unix_socket, &self.proxy) == (&other.host, &other.unix_socket, &other.proxy)
    }
}

impl Pool {
    pub(super) fn lane(&self, way: Way) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|(_, lane)| {
            Arc::strong_count(lane) > 1 || lane.try_lock().is_ok_and(|lane| lane.is_used())
        });
        if let Some((_, lane)) = lanes.iter().find(|(known, _)| known.is(&way)) {
            return Arc::clone(lane);
        }
        let lane = Arc::<Lane>::default();
        lanes.push((way, Arc::clone(&lane)));
        lane
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Connections {
    /// One that takes another stream; those that have ended are forgotten.
    pub(super) fn http2_with_room(&mut self) -> Option<http2::Connection> {
        self.http2.retain(|connection| !connection.is_gone());
        self.http2.iter().find_map(http2::WeakConnection::with_room)
    }

    /// All that there are; those that have ended are forgotten.
    #[cfg(feature = "http3")]
    pub(super) fn http3(&mut self) -> Vec<crate::http3::Connection> {
        self.http3.retain(|connection| !connection.is_gone());
        self.http3.iter().filter_map(crate::http3::WeakConnection::upgrade).collect()
    }

    fn is_used(&self) -> bool {
        let http2 = self.http2.iter().any(|connection| !connection.is_gone());
        #[cfg(feature = "http3")]
        let http3 = self.http3.iter().any(|connection| !connection.is_gone());
        #[cfg(not(feature = "http3"))]
        let http3 = false;
        http2 || http3
    }
}
