//! For the tests of applications: a client and a server in memory, without sockets, under virtual time.
//! With the feature `testing`, which belongs among the `dev-dependencies`.
//!
//! Everything is real but the network: the opening handshake, the frames, the limits, the timers. The timers
//! are tokio's, so a test with `start_paused = true` (tokio's feature `test-util`) has virtual time: it stands
//! still while there is something to do, and jumps to the next deadline when there is not. What takes minutes
//! is tested in milliseconds, and comes out the same every time.
//!
//! # Two connected ends
//!
//! ```
//! #[tokio::main(flavor = "current_thread", start_paused = true)] // in a test: #[tokio::test(start_paused = true)]
//! async fn main() -> wireline::Result<()> {
//!     let (mut client, server) = wireline::testing::pair().await;
//!     server.send("hello").await?;
//!     assert_eq!(client.recv().await?, Some("hello".into()));
//!     Ok(())
//! }
//! ```
//!
//! # A server's handlers
//!
//! ```
//! use wireline::{Request, Server, testing};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> wireline::Result<()> {
//! let server = Server::new().route("/chat/{room}", |req: Request| async move {
//!     let greeting = format!("welcome to {}", req.param("room").unwrap_or_default());
//!     req.accept().protocol("chat").await?.send(greeting).await?;
//!     Ok(())
//! });
//! let mut ws = testing::connect(&server, "ws://test.example/chat/tea").protocols(["chat"]).await?;
//! assert_eq!(ws.recv().await?, Some("welcome to tea".into()));
//! assert_eq!(ws.recv().await?, None);
//! assert_eq!(ws.closed().await.code, 1000);
//! # Ok(())
//! # }
//! ```
//!
//! # A network that fails
//!
//! ```
//! use std::time::Duration;
//!
//! use tokio::time::Instant;
//! use wireline::{CloseCause, Config, testing::Network};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> wireline::Result<()> {
//! let network = Network::new();
//! network.set_latency(Duration::from_millis(40));
//! let (mut client, _server) = network.pair(Config::client(), Config::server()).await;
//! assert_eq!(client.ping().await?, Duration::from_millis(80));
//!
//! // Somebody trips over the cable. Nobody is told: keepalive finds out.
//! network.stall();
//! let before = Instant::now();
//! let lost = client.recv().await.unwrap_err();
//! assert!(matches!(lost.close_event().cause, Some(CloseCause::PingTimeout)));
//! assert!(before.elapsed() <= Duration::from_secs(45)); // none of which anybody waited for
//! # Ok(())
//! # }
//! ```

mod network;

use crate::{Config, Connect, Server, WebSocket};

pub use self::network::Network;

/// A client and a server, in this order, that are connected by a [`Network`] without faults, and have the
/// default limits and timers. [`Network::pair`] takes others.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn pair() -> (WebSocket, WebSocket) {
    Network::new().pair(Config::client(), Config::server()).await
}

/// A client that is to be connected to `server` by a [`Network`] without faults: [`Network::connect`].
///
/// # Panics
/// Outside a tokio runtime.
pub fn connect(server: &Server, url: impl Into<String>) -> Connect {
    Network::new().connect(server, url)
}
