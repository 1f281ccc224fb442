//! From a host to a connection: its addresses are tried as RFC 8305 has it ("happy eyeballs"), so that one
//! that does not answer costs a quarter of a second and not a connect timeout.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    task::JoinSet,
};

use crate::{ConnectError, transport::unpace};

/// How long an attempt has before the next address is tried beside it (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to a host, by whichever of its addresses answers first.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    race(addresses(host, port).await?, attempt)
        .await
        .map_err(|source| ConnectError::Tcp { address: format!("{host}:{port}"), source })
}

/// A host's addresses, in the order in which to try them.
pub(super) async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = lookup_host((host, port)).await;
    found.map(interleave).map_err(|source| ConnectError::Dns { host: host.to_owned(), source })
}

/// The families take turns, that of the first address first: the system has sorted them (RFC 6724), and where
/// one family leads nowhere, the other comes soon (RFC 8305 section 4).
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.collect();
    let is_first = addresses.first().map(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| Some(address.is_ipv6()) == is_first);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut sorted = Vec::new();
    loop {
        let before = sorted.len();
        sorted.extend(first.next());
        sorted.extend(other.next());
        if sorted.len() == before {
            return sorted;
        }
    }
}

/// The first connection that comes about; the others are given up. The error is that of the first address
/// that failed.
pub(super) async fn race<C, A>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> A) -> io::Result<C>
where
    C: Send + 'static,
    A: Future<Output = io::Result<C>> + Send + 'static,
{
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = None;
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(attempt(address));
        }
        // The next one starts when one has failed, or takes its time.
        let ended = if is_last {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failure = failure.or(Some(error)),
            Some(Err(error)) => failure = failure.or(Some(error.into())),
            None => break,
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address")))
}

async fn attempt(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    if address.ip().is_loopback() {
        unpace(&socket);
    }
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    #[test]
    fn the_families_take_turns() {
        let v4 = |last| SocketAddr::from(([192, 0, 2, last], 80));
        let v6 = |last| SocketAddr::from((Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, last), 80));
        let sorted = interleave([v6(1), v6(2), v6(3), v4(1), v4(2)].into_iter());
        assert_eq!(sorted, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(interleave([v4(1), v4(2), v6(1)].into_iter()), [v4(1), v6(1), v4(2)]);
        assert_eq!(interleave(std::iter::empty()), []);
    }

    /// An address at which nobody answers, neither yes nor no: its backlog is full.
    async fn mute() -> (TcpSocket, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        socket2::SockRef::from(&socket).listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            waiting.push(stream);
        }
        (socket, waiting, address)
    }

    /// An address at which nobody listens.
    async fn closed() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        let (_socket, _waiting, mute) = mute().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let before = Instant::now();
        let stream = race(vec![mute, there], attempt).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        let elapsed = before.elapsed();
        assert!((ATTEMPT_DELAY..ATTEMPT_DELAY * 4).contains(&elapsed), "{elapsed:?}");
    }

    #[tokio::test]
    async fn an_address_that_says_no_costs_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let before = Instant::now();
        let stream = race(vec![closed().await, closed().await, there], attempt).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        assert!(before.elapsed() < ATTEMPT_DELAY);
        let refused = race(vec![closed().await], attempt).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(Vec::new(), attempt).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
