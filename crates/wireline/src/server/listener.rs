//! Accepting transports, whatever goes wrong with single ones.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Options, Phase, http_connection};
use crate::{registry::Registry, transport::Transport};

/// How long to wait when the system has no more descriptors or memory: long enough for some to come
/// free, short enough that nobody notices.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl Incoming {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(unix)]
            Self::Unix(_) => Err(io::Error::other("a Unix socket has a path, not an address")),
        }
    }

    /// The next transport, and the peer's address if it has one.
    async fn accept(&self) -> io::Result<(Transport, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote_addr) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Transport::Tcp(stream), Some(remote_addr)))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok((Transport::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Accepts until told to stop. No error ends it.
pub(super) async fn accept_loop(
    incoming: Incoming,
    options: Arc<Options>,
    registry: Arc<Registry>,
    mut phase: watch::Receiver<Phase>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
            accepted = incoming.accept() => accepted,
        };
        match accepted {
            Ok((transport, remote_addr)) => {
                tokio::spawn(http_connection::serve(
                    transport,
                    remote_addr,
                    Arc::clone(&options),
                    Arc::clone(&registry),
                    phase.clone(),
                ));
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; trying again");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}
