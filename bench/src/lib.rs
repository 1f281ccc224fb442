//! What the servers have in common: where they listen, and for what. What clients do is in [`client`].

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

pub mod client;
pub mod http2;
pub mod tls;

/// Connections that wait to be accepted; Linux allows so many by default.
const BACKLOG: i32 = 4096;

/// The largest message that a server must take.
pub const MAX_MESSAGE_SIZE: usize = 4 << 20;

/// How often, in seconds, a server must look after a silent peer.
pub const KEEPALIVE_SECONDS: u32 = 20;

/// The address that the command line names: a port of this machine.
///
/// # Panics
/// When there is no such argument: a server has nothing else to do then.
#[must_use]
pub fn address() -> SocketAddr {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    (Ipv4Addr::LOCALHOST, port.expect("the first argument is the port to listen on")).into()
}

/// A nonblocking socket that listens on [`address`].
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn listener() -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address().into()).expect("the port is free");
    socket.listen(BACKLOG).expect("the socket listens");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    socket.into()
}

/// What the command line says behind `word`, if it has it.
#[must_use]
pub fn behind(word: &str) -> Option<Vec<String>> {
    let mut args = std::env::args().skip_while(|arg| arg != word);
    args.next()?;
    Some(args.collect())
}

/// A server whose every connection is served by `$serve`, an async function of any stream: over TCP, or over
/// TLS if the command line says so.
#[macro_export]
macro_rules! serve {
    ($serve:path) => {
        match $crate::tls::acceptor() {
            None => $crate::serve($serve),
            Some(acceptor) => $crate::tls::serve(acceptor, $serve),
        }
    };
}

/// Runs `serve` for every connection, on one thread, the way every tokio server here does.
///
/// # Panics
/// When the runtime cannot be built.
pub fn serve<F, S>(serve: F)
where
    F: Fn(TcpStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener()).expect("the listener registers");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            if stream.set_nodelay(true).is_ok() {
                // As their own benchmarks do: without tokio's budget, which only shares out a thread's time.
                tokio::spawn(tokio::task::unconstrained(serve(stream)));
            }
        }
    });
}

/// What all servers compress with when their arguments have `deflate`.
pub mod deflate {
    /// Windows of 4 KiB, each way.
    pub const WINDOW_BITS: u8 = 12;

    /// zlib's default.
    pub const LEVEL: u8 = 6;

    /// What is published: an object of this size, whose entries differ.
    #[must_use]
    pub fn json(size: usize) -> String {
        let mut text = String::from(r#"{"type":"update","items":["#);
        for i in 0_u32.. {
            let id = i.wrapping_mul(2_654_435_761);
            let (number, user, price, cents) = (id % 100_000, id >> 22, id % 1000, id % 64);
            let comma = if i > 0 { "," } else { "" };
            let item = format!(r#"{comma}{{"id":{number},"name":"user{user}","price":{price}.{cents:02}}}"#);
            if text.len() + 80 >= size {
                break;
            }
            text.push_str(&item);
        }
        text.push_str(r#"],"pad":""#);
        text.push_str(&".".repeat(size.saturating_sub(text.len() + 2)));
        text + r#""}"#
    }

    /// Whether this server is to compress.
    #[must_use]
    pub fn is_asked_for() -> bool {
        crate::behind("deflate").is_some()
    }
}
